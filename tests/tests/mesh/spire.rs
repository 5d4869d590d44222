//! Two sidecars whose certificates come from SPIRE agents: here from a Workload API of our own on real Unix sockets.

use crate::{
    authorization::{authorize, server},
    harness::{Mesh, Sidecar, eventually, get, one_http1},
    origin,
    trust::{Traffic, metric},
};
use bytes::Bytes;
use http::Response;
use linkerd_tls::{LocalIdentity, TrustAnchors};
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

const WEB: &str = "spiffe://example/web";
const API: &str = "spiffe://example/api";

/// `X509SVIDResponse` and `X509SVID` of SPIFFE's Workload API, written down a second time.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Answer {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Svid>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
}

/// A root of the trust domain.
struct Root {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Root {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, key);
        Self { der, issuer }
    }

    /// A new certificate with a new key, and these roots as what to believe.
    fn svid(&self, id: &str, bundle: &[&Self]) -> Answer {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let svid = Svid {
            spiffe_id: id.to_owned(),
            x509_svid: certificate.der().to_vec(),
            x509_svid_key: key.serialize_der(),
            bundle: bundle.iter().flat_map(|root| root.der.clone()).collect(),
        };
        Answer { svids: vec![svid] }
    }
}

/// An agent that gives one workload what it is told to.
struct Agent {
    path: PathBuf,
    says: watch::Sender<Answer>,
    serving: Option<JoinHandle<()>>,
}

impl Agent {
    fn start(path: PathBuf, answer: Answer) -> Self {
        let mut agent = Self {
            path,
            says: watch::Sender::new(answer),
            serving: None,
        };
        agent.start_again();
        agent
    }

    fn start_again(&mut self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        let says = self.says.clone();
        self.serving = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, says.subscribe()));
            }
        }));
    }

    fn says(&self, answer: Answer) {
        self.says.send_replace(answer);
    }

    /// Ends it, its connections and its socket.
    async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
        std::fs::remove_file(&self.path).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

/// gRPC by hand: one method, one stream of answers.
async fn serve(stream: UnixStream, says: watch::Receiver<Answer>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let mut head = Response::builder().header("content-type", "application/grpc");
        if request
            .headers()
            .get("workload.spiffe.io")
            .is_none_or(|value| value != "true")
        {
            // INVALID_ARGUMENT.
            head = head.header("grpc-status", "3");
            let _ = respond.send_response(head.body(()).unwrap(), true);
            continue;
        }
        let mut send = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        let mut says = says.clone();
        streams.spawn(async move {
            loop {
                let message = says.borrow_and_update().encode_to_vec();
                let mut frame = vec![0];
                frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
                frame.extend(message);
                if send.send_data(Bytes::from(frame), false).is_err()
                    || says.changed().await.is_err()
                {
                    return;
                }
            }
        });
    }
}

struct World {
    mesh: Mesh,
    _api: Sidecar,
    agents: [Agent; 2],
    admins: [SocketAddr; 2],
    listener: SocketAddr,
    _folder: Arc<tempfile::TempDir>,
}

fn policy(client: &str) -> String {
    let clients = format!("MeshTLSAuthentication {{identities: ['{client}']}}");
    server("proxyProtocol: unknown") + &authorize("clients", "Server", "web-http", &clients)
}

async fn start(root: &Root, client: &str) -> World {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let agents = [("web", WEB), ("api", API)].map(|(name, id)| {
        let path = folder.path().join(format!("{name}.sock"));
        Agent::start(path, root.svid(id, &[root]))
    });
    let mut mesh = Mesh::without_proxy(&policy(client));
    let ip = mesh.ip(2);
    mesh.write(
        "workload.yaml",
        &format!(
            "apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {{name: web, namespace: shop, labels: {{app: web}}}}
spec:
  meshTLS: {{identity: '{WEB}', serverName: web.example}}
  ports: [{{port: 8080, name: http}}]
  workloadIPs: [{{ip: {ip}}}]
status: {{conditions: [{{type: Ready, status: 'True'}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: bytes, namespace: shop, annotations: {{config.linkerd.io/opaque-ports: '80,8080'}}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}
"
        ),
    );
    mesh.start_controller();
    let nothing = [
        ("IDENTITY_TRUST_ANCHORS", ""),
        ("IDENTITY_LOCAL_NAME", ""),
        ("IDENTITY_DIR", ""),
        ("IDENTITY_TOKEN_FILE", ""),
        ("IDENTITY_SVC_ADDR", ""),
    ];
    let sockets = agents.each_ref();
    let [web_socket, api_socket] = sockets.map(|agent| format!("unix://{}", agent.path.display()));
    let web = [
        ("IDENTITY_SPIRE_WORKLOAD_API_ADDRESS", &*web_socket),
        ("IDENTITY_SERVER_ID", WEB),
        ("IDENTITY_SERVER_NAME", "web.example"),
    ];
    mesh.spawn_proxy(&[&nothing[..], &web].concat());
    mesh.ready().await;
    let listener = SocketAddr::new(mesh.ip(6), 9000);
    let target = format!("{listener}=bytes.shop.svc.cluster.local:80");
    let api = [
        ("IDENTITY_SPIRE_WORKLOAD_API_ADDRESS", &*api_socket),
        ("IDENTITY_SERVER_ID", API),
        ("IDENTITY_SERVER_NAME", "api.example"),
        ("OUTBOUND_LISTENERS", &*target),
    ];
    let api = mesh.peer("api", 6, &[&nothing[..], &api].concat()).await;
    World {
        admins: [mesh.admin(), SocketAddr::new(mesh.ip(6), 4191)],
        mesh,
        _api: api,
        agents,
        listener,
        _folder: folder,
    }
}

impl World {
    /// Gives both workloads new certificates of this root, with these roots to believe, and waits until they are in use.
    async fn rotate(&self, root: &Root, bundle: &[&Root]) {
        const NAME: &str = "control_identity_cert_refreshes_total";
        for ((agent, id), admin) in self.agents.iter().zip([WEB, API]).zip(self.admins) {
            let before = metric(admin, NAME, "result=\"ok\"").await;
            agent.says(root.svid(id, bundle));
            eventually("the new certificate", async || {
                (metric(admin, NAME, "result=\"ok\"").await > before).then_some(())
            })
            .await;
        }
    }

    /// Waits until both sidecars have counted a failure for this reason.
    async fn fails(&self, reason: &str) {
        const NAME: &str = "control_identity_cert_refresh_errors_total";
        let label = format!("reason=\"{reason}\"");
        for admin in self.admins {
            eventually(reason, async || {
                (metric(admin, NAME, &label).await > 0.0).then_some(())
            })
            .await;
        }
    }
}

/// A client with a certificate of this root.
fn client(root: &Root, id: &str) -> Arc<LocalIdentity> {
    let svid = root.svid(id, &[root]).svids.remove(0);
    let anchors = TrustAnchors::from_der(&svid.bundle).unwrap();
    let client = LocalIdentity::without_key(id.parse().unwrap(), "api.example", anchors.clone());
    let client = client.unwrap();
    client
        .install_with_key(svid.x509_svid, Vec::new(), svid.x509_svid_key, anchors)
        .unwrap();
    client
}

#[tokio::test]
async fn spire_identities_are_authorized_by_their_ids() {
    let root = Root::new("one");
    let world = start(&root, "spiffe://example/other").await;
    let _origin = origin::echo(world.mesh.origin()).await;
    let client = client(&root, API);
    let asks = async || {
        let stream = world.mesh.connect_from(5, world.mesh.web()).await;
        let config = client.client_config();
        let web = WEB.parse().unwrap();
        let stream = linkerd_tls::connect(&config, stream, "web.example", &web, None);
        let answer = one_http1(stream.await.unwrap(), get("/")).await;
        answer.is_ok_and(|response| response.status() == 200)
    };
    assert!(!asks().await, "another one's");
    world.mesh.write("policy.yaml", &policy(API));
    eventually("the answer", async || asks().await.then_some(())).await;
    let labels = format!("client_id=\"{API}\"");
    assert!(world.mesh.metric("request_total", &[&labels]).await > 0.0);
    // A suffix means DNS names.
    world.mesh.write("policy.yaml", &policy("*.example"));
    eventually("the refusal", async || (!asks().await).then_some(())).await;
}

#[tokio::test]
async fn certificates_and_anchors_of_spire_are_rotated_under_traffic() {
    let (one, two) = (Root::new("one"), Root::new("two"));
    let world = start(&one, API).await;
    let _origin = origin::echo(world.mesh.origin()).await;
    let mut traffic = Traffic::start(world.listener);
    traffic.go_on(10).await;
    for (root, bundle) in [
        (&one, vec![&one]),
        (&one, vec![&one, &two]),
        (&two, vec![&one, &two]),
        (&two, vec![&two]),
    ] {
        world.rotate(root, &bundle).await;
        traffic.go_on(10).await;
    }
    for admin in world.admins {
        let name = "control_identity_trust_anchor_expiration_timestamp_seconds";
        assert!(metric(admin, name, "CN=one").await < 1.0, "gone");
        assert!(metric(admin, name, "CN=two").await > 1.0);
    }
}

#[tokio::test]
async fn without_the_agent_or_with_a_bad_answer_the_last_good_certificate_stays() {
    let root = Root::new("one");
    let mut world = start(&root, API).await;
    let _origin = origin::echo(world.mesh.origin()).await;
    let mut traffic = Traffic::start(world.listener);
    for agent in &world.agents {
        agent.says(root.svid("spiffe://example/somebody", &[&root]));
    }
    world.fails("no_svid").await;
    traffic.go_on(10).await;
    for (agent, id) in world.agents.iter().zip([WEB, API]) {
        agent.says(root.svid(id, &[]));
    }
    world.fails("bundle").await;
    for (agent, id) in world.agents.iter().zip([WEB, API]) {
        agent.says(root.svid(id, &[&Root::new("stranger")]));
    }
    world.fails("invalid").await;
    traffic.go_on(10).await;

    for agent in &mut world.agents {
        agent.stop().await;
    }
    world.fails("socket").await;
    traffic.go_on(10).await;
    for agent in &mut world.agents {
        agent.start_again();
    }
    world.rotate(&root, &[&root]).await;
    traffic.go_on(10).await;
    let said = world.mesh.said();
    assert!(
        said.contains("spiffe://example/somebody"),
        "the log says what there is: {said}"
    );
}
