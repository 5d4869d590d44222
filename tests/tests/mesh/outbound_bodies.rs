//! Bodies and byte streams of any size through a client's and a server's sidecar: nothing is lost or changed, whoever
//! reads slowly is waited for, and nobody keeps in memory what is waited with.

use crate::{
    authorization::server,
    harness::{LIMIT, Mesh, Sidecar, eventually, identity, within},
    outbound::{App, Client, route},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    hash::{DefaultHasher, Hasher as _},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

const MIB: u64 = 1024 * 1024;
/// What lies in sockets, windows and buffers on the way, at most: six sockets with the kernel's buffers, two windows.
const UNDERWAY: u64 = 48 * MIB;

/// An application whose answers are bodies of any kind.
pub(crate) async fn app<F>(
    address: SocketAddr,
    answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
) -> App
where
    F: Future<Output = Response<BoxBody<Bytes, Infallible>>> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let answer = Arc::new(answer);
    App(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }))
}

/// A body that is made as it is asked for, and counts what was.
struct Pattern {
    left: u64,
    made: Arc<AtomicU64>,
    chunk: Bytes,
    trailers: Option<HeaderMap>,
}

impl Pattern {
    fn new(size: u64, made: &Arc<AtomicU64>) -> Self {
        Self {
            left: size,
            made: made.clone(),
            chunk: chunk(),
            trailers: None,
        }
    }
}

/// Bytes that differ from place to place, with a length that fits no buffer.
fn chunk() -> Bytes {
    (0..65_537u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// The hash of a [`Pattern`] of this size.
fn hash_of(size: u64) -> u64 {
    let (mut hash, chunk, mut left) = (DefaultHasher::new(), chunk(), size);
    while left > 0 {
        let part = usize::try_from(left.min(chunk.len() as u64)).unwrap();
        hash.write(&chunk.slice(..part));
        left -= part as u64;
    }
    hash.finish()
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(self.trailers.take().map(|map| Ok(Frame::trailers(map))));
        }
        let part = usize::try_from(self.left.min(self.chunk.len() as u64)).unwrap();
        self.left -= part as u64;
        self.made.fetch_add(part as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.chunk.slice(..part)))))
    }
}

/// Reads a body to its end: size, hash, trailers.
async fn drain<B>(mut body: B) -> (u64, u64, HeaderMap)
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    let (mut size, mut hash, mut trailers) = (0, DefaultHasher::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => {
                size += data.len() as u64;
                hash.write(&data);
            }
            Err(frame) => trailers = frame.into_trailers().unwrap(),
        }
    }
    (size, hash.finish(), trailers)
}

/// Waits until nothing more is made, since nobody reads.
async fn stands_still(made: &AtomicU64) -> u64 {
    let (mut before, mut times) = (u64::MAX, 0);
    eventually("a body that waits", async || {
        let now = made.load(Ordering::Relaxed);
        times = if now == before && now > 0 {
            times + 1
        } else {
            0
        };
        before = now;
        (times == 20).then_some(now)
    })
    .await
}

async fn send<B>(client: &Client, http2: bool, request: Request<B>) -> Response<Incoming>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = client.connect(9001).await;
    stream.set_nodelay(true).unwrap();
    let io = TokioIo::new(stream);
    if http2 {
        let (mut send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
        tokio::spawn(connection);
        return within("an answer", send.send_request(request))
            .await
            .unwrap();
    }
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    within("an answer", send.send_request(request))
        .await
        .unwrap()
}

fn request<B>(method: &str, http2: bool, body: B) -> Request<B> {
    let request = Request::builder().method(method);
    let request = if http2 {
        request.uri("http://web.shop/")
    } else {
        request.uri("/").header("host", "web.shop")
    };
    request.body(body).unwrap()
}

async fn a_slow_reader(http2: bool) {
    const SIZE: u64 = 256 * MIB;
    let client = Client::start("", 0, "", &[]).await;
    let made = Arc::new(AtomicU64::new(0));
    let counted = made.clone();
    let _app = app(client.mesh.origin(), move |request| {
        let is_small = request.method() == http::Method::PUT;
        let body = Pattern::new(if is_small { 1 } else { SIZE }, &counted);
        async move { Response::new(BoxBody::new(body)) }
    })
    .await;
    // Warm: what every connection costs is no part of it.
    let small = request("PUT", http2, http_body_util::Empty::new());
    drop(send(&client, http2, small).await);
    made.store(0, Ordering::Relaxed);
    let before = client.mesh.memory();
    let response = send(
        &client,
        http2,
        request("GET", http2, http_body_util::Empty::new()),
    )
    .await;
    let underway = stands_still(&made).await;
    assert!(underway > 0 && underway < UNDERWAY, "{underway} made");
    let grown = client.mesh.memory().saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes while nobody reads");

    let reading = tokio::time::timeout(LIMIT * 4, drain(response.into_body()));
    let (size, hash, _) = reading.await.unwrap();
    assert_eq!((size, hash), (SIZE, hash_of(SIZE)));
    let grown = client.mesh.memory().saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes after all");
}

#[tokio::test]
async fn a_slow_reader_of_a_large_body_costs_no_memory_over_http1() {
    a_slow_reader(false).await;
}

#[tokio::test]
async fn a_slow_reader_of_a_large_body_costs_no_memory_over_http2() {
    a_slow_reader(true).await;
}

#[tokio::test]
async fn an_upload_waits_for_an_application_that_reads_slowly() {
    const SIZE: u64 = 96 * MIB;
    let client = Client::start("", 0, "", &[]).await;
    let (go, gone) = watch::channel(false);
    let _app = app(client.mesh.origin(), move |request: Request<Incoming>| {
        let mut gone = gone.clone();
        async move {
            gone.wait_for(|go| *go).await.unwrap();
            let (size, hash, _) = drain(request.into_body()).await;
            Response::new(BoxBody::new(format!("{size} {hash}")))
        }
    })
    .await;
    for http2 in [false, true] {
        go.send_replace(false);
        let made = Arc::new(AtomicU64::new(0));
        let before = client.mesh.memory();
        let upload = request("POST", http2, Pattern::new(SIZE, &made));
        let sending = send(&client, http2, upload);
        let slowly = async {
            let underway = stands_still(&made).await;
            assert!(underway > 0 && underway < UNDERWAY, "{underway} made");
            let grown = client.mesh.memory().saturating_sub(before);
            assert!(grown < 16 * MIB, "{grown} bytes while nobody reads");
            go.send_replace(true);
        };
        let (response, ()) = tokio::join!(sending, slowly);
        let said = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(said, format!("{SIZE} {}", hash_of(SIZE)));
    }
}

/// Sends trailers, and gives those that come back.
async fn trailed(client: &Client, kind: &'static str) -> (u64, HeaderMap) {
    let mut body = Pattern::new(300_000, &Arc::default());
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("of the request"));
    body.trailers = Some(trailers);
    let mut request = request("POST", true, body);
    *request.uri_mut() = "http://web.shop/shop.Catalog/List".parse().unwrap();
    let kind = HeaderValue::from_static(kind);
    request.headers_mut().insert("content-type", kind);
    let response = send(client, true, request).await;
    let (size, _, trailers) = within("the body", drain(response.into_body())).await;
    (size, trailers)
}

#[tokio::test]
async fn trailers_pass_both_ways_over_http2_and_grpc() {
    let client = Client::start("", 0, "", &[]).await;
    let _app = app(client.mesh.origin(), async |request: Request<Incoming>| {
        let mut body = Pattern::new(200_000, &Arc::default());
        let (_, _, mut trailers) = drain(request.into_body()).await;
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        body.trailers = Some(trailers);
        Response::new(BoxBody::new(body))
    })
    .await;
    let check = async |kind| {
        let (size, trailers) = trailed(&client, kind).await;
        assert_eq!(size, 200_000, "{kind}");
        assert_eq!(trailers["x-checksum"], "of the request", "{kind}");
        assert_eq!(trailers["grpc-status"], "0", "{kind}");
    };
    check("text/plain").await;
    check("application/grpc").await;
    let statuses = "outbound_grpc_route_request_statuses_total";
    let ok = [r#"grpc_status="OK""#];
    assert!(client.mesh.metric(statuses, &ok).await < 0.5);

    // The same where policy speaks of gRPC, and looks at the trailers for a reason to retry.
    let grpc = route(
        "GRPCRoute",
        "  rules: [{matches: [{method: {service: shop.Catalog}}]}]",
    );
    let grpc = grpc.replace("name: catalog}", "name: web}");
    client.mesh.write("route.yaml", &grpc);
    eventually("the route", async || {
        check("application/grpc").await;
        (client.mesh.metric(statuses, &ok).await > 0.5).then_some(())
    })
    .await;
}

async fn hashed(mut io: impl AsyncRead + Unpin) -> (u64, u64) {
    let (mut size, mut hash) = (0, DefaultHasher::new());
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match io.read(&mut buffer).await.unwrap() {
            0 => return (size, hash.finish()),
            read => {
                size += read as u64;
                hash.write(buffer.split_at(read).0);
            }
        }
    }
}

async fn pour(io: &mut TcpStream, size: u64) {
    let (chunk, mut left) = (chunk(), size);
    while left > 0 {
        let part = usize::try_from(left.min(chunk.len() as u64)).unwrap();
        io.write_all(&chunk.slice(..part)).await.unwrap();
        left -= part as u64;
    }
    io.shutdown().await.unwrap();
}

/// Two sidecars: `api` sends bytes, and `web` takes them.
struct Pair {
    web: Mesh,
    api: Sidecar,
    application: TcpListener,
}

impl Pair {
    async fn start() -> Self {
        let policy = server("accessPolicy: all-authenticated, proxyProtocol: opaque")
            + "---
apiVersion: v1
kind: Service
metadata: {name: bytes, namespace: shop, annotations: {config.linkerd.io/opaque-ports: '80,8080'}}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
";
        let web = Mesh::start(&policy).await;
        let listener = format!("{}:9000=bytes.shop.svc.cluster.local:80", web.ip(6));
        let variables = [("OUTBOUND_LISTENERS", &*listener)];
        let api = web.peer("api", 6, &variables).await;
        let application = TcpListener::bind(web.origin()).await.unwrap();
        Self {
            web,
            api,
            application,
        }
    }

    async fn connect(&self) -> TcpStream {
        let address = SocketAddr::new(self.web.ip(6), 9000);
        TcpStream::connect(address).await.unwrap()
    }

    /// What came, came by mutual TLS with the header that says for which port.
    async fn assert_meshed(&self) {
        let header = "inbound_tcp_transport_header_connections_total";
        let client = format!("client_id=\"{}\"", identity("api"));
        let count = self.web.metric(header, &[&client]).await;
        assert!((count - 1.0).abs() < f64::EPSILON, "{count}");
    }
}

#[tokio::test]
async fn a_gibibyte_passes_two_sidecars_unchanged_and_each_direction_ends_by_itself() {
    const HALF: u64 = 512 * MIB;
    let pair = Pair::start().await;
    let far = async {
        let (mut stream, _) = pair.application.accept().await.unwrap();
        let seen = hashed(&mut stream).await;
        // The client has ended its direction; the other begins.
        pour(&mut stream, HALF).await;
        seen
    };
    let before = pair.web.memory() + pair.api.memory();
    let near = async {
        let mut stream = pair.connect().await;
        pour(&mut stream, HALF).await;
        hashed(&mut stream).await
    };
    let both = tokio::time::timeout(LIMIT * 4, async { tokio::join!(near, far) });
    let (came_back, seen) = both.await.unwrap();
    assert_eq!(seen, (HALF, hash_of(HALF)));
    assert_eq!(came_back, seen);
    let grown = (pair.web.memory() + pair.api.memory()).saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes");
    pair.assert_meshed().await;
}

#[tokio::test]
async fn a_server_that_ends_its_direction_first_still_hears_its_client() {
    let pair = Pair::start().await;
    let far = async {
        let (mut stream, _) = pair.application.accept().await.unwrap();
        pour(&mut stream, 100_000).await;
        hashed(&mut stream).await
    };
    let near = async {
        let mut stream = pair.connect().await;
        let heard = hashed(&mut stream).await;
        pour(&mut stream, 8 * MIB).await;
        heard
    };
    let (heard, seen) = within("both directions", async { tokio::join!(near, far) }).await;
    assert_eq!(heard, (100_000, hash_of(100_000)));
    assert_eq!(seen, (8 * MIB, hash_of(8 * MIB)));
    pair.assert_meshed().await;
}
