//! Statuses, and that what they say is what is enforced.

use super::*;
use crate::outbound::{Distribution, OutboundPolicy, Protocol as Outbound};

const GATEWAY: &str = "gateway.networking.k8s.io/v1";

fn service(name: &str, rest: &str) -> String {
    let spec = format!("{{ports: [{{port: 80}}, {{port: 81}}]{rest}}}");
    object("v1", "Service", name, &spec)
}

/// A route whose parents and backends are names of Services.
fn route(kind: &str, name: &str, parents: &str, backends: &str) -> String {
    let version = if matches!(kind, "TLSRoute" | "TCPRoute") {
        "gateway.networking.k8s.io/v1alpha2"
    } else {
        GATEWAY
    };
    let backends = match backends {
        "" => String::new(),
        backends => format!("backendRefs: [{backends}]"),
    };
    let spec = format!("{{parentRefs: [{parents}], rules: [{{{backends}}}]}}");
    object(version, kind, name, &spec)
}

const WEB_SERVICE: &str = "{group: '', kind: Service, name: web}";

fn outbound(index: &Index, client: &str) -> OutboundPolicy {
    let target = OutboundTarget::Service {
        namespace: "shop".into(),
        name: "web".into(),
        port: 80,
    };
    index.outbound(client, &target).unwrap()
}

/// Names of the routes that clients are told of; `default` for those that no route gives.
fn enforced(policy: &OutboundPolicy) -> Vec<String> {
    let name = |meta: &crate::outbound::Ref| match meta {
        crate::outbound::Ref::Resource { name, .. } => name.clone(),
        crate::outbound::Ref::Default { .. } => "default".to_owned(),
    };
    match &policy.protocol {
        Outbound::Grpc(grpc) => grpc.routes.iter().map(|route| name(&route.meta)).collect(),
        Outbound::Detect { http1: http, .. } | Outbound::Http1(http) | Outbound::Http2(http) => {
            http.routes.iter().map(|route| name(&route.meta)).collect()
        }
        Outbound::Tls(routes) | Outbound::Opaque(routes) => {
            routes.iter().map(|route| name(&route.meta)).collect()
        }
    }
}

#[test]
fn a_service_is_a_parent_if_it_has_an_address() {
    for (rest, said_of_it, routes) in [
        (", clusterIP: 10.0.0.7", "Accepted", "r"),
        // An API server would have given it one.
        ("", "Accepted", "r"),
        (
            ", clusterIP: None",
            "!NoMatchingParent (parent service must have a ClusterIP)",
            "default",
        ),
        (
            ", type: ExternalName",
            "!NoMatchingParent (parent service must have a ClusterIP)",
            "default",
        ),
    ] {
        let index = index(&[
            &service("web", rest),
            &route("HTTPRoute", "r", WEB_SERVICE, ""),
        ]);
        assert_eq!(
            said(&index),
            [format!("r: Service web {said_of_it} ResolvedRefs")]
        );
        assert_eq!(enforced(&outbound(&index, "shop")), [routes], "{rest}");
    }
}

#[test]
fn of_kinds_of_routes_on_one_parent_the_most_specific_counts() {
    let kinds = ["GRPCRoute", "HTTPRoute", "TLSRoute", "TCPRoute"];
    for (first, _) in kinds.iter().enumerate() {
        let kinds = &kinds[first..];
        let routes: Vec<String> = kinds
            .iter()
            .map(|kind| route(kind, &kind.to_lowercase(), WEB_SERVICE, ""))
            .collect();
        let texts: Vec<&str> = routes.iter().map(String::as_str).collect();
        let index = index(&[&[&*service("web", "")], &*texts].concat());
        let wanted: Vec<String> = kinds
            .iter()
            .enumerate()
            .map(|(number, kind)| {
                let reason = if number == 0 {
                    "Accepted"
                } else {
                    "!RouteReasonConflicted"
                };
                format!("{}: Service web {reason} ResolvedRefs", kind.to_lowercase())
            })
            .collect();
        assert_eq!(said(&index), wanted);
        assert_eq!(
            enforced(&outbound(&index, "shop")),
            [kinds[0].to_lowercase()]
        );
    }
    // Of another port, or of all ports, is another parent.
    let of_port = "{group: '', kind: Service, name: web, port: 81}";
    let index = index(&[
        &service("web", ""),
        &route("GRPCRoute", "grpc", of_port, ""),
        &route("HTTPRoute", "http", WEB_SERVICE, ""),
    ]);
    assert_eq!(
        said(&index),
        [
            "grpc: Service web:81 Accepted ResolvedRefs",
            "http: Service web Accepted ResolvedRefs",
        ]
    );
    assert_eq!(enforced(&outbound(&index, "shop")), ["http"]);
}

#[test]
fn a_route_of_another_namespace_takes_nothing_away_but_from_its_own() {
    let of_shop = "{group: '', kind: Service, name: web, namespace: shop}";
    let elsewhere = |kind, name| {
        route(kind, name, of_shop, "").replace("namespace: shop}\nspec", "namespace: other}\nspec")
    };
    let index = index(&[
        &service("web", ""),
        &route("HTTPRoute", "producer", WEB_SERVICE, ""),
        &elsewhere("GRPCRoute", "consumer"),
        &elsewhere("HTTPRoute", "loser"),
    ]);
    assert_eq!(
        said(&index),
        [
            "consumer: Service web Accepted ResolvedRefs",
            "loser: Service web !RouteReasonConflicted ResolvedRefs",
            "producer: Service web Accepted ResolvedRefs",
        ]
    );
    assert_eq!(enforced(&outbound(&index, "shop")), ["producer"]);
    assert_eq!(enforced(&outbound(&index, "other")), ["consumer"]);
}

#[test]
fn a_route_of_servers_that_is_not_read_is_accepted_by_none_and_a_grpc_route_has_the_server() {
    let http = |parent: &str| {
        policy(
            "HTTPRoute",
            "http",
            &format!("{{parentRefs: [{{kind: Server, name: web{parent}}}]}}"),
        )
    };
    let server = server("web", ", proxyProtocol: HTTP/1");
    let port = index(&[WEB, &server, &http(", port: 80")]);
    assert_eq!(
        said(&port),
        ["http: Server web !NoMatchingParent (a Server is a single port; remove it)"]
    );
    let grpc = object(
        GATEWAY,
        "GRPCRoute",
        "grpc",
        "{parentRefs: [{group: policy.linkerd.io, kind: Server, name: web}]}",
    );
    let both = index(&[WEB, &server, &http(""), &grpc]);
    assert_eq!(
        said(&both),
        [
            "grpc: Server web Accepted",
            "http: Server web !RouteReasonConflicted",
        ]
    );
    let one = index(&[WEB, &server, &http("")]);
    let names = |index: &Index| match inbound(index, 8080).protocol {
        Protocol::Http1(http) => format!("{:?}", http.routes),
        other => panic!("{other:?}"),
    };
    assert!(names(&one).contains("http"));
    assert!(!names(&both).contains("http"), "a conflicted route counts");
    // Servers have no TCPRoutes, and other parents are somebody else's.
    let others = index(&[
        &server,
        &route(
            "TCPRoute",
            "tcp",
            "{group: policy.linkerd.io, kind: Server, name: web}",
            "",
        ),
        &route("HTTPRoute", "gateway", "{name: gateway}", ""),
    ]);
    assert_eq!(said(&others), ["gateway:", "tcp:"]);
}

#[test]
fn backends_are_resolved_or_the_first_that_is_not_is_named() {
    let egress = policy("EgressNetwork", "out", "{trafficPolicy: Allow}");
    let of_out = "{group: policy.linkerd.io, kind: EgressNetwork, name: out, port: 443}";
    let back = "{name: web, port: 80}";
    let gone = "{name: gone, port: 80}";
    let out = "{group: policy.linkerd.io, kind: EgressNetwork, name: out, port: 443}";
    for (parent, backends, said_of_it) in [
        (WEB_SERVICE, back.to_owned(), "ResolvedRefs"),
        (
            WEB_SERVICE,
            format!("{back}, {gone}"),
            "!BackendNotFound (Service not found gone)",
        ),
        (
            WEB_SERVICE,
            "{group: apps, kind: Deployment, name: web}".to_owned(),
            "!InvalidKind (unsupported backend type apps Deployment)",
        ),
        (
            WEB_SERVICE,
            out.to_owned(),
            "!InvalidKind (EgressNetwork backend needs to be on a route that has an EgressNetwork parent)",
        ),
        (of_out, out.to_owned(), "ResolvedRefs"),
        (
            of_out,
            out.replace("out,", "gone,"),
            "!BackendNotFound (EgressNetwork not found gone)",
        ),
    ] {
        let route = route("HTTPRoute", "r", parent, &backends);
        let index = index(&[&service("web", ""), &egress, &route]);
        let said = said(&index);
        let route = said.iter().find(|said| said.starts_with("r: ")).unwrap();
        assert!(
            route.ends_with(&format!(" Accepted {said_of_it}")),
            "{route}"
        );
    }
    // What the status says of a backend is what its clients meet.
    let route = route("HTTPRoute", "r", WEB_SERVICE, gone);
    let policy = outbound(&index(&[&service("web", ""), &route]), "shop");
    let Outbound::Detect { http1, .. } = policy.protocol else {
        panic!("{policy:?}");
    };
    let Distribution::RandomAvailable(backends) = &http1.routes[0].rules[0].action.backends else {
        panic!("{http1:?}");
    };
    let said = format!("{:?}", backends[0].0.filters);
    assert!(said.contains("Service not found gone"), "{said}");
}

#[test]
fn an_egress_network_that_takes_in_the_clusters_own_is_not_accepted_nor_are_its_routes() {
    let of_out = "{group: policy.linkerd.io, kind: EgressNetwork, name: out, port: 443}";
    for (networks, is_accepted) in [
        ("", true),
        (", networks: [{cidr: 1.0.0.0/8}]", true),
        (", networks: [{cidr: 0.0.0.0/0}]", false),
        (", networks: [{cidr: 10.1.0.0/16}]", false),
        (
            ", networks: [{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}]",
            false,
        ),
        (
            ", networks: [{cidr: 0.0.0.0/0, except: [10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16]}]",
            true,
        ),
        (
            ", networks: [{cidr: 10.1.0.0/16, except: [10.1.2.0/24]}]",
            false,
        ),
    ] {
        let spec = format!("{{trafficPolicy: Allow{networks}}}");
        let index = index(&[
            &policy("EgressNetwork", "out", &spec),
            &route("HTTPRoute", "r", of_out, ""),
        ]);
        let (network, parent) = if is_accepted {
            ("Accepted", "Accepted")
        } else {
            (
                "!EgressReasonNetworkOverlap (networks overlap with clusterNetworks)",
                "!NoMatchingParent (EgressNetwork parent has not been accepted)",
            )
        };
        assert_eq!(
            said(&index),
            [
                format!("r: EgressNetwork out:443 {parent} ResolvedRefs"),
                format!("out: {network}"),
            ],
            "{networks}"
        );
    }
}
