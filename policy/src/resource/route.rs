//! HTTPRoute (of policy.linkerd.io and of the Gateway API) and GRPCRoute, as the inbound side reads them.
//!
//! Outbound fields (backends, timeouts, retries) are accepted and checked where a rule of admission says so, and
//! otherwise decide nothing here.

use super::{GATEWAY_GROUP, Metadata, Object, POLICY_GROUP, values};
use serde::{Deserialize, de::IgnoredAny};

/// Which of the two groups an HTTPRoute belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteGroup {
    /// gateway.networking.k8s.io
    Gateway,
    /// policy.linkerd.io
    Policy,
}

impl RouteGroup {
    /// The API group; also the default group of a parentRef.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => GATEWAY_GROUP,
            Self::Policy => POLICY_GROUP,
        }
    }
}

/// An HTTPRoute of either group.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// Group.
    pub group: RouteGroup,
    /// Metadata.
    pub metadata: Metadata,
    /// Specification.
    pub spec: HttpRouteSpec,
}

/// gateway.networking.k8s.io GRPCRoute.
pub type GrpcRoute = Object<GrpcRouteSpec>;

/// What an HTTPRoute specifies.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteSpec {
    /// What it is attached to.
    #[serde(default, deserialize_with = "values::or_default")]
    pub parent_refs: Vec<ParentRef>,
    /// Hosts it serves; none = all.
    #[serde(default, deserialize_with = "values::or_default")]
    pub hostnames: Vec<String>,
    /// Rules; one that matches every request if absent.
    #[serde(default = "one_http_rule")]
    pub rules: Vec<HttpRule>,
    #[serde(default)]
    use_default_gateways: Uninterpreted,
}

fn one_http_rule() -> Vec<HttpRule> {
    vec![HttpRule::default()]
}

/// What a GRPCRoute specifies.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteSpec {
    /// What it is attached to.
    #[serde(default, deserialize_with = "values::or_default")]
    pub parent_refs: Vec<ParentRef>,
    /// Hosts it serves; none = all.
    #[serde(default, deserialize_with = "values::or_default")]
    pub hostnames: Vec<String>,
    /// Rules; one that matches every call if absent.
    #[serde(default = "one_grpc_rule")]
    pub rules: Vec<GrpcRule>,
    #[serde(default)]
    use_default_gateways: Uninterpreted,
}

fn one_grpc_rule() -> Vec<GrpcRule> {
    vec![GrpcRule::default()]
}

/// What a route is attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// Group; the route's own if absent, empty or `core` = the core group.
    pub group: Option<String>,
    /// Kind; `Gateway` if absent.
    pub kind: Option<String>,
    /// Name.
    pub name: String,
    /// Namespace; the route's own if absent.
    pub namespace: Option<String>,
    /// Port of the parent.
    pub port: Option<u16>,
    /// Section of the parent.
    pub section_name: Option<String>,
}

impl ParentRef {
    /// Whether the parent, of a route in `own`, is of this kind.
    pub fn is(&self, own: RouteGroup, group: &str, kind: &str) -> bool {
        let named = match self.group.as_deref() {
            None => own.as_str(),
            Some(core) if core.eq_ignore_ascii_case("core") => "",
            Some(named) => named,
        };
        named.eq_ignore_ascii_case(group)
            && self
                .kind
                .as_deref()
                .unwrap_or("Gateway")
                .eq_ignore_ascii_case(kind)
    }
}

/// A field that is accepted and not read; whether it is there is all that is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uninterpreted(bool);

impl PartialEq for Uninterpreted {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Uninterpreted {}

impl<'de> Deserialize<'de> for Uninterpreted {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<IgnoredAny>::deserialize(deserializer).map(|field| Self(field.is_some()))
    }
}

/// Matches, filters and backends of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRule {
    /// Name of the rule (Gateway API).
    #[serde(default)]
    name: Uninterpreted,
    /// Any of these; every request if absent.
    #[serde(default = "one_http_match")]
    pub matches: Vec<HttpMatch>,
    /// In order.
    #[serde(default, deserialize_with = "values::or_default")]
    pub filters: Vec<RouteFilter>,
    /// Outbound only.
    #[serde(default, deserialize_with = "values::or_default")]
    pub backend_refs: Vec<BackendRef>,
    /// Outbound only.
    pub timeouts: Option<Timeouts>,
    #[serde(default)]
    retry: Uninterpreted,
    #[serde(default)]
    session_persistence: Uninterpreted,
}

fn one_http_match() -> Vec<HttpMatch> {
    vec![HttpMatch::default()]
}

impl Default for HttpRule {
    fn default() -> Self {
        Self {
            name: Uninterpreted::default(),
            matches: one_http_match(),
            filters: Vec::new(),
            backend_refs: Vec::new(),
            timeouts: None,
            retry: Uninterpreted::default(),
            session_persistence: Uninterpreted::default(),
        }
    }
}

impl HttpRule {
    /// Fields that are there, ask for something and are not read.
    pub fn unread(&self) -> impl Iterator<Item = &'static str> {
        let limits = self.timeouts.as_ref();
        let fields = [
            (self.retry.0, "retry"),
            (self.session_persistence.0, "sessionPersistence"),
            (
                limits.is_some_and(|limits| limits.backend_request.is_some()),
                "timeouts.backendRequest",
            ),
        ];
        let there = fields.into_iter().filter(|(is_there, _)| *is_there);
        there.map(|(_, name)| name)
    }
}

impl GrpcRule {
    /// Fields that are there, ask for something and are not read.
    pub fn unread(&self) -> impl Iterator<Item = &'static str> {
        self.session_persistence
            .0
            .then_some("sessionPersistence")
            .into_iter()
    }
}

/// A backend, which only the outbound side uses.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// Group; core if absent.
    pub group: Option<String>,
    /// Kind; `Service` if absent.
    pub kind: Option<String>,
    /// Name.
    pub name: String,
    /// Namespace; the route's own if absent.
    pub namespace: Option<String>,
    /// Port.
    pub port: Option<u32>,
    /// Share of the traffic, 1 if absent.
    pub weight: Option<u32>,
    /// Applied to requests that go there.
    #[serde(default, deserialize_with = "values::or_default")]
    pub filters: Vec<RouteFilter>,
}

/// Timeouts of an HTTPRoute rule, as Go durations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// Of the whole request; `0s` = none.
    pub request: Option<String>,
    /// Of one attempt.
    pub backend_request: Option<String>,
}

/// What an HTTP request must have, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    /// Path; the prefix `/` if absent.
    pub path: Option<PathMatch>,
    /// Headers.
    #[serde(default, deserialize_with = "values::or_default")]
    pub headers: Vec<NamedMatch>,
    /// Query parameters.
    #[serde(default, deserialize_with = "values::or_default")]
    pub query_params: Vec<NamedMatch>,
    /// Method.
    pub method: Option<Method>,
}

/// A method a route can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names of HTTP methods")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathMatch {
    /// How it is compared.
    #[serde(default, rename = "type", deserialize_with = "values::or_default")]
    pub kind: PathType,
    /// With what; `/` if absent.
    #[serde(default = "root")]
    pub value: String,
}

fn root() -> String {
    "/".to_owned()
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PathType {
    /// Byte for byte.
    Exact,
    /// Whole segments from the start.
    #[default]
    PathPrefix,
    /// As a regular expression for the whole path.
    RegularExpression,
}

/// A header or query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedMatch {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
    /// How it is compared.
    #[serde(default, rename = "type", deserialize_with = "values::or_default")]
    pub kind: ValueType,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ValueType {
    /// Byte for byte.
    #[default]
    Exact,
    /// As a regular expression for the whole value.
    RegularExpression,
}

/// Matches, filters and backends of a GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRule {
    #[serde(default)]
    name: Uninterpreted,
    /// Any of these; every call if absent or empty.
    #[serde(default, deserialize_with = "values::or_default")]
    pub matches: Vec<GrpcMatch>,
    /// In order.
    #[serde(default, deserialize_with = "values::or_default")]
    pub filters: Vec<RouteFilter>,
    /// Outbound only.
    #[serde(default, deserialize_with = "values::or_default")]
    pub backend_refs: Vec<BackendRef>,
    #[serde(default)]
    session_persistence: Uninterpreted,
}

/// What a call must have, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcMatch {
    /// Service and method; all if absent.
    pub method: Option<GrpcMethodMatch>,
    /// Headers.
    #[serde(default, deserialize_with = "values::or_default")]
    pub headers: Vec<NamedMatch>,
}

/// Service and method of a call; at least one is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcMethodMatch {
    /// How they are compared; only `Exact` is supported.
    #[serde(default, rename = "type", deserialize_with = "values::or_default")]
    pub kind: ValueType,
    /// Service; all if absent.
    pub service: Option<String>,
    /// Method; all if absent.
    pub method: Option<String>,
}

/// A filter: its type, and the field that belongs to the type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteFilter {
    /// `RequestHeaderModifier`, `RequestRedirect`, or one that the inbound side does not implement.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of `RequestHeaderModifier`.
    pub request_header_modifier: Option<HeaderModifier>,
    /// Of `RequestRedirect`.
    pub request_redirect: Option<Redirect>,
    /// Of `ResponseHeaderModifier`; outbound only.
    pub response_header_modifier: Option<HeaderModifier>,
    #[serde(default)]
    request_mirror: Uninterpreted,
    #[serde(default)]
    url_rewrite: Uninterpreted,
    #[serde(default)]
    extension_ref: Uninterpreted,
    #[serde(default)]
    cors: Uninterpreted,
    #[serde(default)]
    external_auth: Uninterpreted,
}

/// Header changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderModifier {
    /// Appended.
    #[serde(default, deserialize_with = "values::or_default")]
    pub add: Vec<Header>,
    /// Replaced.
    #[serde(default, deserialize_with = "values::or_default")]
    pub set: Vec<Header>,
    /// Removed.
    #[serde(default, deserialize_with = "values::or_default")]
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A redirect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    /// Scheme; the request's if absent.
    pub scheme: Option<Scheme>,
    /// Host; the request's if absent.
    pub hostname: Option<String>,
    /// Path; the request's if absent.
    pub path: Option<RedirectPath>,
    /// Port.
    pub port: Option<u16>,
    /// 302 if absent.
    pub status_code: Option<u16>,
}

/// Scheme of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// How a redirect changes the path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedirectPath {
    /// Which of the two fields counts.
    #[serde(rename = "type")]
    pub kind: RedirectPathType,
    /// The whole path.
    pub replace_full_path: Option<String>,
    /// In place of the matched prefix.
    pub replace_prefix_match: Option<String>,
}

/// How a redirect changes the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum RedirectPathType {
    /// The whole path.
    ReplaceFullPath,
    /// The matched prefix.
    ReplacePrefixMatch,
}
