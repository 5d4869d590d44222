//! The balancer against simulations: nobody is asked, latencies are said.

use super::*;
use linkerd_metrics::{Labels, Options, Registry};
use linkerd_policy::outbound::{Backoff as PolicyBackoff, Hint, SuccessRate};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

fn endpoint(host: u8, weight: u32, zone: &str) -> Endpoint {
    let labels = match zone {
        "" => BTreeMap::new(),
        zone => BTreeMap::from([("zone_locality".to_owned(), zone.to_owned())]),
    };
    Endpoint {
        address: ([10, 0, 0, host], 80).into(),
        tls: None,
        hint: Hint::Unknown,
        opaque_transport: None,
        weight,
        labels,
        authority_override: None,
        http2: None,
    }
}

fn settings(accrual: Option<FailureAccrual>) -> Settings {
    Settings {
        load: Load::default(),
        accrual,
        queue: Queue {
            capacity: 2,
            failfast_timeout: Duration::from_secs(3),
        },
        connect_backoff: Backoff {
            min: Duration::from_millis(100),
            max: Duration::from_secs(60),
            jitter: 0.0,
        },
    }
}

fn balancer(
    endpoints: Vec<Endpoint>,
    accrual: Option<FailureAccrual>,
) -> (Arc<Balancer>, Arc<EndpointWatch>) {
    let registry = Registry::new(Options::default());
    let families = BalancerFamilies::register(&registry);
    let metrics = BalancerMetrics::resolve(&families, "http", Labels::new());
    let watch = EndpointWatch::fixed("web:80", endpoints);
    let balancer = Balancer::new(watch.clone(), settings(accrual), Arc::new(metrics));
    (balancer, watch)
}

fn host(picked: &Picked) -> u8 {
    match picked.endpoint.address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(_) => unreachable!(),
    }
}

/// Sends `requests`, `at_once` at a time, to endpoints that take `latency` of their host; counts by host.
fn simulate(
    balancer: &Arc<Balancer>,
    requests: usize,
    at_once: usize,
    latency: impl Fn(u8) -> u64,
) -> HashMap<u8, usize> {
    let mut clock = now();
    let mut running: Vec<(Instant, Picked)> = Vec::new();
    let mut counts = HashMap::new();
    for _ in 0..requests {
        if running.len() >= at_once {
            running.sort_by_key(|(at, _)| *at);
            let (at, mut picked) = running.remove(0);
            clock = clock.max(at);
            picked.first_data(at);
            picked.ended(Class::Success, at);
        }
        let mut picked = balancer.choose(clock, None).unwrap();
        picked.began = clock;
        *counts.entry(host(&picked)).or_default() += 1;
        let ends = clock + Duration::from_millis(latency(host(&picked)));
        running.push((ends, picked));
    }
    counts
}

fn share(counts: &HashMap<u8, usize>, host: u8) -> f64 {
    let all: usize = counts.values().sum();
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let share = counts.get(&host).copied().unwrap_or(0) as f64 / all as f64;
    share
}

#[tokio::test]
async fn equal_endpoints_share_equally_and_a_slow_one_gets_little() {
    let all = (1..=4).map(|host| endpoint(host, 10_000, "")).collect();
    let (balancer, _) = balancer(all, None);
    let counts = simulate(&balancer, 4000, 16, |_| 10);
    for host in 1..=4 {
        let share = share(&counts, host);
        assert!((0.15..0.35).contains(&share), "{counts:?}");
    }
    let counts = simulate(&balancer, 4000, 16, |host| if host == 1 { 200 } else { 10 });
    assert!(share(&counts, 1) < 0.03, "{counts:?}");
    assert!(counts.contains_key(&1), "it is still tried: {counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the latencies, the number of endpoints and the load are: one that is slower gets what it can do beside
    /// the others, and hardly more; and it is not forgotten.
    #[test]
    fn a_slow_endpoint_gets_its_fair_little(
        count in 3u8..9, fast in 5u64..20, factor in 4u64..40, each in 2usize..6,
    ) {
        let all = (1..=count).map(|host| endpoint(host, 10_000, "")).collect();
        let (balancer, _) = balancer(all, None);
        let at_once = each * usize::from(count);
        let latency = |host| if host == 1 { fast * factor } else { fast };
        let counts = simulate(&balancer, 400 * usize::from(count), at_once, latency);
        let factor = f64::from(u32::try_from(factor).unwrap());
        let fair = (1.0 / factor) / (f64::from(count) - 1.0 + 1.0 / factor);
        prop_assert!(share(&counts, 1) < 2.0 * fair + 0.01, "{:?}", counts);
        prop_assert!(counts.contains_key(&1), "{:?}", counts);
        // The others are equal, and nearly so treated.
        let others: Vec<usize> = (2..=count).map(|host| counts[&host]).collect();
        let (least, most) = (others.iter().min().unwrap(), others.iter().max().unwrap());
        prop_assert!(*most < 2 * *least, "{:?}", counts);
    }
}

#[tokio::test]
async fn weights_are_shares() {
    let (balancer, _) = balancer(
        vec![
            endpoint(1, 10_000, ""),
            endpoint(2, 10_000, ""),
            endpoint(3, 40_000, ""),
        ],
        None,
    );
    let counts = simulate(&balancer, 6000, 12, |_| 10);
    let heavy = share(&counts, 3);
    assert!((0.5..0.8).contains(&heavy), "{counts:?}");
}

#[tokio::test]
async fn the_own_zone_is_preferred_until_it_is_overloaded() {
    let all = vec![
        endpoint(1, 10_000, "local"),
        endpoint(2, 10_000, "remote"),
        endpoint(3, 10_000, "remote"),
    ];
    let (balancer, _) = balancer(all, None);
    let counts = simulate(&balancer, 2000, 2, |_| 10);
    assert!(share(&counts, 1) > 0.9, "{counts:?}");
    // Ten times slower than the others: traffic spills over.
    let counts = simulate(&balancer, 4000, 16, |host| if host == 1 { 100 } else { 10 });
    assert!(share(&counts, 1) < 0.3, "{counts:?}");
}

/// Sends one request after the other to two endpoints, 5 ms apart: one answers in 200 ms, the other fails at once, each time
/// that `fails` says so of its requests counted from 0, and answers in 1 ms otherwise. Gives how many it got.
fn with_one_that_fails(requests: u32, fails: impl Fn(u32) -> bool) -> u32 {
    let (balancer, _) = balancer(vec![endpoint(1, 10_000, ""), endpoint(2, 10_000, "")], None);
    let mut clock = now();
    let mut to_failing = 0;
    for _ in 0..requests {
        clock += Duration::from_millis(5);
        let mut picked = balancer.choose(clock, None).unwrap();
        picked.began = clock;
        let is_failing = host(&picked) == 1;
        let took = Duration::from_millis(if is_failing { 1 } else { 200 });
        let is_failure = is_failing && fails(to_failing);
        if is_failure {
            picked.penalise(None, clock + took);
        }
        picked.first_data(clock + took);
        let class = [Class::Success, Class::Failure][usize::from(is_failure)];
        picked.ended(class, clock + took);
        to_failing += u32::from(is_failing);
    }
    to_failing
}

#[tokio::test]
async fn an_endpoint_that_fails_at_once_is_not_preferred_to_a_slow_one_that_works() {
    let got = with_one_that_fails(10_000, |_| true);
    assert!((1..30).contains(&got), "{got} of 10,000");
}

#[tokio::test]
async fn a_failure_now_and_then_costs_an_endpoint_little() {
    let got = with_one_that_fails(10_000, |n| n % 100 == 99);
    assert!(got > 9_000, "{got} of 10,000");
}

#[tokio::test]
async fn another_endpoint_is_taken_if_there_is_one() {
    let (balancer, watch) = balancer(vec![endpoint(1, 1, ""), endpoint(2, 10_000, "")], None);
    let avoid = Some(SocketAddr::from(([10, 0, 0, 2], 80)));
    for _ in 0..50 {
        let picked = balancer.pick(avoid, balancer.deadline()).await.unwrap();
        assert_eq!(host(&picked), 1);
    }
    watch.set(vec![endpoint(2, 10_000, "")]);
    assert_eq!(
        host(&balancer.pick(avoid, balancer.deadline()).await.unwrap()),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn without_endpoints_the_wait_is_bounded_in_time_and_number_and_ends_with_the_first_endpoint()
{
    let (balancer, watch) = balancer(Vec::new(), None);
    let wait = |balancer: Arc<Balancer>| {
        tokio::spawn(async move { balancer.pick(None, balancer.deadline()).await })
    };
    let (first, second) = (wait(balancer.clone()), wait(balancer.clone()));
    tokio::task::yield_now().await;
    let third = balancer.pick(None, balancer.deadline()).await.unwrap_err();
    assert_eq!(third, Unready::Shed(Why::QueueFull(2)));
    let first = first.await.unwrap().unwrap_err();
    assert_eq!(first, Unready::FailFast(Why::NoEndpoints));
    assert!(matches!(second.await.unwrap(), Err(Unready::FailFast(_))));
    assert!(!balancer.is_available(now()));
    let shed = balancer.pick(None, balancer.deadline()).await.unwrap_err();
    assert_eq!(shed, Unready::Shed(Why::NoEndpoints));

    watch.set(vec![endpoint(1, 10_000, "")]);
    assert!(balancer.is_available(now()));
    let mut picked = balancer.pick(None, balancer.deadline()).await.unwrap();
    picked.first_data(now());
    picked.ended(Class::Success, now());
    assert!(balancer.metrics.common.times_opened() == 1);

    // A new wait ends as soon as there is an endpoint.
    watch.set(Vec::new());
    let waiting = wait(balancer.clone());
    tokio::task::yield_now().await;
    watch.set(vec![endpoint(2, 10_000, "")]);
    assert_eq!(host(&waiting.await.unwrap().unwrap()), 2);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_connected_to_is_left_alone_for_a_while() {
    let (balancer, _) = balancer(vec![endpoint(1, 10_000, "")], None);
    let started = now();
    balancer
        .pick(None, balancer.deadline())
        .await
        .unwrap()
        .connect_failed("refused");
    let again = balancer.pick(None, balancer.deadline()).await.unwrap();
    assert_eq!(now() - started, Duration::from_millis(100));
    again.connect_failed("refused");
    balancer
        .pick(None, balancer.deadline())
        .await
        .unwrap()
        .connect_failed("refused");
    assert_eq!(now() - started, Duration::from_millis(300));
    for _ in 0..3 {
        balancer
            .pick(None, balancer.deadline())
            .await
            .unwrap()
            .connect_failed("refused");
    }
    let unready = balancer.pick(None, balancer.deadline()).await.unwrap_err();
    assert_eq!(unready, Unready::FailFast(Why::Connect("refused".into())));
}

fn accrual(min_ready: u32) -> FailureAccrual {
    FailureAccrual {
        max_consecutive_failures: 2,
        success_rate: Some(SuccessRate {
            threshold: 0.5,
            window: Duration::from_secs(10),
            min_requests: 100,
        }),
        backoff: PolicyBackoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(1),
            jitter: 0.0,
            respect_retry_after: false,
        },
        min_ready_endpoints: min_ready,
    }
}

async fn fail(balancer: &Arc<Balancer>, times: usize) {
    for _ in 0..times {
        let picked = balancer.pick(None, balancer.deadline()).await.unwrap();
        picked.ended(Class::Failure, now());
    }
}

#[tokio::test(start_paused = true)]
async fn a_tripped_endpoint_is_probed_by_one_request_and_comes_back() {
    let (balancer, _) = balancer(vec![endpoint(1, 10_000, "")], Some(accrual(0)));
    fail(&balancer, 2).await;
    assert_eq!(balancer.why(), Why::Ejected(1, Some(Tripped::Consecutive)));
    let started = now();
    let probe = balancer.pick(None, balancer.deadline()).await.unwrap();
    assert_eq!(now() - started, Duration::from_secs(1));
    assert!(probe.is_probe);
    assert!(
        balancer.choose(now(), None).is_none(),
        "one probe at a time"
    );
    // The application goes away: the next request is the probe.
    drop(probe);
    let probe = balancer.pick(None, balancer.deadline()).await.unwrap();
    assert!(probe.is_probe);
    probe.ended(Class::Success, now());
    assert!(
        !balancer
            .pick(None, balancer.deadline())
            .await
            .unwrap()
            .is_probe
    );
    assert!(balancer.metrics.ejected.get() == 0.0);
}

#[tokio::test(start_paused = true)]
async fn so_many_endpoints_are_never_left_out() {
    let both = vec![endpoint(1, 10_000, ""), endpoint(2, 10_000, "")];
    let (balancer, _) = balancer(both, Some(accrual(1)));
    fail(&balancer, 40).await;
    assert!(balancer.metrics.ejected.get() == 1.0);
    assert!(balancer.choose(now(), None).is_some());
}

#[tokio::test]
async fn what_does_not_change_keeps_its_state_and_what_goes_drains() {
    let (balancer, watch) = balancer(vec![endpoint(1, 10_000, ""), endpoint(2, 10_000, "")], None);
    let mut held: Vec<Picked> = Vec::new();
    for _ in 0..8 {
        held.push(balancer.pick(None, balancer.deadline()).await.unwrap());
    }
    watch.set(vec![endpoint(2, 10_000, ""), endpoint(3, 10_000, "")]);
    let state = balancer.state();
    let hosts: Vec<SocketAddr> = state.endpoints.iter().map(|each| each.address).collect();
    assert_eq!(
        hosts,
        [2, 3].map(|host| SocketAddr::from(([10, 0, 0, host], 80)))
    );
    let of_two = held.iter().filter(|picked| host(picked) == 2).count();
    assert_eq!(state.endpoints[0].outstanding as usize, of_two);
    for picked in held {
        picked.ended(Class::Success, now());
    }
    assert_eq!(balancer.state().endpoints[0].outstanding, 0);
    assert!(balancer.metrics.common.size.get() == 2.0);
    assert!(balancer.metrics.common.removes.get() == 1);
}

/// The cost of a choice does not grow with the number of endpoints: counted in draws, each of constant time.
#[tokio::test]
async fn a_thousand_endpoints_are_all_chosen_from() {
    let many = (0..1000u32).map(|at| {
        let [.., high, low] = at.to_be_bytes();
        Endpoint {
            address: ([10, 1, high, low], 80).into(),
            ..endpoint(0, 10_000, "")
        }
    });
    let (balancer, _) = balancer(many.collect(), None);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20_000 {
        let picked = balancer.choose(now(), None).unwrap();
        seen.insert(picked.endpoint.address);
    }
    assert!(seen.len() > 990, "{}", seen.len());
}

/// What the gauges of a balancer say: all, ready, pending, left out.
fn counted(metrics: &BalancerMetrics) -> [f64; 4] {
    let gauges = [
        &metrics.common.size,
        &metrics.common.ready,
        &metrics.common.pending,
        &metrics.ejected,
    ];
    gauges.map(|gauge| gauge.get())
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_forgotten_and_used_again_is_counted_once() {
    let registry = Registry::new(Options::default());
    let families = BalancerFamilies::register(&registry);
    for _ in 0..3 {
        let metrics = Arc::new(BalancerMetrics::resolve(&families, "http", Labels::new()));
        let watch = EndpointWatch::fixed("web:80", vec![endpoint(1, 1, ""), endpoint(2, 1, "")]);
        let balancer = Balancer::new(watch, settings(Some(accrual(0))), metrics.clone());
        fail(&balancer, 3).await;
        let [size, ready, pending, ejected] = counted(&metrics);
        assert_eq!((size, ready + pending), (2.0, 2.0));
        assert_eq!(pending, ejected);
        drop(balancer);
        assert_eq!(counted(&metrics), [0.0; 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_told_late_of_an_endpoint_that_is_gone_changes_nothing() {
    let (balancer, watch) = balancer(vec![endpoint(1, 1, "")], Some(accrual(0)));
    let stale = balancer.pick(None, balancer.deadline()).await.unwrap();
    let refused = balancer.pick(None, balancer.deadline()).await.unwrap();
    let late = [(); 5].map(|()| balancer.choose(now(), None).unwrap());
    fail(&balancer, 3).await;
    let probe = balancer.pick(None, balancer.deadline()).await.unwrap();
    assert!(probe.is_probe);

    watch.set(vec![endpoint(2, 1, "")]);
    drop(balancer.pick(None, balancer.deadline()).await.unwrap());
    let expected = [1.0, 1.0, 0.0, 0.0];
    assert_eq!(counted(&balancer.metrics), expected);

    probe.ended(Class::Success, now());
    refused.connect_failed("refused");
    for picked in late {
        picked.ended(Class::Failure, now());
    }
    let mut stale = stale;
    stale.first_data(now());
    stale.ended(Class::Success, now());
    assert_eq!(counted(&balancer.metrics), expected);
    assert_eq!(balancer.shared.ejected.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_an_endpoint_that_is_gone_does_not_end_failfast() {
    let (balancer, watch) = balancer(vec![endpoint(1, 1, "")], None);
    let mut last = balancer.pick(None, balancer.deadline()).await.unwrap();
    watch.set(Vec::new());
    let waited = balancer.pick(None, balancer.deadline()).await.unwrap_err();
    assert_eq!(waited, Unready::FailFast(Why::NoEndpoints));
    last.first_data(now());
    assert!(!balancer.is_available(now()), "nobody is there");
    last.ended(Class::Success, now());
}

#[tokio::test]
async fn of_two_endpoints_the_better_one_is_always_taken() {
    let both = vec![endpoint(1, 10_000, ""), endpoint(2, 10_000, "")];
    let (balancer, _) = balancer(both, None);
    let at = now();
    let slow = balancer.pool(at);
    let slow = slow.choose(at, Some(([10, 0, 0, 2], 80).into())).unwrap().0;
    slow.load.penalise(Duration::from_secs(1000), at);
    for _ in 0..10_000 {
        let picked = balancer.choose(at, None).unwrap();
        assert_eq!(host(&picked), 2);
    }
}
