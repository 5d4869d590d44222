//! The HTTP client: to the application (inbound) and to other workloads (outbound), in the version the request has.
//!
//! Connections are shared by all clients of a worker and are keyed by where they lead alone. An HTTP/1 connection has
//! no task of its own: whoever uses it drives it, first here until the head of the response is there, then from the
//! response's body. HTTP/2 multiplexes, so its one connection has a task.

use super::{
    HttpError,
    body::{Body, RequestBody},
    http2::{self, Sender},
    interim::Interim,
};
use crate::{
    inbound::metrics::{OpenConnection, Transport},
    transport::{
        Io, SocketOptions,
        header::{self, TransportHeader},
    },
};
use bytes::{Bytes, BytesMut};
use http::{Request, Response, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use linkerd_policy::outbound::Http2Params;
use linkerd_tls::{Credentials, Id, LocalIdentity};
use std::{
    future::poll_fn,
    io, mem,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// It cannot be connected to.
    #[error("connecting to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// It did not accept in time.
    #[error("{0} did not accept in time")]
    ConnectTimeout(SocketAddr),
    /// It did not prove to be the workload that was meant.
    #[error("TLS with {0}: {1}")]
    Tls(SocketAddr, linkerd_tls::HandshakeError),
    /// It broke off, or did not speak HTTP, before its response began.
    #[error("broken off: {0}")]
    Broken(HttpError),
    /// It closed without an answer.
    #[error("closed without an answer")]
    Closed,
    /// It switched protocols and was not asked to.
    #[error("switched protocols without being asked to")]
    Unasked,
    /// There is no connection for all who waited for one. The first of them, who tried, has `true`.
    #[error("{0}")]
    Shared(Arc<Self>, bool),
}

impl ClientError {
    /// What happened, to however many.
    pub(crate) fn cause(&self) -> &Self {
        match self {
            Self::Shared(error, _) => error.cause(),
            error => error,
        }
    }

    /// Why the server is not the one that was meant: told to one of those that waited for the connection.
    pub(crate) fn handshake(&self) -> Option<&linkerd_tls::HandshakeError> {
        match self {
            Self::Tls(_, error) => Some(error),
            Self::Shared(error, true) => error.handshake(),
            _ => None,
        }
    }

    /// The server said that it did not begin to work on the request: another connection may take it, whatever it is
    /// (RFC 9113 §8.7).
    pub(crate) fn is_unprocessed(&self) -> bool {
        let Self::Broken(error) = self else {
            return !matches!(self, Self::Closed | Self::Unasked);
        };
        error.http2().is_some_and(|error| {
            error.is_remote()
                && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
        })
    }

    /// Why the request's stream ends, if the server said so: it reset the stream, or went away and had not begun it, which
    /// is as good as refused (RFC 9113 §8.7). Who asked over HTTP/2 is told the same.
    pub(crate) fn reset(&self) -> Option<h2::Reason> {
        let Self::Broken(error) = self else {
            return None;
        };
        let error = error.http2().filter(|error| error.is_remote())?;
        if error.is_go_away() {
            return Some(h2::Reason::REFUSED_STREAM);
        }
        error.reason().filter(|_| error.is_reset())
    }
}

/// A connection that takes a request.
#[derive(Debug)]
pub(crate) enum Ready {
    /// And whether it was used before.
    Http1(Box<Connection>, bool),
    Http2(Sender),
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct NoAnswer {
    pub(crate) error: ClientError,
    /// Nothing of the request was sent: it is where it was taken from.
    pub(crate) is_unsent: bool,
    /// The connection was used before, so that it may have been gone already.
    pub(crate) was_reused: bool,
}

impl NoAnswer {
    /// What hyper hands back goes to `request`.
    fn from_hyper(
        mut broken: TrySendError<Request<RequestBody>>,
        request: &mut Request<RequestBody>,
        was_reused: bool,
    ) -> Self {
        let unsent = broken.take_message();
        let is_unsent = unsent.is_some();
        if let Some(unsent) = unsent {
            *request = unsent;
        }
        Self {
            is_unsent,
            error: ClientError::Broken(broken.into_error().into()),
            was_reused,
        }
    }
}

/// Where connections lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Dial {
    pub(crate) address: SocketAddr,
    /// mTLS: the name asked for, who must answer, and the protocol of a direct connection.
    pub(crate) mesh: Option<Mesh>,
}

/// mTLS to another workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mesh {
    pub(crate) server_name: Arc<str>,
    pub(crate) identity: Id,
    /// What a direct connection to the proxy's own port is for.
    pub(crate) direct_to: Option<TransportHeader>,
}

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Limit of a TCP connect.
    pub(crate) connect_timeout: Duration,
    pub(crate) socket: SocketOptions,
    /// Addresses that connections are made from, one a family; without one the system chooses.
    pub(crate) source: Vec<IpAddr>,
    /// Idle HTTP/1 connections kept for one origin; the oldest go first.
    pub(crate) max_idle: usize,
    /// How long an HTTP/1 connection is kept without use.
    pub(crate) idle_timeout: Duration,
    /// Largest head of an HTTP/1 response, in bytes.
    pub(crate) max_head: usize,
    /// HTTP/2 connections, where the endpoint asks for nothing else.
    pub(crate) http2: Http2Params,
}

/// One destination and the connections a worker has to it.
///
/// The locks are never contended, since a worker is one thread, and never held across an await.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) dial: Dial,
    settings: Arc<Settings>,
    http2_params: Http2Params,
    identity: Arc<LocalIdentity>,
    transport: Arc<Transport>,
    idle: Mutex<Vec<Idle>>,
    http2: Mutex<Option<Shared>>,
    /// Held by whoever makes the HTTP/2 connection.
    connecting: tokio::sync::Mutex<()>,
    failures: Mutex<Failures>,
}

/// The HTTP/2 connection that all requests share.
#[derive(Debug)]
struct Shared {
    sender: Sender,
    proof: Proof,
}

/// What a connection was made with, to show who we are; nothing in plaintext.
///
/// The other side knows us by it, and for no longer than it is valid: once there is a newer certificate, requests go
/// over connections that were made with that one.
#[derive(Debug)]
struct Proof(Option<Arc<Credentials>>);

impl Proof {
    fn is_current(&self, identity: &LocalIdentity) -> bool {
        self.0
            .as_ref()
            .is_none_or(|credentials| identity.is_current(credentials))
    }
}

/// HTTP/2 connections that could not be made.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    last: Option<Arc<ClientError>>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// An HTTP/1 connection and the handle to use it with.
#[derive(Debug)]
pub(crate) struct Connection {
    send: http1::SendRequest<RequestBody>,
    driver: http1::Connection<TokioIo<Io>, RequestBody>,
    /// The driver has completed and must not be polled again.
    ended: bool,
    proof: Proof,
    _open: OpenConnection,
}

/// Why no response came.
#[derive(Debug)]
enum Broken {
    Hyper(Box<TrySendError<Request<RequestBody>>>),
    /// The connection ended and said nothing more.
    Silent,
}

impl From<TrySendError<Request<RequestBody>>> for Broken {
    fn from(error: TrySendError<Request<RequestBody>>) -> Self {
        Self::Hyper(Box::new(error))
    }
}

impl Client {
    pub(crate) fn new(
        dial: Dial,
        settings: Arc<Settings>,
        identity: Arc<LocalIdentity>,
        transport: Arc<Transport>,
    ) -> Self {
        Self {
            dial,
            http2_params: settings.http2,
            settings,
            identity,
            transport,
            idle: Mutex::default(),
            http2: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// With parameters of HTTP/2 that this endpoint asks for.
    pub(crate) fn with_http2(mut self, params: Option<Http2Params>) -> Self {
        self.http2_params = params.unwrap_or(self.http2_params);
        self
    }

    /// Opens a connection: TCP, and mTLS with the transport header where the destination needs them, all within the
    /// connect timeout. The connection is in the `tcp_*` metrics while the second value lives.
    pub(crate) async fn connect(&self) -> Result<(Io, OpenConnection), ClientError> {
        let address = self.dial.address;
        let mut io = tokio::time::timeout(self.settings.connect_timeout, self.open())
            .await
            .map_err(|_| ClientError::ConnectTimeout(address))??;
        io.meter(self.transport.meter());
        Ok((io, self.transport.open()))
    }

    async fn open(&self) -> Result<Io, ClientError> {
        let address = self.dial.address;
        let stream = connect_from(&self.settings.source, address)
            .await
            .map_err(|error| ClientError::Connect(address, error))?;
        self.settings.socket.apply(&stream);
        let Some(mesh) = &self.dial.mesh else {
            return Ok(Io::tcp(stream, BytesMut::new()));
        };
        let alpn = mesh.direct_to.as_ref().map(|_| linkerd_tls::TRANSPORT_ALPN);
        let config = self.identity.client_config();
        let tls = linkerd_tls::connect(&config, stream, &mesh.server_name, &mesh.identity, alpn)
            .await
            .map_err(|error| ClientError::Tls(address, error))?;
        let mut io = Io::originated(tls);
        if let Some(header) = &mesh.direct_to {
            let mut bytes = BytesMut::new();
            header::encode(header, &mut bytes);
            let written = async {
                io.write_all(&bytes).await?;
                io.flush().await
            };
            written
                .await
                .map_err(|error| ClientError::Connect(address, error))?;
        }
        Ok(io)
    }

    /// Sends a request in its own version and returns when the head of the response is there. It is taken from where it
    /// is when it is sent: a future that owned it would hold room for it in each of its layers.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: &mut Request<RequestBody>,
        interim: Option<&Interim>,
    ) -> Result<Answer, ClientError> {
        let version = request.version();
        let ready = self.ready(version).await?;
        self.deliver(ready, request, interim).await
    }

    /// Sends a request on a connection. One that had gone while it was idle is replaced: nothing was sent on it. An origin
    /// that accepts connections of HTTP/2 and takes no request on them is told of, not connected to again and again.
    pub(crate) async fn deliver(
        self: &Arc<Self>,
        mut ready: Ready,
        request: &mut Request<RequestBody>,
        interim: Option<&Interim>,
    ) -> Result<Answer, ClientError> {
        let version = request.version();
        let mut is_second = false;
        loop {
            match self.send_on(ready, request, interim).await {
                Ok(answer) => return Ok(answer),
                // There are only so many idle connections of HTTP/1.
                Err(NoAnswer {
                    is_unsent: true,
                    was_reused: true,
                    ..
                }) if version < Version::HTTP_2 || !is_second => {}
                Err(NoAnswer { error, .. }) => return Err(error),
            }
            is_second = true;
            ready = self.ready(version).await?;
        }
    }

    /// A connection that takes a request of this version: an idle one, or a new one. To make one takes room that most
    /// requests do not need, and is on the heap.
    pub(crate) async fn ready(&self, version: Version) -> Result<Ready, ClientError> {
        if version == Version::HTTP_2 {
            let sender = match self.open_http2() {
                Some(sender) => sender,
                None => Box::pin(self.http2()).await?,
            };
            return Ok(Ready::Http2(sender));
        }
        match self.checkout() {
            Some(connection) => Ok(Ready::Http1(connection, true)),
            None => Ok(Ready::Http1(Box::pin(self.connect_http1()).await?, false)),
        }
    }

    /// Sends a request on a connection and returns when the head of the response is there.
    pub(crate) async fn send_on(
        self: &Arc<Self>,
        ready: Ready,
        request: &mut Request<RequestBody>,
        interim: Option<&Interim>,
    ) -> Result<Answer, NoAnswer> {
        let (mut connection, was_reused) = match ready {
            Ready::Http2(sender) => {
                return match sender.send(request, interim).await {
                    Ok(response) => Ok(Answer::Response(response.map(Body::http2))),
                    Err(unanswered) => Err(NoAnswer {
                        error: ClientError::Broken(unanswered.error.into()),
                        is_unsent: unanswered.is_unsent,
                        was_reused: true,
                    }),
                };
            }
            Ready::Http1(connection, was_reused) => (connection, was_reused),
        };
        let is_connect = request.method() == http::Method::CONNECT;
        let is_asked = super::request::upgrades(request);
        if let Some(interim) = interim.cloned() {
            hyper::ext::on_informational(request, move |answer| {
                interim.push(answer.status(), answer.headers());
            });
        }
        match connection.exchange(request).await {
            Ok(response) if switches(is_connect, response.status()) => {
                if !is_asked {
                    return Err(NoAnswer {
                        error: ClientError::Unasked,
                        is_unsent: false,
                        was_reused,
                    });
                }
                Ok(Answer::Upgrade(response.map(|_| Body::empty()), connection))
            }
            Ok(response) => Ok(self.answer(response, connection).await),
            Err(Broken::Silent) => Err(NoAnswer {
                error: ClientError::Closed,
                is_unsent: false,
                was_reused,
            }),
            Err(Broken::Hyper(broken)) => Err(NoAnswer::from_hyper(*broken, request, was_reused)),
        }
    }

    /// Turns what came into an answer; a short body is taken along, so that it leaves with its head in one write.
    async fn answer(
        self: &Arc<Self>,
        response: Response<Incoming>,
        connection: Box<Connection>,
    ) -> Answer {
        let (head, body) = response.into_parts();
        let mut exchange = Box::new(Exchange {
            body,
            connection,
            origin: self.clone(),
            first: None,
        });
        let whole = poll_fn(|cx| Poll::Ready(exchange.take_whole(cx))).await;
        let body = match whole {
            Some(bytes) => {
                exchange.finish();
                Body::full(bytes)
            }
            None => Body::http1(exchange),
        };
        Answer::Response(Response::from_parts(head, body))
    }

    /// The connection used last that is still good.
    fn checkout(&self) -> Option<Box<Connection>> {
        loop {
            let Idle { mut connection, .. } = lock(&self.idle).pop()?;
            if connection.is_usable() && connection.proof.is_current(&self.identity) {
                return Some(connection);
            }
        }
    }

    fn checkin(&self, mut connection: Box<Connection>) {
        if !connection.is_usable() {
            return;
        }
        let mut idle = lock(&self.idle);
        if idle.len() < self.settings.max_idle {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// Closes connections that were idle for too long. Tells whether anything is left.
    pub(crate) fn expire(&self, now: Instant) -> bool {
        let mut idle = lock(&self.idle);
        let limit = self.settings.idle_timeout;
        let keep = idle
            .iter()
            .position(|idle| now.saturating_duration_since(idle.since) < limit)
            .unwrap_or(idle.len());
        idle.drain(..keep);
        idle.shrink_to(8);
        let mut http2 = lock(&self.http2);
        if http2.as_mut().is_some_and(|http2| !self.is_open(http2)) {
            *http2 = None;
        }
        !idle.is_empty() || http2.is_some()
    }

    /// What the next connection is made with.
    fn proof(&self) -> Proof {
        let mesh = self.dial.mesh.as_ref();
        Proof(mesh.and_then(|_| self.identity.current()))
    }

    async fn connect_http1(&self) -> Result<Box<Connection>, ClientError> {
        let proof = self.proof();
        let (io, open) = self.connect().await?;
        let (send, driver) = http1::Builder::new()
            .max_header_size(self.settings.max_head)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| ClientError::Broken(error.into()))?;
        Ok(Box::new(Connection {
            send,
            driver,
            ended: false,
            proof,
            _open: open,
        }))
    }

    async fn http2(&self) -> Result<Sender, ClientError> {
        let before = lock(&self.failures).count;
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(sender) = self.open_http2() {
            return Ok(sender);
        }
        // Whoever waited for a connection shares its fate: one after the other, each would wait as long again.
        if let Failures {
            count,
            last: Some(error),
        } = &*lock(&self.failures)
            && *count != before
        {
            return Err(ClientError::Shared(error.clone(), false));
        }
        let proof = self.proof();
        match self.connect_http2().await {
            Ok(sender) => {
                // Of one that this takes the place of, what is in flight ends first.
                *lock(&self.http2) = Some(Shared {
                    sender: sender.clone(),
                    proof,
                });
                lock(&self.failures).last = None;
                Ok(sender)
            }
            Err(error) => {
                let error = Arc::new(error);
                let mut failures = lock(&self.failures);
                failures.count += 1;
                failures.last = Some(error.clone());
                Err(ClientError::Shared(error, true))
            }
        }
    }

    async fn connect_http2(&self) -> Result<Sender, ClientError> {
        let (io, open) = self.connect().await?;
        http2::connect(io, &self.http2_params, open)
            .await
            .map_err(ClientError::Broken)
    }

    fn open_http2(&self) -> Option<Sender> {
        let mut http2 = lock(&self.http2);
        let http2 = http2.as_mut()?;
        self.is_open(http2).then(|| http2.sender.clone())
    }

    fn is_open(&self, http2: &mut Shared) -> bool {
        http2.sender.is_open() && http2.proof.is_current(&self.identity)
    }
}

/// Connects from the address of the same family, if there is one.
async fn connect_from(source: &[IpAddr], address: SocketAddr) -> io::Result<TcpStream> {
    let Some(source) = source.iter().find(|ip| ip.is_ipv4() == address.is_ipv4()) else {
        return TcpStream::connect(address).await;
    };
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.bind(SocketAddr::new(*source, 0))?;
    socket.connect(address).await
}

/// A lock whose holders cannot panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an origin answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Response(Response<Body>),
    /// The origin switched protocols: the connection is the client's from here on.
    Upgrade(Response<Body>, Box<Connection>),
}

impl Connection {
    /// Sends a request and drives the connection until the response's head is there.
    async fn exchange(
        &mut self,
        request: &mut Request<RequestBody>,
    ) -> Result<Response<Incoming>, Broken> {
        let Self {
            send,
            driver,
            ended,
            ..
        } = self;
        let mut response = pin!(send.try_send_request(mem::take(request)));
        poll_fn(|cx| {
            if let Poll::Ready(result) = response.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(Broken::from));
            }
            *ended = *ended || driver.poll_without_shutdown(cx).is_ready();
            match response.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(result.map_err(Broken::from)),
                Poll::Pending if *ended => Poll::Ready(Err(Broken::Silent)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        self.ended = self.ended || self.driver.poll_without_shutdown(cx).is_ready();
    }

    /// Open, and done with the last exchange.
    fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.ended && self.send.is_ready()
    }

    /// The bytes of a connection that switched protocols.
    pub(crate) async fn into_io(self: Box<Self>) -> io::Result<Io> {
        let parts = self
            .driver
            .without_shutdown()
            .await
            .map_err(io::Error::other)?;
        let mut io = parts.io.into_inner();
        io.replay(BytesMut::from(parts.read_buf));
        Ok(io)
    }
}

/// A response's body and the connection it comes over.
#[derive(Debug)]
pub(crate) struct Exchange {
    body: Incoming,
    connection: Box<Connection>,
    origin: Arc<Client>,
    /// Read while looking for a whole body.
    first: Option<Result<Frame<Bytes>, hyper::Error>>,
}

/// A hint of what is left, and what was read already.
pub(super) fn plus(rest: SizeHint, read: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    hint.set_lower(rest.lower().saturating_add(read));
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper.saturating_add(read));
    }
    hint
}

/// Whether what follows the answer's head is no HTTP: a switched protocol, or the tunnel that `CONNECT` asked for
/// (RFC 9110 §9.3.6: any 2xx).
pub(crate) fn switches(is_connect: bool, status: http::StatusCode) -> bool {
    status == http::StatusCode::SWITCHING_PROTOCOLS || (is_connect && status.is_success())
}

impl Exchange {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        self.connection.drive(cx);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    /// The whole body, if it is there already and is one frame.
    fn take_whole(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        if self.body.is_end_stream() {
            return Some(Bytes::new());
        }
        let Poll::Ready(Some(frame)) = self.poll_frame(cx) else {
            return None;
        };
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) if self.body.is_end_stream() => return Some(bytes),
            Ok(Ok(bytes)) => self.first = Some(Ok(Frame::data(bytes))),
            Ok(Err(trailers)) => self.first = Some(Ok(trailers)),
            Err(error) => self.first = Some(Err(error)),
        }
        None
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().and_then(|first| first.as_ref().ok());
        let seen = first.and_then(Frame::data_ref).map_or(0, Bytes::len);
        plus(self.body.size_hint(), seen as u64)
    }

    /// Gives the connection back for the next request, if it can serve one.
    pub(crate) fn finish(self) {
        let Self {
            connection, origin, ..
        } = self;
        origin.checkin(connection);
    }
}
