//! What a ServiceProfile or TrafficSplit says of a Service. Source: control plane §3.9, §4.5.

use super::Index;
use crate::{
    manifest::{go_duration_seconds, status_bounds},
    outbound::profile::{
        Budget, Condition, Profile, ProfileRoute, ResponseClass, ResponseCondition,
    },
    resource::{Service, ServiceProfile, traffic},
};
use http::Method;
use std::{collections::BTreeMap, time::Duration};

impl Index {
    /// The profile of a Service's port, for clients of a namespace: the ServiceProfile of the client's namespace, else
    /// of the Service's; a TrafficSplit of the Service gives its targets.
    pub fn service_profile(&self, client: &str, service: &Service, port: u16) -> Profile {
        let domain = self.cluster().cluster_domain.trim_end_matches('.');
        let metadata = &service.metadata;
        let name = format!("{}.{}.svc.{domain}", metadata.name, metadata.namespace);
        let found = self.profile_in_force(client, service);
        let mut profile = Profile {
            is_opaque: self.service_opaque_ports(service).contains(port),
            budget: Some(Budget::default()),
            ..Profile::default()
        };
        if let Some(found) = found {
            let spec = &found.spec;
            profile.routes = spec.routes.iter().filter_map(route).collect();
            if let Some(budget) = spec.retry_budget.as_ref().and_then(budget) {
                profile.budget = Some(budget);
            }
            profile.targets = spec
                .dst_overrides
                .iter()
                .filter(|target| target.weight.0 > 0)
                .map(|target| (with_port(&target.authority, port), target.weight.0 * 10))
                .collect();
        }
        if profile.targets.is_empty() {
            profile.targets = self.split(service, port, domain);
        }
        profile.name = Some(name);
        profile
    }

    /// The ServiceProfile of a Service for clients of a namespace: their own namespace's, else the Service's.
    pub fn profile_in_force(&self, client: &str, service: &Service) -> Option<&ServiceProfile> {
        let domain = self.cluster().cluster_domain.trim_end_matches('.');
        let metadata = &service.metadata;
        let name = format!("{}.{}.svc.{domain}", metadata.name, metadata.namespace);
        [client, metadata.namespace.as_str()]
            .iter()
            .find_map(|namespace| self.part(namespace).profile(&name))
    }

    fn split(&self, service: &Service, port: u16, domain: &str) -> Vec<(String, u32)> {
        let metadata = &service.metadata;
        let apex = |name: &str| {
            name == metadata.name
                || name.starts_with(&format!("{}.{}.", metadata.name, metadata.namespace))
        };
        let splits = self.part(&metadata.namespace).splits();
        let Some(split) = splits.values().find(|split| apex(&split.spec.service)) else {
            return Vec::new();
        };
        split
            .spec
            .backends
            .iter()
            .filter(|backend| backend.weight.0 > 0)
            .map(|backend| {
                let name = format!(
                    "{}.{}.svc.{domain}:{port}",
                    backend.service, metadata.namespace
                );
                (name, backend.weight.0 * 10)
            })
            .collect()
    }
}

fn with_port(authority: &str, port: u16) -> String {
    let authority = authority.trim_end_matches('.');
    match authority.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => authority.to_owned(),
        _ => format!("{authority}:{port}"),
    }
}

fn route(route: &traffic::ProfileRoute) -> Option<ProfileRoute> {
    let seconds = route.timeout.as_deref().and_then(go_duration_seconds);
    Some(ProfileRoute {
        condition: condition(&route.condition)?,
        classes: route
            .response_classes
            .iter()
            .filter_map(|class| {
                Some(ResponseClass {
                    condition: response(&class.condition)?,
                    is_failure: class.is_failure,
                })
            })
            .collect(),
        labels: BTreeMap::from([("route".to_owned(), route.name.clone())]),
        is_retryable: route.is_retryable,
        timeout: seconds
            .filter(|seconds| *seconds > 0.0)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    })
}

/// Several fields are all of them.
fn condition(each: &traffic::RequestMatch) -> Option<Condition> {
    let mut all = Vec::new();
    if let Some(pattern) = &each.path_regex {
        all.push(Condition::Path(pattern.clone()));
    }
    if let Some(method) = &each.method {
        all.push(Condition::Method(
            Method::from_bytes(method.as_bytes()).ok()?,
        ));
    }
    if let Some(list) = &each.all {
        let list = list.iter().map(condition).collect::<Option<_>>()?;
        all.push(Condition::All(list));
    }
    if let Some(list) = &each.any {
        let list = list.iter().map(condition).collect::<Option<_>>()?;
        all.push(Condition::Any(list));
    }
    if let Some(not) = &each.not {
        all.push(Condition::Not(Box::new(condition(not)?)));
    }
    match all.len() {
        0 => None,
        1 => all.pop(),
        _ => Some(Condition::All(all)),
    }
}

fn response(each: &traffic::ResponseMatch) -> Option<ResponseCondition> {
    let mut all = Vec::new();
    if let Some(range) = each.status {
        let (min, max) = status_bounds(range);
        all.push(ResponseCondition::Status(min..=max));
    }
    if let Some(list) = &each.all {
        let list = list.iter().map(response).collect::<Option<_>>()?;
        all.push(ResponseCondition::All(list));
    }
    if let Some(list) = &each.any {
        let list = list.iter().map(response).collect::<Option<_>>()?;
        all.push(ResponseCondition::Any(list));
    }
    if let Some(not) = &each.not {
        all.push(ResponseCondition::Not(Box::new(response(not)?)));
    }
    match all.len() {
        0 => None,
        1 => all.pop(),
        _ => Some(ResponseCondition::All(all)),
    }
}

fn budget(budget: &traffic::RetryBudget) -> Option<Budget> {
    let ttl = go_duration_seconds(&budget.ttl)?;
    Some(Budget {
        ratio: budget.retry_ratio,
        min_per_second: budget.min_retries_per_second,
        ttl: Duration::try_from_secs_f64(ttl).ok()?,
    })
}
