//! What this proxy knows of destinations, and what became of requests to them: `/outbound`, `/retries`.

use super::{
    State,
    pages::{Answer, json, text},
    utc,
};
use crate::{
    discovery::{endpoints::EndpointWatch, outbound::Lookup},
    outbound::{Outbound, balance::BalancerState, retry::RouteNumbers},
    table,
};
use http::StatusCode;
use linkerd_policy::outbound::Protocol;
use serde::Serialize;
use std::{
    fmt::Write,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

/// Endpoints of one name that are written out; what is beyond is counted.
const MAX_LISTED: usize = 1000;

#[derive(Serialize)]
struct Page {
    destinations: Vec<Destination>,
    endpoints: Vec<Endpoints>,
    balancers: Vec<Balancer>,
}

#[derive(Serialize)]
struct Destination {
    target: String,
    version: u64,
    received: String,
    /// Seconds since it was received.
    age: u64,
    source: &'static str,
    parent: String,
    protocol: &'static str,
    routes: Vec<String>,
    mtls: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    server_identities: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    /// The profile routes or splits, in place of the policy's routes.
    is_by_profile: bool,
}

#[derive(Serialize)]
struct Endpoints {
    path: String,
    version: u64,
    age: u64,
    /// The control plane tells of changes now.
    connected: bool,
    known: bool,
    exists: bool,
    addresses: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "is_zero")]
    omitted: usize,
}

#[derive(Serialize)]
struct Balancer {
    backend: String,
    /// `http`, `tcp` or `tls`: a backend whose protocol is detected has two.
    balances: String,
    #[serde(flatten)]
    state: BalancerState,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn age(at: SystemTime) -> u64 {
    at.elapsed().unwrap_or(Duration::ZERO).as_secs()
}

/// `GET /outbound`.
pub(super) fn destinations(state: &State, is_json: bool) -> Answer {
    let outbound = &state.outbound;
    let page = Page {
        destinations: outbound.store.lookups().iter().map(destination).collect(),
        endpoints: outbound.store.watches().iter().map(endpoints).collect(),
        balancers: outbound
            .in_use()
            .into_iter()
            .map(|(backend, balances, state)| Balancer {
                backend,
                balances,
                state,
            })
            .collect(),
    };
    if is_json {
        return json(StatusCode::OK, &page);
    }
    text(StatusCode::OK, written(&page))
}

fn destination(lookup: &std::sync::Arc<Lookup>) -> Destination {
    let known = lookup.current();
    let (protocol, routes) = match &known.policy.protocol {
        Protocol::Detect { http1, .. } => ("detect", names(&http1.routes, |r| r.meta.to_string())),
        Protocol::Http1(http) => ("http1", names(&http.routes, |r| r.meta.to_string())),
        Protocol::Http2(http) => ("http2", names(&http.routes, |r| r.meta.to_string())),
        Protocol::Grpc(grpc) => ("grpc", names(&grpc.routes, |r| r.meta.to_string())),
        Protocol::Opaque(routes) => ("opaque", names(routes, |r| r.meta.to_string())),
        Protocol::Tls(routes) => ("tls", names(routes, |r| r.meta.to_string())),
    };
    Destination {
        target: lookup.target().to_string(),
        version: known.version,
        received: utc(known.received),
        age: age(known.received),
        source: known.source.as_str(),
        parent: known.policy.parent.to_string(),
        protocol,
        routes,
        mtls: match known.mtls.is_required {
            Some(true) => "required",
            Some(false) => "preferred",
            None => "as configured",
        },
        server_identities: known.mtls.identities.clone(),
        is_by_profile: known.profile.as_ref().is_some_and(|profile| {
            profile.name.is_some() && !(profile.routes.is_empty() && profile.targets.is_empty())
        }),
        profile: known
            .profile
            .as_ref()
            .and_then(|profile| profile.name.clone()),
    }
}

fn names<R>(routes: &[R], name: impl Fn(&R) -> String) -> Vec<String> {
    routes.iter().map(name).collect()
}

fn endpoints(watch: &std::sync::Arc<EndpointWatch>) -> Endpoints {
    let set = watch.current();
    let addresses: Vec<_> = set.endpoints.iter().map(|each| each.address).collect();
    Endpoints {
        path: watch.path().to_owned(),
        version: set.version,
        age: age(set.received),
        connected: watch.is_connected(),
        known: set.known,
        exists: set.exists,
        omitted: addresses.len().saturating_sub(MAX_LISTED),
        addresses: addresses.into_iter().take(MAX_LISTED).collect(),
    }
}

fn written(page: &Page) -> String {
    let mut out = String::new();
    for each in &page.destinations {
        let servers = match each.server_identities.as_slice() {
            [] => String::new(),
            identities => format!(", servers {}", identities.join(" or ")),
        };
        let profile = match &each.profile {
            Some(profile) if each.is_by_profile => format!("; by profile: {profile}"),
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "{} is {} ({}), version {}, from {}, {} s ago, mTLS {}{servers}; routes: {}{profile}",
            each.target,
            each.parent,
            each.protocol,
            each.version,
            each.source,
            each.age,
            each.mtls,
            each.routes.join(", ")
        );
    }
    for each in &page.balancers {
        let _ = writeln!(
            out,
            "\n{} ({}) over {}, version {}{}{}",
            each.backend,
            each.balances,
            each.state.path,
            each.state.version,
            if each.state.is_failing_fast {
                ", failing fast"
            } else {
                ""
            },
            if each.state.is_connected {
                ""
            } else {
                ", the control plane is away"
            },
        );
        for endpoint in each.state.endpoints.iter().take(MAX_LISTED) {
            let _ = writeln!(
                out,
                "  {} {}, weight {}, zone {}, {} outstanding, {:.1} ms",
                endpoint.address,
                endpoint.state,
                endpoint.weight,
                endpoint.zone,
                endpoint.outstanding,
                endpoint.latency_ms
            );
        }
    }
    if out.is_empty() {
        out.push_str("no destination is in use\n");
    }
    out
}

/// `GET /retries`.
pub(super) fn retries(outbound: &Outbound, is_json: bool) -> Answer {
    let routes = outbound.retries.numbers();
    if is_json {
        return json(StatusCode::OK, &routes);
    }
    let mut page = String::new();
    if routes.is_empty() {
        page.push_str("no route is in use\n");
    }
    let mut rows: Vec<_> = routes.iter().map(row).collect();
    if routes.len() > 1 {
        rows.push(row(&RouteNumbers::sum(&routes)));
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
        "BUDGET",
        "WHY",
    ];
    if !rows.is_empty() {
        page.push_str(&table(&head, &rows));
    }
    match outbound.retries.forgotten() {
        0 => {}
        1 => {
            page.push_str("\n1 route that was idle for METRICS_RETAIN_IDLE is no longer counted\n")
        }
        many => {
            let _ = writeln!(
                page,
                "\n{many} routes that were idle for METRICS_RETAIN_IDLE are no longer counted"
            );
        }
    }
    text(StatusCode::OK, page)
}

fn row(route: &RouteNumbers) -> Vec<String> {
    let why = |counts: &[(&'static str, u64)]| {
        let some = counts.iter().filter(|(_, count)| *count > 0);
        some.map(|(name, count)| format!("{name} {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut reasons = why(&route.reasons);
    let suppressed = why(&route.suppressed);
    if !suppressed.is_empty() {
        let gap = if reasons.is_empty() { "" } else { "; " };
        reasons = format!("{reasons}{gap}not retried: {suppressed}");
    }
    let budget = route
        .budget
        .map_or_else(|| "-".to_owned(), |left| left.to_string());
    vec![
        route.parent.clone(),
        route.route.clone(),
        route.requests.to_string(),
        (route.recovered + route.gave_up).to_string(),
        route.retries.to_string(),
        format!("{:.1}%", route.share() * 100.0),
        route.recovered.to_string(),
        route.gave_up.to_string(),
        budget,
        reasons,
    ]
}
