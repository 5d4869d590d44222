//! To the API. What [`super::server_from_api`] takes comes back equal.

use crate::server::{
    Authentication, Authorization, FailureInjector, Filter, GrpcMatch, GrpcRoute, GrpcRule,
    HeaderMatch, HeaderModifier, HostMatch, HttpMatch, HttpRoute, HttpRule, Meta, NetworkMatch,
    PathMatch, PathModifier, Protocol, QueryMatch, RateLimit, Redirect, ServerPolicy, ValueMatch,
};
use http::{HeaderName, HeaderValue, Method};
use linkerd2_proxy_api::{
    grpc_route, http_route, http_types,
    inbound::{
        self, authn, http_local_rate_limit,
        proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque, Tls},
    },
    meta,
};
use std::{collections::HashMap, time::Duration};

/// Converts a port's policy to the API's message.
///
/// Authorizations carry their name both as metadata and as the labels that older proxies read. The API knows no
/// redirects on gRPC routes; should a policy hold one there, it is sent as a filter without a kind, which fails
/// requests rather than letting them pass.
pub fn server_to_api(server: &ServerPolicy) -> inbound::Server {
    let kind = match &server.protocol {
        Protocol::Detect { timeout, http } => Kind::Detect(Detect {
            timeout: Some(duration(*timeout)),
            http_routes: http.routes.iter().map(http_route).collect(),
            http_local_rate_limit: http.rate_limit.as_ref().map(rate_limit),
        }),
        Protocol::Http1(http) => Kind::Http1(Http1 {
            routes: http.routes.iter().map(http_route).collect(),
            local_rate_limit: http.rate_limit.as_ref().map(rate_limit),
        }),
        Protocol::Http2(http) => Kind::Http2(Http2 {
            routes: http.routes.iter().map(http_route).collect(),
            local_rate_limit: http.rate_limit.as_ref().map(rate_limit),
        }),
        Protocol::Grpc { routes } => Kind::Grpc(Grpc {
            routes: routes.iter().map(grpc_route).collect(),
        }),
        Protocol::Opaque => Kind::Opaque(Opaque {}),
        Protocol::Tls => Kind::Tls(Tls {}),
    };
    inbound::Server {
        protocol: Some(inbound::ProxyProtocol { kind: Some(kind) }),
        server_ips: Vec::new(),
        authorizations: server.authorizations.iter().map(authorization).collect(),
        labels: labels(&server.meta),
    }
}

/// The longest a message can say is far beyond any use.
pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

fn labels(meta: &Meta) -> HashMap<String, String> {
    [
        ("group", meta.group()),
        ("kind", meta.kind()),
        ("name", meta.name()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

fn metadata(meta: &Meta) -> meta::Metadata {
    let kind = match meta {
        Meta::Default { name } => meta::metadata::Kind::Default(name.clone()),
        Meta::Resource { group, kind, name } => meta::metadata::Kind::Resource(meta::Resource {
            group: group.clone(),
            kind: kind.clone(),
            name: name.clone(),
            ..Default::default()
        }),
    };
    meta::Metadata { kind: Some(kind) }
}

fn authorization(authorization: &Authorization) -> inbound::Authz {
    use authn::{
        Permit, PermitMeshTls, PermitUnauthenticated,
        permit_mesh_tls::{Clients, PermitClientIdentities},
    };
    let mesh_tls = |clients| {
        Permit::MeshTls(PermitMeshTls {
            clients: Some(clients),
        })
    };
    let permit = match &authorization.authentication {
        Authentication::Unauthenticated => Permit::Unauthenticated(PermitUnauthenticated {}),
        Authentication::TlsUnauthenticated => {
            mesh_tls(Clients::Unauthenticated(PermitUnauthenticated {}))
        }
        Authentication::Identities { exact, suffixes } => {
            mesh_tls(Clients::Identities(PermitClientIdentities {
                identities: identities(exact),
                suffixes: suffixes
                    .iter()
                    .map(|parts| inbound::IdentitySuffix {
                        parts: parts.clone(),
                    })
                    .collect(),
            }))
        }
    };
    inbound::Authz {
        networks: authorization.networks.iter().map(network).collect(),
        authentication: Some(inbound::Authn {
            permit: Some(permit),
        }),
        labels: labels(&authorization.meta),
        metadata: Some(metadata(&authorization.meta)),
    }
}

fn network(network: &NetworkMatch) -> inbound::Network {
    inbound::Network {
        net: Some(network.net.into()),
        except: network.except.iter().map(|net| (*net).into()).collect(),
    }
}

fn identities(names: &[String]) -> Vec<inbound::Identity> {
    names
        .iter()
        .map(|name| inbound::Identity { name: name.clone() })
        .collect()
}

fn rate_limit(limit: &RateLimit) -> inbound::HttpLocalRateLimit {
    use http_local_rate_limit::{Limit, Override, r#override::ClientIdentities};
    let limit_of = |requests_per_second| Limit {
        requests_per_second,
    };
    inbound::HttpLocalRateLimit {
        metadata: limit.meta.as_ref().map(metadata),
        total: limit.total.map(limit_of),
        identity: limit.identity.map(limit_of),
        overrides: limit
            .overrides
            .iter()
            .map(|limit| Override {
                limit: Some(limit_of(limit.requests_per_second)),
                clients: Some(ClientIdentities {
                    identities: identities(&limit.identities),
                }),
            })
            .collect(),
    }
}

fn http_route(route: &HttpRoute) -> inbound::HttpRoute {
    let rule = |rule: &HttpRule| inbound::http_route::Rule {
        matches: rule.matches.iter().map(http_match).collect(),
        filters: rule.filters.iter().map(http_filter).collect(),
    };
    inbound::HttpRoute {
        metadata: Some(metadata(&route.meta)),
        hosts: route.hosts.iter().map(host).collect(),
        authorizations: route.authorizations.iter().map(authorization).collect(),
        rules: route.rules.iter().map(rule).collect(),
    }
}

fn grpc_route(route: &GrpcRoute) -> inbound::GrpcRoute {
    let rule = |rule: &GrpcRule| inbound::grpc_route::Rule {
        matches: rule.matches.iter().map(grpc_match).collect(),
        filters: rule.filters.iter().map(grpc_filter).collect(),
    };
    inbound::GrpcRoute {
        metadata: Some(metadata(&route.meta)),
        hosts: route.hosts.iter().map(host).collect(),
        authorizations: route.authorizations.iter().map(authorization).collect(),
        rules: route.rules.iter().map(rule).collect(),
    }
}

pub(super) fn host(host: &HostMatch) -> http_route::HostMatch {
    use http_route::host_match::{Match, Suffix};
    let matching = match host {
        HostMatch::Exact(host) => Match::Exact(host.clone()),
        HostMatch::Suffix(labels) => Match::Suffix(Suffix {
            reverse_labels: labels.clone(),
        }),
    };
    http_route::HostMatch {
        r#match: Some(matching),
    }
}

pub(super) fn http_match(matching: &HttpMatch) -> http_route::HttpRouteMatch {
    use http_route::path_match::Kind;
    let path = matching.path.as_ref().map(|path| http_route::PathMatch {
        kind: Some(match path {
            PathMatch::Exact(path) => Kind::Exact(path.clone()),
            PathMatch::Prefix(path) => Kind::Prefix(path.clone()),
            PathMatch::Regex(pattern) => Kind::Regex(pattern.clone()),
        }),
    });
    http_route::HttpRouteMatch {
        path,
        headers: matching.headers.iter().map(header_match).collect(),
        query_params: matching.query.iter().map(query_match).collect(),
        method: matching.method.as_ref().map(method),
    }
}

pub(super) fn grpc_match(matching: &GrpcMatch) -> grpc_route::GrpcRouteMatch {
    grpc_route::GrpcRouteMatch {
        rpc: Some(grpc_route::GrpcRpcMatch {
            service: matching.service.clone(),
            method: matching.method.clone(),
        }),
        headers: matching.headers.iter().map(header_match).collect(),
    }
}

fn header_match(header: &HeaderMatch) -> http_route::HeaderMatch {
    use http_route::header_match::Value;
    http_route::HeaderMatch {
        name: header.name.as_str().to_owned(),
        value: Some(match &header.value {
            ValueMatch::Exact(bytes) => Value::Exact(bytes.clone()),
            ValueMatch::Regex(pattern) => Value::Regex(pattern.clone()),
        }),
    }
}

fn query_match(query: &QueryMatch) -> http_route::QueryParamMatch {
    use http_route::query_param_match::Value;
    http_route::QueryParamMatch {
        name: query.name.clone(),
        value: Some(match &query.value {
            // Manifests and the API hold text here.
            ValueMatch::Exact(bytes) => Value::Exact(String::from_utf8_lossy(bytes).into_owned()),
            ValueMatch::Regex(pattern) => Value::Regex(pattern.clone()),
        }),
    }
}

pub(super) fn method(method: &Method) -> http_types::HttpMethod {
    use http_types::http_method::{Registered, Type};
    let kind = match Registered::from_str_name(method.as_str()) {
        Some(registered) => Type::Registered(registered.into()),
        None => Type::Unregistered(method.as_str().to_owned()),
    };
    http_types::HttpMethod { r#type: Some(kind) }
}

fn http_filter(filter: &Filter) -> inbound::http_route::Filter {
    use inbound::http_route::filter::Kind;
    let kind = match filter {
        Filter::RequestHeaders(modifier) => {
            Some(Kind::RequestHeaderModifier(header_modifier(modifier)))
        }
        Filter::Redirect(redirect) => Some(Kind::Redirect(self::redirect(redirect))),
        Filter::Failure(injector) => Some(Kind::FailureInjector(http_route::HttpFailureInjector {
            status: injector.status.into(),
            message: injector.message.clone(),
            ratio: ratio(injector),
        })),
        Filter::ResponseHeaders(_) | Filter::Unknown => None,
    };
    inbound::http_route::Filter { kind }
}

fn grpc_filter(filter: &Filter) -> inbound::grpc_route::Filter {
    use inbound::grpc_route::filter::Kind;
    let kind = match filter {
        Filter::RequestHeaders(modifier) => {
            Some(Kind::RequestHeaderModifier(header_modifier(modifier)))
        }
        Filter::Failure(injector) => Some(Kind::FailureInjector(grpc_route::GrpcFailureInjector {
            code: injector.status.into(),
            message: injector.message.clone(),
            ratio: ratio(injector),
        })),
        Filter::Redirect(_) | Filter::ResponseHeaders(_) | Filter::Unknown => None,
    };
    inbound::grpc_route::Filter { kind }
}

pub(super) fn ratio(injector: &FailureInjector) -> Option<http_route::Ratio> {
    injector
        .ratio
        .map(|(numerator, denominator)| http_route::Ratio {
            numerator,
            denominator,
        })
}

pub(super) fn header_modifier(modifier: &HeaderModifier) -> http_route::RequestHeaderModifier {
    let names = modifier.remove.iter().map(|name| name.as_str().to_owned());
    http_route::RequestHeaderModifier {
        add: headers(&modifier.add),
        set: headers(&modifier.set),
        remove: names.collect(),
    }
}

pub(super) fn headers(list: &[(HeaderName, HeaderValue)]) -> Option<http_types::Headers> {
    let header = |(name, value): &(HeaderName, HeaderValue)| http_types::headers::Header {
        name: name.as_str().to_owned(),
        value: value.as_bytes().to_vec(),
    };
    (!list.is_empty()).then(|| http_types::Headers {
        headers: list.iter().map(header).collect(),
    })
}

pub(super) fn redirect(redirect: &Redirect) -> http_route::RequestRedirect {
    use http_route::path_modifier::Replace;
    use http_types::scheme::{Registered, Type};
    let scheme = redirect.scheme.as_deref().map(|scheme| {
        let kind = match scheme {
            "http" => Type::Registered(Registered::Http.into()),
            "https" => Type::Registered(Registered::Https.into()),
            other => Type::Unregistered(other.to_owned()),
        };
        http_types::Scheme { r#type: Some(kind) }
    });
    let path = redirect.path.as_ref().map(|path| http_route::PathModifier {
        replace: Some(match path {
            PathModifier::Full(path) => Replace::Full(path.clone()),
            PathModifier::Prefix(path) => Replace::Prefix(path.clone()),
        }),
    });
    http_route::RequestRedirect {
        scheme,
        host: redirect.host.clone().unwrap_or_default(),
        path,
        port: redirect.port.unwrap_or_default().into(),
        status: redirect.status.map_or(0, |status| status.as_u16().into()),
    }
}
