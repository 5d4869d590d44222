//! The endpoints of a balancer at one version, and the choice among them.

use super::{
    EndpointState, Settings, Shared,
    breaker::{Breaker, Change, Class, Report, pause},
    load::{PeakEwma, nanos_after},
};
use crate::{config::Backoff, discovery::endpoints::EndpointSet};
use linkerd_policy::outbound::{self, Endpoint};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How much more loaded an endpoint of this zone may be before one of another zone is taken.
const SPILL: f64 = 3.0;
/// How often a draw is repeated that hit what is not ready, before all endpoints are looked at.
const DRAWS: usize = 8;

/// `zone_locality`, as the index of a series.
const LOCAL: usize = 0;
const REMOTE: usize = 1;
const UNKNOWN: usize = 2;

/// The circuit is closed: requests pass.
const PASSING: u8 = 0;
/// Left out until some time, then probed.
const SHUT: u8 = 1;
/// A probe is on its way.
const PROBING: u8 = 2;
/// It is no endpoint any more.
const GONE: u8 = 3;

/// Counted as ready, as pending, or no longer.
const READY: u8 = 0;
const PENDING: u8 = 1;

/// One endpoint, and how it does.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) load: PeakEwma,
    pub(super) zone: usize,
    epoch: Instant,
    circuit: AtomicU8,
    /// Nanoseconds after `epoch` until which it is left out, by its breaker.
    shut_until: AtomicU64,
    /// The same, since it could not be connected to.
    alone_until: AtomicU64,
    connect_failures: AtomicU32,
    /// Nanoseconds after `epoch` at which the last of them was counted.
    failed_at: AtomicU64,
    /// What it is counted as.
    counted: AtomicU8,
    breaker: Option<Mutex<Breaker>>,
    generation: AtomicU64,
    min_ready: usize,
}

impl Member {
    fn new(endpoint: Arc<Endpoint>, settings: &Settings, now: Instant) -> Self {
        let zone = match endpoint.labels.get("zone_locality").map(String::as_str) {
            Some(zone) if zone.eq_ignore_ascii_case("local") => LOCAL,
            Some(zone) if zone.eq_ignore_ascii_case("remote") => REMOTE,
            _ => UNKNOWN,
        };
        let accrual = settings.accrual;
        Self {
            endpoint,
            load: PeakEwma::new(settings.load, now),
            zone,
            epoch: now,
            circuit: AtomicU8::new(PASSING),
            shut_until: AtomicU64::new(0),
            alone_until: AtomicU64::new(0),
            connect_failures: AtomicU32::new(0),
            failed_at: AtomicU64::new(0),
            counted: AtomicU8::new(READY),
            breaker: accrual.map(|accrual| Mutex::new(Breaker::new(accrual))),
            generation: AtomicU64::new(0),
            min_ready: accrual.map_or(0, |accrual| {
                usize::try_from(accrual.min_ready_endpoints).unwrap_or(usize::MAX)
            }),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// It is no endpoint any more.
    pub(super) fn is_gone(&self) -> bool {
        self.circuit.load(Ordering::Relaxed) == GONE
    }

    fn after(&self, at: Instant) -> u64 {
        nanos_after(self.epoch, at)
    }

    /// Whether it can take a request, if need be as a probe.
    fn is_ready(&self, now: Instant) -> bool {
        let at = self.after(now);
        if self.alone_until.load(Ordering::Relaxed) > at {
            return false;
        }
        match self.circuit.load(Ordering::Relaxed) {
            PASSING => true,
            SHUT => self.shut_until.load(Ordering::Relaxed) <= at,
            _ => false,
        }
    }

    /// Whether its next request is its probe.
    fn is_to_be_probed(&self) -> bool {
        self.circuit.load(Ordering::Relaxed) == SHUT
    }

    /// When it may be ready, if that is a matter of time.
    fn ready_at(&self) -> Option<Instant> {
        let shut = match self.circuit.load(Ordering::Relaxed) {
            PASSING => 0,
            SHUT => self.shut_until.load(Ordering::Relaxed),
            _ => return None,
        };
        let until = shut.max(self.alone_until.load(Ordering::Relaxed));
        self.epoch.checked_add(Duration::from_nanos(until))
    }

    /// Takes it for a request; tells whether the request is its probe. `None`: somebody else's is.
    fn claim(&self) -> Option<bool> {
        match self.circuit.load(Ordering::Relaxed) {
            PASSING => Some(false),
            SHUT => self
                .circuit
                .compare_exchange(SHUT, PROBING, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
                .then_some(true),
            _ => None,
        }
    }

    /// It could not be connected to, for a request that took it at `began`. Of many at once only one is counted: they
    /// are no failures in a row.
    pub(super) fn connect_failed(
        &self,
        backoff: &Backoff,
        began: Instant,
        now: Instant,
        shared: &Shared,
    ) {
        let is_news = self.connect_failures.load(Ordering::Relaxed) == 0
            || self.after(began) > self.failed_at.load(Ordering::Relaxed);
        if !is_news {
            return;
        }
        let times = self.connect_failures.fetch_add(1, Ordering::Relaxed);
        self.failed_at.store(self.after(now), Ordering::Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "a ratio of 0 to 100")]
        let backoff = outbound::Backoff {
            min: backoff.min,
            max: backoff.max,
            jitter: backoff.jitter as f32,
            respect_retry_after: false,
        };
        let alone = pause(&backoff, times, rand::random());
        let until = self.after(now).saturating_add(nanos(alone));
        self.alone_until.store(until, Ordering::Relaxed);
        self.pending(shared, true);
    }

    pub(super) fn connected(&self, shared: &Shared) {
        if self.connect_failures.swap(0, Ordering::Relaxed) > 0 {
            self.alone_until.store(0, Ordering::Relaxed);
            shared.ready.notify_waiters();
            *lock(&shared.last_error) = None;
        }
        if self.circuit.load(Ordering::Relaxed) == PASSING {
            self.pending(shared, false);
        }
    }

    fn pending(&self, shared: &Shared, is_pending: bool) {
        let metrics = &shared.metrics;
        let (before, from, after, to) = if is_pending {
            (
                READY,
                &metrics.common.ready,
                PENDING,
                &metrics.common.pending,
            )
        } else {
            (
                PENDING,
                &metrics.common.pending,
                READY,
                &metrics.common.ready,
            )
        };
        let order = Ordering::Relaxed;
        // One that is gone is not counted any more, whatever is still told of it.
        if self
            .counted
            .compare_exchange(before, after, order, order)
            .is_ok()
        {
            from.dec();
            to.inc();
        }
    }

    /// What a request says of the endpoint.
    pub(super) fn result(&self, report: Report, now: Instant, shared: &Shared) {
        let Report {
            class, is_probe, ..
        } = report;
        let Some(breaker) = &self.breaker else {
            return;
        };
        if is_probe && class == Class::Neutral {
            // The next request is the probe.
            let order = Ordering::Relaxed;
            let _ = self.circuit.compare_exchange(PROBING, SHUT, order, order);
            shared.ready.notify_waiters();
            return;
        }
        let mut breaker = lock(breaker);
        if self.circuit.load(Ordering::Relaxed) == GONE {
            return;
        }
        match breaker.result(report, now, rand::random()) {
            Change::None => {}
            Change::Open => {
                self.generation
                    .store(breaker.generation(), Ordering::Relaxed);
                self.circuit.store(PASSING, Ordering::Relaxed);
                self.pending(shared, false);
                shared.ejected.fetch_sub(1, Ordering::Relaxed);
                shared.metrics.ejected.dec();
                shared.ready.notify_waiters();
            }
            Change::Shut(pause, why) => {
                self.generation
                    .store(breaker.generation(), Ordering::Relaxed);
                if !is_probe && !self.may_go(shared) {
                    breaker.spare();
                    return;
                }
                let until = self.after(now).saturating_add(nanos(pause));
                self.shut_until.store(until, Ordering::Relaxed);
                let before = self.circuit.swap(SHUT, Ordering::Relaxed);
                shared.metrics.ejected_for(why);
                *lock(&shared.last_trip) = Some(why);
                if before == PASSING {
                    shared.ejected.fetch_add(1, Ordering::Relaxed);
                    shared.metrics.ejected.inc();
                    self.pending(shared, true);
                    let endpoint = self.endpoint.address;
                    tracing::info!(%endpoint, reason = why.label(), ?pause, "Endpoint left out");
                }
            }
        }
    }

    /// Whether enough endpoints are left without it.
    fn may_go(&self, shared: &Shared) -> bool {
        if self.min_ready == 0 {
            return true;
        }
        let size = shared.size.load(Ordering::Relaxed);
        let ejected = shared.ejected.load(Ordering::Relaxed);
        size.saturating_sub(ejected + 1) >= self.min_ready
    }

    fn state(&self, now: Instant) -> EndpointState {
        let state = match self.circuit.load(Ordering::Relaxed) {
            SHUT => "ejected",
            PROBING => "probation",
            _ if self.is_ready(now) => "ready",
            _ => "connecting",
        };
        EndpointState {
            address: self.endpoint.address,
            weight: self.endpoint.weight,
            zone: ["local", "remote", "unknown"]
                .get(self.zone)
                .copied()
                .unwrap_or("unknown"),
            outstanding: self.load.outstanding(),
            latency_ms: self.load.estimate(now) * 1000.0,
            state,
        }
    }

    /// It is no endpoint any more: it does not count as left out or pending, and what requests still tell of it changes
    /// nothing.
    fn retire(&self, shared: &Shared) {
        // Results are judged under this lock.
        let _no_result = self.breaker.as_ref().map(lock);
        if matches!(self.circuit.swap(GONE, Ordering::Relaxed), SHUT | PROBING) {
            shared.ejected.fetch_sub(1, Ordering::Relaxed);
            shared.metrics.ejected.dec();
        }
        match self.counted.swap(GONE, Ordering::Relaxed) {
            READY => shared.metrics.common.ready.dec(),
            PENDING => shared.metrics.common.pending.dec(),
            _ => return,
        }
        shared.metrics.common.size.dec();
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Endpoints of one group, drawn by weight in constant time (the alias method).
#[derive(Debug, Default)]
struct Group {
    members: Vec<Arc<Member>>,
    /// For each slot: the chance to stay there, and where else to go.
    slots: Vec<(f64, usize)>,
    /// Weights relative to the average, by member.
    weights: Vec<f64>,
}

impl Group {
    fn new(members: Vec<Arc<Member>>) -> Self {
        let total: f64 = members
            .iter()
            .map(|member| f64::from(member.endpoint.weight))
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let average = (total / members.len().max(1) as f64).max(f64::MIN_POSITIVE);
        let weights: Vec<f64> = members
            .iter()
            .map(|member| f64::from(member.endpoint.weight) / average)
            .collect();
        let mut slots: Vec<(f64, usize)> = weights
            .iter()
            .enumerate()
            .map(|(at, weight)| (*weight, at))
            .collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..slots.len()).partition(|at| weights.get(*at).is_some_and(|weight| *weight < 1.0));
        while let (Some(poor), Some(rich)) = (small.pop(), large.pop()) {
            let Some(needed) = slots.get(poor).map(|(share, _)| 1.0 - share) else {
                break;
            };
            if let Some(slot) = slots.get_mut(poor) {
                slot.1 = rich;
            }
            let Some(slot) = slots.get_mut(rich) else {
                break;
            };
            slot.0 -= needed;
            if slot.0 < 1.0 {
                small.push(rich);
            } else {
                large.push(rich);
            }
        }
        // Rounding leaves slots that are full but for a hair.
        for at in small.into_iter().chain(large) {
            if let Some(slot) = slots.get_mut(at) {
                slot.0 = 1.0;
            }
        }
        Self {
            members,
            slots,
            weights,
        }
    }

    fn draw(&self) -> Option<usize> {
        if self.slots.len() < 2 {
            return (!self.slots.is_empty()).then_some(0);
        }
        let at = rand::random_range(0..self.slots.len());
        let (stay, other) = self.slots.get(at)?;
        if *stay >= 1.0 || rand::random::<f64>() < *stay {
            Some(at)
        } else {
            Some(*other)
        }
    }

    fn load(&self, at: usize, now: Instant) -> f64 {
        match (self.members.get(at), self.weights.get(at)) {
            // Its failures have cost it the pause; by what they made it look it would wait for its probe for long.
            (Some(member), _) if member.is_to_be_probed() => 0.0,
            (Some(member), Some(weight)) => member.load.load(*weight, now),
            _ => f64::INFINITY,
        }
    }

    /// The better of two that are ready; of one, if there is no other.
    fn choose(&self, now: Instant, avoid: Option<SocketAddr>) -> Option<(usize, f64)> {
        let fits = |at: usize| {
            self.members.get(at).is_some_and(|member| {
                member.is_ready(now) && Some(member.endpoint.address) != avoid
            })
        };
        let better = |one: usize, other: usize| {
            let loads = (self.load(one, now), self.load(other, now));
            if loads.1 < loads.0 {
                (other, loads.1)
            } else {
                (one, loads.0)
            }
        };
        let mut first = None;
        for _ in 0..DRAWS {
            let Some(at) = self.draw().filter(|at| fits(*at)) else {
                continue;
            };
            match first {
                None if self.members.len() < 2 => return Some((at, self.load(at, now))),
                None => first = Some(at),
                Some(other) if other == at => {}
                Some(other) => return Some(better(other, at)),
            }
        }
        // Few are ready, or the weights are far apart, or chance has it: look at all of them.
        let any = |except: Option<usize>| {
            let all = || (0..self.members.len()).filter(|at| fits(*at) && Some(*at) != except);
            let count = all().count();
            let skip = if count > 1 {
                rand::random_range(0..count)
            } else {
                0
            };
            all().nth(skip)
        };
        let first = first.or_else(|| any(None))?;
        Some(any(Some(first)).map_or_else(
            || (first, self.load(first, now)),
            |second| better(first, second),
        ))
    }
}

/// The endpoints at one version.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) version: u64,
    pub(super) is_built: bool,
    /// Of this workload's zone; empty where zones say nothing.
    near: Group,
    /// All others.
    far: Group,
}

impl Pool {
    /// A pool for a set of endpoints; those that did not change keep their state.
    pub(super) fn build(
        before: &Self,
        set: &EndpointSet,
        settings: &Settings,
        shared: &Shared,
        now: Instant,
    ) -> Self {
        let known: HashMap<SocketAddr, &Arc<Member>> = before
            .members()
            .map(|member| (member.endpoint.address, member))
            .collect();
        let metrics = &shared.metrics;
        let mut kept = 0;
        let members = set.endpoints.iter().map(|endpoint| {
            let same = known
                .get(&endpoint.address)
                .filter(|member| member.endpoint == *endpoint);
            if let Some(member) = same {
                kept += 1;
                return Arc::clone(member);
            }
            metrics.common.adds.inc();
            metrics.common.size.inc();
            metrics.common.ready.inc();
            Arc::new(Member::new(endpoint.clone(), settings, now))
        });
        let members: Vec<Arc<Member>> = members.collect();
        if kept < known.len() {
            let stays: HashMap<SocketAddr, &Arc<Member>> = members
                .iter()
                .map(|member| (member.endpoint.address, member))
                .collect();
            for (address, member) in known {
                if !stays
                    .get(&address)
                    .is_some_and(|stays| Arc::ptr_eq(stays, member))
                {
                    metrics.common.removes.inc();
                    member.retire(shared);
                }
            }
        }
        shared.size.store(members.len(), Ordering::Relaxed);
        shared.ready.notify_waiters();
        let (near, far): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| member.zone == LOCAL);
        Self {
            version: set.version,
            is_built: true,
            near: Group::new(near),
            far: Group::new(far),
        }
    }

    /// None of them is an endpoint of this balancer any more.
    pub(super) fn retire(&self, shared: &Shared) {
        self.members().for_each(|member| member.retire(shared));
    }

    fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.near.members.iter().chain(&self.far.members)
    }

    /// An endpoint for a request, and whether the request is its probe.
    pub(super) fn choose(
        &self,
        now: Instant,
        avoid: Option<SocketAddr>,
    ) -> Option<(Arc<Member>, bool)> {
        // A probe may be taken by somebody else between the look and the claim.
        for _ in 0..DRAWS {
            let found = self
                .prefer(now, avoid)
                .or_else(|| avoid.and_then(|_| self.prefer(now, None)))?;
            if let Some(is_probe) = found.claim() {
                return Some((found.clone(), is_probe));
            }
        }
        None
    }

    /// This zone's, unless it is much more loaded than another's.
    fn prefer(&self, now: Instant, avoid: Option<SocketAddr>) -> Option<&Arc<Member>> {
        let near = self.near.choose(now, avoid);
        let Some((near_at, near_load)) = near else {
            let (far, _) = self.far.choose(now, avoid)?;
            return self.far.members.get(far);
        };
        let near = self.near.members.get(near_at);
        let is_idle = near.is_some_and(|near| near.load.outstanding() == 0);
        if self.far.members.is_empty() || is_idle {
            return near;
        }
        match self.far.choose(now, avoid) {
            Some((far, far_load)) if near_load > far_load * SPILL => self.far.members.get(far),
            _ => near,
        }
    }

    pub(super) fn has_ready(&self, now: Instant) -> bool {
        self.members().any(|member| member.is_ready(now))
    }

    /// When an endpoint may be ready that is not now.
    pub(super) fn next_ready(&self, now: Instant) -> Option<Instant> {
        self.members()
            .filter_map(|member| member.ready_at())
            .filter(|at| *at > now)
            .min()
    }

    pub(super) fn states(&self, now: Instant) -> Vec<EndpointState> {
        let mut states: Vec<_> = self.members().map(|member| member.state(now)).collect();
        states.sort_by_key(|state| state.address);
        states
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
