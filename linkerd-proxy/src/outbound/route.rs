//! One rule of a destination, resolved: what is done with a request that it takes, and where that is counted.

use super::{
    backend::Choice,
    metrics::{ProfileHandles, RouteHandles},
    retry::{Budget, Params, RouteRetries},
};
use crate::http::outcome::{Ending, GrpcFailures, Outcome};
use linkerd_policy::{
    outbound::{Timeouts, router::ProfileRouter},
    server::Filter,
};
use std::{sync::Arc, time::Duration};

/// One rule of a route.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) filters: Vec<Filter>,
    pub(super) choice: Choice,
    pub(super) timeouts: Timeouts,
    pub(super) retry: Option<Params>,
    pub(super) allow_headers: bool,
    pub(super) handles: RouteHandles,
    pub(super) retries: RouteRetries,
    pub(super) budget: Arc<Budget>,
    pub(super) profile: Option<ProfileRule>,
    pub(super) grpc_failures: GrpcFailures,
    /// Where errors of this rule say that they come from: `logical service …: route …`.
    pub(super) place: Box<str>,
}

/// What a service profile says of a route.
#[derive(Debug)]
pub(super) struct ProfileRule {
    pub(super) router: Arc<ProfileRouter>,
    /// Which of its routes; absent for requests that none takes.
    pub(super) route: Option<usize>,
    pub(super) handles: ProfileHandles,
    /// Limit of all attempts until the head of the response.
    pub(super) timeout: Option<Duration>,
    pub(super) is_retryable: bool,
}

impl Rule {
    /// Whether a response is what the application hoped for: as the profile says, else by its status.
    pub(super) fn is_success(&self, outcome: Outcome) -> bool {
        let by_profile = self.profile.as_ref().and_then(|profile| {
            let is_failure = profile.router.is_failure(profile.route?, outcome.status)?;
            Some(!is_failure && outcome.ending == Ending::Whole)
        });
        by_profile.unwrap_or_else(|| outcome.is_success(self.grpc_failures))
    }
}
