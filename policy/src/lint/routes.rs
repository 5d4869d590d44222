//! Routes: are they attached, can they match, and may anybody use them.

use super::{Lint, Report, Severity, key};
use crate::{
    index::{
        routes::{
            Unsupported, attached_grpc_routes, attached_http_routes, grpc_rules, http_rules,
            in_order,
        },
        status::{http_key, server_parents},
    },
    resource::{
        GATEWAY_GROUP, Key, Metadata, POLICY_GROUP, ProxyProtocol, RouteGroup, Server,
        route::{ParentRef, RouteFilter},
    },
    server::{HttpRoute, Meta, Protocol},
};
use std::collections::HashMap;

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
        let Some(server) = lint.scope.servers.get(*name) else {
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
    let mut first: HashMap<String, &str> = HashMap::new();
    let mut routes = attached_http_routes(lint.scope, lint.namespace, server);
    in_order(&mut routes);
    for route in routes {
        let rules = http_rules(&route.spec.rules).unwrap_or_default();
        let hosts = match route.spec.hostnames.as_slice() {
            [] => vec![""],
            hosts => hosts.iter().map(String::as_str).collect(),
        };
        for (i, rule) in rules.iter().enumerate() {
            for (j, each) in rule.matches.iter().enumerate() {
                let same = |host: &&str| first.get(&format!("{host} {each:?}")).copied();
                let winners: Vec<&str> = hosts.iter().filter_map(same).collect();
                if winners.len() == hosts.len()
                    && let Some(winner) = winners.first()
                {
                    never_matches(http_key(route), server, (i, j), winner, report);
                }
                for host in &hosts {
                    let entry = first.entry(format!("{host} {each:?}"));
                    entry.or_insert(&route.metadata.name);
                }
            }
        }
    }
    let mut first: HashMap<String, &str> = HashMap::new();
    let mut routes = attached_grpc_routes(lint.scope, lint.namespace, server);
    routes.sort_by(|a, b| a.metadata.age_key().cmp(&b.metadata.age_key()));
    for route in routes {
        let rules = grpc_rules(&route.spec.rules).unwrap_or_default();
        for (i, rule) in rules.iter().enumerate() {
            for (j, each) in rule.matches.iter().enumerate() {
                let condition = format!("{:?} {each:?}", route.spec.hostnames);
                if let Some(winner) = first.get(&condition) {
                    let object = key(GATEWAY_GROUP, "GRPCRoute", &route.metadata);
                    never_matches(object, server, (i, j), winner, report);
                }
                first.entry(condition).or_insert(&route.metadata.name);
            }
        }
    }
}

fn never_matches(
    object: Key,
    server: &Server,
    (i, j): (usize, usize),
    winner: &str,
    report: &mut Report,
) {
    let name = &server.metadata.name;
    let earlier = if object.name == winner {
        "an earlier match of the same route".to_owned()
    } else {
        format!("route {winner}, which is older (or first by name),")
    };
    report.add(
        Severity::Warning,
        "route-never-matches",
        object,
        format!("spec.rules[{i}].matches[{j}] never matches on Server {name}: {earlier} matches the same requests"),
        "remove it, or make it more specific",
    );
}

/// Routes that neither their own authorizations nor those of the Server open to anybody.
fn denied(lint: Lint<'_>, server: &Server, report: &mut Report) {
    let keeps = lint.scope.workloads().find_map(|w| {
        let settings = lint.settings(w);
        let mut ports = super::ports_of(server, w).into_iter();
        let port = ports.find(|p| {
            let winner = lint.index.server_of(settings, *p);
            winner.is_some_and(|s| s.metadata.name == server.metadata.name)
        })?;
        lint.index.inbound(&w.reference(), port)
    });
    let Some(policy) = keeps.filter(|p| p.authorizations.is_empty()) else {
        return;
    };
    let routes: Vec<(&Meta, bool)> = match &policy.protocol {
        Protocol::Detect { http, .. } | Protocol::Http1(http) | Protocol::Http2(http) => {
            let fact = |r: &HttpRoute| r.authorizations.is_empty();
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
