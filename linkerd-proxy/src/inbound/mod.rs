//! A connection's life on the inbound side, from accept to origin, top to bottom.
//!
//! [`Worker::admit`] is that life, one step a line, until HTTP or opaque bytes are served:
//!
//! ```text
//! accept -> where to (original destination, or our own port: direct) -> policy of that port, a live handle
//!   -> opaque: no looking | else ClientHello: for us? terminate : pass through -> who is it
//!   -> protocol, by policy or detection -> HTTP: serve each request | else authorize the connection, relay
//! ```
//!
//! | file | what |
//! |---|---|
//! | `http` | one HTTP connection, and one request's life in it |
//! | `authorize` | what the policy in force says: gives [`authorize::Permitted`], without which nothing reaches an origin |
//! | [`crate::http`] | the shape of requests, the client to the application, and what flows |
//! | `opaque` | connections that are not HTTP |
//! | `tunnel` | what requests became that left HTTP |
//! | `direct` | connections to the proxy's own port, with a transport header |
//! | `failure` | every failure a client can see: one table |
//! | `metrics`, `labels`, `record` | what is counted, under which names |

mod authorize;
mod connection;
mod direct;
mod http;
mod opaque;
mod tunnel;

pub(crate) mod failure;
pub(crate) mod labels;
pub(crate) mod metrics;
pub(crate) mod record;

pub(crate) use self::{authorize::AuditLog, metrics::InboundMetrics};

use self::{
    authorize::View,
    connection::{Connection, ConnectionError, Destination},
    labels::{ClientTls, NoTls},
};
use crate::{
    admin::denials::Denials,
    discovery::policy::{PolicyStore, Snapshot},
    drain::Drain,
    http::{
        ConnectionLimits, Http2Settings,
        client::{self, Client, Dial},
    },
    limit::{Limit, Place},
    telemetry::{access_log::AccessLog, trace::Tracer},
    transport::{Io, detect, listen},
};
use bytes::BytesMut;
use linkerd_policy::server::Protocol;
use linkerd_tls::{Accept, LocalIdentity, Prefixed, Sniffed};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::net::TcpStream;

/// What the inbound side is told by configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Port of the listener that redirected and direct connections come to.
    pub(crate) proxy_port: u16,
    /// Port of the admin server, which trusts clients on loopback: never reached there on a client's behalf.
    pub(crate) admin_port: u16,
    /// Allowed original destinations; empty = any.
    pub(crate) ips: Vec<IpAddr>,
    /// Limit of TLS and HTTP detection where the policy names none.
    pub(crate) detect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) limits: ConnectionLimits,
    /// How long an opaque connection may be silent.
    pub(crate) tcp_idle: Option<Duration>,
    /// How long the body of a request may stand still.
    pub(crate) body_idle: Option<Duration>,
    /// How long a connection waits for a first answer about its port.
    pub(crate) policy_wait: Duration,
    /// Refuse paths that a path policy and an origin could read differently.
    pub(crate) reject_suspicious_paths: bool,
    pub(crate) http1_max_head: usize,
    pub(crate) http2: Http2Settings,
    pub(crate) origin: Arc<client::Settings>,
    /// Requests are counted by the authority that clients ask for, each kept this long without use.
    pub(crate) authority_labels: Option<Duration>,
    /// Addresses of this proxy's own listeners: never an origin.
    pub(crate) own: Vec<SocketAddr>,
    /// Explicit listeners: where the policy port's application really is.
    pub(crate) targets: HashMap<u16, SocketAddr>,
}

/// The inbound side: what all workers share.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) settings: Settings,
    pub(crate) policies: PolicyStore,
    pub(crate) identity: Arc<LocalIdentity>,
    pub(crate) metrics: InboundMetrics,
    pub(crate) denials: Arc<Denials>,
    pub(crate) audit: AuditLog,
    pub(crate) connections: Limit,
    pub(crate) requests: Limit,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) tracer: Option<Tracer>,
}

/// The inbound side on one thread: origins, and what was resolved for the clients it has seen.
#[derive(Debug)]
pub(crate) struct Worker {
    inbound: Arc<Inbound>,
    drain: Drain,
    origins: Mutex<HashMap<SocketAddr, Arc<Client>>>,
    views: Mutex<HashMap<(SocketAddr, ClientTls), Arc<View>>>,
    origin_transport: Arc<metrics::Transport>,
}

/// How many kinds of client keep their resolved metrics between connections, on each worker.
const MAX_VIEWS: usize = 1024;

/// A connection of which everything is known that there is to know before its bytes flow: HTTP in this version, or not
/// HTTP.
#[derive(Debug)]
struct Admitted(Arc<Connection>, Io, Option<detect::Http>);

/// A connection whose mesh TLS, if it had any, is off.
#[derive(Debug)]
struct Terminated {
    io: Io,
    tls: ClientTls,
    /// When the client's certificate expires.
    until: Option<SystemTime>,
    /// The client said nothing at all until the deadline.
    is_silent: bool,
}

/// Which listener a connection came to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Via {
    /// The proxy's port: redirected there, or dialled by a mesh peer.
    Proxy,
    /// An explicit listener for the application at this address, whose port has the policy.
    Explicit(SocketAddr),
}

impl Worker {
    pub(crate) fn new(inbound: Arc<Inbound>, drain: Drain) -> Arc<Self> {
        let origin_transport = Arc::new(inbound.metrics.origin_transport());
        Arc::new(Self {
            inbound,
            drain,
            origins: Mutex::default(),
            views: Mutex::default(),
            origin_transport,
        })
    }

    /// Serves one accepted connection to its end, and counts how it failed if it did.
    pub(crate) async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        via: Via,
    ) {
        let Some(place) = self.inbound.connections.enter() else {
            self.inbound.metrics.connection_refused("connections");
            return;
        };
        let destination = match self.destination(&stream, client, via) {
            Ok(destination) => destination,
            Err(error) => return self.failed(client, None, &error),
        };
        // In two steps, each in memory of its own: what TLS and detection needed is gone when bytes begin to flow.
        let result = match Box::pin(self.admit(stream, client, destination, place)).await {
            Ok(Admitted(connection, io, Some(version))) => {
                Box::pin(http::serve(connection, io, version)).await
            }
            Ok(Admitted(connection, io, None)) => Box::pin(opaque::serve(connection, io)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.failed(client, Some(destination), &error);
        }
    }

    /// A connection's life, until its requests or bytes begin.
    async fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        destination: Destination,
        place: Place,
    ) -> Result<Admitted, ConnectionError> {
        if destination.is_direct {
            return direct::admit(self, stream, client, destination, place).await;
        }
        let policy = self.inbound.policies.port(destination.port());
        policy.ready(self.inbound.settings.policy_wait).await;
        let snapshot = policy.current().clone();
        if let Protocol::Opaque = snapshot.policy.server().protocol {
            let io = Io::tcp(stream, BytesMut::new());
            let tls = ClientTls::None(NoTls::PortSkipped);
            let connection =
                Connection::new(self.clone(), client, tls, destination, policy, place).until(None);
            return Ok(Admitted(connection, io, None));
        }
        let deadline = Instant::now() + self.detect_timeout(&snapshot);
        let Terminated {
            mut io,
            tls,
            until,
            is_silent,
        } = self.terminate(stream, deadline).await?;
        if is_silent {
            let server = &snapshot.policy.server().meta;
            self.inbound
                .metrics
                .stalled("tls", server, destination.port());
        }
        let is_foreign = matches!(tls, ClientTls::Passthrough(_));
        let is_meshed = tls.identity().is_some();
        let connection =
            Connection::new(self.clone(), client, tls, destination, policy, place).until(until);
        let version = match &snapshot.policy.server().protocol {
            _ if is_foreign => None,
            Protocol::Opaque | Protocol::Tls => None,
            Protocol::Http2(_) | Protocol::Grpc { .. } => Some(detect::Http::Http2),
            Protocol::Http1(_) if !is_meshed => Some(detect::Http::Http1),
            Protocol::Http1(_) | Protocol::Detect { .. } => {
                connection.detect(&mut io, &snapshot, deadline).await?
            }
        };
        Ok(Admitted(connection, io, version))
    }

    /// Where a connection was going.
    fn destination(
        &self,
        stream: &TcpStream,
        client: SocketAddr,
        via: Via,
    ) -> Result<Destination, ConnectionError> {
        let settings = &self.inbound.settings;
        if let Via::Explicit(origin) = via {
            return Ok(Destination {
                original: origin,
                origin,
                is_direct: false,
            });
        }
        let original = listen::original_destination(stream, client)?;
        if !settings.ips.is_empty() && !settings.ips.contains(&original.ip()) {
            return Err(ConnectionError::NotOurs(original));
        }
        let is_direct = original.port() == settings.proxy_port;
        Ok(Destination {
            is_direct,
            ..self.reaching(original)
        })
    }

    /// A destination whose application may be where an explicit listener says.
    fn reaching(&self, original: SocketAddr) -> Destination {
        let explicit = self.inbound.settings.targets.get(&original.port()).copied();
        Destination {
            original,
            origin: explicit.unwrap_or(original),
            is_direct: false,
        }
    }

    /// The limit of detection: the policy's where it detects, else the configured one.
    fn detect_timeout(&self, snapshot: &Snapshot) -> Duration {
        match &snapshot.policy.server().protocol {
            Protocol::Detect { timeout, .. } => *timeout,
            _ => self.inbound.settings.detect_timeout,
        }
    }

    /// Takes mesh TLS off, if there is any and it is for us.
    ///
    /// A client that says nothing at all until the deadline may speak a protocol in which the server begins: it is no
    /// TLS. One that began a ClientHello and did not finish it is refused.
    async fn terminate(
        &self,
        mut stream: TcpStream,
        deadline: Instant,
    ) -> Result<Terminated, ConnectionError> {
        let mut read = BytesMut::new();
        let sniffed =
            tokio::time::timeout_at(deadline.into(), linkerd_tls::sniff(&mut stream, &mut read))
                .await;
        let sni = match sniffed {
            Ok(sniffed) => match sniffed? {
                Sniffed::Tls { sni } => sni,
                Sniffed::NotTls | Sniffed::Eof => None,
            },
            Err(_) if read.is_empty() => None,
            Err(_) => return Err(ConnectionError::TlsDetectionTimeout),
        };
        let Some(sni) = sni else {
            let is_silent = read.is_empty() && Instant::now() >= deadline;
            let tls = ClientTls::None(NoTls::NotFromClient);
            return Ok(Terminated {
                io: Io::tcp(stream, read),
                tls,
                until: None,
                is_silent,
            });
        };
        if !sni.eq_ignore_ascii_case(self.inbound.identity.server_name()) {
            let sni = sni.to_ascii_lowercase();
            return Ok(Terminated {
                io: Io::tcp(stream, read),
                tls: ClientTls::Passthrough(sni.into()),
                until: None,
                is_silent: false,
            });
        }
        let accepted = self.handshake(stream, read, Accept::Redirected).await?;
        Ok(Terminated {
            io: Io::terminated(accepted.io),
            tls: ClientTls::Terminated(accepted.client),
            until: accepted.client_not_after,
            is_silent: false,
        })
    }

    /// Shakes hands with our current certificate.
    async fn handshake(
        &self,
        stream: TcpStream,
        read: BytesMut,
        mode: Accept,
    ) -> Result<linkerd_tls::Accepted<Prefixed<TcpStream>>, ConnectionError> {
        let credentials = self
            .inbound
            .identity
            .current()
            .ok_or(ConnectionError::NotCertified)?;
        let io = Prefixed::new(read, stream);
        let timeout = self.inbound.settings.handshake_timeout;
        let metrics = &self.inbound.metrics;
        let started = Instant::now();
        let accepted = linkerd_tls::accept(&credentials, mode, io, timeout)
            .await
            .map_err(|error| {
                metrics.handshake_failed(error.reason());
                ConnectionError::Handshake(error)
            })?;
        metrics
            .handshake_duration
            .observe(started.elapsed().as_secs_f64());
        Ok(accepted)
    }

    /// The origin at an address, shared by all connections of this worker.
    fn origin(&self, address: SocketAddr) -> Result<Arc<Client>, failure::Failure> {
        let settings = &self.inbound.settings;
        let is_own = settings.own.iter().any(|own| {
            own.port() == address.port() && (own.ip() == address.ip() || own.ip().is_unspecified())
        });
        let is_admin = address.ip().is_loopback() && address.port() == settings.admin_port;
        if is_own || is_admin {
            return Err(failure::Failure::Loop);
        }
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = origins.entry(address).or_insert_with(|| {
            Arc::new(Client::new(
                Dial {
                    address,
                    mesh: None,
                },
                settings.origin.clone(),
                self.inbound.identity.clone(),
                self.origin_transport.clone(),
            ))
        });
        Ok(origin.clone())
    }

    /// What is resolved for one kind of client under a policy; made anew when the policy changed.
    fn view(
        &self,
        destination: Destination,
        tls: &ClientTls,
        snapshot: &Arc<Snapshot>,
    ) -> Arc<View> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (destination.original, tls.clone());
        if let Some(view) = views.get(&key).filter(|view| view.is_of(snapshot)) {
            return view.clone();
        }
        let view = Arc::new(View::new(
            &self.inbound.metrics,
            destination,
            tls,
            snapshot.clone(),
            self.inbound.settings.authority_labels,
        ));
        if views.len() >= MAX_VIEWS {
            // What connections use stays, as long as that makes room.
            views.retain(|_, view| Arc::strong_count(view) > 1);
        }
        if views.len() >= MAX_VIEWS {
            views.clear();
        }
        views.insert(key, view.clone());
        view
    }

    /// Lets go of idle connections to origins and of views that nobody uses. Runs for the worker's life.
    pub(crate) async fn tidy(self: Arc<Self>) {
        let mut drain = self.drain.clone();
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                now = every.tick() => {
                    let keep = |_: &SocketAddr, origin: &mut Arc<Client>| {
                        origin.expire(now.into_std()) || Arc::strong_count(origin) > 1
                    };
                    self.origins.lock().unwrap_or_else(PoisonError::into_inner).retain(keep);
                    let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
                    views.retain(|_, view| Arc::strong_count(view) > 1 || view.is_recent());
                }
                () = drain.reached(crate::drain::Phase::Closing) => return,
            }
        }
    }

    fn failed(
        &self,
        client: SocketAddr,
        destination: Option<Destination>,
        error: &ConnectionError,
    ) {
        let original = destination.map(|destination| destination.original);
        tracing::debug!(%client, ?original, %error, "Connection failed");
        if let Some(label) = error.label() {
            self.inbound.metrics.connection_failed(label, original);
        }
    }
}

#[cfg(test)]
mod tests;
