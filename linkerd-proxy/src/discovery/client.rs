//! One reconnecting gRPC connection to a controller.
//!
//! Used by `policy`, `identity` and `destination`. Loopback controllers are spoken to in plaintext, others by mesh TLS
//! with the expected identity: without a client certificate before the first certification, with it afterwards. Names
//! are resolved afresh at each connect. While somebody wants the connection it is retried without end; a controller
//! that cannot be reached is tried about once a second, so that callers go on at most that long after it is back.
//!
//! A [`ControlClient`] is the transport of the generated clients; it must be made within a runtime, where its task runs.

use super::{
    backoff::Pauses,
    metrics::{ClientMetrics, ResponseEnd},
};
use crate::config::{Address, Backoff, ControlAddr, value::loopback};
use bytes::Bytes;
use http_body::Frame;
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use linkerd_tls::LocalIdentity;
use rand::seq::SliceRandom;
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, watch},
};
use tonic::body::Body;

/// Longest pause between two TCP connects: a SYN costs next to nothing, and the controller is missed.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(1);
/// How long a call that is not a stream waits for a connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(30);
/// HTTP/2 PINGs find controllers that went away without a word. Not on loopback, where the kernel tells, and where
/// gRPC servers that take frequent PINGs for abuse are reached without a proxy of theirs in front.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between two log lines about the same trouble.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// How a controller is reached.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// `identity`, `policy` or `destination`, as metrics and logs call it.
    pub(crate) name: &'static str,
    pub(crate) addr: ControlAddr,
    /// Name lookup, TCP and TLS together.
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff: Backoff,
}

/// A controller's connection; a clone is another user of the same one.
#[derive(Clone, Debug)]
pub(crate) struct ControlClient(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    origin: http::Uri,
    identity: Arc<LocalIdentity>,
    metrics: Arc<ClientMetrics>,
    /// The connection, while there is one.
    connection: watch::Receiver<Option<SendRequest<Body>>>,
    /// Told when somebody waits for a connection.
    wanted: Notify,
    /// The failure that was last logged, and when.
    logged: Mutex<Option<(&'static str, Instant)>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{name} has no address: {source}")]
    Dns { name: String, source: io::Error },
    #[error("{addr}: {source}")]
    Connect { addr: SocketAddr, source: io::Error },
    #[error("TLS with {addr}: {source}")]
    Tls {
        addr: SocketAddr,
        source: linkerd_tls::HandshakeError,
    },
    #[error("HTTP/2 with {addr}: {source}")]
    Http {
        addr: SocketAddr,
        source: hyper::Error,
    },
    #[error("not connected within {0:?}")]
    Timeout(Duration),
}

impl ConnectError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns",
            Self::Connect { .. } | Self::Http { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Timeout(_) => "timeout",
        }
    }

    /// Whether another attempt soon costs the controller next to nothing.
    fn is_cheap(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Timeout(_))
    }
}

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no connection to the {0} controller within {CONNECTION_WAIT:?}")]
    NotConnected(&'static str),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

impl ControlClient {
    /// A client whose connection is made when it is first wanted. Must be called within a runtime.
    pub(crate) fn new(
        endpoint: Endpoint,
        identity: Arc<LocalIdentity>,
        metrics: Arc<ClientMetrics>,
    ) -> Self {
        let (publish, connection) = watch::channel(None);
        let origin = http::Uri::builder()
            .scheme("http")
            .authority(endpoint.addr.addr.to_string())
            .path_and_query("/")
            .build()
            .unwrap_or_default();
        let shared = Arc::new(Shared {
            endpoint,
            origin,
            identity,
            metrics,
            connection,
            wanted: Notify::new(),
            logged: Mutex::default(),
        });
        let keeper = Arc::downgrade(&shared);
        tokio::spawn(async move {
            let mut pauses = None;
            while let Some(shared) = keeper.upgrade() {
                let pauses = pauses.get_or_insert_with(|| Pauses::new(shared.endpoint.backoff));
                Box::pin(keep(shared, &publish, pauses)).await;
            }
        });
        Self(shared)
    }

    /// What requests' URIs begin with: the generated clients need it.
    pub(crate) fn origin(&self) -> http::Uri {
        self.0.origin.clone()
    }

    /// Pauses between attempts on this controller.
    pub(crate) fn backoff(&self) -> Backoff {
        self.0.endpoint.backoff
    }

    pub(crate) fn metrics(&self) -> &ClientMetrics {
        &self.0.metrics
    }

    /// Whether there is a connection now.
    pub(crate) fn is_connected(&self) -> bool {
        self.0.connection.borrow().is_some()
    }

    /// Waits until there is a connection.
    pub(crate) async fn connected(&self) {
        self.connection().await;
    }

    async fn connection(&self) -> Option<SendRequest<Body>> {
        let mut connection = self.0.connection.clone();
        loop {
            if let Some(connection) = connection.borrow_and_update().clone()
                && !connection.is_closed()
            {
                return Some(connection);
            }
            self.0.wanted.notify_one();
            connection.changed().await.ok()?;
        }
    }
}

/// One round: waits until a connection is wanted, makes one and keeps it to its end, or pauses after a failure.
async fn keep(
    shared: Arc<Shared>,
    publish: &watch::Sender<Option<SendRequest<Body>>>,
    pauses: &mut Pauses,
) {
    let name = shared.endpoint.name;
    // Gives the task a chance to end when the last client is gone.
    let wanted = tokio::time::timeout(Duration::from_secs(60), shared.wanted.notified());
    if wanted.await.is_err() {
        return;
    }
    let limit = shared.endpoint.connect_timeout;
    let connected = match tokio::time::timeout(limit, connect(&shared)).await {
        Ok(connected) => connected,
        Err(_) => Err(ConnectError::Timeout(limit)),
    };
    match connected {
        Ok((sender, connection)) => {
            let started = Instant::now();
            shared.metrics.connected(true);
            tracing::debug!(client = name, addr = %shared.endpoint.addr.addr, "Connected");
            publish.send_replace(Some(sender));
            let end = connection.await;
            publish.send_replace(None);
            shared.metrics.connected(false);
            tracing::debug!(client = name, ?end, "Connection ended");
            // A controller that drops connections as soon as they are made is not asked in a tight loop.
            if started.elapsed() >= UNREACHABLE_PAUSE {
                pauses.reset();
            }
            tokio::time::sleep(pauses.next(UNREACHABLE_PAUSE)).await;
        }
        Err(error) => {
            shared.metrics.failure(error.reason());
            let cap = if error.is_cheap() || shared.endpoint.addr.addr.is_loopback() {
                UNREACHABLE_PAUSE
            } else {
                shared.endpoint.backoff.max
            };
            let pause = pauses.next(cap);
            shared.log(&error, pause);
            shared.wanted.notify_one();
            tokio::time::sleep(pause).await;
        }
    }
}

impl Shared {
    /// Logs a failure, unless the same kind was logged a moment ago: a controller that is away would fill the log.
    fn log(&self, error: &ConnectError, pause: Duration) {
        let (now, reason) = (Instant::now(), error.reason());
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = logged
            .is_some_and(|(last, at)| last == reason && now.duration_since(at) < LOG_INTERVAL);
        if is_known {
            return;
        }
        *logged = Some((reason, now));
        drop(logged);
        tracing::warn!(client = self.endpoint.name, %error, retry = ?pause, "No connection to the controller; retrying");
    }
}

type Connected = (
    SendRequest<Body>,
    Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
);

async fn connect(shared: &Shared) -> Result<Connected, ConnectError> {
    let (addr, stream) = dial(shared).await?;
    let Some(expected) = &shared.endpoint.addr.identity else {
        return handshake(addr, stream, None).await;
    };
    let identity = &shared.identity;
    // A server refuses an expired client certificate, and nobody could ever renew one by showing it.
    let config = match identity.current() {
        Some(current) if current.not_after() > identity.now() => current.client_config().clone(),
        _ => identity.anchors_client_config(),
    };
    let tls = linkerd_tls::connect(&config, stream, expected.as_str(), expected, None)
        .await
        .map_err(|source| ConnectError::Tls { addr, source })?;
    handshake(addr, tls, Some(PING_INTERVAL)).await
}

/// Connects to one of the controller's addresses, in random order, so that its replicas share the load.
async fn dial(shared: &Shared) -> Result<(SocketAddr, TcpStream), ConnectError> {
    let mut addrs = match &shared.endpoint.addr.addr {
        Address::Socket(addr) => vec![*addr],
        Address::Name(name, port) if name == "localhost." => loopback(*port).to_vec(),
        Address::Name(name, port) => {
            let found = tokio::net::lookup_host((name.as_str(), *port)).await;
            let found = found.map(Iterator::collect::<Vec<_>>);
            shared
                .metrics
                .resolution(found.as_ref().is_ok_and(|addrs| !addrs.is_empty()));
            let mut addrs = found.map_err(|source| ConnectError::Dns {
                name: name.clone(),
                source,
            })?;
            addrs.shuffle(&mut rand::rng());
            addrs
        }
    };
    // A dead replica must not use up the whole time.
    let share = shared.endpoint.connect_timeout / u32::try_from(addrs.len().max(1)).unwrap_or(1);
    let mut last = None;
    for addr in addrs.drain(..) {
        match tokio::time::timeout(share, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok((addr, stream));
            }
            Ok(Err(source)) => last = Some(ConnectError::Connect { addr, source }),
            Err(_) => last = Some(ConnectError::Timeout(share)),
        }
    }
    Err(last.unwrap_or_else(|| ConnectError::Dns {
        name: shared.endpoint.addr.addr.to_string(),
        source: io::Error::from(io::ErrorKind::NotFound),
    }))
}

async fn handshake<IO>(
    addr: SocketAddr,
    io: IO,
    pings: Option<Duration>,
) -> Result<Connected, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(pings)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|source| ConnectError::Http { addr, source })?;
    Ok((sender, Box::pin(connection)))
}

impl tower::Service<http::Request<Body>> for ControlClient {
    type Response = http::Response<WatchedBody>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, CallError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move {
            let metrics = client.0.metrics.clone();
            metrics.request();
            let started = Instant::now();
            let connection = tokio::time::timeout(CONNECTION_WAIT, client.connection()).await;
            let Ok(Some(mut connection)) = connection else {
                metrics.response(&ResponseEnd::Failed("timeout"));
                return Err(CallError::NotConnected(client.0.endpoint.name));
            };
            let response = connection.send_request(request).await.inspect_err(|_| {
                metrics.response(&ResponseEnd::Failed("unclassified"));
            })?;
            let recorder = Recorder {
                grpc_status: grpc_status(response.headers()),
                status: response.status(),
                is_first: true,
                metrics,
                started,
            };
            Ok(response.map(|body| WatchedBody {
                body,
                recorder: Some(recorder),
            }))
        })
    }
}

/// A response's body, whose first frame and end are counted.
#[derive(Debug)]
pub(crate) struct WatchedBody {
    body: Incoming,
    recorder: Option<Recorder>,
}

#[derive(Debug)]
struct Recorder {
    metrics: Arc<ClientMetrics>,
    status: http::StatusCode,
    /// From the headers, for answers without a body.
    grpc_status: Option<i32>,
    started: Instant,
    is_first: bool,
}

impl Recorder {
    fn end(self, code: Option<i32>) {
        self.metrics.response(&ResponseEnd::Grpc {
            http: self.status,
            code: code.or(self.grpc_status).unwrap_or(2),
        });
    }
}

fn grpc_status(headers: &http::HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(recorder) = &mut self.recorder
            && std::mem::take(&mut recorder.is_first)
        {
            recorder
                .metrics
                .first_byte(recorder.status, recorder.started);
        }
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref()
                    && let Some(recorder) = self.recorder.take()
                {
                    recorder.end(grpc_status(trailers));
                }
            }
            Some(Err(_)) => {
                if let Some(recorder) = self.recorder.take() {
                    let end = ResponseEnd::Failed("unclassified");
                    recorder.metrics.response(&end);
                }
            }
            None => {
                if let Some(recorder) = self.recorder.take() {
                    recorder.end(None);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            // An answer whose whole content was its headers ends here too; else we gave the stream up (1 = cancelled).
            let code = recorder.grpc_status.unwrap_or(1);
            recorder.end(Some(code));
        }
    }
}
