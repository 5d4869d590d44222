//! The outbound side, protocol by protocol: what endpoints may do with HTTP/2, TLS by its server name, names that
//! requests give, tunnels, and bodies and byte streams of any size.

use crate::{
    authorization::server,
    frames::{self, Act},
    harness::{Mesh, eventually, get, identity, one_http1, within},
    http::conforms,
    origin,
    outbound::{App, Client, app, pod, service, status, text, why},
};
use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls};
use tokio_stream::wrappers::ReceiverStream;

/// An application's HTTP/2 connection to its sidecar.
async fn http2(client: &Client, port: u16) -> SendRequest<Full<Bytes>> {
    let io = TokioIo::new(client.connect(port).await);
    let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

fn ask() -> Request<Full<Bytes>> {
    Request::get("http://catalog.shop/")
        .body(Full::default())
        .unwrap()
}

fn post(bytes: usize) -> Request<Full<Bytes>> {
    Request::post("http://catalog.shop/")
        .body(Full::from(vec![b'x'; bytes]))
        .unwrap()
}

/// Why a stream was reset.
fn reset(error: &hyper::Error) -> Option<h2::Reason> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<h2::Error>()?.reason()
}

async fn assert_metric(client: &Client, name: &str, labels: &[&str], want: f64) {
    let got = client.mesh.metric(name, labels).await;
    assert!(
        (got - want).abs() < f64::EPSILON,
        "{name}{labels:?}: {got}, not {want}"
    );
}

#[tokio::test]
async fn an_endpoint_that_goes_away_costs_no_request() {
    let client = Client::start("", 1, "", &[]).await;
    // Each connection serves nine requests, holds the tenth and, when there is an eleventh, says that it has begun
    // neither. Every second request has a body.
    let _app = frames::serve(client.at(10), |asked| match asked.stream {
        ..19 => Act::Answer,
        19 => Act::Hold,
        _ => Act::Leave,
    })
    .await;
    let send = http2(&client, 9000).await;
    let asking = |count: usize| {
        let mut send = send.clone();
        tokio::spawn(async move {
            for at in 0..count {
                let request = if at % 2 == 0 { ask() } else { post(3000) };
                let response = within("an answer", send.send_request(request))
                    .await
                    .unwrap();
                assert_eq!(response.status(), 200, "{}", why(&response));
            }
        })
    };
    // The last request of all could be held with none after it: one goes on until the others are done.
    let goes_on = asking(usize::MAX);
    for task in [(); 4].map(|()| asking(50)) {
        within("the load's end", task).await.unwrap();
    }
    assert!(!goes_on.is_finished());
    goes_on.abort();
    let refused = [r#"reason="refused""#];
    let name = "outbound_route_retries_total";
    let retries = client.mesh.metric(name, &refused).await;
    assert!(retries > 10.0, "{retries} in flight when it went away");
    for fate in ["failed", "failed_after_retries", "limit", "body", "budget"] {
        let label = format!("fate=\"{fate}\"");
        let name = "outbound_route_request_fates_total";
        assert_metric(&client, name, &[&label], 0.0).await;
    }
}

#[tokio::test]
async fn what_an_endpoint_has_begun_when_it_goes_away_is_answered_by_it() {
    let client = Client::start("", 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let _app = frames::serve(client.at(10), move |asked| {
        counted.fetch_add(1, Ordering::Relaxed);
        match (asked.connection, asked.stream) {
            (0, 1 | 3) => Act::Hold,
            (0, _) => Act::GoAway {
                last: 3,
                answers: &[1, 3],
            },
            _ => Act::Answer,
        }
    })
    .await;
    let send = http2(&client, 9000).await;
    let all = (0..3).map(|_| {
        let mut send = send.clone();
        async move {
            within("an answer", send.send_request(ask()))
                .await
                .unwrap()
                .status()
        }
    });
    for status in futures::future::join_all(all).await {
        assert_eq!(status, 200);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 4, "one of three asked again");
}

#[tokio::test]
async fn what_an_endpoint_may_have_begun_is_not_sent_twice() {
    let client = Client::start("", 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let _app = frames::serve(client.at(10), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        // It has begun stream 1, and is gone without an answer.
        Act::GoAway {
            last: 1,
            answers: &[],
        }
    })
    .await;
    let mut send = http2(&client, 9000).await;
    let outcome = within("an outcome", send.send_request(ask())).await;
    assert_eq!(outcome.unwrap().status(), 502);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_grpc_response_of_a_head_alone_ends_with_it_however_the_endpoint_ends_it() {
    let client = Client::start("", 1, "", &[]).await;
    let _app = frames::serve(client.at(10), |_| Act::StatusThenEnd).await;
    let mut send = http2(&client, 9000).await;
    let mut request = post(5);
    let kind = "application/grpc".parse().unwrap();
    request.headers_mut().insert("content-type", kind);
    let response = within("an answer", send.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.headers()["grpc-status"], "12");
    // What h2 has not read apart from the head came with it.
    assert!(http_body::Body::is_end_stream(response.body()));
}

#[tokio::test]
async fn a_refused_stream_is_asked_again_without_any_retry_policy_and_counted() {
    let client = Client::start("", 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let _app = frames::serve(client.at(10), move |_| {
        match counted.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => Act::Reset(frames::REFUSED_STREAM),
            _ => Act::Answer,
        }
    })
    .await;
    let mut send = http2(&client, 9000).await;
    for request in [ask(), post(1000), post(1)] {
        let response = within("an answer", send.send_request(request))
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{}", why(&response));
    }
    assert_eq!(calls.load(Ordering::Relaxed), 6);
    for (name, labels) in [
        (
            "outbound_route_request_fates_total",
            &[r#"fate="recovered""#][..],
        ),
        ("outbound_route_retries_total", &[r#"reason="refused""#]),
        (
            "outbound_route_retried_requests_total",
            &[r#"outcome="recovered""#],
        ),
        ("outbound_http_route_retry_requests_total", &[]),
        ("outbound_http_route_retry_successes_total", &[]),
        (
            "outbound_http_route_backend_response_statuses_total",
            &[r#"http_status="200""#],
        ),
    ] {
        assert_metric(&client, name, labels, 3.0).await;
    }
    assert_metric(
        &client,
        "outbound_http_route_backend_requests_total",
        &[],
        6.0,
    )
    .await;
    // More than is kept of a body cannot be sent again; the application is told that it may, and the page says so.
    let refused = within("an outcome", send.send_request(post(100_000))).await;
    assert_eq!(
        reset(&refused.unwrap_err()),
        Some(h2::Reason::REFUSED_STREAM)
    );
    let name = "outbound_route_retries_suppressed_total";
    assert_metric(&client, name, &[r#"reason="body_too_large""#], 1.0).await;
}

#[tokio::test]
async fn a_stream_refused_before_its_client_has_said_everything_goes_on_elsewhere() {
    let client = Client::start("", 1, "", &[]).await;
    let (heads, mut seen) = watch::channel(0);
    let _app = frames::serve_early(client.at(10), move |asked| {
        let is_head = asked.bytes == 0 && !asked.is_whole;
        heads.send_modify(|heads| *heads += usize::from(is_head));
        match (asked.stream, asked.is_whole) {
            // Refused with its first message, while the client has more to say.
            (1, false) if !is_head => Act::Reset(frames::REFUSED_STREAM),
            (_, false) => Act::Hold,
            (_, true) if asked.bytes == 6 => Act::Answer,
            (_, true) => Act::Reset(frames::INTERNAL_ERROR),
        }
    })
    .await;
    let (say, says) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(ReceiverStream::new(says));
    let io = TokioIo::new(client.connect(9000).await);
    let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://catalog.shop/").body(body).unwrap();
    let speaking = async {
        say.send(Ok(Frame::data("one".into()))).await.unwrap();
        within("a second attempt", seen.wait_for(|heads| *heads == 2))
            .await
            .unwrap();
        say.send(Ok(Frame::data("two".into()))).await.unwrap();
        drop(say);
    };
    let (response, ()) = tokio::join!(within("an answer", send.send_request(request)), speaking);
    assert_eq!(response.unwrap().status(), 200, "both messages came to it");
    let recovered = [r#"fate="recovered""#];
    assert_metric(
        &client,
        "outbound_route_request_fates_total",
        &recovered,
        1.0,
    )
    .await;
}

#[tokio::test]
async fn a_stream_reset_for_another_reason_is_not_asked_again_and_the_application_learns_the_reason()
 {
    let client = Client::start("", 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let _app = frames::serve(client.at(10), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Act::Reset(frames::INTERNAL_ERROR)
    })
    .await;
    let mut send = http2(&client, 9000).await;
    let outcome = within("an outcome", send.send_request(ask())).await;
    assert_eq!(
        reset(&outcome.unwrap_err()),
        Some(h2::Reason::INTERNAL_ERROR)
    );
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_metric(&client, "outbound_route_retries_total", &[], 0.0).await;
    for (name, label) in [
        ("outbound_route_request_fates_total", r#"fate="failed""#),
        ("response_total", r#"error="h2(INTERNAL_ERROR)""#),
        (
            "outbound_http_route_request_statuses_total",
            r#"http_status="",error="RESET""#,
        ),
        (
            "outbound_http_route_backend_response_statuses_total",
            r#"http_status="",error="RESET""#,
        ),
    ] {
        assert_metric(&client, name, &[label], 1.0).await;
    }
    // The connection is good, and other streams of it go on.
    assert!(send.ready().await.is_ok());
}

#[tokio::test]
async fn an_endpoint_that_resets_is_avoided_for_a_while_where_failures_are_penalised() {
    let penalty = "balancer.alpha.linkerd.io/penalize-failures: 'true', balancer.alpha.linkerd.io/load-biaser-penalty: 1000s";
    let client = Client::start(penalty, 2, "", &[]).await;
    let resets = Arc::new(AtomicUsize::new(0));
    let counted = resets.clone();
    let _bad = frames::serve(client.at(10), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Act::Reset(frames::INTERNAL_ERROR)
    })
    .await;
    let _good = app(client.at(11), |_| status(200)).await;
    let mut send = http2(&client, 9000).await;
    let mut failed = 0;
    for _ in 0..200 {
        within("a place", send.ready()).await.unwrap();
        failed += u32::from(send.send_request(ask()).await.is_err());
    }
    assert!(failed <= 1, "{failed} of 200 were reset");
    assert_eq!(
        usize::try_from(failed).unwrap(),
        resets.load(Ordering::Relaxed)
    );
}

/// A CA of the applications' own, and servers that it vouches for.
struct Origins {
    ca: Issuer<'static, KeyPair>,
    anchor: CertificateDer<'static>,
}

impl Origins {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let anchor = params.self_signed(&key).unwrap().der().clone();
        Self {
            ca: Issuer::new(params, key),
            anchor,
        }
    }

    /// Terminates TLS as `name`: says its name, then all that it reads.
    async fn serve(&self, address: SocketAddr, name: &'static str) -> App {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.ca).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(address).await.unwrap();
        App(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut tls = acceptor.accept(stream).await?;
                    tls.write_all(name.as_bytes()).await?;
                    let (mut read, mut write) = tokio::io::split(tls);
                    tokio::io::copy(&mut read, &mut write).await?;
                    write.shutdown().await
                });
            }
        }))
    }

    /// Speaks TLS end to end with whoever proves to be `name`: what it answers to `bytes`.
    async fn ask(
        &self,
        stream: TcpStream,
        name: ServerName<'static>,
        bytes: &[u8],
    ) -> std::io::Result<Vec<u8>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.anchor.clone()).unwrap();
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let tls = within("a handshake", connector.connect(name, stream)).await?;
        let (mut read, mut write) = tokio::io::split(tls);
        let send = async {
            write.write_all(bytes).await?;
            write.shutdown().await
        };
        let mut answer = Vec::new();
        let (sent, received) = tokio::join!(send, read.read_to_end(&mut answer));
        sent.and(received).map(|_| answer)
    }
}

fn tls_route(name: &str, hostname: &str, backend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: core, kind: Service, name: catalog}}]
  hostnames: ['{hostname}']
  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]
---
"
    )
}

#[tokio::test]
async fn a_tls_connection_goes_where_its_server_name_says_and_nobody_reads_it_on_the_way() {
    let routes = tls_route("one", "one.example", "catalog")
        + &tls_route("rest", "*.two.example", "other")
        + &service("other", "");
    let client = Client::start("", 1, &routes, &[]).await;
    let other = pod("other-0", "other", client.mesh.ip(30));
    client.mesh.write("other.yaml", &other);
    let origins = Origins::new();
    let _one = origins.serve(client.at(10), "one.example").await;
    let _two = origins.serve(client.at(30), "a.two.example").await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    for name in ["one.example", "a.two.example"] {
        let server = ServerName::try_from(name).unwrap();
        let stream = client.connect(9000).await;
        let answer = origins.ask(stream, server, &bytes).await.unwrap();
        let (said, echoed) = answer.split_at(name.len());
        assert_eq!(String::from_utf8_lossy(said), name);
        assert!(echoed == bytes, "{} bytes", echoed.len());
    }
    for (route, count) in [("one", 1.0), ("rest", 1.0)] {
        let labels = [
            &*format!("route_name=\"{route}\""),
            r#"route_kind="TLSRoute""#,
        ];
        assert_metric(&client, "outbound_tls_route_open_total", &labels, count).await;
    }

    // What no route names, and what names nothing, is closed before a byte reaches an endpoint.
    let address = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    for server in [ServerName::try_from("three.example").unwrap(), address] {
        let stream = client.connect(9000).await;
        let refused = origins.ask(stream, server, b"secret").await;
        assert!(refused.is_err(), "{refused:?}");
    }
    let mut stream = client.connect(9000).await;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"", "no TLS at all");
    assert_metric(&client, "outbound_tls_route_open_total", &[], 2.0).await;
}

fn overriding(name: &str) -> Request<Full<Bytes>> {
    Request::get("/named")
        .header("host", "public.example")
        .header("l5d-dst-override", name)
        .body(Full::default())
        .unwrap()
}

#[tokio::test]
async fn in_ingress_mode_a_request_goes_where_its_header_says_else_where_it_was_going() {
    let variables = [("INGRESS_MODE", "true")];
    let client = Client::start("", 1, "", &variables).await;
    let _catalog = app(client.at(10), |request| {
        assert!(!request.headers().contains_key("l5d-dst-override"));
        status(201)
    })
    .await;
    let _web = origin::echo(client.mesh.origin()).await;
    let send = async |request| one_http1(client.connect(9000).await, request).await;

    let response = send(overriding("web.shop.svc.cluster.local:80"))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let said = text(response).await;
    assert!(said.contains("GET /named"), "{said}");
    assert!(said.contains("host: public.example"), "{said}");
    assert!(
        said.contains("l5d-client-id: web.shop"),
        "mutual TLS: {said}"
    );
    assert!(!said.contains("l5d-dst-override"), "{said}");
    // No port is port 80; the case of names says nothing.
    let response = send(overriding("Web.shop.svc.cluster.local"))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);

    assert_eq!(send(get("/")).await.unwrap().status(), 201);
    let not_a_name = send(overriding("not a name")).await.unwrap();
    assert_eq!(not_a_name.status(), 201, "as if it were not there");

    let address = send(overriding("10.1.2.3:80")).await.unwrap();
    assert_eq!(address.status(), 400);
    // Clients choose the names, so none is looked up in DNS.
    let unknown = send(overriding("far.example:80")).await.unwrap();
    assert_eq!(unknown.status(), 404);
    assert_eq!(why(&unknown), "", "clients of an ingress are told nothing");
}

#[tokio::test]
async fn without_ingress_mode_the_header_is_the_applications_own() {
    let client = Client::start("", 1, "", &[]).await;
    let _catalog = origin::echo(client.at(10)).await;
    let request = overriding("web.shop.svc.cluster.local:80");
    let response = one_http1(client.connect(9000).await, request)
        .await
        .unwrap();
    let said = text(response).await;
    assert!(said.contains("l5d-dst-override: web.shop"), "{said}");
}

/// Answers a request for a tunnel, then sends back what comes through it.
async fn tunnel(address: SocketAddr) -> App {
    let listener = TcpListener::bind(address).await.unwrap();
    App(tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut head).await?;
                }
                assert!(head.starts_with(b"CONNECT far.example:443 HTTP/1.1\r\n"));
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello ").await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    }))
}

#[tokio::test]
async fn a_tunnel_by_connect_passes_and_each_direction_ends_by_itself() {
    let client = Client::start("", 1, "", &[]).await;
    let _plain = tunnel(client.at(10)).await;
    let _meshed = tunnel(client.mesh.origin()).await;
    for port in [9000, 9001] {
        let mut stream = client.connect(port).await;
        stream
            .write_all(b"CONNECT far.example:443 HTTP/1.1\r\nhost: far.example:443\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello ") {
            let read = within("the tunnel", stream.read_buf(&mut answer)).await;
            let seen = String::from_utf8_lossy(&answer).into_owned();
            assert_ne!(read.unwrap(), 0, "port {port}: {seen}");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        answer.clear();
        stream.write_all(b"across").await.unwrap();
        stream.shutdown().await.unwrap();
        within("the end", stream.read_to_end(&mut answer))
            .await
            .unwrap();
        assert_eq!(answer, b"across", "port {port}");
    }
}

#[tokio::test]
async fn a_server_learns_which_workload_asks_whatever_the_application_says_it_is() {
    let mesh = Mesh::start(&server("accessPolicy: all-authenticated")).await;
    let _origin = origin::echo(mesh.origin()).await;
    let listen = SocketAddr::new(mesh.ip(6), 9000);
    let listener = format!("{listen}=web.shop.svc.cluster.local:80");
    let variables = [("OUTBOUND_LISTENERS", &*listener)];
    let _sidecar = mesh.peer("api", 6, &variables).await;
    let mut request = get("/");
    let other = identity("admin").parse().unwrap();
    request.headers_mut().insert("l5d-client-id", other);
    let stream = TcpStream::connect(listen).await.unwrap();
    let response = one_http1(stream, request).await.unwrap();
    assert_eq!(response.status(), 200);
    let said = text(response).await;
    assert!(
        said.contains(&format!("l5d-client-id: {}", identity("api"))),
        "{said}"
    );
    assert!(!said.contains("admin"), "{said}");
    let client = format!("client_id=\"{}\"", identity("api"));
    let served = [r#"direction="inbound""#, r#"tls="true""#, &client];
    assert!((mesh.metric("request_total", &served).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn the_conformance_suite_of_http2_passes_on_an_outbound_listener() {
    let client = Client::start("", 1, "", &[]).await;
    let ports = "ports: [{port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c}]";
    let service = service("catalog", "").replace("ports: [{port: 80, targetPort: 8080}]", ports);
    assert!(service.contains(ports));
    let pod = pod("catalog-0", "catalog", client.mesh.ip(10));
    client.mesh.write("catalog.yaml", &(service + &pod));
    let _origin = origin::echo(client.at(10)).await;
    eventually("the port's protocol", async || {
        let mut send = http2(&client, 9000).await;
        assert_eq!(send.send_request(ask()).await.unwrap().status(), 200);
        let name = "outbound_tcp_protocol_connections_total";
        let known = [r#"protocol="http/2""#];
        (client.mesh.metric(name, &known).await > 0.0).then_some(())
    })
    .await;
    conforms(client.listener(9000)).await;
}

#[tokio::test]
async fn a_few_bytes_and_the_end_of_what_is_sent_reach_the_application() {
    let client = Client::start("", 1, "", &[]).await;
    let listener = TcpListener::bind(client.at(10)).await.unwrap();
    let far = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        stream.write_all(b"PONG").await.unwrap();
        said
    });
    // They could have become a method of HTTP.
    let mut stream = client.connect(9000).await;
    stream.write_all(b"PING").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within("an answer", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, b"PONG");
    assert_eq!(far.await.unwrap(), b"PING");
}
