//! Variables that turn the inbound side the other way: each one seen from a client.

use crate::{
    authorization::server,
    harness::{Mesh, eventually, get, within},
    origin,
};
use linkerd2_proxy_api::destination::{
    DestinationProfile, GetDestination, Update,
    destination_server::{Destination, DestinationServer},
};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status};

/// A sidecar whose policy controller nobody has started.
async fn without_policy(variables: &[(&str, &str)]) -> Mesh {
    let mut mesh = Mesh::without_proxy("");
    mesh.start_controller();
    let nobody = std::net::SocketAddr::new(mesh.ip(9), 8090).to_string();
    let variables = [&[("POLICY_SVC_ADDR", &*nobody)], variables].concat();
    mesh.spawn_proxy(&variables);
    mesh
}

async fn raw(mesh: &Mesh, request: &[u8]) -> String {
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn without_a_wait_the_default_policy_counts_at_once() {
    // Who waited for the policy would get its answer long after the test has given up.
    let variables = [
        ("POLICY_WAIT_TIMEOUT", "0"),
        ("INBOUND_DEFAULT_POLICY", "deny"),
    ];
    let mesh = without_policy(&variables).await;
    mesh.ready().await;
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 403);
    let variables = [
        ("POLICY_WAIT_TIMEOUT", "0"),
        ("INBOUND_DEFAULT_POLICY", "all-unauthenticated"),
    ];
    let mesh = without_policy(&variables).await;
    mesh.ready().await;
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 200);
}

#[tokio::test]
async fn fail_closed_means_that_nobody_is_let_in_without_a_policy() {
    let variables = [
        ("POLICY_WAIT_TIMEOUT", "0"),
        ("POLICY_FAIL_CLOSED", "true"),
        ("INBOUND_DEFAULT_POLICY", "all-unauthenticated"),
    ];
    let mesh = without_policy(&variables).await;
    mesh.ready().await;
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 403);
    let answer = raw(&mesh, b"\x00 not HTTP at all\r\n").await;
    assert_eq!(answer, "", "nor bytes");
}

#[tokio::test]
async fn paths_pass_as_they_came_where_that_is_asked_for() {
    let policy = server("accessPolicy: all-unauthenticated, proxyProtocol: HTTP/1")
        + "---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: items, namespace: shop}
spec:
  parentRefs: [{group: policy.linkerd.io, kind: Server, name: web-http}]
  rules: [{matches: [{path: {type: PathPrefix, value: /items}}]}]
";
    let mesh = Mesh::start_with(&policy, &[("INBOUND_PATH_NORMALIZATION", "pass")]).await;
    let _origin = origin::echo(mesh.origin()).await;
    for path in ["/items/../admin", "/items/a%2fb", "/items//x;v=1"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
        let answer = raw(&mesh, request.as_bytes()).await;
        let said = format!("HTTP/1.1 GET {path}\n");
        assert!(answer.contains(&said), "{path}: {answer}");
    }
    let other = b"GET //items HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    let answer = raw(&mesh, other).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn what_the_audit_policy_lets_through_is_counted_and_logged_once_a_minute() {
    let mesh = Mesh::start(&server("accessPolicy: audit")).await;
    let _origin = origin::echo(mesh.origin()).await;
    for _ in 0..5 {
        assert_eq!(mesh.send_plain(5, get("/")).await.status(), 200);
    }
    let client = mesh.client("api");
    for _ in 0..3 {
        assert_eq!(mesh.send(&client, get("/")).await.status(), 200);
    }
    let audit = [r#"authz_name="audit""#, "web-http"];
    for name in ["inbound_http_authz_allow_total", "request_total"] {
        let allowed = mesh.metric(name, &audit).await;
        assert!((allowed - 8.0).abs() < f64::EPSILON, "{name}: {allowed}");
    }
    let lines = eventually("a line for each kind of client", async || {
        let log = mesh.said();
        let lines = log.lines().filter(|line| line.contains("Request allowed"));
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        (lines.len() >= 2).then_some(lines)
    })
    .await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        assert!(line.contains(r#"authz.name="audit""#), "{line}");
        assert!(line.contains(r#"server.name="web-http""#), "{line}");
    }
    assert!(lines[1].contains("api.shop"), "{lines:?}");
    let suppressed = [r#"reason="audit""#];
    let suppressed = mesh
        .metric("proxy_log_lines_suppressed_total", &suppressed)
        .await;
    assert!((suppressed - 6.0).abs() < f64::EPSILON, "{suppressed}");
}

/// A destination service that counts what it is asked.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicUsize>);

#[tonic::async_trait]
impl Destination for Counting {
    type GetStream = Pin<Box<dyn Stream<Item = Result<Update, Status>> + Send>>;
    type GetProfileStream = Pin<Box<dyn Stream<Item = Result<DestinationProfile, Status>> + Send>>;

    async fn get(&self, _: Request<GetDestination>) -> Result<Response<Self::GetStream>, Status> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(Status::not_found("nothing"))
    }

    async fn get_profile(
        &self,
        _: Request<GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(Status::not_found("nothing"))
    }
}

#[tokio::test]
async fn names_that_clients_choose_open_nothing() {
    let asked = Counting::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = tonic::transport::Server::builder()
        .add_service(DestinationServer::new(asked.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let service = tokio::spawn(service);
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &[("DESTINATION_SVC_ADDR", &address)]).await;
    let _origin = origin::echo(mesh.origin()).await;
    let client = mesh.client("api");
    let series = async || {
        let (_, page) = mesh.get_admin("/metrics").await.unwrap();
        page.lines().filter(|line| !line.starts_with('#')).count()
    };
    let mut before = 0;
    for n in 0..100 {
        let mut request = get("/");
        let name = format!("name-{n}.shop.svc.cluster.local");
        let headers = request.headers_mut();
        headers.insert("host", name.parse().unwrap());
        headers.insert("l5d-dst-canonical", format!("{name}:80").parse().unwrap());
        assert_eq!(mesh.send(&client, request).await.status(), 200);
        if n == 1 {
            // To ask for the page has series of its own.
            series().await;
            before = series().await;
        }
    }
    assert_eq!(
        asked.0.load(Ordering::Relaxed),
        0,
        "nobody is asked about them"
    );
    let after = series().await;
    assert!(after < before + 10, "{before} series, then {after}");
    let open = mesh.metric("tcp_open_total", &[r#"peer="dst""#]).await;
    assert!(
        (open - 1.0).abs() < f64::EPSILON,
        "{open} connections to the application"
    );
    service.abort();
}
