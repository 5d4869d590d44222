//! The rows `inbound_api` and `inbound_api_external_workload` of the specification's table of peer tests.

use super::*;
use crate::server::{Authentication, PathMatch};
use std::time::Duration;

#[test]
fn an_unknown_workload_has_no_policy() {
    let index = index(&[WEB]);
    for token in [
        "shop:other",
        "other:web",
        r#"{"ns":"shop","external_workload":"web"}"#,
    ] {
        assert_eq!(index.inbound(&token.parse().unwrap(), 8080), None);
    }
}

#[test]
fn a_port_starts_with_the_default_server() {
    let policy = inbound(&index(&[WEB]), 8080);
    assert_eq!(policy.meta.to_string(), "default all-unauthenticated");
    assert_eq!(authorizations(&policy), ["default all-unauthenticated"]);
    let Protocol::Detect { timeout, http } = &policy.protocol else {
        panic!("{policy:?}")
    };
    assert_eq!(*timeout, Duration::from_secs(10));
    assert_eq!(http.rate_limit, None);
}

#[test]
fn creating_a_server_switches_to_it_and_denies_and_deleting_it_reverts() {
    let mut index = index(&[WEB]);
    let before = inbound(&index, 8080);
    let server = resources(&server("web", "")).remove(0);
    let key = server.key();
    index.apply(server);
    let policy = inbound(&index, 8080);
    assert_eq!(
        policy.meta,
        crate::Meta::resource("policy.linkerd.io", "server", "web")
    );
    assert!(policy.authorizations.is_empty());
    assert_eq!(inbound(&index, 9090), before_port(&before));
    index.delete(&key);
    assert_eq!(inbound(&index, 8080), before);
}

/// Another port has the same default policy, without the probes of 8080.
fn before_port(policy: &ServerPolicy) -> ServerPolicy {
    let mut policy = policy.clone();
    if let Protocol::Detect { http, .. } = &mut policy.protocol {
        http.routes.retain(|r| r.meta.name() != "probe");
    }
    policy
}

#[test]
fn authorizations_appear_and_go_and_are_in_a_fixed_order() {
    let saz = |name: &str| {
        policy(
            "ServerAuthorization",
            name,
            "{server: {name: web}, client: {unauthenticated: true}}",
        )
    };
    let mut index = index(&[
        WEB,
        &server("web", ""),
        &everyone("z", "Server", "web"),
        &everyone("a", "Server", "web"),
        &everyone("other", "Server", "other"),
        &saz("y"),
        &saz("b"),
    ]);
    let expected = [
        "serverauthorization b",
        "serverauthorization y",
        "authorizationpolicy a",
        "authorizationpolicy z",
    ];
    assert_eq!(authorizations(&inbound(&index, 8080)), expected);
    for text in [everyone("a", "Server", "web"), saz("y")] {
        index.delete(&resources(&text)[0].key());
    }
    assert_eq!(
        authorizations(&inbound(&index, 8080)),
        [expected[0], expected[3]]
    );
}

#[test]
fn of_two_servers_the_older_wins_then_the_first_by_name() {
    let name = |texts: &[&str]| inbound(&index(texts), 8080).meta.name().to_owned();
    let (a, b) = (server("a", ""), server("b", ""));
    assert_eq!(name(&[WEB, &b, &a]), "a");
    assert_eq!(name(&[WEB, &created(&a, 9), &created(&b, 2)]), "b");
    assert_eq!(name(&[WEB, &created(&a, 2), &created(&b, 2)]), "a");
    assert_eq!(name(&[WEB, &a, &created(&b, 2)]), "b");
}

#[test]
fn access_policy_adds_to_explicit_authorizations_and_comes_last() {
    for (mode, expected) in [
        ("audit", vec!["default audit"]),
        ("all-unauthenticated", vec!["default all-unauthenticated"]),
        (
            "cluster-authenticated",
            vec!["default cluster-authenticated"],
        ),
        ("deny", vec![]),
    ] {
        let server = server("web", &format!(", accessPolicy: {mode}"));
        let policy = inbound(
            &index(&[WEB, &server, &everyone("x", "Server", "web")]),
            8080,
        );
        let all = [vec!["authorizationpolicy x"], expected].concat();
        assert_eq!(authorizations(&policy), all);
    }
}

#[test]
fn the_rate_limit_is_in_the_policy() {
    let limit = |name: &str, total: u32| {
        policy("HTTPLocalRateLimitPolicy", name, &format!("
  targetRef: {{group: policy.linkerd.io, kind: Server, name: web}}
  total: {{requestsPerSecond: {total}}}
  identity: {{requestsPerSecond: 5}}
  overrides: [{{requestsPerSecond: 7, clientRefs: [{{kind: ServiceAccount, name: a}}, {{kind: ServiceAccount, namespace: ops, name: b}}]}}]
"))
    };
    let of = |texts: &[&str]| match inbound(&index(texts), 8080).protocol {
        Protocol::Detect { http, .. } => http.rate_limit.unwrap(),
        other => panic!("{other:?}"),
    };
    let server = server("web", "");
    let found = of(&[WEB, &server, &limit("b", 100), &limit("a", 50)]);
    assert_eq!(
        found.meta.unwrap().to_string(),
        "HTTPLocalRateLimitPolicy a"
    );
    assert_eq!((found.total, found.identity), (Some(50), Some(5)));
    assert_eq!(found.overrides[0].requests_per_second, 7);
    assert_eq!(
        found.overrides[0].identities,
        [
            "a.shop.serviceaccount.identity.linkerd.cluster.local",
            "b.ops.serviceaccount.identity.linkerd.cluster.local"
        ]
    );
    let older = created(&limit("b", 100), 1);
    assert_eq!(
        of(&[WEB, &server, &older, &limit("a", 50)]).total,
        Some(100)
    );
}

#[test]
fn a_route_attaches_with_its_authorizations_and_leaves() {
    let route = policy(
        "HTTPRoute",
        "r",
        "{parentRefs: [{kind: Server, name: web}]}",
    );
    let mut index = index(&[WEB, &server("web", ""), &route]);
    assert_eq!(
        routes(&inbound(&index, 8080)),
        ["default probe <- default probe", "HTTPRoute r"]
    );
    let authorization = resources(&everyone("x", "HTTPRoute", "r")).remove(0);
    index.apply(authorization);
    assert_eq!(
        routes(&inbound(&index, 8080)),
        [
            "default probe <- default probe",
            "HTTPRoute r <- authorizationpolicy x"
        ]
    );
    assert!(authorizations(&inbound(&index, 8080)).is_empty());
    index.delete(&resources(&route)[0].key());
    assert_eq!(
        routes(&inbound(&index, 8080)),
        ["default default", "default probe <- default probe"]
    );
}

#[test]
fn routes_are_ordered_by_creation_then_name_then_group() {
    let spec = "{parentRefs: [{group: policy.linkerd.io, kind: Server, name: web}]}";
    let route = |name: &str| policy("HTTPRoute", name, spec);
    let gateway = object("gateway.networking.k8s.io/v1", "HTTPRoute", "c", spec);
    let texts = [
        created(&route("z"), 1),
        created(&route("y"), 2),
        route("b"),
        route("c"),
        gateway,
        server("web", ""),
        WEB.to_owned(),
    ];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let policy = inbound(&index(&texts), 8080);
    let Protocol::Detect { http, .. } = policy.protocol else {
        panic!()
    };
    let order: Vec<_> = http
        .routes
        .iter()
        .map(|r| (r.meta.name(), r.meta.group()))
        .collect();
    let ours = "policy.linkerd.io";
    assert_eq!(
        order,
        [
            ("probe", ""),
            ("z", ours),
            ("y", ours),
            ("b", ours),
            ("c", "gateway.networking.k8s.io"),
            ("c", ours)
        ]
    );
}

#[test]
fn the_default_list_is_default_and_probe_with_live_and_ready_on_the_admin_port() {
    for policy in [
        inbound(&index(&[WEB]), 4191),
        inbound(
            &index(&[
                WEB,
                &policy("Server", "admin", "{podSelector: {}, port: 4191}"),
            ]),
            4191,
        ),
    ] {
        assert_eq!(
            routes(&policy),
            ["default default", "default probe <- default probe"]
        );
        let Protocol::Detect { http, .. } = policy.protocol else {
            panic!()
        };
        let probe = &http.routes[1];
        let matches: Vec<_> = probe.rules[0]
            .matches
            .iter()
            .map(|m| (m.method.clone().unwrap(), m.path.clone().unwrap()))
            .collect();
        let get = |path: &str| (http::Method::GET, PathMatch::Exact(path.to_owned()));
        assert_eq!(matches, [get("/live"), get("/ready")]);
        let authorization = &probe.authorizations[0];
        assert_eq!(
            authorization.authentication,
            Authentication::Unauthenticated
        );
        assert_eq!(authorization.networks.len(), 2);
    }
}

#[test]
fn an_external_workload_has_the_same_rules_and_its_own_selector() {
    let selects = |selector: &str| {
        policy(
            "Server",
            "vm",
            &format!("{{{selector}: {{matchLabels: {{app: vm}}}}, port: http}}"),
        )
    };
    let of = |texts: &[&str]| index(texts).inbound(&vm(), 8080).unwrap();
    let default = of(&[VM]);
    assert_eq!(default.meta.to_string(), "default all-unauthenticated");
    assert_eq!(routes(&default), ["default default"], "it has no probes");
    assert_eq!(of(&[VM, &selects("podSelector")]), default);
    let selected = of(&[
        VM,
        &selects("externalWorkloadSelector"),
        &everyone("x", "Server", "vm"),
    ]);
    assert_eq!(selected.meta.to_string(), "server vm");
    assert_eq!(authorizations(&selected), ["authorizationpolicy x"]);
    let pods_only = index(&[WEB, VM, &selects("externalWorkloadSelector")]);
    assert_eq!(inbound(&pods_only, 8080).meta.kind(), "default");
}
