//! What is counted of balancers.

use super::{Tripped, Why};
use crate::balancer;
use linkerd_metrics::{Counter, Family, Gauge, Handle, Labels, Registry, describe};

/// The families of balancers, by protocol.
#[derive(Clone, Debug)]
pub(crate) struct BalancerFamilies {
    http: Families,
    tcp: Families,
    tls: Families,
}

#[derive(Clone, Debug)]
struct Families {
    common: balancer::Families,
    ejections: Family<Counter>,
    ejected: Family<Gauge>,
    unready: Family<Counter>,
    picks: Family<Counter>,
}

macro_rules! families {
    ($registry:ident, $common:ident, $($field:ident: $kind:ident $desc:ident),* $(,)?) => {
        Families {
            common: balancer::Families::register($registry, &describe::$common),
            $($field: $registry.$kind(&describe::$desc)),*
        }
    };
}

impl BalancerFamilies {
    pub(crate) fn register(registry: &Registry) -> Self {
        Self {
            http: families!(registry, OUTBOUND_HTTP_BALANCER,
                ejections: counters OUTBOUND_HTTP_BALANCER_EJECTIONS_TOTAL,
                ejected: gauges OUTBOUND_HTTP_BALANCER_EJECTED_ENDPOINTS,
                unready: counters OUTBOUND_HTTP_BALANCER_UNREADY_TOTAL,
                picks: counters OUTBOUND_HTTP_BALANCER_PICKS_TOTAL,
            ),
            tcp: families!(registry, OUTBOUND_TCP_BALANCER,
                ejections: counters OUTBOUND_TCP_BALANCER_EJECTIONS_TOTAL,
                ejected: gauges OUTBOUND_TCP_BALANCER_EJECTED_ENDPOINTS,
                unready: counters OUTBOUND_TCP_BALANCER_UNREADY_TOTAL,
                picks: counters OUTBOUND_TCP_BALANCER_PICKS_TOTAL,
            ),
            tls: families!(registry, OUTBOUND_TLS_BALANCER,
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
    pub(super) common: balancer::Series,
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
        let reasons = |family: &Family<Counter>, why| family.get(&first("reason", why));
        Self {
            common: families.common.series(&labels),
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
