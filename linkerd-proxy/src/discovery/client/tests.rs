//! A controller with several replicas, found by its name.

use super::*;
use crate::{
    config::Address,
    discovery::{
        dns::tests::NameServer,
        testing::{Answers, Controller, NAME, client_of, identity, page, registry, soon},
    },
};
use linkerd_metrics::Registry;
use linkerd2_proxy_api::inbound::{
    PortSpec, Server, inbound_server_policies_client::InboundServerPoliciesClient,
};
use tonic::Streaming;

const PORT: u16 = 8080;
const CONTROLLER: &str = "policy.linkerd";

/// A replica: what it is asked, and the server.
struct Replica {
    answers: Arc<Answers>,
    server: Option<Controller>,
    target: String,
}

impl Replica {
    fn start(number: usize) -> Self {
        let answers = Answers::new();
        Self {
            server: Some(Controller::start(&answers)),
            answers,
            target: format!("replica-{number}.{CONTROLLER}"),
        }
    }

    /// Streams that are open at it.
    fn open(&self) -> usize {
        self.answers.open(PORT)
    }
}

struct World {
    names: NameServer,
    replicas: Vec<Replica>,
    registry: Registry,
    client: ControlClient,
}

impl World {
    async fn start(replicas: usize) -> Self {
        let names = NameServer::start().await;
        let replicas: Vec<Replica> = (0..replicas).map(Replica::start).collect();
        let registry = registry();
        let identity = identity(&replicas[0].answers.ca, NAME);
        let addr = Address::Name(format!("{CONTROLLER}."), 8090);
        let client = client_of(addr, None, names.resolver(), &identity, &registry);
        let this = Self {
            names,
            replicas,
            registry,
            client,
        };
        this.name(|_| true);
        this
    }

    /// These replicas are where the name leads.
    fn name(&self, is_named: impl Fn(usize) -> bool) {
        self.names.say(|zone| {
            let mut services = Vec::new();
            for (number, replica) in self.replicas.iter().enumerate() {
                zone.addresses(&replica.target, &["127.0.0.1"]);
                if let Some(server) = replica.server.as_ref().filter(|_| is_named(number)) {
                    services.push((0, server.addr.port(), replica.target.as_str()));
                }
            }
            zone.services(CONTROLLER, &services);
        });
    }

    async fn watch(&self) -> Streaming<Server> {
        let client = self.client.connected().await;
        let origin = client.origin();
        let mut api = InboundServerPoliciesClient::with_origin(client, origin);
        let spec = PortSpec {
            workload: String::new(),
            port: PORT.into(),
        };
        soon(api.watch_port(spec)).await.unwrap().into_inner()
    }

    /// The value of a family of the client's balancer.
    fn metric(&self, name: &str, label: &str) -> f64 {
        let name = format!("control_policy_balancer_{name}{{");
        let page = page(&self.registry);
        let mut lines = page.lines().filter(|line| line.starts_with(&name));
        let line = lines
            .find(|line| line.contains(label))
            .unwrap_or_else(|| panic!("{name} {label}: {page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let waiting = async {
            let mut every = tokio::time::interval(Duration::from_millis(2));
            while !is_so(self) {
                every.tick().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        let open = self.open();
        assert!(waited.is_ok(), "{what}: {open:?}: {}", page(&self.registry));
    }

    async fn ready(&self, count: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a few")]
        let wanted = count as f64;
        self.until("replicas that are ready", |world| {
            (world.metric("endpoints", "\"ready\"") - wanted).abs() < f64::EPSILON
        })
        .await;
    }

    fn open(&self) -> Vec<usize> {
        self.replicas.iter().map(Replica::open).collect()
    }
}

#[tokio::test]
async fn streams_are_spread_over_all_addresses_of_the_name() {
    let world = World::start(3).await;
    let mut streams = vec![world.watch().await];
    world.ready(3).await;
    for _ in 0..29 {
        streams.push(world.watch().await);
    }
    let open = world.open();
    assert_eq!(open.iter().sum::<usize>(), 30);
    // Of two that are drawn the less busy one: none is far from its share.
    assert!(open.iter().all(|open| (6..=14).contains(open)), "{open:?}");
    for (name, label, wanted) in [
        ("endpoints", "endpoint_state=\"pending\"", 0.0),
        ("p2c_endpoints", "", 3.0),
        ("p2c_updates_total", "op=\"Add\"", 3.0),
        ("p2c_updates_total", "op=\"Reset\"", 1.0),
        ("p2c_updates_total", "op=\"Remove\"", 0.0),
        ("queue_length", "", 0.0),
        ("queue_requests_total", "", 30.0),
        ("queue_latency_seconds_count", "", 30.0),
        ("queue_gate_timeout_seconds", "", 30.0),
        (
            "queue_gate_shut_total",
            "addr=\"policy.linkerd.:8090\"",
            0.0,
        ),
    ] {
        let found = world.metric(name, label);
        assert!(
            (found - wanted).abs() < f64::EPSILON,
            "{name} {label}: {found}"
        );
    }
    let page = page(&world.registry);
    let resolutions =
        "control_dns_resolutions_total{client=\"policy\",record_type=\"SRV\",result=\"ok\"}";
    assert!(page.contains(resolutions), "{page}");
}

#[tokio::test]
async fn a_replica_that_refuses_is_left_aside_and_another_is_used_at_once() {
    let mut world = World::start(2).await;
    let first = world.watch().await;
    world.ready(2).await;
    // Gone without leaving DNS.
    let gone = world.replicas[0].server.take().unwrap();
    let addr = gone.addr;
    drop(gone);
    world.ready(1).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(world.watch().await);
    }
    assert_eq!(world.replicas[0].open(), 0);
    assert!(world.replicas[1].open() >= 10);
    assert!((world.metric("endpoints", "\"pending\"") - 1.0).abs() < f64::EPSILON);
    assert!((world.metric("p2c_endpoints", "") - 2.0).abs() < f64::EPSILON);
    // Back, it is one of them again, though nobody had to wait.
    let answers = world.replicas[0].answers.clone();
    world.replicas[0].server = Some(Controller::start_at(&answers, addr));
    world.ready(2).await;
    for _ in 0..10 {
        streams.push(world.watch().await);
    }
    assert!(world.replicas[0].open() >= 5, "{:?}", world.open());
    drop(first);
}

#[tokio::test]
async fn an_address_that_leaves_the_name_gets_nothing_new_and_one_that_comes_does() {
    let world = World::start(3).await;
    world.name(|number| number < 2);
    let mut streams = vec![world.watch().await];
    world.ready(2).await;
    while world.replicas[0].open() == 0 {
        streams.push(world.watch().await);
    }
    let before = world.replicas[0].open();
    world.name(|number| number > 0);
    world
        .until("the change", |world| {
            world.metric("p2c_updates_total", "\"Remove\"") > 0.5
        })
        .await;
    world.ready(2).await;
    for _ in 0..20 {
        streams.push(world.watch().await);
    }
    // What is under way there goes on.
    assert_eq!(world.replicas[0].open(), before);
    assert!(world.replicas[2].open() > 5, "{:?}", world.open());
    drop(streams);
    // With the last of it the connection ends, too: nothing is held that leads there.
    world
        .until("the end of what was open", |world| {
            world.open().iter().sum::<usize>() == 0
        })
        .await;
    // A name that leads nowhere for a while takes nothing away.
    world.name(|_| false);
    let _stream = world.watch().await;
    world
        .until("a look-up in vain", |world| {
            let vain = "control_client_failures_total{client=\"policy\",reason=\"dns\"}";
            page(&world.registry).contains(vain)
        })
        .await;
    let _another = world.watch().await;
    assert!((world.metric("p2c_endpoints", "") - 2.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_name_is_not_looked_up_while_nobody_calls() {
    let world = World::start(1).await;
    let asked = || world.names.zone.lock().unwrap().asked.len();
    assert_eq!(asked(), 0);
    let stream = world.watch().await;
    let first = asked();
    world
        .until("further look-ups", |_| asked() > first + 2)
        .await;
    drop(stream);
    // The one that is under way may still end.
    let quiet = async {
        let mut every = tokio::time::interval(Duration::from_millis(200));
        let mut before = 0;
        while std::mem::replace(&mut before, asked()) < asked() {
            every.tick().await;
        }
    };
    soon(quiet).await;
}
