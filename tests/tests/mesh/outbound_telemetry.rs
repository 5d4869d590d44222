//! What can be seen of traffic through a client's and a server's sidecar: access log, traces, metrics.

use crate::{
    contract::is_of_an_index,
    harness::{Mesh, eventually, get, identity, one_http1, one_http2},
    origin,
    outbound::{App, Client, TLS_ROUTE, app, pod, route, service, status, text},
    outbound_bodies,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use linkerd_metrics::describe;
use prost::Message as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// The lines of the access log that name a path, once there are as many.
async fn logged(mesh: &Mesh, path: &str, count: usize) -> Vec<String> {
    eventually("lines of the access log", async || {
        let said = mesh.said();
        let lines: Vec<_> = said.lines().filter(|line| line.contains(path)).collect();
        assert!(lines.len() <= count, "{lines:?}");
        (lines.len() == count).then(|| lines.into_iter().map(str::to_owned).collect())
    })
    .await
}

fn asking(path: &str) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("host", "web.shop")
        .header("user-agent", "till/1.0")
        .header("x-b3-traceid", "463ac35c9f6413ad")
        .body(Full::from("12345"))
        .unwrap()
}

#[tokio::test]
async fn a_request_that_comes_in_is_one_line_of_the_access_log_as_apache_writes_it() {
    let client = Client::start("", 0, "", &[("ACCESS_LOG", "apache")]).await;
    let mesh = &client.mesh;
    let _origin = origin::echo(mesh.origin()).await;
    // It leaves by this sidecar's outbound side too, which writes no line.
    let response = one_http1(client.connect(9001).await, asking("/meshed?a=b")).await;
    assert_eq!(response.unwrap().status(), 200);
    mesh.send_plain(5, get("/plain")).await;

    let line = logged(mesh, "/meshed?a=b", 1).await.remove(0);
    let (client_address, rest) = line.split_once(' ').unwrap();
    client_address.parse::<SocketAddr>().unwrap();
    let (who, rest) = rest.split_once(" - [").unwrap();
    assert_eq!(who, identity("web"), "{line}");
    let (when, rest) = rest.split_once("] ").unwrap();
    assert!(when.len() > 25 && when.ends_with('Z'), "{line}");
    // As it was on the wire: carried in HTTP/2.
    let request = r#""POST http://web.shop/meshed?a=b HTTP/2.0" 200"#;
    assert_eq!(rest, request, "{line}");

    let line = logged(mesh, "/plain", 1).await.remove(0);
    let from = format!("{}:", mesh.ip(5));
    assert!(line.starts_with(&from), "{line}");
    assert!(line.contains(" - - ["), "{line}");
    assert!(line.ends_with(r#""GET /plain HTTP/1.1" 200"#), "{line}");
    logged(mesh, "/meshed?a=b", 1).await;
}

#[tokio::test]
async fn a_request_that_comes_in_is_one_object_of_the_access_log_in_json() {
    let client = Client::start("", 0, "", &[("ACCESS_LOG", "JSON")]).await;
    let mesh = &client.mesh;
    // Nobody is there yet: one that fails is a line as well.
    assert_eq!(mesh.send_plain(5, get("/lost")).await.status(), 502);
    let line = logged(mesh, "/lost", 1).await.remove(0);
    assert!(line.contains(r#""status":502"#), "{line}");

    let _origin = origin::echo(mesh.origin()).await;
    let response = one_http1(client.connect(9001).await, asking("/meshed?a=b"))
        .await
        .unwrap();
    let length = response.headers()["content-length"].clone();
    text(response).await;
    let line = logged(mesh, "/meshed?a=b", 1).await.remove(0);
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
    let keys: Vec<&str> = object.keys().map(String::as_str).collect();
    let wanted = "client.addr client.id host method processing_ns request_bytes response_bytes status timestamp total_ns trace_id uri user_agent version";
    assert_eq!(keys.join(" "), wanted);
    for (key, value) in [
        ("client.id", identity("web").as_str()),
        ("host", "web.shop"),
        ("method", "POST"),
        ("request_bytes", "5"),
        ("response_bytes", length.to_str().unwrap()),
        ("trace_id", "463ac35c9f6413ad"),
        ("uri", "http://web.shop/meshed?a=b"),
        ("user_agent", "till/1.0"),
        ("version", "HTTP/2.0"),
    ] {
        assert_eq!(object[key], value, "{key}");
    }
    assert_eq!(object["status"], 200);
    let nanos = |key: &str| object[key].as_str().unwrap().parse::<u64>().unwrap();
    assert!(nanos("processing_ns") <= nanos("total_ns"), "{line}");
}

/// The messages that a collector reads, as OTLP 1.3 has them.
mod otlp {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Export {
        #[prost(message, repeated, tag = "1")]
        pub(super) resources: Vec<OfResource>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct OfResource {
        #[prost(message, optional, tag = "1")]
        pub(super) resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub(super) scopes: Vec<OfScope>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub(super) attributes: Vec<Attribute>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct OfScope {
        #[prost(message, repeated, tag = "2")]
        pub(super) spans: Vec<Span>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) trace: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) id: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) parent: Vec<u8>,
        #[prost(string, tag = "5")]
        pub(super) name: String,
        #[prost(int32, tag = "6")]
        pub(super) kind: i32,
        #[prost(fixed64, tag = "7")]
        pub(super) start: u64,
        #[prost(fixed64, tag = "8")]
        pub(super) end: u64,
        #[prost(message, repeated, tag = "9")]
        pub(super) attributes: Vec<Attribute>,
        #[prost(message, optional, tag = "15")]
        pub(super) status: Option<Status>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Status {
        #[prost(int32, tag = "3")]
        pub(super) code: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Attribute {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<Value>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Value {
        #[prost(string, optional, tag = "1")]
        pub(super) text: Option<String>,
        #[prost(int64, optional, tag = "3")]
        pub(super) number: Option<i64>,
    }

    /// An attribute as text.
    pub(super) fn attribute(of: &[Attribute], key: &str) -> String {
        let value = of.iter().find(|one| one.key == key);
        match value.and_then(|one| one.value.clone()) {
            Some(Value {
                text: Some(text), ..
            }) => text,
            Some(Value {
                number: Some(number),
                ..
            }) => number.to_string(),
            _ => String::new(),
        }
    }
}

const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// A collector that keeps what it is sent.
struct Collector {
    exports: Arc<Mutex<Vec<otlp::OfResource>>>,
    _app: App,
}

impl Collector {
    async fn start(address: SocketAddr) -> Self {
        let exports: Arc<Mutex<Vec<_>>> = Arc::default();
        let kept = exports.clone();
        let app = outbound_bodies::app(address, move |request| {
            let kept = kept.clone();
            async move {
                let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
                assert_eq!(request.uri().path(), path);
                let body = request.into_body().collect().await.unwrap().to_bytes();
                // One message: a flag and its length come first.
                let message = otlp::Export::decode(body.slice(5..)).unwrap();
                kept.lock().unwrap().extend(message.resources);
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let frames: [Result<_, Infallible>; 2] = [
                    Ok(Frame::data(Bytes::from_static(&[0; 5]))),
                    Ok(Frame::trailers(trailers)),
                ];
                let body = StreamBody::new(futures::stream::iter(frames));
                let mut response = Response::new(BoxBody::new(body));
                let kind = HeaderValue::from_static("application/grpc");
                response.headers_mut().insert("content-type", kind);
                response
            }
        })
        .await;
        Self { exports, _app: app }
    }

    /// The spans of a trace, once there are as many.
    async fn spans(&self, trace: &str, count: usize) -> Vec<otlp::Span> {
        eventually("spans", async || {
            let exports = self.exports.lock().unwrap().clone();
            let scopes = exports.into_iter().flat_map(|one| one.scopes);
            let mut spans: Vec<_> = scopes
                .flat_map(|scope| scope.spans)
                .filter(|span| hex(&span.trace) == trace)
                .collect();
            spans.sort_by_key(|span| span.start);
            assert!(spans.len() <= count, "{spans:?}");
            (spans.len() == count).then_some(spans)
        })
        .await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

async fn traced(annotations: &str, pods: u8) -> (Client, Collector) {
    // The sidecar's host is known once it runs: this host is as good for a collector.
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = probe.local_addr().unwrap();
    drop(probe);
    let collector = Collector::start(address).await;
    let variables = [
        ("TRACE_COLLECTOR_SVC_ADDR", &*address.to_string()),
        ("TRACE_SERVICE_NAME", "till"),
        ("TRACE_EXTRA_ATTRIBUTES", "k8s.pod.ip=10.0.0.1"),
    ];
    let client = Client::start(annotations, pods, "", &variables).await;
    (client, collector)
}

/// A request with trace headers, and what the application at its end says.
async fn send(client: &Client, port: u16, headers: &[(&str, &str)]) -> String {
    let mut request = Request::get("/buy?item=7").header("host", "web.shop");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::default()).unwrap();
    let response = one_http1(client.connect(port).await, request)
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    text(response).await
}

/// Each span has the one before it as its parent; the first has `parent`.
fn assert_chain(spans: &[otlp::Span], parent: &str) {
    let mut parent = parent.to_owned();
    for span in spans {
        assert_eq!(hex(&span.parent), parent, "{spans:#?}");
        assert!(span.start <= span.end && span.start > 0, "{span:?}");
        assert_eq!(span.name, "/buy");
        parent = hex(&span.id);
    }
}

#[tokio::test]
async fn a_trace_has_a_span_of_each_side_of_each_sidecar_chained_from_client_to_application() {
    let (client, collector) = traced("", 0).await;
    let _origin = origin::echo(client.mesh.origin()).await;
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    let said = send(&client, 9001, &[("traceparent", &sampled)]).await;
    let b3 = "463ac35c9f6413ad48485a3953bb6124";
    let headers = [
        ("x-b3-traceid", b3),
        ("x-b3-spanid", PARENT),
        ("x-b3-sampled", "1"),
    ];
    let said_b3 = send(&client, 9001, &headers).await;
    let untraced = send(&client, 9001, &[]).await;
    assert!(
        !untraced.contains("traceparent"),
        "no trace is begun: {untraced}"
    );
    let unsampled = "5bf92f3577b34da6a3ce929d0e0e4736";
    let header = format!("00-{unsampled}-{PARENT}-00");
    let said_unsampled = send(&client, 9001, &[("traceparent", &header)]).await;
    assert!(said_unsampled.contains(&format!("traceparent: 00-{unsampled}-")));
    assert!(
        !said_unsampled.contains(PARENT),
        "a hop is named all the same"
    );

    let spans = collector.spans(TRACE, 4).await;
    assert_chain(&spans, PARENT);
    let kinds: Vec<_> = spans.iter().map(|span| span.kind).collect();
    assert_eq!(kinds, [SERVER, CLIENT, SERVER, CLIENT]);
    let directions: Vec<_> = spans
        .iter()
        .map(|span| otlp::attribute(&span.attributes, "direction"))
        .collect();
    assert_eq!(directions, ["outbound", "outbound", "inbound", "inbound"]);
    for span in &spans {
        for (key, value) in [
            ("http.request.method", "GET"),
            ("url.path", "/buy"),
            ("url.query", "item=7"),
            ("url.full", "http://web.shop/buy?item=7"),
            ("http.response.status_code", "200"),
        ] {
            assert_eq!(otlp::attribute(&span.attributes, key), value, "{key}");
        }
    }
    // The application belongs to the last span.
    let last = hex(&spans.last().unwrap().id);
    let header = format!("traceparent: 00-{TRACE}-{last}-01");
    assert!(said.contains(&header), "{header}: {said}");

    let spans = collector.spans(b3, 4).await;
    assert_chain(&spans, PARENT);
    let [.., before, last] = &*spans else {
        unreachable!()
    };
    assert!(
        said_b3.contains(&format!("x-b3-traceid: {b3}")),
        "{said_b3}"
    );
    assert!(said_b3.contains(&format!("x-b3-spanid: {}", hex(&last.id))));
    assert!(
        said_b3.contains(&format!("x-b3-parentspanid: {}", hex(&before.id))),
        "{said_b3}"
    );
    assert!(collector.spans(unsampled, 0).await.is_empty());
    let resource = collector.exports.lock().unwrap()[0].resource.clone();
    let attributes = resource.unwrap().attributes;
    assert_eq!(otlp::attribute(&attributes, "service.name"), "till");
    assert_eq!(otlp::attribute(&attributes, "k8s.pod.ip"), "10.0.0.1");
}

#[tokio::test]
async fn each_attempt_of_a_retried_request_is_a_span_of_its_own() {
    let annotations = "retry.linkerd.io/http: 5xx, retry.linkerd.io/limit: '2'";
    let (client, collector) = traced(annotations, 1).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let _app = app(client.at(10), move |_| {
        let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        status(if first { 503 } else { 200 })
    })
    .await;
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    send(&client, 9000, &[("traceparent", &sampled)]).await;
    let spans = collector.spans(TRACE, 3).await;
    let [front, first, second] = &*spans else {
        unreachable!()
    };
    assert_eq!(
        (front.kind, first.kind, second.kind),
        (SERVER, CLIENT, CLIENT)
    );
    assert_eq!(hex(&front.parent), PARENT);
    assert_eq!((&first.parent, &second.parent), (&front.id, &front.id));
    let status = |span: &otlp::Span| otlp::attribute(&span.attributes, "http.response.status_code");
    assert_eq!(
        (status(first), status(second)),
        ("503".into(), "200".into())
    );
    assert_eq!(status(front), "200");
}

#[tokio::test]
async fn requests_and_attempts_that_fail_are_in_the_trace_with_their_reason() {
    let (client, collector) = traced("", 1).await;
    let listener = tokio::net::TcpListener::bind(client.at(10)).await.unwrap();
    let breaking = tokio::spawn(async move {
        loop {
            // Whoever sends a request is left without an answer.
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await;
        }
    });
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    let response = get_traced(&client, 9000, &sampled).await;
    assert_eq!(response, 502);
    let error = |span: &otlp::Span| {
        let type_ = otlp::attribute(&span.attributes, "error.type");
        let code = span.status.as_ref().map(|status| status.code);
        let http = otlp::attribute(&span.attributes, "http.response.status_code");
        (type_, code, http)
    };
    let spans = collector.spans(TRACE, 2).await;
    let broken = "endpoint breaks off".to_owned();
    assert_eq!(error(&spans[0]), (broken.clone(), Some(2), "502".into()));
    assert_eq!(error(&spans[1]), (broken, Some(2), String::new()));
    assert_eq!(spans[1].parent, spans[0].id);
    breaking.abort();

    // One that gets no endpoint has no attempt, and is there all the same.
    const OTHER: &str = "0af7651916cd43dd8448eb211c80319c";
    let sampled = format!("00-{OTHER}-{PARENT}-01");
    client.mesh.write("catalog.yaml", &service("catalog", ""));
    eventually("no endpoints", async || {
        (client.status(9000).await == 504).then_some(())
    })
    .await;
    assert!(get_traced(&client, 9000, &sampled).await >= 503);
    let spans = collector.spans(OTHER, 1).await;
    let (type_, code, _) = error(&spans[0]);
    assert!(
        type_.starts_with("no endpoint") || type_ == "no backend available",
        "{type_}"
    );
    assert_eq!(code, Some(2));
}

const CLOSED: &str = "apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web-http, namespace: shop}
spec: {externalWorkloadSelector: {matchLabels: {app: web}}, port: 8080, proxyProtocol: HTTP/1}
";

#[tokio::test]
async fn a_denial_is_in_the_trace_of_the_sidecar_that_denied() {
    let (client, collector) = traced("", 1).await;
    let mesh = &client.mesh;
    // A Server without an authorization lets nobody in.
    mesh.write("web-http.yaml", CLOSED);
    let request = |parent: &str| {
        let parent = format!("00-{TRACE}-{parent}-01");
        let request = Request::get("/buy").header("host", "web");
        let request = request.header("traceparent", parent);
        request.body(Full::default()).unwrap()
    };
    eventually("the policy", async || {
        let answer = mesh.send_plain(9, get("/buy")).await;
        (answer.status() == 403).then_some(())
    })
    .await;
    let stream = mesh.connect_from(9, mesh.web()).await;
    let denied = one_http1(stream, request(PARENT)).await.unwrap();
    assert_eq!(denied.status(), 403);
    let spans = collector.spans(TRACE, 1).await;
    let [span] = &spans[..] else {
        panic!("{spans:?}");
    };
    assert_eq!(hex(&span.parent), PARENT);
    let attribute = |name| otlp::attribute(&span.attributes, name);
    assert_eq!(attribute("error.type"), "denied");
    assert_eq!(attribute("http.response.status_code"), "403");
}

async fn get_traced(client: &Client, port: u16, traceparent: &str) -> u16 {
    let request = Request::get("/buy")
        .header("host", "web")
        .header("traceparent", traceparent)
        .body(Full::default())
        .unwrap();
    let response = one_http1(client.connect(port).await, request).await;
    response.unwrap().status().as_u16()
}

/// The label keys of each family's series, as they stand on pages.
#[derive(Default)]
struct Keys(BTreeMap<String, BTreeSet<Vec<String>>>);

impl Keys {
    async fn add(&mut self, mesh: &Mesh) {
        let (_, page) = mesh.get_admin("/metrics").await.unwrap();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
            if rest.contains(r#"direction="inbound""#) {
                continue;
            }
            let labels = rest
                .strip_prefix('{')
                .and_then(|rest| rest.rsplit_once('}'));
            let labels = labels.map_or("", |(labels, _)| labels);
            // Every second piece between quotes is a value.
            let keys = labels.split('"').step_by(2);
            let keys = keys.map(|key| key.trim_matches([',', '=']).to_owned());
            let keys = keys.filter(|key| !key.is_empty() && key != "le").collect();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .filter(|family| describe::all().any(|desc| desc.name == *family));
            let family = family.unwrap_or(name).to_owned();
            self.0.entry(family).or_default().insert(keys);
        }
    }
}

impl Keys {
    /// Families that count attempts and connections by endpoint: with an identity and without, and what discovery says
    /// of an endpoint after that.
    fn endpoints(&self) {
        let endpoint = "authority target_addr target_ip target_port tls";
        for (family, end) in [
            ("request_total", ""),
            (
                "response_total",
                " status_code classification grpc_status error",
            ),
            ("response_latency_ms", " status_code"),
        ] {
            let found = self.0.get(family).unwrap();
            let found: BTreeSet<String> = found
                .iter()
                .map(|keys| {
                    let keys = keys.iter().filter(|key| !key.starts_with("dst_"));
                    keys.map(String::as_str).collect::<Vec<_>>().join(" ")
                })
                .collect();
            for who in ["server_id", "no_tls_reason"] {
                let wanted = format!("direction {endpoint} {who}{end}");
                assert!(found.contains(&wanted), "{family} {wanted}: {found:#?}");
            }
        }
        for family in [
            "tcp_open_total",
            "tcp_open_connections",
            "tcp_read_bytes_total",
        ] {
            let found = self.0.get(family).unwrap();
            let has = |wanted: &str| {
                let mut all = found.iter().map(|keys| keys.join(" "));
                all.any(|keys| keys.starts_with(wanted))
            };
            assert!(has(
                "direction peer target_addr target_ip target_port tls no_tls_reason"
            ));
            assert!(has(&format!("direction peer {endpoint} server_id dst_")));
        }
    }
}

async fn http_traffic(keys: &mut Keys) {
    let annotations = "retry.linkerd.io/http: 5xx, retry.linkerd.io/limit: '1'";
    let client = Client::start(annotations, 1, "", &[]).await;
    let _web = origin::echo(client.mesh.origin()).await;
    let _app = app(client.at(10), |_| status(503)).await;
    for port in [9000, 9001] {
        let post = Request::post("/").header("host", "a");
        let post = post.body(Full::from("body")).unwrap();
        one_http1(client.connect(port).await, post).await.unwrap();
    }
    let mut other = get("/");
    let id = HeaderValue::from_static("someone.else");
    other.headers_mut().insert("l5d-require-id", id);
    one_http1(client.connect(9001).await, other).await.unwrap();
    // Nobody is at 9003: the connection is refused.
    client.get(9003, "/").await;
    let mut bytes = client.connect(9003).await;
    bytes
        .write_all(b"\x00\x01\x02 not HTTP \r\n\r\n")
        .await
        .unwrap();
    eventually("a refused connection", async || {
        let name = "outbound_tcp_route_close_total";
        let failed = [r#"error="unexpected""#];
        (client.mesh.metric(name, &failed).await > 0.0).then_some(())
    })
    .await;
    keys.add(&client.mesh).await;
}

async fn other_traffic(keys: &mut Keys) {
    let opaque = service("other", "config.linkerd.io/opaque-ports: '80'");
    let grpc = route(
        "GRPCRoute",
        "  rules: [{matches: [{method: {service: shop.Catalog}}]}]",
    );
    let client = Client::start(
        "retry.linkerd.io/grpc: unavailable",
        1,
        &(opaque + &grpc),
        &[],
    )
    .await;
    let mesh = &client.mesh;
    mesh.write("other.yaml", &pod("other-0", "other", mesh.ip(30)));
    let _app = app(client.at(10), |_| {
        let mut response = Response::new(Full::from("answer"));
        let status = HeaderValue::from_static("14");
        response.headers_mut().insert("grpc-status", status);
        response
    })
    .await;
    let call = Request::post("http://catalog.shop/shop.Catalog/List")
        .header("content-type", "application/grpc")
        .body(Full::from("call"))
        .unwrap();
    let response = one_http2(client.connect(9000).await, call).await.unwrap();
    text(response).await;
    let _bytes = origin::scripted(client.at(30), b"hello", b"", b"").await;
    eventually("bytes", async || {
        let mut stream = client.connect(9002).await;
        let mut said = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut said).await;
        (said == b"hello").then_some(())
    })
    .await;
    keys.add(mesh).await;
}

async fn tls_and_profile_traffic(keys: &mut Keys) {
    let policy = "apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: catalog.shop.svc.cluster.local, namespace: shop}
spec:
  routes: [{name: flaky, condition: {pathRegex: /flaky}, isRetryable: true}]
---
"
    .to_owned()
        + TLS_ROUTE
        + &service("other", "");
    let client = Client::start("", 1, &policy, &[]).await;
    let mesh = &client.mesh;
    mesh.write("other.yaml", &pod("other-0", "other", mesh.ip(30)));
    let _app = app(client.at(10), |_| status(500)).await;
    client.get(9000, "/flaky").await;
    let _bytes = origin::scripted(client.at(30), b"", b"\x16\x03", b"no TLS").await;
    eventually("a TLS connection", async || {
        hello(client.connect(9002).await).await;
        let closed = mesh.metric("outbound_tls_route_close_total", &[]).await;
        (closed > 0.0).then_some(())
    })
    .await;
    keys.add(mesh).await;
}

/// Begins TLS with the name of a server, as far as a route needs it.
async fn hello(stream: TcpStream) {
    use tokio_rustls::{TlsConnector, rustls};
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "secure.example".try_into().unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    // What is at the other end speaks no TLS.
    assert!(connector.connect(name, stream).await.is_err());
}

#[tokio::test]
async fn every_outbound_family_has_the_labels_that_dashboards_know_in_their_order() {
    let mut keys = Keys::default();
    http_traffic(&mut keys).await;
    other_traffic(&mut keys).await;
    tls_and_profile_traffic(&mut keys).await;
    keys.endpoints();
    let mut missing = Vec::new();
    for desc in describe::all() {
        let is_outbound = desc.name.starts_with("outbound_");
        if !is_outbound || desc.origin != describe::Origin::Peer || is_of_an_index(desc.name) {
            continue;
        }
        let Some(found) = keys.0.get(desc.name) else {
            missing.push(desc.name);
            continue;
        };
        let wanted: Vec<String> = desc.label_names().map(str::to_owned).collect();
        assert!(found.contains(&wanted), "{}: {found:?}", desc.name);
        // A destination that is a name has no address.
        let named = wanted.iter().filter(|key| !key.starts_with("target_"));
        let named: Vec<String> = named.cloned().collect();
        let others: Vec<_> = found.iter().filter(|keys| **keys != wanted).collect();
        assert!(
            others.iter().all(|keys| **keys == named),
            "{}: {others:?}",
            desc.name
        );
    }
    assert_eq!(missing, Vec::<&str>::new(), "not one series");
}
