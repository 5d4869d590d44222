//! The rows `admit_*` of the specification's table of peer tests, with the texts of the admission webhook.

use super::*;

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
            "override.requestsPerSecond must be less than or equal to total.requestsPerSecond",
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

/// Rules that are refused: rule, field, start of the reason.
const HTTP_RULES: &[(&str, &str, &str)] = &[
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
        "`(x{999}){999}` takes more than 1048576 bytes",
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
];

#[test]
fn admit_http_route() {
    let rule = |rule: &str| format!("{{parentRefs: [{{kind: Server, name: a}}], rules: [{rule}]}}");
    policy("HTTPRoute", &rule("{matches: [{path: {value: /a}, method: GET}], timeouts: {request: 0s, backendRequest: 10s}}")).unwrap();
    for (text, field, reason) in HTTP_RULES {
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
    let rules = format!("{{matches: [{}]}},", "{},".repeat(8)).repeat(16);
    policy("HTTPRoute", &format!("{{rules: [{rules}]}}")).unwrap();
    let rules = format!("{{matches: [{}]}},", "{},".repeat(43)).repeat(3);
    refused(
        gateway("HTTPRoute", &format!("{{rules: [{rules}]}}")),
        "spec.rules",
        "129 matches of all rules are more than 128",
    );
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
    // What is for the other kind of requests is not read.
    route("retry.linkerd.io/grpc", "broken", "Service").unwrap();
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
