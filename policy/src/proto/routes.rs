//! Routes from the API: matches and filters. Regular expressions are checked afterwards, by the compiler itself.

use super::{Field, InvalidServer, authorizations, metadata, quoted};
use crate::server::{
    FailureInjector, Filter, GrpcMatch, GrpcRoute, GrpcRule, HeaderMatch, HeaderModifier,
    HostMatch, HttpMatch, HttpRoute, HttpRule, PathMatch, PathModifier, QueryMatch, Redirect,
    ValueMatch,
};
use http::{HeaderName, HeaderValue, Method, StatusCode, uri::Scheme};
use linkerd2_proxy_api::{grpc_route, http_route, http_types, inbound};

pub(super) fn http(
    parent: &Field<'_>,
    name: &'static str,
    routes: Vec<inbound::HttpRoute>,
) -> Result<Vec<HttpRoute>, InvalidServer> {
    each(parent, name, routes, |field, route| {
        Ok(HttpRoute {
            meta: metadata(&field.name("metadata"), route.metadata)?,
            hosts: each(field, "hosts", route.hosts, host)?,
            authorizations: authorizations::from_api(
                field,
                "authorizations",
                route.authorizations,
            )?,
            rules: each(field, "rules", route.rules, |field, rule| {
                Ok(HttpRule {
                    matches: each(field, "matches", rule.matches, http_match)?,
                    filters: each(field, "filters", rule.filters, http_filter)?,
                })
            })?,
        })
    })
}

pub(super) fn grpc(
    parent: &Field<'_>,
    routes: Vec<inbound::GrpcRoute>,
) -> Result<Vec<GrpcRoute>, InvalidServer> {
    each(parent, "routes", routes, |field, route| {
        Ok(GrpcRoute {
            meta: metadata(&field.name("metadata"), route.metadata)?,
            hosts: each(field, "hosts", route.hosts, host)?,
            authorizations: authorizations::from_api(
                field,
                "authorizations",
                route.authorizations,
            )?,
            rules: each(field, "rules", route.rules, |field, rule| {
                Ok(GrpcRule {
                    matches: each(field, "matches", rule.matches, grpc_match)?,
                    filters: each(field, "filters", rule.filters, grpc_filter)?,
                })
            })?,
        })
    })
}

/// Converts a repeated field.
pub(super) fn each<A, B>(
    parent: &Field<'_>,
    name: &'static str,
    items: Vec<A>,
    convert: impl Fn(&Field<'_>, A) -> Result<B, InvalidServer>,
) -> Result<Vec<B>, InvalidServer> {
    items
        .into_iter()
        .enumerate()
        .map(|(at, item)| convert(&parent.item(name, at), item))
        .collect()
}

pub(super) fn host(
    field: &Field<'_>,
    host: http_route::HostMatch,
) -> Result<HostMatch, InvalidServer> {
    use http_route::host_match::Match;
    Ok(match field.name("match").needed(host.r#match)? {
        Match::Exact(host) => HostMatch::Exact(host),
        Match::Suffix(suffix) => HostMatch::Suffix(suffix.reverse_labels),
    })
}

pub(super) fn http_match(
    field: &Field<'_>,
    matching: http_route::HttpRouteMatch,
) -> Result<HttpMatch, InvalidServer> {
    use http_route::path_match::Kind;
    let path = matching.path.map(|path| {
        Ok(match field.name("path").needed(path.kind)? {
            Kind::Exact(path) => PathMatch::Exact(path),
            Kind::Prefix(path) => PathMatch::Prefix(path),
            Kind::Regex(pattern) => PathMatch::Regex(pattern),
        })
    });
    let method = matching
        .method
        .map(|method| self::method(&field.name("method"), method));
    Ok(HttpMatch {
        path: path.transpose()?,
        headers: each(field, "headers", matching.headers, header_match)?,
        query: each(field, "query_params", matching.query_params, query_match)?,
        method: method.transpose()?,
    })
}

pub(super) fn grpc_match(
    field: &Field<'_>,
    matching: grpc_route::GrpcRouteMatch,
) -> Result<GrpcMatch, InvalidServer> {
    let rpc = field.name("rpc").needed(matching.rpc)?;
    Ok(GrpcMatch {
        service: rpc.service,
        method: rpc.method,
        headers: each(field, "headers", matching.headers, header_match)?,
    })
}

fn header_match(
    field: &Field<'_>,
    header: http_route::HeaderMatch,
) -> Result<HeaderMatch, InvalidServer> {
    use http_route::header_match::Value;
    Ok(HeaderMatch {
        name: header_name(&field.name("name"), &header.name)?,
        value: match field.name("value").needed(header.value)? {
            Value::Exact(bytes) => ValueMatch::Exact(bytes),
            Value::Regex(pattern) => ValueMatch::Regex(pattern),
        },
    })
}

fn query_match(
    field: &Field<'_>,
    query: http_route::QueryParamMatch,
) -> Result<QueryMatch, InvalidServer> {
    use http_route::query_param_match::Value;
    Ok(QueryMatch {
        name: query.name,
        value: match field.name("value").needed(query.value)? {
            Value::Exact(text) => ValueMatch::Exact(text.into_bytes()),
            Value::Regex(pattern) => ValueMatch::Regex(pattern),
        },
    })
}

fn header_name(field: &Field<'_>, name: &str) -> Result<HeaderName, InvalidServer> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| field.invalid(format!("{} is not a header name", quoted(name))))
}

pub(super) fn method(
    field: &Field<'_>,
    method: http_types::HttpMethod,
) -> Result<Method, InvalidServer> {
    use http_types::http_method::{Registered, Type};
    let name = match field.name("type").needed(method.r#type)? {
        Type::Registered(number) => match Registered::try_from(number) {
            Ok(registered) => registered.as_str_name().to_owned(),
            Err(_) => {
                return Err(field.invalid(format!("{number} is not the number of a method")));
            }
        },
        Type::Unregistered(name) => name,
    };
    Method::from_bytes(name.as_bytes())
        .map_err(|_| field.invalid(format!("{} is not a method", quoted(&name))))
}

fn http_filter(
    field: &Field<'_>,
    filter: inbound::http_route::Filter,
) -> Result<Filter, InvalidServer> {
    use inbound::http_route::filter::Kind;
    Ok(match filter.kind {
        Some(Kind::FailureInjector(injector)) => http_failure(field, injector)?,
        Some(Kind::RequestHeaderModifier(modifier)) => {
            header_modifier(&field.name("request_header_modifier"), modifier)?
        }
        Some(Kind::Redirect(redirect)) => self::redirect(&field.name("redirect"), redirect)?,
        None => Filter::Unknown,
    })
}

fn grpc_filter(
    field: &Field<'_>,
    filter: inbound::grpc_route::Filter,
) -> Result<Filter, InvalidServer> {
    use inbound::grpc_route::filter::Kind;
    Ok(match filter.kind {
        Some(Kind::FailureInjector(injector)) => grpc_failure(field, injector)?,
        Some(Kind::RequestHeaderModifier(modifier)) => {
            header_modifier(&field.name("request_header_modifier"), modifier)?
        }
        None => Filter::Unknown,
    })
}

pub(super) fn http_failure(
    field: &Field<'_>,
    injector: http_route::HttpFailureInjector,
) -> Result<Filter, InvalidServer> {
    let field = field.name("failure_injector");
    // The answer's status: an informational one would leave the client waiting.
    let status = u16::try_from(injector.status).ok();
    let status = status.filter(|status| (200..=999).contains(status));
    let status = status.ok_or_else(|| {
        field.name("status").invalid(format!(
            "{} is not the status of an answer; send 200 to 999",
            injector.status
        ))
    })?;
    failure(&field, status, injector.message, injector.ratio)
}

pub(super) fn grpc_failure(
    field: &Field<'_>,
    injector: grpc_route::GrpcFailureInjector,
) -> Result<Filter, InvalidServer> {
    let field = field.name("failure_injector");
    let code = u16::try_from(injector.code).ok();
    let code = code.filter(|code| *code <= 16).ok_or_else(|| {
        field.name("code").invalid(format!(
            "{} is not a gRPC status code; send 0 to 16",
            injector.code
        ))
    })?;
    failure(&field, code, injector.message, injector.ratio)
}

fn failure(
    field: &Field<'_>,
    status: u16,
    message: String,
    ratio: Option<http_route::Ratio>,
) -> Result<Filter, InvalidServer> {
    if let Some(http_route::Ratio { denominator: 0, .. }) = ratio {
        let field = field.name("ratio");
        return Err(field
            .name("denominator")
            .invalid("0 is no denominator; leave the ratio out to fail every request"));
    }
    Ok(Filter::Failure(FailureInjector {
        status,
        message,
        ratio: ratio.map(|ratio| (ratio.numerator, ratio.denominator)),
    }))
}

fn header_modifier(
    field: &Field<'_>,
    modifier: http_route::RequestHeaderModifier,
) -> Result<Filter, InvalidServer> {
    Ok(Filter::RequestHeaders(request_headers(field, modifier)?))
}

pub(super) fn request_headers(
    field: &Field<'_>,
    modifier: http_route::RequestHeaderModifier,
) -> Result<HeaderModifier, InvalidServer> {
    Ok(HeaderModifier {
        add: headers(&field.name("add"), modifier.add)?,
        set: headers(&field.name("set"), modifier.set)?,
        remove: each(field, "remove", modifier.remove, |field, name| {
            header_name(field, &name)
        })?,
    })
}

fn headers(
    field: &Field<'_>,
    headers: Option<http_types::Headers>,
) -> Result<Vec<(HeaderName, HeaderValue)>, InvalidServer> {
    let headers = headers.map(|headers| headers.headers).unwrap_or_default();
    each(field, "headers", headers, |field, header| {
        let name = header_name(&field.name("name"), &header.name)?;
        let value = HeaderValue::from_bytes(&header.value).map_err(|_| {
            let value = String::from_utf8_lossy(&header.value);
            let reason = format!(
                "{} is not a header value: it has control characters",
                quoted(&value)
            );
            field.name("value").invalid(reason)
        })?;
        Ok((name, value))
    })
}

pub(super) fn redirect(
    field: &Field<'_>,
    redirect: http_route::RequestRedirect,
) -> Result<Filter, InvalidServer> {
    use http_route::path_modifier::Replace;
    let path = redirect.path.map(|path| {
        Ok(match field.name("path").needed(path.replace)? {
            Replace::Full(path) => PathModifier::Full(path),
            Replace::Prefix(path) => PathModifier::Prefix(path),
        })
    });
    let port = u16::try_from(redirect.port).map_err(|_| {
        let reason = format!(
            "{} is not a port; send 1 to 65535, or 0 for none",
            redirect.port
        );
        field.name("port").invalid(reason)
    })?;
    let status = match redirect.status {
        0 => None,
        status => {
            let status = u16::try_from(status).ok();
            let status = status.filter(|status| (300..400).contains(status));
            let status = status.and_then(|status| StatusCode::from_u16(status).ok());
            Some(status.ok_or_else(|| {
                field.name("status").invalid(format!(
                    "{} is not the status of a redirect; send 300 to 399, or 0 for 301",
                    redirect.status
                ))
            })?)
        }
    };
    let scheme = redirect
        .scheme
        .map(|scheme| self::scheme(&field.name("scheme"), scheme));
    Ok(Filter::Redirect(Redirect {
        scheme: scheme.transpose()?,
        host: host_of(&field.name("host"), redirect.host)?,
        path: path.transpose()?,
        port: (port != 0).then_some(port),
        status,
    }))
}

fn host_of(field: &Field<'_>, host: String) -> Result<Option<String>, InvalidServer> {
    if host.is_empty() {
        return Ok(None);
    }
    let is_host = host
        .parse::<http::uri::Authority>()
        .is_ok_and(|authority| authority.host() == host);
    if !is_host {
        return Err(field.invalid(format!(
            "{} is not a host; send a name or address without port",
            quoted(&host)
        )));
    }
    Ok(Some(host))
}

fn scheme(field: &Field<'_>, scheme: http_types::Scheme) -> Result<String, InvalidServer> {
    use http_types::scheme::{Registered, Type};
    match field.name("type").needed(scheme.r#type)? {
        Type::Registered(number) => match Registered::try_from(number) {
            Ok(Registered::Http) => Ok("http".to_owned()),
            Ok(Registered::Https) => Ok("https".to_owned()),
            Err(_) => Err(field.invalid(format!("{number} is not the number of a scheme"))),
        },
        Type::Unregistered(name) => match name.parse::<Scheme>() {
            Ok(_) => Ok(name),
            Err(_) => Err(field.invalid(format!("{} is not a scheme", quoted(&name)))),
        },
    }
}
