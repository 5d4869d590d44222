//! Routes and probes: what is attached, what it becomes, and that probes get through.

use super::*;
use crate::{
    Peer, PeerTls, Policy, RequestView,
    server::{Filter, HostMatch, HttpRoute, Meta, PathMatch, PathModifier},
};

fn http_routes(policy: &ServerPolicy) -> Vec<HttpRoute> {
    match &policy.protocol {
        Protocol::Detect { http, .. } | Protocol::Http1(http) | Protocol::Http2(http) => {
            http.routes.clone()
        }
        other => panic!("{other:?}"),
    }
}

/// The name of the route that takes a request, and whether a client without identity may make it.
fn ask(policy: ServerPolicy, method: &http::Method, path: &str) -> (String, bool) {
    let policy = Policy::compile(policy).unwrap();
    let headers = http::HeaderMap::new();
    let request = RequestView {
        method,
        authority: None,
        path,
        query: Some("a=b"),
        headers: &headers,
    };
    let Some(matched) = policy.route(&request) else {
        return ("none".to_owned(), false);
    };
    let route = matched.route as usize;
    let peer = Peer {
        addr: [192, 0, 2, 1].into(),
        tls: PeerTls::None,
    };
    let name = policy.route_meta(route).unwrap().name().to_owned();
    (name, policy.authorize(&peer, route).is_ok())
}

const GET: &http::Method = &http::Method::GET;

#[test]
fn probes_get_through_a_server_that_denies_and_nothing_else_does() {
    let policy = inbound(&index(&[WEB, &server("web", "")]), 8080);
    assert_eq!(
        ask(policy.clone(), GET, "/alive"),
        ("probe".to_owned(), true)
    );
    assert_eq!(
        ask(policy.clone(), GET, "/"),
        ("probe".to_owned(), true),
        "the default path"
    );
    assert_eq!(
        ask(policy.clone(), GET, "/alive/x"),
        ("default".to_owned(), false)
    );
    assert_eq!(
        ask(policy, &http::Method::POST, "/alive"),
        ("default".to_owned(), false)
    );
}

#[test]
fn probes_stay_when_routes_are_attached_even_for_the_same_path() {
    let route = policy(
        "HTTPRoute",
        "r",
        "
  parentRefs: [{kind: Server, name: web}]
  rules: [{matches: [{path: {type: Exact, value: /alive}, method: GET}, {path: {value: /api}}]}]",
    );
    let policy = inbound(&index(&[WEB, &server("web", ""), &route]), 8080);
    assert_eq!(
        ask(policy.clone(), GET, "/alive"),
        ("probe".to_owned(), true)
    );
    assert_eq!(ask(policy.clone(), GET, "/api/x"), ("r".to_owned(), false));
    assert_eq!(ask(policy, GET, "/other"), ("none".to_owned(), false));
}

#[test]
fn probe_routes_can_be_turned_off_and_need_probe_networks() {
    let off = WEB.replace(
        "labels: {app: web}",
        "labels: {app: web}, annotations: {config.linkerd.io/probe-authorization: disabled}",
    );
    let server = server("web", "");
    let policy = inbound(&index(&[&off, &server]), 8080);
    assert_eq!(routes(&policy), ["default default"]);
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {config.linkerd.io/probe-authorization: disabled}}";
    assert_eq!(
        routes(&inbound(&index(&[WEB, &server, namespace]), 8080)),
        ["default default"]
    );
    let cluster = Cluster {
        probe_networks: vec![],
        ..Cluster::default()
    };
    let index = Index::from_resources(cluster, resources(&[WEB, &server].join("\n---\n")));
    assert_eq!(routes(&inbound(&index, 8080)), ["default default"]);
}

#[test]
fn a_probe_is_found_on_the_port_of_its_own_container() {
    let two = format!(
        "{WEB}  - name: other\n    ports: [{{containerPort: 7070, name: http}}]\n    startupProbe: {{httpGet: {{path: up, port: http}}}}\n"
    );
    let index = index(&[&two]);
    let paths = |port| {
        let routes = http_routes(&inbound(&index, port));
        let probe = routes.iter().find(|r| r.meta.name() == "probe");
        probe.map(|p| {
            p.rules[0]
                .matches
                .iter()
                .map(|m| m.path.clone().unwrap())
                .collect::<Vec<_>>()
        })
    };
    let exact = |path: &str| PathMatch::Exact(path.to_owned());
    assert_eq!(paths(7070), Some(vec![exact("/up")]));
    assert_eq!(paths(8080), Some(vec![exact("/"), exact("/alive")]));
    assert_eq!(paths(9090), None);
}

#[test]
fn grpc_probes_get_through_on_http_and_on_grpc_ports() {
    let pod = WEB.replace(
        "livenessProbe: {httpGet: {path: /alive?full=1, port: http}}",
        "livenessProbe: {grpc: {port: 9090}}",
    );
    let check = "/grpc.health.v1.Health/Check";
    let of = |protocol: &str| {
        let server = policy(
            "Server",
            "s",
            &format!("{{podSelector: {{}}, port: 9090, proxyProtocol: {protocol}}}"),
        );
        inbound(&index(&[&pod, &server]), 9090)
    };
    for protocol in ["unknown", "HTTP/2", "gRPC"] {
        let (name, allowed) = ask(of(protocol), &http::Method::POST, check);
        assert_eq!((name.as_str(), allowed), ("probe", true), "{protocol}");
        assert!(
            !ask(of(protocol), &http::Method::POST, "/a.B/C").1,
            "{protocol}"
        );
    }
}

#[test]
fn a_grpc_port_has_grpc_routes_and_other_ports_have_http_routes() {
    let spec = "{parentRefs: [{group: policy.linkerd.io, kind: Server, name: web}]}";
    let http = policy("HTTPRoute", "h", spec);
    let grpc = object(
        "gateway.networking.k8s.io/v1",
        "GRPCRoute",
        "g",
        "
  parentRefs: [{group: policy.linkerd.io, kind: Server, name: web}]
  hostnames: ['*.a.b']
  rules:
  - matches: [{method: {service: s.S, method: M}, headers: [{name: x, value: y}]}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [z]}}]",
    );
    let of = |protocol: &str, texts: &[&str]| {
        let server = server("web", &format!(", proxyProtocol: {protocol}"));
        let mut all = vec![WEB, &server];
        all.extend(texts);
        inbound(&index(&all), 8080)
    };
    let policy = of("gRPC", &[&http, &grpc]);
    assert_eq!(routes(&policy), ["GRPCRoute g"]);
    let Protocol::Grpc { routes: found } = policy.protocol else {
        panic!()
    };
    assert_eq!(
        found[0].hosts,
        [HostMatch::Suffix(vec!["b".into(), "a".into()])]
    );
    assert_eq!(found[0].rules[0].matches[0].service, "s.S");
    assert_eq!(found[0].rules[0].matches[0].method, "M");
    assert_eq!(found[0].rules[0].filters.len(), 1);
    assert_eq!(routes(&of("gRPC", &[&http])), ["default default"]);
    for protocol in ["unknown", "HTTP/1", "HTTP/2"] {
        assert_eq!(routes(&of(protocol, &[&http]))[1..], ["HTTPRoute h"]);
        // A GRPCRoute takes its Server from HTTPRoutes, whatever the Server speaks.
        let both = routes(&of(protocol, &[&http, &grpc]));
        assert!(!both.contains(&"HTTPRoute h".to_owned()), "{both:?}");
    }
    for protocol in ["opaque", "TLS"] {
        assert_eq!(routes(&of(protocol, &[&http, &grpc])), Vec::<String>::new());
    }
}

#[test]
fn a_route_becomes_what_it_says() {
    let route = policy("HTTPRoute", "r", "
  parentRefs: [{kind: Server, name: web}]
  hostnames: [a.b, '*.c.d']
  rules:
  - matches:
    - {path: {type: RegularExpression, value: '/x.*'}, method: PUT, headers: [{name: X-A, value: b}], queryParams: [{name: q, value: '1+', type: RegularExpression}]}
    - {method: GET}
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: b}], set: [{name: c, value: d}], remove: [e]}}
    - {type: RequestRedirect, requestRedirect: {scheme: https, hostname: h, port: 8443, path: {type: ReplacePrefixMatch, replacePrefixMatch: /y}}}");
    let found = http_routes(&inbound(&index(&[WEB, &server("web", ""), &route]), 8080)).remove(1);
    assert_eq!(
        found.meta,
        Meta::resource("policy.linkerd.io", "HTTPRoute", "r")
    );
    assert_eq!(
        found.hosts,
        [
            HostMatch::Exact("a.b".into()),
            HostMatch::Suffix(vec!["d".into(), "c".into()])
        ]
    );
    let [first, second] = found.rules[0].matches.as_slice() else {
        panic!()
    };
    assert_eq!(first.path, Some(PathMatch::Regex("/x.*".into())));
    assert_eq!((first.headers.len(), first.query.len()), (1, 1));
    assert_eq!(
        second.path,
        Some(PathMatch::Prefix("/".into())),
        "the schema's default"
    );
    let [Filter::RequestHeaders(headers), Filter::Redirect(redirect)] =
        found.rules[0].filters.as_slice()
    else {
        panic!()
    };
    assert_eq!(
        (headers.add.len(), headers.set.len(), headers.remove.len()),
        (1, 1, 1)
    );
    assert_eq!(
        redirect.status,
        Some(http::StatusCode::FOUND),
        "the schema's default"
    );
    assert_eq!(redirect.path, Some(PathModifier::Prefix("/y".into())));
    assert_eq!(
        (redirect.scheme.as_deref(), redirect.port),
        (Some("https"), Some(8443))
    );
}

#[test]
fn a_route_is_ignored_for_a_bad_parent_or_an_unimplemented_filter() {
    let attached = |parent: &str, filter: &str| {
        let route = object(
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            "r",
            &format!(
                "
  parentRefs: [{{name: elsewhere}}, {{group: policy.linkerd.io, kind: Server, name: web{parent}}}]
  rules: [{{filters: [{filter}]}}]"
            ),
        );
        let policy = inbound(&index(&[WEB, &server("web", ""), &route]), 8080);
        routes(&policy).contains(&"HTTPRoute r".to_owned())
    };
    assert!(attached("", ""));
    assert!(attached(
        ", namespace: shop",
        "{type: ResponseHeaderModifier}"
    ));
    for parent in [", namespace: other", ", port: 8080", ", sectionName: a"] {
        assert!(!attached(parent, ""), "{parent}");
    }
    assert!(!attached("", "{type: URLRewrite}"));
}

#[test]
fn status_says_which_parents_accept_a_route_and_which_rate_limit_counts() {
    let route = policy(
        "HTTPRoute",
        "r",
        "{parentRefs: [{kind: Server, name: web}, {kind: Server, name: gone}, {group: '', kind: Service, name: s}]}",
    );
    let limit = |name: &str, server: &str| {
        policy(
            "HTTPLocalRateLimitPolicy",
            name,
            &format!(
                "{{targetRef: {{group: policy.linkerd.io, kind: Server, name: {server}}}, total: {{requestsPerSecond: 1}}}}"
            ),
        )
    };
    let empty = policy("HTTPRoute", "empty", "{parentRefs: []}");
    let index = index(&[
        &server("web", ""),
        &route,
        &empty,
        &limit("a", "web"),
        &limit("b", "web"),
        &limit("c", "gone"),
    ]);
    assert_eq!(
        said(&index),
        [
            "empty:",
            "r: Server web Accepted; Server gone !NoMatchingParent; Service s !NoMatchingParent ResolvedRefs",
            "a: Server web Accepted",
            "b: Server web !RateLimitReasonAlreadyExists",
            "c: Server gone !NoMatchingTarget",
        ]
    );
}
