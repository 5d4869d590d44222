//! Limits that clients and operators set on what leaves, and what is counted by the name that was asked for.

use crate::{
    harness::{Mesh, eventually, get, one_http1, one_http2, within},
    outbound::{App, Client, app, pod, route, service, status, why},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

async fn assert_metric(mesh: &Mesh, name: &str, labels: &[&str], want: f64) {
    let found = mesh.metric(name, labels).await;
    assert!(
        (found - want).abs() < f64::EPSILON,
        "{name}{labels:?}: {found}, not {want}"
    );
}

/// A gRPC answer with nothing but a status.
fn grpc(code: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("grpc-status", code.parse().unwrap());
    response
}

fn call(timeout: &str) -> Request<Full<Bytes>> {
    Request::post("http://catalog.shop/shop.Catalog/List")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", timeout)
        .body(Full::default())
        .unwrap()
}

fn grpc_route() -> String {
    route(
        "GRPCRoute",
        "  rules: [{matches: [{method: {service: shop.Catalog}}]}]",
    )
}

const UNAVAILABLE: &str = "retry.linkerd.io/grpc: unavailable, retry.linkerd.io/limit: '100'";

/// An endpoint of `catalog` that is never available, and keeps what it was told of the time there is.
async fn unavailable(client: &Client) -> (App, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let kept = told.clone();
    let app = app(client.at(10), move |request| {
        let timeout = request.headers()["grpc-timeout"].to_str().unwrap();
        kept.lock().unwrap().push(timeout.to_owned());
        grpc("14")
    })
    .await;
    (app, told)
}

#[tokio::test]
async fn a_grpc_call_is_retried_only_while_its_client_waits_and_endpoints_learn_what_is_left() {
    let budget = [("OUTBOUND_RETRY_BUDGET_MIN_PER_SECOND", "1000")];
    let client = Client::start(UNAVAILABLE, 1, &grpc_route(), &budget).await;
    let (_app, told) = unavailable(&client).await;
    let stream = client.connect(9000).await;
    let response = one_http2(stream, call("400m")).await.unwrap();
    // The answer that there was, not one that the proxy makes up.
    assert_eq!(response.headers()["grpc-status"], "14");
    let told = told.lock().unwrap().clone();
    assert_eq!(told[0], "400m");
    let left: Vec<u64> = told
        .iter()
        .map(|text| text.strip_suffix('m').unwrap().parse().unwrap())
        .collect();
    assert!((3..50).contains(&left.len()), "{told:?}");
    assert!(left.is_sorted_by(|a, b| a > b), "{told:?}");
    let name = "outbound_route_retries_suppressed_total";
    assert_metric(&client.mesh, name, &[r#"reason="deadline""#], 1.0).await;
    let fate = [r#"fate="timeout""#];
    assert_metric(
        &client.mesh,
        "outbound_route_request_fates_total",
        &fate,
        1.0,
    )
    .await;
}

/// An endpoint of `catalog` that takes connections and says nothing.
async fn silent(client: &Client) -> App {
    let listener = tokio::net::TcpListener::bind(client.at(10)).await.unwrap();
    App(tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    }))
}

#[tokio::test]
async fn clients_set_limits_and_retries_by_headers_where_the_control_plane_lets_them() {
    let allow = |config: &mut linkerd_controller::Config| {
        config.cluster.allow_l5d_request_headers = true;
    };
    let http = route(
        "HTTPRoute",
        "  rules: [{backendRefs: [{name: catalog, port: 80}]}]",
    );
    let client = Client::start_with("", 1, &http, &[], allow).await;
    let hung = silent(&client).await;
    let mut request = get("/");
    request
        .headers_mut()
        .insert("l5d-timeout", "150ms".parse().unwrap());
    let response = one_http1(client.connect(9000).await, request)
        .await
        .unwrap();
    assert_eq!(response.status(), 504);
    assert!(
        why(&response).ends_with("request timeout: 150ms"),
        "{}",
        why(&response)
    );
    drop(hung);

    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let _app = eventually("the address is free", async || {
        tokio::net::TcpListener::bind(client.at(10))
            .await
            .ok()
            .map(drop)
    })
    .await;
    let _app = app(client.at(10), move |request| {
        let names = request.headers().keys().map(|name| name.to_string());
        let mut seen = kept.lock().unwrap();
        seen.push(
            names
                .filter(|name| name.starts_with("l5d-retry"))
                .collect::<Vec<_>>(),
        );
        status(if seen.len() % 3 == 0 { 200 } else { 503 })
    })
    .await;
    let mut request = get("/");
    for (name, value) in [("l5d-retry-http", "5xx"), ("l5d-retry-limit", "2")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = one_http1(client.connect(9000).await, request)
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        *seen.lock().unwrap(),
        [Vec::<String>::new(), vec![], vec![]]
    );
}

#[tokio::test]
async fn headers_that_are_not_allowed_are_the_applications_own() {
    let http = route(
        "HTTPRoute",
        "  rules: [{backendRefs: [{name: catalog, port: 80}]}]",
    );
    let client = Client::start("", 1, &http, &[]).await;
    let _app = app(client.at(10), |request| {
        status(if request.headers().contains_key("l5d-retry-http") {
            503
        } else {
            200
        })
    })
    .await;
    let mut request = get("/");
    for (name, value) in [("l5d-retry-http", "5xx"), ("l5d-retry-limit", "2")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = one_http1(client.connect(9000).await, request)
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
    assert_metric(
        &client.mesh,
        "outbound_http_route_retry_requests_total",
        &[],
        0.0,
    )
    .await;
}

#[tokio::test]
async fn a_grpc_client_that_may_set_limits_is_answered_when_its_time_is_over() {
    let allow = |config: &mut linkerd_controller::Config| {
        config.cluster.allow_l5d_request_headers = true;
    };
    let client = Client::start_with("", 1, &grpc_route(), &[], allow).await;
    let _hung = silent(&client).await;
    let response = one_http2(client.connect(9000).await, call("150m"))
        .await
        .unwrap();
    assert_eq!(response.headers()["grpc-status"], "4");
    assert!(
        why(&response).ends_with("request timeout: 150ms"),
        "{}",
        why(&response)
    );
}

/// A request to `catalog` that waits for an answer, until this is dropped.
async fn waiting(client: &Client) -> App {
    let stream = client.connect(9000).await;
    let request = Request::get("http://catalog.shop/");
    let request = request.body(Full::default()).unwrap();
    let waits = App(tokio::spawn(async move {
        let _never = one_http2(stream, request).await;
    }));
    eventually("a request that waits", async || {
        let waiting = client
            .mesh
            .metric("outbound_http_requests_in_flight", &[])
            .await;
        (waiting > 0.0).then_some(())
    })
    .await;
    waits
}

#[tokio::test]
async fn a_destination_that_hangs_leaves_room_for_the_others() {
    let other = service("other", "");
    let variables = [("OUTBOUND_MAX_IN_FLIGHT_PER_DESTINATION", "1")];
    let client = Client::start("", 1, &other, &variables).await;
    let mesh = &client.mesh;
    mesh.write("other.yaml", &pod("other-0", "other", mesh.ip(30)));
    let _hung = silent(&client).await;
    let _other = app(client.at(30), |_| status(200)).await;
    let first = waiting(&client).await;
    let refused = client.get(9000, "/").await;
    assert_eq!(refused.status(), 503);
    let text = "service unavailable: too many requests to catalog.shop.svc.cluster.local:80 wait for an answer";
    assert_eq!(why(&refused), text);
    let limit = [r#"limit="destination_in_flight""#];
    assert_metric(mesh, "outbound_refused_total", &limit, 1.0).await;
    // It came as far as its route, and is one of the requests there.
    let fates = "outbound_route_request_fates_total";
    assert_metric(mesh, fates, &[r#"fate="shed""#], 1.0).await;
    eventually("the other destination", async || {
        (client.status(9002).await == 200).then_some(())
    })
    .await;
    drop(first);
    eventually("a free place", async || {
        let waiting = mesh.metric("outbound_http_requests_in_flight", &[]).await;
        (waiting == 0.0).then_some(())
    })
    .await;
    let _next = waiting(&client).await;
}

#[tokio::test]
async fn a_profile_tells_requests_from_attempts_and_retries_from_those_without_a_budget() {
    let policy = "apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: catalog.shop.svc.cluster.local, namespace: shop}
spec:
  routes: [{name: flaky, condition: {pathRegex: /flaky}, isRetryable: true}]
  retryBudget: {retryRatio: 0.0, minRetriesPerSecond: 1, ttl: 1s}
---
";
    let client = Client::start("", 1, policy, &[]).await;
    let _app = app(client.at(10), |_| status(500)).await;
    let mesh = &client.mesh;
    eventually("the profile", async || {
        client.get(9000, "/").await;
        let known = mesh.metric("route_request_total", &[]).await;
        (known > 0.0).then_some(())
    })
    .await;
    assert_eq!(client.get(9000, "/flaky").await.status(), 500);
    let flaky = r#"rt_route="flaky""#;
    let failed = [flaky, r#"classification="failure""#];
    assert_metric(mesh, "route_request_total", &[flaky], 1.0).await;
    assert_metric(mesh, "route_response_total", &failed, 1.0).await;
    let attempts = mesh.metric("route_actual_request_total", &[flaky]).await;
    // The budget had something, and the first attempt that it had nothing for was the last.
    assert!(attempts > 1.0, "{attempts}");
    assert_metric(mesh, "route_actual_response_total", &failed, attempts).await;
    let skipped = r#"skipped="no_budget""#;
    assert_metric(mesh, "route_retryable_total", &[flaky, skipped], 1.0).await;
    assert_metric(mesh, "route_retryable_total", &[flaky], attempts + 1.0).await;
}

#[tokio::test]
async fn routes_are_counted_by_name_where_operators_want_it_and_else_not() {
    for (wanted, label) in [("true", r#"hostname="web""#), ("false", r#"hostname="""#)] {
        let variables = [("OUTBOUND_METRICS_HOSTNAME_LABELS", wanted)];
        let annotations = "retry.linkerd.io/http: 5xx";
        let client = Client::start(annotations, 1, "", &variables).await;
        let _app = app(client.at(10), |_| status(500)).await;
        client.get(9000, "/").await;
        let mesh = &client.mesh;
        for name in [
            "outbound_http_route_request_duration_seconds_count",
            "outbound_http_route_request_statuses_total",
            "outbound_http_route_retry_requests_total",
        ] {
            assert_metric(mesh, name, &[label], 1.0).await;
            assert_metric(mesh, name, &[], 1.0).await;
        }
        let (_, page) = mesh.get_admin("/retries").await.unwrap();
        assert!(page.contains("5xx 1"), "{page}");
    }
}

#[tokio::test]
async fn what_comes_in_is_counted_by_authority_where_operators_want_it() {
    let policy = "";
    let mesh = Mesh::start_with(policy, &[("INBOUND_METRICS_AUTHORITY_LABELS", "unsafe")]).await;
    let _origin = app(mesh.origin(), |_| status(200)).await;
    let stream = within("a connection", TcpStream::connect(mesh.web())).await;
    one_http1(stream.unwrap(), get("/")).await.unwrap();
    for name in [
        "request_total",
        "response_total",
        "response_latency_ms_count",
    ] {
        let labels = [r#"direction="inbound",authority="web",target_addr="#];
        eventually(name, async || {
            (mesh.metric(name, &labels).await > 0.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_connection_for_whose_destination_there_was_no_room_has_one_once_there_is() {
    let variables = [
        ("OUTBOUND_MAX_DESTINATIONS", "1"),
        ("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "100ms"),
    ];
    let client = Client::start("", 1, "", &variables).await;
    let _app = app(client.at(10), |_| status(200)).await;
    let _origin = crate::origin::echo(client.mesh.origin()).await;
    let open = async |port| {
        let io = TokioIo::new(client.connect(port).await);
        let (send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        send
    };
    let mut first = open(9000).await;
    assert_eq!(first.send_request(get("/")).await.unwrap().status(), 200);
    let mut second = open(9001).await;
    let refused = within("an answer at once", second.send_request(get("/"))).await;
    assert_eq!(refused.unwrap().status(), 504);
    let labels = [r#"limit="destinations""#];
    assert!(client.mesh.metric("outbound_refused_total", &labels).await >= 1.0);
    drop(first);
    eventually("room for the second", async || {
        second.ready().await.unwrap();
        let response = second.send_request(get("/")).await.unwrap();
        (response.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn fates_add_up_to_what_the_application_sent_also_where_it_comes_to_no_route() {
    const FATES: &str = "outbound_route_request_fates_total";
    const NOWHERE: &str = r#"parent_name="unrouted""#;
    let only = "  rules: [{matches: [{path: {type: Exact, value: /}}]}]";
    let policy = route("HTTPRoute", only);
    let variables = [
        ("OUTBOUND_MAX_IN_FLIGHT", "1"),
        ("OUTBOUND_DISCOVERY_TIMEOUT", "300ms"),
    ];
    let mut client = Client::start("", 1, &policy, &variables).await;
    let _hung = silent(&client).await;
    let (_, page) = client.mesh.get_admin("/metrics").await.unwrap();
    for fate in [
        "undiscovered",
        "no_route",
        "bad_request",
        "shed",
        "abandoned",
    ] {
        let is_there = |line: &str| {
            let is_of = line.starts_with(FATES) && line.contains(NOWHERE);
            is_of && line.contains(&format!("fate=\"{fate}\"")) && line.ends_with(" 0")
        };
        assert!(page.lines().any(is_there), "{fate}: {page}");
    }
    let mut sent = 0.0;
    let page = async |client: &Client| client.mesh.get_admin("/retries").await.unwrap().1;
    assert!(!page(&client).await.contains("unrouted"));
    sent += 1.0;
    assert_eq!(client.get(9000, "/elsewhere").await.status(), 404);
    sent += 1.0;
    let two = "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n";
    let mut stream = client.connect(9000).await;
    stream.write_all(two.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    sent += 1.0;
    let waits = waiting(&client).await;
    sent += 1.0;
    assert_eq!(client.status(9000).await, 503);
    drop(waits);
    eventually("a free place", async || {
        let waiting = "outbound_http_requests_in_flight";
        (client.mesh.metric(waiting, &[]).await == 0.0).then_some(())
    })
    .await;
    client.mesh.stop_controller();
    sent += 1.0;
    assert_eq!(client.status(9002).await, 504);
    let mesh = &client.mesh;
    for fate in ["undiscovered", "no_route", "bad_request", "shed"] {
        let fate = format!("fate=\"{fate}\"");
        assert_metric(mesh, FATES, &[NOWHERE, &fate], 1.0).await;
    }
    // The one that had a route, and was given up.
    assert_metric(mesh, FATES, &[r#"fate="abandoned""#], 1.0).await;
    assert_metric(mesh, FATES, &[], sent).await;
    let table = page(&client).await;
    let row = table.lines().find(|line| line.contains("unrouted"));
    let row = row.unwrap_or_else(|| panic!("{table}"));
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[..3], ["default.unrouted", "default.unrouted", "4"]);
}
