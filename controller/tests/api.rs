//! The control plane over real sockets, with the published API's clients, while files change.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what fails here is the test"
)]

use linkerd_controller::{Config, Flags, authority::Authority, token};
use linkerd2_proxy_api::{
    destination::{GetDestination, destination_client::DestinationClient, update::Update},
    identity::{CertifyRequest, identity_client::IdentityClient},
    inbound::{
        PortSpec, Server, inbound_server_policies_client::InboundServerPoliciesClient,
        proxy_protocol::Kind,
    },
};
use std::{fs, net::SocketAddr, time::Duration};
use tokio::sync::oneshot;
use tonic::{Code, Streaming, transport::Channel};

const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
const WORKLOAD: &str = r#"{"ns":"shop","external_workload":"web"}"#;
const MANIFEST: &str = "apiVersion: workload.linkerd.io/v1beta1
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
const SERVER: &str = "apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web-http, namespace: shop}
spec: {port: http, proxyProtocol: HTTP/1, externalWorkloadSelector: {matchLabels: {app: web}}}
";

struct Plane {
    folder: tempfile::TempDir,
    config: Config,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Plane {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("manifests")).unwrap();
        fs::write(folder.path().join("manifests/web.yaml"), MANIFEST).unwrap();
        Self::start_in(folder).await
    }

    async fn start_in(folder: tempfile::TempDir) -> Self {
        let port = || {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            socket.local_addr().unwrap()
        };
        let flags: Flags = clap::Parser::parse_from([
            "linkerd-controller",
            "--manifests",
            folder.path().join("manifests").to_str().unwrap(),
            "--state-dir",
            folder.path().join("state").to_str().unwrap(),
        ]);
        let config = Config {
            policy_addr: port(),
            destination_addr: port(),
            identity_addr: port(),
            admin_addr: port(),
            ..flags.into()
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let running = config.clone();
        let task = tokio::spawn(async move {
            linkerd_controller::run(running, async { drop(stopped.await) })
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

    async fn stop(mut self) -> tempfile::TempDir {
        drop(self.stop.take());
        self.task.await.unwrap();
        self.folder
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("manifests").join(name), text).unwrap();
    }

    async fn watch(&self) -> Streaming<Server> {
        let mut client = InboundServerPoliciesClient::new(connect(self.config.policy_addr).await);
        let spec = PortSpec {
            workload: WORKLOAD.into(),
            port: 8080,
        };
        client.watch_port(spec).await.unwrap().into_inner()
    }

    fn token(&self, subject: &str) -> Vec<u8> {
        let authority = Authority::open(&self.config.state_dir).unwrap();
        let subject = subject.parse().unwrap();
        token::issue(&authority, &subject, Duration::from_secs(60))
            .unwrap()
            .into_bytes()
    }

    async fn certify(&self, identity: &str, token: Vec<u8>) -> Result<Vec<u8>, tonic::Status> {
        let key = linkerd_tls::KeyMaterial::create(identity).unwrap();
        let mut client = IdentityClient::new(connect(self.config.identity_addr).await);
        let request = CertifyRequest {
            identity: identity.into(),
            token,
            certificate_signing_request: key.csr().to_vec(),
        };
        client
            .certify(request)
            .await
            .map(|answer| answer.into_inner().leaf_certificate)
    }
}

/// Connects, once somebody listens; bounded.
async fn connect(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    let mut every = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..1000 {
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        every.tick().await;
    }
    panic!("nobody listens on {address}");
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    let message = tokio::time::timeout(Duration::from_secs(20), stream.message());
    message
        .await
        .expect("a message in time")
        .unwrap()
        .expect("a message")
}

fn name(server: &Server) -> &str {
    &server.labels["name"]
}

#[tokio::test]
async fn a_stream_follows_the_files_and_outlives_a_broken_one() {
    let plane = Plane::start().await;
    let mut stream = plane.watch().await;
    assert_eq!(name(&next(&mut stream).await), "all-unauthenticated");

    plane.write("server.yaml", SERVER);
    let server = next(&mut stream).await;
    assert_eq!(name(&server), "web-http");
    assert!(matches!(
        server.protocol.unwrap().kind,
        Some(Kind::Http1(_))
    ));
    assert!(
        server.authorizations.is_empty(),
        "a Server without authorizations lets nobody in"
    );

    // Broken, and then with another protocol: the broken version is never seen.
    plane.write("server.yaml", &SERVER.replace("HTTP/1", "HTTP/7"));
    plane.write("server.yaml", &SERVER.replace("HTTP/1", "HTTP/2"));
    let server = next(&mut stream).await;
    assert!(matches!(
        server.protocol.unwrap().kind,
        Some(Kind::Http2(_))
    ));

    fs::remove_file(plane.folder.path().join("manifests/server.yaml")).unwrap();
    assert_eq!(name(&next(&mut stream).await), "all-unauthenticated");

    // The workload goes, and the stream ends cleanly.
    fs::remove_file(plane.folder.path().join("manifests/web.yaml")).unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), stream.message())
        .await
        .unwrap();
    assert!(end.unwrap().is_none());
    plane.stop().await;
}

#[tokio::test]
async fn questions_that_make_no_sense_are_answered_as_the_spec_says() {
    let plane = Plane::start().await;
    let mut client = InboundServerPoliciesClient::new(connect(plane.config.policy_addr).await);
    for (workload, port, code, text) in [
        ("web", 8080, Code::InvalidArgument, "Invalid workload: web"),
        (WORKLOAD, 0, Code::InvalidArgument, "Invalid port: 0"),
        (
            WORKLOAD,
            70_000,
            Code::InvalidArgument,
            "Invalid port: 70000",
        ),
        ("shop:nobody", 8080, Code::NotFound, "unknown server"),
    ] {
        let spec = PortSpec {
            workload: workload.into(),
            port,
        };
        let status = client.get_port(spec).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text));
    }
    plane.stop().await;
}

#[tokio::test]
async fn endpoints_follow_the_files() {
    let plane = Plane::start().await;
    let mut client = DestinationClient::new(connect(plane.config.destination_addr).await);
    let get = |path: &str| GetDestination {
        path: path.into(),
        ..Default::default()
    };
    let mut stream = client
        .get(get("web.shop.svc.cluster.local:80"))
        .await
        .unwrap()
        .into_inner();
    let Some(Update::Add(added)) = next(&mut stream).await.update else {
        panic!("not an Add")
    };
    let endpoint = &added.addrs[0];
    assert_eq!(
        endpoint.addr.as_ref().unwrap().port,
        8080,
        "the target port, by name"
    );
    assert_eq!(
        endpoint
            .tls_identity
            .as_ref()
            .unwrap()
            .server_name
            .as_ref()
            .unwrap()
            .name,
        WEB
    );
    assert_eq!(endpoint.weight, 10_000);

    plane.write("web.yaml", &MANIFEST.replace("127.0.0.2", "127.0.0.3"));
    let Some(Update::Add(added)) = next(&mut stream).await.update else {
        panic!("not an Add")
    };
    assert_eq!(added.addrs.len(), 1);
    let Some(Update::Remove(removed)) = next(&mut stream).await.update else {
        panic!("not a Remove")
    };
    assert_eq!(removed.addrs.len(), 1);

    plane.write("web.yaml", &MANIFEST.replace("'True'", "'False'"));
    let Some(Update::NoEndpoints(none)) = next(&mut stream).await.update else {
        panic!("not NoEndpoints")
    };
    assert!(none.exists);

    let unknown = client
        .get(get("nobody.shop.svc.cluster.local:80"))
        .await
        .unwrap_err();
    assert_eq!(
        (unknown.code(), unknown.message()),
        (Code::NotFound, "Service nobody.shop not found")
    );
    let address = client.get(get("127.0.0.1:80")).await.unwrap_err();
    assert_eq!(address.code(), Code::InvalidArgument);
    let mut profile = client
        .get_profile(get("web.shop.svc.cluster.local:80"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        next(&mut profile).await.fully_qualified_name,
        "web.shop.svc.cluster.local"
    );
    plane.stop().await;
}

#[tokio::test]
async fn a_certificate_is_for_whom_the_token_speaks() {
    let plane = Plane::start().await;
    connect(plane.config.identity_addr).await;
    let account = plane.token("system:serviceaccount:shop:web");
    plane.certify(WEB, account.clone()).await.unwrap();
    let workload = plane.token("system:externalworkload:shop:web");
    plane.certify(WEB, workload).await.unwrap();

    let other = "api.shop.serviceaccount.identity.linkerd.cluster.local";
    let status = plane.certify(other, account).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        status.message(),
        format!("requested identity did not match provided token: requested={other}; found={WEB}")
    );
    let status = plane.certify(WEB, b"forged".to_vec()).await.unwrap_err();
    assert_eq!(
        status.message(),
        "authentication token could not be authenticated"
    );
    let status = plane.certify(WEB, Vec::new()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "missing token")
    );
    let stranger = plane.token("system:externalworkload:shop:nobody");
    assert_eq!(
        plane.certify(WEB, stranger).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    plane.stop().await;
}

#[tokio::test]
async fn one_identity_cannot_flood_the_issuer() {
    let plane = Plane::start().await;
    connect(plane.config.identity_addr).await;
    let token = plane.token("system:serviceaccount:shop:web");
    let mut refused = 0;
    for _ in 0..plane.config.certify_per_minute + 5 {
        if let Err(status) = plane.certify(WEB, token.clone()).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
            refused += 1;
        }
    }
    assert!(refused >= 5, "{refused}");
    let api = "api.shop.serviceaccount.identity.linkerd.cluster.local";
    plane
        .certify(api, plane.token("system:serviceaccount:shop:api"))
        .await
        .unwrap();
    plane.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_the_authority() {
    let plane = Plane::start().await;
    connect(plane.config.identity_addr).await;
    let token = plane.token("system:serviceaccount:shop:web");
    let anchors = Authority::open(&plane.config.state_dir)
        .unwrap()
        .trust_anchors()
        .to_owned();
    let plane = Plane::start_in(plane.stop().await).await;
    plane.certify(WEB, token).await.unwrap();
    let after = Authority::open(&plane.config.state_dir).unwrap();
    assert_eq!(after.trust_anchors(), anchors);
    plane.stop().await;
}
