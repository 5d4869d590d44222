//! The table of reasons in `docs/policy.md`. A test compares; `cargo xtask docs` rewrites.

use super::DenyReason;
use std::sync::{Mutex, PoisonError};

const BEGIN: &str = "<!-- reasons: made by policy/src/decide/docs.rs, `cargo xtask docs` -->\n";
const END: &str = "<!-- /reasons -->";

/// What a reason means to who reads it, and what to look at first.
fn row(reason: DenyReason) -> (&'static str, &'static str) {
    match reason {
        DenyReason::NoAuthorizations => (
            "nothing authorizes anybody here",
            "write an AuthorizationPolicy for the Server or route",
        ),
        DenyReason::NotHttp => (
            "the port takes HTTP only, and the connection is something else",
            "set the Server's `proxyProtocol` to `opaque`, or correct the client",
        ),
        DenyReason::NoRoute => (
            "the request's route is gone from the policy that is in force now",
            "nothing, if routes were just changed: the next request finds its new route",
        ),
        DenyReason::Network => (
            "the client's address is in no authorized network",
            "the `networks` and `except` of the NetworkAuthentication",
        ),
        DenyReason::NoTls => (
            "the client came without TLS, and its address would be right",
            "whether the client has a sidecar, and whether that took the connection",
        ),
        DenyReason::TlsPassthrough => (
            "the client's TLS is for the application, not for the proxy: it proves nothing here",
            "authorize by network, or let the client's sidecar do the TLS",
        ),
        DenyReason::NoIdentity => (
            "mesh TLS without a client certificate",
            "whether the client's sidecar is certified: its `/ready`",
        ),
        DenyReason::Identity => (
            "the client proved who it is, and is not among those wanted",
            "the `identities` and `identityRefs` of the MeshTLSAuthentication",
        ),
    }
}

fn table() -> String {
    let mut text = String::from("| Reason | Means | Look at |\n|---|---|---|\n");
    for reason in DenyReason::ALL {
        let (means, look) = row(reason);
        text.push_str(&format!("| `{}` | {means} | {look} |\n", reason.as_str()));
    }
    text
}

/// Tests of one page write it one after another.
static PAGE: Mutex<()> = Mutex::new(());

/// Compares what stands between two marks in `docs/policy.md` with `table`, or writes it there if that is asked for.
#[track_caller]
pub(crate) fn policy_page_has(table: &str, begin: &str, end: &str) {
    let _turn = PAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(begin).expect("the mark of the beginning");
    let (kept, after) = rest.split_once(end).expect("the mark of the end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{begin}{table}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(kept, table, "run cargo xtask docs");
}

#[test]
fn docs_list_every_reason_of_a_denial() {
    policy_page_has(&table(), BEGIN, END);
}
