//! The programs that examples consist of, each a process: an HTTP and gRPC service, a line-based database in which the
//! server speaks first, and a client. `linkerd run` starts them; all of them are deterministic.

use crate::outcome::{Failure, Outcome};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
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
    /// What a proxy said about the last failure, or what it was.
    pub(crate) why: Option<String>,
}

pub(crate) async fn run(command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Http { name, listen } => {
            let name: &'static str = name.leak();
            serve(&listen, move |stream| http_connection(stream, name)).await
        }
        Command::Lines { listen } => serve(&listen, lines_connection).await,
        Command::Call(call) => {
            crate::outcome::json(&call_all(&call).await);
            Ok(Outcome::Good)
        }
    }
}

/// Serves every address until the process is ended.
async fn serve<F>(
    listen: &[SocketAddr],
    connection: impl Fn(TcpStream) -> F + Clone,
) -> Result<Outcome, Failure>
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

async fn http_connection(stream: TcpStream, name: &'static str) {
    let service = service_fn(move |request: Request<Incoming>| async move {
        Ok::<_, Infallible>(answer(name, request).await)
    });
    // A client that goes away is no news for a service.
    drop(
        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(name: &str, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let read = Limited::new(body, MAX_MESSAGE).collect().await;
    let received = read.map_or(0, |body| body.to_bytes().len());
    let text = |name: &str| {
        let value = head.headers.get(name).and_then(|value| value.to_str().ok());
        value.map(str::to_owned)
    };
    let value = serde_json::json!({
        "service": name,
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "received": received,
        "client": text("l5d-client-id"),
    });
    let json = format!("{value}\n");
    let mut answer =
        if text("content-type").is_some_and(|kind| kind.starts_with("application/grpc")) {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let body =
                Full::new(grpc_frame(json.as_bytes())).with_trailers(async { Some(Ok(trailers)) });
            let mut answer = Response::new(body.boxed_unsync());
            let kind = HeaderValue::from_static("application/grpc");
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            answer
        } else {
            Response::new(Full::new(Bytes::from(json)).boxed_unsync())
        };
    let json = HeaderValue::from_static("application/json");
    answer
        .headers_mut()
        .entry(header::CONTENT_TYPE)
        .or_insert(json);
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
        let (kind, why) = match tokio::time::timeout(ANSWER, call_once(call)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => ("failed".to_owned(), Some(error.to_string())),
            Err(_) => (
                "failed".to_owned(),
                Some(format!("no answer within {ANSWER:?}")),
            ),
        };
        *answers.counts.entry(kind).or_default() += 1;
        answers.why = why.or(answers.why);
    }
    answers
}

type Called = Result<(String, Option<String>), Box<dyn std::error::Error + Send + Sync>>;

async fn call_once(call: &Call) -> Called {
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

async fn http_call(stream: TcpStream, call: &Call, request: &str) -> Called {
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
    let _ = Limited::new(response.into_body(), 64 * MAX_MESSAGE)
        .collect()
        .await;
    connection.abort();
    Ok((format!("HTTP {}", status.as_u16()), why))
}

async fn grpc_call(stream: TcpStream, call: &Call, method: &str) -> Called {
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
    Ok(match status {
        Some(status) => (format!("gRPC {status}"), why),
        None => (format!("HTTP {}", head.status.as_u16()), why),
    })
}

/// What a proxy said about a failure.
fn said(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("l5d-proxy-error")?.to_str().ok()?;
    Some(value.to_owned())
}

async fn line_call(stream: TcpStream, line: &str) -> Called {
    let closed = || {
        Ok((
            "closed".to_owned(),
            Some("closed without a byte".to_owned()),
        ))
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
        Some(_) => Ok(("answered".to_owned(), None)),
        None => closed(),
    }
}
