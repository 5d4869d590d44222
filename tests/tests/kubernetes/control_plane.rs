//! The real `linkerd-controller` on an API server, and clients of its services.

use crate::{free_port, server::ApiServer};
use linkerd_tests::{eventually, within};
use linkerd2_proxy_api::{
    identity::{CertifyRequest, CertifyResponse, identity_client::IdentityClient},
    inbound::{PortSpec, Server, inbound_server_policies_client::InboundServerPoliciesClient},
};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;
use tonic::{Status, Streaming, transport::Channel};

/// A control plane; ends with the test.
pub(crate) struct ControlPlane {
    process: Child,
    folder: TempDir,
    pub(crate) policy: SocketAddr,
    pub(crate) identity: SocketAddr,
    pub(crate) destination: SocketAddr,
    admin: SocketAddr,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl ControlPlane {
    pub(crate) async fn start(server: &ApiServer) -> Self {
        let plane = Self::spawn(server);
        // The services listen before they speak.
        within("the services", plane.watch("shop", "none", 80)).await;
        plane
    }

    /// Without waiting until it speaks.
    pub(crate) fn spawn(server: &ApiServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let [policy, identity, destination, admin] = std::array::from_fn(|_| address());
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(linkerd_tests::binary("linkerd-controller"))
            .arg("--kubernetes")
            .arg(format!("--policy-addr={policy}"))
            .arg(format!("--identity-addr={identity}"))
            .arg(format!("--destination-addr={destination}"))
            .arg(format!("--admin-addr={admin}"))
            .arg(format!(
                "--state-dir={}",
                folder.path().join("state").display()
            ))
            .env("KUBECONFIG", server.kubeconfig())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            process,
            folder,
            policy,
            identity,
            destination,
            admin,
        }
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The trust anchors of its CA, PEM.
    pub(crate) fn trust_anchors(&self) -> String {
        fs::read_to_string(self.folder.path().join("state/ca.crt")).unwrap()
    }

    async fn channel(&self, address: SocketAddr) -> Channel {
        eventually("the control plane", async || {
            let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
            endpoint.connect().await.ok()
        })
        .await
    }

    /// Watches the policy of a Pod's port.
    pub(crate) async fn watch(&self, namespace: &str, pod: &str, port: u16) -> Watched {
        let mut client = InboundServerPoliciesClient::new(self.channel(self.policy).await);
        let spec = PortSpec {
            workload: format!(r#"{{"ns":"{namespace}","pod":"{pod}"}}"#),
            port: port.into(),
        };
        let stream = match client.watch_port(spec).await {
            Ok(stream) => Some(stream.into_inner()),
            Err(_) => None,
        };
        Watched(stream)
    }

    pub(crate) async fn certify(&self, request: CertifyRequest) -> Result<CertifyResponse, Status> {
        let mut client = IdentityClient::new(self.channel(self.identity).await);
        client
            .certify(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// A page of the admin server.
    pub(crate) async fn page(&self, path: &str) -> Option<(u16, String)> {
        linkerd_tests::page(self.admin, path).await
    }
}

/// A stream of a port's policy.
pub(crate) struct Watched(Option<Streaming<Server>>);

impl Watched {
    /// The next version for which there is an answer.
    pub(crate) async fn until<T>(&mut self, what: &str, ask: impl Fn(&Server) -> Option<T>) -> T {
        within(what, async {
            loop {
                let stream = self.0.as_mut().expect("the Pod is known");
                let server = stream.message().await.unwrap().expect("the stream goes on");
                if let Some(answer) = ask(&server) {
                    return answer;
                }
            }
        })
        .await
    }
}
