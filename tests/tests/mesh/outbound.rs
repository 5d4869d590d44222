//! The outbound side through the real sidecar: an application calls a Service by a listener of its sidecar, and the
//! policy comes from manifests.

use crate::{
    harness::{LIMIT, Mesh, eventually, get, one_http1, one_http2, within},
    origin,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    hash::{DefaultHasher, Hasher as _},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// An application that answers as a function says. Ends with the test.
pub(crate) struct App(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for App {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) async fn app(
    address: SocketAddr,
    answer: impl Fn(Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
) -> App {
    let listener = TcpListener::bind(address).await.unwrap();
    let answer = Arc::new(answer);
    App(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer.clone();
                    async move { Ok::<_, Infallible>(answer(request)) }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    }))
}

/// An application that always answers with this status, and how often it did.
pub(crate) async fn counted(address: SocketAddr, code: u16) -> (App, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let app = app(address, move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        status(code)
    })
    .await;
    (app, calls)
}

/// A route of TLS to the Service `other`.
pub(crate) const TLS_ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {name: secure, namespace: shop}
spec:
  parentRefs: [{group: core, kind: Service, name: other}]
  rules: [{backendRefs: [{name: other, port: 80}]}]
---
";

pub(crate) fn status(code: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{code}")));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

/// A Pod outside the mesh, ready, of the application `app`.
pub(crate) fn pod(name: &str, app: &str, ip: IpAddr) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}
spec: {{containers: [{{name: app, ports: [{{containerPort: 8080}}]}}]}}
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}
---
"
    )
}

pub(crate) fn service(name: &str, annotations: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
"
    )
}

/// A sidecar whose application reaches `catalog` at port 9000 of its address, and whose other listeners `more` names.
pub(crate) struct Client {
    pub(crate) mesh: Mesh,
}

impl Client {
    /// `catalog`: annotations of the Service. `pods`: how many there are, at hosts 10 and up.
    pub(crate) async fn start(
        catalog: &str,
        pods: u8,
        policy: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        Self::start_with(catalog, pods, policy, variables, |_| {}).await
    }

    /// The same with the control plane configured otherwise.
    pub(crate) async fn start_with(
        catalog: &str,
        pods: u8,
        policy: &str,
        variables: &[(&str, &str)],
        configure: impl FnOnce(&mut linkerd_controller::Config),
    ) -> Self {
        let mut mesh = Mesh::without_proxy("");
        configure(&mut mesh.config);
        let mut text = service("catalog", catalog);
        for host in 0..pods {
            text.push_str(&pod(
                &format!("catalog-{host}"),
                "catalog",
                mesh.ip(10 + host),
            ));
        }
        mesh.write("catalog.yaml", &(text + policy));
        mesh.start_controller();
        let listeners = format!(
            "{0}:9000=catalog.shop.svc.cluster.local:80,{0}:9001=web.shop.svc.cluster.local:80,{0}:9002=other.shop.svc.cluster.local:80,{0}:9003={1}:8080",
            mesh.ip(2),
            mesh.ip(40),
        );
        let variables = [&[("OUTBOUND_LISTENERS", listeners.as_str())], variables].concat();
        mesh.spawn_proxy(&variables);
        mesh.ready().await;
        Self { mesh }
    }

    pub(crate) fn at(&self, host: u8) -> SocketAddr {
        SocketAddr::new(self.mesh.ip(host), 8080)
    }

    pub(crate) fn listener(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.mesh.ip(2), port)
    }

    pub(crate) async fn connect(&self, port: u16) -> TcpStream {
        TcpStream::connect(self.listener(port)).await.unwrap()
    }

    pub(crate) async fn get(&self, port: u16, path: &str) -> Response<Incoming> {
        one_http1(self.connect(port).await, get(path))
            .await
            .unwrap()
    }

    pub(crate) async fn status(&self, port: u16) -> u16 {
        self.get(port, "/").await.status().as_u16()
    }
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn why(response: &Response<Incoming>) -> String {
    let value = response.headers().get("l5d-proxy-error");
    value
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default()
}

pub(crate) fn route(kind: &str, rest: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: route, namespace: shop}}
spec:
  parentRefs: [{{group: core, kind: Service, name: catalog}}]
{rest}
---
"
    )
}

#[tokio::test]
async fn requests_to_the_mesh_are_mutual_tls_and_http1_is_carried_in_http2() {
    let client = Client::start("", 0, "", &[]).await;
    let _origin = origin::echo(client.mesh.origin()).await;
    let response = client.get(9001, "/one?two=3").await;
    assert_eq!(
        (response.status().as_u16(), why(&response).as_str()),
        (200, "")
    );
    let said = text(response).await;
    assert!(said.starts_with("HTTP/1.1 GET /one?two=3"), "{said}");
    assert!(
        said.contains("l5d-client-id: web.shop.serviceaccount"),
        "{said}"
    );
    assert!(!said.contains("l5d-orig-proto"), "{said}");
    let labels = [
        r#"direction="outbound""#,
        r#"tls="true""#,
        "server_id=",
        "dst_service=\"web\"",
    ];
    assert!(client.mesh.metric("request_total", &labels).await >= 1.0);
    let route = [
        r#"parent_name="web""#,
        r#"route_name="http""#,
        r#"http_status="200""#,
    ];
    let counted = client
        .mesh
        .metric("outbound_http_route_request_statuses_total", &route)
        .await;
    assert!(counted >= 1.0);

    let request = Request::get("http://web.shop/h2")
        .body(Full::default())
        .unwrap();
    let response = one_http2(client.connect(9001).await, request)
        .await
        .unwrap();
    assert!(text(response).await.starts_with("HTTP/2.0 GET"));
}

#[tokio::test]
async fn traffic_is_split_by_weight() {
    let rules = "  rules: [{backendRefs: [{name: catalog, port: 80, weight: 3}, {name: other, port: 80, weight: 1}]}]";
    let policy = route("HTTPRoute", rules) + &service("other", "");
    let client = Client::start("", 1, &policy, &[]).await;
    let other = pod("other-0", "other", client.mesh.ip(30));
    client.mesh.write("other.yaml", &other);
    let hits: Arc<[AtomicUsize; 2]> = Arc::default();
    let count = |at: usize| {
        let hits = hits.clone();
        move |_: Request<Incoming>| {
            hits[at].fetch_add(1, Ordering::Relaxed);
            status(200)
        }
    };
    let _first = app(client.at(10), count(0)).await;
    let _second = app(client.at(30), count(1)).await;
    eventually("both backends", async || {
        client.status(9000).await;
        (hits[1].load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    let before = [
        hits[0].load(Ordering::Relaxed),
        hits[1].load(Ordering::Relaxed),
    ];
    for _ in 0..400 {
        assert_eq!(client.status(9000).await, 200);
    }
    let got = [
        hits[0].load(Ordering::Relaxed) - before[0],
        hits[1].load(Ordering::Relaxed) - before[1],
    ];
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let chi = |got: usize, wanted: f64| (got as f64 - wanted).powi(2) / wanted;
    let chi = chi(got[0], 300.0) + chi(got[1], 100.0);
    // One degree of freedom: above this once in a million.
    assert!(chi < 24.0, "{got:?}: {chi}");
}

#[tokio::test]
async fn the_most_specific_rule_takes_a_request_and_its_filters_apply() {
    let rules = "  rules:
  - matches: [{path: {value: /}}]
    backendRefs: [{name: catalog, port: 80}]
  - matches: [{path: {type: Exact, value: /exact}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-rule, value: exact}], remove: [x-gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-answer, value: seen}]}}
    backendRefs: [{name: catalog, port: 80}]
  - matches: [{path: {value: /old}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {hostname: new.example, statusCode: 301}}
  - matches: [{path: {value: /gone}}]
    backendRefs: [{name: nowhere, port: 80}]
  - matches: [{headers: [{name: x-beta, value: '1'}], path: {value: /beta}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-rule, value: beta}]}}
";
    let client = Client::start("", 1, &route("HTTPRoute", rules), &[]).await;
    let _origin = origin::echo(client.at(10)).await;
    let exact = Request::get("/exact")
        .header("host", "catalog")
        .header("x-gone", "1")
        .body(Full::default())
        .unwrap();
    let response = one_http1(client.connect(9000).await, exact).await.unwrap();
    assert_eq!(response.headers()["x-answer"], "seen");
    let said = text(response).await;
    assert!(
        said.contains("x-rule: exact") && !said.contains("x-gone"),
        "{said}"
    );

    let moved = client.get(9000, "/old/a").await;
    assert_eq!(moved.status(), 301);
    assert_eq!(moved.headers()["location"], "http://new.example/old/a");
    assert!(
        !text(client.get(9000, "/beta").await)
            .await
            .contains("x-rule")
    );

    let gone = client.get(9000, "/gone").await;
    assert_eq!(gone.status(), 500);
    assert_eq!(why(&gone), "Service not found nowhere");
}

#[tokio::test]
async fn what_no_route_takes_is_a_404() {
    let rules =
        "  hostnames: [only.example]\n  rules: [{backendRefs: [{name: catalog, port: 80}]}]";
    let client = Client::start("", 1, &route("HTTPRoute", rules), &[]).await;
    let response = client.get(9000, "/").await;
    assert_eq!(response.status(), 404);
    assert!(why(&response).ends_with("no route"), "{}", why(&response));
}

const RETRY: &str = "retry.linkerd.io/http: 5xx, retry.linkerd.io/limit: '2'";

#[tokio::test]
async fn failures_are_retried_and_the_page_says_how_many_and_whether_it_helped() {
    let client = Client::start(RETRY, 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let _app = app(client.at(10), {
        let calls = calls.clone();
        move |_| match calls.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => status(503),
            _ => status(200),
        }
    })
    .await;
    for _ in 0..10 {
        assert_eq!(client.status(9000).await, 200);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 20);
    let metric = async |name: &str, labels: &[&str]| client.mesh.metric(name, labels).await;
    for (name, labels, want) in [
        (
            "outbound_route_request_fates_total",
            &[r#"fate="recovered""#][..],
            10.0,
        ),
        (
            "outbound_route_request_fates_total",
            &[r#"fate="budget""#],
            0.0,
        ),
        (
            "outbound_http_route_retry_requests_total",
            &[r#"parent_name="catalog""#],
            10.0,
        ),
        ("outbound_http_route_retry_successes_total", &[], 10.0),
        ("outbound_route_retries_total", &[r#"reason="503""#], 10.0),
        (
            "outbound_route_retried_requests_total",
            &[r#"outcome="recovered""#],
            10.0,
        ),
        (
            "outbound_route_backend_attempts_total",
            &[r#"retry="false""#, r#"classification="failure""#],
            10.0,
        ),
        (
            "outbound_route_backend_attempts_total",
            &[r#"retry="true""#, r#"classification="success""#],
            10.0,
        ),
        (
            "outbound_http_route_request_duration_seconds_count",
            &[],
            10.0,
        ),
    ] {
        let got = metric(name, labels).await;
        assert!(
            (got - want).abs() < f64::EPSILON,
            "{name}{labels:?}: {got}, not {want}"
        );
    }
    assert!(metric("outbound_route_retry_budget_remaining", &[]).await > 0.0);
}

#[tokio::test]
async fn retries_end_with_their_limit_and_with_their_budget() {
    let variables = [
        ("OUTBOUND_RETRY_BUDGET_RATIO", "0"),
        ("OUTBOUND_RETRY_BUDGET_MIN_PER_SECOND", "1"),
        ("OUTBOUND_RETRY_BUDGET_TTL", "4s"),
    ];
    let client = Client::start(RETRY, 1, "", &variables).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let _app = app(client.at(10), {
        let calls = calls.clone();
        move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            status(500)
        }
    })
    .await;
    for _ in 0..5 {
        assert_eq!(client.status(9000).await, 500);
    }
    // Two requests used their limit of two retries each; then the four of the reserve were gone.
    assert_eq!(calls.load(Ordering::Relaxed), 5 + 4);
    let fate = async |fate: &str| {
        let label = format!("fate=\"{fate}\"");
        client
            .mesh
            .metric("outbound_route_request_fates_total", &[&label])
            .await
    };
    assert!((fate("limit").await - 2.0).abs() < f64::EPSILON);
    assert!((fate("budget").await - 3.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_body_is_sent_again_and_one_that_is_too_large_is_not() {
    let client = Client::start(RETRY, 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(client.at(10)).await.unwrap();
    let seen = calls.clone();
    let _app = App(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let calls = seen.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let calls = calls.clone();
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
                        let mut response =
                            Response::new(Full::<Bytes>::from(body.len().to_string()));
                        if first || body.len() > 64 * 1024 {
                            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                        }
                        Ok::<_, Infallible>(response)
                    }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }));
    let post = |bytes: usize| {
        Request::post("/")
            .header("host", "catalog")
            .body(Full::from(vec![b'x'; bytes]))
            .unwrap()
    };
    let response = one_http1(client.connect(9000).await, post(60_000))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(text(response).await, "60000");
    let response = one_http1(client.connect(9000).await, post(100_000))
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
    let suppressed = [r#"reason="body_too_large""#];
    let count = client
        .mesh
        .metric("outbound_route_retries_suppressed_total", &suppressed)
        .await;
    assert!((count - 1.0).abs() < f64::EPSILON, "{count}");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_a_504_that_says_which_limit() {
    let client = Client::start("timeout.linkerd.io/request: 200ms", 1, "", &[]).await;
    let listener = TcpListener::bind(client.at(10)).await.unwrap();
    let response = client.get(9000, "/").await;
    drop(listener);
    assert_eq!(response.status(), 504);
    assert!(
        why(&response).ends_with("timed out waiting for response headers: request timeout: 200ms"),
        "{}",
        why(&response)
    );
    let labels = [r#"error="REQUEST_TIMEOUT""#, r#"http_status="""#];
    let name = "outbound_http_route_request_statuses_total";
    assert!(client.mesh.metric(name, &labels).await >= 1.0);
    let fates = client
        .mesh
        .metric("outbound_route_request_fates_total", &[r#"fate="timeout""#])
        .await;
    assert!(fates >= 1.0);
}

#[tokio::test]
async fn without_endpoints_the_first_request_waits_and_the_next_is_told_at_once_why() {
    let variables = [
        ("OUTBOUND_POLICY_LIMITS", "false"),
        ("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "300ms"),
    ];
    let client = Client::start("", 0, "", &variables).await;
    let first = client.get(9000, "/").await;
    assert_eq!(first.status(), 504);
    assert!(
        why(&first).ends_with("service in fail-fast: no endpoints"),
        "{}",
        why(&first)
    );
    let second = client.get(9000, "/").await;
    assert_eq!(second.status(), 503);
    assert!(
        why(&second).ends_with("service unavailable: no endpoints"),
        "{}",
        why(&second)
    );
    let shut = "outbound_http_balancer_queue_gate_shut_total";
    assert!(
        client
            .mesh
            .metric(shut, &[r#"backend_name="catalog""#])
            .await
            >= 1.0
    );

    // An endpoint appears: traffic flows.
    client
        .mesh
        .write("late.yaml", &pod("late", "catalog", client.mesh.ip(10)));
    let _origin = origin::echo(client.at(10)).await;
    eventually("the new endpoint", async || {
        (client.status(9000).await == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_connected_to_costs_no_request() {
    let client = Client::start("", 2, "", &[]).await;
    let _origin = origin::echo(client.at(10)).await;
    for _ in 0..40 {
        assert_eq!(client.status(9000).await, 200);
    }
}

#[tokio::test]
async fn a_failing_endpoint_is_left_out_probed_and_taken_back() {
    let annotations = "balancer.linkerd.io/failure-accrual: consecutive, balancer.linkerd.io/failure-accrual-consecutive-max-failures: '3', balancer.linkerd.io/failure-accrual-consecutive-min-penalty: 500ms, balancer.linkerd.io/failure-accrual-consecutive-max-penalty: 1s";
    let client = Client::start(annotations, 2, "", &[]).await;
    let is_bad = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let app_at = async |host| {
        let bad = is_bad.clone();
        let answer = move |_: Request<Incoming>| {
            status(if bad.load(Ordering::Relaxed) {
                500
            } else {
                200
            })
        };
        app(client.at(host), answer).await
    };
    // Beside one that answers well, one that fails is hardly asked again, and so not left out for long.
    let _apps = (app_at(10).await, app_at(11).await);
    let ejected = async || {
        let labels = [r#"reason="consecutive_failures""#];
        let name = "outbound_http_balancer_ejections_total";
        client.mesh.metric(name, &labels).await
    };
    eventually("an ejection", async || {
        client.status(9000).await;
        (ejected().await >= 1.0).then_some(())
    })
    .await;
    let out = "outbound_http_balancer_ejected_endpoints";
    assert!(client.mesh.metric(out, &[]).await >= 1.0);
    is_bad.store(false, Ordering::Relaxed);
    eventually("the endpoints' return", async || {
        client.status(9000).await;
        (client.mesh.metric(out, &[]).await < 0.5).then_some(())
    })
    .await;
    assert_eq!(client.status(9000).await, 200);
}

#[tokio::test]
async fn endpoints_come_and_go_under_load_without_a_failure() {
    let client = Client::start("", 3, "", &[]).await;
    let mut apps = Vec::new();
    for host in 10..16 {
        apps.push(app(client.at(host), |_| status(200)).await);
    }
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let listener = client.listener(9000);
    let load: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let stream = TcpStream::connect(listener).await.unwrap();
                let (mut send, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream))
                        .await
                        .unwrap();
                tokio::spawn(connection);
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    send.ready().await.unwrap();
                    let response = send.send_request(get("/")).await.unwrap();
                    assert_eq!(response.status(), 200);
                    response.into_body().collect().await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let updates = "outbound_http_balancer_p2c_updates_total";
    eventually("the first endpoints", async || {
        let known = client.mesh.metric(updates, &[r#"op="Add""#]).await;
        (known >= 3.0).then_some(())
    })
    .await;
    for round in 0..6u8 {
        let hosts = if round % 2 == 0 { 13..16 } else { 10..13 };
        let text: String = hosts
            .map(|host| pod(&format!("pod-{host}"), "catalog", client.mesh.ip(host)))
            .collect();
        let before = client.mesh.metric(updates, &[r#"op="Remove""#]).await;
        client
            .mesh
            .write("catalog.yaml", &(service("catalog", "") + &text));
        eventually("the change", async || {
            let now = client.mesh.metric(updates, &[r#"op="Remove""#]).await;
            (now >= before + 3.0).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = 0;
    for task in load {
        all += within("the load's end", task).await.unwrap();
    }
    assert!(all > 100, "{all} requests");
}

#[tokio::test]
async fn a_known_destination_works_without_the_control_plane_and_an_unknown_one_is_told() {
    let variables = [("OUTBOUND_DISCOVERY_TIMEOUT", "300ms")];
    let mut client = Client::start("", 1, "", &variables).await;
    let _origin = origin::echo(client.at(10)).await;
    let stream = client.connect(9000).await;
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let response = send.send_request(get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();

    client.mesh.stop_controller();
    for _ in 0..20 {
        send.ready().await.unwrap();
        let response = send.send_request(get("/")).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
    let unknown = client.get(9002, "/").await;
    assert_eq!(unknown.status(), 504);
    assert!(
        why(&unknown).starts_with("discovery timed out"),
        "{}",
        why(&unknown)
    );

    client.mesh.start_controller();
    eventually(
        "the unknown destination, once the control plane is back",
        async || (client.status(9002).await != 504).then_some(()),
    )
    .await;
}

#[tokio::test]
async fn nothing_leaves_in_plaintext_where_policy_requires_mutual_tls() {
    let annotations = "policy.linkerd.io/outbound-mtls: required";
    let client = Client::start(annotations, 1, "", &[]).await;
    let (_app, calls) = counted(client.at(10), 200).await;
    let response = client.get(9000, "/").await;
    assert_eq!(response.status(), 502);
    assert!(
        why(&response).contains("mutual TLS is required"),
        "{}",
        why(&response)
    );
    let labels = [r#"reason="plaintext""#, r#"parent_name="catalog""#];
    assert!(
        client
            .mesh
            .metric("outbound_mtls_refused_total", &labels)
            .await
            >= 1.0
    );
    assert_eq!(calls.load(Ordering::Relaxed), 0, "not a byte");

    // To a peer of the mesh it goes, unless it is another one than policy expects.
    let _origin = origin::echo(client.mesh.origin()).await;
    assert_eq!(client.status(9001).await, 200);
    let expecting = "apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {policy.linkerd.io/outbound-server-identities: someone.else}}
";
    client.mesh.write("namespace.yaml", expecting);
    eventually("the expected identity", async || {
        let response = client.get(9001, "/").await;
        (why(&response).contains("policy wants someone.else")).then_some(())
    })
    .await;
    let plain = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    client.mesh.write("namespace.yaml", plain);
    eventually("no expectation again", async || {
        (client.status(9001).await == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_the_one_asked_for_gets_no_request() {
    let client = Client::start("", 0, "", &[]).await;
    let _origin = origin::echo(client.mesh.origin()).await;
    let asking = |id: &str| {
        Request::get("/")
            .header("host", "web")
            .header("l5d-require-id", id)
            .body(Full::default())
            .unwrap()
    };
    let right = crate::harness::identity("web");
    let response = one_http1(client.connect(9001).await, asking(&right))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert!(!text(response).await.contains("l5d-require-id"));
    let response = one_http1(client.connect(9001).await, asking("other.id"))
        .await
        .unwrap();
    assert_eq!(response.status(), 502);
    assert!(why(&response).contains("required id other.id; found web.shop"));
}

#[tokio::test]
async fn bytes_pass_in_full_and_each_direction_ends_by_itself() {
    let opaque = "config.linkerd.io/opaque-ports: '80'";
    let client = Client::start(opaque, 1, "", &[]).await;
    let listener = TcpListener::bind(client.at(10)).await.unwrap();
    let far = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hash = DefaultHasher::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match stream.read(&mut buffer).await.unwrap() {
                0 => break,
                n => hash.write(&buffer[..n]),
            }
        }
        // The client's side has ended; ours goes on.
        stream
            .write_all(&hash.finish().to_be_bytes())
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
    });
    let mut stream = client.connect(9000).await;
    let mut hash = DefaultHasher::new();
    let chunk: Vec<u8> = (0..1_048_576u32)
        .map(|i| i.to_le_bytes()[i as usize % 3])
        .collect();
    let sent = async {
        for _ in 0..256 {
            hash.write(&chunk);
            stream.write_all(&chunk).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(LIMIT * 4, sent).await.unwrap();
    assert_eq!(answer, hash.finish().to_be_bytes());
    within("the server's end", far).await.unwrap();
    let name = "outbound_tcp_route_open_total";
    assert!(
        client
            .mesh
            .metric(name, &[r#"parent_name="catalog""#])
            .await
            >= 1.0
    );
}

#[tokio::test]
async fn websockets_and_tunnels_pass() {
    let client = Client::start("", 1, "", &[]).await;
    let answer =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello";
    let _app = origin::scripted(client.at(10), b"", b"\r\n\r\n", answer).await;
    let mut stream = client.connect(9000).await;
    stream
        .write_all(b"GET /socket HTTP/1.1\r\nhost: catalog\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    within("the tunnel", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn an_address_outside_the_mesh_is_forwarded_to() {
    let client = Client::start("", 0, "", &[]).await;
    let _origin = origin::echo(client.at(40)).await;
    let response = client.get(9003, "/out").await;
    assert_eq!(response.status(), 200);
    assert!(text(response).await.starts_with("HTTP/1.1 GET /out"));
    let labels = [r#"parent_kind="default""#, r#"http_status="200""#];
    let name = "outbound_http_route_request_statuses_total";
    assert!(client.mesh.metric(name, &labels).await >= 1.0);
}

#[tokio::test]
async fn a_service_profile_routes_retries_and_splits() {
    let policy = "apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: catalog.shop.svc.cluster.local, namespace: shop}
spec:
  routes:
  - {name: flaky, condition: {pathRegex: /flaky}, isRetryable: true}
  - {name: slow, condition: {pathRegex: /slow}, timeout: 200ms}
---
apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {name: canary, namespace: shop}
spec: {service: catalog, backends: [{service: catalog, weight: 500m}, {service: other, weight: 500m}]}
---
";
    let client = Client::start("", 1, &(policy.to_owned() + &service("other", "")), &[]).await;
    client
        .mesh
        .write("other.yaml", &pod("other-0", "other", client.mesh.ip(30)));
    let calls = Arc::new(AtomicUsize::new(0));
    let flaky = |name: &'static str, calls: Arc<AtomicUsize>| {
        move |request: Request<Incoming>| {
            let first = calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
            let canonical = request.headers().get("l5d-dst-canonical").cloned();
            let mut response = status(if first && request.uri() == "/flaky" {
                500
            } else {
                200
            });
            response
                .headers_mut()
                .insert("x-from", name.parse().unwrap());
            if let Some(canonical) = canonical {
                response.headers_mut().insert("x-canonical", canonical);
            }
            response
        }
    };
    let _one = app(client.at(10), flaky("catalog", calls.clone())).await;
    let _two = app(client.at(30), flaky("other", calls.clone())).await;
    let mut seen = std::collections::BTreeSet::new();
    eventually("both targets", async || {
        let response = client.get(9000, "/").await;
        let from = response.headers()["x-from"].to_str().unwrap().to_owned();
        let canonical = response.headers()["x-canonical"].to_str().unwrap();
        assert_eq!(canonical, format!("{from}.shop.svc.cluster.local:80"));
        seen.insert(from);
        (seen.len() == 2).then_some(())
    })
    .await;
    calls.store(0, Ordering::Relaxed);
    assert_eq!(client.get(9000, "/flaky").await.status(), 200);
    let labels = [
        r#"rt_route="flaky""#,
        r#"dst="catalog.shop.svc.cluster.local:80""#,
    ];
    assert!(client.mesh.metric("route_request_total", &labels).await >= 1.0);
}

#[tokio::test]
async fn grpc_failures_in_trailers_are_retried() {
    let policy = route(
        "GRPCRoute",
        "  rules: [{matches: [{method: {service: shop.Catalog}}]}]",
    );
    let annotations = "retry.linkerd.io/grpc: unavailable";
    let client = Client::start(annotations, 1, &policy, &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let _app = app(client.at(10), move |_| {
        let code = if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            "14"
        } else {
            "0"
        };
        let mut response = Response::new(Full::default());
        let headers = response.headers_mut();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        headers.insert("grpc-status", code.parse().unwrap());
        response
    })
    .await;
    let call = |path: &str| {
        Request::post(format!("http://catalog.shop{path}"))
            .header("content-type", "application/grpc")
            .body(Full::default())
            .unwrap()
    };
    let response = one_http2(client.connect(9000).await, call("/shop.Catalog/List"))
        .await
        .unwrap();
    assert_eq!(response.headers()["grpc-status"], "0");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let name = "outbound_grpc_route_retry_requests_total";
    assert!((client.mesh.metric(name, &[]).await - 1.0).abs() < f64::EPSILON);
    let response = one_http2(client.connect(9000).await, call("/shop.Other/List"))
        .await
        .unwrap();
    assert_eq!(response.headers()["grpc-status"], "5");
}

#[tokio::test]
async fn two_endpoints_of_which_one_is_slow_share_the_load_unevenly() {
    let client = Client::start("", 2, "", &[]).await;
    let slow_hits = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(client.at(10)).await.unwrap();
    let counted = slow_hits.clone();
    let _slow = App(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let hits = counted.clone();
            tokio::spawn(async move {
                let service = service_fn(move |_: Request<Incoming>| {
                    hits.fetch_add(1, Ordering::Relaxed);
                    async {
                        // A slow application: it answers with the second stroke of a clock. This is what is
                        // measured, not what is waited for.
                        let mut clock = tokio::time::interval(Duration::from_millis(100));
                        clock.tick().await;
                        clock.tick().await;
                        Ok::<_, Infallible>(status(200))
                    }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }));
    let _fast = app(client.at(11), |_| status(200)).await;
    let started = Instant::now();
    for _ in 0..200 {
        assert_eq!(client.status(9000).await, 200);
    }
    let slow = slow_hits.load(Ordering::Relaxed);
    assert!(
        slow < 20,
        "{slow} of 200 to the slow one, in {:?}",
        started.elapsed()
    );
}
