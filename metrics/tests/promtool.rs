//! The classic page against `promtool check metrics` (Debian package `prometheus`).

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};

use linkerd_metrics::Format;

/// What `promtool` says about names that are the peer's and stay. Nothing else may be said.
const REMARKS: [&str; 11] = [
    "control_response_latency_ms metric names should not contain abbreviated units",
    "endpoint_profile_updates_queue_overflow counter metrics should have \"_total\" suffix",
    "endpoint_updates_queue_overflow counter metrics should have \"_total\" suffix",
    "endpoints_updates counter metrics should have \"_total\" suffix",
    "opentelemetry_span_export_requests counter metrics should have \"_total\" suffix",
    "opentelemetry_span_export_streams counter metrics should have \"_total\" suffix",
    "opentelemetry_span_exports counter metrics should have \"_total\" suffix",
    "profile_updates counter metrics should have \"_total\" suffix",
    "profile_updates_queue_overflow counter metrics should have \"_total\" suffix",
    "response_latency_ms metric names should not contain abbreviated units",
    "route_response_latency_ms metric names should not contain abbreviated units",
];

#[test]
fn promtool_remarks_only_on_names_that_are_the_peers() {
    if common::missing("promtool") {
        return;
    }
    let registry = common::registry_with_every_family(false);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let page = registry.encode(Format::Text);
    promtool.stdin.take().unwrap().write_all(&page).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    let remarks: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(remarks, REMARKS);
}
