//! The table is consistent with itself, and the reference with the table.

use std::collections::BTreeSet;
use std::{env, fs};

use super::*;

#[test]
fn every_family_has_a_name_of_its_own_that_prometheus_accepts() {
    let mut seen = BTreeSet::new();
    for desc in all() {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(desc.name.chars().all(valid), "{}", desc.name);
        assert!(
            seen.insert(desc.name),
            "{} stands twice in the table",
            desc.name
        );
    }
    assert!(seen.len() > 80, "the table is not whole: {}", seen.len());
}

#[test]
fn names_follow_the_conventions_except_those_of_the_peer() {
    for desc in all() {
        let unit = desc.unit.as_str();
        let name = desc.name.strip_suffix("_total").unwrap_or(desc.name);
        assert!(name.ends_with(unit), "{} is not in {unit}", desc.name);
        if desc.origin == Origin::Ours {
            let total = desc.name.ends_with("_total");
            assert_eq!(total, desc.kind == Kind::Counter, "{}", desc.name);
            assert_eq!(desc.style, Style::Modern, "{}", desc.name);
        }
    }
}

#[test]
fn help_is_one_sentence_that_needs_no_escaping() {
    for desc in all() {
        assert!(desc.help.ends_with('.'), "{}", desc.name);
        assert!(!desc.help.contains(['\\', '\n', '"']), "{}", desc.name);
    }
}

#[test]
fn buckets_ascend() {
    for desc in all() {
        if let Kind::Histogram { buckets, .. } = desc.kind {
            assert!(buckets.is_sorted_by(|a, b| a < b), "{}", desc.name);
        }
    }
}

#[test]
fn labels_are_described_once_and_all_of_them_are_used() {
    let described: Vec<&str> = LABELS.iter().map(|label| label.name).collect();
    let used: BTreeSet<&str> = all().flat_map(Desc::label_names).collect();
    assert_eq!(described.iter().copied().collect::<BTreeSet<_>>(), used);
    assert_eq!(described.len(), used.len(), "a label is described twice");
    for desc in all() {
        let names: BTreeSet<&str> = desc.label_names().collect();
        assert_eq!(
            names.len(),
            desc.label_names().count(),
            "{} repeats a label",
            desc.name
        );
        assert!(!desc.allows("le"), "{}: le belongs to buckets", desc.name);
    }
}

#[test]
fn a_family_with_labels_that_clients_choose_evicts_idle_series() {
    for desc in all() {
        let chosen = |name| !matches!(labels::source(name), Source::Fixed);
        let unbounded = desc.label_names().any(chosen);
        assert_eq!(unbounded, desc.idle == Idle::Evict, "{}", desc.name);
    }
}

#[test]
fn docs_metrics_md_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let expected = markdown();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, &expected).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == expected,
        "run UPDATE_DOCS=1 cargo test -p linkerd-metrics"
    );
}
