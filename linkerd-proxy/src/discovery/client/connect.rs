//! One connection to one replica of a controller: TCP, mesh TLS, HTTP/2.

use super::Endpoint;
use crate::discovery::dns;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use linkerd_tls::LocalIdentity;
use std::{future::Future, io, net::SocketAddr, pin::Pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic::body::Body;

/// HTTP/2 PINGs find controllers that went away without a word. Not on loopback, where the kernel tells, and where
/// gRPC servers that take frequent PINGs for abuse are reached without a proxy of theirs in front.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{name} has no address: {source}")]
    Dns { name: String, source: dns::Error },
    #[error("{addr}: {source}")]
    Connect { addr: SocketAddr, source: io::Error },
    #[error("TLS with {addr}: {source}")]
    Tls {
        addr: SocketAddr,
        source: linkerd_tls::HandshakeError,
    },
    #[error("HTTP/2 with {addr}: {source}")]
    Http {
        addr: SocketAddr,
        source: hyper::Error,
    },
    #[error("{addr}: not connected within {limit:?}")]
    Timeout { addr: SocketAddr, limit: Duration },
}

impl ConnectError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns",
            Self::Connect { .. } | Self::Http { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Timeout { .. } => "timeout",
        }
    }

    /// Whether another attempt soon costs the controller next to nothing.
    pub(super) fn is_cheap(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Timeout { .. })
    }
}

pub(super) type Connected = (
    SendRequest<Body>,
    Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
);

/// Connects to a replica, within the limit of the endpoint.
pub(super) async fn connect(
    endpoint: &Endpoint,
    identity: &LocalIdentity,
    at: &[SocketAddr],
) -> Result<Connected, ConnectError> {
    let limit = endpoint.connect_timeout;
    let connecting = async {
        let (addr, stream) = dial(limit, at).await?;
        let Some(expected) = &endpoint.addr.identity else {
            return handshake(addr, stream, None).await;
        };
        // A server refuses an expired client certificate, and nobody could ever renew one by showing it.
        let config = match identity.current() {
            Some(current) if current.not_after() > identity.now() => {
                current.client_config().clone()
            }
            _ => identity.anchors_client_config(),
        };
        let tls = linkerd_tls::connect(&config, stream, expected.as_str(), expected, None)
            .await
            .map_err(|source| ConnectError::Tls { addr, source })?;
        handshake(addr, tls, Some(PING_INTERVAL)).await
    };
    let connected = tokio::time::timeout(limit, connecting).await;
    connected.unwrap_or_else(|_| {
        Err(ConnectError::Timeout {
            addr: at.first().copied().unwrap_or_else(nowhere),
            limit,
        })
    })
}

/// Connects to the first address that takes the connection.
async fn dial(limit: Duration, at: &[SocketAddr]) -> Result<(SocketAddr, TcpStream), ConnectError> {
    // One that does not answer must not use up the whole time.
    let share = limit / u32::try_from(at.len().max(1)).unwrap_or(1);
    let mut last = ConnectError::Timeout {
        addr: nowhere(),
        limit,
    };
    for addr in at.iter().copied() {
        match tokio::time::timeout(share, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok((addr, stream));
            }
            Ok(Err(source)) => last = ConnectError::Connect { addr, source },
            Err(_) => last = ConnectError::Timeout { addr, limit: share },
        }
    }
    Err(last)
}

/// Stands for an address where there is none; replicas have at least one.
fn nowhere() -> SocketAddr {
    (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
}

async fn handshake<IO>(
    addr: SocketAddr,
    io: IO,
    pings: Option<Duration>,
) -> Result<Connected, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(pings)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|source| ConnectError::Http { addr, source })?;
    Ok((sender, Box::pin(connection)))
}
