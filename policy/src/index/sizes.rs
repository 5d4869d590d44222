//! How much of what the index has, for metrics.

use super::{
    Index, Scope,
    attach::{ParentKind, Target},
};
use std::collections::BTreeSet;

/// Numbers of objects of one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Pods.
    pub pods: usize,
    /// ExternalWorkloads.
    pub external_workloads: usize,
    /// Servers.
    pub servers: usize,
    /// ServerAuthorizations.
    pub server_authorizations: usize,
    /// AuthorizationPolicies.
    pub authorization_policies: usize,
    /// MeshTLSAuthentications.
    pub mesh_tls_authentications: usize,
    /// NetworkAuthentications.
    pub network_authentications: usize,
    /// HTTPRoutes of a Server, of both groups.
    pub http_routes: usize,
    /// Virtual addresses of Services.
    pub service_addresses: usize,
    /// Services and EgressNetworks.
    pub parents: usize,
    /// Services and EgressNetworks that routes name, whichever port.
    pub routed_parents: usize,
    /// The same with a port.
    pub routed_ports: usize,
}

/// Numbers of objects of all namespaces together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods.
    pub pods: usize,
    /// ExternalWorkloads.
    pub external_workloads: usize,
    /// Services.
    pub services: usize,
}

impl Index {
    /// How many workloads and Services there are. Costs as much as there are namespaces.
    pub fn counts(&self) -> Counts {
        let add = |sum: Counts, (_, scope): (&str, &Scope)| Counts {
            pods: sum.pods + scope.pods.len(),
            external_workloads: sum.external_workloads + scope.external_workloads.len(),
            services: sum.services + scope.services.len(),
        };
        self.scopes().fold(Counts::default(), add)
    }

    /// Numbers of objects, by namespace. Reads everything: not for each change.
    pub fn sizes(&self) -> impl Iterator<Item = (&str, Sizes)> {
        self.scopes().map(|(name, scope)| (name, scope.sizes()))
    }
}

impl Scope {
    fn sizes(&self) -> Sizes {
        let mut parents: BTreeSet<(bool, &str, Option<u16>)> = BTreeSet::new();
        let mut http_routes = 0;
        for route in self.routes().all() {
            let mut has_server = false;
            for Target {
                kind, name, port, ..
            } in route.targets()
            {
                match kind {
                    ParentKind::Server => has_server = true,
                    ParentKind::Service => drop(parents.insert((true, name, port))),
                    ParentKind::EgressNetwork => drop(parents.insert((false, name, port))),
                }
            }
            http_routes += usize::from(has_server);
        }
        let routed_ports = parents.iter().filter(|(.., port)| port.is_some()).count();
        let services = self.services.values();
        Sizes {
            pods: self.pods.len(),
            external_workloads: self.external_workloads.len(),
            servers: self.servers.len(),
            server_authorizations: self.server_authorizations.len(),
            authorization_policies: self.authorization_policies.len(),
            mesh_tls_authentications: self.mesh_tls.len(),
            network_authentications: self.networks.len(),
            http_routes,
            service_addresses: services.map(|service| service.cluster_ips().len()).sum(),
            parents: self.services.len() + self.egress_networks.len(),
            routed_parents: parents.len() - routed_ports,
            routed_ports,
        }
    }
}
