//! Decisions: may this peer connect, which route takes this request, may this peer use the route.
//!
//! The proxy asks for each connection and request; [`crate::explain`] asks the same functions. Everything here reads
//! the compiled, immutable [`Policy`] and allocates next to nothing.

use crate::{
    compile::{authorizations::AuthorizationTable, routes::RouteTable},
    matchers::{identity::is_uri, path::normal_prefix},
    server::{Authorization, Filter, Meta, PathMatch, Protocol, RateLimit, ServerPolicy},
};
use http::{HeaderMap, Method};
use std::{fmt, net::IpAddr};

/// Who connected.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// The client's address.
    pub addr: IpAddr,
    /// What is known of it by TLS.
    pub tls: PeerTls<'a>,
}

/// TLS of a connection, as far as policy is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerTls<'a> {
    /// No TLS.
    None,
    /// TLS that is not for us and is passed on without being read: it says nothing about the client.
    Passthrough,
    /// Mesh TLS, terminated here.
    Terminated {
        /// Identity of the client's certificate, if it showed one.
        identity: Option<PeerId<'a>>,
    },
}

/// An identity from a verified client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerId<'a> {
    /// A DNS-like name: `web.shop.serviceaccount.identity.linkerd.cluster.local`.
    Dns(&'a str),
    /// A URI: `spiffe://root/ns/shop/sa/web`.
    Uri(&'a str),
}

impl<'a> PeerId<'a> {
    /// The identity that a text names: a URI, or else a DNS-like name.
    pub fn of(text: &'a str) -> Self {
        if is_uri(text) {
            Self::Uri(text)
        } else {
            Self::Dns(text)
        }
    }

    /// The text of the identity.
    pub fn as_str(self) -> &'a str {
        match self {
            Self::Dns(text) | Self::Uri(text) => text,
        }
    }
}

/// What of a request routes look at.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Method.
    pub method: &'a Method,
    /// Authority of the URI, or the `host` header; with or without port.
    pub authority: Option<&'a str>,
    /// Path as received, not decoded.
    pub path: &'a str,
    /// Query without the question mark.
    pub query: Option<&'a str>,
    /// Headers.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestView<'a> {
    /// With a target as people write it: a path, and the query after a question mark.
    pub fn of_target(
        method: &'a Method,
        authority: Option<&'a str>,
        target: &'a str,
        headers: &'a HeaderMap,
    ) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        Self {
            method,
            authority,
            path,
            query,
            headers,
        }
    }
}

/// The answer to "may this peer".
pub type Verdict = Result<Authorized, Denied>;

/// Allowed, and by which authorization; [`Policy::authorization_meta`] names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Authorized {
    /// Index over the server's authorizations and then each route's.
    pub authorization: u32,
}

/// Denied, and what came closest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Denied {
    /// What failed in the authorization that came closest.
    pub reason: DenyReason,
    /// That authorization: the first whose networks hold the client, if any does.
    pub closest: Option<Authorized>,
}

/// Why a peer was denied: a closed set, fit for a metric label.
///
/// An authorization's clauses are taken in the order network, TLS, identity; the reason is the furthest that any
/// authorization got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DenyReason {
    /// Nothing authorizes anybody here.
    NoAuthorizations,
    /// The port speaks HTTP only, the connection does not.
    NotHttp,
    /// The route does not exist in this version of the policy.
    NoRoute,
    /// The client's address is in no network of any authorization.
    Network,
    /// The client did not use TLS, and must.
    NoTls,
    /// The client used TLS that is not ours to terminate, which proves nothing to us.
    TlsPassthrough,
    /// The client used mesh TLS but showed no identity, and must.
    NoIdentity,
    /// The client's identity is not among those wanted.
    Identity,
}

impl DenyReason {
    /// Every reason, for tables of metrics and documentation.
    pub const ALL: [Self; 8] = [
        Self::NoAuthorizations,
        Self::NotHttp,
        Self::NoRoute,
        Self::Network,
        Self::NoTls,
        Self::TlsPassthrough,
        Self::NoIdentity,
        Self::Identity,
    ];

    /// As a metric label and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoAuthorizations => "no_authorizations",
            Self::NotHttp => "not_http",
            Self::NoRoute => "no_route",
            Self::Network => "network",
            Self::NoTls => "no_tls",
            Self::TlsPassthrough => "tls_passthrough",
            Self::NoIdentity => "no_identity",
            Self::Identity => "identity",
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The route that takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matched {
    /// Index of the route.
    pub route: u32,
    /// Index of the rule in the route.
    pub rule: u32,
    /// Length of the path prefix that matched, without trailing slashes, if the match was by prefix: what a
    /// redirect may replace.
    pub prefix: Option<u32>,
}

/// The compiled policy of one port: immutable, to be shared.
///
/// Made by [`Policy::compile`]. A decision's cost does not depend on the number of authorizations.
#[derive(Debug)]
pub struct Policy {
    pub(crate) server: ServerPolicy,
    pub(crate) authorizations: AuthorizationTable,
    pub(crate) routes: Vec<PolicyRoute>,
    pub(crate) table: RouteTable,
    pub(crate) path_policy: bool,
    pub(crate) warnings: Vec<String>,
}

/// What of a route is needed beside its matches.
#[derive(Debug)]
pub(crate) struct PolicyRoute {
    pub(crate) meta: Meta,
    /// Index of its first authorization among all.
    pub(crate) offset: u32,
    /// Its own authorizations, those before the server's.
    pub(crate) authorizations: AuthorizationTable,
}

impl Policy {
    /// What this was compiled from.
    pub fn server(&self) -> &ServerPolicy {
        &self.server
    }

    /// Number of routes. A port with HTTP and no routes of its own has one, named `default`.
    pub fn routes(&self) -> usize {
        self.routes.len()
    }

    /// The name of a route.
    pub fn route_meta(&self, route: usize) -> Option<&Meta> {
        self.routes.get(route).map(|route| &route.meta)
    }

    /// What was accepted and will not do what its author may expect, for the log; a bounded number of lines.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether any route looks at paths, so that a path which the application may read differently must not get
    /// through (see [`crate::suspicious_path`]).
    pub fn has_path_policy(&self) -> bool {
        self.path_policy
    }

    /// Whether the port's HTTP traffic is subject to more than the server's authorizations: routes that are resources,
    /// or a rate limit. What is forwarded as opaque bytes escapes those, so a `detect` port with them takes nothing but
    /// HTTP.
    pub fn has_http_policy(&self) -> bool {
        let by_routes = self
            .routes
            .iter()
            .any(|route| matches!(route.meta, Meta::Resource { .. }));
        by_routes || self.rate_limit().is_some()
    }

    /// Whether a connection that is not HTTP is allowed: the server's authorizations decide, those of routes do not. None
    /// is, whoever it is from, where there is policy for HTTP ([`Policy::has_http_policy`]).
    pub fn connection(&self, peer: &Peer<'_>) -> Verdict {
        match self.server.protocol {
            Protocol::Detect { .. } if self.has_http_policy() => Err(Denied {
                reason: DenyReason::NotHttp,
                closest: None,
            }),
            Protocol::Detect { .. } | Protocol::Opaque | Protocol::Tls => {
                self.authorizations.decide(peer, &mut || ())
            }
            Protocol::Http1(_) | Protocol::Http2(_) | Protocol::Grpc { .. } => Err(Denied {
                reason: DenyReason::NotHttp,
                closest: None,
            }),
        }
    }

    /// The route that takes a request: the most specific, see [`crate::compile::routes`]; `None` is a 404.
    pub fn route(&self, req: &RequestView<'_>) -> Option<Matched> {
        self.table.find(req)
    }

    /// Whether a peer may use a route: the route's own authorizations first, then the server's.
    pub fn authorize(&self, peer: &Peer<'_>, route: usize) -> Verdict {
        self.authorize_counting(peer, route, &mut || ())
    }

    /// [`Policy::authorize`], with `step` called once for each comparison.
    pub(crate) fn authorize_counting(
        &self,
        peer: &Peer<'_>,
        route: usize,
        step: &mut impl FnMut(),
    ) -> Verdict {
        let Some(route) = self.routes.get(route) else {
            return Err(Denied {
                reason: DenyReason::NoRoute,
                closest: None,
            });
        };
        let own = match route.authorizations.decide(peer, step) {
            Ok(found) => return Ok(route.shifted(found)),
            Err(denied) => Denied {
                reason: denied.reason,
                closest: denied.closest.map(|found| route.shifted(found)),
            },
        };
        self.authorizations
            .decide(peer, step)
            // The reason that says most: the route's, unless the server's list came further.
            .map_err(|server| {
                if server.reason > own.reason {
                    server
                } else {
                    own
                }
            })
    }

    /// The filters of what matched, in order; applied by [`crate::filters::apply`].
    pub fn filters(&self, matched: &Matched) -> &[Filter] {
        let (Ok(route), Ok(rule)) = (
            usize::try_from(matched.route),
            usize::try_from(matched.rule),
        ) else {
            return &[];
        };
        match &self.server.protocol {
            Protocol::Detect { http, .. } | Protocol::Http1(http) | Protocol::Http2(http) => http
                .routes
                .get(route)
                .and_then(|route| route.rules.get(rule))
                .map_or(&[], |rule| &rule.filters),
            Protocol::Grpc { routes } => routes
                .get(route)
                .and_then(|route| route.rules.get(rule))
                .map_or(&[], |rule| &rule.filters),
            Protocol::Opaque | Protocol::Tls => &[],
        }
    }

    /// The port's rate limit.
    pub fn rate_limit(&self) -> Option<&RateLimit> {
        self.server.protocol.http()?.rate_limit.as_ref()
    }

    /// The name of the authorization of a verdict of this policy. For one of another policy, which is a mistake of
    /// the caller, it is the server's name.
    pub fn authorization_meta(&self, authorized: Authorized) -> &Meta {
        self.authorization(authorized)
            .map_or(&self.server.meta, |authorization| &authorization.meta)
    }

    /// The authorization of a verdict.
    pub fn authorization(&self, authorized: Authorized) -> Option<&Authorization> {
        let index = authorized.authorization;
        let after = self.routes.partition_point(|route| route.offset <= index);
        // Routes without authorizations share their offset with the next one, so the last is the owner; before the
        // first offset are the server's own.
        let (list, start) = match after.checked_sub(1) {
            Some(route) => (
                self.server.route_authorizations(route)?,
                self.routes.get(route)?.offset,
            ),
            None => (self.server.authorizations.as_slice(), 0),
        };
        list.get(usize::try_from(index.checked_sub(start)?).ok()?)
    }
}

impl PolicyRoute {
    fn shifted(&self, found: Authorized) -> Authorized {
        Authorized {
            authorization: found.authorization.saturating_add(self.offset),
        }
    }
}

impl Protocol {
    /// As metrics, logs and explanations call it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Detect { .. } => "detect",
            Self::Http1(_) => "http1",
            Self::Http2(_) => "http2",
            Self::Grpc { .. } => "grpc",
            Self::Opaque => "opaque",
            Self::Tls => "tls",
        }
    }

    /// Whether requests are read, or only connections decided on.
    pub const fn reads_requests(&self) -> bool {
        !matches!(self, Self::Opaque | Self::Tls)
    }

    /// Routes and rate limit, where there are HTTP routes.
    pub(crate) fn http(&self) -> Option<&crate::server::HttpPolicy> {
        match self {
            Self::Detect { http, .. } | Self::Http1(http) | Self::Http2(http) => Some(http),
            Self::Grpc { .. } | Self::Opaque | Self::Tls => None,
        }
    }
}

impl ServerPolicy {
    /// A route's own authorizations.
    pub(crate) fn route_authorizations(&self, route: usize) -> Option<&[Authorization]> {
        match &self.protocol {
            Protocol::Grpc { routes } => Some(&routes.get(route)?.authorizations),
            protocol => Some(&protocol.http()?.routes.get(route)?.authorizations),
        }
    }
}

/// Whether a match says anything about the path; `/` as a prefix does not.
pub(crate) fn looks_at_path(path: Option<&PathMatch>) -> bool {
    match path {
        None => false,
        Some(PathMatch::Prefix(prefix)) => !normal_prefix(prefix).is_empty(),
        Some(PathMatch::Exact(_) | PathMatch::Regex(_)) => true,
    }
}

#[cfg(test)]
pub(crate) mod docs;
#[cfg(test)]
mod tests;
