//! Annotations of workloads and namespaces, defaults, and what authorizations become.

use super::*;
use crate::server::{Authentication, Authorization};

fn namespace(annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{{annotations}}}}}\n"
    )
}

fn annotated(annotations: &str) -> String {
    WEB.replace(
        "labels: {app: web}",
        &format!("labels: {{app: web}}, annotations: {{{annotations}}}"),
    )
}

#[test]
fn a_default_policy_comes_from_the_workload_then_the_namespace_then_the_cluster() {
    let key = "config.linkerd.io/default-inbound-policy";
    let of = |texts: &[&str]| inbound(&index(texts), 8080).meta.name().to_owned();
    let deny = namespace(&format!("{key}: deny"));
    assert_eq!(of(&[WEB, &deny]), "deny");
    assert_eq!(of(&[&annotated(&format!("{key}: audit")), &deny]), "audit");
    assert_eq!(
        of(&[&annotated(&format!("{key}: nonsense")), &deny]),
        "deny"
    );
    assert_eq!(
        of(&[WEB, &namespace(&format!("{key}: nonsense"))]),
        "all-unauthenticated"
    );
    let cluster = Cluster {
        default_policy: DefaultPolicy::ClusterAuthenticated,
        ..Cluster::default()
    };
    let index = Index::from_resources(cluster, resources(WEB));
    let policy = inbound(&index, 8080);
    assert_eq!(policy.meta.name(), "cluster-authenticated");
    assert_eq!(policy.authorizations[0].networks.len(), 5);
}

#[test]
fn an_identity_can_be_required_on_ports_without_a_server() {
    let require = "config.linkerd.io/proxy-require-identity-inbound-ports: '1-100,http'";
    let index = index(&[
        &annotated(require),
        &policy(
            "Server",
            "s",
            "{podSelector: {}, port: 90, accessPolicy: all-unauthenticated}",
        ),
    ]);
    for (port, name) in [
        (8080, "all-authenticated"),
        (80, "all-authenticated"),
        (9090, "all-unauthenticated"),
    ] {
        assert_eq!(inbound(&index, port).meta.name(), name);
    }
    assert_eq!(
        authorizations(&inbound(&index, 90)),
        ["default all-unauthenticated"]
    );
}

#[test]
fn ports_are_opaque_by_annotation_or_by_default_where_declared_unless_a_server_says_otherwise() {
    let opaque = |index: &Index, port| inbound(index, port).protocol == Protocol::Opaque;
    let by_name = index(&[&annotated(
        "config.linkerd.io/opaque-ports: 'admin,nonsense,70-80'",
    )]);
    assert!(opaque(&by_name, 9090) && opaque(&by_name, 75) && !opaque(&by_name, 8080));
    let with_server = index(&[
        &annotated("config.linkerd.io/opaque-ports: '8080'"),
        &server("web", ", proxyProtocol: HTTP/1"),
    ]);
    assert!(matches!(
        inbound(&with_server, 8080).protocol,
        Protocol::Http1(_)
    ));
    let database = WEB.replace("containerPort: 8080", "containerPort: 3306");
    let by_default = index(&[&database]);
    assert!(
        opaque(&by_default, 3306),
        "declared and in the cluster's list"
    );
    assert!(!opaque(&by_default, 5432), "in the list and not declared");
    let off = index(&[&database, &namespace("config.linkerd.io/opaque-ports: ''")]);
    assert!(!opaque(&off, 3306), "an empty list means none");
}

#[test]
fn a_named_port_selects_tcp_ports_of_all_containers() {
    let sidecar = format!(
        "{WEB}  initContainers: [{{name: side, ports: [{{containerPort: 7070, name: http}}]}}]\n"
    );
    let index = index(&[
        &sidecar,
        &policy("Server", "s", "{podSelector: {}, port: http}"),
    ]);
    for (port, kind) in [(8080, "server"), (7070, "server"), (9090, "default")] {
        assert_eq!(inbound(&index, port).meta.kind(), kind, "{port}");
    }
    let udp = super::index(&[WEB, &policy("Server", "s", "{podSelector: {}, port: dns}")]);
    assert_eq!(inbound(&udp, 53).meta.kind(), "default");
}

fn authorization(texts: &[&str]) -> Option<Authorization> {
    let server = server("web", "");
    let mut all = vec![WEB, &server];
    all.extend(texts);
    inbound(&index(&all), 8080)
        .authorizations
        .into_iter()
        .next()
}

#[test]
fn a_server_authorization_says_who_and_from_where() {
    let of = |client: &str| {
        let text = policy(
            "ServerAuthorization",
            "x",
            &format!("{{server: {{name: web}}, client: {client}}}"),
        );
        authorization(&[&text])
    };
    let exact = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
    let anyone = of("{unauthenticated: true}").unwrap();
    assert_eq!(anyone.authentication, Authentication::Unauthenticated);
    assert_eq!(anyone.networks.len(), 5, "the cluster networks");
    let no_network = of("{unauthenticated: true, networks: []}").unwrap();
    assert_eq!(no_network.networks, anyone.networks);
    let tls = of("{networks: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}], meshTLS: {unauthenticatedTLS: true}}").unwrap();
    assert_eq!(tls.authentication, Authentication::TlsUnauthenticated);
    assert_eq!(tls.networks[0].except.len(), 1);
    let named = of("{meshTLS: {identities: ['*', '*.a.b', 'x.y'], serviceAccounts: [{name: a}, {name: b, namespace: ops}]}}").unwrap();
    assert_eq!(
        named.authentication,
        Authentication::Identities {
            exact: exact(&[
                "x.y",
                "a.shop.serviceaccount.identity.linkerd.cluster.local",
                "b.ops.serviceaccount.identity.linkerd.cluster.local"
            ]),
            suffixes: vec![vec![], exact(&["a", "b"])],
        }
    );
    for nobody in [
        "{}",
        "{networks: [{cidr: 10.0.0.0/8}]}",
        "{meshTLS: {}}",
        "{meshTLS: {identities: []}}",
    ] {
        assert_eq!(of(nobody), None, "{nobody}");
    }
}

#[test]
fn a_server_authorization_finds_servers_by_label() {
    let saz = |selector: &str| {
        policy(
            "ServerAuthorization",
            "x",
            &format!("{{server: {{selector: {selector}}}, client: {{unauthenticated: true}}}}"),
        )
    };
    let server =
        server("web", "").replace("namespace: shop", "namespace: shop, labels: {tier: front}");
    let count = |selector: &str| {
        let index = index(&[WEB, &server, &saz(selector)]);
        inbound(&index, 8080).authorizations.len()
    };
    assert_eq!(count("{}"), 1);
    assert_eq!(count("{matchLabels: {tier: front}}"), 1);
    assert_eq!(count("{matchLabels: {tier: back}}"), 0);
}

const TARGET: &str = "targetRef: {group: policy.linkerd.io, kind: Server, name: web}";

fn requiring(refs: &str) -> String {
    policy(
        "AuthorizationPolicy",
        "x",
        &format!("{{{TARGET}, requiredAuthenticationRefs: [{refs}]}}"),
    )
}

#[test]
fn an_authorization_policy_requires_all_it_names_and_is_left_out_if_one_is_missing() {
    let mesh = "{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: m}";
    let net = "{group: policy.linkerd.io, kind: NetworkAuthentication, name: n, namespace: ops}";
    let authz = requiring(&format!("{mesh}, {net}"));
    let mtls = policy(
        "MeshTLSAuthentication",
        "m",
        "{identityRefs: [{kind: ServiceAccount, name: a}, {kind: Namespace, name: ops}]}",
    );
    let nets = policy(
        "NetworkAuthentication",
        "n",
        "{networks: [{cidr: 10.0.0.0/8}]}",
    );
    let nets_ops = nets.replace("namespace: shop", "namespace: ops");
    assert_eq!(authorization(&[&authz]), None);
    assert_eq!(authorization(&[&authz, &mtls]), None);
    assert_eq!(
        authorization(&[&authz, &mtls, &nets]),
        None,
        "it is in another namespace"
    );
    let found = authorization(&[&authz, &mtls, &nets_ops]).unwrap();
    assert_eq!(found.networks.len(), 1);
    let suffix = "ops.serviceaccount.identity.linkerd.cluster.local";
    assert_eq!(
        found.authentication,
        Authentication::Identities {
            exact: vec!["a.shop.serviceaccount.identity.linkerd.cluster.local".to_owned()],
            suffixes: vec![suffix.split('.').map(str::to_owned).collect()],
        }
    );
}

#[test]
fn an_authorization_policy_without_requirements_is_for_everyone() {
    let found = authorization(&[&requiring("")]).unwrap();
    assert_eq!(found.authentication, Authentication::Unauthenticated);
    let networks: Vec<_> = found.networks.iter().map(|n| n.net.to_string()).collect();
    assert_eq!(networks, ["0.0.0.0/0", "::/0"]);
    let account = authorization(&[&requiring(
        "{kind: ServiceAccount, name: a, namespace: ops}",
    )])
    .unwrap();
    let Authentication::Identities { exact, .. } = account.authentication else {
        panic!()
    };
    assert_eq!(
        exact,
        ["a.ops.serviceaccount.identity.linkerd.cluster.local"]
    );
}

#[test]
fn a_policy_for_the_namespace_applies_to_its_servers_and_not_to_default_servers() {
    let all = policy(
        "AuthorizationPolicy",
        "all",
        "{targetRef: {kind: Namespace, name: shop}, requiredAuthenticationRefs: []}",
    );
    let index = index(&[
        WEB,
        &server("web", ""),
        &all,
        &namespace("config.linkerd.io/default-inbound-policy: deny"),
    ]);
    assert_eq!(
        authorizations(&inbound(&index, 8080)),
        ["authorizationpolicy all"]
    );
    assert!(authorizations(&inbound(&index, 9090)).is_empty());
}
