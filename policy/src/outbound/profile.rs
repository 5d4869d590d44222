//! What a ServiceProfile says of a destination, as plain data. Source: `io.linkerd.proxy.destination.DestinationProfile`.

use super::Endpoint;
use crate::json;
use http::Method;
use serde::Serialize;
use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

/// The profile of a destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Profile {
    /// `name.ns.svc.cluster.local`, if it has a valid one.
    pub name: Option<String>,
    /// Its bytes are opaque.
    pub is_opaque: bool,
    /// In order: the first whose condition matches takes a request.
    pub routes: Vec<ProfileRoute>,
    /// Budget of retries, shared by the routes; absent = no retries.
    pub budget: Option<Budget>,
    /// Where traffic goes instead: `name:port` and weight, none of 0.
    #[serde(serialize_with = "json::targets")]
    pub targets: Vec<(String, u32)>,
    /// The one endpoint, for addresses of workloads.
    pub endpoint: Option<Endpoint>,
}

/// A route of a profile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProfileRoute {
    /// What it takes.
    pub condition: Condition,
    /// The first that matches says whether a response is a success.
    pub classes: Vec<ResponseClass>,
    /// `rt_*` labels of metrics.
    pub labels: BTreeMap<String, String>,
    /// Failures may be retried within the budget.
    pub is_retryable: bool,
    /// Limit of all attempts, until the response's head.
    #[serde(serialize_with = "json::optional_time")]
    pub timeout: Option<Duration>,
}

/// What a route takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// All of them.
    All(Vec<Self>),
    /// Any of them.
    Any(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// A path, without query, that this expression covers.
    Path(String),
    /// A method.
    #[serde(serialize_with = "json::text")]
    Method(Method),
}

/// Whether responses are successes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResponseClass {
    /// Which responses.
    pub condition: ResponseCondition,
    /// What they count as.
    pub is_failure: bool,
}

/// Which responses.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseCondition {
    /// All of them.
    All(Vec<Self>),
    /// Any of them.
    Any(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// A range of statuses.
    #[serde(serialize_with = "json::range")]
    Status(RangeInclusive<u16>),
}

/// A budget of retries. Source: `io.linkerd.proxy.destination.RetryBudget`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Budget {
    /// Retries for each request that was not one; 0 to 1000.
    pub ratio: f32,
    /// Retries that are always allowed.
    pub min_per_second: u32,
    /// How long requests count; 1 to 60 s.
    #[serde(serialize_with = "json::time")]
    pub ttl: Duration,
}

impl Default for Budget {
    /// What the control plane sends where a resource has none.
    fn default() -> Self {
        Self {
            ratio: 0.2,
            min_per_second: 10,
            ttl: Duration::from_secs(10),
        }
    }
}
