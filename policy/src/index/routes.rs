//! Routes of a port: which are attached, in which order, and what they become.

use super::{
    Index, Routes,
    attach::{Claims, Facts, ParentKind, Target, server_parents},
    inbound::default_http_route,
    probes,
    workload::Settings,
};
use crate::{
    resource::{self, GATEWAY_GROUP, Server, route as api},
    server::{self, Authorization, Filter, HostMatch, Meta},
};
use http::{HeaderName, HeaderValue, Method, StatusCode};

/// A part of a route that the inbound side does not implement, which takes the whole route away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsupported {
    /// Path of the field.
    pub(crate) field: String,
    /// What stands there.
    pub(crate) what: String,
}

impl Index {
    /// HTTP routes of a port in order: those attached, or the default route; and the probe route, which comes before
    /// attached routes so that it wins where one of them matches the same path as exactly.
    pub(super) fn http_routes(
        &self,
        namespace: &str,
        settings: Settings<'_>,
        server: Option<&Server>,
        port: u16,
    ) -> Vec<server::HttpRoute> {
        let probe = probes::http_route(settings, port);
        let mut attached = server
            .map(|s| attached_http_routes(&of_server(settings, namespace, s), namespace, s))
            .unwrap_or_default();
        in_order(&mut attached);
        if attached.is_empty() {
            return std::iter::once(default_http_route()).chain(probe).collect();
        }
        let authorizations =
            |id: (&str, &str, &str)| self.route_authorizations(namespace, settings.part, id);
        let converted: Vec<_> = attached
            .into_iter()
            .filter_map(|r| http_route(r, authorizations).ok())
            .collect();
        if converted.is_empty() {
            std::iter::once(default_http_route()).chain(probe).collect()
        } else {
            probe.into_iter().chain(converted).collect()
        }
    }

    /// gRPC routes of a port in order: those attached, or the default route; and the probe route.
    pub(super) fn grpc_routes(
        &self,
        namespace: &str,
        settings: Settings<'_>,
        server: &Server,
        port: u16,
    ) -> Vec<server::GrpcRoute> {
        let probe = probes::grpc_route(settings, port);
        let mut attached =
            attached_grpc_routes(&of_server(settings, namespace, server), namespace, server);
        attached.sort_by(|a, b| a.metadata.age_key().cmp(&b.metadata.age_key()));
        let authorizations =
            |id: (&str, &str, &str)| self.route_authorizations(namespace, settings.part, id);
        let converted: Vec<_> = attached
            .into_iter()
            .filter_map(|r| grpc_route(r, authorizations).ok())
            .collect();
        if converted.is_empty() {
            std::iter::once(default_grpc_route()).chain(probe).collect()
        } else {
            probe.into_iter().chain(converted).collect()
        }
    }
}

/// What an HTTPRoute becomes.
fn http_route(
    route: &resource::HttpRoute,
    authorizations: impl Fn((&str, &str, &str)) -> Vec<Authorization>,
) -> Result<server::HttpRoute, Unsupported> {
    let (group, name) = (route.group.as_str(), &route.metadata.name);
    Ok(server::HttpRoute {
        meta: Meta::resource(group, "HTTPRoute", name),
        hosts: hosts(&route.spec.hostnames),
        authorizations: authorizations((group, "HTTPRoute", name)),
        rules: http_rules(&route.spec.rules)?,
    })
}

/// What a GRPCRoute becomes.
fn grpc_route(
    route: &resource::GrpcRoute,
    authorizations: impl Fn((&str, &str, &str)) -> Vec<Authorization>,
) -> Result<server::GrpcRoute, Unsupported> {
    let name = &route.metadata.name;
    Ok(server::GrpcRoute {
        meta: Meta::resource(GATEWAY_GROUP, "GRPCRoute", name),
        hosts: hosts(&route.spec.hostnames),
        authorizations: authorizations((GATEWAY_GROUP, "GRPCRoute", name)),
        rules: grpc_rules(&route.spec.rules)?,
    })
}

/// The default route of gRPC ports: every call.
fn default_grpc_route() -> server::GrpcRoute {
    server::GrpcRoute {
        meta: Meta::default_named("default"),
        hosts: Vec::new(),
        authorizations: Vec::new(),
        rules: vec![server::GrpcRule {
            matches: vec![server::GrpcMatch::default()],
            filters: Vec::new(),
        }],
    }
}

/// Whether a route counts for a Server of its namespace, which is there.
fn is_attached(route: Facts<'_>, claims: &Claims<'_>, target: &Target<'_>) -> bool {
    route.metadata.namespace == target.namespace
        && server_parents(route.group, route.metadata, route.parents)
            .is_ok_and(|names| names.contains(&target.name))
        && !claims.has_before(route.kind, target)
}

fn target<'a>(namespace: &'a str, server: &'a Server) -> Target<'a> {
    Target {
        kind: ParentKind::Server,
        namespace,
        name: &server.metadata.name,
        port: None,
    }
}

/// Routes that name a Server of the namespace.
fn of_server<'a>(settings: Settings<'a>, namespace: &str, server: &Server) -> Routes<'a> {
    let name = &server.metadata.name;
    settings.part.routes_of(ParentKind::Server, namespace, name)
}

/// HTTPRoutes attached to a Server.
pub(crate) fn attached_http_routes<'a>(
    routes: &Routes<'a>,
    namespace: &str,
    server: &Server,
) -> Vec<&'a resource::HttpRoute> {
    let target = target(namespace, server);
    let claims = Claims::of(routes, |claimed| *claimed == target);
    let attached = |r: &&resource::HttpRoute| is_attached(Facts::of_http(r), &claims, &target);
    routes.http.iter().copied().filter(attached).collect()
}

/// Sorts HTTPRoutes: the oldest first, then by name and group.
pub(crate) fn in_order(routes: &mut [&resource::HttpRoute]) {
    routes.sort_by(|a, b| (a.metadata.age_key(), a.group).cmp(&(b.metadata.age_key(), b.group)));
}

/// GRPCRoutes attached to a Server.
pub(crate) fn attached_grpc_routes<'a>(
    routes: &Routes<'a>,
    namespace: &str,
    server: &Server,
) -> Vec<&'a resource::GrpcRoute> {
    let target = target(namespace, server);
    // No kind is more specific.
    let claims = Claims::default();
    let attached = |r: &&resource::GrpcRoute| is_attached(Facts::of_grpc(r), &claims, &target);
    routes.grpc.iter().copied().filter(attached).collect()
}

pub(super) fn hosts(hostnames: &[String]) -> Vec<HostMatch> {
    let one = |host: &String| match host.strip_prefix("*.") {
        Some(suffix) => HostMatch::Suffix(suffix.split('.').rev().map(str::to_owned).collect()),
        None => HostMatch::Exact(host.clone()),
    };
    hostnames.iter().map(one).collect()
}

/// Rules of an HTTPRoute, or what of them is not implemented.
pub(crate) fn http_rules(rules: &[api::HttpRule]) -> Result<Vec<server::HttpRule>, Unsupported> {
    let mut out = Vec::with_capacity(rules.len());
    for (i, (matches, rule)) in http_matches(rules)?.into_iter().zip(rules).enumerate() {
        out.push(server::HttpRule {
            matches,
            filters: filters(&format!("spec.rules[{i}]"), &rule.filters, true)?,
        });
    }
    Ok(out)
}

/// What each rule of an HTTPRoute matches, whatever its filters are.
pub(crate) fn http_matches(
    rules: &[api::HttpRule],
) -> Result<Vec<Vec<server::HttpMatch>>, Unsupported> {
    let one = |i: usize, rule: &api::HttpRule| {
        let each = rule.matches.iter().enumerate();
        each.map(|(j, each)| http_match(&format!("spec.rules[{i}].matches[{j}]"), each))
            .collect()
    };
    let rules = rules.iter().enumerate();
    rules.map(|(i, rule)| one(i, rule)).collect()
}

/// Rules of a GRPCRoute, or what of them is not implemented.
pub(crate) fn grpc_rules(rules: &[api::GrpcRule]) -> Result<Vec<server::GrpcRule>, Unsupported> {
    let mut out = Vec::with_capacity(rules.len());
    for (i, (matches, rule)) in grpc_matches(rules)?.into_iter().zip(rules).enumerate() {
        out.push(server::GrpcRule {
            matches,
            filters: filters(&format!("spec.rules[{i}]"), &rule.filters, false)?,
        });
    }
    Ok(out)
}

/// What each rule of a GRPCRoute matches, whatever its filters are.
pub(crate) fn grpc_matches(
    rules: &[api::GrpcRule],
) -> Result<Vec<Vec<server::GrpcMatch>>, Unsupported> {
    let one = |i: usize, rule: &api::GrpcRule| {
        let each = rule.matches.iter().enumerate();
        each.map(|(j, each)| grpc_match(&format!("spec.rules[{i}].matches[{j}]"), each))
            .collect()
    };
    let rules = rules.iter().enumerate();
    rules.map(|(i, rule)| one(i, rule)).collect()
}

fn grpc_match(field: &str, each: &api::GrpcMatch) -> Result<server::GrpcMatch, Unsupported> {
    let method = each.method.as_ref();
    let part = |f: fn(&api::GrpcMethodMatch) -> &Option<String>| {
        method.and_then(|m| f(m).clone()).unwrap_or_default()
    };
    Ok(server::GrpcMatch {
        service: part(|m| &m.service),
        method: part(|m| &m.method),
        headers: headers(&format!("{field}.headers"), &each.headers)?,
    })
}

fn http_match(field: &str, each: &api::HttpMatch) -> Result<server::HttpMatch, Unsupported> {
    let path = match &each.path {
        None => server::PathMatch::Prefix("/".to_owned()),
        Some(path) => {
            let value = path.value.clone();
            match path.kind {
                api::PathType::Exact => server::PathMatch::Exact(value),
                api::PathType::PathPrefix => server::PathMatch::Prefix(value),
                api::PathType::RegularExpression => server::PathMatch::Regex(value),
            }
        }
    };
    let query = |q: &api::NamedMatch| server::QueryMatch {
        name: q.name.clone(),
        value: value_match(q),
    };
    Ok(server::HttpMatch {
        path: Some(path),
        headers: headers(&format!("{field}.headers"), &each.headers)?,
        query: each.query_params.iter().map(query).collect(),
        method: each.method.map(method),
    })
}

const fn method(method: api::Method) -> Method {
    match method {
        api::Method::Get => Method::GET,
        api::Method::Head => Method::HEAD,
        api::Method::Post => Method::POST,
        api::Method::Put => Method::PUT,
        api::Method::Delete => Method::DELETE,
        api::Method::Connect => Method::CONNECT,
        api::Method::Options => Method::OPTIONS,
        api::Method::Trace => Method::TRACE,
        api::Method::Patch => Method::PATCH,
    }
}

fn value_match(each: &api::NamedMatch) -> server::ValueMatch {
    match each.kind {
        api::ValueType::Exact => server::ValueMatch::Exact(each.value.clone().into_bytes()),
        api::ValueType::RegularExpression => server::ValueMatch::Regex(each.value.clone()),
    }
}

fn headers(field: &str, list: &[api::NamedMatch]) -> Result<Vec<server::HeaderMatch>, Unsupported> {
    let mut out = Vec::with_capacity(list.len());
    for (i, each) in list.iter().enumerate() {
        out.push(server::HeaderMatch {
            name: header_name(&format!("{field}[{i}].name"), &each.name)?,
            value: value_match(each),
        });
    }
    Ok(out)
}

fn header_name(field: &str, name: &str) -> Result<HeaderName, Unsupported> {
    name.parse().map_err(|_| Unsupported {
        field: field.to_owned(),
        what: format!("header name `{name}`"),
    })
}

/// Filters of a rule. ResponseHeaderModifier is left out (there is nothing like it in the inbound API); any other one
/// that is not implemented takes the route away, since leaving it out could let more through than was meant.
fn filters(
    rule: &str,
    list: &[api::RouteFilter],
    is_http: bool,
) -> Result<Vec<Filter>, Unsupported> {
    let mut out = Vec::with_capacity(list.len());
    for (i, filter) in list.iter().enumerate() {
        let field = format!("{rule}.filters[{i}]");
        let unsupported = || Unsupported {
            field: field.clone(),
            what: format!("filter {}", filter.kind),
        };
        match (
            filter.kind.as_str(),
            &filter.request_header_modifier,
            &filter.request_redirect,
        ) {
            ("RequestHeaderModifier", Some(modifier), _) => {
                out.push(Filter::RequestHeaders(header_modifier(&field, modifier)?));
            }
            ("RequestRedirect", _, Some(redirect)) if is_http => {
                out.push(Filter::Redirect(self::redirect(redirect)));
            }
            ("ResponseHeaderModifier", ..) => {}
            _ => return Err(unsupported()),
        }
    }
    Ok(out)
}

pub(super) fn header_modifier(
    field: &str,
    modifier: &api::HeaderModifier,
) -> Result<server::HeaderModifier, Unsupported> {
    let pairs = |list: &[api::Header]| -> Result<Vec<_>, Unsupported> {
        let one = |h: &api::Header| {
            let value = HeaderValue::from_str(&h.value).map_err(|_| Unsupported {
                field: field.to_owned(),
                what: format!("value of header `{}`", h.name),
            })?;
            Ok((header_name(field, &h.name)?, value))
        };
        list.iter().map(one).collect()
    };
    let names = modifier.remove.iter().map(|n| header_name(field, n));
    Ok(server::HeaderModifier {
        add: pairs(&modifier.add)?,
        set: pairs(&modifier.set)?,
        remove: names.collect::<Result<_, _>>()?,
    })
}

pub(super) fn redirect(redirect: &api::Redirect) -> server::Redirect {
    let path = redirect.path.as_ref().and_then(|path| match path.kind {
        api::RedirectPathType::ReplaceFullPath => path
            .replace_full_path
            .clone()
            .map(server::PathModifier::Full),
        api::RedirectPathType::ReplacePrefixMatch => path
            .replace_prefix_match
            .clone()
            .map(server::PathModifier::Prefix),
    });
    let scheme = redirect.scheme.map(|s| match s {
        api::Scheme::Http => "http".to_owned(),
        api::Scheme::Https => "https".to_owned(),
    });
    // The schema's default, which an API server would have written into the object.
    let status = redirect
        .status_code
        .and_then(|s| StatusCode::from_u16(s).ok());
    server::Redirect {
        scheme,
        host: redirect.hostname.clone(),
        path,
        port: redirect.port,
        status: Some(status.unwrap_or(StatusCode::FOUND)),
    }
}
