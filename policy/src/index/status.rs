//! Which routes and rate limits are accepted. A cluster's controller writes this into their status; here it is
//! computed from the same resources as everything else, and what a manifest says about it is not read.

use super::{Index, Scope, inbound::accepted_rate_limit};
use crate::resource::{
    GATEWAY_GROUP, HttpRoute, Key, Metadata, POLICY_GROUP, Resource, RouteGroup, route::ParentRef,
};

/// A parent of a route or the object a rate limit names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Name of the Server.
    pub server: String,
    /// Whether it takes the route or rate limit.
    pub accepted: bool,
    /// Reason as the status has it: `Accepted`, `NoMatchingParent`, `NoMatchingTarget`,
    /// `RateLimitReasonAlreadyExists`.
    pub reason: &'static str,
}

/// The status of a route or a rate limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStatus {
    /// The object.
    pub key: Key,
    /// One entry for each Server it names; other parents are somebody else's to judge.
    pub parents: Vec<Parent>,
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

impl Index {
    /// The status of every route that names a Server and of every rate limit, by namespace.
    pub fn route_status(&self) -> Vec<RouteStatus> {
        let mut out = Vec::new();
        for (namespace, scope) in self.scopes() {
            for route in scope.http_routes.values() {
                let group = route.group;
                let parents = status(scope, group, &route.metadata, &route.spec.parent_refs);
                push(&mut out, http_key(route), parents);
            }
            for route in scope.grpc_routes.values() {
                let group = RouteGroup::Gateway;
                let parents = status(scope, group, &route.metadata, &route.spec.parent_refs);
                let key = key(GATEWAY_GROUP, "GRPCRoute", namespace, &route.metadata.name);
                push(&mut out, key, parents);
            }
            for limit in scope.rate_limits.values() {
                let server = &limit.spec.target_ref.name;
                let first = accepted_rate_limit(scope, server);
                let exists = scope.servers.contains_key(server);
                let is_first = first.is_some_and(|f| f.metadata.name == limit.metadata.name);
                let parent = Parent {
                    server: server.clone(),
                    accepted: exists && is_first,
                    reason: match (exists, is_first) {
                        (false, _) => "NoMatchingTarget",
                        (true, true) => "Accepted",
                        (true, false) => "RateLimitReasonAlreadyExists",
                    },
                };
                let key = Resource::HttpLocalRateLimitPolicy(limit.clone()).key();
                push(&mut out, key, vec![parent]);
            }
        }
        out
    }
}

fn key(group: &str, kind: &str, namespace: &str, name: &str) -> Key {
    Key {
        group: group.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

pub(crate) fn http_key(route: &HttpRoute) -> Key {
    let Metadata {
        namespace, name, ..
    } = &route.metadata;
    key(route.group.as_str(), "HTTPRoute", namespace, name)
}

fn push(out: &mut Vec<RouteStatus>, key: Key, parents: Vec<Parent>) {
    if !parents.is_empty() {
        out.push(RouteStatus { key, parents });
    }
}

fn status(
    scope: &Scope,
    group: RouteGroup,
    metadata: &Metadata,
    parents: &[ParentRef],
) -> Vec<Parent> {
    let names = server_parents(group, metadata, parents).unwrap_or_default();
    let one = |name: &str| {
        let accepted = scope.servers.contains_key(name);
        Parent {
            server: name.to_owned(),
            accepted,
            reason: if accepted {
                "Accepted"
            } else {
                "NoMatchingParent"
            },
        }
    };
    names.into_iter().map(one).collect()
}
