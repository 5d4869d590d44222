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
use tokio::sync::watch;
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{TcpListenerStream, WatchStream},
};
use tonic::{Request, Response, Status};

/// Says the same about every port, whatever it is.
struct Says(watch::Receiver<Server>);

#[tonic::async_trait]
impl InboundServerPolicies for Says {
    type WatchPortStream = Pin<Box<dyn Stream<Item = Result<Server, Status>> + Send>>;

    async fn get_port(&self, _: Request<PortSpec>) -> Result<Response<Server>, Status> {
        Ok(Response::new(self.0.borrow().clone()))
    }

    async fn watch_port(
        &self,
        _: Request<PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        let stream = WatchStream::new(self.0.clone()).map(Ok);
        Ok(Response::new(Box::pin(stream)))
    }
}

fn policy(policy: DefaultPolicy) -> Server {
    let networks = ["0.0.0.0/0".parse().unwrap()];
    proto::server_to_api(&policy.server_policy(&networks, Protocol::Http1(HttpPolicy::default())))
}

#[tokio::test]
async fn an_update_that_cannot_be_used_is_refused_and_the_next_good_one_applies() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (say, says) = watch::channel(policy(DefaultPolicy::Deny));
    let service = InboundServerPoliciesServer::new(Says(says));
    let server = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let mut mesh = Mesh::without_proxy("");
    mesh.start_controller();
    mesh.spawn_proxy(&[("POLICY_SVC_ADDR", &address)]);
    mesh.ready().await;
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 403);

    // No protocol at all: a message of a newer API, or a broken controller.
    say.send_replace(Server {
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

    say.send_replace(policy(DefaultPolicy::AllUnauthenticated));
    eventually("the next good update", async || {
        let status = mesh.send_plain(5, get("/")).await.status();
        (status == 200).then_some(())
    })
    .await;
    server.abort();
}
