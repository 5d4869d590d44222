//! Interim answers (1xx): an application's reach whoever asked, in whatever versions of HTTP, before the answer and at
//! once.

use crate::{
    answers::raw,
    authorization::server,
    harness::{Mesh, one_http2, within},
    origin,
    outbound::{App, Client},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nconnection: x-hop\r\nx-hop: 1\r\nl5d-proxy-error: lies\r\n\r\n";
const WANTED: &[u8] =
    b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 201 Created\r\ndate: today\r\ncontent-length: 4\r\n\r\ndone";

/// Answers of an application that its test lets go one by one.
type Gate = Arc<Semaphore>;

fn gate() -> Gate {
    Arc::new(Semaphore::new(0))
}

async fn pass(gate: &Gate) {
    gate.acquire().await.unwrap().forget();
}

/// Runs `serve` on each connection. Ends with the test.
async fn application<F>(
    address: SocketAddr,
    gate: &Gate,
    serve: impl Fn(TcpStream, Gate) -> F + Send + 'static,
) -> App
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = origin::listen(address).await;
    let gate = gate.clone();
    App(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, gate.clone()));
        }
    }))
}

/// An application of HTTP/1 with interim answers.
async fn http1(mut stream: TcpStream, gate: Gate) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        stream.write_all(INTERIM).await.unwrap();
        pass(&gate).await;
        stream.write_all(ANSWER).await.unwrap();
    }
}

fn head(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

/// An application of HTTP/2 with interim answers.
async fn http2(stream: TcpStream, gate: Gate) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let gate = gate.clone();
        tokio::spawn(async move {
            respond.send_informational(head(100)).unwrap();
            respond.send_informational(head(102)).unwrap();
            let mut hints = head(103);
            let headers = hints.headers_mut();
            headers.insert("link", "</a.css>".parse().unwrap());
            headers.insert("l5d-proxy-error", "lies".parse().unwrap());
            respond.send_informational(hints).unwrap();
            pass(&gate).await;
            let mut body = respond.send_response(head(201), false).unwrap();
            body.send_data(Bytes::from_static(b"done"), true).unwrap();
        });
    }
}

/// Sends two requests at once over HTTP/1: interim answers come before either answer, and nothing of the second may come
/// between parts of the first.
async fn ask_http1<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, gate: &Gate) {
    let request = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    stream
        .write_all(request.repeat(2).as_bytes())
        .await
        .unwrap();
    for _ in 0..2 {
        let mut got = vec![0; WANTED.len()];
        within("the interim answers", stream.read_exact(&mut got))
            .await
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&got),
            String::from_utf8_lossy(WANTED)
        );
        // Only now there is an answer.
        gate.add_permits(1);
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\ndone") {
            got.push(within("the answer", stream.read_u8()).await.unwrap());
        }
        let got = String::from_utf8_lossy(&got);
        assert!(got.starts_with("HTTP/1.1 201 Created\r\n"), "{got}");
        assert_eq!(got.matches("HTTP/1.1").count(), 1, "{got}");
    }
}

/// An interim answer as it was received: its status and its headers.
type Got = (u16, Vec<(String, String)>);

/// Sends a request over HTTP/2 and reads `count` interim answers; then there may be an answer.
async fn ask_http2<S>(stream: S, request: Request<()>, count: usize, gate: &Gate) -> Vec<Got>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let (mut response, _) = send.send_request(request, true).unwrap();
    let mut all = Vec::new();
    while all.len() < count {
        let interim = poll_fn(|cx| response.poll_informational(cx));
        let interim = within("an interim answer", interim).await;
        let interim = interim.expect("an interim answer").unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = interim.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), text(value.as_bytes())));
        all.push((interim.status().as_u16(), headers.collect()));
    }
    gate.add_permits(1);
    let response = within("the answer", response).await.unwrap();
    assert_eq!(response.status(), 201);
    let mut body = response.into_body();
    let data = within("the body", body.data()).await.unwrap().unwrap();
    assert_eq!(data, "done");
    connection.abort();
    all
}

fn hints() -> Got {
    (103, vec![("link".to_owned(), "</a.css>".to_owned())])
}

fn ask() -> Request<()> {
    Request::get("http://web/").body(()).unwrap()
}

async fn open() -> Mesh {
    Mesh::start(&server("accessPolicy: all-unauthenticated")).await
}

#[tokio::test]
async fn of_an_http1_application_they_reach_an_http1_client() {
    let (mesh, gate) = (open().await, gate());
    let _app = application(mesh.origin(), &gate, http1).await;
    ask_http1(mesh.connect_tls(&mesh.client("api")).await, &gate).await;
    ask_http1(mesh.connect_from(5, mesh.web()).await, &gate).await;
}

#[tokio::test]
async fn http1_0_has_none() {
    let mesh = open().await;
    let answer = [INTERIM, ANSWER].concat().leak();
    let _origin = origin::scripted(mesh.origin(), b"", b"\r\n\r\n", answer).await;
    let got = raw(&mesh, "GET / HTTP/1.0\r\nhost: web\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.0 201 Created\r\n"), "{got}");
    assert!(got.ends_with("\r\n\r\ndone"), "{got}");
}

#[tokio::test]
async fn of_an_http2_application_they_reach_an_http2_client() {
    let (mesh, gate) = (open().await, gate());
    let _app = application(mesh.origin(), &gate, http2).await;
    let wanted = [(100, vec![]), (102, vec![]), hints()];
    let stream = mesh.connect_tls(&mesh.client("api")).await;
    assert_eq!(ask_http2(stream, ask(), 3, &gate).await, wanted);
    let stream = mesh.connect_from(5, mesh.web()).await;
    assert_eq!(ask_http2(stream, ask(), 3, &gate).await, wanted);
}

#[tokio::test]
async fn of_an_http1_application_they_reach_the_proxy_that_carried_the_request_in_http2() {
    let (mesh, gate) = (open().await, gate());
    let _app = application(mesh.origin(), &gate, http1).await;
    let carried = |version: &str| {
        let mut request = ask();
        let headers = request.headers_mut();
        headers.insert("l5d-orig-proto", version.parse().unwrap());
        request
    };
    let stream = mesh.connect_tls(&mesh.client("api")).await;
    let got = ask_http2(stream, carried("HTTP/1.1"), 2, &gate).await;
    let last = got.last().unwrap();
    assert_eq!(last.0, if got[0].0 == 100 { 102 } else { 103 }, "{got:?}");
    gate.add_permits(1);
    let stream = mesh.connect_tls(&mesh.client("api")).await;
    let (head, ()) = carried("HTTP/1.0").into_parts();
    let request = Request::from_parts(head, Full::<Bytes>::default());
    let response = one_http2(stream, request).await.unwrap();
    assert_eq!(response.status(), 201);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "done");
}

#[tokio::test]
async fn they_pass_two_sidecars_whatever_both_ends_speak() {
    let (mesh, gate) = (open().await, gate());
    let listen = SocketAddr::new(mesh.ip(6), 9000);
    let listener = format!("{listen}=web.shop.svc.cluster.local:80");
    let variables = [("OUTBOUND_LISTENERS", &*listener)];
    let _sidecar = mesh.peer("api", 6, &variables).await;
    let connect = async || TcpStream::connect(listen).await.unwrap();
    let app = application(mesh.origin(), &gate, http1).await;
    ask_http1(connect().await, &gate).await;
    drop(app);
    let _app = application(mesh.origin(), &gate, http2).await;
    let wanted = [(100, vec![]), (102, vec![]), hints()];
    let got = ask_http2(connect().await, ask(), 3, &gate).await;
    assert_eq!(got, wanted);
}

#[tokio::test]
async fn they_come_from_endpoints_outside_the_mesh() {
    let client = Client::start("", 1, "", &[]).await;
    let gate = gate();
    let app = application(client.at(10), &gate, http1).await;
    ask_http1(client.connect(9000).await, &gate).await;
    drop(app);
    let _app = application(client.at(10), &gate, http2).await;
    let wanted = [(100, vec![]), (102, vec![]), hints()];
    let got = ask_http2(client.connect(9000).await, ask(), 3, &gate).await;
    assert_eq!(got, wanted);
}

/// No window holds back what is said before an answer, so its amount is limited.
#[tokio::test]
async fn an_application_that_says_ever_more_is_not_buffered_for() {
    const HEADS: usize = 4000;
    let (mesh, gate) = (open().await, gate());
    let _app = application(mesh.origin(), &gate, async |stream, _| {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            for _ in 0..HEADS {
                let mut hints = head(103);
                let link = "x".repeat(400).parse().unwrap();
                hints.headers_mut().insert("link", link);
                respond.send_informational(hints).unwrap();
            }
            let mut body = respond.send_response(head(201), false).unwrap();
            body.send_data(Bytes::from_static(b"done"), true).unwrap();
        }
    })
    .await;
    let stream = mesh.connect_from(5, mesh.web()).await;
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let (mut response, _) = send.send_request(ask(), true).unwrap();
    let mut bytes = 0;
    while let Some(hints) = within("the next", poll_fn(|cx| response.poll_informational(cx))).await
    {
        bytes += hints.unwrap().headers()["link"].len();
    }
    assert!(bytes > 32 * 1024, "{bytes}");
    assert!(bytes <= 64 * 1024, "{bytes}");
    assert_eq!(within("the answer", response).await.unwrap().status(), 201);
    connection.abort();
}
