//! Where routes send: is it there, has it the port, and is anything sent at all.

use super::{
    super::{Report, Severity},
    Kind, Named, POLICY_GROUP, Parent, Route, Rule, ports,
};
use crate::{index::Index, resource::route::BackendRef};
use std::collections::BTreeSet;

pub(super) fn check(index: &Index, route: &Route<'_>, report: &mut Report) {
    let parents: Vec<Parent<'_>> = route.parents().map(|(parent, _)| parent).collect();
    if parents.is_empty() {
        return;
    }
    if route.rules.is_empty() {
        report.add(
            Severity::Error,
            "route-without-rules",
            route.key.clone(),
            "has no rules: it takes nothing, and what no other route takes is answered 404 (gRPC 5)",
            "write a rule, or delete the route",
        );
    }
    for (i, rule) in route.rules.iter().enumerate() {
        filters(route, i, rule, report);
        unread(route, i, rule, report);
        weights(route, i, rule, report);
        let namespaces: BTreeSet<&str> = parents.iter().map(|parent| parent.namespace).collect();
        for (j, backend) in rule.backends.iter().enumerate() {
            let place = Place {
                route,
                field: format!("spec.rules[{i}].backendRefs[{j}]"),
                backend,
            };
            for namespace in &namespaces {
                place.check(index, namespace, &parents, report);
            }
        }
    }
}

/// What is asked for by fields that are not read.
fn unread(route: &Route<'_>, i: usize, rule: &Rule<'_>, report: &mut Report) {
    for field in &rule.unread {
        let fix = match *field {
            "retry" => "use annotations retry.linkerd.io/* of the route",
            "timeouts.backendRequest" => {
                "use annotation timeout.linkerd.io/response, or retry.linkerd.io/timeout if another attempt is to follow"
            }
            _ => "remove it: each request is balanced on its own",
        };
        report.add(
            Severity::Warning,
            "route-field-ignored",
            route.key.clone(),
            format!("spec.rules[{i}].{field} has no effect: it is not implemented"),
            fix,
        );
    }
    if let Kind::Http(http) = route.kind
        && let Some(limits) = http
            .spec
            .rules
            .get(i)
            .and_then(|rule| rule.timeouts.as_ref())
        && limits.request.is_some()
        && let Some(own) = route.metadata.annotations.get(REQUEST_LIMIT)
        && own.trim() != "0"
    {
        report.add(
            Severity::Warning,
            "route-field-ignored",
            route.key.clone(),
            format!(
                "spec.rules[{i}].timeouts.request has no effect beside annotation {REQUEST_LIMIT}"
            ),
            "keep one of the two",
        );
    }
}

const REQUEST_LIMIT: &str = "timeout.linkerd.io/request";

/// Filters that answer every request with an error, since leaving them out could let through what was meant to change.
fn filters(route: &Route<'_>, i: usize, rule: &Rule<'_>, report: &mut Report) {
    let known: &[&str] = if route.is_http() {
        &[
            "RequestHeaderModifier",
            "ResponseHeaderModifier",
            "RequestRedirect",
        ]
    } else {
        &["RequestHeaderModifier"]
    };
    let of_backends = rule.backends.iter().enumerate().flat_map(|(j, backend)| {
        let place = format!("backendRefs[{j}].filters");
        backend.filters.iter().map(move |f| (place.clone(), f))
    });
    let own = rule.filters.iter().map(|f| ("filters".to_owned(), f));
    if route.requests().is_none() {
        return;
    }
    for (place, filter) in own.chain(of_backends) {
        if known.contains(&filter.kind.as_str()) {
            continue;
        }
        report.add(
            Severity::Error,
            "route-unsupported",
            route.key.clone(),
            format!(
                "spec.rules[{i}].{place}: {} is not implemented for outbound traffic: what it is for is {}",
                filter.kind,
                route.failure()
            ),
            format!("use {}, or remove the filter", known.join(", ")),
        );
    }
}

fn weights(route: &Route<'_>, i: usize, rule: &Rule<'_>, report: &mut Report) {
    let redirects = rule.filters.iter().any(|f| f.kind == "RequestRedirect");
    let none = |backend: &BackendRef| backend.weight == Some(0);
    if rule.backends.is_empty() || !rule.backends.iter().all(none) || redirects {
        return;
    }
    let becomes = match route.kind {
        Kind::Http(_) => "requests are answered 503",
        Kind::Grpc(_) => "calls are answered with gRPC status 14",
        Kind::Tcp | Kind::Tls => "connections are closed",
    };
    report.add(
        Severity::Error,
        "route-sends-nowhere",
        route.key.clone(),
        format!("spec.rules[{i}]: all weights are 0: {becomes}"),
        "give a backend a weight, or remove the backends to send to the parent",
    );
}

/// A backend of a route.
struct Place<'a> {
    route: &'a Route<'a>,
    field: String,
    backend: &'a BackendRef,
}

impl Place<'_> {
    fn check(&self, index: &Index, of_parent: &str, parents: &[Parent<'_>], report: &mut Report) {
        let Self { backend, field, .. } = self;
        let group = backend.group.as_deref().unwrap_or_default();
        let kind = backend.kind.as_deref().unwrap_or("Service");
        let namespace = backend.namespace.as_deref().unwrap_or(of_parent);
        let is_core = group.is_empty() || group.eq_ignore_ascii_case("core");
        if group == POLICY_GROUP && kind.eq_ignore_ascii_case("EgressNetwork") {
            self.egress_network(namespace, parents, report);
            return;
        }
        if !is_core || !kind.eq_ignore_ascii_case("Service") {
            self.nowhere(
                format!("{field} is a {kind} of group `{group}`, where nothing can be sent"),
                "send to a Service (group \"\"), or to the EgressNetwork that is the parent",
                report,
            );
            return;
        }
        let name = &backend.name;
        let Some(service) = index.service(namespace, name) else {
            self.nowhere(
                format!("sends to Service {namespace}/{name}, which does not exist"),
                "write the name of a Service, and its namespace if it is another one than the parent's",
                report,
            );
            return;
        };
        if service.is_external_name() {
            report.add(
                self.severity(),
                "route-without-backend",
                self.route.key.clone(),
                format!(
                    "sends to Service {namespace}/{name}, an ExternalName: it has no endpoints"
                ),
                "send to a Service with a selector",
            );
            return;
        }
        let Some(port) = backend.port else {
            self.nowhere(
                format!("{field} has no port"),
                format!(
                    "write a port of Service {namespace}/{name}: {}",
                    ports(service)
                ),
                report,
            );
            return;
        };
        let declared = u16::try_from(port).ok().and_then(|port| service.port(port));
        if declared.is_none() {
            report.add(
                Severity::Warning,
                "backend-without-port",
                self.route.key.clone(),
                format!(
                    "sends to port {port} of Service {namespace}/{name}, which has no such port: it is taken for the \
                     port of the endpoints"
                ),
                format!("write a port that it has: {}", ports(service)),
            );
        }
    }

    fn egress_network(&self, namespace: &str, parents: &[Parent<'_>], report: &mut Report) {
        let name = &self.backend.name;
        let wrong = |parent: &&Parent<'_>| {
            parent.kind == Named::Service
                || parent.name != name.as_str()
                || parent.namespace != namespace
        };
        if let Some(parent) = parents.iter().find(wrong) {
            self.nowhere(
                format!("sends to EgressNetwork {namespace}/{name}, and is attached to {parent}"),
                "send to the EgressNetwork that is the parent, or to a Service",
                report,
            );
        }
    }

    /// What is to go there fails; if no share is, that matters less.
    fn nowhere(&self, what: String, fix: impl Into<String>, report: &mut Report) {
        let severity = self.severity();
        let becomes = match severity {
            Severity::Error => format!("what is to go there is {}", self.route.failure()),
            _ => "its weight is 0, so nothing goes there".to_owned(),
        };
        report.add(
            severity,
            "route-without-backend",
            self.route.key.clone(),
            format!("{what}: {becomes}"),
            fix,
        );
    }

    fn severity(&self) -> Severity {
        match self.backend.weight {
            Some(0) => Severity::Warning,
            _ => Severity::Error,
        }
    }
}
