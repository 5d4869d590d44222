//! Threads, sockets and the life cycle: from a configuration to a running proxy and to its exit code.
//!
//! The calling thread runs everything that is not traffic, on a runtime of its own: discovery, identity, admin,
//! signals. Each worker is a thread with a single-threaded runtime that accepts from every listener; workers share
//! snapshots and counters, and no queue.

use crate::{
    admin,
    config::{Address, Certificates, Config, PathNormalization},
    discovery::{
        self,
        client::{ControlClient, Endpoint},
        dns::Resolver,
        metrics::ClientMetrics,
        outbound::{Mtls, OutboundStore, Target},
        policy::PolicyStore,
    },
    drain::{self, Drain, Phase, Shutdown},
    http::{ConnectionLimits, Http2Settings, client, outcome::GrpcFailures},
    inbound::{self, Inbound, InboundMetrics, metrics::Occupancy},
    limit::Limit,
    logging, outbound,
    telemetry::{self, access_log::AccessLog, trace::Tracer},
    transport::{
        SocketOptions,
        listen::{self, Acceptor},
    },
};
use linkerd_metrics::{Gauge, Handle, Labels, Registry, describe, process::Process};
use linkerd_policy::outbound::Http2Params;
use linkerd_tls::LocalIdentity;
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Why the proxy cannot run. Bad variables are no part of this: they end the process before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener's address cannot be bound.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// What would have listened.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The workload's identity cannot be set up; the text names the variable.
    #[error("{0}")]
    Identity(String),
    /// A thread or a runtime cannot be started.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// The whole of the binary: configuration from the environment, logs, and [`run`].
///
/// Exit codes: 0 after a shutdown, 64 for bad variables, 1 if the proxy cannot start.
pub fn main_from_env() -> ExitCode {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("Invalid configuration: {errors}");
            return ExitCode::from(64);
        }
    };
    let log = logging::init(&config.logging);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match run(config, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "Initialization failure");
            eprintln!("Initialization failure: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the proxy until it is told to stop, and whatever was in flight then has finished or was cut.
///
/// # Errors
/// If it cannot start; then nothing was accepted.
pub(crate) fn run(config: Config, log: logging::Level) -> Result<(), Error> {
    let sockets = Sockets::bind(&config)?;
    let control = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    control.block_on(serve(config, sockets, log))
}

/// Where options that are off mean for ever.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// The controllers, and what they keep up to date.
struct Control {
    policies: PolicyStore,
    store: OutboundStore,
    /// Absent where certificates come from elsewhere.
    certifier: Option<ControlClient>,
    tracer: Option<Tracer>,
}

impl Control {
    fn start(config: &Arc<Config>, identity: &Arc<LocalIdentity>, registry: &Registry) -> Self {
        let client = |name, addr: &crate::config::ControlAddr| {
            let is_local = addr.addr.is_loopback();
            let endpoint = Endpoint {
                resolver: Resolver::new(config.control.dns_ttl),
                name,
                addr: addr.clone(),
                connect_timeout: config.control.connect_timeout,
                backoff: if is_local {
                    config.inbound.connect_backoff
                } else {
                    config.outbound.connect_backoff
                },
            };
            let metrics = Arc::new(ClientMetrics::new(registry, &endpoint));
            ControlClient::new(endpoint, identity.clone(), metrics)
        };
        let policy = client("policy", &config.policy.addr);
        let policies = PolicyStore::new(
            discovery::policy::Settings::new(config),
            policy.clone(),
            registry,
            runtime::Handle::current(),
        );
        let store = OutboundStore::new(
            discovery::outbound::Settings::new(config),
            policy,
            client("destination", &config.control.destination),
            registry,
            runtime::Handle::current(),
        );
        let certifier = match &config.identity.source {
            Certificates::Service(service) => Some(client("identity", &service.addr)),
            Certificates::Spire(_) => None,
        };
        let tracer = config.control.tracing.as_ref().map(|tracing| {
            let collector = client("opentelemetry", &tracing.collector);
            telemetry::export::start(config, tracing, collector, registry)
        });
        Self {
            tracer,
            policies,
            store,
            certifier,
        }
    }
}

/// Every listening socket, bound before anything else is built.
#[derive(Debug)]
struct Sockets {
    inbound: Arc<Vec<(TcpListener, inbound::Via)>>,
    outbound: Arc<Vec<(TcpListener, outbound::Via)>>,
    admin: TcpListener,
}

impl Sockets {
    fn bind(config: &Config) -> Result<Self, Error> {
        let bind = |what, address, backlog| {
            listen::bind(address, backlog).map_err(|source| Error::Listen {
                what,
                address,
                source,
            })
        };
        let backlog = config.inbound.backlog;
        let mut inbound = vec![(
            bind("inbound", config.inbound.listen, backlog)?,
            inbound::Via::Proxy,
        )];
        for (address, target) in &config.inbound.listeners {
            let listener = bind("inbound listener", *address, backlog)?;
            inbound.push((listener, inbound::Via::Explicit(*target)));
        }
        let backlog_out = config.outbound.backlog;
        let mut outbound = Vec::new();
        for address in &config.outbound.listen {
            let listener = bind("outbound", *address, backlog_out)?;
            outbound.push((listener, outbound::Via::Redirected));
        }
        for listener in &config.outbound.listeners {
            let socket = bind("outbound listener", listener.listen, backlog_out)?;
            let target = match &listener.destination {
                Address::Socket(address) => Target::Addr(*address),
                Address::Name(..) => Target::Name(listener.destination.to_string()),
            };
            outbound.push((socket, outbound::Via::Explicit(target)));
        }
        let admin = bind("admin", config.admin.listen, backlog)?;
        Ok(Self {
            inbound: Arc::new(inbound),
            outbound: Arc::new(outbound),
            admin,
        })
    }
}

async fn serve(config: Config, sockets: Sockets, log: logging::Level) -> Result<(), Error> {
    let config = Arc::new(config);
    let registry = registry(&config);
    let identity = discovery::identity::local(&config.identity)
        .map_err(|error| Error::Identity(error.to_string()))?;
    let control = Control::start(&config, &identity, &registry);
    let certifier = control.certifier.clone();
    let settings = config.identity.clone();
    let certify = discovery::identity::maintain(identity.clone(), settings, certifier, &registry);
    tokio::select! {
        never = certify => match never {},
        result = live(&config, sockets, log, &registry, identity.clone(), control) => result,
    }
}

/// The proxy's life once its parts are there.
async fn live(
    config: &Arc<Config>,
    sockets: Sockets,
    log: logging::Level,
    registry: &Registry,
    identity: Arc<LocalIdentity>,
    control: Control,
) -> Result<(), Error> {
    let (mut shutdown, drain) = drain::channel();
    let denials = Arc::new(admin::denials::Denials::new(
        config.policy.denial_log_interval,
        registry,
    ));
    let inbound_metrics = InboundMetrics::register(registry);
    let inbound = Arc::new(Inbound {
        settings: inbound_settings(config),
        policies: control.policies.clone(),
        identity: identity.clone(),
        metrics: inbound_metrics.clone(),
        denials: denials.clone(),
        audit: inbound::AuditLog::new(registry),
        connections: Limit::new(config.inbound.max_connections),
        requests: Limit::new(config.inbound.max_in_flight),
        access_log: access_log(config, registry)?,
        tracer: control.tracer.as_ref().map(|tracer| tracer.of("inbound")),
    });
    let outbound = outbound_side(
        config,
        control.store.clone(),
        control.tracer.as_ref(),
        &identity,
        (inbound_metrics, registry),
    );
    let _tidying = Aborted(tokio::spawn(outbound.clone().tidy()));
    registry.collector(Box::new(outbound::Occupancy(outbound.requests.clone())));
    let connections = inbound.connections.clone();
    registry.collector(Box::new(Occupancy {
        connections: connections.clone(),
        requests: inbound.requests.clone(),
    }));
    let _info = build_info(registry);
    let _expiring = Aborted(tokio::spawn(expire(registry.clone())));
    let phase = PhaseGauge::register(registry);
    phase.set("starting");
    let (stop, mut stopped) = mpsc::channel(1);
    let policies = control.policies;
    let state = admin::State::new(
        config,
        registry.clone(),
        identity.clone(),
        policies,
        (outbound.clone(), denials),
        log,
        stop,
    )
    .ending_with(drain.observer());
    let serving_admin = tokio::spawn(admin::serve(sockets.admin, state));

    let mut signals = Signals::new()?;
    let workers = tokio::select! {
        _ = identity.certified() => true,
        () = signals.received() => false,
        _ = stopped.recv() => false,
    };
    if workers {
        let listening = Arc::new(Listening {
            inbound: sockets.inbound,
            outbound: sockets.outbound,
        });
        start_workers(config, &inbound, &outbound, &listening, &drain)?;
        drop((drain, inbound, outbound, listening));
        phase.set("ready");
        tokio::select! {
            () = signals.received() => {}
            _ = stopped.recv() => {}
        }
        finish(config, registry, &connections, &mut shutdown, &phase).await;
    }
    phase.set("stopped");
    serving_admin.abort();
    Ok(())
}

/// The end of the proxy's life: drain, close, and cut what is left.
async fn finish(
    config: &Config,
    registry: &Registry,
    connections: &Limit,
    shutdown: &mut Shutdown,
    phase: &PhaseGauge,
) {
    let settings = &config.shutdown;
    tracing::info!(window = ?settings.drain_window, grace = ?settings.grace, "Draining: still accepting, asking clients to go");
    phase.set("draining");
    let started = registry
        .gauges(&describe::PROXY_DRAIN_STARTED_TIMESTAMP_SECONDS)
        .get(&Labels::new());
    started.set_time(SystemTime::now());
    shutdown.advance(Phase::Draining);
    tokio::time::sleep(settings.drain_window.min(settings.grace)).await;
    shutdown.advance(Phase::Closing);
    let left = settings.grace.saturating_sub(settings.drain_window);
    if shutdown.finished(left).await {
        tracing::info!("Drained");
        return;
    }
    tracing::warn!(grace = ?settings.grace, "The grace period is over: cutting what is left");
    let cut = registry
        .counters(&describe::PROXY_DRAIN_CONNECTIONS_CUT_TOTAL)
        .get(&Labels::new());
    cut.add(connections.now() as u64);
    shutdown.advance(Phase::Cut);
    shutdown.finished(Duration::from_secs(1)).await;
}

/// Lets go of idle series also when nobody scrapes.
async fn expire(registry: Registry) {
    let mut every = tokio::time::interval(Duration::from_secs(60));
    loop {
        registry.expire(every.tick().await.into_std());
    }
}

/// A task that ends with its owner.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What workers accept from.
#[derive(Debug)]
struct Listening {
    inbound: Arc<Vec<(TcpListener, inbound::Via)>>,
    outbound: Arc<Vec<(TcpListener, outbound::Via)>>,
}

fn start_workers(
    config: &Config,
    inbound: &Arc<Inbound>,
    outbound: &Arc<outbound::Outbound>,
    listening: &Arc<Listening>,
    drain: &Drain,
) -> Result<(), Error> {
    let threads = workers(config);
    tracing::info!(workers = threads, "Serving");
    for number in 0..threads {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (inbound, outbound) = (inbound.clone(), outbound.clone());
        let (listening, drain) = (listening.clone(), drain.clone());
        let options = (
            accept_options(config),
            SocketOptions {
                keepalive: config.outbound.accept_keepalive,
                user_timeout: config.outbound.accept_user_timeout,
            },
        );
        thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                if let Err(error) =
                    runtime.block_on(work(inbound, outbound, &listening, drain, options))
                {
                    tracing::error!(%error, "A worker cannot accept");
                }
                drop(listening);
                // Connections go on until they have ended or the process does.
                runtime.block_on(std::future::pending::<()>());
            })?;
    }
    Ok(())
}

/// One worker: accepts from every listener until the proxy closes them.
async fn work(
    inbound: Arc<Inbound>,
    outbound: Arc<outbound::Outbound>,
    listening: &Listening,
    drain: Drain,
    (inbound_options, outbound_options): (SocketOptions, SocketOptions),
) -> io::Result<()> {
    let accept_errors = inbound.metrics.accept_errors.clone();
    let inbound = inbound::Worker::new(inbound, drain.clone());
    let outbound = outbound::Worker::new(outbound, drain.clone());
    tokio::spawn(inbound.clone().tidy());
    tokio::spawn(outbound.clone().tidy());
    let mut loops = tokio::task::JoinSet::new();
    for (listener, via) in listening.inbound.iter() {
        let acceptor = Acceptor::new(listener, inbound_options, accept_errors.clone())?;
        let (worker, drain, via) = (inbound.clone(), drain.clone(), *via);
        loops.spawn(async move {
            let serve = |stream, client| {
                drop(tokio::spawn(worker.clone().connection(stream, client, via)));
            };
            acceptor.serve(drain, serve).await;
        });
    }
    for (listener, via) in listening.outbound.iter() {
        let acceptor = Acceptor::new(listener, outbound_options, accept_errors.clone())?;
        let (worker, drain, via) = (outbound.clone(), drain.clone(), via.clone());
        loops.spawn(async move {
            let serve = |stream, client| {
                drop(tokio::spawn(worker.clone().connection(
                    stream,
                    client,
                    via.clone(),
                )));
            };
            acceptor.serve(drain, serve).await;
        });
    }
    drop((inbound, outbound, drain));
    while loops.join_next().await.is_some() {}
    Ok(())
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT"),
        }
    }
}

/// `proxy_phase`.
struct PhaseGauge(Vec<(&'static str, Handle<Gauge>)>);

impl PhaseGauge {
    fn register(registry: &Registry) -> Self {
        let family = registry.gauges(&describe::PROXY_PHASE);
        let phases = ["starting", "ready", "draining", "stopped"];
        Self(
            phases
                .map(|phase| (phase, family.get(&Labels::new().with("phase", phase))))
                .into(),
        )
    }

    fn set(&self, now: &str) {
        for (phase, gauge) in &self.0 {
            gauge.set(f64::from(u8::from(*phase == now)));
        }
    }
}

fn registry(config: &Config) -> Registry {
    let metrics = &config.metrics;
    let registry = Registry::new(linkerd_metrics::Options {
        retain_idle: metrics.retain_idle,
        max_series_per_family: metrics.max_series,
        native_histograms: metrics.native_histograms,
        latency_buckets: metrics.latency_buckets.clone().unwrap_or_default(),
        workers: workers(config),
    });
    registry.collector(Box::new(Process::new()));
    registry
}

/// `proxy_build_info`, `rustls_info`: shown while the handles live.
fn build_info(registry: &Registry) -> [Handle<Gauge>; 2] {
    let build = Labels::new()
        .with(
            "date",
            option_env!("LINKERD_BUILD_DATE").unwrap_or_default(),
        )
        .with(
            "git_sha",
            option_env!("LINKERD_GIT_SHA").unwrap_or_default(),
        )
        .with(
            "profile",
            if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
        )
        .with("vendor", option_env!("LINKERD_VENDOR").unwrap_or_default())
        .with("version", env!("CARGO_PKG_VERSION"));
    let (suites, groups) = linkerd_tls::algorithm_names();
    let listed = |names: Vec<String>| {
        names
            .iter()
            .map(|name| format!("{name},"))
            .collect::<String>()
    };
    let tls = Labels::new()
        .with("tls_suites", listed(suites))
        .with("tls_kx_groups", listed(groups))
        .with("tls_rand", "AwsLcRs")
        .with("tls_key_provider", "AwsLcRs")
        .with("tls_fips", "false");
    let info = [
        registry.gauges(&describe::PROXY_BUILD_INFO).get(&build),
        registry.gauges(&describe::RUSTLS_INFO).get(&tls),
    ];
    for gauge in &info {
        gauge.set(1.0);
    }
    info
}

/// The access log, if one is asked for.
fn access_log(config: &Config, registry: &Registry) -> Result<Option<AccessLog>, Error> {
    let start = |format| {
        let dropped = registry.counters(&describe::ACCESS_LOG_LINES_DROPPED_TOTAL);
        AccessLog::start(format, dropped.get(&Labels::new()))
    };
    Ok(config.logging.access_log.map(start).transpose()?)
}

/// How many workers there are.
fn workers(config: &Config) -> usize {
    config
        .workers
        .threads(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
}

fn accept_options(config: &Config) -> SocketOptions {
    SocketOptions {
        keepalive: config.inbound.accept_keepalive,
        user_timeout: config.inbound.accept_user_timeout,
    }
}

fn inbound_settings(config: &Config) -> inbound::Settings {
    let inbound = &config.inbound;
    let mut own = vec![inbound.listen];
    own.extend(inbound.listeners.iter().map(|(listen, _)| *listen));
    // A client may name any port. What comes to an outbound listener goes out in this workload's name.
    own.extend(config.outbound.listen.iter().copied());
    own.extend(
        config
            .outbound
            .listeners
            .iter()
            .map(|listener| listener.listen),
    );
    inbound::Settings {
        proxy_port: inbound.listen.port(),
        admin_port: config.admin.listen.port(),
        ips: inbound.ips.iter().copied().collect(),
        detect_timeout: inbound.detect_timeout,
        handshake_timeout: inbound.tls_handshake_timeout,
        limits: ConnectionLimits {
            head: inbound.http_header_read_timeout,
            idle: inbound.http_idle_timeout.unwrap_or(NEVER),
        },
        tcp_idle: inbound.tcp_idle_timeout,
        body_idle: inbound.http_body_idle_timeout,
        policy_wait: config.policy.wait_timeout,
        reject_suspicious_paths: inbound.path_normalization == PathNormalization::Reject,
        http1_max_head: inbound.http1_max_header_bytes,
        http2: http2(&inbound.http2),
        authority_labels: inbound
            .authority_labels
            .then_some(config.metrics.retain_idle),
        origin: Arc::new(client::Settings {
            connect_timeout: inbound.connect_timeout,
            socket: SocketOptions {
                keepalive: inbound.connect_keepalive,
                user_timeout: inbound.connect_user_timeout,
            },
            source: Vec::new(),
            max_idle: inbound.pool_max_idle,
            idle_timeout: inbound.pool_idle_timeout,
            max_head: inbound.http1_max_header_bytes,
            http2: windows(
                inbound.client_stream_window,
                inbound.client_connection_window,
            ),
        }),
        own,
        targets: inbound
            .listeners
            .iter()
            .map(|(_, target)| (target.port(), *target))
            .collect(),
    }
}

/// HTTP/2 connections to others, as configured.
fn windows(stream: u32, connection: u32) -> Http2Params {
    Http2Params {
        stream_window: Some(stream),
        connection_window: Some(connection),
        ..Http2Params::default()
    }
}

fn http2(settings: &crate::config::Http2Server) -> Http2Settings {
    Http2Settings {
        stream_window: settings.initial_stream_window_size,
        connection_window: settings.initial_connection_window_size,
        adaptive: settings.adaptive_flow_control,
        max_streams: Some(settings.max_concurrent_streams),
        max_frame: Some(settings.max_frame_size),
        max_header_list: settings.max_header_list_size,
        max_pending_resets: settings.max_pending_accept_reset_streams,
        max_local_resets: settings.max_local_error_reset_streams,
        max_send_buffer: settings.max_send_buf_size,
        keep_alive: settings.keep_alive,
    }
}

/// The outbound side, from what it is told and what it shares.
pub(crate) fn outbound_side(
    config: &Config,
    store: OutboundStore,
    tracer: Option<&Tracer>,
    identity: &Arc<LocalIdentity>,
    (tcp, registry): (InboundMetrics, &Registry),
) -> Arc<outbound::Outbound> {
    Arc::new(outbound::Outbound {
        settings: outbound_settings(config),
        identity: identity.clone(),
        metrics: outbound::OutboundMetrics::register(registry, tcp),
        store,
        balancers: outbound::balance::BalancerFamilies::register(registry),
        retries: outbound::retry::RetryFamilies::register(registry, config.outbound.retry_budget),
        connections: Limit::new(config.outbound.max_connections),
        requests: Limit::new(config.outbound.max_in_flight),
        tracer: tracer.map(|tracer| tracer.of("outbound")),
        shared: outbound::Shared::default(),
    })
}

fn outbound_settings(config: &Config) -> outbound::Settings {
    let (inbound, outbound) = (&config.inbound, &config.outbound);
    let mut own = outbound.listen.clone();
    own.extend(outbound.listeners.iter().map(|listener| listener.listen));
    own.push(inbound.listen);
    outbound::Settings {
        detect_timeout: outbound.detect_timeout,
        discovery_wait: outbound.discovery_timeout,
        discovery_idle: outbound.discovery_idle_timeout,
        max_head: inbound.http1_max_header_bytes,
        limits: ConnectionLimits {
            head: outbound.http_header_read_timeout,
            idle: outbound.http_idle_timeout.unwrap_or(NEVER),
        },
        http2: outbound_http2(config),
        http_queue: (outbound.http_queue_capacity, outbound.http_failfast_timeout),
        tcp_queue: (outbound.tcp_queue_capacity, outbound.tcp_failfast_timeout),
        use_policy_limits: outbound.policy_limits,
        connect_backoff: outbound.connect_backoff,
        informational: !outbound.disable_informational_headers,
        close_on_error: outbound.close_on_error,
        ingress_mode: outbound.ingress_mode,
        local_ips: outbound.local_ips.clone(),
        own,
        grpc_failures: GrpcFailures::new(outbound.failure_grpc_codes.iter().copied()),
        mtls: Mtls {
            is_required: Some(outbound.mtls_required),
            identities: outbound
                .server_identities
                .iter()
                .map(ToString::to_string)
                .collect(),
        },
        destination_in_flight: outbound.max_in_flight_per_destination,
        hostname_labels: outbound
            .hostname_labels
            .then_some(config.metrics.retain_idle),
        client: Arc::new(client::Settings {
            connect_timeout: outbound.connect_timeout,
            socket: SocketOptions {
                keepalive: outbound.connect_keepalive,
                user_timeout: outbound.connect_user_timeout,
            },
            // Several workloads on one machine have loopback addresses of their own, and are told apart by them.
            source: inbound
                .ips
                .iter()
                .copied()
                .filter(IpAddr::is_loopback)
                .collect(),
            max_idle: outbound.pool_max_idle,
            idle_timeout: outbound.pool_idle_timeout,
            max_head: inbound.http1_max_header_bytes,
            http2: windows(
                outbound.client_stream_window,
                outbound.client_connection_window,
            ),
        }),
    }
}

/// The HTTP/2 server for applications: what is not configured for it is as on the inbound side.
fn outbound_http2(config: &Config) -> Http2Settings {
    let own = &config.outbound.http2;
    let usual = http2(&config.inbound.http2);
    let windows = (usual.stream_window, usual.connection_window);
    let (stream_window, connection_window) = own.windows.unwrap_or(windows);
    Http2Settings {
        stream_window,
        connection_window,
        adaptive: own.adaptive_flow_control,
        max_streams: own.max_concurrent_streams.or(usual.max_streams),
        max_frame: own.max_frame_size.or(usual.max_frame),
        max_header_list: own.max_header_list_size.unwrap_or(usual.max_header_list),
        max_pending_resets: own
            .max_pending_accept_reset_streams
            .unwrap_or(usual.max_pending_resets),
        max_local_resets: usual.max_local_resets,
        max_send_buffer: own.max_send_buf_size.unwrap_or(usual.max_send_buffer),
        keep_alive: own.keep_alive,
    }
}
