//! What is said of one workload as an endpoint: identity, proxy, labels. Source: control plane §4.4.

use super::{Endpoint, EndpointIdentity};
use crate::{
    index::{Index, Part, Workload, annotations, servers, store::ZONE_LABEL, workload::Settings},
    resource::{IntermediateKind, Metadata, OwnerReference, Pod, StringMap},
};
use std::net::IpAddr;

/// Weight of every endpoint, as the API sends it.
const WEIGHT: u32 = 10_000;
/// Where a proxy accepts traffic if the workload's manifest says nothing else.
const INBOUND_PORT: u16 = 4143;
/// Label of pods that have a proxy; its value is the namespace of their control plane.
const CONTROL_PLANE_LABEL: &str = "linkerd.io/control-plane-ns";

impl Endpoint {
    /// An endpoint of which nothing is known but its address.
    pub(super) fn bare(addr: IpAddr, port: u16) -> Self {
        Self {
            addr,
            port,
            workload: None,
            identity: None,
            server_name: None,
            meshed: false,
            opaque: false,
            inbound_port: None,
            authority_override: None,
            labels: StringMap::new(),
            hostname: None,
            zone: None,
            hints: Vec::new(),
            node: None,
            weight: WEIGHT,
        }
    }

    /// Puts it into a zone.
    pub(super) fn in_zone(mut self, zone: Option<String>) -> Self {
        let label = zone.clone().unwrap_or_default();
        self.labels.insert("zone".to_owned(), label);
        self.zone = zone;
        self
    }
}

impl Index {
    /// A workload as an endpoint. Its zone is that of its node, or what its own label says.
    pub(super) fn endpoint(
        &self,
        part: Part<'_>,
        workload: &Workload,
        addr: IpAddr,
        port: u16,
    ) -> Endpoint {
        let settings = Settings {
            cluster: self.cluster(),
            part,
            workload,
        };
        let skipped = settings.skips(port);
        let opaque = self.is_opaque(settings, port);
        let mut endpoint = Endpoint {
            workload: Some(workload.reference()),
            opaque,
            ..Endpoint::bare(addr, port)
        };
        match workload {
            Workload::Pod(pod) => self.describe_pod(&mut endpoint, part, pod, skipped),
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
                owner_labels(labels, part, &external.metadata);
            }
        }
        let of_node = endpoint.node.as_deref().and_then(|n| self.node_zone(n));
        let of_label = || workload.metadata().labels.get(ZONE_LABEL);
        let zone = of_node.map(str::to_owned).or_else(|| of_label().cloned());
        endpoint.in_zone(zone)
    }

    fn describe_pod(&self, endpoint: &mut Endpoint, part: Part<'_>, pod: &Pod, skipped: bool) {
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
        owner_labels(labels, part, &pod.metadata);
    }

    /// Whether a port carries bytes: the Server that keeps it says so, or the workload's annotation or the defaults.
    fn is_opaque(&self, settings: Settings<'_>, port: u16) -> bool {
        // Most namespaces have no such Server, and then none needs to be looked for.
        let may_be = settings.part.has_opaque_server();
        let keeper = || settings.part.keeper(settings.workload, port);
        let server = may_be.then(keeper).flatten();
        if server.is_some_and(servers::is_opaque) {
            return true;
        }
        match settings.ports(annotations::OPAQUE_PORTS) {
            Some((ports, _)) => ports.contains(port),
            None => settings.cluster.default_opaque_ports.contains(port),
        }
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

/// Adds the label of who owns an object, for example `deployment`: the owner of its ReplicaSet or Job, where that has
/// one.
fn owner_labels(labels: &mut StringMap, part: Part<'_>, metadata: &Metadata) {
    let Some(owner) = metadata.owners.iter().find(|o| o.controller) else {
        return;
    };
    let between = IntermediateKind::named(&owner.kind);
    let known = between.and_then(|kind| part.owner(kind, &owner.name));
    let (kind, name) = match known {
        Some(Some((kind, name))) => (kind.clone(), name.clone()),
        Some(None) => (owner.kind.clone(), owner.name.clone()),
        None => guessed(owner, metadata),
    };
    let key = match kind.to_ascii_lowercase() {
        job if job == "job" => "k8s_job".to_owned(),
        kind => kind,
    };
    labels.insert(key, name);
}

/// The owner of a ReplicaSet or Job that is not known: what a Deployment or CronJob makes is named after it, a
/// ReplicaSet with the pod template's hash, a Job with the time of its run.
fn guessed(owner: &OwnerReference, metadata: &Metadata) -> (String, String) {
    let without = |suffix: &str| {
        let name = owner.name.strip_suffix(suffix)?.strip_suffix('-')?;
        (!name.is_empty()).then(|| name.to_owned())
    };
    let made = match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = metadata.labels.get("pod-template-hash");
            Some("Deployment").zip(hash.and_then(|hash| without(hash)))
        }
        "Job" => {
            let run = owner.name.rsplit('-').next();
            let is_time = |s: &&str| s.len() >= 8 && s.bytes().all(|b| b.is_ascii_digit());
            Some("CronJob").zip(run.filter(is_time).and_then(without))
        }
        _ => None,
    };
    let made = made.map(|(kind, name)| (kind.to_owned(), name));
    made.unwrap_or_else(|| (owner.kind.clone(), owner.name.clone()))
}
