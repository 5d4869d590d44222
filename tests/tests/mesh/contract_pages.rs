//! The labels of the contract's older families, and of the control plane's clients, as a sidecar's page has them.

use crate::{
    harness::eventually,
    outbound::{Client, app, status, text},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The labels of each family of a page in their order, and those that one line has together.
fn keys(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, _)) = line.rsplit_once(' ') else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let is_part = ["_bucket", "_sum"].iter().any(|end| name.ends_with(end));
        if is_part {
            continue;
        }
        let name = name.strip_suffix("_count").unwrap_or(name);
        let names = labels
            .split("=\"")
            .map(|part| part.rsplit(['"', ',']).next().unwrap_or(part));
        let mut names: Vec<&str> = names.collect();
        names.pop();
        keys.entry(name.to_owned())
            .or_default()
            .insert(names.join(" "));
    }
    keys
}

const PROFILE: &str = "apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: catalog.shop.svc.cluster.local, namespace: shop}
spec:
  routes: [{name: flaky, condition: {pathRegex: /.*}, isRetryable: true}]
  retryBudget: {retryRatio: 0.0, minRetriesPerSecond: 1, ttl: 1s}
---
";

/// A family, and the labels that its series may have; the longest set must be seen.
type Family = (&'static str, &'static [&'static str]);

const FAMILIES: [Family; 14] = [
    ("control_request_total", &["CLIENT"]),
    (
        "control_response_total",
        // Without an answer there is no status.
        &["CLIENT RESPONSE", "CLIENT classification grpc_status error"],
    ),
    ("control_response_latency_ms", &["CLIENT status_code"]),
    ("stack_create_total", &["direction protocol name"]),
    ("stack_drop_total", &["direction protocol name"]),
    ("route_request_total", &["ROUTE"]),
    ("route_response_total", &["ROUTE RESPONSE"]),
    ("route_response_latency_ms", &["ROUTE status_code"]),
    ("route_actual_request_total", &["ROUTE"]),
    ("route_actual_response_total", &["ROUTE RESPONSE"]),
    ("route_retryable_total", &["ROUTE", "ROUTE skipped"]),
    ("opentelemetry_span_export_streams", &[""]),
    ("opentelemetry_span_export_requests", &[""]),
    ("opentelemetry_span_exports", &[""]),
];

fn long(labels: &str) -> String {
    let labels = labels.replace("CLIENT", "addr tls no_tls_reason");
    let response = "status_code classification grpc_status error";
    let labels = labels.replace("RESPONSE", response);
    labels.replace("ROUTE", "direction dst rt_route")
}

#[tokio::test]
async fn older_families_and_those_of_the_control_planes_clients_have_the_labels_of_the_contract() {
    let collector = [("TRACE_COLLECTOR_SVC_ADDR", "127.0.0.1:1")];
    let mut client = Client::start("", 1, PROFILE, &collector).await;
    let calls = AtomicUsize::new(0);
    let _app = app(client.at(10), move |_| {
        status(if calls.fetch_add(1, Ordering::Relaxed) < 50 {
            500
        } else {
            200
        })
    })
    .await;
    eventually("retries that the budget does not allow", async || {
        text(client.get(9000, "/").await).await;
        let skipped = [r#"skipped="no_budget""#];
        (client.mesh.metric("route_retryable_total", &skipped).await > 0.5).then_some(())
    })
    .await;
    // Streams are counted at their ends.
    client.mesh.stop_controller();
    eventually("the streams' ends", async || {
        (client.mesh.metric("control_response_total", &[]).await > 0.5).then_some(())
    })
    .await;
    let (_, page) = client.mesh.get_admin("/metrics").await.unwrap();
    let keys = keys(&page);
    for (family, wanted) in FAMILIES {
        let found = keys
            .get(family)
            .unwrap_or_else(|| panic!("{family} is missing"));
        let wanted: BTreeSet<String> = wanted.iter().map(|labels| long(labels)).collect();
        // Requests that no route of a profile takes are counted without one.
        let without = wanted.iter().map(|keys| keys.replace(" rt_route", ""));
        let known: BTreeSet<String> = without.chain(wanted.clone()).collect();
        assert!(found.is_subset(&known), "{family}: {found:?}");
        let full = wanted.iter().max_by_key(|keys| keys.len()).unwrap();
        assert!(found.contains(full), "{family}: {found:?}");
    }
    // All of them, from the start.
    let stacks = page
        .lines()
        .filter(|line| line.starts_with("stack_create_total{"));
    let stacks = stacks.filter(|line| line.contains(r#"direction="outbound""#));
    assert_eq!(
        stacks.count(),
        9,
        "http, opaq and tls by forward, endpoint and balance"
    );
}

#[tokio::test]
async fn names_of_the_control_plane_that_are_looked_up_are_counted() {
    let nowhere = [
        ("DESTINATION_SVC_ADDR", "nobody.invalid:8086"),
        (
            "DESTINATION_SVC_NAME",
            "destination.linkerd.serviceaccount.identity.linkerd.cluster.local",
        ),
        ("OUTBOUND_DISCOVERY_TIMEOUT", "100ms"),
    ];
    let client = Client::start("", 1, "", &nowhere).await;
    let label =
        |kind| format!("{{client=\"destination\",record_type=\"{kind}\",result=\"not_found\"}}");
    let page = eventually("a look-up", async || {
        client.get(9000, "/").await;
        let (_, page) = client.mesh.get_admin("/metrics").await?;
        let is_counted = ["SRV", "A/AAAA"]
            .iter()
            .all(|kind| page.contains(&label(kind)));
        is_counted.then_some(page)
    })
    .await;
    let found = &keys(&page)["control_dns_resolutions_total"];
    assert_eq!(
        *found,
        BTreeSet::from(["client record_type result".to_owned()])
    );
}

#[tokio::test]
async fn each_client_of_the_control_plane_has_the_series_of_its_balancer() {
    let collector = [("TRACE_COLLECTOR_SVC_ADDR", "127.0.0.1:1")];
    let client = Client::start("", 1, "", &collector).await;
    let _app = app(client.at(10), |_| status(200)).await;
    assert_eq!(client.status(9000).await, 200);
    let (_, page) = client.mesh.get_admin("/metrics").await.unwrap();
    let keys = keys(&page);
    for of in [
        "control_destination",
        "control_policy",
        "control_identity",
        "opentelemetry",
    ] {
        for (name, wanted) in [
            ("endpoints", "endpoint_state addr"),
            ("p2c_endpoints", "addr"),
            ("p2c_updates_total", "op addr"),
            ("queue_length", "addr"),
            ("queue_requests_total", "addr"),
            ("queue_latency_seconds", "addr"),
            ("queue_gate_open_total", "addr"),
            ("queue_gate_shut_total", "addr"),
            ("queue_gate_open_time_seconds", "addr"),
            ("queue_gate_shut_time_seconds", "addr"),
            ("queue_gate_timeout_seconds", "addr"),
        ] {
            let name = format!("{of}_balancer_{name}");
            let found = keys
                .get(&name)
                .unwrap_or_else(|| panic!("{name} is missing"));
            // The address of the control plane is one of a loopback: one endpoint.
            assert_eq!(*found, BTreeSet::from([wanted.to_owned()]), "{name}");
        }
    }
    for of in ["control_destination", "control_policy"] {
        let ready = format!("{of}_balancer_endpoints");
        let ready = client.mesh.metric(&ready, &["\"ready\""]).await;
        assert!((ready - 1.0).abs() < f64::EPSILON, "{of}: {ready}");
    }
}
