//! A workload, what names it, and what its annotations (or its namespace's) say about its ports.

use super::{Cluster, Part, annotations};
use crate::{
    default_policy::DefaultPolicy,
    ports::{InvalidPorts, PortSet},
    resource::{ExternalWorkload, Metadata, Pod, PortRef, workload::is_tcp},
};
use serde::Deserialize;
use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

/// Names a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkloadRef {
    /// A pod.
    Pod {
        /// Namespace.
        ns: String,
        /// Name.
        pod: String,
    },
    /// A workload outside Kubernetes.
    ExternalWorkload {
        /// Namespace.
        ns: String,
        /// Name.
        name: String,
    },
}

/// A workload token that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid workload: {0}")]
pub struct InvalidWorkload(pub String);

impl WorkloadRef {
    /// Namespace.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Pod { ns, .. } | Self::ExternalWorkload { ns, .. } => ns,
        }
    }

    /// Name of the pod or external workload.
    pub fn name(&self) -> &str {
        match self {
            Self::Pod { pod, .. } => pod,
            Self::ExternalWorkload { name, .. } => name,
        }
    }
}

impl FromStr for WorkloadRef {
    type Err = InvalidWorkload;

    /// `ns:pod`, `{"ns":..,"pod":..}` or `{"ns":..,"external_workload":..}`.
    fn from_str(token: &str) -> Result<Self, InvalidWorkload> {
        #[derive(Deserialize)]
        struct Token {
            ns: String,
            pod: Option<String>,
            external_workload: Option<String>,
        }
        let refuse = || InvalidWorkload(crate::resource::values::short(token));
        let workload = if token.starts_with('{') {
            let token: Token = serde_json::from_str(token).map_err(|_| refuse())?;
            match (token.pod, token.external_workload) {
                (Some(pod), None) => Self::Pod { ns: token.ns, pod },
                (None, Some(name)) => Self::ExternalWorkload { ns: token.ns, name },
                _ => return Err(refuse()),
            }
        } else {
            let (ns, pod) = token.split_once(':').ok_or_else(refuse)?;
            if pod.contains(':') {
                return Err(refuse());
            }
            Self::Pod {
                ns: ns.to_owned(),
                pod: pod.to_owned(),
            }
        };
        if workload.namespace().is_empty() || workload.name().is_empty() {
            return Err(refuse());
        }
        Ok(workload)
    }
}

impl fmt::Display for WorkloadRef {
    /// As the API's token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { ns, pod } => write!(f, "{ns}:{pod}"),
            Self::ExternalWorkload { ns, name } => {
                write!(
                    f,
                    "{}",
                    serde_json::json!({"ns": ns, "external_workload": name})
                )
            }
        }
    }
}

/// A pod or a workload outside Kubernetes.
#[derive(Clone, Debug, PartialEq)]
pub enum Workload {
    /// A pod.
    Pod(Arc<Pod>),
    /// A workload outside Kubernetes.
    ExternalWorkload(Arc<ExternalWorkload>),
}

impl Workload {
    /// What every object has.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Pod(pod) => &pod.metadata,
            Self::ExternalWorkload(external) => &external.metadata,
        }
    }

    /// What names it.
    pub fn reference(&self) -> WorkloadRef {
        let Metadata {
            namespace, name, ..
        } = self.metadata();
        match self {
            Self::Pod(_) => WorkloadRef::Pod {
                ns: namespace.clone(),
                pod: name.clone(),
            },
            Self::ExternalWorkload(_) => WorkloadRef::ExternalWorkload {
                ns: namespace.clone(),
                name: name.clone(),
            },
        }
    }

    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Pod(pod) => pod.addresses(),
            Self::ExternalWorkload(external) => {
                external.spec.workload_ips.iter().map(|i| i.ip).collect()
            }
        }
    }

    /// Whether traffic may be sent to it.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Pod(pod) => pod.is_ready(),
            Self::ExternalWorkload(external) => external.is_ready(),
        }
    }

    /// TCP ports it declares, with their names.
    pub fn declared_ports(&self) -> Vec<(u16, Option<&str>)> {
        match self {
            Self::Pod(pod) => pod
                .tcp_ports()
                .map(|p| (p.container_port, p.name.as_deref()))
                .collect(),
            Self::ExternalWorkload(external) => external
                .spec
                .ports
                .iter()
                .filter(|p| is_tcp(p.protocol.as_deref()))
                .map(|p| (p.port, p.name.as_deref()))
                .collect(),
        }
    }

    /// TCP ports it declares under this name.
    pub fn ports_named(&self, name: &str) -> Vec<u16> {
        let ports = self.declared_ports().into_iter();
        ports
            .filter(|(_, n)| *n == Some(name))
            .map(|(p, _)| p)
            .collect()
    }

    /// Whether a Server's port is this port of the workload. A number need not be declared.
    pub(crate) fn is_port(&self, wanted: &PortRef, port: u16) -> bool {
        match wanted {
            PortRef::Number(number) => *number == port,
            PortRef::Name(name) => self.ports_named(name).contains(&port),
        }
    }
}

/// A workload with where its settings come from.
#[derive(Clone, Copy)]
pub(crate) struct Settings<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) part: Part<'a>,
    pub(crate) workload: &'a Workload,
}

impl<'a> Settings<'a> {
    /// An annotation of the workload, else of its namespace.
    pub(crate) fn annotation(&self, key: &str) -> Option<&'a str> {
        let own = self.workload.metadata().annotations.get(key);
        own.or_else(|| self.part.annotations().get(key))
            .map(String::as_str)
    }

    /// The default policy; of what is not a policy's name the next place down counts.
    pub(crate) fn default_policy(&self) -> DefaultPolicy {
        let key = annotations::DEFAULT_INBOUND_POLICY;
        let own = self.workload.metadata().annotations.get(key);
        let inherited = self.part.annotations().get(key);
        own.and_then(|p| p.trim().parse().ok())
            .or_else(|| inherited.and_then(|p| p.trim().parse().ok()))
            .unwrap_or(self.cluster.default_policy)
    }

    /// Ports of an annotation; `None` if nobody says anything.
    pub(crate) fn ports(&self, key: &str) -> Option<(PortSet, Vec<InvalidPorts>)> {
        let list = self.annotation(key)?;
        Some(PortSet::parse_with_names(list, |name| {
            self.workload.ports_named(name)
        }))
    }

    /// Ports without protocol detection: what the annotation says, else those default ports that are declared.
    pub(crate) fn opaque_ports(&self) -> PortSet {
        let declared = || {
            let ports = self.workload.declared_ports().into_iter().map(|(p, _)| p);
            ports
                .filter(|p| self.cluster.default_opaque_ports.contains(*p))
                .collect()
        };
        self.ports(annotations::OPAQUE_PORTS)
            .map_or_else(declared, |(ports, _)| ports)
    }

    /// Whether the port's default policy asks for an identity.
    pub(crate) fn requires_identity(&self, port: u16) -> bool {
        self.ports(annotations::REQUIRE_IDENTITY)
            .is_some_and(|(ports, _)| ports.contains(port))
    }

    /// Whether the port does not pass the proxy.
    pub(crate) fn skips(&self, port: u16) -> bool {
        self.ports(annotations::SKIP_INBOUND_PORTS)
            .is_some_and(|(ports, _)| ports.contains(port))
    }
}
