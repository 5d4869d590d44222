//! What the destination service needs: the endpoints of a Service, and what stands behind an address.
//!
//! Endpoints are derived from the Service's selector and from the Pods and ExternalWorkloads of its namespace.

use super::{Index, Scope, Workload, WorkloadRef, annotations, workload::Settings};
use crate::{
    ports::PortSet,
    resource::{Metadata, Pod, PortRef, ProxyProtocol, Service, StringMap, workload::ServicePort},
};
use std::net::IpAddr;

/// Weight of every endpoint, as the API sends it.
const WEIGHT: u32 = 10_000;
/// Where a proxy accepts traffic if the workload's manifest says nothing else.
const INBOUND_PORT: u16 = 4143;
/// Label of a pod's zone, and of an external workload's.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Label of pods that have a proxy; its value is the namespace of their control plane.
const CONTROL_PLANE_LABEL: &str = "linkerd.io/control-plane-ns";

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
    /// The workload.
    pub workload: WorkloadRef,
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
    /// Metric labels: `pod`, the owner's kind, `serviceaccount`, `zone` ...; `zone_locality` depends on who asks.
    pub labels: StringMap,
    /// Name below its Service (`web-0` of `web-0.web.shop.svc`), if it has one of its own.
    pub hostname: Option<String>,
    /// Zone, if known.
    pub zone: Option<String>,
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
    /// Ready endpoints of a port of a Service, by workload and address. A port that the Service does not declare is
    /// used as the port of its endpoints. `None` if there is no such Service.
    pub fn endpoints(&self, namespace: &str, service: &str, port: u16) -> Option<Vec<Endpoint>> {
        let scope = self.scope(namespace)?;
        let service = scope.services.get(service)?;
        let Some(selector) = service.selector() else {
            return Some(Vec::new());
        };
        let declared = service.port(port);
        let mut out = Vec::new();
        for workload in scope.workloads().filter(|w| w.is_ready()) {
            if !selector.matches(&workload.metadata().labels) {
                continue;
            }
            let Some(port) = target_port(workload, declared, port) else {
                continue;
            };
            let hostname = hostname(service, workload);
            for addr in workload.addresses() {
                out.push(Endpoint {
                    hostname: hostname.clone(),
                    ..self.endpoint(scope, workload, addr, port)
                });
            }
        }
        Some(out)
    }

    /// The workload that has an address, as an endpoint of `port`. Pods that share their node's network or have ended
    /// do not count; a node's address counts for a pod that maps `port` to one of its own.
    pub fn workload_by_ip(
        &self,
        ip: IpAddr,
        port: u16,
    ) -> Result<Option<Endpoint>, AmbiguousAddress> {
        let ip = ip.to_canonical();
        let mut found = Vec::new();
        for (_, scope) in self.scopes() {
            for workload in scope.workloads() {
                if let Some(port) = behind_address(workload, ip, port) {
                    found.push((scope, workload, port));
                }
            }
        }
        match found.as_slice() {
            [] => Ok(None),
            [(scope, workload, port)] => Ok(Some(self.endpoint(scope, workload, ip, *port))),
            many => {
                let metadata = many.iter().map(|(_, w, _)| w.metadata());
                Err(ambiguous("workloads with conflicting IP", ip, metadata))
            }
        }
    }

    /// A pod or external workload as an endpoint of `port`, by its first address; for names such as
    /// `web-0.web.shop.svc`.
    pub fn workload_endpoint(&self, workload: &WorkloadRef, port: u16) -> Option<Endpoint> {
        let scope = self.scope(workload.namespace())?;
        let workload = scope.workload(workload)?;
        let addr = *workload.addresses().first()?;
        Some(self.endpoint(scope, workload, addr, port))
    }

    /// The Service that has a cluster IP.
    pub fn service_by_ip(&self, ip: IpAddr) -> Result<Option<&Service>, AmbiguousAddress> {
        let ip = ip.to_canonical();
        let found: Vec<&Service> = self
            .services()
            .filter(|s| s.cluster_ips().contains(&ip))
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
        let inherited = || self.scope(&metadata.namespace)?.annotations.get(key);
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

    fn endpoint(&self, scope: &Scope, workload: &Workload, addr: IpAddr, port: u16) -> Endpoint {
        let settings = Settings {
            cluster: self.cluster(),
            scope,
            workload,
        };
        let skipped = settings.skips(port);
        let opaque = self.is_opaque(settings, port);
        let mut endpoint = Endpoint {
            addr,
            port,
            workload: workload.reference(),
            identity: None,
            server_name: None,
            meshed: false,
            opaque,
            inbound_port: None,
            labels: StringMap::new(),
            hostname: None,
            zone: workload.metadata().labels.get(ZONE_LABEL).cloned(),
            node: None,
            weight: WEIGHT,
        };
        match workload {
            Workload::Pod(pod) => self.describe_pod(&mut endpoint, pod, skipped),
            Workload::ExternalWorkload(external) => {
                let name = &external.spec.mesh_tls.identity;
                endpoint.meshed = !skipped;
                if !skipped {
                    let name = name.clone();
                    endpoint.identity = Some(if name.starts_with("spiffe://") {
                        EndpointIdentity::Uri(name)
                    } else {
                        EndpointIdentity::Dns(name)
                    });
                    endpoint.server_name = Some(external.spec.mesh_tls.server_name.clone());
                    let inbound = external.port_named("linkerd-proxy");
                    endpoint.inbound_port = Some(inbound.unwrap_or(INBOUND_PORT));
                }
                let labels = &mut endpoint.labels;
                let name = external.metadata.name.clone();
                labels.insert("external_workload".to_owned(), name);
                owner_labels(labels, &external.metadata);
            }
        }
        let zone = endpoint.zone.clone().unwrap_or_default();
        endpoint.labels.insert("zone".to_owned(), zone);
        endpoint
    }

    fn describe_pod(&self, endpoint: &mut Endpoint, pod: &Pod, skipped: bool) {
        let control_plane = pod.metadata.labels.get(CONTROL_PLANE_LABEL);
        let cluster = self.cluster();
        endpoint.meshed = control_plane.is_some() && !skipped;
        let ours = control_plane == Some(&cluster.control_plane_namespace);
        if ours && !skipped && !cluster.trust_domain.is_empty() {
            let namespace = &pod.metadata.namespace;
            let name = cluster.service_account_identity(namespace, pod.service_account());
            endpoint.server_name = Some(name.clone());
            endpoint.identity = Some(EndpointIdentity::Dns(name));
        }
        if endpoint.meshed && !is_proxy_port(pod, endpoint.port) {
            let env = proxy_port(pod, "LINKERD2_PROXY_INBOUND_LISTEN_ADDR");
            endpoint.inbound_port = Some(env.unwrap_or(INBOUND_PORT));
        }
        if !pod.spec.node_name.is_empty() {
            endpoint.node = Some(pod.spec.node_name.clone());
        }
        let labels = &mut endpoint.labels;
        let mut put = |key: &str, value: &str| {
            labels.insert(key.to_owned(), value.to_owned());
        };
        put("pod", &pod.metadata.name);
        put("serviceaccount", pod.service_account());
        if let Some(namespace) = control_plane {
            put("control_plane_ns", namespace);
        }
        if let Some(hash) = pod.metadata.labels.get("pod-template-hash") {
            put("pod_template_hash", hash);
        }
        owner_labels(labels, &pod.metadata);
    }

    /// Whether a port carries bytes: the Server that keeps it says so, or the workload's annotation or the defaults.
    fn is_opaque(&self, settings: Settings<'_>, port: u16) -> bool {
        let server = self.server_of(settings, port);
        if server.is_some_and(|s| s.spec.proxy_protocol == ProxyProtocol::Opaque) {
            return true;
        }
        match settings.ports(annotations::OPAQUE_PORTS) {
            Some((ports, _)) => ports.contains(port),
            None => settings.cluster.default_opaque_ports.contains(port),
        }
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
        Workload::Pod(pod) if pod.is_terminal() || pod.spec.host_network => None,
        Workload::Pod(pod) if pod.addresses().contains(&ip) => Some(port),
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

/// A port of the pod's proxy, from its container's environment.
fn proxy_port(pod: &Pod, variable: &str) -> Option<u16> {
    let proxy = pod.containers().find(|c| c.name == "linkerd-proxy")?;
    let value = proxy
        .env
        .iter()
        .find(|e| e.name == variable)?
        .value
        .as_ref()?;
    value.rsplit(':').next()?.parse().ok()
}

/// Whether a port is the control or admin port of the pod's proxy, which take no transport header.
fn is_proxy_port(pod: &Pod, port: u16) -> bool {
    [
        "LINKERD2_PROXY_CONTROL_LISTEN_ADDR",
        "LINKERD2_PROXY_ADMIN_LISTEN_ADDR",
    ]
    .iter()
    .any(|variable| proxy_port(pod, variable) == Some(port))
}

/// Adds the label of the object's owner, for example `deployment`. What a Deployment or CronJob owns is named after
/// it: a ReplicaSet by the pod template's hash, a Job by the time of its run.
fn owner_labels(labels: &mut StringMap, metadata: &Metadata) {
    let Some(owner) = metadata.owners.iter().find(|o| o.controller) else {
        return;
    };
    let kind = owner.kind.to_ascii_lowercase();
    let hash = metadata.labels.get("pod-template-hash");
    let without = |suffix: Option<&str>| {
        let name = owner.name.strip_suffix(suffix?)?.strip_suffix('-')?;
        (!name.is_empty()).then(|| name.to_owned())
    };
    let deployment = without(hash.map(String::as_str));
    let run = owner.name.rsplit('-').next();
    let is_run = |s: &&str| s.len() >= 8 && s.bytes().all(|b| b.is_ascii_digit());
    let cronjob = without(run.filter(is_run));
    let (kind, name) = match (kind.as_str(), deployment, cronjob) {
        ("replicaset", Some(name), _) => ("deployment", name),
        ("job", _, Some(name)) => ("cronjob", name),
        ("job", _, None) => ("k8s_job", owner.name.clone()),
        (kind, ..) => (kind, owner.name.clone()),
    };
    labels.insert(kind.to_owned(), name);
}
