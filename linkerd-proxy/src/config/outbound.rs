//! Traffic from the application.

use super::{
    control::Backoff,
    reader::Reader,
    value::{
        AtMost, GrpcCodes, Identities, Ips, Limit, Listener, Listeners, Networks, Sockets, Suffixes,
    },
};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Traffic from the application. Field = variable `OUTBOUND_<FIELD>` unless stated.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// Where redirected traffic arrives; empty if nothing is redirected. `OUTBOUND_LISTEN_ADDRS`, else
    /// `OUTBOUND_LISTEN_ADDR`.
    pub listen: Vec<SocketAddr>,
    /// Explicit listeners.
    pub listeners: Vec<Listener>,
    /// Length of accept queues. `OUTBOUND_TCP_LISTEN_BACKLOG`.
    pub backlog: u32,
    /// How long a destination may stay unknown. `OUTBOUND_DISCOVERY_TIMEOUT`.
    pub discovery_timeout: Duration,
    /// What is not known in time is forwarded. `OUTBOUND_DISCOVERY_FALLBACK`.
    pub discovery_forwards: bool,
    /// Destinations watched at one time.
    pub max_destinations: usize,
    /// Retries where policy says nothing of a budget. `OUTBOUND_RETRY_BUDGET_*`.
    pub retry_budget: linkerd_policy::outbound::profile::Budget,
    /// Requests may not leave in plaintext where policy does not say. `OUTBOUND_MTLS`.
    pub mtls_required: bool,
    /// The only servers that requests may go to where policy names none; empty: any. `OUTBOUND_SERVER_IDENTITIES`.
    pub server_identities: Vec<linkerd_tls::Id>,
    /// gRPC codes that count as failures. `OUTBOUND_FAILURE_GRPC_CODES`.
    pub failure_grpc_codes: Vec<u8>,
    /// Queues and detection are limited as policy says. `OUTBOUND_POLICY_LIMITS`.
    pub policy_limits: bool,
    /// Failures of our own end the application's connection.
    pub close_on_error: bool,
    /// Connections served at one time.
    pub max_connections: usize,
    /// Limit of reading a request's head.
    pub http_header_read_timeout: Duration,
    /// How long a connection is kept without a request.
    pub http_idle_timeout: Option<Duration>,
    /// Idle time before keep-alive probes on accepted sockets.
    pub accept_keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT` on accepted sockets.
    pub accept_user_timeout: Option<Duration>,
    /// Idle time before keep-alive probes on sockets to endpoints.
    pub connect_keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT` on sockets to endpoints.
    pub connect_user_timeout: Option<Duration>,
    /// Limit of detection.
    pub detect_timeout: Duration,
    /// How long unused lookups are kept.
    pub discovery_idle_timeout: Duration,
    /// TCP, TLS and transport header.
    pub connect_timeout: Duration,
    /// Pauses between attempts to reconnect. `OUTBOUND_CONNECT_EXP_BACKOFF_*`.
    pub connect_backoff: Backoff,
    /// Opaque connections that may wait for an endpoint.
    pub tcp_queue_capacity: usize,
    /// How long they wait.
    pub tcp_failfast_timeout: Duration,
    /// Requests that may wait for an endpoint.
    pub http_queue_capacity: usize,
    /// How long they wait.
    pub http_failfast_timeout: Duration,
    /// Requests that wait for response headers.
    pub max_in_flight: usize,
    /// Requests to one destination that may wait for response headers. `OUTBOUND_MAX_IN_FLIGHT_PER_DESTINATION`.
    pub max_in_flight_per_destination: usize,
    /// Idle HTTP/1 connections to an endpoint. `OUTBOUND_MAX_IDLE_CONNS_PER_ENDPOINT`.
    pub pool_max_idle: usize,
    /// How long they are kept. `OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT`.
    pub pool_idle_timeout: Duration,
    /// Leaves informational headers out of our own answers.
    pub disable_informational_headers: bool,
    /// Fills the label `hostname`. `OUTBOUND_METRICS_HOSTNAME_LABELS`.
    pub hostname_labels: bool,
    /// Routes by name. `INGRESS_MODE`.
    pub ingress_mode: bool,
    /// HTTP/2 server.
    pub http2: OutboundHttp2Server,
    /// HTTP/2 client: stream window in bytes. `HTTP2_INITIAL_STREAM_WINDOW_SIZE`.
    pub client_stream_window: u32,
    /// HTTP/2 client: connection window in bytes. `HTTP2_INITIAL_CONNECTION_WINDOW_SIZE`.
    pub client_connection_window: u32,
    /// This workload's addresses: endpoints there are local. `INBOUND_IPS`.
    pub local_ips: BTreeSet<IpAddr>,
    /// Addresses that get a profile lookup. `DESTINATION_PROFILE_NETWORKS`.
    pub profile_networks: Vec<IpNet>,
    /// Names that get a profile lookup. `DESTINATION_PROFILE_SUFFIXES`.
    pub profile_suffixes: Suffixes,
}

/// Where redirected traffic arrives unless configured.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4140);

/// Limits of the HTTP/2 server; `None` = the library's. `OUTBOUND_SERVER_HTTP2_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundHttp2Server {
    /// Stream and connection window in bytes; both or none.
    pub windows: Option<(u32, u32)>,
    /// Adapts both windows instead.
    pub adaptive_flow_control: bool,
    /// PING interval and timeout.
    pub keep_alive: Option<(Duration, Duration)>,
    /// Streams at one time.
    pub max_concurrent_streams: Option<u32>,
    /// Largest frame in bytes.
    pub max_frame_size: Option<u32>,
    /// Largest header list in bytes.
    pub max_header_list_size: Option<u32>,
    /// Streams opened and reset before they were taken up.
    pub max_pending_accept_reset_streams: Option<usize>,
    /// Bytes buffered for a stream.
    pub max_send_buf_size: Option<usize>,
}

impl OutboundHttp2Server {
    fn read(reader: &Reader<'_>) -> Self {
        let interval = reader.value::<Limit>("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL");
        let timeout = reader.value::<Limit>("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT");
        let stream = reader.optional("OUTBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE");
        let connection = reader.optional("OUTBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE");
        Self {
            windows: stream.zip(connection),
            adaptive_flow_control: reader.value("OUTBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL"),
            keep_alive: interval.0.zip(timeout.0),
            max_concurrent_streams: reader.optional("OUTBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS"),
            max_frame_size: reader.optional("OUTBOUND_SERVER_HTTP2_MAX_FRAME_SIZE"),
            max_header_list_size: reader.optional("OUTBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE"),
            max_pending_accept_reset_streams: reader
                .optional("OUTBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS"),
            max_send_buf_size: reader.optional("OUTBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE"),
        }
    }
}

/// The budget of retries, within the bounds that service profiles have as well.
fn retry_budget(reader: &Reader<'_>) -> linkerd_policy::outbound::profile::Budget {
    let ratio: f64 = reader.value("OUTBOUND_RETRY_BUDGET_RATIO");
    if !(0.0..=1000.0).contains(&ratio) {
        let right = "a number from 0 to 1000, like 0.2".to_owned();
        let problem = "is out of range".to_owned();
        let value = ratio.to_string();
        reader.error("OUTBOUND_RETRY_BUDGET_RATIO", Some(&value), problem, right);
    }
    let ttl: Duration = reader.value("OUTBOUND_RETRY_BUDGET_TTL");
    if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&ttl) {
        let value = format!("{ttl:?}");
        let problem = "is out of range".to_owned();
        let right = "1s to 60s".to_owned();
        reader.error("OUTBOUND_RETRY_BUDGET_TTL", Some(&value), problem, right);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a ratio needs no more digits"
    )]
    let ratio = ratio as f32;
    linkerd_policy::outbound::profile::Budget {
        ratio,
        min_per_second: reader.value("OUTBOUND_RETRY_BUDGET_MIN_PER_SECOND"),
        ttl,
    }
}

impl Outbound {
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let limit = |name| reader.value::<Limit>(name).0;
        let one: Option<SocketAddr> = reader.optional("OUTBOUND_LISTEN_ADDR");
        let Listeners(listeners) = reader.value("OUTBOUND_LISTENERS");
        let is_explicit = !listeners.is_empty() || reader.text("INBOUND_LISTENERS").is_some();
        let listen = match (reader.optional::<Sockets>("OUTBOUND_LISTEN_ADDRS"), one) {
            (Some(Sockets(several)), _) => several,
            (None, Some(one)) => vec![one],
            (None, None) if is_explicit => Vec::new(),
            (None, None) => vec![DEFAULT_LISTEN],
        };
        let ingress_mode = reader.value("INGRESS_MODE");
        let GrpcCodes(failure_grpc_codes) = reader.value("OUTBOUND_FAILURE_GRPC_CODES");
        Some(Self {
            discovery_timeout: reader.value("OUTBOUND_DISCOVERY_TIMEOUT"),
            discovery_forwards: reader.word("OUTBOUND_DISCOVERY_FALLBACK") == Some("forward"),
            max_destinations: reader.value::<AtMost>("OUTBOUND_MAX_DESTINATIONS").0,
            retry_budget: retry_budget(reader),
            mtls_required: reader.word("OUTBOUND_MTLS") == Some("required"),
            server_identities: reader.value::<Identities>("OUTBOUND_SERVER_IDENTITIES").0,
            failure_grpc_codes,
            policy_limits: reader.value("OUTBOUND_POLICY_LIMITS"),
            close_on_error: reader.value("OUTBOUND_CLOSE_ON_ERROR"),
            max_connections: reader.value::<AtMost>("OUTBOUND_MAX_CONNECTIONS").0,
            http_header_read_timeout: reader.value("OUTBOUND_HTTP_HEADER_READ_TIMEOUT"),
            http_idle_timeout: limit("OUTBOUND_HTTP_IDLE_TIMEOUT"),
            listen,
            listeners,
            backlog: reader.value("OUTBOUND_TCP_LISTEN_BACKLOG"),
            accept_keepalive: limit("OUTBOUND_ACCEPT_KEEPALIVE"),
            accept_user_timeout: limit("OUTBOUND_ACCEPT_USER_TIMEOUT"),
            connect_keepalive: limit("OUTBOUND_CONNECT_KEEPALIVE"),
            connect_user_timeout: limit("OUTBOUND_CONNECT_USER_TIMEOUT"),
            detect_timeout: reader.value("OUTBOUND_DETECT_TIMEOUT"),
            discovery_idle_timeout: reader.value("OUTBOUND_DISCOVERY_IDLE_TIMEOUT"),
            connect_timeout: reader.value("OUTBOUND_CONNECT_TIMEOUT"),
            connect_backoff: Backoff::read(reader, "OUTBOUND", Duration::from_secs(60)),
            tcp_queue_capacity: reader.value("OUTBOUND_TCP_QUEUE_CAPACITY"),
            tcp_failfast_timeout: reader.value("OUTBOUND_TCP_FAILFAST_TIMEOUT"),
            http_queue_capacity: reader.value("OUTBOUND_HTTP_QUEUE_CAPACITY"),
            http_failfast_timeout: reader.value("OUTBOUND_HTTP_FAILFAST_TIMEOUT"),
            max_in_flight: reader.value("OUTBOUND_MAX_IN_FLIGHT"),
            max_in_flight_per_destination: reader
                .value::<AtMost>("OUTBOUND_MAX_IN_FLIGHT_PER_DESTINATION")
                .0,
            pool_max_idle: reader.value("OUTBOUND_MAX_IDLE_CONNS_PER_ENDPOINT"),
            pool_idle_timeout: reader.value("OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT"),
            disable_informational_headers: reader
                .optional("OUTBOUND_DISABLE_INFORMATIONAL_HEADERS")
                .unwrap_or(ingress_mode),
            hostname_labels: reader.value("OUTBOUND_METRICS_HOSTNAME_LABELS"),
            ingress_mode,
            http2: OutboundHttp2Server::read(reader),
            client_stream_window: reader.value("HTTP2_INITIAL_STREAM_WINDOW_SIZE"),
            client_connection_window: reader.value("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE"),
            local_ips: reader.value::<Ips>("INBOUND_IPS").0,
            profile_networks: reader.value::<Networks>("DESTINATION_PROFILE_NETWORKS").0,
            profile_suffixes: reader.value("DESTINATION_PROFILE_SUFFIXES"),
        })
    }
}
