//! Runs the control plane: sockets, the watched directory, the services.

use crate::{
    Config, admin, admission,
    authority::{Authority, AuthorityError},
    grpc::{
        Shared, destination::Destinations, identity::Certifier, outbound::Outbound,
        policy::Policies, streams::Streams,
    },
    kubernetes::{self, KubernetesError, review::Reviewer},
    listen::{self, connections},
    metrics::ControllerMetrics,
    source::{Snapshot, Source},
    watch::{Issuer, Report, Watch},
};
use arc_swap::ArcSwap;
use kube::Client;
use linkerd_metrics::{Options, Registry, process::Process};
use linkerd_tls::LocalIdentity;
use linkerd2_proxy_api::{
    destination::destination_server::DestinationServer, identity::identity_server::IdentityServer,
    inbound::inbound_server_policies_server::InboundServerPoliciesServer,
    outbound::outbound_policies_server::OutboundPoliciesServer,
};
use std::{
    future::Future, io, io::IsTerminal as _, net::SocketAddr, process::ExitCode, sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tonic::transport::Server;

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
    /// No API server to speak to.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// The webhook's certificate is of no use.
    #[error("the webhook's certificate and key cannot be used: {0}")]
    Admission(#[source] io::Error),
    /// A server or runtime failed.
    #[error("{0}")]
    Serve(#[from] tonic::transport::Error),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The control plane cannot have an identity, which it needs where TLS is spoken.
    #[error("the control plane's own identity {name}: {reason}")]
    Identity {
        /// Its name.
        name: String,
        /// Why not.
        reason: String,
    },
}

/// The whole of the binary: logs, a runtime, signals.
pub fn main(config: Config) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LINKERD_CONTROLLER_LOG")
        .unwrap_or_else(|_| "warn,linkerd=info".into());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
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

/// The sockets of a control plane, bound; port 0 in the configuration gives free ones.
#[derive(Debug)]
pub struct Listeners {
    policy: TcpListener,
    destination: TcpListener,
    identity: TcpListener,
    admin: TcpListener,
    admission: Option<TcpListener>,
}

impl Listeners {
    /// Binds the addresses of `config`, and writes into it which they are.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub async fn bind(config: &mut Config) -> Result<Self, Error> {
        Ok(Self {
            policy: listen("policy", &mut config.policy_addr).await?,
            destination: listen("destination", &mut config.destination_addr).await?,
            identity: listen("identity", &mut config.identity_addr).await?,
            admin: listen("admin", &mut config.admin_addr).await?,
            admission: match &mut config.admission {
                Some(admission) => Some(listen("admission", &mut admission.address).await?),
                None => None,
            },
        })
    }
}

/// Runs the control plane until `shutdown`.
///
/// # Errors
/// If it cannot start, or a server fails.
pub async fn run(
    mut config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let listeners = Listeners::bind(&mut config).await?;
    run_on(config, listeners, shutdown).await
}

/// As [`run`], on sockets that are bound already.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    config: Config,
    listeners: Listeners,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let sources = config.authority();
    let authority = Arc::new(ArcSwap::from_pointee(Authority::open_with(&sources)?));
    let registry = Registry::new(Options::default());
    registry.collector(Box::new(Process::new()));
    let metrics = Arc::new(ControllerMetrics::register(&registry));
    let issuer_ends = authority.load().ca().not_after();
    metrics.issuer_expiry.set_time(issuer_ends);

    let empty = Arc::new(Snapshot::empty(&config.cluster));
    let (publish, snapshots) = watch::channel(empty);
    let report = Report::new(metrics.clone(), config.kubernetes.is_none());
    let (end, ending) = watch::channel(false);
    let shared = Shared {
        snapshots,
        metrics,
        ending,
        streams: Streams::new(config.max_streams),
    };
    let Listeners {
        policy,
        destination,
        identity,
        admin,
        admission,
    } = listeners;
    let apis = [policy, destination, identity];
    let state = admin::State {
        registry,
        snapshots: shared.snapshots.clone(),
        streams: shared.streams.clone(),
    };
    let client = match &config.kubernetes {
        Some(kubernetes) => Some(kubernetes.client().await?),
        None => None,
    };
    let issuer = Issuer {
        authority: authority.clone(),
        sources,
    };
    let keep = Box::pin(keep(&config, client.clone(), publish, report, issuer));
    let serve = Box::pin(async {
        // Nothing is said before everything has been seen once.
        let mut snapshots = shared.snapshots.clone();
        let _ = snapshots.wait_for(|snapshot| snapshot.version > 0).await;
        services(&config, &shared, &authority, client, apis)?.await
    });
    let review = async {
        match config.admission.clone().zip(admission) {
            Some((settings, listener)) => {
                admission::serve(settings, listener, shared.snapshots.clone()).await
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = serve => result?,
        result = review => result.map_err(Error::Admission)?,
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

/// What keeps the snapshot and the issuer in step with where they come from.
async fn keep(
    config: &Config,
    client: Option<Client>,
    publish: watch::Sender<Arc<Snapshot>>,
    mut report: Report,
    issuer: Issuer,
) -> io::Result<()> {
    let Some(client) = client else {
        let mut directories = vec![config.manifests.clone()];
        directories.extend(config.overlays.iter().cloned());
        let mut source = Source::new(directories.clone(), config.cluster.clone());
        if let Some(first) = source.refresh() {
            report.snapshot(&first);
            publish.send_replace(Arc::new(first));
        }
        let watch = Watch {
            source,
            directories,
            rescan: config.rescan,
            publish,
            report,
            issuer,
        };
        return watch.run().await;
    };
    let metrics = report.metrics.clone();
    let publish = move |snapshot: Snapshot| {
        report.snapshot(&snapshot);
        publish.send_replace(Arc::new(snapshot));
    };
    tokio::join!(
        kubernetes::follow(client, config.cluster.clone(), publish),
        issuer.keep(config.rescan, &metrics),
    );
    Ok(())
}

/// What runs the three services.
fn services(
    config: &Config,
    shared: &Shared,
    authority: &Arc<ArcSwap<Authority>>,
    client: Option<Client>,
    [policy, destination, identity]: [TcpListener; 3],
) -> Result<impl Future<Output = Result<(), Error>> + use<>, Error> {
    let own = |account, address| own_identity(config, shared, authority, account, address);
    // The peer serves policy and destinations from one pod, so they have one identity.
    let (destination_id, policy_id, identity_id) = (
        own("linkerd-destination", config.destination_addr)?,
        own("linkerd-destination", config.policy_addr)?,
        own("linkerd-identity", config.identity_addr)?,
    );
    let policy = connections(policy, policy_id);
    let destination = connections(destination, destination_id);
    let identity = connections(identity, identity_id);
    tracing::info!(
        policy = %config.policy_addr, destination = %config.destination_addr,
        identity = %config.identity_addr, admin = %config.admin_addr,
        source = %config.kubernetes.as_ref().map_or_else(|| config.manifests.display().to_string(), |_| "kubernetes".to_owned()),
        "Serving"
    );
    let certifier = Certifier {
        shared: shared.clone(),
        reviewer: client.map(Reviewer::new),
        authority: authority.clone(),
        lifetime: config.issuance_lifetime,
        skew: config.clock_skew,
        per_minute: config.certify_per_minute,
        asked: std::sync::Mutex::default(),
    };
    let policies = InboundServerPoliciesServer::new(Policies(shared.clone()))
        .max_decoding_message_size(MAX_MESSAGE);
    let outbound = OutboundPoliciesServer::new(Outbound(shared.clone()))
        .max_decoding_message_size(MAX_MESSAGE);
    let destinations =
        DestinationServer::new(Destinations(shared.clone())).max_decoding_message_size(MAX_MESSAGE);
    let certifier = IdentityServer::new(certifier).max_decoding_message_size(MAX_MESSAGE);
    let ending = shared.ending.clone();
    let ended = move || {
        let mut ending = ending.clone();
        async move { drop(ending.wait_for(|ending| *ending).await) }
    };
    Ok(async move {
        tokio::try_join!(
            server()
                .add_service(policies)
                .add_service(outbound)
                .serve_with_incoming_shutdown(policy, ended()),
            server()
                .add_service(destinations)
                .serve_with_incoming_shutdown(destination, ended()),
            server()
                .add_service(certifier)
                .serve_with_incoming_shutdown(identity, ended()),
        )?;
        Ok(())
    })
}

/// The control plane's own identity for a service that others than this host can reach; kept certified in the background.
fn own_identity(
    config: &Config,
    shared: &Shared,
    authority: &Arc<ArcSwap<Authority>>,
    account: &str,
    address: SocketAddr,
) -> Result<Option<Arc<LocalIdentity>>, Error> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(None);
    }
    let namespace = &config.cluster.control_plane_namespace;
    let name = config.cluster.service_account_identity(namespace, account);
    let (identity, keep) = listen::identity(
        &name,
        authority.clone(),
        config.issuance_lifetime,
        config.clock_skew,
    )
    .map_err(|reason| Error::Identity { name, reason })?;
    let mut ending = shared.ending.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = keep => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    });
    Ok(Some(identity))
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(3)))
        .max_concurrent_streams(Some(10_000))
}

async fn listen(what: &'static str, address: &mut SocketAddr) -> Result<TcpListener, Error> {
    let refused = |source| Error::Listen {
        what,
        address: *address,
        source,
    };
    let listener = TcpListener::bind(*address).await.map_err(refused)?;
    *address = listener.local_addr().map_err(refused)?;
    Ok(listener)
}
