//! Applications: one that says what it was asked, and one that does what a test writes down.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{convert::Infallible, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A server that ends with the test.
pub(crate) struct Origin(JoinHandle<()>);

impl Origin {
    /// Ends it and waits until its address is free.
    pub(crate) async fn stop(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens at an address once it is free: a process that another test starts has, until it begins its program, all sockets
/// that were open when it was made.
pub(crate) async fn listen(address: SocketAddr) -> TcpListener {
    linkerd_tests::eventually("a free address", async || {
        TcpListener::bind(address).await.ok()
    })
    .await
}

/// Serves HTTP/1 and HTTP/2: answers with the version, the target and every header, a line each, then the body.
pub(crate) async fn echo(address: SocketAddr) -> Origin {
    serve(address, false).await
}

/// The same; who asks for a websocket gets one that says again what it hears.
pub(crate) async fn switching(address: SocketAddr) -> Origin {
    serve(address, true).await
}

async fn serve(address: SocketAddr, switches: bool) -> Origin {
    let listener = listen(address).await;
    Origin(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| async move {
                    let wants = request.headers().get("upgrade");
                    if switches && wants.is_some_and(|wants| wants == "websocket") {
                        return Ok::<_, Infallible>(switch(request));
                    }
                    Ok(said(request).await)
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    }))
}

fn switch(request: Request<Incoming>) -> Response<Full<Bytes>> {
    // Some want the answer to the key: that of RFC 6455, section 1.3, is known without a hash.
    let key = request.headers().get("sec-websocket-key");
    let is_known = key.is_some_and(|key| key == "dGhlIHNhbXBsZSBub25jZQ==");
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    let accept = is_known.then_some(("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let always = [("connection", "upgrade"), ("upgrade", "websocket")];
    for (name, value) in always.into_iter().chain(accept) {
        let value = http::HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

async fn said(request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() == http::Method::HEAD {
        // The library would send the body of an answer to HEAD over HTTP/2.
        return Response::new(Full::default());
    }
    let (head, body) = request.into_parts();
    let mut text = format!("{:?} {} {}\n", head.version, head.method, head.uri);
    for (name, value) in &head.headers {
        text.push_str(&format!(
            "{name}: {}\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    text.push('\n');
    let mut bytes = text.into_bytes();
    if let Ok(body) = body.collect().await {
        bytes.extend_from_slice(&body.to_bytes());
    }
    Response::new(Full::from(bytes))
}

/// For each connection: says `greeting`, reads until the bytes hold `until`, says `answer`, closes.
pub(crate) async fn scripted(
    address: SocketAddr,
    greeting: &'static [u8],
    until: &'static [u8],
    answer: &'static [u8],
) -> Origin {
    let listener = listen(address).await;
    Origin(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(script(stream, greeting, until, answer));
        }
    }))
}

async fn script(mut stream: TcpStream, greeting: &[u8], until: &[u8], answer: &[u8]) {
    let _ = stream.write_all(greeting).await;
    let mut seen = Vec::new();
    while !until.is_empty() && !seen.windows(until.len()).any(|window| window == until) {
        match stream.read_buf(&mut seen).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}
