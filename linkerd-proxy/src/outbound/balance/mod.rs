//! Which endpoint a request or a connection goes to: power of two choices over peak EWMA, by weight and zone, leaving
//! out what cannot be connected to or fails.
//!
//! There is no queue between a request and an endpoint that is ready, and no task: [`Balancer::pick`] looks at a
//! snapshot of the endpoints, compares two and gives one. Only where none is ready does a request wait, bounded in
//! number and time; then it is told why ([`Why`]).

mod breaker;
mod load;
mod metrics;
mod pool;

pub(crate) use self::{
    breaker::{Class, Tripped},
    metrics::{BalancerFamilies, BalancerMetrics},
};

use self::breaker::Report;
use self::pool::{Member, Pool, lock};
use crate::{
    config::Backoff,
    discovery::{endpoints::EndpointWatch, outbound::Mtls},
};
use arc_swap::{ArcSwap, Guard};
use linkerd_policy::outbound::{Endpoint, FailureAccrual, Load, Queue};
use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How a balancer behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) load: Load,
    pub(crate) accrual: Option<FailureAccrual>,
    pub(crate) queue: Queue,
    /// How long an endpoint is left alone that could not be connected to.
    pub(crate) connect_backoff: Backoff,
}

/// The endpoints of a name, and how they do.
#[derive(Debug)]
pub(crate) struct Balancer {
    watch: Arc<EndpointWatch>,
    settings: Settings,
    metrics: Arc<BalancerMetrics>,
    pool: ArcSwap<Pool>,
    rebuilding: Mutex<()>,
    shared: Arc<Shared>,
    waiting: AtomicUsize,
}

/// What endpoints tell their balancer.
#[derive(Debug)]
struct Shared {
    metrics: Arc<BalancerMetrics>,
    /// In failfast: there was no endpoint for too long, and none has proven itself since.
    is_shut: AtomicBool,
    /// How many endpoints there are, and how many of them circuit breakers leave out.
    size: AtomicUsize,
    ejected: AtomicUsize,
    /// Why an endpoint could not be connected to, since the last one could.
    last_error: Mutex<Option<Arc<str>>>,
    /// Why an endpoint was left out last.
    last_trip: Mutex<Option<Tripped>>,
    /// An endpoint may have become ready.
    ready: Notify,
}

/// Why there is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The name has none.
    NoEndpoints,
    /// Circuit breakers leave all of them out, how many there are; what the last of them went for.
    Ejected(usize, Option<Tripped>),
    /// None can be connected to; the last error.
    Connect(Arc<str>),
    /// Too many requests wait already.
    QueueFull(u32),
    /// The control plane is away, and has not said what the endpoints are.
    ControlPlane,
    /// The control plane has not said what the endpoints are.
    Unknown,
}

impl Why {
    /// The values of `reason`.
    pub(super) const LABELS: [&str; 6] = [
        "no_endpoints",
        "ejected",
        "connect",
        "queue_full",
        "control_plane",
        "unknown",
    ];

    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::NoEndpoints => "no_endpoints",
            Self::Ejected(..) => "ejected",
            Self::Connect(_) => "connect",
            Self::QueueFull(_) => "queue_full",
            Self::ControlPlane => "control_plane",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEndpoints => f.write_str("no endpoints"),
            Self::Ejected(count, last) => {
                write!(f, "circuit breakers leave out all of {count} endpoints")?;
                match last {
                    Some(last) => write!(f, ", the last for {last}"),
                    None => Ok(()),
                }
            }
            Self::Connect(error) => write!(f, "no endpoint can be connected to, last: {error}"),
            Self::QueueFull(capacity) => write!(f, "{capacity} requests wait already"),
            Self::ControlPlane => {
                f.write_str("the control plane is away and has named no endpoints")
            }
            Self::Unknown => f.write_str("the control plane has named no endpoints yet"),
        }
    }
}

/// A request gets no endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unready {
    /// It waited for as long as it may.
    FailFast(Why),
    /// It did not wait.
    Shed(Why),
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailFast(why) => write!(f, "service in fail-fast: {why}"),
            Self::Shed(why) => write!(f, "service unavailable: {why}"),
        }
    }
}

impl Balancer {
    pub(crate) fn new(
        watch: Arc<EndpointWatch>,
        settings: Settings,
        metrics: Arc<BalancerMetrics>,
    ) -> Arc<Self> {
        let timeout = settings.queue.failfast_timeout;
        metrics.common.gate_timeout.set(timeout.as_secs_f64());
        metrics.common.resets.inc();
        let shared = Arc::new(Shared {
            metrics: metrics.clone(),
            is_shut: AtomicBool::new(false),
            size: AtomicUsize::new(0),
            ejected: AtomicUsize::new(0),
            last_error: Mutex::default(),
            last_trip: Mutex::default(),
            ready: Notify::new(),
        });
        Arc::new(Self {
            watch,
            settings,
            metrics,
            pool: ArcSwap::default(),
            rebuilding: Mutex::default(),
            shared,
            waiting: AtomicUsize::new(0),
        })
    }

    /// What the name wants of mutual TLS.
    pub(crate) fn mtls(&self) -> Guard<Arc<Mtls>> {
        self.watch.mtls()
    }

    /// Whether a request may hope for an endpoint: not in failfast, or one could be tried.
    pub(crate) fn is_available(&self, now: Instant) -> bool {
        !self.shared.is_shut.load(Ordering::Relaxed) || self.pool(now).has_ready(now)
    }

    /// An endpoint, at once if one is ready, else after a wait until `deadline`. `avoid`: another one, if there is.
    pub(crate) async fn pick(
        self: &Arc<Self>,
        avoid: Option<SocketAddr>,
        deadline: Instant,
    ) -> Result<Picked, Unready> {
        let started = now();
        if let Some(picked) = self.choose(started, avoid) {
            self.metrics.common.queue_requests.inc();
            self.metrics.common.queue_latency.observe(0.0);
            return Ok(picked);
        }
        if self.shared.is_shut.load(Ordering::Relaxed) {
            return Err(Unready::Shed(self.counted(self.why())));
        }
        let Some(_waiting) = Waiting::enter(self) else {
            let why = Why::QueueFull(self.settings.queue.capacity);
            return Err(Unready::Shed(self.counted(why)));
        };
        self.metrics.common.queue_requests.inc();
        let mut changed = self.watch.changed();
        loop {
            let notified = self.shared.ready.notified();
            // What happened before this line is seen by the next one, what happens after it wakes.
            if let Some(picked) = self.choose(now(), avoid) {
                let waited = now().saturating_duration_since(started);
                self.metrics
                    .common
                    .queue_latency
                    .observe(waited.as_secs_f64());
                return Ok(picked);
            }
            let next = self.pool(now()).next_ready(now());
            let until = next.map_or(deadline, |next| next.min(deadline));
            tokio::select! {
                () = notified => {}
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
            if now() >= deadline {
                if let Some(picked) = self.choose(now(), avoid) {
                    return Ok(picked);
                }
                return Err(self.give_up());
            }
        }
    }

    /// There was no endpoint for too long. Until one has proven itself, requests are not kept waiting.
    pub(crate) fn give_up(&self) -> Unready {
        self.shut();
        Unready::FailFast(self.counted(self.why()))
    }

    /// When to give up on a request that comes now.
    pub(crate) fn deadline(&self) -> Instant {
        now() + self.settings.queue.failfast_timeout
    }

    /// Takes note of what the endpoints are, where nothing is sent that would.
    pub(crate) fn refresh(&self) {
        if self.pool.load().is_built {
            self.pool(now());
        }
    }

    fn choose(&self, now: Instant, avoid: Option<SocketAddr>) -> Option<Picked> {
        let pool = self.pool(now);
        let (member, is_probe) = pool.choose(now, avoid)?;
        if let Some(picks) = self.metrics.picks.get(member.zone) {
            picks.inc();
        }
        member.load.begin();
        Some(Picked {
            endpoint: member.endpoint.clone(),
            generation: member.generation(),
            member,
            shared: self.shared.clone(),
            settings: self.settings,
            began: now,
            is_probe,
            is_outstanding: true,
            is_failure: false,
            hint: None,
            is_done: false,
        })
    }

    /// The endpoints as they are known at this moment; what did not change keeps its state.
    fn pool(&self, now: Instant) -> Guard<Arc<Pool>> {
        let pool = self.pool.load();
        let set = self.watch.current();
        if pool.version == set.version && pool.is_built {
            return pool;
        }
        let _one_at_a_time = lock(&self.rebuilding);
        let before = self.pool.load();
        if before.version != set.version || !before.is_built {
            let next = Pool::build(&before, &set, &self.settings, &self.shared, now);
            self.pool.store(Arc::new(next));
        }
        self.pool.load()
    }

    fn why(&self) -> Why {
        let set = self.watch.current();
        let last = lock(&self.shared.last_error).clone();
        let tripped = *lock(&self.shared.last_trip);
        let ejected = self.shared.ejected.load(Ordering::Relaxed);
        match (set.known, set.endpoints.len(), last) {
            (false, _, _) if !self.watch.is_connected() => Why::ControlPlane,
            (false, _, _) => Why::Unknown,
            (true, 0, _) => Why::NoEndpoints,
            (true, count, _) if ejected >= count => Why::Ejected(count, tripped),
            (true, _, Some(error)) => Why::Connect(error),
            (true, count, None) => Why::Ejected(count, tripped),
        }
    }

    /// Why a request that is not let in gets no endpoint, counted.
    pub(crate) fn refused(&self) -> Why {
        self.counted(self.why())
    }

    fn counted(&self, why: Why) -> Why {
        self.metrics.unready_for(&why);
        why
    }

    fn shut(&self) {
        if !self.shared.is_shut.swap(true, Ordering::Relaxed) {
            self.metrics.common.shut();
            tracing::info!(name = self.watch.path(), reason = %self.why(), "No endpoint for too long: failing fast");
        }
    }

    /// Endpoints and how they do, for people.
    pub(crate) fn state(&self) -> BalancerState {
        let now = now();
        BalancerState {
            path: self.watch.path().to_owned(),
            version: self.watch.current().version,
            is_connected: self.watch.is_connected(),
            is_failing_fast: self.shared.is_shut.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            endpoints: self.pool(now).states(now),
        }
    }
}

impl Drop for Balancer {
    /// Its endpoints are not counted any more; the next balancer of the name counts its own.
    fn drop(&mut self) {
        self.pool.load().retire(&self.shared);
    }
}

/// What a balancer knows, for people.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct BalancerState {
    pub(crate) path: String,
    /// The version of the endpoints.
    pub(crate) version: u64,
    pub(crate) is_connected: bool,
    pub(crate) is_failing_fast: bool,
    pub(crate) waiting: usize,
    pub(crate) endpoints: Vec<EndpointState>,
}

/// One endpoint, for people.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct EndpointState {
    pub(crate) address: SocketAddr,
    pub(crate) weight: u32,
    pub(crate) zone: &'static str,
    pub(crate) outstanding: u32,
    /// Estimated latency in milliseconds.
    pub(crate) latency_ms: f64,
    /// `ready`, `connecting`, `ejected` or `probation`.
    pub(crate) state: &'static str,
}

/// One of those that wait.
struct Waiting<'b>(&'b Balancer);

impl<'b> Waiting<'b> {
    fn enter(balancer: &'b Balancer) -> Option<Self> {
        let capacity = usize::try_from(balancer.settings.queue.capacity).unwrap_or(usize::MAX);
        if balancer.waiting.fetch_add(1, Ordering::Relaxed) >= capacity.max(1) {
            balancer.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        balancer.metrics.common.queue_length.inc();
        Some(Self(balancer))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.common.queue_length.dec();
    }
}

/// By the clock of the timers, which tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// An endpoint that a request has; what becomes of the request is told here.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) endpoint: Arc<Endpoint>,
    member: Arc<Member>,
    shared: Arc<Shared>,
    settings: Settings,
    began: Instant,
    generation: u64,
    is_probe: bool,
    is_outstanding: bool,
    is_failure: bool,
    /// How long the endpoint asks to be left alone.
    hint: Option<Duration>,
    is_done: bool,
}

impl Picked {
    /// The endpoint cannot be connected to: it is left alone for a while.
    pub(crate) fn connect_failed(mut self, error: &str) {
        let now = now();
        self.settle();
        let backoff = &self.settings.connect_backoff;
        self.member
            .connect_failed(backoff, self.began, now, &self.shared);
        *lock(&self.shared.last_error) = Some(error.into());
        if self.is_probe {
            self.conclude(Class::Failure, now);
        }
        self.is_done = true;
    }

    /// The first of the response is there.
    pub(crate) fn first_data(&mut self, now: Instant) {
        if !self.is_outstanding {
            return;
        }
        self.settle();
        if self.member.is_gone() {
            // It has proven itself, and is no endpoint any more.
            return;
        }
        self.member.connected(&self.shared);
        if self.shared.is_shut.swap(false, Ordering::Relaxed) {
            self.shared.metrics.common.opened();
        }
        if !self.is_failure {
            let took = now.saturating_duration_since(self.began);
            self.member.load.sample(took, now);
        }
    }

    /// The response is a failure: it makes the endpoint less attractive, however fast it came. `hint` is what the
    /// endpoint asks to be left alone for.
    pub(crate) fn penalise(&mut self, hint: Option<Duration>, now: Instant) {
        self.is_failure = true;
        self.hint = hint;
        match self.settings.load.penalty {
            Some(penalty) => {
                let hint = hint.unwrap_or_default().min(penalty.max_retry_after);
                let at_least = penalty.penalty.max(hint);
                self.member.load.penalise(at_least, now);
            }
            None => self.member.load.fail(self.began, now),
        }
    }

    /// Whether it was a failure already.
    pub(crate) fn is_penalised(&self) -> bool {
        self.is_failure
    }

    /// The request is over.
    pub(crate) fn ended(mut self, class: Class, now: Instant) {
        self.settle();
        self.conclude(class, now);
        self.is_done = true;
    }

    fn settle(&mut self) {
        if std::mem::replace(&mut self.is_outstanding, false) {
            self.member.load.finish();
        }
    }

    fn conclude(&mut self, class: Class, now: Instant) {
        let report = Report {
            class,
            generation: self.generation,
            is_probe: self.is_probe,
            hint: self.hint,
        };
        self.member.result(report, now, &self.shared);
    }
}

impl Drop for Picked {
    /// Nothing came of it, and nobody is to blame.
    fn drop(&mut self) {
        if !self.is_done {
            self.settle();
            self.conclude(Class::Neutral, now());
        }
    }
}

#[cfg(test)]
mod tests;
