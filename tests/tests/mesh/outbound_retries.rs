//! What is retried and what is not: each condition that policy can name, over HTTP and gRPC, where the status of a call
//! is in its headers or in its trailers; where a retry goes, and how long each attempt may take.

use crate::{
    harness::{get, one_http1, one_http2},
    outbound::{App, Client, app, counted, status, why},
    outbound_bodies::app as slow_app,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::Incoming;
use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::watch;

/// Every failure of these tests may be retried as far as the budget goes.
const BUDGET: [(&str, &str); 1] = [("OUTBOUND_RETRY_BUDGET_MIN_PER_SECOND", "1000")];

/// A route for one host, with an annotation of its own.
fn route(kind: &str, host: &str, annotations: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {host}, namespace: shop, annotations: {{{annotations}}}}}
spec:
  parentRefs: [{{group: core, kind: Service, name: catalog}}]
  hostnames: [{host}]
  rules: [{{}}]
---
"
    )
}

/// How often each path was asked for, by host.
type Calls = Arc<Mutex<HashMap<String, usize>>>;

/// Counts a request; whether it is the first of its host and path.
fn is_first(calls: &Calls, request: &Request<Incoming>) -> bool {
    let host = request
        .headers()
        .get("host")
        .map(|host| host.to_str().unwrap());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let key = format!("{}{}", authority.or(host).unwrap(), request.uri().path());
    let mut calls = calls.lock().unwrap();
    let count = calls.entry(key).or_default();
    *count += 1;
    *count == 1
}

/// A condition, statuses that it names, statuses that it does not.
type Condition = (&'static str, &'static [u16], &'static [u16]);

const HTTP: [Condition; 7] = [
    ("503", &[503], &[500, 502, 504, 429, 404]),
    ("500-502", &[500, 501, 502], &[503, 499, 404]),
    ("5xx", &[500, 503, 511, 599], &[499, 429, 404, 200]),
    ("gateway-error", &[502, 503, 504], &[500, 501, 505, 429]),
    ("429", &[429], &[503, 428]),
    ("404,5xx", &[404, 500], &[403, 405]),
    ("400-599", &[400, 499, 500], &[399]),
];

#[tokio::test]
async fn a_status_is_retried_if_a_condition_names_it_and_else_is_the_answer() {
    let routes: String = HTTP
        .iter()
        .enumerate()
        .map(|(at, (condition, ..))| {
            route(
                "HTTPRoute",
                &format!("c{at}"),
                &format!("retry.linkerd.io/http: '{condition}'"),
            )
        })
        .collect();
    let client = Client::start("", 1, &routes, &BUDGET).await;
    let calls = Calls::default();
    let counted = calls.clone();
    // The first answer to each path is the status that it names.
    let _app = app(client.at(10), move |request| {
        let code = request
            .uri()
            .path()
            .trim_start_matches('/')
            .parse()
            .unwrap();
        status(if is_first(&counted, &request) {
            code
        } else {
            200
        })
    })
    .await;
    for (at, (condition, named, others)) in HTTP.iter().enumerate() {
        let all = named.iter().map(|code| (code, true));
        for (code, is_named) in all.chain(others.iter().map(|code| (code, false))) {
            let request = Request::get(format!("/{code}")).header("host", format!("c{at}"));
            let request = request.body(Full::default()).unwrap();
            let response = one_http1(client.connect(9000).await, request)
                .await
                .unwrap();
            let (want, times) = if is_named { (200, 2) } else { (*code, 1) };
            assert_eq!(
                response.status(),
                want,
                "{condition}, {code}: {}",
                why(&response)
            );
            let count = calls.lock().unwrap()[&format!("c{at}/{code}")];
            assert_eq!(count, times, "{condition}, {code}");
        }
    }
    let retries: usize = HTTP.iter().map(|(_, named, _)| named.len()).sum();
    let counted = client
        .mesh
        .metric("outbound_http_route_retry_requests_total", &[])
        .await;
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    let wanted = retries as f64;
    assert!(
        (counted - wanted).abs() < f64::EPSILON,
        "{counted}, not {wanted}"
    );
}

const GRPC: [(&str, &[u16]); 6] = [
    ("cancelled", &[1]),
    ("deadline-exceeded", &[4]),
    ("resource-exhausted", &[8]),
    ("internal", &[13]),
    ("unavailable", &[14]),
    ("cancelled,unavailable", &[1, 14]),
];

/// Where a call's status is.
const PLACES: [&str; 3] = ["headers", "trailers", "after-one-message"];

/// A gRPC answer with its status in one of the places.
fn call_answer(place: &str, code: u16) -> Response<BoxBody<Bytes, Infallible>> {
    let mut status = HeaderMap::new();
    status.insert("grpc-status", code.into());
    let mut response = Response::new(match place {
        "headers" => Empty::new().boxed(),
        _ => {
            let message = Frame::data(Bytes::from_static(b"\0\0\0\0\x01x"));
            let message = (place == "after-one-message").then_some(message);
            let frames = message.into_iter().chain([Frame::trailers(status.clone())]);
            let frames: Vec<Result<_, Infallible>> = frames.map(Ok).collect();
            StreamBody::new(tokio_stream::iter(frames)).boxed()
        }
    });
    let headers = response.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    if place == "headers" {
        headers.extend(status);
    }
    response
}

/// The status of a call, wherever it is.
async fn call_status(response: Response<Incoming>) -> u16 {
    let number = |map: &HeaderMap| {
        let value = map.get("grpc-status")?;
        value.to_str().ok()?.parse::<u16>().ok()
    };
    if let Some(code) = number(response.headers()) {
        return code;
    }
    let body = response.into_body().collect().await.unwrap();
    number(body.trailers().unwrap()).unwrap()
}

#[tokio::test]
async fn a_call_is_retried_if_a_condition_names_its_code_wherever_that_is_said() {
    let routes: String = GRPC
        .iter()
        .enumerate()
        .map(|(at, (condition, _))| {
            route(
                "GRPCRoute",
                &format!("c{at}"),
                &format!("retry.linkerd.io/grpc: '{condition}'"),
            )
        })
        .collect();
    let client = Client::start("", 1, &routes, &BUDGET).await;
    let calls = Calls::default();
    let counted = calls.clone();
    // The first answer to `/place/code` is that code.
    let _app = slow_app(client.at(10), move |request| {
        let parts: Vec<&str> = request.uri().path().split('/').collect();
        let (place, code) = (parts[1].to_owned(), parts[2].parse().unwrap());
        let code = if is_first(&counted, &request) {
            code
        } else {
            0
        };
        async move { call_answer(&place, code) }
    })
    .await;
    for (at, (condition, named)) in GRPC.iter().enumerate() {
        for code in 1..=16 {
            for place in PLACES {
                let path = format!("c{at}/{place}/{code}");
                let request = Request::post(format!("http://{path}"))
                    .header("content-type", "application/grpc")
                    .body(Full::default())
                    .unwrap();
                let response = one_http2(client.connect(9000).await, request)
                    .await
                    .unwrap();
                let (want, times) = if named.contains(&code) {
                    (0, 2)
                } else {
                    (code, 1)
                };
                assert_eq!(call_status(response).await, want, "{condition}: {path}");
                assert_eq!(calls.lock().unwrap()[&path], times, "{condition}: {path}");
            }
        }
    }
}

#[tokio::test]
async fn there_are_as_many_attempts_as_the_limit_says_and_one_retry_where_it_says_nothing() {
    let five = "retry.linkerd.io/http: 5xx";
    let routes = [
        ("none", five.to_owned()),
        ("three", format!("{five}, retry.linkerd.io/limit: '3'")),
    ]
    .map(|(host, annotations)| route("HTTPRoute", host, &annotations))
    .concat();
    let client = Client::start("", 1, &routes, &BUDGET).await;
    let calls = Calls::default();
    let counted = calls.clone();
    let _app = app(client.at(10), move |request| {
        is_first(&counted, &request);
        status(503)
    })
    .await;
    for (host, attempts) in [("none", 2), ("three", 4)] {
        let request = Request::get("/")
            .header("host", host)
            .body(Full::default())
            .unwrap();
        let response = one_http1(client.connect(9000).await, request)
            .await
            .unwrap();
        assert_eq!(response.status(), 503, "{host}");
        assert_eq!(
            calls.lock().unwrap()[&format!("{host}/")],
            attempts,
            "{host}"
        );
    }
}

#[tokio::test]
async fn a_retry_goes_to_another_endpoint_if_there_is_one() {
    let client = Client::start("retry.linkerd.io/http: 5xx", 2, "", &BUDGET).await;
    let (_bad, failed) = counted(client.at(10), 503).await;
    let _good = app(client.at(11), |_| status(200)).await;
    for _ in 0..100 {
        assert_eq!(client.status(9000).await, 200);
    }
    assert!(
        failed.load(Ordering::Relaxed) > 0,
        "it is asked now and then"
    );
}

/// An application that answers the n-th request 200 when a test says so, others never.
async fn answers_only(
    address: SocketAddr,
    which: usize,
) -> (App, Arc<AtomicUsize>, watch::Sender<bool>) {
    let (tell, told) = watch::channel(false);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let app = slow_app(address, move |_| {
        let is_it = counted.fetch_add(1, Ordering::Relaxed) + 1 == which;
        let mut told = told.clone();
        async move {
            if is_it {
                let _ = told.wait_for(|told| *told).await;
            } else {
                std::future::pending::<()>().await;
            }
            Response::new(Empty::new().boxed())
        }
    })
    .await;
    (app, calls, tell)
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_retried_and_the_last_one_may_take_its_time() {
    let annotations =
        "retry.linkerd.io/http: 5xx, retry.linkerd.io/limit: '2', retry.linkerd.io/timeout: 100ms";
    let client = Client::start(annotations, 1, "", &BUDGET).await;
    let (_app, calls, tell) = answers_only(client.at(10), 3).await;
    let stream = client.connect(9000).await;
    let answer = tokio::spawn(async move { one_http1(stream, get("/")).await.unwrap().status() });
    let by_timeout = async || {
        let reason = [r#"reason="timeout""#];
        client
            .mesh
            .metric("outbound_route_retries_total", &reason)
            .await
    };
    crate::harness::eventually("a third attempt", async || {
        (calls.load(Ordering::Relaxed) == 3).then_some(())
    })
    .await;
    // The third attempt is not limited: it outlasts two limits of another request, which begins after it.
    let stream = client.connect(9000).await;
    let other = tokio::spawn(async move { one_http1(stream, get("/")).await });
    crate::harness::eventually("two more retries", async || {
        (by_timeout().await > 3.5).then_some(())
    })
    .await;
    other.abort();
    assert!(!answer.is_finished());
    tell.send(true).unwrap();
    assert_eq!(answer.await.unwrap(), 200);
    assert!(calls.load(Ordering::Relaxed) >= 5);
}
