//! What the control plane says of objects in their statuses, and which of several replicas says it.

use crate::{
    control_plane::ControlPlane,
    gateway,
    policy::{namespace, server},
    server::{ApiServer, path},
};
use linkerd_tests::eventually;
use serde_json::{Value, json};

const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/linkerd/leases/policy-controller-write";

/// A lease that is lost and taken soon enough for a test.
const SOON: [&str; 1] = ["--lease-seconds=3"];

fn object(version: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": version, "kind": kind,
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

fn route(name: &str, parents: &Value) -> Value {
    let spec = json!({"parentRefs": parents});
    object("policy.linkerd.io/v1beta3", "HTTPRoute", name, &spec)
}

fn gateway_route(kind: &str, name: &str, parent: &Value, backend: &Value) -> Value {
    let version = match kind {
        "TLSRoute" | "TCPRoute" => "gateway.networking.k8s.io/v1alpha2",
        _ => "gateway.networking.k8s.io/v1",
    };
    let rules = json!([{"backendRefs": backend}]);
    object(
        version,
        kind,
        name,
        &json!({"parentRefs": [parent], "rules": rules}),
    )
}

fn service(name: &str, rest: &Value) -> Value {
    let mut spec = json!({"ports": [{"port": 80}]});
    for (key, value) in rest.as_object().unwrap() {
        spec[key] = value.clone();
    }
    object("v1", "Service", name, &spec)
}

fn limit(name: &str, server: &str) -> Value {
    let spec = json!({
        "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": server},
        "total": {"requestsPerSecond": 10},
    });
    object(
        "policy.linkerd.io/v1alpha1",
        "HTTPLocalRateLimitPolicy",
        name,
        &spec,
    )
}

fn to_server(name: &str) -> Value {
    json!({"group": "policy.linkerd.io", "kind": "Server", "name": name})
}

fn to_service(name: &str) -> Value {
    json!({"group": "", "kind": "Service", "name": name, "port": 80})
}

/// What conditions say: reasons, `!` before what does not hold, and messages.
fn conditions(list: &Value) -> String {
    let one = |condition: &Value| {
        let text = |name: &str| condition[name].as_str().unwrap_or_default();
        let not = if text("status") == "True" { "" } else { "!" };
        let message = match text("message") {
            "" => String::new(),
            message => format!(" ({message})"),
        };
        format!("{not}{}{message}", text("reason"))
    };
    let list = list.as_array().map_or(&[] as &[Value], Vec::as_slice);
    list.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// What a status says, in one line: parents of routes with their conditions, or an object's own conditions.
fn said(object: &Value) -> String {
    let status = &object["status"];
    let Some(parents) = status["parents"].as_array() else {
        return conditions(&status["conditions"]);
    };
    let one = |entry: &Value| {
        let parent = &entry["parentRef"];
        let text = |name: &str| parent[name].as_str().unwrap_or_default();
        let by = match entry["controllerName"].as_str() {
            Some("linkerd.io/policy-controller") => "",
            _ => "(another) ",
        };
        let port = parent["port"].as_u64().map(|port| format!(":{port}"));
        format!(
            "{by}{}/{} {}{} {}",
            text("group"),
            text("kind"),
            text("name"),
            port.unwrap_or_default(),
            conditions(&entry["conditions"])
        )
        .trim()
        .to_owned()
    };
    parents.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Waits until an object says this of itself.
async fn says(server: &ApiServer, object: &Value, wanted: &str) {
    let mut last = String::new();
    let what = format!("{} {wanted}", object["metadata"]["name"]);
    let found = async {
        eventually(&what, async || {
            last = said(&server.get(&path(object)).await?);
            (last == wanted).then_some(())
        })
        .await;
    };
    found.await;
}

async fn shop() -> Option<ApiServer> {
    let server = ApiServer::start().await?;
    gateway::define(&server).await;
    for name in ["linkerd", "shop"] {
        server.apply(&namespace(name)).await;
    }
    Some(server)
}

fn start(server: &ApiServer, name: &str) -> ControlPlane {
    ControlPlane::spawn_as(server.kubeconfig(), name, &SOON)
}

#[tokio::test]
async fn statuses_say_what_is_accepted_and_follow_what_they_depend_on() {
    let Some(server) = shop().await else {
        return;
    };
    let _plane = start(&server, "a");
    let web = self::server("web", &json!({}));
    let http = route("r", &json!([to_server("web"), to_server("gone")]));
    server.apply(&http).await;
    let neither = "policy.linkerd.io/Server web !NoMatchingParent; policy.linkerd.io/Server gone !NoMatchingParent";
    says(&server, &http, neither).await;
    server.apply(&web).await;
    let one =
        "policy.linkerd.io/Server web Accepted; policy.linkerd.io/Server gone !NoMatchingParent";
    says(&server, &http, one).await;
    server.delete(&web).await;
    says(&server, &http, neither).await;
    server.apply(&route("r", &json!([]))).await;
    says(&server, &http, "").await;

    // Services, and backends.
    let (plain, headless) = (
        service("web", &json!({})),
        service("headless", &json!({"clusterIP": "None"})),
    );
    server.apply(&plain).await;
    server.apply(&headless).await;
    let back = |name: &str| json!([{"name": name, "port": 80}]);
    for (name, parent, backend, wanted) in [
        ("good", "web", "web", "web:80 Accepted ResolvedRefs"),
        (
            "no-backend",
            "web",
            "gone",
            "web:80 Accepted !BackendNotFound (Service not found gone)",
        ),
        (
            "headless",
            "headless",
            "web",
            "headless:80 !NoMatchingParent (parent service must have a ClusterIP) ResolvedRefs",
        ),
        (
            "no-parent",
            "gone",
            "web",
            "gone:80 !NoMatchingParent ResolvedRefs",
        ),
    ] {
        let route = gateway_route("HTTPRoute", name, &to_service(parent), &back(backend));
        server.apply(&route).await;
        says(&server, &route, &format!("core/Service {wanted}")).await;
    }
    // The more specific kind takes the Service over, and gives it back.
    let grpc = gateway_route("GRPCRoute", "grpc", &to_service("web"), &back("web"));
    server.apply(&grpc).await;
    says(&server, &grpc, "core/Service web:80 Accepted ResolvedRefs").await;
    let good = gateway_route("HTTPRoute", "good", &to_service("web"), &back("web"));
    says(
        &server,
        &good,
        "core/Service web:80 !RouteReasonConflicted ResolvedRefs",
    )
    .await;
    for kind in ["TLSRoute", "TCPRoute"] {
        let route = gateway_route(kind, "stream", &to_service("web"), &back("web"));
        server.apply(&route).await;
        says(
            &server,
            &route,
            "core/Service web:80 !RouteReasonConflicted ResolvedRefs",
        )
        .await;
    }
    server.delete(&grpc).await;
    says(&server, &good, "core/Service web:80 Accepted ResolvedRefs").await;
}

#[tokio::test]
async fn rate_limits_and_egress_networks_say_which_of_them_count() {
    let Some(server) = shop().await else {
        return;
    };
    let _plane = start(&server, "a");
    server.apply(&self::server("web", &json!({}))).await;
    let (first, second, lost) = (limit("a", "web"), limit("b", "web"), limit("c", "gone"));
    for limit in [&first, &second, &lost] {
        server.apply(limit).await;
    }
    says(&server, &first, "Accepted").await;
    says(&server, &second, "!RateLimitReasonAlreadyExists").await;
    says(&server, &lost, "!NoMatchingTarget").await;
    let target = server.get(&path(&first)).await.unwrap()["status"]["targetRef"].clone();
    assert_eq!(target, to_server("web"));
    server.delete(&first).await;
    says(&server, &second, "Accepted").await;

    let egress = |name: &str, cidr: &str| {
        let spec = json!({"trafficPolicy": "Allow", "networks": [{"cidr": cidr}]});
        object("policy.linkerd.io/v1alpha1", "EgressNetwork", name, &spec)
    };
    let (outside, inside) = (
        egress("outside", "203.0.113.0/24"),
        egress("inside", "10.1.0.0/16"),
    );
    server.apply(&outside).await;
    server.apply(&inside).await;
    says(&server, &outside, "Accepted").await;
    let overlaps = "!EgressReasonNetworkOverlap (networks overlap with clusterNetworks)";
    says(&server, &inside, overlaps).await;
    let to = json!({"group": "policy.linkerd.io", "kind": "EgressNetwork", "name": "inside", "port": 443});
    let out = json!([{"group": "policy.linkerd.io", "kind": "EgressNetwork", "name": "inside", "port": 443}]);
    let route = gateway_route("TLSRoute", "r", &to, &out);
    server.apply(&route).await;
    let wanted = "policy.linkerd.io/EgressNetwork inside:443 !NoMatchingParent (EgressNetwork parent has not been accepted) ResolvedRefs";
    says(&server, &route, wanted).await;
}

#[tokio::test]
async fn what_another_controller_says_stays_and_what_says_the_same_is_not_written_again() {
    let Some(server) = shop().await else {
        return;
    };
    let plane = start(&server, "a");
    server.apply(&self::server("web", &json!({}))).await;
    let route = route(
        "r",
        &json!([to_server("web"), {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"}]),
    );
    server.apply(&route).await;
    says(&server, &route, "policy.linkerd.io/Server web Accepted").await;
    let mut found = server.get(&path(&route)).await.unwrap();
    let ours = found["status"]["parents"][0].clone();
    let theirs = json!({
        "controllerName": "example.com/gateway", "conditions": [],
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"},
    });
    // Another controller takes ours away as it adds its own.
    found["status"]["parents"] = json!([theirs]);
    server.replace_status(&found).await;
    let both =
        "(another) gateway.networking.k8s.io/Gateway g; policy.linkerd.io/Server web Accepted";
    says(&server, &route, both).await;
    let now = server.get(&path(&route)).await.unwrap();
    assert_eq!(now["status"]["parents"][0], theirs);
    assert_eq!(now["status"]["parents"][1]["parentRef"], ours["parentRef"]);
    let manager = now["metadata"]["managedFields"].to_string();
    assert!(
        manager.contains("linkerd.io/policy-controller"),
        "{manager}"
    );

    // Looked at again and again, nothing is written: two changes, and none refused.
    server
        .apply(&self::server("other", &json!({"port": 1})))
        .await;
    let third = self::route("third", &json!([to_server("other")]));
    server.apply(&third).await;
    says(&server, &third, "policy.linkerd.io/Server other Accepted").await;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let later = server.get(&path(&route)).await.unwrap();
    assert_eq!(version(&later), version(&now));
    let (_, metrics) = plane.page("/metrics").await.unwrap();
    assert!(
        metrics.contains("\nresource_status_patches_total 3"),
        "{metrics}"
    );
    assert!(
        metrics.contains("\ncontroller_status_lease_held 1"),
        "{metrics}"
    );
}

/// Who holds the lease.
async fn holder(server: &ApiServer) -> Option<String> {
    let lease = server.get(LEASE).await?;
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

async fn held_by(server: &ApiServer, name: &str) {
    eventually(&format!("the lease of {name}"), async || {
        (holder(server).await? == name).then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_two_replicas_one_writes_and_the_other_takes_over_when_it_goes_or_loses_the_lease() {
    let Some(server) = shop().await else {
        return;
    };
    server.apply(&self::server("web", &json!({}))).await;
    let first = start(&server, "first");
    held_by(&server, "first").await;
    let second = start(&server, "second");
    let ready = async |plane: &ControlPlane| {
        eventually("readiness", async || {
            let (status, _) = plane.page("/ready").await?;
            (status == 200).then_some(())
        })
        .await;
    };
    ready(&second).await;
    let accepted = "policy.linkerd.io/Server web Accepted";
    let one = route("one", &json!([to_server("web")]));
    server.apply(&one).await;
    says(&server, &one, accepted).await;
    let metric = async |plane: &ControlPlane, line: &str| {
        let (_, page) = plane.page("/metrics").await.unwrap();
        page.lines().any(|found| found == line)
    };
    // The status is there before whoever wrote it is told so.
    eventually("that the change is counted", async || {
        let is_counted = metric(&first, "resource_status_patches_total 1").await;
        is_counted.then_some(())
    })
    .await;
    assert!(metric(&second, "resource_status_patches_total 0").await);

    // Somebody takes the lease away: the first stops, says so, and goes on with all else.
    let mut lease = server.get(LEASE).await.unwrap();
    lease["spec"]["holderIdentity"] = "nobody".into();
    server.replace(&lease).await;
    eventually("that the loss is noticed", async || {
        let lost = first.log().contains("Writes statuses no longer");
        (lost && metric(&first, "controller_status_lease_held 0").await).then_some(())
    })
    .await;
    let (status, _) = first.page("/ready").await.unwrap();
    assert_eq!(status, 200);
    // When it has run out, one of the two takes it, and what was left undone is done by that one.
    let two = route("two", &json!([to_server("web")]));
    server.apply(&two).await;
    says(&server, &two, accepted).await;
    let holder = holder(&server).await.unwrap();
    assert!(["first", "second"].contains(&&*holder), "{holder}");

    // A holder that ends lets go; one that is killed is waited for.
    let (stays, mut goes) = if holder == "first" {
        (second, first)
    } else {
        (first, second)
    };
    goes.kill();
    let other = if holder == "first" { "second" } else { "first" };
    held_by(&server, other).await;
    let three = route("three", &json!([to_server("web")]));
    server.apply(&three).await;
    says(&server, &three, accepted).await;
    assert!(metric(&stays, "controller_status_lease_held 1").await);
    let lease = server.get(LEASE).await.unwrap();
    let labels = &lease["metadata"]["labels"];
    assert_eq!(labels["linkerd.io/control-plane-component"], "destination");
    assert_eq!(labels["linkerd.io/control-plane-ns"], "linkerd");
}

#[tokio::test]
async fn a_holder_that_ends_lets_go_of_the_lease() {
    let Some(server) = shop().await else {
        return;
    };
    let mut plane = start(&server, "first");
    held_by(&server, "first").await;
    plane.terminate();
    assert!(server.get(LEASE).await.is_some());
    assert_eq!(holder(&server).await, None);
}
