//! Traffic that leaves the mesh under an EgressNetwork, and connections under a TCPRoute.

use crate::{
    harness::{eventually, one_http1, one_http2, within},
    origin,
    outbound::{Client, pod, service, text, why},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Where port 9003 of the sidecar goes: an address outside the mesh.
const OUTSIDE: u8 = 40;

fn egress(policy: &str, routes: &str) -> String {
    format!(
        "apiVersion: policy.linkerd.io/v1alpha1
kind: EgressNetwork
metadata: {{name: outside, namespace: shop}}
spec: {{trafficPolicy: {policy}, networks: [{{cidr: 127.0.0.0/8}}]}}
---
{routes}"
    )
}

fn egress_route(kind: &str, version: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}
kind: {kind}
metadata: {{name: leave, namespace: shop}}
spec:
  parentRefs: [{{group: policy.linkerd.io, kind: EgressNetwork, name: outside, port: 8080}}]
{spec}
---
"
    )
}

/// A client for which loopback is outside the cluster: an EgressNetwork that takes in the cluster's networks is none.
async fn outside(policy: &str) -> Client {
    Client::start_with("", 0, policy, &[], |config| {
        let networks = &mut config.cluster.cluster_networks;
        networks.retain(|network| !network.addr().is_loopback());
    })
    .await
}

async fn ask(client: &Client, host: &str) -> Response<Incoming> {
    let request = Request::get("/").header("host", host);
    let request = request.body(Full::default()).unwrap();
    one_http1(client.connect(9003).await, request)
        .await
        .unwrap()
}

fn call(host: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://{host}/shop.Catalog/List"))
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap()
}

/// Sends bytes that are no HTTP, and reads to the end.
async fn bytes(client: &Client, port: u16) -> Vec<u8> {
    let mut stream = client.connect(port).await;
    stream
        .write_all(b"\x00\x01\x02 not HTTP \r\n\r\n")
        .await
        .unwrap();
    let mut seen = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut seen)).await;
    seen
}

#[tokio::test]
async fn where_leaving_is_denied_only_what_a_route_names_leaves() {
    let refs = "  hostnames: [allowed.example]
  rules: [{matches: [{path: {value: /}}], backendRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: outside}]}]";
    let client = outside(&egress("Deny", &egress_route("HTTPRoute", "v1", refs))).await;
    let _outside = origin::echo(client.at(OUTSIDE)).await;
    let allowed = ask(&client, "allowed.example").await;
    assert_eq!(allowed.status(), 200, "{}", why(&allowed));
    assert!(text(allowed).await.contains("host: allowed.example"));
    let denied = ask(&client, "other.example").await;
    assert_eq!(denied.status(), 403);
    assert!(
        why(&denied).ends_with("traffic not allowed"),
        "{}",
        why(&denied)
    );
    let denied = one_http2(client.connect(9003).await, call("other.example"))
        .await
        .unwrap();
    // A failure that policy injects is FAILED_PRECONDITION, unless the policy is a gRPC one.
    assert_eq!(
        (denied.status().as_u16(), &denied.headers()["grpc-status"]),
        (200, &"9".parse().unwrap())
    );
    assert_eq!(bytes(&client, 9003).await, b"");
    let closed = [
        r#"error="forbidden""#,
        r#"parent_kind="EgressNetwork""#,
        r#"route_name="tcp-egress-deny""#,
    ];
    eventually("the count", async || {
        let count = client
            .mesh
            .metric("outbound_tcp_route_close_total", &closed)
            .await;
        (count > 0.5).then_some(())
    })
    .await;
    for (route, status) in [("leave", "200"), ("http-egress-deny", "403")] {
        let labels = [
            r#"parent_group="policy.linkerd.io""#,
            r#"parent_kind="EgressNetwork""#,
            r#"parent_name="outside""#,
            &format!("route_name=\"{route}\""),
            &format!("http_status=\"{status}\""),
        ];
        let count = client
            .mesh
            .metric("outbound_http_route_request_statuses_total", &labels)
            .await;
        assert!(count > 0.5, "{labels:?}");
    }
}

#[tokio::test]
async fn calls_that_may_not_leave_are_told_so_in_their_own_terms() {
    let refs = "  hostnames: [allowed.example]
  rules: [{matches: [{method: {service: shop.Catalog}}], backendRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: outside}]}]";
    let client = outside(&egress("Deny", &egress_route("GRPCRoute", "v1", refs))).await;
    let _outside = origin::echo(client.at(OUTSIDE)).await;
    let allowed = one_http2(client.connect(9003).await, call("allowed.example"))
        .await
        .unwrap();
    assert!(text(allowed).await.contains("/shop.Catalog/List"));
    let denied = one_http2(client.connect(9003).await, call("other.example"))
        .await
        .unwrap();
    assert_eq!(denied.headers()["grpc-status"], "7");
    assert!(
        why(&denied).ends_with("traffic not allowed"),
        "{}",
        why(&denied)
    );
}

#[tokio::test]
async fn where_leaving_is_allowed_everything_leaves_as_it_is() {
    let client = outside(&egress("Allow", "")).await;
    let first = origin::echo(client.at(OUTSIDE)).await;
    let response = ask(&client, "any.example").await;
    assert_eq!(response.status(), 200, "{}", why(&response));
    let labels = [
        r#"parent_kind="EgressNetwork""#,
        r#"route_name="http-egress-allow""#,
    ];
    let count = client
        .mesh
        .metric("outbound_http_route_request_statuses_total", &labels)
        .await;
    assert!((count - 1.0).abs() < f64::EPSILON, "{count}");
    first.stop().await;
    let _outside = origin::scripted(client.at(OUTSIDE), b"", b"\r\n\r\n", b"heard").await;
    assert_eq!(bytes(&client, 9003).await, b"heard");
    let labels = [
        r#"parent_kind="EgressNetwork""#,
        r#"route_name="tcp-egress-allow""#,
    ];
    let count = client
        .mesh
        .metric("outbound_tcp_route_open_total", &labels)
        .await;
    assert!((count - 1.0).abs() < f64::EPSILON, "{count}");
}

#[tokio::test]
async fn connections_are_shared_out_by_weight_and_one_to_a_backend_that_does_not_exist_is_closed() {
    let route = "apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{group: core, kind: Service, name: catalog}]
  rules:
  - backendRefs:
    - {name: catalog, port: 80, weight: 5}
    - {name: other, port: 80, weight: 3}
    - {name: nowhere, port: 80, weight: 2}
---
";
    let client = Client::start("", 1, &(route.to_owned() + &service("other", "")), &[]).await;
    client
        .mesh
        .write("other.yaml", &pod("other-0", "other", client.mesh.ip(30)));
    let _catalog = origin::scripted(client.at(10), b"", b"\r\n\r\n", b"catalog").await;
    let _other = origin::scripted(client.at(30), b"", b"\r\n\r\n", b"other").await;
    eventually("both backends", async || {
        (bytes(&client, 9000).await == b"other").then_some(())
    })
    .await;
    let mut counts = [0u32; 3];
    for _ in 0..1000 {
        let at = match bytes(&client, 9000).await.as_slice() {
            b"catalog" => 0,
            b"other" => 1,
            b"" => 2,
            other => panic!("{other:?}"),
        };
        counts[at] += 1;
    }
    let chi: f64 = [500.0, 300.0, 200.0]
        .iter()
        .zip(counts)
        .map(|(want, got)| (f64::from(got) - want).powi(2) / want)
        .sum();
    // Two degrees of freedom: above this once in a million.
    assert!(chi < 27.6, "{counts:?}: {chi}");
    let closed = [
        r#"error="invalid_backend""#,
        r#"route_kind="TCPRoute""#,
        r#"route_name="split""#,
    ];
    let count = client
        .mesh
        .metric("outbound_tcp_route_close_total", &closed)
        .await;
    assert!(count >= f64::from(counts[2]), "{count}, {counts:?}");
}
