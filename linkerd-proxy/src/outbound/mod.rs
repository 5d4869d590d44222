//! A connection's life on the outbound side, from the application to another workload, top to bottom.
//!
//! [`Worker::serve`] is that life, one step a line, until requests or bytes flow:
//!
//! ```text
//! accept -> where to (original destination, or what the listener is for) -> what is known of it, a live handle
//!   -> protocol, by policy or detection -> HTTP: serve each request | else route the connection, relay
//! ```
//!
//! | file | what |
//! |---|---|
//! | `connection` | one connection, and the version of its destination that is in force |
//! | `http`, `request` | one HTTP connection, and one request's life in it |
//! | `attempt`, `upload` | one attempt at a request: backend, endpoint, connection, response; what it sends |
//! | `stream` | connections that are not HTTP |
//! | `plan`, `route`, `backend` | what is resolved for a version of a destination: rules, choices, ways to endpoints |
//! | [`balance`] | which endpoint: load, weights, zones, circuit breaking, waiting |
//! | [`retry`] | what is retried, and what is counted about it |
//! | [`limits`] | timeouts |
//! | `failure` | every failure an application can see: one table |
//! | `metrics`, `labels`, `record` | what is counted, under which names |

mod attempt;
mod backend;
pub(crate) mod balance;
mod connection;
pub(crate) mod failure;
mod http;
mod labels;
pub(crate) mod limits;
pub(crate) mod metrics;
mod plan;
pub(crate) mod record;
mod request;
pub(crate) mod retry;
mod route;
mod stream;
mod upload;

pub(crate) use self::metrics::{Occupancy, OutboundMetrics};

use self::{
    backend::{Backend, Carried, Remote, Unusable},
    balance::Balancer,
    connection::Connection,
    failure::Failure,
    plan::{How, Plan, StreamRule},
    retry::Budget,
};
use crate::{
    config::Backoff,
    discovery::outbound::{Lookup, Mtls, OutboundStore, Target},
    drain::{Drain, Phase},
    http::{
        ConnectionLimits, Http2Settings, HttpError,
        client::{self, Client, ClientError, Dial},
        outcome::GrpcFailures,
        request as shape,
    },
    inbound::metrics::Transport,
    limit::Limit,
    telemetry::trace::Tracer,
    transport::{Io, detect, listen},
};
use ::http::HeaderMap;
use bytes::BytesMut;
use linkerd_policy::outbound::Endpoint;
use linkerd_tls::{LocalIdentity, Sniffed};
use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// What the outbound side is told by configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Limit of protocol detection where policy names none, and of reading a server name.
    pub(crate) detect_timeout: Duration,
    /// How long a connection or request waits until its destination is known.
    pub(crate) discovery_wait: Duration,
    /// How long what was resolved for a destination is kept without use.
    pub(crate) discovery_idle: Duration,
    pub(crate) max_head: usize,
    pub(crate) limits: ConnectionLimits,
    pub(crate) http2: Http2Settings,
    pub(crate) client: Arc<client::Settings>,
    /// Requests or connections that may wait for an endpoint, and how long there may be none; where policy says
    /// nothing of it, or is not asked.
    pub(crate) http_queue: (usize, Duration),
    pub(crate) tcp_queue: (usize, Duration),
    /// Queues and detection are limited as policy says.
    pub(crate) use_policy_limits: bool,
    pub(crate) connect_backoff: Backoff,
    /// Answers made here say why.
    pub(crate) informational: bool,
    /// Failures of destinations end the application's connection.
    pub(crate) close_on_error: bool,
    pub(crate) ingress_mode: bool,
    /// This workload's addresses.
    pub(crate) local_ips: BTreeSet<IpAddr>,
    /// Addresses of this proxy's own listeners: never an endpoint.
    pub(crate) own: Vec<SocketAddr>,
    pub(crate) grpc_failures: GrpcFailures,
    /// Requests to one destination that may wait for an answer.
    pub(crate) destination_in_flight: usize,
    /// Routes are counted by the names that clients ask for, each kept this long without use.
    pub(crate) hostname_labels: Option<Duration>,
    /// Where policy says nothing of mutual TLS.
    pub(crate) mtls: Mtls,
}

impl Settings {
    /// Whether an address is one of this proxy's own.
    fn is_own(&self, address: SocketAddr) -> bool {
        self.own.iter().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip()
                    || (own.ip().is_unspecified()
                        && (address.ip().is_loopback() || self.local_ips.contains(&address.ip()))))
        })
    }
}

/// The outbound side: what all workers share.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) settings: Settings,
    pub(crate) identity: Arc<LocalIdentity>,
    pub(crate) metrics: OutboundMetrics,
    pub(crate) store: OutboundStore,
    pub(crate) balancers: balance::BalancerFamilies,
    pub(crate) retries: retry::RetryFamilies,
    pub(crate) connections: Limit,
    pub(crate) requests: Limit,
    pub(crate) tracer: Option<Tracer>,
    pub(crate) shared: Shared,
}

/// What outlives the version of a destination that it was made for.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    plans: Mutex<HashMap<Target, Kept>>,
    backends: Mutex<HashMap<String, Weak<Backend>>>,
    budgets: Mutex<HashMap<String, Weak<Budget>>>,
}

/// What was resolved for a destination, and when that was last asked for.
#[derive(Debug)]
struct Kept {
    plan: Arc<Plan>,
    used: Instant,
}

impl Outbound {
    /// What is resolved for the present version of a destination.
    fn plan(&self, lookup: &Arc<Lookup>) -> Arc<Plan> {
        let known = lookup.current().clone();
        let mut plans = lock(&self.shared.plans);
        if let Some(kept) = plans.get_mut(lookup.target())
            && Arc::ptr_eq(&kept.plan.known, &known)
        {
            kept.used = Instant::now();
            return kept.plan.clone();
        }
        let earlier = plans.get(lookup.target()).map(|kept| &*kept.plan);
        let plan = Arc::new(Plan::new(self, lookup.clone(), known, earlier));
        let kept = Kept {
            plan: plan.clone(),
            used: Instant::now(),
        };
        plans.insert(lookup.target().clone(), kept);
        plan
    }

    /// A backend with its endpoints' state, shared by all that name it alike.
    fn backend(&self, key: String, make: impl FnOnce() -> Backend) -> Arc<Backend> {
        let mut backends = lock(&self.shared.backends);
        if let Some(backend) = backends.get(&key).and_then(Weak::upgrade) {
            return backend;
        }
        let backend = Arc::new(make());
        backends.insert(key, Arc::downgrade(&backend));
        backend
    }

    /// The budget of a route's retries.
    fn budget(&self, key: String, make: impl FnOnce() -> Arc<Budget>) -> Arc<Budget> {
        let mut budgets = lock(&self.shared.budgets);
        if let Some(budget) = budgets.get(&key).and_then(Weak::upgrade) {
            return budget;
        }
        let budget = make();
        budgets.insert(key, Arc::downgrade(&budget));
        budget
    }

    /// Lets go of what was resolved for destinations that nobody uses. Runs for the proxy's life.
    pub(crate) async fn tidy(self: Arc<Self>) {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            every.tick().await;
            let idle = self.settings.discovery_idle;
            // What the control plane said last cannot be had again while it is away.
            let is_away = !self.store.is_connected();
            lock(&self.shared.plans).retain(|_, kept| {
                // The time without use begins with the last user's end.
                if Arc::strong_count(&kept.plan) > 1 {
                    kept.used = Instant::now();
                }
                kept.used.elapsed() < idle || (is_away && kept.plan.is_of_controller())
            });
            self.refresh();
            lock(&self.shared.budgets).retain(|_, budget| budget.strong_count() > 0);
        }
    }

    /// Lets go of backends that nobody uses, and has the others take note of their endpoints: one that nothing is sent to
    /// would hold those that are gone.
    fn refresh(&self) {
        let mut used = Vec::new();
        lock(&self.shared.backends).retain(|_, backend| {
            used.extend(backend.upgrade());
            backend.strong_count() > 0
        });
        for backend in used {
            if let backend::Kind::Balance(balancer) = &backend.kind {
                balancer.refresh();
            }
        }
    }

    /// Every balancer in use, for the admin server: its backend, what it balances (`http`, `tcp`, `tls`), and how it does.
    pub(crate) fn in_use(&self) -> Vec<(String, String, balance::BalancerState)> {
        let backends = lock(&self.shared.backends);
        let used = backends
            .iter()
            .filter_map(|(key, backend)| Some((key, backend.upgrade()?)));
        let mut all: Vec<_> = used
            .filter_map(|(key, backend)| match &backend.kind {
                backend::Kind::Balance(balancer) => {
                    // What a backend is shared by begins so.
                    let family = key.split('|').next().unwrap_or_default();
                    Some((
                        backend.meta.to_string(),
                        family.to_owned(),
                        balancer.state(),
                    ))
                }
                backend::Kind::Missing | backend::Kind::Forward(_) => None,
            })
            .collect();
        all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        all
    }

    /// Policy on mutual TLS: nothing leaves in plaintext, or to someone else, where it must not.
    fn check_mtls(
        &self,
        plan: &Plan,
        balancer: Option<&Balancer>,
        identity: Option<&str>,
        address: SocketAddr,
    ) -> Result<(), Failure> {
        let of_backend = balancer.map(Balancer::mtls);
        let nothing = Mtls::default();
        let said = [
            &plan.known.mtls,
            &plan.known.workload_mtls,
            of_backend.as_ref().map_or(&nothing, |mtls| &***mtls),
        ];
        let Err(refused) = Mtls::check_all(said, &self.settings.mtls, identity) else {
            return Ok(());
        };
        self.metrics.mtls_refused(&plan.parent, refused.label());
        Err(Failure::Mtls(format!("endpoint {address} {refused}")))
    }

    /// Removes what only a proxy may say from an answer, unless a proxy of the mesh says it: why it refused.
    fn distrust(&self, remote: &Remote, headers: &mut HeaderMap) {
        const WHY: &str = "l5d-proxy-error";
        let said = headers
            .remove(WHY)
            .filter(|_| self.settings.informational && remote.identity().is_some());
        shape::distrust(headers);
        if let Some(said) = said {
            headers.insert(WHY, said);
        }
    }
}

/// The outbound side on one thread.
#[derive(Debug)]
pub(crate) struct Worker {
    outbound: Arc<Outbound>,
    drain: Drain,
    clients: Mutex<HashMap<Dial, Arc<Client>>>,
    /// Ways to endpoints, by the address of what discovery said of them.
    remotes: Mutex<HashMap<(usize, Carried), Arc<Remote>>>,
    sources: Mutex<HashMap<Option<SocketAddr>, Arc<Transport>>>,
}

/// How many original destinations keep their resolved metrics between connections, on each worker.
const MAX_SOURCES: usize = 1024;

/// Where an accepted connection goes.
#[derive(Clone, Debug)]
pub(crate) enum Via {
    /// It was redirected to the proxy.
    Redirected,
    /// It came to a listener for one destination.
    Explicit(Target),
}

/// Why an outbound connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the original destination is not known: {0}")]
    NoOriginal(std::io::Error),
    #[error("the original destination {0} is this proxy")]
    Loop(SocketAddr),
    #[error("discovery timed out: the control plane has not said what {0} is")]
    Unknown(String),
    #[error("{0}")]
    Refused(&'static str),
    #[error("policy forbids it")]
    Forbidden,
    #[error("{0}")]
    InvalidBackend(String),
    #[error("{place}: {failure}")]
    Failed {
        place: Box<str>,
        failure: Box<Failure>,
    },
    #[error("{0}")]
    Relay(#[from] crate::transport::relay::RelayError),
    #[error("HTTP: {0}")]
    Http(HttpError),
}

impl ConnectionError {
    fn failed(failure: Failure, rule: &StreamRule) -> Self {
        Self::Failed {
            place: rule.place.clone(),
            failure: Box::new(failure),
        }
    }

    /// The value of `error` in `outbound_tcp_errors_total`.
    fn label(&self) -> &'static str {
        match self {
            Self::Io(_) | Self::Relay(_) => "i/o",
            Self::Failed { failure, .. } => match failure.as_ref() {
                Failure::Endpoint(..) => "i/o",
                failure => failure.row().error.unwrap_or("unexpected"),
            },
            Self::NoOriginal(_)
            | Self::Loop(_)
            | Self::Unknown(_)
            | Self::Refused(_)
            | Self::Forbidden
            | Self::InvalidBackend(_)
            | Self::Http(_) => "unexpected",
        }
    }
}

impl Worker {
    pub(crate) fn new(outbound: Arc<Outbound>, drain: Drain) -> Arc<Self> {
        Arc::new(Self {
            outbound,
            drain,
            clients: Mutex::default(),
            remotes: Mutex::default(),
            sources: Mutex::default(),
        })
    }

    /// Serves one accepted connection to its end, and counts how it failed if it did.
    pub(crate) async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        via: Via,
    ) {
        let Some(_place) = self.outbound.connections.enter() else {
            self.outbound.metrics.refused("connections");
            return;
        };
        let (target, original) = match self.target(&stream, client, via) {
            Ok(target) => target,
            Err(error) => return self.failed(None, &error),
        };
        if let Err(error) = Box::pin(self.serve(stream, target, original)).await {
            self.failed(original, &error);
        }
    }

    fn failed(&self, original: Option<SocketAddr>, error: &ConnectionError) {
        tracing::debug!(?original, %error, "Outbound connection failed");
        let metrics = &self.outbound.metrics;
        metrics.connection_failed(error.label(), original);
    }

    /// Where a connection was going.
    fn target(
        &self,
        stream: &TcpStream,
        client: SocketAddr,
        via: Via,
    ) -> Result<(Target, Option<SocketAddr>), ConnectionError> {
        if let Via::Explicit(target) = via {
            let address = target.address();
            return Ok((target, address));
        }
        let original =
            listen::original_destination(stream, client).map_err(ConnectionError::NoOriginal)?;
        if self.outbound.settings.is_own(original) {
            return Err(ConnectionError::Loop(original));
        }
        Ok((Target::Addr(original), Some(original)))
    }

    /// A connection's life.
    async fn serve(
        self: &Arc<Self>,
        stream: TcpStream,
        target: Target,
        original: Option<SocketAddr>,
    ) -> Result<(), ConnectionError> {
        let settings = &self.outbound.settings;
        let lookup = self.outbound.store.lookup(&target);
        lookup.ready(settings.discovery_wait).await;
        let source = self.source(original);
        let mut io = Io::tcp(stream, BytesMut::new());
        io.meter(source.meter());
        let _open = source.open();
        let connection = Connection::new(self.clone(), lookup);
        let plan = connection.plan();
        plan.connections.inc();
        let (version, streams) = match &plan.how {
            _ if settings.ingress_mode => {
                let version = connection
                    .detect(&mut io, &plan, settings.detect_timeout)
                    .await?;
                (version, plan.streams())
            }
            How::Detect(limit, _, _, streams) => (
                connection.detect(&mut io, &plan, *limit).await?,
                Some(streams),
            ),
            How::Invalid => {
                let limit = settings.detect_timeout;
                (connection.detect(&mut io, &plan, limit).await?, None)
            }
            How::Http1(_) => (Some(detect::Http::Http1), None),
            How::Http2(_) => {
                Connection::beginning(&mut io, settings.detect_timeout).await?;
                (Some(detect::Http::Http2), None)
            }
            How::Opaque(streams) => (None, Some(streams)),
            How::Tls(streams) => {
                let sni = self.server_name(&mut io).await?;
                return stream::serve(connection, io, &plan, streams, Some(&sni)).await;
            }
        };
        if let Some(version) = version {
            drop(plan);
            return Box::pin(http::serve(connection, io, version)).await;
        }
        if !plan.is_known() {
            return Err(ConnectionError::Unknown(target.to_string()));
        }
        let streams = streams.ok_or(ConnectionError::Refused(
            "the control plane's policy cannot be used",
        ))?;
        stream::serve(connection.clone(), io, &plan, streams, None).await
    }

    /// The server name that a client asks for in the TLS of its own.
    async fn server_name(&self, io: &mut Io) -> Result<Box<str>, ConnectionError> {
        let mut read = BytesMut::new();
        let limit = self.outbound.settings.detect_timeout;
        let sniffed = tokio::time::timeout(limit, linkerd_tls::sniff(io, &mut read)).await;
        io.replay(read);
        match sniffed {
            Ok(Ok(Sniffed::Tls { sni: Some(sni) })) => Ok(sni),
            Ok(Ok(_)) => Err(ConnectionError::Refused("Could not find SNI")),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ConnectionError::Refused("SNI detection timed out")),
        }
    }

    /// The `tcp_*` series of connections to one destination.
    fn source(&self, original: Option<SocketAddr>) -> Arc<Transport> {
        let mut sources = lock(&self.sources);
        if let Some(source) = sources.get(&original) {
            return source.clone();
        }
        if sources.len() >= MAX_SOURCES {
            sources.clear();
        }
        let labels = labels::source(original);
        let source = Arc::new(self.outbound.metrics.tcp.transport_of(labels));
        sources.insert(original, source.clone());
        source
    }

    /// This worker's way to an endpoint.
    fn remote(
        &self,
        endpoint: &Arc<Endpoint>,
        authority: Option<&str>,
        carried: Carried,
    ) -> Result<Arc<Remote>, Unusable> {
        let key = (Arc::as_ptr(endpoint).addr(), carried);
        if let Some(remote) = lock(&self.remotes).get(&key) {
            return Ok(remote.clone());
        }
        let remote = Arc::new(Remote::new(self, endpoint, authority, carried)?);
        lock(&self.remotes).insert(key, remote.clone());
        Ok(remote)
    }

    /// The connections that lead to one place, shared by everything that this worker sends there.
    fn client(
        &self,
        dial: Dial,
        endpoint: &Endpoint,
        authority: Option<&str>,
        is_local: bool,
    ) -> Arc<Client> {
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&dial) {
            return client.clone();
        }
        let labels = labels::endpoint(Some("dst"), authority, endpoint, &dial, is_local);
        let locality = match endpoint.labels.get("zone_locality").map(String::as_str) {
            Some(local) if local.eq_ignore_ascii_case("local") => "Local",
            Some(remote) if remote.eq_ignore_ascii_case("remote") => "Remote",
            _ => "Unknown",
        };
        let metrics = &self.outbound.metrics;
        let transport = metrics
            .tcp
            .transport_of(labels)
            .also(metrics.transfer(locality));
        let client = Client::new(
            dial.clone(),
            self.outbound.settings.client.clone(),
            self.outbound.identity.clone(),
            Arc::new(transport),
        );
        let client = Arc::new(client.with_http2(endpoint.http2));
        clients.insert(dial, client.clone());
        client
    }

    /// Policy on where this worker may send anything.
    fn check(
        &self,
        plan: &Plan,
        balancer: Option<&Balancer>,
        remote: &Remote,
    ) -> Result<(), Failure> {
        let address = remote.address;
        if self.outbound.settings.is_own(address) {
            return Err(Failure::Loop(address));
        }
        if remote.is_local {
            return Ok(());
        }
        self.outbound
            .check_mtls(plan, balancer, remote.identity(), address)
    }

    /// An endpoint that could not be connected to, counted.
    fn not_reached(&self, remote: &Remote, error: ClientError) -> Failure {
        if let Some(error) = error.handshake() {
            self.outbound.metrics.handshake_failed(error.reason());
        }
        Failure::Endpoint(remote.address, error)
    }

    /// Lets go of connections and endpoints that are not used any more. Runs for the worker's life.
    pub(crate) async fn tidy(self: Arc<Self>) {
        let mut drain = self.drain.clone();
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = every.tick() => self.expire(),
                () = drain.reached(Phase::Closing) => return,
            }
        }
    }

    fn expire(&self) {
        lock(&self.remotes).retain(|_, remote| remote.is_known() || Arc::strong_count(remote) > 1);
        let now = Instant::now();
        // Connections that lead to no endpoint of anything are closed; what is in flight on them ends first.
        lock(&self.clients).retain(|_, client| {
            client.expire(now);
            Arc::strong_count(client) > 1
        });
    }
}

/// A lock whose holders cannot panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
