//! The outbound side, protocol by protocol: what endpoints may do with HTTP/2, TLS by its server name, names that
//! requests give, tunnels, and bodies and byte streams of any size.

use crate::{
    frames::{self, Act},
    harness::within,
    outbound::{Client, why},
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// An application's HTTP/2 connection to its sidecar.
async fn http2(client: &Client, port: u16) -> SendRequest<Full<Bytes>> {
    let io = TokioIo::new(client.connect(port).await);
    let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

fn ask() -> Request<Full<Bytes>> {
    Request::get("http://catalog.shop/")
        .body(Full::default())
        .unwrap()
}

fn post(bytes: usize) -> Request<Full<Bytes>> {
    Request::post("http://catalog.shop/")
        .body(Full::from(vec![b'x'; bytes]))
        .unwrap()
}

async fn assert_metric(client: &Client, name: &str, labels: &[&str], want: f64) {
    let got = client.mesh.metric(name, labels).await;
    assert!(
        (got - want).abs() < f64::EPSILON,
        "{name}{labels:?}: {got}, not {want}"
    );
}

#[tokio::test]
async fn an_endpoint_that_goes_away_costs_no_request() {
    let client = Client::start("", 1, "", &[]).await;
    // Each connection serves nine requests, holds the tenth and, when there is an eleventh, says that it has begun
    // neither. Every second request has a body.
    let _app = frames::serve(client.at(10), |asked| match asked.stream {
        ..19 => Act::Answer,
        19 => Act::Hold,
        _ => Act::Leave,
    })
    .await;
    let send = http2(&client, 9000).await;
    let asking = |count: usize| {
        let mut send = send.clone();
        tokio::spawn(async move {
            for at in 0..count {
                let request = if at % 2 == 0 { ask() } else { post(3000) };
                let response = within("an answer", send.send_request(request))
                    .await
                    .unwrap();
                assert_eq!(response.status(), 200, "{}", why(&response));
            }
        })
    };
    // The last request of all could be held with none after it: one goes on until the others are done.
    let goes_on = asking(usize::MAX);
    for task in [(); 4].map(|()| asking(50)) {
        within("the load's end", task).await.unwrap();
    }
    assert!(!goes_on.is_finished());
    goes_on.abort();
    let refused = [r#"reason="refused""#];
    let name = "outbound_route_retries_total";
    let retries = client.mesh.metric(name, &refused).await;
    assert!(retries > 10.0, "{retries} in flight when it went away");
    for fate in ["failed", "failed_after_retries", "limit", "body", "budget"] {
        let label = format!("fate=\"{fate}\"");
        let name = "outbound_route_request_fates_total";
        assert_metric(&client, name, &[&label], 0.0).await;
    }
}

#[tokio::test]
async fn what_an_endpoint_has_begun_when_it_goes_away_is_answered_by_it() {
    let client = Client::start("", 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let _app = frames::serve(client.at(10), move |asked| {
        counted.fetch_add(1, Ordering::Relaxed);
        match (asked.connection, asked.stream) {
            (0, 1 | 3) => Act::Hold,
            (0, _) => Act::GoAway {
                last: 3,
                answers: &[1, 3],
            },
            _ => Act::Answer,
        }
    })
    .await;
    let send = http2(&client, 9000).await;
    let all = (0..3).map(|_| {
        let mut send = send.clone();
        async move {
            within("an answer", send.send_request(ask()))
                .await
                .unwrap()
                .status()
        }
    });
    for status in futures::future::join_all(all).await {
        assert_eq!(status, 200);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 4, "one of three asked again");
}

#[tokio::test]
async fn what_an_endpoint_may_have_begun_is_not_sent_twice() {
    let client = Client::start("", 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let _app = frames::serve(client.at(10), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        // It has begun stream 1, and is gone without an answer.
        Act::GoAway {
            last: 1,
            answers: &[],
        }
    })
    .await;
    let mut send = http2(&client, 9000).await;
    let outcome = within("an outcome", send.send_request(ask())).await;
    assert_eq!(outcome.unwrap().status(), 502);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_refused_stream_is_asked_again_without_any_retry_policy_and_counted() {
    let client = Client::start("", 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let _app = frames::serve(client.at(10), move |_| {
        match counted.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => Act::Reset(frames::REFUSED_STREAM),
            _ => Act::Answer,
        }
    })
    .await;
    let mut send = http2(&client, 9000).await;
    for request in [ask(), post(1000), post(1)] {
        let response = within("an answer", send.send_request(request))
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{}", why(&response));
    }
    assert_eq!(calls.load(Ordering::Relaxed), 6);
    for (name, labels) in [
        (
            "outbound_route_request_fates_total",
            &[r#"fate="recovered""#][..],
        ),
        ("outbound_route_retries_total", &[r#"reason="refused""#]),
        (
            "outbound_route_retried_requests_total",
            &[r#"outcome="recovered""#],
        ),
        ("outbound_http_route_retry_requests_total", &[]),
        ("outbound_http_route_retry_successes_total", &[]),
        (
            "outbound_http_route_backend_response_statuses_total",
            &[r#"http_status="200""#],
        ),
    ] {
        assert_metric(&client, name, labels, 3.0).await;
    }
    assert_metric(
        &client,
        "outbound_http_route_backend_requests_total",
        &[],
        6.0,
    )
    .await;
    // More than is kept of a body cannot be sent again, and the page says so.
    let response = within("an answer", send.send_request(post(100_000)))
        .await
        .unwrap();
    assert_eq!(response.status(), 502);
    let name = "outbound_route_retries_suppressed_total";
    assert_metric(&client, name, &[r#"reason="body_too_large""#], 1.0).await;
}

#[tokio::test]
async fn a_stream_reset_for_another_reason_is_not_asked_again() {
    let client = Client::start("", 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let _app = frames::serve(client.at(10), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Act::Reset(frames::INTERNAL_ERROR)
    })
    .await;
    let mut send = http2(&client, 9000).await;
    let response = within("an answer", send.send_request(ask())).await.unwrap();
    assert_eq!(response.status(), 502);
    assert!(why(&response).contains("broken off"), "{}", why(&response));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_metric(&client, "outbound_route_retries_total", &[], 0.0).await;
    let failed = [r#"fate="failed""#];
    assert_metric(&client, "outbound_route_request_fates_total", &failed, 1.0).await;
}
