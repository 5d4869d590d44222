//! Service profiles from and to the API. Source: `io.linkerd.proxy.destination.DestinationProfile`.
//!
//! A profile is lenient where a policy is strict, as its users expect: a route or class that cannot be used is left
//! out, with a warning, and the rest applies.

use super::{Field, InvalidMessage, endpoints, routes, timeout, to_api};
use crate::outbound::profile::{
    Budget, Condition, Profile, ProfileRoute, ResponseClass, ResponseCondition,
};
use linkerd2_proxy_api::destination::{
    DestinationProfile, HttpStatusRange, PathMatch, RequestMatch, ResponseClass as ApiClass,
    ResponseMatch, RetryBudget, Route, WeightedDst, request_match, response_match,
};
use std::{collections::HashMap, time::Duration};

/// Converts a profile, and says what of it was left out.
pub fn profile_from_api(profile: DestinationProfile) -> (Profile, Vec<InvalidMessage>) {
    let mut warnings = Vec::new();
    let root = Field::Root;
    let mut taken =
        |result: Result<_, InvalidMessage>| result.map_err(|error| warnings.push(error)).ok();
    let mut routes = Vec::new();
    for (at, route) in profile.routes.into_iter().enumerate() {
        routes.extend(taken(self::route(&root.item("routes", at), route)));
    }
    let name = profile
        .fully_qualified_name
        .trim_end_matches('.')
        .to_owned();
    let is_name = !name.is_empty() && name.parse::<http::uri::Authority>().is_ok();
    let mut targets = Vec::new();
    for (at, target) in profile.dst_overrides.into_iter().enumerate() {
        let field = root.item("dst_overrides", at);
        match endpoints::authority(&field.name("authority"), &target.authority) {
            Ok(()) if target.weight > 0 => targets.push((target.authority, target.weight)),
            Ok(()) => {}
            Err(error) => warnings.push(error),
        }
    }
    let budget = profile
        .retry_budget
        .map(|budget| self::budget(&root.name("retry_budget"), &budget));
    let budget = match budget.transpose() {
        Ok(budget) => budget,
        Err(error) => {
            warnings.push(error);
            None
        }
    };
    let endpoint = profile
        .endpoint
        .map(|addr| endpoints::endpoint(&root.name("endpoint"), addr, &HashMap::new()));
    let endpoint = match endpoint.transpose() {
        Ok(endpoint) => endpoint,
        Err(error) => {
            warnings.push(error);
            None
        }
    };
    let profile = Profile {
        name: is_name.then_some(name),
        is_opaque: profile.opaque_protocol,
        routes,
        budget,
        targets,
        endpoint,
    };
    (profile, warnings)
}

fn route(field: &Field<'_>, route: Route) -> Result<ProfileRoute, InvalidMessage> {
    let condition = field.name("condition");
    let condition = self::condition(&condition, condition.needed(route.condition)?)?;
    let classes = route.response_classes.into_iter().filter_map(|class| {
        Some(ResponseClass {
            condition: response_condition(class.condition?)?,
            is_failure: class.is_failure,
        })
    });
    Ok(ProfileRoute {
        condition,
        classes: classes.collect(),
        labels: route.metrics_labels.into_iter().collect(),
        is_retryable: route.is_retryable,
        timeout: match route.timeout {
            None => None,
            Some(limit) if limit.seconds == 0 && limit.nanos == 0 => None,
            some => Some(timeout(&field.name("timeout"), some)?),
        },
    })
}

fn condition(field: &Field<'_>, condition: RequestMatch) -> Result<Condition, InvalidMessage> {
    use request_match::Match;
    let all = |name, matches: Vec<RequestMatch>| {
        let matches = matches.into_iter().enumerate();
        matches
            .map(|(at, each)| self::condition(&field.item(name, at), each))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(match field.needed(condition.r#match)? {
        Match::All(seq) => Condition::All(all("all", seq.matches)?),
        Match::Any(seq) => Condition::Any(all("any", seq.matches)?),
        Match::Not(not) => Condition::Not(Box::new(self::condition(&field.name("not"), *not)?)),
        Match::Path(PathMatch { regex }) => Condition::Path(regex),
        Match::Method(method) => Condition::Method(routes::method(&field.name("method"), method)?),
    })
}

/// `None`: it cannot be used.
fn response_condition(condition: ResponseMatch) -> Option<ResponseCondition> {
    use response_match::Match;
    let all = |matches: Vec<ResponseMatch>| {
        matches
            .into_iter()
            .map(response_condition)
            .collect::<Option<Vec<_>>>()
    };
    Some(match condition.r#match? {
        Match::All(seq) => ResponseCondition::All(all(seq.matches)?),
        Match::Any(seq) => ResponseCondition::Any(all(seq.matches)?),
        Match::Not(not) => ResponseCondition::Not(Box::new(response_condition(*not)?)),
        Match::Status(HttpStatusRange { min, max }) => {
            let (min, max) = (u16::try_from(min).ok()?, u16::try_from(max).ok()?);
            if !(100..=999).contains(&min) || !(100..=999).contains(&max) || min > max {
                return None;
            }
            ResponseCondition::Status(min..=max)
        }
    })
}

fn budget(field: &Field<'_>, budget: &RetryBudget) -> Result<Budget, InvalidMessage> {
    if !(0.0..=1000.0).contains(&budget.retry_ratio) {
        let reason = format!("{} is not within 0 to 1000", budget.retry_ratio);
        return Err(field.name("retry_ratio").invalid(reason));
    }
    let ttl = timeout(&field.name("ttl"), budget.ttl)?;
    if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&ttl) {
        let reason = format!("{ttl:?} is not within 1s to 60s");
        return Err(field.name("ttl").invalid(reason));
    }
    Ok(Budget {
        ratio: budget.retry_ratio,
        min_per_second: budget.min_retries_per_second,
        ttl,
    })
}

/// Converts a profile to the API's message.
pub fn profile_to_api(profile: &Profile) -> DestinationProfile {
    DestinationProfile {
        fully_qualified_name: profile.name.clone().unwrap_or_default(),
        opaque_protocol: profile.is_opaque,
        routes: profile.routes.iter().map(route_to_api).collect(),
        retry_budget: profile.budget.map(|budget| RetryBudget {
            retry_ratio: budget.ratio,
            min_retries_per_second: budget.min_per_second,
            ttl: Some(to_api::duration(budget.ttl)),
        }),
        dst_overrides: profile
            .targets
            .iter()
            .map(|(authority, weight)| WeightedDst {
                authority: authority.clone(),
                weight: *weight,
                backend_ref: None,
            })
            .collect(),
        endpoint: profile.endpoint.as_ref().map(endpoints::endpoint_to_api),
        parent_ref: None,
        profile_ref: None,
    }
}

fn route_to_api(route: &ProfileRoute) -> Route {
    Route {
        condition: Some(condition_to_api(&route.condition)),
        response_classes: route
            .classes
            .iter()
            .map(|class| ApiClass {
                condition: Some(response_to_api(&class.condition)),
                is_failure: class.is_failure,
            })
            .collect(),
        metrics_labels: route.labels.clone().into_iter().collect(),
        is_retryable: route.is_retryable,
        timeout: route.timeout.map(to_api::duration),
    }
}

fn condition_to_api(condition: &Condition) -> RequestMatch {
    use request_match::{Match, Seq};
    let all = |conditions: &[Condition]| Seq {
        matches: conditions.iter().map(condition_to_api).collect(),
    };
    RequestMatch {
        r#match: Some(match condition {
            Condition::All(conditions) => Match::All(all(conditions)),
            Condition::Any(conditions) => Match::Any(all(conditions)),
            Condition::Not(not) => Match::Not(Box::new(condition_to_api(not))),
            Condition::Path(regex) => Match::Path(PathMatch {
                regex: regex.clone(),
            }),
            Condition::Method(method) => Match::Method(to_api::method(method)),
        }),
    }
}

fn response_to_api(condition: &ResponseCondition) -> ResponseMatch {
    use response_match::{Match, Seq};
    let all = |conditions: &[ResponseCondition]| Seq {
        matches: conditions.iter().map(response_to_api).collect(),
    };
    ResponseMatch {
        r#match: Some(match condition {
            ResponseCondition::All(conditions) => Match::All(all(conditions)),
            ResponseCondition::Any(conditions) => Match::Any(all(conditions)),
            ResponseCondition::Not(not) => Match::Not(Box::new(response_to_api(not))),
            ResponseCondition::Status(range) => Match::Status(HttpStatusRange {
                min: (*range.start()).into(),
                max: (*range.end()).into(),
            }),
        }),
    }
}
