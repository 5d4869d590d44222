//! Runs the control plane: sockets, the watched directory, the services.

use crate::{
    Config, admin,
    authority::{Authority, AuthorityError},
    grpc::{Shared, destination::Destinations, identity::Certifier, policy::Policies},
    metrics::{ControllerMetrics, Shown},
    source::{Snapshot, Source},
};
use linkerd_metrics::{Options, Registry, process::Process};
use linkerd2_proxy_api::{
    destination::destination_server::DestinationServer, identity::identity_server::IdentityServer,
    inbound::inbound_server_policies_server::InboundServerPoliciesServer,
};
use notify::Watcher as _;
use std::{future::Future, io, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// How long changes are gathered: editors write a file in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// Largest message that a client may send.
const MAX_MESSAGE: usize = 256 * 1024;

/// Why the control plane cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// What would have listened.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// No CA or token key.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A server or runtime failed.
    #[error("{0}")]
    Serve(#[from] tonic::transport::Error),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Plaintext is for this host only.
    #[error(
        "{0} is not a loopback address: the API is served in plaintext there; use 127.0.0.1 or [::1]"
    )]
    NotLoopback(SocketAddr),
}

/// The whole of the binary: logs, a runtime, signals.
pub fn main(config: Config) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LINKERD_CONTROLLER_LOG")
        .unwrap_or_else(|_| "warn,linkerd=info".into());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .try_init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let (mut term, mut int) = (
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
            );
            let shutdown = async move {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            };
            run(config, shutdown).await
        }),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("linkerd-controller: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the control plane until `shutdown`.
///
/// # Errors
/// If it cannot start, or a server fails.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let authority = Arc::new(Authority::open(&config.state_dir)?);
    let registry = Registry::new(Options::default());
    registry.collector(Box::new(Process::new()));
    let metrics = Arc::new(ControllerMetrics::register(&registry));
    metrics.issuer_expiry.set_time(authority.ca().not_after());

    let mut directories = vec![config.manifests.clone()];
    directories.extend(config.overlays.iter().cloned());
    let mut source = Source::new(directories.clone(), config.cluster.clone());
    let mut shown = Shown::default();
    let first = source
        .refresh()
        .unwrap_or_else(|| Snapshot::empty(&config.cluster));
    report(&first, &metrics, &mut shown);
    let (publish, snapshots) = watch::channel(Arc::new(first));
    let (end, ending) = watch::channel(false);
    let shared = Shared {
        snapshots,
        metrics: metrics.clone(),
        ending,
    };

    let policy = bind("policy", config.policy_addr).await?;
    let destination = bind("destination", config.destination_addr).await?;
    let identity = bind("identity", config.identity_addr).await?;
    let admin = listen("admin", config.admin_addr).await?;
    let certifier = Certifier {
        shared: shared.clone(),
        authority,
        lifetime: config.issuance_lifetime,
        skew: config.clock_skew,
        per_minute: config.certify_per_minute,
        asked: std::sync::Mutex::default(),
    };
    tracing::info!(
        policy = %config.policy_addr, destination = %config.destination_addr,
        identity = %config.identity_addr, admin = %config.admin_addr,
        manifests = %config.manifests.display(), "Serving"
    );
    let policies = InboundServerPoliciesServer::new(Policies(shared.clone()))
        .max_decoding_message_size(MAX_MESSAGE);
    let destinations =
        DestinationServer::new(Destinations(shared.clone())).max_decoding_message_size(MAX_MESSAGE);
    let certifier = IdentityServer::new(certifier).max_decoding_message_size(MAX_MESSAGE);
    let ended = || {
        let mut ending = shared.ending.clone();
        async move { drop(ending.wait_for(|ending| *ending).await) }
    };
    let state = admin::State {
        registry,
        snapshots: shared.snapshots.clone(),
    };
    let keep = keep(source, directories, config.rescan, publish, metrics, shown);
    let serve = async {
        tokio::try_join!(
            server()
                .add_service(policies)
                .serve_with_incoming_shutdown(policy, ended()),
            server()
                .add_service(destinations)
                .serve_with_incoming_shutdown(destination, ended()),
            server()
                .add_service(certifier)
                .serve_with_incoming_shutdown(identity, ended()),
        )
    };
    tokio::select! {
        result = serve => { result?; }
        () = admin::serve(admin, state) => {}
        result = keep => result?,
        () = async {
            shutdown.await;
            let _ = end.send(true);
            // Streams end at once; calls in flight get a moment.
            tokio::time::sleep(Duration::from_millis(200)).await;
        } => {}
    }
    Ok(())
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(3)))
        .max_concurrent_streams(Some(10_000))
        .tcp_nodelay(true)
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListenerStream, Error> {
    if !address.ip().is_loopback() {
        return Err(Error::NotLoopback(address));
    }
    Ok(TcpListenerStream::new(listen(what, address).await?))
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen {
            what,
            address,
            source,
        })
}

/// Reads the directories when something in them changes, and from time to time in case that was missed.
async fn keep(
    mut source: Source,
    directories: Vec<std::path::PathBuf>,
    rescan: Duration,
    publish: watch::Sender<Arc<Snapshot>>,
    metrics: Arc<ControllerMetrics>,
    mut shown: Shown,
) -> Result<(), Error> {
    let touched = Arc::new(Notify::new());
    let tell = touched.clone();
    let watcher = notify::recommended_watcher(move |_| tell.notify_one());
    let mut watcher = watcher.map_err(io::Error::other)?;
    for directory in &directories {
        if let Err(error) = watcher.watch(directory, notify::RecursiveMode::Recursive) {
            tracing::warn!(directory = %directory.display(), %error, "Not watched; read every {rescan:?} instead");
        }
    }
    loop {
        if tokio::time::timeout(rescan, touched.notified())
            .await
            .is_ok()
        {
            tokio::time::sleep(SETTLE).await;
        }
        let (back, snapshot) = tokio::task::spawn_blocking(move || {
            let snapshot = source.refresh();
            (source, snapshot)
        })
        .await
        .map_err(io::Error::other)?;
        source = back;
        if let Some(snapshot) = snapshot {
            report(&snapshot, &metrics, &mut shown);
            publish.send_replace(Arc::new(snapshot));
        }
    }
}

fn report(snapshot: &Snapshot, metrics: &ControllerMetrics, shown: &mut Shown) {
    metrics.show(snapshot, shown);
    tracing::info!(
        version = snapshot.version,
        workloads = snapshot.index.workloads().count(),
        services = snapshot.index.services().count(),
        problems = snapshot.problems.len(),
        "Manifests read"
    );
    for problem in &snapshot.problems {
        tracing::warn!("{problem}");
    }
}
