//! The resources that decide: policy kinds, workloads, Services and Namespaces, as plain data.
//!
//! [`crate::manifest`] reads and validates them; [`crate::index`] answers from them. Only the fields that something
//! here uses are kept.

use serde::Deserialize;
use std::{collections::BTreeMap, fmt};
use time::OffsetDateTime;

pub mod discovery;
pub mod multicluster;
pub mod policy;
mod prune;
pub mod route;
pub mod selector;
pub mod traffic;
pub mod values;
pub mod workload;

pub use discovery::{EndpointSlice, Intermediate, IntermediateKind, Node};
pub use multicluster::{Discovery, MissingRemoteService, RemoteService};
pub use policy::{
    AuthorizationPolicy, HttpLocalRateLimitPolicy, MeshTlsAuthentication, NetworkAuthentication,
    ProxyProtocol, Server, ServerAuthorization, WorkloadSelector,
};
pub use route::{GrpcRoute, HttpRoute, RouteGroup};
pub use selector::LabelSelector;
pub use traffic::{EgressNetwork, ServiceProfile, TcpRoute, TlsRoute, TrafficSplit};
pub use values::{Cidr, PortRef};
pub use workload::{ExternalWorkload, Namespace, Pod, Service};

/// API group of the policy kinds.
pub const POLICY_GROUP: &str = "policy.linkerd.io";
/// API group of the Gateway API kinds.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// API group of ServiceProfile.
pub const PROFILE_GROUP: &str = "linkerd.io";
/// API group of TrafficSplit.
pub const SPLIT_GROUP: &str = "split.smi-spec.io";
/// API group of ExternalWorkload.
pub const WORKLOAD_GROUP: &str = "workload.linkerd.io";

/// Labels or annotations.
pub type StringMap = BTreeMap<String, String>;

/// An object: its metadata and what its kind specifies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object<S> {
    /// Metadata.
    pub metadata: Metadata,
    /// The kind's own fields.
    pub spec: S,
}

/// What every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Namespace; empty for cluster-scoped kinds, `default` where a file says nothing.
    #[serde(default, deserialize_with = "values::or_default")]
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    #[serde(default, deserialize_with = "values::or_default")]
    pub labels: StringMap,
    /// Annotations.
    #[serde(default, deserialize_with = "values::or_default")]
    pub annotations: StringMap,
    /// When it was created; absent in most files. Decides which of two objects is older.
    #[serde(
        default,
        rename = "creationTimestamp",
        deserialize_with = "values::timestamp"
    )]
    pub created: Option<OffsetDateTime>,
    /// Owners, of which at most one is the controller.
    #[serde(
        default,
        rename = "ownerReferences",
        deserialize_with = "values::or_default"
    )]
    pub owners: Vec<OwnerReference>,
    /// When deletion was asked for.
    #[serde(default, deserialize_with = "values::timestamp")]
    pub deletion_timestamp: Option<OffsetDateTime>,
}

/// An owner of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct OwnerReference {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Whether it is the one that manages the object.
    #[serde(default, deserialize_with = "values::or_default")]
    pub controller: bool,
}

impl Metadata {
    /// Sorts older objects first: those with a time before those without, then by name.
    pub(crate) fn age_key(&self) -> (bool, Option<OffsetDateTime>, &str) {
        (self.created.is_none(), self.created, &self.name)
    }
}

/// Identifies an object of one API server or directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// API group; empty for the core group.
    pub group: String,
    /// Kind in its own spelling, for example `MeshTLSAuthentication`.
    pub kind: String,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// core/v1 Namespace.
    Namespace(Namespace),
    /// core/v1 Pod.
    Pod(Pod),
    /// workload.linkerd.io ExternalWorkload.
    ExternalWorkload(ExternalWorkload),
    /// core/v1 Service.
    Service(Service),
    /// policy.linkerd.io Server.
    Server(Server),
    /// policy.linkerd.io ServerAuthorization.
    ServerAuthorization(ServerAuthorization),
    /// policy.linkerd.io AuthorizationPolicy.
    AuthorizationPolicy(AuthorizationPolicy),
    /// policy.linkerd.io MeshTLSAuthentication.
    MeshTlsAuthentication(MeshTlsAuthentication),
    /// policy.linkerd.io NetworkAuthentication.
    NetworkAuthentication(NetworkAuthentication),
    /// HTTPRoute of policy.linkerd.io or gateway.networking.k8s.io.
    HttpRoute(HttpRoute),
    /// gateway.networking.k8s.io GRPCRoute.
    GrpcRoute(GrpcRoute),
    /// policy.linkerd.io HTTPLocalRateLimitPolicy.
    HttpLocalRateLimitPolicy(HttpLocalRateLimitPolicy),
    /// gateway.networking.k8s.io TCPRoute.
    TcpRoute(TcpRoute),
    /// gateway.networking.k8s.io TLSRoute.
    TlsRoute(TlsRoute),
    /// policy.linkerd.io EgressNetwork.
    EgressNetwork(EgressNetwork),
    /// linkerd.io ServiceProfile.
    ServiceProfile(ServiceProfile),
    /// split.smi-spec.io TrafficSplit.
    TrafficSplit(TrafficSplit),
    /// discovery.k8s.io EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// core/v1 Node.
    Node(Node),
    /// apps/v1 ReplicaSet or batch/v1 Job.
    Intermediate(Intermediate),
    /// A kind that decides nothing here (Deployment, ConfigMap ...). Read past, so that an application's own
    /// manifests can lie in the same directory.
    Other {
        /// What it is.
        key: Key,
    },
}

impl Resource {
    /// What every object has; absent for [`Resource::Other`].
    pub fn metadata(&self) -> Option<&Metadata> {
        Some(match self {
            Self::Namespace(r) => &r.metadata,
            Self::Pod(r) => &r.metadata,
            Self::ExternalWorkload(r) => &r.metadata,
            Self::Service(r) => &r.metadata,
            Self::Server(r) => &r.metadata,
            Self::ServerAuthorization(r) => &r.metadata,
            Self::AuthorizationPolicy(r) => &r.metadata,
            Self::MeshTlsAuthentication(r) => &r.metadata,
            Self::NetworkAuthentication(r) => &r.metadata,
            Self::HttpRoute(r) => &r.metadata,
            Self::GrpcRoute(r) => &r.metadata,
            Self::HttpLocalRateLimitPolicy(r) => &r.metadata,
            Self::TcpRoute(r) | Self::TlsRoute(r) => &r.metadata,
            Self::EgressNetwork(r) => &r.metadata,
            Self::ServiceProfile(r) => &r.metadata,
            Self::TrafficSplit(r) => &r.metadata,
            Self::EndpointSlice(r) => &r.metadata,
            Self::Node(r) => &r.metadata,
            Self::Intermediate(r) => &r.metadata,
            Self::Other { .. } => return None,
        })
    }

    /// API group and kind.
    fn group_kind(&self) -> (&str, &str) {
        match self {
            Self::Namespace(_) => ("", "Namespace"),
            Self::Pod(_) => ("", "Pod"),
            Self::ExternalWorkload(_) => (WORKLOAD_GROUP, "ExternalWorkload"),
            Self::Service(_) => ("", "Service"),
            Self::Server(_) => (POLICY_GROUP, "Server"),
            Self::ServerAuthorization(_) => (POLICY_GROUP, "ServerAuthorization"),
            Self::AuthorizationPolicy(_) => (POLICY_GROUP, "AuthorizationPolicy"),
            Self::MeshTlsAuthentication(_) => (POLICY_GROUP, "MeshTLSAuthentication"),
            Self::NetworkAuthentication(_) => (POLICY_GROUP, "NetworkAuthentication"),
            Self::HttpRoute(r) => (r.group.as_str(), "HTTPRoute"),
            Self::GrpcRoute(_) => (GATEWAY_GROUP, "GRPCRoute"),
            Self::HttpLocalRateLimitPolicy(_) => (POLICY_GROUP, "HTTPLocalRateLimitPolicy"),
            Self::TcpRoute(_) => (GATEWAY_GROUP, "TCPRoute"),
            Self::TlsRoute(_) => (GATEWAY_GROUP, "TLSRoute"),
            Self::EgressNetwork(_) => (POLICY_GROUP, "EgressNetwork"),
            Self::ServiceProfile(_) => (PROFILE_GROUP, "ServiceProfile"),
            Self::TrafficSplit(_) => (SPLIT_GROUP, "TrafficSplit"),
            Self::EndpointSlice(_) => (discovery::DISCOVERY_GROUP, "EndpointSlice"),
            Self::Node(_) => ("", "Node"),
            Self::Intermediate(r) => match r.spec {
                IntermediateKind::ReplicaSet => (discovery::APPS_GROUP, "ReplicaSet"),
                IntermediateKind::Job => (discovery::BATCH_GROUP, "Job"),
            },
            Self::Other { key } => (&key.group, &key.kind),
        }
    }

    /// Identifies the object.
    pub fn key(&self) -> Key {
        if let Self::Other { key } = self {
            return key.clone();
        }
        let (group, kind) = self.group_kind();
        let metadata = self.metadata();
        Key {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: metadata.map(|m| m.namespace.clone()).unwrap_or_default(),
            name: metadata.map(|m| m.name.clone()).unwrap_or_default(),
        }
    }
}
