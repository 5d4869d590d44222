//! Answers: those of the proxy's own, and what HTTP says about an application's that must survive the way.

use crate::{
    authorization::server,
    harness::{Mesh, eventually, get, one_http2, within},
    origin,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
};

async fn open_with(variables: &[(&str, &str)]) -> Mesh {
    Mesh::start_with(&server("accessPolicy: all-unauthenticated"), variables).await
}

#[tokio::test]
async fn a_redirect_filter_answers_for_the_application() {
    let policy = server("accessPolicy: all-unauthenticated, proxyProtocol: HTTP/1")
        + "---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: moved, namespace: shop}
spec:
  parentRefs: [{group: policy.linkerd.io, kind: Server, name: web-http}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example, statusCode: 302}}]
";
    let mesh = Mesh::start(&policy).await;
    let response = mesh.send_plain(5, get("/old/page?q=1")).await;
    assert_eq!(response.status(), 302);
    let location = response.headers()["location"].to_str().unwrap();
    assert!(
        location.starts_with("http://new.example") && location.ends_with("/old/page?q=1"),
        "{location}"
    );
}

#[tokio::test]
async fn more_requests_than_may_wait_are_told_503_at_once() {
    let mesh = open_with(&[("INBOUND_MAX_IN_FLIGHT", "1")]).await;
    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    let first = mesh.connect_from(5, mesh.web()).await;
    let (mut first, mut waiting) = first.into_split();
    let request = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
    waiting.write_all(request).await.unwrap();
    let (mut application, _) = within("the first request", listener.accept())
        .await
        .unwrap();
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 503);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    application.write_all(answer).await.unwrap();
    let mut text = String::new();
    within("the first answer", first.read_to_string(&mut text))
        .await
        .unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let shed = mesh
        .metric("inbound_http_errors_total", &[r#"error="loadshed""#])
        .await;
    assert!((shed - 1.0).abs() < f64::EPSILON, "{shed}");
}

#[tokio::test]
async fn an_application_that_does_not_accept_is_a_504() {
    let mesh = open_with(&[]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(mesh.origin()).unwrap();
    let _full = socket.listen(0).unwrap();
    // Nobody accepts, and the kernel's queue is full of these.
    let (address, mut queue) = (mesh.origin(), tokio::task::JoinSet::new());
    for _ in 0..4 {
        queue.spawn(tokio::net::TcpStream::connect(address));
    }
    let _queued = within("one in the queue", queue.join_next()).await;
    eventually("504", async || {
        (mesh.send_plain(5, get("/")).await.status() == 504).then_some(())
    })
    .await;
}

/// Sends one request on a connection of its own and reads to the end.
pub(crate) async fn raw(mesh: &Mesh, request: &str) -> String {
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within("the end", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn answers_without_a_body_stay_without_one() {
    let mesh = open_with(&[]).await;
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 10\r\n\r\n",
        ),
    ] {
        let origin = origin::scripted(mesh.origin(), b"", b"\r\n\r\n", answer.as_bytes()).await;
        let request = format!("{method} / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
        let got = raw(&mesh, &request).await;
        origin.stop().await;
        let (head, body) = got.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&answer[..12]), "{head}");
        assert!(body.is_empty(), "{method}: {got}");
        // With 304 the length may be left out (RFC 9110 §15.4.5); a wrong one may not be said.
        assert!(!head.contains("content-length: 0"), "{method}: {head}");
        assert_eq!(
            head.contains("content-length: 10"),
            method == "HEAD",
            "{head}"
        );
        assert_eq!(
            head.contains("etag: \"x\""),
            answer.contains("etag"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_and_then_its_answer() {
    let mesh = open_with(&[]).await;
    let _origin = origin::echo(mesh.origin()).await;
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    let head = b"POST /c HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut interim = [0; 25];
    within("100", stream.read_exact(&mut interim))
        .await
        .unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn connect_becomes_a_tunnel() {
    let mesh = open_with(&[]).await;
    let answer = b"HTTP/1.1 200 OK\r\n\r\nthrough the tunnel";
    let _origin = origin::scripted(mesh.origin(), b"", b"\r\n\r\n", answer).await;
    let got = raw(&mesh, "CONNECT web:8080 HTTP/1.1\r\nhost: web:8080\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    assert!(got.ends_with("\r\n\r\nthrough the tunnel"), "{got}");
}

#[tokio::test]
async fn trailers_reach_the_client_over_http2() {
    let mesh = open_with(&[]).await;
    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    let origin = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(|_| async {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let frames = [
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"data"))),
                Ok(Frame::trailers(trailers)),
            ];
            let body = StreamBody::new(futures::stream::iter(frames));
            Ok::<_, Infallible>(Response::new(body))
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    });
    let request = Request::post("http://web/shop.Cart/Add")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::default())
        .unwrap();
    let stream = mesh.connect_tls(&mesh.client("api")).await;
    let response = one_http2(stream, request).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "data");
    origin.abort();
}
