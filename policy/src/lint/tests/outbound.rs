//! Routes of Services and EgressNetworks.

use super::*;

/// A Service of `shop` with ports 80, 81 (HTTP/1), 82 (HTTP/2), 83 (bytes) and these annotations.
pub(super) fn service(annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, annotations: {annotations}}}\n\
         spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}, {{port: 81, appProtocol: http, \
         targetPort: http}}, {{port: 82, appProtocol: kubernetes.io/h2c, targetPort: http}}, {{port: 83, appProtocol: \
         tcp, targetPort: http}}]}}\n"
    )
}

/// A route of namespace `shop` by kind, with `spec` below its parent.
fn of(kind: &str, name: &str, parent: &str, rest: &str) -> String {
    let version = match kind {
        "TCPRoute" | "TLSRoute" => "v1alpha2",
        _ => "v1",
    };
    let spec = format!("{{parentRefs: [{{{parent}}}], {rest}}}");
    object(
        &format!("gateway.networking.k8s.io/{version}"),
        kind,
        name,
        &spec,
    )
}

const WEB_80: &str = "group: '', kind: Service, name: web, port: 80";

pub(super) fn http(name: &str, rules: &str) -> String {
    of("HTTPRoute", name, WEB_80, &format!("rules: [{rules}]"))
}

/// The EgressNetwork `out` of `shop`.
fn egress(name: &str, spec: &str) -> String {
    policy(
        "EgressNetwork",
        name,
        &format!("{{trafficPolicy: Deny, {spec}}}"),
    )
}

#[test]
fn routes_and_parents_that_fit_together_have_no_findings() {
    let texts = [
        WEB.to_owned(),
        service(
            "{retry.linkerd.io/http: 5xx, timeout.linkerd.io/request: 2s, policy.linkerd.io/outbound-mtls: preferred}",
        ),
        http(
            "r",
            "{matches: [{path: {type: Exact, value: /a}}, {path: {value: /a}}, {path: {type: RegularExpression, value: /b.*}}], \
             backendRefs: [{name: web, port: 81}, {name: web, port: 80, weight: 0}]}, \
             {filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x]}}]}",
        ),
        of(
            "GRPCRoute",
            "g",
            "kind: Service, group: core, name: web, port: 82",
            "rules: [{}]",
        ),
        of(
            "TCPRoute",
            "t",
            "kind: Service, group: '', name: web, port: 83",
            "rules: [{}]",
        ),
        of(
            "TCPRoute",
            "e",
            "kind: EgressNetwork, group: policy.linkerd.io, name: out, port: 5432",
            "rules: [{}]",
        ),
        of(
            "TLSRoute",
            "s",
            "kind: EgressNetwork, group: policy.linkerd.io, name: out, port: 443",
            "hostnames: [a.test], rules: [{}]",
        ),
        egress(
            "out",
            "networks: [{cidr: 0.0.0.0/0, except: [10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16]}]",
        ),
        egress("own", ""),
    ];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!(index(&texts).lint(), []);
}

#[test]
fn routes_lead_from_services_and_ports_that_exist() {
    let web = service("{}");
    for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"] {
        let gone = of(
            kind,
            "r",
            "group: '', kind: Service, name: wbe",
            "rules: [{}]",
        );
        let message = format!("{kind} r: is attached to Service shop/wbe, which does not exist");
        finds("route-without-parent", &[WEB, &web, &gone], &message);
        let port = of(
            kind,
            "r",
            "group: '', kind: Service, name: web, port: 90",
            "rules: [{}]",
        );
        finds(
            "route-without-port",
            &[WEB, &web, &port],
            "is attached to port 90 of Service shop/web, which has no such port",
        );
    }
    let findings = index(&[WEB, &web, &http("r", "{}").replace("port: 80", "port: 90")]).lint();
    assert_eq!(findings[0].fix, "write a port that it has: 80, 81, 82, 83");
    let parent = "group: policy.linkerd.io, kind: EgressNetwork, name: out, port: 443";
    let route = of("TLSRoute", "r", parent, "rules: [{}]");
    let message = "is attached to EgressNetwork shop/out, which does not exist";
    finds("route-without-parent", &[&route], message);
    silent("route-without-parent", &[&route, &egress("out", "")]);
}

#[test]
fn parents_that_cannot_be_are_named_and_those_of_others_are_not() {
    let check = "route-parent-invalid";
    let web = service("{}");
    for (kind, parent, message) in [
        (
            "HTTPRoute",
            "group: gateway.networking.k8s.io, kind: Service, name: web",
            "is a Service of group gateway",
        ),
        (
            "HTTPRoute",
            "group: '', kind: service, name: web",
            "has kind service",
        ),
        (
            "HTTPRoute",
            "group: '', kind: Pod, name: web",
            "is a Pod, which cannot be a parent",
        ),
        (
            "GRPCRoute",
            "group: apps, kind: Deployment, name: web",
            "is a Deployment",
        ),
        (
            "TCPRoute",
            "kind: EgressNetwork, name: out, port: 1",
            "is an EgressNetwork of group `gateway",
        ),
        (
            "TCPRoute",
            "group: policy.linkerd.io, kind: Server, name: web",
            "is a Server, which has no TCPRoutes",
        ),
        (
            "HTTPRoute",
            "group: '', kind: Service, name: web, sectionName: a",
            "sectionName is not read",
        ),
    ] {
        finds(
            check,
            &[WEB, &web, &of(kind, "r", parent, "rules: [{}]")],
            message,
        );
    }
    for parent in [
        WEB_80,
        "kind: Service, name: web",
        "name: ingress",
        "group: multicluster.x-k8s.io, kind: ServiceImport, name: web",
    ] {
        silent(
            check,
            &[WEB, &web, &of("HTTPRoute", "r", parent, "rules: [{}]")],
        );
    }
}

#[test]
fn backends_exist_and_have_the_port() {
    let check = "route-without-backend";
    let web = service("{}");
    let alias = "apiVersion: v1\nkind: Service\nmetadata: {name: alias, namespace: shop}\nspec: {type: ExternalName, externalName: a.test, ports: [{port: 80}]}\n";
    let found = |backend: &str, message: &str| {
        let route = http("r", &format!("{{backendRefs: [{backend}]}}"));
        finds(check, &[WEB, &web, alias, &route], message);
    };
    found(
        "{name: gone, port: 80}",
        "Service shop/gone, which does not exist: what is to go there is answered 500",
    );
    found(
        "{name: gone, port: 80, weight: 0}, {name: web, port: 80}",
        "its weight is 0",
    );
    found(
        "{name: web, namespace: other, port: 80}",
        "Service other/web",
    );
    found(
        "{name: alias, port: 80}",
        "an ExternalName: it has no endpoints",
    );
    found(
        "{name: web, group: apps, kind: Deployment}",
        "is a Deployment of group `apps`",
    );
    found(
        "{name: out, group: policy.linkerd.io, kind: EgressNetwork, port: 80}",
        "sends to EgressNetwork shop/out, and is attached to Service shop/web",
    );
    let ours = policy(
        "HTTPRoute",
        "r",
        "{parentRefs: [{group: core, kind: Service, name: web}], rules: [{backendRefs: [{name: web}]}]}",
    );
    finds(
        check,
        &[WEB, &web, &ours],
        "spec.rules[0].backendRefs[0] has no port",
    );
    let tcp = of(
        "TCPRoute",
        "t",
        "group: '', kind: Service, name: web, port: 83",
        "rules: [{backendRefs: [{name: gone, port: 1}]}]",
    );
    finds(check, &[WEB, &web, &tcp], "is closed");
    let port = http("r", "{backendRefs: [{name: web, port: 90}]}");
    finds(
        "backend-without-port",
        &[WEB, &web, &port],
        "sends to port 90 of Service shop/web",
    );
    let right = http("r", "{backendRefs: [{name: web, port: 81}]}");
    silent(check, &[WEB, &web, &right]);
    silent("backend-without-port", &[WEB, &web, &right]);
    // Without a namespace a backend is of its parent's.
    let consumer = right
        .replace("namespace: shop", "namespace: office")
        .replace("name: web, port: 80", "name: web, namespace: shop");
    silent(check, &[WEB, &web, &consumer]);
}

#[test]
fn rules_that_send_nowhere_or_take_nothing_are_named() {
    let web = service("{}");
    let check = "route-sends-nowhere";
    let zero = "backendRefs: [{name: web, port: 80, weight: 0}, {name: web, port: 81, weight: 0}]";
    finds(
        check,
        &[WEB, &web, &http("r", &format!("{{{zero}}}"))],
        "spec.rules[0]: all weights are 0: requests are answered 503",
    );
    let redirect = format!(
        "{{{zero}, filters: [{{type: RequestRedirect, requestRedirect: {{hostname: a.test}}}}]}}"
    );
    silent(check, &[WEB, &web, &http("r", &redirect)]);
    silent(check, &[WEB, &web, &http("r", "{}")]);
    finds(
        "route-without-rules",
        &[WEB, &web, &http("r", "")],
        "has no rules",
    );
    silent("route-without-rules", &[WEB, &web, &http("r", "{}")]);
}

#[test]
fn filters_that_fail_every_request_are_named() {
    let check = "route-unsupported";
    let web = service("{}");
    let rewrite = http("r", "{filters: [{type: URLRewrite}]}");
    finds(
        check,
        &[WEB, &web, &rewrite],
        "spec.rules[0].filters: URLRewrite is not implemented",
    );
    let of_backend = http(
        "r",
        "{backendRefs: [{name: web, port: 80, filters: [{type: RequestMirror}]}]}",
    );
    finds(
        check,
        &[WEB, &web, &of_backend],
        "spec.rules[0].backendRefs[0].filters: RequestMirror",
    );
    let headers =
        "{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x]}}]}";
    silent(check, &[WEB, &web, &http("r", headers)]);
    let grpc = http("r", headers).replace("HTTPRoute", "GRPCRoute");
    finds(
        check,
        &[WEB, &web, &grpc],
        "is answered with gRPC status 13",
    );
}

#[test]
fn fields_that_are_not_read_are_named() {
    let check = "route-field-ignored";
    let web = service("{}");
    for (field, message) in [
        ("retry: {attempts: 3}", "spec.rules[0].retry has no effect"),
        (
            "sessionPersistence: {type: Cookie}",
            "spec.rules[0].sessionPersistence has no effect",
        ),
        (
            "timeouts: {backendRequest: 1s}",
            "spec.rules[0].timeouts.backendRequest has no effect",
        ),
    ] {
        let route = http("r", &format!("{{{field}}}"));
        finds(check, &[WEB, &web, &route], message);
    }
    let limited = http("r", "{timeouts: {request: 1s}, retry: null}");
    silent(check, &[WEB, &web, &limited]);
    let annotated = limited.replacen(
        "namespace: shop",
        "namespace: shop, annotations: {timeout.linkerd.io/request: 2s}",
        1,
    );
    let message = "spec.rules[0].timeouts.request has no effect beside annotation";
    finds(check, &[WEB, &web, &annotated], message);
    let grpc = http("r", "{sessionPersistence: {type: Cookie}}").replace("HTTPRoute", "GRPCRoute");
    finds(
        check,
        &[WEB, &web, &grpc],
        "GRPCRoute r: spec.rules[0].sessionPersistence",
    );
}

#[test]
fn a_route_that_names_its_parent_twice_does_not_hide_itself() {
    let web = service("{}");
    let twice = http("r", "{}").replace(
        "parentRefs: [",
        "parentRefs: [{group: '', kind: Service, name: web}, ",
    );
    assert_eq!(index(&[WEB, &web, &twice]).lint(), []);
}

#[test]
fn of_routes_for_the_same_requests_the_later_is_named() {
    let check = "route-never-matches";
    let web = service("{}");
    let a = http(
        "a",
        "{matches: [{path: {value: /x}, headers: [{name: a, value: '1'}, {name: b, value: '2'}]}]}",
    );
    let b = http(
        "b",
        "{matches: [{path: {value: /x}, headers: [{name: b, value: '2'}, {name: a, value: '1'}]}]}",
    );
    finds(
        check,
        &[WEB, &web, &a, &b],
        "HTTPRoute b: spec.rules[0].matches[0] never matches on port 80 of Service shop/web: route a, which is older",
    );
    silent(check, &[WEB, &web, &a, &b.replace("port: 80", "port: 81")]);
    let grpc = |name: &str| {
        http(name, "{matches: [{method: {service: s}}]}").replace("HTTPRoute", "GRPCRoute")
    };
    finds(
        check,
        &[WEB, &web, &grpc("a"), &grpc("b")],
        "GRPCRoute b: spec.rules[0].matches[0]",
    );
    // A client's own route does not come before the Service's, unless it is older.
    let office = |text: &str| text.replacen("namespace: shop", "namespace: office", 1);
    let own = a.replace(
        "name: web, port: 80",
        "name: web, port: 80, namespace: shop",
    );
    let message = "HTTPRoute a: spec.rules[0].matches[0] never matches on port 80 of Service shop/web: route shop/a, which";
    finds(check, &[WEB, &web, &created(&a, 1), &office(&own)], message);
    silent(check, &[WEB, &web, &a, &office(&created(&own, 1))]);
}

#[test]
fn a_prefix_takes_what_a_regular_expression_below_it_covers() {
    let check = "route-never-matches";
    let web = service("{}");
    let regex = "{path: {type: RegularExpression, value: '/api/v[0-9]+/users'}, method: GET}";
    let with = |first: &str| {
        http(
            "r",
            &format!("{{matches: [{first}]}}, {{matches: [{regex}]}}"),
        )
    };
    let message = "spec.rules[1].matches[0] never matches on port 80 of Service shop/web: prefix /api of the same route";
    finds(check, &[WEB, &web, &with("{path: {value: /api}}")], message);
    finds(
        check,
        &[WEB, &web, &with("{path: {value: /api/}, method: GET}")],
        message,
    );
    for other in [
        "{path: {value: /api}, method: POST}",
        "{path: {value: /apis}}",
        "{path: {value: /}}",
    ] {
        silent(check, &[WEB, &web, &with(other)]);
    }
    // The inbound side looks in the same order.
    let inbound = attached(
        "r",
        &format!(", rules: [{{matches: [{{path: {{value: /api}}}}, {regex}]}}]"),
    );
    finds(
        check,
        &[&server("web", ""), &inbound],
        "never matches on Server web: prefix /api",
    );
}

#[test]
fn routes_that_their_port_has_no_use_for_are_named() {
    let check = "route-hidden";
    let web = service("{}");
    let at = |kind: &str, name: &str, port: u16| {
        of(
            kind,
            name,
            &format!("group: '', kind: Service, name: web, port: {port}"),
            "rules: [{}]",
        )
    };
    let grpc = at("GRPCRoute", "g", 80);
    let found = |texts: &[&str], message: &str| {
        let mut all = vec![WEB, &web];
        all.extend(texts);
        finds(check, &all, message);
    };
    found(
        &[&grpc, &http("h", "{}")],
        "HTTPRoute h: has no effect on port 80 of Service shop/web: GRPCRoute shop/g makes it a gRPC port",
    );
    found(&[&at("GRPCRoute", "g", 81)], "its appProtocol is http");
    found(&[&at("HTTPRoute", "h", 83)], "says that it carries bytes");
    found(
        &[&at("TLSRoute", "s", 80), &http("h", "{}")],
        "TLSRoute s: has no effect on port 80 of Service shop/web: HTTPRoute shop/h",
    );
    found(
        &[&at("TCPRoute", "a", 83), &at("TCPRoute", "b", 83)],
        "TCPRoute b: has no effect on port 83 of Service shop/web: TCPRoute shop/a is older",
    );
    found(
        &[&at("TLSRoute", "s", 80), &at("TCPRoute", "t", 80)],
        "TCPRoute t: has no effect on port 80 of Service shop/web: TLSRoute shop/s",
    );
    // Without an address there is nothing that a route could apply to, whatever the port is.
    for (spec, why) in [
        ("clusterIP: None", "it is headless (clusterIP: None)"),
        (
            "type: ExternalName, externalName: web.example",
            "it is an ExternalName",
        ),
    ] {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{selector: {{app: web}}, {spec}, ports: [{{port: 80}}]}}"
        );
        let message = format!("HTTPRoute h: has no effect on port 80 of Service shop/web: {why}");
        finds(check, &[WEB, &text, &http("h", "{}")], &message);
    }
    // Attached to all ports it needs to count on one only.
    let everywhere = http("h", "{}").replace(", port: 80", "");
    silent(check, &[WEB, &web, &everywhere]);
    silent(check, &[WEB, &web, &grpc, &everywhere]);
    let out = egress("out", "");
    let at_out = |kind: &str, name: &str| {
        of(
            kind,
            name,
            "group: policy.linkerd.io, kind: EgressNetwork, name: out, port: 443",
            "rules: [{}]",
        )
    };
    finds(
        check,
        &[&out, &at_out("TLSRoute", "s"), &at_out("TCPRoute", "t")],
        "TCPRoute t: has no effect on port 443 of EgressNetwork shop/out: TLSRoute shop/s makes it a TLS port",
    );
    silent(check, &[&out, &at_out("TLSRoute", "s")]);
}

#[test]
fn egress_networks_take_something_and_nothing_of_the_cluster() {
    let check = "egress-network-inside";
    let all = egress("out", "networks: [{cidr: 0.0.0.0/0}]");
    finds(
        check,
        &[&all],
        "takes the cluster's networks 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12 and 1 more",
    );
    finds(check, &[&all, VM], "takes 10.1.0.1 of shop/vm");
    let part = egress("out", "networks: [{cidr: 10.99.0.0/16}]");
    silent(check, &[&part, VM]);
    silent(check, &[&egress("out", ""), VM]);
    let check = "egress-network-overlap";
    let other = part.replace("name: out", "name: zut");
    finds(
        check,
        &[&part, &other],
        "EgressNetwork zut: takes nothing: EgressNetwork out is older",
    );
    silent(check, &[&part, &other.replace("/16", "/24")]);
    finds(
        check,
        &[&egress("a", ""), &egress("b", "")],
        "EgressNetwork b: takes nothing",
    );
}
