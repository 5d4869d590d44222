//! What is known of one accepted connection once it is known who is there and where it goes.

use super::{Worker, authorize::View, failure::Failure, labels::ClientTls};
use crate::{
    discovery::policy::{PortPolicy, Snapshot},
    http::client::ClientError,
    transport::{Io, detect, header::HeaderError, relay::RelayError},
};
use arc_swap::ArcSwap;
use bytes::BytesMut;
use linkerd_policy::{Peer, PeerId, PeerTls};
use linkerd_tls::Id;
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// What the client dialled: its port has the policy.
    pub(crate) original: SocketAddr,
    /// Where the application is.
    pub(crate) origin: SocketAddr,
    /// The proxy's own port: a transport header says where to.
    pub(crate) is_direct: bool,
}

impl Destination {
    pub(crate) fn port(&self) -> u16 {
        self.original.port()
    }
}

/// One connection, shared by its requests.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) worker: Arc<Worker>,
    pub(super) client: SocketAddr,
    pub(super) tls: ClientTls,
    pub(super) destination: Destination,
    pub(super) policy: Arc<PortPolicy>,
    view: ArcSwap<View>,
    /// When the client's certificate expires: from then on its identity counts no more.
    until: Option<Instant>,
}

impl Connection {
    pub(super) fn new(
        worker: Arc<Worker>,
        client: SocketAddr,
        tls: ClientTls,
        destination: Destination,
        policy: Arc<PortPolicy>,
    ) -> Self {
        let view = worker.view(destination, &tls, &policy.current());
        Self {
            worker,
            client,
            tls,
            destination,
            policy,
            view: ArcSwap::new(view),
            until: None,
        }
    }

    /// With the expiry of the client's certificate. By the monotonic clock, so that a clock that jumps does not end
    /// connections.
    pub(super) fn until(mut self, not_after: Option<SystemTime>) -> Arc<Self> {
        let left = not_after.and_then(|at| at.duration_since(SystemTime::now()).ok());
        self.until = left.and_then(|left| Instant::now().checked_add(left));
        Arc::new(self)
    }

    /// The client's certificate has expired since it connected.
    fn is_expired(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// The client as policy sees it.
    pub(super) fn peer(&self) -> Peer<'_> {
        let tls = match &self.tls {
            ClientTls::None(_) => PeerTls::None,
            ClientTls::Passthrough(_) => PeerTls::Passthrough,
            ClientTls::Terminated(id) => PeerTls::Terminated {
                identity: id
                    .as_ref()
                    .filter(|_| !self.is_expired())
                    .map(|id| match id {
                        Id::Dns(name) => PeerId::Dns(name),
                        Id::Uri(uri) => PeerId::Uri(uri),
                    }),
            },
        };
        Peer {
            addr: self.client.ip(),
            tls,
        }
    }

    /// The policy in force at this moment, with what was resolved for it.
    pub(super) fn view(&self) -> Arc<View> {
        let current = self.policy.current();
        let view = self.view.load();
        if view.is_of(&current) {
            return Arc::clone(&view);
        }
        let view = self.worker.view(self.destination, &self.tls, &current);
        self.view.store(view.clone());
        view
    }

    /// Finds out whether HTTP is spoken. `None`: it is not, and that is for the connection's authorization to judge.
    ///
    /// On a port that has HTTP policy (routes, a rate limit) what is not HTTP is not forwarded, whoever sends it, and
    /// silence is left to the HTTP server's limits: bytes never get around the routes.
    pub(super) async fn detect(
        &self,
        io: &mut Io,
        snapshot: &Snapshot,
        deadline: Instant,
    ) -> Result<Option<detect::Http>, ConnectionError> {
        let view = self.view();
        let counts = view.detection();
        let started = Instant::now();
        let mut read = BytesMut::new();
        let detected = tokio::time::timeout_at(deadline.into(), detect::http(io, &mut read)).await;
        counts.duration.observe(started.elapsed().as_secs_f64());
        let http_only = snapshot.policy.server().has_http_policy();
        let verdict = match detected {
            Ok(Ok(detect::Detected::Http(version))) => {
                match version {
                    detect::Http::Http1 => counts.http1.inc(),
                    detect::Http::Http2 => counts.http2.inc(),
                }
                Ok(Some(version))
            }
            Ok(Ok(detect::Detected::NotHttp)) => {
                counts.not_http.inc();
                if http_only {
                    Err(ConnectionError::HttpOnly)
                } else {
                    Ok(None)
                }
            }
            Ok(Ok(detect::Detected::Eof)) => {
                counts.error.inc();
                Err(ConnectionError::Io(io::ErrorKind::UnexpectedEof.into()))
            }
            Ok(Err(error)) => {
                counts.error.inc();
                Err(ConnectionError::Io(error))
            }
            Err(_) => {
                counts.read_timeout.inc();
                let server = &snapshot.policy.server().meta;
                self.worker
                    .inbound
                    .metrics
                    .stalled("http", server, self.destination.port());
                tracing::info!(
                    client = %self.client, port = self.destination.port(),
                    "No protocol was recognised in time; a port whose server speaks first should be marked opaque"
                );
                if http_only {
                    Ok(Some(detect::Http::Http1))
                } else {
                    Ok(None)
                }
            }
        };
        if let Err(ConnectionError::HttpOnly) = &verdict {
            self.deny_connection(&view, "not_http", || {
                "the port has HTTP policy, and this is not HTTP".to_owned()
            });
        }
        io.replay(read);
        verdict
    }
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0} is not an address of this workload")]
    NotOurs(SocketAddr),
    #[error("the ClientHello was not complete in time")]
    TlsDetectionTimeout,
    #[error("TLS for this workload, which is not certified yet")]
    NotCertified,
    #[error("TLS handshake: {0}")]
    Handshake(linkerd_tls::HandshakeError),
    #[error("a direct connection needs mesh TLS with a client certificate")]
    DirectWithoutIdentity,
    #[error("no gateway serves {0}")]
    GatewayDomain(String),
    #[error("{0}")]
    Header(#[from] HeaderError),
    #[error("no transport header in time")]
    HeaderTimeout,
    #[error("not HTTP, on a port with HTTP policy")]
    HttpOnly,
    #[error("the policy does not allow the connection")]
    Denied,
    #[error("the policy no longer allows the connection")]
    Terminated,
    #[error("HTTP: {0}")]
    Http(hyper::Error),
    #[error("{0}")]
    Relay(#[from] RelayError),
    #[error("{0}")]
    Origin(Box<Failure>),
}

impl ConnectionError {
    /// The `error` label of `inbound_tcp_errors_total`; denials have families of their own.
    pub(super) fn label(&self) -> Option<&'static str> {
        Some(match self {
            Self::Denied | Self::Terminated | Self::HttpOnly => return None,
            Self::TlsDetectionTimeout => "tls detection timeout",
            Self::GatewayDomain(_) => "gateway domain invalid",
            Self::Io(_) | Self::Handshake(_) | Self::Header(_) | Self::Relay(_) => "i/o",
            Self::Origin(failure) => match **failure {
                Failure::Origin(ClientError::Connect(..)) => "i/o",
                _ => "unexpected",
            },
            Self::NotOurs(_)
            | Self::NotCertified
            | Self::DirectWithoutIdentity
            | Self::HeaderTimeout
            | Self::Http(_) => "unexpected",
        })
    }
}
