//! Requests that ask to leave HTTP: what the application is asked for, and what becomes of the connection.

use crate::{
    authorization::server,
    harness::{Mesh, eventually, get, one_http1, one_http2, within},
    origin,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What an application says that takes an upgrade, and the first bytes after it.
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nl5d-proxy-error: lies\r\n\r\n";

async fn open(variables: &[(&str, &str)]) -> Mesh {
    Mesh::start_with(&server("accessPolicy: all-unauthenticated"), variables).await
}

fn websocket() -> Request<Full<Bytes>> {
    let mut request = get("/ws");
    for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

/// An application that takes every upgrade and says again what it hears.
async fn echoing(mesh: &Mesh) -> tokio::task::JoinHandle<()> {
    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Its client goes when it likes.
            tokio::spawn(async move { drop(echo(stream).await) });
        }
    })
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    stream.write_all(SWITCH).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.map(drop)
}

async fn switched(response: Response<Incoming>) -> TokioIo<hyper::upgrade::Upgraded> {
    assert_eq!(response.status(), 101);
    let upgraded = within("the switch", hyper::upgrade::on(response)).await;
    TokioIo::new(upgraded.unwrap())
}

async fn echoes(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), said: &[u8]) {
    socket.write_all(said).await.unwrap();
    let mut heard = vec![0; said.len()];
    within("the echo", socket.read_exact(&mut heard))
        .await
        .unwrap();
    assert_eq!(heard, said);
}

/// Writes a request as a client of the mesh and reads to the end.
async fn raw(mesh: &Mesh, request: &str) -> String {
    let mut stream = mesh.connect_tls(&mesh.client("api")).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).to_lowercase()
}

#[tokio::test]
async fn h2c_reaches_no_application_wherever_it_is_offered() {
    let mesh = open(&[]).await;
    // It says what it was asked.
    let _origin = origin::echo(mesh.origin()).await;
    for offer in [
        "Upgrade: h2c\r\n",
        "Upgrade: h2c, websocket\r\n",
        "Upgrade: websocket,H2C\r\n",
        "Upgrade: websocket\r\nUpgrade: h2c\r\n",
        "Upgrade: h2c/2\r\n",
    ] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings, close\r\n{offer}HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        );
        let answer = raw(&mesh, &request).await;
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert!(!answer.contains("http2-settings"), "{offer}: {answer}");
        assert!(!answer.contains("upgrade"), "{offer}: {answer}");
    }
}

#[tokio::test]
async fn a_client_has_nothing_dropped_by_the_application_in_an_upgrade() {
    let mesh = open(&[]).await;
    let _origin = origin::echo(mesh.origin()).await;
    let request = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close, upgrade, l5d-client-id, host\r\nConnection: X-Hop\r\nX-Hop: 1\r\nUpgrade: websocket\r\n\r\n";
    let answer = raw(&mesh, request).await;
    // The body is what the application was asked.
    let (_, said) = answer.split_once("\r\n\r\n").unwrap();
    let said: Vec<&str> = said.lines().collect();
    assert!(said.contains(&"upgrade: websocket"), "{answer}");
    assert!(said.contains(&"host: web"), "{answer}");
    let id = format!("l5d-client-id: {}", crate::harness::identity("api"));
    assert!(said.contains(&&*id), "{answer}");
    // The application's server reads `Connection` as a list of what it may drop.
    let options = said.iter().filter(|line| line.starts_with("connection: "));
    let options: Vec<_> = options.collect();
    assert_eq!(options, [&"connection: upgrade"], "{answer}");
    assert!(!answer.contains("x-hop"), "{answer}");
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_a_502() {
    let mesh = open(&[]).await;
    let _origin = origin::scripted(mesh.origin(), b"", b"\r\n\r\n", SWITCH).await;
    let response = mesh.send(&mesh.client("api"), get("/")).await;
    assert_eq!(response.status(), 502);
    let why = response.headers()["l5d-proxy-error"].to_str().unwrap();
    assert!(why.contains("switched protocols"), "{why}");
}

#[tokio::test]
async fn connect_over_http2_is_refused_and_not_counted_as_a_success() {
    let mesh = open(&[]).await;
    let _origin = origin::scripted(mesh.origin(), b"", b"", b"").await;
    for carried in [None, Some("HTTP/1.1")] {
        let mut request = Request::connect("web:8080");
        if let Some(version) = carried {
            request = request.header("l5d-orig-proto", version);
        }
        let stream = mesh.connect_tls(&mesh.client("api")).await;
        let response = one_http2(stream, request.body(Full::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), 400, "{carried:?}");
    }
    assert!(mesh.metric("response_total", &["web-http"]).await.abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_websocket_that_opens_in_the_drain_window_works() {
    let mut mesh = open(&[
        ("SHUTDOWN_DRAIN_WINDOW", "5m"),
        ("SHUTDOWN_GRACE_PERIOD", "10m"),
    ])
    .await;
    let application = echoing(&mesh).await;
    mesh.terminate();
    eventually("the drain", async || {
        mesh.said().contains("Draining").then_some(())
    })
    .await;
    let stream = mesh.connect_from(5, mesh.web()).await;
    let response = one_http1(stream, websocket()).await.unwrap();
    assert_eq!(response.headers()["connection"], "upgrade");
    assert_eq!(response.headers()["upgrade"], "websocket");
    assert!(!response.headers().contains_key("l5d-proxy-error"));
    echoes(&mut switched(response).await, b"in the window").await;
    mesh.kill_proxy();
    application.abort();
}

#[tokio::test]
async fn a_websocket_is_an_open_connection_and_takes_its_place() {
    let mesh = open(&[("INBOUND_MAX_CONNECTIONS", "1")]).await;
    let application = echoing(&mesh).await;
    let response = mesh.send(&mesh.client("api"), websocket()).await;
    let mut socket = switched(response).await;
    echoes(&mut socket, b"first").await;
    let mut second = mesh.connect_from(5, mesh.web()).await;
    let _ = second
        .write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")
        .await;
    let mut answer = Vec::new();
    let _ = within("the end", second.read_to_end(&mut answer)).await;
    assert!(answer.is_empty(), "there is no place for another");
    let open = async |name: &str| {
        let labels = [r#"direction="inbound""#, r#"peer="src""#, "web-http"];
        let labels = if name == "inbound_connections" {
            &[][..]
        } else {
            &labels
        };
        mesh.metric(name, labels).await
    };
    for name in ["tcp_open_connections", "inbound_connections"] {
        let open = open(name).await;
        assert!((open - 1.0).abs() < f64::EPSILON, "{name}: {open}");
    }
    echoes(&mut socket, b"and on").await;
    drop(socket);
    eventually("its place", async || {
        let left = open("tcp_open_connections").await + open("inbound_connections").await;
        (left.abs() < f64::EPSILON).then_some(())
    })
    .await;
    application.abort();
}

#[tokio::test]
async fn what_is_no_http_may_not_be_silent_for_longer_than_the_limit() {
    let mesh = open(&[("INBOUND_TCP_IDLE_TIMEOUT", "1s")]).await;
    let application = echoing(&mesh).await;
    let stream = mesh.connect_from(5, mesh.web()).await;
    let response = one_http1(stream, websocket()).await.unwrap();
    let mut socket = switched(response).await;
    echoes(&mut socket, b"hello").await;
    let mut rest = Vec::new();
    let _ = within(
        "the end of a silent websocket",
        socket.read_to_end(&mut rest),
    )
    .await;
    assert!(rest.is_empty());
    let mut opaque = mesh.connect_from(5, mesh.web()).await;
    opaque.write_all(b"\x00 not HTTP \r\n\r\n").await.unwrap();
    let _ = within("the end of silent bytes", opaque.read_to_end(&mut rest)).await;
    let limit = [r#"limit="idle_timeout""#];
    let name = "inbound_connections_refused_total";
    let ended = mesh.metric(name, &limit).await;
    assert!((ended - 2.0).abs() < f64::EPSILON, "{ended}");
    application.abort();
}
