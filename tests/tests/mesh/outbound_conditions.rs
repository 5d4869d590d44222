//! What else than a status calls for a retry, and what keeps one from being made: each over sockets, with what the page
//! of metrics, `/retries` and `linkerd stat retries` say of it.

use crate::{
    harness::{eventually, get, one_http1, within},
    outbound::{App, Client, app, counted, route, service, status, text, why},
    outbound_bodies::app as slow_app,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::watch,
};

const FATES: &str = "outbound_route_request_fates_total";
const RETRIES: &str = "outbound_route_retries_total";
const SUPPRESSED: &str = "outbound_route_retries_suppressed_total";
const BUDGET: (&str, &str) = ("OUTBOUND_RETRY_BUDGET_MIN_PER_SECOND", "1000");

async fn assert_metric(client: &Client, name: &str, label: &str, want: f64) {
    let got = client.mesh.metric(name, &[label]).await;
    assert!(
        (got - want).abs() < f64::EPSILON,
        "{name}{{{label}}}: {got}, not {want}"
    );
}

/// An application that reads each first request of a path and is gone without an answer, and answers the next.
async fn breaking(address: SocketAddr) -> (App, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let app = App(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                loop {
                    while !head.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    if counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                        return;
                    }
                    head.clear();
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    }));
    (app, calls)
}

#[tokio::test]
async fn an_endpoint_that_breaks_off_is_a_502_that_a_condition_may_name() {
    let named = Client::start("retry.linkerd.io/http: gateway-error", 1, "", &[BUDGET]).await;
    let (_app, calls) = breaking(named.at(10)).await;
    let response = named.get(9000, "/").await;
    assert_eq!(response.status(), 200, "{}", why(&response));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert_metric(&named, RETRIES, r#"reason="connection""#, 1.0).await;
    assert_metric(&named, FATES, r#"fate="recovered""#, 1.0).await;

    let other = Client::start("retry.linkerd.io/http: '503'", 1, "", &[BUDGET]).await;
    let (_app, calls) = breaking(other.at(10)).await;
    let response = other.get(9000, "/").await;
    assert_eq!(response.status(), 502);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_metric(&other, RETRIES, "", 0.0).await;
    assert_metric(&other, FATES, r#"fate="failed""#, 1.0).await;
}

const FAILFAST: [(&str, &str); 3] = [
    BUDGET,
    ("OUTBOUND_POLICY_LIMITS", "false"),
    ("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "300ms"),
];

#[tokio::test]
async fn a_request_that_waited_in_vain_for_one_backend_is_sent_to_another() {
    let rules = "  rules: [{backendRefs: [{name: catalog, port: 80}, {name: other, port: 80}]}]";
    let policy = route("HTTPRoute", rules) + &service("other", "");
    let client = Client::start("retry.linkerd.io/http: 5xx", 1, &policy, &FAILFAST).await;
    let _app = app(client.at(10), |_| status(200)).await;
    // The other backend has no endpoints: whoever draws it first waits for one.
    let reason = r#"reason="failfast""#;
    eventually("a request that drew the other", async || {
        let response = client.get(9000, "/").await;
        assert_eq!(response.status(), 200, "{}", why(&response));
        (client.mesh.metric(RETRIES, &[reason]).await > 0.5).then_some(())
    })
    .await;
    assert_metric(&client, FATES, r#"fate="recovered""#, 1.0).await;
    // Now it is known, and nobody else waits.
    for _ in 0..20 {
        assert_eq!(client.status(9000).await, 200);
    }
    assert_metric(&client, RETRIES, reason, 1.0).await;
}

#[tokio::test]
async fn an_answer_is_kept_where_no_backend_might_do_better() {
    let client = Client::start("retry.linkerd.io/http: 5xx", 1, "", &FAILFAST).await;
    let (tell, told) = watch::channel(false);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let _app = slow_app(client.at(10), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        let mut told = told.clone();
        async move {
            let _ = told.wait_for(|told| *told).await;
            let mut response = Response::new(Full::from("of the application").boxed());
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    })
    .await;
    let stream = client.connect(9000).await;
    let first = tokio::spawn(one_http1(stream, get("/")));
    eventually("the request", async || {
        (calls.load(Ordering::Relaxed) == 1).then_some(())
    })
    .await;
    // Its endpoint goes, and it is found out that there is no other.
    client.mesh.write(
        "catalog.yaml",
        &service("catalog", "retry.linkerd.io/http: 5xx"),
    );
    let name = "outbound_http_balancer_p2c_endpoints";
    eventually("no endpoints", async || {
        (client.mesh.metric(name, &[]).await < 0.5).then_some(())
    })
    .await;
    let waited = client.get(9000, "/").await;
    assert!(why(&waited).ends_with("no endpoints"), "{}", why(&waited));
    let before = client.mesh.metric(SUPPRESSED, &[r#"reason="shed""#]).await;
    let overflow = "outbound_http_route_retry_overflow_total";
    let overflown = client.mesh.metric(overflow, &[]).await;
    let seen = calls.load(Ordering::Relaxed);
    tell.send(true).unwrap();
    let answer = within("the answer", first).await.unwrap().unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(text(answer).await, "of the application");
    assert_eq!(calls.load(Ordering::Relaxed), seen, "no retry");
    assert_metric(&client, SUPPRESSED, r#"reason="shed""#, before + 1.0).await;
    assert_metric(&client, overflow, "", overflown + 1.0).await;
    assert_metric(&client, "outbound_http_route_retry_requests_total", "", 0.0).await;
}

#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_the_request_is_the_answer() {
    let client = Client::start("retry.linkerd.io/http: 5xx", 1, "", &[BUDGET]).await;
    let (_app, calls) = counted(client.at(10), 503).await;
    let io = TokioIo::new(client.connect(9000).await);
    let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let first = tokio_stream::once(Ok::<_, Infallible>(Frame::data(Bytes::from_static(
        b"half",
    ))));
    let body = StreamBody::new(futures::StreamExt::chain(first, futures::stream::pending()));
    let request = Request::post("http://catalog.shop/").body(body).unwrap();
    let response = within("an answer", send.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
    drop(response);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_metric(&client, SUPPRESSED, r#"reason="body_not_finished""#, 1.0).await;
    eventually("its fate", async || {
        let fate = client.mesh.metric(FATES, &[r#"fate="body""#]).await;
        (fate > 0.5).then_some(())
    })
    .await;
}

/// A sidecar whose route answers `/second` well with the second attempt, `/never` never, and all else at once; and has
/// been asked for ten, three and two of each.
async fn used() -> (Client, App) {
    let annotations = "retry.linkerd.io/http: 5xx, retry.linkerd.io/limit: '2'";
    let client = Client::start(annotations, 1, "", &[BUDGET]).await;
    let is_first = Arc::new(AtomicBool::new(true));
    let first = is_first.clone();
    let app = app(client.at(10), move |request: Request<Incoming>| {
        let is_first = first.swap(false, Ordering::Relaxed);
        match request.uri().path() {
            "/second" if is_first => status(503),
            "/never" => status(500),
            _ => status(200),
        }
    })
    .await;
    for (path, want, count) in [("/", 200, 10), ("/second", 200, 3), ("/never", 500, 2)] {
        for _ in 0..count {
            is_first.store(true, Ordering::Relaxed);
            let response = client.get(9000, path).await;
            assert_eq!(response.status(), want);
            text(response).await;
        }
    }
    eventually("all of them, counted", async || {
        (client.mesh.metric(FATES, &[]).await > 14.5).then_some(())
    })
    .await;
    (client, app)
}

/// `/retries` as an object.
async fn retries_json(client: &Client) -> serde_json::Value {
    let stream = TcpStream::connect(client.mesh.admin()).await.unwrap();
    let mut request = get("/retries");
    let json = "application/json".parse().unwrap();
    request.headers_mut().insert("accept", json);
    let page = text(one_http1(stream, request).await.unwrap()).await;
    serde_json::from_str(&page).unwrap_or_else(|error| panic!("{error}: {page}"))
}

#[tokio::test]
async fn attempts_and_the_time_they_cost_are_distributions() {
    let (client, _app) = used().await;
    let attempts = "outbound_route_request_attempts";
    for (bound, count) in [("1.0", 10.0), ("2.0", 13.0), ("3.0", 15.0), ("+Inf", 15.0)] {
        let label = format!("le=\"{bound}\"");
        assert_metric(&client, &format!("{attempts}_bucket"), &label, count).await;
    }
    assert_metric(&client, &format!("{attempts}_sum"), "", 10.0 + 6.0 + 6.0).await;
    // Of those that were retried: a pause of 25 ms at least before each second attempt, 50 before each third.
    let latency = "outbound_route_retry_latency_seconds";
    assert_metric(&client, &format!("{latency}_count"), "", 5.0).await;
    let seconds = client.mesh.metric(&format!("{latency}_sum"), &[]).await;
    assert!(seconds >= 3.0 * 0.025 + 2.0 * 0.075, "{seconds}");
}

#[tokio::test]
async fn the_pages_of_retries_and_the_command_line_say_the_same() {
    let (client, _app) = used().await;
    let json = retries_json(&client).await;
    let route = json.as_array().unwrap();
    let [route] = &route[..] else {
        panic!("{json}")
    };
    for (key, value) in [
        ("requests", 15),
        ("retries", 7),
        ("recovered", 3),
        ("gave_up", 2),
    ] {
        assert_eq!(route[key], value, "{key}: {json}");
    }
    assert_eq!(route["parent"], "Service.shop.catalog:80");
    assert_eq!(route["route"], "default.http");
    assert!(route["budget"].as_u64().unwrap() > 1000, "{json}");
    let counted = |list: &str, name: &str| {
        let list = route[list].as_array().unwrap();
        list.iter().find(|pair| pair[0] == name).unwrap()[1]
            .as_u64()
            .unwrap()
    };
    assert_eq!(
        (counted("reasons", "503"), counted("reasons", "5xx")),
        (3, 4)
    );
    assert_eq!(counted("suppressed", "limit"), 2);
    assert_eq!(counted("fates", "success"), 10);

    let (_, table) = client.mesh.get_admin("/retries").await.unwrap();
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    let numbers = [
        "Service.shop.catalog:80",
        "default.http",
        "15",
        "5",
        "7",
        "31.8%",
        "3",
        "2",
    ];
    assert_eq!(row[..8], numbers, "{table}");
    let why = "5xx 4, 503 3; not retried: limit 2";
    assert!(table.contains(why), "{table}");

    let admin = client.mesh.admin().to_string();
    let said = Command::new(linkerd_tests::binary("linkerd"))
        .args(["stat", "retries", &admin])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let row: Vec<&str> = said.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..8], numbers, "{said}");
    let said = Command::new(linkerd_tests::binary("linkerd"))
        .args(["stat", "retries", &admin, &admin, "-o", "json"])
        .output()
        .await
        .unwrap();
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    // Asked twice of the same sidecar: twice as many.
    assert_eq!(said[0]["requests"], 30.0, "{said}");
    assert_eq!(said[0]["retries"], 14.0, "{said}");
    assert_eq!(said[0]["reasons"]["503"], 6.0, "{said}");
    assert_eq!(said[0]["fates"]["limit"], 4.0, "{said}");
}

#[tokio::test]
async fn totals_hold_where_there_is_no_room_for_the_series_of_each_route() {
    // Each route has ten series of fates and fifteen of reasons; a dozen routes have more than there may be.
    let routes: String = (0..12)
        .map(|at| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r{at}, namespace: shop, annotations: {{retry.linkerd.io/http: 5xx}}}}
spec:
  parentRefs: [{{group: core, kind: Service, name: catalog}}]
  hostnames: [h{at}]
  rules: [{{}}]
---
"
            )
        })
        .collect();
    let variables = [BUDGET, ("METRICS_MAX_SERIES", "40")];
    let client = Client::start("", 1, &routes, &variables).await;
    let _app = app(client.at(10), |_| status(503)).await;
    for at in 0..12 {
        let request = Request::get("/").header("host", format!("h{at}"));
        let request = request.body(Full::default()).unwrap();
        let response = one_http1(client.connect(9000).await, request)
            .await
            .unwrap();
        assert_eq!(response.status(), 503);
        text(response).await;
    }
    eventually("all of them, counted", async || {
        (client.mesh.metric(FATES, &[]).await > 11.5).then_some(())
    })
    .await;
    assert_metric(&client, RETRIES, "", 12.0).await;
    let (_, table) = client.mesh.get_admin("/retries").await.unwrap();
    let all = table.lines().find(|line| line.starts_with("all ")).unwrap();
    let numbers: Vec<&str> = all.split_whitespace().collect();
    assert_eq!(numbers[1..5], ["12", "12", "12", "50.0%"], "{table}");
    let other = table.lines().find(|line| line.starts_with("other "));
    assert!(
        other.is_some(),
        "what has no row of its own is in one: {table}"
    );
    assert!(table.contains("HTTPRoute.shop.r0 "), "{table}");
    let json = retries_json(&client).await;
    let sum = |key: &str| -> u64 {
        let routes = json.as_array().unwrap().iter();
        routes.map(|route| route[key].as_u64().unwrap()).sum()
    };
    assert_eq!((sum("requests"), sum("retries")), (12, 12), "{json}");
    let said = Command::new(linkerd_tests::binary("linkerd"))
        .args(["stat", "retries", &client.mesh.admin().to_string()])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let all = said.lines().find(|line| line.starts_with("all ")).unwrap();
    let numbers: Vec<&str> = all.split_whitespace().collect();
    assert_eq!(numbers[1..5], ["12", "12", "12", "50.0%"], "{said}");
}

#[tokio::test]
async fn a_route_that_is_idle_is_counted_for_as_long_as_its_series_and_the_page_says_what_is_gone()
{
    let variables = [
        BUDGET,
        ("METRICS_RETAIN_IDLE", "1s"),
        ("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "100ms"),
    ];
    let client = Client::start("retry.linkerd.io/http: 5xx", 1, "", &variables).await;
    let _app = app(client.at(10), |_| status(503)).await;
    assert_eq!(client.status(9000).await, 503);
    let unused = "no destination is in use";
    eventually("nothing is in use", async || {
        let (_, page) = client.mesh.get_admin("/outbound").await?;
        page.contains(unused).then_some(())
    })
    .await;
    let mut seen = Vec::new();
    let said = eventually("what is gone", async || {
        let (_, metrics) = client.mesh.get_admin("/metrics").await?;
        let (_, table) = client.mesh.get_admin("/retries").await?;
        // Pages are made one after the other: what was there before and is there after is in the table.
        let (_, later) = client.mesh.get_admin("/metrics").await?;
        let name = format!("{FATES}{{parent_group=\"core\"");
        if metrics.contains(&name) && later.contains(&name) {
            assert!(table.contains("Service.shop.catalog:80"), "{table}");
        }
        seen.push(later.contains(&name));
        table.contains("METRICS_RETAIN_IDLE").then_some(table)
    })
    .await;
    assert!(said.contains("1 route that was idle"), "{said}");
    assert!(seen.contains(&true), "it was there for a while");
}
