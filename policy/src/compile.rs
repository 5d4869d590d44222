//! From a port's policy as data to the structure that decides.
//!
//! [`Policy::compile`] runs once for each version of a policy, never for a request. [`authorizations`] is how the
//! authorizations of a list are found without going through it, [`routes`] how routes are.

pub mod authorizations;
pub mod routes;

use crate::{
    decide::{Policy, PolicyRoute},
    filters,
    server::{Authorization, Filter, Meta, Protocol, ServerPolicy},
};
use authorizations::AuthorizationTable;
use routes::RouteTable;

/// Most lines of [`Policy::warnings`].
const MAX_WARNINGS: usize = 32;

/// A policy that cannot be enforced as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct CompileError {
    /// Where: `protocol.http1.routes[2].rules[0].matches[1].path.regex`.
    pub field: String,
    /// Whose field it is, what is wrong with its value, and what to write in its place.
    pub reason: String,
}

impl Policy {
    /// Compiles a port's policy.
    ///
    /// # Errors
    /// A regular expression that does not compile or is too large, a failure ratio out of nothing, more matches
    /// than [`routes::MAX_MATCHES`]: named by route and field.
    pub fn compile(server: ServerPolicy) -> Result<Self, CompileError> {
        let table = RouteTable::new(&server)?;
        let authorizations = AuthorizationTable::new(&server.authorizations);
        let mut offset = index(server.authorizations.len());
        let mut routes = Vec::new();
        for (meta, own) in named_routes(&server) {
            routes.push(PolicyRoute {
                meta: meta.clone(),
                offset,
                authorizations: AuthorizationTable::new(own),
            });
            offset = offset.saturating_add(index(own.len()));
        }
        if routes.is_empty() && server.protocol.reads_requests() {
            routes.push(PolicyRoute {
                meta: Meta::default_named("default"),
                offset,
                authorizations: AuthorizationTable::new(&[]),
            });
        }
        let warnings = warnings(&server)?;
        Ok(Self {
            path_policy: table.looks_at_paths(),
            authorizations,
            routes,
            table,
            warnings,
            server,
        })
    }
}

/// Whether a policy would compile, without making it.
#[cfg(feature = "proto")]
pub(crate) fn check(server: &ServerPolicy) -> Result<(), CompileError> {
    RouteTable::new(server)?;
    warnings(server).map(drop)
}

/// An index as it is stored; lists of more than 4 billion entries do not arrive.
pub(crate) fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn named_routes(server: &ServerPolicy) -> Vec<(&Meta, &[Authorization])> {
    match &server.protocol {
        Protocol::Grpc { routes } => routes
            .iter()
            .map(|route| (&route.meta, route.authorizations.as_slice()))
            .collect(),
        protocol => protocol.http().map_or_else(Vec::new, |http| {
            http.routes
                .iter()
                .map(|route| (&route.meta, route.authorizations.as_slice()))
                .collect()
        }),
    }
}

/// Where routes stand in the API's message.
pub(crate) fn routes_field(protocol: &Protocol) -> &'static str {
    match protocol {
        Protocol::Detect { .. } => "protocol.detect.http_routes",
        Protocol::Http1(_) => "protocol.http1.routes",
        Protocol::Http2(_) => "protocol.http2.routes",
        Protocol::Grpc { .. } => "protocol.grpc.routes",
        Protocol::Opaque | Protocol::Tls => "protocol",
    }
}

/// Checks filters, and collects what they ask for that the proxy will not do.
fn warnings(server: &ServerPolicy) -> Result<Vec<String>, CompileError> {
    let field = routes_field(&server.protocol);
    let mut lines = Vec::new();
    for (at, (meta, rules)) in rule_filters(server).enumerate() {
        for (rule, filters) in rules.into_iter().enumerate() {
            for (position, filter) in filters.iter().enumerate() {
                let place = || format!("{field}[{at}].rules[{rule}].filters[{position}]");
                if let Filter::Failure(injector) = filter
                    && let Some((_, 0)) = injector.ratio
                {
                    return Err(CompileError {
                        field: format!("{}.failure_injector.ratio.denominator", place()),
                        reason: format!(
                            "{meta}: 0 is no denominator; leave the ratio out to fail every request"
                        ),
                    });
                }
                if let Filter::RequestHeaders(modifier) = filter {
                    for name in filters::left_alone(modifier) {
                        if lines.len() < MAX_WARNINGS {
                            lines.push(format!(
                                "{}: {meta}: `{name}` is the proxy's own header and is left as it is",
                                place()
                            ));
                        }
                    }
                }
            }
        }
    }
    Ok(lines)
}

fn rule_filters(server: &ServerPolicy) -> impl Iterator<Item = (&Meta, Vec<&[Filter]>)> {
    let grpc = match &server.protocol {
        Protocol::Grpc { routes } => routes.as_slice(),
        _ => &[],
    };
    let http = server
        .protocol
        .http()
        .map_or(&[][..], |http| http.routes.as_slice());
    let grpc = grpc.iter().map(|route| {
        let filters = route.rules.iter().map(|rule| rule.filters.as_slice());
        (&route.meta, filters.collect())
    });
    let http = http.iter().map(|route| {
        let filters = route.rules.iter().map(|rule| rule.filters.as_slice());
        (&route.meta, filters.collect())
    });
    grpc.chain(http)
}

#[cfg(test)]
mod tests;
