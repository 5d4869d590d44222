//! The table of checks in `docs/policy.md`. A test compares; `cargo xtask docs` rewrites.

use super::CHECKS;

const BEGIN: &str = "<!-- checks: made by policy/src/lint/docs.rs, `cargo xtask docs` -->\n";
const END: &str = "<!-- /checks -->";

fn table() -> String {
    let mut text = String::from("| Check | Finds |\n|---|---|\n");
    for (check, what) in CHECKS {
        text.push_str(&format!("| `{check}` | {what} |\n"));
    }
    text
}

#[test]
fn docs_list_every_check() {
    crate::decide::docs::policy_page_has(&table(), BEGIN, END);
}
