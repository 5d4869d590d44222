//! Hostile bytes on every listener: whatever is sent, the sidecar goes on serving, lets go of the connection, and needs
//! no more memory for it.

use crate::{
    authorization::server,
    harness::{Mesh, eventually, get, within},
    origin,
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much more memory than before is still none: what the allocator keeps, in a debug build.
const SLACK: u64 = 24 << 20;
/// How much an attack sends at most.
const FLOOD: usize = 12 << 20;

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }

    /// Something valid, broken in a few places.
    fn broken(&mut self, valid: &[u8]) -> Vec<u8> {
        let mut bytes = valid.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.extend(vec![self.byte(); 2000]),
                2 => {
                    let noise = self.bytes(8);
                    bytes.splice(at..at, noise);
                }
                3 => {
                    let again = bytes.get(at..).unwrap_or_default().to_vec();
                    bytes.extend(again);
                }
                // A length that is as large as can be, wherever it is.
                4 => {
                    let end = (at + 3).min(bytes.len());
                    bytes.get_mut(at..end).unwrap_or_default().fill(0xff);
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << (at % 8);
                    }
                }
            }
        }
        bytes
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![a, b, c, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// From HPACK's static table: GET, http, /; and the authority `web`.
const HEAD: &[u8] = b"\x82\x86\x84\x41\x03web";

fn http2_request(stream: u32) -> Vec<u8> {
    frame(1, 5, stream, HEAD)
}

/// What a client of the mesh says first.
pub(crate) async fn client_hello(mesh: &Mesh) -> Vec<u8> {
    let listener = TcpListener::bind((mesh.ip(9), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let identity = mesh.client("api");
    let (mut stream, hello) = tokio::join!(
        async { listener.accept().await.unwrap().0 },
        tokio::time::timeout(
            Duration::from_millis(200),
            mesh.connect_tls_to(address, &identity, Some(b"transport.l5d.io/v1"))
        ),
    );
    assert!(hello.is_err(), "nobody answers");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// The sidecar with an application, limits that are over soon, and every kind of listener.
async fn world() -> (Mesh, origin::Origin, [SocketAddr; 5]) {
    let mut mesh = Mesh::without_proxy(&server("accessPolicy: all-unauthenticated"));
    mesh.start_controller();
    let explicit = SocketAddr::new(mesh.ip(2), 9000);
    mesh.spawn_proxy(&[
        ("INBOUND_DETECT_TIMEOUT", "1s"),
        ("INBOUND_TLS_HANDSHAKE_TIMEOUT", "1s"),
        ("INBOUND_HTTP_HEADER_READ_TIMEOUT", "1s"),
        ("INBOUND_HTTP_IDLE_TIMEOUT", "2s"),
        ("INBOUND_HTTP_BODY_IDLE_TIMEOUT", "2s"),
        ("INBOUND_TCP_IDLE_TIMEOUT", "2s"),
        ("OUTBOUND_DETECT_TIMEOUT", "1s"),
        ("OUTBOUND_HTTP_HEADER_READ_TIMEOUT", "1s"),
        ("OUTBOUND_HTTP_IDLE_TIMEOUT", "2s"),
        (
            "OUTBOUND_LISTENERS",
            &format!("{explicit}=web.shop.svc.cluster.local:80"),
        ),
        ("LOG", "error"),
    ]);
    mesh.ready().await;
    let origin = origin::echo(mesh.origin()).await;
    let outbound = SocketAddr::new(mesh.ip(2), 4140);
    let listeners = [mesh.web(), mesh.direct(), mesh.admin(), outbound, explicit];
    (mesh, origin, listeners)
}

/// Sends the bytes, says that that was all, and waits until the sidecar has let go.
async fn throw(mut io: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) {
    let _ = io.write_all(bytes).await;
    let _ = io.shutdown().await;
    let mut sink = vec![0; 4096];
    while matches!(io.read(&mut sink).await, Ok(1..)) {}
}

/// It serves, and has not grown.
async fn is_well(mesh: &Mesh, before: u64, after: &str) {
    assert_eq!(mesh.get_admin("/live").await.unwrap().0, 200, "{after}");
    let status = mesh.send_plain(5, get("/")).await.status();
    assert_eq!(status, 200, "{after}");
    let status = mesh.send(&mesh.client("api"), get("/")).await.status();
    assert_eq!(status, 200, "{after}, over mesh TLS");
    let grown = mesh.memory().saturating_sub(before);
    assert!(grown < SLACK, "{after}: {} KiB more", grown >> 10);
    assert!(!mesh.said().contains("panicked"), "{after}");
}

#[tokio::test]
async fn whatever_is_sent_to_any_listener_it_lets_go_and_goes_on_serving() {
    let (mesh, _origin, listeners) = world().await;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let valid = [
        client_hello(&mesh).await,
        b"POST /a HTTP/1.1\r\nhost: web\r\nl5d-dst-override: web:80\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_vec(),
        [PREFACE, &frame(4, 0, 0, &[]), &http2_request(1), &frame(8, 0, 0, &[0, 0, 0, 9])].concat(),
        [PREFACE, &frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]), &http2_request(1), &frame(3, 0, 1, &[0, 0, 0, 8])].concat(),
        b"transport.l5d.io/v1\r\n\r\n\0\0\0\x03\x08\x90\x3f".to_vec(),
        Vec::new(),
    ];
    is_well(&mesh, u64::MAX, "before").await;
    let before = mesh.memory();
    for round in 0..60 {
        let mut thrown = tokio::task::JoinSet::new();
        for valid in &valid {
            let bytes = if valid.is_empty() {
                let length = random.below(3000);
                random.bytes(length)
            } else {
                random.broken(valid)
            };
            for address in listeners {
                let stream = mesh.connect_from(6, address).await;
                let bytes = bytes.clone();
                thrown.spawn(async move { throw(stream, &bytes).await });
            }
        }
        within(&format!("the end of round {round}"), thrown.join_all()).await;
    }
    is_well(&mesh, before, "after all of it").await;
}

#[tokio::test]
async fn whatever_comes_inside_mesh_tls_it_lets_go_and_goes_on_serving() {
    let (mesh, _origin, _) = world().await;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let header = b"transport.l5d.io/v1\r\n\r\n\0\0\0\x03\x08\x90\x3f";
    let carried = b"transport.l5d.io/v1\r\n\r\n\0\0\0\x07\x08\x90\x3f\x1a\x02\x12\0";
    let request = b"GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    let http2 = [PREFACE, &frame(4, 0, 0, &[]), &http2_request(1)].concat();
    let direct = [
        [&header[..], request].concat(),
        [&carried[..], &http2].concat(),
    ];
    let client = mesh.client("api");
    is_well(&mesh, u64::MAX, "before").await;
    let before = mesh.memory();
    for round in 0..40 {
        let mut thrown = tokio::task::JoinSet::new();
        for (valid, to, alpn) in [
            (&direct[0], mesh.direct(), Some(&b"transport.l5d.io/v1"[..])),
            (&direct[1], mesh.direct(), Some(&b"transport.l5d.io/v1"[..])),
            (&request.to_vec(), mesh.web(), None),
            (&http2, mesh.web(), None),
        ] {
            let bytes = random.broken(valid);
            let stream = mesh.connect_tls_to(to, &client, alpn).await.unwrap();
            thrown.spawn(async move { throw(stream, &bytes).await });
        }
        within(&format!("the end of round {round}"), thrown.join_all()).await;
    }
    is_well(&mesh, before, "after all of it").await;
}

#[tokio::test]
async fn the_control_plane_lets_go_of_hostile_clients_and_goes_on() {
    let (mesh, _origin, _) = world().await;
    let mut random = Random(0x1234_5678_9abc_def1);
    let call = [PREFACE, &frame(4, 0, 0, &[]), &http2_request(1)].concat();
    // A POST to a gRPC method whose message claims to be as long as can be.
    let path = b"/io.linkerd.proxy.identity.Identity/Certify";
    let mut head = b"\x83\x86\x41\x03web\x04".to_vec();
    head.push(u8::try_from(path.len()).unwrap());
    head.extend(path);
    head.extend(b"\x5f\x10application/grpc");
    let certify = [
        PREFACE,
        &frame(4, 0, 0, &[]),
        &frame(1, 4, 1, &head),
        &frame(0, 0, 1, b"\0\xff\xff\xff\xffgarbage"),
    ]
    .concat();
    let get = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
    let valid = [client_hello(&mesh).await, call, certify, get];
    let config = &mesh.config;
    let listeners = [
        config.policy_addr,
        config.destination_addr,
        config.identity_addr,
        config.admin_addr,
    ];
    for round in 0..40 {
        let mut thrown = tokio::task::JoinSet::new();
        for valid in &valid {
            let bytes = random.broken(valid);
            for address in listeners {
                let stream = TcpStream::connect(address).await.unwrap();
                let bytes = bytes.clone();
                thrown.spawn(async move { throw(stream, &bytes).await });
            }
        }
        within(&format!("the end of round {round}"), thrown.join_all()).await;
    }
    // It certifies and says what is allowed.
    let _peer = mesh.peer("catalog", 12, &[]).await;
    mesh.write("policy.yaml", &server("accessPolicy: deny"));
    eventually("the new policy", async || {
        let status = mesh.send_plain(5, crate::harness::get("/")).await.status();
        (status == 403).then_some(())
    })
    .await;
}

/// Sends `begin` and then `again` over and over, and reads nothing. Tells how much was sent until the sidecar had
/// enough; the connection is still there then.
async fn flood(stream: &mut TcpStream, begin: &[u8], mut again: impl FnMut() -> Vec<u8>) -> usize {
    let mut sent = 0;
    if stream.write_all(begin).await.is_err() {
        return sent;
    }
    while sent < FLOOD {
        let mut bytes = Vec::with_capacity(1 << 16);
        while bytes.len() < 1 << 16 {
            bytes.extend(again());
        }
        // A sidecar that does not read on, because nobody reads its answers, has had enough as well.
        let write = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&bytes));
        if !matches!(write.await, Ok(Ok(()))) {
            break;
        }
        sent += bytes.len();
    }
    sent
}

/// Attacks that a proxy may have to buffer for: what they begin with, and what follows without end.
type Attack = (&'static str, Vec<u8>, Box<dyn FnMut() -> Vec<u8>>);

fn always(bytes: &[u8]) -> Box<dyn FnMut() -> Vec<u8>> {
    let bytes = bytes.to_vec();
    Box::new(move || bytes.clone())
}

fn attacks() -> Vec<Attack> {
    let http2 = |more: &[u8]| [PREFACE, &frame(4, 0, 0, &[]), more].concat();
    let mut stream = 1;
    let reset = move || {
        stream += 2;
        [http2_request(stream), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
    };
    let mut other = 1;
    let many = move || {
        other += 2;
        frame(1, 4, other, HEAD)
    };
    let chunked = b"POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n";
    let in_extension = [&chunked[..], b"5;"].concat();
    let in_trailers = [&chunked[..], b"0\r\n"].concat();
    vec![
        (
            "a request line without end",
            b"GET /".to_vec(),
            always(&[b'a'; 1024]),
        ),
        (
            "headers without end",
            b"GET / HTTP/1.1\r\n".to_vec(),
            always(b"a: b\r\n"),
        ),
        (
            "a header without end",
            b"GET / HTTP/1.1\r\nx: ".to_vec(),
            always(&[b'a'; 1024]),
        ),
        (
            "a chunk's extension without end",
            in_extension,
            always(&[b'a'; 1024]),
        ),
        ("trailers without end", in_trailers, always(b"a: b\r\n")),
        (
            "a ClientHello without end",
            b"\x16\x03\x01\xff\xff\x01\0\xff\xff\x03\x03".to_vec(),
            always(&[0; 1024]),
        ),
        (
            "a header block without end",
            http2(&frame(1, 0, 1, HEAD)),
            always(&frame(9, 0, 1, &[0x10, 1, b'a', 1, b'b'])),
        ),
        (
            "a header block of nothing without end",
            http2(&frame(1, 0, 1, HEAD)),
            always(&frame(9, 0, 1, b"")),
        ),
        ("pings", http2(b""), always(&frame(6, 0, 0, &[1; 8]))),
        (
            "settings",
            http2(b""),
            always(&frame(4, 0, 0, &[0, 3, 0, 0, 0, 1])),
        ),
        (
            "empty data",
            http2(&frame(1, 4, 1, HEAD)),
            always(&frame(0, 0, 1, b"")),
        ),
        (
            "streams that are reset at once",
            http2(b""),
            Box::new(reset),
        ),
        ("streams without end", http2(b""), Box::new(many)),
        (
            "priorities",
            http2(b""),
            always(&frame(2, 0, 3, &[0, 0, 0, 1, 16])),
        ),
        (
            "windows",
            http2(&frame(1, 4, 1, HEAD)),
            always(&frame(8, 0, 1, &[0, 0, 0, 1])),
        ),
    ]
}

#[tokio::test]
async fn floods_that_a_proxy_could_buffer_cost_no_memory() {
    let (mesh, _origin, _) = world().await;
    is_well(&mesh, u64::MAX, "before").await;
    let before = mesh.memory();
    for address in [mesh.web(), SocketAddr::new(mesh.ip(2), 9000)] {
        for (name, begin, again) in attacks() {
            let mut stream = mesh.connect_from(6, address).await;
            let sent = within(name, flood(&mut stream, &begin, again)).await;
            let what = format!("{name} to {address}, {} KiB", sent >> 10);
            is_well(&mesh, before, &what).await;
        }
    }
}
