//! What one inbound port enforces, as plain data.
//!
//! This is the seam of the crate: [`crate::index`] produces it from resources, `proto` converts it to and from
//! `io.linkerd.proxy.inbound.Server`, and [`crate::compile`] turns it into the structure that decides. Nothing here
//! is looked up on a request path.

use crate::json;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use serde::Serialize;
use std::{fmt, time::Duration};

/// The name of a policy object: what metrics, logs and explanations call it.
///
/// Source: `io.linkerd.proxy.meta.Metadata`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Meta {
    /// Something that exists without a resource: `default`, `probe`, `all-unauthenticated`, `audit`, `localhost`.
    Default {
        /// Its name.
        name: String,
    },
    /// A resource.
    Resource {
        /// API group, for example `policy.linkerd.io`.
        group: String,
        /// Kind, spelled as the API sends it: `server`, `authorizationpolicy`, `HTTPRoute`.
        kind: String,
        /// Resource name.
        name: String,
    },
}

impl Meta {
    /// A name for something that exists without a resource.
    pub fn default_named(name: impl Into<String>) -> Self {
        Self::Default { name: name.into() }
    }

    /// A resource's name.
    pub fn resource(
        group: impl Into<String>,
        kind: impl Into<String>,
        name: impl Into<String>,
    ) -> Self {
        Self::Resource {
            group: group.into(),
            kind: kind.into(),
            name: name.into(),
        }
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

    /// Name.
    pub fn name(&self) -> &str {
        match self {
            Self::Default { name } | Self::Resource { name, .. } => name,
        }
    }

    /// Whether this names the `audit` default: allowed, and recorded as what would be denied.
    pub fn is_audit(&self) -> bool {
        matches!(self, Self::Default { name } if name == "audit")
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default { name } => write!(f, "default {name}"),
            Self::Resource { kind, name, .. } => write!(f, "{kind} {name}"),
        }
    }
}

/// The policy of one inbound port, as the policy controller sends it.
///
/// Source: `io.linkerd.proxy.inbound.Server`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerPolicy {
    /// The Server, or the default policy, that governs the port.
    pub meta: Meta,
    /// How connections on the port are handled.
    pub protocol: Protocol,
    /// Authorizations of every connection and of every route of the port, in order of preference.
    pub authorizations: Vec<Authorization>,
}

/// How connections on a port are handled.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Detect HTTP within the timeout; what is not HTTP is forwarded as opaque bytes.
    Detect {
        /// Limit of HTTP detection.
        #[serde(serialize_with = "json::time")]
        timeout: Duration,
        /// Routes and rate limit of what is HTTP.
        http: HttpPolicy,
    },
    /// HTTP/1 without detection.
    Http1(HttpPolicy),
    /// HTTP/2 without detection.
    Http2(HttpPolicy),
    /// gRPC over HTTP/2 without detection.
    Grpc {
        /// Routes; at least one.
        routes: Vec<GrpcRoute>,
    },
    /// Opaque bytes, no detection at all.
    Opaque,
    /// TLS of the application's own, forwarded without being read.
    Tls,
}

/// Routes and rate limit of an HTTP port.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HttpPolicy {
    /// Routes in the controller's order, which breaks ties.
    pub routes: Vec<HttpRoute>,
    /// Limits of the whole port.
    pub rate_limit: Option<RateLimit>,
}

/// An HTTP route of a port. Source: `io.linkerd.proxy.inbound.HttpRoute`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpRoute {
    /// The route's name.
    pub meta: Meta,
    /// Hosts it serves; empty = all.
    pub hosts: Vec<HostMatch>,
    /// Authorizations of this route, before those of the port.
    pub authorizations: Vec<Authorization>,
    /// Rules in order.
    pub rules: Vec<HttpRule>,
}

/// Matches and filters of an HTTP route.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HttpRule {
    /// Any of these; empty = every request.
    pub matches: Vec<HttpMatch>,
    /// Applied in order after authorization.
    pub filters: Vec<Filter>,
}

/// A host a route serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// This host, without regard to case.
    Exact(String),
    /// Any host below this suffix, given as labels from the top (`*.x.y` is `["y", "x"]`).
    Suffix(Vec<String>),
}

/// All parts must match. Source: `io.linkerd.proxy.http_route.HttpRouteMatch`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HttpMatch {
    /// Path.
    pub path: Option<PathMatch>,
    /// Headers, all of them.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, all of them.
    pub query: Vec<QueryMatch>,
    /// Method.
    #[serde(serialize_with = "json::optional_text")]
    pub method: Option<Method>,
}

/// How a path matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// Byte for byte.
    Exact(String),
    /// Whole segments from the start.
    Prefix(String),
    /// The whole path, as `^(?:re)$`.
    Regex(String),
}

/// A header that must be present with this value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderMatch {
    /// Name.
    #[serde(serialize_with = "json::text")]
    pub name: HeaderName,
    /// Value.
    pub value: ValueMatch,
}

/// A query parameter that must be present with this value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueryMatch {
    /// Name, after URL decoding.
    pub name: String,
    /// Value, after URL decoding.
    pub value: ValueMatch,
}

/// How a value matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueMatch {
    /// Byte for byte.
    #[serde(serialize_with = "json::bytes")]
    Exact(Vec<u8>),
    /// The whole value, as `^(?:re)$`.
    Regex(String),
}

/// A gRPC route of a port. Source: `io.linkerd.proxy.inbound.GrpcRoute`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrpcRoute {
    /// The route's name.
    pub meta: Meta,
    /// Hosts it serves; empty = all.
    pub hosts: Vec<HostMatch>,
    /// Authorizations of this route, before those of the port.
    pub authorizations: Vec<Authorization>,
    /// Rules in order.
    pub rules: Vec<GrpcRule>,
}

/// Matches and filters of a gRPC route.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GrpcRule {
    /// Any of these; empty = every request.
    pub matches: Vec<GrpcMatch>,
    /// Applied in order after authorization; header modifiers and failure injectors only.
    pub filters: Vec<Filter>,
}

/// All parts must match. Source: `io.linkerd.proxy.grpc_route.GrpcRouteMatch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GrpcMatch {
    /// Service, or any if empty.
    pub service: String,
    /// Method, or any if empty.
    pub method: String,
    /// Headers, all of them.
    pub headers: Vec<HeaderMatch>,
}

/// What is done with a request that was authorized.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Changes request headers.
    RequestHeaders(HeaderModifier),
    /// Changes response headers. Outbound routes only.
    ResponseHeaders(HeaderModifier),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Answers with a failure.
    Failure(FailureInjector),
    /// A filter this version does not know: requests of the rule fail, since leaving it out could be unsafe.
    Unknown,
}

/// Add, set and remove headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderModifier {
    /// Appended.
    #[serde(serialize_with = "json::headers")]
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Replaced.
    #[serde(serialize_with = "json::headers")]
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Removed.
    #[serde(serialize_with = "json::texts")]
    pub remove: Vec<HeaderName>,
}

/// A redirect. Source: `io.linkerd.proxy.http_route.RequestRedirect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// Scheme; absent = the request's, else `http`.
    pub scheme: Option<String>,
    /// Host; absent = the request's.
    pub host: Option<String>,
    /// Path; absent = the request's.
    pub path: Option<PathModifier>,
    /// Port; absent = see the spec: the request's when only the host changes.
    pub port: Option<u16>,
    /// Status; absent = 301.
    #[serde(serialize_with = "json::status")]
    pub status: Option<StatusCode>,
}

/// How a redirect changes the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathModifier {
    /// Replaces path and query.
    Full(String),
    /// Replaces the matched prefix and keeps the query.
    Prefix(String),
}

/// Answers some requests with a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureInjector {
    /// HTTP status (HTTP routes) or gRPC code (gRPC routes).
    pub status: u16,
    /// Text for the client.
    pub message: String,
    /// Share of requests, as (numerator, denominator); absent = all. A denominator of 0 is refused on conversion.
    pub ratio: Option<(u32, u32)>,
}

/// Who may connect, and from where.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Authorization {
    /// The authorization's name.
    pub meta: Meta,
    /// Client addresses; at least one.
    pub networks: Vec<NetworkMatch>,
    /// What the client must show.
    pub authentication: Authentication,
}

/// A network without its exceptions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkMatch {
    /// Addresses inside this network
    pub net: IpNet,
    /// but in none of these.
    pub except: Vec<IpNet>,
}

/// What a client must show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Authentication {
    /// Nothing.
    Unauthenticated,
    /// Mesh TLS, terminated here; a client certificate is not needed.
    TlsUnauthenticated,
    /// Mesh TLS with one of these identities.
    Identities {
        /// Exact identities; DNS-like ones are compared without case, URIs byte for byte.
        exact: Vec<String>,
        /// DNS suffixes as labels in reading order (`*.a.b` is `["a", "b"]`); an empty one means any identity, of
        /// either form.
        #[serde(serialize_with = "json::suffixes")]
        suffixes: Vec<Vec<String>>,
    },
}

/// Request limits of a port. Source: `io.linkerd.proxy.inbound.HttpLocalRateLimit`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RateLimit {
    /// The policy's name, if it has one.
    pub meta: Option<Meta>,
    /// Requests per second of all clients together.
    pub total: Option<u32>,
    /// Requests per second of each identity; clients without identity share one.
    pub identity: Option<u32>,
    /// Limits of named identities, in place of `identity`.
    pub overrides: Vec<RateLimitOverride>,
}

/// The limit of some identities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RateLimitOverride {
    /// Requests per second, one bucket for all of them.
    pub requests_per_second: u32,
    /// Identities it applies to.
    pub identities: Vec<String>,
}

impl ServerPolicy {
    /// Whether the port has policy about HTTP requests of its own (routes, a rate limit), so that what is not HTTP must
    /// not be let around it.
    pub fn has_http_policy(&self) -> bool {
        match &self.protocol {
            Protocol::Detect { http, .. } | Protocol::Http1(http) | Protocol::Http2(http) => {
                http.rate_limit.is_some()
                    || http
                        .routes
                        .iter()
                        .any(|route| matches!(route.meta, Meta::Resource { .. }))
            }
            Protocol::Grpc { .. } => true,
            Protocol::Opaque | Protocol::Tls => false,
        }
    }
}
