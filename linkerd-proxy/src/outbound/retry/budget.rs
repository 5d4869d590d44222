//! A budget of retries: they may make up a share of the traffic, and no more, so that they cannot multiply an outage.
//!
//! Requests deposit, retries withdraw, and both are forgotten after a while. There always is one.

use linkerd_policy::outbound::profile;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// In how many parts a while is kept.
const SLOTS: usize = 10;

/// A budget. Several threads may deposit and withdraw at once.
#[derive(Debug)]
pub(crate) struct Budget {
    deposit: i64,
    withdrawal: i64,
    /// What is there without any deposit.
    reserve: i64,
    slot: Duration,
    epoch: Instant,
    /// For each part: its number in the upper half, its balance in the lower.
    slots: [AtomicU64; SLOTS],
}

impl Budget {
    /// A budget as configured, or as a service profile says.
    pub(crate) fn new(settings: profile::Budget, now: Instant) -> Self {
        // As the 32-bit number that it comes as: a fifth would be a little less than five as a 64-bit one.
        let ratio = settings.ratio;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a ratio of 0 to 1000: at most a million"
        )]
        let (deposit, withdrawal) = if ratio <= 0.0 {
            (0, 1)
        } else if ratio <= 1.0 {
            (1, ((1.0 / ratio).min(1e6)).floor() as i64)
        } else {
            (1000, (1000.0 / ratio) as i64)
        };
        let withdrawal = withdrawal.max(1);
        let ttl = settings.ttl.max(Duration::from_secs(1));
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(1);
        let reserve = i64::from(settings.min_per_second)
            .saturating_mul(seconds)
            .saturating_mul(withdrawal);
        Self {
            deposit,
            withdrawal,
            reserve: reserve.min(i64::from(i32::MAX) * 64),
            slot: ttl / 10,
            epoch: now,
            slots: Default::default(),
        }
    }

    /// A request that was not a retry ended.
    pub(crate) fn deposit(&self, now: Instant) {
        if self.deposit > 0 {
            self.add(self.deposit, now);
        }
    }

    /// Whether there may be a retry; if so it is paid for.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        if self.balance(now) < self.withdrawal {
            return false;
        }
        // Paid first and looked at afterwards: of two threads that both see the last of it, at most one has it.
        self.add(-self.withdrawal, now);
        if self.balance(now) < 0 {
            self.add(self.withdrawal, now);
            return false;
        }
        true
    }

    /// How many retries there may be now.
    pub(crate) fn remaining(&self, now: Instant) -> u64 {
        u64::try_from(self.balance(now) / self.withdrawal).unwrap_or(0)
    }

    fn balance(&self, now: Instant) -> i64 {
        let number = self.number(now);
        let oldest = number.saturating_sub(SLOTS as u32 - 1);
        let sum: i64 = self
            .slots
            .iter()
            .map(|slot| unpack(slot.load(Ordering::Relaxed)))
            .filter(|(at, _)| (oldest..=number).contains(at))
            .map(|(_, balance)| i64::from(balance))
            .sum();
        self.reserve.saturating_add(sum)
    }

    fn add(&self, amount: i64, now: Instant) {
        let number = self.number(now);
        let Some(slot) = self.slots.get(number as usize % SLOTS) else {
            return;
        };
        let change = |packed| {
            let (at, balance) = unpack(packed);
            let balance = if at == number { balance } else { 0 };
            let next = i64::from(balance).saturating_add(amount);
            let next = next.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
            Some(pack(number, i32::try_from(next).unwrap_or(0)))
        };
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// The number of the present part, from 1 on.
    fn number(&self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.epoch).as_nanos();
        let parts = elapsed / self.slot.as_nanos().max(1);
        u32::try_from(parts)
            .unwrap_or(u32::MAX - 1)
            .saturating_add(1)
    }
}

fn pack(number: u32, balance: i32) -> u64 {
    u64::from(number) << 32 | u64::from(balance.cast_unsigned())
}

fn unpack(packed: u64) -> (u32, i32) {
    #[expect(clippy::cast_possible_truncation, reason = "the halves are meant")]
    let halves = ((packed >> 32) as u32, packed as u32);
    (halves.0, halves.1.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(ratio: f32, min_per_second: u32, ttl: u64) -> profile::Budget {
        profile::Budget {
            ratio,
            min_per_second,
            ttl: Duration::from_secs(ttl),
        }
    }

    #[test]
    fn retries_are_a_share_of_requests_beyond_the_reserve() {
        let now = Instant::now();
        let budget = Budget::new(settings(0.2, 1, 10), now);
        assert_eq!(budget.remaining(now), 10, "the reserve of ten seconds");
        for _ in 0..10 {
            assert!(budget.withdraw(now));
        }
        assert!(!budget.withdraw(now));
        for _ in 0..4 {
            budget.deposit(now);
        }
        assert!(!budget.withdraw(now), "a fifth is one in five, not in four");
        budget.deposit(now);
        assert!(budget.withdraw(now));
        assert!(!budget.withdraw(now));
        let later = now + Duration::from_secs(11);
        assert_eq!(budget.remaining(later), 10, "all is forgotten");
    }

    #[test]
    fn a_ratio_of_nothing_leaves_the_reserve_only() {
        let now = Instant::now();
        let budget = Budget::new(settings(0.0, 0, 10), now);
        for _ in 0..100 {
            budget.deposit(now);
        }
        assert!(!budget.withdraw(now));
        let eager = Budget::new(settings(10.0, 0, 10), now);
        eager.deposit(now);
        assert_eq!(eager.remaining(now), 10);
    }

    #[test]
    fn shares_that_no_binary_number_is_are_what_they_say() {
        let now = Instant::now();
        for (ratio, requests) in [
            (0.05, 20),
            (0.1, 10),
            (0.2, 5),
            (0.25, 4),
            (0.5, 2),
            (1.0, 1),
        ] {
            let budget = Budget::new(settings(ratio, 0, 10), now);
            for _ in 1..requests {
                budget.deposit(now);
                assert!(!budget.withdraw(now), "{ratio}");
            }
            budget.deposit(now);
            assert!(budget.withdraw(now), "{ratio}");
        }
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let now = Instant::now();
        let budget = Budget::new(settings(0.2, 10, 10), now);
        let taken: usize = std::thread::scope(|scope| {
            let threads = [(); 4]
                .map(|()| scope.spawn(|| (0..1000).filter(|_| budget.withdraw(now)).count()));
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert!(taken <= 100, "{taken}");
        assert!(taken > 0);
    }

    proptest! {
        /// Against a model that remembers every event.
        #[test]
        fn it_is_what_a_ledger_of_all_events_says(
            ratio in prop_oneof![Just(0.0f32), 0.05f32..2.0],
            min in 0u32..3,
            ttl in 1u64..20,
            events in proptest::collection::vec((any::<bool>(), 0u64..800), 1..300),
        ) {
            let start = Instant::now();
            let budget = Budget::new(settings(ratio, min, ttl), start);
            let slot = ttl * 1000 / 10;
            let mut ledger: Vec<(u64, i64)> = Vec::new();
            let mut millis = 0;
            for (is_retry, pause) in events {
                millis += pause;
                let now = start + Duration::from_millis(millis);
                let part = millis / slot;
                let sum: i64 = ledger
                    .iter()
                    .filter(|(at, _)| at + 9 >= part)
                    .map(|(_, amount)| amount)
                    .sum();
                if is_retry {
                    let may = budget.reserve + sum >= budget.withdrawal;
                    prop_assert_eq!(budget.withdraw(now), may);
                    if may {
                        ledger.push((part, -budget.withdrawal));
                    }
                } else {
                    budget.deposit(now);
                    ledger.push((part, budget.deposit));
                }
            }
        }
    }
}
