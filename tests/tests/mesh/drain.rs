//! SIGTERM with every kind of connection open: what is in flight finishes, and the process ends with 0.

use crate::{
    authorization::server,
    harness::{Mesh, get, one_http1, within},
    origin,
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A sidecar that ends long after a test gave up, unless everybody has gone before.
async fn mesh(fields: &str, window: &str) -> Mesh {
    let policy = server(&format!("accessPolicy: all-unauthenticated{fields}"));
    let variables = [
        ("SHUTDOWN_DRAIN_WINDOW", window),
        ("SHUTDOWN_GRACE_PERIOD", "10m"),
    ];
    Mesh::start_with(&policy, &variables).await
}

/// Waits until the sidecar has heard the signal.
async fn draining(mesh: &Mesh) {
    crate::harness::eventually("the drain", async || {
        mesh.said().contains("Draining").then_some(())
    })
    .await;
}

async fn http2(mesh: &Mesh) -> Option<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(mesh.web()).await.ok()?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (send, connection) = handshake.ok()?;
    tokio::spawn(connection);
    Some(send)
}

fn ask() -> Request<Full<Bytes>> {
    Request::get("http://web/").body(Full::default()).unwrap()
}

/// The server said in GOAWAY that it did not begin the request (RFC 9113 §6.8).
fn disowned(error: &hyper::Error) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .is_some_and(|error| error.is_go_away() && error.is_remote())
}

/// Asks again and again, eight requests at a time, and connects anew where the server asks it to, until it no longer
/// accepts. Gives how many connections it had. Every request that the server did not disown is answered.
async fn hammer(mesh: &Mesh, answered: &AtomicU32) -> u32 {
    let mut connections = 0;
    while let Some(send) = http2(mesh).await {
        connections += 1;
        let lanes = (0..8).map(async |_| {
            let mut send = send.clone();
            loop {
                match within("an answer", send.try_send_request(ask())).await {
                    Ok(response) => {
                        assert_eq!(response.status(), 200);
                        response.into_body().collect().await.unwrap();
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(mut broken) => {
                        let unsent = broken.take_message().is_some();
                        assert!(unsent || disowned(broken.error()), "lost: {broken:?}");
                        return;
                    }
                }
            }
        });
        futures::future::join_all(lanes).await;
    }
    connections
}

#[tokio::test]
async fn sigterm_under_http2_load_loses_no_request() {
    let mesh = Arc::new(mesh("", "500ms").await);
    let _origin = origin::echo(mesh.origin()).await;
    let answered = Arc::new(AtomicU32::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (mesh, answered) = (mesh.clone(), answered.clone());
        clients.spawn(async move { hammer(&mesh, &answered).await });
    }
    crate::harness::eventually("load", async || {
        (answered.load(Ordering::Relaxed) > 200).then_some(())
    })
    .await;
    mesh.terminate();
    let ended = within("the clients' end", clients.join_all()).await;
    let mut mesh = Arc::into_inner(mesh).unwrap();
    assert!(mesh.exit().await.success());
    // Each was asked to go, and taken again while the window was open.
    assert!(
        ended.iter().all(|connections| *connections > 1),
        "{ended:?}"
    );
}

#[tokio::test]
async fn in_the_drain_window_a_new_http2_connection_has_its_first_request_answered() {
    let mesh = mesh("", "5m").await;
    let _origin = origin::echo(mesh.origin()).await;
    mesh.terminate();
    draining(&mesh).await;
    for _ in 0..20 {
        let mut send = http2(&mesh).await.unwrap();
        // What the server says first is heard before the request is sent.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        send.ready().await.unwrap();
        let response = within("an answer", send.send_request(ask())).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
        crate::harness::eventually("GOAWAY", async || send.is_closed().then_some(())).await;
    }
}

#[tokio::test]
async fn what_an_application_takes_long_to_answer_is_waited_for() {
    let mut mesh = mesh("", "10ms").await;
    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    let stream = mesh.connect_from(5, mesh.web()).await;
    let one = tokio::spawn(async { one_http1(stream, get("/")).await.unwrap() });
    let (mut first, _) = within("the first", listener.accept()).await.unwrap();
    mesh.terminate();
    // The listener is shut: nobody is accepted, and the request is still waited for.
    crate::harness::eventually("a shut listener", async || {
        TcpStream::connect(mesh.web()).await.is_err().then_some(())
    })
    .await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate";
    first.write_all(answer).await.unwrap();
    let response = within("the answer", one).await.unwrap();
    assert_eq!(response.headers()["connection"], "close");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "late");
    assert!(mesh.exit().await.success());
}

#[tokio::test]
async fn a_websocket_lives_on_in_a_drain_and_its_end_is_the_end() {
    let mut mesh = mesh("", "10ms").await;
    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(switch).await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let request = Request::get("/ws")
        .header("host", "web")
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    let stream = mesh.connect_from(5, mesh.web()).await;
    let response = one_http1(stream, request.body(Full::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 101);
    let upgraded = within("the switch", hyper::upgrade::on(response))
        .await
        .unwrap();
    let mut socket = TokioIo::new(upgraded);
    let mut echoes = async |said: &[u8]| {
        socket.write_all(said).await.unwrap();
        let mut heard = vec![0; said.len()];
        within("the echo", socket.read_exact(&mut heard))
            .await
            .unwrap();
        assert_eq!(heard, said);
    };
    echoes(b"before").await;
    mesh.terminate();
    draining(&mesh).await;
    crate::harness::eventually("a shut listener", async || {
        TcpStream::connect(mesh.web()).await.is_err().then_some(())
    })
    .await;
    echoes(b"after").await;
    drop(socket);
    application.await.unwrap();
    assert!(mesh.exit().await.success());
}

/// A sidecar with a short grace period and a peer that has closed its own direction only, on both kinds of connection.
#[tokio::test]
async fn peers_that_are_half_closed_do_not_keep_a_sidecar_from_its_end() {
    let policy = server("accessPolicy: all-unauthenticated");
    let variables = [
        ("SHUTDOWN_DRAIN_WINDOW", "10ms"),
        ("SHUTDOWN_GRACE_PERIOD", "1s"),
        ("INBOUND_DETECT_TIMEOUT", "10m"),
    ];
    let mut mesh = Mesh::start_with(&policy, &variables).await;
    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    // Nobody ever answers.
    let mut held = Vec::new();
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: web\r\n\r\n"[..],
        b"\x00\x01\x02 not HTTP at all\r\n\r\n\r\n",
    ] {
        let mut stream = mesh.connect_from(5, mesh.web()).await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let (mut application, _) = within("its connection", listener.accept()).await.unwrap();
        within("its bytes", application.readable()).await.unwrap();
        application.shutdown().await.unwrap();
        held.push((stream, application));
    }
    // And one that never said anything.
    let silent = mesh.connect_from(5, mesh.web()).await;
    mesh.terminate();
    assert!(mesh.exit().await.success());
    drop((held, silent));
}

#[tokio::test]
async fn two_signals_are_as_good_as_one() {
    let mut mesh = mesh("", "300ms").await;
    let _origin = origin::echo(mesh.origin()).await;
    mesh.terminate();
    draining(&mesh).await;
    mesh.terminate();
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 200);
    assert!(mesh.exit().await.success());
}
