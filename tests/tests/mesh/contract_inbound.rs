//! The inbound families of the contract with dashboards (its §7.2 to §7.4), written down a second time: names, types,
//! labels in their order, buckets; and that a sidecar's page shows them so.

use crate::{
    authorization::server,
    contract::{is_of_an_index, kind},
    harness::{Mesh, get, one_http2},
    origin,
};
use http::Request;
use http_body_util::Full;
use linkerd_metrics::describe::{self, Origin, Style};

const TGT: &str = "target_addr target_ip target_port";
const SRV: &str = "srv_group srv_kind srv_name srv_port";
const TLS: &str = "tls client_id sni no_tls_reason";
const RT: &str = "route_group route_kind route_name";
const AZ: &str = "authz_group authz_kind authz_name";
const PAR: &str =
    "parent_group parent_kind parent_name parent_port route_group route_kind route_name";
const MILLISECONDS: &str = "1 2 3 4 5 10 20 30 40 50 100 200 300 400 500 1000 2000 3000 4000 5000 10000 20000 30000 40000 50000";

/// A family: name, type (with buckets), labels; and whether it is of the older kind.
type Family = (&'static str, &'static str, &'static str, bool);

const FAMILIES: [Family; 35] = [
    (
        "inbound_http_authz_allow_total",
        "counter",
        "TGT SRV RT AZ TLS",
        true,
    ),
    (
        "inbound_http_authz_deny_total",
        "counter",
        "TGT SRV RT TLS",
        true,
    ),
    (
        "inbound_http_route_not_found_total",
        "counter",
        "TGT SRV TLS",
        true,
    ),
    (
        "inbound_http_local_ratelimit_total",
        "counter",
        "TGT SRV ratelimit_group ratelimit_kind ratelimit_name ratelimit_scope TLS",
        true,
    ),
    (
        "inbound_tcp_authz_allow_total",
        "counter",
        "TGT SRV AZ TLS",
        true,
    ),
    (
        "inbound_tcp_authz_deny_total",
        "counter",
        "TGT SRV TLS",
        true,
    ),
    (
        "inbound_tcp_authz_terminate_total",
        "counter",
        "TGT SRV TLS",
        true,
    ),
    (
        "inbound_http_errors_total",
        "counter",
        "error TGT SRV",
        true,
    ),
    ("inbound_tcp_errors_total", "counter", "error TGT", true),
    ("request_total", "counter", "", true),
    ("response_total", "counter", "", true),
    ("response_latency_ms", "histogram MS", "", true),
    ("tcp_open_total", "counter", "", true),
    ("tcp_open_connections", "gauge", "", true),
    ("tcp_read_bytes_total", "counter", "", true),
    ("tcp_write_bytes_total", "counter", "", true),
    ("tcp_close_total", "counter", "", true),
    ("inbound_http_requests_total", "counter", "PAR", false),
    ("inbound_grpc_requests_total", "counter", "PAR", false),
    (
        "inbound_http_statuses_total",
        "counter",
        "PAR status",
        false,
    ),
    (
        "inbound_grpc_statuses_total",
        "counter",
        "PAR status",
        false,
    ),
    (
        "inbound_http_request_duration_seconds",
        "histogram 0.025 0.05 0.1 0.25 0.5 1 10",
        "PAR",
        false,
    ),
    (
        "inbound_grpc_request_duration_seconds",
        "histogram 0.025 0.05 0.1 0.25 0.5 1 10",
        "PAR",
        false,
    ),
    (
        "inbound_http_response_duration_seconds",
        "histogram 0.05 0.5 1 10",
        "PAR",
        false,
    ),
    (
        "inbound_grpc_response_duration_seconds",
        "histogram 0.05 0.5 1 10",
        "PAR",
        false,
    ),
    (
        "inbound_http_request_frame_size_bytes",
        "histogram 128 1024 10240",
        "PAR",
        false,
    ),
    (
        "inbound_grpc_request_frame_size_bytes",
        "histogram 128 1024 10240",
        "PAR",
        false,
    ),
    (
        "inbound_http_response_frame_size_bytes",
        "histogram 128 1024 10240",
        "PAR",
        false,
    ),
    (
        "inbound_grpc_response_frame_size_bytes",
        "histogram 128 1024 10240",
        "PAR",
        false,
    ),
    (
        "inbound_tcp_detect_http_duration_seconds",
        "histogram 0.001 0.1",
        "SRV",
        false,
    ),
    (
        "inbound_tcp_detect_http_results_total",
        "counter",
        "result SRV",
        false,
    ),
    (
        "inbound_tcp_transport_header_connections_total",
        "counter",
        "session_protocol target_port target_name client_id",
        false,
    ),
    (
        "control_identity_cert_expiration_timestamp_seconds",
        "gauge",
        "",
        false,
    ),
    (
        "control_identity_cert_refresh_timestamp_seconds",
        "gauge",
        "",
        false,
    ),
    (
        "control_identity_cert_refreshes_total",
        "counter",
        "result",
        false,
    ),
];

/// Without shorthand.
fn long(labels: &str) -> String {
    let words = labels.split(' ').map(|word| match word {
        "TGT" => TGT,
        "SRV" => SRV,
        "TLS" => TLS,
        "RT" => RT,
        "AZ" => AZ,
        "PAR" => PAR,
        "MS" => MILLISECONDS,
        word => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn every_inbound_family_of_the_contract_has_its_name_type_labels_and_buckets() {
    for (name, wanted, labels, is_legacy) in FAMILIES {
        let desc = describe::all().find(|desc| desc.name == name);
        let desc = desc.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(desc.origin, Origin::Peer, "{name}");
        assert_eq!(kind(desc), long(wanted), "{name}");
        assert_eq!(desc.style == Style::Legacy, is_legacy, "{name}");
        if !labels.is_empty() {
            let found: Vec<&str> = desc.label_names().collect();
            assert_eq!(found.join(" "), long(labels), "{name}");
        }
    }
    let others = describe::all()
        .filter(|desc| desc.origin == Origin::Peer && desc.name.starts_with("inbound_"))
        .map(|desc| desc.name)
        .filter(|name| !FAMILIES.iter().any(|(known, ..)| known == name))
        .filter(|name| !is_of_an_index(name));
    assert_eq!(
        others.collect::<Vec<_>>(),
        Vec::<&str>::new(),
        "called the peer's, and not of the contract"
    );
}

/// The names of the labels of a family's first series that has this text in it, in their order.
fn labels(page: &str, name: &str, with: &str) -> String {
    let line = page.lines().find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('{')) && line.contains(with)
    });
    let line = line.unwrap_or_else(|| panic!("no {name} with {with}"));
    let (inside, _) = line[name.len() + 1..].rsplit_once('}').unwrap();
    // Values of this test have no commas.
    let names = inside
        .split(',')
        .map(|label| label.split('=').next().unwrap());
    names.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_page_shows_the_series_of_a_port_and_of_the_admin_server_with_the_labels_of_the_contract()
{
    let mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let _origin = origin::echo(mesh.origin()).await;
    let response = mesh.send(&mesh.client("api"), get("/")).await;
    http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap();
    let stream = mesh.connect_from(5, mesh.web()).await;
    let request = Request::post("http://web/a.B/C").header("content-type", "application/grpc");
    let response = one_http2(stream, request.body(Full::default()).unwrap()).await;
    http_body_util::BodyExt::collect(response.unwrap().into_body())
        .await
        .unwrap();
    mesh.get_admin("/live").await.unwrap();
    mesh.get_admin("/policy").await.unwrap();
    let (_, page) = mesh.get_admin("/metrics").await.unwrap();
    let route = "direction TGT CLIENT SRV RT AZ";
    let ended = format!("{route} status_code classification grpc_status error");
    let series = |name: &str, with: &str, client: &str, wanted: &str| {
        let wanted = long(&wanted.replace("CLIENT", client));
        assert_eq!(labels(&page, name, with), wanted, "{name} {with}");
    };
    let admin = r#"target_port="4191""#;
    for (with, client) in [
        (r#"client_id="api"#, "tls client_id"),
        (r#"grpc_status="2""#, "tls no_tls_reason"),
        (admin, "tls no_tls_reason"),
    ] {
        series("response_total", with, client, &ended);
    }
    for with in [r#"target_port="8080""#, admin] {
        let client = if with == admin {
            "tls no_tls_reason"
        } else {
            "tls client_id"
        };
        let with = if with == admin {
            admin
        } else {
            r#"tls="true""#
        };
        series("request_total", with, client, route);
        let latency = format!("{route} status_code");
        series("response_latency_ms_count", with, client, &latency);
        let source = "direction peer TGT CLIENT SRV";
        for name in [
            "tcp_open_total",
            "tcp_open_connections",
            "tcp_read_bytes_total",
            "tcp_write_bytes_total",
        ] {
            series(name, with, client, source);
        }
        series("tcp_close_total", with, client, &format!("{source} errno"));
    }
    // Probes are permitted by a route and an authorization of their own.
    let probe = r#"route_name="probe",authz_group="",authz_kind="default",authz_name="probe""#;
    series("request_total", probe, "tls no_tls_reason", route);
    for port in ["8080", "4191"] {
        let of_port = format!(r#"srv_port="{port}""#);
        series(
            "inbound_tcp_detect_http_results_total",
            &of_port,
            "",
            "result SRV",
        );
        series(
            "inbound_tcp_detect_http_duration_seconds_count",
            &of_port,
            "",
            "SRV",
        );
    }
    series(
        "inbound_http_statuses_total",
        r#"status="200""#,
        "",
        "PAR status",
    );
}
