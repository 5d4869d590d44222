//! Prints the table as `docs/metrics.md`. A test compares; `UPDATE_DOCS=1 cargo test -p linkerd-metrics` rewrites.

use std::fmt::Write as _;

use super::{Desc, Idle, Kind, LABELS, Origin, PARTS};

/// The metrics reference: all families and labels, in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    for (title, table) in PARTS {
        let _ = write!(page, "\n## {title}\n\n{HEADER}");
        for (desc, comment) in table {
            row(&mut page, desc, comment);
        }
    }
    page.push_str("\n## Labels\n\n| Label | Meaning |\n|---|---|\n");
    for label in LABELS {
        let _ = writeln!(page, "| `{}` | {} |", label.name, cell(label.help));
    }
    page
}

const HEADER: &str = "| Name | Type | Labels | What |\n|---|---|---|---|\n";

fn row(page: &mut String, desc: &Desc, comment: &str) {
    let origin = match desc.origin {
        Origin::Peer => "",
        Origin::Ours => " +",
    };
    let kept = match desc.idle {
        Idle::Evict => "",
        Idle::Keep => " (kept)",
    };
    let buckets = match desc.kind {
        Kind::Counter | Kind::Gauge => String::new(),
        Kind::Histogram { buckets, latency } => {
            let bounds: Vec<String> = buckets.iter().map(f64::to_string).collect();
            let note = if latency { " (configurable)" } else { "" };
            format!(" {}{note}", bounds.join(" "))
        }
    };
    let labels: Vec<String> = desc.label_names().map(|name| format!("`{name}`")).collect();
    let _ = writeln!(
        page,
        "| `{}`{origin} | {}{buckets} | {}{kept} | {}{} |",
        desc.name,
        desc.kind.as_str(),
        labels.join(" "),
        cell(desc.help),
        cell(comment),
    );
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// What stands above the tables.
const INTRODUCTION: &str = include_str!("introduction.md");
