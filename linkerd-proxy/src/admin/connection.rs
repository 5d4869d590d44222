//! Admin connections: bounded in number and in time.

use super::{State, pages};
use crate::transport::detect;
use bytes::BytesMut;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use linkerd_tls::{Accept, Id, Prefixed, Sniffed};
use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Detection of TLS, the handshake, and detection of HTTP: each at most this.
const DETECT: Duration = Duration::from_secs(1);
/// From the first byte of a request to the end of its headers.
const HEADERS: Duration = Duration::from_secs(10);
/// Streams of an HTTP/2 connection at one time.
const MAX_STREAMS: u32 = 64;
/// Largest HTTP/1 request head, in bytes.
const MAX_HEAD: usize = 32 * 1024;
/// Pause after a failed accept: with no file descriptor left, trying at once would only burn CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is asking.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) addr: SocketAddr,
    pub(super) tls: Tls,
}

/// How a client's connection is protected.
#[derive(Clone, Debug)]
pub(super) enum Tls {
    None,
    /// Mesh TLS, with the identity of the client's certificate if it showed one.
    Mesh(Option<Id>),
}

impl Client {
    pub(super) fn is_local(&self) -> bool {
        self.addr.ip().is_loopback()
    }
}

/// Serves for as long as it is polled; connections go on by themselves.
///
/// # Errors
/// If the runtime cannot use the socket.
pub(crate) async fn serve(listener: std::net::TcpListener, state: State) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let state = Arc::new(state);
    let places = Arc::new(Semaphore::new(state.config.admin.max_connections.max(1)));
    loop {
        // The place is taken before the connection: what is beyond the limit waits in the accept queue.
        let place = places.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, addr)) => {
                let state = state.clone();
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(error) = Box::pin(connection(stream, addr, state)).await {
                        tracing::debug!(client.addr = %addr, %error, "Admin connection failed");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "Admin accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("nothing was sent within {DETECT:?}")]
    Silent,
    #[error("TLS for {0:?}, which is not this proxy")]
    ForeignTls(Option<Box<str>>),
    #[error("TLS, but this proxy is not certified yet")]
    NotCertified,
    #[error("TLS: {0}")]
    Handshake(#[from] linkerd_tls::HandshakeError),
    #[error("not HTTP")]
    NotHttp,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

async fn connection(
    mut stream: TcpStream,
    addr: SocketAddr,
    state: Arc<State>,
) -> Result<(), Failure> {
    let _ = stream.set_nodelay(true);
    let addr = SocketAddr::new(unmapped(addr.ip()), addr.port());
    let mut read = BytesMut::new();
    let sniffed = timeout(DETECT, linkerd_tls::sniff(&mut stream, &mut read)).await;
    match sniffed.map_err(|_| Failure::Silent)?? {
        Sniffed::Tls { sni } => {
            if !sni
                .as_deref()
                .is_some_and(|sni| state.identity.is_own_name(sni))
            {
                return Err(Failure::ForeignTls(sni));
            }
            let credentials = state.identity.current().ok_or(Failure::NotCertified)?;
            let io = Prefixed::new(read, stream);
            let accepted =
                linkerd_tls::accept(&credentials, Accept::Redirected, io, DETECT).await?;
            let tls = Tls::Mesh(accepted.client);
            http(accepted.io, BytesMut::new(), Client { addr, tls }, state).await
        }
        Sniffed::NotTls => {
            http(
                stream,
                read,
                Client {
                    addr,
                    tls: Tls::None,
                },
                state,
            )
            .await
        }
        Sniffed::Eof => Ok(()),
    }
}

async fn http<IO>(
    mut io: IO,
    mut read: BytesMut,
    client: Client,
    state: Arc<State>,
) -> Result<(), Failure>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let detected = timeout(DETECT, detect::http(&mut io, &mut read)).await;
    let version = match detected.map_err(|_| Failure::Silent)?? {
        detect::Detected::Http(version) => version,
        detect::Detected::NotHttp => return Err(Failure::NotHttp),
        detect::Detected::Eof => return Ok(()),
    };
    let io = TokioIo::new(Prefixed::new(read, io));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (state, client) = (state.clone(), client.clone());
        async move { Ok::<_, Infallible>(pages::answer(&state, &client, request).await) }
    });
    match version {
        detect::Http::Http1 => {
            hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .max_buf_size(MAX_HEAD)
                .serve_connection(io, service)
                .await?;
        }
        detect::Http::Http2 => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .keep_alive_interval(HEADERS)
                .serve_connection(io, service)
                .await?;
        }
    }
    Ok(())
}

/// IPv4 clients of an IPv6 listener are shown, and matched, as IPv4.
fn unmapped(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
