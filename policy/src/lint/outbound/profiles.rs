//! ServiceProfiles and TrafficSplits: are their Services there, and does all of them count.

use super::super::{Report, Severity, key};
use crate::{
    index::{Index, Scope},
    resource::{
        Key, PROFILE_GROUP, SPLIT_GROUP, ServiceProfile, TrafficSplit,
        traffic::{ProfileRoute, Quantity, RequestMatch},
    },
};

pub(super) fn check(index: &Index, namespace: &str, scope: &Scope, report: &mut Report) {
    for profile in scope.profiles.values() {
        let object = key(PROFILE_GROUP, "ServiceProfile", &profile.metadata);
        if let Some(service) = service_of_profile(index, namespace, profile, &object, report) {
            beside_split(index, profile, &service, &object, report);
        }
        routes(profile, &object, report);
        budget(profile, &object, report);
        overrides(index, profile, &object, report);
    }
    for split in scope.splits.values() {
        let object = key(SPLIT_GROUP, "TrafficSplit", &split.metadata);
        self::split(index, namespace, scope, split, &object, report);
    }
}

/// `(namespace, name)` of the Service that is called so in DNS.
fn in_dns<'a>(index: &Index, name: &'a str) -> Option<(&'a str, &'a str)> {
    let domain = index.cluster().cluster_domain.trim_end_matches('.');
    let labels = name.strip_suffix(domain)?.strip_suffix(".svc.")?;
    let (service, namespace) = labels.split_once('.')?;
    (!namespace.contains('.')).then_some((namespace, service))
}

fn service_of_profile(
    index: &Index,
    own: &str,
    profile: &ServiceProfile,
    object: &Key,
    report: &mut Report,
) -> Option<(String, String)> {
    let name = &profile.metadata.name;
    let check = "profile-without-service";
    let Some((namespace, service)) = in_dns(index, name) else {
        let domain = &index.cluster().cluster_domain;
        report.add(
            Severity::Error,
            check,
            object.clone(),
            format!("has no effect: {name} is not the name of a Service of this cluster"),
            format!("call it web.{own}.svc.{domain}, if web is the Service"),
        );
        return None;
    };
    if index.service(namespace, service).is_none() {
        report.add(
            Severity::Error,
            check,
            object.clone(),
            format!("has no effect: Service {namespace}/{service} does not exist"),
            "write the name and the namespace of a Service into its own name",
        );
        return None;
    }
    let spec = &profile.spec;
    if spec.routes.is_empty() && spec.dst_overrides.is_empty() {
        report.add(
            Severity::Warning,
            "profile-without-effect",
            object.clone(),
            "has neither routes nor dstOverrides: what it says of retries counts for nothing",
            "write routes, or delete it",
        );
    }
    Some((namespace.to_owned(), service.to_owned()))
}

/// Targets of a profile come before those of a split.
fn beside_split(
    index: &Index,
    profile: &ServiceProfile,
    (namespace, service): &(String, String),
    object: &Key,
    report: &mut Report,
) {
    let splits = index.scope(namespace).map(|scope| &scope.splits);
    let found = splits
        .into_iter()
        .flat_map(|splits| splits.values())
        .find(|split| first_label(&split.spec.service) == service);
    let overrides = &profile.spec.dst_overrides;
    let counts = overrides.iter().any(|target| target.weight.0 > 0);
    let Some(split) = found.filter(|_| counts) else {
        return;
    };
    // A profile of another namespace is for clients there: for all others the split is as it was.
    let (judged, message) = if object.namespace == *namespace {
        (
            key(SPLIT_GROUP, "TrafficSplit", &split.metadata),
            format!("has no effect beside dstOverrides of {object}"),
        )
    } else {
        (
            object.clone(),
            format!(
                "its dstOverrides take the place of TrafficSplit {namespace}/{} for clients of namespace {}",
                split.metadata.name, object.namespace
            ),
        )
    };
    let fix = "keep one of the two";
    report.add(Severity::Warning, "split-overlap", judged, message, fix);
}

fn first_label(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// The first route in the list takes a request.
fn routes(profile: &ServiceProfile, object: &Key, report: &mut Report) {
    let routes = &profile.spec.routes;
    for (i, route) in routes.iter().enumerate() {
        let takes = |earlier: &&ProfileRoute| covers(&earlier.condition, &route.condition);
        let Some(earlier) = routes.iter().take(i).find(takes) else {
            continue;
        };
        report.add(
            Severity::Warning,
            "route-never-matches",
            object.clone(),
            format!(
                "spec.routes[{i}] ({}) never matches: {} comes before it and takes all that it would",
                route.name, earlier.name
            ),
            "put it before that one, or remove it",
        );
    }
}

/// Whether a condition surely holds where another does.
fn covers(earlier: &RequestMatch, later: &RequestMatch) -> bool {
    if earlier == later {
        return true;
    }
    let is_simple =
        |each: &RequestMatch| each.all.is_none() && each.any.is_none() && each.not.is_none();
    let any_path = |path: &str| matches!(path.trim(), ".*" | "/.*");
    let path = match (&earlier.path_regex, &later.path_regex) {
        (None, _) => true,
        (Some(path), _) if any_path(path) => true,
        (earlier, later) => earlier == later,
    };
    is_simple(earlier) && path && (earlier.method.is_none() || earlier.method == later.method)
}

fn budget(profile: &ServiceProfile, object: &Key, report: &mut Report) {
    let spec = &profile.spec;
    let is_retried = spec.routes.iter().any(|route| route.is_retryable);
    let mut add = |severity, message: &str, fix: &str| {
        report.add(severity, "profile-retries", object.clone(), message, fix);
    };
    if is_retried && spec.retry_budget.is_none() {
        add(
            Severity::Info,
            "has routes with isRetryable and no retryBudget: retries may be 20% of requests and 10 a second",
            "write spec.retryBudget to have another limit",
        );
    }
    if !is_retried && spec.retry_budget.is_some() && !spec.routes.is_empty() {
        add(
            Severity::Warning,
            "has a retryBudget, and no route has isRetryable: nothing is retried on account of it",
            "write isRetryable: true where requests may be repeated, or remove the budget",
        );
    }
    if let Some(budget) = &spec.retry_budget
        && is_retried
        && budget.retry_ratio == 0.0
        && budget.min_retries_per_second == 0
    {
        add(
            Severity::Warning,
            "has a retryBudget of 0: nothing is retried in spite of isRetryable",
            "give it a retryRatio or minRetriesPerSecond",
        );
    }
}

fn overrides(index: &Index, profile: &ServiceProfile, object: &Key, report: &mut Report) {
    let list = &profile.spec.dst_overrides;
    for (i, target) in list.iter().enumerate() {
        let authority = target.authority.trim_end_matches('.');
        let name = authority
            .rsplit_once(':')
            .map_or(authority, |(name, _)| name);
        let name = name.trim_end_matches('.');
        let exists =
            in_dns(index, name).is_some_and(|(ns, name)| index.service(ns, name).is_some());
        if !exists {
            nowhere(
                object,
                &format!("spec.dstOverrides[{i}] is {name}, which is no Service of this cluster"),
                target.weight,
                report,
            );
        }
    }
    if !list.is_empty() && list.iter().all(|target| target.weight.0 == 0) {
        let what = "all weights of dstOverrides are 0: they have no effect, and traffic goes to the Service itself";
        all_zero(object, what, report);
    }
}

fn nowhere(object: &Key, what: &str, weight: Quantity, report: &mut Report) {
    let (severity, effect) = if weight.0 == 0 {
        (Severity::Warning, "its weight is 0, so nothing goes there")
    } else {
        (Severity::Error, "what is to go there finds no endpoint")
    };
    report.add(
        severity,
        "split-without-backend",
        object.clone(),
        format!("{what}: {effect}"),
        "write the name of a Service that exists",
    );
}

fn all_zero(object: &Key, what: &str, report: &mut Report) {
    report.add(
        Severity::Warning,
        "split-without-weight",
        object.clone(),
        what,
        "give at least one a weight, or delete it",
    );
}

fn split(
    index: &Index,
    namespace: &str,
    scope: &Scope,
    split: &TrafficSplit,
    object: &Key,
    report: &mut Report,
) {
    let spec = &split.spec;
    let service = first_label(&spec.service);
    let is_here = spec
        .service
        .split('.')
        .nth(1)
        .is_none_or(|named| named == namespace);
    if !is_here || !scope.services.contains_key(service) {
        report.add(
            Severity::Error,
            "split-without-service",
            object.clone(),
            format!(
                "has no effect: namespace {namespace} has no Service {}",
                spec.service
            ),
            "write the name of a Service of the split's own namespace",
        );
        return;
    }
    for (i, backend) in spec.backends.iter().enumerate() {
        if index.service(namespace, &backend.service).is_none() {
            let what = format!(
                "spec.backends[{i}] is {}, and namespace {namespace} has no such Service",
                backend.service
            );
            nowhere(object, &what, backend.weight, report);
        }
    }
    if spec.backends.iter().all(|backend| backend.weight.0 == 0) {
        let what = format!(
            "all weights are 0: it has no effect, and traffic goes to Service {namespace}/{service}"
        );
        all_zero(object, &what, report);
    }
    // The first by name counts.
    let first = scope
        .splits
        .values()
        .find(|each| first_label(&each.spec.service) == service);
    if let Some(first) = first.filter(|first| first.metadata.name != split.metadata.name) {
        report.add(
            Severity::Error,
            "split-overlap",
            object.clone(),
            format!(
                "has no effect: TrafficSplit {} comes first by name and splits Service {namespace}/{service}",
                first.metadata.name
            ),
            "merge the two",
        );
    }
}
