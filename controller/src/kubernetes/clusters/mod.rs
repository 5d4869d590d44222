//! Other clusters: Secrets of the control plane's namespace describe them, and their API servers say which endpoints their
//! Services have. Source: control plane §4.6.
//!
//! A cluster that is away, or a Secret that has become useless, takes nothing away: what is known of the cluster stays until
//! its Secret goes. A Secret with a new token or address leads to a new watch, and the old state stays until that has listed
//! everything.

mod secret;
mod store;

use super::{
    Ended, Follow, Needed, client_of, follow,
    lasting::{self, Told},
};
use crate::source::{Problem, Snapshot};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::watcher::{self, Event},
};
use linkerd_metrics::{Gauge, Handle};
use linkerd_policy::index::{Cluster, Remotes};
use secret::Description;
use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use store::Store;
use tokio::sync::{Notify, watch};

/// What is known of other clusters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The clusters.
    pub(crate) remotes: Arc<Remotes>,
    /// What is wrong with their Secrets, or with their objects.
    pub(crate) problems: Vec<Problem>,
}

/// Other clusters, for who keeps the index: `None` before it is known which there are.
pub(crate) type Clusters = watch::Receiver<Option<Arc<Known>>>;

/// For a control plane that asks for no other clusters: it is known that there are none.
pub(crate) fn none() -> Clusters {
    watch::channel(Some(Arc::default())).1
}

/// Follows Secrets of a namespace and the clusters that they describe, until nobody wants to know any more. `size`: how many
/// there are.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) async fn keep(
    client: Client,
    own: Cluster,
    size: Handle<Gauge>,
    publish: watch::Sender<Option<Arc<Known>>>,
) {
    let secrets = Api::<Secret>::namespaced(client, &own.control_plane_namespace);
    let config = watcher::Config::default().fields(&format!("type={}", secret::TYPE));
    let mut told = pin!(lasting::told(secrets, config));
    let latest = Arc::<Latest>::default();
    let mut store = Store::new(own, latest.clone());
    loop {
        let has_changed = tokio::select! {
            told = told.next() => match told {
                Some(Told::Event(event)) => hear(&mut store, event).await,
                Some(Told::Failed(error)) => store.failed(&error),
                Some(Told::Resumed) => store.resumed(),
                None => return,
            },
            () = latest.told.notified() => store.take(latest.take()),
            () = publish.closed() => return,
        };
        if has_changed && let Some(known) = store.known() {
            size.set(known.remotes.len() as f64);
            publish.send_replace(Some(Arc::new(known)));
        }
    }
}

/// Takes in what is said of Secrets. Tells whether anything has changed.
async fn hear(store: &mut Store, event: Event<Secret>) -> bool {
    match event {
        Event::Init => store.listing(),
        Event::InitApply(secret) | Event::Apply(secret) => store.secret(&secret).await,
        Event::Delete(secret) => store.gone(&secret),
        Event::InitDone => store.listed(),
    }
    store.reconcile();
    true
}

/// The newest snapshot of each cluster that nobody has taken yet.
#[derive(Debug, Default)]
struct Latest {
    snapshots: Mutex<BTreeMap<u64, Snapshot>>,
    told: Notify,
}

impl Latest {
    fn put(&self, watch: u64, snapshot: Snapshot) {
        self.lock().insert(watch, snapshot);
        self.told.notify_one();
    }

    fn take(&self) -> BTreeMap<u64, Snapshot> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Snapshot>> {
        self.snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the objects of a cluster that endpoints are made of. Ends with what is given back.
fn watch_cluster(client: Client, cluster: Cluster, watch: u64, latest: Arc<Latest>) -> Ended {
    let publish = move |snapshot| latest.put(watch, snapshot);
    let task = tokio::spawn(async move {
        let what = Follow {
            client,
            cluster,
            reported: Arc::default(),
            lag: None,
            needed,
            clusters: none(),
        };
        follow(what, publish).await;
    });
    Ended(vec![task.abort_handle()])
}

/// What is needed of another cluster's objects. The account that a link is made with may not list everything.
fn needed(kind: &str) -> Needed {
    match kind {
        "Service" | "EndpointSlice" | "Pod" => Needed::Yes,
        "Server" | "ReplicaSet" | "Job" | "ExternalWorkload" | "Node" | "Namespace" => {
            Needed::WhereAllowed
        }
        _ => Needed::No,
    }
}

/// A client of the cluster that a Secret describes.
async fn client(description: &Description) -> Result<Client, secret::Refusal> {
    let config = description.config().await?;
    client_of(config).map_err(|error| secret::Refusal {
        field: "data.kubeconfig".to_owned(),
        reason: error.to_string(),
    })
}
