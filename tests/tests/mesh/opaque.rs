//! Connections that are not HTTP.

use crate::{
    authorization::{authorize, server},
    harness::{Mesh, eventually, identity, within},
    origin,
};
use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

async fn read_all(mut io: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut seen = Vec::new();
    let _ = within("the end of the stream", io.read_to_end(&mut seen)).await;
    seen
}

/// What a mesh peer writes before opaque bytes for a port.
fn transport_header(port: u8) -> BytesMut {
    let mut header = BytesMut::from(&b"transport.l5d.io/v1\r\n\r\n"[..]);
    // { port: int32 = 1 }, a varint of two bytes: 8080 = 0x1f90.
    let message = if port == 80 {
        vec![0x08, 0x90, 0x3f]
    } else {
        vec![0x08, port]
    };
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
    stream.write_all(&transport_header(80)).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(stream).await, b"220 ready");

    let mut stream = connect("evil").await;
    stream.write_all(&transport_header(80)).await.unwrap();
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
    plain.write_all(&transport_header(80)).await.unwrap();
    assert_eq!(read_all(plain).await, b"", "no TLS");
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
