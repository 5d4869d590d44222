//! The admin server: health, metrics, what is wrong with the manifests, and the policy of any workload with the reason
//! of a decision. It shows names and addresses of workloads and no secret; it belongs on a loopback address.

use crate::{
    grpc::streams::Streams,
    source::Snapshot,
    web::{self, Page, as_json, text},
};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use linkerd_metrics::{Format, Registry};
use linkerd_policy::{Peer, PeerId, PeerTls, Policy, RequestView, index::WorkloadRef};
use serde_json::json;
use std::{collections::HashMap, net::IpAddr, sync::Arc};
use tokio::{net::TcpListener, sync::watch};

/// Most streams that `/status` lists.
const MAX_LISTED: usize = 1_000;

/// What the admin server shows.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) registry: Registry,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) streams: Arc<Streams>,
}

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, state: State) {
    web::serve(listener, None, move |request| {
        let page = state.page(&request);
        async move { page }
    })
    .await;
}

impl State {
    fn page(&self, request: &Request<Incoming>) -> Page {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        let query = query(request.uri().query().unwrap_or_default());
        match request.uri().path() {
            "/live" | "/ping" => text(StatusCode::OK, "live\n"),
            // Before everything has been seen once, nothing is answered.
            "/ready" if self.snapshots.borrow().version == 0 => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "not ready: waits for the objects of the API server\n",
            ),
            "/ready" => text(StatusCode::OK, "ready\n"),
            "/metrics" => self.metrics(request.headers()),
            "/status" => self.status(),
            "/policy" => self.policy(&query, false),
            "/policy/explain" => self.policy(&query, true),
            _ => text(StatusCode::NOT_FOUND, ""),
        }
    }

    fn metrics(&self, headers: &HeaderMap) -> Page {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok());
        let format = Format::negotiate(accept);
        let mut page = Response::new(Full::new(self.registry.encode(format).into()));
        if let Ok(kind) = format.content_type().parse() {
            page.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        page
    }

    fn status(&self) -> Page {
        let snapshot = self.snapshots.borrow().clone();
        let workloads: Vec<_> = snapshot
            .index
            .workloads()
            .map(|workload| json!({
                "workload": workload.reference().to_string(),
                "addresses": workload.addresses(),
                "ready": workload.is_ready(),
                "ports": workload.declared_ports().iter().map(|(port, _)| port).collect::<Vec<_>>(),
            }))
            .collect();
        let findings: Vec<_> = snapshot
            .index
            .lint()
            .into_iter()
            .map(|finding| {
                json!({
                    "severity": finding.severity.to_string(),
                    "object": finding.object.to_string(),
                    "check": finding.check,
                    "message": finding.message,
                    "fix": finding.fix,
                })
            })
            .collect();
        let (open, streams) = self.streams.list(MAX_LISTED);
        as_json(&json!({
            "version": snapshot.version,
            "open_streams": open,
            "streams": streams,
            "problems": snapshot.problems,
            "findings": findings,
            "workloads": workloads,
        }))
    }

    /// `?workload=ns:pod or JSON&port=N`, and for an explanation `client`, `ip`, `tls`, `method`, `path`, `host`.
    fn policy(&self, query: &HashMap<String, String>, explain: bool) -> Page {
        let bad = |what: String| text(StatusCode::BAD_REQUEST, &format!("{what}\n"));
        let get = |name: &str| query.get(name).map(String::as_str);
        let Some(Ok(workload)) = get("workload").map(str::parse::<WorkloadRef>) else {
            return bad("workload: a token like shop:web-0 or {\"ns\":\"shop\",\"external_workload\":\"web\"} is needed".into());
        };
        let Some(Ok(port)) = get("port").map(str::parse::<u16>) else {
            return bad("port: a number from 1 to 65535 is needed".into());
        };
        let Some(server) = self.snapshots.borrow().index.inbound(&workload, port) else {
            return text(StatusCode::NOT_FOUND, "no such workload\n");
        };
        let policy = match Policy::compile(server) {
            Ok(policy) => policy,
            Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        };
        if !explain {
            return text(StatusCode::OK, &format!("{:#?}\n", policy.server()));
        }
        let ip: IpAddr = match get("ip").unwrap_or("127.0.0.1").parse() {
            Ok(ip) => ip,
            Err(error) => return bad(format!("ip: {error}")),
        };
        let client = get("client").filter(|client| !client.is_empty());
        let tls = match (client, get("tls")) {
            (Some(id), _) if id.contains("://") => PeerTls::Terminated {
                identity: Some(PeerId::Uri(id)),
            },
            (Some(id), _) => PeerTls::Terminated {
                identity: Some(PeerId::Dns(id)),
            },
            (None, Some("true")) => PeerTls::Terminated { identity: None },
            (None, _) => PeerTls::None,
        };
        let peer = Peer { addr: ip, tls };
        let Some(path) = get("path") else {
            return as_json(&policy.explain_connection(&peer));
        };
        let Ok(method) = get("method").unwrap_or("GET").parse::<Method>() else {
            return bad("method: not an HTTP method".into());
        };
        let headers = HeaderMap::new();
        let (path, search) = path
            .split_once('?')
            .map_or((path, None), |(p, q)| (p, Some(q)));
        let view = RequestView {
            method: &method,
            authority: get("host"),
            path,
            query: search,
            headers: &headers,
        };
        as_json(&policy.explain_request(&peer, &view))
    }
}

/// Decodes a query string.
fn query(text: &str) -> HashMap<String, String> {
    let decode = |part: &str| {
        percent_encoding::percent_decode_str(&part.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}
