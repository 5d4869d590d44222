//! Outbound policy to the API. What [`super::outbound_from_api`] takes comes back equal.

use super::{endpoints, to_api};
use crate::{
    outbound::{
        Action, Backend, Backoff, Dispatcher, Distribution, FailureAccrual, GrpcRoute, HttpRoute,
        Load, OutboundPolicy, Protocol, Ref, Refusal, Retry, RouteBackend, StreamRoute, Timeouts,
    },
    server::{FailureInjector, Filter, HeaderModifier, HostMatch},
};
use linkerd2_proxy_api::{
    grpc_route, http_route, meta, opaque_route,
    outbound::{self as api, proxy_protocol as protocol},
    tls_route,
};

/// Converts a destination's policy to the API's message.
///
/// The API knows neither redirects nor response modifiers on gRPC routes; should a policy hold one there, it is sent
/// as a filter without a kind, which fails requests rather than letting them pass.
pub fn outbound_to_api(policy: &OutboundPolicy) -> api::OutboundPolicy {
    use protocol::Kind;
    let kind = match &policy.protocol {
        Protocol::Detect {
            timeout,
            http1,
            http2,
            opaque,
        } => Kind::Detect(protocol::Detect {
            timeout: Some(to_api::duration(*timeout)),
            opaque: Some(protocol::Opaque {
                routes: opaque.iter().map(opaque_route).collect(),
            }),
            http1: Some(protocol::Http1 {
                routes: http1.routes.iter().map(http_route).collect(),
                failure_accrual: http1.failure_accrual.as_ref().map(accrual),
            }),
            http2: Some(protocol::Http2 {
                routes: http2.routes.iter().map(http_route).collect(),
                failure_accrual: http2.failure_accrual.as_ref().map(accrual),
            }),
        }),
        Protocol::Http1(http) => Kind::Http1(protocol::Http1 {
            routes: http.routes.iter().map(http_route).collect(),
            failure_accrual: http.failure_accrual.as_ref().map(accrual),
        }),
        Protocol::Http2(http) => Kind::Http2(protocol::Http2 {
            routes: http.routes.iter().map(http_route).collect(),
            failure_accrual: http.failure_accrual.as_ref().map(accrual),
        }),
        Protocol::Grpc(grpc) => Kind::Grpc(protocol::Grpc {
            routes: grpc.routes.iter().map(grpc_route).collect(),
            failure_accrual: grpc.failure_accrual.as_ref().map(accrual),
        }),
        Protocol::Opaque(routes) => Kind::Opaque(protocol::Opaque {
            routes: routes.iter().map(opaque_route).collect(),
        }),
        Protocol::Tls(routes) => Kind::Tls(protocol::Tls {
            routes: routes.iter().map(tls_route).collect(),
        }),
    };
    api::OutboundPolicy {
        protocol: Some(api::ProxyProtocol { kind: Some(kind) }),
        metadata: Some(metadata(&policy.parent)),
    }
}

fn metadata(reference: &Ref) -> meta::Metadata {
    let kind = match reference {
        Ref::Default { name } => meta::metadata::Kind::Default(name.clone()),
        Ref::Resource {
            group,
            kind,
            namespace,
            name,
            port,
            section,
        } => meta::metadata::Kind::Resource(meta::Resource {
            group: group.clone(),
            kind: kind.clone(),
            name: name.clone(),
            namespace: namespace.clone(),
            section: section.clone(),
            port: port.unwrap_or(0).into(),
        }),
    };
    meta::Metadata { kind: Some(kind) }
}

fn http_route(route: &HttpRoute) -> api::HttpRoute {
    api::HttpRoute {
        metadata: Some(metadata(&route.meta)),
        hosts: route.hosts.iter().map(to_api::host).collect(),
        rules: route
            .rules
            .iter()
            .map(|rule| http_rule(&rule.action, &rule.matches))
            .collect(),
    }
}

#[expect(deprecated, reason = "older proxies read the old field")]
fn http_rule(action: &Action, matches: &[crate::server::HttpMatch]) -> api::http_route::Rule {
    use api::http_route::{Retry, retry};
    api::http_route::Rule {
        matches: matches.iter().map(to_api::http_match).collect(),
        filters: action.filters.iter().map(http_filter).collect(),
        backends: Some(http_backends(&action.backends)),
        request_timeout: action.timeouts.request.map(to_api::duration),
        timeouts: timeouts(&action.timeouts),
        retry: action.retry.as_ref().map(|own| Retry {
            max_retries: own.max_retries.into(),
            max_request_bytes: own.max_request_bytes,
            conditions: Some(retry::Conditions {
                status_ranges: own
                    .conditions
                    .statuses
                    .iter()
                    .map(|range| retry::conditions::StatusRange {
                        start: (*range.start()).into(),
                        end: (*range.end()).into(),
                    })
                    .collect(),
            }),
            timeout: own.timeout.map(to_api::duration),
            backoff: own.backoff.as_ref().map(backoff),
        }),
        allow_l5d_request_headers: action.allow_l5d_request_headers,
    }
}

fn grpc_route(route: &GrpcRoute) -> api::GrpcRoute {
    api::GrpcRoute {
        metadata: Some(metadata(&route.meta)),
        hosts: route.hosts.iter().map(to_api::host).collect(),
        rules: route
            .rules
            .iter()
            .map(|rule| grpc_rule(&rule.action, &rule.matches))
            .collect(),
    }
}

#[expect(deprecated, reason = "older proxies read the old field")]
fn grpc_rule(action: &Action, matches: &[crate::server::GrpcMatch]) -> api::grpc_route::Rule {
    api::grpc_route::Rule {
        matches: matches.iter().map(to_api::grpc_match).collect(),
        filters: action.filters.iter().map(grpc_filter).collect(),
        backends: Some(grpc_backends(&action.backends)),
        request_timeout: action.timeouts.request.map(to_api::duration),
        timeouts: timeouts(&action.timeouts),
        retry: action.retry.as_ref().map(grpc_retry),
        allow_l5d_request_headers: action.allow_l5d_request_headers,
    }
}

fn grpc_retry(own: &Retry) -> api::grpc_route::Retry {
    use api::grpc_route::{Retry, retry};
    let has = |code| own.conditions.grpc.contains(&code);
    Retry {
        max_retries: own.max_retries.into(),
        max_request_bytes: own.max_request_bytes,
        conditions: Some(retry::Conditions {
            cancelled: has(1),
            deadine_exceeded: has(4),
            resource_exhausted: has(8),
            internal: has(13),
            unavailable: has(14),
        }),
        timeout: own.timeout.map(to_api::duration),
        backoff: own.backoff.as_ref().map(backoff),
    }
}

fn timeouts(timeouts: &Timeouts) -> Option<http_route::Timeouts> {
    (*timeouts != Timeouts::default()).then(|| http_route::Timeouts {
        response: timeouts.response.map(to_api::duration),
        request: timeouts.request.map(to_api::duration),
        idle: timeouts.idle.map(to_api::duration),
    })
}

fn http_filter(filter: &Filter) -> api::http_route::Filter {
    use api::http_route::filter::Kind;
    let kind = match filter {
        Filter::RequestHeaders(modifier) => Some(Kind::RequestHeaderModifier(
            to_api::header_modifier(modifier),
        )),
        Filter::ResponseHeaders(modifier) => {
            Some(Kind::ResponseHeaderModifier(response_modifier(modifier)))
        }
        Filter::Redirect(redirect) => Some(Kind::Redirect(to_api::redirect(redirect))),
        Filter::Failure(injector) => Some(Kind::FailureInjector(http_failure(injector))),
        Filter::Unknown => None,
    };
    api::http_route::Filter { kind }
}

fn http_failure(injector: &FailureInjector) -> http_route::HttpFailureInjector {
    http_route::HttpFailureInjector {
        status: injector.status.into(),
        message: injector.message.clone(),
        ratio: to_api::ratio(injector),
    }
}

fn response_modifier(modifier: &HeaderModifier) -> http_route::ResponseHeaderModifier {
    let modifier = to_api::header_modifier(modifier);
    http_route::ResponseHeaderModifier {
        add: modifier.add,
        set: modifier.set,
        remove: modifier.remove,
    }
}

fn grpc_filter(filter: &Filter) -> api::grpc_route::Filter {
    use api::grpc_route::filter::Kind;
    let kind = match filter {
        Filter::RequestHeaders(modifier) => Some(Kind::RequestHeaderModifier(
            to_api::header_modifier(modifier),
        )),
        Filter::Failure(injector) => Some(Kind::FailureInjector(grpc_route::GrpcFailureInjector {
            code: injector.status.into(),
            message: injector.message.clone(),
            ratio: to_api::ratio(injector),
        })),
        Filter::ResponseHeaders(_) | Filter::Redirect(_) | Filter::Unknown => None,
    };
    api::grpc_route::Filter { kind }
}

/// The four kinds of distribution differ in the messages' types only.
macro_rules! distribution {
    ($name:ident, $module:ident, $backend:ident) => {
        fn $name(distribution: &Distribution) -> api::$module::Distribution {
            use api::$module::{
                WeightedRouteBackend,
                distribution::{Empty, FirstAvailable, Kind, RandomAvailable},
            };
            let kind = match distribution {
                Distribution::Empty => Kind::Empty(Empty {}),
                Distribution::FirstAvailable(backends) => Kind::FirstAvailable(FirstAvailable {
                    backends: backends.iter().map($backend).collect(),
                }),
                Distribution::RandomAvailable(backends) => {
                    let weighed = backends
                        .iter()
                        .map(|(backend, weight)| WeightedRouteBackend {
                            backend: Some($backend(backend)),
                            weight: *weight,
                        });
                    Kind::RandomAvailable(RandomAvailable {
                        backends: weighed.collect(),
                    })
                }
            };
            api::$module::Distribution { kind: Some(kind) }
        }
    };
}
distribution!(http_backends, http_route, http_backend);
distribution!(grpc_backends, grpc_route, grpc_backend);
distribution!(opaque_backends, opaque_route, opaque_backend);
distribution!(tls_backends, tls_route, tls_backend);

#[expect(deprecated, reason = "the old field is left empty")]
fn http_backend(own: &RouteBackend) -> api::http_route::RouteBackend {
    api::http_route::RouteBackend {
        backend: Some(backend(&own.backend)),
        filters: own.filters.iter().map(http_filter).collect(),
        request_timeout: None,
    }
}

#[expect(deprecated, reason = "the old field is left empty")]
fn grpc_backend(own: &RouteBackend) -> api::grpc_route::RouteBackend {
    api::grpc_route::RouteBackend {
        backend: Some(backend(&own.backend)),
        filters: own.filters.iter().map(grpc_filter).collect(),
        request_timeout: None,
    }
}

fn opaque_backend(own: &RouteBackend) -> api::opaque_route::RouteBackend {
    api::opaque_route::RouteBackend {
        backend: Some(backend(&own.backend)),
        filters: own.refusal.iter().map(opaque_filter).collect(),
    }
}

fn tls_backend(own: &RouteBackend) -> api::tls_route::RouteBackend {
    api::tls_route::RouteBackend {
        backend: Some(backend(&own.backend)),
        filters: own.refusal.iter().map(tls_filter).collect(),
    }
}

fn opaque_filter(refusal: &Refusal) -> api::opaque_route::Filter {
    use api::opaque_route::filter::Kind;
    let kind = match refusal {
        Refusal::Forbidden => Kind::Forbidden(opaque_route::Forbidden {}),
        Refusal::Invalid(message) => Kind::Invalid(opaque_route::Invalid {
            message: message.clone(),
        }),
    };
    api::opaque_route::Filter { kind: Some(kind) }
}

fn tls_filter(refusal: &Refusal) -> api::tls_route::Filter {
    use api::tls_route::filter::Kind;
    let kind = match refusal {
        Refusal::Forbidden => Kind::Forbidden(opaque_route::Forbidden {}),
        Refusal::Invalid(message) => Kind::Invalid(opaque_route::Invalid {
            message: message.clone(),
        }),
    };
    api::tls_route::Filter { kind: Some(kind) }
}

fn opaque_route(route: &StreamRoute) -> api::OpaqueRoute {
    api::OpaqueRoute {
        metadata: Some(metadata(&route.meta)),
        rules: vec![api::opaque_route::Rule {
            backends: Some(opaque_backends(&route.backends)),
            filters: route.refusal.iter().map(opaque_filter).collect(),
        }],
    }
}

fn tls_route(route: &StreamRoute) -> api::TlsRoute {
    api::TlsRoute {
        metadata: Some(metadata(&route.meta)),
        snis: route.snis.iter().map(sni).collect(),
        rules: vec![api::tls_route::Rule {
            backends: Some(tls_backends(&route.backends)),
            filters: route.refusal.iter().map(tls_filter).collect(),
        }],
    }
}

fn sni(sni: &HostMatch) -> tls_route::SniMatch {
    use tls_route::sni_match::{Match, Suffix};
    tls_route::SniMatch {
        r#match: Some(match sni {
            HostMatch::Exact(name) => Match::Exact(name.clone()),
            HostMatch::Suffix(labels) => Match::Suffix(Suffix {
                reverse_labels: labels.clone(),
            }),
        }),
    }
}

fn backend(backend: &Backend) -> api::Backend {
    use api::backend::{
        BalanceP2c, EndpointDiscovery, Kind,
        endpoint_discovery::{DestinationGet, Kind as Discovery},
    };
    let kind = backend
        .dispatcher
        .as_ref()
        .map(|dispatcher| match dispatcher {
            Dispatcher::Forward(endpoint) => Kind::Forward(endpoints::endpoint_to_api(endpoint)),
            Dispatcher::Balance { path, load } => Kind::Balancer(BalanceP2c {
                discovery: Some(EndpointDiscovery {
                    kind: Some(Discovery::Dst(DestinationGet { path: path.clone() })),
                }),
                load: Some(self::load(load)),
            }),
        });
    api::Backend {
        metadata: Some(metadata(&backend.meta)),
        kind,
        queue: Some(api::Queue {
            capacity: backend.queue.capacity,
            failfast_timeout: Some(to_api::duration(backend.queue.failfast_timeout)),
        }),
    }
}

fn load(load: &Load) -> api::backend::balance_p2c::Load {
    use api::backend::balance_p2c::{Load as Kind, PeakEwma, PenaltyPeakEwma};
    let default_rtt = Some(to_api::duration(load.default_rtt));
    let decay = Some(to_api::duration(load.decay));
    match load.penalty {
        None => Kind::PeakEwma(PeakEwma { default_rtt, decay }),
        Some(penalty) => Kind::PenaltyPeakEwma(PenaltyPeakEwma {
            default_rtt,
            decay,
            penalty: Some(to_api::duration(penalty.penalty)),
            max_retry_after: Some(to_api::duration(penalty.max_retry_after)),
            penalty_decay: Some(to_api::duration(penalty.decay)),
        }),
    }
}

fn backoff(backoff: &Backoff) -> api::ExponentialBackoff {
    api::ExponentialBackoff {
        min_backoff: Some(to_api::duration(backoff.min)),
        max_backoff: Some(to_api::duration(backoff.max)),
        jitter_ratio: backoff.jitter,
        respect_retry_after_hint: backoff.respect_retry_after,
    }
}

fn accrual(accrual: &FailureAccrual) -> api::FailureAccrual {
    use api::failure_accrual::{ConsecutiveFailures, Kind, Unified};
    let backoff = Some(backoff(&accrual.backoff));
    let kind = match accrual.success_rate {
        None => Kind::ConsecutiveFailures(ConsecutiveFailures {
            max_failures: accrual.max_consecutive_failures,
            backoff,
        }),
        Some(rate) => Kind::Unified(Unified {
            success_rate_threshold: rate.threshold,
            decay: Some(to_api::duration(rate.window)),
            min_requests: rate.min_requests,
            max_consecutive_failures: accrual.max_consecutive_failures,
            backoff,
        }),
    };
    api::FailureAccrual {
        kind: Some(kind),
        ejection: (accrual.min_ready_endpoints > 0).then_some(api::EjectionConfig {
            min_ready_endpoints: accrual.min_ready_endpoints,
        }),
    }
}
