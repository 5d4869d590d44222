//! Which endpoints clients get: what is in slices, and what a client on node n1 in zone z1 is told.

use super::{
    TOKEN, asked, client, cluster, get, next, pod, service, slice, socket, sockets, status,
};
use crate::{control_plane::ControlPlane, server::ApiServer};
use linkerd_tests::eventually;
use linkerd2_proxy_api::destination::update::Update;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tonic::Code;

/// A Service and its slices, by what is between the braces of each endpoint, and what a client is told.
struct Row {
    name: &'static str,
    /// More of the Service's specification.
    service: &'static str,
    four: &'static [&'static str],
    six: &'static [&'static str],
    told: &'static [&'static str],
}

const A: &str =
    r#""addresses": ["10.42.1.1"], "targetRef": {"kind": "Pod", "name": "a", "namespace": "shop"}"#;
const B: &str =
    r#""addresses": ["10.42.1.2"], "targetRef": {"kind": "Pod", "name": "b", "namespace": "shop"}"#;
const A6: &str =
    r#""addresses": ["fd00::a"], "targetRef": {"kind": "Pod", "name": "a", "namespace": "shop"}"#;
const BOTH: &[&str] = &["10.42.1.1:8080", "10.42.1.2:8080"];

const ROWS: &[Row] = &[
    Row {
        name: "plain",
        service: "",
        four: &["@A", "@B"],
        six: &[],
        told: BOTH,
    },
    Row {
        name: "headless",
        service: r#""clusterIP": "None""#,
        four: &["@A", "@B"],
        six: &[],
        told: BOTH,
    },
    Row {
        name: "not-ready",
        service: "",
        six: &[],
        told: &["10.42.1.2:8080"],
        four: &[
            r#"@A, "conditions": {"ready": false}"#,
            r#"@B, "conditions": {"ready": true}"#,
        ],
    },
    Row {
        name: "terminating",
        service: "",
        six: &[],
        told: &["10.42.1.2:8080"],
        four: &[
            r#"@A, "conditions": {"ready": false, "serving": true, "terminating": true}"#,
            "@B",
        ],
    },
    Row {
        name: "bare",
        service: "",
        six: &[],
        told: &["10.42.1.9:8080"],
        four: &[r#""addresses": ["10.42.1.9"]"#],
    },
    Row {
        name: "another-kind",
        service: "",
        six: &[],
        told: &["10.42.1.2:8080"],
        four: &[
            r#""addresses": ["10.42.1.9"], "targetRef": {"kind": "Node", "name": "n1"}"#,
            "@B",
        ],
    },
    Row {
        name: "local",
        service: r#""internalTrafficPolicy": "Local""#,
        six: &[],
        told: &["10.42.1.1:8080"],
        four: &[
            r#"@A, "nodeName": "n1""#,
            r#""addresses": ["10.42.1.9"], "nodeName": "n2""#,
        ],
    },
    Row {
        name: "hinted",
        service: "",
        six: &[],
        told: &["10.42.1.2:8080"],
        four: &[
            r#"@A, "hints": {"forZones": [{"name": "z2"}]}"#,
            r#"@B, "hints": {"forZones": [{"name": "z1"}]}"#,
        ],
    },
    Row {
        name: "half-hinted",
        service: "",
        six: &[],
        told: BOTH,
        four: &[r#"@A, "hints": {"forZones": [{"name": "z2"}]}"#, "@B"],
    },
    Row {
        name: "dual",
        service: "",
        four: &["@A", "@B"],
        six: &["@6"],
        told: &["10.42.1.2:8080", "[fd00::a]:8080"],
    },
];

fn endpoints(texts: &[&str]) -> Value {
    let read = |text: &&str| -> Value {
        let text = text.replace("@A", A).replace("@B", B).replace("@6", A6);
        serde_json::from_str(&format!("{{{text}}}")).unwrap()
    };
    texts.iter().map(read).collect()
}

#[tokio::test]
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
    for row in ROWS {
        for (family, texts) in [("IPv4", row.four), ("IPv6", row.six)] {
            if !texts.is_empty() {
                server
                    .apply(&slice(row.name, family, &endpoints(texts)))
                    .await;
            }
        }
        let mut spec: Value = serde_json::from_str(&format!("{{{}}}", row.service)).unwrap();
        spec["ports"] = json!([{"name": "http", "port": 80, "targetPort": "http"}]);
        server.apply(&service(row.name, &spec)).await;
        is_told(&plane, row).await;
    }
    an_address_of_a_pod_is_the_pod(&server, &plane).await;
    refusals(&server, &plane).await;
}

/// A Service without a selector, whose slice says an address and nothing of whose it is.
async fn an_address_of_a_pod_is_the_pod(server: &ApiServer, plane: &ControlPlane) {
    let addresses = endpoints(&[r#""addresses": ["10.42.1.2"]"#]);
    server.apply(&slice("by-address", "IPv4", &addresses)).await;
    let spec = json!({"ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    server.apply(&service("by-address", &spec)).await;
    let mut stream = get(plane, "by-address", TOKEN).await;
    let added = eventually("the endpoint", async || {
        match next(&mut stream).await.update? {
            Update::Add(set) => set.addrs.first().cloned(),
            Update::Remove(_) | Update::NoEndpoints(_) => None,
        }
    })
    .await;
    assert_eq!(added.metric_labels["pod"], "b");
    let identity = "web.shop.serviceaccount.identity.linkerd.cluster.local";
    let name = added.tls_identity.and_then(|tls| tls.server_name);
    assert_eq!(name.unwrap().name, identity);
    assert!(added.protocol_hint.is_some());
}

/// Slices and Pods may be seen one after the other: what counts is where it ends.
async fn is_told(plane: &ControlPlane, row: &Row) {
    let mut stream = get(plane, row.name, TOKEN).await;
    let mut has = BTreeSet::new();
    eventually(row.name, async || {
        match next(&mut stream).await.update? {
            Update::Add(set) => has.extend(sockets(&set.addrs)),
            Update::Remove(set) => {
                for address in &set.addrs {
                    has.remove(&socket(address).to_string());
                }
            }
            Update::NoEndpoints(_) => has.clear(),
        }
        has.iter().eq(row.told.iter()).then_some(())
    })
    .await;
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
