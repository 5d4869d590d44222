//! The tables of `docs/injection.md`. A test compares; `cargo xtask docs` rewrites.

use super::{annotations::ANNOTATIONS, decide::Skip};
use std::fmt::Write as _;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/injection.md");

fn annotations() -> String {
    let mut text = String::from("| Annotation | Takes | Effect | Inherited |\n|---|---|---|---|\n");
    for row in ANNOTATIONS {
        let inherited = if row.is_inherited { "yes" } else { "no" };
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {inherited} |",
            row.key, row.takes, row.effect
        );
    }
    text
}

fn reasons() -> String {
    let mut text = String::from("| `skip_reason` | Means |\n|---|---|\n");
    for skip in Skip::ALL {
        let _ = writeln!(text, "| `{}` | {skip} |", skip.key());
    }
    text
}

#[test]
fn docs_injection_md_is_what_the_tables_say() {
    let page = std::fs::read_to_string(PATH).unwrap();
    let mut new = page.clone();
    for (name, table) in [("annotations", annotations()), ("reasons", reasons())] {
        let begin =
            format!("<!-- {name}: made by controller/src/inject/docs.rs, `cargo xtask docs` -->\n");
        let end = format!("<!-- /{name} -->");
        let (before, rest) = new.split_once(&begin).expect("the mark of the beginning");
        let (_, after) = rest.split_once(&end).expect("the mark of the end");
        new = format!("{before}{begin}{table}{end}{after}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, new).unwrap();
        return;
    }
    assert_eq!(page, new, "run cargo xtask docs");
}
