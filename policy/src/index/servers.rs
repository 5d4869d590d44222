//! The Servers of a namespace, found by name and by port: with thousands of them, those that could have a port are few.

use super::{
    Index, Workload,
    inbound::selects_workload,
    table::{Revisions, Table},
};
use crate::resource::{PortRef, ProxyProtocol, Server, WorkloadSelector};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Servers of one namespace. A copy shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers {
    by_name: Table<String, Server>,
    /// Their names, by what they say of the port.
    by_port: Arc<BTreeMap<PortRef, BTreeSet<String>>>,
    /// How many carry bytes.
    opaque: usize,
}

impl Servers {
    pub(crate) fn insert(&mut self, name: String, server: Server) {
        self.remove(&name);
        let by_port = Arc::make_mut(&mut self.by_port);
        let names = by_port.entry(server.spec.port.clone()).or_default();
        names.insert(name.clone());
        self.opaque += usize::from(is_opaque(&server));
        self.by_name.insert(name, server);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let Some(server) = self.by_name.get(name) else {
            return;
        };
        let port = &server.spec.port;
        let by_port = Arc::make_mut(&mut self.by_port);
        if let Some(names) = by_port.get_mut(port) {
            names.remove(name);
            if names.is_empty() {
                by_port.remove(port);
            }
        }
        self.opaque -= usize::from(is_opaque(server));
        self.by_name.remove(name);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Server> {
        self.by_name.get(name)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Server> {
        self.by_name.values()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether any carries bytes.
    pub(crate) fn has_opaque(&self) -> bool {
        self.opaque > 0
    }

    /// Those whose port is this port of a workload, whether they select it or not.
    pub(crate) fn of_port(&self, workload: &Workload, port: u16) -> impl Iterator<Item = &Server> {
        let numbered = self.by_port.get(&PortRef::Number(port));
        // What a port is called is for the workload to say.
        let called = workload.declared_ports().into_iter();
        let called: BTreeSet<&str> = called
            .filter(|(number, _)| *number == port)
            .filter_map(|(_, name)| name)
            .collect();
        let called = called.into_iter();
        let named = called.filter_map(|name| self.by_port.get(&PortRef::Name(name.to_owned())));
        let names = numbered.into_iter().chain(named).flatten();
        names.filter_map(|name| self.get(name))
    }

    /// Those that say this of the port.
    pub(crate) fn naming(&self, port: &PortRef) -> impl Iterator<Item = &Server> {
        let names = self.by_port.get(port).into_iter().flatten();
        names.filter_map(|name| self.get(name))
    }

    /// The one that keeps a port of a workload: of those that select it the oldest, then the first by name.
    pub(crate) fn keeper(&self, workload: &Workload, port: u16) -> Option<&Server> {
        self.of_port(workload, port)
            .filter(|server| selects_workload(server, workload))
            .min_by_key(|server| server.metadata.age_key())
    }
}

impl Index {
    /// Whether a Server is there and says this.
    pub fn has_server(&self, server: &Server) -> bool {
        let part = self.part(&server.metadata.namespace);
        let found = part.server(&server.metadata.name);
        found.is_some_and(|found| found.spec == server.spec)
    }

    /// Names of the other Servers that select a port which this one selects, now or of whatever workload comes; the oldest
    /// first.
    pub fn overlapping(&self, server: &Server) -> Vec<String> {
        let Some(scope) = self.scope(&server.metadata.namespace) else {
            return Vec::new();
        };
        let mut found = BTreeMap::new();
        let workloads = scope.workloads();
        for workload in workloads.filter(|workload| selects_workload(server, workload)) {
            for port in ports_of(server, workload) {
                let others = scope.servers.of_port(workload, port);
                let others = others.filter(|other| selects_workload(other, workload));
                found.extend(others.map(|other| (&other.metadata.name, other)));
            }
        }
        let twins = scope.servers.naming(&server.spec.port);
        let twins = twins.filter(|other| are_twins(server, other));
        found.extend(twins.map(|other| (&other.metadata.name, other)));
        found.remove(&server.metadata.name);
        let mut others: Vec<&Server> = found.into_values().collect();
        others.sort_by_key(|other| other.metadata.age_key());
        let names = others.into_iter().map(|other| other.metadata.name.clone());
        names.collect()
    }
}

/// Ports of a workload that a Server's port stands for.
pub(crate) fn ports_of(server: &Server, workload: &Workload) -> Vec<u16> {
    match &server.spec.port {
        PortRef::Number(port) => vec![*port],
        PortRef::Name(name) => workload.ports_named(name),
    }
}

/// Whether two Servers say the same of the port, and of any workload that one of them selects the other selects it as well.
/// (Selectors of which one only implies the other are told apart by the workloads that there are.)
pub(crate) fn are_twins(one: &Server, other: &Server) -> bool {
    let (Some(a), Some(b)) = (one.spec.selector(), other.spec.selector()) else {
        return false;
    };
    let is_same_kind = std::mem::discriminant(&a) == std::mem::discriminant(&b);
    let selects_all = is_everything(a) || is_everything(b);
    one.spec.port == other.spec.port && is_same_kind && (a == b || selects_all)
}

/// Whether every workload of its kind is selected.
pub(crate) fn is_everything(selector: WorkloadSelector<'_>) -> bool {
    match selector {
        WorkloadSelector::Pods(selector) | WorkloadSelector::ExternalWorkloads(selector) => {
            selector.is_empty()
        }
    }
}

impl Revisions for Servers {
    fn whole(&self) -> u64 {
        self.by_name.whole()
    }

    fn one(&self, name: &str) -> u64 {
        self.by_name.one(name)
    }
}

pub(crate) fn is_opaque(server: &Server) -> bool {
    server.spec.proxy_protocol == ProxyProtocol::Opaque
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{manifest, resource::Resource};

    fn server(name: &str, port: &str, protocol: &str) -> Server {
        let text = format!(
            "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{podSelector: {{}}, port: {port}, proxyProtocol: {protocol}}}"
        );
        match manifest::parse(&text).remove(0).unwrap().resource {
            Resource::Server(server) => server,
            other => panic!("{other:?}"),
        }
    }

    fn workload() -> Workload {
        let text = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  containers:
  - {name: a, ports: [{containerPort: 8080, name: http}, {containerPort: 8080, name: dns, protocol: UDP}]}
  - {name: b, ports: [{containerPort: 8080, name: also}]}";
        match manifest::parse(text).remove(0).unwrap().resource {
            Resource::Pod(pod) => Workload::Pod(Arc::new(pod)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn servers_of_a_port_are_those_that_name_its_number_or_a_name_of_it() {
        let mut servers = Servers::default();
        for (name, port) in [
            ("n", "8080"),
            ("h", "http"),
            ("a", "also"),
            ("d", "dns"),
            ("x", "9090"),
        ] {
            servers.insert(name.to_owned(), server(name, port, "HTTP/1"));
        }
        let found = |servers: &Servers, port| {
            let workload = workload();
            let names = servers.of_port(&workload, port);
            let names: BTreeSet<_> = names.map(|s| s.metadata.name.clone()).collect();
            names.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(found(&servers, 8080), "a h n");
        assert_eq!(found(&servers, 9090), "x");
        assert_eq!(found(&servers, 1), "");
        // One that becomes another, and one that goes.
        servers.insert("h".to_owned(), server("h", "9090", "opaque"));
        assert!(servers.has_opaque());
        servers.remove("n");
        assert_eq!(found(&servers, 8080), "a");
        assert_eq!(found(&servers, 9090), "h x");
        servers.remove("h");
        assert!(!servers.has_opaque() && servers.len() == 3);
    }
}
