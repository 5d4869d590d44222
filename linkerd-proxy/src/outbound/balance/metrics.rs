//! What is counted of balancers.

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
    ejections: Family<Counter>,
    unready: Family<Counter>,
    labels: Labels,
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
        let metrics = Self {
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
            ejections: families.ejections.clone(),
            unready: families.unready.clone(),
            labels: labels.clone(),
        };
        // There from the start, so that a rate of nothing is 0 and not absent.
        for why in super::Why::LABELS {
            metrics.unready_for(why);
        }
        for tripped in ["consecutive_failures", "success_rate", "failed_probe"] {
            metrics.ejected_for(tripped);
        }
        metrics
    }

    pub(super) fn unready_for(&self, why: &str) -> Handle<Counter> {
        let labels = Labels::new().with("reason", why).extend(&self.labels);
        self.unready.get(&labels)
    }

    pub(super) fn ejected_for(&self, why: &str) -> Handle<Counter> {
        let labels = Labels::new().with("reason", why).extend(&self.labels);
        self.ejections.get(&labels)
    }
}
