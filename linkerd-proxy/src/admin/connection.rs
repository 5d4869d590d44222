//! Admin connections: bounded in number and in time.

use super::{State, pages};
use crate::{
    inbound::metrics::Detection,
    transport::{Io, detect},
};
use bytes::BytesMut;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use linkerd_tls::{Accept, Id, Prefixed, Sniffed};
use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Detection of TLS, the handshake, and detection of HTTP: each at most this.
const DETECT: Duration = Duration::from_secs(1);
/// From the first byte of a request to the end of its headers.
const HEADERS: Duration = Duration::from_secs(10);
/// Age at which a connection is asked to end; a client that does not read is cut a little later.
const LIFETIME: Duration = Duration::from_secs(600);
/// Streams of an HTTP/2 connection at one time.
const MAX_STREAMS: u32 = 64;
/// Largest HTTP/1 request head, in bytes.
const MAX_HEAD: usize = 32 * 1024;
/// Pause after a failed accept: with no file descriptor left, trying at once would only burn CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause between two log lines about it.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Who is asking.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) addr: SocketAddr,
    pub(super) tls: Tls,
}

/// How a client's connection is protected.
#[derive(Clone, Debug)]
pub(super) enum Tls {
    None,
    /// Mesh TLS, with the identity of the client's certificate if it showed one.
    Mesh(Option<Id>),
}

impl Client {
    pub(super) fn is_local(&self) -> bool {
        self.addr.ip().is_loopback()
    }
}

/// Serves for as long as it is polled; connections go on by themselves.
///
/// # Errors
/// If the runtime cannot use the socket.
pub(crate) async fn serve(listener: std::net::TcpListener, state: State) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let state = Arc::new(state);
    let limit = state.config.admin.max_connections.max(1);
    let places = Arc::new(Semaphore::new(limit));
    let shares = Arc::new(Shares::new(limit));
    let mut logged: Option<Instant> = None;
    loop {
        // The place is taken before the connection: what is beyond the limit waits in the accept queue.
        let place = places.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, addr)) => {
                let Some(share) = shares.take(addr.ip()) else {
                    tracing::debug!(client.addr = %addr, "Too many admin connections of one client");
                    continue;
                };
                let state = state.clone();
                tokio::spawn(async move {
                    let _held = (place, share);
                    if let Err(error) = Box::pin(connection(stream, addr, state)).await {
                        tracing::debug!(client.addr = %addr, %error, "Admin connection failed");
                    }
                });
            }
            Err(error) => {
                if logged.is_none_or(|at| at.elapsed() >= ACCEPT_LOG_INTERVAL) {
                    logged = Some(Instant::now());
                    tracing::warn!(%error, "Admin accept failed");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Connections of each client address: one client must not be able to keep everybody else, the kubelet's probes
/// included, from the admin server.
struct Shares {
    /// Connections of one address at one time: a quarter of all.
    limit: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Shares {
    fn new(places: usize) -> Self {
        Self {
            limit: (places / 4).max(1),
            taken: Mutex::default(),
        }
    }

    fn take(self: &Arc<Self>, ip: IpAddr) -> Option<Share> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(ip).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Share(self.clone(), ip))
    }
}

/// A connection's part of its address's share.
struct Share(Arc<Shares>, IpAddr);

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.1);
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("nothing was sent within {DETECT:?}")]
    Silent,
    #[error("TLS for {0:?}, which is not this proxy")]
    ForeignTls(Option<Box<str>>),
    #[error("TLS, but this proxy is not certified yet")]
    NotCertified,
    #[error("TLS: {0}")]
    Handshake(#[from] linkerd_tls::HandshakeError),
    #[error("not HTTP")]
    NotHttp,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

async fn connection(
    mut stream: TcpStream,
    addr: SocketAddr,
    state: Arc<State>,
) -> Result<(), Failure> {
    let _ = stream.set_nodelay(true);
    let addr = SocketAddr::new(unmapped(addr.ip()), addr.port());
    let mut read = BytesMut::new();
    let sniffed = timeout(DETECT, linkerd_tls::sniff(&mut stream, &mut read)).await;
    match sniffed.map_err(|_| Failure::Silent)?? {
        Sniffed::Tls { sni } => {
            if !sni
                .as_deref()
                .is_some_and(|sni| state.identity.is_own_name(sni))
            {
                return Err(Failure::ForeignTls(sni));
            }
            let credentials = state.identity.current().ok_or(Failure::NotCertified)?;
            let io = Prefixed::new(read, stream);
            let accepted =
                linkerd_tls::accept(&credentials, Accept::Redirected, io, DETECT).await?;
            let tls = Tls::Mesh(accepted.client);
            http(Io::terminated(accepted.io), Client { addr, tls }, state).await
        }
        Sniffed::NotTls => {
            let tls = Tls::None;
            http(Io::tcp(stream, read), Client { addr, tls }, state).await
        }
        Sniffed::Eof => Ok(()),
    }
}

/// Finds out which HTTP is spoken, and counts that as on any other port.
async fn detected(io: &mut Io, counts: &Detection) -> Result<detect::Http, Failure> {
    let started = Instant::now();
    let mut read = BytesMut::new();
    let detected = timeout(DETECT, detect::http(io, &mut read)).await;
    io.replay(read);
    counts.duration.observe(started.elapsed().as_secs_f64());
    let (count, result) = match detected {
        Ok(Ok(detect::Detected::Http(version))) => {
            let count = match version {
                detect::Http::Http1 => &counts.http1,
                detect::Http::Http2 => &counts.http2,
            };
            (count, Ok(version))
        }
        Ok(Ok(detect::Detected::NotHttp)) => (&counts.not_http, Err(Failure::NotHttp)),
        Ok(Ok(detect::Detected::Eof)) => {
            let error = io::ErrorKind::UnexpectedEof.into();
            (&counts.error, Err(Failure::Io(error)))
        }
        Ok(Err(error)) => (&counts.error, Err(error.into())),
        Err(_) => (&counts.read_timeout, Err(Failure::Silent)),
    };
    count.inc();
    result
}

async fn http(mut io: Io, client: Client, state: Arc<State>) -> Result<(), Failure> {
    let (counts, transport) = pages::transport(&state, &client);
    let version = detected(&mut io, &counts).await?;
    io.meter(transport.meter());
    let _open = transport.open();
    let io = TokioIo::new(io);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (state, client) = (state.clone(), client.clone());
        async move { Ok::<_, Infallible>(pages::answer(&state, &client, request).await) }
    });
    match version {
        detect::Http::Http1 => {
            let mut server = hyper::server::conn::http1::Builder::new();
            let server = server.timer(TokioTimer::new()).header_read_timeout(HEADERS);
            let mut connection = pin!(server.max_buf_size(MAX_HEAD).serve_connection(io, service));
            if let Ok(ended) = timeout(LIFETIME, connection.as_mut()).await {
                return Ok(ended?);
            }
            connection.as_mut().graceful_shutdown();
            let _ = timeout(HEADERS, connection).await;
        }
        detect::Http::Http2 => {
            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let server = server.timer(TokioTimer::new()).keep_alive_interval(HEADERS);
            let server = server.max_concurrent_streams(MAX_STREAMS);
            let mut connection = pin!(server.serve_connection(io, service));
            if let Ok(ended) = timeout(LIFETIME, connection.as_mut()).await {
                return Ok(ended?);
            }
            connection.as_mut().graceful_shutdown();
            let _ = timeout(HEADERS, connection).await;
        }
    }
    Ok(())
}

/// IPv4 clients of an IPv6 listener are shown, and matched, as IPv4.
fn unmapped(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_gets_a_quarter_of_the_places_and_gives_them_back() {
        let shares = Arc::new(Shares::new(8));
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let held = [shares.take(a).unwrap(), shares.take(a).unwrap()];
        assert!(shares.take(a).is_none());
        assert!(shares.take(b).is_some());
        drop(held);
        assert!(shares.take(a).is_some());
        assert!(
            shares.taken.lock().unwrap().is_empty(),
            "nothing is left behind"
        );
    }
}
