//! What end-to-end and conformance tests share; the tests are in `tests/tests`.

pub mod api_relay;
pub mod api_server;
pub mod namespaces;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Longest that anything is waited for.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Says aloud that a test does not run for want of something.
///
/// # Panics
/// Where that is a failure: with `REQUIRE_TOOLS` set, as CI has it.
#[track_caller]
pub fn skipped(what: &str) {
    let is_failure = std::env::vars().any(|(name, _)| name == "REQUIRE_TOOLS");
    assert!(
        !is_failure,
        "REQUIRE_TOOLS is set, and this cannot be tested: {what}"
    );
    eprintln!("SKIPPED: {what}");
}

/// Waits for something, bounded.
///
/// # Panics
/// When the limit is reached; `what` says what was waited for.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    #[expect(clippy::panic, reason = "a test fails")]
    tokio::time::timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

/// Asks again and again until there is an answer, bounded.
///
/// # Panics
/// As [`within`].
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        loop {
            every.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    })
    .await
}

/// A port that nobody listens on.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0));
    #[expect(clippy::expect_used, reason = "a test fails")]
    let address = listener
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    address.port()
}

/// A program of the workspace, beside the test's own.
///
/// # Panics
/// If it has not been built.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let folder = test.parent().and_then(Path::parent);
    let binary = folder.unwrap_or_else(|| Path::new("")).join(name);
    assert!(
        binary.is_file(),
        "{} is missing: run cargo build --bins",
        binary.display()
    );
    binary
}

/// A GET request.
///
/// # Panics
/// If the path is none.
pub fn get(path: &str) -> Request<Full<Bytes>> {
    #[expect(clippy::expect_used, reason = "a test fails")]
    Request::builder()
        .uri(path)
        .header("host", "web")
        .body(Full::default())
        .expect("a path")
}

/// Sends one request over HTTP/1.
///
/// # Errors
/// As hyper's.
pub async fn one_http1<IO>(
    io: IO,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection.with_upgrades());
    within("an answer", send.send_request(request)).await
}

/// Sends one request over HTTP/2.
///
/// # Errors
/// As hyper's.
pub async fn one_http2<IO>(
    io: IO,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
    tokio::spawn(connection);
    within("an answer", send.send_request(request)).await
}

/// A page of an admin server: status and text. `None` while nobody listens.
pub async fn page(admin: SocketAddr, path: &str) -> Option<(u16, String)> {
    let stream = TcpStream::connect(admin).await.ok()?;
    let response = one_http1(stream, get(path)).await.ok()?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

/// An application that answers whatever it reads with a 200 without a body, for ever.
pub async fn say_yes(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                let yes = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(yes).await.is_err() {
                    return;
                }
            }
        });
    }
}
