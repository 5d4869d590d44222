//! An API server asks the injector, and what comes of it runs: Pods with their own rules and sidecars, mutual TLS between
//! them, and policy that lets one client in and not the other.

use crate::{
    certificates::{TOO_OLD, answer_to_tls_1_2},
    free_port,
    helm::rendered,
    node::{self, CONTROL, Families, Network, Running},
    policy::{account, server},
    server::ApiServer,
    sidecar::say_yes,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Request;
use linkerd_tests::eventually;
use serde_json::{Value, json};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// A control plane with the injector; ends with the test. Its APIs are spoken over mutual TLS.
pub(crate) struct Plane {
    process: Child,
    folder: TempDir,
    admin: SocketAddr,
    injector: SocketAddr,
    /// The certificate of the injector, which signed itself, PEM.
    certificate: String,
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            eprintln!("the control plane:\n{}", log.unwrap_or_default());
        }
    }
}

/// What a control plane is started with.
#[derive(Clone)]
pub(crate) struct Given<'a> {
    pub(crate) roles: &'a str,
    /// A file of its folder.
    pub(crate) anchors: &'a str,
    /// The chart's.
    pub(crate) values: &'a str,
    /// Flags beside those that every one has.
    pub(crate) flags: Vec<String>,
}

/// What the chart, with these values, tells the control plane of how sidecars connect to one another.
pub(crate) fn of_chart(set: &str) -> Vec<String> {
    let objects = rendered(set);
    let name = |object: &&Value| object["metadata"]["name"] == "linkerd-destination";
    let mut deployments = objects
        .iter()
        .filter(|object| object["kind"] == "Deployment");
    let containers = &deployments.find(name).unwrap()["spec"]["template"]["spec"]["containers"];
    let containers = containers.as_array().unwrap().iter();
    let words = containers
        .filter_map(|container| container["args"].as_array())
        .flatten();
    let words = words.map(|word| word.as_str().unwrap().to_owned());
    let flags = ["--enable-ipv6=", "--outbound-transport-mode="];
    let found: Vec<_> = words
        .filter(|word| flags.iter().any(|flag| word.starts_with(flag)))
        .collect();
    assert_eq!(found.len(), flags.len(), "{found:?}");
    found
}

impl Default for Given<'_> {
    /// All roles, with a CA of its own and what the chart says by default.
    fn default() -> Self {
        Self {
            roles: "policy,destination,identity,injector",
            anchors: "state/ca.crt",
            values: "proxy: {logLevel: 'warn,linkerd=info'}\n",
            flags: of_chart("controllerReplicas=1"),
        }
    }
}

impl Given<'_> {
    /// An injector alone, whose anchors are written by the test.
    pub(crate) fn injector() -> Self {
        Self {
            roles: "injector",
            anchors: "anchors",
            ..Self::default()
        }
    }
}

impl Plane {
    /// A file of its folder.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// The trust anchors of its CA, PEM.
    pub(crate) fn trust_anchors(&self) -> String {
        fs::read_to_string(self.folder.path().join("state/ca.crt")).unwrap()
    }

    pub(crate) fn start(kubeconfig: PathBuf, network: Option<&Network>, given: &Given<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        fs::write(file("tls.crt"), certified.cert.pem()).unwrap();
        fs::write(file("tls.key"), certified.signing_key.serialize_pem()).unwrap();
        fs::write(file("values"), given.values).unwrap();
        let log = fs::File::create(file("log")).unwrap();
        let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let (admin, injector) = (local(), local());
        let program = linkerd_tests::binary("linkerd-controller");
        // On loopback the APIs are spoken in plaintext, and nobody asks them there.
        let (mut command, host) = match network {
            Some(network) => (network.command(&program), CONTROL),
            None => (Command::new(program), Ipv4Addr::LOCALHOST),
        };
        let api = |known: u16| match network {
            Some(_) => SocketAddr::from((host, known)),
            None => local(),
        };
        let process = command
            .arg("--kubernetes")
            .args(&given.flags)
            .arg(format!("--roles={}", given.roles))
            .arg(format!("--policy-addr={}", api(8090)))
            .arg(format!("--destination-addr={}", api(8086)))
            .arg(format!("--identity-addr={}", api(8080)))
            .arg(format!("--admin-addr={admin}"))
            .arg(format!("--state-dir={}", file("state")))
            .arg(format!("--injector-addr={injector}"))
            .arg(format!("--injector-cert={}", file("tls.crt")))
            .arg(format!("--injector-key={}", file("tls.key")))
            .arg(format!("--injector-values={}", file("values")))
            .arg(format!("--injector-trust-anchors={}", file(given.anchors)))
            .env("KUBECONFIG", kubeconfig)
            .env("HOSTNAME", "test")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            process,
            folder,
            admin,
            injector,
            certificate: certified.cert.pem(),
        }
    }

    /// Ends it without a goodbye.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn is_ready(&self) {
        eventually("the control plane", async || {
            let (status, _) = linkerd_tests::page(self.admin, "/ready").await?;
            (status == 200).then_some(())
        })
        .await;
    }

    /// What makes an API server ask the injector.
    pub(crate) fn webhook(&self) -> Value {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "linkerd-proxy-injector-webhook-config"},
            "webhooks": [{
                "name": "linkerd-proxy-injector.linkerd.io",
                "admissionReviewVersions": ["v1", "v1beta1"], "sideEffects": "None", "failurePolicy": "Fail",
                "clientConfig": {
                    "url": format!("https://{}/", self.injector),
                    "caBundle": STANDARD.encode(&self.certificate),
                },
                "namespaceSelector": {"matchExpressions": [{
                    "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"],
                }]},
                "rules": [{
                    "operations": ["CREATE"], "apiVersions": ["v1"], "apiGroups": [""],
                    "resources": ["pods", "services"], "scope": "Namespaced",
                }],
            }],
        })
    }
}

/// A process that is the injector alone says that it is ready when Pods that it is asked about get all that they need.
async fn is_not_ready_without_anchors(server: &ApiServer) {
    let plane = Plane::start(server.kubeconfig(), None, &Given::injector());
    let ready = async || linkerd_tests::page(plane.admin, "/ready").await;
    eventually("what it waits for", async || {
        let (status, text) = ready().await?;
        assert_eq!(status, 503, "{text}");
        text.contains("the trust anchors that sidecars get")
            .then_some(())
    })
    .await;
    fs::write(plane.folder.path().join("anchors"), "PEM").unwrap();
    assert_eq!(ready().await, Some((200, "ready\n".to_owned())));
}

pub(crate) fn deployment(name: &str, rest: &Value) -> Value {
    let mut spec = json!({
        "serviceAccountName": name, "nodeName": "node",
        "containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080, "name": "http"}]}],
    });
    for (key, value) in rest.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    })
}

pub(crate) fn service(name: &str, port: u16, target: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]},
    })
}

/// A namespace whose Pods get sidecars, a node and accounts for them.
pub(crate) async fn places(api: &ApiServer) {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "annotations": {
            "linkerd.io/inject": "enabled", "config.linkerd.io/proxy-log-format": "plain",
        }},
    });
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}});
    let accounts = ["web", "api", "agent"].map(account);
    for object in [namespace, node].iter().chain(&accounts) {
        api.apply(object).await;
    }
}

/// Waits until an injector is ready and the API server asks it.
pub(crate) async fn is_asked(api: &ApiServer, plane: &Plane) {
    plane.is_ready().await;
    api.apply(&plane.webhook()).await;
    // API servers take notice in their own time.
    eventually("that the injector is asked", async || {
        has_sidecar(&tried(api, "shop").await?).then_some(())
    })
    .await;
}

/// What a Pod would be that nobody creates; `None` while there can be none.
pub(crate) async fn tried(api: &ApiServer, namespace: &str) -> Option<Value> {
    try_pod(api, namespace).await.ok()
}

async fn try_pod(api: &ApiServer, namespace: &str) -> Result<Value, kube::Error> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "try", "namespace": namespace},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    });
    let request = Request::post(format!("/api/v1/namespaces/{namespace}/pods?dryRun=All"));
    let request = request.header("content-type", "application/json");
    let request = request.body(pod.to_string().into_bytes()).unwrap();
    api.client.request(request).await
}

/// A cluster whose new Pods are asked about; its control plane is in a network of Pods, if there is one.
pub(crate) async fn cluster(
    network: Option<&Network>,
    given: &Given<'_>,
) -> Option<(ApiServer, Plane)> {
    let (api, plane) = unasked(network, given).await?;
    is_asked(&api, &plane).await;
    Some((api, plane))
}

/// As [`cluster`], where nobody is asked about new Pods.
pub(crate) async fn unasked(
    network: Option<&Network>,
    given: &Given<'_>,
) -> Option<(ApiServer, Plane)> {
    let api = ApiServer::start().await?;
    let plane = Plane::start(api.kubeconfig(), network, given);
    if let Some(network) = network {
        network.lead_out(api.address(), api.address());
        network.lead_in(plane.admin).await;
        network.lead_in(plane.injector).await;
    }
    places(&api).await;
    plane.is_ready().await;
    Some((api, plane))
}

pub(crate) fn has_sidecar(pod: &Value) -> bool {
    let containers = pod["spec"]["initContainers"].as_array();
    containers.is_some_and(|all| all.iter().any(|one| one["name"] == "linkerd-proxy"))
}

/// The Pod that a Deployment's controller made.
pub(crate) async fn pod_of(api: &ApiServer, name: &str) -> Value {
    eventually("the Deployment's Pod", async || {
        let path = format!("/api/v1/namespaces/shop/pods?labelSelector=app%3D{name}");
        let mut pod = api.get(&path).await?["items"].as_array()?.first()?.clone();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        Some(pod)
    })
    .await
}

/// The message of an event about a Deployment.
async fn told(api: &ApiServer, name: &str, reason: &str) -> String {
    eventually(&format!("the event {reason} of {name}"), async || {
        let events = api.get("/api/v1/namespaces/shop/events").await?;
        let mut all = events["items"].as_array()?.iter();
        let event = all.find(|event| {
            let about = &event["involvedObject"];
            about["kind"] == "Deployment" && about["name"] == name && event["reason"] == reason
        });
        Some(event?["message"].as_str()?.to_owned())
    })
    .await
}

#[tokio::test]
async fn pods_of_deployments_get_a_sidecar_or_their_owner_is_told_why_not() {
    let Some((api, plane)) = cluster(None, &Given::default()).await else {
        return;
    };
    assert_eq!(answer_to_tls_1_2(plane.injector).await, TOO_OLD);
    api.apply(&deployment("web", &json!({}))).await;
    api.apply(&deployment("agent", &json!({"hostNetwork": true})))
        .await;
    let pod = pod_of(&api, "web").await;
    assert!(has_sidecar(&pod), "{pod}");
    let metadata = &pod["metadata"];
    assert_eq!(metadata["labels"]["linkerd.io/proxy-deployment"], "web");
    assert_eq!(metadata["labels"]["linkerd.io/workload-ns"], "shop");
    assert_eq!(metadata["annotations"]["linkerd.io/inject"], "enabled");
    assert_eq!(
        metadata["annotations"]["config.linkerd.io/proxy-log-format"],
        "plain"
    );
    assert!(!has_sidecar(&pod_of(&api, "agent").await));
    assert_eq!(told(&api, "web", "Injected").await, "The sidecar was added");
    let why = told(&api, "agent", "InjectionSkipped").await;
    assert!(why.contains("hostNetwork"), "{why}");
    let made = api.apply(&service("db", 3306, 3306)).await;
    assert_eq!(
        made["metadata"]["annotations"]["config.linkerd.io/opaque-ports"],
        "3306"
    );
    let made = api.apply(&service("web", 80, 8080)).await;
    assert!(made["metadata"]["annotations"].is_null(), "{made}");
    let (_, metrics) = linkerd_tests::page(plane.admin, "/metrics").await.unwrap();
    let answered = metrics
        .lines()
        .filter(|line| line.starts_with("proxy_inject_admission_responses_total{"));
    for wanted in [
        [
            r#"owner_kind="deployment""#,
            r#"annotation_at="namespace""#,
            r#"skip="false""#,
            r#"skip_reason="""#,
        ],
        [
            r#"owner_kind="deployment""#,
            r#"namespace="shop""#,
            r#"skip="true""#,
            r#"skip_reason="host_network_enabled""#,
        ],
    ] {
        let has = |line: &str| wanted.iter().all(|part| line.contains(part));
        assert!(answered.clone().any(has), "{wanted:?}\n{metrics}");
    }
}

#[tokio::test]
async fn while_the_injector_is_away_its_failure_policy_says_whether_pods_are_created_without_a_sidecar()
 {
    let Some((api, mut plane)) = cluster(None, &Given::default()).await else {
        return;
    };
    plane.kill();
    let refused = try_pod(&api, "shop").await.unwrap_err().to_string();
    assert!(
        refused.contains("failed calling webhook \"linkerd-proxy-injector.linkerd.io\""),
        "{refused}"
    );
    // It is asked about Pods and Services alone, and namespaces that are left out are not hurt.
    api.apply(&account("later")).await;
    let left_out =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}});
    api.apply(&left_out).await;
    eventually("a Pod of the cluster's own", async || {
        tried(&api, "kube-system").await
    })
    .await;
    let mut ignores = plane.webhook();
    ignores["webhooks"][0]["failurePolicy"] = "Ignore".into();
    api.apply(&ignores).await;
    let pod = eventually("a Pod without a webhook", async || {
        tried(&api, "shop").await
    })
    .await;
    assert!(!has_sidecar(&pod), "{pod}");
}

#[tokio::test]
async fn values_that_change_are_in_the_next_pods_and_bad_ones_in_none() {
    let Some((api, plane)) = cluster(None, &Given::default()).await else {
        return;
    };
    is_not_ready_without_anchors(&api).await;
    let values = plane.folder.path().join("values");
    fs::write(
        &values,
        "proxy: {image: {name: mirror/proxy, version: v2}}\n",
    )
    .unwrap();
    api.apply(&deployment("web", &json!({}))).await;
    let image = |pod: &Value| pod["spec"]["initContainers"][1]["image"].clone();
    assert_eq!(image(&pod_of(&api, "web").await), "mirror/proxy:v2");
    fs::write(&values, "proxy: {image: 7, uid: nobody}\n").unwrap();
    api.apply(&deployment("api", &json!({}))).await;
    assert_eq!(image(&pod_of(&api, "api").await), "mirror/proxy:v2");
    let log = fs::read_to_string(plane.folder.path().join("log")).unwrap();
    assert!(log.contains("the value `proxy.image`"), "{log}");
}

#[tokio::test]
async fn injected_pods_run_with_their_own_rules_and_policy_lets_in_whom_it_names() {
    let Some(mut network) = Network::make(Families::V4) else {
        return;
    };
    let Some((api, _plane)) = cluster(Some(&network), &Given::default()).await else {
        return;
    };
    for name in ["web", "api"] {
        api.apply(&deployment(name, &json!({}))).await;
    }
    let service = api.apply(&service("web", 80, 8080)).await;
    let ip: IpAddr = service["spec"]["clusterIP"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let service = SocketAddr::new(ip, 80);

    let web = run(&api, &mut network, "web").await;
    let own = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080));
    let application = node::listen(&network.namespace(web.number), own);
    tokio::spawn(say_yes(application));
    let client = run(&api, &mut network, "api").await;
    let pod = SocketAddr::new(web.ips[0], 8080);
    let is = async |from: u8, to: SocketAddr, wanted: u16| {
        eventually(&format!("{wanted} of {to} for {from}"), async || {
            (network.get(from, to).await? == wanted).then_some(())
        })
        .await;
    };
    is(client.number, service, 200).await;
    is(0, pod, 200).await;
    let (_, metrics) = web.admin(&network, "/metrics").await.unwrap();
    let is_mutual = |line: &str| {
        line.starts_with("request_total{")
            && line.contains(r#"direction="inbound""#)
            && line
                .contains(r#"client_id="api.shop.serviceaccount.identity.linkerd.cluster.local""#)
    };
    assert!(metrics.lines().any(is_mutual), "{metrics}");

    api.apply(&server("web", &json!({}))).await;
    let mut allowed = json!({
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "web-clients", "namespace": "shop"},
        "spec": {
            "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "web"},
            "requiredAuthenticationRefs": [{"kind": "ServiceAccount", "name": "api"}],
        },
    });
    api.apply(&allowed).await;
    is(0, pod, 403).await;
    is(client.number, service, 200).await;
    allowed["spec"]["requiredAuthenticationRefs"][0]["name"] = "agent".into();
    api.apply(&allowed).await;
    is(client.number, service, 403).await;
}

/// Runs the Pod of a Deployment, and tells the API server what a kubelet would.
pub(crate) async fn run(api: &ApiServer, network: &mut Network, name: &str) -> Running {
    let pod = pod_of(api, name).await;
    let token = api.token("shop", name, "identity.l5d.io").await;
    let running = Running::start(network, pod.clone(), &token).await;
    let ips: Vec<_> = running.ips.iter().map(|ip| json!({"ip": ip})).collect();
    api.set_status(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod["metadata"]["name"], "namespace": "shop"},
        "status": {
            "phase": "Running", "podIP": running.ips[0], "podIPs": ips,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }))
    .await;
    running
}
