//! A control plane that breaks while requests flow: messages that cannot be used, messages with nothing in them, streams
//! that end at once or with an error. What was said last and could be used stays in force, no request is lost, and what
//! was refused is counted.

use crate::{
    harness::{Mesh, eventually, get, within},
    outbound::{App, Client, app, counted, pod, status},
};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use linkerd_policy::{
    outbound::{
        Action, Backend, Dispatcher, Distribution, HttpPolicy, HttpRoute, HttpRule, Load,
        OutboundPolicy, Protocol, Queue, Ref, RouteBackend,
    },
    proto,
};
use linkerd2_proxy_api::{
    destination::{
        DestinationProfile, GetDestination, NoEndpoints, Update, WeightedAddr, WeightedAddrSet,
        destination_server::{Destination, DestinationServer},
        update,
    },
    outbound::{
        self as api, TrafficSpec,
        outbound_policies_server::{OutboundPolicies, OutboundPoliciesServer},
        proxy_protocol::Kind,
    },
};
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpStream, sync::watch, task::JoinHandle};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{TcpListenerStream, WatchStream},
};
use tonic::{Code, Request, Response, Status};

type Streamed<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// What streams say now; each that is open says it, and each that opens begins with it.
#[derive(Clone, Debug)]
pub(crate) enum Says<M> {
    Message(Box<M>),
    Error(Code),
    /// The stream ends well, without a word.
    End,
}

fn stream<M: Clone + Send + Sync + 'static>(says: &watch::Receiver<Says<M>>) -> Streamed<M> {
    let said = WatchStream::new(says.clone());
    Box::pin(said.map_while(|says| match says {
        Says::Message(message) => Some(Ok(*message)),
        Says::Error(code) => Some(Err(Status::new(code, "broken"))),
        Says::End => None,
    }))
}

/// The control plane's answers to every question about traffic that leaves.
#[derive(Clone)]
struct Broken {
    policies: watch::Receiver<Says<api::OutboundPolicy>>,
    endpoints: watch::Receiver<Says<Update>>,
    profiles: watch::Receiver<Says<DestinationProfile>>,
}

#[tonic::async_trait]
impl OutboundPolicies for Broken {
    type WatchStream = Streamed<api::OutboundPolicy>;

    async fn get(&self, _: Request<TrafficSpec>) -> Result<Response<api::OutboundPolicy>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn watch(&self, _: Request<TrafficSpec>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(stream(&self.policies)))
    }
}

#[tonic::async_trait]
impl Destination for Broken {
    type GetStream = Streamed<Update>;
    type GetProfileStream = Streamed<DestinationProfile>;

    async fn get(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        if request.get_ref().path == NOWHERE {
            let said = tokio_stream::once(Ok(no_endpoints())).chain(tokio_stream::pending());
            return Ok(Response::new(Box::pin(said)));
        }
        if request.get_ref().path == SILENT {
            return Ok(Response::new(Box::pin(tokio_stream::pending())));
        }
        Ok(Response::new(stream(&self.endpoints)))
    }

    async fn get_profile(
        &self,
        _: Request<GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        Ok(Response::new(stream(&self.profiles)))
    }
}

/// A sidecar, its control plane, and who says what there.
pub(crate) struct Sides {
    pub(crate) client: Client,
    pub(crate) policies: watch::Sender<Says<api::OutboundPolicy>>,
    pub(crate) profiles: watch::Sender<Says<DestinationProfile>>,
    pub(crate) endpoints: watch::Sender<Says<Update>>,
    control: JoinHandle<Result<(), tonic::transport::Error>>,
    _app: App,
}

impl Drop for Sides {
    fn drop(&mut self) {
        self.control.abort();
    }
}

/// A name of which the control plane says that it has no endpoints.
pub(crate) const NOWHERE: &str = "nowhere.shop.svc.cluster.local:80";

/// A name of which the control plane says nothing at all.
pub(crate) const SILENT: &str = "silent.shop.svc.cluster.local:80";

/// To the endpoints of `catalog`.
pub(crate) fn to_catalog(meta: &Ref) -> RouteBackend {
    to(meta, "catalog.shop.svc.cluster.local:80")
}

/// To the endpoints of a name.
pub(crate) fn to(meta: &Ref, path: &str) -> RouteBackend {
    let load = Load::default();
    let path = path.to_owned();
    RouteBackend {
        backend: Backend {
            meta: meta.clone(),
            dispatcher: Some(Dispatcher::Balance { path, load }),
            queue: Queue {
                capacity: 100,
                failfast_timeout: Duration::from_secs(3),
            },
        },
        filters: Vec::new(),
        refusal: None,
    }
}

fn policy(parent: &str) -> api::OutboundPolicy {
    let meta = Ref::default_named(parent);
    let action = Action {
        backends: Distribution::FirstAvailable(vec![to_catalog(&meta)]),
        ..Action::default()
    };
    let route = HttpRoute {
        meta: meta.clone(),
        hosts: Vec::new(),
        rules: vec![HttpRule {
            matches: Vec::new(),
            action,
        }],
    };
    let protocol = Protocol::Http1(HttpPolicy {
        routes: vec![route],
        failure_accrual: None,
    });
    proto::outbound_to_api(&OutboundPolicy {
        parent: meta,
        protocol,
    })
}

pub(crate) fn add(addresses: &[SocketAddr]) -> Update {
    let addrs = addresses.iter().map(|address| WeightedAddr {
        addr: Some(proto::tcp_address(*address)),
        weight: 10_000,
        ..WeightedAddr::default()
    });
    Update {
        update: Some(update::Update::Add(WeightedAddrSet {
            addrs: addrs.collect(),
            ..WeightedAddrSet::default()
        })),
    }
}

/// The name is known, and has no endpoints.
pub(crate) fn no_endpoints() -> Update {
    let none = update::Update::NoEndpoints(NoEndpoints { exists: true });
    Update { update: Some(none) }
}

pub(crate) fn message<M>(message: M) -> Says<M> {
    Says::Message(Box::new(message))
}

impl Sides {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more variables for the sidecar.
    pub(crate) async fn start_with(variables: &[(&str, &str)]) -> Self {
        let mut mesh = Mesh::without_proxy("");
        let address = SocketAddr::new(mesh.ip(1), 9000);
        let one = SocketAddr::new(mesh.ip(10), 8080);
        let app = app(one, |_| status(200)).await;
        let (policies, said) = watch::channel(message(policy("first")));
        let (endpoints, updates) = watch::channel(message(add(&[one])));
        let (profiles, profile) = watch::channel(Says::Error(Code::NotFound));
        let broken = Broken {
            policies: said,
            endpoints: updates,
            profiles: profile,
        };
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let control = tonic::transport::Server::builder()
            .add_service(OutboundPoliciesServer::new(broken.clone()))
            .add_service(DestinationServer::new(broken))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let control = tokio::spawn(control);
        mesh.start_controller();
        let address = address.to_string();
        let listeners = format!("{}:9000=catalog.shop.svc.cluster.local:80", mesh.ip(2));
        let own = [
            ("POLICY_SVC_ADDR", &*address),
            ("DESTINATION_SVC_ADDR", &*address),
            ("POLICY_WAIT_TIMEOUT", "10ms"),
            ("OUTBOUND_LISTENERS", &*listeners),
        ];
        mesh.spawn_proxy(&[&own, variables].concat());
        mesh.ready().await;
        Self {
            client: Client { mesh },
            policies,
            profiles,
            endpoints,
            control,
            _app: app,
        }
    }

    async fn refused(&self) -> f64 {
        let name = "outbound_discovery_updates_refused_total";
        self.client.mesh.metric(name, &[]).await
    }

    /// Waits until one more update was refused.
    async fn one_more(&self, before: f64, what: &str) {
        eventually(what, async || (self.refused().await > before).then_some(())).await;
    }
}

/// Requests, one after the other on each connection, until they are told to stop. Each is answered 200.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Traffic {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let task = |_| {
            let (stop, done) = (stop.clone(), done.clone());
            tokio::spawn(async move {
                let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
                let (mut send, connection) =
                    hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                while !stop.load(Ordering::Relaxed) {
                    send.ready().await.unwrap();
                    let response = send.send_request(get("/")).await.unwrap();
                    assert_eq!(response.status(), 200);
                    response.into_body().collect().await.unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let tasks = (0..3).map(task).collect();
        Self { stop, done, tasks }
    }

    /// Waits for as many more answers, so that whatever has just happened had its time to hurt.
    pub(crate) async fn more(&self, count: usize) {
        let wanted = self.done.load(Ordering::Relaxed) + count;
        eventually("more answers", async || {
            assert!(self.tasks.iter().all(|task| !task.is_finished()));
            (self.done.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    pub(crate) async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            within("the load's end", task).await.unwrap();
        }
    }
}

fn useless_policies() -> Vec<(&'static str, api::OutboundPolicy)> {
    let nothing = api::OutboundPolicy::default();
    let no_protocol = api::OutboundPolicy {
        protocol: None,
        ..policy("useless")
    };
    let no_parent = api::OutboundPolicy {
        metadata: None,
        ..policy("useless")
    };
    let mut no_backend = policy("useless");
    let mut no_name = policy("useless");
    let mut no_rule = policy("useless");
    let mut no_port = policy("useless");
    for (policy, spoil) in [
        (&mut no_backend, 0),
        (&mut no_name, 1),
        (&mut no_rule, 2),
        (&mut no_port, 3),
    ] {
        let kind = policy.protocol.as_mut().unwrap().kind.as_mut();
        let Some(Kind::Http1(http)) = kind else {
            unreachable!()
        };
        let route = http.routes.first_mut().unwrap();
        let rule = route.rules.first_mut().unwrap();
        match spoil {
            0 => of_first(rule).metadata = None,
            3 => {
                use api::backend::{EndpointDiscovery, Kind, endpoint_discovery};
                let Some(Kind::Balancer(balancer)) = of_first(rule).kind.as_mut() else {
                    unreachable!()
                };
                let path = "catalog.shop.svc.cluster.local".to_owned();
                let get = endpoint_discovery::DestinationGet { path };
                let kind = Some(endpoint_discovery::Kind::Dst(get));
                balancer.discovery = Some(EndpointDiscovery { kind });
            }
            1 => route.metadata = None,
            _ => rule.backends = None,
        }
    }
    vec![
        ("nothing", nothing),
        ("no protocol", no_protocol),
        ("no name", no_parent),
        ("a backend without a name", no_backend),
        ("a route without a name", no_name),
        ("a rule without backends", no_rule),
        ("a name without a port", no_port),
    ]
}

/// The first backend of a rule.
fn of_first(rule: &mut api::http_route::Rule) -> &mut api::Backend {
    use api::http_route::distribution::Kind;
    let distribution = rule.backends.as_mut().unwrap();
    let Some(Kind::FirstAvailable(first)) = distribution.kind.as_mut() else {
        unreachable!()
    };
    let backend = first.backends.first_mut().unwrap();
    backend.backend.as_mut().unwrap()
}

#[tokio::test]
async fn policies_that_cannot_be_used_cost_no_request_and_the_next_good_one_applies() {
    let sides = Sides::start().await;
    let traffic = Traffic::start(sides.client.listener(9000));
    traffic.more(50).await;
    for (what, useless) in useless_policies() {
        let before = sides.refused().await;
        sides.policies.send_replace(message(useless));
        sides.one_more(before, what).await;
        traffic.more(20).await;
    }
    let statuses = "outbound_http_route_request_statuses_total";
    let useless = [r#"parent_name="useless""#];
    assert!(sides.client.mesh.metric(statuses, &useless).await < 0.5);

    for broken in [
        Says::Error(Code::Unavailable),
        Says::Error(Code::Internal),
        Says::Error(Code::InvalidArgument),
        Says::End,
    ] {
        sides.policies.send_replace(broken);
        traffic.more(100).await;
    }
    sides.policies.send_replace(message(policy("second")));
    eventually("the good policy", async || {
        let second = [r#"parent_name="second""#, r#"http_status="200""#];
        (sides.client.mesh.metric(statuses, &second).await > 0.0).then_some(())
    })
    .await;
    traffic.finish().await;
    let errors = "outbound_http_errors_total";
    assert!(sides.client.mesh.metric(errors, &[]).await < 0.5);
}

#[tokio::test]
async fn endpoints_that_cannot_be_used_cost_no_request_and_the_next_good_ones_are_used() {
    let sides = Sides::start().await;
    let traffic = Traffic::start(sides.client.listener(9000));
    traffic.more(50).await;
    let spoiled = |spoil: fn(&mut WeightedAddr)| {
        // Beside one that is good: an update is taken as a whole or not at all.
        let mut set = add(&[sides.client.at(20), sides.client.at(21)]);
        let Some(update::Update::Add(added)) = set.update.as_mut() else {
            unreachable!()
        };
        spoil(added.addrs.last_mut().unwrap());
        set
    };
    for (what, useless) in [
        ("nothing", Update::default()),
        ("no address", spoiled(|addr| addr.addr = None)),
        (
            "a port beyond all ports",
            spoiled(|addr| addr.addr.as_mut().unwrap().port = 70_000),
        ),
        (
            "no IP address",
            spoiled(|addr| addr.addr.as_mut().unwrap().ip = None),
        ),
    ] {
        let before = sides.refused().await;
        sides.endpoints.send_replace(message(useless));
        sides.one_more(before, what).await;
        traffic.more(20).await;
    }
    // A set of none adds none.
    sides.endpoints.send_replace(message(add(&[])));
    traffic.more(50).await;
    for broken in [
        Says::Error(Code::Unavailable),
        Says::Error(Code::Internal),
        Says::End,
    ] {
        sides.endpoints.send_replace(broken);
        traffic.more(100).await;
    }

    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let two = sides.client.at(11);
    let _two = app(two, move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        status(200)
    })
    .await;
    sides.endpoints.send_replace(message(add(&[two])));
    eventually("the new endpoint", async || {
        (calls.load(Ordering::Relaxed) > 10).then_some(())
    })
    .await;
    traffic.finish().await;
}

#[tokio::test]
async fn a_control_plane_that_goes_and_comes_back_costs_no_request() {
    let mut client = Client::start("", 1, "", &[]).await;
    let _one = app(client.at(10), |_| status(200)).await;
    let (_two, calls) = counted(client.at(11), 200).await;
    let traffic = Traffic::start(client.listener(9000));
    traffic.more(50).await;
    for round in 0..3 {
        client.mesh.stop_controller();
        traffic.more(100).await;
        // What changed while it was away is found when it is back.
        let extra = pod(&format!("extra-{round}"), "catalog", client.mesh.ip(11));
        let text = if round % 2 == 0 { extra } else { String::new() };
        client.mesh.write("extra.yaml", &text);
        client.mesh.start_controller();
        let endpoints = if round % 2 == 0 { 2.0 } else { 1.0 };
        eventually("the change", async || {
            let name = "outbound_http_balancer_p2c_endpoints";
            let now = client
                .mesh
                .metric(name, &[r#"backend_name="catalog""#])
                .await;
            ((now - endpoints).abs() < 0.5).then_some(())
        })
        .await;
        traffic.more(50).await;
    }
    traffic.finish().await;
    assert!(calls.load(Ordering::Relaxed) > 10);
}
