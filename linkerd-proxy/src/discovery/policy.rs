//! The policy of each inbound port, as live snapshots.
//!
//! `inbound` and `admin` ask [`PolicyStore::port`] and load the current [`Snapshot`] of a [`PortPolicy`]; neither waits
//! nor locks once a port is known. Listed ports are watched from the start, for good; others from their first
//! connection until they have been idle for a while. The stream of a port is kept by `watch`, on the admin thread.
//!
//! What is in force before the controller has said anything is the configured default policy (or nothing at all, with
//! `POLICY_FAIL_CLOSED`). A message that cannot be used leaves the last good version in force; if there is none,
//! everything is denied, since the controller has a policy for the port and it is not known what it allows.

mod port;
mod watch;

pub(crate) use self::port::{PortPolicy, Snapshot, Source};

use super::client::ControlClient;
use crate::config::{PortSet, StreamLimits};
use arc_swap::ArcSwap;
use ipnet::IpNet;
use linkerd_metrics::{Counter, Family, Gauge, Handle, Labels, Registry, describe};
use linkerd_policy::{
    default_policy::DefaultPolicy,
    server::{HttpPolicy, Meta, Protocol, ServerPolicy},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::runtime;

/// How ports are watched.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Names this workload to the controller.
    pub(crate) workload: String,
    /// Watched for good.
    pub(crate) listed: PortSet,
    /// Opaque as long as the default policy applies.
    pub(crate) opaque: PortSet,
    pub(crate) default: DefaultPolicy,
    pub(crate) cluster_networks: Vec<IpNet>,
    pub(crate) fail_closed: bool,
    /// Limit of HTTP detection in the default policy.
    pub(crate) detect_timeout: Duration,
    /// How long an unlisted port is kept unused.
    pub(crate) idle_timeout: Duration,
    /// Unlisted ports at one time.
    pub(crate) max_ports: usize,
    pub(crate) limits: StreamLimits,
}

impl Settings {
    /// The settings of a configuration.
    pub(crate) fn new(config: &crate::config::Config) -> Self {
        let (policy, inbound) = (&config.policy, &config.inbound);
        Self {
            workload: policy.workload.clone(),
            listed: inbound.ports.clone(),
            opaque: inbound.opaque_ports.clone(),
            default: policy.default,
            cluster_networks: policy.cluster_networks.clone(),
            fail_closed: policy.fail_closed,
            detect_timeout: inbound.detect_timeout,
            idle_timeout: inbound.discovery_idle_timeout,
            max_ports: policy.max_ports,
            limits: policy.addr.limits(config.control.stream_limits),
        }
    }

    /// What applies to a port until the controller has given a policy.
    fn default_for(&self, port: u16) -> ServerPolicy {
        let default = if self.fail_closed {
            DefaultPolicy::Deny
        } else {
            self.default
        };
        let protocol = if self.opaque.contains(port) {
            Protocol::Opaque
        } else {
            self.detect()
        };
        default.server_policy(&self.cluster_networks, protocol)
    }

    /// What applies to a port whose only policy cannot be used: nothing is allowed.
    fn invalid(&self) -> ServerPolicy {
        ServerPolicy {
            meta: Meta::default_named("invalid"),
            protocol: self.detect(),
            authorizations: Vec::new(),
        }
    }

    fn detect(&self) -> Protocol {
        Protocol::Detect {
            timeout: self.detect_timeout,
            http: HttpPolicy::default(),
        }
    }
}

/// The policies of all ports; a clone is the same store.
#[derive(Clone, Debug)]
pub(crate) struct PolicyStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    client: ControlClient,
    metrics: PolicyMetrics,
    /// Where streams are kept.
    runtime: runtime::Handle,
    /// Every known port. Swapped whole, so that looking a port up takes no lock.
    ports: ArcSwap<HashMap<u16, Arc<PortPolicy>>>,
    /// Held while `ports` is changed.
    change: Mutex<()>,
}

impl PolicyStore {
    /// A store that begins to watch the listed ports at once, on `runtime`.
    pub(crate) fn new(
        settings: Settings,
        client: ControlClient,
        registry: &Registry,
        runtime: runtime::Handle,
    ) -> Self {
        let store = Self(Arc::new(Inner {
            metrics: PolicyMetrics::register(registry),
            ports: ArcSwap::default(),
            change: Mutex::default(),
            settings,
            client,
            runtime,
        }));
        for port in store.0.settings.listed.iter() {
            store.port(port);
        }
        store.waiting();
        store
    }

    /// The policy of a port, whose watch is begun if it is not known yet.
    pub(crate) fn port(&self, port: u16) -> Arc<PortPolicy> {
        let known = self.0.ports.load().get(&port).cloned();
        known.unwrap_or_else(|| self.discover(port))
    }

    /// Every known port, ascending.
    pub(crate) fn ports(&self) -> Vec<Arc<PortPolicy>> {
        let mut ports: Vec<_> = self.0.ports.load().values().cloned().collect();
        ports.sort_by_key(|port| port.number());
        ports
    }

    /// Listed ports for which the controller has not sent a usable policy yet; also put on a gauge.
    pub(crate) fn waiting(&self) -> usize {
        let ports = self.0.ports.load();
        let waiting = ports
            .values()
            .filter(|port| port.is_listed() && !port.has_policy())
            .count();
        #[expect(clippy::cast_precision_loss, reason = "there are at most 65535 ports")]
        self.0.metrics.waiting.set(waiting as f64);
        waiting
    }

    /// Whether the controller's connection is up.
    pub(crate) fn is_connected(&self) -> bool {
        self.0.client.is_connected()
    }

    fn discover(&self, number: u16) -> Arc<PortPolicy> {
        let inner = &self.0;
        let _change = inner.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ports = inner.ports.load().as_ref().clone();
        if let Some(known) = ports.get(&number) {
            return known.clone();
        }
        let is_listed = inner.settings.listed.contains(number);
        if !is_listed && !make_room(&mut ports, inner.settings.max_ports) {
            tracing::warn!(
                port = number,
                limit = inner.settings.max_ports,
                "Too many ports are in use to discover another one's policy: denying (LINKERD2_PROXY_POLICY_MAX_PORTS)"
            );
            let nothing = inner.settings.invalid();
            return Arc::new(PortPolicy::new(number, false, nothing, Source::Invalid));
        }
        let default = inner.settings.default_for(number);
        let port = Arc::new(PortPolicy::new(number, is_listed, default, Source::Default));
        ports.insert(number, port.clone());
        inner.ports.store(Arc::new(ports));
        inner.runtime.spawn(watch::keep(self.clone(), port.clone()));
        port
    }

    /// Forgets an unlisted port that nobody uses. False if somebody does.
    fn evict(&self, port: &Arc<PortPolicy>) -> bool {
        let inner = &self.0;
        let _change = inner.change.lock().unwrap_or_else(PoisonError::into_inner);
        if !port.is_unused() {
            return false;
        }
        let mut ports = inner.ports.load().as_ref().clone();
        // It may have been replaced already, when room was made.
        if ports
            .get(&port.number())
            .is_some_and(|known| Arc::ptr_eq(known, port))
        {
            ports.remove(&port.number());
            inner.ports.store(Arc::new(ports));
            // Somebody may have found it just before: then it is in use after all.
            if !port.is_abandoned() {
                let mut ports = inner.ports.load().as_ref().clone();
                ports.insert(port.number(), port.clone());
                inner.ports.store(Arc::new(ports));
                return false;
            }
        }
        true
    }
}

/// Takes out the unlisted port that has been unused for longest, if there are too many. False if all are in use.
fn make_room(ports: &mut HashMap<u16, Arc<PortPolicy>>, limit: usize) -> bool {
    let unlisted = ports.values().filter(|port| !port.is_listed()).count();
    if unlisted < limit {
        return true;
    }
    // This copy of the map is one more holder of each port.
    let oldest = ports
        .values()
        .filter(|port| !port.is_listed() && port.holders() <= port::HOLDERS_UNUSED + 1)
        .min_by_key(|port| port.last_used())
        .map(|port| port.number());
    oldest.is_some_and(|number| ports.remove(&number).is_some())
}

/// Metrics of policies. Families are described in `linkerd_metrics::describe`.
#[derive(Debug)]
struct PolicyMetrics {
    version: Family<Gauge>,
    received: Family<Gauge>,
    info: Family<Gauge>,
    updates: Family<Counter>,
    refused: Family<Counter>,
    waiting: Handle<Gauge>,
}

impl PolicyMetrics {
    fn register(registry: &Registry) -> Self {
        Self {
            version: registry.gauges(&describe::INBOUND_POLICY_VERSION),
            received: registry.gauges(&describe::INBOUND_POLICY_RECEIVED_TIMESTAMP_SECONDS),
            info: registry.gauges(&describe::INBOUND_POLICY_INFO),
            updates: registry.counters(&describe::INBOUND_POLICY_UPDATES_TOTAL),
            refused: registry.counters(&describe::INBOUND_POLICY_UPDATES_REFUSED_TOTAL),
            waiting: registry
                .gauges(&describe::INBOUND_POLICY_PORTS_WAITING)
                .get(&Labels::new()),
        }
    }
}

#[cfg(test)]
mod tests;
