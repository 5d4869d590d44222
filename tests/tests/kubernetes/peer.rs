//! Our sidecar under another maker's control plane, on a real API server. Which one is said by the environment:
//!
//! ```text
//! PEER_CONTROLLER=/path/to/controller PEER_POLICY_CONTROLLER=/path/to/linkerd-policy-controller \
//!     cargo test --test kubernetes -- --ignored peer
//! ```
//!
//! Its identity controller reads the trust anchors where a Pod has them mounted; they are put there, which takes root.

use crate::{
    control_plane::ControlPlane,
    destination::{service, slice},
    policy::{namespace, server, shop},
    server::ApiServer,
    sidecar::Sidecar,
};
use linkerd_tests::{eventually, free_port, get, one_http1, page};
use serde_json::json;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
};
use tokio::net::TcpStream;

/// Where a Pod has the trust anchors.
const ANCHORS: &str = "/var/run/linkerd/identity/trust-roots";
const PLACE: u8 = 44;

/// A controller; ends with the test.
struct Controller(Child);

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program that a variable names.
fn start(variable: &str, words: &[String], log: &Path) -> Controller {
    let program = std::env::var_os(variable);
    let program = program.expect("the variable names another control plane's program");
    let log = fs::File::create(log).unwrap();
    let mut command = Command::new(program);
    command.args(words).env("HOSTNAME", "peer");
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap());
    Controller(command.stderr(log).spawn().unwrap())
}

/// What the controllers and the sidecar find: objects in the API server, an issuer and its anchors in files.
async fn prepare(api: &ApiServer, plane: &ControlPlane, folder: &Path) {
    let labels = json!({"app": "none"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "linkerd-destination", "namespace": "linkerd"},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "none", "image": "none"}]},
        }},
    });
    for object in [
        namespace("linkerd"),
        deployment,
        service("api", &json!({"ports": [{"name": "http", "port": 80}]})),
        slice("api", "IPv4", &json!([{"addresses": ["10.42.9.9"]}])),
    ] {
        api.apply(&object).await;
    }
    fs::create_dir_all(ANCHORS).unwrap();
    let anchors = Path::new(ANCHORS).join("ca-bundle.crt");
    fs::write(anchors, plane.trust_anchors()).unwrap();
    fs::copy(plane.state("ca.crt"), folder.join("crt.pem")).unwrap();
    fs::copy(plane.state("ca.key"), folder.join("key.pem")).unwrap();
}

/// Starts the peer's controllers where `plane` says that they are.
fn controllers(api: &ApiServer, plane: &ControlPlane, folder: &Path) -> [Controller; 3] {
    let at = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let kubeconfig = format!("kubeconfig={}", api.kubeconfig().display());
    let mut all = [
        (
            "identity",
            vec![
                "identity".to_owned(),
                format!("-addr={}", plane.identity),
                format!("-admin-addr={}", at()),
                format!("-issuer={}", folder.display()),
            ],
            "-identity-scheme=linkerd.io/tls -identity-issuance-lifetime=24h -identity-clock-skew-allowance=20s",
        ),
        (
            "destination",
            vec![
                "destination".to_owned(),
                format!("-addr={}", plane.destination),
                format!("-metrics-addr={}", at()),
            ],
            "-cluster-domain=cluster.local -default-opaque-ports=25",
        ),
        (
            "policy",
            vec![
                format!("--grpc-addr={}", plane.policy),
                format!("--admin-addr={}", at()),
                format!("--{kubeconfig}"),
            ],
            "--admission-controller-disabled --identity-domain=cluster.local --cluster-domain=cluster.local \
             --control-plane-namespace=linkerd --default-opaque-ports=25",
        ),
    ];
    let both = "-identity-trust-domain=cluster.local -controller-namespace=linkerd";
    for (_, words, _) in all.iter_mut().take(2) {
        words.push(format!("-{kubeconfig}"));
        words.extend(both.split(' ').map(str::to_owned));
    }
    all.map(|(name, mut words, more)| {
        words.extend(more.split_whitespace().map(str::to_owned));
        let variable = match name {
            "policy" => "PEER_POLICY_CONTROLLER",
            _ => "PEER_CONTROLLER",
        };
        start(variable, &words, &folder.join(format!("{name}.log")))
    })
}

#[tokio::test]
#[ignore = "needs another control plane of the contract, as PEER_CONTROLLER and PEER_POLICY_CONTROLLER"]
async fn our_sidecar_works_under_a_peers_control_plane() {
    let Some((api, mut plane)) = shop().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    prepare(&api, &plane, folder.path()).await;
    let at = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    (plane.identity, plane.destination, plane.policy) = (at(), at(), at());
    let _controllers = controllers(&api, &plane, folder.path());
    let outbound = format!("127.77.{PLACE}.2:9000");
    let listener = format!("{outbound}=api.shop.svc.cluster.local:80");
    let more = [("OUTBOUND_LISTENERS", listener)];
    // It is ready when it has a certificate of the peer's.
    let sidecar = Sidecar::start_with(&api, &plane, PLACE, &more).await;
    sidecar.becomes(200).await;
    let access = |policy: &str| server("web", &json!({"accessPolicy": policy, "podSelector": {}}));
    api.apply(&access("deny")).await;
    sidecar.becomes(403).await;
    api.apply(&access("all-unauthenticated")).await;
    sidecar.becomes(200).await;
    eventually("the endpoints that the peer tells", async || {
        let stream = TcpStream::connect(&outbound).await.ok()?;
        // Nobody is there.
        let _ = one_http1(stream, get("/")).await;
        let (_, known) = page(sidecar.admin(), "/outbound").await?;
        known.contains("10.42.9.9:8080").then_some(())
    })
    .await;
}
