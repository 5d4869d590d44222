//! What is counted of balancers.

use super::{Tripped, Why};
use linkerd_metrics::{Counter, Family, Gauge, Handle, Histogram, Labels, Registry, describe};

/// The families of balancers, by protocol.
#[derive(Clone, Debug)]
pub(crate) struct BalancerFamilies {
    http: Families,
    tcp: Families,
    tls: Families,
}

#[derive(Clone, Debug)]
struct Families {
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
    ejections: Family<Counter>,
    ejected: Family<Gauge>,
    unready: Family<Counter>,
    picks: Family<Counter>,
}

macro_rules! families {
    ($registry:ident, $($field:ident: $kind:ident $desc:ident),* $(,)?) => {
        Families { $($field: $registry.$kind(&describe::$desc)),* }
    };
}

impl BalancerFamilies {
    pub(crate) fn register(registry: &Registry) -> Self {
        Self {
            http: families!(registry,
                endpoints: gauges OUTBOUND_HTTP_BALANCER_ENDPOINTS,
                size: gauges OUTBOUND_HTTP_BALANCER_P2C_ENDPOINTS,
                updates: counters OUTBOUND_HTTP_BALANCER_P2C_UPDATES_TOTAL,
                queue_length: gauges OUTBOUND_HTTP_BALANCER_QUEUE_LENGTH,
                queue_requests: counters OUTBOUND_HTTP_BALANCER_QUEUE_REQUESTS_TOTAL,
                queue_latency: histograms OUTBOUND_HTTP_BALANCER_QUEUE_LATENCY_SECONDS,
                gate_open: counters OUTBOUND_HTTP_BALANCER_QUEUE_GATE_OPEN_TOTAL,
                gate_shut: counters OUTBOUND_HTTP_BALANCER_QUEUE_GATE_SHUT_TOTAL,
                gate_open_time: gauges OUTBOUND_HTTP_BALANCER_QUEUE_GATE_OPEN_TIME_SECONDS,
                gate_shut_time: gauges OUTBOUND_HTTP_BALANCER_QUEUE_GATE_SHUT_TIME_SECONDS,
                gate_timeout: gauges OUTBOUND_HTTP_BALANCER_QUEUE_GATE_TIMEOUT_SECONDS,
                ejections: counters OUTBOUND_HTTP_BALANCER_EJECTIONS_TOTAL,
                ejected: gauges OUTBOUND_HTTP_BALANCER_EJECTED_ENDPOINTS,
                unready: counters OUTBOUND_HTTP_BALANCER_UNREADY_TOTAL,
                picks: counters OUTBOUND_HTTP_BALANCER_PICKS_TOTAL,
            ),
            tcp: families!(registry,
                endpoints: gauges OUTBOUND_TCP_BALANCER_ENDPOINTS,
                size: gauges OUTBOUND_TCP_BALANCER_P2C_ENDPOINTS,
                updates: counters OUTBOUND_TCP_BALANCER_P2C_UPDATES_TOTAL,
                queue_length: gauges OUTBOUND_TCP_BALANCER_QUEUE_LENGTH,
                queue_requests: counters OUTBOUND_TCP_BALANCER_QUEUE_REQUESTS_TOTAL,
                queue_latency: histograms OUTBOUND_TCP_BALANCER_QUEUE_LATENCY_SECONDS,
                gate_open: counters OUTBOUND_TCP_BALANCER_QUEUE_GATE_OPEN_TOTAL,
                gate_shut: counters OUTBOUND_TCP_BALANCER_QUEUE_GATE_SHUT_TOTAL,
                gate_open_time: gauges OUTBOUND_TCP_BALANCER_QUEUE_GATE_OPEN_TIME_SECONDS,
                gate_shut_time: gauges OUTBOUND_TCP_BALANCER_QUEUE_GATE_SHUT_TIME_SECONDS,
                gate_timeout: gauges OUTBOUND_TCP_BALANCER_QUEUE_GATE_TIMEOUT_SECONDS,
                ejections: counters OUTBOUND_TCP_BALANCER_EJECTIONS_TOTAL,
                ejected: gauges OUTBOUND_TCP_BALANCER_EJECTED_ENDPOINTS,
                unready: counters OUTBOUND_TCP_BALANCER_UNREADY_TOTAL,
                picks: counters OUTBOUND_TCP_BALANCER_PICKS_TOTAL,
            ),
            tls: families!(registry,
                endpoints: gauges OUTBOUND_TLS_BALANCER_ENDPOINTS,
                size: gauges OUTBOUND_TLS_BALANCER_P2C_ENDPOINTS,
                updates: counters OUTBOUND_TLS_BALANCER_P2C_UPDATES_TOTAL,
                queue_length: gauges OUTBOUND_TLS_BALANCER_QUEUE_LENGTH,
                queue_requests: counters OUTBOUND_TLS_BALANCER_QUEUE_REQUESTS_TOTAL,
                queue_latency: histograms OUTBOUND_TLS_BALANCER_QUEUE_LATENCY_SECONDS,
                gate_open: counters OUTBOUND_TLS_BALANCER_QUEUE_GATE_OPEN_TOTAL,
                gate_shut: counters OUTBOUND_TLS_BALANCER_QUEUE_GATE_SHUT_TOTAL,
                gate_open_time: gauges OUTBOUND_TLS_BALANCER_QUEUE_GATE_OPEN_TIME_SECONDS,
                gate_shut_time: gauges OUTBOUND_TLS_BALANCER_QUEUE_GATE_SHUT_TIME_SECONDS,
                gate_timeout: gauges OUTBOUND_TLS_BALANCER_QUEUE_GATE_TIMEOUT_SECONDS,
                ejections: counters OUTBOUND_TLS_BALANCER_EJECTIONS_TOTAL,
                ejected: gauges OUTBOUND_TLS_BALANCER_EJECTED_ENDPOINTS,
                unready: counters OUTBOUND_TLS_BALANCER_UNREADY_TOTAL,
                picks: counters OUTBOUND_TLS_BALANCER_PICKS_TOTAL,
            ),
        }
    }
}

/// The series of one balancer.
#[derive(Debug)]
pub(crate) struct BalancerMetrics {
    pub(super) ready: Handle<Gauge>,
    pub(super) pending: Handle<Gauge>,
    pub(super) size: Handle<Gauge>,
    pub(super) resets: Handle<Counter>,
    pub(super) adds: Handle<Counter>,
    pub(super) removes: Handle<Counter>,
    pub(super) queue_length: Handle<Gauge>,
    pub(super) queue_requests: Handle<Counter>,
    pub(super) queue_latency: Handle<Histogram>,
    pub(super) gate_open: Handle<Counter>,
    pub(super) gate_shut: Handle<Counter>,
    pub(super) gate_open_time: Handle<Gauge>,
    pub(super) gate_shut_time: Handle<Gauge>,
    pub(super) gate_timeout: Handle<Gauge>,
    pub(super) ejected: Handle<Gauge>,
    /// By zone: local, remote, unknown.
    pub(super) picks: [Handle<Counter>; 3],
    /// By what they were left out for, in the order of [`Tripped::LABELS`].
    ejections: [Handle<Counter>; Tripped::LABELS.len()],
    /// By why there was none, in the order of [`Why::LABELS`].
    unready: [Handle<Counter>; Why::LABELS.len()],
}

impl BalancerMetrics {
    /// `family`: `http`, `tcp` or `tls`.
    pub(crate) fn resolve(families: &BalancerFamilies, family: &str, labels: Labels) -> Self {
        let families = match family {
            "http" => &families.http,
            "tls" => &families.tls,
            _ => &families.tcp,
        };
        let first = |key: &str, value: &str| Labels::new().with(key, value).extend(&labels);
        let state = |state| families.endpoints.get(&first("endpoint_state", state));
        let update = |op| families.updates.get(&first("op", op));
        let reasons = |family: &Family<Counter>, why| family.get(&first("reason", why));
        // There from the start and for as long as the balancer, so that a rate of nothing is 0 and not absent.
        Self {
            ready: state("ready"),
            pending: state("pending"),
            size: families.size.get(&labels),
            resets: update("Reset"),
            adds: update("Add"),
            removes: update("Remove"),
            queue_length: families.queue_length.get(&labels),
            queue_requests: families.queue_requests.get(&labels),
            queue_latency: families.queue_latency.get(&labels),
            gate_open: families.gate_open.get(&labels),
            gate_shut: families.gate_shut.get(&labels),
            gate_open_time: families.gate_open_time.get(&labels),
            gate_shut_time: families.gate_shut_time.get(&labels),
            gate_timeout: families.gate_timeout.get(&labels),
            ejected: families.ejected.get(&labels),
            picks: ["local", "remote", "unknown"]
                .map(|zone| families.picks.get(&first("zone_locality", zone))),
            ejections: Tripped::LABELS.map(|why| reasons(&families.ejections, why)),
            unready: Why::LABELS.map(|why| reasons(&families.unready, why)),
        }
    }

    pub(super) fn unready_for(&self, why: &Why) {
        count(&Why::LABELS, &self.unready, why.label());
    }

    pub(super) fn ejected_for(&self, why: Tripped) {
        count(&Tripped::LABELS, &self.ejections, why.label());
    }
}

/// Counts in the series of one of a closed set of values.
fn count(values: &[&str], series: &[Handle<Counter>], value: &str) {
    let at = values.iter().position(|known| *known == value);
    if let Some(series) = at.and_then(|at| series.get(at)) {
        series.inc();
    }
}
