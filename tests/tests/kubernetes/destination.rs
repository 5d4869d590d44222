//! Objects of an API server become endpoints and profiles, row by row of the contract (control plane §4.2 to §4.5).

use crate::{
    control_plane::ControlPlane,
    policy::{account, namespace},
    server::ApiServer,
};
use linkerd_tests::{eventually, within};
use linkerd2_proxy_api::{
    destination::{
        DestinationProfile, GetDestination, Update, WeightedAddr,
        destination_client::DestinationClient, protocol_hint::Protocol, update,
    },
    net::{TcpAddress, ip_address::Ip},
};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tonic::{Code, Status, Streaming, transport::Channel};

const TOKEN: &str = r#"{"ns":"shop","nodeName":"n1","pod":"client"}"#;
const IDENTITY: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

fn node(name: &str, zone: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
    })
}

fn service(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

/// A slice of a Service, as somebody writes one.
fn slice(service: &str, family: &str, endpoints: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_lowercase()), "namespace": "shop",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family, "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// A meshed Pod without an owner.
fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop",
            "labels": {"app": name, "linkerd.io/control-plane-ns": "linkerd"},
            "annotations": {"config.linkerd.io/opaque-ports": "6000"},
        },
        "spec": {
            "serviceAccountName": "web", "nodeName": "n1",
            "containers": [
                {"name": "app", "image": "app", "ports": [{"containerPort": 8080, "name": "http", "hostPort": 18080}]},
                {"name": "linkerd-proxy", "image": "proxy", "env": [
                    {"name": "LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "value": "[::]:5143"},
                    {"name": "LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "value": "[::]:4191"},
                ]},
            ],
        },
    })
}

fn status(name: &str, ips: &[&str], ready: &str) -> Value {
    let list: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "status": {
            "phase": "Running", "podIP": ips[0], "podIPs": list, "hostIP": "192.0.2.7",
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

fn socket(address: &TcpAddress) -> SocketAddr {
    let ip = match address.ip.unwrap().ip.unwrap() {
        Ip::Ipv4(ip) => IpAddr::V4(Ipv4Addr::from(ip)),
        Ip::Ipv6(ip) => IpAddr::V6(Ipv6Addr::from(
            (u128::from(ip.first) << 64) | u128::from(ip.last),
        )),
    };
    SocketAddr::new(ip, address.port.try_into().unwrap())
}

fn sockets(list: &[WeightedAddr]) -> Vec<String> {
    let addresses = list
        .iter()
        .map(|a| socket(a.addr.as_ref().unwrap()).to_string());
    let mut all: Vec<_> = addresses.collect();
    all.sort();
    all
}

async fn client(plane: &ControlPlane) -> DestinationClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", plane.destination)).unwrap();
    let channel = eventually("the destination service", async || {
        endpoint.connect().await.ok()
    })
    .await;
    DestinationClient::new(channel)
}

fn asked(path: &str, token: &str) -> GetDestination {
    GetDestination {
        path: path.to_owned(),
        context_token: token.to_owned(),
        ..GetDestination::default()
    }
}

/// Endpoints of a Service of `shop`, once the Service is known.
async fn get(plane: &ControlPlane, name: &str, token: &str) -> Streaming<Update> {
    let mut client = client(plane).await;
    let path = format!("{name}.shop.svc.cluster.local:80");
    eventually(&path, async || {
        match client.get(asked(&path, token)).await {
            Ok(stream) => Some(stream.into_inner()),
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => unreachable!("{path}: {status}"),
        }
    })
    .await
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    within("a message", stream.message())
        .await
        .unwrap()
        .expect("the stream goes on")
}

/// The next update that adds something.
async fn added(stream: &mut Streaming<Update>) -> Vec<WeightedAddr> {
    loop {
        if let Some(update::Update::Add(set)) = next(stream).await.update {
            return set.addrs;
        }
    }
}

async fn cluster() -> Option<(ApiServer, ControlPlane)> {
    let server = ApiServer::start().await?;
    for object in [
        namespace("shop"),
        account("web"),
        node("n1", "z1"),
        node("n2", "z2"),
    ] {
        server.apply(&object).await;
    }
    let plane = ControlPlane::start(&server).await;
    Some((server, plane))
}

#[tokio::test]
async fn a_deployments_pod_is_an_endpoint_from_its_readiness_to_its_services_end() {
    let Some((server, plane)) = cluster().await else {
        return;
    };
    let ports = |target: &Value| json!({"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": target}]});
    server.apply(&service("web", &ports(&json!("http")))).await;
    let mut stream = get(&plane, "web", TOKEN).await;
    let first = next(&mut stream).await.update.unwrap();
    assert!(matches!(first, update::Update::NoEndpoints(none) if none.exists));

    let template = json!({
        "metadata": {"labels": {"app": "web", "linkerd.io/control-plane-ns": "linkerd"}},
        "spec": pod("web")["spec"],
    });
    server
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template},
        }))
        .await;
    let name = eventually("the Pod", async || {
        let pods = server.get("/api/v1/namespaces/shop/pods").await?;
        let name = pods["items"].as_array()?.first()?["metadata"]["name"].as_str()?;
        Some(name.to_owned())
    })
    .await;
    server
        .set_status(&status(&name, &["10.42.0.3"], "True"))
        .await;
    let list = added(&mut stream).await;
    assert_eq!(sockets(&list), ["10.42.0.3:8080"]);
    let endpoint = &list[0];
    let labels: std::collections::BTreeMap<_, _> = endpoint.metric_labels.iter().collect();
    for (key, value) in [
        ("pod", name.as_str()),
        ("deployment", "web"),
        ("serviceaccount", "web"),
        ("control_plane_ns", "linkerd"),
        ("zone", "z1"),
        ("zone_locality", "local"),
    ] {
        assert_eq!(
            labels.get(&key.to_owned()).map(|v| v.as_str()),
            Some(value),
            "{labels:?}"
        );
    }
    assert!(
        labels.contains_key(&"pod_template_hash".to_owned()) && labels.len() == 7,
        "{labels:?}"
    );
    let tls = endpoint.tls_identity.as_ref().unwrap();
    assert_eq!(tls.server_name.as_ref().unwrap().name, IDENTITY);
    let hint = endpoint.protocol_hint.as_ref().unwrap();
    assert!(matches!(hint.protocol, Some(Protocol::H2(_))), "{hint:?}");
    assert_eq!(endpoint.weight, 10_000);

    // Another target port of the Pod that stays: the cluster's slice follows, and so does the stream.
    server.apply(&service("web", &ports(&json!(9090)))).await;
    assert_eq!(sockets(&added(&mut stream).await), ["10.42.0.3:9090"]);
    server
        .set_status(&status(&name, &["10.42.0.3"], "False"))
        .await;
    eventually("that it is gone", async || {
        matches!(
            next(&mut stream).await.update,
            Some(update::Update::NoEndpoints(_))
        )
        .then_some(())
    })
    .await;
    server
        .set_status(&status(&name, &["10.42.0.3"], "True"))
        .await;
    assert_eq!(sockets(&added(&mut stream).await), ["10.42.0.3:9090"]);
    server.delete(&service("web", &json!({}))).await;
    let removed = next(&mut stream).await.update.unwrap();
    assert!(matches!(removed, update::Update::Remove(set) if set.addrs.len() == 1));
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a table, row by row, of one API server"
)]
async fn endpoints_are_chosen_as_the_contract_says() {
    let Some((server, plane)) = cluster().await else {
        return;
    };
    for (name, ips) in [
        ("a", vec!["10.42.1.1", "fd00::a"]),
        ("b", vec!["10.42.1.2"]),
    ] {
        server.apply(&pod(name)).await;
        server.set_status(&status(name, &ips, "True")).await;
    }
    let of = |name: &str| json!({"kind": "Pod", "name": name, "namespace": "shop"});
    let at = |ip: &str, rest: &Value| {
        let mut endpoint = json!({"addresses": [ip]});
        for (key, value) in rest.as_object().unwrap() {
            endpoint[key] = value.clone();
        }
        endpoint
    };
    let (a, b) = ("10.42.1.1", "10.42.1.2");
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let plain = json!({});
    let both = || {
        json!([
            at(a, &json!({"targetRef": of("a")})),
            at(b, &json!({"targetRef": of("b")}))
        ])
    };
    // Name, more of the Service, its IPv4 slice, its IPv6 slice, and what a client on n1 in z1 gets.
    let none = json!([]);
    for (name, more, four, six, want) in [
        (
            "plain",
            &plain,
            both(),
            &none,
            vec!["10.42.1.1:8080", "10.42.1.2:8080"],
        ),
        (
            "not-ready",
            &plain,
            json!([
                at(
                    a,
                    &json!({"targetRef": of("a"), "conditions": {"ready": false}})
                ),
                at(
                    b,
                    &json!({"targetRef": of("b"), "conditions": {"ready": true}})
                ),
            ]),
            &none,
            vec!["10.42.1.2:8080"],
        ),
        (
            "terminating",
            &plain,
            json!([
                at(
                    a,
                    &json!({"targetRef": of("a"), "conditions": {"ready": false, "serving": true, "terminating": true}})
                ),
                at(b, &json!({"targetRef": of("b")})),
            ]),
            &none,
            vec!["10.42.1.2:8080"],
        ),
        (
            "bare",
            &plain,
            json!([at("10.42.1.9", &plain)]),
            &none,
            vec!["10.42.1.9:8080"],
        ),
        (
            "another-kind",
            &plain,
            json!([
                at(
                    "10.42.1.9",
                    &json!({"targetRef": {"kind": "Node", "name": "n1"}})
                ),
                at(b, &json!({"targetRef": of("b")})),
            ]),
            &none,
            vec!["10.42.1.2:8080"],
        ),
        (
            "local",
            &json!({"internalTrafficPolicy": "Local"}),
            json!([
                at(a, &json!({"targetRef": of("a"), "nodeName": "n1"})),
                at("10.42.1.9", &json!({"nodeName": "n2"})),
            ]),
            &none,
            vec!["10.42.1.1:8080"],
        ),
        (
            "hinted",
            &plain,
            json!([
                at(a, &json!({"targetRef": of("a"), "hints": zone("z2")})),
                at(b, &json!({"targetRef": of("b"), "hints": zone("z1")})),
            ]),
            &none,
            vec!["10.42.1.2:8080"],
        ),
        (
            "half-hinted",
            &plain,
            json!([
                at(a, &json!({"targetRef": of("a"), "hints": zone("z2")})),
                at(b, &json!({"targetRef": of("b")})),
            ]),
            &none,
            vec!["10.42.1.1:8080", "10.42.1.2:8080"],
        ),
        (
            "dual",
            &plain,
            both(),
            &json!([at("fd00::a", &json!({"targetRef": of("a")}))]),
            vec!["10.42.1.2:8080", "[fd00::a]:8080"],
        ),
        (
            "headless",
            &json!({"clusterIP": "None"}),
            both(),
            &none,
            vec!["10.42.1.1:8080", "10.42.1.2:8080"],
        ),
    ] {
        let mut spec = json!({"ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        // Slices first: the first message is about all of them.
        for (family, endpoints) in [("IPv4", &four), ("IPv6", six)] {
            if endpoints != &none {
                server.apply(&slice(name, family, endpoints)).await;
            }
        }
        server.apply(&service(name, &spec)).await;
        let mut stream = get(&plane, name, TOKEN).await;
        let mut has = std::collections::BTreeSet::new();
        eventually(name, async || {
            match next(&mut stream).await.update? {
                update::Update::Add(set) => has.extend(sockets(&set.addrs)),
                update::Update::Remove(set) => {
                    for address in &set.addrs {
                        has.remove(&socket(address).to_string());
                    }
                }
                update::Update::NoEndpoints(_) => has.clear(),
            }
            has.iter().eq(want.iter()).then_some(())
        })
        .await;
    }
    refusals(&server, &plane).await;
}

/// What is no question about endpoints.
async fn refusals(server: &ApiServer, plane: &ControlPlane) {
    let alias = json!({"type": "ExternalName", "externalName": "example.com"});
    server.apply(&service("alias", &alias)).await;
    let mut client = client(plane).await;
    for (path, code, text) in [
        (
            "nobody.shop.svc.cluster.local:80",
            Code::NotFound,
            "Service nobody.shop not found",
        ),
        (
            "10.96.0.9:80",
            Code::InvalidArgument,
            "IP queries not supported by Get API: host=10.96.0.9",
        ),
        (
            "plain.shop.svc.cluster.local:0",
            Code::InvalidArgument,
            "Invalid authority: plain.shop.svc.cluster.local:0",
        ),
        (
            "example.com:80",
            Code::InvalidArgument,
            "Invalid authority: example.com:80",
        ),
    ] {
        let status = client.get(asked(path, TOKEN)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text));
    }
    eventually("the alias", async || {
        let path = "alias.shop.svc.cluster.local:80";
        let status = client.get(asked(path, TOKEN)).await.unwrap_err();
        (status.code() == Code::InvalidArgument).then_some(())
    })
    .await;
}

/// The next profile for which there is an answer.
async fn profile(
    plane: &ControlPlane,
    path: &str,
    what: &str,
    ask: impl Fn(&DestinationProfile) -> bool,
) -> DestinationProfile {
    let mut client = client(plane).await;
    let asking = async || -> Result<Streaming<DestinationProfile>, Status> {
        Ok(client.get_profile(asked(path, TOKEN)).await?.into_inner())
    };
    let mut asking = asking;
    let mut stream = eventually(what, async || asking().await.ok()).await;
    within(what, async {
        loop {
            let profile = next(&mut stream).await;
            if ask(&profile) {
                return profile;
            }
        }
    })
    .await
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a table, row by row, of one API server"
)]
async fn profiles_are_those_of_who_has_the_name_or_the_address() {
    let Some((server, plane)) = cluster().await else {
        return;
    };
    server.apply(&pod("a")).await;
    server
        .set_status(&status("a", &["10.42.2.1"], "False"))
        .await;
    let web = json!({"selector": {"app": "a"}, "clusterIP": "10.96.7.7", "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    let mut web = service("web", &web);
    web["metadata"]["annotations"] = json!({"config.linkerd.io/opaque-ports": "http"});
    server.apply(&web).await;
    let name = "web.shop.svc.cluster.local";

    let found = profile(&plane, &format!("{name}:80"), "the Service", |p| {
        !p.fully_qualified_name.is_empty()
    })
    .await;
    assert_eq!(
        (found.fully_qualified_name.as_str(), found.opaque_protocol),
        (name, true)
    );
    assert!(found.parent_ref.is_some() && found.profile_ref.is_none());
    let by_address = profile(&plane, "10.96.7.7:80", "its address", |p| {
        !p.fully_qualified_name.is_empty()
    })
    .await;
    assert_eq!(by_address, found);
    let undeclared = profile(&plane, &format!("{name}:81"), "another port", |_| true).await;
    assert_eq!(undeclared, DestinationProfile::default());

    // A Pod that runs has a profile, ready or not; its proxy's ports take no transport header.
    let known = |p: &DestinationProfile| {
        p.endpoint
            .as_ref()
            .is_some_and(|e| e.metric_labels.contains_key("pod"))
    };
    let endpoint = profile(&plane, "10.42.2.1:8080", "the Pod", known)
        .await
        .endpoint
        .unwrap();
    assert_eq!(endpoint.metric_labels["namespace"], "shop");
    assert_eq!(sockets(&[endpoint]), ["10.42.2.1:8080"]);
    let opaque = profile(&plane, "10.42.2.1:6000", "an opaque port", known).await;
    let hint = opaque.endpoint.unwrap().protocol_hint.unwrap();
    assert!(opaque.opaque_protocol && matches!(hint.protocol, Some(Protocol::Opaque(_))));
    assert_eq!(hint.opaque_transport.unwrap().inbound_port, 5143);
    let mapped = profile(&plane, "192.0.2.7:18080", "the node's port", known).await;
    assert!(mapped.endpoint.unwrap().metric_labels["pod"] == "a");
    let unknown = profile(&plane, "10.42.2.9:8080", "nobody", |_| true)
        .await
        .endpoint
        .unwrap();
    assert!(unknown.tls_identity.is_none() && unknown.metric_labels.is_empty());

    // The client's own namespace's ServiceProfile wins over the Service's.
    let of = |namespace: &str, route: &str| {
        json!({
            "apiVersion": "linkerd.io/v1alpha2", "kind": "ServiceProfile",
            "metadata": {"name": "far.away.svc.cluster.local", "namespace": namespace},
            "spec": {
                "routes": [{"name": route, "condition": {"pathRegex": "/.*"}}],
                "dstOverrides": [{"authority": "other.away.svc.cluster.local", "weight": "500m"}],
            },
        })
    };
    server.apply(&namespace("away")).await;
    let mut far = service("far", &json!({"ports": [{"port": 80}]}));
    far["metadata"]["namespace"] = json!("away");
    for object in [far, of("away", "theirs"), of("shop", "ours")] {
        server.apply(&object).await;
    }
    let named = |route: &'static str| {
        move |p: &DestinationProfile| {
            p.routes
                .first()
                .is_some_and(|r| r.metrics_labels.get("route").map(String::as_str) == Some(route))
        }
    };
    let path = "far.away.svc.cluster.local:80";
    let ours = profile(&plane, path, "the client's profile", named("ours")).await;
    assert_eq!(
        ours.dst_overrides[0].authority,
        "other.away.svc.cluster.local:80"
    );
    assert_eq!(ours.dst_overrides[0].weight, 5000);
    assert!(ours.profile_ref.is_some());
    server.delete(&of("shop", "ours")).await;
    profile(&plane, path, "the Service's profile", named("theirs")).await;
}

#[tokio::test]
async fn an_api_server_or_etcd_that_goes_takes_no_endpoint_away_and_news_apply_when_it_is_back() {
    let Some((mut server, plane)) = cluster().await else {
        return;
    };
    let ports = json!({"ports": [{"name": "http", "port": 80}]});
    let of = |ip: &str| slice("web", "IPv4", &json!([{"addresses": [ip]}]));
    server.apply(&of("10.42.3.1")).await;
    server.apply(&service("web", &ports)).await;
    let mut stream = get(&plane, "web", TOKEN).await;
    assert_eq!(sockets(&added(&mut stream).await), ["10.42.3.1:8080"]);
    server.kill();
    eventually("that it is noticed", async || {
        plane.log().contains("Not watched for now").then_some(())
    })
    .await;
    let mut new = get(&plane, "web", TOKEN).await;
    assert_eq!(sockets(&added(&mut new).await), ["10.42.3.1:8080"]);
    server.restart_etcd();
    server.start_server().await;
    server.apply(&of("10.42.3.2")).await;
    // What comes next is the news, and nothing in between.
    for stream in [&mut stream, &mut new] {
        let first = next(stream).await.update.unwrap();
        assert!(
            matches!(&first, update::Update::Add(set) if sockets(&set.addrs) == ["10.42.3.2:8080"]),
            "{first:?}"
        );
        let second = next(stream).await.update.unwrap();
        assert!(
            matches!(&second, update::Update::Remove(set) if set.addrs.len() == 1),
            "{second:?}"
        );
    }
}
