//! Connections to the gRPC services: plaintext where both ends are on this host or a sidecar is in front, mutual TLS
//! everywhere else.
//!
//! A client's certificate is verified if it shows one. It need not: a proxy asks for its first certificate, and for its
//! policy, before it has one.

use crate::issuer::Signing;
use linkerd_tls::{
    Accept, Id, KeyMaterial, LocalIdentity, ServerStream, TrustAnchors, accept,
    refresh::{Certified, Observer, RefreshError, Schedule, maintain},
};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Most connections of one service; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 20_000;
/// How long a client may take for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after `accept` failed, usually for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Its address.
    pub(crate) addr: SocketAddr,
    /// Its verified identity, where TLS is spoken and it showed one.
    pub(crate) identity: Option<Id>,
}

/// A connection that is ready for HTTP/2.
#[derive(Debug)]
pub(crate) struct Connection {
    io: Io,
    client: Client,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<ServerStream<TcpStream>>),
}

/// Accepts connections for as long as the result is read. `identity` is ours, where TLS is spoken.
pub(crate) fn connections(
    listener: TcpListener,
    identity: Option<Arc<LocalIdentity>>,
) -> ReceiverStream<io::Result<Connection>> {
    let (send, receive) = mpsc::channel(16);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        while !send.is_closed() {
            let Ok(permit) = slots.clone().acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = send.closed() => return,
            };
            let (stream, addr) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "Cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let (send, identity) = (send.clone(), identity.clone());
            tokio::spawn(async move {
                match establish(stream, addr, identity, permit).await {
                    Ok(connection) => drop(send.send(Ok(connection)).await),
                    Err(reason) => tracing::info!(client = %addr, reason, "Connection refused"),
                }
            });
        }
    });
    ReceiverStream::new(receive)
}

async fn establish(
    stream: TcpStream,
    addr: SocketAddr,
    identity: Option<Arc<LocalIdentity>>,
    permit: OwnedSemaphorePermit,
) -> Result<Connection, String> {
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().map_err(|error| error.to_string())?;
    let is_local = local.ip().to_canonical().is_loopback();
    let (io, identity) = match identity {
        Some(identity) if !is_local => {
            let credentials = tokio::time::timeout(HANDSHAKE, identity.certified())
                .await
                .map_err(|_| "we have no certificate yet".to_owned())?;
            let accepted = accept(&credentials, Accept::Redirected, stream, HANDSHAKE)
                .await
                .map_err(|error| error.to_string())?;
            (Io::Tls(Box::new(accepted.io)), accepted.client)
        }
        // A service without an identity listens on a loopback address, or a sidecar speaks TLS for it.
        _ => (Io::Plain(stream), None),
    };
    Ok(Connection {
        io,
        client: Client { addr, identity },
        _permit: permit,
    })
}

/// The control plane's own identity under `name`, kept certified by its own CA for as long as the future runs.
///
/// # Errors
/// What is wrong with the name or the anchors.
pub(crate) fn identity(
    name: &str,
    signing: Arc<Signing>,
    anchors: TrustAnchors,
    lifetime: Duration,
    skew: Duration,
) -> Result<
    (
        Arc<LocalIdentity>,
        impl Future<Output = ()> + Send + 'static,
    ),
    String,
> {
    let key = KeyMaterial::create(name).map_err(|error| error.to_string())?;
    let id: Id = name.parse().map_err(|error| format!("{name}: {error}"))?;
    let identity = LocalIdentity::new(id, name, key, anchors).map_err(|error| error.to_string())?;
    let (own, name) = (identity.clone(), name.to_owned());
    let mut changes = signing.changes();
    let source = signing.clone();
    let certify = move || {
        let issued = source.load().ok_or_else(|| "no issuer".to_owned());
        let issued = issued.and_then(|authority| {
            let issued = authority.ca().issue(own.csr(), &name, lifetime, skew);
            issued.map_err(|error| error.to_string())
        });
        std::future::ready(issued.map(|issued| Certified {
            leaf: issued.leaf_der,
            intermediates: issued.chain,
            valid_until: issued.not_after,
        }))
    };
    let kept = identity.clone();
    let follow = async move {
        loop {
            if let Some(authority) = signing.load()
                && let anchors = authority.ca().anchors()
                && !anchors.is_same(&kept.anchors())
                && let Err(error) = kept.trust(anchors.clone())
            {
                tracing::info!(%error, "The control plane certifies itself anew");
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    let kept = identity.clone();
    let keep = async move {
        tokio::join!(maintain(kept, Schedule::default(), certify, Log), follow);
    };
    Ok((identity, keep))
}

struct Log;

impl Observer for Log {
    fn failed(&self, error: &RefreshError) {
        tracing::warn!(%error, "The control plane has no new certificate of its own");
    }
}

impl Connected for Connection {
    type ConnectInfo = Client;

    fn connect_info(&self) -> Client {
        self.client.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
