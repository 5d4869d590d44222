//! Routes by what they are attached to. An answer about one parent reads the routes that name it, and depends on no others.

use super::{
    Scope,
    attach::{Facts, ParentKind, RouteKind, Target},
};
use crate::resource::{GrpcRoute, HttpRoute, RouteGroup, TcpRoute, TlsRoute};
use std::collections::BTreeSet;

/// A route of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RouteId {
    Grpc(String),
    Http(RouteGroup, String),
    Tls(String),
    Tcp(String),
}

/// Routes of a namespace: all of them, or those that name one parent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes<'a> {
    pub(crate) http: Vec<&'a HttpRoute>,
    pub(crate) grpc: Vec<&'a GrpcRoute>,
    pub(crate) tls: Vec<&'a TlsRoute>,
    pub(crate) tcp: Vec<&'a TcpRoute>,
}

/// The same for every way to name the parent: its ports are told apart later.
pub(super) fn parent_key(kind: ParentKind, namespace: &str, name: &str) -> String {
    format!("{kind:?}/{namespace}/{name}")
}

impl Scope {
    /// Changes a route, and what is known of its parents.
    pub(super) fn change_route(&mut self, id: RouteId, change: impl FnOnce(&mut Self)) {
        let before = self.parents_of(&id);
        change(self);
        let after = self.parents_of(&id);
        for key in before.union(&after) {
            let mut routes = self.route_parents.get(key).cloned().unwrap_or_default();
            if after.contains(key) {
                routes.insert(id.clone());
            } else {
                routes.remove(&id);
            }
            if routes.is_empty() {
                self.route_parents.remove(key);
            } else {
                // Also where the same routes name it: one of them is another one now.
                self.route_parents.insert(key.clone(), routes);
            }
        }
    }

    fn parents_of(&self, id: &RouteId) -> BTreeSet<String> {
        let facts = match id {
            RouteId::Grpc(name) => self.grpc_routes.get(name).map(Facts::of_grpc),
            RouteId::Http(group, name) => {
                let route = self.http_routes.get(&(*group, name.clone()));
                route.map(Facts::of_http)
            }
            RouteId::Tls(name) => {
                let route = self.tls_routes.get(name);
                route.map(|route| Facts::of_stream(RouteKind::Tls, route))
            }
            RouteId::Tcp(name) => {
                let route = self.tcp_routes.get(name);
                route.map(|route| Facts::of_stream(RouteKind::Tcp, route))
            }
        };
        let targets = facts.into_iter().flat_map(Facts::targets);
        let key = |target: Target<'_>| parent_key(target.kind, target.namespace, target.name);
        targets.map(key).collect()
    }

    /// All routes.
    pub(crate) fn routes(&self) -> Routes<'_> {
        Routes {
            http: self.http_routes.values().collect(),
            grpc: self.grpc_routes.values().collect(),
            tls: self.tls_routes.values().collect(),
            tcp: self.tcp_routes.values().collect(),
        }
    }

    /// Those that name a parent.
    pub(super) fn routes_of(&self, parent: &str) -> Routes<'_> {
        let mut routes = Routes::default();
        for id in self.route_parents.get(parent).into_iter().flatten() {
            match id {
                RouteId::Grpc(name) => routes.grpc.extend(self.grpc_routes.get(name)),
                RouteId::Http(group, name) => {
                    let route = self.http_routes.get(&(*group, name.clone()));
                    routes.http.extend(route);
                }
                RouteId::Tls(name) => routes.tls.extend(self.tls_routes.get(name)),
                RouteId::Tcp(name) => routes.tcp.extend(self.tcp_routes.get(name)),
            }
        }
        routes
    }
}
