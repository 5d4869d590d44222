//! Listening sockets, socket options and the original destination of a redirected connection.

use crate::drain::{Drain, Phase};
use linkerd_metrics::{Counter, Family, Labels};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};

/// Options of accepted or opened sockets; `TCP_NODELAY` and `SO_KEEPALIVE` are always on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SocketOptions {
    /// Idle time before the first keep-alive probe; absent = the system's.
    pub(crate) keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged; absent = the system's.
    pub(crate) user_timeout: Option<Duration>,
}

impl SocketOptions {
    /// Sets the options. A refused option is not worth a connection: it is said once a call, at debug.
    pub(crate) fn apply(&self, stream: &TcpStream) {
        let socket = SockRef::from(stream);
        let mut keepalive = TcpKeepalive::new();
        if let Some(time) = self.keepalive {
            keepalive = keepalive.with_time(time);
        }
        let results = [
            stream.set_nodelay(true),
            socket.set_tcp_keepalive(&keepalive),
            match self.user_timeout {
                Some(timeout) => socket.set_tcp_user_timeout(Some(timeout)),
                None => Ok(()),
            },
        ];
        for error in results.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "a socket option was refused");
        }
    }
}

/// Binds a listening socket, ready to be cloned into each worker's runtime.
///
/// `[::]` takes both families. `backlog` is the kernel's queue of connections not yet accepted.
pub(crate) fn bind(address: SocketAddr, backlog: u32) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Accepts for ever, riding out what cannot be accepted.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: TcpListener,
    options: SocketOptions,
    errors: Family<Counter>,
    failing: bool,
}

impl Acceptor {
    /// Must be called inside the runtime that will accept.
    pub(crate) fn new(
        listener: &std::net::TcpListener,
        options: SocketOptions,
        errors: Family<Counter>,
    ) -> io::Result<Self> {
        let listener = TcpListener::from_std(listener.try_clone()?)?;
        Ok(Self {
            listener,
            options,
            errors,
            failing: false,
        })
    }

    fn count(&self, reason: &'static str) {
        self.errors.get(&Labels::new().with("reason", reason)).inc();
    }

    /// The next connection and the client's address, IPv4-mapped addresses unwrapped.
    ///
    /// Out of file descriptors or memory, it waits a tenth of a second between tries, so that live connections keep
    /// the CPU, and logs when that begins and ends.
    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, client)) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("Accepting connections again");
                    }
                    self.options.apply(&stream);
                    return (stream, unmapped(client));
                }
                // The client gave up while it was queued: no fault of the listener's.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                    self.count("aborted")
                }
                Err(error) => {
                    self.count(match error.raw_os_error() {
                        Some(EMFILE | ENFILE) => "files",
                        Some(ENOMEM | ENOBUFS) => "memory",
                        _ => "other",
                    });
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(%error, "Connections cannot be accepted; trying every 100 ms");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Acceptor {
    /// Accepts until the proxy closes its listeners, and then what the kernel has begun by then: closing the listener
    /// would reset those connections, with the requests that their clients have sent.
    pub(crate) async fn serve(mut self, mut drain: Drain, serve: impl Fn(TcpStream, SocketAddr)) {
        loop {
            tokio::select! {
                (stream, client) = self.accept() => serve(stream, client),
                () = drain.reached(Phase::Closing) => break,
            }
        }
        self.refuse();
        let settled = tokio::time::Instant::now() + SETTLE;
        while let Ok((stream, client)) = tokio::time::timeout_at(settled, self.accept()).await {
            serve(stream, client);
        }
    }

    /// Has the kernel begin no more connections. A client that comes later hears nothing, and is refused when it tries
    /// again and the listener is closed.
    fn refuse(&self) {
        // Of the TCP header, the byte with the flags: SYN without ACK is dropped, everything else goes on.
        let filter = [
            SockFilter::new(BPF_LOAD_BYTE, 0, 0, 13),
            SockFilter::new(BPF_AND, 0, 0, SYN | ACK),
            SockFilter::new(BPF_JUMP_IF_EQUAL, 0, 1, SYN),
            SockFilter::new(BPF_RETURN, 0, 0, 0),
            SockFilter::new(BPF_RETURN, 0, 0, u32::MAX),
        ];
        if let Err(error) = SockRef::from(&self.listener).attach_filter(&filter) {
            tracing::debug!(%error, "The kernel goes on beginning connections");
        }
    }
}

/// How long a connection that has begun may take until it can be accepted: a round trip.
const SETTLE: Duration = Duration::from_millis(200);

const SYN: u32 = 0x02;
const ACK: u32 = 0x10;
// Classic BPF: `ldb [k]`, `and #k`, `jeq #k, jt, jf`, `ret #k`.
const BPF_LOAD_BYTE: u16 = 0x30;
const BPF_AND: u16 = 0x54;
const BPF_JUMP_IF_EQUAL: u16 = 0x15;
const BPF_RETURN: u16 = 0x06;

// Linux's numbers, the same on every architecture that the proxy is built for.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOMEM: i32 = 12;
const ENOBUFS: i32 = 105;

/// The address a client dialled before the kernel redirected it (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`).
///
/// Without a redirect it is the socket's own address.
pub(crate) fn original_destination(
    stream: &TcpStream,
    client: SocketAddr,
) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let original = if client.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    match original.ok().and_then(|address| address.as_socket()) {
        Some(address) => Ok(unmapped(address)),
        None => stream.local_addr().map(unmapped),
    }
}

/// Shows IPv4-mapped IPv6 addresses as what they are.
pub(crate) fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(ip.into(), address.port()),
            None => address,
        },
        IpAddr::V4(_) => address,
    }
}
