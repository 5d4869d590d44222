//! What is counted of everything that balances: the outbound side, and the clients of the control plane.

use linkerd_metrics::{
    Counter, Family, Gauge, Handle, Histogram, Labels, Registry, describe::Balancer,
};
use std::time::SystemTime;

/// The families that everything has that balances.
#[derive(Clone, Debug)]
pub(crate) struct Families {
    endpoints: Family<Gauge>,
    size: Family<Gauge>,
    updates: Family<Counter>,
    queue_length: Family<Gauge>,
    queue_requests: Family<Counter>,
    queue_latency: Family<Histogram>,
    gate_open: Family<Counter>,
    gate_shut: Family<Counter>,
    gate_open_time: Family<Gauge>,
    gate_shut_time: Family<Gauge>,
    gate_timeout: Family<Gauge>,
}

impl Families {
    pub(crate) fn register(registry: &Registry, of: &Balancer) -> Self {
        Self {
            endpoints: registry.gauges(of.endpoints),
            size: registry.gauges(of.size),
            updates: registry.counters(of.updates),
            queue_length: registry.gauges(of.queue_length),
            queue_requests: registry.counters(of.queue_requests),
            queue_latency: registry.histograms(of.queue_latency),
            gate_open: registry.counters(of.gate_open),
            gate_shut: registry.counters(of.gate_shut),
            gate_open_time: registry.gauges(of.gate_open_time),
            gate_shut_time: registry.gauges(of.gate_shut_time),
            gate_timeout: registry.gauges(of.gate_timeout),
        }
    }

    /// The series of one balancer. There from the start and for as long as it, so that a rate of nothing is 0 and not
    /// absent.
    pub(crate) fn series(&self, labels: &Labels) -> Series {
        let first = |key: &str, value: &str| Labels::new().with(key, value).extend(labels);
        let state = |state| self.endpoints.get(&first("endpoint_state", state));
        let update = |op| self.updates.get(&first("op", op));
        Series {
            ready: state("ready"),
            pending: state("pending"),
            size: self.size.get(labels),
            resets: update("Reset"),
            adds: update("Add"),
            removes: update("Remove"),
            queue_length: self.queue_length.get(labels),
            queue_requests: self.queue_requests.get(labels),
            queue_latency: self.queue_latency.get(labels),
            gate_open: self.gate_open.get(labels),
            gate_shut: self.gate_shut.get(labels),
            gate_open_time: self.gate_open_time.get(labels),
            gate_shut_time: self.gate_shut_time.get(labels),
            gate_timeout: self.gate_timeout.get(labels),
        }
    }
}

/// The series of one balancer.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) ready: Handle<Gauge>,
    pub(crate) pending: Handle<Gauge>,
    pub(crate) size: Handle<Gauge>,
    pub(crate) resets: Handle<Counter>,
    pub(crate) adds: Handle<Counter>,
    pub(crate) removes: Handle<Counter>,
    pub(crate) queue_length: Handle<Gauge>,
    pub(crate) queue_requests: Handle<Counter>,
    pub(crate) queue_latency: Handle<Histogram>,
    pub(crate) gate_timeout: Handle<Gauge>,
    gate_open: Handle<Counter>,
    gate_shut: Handle<Counter>,
    gate_open_time: Handle<Gauge>,
    gate_shut_time: Handle<Gauge>,
}

impl Series {
    /// There is an endpoint again.
    pub(crate) fn opened(&self) {
        self.gate_open.inc();
        self.gate_open_time.set_time(SystemTime::now());
    }

    /// There has been none for too long.
    pub(crate) fn shut(&self) {
        self.gate_shut.inc();
        self.gate_shut_time.set_time(SystemTime::now());
    }

    /// How often there was an endpoint again.
    #[cfg(test)]
    pub(crate) fn times_opened(&self) -> u64 {
        self.gate_open.get()
    }
}
