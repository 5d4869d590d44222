//! More rows of `inbound_api*` and `outbound_api*`: ExternalWorkloads, EgressNetworks with each kind of route, and backends of
//! another namespace.

use super::*;

/// Kinds of routes, and what a destination that has one speaks.
pub(super) const KINDS: [(&str, &str); 5] = [
    ("policy HTTPRoute", "detect"),
    ("HTTPRoute", "detect"),
    ("GRPCRoute", "grpc"),
    ("TLSRoute", "tls"),
    ("TCPRoute", "opaque"),
];

#[tokio::test]
async fn every_kind_of_route_of_an_egress_network_comes_before_what_its_policy_says() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    let network = |policy: &str| {
        let spec = json!({"trafficPolicy": policy});
        object("policy.linkerd.io/v1alpha1", "EgressNetwork", "out", &spec)
    };
    let egress = address([203, 0, 113, 7], 443);
    let mut stream = client.try_watch("shop", egress).await.unwrap();
    let to_out = parent("policy.linkerd.io", "EgressNetwork", "out", Some(443));
    let out = json!([{"group": "policy.linkerd.io", "kind": "EgressNetwork", "name": "out", "port": 443}]);
    for (policy, name, refused) in [
        ("Allow", "allow", ["", "", ""]),
        (
            "Deny",
            "deny",
            [
                "!403 traffic not allowed",
                "!7 traffic not allowed",
                " Forbidden",
            ],
        ),
    ] {
        api.apply(&network(policy)).await;
        let [http, grpc, bytes] = refused;
        let own = "203.0.113.7:443";
        let without = format!("detect http-egress-{name}: {http}{own}");
        stream.becomes(&without).await;
        for (kind, speaks) in KINDS {
            let object = route(kind, "r", &to_out, backends(out.clone()));
            api.apply(&object).await;
            let rest = match speaks {
                "detect" => format!("; http-egress-{name}: {http}{own}"),
                "grpc" => format!("; grpc-egress-{name}: {grpc}{own}"),
                "tls" => format!("; tls-egress-{name}: {own}{bytes}"),
                // Of TCPRoutes there is one, and then nothing else.
                _ => String::new(),
            };
            stream.becomes(&format!("{speaks} r: {own}*1{rest}")).await;
            api.delete(&object).await;
            stream.becomes(&without).await;
        }
    }
}

#[tokio::test]
async fn every_kind_of_route_may_send_to_a_service_of_another_namespace() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    let far = with(
        service("far", json!([{"port": 80}])),
        "namespace",
        json!("other"),
    );
    api.apply(&far).await;
    let mut stream = client.watch("shop", 80).await;
    stream.becomes("detect http: web:80").await;
    for (kind, speaks) in KINDS {
        let rules = backends(json!([{"name": "far", "namespace": "other", "port": 80}]));
        let object = route(kind, "r", &to_web(), rules);
        api.apply(&object).await;
        stream.becomes(&format!("{speaks} r: far.other:80*1")).await;
        api.delete(&object).await;
        stream.becomes("detect http: web:80").await;
    }
}

#[tokio::test]
async fn what_a_port_of_an_external_workload_is_to_enforce_follows_its_objects() {
    let Some((api, plane)) = shop().await else {
        return;
    };
    let spec = json!({
        "meshTLS": {"identity": "spiffe://root/vm", "serverName": "vm"},
        "ports": [{"port": 8080, "name": "http"}], "workloadIPs": [{"ip": "192.0.2.1"}],
    });
    let vm = object(
        "workload.linkerd.io/v1beta1",
        "ExternalWorkload",
        "vm",
        &spec,
    );
    api.apply(&with(vm, "labels", json!({"app": "vm"}))).await;
    let token = || r#"{"ns":"shop","external_workload":"vm"}"#.to_owned();
    let mut stream = eventually("the workload", async || {
        let stream = plane.watch_workload(token(), 8080).await;
        stream.is_known().then_some(stream)
    })
    .await;
    let mut becomes = async |wanted: &str| becomes_inbound(&mut stream, wanted).await;
    // There are no probes of it.
    becomes("all-unauthenticated [all-unauthenticated] default[]").await;
    let server = object(
        "policy.linkerd.io/v1beta3",
        "Server",
        "vm",
        &json!({
            "externalWorkloadSelector": {"matchLabels": {"app": "vm"}},
            "port": "http", "proxyProtocol": "HTTP/1",
        }),
    );
    api.apply(&server).await;
    becomes("vm [] default[]").await;
    let to_vm = json!({"group": "policy.linkerd.io", "kind": "Server", "name": "vm"});
    let policy = object(
        "policy.linkerd.io/v1alpha1",
        "AuthorizationPolicy",
        "of-server",
        &json!({"targetRef": to_vm, "requiredAuthenticationRefs": []}),
    );
    api.apply(&policy).await;
    becomes("vm [of-server] default[]").await;
    let route = route("policy HTTPRoute", "r", &to_vm, json!([{}]));
    api.apply(&route).await;
    becomes("vm [of-server] r[]").await;
    api.delete(&route).await;
    api.delete(&policy).await;
    becomes("vm [] default[]").await;
    api.delete(&server).await;
    becomes("all-unauthenticated [all-unauthenticated] default[]").await;
}
