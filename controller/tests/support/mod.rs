//! A control plane over a folder of manifests, and its clients.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here is the test"
)]
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use linkerd_controller::{Config, Flags, Listeners, authority::Authority, token};
use linkerd2_proxy_api::{
    identity::{CertifyRequest, identity_client::IdentityClient},
    inbound::{PortSpec, Server, inbound_server_policies_client::InboundServerPoliciesClient},
};
use std::{fs, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
};
use tonic::{Streaming, transport::Channel};

pub const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
pub const WORKLOAD: &str = r#"{"ns":"shop","external_workload":"web"}"#;
pub const MANIFEST: &str = "apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  meshTLS: {identity: web.shop.serviceaccount.identity.linkerd.cluster.local, serverName: web.shop.serviceaccount.identity.linkerd.cluster.local}
  ports: [{port: 8080, name: http}]
  workloadIPs: [{ip: 127.0.0.2}]
status: {conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
";
pub const SERVER: &str = "apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web-http, namespace: shop}
spec: {port: http, proxyProtocol: HTTP/1, externalWorkloadSelector: {matchLabels: {app: web}}}
";

pub struct Plane {
    pub folder: tempfile::TempDir,
    pub config: Config,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Plane {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(edit: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("manifests")).unwrap();
        fs::write(folder.path().join("manifests/web.yaml"), MANIFEST).unwrap();
        Self::start_in(folder, edit).await
    }

    pub async fn start_in(folder: tempfile::TempDir, edit: impl FnOnce(&mut Config)) -> Self {
        let free: SocketAddr = ([127, 0, 0, 1], 0).into();
        let flags: Flags = clap::Parser::parse_from([
            "linkerd-controller",
            "--manifests",
            folder.path().join("manifests").to_str().unwrap(),
            "--state-dir",
            folder.path().join("state").to_str().unwrap(),
        ]);
        let mut config = Config {
            policy_addr: free,
            destination_addr: free,
            identity_addr: free,
            admin_addr: free,
            ..flags.into()
        };
        edit(&mut config);
        let listeners = Listeners::bind(&mut config).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = config.clone();
        let task = tokio::spawn(async move {
            linkerd_controller::run_on(running, listeners, async { drop(stopped.await) })
                .await
                .unwrap();
        });
        Self {
            folder,
            config,
            stop: Some(stop),
            task,
        }
    }

    pub async fn stop(mut self) -> tempfile::TempDir {
        drop(self.stop.take());
        self.task.await.unwrap();
        self.folder
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("manifests").join(name), text).unwrap();
    }

    pub async fn watch(&self) -> Streaming<Server> {
        let mut client = InboundServerPoliciesClient::new(connect(self.config.policy_addr).await);
        let spec = PortSpec {
            workload: WORKLOAD.into(),
            port: 8080,
        };
        client.watch_port(spec).await.unwrap().into_inner()
    }

    pub fn token(&self, subject: &str) -> Vec<u8> {
        let authority = Authority::open(&self.config.state_dir).unwrap();
        let subject = subject.parse().unwrap();
        token::issue(&authority, &subject, Duration::from_secs(60))
            .unwrap()
            .into_bytes()
    }

    pub async fn certify(&self, identity: &str, token: Vec<u8>) -> Result<Vec<u8>, tonic::Status> {
        let key = linkerd_tls::KeyMaterial::create(identity).unwrap();
        self.certify_csr(identity, token, key.csr().to_vec()).await
    }

    pub async fn certify_csr(
        &self,
        identity: &str,
        token: Vec<u8>,
        certificate_signing_request: Vec<u8>,
    ) -> Result<Vec<u8>, tonic::Status> {
        let mut client = IdentityClient::new(connect(self.config.identity_addr).await);
        let request = CertifyRequest {
            identity: identity.into(),
            token,
            certificate_signing_request,
        };
        client
            .certify(request)
            .await
            .map(|answer| answer.into_inner().leaf_certificate)
    }

    /// `/status`, once it is as wanted; bounded.
    pub async fn status(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let read = |page: &str| serde_json::from_str(page).unwrap();
        read(&self.until("/status", |page| wanted(&read(page))).await)
    }

    /// Waits for the metrics to be as wanted.
    pub async fn metrics(&self, wanted: impl Fn(&str) -> bool) {
        self.until("/metrics", wanted).await;
    }

    /// A page, once it is as wanted; bounded.
    async fn until(&self, path: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut every = tokio::time::interval(Duration::from_millis(10));
        let mut last = String::new();
        for _ in 0..1000 {
            last = self.page(path).await;
            if wanted(&last) {
                return last;
            }
            every.tick().await;
        }
        panic!("never as wanted: {last}");
    }

    /// A page of the admin server.
    pub async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.config.admin_addr).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        body.to_owned()
    }
}

/// Connects; the sockets are bound before anything runs.
pub async fn connect(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

pub async fn next<T>(stream: &mut Streaming<T>) -> T {
    let message = tokio::time::timeout(Duration::from_secs(20), stream.message());
    message
        .await
        .expect("a message in time")
        .unwrap()
        .expect("a message")
}
