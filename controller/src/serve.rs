//! Runs the control plane: sockets, the watched directory, the services.

use crate::{
    Config, Role, admin, admission,
    authority::{Authority, AuthorityError},
    background,
    certificates::{self, Making, Webhook},
    grpc::{
        Shared, destination::Destinations, identity::Certifier, outbound::Outbound,
        policy::Policies, streams::Streams,
    },
    injector,
    issuer::{Issuer, Origin, Signing},
    kubernetes::{
        self, Follow, KubernetesError, Needed, Reported, access::Access, issuer::Kept,
        review::Reviewer,
    },
    listen::{self, Connection, connections},
    metrics::{ControllerMetrics, IndexSizes},
    notices::Notices,
    source::{Snapshot, Source},
    watch::{Report, Watch},
};
use futures::{
    FutureExt as _,
    future::{OptionFuture, join},
};
use kube::Client;
use linkerd_metrics::{Options, Registry, process::Process};
use linkerd_tls::LocalIdentity;
use linkerd2_proxy_api::{
    destination::destination_server::DestinationServer, identity::identity_server::IdentityServer,
    inbound::inbound_server_policies_server::InboundServerPoliciesServer,
    outbound::outbound_policies_server::OutboundPoliciesServer,
};
use std::{
    future::Future, io, io::IsTerminal as _, net::SocketAddr, path::PathBuf, process::ExitCode,
    sync::Arc, time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Server, server::Router};

/// Largest message that a client may send.
const MAX_MESSAGE: usize = 256 * 1024;
/// Longest time for letting go of Leases when the process is to end: far within the grace that Pods get.
const LET_GO: Duration = Duration::from_secs(3);

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
    /// Nothing to read manifests from.
    #[error("--manifests {}: {source}: name a directory that is there and can be read", directory.display())]
    Manifests {
        /// What was named.
        directory: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// No API server to speak to.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// A webhook's certificate is of no use.
    #[error("the webhook's certificate cannot be used: {0}")]
    Admission(#[source] io::Error),
    /// A flag is for a role that this process does not have.
    #[error("{0} is for the role {1}: add it to --roles, or leave the flag out")]
    Role(&'static str, &'static str),
    /// A role lacks a flag.
    #[error("the role {0} needs {1}")]
    Missing(&'static str, &'static str),
    /// The injector's files or certificate are of no use.
    #[error("the injector cannot be served: {0}")]
    Injector(#[source] io::Error),
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

/// The sockets of a control plane, bound, those of its roles; port 0 in the configuration gives free ones.
#[derive(Debug)]
pub struct Listeners {
    apis: Apis,
    admin: TcpListener,
    admission: Option<TcpListener>,
    injector: Option<TcpListener>,
}

/// The sockets of the gRPC services.
#[derive(Debug)]
struct Apis {
    policy: Option<TcpListener>,
    destination: Option<TcpListener>,
    identity: Option<TcpListener>,
}

impl Listeners {
    /// Binds the addresses of `config`, and writes into it which they are.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::Role`].
    pub async fn bind(config: &mut Config) -> Result<Self, Error> {
        let roles = config.roles.clone();
        let listen_as = async |role, what, address| match roles.contains(&role) {
            true => listen(what, address).await.map(Some),
            false => Ok(None),
        };
        let apis = Apis {
            policy: listen_as(Role::Policy, "policy", &mut config.policy_addr).await?,
            destination: listen_as(
                Role::Destination,
                "destination",
                &mut config.destination_addr,
            )
            .await?,
            identity: listen_as(Role::Identity, "identity", &mut config.identity_addr).await?,
        };
        let admission = match &mut config.admission {
            Some(_) if !roles.contains(&Role::Policy) => {
                return Err(Error::Role("--admission-addr", "policy"));
            }
            Some(admission) => Some(listen("admission", &mut admission.address).await?),
            None => None,
        };
        let injector = match &mut config.injector {
            Some(_) if !roles.contains(&Role::Injector) => {
                return Err(Error::Role("--injector-addr", "injector"));
            }
            Some(injector) => Some(listen("injector", &mut injector.address).await?),
            None if roles.contains(&Role::Injector) => {
                return Err(Error::Missing("injector", "--injector-addr"));
            }
            None => None,
        };
        Ok(Self {
            apis,
            admin: listen("admin", &mut config.admin_addr).await?,
            admission,
            injector,
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
    has_source(&config)?;
    let registry = Registry::new(Options::default());
    registry.collector(Box::new(Process::new()));
    let metrics = Arc::new(ControllerMetrics::register(&registry));
    let client = client(&config).await?;
    let (notices, tell) = notices(&config, client.as_ref(), &metrics);
    let issuer = issuer(&config, client.as_ref(), notices.clone())?;
    let signing = issuer.as_ref().map(|issuer| issuer.signing.clone());

    let (publish, snapshots) = watch::channel(Arc::new(Snapshot::empty(&config.cluster)));
    registry.collector(Box::new(IndexSizes(snapshots.clone())));
    let report = Report::new(metrics.clone(), config.kubernetes.is_none());
    let (end, ending) = watch::channel(false);
    let shared = Shared {
        snapshots,
        metrics,
        ending,
        streams: Streams::new(config.max_streams),
    };
    let Listeners {
        apis,
        admin,
        admission,
        injector,
    } = listeners;
    let readiness = injector::Readiness::default();
    let asked = admission::Readiness::default();
    let access = Access::default();
    let injects = config.injector.is_some() && client.is_some();
    let state = admin::State {
        registry,
        metrics: shared.metrics.clone(),
        injector: injects.then(|| readiness.clone()),
        admission: admission.is_some().then(|| asked.clone()),
        access: access.clone(),
        snapshots: shared.snapshots.clone(),
        streams: shared.streams.clone(),
    };
    let review = Box::pin(review(&config, &shared, client.clone(), admission, asked));
    let reported = Arc::<Reported>::default();
    let registry = &state.registry;
    let writers = background::writers(&config, client.clone(), &reported, &shared, registry);
    let inject = Box::pin(inject(
        &config,
        &shared,
        client.clone(),
        injector,
        readiness,
    ));
    let rights = background::rights(&config, client.clone(), access);
    let keep = keep(&config, client.clone(), reported, publish, report, issuer);
    let keep = Box::pin(background::beside(keep, join(rights, tell).map(drop)));
    let serve = Box::pin(async {
        // Nothing is said before everything has been seen once.
        let mut snapshots = shared.snapshots.clone();
        let _ = snapshots.wait_for(|snapshot| snapshot.version > 0).await;
        if let Some(signing) = signing.as_ref().filter(|_| speaks_tls(&config)) {
            signing.loaded().await;
        }
        let certifying = signing.as_ref().map(|signing| (signing, notices));
        services(&config, &shared, certifying, client, apis)?.await
    });
    let writers = tokio::spawn(writers);
    let result = tokio::select! {
        result = serve => result,
        result = review => result.map_err(Error::Admission),
        result = inject => result.map_err(Error::Injector),
        () = admin::serve(admin, state) => Ok(()),
        result = keep => result.map_err(|error: io::Error| error.into()),
        () = async {
            shutdown.await;
            let _ = end.send(true);
            // Streams end at once; calls in flight get a moment.
            tokio::time::sleep(Duration::from_millis(200)).await;
        } => Ok(()),
    };
    // However it ends: another replica need not wait until the Lease runs out.
    let _ = end.send(true);
    let _ = tokio::time::timeout(LET_GO, writers).await;
    result
}

/// What speaks to the API server, if there is one.
async fn client(config: &Config) -> Result<Option<Client>, Error> {
    match &config.kubernetes {
        Some(kubernetes) => Ok(Some(kubernetes.client().await?)),
        None => Ok(None),
    }
}

/// Whether there is a directory to read, where one is to be read.
fn has_source(config: &Config) -> Result<(), Error> {
    if config.kubernetes.is_none() {
        // Later, what is in force stays when the directory goes; to begin with nothing would be to deny or allow all.
        let directory = config.manifests.clone();
        std::fs::read_dir(&directory).map_err(|source| Error::Manifests { directory, source })?;
    }
    Ok(())
}

/// The authority, where something needs one: the identity API, or mutual TLS of our own.
fn issuer(
    config: &Config,
    client: Option<&Client>,
    notices: Notices,
) -> Result<Option<Issuer>, Error> {
    if !config.has(Role::Identity) && !speaks_tls(config) {
        return Ok(None);
    }
    let signing = Arc::new(Signing::default());
    let origin = match client.filter(|_| config.bootstrap_issuer) {
        Some(client) => {
            let namespace = &config.cluster.control_plane_namespace;
            Origin::Kept(Box::new(Kept::new(client, namespace)))
        }
        None => {
            let sources = config.authority();
            signing.store(Authority::open_with(&sources)?);
            Origin::Files(sources, config.rescan)
        }
    };
    Ok(Some(Issuer {
        signing,
        origin,
        notices,
    }))
}

/// Where is said what becomes of the issuer and of certificates, with what says it: the identity controller's events, where
/// there is an API server.
fn notices(
    config: &Config,
    client: Option<&Client>,
    metrics: &ControllerMetrics,
) -> (Notices, impl Future<Output = ()> + Send + use<>) {
    let namespace = config.cluster.control_plane_namespace.clone();
    let client = client.filter(|_| config.has(Role::Identity)).cloned();
    let made = client.map(|client| Notices::new(client, namespace, metrics.events_lost.clone()));
    let (notices, tell) = made.unzip();
    let tell = async {
        OptionFuture::from(tell).await;
    };
    (notices.unwrap_or_default(), tell)
}

/// Whether we speak mutual TLS ourselves.
fn speaks_tls(config: &Config) -> bool {
    let speaks = |role, address| config.has(role) && is_tls(config, address);
    speaks(Role::Identity, config.identity_addr)
        || speaks(Role::Policy, config.policy_addr)
        || speaks(Role::Destination, config.destination_addr)
}

/// Whether mutual TLS is spoken on an address.
fn is_tls(config: &Config, address: SocketAddr) -> bool {
    !config.behind_sidecar && !address.ip().to_canonical().is_loopback()
}

/// Serves the validating webhook, if there is one.
async fn review(
    config: &Config,
    shared: &Shared,
    client: Option<Client>,
    listener: Option<TcpListener>,
    readiness: admission::Readiness,
) -> io::Result<()> {
    let Some((settings, listener)) = config.admission.clone().zip(listener) else {
        return std::future::pending().await;
    };
    let webhooks = [Webhook::POLICY_VALIDATOR, Webhook::PROFILE_VALIDATOR];
    let making = making(config, client);
    let opened = certificates::open(&settings.certificates, &webhooks, &making, &shared.metrics);
    let (tls, keys, keep) = opened?;
    readiness.set(keys);
    let snapshots = shared.snapshots.clone();
    let serve = admission::serve(settings.refuses_overlap, listener, tls, snapshots);
    tokio::join!(serve, keep);
    Ok(())
}

/// Serves the mutating webhook, if there is one.
async fn inject(
    config: &Config,
    shared: &Shared,
    client: Option<Client>,
    listener: Option<TcpListener>,
    readiness: injector::Readiness,
) -> io::Result<()> {
    let settings = config.injector.clone().zip(listener).zip(client);
    let Some(((settings, listener), client)) = settings else {
        return std::future::pending().await;
    };
    let making = making(config, Some(client.clone()));
    let webhooks = [Webhook::INJECTOR];
    let opened = certificates::open(&settings.certificates, &webhooks, &making, &shared.metrics);
    let (tls, keys, keep) = opened?;
    let namespace = making.namespace;
    let metrics = shared.metrics.clone();
    let tls = (tls, keys, readiness);
    let serve = injector::serve(settings, listener, tls, client, namespace, metrics);
    let keep = async {
        keep.await;
        std::future::pending().await
    };
    tokio::select! {
        result = serve => result,
        result = keep => result,
    }
}

/// How certificates of webhooks are made.
fn making(config: &Config, client: Option<Client>) -> Making {
    Making {
        client,
        namespace: config.cluster.control_plane_namespace.clone(),
        cluster_domain: config.cluster.cluster_domain.clone(),
        lifetime: config.webhook_certificate_lifetime,
    }
}

/// What keeps the snapshot and the issuer in step with where they come from.
async fn keep(
    config: &Config,
    client: Option<Client>,
    reported: Arc<Reported>,
    publish: watch::Sender<Arc<Snapshot>>,
    mut report: Report,
    issuer: Option<Issuer>,
) -> io::Result<()> {
    let metrics = report.metrics.clone();
    let follow_issuer = async {
        if let Some(issuer) = issuer {
            issuer.keep(&metrics).await;
        }
    };
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
        };
        let (watched, ()) = tokio::join!(watch.run(), follow_issuer);
        return watched;
    };
    let follow = async {
        if config.has_index() {
            let publish = |snapshot: Snapshot| {
                report.snapshot(&snapshot);
                publish.send_replace(Arc::new(snapshot));
            };
            let (clusters, keep_clusters) = background::clusters(config, &client, &metrics);
            let what = Follow {
                client,
                cluster: config.cluster.clone(),
                reported,
                lag: Some(metrics.clone()),
                needed: |_| Needed::Yes,
                clusters,
            };
            let follow = Box::pin(kubernetes::follow(what, publish));
            background::beside(follow, Box::pin(keep_clusters)).await;
        } else {
            // Nothing to wait for.
            publish.send_replace(Arc::new(Snapshot {
                version: 1,
                ..Snapshot::empty(&config.cluster)
            }));
        }
    };
    let lint = background::lint(publish.subscribe(), metrics.clone());
    tokio::join!(follow, follow_issuer, lint);
    // The process ends with its services.
    std::future::pending().await
}

/// What runs the services of our roles.
fn services(
    config: &Config,
    shared: &Shared,
    certifying: Option<(&Arc<Signing>, Notices)>,
    client: Option<Client>,
    apis: Apis,
) -> Result<impl Future<Output = Result<(), Error>> + use<>, Error> {
    let signing = certifying.as_ref().map(|(signing, _)| *signing);
    let accepted = |listener: Option<TcpListener>, account, address| {
        let accepted = listener.map(|listener| {
            let identity = own_identity(config, shared, signing, account, address)?;
            Ok::<_, Error>(connections(listener, identity))
        });
        accepted.transpose()
    };
    // The peer serves policy and destinations from one pod, so they have one identity.
    let destination = accepted(
        apis.destination,
        "linkerd-destination",
        config.destination_addr,
    )?;
    let policy = accepted(apis.policy, "linkerd-destination", config.policy_addr)?;
    let identity = accepted(apis.identity, "linkerd-identity", config.identity_addr)?;
    let shown = |is_served: bool, address: SocketAddr| is_served.then(|| address.to_string());
    tracing::info!(
        policy = shown(policy.is_some(), config.policy_addr),
        destination = shown(destination.is_some(), config.destination_addr),
        identity = shown(identity.is_some(), config.identity_addr),
        admin = %config.admin_addr,
        source = %config.kubernetes.as_ref().map_or_else(|| config.manifests.display().to_string(), |_| "kubernetes".to_owned()),
        "Serving"
    );
    let certifier = certifying.map(|(signing, notices)| Certifier {
        shared: shared.clone(),
        reviewer: client.map(Reviewer::new),
        signing: signing.clone(),
        lifetime: config.issuance_lifetime,
        skew: config.clock_skew,
        per_minute: config.certify_per_minute,
        asked: std::sync::Mutex::default(),
        notices,
    });
    let policies = InboundServerPoliciesServer::new(Policies(shared.clone()))
        .max_decoding_message_size(MAX_MESSAGE);
    let outbound = OutboundPoliciesServer::new(Outbound(shared.clone()))
        .max_decoding_message_size(MAX_MESSAGE);
    let destinations = DestinationServer::new(Destinations {
        shared: shared.clone(),
        hints: Arc::new(config.hints.clone()),
        endpoints: Arc::default(),
    })
    .max_decoding_message_size(MAX_MESSAGE);
    let certifier = certifier
        .map(|certifier| IdentityServer::new(certifier).max_decoding_message_size(MAX_MESSAGE));
    let policies = server().add_service(policies).add_service(outbound);
    let policy = Box::pin(serve(policies, policy, shared));
    let destinations = server().add_service(destinations);
    let destination = Box::pin(serve(destinations, destination, shared));
    let certifier = server().add_optional_service(certifier);
    let identity = Box::pin(serve(certifier, identity, shared));
    Ok(async move {
        tokio::try_join!(policy, destination, identity)?;
        Ok(())
    })
}

/// Serves until the process is to end. Without connections there is nothing to do but to wait for that.
fn serve(
    router: Router,
    connections: Option<ReceiverStream<io::Result<Connection>>>,
    shared: &Shared,
) -> impl Future<Output = Result<(), tonic::transport::Error>> + use<> {
    let mut ending = shared.ending.clone();
    let ended = async move { drop(ending.wait_for(|ending| *ending).await) };
    async move {
        match connections {
            Some(connections) => {
                router
                    .serve_with_incoming_shutdown(connections, ended)
                    .await
            }
            None => {
                ended.await;
                Ok(())
            }
        }
    }
}

/// The control plane's own identity for a service that others than this host can reach; kept certified in the background.
fn own_identity(
    config: &Config,
    shared: &Shared,
    signing: Option<&Arc<Signing>>,
    account: &str,
    address: SocketAddr,
) -> Result<Option<Arc<LocalIdentity>>, Error> {
    let current = signing.and_then(|signing| Some((signing, signing.load()?)));
    let Some((signing, authority)) = current.filter(|_| is_tls(config, address)) else {
        return Ok(None);
    };
    let namespace = &config.cluster.control_plane_namespace;
    let name = config.cluster.service_account_identity(namespace, account);
    let (identity, keep) = listen::identity(
        &name,
        signing.clone(),
        authority.ca().anchors().clone(),
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
