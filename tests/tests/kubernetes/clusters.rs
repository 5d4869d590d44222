//! Services that stand for those of other clusters, each a real API server of its own (control plane §4.6).

use crate::{
    control_plane::ControlPlane,
    destination::{TOKEN, added, asked, client, get, next, pod, service, slice, sockets, status},
    policy::{account, namespace},
    server::ApiServer,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use linkerd_tests::{eventually, within};
use linkerd2_proxy_api::destination::{Update, WeightedAddr, WeightedAddrSet, update};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs};
use tonic::{Code, Streaming};

const PATH: &str = "api-west.shop.svc.cluster.local:80";
const CREDENTIALS: &str = "/api/v1/namespaces/linkerd/secrets/cluster-credentials-west";

/// What the account of a link may do in the cluster that it leads to: nothing of Nodes, Namespaces or ExternalWorkloads.
fn remote_access() -> [Value; 3] {
    let version = "rbac.authorization.k8s.io/v1";
    let metadata = json!({"name": "remote-access"});
    let rule = |group: &str, resources: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": ["get", "list", "watch"]});
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "remote-access", "namespace": "shop"}}),
        json!({"apiVersion": version, "kind": "ClusterRole", "metadata": metadata, "rules": [
            rule("", &["pods", "services", "endpoints"]),
            rule("apps", &["replicasets"]),
            rule("batch", &["jobs"]),
            rule("discovery.k8s.io", &["endpointslices"]),
            rule("policy.linkerd.io", &["servers"]),
        ]}),
        json!({
            "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "remote-access"},
            "subjects": [{"kind": "ServiceAccount", "name": "remote-access", "namespace": "shop"}],
        }),
    ]
}

/// A Secret that leads to a cluster, as `linkerd multicluster link` makes one.
fn credentials(cluster: &str, kubeconfig: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "mirror.linkerd.io/remote-kubeconfig",
        "metadata": {
            "name": format!("cluster-credentials-{cluster}"), "namespace": "linkerd",
            "labels": {"multicluster.linkerd.io/cluster-name": cluster},
            "annotations": {
                "multicluster.linkerd.io/trust-domain": "west.test",
                "multicluster.linkerd.io/cluster-domain": "west.local",
            },
        },
        "data": {"kubeconfig": STANDARD.encode(kubeconfig.to_string())},
    })
}

/// The cluster in the west, with a Service of one endpoint, and what leads to it.
async fn west() -> Option<(ApiServer, Value)> {
    let west = ApiServer::start().await?;
    let objects = [namespace("shop"), account("web")];
    for object in objects.iter().chain(&remote_access()) {
        west.apply(object).await;
    }
    for (name, ip) in [("api-0", "10.50.0.1"), ("api-1", "10.50.0.2")] {
        west.apply(&pod(name)).await;
        west.set_status(&status(name, &[ip], "True")).await;
    }
    let ports = json!({"ports": [{"name": "http", "port": 80}], "internalTrafficPolicy": "Local"});
    west.apply(&service("api", &ports)).await;
    west.apply(&of_pods(&["10.50.0.1"])).await;
    let text = fs::read_to_string(west.kubeconfig()).unwrap();
    let mut kubeconfig: Value = serde_json::from_str(&text).unwrap();
    let cluster = &mut kubeconfig["clusters"][0]["cluster"];
    let ca = fs::read(cluster["certificate-authority"].as_str().unwrap()).unwrap();
    *cluster =
        json!({"server": cluster["server"], "certificate-authority-data": STANDARD.encode(ca)});
    let audience = "https://kubernetes.default.svc.cluster.local";
    let token = west.token("shop", "remote-access", audience).await;
    kubeconfig["users"][0]["user"] = json!({"token": token});
    Some((west, kubeconfig))
}

/// The slice of the Service `api`, with Pods in order.
fn of_pods(addresses: &[&str]) -> Value {
    let endpoint = |(at, ip): (usize, &&str)| {
        let pod = json!({"kind": "Pod", "name": format!("api-{at}"), "namespace": "shop"});
        json!({"addresses": [ip], "targetRef": pod, "zone": "z7", "hints": {"forZones": [{"name": "z7"}]}})
    };
    let endpoints: Vec<Value> = addresses.iter().enumerate().map(endpoint).collect();
    slice("api", "IPv4", &json!(endpoints))
}

/// This cluster, whose control plane knows others.
async fn here() -> Option<(ApiServer, ControlPlane)> {
    let here = ApiServer::start().await?;
    for object in [namespace("shop"), namespace("linkerd")] {
        here.apply(&object).await;
    }
    let plane = ControlPlane::spawn_with(here.kubeconfig(), &["--remote-clusters"]);
    Some((here, plane))
}

/// A Service here that stands for `api` in the west.
fn stands_for_west() -> Value {
    let mut service = service(
        "api-west",
        &json!({"ports": [{"name": "http", "port": 80}]}),
    );
    service["metadata"]["labels"] = json!({
        "multicluster.linkerd.io/remote-discovery": "west",
        "multicluster.linkerd.io/remote-service": "api",
    });
    service
}

/// The next set that is added, with its labels.
async fn added_set(stream: &mut Streaming<Update>) -> WeightedAddrSet {
    let added = match next(stream).await.update {
        Some(update::Update::Add(set)) => Ok(set),
        other => Err(other),
    };
    added.expect("something is added")
}

async fn removed(stream: &mut Streaming<Update>) -> usize {
    let removed = match next(stream).await.update {
        Some(update::Update::Remove(set)) => Ok(set.addrs.len()),
        other => Err(other),
    };
    removed.expect("something is removed")
}

/// Why endpoints of `api-west` are not told, once it is so.
async fn refused(plane: &ControlPlane, wanted: (Code, &str)) {
    let mut client = client(plane).await;
    eventually(wanted.1, async || {
        let status = client.get(asked(PATH, TOKEN)).await.err()?;
        ((status.code(), status.message()) == wanted).then_some(())
    })
    .await;
}

/// Waits until the control plane says something of itself.
async fn says(plane: &ControlPlane, page: &str, wanted: &str) {
    let mut last = None;
    eventually(wanted, async || {
        last = plane.page(page).await;
        last.as_ref()?.1.contains(wanted).then_some(())
    })
    .await;
}

/// Waits until nothing is wrong.
pub(crate) async fn right(plane: &ControlPlane) {
    eventually("nothing is wrong", async || {
        let (_, text) = plane.page("/status").await?;
        let status: Value = serde_json::from_str(&text).ok()?;
        (status["problems"] == json!([])).then_some(())
    })
    .await;
}

fn identity(address: &WeightedAddr) -> String {
    let tls = address.tls_identity.as_ref().unwrap();
    tls.server_name.as_ref().unwrap().name.clone()
}

fn labels(set: &WeightedAddrSet) -> BTreeMap<&str, &str> {
    let labels = set.metric_labels.iter();
    labels.map(|(k, v)| (k.as_str(), v.as_str())).collect()
}

#[tokio::test]
async fn a_service_has_the_endpoints_of_the_one_in_another_cluster_that_it_stands_for() {
    let Some((mut west, kubeconfig)) = west().await else {
        return;
    };
    let Some((here, plane)) = here().await else {
        return;
    };
    here.apply(&stands_for_west()).await;
    refused(&plane, (Code::NotFound, "Remote cluster not found: west")).await;

    here.apply(&credentials("west", &kubeconfig)).await;
    let mut stream = get(&plane, "api-west", TOKEN).await;
    let set = added_set(&mut stream).await;
    let wanted = [
        ("namespace", "shop"),
        ("service", "api"),
        ("target_cluster", "west"),
        ("target_service", "api"),
        ("target_service_namespace", "shop"),
    ];
    assert_eq!(labels(&set), BTreeMap::from(wanted));
    // Neither nodes nor hints of another cluster choose among its endpoints.
    assert_eq!(sockets(&set.addrs), ["10.50.0.1:8080"]);
    let wanted = "web.shop.serviceaccount.identity.linkerd.west.test";
    assert_eq!(identity(&set.addrs[0]), wanted);
    assert!(set.addrs[0].protocol_hint.is_some());
    says(&plane, "/metrics", "\ncluster_store_size 1\n").await;
    says(
        &plane,
        "/metrics",
        r#"endpoints_pods{cluster="west",namespace="shop",service="api",port="80","#,
    )
    .await;

    west.apply(&of_pods(&["10.50.0.1", "10.50.0.2"])).await;
    assert_eq!(sockets(&added(&mut stream).await), ["10.50.0.2:8080"]);

    // While the other cluster is away, what was known stays; when it is back, so are its changes.
    west.kill();
    says(&plane, "/status", "cluster west").await;
    let mut other = get(&plane, "api-west", TOKEN).await;
    let both = ["10.50.0.1:8080", "10.50.0.2:8080"];
    assert_eq!(sockets(&added(&mut other).await), both);
    west.start_server().await;
    west.apply(&of_pods(&["10.50.0.1"])).await;
    assert_eq!(removed(&mut stream).await, 1);
    right(&plane).await;

    here.delete(&credentials("west", &kubeconfig)).await;
    let end = within("the stream's end", stream.message()).await.unwrap();
    assert!(end.is_none(), "{end:?}");
    refused(&plane, (Code::NotFound, "Remote cluster not found: west")).await;
    says(&plane, "/metrics", "\ncluster_store_size 0\n").await;

    here.merge(
        "/api/v1/namespaces/shop/services/api-west",
        &json!({"metadata": {"labels": {"multicluster.linkerd.io/remote-service": null}}}),
    )
    .await;
    let text = format!("Remote discovery service missing remote service name {PATH}");
    refused(&plane, (Code::FailedPrecondition, &text)).await;
}

#[tokio::test]
async fn a_secret_that_is_changed_or_broken_takes_no_endpoint_away() {
    let Some((west, kubeconfig)) = west().await else {
        return;
    };
    let Some((here, plane)) = here().await else {
        return;
    };
    here.apply(&stands_for_west()).await;
    here.apply(&credentials("west", &kubeconfig)).await;
    let mut stream = get(&plane, "api-west", TOKEN).await;
    assert_eq!(sockets(&added(&mut stream).await), ["10.50.0.1:8080"]);

    // Another token leads to another watch.
    let audience = "https://kubernetes.default.svc.cluster.local";
    let mut renewed = kubeconfig.clone();
    let token = west.token("shop", "remote-access", audience).await;
    renewed["users"][0]["user"] = json!({"token": token});
    here.apply(&credentials("west", &renewed)).await;
    eventually("another watch", async || {
        (plane.log().matches("Linked").count() == 2).then_some(())
    })
    .await;
    west.apply(&of_pods(&["10.50.0.1", "10.50.0.2"])).await;
    let set = added_set(&mut stream).await;
    assert_eq!(
        sockets(&set.addrs),
        ["10.50.0.2:8080"],
        "and nothing before"
    );

    let mut runs = renewed.clone();
    runs["users"][0]["user"] =
        json!({"exec": {"command": "sh", "apiVersion": "client.authentication.k8s.io/v1"}});
    here.apply(&credentials("west", &runs)).await;
    says(&plane, "/status", "data.kubeconfig: users[0].user.exec").await;
    let annotations = json!({"multicluster.linkerd.io/trust-domain": null});
    here.merge(
        CREDENTIALS,
        &json!({"metadata": {"annotations": annotations}}),
    )
    .await;
    says(
        &plane,
        "/status",
        "metadata.annotations[multicluster.linkerd.io/trust-domain]",
    )
    .await;
    west.apply(&of_pods(&["10.50.0.1"])).await;
    assert_eq!(removed(&mut stream).await, 1, "the old watch goes on");
    here.apply(&credentials("west", &renewed)).await;
    right(&plane).await;
}

#[tokio::test]
async fn a_federated_service_has_the_endpoints_of_its_members_in_all_clusters() {
    let Some((west, kubeconfig)) = west().await else {
        return;
    };
    let Some((here, plane)) = here().await else {
        return;
    };
    let ports = json!({"ports": [{"name": "http", "port": 80}]});
    here.apply(&service("api-here", &ports)).await;
    let mut own = of_pods(&["10.42.0.1"]);
    own["metadata"]["labels"]["kubernetes.io/service-name"] = json!("api-here");
    own["endpoints"] = json!([{"addresses": ["10.42.0.1"]}]);
    here.apply(&own).await;
    let mut federated = service("api-federated", &ports);
    federated["metadata"]["annotations"] = json!({
        "multicluster.linkerd.io/local-discovery": "api-here",
        "multicluster.linkerd.io/remote-discovery": "api@west,api@unknown",
    });
    here.apply(&federated).await;
    // A member in a cluster that is not known takes the others away from nobody.
    let mut stream = get(&plane, "api-federated", TOKEN).await;
    let set = added_set(&mut stream).await;
    assert_eq!(labels(&set)["service"], "api-here");
    assert_eq!(sockets(&set.addrs), ["10.42.0.1:8080"]);
    says(&plane, "/status", "unknown").await;

    here.apply(&credentials("west", &kubeconfig)).await;
    let set = added_set(&mut stream).await;
    assert_eq!(labels(&set)["target_cluster"], "west");
    assert_eq!(sockets(&set.addrs), ["10.50.0.1:8080"]);
    west.apply(&of_pods(&["10.50.0.1", "10.50.0.2"])).await;
    assert_eq!(sockets(&added(&mut stream).await), ["10.50.0.2:8080"]);

    let path = "/api/v1/namespaces/shop/services/api-federated";
    let members = |remote: &str| json!({"metadata": {"annotations": {"multicluster.linkerd.io/remote-discovery": remote}}});
    here.merge(path, &members("other@west")).await;
    assert_eq!(removed(&mut stream).await, 2);
    let own =
        json!({"metadata": {"annotations": {"multicluster.linkerd.io/local-discovery": null}}});
    here.merge(path, &own).await;
    let none = next(&mut stream).await.update;
    assert!(matches!(none, Some(update::Update::NoEndpoints(none)) if none.exists));
    here.merge(path, &members("api@west")).await;
    assert_eq!(added(&mut stream).await.len(), 2);
}
