//! `endpoints_*`, `profile_*` and `service_*`: who watches what of the destination service.

use linkerd_metrics::{Counter, Family, Gauge, Handle, Held, Labels, Registry, describe};
use linkerd_policy::index::Endpoint;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// Endpoints that somebody watches; `None`: the Service is not there.
pub(crate) type List = Option<Arc<[Arc<Endpoint>]>>;

type Open = Mutex<BTreeMap<Labels, Weak<Shown>>>;

/// Families of the destination service's streams.
#[derive(Debug)]
pub(crate) struct Subscribers {
    subscribers: Family<Gauge>,
    updates: Family<Counter>,
    pods: Family<Gauge>,
    exists: Family<Gauge>,
    profile_subscribers: Family<Gauge>,
    profile_updates: Family<Counter>,
    service_subscribers: Family<Gauge>,
    open: Arc<Open>,
}

/// Which endpoints a stream is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    /// The other cluster that they are in; `None`: they are in this one.
    pub(crate) cluster: Option<&'a str>,
    pub(crate) namespace: &'a str,
    pub(crate) service: &'a str,
    pub(crate) port: u16,
    pub(crate) instance: Option<&'a str>,
    /// Where only endpoints of the client's own node are for it.
    pub(crate) node: Option<&'a str>,
}

/// Series that all streams about the same endpoints share.
#[derive(Debug)]
struct Shown {
    labels: Labels,
    last: Mutex<List>,
    updates: Handle<Counter>,
    pods: Handle<Gauge>,
    exists: Handle<Gauge>,
    open: Arc<Open>,
}

/// A stream of endpoints, until it is dropped.
#[derive(Debug)]
pub(crate) struct Subscriber {
    shown: Arc<Shown>,
    _held: Held,
}

/// A stream of a profile, until it is dropped.
#[derive(Debug)]
pub(crate) struct ProfileSubscriber {
    updates: Handle<Counter>,
    _held: [Held; 2],
}

impl Subscribers {
    pub(crate) fn register(registry: &Registry) -> Self {
        Self {
            subscribers: registry.gauges(&describe::ENDPOINTS_SUBSCRIBERS),
            updates: registry.counters(&describe::ENDPOINTS_UPDATES),
            pods: registry.gauges(&describe::ENDPOINTS_PODS),
            exists: registry.gauges(&describe::ENDPOINTS_EXISTS),
            profile_subscribers: registry.gauges(&describe::PROFILE_SUBSCRIBERS),
            profile_updates: registry.counters(&describe::PROFILE_UPDATES),
            service_subscribers: registry.gauges(&describe::SERVICE_SUBSCRIBERS),
            open: Arc::default(),
        }
    }

    /// A stream of endpoints begins.
    pub(crate) fn endpoints(&self, about: About<'_>) -> Subscriber {
        let labels = Labels::new()
            .with("cluster", about.cluster.unwrap_or("local"))
            .with("namespace", about.namespace)
            .with("service", about.service)
            .with("port", about.port)
            .with("hostname", about.instance.unwrap_or_default())
            .with("nodename", about.node.unwrap_or_default());
        let held = self.subscribers.get(&labels).hold();
        let mut open = lock(&self.open);
        let known = open.get(&labels).and_then(Weak::upgrade);
        let shown = known.unwrap_or_else(|| {
            let shown = Arc::new(Shown {
                labels: labels.clone(),
                last: Mutex::default(),
                updates: self.updates.get(&labels),
                pods: self.pods.get(&labels),
                exists: self.exists.get(&labels),
                open: self.open.clone(),
            });
            open.insert(labels, Arc::downgrade(&shown));
            shown
        });
        drop(open);
        Subscriber { shown, _held: held }
    }

    /// A stream of a Service's profile begins.
    pub(crate) fn profile(
        &self,
        namespace: &str,
        name: &str,
        full_name: &str,
    ) -> ProfileSubscriber {
        let labels = Labels::new().with("namespace", namespace);
        let profile = labels.clone().with("profile", full_name);
        let service = labels.with("name", name);
        ProfileSubscriber {
            updates: self.profile_updates.get(&profile),
            _held: [
                self.profile_subscribers.get(&profile).hold(),
                self.service_subscribers.get(&service).hold(),
            ],
        }
    }
}

impl Subscriber {
    /// What the client is to have now. Of many that are told the same, the first counts.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(crate) fn shows(&self, list: &List) {
        let mut last = lock(&self.shown.last);
        if is_same(&last, list) {
            return;
        }
        last.clone_from(list);
        self.shown.updates.inc();
        let pods = list.as_ref().map_or(0, |list| list.len());
        self.shown.pods.set(pods as f64);
        self.shown.exists.set(f64::from(u8::from(list.is_some())));
    }
}

impl ProfileSubscriber {
    /// The client is sent a profile.
    pub(crate) fn sends(&self) {
        self.updates.inc();
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        // Somebody may have begun anew meanwhile.
        if open
            .get(&self.labels)
            .is_some_and(|s| s.strong_count() == 0)
        {
            open.remove(&self.labels);
            self.pods.set(0.0);
            self.exists.set(0.0);
        }
    }
}

fn is_same(one: &List, other: &List) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            let mut pairs = one.iter().zip(other.iter());
            one.len() == other.len() && pairs.all(|(a, b)| Arc::ptr_eq(a, b))
        }
        (None, None) => true,
        _ => false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
