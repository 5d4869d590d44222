//! Routes: are they attached, can they match, and may anybody use them.

use super::{
    Lint, Report, Severity, key,
    shadow::{Candidate, Compared, dead},
};
use crate::{
    index::{
        Workload,
        attach::{ParentKind, server_parents},
        inbound::selects_workload,
        routes::{
            Unsupported, attached_grpc_routes, attached_http_routes, grpc_matches, grpc_rules,
            http_matches, http_rules, in_order,
        },
        servers::ports_of,
        status::http_key,
    },
    resource::{
        GATEWAY_GROUP, GrpcRoute, HttpRoute, Key, Metadata, POLICY_GROUP, ProxyProtocol,
        RouteGroup, Server,
        route::{ParentRef, RouteFilter},
    },
    server::{GrpcMatch, HttpMatch, Meta, Protocol},
};

pub(super) fn check(lint: Lint<'_>, report: &mut Report) {
    for route in lint.scope.http_routes.values() {
        let rules = http_rules(&route.spec.rules).err();
        let filters = route.spec.rules.iter().flat_map(|r| &r.filters);
        let facts = Facts {
            key: http_key(route),
            group: route.group,
            metadata: &route.metadata,
            parents: &route.spec.parent_refs,
            is_grpc: false,
        };
        one(lint, facts, rules, filters, report);
    }
    for route in lint.scope.grpc_routes.values() {
        let rules = grpc_rules(&route.spec.rules).err();
        let filters = route.spec.rules.iter().flat_map(|r| &r.filters);
        let facts = Facts {
            key: key(GATEWAY_GROUP, "GRPCRoute", &route.metadata),
            group: RouteGroup::Gateway,
            metadata: &route.metadata,
            parents: &route.spec.parent_refs,
            is_grpc: true,
        };
        one(lint, facts, rules, filters, report);
    }
    for server in lint.scope.servers.values() {
        shadowed(lint, server, report);
        denied(lint, server, report);
    }
}

struct Facts<'a> {
    key: Key,
    group: RouteGroup,
    metadata: &'a Metadata,
    parents: &'a [ParentRef],
    is_grpc: bool,
}

fn one<'a>(
    lint: Lint<'_>,
    facts: Facts<'_>,
    unsupported: Option<Unsupported>,
    filters: impl Iterator<Item = &'a RouteFilter>,
    report: &mut Report,
) {
    misnamed(&facts, report);
    let names = match server_parents(facts.group, facts.metadata, facts.parents) {
        Ok(names) => names,
        Err(bad) => {
            report.add(
                Severity::Error,
                "route-parent-invalid",
                facts.key,
                format!("is not read: {}", bad.field),
                bad.reason,
            );
            return;
        }
    };
    for name in &names {
        let Some(server) = lint.scope.servers.get(name) else {
            report.add(
                Severity::Error,
                "route-without-parent",
                facts.key.clone(),
                format!("is attached to Server {name}, which does not exist (NoMatchingParent)"),
                format!("write the name of a Server of namespace {}", lint.namespace),
            );
            continue;
        };
        protocol(&facts, server, report);
    }
    if names.is_empty() {
        // A route of a Service or Gateway: the outbound side's, or somebody else's.
        return;
    }
    if let Some(Unsupported { field, what }) = unsupported {
        report.add(
            Severity::Error,
            "route-unsupported",
            facts.key.clone(),
            format!("is not read: {what} ({field}) is not implemented for inbound traffic"),
            "use RequestHeaderModifier or RequestRedirect, or remove the filter",
        );
    }
    if filters
        .into_iter()
        .any(|f| f.kind == "ResponseHeaderModifier")
    {
        report.add(
            Severity::Warning,
            "route-filter-ignored",
            facts.key,
            "ResponseHeaderModifier has no effect on inbound traffic",
            "remove the filter, or change the header in the application",
        );
    }
}

/// The defaults of group and kind differ between the two groups of routes and are easily forgotten.
fn misnamed(facts: &Facts<'_>, report: &mut Report) {
    for (i, parent) in facts.parents.iter().enumerate() {
        let (what, fix) = if parent.is(facts.group, POLICY_GROUP, "Gateway") {
            ("has no kind, which means Gateway", "write kind: Server")
        } else if ["", GATEWAY_GROUP]
            .iter()
            .any(|group| parent.is(facts.group, group, "Server"))
        {
            (
                "is a Server of another group than policy.linkerd.io",
                "write group: policy.linkerd.io",
            )
        } else {
            continue;
        };
        report.add(
            Severity::Error,
            "route-parent-invalid",
            facts.key.clone(),
            format!(
                "is not attached to {}: spec.parentRefs[{i}] {what}",
                parent.name
            ),
            fix,
        );
    }
}

fn protocol(facts: &Facts<'_>, server: &Server, report: &mut Report) {
    let protocol = server.spec.proxy_protocol;
    let fits = match protocol {
        ProxyProtocol::Grpc => facts.is_grpc,
        ProxyProtocol::Unknown | ProxyProtocol::Http1 | ProxyProtocol::Http2 => !facts.is_grpc,
        ProxyProtocol::Opaque | ProxyProtocol::Tls => false,
    };
    if fits {
        return;
    }
    let wanted = if facts.is_grpc {
        "gRPC"
    } else {
        "unknown, HTTP/1 or HTTP/2"
    };
    let name = &server.metadata.name;
    report.add(
        Severity::Error,
        "route-wrong-protocol",
        facts.key.clone(),
        format!(
            "has no effect on Server {name}, whose proxyProtocol is {}",
            protocol.as_str()
        ),
        format!("set proxyProtocol of Server {name} to {wanted}"),
    );
}

/// Of routes that match the same requests equally well, the first in order gets them all.
fn shadowed(lint: Lint<'_>, server: &Server, report: &mut Report) {
    let place = format!("Server {}", server.metadata.name);
    let part = lint.scope.part();
    let all = part.routes_of(ParentKind::Server, lint.namespace, &server.metadata.name);
    let mut routes = attached_http_routes(&all, lint.namespace, server);
    in_order(&mut routes);
    // One with a filter that is not implemented is not read at all.
    routes.retain(|route| http_rules(&route.spec.rules).is_ok());
    let http: Vec<_> = routes.iter().map(|route| http_candidate(route)).collect();
    never_match(&http, &place, |_| true, report);
    let mut routes = attached_grpc_routes(&all, lint.namespace, server);
    routes.sort_by(|a, b| a.metadata.age_key().cmp(&b.metadata.age_key()));
    routes.retain(|route| grpc_rules(&route.spec.rules).is_ok());
    let grpc: Vec<_> = routes.iter().map(|route| grpc_candidate(route)).collect();
    never_match(&grpc, &place, |_| true, report);
}

/// What an HTTPRoute matches.
pub(super) fn http_candidate(route: &HttpRoute) -> Candidate<'_, HttpMatch> {
    Candidate {
        key: http_key(route),
        hosts: &route.spec.hostnames,
        rules: http_matches(&route.spec.rules).unwrap_or_default(),
    }
}

/// What a GRPCRoute matches.
pub(super) fn grpc_candidate(route: &GrpcRoute) -> Candidate<'_, GrpcMatch> {
    Candidate {
        key: key(GATEWAY_GROUP, "GRPCRoute", &route.metadata),
        hosts: &route.spec.hostnames,
        rules: grpc_matches(&route.spec.rules).unwrap_or_default(),
    }
}

/// Reports the matches of `routes`, which are in order, that take nothing at `place`.
pub(super) fn never_match<M: Compared>(
    routes: &[Candidate<'_, M>],
    place: &str,
    concerns: impl Fn(&Key) -> bool,
    report: &mut Report,
) {
    for dead in dead(routes) {
        let (route, i, j) = dead.at;
        let (Some(object), Some(winner)) = (routes.get(route), routes.get(dead.winner)) else {
            continue;
        };
        if !concerns(&object.key) {
            continue;
        }
        let is_own = object.key == winner.key;
        let name = if winner.key.namespace == object.key.namespace {
            winner.key.name.clone()
        } else {
            format!("{}/{}", winner.key.namespace, winner.key.name)
        };
        let (why, fix) = match (dead.prefix, is_own) {
            (None, true) => (
                "an earlier match of the same route matches the same requests".to_owned(),
                "remove it, or make it more specific",
            ),
            (None, false) => (
                format!(
                    "route {name}, which is older (or first by name), matches the same requests"
                ),
                "remove it, or make it more specific",
            ),
            (Some(prefix), is_own) => {
                let of = if is_own {
                    "the same route".to_owned()
                } else {
                    format!("route {name}")
                };
                (
                    format!(
                        "prefix {prefix} of {of} takes all that the regular expression covers, and comes first"
                    ),
                    "write its path as a prefix, which wins by being longer, or make the shorter one an expression too",
                )
            }
        };
        report.add(
            Severity::Warning,
            "route-never-matches",
            object.key.clone(),
            format!("spec.rules[{i}].matches[{j}] never matches on {place}: {why}"),
            fix,
        );
    }
}

/// Routes that neither their own authorizations nor those of the Server open to anybody.
fn denied(lint: Lint<'_>, server: &Server, report: &mut Report) {
    let selected = |w: &&Workload| selects_workload(server, w);
    let keeps = lint.scope.workloads().filter(selected).find_map(|w| {
        let mut ports = ports_of(server, w).into_iter();
        let port = ports.find(|p| {
            let winner = lint.scope.servers.keeper(w, *p);
            winner.is_some_and(|s| s.metadata.name == server.metadata.name)
        })?;
        lint.index.inbound(&w.reference(), port)
    });
    let Some(policy) = keeps.filter(|p| p.authorizations.is_empty()) else {
        return;
    };
    let routes: Vec<(&Meta, bool)> = match &policy.protocol {
        Protocol::Detect { http, .. } | Protocol::Http1(http) | Protocol::Http2(http) => {
            let fact = |r: &crate::server::HttpRoute| r.authorizations.is_empty();
            http.routes.iter().map(|r| (&r.meta, fact(r))).collect()
        }
        Protocol::Grpc { routes } => {
            let each = routes.iter();
            each.map(|r| (&r.meta, r.authorizations.is_empty()))
                .collect()
        }
        Protocol::Opaque | Protocol::Tls => return,
    };
    for (meta, empty) in routes {
        let Meta::Resource { group, kind, name } = meta else {
            continue;
        };
        if !empty {
            continue;
        }
        let object = Key {
            group: group.clone(),
            kind: kind.clone(),
            namespace: lint.namespace.to_owned(),
            name: name.clone(),
        };
        report.add(
            Severity::Warning,
            "route-denies-everyone",
            object,
            format!(
                "authorizes nobody: no AuthorizationPolicy is about it or about Server {}",
                server.metadata.name
            ),
            format!("write an AuthorizationPolicy with targetRef {kind} {name} (group {group})"),
        );
    }
}
