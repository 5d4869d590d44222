//! What a request is told that gets no endpoint, or no place: which reason, in its answer and in the metrics.

use crate::{
    harness::{eventually, get, one_http1, one_http2, within},
    outbound::{App, Client, app, pod, status, why},
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const UNREADY: &str = "outbound_http_balancer_unready_total";
const FAST: [(&str, &str); 2] = [
    ("OUTBOUND_POLICY_LIMITS", "false"),
    ("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "300ms"),
];

async fn assert_counted(client: &Client, name: &str, label: &str, want: f64) {
    let got = client.mesh.metric(name, &[label]).await;
    assert!(
        (got - want).abs() < f64::EPSILON,
        "{name}{{{label}}}: {got}, not {want}"
    );
}

/// The first request waits in vain, the next is told at once. Both are told why.
async fn told(client: &Client, reason: &str, text: &str) {
    for (status, says) in [(504, "service in fail-fast"), (503, "service unavailable")] {
        let response = client.get(9000, "/").await;
        let why = why(&response);
        assert_eq!(response.status(), status, "{reason}: {why}");
        let before = "logical service catalog.shop.svc.cluster.local:80: route default.http: ";
        assert!(why.starts_with(before), "{reason}: {why}");
        assert!(why.contains(&format!("{says}: {text}")), "{reason}: {why}");
    }
    assert_counted(client, UNREADY, &format!("reason=\"{reason}\""), 2.0).await;
    assert_counted(client, UNREADY, "", 2.0).await;
    let errors = "outbound_http_errors_total";
    assert_counted(client, errors, r#"error="failfast""#, 1.0).await;
    assert_counted(client, errors, r#"error="loadshed""#, 1.0).await;
    let route = "outbound_http_route_request_statuses_total";
    assert_counted(client, route, r#"error="FAIL_FAST""#, 1.0).await;
    assert_counted(client, route, r#"error="LOAD_SHED""#, 1.0).await;
    // As gRPC has it.
    let call = Request::post("http://catalog.shop/shop.Catalog/List")
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap();
    let response = one_http2(client.connect(9000).await, call).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14", "{reason}");
    assert!(
        why(&response).contains(text),
        "{reason}: {}",
        why(&response)
    );
}

#[tokio::test]
async fn without_any_endpoint() {
    let client = Client::start("", 0, "", &FAST).await;
    told(&client, "no_endpoints", "no endpoints").await;
}

#[tokio::test]
async fn where_none_can_be_connected_to() {
    let client = Client::start("", 2, "", &FAST).await;
    told(
        &client,
        "connect",
        "no endpoint can be connected to, last: ",
    )
    .await;
}

#[tokio::test]
async fn where_the_control_plane_is_away() {
    // Policy is there; nobody says what the endpoints are.
    let lost = [
        ("DESTINATION_SVC_ADDR", "127.0.0.1:1"),
        ("DESTINATION_PROFILE_SUFFIXES", "none."),
    ];
    let client = Client::start("", 1, "", &[&FAST[..], &lost].concat()).await;
    let text = "the control plane is away and has named no endpoints";
    told(&client, "control_plane", text).await;
}

#[tokio::test]
async fn where_all_are_shut_out() {
    let breaker = "balancer.linkerd.io/failure-accrual: consecutive, balancer.linkerd.io/failure-accrual-consecutive-max-failures: '1', balancer.linkerd.io/failure-accrual-consecutive-min-penalty: 1m, balancer.linkerd.io/failure-accrual-consecutive-max-penalty: 1m";
    let client = Client::start(breaker, 1, "", &FAST).await;
    let _app = app(client.at(10), |_| status(500)).await;
    assert_eq!(client.status(9000).await, 500);
    let text = "circuit breakers leave out all of 1 endpoints, the last for failures in a row";
    told(&client, "ejected", text).await;
}

#[tokio::test]
async fn where_too_many_wait_already_and_those_that_wait_get_the_first_endpoint() {
    let variables = [
        ("OUTBOUND_POLICY_LIMITS", "false"),
        ("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1m"),
        ("OUTBOUND_HTTP_QUEUE_CAPACITY", "2"),
    ];
    let client = Client::start("", 0, "", &variables).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let stream = client.connect(9000).await;
        waiting.push(tokio::spawn(one_http1(stream, get("/"))));
    }
    eventually("two that wait", async || {
        let length = client
            .mesh
            .metric("outbound_http_balancer_queue_length", &[])
            .await;
        (length > 1.5).then_some(())
    })
    .await;
    let third = client.get(9000, "/").await;
    assert_eq!(third.status(), 503);
    let text = "service unavailable: 2 requests wait already";
    assert!(why(&third).ends_with(text), "{}", why(&third));
    assert_counted(&client, UNREADY, r#"reason="queue_full""#, 1.0).await;
    assert_counted(&client, UNREADY, "", 1.0).await;
    let _app = app(client.at(10), |_| status(200)).await;
    let late = pod("late", "catalog", client.mesh.ip(10));
    client.mesh.write("late.yaml", &late);
    for waiting in waiting {
        let answer = within("an answer", waiting).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200, "{}", why(&answer));
    }
}

/// An endpoint of `catalog` that takes connections and says nothing.
async fn silent(client: &Client) -> App {
    let listener = TcpListener::bind(client.at(10)).await.unwrap();
    App(tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    }))
}

#[tokio::test]
async fn where_as_many_requests_are_in_flight_as_there_may_be() {
    let client = Client::start("", 1, "", &[("OUTBOUND_MAX_IN_FLIGHT", "1")]).await;
    let _silent = silent(&client).await;
    let stream = client.connect(9000).await;
    let first = tokio::spawn(one_http1(stream, get("/")));
    eventually("one in flight", async || {
        let waiting = client
            .mesh
            .metric("outbound_http_requests_in_flight", &[])
            .await;
        (waiting > 0.5).then_some(())
    })
    .await;
    let refused = client.get(9000, "/").await;
    assert_eq!(refused.status(), 503);
    assert!(
        why(&refused).ends_with("(OUTBOUND_MAX_IN_FLIGHT)"),
        "{}",
        why(&refused)
    );
    assert_counted(
        &client,
        "outbound_refused_total",
        r#"limit="in_flight""#,
        1.0,
    )
    .await;
    first.abort();
}

#[tokio::test]
async fn where_the_application_has_as_many_connections_as_it_may() {
    let client = Client::start("", 1, "", &[("OUTBOUND_MAX_CONNECTIONS", "1")]).await;
    let _app = app(client.at(10), |_| status(200)).await;
    let io = TokioIo::new(client.connect(9000).await);
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let response = send.send_request(get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
    let mut second = client.connect(9000).await;
    let mut said = Vec::new();
    // Closed, whether or not somebody has read what it says.
    let _ = second
        .write_all(b"GET / HTTP/1.1\r\nhost: catalog\r\n\r\n")
        .await;
    let _ = within("the end", second.read_to_end(&mut said)).await;
    assert_eq!(String::from_utf8_lossy(&said), "");
    assert_counted(
        &client,
        "outbound_refused_total",
        r#"limit="connections""#,
        1.0,
    )
    .await;
    drop(send);
    let _ = within("the first one's end", connection).await;
    eventually("a free place", async || {
        let stream = TcpStream::connect(client.listener(9000)).await.ok()?;
        let response = one_http1(stream, get("/")).await.ok()?;
        (response.status() == 200).then_some(())
    })
    .await;
}

/// Whether an answer ends its connection.
fn closes(response: &Response<Incoming>) -> bool {
    let closes = |name| {
        response
            .headers()
            .get(name)
            .is_some_and(|value| value == "close")
    };
    closes("connection")
}

#[tokio::test]
async fn a_failure_ends_its_connection_only_where_operators_want_that() {
    for (wanted, is_closed) in [("false", false), ("true", true)] {
        let close = [("OUTBOUND_CLOSE_ON_ERROR", wanted)];
        let client = Client::start("", 0, "", &[&FAST[..], &close].concat()).await;
        let io = TokioIo::new(client.connect(9000).await);
        let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        let response = send.send_request(get("/")).await.unwrap();
        assert_eq!(response.status(), 504);
        assert_eq!(closes(&response), is_closed, "{:?}", response.headers());
        response.into_body().collect().await.unwrap();
        if is_closed {
            within("the connection's end", connection)
                .await
                .unwrap()
                .unwrap();
        } else {
            within("a free connection", send.ready()).await.unwrap();
            let next = send.send_request(get("/")).await.unwrap();
            assert_eq!(next.status(), 503);
        }
    }
}
