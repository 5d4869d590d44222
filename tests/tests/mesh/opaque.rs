//! Connections that are not HTTP.

use crate::{
    authorization::{authorize, server},
    harness::{Mesh, eventually, identity, within},
    origin,
};
use bytes::{BufMut as _, BytesMut};
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

async fn read_all(mut io: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut seen = Vec::new();
    let _ = within("the end of the stream", io.read_to_end(&mut seen)).await;
    seen
}

/// What a mesh peer writes before opaque bytes for a port, or with `http1` before requests.
fn transport_header(port: u16, http1: bool) -> BytesMut {
    // { port: int32 = 1, session_protocol = 3: { http1 = 1: {} } }
    let mut message = vec![0x08];
    let mut left = port;
    while left > 0x7f {
        message.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    message.push(u8::try_from(left).unwrap());
    if http1 {
        message.extend([0x1a, 2, 0x0a, 0]);
    }
    let mut header = BytesMut::from(&b"transport.l5d.io/v1\r\n\r\n"[..]);
    header.put_u32(u32::try_from(message.len()).unwrap());
    header.put_slice(&message);
    header
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once() {
    let mesh = Mesh::start(&server(
        "accessPolicy: all-unauthenticated, proxyProtocol: opaque",
    ))
    .await;
    let _origin = origin::scripted(mesh.origin(), b"220 ready\r\n", b"bye", b"so long").await;
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    let mut greeting = [0; 11];
    within("the greeting", stream.read_exact(&mut greeting))
        .await
        .unwrap();
    stream.write_all(b"bye").await.unwrap();
    assert_eq!(read_all(stream).await, b"so long");
}

#[tokio::test]
async fn a_denied_connection_closes_without_a_byte() {
    let mesh = Mesh::start(&server("accessPolicy: deny, proxyProtocol: opaque")).await;
    let _origin = origin::scripted(mesh.origin(), b"secret", b"", b"").await;
    let stream = mesh.connect_from(5, mesh.web()).await;
    assert_eq!(read_all(stream).await, b"");
    let denied = mesh
        .metric("inbound_tcp_authz_deny_total", &[r#"srv_name="web-http""#])
        .await;
    assert!((denied - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_half_close_is_passed_on_and_the_answer_comes_back() {
    let mesh = Mesh::start(&server(
        "accessPolicy: all-unauthenticated, proxyProtocol: opaque",
    ))
    .await;
    // The application answers when its client has said everything.
    let _origin = origin::scripted(mesh.origin(), b"", b"never said", b"the answer").await;
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    stream.write_all(b"the question").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(stream).await, b"the answer");
}

#[tokio::test]
async fn a_policy_that_no_longer_allows_a_connection_closes_it() {
    let open = server("accessPolicy: all-unauthenticated, proxyProtocol: opaque");
    let mesh = Mesh::start(&open).await;
    let _origin = origin::scripted(mesh.origin(), b"hello", b"never said", b"").await;
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    let mut greeting = [0; 5];
    within("the greeting", stream.read_exact(&mut greeting))
        .await
        .unwrap();
    mesh.write(
        "policy.yaml",
        &server("accessPolicy: deny, proxyProtocol: opaque"),
    );
    assert_eq!(read_all(stream).await, b"");
    eventually("a counted termination", async || {
        (mesh.metric("inbound_tcp_authz_terminate_total", &[]).await > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_mesh_peer_reaches_an_opaque_port_directly_and_by_that_ports_policy() {
    let clients = format!(
        "MeshTLSAuthentication {{identities: ['{}']}}",
        identity("api")
    );
    let policy =
        server("proxyProtocol: opaque") + &authorize("clients", "Server", "web-http", &clients);
    let mesh = Mesh::start(&policy).await;
    let _origin = origin::scripted(mesh.origin(), b"220 ready", b"never said", b"").await;
    let alpn = Some(&b"transport.l5d.io/v1"[..]);
    let connect = async |account: &str| {
        let client = mesh.client(account);
        mesh.connect_tls_to(mesh.direct(), &client, alpn)
            .await
            .unwrap()
    };
    let mut stream = connect("api").await;
    stream
        .write_all(&transport_header(8080, false))
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(stream).await, b"220 ready");

    let mut stream = connect("evil").await;
    stream
        .write_all(&transport_header(8080, false))
        .await
        .unwrap();
    assert_eq!(read_all(stream).await, b"", "another identity");

    let mut stream = connect("api").await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_all(stream).await, b"", "no header");

    let client = mesh.client("api");
    assert!(
        mesh.connect_tls_to(mesh.direct(), &client, Some(b"h2"))
            .await
            .is_err(),
        "another ALPN"
    );
    let mut plain = mesh.connect_from(5, mesh.direct()).await;
    plain
        .write_all(&transport_header(8080, false))
        .await
        .unwrap();
    assert_eq!(read_all(plain).await, b"", "no TLS");
}

#[tokio::test]
async fn nobody_reaches_the_proxys_own_listeners_by_naming_their_ports() {
    let mut mesh = Mesh::without_proxy(&server("accessPolicy: all-unauthenticated"));
    mesh.start_controller();
    // A listener by which the workload itself calls others, in its own name, and the one that redirection leads to.
    let calls = std::net::SocketAddr::new(mesh.ip(2), 9000);
    let listener = format!("{calls}=web.shop.svc.cluster.local:80");
    mesh.spawn_proxy(&[("OUTBOUND_LISTENERS", &listener)]);
    mesh.ready().await;
    let _origin = origin::echo(mesh.origin()).await;
    let request = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
    let client = mesh.client("api");
    let alpn = Some(&b"transport.l5d.io/v1"[..]);
    let ask = async |port: u16, http1: bool| {
        let mut stream = mesh
            .connect_tls_to(mesh.direct(), &client, alpn)
            .await
            .unwrap();
        let header = transport_header(port, http1);
        stream.write_all(&header).await.unwrap();
        stream.write_all(request).await.unwrap();
        String::from_utf8(read_all(stream).await).unwrap()
    };
    let answer = ask(8080, true).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for port in [9000, 4140, 4143] {
        let answer = ask(port, true).await;
        assert!(answer.starts_with("HTTP/1.1 500"), "{port}: {answer}");
        assert_eq!(ask(port, false).await, "", "{port}: no byte");
    }
    let refused = [r#"error="unexpected""#];
    for (name, want) in [
        ("inbound_http_errors_total", 3.0),
        ("inbound_tcp_errors_total", 3.0),
        ("outbound_http_route_requests_total", 0.0),
    ] {
        let labels = if want > 0.0 { &refused[..] } else { &[] };
        let got = mesh.metric(name, labels).await;
        assert!((got - want).abs() < f64::EPSILON, "{name}: {got}");
    }
}

#[tokio::test]
async fn bytes_that_are_not_http_do_not_get_around_routes() {
    let policy = server("accessPolicy: all-unauthenticated")
        + "---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: only, namespace: shop}
spec:
  parentRefs: [{group: policy.linkerd.io, kind: Server, name: web-http}]
  rules: [{matches: [{path: {type: Exact, value: /allowed}}]}]
";
    let mesh = Mesh::start(&policy).await;
    let _origin = origin::scripted(mesh.origin(), b"secret", b"", b"").await;
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    stream
        .write_all(b"\x00\x01\x02 not HTTP at all\r\n")
        .await
        .unwrap();
    assert_eq!(read_all(stream).await, b"");
    // TLS for somebody else could carry anything.
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    stream
        .write_all(&client_hello("other.example"))
        .await
        .unwrap();
    assert_eq!(read_all(stream).await, b"");
    let refused = [r#"reason="not_http""#];
    let refused = mesh.metric("inbound_policy_denied_total", &refused).await;
    assert!((refused - 2.0).abs() < f64::EPSILON, "{refused}");
}

/// How a TLS client begins that asks for a server of this name.
fn client_hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(tokio_rustls::rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut client = tokio_rustls::rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn tls_for_somebody_else_reaches_the_application_as_it_came() {
    let mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    let hello = client_hello("other.example");
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    // In three parts, of which the first decides nothing.
    for part in [&hello[..3], &hello[3..40], &hello[40..]] {
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
    }
    let (mut application, _) = within("its connection", listener.accept()).await.unwrap();
    let mut seen = vec![0; hello.len()];
    within("the ClientHello", application.read_exact(&mut seen))
        .await
        .unwrap();
    assert!(seen == hello, "not one byte is another");
    let record = [&[22, 3, 3, 0, 4][..], b"any!"].concat();
    application.write_all(&record).await.unwrap();
    stream.shutdown().await.unwrap();
    drop(application);
    assert_eq!(read_all(stream).await, record);
    let foreign = [r#"tls="opaque""#, r#"sni="other.example""#];
    let opened = mesh.metric("tcp_open_total", &foreign).await;
    assert!((opened - 1.0).abs() < f64::EPSILON, "{opened}");
}

#[tokio::test]
async fn routes_that_come_later_end_the_bytes_that_would_get_around_them() {
    let mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let _origin = origin::scripted(mesh.origin(), b"", b"never said", b"").await;
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    stream
        .write_all(b"\x00\x01\x02 not HTTP at all\r\n")
        .await
        .unwrap();
    eventually("an open connection", async || {
        (mesh
            .metric("tcp_open_connections", &[r#"peer="src""#])
            .await
            > 0.0)
            .then_some(())
    })
    .await;
    let limit = "---
apiVersion: policy.linkerd.io/v1alpha1
kind: HTTPLocalRateLimitPolicy
metadata: {name: slow, namespace: shop}
spec: {targetRef: {group: policy.linkerd.io, kind: Server, name: web-http}, total: {requestsPerSecond: 1}}
";
    let limited = server("accessPolicy: all-unauthenticated") + limit;
    mesh.write("policy.yaml", &limited);
    assert_eq!(read_all(stream).await, b"");
    eventually("a counted termination", async || {
        (mesh.metric("inbound_tcp_authz_terminate_total", &[]).await > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn hostile_bytes_leave_every_listener_alive() {
    let mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |length: usize| -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        for _ in 0..length {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.push(seed.to_le_bytes()[0]);
        }
        bytes
    };
    for round in 0..60 {
        let begin: &[u8] = match round % 4 {
            0 => b"\x16\x03\x01\x02\x00\x01",
            1 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            2 => b"GET / HTTP/1.1\r\n",
            _ => b"",
        };
        let bytes = [begin, &random(1 + round * 37)].concat();
        for address in [mesh.web(), mesh.direct(), mesh.admin()] {
            let mut stream = mesh.connect_from(6, address).await;
            let _ = stream.write_all(&bytes).await;
        }
    }
    assert_eq!(mesh.get_admin("/live").await.unwrap().0, 200);
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(
        mesh.send_plain(5, crate::harness::get("/")).await.status(),
        200
    );
}
