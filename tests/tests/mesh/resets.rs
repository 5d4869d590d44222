//! HTTP/2 applications that break a request off: their clients are told what the application said, so that they know
//! whether they may ask again.

use crate::{
    authorization::server,
    frames::{self, Act},
    harness::{Mesh, within},
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};

async fn connected(mesh: &Mesh) -> SendRequest<Full<Bytes>> {
    let stream = mesh.connect_tls(&mesh.client("api")).await;
    let io = TokioIo::new(stream);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (send, connection) = handshake.unwrap();
    tokio::spawn(connection);
    send
}

fn ask(path: &str, carried: bool) -> Request<Full<Bytes>> {
    let mut request = Request::get(format!("http://web{path}"));
    if carried {
        request = request.header("l5d-orig-proto", "HTTP/1.1");
    }
    request.body(Full::default()).unwrap()
}

/// Why the stream of a request was reset.
async fn reset(send: &mut SendRequest<Full<Bytes>>) -> h2::Reason {
    let outcome = within("an outcome", send.send_request(ask("/", false))).await;
    let error = outcome.expect_err("the application resets");
    let source = std::error::Error::source(&error).unwrap();
    let error = source.downcast_ref::<h2::Error>().unwrap();
    assert!(error.is_reset() && error.is_remote(), "{error}");
    error.reason().unwrap()
}

async fn count(mesh: &Mesh, name: &str, labels: &[&str], want: f64) {
    let got = mesh.metric(name, labels).await;
    assert!((got - want).abs() < f64::EPSILON, "{name}: {got}");
}

#[tokio::test]
async fn a_stream_that_the_application_resets_is_reset_with_its_code_and_the_next_is_served() {
    let mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let _app = frames::serve(mesh.origin(), |asked| match asked.stream {
        1 => Act::Reset(frames::REFUSED_STREAM),
        3 => Act::Reset(frames::INTERNAL_ERROR),
        _ => Act::Answer,
    })
    .await;
    let mut send = connected(&mesh).await;
    assert_eq!(reset(&mut send).await, h2::Reason::REFUSED_STREAM);
    assert_eq!(reset(&mut send).await, h2::Reason::INTERNAL_ERROR);
    let response = within("an answer", send.send_request(ask("/", false))).await;
    assert_eq!(response.unwrap().status(), 200);
    let unexpected = [r#"error="unexpected""#];
    count(&mesh, "inbound_http_errors_total", &unexpected, 2.0).await;
    let refused = [
        r#"error="h2(REFUSED_STREAM)""#,
        r#"classification="failure""#,
    ];
    count(&mesh, "response_total", &refused, 1.0).await;
}

#[tokio::test]
async fn a_request_that_the_application_had_not_begun_when_it_went_away_is_refused_not_failed() {
    let mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let _app = frames::serve(mesh.origin(), |_| Act::GoAway {
        last: 0,
        answers: &[],
    })
    .await;
    let mut send = connected(&mesh).await;
    assert_eq!(reset(&mut send).await, h2::Reason::REFUSED_STREAM);
}

#[tokio::test]
async fn an_application_that_breaks_off_what_it_has_begun_is_a_502() {
    let mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let _app = frames::serve(mesh.origin(), |_| Act::GoAway {
        last: 1,
        answers: &[],
    })
    .await;
    let mut send = connected(&mesh).await;
    let response = within("an answer", send.send_request(ask("/", false))).await;
    assert_eq!(response.unwrap().status(), 502);
}
