//! Which route takes a request or a connection on the outbound side.
//!
//! Requests are routed by the same table as on the inbound side, with Gateway API precedence (see
//! [`crate::compile::routes`]); connections by server name; requests under a service profile by its routes in order.
//! All are compiled once for a version of a destination.

use super::{
    Action, FailureAccrual, GrpcPolicy, HttpPolicy, Ref, StreamRoute,
    profile::{Condition, Profile, ResponseCondition},
};
use crate::{
    compile::{CompileError, routes::RouteTable},
    decide::{Matched, RequestView},
    matchers::value::RegexBudget,
    server::{Filter, HostMatch},
};
use http::{Method, StatusCode};
use regex::Regex;
use std::collections::HashMap;

/// Routes of requests to one destination.
#[derive(Debug)]
pub struct HttpRouter {
    table: RouteTable,
    routes: Vec<Route>,
    failure_accrual: Option<FailureAccrual>,
    is_grpc: bool,
}

#[derive(Debug)]
struct Route {
    meta: Ref,
    rules: Vec<Action>,
}

impl HttpRouter {
    /// Compiles HTTP routes.
    ///
    /// # Errors
    /// A regular expression that does not compile or is too large, a failure ratio out of nothing, too many matches:
    /// named by route and field.
    pub fn http(policy: &HttpPolicy) -> Result<Self, CompileError> {
        let routes = policy.routes.iter().map(|route| Route {
            meta: route.meta.clone(),
            rules: route.rules.iter().map(|rule| rule.action.clone()).collect(),
        });
        Self {
            table: RouteTable::outbound_http(&policy.routes)?,
            routes: routes.collect(),
            failure_accrual: policy.failure_accrual,
            is_grpc: false,
        }
        .checked()
    }

    /// Compiles gRPC routes.
    ///
    /// # Errors
    /// As of [`HttpRouter::http`].
    pub fn grpc(policy: &GrpcPolicy) -> Result<Self, CompileError> {
        let routes = policy.routes.iter().map(|route| Route {
            meta: route.meta.clone(),
            rules: route.rules.iter().map(|rule| rule.action.clone()).collect(),
        });
        Self {
            table: RouteTable::outbound_grpc(&policy.routes)?,
            routes: routes.collect(),
            failure_accrual: policy.failure_accrual,
            is_grpc: true,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, CompileError> {
        for (route, rule, meta, action) in self.rules() {
            let own = action.filters.iter();
            let of_backends = action
                .backends
                .backends()
                .flat_map(|backend| &backend.filters);
            for filter in own.chain(of_backends) {
                if let Filter::Failure(injector) = filter
                    && let Some((_, 0)) = injector.ratio
                {
                    return Err(CompileError {
                        field: format!("routes[{route}].rules[{rule}].filters"),
                        reason: format!(
                            "{meta}: 0 is no denominator; leave the ratio out to fail every request"
                        ),
                    });
                }
            }
        }
        Ok(self)
    }

    /// The match that takes a request; `None` is a 404.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Matched> {
        self.table.find(request)
    }

    /// What is done with what matched.
    pub fn action(&self, matched: Matched) -> Option<&Action> {
        let rule = usize::try_from(matched.rule).ok()?;
        self.at(matched)?.rules.get(rule)
    }

    /// The name of the route that matched.
    pub fn route(&self, matched: Matched) -> Option<&Ref> {
        Some(&self.at(matched)?.meta)
    }

    fn at(&self, matched: Matched) -> Option<&Route> {
        self.routes.get(usize::try_from(matched.route).ok()?)
    }

    /// Every rule: index of its route, its own index in there, the route's name, what it does.
    pub fn rules(&self) -> impl Iterator<Item = (usize, usize, &Ref, &Action)> {
        self.routes.iter().enumerate().flat_map(|(route, named)| {
            let rules = named.rules.iter().enumerate();
            rules.map(move |(rule, action)| (route, rule, &named.meta, action))
        })
    }

    /// The policy is a gRPC one.
    pub fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// Circuit breaking of endpoints.
    pub fn failure_accrual(&self) -> Option<&FailureAccrual> {
        self.failure_accrual.as_ref()
    }
}

/// Routes of connections, by the server name that the client asks for.
#[derive(Debug, Default)]
pub struct SniRouter {
    exact: HashMap<Box<str>, usize>,
    suffixes: HashMap<Box<str>, usize>,
    any: Option<usize>,
}

impl SniRouter {
    /// Compiles routes. The first of several for the same name counts.
    pub fn new(routes: &[StreamRoute]) -> Self {
        let mut router = Self::default();
        for (at, route) in routes.iter().enumerate() {
            if route.snis.is_empty() {
                router.any.get_or_insert(at);
            }
            for sni in &route.snis {
                match sni {
                    HostMatch::Exact(name) => {
                        router.exact.entry(name.as_str().into()).or_insert(at);
                    }
                    HostMatch::Suffix(labels) if labels.is_empty() => {
                        router.any.get_or_insert(at);
                    }
                    HostMatch::Suffix(labels) => {
                        let name: Vec<&str> = labels.iter().rev().map(String::as_str).collect();
                        let name = name.join(".");
                        router.suffixes.entry(name.into()).or_insert(at);
                    }
                }
            }
        }
        router
    }

    /// One route, for every connection.
    pub fn any() -> Self {
        Self {
            any: Some(0),
            ..Self::default()
        }
    }

    /// The route of a name: exact, then the longest suffix, then one that names none. Names are compared with case.
    pub fn find(&self, sni: Option<&str>) -> Option<usize> {
        let name = sni.unwrap_or_default();
        if let Some(found) = self.exact.get(name) {
            return Some(*found);
        }
        let mut rest = name;
        while !self.suffixes.is_empty()
            && let Some((_, parent)) = rest.split_once('.')
        {
            if let Some(found) = self.suffixes.get(parent) {
                return Some(*found);
            }
            rest = parent;
        }
        self.any
    }
}

/// Routes of a service profile, in order.
#[derive(Debug)]
pub struct ProfileRouter {
    routes: Vec<(usize, Test)>,
    classes: HashMap<usize, Vec<(ResponseCondition, bool)>>,
    warnings: Vec<String>,
}

#[derive(Debug)]
enum Test {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Path(Regex),
    Method(Method),
}

impl ProfileRouter {
    /// Compiles a profile's routes; one that cannot be used is left out, with a warning.
    pub fn new(profile: &Profile) -> Self {
        let mut regexes = RegexBudget::default();
        let mut router = Self {
            routes: Vec::new(),
            classes: HashMap::new(),
            warnings: Vec::new(),
        };
        for (at, route) in profile.routes.iter().enumerate() {
            match Test::new(&route.condition, &mut regexes) {
                Ok(test) => router.routes.push((at, test)),
                Err(reason) => router
                    .warnings
                    .push(format!("routes[{at}] is left out: {reason}")),
            }
            let classes = route.classes.iter();
            router.classes.insert(
                at,
                classes
                    .map(|class| (class.condition.clone(), class.is_failure))
                    .collect(),
            );
        }
        router
    }

    /// What was left out, and why.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The first route that takes a request: its index in the profile.
    pub fn find(&self, method: &Method, path: &str) -> Option<usize> {
        let found = self
            .routes
            .iter()
            .find(|(_, test)| test.takes(method, path));
        found.map(|(at, _)| *at)
    }

    /// Whether a route's classes say that a response is a failure; `None` if they say nothing.
    pub fn is_failure(&self, route: usize, status: StatusCode) -> Option<bool> {
        let classes = self.classes.get(&route)?;
        let found = classes
            .iter()
            .find(|(condition, _)| is_met(condition, status));
        found.map(|(_, is_failure)| *is_failure)
    }
}

impl Test {
    fn new(condition: &Condition, regexes: &mut RegexBudget) -> Result<Self, String> {
        let mut all = |conditions: &[Condition]| {
            let tests = conditions.iter();
            tests
                .map(|condition| Self::new(condition, regexes))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(match condition {
            Condition::All(conditions) => Self::All(all(conditions)?),
            Condition::Any(conditions) => Self::Any(all(conditions)?),
            Condition::Not(condition) => Self::Not(Box::new(Self::new(condition, regexes)?)),
            Condition::Path(pattern) => Self::Path(regexes.path(pattern.trim())?),
            Condition::Method(method) => Self::Method(method.clone()),
        })
    }

    fn takes(&self, method: &Method, path: &str) -> bool {
        match self {
            Self::All(tests) => tests.iter().all(|test| test.takes(method, path)),
            Self::Any(tests) => tests.iter().any(|test| test.takes(method, path)),
            Self::Not(test) => !test.takes(method, path),
            Self::Path(regex) => regex.is_match(path),
            Self::Method(wanted) => wanted == method,
        }
    }
}

fn is_met(condition: &ResponseCondition, status: StatusCode) -> bool {
    match condition {
        ResponseCondition::All(all) => all.iter().all(|condition| is_met(condition, status)),
        ResponseCondition::Any(any) => any.iter().any(|condition| is_met(condition, status)),
        ResponseCondition::Not(not) => !is_met(not, status),
        ResponseCondition::Status(range) => range.contains(&status.as_u16()),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod oracle;
