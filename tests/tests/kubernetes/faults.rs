//! An API server that forgets, is busy or does not answer, and one that has very many objects: what is known stays, nobody who is
//! connected is told anything but news, and news apply when it is over.

use crate::{
    control_plane::{ControlPlane, Watched},
    destination::{added, get, next, service, slice, sockets},
    injection::{Given, Plane, has_sidecar, is_asked, places, tried},
    policy::{account, names, namespace, pod, running, server},
    server::ApiServer,
};
use futures::{StreamExt as _, stream};
use linkerd_tests::{
    api_relay::{Mode, Relay},
    eventually,
};
use linkerd2_proxy_api::{
    destination::{Update, update},
    inbound::Server,
    outbound::{
        OutboundPolicy, TrafficSpec, outbound_policies_client::OutboundPoliciesClient,
        traffic_spec::Target,
    },
};
use serde_json::{Value, json};
use tonic::Streaming;

/// Kinds that are watched for the streams of these tests.
const WATCHED: [&str; 5] = [
    "servers",
    "services",
    "endpointslices",
    "pods",
    "httproutes",
];

/// A version of the shop, by number: what the Server lets in, where the Service leads, which route it has.
async fn shop(api: &ApiServer, version: u8) {
    let access = ["all-unauthenticated", "all-authenticated"][usize::from(version % 2)];
    api.apply(&server("web", &json!({"accessPolicy": access})))
        .await;
    let address = json!([{"addresses": [format!("10.42.9.{version}")]}]);
    api.apply(&slice("web", "IPv4", &address)).await;
    api.apply(&route(version)).await;
}

fn route(version: u8) -> Value {
    json!({
        "apiVersion": "policy.linkerd.io/v1beta3", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "core", "kind": "Service", "name": "web", "port": 80}],
            "rules": [{"matches": [{"path": {"value": path(version)}}]}],
        },
    })
}

fn path(version: u8) -> String {
    format!("/{version}")
}

/// What a client of the shop is told, on all its streams.
struct Client {
    inbound: Watched,
    outbound: Streaming<OutboundPolicy>,
    endpoints: Streaming<Update>,
}

impl Client {
    async fn connect(plane: &ControlPlane) -> Self {
        let address = format!("http://{}", plane.policy);
        let mut outbound = OutboundPoliciesClient::connect(address).await.unwrap();
        let spec = TrafficSpec {
            source_workload: r#"{"ns":"shop","pod":"client"}"#.to_owned(),
            target: Some(Target::Authority("web.shop.svc.cluster.local:80".into())),
        };
        Self {
            inbound: plane.watch("shop", "web", 8080).await,
            outbound: outbound.watch(spec).await.unwrap().into_inner(),
            endpoints: get(plane, "web", crate::destination::TOKEN).await,
        }
    }

    /// Skips what came before this version.
    async fn reaches(&mut self, version: u8) {
        let wanted = access(version);
        let has = |server: &Server| (access_of(server) == wanted).then_some(());
        self.inbound.until("the Server", has).await;
        while !format!("{:?}", next(&mut self.outbound).await).contains(&path(version)) {}
        while sockets(&added(&mut self.endpoints).await) != [address(version)] {}
    }

    /// The next thing that is said on each stream is this version, and nothing is taken away but what it replaces.
    async fn is_told_nothing_but(&mut self, version: u8) {
        let server = self.inbound.next().await;
        assert_eq!(access_of(&server), access(version));
        let policy = format!("{:?}", next(&mut self.outbound).await);
        assert!(policy.contains(&path(version)), "{policy}");
        assert_eq!(
            sockets(&added_now(&mut self.endpoints).await),
            [address(version)]
        );
        let removed = next(&mut self.endpoints).await.update;
        assert!(
            matches!(&removed, Some(update::Update::Remove(set)) if set.addrs.len() == 1),
            "{removed:?}"
        );
    }
}

/// What the very next update adds.
async fn added_now(
    stream: &mut Streaming<Update>,
) -> Vec<linkerd2_proxy_api::destination::WeightedAddr> {
    let update = next(stream).await.update;
    assert!(matches!(update, Some(update::Update::Add(_))), "{update:?}");
    match update {
        Some(update::Update::Add(set)) => set.addrs,
        _ => Vec::new(),
    }
}

fn address(version: u8) -> String {
    format!("10.42.9.{version}:8080")
}

fn access(version: u8) -> bool {
    version.is_multiple_of(2)
}

/// Whether the Server `web` lets in clients without an identity.
fn access_of(server: &Server) -> bool {
    assert_eq!(names(server).0, "web");
    names(server).1 == ["default:all-unauthenticated"]
}

async fn known_shop() -> Option<ApiServer> {
    let api = ApiServer::start().await?;
    for object in [namespace("shop"), account("web"), pod("web")] {
        api.apply(&object).await;
    }
    api.set_status(&running("web", "10.42.0.3")).await;
    let ports = json!({"ports": [{"name": "http", "port": 80}]});
    api.apply(&service("web", &ports)).await;
    Some(api)
}

async fn ready(plane: &ControlPlane, wanted: u16) -> String {
    eventually(&format!("/ready {wanted}"), async || {
        let (status, text) = plane.page("/ready").await?;
        (status == wanted).then_some(text)
    })
    .await
}

#[tokio::test]
async fn an_api_server_that_forgets_is_busy_or_slow_takes_nothing_away_and_its_news_apply() {
    let Some(api) = known_shop().await else {
        return;
    };
    shop(&api, 0).await;
    let relay = Relay::start(&api).await;
    let plane = ControlPlane::spawn_with(relay.kubeconfig(), &[]);
    ready(&plane, 200).await;
    let mut first = Client::connect(&plane).await;
    first.reaches(0).await;
    for (mode, version) in [(Mode::Gone, 1), (Mode::Busy, 2), (Mode::Held, 3)] {
        relay.set(mode);
        relay.hurts(&WATCHED).await;
        // Who asks now is told what was known.
        let mut second = Client::connect(&plane).await;
        second.reaches(version - 1).await;
        let (status, _) = plane.page("/ready").await.unwrap();
        assert_eq!(status, 200, "{mode:?}");
        shop(&api, version).await;
        relay.set(Mode::Pass);
        first.is_told_nothing_but(version).await;
        second.is_told_nothing_but(version).await;
    }
    let log = plane.log();
    assert!(log.contains("Not watched for now"), "{log}");
    eventually("that nothing is wrong any more", async || {
        let (_, page) = plane.page("/status").await?;
        let status: Value = serde_json::from_str(&page).ok()?;
        status["problems"].as_array()?.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_control_plane_that_starts_while_its_api_server_is_busy_or_slow_waits_for_it() {
    let Some(api) = known_shop().await else {
        return;
    };
    shop(&api, 0).await;
    for mode in [Mode::Busy, Mode::Held] {
        let relay = Relay::start(&api).await;
        relay.set(mode);
        let plane = ControlPlane::spawn_with(relay.kubeconfig(), &[]);
        relay.hurts(&WATCHED).await;
        let why = ready(&plane, 503).await;
        assert!(why.contains("waits for"), "{why}");
        relay.set(Mode::Pass);
        ready(&plane, 200).await;
        Client::connect(&plane).await.reaches(0).await;
    }
}

/// Servers of the namespace `shop`, many at a time, in no order.
async fn create(api: &ApiServer, servers: impl Iterator<Item = Value>) {
    let create = async |object: Value| {
        let path = "/apis/policy.linkerd.io/v1beta3/namespaces/shop/servers";
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request.body(object.to_string().into_bytes()).unwrap();
        api.client.request::<Value>(request).await.unwrap();
    };
    stream::iter(servers).for_each_concurrent(32, create).await;
}

#[tokio::test]
async fn of_five_thousand_servers_the_right_one_decides_and_one_that_cannot_be_read_hurts_none() {
    const SERVERS: usize = 5_000;
    let Some(api) = known_shop().await else {
        return;
    };
    let relay = Relay::start(&api).await;
    let plane = ControlPlane::spawn_with(relay.kubeconfig(), &[]);
    ready(&plane, 200).await;
    api.apply(&server("oldest", &json!({}))).await;
    let mut stream = plane.watch("shop", "web", 8080).await;
    let named = |wanted: &'static str| move |s: &Server| (names(s).0 == wanted).then_some(());
    stream.until("the oldest", named("oldest")).await;
    // Other workloads, and other ports of this one.
    let others = (3..SERVERS).map(|number| {
        let rest = if number % 2 == 0 {
            json!({"podSelector": {"matchLabels": {"app": format!("app-{number}")}}})
        } else {
            json!({"port": 10_000 + number})
        };
        server(&format!("server-{number}"), &rest)
    });
    create(&api, others).await;
    let bad = server("unreadable", &json!({"proxyProtocol": "SPDY", "port": 9}));
    api.apply(&bad).await;
    // The name comes first, and the age counts.
    api.apply(&server("a-younger", &json!({}))).await;
    eventually("that all are known", async || {
        let (_, page) = plane.page("/metrics").await?;
        let size = format!(
            r#"inbound_index_server_index_size{{namespace="shop"}} {}"#,
            SERVERS - 1
        );
        page.lines().any(|line| line == size).then_some(())
    })
    .await;
    let (_, page) = plane.page("/status").await.unwrap();
    let status: Value = serde_json::from_str(&page).unwrap();
    let problems = status["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0]["object"], "Server shop/unreadable");

    // All of them are listed anew, in pages of which one comes too late.
    relay.set(Mode::GoneWithPages);
    relay.hurts(&["servers"]).await;
    eventually("that a page is refused", async || {
        plane.log().contains("as this test wants it").then_some(())
    })
    .await;
    api.delete(&server("oldest", &json!({}))).await;
    relay.set(Mode::Pass);
    let after = stream.next().await;
    assert_eq!(names(&after).0, "a-younger");
    let mut other = plane.watch("shop", "web", 10_003).await;
    other.until("another port's", named("server-3")).await;
}

/// The version of everything that the API server has.
async fn version(api: &ApiServer) -> u64 {
    let list = api.get("/api/v1/namespaces").await.unwrap();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    version.parse().unwrap()
}

/// A namespace whose Pods get sidecars, or not.
fn asking(name: &str, inject: &str) -> Value {
    let mut namespace = namespace(name);
    namespace["metadata"]["annotations"] = json!({"linkerd.io/inject": inject});
    namespace
}

#[tokio::test]
async fn the_injector_knows_namespaces_while_the_api_server_fails_and_learns_what_it_missed() {
    let Some(api) = ApiServer::start().await else {
        return;
    };
    places(&api).await;
    let relay = Relay::start(&api).await;
    let plane = Plane::start(relay.kubeconfig(), None, &Given::injector());
    plane.write("anchors", "PEM");
    is_asked(&api, &plane).await;
    let is_injected = async |namespace: &str, wanted: bool| {
        eventually(&format!("{namespace}: {wanted}"), async || {
            (has_sidecar(&tried(&api, namespace).await?) == wanted).then_some(())
        })
        .await;
    };
    for (mode, name) in [
        (Mode::Gone, "one"),
        (Mode::Busy, "two"),
        (Mode::Held, "three"),
    ] {
        relay.set(mode);
        relay.hurts(&["namespaces"]).await;
        assert!(has_sidecar(&tried(&api, "shop").await.unwrap()), "{mode:?}");
        api.apply(&asking(name, "enabled")).await;
        relay.set(Mode::Pass);
        is_injected(name, true).await;
    }
    // What it had seen is forgotten, and it is told so when it asks again.
    relay.set(Mode::Forgotten(version(&api).await));
    relay.hurts(&["namespaces"]).await;
    assert!(has_sidecar(&tried(&api, "shop").await.unwrap()));
    api.apply(&asking("four", "enabled")).await;
    api.apply(&asking("one", "disabled")).await;
    is_injected("four", true).await;
    is_injected("one", false).await;
}

#[tokio::test]
async fn certificates_are_kept_when_what_was_seen_of_them_is_forgotten() {
    const SECRET: &str = "linkerd-policy-validator-k8s-tls";
    const KINDS: [&str; 2] = ["secrets", "validatingwebhookconfigurations"];
    let Some(api) = ApiServer::start().await else {
        return;
    };
    api.apply(&namespace("linkerd")).await;
    let relay = Relay::start(&api).await;
    let _plane = ControlPlane::spawn_with(relay.kubeconfig(), &["--webhook-certificates"]);
    let made = async || {
        let path = format!("/api/v1/namespaces/linkerd/secrets/{SECRET}");
        let secret = api.get(&path).await?;
        Some(secret["metadata"]["uid"].as_str()?.to_owned())
    };
    let first = eventually("a certificate", made).await;
    relay.watches(&KINDS).await;
    relay.set(Mode::Forgotten(version(&api).await));
    relay.hurts(&KINDS).await;
    // What is listed from now on is not forgotten.
    api.apply(&namespace("later")).await;
    relay.watches(&KINDS).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": "linkerd"}});
    api.delete(&secret).await;
    eventually("another certificate", async || {
        made().await.filter(|uid| *uid != first)
    })
    .await;
}
