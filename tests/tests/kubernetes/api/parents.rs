//! More rows of `inbound_api*` and `outbound_api*`: ExternalWorkloads, EgressNetworks with each kind of route, backends of another
//! namespace, and what circuit breakers are told.

use super::*;
use linkerd_policy::outbound::FailureAccrual;

/// Kinds of routes, and what a destination that has one speaks.
const KINDS: [(&str, &str); 5] = [
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

/// What breaks circuits, in one line.
fn breaker(accrual: &FailureAccrual) -> String {
    let rate = accrual.success_rate.map(|rate| {
        format!(
            ", below {} of {:?} from {}",
            rate.threshold, rate.window, rate.min_requests
        )
    });
    let backoff = accrual.backoff;
    let hint = if backoff.respect_retry_after {
        ", retry-after"
    } else {
        ""
    };
    format!(
        "{} in a row{}; {:?}..{:?} jitter {}{hint}",
        accrual.max_consecutive_failures,
        rate.unwrap_or_default(),
        backoff.min,
        backoff.max,
        backoff.jitter
    )
}

/// The breaker of a policy for HTTP, if there is one.
fn breaker_of(policy: &OutboundPolicy) -> Option<String> {
    match &policy.protocol {
        Protocol::Detect { http1, .. } => Some(breaker(http1.failure_accrual.as_ref()?)),
        _ => None,
    }
}

#[tokio::test]
async fn circuit_breakers_are_told_what_annotations_say() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    let mode = "balancer.linkerd.io/failure-accrual";
    let consecutive = |key: &str| format!("{mode}-consecutive-{key}");
    let alpha = |key: &str| format!("balancer.alpha.linkerd.io/failure-accrual-{key}");
    let row = |mode_is: &str, rest: &[(String, &str)]| {
        let mut all = json!({mode: mode_is});
        for (key, value) in rest {
            all[key] = (*value).into();
        }
        all
    };
    let own = [
        (consecutive("max-failures"), "3"),
        (consecutive("min-penalty"), "2s"),
        (consecutive("max-penalty"), "20s"),
        (consecutive("jitter-ratio"), "0.25"),
    ];
    let rate = [
        (alpha("success-rate-threshold"), "0.5"),
        (alpha("success-rate-window"), "30s"),
        (alpha("success-rate-min-requests"), "9"),
        (alpha("honor-retry-after"), "true"),
    ];
    let rows = [
        (
            row("consecutive", &[]),
            Some("7 in a row; 1s..60s jitter 0.5"),
        ),
        (
            row("consecutive", &own),
            Some("3 in a row; 2s..20s jitter 0.25"),
        ),
        (
            row("unified", &[]),
            Some("7 in a row, below 0.8 of 10s from 5; 1s..60s jitter 0.5"),
        ),
        (
            row("unified", &rate),
            Some("7 in a row, below 0.5 of 30s from 9; 1s..60s jitter 0.5, retry-after"),
        ),
        // What only the other mode has is of no effect.
        (
            row("consecutive", &rate),
            Some("7 in a row; 1s..60s jitter 0.5"),
        ),
        (row("sometimes", &own), None),
    ];
    let mut stream = client.watch("shop", 80).await;
    let path = "/api/v1/namespaces/shop/services/web";
    for (annotations, wanted) in rows {
        let mut web = api.get(path).await.unwrap();
        web["metadata"]["annotations"] = annotations.clone();
        web["metadata"]["resourceVersion"] = Value::Null;
        api.replace(&web).await;
        eventually(&format!("{annotations}: {wanted:?}"), async || {
            let message = stream
                .0
                .message()
                .await
                .unwrap()
                .expect("the stream goes on");
            let said = breaker_of(&outbound_from_api(message).unwrap());
            (said.as_deref() == wanted).then_some(())
        })
        .await;
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
