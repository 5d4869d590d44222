//! Traffic to others: do routes begin and lead somewhere, does each of them count, and do annotations say what was meant.
//!
//! What counts is asked of [`Index::outbound`], which answers sidecars.

mod annotations;
mod backends;
mod effects;
mod egress;
mod parents;
mod profiles;

use super::{Report, key};
use crate::{
    index::{Index, Named, Scope, named, outbound_annotations::Requests, status::http_key},
    resource::{
        GATEWAY_GROUP, GrpcRoute, HttpRoute, Key, Metadata, POLICY_GROUP, RouteGroup, Service,
        route::{BackendRef, ParentRef, RouteFilter},
        traffic::StreamRouteSpec,
    },
};
use std::collections::BTreeMap;

pub(super) fn check(index: &Index, report: &mut Report) {
    let mut attached: BTreeMap<Parent<'_>, Vec<Attached<'_>>> = BTreeMap::new();
    for (namespace, scope) in index.scopes() {
        annotations::check(namespace, scope, report);
        profiles::check(index, namespace, scope, report);
        egress::check(index, scope, report);
        for route in routes(scope) {
            parents::check(index, &route, report);
            annotations::of_route(&route, report);
            backends::check(index, &route, report);
            for (parent, port) in route.parents() {
                let list = attached.entry(parent).or_default();
                list.push(Attached {
                    route: route.clone(),
                    port,
                });
            }
        }
    }
    effects::check(index, &attached, report);
}

/// Which kind of route.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Http(&'a HttpRoute),
    Grpc(&'a GrpcRoute),
    Tcp,
    Tls,
}

/// A route of any kind.
#[derive(Clone)]
struct Route<'a> {
    kind: Kind<'a>,
    key: Key,
    group: RouteGroup,
    metadata: &'a Metadata,
    parent_refs: &'a [ParentRef],
    rules: Vec<Rule<'a>>,
}

/// Where a rule sends, and what it does with what it sends.
#[derive(Clone)]
struct Rule<'a> {
    backends: &'a [BackendRef],
    filters: &'a [RouteFilter],
    /// Fields that ask for something and are not read.
    unread: Vec<&'static str>,
}

/// What a route is attached to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Parent<'a> {
    kind: Named,
    namespace: &'a str,
    name: &'a str,
}

/// A route of a parent.
struct Attached<'a> {
    route: Route<'a>,
    /// The port of the parent; none = all.
    port: Option<u16>,
}

impl std::fmt::Display for Parent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Named::Service => "Service",
            Named::EgressNetwork => "EgressNetwork",
        };
        write!(f, "{kind} {}/{}", self.namespace, self.name)
    }
}

impl<'a> Route<'a> {
    /// What of its parents is outbound, with the port.
    fn parents(&self) -> impl Iterator<Item = (Parent<'a>, Option<u16>)> + use<'a> {
        let (group, own) = (self.group, self.metadata.namespace.as_str());
        self.parent_refs.iter().filter_map(move |parent| {
            let found = Parent {
                kind: named(group, parent)?,
                namespace: parent.namespace.as_deref().unwrap_or(own),
                name: &parent.name,
            };
            Some((found, parent.port))
        })
    }

    const fn is_http(&self) -> bool {
        matches!(self.kind, Kind::Http(_))
    }

    /// Which requests it is about, if not connections.
    const fn requests(&self) -> Option<Requests> {
        match self.kind {
            Kind::Http(_) => Some(Requests::Http),
            Kind::Grpc(_) => Some(Requests::Grpc),
            Kind::Tcp | Kind::Tls => None,
        }
    }

    /// What becomes of what is sent where nothing is.
    const fn failure(&self) -> &'static str {
        match self.kind {
            Kind::Http(_) => "answered 500",
            Kind::Grpc(_) => "answered with gRPC status 13",
            Kind::Tcp | Kind::Tls => "closed",
        }
    }
}

/// All routes of a namespace.
fn routes(scope: &Scope) -> impl Iterator<Item = Route<'_>> {
    let http = scope.http_routes.values().map(|route| Route {
        kind: Kind::Http(route),
        key: http_key(route),
        group: route.group,
        metadata: &route.metadata,
        parent_refs: &route.spec.parent_refs,
        rules: route
            .spec
            .rules
            .iter()
            .map(|rule| Rule {
                backends: &rule.backend_refs,
                filters: &rule.filters,
                unread: rule.unread().collect(),
            })
            .collect(),
    });
    let grpc = scope.grpc_routes.values().map(|route| Route {
        kind: Kind::Grpc(route),
        key: key(GATEWAY_GROUP, "GRPCRoute", &route.metadata),
        group: RouteGroup::Gateway,
        metadata: &route.metadata,
        parent_refs: &route.spec.parent_refs,
        rules: route
            .spec
            .rules
            .iter()
            .map(|rule| Rule {
                backends: &rule.backend_refs,
                filters: &rule.filters,
                unread: rule.unread().collect(),
            })
            .collect(),
    });
    let tcp = scope.tcp_routes.values();
    let tls = scope.tls_routes.values();
    let tcp = tcp.map(|route| stream(Kind::Tcp, "TCPRoute", &route.metadata, &route.spec));
    let tls = tls.map(|route| stream(Kind::Tls, "TLSRoute", &route.metadata, &route.spec));
    http.chain(grpc).chain(tcp).chain(tls)
}

fn stream<'a>(
    kind: Kind<'a>,
    name: &str,
    metadata: &'a Metadata,
    spec: &'a StreamRouteSpec,
) -> Route<'a> {
    let rules = spec.rules.iter().map(|rule| Rule {
        backends: &rule.backend_refs,
        filters: &[],
        unread: Vec::new(),
    });
    Route {
        kind,
        key: key(GATEWAY_GROUP, name, metadata),
        group: RouteGroup::Gateway,
        metadata,
        parent_refs: &spec.parent_refs,
        rules: rules.collect(),
    }
}

/// Ports of a Service for a message.
fn ports(service: &Service) -> String {
    let ports: Vec<String> = tcp_ports(service).map(|port| port.to_string()).collect();
    match ports.as_slice() {
        [] => "none".to_owned(),
        ports => ports.join(", "),
    }
}

/// Ports of a Service that pass the proxy.
fn tcp_ports(service: &Service) -> impl Iterator<Item = u16> + '_ {
    let ports = service.spec.ports.iter().map(|port| port.port);
    ports.filter(|port| service.port(*port).is_some())
}
