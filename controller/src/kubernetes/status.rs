//! Writes statuses: whether routes, rate limits and EgressNetworks are accepted, and why not.
//!
//! What a status is to say is computed by [`Index::statuses`], which decides by the same code what is enforced. Only the
//! holder of the [lease](super::lease) writes; a change is made only where it would say something else than what is there,
//! and only to the version of the object that was seen, so that what another controller says is neither lost nor fought
//! over.
//!
//! [`Index::statuses`]: linkerd_policy::index::Index::statuses

mod render;

use super::{
    lease::Held,
    reported::{Found, PLURALS, Reported},
};
use crate::{metrics::StatusMetrics, source::Snapshot};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use linkerd_policy::{index::Status, resource::Key};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

/// Who we are, in statuses and to the API server.
pub(crate) const CONTROLLER: &str = "linkerd.io/policy-controller";
/// How often everything is looked at, besides when something changes: what failed is tried again then.
const RECONCILE: Duration = Duration::from_secs(10);
/// Most objects that wait to be written; what is over is found again with the next look at everything.
const MAX_QUEUE: usize = 10_000;
/// Changes on their way at one time.
const MAX_IN_FLIGHT: usize = 8;

/// What writes.
pub(crate) struct Writer {
    client: Client,
    reported: Arc<Reported>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    held: watch::Receiver<Held>,
    metrics: StatusMetrics,
    patience: Duration,
    /// The state of the objects that statuses were computed from.
    state: Option<u64>,
    /// What statuses are to say.
    wanted: BTreeMap<Key, Status>,
    queue: VecDeque<Key>,
    queued: BTreeSet<Key>,
    /// What was written last and has not been seen yet.
    written: BTreeMap<Key, Value>,
    busy: BTreeSet<Key>,
    in_flight: FuturesUnordered<BoxFuture<'static, Done>>,
    is_full: bool,
}

/// What became of a change.
struct Done {
    key: Key,
    status: Value,
    took: Duration,
    /// `None`: no answer in time.
    result: Option<Result<(), kube::Error>>,
}

impl Writer {
    pub(crate) fn new(
        client: Client,
        reported: Arc<Reported>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        held: watch::Receiver<Held>,
        metrics: StatusMetrics,
        patience: Duration,
    ) -> Self {
        Self {
            client,
            reported,
            snapshots,
            held,
            metrics,
            patience,
            state: None,
            wanted: BTreeMap::new(),
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            written: BTreeMap::new(),
            busy: BTreeSet::new(),
            in_flight: FuturesUnordered::new(),
            is_full: false,
        }
    }

    /// Runs until nobody publishes snapshots or holds the lease any more.
    pub(crate) async fn run(mut self) {
        let mut every = interval(RECONCILE);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reported = self.reported.clone();
        loop {
            let until = self.may_write();
            self.metrics
                .is_holder
                .set(f64::from(u8::from(until.is_some())));
            if until.is_some() {
                self.begin();
            } else {
                self.let_go();
            }
            tokio::select! {
                changed = self.snapshots.changed() => match changed {
                    Ok(()) => self.compute().await,
                    Err(_) => return,
                },
                changed = self.held.changed() => match changed {
                    // Only the first time of many that it is renewed is news.
                    Ok(()) if until.is_none() && self.may_write().is_some() => self.compute().await,
                    Ok(()) => {}
                    Err(_) => return,
                },
                touched = reported.touched() => touched.iter().for_each(|key| self.check(key)),
                _ = every.tick() => {
                    self.written.clear();
                    self.check_all();
                }
                Some(done) = self.in_flight.next(), if !self.in_flight.is_empty() => self.done(done),
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
        }
    }

    /// Until when we may write, if we may.
    fn may_write(&self) -> Held {
        (*self.held.borrow()).filter(|until| *until > Instant::now())
    }

    /// Stops at once: what waits and what is on its way is dropped. Whoever holds the lease now finds it by itself.
    fn let_go(&mut self) {
        let dropped = self.queue.len() + self.in_flight.len();
        if dropped > 0 {
            tracing::info!(
                dropped,
                "Statuses are not written: the lease is somebody else's"
            );
            self.metrics
                .drops
                .add(u64::try_from(dropped).unwrap_or(u64::MAX));
        }
        self.queue.clear();
        self.queued.clear();
        self.in_flight.clear();
        self.busy.clear();
        self.written.clear();
    }

    /// Computes what statuses are to say, if it may have changed: Pods come and go all the time. Others than the holder need not
    /// know.
    async fn compute(&mut self) {
        if self.may_write().is_none() {
            return;
        }
        let snapshot = self.snapshots.borrow_and_update().clone();
        let known = self.state;
        let computed = tokio::task::spawn_blocking(move || {
            let state = Some(snapshot.index.state_of_statuses());
            let wanted = (state != known).then(|| {
                let statuses = snapshot.index.statuses().into_iter();
                statuses.map(|status| (status.key, status.status)).collect()
            });
            (state, wanted)
        });
        let Ok((state, wanted)) = computed.await else {
            return;
        };
        self.state = state;
        if let Some(wanted) = wanted {
            self.wanted = wanted;
        }
        self.check_all();
    }

    fn check_all(&mut self) {
        let keys: Vec<Key> = self.wanted.keys().cloned().collect();
        keys.iter().for_each(|key| self.check(key));
        if !self.is_full {
            return;
        }
        self.is_full = false;
        tracing::warn!(
            limit = MAX_QUEUE,
            "More statuses are to be written than may wait: the rest is tried again in {RECONCILE:?}"
        );
    }

    /// Puts an object into the queue if its status says something else than it should.
    fn check(&mut self, key: &Key) {
        if self.may_write().is_none() || self.busy.contains(key) || self.queued.contains(key) {
            return;
        }
        if self.change(key).is_none() {
            return;
        }
        if self.queue.len() >= MAX_QUEUE {
            self.metrics.overflows.inc();
            self.is_full = true;
            return;
        }
        self.metrics.enqueues.inc();
        self.queued.insert(key.clone());
        self.queue.push_back(key.clone());
    }

    /// What the status is to become, if it is not that already, and was not just written.
    fn change(&mut self, key: &Key) -> Option<(Found, Value)> {
        let wanted = self.wanted.get(key)?;
        let found = self.reported.of(key)?;
        let status = render::status(wanted, &found.status, SystemTime::now());
        if render::is_same(&status, &found.status) {
            self.written.remove(key);
            return None;
        }
        // Written, and not seen yet.
        let was_written = self.written.get(key);
        let is_old =
            was_written.is_some_and(|written| render::is_same_but_for_times(written, &status));
        (!is_old).then_some((found, status))
    }

    /// Begins as many changes as may be on their way.
    fn begin(&mut self) {
        while self.in_flight.len() < MAX_IN_FLIGHT {
            let Some(key) = self.queue.pop_front() else {
                return;
            };
            self.queued.remove(&key);
            self.metrics.dequeues.inc();
            // It may have changed while it waited.
            let Some((found, status)) = self.change(&key) else {
                continue;
            };
            let Some(resource) = resource(&key, &found) else {
                continue;
            };
            self.busy.insert(key.clone());
            let api = Api::<DynamicObject>::namespaced_with(
                self.client.clone(),
                &key.namespace,
                &resource,
            );
            let patience = self.patience;
            let write = async move {
                let body = json!({
                    "apiVersion": &*found.api_version,
                    "kind": key.kind,
                    "metadata": {"name": key.name, "resourceVersion": &*found.resource_version},
                    "status": status,
                });
                let params = PatchParams {
                    field_manager: Some(CONTROLLER.to_owned()),
                    ..PatchParams::default()
                };
                let began = Instant::now();
                let (patch, name) = (Patch::Merge(&body), key.name.clone());
                let patched = api.patch_status(&name, &params, &patch);
                let result = timeout(patience, patched).await.ok();
                Done {
                    key,
                    status,
                    took: began.elapsed(),
                    result: result.map(|result| result.map(drop)),
                }
            };
            self.in_flight.push(write.boxed());
        }
    }

    fn done(&mut self, done: Done) {
        let Done {
            key,
            status,
            took,
            result,
        } = done;
        self.busy.remove(&key);
        match result {
            Some(Ok(())) => {
                self.metrics.patches.inc();
                self.metrics.duration.observe_duration(took);
                self.written.insert(key.clone(), status);
                // It may have to say something else by now.
                self.check(&key);
            }
            Some(Err(kube::Error::Api(answer))) if matches!(answer.code, 404 | 409) => {
                // It is gone, or is another by now: what it has become is on its way to us.
                self.metrics.api_errors.inc();
                self.metrics.duration.observe_duration(took);
            }
            Some(Err(error)) => {
                self.metrics.api_errors.inc();
                self.metrics.duration.observe_duration(took);
                tracing::warn!(object = %key, %error, "A status cannot be written: it is tried again in {RECONCILE:?}");
            }
            None => {
                self.metrics.timeouts.inc();
                tracing::warn!(object = %key, "A status was not written in {:?}: it is tried again in {RECONCILE:?}", self.patience);
            }
        }
    }
}

fn resource(key: &Key, found: &Found) -> Option<ApiResource> {
    let (_, plural) = PLURALS.iter().find(|(kind, _)| *kind == key.kind)?;
    let version = found
        .api_version
        .split_once('/')
        .map(|(_, version)| version)?;
    Some(ApiResource {
        group: key.group.clone(),
        version: version.to_owned(),
        api_version: found.api_version.to_string(),
        kind: key.kind.clone(),
        plural: (*plural).to_owned(),
    })
}

#[cfg(test)]
mod tests;
