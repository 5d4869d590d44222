//! Workloads and what finds them: Pod, ExternalWorkload, Service, Namespace. Fields that decide nothing here are read
//! past, since clusters add new ones all the time.

use super::{LabelSelector, Metadata, Object, PortRef, StringMap, values};
use serde::Deserialize;
use std::net::IpAddr;

/// core/v1 Namespace: its annotations are defaults of its workloads.
pub type Namespace = Object<()>;

/// core/v1 Pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Metadata.
    pub metadata: Metadata,
    /// Specification.
    pub spec: PodSpec,
    /// Status as the manifest or the API server states it.
    pub status: PodStatus,
}

/// What of a pod's specification matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Containers.
    #[serde(default, deserialize_with = "values::or_default")]
    pub containers: Vec<Container>,
    /// Init containers, among them native sidecars.
    #[serde(default, deserialize_with = "values::or_default")]
    pub init_containers: Vec<Container>,
    /// Service account; empty = `default`.
    #[serde(default, deserialize_with = "values::or_default")]
    pub service_account_name: String,
    /// Node it runs on.
    #[serde(default, deserialize_with = "values::or_default")]
    pub node_name: String,
    /// Host name; with `subdomain` it makes a DNS name of its own below the headless Service of that name.
    #[serde(default, deserialize_with = "values::or_default")]
    pub hostname: String,
    /// Name of the headless Service.
    #[serde(default, deserialize_with = "values::or_default")]
    pub subdomain: String,
    /// Whether it shares its node's network.
    #[serde(default, deserialize_with = "values::or_default")]
    pub host_network: bool,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Name.
    pub name: String,
    /// Ports it declares.
    #[serde(default, deserialize_with = "values::or_default")]
    pub ports: Vec<ContainerPort>,
    /// Environment; only literal values are kept.
    #[serde(default, deserialize_with = "values::or_default")]
    pub env: Vec<EnvVar>,
    /// Liveness probe.
    pub liveness_probe: Option<Probe>,
    /// Readiness probe.
    pub readiness_probe: Option<Probe>,
    /// Startup probe.
    pub startup_probe: Option<Probe>,
}

/// An environment variable of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Literal value, if it has one.
    pub value: Option<String>,
}

/// A port a container declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Number.
    #[serde(deserialize_with = "values::port")]
    pub container_port: u16,
    /// Name.
    pub name: Option<String>,
    /// `TCP` if absent.
    pub protocol: Option<String>,
    /// The same port on the node, if mapped.
    pub host_port: Option<u16>,
}

/// A probe of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// An HTTP GET.
    pub http_get: Option<HttpGet>,
    /// A gRPC health check.
    pub grpc: Option<GrpcProbe>,
    /// A connection.
    pub tcp_socket: Option<TcpProbe>,
}

/// An HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HttpGet {
    /// Path and query; `/` if absent.
    pub path: Option<String>,
    /// Port.
    pub port: PortRef,
    /// `HTTP` if absent, or `HTTPS`.
    pub scheme: Option<String>,
}

/// A gRPC health check; its method is always `/grpc.health.v1.Health/Check`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrpcProbe {
    /// Port.
    #[serde(deserialize_with = "values::port")]
    pub port: u16,
}

/// A probe that only connects.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TcpProbe {
    /// Port.
    pub port: PortRef,
}

/// What of a pod's status matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    #[serde(default, deserialize_with = "values::or_default")]
    pub phase: String,
    /// Address.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<IpAddr>,
    /// Addresses, one a family; the first equals `pod_ip`.
    #[serde(default, rename = "podIPs", deserialize_with = "values::or_default")]
    pub pod_ips: Vec<Ip>,
    /// Address of its node.
    #[serde(rename = "hostIP")]
    pub host_ip: Option<IpAddr>,
    /// Conditions.
    #[serde(default, deserialize_with = "values::or_default")]
    pub conditions: Vec<Condition>,
}

/// An address in a list of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Ip {
    /// The address.
    pub ip: IpAddr,
}

/// A condition of a status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Condition {
    /// What it says something about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

impl Pod {
    /// All containers, init containers last.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        self.spec
            .containers
            .iter()
            .chain(&self.spec.init_containers)
    }

    /// Service account, `default` if none is named.
    pub fn service_account(&self) -> &str {
        match self.spec.service_account_name.as_str() {
            "" => "default",
            name => name,
        }
    }

    /// Its addresses, without repetition.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = Vec::new();
        for ip in self
            .status
            .pod_ip
            .into_iter()
            .chain(self.status.pod_ips.iter().map(|i| i.ip))
        {
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
        all
    }

    /// TCP ports that containers declare under `name`.
    pub fn ports_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u16> + 'a {
        self.tcp_ports()
            .filter(move |p| p.name.as_deref() == Some(name))
            .map(|p| p.container_port)
    }

    /// TCP ports that containers declare.
    pub fn tcp_ports(&self) -> impl Iterator<Item = &ContainerPort> {
        self.containers()
            .flat_map(|c| &c.ports)
            .filter(|p| is_tcp(p.protocol.as_deref()))
    }

    /// Whether it has ended for good.
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether traffic may be sent to it: not ended, not being deleted, and its `Ready` condition is not `False`. A
    /// manifest without conditions counts as ready, since nobody there computes them.
    pub fn is_ready(&self) -> bool {
        !self.is_terminal()
            && self.metadata.deletion_timestamp.is_none()
            && condition(&self.status.conditions, "Ready") != Some(false)
    }
}

/// Whether a protocol field means TCP.
pub(crate) fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|p| p.is_empty() || p.eq_ignore_ascii_case("tcp"))
}

fn condition(conditions: &[Condition], kind: &str) -> Option<bool> {
    conditions
        .iter()
        .find(|c| c.kind == kind)
        .map(|c| c.status == "True")
}

/// workload.linkerd.io ExternalWorkload: a workload outside Kubernetes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExternalWorkload {
    /// Metadata.
    pub metadata: Metadata,
    /// Specification.
    pub spec: ExternalWorkloadSpec,
    /// Conditions of its status; `None` when the manifest has no status at all.
    pub conditions: Option<Vec<Condition>>,
}

/// What an ExternalWorkload specifies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalWorkloadSpec {
    /// Its identity in the mesh; spelled `meshTls` in v1alpha1.
    #[serde(rename = "meshTLS", alias = "meshTls")]
    pub mesh_tls: MeshTls,
    /// Ports it serves.
    #[serde(default, deserialize_with = "values::or_default")]
    pub ports: Vec<WorkloadPort>,
    /// Its addresses, at most two (one in v1alpha1).
    #[serde(
        default,
        rename = "workloadIPs",
        deserialize_with = "values::or_default"
    )]
    pub workload_ips: Vec<Ip>,
}

/// The identity of an external workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshTls {
    /// Identity that its certificate shows: a DNS-like name or a SPIFFE URI.
    pub identity: String,
    /// Name clients ask for in the ClientHello.
    pub server_name: String,
}

/// A port of an external workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadPort {
    /// Number.
    #[serde(deserialize_with = "values::port")]
    pub port: u16,
    /// Name, unique in the workload.
    pub name: Option<String>,
    /// `TCP` if absent.
    pub protocol: Option<String>,
}

impl ExternalWorkload {
    /// Whether traffic may be sent to it: the `Ready` condition is `True`. Without any status (a file that nothing
    /// updates) it counts as ready.
    pub fn is_ready(&self) -> bool {
        self.metadata.deletion_timestamp.is_none()
            && self
                .conditions
                .as_ref()
                .is_none_or(|c| condition(c, "Ready") == Some(true))
    }

    /// TCP port called `name`.
    pub fn port_named(&self, name: &str) -> Option<u16> {
        self.spec
            .ports
            .iter()
            .find(|p| is_tcp(p.protocol.as_deref()) && p.name.as_deref() == Some(name))
            .map(|p| p.port)
    }
}

/// core/v1 Service.
pub type Service = Object<ServiceSpec>;

/// What of a Service's specification matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Labels of its endpoints; `None` or empty = it selects nothing.
    #[serde(default, deserialize_with = "values::or_default")]
    pub selector: StringMap,
    /// Ports.
    #[serde(default, deserialize_with = "values::or_default")]
    pub ports: Vec<ServicePort>,
    /// Virtual address, or `None`.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// Virtual addresses, one a family.
    #[serde(
        default,
        rename = "clusterIPs",
        deserialize_with = "values::or_default"
    )]
    pub cluster_ips: Vec<String>,
    /// Families of its endpoints, `IPv4` and `IPv6`; none: of both.
    #[serde(default, deserialize_with = "values::or_default")]
    pub ip_families: Vec<String>,
    /// `ClusterIP` if absent, `NodePort`, `LoadBalancer`, `ExternalName`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `Cluster` if absent, or `Local`.
    pub internal_traffic_policy: Option<String>,
    /// Whether Pods count that are not ready.
    #[serde(default, deserialize_with = "values::or_default")]
    pub publish_not_ready_addresses: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Number clients use.
    #[serde(deserialize_with = "values::port")]
    pub port: u16,
    /// Name.
    pub name: Option<String>,
    /// Port of the endpoints; `port` if absent.
    pub target_port: Option<PortRef>,
    /// `TCP` if absent.
    pub protocol: Option<String>,
    /// Protocol of the application.
    pub app_protocol: Option<String>,
}

impl Object<ServiceSpec> {
    /// Virtual addresses; none for a headless Service.
    pub fn cluster_ips(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = Vec::new();
        let texts = self.spec.cluster_ip.iter().chain(&self.spec.cluster_ips);
        for ip in texts.filter_map(|text| text.parse().ok()) {
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
        all
    }

    /// Whether it is only an alias of a DNS name.
    pub fn is_external_name(&self) -> bool {
        self.spec.kind.as_deref() == Some("ExternalName")
    }

    /// The selector as labels; `None` if it selects nothing.
    pub fn selector(&self) -> Option<LabelSelector> {
        (!self.spec.selector.is_empty()).then(|| LabelSelector {
            match_labels: self.spec.selector.clone(),
            match_expressions: Vec::new(),
        })
    }

    /// The declared port with this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.spec
            .ports
            .iter()
            .find(|p| p.port == number && is_tcp(p.protocol.as_deref()))
    }
}
