//! What applies to traffic to one destination, as plain data.
//!
//! The outbound counterpart of [`crate::server`]: [`crate::index`] produces it from resources, `proto` converts it to
//! and from `io.linkerd.proxy.outbound.OutboundPolicy` and `io.linkerd.proxy.destination`, and [`router`] turns its
//! routes into the structure that decides. Nothing here is looked up on a request path.

pub mod profile;
pub mod router;

use crate::{
    json,
    server::{Filter, GrpcMatch, HostMatch, HttpMatch},
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, net::SocketAddr, ops::RangeInclusive, time::Duration};

/// The name of something that traffic passes: a destination, a route, a backend. What metrics and errors call it.
///
/// Source: `io.linkerd.proxy.meta.Metadata`. Unlike an inbound [`crate::Meta`] it has a namespace: objects of the
/// same name in two namespaces are two objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ref {
    /// Something that exists without a resource: `http`, `opaq`, `egress-fallback`.
    Default {
        /// Its name.
        name: String,
    },
    /// A resource.
    Resource {
        /// API group: `core`, `policy.linkerd.io`, `gateway.networking.k8s.io`.
        group: String,
        /// Kind: `Service`, `HTTPRoute`, `EgressNetwork`.
        kind: String,
        /// Namespace.
        namespace: String,
        /// Resource name.
        name: String,
        /// Port, for parents and backends.
        port: Option<u16>,
        /// Section name, or empty.
        section: String,
    },
}

impl Ref {
    /// A name for something that exists without a resource.
    pub fn default_named(name: impl Into<String>) -> Self {
        Self::Default { name: name.into() }
    }

    /// API group; empty for defaults.
    pub fn group(&self) -> &str {
        match self {
            Self::Default { .. } => "",
            Self::Resource { group, .. } => group,
        }
    }

    /// Kind; `default` for defaults.
    pub fn kind(&self) -> &str {
        match self {
            Self::Default { .. } => "default",
            Self::Resource { kind, .. } => kind,
        }
    }

    /// Namespace; empty for defaults.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Default { .. } => "",
            Self::Resource { namespace, .. } => namespace,
        }
    }

    /// Name.
    pub fn name(&self) -> &str {
        match self {
            Self::Default { name } | Self::Resource { name, .. } => name,
        }
    }

    /// Port.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Default { .. } => None,
            Self::Resource { port, .. } => *port,
        }
    }

    /// Section name; empty if there is none.
    pub fn section(&self) -> &str {
        match self {
            Self::Default { .. } => "",
            Self::Resource { section, .. } => section,
        }
    }
}

/// As errors name it: `{kind}.{namespace}.{name}[:port]`, `default.{name}`.
impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default { name } => write!(f, "default.{name}"),
            Self::Resource {
                kind,
                namespace,
                name,
                port,
                ..
            } => {
                write!(f, "{kind}.{namespace}.{name}")?;
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
        }
    }
}

/// What applies to traffic to one destination. Source: `io.linkerd.proxy.outbound.OutboundPolicy`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutboundPolicy {
    /// The Service or EgressNetwork, or a default.
    pub parent: Ref,
    /// How connections to it are handled.
    pub protocol: Protocol,
}

/// How connections to a destination are handled.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Detect HTTP; what is not HTTP is forwarded as opaque bytes.
    Detect {
        /// Limit of detection.
        #[serde(serialize_with = "json::time")]
        timeout: Duration,
        /// For HTTP/1.
        http1: HttpPolicy,
        /// For HTTP/2.
        http2: HttpPolicy,
        /// For what is not HTTP; at most one.
        opaque: Vec<StreamRoute>,
    },
    /// HTTP/1 without detection.
    Http1(HttpPolicy),
    /// HTTP/2 without detection.
    Http2(HttpPolicy),
    /// gRPC over HTTP/2 without detection.
    Grpc(GrpcPolicy),
    /// Opaque bytes; at most one route, none = nothing is forwarded.
    Opaque(Vec<StreamRoute>),
    /// TLS of the application's own, routed by SNI and not decrypted.
    Tls(Vec<StreamRoute>),
}

/// Routes and circuit breaking of an HTTP destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HttpPolicy {
    /// Routes in the controller's order, which breaks ties.
    pub routes: Vec<HttpRoute>,
    /// Circuit breaking of balanced endpoints; absent = none.
    pub failure_accrual: Option<FailureAccrual>,
}

/// Routes and circuit breaking of a gRPC destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GrpcPolicy {
    /// Routes in the controller's order, which breaks ties.
    pub routes: Vec<GrpcRoute>,
    /// Circuit breaking of balanced endpoints; absent = none.
    pub failure_accrual: Option<FailureAccrual>,
}

/// Source: `io.linkerd.proxy.outbound.HttpRoute`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpRoute {
    /// The route's name.
    pub meta: Ref,
    /// Hosts it serves; empty = all.
    pub hosts: Vec<HostMatch>,
    /// Rules in order.
    pub rules: Vec<HttpRule>,
}

/// Matches of an HTTP route and what is done with what matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HttpRule {
    /// Any of these; empty = every request.
    pub matches: Vec<HttpMatch>,
    /// What is done.
    pub action: Action,
}

/// Source: `io.linkerd.proxy.outbound.GrpcRoute`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrpcRoute {
    /// The route's name.
    pub meta: Ref,
    /// Hosts it serves; empty = all.
    pub hosts: Vec<HostMatch>,
    /// Rules in order.
    pub rules: Vec<GrpcRule>,
}

/// Matches of a gRPC route and what is done with what matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GrpcRule {
    /// Any of these; empty = every request.
    pub matches: Vec<GrpcMatch>,
    /// What is done.
    pub action: Action,
}

/// What is done with a request that a rule takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Action {
    /// Applied in order, for each attempt.
    pub filters: Vec<Filter>,
    /// Where it goes.
    pub backends: Distribution,
    /// Limits.
    pub timeouts: Timeouts,
    /// Retries; absent = none.
    pub retry: Option<Retry>,
    /// Clients may set timeouts and retries by `l5d-*` headers.
    pub allow_l5d_request_headers: bool,
}

/// How requests or connections are shared out among backends.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Nowhere: every request is shed.
    #[default]
    Empty,
    /// The first in order that is available; at least one.
    FirstAvailable(Vec<RouteBackend>),
    /// At random by weight, among those available; at least one with a weight above 0.
    #[serde(serialize_with = "json::weighed")]
    RandomAvailable(Vec<(RouteBackend, u32)>),
}

impl Distribution {
    /// Every backend, in order.
    pub fn backends(&self) -> impl Iterator<Item = &RouteBackend> {
        let (first, random) = match self {
            Self::Empty => (&[][..], &[][..]),
            Self::FirstAvailable(backends) => (backends.as_slice(), &[][..]),
            Self::RandomAvailable(backends) => (&[][..], backends.as_slice()),
        };
        first
            .iter()
            .chain(random.iter().map(|(backend, _)| backend))
    }
}

/// A backend as one rule uses it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteBackend {
    /// Where requests go.
    pub backend: Backend,
    /// Applied to requests that go there. HTTP and gRPC only.
    pub filters: Vec<Filter>,
    /// Connections that go there are closed. Opaque and TLS only.
    pub refusal: Option<Refusal>,
}

/// Source: `io.linkerd.proxy.outbound.Backend`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Backend {
    /// The Service, EgressNetwork or default.
    pub meta: Ref,
    /// How its endpoints are found; absent = every request fails (502).
    pub dispatcher: Option<Dispatcher>,
    /// Bounds of waiting for an endpoint.
    pub queue: Queue,
}

/// How the endpoints of a backend are found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dispatcher {
    /// One endpoint.
    Forward(Endpoint),
    /// Balanced over what `Destination.Get` says of a name.
    Balance {
        /// `name:port`; checked to be that.
        path: String,
        /// How the load of endpoints is estimated.
        load: Load,
    },
}

/// Bounds of waiting for an endpoint. Source: `io.linkerd.proxy.outbound.Queue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Queue {
    /// Requests that may wait.
    pub capacity: u32,
    /// How long there may be no endpoint.
    #[serde(serialize_with = "json::time")]
    pub failfast_timeout: Duration,
}

/// Estimation of load: peak EWMA. Source: `io.linkerd.proxy.outbound.Backend.BalanceP2c`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Load {
    /// Estimate of an endpoint that has answered nothing yet.
    #[serde(serialize_with = "json::time")]
    pub default_rtt: Duration,
    /// Window of the average.
    #[serde(serialize_with = "json::time")]
    pub decay: Duration,
    /// How failures weigh; absent = by their latency alone.
    pub penalty: Option<Penalty>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            default_rtt: Duration::from_millis(30),
            decay: Duration::from_secs(10),
            penalty: None,
        }
    }
}

/// Source: `io.linkerd.proxy.outbound.Backend.BalanceP2c.PenaltyPeakEwma`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Penalty {
    /// Latency that a failure counts as, at least.
    #[serde(serialize_with = "json::time")]
    pub penalty: Duration,
    /// Window in which it fades.
    #[serde(serialize_with = "json::time")]
    pub decay: Duration,
    /// The longest `retry-after` that is believed.
    #[serde(serialize_with = "json::time")]
    pub max_retry_after: Duration,
}

/// One endpoint. Source: `io.linkerd.proxy.destination.WeightedAddr`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Who must answer there; absent = plaintext.
    pub tls: Option<EndpointTls>,
    /// What its proxy speaks.
    pub hint: Hint,
    /// Its proxy's own port, for connections with a transport header.
    pub opaque_transport: Option<u16>,
    /// Relative share of traffic; the API's 10,000 is 1. Never 0.
    pub weight: u32,
    /// Labels of metrics, including those of its set.
    pub labels: BTreeMap<String, String>,
    /// Requests are sent with this authority instead of their own.
    pub authority_override: Option<String>,
    /// Parameters of HTTP/2 connections; absent = configured ones.
    pub http2: Option<Http2Params>,
}

/// Who must answer at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct EndpointTls {
    /// The identity that the server must prove.
    pub identity: EndpointIdentity,
    /// The name asked for (SNI).
    pub server_name: String,
}

/// A server's identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointIdentity {
    /// A DNS name.
    Dns(String),
    /// A SPIFFE ID.
    Uri(String),
}

/// What an endpoint's proxy speaks. Source: `io.linkerd.proxy.destination.ProtocolHint`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// Nothing is known.
    #[default]
    Unknown,
    /// HTTP/2, with HTTP/1 carried in it.
    Http2,
    /// Opaque bytes.
    Opaque,
}

/// Source: `io.linkerd.proxy.destination.Http2ClientParams`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Http2Params {
    /// Stream window in bytes.
    pub stream_window: Option<u32>,
    /// Connection window in bytes.
    pub connection_window: Option<u32>,
    /// Both windows follow the traffic.
    pub adaptive: bool,
    /// PING interval and timeout.
    #[serde(serialize_with = "json::keep_alive")]
    pub keep_alive: Option<(Duration, Duration)>,
    /// PINGs also without streams.
    pub keep_alive_while_idle: bool,
    /// Streams at one time, before the server says.
    pub max_concurrent_reset_streams: Option<u32>,
    /// Largest frame in bytes.
    pub max_frame_size: Option<u32>,
    /// Bytes buffered for a stream.
    pub max_send_buf_size: Option<u32>,
}

/// Limits of a request. Source: `io.linkerd.proxy.http_route.Timeouts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// From the client's request to the end of both streams, all attempts together.
    #[serde(serialize_with = "json::optional_time")]
    pub request: Option<Duration>,
    /// From the end of the request's body to the end of the response; of each attempt.
    #[serde(serialize_with = "json::optional_time")]
    pub response: Option<Duration>,
    /// Without a frame in either direction.
    #[serde(serialize_with = "json::optional_time")]
    pub idle: Option<Duration>,
}

/// Retries. Source: `io.linkerd.proxy.outbound.{HttpRoute,GrpcRoute}.Retry`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retry {
    /// Attempts after the first; at most 65,535.
    pub max_retries: u16,
    /// Bytes of the request's body that are kept.
    pub max_request_bytes: u32,
    /// What is retried.
    pub conditions: RetryConditions,
    /// Limit of an attempt that may be retried, until its response's head.
    #[serde(serialize_with = "json::optional_time")]
    pub timeout: Option<Duration>,
    /// Pauses between attempts; absent = none.
    pub backoff: Option<Backoff>,
}

/// What is retried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RetryConditions {
    /// HTTP statuses, each within 1..=599.
    #[serde(serialize_with = "json::ranges")]
    pub statuses: Vec<RangeInclusive<u16>>,
    /// gRPC codes: 1, 4, 8, 13, 14.
    pub grpc: Vec<u16>,
}

/// Pauses that double. Source: `io.linkerd.proxy.outbound.ExponentialBackoff`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Backoff {
    /// The first pause.
    #[serde(serialize_with = "json::time")]
    pub min: Duration,
    /// The longest.
    #[serde(serialize_with = "json::time")]
    pub max: Duration,
    /// Up to this share of a pause is added at random; 0..=100.
    pub jitter: f32,
    /// A response's `retry-after` sets the first pause, within `min` and `max`.
    pub respect_retry_after: bool,
}

/// Circuit breaking of endpoints. Source: `io.linkerd.proxy.outbound.FailureAccrual`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FailureAccrual {
    /// Failures in a row that trip; 0 = never.
    pub max_consecutive_failures: u32,
    /// Trips below a rate of success; absent = never.
    pub success_rate: Option<SuccessRate>,
    /// How long an endpoint is left out before a probe.
    pub backoff: Backoff,
    /// Endpoints that are never left out; 0 = all may be.
    pub min_ready_endpoints: u32,
}

/// Source: `io.linkerd.proxy.outbound.FailureAccrual.Unified`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SuccessRate {
    /// 0.0 to 1.0.
    pub threshold: f64,
    /// Over which time.
    #[serde(serialize_with = "json::time")]
    pub window: Duration,
    /// Responses in the window before it counts.
    pub min_requests: u32,
}

/// A route of connections: opaque, or TLS by SNI. Source: `OpaqueRoute`, `TlsRoute`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamRoute {
    /// The route's name.
    pub meta: Ref,
    /// Server names it serves; empty = all. TLS only.
    pub snis: Vec<HostMatch>,
    /// Connections are closed instead.
    pub refusal: Option<Refusal>,
    /// Where they go.
    pub backends: Distribution,
}

/// Why connections are closed. Source: `io.linkerd.proxy.opaque_route`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Policy forbids them.
    Forbidden,
    /// The route or backend cannot be used.
    Invalid(String),
}
