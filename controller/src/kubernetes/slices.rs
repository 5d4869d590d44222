//! Writes EndpointSlices of ExternalWorkloads: for Services that select some, as Kubernetes does for Pods.
//!
//! What they are to say is [`Index::external_groups`]; only the holder of the [lease](super::lease) writes. Slices that others
//! keep are not touched. Endpoints stay in the slice that they are in, so that a change of one changes one slice.
//! Source: control plane §4.7.
//!
//! [`Index::external_groups`]: linkerd_policy::index::Index::external_groups

mod plan;

use super::{lasting, lease::Held};
use crate::{metrics::SliceMetrics, source::Snapshot};
use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, PostParams},
    runtime::watcher::{self, Event},
};
use linkerd_policy::{index::ExternalGroup, resource::discovery::EXTERNAL_MANAGER};
use plan::{Change, MANAGED_BY, plan};
use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// Who we are to the API server.
const MANAGER: &str = "linkerd-destination";
/// How often everything is looked at, besides when something changes: what failed is tried again then.
const RECONCILE: Duration = Duration::from_secs(10);

/// Namespace and name.
type Key = (String, String);
/// The slices that are ours to write.
type Slices = BTreeMap<Key, EndpointSlice>;

/// What writes.
pub(crate) struct Writer {
    client: Client,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    held: watch::Receiver<Held>,
    metrics: SliceMetrics,
    patience: Duration,
    /// What is to be, and the state of the objects that it was computed from.
    groups: Arc<(u64, Vec<ExternalGroup>)>,
    /// As the API server has them.
    found: Slices,
    /// A list under way.
    listing: Slices,
    /// They have been listed once.
    is_known: bool,
    /// What failed, and when it may be tried again.
    failed: BTreeMap<Key, Instant>,
    /// What was last complained about.
    failure: String,
}

impl Writer {
    pub(crate) fn new(
        client: Client,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        held: watch::Receiver<Held>,
        metrics: SliceMetrics,
        patience: Duration,
    ) -> Self {
        Self {
            client,
            snapshots,
            held,
            metrics,
            patience,
            groups: Arc::default(),
            found: Slices::new(),
            listing: Slices::new(),
            is_known: false,
            failed: BTreeMap::new(),
            failure: String::new(),
        }
    }

    /// Runs until nobody publishes snapshots or holds the lease any more.
    pub(crate) async fn run(mut self) {
        let api = Api::<EndpointSlice>::all(self.client.clone());
        let ours = format!("{MANAGED_BY}={EXTERNAL_MANAGER}");
        let mut events = pin!(lasting::events(
            api,
            watcher::Config::default().labels(&ours)
        ));
        let mut every = interval(RECONCILE);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let may_write = self.may_write();
            self.metrics.is_holder.set(f64::from(u8::from(may_write)));
            if may_write && self.is_known {
                self.reconcile().await;
            }
            tokio::select! {
                changed = self.snapshots.changed() => if changed.is_err() { return },
                changed = self.held.changed() => if changed.is_err() { return },
                event = events.next() => match event {
                    Some(Ok(event)) => self.hear(event),
                    // It is watched again; the keeper, who watches them too, says what is wrong.
                    Some(Err(_)) => {}
                    None => return,
                },
                _ = every.tick() => {}
            }
        }
    }

    fn may_write(&self) -> bool {
        (*self.held.borrow()).is_some_and(|until| until > Instant::now())
    }

    fn hear(&mut self, event: Event<EndpointSlice>) {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(slice) => drop(self.listing.insert(key(&slice), slice)),
            Event::InitDone => {
                self.found = std::mem::take(&mut self.listing);
                self.is_known = true;
            }
            Event::Apply(slice) => drop(self.found.insert(key(&slice), slice)),
            Event::Delete(slice) => drop(self.found.remove(&key(&slice))),
        }
    }

    /// Writes what is not as it is to be.
    async fn reconcile(&mut self) {
        let snapshot = self.snapshots.borrow_and_update().clone();
        if snapshot.version == 0 {
            // Nothing is known yet: nothing is taken away.
            return;
        }
        let known = self.groups.clone();
        let computed = tokio::task::spawn_blocking(move || {
            let state = snapshot.index.state_of_external_groups();
            match known.0 == state {
                true => known,
                false => Arc::new((state, snapshot.index.external_groups())),
            }
        });
        let Ok(groups) = computed.await else {
            return;
        };
        self.groups = groups.clone();
        let now = Instant::now();
        self.failed.retain(|_, again| *again > now);
        for change in plan(&groups.1, &self.found) {
            if !self.may_write() {
                return;
            }
            if !self.failed.contains_key(&change.key()) {
                self.write(change).await;
            }
        }
    }

    async fn write(&mut self, change: Change) {
        let key = change.key();
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &key.0);
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let write = async {
            match &change {
                Change::Create(slice) => api.create(&params, slice).await.map(Some),
                Change::Replace(slice) => api.replace(&key.1, &params, slice).await.map(Some),
                Change::Delete(_) => {
                    let deleted = api.delete(&key.1, &DeleteParams::default()).await;
                    deleted.map(|_| None)
                }
            }
        };
        let failure = match timeout(self.patience, write).await {
            Ok(Ok(written)) => {
                match written {
                    Some(slice) => drop(self.found.insert(key, slice)),
                    None => drop(self.found.remove(&key)),
                }
                self.metrics.wrote(true);
                self.failure.clear();
                return;
            }
            // It is gone, or is another by now: what it has become is on its way to us.
            Ok(Err(kube::Error::Api(answer))) if matches!(answer.code, 404 | 409) => {
                return self.metrics.wrote(false);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {:?}", self.patience),
        };
        self.metrics.wrote(false);
        self.failed.insert(key.clone(), Instant::now() + RECONCILE);
        if self.failure != failure {
            tracing::warn!(
                slice = format!("{}/{}", key.0, key.1),
                error = failure,
                "An EndpointSlice of ExternalWorkloads cannot be written: it is tried again within {RECONCILE:?}"
            );
            self.failure = failure;
        }
    }
}

fn key(slice: &EndpointSlice) -> Key {
    (slice.namespace().unwrap_or_default(), slice.name_any())
}
