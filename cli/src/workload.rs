//! The programs that examples consist of, each a process: an HTTP and gRPC service, a line-based database in which the
//! server speaks first, and a client. `linkerd run` starts them; all of them are deterministic.

use crate::{
    mesh::Fails,
    outcome::{Failure, Outcome},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// Largest message that a program reads.
const MAX_MESSAGE: usize = 1 << 20;
/// Longest wait of a client for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// What the database says first.
const GREETING: &str = "SHOPDB 1 ready";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// An HTTP/1, HTTP/2 and gRPC service that says who asked for what.
    Http {
        /// Its name.
        #[arg(long)]
        name: String,
        /// Where it listens; may be repeated.
        #[arg(long, required = true)]
        listen: Vec<SocketAddr>,
        /// Calls that are answered with UNAVAILABLE (HTTP 503): PATH=3 is every third one of a path.
        #[arg(long)]
        fails: Option<Fails>,
    },
    /// A database with a line protocol in which the server speaks first.
    Lines {
        /// Where it listens; may be repeated.
        #[arg(long, required = true)]
        listen: Vec<SocketAddr>,
    },
    /// Calls, and prints how it went as JSON.
    Call(Call),
}

/// A call, some times over.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Call {
    /// What is called.
    #[arg(long)]
    pub(crate) to: SocketAddr,
    /// The address to call from.
    #[arg(long)]
    pub(crate) from: Option<IpAddr>,
    /// The name of the service, for HTTP.
    #[arg(long, default_value = "")]
    pub(crate) host: String,
    /// Method and path of an HTTP request, like `GET /products`.
    #[arg(long)]
    pub(crate) http: Option<String>,
    /// Service and method of a gRPC call, like `shop.Payments/Charge`.
    #[arg(long)]
    pub(crate) grpc: Option<String>,
    /// A line for the database.
    #[arg(long)]
    pub(crate) line: Option<String>,
    /// How often.
    #[arg(long, default_value_t = 1)]
    pub(crate) times: u32,
}

/// How calls went.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answers {
    /// How many answers of each kind: `HTTP 200`, `gRPC 7`, `answered`, `closed`, `failed`.
    pub(crate) counts: BTreeMap<String, u32>,
    /// How many answers each service gave, as the answers say it.
    #[serde(default)]
    pub(crate) served: BTreeMap<String, u32>,
    /// What a proxy said about the last failure, or what it was.
    pub(crate) why: Option<String>,
}

pub(crate) async fn run(command: Command) -> std::result::Result<Outcome, Failure> {
    match command {
        Command::Http {
            name,
            listen,
            fails,
        } => {
            let service = Arc::new(Service {
                name,
                fails,
                calls: AtomicU32::new(0),
            });
            serve(&listen, move |stream| {
                http_connection(stream, service.clone())
            })
            .await
        }
        Command::Lines { listen } => serve(&listen, lines_connection).await,
        Command::Call(call) => {
            crate::outcome::json(&call_all(&call).await)?;
            Ok(Outcome::Good)
        }
    }
}

/// Serves every address until the process is ended.
async fn serve<F>(
    listen: &[SocketAddr],
    connection: impl Fn(TcpStream) -> F + Clone,
) -> std::result::Result<Outcome, Failure>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut listening = Vec::new();
    for address in listen {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| Failure::new(format!("cannot listen on {address}: {error}")))?;
        let connection = connection.clone();
        listening.push(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(connection(stream))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
    }
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Failure::new(error.to_string()))?;
    tokio::select! {
        _ = futures::future::join_all(listening) => {}
        _ = term.recv() => {}
    }
    Ok(Outcome::Good)
}

/// An HTTP and gRPC service.
struct Service {
    name: String,
    fails: Option<Fails>,
    /// Calls of the path that fails.
    calls: AtomicU32,
}

impl Service {
    /// Whether it is this call's turn to fail.
    fn fails(&self, path: &str) -> bool {
        let Some(fails) = self.fails.as_ref().filter(|fails| fails.path == path) else {
            return false;
        };
        let call = self.calls.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        call.is_multiple_of(fails.every.get())
    }
}

async fn http_connection(stream: TcpStream, service: Arc<Service>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(answer(&service, request).await) }
    });
    // A client that goes away is no news for a service.
    drop(
        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(service: &Service, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let read = Limited::new(body, MAX_MESSAGE).collect().await;
    let received = read.map_or(0, |body| body.to_bytes().len());
    let text = |name: &str| {
        let value = head.headers.get(name).and_then(|value| value.to_str().ok());
        value.map(str::to_owned)
    };
    let value = serde_json::json!({
        "service": service.name,
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "received": received,
        "client": text("l5d-client-id"),
    });
    let json = format!("{value}\n");
    let fails = service.fails(head.uri.path());
    if text("content-type").is_some_and(|kind| kind.starts_with("application/grpc")) {
        return grpc_answer(&json, fails);
    }
    let mut answer = Response::new(Full::new(Bytes::from(json)).boxed_unsync());
    if fails {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

/// A message and the status 0; or the status UNAVAILABLE, without a message.
fn grpc_answer(message: &str, fails: bool) -> Answer {
    let (frame, status) = if fails {
        (Bytes::new(), "14")
    } else {
        (grpc_frame(message.as_bytes()), "0")
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let body = Full::new(frame).with_trailers(async { Some(Ok(trailers)) });
    let mut answer = Response::new(body.boxed_unsync());
    let kind = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// A message in gRPC's framing: not compressed, length, bytes.
fn grpc_frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

async fn lines_connection(stream: TcpStream) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(MAX_MESSAGE as u64)).lines();
    if write
        .write_all(format!("{GREETING}\n").as_bytes())
        .await
        .is_err()
    {
        return;
    }
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match line.split_once(' ') {
            Some(("GET", "stock")) => "42".to_owned(),
            Some(("GET", key)) => format!("{key} is not known"),
            _ => "say GET KEY".to_owned(),
        };
        if write
            .write_all(format!("{answer}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Calls as often as asked, one after the other.
pub(crate) async fn call_all(call: &Call) -> Answers {
    let mut answers = Answers::default();
    for _ in 0..call.times.max(1) {
        let called = match tokio::time::timeout(ANSWER, call_once(call)).await {
            Ok(Ok(called)) => called,
            Ok(Err(error)) => Called::failed(error.to_string()),
            Err(_) => Called::failed(format!("no answer within {ANSWER:?}")),
        };
        *answers.counts.entry(called.kind).or_default() += 1;
        if let Some(service) = called.service {
            *answers.served.entry(service).or_default() += 1;
        }
        answers.why = called.why.or(answers.why);
    }
    answers
}

/// How one call went.
#[derive(Debug, Default)]
struct Called {
    /// A kind of [`Answers::counts`].
    kind: String,
    /// What a proxy said about it.
    why: Option<String>,
    /// Who answered.
    service: Option<String>,
}

impl Called {
    fn failed(why: String) -> Self {
        Self {
            kind: "failed".to_owned(),
            why: Some(why),
            service: None,
        }
    }
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

async fn call_once(call: &Call) -> Result<Called> {
    let socket = if call.to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = call.from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = socket.connect(call.to).await?;
    stream.set_nodelay(true)?;
    match (&call.http, &call.grpc, &call.line) {
        (Some(request), _, _) => http_call(stream, call, request).await,
        (_, Some(method), _) => grpc_call(stream, call, method).await,
        (_, _, Some(line)) => line_call(stream, line).await,
        _ => Err("one of --http, --grpc and --line is needed".into()),
    }
}

async fn http_call(stream: TcpStream, call: &Call, request: &str) -> Result<Called> {
    let (method, path) = request.split_once(' ').unwrap_or(("GET", request));
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method.parse::<Method>()?)
        .uri(path)
        .header(header::HOST, &call.host)
        .body(Full::<Bytes>::default())?;
    let response = send.send_request(request).await?;
    let (status, why) = (response.status(), said(response.headers()));
    let body = Limited::new(response.into_body(), 64 * MAX_MESSAGE).collect();
    let body = body.await.map(http_body_util::Collected::to_bytes);
    connection.abort();
    Ok(Called {
        kind: format!("HTTP {}", status.as_u16()),
        why,
        service: body.ok().and_then(|body| service_of(&body)),
    })
}

async fn grpc_call(stream: TcpStream, call: &Call, method: &str) -> Result<Called> {
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://{}/{method}", call.host))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(grpc_frame(b"")))?;
    let response = send.send_request(request).await?;
    let (head, body) = response.into_parts();
    let why = said(&head.headers);
    let body = Limited::new(body, MAX_MESSAGE).collect().await?;
    connection.abort();
    let status = |headers: &HeaderMap| {
        headers
            .get("grpc-status")
            .and_then(|s| s.to_str().ok().map(str::to_owned))
    };
    let status = status(&head.headers).or_else(|| body.trailers().and_then(status));
    Ok(Called {
        kind: match status {
            Some(status) => format!("gRPC {status}"),
            None => format!("HTTP {}", head.status.as_u16()),
        },
        why,
        // After the prefix of a frame.
        service: body.to_bytes().get(5..).and_then(service_of),
    })
}

/// Who answered, if it is one of our services.
fn service_of(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(body.get("service")?.as_str()?.to_owned())
}

/// What a proxy said about a failure.
fn said(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("l5d-proxy-error")?.to_str().ok()?;
    Some(value.to_owned())
}

async fn line_call(stream: TcpStream, line: &str) -> Result<Called> {
    let closed = || {
        Ok(Called {
            kind: "closed".to_owned(),
            why: Some("closed without a byte".to_owned()),
            service: None,
        })
    };
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(MAX_MESSAGE as u64)).lines();
    // A connection that is refused ends as a reset as well as an end.
    let Ok(Some(greeting)) = lines.next_line().await else {
        return closed();
    };
    if greeting != GREETING {
        return Err(format!("an unexpected greeting: {greeting:?}").into());
    }
    write.write_all(format!("{line}\n").as_bytes()).await?;
    match lines.next_line().await? {
        Some(_) => Ok(Called {
            kind: "answered".to_owned(),
            ..Called::default()
        }),
        None => closed(),
    }
}
