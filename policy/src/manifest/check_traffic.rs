//! What is refused in the kinds that only the outbound side reads.

use super::{
    Problem,
    check::networks,
    check_route::{backends, forbid, go_duration, hostnames, refuse},
};
use crate::{
    matchers::value::RegexBudget,
    resource::{Metadata, POLICY_GROUP, RouteGroup, traffic::*, values::short},
};
use http::Method;

/// TCPRoute and TLSRoute; `called` as the webhook calls it.
pub(super) fn stream(called: &str, spec: &StreamRouteSpec) -> Result<(), Problem> {
    for (i, parent) in spec.parent_refs.iter().enumerate() {
        if parent.port.is_none() && parent.is(RouteGroup::Gateway, POLICY_GROUP, "EgressNetwork") {
            let text = "cannot target an EgressNetwork without specifying a port; add it";
            return forbid(format!("spec.parentRefs[{i}].port"), text);
        }
    }
    hostnames(&spec.hostnames)?;
    if spec.rules.len() != 1 {
        let (rules, fix) = (spec.rules.len(), "write one rule with all backends");
        let reason = format!("{called} supports a single rule only; got {rules}, {fix}");
        return forbid("spec.rules", reason);
    }
    for (i, rule) in spec.rules.iter().enumerate() {
        backends(&format!("spec.rules[{i}]"), &rule.backend_refs, false)?;
    }
    Ok(())
}

/// EgressNetwork.
pub(super) fn egress_network(_: &Metadata, spec: &EgressNetworkSpec) -> Result<(), Problem> {
    networks("spec.networks", &spec.networks)
}

/// ServiceProfile.
pub(super) fn service_profile(
    metadata: &Metadata,
    spec: &ServiceProfileSpec,
) -> Result<(), Problem> {
    if !metadata.name.contains('.') {
        let reason = format!(
            "`{}` is not the name of a Service in DNS; write for example web.shop.svc.cluster.local",
            short(&metadata.name)
        );
        return refuse("metadata.name", reason);
    }
    let mut regexes = RegexBudget::default();
    for (i, route) in spec.routes.iter().enumerate() {
        let field = format!("spec.routes[{i}]");
        request_match(
            &format!("{field}.condition"),
            &route.condition,
            &mut regexes,
        )?;
        for (j, class) in route.response_classes.iter().enumerate() {
            let field = format!("{field}.responseClasses[{j}].condition");
            response_match(&field, &class.condition)?;
        }
        if let Some(timeout) = &route.timeout
            && !go_duration(timeout).is_some_and(|seconds| seconds >= 0.0)
        {
            let reason = format!(
                "`{}` is not a duration; write for example 300ms",
                short(timeout)
            );
            return refuse(format!("{field}.timeout"), reason);
        }
    }
    if let Some(budget) = &spec.retry_budget {
        if !(0.0..=1000.0).contains(&budget.retry_ratio) {
            let reason = format!("{} is not within 0 to 1000", budget.retry_ratio);
            return refuse("spec.retryBudget.retryRatio", reason);
        }
        if !go_duration(&budget.ttl).is_some_and(|seconds| (1.0..=60.0).contains(&seconds)) {
            let reason = format!("`{}` is not a time from 1s to 60s", short(&budget.ttl));
            return refuse("spec.retryBudget.ttl", reason);
        }
    }
    Ok(())
}

fn request_match(
    field: &str,
    condition: &RequestMatch,
    regexes: &mut RegexBudget,
) -> Result<(), Problem> {
    let mut is_empty = true;
    if let Some(pattern) = &condition.path_regex {
        is_empty = false;
        if let Err(reason) = regexes.path(pattern.trim()) {
            return refuse(format!("{field}.pathRegex"), reason);
        }
    }
    if let Some(method) = &condition.method {
        is_empty = false;
        if Method::from_bytes(method.as_bytes()).is_err() {
            let reason = format!("`{}` is not a method", short(method));
            return refuse(format!("{field}.method"), reason);
        }
    }
    for (name, list) in [("all", &condition.all), ("any", &condition.any)] {
        for (i, each) in list.iter().flatten().enumerate() {
            request_match(&format!("{field}.{name}[{i}]"), each, regexes)?;
        }
        is_empty &= list.is_none();
    }
    if let Some(not) = &condition.not {
        is_empty = false;
        request_match(&format!("{field}.not"), not, regexes)?;
    }
    if is_empty {
        let reason = "says nothing; write pathRegex, method, all, any or not";
        return refuse(field, reason);
    }
    Ok(())
}

fn response_match(field: &str, condition: &ResponseMatch) -> Result<(), Problem> {
    if let Some(range) = condition.status {
        let (min, max) = bounds(range);
        if !(100..=599).contains(&min) || !(100..=599).contains(&max) || min > max {
            let reason = "is no range of statuses within 100 to 599";
            return refuse(format!("{field}.status"), reason);
        }
    }
    for (name, list) in [("all", &condition.all), ("any", &condition.any)] {
        for (i, each) in list.iter().flatten().enumerate() {
            response_match(&format!("{field}.{name}[{i}]"), each)?;
        }
    }
    match &condition.not {
        Some(not) => response_match(&format!("{field}.not"), not),
        None => Ok(()),
    }
}

/// The ends of a range, of which one may be absent.
pub(crate) fn bounds(range: StatusRange) -> (u16, u16) {
    match (range.min, range.max) {
        (0, max) => (max, max),
        (min, 0) => (min, min),
        ends => ends,
    }
}

/// TrafficSplit.
pub(super) fn traffic_split(_: &Metadata, spec: &TrafficSplitSpec) -> Result<(), Problem> {
    if spec.service.is_empty() {
        return refuse("spec.service", "is empty; name the Service that is split");
    }
    if spec.backends.is_empty() {
        return refuse("spec.backends", "is empty; name at least one Service");
    }
    Ok(())
}
