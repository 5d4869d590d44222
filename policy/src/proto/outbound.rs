//! Outbound policy from the API. Source: `io.linkerd.proxy.outbound.OutboundPolicy`.

use super::{
    Field, InvalidMessage, endpoints, quoted,
    routes::{self, each},
    timeout,
};
use crate::{
    outbound::{
        Action, Backend, Backoff, Dispatcher, Distribution, FailureAccrual, GrpcPolicy, GrpcRoute,
        GrpcRule, HttpPolicy, HttpRoute, HttpRule, Load, OutboundPolicy, Penalty, Protocol, Queue,
        Ref, Refusal, Retry, RetryConditions, RouteBackend, StreamRoute, SuccessRate, Timeouts,
        router::HttpRouter,
    },
    server::{Filter, HostMatch},
};
use linkerd2_proxy_api::{http_route, meta, opaque_route, outbound as api, tls_route};
use std::{collections::HashMap, time::Duration};

/// Converts a message.
///
/// # Errors
/// Names the first field that cannot be used. Never panics, and takes time linear in the message.
pub fn outbound_from_api(policy: api::OutboundPolicy) -> Result<OutboundPolicy, InvalidMessage> {
    use api::proxy_protocol::Kind;
    let root = Field::Root;
    let parent = reference(&root.name("metadata"), policy.metadata)?;
    let field = root.name("protocol");
    let kind = field.needed(policy.protocol.and_then(|protocol| protocol.kind))?;
    let protocol = match kind {
        Kind::Detect(detect) => {
            let field = field.name("detect");
            let http1 = field.name("http1");
            let http2 = field.name("http2");
            let opaque = field.name("opaque");
            Protocol::Detect {
                timeout: timeout(&field.name("timeout"), detect.timeout)?,
                http1: self::http1(&http1, http1.needed(detect.http1)?)?,
                http2: self::http2(&http2, http2.needed(detect.http2)?)?,
                opaque: self::opaque(&opaque, opaque.needed(detect.opaque)?)?,
            }
        }
        Kind::Http1(http) => Protocol::Http1(http1(&field.name("http1"), http)?),
        Kind::Http2(http) => Protocol::Http2(http2(&field.name("http2"), http)?),
        Kind::Grpc(grpc) => Protocol::Grpc(self::grpc(&field.name("grpc"), grpc)?),
        Kind::Opaque(opaque) => Protocol::Opaque(self::opaque(&field.name("opaque"), opaque)?),
        Kind::Tls(tls) => {
            let routes = each(&field.name("tls"), "routes", tls.routes, tls_route)?;
            Protocol::Tls(routes)
        }
    };
    let policy = OutboundPolicy { parent, protocol };
    check(&policy)?;
    Ok(policy)
}

/// What only the compiler finds: expressions that are none.
fn check(policy: &OutboundPolicy) -> Result<(), InvalidMessage> {
    let compiled = match &policy.protocol {
        Protocol::Detect { http1, http2, .. } => {
            HttpRouter::http(http1).and_then(|_| HttpRouter::http(http2))
        }
        Protocol::Http1(http) | Protocol::Http2(http) => HttpRouter::http(http),
        Protocol::Grpc(grpc) => HttpRouter::grpc(grpc),
        Protocol::Opaque(_) | Protocol::Tls(_) => return Ok(()),
    };
    compiled.map(drop).map_err(|error| InvalidMessage {
        field: format!("protocol.{}", error.field),
        reason: error.reason,
    })
}

fn http1(
    field: &Field<'_>,
    http: api::proxy_protocol::Http1,
) -> Result<HttpPolicy, InvalidMessage> {
    Ok(HttpPolicy {
        routes: each(field, "routes", http.routes, http_route)?,
        failure_accrual: accrual(&field.name("failure_accrual"), http.failure_accrual)?,
    })
}

fn http2(
    field: &Field<'_>,
    http: api::proxy_protocol::Http2,
) -> Result<HttpPolicy, InvalidMessage> {
    Ok(HttpPolicy {
        routes: each(field, "routes", http.routes, http_route)?,
        failure_accrual: accrual(&field.name("failure_accrual"), http.failure_accrual)?,
    })
}

fn grpc(field: &Field<'_>, grpc: api::proxy_protocol::Grpc) -> Result<GrpcPolicy, InvalidMessage> {
    Ok(GrpcPolicy {
        routes: each(field, "routes", grpc.routes, grpc_route)?,
        failure_accrual: accrual(&field.name("failure_accrual"), grpc.failure_accrual)?,
    })
}

fn opaque(
    field: &Field<'_>,
    opaque: api::proxy_protocol::Opaque,
) -> Result<Vec<StreamRoute>, InvalidMessage> {
    if opaque.routes.len() > 1 {
        return Err(field
            .name("routes")
            .invalid("more than one route; an opaque destination has one"));
    }
    each(field, "routes", opaque.routes, opaque_route)
}

/// A name with its namespace.
fn reference(field: &Field<'_>, metadata: Option<meta::Metadata>) -> Result<Ref, InvalidMessage> {
    let kind = field.needed(metadata.and_then(|metadata| metadata.kind))?;
    let resource = match kind {
        meta::metadata::Kind::Default(name) => return Ok(Ref::Default { name }),
        meta::metadata::Kind::Resource(resource) => resource,
    };
    let field = field.name("resource");
    let needed = [
        ("group", &resource.group),
        ("kind", &resource.kind),
        ("name", &resource.name),
        ("namespace", &resource.namespace),
    ];
    for (name, value) in needed {
        if value.is_empty() {
            return Err(field.name(name).invalid("is empty; it names the object"));
        }
    }
    let port = u16::try_from(resource.port).map_err(|_| {
        let reason = format!("{} is not a port; send 0 to 65535", resource.port);
        field.name("port").invalid(reason)
    })?;
    Ok(Ref::Resource {
        group: resource.group,
        kind: resource.kind,
        namespace: resource.namespace,
        name: resource.name,
        port: (port != 0).then_some(port),
        section: resource.section,
    })
}

#[expect(deprecated, reason = "older control planes send the old field")]
fn http_route(field: &Field<'_>, route: api::HttpRoute) -> Result<HttpRoute, InvalidMessage> {
    Ok(HttpRoute {
        meta: reference(&field.name("metadata"), route.metadata)?,
        hosts: each(field, "hosts", route.hosts, routes::host)?,
        rules: each(field, "rules", route.rules, |field, rule| {
            Ok(HttpRule {
                matches: each(field, "matches", rule.matches, routes::http_match)?,
                action: Action {
                    filters: each(field, "filters", rule.filters, http_filter)?,
                    backends: http_backends(&field.name("backends"), rule.backends)?,
                    timeouts: timeouts(field, rule.timeouts, rule.request_timeout)?,
                    retry: rule
                        .retry
                        .map(|retry| http_retry(&field.name("retry"), retry))
                        .transpose()?,
                    allow_l5d_request_headers: rule.allow_l5d_request_headers,
                },
            })
        })?,
    })
}

#[expect(deprecated, reason = "older control planes send the old field")]
fn grpc_route(field: &Field<'_>, route: api::GrpcRoute) -> Result<GrpcRoute, InvalidMessage> {
    Ok(GrpcRoute {
        meta: reference(&field.name("metadata"), route.metadata)?,
        hosts: each(field, "hosts", route.hosts, routes::host)?,
        rules: each(field, "rules", route.rules, |field, rule| {
            Ok(GrpcRule {
                matches: each(field, "matches", rule.matches, routes::grpc_match)?,
                action: Action {
                    filters: each(field, "filters", rule.filters, grpc_filter)?,
                    backends: grpc_backends(&field.name("backends"), rule.backends)?,
                    timeouts: timeouts(field, rule.timeouts, rule.request_timeout)?,
                    retry: rule
                        .retry
                        .map(|retry| grpc_retry(&field.name("retry"), retry))
                        .transpose()?,
                    allow_l5d_request_headers: rule.allow_l5d_request_headers,
                },
            })
        })?,
    })
}

fn http_filter(
    field: &Field<'_>,
    filter: api::http_route::Filter,
) -> Result<Filter, InvalidMessage> {
    use api::http_route::filter::Kind;
    Ok(match filter.kind {
        Some(Kind::FailureInjector(injector)) => routes::http_failure(field, injector)?,
        Some(Kind::RequestHeaderModifier(modifier)) => {
            let field = field.name("request_header_modifier");
            Filter::RequestHeaders(routes::request_headers(&field, modifier)?)
        }
        Some(Kind::ResponseHeaderModifier(modifier)) => {
            let field = field.name("response_header_modifier");
            let modifier = http_route::RequestHeaderModifier {
                add: modifier.add,
                set: modifier.set,
                remove: modifier.remove,
            };
            Filter::ResponseHeaders(routes::request_headers(&field, modifier)?)
        }
        Some(Kind::Redirect(redirect)) => routes::redirect(&field.name("redirect"), redirect)?,
        None => Filter::Unknown,
    })
}

fn grpc_filter(
    field: &Field<'_>,
    filter: api::grpc_route::Filter,
) -> Result<Filter, InvalidMessage> {
    use api::grpc_route::filter::Kind;
    Ok(match filter.kind {
        Some(Kind::FailureInjector(injector)) => routes::grpc_failure(field, injector)?,
        Some(Kind::RequestHeaderModifier(modifier)) => {
            let field = field.name("request_header_modifier");
            Filter::RequestHeaders(routes::request_headers(&field, modifier)?)
        }
        None => Filter::Unknown,
    })
}

/// The four kinds of distribution differ in the messages' types only.
macro_rules! distribution {
    ($name:ident, $module:ident, $backend:ident) => {
        fn $name(
            field: &Field<'_>,
            distribution: Option<api::$module::Distribution>,
        ) -> Result<Distribution, InvalidMessage> {
            use api::$module::distribution::Kind;
            Ok(match field.needed(distribution.and_then(|all| all.kind))? {
                Kind::Empty(_) => Distribution::Empty,
                Kind::FirstAvailable(first) => {
                    let field = field.name("first_available");
                    let backends = each(&field, "backends", first.backends, $backend)?;
                    some(&field, &backends)?;
                    Distribution::FirstAvailable(backends)
                }
                Kind::RandomAvailable(random) => {
                    let field = field.name("random_available");
                    let backends = each(&field, "backends", random.backends, |field, weighed| {
                        let inner = field.name("backend");
                        let backend = $backend(&inner, inner.needed(weighed.backend)?)?;
                        Ok((backend, weighed.weight))
                    })?;
                    some(&field, &backends)?;
                    if backends.iter().all(|(_, weight)| *weight == 0) {
                        Distribution::Empty
                    } else {
                        Distribution::RandomAvailable(backends)
                    }
                }
            })
        }
    };
}
distribution!(http_backends, http_route, http_backend);
distribution!(grpc_backends, grpc_route, grpc_backend);
distribution!(opaque_backends, opaque_route, opaque_backend);
distribution!(tls_backends, tls_route, tls_backend);

fn some<T>(field: &Field<'_>, backends: &[T]) -> Result<(), InvalidMessage> {
    if backends.is_empty() {
        let reason = "is empty; send an empty distribution to send traffic nowhere";
        return Err(field.name("backends").invalid(reason));
    }
    Ok(())
}

fn http_backend(
    field: &Field<'_>,
    backend: api::http_route::RouteBackend,
) -> Result<RouteBackend, InvalidMessage> {
    Ok(RouteBackend {
        backend: self::backend(&field.name("backend"), backend.backend)?,
        filters: each(field, "filters", backend.filters, http_filter)?,
        refusal: None,
    })
}

fn grpc_backend(
    field: &Field<'_>,
    backend: api::grpc_route::RouteBackend,
) -> Result<RouteBackend, InvalidMessage> {
    Ok(RouteBackend {
        backend: self::backend(&field.name("backend"), backend.backend)?,
        filters: each(field, "filters", backend.filters, grpc_filter)?,
        refusal: None,
    })
}

fn opaque_backend(
    field: &Field<'_>,
    backend: api::opaque_route::RouteBackend,
) -> Result<RouteBackend, InvalidMessage> {
    let refusals = backend.filters.into_iter().map(opaque_filter);
    Ok(RouteBackend {
        backend: self::backend(&field.name("backend"), backend.backend)?,
        filters: Vec::new(),
        refusal: refusals.into_iter().next(),
    })
}

fn tls_backend(
    field: &Field<'_>,
    backend: api::tls_route::RouteBackend,
) -> Result<RouteBackend, InvalidMessage> {
    let refusals = backend.filters.into_iter().map(tls_filter);
    Ok(RouteBackend {
        backend: self::backend(&field.name("backend"), backend.backend)?,
        filters: Vec::new(),
        refusal: refusals.into_iter().next(),
    })
}

/// A filter of a kind that is not known refuses: to leave it out could be unsafe.
fn opaque_filter(filter: api::opaque_route::Filter) -> Refusal {
    use api::opaque_route::filter::Kind;
    match filter.kind {
        Some(Kind::Forbidden(_)) => Refusal::Forbidden,
        Some(Kind::Invalid(opaque_route::Invalid { message })) => Refusal::Invalid(message),
        None => Refusal::Invalid("a filter that this version does not know".to_owned()),
    }
}

fn tls_filter(filter: api::tls_route::Filter) -> Refusal {
    use api::tls_route::filter::Kind;
    match filter.kind {
        Some(Kind::Forbidden(_)) => Refusal::Forbidden,
        Some(Kind::Invalid(opaque_route::Invalid { message })) => Refusal::Invalid(message),
        None => Refusal::Invalid("a filter that this version does not know".to_owned()),
    }
}

fn opaque_route(field: &Field<'_>, route: api::OpaqueRoute) -> Result<StreamRoute, InvalidMessage> {
    let (at, rule) = one(field, route.rules)?;
    let rules = field.item("rules", at);
    Ok(StreamRoute {
        meta: reference(&field.name("metadata"), route.metadata)?,
        snis: Vec::new(),
        refusal: rule.filters.into_iter().map(opaque_filter).next(),
        backends: opaque_backends(&rules.name("backends"), rule.backends)?,
    })
}

fn tls_route(field: &Field<'_>, route: api::TlsRoute) -> Result<StreamRoute, InvalidMessage> {
    let (at, rule) = one(field, route.rules)?;
    let rules = field.item("rules", at);
    Ok(StreamRoute {
        meta: reference(&field.name("metadata"), route.metadata)?,
        snis: each(field, "snis", route.snis, sni)?,
        refusal: rule.filters.into_iter().map(tls_filter).next(),
        backends: tls_backends(&rules.name("backends"), rule.backends)?,
    })
}

fn sni(field: &Field<'_>, sni: tls_route::SniMatch) -> Result<HostMatch, InvalidMessage> {
    use tls_route::sni_match::Match;
    Ok(match field.name("match").needed(sni.r#match)? {
        Match::Exact(name) => HostMatch::Exact(name),
        Match::Suffix(suffix) => HostMatch::Suffix(suffix.reverse_labels),
    })
}

/// The one rule that routes of connections have.
fn one<R>(field: &Field<'_>, rules: Vec<R>) -> Result<(usize, R), InvalidMessage> {
    let count = rules.len();
    let mut rules = rules.into_iter();
    match (rules.next(), rules.next()) {
        (Some(rule), None) => Ok((0, rule)),
        _ => Err(field
            .name("rules")
            .invalid(format!("has {count} rules; send one"))),
    }
}

fn backend(field: &Field<'_>, backend: Option<api::Backend>) -> Result<Backend, InvalidMessage> {
    use api::backend::Kind;
    let backend = field.needed(backend)?;
    let queue = field.name("queue");
    let limits = queue.needed(backend.queue)?;
    let dispatcher = match backend.kind {
        None => None,
        Some(Kind::Forward(addr)) => {
            let field = field.name("forward");
            let endpoint = endpoints::endpoint(&field, addr, &HashMap::new())?;
            Some(Dispatcher::Forward(endpoint))
        }
        Some(Kind::Balancer(balancer)) => {
            let field = field.name("balancer");
            let discovery = field.name("discovery");
            let api::backend::endpoint_discovery::Kind::Dst(dst) =
                discovery.needed(balancer.discovery.and_then(|discovery| discovery.kind))?;
            endpoints::authority(&discovery.name("dst").name("path"), &dst.path)?;
            Some(Dispatcher::Balance {
                path: dst.path,
                load: load(&field.name("load"), balancer.load)?,
            })
        }
    };
    Ok(Backend {
        meta: reference(&field.name("metadata"), backend.metadata)?,
        dispatcher,
        queue: Queue {
            capacity: limits.capacity,
            failfast_timeout: timeout(&queue.name("failfast_timeout"), limits.failfast_timeout)?,
        },
    })
}

fn load(
    field: &Field<'_>,
    load: Option<api::backend::balance_p2c::Load>,
) -> Result<Load, InvalidMessage> {
    use api::backend::balance_p2c::Load as Kind;
    Ok(match field.needed(load)? {
        Kind::PeakEwma(ewma) => Load {
            default_rtt: timeout(&field.name("default_rtt"), ewma.default_rtt)?,
            decay: timeout(&field.name("decay"), ewma.decay)?,
            penalty: None,
        },
        Kind::PenaltyPeakEwma(ewma) => {
            let or = |name, value: Option<_>, default| match value {
                Some(value) => timeout(&field.name(name), Some(value)),
                None => Ok(default),
            };
            // Of these zero is as good as any: nothing is added, and no hint is believed.
            let zero_or = |name, value: Option<_>, default| match value {
                Some(value) => {
                    let limit = limit(&field.name(name), Some(value))?;
                    Ok(limit.unwrap_or_default())
                }
                None => Ok(default),
            };
            let usual = Load::default();
            Load {
                default_rtt: or("default_rtt", ewma.default_rtt, usual.default_rtt)?,
                decay: or("decay", ewma.decay, usual.decay)?,
                penalty: Some(Penalty {
                    penalty: zero_or("penalty", ewma.penalty, Duration::from_secs(5))?,
                    decay: or("penalty_decay", ewma.penalty_decay, Duration::from_secs(10))?,
                    max_retry_after: zero_or(
                        "max_retry_after",
                        ewma.max_retry_after,
                        Duration::from_secs(300),
                    )?,
                }),
            }
        }
    })
}

/// A limit that may be absent; zero is none.
fn limit(
    field: &Field<'_>,
    limit: Option<prost_types::Duration>,
) -> Result<Option<Duration>, InvalidMessage> {
    match limit {
        None
        | Some(prost_types::Duration {
            seconds: 0,
            nanos: 0,
        }) => Ok(None),
        some => timeout(field, some).map(Some),
    }
}

fn timeouts(
    field: &Field<'_>,
    timeouts: Option<http_route::Timeouts>,
    deprecated: Option<prost_types::Duration>,
) -> Result<Timeouts, InvalidMessage> {
    let old = limit(&field.name("request_timeout"), deprecated)?;
    let field = field.name("timeouts");
    let timeouts = timeouts.unwrap_or_default();
    Ok(Timeouts {
        request: limit(&field.name("request"), timeouts.request)?.or(old),
        response: limit(&field.name("response"), timeouts.response)?,
        idle: limit(&field.name("idle"), timeouts.idle)?,
    })
}

fn http_retry(field: &Field<'_>, retry: api::http_route::Retry) -> Result<Retry, InvalidMessage> {
    let conditions = field.name("conditions");
    let ranges = conditions.needed(retry.conditions)?.status_ranges;
    let statuses = each(&conditions, "status_ranges", ranges, |field, range| {
        let (start, end) = (u16::try_from(range.start), u16::try_from(range.end));
        match (start, end) {
            (Ok(start @ 1..=599), Ok(end @ 1..=599)) if start <= end => Ok(start..=end),
            _ => Err(field.invalid(format!(
                "{} to {} is no range of statuses within 1 to 599",
                range.start, range.end
            ))),
        }
    })?;
    Ok(Retry {
        max_retries: max_retries(field, retry.max_retries)?,
        max_request_bytes: retry.max_request_bytes,
        conditions: RetryConditions {
            statuses,
            grpc: Vec::new(),
        },
        timeout: limit(&field.name("timeout"), retry.timeout)?,
        backoff: retry
            .backoff
            .map(|backoff| self::backoff(&field.name("backoff"), backoff))
            .transpose()?,
    })
}

fn grpc_retry(field: &Field<'_>, retry: api::grpc_route::Retry) -> Result<Retry, InvalidMessage> {
    let conditions = field.name("conditions").needed(retry.conditions)?;
    let codes = [
        (conditions.cancelled, 1),
        (conditions.deadine_exceeded, 4),
        (conditions.resource_exhausted, 8),
        (conditions.internal, 13),
        (conditions.unavailable, 14),
    ];
    Ok(Retry {
        max_retries: max_retries(field, retry.max_retries)?,
        max_request_bytes: retry.max_request_bytes,
        conditions: RetryConditions {
            statuses: Vec::new(),
            grpc: codes
                .into_iter()
                .filter_map(|(is_set, code)| is_set.then_some(code))
                .collect(),
        },
        timeout: limit(&field.name("timeout"), retry.timeout)?,
        backoff: retry
            .backoff
            .map(|backoff| self::backoff(&field.name("backoff"), backoff))
            .transpose()?,
    })
}

fn max_retries(field: &Field<'_>, retries: u32) -> Result<u16, InvalidMessage> {
    u16::try_from(retries).map_err(|_| {
        let reason = format!("{retries} is more than 65535");
        field.name("max_retries").invalid(reason)
    })
}

fn backoff(field: &Field<'_>, backoff: api::ExponentialBackoff) -> Result<Backoff, InvalidMessage> {
    let min = limit(
        &field.name("min_backoff"),
        Some(field.name("min_backoff").needed(backoff.min_backoff)?),
    )?
    .unwrap_or_default();
    let max = timeout(&field.name("max_backoff"), backoff.max_backoff)?;
    if min > max {
        let reason = format!("{max:?} is shorter than min_backoff ({min:?})");
        return Err(field.name("max_backoff").invalid(reason));
    }
    if !(0.0..=100.0).contains(&backoff.jitter_ratio) {
        let reason = format!("{} is not within 0 to 100", backoff.jitter_ratio);
        return Err(field.name("jitter_ratio").invalid(reason));
    }
    Ok(Backoff {
        min,
        max,
        jitter: backoff.jitter_ratio,
        respect_retry_after: backoff.respect_retry_after_hint,
    })
}

fn accrual(
    field: &Field<'_>,
    accrual: Option<api::FailureAccrual>,
) -> Result<Option<FailureAccrual>, InvalidMessage> {
    use api::failure_accrual::Kind;
    let Some(accrual) = accrual else {
        return Ok(None);
    };
    let min_ready_endpoints = accrual
        .ejection
        .map_or(0, |ejection| ejection.min_ready_endpoints);
    let required = |field: &Field<'_>, backoff: Option<_>| {
        let field = field.name("backoff");
        self::backoff(&field, field.needed(backoff)?)
    };
    Ok(Some(match field.needed(accrual.kind)? {
        Kind::ConsecutiveFailures(consecutive) => FailureAccrual {
            max_consecutive_failures: consecutive.max_failures,
            success_rate: None,
            backoff: required(&field.name("consecutive_failures"), consecutive.backoff)?,
            min_ready_endpoints,
        },
        Kind::Unified(unified) => {
            let field = field.name("unified");
            FailureAccrual {
                max_consecutive_failures: unified.max_consecutive_failures,
                success_rate: success_rate(&field, &unified)?,
                backoff: required(&field, unified.backoff)?,
                min_ready_endpoints,
            }
        }
    }))
}

fn success_rate(
    field: &Field<'_>,
    unified: &api::failure_accrual::Unified,
) -> Result<Option<SuccessRate>, InvalidMessage> {
    let threshold = unified.success_rate_threshold;
    if !(0.0..=1.0).contains(&threshold) {
        let reason = format!("{} is not within 0 to 1", quoted(&threshold.to_string()));
        return Err(field.name("success_rate_threshold").invalid(reason));
    }
    if threshold == 0.0 {
        return Ok(None);
    }
    let window = limit(&field.name("decay"), unified.decay)?.unwrap_or(Duration::from_secs(10));
    if window < Duration::from_millis(10) {
        return Err(field.name("decay").invalid("is shorter than 10ms"));
    }
    if unified.min_requests > 1_000_000 {
        let reason = format!("{} is more than 1000000", unified.min_requests);
        return Err(field.name("min_requests").invalid(reason));
    }
    Ok(Some(SuccessRate {
        threshold,
        window,
        min_requests: unified.min_requests,
    }))
}

#[cfg(test)]
mod tests;
