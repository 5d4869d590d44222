//! What a person who writes manifests is promised, and what a hostile file is refused.

use super::*;
use crate::resource::{ProxyProtocol, RouteGroup};
use proptest::prelude::*;

/// The only object of a text.
fn one(text: &str) -> Result<Resource, ManifestError> {
    let mut all = parse(text);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).map(|d| d.resource)
}

/// An object of policy.linkerd.io in its storage version, by its spec.
fn policy(kind: &str, spec: &str) -> Result<Resource, ManifestError> {
    let version = match kind {
        "Server" | "HTTPRoute" => "v1beta3",
        "ServerAuthorization" => "v1beta1",
        _ => "v1alpha1",
    };
    one(&format!(
        "apiVersion: policy.linkerd.io/{version}\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec: {spec}\n"
    ))
}

fn gateway(kind: &str, spec: &str) -> Result<Resource, ManifestError> {
    one(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec: {spec}\n"
    ))
}

#[track_caller]
fn refused(result: Result<Resource, ManifestError>, field: &str, text: &str) {
    let error = result.expect_err(text);
    assert_eq!(error.field, field, "{error}");
    assert!(error.reason.starts_with(text), "{error}");
}

#[test]
fn an_error_names_document_line_kind_name_field_value_and_fix() {
    let text = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}\n---\napiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  podSelecter: {}\n  port: 80\n";
    let errors: Vec<_> = parse(text).into_iter().filter_map(Result::err).collect();
    assert_eq!(
        errors[0].to_string(),
        "document 2 (line 5), Server shop/web: spec.podSelecter: field `podSelecter` is not known; did you mean `podSelector`?"
    );
}

#[test]
fn a_broken_document_leaves_the_others_readable() {
    let good = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let all = parse(&format!(
        "{good}---\na: [\n---\n{good}---\nkind: [x\n--- {{}}\n"
    ));
    assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 2);
    let error = all[1].clone().unwrap_err();
    assert_eq!(error.line, 5);
    assert!(
        error.reason.contains("line 6") || error.reason.contains("line 5"),
        "{error}"
    );
}

#[test]
fn json_and_lists_are_read_as_yaml_is() {
    let text = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
        {"apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server", "metadata": {"name": "web"}, "spec": {"podSelector": {}, "port": 0}}]}"#;
    let all = parse(text);
    assert!(matches!(
        &all[0],
        Ok(Document {
            index: 0,
            resource: Resource::Namespace(_)
        })
    ));
    refused(
        all[1].clone().map(|d| d.resource),
        "items[1].spec.port",
        "port 0 does not exist",
    );
}

#[test]
fn every_served_version_is_read() {
    for (api, kind, spec) in [
        (
            "policy.linkerd.io/v1alpha1",
            "Server",
            "{podSelector: {}, port: http}",
        ),
        (
            "policy.linkerd.io/v1beta1",
            "Server",
            "{podSelector: {}, port: 80, proxyProtocol: HTTP/2}",
        ),
        (
            "policy.linkerd.io/v1beta2",
            "Server",
            "{externalWorkloadSelector: {}, port: 80}",
        ),
        (
            "policy.linkerd.io/v1alpha1",
            "ServerAuthorization",
            "{server: {name: a}, client: {unauthenticated: true}}",
        ),
        (
            "policy.linkerd.io/v1alpha1",
            "HTTPRoute",
            "{parentRefs: []}",
        ),
        ("gateway.networking.k8s.io/v1beta1", "HTTPRoute", "{}"),
        ("gateway.networking.k8s.io/v1alpha2", "GRPCRoute", "{}"),
        (
            "workload.linkerd.io/v1alpha1",
            "ExternalWorkload",
            "{meshTls: {identity: a.b, serverName: a.b}, workloadIPs: [{ip: 10.0.0.1}]}",
        ),
        (
            "workload.linkerd.io/v1beta1",
            "ExternalWorkload",
            "{meshTLS: {identity: 'spiffe://x/y', serverName: a.b}}",
        ),
    ] {
        let text =
            format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n");
        let resource = one(&text).unwrap_or_else(|e| panic!("{api} {e}"));
        assert_eq!(resource.key().namespace, "default");
    }
    let error =
        one("apiVersion: policy.linkerd.io/v1\nkind: Server\nmetadata: {name: x}\nspec: {}");
    refused(error, "apiVersion", "version of Server `v1` is not known");
}

#[test]
fn defaults_of_the_schemas_are_filled_in() {
    let Ok(Resource::Server(server)) = policy("Server", "{podSelector: {}, port: 80}") else {
        panic!("a Server")
    };
    assert_eq!(server.spec.proxy_protocol, ProxyProtocol::Unknown);
    assert_eq!(server.spec.access_policy, None);
    let Ok(Resource::HttpRoute(route)) =
        policy("HTTPRoute", "{parentRefs: [{name: a, kind: Server}]}")
    else {
        panic!("an HTTPRoute")
    };
    assert_eq!(route.spec.rules.len(), 1);
    assert_eq!(route.spec.rules[0].matches.len(), 1);
    assert!(route.spec.parent_refs[0].is(RouteGroup::Policy, "policy.linkerd.io", "server"));
    assert!(!route.spec.parent_refs[0].is(RouteGroup::Gateway, "policy.linkerd.io", "Server"));
}

#[test]
fn other_kinds_are_read_past_and_misspelt_ones_are_not() {
    let other = one("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {x: 1}");
    assert!(matches!(other, Ok(Resource::Other { key }) if key.group == "apps"));
    let egress =
        one("apiVersion: policy.linkerd.io/v1alpha1\nkind: EgressNetwork\nmetadata: {name: x}");
    assert!(matches!(egress, Ok(Resource::Other { .. })));
    let object = |api: &str, kind: &str| {
        one(&format!(
            "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{}}"
        ))
    };
    refused(
        object("policy.linkerd.io/v1beta3", "Sever"),
        "kind",
        "unsupported resource type: policy.linkerd.io.v1beta3.Sever; did you mean `Server`?",
    );
    refused(
        object("polcy.linkerd.io/v1beta3", "Server"),
        "apiVersion",
        "group `polcy.linkerd.io` is not known; did you mean",
    );
    refused(
        object("v1", "pod"),
        "kind",
        "`pod` is not a kind; did you mean `Pod`?",
    );
    refused(
        one("kind: Pod\nmetadata: {name: x}"),
        "apiVersion",
        "is required",
    );
    refused(
        one("apiVersion: v1\nkind: Pod\nspec: {}"),
        "metadata",
        "admission request missing 'metadata'",
    );
    refused(
        object("v1", "Pod").and(one(
            "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: x}",
        )),
        "spec",
        "admission request missing 'spec'",
    );
    refused(one("just text"), "", "a manifest is a map");
}

#[test]
fn names_and_annotations_are_checked() {
    refused(
        one("apiVersion: v1\nkind: Namespace\nmetadata: {name: Shop_1}"),
        "metadata.name",
        "`Shop_1` is not a name",
    );
    refused(
        one("apiVersion: v1\nkind: Namespace\nmetadata: {}"),
        "metadata.name",
        "is required",
    );
    refused(
        one(
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {config.linkerd.io/opaque-ports: 3306}}",
        ),
        "metadata.annotations.config.linkerd.io/opaque-ports",
        "invalid type: integer `3306`, expected a string; put the value in quotes",
    );
    refused(
        one("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, creationTimestamp: yesterday}"),
        "metadata.creationTimestamp",
        "`yesterday` is not a time; write it as",
    );
    one("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, creationTimestamp: null, labels: null}").unwrap();
}

#[test]
fn admit_server() {
    policy(
        "Server",
        "{podSelector: {matchLabels: {a: b}}, port: 80, accessPolicy: audit}",
    )
    .unwrap();
    for (spec, field, text) in [
        (
            "{podSelector: {}, port: 80, proxyProtocol: HTTP1}",
            "spec.proxyProtocol",
            "value `HTTP1` is not known; did you mean `HTTP/1`?",
        ),
        (
            "{podSelector: {}, port: 80, accessPolicy: all}",
            "spec.accessPolicy",
            "Invalid 'accessPolicy' field: invalid mode: \"all\"",
        ),
        (
            "{port: 80}",
            "spec.podSelector",
            "or externalWorkloadSelector is required",
        ),
        (
            "{podSelector: {}, externalWorkloadSelector: {}, port: 80}",
            "spec.podSelector",
            "and externalWorkloadSelector exclude",
        ),
        ("{podSelector: {}}", "spec.port", "is required"),
        (
            "{podSelector: {}, port: 70000}",
            "spec.port",
            "port 70000 does not exist",
        ),
        (
            "{podSelector: {}, port: '8080'}",
            "spec.port",
            "\"8080\" in quotes is a port name",
        ),
        (
            "{podSelector: {}, port: Web UI}",
            "spec.port",
            "`Web UI` is not a port name",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}, port: 80}",
            "spec.podSelector.matchExpressions[0].values",
            "needs at least one value",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Is}]}, port: 80}",
            "spec.podSelector.matchExpressions[0].operator",
            "value `Is` is not known",
        ),
        (
            "{podSelector: {matchLabel: {}}, port: 80}",
            "spec.podSelector.matchLabel",
            "field `matchLabel` is not known; did you mean `matchLabels`?",
        ),
    ] {
        refused(policy("Server", spec), field, text);
    }
}

#[test]
fn admit_server_authorization() {
    let spec = |client: &str| {
        policy(
            "ServerAuthorization",
            &format!("{{server: {{name: a}}, client: {client}}}"),
        )
    };
    spec("{networks: [{cidr: 10.1.2.3}, {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}], meshTLS: {identities: ['*', '*.a.b', a.b]}}").unwrap();
    for (client, field, text) in [
        (
            "{networks: [{cidr: 10.0.0.0/8, except: [10.0.0.0/8]}]}",
            "spec.client.networks[0].except[0]",
            "cidr '10.0.0.0/8' is completely negated by exception '10.0.0.0/8'",
        ),
        (
            "{networks: [{cidr: 10.0.0.0/8, except: [11.0.0.0/8]}]}",
            "spec.client.networks[0].except[0]",
            "cidr '10.0.0.0/8' does not include exception '11.0.0.0/8'",
        ),
        (
            "{networks: [{cidr: 10.0.0/8}]}",
            "spec.client.networks[0].cidr",
            "`10.0.0/8` is not a network",
        ),
        (
            "{unauthenticated: true, meshTLS: {unauthenticatedTLS: true}}",
            "spec.client.unauthenticated",
            "`unauthenticated` must be false if `mesh_tls` is specified",
        ),
        (
            "{meshTLS: {unauthenticatedTLS: true, identities: [a.b]}}",
            "spec.client.meshTLS.unauthenticatedTLS",
            "`unauthenticatedTLS` be false if any `identities` or `service_accounts` is specified",
        ),
        (
            "{meshTLS: {identities: ['a..b']}}",
            "spec.client.meshTLS.identities[0]",
            "id a..b is invalid",
        ),
        (
            "{meshTLS: {identity: [a]}}",
            "spec.client.meshTLS.identity",
            "field `identity` is not known; did you mean",
        ),
    ] {
        refused(spec(client), field, text);
    }
    for server in ["{}", "{name: a, selector: {}}"] {
        let spec = format!("{{server: {server}, client: {{}}}}");
        refused(
            policy("ServerAuthorization", &spec),
            "spec.server",
            "needs exactly one",
        );
    }
}

#[test]
fn admit_authorization_policy() {
    let mesh =
        |n: &str| format!("{{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: {n}}}");
    let net =
        |n: &str| format!("{{group: policy.linkerd.io, kind: NetworkAuthentication, name: {n}}}");
    let account = |n: &str| format!("{{kind: ServiceAccount, name: {n}}}");
    let of = |target: &str, refs: &[String]| {
        policy(
            "AuthorizationPolicy",
            &format!(
                "{{targetRef: {target}, requiredAuthenticationRefs: [{}]}}",
                refs.join(",")
            ),
        )
    };
    let server = "{group: policy.linkerd.io, kind: Server, name: a}";
    for target in [
        server,
        "{kind: Namespace, name: shop}",
        "{group: core, kind: namespace, name: shop}",
        "{group: policy.linkerd.io, kind: HTTPRoute, name: a}",
        "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}",
        "{group: gateway.networking.k8s.io, kind: GRPCRoute, name: a}",
    ] {
        of(target, &[]).unwrap();
    }
    for refs in [
        vec![mesh("a")],
        vec![net("a")],
        vec![mesh("a"), net("b")],
        vec![account("a"), net("b")],
    ] {
        of(server, &refs).unwrap();
    }
    refused(
        of("{kind: Namespace, name: other}", &[]),
        "spec.targetRef.name",
        "cannot target another namespace: other",
    );
    refused(
        of("{group: apps, kind: Deployment, name: a}", &[]),
        "spec.targetRef",
        "unsupported authorization target type: Deployment.apps",
    );
    refused(
        policy("AuthorizationPolicy", &format!("{{targetRef: {server}}}")),
        "spec.requiredAuthenticationRefs",
        "is required",
    );
    let field = "spec.requiredAuthenticationRefs";
    for (refs, text) in [
        (
            vec![mesh("a"), mesh("b")],
            "only a single MeshTLSAuthentication may be set",
        ),
        (
            vec![account("a"), account("b")],
            "only a single ServiceAccount may be set",
        ),
        (
            vec![mesh("a"), account("b")],
            "a MeshTLSAuthentication and ServiceAccount may not be set together",
        ),
        (
            vec![net("a"), net("b")],
            "only a single NetworkAuthentication may be set",
        ),
        (
            vec![
                "{kind: Secret, name: a}".into(),
                "{group: x, kind: Y, name: b}".into(),
            ],
            "unsupported authentication kind(s): Secret, Y.x",
        ),
    ] {
        refused(of(server, &refs), field, text);
    }
}

#[test]
fn admit_meshtls_authentication() {
    let of = |spec: &str| policy("MeshTLSAuthentication", spec);
    for spec in [
        "{identities: ['*', a.ns.serviceaccount.identity.linkerd.cluster.local, '*.b', 'spiffe://root.local/ns/a_b', 'spiffe://root']}",
        "{identityRefs: [{kind: ServiceAccount, name: a}, {kind: ServiceAccount, name: a, namespace: b}, {kind: Namespace, name: b}]}",
    ] {
        of(spec).unwrap();
    }
    for (spec, field, text) in [
        ("{}", "spec", "needs exactly one"),
        (
            "{identities: ['*'], identityRefs: [{kind: Namespace, name: b}]}",
            "spec",
            "needs exactly one",
        ),
        ("{identities: []}", "spec.identities", "needs at least one"),
        (
            "{identityRefs: []}",
            "spec.identityRefs",
            "needs at least one",
        ),
        (
            "{identities: ['spiffe://Root/a']}",
            "spec.identities[0]",
            "id spiffe://Root/a is invalid: ",
        ),
        (
            "{identities: ['spiffe://root/a/']}",
            "spec.identities[0]",
            "id spiffe://root/a/ is invalid: ",
        ),
        (
            "{identities: ['spiffe://root/../a']}",
            "spec.identities[0]",
            "id spiffe://root/../a is invalid: ",
        ),
        (
            "{identities: ['a.*']}",
            "spec.identities[0]",
            "id a.* is invalid: ",
        ),
        (
            "{identityRefs: [{kind: Namespace, name: b, namespace: c}]}",
            "spec.identityRefs[0].namespace",
            "Namespace identity_ref is cluster-scoped and cannot have a namespace",
        ),
        (
            "{identityRefs: [{kind: Pod, name: b}]}",
            "spec.identityRefs[0].kind",
            "invalid identity target kind: Pod",
        ),
    ] {
        refused(of(spec), field, text);
    }
}

#[test]
fn admit_network_authentication() {
    let of = |spec: &str| policy("NetworkAuthentication", spec);
    of("{networks: [{cidr: 10.1.2.3}, {cidr: 'fd00::/8', except: ['fd00::1', 'fd01::/16']}]}")
        .unwrap();
    for (spec, field, text) in [
        (
            "{networks: []}",
            "spec.networks",
            "at least one network must be specified",
        ),
        ("{}", "spec.networks", "is required"),
        (
            "{networks: [{cidr: 10.0.0.0/40}]}",
            "spec.networks[0].cidr",
            "`10.0.0.0/40` is not a network",
        ),
        (
            "{networks: [{cidr: 10.1.0.0/16, except: [10.0.0.0/8]}]}",
            "spec.networks[0].except[0]",
            "cidr '10.1.0.0/16' is completely negated by exception '10.0.0.0/8'",
        ),
        (
            "{networks: [{cidr: 10.1.0.0/16, except: ['fd00::/8']}]}",
            "spec.networks[0].except[0]",
            "cidr '10.1.0.0/16' does not include exception 'fd00::/8'",
        ),
    ] {
        refused(of(spec), field, text);
    }
}

#[test]
fn admit_http_local_ratelimit_policy() {
    let of = |rest: &str| {
        policy(
            "HTTPLocalRateLimitPolicy",
            &format!("{{targetRef: {{group: policy.linkerd.io, kind: Server, name: a}}, {rest}}}"),
        )
    };
    let clients = "clientRefs: [{kind: ServiceAccount, name: a}]";
    of(&format!("total: {{requestsPerSecond: 100}}, identity: {{requestsPerSecond: 100}}, overrides: [{{requestsPerSecond: 1, {clients}}}]")).unwrap();
    for (rest, field, text) in [
        (
            "total: {requestsPerSecond: 0}".to_owned(),
            "spec.total.requestsPerSecond",
            "total.requestsPerSecond must be greater than 0",
        ),
        (
            "identity: {requestsPerSecond: -1}".to_owned(),
            "spec.identity.requestsPerSecond",
            "identity.requestsPerSecond must be greater than 0",
        ),
        (
            "total: {requestsPerSecond: 9}, identity: {requestsPerSecond: 10}".to_owned(),
            "spec.identity.requestsPerSecond",
            "identity.requestsPerSecond must be less than or equal to total.requestsPerSecond",
        ),
        (
            format!(
                "total: {{requestsPerSecond: 9}}, overrides: [{{requestsPerSecond: 10, {clients}}}]"
            ),
            "spec.overrides[0].requestsPerSecond",
            "overrides.requestsPerSecond must be less than or equal to total.requestsPerSecond",
        ),
        (
            "overrides: [{requestsPerSecond: 1, clientRefs: [{kind: Pod, name: a}]}]".to_owned(),
            "spec.overrides[0].clientRefs[0].kind",
            "overrides.clientRefs must target a ServiceAccount",
        ),
        (
            "total: {requestsPerSecond: 99999999999}".to_owned(),
            "spec.total.requestsPerSecond",
            "99999999999 is more than",
        ),
        (
            "total: {requestsPerSecond: fast}".to_owned(),
            "spec.total.requestsPerSecond",
            "invalid type: string \"fast\"",
        ),
    ] {
        refused(of(&rest), field, text);
    }
    let target = policy(
        "HTTPLocalRateLimitPolicy",
        "{targetRef: {group: apps, kind: Deployment, name: a}}",
    );
    refused(
        target,
        "spec.targetRef.kind",
        "invalid targetRef kind: Deployment.apps",
    );
}

#[test]
fn admit_http_route() {
    let rule = |rule: &str| format!("{{parentRefs: [{{kind: Server, name: a}}], rules: [{rule}]}}");
    policy("HTTPRoute", &rule("{matches: [{path: {value: /a}, method: GET}], timeouts: {request: 0s, backendRequest: 10s}}")).unwrap();
    for (text, field, reason) in [
        (
            "{matches: [{path: {value: a}}]}",
            "spec.rules[0].matches[0].path.value",
            "HttpPathMatch paths must be absolute (begin with `/`)",
        ),
        (
            "{matches: [{path: {type: RegularExpression, value: '/('}}]}",
            "spec.rules[0].matches[0].path.value",
            "`/(` is not a regular expression",
        ),
        (
            "{matches: [{path: {type: RegularExpression, value: '(x{999}){999}'}}]}",
            "spec.rules[0].matches[0].path.value",
            "`(x{999}){999}` is not a regular expression",
        ),
        (
            "{matches: [{headers: [{name: 'a b', value: c}]}]}",
            "spec.rules[0].matches[0].headers[0].name",
            "`a b` is not a header name",
        ),
        (
            "{matches: [{headers: [{name: a, value: '(', type: RegularExpression}]}]}",
            "spec.rules[0].matches[0].headers[0].value",
            "`(` is not a regular expression",
        ),
        (
            "{matches: [{method: FETCH}]}",
            "spec.rules[0].matches[0].method",
            "value `FETCH` is not known",
        ),
        (
            "{mathces: []}",
            "spec.rules[0].mathces",
            "field `mathces` is not known; did you mean `matches`?",
        ),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: a}}}]}",
            "spec.rules[0].filters[0].requestRedirect.path",
            "RequestRedirect filters may only contain absolute paths",
        ),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath}}}]}",
            "spec.rules[0].filters[0].requestRedirect.path",
            "RequestRedirect filter must contain either replace_full_path or replace_prefix_match",
        ),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}",
            "spec.rules[0].filters[0].requestRedirect.statusCode",
            "write 301 or 302",
        ),
        (
            "{filters: [{type: RequestMirror}]}",
            "spec.rules[0].filters[0].type",
            "filter type `RequestMirror` is not known",
        ),
        (
            "{filters: [{type: RequestHeaderModifier}]}",
            "spec.rules[0].filters[0]",
            "type RequestHeaderModifier needs the field requestHeaderModifier",
        ),
        (
            "{timeouts: {request: -1s}}",
            "spec.rules[0].timeouts.request",
            "request timeout must not be negative",
        ),
        (
            "{timeouts: {backendRequest: -1s}}",
            "spec.rules[0].timeouts.backendRequest",
            "backendRequest timeout must not be negative",
        ),
        (
            "{timeouts: {request: 1s, backendRequest: 2s}}",
            "spec.rules[0].timeouts.backendRequest",
            "backendRequest timeout (2s) must not be greater than request timeout (1s)",
        ),
        (
            "{timeouts: {request: soon}}",
            "spec.rules[0].timeouts.request",
            "`soon` is not a duration",
        ),
    ] {
        refused(policy("HTTPRoute", &rule(text)), field, reason);
    }
    let egress = "{parentRefs: [{group: policy.linkerd.io, kind: EgressNetwork, name: a}]}";
    for result in [
        policy("HTTPRoute", egress),
        gateway("HTTPRoute", egress),
        gateway("GRPCRoute", egress),
    ] {
        refused(
            result,
            "spec.parentRefs[0].port",
            "cannot target an EgressNetwork without specifying a port",
        );
    }
    let many = format!("{{rules: [{}]}}", "{},".repeat(17));
    refused(
        policy("HTTPRoute", &many),
        "spec.rules",
        "17 are more than 16",
    );
    refused(
        policy("HTTPRoute", "{hostnames: ['a.*']}"),
        "spec.hostnames[0]",
        "`a.*` is not a host name",
    );
}

#[test]
fn admit_gateway_routes() {
    let rule = |rule: &str| gateway("HTTPRoute", &format!("{{rules: [{rule}]}}"));
    for filter in [
        "RequestMirror, requestMirror: {x: 1}",
        "URLRewrite, urlRewrite: {}",
        "ExtensionRef",
        "ResponseHeaderModifier",
    ] {
        rule(&format!("{{filters: [{{type: {filter}}}]}}")).unwrap();
    }
    rule("{backendRefs: [{kind: Something, name: a}, {name: b, port: 80}]}").unwrap();
    for backend in ["{name: a}", "{name: a, kind: Service, port: 0}"] {
        refused(
            rule(&format!("{{backendRefs: [{backend}]}}")),
            "spec.rules[0].backendRefs[0].port",
            "invalid backendRef: cannot reference a Service without a port",
        );
    }
    let method = "{rules: [{matches: [{method: {type: RegularExpression, service: a}}]}]}";
    refused(
        gateway("GRPCRoute", method),
        "spec.rules[0].matches[0].method.type",
        "unsupported GRPCRoute method match type",
    );
}

#[test]
fn annotations_of_service_routes_must_parse() {
    let route = |key: &str, value: &str, parent: &str| {
        one(&format!(
            "apiVersion: policy.linkerd.io/v1beta3\nkind: HTTPRoute\nmetadata: {{name: x, annotations: {{{key}: '{value}'}}}}\nspec: {{parentRefs: [{{group: '', kind: {parent}, name: a, port: 80}}]}}"
        ))
    };
    for (key, good, bad) in [
        (
            "retry.linkerd.io/http",
            "5xx,429,500-504,gateway-error",
            "6xx",
        ),
        ("retry.linkerd.io/grpc", "internal,unavailable", "broken"),
        ("retry.linkerd.io/limit", "3", "many"),
        ("timeout.linkerd.io/request", "10s", "1.5s"),
        ("timeout.linkerd.io/idle", "0", "10"),
    ] {
        route(key, good, "Service").unwrap();
        route(key, bad, "Gateway").unwrap();
        refused(
            route(key, bad, "Service"),
            &format!("metadata.annotations[{key}]"),
            &format!("`{bad}` is not valid here"),
        );
    }
}

#[test]
fn admit_external_workload() {
    let of = |version: &str, spec: &str| {
        one(&format!(
            "apiVersion: workload.linkerd.io/{version}\nkind: ExternalWorkload\nmetadata: {{name: x}}\nspec: {spec}"
        ))
    };
    let tls = "meshTLS: {identity: 'spiffe://a/b', serverName: b.c}";
    of("v1beta1", &format!("{{{tls}, ports: [{{port: 80, name: http}}], workloadIPs: [{{ip: 10.0.0.1}}, {{ip: 'fd00::1'}}]}}")).unwrap();
    for (spec, field, text) in [
        ("{}".to_owned(), "spec.meshTLS", "is required"),
        (
            "{meshTLS: {identity: '*', serverName: a}}".to_owned(),
            "spec.meshTLS.identity",
            "`*` is not an identity",
        ),
        (
            "{meshTLS: {identity: a, serverName: 'a b'}}".to_owned(),
            "spec.meshTLS.serverName",
            "`a b` is not a DNS name",
        ),
        (
            format!("{{{tls}, ports: [{{port: 0}}]}}"),
            "spec.ports[0].port",
            "port 0 does not exist",
        ),
        (
            format!("{{{tls}, ports: [{{port: 1, name: a}}, {{port: 2, name: a}}]}}"),
            "spec.ports[1].name",
            "another port has this name",
        ),
        (
            format!("{{{tls}, workloadIPs: [{{ip: 1}}]}}"),
            "spec.workloadIPs[0].ip",
            "invalid type",
        ),
        (
            format!(
                "{{{tls}, workloadIPs: [{{ip: 10.0.0.1}}, {{ip: 10.0.0.2}}, {{ip: 10.0.0.3}}]}}"
            ),
            "spec.workloadIPs",
            "at most 2 addresses",
        ),
    ] {
        refused(of("v1beta1", &spec), field, text);
    }
}

#[test]
fn hostile_texts_are_refused_within_bounds() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let aliases = format!("*a{},", i - 1).repeat(10);
        laughs += &format!("a{i}: &a{i} [{aliases}]\n");
    }
    // Many plain values around it raise the YAML reader's own limit, so ours must hold.
    let padded = laughs.clone()
        + &(0..20_000)
            .map(|i| format!("k{i}: v\n"))
            .collect::<String>();
    for (text, reason) in [
        (laughs, "its aliases expand too far"),
        (padded, "too many values"),
        ("- ".repeat(100_000), "nested too deeply"),
        ("[".repeat(100_000), "more brackets are opened than closed"),
        (
            "{\"a\":".repeat(100_000),
            "more brackets are opened than closed",
        ),
        (format!("a: &a [x]\n<<: {{b: c}}\n"), "merge keys"),
        ("a: 1\na: 2\n".to_owned(), "`a` is given twice"),
        ("a: .nan\n".to_owned(), "infinity and NaN"),
        ("a: !tag b\n".to_owned(), "without YAML tags"),
    ] {
        let error = one(&text).unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
        assert!(error.to_string().len() < 400, "{error}");
    }
    let huge = " ".repeat(Limits::default().bytes + 1);
    assert!(
        one(&huge)
            .unwrap_err()
            .reason
            .contains("more than the limit")
    );
    let limits = Limits {
        documents: 3,
        ..Limits::default()
    };
    assert_eq!(parse_within(&"--- {}\n".repeat(9), &limits).len(), 4);
    let values = Limits {
        string_bytes: 8,
        ..Limits::default()
    };
    let error = parse_within("abcdefgh: ijk", &values)
        .remove(0)
        .unwrap_err();
    assert!(error.reason.contains("too large"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s)[ -~\\n]{0,300}", key in "[a-z:\\[\\]{}&*!|>'\"%@`,?#-]{0,60}") {
        parse(&text);
        parse(&key);
        parse(&format!("apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {{name: x}}\nspec: {key}\n"));
    }
}
