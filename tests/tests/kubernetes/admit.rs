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
        // Of no kind that is judged.
        rule("networking.k8s.io", &["networkpolicies"]),
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

/// An object of the newest version.
pub(crate) fn object(kind: &str, spec: &Value) -> Value {
    let version = match kind {
        "Server" | "HTTPRoute" => "policy.linkerd.io/v1beta3",
        "ServerAuthorization" => "policy.linkerd.io/v1beta1",
        "ServiceProfile" => "linkerd.io/v1alpha2",
        "gateway HTTPRoute" | "GRPCRoute" => "gateway.networking.k8s.io/v1",
        "TLSRoute" | "TCPRoute" => "gateway.networking.k8s.io/v1alpha2",
        "ExternalWorkload" => "workload.linkerd.io/v1beta1",
        "NetworkPolicy" => "networking.k8s.io/v1",
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

#[expect(clippy::too_many_lines, reason = "a table")]
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
        (
            TLS,
            json!({"identities": ["spiffe://A/b"]}),
            Some("id spiffe://A/b is invalid"),
        ),
        (
            TLS,
            json!({"identities": ["a.*"]}),
            Some("id a.* is invalid"),
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
    let alone = |name: &str, limit: Value| {
        let mut spec = json!({"targetRef": web()});
        spec[name] = limit;
        spec
    };
    let client = reference("", "ServiceAccount", "a");
    let overriding = json!([{"requestsPerSecond": 0, "clientRefs": [client]}]);
    vec![
        (KIND, of(web(), 9, 5, 9), None),
        (KIND, of(web(), 9, 9, 9), None),
        (KIND, alone("identity", per_second(10)), None),
        (
            KIND,
            of(reference("apps", "Deployment", "web"), 9, 5, 9),
            Some("invalid targetRef kind: Deployment"),
        ),
        (
            KIND,
            of(web(), 9, 10, 9),
            Some(
                "identity.requestsPerSecond must be less than or equal to total.requestsPerSecond",
            ),
        ),
        (
            KIND,
            of(web(), 9, 5, 10),
            Some(
                "override.requestsPerSecond must be less than or equal to total.requestsPerSecond",
            ),
        ),
        (
            KIND,
            alone("overrides", overriding),
            Some("override.requestsPerSecond must be greater than 0"),
        ),
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

#[expect(clippy::too_many_lines, reason = "a table")]
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
    let regex = |value: &str| {
        let path = json!({"type": "RegularExpression", "value": value});
        json!({"matches": [{"path": path}]})
    };
    let header = |name: &str, kind: &str, value: &str| json!({"matches": [{"headers": [{"name": name, "type": kind, "value": value}]}]});
    let no_path = json!({"filters": [{
        "type": "RequestRedirect", "requestRedirect": {"path": {"type": "ReplaceFullPath"}},
    }]});
    for kind in ["HTTPRoute", "gateway HTTPRoute"] {
        rows.extend([
            (kind, of(&parent, regex("/a.*")), None),
            (
                kind,
                of(&parent, regex("/(")),
                Some("is not a regular expression"),
            ),
            (
                kind,
                of(&parent, header("a b", "Exact", "c")),
                Some("`a b` is not a header name"),
            ),
            (
                kind,
                of(&parent, header("a", "RegularExpression", "(")),
                Some("is not a regular expression"),
            ),
            (
                kind,
                of(&parent, no_path.clone()),
                Some(
                    "RequestRedirect filter must contain either replace_full_path or replace_prefix_match",
                ),
            ),
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
    for (kind, field) in [
        ("RequestMirror", "requestMirror"),
        ("URLRewrite", "urlRewrite"),
        ("ExtensionRef", "extensionRef"),
    ] {
        let filter = json!({"type": kind, field: {}});
        let rule = json!({"filters": [filter]});
        rows.push(("gateway HTTPRoute", of(&parent, rule), None));
    }
    let method = json!({"matches": [{"method": {"type": "RegularExpression", "service": "a"}}]});
    let refused = Some("unsupported GRPCRoute method match type");
    rows.push(("GRPCRoute", of(&service, method), refused));
    for (kind, text) in [
        ("TLSRoute", "TlsRoute supports a single rule only"),
        ("TCPRoute", "TcpRoute supports a single rule only"),
    ] {
        rows.push((kind, of(&service, json!({})), None));
        for rules in [json!([{}, {}]), json!([])] {
            let spec = json!({"parentRefs": [service], "rules": rules});
            rows.push((kind, spec, Some(text)));
        }
    }
    let timeouts = |backend: &str, request: &str| {
        let timeouts = json!({"backendRequest": backend, "request": request});
        of(&parent, json!({"timeouts": timeouts}))
    };
    rows.push(("HTTPRoute", timeouts("1s", "2s"), None));
    rows.push(("HTTPRoute", timeouts("2s", "0s"), None));
    let text = "backendRequest timeout (2s) must not be greater than request timeout (1s)";
    rows.push(("HTTPRoute", timeouts("2s", "1s"), Some(text)));
    let text = "backendRequest timeout must not be negative";
    rows.push(("HTTPRoute", timeouts("-2s", "1s"), Some(text)));
    let text = "request timeout must not be negative";
    rows.push(("HTTPRoute", timeouts("2s", "-1s"), Some(text)));
    rows
}

/// Annotations of routes of a Service, an EgressNetwork and a Server, where they say nothing.
fn annotated() -> Vec<(Value, Option<&'static str>)> {
    let service = json!({"group": "", "kind": "Service", "name": "web"});
    let mut egress = policy("EgressNetwork", "out");
    egress["port"] = 443.into();
    let server = policy("Server", "web");
    let wrong = Some(" is not valid here; write ");
    let mut rows = Vec::new();
    for (key, good, bad) in [
        (
            "retry.linkerd.io/http",
            "5xx,Gateway-Error,400-404",
            "5xx, 404",
        ),
        ("retry.linkerd.io/http", "100-599", "99"),
        ("retry.linkerd.io/http", "429", "404-400"),
        ("retry.linkerd.io/grpc", "cancelled,Internal", "broken"),
        ("retry.linkerd.io/limit", "65535", "65536"),
        ("retry.linkerd.io/timeout", "100ms", "1.5s"),
        ("timeout.linkerd.io/request", "0", "10"),
        ("timeout.linkerd.io/response", " 10s ", "-10s"),
        ("timeout.linkerd.io/idle", "1d", "999999999999999999d"),
    ] {
        for kind in ["HTTPRoute", "gateway HTTPRoute", "GRPCRoute"] {
            // What is for the other kind of requests is not read.
            let is_read = match key {
                "retry.linkerd.io/http" => kind != "GRPCRoute",
                "retry.linkerd.io/grpc" => kind == "GRPCRoute",
                _ => true,
            };
            let refused = wrong.filter(|_| is_read);
            for (parent, value, wanted) in [
                (&service, good, None),
                (&service, bad, refused),
                (&egress, good, None),
                (&egress, bad, refused),
                (&server, bad, None),
            ] {
                let spec = json!({"parentRefs": [parent], "rules": [{}]});
                let mut route = object(kind, &spec);
                route["metadata"]["annotations"] = json!({key: value});
                rows.push((route, wanted));
            }
        }
    }
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
    let unknown = (
        "NetworkPolicy",
        json!({"podSelector": {}}),
        Some("unsupported resource type: networking.k8s.io.v1.NetworkPolicy"),
    );
    let tables = [
        vec![unknown],
        authorization_policies(),
        authentications(),
        egress_networks(),
        servers(),
        rate_limits(),
        routes(),
        profiles(),
    ];
    let rows = tables.into_iter().flatten();
    let rows = rows.map(|(kind, spec, wanted)| (object(kind, &spec), wanted));
    let mut wrong = Vec::new();
    for (mut object, wanted) in rows.chain(annotated()) {
        let said = match api.try_apply(&object).await {
            Ok(_) => {
                // What may be made may be changed.
                object["metadata"]["labels"] = json!({"changed": "yes"});
                let changed = api.try_apply(&object).await;
                api.delete(&object).await;
                changed.err().map(|error| error.to_string())
            }
            Err(error) => Some(error.to_string()),
        };
        let is_right = match (wanted, &said) {
            (None, None) => true,
            (Some(text), Some(said)) => said.contains(text),
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{object}\n  is to be: {wanted:?}\n  is: {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn of_two_servers_that_are_applied_in_a_row_the_second_is_refused_with_the_name_of_the_first()
{
    let Some(api) = ApiServer::start().await else {
        return;
    };
    api.apply(&namespace("shop")).await;
    let plane = ControlPlane::start(&api).await;
    api.apply(&configuration(&plane, "Fail")).await;
    is_called(&api).await;
    // Nothing says that the control plane has seen the first one, and there is no Pod of either.
    for port in 1000..1020 {
        let of = |name: &str| server(&format!("{name}-{port}"), &json!({"port": port}));
        let (first, second) = (of("z"), of("a"));
        api.apply(&first).await;
        let refused = api.try_apply(&second).await.unwrap_err().to_string();
        let named = format!("Server z-{port} selects");
        assert!(refused.contains(&named), "{refused}");
        // Nor may it become so by a change.
        let mut apart = second.clone();
        apart["spec"]["port"] = (port + 1000).into();
        api.apply(&apart).await;
        let refused = api.try_apply(&second).await.unwrap_err().to_string();
        assert!(refused.contains(&named), "{refused}");
        // Changes are known at once, too.
        apart["spec"]["port"] = (port + 2000).into();
        api.apply(&apart).await;
        let mut third = of("b");
        third["spec"]["port"] = (port + 2000).into();
        let refused = api.try_apply(&third).await.unwrap_err().to_string();
        assert!(
            refused.contains(&format!("Server a-{port} selects")),
            "{refused}"
        );
        api.delete(&first).await;
        eventually("that the first one is gone", async || {
            api.try_apply(&second).await.ok().map(drop)
        })
        .await;
    }
}

#[tokio::test]
async fn where_overlaps_are_only_warned_of_the_second_server_is_admitted() {
    let Some(api) = ApiServer::start().await else {
        return;
    };
    api.apply(&namespace("shop")).await;
    let plane = ControlPlane::spawn_with(api.kubeconfig(), &["--server-overlap=warn"]);
    plane.watch("shop", "none", 80).await;
    api.apply(&configuration(&plane, "Fail")).await;
    is_called(&api).await;
    api.apply(&server("first", &json!({}))).await;
    let second = server("second", &json!({}));
    let warned = api.warnings(&second).await;
    let named = "Server first is older";
    assert!(warned.iter().any(|said| said.contains(named)), "{warned:?}");
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
async fn what_is_no_review_is_refused_as_such() {
    let Some(api) = ApiServer::start().await else {
        return;
    };
    let plane = ControlPlane::start(&api).await;
    let client = plane.webhook_client();
    let ask = async |method: &str, path: &str, body: &str| {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.body(body.as_bytes().to_vec()).unwrap();
        let answer = client.send(request.map(kube::client::Body::from)).await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(ask("GET", "/", "").await, 404);
    assert_eq!(ask("POST", "/other", "{}").await, 404);
    assert_eq!(ask("POST", "/", "no JSON").await, 400);
    let review = |request: Value| {
        let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        http::Request::post("/")
            .body(body.to_string().into_bytes())
            .unwrap()
    };
    let no_spec = json!({
        "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
        "metadata": {"name": "a", "namespace": "shop"},
    });
    for (request, wanted) in [
        (json!({"uid": "u"}), "admission request missing 'object'"),
        (
            json!({"uid": "u", "object": no_spec}),
            "admission request missing 'spec'",
        ),
    ] {
        let answer: Value = client.request(review(request)).await.unwrap();
        let response = &answer["response"];
        assert_eq!(
            (&response["uid"], &response["allowed"]),
            (&json!("u"), &json!(false))
        );
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.contains(wanted), "{message}");
    }
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
