//! How loaded an endpoint is: peak EWMA of its latency, times what it has to do.

use linkerd_policy::outbound::Load as Settings;
use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// No endpoint is loaded less than this, in seconds: else what it has to do would count for nothing.
const FLOOR: f64 = 1e-6;

/// What failures one after the other may make of an endpoint at most: it is asked again about once in this time, or when
/// the others are worse.
const WORST: Duration = Duration::from_secs(10);

/// Nanoseconds from an epoch to an instant, as atomics keep it; 0 before the epoch.
pub(super) fn nanos_after(epoch: Instant, at: Instant) -> u64 {
    let since = at.saturating_duration_since(epoch).as_nanos();
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// The load of one endpoint. Readers and writers on several threads may miss each other's last sample, never more.
#[derive(Debug)]
pub(super) struct PeakEwma {
    settings: Settings,
    epoch: Instant,
    /// Seconds, as the bits of an `f64`.
    estimate: AtomicU64,
    /// Nanoseconds after `epoch` at which the estimate was made.
    stamp: AtomicU64,
    /// Failures one after the other.
    failures: AtomicU32,
    /// Nanoseconds after `epoch` at which the last of them was there.
    failed: AtomicU64,
    outstanding: AtomicU32,
}

impl PeakEwma {
    pub(super) fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            epoch: now,
            estimate: AtomicU64::new(settings.default_rtt.as_secs_f64().to_bits()),
            stamp: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            failed: AtomicU64::new(0),
            outstanding: AtomicU32::new(0),
        }
    }

    /// The estimated latency in seconds: it fades while nothing is heard.
    pub(super) fn estimate(&self, now: Instant) -> f64 {
        let estimate = f64::from_bits(self.estimate.load(Ordering::Relaxed));
        estimate * self.faded(now)
    }

    /// What is left of the estimate's weight.
    fn faded(&self, now: Instant) -> f64 {
        let stamp = Duration::from_nanos(self.stamp.load(Ordering::Relaxed));
        let elapsed = now
            .saturating_duration_since(self.epoch)
            .saturating_sub(stamp);
        let decay = self.settings.decay.as_secs_f64().max(f64::EPSILON);
        // Not the C library's: that would be all that a sidecar loads a library of mathematics for.
        libm::exp(-elapsed.as_secs_f64() / decay)
    }

    /// A response took this long. A peak counts at once, what is better only by and by; but one good response is enough
    /// to forget that failures came before.
    pub(super) fn sample(&self, took: Duration, now: Instant) {
        let sample = took.as_secs_f64();
        let mut estimate = f64::from_bits(self.estimate.load(Ordering::Relaxed));
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
            estimate = estimate.min(self.settings.default_rtt.as_secs_f64());
        }
        let next = if sample > estimate {
            sample
        } else {
            let weight = self.faded(now);
            estimate * weight + sample * (1.0 - weight)
        };
        self.set(next, now);
    }

    /// A failure: the endpoint is at least this slow, and no better than it was, however fast it failed.
    pub(super) fn penalise(&self, at_least: Duration, now: Instant) {
        let next = self.estimate(now).max(at_least.as_secs_f64());
        self.set(next, now);
    }

    /// A failure of a request that began at `began`, where nothing says what failures cost: as much as the latency that
    /// is assumed of an unknown endpoint, and twice that with each further failure until something succeeds. So one
    /// failure among many responses means little, and who fails always is asked ever more seldom. What fails at one
    /// time, as with a connection that breaks, is one failure.
    pub(super) fn fail(&self, began: Instant, now: Instant) {
        let mut failures = self.failures.load(Ordering::Relaxed);
        if failures == 0 || self.nanos(began) >= self.failed.load(Ordering::Relaxed) {
            failures = failures.saturating_add(1);
            self.failures.store(failures, Ordering::Relaxed);
            self.failed.store(self.nanos(now), Ordering::Relaxed);
        }
        let doublings = failures.saturating_sub(1).min(20);
        let cost = self.settings.default_rtt.saturating_mul(1 << doublings);
        let took = now.saturating_duration_since(began);
        self.penalise(cost.min(WORST).max(took), now);
    }

    fn nanos(&self, at: Instant) -> u64 {
        nanos_after(self.epoch, at)
    }

    fn set(&self, estimate: f64, now: Instant) {
        self.estimate.store(estimate.to_bits(), Ordering::Relaxed);
        self.stamp.store(self.nanos(now), Ordering::Relaxed);
    }

    pub(super) fn begin(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn finish(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// What is compared: `weight` is the endpoint's, relative to the average.
    pub(super) fn load(&self, weight: f64, now: Instant) -> f64 {
        let waiting = f64::from(self.outstanding()) / weight.max(FLOOR);
        self.estimate(now).max(FLOOR) * (waiting + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades_by_and_by() {
        let start = Instant::now();
        let ewma = PeakEwma::new(Settings::default(), start);
        assert!((ewma.estimate(start) - 0.030).abs() < 1e-9);
        ewma.sample(Duration::from_secs(1), start);
        assert!((ewma.estimate(start) - 1.0).abs() < 1e-9);
        let later = start + Duration::from_secs(10);
        ewma.sample(Duration::from_millis(10), later);
        let e = (-1.0f64).exp();
        assert!((ewma.estimate(later) - (e + 0.010 * (1.0 - e))).abs() < 1e-6);
        let much_later = later + Duration::from_secs(100);
        assert!(ewma.estimate(much_later) < 1e-4);
    }

    #[test]
    fn failing_fast_makes_no_endpoint_attractive() {
        let start = Instant::now();
        let ewma = PeakEwma::new(Settings::default(), start);
        ewma.sample(Duration::from_millis(200), start);
        let before = ewma.estimate(start);
        ewma.penalise(Duration::from_millis(30), start);
        assert!(ewma.estimate(start) >= before);
        ewma.penalise(Duration::from_secs(5), start);
        assert!((ewma.estimate(start) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn failures_one_after_the_other_cost_ever_more_until_something_succeeds() {
        let start = Instant::now();
        let ewma = PeakEwma::new(Settings::default(), start);
        let at = |millis| start + Duration::from_millis(millis);
        ewma.fail(start, at(1));
        assert!((ewma.estimate(at(1)) - 0.030).abs() < 1e-3);
        // Those that were under way when it failed say nothing new.
        for _ in 0..100 {
            ewma.fail(start, at(1));
        }
        assert!((ewma.estimate(at(1)) - 0.030).abs() < 1e-3);
        ewma.fail(at(2), at(3));
        assert!((ewma.estimate(at(3)) - 0.060).abs() < 1e-3);
        for n in 2..50 {
            ewma.fail(at(2 * n), at(2 * n + 1));
        }
        assert!((ewma.estimate(at(101)) - WORST.as_secs_f64()).abs() < 0.1);
        ewma.sample(Duration::from_millis(1), at(102));
        assert!(ewma.estimate(at(102)) <= 0.030);
    }
}
