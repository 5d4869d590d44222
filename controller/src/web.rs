//! Small HTTP servers: the admin server, and webhooks over TLS.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 256;
/// How long a TLS handshake, and the head of a request, may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) type Page = Response<Full<Bytes>>;

/// Serves for ever. `tls` is what connections are accepted with; `None`: plaintext.
pub(crate) async fn serve<F, A>(listener: TcpListener, tls: Option<TlsAcceptor>, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Page> + Send,
{
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (answer, tls) = (answer.clone(), tls.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let Some(tls) = tls else {
                return connection(stream, answer).await;
            };
            match timeout(PATIENCE, tls.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, answer).await,
                Ok(Err(error)) => tracing::debug!(%client, %error, "No TLS"),
                Err(_) => tracing::debug!(%client, "No TLS in time"),
            }
        });
    }
}

async fn connection<IO, F, A>(io: IO, answer: F)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
    F: Fn(Request<Incoming>) -> A + Send,
    A: Future<Output = Page> + Send,
{
    let service = service_fn(move |request| {
        let page = answer(request);
        async move { Ok::<_, Infallible>(page.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(io), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "A connection failed");
    }
}

pub(crate) fn text(status: StatusCode, body: &str) -> Page {
    page(
        status,
        Bytes::copy_from_slice(body.as_bytes()),
        "text/plain",
    )
}

pub(crate) fn as_json(value: &impl serde::Serialize) -> Page {
    let body = serde_json::to_vec_pretty(value).unwrap_or_default();
    page(StatusCode::OK, body.into(), "application/json")
}

fn page(status: StatusCode, body: Bytes, kind: &'static str) -> Page {
    let mut page = Response::new(Full::new(body));
    *page.status_mut() = status;
    page.headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    page
}
