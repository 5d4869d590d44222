//! Kinds that only the outbound side reads: TCPRoute, TLSRoute, EgressNetwork, ServiceProfile, TrafficSplit.

use super::{
    Object,
    policy::Network,
    route::{BackendRef, ParentRef},
    values,
};
use serde::{Deserialize, Deserializer, de::Error as _};

/// gateway.networking.k8s.io TCPRoute.
pub type TcpRoute = Object<StreamRouteSpec>;
/// gateway.networking.k8s.io TLSRoute.
pub type TlsRoute = Object<StreamRouteSpec>;
/// policy.linkerd.io EgressNetwork.
pub type EgressNetwork = Object<EgressNetworkSpec>;
/// linkerd.io ServiceProfile.
pub type ServiceProfile = Object<ServiceProfileSpec>;
/// split.smi-spec.io TrafficSplit.
pub type TrafficSplit = Object<TrafficSplitSpec>;

/// What a TCPRoute or TLSRoute specifies.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRouteSpec {
    /// What it is attached to.
    #[serde(default, deserialize_with = "values::or_default")]
    pub parent_refs: Vec<ParentRef>,
    /// Server names it serves; none = all. TLSRoute only.
    #[serde(default, deserialize_with = "values::or_default")]
    pub hostnames: Vec<String>,
    /// Rules, of which the first counts.
    #[serde(default, deserialize_with = "values::or_default")]
    pub rules: Vec<StreamRule>,
}

/// Backends of a TCPRoute or TLSRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRule {
    #[serde(default)]
    name: super::route::Uninterpreted,
    /// Where connections go; the parent itself if there are none.
    #[serde(default, deserialize_with = "values::or_default")]
    pub backend_refs: Vec<BackendRef>,
}

/// What an EgressNetwork specifies.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressNetworkSpec {
    /// Its networks; everything outside the cluster's if absent.
    #[serde(default, deserialize_with = "some_networks")]
    pub networks: Vec<Network>,
    /// What becomes of traffic that no route takes.
    pub traffic_policy: TrafficPolicy,
}

/// Networks, or nothing at all: an empty list is neither.
fn some_networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Network>, D::Error> {
    match Option::<Vec<Network>>::deserialize(deserializer)? {
        Some(networks) if networks.is_empty() => Err(D::Error::custom(
            "at least one network must be specified; write no networks for all that is outside the cluster",
        )),
        networks => Ok(networks.unwrap_or_default()),
    }
}

/// What becomes of traffic that no route takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TrafficPolicy {
    /// It passes.
    Allow,
    /// It is refused.
    #[default]
    Deny,
}

/// What a ServiceProfile specifies.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceProfileSpec {
    /// In order: the first that matches takes a request.
    #[serde(default, deserialize_with = "values::or_default")]
    pub routes: Vec<ProfileRoute>,
    /// Budget of retries.
    pub retry_budget: Option<RetryBudget>,
    /// Where traffic goes instead.
    #[serde(default, deserialize_with = "values::or_default")]
    pub dst_overrides: Vec<WeightedDst>,
    /// Read by older control planes only.
    #[serde(default)]
    opaque_ports: super::route::Uninterpreted,
}

/// A route of a ServiceProfile.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProfileRoute {
    /// Name, the value of the metric label `rt_route`.
    pub name: String,
    /// What it takes.
    pub condition: RequestMatch,
    /// The first that matches says whether a response is a success.
    #[serde(default, deserialize_with = "values::or_default")]
    pub response_classes: Vec<ResponseClass>,
    /// Failures may be retried.
    #[serde(default, deserialize_with = "values::or_default")]
    pub is_retryable: bool,
    /// Limit of all attempts, as a Go duration.
    pub timeout: Option<String>,
}

/// What a request must have: all fields that are there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMatch {
    /// All of these.
    pub all: Option<Vec<Self>>,
    /// Not this.
    pub not: Option<Box<Self>>,
    /// Any of these.
    pub any: Option<Vec<Self>>,
    /// A path that this expression covers.
    pub path_regex: Option<String>,
    /// A method.
    pub method: Option<String>,
}

/// Whether responses are successes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResponseClass {
    /// Which responses.
    pub condition: ResponseMatch,
    /// They are failures.
    #[serde(default, deserialize_with = "values::or_default")]
    pub is_failure: bool,
}

/// What a response must have: all fields that are there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResponseMatch {
    /// All of these.
    pub all: Option<Vec<Self>>,
    /// Not this.
    pub not: Option<Box<Self>>,
    /// Any of these.
    pub any: Option<Vec<Self>>,
    /// A range of statuses.
    pub status: Option<StatusRange>,
}

/// A range of statuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusRange {
    /// The first; as `max` if absent.
    #[serde(default)]
    pub min: u16,
    /// The last; as `min` if absent.
    #[serde(default)]
    pub max: u16,
}

/// A budget of retries.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// Retries for each request that is none.
    pub retry_ratio: f32,
    /// Retries that are always allowed.
    pub min_retries_per_second: u32,
    /// How long requests count, as a Go duration.
    pub ttl: String,
}

/// A share of a profile's traffic.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedDst {
    /// `name` or `name:port`.
    pub authority: String,
    /// A quantity: `500m`, `1`.
    pub weight: Quantity,
}

/// What a TrafficSplit specifies.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficSplitSpec {
    /// The Service whose traffic is split.
    pub service: String,
    /// Services and their shares.
    pub backends: Vec<SplitBackend>,
    #[serde(default)]
    matches: super::route::Uninterpreted,
}

/// A share of a TrafficSplit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitBackend {
    /// A Service.
    pub service: String,
    /// A quantity: `500m`, `1`.
    pub weight: Quantity,
}

/// A Kubernetes quantity without binary suffix, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantity(pub u32);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Text {
            Number(f64),
            Text(String),
        }
        let text = Text::deserialize(deserializer)?;
        let (number, scale) = match &text {
            Text::Number(number) => (Some(*number), 1000.0),
            Text::Text(text) => match text.strip_suffix('m') {
                Some(thousandths) => (thousandths.parse().ok(), 1.0),
                None => match text.strip_suffix('k') {
                    Some(thousands) => (thousands.parse().ok(), 1e6),
                    None => (text.parse().ok(), 1000.0),
                },
            },
        };
        let value = number.map(|number: f64| number * scale);
        match value {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be within range"
            )]
            Some(value) if (0.0..4e8).contains(&value) => Ok(Self(value as u32)),
            _ => Err(serde::de::Error::custom(
                "is not a weight; write for example `1`, `500m` or `90`",
            )),
        }
    }
}
