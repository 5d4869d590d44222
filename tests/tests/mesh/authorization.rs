//! Who is let in, and what those are told who are not.

use crate::harness::{Mesh, eventually, get, identity, one_http2};
use crate::origin;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};

/// A Server on the workload's port, with more fields.
pub(crate) fn server(fields: &str) -> String {
    format!(
        "apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {{name: web-http, namespace: shop, labels: {{tier: web}}}}
spec: {{port: http, externalWorkloadSelector: {{matchLabels: {{app: web}}}}, {fields}}}
"
    )
}

/// An AuthorizationPolicy for a Server or route with one kind of authentication.
pub(crate) fn authorize(name: &str, kind: &str, target: &str, authentication: &str) -> String {
    let (auth_kind, spec) = authentication.split_once(' ').unwrap();
    format!(
        "---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRef: {{group: policy.linkerd.io, kind: {kind}, name: {target}}}
  requiredAuthenticationRefs: [{{group: policy.linkerd.io, kind: {auth_kind}, name: {name}}}]
---
apiVersion: policy.linkerd.io/v1alpha1
kind: {auth_kind}
metadata: {{name: {name}, namespace: shop}}
spec: {spec}
"
    )
}

/// Only this identity may use the port.
pub(crate) fn only(id: &str) -> String {
    let clients = format!("MeshTLSAuthentication {{identities: ['{id}']}}");
    server("proxyProtocol: unknown") + &authorize("clients", "Server", "web-http", &clients)
}

#[tokio::test]
async fn an_allowed_identity_is_served_and_named_to_the_application() {
    let mesh = Mesh::start(&only(&identity("api"))).await;
    let _origin = origin::echo(mesh.origin()).await;
    let response = mesh.send(&mesh.client("api"), get("/hello")).await;
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body);
    assert!(
        text.contains(&format!("l5d-client-id: {}", identity("api"))),
        "{text}"
    );
    let labels = [
        r#"direction="inbound""#,
        r#"tls="true""#,
        r#"authz_name="clients""#,
    ];
    assert!((mesh.metric("request_total", &labels).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_denied_client_gets_403_and_only_mesh_clients_the_reason() {
    let mesh = Mesh::start(&only(&identity("api"))).await;
    let _origin = origin::echo(mesh.origin()).await;
    let response = mesh.send(&mesh.client("evil"), get("/")).await;
    assert_eq!(response.status(), 403);
    let text = response.headers()["l5d-proxy-error"].to_str().unwrap();
    assert!(
        text.contains("unauthorized request on route") && text.contains("evil"),
        "{text}"
    );

    let response = mesh.send_plain(5, get("/")).await;
    assert_eq!(response.status(), 403);
    assert!(!response.headers().contains_key("l5d-proxy-error"));

    let (_, denials) = mesh.get_admin("/denials").await.unwrap();
    assert!(
        denials.contains("identity") && denials.contains("no_tls"),
        "{denials}"
    );
    for reason in ["identity", "no_tls"] {
        let count = mesh
            .metric(
                "inbound_policy_denied_total",
                &[&format!(r#"reason="{reason}""#)],
            )
            .await;
        assert!((count - 1.0).abs() < f64::EPSILON, "{reason}: {count}");
    }
    let question = format!(
        "/policy/explain?port=8080&client={}&path=/",
        identity("evil")
    );
    let (_, why) = mesh.get_admin(&question).await.unwrap();
    assert!(why.contains("DENIED") && why.contains("clients"), "{why}");
}

#[tokio::test]
async fn wildcards_mean_dns_suffixes_and_everybody() {
    let mesh = Mesh::start(&only(
        "*.shop.serviceaccount.identity.linkerd.cluster.local",
    ))
    .await;
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(mesh.send(&mesh.client("any"), get("/")).await.status(), 200);
    let stranger = mesh.client_as("x.other.serviceaccount.identity.linkerd.cluster.local");
    assert_eq!(mesh.send(&stranger, get("/")).await.status(), 403);
}

#[tokio::test]
async fn networks_count_without_their_exceptions() {
    let mesh = Mesh::without_proxy("");
    let net = mesh.ip(0);
    let except = mesh.ip(9);
    let networks =
        format!("NetworkAuthentication {{networks: [{{cidr: {net}/24, except: [{except}/32]}}]}}");
    let policy =
        server("proxyProtocol: HTTP/1") + &authorize("near", "Server", "web-http", &networks);
    let mut mesh = mesh;
    mesh.write("policy.yaml", &policy);
    mesh.start_controller();
    mesh.spawn_proxy(&[]);
    mesh.ready().await;
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 200);
    assert_eq!(mesh.send_plain(9, get("/")).await.status(), 403);
}

#[tokio::test]
async fn each_default_policy_does_what_its_name_says() {
    let mut mesh = Mesh::without_proxy("");
    // The cluster's networks are this test's, without host 9.
    mesh.config.cluster.cluster_networks = vec![format!("{}/29", mesh.ip(0)).parse().unwrap()];
    mesh.write("policy.yaml", &server("accessPolicy: all-unauthenticated"));
    mesh.start_controller();
    mesh.spawn_proxy(&[]);
    mesh.ready().await;
    let _origin = origin::echo(mesh.origin()).await;
    let client = mesh.client("api");
    for (policy, meshed, near, far) in [
        ("all-unauthenticated", 200, 200, 200),
        ("all-authenticated", 200, 403, 403),
        ("cluster-unauthenticated", 200, 200, 403),
        ("cluster-authenticated", 200, 403, 403),
        ("audit", 200, 200, 200),
        ("deny", 403, 403, 403),
    ] {
        mesh.write("policy.yaml", &server(&format!("accessPolicy: {policy}")));
        let want = [meshed, near, far];
        let mut seen = [0; 3];
        eventually(policy, async || {
            seen = [
                mesh.send(&client, get("/")).await.status().as_u16(),
                mesh.send_plain(5, get("/")).await.status().as_u16(),
                mesh.send_plain(9, get("/")).await.status().as_u16(),
            ];
            (seen == want).then_some(())
        })
        .await;
    }
}

const ROUTES: &str = "---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: read, namespace: shop}
spec:
  parentRefs: [{group: policy.linkerd.io, kind: Server, name: web-http}]
  rules: [{matches: [{path: {type: PathPrefix, value: /items}, method: GET}]}]
---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: write, namespace: shop}
spec:
  parentRefs: [{group: policy.linkerd.io, kind: Server, name: web-http}]
  rules: [{matches: [{path: {type: PathPrefix, value: /items}, method: POST, headers: [{name: x-reason, value: restock}]}]}]
";

#[tokio::test]
async fn routes_are_authorized_by_path_method_and_header() {
    let reader = format!(
        "MeshTLSAuthentication {{identities: ['{}']}}",
        identity("reader")
    );
    let writer = format!(
        "MeshTLSAuthentication {{identities: ['{}']}}",
        identity("writer")
    );
    let policy = server("proxyProtocol: HTTP/1")
        + ROUTES
        + &authorize("readers", "HTTPRoute", "read", &reader)
        + &authorize("writers", "HTTPRoute", "write", &writer);
    let mesh = Mesh::start(&policy).await;
    let _origin = origin::echo(mesh.origin()).await;
    let (reader, writer) = (mesh.client("reader"), mesh.client("writer"));
    let post = |reason: &str| {
        let request = Request::post("/items/1")
            .header("host", "web")
            .header("x-reason", reason);
        request.body(Full::<Bytes>::default()).unwrap()
    };
    assert_eq!(
        mesh.send(&reader, get("/items/1?page=2")).await.status(),
        200
    );
    assert_eq!(mesh.send(&writer, get("/items/1")).await.status(), 403);
    assert_eq!(mesh.send(&writer, post("restock")).await.status(), 200);
    assert_eq!(mesh.send(&reader, post("restock")).await.status(), 403);
    assert_eq!(mesh.send(&writer, post("theft")).await.status(), 404);
    assert_eq!(mesh.send(&reader, get("/itemsandmore")).await.status(), 404);
    let not_found = mesh.metric("inbound_http_route_not_found_total", &[]).await;
    assert!((not_found - 2.0).abs() < f64::EPSILON);
    for path in [
        "/items/../admin",
        "/items/%2e%2e/admin",
        "/items/..%2fadmin",
        // For many applications these are `/items`, whose route they would get around.
        "//items",
        "/items;v=1",
    ] {
        assert_eq!(mesh.send(&reader, get(path)).await.status(), 400, "{path}");
    }
}

#[tokio::test]
async fn a_grpc_client_is_denied_in_grpc() {
    let mesh = Mesh::start(&only(&identity("api"))).await;
    let _origin = origin::echo(mesh.origin()).await;
    let request =
        Request::post("http://web/shop.Cart/Add").header("content-type", "application/grpc");
    let stream = mesh.connect_tls(&mesh.client("evil")).await;
    let response = one_http2(stream, request.body(Full::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "7");
    assert!(response.headers().contains_key("grpc-message"));
}

#[tokio::test]
async fn a_rate_limit_answers_429_and_counts() {
    let policy = server("accessPolicy: all-unauthenticated, proxyProtocol: HTTP/1")
        + "---
apiVersion: policy.linkerd.io/v1alpha1
kind: HTTPLocalRateLimitPolicy
metadata: {name: slow, namespace: shop}
spec: {targetRef: {group: policy.linkerd.io, kind: Server, name: web-http}, total: {requestsPerSecond: 1}}
";
    let mesh = Mesh::start(&policy).await;
    let _origin = origin::echo(mesh.origin()).await;
    let mut limited = 0;
    for _ in 0..20 {
        limited += u32::from(mesh.send_plain(5, get("/")).await.status() == 429);
    }
    assert!(limited >= 10, "{limited} of 20");
    let counted = mesh
        .metric(
            "inbound_http_local_ratelimit_total",
            &[r#"ratelimit_name="slow""#],
        )
        .await;
    assert!((counted - f64::from(limited)).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_certificate_of_another_mesh_is_refused_with_its_reason() {
    let mesh = Mesh::start(&only(&identity("api"))).await;
    let other = Mesh::without_proxy("");
    let stranger = other.client("api");
    // The client trusts only its own mesh, and says so; the server sees the alert.
    assert!(
        mesh.connect_tls_to(mesh.web(), &stranger, None)
            .await
            .is_err()
    );
    eventually("a counted handshake failure", async || {
        (mesh
            .metric("inbound_tls_handshake_failures_total", &[])
            .await
            > 0.0)
            .then_some(())
    })
    .await;
}
