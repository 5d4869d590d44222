//! What the definitions of the mesh's kinds say by themselves, without a webhook: fields that must be there, what they are where
//! nothing is said, how much of them there may be, and which versions are served.

use crate::{admit::object, policy::namespace, server::ApiServer};
use serde_json::{Value, json};

async fn start() -> Option<ApiServer> {
    let api = ApiServer::start().await?;
    api.apply(&namespace("shop")).await;
    Some(api)
}

/// Of another version than the newest.
fn older(mut object: Value, version: &str) -> Value {
    object["apiVersion"] = version.into();
    object
}

fn reference(kind: &str) -> Value {
    json!({"group": "policy.linkerd.io", "kind": kind, "name": "web"})
}

fn without(mut object: Value, field: &str) -> Value {
    object["spec"].as_object_mut().unwrap().remove(field);
    object
}

fn route(rule: &Value) -> Value {
    object("HTTPRoute", &json!({"rules": [rule]}))
}

fn matches(one: &Value) -> Value {
    route(&json!({"matches": [one]}))
}

fn server(rest: &Value) -> Value {
    let mut spec = json!({"podSelector": {}, "port": 80});
    for (key, value) in rest.as_object().unwrap() {
        spec[key] = value.clone();
    }
    object("Server", &spec)
}

fn workload(rest: &Value) -> Value {
    let mut spec = json!({"meshTLS": {"identity": "a.b", "serverName": "a.b"}});
    for (key, value) in rest.as_object().unwrap() {
        spec[key] = value.clone();
    }
    object("ExternalWorkload", &spec)
}

fn redirect(to: &Value) -> Value {
    let filter = json!({"type": "RequestRedirect", "requestRedirect": to});
    route(&json!({"filters": [filter]}))
}

fn modifier(changes: &Value) -> Value {
    let filter = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": changes});
    route(&json!({"filters": [filter]}))
}

fn saz(server: &Value, client: &Value) -> Value {
    let spec = json!({"server": server, "client": client});
    object("ServerAuthorization", &spec)
}

#[tokio::test]
async fn what_is_not_said_is_written_into_the_object() {
    let Some(api) = start().await else {
        return;
    };
    let every = json!({"type": "PathPrefix", "value": "/"});
    let pair = json!([{"name": "a", "value": "b"}]);
    for (object, pointer, value) in [
        (server(&json!({})), "/proxyProtocol", json!("unknown")),
        (server(&json!({})), "/accessPolicy", json!("deny")),
        (
            object("HTTPRoute", &json!({"parentRefs": [{"name": "a"}]})),
            "/parentRefs/0",
            json!({"group": "policy.linkerd.io", "kind": "Gateway", "name": "a"}),
        ),
        (
            object("HTTPRoute", &json!({})),
            "/rules",
            json!([{"matches": [{"path": every}]}]),
        ),
        (
            route(&json!({})),
            "/rules/0/matches",
            json!([{"path": every}]),
        ),
        (
            matches(&json!({})),
            "/rules/0/matches/0/path",
            every.clone(),
        ),
        (
            matches(&json!({"path": {"value": "/a"}})),
            "/rules/0/matches/0/path/type",
            json!("PathPrefix"),
        ),
        (
            matches(&json!({"path": {"type": "Exact"}})),
            "/rules/0/matches/0/path/value",
            json!("/"),
        ),
        (
            matches(&json!({"headers": pair})),
            "/rules/0/matches/0/headers/0/type",
            json!("Exact"),
        ),
        (
            matches(&json!({"queryParams": pair})),
            "/rules/0/matches/0/queryParams/0/type",
            json!("Exact"),
        ),
        (
            redirect(&json!({"hostname": "a"})),
            "/rules/0/filters/0/requestRedirect/statusCode",
            json!(302),
        ),
        (
            route(&json!({"backendRefs": [{"name": "a", "port": 80}]})),
            "/rules/0/backendRefs/0",
            json!({"group": "", "kind": "Service", "name": "a", "port": 80, "weight": 1}),
        ),
        (
            workload(&json!({"ports": [{"port": 80}]})),
            "/ports/0/protocol",
            json!("TCP"),
        ),
    ] {
        let applied = api.apply(&object).await;
        let found = applied["spec"].pointer(pointer);
        assert_eq!(found, Some(&value), "{pointer} of {object}");
        api.delete(&object).await;
    }
}

/// So many of something, or a text of this length.
fn many(item: &Value, count: usize) -> Value {
    vec![item.clone(); count].into()
}

/// What there may be at most, the number, and the object that has so many.
type Limit = (&'static str, usize, fn(usize) -> Value);

const LIMITS: [Limit; 18] = [
    ("parentRefs", 32, |n| {
        object(
            "HTTPRoute",
            &json!({"parentRefs": many(&json!({"name": "a"}), n)}),
        )
    }),
    ("hostnames", 16, |n| {
        object("HTTPRoute", &json!({"hostnames": many(&json!("a.b"), n)}))
    }),
    ("rules", 16, |n| {
        object("HTTPRoute", &json!({"rules": many(&json!({}), n)}))
    }),
    ("matches", 8, |n| {
        route(&json!({"matches": many(&json!({}), n)}))
    }),
    ("headers", 16, |n| {
        matches(&json!({"headers": many(&json!({"name": "a", "value": "b"}), n)}))
    }),
    ("queryParams", 16, |n| {
        matches(&json!({"queryParams": many(&json!({"name": "a", "value": "b"}), n)}))
    }),
    ("path", 1024, |n| {
        matches(&json!({"path": {"value": "/".repeat(n)}}))
    }),
    ("filters", 16, |n| {
        route(&json!({"filters": many(&json!({"type": "RequestRedirect"}), n)}))
    }),
    ("add", 16, |n| {
        modifier(&json!({"add": many(&json!({"name": "a", "value": "b"}), n)}))
    }),
    ("set", 16, |n| {
        modifier(&json!({"set": many(&json!({"name": "a", "value": "b"}), n)}))
    }),
    ("remove", 16, |n| {
        modifier(&json!({"remove": many(&json!("a"), n)}))
    }),
    ("backendRefs", 16, |n| {
        route(&json!({"backendRefs": many(&json!({"name": "a"}), n)}))
    }),
    ("weight", 1_000_000, |n| {
        route(&json!({"backendRefs": [{"name": "a", "weight": n}]}))
    }),
    ("port", 65_535, |n| {
        route(&json!({"backendRefs": [{"name": "a", "port": n}]}))
    }),
    ("group", 253, |n| {
        let mut target = reference("Server");
        target["group"] = "a".repeat(n).into();
        let spec = json!({"targetRef": target, "requiredAuthenticationRefs": []});
        object("AuthorizationPolicy", &spec)
    }),
    ("kind", 63, |n| {
        let target = reference(&"a".repeat(n));
        let spec = json!({"targetRef": target, "requiredAuthenticationRefs": []});
        object("AuthorizationPolicy", &spec)
    }),
    ("workloadIPs", 2, |n| {
        workload(&json!({"workloadIPs": many(&json!({"ip": "192.0.2.1"}), n)}))
    }),
    ("workloadIPs", 1, |n| {
        let mut old = workload(&json!({"workloadIPs": many(&json!({"ip": "192.0.2.1"}), n)}));
        let mesh = old["spec"]["meshTLS"].take();
        old["spec"] = json!({"meshTls": mesh, "workloadIPs": old["spec"]["workloadIPs"]});
        older(old, "workload.linkerd.io/v1alpha1")
    }),
];

#[tokio::test]
async fn of_each_list_and_number_there_may_be_so_much_and_no_more() {
    let Some(api) = start().await else {
        return;
    };
    for (field, most, object) in LIMITS {
        let full = object(most);
        api.apply(&full).await;
        api.delete(&full).await;
        let refused = api.try_apply(&object(most + 1)).await;
        let said = refused.expect_err(field).to_string();
        assert!(said.contains(field), "{field}: {said}");
    }
}

/// What is refused, and what the refusal names.
#[expect(clippy::too_many_lines, reason = "a table")]
fn refused() -> Vec<(Value, &'static str)> {
    let selector = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
    let no_selector = without(server(&json!({})), "podSelector");
    let no_port = without(server(&json!({})), "port");
    let only_external = server(&json!({"externalWorkloadSelector": {}}));
    let saz_identity = saz(
        &json!({"name": "a"}),
        &json!({"meshTLS": {"identities": ["a..b"]}}),
    );
    let one_of = "must validate one and only one schema (oneOf)";
    vec![
        (no_port, "spec.port"),
        (no_selector, one_of),
        (only_external.clone(), one_of),
        (server(&json!({"podSelector": selector})), "operator"),
        (
            older(
                without(server(&json!({})), "podSelector"),
                "policy.linkerd.io/v1beta1",
            ),
            "spec.podSelector",
        ),
        (
            older(only_external, "policy.linkerd.io/v1beta1"),
            "spec.externalWorkloadSelector",
        ),
        (saz(&json!({}), &json!({})), one_of),
        (
            saz(&json!({"name": "a", "selector": {}}), &json!({})),
            one_of,
        ),
        (
            object("ServerAuthorization", &json!({"server": {"name": "a"}})),
            "spec.client",
        ),
        (saz_identity, "identities"),
        (
            object(
                "AuthorizationPolicy",
                &json!({"requiredAuthenticationRefs": []}),
            ),
            "spec.targetRef",
        ),
        (object("MeshTLSAuthentication", &json!({})), one_of),
        (
            object("MeshTLSAuthentication", &json!({"identities": []})),
            "spec.identities",
        ),
        (
            object("MeshTLSAuthentication", &json!({"identityRefs": []})),
            "spec.identityRefs",
        ),
        (object("NetworkAuthentication", &json!({})), "spec.networks"),
        (
            object("NetworkAuthentication", &json!({"networks": [{}]})),
            "spec.networks[0].cidr",
        ),
        (
            object("HTTPRoute", &json!({"parentRefs": [{}]})),
            "spec.parentRefs[0].name",
        ),
        (matches(&json!({"method": "FETCH"})), "method"),
        (matches(&json!({"path": {"type": "Suffix"}})), "path.type"),
        (
            route(&json!({"filters": [{"type": "RequestMirror"}]})),
            "filters[0].type",
        ),
        (redirect(&json!({"scheme": "ftp"})), "scheme"),
        (redirect(&json!({"statusCode": 303})), "statusCode"),
        (redirect(&json!({"path": {}})), "path.type"),
        (
            object("HTTPLocalRateLimitPolicy", &json!({})),
            "spec.targetRef",
        ),
        (
            object(
                "HTTPLocalRateLimitPolicy",
                &json!({"targetRef": reference("Server"), "total": {}}),
            ),
            "spec.total.requestsPerSecond",
        ),
        (
            object(
                "HTTPLocalRateLimitPolicy",
                &json!({"targetRef": reference("Server"), "overrides": [{"requestsPerSecond": 1}]}),
            ),
            "spec.overrides[0].clientRefs",
        ),
        (object("EgressNetwork", &json!({})), "spec.trafficPolicy"),
        (
            object("EgressNetwork", &json!({"trafficPolicy": "Maybe"})),
            "spec.trafficPolicy",
        ),
        (workload(&json!({"meshTLS": {}})), "meshTLS.identity"),
        (workload(&json!({"ports": [{"port": 0}]})), "ports[0].port"),
        (
            older(object("ServiceProfile", &json!({})), "linkerd.io/v1alpha1"),
            "spec.routes",
        ),
        (
            object("ServiceProfile", &json!({"routes": [{"name": "a"}]})),
            "condition",
        ),
        (
            object("ServiceProfile", &json!({"retryBudget": {"retryRatio": 1}})),
            "minRetriesPerSecond",
        ),
    ]
}

#[tokio::test]
async fn what_must_be_there_and_what_it_may_be_is_said_by_the_definitions() {
    let Some(api) = start().await else {
        return;
    };
    for (object, named) in refused() {
        let said = api.try_apply(&object).await;
        let said = said.expect_err(named).to_string();
        assert!(said.contains(named), "{object}: {said}");
    }
}

#[tokio::test]
async fn every_version_is_served_and_old_ones_are_warned_of() {
    let Some(api) = start().await else {
        return;
    };
    let policy = |version: &str| format!("policy.linkerd.io/{version}");
    let saz = || saz(&json!({"name": "a"}), &json!({"unauthenticated": true}));
    let route = || object("HTTPRoute", &json!({}));
    let mut profile = object("ServiceProfile", &json!({"routes": []}));
    profile["metadata"]["name"] = "a.shop.svc.cluster.local".into();
    for (object, version, is_deprecated) in [
        (server(&json!({})), policy("v1alpha1"), true),
        (server(&json!({})), policy("v1beta1"), true),
        (server(&json!({})), policy("v1beta2"), false),
        (server(&json!({})), policy("v1beta3"), false),
        (saz(), policy("v1alpha1"), true),
        (saz(), policy("v1beta1"), false),
        (route(), policy("v1alpha1"), false),
        (route(), policy("v1beta1"), false),
        (route(), policy("v1beta2"), false),
        (route(), policy("v1beta3"), false),
        (profile.clone(), "linkerd.io/v1alpha1".to_owned(), false),
        (profile, "linkerd.io/v1alpha2".to_owned(), false),
    ] {
        let object = older(object, &version);
        let warned = api.warnings(&object).await;
        let is_warned = warned.iter().any(|text| text.contains("deprecated"));
        assert_eq!(is_warned, is_deprecated, "{object}: {warned:?}");
        api.delete(&object).await;
    }
}
