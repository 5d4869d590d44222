//! Limits at times the test chooses.

use super::*;
use std::time::Duration;

fn limit(total: Option<u32>, identity: Option<u32>, overrides: &[(u32, &[&str])]) -> RateLimit {
    RateLimit {
        meta: None,
        total,
        identity,
        overrides: overrides
            .iter()
            .map(|(rps, names)| RateLimitOverride {
                requests_per_second: *rps,
                identities: names.iter().map(|name| (*name).to_owned()).collect(),
            })
            .collect(),
    }
}

/// How many of 1,000 requests pass at one moment.
fn passing(limiter: &RateLimiter, identity: Option<&str>, now: Instant) -> usize {
    (0..1000)
        .filter(|_| limiter.check(identity, now).is_ok())
        .count()
}

#[test]
fn a_bucket_holds_one_second_and_refills_evenly() {
    for rate in [1, 2, 3, 7, 10, 999] {
        let limiter = RateLimiter::new(&limit(Some(rate), None, &[]));
        let start = Instant::now();
        let all = usize::try_from(rate).unwrap();
        assert_eq!(passing(&limiter, None, start), all, "{rate}");
        let tick = Duration::from_secs(1) / rate;
        assert_eq!(passing(&limiter, None, start + tick / 2), 0, "{rate}");
        assert_eq!(
            passing(&limiter, None, start + tick + Duration::from_nanos(1)),
            1,
            "{rate}"
        );
        assert_eq!(
            passing(&limiter, None, start + Duration::from_secs(9)),
            all,
            "{rate}"
        );
    }
}

#[test]
fn no_limit_and_a_limit_of_zero_let_everything_pass() {
    let now = Instant::now();
    for limit in [
        limit(None, None, &[]),
        limit(Some(0), Some(0), &[(0, &["a"])]),
    ] {
        let limiter = RateLimiter::new(&limit);
        assert_eq!(passing(&limiter, Some("a"), now), 1000);
        assert_eq!(passing(&limiter, None, now), 1000);
    }
}

#[test]
fn the_largest_rate_is_a_rate() {
    let limiter = RateLimiter::new(&limit(Some(u32::MAX), Some(u32::MAX), &[]));
    assert_eq!(passing(&limiter, None, Instant::now()), 1000);
}

#[test]
fn identities_do_not_take_from_each_other_and_those_without_share_one_bucket() {
    let limiter = RateLimiter::new(&limit(None, Some(3), &[]));
    let now = Instant::now();
    assert_eq!(passing(&limiter, Some("a.ns"), now), 3);
    assert_eq!(passing(&limiter, Some("A.ns"), now), 0);
    assert_eq!(passing(&limiter, Some("b.ns"), now), 3);
    assert_eq!(passing(&limiter, None, now), 3);
    assert_eq!(passing(&limiter, None, now), 0);
    let refused = limiter.check(Some("a.ns"), now).unwrap_err();
    assert_eq!(
        (refused.scope.label(), refused.requests_per_second),
        ("identity", 3)
    );
}

#[test]
fn an_override_stands_in_for_the_identity_limit_and_is_shared_by_those_it_names() {
    let limiter = RateLimiter::new(&limit(
        None,
        Some(1),
        &[(5, &["Big.ns", "spiffe://r/b"]), (0, &["free"])],
    ));
    let now = Instant::now();
    assert_eq!(passing(&limiter, Some("big.ns"), now), 5);
    let refused = limiter.check(Some("spiffe://r/b"), now).unwrap_err();
    assert_eq!(
        (refused.scope, refused.requests_per_second),
        (Scope::Override, 5)
    );
    assert_eq!(passing(&limiter, Some("free"), now), 1000);
    assert_eq!(passing(&limiter, Some("small.ns"), now), 1);
}

#[test]
fn a_request_refused_for_its_identity_costs_the_others_nothing() {
    let limiter = RateLimiter::new(&limit(Some(10), Some(2), &[]));
    let now = Instant::now();
    assert_eq!(passing(&limiter, Some("greedy"), now), 2);
    // 998 refusals later, the eight other tokens are still there.
    let others = (0..20).filter(|n| limiter.check(Some(&format!("o{n}")), now).is_ok());
    assert_eq!(others.count(), 8);
    assert_eq!(
        limiter.check(Some("late"), now).unwrap_err().scope,
        Scope::Total
    );
    // Nor does one refused by the total cost its identity anything.
    let later = now + Duration::from_millis(200);
    assert_eq!(passing(&limiter, Some("late"), later), 2);
}

#[test]
fn an_update_is_no_second_burst() {
    let now = Instant::now();
    let old = RateLimiter::new(&limit(Some(10), Some(4), &[(2, &["big", "bigger"])]));
    assert_eq!(passing(&old, Some("a"), now), 4);
    assert_eq!(passing(&old, Some("big"), now), 2);
    // Four of ten tokens are left in total, and half of that at half the rate.
    let new = RateLimiter::succeed(&old, &limit(Some(5), Some(4), &[(2, &["new", "bigger"])]));
    assert_eq!(
        new.check(Some("a"), now).unwrap_err().scope,
        Scope::Identity
    );
    assert_eq!(
        new.check(Some("bigger"), now).unwrap_err().scope,
        Scope::Override
    );
    assert_eq!(passing(&new, Some("b"), now), 2);
    assert_eq!(new.check(Some("b"), now).unwrap_err().scope, Scope::Total);
    // A limit that was not there before starts full, and time runs on.
    let newest = RateLimiter::succeed(
        &RateLimiter::succeed(&new, &limit(None, None, &[])),
        &limit(Some(7), None, &[]),
    );
    assert_eq!(passing(&newest, None, now), 7);
}

#[test]
fn more_identities_than_fit_share_one_bucket_until_others_are_quiet() {
    let limiter = RateLimiter::with_max_identities(&limit(None, Some(5), &[]), 3);
    let now = Instant::now();
    for name in ["a", "b", "c"] {
        assert_eq!(passing(&limiter, Some(name), now), 5);
    }
    assert_eq!(passing(&limiter, Some("d"), now), 5);
    assert_eq!(passing(&limiter, Some("e"), now), 0);
    assert_eq!(limiter.identities(), 3);
    // After two quiet seconds every bucket is full again and makes room.
    let later = now + Duration::from_secs(2);
    assert_eq!(passing(&limiter, Some("e"), later), 5);
    assert_eq!(passing(&limiter, Some("f"), later), 5);
    assert!(limiter.identities() <= 3);
}

#[test]
fn a_flood_of_identities_does_not_grow_the_table() {
    let limiter = RateLimiter::with_max_identities(&limit(None, Some(1), &[]), 100);
    let start = Instant::now();
    for n in 0..50_000u32 {
        let _ = limiter.check(
            Some(&format!("id{n}")),
            start + Duration::from_millis(n.into()),
        );
        assert!(limiter.identities() <= 100);
    }
}

#[test]
fn requests_on_several_threads_get_exactly_the_tokens_there_are() {
    let limiter = RateLimiter::new(&limit(Some(500), Some(100), &[]));
    let now = Instant::now();
    let passed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let limiter = &limiter;
                scope.spawn(move || passing(limiter, Some(if n % 2 == 0 { "a" } else { "b" }), now))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(passed, 200);
    assert_eq!(passing(&limiter, Some("c"), now), 100);
}

#[test]
fn a_clock_that_steps_back_neither_panics_nor_refills() {
    let limiter = RateLimiter::new(&limit(Some(2), None, &[]));
    let now = Instant::now() + Duration::from_secs(10);
    assert_eq!(passing(&limiter, None, now), 2);
    assert_eq!(passing(&limiter, None, now - Duration::from_secs(5)), 0);
}
