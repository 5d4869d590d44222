//! A policy controller that sends what cannot be used: the last good policy stays in force, and the stream lives on.

use crate::{
    harness::{Mesh, eventually, get},
    origin,
};
use linkerd_policy::{DefaultPolicy, HttpPolicy, Protocol, proto};
use linkerd2_proxy_api::inbound::{
    PortSpec, Server,
    inbound_server_policies_server::{InboundServerPolicies, InboundServerPoliciesServer},
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
