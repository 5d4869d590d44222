//! A control plane of two replicas is replaced, one after the other, under traffic and while policy changes: no request fails,
//! and what is applied takes effect all the while.

use crate::{
    injection::{Given, Plane, deployment, is_asked, places, run, service},
    node::{self, CONTROL, Families, Network, Running},
    policy::{namespace, server},
    server::ApiServer,
    sidecar::say_yes,
};
use linkerd_tests::eventually;
use serde_json::{Value, json};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tempfile::TempDir;

/// Ports of the APIs, as Services of the control plane have them.
const APIS: [(&str, u16); 3] = [
    ("--policy-addr", 8090),
    ("--destination-addr", 8086),
    ("--identity-addr", 8080),
];

/// A replica of the control plane, in the network of Pods; ends with the test.
struct Replica {
    process: Child,
    folder: TempDir,
    number: u16,
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            eprintln!("replica {}:\n{}", self.number, log.unwrap_or_default());
        }
    }
}

/// Where a replica serves what Services have at `port`.
fn own(number: u16, port: u16) -> SocketAddr {
    SocketAddr::from((CONTROL, port + 1_000 * number))
}

impl Replica {
    async fn start(api: &ApiServer, network: &Network, number: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, crate::free_port()));
        let mut command = network.command(&linkerd_tests::binary("linkerd-controller"));
        command
            .args(["--kubernetes", "--bootstrap-issuer", "--lease-seconds=3"])
            .arg(format!("--admin-addr={admin}"))
            .args(APIS.map(|(flag, port)| format!("{flag}={}", own(number, port))))
            .env("KUBECONFIG", api.kubeconfig())
            .env("HOSTNAME", format!("replica-{number}"));
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let replica = Self {
            process: process.spawn().unwrap(),
            folder,
            number,
        };
        network.lead_in(admin).await;
        eventually("a replica's readiness", async || {
            let (status, _) = linkerd_tests::page(admin, "/ready").await?;
            (status == 200).then_some(())
        })
        .await;
        replica
    }

    /// Asks it to end, as a kubelet does, and waits until it has.
    fn end(mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

/// The Services of the control plane: which replicas they lead to.
struct Services([(u16, Arc<Mutex<Vec<SocketAddr>>>); 3]);

impl Services {
    fn lead(network: &Network) -> Self {
        Self(APIS.map(|(_, port)| {
            let replicas = Arc::default();
            network.balance(SocketAddr::from((CONTROL, port)), Arc::clone(&replicas));
            (port, replicas)
        }))
    }

    fn are(&self, numbers: &[u16]) {
        for (port, replicas) in &self.0 {
            let all = numbers.iter().map(|number| own(*number, *port));
            *replicas.lock().unwrap() = all.collect();
        }
    }
}

/// Requests from one Pod to a Service, one after the other, until it is dropped.
struct Traffic {
    ended: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Traffic {
    fn begin(network: &Arc<Network>, from: u8, to: SocketAddr) -> Self {
        let (ended, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (network, until, counted) = (network.clone(), ended.clone(), answered.clone());
        let task = tokio::spawn(async move {
            while !until.load(Ordering::Relaxed) {
                assert_eq!(network.get(from, to).await, Some(200));
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            ended,
            answered,
            task,
        }
    }

    /// Waits until so many more have been answered.
    async fn goes_on(&self, more: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("requests", async || {
            assert!(!self.task.is_finished(), "a request failed");
            (self.answered.load(Ordering::Relaxed) >= before + more).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.ended.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

/// Who may call `web` besides `api`: whoever is not in the mesh, or nobody.
async fn strangers(api: &ApiServer, are_let_in: bool) {
    let networks = |cidr| {
        json!({
            "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "NetworkAuthentication",
            "metadata": {"name": "strangers", "namespace": "shop"},
            "spec": {"networks": [{"cidr": cidr}]},
        })
    };
    let object = if are_let_in {
        networks("0.0.0.0/0")
    } else {
        networks("192.0.2.0/24")
    };
    api.apply(&object).await;
}

async fn policy(api: &ApiServer) {
    let authorization = |name: &str, reference: Value| {
        json!({
            "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {
                "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "web"},
                "requiredAuthenticationRefs": [reference],
            },
        })
    };
    strangers(api, false).await;
    let strangers =
        json!({"group": "policy.linkerd.io", "kind": "NetworkAuthentication", "name": "strangers"});
    api.apply(&authorization("strangers", strangers)).await;
    let clients = json!({"kind": "ServiceAccount", "name": "api"});
    api.apply(&authorization("clients", clients)).await;
    api.apply(&server("web", &json!({}))).await;
}

#[tokio::test]
async fn replicas_are_replaced_under_traffic_while_policy_changes_and_no_request_fails() {
    let Some(mut network) = Network::make(Families::V4) else {
        return;
    };
    let Some(api) = ApiServer::start().await else {
        return;
    };
    api.apply(&namespace("linkerd")).await;
    network.lead_out(api.address(), api.address());
    let services = Services::lead(&network);
    let first = Replica::start(&api, &network, 1).await;
    let second = Replica::start(&api, &network, 2).await;
    services.are(&[1, 2]);
    places(&api).await;
    let injector = Plane::start(api.kubeconfig(), None, &Given::injector());
    let roots = "/api/v1/namespaces/linkerd/configmaps/linkerd-identity-trust-roots";
    let roots = api.get(roots).await.unwrap();
    injector.write("anchors", roots["data"]["ca-bundle.crt"].as_str().unwrap());
    is_asked(&api, &injector).await;

    for name in ["web", "api"] {
        api.apply(&deployment(name, &json!({}))).await;
    }
    let made = api.apply(&service("web", 80, 8080)).await;
    let ip: IpAddr = made["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    let web = run(&api, &mut network, "web").await;
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080));
    tokio::spawn(say_yes(node::listen(&network.namespace(web.number), any)));
    let client = run(&api, &mut network, "api").await;
    policy(&api).await;
    let network = Arc::new(network);
    let changes = Changes {
        api: &api,
        network: &network,
        web: &web,
    };
    changes.take_effect().await;
    let to = SocketAddr::new(ip, 80);
    eventually("the first answer", async || {
        (network.get(client.number, to).await? == 200).then_some(())
    })
    .await;

    let traffic = Traffic::begin(&network, client.number, to);
    traffic.goes_on(20).await;
    // As a Deployment is rolled: a new one is ready before an old one goes; Services lead to it no longer before it ends.
    let third = Replica::start(&api, &network, 3).await;
    services.are(&[2, 3]);
    first.end();
    changes.take_effect().await;
    traffic.goes_on(20).await;
    let fourth = Replica::start(&api, &network, 4).await;
    services.are(&[3, 4]);
    second.end();
    changes.take_effect().await;
    traffic.goes_on(20).await;
    traffic.end().await;
    drop((third, fourth));
}

/// What changes meanwhile.
struct Changes<'a> {
    api: &'a ApiServer,
    network: &'a Network,
    web: &'a Running,
}

impl Changes<'_> {
    async fn take_effect(&self) {
        let pod = SocketAddr::new(self.web.ips[0], 8080);
        for (are_let_in, wanted) in [(true, 200), (false, 403)] {
            strangers(self.api, are_let_in).await;
            eventually(&format!("{wanted} for strangers"), async || {
                (self.network.get(0, pod).await? == wanted).then_some(())
            })
            .await;
        }
    }
}
