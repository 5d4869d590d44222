use super::*;
use crate::discovery::testing::{
    Answers, CONTROLLER, Clock, Controller, NAME, Nobody, Say, Seen, certify, client, identity,
    identity_at, limited, page, registry, server, soon, tls_front,
};
use linkerd_policy::{Peer, PeerId, PeerTls};
use std::{net::SocketAddr, time::Instant};
use tonic::Code;

const PORT: u16 = 8080;
/// Long: what a test waits for comes before, or the test fails.
const WAIT: Duration = Duration::from_secs(20);

struct World {
    answers: Arc<Answers>,
    registry: Registry,
    store: PolicyStore,
}

fn settings(listed: &[u16]) -> Settings {
    Settings {
        workload: "shop:web".into(),
        listed: listed.iter().copied().collect(),
        opaque: PortSet::default(),
        default: DefaultPolicy::AllUnauthenticated,
        cluster_networks: Vec::new(),
        fail_closed: false,
        detect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(90),
        max_ports: 16,
        limits: StreamLimits::default(),
    }
}

fn world(answers: &Arc<Answers>, addr: SocketAddr, settings: Settings) -> World {
    let registry = registry();
    let client = client(addr, None, &identity(&answers.ca, NAME), &registry);
    World {
        answers: answers.clone(),
        store: PolicyStore::new(settings, client, &registry, runtime::Handle::current()),
        registry,
    }
}

/// Whether a connection without TLS is let in.
fn admits_strangers(port: &PortPolicy) -> bool {
    admits(port, PeerTls::None)
}

fn admits_identity(port: &PortPolicy, name: &str) -> bool {
    let identity = Some(PeerId::Dns(name));
    admits(port, PeerTls::Terminated { identity })
}

fn admits(port: &PortPolicy, tls: PeerTls<'_>) -> bool {
    let addr = "192.0.2.7".parse().unwrap();
    port.current()
        .policy
        .connection(&Peer { addr, tls })
        .is_ok()
}

async fn until(port: &PortPolicy, wanted: impl Fn(&Snapshot) -> bool) {
    let mut changed = port.changed();
    soon(async {
        while !wanted(&port.current()) {
            changed.changed().await.unwrap();
        }
    })
    .await;
}

impl World {
    /// Gives a port a policy and waits until it is in force.
    async fn give(&self, port: &PortPolicy, name: &str, identities: &[&str]) {
        self.answers
            .say(port.number(), Say::policy(&server(name, identities)));
        until(port, |snapshot| {
            snapshot.policy.server().meta.name() == name
        })
        .await;
    }

    fn has_metric(&self, line: &str) -> bool {
        page(&self.registry).lines().any(|l| l == line)
    }
}

#[tokio::test]
async fn listed_ports_are_watched_from_the_start_and_for_this_workload() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let world = world(&answers, controller.addr, settings(&[PORT, 4191]));
    answers.streams(PORT, |opened, _| opened == 1).await;
    answers.streams(4191, |opened, _| opened == 1).await;
    assert_eq!(world.store.waiting(), 2);
    answers.say(PORT, Say::policy(&server("web", &["a.b"])));
    assert!(world.store.port(PORT).ready(WAIT).await);
    assert_eq!(world.store.waiting(), 1);
    assert_eq!(*answers.workloads.lock().unwrap(), ["shop:web", "shop:web"]);
    let port = world.store.port(PORT);
    assert_eq!(port.current().source, Source::Controller);
    assert!(admits_identity(&port, "a.b") && !admits_strangers(&port));
    assert!(
        world.has_metric("inbound_policy_version{port=\"8080\"} 2"),
        "{}",
        page(&world.registry)
    );
    let info = "inbound_policy_info{port=\"8080\",source=\"controller\",srv_group=\"policy.linkerd.io\",srv_kind=\"server\",srv_name=\"web\",srv_port=\"8080\",protocol=\"detect\"} 1";
    assert!(world.has_metric(info), "{}", page(&world.registry));
}

#[tokio::test]
async fn the_first_connection_to_an_unlisted_port_waits_for_its_policy() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let world = world(&answers, controller.addr, settings(&[]));
    let port = world.store.port(PORT);
    let waiting = tokio::spawn({
        let port = port.clone();
        async move { port.ready(WAIT).await }
    });
    answers.streams(PORT, |opened, _| opened == 1).await;
    assert!(
        !waiting.is_finished(),
        "the permissive default was used before the controller answered"
    );
    answers.say(PORT, Say::policy(&server("web", &["a.b"])));
    assert!(soon(waiting).await.unwrap());
    assert!(!admits_strangers(&port));
}

#[tokio::test]
async fn without_a_controller_the_default_applies_after_one_bounded_wait() {
    let answers = Answers::new();
    let nobody = Nobody::new();
    let world = world(&answers, nobody.0, settings(&[PORT]));
    let port = world.store.port(PORT);
    assert!(!soon(port.ready(Duration::from_millis(50))).await);
    let started = Instant::now();
    assert!(
        !port.ready(Duration::from_millis(50)).await,
        "later connections do not wait again"
    );
    assert!(started.elapsed() < WAIT);
    assert_eq!(port.current().source, Source::Default);
    assert!(admits_strangers(&port));
    assert!(world.has_metric("inbound_policy_ports_waiting 1"));
    let info = "inbound_policy_info{port=\"8080\",source=\"default\"";
    assert!(page(&world.registry).contains(info));
}

#[tokio::test]
async fn fail_closed_denies_until_the_controller_has_answered() {
    let answers = Answers::new();
    let nobody = Nobody::new();
    let closed = Settings {
        fail_closed: true,
        ..settings(&[PORT])
    };
    let world = world(&answers, nobody.0, closed);
    assert!(!admits_strangers(&world.store.port(PORT)));
}

#[tokio::test]
async fn ports_of_opaque_protocols_are_opaque_by_default() {
    let answers = Answers::new();
    let nobody = Nobody::new();
    let opaque = Settings {
        opaque: [3306].into_iter().collect(),
        ..settings(&[])
    };
    let world = world(&answers, nobody.0, opaque);
    let port = world.store.port(3306);
    assert_eq!(port.current().policy.server().protocol, Protocol::Opaque);
    assert!(admits_strangers(&port));
}

#[tokio::test]
async fn an_update_that_cannot_be_used_is_refused_and_the_stream_lives_on() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let world = world(&answers, controller.addr, settings(&[PORT]));
    let port = world.store.port(PORT);
    world.give(&port, "web", &["a.b"]).await;
    let refused = || {
        page(&world.registry)
            .contains("inbound_policy_updates_refused_total{port=\"8080\",reason=\"invalid\"}")
    };
    assert!(!refused());
    // Nothing in it; then a good one again on the same stream.
    answers.say(PORT, Say::Policy(Box::default()));
    soon(async {
        while port.refused().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let why = port.refused().unwrap().why;
    assert!(why.starts_with("labels: "), "{why}");
    assert!(refused());
    assert_eq!(
        port.current().policy.server().meta.name(),
        "web",
        "the last good version stays"
    );
    world.give(&port, "web-2", &["c.d"]).await;
    assert!(port.refused().is_none());
    answers
        .streams(PORT, |opened, open| (opened, open) == (1, 1))
        .await;
}

#[tokio::test]
async fn nothing_is_allowed_where_the_only_policy_cannot_be_used() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    answers.say(PORT, Say::Policy(Box::default()));
    let world = world(&answers, controller.addr, settings(&[]));
    let port = world.store.port(PORT);
    assert!(port.ready(WAIT).await);
    assert_eq!(port.current().source, Source::Invalid);
    assert_eq!(
        port.current().policy.server().meta,
        Meta::default_named("invalid")
    );
    assert!(!admits_strangers(&port));
    world.give(&port, "web", &["a.b"]).await;
    assert!(admits_identity(&port, "a.b"));
}

#[tokio::test]
async fn the_same_policy_again_is_no_new_version_and_rate_limits_keep_their_levels() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let world = world(&answers, controller.addr, settings(&[PORT]));
    let port = world.store.port(PORT);
    answers.say(PORT, Say::policy(&limited(server("web", &["a.b"]), 1)));
    assert!(port.ready(WAIT).await);
    let version = port.current().version;
    let now = Instant::now();
    let check = |at| {
        port.current()
            .limiter
            .as_ref()
            .unwrap()
            .check(None, at)
            .is_ok()
    };
    assert!(check(now) && !check(now), "one request a second");
    answers.say(PORT, Say::policy(&limited(server("web", &["a.b"]), 1)));
    answers.say(
        PORT,
        Say::policy(&limited(server("web", &["a.b", "c.d"]), 1)),
    );
    until(&port, |snapshot| snapshot.version > version).await;
    assert_eq!(port.current().version, version + 1);
    assert!(!check(now), "an update does not fill the buckets");
}

#[tokio::test]
async fn errors_of_any_code_are_retried_until_the_controller_has_a_policy() {
    for code in [
        Code::InvalidArgument,
        Code::FailedPrecondition,
        Code::NotFound,
        Code::Unimplemented,
        Code::ResourceExhausted,
    ] {
        let answers = Answers::new();
        let controller = Controller::start(&answers);
        answers.say(PORT, Say::Error(code));
        let world = world(&answers, controller.addr, settings(&[PORT]));
        answers.streams(PORT, |opened, _| opened >= 3).await;
        let port = world.store.port(PORT);
        world.give(&port, "web", &["a.b"]).await;
        // An established stream that breaks changes nothing either.
        answers.say(PORT, Say::Error(code));
        answers.streams(PORT, |_, open| open == 0).await;
        assert!(
            admits_identity(&port, "a.b") && !admits_strangers(&port),
            "{code:?}"
        );
        world.give(&port, "web-2", &["c.d"]).await;
    }
}

#[tokio::test]
async fn the_last_good_policy_outlives_the_controller_and_is_replaced_when_it_is_back() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let addr = controller.addr;
    let quick = Settings {
        idle_timeout: Duration::from_millis(40),
        ..settings(&[PORT])
    };
    let world = world(&answers, addr, quick);
    let (listed, other) = (world.store.port(PORT), world.store.port(9090));
    world.give(&listed, "web", &["a.b"]).await;
    world.give(&other, "admin", &["a.b"]).await;
    drop(controller);
    soon(async {
        while !world.has_metric("control_client_connected{client=\"policy\"} 0") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Unused, but not forgotten: after this the default would apply again.
    drop(other);
    tokio::time::timeout(Duration::from_millis(200), std::future::pending::<()>())
        .await
        .unwrap_err();
    for port in [PORT, 9090] {
        let port = world.store.port(port);
        assert_eq!(port.current().source, Source::Controller);
        assert!(admits_identity(&port, "a.b") && !admits_strangers(&port));
    }
    answers.say(PORT, Say::policy(&server("web-2", &["c.d"])));
    let _controller = Controller::start_at(&answers, addr);
    until(&listed, |snapshot| {
        snapshot.policy.server().meta.name() == "web-2"
    })
    .await;
}

#[tokio::test]
async fn an_unlisted_port_is_watched_while_used_and_then_forgotten() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let quick = Settings {
        idle_timeout: Duration::from_millis(50),
        ..settings(&[4191])
    };
    let world = world(&answers, controller.addr, quick);
    let port = world.store.port(PORT);
    world.give(&port, "web", &["a.b"]).await;
    assert!(
        Arc::ptr_eq(&port, &world.store.port(PORT)),
        "one watch a port"
    );
    drop(port);
    answers
        .streams(PORT, |opened, open| (opened, open) == (1, 0))
        .await;
    assert_eq!(world.store.ports().len(), 1, "the listed one stays");
    let again = world.store.port(PORT);
    assert!(again.ready(WAIT).await);
    assert!(admits_identity(&again, "a.b"));
}

#[tokio::test]
async fn watched_ports_are_bounded_and_nobody_gets_past_the_bound() {
    let answers = Answers::new();
    let nobody = Nobody::new();
    let few = Settings {
        max_ports: 2,
        ..settings(&[4191])
    };
    let world = world(&answers, nobody.0, few);
    let (first, second) = (world.store.port(1001), world.store.port(1002));
    let third = world.store.port(1003);
    assert!(
        !admits_strangers(&third),
        "denied, though the default would allow"
    );
    assert_eq!(world.store.ports().len(), 3);
    drop(second);
    let third = world.store.port(1003);
    assert!(admits_strangers(&third), "an unused port gives way");
    assert!(
        Arc::ptr_eq(&first, &world.store.port(1001)),
        "a used one does not"
    );
    for port in 2000..3000 {
        world.store.port(port);
    }
    assert_eq!(world.store.ports().len(), 3);
}

#[tokio::test]
async fn a_silent_controller_is_asked_again() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let limits = StreamLimits {
        initial: Some(Duration::from_millis(20)),
        idle: Some(Duration::from_millis(40)),
        lifetime: None,
    };
    let world = world(
        &answers,
        controller.addr,
        Settings {
            limits,
            ..settings(&[PORT])
        },
    );
    answers.streams(PORT, |opened, _| opened >= 2).await;
    let port = world.store.port(PORT);
    world.give(&port, "web", &["a.b"]).await;
    // Silence after a message has its limit too; the policy is the same one meanwhile.
    let opened = std::cell::Cell::new(0);
    answers
        .streams(PORT, |now, _| {
            opened.set(now);
            true
        })
        .await;
    answers.streams(PORT, |now, _| now > opened.get() + 1).await;
    assert_eq!(port.current().policy.server().meta.name(), "web");
}

const HOUR: Duration = Duration::from_secs(3600);

/// A controller behind mesh TLS: its address, and the clients it has seen.
async fn remote(answers: &Arc<Answers>, controller: &Controller) -> (SocketAddr, Seen) {
    answers.say(PORT, Say::policy(&server("web", &["a.b"])));
    let theirs = identity(&answers.ca, CONTROLLER);
    certify(&theirs, &answers.ca, 10 * HOUR);
    tls_front(theirs, controller.addr).await
}

#[tokio::test]
async fn a_remote_controller_gets_our_certificate_as_soon_as_there_is_one_and_never_an_expired_one()
{
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let (front, seen) = remote(&answers, &controller).await;
    for (is_certified, hours_later, shown) in
        [(false, 0, None), (true, 0, Some(NAME)), (true, 2, None)]
    {
        let (registry, clock) = (registry(), Arc::new(Clock::default()));
        let local = identity_at(&answers.ca, NAME, clock.clone());
        if is_certified {
            certify(&local, &answers.ca, HOUR);
        }
        clock
            .0
            .store(hours_later * 3600, std::sync::atomic::Ordering::SeqCst);
        let client = client(front, Some(CONTROLLER), &local, &registry);
        let store = PolicyStore::new(
            settings(&[PORT]),
            client,
            &registry,
            runtime::Handle::current(),
        );
        assert!(store.port(PORT).ready(WAIT).await);
        let client = seen.lock().unwrap().pop().unwrap();
        assert_eq!(client.as_ref().map(|id| id.as_str()), shown);
        let requests = format!(
            "control_request_total{{addr=\"{front}\",tls=\"true\",server_id=\"{CONTROLLER}\"}} 1"
        );
        assert!(
            page(&registry).lines().any(|line| line == requests),
            "{}",
            page(&registry)
        );
    }
}

#[tokio::test]
async fn a_remote_controller_must_be_who_it_is_expected_to_be() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let (front, seen) = remote(&answers, &controller).await;
    let (registry, local) = (registry(), identity(&answers.ca, NAME));
    let client = client(
        front,
        Some("somebody.else.cluster.local"),
        &local,
        &registry,
    );
    let store = PolicyStore::new(
        settings(&[PORT]),
        client,
        &registry,
        runtime::Handle::current(),
    );
    soon(async {
        while !page(&registry)
            .contains("control_client_failures_total{client=\"policy\",reason=\"tls\"}")
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(store.port(PORT).current().source, Source::Default);
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_the_last_good_version_stays() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    let world = world(&answers, controller.addr, settings(&[PORT]));
    let port = world.store.port(PORT);
    world.give(&port, "web", &["a.b"]).await;
    let Say::Policy(mut huge) = Say::policy(&server("huge", &["a.b"])) else {
        unreachable!()
    };
    huge.labels
        .insert("bloat".into(), "x".repeat(33 * 1024 * 1024));
    answers.say(PORT, Say::Policy(huge));
    answers.streams(PORT, |opened, _| opened >= 2).await;
    assert_eq!(port.current().policy.server().meta.name(), "web");
    let refused = "inbound_policy_updates_refused_total{port=\"8080\",reason=\"too_large\"}";
    assert!(page(&world.registry).contains(refused));
    world.give(&port, "web-2", &["a.b"]).await;
}

/// A fixed sequence of numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[tokio::test]
async fn no_chaos_of_the_controller_opens_a_port_or_leaves_it_stuck() {
    for seed in 0..12 {
        let (answers, mut dice) = (Answers::new(), Dice(seed));
        let mut controller = Some(Controller::start(&answers));
        let addr = controller.as_ref().unwrap().addr;
        let world = world(&answers, addr, settings(&[PORT]));
        let port = world.store.port(PORT);
        world.give(&port, "web", &["a.b"]).await;
        for _ in 0..12 {
            match dice.roll(6) {
                0 => drop(controller.take()),
                1 if controller.is_none() => {
                    controller = Some(Controller::start_at(&answers, addr))
                }
                2 => answers.say(PORT, Say::Policy(Box::default())),
                3 => answers.say(PORT, Say::Error(Code::InvalidArgument)),
                4 => answers.say(PORT, Say::Nothing),
                _ => answers.say(PORT, Say::policy(&server("web", &["a.b", "c.d"]))),
            }
            for _ in 0..dice.roll(200) {
                tokio::task::yield_now().await;
                assert!(!admits_strangers(&port), "seed {seed}: open");
                assert!(
                    admits_identity(&port, "a.b"),
                    "seed {seed}: the last good version is gone"
                );
            }
        }
        let _controller = controller.unwrap_or_else(|| Controller::start_at(&answers, addr));
        world.give(&port, "healed", &["a.b"]).await;
    }
}
