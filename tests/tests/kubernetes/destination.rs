//! Objects of an API server become endpoints and profiles, row by row of the contract (control plane §4.2 to §4.5).

mod choice;
mod profiles;

use crate::{
    clusters::right,
    control_plane::ControlPlane,
    policy::{account, namespace},
    server::ApiServer,
};
use linkerd_tests::{eventually, within};
use linkerd2_proxy_api::{
    destination::{
        GetDestination, Update, WeightedAddr, destination_client::DestinationClient,
        protocol_hint::Protocol, update,
    },
    net::{TcpAddress, ip_address::Ip},
};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tonic::{Code, Streaming, transport::Channel};

pub(crate) const TOKEN: &str = r#"{"ns":"shop","nodeName":"n1","pod":"client"}"#;
const IDENTITY: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

fn node(name: &str, zone: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
    })
}

pub(crate) fn service(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

/// A slice of a Service, as somebody writes one.
pub(crate) fn slice(service: &str, family: &str, endpoints: &Value) -> Value {
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
pub(crate) fn pod(name: &str) -> Value {
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

pub(crate) fn status(name: &str, ips: &[&str], ready: &str) -> Value {
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

pub(crate) fn sockets(list: &[WeightedAddr]) -> Vec<String> {
    let addresses = list
        .iter()
        .map(|a| socket(a.addr.as_ref().unwrap()).to_string());
    let mut all: Vec<_> = addresses.collect();
    all.sort();
    all
}

pub(crate) async fn client(plane: &ControlPlane) -> DestinationClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", plane.destination)).unwrap();
    let channel = eventually("the destination service", async || {
        endpoint.connect().await.ok()
    })
    .await;
    DestinationClient::new(channel)
}

pub(crate) fn asked(path: &str, token: &str) -> GetDestination {
    GetDestination {
        path: path.to_owned(),
        context_token: token.to_owned(),
        ..GetDestination::default()
    }
}

/// Endpoints of a Service of `shop`, once the Service is known.
pub(crate) async fn get(plane: &ControlPlane, name: &str, token: &str) -> Streaming<Update> {
    let mut client = client(plane).await;
    let path = format!("{name}.shop.svc.cluster.local:80");
    eventually(&path, async || {
        match client.get(asked(&path, token)).await {
            Ok(stream) => Some(stream.into_inner()),
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{path}: {status}");
                None
            }
        }
    })
    .await
}

pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> T {
    within("a message", stream.message())
        .await
        .unwrap()
        .expect("the stream goes on")
}

/// The next update that adds something.
pub(crate) async fn added(stream: &mut Streaming<Update>) -> Vec<WeightedAddr> {
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
    // Nor is it said any more that kinds are not watched of which there is no news.
    right(&plane).await;
}
