//! Clients that are slow, silent or many, each held to a limit, and what they share behind it.

use crate::{
    authorization::server,
    harness::{Mesh, eventually, get, identity, one_http1, within},
    hostile::client_hello,
    messages::Controller,
    origin,
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use linkerd_policy::{
    proto,
    server::{
        Authentication, Authorization, Filter, HeaderModifier, HttpMatch, HttpPolicy, HttpRoute,
        HttpRule, Meta, NetworkMatch, PathMatch, Protocol, ServerPolicy,
    },
};
use linkerd2_proxy_api::inbound::Server;
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

async fn rest(mut io: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut seen = Vec::new();
    let _ = within("the end of the stream", io.read_to_end(&mut seen)).await;
    seen
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

/// Open to everybody, with detection for this long.
fn detecting(timeout: Duration, routes: Vec<HttpRoute>) -> Server {
    let http = HttpPolicy {
        routes,
        rate_limit: None,
    };
    proto::server_to_api(&ServerPolicy {
        meta: Meta::resource("policy.linkerd.io", "server", "web-http"),
        protocol: Protocol::Detect { timeout, http },
        authorizations: vec![everybody()],
    })
}

#[tokio::test]
async fn one_deadline_decides_silence_is_not_tls_and_half_a_client_hello_is_refused() {
    let policy = detecting(Duration::from_millis(300), Vec::new());
    let controller = Controller::start(policy).await;
    // Of two limits the policy's is the one that counts.
    let mesh = controller.mesh(&[("INBOUND_DETECT_TIMEOUT", "10m")]).await;
    let _origin = origin::scripted(mesh.origin(), b"220 ready", b"bye", b"").await;

    let mut silent = mesh.connect_from(5, mesh.web()).await;
    let mut greeting = [0; 9];
    within("the greeting", silent.read_exact(&mut greeting))
        .await
        .unwrap();
    assert_eq!(&greeting, b"220 ready");

    // What has begun as HTTP and goes on otherwise is carried whole.
    let mut half = mesh.connect_from(5, mesh.web()).await;
    half.write_all(b"GET").await.unwrap();
    within("the greeting", half.read_exact(&mut greeting))
        .await
        .unwrap();
    half.write_all(b"bye").await.unwrap();
    assert_eq!(rest(half).await, b"");

    let hello = client_hello(&mesh).await;
    let mut begun = mesh.connect_from(5, mesh.web()).await;
    begun.write_all(hello.get(..100).unwrap()).await.unwrap();
    assert_eq!(rest(begun).await, b"", "not a byte of the application");
    let label = [r#"error="tls detection timeout""#];
    eventually("its count", async || {
        let count = mesh.metric("inbound_tcp_errors_total", &label).await;
        (count > 0.0).then_some(())
    })
    .await;
}

/// How often a limit was reached.
async fn refused(mesh: &Mesh, limit: &str) -> f64 {
    let label = format!(r#"limit="{limit}""#);
    mesh.metric("inbound_connections_refused_total", &[&label])
        .await
}

#[tokio::test]
async fn a_handshake_that_stops_half_way_ends() {
    let variables = [("INBOUND_TLS_HANDSHAKE_TIMEOUT", "200ms")];
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let hello = client_hello(&mesh).await;
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    stream.write_all(&hello).await.unwrap();
    let answer = rest(stream).await;
    assert_eq!(answer.first(), Some(&0x16), "the server's half came");
    eventually("its count", async || {
        let family = "inbound_tls_handshake_failures_total";
        let late = [r#"reason="handshake_timeout""#];
        (mesh.metric(family, &late).await > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_head_that_comes_a_byte_at_a_time_ends() {
    let variables = [("INBOUND_HTTP_HEADER_READ_TIMEOUT", "300ms")];
    let policy = server("accessPolicy: all-unauthenticated, proxyProtocol: HTTP/1");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let stream = mesh.connect_from(5, mesh.web()).await;
    let (read, mut write) = stream.into_split();
    let dripping = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        write.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        while write.write_all(b"a").await.is_ok() {
            every.tick().await;
        }
    });
    assert_eq!(rest(read).await, b"");
    within("the client's end", dripping).await.unwrap();
    assert!(refused(&mesh, "header_timeout").await > 0.0);
}

/// A connection to the application, with the request that came over it.
async fn asked(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = within("a request", listener.accept()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("its head", stream.read_u8()).await.unwrap());
    }
    stream
}

#[tokio::test]
async fn an_idle_connection_ends_and_a_busy_one_does_not() {
    let variables = [("INBOUND_HTTP_IDLE_TIMEOUT", "300ms")];
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    let mut busy = mesh.connect_from(5, mesh.web()).await;
    busy.write_all(request).await.unwrap();
    let mut first = asked(&listener).await;
    let mut idle = mesh.connect_from(5, mesh.web()).await;
    idle.write_all(request).await.unwrap();
    let mut second = asked(&listener).await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    second.write_all(answer).await.unwrap();
    // Ends by itself, after its answer.
    let said = rest(idle).await;
    assert!(said.starts_with(b"HTTP/1.1 200"), "{said:?}");
    assert!(refused(&mesh, "idle_timeout").await > 0.0);
    // The other has waited for longer.
    first.write_all(answer).await.unwrap();
    let said = rest(busy).await;
    assert!(said.starts_with(b"HTTP/1.1 200"), "{said:?}");
}

#[tokio::test]
async fn an_http2_connection_that_is_idle_but_for_pings_stays() {
    let variables = [("INBOUND_HTTP_HEADER_READ_TIMEOUT", "200ms")];
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let _origin = origin::echo(mesh.origin()).await;
    let stream = mesh.connect_from(5, mesh.web()).await;
    let (mut send, mut connection) = h2::client::handshake(stream).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    tokio::spawn(connection);
    let mut ask = async || {
        let request = Request::get("http://web/").body(()).unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        let response = within("an answer", response).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        while let Some(bytes) = body.data().await {
            // What gives the window back comes after the answer.
            body.flow_control()
                .release_capacity(bytes.unwrap().len())
                .unwrap();
        }
    };
    ask().await;
    // Far longer than a head may take.
    let mut every = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..20 {
        every.tick().await;
        within("a pong", pings.ping(h2::Ping::opaque()))
            .await
            .unwrap();
    }
    ask().await;
    assert!(refused(&mesh, "header_timeout").await < 1.0);
}

#[tokio::test]
async fn an_http2_connection_without_a_request_is_told_to_go() {
    let variables = [("INBOUND_HTTP_HEADER_READ_TIMEOUT", "200ms")];
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let stream = mesh.connect_from(5, mesh.web()).await;
    let (_send, connection) = h2::client::handshake(stream).await.unwrap();
    // GOAWAY without an error: the connection ends well.
    within("the end", connection).await.unwrap();
    assert!(refused(&mesh, "header_timeout").await > 0.0);
}

#[tokio::test]
async fn more_connections_than_may_be_are_closed_and_a_free_place_is_used_again() {
    let variables = [("INBOUND_MAX_CONNECTIONS", "2")];
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let _origin = origin::echo(mesh.origin()).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = mesh.connect_from(5, mesh.web()).await;
        let request = b"GET / HTTP/1.1\r\nhost: web\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut first = [0; 12];
        within("an answer", stream.read_exact(&mut first))
            .await
            .unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        held.push(stream);
    }
    let third = mesh.connect_from(5, mesh.web()).await;
    assert_eq!(rest(third).await, b"");
    assert!((refused(&mesh, "connections").await - 1.0).abs() < f64::EPSILON);
    held.pop();
    eventually("a free place", async || {
        let stream = mesh.connect_from(5, mesh.web()).await;
        let response = one_http1(stream, get("/")).await.ok()?;
        (response.status() == 200).then_some(())
    })
    .await;
}

/// Counts connections, and passes each on to an application.
async fn counted(mesh: &Mesh, application: std::net::SocketAddr) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counts = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counts.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut onward = TcpStream::connect(application).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
            });
        }
    });
    count
}

#[tokio::test]
async fn many_clients_share_one_connection_to_the_application() {
    let mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let application = std::net::SocketAddr::new(mesh.ip(20), 8080);
    let _origin = origin::echo(application).await;
    let count = counted(&mesh, application).await;
    for client in 0..12 {
        let client = mesh.client(&format!("client-{client}"));
        let mut request = get("/");
        let name = format!("name-{}", client.id()).parse().unwrap();
        request.headers_mut().insert("host", name);
        let response = mesh.send(&client, request).await;
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

fn route(path: &str, filters: Vec<Filter>) -> HttpRoute {
    HttpRoute {
        meta: Meta::resource("policy.linkerd.io", "HTTPRoute", "only"),
        hosts: Vec::new(),
        authorizations: Vec::new(),
        rules: vec![HttpRule {
            matches: vec![HttpMatch {
                path: Some(PathMatch::Prefix(path.into())),
                ..HttpMatch::default()
            }],
            filters,
        }],
    }
}

#[tokio::test]
async fn http_in_opaque_bytes_of_a_direct_connection_goes_through_the_routes() {
    let policy = detecting(Duration::from_secs(10), vec![route("/allowed", Vec::new())]);
    let controller = Controller::start(policy).await;
    let mesh = controller.mesh(&[]).await;
    let _origin = origin::echo(mesh.origin()).await;
    for (path, status) in [("/allowed", 200), ("/secret", 404)] {
        let alpn = Some(&b"transport.l5d.io/v1"[..]);
        let client = mesh.client("api");
        let mut stream = mesh
            .connect_tls_to(mesh.direct(), &client, alpn)
            .await
            .unwrap();
        // { port: 8080 }, and no session protocol.
        let header = b"transport.l5d.io/v1\r\n\r\n\0\0\0\x03\x08\x90\x3f";
        stream.write_all(header).await.unwrap();
        let response = one_http1(stream, get(path)).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
}

#[tokio::test]
async fn a_filter_of_headers_cannot_say_who_the_client_is() {
    let forged = HeaderModifier {
        set: vec![
            ("l5d-client-id".parse().unwrap(), "admin".parse().unwrap()),
            ("x-set".parse().unwrap(), "set".parse().unwrap()),
        ],
        ..HeaderModifier::default()
    };
    let filters = vec![Filter::RequestHeaders(forged)];
    let policy = detecting(Duration::from_secs(10), vec![route("/", filters)]);
    let controller = Controller::start(policy).await;
    let mesh = controller.mesh(&[]).await;
    let _origin = origin::echo(mesh.origin()).await;
    let said = async |response: http::Response<hyper::body::Incoming>| {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8_lossy(&body).into_owned()
    };
    let text = said(mesh.send(&mesh.client("api"), get("/")).await).await;
    assert!(text.contains("x-set: set"), "{text}");
    assert!(
        text.contains(&format!("l5d-client-id: {}", identity("api"))) && !text.contains("admin"),
        "{text}"
    );
    let text = said(mesh.send_plain(5, get("/")).await).await;
    assert!(
        text.contains("x-set: set") && !text.contains("l5d-client-id"),
        "{text}"
    );
}

#[tokio::test]
async fn a_sidecar_whose_certificate_has_expired_says_so_until_it_has_a_new_one() {
    let mut mesh = Mesh::without_proxy(&server("accessPolicy: all-unauthenticated"));
    mesh.config.issuance_lifetime = Duration::from_secs(2);
    mesh.config.clock_skew = Duration::ZERO;
    mesh.start_controller();
    mesh.spawn_proxy(&[("IDENTITY_MIN_REFRESH", "1s")]);
    mesh.ready().await;
    mesh.stop_controller();
    eventually("the certificate's end", async || {
        let answer = mesh.get_admin("/ready").await?;
        (answer == (503, "not ready\n".to_owned())).then_some(())
    })
    .await;
    // It is alive: nobody should restart it for this.
    assert_eq!(mesh.get_admin("/live").await.unwrap().0, 200);
    eventually("a call that failed, counted", async || {
        let failed = [r#"result="error""#];
        let family = "control_identity_cert_refreshes_total";
        (mesh.metric(family, &failed).await > 0.0).then_some(())
    })
    .await;
    mesh.start_controller();
    mesh.ready().await;
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up_in_either_direction_and_version() {
    let variables = [("INBOUND_HTTP_BODY_IDLE_TIMEOUT", "300ms")];
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let origin = origin::echo(mesh.origin()).await;
    // The client's: it sends a part and no more.
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    let part = b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\nabc";
    stream.write_all(part).await.unwrap();
    let answer = rest(stream).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    let io = TokioIo::new(mesh.connect_from(5, mesh.web()).await);
    let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let part =
        futures::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"abc")))]);
    let body = StreamBody::new(futures::StreamExt::chain(part, futures::stream::pending()));
    let request = Request::post("http://web/").body(body).unwrap();
    let response = within("an answer", send.send_request(request)).await;
    assert_eq!(response.unwrap().status(), 408);
    assert!((stalled(&mesh).await - 2.0).abs() < f64::EPSILON);
    origin.stop().await;
    // The application's.
    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    let stream = mesh.connect_from(5, mesh.web()).await;
    let asking = tokio::spawn(one_http1(stream, get("/")));
    let (mut silent, _) = within("its connection", listener.accept()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("its head", silent.read_u8()).await.unwrap());
    }
    let part = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    silent.write_all(part).await.unwrap();
    let response = asking.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let cut = within("the end of its body", response.into_body().collect()).await;
    assert!(cut.is_err(), "a part is not taken for all");
    assert!((stalled(&mesh).await - 3.0).abs() < f64::EPSILON);
    let broken = [r#"classification="failure""#, r#"error="timeout""#];
    assert!((mesh.metric("response_total", &broken).await - 1.0).abs() < f64::EPSILON);
}

async fn stalled(mesh: &Mesh) -> f64 {
    let limit = [r#"limit="body_idle_timeout""#];
    mesh.metric("inbound_http_requests_refused_total", &limit)
        .await
}
