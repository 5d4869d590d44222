//! What the statuses of objects say: which routes, rate limits and EgressNetworks are accepted, and why others are not.
//!
//! It is computed from the same resources, and by the same code (`attach`), as what is enforced; what an object's own
//! status says is not read. Source: control plane §2.11.

use super::{
    Index, Scope,
    attach::{Attachment, Claims, Facts, ParentKind, RouteKind, Target, Unresolved},
    inbound::accepted_rate_limit,
};
use crate::resource::{
    EgressNetwork, GATEWAY_GROUP, HttpLocalRateLimitPolicy, HttpRoute, Key, Metadata, POLICY_GROUP,
    route::BackendRef,
};
use std::collections::BTreeMap;

/// What the status of an object is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStatus {
    /// The object.
    pub key: Key,
    /// What.
    pub status: Status,
}

/// A status of one of the forms that there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// A route's: an entry for each parent that is ours to judge, none if there is no such parent.
    Route(Vec<ParentStatus>),
    /// That of a rate limit, with the name of the Server that it is about.
    RateLimit {
        /// Name of the Server.
        server: String,
        /// `Accepted`.
        condition: Condition,
    },
    /// An EgressNetwork's: `Accepted`.
    EgressNetwork(Condition),
}

/// What is said of a route at one of its parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// `policy.linkerd.io`, or `core` for Services.
    pub group: &'static str,
    /// `Server`, `Service` or `EgressNetwork`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The port that the route names.
    pub port: Option<u16>,
    /// `Accepted`, and for Services and EgressNetworks `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `Accepted` or `ResolvedRefs`.
    pub kind: &'static str,
    /// Whether it holds.
    pub is_true: bool,
    /// Why, as one word.
    pub reason: &'static str,
    /// Why, where there is more to say.
    pub message: String,
}

impl Condition {
    fn new(kind: &'static str, is_true: bool, reason: &'static str) -> Self {
        Self {
            kind,
            is_true,
            reason,
            message: String::new(),
        }
    }

    fn saying(self, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..self
        }
    }
}

impl Index {
    /// The status of every route, rate limit and EgressNetwork, by namespace.
    pub fn statuses(&self) -> Vec<ObjectStatus> {
        let claims: BTreeMap<&str, Claims<'_>> = self
            .scopes()
            .map(|(namespace, scope)| (namespace, Claims::of(&scope.routes(), |_| true)))
            .collect();
        let mut out = Vec::new();
        for (_, scope) in self.scopes() {
            let mut route = |group, kind, facts: Facts<'_>, backends: &[&BackendRef]| {
                let key = key(group, kind, facts.metadata);
                let status = Status::Route(self.parents(&claims, facts, backends));
                out.push(ObjectStatus { key, status });
            };
            each_route(scope, &mut route);
            out.extend(scope.rate_limits.values().map(|limit| ObjectStatus {
                key: key(POLICY_GROUP, "HTTPLocalRateLimitPolicy", &limit.metadata),
                status: rate_limit(scope, limit),
            }));
            out.extend(scope.egress_networks.values().map(|egress| ObjectStatus {
                key: key(POLICY_GROUP, "EgressNetwork", &egress.metadata),
                status: Status::EgressNetwork(self.egress_condition(egress)),
            }));
        }
        out
    }

    fn parents(
        &self,
        claims: &BTreeMap<&str, Claims<'_>>,
        route: Facts<'_>,
        backends: &[&BackendRef],
    ) -> Vec<ParentStatus> {
        let one = |target: Target<'_>| {
            let own = route.metadata.namespace.as_str();
            let is_contested = [own, target.namespace].iter().any(|namespace| {
                claims
                    .get(namespace)
                    .is_some_and(|claims| claims.has_before(route.kind, &target))
            });
            let accepted = match self.attachment(route, &target, is_contested) {
                Attachment::Accepted => Condition::new("Accepted", true, "Accepted"),
                Attachment::NoParent(message) => {
                    Condition::new("Accepted", false, "NoMatchingParent").saying(message)
                }
                Attachment::Conflicted => {
                    Condition::new("Accepted", false, "RouteReasonConflicted")
                }
            };
            let (group, kind) = match target.kind {
                ParentKind::Server => (POLICY_GROUP, "Server"),
                ParentKind::Service => ("core", "Service"),
                ParentKind::EgressNetwork => (POLICY_GROUP, "EgressNetwork"),
            };
            let mut conditions = vec![accepted];
            if target.kind != ParentKind::Server {
                conditions.push(self.resolved(&target, backends));
            }
            ParentStatus {
                group,
                kind,
                namespace: target.namespace.to_owned(),
                name: target.name.to_owned(),
                port: target.port,
                conditions,
            }
        };
        route.targets().map(one).collect()
    }

    /// Whether all backends of a route lead somewhere, or what of the first that does not.
    fn resolved(&self, parent: &Target<'_>, backends: &[&BackendRef]) -> Condition {
        let refused = |reason| Condition::new("ResolvedRefs", false, reason);
        let wrong = backends.iter().find_map(|backend| {
            let wrong = self.resolve(parent, backend).err()?;
            Some((wrong, *backend))
        });
        let Some((wrong, backend)) = wrong else {
            return Condition::new("ResolvedRefs", true, "ResolvedRefs");
        };
        let message = wrong.message(backend);
        match wrong {
            Unresolved::Kind => refused("InvalidKind").saying(message),
            // What the index says to clients is about one parent; this is about the route.
            Unresolved::NotEgress => refused("InvalidKind").saying(
                "EgressNetwork backend needs to be on a route that has an EgressNetwork parent",
            ),
            Unresolved::OtherEgressNetwork => refused("InvalidKind").saying(message),
            Unresolved::NoPort | Unresolved::NoService | Unresolved::NoEgressNetwork => {
                refused("BackendNotFound").saying(message)
            }
        }
    }

    fn egress_condition(&self, egress: &EgressNetwork) -> Condition {
        if self.is_overlapping(egress) {
            Condition::new("Accepted", false, "EgressReasonNetworkOverlap")
                .saying("networks overlap with clusterNetworks")
        } else {
            Condition::new("Accepted", true, "Accepted")
        }
    }
}

impl Unresolved {
    /// What clients and the status are told.
    pub(crate) fn message(self, backend: &BackendRef) -> String {
        let name = &backend.name;
        match self {
            Self::NoPort => format!("missing port for backend Service {name}"),
            Self::NoService => format!("Service not found {name}"),
            Self::NoEgressNetwork => format!("EgressNetwork not found {name}"),
            Self::OtherEgressNetwork => {
                "Route with EgressNetwork backend needs to have the same EgressNetwork as a parent"
                    .to_owned()
            }
            Self::NotEgress => "EgressNetwork backends attach to EgressNetwork parents only".into(),
            Self::Kind => format!(
                "unsupported backend type {} {}",
                backend.group.as_deref().unwrap_or_default(),
                backend.kind.as_deref().unwrap_or("Service")
            ),
        }
    }
}

/// Every route of a namespace, with its backends.
fn each_route(
    scope: &Scope,
    give: &mut impl FnMut(&'static str, &'static str, Facts<'_>, &[&BackendRef]),
) {
    let routes = scope.routes();
    for route in routes.grpc {
        let rules = route.spec.rules.iter();
        let backends: Vec<_> = rules.flat_map(|rule| &rule.backend_refs).collect();
        give(GATEWAY_GROUP, "GRPCRoute", Facts::of_grpc(route), &backends);
    }
    for route in routes.http {
        let rules = route.spec.rules.iter();
        let backends: Vec<_> = rules.flat_map(|rule| &rule.backend_refs).collect();
        let group = route.group.as_str();
        give(group, "HTTPRoute", Facts::of_http(route), &backends);
    }
    for (kind, name, routes) in [
        (RouteKind::Tls, "TLSRoute", routes.tls),
        (RouteKind::Tcp, "TCPRoute", routes.tcp),
    ] {
        for route in routes {
            let rules = route.spec.rules.iter();
            let backends: Vec<_> = rules.flat_map(|rule| &rule.backend_refs).collect();
            give(
                GATEWAY_GROUP,
                name,
                Facts::of_stream(kind, route),
                &backends,
            );
        }
    }
}

fn rate_limit(scope: &Scope, limit: &HttpLocalRateLimitPolicy) -> Status {
    let server = &limit.spec.target_ref.name;
    let first = accepted_rate_limit(scope.part(), server);
    let is_first = first.is_some_and(|first| first.metadata.name == limit.metadata.name);
    let (is_true, reason) = match (scope.servers.get(server).is_some(), is_first) {
        (false, _) => (false, "NoMatchingTarget"),
        (true, true) => (true, "Accepted"),
        (true, false) => (false, "RateLimitReasonAlreadyExists"),
    };
    Status::RateLimit {
        server: server.clone(),
        condition: Condition::new("Accepted", is_true, reason),
    }
}

fn key(group: &str, kind: &str, metadata: &Metadata) -> Key {
    Key {
        group: group.to_owned(),
        kind: kind.to_owned(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
    }
}

pub(crate) fn http_key(route: &HttpRoute) -> Key {
    key(route.group.as_str(), "HTTPRoute", &route.metadata)
}
