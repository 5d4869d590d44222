//! The outbound families of the contract with dashboards (its §17), written down a second time: names, types, labels in
//! their order, buckets. That pages show what the table of families says is for `outbound_telemetry`; that the table is
//! the contract is for here.

use linkerd_metrics::describe::{self, Desc, Kind, Origin, Style};
use std::collections::BTreeSet;

const PARENT: &str =
    "parent_group parent_kind parent_namespace parent_name parent_port parent_section_name";
const ROUTE: &str = "route_group route_kind route_namespace route_name";
const BACKEND: &str =
    "backend_group backend_kind backend_namespace backend_name backend_port backend_section_name";

/// A family: name, type (with buckets), labels.
type Family = (&'static str, &'static str, &'static str);

/// §17.2 and §17.3: names that both directions or all proxies have. What labels each side has is seen on pages.
const LEGACY: [Family; 25] = [
    ("request_total", "counter", ""),
    ("response_total", "counter", ""),
    (
        "response_latency_ms",
        "histogram 1 2 3 4 5 10 20 30 40 50 100 200 300 400 500 1000 2000 3000 4000 5000 10000 20000 30000 40000 50000",
        "",
    ),
    ("route_request_total", "counter", "direction dst rt_*"),
    (
        "route_response_total",
        "counter",
        "direction dst rt_* status_code classification grpc_status error",
    ),
    (
        "route_response_latency_ms",
        "histogram 1 2 3 4 5 10 20 30 40 50 100 200 300 400 500 1000 2000 3000 4000 5000 10000 20000 30000 40000 50000",
        "direction dst rt_* status_code",
    ),
    (
        "route_actual_request_total",
        "counter",
        "direction dst rt_*",
    ),
    (
        "route_actual_response_total",
        "counter",
        "direction dst rt_* status_code classification grpc_status error",
    ),
    (
        "route_retryable_total",
        "counter",
        "direction dst rt_* skipped",
    ),
    ("outbound_http_errors_total", "counter", "error"),
    (
        "outbound_tcp_errors_total",
        "counter",
        "target_addr target_ip target_port error",
    ),
    ("tcp_open_total", "counter", ""),
    ("tcp_open_connections", "gauge", ""),
    ("tcp_read_bytes_total", "counter", ""),
    ("tcp_write_bytes_total", "counter", ""),
    ("tcp_close_total", "counter", ""),
    (
        "control_request_total",
        "counter",
        "addr tls server_id no_tls_reason",
    ),
    (
        "control_response_total",
        "counter",
        "addr tls server_id no_tls_reason status_code classification grpc_status error",
    ),
    (
        "control_response_latency_ms",
        "histogram 1 2 3 4 5 10 20 30 40 50 100 200 300 400 500 1000 2000 3000 4000 5000 10000 20000 30000 40000 50000",
        "addr tls server_id no_tls_reason status_code",
    ),
    ("stack_create_total", "counter", "direction protocol name"),
    ("stack_drop_total", "counter", "direction protocol name"),
    ("opentelemetry_span_export_streams", "counter", ""),
    ("opentelemetry_span_export_requests", "counter", ""),
    ("opentelemetry_span_exports", "counter", ""),
    (
        "control_dns_resolutions_total",
        "counter",
        "client record_type result",
    ),
];

/// §17.4, for `http` and `grpc`; `S` is the label of the status.
const ROUTES: [Family; 11] = [
    (
        "request_duration_seconds",
        "histogram 0.05 0.5 1 10",
        "PARENT ROUTE hostname",
    ),
    (
        "request_statuses_total",
        "counter",
        "PARENT ROUTE hostname S error",
    ),
    (
        "request_frame_size_bytes",
        "histogram 128 1024 10240",
        "PARENT ROUTE hostname",
    ),
    ("retry_requests_total", "counter", "PARENT ROUTE hostname"),
    ("retry_successes_total", "counter", "PARENT ROUTE hostname"),
    (
        "retry_limit_exceeded_total",
        "counter",
        "PARENT ROUTE hostname",
    ),
    ("retry_overflow_total", "counter", "PARENT ROUTE hostname"),
    ("backend_requests_total", "counter", "PARENT ROUTE BACKEND"),
    (
        "backend_response_duration_seconds",
        "histogram 0.025 0.05 0.1 0.25 0.5 1 10",
        "PARENT ROUTE BACKEND",
    ),
    (
        "backend_response_statuses_total",
        "counter",
        "PARENT ROUTE BACKEND S error",
    ),
    (
        "backend_response_frame_size_bytes",
        "histogram 128 1024 10240",
        "PARENT ROUTE BACKEND",
    ),
];

/// §17.5, for `http`, `tcp` and `tls`; `B` are the labels of the balancer.
const BALANCERS: [Family; 11] = [
    ("endpoints", "gauge", "endpoint_state B"),
    ("p2c_endpoints", "gauge", "B"),
    ("p2c_updates_total", "counter", "op B"),
    ("queue_length", "gauge", "B"),
    ("queue_requests_total", "counter", "B"),
    (
        "queue_latency_seconds",
        "histogram 0.0005 0.005 0.05 0.5 1 3",
        "B",
    ),
    ("queue_gate_open_total", "counter", "B"),
    ("queue_gate_shut_total", "counter", "B"),
    ("queue_gate_open_time_seconds", "gauge", "B"),
    ("queue_gate_shut_time_seconds", "gauge", "B"),
    ("queue_gate_timeout_seconds", "gauge", "B"),
];

/// §17.3: what has balancers of its own.
const CLIENTS: [&str; 4] = [
    "control_destination",
    "control_policy",
    "control_identity",
    "opentelemetry",
];

/// §17.6.
const CONNECTIONS: [Family; 8] = [
    (
        "outbound_tcp_protocol_connections_total",
        "counter",
        "protocol PARENT",
    ),
    (
        "outbound_tcp_detect_http_duration_seconds",
        "histogram 0.001 0.1",
        "PARENT",
    ),
    (
        "outbound_tcp_detect_http_results_total",
        "counter",
        "result PARENT",
    ),
    (
        "outbound_tcp_route_open_total",
        "counter",
        "PARENT ROUTE target_ip target_port",
    ),
    (
        "outbound_tcp_route_close_total",
        "counter",
        "PARENT ROUTE target_ip target_port error",
    ),
    (
        "outbound_tls_route_open_total",
        "counter",
        "PARENT ROUTE hostname",
    ),
    (
        "outbound_tls_route_close_total",
        "counter",
        "PARENT ROUTE hostname error",
    ),
    (
        "outbound_tcp_transfer_cost_bytes_total",
        "counter",
        "op zone_locality",
    ),
];

/// The contract, without shorthand: name, type, labels, and whether the name is of the older kind.
fn contract() -> Vec<(String, String, String, bool)> {
    let long = |labels: &str| {
        let words = labels.split(' ').map(|word| match word {
            "PARENT" => PARENT,
            "ROUTE" => ROUTE,
            "BACKEND" => BACKEND,
            word => word,
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let mut all = Vec::new();
    let mut add = |name: String, kind: &str, labels: &str, is_legacy| {
        all.push((name, kind.to_owned(), long(labels), is_legacy));
    };
    for (name, kind, labels) in LEGACY {
        // The last is the only one here of the newer kind.
        add(
            name.to_owned(),
            kind,
            labels,
            name != "control_dns_resolutions_total",
        );
    }
    for protocol in ["http", "grpc"] {
        for (name, kind, labels) in ROUTES {
            let labels = labels.replace(" S ", &format!(" {protocol}_status "));
            add(
                format!("outbound_{protocol}_route_{name}"),
                kind,
                &labels,
                false,
            );
        }
    }
    for (protocol, own) in [
        ("http", "PARENT BACKEND"),
        ("tcp", "PARENT BACKEND logical concrete"),
        ("tls", "concrete"),
    ] {
        for (name, kind, labels) in BALANCERS {
            let labels = match labels.strip_suffix('B') {
                Some(first) => format!("{first}{own}"),
                None => labels.to_owned(),
            };
            add(
                format!("outbound_{protocol}_balancer_{name}"),
                kind,
                &labels,
                false,
            );
        }
    }
    for client in CLIENTS {
        for (name, kind, labels) in BALANCERS {
            let labels = labels.replace('B', "addr");
            add(format!("{client}_balancer_{name}"), kind, &labels, false);
        }
    }
    for (name, kind, labels) in CONNECTIONS {
        add(name.to_owned(), kind, labels, false);
    }
    all
}

/// The type of a family, and its buckets.
pub(crate) fn kind(desc: &Desc) -> String {
    let mut text = desc.kind.as_str().to_owned();
    if let Kind::Histogram { buckets, .. } = desc.kind {
        for bound in buckets {
            text.push_str(&format!(" {bound}"));
        }
    }
    text
}

/// Sizes of the control plane's indices, whose names begin as those of a sidecar's families do.
pub(crate) fn is_of_an_index(name: &str) -> bool {
    name.ends_with("_index_size")
}

#[test]
fn every_outbound_family_of_the_contract_has_its_name_type_labels_and_buckets() {
    let mut known = BTreeSet::new();
    for (name, wanted, labels, is_legacy) in contract() {
        let desc = describe::all().find(|desc| desc.name == name);
        let desc = desc.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(desc.origin, Origin::Peer, "{name}");
        assert_eq!(kind(desc), wanted, "{name}");
        assert_eq!(desc.style == Style::Legacy, is_legacy, "{name}");
        if !labels.is_empty() {
            let found: Vec<&str> = desc.label_names().collect();
            assert_eq!(found.join(" "), labels, "{name}");
        }
        known.insert(name);
    }
    let others: Vec<&str> = describe::all()
        .filter(|desc| desc.origin == Origin::Peer && desc.name.starts_with("outbound_"))
        .map(|desc| desc.name)
        .filter(|name| !known.contains(*name) && !is_of_an_index(name))
        .collect();
    assert_eq!(
        others,
        Vec::<&str>::new(),
        "called the peer's, and not of the contract"
    );
}

/// What the contract has, and pages have not.
const ABSENT: [&str; 2] = ["stack_poll_total", "stack_poll_total_ms"];

#[test]
fn what_the_contract_has_and_pages_have_not_is_said_on_the_page_of_compatibility() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md");
    let page = std::fs::read_to_string(page).unwrap();
    for family in ABSENT {
        let built = describe::all().find(|desc| desc.name == family);
        assert!(built.is_none(), "{family} is not absent any more");
    }
    let rows = page
        .lines()
        .skip_while(|line| !line.starts_with("| Families | Why |"));
    let rows: Vec<&str> = rows
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    let cells = rows.iter().filter_map(|row| row.split('|').nth(1));
    let named: BTreeSet<&str> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    assert_eq!(named, BTreeSet::from(ABSENT));
}
