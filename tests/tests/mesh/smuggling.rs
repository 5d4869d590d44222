//! Request smuggling: bytes that a server behind the proxy could frame otherwise than the proxy does. The application
//! writes down every byte that it gets.

use crate::{
    authorization::server,
    harness::{Mesh, within},
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// What follows a request in its connection: if it is ever seen as a request, smuggling worked.
const NEXT: &str = "GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n";

/// Heads after `POST / HTTP/1.1\r\nHost: web\r\n` with bodies; `{next}` is where [`NEXT`] is put. All are refused: none
/// may reach the application with even one byte.
const FRAMINGS: [&str; 34] = [
    "Content-Length: 0\r\nContent-Length: 4\r\n\r\n{next}",
    "Content-Length: 4\r\nContent-Length: 0\r\n\r\n{next}",
    "Content-Length: 0, 4\r\n\r\n{next}",
    "Content-Length: 4, 5\r\n\r\n{next}",
    "Content-Length: +4\r\n\r\nabcd{next}",
    "Content-Length: -4\r\n\r\nabcd{next}",
    "Content-Length: 0x4\r\n\r\nabcd{next}",
    "Content-Length: 4.0\r\n\r\nabcd{next}",
    "Content-Length: 4 4\r\n\r\nabcd{next}",
    "Content-Length: 4;\r\n\r\nabcd{next}",
    "Content-Length: four\r\n\r\nabcd{next}",
    "Content-Length: \r\n\r\n{next}",
    "Content-Length: 99999999999999999999\r\n\r\n{next}",
    "Content-Length: 18446744073709551616\r\n\r\n{next}",
    "Content-Length : 4\r\n\r\nabcd{next}",
    "Content-Length\t: 4\r\n\r\nabcd{next}",
    " Content-Length: 4\r\n\r\nabcd{next}",
    "Content-Length: 4\r\n 5\r\n\r\nabcd{next}",
    "Transfer-Encoding: gzip\r\n\r\n{next}",
    "Transfer-Encoding: identity\r\n\r\n{next}",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{next}",
    "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{next}",
    "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n{next}",
    "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n{next}",
    "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n{next}",
    "Transfer-Encoding: chun\0ked\r\n\r\n0\r\n\r\n{next}",
    "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{next}",
    "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n{next}",
    " Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{next}",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{next}",
    "X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{next}",
    "X: a\0b\r\nContent-Length: 0\r\n\r\n{next}",
    "X y: z\r\nContent-Length: 0\r\n\r\n{next}",
    "no colon\r\nContent-Length: 0\r\n\r\n{next}",
];

/// Whole requests. All are refused as well.
const REQUESTS: [&str; 12] = [
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: web\r\nHost: web\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: me@web\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: web/evil\r\n\r\n",
    "GET http://me@web/ HTTP/1.1\r\nHost: web\r\n\r\n",
    "GET / HTTP/1.1\r\n Host: web\r\n\r\n",
    "GET / HTTP/1.1\r\nHost : web\r\n\r\n",
    "POST / HTTP/1.0\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET /a b HTTP/1.1\r\nHost: web\r\n\r\n",
    "CONNECT web HTTP/1.1\r\nHost: web\r\n\r\n",
];

/// Chunked bodies that are wrong: the head may reach the application, a complete request may not, nor what follows.
const CHUNKS: [&str; 11] = [
    "0x3\r\nabc\r\n0\r\n\r\n{next}",
    "+3\r\nabc\r\n0\r\n\r\n{next}",
    "-3\r\nabc\r\n0\r\n\r\n{next}",
    "3 4\r\nabc\r\n0\r\n\r\n{next}",
    "g\r\nabc\r\n0\r\n\r\n{next}",
    "\r\n0\r\n\r\n{next}",
    "3\r\nabcd\r\n0\r\n\r\n{next}",
    "3\r\nabc0\r\n\r\n{next}",
    "fffffffffffffffff\r\nabc\r\n0\r\n\r\n{next}",
    "3\rabc\r\n0\r\n\r\n{next}",
    "3\r\nabc\r\n0\r\nX\r\n\r\n{next}",
];

type Seen = Arc<Mutex<Vec<u8>>>;

/// Answers every head, and writes down every byte.
async fn recorder(address: SocketAddr) -> (Seen, tokio::task::JoinHandle<()>) {
    let seen = Seen::default();
    let listener = TcpListener::bind(address).await.unwrap();
    let record = seen.clone();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let record = record.clone();
            tokio::spawn(async move {
                let mut got = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut got).await {
                    record.lock().unwrap().extend_from_slice(&got);
                    if got.starts_with(b"GET ") || got.ends_with(b"0\r\n\r\n") {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        let _ = stream.write_all(answer).await;
                    }
                    got.clear();
                }
            });
        }
    });
    (seen, task)
}

/// Sends the bytes and reads to the end: the answer, and what the application got meanwhile.
async fn attack(mesh: &Mesh, seen: &Seen, bytes: &str) -> (String, String) {
    seen.lock().unwrap().clear();
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    let _ = stream.write_all(bytes.as_bytes()).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = within(
        &format!("the end after {bytes:?}"),
        stream.read_to_end(&mut answer),
    )
    .await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let seen = seen.lock().unwrap();
    (text(&answer), text(&seen))
}

async fn world() -> (Mesh, Seen, tokio::task::JoinHandle<()>) {
    let mesh = Mesh::start(&server(
        "accessPolicy: all-unauthenticated, proxyProtocol: HTTP/1",
    ))
    .await;
    let (seen, task) = recorder(mesh.origin()).await;
    let (answer, got) = attack(&mesh, &seen, NEXT).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && got.contains("/smuggled"),
        "the recorder sees what is sent: {answer} {got}"
    );
    (mesh, seen, task)
}

#[tokio::test]
async fn ambiguous_framing_is_refused_and_no_byte_reaches_the_application() {
    let (mesh, seen, task) = world().await;
    let framed = FRAMINGS
        .iter()
        .map(|rest| format!("POST / HTTP/1.1\r\nHost: web\r\n{rest}"));
    let mut wrong = Vec::new();
    for request in framed.chain(REQUESTS.iter().map(|whole| (*whole).to_owned())) {
        let request = request.replace("{next}", NEXT);
        let (answer, got) = attack(&mesh, &seen, &request).await;
        let refused = answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400");
        if !refused || !got.is_empty() || answer.matches("HTTP/1.").count() > 1 {
            wrong.push((request, answer, got));
        }
    }
    task.abort();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_body_whose_chunks_are_wrong_never_ends_well_and_nothing_after_it_is_a_request() {
    let (mesh, seen, task) = world().await;
    let mut wrong = Vec::new();
    for rest in CHUNKS {
        let request =
            format!("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n{rest}");
        let (answer, got) = attack(&mesh, &seen, &request.replace("{next}", NEXT)).await;
        if answer.contains(" 200 ") || got.contains("/smuggled") || got.ends_with("0\r\n\r\n") {
            wrong.push((request, answer, got));
        }
    }
    task.abort();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn of_length_and_chunks_together_only_one_reaches_the_application_and_nothing_after_it() {
    let (mesh, seen, task) = world().await;
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: web\r\n{head}{NEXT}");
        let (answer, got) = attack(&mesh, &seen, &request).await;
        let got = got.to_lowercase();
        let both = got.contains("content-length") && got.contains("transfer-encoding");
        assert!(!both, "{request:?}: {got:?}");
        assert!(
            !got.contains("/smuggled"),
            "RFC 9112 §6.1: the connection ends after it. {request:?}: {answer:?} {got:?}"
        );
    }
    task.abort();
}
