//! `linkerd stat retries ADMIN...`: how many retries there are, what share of the traffic they make, why, and whether
//! they helped, over one or many sidecars.

use crate::{
    fetch,
    outcome::{Failure, Outcome, Output, json, plain, show, table},
};
use serde::Serialize;
use std::{collections::BTreeMap, net::SocketAddr};

#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Retries by destination and route: how many, what share, why, and did they help.
    Retries(Flags),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Flags {
    /// Admin servers of sidecars, for example 127.0.0.1:4191.
    #[arg(required = true)]
    admin: Vec<SocketAddr>,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// The numbers of one route, over all sidecars.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Route {
    parent: String,
    route: String,
    /// Requests of applications.
    requests: f64,
    /// Of them, retried at least once.
    retried: f64,
    /// Attempts after the first.
    retries: f64,
    /// Retries among all attempts.
    share: f64,
    recovered: f64,
    gave_up: f64,
    /// What called for retries.
    reasons: BTreeMap<String, f64>,
    /// Why retries that were called for were not sent.
    suppressed: BTreeMap<String, f64>,
    /// What became of the requests.
    fates: BTreeMap<String, f64>,
}

/// `linkerd stat`.
pub(crate) async fn run(Command::Retries(flags): Command) -> Result<Outcome, Failure> {
    let mut routes = BTreeMap::new();
    let mut failures = Vec::new();
    for address in &flags.admin {
        match fetch::get(*address, "/metrics", "text/plain").await {
            Ok(page) if page.status.is_success() => read(&page.body, &mut routes),
            Ok(page) => failures.push(format!(
                "http://{address}/metrics: {}; the sidecar's admin policy decides who may read it",
                page.status
            )),
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    for failure in &failures {
        eprintln!("linkerd: {}", plain(failure));
    }
    let routes: Vec<Route> = routes
        .into_values()
        .filter(is_shown)
        .map(finished)
        .collect();
    match flags.output {
        Output::Json => json(&routes)?,
        Output::Text => show(&written(&routes))?,
    }
    Ok(Outcome::when(failures.is_empty()))
}

/// Adds the numbers of a page.
fn read(page: &str, routes: &mut BTreeMap<(String, String), Route>) {
    for line in page.lines() {
        let Some((name, rest)) = line.split_once('{') else {
            continue;
        };
        let family = name.strip_prefix("outbound_route_").unwrap_or_default();
        if !matches!(
            family,
            "request_fates_total"
                | "retries_total"
                | "retries_suppressed_total"
                | "retried_requests_total"
        ) {
            continue;
        }
        let Some((labels, value)) = rest.rsplit_once("} ") else {
            continue;
        };
        let Ok(value) = value.split(' ').next().unwrap_or_default().parse::<f64>() else {
            continue;
        };
        let labels = labels_of(labels);
        let get = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let parent = named(&get, "parent");
        let route = named(&get, "route");
        let entry = routes
            .entry((parent.clone(), route.clone()))
            .or_insert_with(|| Route {
                parent,
                route,
                ..Route::default()
            });
        match family {
            "request_fates_total" => {
                entry.requests += value;
                *entry.fates.entry(get("fate")).or_default() += value;
            }
            "retries_total" => {
                entry.retries += value;
                *entry.reasons.entry(get("reason")).or_default() += value;
            }
            "retries_suppressed_total" => {
                *entry.suppressed.entry(get("reason")).or_default() += value;
            }
            _ if get("outcome") == "recovered" => entry.recovered += value,
            _ => entry.gave_up += value,
        }
    }
}

/// `Service.shop.web:80`, `default.http`; `other` where the sidecar had no room for the name.
fn named(get: &impl Fn(&str) -> String, prefix: &str) -> String {
    let part = |name: &str| get(&format!("{prefix}_{name}"));
    let (kind, namespace, name, port) =
        (part("kind"), part("namespace"), part("name"), part("port"));
    if [&kind, &namespace, &name]
        .iter()
        .all(|part| *part == "other")
    {
        return "other".to_owned();
    }
    let port = if port.is_empty() {
        port
    } else {
        format!(":{port}")
    };
    if namespace.is_empty() {
        return format!("{kind}.{name}{port}");
    }
    format!("{kind}.{namespace}.{name}{port}")
}

/// The labels of a series. Escapes are left as they are: names of the mesh need none.
fn labels_of(mut text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let Some((value, rest)) = rest.split_once('"') else {
            break;
        };
        labels.insert(name.trim_start_matches(',').to_owned(), value.to_owned());
        text = rest;
    }
    labels
}

/// Most sidecars have no requests that come to no route, and their series are there all the same.
fn is_shown(route: &Route) -> bool {
    route.parent != "default.unrouted" || route.requests > 0.0
}

fn finished(mut route: Route) -> Route {
    route.retried = route.recovered + route.gave_up;
    let attempts = route.requests + route.retries;
    route.share = if attempts > 0.0 {
        route.retries / attempts
    } else {
        0.0
    };
    for counts in [&mut route.reasons, &mut route.suppressed, &mut route.fates] {
        counts.retain(|_, count| *count > 0.0);
    }
    route
}

/// What became of the requests of every route.
fn sum(routes: &[Route]) -> Route {
    let mut sum = Route {
        parent: "all".to_owned(),
        ..Route::default()
    };
    for route in routes {
        sum.requests += route.requests;
        sum.retries += route.retries;
        sum.recovered += route.recovered;
        sum.gave_up += route.gave_up;
        for (into, from) in [
            (&mut sum.reasons, &route.reasons),
            (&mut sum.suppressed, &route.suppressed),
        ] {
            for (name, count) in from {
                *into.entry(name.clone()).or_default() += count;
            }
        }
    }
    finished(sum)
}

fn written(routes: &[Route]) -> String {
    let counts = |counts: &BTreeMap<String, f64>| {
        let all = counts.iter().map(|(name, count)| format!("{name} {count}"));
        all.collect::<Vec<_>>().join(", ")
    };
    let row = |route: &Route| {
        let mut why = counts(&route.reasons);
        if !route.suppressed.is_empty() {
            let suppressed = counts(&route.suppressed);
            let gap = if why.is_empty() { "" } else { "; " };
            why = format!("{why}{gap}not retried: {suppressed}");
        }
        vec![
            plain(&route.parent),
            plain(&route.route),
            route.requests.to_string(),
            route.retried.to_string(),
            route.retries.to_string(),
            format!("{:.1}%", route.share * 100.0),
            route.recovered.to_string(),
            route.gave_up.to_string(),
            plain(&why),
        ]
    };
    let mut rows: Vec<_> = routes.iter().map(row).collect();
    if routes.len() > 1 {
        rows.push(row(&sum(routes)));
    }
    let head = [
        "DESTINATION",
        "ROUTE",
        "REQUESTS",
        "RETRIED",
        "RETRIES",
        "SHARE",
        "RECOVERED",
        "GAVE UP",
        "WHY",
    ];
    table(&head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_several_sidecars_are_summed_by_route() {
        let page = r#"# TYPE outbound_route_request_fates_total counter
outbound_route_request_fates_total{parent_group="core",parent_kind="Service",parent_namespace="shop",parent_name="payments",parent_port="80",parent_section_name="",route_group="",route_kind="default",route_namespace="",route_name="http",fate="success"} 90
outbound_route_request_fates_total{parent_group="core",parent_kind="Service",parent_namespace="shop",parent_name="payments",parent_port="80",parent_section_name="",route_group="",route_kind="default",route_namespace="",route_name="http",fate="recovered"} 10
outbound_route_retries_total{parent_group="core",parent_kind="Service",parent_namespace="shop",parent_name="payments",parent_port="80",parent_section_name="",route_group="",route_kind="default",route_namespace="",route_name="http",reason="503"} 25
outbound_route_retried_requests_total{parent_group="core",parent_kind="Service",parent_namespace="shop",parent_name="payments",parent_port="80",parent_section_name="",route_group="",route_kind="default",route_namespace="",route_name="http",outcome="recovered"} 10
process_start_time_seconds 7
"#;
        let mut routes = BTreeMap::new();
        read(page, &mut routes);
        read(page, &mut routes);
        let routes: Vec<Route> = routes
            .into_values()
            .filter(is_shown)
            .map(finished)
            .collect();
        let [route] = &routes[..] else {
            panic!("{routes:?}")
        };
        assert_eq!(route.parent, "Service.shop.payments:80");
        assert_eq!(route.route, "default.http");
        let numbers = [route.requests, route.retried, route.retries, route.share];
        assert_eq!(numbers, [200.0, 20.0, 50.0, 0.2]);
        assert!(written(&routes).contains("503 50"));
    }
}
