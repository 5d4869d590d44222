//! Which authorizations there are for each port and route of a workload: `linkerd authz`.

use super::{
    Index, WorkloadRef,
    inbound::{selects_port, selects_workload},
};
use crate::{
    resource::PortRef,
    server::{Authorization, Meta, Protocol},
};
use std::collections::BTreeSet;

/// Ports that an injected Pod declares beside those of its application.
const OF_THE_SIDECAR: [&str; 2] = ["linkerd-proxy", "linkerd-admin"];

/// One authorization, and what it opens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Authorized {
    /// Port of the workload.
    pub port: u16,
    /// The Server that keeps the port, or the default policy.
    pub server: Meta,
    /// The route, or the whole port.
    pub route: Option<Meta>,
    /// The authorization; `None` if nothing opens it.
    pub authorization: Option<Meta>,
}

impl Index {
    /// Authorizations of every port that a workload declares or a Server names, in the order in which they count.
    pub fn authorized(&self, workload: &WorkloadRef) -> Vec<Authorized> {
        let mut all = Vec::new();
        for port in self.known_ports(workload) {
            let Some(policy) = self.inbound(workload, port) else {
                continue;
            };
            let row = |route: Option<&Meta>, authorization: Option<&Authorization>| Authorized {
                port,
                server: policy.meta.clone(),
                route: route.cloned(),
                authorization: authorization.map(|authorization| authorization.meta.clone()),
            };
            let routes: Vec<(&Meta, &[Authorization])> = match &policy.protocol {
                Protocol::Detect { http, .. } | Protocol::Http1(http) | Protocol::Http2(http) => {
                    let routes = http.routes.iter();
                    routes
                        .map(|r| (&r.meta, r.authorizations.as_slice()))
                        .collect()
                }
                Protocol::Grpc { routes } => {
                    let routes = routes.iter();
                    routes
                        .map(|r| (&r.meta, r.authorizations.as_slice()))
                        .collect()
                }
                Protocol::Opaque | Protocol::Tls => Vec::new(),
            };
            for (route, authorizations) in routes {
                let of_route = authorizations.iter();
                all.extend(of_route.map(|authorization| row(Some(route), Some(authorization))));
                // A route of the namespace's own that nothing opens is worth a line.
                let is_closed = authorizations.is_empty() && policy.authorizations.is_empty();
                if is_closed && matches!(route, Meta::Resource { .. }) {
                    all.push(row(Some(route), None));
                }
            }
            all.extend(
                policy
                    .authorizations
                    .iter()
                    .map(|authorization| row(None, Some(authorization))),
            );
            if policy.authorizations.is_empty() {
                all.push(row(None, None));
            }
        }
        all
    }

    /// Ports that a workload declares, or that a Server names by number.
    fn known_ports(&self, workload: &WorkloadRef) -> BTreeSet<u16> {
        let Some(scope) = self.scope(workload.namespace()) else {
            return BTreeSet::new();
        };
        let Some(found) = scope.workload(workload) else {
            return BTreeSet::new();
        };
        let is_kept = |port: u16| {
            let mut servers = scope.servers.of_port(found, port);
            servers.any(|server| selects_workload(server, found))
        };
        let declared = found.declared_ports().into_iter();
        let declared = declared.filter(|(port, name)| {
            !name.is_some_and(|name| OF_THE_SIDECAR.contains(&name)) || is_kept(*port)
        });
        let declared = declared.map(|(port, _)| port);
        let named = scope
            .servers
            .values()
            .filter_map(|server| match server.spec.port {
                PortRef::Number(port) => selects_port(server, found, port).then_some(port),
                PortRef::Name(_) => None,
            });
        declared.chain(named).collect()
    }
}
