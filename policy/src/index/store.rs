//! Resources into the index and out of it.

use super::{Addresses, Index, Scope, Workload, parents::RouteId};
use crate::resource::{
    GATEWAY_GROUP, IntermediateKind, Key, Node, Resource, RouteGroup, StringMap,
    discovery::Intermediate,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Label of a node's zone, and of a workload's.
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A number that no other state of anything has, in any index.
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
        let (scope, addresses) = self.change(&namespace);
        match resource {
            Resource::Namespace(r) => scope.annotations.set(r.metadata.annotations),
            Resource::Pod(r) => {
                let new = Workload::Pod(Arc::new(r));
                addresses.workload(scope.pods.get(&name), Some(&new));
                scope.pods.insert(name, new);
            }
            Resource::ExternalWorkload(r) => {
                let new = Workload::ExternalWorkload(Arc::new(r));
                addresses.workload(scope.external_workloads.get(&name), Some(&new));
                scope.external_workloads.insert(name, new);
            }
            Resource::Service(r) => {
                addresses.service(scope.services.get(&name), Some(&r));
                scope.services.insert(name, r);
            }
            Resource::EndpointSlice(r) => {
                let service = r.service().unwrap_or_default().to_owned();
                let mut slices = scope.slices.get(&service).cloned().unwrap_or_default();
                if !slices.contains_key(&name) {
                    // It may have been another Service's.
                    scope.remove_slice(&name);
                }
                slices.insert(name, Arc::new(r));
                scope.slices.insert(service, slices);
            }
            Resource::Intermediate(r) => {
                let owner = controller(&r);
                match r.spec {
                    IntermediateKind::ReplicaSet => scope.replica_sets.insert(name, owner),
                    IntermediateKind::Job => scope.jobs.insert(name, owner),
                }
            }
            Resource::Server(r) => scope.servers.insert(name, r),
            Resource::ServerAuthorization(r) => scope.server_authorizations.insert(name, r),
            Resource::AuthorizationPolicy(r) => scope.authorization_policies.insert(name, r),
            Resource::MeshTlsAuthentication(r) => scope.mesh_tls.insert(name, r),
            Resource::NetworkAuthentication(r) => scope.networks.insert(name, r),
            Resource::HttpRoute(r) => {
                let id = RouteId::Http(r.group, name.clone());
                scope.change_route(id, |scope| scope.http_routes.insert((r.group, name), r));
            }
            Resource::GrpcRoute(r) => {
                let id = RouteId::Grpc(name.clone());
                scope.change_route(id, |scope| scope.grpc_routes.insert(name, r));
            }
            Resource::HttpLocalRateLimitPolicy(r) => scope.rate_limits.insert(name, r),
            Resource::TcpRoute(r) => {
                let id = RouteId::Tcp(name.clone());
                scope.change_route(id, |scope| scope.tcp_routes.insert(name, r));
            }
            Resource::TlsRoute(r) => {
                let id = RouteId::Tls(name.clone());
                scope.change_route(id, |scope| scope.tls_routes.insert(name, r));
            }
            Resource::EgressNetwork(r) => scope.egress_networks.insert(name, r),
            Resource::ServiceProfile(r) => scope.profiles.insert(name, r),
            Resource::TrafficSplit(r) => scope.splits.insert(name, r),
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
            return self.zones.get(name).map(String::as_str) == zone_of(node);
        }
        let Some(scope) = self.namespaces.get(namespace) else {
            return false;
        };
        match resource {
            Resource::Namespace(r) => *scope.annotations == r.metadata.annotations,
            Resource::Pod(r) => {
                matches!(scope.pods.get(name), Some(Workload::Pod(pod)) if **pod == *r)
            }
            Resource::ExternalWorkload(r) => {
                let found = scope.external_workloads.get(name);
                matches!(found, Some(Workload::ExternalWorkload(workload)) if **workload == *r)
            }
            Resource::Service(r) => scope.services.get(name) == Some(r),
            Resource::EndpointSlice(r) => scope
                .slices
                .get(r.service().unwrap_or_default())
                .and_then(|slices| slices.get(name))
                .is_some_and(|slice| **slice == *r),
            Resource::Intermediate(r) => {
                scope.intermediates(r.spec).get(name) == Some(&controller(r))
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
        let (scope, addresses) = self.change(scope_name);
        let name = &key.name;
        match (key.group.as_str(), key.kind.as_str()) {
            ("", "Namespace") => scope.annotations.set(StringMap::new()),
            ("", "Pod") => {
                addresses.workload(scope.pods.get(name), None);
                scope.pods.remove(name);
            }
            ("", "Service") => {
                addresses.service(scope.services.get(name), None);
                scope.services.remove(name);
            }
            (_, "ExternalWorkload") => {
                addresses.workload(scope.external_workloads.get(name), None);
                scope.external_workloads.remove(name);
            }
            (_, "EndpointSlice") => scope.remove_slice(name),
            (_, "Server") => scope.servers.remove(name),
            (_, "ServerAuthorization") => scope.server_authorizations.remove(name),
            (_, "AuthorizationPolicy") => scope.authorization_policies.remove(name),
            (_, "MeshTLSAuthentication") => scope.mesh_tls.remove(name),
            (_, "NetworkAuthentication") => scope.networks.remove(name),
            (_, "HTTPLocalRateLimitPolicy") => scope.rate_limits.remove(name),
            (_, "GRPCRoute") => {
                let id = RouteId::Grpc(name.clone());
                scope.change_route(id, |scope| scope.grpc_routes.remove(name));
            }
            (_, "TCPRoute") => {
                let id = RouteId::Tcp(name.clone());
                scope.change_route(id, |scope| scope.tcp_routes.remove(name));
            }
            (_, "TLSRoute") => {
                let id = RouteId::Tls(name.clone());
                scope.change_route(id, |scope| scope.tls_routes.remove(name));
            }
            (_, "EgressNetwork") => scope.egress_networks.remove(name),
            (_, "ServiceProfile") => scope.profiles.remove(name),
            (_, "TrafficSplit") => scope.splits.remove(name),
            (group, "HTTPRoute") => {
                let group = match group {
                    GATEWAY_GROUP => RouteGroup::Gateway,
                    _ => RouteGroup::Policy,
                };
                let id = RouteId::Http(group, name.clone());
                scope.change_route(id, |scope| {
                    scope.http_routes.remove(&(group, name.clone()));
                });
            }
            (_, "ReplicaSet") => scope.replica_sets.remove(name),
            (_, "Job") => scope.jobs.remove(name),
            _ => {}
        }
        if self
            .namespaces
            .get(scope_name)
            .is_some_and(|s| s.is_empty())
        {
            Arc::make_mut(&mut self.namespaces).remove(scope_name);
        }
    }

    /// The scope of a namespace, to be changed, and who has which address.
    fn change(&mut self, namespace: &str) -> (&mut Scope, &mut Addresses) {
        self.revision = revision();
        let namespaces = Arc::make_mut(&mut self.namespaces);
        let scope = namespaces.entry(namespace.to_owned()).or_default();
        let scope = Arc::make_mut(scope);
        scope.revision = self.revision;
        (scope, Arc::make_mut(&mut self.addresses))
    }

    fn set_zone(&mut self, node: String, zone: Option<&str>) {
        if self.zones.get(&node).map(String::as_str) == zone {
            return;
        }
        self.revision = revision();
        let zones = Arc::make_mut(&mut self.zones);
        match zone {
            Some(zone) => drop(zones.insert(node, zone.to_owned())),
            None => drop(zones.remove(&node)),
        }
    }
}

impl Scope {
    fn remove_slice(&mut self, name: &str) {
        let holding = self
            .slices
            .iter()
            .find(|(_, slices)| slices.contains_key(name));
        let Some((service, mut slices)) = holding.map(|(s, all)| (s.clone(), all.clone())) else {
            return;
        };
        slices.remove(name);
        if slices.is_empty() {
            self.slices.remove(&service);
        } else {
            self.slices.insert(service, slices);
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
