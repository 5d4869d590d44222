//! The admin server: health, metrics, what is wrong with the manifests, and the policy of any workload with the reason
//! of a decision. It shows names and addresses of workloads and no secret; it belongs on a loopback address.

use crate::{
    admission,
    grpc::streams::Streams,
    injector,
    kubernetes::access::Access,
    metrics::ControllerMetrics,
    source::Snapshot,
    web::{self, Page, as_json, text},
};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use linkerd_metrics::{Format, Registry};
use linkerd_policy::{
    Peer, PeerId, PeerTls, Policy, RequestView,
    index::{Index, WorkloadRef},
};
use serde_json::json;
use std::{net::IpAddr, sync::Arc, time::SystemTime};
use tokio::{net::TcpListener, sync::watch};

/// Most streams that `/status` lists.
const MAX_LISTED: usize = 1_000;

/// What the admin server shows.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) registry: Registry,
    pub(crate) metrics: Arc<ControllerMetrics>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) streams: Arc<Streams>,
    /// Of the injector, in a process that is one.
    pub(crate) injector: Option<injector::Readiness>,
    /// Of the validating webhook, in a process that serves it.
    pub(crate) admission: Option<admission::Readiness>,
    pub(crate) access: Access,
}

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, state: State) {
    web::serve(listener, None, move |request| {
        let state = state.clone();
        async move {
            // To look at everything takes a while; streams need not wait for it.
            if request.uri().path() == "/status" {
                let page = tokio::task::spawn_blocking(move || state.page(&request));
                return page.await.unwrap_or_else(|_| {
                    text(StatusCode::INTERNAL_SERVER_ERROR, "it cannot be made\n")
                });
            }
            state.page(&request)
        }
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
            "/ready" => match self.lacks() {
                Some(what) => text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &format!("not ready: waits for {what}\n"),
                ),
                None => text(StatusCode::OK, "ready\n"),
            },
            "/metrics" => self.metrics(request.headers()),
            "/status" => self.status(),
            "/policy" => self.policy(&query, false),
            "/policy/explain" => self.policy(&query, true),
            _ => text(StatusCode::NOT_FOUND, ""),
        }
    }

    /// What is waited for before this process can be asked anything.
    fn lacks(&self) -> Option<String> {
        if let Some(right) = self.access.lacks() {
            return Some(right);
        }
        if self.snapshots.borrow().version == 0 {
            // Before everything has been seen once, nothing is answered.
            return Some("the objects of the API server".to_owned());
        }
        let injector = self.injector.as_ref();
        let admission = self.admission.as_ref();
        let lacks = injector.and_then(injector::Readiness::lacks);
        let lacks = lacks.or_else(|| admission.and_then(admission::Readiness::lacks));
        lacks.map(str::to_owned)
    }

    fn metrics(&self, headers: &HeaderMap) -> Page {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok());
        let format = Format::negotiate(accept);
        self.metrics.at(SystemTime::now());
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

    /// `?workload=NS/NAME, pod=NS/NAME or a token of the API&port=N`, and for an explanation `client`, `ip`, `tls`,
    /// `method`, `path`, `host` and any number of `header=NAME:VALUE`.
    fn policy(&self, query: &Query, explain: bool) -> Page {
        let bad = |what: String| text(StatusCode::BAD_REQUEST, &format!("{what}\n"));
        let snapshot = self.snapshots.borrow().clone();
        let workload = match query.workload(&snapshot.index) {
            Ok(workload) => workload,
            Err(what) => return bad(what),
        };
        let Some(Ok(port)) = query.get("port").map(str::parse::<u16>) else {
            return bad("port: a number from 1 to 65535 is needed".into());
        };
        let Some(server) = snapshot.index.inbound(&workload, port) else {
            return text(StatusCode::NOT_FOUND, "no such workload\n");
        };
        let policy = match Policy::compile(server) {
            Ok(policy) => policy,
            Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        };
        if !explain {
            return text(StatusCode::OK, &format!("{:#?}\n", policy.server()));
        }
        query.explain(&policy).unwrap_or_else(bad)
    }
}

/// The parts of a query string, in order.
struct Query(Vec<(String, String)>);

impl Query {
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let parts = self.0.iter().filter(move |(key, _)| key == name);
        parts.map(|(_, value)| value.as_str())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The workload that is meant. By its bare name a Pod comes before an ExternalWorkload.
    fn workload(&self, index: &Index) -> Result<WorkloadRef, String> {
        let named = |kind: &str, text: &str| {
            let (ns, name) = text.split_once('/')?;
            let token = json!({"ns": ns, kind: name}).to_string();
            token.parse::<WorkloadRef>().ok()
        };
        let pod = |text: &str| named("pod", text);
        let external = |text: &str| named("external_workload", text);
        let found = match (self.get("pod"), self.get("workload")) {
            (Some(text), _) => pod(text),
            (None, Some(text)) => text.parse().ok().or_else(|| {
                let is_there = |workload: &WorkloadRef| index.workload(workload).is_some();
                pod(text).filter(is_there).or_else(|| external(text))
            }),
            (None, None) => None,
        };
        found.ok_or_else(|| {
            "workload: NAMESPACE/NAME, or a token like shop:web-0 or {\"ns\":\"shop\",\"external_workload\":\"web\"}, \
             is needed; or pod: NAMESPACE/NAME"
                .to_owned()
        })
    }

    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for text in self.all("header") {
            let read = linkerd_policy::explain::header(text);
            let (name, value) = read.ok_or("header: write NAME:VALUE, like x-tenant:shop")?;
            headers
                .try_append(name, value)
                .map_err(|_| "header: there are too many")?;
        }
        Ok(headers)
    }

    fn explain(&self, policy: &Policy) -> Result<Page, String> {
        let ip = self.get("ip").unwrap_or("127.0.0.1").parse::<IpAddr>();
        let addr = ip.map_err(|error| format!("ip: {error}"))?;
        let client = self.get("client").filter(|client| !client.is_empty());
        let tls = match (client, self.get("tls")) {
            (Some(id), _) => PeerTls::Terminated {
                identity: Some(PeerId::of(id)),
            },
            (None, Some("true")) => PeerTls::Terminated { identity: None },
            (None, _) => PeerTls::None,
        };
        let peer = Peer { addr, tls };
        let Some(path) = self.get("path") else {
            return Ok(as_json(&policy.explain_connection(&peer)));
        };
        let method = self.get("method").unwrap_or("GET").parse::<Method>();
        let method = method.map_err(|_| "method: not an HTTP method")?;
        let headers = self.headers()?;
        let view = RequestView::of_target(&method, self.get("host"), path, &headers);
        Ok(as_json(&policy.explain_request(&peer, &view)))
    }
}

/// Decodes a query string.
fn query(text: &str) -> Query {
    let decode = |part: &str| {
        percent_encoding::percent_decode_str(&part.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    Query(
        pairs
            .map(|(key, value)| (decode(key), decode(value)))
            .collect(),
    )
}
