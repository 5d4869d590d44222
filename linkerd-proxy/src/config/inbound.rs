//! Traffic to the application.

use super::{
    control::Backoff,
    reader::Reader,
    value::{AtMost, Ips, Limit, OwnListeners, Place, PortSet, Suffixes},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Traffic to the application. Field = variable `INBOUND_<FIELD>` unless stated.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Where redirected traffic arrives. `INBOUND_LISTEN_ADDR`.
    pub listen: SocketAddr,
    /// Explicit listeners; their destinations are socket addresses.
    pub listeners: Vec<(SocketAddr, SocketAddr)>,
    /// Allowed original destinations; empty = any.
    pub ips: BTreeSet<IpAddr>,
    /// Ports whose policy is watched for good; the destinations of `listeners` and the admin port are in it.
    pub ports: PortSet,
    /// Ports whose default policy is opaque. `INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION`.
    pub opaque_ports: PortSet,
    /// Limit of detection.
    pub detect_timeout: Duration,
    /// TCP connect to the application.
    pub connect_timeout: Duration,
    /// How long unused policies, profiles and pools are kept.
    pub discovery_idle_timeout: Duration,
    /// Idle time before keep-alive probes on accepted sockets; `None` = the system's.
    pub accept_keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT` on accepted sockets.
    pub accept_user_timeout: Option<Duration>,
    /// Idle time before keep-alive probes on sockets to the application.
    pub connect_keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT` on sockets to the application.
    pub connect_user_timeout: Option<Duration>,
    /// Length of accept queues. `INBOUND_TCP_LISTEN_BACKLOG`.
    pub backlog: u32,
    /// Accepted connections at one time.
    pub max_connections: usize,
    /// Requests that wait for response headers.
    pub max_in_flight: usize,
    /// A TLS handshake after the ClientHello.
    pub tls_handshake_timeout: Duration,
    /// An HTTP/1 request head.
    pub http_header_read_timeout: Duration,
    /// Largest HTTP/1 request head in bytes.
    pub http1_max_header_bytes: usize,
    /// A client connection without a request.
    pub http_idle_timeout: Option<Duration>,
    /// A body that stands still.
    pub http_body_idle_timeout: Option<Duration>,
    /// A forwarded connection without a byte.
    pub tcp_idle_timeout: Option<Duration>,
    /// Ambiguous request paths.
    pub path_normalization: PathNormalization,
    /// HTTP/2 server.
    pub http2: Http2Server,
    /// HTTP/2 client: stream window in bytes. `HTTP2_INITIAL_STREAM_WINDOW_SIZE`.
    pub client_stream_window: u32,
    /// HTTP/2 client: connection window in bytes. `HTTP2_INITIAL_CONNECTION_WINDOW_SIZE`.
    pub client_connection_window: u32,
    /// Requests that may wait for a connection to the application.
    pub http_queue_capacity: usize,
    /// How long they wait.
    pub http_failfast_timeout: Duration,
    /// Idle HTTP/1 connections to the application. `MAX_IDLE_CONNS_PER_ENDPOINT`.
    pub pool_max_idle: usize,
    /// How long they are kept. `INBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT`.
    pub pool_idle_timeout: Duration,
    /// Pauses between attempts to reconnect. `INBOUND_CONNECT_EXP_BACKOFF_*`.
    pub connect_backoff: Backoff,
    /// Names reachable through this proxy as a gateway.
    pub gateway_suffixes: Suffixes,
    /// Whether request metrics have the label `authority`. `INBOUND_METRICS_AUTHORITY_LABELS`.
    pub authority_labels: bool,
    /// How long a request waits for a profile. `DESTINATION_PROFILE_INITIAL_TIMEOUT`.
    pub profile_timeout: Duration,
}

/// What happens to ambiguous request paths. `INBOUND_PATH_NORMALIZATION`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathNormalization {
    /// 400 on ports with path rules.
    #[default]
    Reject,
    /// Matched and forwarded as they are.
    Pass,
}

/// Limits of the HTTP/2 server. `INBOUND_SERVER_HTTP2_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Server {
    /// Stream window in bytes.
    pub initial_stream_window_size: u32,
    /// Connection window in bytes.
    pub initial_connection_window_size: u32,
    /// Adapts both windows instead.
    pub adaptive_flow_control: bool,
    /// PING interval and timeout.
    pub keep_alive: Option<(Duration, Duration)>,
    /// Streams at one time.
    pub max_concurrent_streams: u32,
    /// Largest frame in bytes.
    pub max_frame_size: u32,
    /// Largest header list in bytes.
    pub max_header_list_size: u32,
    /// Streams opened and reset before they were taken up.
    pub max_pending_accept_reset_streams: usize,
    /// Streams reset by us because of a client's errors.
    pub max_local_error_reset_streams: usize,
    /// Bytes buffered for a stream.
    pub max_send_buf_size: usize,
}

impl Http2Server {
    fn read(reader: &Reader<'_>) -> Self {
        const FRAME: &str = "INBOUND_SERVER_HTTP2_MAX_FRAME_SIZE";
        let interval = reader.value::<Limit>("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL");
        let timeout = reader.value::<Limit>("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT");
        let max_frame_size: u32 = reader.value(FRAME);
        // A value that cannot be parsed is an error already, and reads as 0.
        if max_frame_size != 0 && !(16_384..1 << 24).contains(&max_frame_size) {
            reader.error(
                FRAME,
                Some(&max_frame_size.to_string()),
                "is out of range".into(),
                "a number from 16384 to 16777215".into(),
            );
        }
        let window = |name| {
            let bytes: u32 = reader.value(name);
            if bytes >= 1 << 31 {
                let problem = "is larger than HTTP/2 allows".to_owned();
                let right = "a number up to 2147483647".to_owned();
                reader.error(name, Some(&bytes.to_string()), problem, right);
            }
            bytes
        };
        Self {
            initial_stream_window_size: window("INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE"),
            initial_connection_window_size: window(
                "INBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE",
            ),
            adaptive_flow_control: reader.value("INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL"),
            keep_alive: interval.0.zip(timeout.0),
            max_concurrent_streams: reader.value("INBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS"),
            max_frame_size,
            max_header_list_size: reader.value("INBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE"),
            max_pending_accept_reset_streams: reader
                .value("INBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS"),
            max_local_error_reset_streams: reader
                .value("INBOUND_SERVER_HTTP2_MAX_LOCAL_ERROR_RESET_STREAMS"),
            max_send_buf_size: reader.value("INBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE"),
        }
    }
}

impl Inbound {
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let limit = |name| reader.value::<Limit>(name).0;
        let older: Option<usize> = reader.optional("INBOUND_MAX_IDLE_CONNS_PER_ENDPOINT");
        let newer = reader.value("MAX_IDLE_CONNS_PER_ENDPOINT");
        let pool_max_idle = match older {
            Some(older) if reader.text("MAX_IDLE_CONNS_PER_ENDPOINT").is_none() => older,
            _ => newer,
        };
        let listeners = explicit(reader);
        let connect_backoff = Backoff::read(reader, "INBOUND", Duration::from_secs(10));
        let path_normalization = match reader.word("INBOUND_PATH_NORMALIZATION") {
            Some("pass") => PathNormalization::Pass,
            _ => PathNormalization::Reject,
        };
        let listen = reader.optional("INBOUND_LISTEN_ADDR");
        let inbound = Self {
            // After an error any address, since it is not used: every other variable is still read.
            listen: listen.unwrap_or_else(|| ([0, 0, 0, 0], 0).into()),
            ports: watched(reader, &listeners),
            listeners,
            ips: reader.value::<Ips>("INBOUND_IPS").0,
            opaque_ports: reader.value("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION"),
            detect_timeout: reader.value("INBOUND_DETECT_TIMEOUT"),
            connect_timeout: reader.value("INBOUND_CONNECT_TIMEOUT"),
            discovery_idle_timeout: reader.value("INBOUND_DISCOVERY_IDLE_TIMEOUT"),
            accept_keepalive: limit("INBOUND_ACCEPT_KEEPALIVE"),
            accept_user_timeout: limit("INBOUND_ACCEPT_USER_TIMEOUT"),
            connect_keepalive: limit("INBOUND_CONNECT_KEEPALIVE"),
            connect_user_timeout: limit("INBOUND_CONNECT_USER_TIMEOUT"),
            backlog: reader.value("INBOUND_TCP_LISTEN_BACKLOG"),
            max_connections: reader.value::<AtMost>("INBOUND_MAX_CONNECTIONS").0,
            max_in_flight: reader.value("INBOUND_MAX_IN_FLIGHT"),
            tls_handshake_timeout: reader.value("INBOUND_TLS_HANDSHAKE_TIMEOUT"),
            http_header_read_timeout: reader.value("INBOUND_HTTP_HEADER_READ_TIMEOUT"),
            http1_max_header_bytes: reader.value("INBOUND_HTTP1_MAX_HEADER_BYTES"),
            http_idle_timeout: limit("INBOUND_HTTP_IDLE_TIMEOUT"),
            http_body_idle_timeout: limit("INBOUND_HTTP_BODY_IDLE_TIMEOUT"),
            tcp_idle_timeout: limit("INBOUND_TCP_IDLE_TIMEOUT"),
            path_normalization,
            http2: Http2Server::read(reader),
            client_stream_window: reader.value("HTTP2_INITIAL_STREAM_WINDOW_SIZE"),
            client_connection_window: reader.value("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE"),
            http_queue_capacity: reader.value("INBOUND_HTTP_QUEUE_CAPACITY"),
            http_failfast_timeout: reader.value("INBOUND_HTTP_FAILFAST_TIMEOUT"),
            pool_max_idle,
            pool_idle_timeout: reader.value("INBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT"),
            connect_backoff,
            gateway_suffixes: reader.value("INBOUND_GATEWAY_SUFFIXES"),
            authority_labels: authority_labels(reader),
            profile_timeout: reader.value("DESTINATION_PROFILE_INITIAL_TIMEOUT"),
        };
        listen.map(|_| inbound)
    }
}

/// Explicit listeners. Their destinations are the application's own addresses, so a name cannot be meant.
fn explicit(reader: &Reader<'_>) -> Vec<(SocketAddr, SocketAddr)> {
    const NAME: &str = "INBOUND_LISTENERS";
    let OwnListeners(listeners) = reader.value(NAME);
    let own = reader.value::<Ips>("INBOUND_IPS").0;
    let mut explicit = Vec::new();
    for (place, destination) in listeners {
        let super::Address::Socket(addr) = destination else {
            reader.error(
                NAME,
                Some(&destination.to_string()),
                "is a name, but a destination must be an address of the application".into(),
                "an IP address and port, like 127.0.0.1:8080".into(),
            );
            continue;
        };
        match place {
            Place::Socket(listen) => explicit.push((listen, addr)),
            Place::Own(port) if own.is_empty() => reader.error(
                NAME,
                Some(&format!("INBOUND_IPS:{port}")),
                "stands for this workload's addresses, and INBOUND_IPS has none".into(),
                "an address in its place, or INBOUND_IPS".into(),
            ),
            Place::Own(port) => {
                explicit.extend(own.iter().map(|ip| (SocketAddr::new(*ip, port), addr)));
            }
        }
    }
    explicit
}

/// The listed ports, those behind explicit listeners, and the proxy's own port where it is a gateway.
fn watched(reader: &Reader<'_>, listeners: &[(SocketAddr, SocketAddr)]) -> PortSet {
    let mut ports: PortSet = reader.value("INBOUND_PORTS");
    for (_, destination) in listeners {
        ports.insert(destination.port());
    }
    if let Some(admin) = reader.optional::<SocketAddr>("ADMIN_LISTEN_ADDR") {
        ports.insert(admin.port());
    }
    if !reader
        .value::<Suffixes>("INBOUND_GATEWAY_SUFFIXES")
        .is_empty()
        && let Some(proxy) = reader.optional::<SocketAddr>("INBOUND_LISTEN_ADDR")
    {
        ports.insert(proxy.port());
    }
    ports
}

fn authority_labels(reader: &Reader<'_>) -> bool {
    const NAME: &str = "INBOUND_METRICS_AUTHORITY_LABELS";
    match reader.value::<String>(NAME).as_str() {
        "" => false,
        word if word.eq_ignore_ascii_case("unsafe") => true,
        word => {
            let problem = "is not known".to_owned();
            reader.error(NAME, Some(word), problem, "unsafe, or nothing".into());
            false
        }
    }
}
