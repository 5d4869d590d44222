//! Pauses between attempts, doubled and jittered. Used by everything that retries towards a controller.

use crate::config::Backoff;
use std::time::Duration;

/// The pauses of one series of attempts.
#[derive(Debug)]
pub(crate) struct Pauses {
    backoff: Backoff,
    next: Duration,
}

impl Pauses {
    /// Pauses from the shortest on.
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self {
            next: backoff.min,
            backoff,
        }
    }

    /// Starts over, after a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.backoff.min;
    }

    /// The next pause, at most `cap` (and the configured longest one) plus jitter.
    pub(crate) fn next(&mut self, cap: Duration) -> Duration {
        let max = self.backoff.max.min(cap);
        let pause = self.next.min(max);
        self.next = self.next.saturating_mul(2).min(self.backoff.max);
        let roll: f64 = rand::random();
        let jitter = pause.as_secs_f64() * self.backoff.jitter * roll;
        // A pause beyond a day has no use; the bound also keeps the conversion from overflowing.
        pause + Duration::from_secs_f64(jitter.clamp(0.0, 86_400.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over_after_a_success() {
        let ms = Duration::from_millis;
        let mut pauses = Pauses::new(Backoff {
            min: ms(100),
            max: ms(350),
            jitter: 0.0,
        });
        let mut take = |n: usize| (0..n).map(|_| pauses.next(ms(1000))).collect::<Vec<_>>();
        assert_eq!(take(4), [ms(100), ms(200), ms(350), ms(350)]);
        pauses.reset();
        assert_eq!(pauses.next(ms(1000)), ms(100));
        assert_eq!(pauses.next(ms(150)), ms(150), "a caller's cap holds too");
    }

    #[test]
    fn jitter_adds_at_most_its_share() {
        let mut pauses = Pauses::new(Backoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(1),
            jitter: 0.5,
        });
        for _ in 0..100 {
            let pause = pauses.next(Duration::MAX);
            assert!((1.0..=1.5).contains(&pause.as_secs_f64()), "{pause:?}");
        }
    }
}
