//! Which routes count for which parents. What the index enforces and what statuses say both come from here.
//!
//! Source: control plane §2.8, §2.11. Of two kinds of route on one parent (and port) the more specific counts: GRPCRoute,
//! HTTPRoute, TLSRoute, TCPRoute. Routes of a namespace contend with those of the parent's namespace and with each other,
//! never with those of a third one: nobody takes another namespace's routes away.

use super::{Index, Named, Routes, named};
use crate::resource::{
    EgressNetwork, GrpcRoute, HttpRoute, Metadata, Object, POLICY_GROUP, RouteGroup, Service,
    route::{BackendRef, ParentRef},
    traffic::StreamRouteSpec,
};
use std::collections::HashMap;

/// Kinds of routes, the most specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RouteKind {
    Grpc,
    Http,
    Tls,
    Tcp,
}

/// Kinds of parents that are ours to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ParentKind {
    Server,
    Service,
    EgressNetwork,
}

/// What a parentRef names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target<'a> {
    pub(crate) kind: ParentKind,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) port: Option<u16>,
}

/// What attachment needs to know of a route.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) kind: RouteKind,
    pub(crate) group: RouteGroup,
    pub(crate) metadata: &'a Metadata,
    pub(crate) parents: &'a [ParentRef],
}

/// How a route is attached to one of its parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attachment {
    Accepted,
    /// The parent is not there, or is none: why, where there is more to say.
    NoParent(&'static str),
    /// A more specific kind of route has the parent.
    Conflicted,
}

/// Why the inbound side does not read a route that names a Server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadParent {
    /// Path of the field.
    pub(crate) field: String,
    /// What it says.
    pub(crate) reason: &'static str,
}

/// Names of the Servers a route is attached to. One Server parent with another namespace, a port or a section takes
/// the route away altogether.
pub(crate) fn server_parents<'a>(
    group: RouteGroup,
    metadata: &Metadata,
    parents: &'a [ParentRef],
) -> Result<Vec<&'a str>, BadParent> {
    let mut names = Vec::new();
    for (i, parent) in parents.iter().enumerate() {
        if !parent.is(group, POLICY_GROUP, "Server") {
            continue;
        }
        let elsewhere = parent
            .namespace
            .as_ref()
            .is_some_and(|n| *n != metadata.namespace);
        let (part, reason) = if elsewhere {
            (
                "namespace",
                "a route can be attached only to Servers of its own namespace",
            )
        } else if parent.port.is_some() {
            ("port", "a Server is a single port; remove it")
        } else if parent.section_name.is_some() {
            ("sectionName", "a Server has no sections; remove it")
        } else {
            names.push(parent.name.as_str());
            continue;
        };
        return Err(BadParent {
            field: format!("spec.parentRefs[{i}].{part}"),
            reason,
        });
    }
    Ok(names)
}

impl<'a> Facts<'a> {
    pub(crate) fn of_grpc(route: &'a GrpcRoute) -> Self {
        Self {
            kind: RouteKind::Grpc,
            group: RouteGroup::Gateway,
            metadata: &route.metadata,
            parents: &route.spec.parent_refs,
        }
    }

    pub(crate) fn of_http(route: &'a HttpRoute) -> Self {
        Self {
            kind: RouteKind::Http,
            group: route.group,
            metadata: &route.metadata,
            parents: &route.spec.parent_refs,
        }
    }

    /// `kind`: TLS or TCP.
    pub(crate) fn of_stream(kind: RouteKind, route: &'a Object<StreamRouteSpec>) -> Self {
        Self {
            kind,
            group: RouteGroup::Gateway,
            metadata: &route.metadata,
            parents: &route.spec.parent_refs,
        }
    }

    /// What the route's parentRefs name; other kinds of parents are somebody else's to judge. A Server is a parent of
    /// HTTPRoutes and GRPCRoutes only.
    pub(crate) fn targets(self) -> impl Iterator<Item = Target<'a>> {
        self.parents.iter().filter_map(move |parent| {
            let (kind, port) = match named(self.group, parent) {
                Some(Named::Service) => (ParentKind::Service, parent.port),
                Some(Named::EgressNetwork) => (ParentKind::EgressNetwork, parent.port),
                None if self.kind <= RouteKind::Http
                    && parent.is(self.group, POLICY_GROUP, "Server") =>
                {
                    (ParentKind::Server, None)
                }
                None => return None,
            };
            let namespace = parent.namespace.as_deref();
            Some(Target {
                kind,
                namespace: namespace.unwrap_or(&self.metadata.namespace),
                name: &parent.name,
                port,
            })
        })
    }

    /// Why no Server takes the route, if it names one as it cannot be named.
    pub(crate) fn bad_server(self) -> Option<&'static str> {
        server_parents(self.group, self.metadata, self.parents)
            .err()
            .map(|bad| bad.reason)
    }
}

impl<'a> Routes<'a> {
    /// Every route, those of the most specific kind first.
    pub(crate) fn all(&self) -> impl Iterator<Item = Facts<'a>> {
        let grpc = self.grpc.iter().copied().map(Facts::of_grpc);
        let http = self.http.iter().copied().map(Facts::of_http);
        let stream = |kind| move |route| Facts::of_stream(kind, route);
        let tls = self.tls.iter().copied().map(stream(RouteKind::Tls));
        let tcp = self.tcp.iter().copied().map(stream(RouteKind::Tcp));
        grpc.chain(http).chain(tls).chain(tcp)
    }
}

/// Of each parent that routes of a namespace name, the most specific kind of route that names it.
#[derive(Debug, Default)]
pub(crate) struct Claims<'a>(HashMap<Target<'a>, RouteKind>);

impl<'a> Claims<'a> {
    /// Those on parents that are wanted.
    pub(crate) fn of(routes: &Routes<'a>, is_wanted: impl Fn(&Target<'a>) -> bool) -> Self {
        let mut claims = HashMap::new();
        for route in routes.all() {
            let bad_server = route.bad_server().is_some();
            for target in route.targets().filter(&is_wanted) {
                if bad_server && target.kind == ParentKind::Server {
                    continue;
                }
                // Routes come with the most specific kind first.
                claims.entry(target).or_insert(route.kind);
            }
        }
        Self(claims)
    }

    pub(crate) fn has_before(&self, kind: RouteKind, target: &Target<'_>) -> bool {
        self.0.get(target).is_some_and(|first| *first < kind)
    }
}

impl Index {
    /// How a route is attached to a parent that it names; `is_contested`: a more specific kind of route has the parent.
    pub(crate) fn attachment(
        &self,
        route: Facts<'_>,
        target: &Target<'_>,
        is_contested: bool,
    ) -> Attachment {
        let part = self.part(target.namespace);
        let refused = match target.kind {
            ParentKind::Server => match route.bad_server() {
                Some(reason) => Some(reason),
                None => part.server(target.name).is_none().then_some(""),
            },
            ParentKind::Service => match part.service(target.name) {
                None => Some(""),
                Some(service) if !has_virtual_address(service) => {
                    Some("parent service must have a ClusterIP")
                }
                Some(_) => None,
            },
            ParentKind::EgressNetwork => match part.egress_network(target.name) {
                None => Some(""),
                Some(egress) if self.is_overlapping(egress) => {
                    Some("EgressNetwork parent has not been accepted")
                }
                Some(_) => None,
            },
        };
        match refused {
            Some(message) => Attachment::NoParent(message),
            None if is_contested => Attachment::Conflicted,
            None => Attachment::Accepted,
        }
    }

    /// Whether a network of an EgressNetwork takes in some of the cluster's.
    pub(crate) fn is_overlapping(&self, egress: &EgressNetwork) -> bool {
        egress.spec.networks.iter().any(|network| {
            let cidr = &network.cidr.0;
            self.cluster().cluster_networks.iter().any(|own| {
                let common = match (cidr.contains(own), own.contains(cidr)) {
                    (true, _) => own,
                    (false, true) => cidr,
                    (false, false) => return false,
                };
                !network.except.iter().any(|each| each.0.contains(common))
            })
        })
    }

    /// What a backendRef leads to, for one parent of its route.
    pub(crate) fn resolve<'a>(
        &self,
        parent: &Target<'a>,
        backend: &'a BackendRef,
    ) -> Result<Resolved<'a>, Unresolved> {
        let group = backend.group.as_deref().unwrap_or_default();
        let kind = backend.kind.as_deref().unwrap_or("Service");
        let namespace = backend.namespace.as_deref().unwrap_or(parent.namespace);
        let part = self.part(namespace);
        let is_core = group.is_empty() || group.eq_ignore_ascii_case("core");
        if is_core && kind.eq_ignore_ascii_case("Service") {
            let port = backend.port.and_then(|port| u16::try_from(port).ok());
            let port = port.ok_or(Unresolved::NoPort)?;
            if part.service(&backend.name).is_none() {
                return Err(Unresolved::NoService);
            }
            return Ok(Resolved::Service { namespace, port });
        }
        if group == POLICY_GROUP && kind.eq_ignore_ascii_case("EgressNetwork") {
            return match parent.kind {
                ParentKind::EgressNetwork
                    if parent.name == backend.name && parent.namespace == namespace =>
                {
                    Ok(Resolved::Parent)
                }
                ParentKind::EgressNetwork if part.egress_network(&backend.name).is_none() => {
                    Err(Unresolved::NoEgressNetwork)
                }
                ParentKind::EgressNetwork => Err(Unresolved::OtherEgressNetwork),
                ParentKind::Service | ParentKind::Server => Err(Unresolved::NotEgress),
            };
        }
        Err(Unresolved::Kind)
    }
}

/// What a backendRef leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolved<'a> {
    Service {
        namespace: &'a str,
        port: u16,
    },
    /// The EgressNetwork that is the parent.
    Parent,
}

/// Why a backendRef leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    NoPort,
    NoService,
    NoEgressNetwork,
    /// An EgressNetwork that is not the parent.
    OtherEgressNetwork,
    /// An EgressNetwork of a parent that is none.
    NotEgress,
    Kind,
}

/// Whether a Service has an address of its own. One that a file gives none has one all the same: an API server would
/// have given it.
pub(crate) fn has_virtual_address(service: &Service) -> bool {
    let spec = &service.spec;
    spec.kind.as_deref() != Some("ExternalName") && spec.cluster_ip.as_deref() != Some("None")
}
