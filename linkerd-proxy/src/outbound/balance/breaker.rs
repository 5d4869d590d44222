//! Circuit breaking of one endpoint: left out after failures, probed with one request, taken back after a success.
//!
//! Pure: the clock and the dice are passed in.

use linkerd_policy::outbound::{Backoff, FailureAccrual, SuccessRate};
use std::time::{Duration, Instant};

/// What a request says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Success,
    Failure,
    /// 429 or RESOURCE_EXHAUSTED: no failure, but nothing to build on.
    RateLimited,
    /// The application went away: nothing is known.
    Neutral,
}

/// Why an endpoint is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tripped {
    Consecutive,
    SuccessRate,
    Probe,
}

impl std::fmt::Display for Tripped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Consecutive => "failures in a row",
            Self::SuccessRate => "its success rate",
            Self::Probe => "a failed probe",
        })
    }
}

impl Tripped {
    /// The values of `reason`.
    pub(super) const LABELS: [&str; 3] = ["consecutive_failures", "success_rate", "failed_probe"];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive_failures",
            Self::SuccessRate => "success_rate",
            Self::Probe => "failed_probe",
        }
    }
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) class: Class,
    /// Of the breaker, when the request was sent.
    pub(super) generation: u64,
    pub(super) is_probe: bool,
    /// How long the endpoint asks to be left alone.
    pub(super) hint: Option<Duration>,
}

/// The state of one endpoint's circuit.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: FailureAccrual,
    failures: u32,
    window: Window,
    /// How often it was shut since it last was well.
    times: u32,
    /// Results of requests that began before the last change are old news.
    generation: u64,
}

/// What is to be done after a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Shut(Duration, Tripped),
    Open,
}

impl Breaker {
    pub(super) fn new(settings: FailureAccrual) -> Self {
        Self {
            window: Window::new(settings.success_rate),
            settings,
            failures: 0,
            times: 0,
            generation: 0,
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The result of a request; `roll` is within 0 to 1.
    pub(super) fn result(&mut self, report: Report, now: Instant, roll: f64) -> Change {
        let change = self.change(report, now, roll);
        let backoff = &self.settings.backoff;
        match (change, report.hint) {
            (Change::Shut(pause, why), Some(hint)) if backoff.respect_retry_after => {
                Change::Shut(pause.max(hint.min(backoff.max)), why)
            }
            (change, _) => change,
        }
    }

    fn change(&mut self, report: Report, now: Instant, roll: f64) -> Change {
        let Report {
            class,
            generation,
            is_probe,
            hint: _,
        } = report;
        if generation != self.generation {
            return Change::None;
        }
        if is_probe {
            return match class {
                Class::Success => {
                    self.failures = 0;
                    self.times = 0;
                    self.window.clear();
                    self.generation += 1;
                    Change::Open
                }
                Class::Failure | Class::RateLimited => self.shut(Tripped::Probe, roll),
                Class::Neutral => Change::None,
            };
        }
        match class {
            Class::Neutral => return Change::None,
            Class::Failure => self.failures = self.failures.saturating_add(1),
            Class::Success | Class::RateLimited => self.failures = 0,
        }
        self.window.count(class == Class::Success, now);
        let limit = self.settings.max_consecutive_failures;
        if limit > 0 && self.failures >= limit {
            return self.shut(Tripped::Consecutive, roll);
        }
        if self.window.is_below(now) {
            return self.shut(Tripped::SuccessRate, roll);
        }
        Change::None
    }

    /// A trip that was not allowed: too few endpoints would be left.
    pub(super) fn spare(&mut self) {
        self.times = self.times.saturating_sub(1);
    }

    fn shut(&mut self, why: Tripped, roll: f64) -> Change {
        let pause = pause(&self.settings.backoff, self.times, roll);
        self.times = self.times.saturating_add(1);
        self.failures = 0;
        self.window.clear();
        self.generation += 1;
        Change::Shut(pause, why)
    }
}

/// The pause after `times` earlier ones: doubled up to the longest, plus jitter, and no longer than the longest.
pub(super) fn pause(backoff: &Backoff, times: u32, roll: f64) -> Duration {
    let factor = 2u32.checked_pow(times).unwrap_or(u32::MAX);
    let base = backoff.min.saturating_mul(factor).min(backoff.max);
    let jitter = base.as_secs_f64() * f64::from(backoff.jitter) * roll;
    let jitter = Duration::try_from_secs_f64(jitter.max(0.0)).unwrap_or(backoff.max);
    base.saturating_add(jitter).min(backoff.max)
}

/// Successes and failures of a while, in ten parts.
#[derive(Debug)]
struct Window {
    settings: Option<SuccessRate>,
    parts: [(u32, u32); PARTS],
    /// When the newest part began, and which it is.
    began: Option<Instant>,
    newest: usize,
}

const PARTS: usize = 10;

impl Window {
    fn new(settings: Option<SuccessRate>) -> Self {
        Self {
            settings,
            parts: [(0, 0); PARTS],
            began: None,
            newest: 0,
        }
    }

    fn clear(&mut self) {
        self.parts = [(0, 0); PARTS];
        self.began = None;
    }

    /// Lets go of what is older than the window.
    fn turn(&mut self, now: Instant) {
        let Some(settings) = self.settings else {
            return;
        };
        let part = settings.window / 10;
        let Some(mut began) = self.began else {
            self.began = Some(now);
            return;
        };
        let mut turns = 0;
        while now.saturating_duration_since(began) >= part {
            if turns == PARTS {
                // All of it is old.
                began = now;
                break;
            }
            turns += 1;
            began += part;
            self.newest = (self.newest + 1) % PARTS;
            if let Some(oldest) = self.parts.get_mut(self.newest) {
                *oldest = (0, 0);
            }
        }
        self.began = Some(began);
    }

    fn count(&mut self, is_success: bool, now: Instant) {
        if self.settings.is_none() {
            return;
        }
        self.turn(now);
        if let Some((successes, all)) = self.parts.get_mut(self.newest) {
            *successes += u32::from(is_success);
            *all += 1;
        }
    }

    fn is_below(&mut self, now: Instant) -> bool {
        let Some(settings) = self.settings else {
            return false;
        };
        self.turn(now);
        let (successes, all) = self
            .parts
            .iter()
            .fold((0u32, 0u32), |(a, b), (c, d)| (a + c, b + d));
        all >= settings.min_requests.max(1)
            && f64::from(successes) / f64::from(all) < settings.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(consecutive: u32, rate: Option<SuccessRate>) -> FailureAccrual {
        FailureAccrual {
            max_consecutive_failures: consecutive,
            success_rate: rate,
            backoff: Backoff {
                min: Duration::from_secs(1),
                max: Duration::from_secs(5),
                jitter: 0.5,
                respect_retry_after: false,
            },
            min_ready_endpoints: 0,
        }
    }

    fn report(class: Class, generation: u64, is_probe: bool) -> Report {
        Report {
            class,
            generation,
            is_probe,
            hint: None,
        }
    }

    #[test]
    fn what_an_endpoint_asks_for_counts_where_policy_says_so_up_to_the_longest_pause() {
        let now = Instant::now();
        let pause = |respects, hint| {
            let mut settings = settings(1, None);
            settings.backoff.respect_retry_after = respects;
            let report = Report {
                hint: Some(Duration::from_secs(hint)),
                ..report(Class::Failure, 0, false)
            };
            match Breaker::new(settings).result(report, now, 0.0) {
                Change::Shut(pause, Tripped::Consecutive) => pause.as_secs(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(pause(false, 3), 1);
        assert_eq!([pause(true, 0), pause(true, 3), pause(true, 60)], [1, 3, 5]);
    }

    #[test]
    fn failures_in_a_row_trip_and_a_success_between_them_does_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new(settings(3, None));
        let mut send = |class| breaker.result(report(class, 0, false), now, 0.0);
        for class in [
            Class::Failure,
            Class::Failure,
            Class::Success,
            Class::Failure,
            Class::RateLimited,
            Class::Failure,
            Class::Failure,
            Class::Neutral,
        ] {
            assert_eq!(send(class), Change::None);
        }
        let pause = Duration::from_secs(1);
        assert_eq!(
            send(Class::Failure),
            Change::Shut(pause, Tripped::Consecutive)
        );
        // What began before is old news.
        assert_eq!(send(Class::Failure), Change::None);
    }

    #[test]
    fn one_probe_decides_and_pauses_double_up_to_the_longest() {
        let now = Instant::now();
        let mut breaker = Breaker::new(settings(1, None));
        assert!(matches!(
            breaker.result(report(Class::Failure, 0, false), now, 0.0),
            Change::Shut(..)
        ));
        let mut pauses = Vec::new();
        for _ in 0..4 {
            let generation = breaker.generation();
            match breaker.result(report(Class::Failure, generation, true), now, 0.0) {
                Change::Shut(pause, Tripped::Probe) => pauses.push(pause.as_secs()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(pauses, [2, 4, 5, 5]);
        let generation = breaker.generation();
        assert_eq!(
            breaker.result(report(Class::Success, generation, true), now, 0.0),
            Change::Open
        );
        let generation = breaker.generation();
        let first_again = breaker.result(report(Class::Failure, generation, false), now, 1.0);
        let pause = Duration::from_millis(1500);
        assert_eq!(first_again, Change::Shut(pause, Tripped::Consecutive));
    }

    #[test]
    fn the_rate_counts_over_its_window_and_from_enough_requests_on() {
        let start = Instant::now();
        let rate = SuccessRate {
            threshold: 0.8,
            window: Duration::from_secs(10),
            min_requests: 5,
        };
        let mut breaker = Breaker::new(settings(0, Some(rate)));
        let mut at = |seconds, class| {
            let now = start + Duration::from_secs(seconds);
            breaker.result(report(class, 0, false), now, 0.0)
        };
        for _ in 0..4 {
            assert_eq!(at(0, Class::Failure), Change::None);
        }
        // Those failures are out of the window by now.
        for _ in 0..4 {
            assert_eq!(at(20, Class::Success), Change::None);
        }
        assert_eq!(at(20, Class::Failure), Change::None, "4 of 5 is 0.8");
        assert!(matches!(
            at(21, Class::RateLimited),
            Change::Shut(_, Tripped::SuccessRate)
        ));
    }
}
