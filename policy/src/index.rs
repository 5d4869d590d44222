//! From resources to one policy per (workload, port), and to the endpoints of Services.
//!
//! Pure: resources go in by [`Index::apply`] and [`Index::delete`], answers come out. Nothing is cached, so an answer is
//! always that of the resources as they stand. The namespace is the first step of every lookup; the only way from one
//! namespace into another is an authentication that a policy refers to by name.

pub(crate) mod authorizations;
mod endpoints;
pub(crate) mod inbound;
mod outbound;
pub(crate) mod probes;
mod profile;
pub(crate) mod routes;
pub(crate) mod status;
pub(crate) mod workload;

pub(crate) use endpoints::target_port;
pub use endpoints::{AmbiguousAddress, Endpoint, EndpointIdentity};
pub use outbound::{MtlsRequirement, OutboundTarget};
pub(crate) use outbound::{Named, annotations as outbound_annotations, named};
pub use status::{Parent, RouteStatus};
pub use workload::{InvalidWorkload, Workload, WorkloadRef};

use crate::{
    default_policy::DefaultPolicy,
    ports::PortSet,
    resource::{
        AuthorizationPolicy, EgressNetwork, GrpcRoute, HttpLocalRateLimitPolicy, HttpRoute, Key,
        MeshTlsAuthentication, NetworkAuthentication, Resource, RouteGroup, Server,
        ServerAuthorization, Service, ServiceProfile, StringMap, TcpRoute, TlsRoute, TrafficSplit,
    },
};
use ipnet::IpNet;
use std::{collections::BTreeMap, sync::Arc};

/// Keys of the annotations that the index reads, on a workload or on its namespace.
pub mod annotations {
    /// Default policy of the workload.
    pub const DEFAULT_INBOUND_POLICY: &str = "config.linkerd.io/default-inbound-policy";
    /// Ports without protocol detection: numbers, ranges and container port names.
    pub const OPAQUE_PORTS: &str = "config.linkerd.io/opaque-ports";
    /// Ports whose default policy asks for an identity.
    pub const REQUIRE_IDENTITY: &str = "config.linkerd.io/proxy-require-identity-inbound-ports";
    /// Whether traffic to a Service may leave in plaintext: `required` or `preferred`. Service or Namespace.
    pub const OUTBOUND_MTLS: &str = "policy.linkerd.io/outbound-mtls";
    /// Identities that the servers of a Service may have, separated by commas. Service or Namespace.
    pub const OUTBOUND_SERVER_IDENTITIES: &str = "policy.linkerd.io/outbound-server-identities";
    /// Ports that do not pass the proxy.
    pub const SKIP_INBOUND_PORTS: &str = "config.linkerd.io/skip-inbound-ports";
    /// `disabled` takes away the probe routes.
    pub const PROBE_AUTHORIZATION: &str = "config.linkerd.io/probe-authorization";
}

/// What holds for a whole control plane.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Namespace of the control plane, part of every identity.
    pub control_plane_namespace: String,
    /// Trust domain, part of every identity.
    pub trust_domain: String,
    /// Domain of Service names.
    pub cluster_domain: String,
    /// Networks of the `cluster-*` default policies.
    pub cluster_networks: Vec<IpNet>,
    /// Where probes come from; none = no probe routes.
    pub probe_networks: Vec<IpNet>,
    /// Clients may set timeouts and retries by `l5d-*` headers.
    pub allow_l5d_request_headers: bool,
    /// Namespace of EgressNetworks that are for all clients.
    pub global_egress_namespace: String,
    /// Default policy of workloads that name none.
    pub default_policy: DefaultPolicy,
    /// Ports that are opaque where a workload declares them and says nothing else.
    pub default_opaque_ports: PortSet,
}

impl Default for Cluster {
    /// The defaults of the control plane's chart.
    fn default() -> Self {
        let nets = |list: &[&str]| list.iter().filter_map(|n| n.parse().ok()).collect();
        Self {
            control_plane_namespace: "linkerd".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_networks: nets(&[
                "10.0.0.0/8",
                "100.64.0.0/10",
                "172.16.0.0/12",
                "192.168.0.0/16",
                "fd00::/8",
            ]),
            probe_networks: nets(&["0.0.0.0/0", "::/0"]),
            allow_l5d_request_headers: false,
            global_egress_namespace: "linkerd-egress".to_owned(),
            default_policy: DefaultPolicy::AllUnauthenticated,
            default_opaque_ports: [25, 587, 3306, 4444, 5432, 6379, 9300, 11211]
                .into_iter()
                .collect(),
        }
    }
}

impl Cluster {
    /// The identity of a service account: `<sa>.<ns>.serviceaccount.identity.<cp-ns>.<trust domain>`.
    pub fn service_account_identity(&self, namespace: &str, account: &str) -> String {
        format!("{account}.{}", self.namespace_identity_suffix(namespace))
    }

    /// What the identities of a namespace end with, without a leading dot.
    pub fn namespace_identity_suffix(&self, namespace: &str) -> String {
        format!(
            "{namespace}.serviceaccount.identity.{}.{}",
            self.control_plane_namespace, self.trust_domain
        )
    }
}

/// The resources of one namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) annotations: StringMap,
    pub(crate) pods: BTreeMap<String, Workload>,
    pub(crate) external_workloads: BTreeMap<String, Workload>,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) servers: BTreeMap<String, Server>,
    pub(crate) server_authorizations: BTreeMap<String, ServerAuthorization>,
    pub(crate) authorization_policies: BTreeMap<String, AuthorizationPolicy>,
    pub(crate) mesh_tls: BTreeMap<String, MeshTlsAuthentication>,
    pub(crate) networks: BTreeMap<String, NetworkAuthentication>,
    pub(crate) http_routes: BTreeMap<(RouteGroup, String), HttpRoute>,
    pub(crate) grpc_routes: BTreeMap<String, GrpcRoute>,
    pub(crate) rate_limits: BTreeMap<String, HttpLocalRateLimitPolicy>,
    pub(crate) tcp_routes: BTreeMap<String, TcpRoute>,
    pub(crate) tls_routes: BTreeMap<String, TlsRoute>,
    pub(crate) egress_networks: BTreeMap<String, EgressNetwork>,
    pub(crate) profiles: BTreeMap<String, ServiceProfile>,
    pub(crate) splits: BTreeMap<String, TrafficSplit>,
}

impl Scope {
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.pods.values().chain(self.external_workloads.values())
    }
}

/// All resources of a control plane. A clone costs little: namespaces that do not change are shared.
#[derive(Clone, Debug)]
pub struct Index {
    cluster: Cluster,
    namespaces: BTreeMap<String, Arc<Scope>>,
}

impl Index {
    /// An index without resources.
    pub const fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            namespaces: BTreeMap::new(),
        }
    }

    /// An index of these resources; of two with one key, the later counts.
    pub fn from_resources(cluster: Cluster, resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut index = Self::new(cluster);
        resources.into_iter().for_each(|r| index.apply(r));
        index
    }

    /// What holds for the whole control plane.
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Adds a resource, or replaces the one with its key.
    pub fn apply(&mut self, resource: Resource) {
        let Key {
            namespace, name, ..
        } = resource.key();
        let scope = match &resource {
            Resource::Other { .. } => return,
            Resource::Namespace(_) => self.namespaces.entry(name.clone()).or_default(),
            _ => self.namespaces.entry(namespace).or_default(),
        };
        let scope = Arc::make_mut(scope);
        match resource {
            Resource::Namespace(r) => scope.annotations = r.metadata.annotations,
            Resource::Pod(r) => drop(scope.pods.insert(name, Workload::Pod(r))),
            Resource::ExternalWorkload(r) => {
                let workload = Workload::ExternalWorkload(r);
                scope.external_workloads.insert(name, workload);
            }
            Resource::Service(r) => drop(scope.services.insert(name, r)),
            Resource::Server(r) => drop(scope.servers.insert(name, r)),
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
            Resource::Other { .. } => {}
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
        let Some(scope) = self.namespaces.get(namespace) else {
            return false;
        };
        match resource {
            Resource::Namespace(r) => scope.annotations == r.metadata.annotations,
            Resource::Pod(r) => {
                matches!(scope.pods.get(name), Some(Workload::Pod(pod)) if pod == r)
            }
            Resource::ExternalWorkload(r) => {
                let found = scope.external_workloads.get(name);
                matches!(found, Some(Workload::ExternalWorkload(workload)) if workload == r)
            }
            Resource::Service(r) => scope.services.get(name) == Some(r),
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
            Resource::Other { .. } => true,
        }
    }

    /// Removes the resource with this key, if it is there. Deleting a Namespace takes its annotations away; what is
    /// in it is deleted one by one, as an API server does.
    pub fn delete(&mut self, key: &Key) {
        let scope_name = if key.group.is_empty() && key.kind == "Namespace" {
            &key.name
        } else {
            &key.namespace
        };
        let Some(scope) = self.namespaces.get_mut(scope_name) else {
            return;
        };
        let scope = Arc::make_mut(scope);
        let name = &key.name;
        match (key.group.as_str(), key.kind.as_str()) {
            ("", "Namespace") => scope.annotations.clear(),
            ("", "Pod") => drop(scope.pods.remove(name)),
            ("", "Service") => drop(scope.services.remove(name)),
            (_, "ExternalWorkload") => drop(scope.external_workloads.remove(name)),
            (_, "Server") => drop(scope.servers.remove(name)),
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
                    crate::resource::GATEWAY_GROUP => RouteGroup::Gateway,
                    _ => RouteGroup::Policy,
                };
                scope.http_routes.remove(&(group, name.clone()));
            }
            _ => {}
        }
        if scope.is_empty() {
            self.namespaces.remove(scope_name);
        }
    }

    /// Every workload, by namespace and name.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.namespaces.values().flat_map(|s| s.workloads())
    }

    /// A workload.
    pub fn workload(&self, workload: &WorkloadRef) -> Option<&Workload> {
        self.namespaces
            .get(workload.namespace())?
            .workload(workload)
    }

    /// Every Service, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.namespaces.values().flat_map(|s| s.services.values())
    }

    /// A Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.namespaces.get(namespace)?.services.get(name)
    }

    pub(crate) fn scopes(&self) -> impl Iterator<Item = (&str, &Scope)> {
        self.namespaces
            .iter()
            .map(|(name, s)| (name.as_str(), &**s))
    }

    pub(crate) fn scope(&self, namespace: &str) -> Option<&Scope> {
        self.namespaces.get(namespace).map(Arc::as_ref)
    }
}

impl Scope {
    fn is_empty(&self) -> bool {
        self.annotations.is_empty()
            && self.workloads().next().is_none()
            && self.services.is_empty()
            && self.servers.is_empty()
            && self.server_authorizations.is_empty()
            && self.authorization_policies.is_empty()
            && self.mesh_tls.is_empty()
            && self.networks.is_empty()
            && self.http_routes.is_empty()
            && self.grpc_routes.is_empty()
            && self.rate_limits.is_empty()
            && self.tcp_routes.is_empty()
            && self.tls_routes.is_empty()
            && self.egress_networks.is_empty()
            && self.profiles.is_empty()
            && self.splits.is_empty()
    }

    pub(crate) fn workload(&self, workload: &WorkloadRef) -> Option<&Workload> {
        match workload {
            WorkloadRef::Pod { pod, .. } => self.pods.get(pod),
            WorkloadRef::ExternalWorkload { name, .. } => self.external_workloads.get(name),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
