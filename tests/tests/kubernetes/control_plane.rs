//! The real `linkerd-controller` on an API server, and clients of its services.

use crate::{free_port, server::ApiServer};
use base64::Engine as _;
use linkerd_tests::{eventually, within};
use linkerd2_proxy_api::{
    identity::{CertifyRequest, CertifyResponse, identity_client::IdentityClient},
    inbound::{PortSpec, Server, inbound_server_policies_client::InboundServerPoliciesClient},
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;
use tonic::{Status, Streaming, transport::Channel};

/// A Service of the control plane that leads to this host, as a cluster's network would lead to Pods.
pub(crate) fn on_this_host(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "linkerd"},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    })
}

/// A control plane; ends with the test.
pub(crate) struct ControlPlane {
    process: Child,
    folder: TempDir,
    pub(crate) policy: SocketAddr,
    pub(crate) identity: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) webhook: SocketAddr,
    /// The certificate of the webhook, which signed itself, PEM.
    certificate: String,
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
        Self::spawn_with(server.kubeconfig(), &[])
    }

    /// As [`ControlPlane::spawn`], as somebody, with more flags; its webhook has a certificate of its own unless they say that it
    /// makes one.
    pub(crate) fn spawn_with(kubeconfig: PathBuf, flags: &[&str]) -> Self {
        Self::spawn_as(kubeconfig, "test", flags)
    }

    /// As [`ControlPlane::spawn_with`], one of several replicas.
    pub(crate) fn spawn_as(kubeconfig: PathBuf, replica: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let [policy, identity, destination, admin, webhook] = std::array::from_fn(|_| address());
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("webhook.crt"), certified.cert.pem()).unwrap();
        fs::write(file("webhook.key"), certified.signing_key.serialize_pem()).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(linkerd_tests::binary("linkerd-controller"));
        if !flags.contains(&"--webhook-certificates") {
            command
                .arg(format!(
                    "--admission-cert={}",
                    file("webhook.crt").display()
                ))
                .arg(format!("--admission-key={}", file("webhook.key").display()));
        }
        let process = command
            .arg("--kubernetes")
            .args(flags)
            .arg(format!("--policy-addr={policy}"))
            .arg(format!("--identity-addr={identity}"))
            .arg(format!("--destination-addr={destination}"))
            .arg(format!("--admin-addr={admin}"))
            .arg(format!(
                "--state-dir={}",
                folder.path().join("state").display()
            ))
            .arg(format!("--admission-addr={webhook}"))
            .env("KUBECONFIG", kubeconfig)
            .env("HOSTNAME", replica)
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
            webhook,
            certificate: certified.cert.pem(),
        }
    }

    /// Ends it without a goodbye.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks it to end, as a kubelet does.
    pub(crate) fn ask_to_end(&self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// As [`ControlPlane::ask_to_end`], and waits until it has.
    pub(crate) fn terminate(&mut self) {
        self.ask_to_end();
        self.process.wait().unwrap();
    }

    /// A client of the webhook, as an API server is one.
    pub(crate) fn webhook_client(&self) -> kube::Client {
        let address = format!("https://{}", self.webhook).parse().unwrap();
        let mut config = kube::Config::new(address);
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        config.root_cert = Some(vec![certificate.unwrap().to_vec()]);
        kube::Client::try_from(config).unwrap()
    }

    /// What makes an API server ask the webhook about objects of the mesh.
    pub(crate) fn webhook(&self) -> Value {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "linkerd-policy-validator-webhook-config"},
            "webhooks": [{
                "name": "linkerd-policy-validator.linkerd.io",
                "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
                "clientConfig": {
                    "url": format!("https://{}/", self.webhook),
                    "caBundle": base64::engine::general_purpose::STANDARD.encode(&self.certificate),
                },
                "rules": [{
                    "operations": ["CREATE", "UPDATE"], "apiVersions": ["*"],
                    "apiGroups": ["policy.linkerd.io"], "resources": ["*"],
                }],
            }],
        })
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The trust anchors of its CA, PEM.
    pub(crate) fn trust_anchors(&self) -> String {
        fs::read_to_string(self.folder.path().join("state/ca.crt")).unwrap()
    }

    /// A file of its state directory.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join("state").join(name)
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
        let token = format!(r#"{{"ns":"{namespace}","pod":"{pod}"}}"#);
        self.watch_workload(token, port).await
    }

    /// As [`ControlPlane::watch`], of a workload by its token.
    pub(crate) async fn watch_workload(&self, token: String, port: u16) -> Watched {
        let mut client = InboundServerPoliciesClient::new(self.channel(self.policy).await);
        let spec = PortSpec {
            workload: token,
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
    /// Whether the workload is known.
    pub(crate) fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// The next version.
    pub(crate) async fn next(&mut self) -> Server {
        self.until("a version", |server| Some(server.clone())).await
    }

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
