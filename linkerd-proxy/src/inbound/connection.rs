//! What is known of one accepted connection once it is known who is there and where it goes.

use super::{
    Worker, authorize::View, failure::Failure, labels::ClientTls, metrics::OpenConnection,
};
use crate::{
    discovery::policy::{PortPolicy, Snapshot},
    http::{HttpError, client::ClientError},
    limit::Place,
    transport::{Io, detect, header::HeaderError, relay::RelayError},
};
use arc_swap::ArcSwap;
use bytes::BytesMut;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
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

/// A client whose certificate has expired: TLS, and no identity.
const NOBODY: ClientTls = ClientTls::Terminated(None);

/// One connection, shared by its requests and by what they became.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) worker: Arc<Worker>,
    pub(super) client: SocketAddr,
    /// Who the client is, until its certificate expires. Who it is now is in the view, and nowhere else.
    tls: ClientTls,
    pub(super) destination: Destination,
    pub(super) policy: Arc<PortPolicy>,
    view: ArcSwap<View>,
    /// When the client's certificate expires: from then on its identity counts no more.
    until: Option<Instant>,
    /// When the client is asked to come again, with the certificate it has by then.
    parting: Option<Instant>,
    /// It is in the `tcp_*` metrics and takes a place among the connections there may be, until nothing of it is left: an
    /// upgrade goes on after HTTP has ended.
    open: OnceLock<OpenConnection>,
    _place: Place,
}

impl Connection {
    pub(super) fn new(
        worker: Arc<Worker>,
        client: SocketAddr,
        tls: ClientTls,
        destination: Destination,
        policy: Arc<PortPolicy>,
        place: Place,
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
            parting: None,
            open: OnceLock::new(),
            _place: place,
        }
    }

    /// With the expiry of the client's certificate.
    pub(super) fn until(mut self, not_after: Option<SystemTime>) -> Arc<Self> {
        if let Some(left) = not_after.map(|at| left(at, SystemTime::now())) {
            let now = Instant::now();
            self.until = now.checked_add(left);
            self.parting = now.checked_add(left - (left / 4).min(PARTING));
        }
        Arc::new(self)
    }

    /// The client's certificate ends so soon, or has ended, that the client should come again.
    pub(super) fn is_parting(&self) -> bool {
        self.parting.is_some_and(|at| Instant::now() >= at)
    }

    /// Completes when the client is to be asked to come again.
    pub(super) async fn parting(&self) {
        match self.parting {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Counts it among the open ones until its end.
    pub(super) fn count_open(&self) {
        self.open.get_or_init(|| self.view().transport().open());
    }

    /// The client's certificate has expired since it connected.
    fn is_expired(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// The policy in force at this moment and who the client is at this moment, with what was resolved for them.
    pub(super) fn view(&self) -> Arc<View> {
        let current = self.policy.current();
        let is_expired = self.is_expired();
        let view = self.view.load();
        if view.is_of(&current) && (!is_expired || view.identity().is_none()) {
            return Arc::clone(&view);
        }
        let tls = if is_expired { &NOBODY } else { &self.tls };
        let view = self.worker.view(self.destination, tls, &current);
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

/// How long before its end an identity is asked to come again, unless a quarter of what is left of it is less: time for
/// what the client has on its way.
const PARTING: Duration = Duration::from_secs(30);

/// How long an identity lasts that a certificate gives. From there by the monotonic clock, so that a clock that jumps does
/// not end connections. A certificate is still accepted in its last second: nothing is left of that one.
fn left(not_after: SystemTime, now: SystemTime) -> Duration {
    not_after.duration_since(now).unwrap_or_default()
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
    Http(HttpError),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_ends_with_its_certificate_also_in_the_last_second() {
        let now = SystemTime::now();
        let half = Duration::from_millis(500);
        assert_eq!(
            left(now - half, now),
            Duration::ZERO,
            "it has ended already"
        );
        assert_eq!(left(now + half, now), half);
    }
}
