//! What became of requests, counted so that one line of PromQL answers: how many retries, what share, why, did they
//! help.

use super::{Budget, End, Reason, Suppressed};
use crate::outbound::labels;
use linkerd_metrics::{
    Collect, Counter, Family, Handle, Histogram, Labels, Registry, Samples, describe,
};
use linkerd_policy::outbound::{Ref, profile};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

/// The families of retries.
#[derive(Clone, Debug)]
pub(crate) struct RetryFamilies {
    http: PeerFamilies,
    grpc: PeerFamilies,
    pub(super) fates: Family<Counter>,
    unrouted: [Handle<Counter>; Unrouted::LABELS.len()],
    attempts: Family<Histogram>,
    pub(super) retried: Family<Counter>,
    pub(super) retries: Family<Counter>,
    pub(super) suppressed: Family<Counter>,
    latency: Family<Histogram>,
    budgets: Budgets,
    budget: profile::Budget,
}

#[derive(Clone, Debug)]
struct PeerFamilies {
    requests: Family<Counter>,
    successes: Family<Counter>,
    limit_exceeded: Family<Counter>,
    overflow: Family<Counter>,
}

/// Budgets in use, read when a page is made.
#[derive(Clone, Debug, Default)]
struct Budgets(Arc<Mutex<BTreeMap<Labels, Weak<Budget>>>>);

impl Collect for Budgets {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn collect(&self, samples: &mut Samples) {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.retain(|_, budget| budget.strong_count() > 0);
        let now = Instant::now();
        let mut sorted: Vec<_> = budgets.iter().collect();
        sorted.sort_by_key(|(a, _)| *a);
        for (labels, budget) in sorted {
            if let Some(budget) = budget.upgrade() {
                let remaining = budget.remaining(now) as f64;
                samples.push(
                    &describe::OUTBOUND_ROUTE_RETRY_BUDGET_REMAINING,
                    labels.clone(),
                    remaining,
                );
            }
        }
    }
}

impl RetryFamilies {
    /// `budget`: of routes for which policy says nothing.
    pub(crate) fn register(registry: &Registry, budget: profile::Budget) -> Self {
        let budgets = Budgets::default();
        registry.collector(Box::new(budgets.clone()));
        let fates = registry.counters(&describe::OUTBOUND_ROUTE_REQUEST_FATES_TOTAL);
        let nowhere = Ref::default_named(UNROUTED);
        let nowhere = labels::parent(&nowhere).extend(&labels::route(&nowhere));
        Self {
            unrouted: Unrouted::LABELS.map(|fate| fates.get(&nowhere.clone().with("fate", fate))),
            fates,
            http: PeerFamilies {
                requests: registry.counters(&describe::OUTBOUND_HTTP_ROUTE_RETRY_REQUESTS_TOTAL),
                successes: registry.counters(&describe::OUTBOUND_HTTP_ROUTE_RETRY_SUCCESSES_TOTAL),
                limit_exceeded: registry
                    .counters(&describe::OUTBOUND_HTTP_ROUTE_RETRY_LIMIT_EXCEEDED_TOTAL),
                overflow: registry.counters(&describe::OUTBOUND_HTTP_ROUTE_RETRY_OVERFLOW_TOTAL),
            },
            grpc: PeerFamilies {
                requests: registry.counters(&describe::OUTBOUND_GRPC_ROUTE_RETRY_REQUESTS_TOTAL),
                successes: registry.counters(&describe::OUTBOUND_GRPC_ROUTE_RETRY_SUCCESSES_TOTAL),
                limit_exceeded: registry
                    .counters(&describe::OUTBOUND_GRPC_ROUTE_RETRY_LIMIT_EXCEEDED_TOTAL),
                overflow: registry.counters(&describe::OUTBOUND_GRPC_ROUTE_RETRY_OVERFLOW_TOTAL),
            },
            attempts: registry.histograms(&describe::OUTBOUND_ROUTE_REQUEST_ATTEMPTS),
            retried: registry.counters(&describe::OUTBOUND_ROUTE_RETRIED_REQUESTS_TOTAL),
            retries: registry.counters(&describe::OUTBOUND_ROUTE_RETRIES_TOTAL),
            suppressed: registry.counters(&describe::OUTBOUND_ROUTE_RETRIES_SUPPRESSED_TOTAL),
            latency: registry.histograms(&describe::OUTBOUND_ROUTE_RETRY_LATENCY_SECONDS),
            budgets,
            budget,
        }
    }

    /// A request of an application, whose route is not known yet.
    pub(crate) fn arriving(&self) -> Arriving<'_> {
        Arriving {
            fates: &self.unrouted,
            end: Some(Unrouted::Abandoned),
        }
    }

    fn peer(&self, is_grpc: bool) -> &PeerFamilies {
        if is_grpc { &self.grpc } else { &self.http }
    }

    /// The retries that each budget in use has left.
    pub(super) fn budgets_left(&self) -> Vec<(Labels, u64)> {
        let budgets = self
            .budgets
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let left = budgets.iter().filter_map(|(labels, budget)| {
            let budget = budget.upgrade()?;
            Some((labels.clone(), budget.remaining(now)))
        });
        left.collect()
    }

    /// The budget of a route, as configured or as its service profile says.
    pub(crate) fn budget(&self, settings: Option<profile::Budget>, route: Labels) -> Arc<Budget> {
        let settings = settings.unwrap_or(self.budget);
        let budget = Arc::new(Budget::new(settings, Instant::now()));
        let mut budgets = self
            .budgets
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if is_time_to_sweep(budgets.len()) {
            budgets.retain(|_, budget| budget.strong_count() > 0);
        }
        budgets.insert(route, Arc::downgrade(&budget));
        budget
    }
}

/// Now and then, so that what comes and goes does not pile up, and what only comes is not searched each time.
const fn is_time_to_sweep(len: usize) -> bool {
    len >= 64 && len.is_power_of_two()
}

/// What became of a request of an application: a closed set.
pub(super) const FATES: [&str; 10] = [
    "success",
    "recovered",
    "failed",
    "failed_after_retries",
    "budget",
    "limit",
    "body",
    "timeout",
    "shed",
    "abandoned",
];

/// The name of parent and route of requests that come to no route.
pub(super) const UNROUTED: &str = "unrouted";

/// What became of a request that came to no route: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unrouted {
    /// There was no place for it among those that wait for an answer.
    Shed,
    /// It cannot be understood.
    BadRequest,
    /// Nobody said in time what its destination is.
    Undiscovered,
    /// No route takes it.
    NoRoute,
    /// The policy of its destination cannot be used.
    InvalidPolicy,
    /// Its destination is not HTTP.
    NotHttp,
    /// The application went away.
    Abandoned,
}

impl Unrouted {
    /// The values of `fate`.
    pub(super) const LABELS: [&str; 7] = [
        "shed",
        "bad_request",
        "undiscovered",
        "no_route",
        "invalid_policy",
        "not_http",
        "abandoned",
    ];
}

/// A request that has not come to a route yet; dropped so, it was abandoned.
#[derive(Debug)]
pub(crate) struct Arriving<'f> {
    fates: &'f [Handle<Counter>; Unrouted::LABELS.len()],
    end: Option<Unrouted>,
}

impl Arriving<'_> {
    /// It has a route; what becomes of it is told there.
    pub(crate) fn routed(mut self) {
        self.end = None;
    }

    /// It comes to none.
    pub(crate) fn ends(mut self, end: Unrouted) {
        self.end = Some(end);
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        if let Some(fate) = self.end.and_then(|end| self.fates.get(end as usize)) {
            fate.inc();
        }
    }
}

/// The series of one route. There from the start, at 0.
#[derive(Clone, Debug)]
pub(crate) struct RouteRetries(Arc<Series>);

#[derive(Clone, Debug)]
struct Series {
    requests: Handle<Counter>,
    successes: Handle<Counter>,
    limit_exceeded: Handle<Counter>,
    overflow: Handle<Counter>,
    fates: [Handle<Counter>; FATES.len()],
    attempts: Handle<Histogram>,
    recovered: Handle<Counter>,
    gave_up: Handle<Counter>,
    latency: Handle<Histogram>,
    retries: [Handle<Counter>; Reason::LABELS.len()],
    suppressed: [Handle<Counter>; Suppressed::LABELS.len()],
}

impl RouteRetries {
    /// `route`: the labels of parent and route.
    pub(crate) fn resolve(families: &RetryFamilies, is_grpc: bool, route: Labels) -> Self {
        let peer = families.peer(is_grpc);
        let named = route.clone().with("hostname", "");
        let with = |key: &str, value: &str| route.clone().with(key, value);
        Self(Arc::new(Series {
            requests: peer.requests.get(&named),
            successes: peer.successes.get(&named),
            limit_exceeded: peer.limit_exceeded.get(&named),
            overflow: peer.overflow.get(&named),
            fates: FATES.map(|fate| families.fates.get(&with("fate", fate))),
            attempts: families.attempts.get(&route),
            recovered: families.retried.get(&with("outcome", "recovered")),
            gave_up: families.retried.get(&with("outcome", "gave_up")),
            latency: families.latency.get(&route),
            retries: Reason::LABELS.map(|reason| families.retries.get(&with("reason", reason))),
            suppressed: Suppressed::LABELS
                .map(|reason| families.suppressed.get(&with("reason", reason))),
        }))
    }

    /// The same route for one name that clients ask for: the peer's families tell it apart, ours do not.
    pub(crate) fn of_host(
        &self,
        families: &RetryFamilies,
        is_grpc: bool,
        route: Labels,
        name: &str,
    ) -> Self {
        let peer = families.peer(is_grpc);
        let named = route.with("hostname", name);
        Self(Arc::new(Series {
            requests: peer.requests.get(&named),
            successes: peer.successes.get(&named),
            limit_exceeded: peer.limit_exceeded.get(&named),
            overflow: peer.overflow.get(&named),
            ..Series::clone(&self.0)
        }))
    }

    /// A request of an application.
    pub(crate) fn begin(&self) -> Journal {
        Journal {
            series: self.0.clone(),
            attempts: 0,
            suppressed: None,
            first_failed: None,
            is_done: false,
        }
    }
}

/// One request of an application, whatever it takes.
#[derive(Debug)]
pub(crate) struct Journal {
    series: Arc<Series>,
    attempts: u16,
    suppressed: Option<Suppressed>,
    /// When the first attempt was found wanting.
    first_failed: Option<Instant>,
    is_done: bool,
}

impl Journal {
    /// An attempt begins.
    pub(crate) fn attempt(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts > 1 {
            self.series.requests.inc();
        }
    }

    /// Another attempt follows.
    pub(crate) fn retried(&mut self, reason: Reason) {
        self.first_failed.get_or_insert_with(Instant::now);
        count(&Reason::LABELS, &self.series.retries, reason.label());
    }

    /// None follows, although the result calls for it.
    pub(crate) fn suppressed(&mut self, why: Suppressed) {
        self.suppressed = Some(why);
        match why {
            Suppressed::Limit if self.attempts > 1 => self.series.limit_exceeded.inc(),
            Suppressed::Shed => self.series.overflow.inc(),
            _ => {}
        }
        count(&Suppressed::LABELS, &self.series.suppressed, why.label());
    }

    /// The request is over.
    pub(crate) fn finish(mut self, end: End) {
        self.conclude(end);
    }

    fn conclude(&mut self, end: End) {
        if std::mem::replace(&mut self.is_done, true) {
            return;
        }
        let series = &self.series;
        let was_retried = self.attempts > 1;
        let fate = match (end, self.suppressed) {
            (End::Success, _) if was_retried => "recovered",
            (End::Success, _) => "success",
            (End::TimedOut, _) => "timeout",
            (End::Shed, _) => "shed",
            (End::Abandoned, _) => "abandoned",
            (_, Some(Suppressed::Budget)) => "budget",
            (_, Some(Suppressed::Limit)) if was_retried => "limit",
            (_, Some(Suppressed::BodyTooLarge | Suppressed::BodyNotFinished)) => "body",
            (_, Some(Suppressed::Deadline)) => "timeout",
            _ if was_retried => "failed_after_retries",
            _ => "failed",
        };
        count(&FATES, &series.fates, fate);
        series.attempts.observe(f64::from(self.attempts.max(1)));
        if !was_retried {
            return;
        }
        // As the peer counts: any response that does not call for another retry.
        let is_response = matches!(end, End::Success | End::Failure);
        if is_response && self.suppressed.is_none() {
            series.successes.inc();
        }
        if end == End::Success {
            series.recovered.inc();
        } else {
            series.gave_up.inc();
        }
        if let Some(first) = self.first_failed {
            series.latency.observe(first.elapsed().as_secs_f64());
        }
    }
}

/// Counts in the series of one of a closed set of values.
fn count(values: &[&str], series: &[Handle<Counter>], value: &str) {
    let at = values.iter().position(|known| *known == value);
    if let Some(series) = at.and_then(|at| series.get(at)) {
        series.inc();
    }
}

impl Drop for Journal {
    /// The application went away in the midst of it.
    fn drop(&mut self) {
        self.conclude(End::Abandoned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linkerd_metrics::{Format, Options};

    #[test]
    fn a_request_that_comes_to_no_route_has_one_fate_too() {
        let registry = Registry::new(Options::default());
        let families = RetryFamilies::register(&registry, profile::Budget::default());
        let ends = [
            Unrouted::Shed,
            Unrouted::BadRequest,
            Unrouted::Undiscovered,
            Unrouted::NoRoute,
            Unrouted::InvalidPolicy,
            Unrouted::NotHttp,
        ];
        let count = |fate: &str| {
            let page = String::from_utf8(registry.encode(Format::Text)).unwrap();
            let mut lines = page
                .lines()
                .filter(|line| line.contains("name=\"unrouted\""));
            let line = lines.find(|line| line.contains(&format!("fate=\"{fate}\"")));
            line.unwrap().rsplit(' ').next().unwrap().to_owned()
        };
        assert!(Unrouted::LABELS.iter().all(|fate| count(fate) == "0"));
        assert_eq!(families.numbers(), []);
        for (end, fate) in ends.into_iter().zip(Unrouted::LABELS) {
            families.arriving().ends(end);
            assert_eq!(count(fate), "1", "{end:?}");
        }
        drop(families.arriving());
        families.arriving().routed();
        assert!(Unrouted::LABELS.iter().all(|fate| count(fate) == "1"));
        let numbers = families.numbers();
        assert_eq!(numbers.len(), 1);
        assert_eq!(numbers[0].requests, 7);
        assert!(numbers[0].fates.contains(&("no_route", 1)), "{numbers:?}");
    }

    #[test]
    fn every_request_has_one_fate_and_series_are_there_before_the_first() {
        let registry = Registry::new(Options::default());
        let families = RetryFamilies::register(&registry, profile::Budget::default());
        let route = RouteRetries::resolve(&families, false, Labels::new());
        let page = || String::from_utf8(registry.encode(Format::Text)).unwrap();
        for fate in FATES {
            let line = format!("outbound_route_request_fates_total{{fate=\"{fate}\"}} 0");
            assert!(page().contains(&line), "{line}");
        }
        let run = |attempts: u16, suppressed: Option<Suppressed>, end: End| {
            let mut journal = route.begin();
            for attempt in 0..attempts {
                if attempt > 0 {
                    journal.retried(Reason::Status(503));
                }
                journal.attempt();
            }
            if let Some(why) = suppressed {
                journal.suppressed(why);
            }
            journal.finish(end);
        };
        run(1, None, End::Success);
        run(2, None, End::Success);
        run(1, None, End::Failure);
        run(2, None, End::Failure);
        run(1, Some(Suppressed::Budget), End::Failure);
        run(3, Some(Suppressed::Limit), End::Failure);
        run(1, Some(Suppressed::BodyTooLarge), End::Failure);
        run(1, None, End::TimedOut);
        run(0, None, End::Shed);
        drop(route.begin());
        let page = page();
        for fate in FATES {
            let line = format!("outbound_route_request_fates_total{{fate=\"{fate}\"}} 1");
            assert!(page.contains(&line), "{line}\n{page}");
        }
        for line in [
            "outbound_http_route_retry_requests_total{hostname=\"\"} 4",
            "outbound_http_route_retry_successes_total{hostname=\"\"} 2",
            "outbound_http_route_retry_limit_exceeded_total{hostname=\"\"} 1",
            "outbound_route_retries_total{reason=\"503\"} 4",
            "outbound_route_retries_suppressed_total{reason=\"budget\"} 1",
            "outbound_route_retried_requests_total{outcome=\"recovered\"} 1",
            "outbound_route_retried_requests_total{outcome=\"gave_up\"} 2",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
    }
}
