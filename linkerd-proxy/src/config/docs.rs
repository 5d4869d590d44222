//! `docs/configuration.md`, made from the table of variables. A test compares; `UPDATE_DOCS=1` rewrites.

use super::{
    PREFIX,
    vars::{Origin, VARS, Var, WITHOUT_EFFECT},
};
use std::fmt::Write;

/// The configuration reference, as Markdown.
pub fn reference() -> String {
    let mut text = format!(
        "# Configuration reference\n\n\
         <!-- Made from linkerd-proxy/src/config/vars.rs: UPDATE_DOCS=1 cargo test -p linkerd-proxy config:: -->\n\n\
         `linkerd-proxy` takes no arguments; it reads these environment variables once, at start. Every name has the\n\
         prefix `{PREFIX}`, which is left out below. Every bad value is reported in one message, with the name, the\n\
         value and what would be right, and the process exits with code 64. An unknown name with the prefix is warned of.\n\n\
         Unset and empty differ: an empty value is parsed like any other. Values of variables marked *no effect yet* are\n\
         checked, and kept for what is to come.\n\n\
         | Origin | Meaning |\n|---|---|\n\
         | injected | set by the injector of the control plane's chart |\n\
         | known | known to other proxies of the mesh, set by hand if at all |\n\
         | ours | only this proxy reads it |\n"
    );
    let mut section = "";
    for var in VARS.iter().filter(|var| var.origin != Origin::Ignored) {
        if var.section != section {
            section = var.section;
            let _ = write!(
                text,
                "\n## {section}\n\n| Variable | Type | Default | Origin | Meaning |\n|---|---|---|---|---|\n"
            );
        }
        row(&mut text, var);
    }
    text.push_str("\n## Accepted and ignored\n\n| Variable | Why |\n|---|---|\n");
    for var in VARS.iter().filter(|var| var.origin == Origin::Ignored) {
        let _ = writeln!(text, "| `{}` | {} |", var.name, var.doc);
    }
    syntax(&mut text);
    text.push_str(ADMIN);
    text
}

/// What the admin server answers, and whom.
const ADMIN: &str = "
## Pages of the admin server

`ADMIN_LISTEN_ADDR` speaks HTTP/1 and HTTP/2, in plaintext and over mesh TLS. Every page but the probes is under the
inbound policy of the admin port, request by request. Beyond that:

| Path | Methods | Who | Answer |
|---|---|---|---|
| `/live` | any | everybody, whatever the policy | 200 `live` |
| `/ready` | any | everybody, whatever the policy | 200 `ready`, or 503 `not ready` with the reason in `l5d-proxy-error` |
| `/metrics` | any | whom policy admits | classic text, OpenMetrics or protobuf, by `Accept`; gzip |
| `/policy` | GET, HEAD | this host; `ADMIN_POLICY` | what is enforced now, for each port: server, routes, authorizations, version, age, source, the last refused update |
| `/policy/explain` | GET, HEAD | this host; `ADMIN_POLICY` | the decision about a client and why: `?port=8080&client=IDENTITY&ip=ADDRESS&tls=mesh&method=GET&host=NAME&path=/x&header=NAME:VALUE`; only `port` is needed, `ip` is 192.0.2.1 if left out |
| `/denials` | GET, HEAD | this host; `ADMIN_POLICY` | each distinct recent denial, with a count |
| `/outbound` | GET, HEAD | this host; `ADMIN_POLICY` | what is known of outbound destinations: version, age, source, routes, mutual TLS; each balancer's endpoints with state, weight, zone and load |
| `/retries` | GET, HEAD | whom policy admits | retries by destination and route: how many, what share, why, whether they helped, what is left of the budget |
| `/proxy-log-level` | GET, PUT | this host | the log filter; PUT replaces it |
| `/env.json` | GET | this host; `ADMIN_ENV_JSON` | the environment; `?A&B` selects |
| `/shutdown` | POST | this host; `SHUTDOWN_ENDPOINT_ENABLED` | begins the drain |

`/policy`, `/policy/explain`, `/denials`, `/outbound` and `/retries` are JSON for clients whose `Accept` names it, else text.

Ready means: there is a certificate that has not expired; each port of `INBOUND_PORTS` (and the admin port) has its
policy, or `POLICY_WAIT_TIMEOUT` is over (never, with `READY_REQUIRES_POLICY`); and connections are accepted, which in
a drain they are for `SHUTDOWN_DRAIN_WINDOW`. The gauge `inbound_policy_info` says by `source` where the policy in force
comes from: `controller`, `default`, or `invalid`, where the only policy so far cannot be used and nothing is allowed.
";

fn row(text: &mut String, var: &Var) {
    let default = match var.default {
        None => "-".to_owned(),
        Some("") => "empty".to_owned(),
        Some(default) => format!("`{default}`"),
    };
    let origin = match var.origin {
        Origin::Injected => "injected",
        Origin::Known => "known",
        Origin::Ours => "ours",
        Origin::Ignored => "ignored",
    };
    let effect = if WITHOUT_EFFECT.contains(&var.name) {
        " **No effect yet.**"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "| `{}` | {} | {default} | {origin} | {}{effect} |",
        var.name,
        var.syntax.label(),
        var.doc
    );
}

/// What each type of value looks like.
fn syntax(text: &mut String) {
    text.push_str("\n## Types\n\n| Type | Give |\n|---|---|\n");
    let mut seen = Vec::new();
    for var in VARS {
        let label = var.syntax.label();
        if label.contains('`') || seen.contains(&label) {
            continue;
        }
        let _ = writeln!(text, "| {label} | {} |", var.syntax.right());
        seen.push(label);
    }
}
