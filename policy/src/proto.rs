//! To and from the API's messages: `inbound.Server`, `outbound.OutboundPolicy`, `destination`'s endpoints and profiles.
//!
//! The proxy converts what a controller sends, ours converts what it serves. A message is taken as a whole or not at
//! all: one value that cannot be enforced as it is written makes it an [`InvalidServer`], which names the field.

mod authorizations;
mod endpoints;
mod outbound;
mod outbound_to_api;
mod profiles;
mod routes;
mod to_api;

use crate::{
    compile,
    server::{HttpPolicy, Meta, Protocol, RateLimit, RateLimitOverride, ServerPolicy},
};
use linkerd2_proxy_api::{
    inbound::{self, proxy_protocol::Kind},
    meta,
};
use std::{collections::HashMap, fmt, time::Duration};

pub use endpoints::{endpoint_from_api, endpoint_to_api, socket_address, tcp_address};
pub use outbound::outbound_from_api;
pub use outbound_to_api::outbound_to_api;
pub use profiles::{profile_from_api, profile_to_api};
pub use to_api::server_to_api;

/// A message of any kind that cannot be used.
pub type InvalidMessage = InvalidServer;

/// A message that cannot be enforced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidServer {
    /// Where in the message: `protocol.http1.routes[2].rules[0].matches[1].path.regex`.
    pub field: String,
    /// What is wrong with the value there, and what is wanted.
    pub reason: String,
}

/// Converts a message. The authorization `localhost` that every Server of the API has is not in the message; see
/// [`ServerPolicy::with_localhost`]. `server_ips` says nothing of policy and is ignored.
///
/// # Errors
/// Names the first field that cannot be enforced. Never panics, and takes time linear in the message.
pub fn server_from_api(server: inbound::Server) -> Result<ServerPolicy, InvalidServer> {
    let root = Field::Root;
    let meta = labels_meta(&root.name("labels"), &server.labels, "server")?;
    let protocol = protocol(&root.name("protocol"), server.protocol)?;
    let authorizations = authorizations::from_api(&root, "authorizations", server.authorizations)?;
    let policy = ServerPolicy {
        meta,
        protocol,
        authorizations,
    };
    compile::check(&policy).map_err(|error| InvalidServer {
        field: error.field,
        reason: error.reason,
    })?;
    Ok(policy)
}

/// A place in a message. Made on the way down at no cost, written out only for an error.
#[derive(Clone, Copy)]
enum Field<'a> {
    Root,
    Name(&'a Self, &'static str),
    Item(&'a Self, &'static str, usize),
}

impl Field<'_> {
    fn name<'s>(&'s self, name: &'static str) -> Field<'s> {
        Field::Name(self, name)
    }

    fn item<'s>(&'s self, name: &'static str, at: usize) -> Field<'s> {
        Field::Item(self, name, at)
    }

    fn invalid(&self, reason: impl Into<String>) -> InvalidServer {
        InvalidServer {
            field: self.to_string(),
            reason: reason.into(),
        }
    }

    /// The value of a message field that must be there.
    fn needed<T>(&self, value: Option<T>) -> Result<T, InvalidServer> {
        value.ok_or_else(|| self.invalid("missing, or of a kind this version does not know"))
    }

    fn dot(&self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Name(..) | Self::Item(..) => ".",
        }
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Name(parent, name) => write!(f, "{parent}{}{name}", parent.dot()),
            Self::Item(parent, name, at) => write!(f, "{parent}{}{name}[{at}]", parent.dot()),
        }
    }
}

/// A value for a message: short, since a hostile one may be long.
fn quoted(value: &str) -> String {
    let mut short: String = value
        .chars()
        .take(80)
        .flat_map(char::escape_debug)
        .collect();
    if value.chars().nth(80).is_some() {
        short.push_str("...");
    }
    format!("`{short}`")
}

fn protocol(
    field: &Field<'_>,
    protocol: Option<inbound::ProxyProtocol>,
) -> Result<Protocol, InvalidServer> {
    let kind = field.needed(protocol.and_then(|protocol| protocol.kind))?;
    Ok(match kind {
        Kind::Detect(detect) => {
            let field = field.name("detect");
            Protocol::Detect {
                timeout: timeout(&field.name("timeout"), detect.timeout)?,
                http: HttpPolicy {
                    routes: routes::http(&field, "http_routes", detect.http_routes)?,
                    rate_limit: detect
                        .http_local_rate_limit
                        .map(|limit| rate_limit(&field.name("http_local_rate_limit"), limit))
                        .transpose()?,
                },
            }
        }
        Kind::Http1(http) => {
            let field = field.name("http1");
            Protocol::Http1(http_policy(&field, http.routes, http.local_rate_limit)?)
        }
        Kind::Http2(http) => {
            let field = field.name("http2");
            Protocol::Http2(http_policy(&field, http.routes, http.local_rate_limit)?)
        }
        Kind::Grpc(grpc) => Protocol::Grpc {
            routes: routes::grpc(&field.name("grpc"), grpc.routes)?,
        },
        Kind::Opaque(inbound::proxy_protocol::Opaque {}) => Protocol::Opaque,
        Kind::Tls(inbound::proxy_protocol::Tls {}) => Protocol::Tls,
    })
}

fn http_policy(
    field: &Field<'_>,
    routes: Vec<inbound::HttpRoute>,
    limit: Option<inbound::HttpLocalRateLimit>,
) -> Result<HttpPolicy, InvalidServer> {
    Ok(HttpPolicy {
        routes: routes::http(field, "routes", routes)?,
        rate_limit: limit
            .map(|limit| rate_limit(&field.name("local_rate_limit"), limit))
            .transpose()?,
    })
}

fn timeout(
    field: &Field<'_>,
    timeout: Option<prost_types::Duration>,
) -> Result<Duration, InvalidServer> {
    let timeout = field.needed(timeout)?;
    let wanted = "is no time limit; send one above 0s, 10s is usual";
    let shown = || format!("{}s {}ns {wanted}", timeout.seconds, timeout.nanos);
    let (Ok(seconds), Ok(nanos @ 0..=999_999_999)) =
        (u64::try_from(timeout.seconds), u32::try_from(timeout.nanos))
    else {
        return Err(field.invalid(shown()));
    };
    let timeout = Duration::new(seconds, nanos);
    if timeout.is_zero() {
        return Err(field.invalid(shown()));
    }
    Ok(timeout)
}

fn rate_limit(
    field: &Field<'_>,
    limit: inbound::HttpLocalRateLimit,
) -> Result<RateLimit, InvalidServer> {
    let overrides = limit.overrides.into_iter().enumerate().map(|(at, limit)| {
        let field = field.item("overrides", at);
        let clients = field.name("clients").needed(limit.clients)?;
        Ok(RateLimitOverride {
            requests_per_second: field.name("limit").needed(limit.limit)?.requests_per_second,
            identities: clients.identities.into_iter().map(|id| id.name).collect(),
        })
    });
    Ok(RateLimit {
        meta: limit
            .metadata
            .map(|meta| metadata(&field.name("metadata"), Some(meta)))
            .transpose()?,
        total: limit.total.map(|limit| limit.requests_per_second),
        identity: limit.identity.map(|limit| limit.requests_per_second),
        overrides: overrides.collect::<Result<_, _>>()?,
    })
}

/// Namespace, section and port of a resource do not name it in metrics and are dropped.
fn metadata(field: &Field<'_>, metadata: Option<meta::Metadata>) -> Result<Meta, InvalidServer> {
    let kind = field.needed(metadata.and_then(|metadata| metadata.kind))?;
    Ok(match kind {
        meta::metadata::Kind::Default(name) => Meta::Default { name },
        meta::metadata::Kind::Resource(resource) => Meta::Resource {
            group: resource.group,
            kind: resource.kind,
            name: resource.name,
        },
    })
}

/// A name given as labels, as older controllers do. Source: `proxy-inbound` §4.2 of the specification.
fn labels_meta(
    field: &Field<'_>,
    labels: &HashMap<String, String>,
    kind: &str,
) -> Result<Meta, InvalidServer> {
    let Some(name) = labels.get("name") else {
        return Err(field.invalid("the label `name` is missing; it names the object in metrics"));
    };
    let group = labels.get("group").map(String::as_str);
    let group_or_usual = group.unwrap_or("policy.linkerd.io");
    Ok(match labels.get("kind").map(String::as_str) {
        Some("default") if group.unwrap_or_default().is_empty() => Meta::default_named(name),
        Some(kind) => Meta::resource(group_or_usual, kind, name),
        None => match name.split_once(':') {
            Some(("default", name)) => Meta::default_named(name),
            Some((kind, name)) => Meta::resource(group_or_usual, kind, name),
            None => Meta::resource(group_or_usual, kind, name),
        },
    })
}

#[cfg(test)]
mod tests;
