//! What is in force at a destination, and which routes, matches, limits and endpoints have no part in it.

use super::{
    super::{
        Report, Severity, key,
        routes::{grpc_candidate, http_candidate, never_match},
    },
    Attached, Kind, Named, POLICY_GROUP, Parent, Route, tcp_ports,
};
use crate::{
    index::{
        EndpointIdentity, Index, OutboundTarget, annotations, attach::has_virtual_address,
        routes::in_order,
    },
    outbound::{Action, OutboundPolicy, Protocol, Ref, profile::Profile},
    resource::{GrpcRoute, HttpRoute, Key, Service},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub(super) fn check(
    index: &Index,
    attached: &BTreeMap<Parent<'_>, Vec<Attached<'_>>>,
    report: &mut Report,
) {
    for (parent, routes) in attached {
        of_parent(index, *parent, routes, report);
    }
    for service in index.services() {
        let metadata = &service.metadata;
        let parent = Parent {
            kind: Named::Service,
            namespace: &metadata.namespace,
            name: &metadata.name,
        };
        let says_limits = metadata
            .annotations
            .keys()
            .any(|name| name.starts_with("retry.") || name.starts_with("timeout."));
        if says_limits && !attached.contains_key(&parent) {
            of_parent(index, parent, &[], report);
        }
        profile_in_place(index, service, report);
        mutual_tls(index, service, report);
    }
}

/// A port of a parent, as clients of a namespace see it.
struct Seen {
    port: u16,
    policy: OutboundPolicy,
    profile: Option<Profile>,
}

fn of_parent(index: &Index, parent: Parent<'_>, routes: &[Attached<'_>], report: &mut Report) {
    // Routes of the parent's namespace are for everybody, others for clients of their own.
    let consumers = routes.iter().map(|each| &*each.route.metadata.namespace);
    let clients: BTreeSet<&str> = consumers.chain([parent.namespace]).collect();
    for client in clients {
        let seen = seen(index, parent, client, routes);
        let is_judged = |route: &Route<'_>| route.metadata.namespace == client;
        for each in routes.iter().filter(|each| is_judged(&each.route)) {
            hidden(index, parent, each, &seen, report);
        }
        let applies =
            |route: &Route<'_>| is_judged(route) || route.metadata.namespace == parent.namespace;
        for seen in &seen {
            let mut here: Vec<&Attached<'_>> = routes
                .iter()
                .filter(|each| each.port.is_none_or(|port| port == seen.port))
                .filter(|each| applies(&each.route) && takes_part(each, seen))
                .collect();
            // A route that names the parent twice counts once.
            here.sort_by(|a, b| a.route.key.cmp(&b.route.key));
            here.dedup_by(|a, b| a.route.key == b.route.key);
            let place = format!("port {} of {parent}", seen.port);
            shadowed(&here, &place, client, report);
            limits(parent, client, seen, report);
        }
    }
}

/// The ports of a parent. Of an EgressNetwork, those that routes name.
fn seen(index: &Index, parent: Parent<'_>, client: &str, routes: &[Attached<'_>]) -> Vec<Seen> {
    let Parent {
        namespace, name, ..
    } = parent;
    let scope = index.scope(namespace);
    match parent.kind {
        Named::Service => {
            let Some(service) = index.service(namespace, name) else {
                return Vec::new();
            };
            let one = |port: u16| {
                let target = OutboundTarget::Service {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    port,
                };
                Some(Seen {
                    port,
                    policy: index.outbound(client, &target)?,
                    profile: Some(index.service_profile(client, service, port)),
                })
            };
            tcp_ports(service).filter_map(one).collect()
        }
        Named::EgressNetwork => {
            let Some(egress) = scope.and_then(|scope| scope.egress_networks.get(name)) else {
                return Vec::new();
            };
            let ports: BTreeSet<u16> = routes.iter().filter_map(|each| each.port).collect();
            let one = |port: u16| Seen {
                port,
                policy: index.of_egress_network(client, egress, port),
                profile: None,
            };
            ports.into_iter().map(one).collect()
        }
    }
}

/// Whether a profile rules this kind of route.
fn is_ruled(route: &Route<'_>, profile: Option<&Profile>) -> bool {
    profile.is_some_and(|profile| match route.kind {
        Kind::Http(_) | Kind::Grpc(_) => !(profile.routes.is_empty() && profile.targets.is_empty()),
        Kind::Tcp => !profile.targets.is_empty(),
        Kind::Tls => false,
    })
}

fn takes_part(each: &Attached<'_>, seen: &Seen) -> bool {
    !is_ruled(&each.route, seen.profile.as_ref())
        && named(&seen.policy).any(|meta| is(meta, &each.route.key))
}

fn is(meta: &Ref, key: &Key) -> bool {
    matches!(meta, Ref::Resource { .. })
        && meta.name() == key.name
        && meta.kind() == key.kind
        && meta.namespace() == key.namespace
        && meta.group() == key.group
}

/// Names of the routes of a policy.
fn named(policy: &OutboundPolicy) -> Box<dyn Iterator<Item = &Ref> + '_> {
    match &policy.protocol {
        Protocol::Detect { http1, opaque, .. } => {
            let http = http1.routes.iter().map(|route| &route.meta);
            Box::new(http.chain(opaque.iter().map(|route| &route.meta)))
        }
        Protocol::Http1(http) | Protocol::Http2(http) => {
            Box::new(http.routes.iter().map(|route| &route.meta))
        }
        Protocol::Grpc(grpc) => Box::new(grpc.routes.iter().map(|route| &route.meta)),
        Protocol::Opaque(routes) | Protocol::Tls(routes) => {
            Box::new(routes.iter().map(|route| &route.meta))
        }
    }
}

/// A route that counts on none of the ports that it is attached to.
fn hidden(
    index: &Index,
    parent: Parent<'_>,
    each: &Attached<'_>,
    seen: &[Seen],
    report: &mut Report,
) {
    let here: Vec<&Seen> = seen
        .iter()
        .filter(|seen| each.port.is_none_or(|port| port == seen.port))
        .collect();
    if here.iter().any(|seen| takes_part(each, seen)) {
        return;
    }
    let Some(first) = here.first() else {
        return;
    };
    let route = &each.route;
    let (why, fix) = if let Some(why) = why_no_routes(index, parent) {
        (
            why.to_owned(),
            "attach it to a Service that has an address, for example one beside it with the same selector",
        )
    } else if is_ruled(route, first.profile.as_ref()) {
        (
            format!("a ServiceProfile or TrafficSplit of {parent} rules in place of routes"),
            "delete the ServiceProfile or TrafficSplit, or the route",
        )
    } else {
        (
            why_hidden(route, &first.policy),
            "attach it to another port, or remove what takes its place",
        )
    };
    let ports: Vec<String> = here.iter().map(|seen| seen.port.to_string()).collect();
    report.add(
        Severity::Error,
        "route-hidden",
        route.key.clone(),
        format!(
            "has no effect on port {} of {parent}: {why}",
            ports.join(", ")
        ),
        fix,
    );
}

/// Why no route at all applies to a parent.
fn why_no_routes(index: &Index, parent: Parent<'_>) -> Option<&'static str> {
    if parent.kind != Named::Service {
        return None;
    }
    let service = index.service(parent.namespace, parent.name)?;
    if service.is_external_name() {
        return Some(
            "it is an ExternalName, an alias without an address that routes could apply to",
        );
    }
    (!has_virtual_address(service)).then_some(
        "it is headless (clusterIP: None), and routes apply to what is sent to a Service's address",
    )
}

/// What makes a port something that the route is not for.
fn why_hidden(route: &Route<'_>, policy: &OutboundPolicy) -> String {
    let is_own_kind = matches!(
        (&policy.protocol, route.kind),
        (Protocol::Grpc(_), Kind::Grpc(_))
            | (
                Protocol::Detect { .. } | Protocol::Http1(_) | Protocol::Http2(_),
                Kind::Http(_)
            )
    );
    if is_own_kind {
        return "a name of a header or an annotation of it cannot be read".to_owned();
    }
    let first = named(policy).find(|meta| matches!(meta, Ref::Resource { .. }));
    let first = first.map(|meta| format!("{} {}/{}", meta.kind(), meta.namespace(), meta.name()));
    match (&policy.protocol, first) {
        (Protocol::Grpc(_), Some(first)) => format!("{first} makes it a gRPC port"),
        (Protocol::Http1(_), _) => "its appProtocol is http".to_owned(),
        (Protocol::Http2(_), _) => "its appProtocol is kubernetes.io/h2c".to_owned(),
        (Protocol::Opaque(_), Some(first)) if matches!(route.kind, Kind::Tcp) => {
            format!("{first} is older (or first by name) and takes every connection")
        }
        (Protocol::Opaque(_), Some(first)) => {
            format!("it carries bytes, which {first} takes")
        }
        (Protocol::Opaque(_), None) => {
            format!(
                "its appProtocol or {} says that it carries bytes",
                annotations::OPAQUE_PORTS
            )
        }
        (Protocol::Tls(_), Some(first)) => format!("{first} makes it a TLS port"),
        (_, Some(first)) => format!("{first} makes it an HTTP port"),
        (_, None) => "it is an HTTP port".to_owned(),
    }
}

fn shadowed(here: &[&Attached<'_>], place: &str, client: &str, report: &mut Report) {
    let concerns = |key: &Key| key.namespace == client;
    let mut http: Vec<&HttpRoute> = here
        .iter()
        .filter_map(|each| match each.route.kind {
            Kind::Http(route) => Some(route),
            _ => None,
        })
        .collect();
    in_order(&mut http);
    let http: Vec<_> = http.into_iter().map(http_candidate).collect();
    never_match(&http, place, concerns, report);
    let mut grpc: Vec<&GrpcRoute> = here
        .iter()
        .filter_map(|each| match each.route.kind {
            Kind::Grpc(route) => Some(route),
            _ => None,
        })
        .collect();
    grpc.sort_by(|a, b| a.metadata.age_key().cmp(&b.metadata.age_key()));
    let grpc: Vec<_> = grpc.into_iter().map(grpc_candidate).collect();
    never_match(&grpc, place, concerns, report);
}

/// Limits that are never reached, since another one always ends the request before.
fn limits(parent: Parent<'_>, client: &str, seen: &Seen, report: &mut Report) {
    let actions: Vec<(&Ref, &Action)> = match &seen.policy.protocol {
        Protocol::Detect { http1: http, .. } | Protocol::Http1(http) | Protocol::Http2(http) => {
            let rules = http.routes.iter();
            rules
                .flat_map(|r| r.rules.iter().map(|rule| (&r.meta, &rule.action)))
                .collect()
        }
        Protocol::Grpc(grpc) => {
            let rules = grpc.routes.iter();
            rules
                .flat_map(|r| r.rules.iter().map(|rule| (&r.meta, &rule.action)))
                .collect()
        }
        Protocol::Opaque(_) | Protocol::Tls(_) => return,
    };
    for (meta, action) in actions {
        let Some(request) = action.timeouts.request else {
            continue;
        };
        let object = match meta {
            Ref::Resource { .. } if meta.namespace() == client => Key {
                group: meta.group().to_owned(),
                kind: meta.kind().to_owned(),
                namespace: meta.namespace().to_owned(),
                name: meta.name().to_owned(),
            },
            Ref::Default { .. } if parent.namespace == client => parent.key(),
            _ => continue,
        };
        let retry = action.retry.as_ref().and_then(|retry| retry.timeout);
        let limits = [
            (
                "retry.linkerd.io/timeout",
                retry,
                "nothing is ever retried for taking too long",
            ),
            (
                "timeout.linkerd.io/response",
                action.timeouts.response,
                "it is never reached",
            ),
            (
                "timeout.linkerd.io/idle",
                action.timeouts.idle,
                "it is never reached",
            ),
        ];
        for (name, limit, effect) in limits {
            if let Some(limit) = limit.filter(|limit| *limit >= request) {
                report.add(
                    Severity::Warning,
                    "timeout-never-reached",
                    object.clone(),
                    format!(
                        "{name} of {} is not shorter than the request's limit of {}: {effect}",
                        shown(limit),
                        shown(request)
                    ),
                    "make it shorter than timeout.linkerd.io/request (or timeouts.request of the rule), or remove it",
                );
            }
        }
    }
}

fn shown(limit: Duration) -> String {
    let millis = limit.as_millis();
    if millis.is_multiple_of(1000) {
        format!("{}s", millis / 1000)
    } else {
        format!("{millis}ms")
    }
}

impl Parent<'_> {
    fn key(&self) -> Key {
        let (group, kind) = match self.kind {
            Named::Service => ("", "Service"),
            Named::EgressNetwork => (POLICY_GROUP, "EgressNetwork"),
        };
        Key {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
        }
    }
}

/// Where a profile or split rules HTTP, annotations of the Service do not.
fn profile_in_place(index: &Index, service: &Service, report: &mut Report) {
    let metadata = &service.metadata;
    let domains = [
        "retry.linkerd.io/",
        "timeout.linkerd.io/",
        "balancer.linkerd.io/",
    ];
    let own = metadata.annotations.keys();
    let said: Vec<&str> = own
        .filter(|name| domains.iter().any(|domain| name.starts_with(domain)))
        .map(String::as_str)
        .collect();
    let Some(port) = tcp_ports(service).next().filter(|_| !said.is_empty()) else {
        return;
    };
    let profile = index.service_profile(&metadata.namespace, service, port);
    if profile.routes.is_empty() && profile.targets.is_empty() {
        return;
    }
    report.add(
        Severity::Warning,
        "annotation-ignored",
        key("", "Service", metadata),
        format!(
            "annotations {} have no effect: a ServiceProfile or TrafficSplit rules in place of them",
            super::super::listed(said)
        ),
        "say it in the ServiceProfile, or delete that and write routes",
    );
}

/// A Service that asks of its endpoints what they are not.
fn mutual_tls(index: &Index, service: &Service, report: &mut Report) {
    let metadata = &service.metadata;
    let asked = index.outbound_mtls(&metadata.namespace, &metadata.name);
    let is_required = asked.is_required == Some(true) || !asked.identities.is_empty();
    if !is_required {
        return;
    }
    let mut refused = BTreeSet::new();
    let mut accepted = BTreeSet::new();
    for port in tcp_ports(service) {
        let all = index.endpoints(&metadata.namespace, &metadata.name, port);
        for endpoint in all.unwrap_or_default() {
            let shows = endpoint.identity.as_ref().map(|identity| match identity {
                EndpointIdentity::Dns(name) | EndpointIdentity::Uri(name) => name.clone(),
            });
            let is_wanted =
                |shown: &String| asked.identities.is_empty() || asked.identities.contains(shown);
            let fits = shows.as_ref().is_some_and(is_wanted);
            let what = shows.unwrap_or_else(|| "no identity".to_owned());
            let workload = endpoint.workload.as_ref().map(|w| w.name().to_owned());
            let name = workload.unwrap_or_else(|| endpoint.addr.to_string());
            let named = format!("{port} of {name} ({what})");
            if fits { &mut accepted } else { &mut refused }.insert(named);
        }
    }
    if refused.is_empty() {
        return;
    }
    let (severity, effect) = if accepted.is_empty() {
        (
            Severity::Error,
            "no endpoint may get anything: all is refused with 502",
        )
    } else {
        (
            Severity::Warning,
            "some endpoints may get nothing: what is sent to them is refused with 502",
        )
    };
    report.add(
        severity,
        "mtls-refuses-endpoint",
        key("", "Service", metadata),
        format!(
            "asks for mutual TLS, and {effect}: port {}",
            super::super::listed(refused.iter().map(String::as_str))
        ),
        format!(
            "give the workloads an identity, or correct {} or {}",
            annotations::OUTBOUND_MTLS,
            annotations::OUTBOUND_SERVER_IDENTITIES
        ),
    );
}
