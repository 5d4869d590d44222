//! A policy controller that sends what cannot be used: the last good policy stays in force, and the stream lives on.

use crate::{
    harness::{Mesh, eventually, get, identity},
    origin,
};
use linkerd_policy::{DefaultPolicy, HttpPolicy, Protocol, proto};
use linkerd2_proxy_api::inbound::{
    Authn, Authz, Identity, PortSpec, ProxyProtocol, Server,
    authn::{
        Permit, PermitMeshTls,
        permit_mesh_tls::{Clients, PermitClientIdentities},
    },
    inbound_server_policies_server::{InboundServerPolicies, InboundServerPoliciesServer},
    proxy_protocol::{Detect, Kind},
};
use std::pin::Pin;
use tokio::{sync::watch, task::JoinHandle};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{TcpListenerStream, WatchStream},
};
use tonic::{Request, Response, Status};

/// A policy controller that says what a test writes down about every port but the admin server's, which is open.
pub(crate) struct Controller {
    say: watch::Sender<Server>,
    address: String,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

struct Says(watch::Receiver<Server>);

#[tonic::async_trait]
impl InboundServerPolicies for Says {
    type WatchPortStream = Pin<Box<dyn Stream<Item = Result<Server, Status>> + Send>>;

    async fn get_port(&self, _: Request<PortSpec>) -> Result<Response<Server>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn watch_port(
        &self,
        asked: Request<PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        let is_admin = asked.get_ref().port == 4191;
        let said = WatchStream::new(self.0.clone());
        let said = said.map(move |server| {
            Ok(if is_admin {
                policy(DefaultPolicy::AllUnauthenticated)
            } else {
                server
            })
        });
        Ok(Response::new(Box::pin(said)))
    }
}

impl Controller {
    pub(crate) async fn start(first: Server) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (say, says) = watch::channel(first);
        let server = tonic::transport::Server::builder()
            .add_service(InboundServerPoliciesServer::new(Says(says)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        Self {
            say,
            address,
            task: tokio::spawn(server),
        }
    }

    pub(crate) fn say(&self, server: Server) {
        self.say.send_replace(server);
    }

    /// A mesh whose sidecar listens to this controller.
    pub(crate) async fn mesh(&self, variables: &[(&str, &str)]) -> Mesh {
        let mut mesh = Mesh::without_proxy("");
        mesh.start_controller();
        mesh.spawn_proxy(&[&[("POLICY_SVC_ADDR", &*self.address)], variables].concat());
        mesh.ready().await;
        mesh
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn policy(policy: DefaultPolicy) -> Server {
    let networks = ["0.0.0.0/0".parse().unwrap()];
    proto::server_to_api(&policy.server_policy(&networks, Protocol::Http1(HttpPolicy::default())))
}

#[tokio::test]
async fn an_update_that_cannot_be_used_is_refused_and_the_next_good_one_applies() {
    let controller = Controller::start(policy(DefaultPolicy::Deny)).await;
    let mesh = controller.mesh(&[]).await;
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 403);

    // No protocol at all: a message of a newer API, or a broken controller.
    controller.say(Server {
        protocol: None,
        ..policy(DefaultPolicy::AllUnauthenticated)
    });
    let port = r#"port="8080""#;
    eventually("a refused update", async || {
        let refused = mesh
            .metric("inbound_policy_updates_refused_total", &[port])
            .await;
        (refused > 0.0).then_some(())
    })
    .await;
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 403);

    controller.say(policy(DefaultPolicy::AllUnauthenticated));
    eventually("the next good update", async || {
        let status = mesh.send_plain(5, get("/")).await.status();
        (status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_cannot_be_used_is_none_that_readiness_waits_for() {
    let unusable = Server {
        protocol: None,
        ..open()
    };
    let controller = Controller::start(unusable).await;
    let mut mesh = Mesh::without_proxy("");
    mesh.start_controller();
    mesh.spawn_proxy(&[
        ("POLICY_SVC_ADDR", &controller.address),
        ("READY_REQUIRES_POLICY", "true"),
    ]);
    eventually("a refused policy and a certificate", async || {
        mesh.get_admin("/live").await?;
        let refused = [r#"port="8080""#];
        let name = "inbound_policy_updates_refused_total";
        let refused = mesh.metric(name, &refused).await;
        let name = "control_identity_cert_refreshes_total";
        let certified = mesh.metric(name, &[r#"result="ok""#]).await;
        (refused > 0.0 && certified > 0.0).then_some(())
    })
    .await;
    assert_eq!(mesh.get_admin("/ready").await.unwrap().0, 503);
    let waiting = mesh.metric("inbound_policy_ports_waiting", &[]).await;
    assert!((waiting - 1.0).abs() < f64::EPSILON, "{waiting}");
    controller.say(open());
    mesh.ready().await;
}

fn open() -> Server {
    policy(DefaultPolicy::AllUnauthenticated)
}

fn detecting(timeout: Option<(i64, i32)>) -> Server {
    let mut detect = Detect::default();
    if let Some((seconds, nanos)) = timeout {
        let timeout = detect.timeout.get_or_insert_default();
        (timeout.seconds, timeout.nanos) = (seconds, nanos);
    }
    let kind = Some(Kind::Detect(detect));
    Server {
        protocol: Some(ProxyProtocol { kind }),
        ..open()
    }
}

/// With a second authorization, which is changed.
fn authorized(change: fn(&mut Authz)) -> Server {
    let mut server = open();
    let mut second = server.authorizations.first().cloned().unwrap();
    change(&mut second);
    server.authorizations.push(second);
    server
}

/// Messages that nobody may act on, with the field that is named. Each would open the port if it were taken in part.
fn unusable() -> Vec<(&'static str, Server)> {
    let protocol = |protocol| Server { protocol, ..open() };
    let labels = Default::default();
    let (net, permit) = (
        "authorizations[1].networks[0].net",
        "authorizations[1].authentication",
    );
    vec![
        ("protocol", protocol(None)),
        ("protocol", protocol(Some(ProxyProtocol { kind: None }))),
        ("labels", Server { labels, ..open() }),
        ("protocol.detect.timeout", detecting(None)),
        ("protocol.detect.timeout", detecting(Some((0, 0)))),
        ("protocol.detect.timeout", detecting(Some((-1, i32::MIN)))),
        (
            "authorizations[1].networks",
            authorized(|authz| authz.networks.clear()),
        ),
        (
            net,
            authorized(|authz| {
                authz
                    .networks
                    .iter_mut()
                    .for_each(|network| network.net = None)
            }),
        ),
        (
            net,
            authorized(|authz| {
                let nets = authz
                    .networks
                    .iter_mut()
                    .filter_map(|network| network.net.as_mut());
                nets.for_each(|net| net.prefix_len = 129);
            }),
        ),
        (permit, authorized(|authz| authz.authentication = None)),
        (
            permit,
            authorized(|authz| authz.authentication = Some(Authn { permit: None })),
        ),
        (
            permit,
            authorized(|authz| {
                let tls = PermitMeshTls { clients: None };
                let permit = Some(Permit::MeshTls(tls));
                authz.authentication = Some(Authn { permit });
            }),
        ),
    ]
}

#[tokio::test]
async fn messages_that_cannot_be_used_name_their_field_and_change_nothing() {
    let controller = Controller::start(policy(DefaultPolicy::Deny)).await;
    let mesh = controller.mesh(&[]).await;
    let _origin = origin::echo(mesh.origin()).await;
    let refused = async || {
        let port = [r#"port="8080""#];
        mesh.metric("inbound_policy_updates_refused_total", &port)
            .await
    };
    for (field, message) in unusable() {
        let before = refused().await;
        controller.say(message);
        eventually(field, async || (refused().await > before).then_some(())).await;
        let (_, page) = mesh.get_admin("/policy").await.unwrap();
        assert!(page.contains(&format!(": {field}")), "{field}: {page}");
        assert_eq!(mesh.send_plain(5, get("/")).await.status(), 403, "{field}");
    }
    // The stream that said all of it is the one that is listened to.
    controller.say(policy(DefaultPolicy::AllUnauthenticated));
    eventually("the next good update", async || {
        let status = mesh.send_plain(5, get("/")).await.status();
        (status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_hundred_thousand_authorizations_apply_while_requests_go_on() {
    let open = policy(DefaultPolicy::AllUnauthenticated);
    let mut many = open.clone();
    let one = many.authorizations.pop().unwrap();
    many.authorizations = (0..100_000)
        .map(|n| {
            let clients = PermitClientIdentities {
                identities: vec![Identity {
                    name: identity(&format!("client-{n}")),
                }],
                suffixes: Vec::new(),
            };
            let permit = Permit::MeshTls(PermitMeshTls {
                clients: Some(Clients::Identities(clients)),
            });
            Authz {
                authentication: Some(Authn {
                    permit: Some(permit),
                }),
                ..one.clone()
            }
        })
        .collect();
    let controller = Controller::start(open).await;
    let mesh = controller.mesh(&[]).await;
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 200);
    controller.say(many);
    // Until it applies, each request is answered by the version before.
    eventually("the large policy", async || {
        let status = mesh.send_plain(5, get("/")).await.status();
        assert!(status == 200 || status == 403, "{status}");
        (status == 403).then_some(())
    })
    .await;
    for (client, status) in [
        ("client-99999", 200),
        ("client-0", 200),
        ("client-100000", 403),
    ] {
        let response = mesh.send(&mesh.client(client), get("/")).await;
        assert_eq!(response.status(), status, "{client}");
    }
}
