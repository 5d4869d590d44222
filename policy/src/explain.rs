//! Why a decision is as it is, for people: `linkerd policy explain`, `GET /policy/explain`, logs.
//!
//! The verdict is the decision's own, from the same functions the proxy asks. For each authorization that could have
//! applied the same code is asked again about that one alone, so that what it failed on is what the decision saw.

use crate::{
    compile::authorizations::AuthorizationTable,
    decide::{Authorized, DenyReason, Matched, Peer, PeerTls, Policy, RequestView, Verdict},
    server::{Authentication, Authorization, Meta},
};
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use std::fmt;

/// Most authorizations an explanation lists.
const MAX_CANDIDATES: usize = 100;
/// Most entries of a list that a text shows.
const MAX_SHOWN: usize = 4;
/// Longest piece of text taken over from a client or a policy, in characters.
const MAX_TEXT: usize = 200;

/// A decision and what led to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Allowed, denied, or no route.
    pub decision: Decision,
    /// Of a denial: [`DenyReason::as_str`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The client.
    pub client: Client,
    /// The request, if one was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The Server, or default policy, that governs the port.
    pub server: Name,
    /// How the port handles connections.
    pub protocol: &'static str,
    /// The route that takes the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// The authorization that allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Name>,
    /// Allowed by an `audit` policy, which records what would be denied.
    pub audit: bool,
    /// The authorizations in the order in which they count.
    pub candidates: Vec<Candidate>,
    /// How many further authorizations are not listed.
    pub omitted: usize,
}

/// What a decision says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Allowed.
    Allow,
    /// Denied (403, or the connection is closed).
    Deny,
    /// No route takes the request (404).
    NoRoute,
}

/// The client, as policy sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Client {
    /// Address.
    pub addr: String,
    /// `none`, `passthrough` or `mesh`.
    pub tls: &'static str,
    /// Identity, if it showed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// Name of a policy object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Name {
    /// API group; empty for defaults.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// The route that takes a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// Which of its rules matched, from 0.
    pub rule: u32,
    /// Index among the port's routes, from 0.
    pub index: u32,
}

/// An authorization that could have applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its name.
    pub authorization: Name,
    /// Whether it belongs to the route rather than the server.
    pub of_route: bool,
    /// The first clause the client fails, with what was wanted; absent if it takes the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// A header of a request that is asked about, as people write it: `NAME:VALUE`.
pub fn header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

impl Policy {
    /// Explains [`Policy::connection`].
    pub fn explain_connection(&self, peer: &Peer<'_>) -> Explanation {
        let mut explanation = self.explanation(peer, Decision::Deny);
        self.fill(&mut explanation, peer, self.connection(peer), None);
        explanation
    }

    /// Explains what becomes of a request: [`Policy::route`] and [`Policy::authorize`]. Where requests are not looked at,
    /// that is what becomes of its connection.
    pub fn explain_request(&self, peer: &Peer<'_>, req: &RequestView<'_>) -> Explanation {
        let query = req
            .query
            .map_or_else(String::new, |query| format!("?{query}"));
        let request = shown(&format!(
            "{} {}{}{query}",
            req.method,
            req.authority.unwrap_or_default(),
            req.path
        ));
        if !self.server().protocol.reads_requests() {
            let mut explanation = self.explain_connection(peer);
            let protocol = explanation.protocol;
            explanation.request =
                Some(format!("{request} (not looked at: the port is {protocol})"));
            return explanation;
        }
        let mut explanation = self.explanation(peer, Decision::NoRoute);
        explanation.request = Some(request);
        let Some(matched) = self.route(req) else {
            return explanation;
        };
        let Ok(route) = usize::try_from(matched.route) else {
            return explanation;
        };
        explanation.route = self.route_meta(route).map(|meta| Route {
            name: Name::from(meta),
            rule: matched.rule,
            index: matched.route,
        });
        let verdict = self.authorize(peer, route);
        self.fill(&mut explanation, peer, verdict, Some(&matched));
        explanation
    }

    fn explanation(&self, peer: &Peer<'_>, decision: Decision) -> Explanation {
        let (tls, identity) = match peer.tls {
            PeerTls::None => ("none", None),
            PeerTls::Passthrough => ("passthrough", None),
            PeerTls::Terminated { identity } => ("mesh", identity.map(|id| shown(id.as_str()))),
        };
        Explanation {
            decision,
            reason: None,
            client: Client {
                addr: peer.addr.to_canonical().to_string(),
                tls,
                identity,
            },
            request: None,
            server: Name::from(&self.server().meta),
            protocol: self.server().protocol.name(),
            route: None,
            authorization: None,
            audit: false,
            candidates: Vec::new(),
            omitted: 0,
        }
    }

    fn fill(
        &self,
        explanation: &mut Explanation,
        peer: &Peer<'_>,
        verdict: Verdict,
        matched: Option<&Matched>,
    ) {
        match verdict {
            Ok(authorized) => {
                let meta = self.authorization_meta(authorized);
                explanation.decision = Decision::Allow;
                explanation.authorization = Some(Name::from(meta));
                explanation.audit = meta.is_audit();
            }
            Err(denied) => {
                explanation.decision = Decision::Deny;
                explanation.reason = Some(denied.reason.as_str());
                if denied.reason == DenyReason::NotHttp {
                    return;
                }
            }
        }
        let of_route = matched
            .and_then(|matched| usize::try_from(matched.route).ok())
            .and_then(|route| self.server().route_authorizations(route))
            .unwrap_or_default();
        let of_server = self.server().authorizations.as_slice();
        let all = of_route.iter().map(|authorization| (authorization, true));
        let all = all.chain(of_server.iter().map(|authorization| (authorization, false)));
        explanation.candidates = all
            .take(MAX_CANDIDATES)
            .map(|(authorization, of_route)| Candidate {
                authorization: Name::from(&authorization.meta),
                of_route,
                failed: failed(authorization, peer),
            })
            .collect();
        explanation.omitted =
            (of_route.len() + of_server.len()).saturating_sub(explanation.candidates.len());
    }

    /// One line about a denial, for a log or for the client itself: only what the client sent and the reason, nothing
    /// of what the policy would take. For `l5d-proxy-error`: visible ASCII, bounded.
    pub fn denial(&self, peer: &Peer<'_>, denied: crate::decide::Denied) -> String {
        match (denied.reason, peer.tls) {
            (DenyReason::Identity, PeerTls::Terminated { identity: Some(id) }) => {
                format!("client identity not authorized: {}", shown(id.as_str()))
            }
            (reason, _) => text_of(reason).to_owned(),
        }
    }
}

/// The first clause of an authorization that a peer fails, asked of the code that decides.
fn failed(authorization: &Authorization, peer: &Peer<'_>) -> Option<String> {
    let alone = AuthorizationTable::new(std::slice::from_ref(authorization));
    let reason = match alone.decide(peer, &mut || ()) {
        Ok(Authorized { .. }) => return None,
        Err(denied) => denied.reason,
    };
    Some(match reason {
        DenyReason::Network => format!(
            "network: {} not in {}",
            peer.addr.to_canonical(),
            networks(authorization)
        ),
        DenyReason::NoTls => "tls: the client did not use mesh TLS".to_owned(),
        DenyReason::TlsPassthrough => {
            "tls: the client's TLS is not terminated here, so it proves nothing".to_owned()
        }
        DenyReason::NoIdentity => format!(
            "identity: the client showed no certificate, wanted {}",
            identities(authorization)
        ),
        DenyReason::Identity => {
            let got = match peer.tls {
                PeerTls::Terminated { identity: Some(id) } => shown(id.as_str()),
                _ => "none".to_owned(),
            };
            format!("identity: got {got}, wanted {}", identities(authorization))
        }
        DenyReason::NoAuthorizations | DenyReason::NotHttp | DenyReason::NoRoute => {
            text_of(reason).to_owned()
        }
    })
}

fn text_of(reason: DenyReason) -> &'static str {
    match reason {
        DenyReason::NoAuthorizations => "nothing authorizes any client here",
        DenyReason::NotHttp => "the port takes HTTP only",
        DenyReason::NoRoute => "the route does not exist any more",
        DenyReason::Network => "client address not authorized",
        DenyReason::NoTls => "mesh TLS needed",
        DenyReason::TlsPassthrough => {
            "mesh TLS needed, the connection's TLS is not terminated here"
        }
        DenyReason::NoIdentity => "client certificate needed",
        DenyReason::Identity => "client identity not authorized",
    }
}

fn networks(authorization: &Authorization) -> String {
    if authorization.networks.is_empty() {
        return "any network (it lists none)".to_owned();
    }
    listed(authorization.networks.iter().map(|network| {
        if network.except.is_empty() {
            network.net.to_string()
        } else {
            let except = listed(network.except.iter().map(ToString::to_string));
            format!("{} except {except}", network.net)
        }
    }))
}

fn identities(authorization: &Authorization) -> String {
    match &authorization.authentication {
        Authentication::Identities { exact, suffixes } => {
            let suffixes = suffixes.iter().map(|parts| {
                if parts.is_empty() {
                    "*".to_owned()
                } else {
                    shown(&format!("*.{}", parts.join(".")))
                }
            });
            listed(exact.iter().map(|name| shown(name)).chain(suffixes))
        }
        Authentication::Unauthenticated | Authentication::TlsUnauthenticated => "any".to_owned(),
    }
}

/// The first few, and how many more there are.
fn listed(all: impl Iterator<Item = String>) -> String {
    let mut all = all.fuse();
    let first: Vec<String> = all.by_ref().take(MAX_SHOWN).collect();
    let more = all.count();
    let mut text = first.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    if first.len() > 1 {
        format!("[{text}]")
    } else {
        text
    }
}

/// Text that came from outside: short, and of visible ASCII only.
fn shown(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(MAX_TEXT)
        .map(|c| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        })
        .collect();
    if text.chars().nth(MAX_TEXT).is_some() {
        short.push_str("...");
    }
    short
}

impl From<&Meta> for Name {
    fn from(meta: &Meta) -> Self {
        Self {
            group: shown(meta.group()),
            kind: shown(meta.kind()),
            name: shown(meta.name()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Explanation {
    /// One line, for logs and `l5d-proxy-error`: visible ASCII, bounded, and nothing of what the policy would take.
    pub fn summary(&self) -> String {
        let mut line = match (self.decision, self.reason) {
            (Decision::Allow, _) => "allowed".to_owned(),
            (Decision::Deny, Some("identity")) => {
                let got = self.client.identity.as_deref().unwrap_or_default();
                format!("denied: identity {got} not authorized")
            }
            (Decision::Deny, reason) => format!("denied: {}", reason.unwrap_or_default()),
            (Decision::NoRoute, _) => "no route".to_owned(),
        };
        line.push_str(&format!(" (client {}, {}", self.client.addr, self.server));
        if let Some(route) = &self.route {
            line.push_str(&format!(", {}", route.name));
        }
        if let Some(authorization) = &self.authorization {
            line.push_str(&format!(", {authorization}"));
        }
        line.push(')');
        line
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.decision {
            Decision::Allow if self.audit => "ALLOWED (audit: another policy may deny it)",
            Decision::Allow => "ALLOWED",
            Decision::Deny => "DENIED",
            Decision::NoRoute => "NO ROUTE",
        };
        write!(f, "{verdict}")?;
        match (&self.authorization, self.reason) {
            (Some(authorization), _) => writeln!(f, " by {authorization}")?,
            (None, Some(reason)) => writeln!(f, ": {reason}")?,
            (None, None) => writeln!(f)?,
        }
        let identity = self.client.identity.as_deref().unwrap_or("no identity");
        writeln!(
            f,
            "  client    {}, tls {}, {identity}",
            self.client.addr, self.client.tls
        )?;
        if let Some(request) = &self.request {
            writeln!(f, "  request   {request}")?;
        }
        writeln!(f, "  server    {} ({})", self.server, self.protocol)?;
        match &self.route {
            Some(route) => writeln!(f, "  route     {}, rule {}", route.name, route.rule)?,
            None if self.decision == Decision::NoRoute => {
                writeln!(f, "  route     none takes this request")?;
            }
            None => {}
        }
        for candidate in &self.candidates {
            let owner = if candidate.of_route {
                "route"
            } else {
                "server"
            };
            let outcome = candidate.failed.as_deref().unwrap_or("takes the client");
            writeln!(
                f,
                "  - {} (of the {owner}): {outcome}",
                candidate.authorization
            )?;
        }
        if self.omitted > 0 {
            writeln!(f, "  - and {} more authorizations", self.omitted)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
