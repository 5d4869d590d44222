//! Resources into the index and out of it.

use super::{Index, Scope, Workload};
use crate::resource::{
    GATEWAY_GROUP, IntermediateKind, Key, Node, Resource, RouteGroup, discovery::Intermediate,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Label of a node's zone, and of a workload's.
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A number that no other scope, map of nodes or list of an address has, in any index.
pub(super) fn revision() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Index {
    /// Adds a resource, or replaces the one with its key.
    pub fn apply(&mut self, resource: Resource) {
        let Key {
            namespace, name, ..
        } = resource.key();
        let namespace = match &resource {
            Resource::Other { .. } => return,
            Resource::Node(node) => return self.set_zone(name, zone_of(node)),
            Resource::Namespace(_) => name.clone(),
            _ => namespace,
        };
        let scope = self.change(&namespace);
        match resource {
            Resource::Namespace(r) => scope.annotations = r.metadata.annotations,
            Resource::Pod(r) => {
                let new = Workload::Pod(Arc::new(r));
                let old = scope.pods.insert(name, new.clone());
                self.addresses.workload(old.as_ref(), Some(&new));
            }
            Resource::ExternalWorkload(r) => {
                let new = Workload::ExternalWorkload(Arc::new(r));
                let old = scope.external_workloads.insert(name, new.clone());
                self.addresses.workload(old.as_ref(), Some(&new));
            }
            Resource::Service(r) => {
                let new = Arc::new(r);
                let old = scope.services.insert(name, new.clone());
                self.addresses.service(old.as_deref(), Some(&new));
            }
            Resource::EndpointSlice(r) => {
                let service = r.service().unwrap_or_default().to_owned();
                scope.remove_slice(&name);
                let slices = scope.slices.entry(service).or_default();
                slices.insert(name, Arc::new(r));
            }
            Resource::Intermediate(r) => {
                let owner = controller(&r);
                scope.intermediates.insert((r.spec, name), owner);
            }
            Resource::Server(r) => scope.servers.insert(name, r),
            Resource::ServerAuthorization(r) => {
                scope.server_authorizations.insert(name, r);
            }
            Resource::AuthorizationPolicy(r) => {
                scope.authorization_policies.insert(name, r);
            }
            Resource::MeshTlsAuthentication(r) => drop(scope.mesh_tls.insert(name, r)),
            Resource::NetworkAuthentication(r) => drop(scope.networks.insert(name, r)),
            Resource::HttpRoute(r) => drop(scope.http_routes.insert((r.group, name), r)),
            Resource::GrpcRoute(r) => drop(scope.grpc_routes.insert(name, r)),
            Resource::HttpLocalRateLimitPolicy(r) => drop(scope.rate_limits.insert(name, r)),
            Resource::TcpRoute(r) => drop(scope.tcp_routes.insert(name, r)),
            Resource::TlsRoute(r) => drop(scope.tls_routes.insert(name, r)),
            Resource::EgressNetwork(r) => drop(scope.egress_networks.insert(name, r)),
            Resource::ServiceProfile(r) => drop(scope.profiles.insert(name, r)),
            Resource::TrafficSplit(r) => drop(scope.splits.insert(name, r)),
            Resource::Node(_) | Resource::Other { .. } => {}
        }
    }

    /// Whether the resource is there as it is. What is of no consequence is not compared.
    pub fn has(&self, resource: &Resource) -> bool {
        let key = resource.key();
        let name = &key.name;
        let namespace = match resource {
            Resource::Namespace(_) => name,
            _ => &key.namespace,
        };
        if let Resource::Node(node) = resource {
            return self.nodes.zones.get(name).map(String::as_str) == zone_of(node);
        }
        let Some(scope) = self.namespaces.get(namespace) else {
            return false;
        };
        match resource {
            Resource::Namespace(r) => scope.annotations == r.metadata.annotations,
            Resource::Pod(r) => {
                matches!(scope.pods.get(name), Some(Workload::Pod(pod)) if **pod == *r)
            }
            Resource::ExternalWorkload(r) => {
                let found = scope.external_workloads.get(name);
                matches!(found, Some(Workload::ExternalWorkload(workload)) if **workload == *r)
            }
            Resource::Service(r) => scope.services.get(name).is_some_and(|s| **s == *r),
            Resource::EndpointSlice(r) => scope
                .slices
                .get(r.service().unwrap_or_default())
                .and_then(|slices| slices.get(name))
                .is_some_and(|slice| **slice == *r),
            Resource::Intermediate(r) => {
                scope.intermediates.get(&(r.spec, name.clone())) == Some(&controller(r))
            }
            Resource::Server(r) => scope.servers.get(name) == Some(r),
            Resource::ServerAuthorization(r) => scope.server_authorizations.get(name) == Some(r),
            Resource::AuthorizationPolicy(r) => scope.authorization_policies.get(name) == Some(r),
            Resource::MeshTlsAuthentication(r) => scope.mesh_tls.get(name) == Some(r),
            Resource::NetworkAuthentication(r) => scope.networks.get(name) == Some(r),
            Resource::HttpRoute(r) => scope.http_routes.get(&(r.group, name.clone())) == Some(r),
            Resource::GrpcRoute(r) => scope.grpc_routes.get(name) == Some(r),
            Resource::HttpLocalRateLimitPolicy(r) => scope.rate_limits.get(name) == Some(r),
            Resource::TcpRoute(r) => scope.tcp_routes.get(name) == Some(r),
            Resource::TlsRoute(r) => scope.tls_routes.get(name) == Some(r),
            Resource::EgressNetwork(r) => scope.egress_networks.get(name) == Some(r),
            Resource::ServiceProfile(r) => scope.profiles.get(name) == Some(r),
            Resource::TrafficSplit(r) => scope.splits.get(name) == Some(r),
            Resource::Node(_) | Resource::Other { .. } => true,
        }
    }

    /// Removes the resource with this key, if it is there. Deleting a Namespace takes its annotations away; what is
    /// in it is deleted one by one, as an API server does.
    pub fn delete(&mut self, key: &Key) {
        let scope_name = match (key.group.as_str(), key.kind.as_str()) {
            ("", "Node") => return self.set_zone(key.name.clone(), None),
            ("", "Namespace") => &key.name,
            _ => &key.namespace,
        };
        if !self.namespaces.contains_key(scope_name) {
            return;
        }
        let scope = self.change(scope_name);
        let name = &key.name;
        match (key.group.as_str(), key.kind.as_str()) {
            ("", "Namespace") => scope.annotations.clear(),
            ("", "Pod") => {
                let old = scope.pods.remove(name);
                self.addresses.workload(old.as_ref(), None);
            }
            ("", "Service") => {
                let old = scope.services.remove(name);
                self.addresses.service(old.as_deref(), None);
            }
            (_, "ExternalWorkload") => {
                let old = scope.external_workloads.remove(name);
                self.addresses.workload(old.as_ref(), None);
            }
            (_, "EndpointSlice") => scope.remove_slice(name),
            (_, "Server") => scope.servers.remove(name),
            (_, "ServerAuthorization") => drop(scope.server_authorizations.remove(name)),
            (_, "AuthorizationPolicy") => drop(scope.authorization_policies.remove(name)),
            (_, "MeshTLSAuthentication") => drop(scope.mesh_tls.remove(name)),
            (_, "NetworkAuthentication") => drop(scope.networks.remove(name)),
            (_, "HTTPLocalRateLimitPolicy") => drop(scope.rate_limits.remove(name)),
            (_, "GRPCRoute") => drop(scope.grpc_routes.remove(name)),
            (_, "TCPRoute") => drop(scope.tcp_routes.remove(name)),
            (_, "TLSRoute") => drop(scope.tls_routes.remove(name)),
            (_, "EgressNetwork") => drop(scope.egress_networks.remove(name)),
            (_, "ServiceProfile") => drop(scope.profiles.remove(name)),
            (_, "TrafficSplit") => drop(scope.splits.remove(name)),
            (group, "HTTPRoute") => {
                let group = match group {
                    GATEWAY_GROUP => RouteGroup::Gateway,
                    _ => RouteGroup::Policy,
                };
                scope.http_routes.remove(&(group, name.clone()));
            }
            (_, kind) => {
                if let Some(kind) = IntermediateKind::named(kind) {
                    scope.intermediates.remove(&(kind, name.clone()));
                }
            }
        }
        if self
            .namespaces
            .get(scope_name)
            .is_some_and(|s| s.is_empty())
        {
            Arc::make_mut(&mut self.namespaces).remove(scope_name);
        }
    }

    /// The scope of a namespace, to be changed.
    fn change(&mut self, namespace: &str) -> &mut Scope {
        let namespaces = Arc::make_mut(&mut self.namespaces);
        let scope = namespaces.entry(namespace.to_owned()).or_default();
        let scope = Arc::make_mut(scope);
        scope.revision = revision();
        scope
    }

    fn set_zone(&mut self, node: String, zone: Option<&str>) {
        if self.nodes.zones.get(&node).map(String::as_str) == zone {
            return;
        }
        let nodes = Arc::make_mut(&mut self.nodes);
        nodes.revision = revision();
        match zone {
            Some(zone) => drop(nodes.zones.insert(node, zone.to_owned())),
            None => drop(nodes.zones.remove(&node)),
        }
    }
}

impl Scope {
    fn remove_slice(&mut self, name: &str) {
        let holding = |slices: &&mut std::collections::BTreeMap<_, _>| slices.contains_key(name);
        if let Some(slices) = self.slices.values_mut().find(holding) {
            slices.remove(name);
            self.slices.retain(|_, slices| !slices.is_empty());
        }
    }
}

fn zone_of(node: &Node) -> Option<&str> {
    let zone = node.metadata.labels.get(ZONE_LABEL).map(String::as_str);
    zone.filter(|zone| !zone.is_empty())
}

fn controller(object: &Intermediate) -> Option<(String, String)> {
    let owner = object.controller()?;
    Some((owner.kind.clone(), owner.name.clone()))
}
