//! Which endpoints a Service has. Source: control plane §4.3, §4.6.
//!
//! What EndpointSlices say counts. A Service without any has those that its selector finds among Pods; and those among
//! ExternalWorkloads that no slice speaks of, or not yet.

use super::{Endpoint, EndpointIdentity, hostname, target_port};
use crate::{
    index::{Index, Part, Workload, WorkloadRef},
    resource::{
        EndpointSlice, Service,
        discovery::{SliceEndpoint, TargetRef},
        workload::{ServicePort, is_tcp},
    },
};
use std::{collections::BTreeSet, net::IpAddr};

/// Annotations of a slice whose endpoints are gateways of another cluster: their identity, and the Service behind them.
const GATEWAY_IDENTITY: &str = "mirror.linkerd.io/remote-gateway-identity";
const REMOTE_SERVICE: &str = "mirror.linkerd.io/remote-svc-fq-name";

impl Index {
    /// Ready endpoints of a port of a Service. A port that the Service does not declare is used as the port of its
    /// endpoints. `None` if there is no such Service.
    pub fn endpoints(&self, namespace: &str, service: &str, port: u16) -> Option<Vec<Endpoint>> {
        let part = self.part(namespace);
        let service = part.service(service)?;
        let declared = service.port(port);
        let slices = part.slices(&service.metadata.name);
        let mut out = Vec::new();
        for slice in slices.into_iter().flat_map(|slices| slices.values()) {
            self.of_slice(&mut out, part, slice, declared, port);
        }
        let Some(selector) = service.selector() else {
            return Some(out);
        };
        let pods = slices.is_none().then(|| part.pods().values());
        let written = slices.into_iter().flat_map(|slices| slices.values());
        let written = written.filter(|slice| slice.is_of_external_workloads());
        let written: BTreeSet<&str> = written.flat_map(|slice| named_in(slice)).collect();
        let external = part.external_workloads().iter();
        let external = external.filter(|(name, _)| !written.contains(name.as_str()));
        let workloads = pods.into_iter().flatten();
        let workloads = workloads.chain(external.map(|(_, workload)| workload));
        let workloads = workloads.filter(|w| selector.matches(&w.metadata().labels));
        self.selector_finds(&mut out, part, service, workloads, port);
        Some(out)
    }

    /// Adds the ready endpoints of a slice.
    fn of_slice(
        &self,
        out: &mut Vec<Endpoint>,
        part: Part<'_>,
        slice: &EndpointSlice,
        declared: Option<&ServicePort>,
        port: u16,
    ) {
        let Some(target) = slice_port(slice, declared, port) else {
            return;
        };
        let ready = |e: &&SliceEndpoint| e.conditions.ready != Some(false);
        for entry in slice.endpoints.iter().filter(ready) {
            let Some(addr) = entry.addresses.first() else {
                continue;
            };
            let found = match &entry.target_ref {
                Some(reference) => self.referred(part, slice, reference, *addr, target),
                None => Some(self.at_address(slice, *addr, target, port)),
            };
            let Some(found) = found else {
                continue;
            };
            let node = entry.node_name.clone();
            let of_node = || {
                found
                    .zone
                    .clone()
                    .or_else(|| self.zone_of_node(node.as_deref()))
            };
            let zone = entry.zone.clone().or_else(of_node);
            let hints = entry.hints.for_zones.iter().map(|zone| zone.name.clone());
            out.push(Endpoint {
                hostname: entry.hostname.clone().filter(|name| !name.is_empty()),
                hints: hints.collect(),
                node: found.node.clone().or(node),
                ..found.in_zone(zone)
            });
        }
    }

    /// The workload that a slice refers to. One that is not known is left out, since without its identity it would be
    /// sent plaintext.
    fn referred(
        &self,
        part: Part<'_>,
        slice: &EndpointSlice,
        reference: &TargetRef,
        addr: IpAddr,
        port: u16,
    ) -> Option<Endpoint> {
        let own = &slice.metadata.namespace;
        let namespace = reference.namespace.as_ref().unwrap_or(own);
        let (ns, name) = (namespace.clone(), reference.name.clone());
        let workload = match reference.kind.as_str() {
            "Pod" => WorkloadRef::Pod { ns, pod: name },
            "ExternalWorkload" => WorkloadRef::ExternalWorkload { ns, name },
            _ => return None,
        };
        let part = if namespace == own {
            part
        } else {
            self.part(namespace)
        };
        Some(self.endpoint(part, part.workload(&workload)?, addr, port))
    }

    /// What is at an address that refers to nothing: the workload that has it, if there is one. Who writes the slices of
    /// a Service without a selector need not know of Pods. In a gateway's slice the address is the gateway's.
    fn at_address(&self, slice: &EndpointSlice, addr: IpAddr, target: u16, port: u16) -> Endpoint {
        if gateway_identity(slice).is_none()
            && let Ok(Some(found)) = self.workload_by_ip(addr, target)
            && found.port == target
        {
            return found;
        }
        bare(slice, addr, target, port)
    }

    /// Adds those of the workloads that a Service selects which are ready.
    fn selector_finds<'a>(
        &self,
        out: &mut Vec<Endpoint>,
        part: Part<'_>,
        service: &Service,
        workloads: impl Iterator<Item = &'a Workload>,
        port: u16,
    ) {
        let declared = service.port(port);
        for workload in workloads {
            let is_ready = workload.is_ready() || publishes(service, workload);
            if !is_ready {
                continue;
            }
            let Some(port) = target_port(workload, declared, port) else {
                continue;
            };
            let hostname = hostname(service, workload);
            for addr in workload.addresses() {
                out.push(Endpoint {
                    hostname: hostname.clone(),
                    ..self.endpoint(part, workload, addr, port)
                });
            }
        }
    }

    fn zone_of_node(&self, node: Option<&str>) -> Option<String> {
        self.node_zone(node?).map(str::to_owned)
    }
}

/// The ExternalWorkloads that a slice speaks of.
fn named_in(slice: &EndpointSlice) -> impl Iterator<Item = &str> {
    let references = slice.endpoints.iter().filter_map(|e| e.target_ref.as_ref());
    references.map(|reference| reference.name.as_str())
}

/// Whether a Service counts a Pod as ready that says it is not.
fn publishes(service: &Service, workload: &Workload) -> bool {
    service.spec.publish_not_ready_addresses
        && matches!(workload, Workload::Pod(pod) if !pod.is_terminal())
}

/// The port of a slice's endpoints behind a Service's port: the one of the same name. `None` if they do not have it.
fn slice_port(slice: &EndpointSlice, declared: Option<&ServicePort>, port: u16) -> Option<u16> {
    let Some(declared) = declared else {
        return Some(port);
    };
    let name = declared.name.as_deref().unwrap_or_default();
    let mut ports = slice.ports.iter();
    let found = ports.find(|p| p.name == name && is_tcp(p.protocol.as_deref()))?;
    Some(found.port.unwrap_or(port))
}

/// The identity of the gateways of another cluster, where a slice is of such.
fn gateway_identity(slice: &EndpointSlice) -> Option<&String> {
    let identity = slice.metadata.annotations.get(GATEWAY_IDENTITY);
    identity.filter(|identity| !identity.is_empty())
}

/// An endpoint that refers to nothing: an address, or a gateway of another cluster.
fn bare(slice: &EndpointSlice, addr: IpAddr, target: u16, port: u16) -> Endpoint {
    let mut endpoint = Endpoint::bare(addr, target);
    if let Some(identity) = gateway_identity(slice) {
        endpoint.meshed = true;
        endpoint.identity = Some(EndpointIdentity::Dns(identity.clone()));
        let service = slice.metadata.annotations.get(REMOTE_SERVICE);
        endpoint.authority_override = service.map(|name| format!("{name}:{port}"));
    }
    endpoint
}
