//! Where things run: EndpointSlice (discovery.k8s.io), Node, and what stands between a Pod and its Deployment or
//! CronJob. Only what the destination service says of endpoints is kept.

use super::{Metadata, Object, OwnerReference, values};
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;

/// API group of EndpointSlice.
pub const DISCOVERY_GROUP: &str = "discovery.k8s.io";
/// API group of ReplicaSet.
pub const APPS_GROUP: &str = "apps";
/// API group of Job.
pub const BATCH_GROUP: &str = "batch";
/// Label of a slice: the name of its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Label of a slice: who keeps it.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The keeper of slices that name ExternalWorkloads.
pub const EXTERNAL_MANAGER: &str = "linkerd-external-workloads-controller";

/// core/v1 Node: only its labels matter.
pub type Node = Object<()>;

/// apps/v1 ReplicaSet or batch/v1 Job: only who controls it matters.
pub type Intermediate = Object<IntermediateKind>;

/// A kind that stands between a Pod and what a person wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum IntermediateKind {
    /// Of a Deployment, as a rule.
    #[default]
    ReplicaSet,
    /// Of a CronJob, if of anything.
    Job,
}

impl IntermediateKind {
    /// The kind with this name.
    pub fn named(kind: &str) -> Option<Self> {
        match kind {
            "ReplicaSet" => Some(Self::ReplicaSet),
            "Job" => Some(Self::Job),
            _ => None,
        }
    }
}

/// discovery.k8s.io/v1 EndpointSlice: some of the endpoints of a Service, of one family.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSlice {
    /// Metadata.
    pub metadata: Metadata,
    /// Endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// Ports that every endpoint of the slice has.
    pub ports: Vec<SlicePort>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// Addresses that are IP addresses; all stand for the same.
    #[serde(default, deserialize_with = "addresses")]
    pub addresses: Vec<IpAddr>,
    /// Conditions.
    #[serde(default, deserialize_with = "values::or_default")]
    pub conditions: SliceConditions,
    /// Name below the Service.
    pub hostname: Option<String>,
    /// Node it runs on.
    pub node_name: Option<String>,
    /// Zone it is in.
    pub zone: Option<String>,
    /// Who should use it.
    #[serde(default, deserialize_with = "values::or_default")]
    pub hints: SliceHints,
    /// The object behind it.
    pub target_ref: Option<TargetRef>,
}

/// Conditions of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SliceConditions {
    /// Whether traffic may be sent to it; absent is yes. A Pod that ends is not ready.
    pub ready: Option<bool>,
}

/// Hints of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceHints {
    /// Zones whose clients should use it.
    #[serde(default, deserialize_with = "values::or_default")]
    pub for_zones: Vec<ForZone>,
}

/// A zone of a hint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ForZone {
    /// The zone.
    pub name: String,
}

/// What a slice says that an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TargetRef {
    /// Kind; of others than Pod and ExternalWorkload nothing is known here.
    #[serde(default, deserialize_with = "values::or_default")]
    pub kind: String,
    /// Name.
    #[serde(default, deserialize_with = "values::or_default")]
    pub name: String,
    /// Namespace; the slice's if absent.
    pub namespace: Option<String>,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SlicePort {
    /// Name of the Service's port; empty for one without.
    #[serde(default, deserialize_with = "values::or_default")]
    pub name: String,
    /// Number; absent is any.
    pub port: Option<u16>,
    /// `TCP` if absent.
    pub protocol: Option<String>,
}

impl EndpointSlice {
    /// The Service whose endpoints it has.
    pub fn service(&self) -> Option<&str> {
        let label = self.metadata.labels.get(SERVICE_LABEL).map(String::as_str);
        let owner = || self.metadata.owners.iter().find(|o| o.kind == "Service");
        label.or_else(|| owner().map(|o| o.name.as_str()))
    }

    /// Whether it is kept by who makes slices of ExternalWorkloads.
    pub fn is_of_external_workloads(&self) -> bool {
        self.metadata.labels.get(MANAGED_BY).map(String::as_str) == Some(EXTERNAL_MANAGER)
    }
}

impl Object<IntermediateKind> {
    /// What controls it.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.metadata.owners.iter().find(|owner| owner.controller)
    }
}

/// Those that are IP addresses; slices of names have none.
fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let texts: Option<Vec<String>> = Option::deserialize(deserializer)?;
    let texts = texts.unwrap_or_default();
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}
