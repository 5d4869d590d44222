//! What became of requests, counted so that one line of PromQL answers: how many retries, what share, why, did they
//! help.

use super::{Budget, End, Reason, Suppressed};
use linkerd_metrics::{
    Collect, Counter, Family, Handle, Histogram, Labels, Registry, Samples, describe,
};
use linkerd_policy::outbound::{Ref, profile};
use serde::Serialize;
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
    fates: Family<Counter>,
    attempts: Family<Histogram>,
    retried: Family<Counter>,
    retries: Family<Counter>,
    suppressed: Family<Counter>,
    latency: Family<Histogram>,
    budgets: Budgets,
    budget: profile::Budget,
    routes: Routes,
}

/// Routes in use, for the page of retries.
type Routes = Arc<Mutex<Vec<(String, String, Labels, Weak<Series>)>>>;

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
        Self {
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
            fates: registry.counters(&describe::OUTBOUND_ROUTE_REQUEST_FATES_TOTAL),
            attempts: registry.histograms(&describe::OUTBOUND_ROUTE_REQUEST_ATTEMPTS),
            retried: registry.counters(&describe::OUTBOUND_ROUTE_RETRIED_REQUESTS_TOTAL),
            retries: registry.counters(&describe::OUTBOUND_ROUTE_RETRIES_TOTAL),
            suppressed: registry.counters(&describe::OUTBOUND_ROUTE_RETRIES_SUPPRESSED_TOTAL),
            latency: registry.histograms(&describe::OUTBOUND_ROUTE_RETRY_LATENCY_SECONDS),
            budgets,
            budget,
            routes: Routes::default(),
        }
    }

    fn peer(&self, is_grpc: bool) -> &PeerFamilies {
        if is_grpc { &self.grpc } else { &self.http }
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

/// What became of the requests of one route, for people.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RouteNumbers {
    pub(crate) parent: String,
    pub(crate) route: String,
    /// Requests of applications.
    pub(crate) requests: u64,
    /// Attempts after the first.
    pub(crate) retries: u64,
    /// Requests that a retry helped.
    pub(crate) recovered: u64,
    /// Requests that no retry helped.
    pub(crate) gave_up: u64,
    /// Retries that the budget has left.
    pub(crate) budget: Option<u64>,
    pub(crate) reasons: Vec<(&'static str, u64)>,
    pub(crate) suppressed: Vec<(&'static str, u64)>,
    pub(crate) fates: Vec<(&'static str, u64)>,
}

impl RouteNumbers {
    /// What became of the requests of the whole proxy. Budgets belong to routes, and are not added up.
    pub(crate) fn sum(routes: &[Self]) -> Self {
        let total = |number: fn(&Self) -> u64| routes.iter().map(number).sum();
        let counts = |list: fn(&Self) -> &[(&'static str, u64)]| {
            let mut sums = BTreeMap::new();
            for (name, count) in routes.iter().flat_map(list) {
                *sums.entry(*name).or_insert(0) += count;
            }
            sums.into_iter().collect()
        };
        Self {
            parent: "all".to_owned(),
            route: String::new(),
            requests: total(|route| route.requests),
            retries: total(|route| route.retries),
            recovered: total(|route| route.recovered),
            gave_up: total(|route| route.gave_up),
            budget: None,
            reasons: counts(|route| &route.reasons),
            suppressed: counts(|route| &route.suppressed),
            fates: counts(|route| &route.fates),
        }
    }

    /// Retries among all attempts.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(crate) fn share(&self) -> f64 {
        match self.requests + self.retries {
            0 => 0.0,
            all => self.retries as f64 / all as f64,
        }
    }
}

impl RetryFamilies {
    /// What became of the requests of every route in use.
    pub(crate) fn numbers(&self) -> Vec<RouteNumbers> {
        let budgets = self
            .budgets
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_name: BTreeMap<(String, String), RouteNumbers> = BTreeMap::new();
        for (parent, route, labels, series) in routes.iter() {
            let Some(series) = series.upgrade() else {
                continue;
            };
            let counts = |names: &[&'static str], counts: &[Handle<Counter>]| {
                names
                    .iter()
                    .copied()
                    .zip(counts.iter().map(|count| count.get()))
                    .collect()
            };
            let fates: Vec<(&'static str, u64)> = counts(&FATES, &series.fates);
            let budget = budgets.get(labels).and_then(Weak::upgrade);
            let numbers = RouteNumbers {
                parent: parent.clone(),
                route: route.clone(),
                requests: fates.iter().map(|(_, count)| count).sum(),
                retries: series.retries.iter().map(|count| count.get()).sum(),
                recovered: series.recovered.get(),
                gave_up: series.gave_up.get(),
                budget: budget.map(|budget| budget.remaining(Instant::now())),
                reasons: counts(&Reason::LABELS, &series.retries),
                suppressed: counts(&Suppressed::LABELS, &series.suppressed),
                fates,
            };
            // The rules of a route share its series.
            by_name.insert((parent.clone(), route.clone()), numbers);
        }
        by_name.into_values().collect()
    }
}

/// Now and then, so that what comes and goes does not pile up, and what only comes is not searched each time.
const fn is_time_to_sweep(len: usize) -> bool {
    len >= 64 && len.is_power_of_two()
}

/// What became of a request of an application: a closed set.
const FATES: [&str; 10] = [
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
    pub(crate) fn resolve(
        families: &RetryFamilies,
        is_grpc: bool,
        (parent, name): (&Ref, &Ref),
        route: Labels,
    ) -> Self {
        let peer = families.peer(is_grpc);
        let named = route.clone().with("hostname", "");
        let with = |key: &str, value: &str| route.clone().with(key, value);
        let series = Arc::new(Series {
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
        });
        let mut routes = families
            .routes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if is_time_to_sweep(routes.len()) {
            routes.retain(|(.., series)| series.strong_count() > 0);
        }
        let (parent, name) = (parent.to_string(), name.to_string());
        routes.push((parent, name, route, Arc::downgrade(&series)));
        drop(routes);
        Self(series)
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
    fn every_request_has_one_fate_and_series_are_there_before_the_first() {
        let registry = Registry::new(Options::default());
        let families = RetryFamilies::register(&registry, profile::Budget::default());
        let name = Ref::default_named("http");
        let route = RouteRetries::resolve(&families, false, (&name, &name), Labels::new());
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
