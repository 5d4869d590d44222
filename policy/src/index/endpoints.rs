//! What the destination service needs: the endpoints of a Service, and what stands behind an address.
//!
//! | module | what |
//! |---|---|
//! | `slices` | which endpoints a Service has: its EndpointSlices, or else its selector and what that selects |
//! | `select` | which of them a client should use |
//! | `describe` | what is said of one: identity, proxy, labels |

mod describe;
mod select;
mod slices;

pub use select::{Client, select, select_remote};

use super::{Index, Workload, WorkloadRef, annotations};
use crate::{
    ports::PortSet,
    resource::{Metadata, PortRef, Service, StringMap, workload::ServicePort},
};
use std::net::IpAddr;

/// The identity a client must see at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointIdentity {
    /// A DNS-like name.
    Dns(String),
    /// A SPIFFE id.
    Uri(String),
}

/// Where a request may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address.
    pub addr: IpAddr,
    /// Port of the workload.
    pub port: u16,
    /// The workload; `None` for an address of which nothing is known.
    pub workload: Option<WorkloadRef>,
    /// Its identity; `None` = it is not in the mesh, or the port does not pass its proxy.
    pub identity: Option<EndpointIdentity>,
    /// Name to ask for in the ClientHello; present exactly when `identity` is.
    pub server_name: Option<String>,
    /// Whether its proxy may be spoken to (protocol hints); true also without an identity, for a pod of another
    /// control plane.
    pub meshed: bool,
    /// Whether the port carries bytes rather than HTTP.
    pub opaque: bool,
    /// Where its proxy accepts traffic with a transport header; `None` if it has none, or for the proxy's own ports.
    pub inbound_port: Option<u16>,
    /// The authority that requests get, for gateways of other clusters.
    pub authority_override: Option<String>,
    /// Metric labels: `pod`, the owner's kind, `serviceaccount`, `zone` ...; `zone_locality` depends on who asks.
    pub labels: StringMap,
    /// Name below its Service (`web-0` of `web-0.web.shop.svc`), if it has one of its own.
    pub hostname: Option<String>,
    /// Zone, if known.
    pub zone: Option<String>,
    /// Zones whose clients should use it; empty = no hint.
    pub hints: Vec<String>,
    /// Node, if known, for `internalTrafficPolicy: Local`.
    pub node: Option<String>,
    /// Share of the traffic.
    pub weight: u32,
}

/// More than one object has an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {} {what} {addr}", .names.len())]
pub struct AmbiguousAddress {
    /// `services with conflicting cluster IP` or `workloads with conflicting IP`.
    pub what: &'static str,
    /// The address.
    pub addr: IpAddr,
    /// Who has it, as `namespace/name`.
    pub names: Vec<String>,
}

impl Index {
    /// The workload that has an address, as an endpoint of `port`. Pods that have ended do not count; a node's address
    /// counts for a pod that maps `port` to one of its own.
    pub fn workload_by_ip(
        &self,
        ip: IpAddr,
        port: u16,
    ) -> Result<Option<Endpoint>, AmbiguousAddress> {
        let ip = ip.to_canonical();
        let holders = self.holders(ip).into_iter().flat_map(|h| &h.workloads);
        let found: Vec<_> = holders
            .filter_map(|reference| {
                let part = self.part(reference.namespace());
                let workload = part.workload(reference)?;
                Some((part, workload, behind_address(workload, ip, port)?))
            })
            .collect();
        match found.as_slice() {
            [] => Ok(None),
            [(part, workload, port)] => Ok(Some(self.endpoint(*part, workload, ip, *port))),
            many => {
                let metadata = many.iter().map(|(_, w, _)| w.metadata());
                Err(ambiguous("workloads with conflicting IP", ip, metadata))
            }
        }
    }

    /// A workload that a Service selects, ready or not, as an endpoint of `port`; for names such as `web-0.web.shop.svc`.
    pub fn instance(&self, service: &str, workload: &WorkloadRef, port: u16) -> Option<Endpoint> {
        let selector = self.service(workload.namespace(), service)?.selector()?;
        let labels = &self.workload(workload)?.metadata().labels;
        let is_selected = selector.matches(labels);
        is_selected.then(|| self.workload_endpoint(workload, port))?
    }

    /// A pod or external workload as an endpoint of `port`, by its first address.
    pub fn workload_endpoint(&self, workload: &WorkloadRef, port: u16) -> Option<Endpoint> {
        let part = self.part(workload.namespace());
        let workload = part.workload(workload)?;
        let addr = *workload.addresses().first()?;
        Some(self.endpoint(part, workload, addr, port))
    }

    /// The Service that has a cluster IP.
    pub fn service_by_ip(&self, ip: IpAddr) -> Result<Option<&Service>, AmbiguousAddress> {
        let ip = ip.to_canonical();
        let holders = self.holders(ip).into_iter().flat_map(|h| &h.services);
        let found: Vec<&Service> = holders
            .filter_map(|(namespace, name)| self.service(namespace, name))
            .collect();
        match found.as_slice() {
            [] => Ok(None),
            [service] => Ok(Some(service)),
            many => Err(ambiguous(
                "services with conflicting cluster IP",
                ip,
                many.iter().map(|s| &s.metadata),
            )),
        }
    }

    /// Opaque ports of a Service: what its own or its namespace's annotation says (port names understood), else the
    /// cluster's defaults.
    pub fn service_opaque_ports(&self, service: &Service) -> PortSet {
        let key = annotations::OPAQUE_PORTS;
        let metadata = &service.metadata;
        let inherited = || self.part(&metadata.namespace).annotations().get(key);
        let Some(list) = metadata.annotations.get(key).or_else(inherited) else {
            return self.cluster().default_opaque_ports.clone();
        };
        let named = |name: &str| {
            let ports = service.spec.ports.iter();
            let named = ports.filter(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.port).collect()
        };
        PortSet::parse_with_names(list, named).0
    }
}

/// Name of a workload below a Service: pods that name the Service as their subdomain, and every external workload of
/// a headless Service.
fn hostname(service: &Service, workload: &Workload) -> Option<String> {
    match workload {
        Workload::Pod(pod) => {
            let ours = pod.spec.subdomain == service.metadata.name;
            (ours && !pod.spec.hostname.is_empty()).then(|| pod.spec.hostname.clone())
        }
        Workload::ExternalWorkload(external) => service
            .cluster_ips()
            .is_empty()
            .then(|| external.metadata.name.clone()),
    }
}

/// The port of a workload behind a Service's port; `None` if the workload does not have it.
pub(crate) fn target_port(
    workload: &Workload,
    declared: Option<&ServicePort>,
    port: u16,
) -> Option<u16> {
    let target = match declared.map(|d| (&d.target_port, d.port)) {
        None => port,
        Some((None, own)) => own,
        Some((Some(PortRef::Number(number)), _)) => *number,
        Some((Some(PortRef::Name(name)), _)) => *workload.ports_named(name).first()?,
    };
    // Pods need not declare their ports; an external workload without the port is not behind the Service.
    let serves = matches!(workload, Workload::Pod(_))
        || workload.declared_ports().iter().any(|(p, _)| *p == target);
    serves.then_some(target)
}

/// The port of a workload behind an address and port.
fn behind_address(workload: &Workload, ip: IpAddr, port: u16) -> Option<u16> {
    match workload {
        Workload::ExternalWorkload(external) => {
            let ports = workload.declared_ports();
            let serves = ports.iter().any(|(p, _)| *p == port);
            let has = external.spec.workload_ips.iter().any(|i| i.ip == ip);
            (has && serves).then_some(port)
        }
        Workload::Pod(pod) if pod.is_terminal() => None,
        Workload::Pod(pod) if !pod.spec.host_network && pod.addresses().contains(&ip) => Some(port),
        Workload::Pod(pod) => {
            let on_node = pod.status.host_ip == Some(ip);
            let mapped = || pod.tcp_ports().find(|p| p.host_port == Some(port));
            on_node.then(mapped)?.map(|p| p.container_port)
        }
    }
}

fn ambiguous<'a>(
    what: &'static str,
    addr: IpAddr,
    objects: impl Iterator<Item = &'a Metadata>,
) -> AmbiguousAddress {
    let name = |m: &Metadata| format!("{}/{}", m.namespace, m.name);
    AmbiguousAddress {
        what,
        addr,
        names: objects.map(name).collect(),
    }
}
