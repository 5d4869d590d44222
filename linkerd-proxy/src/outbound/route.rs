//! One rule of a destination, resolved: what is done with a request that it takes, and where that is counted.

use super::{
    backend::Choice,
    metrics::{ProfileHandles, RouteHandles},
    retry::{Budget, Params, RouteRetries},
};
use crate::{
    hosts::Hosts,
    http::outcome::{Ending, GrpcFailures, Outcome},
};
use http::uri::Authority;
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
    /// The same by the name that a request asks for, where operators want it.
    pub(super) hosts: Option<Hosts<Named>>,
    pub(super) budget: Arc<Budget>,
    pub(super) profile: Option<Arc<ProfileRule>>,
    pub(super) grpc_failures: GrpcFailures,
    /// Where errors of this rule say that they come from: `logical service …: route …`.
    pub(super) place: Box<str>,
}

/// What requests of a rule for one name are counted in.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) handles: RouteHandles,
    pub(super) retries: RouteRetries,
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
    /// What a request is counted in by the name that it asks for, if names are counted.
    pub(super) fn named(&self, authority: Option<&Authority>) -> Option<Arc<Named>> {
        self.hosts.as_ref()?.of(authority?.host())
    }

    /// What requests of one name, or of all, are counted in.
    pub(super) fn handles<'r>(&'r self, named: Option<&'r Named>) -> &'r RouteHandles {
        named.map_or(&self.handles, |named| &named.handles)
    }

    /// Whether a response is what the application hoped for: as the profile says, else by its status.
    pub(super) fn is_success(&self, outcome: Outcome) -> bool {
        match &self.profile {
            Some(profile) => profile.is_success(outcome, self.grpc_failures),
            None => outcome.is_success(self.grpc_failures),
        }
    }
}

impl ProfileRule {
    /// Whether a response is a success by the route's classes, else by its status.
    pub(super) fn is_success(&self, outcome: Outcome, grpc_failures: GrpcFailures) -> bool {
        let by_class = self.route.and_then(|route| {
            let is_failure = self.router.is_failure(route, outcome.status)?;
            Some(!is_failure && outcome.ending == Ending::Whole)
        });
        by_class.unwrap_or_else(|| outcome.is_success(grpc_failures))
    }
}
