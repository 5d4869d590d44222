//! The validating webhook, called by a real API server: what it admits, what it refuses and in which words, what it warns
//! of, and what becomes of objects while it is away.

use crate::{
    control_plane::ControlPlane,
    gateway,
    policy::{namespace, server, shop},
    server::ApiServer,
};
use linkerd_tests::eventually;
use serde_json::{Value, json};

/// The webhook, for every kind that it judges.
pub(crate) fn configuration(plane: &ControlPlane, failure_policy: &str) -> Value {
    let mut configuration = plane.webhook();
    let webhook = &mut configuration["webhooks"][0];
    webhook["failurePolicy"] = failure_policy.into();
    webhook["timeoutSeconds"] = 5.into();
    let rule = |group: &str, resources: &[&str]| {
        json!({
            "operations": ["CREATE", "UPDATE"], "apiVersions": ["*"], "apiGroups": [group],
            "resources": resources,
        })
    };
    let routes = ["httproutes", "grpcroutes", "tlsroutes", "tcproutes"];
    webhook["rules"] = json!([
        rule("policy.linkerd.io", &["*"]),
        rule("linkerd.io", &["serviceprofiles"]),
        rule("gateway.networking.k8s.io", &routes),
    ]);
    configuration
}

/// Waits until the API server calls the webhook: that is when this is refused.
pub(crate) async fn is_called(api: &ApiServer) {
    let bad = server("probe", &json!({"proxyProtocol": "SPDY"}));
    eventually("the webhook", async || {
        api.try_apply(&bad).await.err().map(drop)
    })
    .await;
}

fn object(kind: &str, spec: &Value) -> Value {
    let version = match kind {
        "Server" | "HTTPRoute" => "policy.linkerd.io/v1beta3",
        "ServerAuthorization" => "policy.linkerd.io/v1beta1",
        "ServiceProfile" => "linkerd.io/v1alpha2",
        "gateway HTTPRoute" | "GRPCRoute" => "gateway.networking.k8s.io/v1",
        "TLSRoute" | "TCPRoute" => "gateway.networking.k8s.io/v1alpha2",
        _ => "policy.linkerd.io/v1alpha1",
    };
    let name = match kind {
        "ServiceProfile" => "web.shop.svc.cluster.local",
        _ => "test",
    };
    json!({
        "apiVersion": version, "kind": kind.trim_start_matches("gateway "),
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

/// `None`: it is admitted. Otherwise what the refusal contains.
type Row = (&'static str, Value, Option<&'static str>);

fn reference(group: &str, kind: &str, name: &str) -> Value {
    json!({"group": group, "kind": kind, "name": name})
}

fn policy(kind: &str, name: &str) -> Value {
    reference("policy.linkerd.io", kind, name)
}

fn authorization_policies() -> Vec<Row> {
    const KIND: &str = "AuthorizationPolicy";
    let of = |target: Value, refs: &[Value]| json!({"targetRef": target, "requiredAuthenticationRefs": refs});
    let web = || policy("Server", "web");
    let tls = |name| policy("MeshTLSAuthentication", name);
    let net = |name| policy("NetworkAuthentication", name);
    let account = |name| reference("", "ServiceAccount", name);
    let route = |kind| reference("gateway.networking.k8s.io", kind, "r");
    vec![
        (KIND, of(web(), &[tls("a")]), None),
        (KIND, of(web(), &[net("a")]), None),
        (KIND, of(web(), &[tls("a"), net("a")]), None),
        (KIND, of(web(), &[]), None),
        (
            KIND,
            of(reference("", "Namespace", "shop"), &[tls("a")]),
            None,
        ),
        (
            KIND,
            of(reference("core", "namespace", "shop"), &[tls("a")]),
            None,
        ),
        (KIND, of(policy("HTTPRoute", "r"), &[tls("a")]), None),
        (KIND, of(route("HTTPRoute"), &[tls("a")]), None),
        (KIND, of(route("GRPCRoute"), &[tls("a")]), None),
        (
            KIND,
            of(reference("", "Namespace", "other"), &[tls("a")]),
            Some("cannot target another namespace: other"),
        ),
        (
            KIND,
            json!({"targetRef": web()}),
            Some("requiredAuthenticationRefs"),
        ),
        (
            KIND,
            of(reference("apps", "Deployment", "web"), &[tls("a")]),
            Some("unsupported authorization target type: Deployment.apps"),
        ),
        (
            KIND,
            of(web(), &[tls("a"), tls("b")]),
            Some("only a single MeshTLSAuthentication may be set"),
        ),
        (
            KIND,
            of(web(), &[net("a"), net("b")]),
            Some("only a single NetworkAuthentication may be set"),
        ),
        (
            KIND,
            of(web(), &[account("a"), account("b")]),
            Some("only a single ServiceAccount may be set"),
        ),
        (
            KIND,
            of(web(), &[account("a"), tls("b")]),
            Some("a MeshTLSAuthentication and ServiceAccount may not be set together"),
        ),
        (
            KIND,
            of(web(), &[policy("Server", "a")]),
            Some("unsupported authentication kind(s): Server.policy.linkerd.io"),
        ),
    ]
}

fn authentications() -> Vec<Row> {
    const TLS: &str = "MeshTLSAuthentication";
    const NET: &str = "NetworkAuthentication";
    let namespaced = json!({"kind": "Namespace", "name": "a", "namespace": "b"});
    vec![
        (
            TLS,
            json!({"identities": ["*", "*.a.b", "a.b", "spiffe://a.b/c"]}),
            None,
        ),
        (
            TLS,
            json!({"identityRefs": [reference("", "ServiceAccount", "a")]}),
            None,
        ),
        (
            TLS,
            json!({"identityRefs": [reference("", "Namespace", "a")]}),
            None,
        ),
        (
            TLS,
            json!({"identityRefs": [namespaced]}),
            Some("Namespace identity_ref is cluster-scoped and cannot have a namespace"),
        ),
        (
            TLS,
            json!({"identityRefs": [reference("apps", "Deployment", "a")]}),
            Some("invalid identity target kind: Deployment"),
        ),
        (
            TLS,
            json!({"identities": ["spiffe://a/../b"]}),
            Some("id spiffe://a/../b is invalid"),
        ),
        (TLS, json!({}), Some("")),
        (
            TLS,
            json!({"identities": ["a"], "identityRefs": [reference("", "ServiceAccount", "a")]}),
            Some(""),
        ),
        (
            NET,
            json!({"networks": [{"cidr": "10.0.0.0/8"}, {"cidr": "10.0.0.1"}]}),
            None,
        ),
        (
            NET,
            json!({"networks": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}),
            None,
        ),
        (
            NET,
            json!({"networks": [{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}]}),
            Some("cidr '10.0.0.0/8' is completely negated by exception '10.0.0.0/8'"),
        ),
        (
            NET,
            json!({"networks": [{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}]}),
            Some("cidr '10.0.0.0/8' does not include exception '11.0.0.0/16'"),
        ),
        (
            NET,
            json!({"networks": [{"cidr": "10.0.0.0/40"}]}),
            Some(""),
        ),
        (
            NET,
            json!({"networks": []}),
            Some("at least one network must be specified"),
        ),
    ]
}

fn egress_networks() -> Vec<Row> {
    const KIND: &str = "EgressNetwork";
    let of = |networks: Value| json!({"trafficPolicy": "Allow", "networks": networks});
    vec![
        (KIND, json!({"trafficPolicy": "Allow"}), None),
        (
            KIND,
            of(json!([{"cidr": "1.0.0.0/8", "except": ["1.1.0.0/16"]}])),
            None,
        ),
        (
            KIND,
            of(json!([])),
            Some("at least one network must be specified"),
        ),
        (
            KIND,
            of(json!([{"cidr": "1.0.0.0/8", "except": ["1.0.0.0/8"]}])),
            Some("cidr '1.0.0.0/8' is completely negated by exception '1.0.0.0/8'"),
        ),
        (
            KIND,
            of(json!([{"cidr": "1.0.0.0/8", "except": ["2.0.0.0/16"]}])),
            Some("cidr '1.0.0.0/8' does not include exception '2.0.0.0/16'"),
        ),
    ]
}

fn servers() -> Vec<Row> {
    const KIND: &str = "Server";
    const SAZ: &str = "ServerAuthorization";
    let of = |name: &str, value: &str| {
        let mut spec = json!({"podSelector": {"matchLabels": {"app": "none"}}, "port": 80});
        spec[name] = value.into();
        spec
    };
    let saz = |client: Value| json!({"server": {"name": "web"}, "client": client});
    let net = |networks: Value| saz(json!({"unauthenticated": true, "networks": networks}));
    vec![
        (KIND, of("proxyProtocol", "HTTP/1"), None),
        (KIND, of("proxyProtocol", "HTTP/2"), None),
        (
            KIND,
            of("proxyProtocol", "garbage"),
            Some("spec.proxyProtocol"),
        ),
        (KIND, of("accessPolicy", "audit"), None),
        (
            KIND,
            of("accessPolicy", "foobar"),
            Some(r#"Invalid 'accessPolicy' field: invalid mode: "foobar""#),
        ),
        (
            SAZ,
            net(json!([{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "10.0.0.1"}])),
            None,
        ),
        (
            SAZ,
            saz(json!({"meshTLS": {"serviceAccounts": [{"name": "a"}]}})),
            None,
        ),
        (
            SAZ,
            net(json!([{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}])),
            Some("cidr '10.0.0.0/8' is completely negated by exception '10.0.0.0/8'"),
        ),
        (
            SAZ,
            net(json!([{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}])),
            Some("cidr '10.0.0.0/8' does not include exception '11.0.0.0/8'"),
        ),
        (SAZ, net(json!([{"cidr": "a"}])), Some("")),
        (
            SAZ,
            saz(json!({"unauthenticated": true, "meshTLS": {"identities": ["*"]}})),
            Some("`unauthenticated` must be false if `mesh_tls` is specified"),
        ),
        (
            SAZ,
            saz(json!({"meshTLS": {"unauthenticatedTLS": true, "identities": ["*"]}})),
            Some(
                "`unauthenticatedTLS` be false if any `identities` or `service_accounts` is specified",
            ),
        ),
    ]
}

fn rate_limits() -> Vec<Row> {
    const KIND: &str = "HTTPLocalRateLimitPolicy";
    let per_second = |n: i64| json!({"requestsPerSecond": n});
    let of = |target: Value, total: i64, identity: i64, over: i64| {
        let client = reference("", "ServiceAccount", "a");
        json!({
            "targetRef": target, "total": per_second(total), "identity": per_second(identity),
            "overrides": [{"requestsPerSecond": over, "clientRefs": [client]}],
        })
    };
    let web = || policy("Server", "web");
    let mut other_client = of(web(), 9, 5, 9);
    other_client["overrides"][0]["clientRefs"][0]["kind"] = "Pod".into();
    let most = "requestsPerSecond must be less than or equal to total.requestsPerSecond";
    vec![
        (KIND, of(web(), 9, 5, 9), None),
        (
            KIND,
            of(reference("apps", "Deployment", "web"), 9, 5, 9),
            Some("invalid targetRef kind: Deployment"),
        ),
        (KIND, of(web(), 9, 10, 9), Some(most)),
        (KIND, of(web(), 9, 5, 10), Some(most)),
        (
            KIND,
            of(web(), 0, 5, 9),
            Some("total.requestsPerSecond must be greater than 0"),
        ),
        (
            KIND,
            of(web(), 9, 0, 9),
            Some("identity.requestsPerSecond must be greater than 0"),
        ),
        (
            KIND,
            other_client,
            Some("overrides.clientRefs must target a ServiceAccount"),
        ),
    ]
}

fn routes() -> Vec<Row> {
    let egress = || policy("EgressNetwork", "out");
    let parent = policy("Server", "web");
    let of = |parent: &Value, rule: Value| json!({"parentRefs": [parent], "rules": [rule]});
    let path = |value: &str| json!({"matches": [{"path": {"type": "PathPrefix", "value": value}}]});
    let redirect = |value: &str| {
        let path = json!({"type": "ReplaceFullPath", "replaceFullPath": value});
        json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {"path": path}}]})
    };
    let no_port = Some("cannot target an EgressNetwork without specifying a port");
    let mut rows = Vec::new();
    for kind in ["HTTPRoute", "gateway HTTPRoute"] {
        rows.extend([
            (kind, of(&parent, path("/absolute")), None),
            (
                kind,
                of(&parent, path("relative")),
                Some("HttpPathMatch paths must be absolute (begin with `/`)"),
            ),
            (kind, of(&parent, redirect("/absolute")), None),
            (
                kind,
                of(&parent, redirect("relative")),
                Some("RequestRedirect filters may only contain absolute paths"),
            ),
        ]);
    }
    for kind in [
        "HTTPRoute",
        "gateway HTTPRoute",
        "GRPCRoute",
        "TLSRoute",
        "TCPRoute",
    ] {
        rows.push((kind, of(&egress(), json!({})), no_port));
        let mut with_port = egress();
        with_port["port"] = 443.into();
        rows.push((kind, of(&with_port, json!({})), None));
    }
    let service = json!({"group": "", "kind": "Service", "name": "web"});
    for kind in ["gateway HTTPRoute", "GRPCRoute"] {
        let back = |backend: Value| of(&service, json!({"backendRefs": [backend]}));
        let refused = Some("cannot reference a Service without a port");
        rows.extend([
            (kind, back(json!({"name": "a", "port": 80})), None),
            (kind, back(json!({"name": "a"})), refused),
            (
                kind,
                back(json!({"name": "a", "kind": "Service", "group": ""})),
                refused,
            ),
            (
                kind,
                back(json!({"name": "a", "kind": "Other", "group": "example.com"})),
                None,
            ),
        ]);
    }
    let unknown = json!({"filters": [{"type": "RequestMirror", "requestMirror": {}}]});
    rows.push(("gateway HTTPRoute", of(&parent, unknown), None));
    let method = json!({"matches": [{"method": {"type": "RegularExpression", "service": "a"}}]});
    let refused = Some("unsupported GRPCRoute method match type");
    rows.push(("GRPCRoute", of(&service, method), refused));
    for (kind, text) in [
        ("TLSRoute", "TlsRoute supports a single rule only"),
        ("TCPRoute", "TcpRoute supports a single rule only"),
    ] {
        rows.push((kind, of(&service, json!({})), None));
        let two = json!({"parentRefs": [service], "rules": [{}, {}]});
        rows.push((kind, two, Some(text)));
    }
    let timeouts = |backend: &str, request: &str| {
        let timeouts = json!({"backendRequest": backend, "request": request});
        of(&parent, json!({"timeouts": timeouts}))
    };
    rows.push(("HTTPRoute", timeouts("1s", "2s"), None));
    rows.push(("HTTPRoute", timeouts("2s", "0s"), None));
    let text = "backendRequest timeout (2s) must not be greater than request timeout (1s)";
    rows.push(("HTTPRoute", timeouts("2s", "1s"), Some(text)));
    rows
}

fn profiles() -> Vec<Row> {
    const KIND: &str = "ServiceProfile";
    let of = |route: Value| json!({"routes": [route]});
    let all = json!({"pathRegex": "/a"});
    let class = |status: Value| {
        let classes = json!([{"condition": {"status": status}, "isFailure": true}]);
        of(json!({"name": "a", "condition": all, "responseClasses": classes}))
    };
    let budget = |ttl: &str| {
        let budget = json!({"retryRatio": 0.2, "minRetriesPerSecond": 10, "ttl": ttl});
        json!({"routes": [], "retryBudget": budget})
    };
    vec![
        (
            KIND,
            of(json!({"name": "a", "condition": all, "timeout": "300ms"})),
            None,
        ),
        (KIND, of(json!({"name": "a"})), Some("condition")),
        (KIND, of(json!({"condition": all})), Some("name")),
        (
            KIND,
            of(json!({"name": "a", "condition": {}})),
            Some("spec.routes[0].condition"),
        ),
        (
            KIND,
            of(json!({"name": "a", "condition": all, "timeout": "soon"})),
            Some("spec.routes[0].timeout"),
        ),
        (KIND, class(json!({"min": 500, "max": 599})), None),
        (KIND, class(json!({"min": 500, "max": 400})), Some("status")),
        (KIND, class(json!({"min": 99, "max": 400})), Some("status")),
        (KIND, budget("10s"), None),
        (KIND, budget("soon"), Some("spec.retryBudget.ttl")),
    ]
}

#[tokio::test]
async fn every_kind_is_admitted_or_refused_in_the_words_of_the_contract() {
    let Some(api) = ApiServer::start().await else {
        return;
    };
    gateway::define(&api).await;
    api.apply(&namespace("shop")).await;
    let plane = ControlPlane::start(&api).await;
    api.apply(&configuration(&plane, "Fail")).await;
    is_called(&api).await;
    let tables = [
        authorization_policies(),
        authentications(),
        egress_networks(),
        servers(),
        rate_limits(),
        routes(),
        profiles(),
    ];
    let mut wrong = Vec::new();
    for (kind, spec, wanted) in tables.into_iter().flatten() {
        let object = object(kind, &spec);
        let said = match api.try_apply(&object).await {
            Ok(_) => {
                api.delete(&object).await;
                None
            }
            Err(error) => Some(error.to_string()),
        };
        let is_right = match (wanted, &said) {
            (None, None) => true,
            (Some(text), Some(said)) => said.contains(text),
            _ => false,
        };
        if !is_right {
            wrong.push(format!(
                "{kind} {spec}\n  is to be: {wanted:?}\n  is: {said:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_selects_names_or_matches_nothing_is_warned_of_when_it_is_applied() {
    let Some((api, plane)) = shop().await else {
        return;
    };
    api.apply(&configuration(&plane, "Fail")).await;
    is_called(&api).await;
    let warned = async |object: &Value, wanted: &str| {
        // The webhook judges by what the control plane has seen.
        eventually(wanted, async || {
            let warnings = api.warnings(object).await;
            warnings
                .iter()
                .any(|said| said.contains(wanted))
                .then_some(())
        })
        .await;
    };
    let nothing = server(
        "nothing",
        &json!({"podSelector": {"matchLabels": {"app": "gone"}}}),
    );
    warned(&nothing, "server-without-workload").await;

    let web = server("web", &json!({}));
    api.apply(&web).await;
    let to_gone = json!({
        "targetRef": policy("Server", "gone"), "requiredAuthenticationRefs": [],
    });
    warned(
        &object("AuthorizationPolicy", &to_gone),
        "authorization-without-target",
    )
    .await;
    let of_gone = json!({
        "targetRef": policy("Server", "web"),
        "requiredAuthenticationRefs": [policy("MeshTLSAuthentication", "gone")],
    });
    warned(
        &object("AuthorizationPolicy", &of_gone),
        "authentication-missing",
    )
    .await;

    let route = |name: &str, path: &str| {
        let matches = json!([{"path": {"type": "Exact", "value": path}}]);
        let spec =
            json!({"parentRefs": [policy("Server", "web")], "rules": [{"matches": matches}]});
        let mut route = object("HTTPRoute", &spec);
        route["metadata"]["name"] = name.into();
        route
    };
    api.apply(&route("first", "/a")).await;
    warned(&route("second", "/a"), "route-never-matches").await;
}

#[tokio::test]
async fn while_the_webhook_is_away_its_failure_policy_says_what_becomes_of_objects() {
    let Some((api, mut plane)) = shop().await else {
        return;
    };
    let fails = configuration(&plane, "Fail");
    let ignores = configuration(&plane, "Ignore");
    api.apply(&fails).await;
    is_called(&api).await;
    plane.kill();
    let web = server("web", &json!({}));
    let refused = api.try_apply(&web).await.unwrap_err().to_string();
    assert!(refused.contains("failed calling webhook"), "{refused}");
    api.apply(&ignores).await;
    eventually("an admission without a webhook", async || {
        api.try_apply(&web).await.ok().map(drop)
    })
    .await;
}
