//! An admin request: the policy of the admin port, then the page.

use super::{
    State,
    connection::{Client, Tls},
    denials::Denial,
    enforced, outbound,
    ready::{NotReady, ready},
};
use crate::{
    config::Readers,
    discovery::policy::Snapshot,
    http::outcome::{GrpcFailures, Outcome},
    inbound::{
        InboundMetrics,
        labels::{self, ClientTls, NoTls},
        metrics::{Detection, Transport},
    },
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use linkerd_metrics::{
    Counter, Family, Format, Gauge, Handle, Histogram, Labels, Registry, accepts_gzip, describe,
};
use linkerd_policy::{Denied, Peer, PeerId, PeerTls, RequestView, server::Meta};
use linkerd_tls::Id;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tower::BoxError;

/// Largest body read, in bytes: a log filter.
const MAX_BODY: usize = 64 * 1024;
const PROXY_ERROR: HeaderName = HeaderName::from_static("l5d-proxy-error");

pub(super) type Answer = Response<Full<Bytes>>;

/// Metrics of the admin server. Families are described in `linkerd_metrics::describe`.
#[derive(Debug)]
pub(crate) struct PageMetrics {
    allowed: Family<Counter>,
    denied: Family<Counter>,
    denied_reasons: Family<Counter>,
    not_found: Family<Counter>,
    requests: Family<Counter>,
    responses: Family<Counter>,
    latency: Family<Histogram>,
    inbound: InboundMetrics,
    ready: Handle<Gauge>,
}

impl PageMetrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        Self {
            allowed: registry.counters(&describe::INBOUND_HTTP_AUTHZ_ALLOW_TOTAL),
            denied: registry.counters(&describe::INBOUND_HTTP_AUTHZ_DENY_TOTAL),
            denied_reasons: registry.counters(&describe::INBOUND_POLICY_DENIED_TOTAL),
            not_found: registry.counters(&describe::INBOUND_HTTP_ROUTE_NOT_FOUND_TOTAL),
            requests: registry.counters(&describe::REQUEST_TOTAL),
            responses: registry.counters(&describe::RESPONSE_TOTAL),
            latency: registry.histograms(&describe::RESPONSE_LATENCY_MS),
            inbound: InboundMetrics::register(registry),
            ready: registry.gauges(&describe::PROXY_READY).get(&Labels::new()),
        }
    }
}

/// Answers one request.
pub(super) async fn answer<B>(state: &State, client: &Client, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let arrived = Instant::now();
    // Below any policy: a probe that a policy could cut would take the workload down with it.
    let probe: Option<fn(&State) -> Answer> = match request.uri().path() {
        "/live" => Some(|_| text(StatusCode::OK, "live\n")),
        "/ready" => Some(readiness),
        _ => None,
    };
    if let Some(probe) = probe {
        let permitted = probing(state, client);
        permitted.request();
        let answer = probe(state);
        permitted.response(answer.status(), arrived.elapsed());
        return answer;
    }
    match authorize(state, client, &request) {
        Ok(permitted) => {
            permitted.request();
            let answer = page(state, client, request).await;
            permitted.response(answer.status(), arrived.elapsed());
            answer
        }
        Err(refused) => *refused,
    }
}

fn readiness(state: &State) -> Answer {
    let ready = ready(state);
    state
        .metrics
        .ready
        .set(if ready.is_ok() { 1.0 } else { 0.0 });
    match ready {
        Ok(()) => text(StatusCode::OK, "ready\n"),
        Err(why) => {
            let mut answer = bare(StatusCode::SERVICE_UNAVAILABLE, "not ready\n");
            let why = HeaderValue::from_static(NotReady::as_str(why));
            answer.headers_mut().insert(PROXY_ERROR, why);
            answer
        }
    }
}

/// A request that policy allows, and the series it counts on.
struct Permitted<'a> {
    metrics: &'a PageMetrics,
    labels: Labels,
}

impl Permitted<'_> {
    fn request(&self) {
        self.metrics.requests.get(&self.labels).inc();
    }

    fn response(&self, status: StatusCode, elapsed: Duration) {
        let labels = self.labels.clone().with("status_code", status.as_u16());
        let latency = self.metrics.latency.get(&labels);
        latency.observe(elapsed.as_secs_f64() * 1000.0);
        let outcome = Outcome::by_status(status);
        let labels = outcome.end(labels, outcome.is_success(GrpcFailures::INBOUND));
        self.metrics.responses.get(&labels).inc();
    }
}

/// A probe, which counts as permitted by a route and an authorization of its own.
fn probing<'a>(state: &'a State, client: &Client) -> Permitted<'a> {
    let listen = state.config.admin.listen;
    let snapshot = state.policies.port(listen.port()).current().clone();
    let seen = Seen::new(listen, &snapshot.policy.server().meta, client);
    let probe = Meta::default_named("probe");
    let (rt, az) = (labels::route(&probe), labels::authorization(&probe));
    let allowed = seen.target.extend(&rt).extend(&az).extend(&seen.tls);
    state.metrics.allowed.get(&allowed).inc();
    let counted = Labels::new()
        .with("direction", "inbound")
        .extend(&seen.destination);
    Permitted {
        metrics: &state.metrics,
        labels: counted
            .extend(&seen.tls)
            .extend(&seen.server)
            .extend(&rt)
            .extend(&az),
    }
}

/// What a connection is counted in, as those of other ports are.
pub(super) fn transport(state: &State, client: &Client) -> (Detection, Arc<Transport>) {
    let listen = state.config.admin.listen;
    let snapshot = state.policies.port(listen.port()).current().clone();
    let seen = Seen::new(listen, &snapshot.policy.server().meta, client);
    let source = seen.destination.extend(&seen.tls).extend(&seen.server);
    let metrics = &state.metrics.inbound;
    (
        metrics.detection(&seen.server),
        Arc::new(metrics.transport(&source)),
    )
}

/// Judges a request by the policy of the admin port.
fn authorize<'a, B>(
    state: &'a State,
    client: &Client,
    request: &Request<B>,
) -> Result<Permitted<'a>, Box<Answer>> {
    let listen = state.config.admin.listen;
    let port = state.policies.port(listen.port());
    let snapshot: Arc<Snapshot> = port.current().clone();
    let policy = &snapshot.policy;
    let server = &policy.server().meta;
    let seen = Seen::new(listen, server, client);
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let view = RequestView {
        method: request.method(),
        authority: request
            .uri()
            .authority()
            .map(http::uri::Authority::as_str)
            .or(host),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
    };
    let peer = peer(client);
    let Some(matched) = policy.route(&view) else {
        state
            .metrics
            .not_found
            .get(&seen.target.clone().extend(&seen.tls))
            .inc();
        return Err(refused(
            client,
            StatusCode::NOT_FOUND,
            "no route found for request",
        ));
    };
    let fallback = Meta::default_named("default");
    let route = policy
        .route_meta(matched.route as usize)
        .unwrap_or(&fallback);
    let authorized = policy
        .authorize(&peer, matched.route as usize)
        .map_err(|denied| deny(state, client, &seen, &snapshot, &peer, (route, denied)))?;
    let authorization = policy.authorization_meta(authorized);
    let (rt, az) = (labels::route(route), labels::authorization(authorization));
    let allowed = seen
        .target
        .clone()
        .extend(&rt)
        .extend(&az)
        .extend(&seen.tls);
    state.metrics.allowed.get(&allowed).inc();
    if !policy.filters(&matched).is_empty() {
        let why = "a route of the admin port has filters, which it does not apply";
        return Err(refused(client, StatusCode::INTERNAL_SERVER_ERROR, why));
    }
    let identity = client.identity().map(Id::as_str);
    if let Some(limiter) = &snapshot.limiter
        && limiter.check(identity, Instant::now()).is_err()
    {
        return Err(refused(
            client,
            StatusCode::TOO_MANY_REQUESTS,
            "rate limit exceeded",
        ));
    }
    let counted = Labels::new()
        .with("direction", "inbound")
        .extend(&seen.destination);
    let counted = counted
        .extend(&seen.tls)
        .extend(&seen.server)
        .extend(&rt)
        .extend(&az);
    Ok(Permitted {
        metrics: &state.metrics,
        labels: counted,
    })
}

/// What is known of a request before its route: labels.
struct Seen {
    destination: Labels,
    server: Labels,
    /// TGT SRV.
    target: Labels,
    tls: Labels,
}

impl Seen {
    fn new(listen: SocketAddr, server: &Meta, client: &Client) -> Self {
        let tls = match &client.tls {
            Tls::None => ClientTls::None(NoTls::NotFromClient),
            Tls::Mesh(id) => ClientTls::Terminated(id.clone()),
        };
        let destination = labels::destination(listen);
        let server = labels::server(server, listen.port());
        Self {
            target: destination.clone().extend(&server),
            tls: tls.labels(),
            destination,
            server,
        }
    }
}

fn deny(
    state: &State,
    client: &Client,
    seen: &Seen,
    snapshot: &Snapshot,
    peer: &Peer<'_>,
    (route, denied): (&Meta, Denied),
) -> Box<Answer> {
    let metrics = &state.metrics;
    let labels = seen
        .target
        .clone()
        .extend(&labels::route(route))
        .extend(&seen.tls);
    metrics.denied.get(&labels).inc();
    let reason = denied.reason.as_str();
    let labels = Labels::new().with("reason", reason).extend(&seen.server);
    metrics.denied_reasons.get(&labels).inc();
    let denial = Denial {
        port: state.config.admin.listen.port(),
        server: &snapshot.policy.server().meta,
        route: Some(route),
        client: client.addr,
        identity: client.identity().map(Id::as_str),
        reason,
    };
    state
        .denials
        .record(denial, || snapshot.policy.denial(peer, denied));
    refused(
        client,
        StatusCode::FORBIDDEN,
        "unauthorized request on route",
    )
}

/// An answer made instead of a page; why is told to clients with a certificate of the mesh.
fn refused(client: &Client, status: StatusCode, why: &'static str) -> Box<Answer> {
    let mut answer = bare(status, "");
    if client.identity().is_some() {
        answer
            .headers_mut()
            .insert(PROXY_ERROR, HeaderValue::from_static(why));
    }
    Box::new(answer)
}

impl Client {
    pub(super) fn identity(&self) -> Option<&Id> {
        match &self.tls {
            Tls::Mesh(id) => id.as_ref(),
            Tls::None => None,
        }
    }
}

fn peer(client: &Client) -> Peer<'_> {
    Peer {
        addr: client.addr.ip(),
        tls: match &client.tls {
            Tls::None => PeerTls::None,
            Tls::Mesh(id) => PeerTls::Terminated {
                identity: id.as_ref().map(|id| match id {
                    Id::Dns(name) => PeerId::Dns(name),
                    Id::Uri(uri) => PeerId::Uri(uri),
                }),
            },
        },
    }
}

/// The page of a request that policy allows.
async fn page<B>(state: &State, client: &Client, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let Some(readers) = readers(state, request.uri().path()) else {
        return bare(StatusCode::NOT_FOUND, "");
    };
    match readers {
        Readers::Policy => {}
        Readers::Loopback if client.is_local() => {}
        Readers::Loopback => {
            return text(
                StatusCode::FORBIDDEN,
                "Requests are only permitted from localhost.",
            );
        }
        Readers::Off => return bare(StatusCode::NOT_FOUND, ""),
    }
    let accept = header(request.headers(), &ACCEPT);
    let query = request.uri().query();
    match request.uri().path() {
        "/metrics" => metrics(state, request.headers()),
        "/proxy-log-level" => log_level(state, request).await,
        "/shutdown" => shutdown(state, request.method()),
        "/env.json" => environment(state, request.method(), accept.as_deref(), query),
        path => {
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                return not_allowed(&["GET", "HEAD"]);
            }
            let is_json = accepts_json(accept.as_deref());
            match path {
                "/policy" => enforced::policies(state, is_json),
                "/denials" => enforced::denials(state, is_json),
                "/outbound" => outbound::destinations(state, is_json),
                "/retries" => outbound::retries(&state.outbound, is_json),
                _ => enforced::explain(state, query.unwrap_or_default(), is_json),
            }
        }
    }
}

/// Who, of those whom policy admits, may have a page; `None` if there is no such page.
fn readers(state: &State, path: &str) -> Option<Readers> {
    Some(match path {
        "/metrics" | "/retries" => Readers::Policy,
        "/proxy-log-level" | "/shutdown" => Readers::Loopback,
        "/env.json" => state.config.admin.env_json,
        "/policy" | "/policy/explain" | "/denials" | "/outbound" => state.config.admin.policy,
        _ => return None,
    })
}

fn metrics(state: &State, headers: &HeaderMap) -> Answer {
    state.policies.waiting();
    state
        .metrics
        .ready
        .set(if ready(state).is_ok() { 1.0 } else { 0.0 });
    let format = Format::negotiate(header(headers, &ACCEPT).as_deref());
    let is_gzip = accepts_gzip(header(headers, &ACCEPT_ENCODING).as_deref());
    let body = if is_gzip {
        state.registry.encode_gzip(format)
    } else {
        state.registry.encode(format)
    };
    let mut answer = typed(StatusCode::OK, format.content_type(), body);
    if is_gzip {
        let gzip = HeaderValue::from_static("gzip");
        answer.headers_mut().insert(CONTENT_ENCODING, gzip);
    }
    answer
}

async fn log_level<B>(state: &State, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let Some(filter) = state.log.get() else {
        return bare(StatusCode::NOT_FOUND, "");
    };
    match *request.method() {
        Method::GET => text(StatusCode::OK, filter),
        Method::PUT => {
            let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
            let Ok(body) = body else {
                return text(
                    StatusCode::BAD_REQUEST,
                    "the filter cannot be read, or is too long\n",
                );
            };
            let body = body.to_bytes();
            let Ok(filter) = std::str::from_utf8(&body) else {
                return text(StatusCode::BAD_REQUEST, "the filter is not UTF-8\n");
            };
            match state.log.set(filter.trim()) {
                Ok(()) => {
                    tracing::info!(filter, "Log filter changed");
                    bare(StatusCode::NO_CONTENT, "")
                }
                Err(error) => text(StatusCode::BAD_REQUEST, error),
            }
        }
        _ => not_allowed(&["GET", "PUT"]),
    }
}

fn shutdown(state: &State, method: &Method) -> Answer {
    if method != Method::POST {
        return not_allowed(&["POST"]);
    }
    if !state.config.shutdown.endpoint {
        return text(StatusCode::NOT_FOUND, "shutdown endpoint is not enabled\n");
    }
    tracing::info!("Shutdown was asked for on the admin server");
    // A full channel holds the same wish.
    let _ = state.stop.try_send(());
    text(StatusCode::OK, "shutdown\n")
}

fn environment(
    state: &State,
    method: &Method,
    accept: Option<&str>,
    query: Option<&str>,
) -> Answer {
    if method != Method::GET {
        return not_allowed(&["GET"]);
    }
    if accept.is_some()
        && !accepts_json(accept)
        && !accept.is_some_and(|accept| accept.contains('*'))
    {
        return bare(StatusCode::NOT_ACCEPTABLE, "application/json");
    }
    let all = &state.config.environment;
    let query = query.unwrap_or_default();
    if query.contains('=') {
        let error = serde_json::json!({
            "error": "a query names variables, like ?A&B, and has no values",
            "status": 400,
        });
        return json(StatusCode::BAD_REQUEST, &error);
    }
    if query.is_empty() {
        return json(StatusCode::OK, &**all);
    }
    let selected: std::collections::BTreeMap<_, _> = query
        .split('&')
        .filter(|name| !name.is_empty())
        .map(|name| (name, all.get(name)))
        .collect();
    json(StatusCode::OK, &selected)
}

/// All values of a header as one list.
fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn accepts_json(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| accept.contains("json"))
}

fn not_allowed(allowed: &[&'static str]) -> Answer {
    let mut answer = bare(StatusCode::METHOD_NOT_ALLOWED, "");
    for method in allowed {
        answer
            .headers_mut()
            .append(ALLOW, HeaderValue::from_static(method));
    }
    answer
}

/// An answer without a content type.
fn bare(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = bare(status, body);
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain", body)
}

pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(mut body) => {
            body.push(b'\n');
            typed(status, "application/json", body)
        }
        Err(error) => {
            tracing::error!(%error, "A page cannot be written as JSON");
            bare(StatusCode::INTERNAL_SERVER_ERROR, "")
        }
    }
}
