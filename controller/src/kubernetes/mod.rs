//! A Kubernetes API server as the source of the index.
//!
//! A watcher for each kind tells one keeper what it sees; the keeper applies it to the index, and publishes a snapshot
//! when things have settled for a moment. A watch that fails is begun again and takes nothing away: objects go when the
//! API server says that they are gone, or leaves them out of a whole list.
//!
//! | module | what |
//! |---|---|
//! | [`access`] | which rights there are to be, and which are missing |
//! | `clusters` | other clusters, whose Services those of this one stand for |
//! | `again` | asks an API server again that has no time now |
//! | `watch` | one kind: which version is served, listing in pages, watching with bookmarks, trying again |
//! | `lasting` | one kind, for those who do not keep the index |
//! | `keep` | all kinds: what is good, what is wrong, the last good version of each object |
//! | [`list`](mod@list) | the objects of this moment, for who asks one question |
//! | [`lease`] | which of several replicas writes |
//! | `reported` | the statuses that objects have |
//! | `status` | writes those that they are to have |
//! | `slices` | writes EndpointSlices of ExternalWorkloads |
//! | [`issuer`] | the issuer and the trust anchors, made once where there are none |
//! | [`review`] | tokens, judged by the API server |
//! | [`webhooks`] | certificates of webhooks, in Secrets and in `caBundle` |

pub mod access;
mod again;
pub(crate) mod clusters;
pub(crate) mod issuer;
mod keep;
pub(crate) mod lasting;
pub mod lease;
pub mod list;
mod reported;
pub(crate) mod review;
mod slices;
mod status;
mod watch;
pub(crate) mod webhooks;

pub(crate) use clusters::Clusters;
pub(crate) use keep::Keeper;
pub(crate) use reported::Reported;

use crate::{
    metrics::{ControllerMetrics, SliceMetrics, StatusMetrics},
    source::Snapshot,
};
use kube::{Client, Config, client::ClientBuilder, config::KubeConfigOptions};
use lease::Leadership;
use linkerd_policy::{index::Cluster, manifest::KINDS};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch as tokio_watch};

/// Things that watchers have told and the keeper has not heard: who tells more waits.
const QUEUE: usize = 1024;

/// How the API server is reached.
#[derive(Clone, Debug, Default)]
pub struct Kubernetes {
    /// Context of the kubeconfig; absent: the current one, or the Pod's own account in a cluster.
    pub context: Option<String>,
}

/// Why there is no API server to speak to.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// Neither a kubeconfig nor a cluster around us.
    #[error("no API server is configured: {0}; set KUBECONFIG, or run in a cluster")]
    Infer(#[from] kube::config::InferConfigError),
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// No client could be made of it.
    #[error("the API server's configuration cannot be used: {0}")]
    Client(#[from] kube::Error),
}

impl Kubernetes {
    /// A client, as kubectl would have it. Connects to nothing yet.
    ///
    /// # Errors
    /// If nothing says where the API server is, or what says it cannot be used.
    pub async fn client(&self) -> Result<Client, KubernetesError> {
        let config = match &self.context {
            None => Config::infer().await?,
            Some(context) => {
                let options = KubeConfigOptions {
                    context: Some(context.clone()),
                    ..KubeConfigOptions::default()
                };
                Config::from_kubeconfig(&options).await?
            }
        };
        client_of(config)
    }
}

/// How long a connection to an API server may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// A client of the API server that a configuration names.
fn client_of(mut config: Config) -> Result<Client, KubernetesError> {
    config.connect_timeout = Some(CONNECT);
    // The library's own way of asking again grows to minutes, in which nobody is told.
    config.default_retry = false;
    let builder = ClientBuilder::try_from(config)?;
    Ok(builder.with_layer(&again::Again).build())
}

/// Whether objects of a kind are to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needed {
    /// Nothing is said before they have been listed.
    Yes,
    /// The same, unless the API server does not let us list them.
    WhereAllowed,
    /// They are not asked for.
    No,
}

/// What is followed.
pub(crate) struct Follow {
    pub(crate) client: Client,
    pub(crate) cluster: Cluster,
    /// Where goes what objects say of themselves.
    pub(crate) reported: Arc<Reported>,
    /// How long changes are on their way, where that is counted.
    pub(crate) lag: Option<Arc<ControllerMetrics>>,
    /// Which kinds.
    pub(crate) needed: fn(&str) -> Needed,
    /// Other clusters.
    pub(crate) clusters: Clusters,
}

/// Watches the kinds that are needed. Ends when nobody wants to know any more.
pub(crate) async fn follow(what: Follow, publish: impl FnMut(Snapshot) + Send) {
    let (tell, told) = mpsc::channel(QUEUE);
    let kinds = KINDS.iter().enumerate();
    let kinds = kinds.map(|(kind, (_, name, _))| (kind, name, (what.needed)(name)));
    let kinds = kinds.filter(|(.., needed)| *needed != Needed::No);
    let watchers = kinds.map(|(kind, name, needed)| {
        let watcher = watch::Watcher {
            kind,
            client: what.client.clone(),
            tell: tell.clone(),
            lag: what.lag.as_ref().and_then(|metrics| metrics.lag.of(name)),
            may_be_forbidden: needed == Needed::WhereAllowed,
        };
        tokio::spawn(watcher.run()).abort_handle()
    });
    let _watchers = Ended(watchers.collect());
    let keeper = Keeper::new(what.cluster, what.reported, what.needed);
    keeper.run(told, what.clusters, publish).await;
}

/// How statuses, and EndpointSlices of ExternalWorkloads, are written.
#[derive(Clone, Debug)]
pub struct Statuses {
    /// By which replica.
    pub leadership: Leadership,
    /// How long the API server may take for a change.
    pub patience: Duration,
}

/// Writes statuses, whenever this replica holds the lease. Runs until `ending`.
pub(crate) async fn write_statuses(
    settings: Statuses,
    namespace: String,
    client: Client,
    reported: Arc<Reported>,
    snapshots: tokio_watch::Receiver<Arc<Snapshot>>,
    metrics: StatusMetrics,
    ending: tokio_watch::Receiver<bool>,
) {
    let (tell, held) = tokio_watch::channel(None);
    let patience = settings.patience;
    let hold = lease::hold(
        lease::STATUSES,
        settings.leadership,
        namespace,
        client.clone(),
        tell,
        ending,
    );
    let writer = status::Writer::new(client, reported, snapshots, held, metrics, patience);
    tokio::join!(hold, writer.run());
}

/// Writes EndpointSlices of ExternalWorkloads, whenever this replica holds the lease for that. Runs until `ending`.
pub(crate) async fn write_slices(
    settings: Statuses,
    namespace: String,
    client: Client,
    snapshots: tokio_watch::Receiver<Arc<Snapshot>>,
    metrics: SliceMetrics,
    ending: tokio_watch::Receiver<bool>,
) {
    let (tell, held) = tokio_watch::channel(None);
    let patience = settings.patience;
    let hold = lease::hold(
        lease::SLICES,
        settings.leadership,
        namespace,
        client.clone(),
        tell,
        ending,
    );
    let writer = slices::Writer::new(client, snapshots, held, metrics, patience);
    tokio::join!(hold, writer.run());
}

/// Ends tasks with itself.
#[derive(Debug)]
struct Ended(Vec<tokio::task::AbortHandle>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// The name that problems with objects of the API server are reported under.
pub(crate) const FILE: &str = "kubernetes";

/// What watchers tell.
#[derive(Debug)]
pub(crate) struct Told {
    /// Index into [`KINDS`].
    kind: usize,
    what: What,
}

#[derive(Debug)]
enum What {
    /// The API server does not serve the kind.
    Absent,
    /// A whole list begins.
    Listing,
    /// An object is there, or has changed.
    Object(Box<serde_json::Value>),
    /// An object is gone.
    Gone { namespace: String, name: String },
    /// The whole list has been told.
    Listed,
    /// The kind cannot be read or watched at the moment.
    Failed(Arc<str>),
    /// It is watched again; nothing was missed.
    Resumed,
}
