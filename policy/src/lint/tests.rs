//! Each check finds what it is for, and stays silent for what is right.

mod annotations;
mod clusters;
mod outbound;
mod profiles;
mod workloads;

use super::*;
use crate::index::tests::{VM, WEB, created, everyone, index, object, policy, server};

/// Findings of a check as `kind name: message`.
fn found(check: &str, texts: &[&str]) -> Vec<String> {
    assert!(CHECKS.iter().any(|(name, _)| *name == check), "{check}");
    let findings = index(texts).lint();
    findings
        .iter()
        .filter(|f| f.check == check)
        .map(|f| format!("{} {}: {}", f.object.kind, f.object.name, f.message))
        .collect()
}

#[track_caller]
fn finds(check: &str, texts: &[&str], message: &str) {
    let all = found(check, texts);
    assert!(all.iter().any(|f| f.contains(message)), "{all:#?}");
}

#[track_caller]
fn silent(check: &str, texts: &[&str]) {
    assert_eq!(found(check, texts), [] as [String; 0]);
}

fn attached(name: &str, rest: &str) -> String {
    policy(
        "HTTPRoute",
        name,
        &format!("{{parentRefs: [{{kind: Server, name: web}}]{rest}}}"),
    )
}

#[test]
fn every_check_has_a_test_that_finds_something() {
    let tests = [
        include_str!("tests.rs"),
        include_str!("tests/annotations.rs"),
        include_str!("tests/clusters.rs"),
        include_str!("tests/outbound.rs"),
        include_str!("tests/profiles.rs"),
        include_str!("tests/workloads.rs"),
    ]
    .concat();
    for (check, what) in CHECKS {
        assert!(tests.contains(&format!("\"{check}\"")), "{check}: {what}");
    }
}

#[test]
fn resources_that_fit_together_have_no_findings() {
    let route = attached(
        "r",
        ", rules: [{matches: [{path: {value: /a}}, {path: {value: /b}}]}]",
    );
    let service = object(
        "v1",
        "Service",
        "web",
        "{selector: {app: web}, ports: [{port: 80, targetPort: http}]}",
    );
    let index = index(&[
        WEB,
        &server("web", ""),
        &everyone("x", "Server", "web"),
        &route,
        &service,
    ]);
    assert_eq!(index.lint(), []);
}

#[test]
fn what_is_found_of_one_server_is_what_is_found_of_it_among_all() {
    let other = policy("Server", "s", "{podSelector: {}, port: htpp}");
    let overlap = server("web-2", "");
    let index = index(&[WEB, &server("web", ""), &other, &overlap]);
    let all = index.lint();
    for name in ["web", "s", "web-2", "nobody"] {
        let key = Key {
            group: POLICY_GROUP.to_owned(),
            kind: "Server".to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        };
        let of_one: Vec<_> = all.iter().filter(|f| f.object == key).cloned().collect();
        assert_eq!(index.lint_of(&key), of_one, "{name}");
        assert_eq!(of_one.is_empty(), name == "nobody", "{name}");
    }
}

#[test]
fn server_without_workload() {
    let selects = policy(
        "Server",
        "s",
        "{podSelector: {matchLabels: {app: wbe}}, port: 8080}",
    );
    finds(
        "server-without-workload",
        &[WEB, &selects],
        "Server s: selects no pod of namespace shop",
    );
    let external = policy("Server", "s", "{externalWorkloadSelector: {}, port: 8080}");
    finds(
        "server-without-workload",
        &[WEB, &external],
        "selects no external workload",
    );
    silent(
        "server-without-workload",
        &[WEB, VM, &external, &server("web", "")],
    );
}

#[test]
fn server_without_port() {
    let check = "server-without-port";
    let named = policy("Server", "s", "{podSelector: {}, port: htpp}");
    finds(
        check,
        &[WEB, &named],
        "no selected workload declares a TCP port named htpp",
    );
    let fix = index(&[WEB, &named]).lint().remove(0).fix;
    assert_eq!(fix, "use a port they declare: admin (9090), http (8080)");
    finds(
        check,
        &[WEB, &policy("Server", "s", "{podSelector: {}, port: 8081}")],
        "declares port 8081",
    );
    silent(check, &[WEB, &server("web", "")]);
}

#[test]
fn server_overlap_names_the_winner() {
    let check = "server-overlap";
    finds(
        check,
        &[WEB, &server("a", ""), &server("b", "")],
        "Server b: Server a is older (or first by name) and keeps port 8080 of web, and it keeps no port at all",
    );
    finds(
        check,
        &[WEB, &server("a", ""), &created(&server("b", ""), 1)],
        "Server a: Server b is older",
    );
    silent(
        check,
        &[
            WEB,
            &server("a", ""),
            &policy("Server", "b", "{podSelector: {}, port: 9090}"),
        ],
    );
}

#[test]
fn servers_that_select_the_same_overlap_before_there_is_a_workload() {
    let check = "server-overlap";
    let of = |name: &str, selector: &str| {
        let spec = format!("{{{selector}, port: http}}");
        policy("Server", name, &spec)
    };
    let (all, app) = ("podSelector: {}", "podSelector: {matchLabels: {app: a}}");
    let message = "Server b: Server a is older (or first by name) and keeps port http of every workload that both select";
    for (a, b) in [(all, all), (app, app), (all, app), (app, all)] {
        finds(check, &[&of("a", a), &of("b", b)], message);
    }
    let younger = created(&of("b", app), 1);
    finds(
        check,
        &[&of("a", app), &younger],
        "Server a: Server b is older",
    );
    let other = "podSelector: {matchLabels: {app: b}}";
    for b in [other, "externalWorkloadSelector: {}"] {
        silent(check, &[&of("a", app), &of("b", b)]);
    }
    silent(check, &[&of("a", app), &server("b", "")]);
}

#[test]
fn server_port_skipped() {
    let skipped = WEB.replace(
        "labels:",
        "annotations: {config.linkerd.io/skip-inbound-ports: '8000-9000'}, labels:",
    );
    finds(
        "server-port-skipped",
        &[&skipped, &server("web", "")],
        "port 8080 of web is in skip-inbound-ports",
    );
    silent(
        "server-port-skipped",
        &[
            &skipped,
            &policy("Server", "s", "{podSelector: {}, port: 9090}"),
        ],
    );
}

#[test]
fn server_refused() {
    let check = "server-refused";
    let route = |name: &str| {
        let matches = "{path: {type: RegularExpression, value: '(a{100}){200}'}},".repeat(5);
        attached(name, &format!(", rules: [{{matches: [{matches}]}}]"))
    };
    let routes: Vec<String> = (0..16).map(|i| route(&format!("r{i}"))).collect();
    let server = server("web", "");
    let mut texts: Vec<&str> = vec![WEB, &server];
    texts.extend(routes.iter().map(String::as_str));
    finds(check, &texts, "a proxy would keep its last policy");
    silent(check, &texts[..4]);
}

#[test]
fn server_denies_everyone() {
    let check = "server-denies-everyone";
    finds(check, &[WEB, &server("web", "")], "authorizes nobody");
    finds(
        check,
        &[WEB, &server("web", ", proxyProtocol: opaque")],
        "authorizes nobody",
    );
    silent(check, &[WEB, &server("web", ", accessPolicy: audit")]);
    silent(
        check,
        &[WEB, &server("web", ""), &everyone("x", "Server", "web")],
    );
    silent(
        check,
        &[
            WEB,
            &server("web", ""),
            &attached("r", ""),
            &everyone("x", "HTTPRoute", "r"),
        ],
    );
}

#[test]
fn authorization_without_target() {
    let check = "authorization-without-target";
    let saz = |server: &str| {
        policy(
            "ServerAuthorization",
            "x",
            &format!("{{server: {server}, client: {{unauthenticated: true}}}}"),
        )
    };
    finds(
        check,
        &[&saz("{name: gone}")],
        "ServerAuthorization x: names Server gone, which does not exist",
    );
    finds(
        check,
        &[
            &saz("{selector: {matchLabels: {a: b}}}"),
            &server("web", ""),
        ],
        "selects no Server",
    );
    finds(
        check,
        &[&everyone("x", "Server", "gone")],
        "targets Server.policy.linkerd.io gone, which does not exist",
    );
    finds(
        check,
        &[&everyone("x", "HTTPRoute", "gone")],
        "targets HTTPRoute.policy.linkerd.io gone",
    );
    let namespace = policy(
        "AuthorizationPolicy",
        "x",
        "{targetRef: {kind: Namespace, name: shop}, requiredAuthenticationRefs: []}",
    );
    finds(
        check,
        &[&namespace],
        "targets the namespace, which has no Server",
    );
    silent(
        check,
        &[
            &saz("{name: web}"),
            &everyone("x", "Server", "web"),
            &namespace,
            &server("web", ""),
        ],
    );
    let gateway = object("gateway.networking.k8s.io/v1", "HTTPRoute", "r", "{}");
    let findings = index(&[&everyone("x", "HTTPRoute", "r"), &gateway]).lint();
    assert_eq!(findings[0].fix, "write group: gateway.networking.k8s.io");
}

#[test]
fn authorization_without_client() {
    let saz = |client: &str| {
        policy(
            "ServerAuthorization",
            "x",
            &format!("{{server: {{name: web}}, client: {client}}}"),
        )
    };
    let check = "authorization-without-client";
    finds(check, &[&saz("{}")], "no client authentication configured");
    finds(
        check,
        &[&saz("{meshTLS: {}}")],
        "authorization authorizes no clients",
    );
    silent(check, &[&saz("{meshTLS: {unauthenticatedTLS: true}}")]);
}

#[test]
fn authentication_missing_or_unused() {
    let refs = |namespace: &str| {
        let target = "{group: policy.linkerd.io, kind: Server, name: web}";
        let to = format!(
            "{{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: m, namespace: {namespace}}}"
        );
        policy(
            "AuthorizationPolicy",
            "x",
            &format!("{{targetRef: {target}, requiredAuthenticationRefs: [{to}]}}"),
        )
    };
    let mesh = policy("MeshTLSAuthentication", "m", "{identities: ['*']}");
    finds(
        "authentication-missing",
        &[&refs("ops"), &mesh],
        "MeshTLSAuthentication ops/m does not exist",
    );
    finds(
        "authentication-unused",
        &[&refs("ops"), &mesh],
        "MeshTLSAuthentication m: no AuthorizationPolicy refers to it",
    );
    silent("authentication-missing", &[&refs("shop"), &mesh]);
    silent("authentication-unused", &[&refs("shop"), &mesh]);
    let networks = policy(
        "NetworkAuthentication",
        "m",
        "{networks: [{cidr: 10.0.0.0/8}]}",
    );
    finds(
        "authentication-unused",
        &[&refs("shop"), &networks],
        "NetworkAuthentication m",
    );
}

#[test]
fn rate_limit_without_target_or_overlapping() {
    let limit = |name: &str| {
        policy(
            "HTTPLocalRateLimitPolicy",
            name,
            "{targetRef: {group: policy.linkerd.io, kind: Server, name: web}, total: {requestsPerSecond: 1}}",
        )
    };
    finds(
        "rate-limit-without-target",
        &[&limit("a")],
        "names Server web, which does not exist",
    );
    finds(
        "rate-limit-without-target",
        &[&limit("a"), &server("web", ", proxyProtocol: gRPC")],
        "has proxyProtocol gRPC",
    );
    silent(
        "rate-limit-without-target",
        &[&limit("a"), &server("web", "")],
    );
    finds(
        "rate-limit-overlap",
        &[&limit("a"), &limit("b"), &server("web", "")],
        "b: has no effect: a limits Server web",
    );
    silent("rate-limit-overlap", &[&limit("a"), &server("web", "")]);
}

#[test]
fn route_without_parent_or_with_a_bad_one() {
    finds(
        "route-without-parent",
        &[&attached("r", "")],
        "HTTPRoute r: is attached to Server web, which does not exist",
    );
    silent(
        "route-without-parent",
        &[&attached("r", ""), &server("web", "")],
    );
    let bad = policy(
        "HTTPRoute",
        "r",
        "{parentRefs: [{kind: Server, name: web, port: 80}]}",
    );
    finds(
        "route-parent-invalid",
        &[&bad, &server("web", "")],
        "spec.parentRefs[0].port",
    );
    silent(
        "route-parent-invalid",
        &[&attached("r", ""), &server("web", "")],
    );
}

#[test]
fn route_parent_with_a_forgotten_kind_or_group() {
    let ours = policy("HTTPRoute", "r", "{parentRefs: [{name: web}]}");
    finds(
        "route-parent-invalid",
        &[&ours, &server("web", "")],
        "spec.parentRefs[0] has no kind, which means Gateway",
    );
    let spec = "{parentRefs: [{kind: Server, name: web}]}";
    let gateway = object("gateway.networking.k8s.io/v1", "GRPCRoute", "g", spec);
    finds(
        "route-parent-invalid",
        &[&gateway, &server("web", "")],
        "spec.parentRefs[0] is a Server of another group",
    );
    let ingress = object(
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        "g",
        "{parentRefs: [{name: ingress}]}",
    );
    silent("route-parent-invalid", &[&ingress]);
}

#[test]
fn route_filters_that_are_not_implemented() {
    let route = |filter: &str| {
        object(
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            "r",
            &format!(
                "{{parentRefs: [{{group: policy.linkerd.io, kind: Server, name: web}}], rules: [{{filters: [{{type: {filter}}}]}}]}}"
            ),
        )
    };
    let server = server("web", "");
    finds(
        "route-unsupported",
        &[&route("URLRewrite"), &server],
        "filter URLRewrite (spec.rules[0].filters[0])",
    );
    finds(
        "route-filter-ignored",
        &[&route("ResponseHeaderModifier"), &server],
        "has no effect",
    );
    silent(
        "route-unsupported",
        &[&route("ResponseHeaderModifier"), &server],
    );
    let outbound = route("URLRewrite").replace(
        "group: policy.linkerd.io, kind: Server",
        "group: '', kind: Service",
    );
    finds(
        "route-unsupported",
        &[&outbound, &server],
        "URLRewrite is not implemented for outbound traffic",
    );
}

#[test]
fn route_wrong_protocol() {
    let check = "route-wrong-protocol";
    let grpc = object(
        "gateway.networking.k8s.io/v1",
        "GRPCRoute",
        "g",
        "{parentRefs: [{group: policy.linkerd.io, kind: Server, name: web}]}",
    );
    let with = |protocol: &str| server("web", &format!(", proxyProtocol: {protocol}"));
    for protocol in ["opaque", "TLS", "gRPC"] {
        finds(
            check,
            &[&attached("r", ""), &with(protocol)],
            &format!("has no effect on Server web, whose proxyProtocol is {protocol}"),
        );
    }
    finds(
        check,
        &[&grpc, &with("HTTP/2")],
        "whose proxyProtocol is HTTP/2",
    );
    silent(check, &[&grpc, &with("gRPC")]);
    silent(check, &[&attached("r", ""), &with("HTTP/2")]);
}

#[test]
fn route_never_matches() {
    let check = "route-never-matches";
    let server = server("web", "");
    let rules = |text: &str| format!(", rules: [{{matches: [{text}]}}]");
    let a = attached("a", &rules("{path: {value: /x}, method: GET}"));
    let b = attached(
        "b",
        &rules("{path: {value: /y}}, {path: {value: /x}, method: GET}"),
    );
    finds(
        check,
        &[&server, &a, &b],
        "HTTPRoute b: spec.rules[0].matches[1] never matches on Server web: route a",
    );
    finds(
        check,
        &[&server, &created(&b, 1), &a],
        "HTTPRoute a: spec.rules[0].matches[0] never matches",
    );
    silent(
        check,
        &[&server, &a, &attached("b", &rules("{path: {value: /x}}"))],
    );
    let hosted = attached(
        "b",
        ", hostnames: [h], rules: [{matches: [{path: {value: /x}, method: GET}]}]",
    );
    silent(check, &[&server, &a, &hosted]);
    finds(
        check,
        &[&server, &attached("c", ", rules: [{}, {}]")],
        "an earlier match of the same route",
    );
}

#[test]
fn route_denies_everyone() {
    let check = "route-denies-everyone";
    let server = server("web", "");
    finds(
        check,
        &[WEB, &server, &attached("r", "")],
        "HTTPRoute r: authorizes nobody",
    );
    silent(
        check,
        &[
            WEB,
            &server,
            &attached("r", ""),
            &everyone("x", "HTTPRoute", "r"),
        ],
    );
    silent(
        check,
        &[
            WEB,
            &server,
            &attached("r", ""),
            &everyone("x", "Server", "web"),
        ],
    );
}

#[test]
fn findings_are_sorted_and_say_what_to_do() {
    let index = index(&[
        WEB,
        &server("a", ""),
        &server("b", ""),
        &everyone("x", "Server", "gone"),
    ]);
    let findings = index.lint();
    let severities: Vec<_> = findings.iter().map(|f| f.severity).collect();
    assert!(severities.is_sorted() && severities[0] == Severity::Error);
    assert!(
        findings
            .iter()
            .all(|f| !f.fix.is_empty() && !f.message.is_empty())
    );
    let text = findings[0].to_string();
    assert!(
        text.starts_with("error: ") && text.contains("\n  fix: "),
        "{text}"
    );
}
