//! HTTP through the sidecar: what passes unchanged, what is refused, and what an application that fails looks like.

use crate::{
    authorization::server,
    harness::{Mesh, get, one_http1, one_http2, within},
    origin,
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn open() -> Mesh {
    Mesh::start(&server("accessPolicy: all-unauthenticated")).await
}

async fn text(body: hyper::body::Incoming) -> String {
    String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned()
}

/// Writes bytes and reads to the end.
async fn raw(mesh: &Mesh, parts: &[&[u8]]) -> String {
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    stream.set_nodelay(true).unwrap();
    for part in parts {
        stream.write_all(part).await.unwrap();
        // What was written is on its way before the next part is.
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = within("the end of the answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn http_is_recognised_however_its_first_bytes_are_cut() {
    let mesh = open().await;
    let _origin = origin::echo(mesh.origin()).await;
    let request = b"GET /cut HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
    for cut in 1..20 {
        let answer = raw(&mesh, &[&request[..cut], &request[cut..]]).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "cut at {cut}: {answer}");
    }
    let recognised = mesh
        .metric(
            "inbound_tcp_detect_http_results_total",
            &[r#"result="http/1""#, r#"srv_name="web-http""#],
        )
        .await;
    assert!((recognised - 19.0).abs() < f64::EPSILON, "{recognised}");
}

/// How much a client says at once: what fits into one look at it, and what does not.
const AT_ONCE: [usize; 9] = [100, 900, 1000, 1030, 1500, 2040, 2060, 5000, 30_000];

#[tokio::test]
async fn a_request_that_comes_at_once_comes_whole_however_long_it_is() {
    let mesh = open().await;
    let _origin = origin::echo(mesh.origin()).await;
    for length in AT_ONCE {
        let long: String = (0..length)
            .map(|at| char::from(b'a' + (at % 26) as u8))
            .collect();
        let request = format!(
            "GET /long HTTP/1.1\r\nhost: web\r\nx-long: {long}\r\nconnection: close\r\n\r\n"
        );
        let answer = raw(&mesh, &[request.as_bytes()]).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{length}: {answer}");
        assert!(answer.contains(&format!("x-long: {long}\n")), "{length}");
    }
}

#[tokio::test]
async fn bytes_that_come_at_once_come_whole_however_many_they_are() {
    let mesh = open().await;
    let listener = origin::listen(mesh.origin()).await;
    let origin = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    for length in AT_ONCE {
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let mut stream = mesh.connect_from(5, mesh.web()).await;
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        within("the bytes", stream.read_to_end(&mut back))
            .await
            .unwrap();
        assert!(back == bytes, "{length}: {} came back", back.len());
    }
    origin.abort();
}

#[tokio::test]
async fn http2_goes_to_the_application_as_http2() {
    let mesh = open().await;
    let _origin = origin::echo(mesh.origin()).await;
    let request = Request::get("http://web/two")
        .body(Full::default())
        .unwrap();
    let response = one_http2(mesh.connect_from(5, mesh.web()).await, request)
        .await
        .unwrap();
    assert!(
        text(response.into_body())
            .await
            .starts_with("HTTP/2.0 GET http://web/two")
    );
}

#[tokio::test]
async fn http1_carried_in_http2_reaches_the_application_as_http1() {
    let mesh = open().await;
    let _origin = origin::echo(mesh.origin()).await;
    let request = Request::get("http://web/carried").header("l5d-orig-proto", "HTTP/1.1");
    let request = request.header("cookie", "a=1").header("cookie", "b=2");
    let stream = mesh.connect_tls(&mesh.client("api")).await;
    let response = one_http2(stream, request.body(Full::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.headers()["l5d-orig-proto"], "HTTP/1.1");
    let said = text(response.into_body()).await;
    assert!(
        said.starts_with("HTTP/1.1 GET /carried\n") && said.contains("host: web"),
        "{said}"
    );
    assert!(!said.contains("l5d-orig-proto"), "{said}");
    assert!(said.contains("cookie: a=1; b=2\n"), "{said}");
}

#[tokio::test]
async fn a_client_cannot_say_who_it_is() {
    let mesh = open().await;
    let _origin = origin::echo(mesh.origin()).await;
    let spoofed = || {
        let request = Request::get("/").header("host", "web");
        let request = request
            .header("l5d-client-id", "admin")
            .header("l5d-dst-override", "x:1");
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let said = text(mesh.send_plain(5, spoofed()).await.into_body()).await;
    assert!(!said.contains("l5d-"), "{said}");
    let said = text(mesh.send(&mesh.client("api"), spoofed()).await.into_body()).await;
    assert!(
        !said.contains("admin") && said.contains("l5d-client-id: api.shop"),
        "{said}"
    );
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_and_nothing_reaches_the_application() {
    let mesh = open().await;
    let _origin = origin::echo(mesh.origin()).await;
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me@web\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : web\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nX: a\0b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0x3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let answer = raw(&mesh, &[request.as_bytes()]).await;
        assert!(
            answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"),
            "{request:?}: {answer}"
        );
    }
    let forwarded = mesh
        .metric("request_total", &[r#"srv_name="web-http""#])
        .await;
    assert!(
        forwarded.abs() < f64::EPSILON,
        "{forwarded} requests were forwarded"
    );
}

#[tokio::test]
async fn an_application_that_fails_is_a_502_and_does_not_cost_the_next_request() {
    let mesh = open().await;
    let status = async || mesh.send_plain(5, get("/")).await.status().as_u16();
    assert_eq!(status().await, 502, "refused");
    let closes = origin::scripted(mesh.origin(), b"", b"\r\n\r\n", b"").await;
    assert_eq!(status().await, 502, "closed without an answer");
    closes.stop().await;
    let garbage =
        origin::scripted(mesh.origin(), b"", b"\r\n\r\n", b"I am no HTTP server\r\n").await;
    assert_eq!(status().await, 502, "not HTTP");
    garbage.stop().await;
    let short = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    let short = origin::scripted(mesh.origin(), b"", b"\r\n\r\n", short).await;
    let stream = mesh.connect_from(5, mesh.web()).await;
    let whole = match one_http1(stream, get("/")).await {
        Ok(response) => response.into_body().collect().await.is_ok(),
        Err(_) => false,
    };
    assert!(!whole, "a body that is cut short is seen to be");
    short.stop().await;
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(status().await, 200);
}

#[tokio::test]
async fn headers_of_an_application_are_not_the_proxys() {
    let mesh = open().await;
    let answer = b"HTTP/1.1 200 OK\r\nl5d-proxy-error: lies\r\nl5d-server: kept\r\ncontent-length: 0\r\n\r\n";
    let _origin = origin::scripted(mesh.origin(), b"", b"\r\n\r\n", answer).await;
    let response = mesh.send_plain(5, get("/")).await;
    assert!(!response.headers().contains_key("l5d-proxy-error"));
    assert!(response.headers().contains_key("l5d-server"));
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel() {
    let mesh = open().await;
    let switch =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nwelcome";
    let _origin = origin::scripted(mesh.origin(), b"", b"\r\n\r\n", switch).await;
    let request = Request::get("/ws").header("host", "web");
    let request = request
        .header("connection", "upgrade")
        .header("upgrade", "echo");
    let stream = mesh.connect_from(5, mesh.web()).await;
    let response = one_http1(stream, request.body(Full::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 101);
    let upgraded = within("the tunnel", hyper::upgrade::on(response))
        .await
        .unwrap();
    let mut seen = Vec::new();
    let mut tunnel = TokioIo::new(upgraded);
    within("the application's bytes", tunnel.read_to_end(&mut seen))
        .await
        .unwrap();
    assert_eq!(seen, b"welcome");
}

#[tokio::test]
async fn a_client_that_is_still_sending_reads_why_it_was_refused() {
    let mut mesh = Mesh::without_proxy(&server("accessPolicy: all-unauthenticated"));
    mesh.start_controller();
    let outbound = std::net::SocketAddr::new(mesh.ip(2), 9000);
    let listener = format!("{outbound}=web.shop.svc.cluster.local:80");
    mesh.spawn_proxy(&[("OUTBOUND_LISTENERS", &listener)]);
    mesh.ready().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 8000000\r\n\r\n";
    let body = vec![0; 8_000_000];
    for address in [mesh.web(), outbound] {
        let mut stream = mesh.connect_from(5, address).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let sent = within("the body", stream.write_all(&body)).await;
        assert!(sent.is_ok(), "{address}: {sent:?}");
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        let read = within("the answer", stream.read_to_string(&mut answer)).await;
        assert!(read.is_ok(), "{address}: {read:?}");
        assert!(answer.starts_with("HTTP/1.1 400"), "{address}: {answer}");
    }
}

#[tokio::test]
async fn requests_written_at_once_are_answered_in_their_order() {
    let mesh = open().await;
    let _origin = origin::echo(mesh.origin()).await;
    let requests: String = (0..5)
        .map(|n| {
            let end = if n == 4 { "connection: close\r\n" } else { "" };
            format!("POST /{n} HTTP/1.1\r\nhost: web\r\ncontent-length: 3\r\n{end}\r\nn={n}")
        })
        .collect();
    let answers = raw(&mesh, &[requests.as_bytes()]).await;
    let lines = answers.lines().filter(|line| line.contains(" POST /"));
    let order: Vec<&str> = lines
        .filter_map(|line| line.rsplit_once('/'))
        .map(|(_, n)| n)
        .collect();
    assert_eq!(order, ["0", "1", "2", "3", "4"], "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 5, "{answers}");
}

#[tokio::test]
async fn trailers_pass_both_ways_over_http1() {
    let mesh = open().await;
    let answer = b"HTTP/1.1 200 OK\r\ntrailer: x-after\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-after: the answer\r\n\r\n";
    // Answers when it has the client's trailer.
    let _origin = origin::scripted(mesh.origin(), b"", b"x-sum: 42\r\n\r\n", answer).await;
    let request = b"POST / HTTP/1.1\r\nhost: web\r\nte: trailers\r\nconnection: te, close\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n";
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    stream.write_all(request).await.unwrap();
    let mut got = String::new();
    within("the answer", stream.read_to_string(&mut got))
        .await
        .unwrap();
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    assert!(
        got.ends_with("2\r\nhi\r\n0\r\nx-after: the answer\r\n\r\n"),
        "{got}"
    );
}

#[tokio::test]
async fn heads_that_are_too_large_are_a_431() {
    let mesh = Mesh::start_with(
        &server("accessPolicy: all-unauthenticated"),
        &[("INBOUND_HTTP1_MAX_HEADER_BYTES", "16384")],
    )
    .await;
    let _origin = origin::echo(mesh.origin()).await;
    let large = "a".repeat(40_000);
    let request = format!("GET / HTTP/1.1\r\nhost: web\r\nx: {large}\r\n\r\n");
    let answer = raw(&mesh, &[request.as_bytes()]).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let request = |value: &str| {
        let request = Request::get("http://web/").header("x", value);
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let stream = mesh.connect_from(5, mesh.web()).await;
    let io = TokioIo::new(stream);
    let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    // Each side knows the other's settings when there has been an answer.
    let response = within("an answer", send.send_request(request("small"))).await;
    assert_eq!(response.unwrap().status(), 200);
    let response = within("an answer", send.send_request(request(&large))).await;
    assert_eq!(response.unwrap().status(), 431);
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 200);
}

#[tokio::test]
async fn h2c_is_never_switched_to() {
    let mesh = open().await;
    let _origin = origin::echo(mesh.origin()).await;
    let answer = raw(&mesh, &[b"GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"]).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        !answer.to_lowercase().contains("http2-settings"),
        "{answer}"
    );
}

#[tokio::test]
async fn large_bodies_pass_unchanged_both_ways() {
    let mesh = open().await;
    let _origin = origin::echo(mesh.origin()).await;
    let body = Bytes::from(
        (0..8_000_000u32)
            .map(|n| (n % 251) as u8)
            .collect::<Vec<_>>(),
    );
    for http2 in [false, true] {
        let uri = if http2 { "http://web/big" } else { "/big" };
        let request = Request::post(uri).body(Full::new(body.clone())).unwrap();
        let stream = mesh.connect_tls(&mesh.client("api")).await;
        let response = if http2 {
            one_http2(stream, request).await.unwrap()
        } else {
            let mut request = request;
            request.headers_mut().insert("host", "web".parse().unwrap());
            one_http1(stream, request).await.unwrap()
        };
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        assert!(
            answer.ends_with(&body),
            "http2: {http2}, {} bytes",
            answer.len()
        );
    }
}

#[tokio::test]
async fn the_conformance_suite_of_http2_passes() {
    let mesh = Mesh::start(&server(
        "accessPolicy: all-unauthenticated, proxyProtocol: HTTP/2",
    ))
    .await;
    let _origin = origin::echo(mesh.origin()).await;
    conforms(mesh.web()).await;
}

/// Runs h2spec against an address.
pub(crate) async fn conforms(address: std::net::SocketAddr) {
    let cached = std::env::var("HOME").unwrap_or_default() + "/.cache/linkerd-workspace/bin/h2spec";
    let mut command = tokio::process::Command::new("h2spec");
    if std::path::Path::new(&cached).is_file() {
        command = tokio::process::Command::new(cached);
    }
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    command.args(["--host", &host, "--port", &port, "--timeout", "5"]);
    let output = match command.output().await {
        Ok(output) => output,
        Err(error) => {
            return linkerd_tests::skipped(&format!("h2spec does not run: {error}"));
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let tail = text.split("Failures").nth(1).unwrap_or(&text);
    assert!(
        text.contains("145 tests, 145 passed, 0 skipped, 0 failed"),
        "{tail}"
    );
}
