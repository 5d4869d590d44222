//! What this proxy enforces now, and why: `/policy`, `/policy/explain`, `/denials`.

use super::{
    State,
    pages::{Answer, json, text},
    utc,
};
use crate::discovery::policy::PortPolicy;
use http::{HeaderMap, Method, StatusCode};
use linkerd_policy::{
    Explanation, Peer, PeerId, PeerTls, RequestView,
    server::{Authentication, Authorization, Meta, NetworkMatch, Protocol},
};
use linkerd_tls::Id;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use std::{
    fmt::{self, Write},
    net::IpAddr,
    time::SystemTime,
};

/// Authorizations, or identities of one, that are written out; what is beyond is counted.
const MAX_LISTED: usize = 100;
/// Whom to ask about if the question does not say: an address of no network in use (RFC 5737).
const NOWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

#[derive(Serialize)]
struct Port {
    port: u16,
    protocol: &'static str,
    server: String,
    source: &'static str,
    version: u64,
    /// Seconds since it was received.
    age: u64,
    received: String,
    /// Whether the port is watched for good.
    listed: bool,
    routes: Vec<Route>,
    authorizations: Vec<Rule>,
    #[serde(skip_serializing_if = "is_zero")]
    authorizations_omitted: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Refusal>,
}

#[derive(Serialize)]
struct Route {
    name: String,
    rules: usize,
    authorizations: Vec<Rule>,
}

#[derive(Serialize)]
struct Rule {
    name: String,
    clients: String,
    networks: Vec<String>,
}

#[derive(Serialize)]
struct Limit {
    total: Option<u32>,
    identity: Option<u32>,
    overrides: usize,
}

#[derive(Serialize)]
struct Refusal {
    at: String,
    why: String,
    count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// `GET /policy`.
pub(super) fn policies(state: &State, is_json: bool) -> Answer {
    let ports: Vec<_> = state
        .policies
        .ports()
        .iter()
        .map(|port| describe(port))
        .collect();
    let is_connected = state.policies.is_connected();
    if is_json {
        let page = serde_json::json!({ "controller_connected": is_connected, "ports": ports });
        return json(StatusCode::OK, &page);
    }
    let mut page = format!(
        "controller: {}\n",
        if is_connected {
            "connected"
        } else {
            "not connected; the last good versions stay in force"
        }
    );
    for port in &ports {
        let _ = write!(page, "\n{port}");
    }
    text(StatusCode::OK, page)
}

fn describe(port: &PortPolicy) -> Port {
    let current = port.current();
    let server = current.policy.server();
    let age = SystemTime::now()
        .duration_since(current.received)
        .unwrap_or_default();
    let listed = server.authorizations.iter().take(MAX_LISTED);
    Port {
        port: port.number(),
        protocol: server.protocol.name(),
        server: server.meta.to_string(),
        source: current.source.as_str(),
        version: current.version,
        age: age.as_secs(),
        received: utc(current.received),
        listed: port.is_listed(),
        routes: routes(&server.protocol),
        authorizations: listed.map(rule).collect(),
        authorizations_omitted: server.authorizations.len().saturating_sub(MAX_LISTED),
        rate_limit: current.policy.rate_limit().map(|limit| Limit {
            total: limit.total,
            identity: limit.identity,
            overrides: limit.overrides.len(),
        }),
        refused: port.refused().map(|refused| Refusal {
            at: utc(refused.at),
            why: refused.why,
            count: refused.count,
        }),
    }
}

fn routes(protocol: &Protocol) -> Vec<Route> {
    let route = |meta: &Meta, rules, authorizations: &[Authorization]| Route {
        name: meta.to_string(),
        rules,
        authorizations: authorizations.iter().take(MAX_LISTED).map(rule).collect(),
    };
    match protocol {
        Protocol::Detect { http, .. } | Protocol::Http1(http) | Protocol::Http2(http) => http
            .routes
            .iter()
            .map(|r| route(&r.meta, r.rules.len(), &r.authorizations))
            .collect(),
        Protocol::Grpc { routes } => routes
            .iter()
            .map(|r| route(&r.meta, r.rules.len(), &r.authorizations))
            .collect(),
        Protocol::Opaque | Protocol::Tls => Vec::new(),
    }
}

fn rule(authorization: &Authorization) -> Rule {
    let clients = match &authorization.authentication {
        Authentication::Unauthenticated => "anyone".to_owned(),
        Authentication::TlsUnauthenticated => "anyone with mesh TLS".to_owned(),
        Authentication::Identities { exact, suffixes } => {
            let suffixes = suffixes.iter().map(|labels| {
                if labels.is_empty() {
                    "*".to_owned()
                } else {
                    format!("*.{}", labels.join("."))
                }
            });
            bounded(exact.iter().cloned().chain(suffixes)).join(", ")
        }
    };
    Rule {
        name: authorization.meta.to_string(),
        clients,
        networks: bounded(authorization.networks.iter().map(network)),
    }
}

fn network(network: &NetworkMatch) -> String {
    let mut text = network.net.to_string();
    for except in &network.except {
        let _ = write!(text, " except {except}");
    }
    text
}

/// The first items, and how many more there are.
fn bounded(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut items = items;
    let mut listed: Vec<_> = items.by_ref().take(MAX_LISTED).collect();
    let more = items.count();
    if more > 0 {
        listed.push(format!("and {more} more"));
    }
    listed
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            port,
            protocol,
            server,
            source,
            version,
            age,
            ..
        } = self;
        let watched = if self.listed { "" } else { ", not listed" };
        writeln!(
            f,
            "port {port} ({protocol}{watched}): {server}, version {version} from {source}, {age} s old"
        )?;
        if let Some(refused) = &self.refused {
            let Refusal { at, why, count } = refused;
            writeln!(
                f,
                "  REFUSED {count} update(s), the last one at {at}: {why}"
            )?;
        }
        if let Some(Limit {
            total,
            identity,
            overrides,
        }) = &self.rate_limit
        {
            let show =
                |limit: &Option<u32>| limit.map_or("none".to_owned(), |rps| format!("{rps}/s"));
            let (total, identity) = (show(total), show(identity));
            writeln!(
                f,
                "  rate limit: {total} in all, {identity} an identity, {overrides} override(s)"
            )?;
        }
        for rule in &self.authorizations {
            writeln!(f, "  allow {rule}")?;
        }
        if self.authorizations_omitted > 0 {
            writeln!(f, "  and {} more", self.authorizations_omitted)?;
        }
        for route in &self.routes {
            writeln!(f, "  route {} ({} rule(s))", route.name, route.rules)?;
            for rule in &route.authorizations {
                writeln!(f, "    allow {rule}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} from {} ({})",
            self.clients,
            self.networks.join(", "),
            self.name
        )
    }
}

/// `GET /denials`.
pub(super) fn denials(state: &State, is_json: bool) -> Answer {
    let records = state.denials.records();
    if is_json {
        return json(StatusCode::OK, &records);
    }
    let mut page = String::new();
    for record in &records {
        let route = record.route.as_deref().unwrap_or("connection");
        let _ = writeln!(
            page,
            "{}  {} x  port {}  {} ({}), {}: {}: {}",
            record.last_seen,
            record.count,
            record.port,
            record.client,
            record.address,
            route,
            record.reason,
            record.why.escape_debug()
        );
    }
    if records.is_empty() {
        page.push_str("nothing was denied\n");
    }
    text(StatusCode::OK, page)
}

/// `GET /policy/explain`.
pub(super) fn explain(state: &State, query: &str, is_json: bool) -> Answer {
    let question = match Question::parse(query) {
        Ok(question) => question,
        Err(error) if is_json => {
            let page = serde_json::json!({ "error": error, "status": 400 });
            return json(StatusCode::BAD_REQUEST, &page);
        }
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n{USAGE}")),
    };
    let known = state.policies.ports();
    let Some(port) = known.iter().find(|port| port.number() == question.port) else {
        // Asking must not make the proxy watch another port.
        let known: Vec<_> = known.iter().map(|port| port.number().to_string()).collect();
        let known = known.join(", ");
        let error = format!(
            "port {} is not known to this proxy yet; known ports: {known}\n",
            question.port
        );
        return text(StatusCode::NOT_FOUND, error);
    };
    let current = port.current();
    let explanation = question.ask(&current.policy);
    let (version, source) = (current.version, current.source.as_str());
    if is_json {
        let page = serde_json::json!({ "port": question.port, "version": version, "source": source, "explanation": explanation });
        return json(StatusCode::OK, &page);
    }
    text(
        StatusCode::OK,
        format!(
            "port {}, version {version} from {source}\n{explanation}\n",
            question.port
        ),
    )
}

const USAGE: &str = "usage: /policy/explain?port=8080[&client=IDENTITY][&ip=ADDRESS][&tls=mesh|none|passthrough][&method=GET][&host=NAME][&path=/x?y][&header=NAME:VALUE]...\n";

/// A question about a connection, or about a request if it has a method, host, path or header.
#[derive(Debug)]
struct Question {
    port: u16,
    client: Option<Id>,
    ip: IpAddr,
    tls: Option<&'static str>,
    is_request: bool,
    method: Method,
    host: Option<String>,
    path: String,
    headers: HeaderMap,
}

impl Question {
    fn parse(query: &str) -> Result<Self, String> {
        let mut port = None;
        let mut question = Self {
            port: 0,
            client: None,
            ip: NOWHERE,
            tls: None,
            is_request: false,
            method: Method::GET,
            host: None,
            path: "/".into(),
            headers: HeaderMap::new(),
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| format!("{key} is not UTF-8"))?;
            let bad = |wanted: &str| format!("{key}={value:?} is not {wanted}");
            match key {
                "port" => port = Some(value.parse().map_err(|_| bad("a port from 1 to 65535"))?),
                "client" if value.is_empty() => {}
                "client" => {
                    question.client = Some(
                        value
                            .parse()
                            .map_err(|_| bad("a DNS name or spiffe:// URI"))?,
                    )
                }
                "ip" => question.ip = value.parse().map_err(|_| bad("an IP address"))?,
                "tls" => {
                    question.tls = Some(match &*value {
                        "mesh" | "true" => "mesh",
                        "none" | "false" => "none",
                        "passthrough" => "passthrough",
                        _ => return Err(bad("mesh, none or passthrough")),
                    });
                }
                _ => question.request_part(key, &value, &bad)?,
            }
        }
        if question.client.is_some() && question.tls.is_some_and(|tls| tls != "mesh") {
            return Err("client is given, but only mesh TLS shows who a client is".into());
        }
        question.port = port.ok_or("port is missing")?;
        Ok(question)
    }

    fn request_part(
        &mut self,
        key: &str,
        value: &str,
        bad: &dyn Fn(&str) -> String,
    ) -> Result<(), String> {
        match key {
            "method" => self.method = value.parse().map_err(|_| bad("a method"))?,
            "host" => self.host = Some(value.to_owned()),
            "path" if value.starts_with('/') => self.path = value.to_owned(),
            "path" => return Err(bad("a path, which starts with /")),
            "header" => {
                let read = linkerd_policy::explain::header(value);
                let (name, value) = read.ok_or_else(|| bad("a header, like x-user:ann"))?;
                self.headers.append(name, value);
            }
            _ => return Err(format!("{key} is not a part of a question")),
        }
        self.is_request = true;
        Ok(())
    }

    /// The decision's own trace.
    fn ask(&self, policy: &linkerd_policy::Policy) -> Explanation {
        let identity = self.client.as_ref().map(|id| match id {
            Id::Dns(name) => PeerId::Dns(name),
            Id::Uri(uri) => PeerId::Uri(uri),
        });
        let tls = match self.tls {
            Some("passthrough") => PeerTls::Passthrough,
            Some("mesh") => PeerTls::Terminated { identity },
            None if identity.is_some() => PeerTls::Terminated { identity },
            _ => PeerTls::None,
        };
        let peer = Peer { addr: self.ip, tls };
        if !self.is_request && !policy.server().protocol.reads_requests() {
            return policy.explain_connection(&peer);
        }
        let host = self.host.as_deref();
        let request = RequestView::of_target(&self.method, host, &self.path, &self.headers);
        policy.explain_request(&peer, &request)
    }
}
