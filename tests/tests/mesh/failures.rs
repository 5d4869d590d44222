//! Every row of the table of failures (`docs/failures.md`, inbound) is what clients see, over HTTP/1 and as gRPC.

use crate::{
    harness::{Mesh, eventually, within},
    messages::Controller,
    origin,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linkerd_policy::{
    proto,
    server::{
        Authentication, Authorization, FailureInjector, Filter, HttpMatch, HttpPolicy, HttpRoute,
        HttpRule, Meta, NetworkMatch, PathMatch, PathModifier, Protocol, RateLimit,
        RateLimitOverride, Redirect, ServerPolicy,
    },
};
use linkerd2_proxy_api::inbound::Server;
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
};

/// A row of the table, or what a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    http: u16,
    grpc: u16,
    /// The label of `inbound_http_errors_total` that counts it.
    error: Option<String>,
    closed: bool,
}

/// What the page promises.
fn documented() -> BTreeMap<String, Row> {
    let page = include_str!("../../../docs/failures.md");
    let (_, inbound) = page.split_once("## Inbound").unwrap();
    let (inbound, _) = inbound.split_once("## Outbound").unwrap();
    let rows = inbound.lines().filter(|line| line.starts_with("| "));
    let rows = rows.skip(1).map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, _, http, grpc, error, end, _] = cells.as_slice() else {
            panic!("{line}");
        };
        let http = match (*name, *http) {
            // As the routes below say.
            ("redirect", "the route's, else 301") => 308,
            ("injected failure", "the route's") => 418,
            (_, number) => number.parse().unwrap(),
        };
        let error = error.strip_prefix('`');
        let row = Row {
            http,
            grpc: grpc.parse().unwrap(),
            error: error.map(|label| label.trim_end_matches('`').to_owned()),
            closed: *end == "closed",
        };
        ((*name).to_owned(), row)
    });
    rows.collect()
}

fn everybody() -> Authorization {
    Authorization {
        meta: Meta::default_named("all"),
        networks: vec![NetworkMatch {
            net: "0.0.0.0/0".parse().unwrap(),
            except: Vec::new(),
        }],
        authentication: Authentication::Unauthenticated,
    }
}

fn route(path: PathMatch, filters: Vec<Filter>) -> HttpRoute {
    let name = match &path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::Regex(path) => path,
    };
    HttpRoute {
        meta: Meta::resource("policy.linkerd.io", "HTTPRoute", name.replace('/', "")),
        hosts: Vec::new(),
        authorizations: vec![everybody()],
        rules: vec![HttpRule {
            matches: vec![HttpMatch {
                path: Some(path),
                ..HttpMatch::default()
            }],
            filters,
        }],
    }
}

/// A route for each failure that policy makes.
fn policy(rate_limit: Option<RateLimit>) -> Server {
    let prefix = |path: &str, filters| route(PathMatch::Prefix(path.into()), filters);
    let mut denied = prefix("/denied", Vec::new());
    denied.authorizations.clear();
    let redirect = Redirect {
        host: Some("new.example".into()),
        status: Some(StatusCode::PERMANENT_REDIRECT),
        ..Redirect::default()
    };
    let no_prefix = Redirect {
        path: Some(PathModifier::Prefix("/new".into())),
        ..Redirect::default()
    };
    let teapot = FailureInjector {
        status: 418,
        message: "a teapot".into(),
        ratio: None,
    };
    let routes = vec![
        prefix("/open", Vec::new()),
        denied,
        prefix("/redirect", vec![Filter::Redirect(redirect)]),
        route(
            PathMatch::Exact("/bad-redirect".into()),
            vec![Filter::Redirect(no_prefix)],
        ),
        prefix("/injected", vec![Filter::Failure(teapot)]),
        prefix("/unknown", vec![Filter::Unknown]),
    ];
    server(Protocol::Detect {
        timeout: Duration::from_secs(10),
        http: HttpPolicy { routes, rate_limit },
    })
}

fn server(protocol: Protocol) -> Server {
    proto::server_to_api(&ServerPolicy {
        meta: Meta::resource("policy.linkerd.io", "server", "web-http"),
        protocol,
        authorizations: Vec::new(),
    })
}

/// A mesh client's connections: one that speaks HTTP/1, one that speaks gRPC.
struct Client {
    http1: http1::SendRequest<Full<Bytes>>,
    grpc: http2::SendRequest<Full<Bytes>>,
}

impl Client {
    async fn connect(mesh: &Mesh) -> Self {
        let identity = mesh.client("api");
        Self::over(
            mesh.connect_tls(&identity).await,
            mesh.connect_tls(&identity).await,
        )
        .await
    }

    /// By direct connections to the proxy's own port, with a header that names the proxy's own port.
    async fn looping(mesh: &Mesh) -> Self {
        let identity = mesh.client("api");
        let connect = async |protocol: u8| {
            let alpn = Some(&b"transport.l5d.io/v1"[..]);
            let mut stream = mesh
                .connect_tls_to(mesh.direct(), &identity, alpn)
                .await
                .unwrap();
            // { port: 4143, session_protocol: { http1 or http2: {} } }
            let message = [0x08, 0xaf, 0x20, 0x1a, 0x02, protocol, 0x00];
            let header = [b"transport.l5d.io/v1\r\n\r\n\0\0\0\x07", &message[..]].concat();
            stream.write_all(&header).await.unwrap();
            stream
        };
        Self::over(connect(0x0a).await, connect(0x12).await).await
    }

    async fn over(
        http1: linkerd_tls::ClientStream<tokio::net::TcpStream>,
        grpc: linkerd_tls::ClientStream<tokio::net::TcpStream>,
    ) -> Self {
        let (http1, connection) = http1::handshake(TokioIo::new(http1)).await.unwrap();
        tokio::spawn(connection);
        let (grpc, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(grpc))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { http1, grpc }
    }

    async fn http1(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        self.http1.ready().await.unwrap();
        within("an answer", self.http1.send_request(request))
            .await
            .unwrap()
    }

    async fn grpc(&mut self, mut request: Request<Full<Bytes>>) -> Response<Incoming> {
        let kind = header::HeaderValue::from_static("application/grpc");
        request.headers_mut().insert(header::CONTENT_TYPE, kind);
        self.grpc.ready().await.unwrap();
        within("an answer", self.grpc.send_request(request))
            .await
            .unwrap()
    }

    /// What both see of a failure, and how it is counted. `None` if one of them was answered by the application.
    async fn sees(
        &mut self,
        mesh: &Mesh,
        http1: Request<Full<Bytes>>,
        grpc: Request<Full<Bytes>>,
    ) -> Option<Row> {
        let before = errors(mesh).await;
        let response = self.http1(http1).await;
        let status = response.status().as_u16();
        response.headers().get("l5d-proxy-error")?;
        let closing = response
            .headers()
            .get(header::CONNECTION)
            .is_some_and(|value| value == "close");
        response.into_body().collect().await.unwrap();
        let closed = within("the next turn", self.http1.ready()).await.is_err();
        assert_eq!(closed, closing, "what is said about the connection is done");

        let response = self.grpc(grpc).await;
        assert_eq!(response.status(), 200);
        let headers = response.headers();
        headers.get("l5d-proxy-error")?;
        assert_eq!(headers["grpc-message"], headers["l5d-proxy-error"]);
        let code = headers["grpc-status"].to_str().unwrap().parse().unwrap();
        response.into_body().collect().await.unwrap();
        within("the next turn", self.grpc.ready()).await.unwrap();

        let after = errors(mesh).await;
        let mut counted = after
            .into_iter()
            .filter(|(label, count)| before.get(label) != Some(count));
        let error = counted.next().map(|(label, count)| {
            let before = before.get(&label).copied().unwrap_or_default();
            assert_eq!(count, before + 2, "{label}: once for each request");
            label
        });
        assert_eq!(counted.next(), None, "counted once");
        Some(Row {
            http: status,
            grpc: code,
            error,
            closed,
        })
    }

    /// As [`Self::sees`], of a path.
    async fn sees_at(&mut self, mesh: &Mesh, path: &str) -> Row {
        let row = self.sees(mesh, on_http1(path), on_http2(path)).await;
        row.unwrap_or_else(|| panic!("{path}: answered by the application"))
    }
}

fn on_http1(path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).header("host", "web");
    request.body(Full::default()).unwrap()
}

fn on_http2(path: &str) -> Request<Full<Bytes>> {
    let request = Request::post(format!("http://web{path}"));
    request.body(Full::default()).unwrap()
}

/// `inbound_http_errors_total` by its label, except of the admin server.
async fn errors(mesh: &Mesh) -> BTreeMap<String, u64> {
    let (_, page) = mesh.get_admin("/metrics").await.unwrap();
    let mut counts = BTreeMap::new();
    for line in page.lines() {
        let Some(rest) = line.strip_prefix("inbound_http_errors_total{") else {
            continue;
        };
        let (_, label) = rest.split_once("error=\"").unwrap();
        let (label, rest) = label.split_once('"').unwrap();
        let count: u64 = rest.rsplit_once(' ').unwrap().1.parse().unwrap();
        *counts.entry(label.to_owned()).or_default() += count;
    }
    counts
}

/// Failures that the request or policy makes.
async fn by_policy(mesh: &Mesh, seen: &mut BTreeMap<&'static str, Row>) {
    let mut client = Client::connect(mesh).await;
    for (name, path) in [
        ("suspicious path", "/open/%2e%2e/secret"),
        ("no route", "/nowhere"),
        ("denied", "/denied"),
        ("redirect", "/redirect"),
        ("invalid redirect", "/bad-redirect"),
        ("injected failure", "/injected"),
        ("unknown filter", "/unknown"),
    ] {
        seen.insert(name, client.sees_at(mesh, path).await);
    }
    let nameless = Request::get("/open").body(Full::default()).unwrap();
    let mut two_names = on_http2("/open");
    let other = header::HeaderValue::from_static("other");
    two_names.headers_mut().insert(header::HOST, other);
    let row = client.sees(mesh, nameless, two_names).await;
    seen.insert("bad request", row.unwrap());
}

/// A rate limit that is used up, and a policy that is about HTTP no more.
async fn by_change(mesh: &Mesh, controller: &Controller, seen: &mut BTreeMap<&'static str, Row>) {
    let mut client = Client::connect(mesh).await;
    let one = RateLimit {
        meta: None,
        total: None,
        identity: None,
        overrides: vec![RateLimitOverride {
            requests_per_second: 1,
            identities: vec![crate::harness::identity("api")],
        }],
    };
    controller.say(policy(Some(one)));
    // One request a second passes: those that do are asked again.
    let limited = eventually("a limit", async || {
        let (http1, grpc) = (on_http1("/open"), on_http2("/open"));
        client.sees(mesh, http1, grpc).await
    })
    .await;
    seen.insert("rate limit", limited);
    controller.say(server(Protocol::Opaque));
    eventually("another protocol", async || {
        let status = client.http1(on_http1("/open")).await.status();
        (status == 404).then_some(())
    })
    .await;
    seen.insert("policy is not HTTP", client.sees_at(mesh, "/open").await);
    controller.say(policy(None));
    eventually("HTTP again", async || {
        let status = client.http1(on_http1("/open")).await.status();
        (status == 200).then_some(())
    })
    .await;
}

/// Failures of the application, and what the proxy does not send to it.
async fn by_origin(mesh: &Mesh, seen: &mut BTreeMap<&'static str, Row>) {
    let mut client = Client::connect(mesh).await;
    let refused = client.sees_at(mesh, "/open").await;
    seen.insert("origin refuses", refused);

    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    let mut waiting = mesh.connect_from(5, mesh.web()).await;
    let request = b"GET /open HTTP/1.1\r\nhost: web\r\n\r\n";
    waiting.write_all(request).await.unwrap();
    let held = within("a request that waits", listener.accept()).await;
    let overloaded = client.sees_at(mesh, "/open").await;
    seen.insert("overloaded", overloaded);
    drop((waiting, held));

    let breaking = tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    });
    // Until the place of the request above is free.
    eventually("a free place", async || {
        let status = client.http1(on_http1("/open")).await.status();
        (status == 502).then_some(())
    })
    .await;
    seen.insert("origin breaks off", client.sees_at(mesh, "/open").await);
    breaking.abort();
    let _ = breaking.await;

    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(mesh.origin()).unwrap();
    let _full = socket.listen(0).unwrap();
    let (address, mut queue) = (mesh.origin(), tokio::task::JoinSet::new());
    for _ in 0..4 {
        queue.spawn(tokio::net::TcpStream::connect(address));
    }
    eventually("a full queue", async || {
        let status = client.http1(on_http1("/open")).await.status();
        (status == 504).then_some(())
    })
    .await;
    let timeout = client.sees_at(mesh, "/open").await;
    seen.insert("origin connect timeout", timeout);
}

#[tokio::test]
async fn every_failure_of_the_page_is_what_clients_see_and_metrics_count() {
    let controller = Controller::start(policy(None)).await;
    let mesh = controller.mesh(&[("INBOUND_MAX_IN_FLIGHT", "1")]).await;
    let mut seen = BTreeMap::new();
    by_policy(&mesh, &mut seen).await;
    by_origin(&mesh, &mut seen).await;
    let _origin = origin::echo(mesh.origin()).await;
    by_change(&mesh, &controller, &mut seen).await;
    let mut client = Client::looping(&mesh).await;
    seen.insert("loop", client.sees_at(&mesh, "/open").await);

    let seen: BTreeMap<String, Row> = seen
        .into_iter()
        .map(|(name, row)| (name.to_owned(), row))
        .collect();
    let mut wanted = documented();
    // These take a request that stops half-way, and an application of HTTP/2: `slow` and `resets` see them.
    for name in ["body stands still", "origin resets the stream"] {
        assert!(wanted.remove(name).is_some(), "{name}");
    }
    for (name, row) in &wanted {
        assert_eq!(seen.get(name), Some(row), "{name}");
    }
    assert_eq!(seen.len(), wanted.len(), "nothing that is not on the page");
}

/// What a client sends to the proxy's own port inside mesh TLS, and reads to the end.
async fn direct(mesh: &Mesh, bytes: &[u8]) -> Vec<u8> {
    let alpn = Some(&b"transport.l5d.io/v1"[..]);
    let client = mesh.client("api");
    let connected = mesh.connect_tls_to(mesh.direct(), &client, alpn).await;
    ended(connected.unwrap(), bytes).await
}

async fn ended(mut io: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Vec<u8> {
    io.write_all(bytes).await.unwrap();
    let mut seen = Vec::new();
    let _ = within("the end", io.read_to_end(&mut seen)).await;
    seen
}

/// A transport header with this message.
fn header(message: &[u8]) -> Vec<u8> {
    let length = u8::try_from(message.len()).unwrap();
    [b"transport.l5d.io/v1\r\n\r\n\0\0\0", &[length][..], message].concat()
}

#[tokio::test]
async fn connections_that_cannot_be_carried_are_closed_and_counted_by_their_reason() {
    let controller = Controller::start(server_of_bytes()).await;
    let mesh = controller
        .mesh(&[("INBOUND_DETECT_TIMEOUT", "300ms")])
        .await;
    let mut wanted = BTreeMap::from([("i/o", 0.0), ("unexpected", 0.0)]);
    let check =
        async |why: &str, error: &'static str, seen: Vec<u8>, wanted: &mut BTreeMap<_, f64>| {
            assert!(seen.is_empty(), "{why}: {seen:?}");
            *wanted.entry(error).or_default() += 1.0;
            for (error, wanted) in wanted {
                let label = format!("error=\"{error}\"");
                eventually(why, async || {
                    let count = mesh.metric("inbound_tcp_errors_total", &[&label]).await;
                    assert!(count <= *wanted, "{why}: {count} {error}");
                    (count >= *wanted).then_some(())
                })
                .await;
            }
        };
    let plain = mesh.connect_from(5, mesh.web()).await;
    let seen = ended(plain, b"hello").await;
    check("nobody listens", "i/o", seen, &mut wanted).await;
    let plain = mesh.connect_from(5, mesh.direct()).await;
    let seen = ended(plain, b"GET / HTTP/1.1\r\n\r\n").await;
    check("direct without TLS", "unexpected", seen, &mut wanted).await;
    let seen = direct(&mesh, b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    check("no header", "i/o", seen, &mut wanted).await;
    let seen = direct(&mesh, &header(&[0x08, 0x00])).await;
    check("port 0", "i/o", seen, &mut wanted).await;
    let seen = direct(&mesh, b"transport.l5d.io/v1\r\n").await;
    check("half a header", "unexpected", seen, &mut wanted).await;
    // { port: 4143 }
    let seen = direct(&mesh, &header(&[0x08, 0xaf, 0x20])).await;
    check("a loop", "unexpected", seen, &mut wanted).await;
    // { port: 80, name: "web" }
    let seen = direct(&mesh, &header(b"\x08\x50\x12\x03web")).await;
    check("a gateway", "gateway domain invalid", seen, &mut wanted).await;
}

fn server_of_bytes() -> Server {
    proto::server_to_api(&ServerPolicy {
        meta: Meta::resource("policy.linkerd.io", "server", "web-bytes"),
        protocol: Protocol::Opaque,
        authorizations: vec![everybody()],
    })
}

#[tokio::test]
async fn a_connection_that_was_not_for_this_workload_is_closed() {
    let controller = Controller::start(server_of_bytes()).await;
    let mesh = controller.mesh(&[("INBOUND_IPS", "192.0.2.77")]).await;
    let client = mesh.client("api");
    let alpn = Some(&b"transport.l5d.io/v1"[..]);
    let refused = mesh.connect_tls_to(mesh.direct(), &client, alpn).await;
    assert!(refused.is_err(), "not even a handshake");
    eventually("its count", async || {
        let label = [r#"error="unexpected""#];
        let count = mesh.metric("inbound_tcp_errors_total", &label).await;
        (count > 0.0).then_some(())
    })
    .await;
}
