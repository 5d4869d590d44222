//! The table of variables: name, section, syntax, default, origin and meaning.
//!
//! Everything else about the configuration is derived from it: what [`super::reader`] accepts, what is warned of as
//! unknown, and `docs/configuration.md` (by [`super::reference()`], compared by a test).

use super::value::Syntax;

/// Who knows a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Set by the injector of the control plane's chart.
    Injected,
    /// Known to other proxies of the mesh, set by hand if at all.
    Known,
    /// Ours.
    Ours,
    /// Accepted and ignored.
    Ignored,
}

/// One variable.
#[derive(Clone, Copy, Debug)]
pub struct Var {
    /// Name without the prefix `LINKERD2_PROXY_`.
    pub name: &'static str,
    /// Heading in the documentation.
    pub section: &'static str,
    /// Type and unit.
    pub syntax: Syntax,
    /// Value when unset, as one would write it; absent if there is none.
    pub default: Option<&'static str>,
    /// Who knows it.
    pub origin: Origin,
    /// Meaning.
    pub doc: &'static str,
}

/// The row of a name without prefix.
pub fn find(name: &str) -> Option<&'static Var> {
    VARS.iter().find(|var| var.name == name)
}

/// Names whose values are checked and kept, but which nothing acts on yet; the documentation says so.
pub const WITHOUT_EFFECT: &[&str] = &[
    "CONTROL_LISTEN_ADDR",
    "DESTINATION_PROFILE_INITIAL_TIMEOUT",
    "INBOUND_GATEWAY_SUFFIXES",
    "INBOUND_HTTP_FAILFAST_TIMEOUT",
    "INBOUND_HTTP_QUEUE_CAPACITY",
    "TAP_SVC_NAME",
];

macro_rules! vars {
    ($($section:literal { $($name:literal, $syntax:expr, $default:expr, $origin:ident, $doc:literal;)+ })+) => {
        /// Every variable, in the documentation's order.
        pub const VARS: &[Var] = &[$($(Var {
            name: $name,
            section: $section,
            syntax: $syntax,
            default: $default,
            origin: Origin::$origin,
            doc: $doc,
        },)+)+];
    };
}

vars! {
"Process" {
    "LOG", Syntax::Text, Some("warn,linkerd=info,hickory=error"), Injected,
        "Log filter: comma list of `level`, `target=level`, `[span{field}]=level`; `off` disables logging for good.";
    "LOG_FORMAT", Syntax::Text, Some("plain"), Injected,
        "`json` (any case): one object a line; anything else: plain lines.";
    "ACCESS_LOG", Syntax::Text, None, Injected,
        "`apache` or `json` (any case): a line to stderr for each inbound HTTP request. Unset: off.";
    "CORES", Syntax::Number, None, Injected,
        "Least number of worker threads, where `CORES_MIN` is not set. Bad values are warned of and ignored, here and in the next three.";
    "CORES_MIN", Syntax::Number, None, Injected,
        "Least number of worker threads.";
    "CORES_MAX", Syntax::Number, None, Injected,
        "Largest number of worker threads. Never more than there are CPUs.";
    "CORES_MAX_RATIO", Syntax::Float, None, Injected,
        "Share of the available CPUs, above 0 and up to 1, where `CORES_MAX` is not set.";
    "SHUTDOWN_ENDPOINT_ENABLED", Syntax::Bool, Some("false"), Injected,
        "Whether `POST /shutdown` on the admin port, from loopback, ends the process.";
    "SHUTDOWN_GRACE_PERIOD", Syntax::Duration, Some("2m"), Injected,
        "Longest drain; what is left then is cut.";
    "SHUTDOWN_DRAIN_WINDOW", Syntax::Duration, Some("2s"), Ours,
        "How long after SIGTERM connections are still accepted, and answered with `Connection: close` or GOAWAY, so that no client is refused before it has learnt of the end. `/ready` answers 200 as long as connections are accepted and 503 after that; the admin server answers until the process ends. `0` closes the listeners at once. Never longer than the grace period.";
}
"Inbound" {
    "INBOUND_LISTEN_ADDR", Syntax::Socket, Some("0.0.0.0:4143"), Injected,
        "Where redirected traffic arrives; the port of direct connections.";
    "INBOUND_LISTENERS", Syntax::OwnListeners, Some(""), Ours,
        "Explicit listeners, for places where traffic cannot be redirected: what is accepted on `listen` is treated as if `destination` (an address of the application) were its original destination. The policy is that of the destination's port. `INBOUND_IPS:8080` stands for the port 8080 of each of `INBOUND_IPS`.";
    "INBOUND_IPS", Syntax::Ips, None, Injected,
        "Original destinations that are allowed. Unset: any. Shared with outbound, where these addresses are local.";
    "INBOUND_PORTS", Syntax::Ports, Some(""), Injected,
        "Ports whose policy is watched from the start, for good, and which readiness waits for. The admin port is added.";
    "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", Syntax::Ports, Some(""), Injected,
        "Ports on which the default policy is opaque, until the controller says otherwise.";
    "INBOUND_DEFAULT_POLICY", Syntax::DefaultPolicy, Some("all-unauthenticated"), Injected,
        "Policy of a port for which the controller has never given one.";
    "POLICY_CLUSTER_NETWORKS", Syntax::Networks, Some(""), Injected,
        "Networks of the `cluster-*` default policies, which need it.";
    "INBOUND_CONNECT_TIMEOUT", Syntax::Duration, Some("300ms"), Injected,
        "TCP connect to the application.";
    "INBOUND_DISCOVERY_IDLE_TIMEOUT", Syntax::Duration, Some("90s"), Injected,
        "How long the policy of an unlisted port is kept unused.";
    "INBOUND_DETECT_TIMEOUT", Syntax::Duration, Some("10s"), Injected,
        "Reading the ClientHello, a transport header, or the HTTP version on meshed `http1` ports; and the limit of the default policy.";
    "INBOUND_ACCEPT_KEEPALIVE", Syntax::Limit, Some("10s"), Injected,
        "Idle time before TCP keep-alive probes on accepted sockets. Empty: the system's.";
    "INBOUND_ACCEPT_USER_TIMEOUT", Syntax::Limit, Some("30s"), Injected,
        "`TCP_USER_TIMEOUT` of accepted sockets. Empty: the system's.";
    "INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", Syntax::Limit, Some("10s"), Injected,
        "Silence before an HTTP/2 PING to a client. Takes effect only together with the timeout.";
    "INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", Syntax::Limit, Some("3s"), Injected,
        "How long a PING may stay unanswered.";
    "INBOUND_GATEWAY_SUFFIXES", Syntax::Suffixes, Some(""), Injected,
        "Names that a mesh peer may reach through this proxy as a gateway. Empty: none.";
    "INBOUND_CONNECT_EXP_BACKOFF_MIN", Syntax::Duration, None, Known,
        "First pause before reconnecting to the application or a loopback controller. Must be set together with `_MAX`. Unset: 100ms.";
    "INBOUND_CONNECT_EXP_BACKOFF_MAX", Syntax::Duration, None, Known,
        "Longest pause. Unset: 10s.";
    "INBOUND_CONNECT_EXP_BACKOFF_JITTER", Syntax::Float, None, Known,
        "Share of a pause that is drawn at random on top. Unset: 0.1, or 0 where `_MIN` and `_MAX` are set.";
    "INBOUND_CONNECT_KEEPALIVE", Syntax::Limit, Some(""), Known,
        "Idle time before TCP keep-alive probes on sockets to the application.";
    "INBOUND_CONNECT_USER_TIMEOUT", Syntax::Limit, Some(""), Known,
        "`TCP_USER_TIMEOUT` of sockets to the application.";
    "INBOUND_TCP_LISTEN_BACKLOG", Syntax::Number, Some("1024"), Known,
        "Length of the accept queue; for the admin port too.";
    "INBOUND_MAX_CONNECTIONS", Syntax::Positive, Some("20000"), Ours,
        "Accepted connections at one time; further ones are closed at once.";
    "INBOUND_MAX_IN_FLIGHT", Syntax::Number, Some("100000"), Known,
        "Requests that wait for response headers, over all connections; further ones get 503.";
    "INBOUND_TLS_HANDSHAKE_TIMEOUT", Syntax::Duration, Some("10s"), Ours,
        "A whole TLS handshake after the ClientHello.";
    "INBOUND_HTTP_HEADER_READ_TIMEOUT", Syntax::Duration, Some("10s"), Ours,
        "From the first byte of an HTTP/1 request to the end of its headers.";
    "INBOUND_HTTP1_MAX_HEADER_BYTES", Syntax::Number, Some("65536"), Ours,
        "Largest HTTP/1 request head, in bytes; a larger one gets 431.";
    "INBOUND_HTTP_IDLE_TIMEOUT", Syntax::Limit, Some("1h"), Ours,
        "How long a client connection may stay without a request. Empty: for ever.";
    "INBOUND_HTTP_BODY_IDLE_TIMEOUT", Syntax::Limit, Some(""), Ours,
        "How long the next part of a body may be waited for, of a request from the client or of a response from the application. Empty: for ever, which long watches may need.";
    "INBOUND_TCP_IDLE_TIMEOUT", Syntax::Limit, Some(""), Ours,
        "How long a connection that is not HTTP, or no longer (an upgrade), may stay without a byte in either direction. Empty: for ever.";
    "INBOUND_PATH_NORMALIZATION", Syntax::Word(&["reject", "pass"]), Some("reject"), Ours,
        "What happens to a request path with dot segments, empty segments (`//`) or parameters (`;`), or with an encoded slash, backslash, dot or NUL, on a port with path rules: `reject` answers 400, `pass` matches and forwards the bytes as they are.";
    "INBOUND_HTTP_QUEUE_CAPACITY", Syntax::Number, Some("10000"), Known,
        "Requests that may wait for a connection to the application.";
    "INBOUND_HTTP_FAILFAST_TIMEOUT", Syntax::Duration, Some("1s"), Known,
        "How long they wait.";
    "INBOUND_MAX_IDLE_CONNS_PER_ENDPOINT", Syntax::Number, None, Known,
        "Older spelling of `MAX_IDLE_CONNS_PER_ENDPOINT`, which wins.";
    "MAX_IDLE_CONNS_PER_ENDPOINT", Syntax::Number, Some("10000"), Known,
        "Idle HTTP/1 connections kept to the application.";
    "INBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", Syntax::Duration, Some("3s"), Known,
        "How long they are kept.";
    "INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", Syntax::Number, Some("65535"), Known,
        "Bytes that a client may send on a stream before it must wait.";
    "INBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", Syntax::Number, Some("1048576"), Known,
        "The same for a connection.";
    "INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", Syntax::Bool, Some("false"), Known,
        "Adapts both windows to the measured delay instead.";
    "INBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS", Syntax::Number, Some("1000"), Known,
        "Streams of one connection at one time.";
    "INBOUND_SERVER_HTTP2_MAX_FRAME_SIZE", Syntax::Number, Some("16384"), Known,
        "Largest frame accepted, in bytes (16384 to 16777215).";
    "INBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE", Syntax::Number, Some("16384"), Known,
        "Largest header list accepted, in bytes; a larger one gets 431.";
    "INBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS", Syntax::Number, Some("20"), Known,
        "Streams that a client has opened and reset before they were taken up; more end the connection.";
    "INBOUND_SERVER_HTTP2_MAX_LOCAL_ERROR_RESET_STREAMS", Syntax::Number, Some("1024"), Ours,
        "Streams that this proxy had to reset because of a client's errors; more end the connection.";
    "INBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE", Syntax::Number, Some("65536"), Known,
        "Bytes buffered for a stream whose client does not read.";
    "HTTP2_INITIAL_STREAM_WINDOW_SIZE", Syntax::Number, Some("65535"), Known,
        "HTTP/2 client: bytes that an application or endpoint may send on a stream before it must wait.";
    "HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", Syntax::Number, Some("1048576"), Known,
        "The same for a connection.";
    "INBOUND_METRICS_AUTHORITY_LABELS", Syntax::Text, Some(""), Known,
        "`unsafe` (any case) adds the label `authority` to inbound request metrics: clients then choose label values. Empty: off.";
}
"Policy" {
    "POLICY_SVC_ADDR", Syntax::Address, None, Injected,
        "Policy controller. Required.";
    "POLICY_SVC_NAME", Syntax::Identity, None, Injected,
        "Its identity; not needed with a loopback address.";
    "POLICY_WORKLOAD", Syntax::Text, None, Injected,
        "This workload's name for the controller; sent as it is. Required.";
    "POLICY_WAIT_TIMEOUT", Syntax::Duration, Some("3s"), Ours,
        "How long the first connection to a port, and readiness, wait for the first policy of the port. Then the default policy applies until there is one.";
    "POLICY_FAIL_CLOSED", Syntax::Bool, Some("false"), Ours,
        "Denies on ports without a policy from the controller, instead of the default policy. `/live` and `/ready` still answer.";
    "READY_REQUIRES_POLICY", Syntax::Bool, Some("false"), Ours,
        "Readiness waits for the policy of every listed port without end, instead of for `POLICY_WAIT_TIMEOUT`.";
    "POLICY_MAX_PORTS", Syntax::Positive, Some("1024"), Ours,
        "Unlisted ports that are watched at one time. Beyond it the one unused for longest gives way; if all are in use, connections to a further port are denied.";
    "DENIAL_LOG_INTERVAL", Syntax::Duration, Some("1m"), Ours,
        "Pause between two log lines about the same denial; the second one says how many there were.";
}
"Control plane" {
    "DESTINATION_SVC_ADDR", Syntax::Address, None, Injected,
        "Destination controller. Required.";
    "DESTINATION_SVC_NAME", Syntax::Identity, None, Injected,
        "Its identity; not needed with a loopback address.";
    "DESTINATION_CONTEXT", Syntax::Text, Some(""), Injected,
        "Sent with every lookup as `context_token`.";
    "DESTINATION_PROFILE_SUFFIXES", Syntax::Suffixes, Some("svc.cluster.local."), Injected,
        "Names that get a profile lookup.";
    "DESTINATION_PROFILE_NETWORKS", Syntax::Networks, Some(""), Injected,
        "Addresses that get a profile lookup.";
    "DESTINATION_PROFILE_INITIAL_TIMEOUT", Syntax::Duration, Some("500ms"), Known,
        "How long an inbound request waits for a profile before it goes on without.";
    "CONTROL_STREAM_INITIAL_TIMEOUT", Syntax::Limit, Some(""), Injected,
        "How long a stream to a controller may stay without its first message. Must not exceed the next one. The three limits do not apply to loopback controllers.";
    "CONTROL_STREAM_IDLE_TIMEOUT", Syntax::Limit, Some(""), Injected,
        "How long it may stay without a further message. Must not exceed the next one.";
    "CONTROL_STREAM_LIFETIME", Syntax::Limit, Some(""), Injected,
        "How long it lives before it is opened anew.";
    "CONTROL_CONNECT_TIMEOUT", Syntax::Duration, Some("5s"), Ours,
        "TCP connect and TLS handshake to a replica of a controller.";
    "DNS_MIN_TTL", Syntax::Duration, None, Known,
        "How long the addresses of a controller's name are kept at least. Unset: 5s.";
    "DNS_MAX_TTL", Syntax::Duration, None, Known,
        "How long at most, also where DNS allows for longer. Unset: 1h.";
    "TRACE_COLLECTOR_SVC_ADDR", Syntax::Address, None, Injected,
        "Trace collector. Unset: no spans.";
    "TRACE_COLLECTOR_SVC_NAME", Syntax::Identity, None, Injected,
        "Its identity; not needed with a loopback address.";
    "TRACE_SERVICE_NAME", Syntax::Text, None, Injected,
        "Service name of spans.";
    "TRACE_ATTRIBUTES_PATH", Syntax::Text, None, Injected,
        "File with attributes of spans, lines of `key=value`.";
    "TRACE_EXTRA_ATTRIBUTES", Syntax::Text, None, Injected,
        "Further attributes, lines of `key=value`.";
    "TAP_SVC_NAME", Syntax::Identity, None, Injected,
        "The one client that may tap. Unset: tap is off.";
}
"Identity" {
    "IDENTITY_DIR", Syntax::Text, None, Injected,
        "A directory for `key.p8` and `csr.der`; they are created where they are missing. Unset: the key is in memory only, and another with each start.";
    "IDENTITY_TOKEN_FILE", Syntax::Text, None, Injected,
        "A file with the token shown to the identity service; read afresh at every attempt. Required, and must not be empty at start, unless certificates come from SPIRE.";
    "IDENTITY_TRUST_ANCHORS", Syntax::Text, None, Injected,
        "The trust anchors as PEM. Required, unless there is a file of them or certificates come from SPIRE.";
    "IDENTITY_TRUST_ANCHORS_FILE", Syntax::Text, None, Ours,
        "A file with the trust anchors as PEM, read again every five seconds: what is in it replaces `IDENTITY_TRUST_ANCHORS`, which counts only while it cannot be read at start. A file that is of no use changes nothing.";
    "IDENTITY_LOCAL_NAME", Syntax::Name, None, Injected,
        "This workload's identity and TLS server name. Required, unless the next two are given.";
    "IDENTITY_SERVER_ID", Syntax::Identity, None, Known,
        "This workload's identity, where `IDENTITY_LOCAL_NAME` is unset. With SPIRE: its SPIFFE ID.";
    "IDENTITY_SERVER_NAME", Syntax::Name, None, Known,
        "This workload's TLS server name, where `IDENTITY_LOCAL_NAME` is unset.";
    "IDENTITY_SVC_ADDR", Syntax::Address, None, Injected,
        "Identity service. Required, unless certificates come from SPIRE.";
    "IDENTITY_SVC_NAME", Syntax::Identity, None, Injected,
        "Its identity; not needed with a loopback address.";
    "IDENTITY_MIN_REFRESH", Syntax::Duration, Some("10s"), Known,
        "Shortest pause between two certificates. Failed attempts are repeated sooner.";
    "IDENTITY_MAX_REFRESH", Syntax::Duration, Some("1d"), Known,
        "Longest pause between two certificates.";
    "IDENTITY_CERTIFY_TIMEOUT", Syntax::Duration, Some("10s"), Ours,
        "Limit of one attempt to get a certificate.";
    "IDENTITY_DISABLED", Syntax::Text, None, Known,
        "Refused: a proxy without identity is not supported. Any value ends the process with 64.";
    "IDENTITY_SPIRE_WORKLOAD_API_ADDRESS", Syntax::Text, None, Known,
        "Socket of a SPIRE agent (`unix:///run/spire/agent.sock`, or the path alone): certificates, their keys and the anchors of the workload's trust domain come from it, in place of the identity service. `IDENTITY_TRUST_ANCHORS` are believed besides.";
    "IDENTITY_SPIRE_SOCKET", Syntax::Text, None, Known,
        "Older spelling of the same.";
    "IDENTITY_SPIRE_EXP_BACKOFF_MIN", Syntax::Duration, None, Known,
        "First pause before the agent is asked again. Must be set together with `_MAX`. Unset: 100ms.";
    "IDENTITY_SPIRE_EXP_BACKOFF_MAX", Syntax::Duration, None, Known,
        "Longest pause. Unset: 1s.";
    "IDENTITY_SPIRE_EXP_BACKOFF_JITTER", Syntax::Float, None, Known,
        "Share of a pause that is drawn at random on top. Unset: 0.1, or 0 where `_MIN` and `_MAX` are set.";
}
"Admin and metrics" {
    "ADMIN_LISTEN_ADDR", Syntax::Socket, Some("127.0.0.1:4191"), Injected,
        "Probes, metrics and diagnostics.";
    "CONTROL_LISTEN_ADDR", Syntax::Socket, Some("0.0.0.0:4190"), Injected,
        "Tap listener, bound only if tap is on.";
    "ADMIN_ENV_JSON", Syntax::Word(&["loopback", "policy", "off"]), Some("loopback"), Ours,
        "Who may read `/env.json`: clients on this host, whomever the policy of the admin port admits, or nobody.";
    "ADMIN_POLICY", Syntax::Word(&["loopback", "policy", "off"]), Some("loopback"), Ours,
        "Who may read `/policy`, `/policy/explain`, `/denials` and `/outbound`.";
    "ADMIN_MAX_CONNECTIONS", Syntax::Positive, Some("256"), Ours,
        "Connections to the admin port at one time; further ones wait in the accept queue. One client address may have a quarter of them.";
    "METRICS_RETAIN_IDLE", Syntax::Duration, Some("10m"), Known,
        "How long a series stays without being used.";
    "METRICS_LATENCY_BUCKETS", Syntax::Buckets, None, Ours,
        "Buckets of latency histograms, in milliseconds. Unset: each family's own.";
    "METRICS_MAX_SERIES", Syntax::Positive, Some("10000"), Ours,
        "Series of one family; what comes beyond is counted in one series without labels of its own.";
    "METRICS_NATIVE_HISTOGRAMS", Syntax::Bool, Some("true"), Ours,
        "Offers native histograms to scrapers that ask for them.";
}
"Outbound" {
    "OUTBOUND_LISTEN_ADDRS", Syntax::Sockets, None, Injected,
        "Where redirected traffic arrives, for one or two IP families.";
    "OUTBOUND_LISTEN_ADDR", Syntax::Socket, None, Injected,
        "The same, where `OUTBOUND_LISTEN_ADDRS` is unset. Unset: 127.0.0.1:4140, unless there are explicit listeners of either side: then nothing is redirected.";
    "OUTBOUND_LISTENERS", Syntax::Listeners, Some(""), Ours,
        "Explicit listeners, for places where traffic cannot be redirected: what is accepted on `listen` goes to `destination`, for example `127.0.0.1:19000=catalog.shop.svc.cluster.local:8080`.";
    "OUTBOUND_DISCOVERY_TIMEOUT", Syntax::Duration, Some("3s"), Ours,
        "How long a request or connection waits for the control plane to say what its destination is; then it is answered 504, or as `OUTBOUND_DISCOVERY_FALLBACK` says.";
    "OUTBOUND_DISCOVERY_FALLBACK", Syntax::Word(&["fail", "forward"]), Some("fail"), Ours,
        "What becomes of traffic whose destination is not known in time. `forward`: it goes to its original destination, without policy, until the control plane answers.";
    "OUTBOUND_MAX_DESTINATIONS", Syntax::Positive, Some("10000"), Ours,
        "Destinations that are watched at one time; more are not looked up, and counted in `outbound_refused_total`.";
    "OUTBOUND_RETRY_BUDGET_RATIO", Syntax::Float, Some("0.2"), Ours,
        "Retries for each request that is none, where policy does not say. The budget is one for each route.";
    "OUTBOUND_RETRY_BUDGET_MIN_PER_SECOND", Syntax::Number, Some("10"), Ours,
        "Retries a second that are always allowed, where policy does not say.";
    "OUTBOUND_RETRY_BUDGET_TTL", Syntax::Duration, Some("10s"), Ours,
        "How long requests count for the budget of retries, where policy does not say: 1s to 60s.";
    "OUTBOUND_MTLS", Syntax::Word(&["preferred", "required"]), Some("preferred"), Ours,
        "Whether requests may leave in plaintext where policy does not say. `required`: they are refused unless the endpoint proves an identity of the mesh.";
    "OUTBOUND_SERVER_IDENTITIES", Syntax::Identities, Some(""), Ours,
        "The only servers that requests may go to where policy names none; in plaintext they may then go only where policy says `preferred`. Empty: any that discovery names.";
    "OUTBOUND_FAILURE_GRPC_CODES", Syntax::GrpcCodes, Some("2,4,13,14,15"), Ours,
        "gRPC codes that count as failures of an endpoint, in `classification` and in circuit breakers. `2,4,7,13,14,15` counts PERMISSION_DENIED too.";
    "OUTBOUND_POLICY_LIMITS", Syntax::Bool, Some("true"), Ours,
        "Takes queue capacity, failfast timeout and detection timeout from policy. `false`: from `OUTBOUND_*_QUEUE_CAPACITY`, `OUTBOUND_*_FAILFAST_TIMEOUT`, `OUTBOUND_DETECT_TIMEOUT`, whatever policy says.";
    "OUTBOUND_CLOSE_ON_ERROR", Syntax::Bool, Some("false"), Ours,
        "Ends the application's connection after 502, 503 and 504 of this proxy's own, with GOAWAY on HTTP/2.";
    "OUTBOUND_MAX_CONNECTIONS", Syntax::Positive, Some("100000"), Ours,
        "Connections of the application that are served at one time; more are closed and counted in `outbound_refused_total`.";
    "OUTBOUND_HTTP_HEADER_READ_TIMEOUT", Syntax::Duration, Some("60s"), Ours,
        "Limit of reading a request's head.";
    "OUTBOUND_HTTP_IDLE_TIMEOUT", Syntax::Limit, Some(""), Ours,
        "How long a connection of the application is kept without a request. Unset: for ever.";
    "OUTBOUND_TCP_LISTEN_BACKLOG", Syntax::Number, Some("1024"), Known,
        "Length of the accept queue.";
    "OUTBOUND_ACCEPT_KEEPALIVE", Syntax::Limit, Some(""), Injected,
        "Idle time before TCP keep-alive probes on accepted sockets.";
    "OUTBOUND_ACCEPT_USER_TIMEOUT", Syntax::Limit, Some(""), Injected,
        "`TCP_USER_TIMEOUT` of accepted sockets.";
    "OUTBOUND_CONNECT_KEEPALIVE", Syntax::Limit, Some("10s"), Injected,
        "Idle time before TCP keep-alive probes on sockets to endpoints.";
    "OUTBOUND_CONNECT_USER_TIMEOUT", Syntax::Limit, Some("30s"), Injected,
        "`TCP_USER_TIMEOUT` of sockets to endpoints.";
    "OUTBOUND_DETECT_TIMEOUT", Syntax::Duration, Some("10s"), Injected,
        "Detection of the protocol and of SNI.";
    "OUTBOUND_DISCOVERY_IDLE_TIMEOUT", Syntax::Duration, Some("5s"), Injected,
        "How long an unused lookup and its connections are kept.";
    "OUTBOUND_CONNECT_TIMEOUT", Syntax::Duration, Some("1s"), Injected,
        "TCP connect, TLS handshake and transport header to an endpoint.";
    "OUTBOUND_CONNECT_EXP_BACKOFF_MIN", Syntax::Duration, None, Known,
        "First pause before reconnecting to an endpoint or a controller. Must be set together with `_MAX`. Unset: 100ms.";
    "OUTBOUND_CONNECT_EXP_BACKOFF_MAX", Syntax::Duration, None, Known,
        "Longest pause. Unset: 60s.";
    "OUTBOUND_CONNECT_EXP_BACKOFF_JITTER", Syntax::Float, None, Known,
        "Share of a pause that is drawn at random on top. Unset: 0.1, or 0 where `_MIN` and `_MAX` are set.";
    "OUTBOUND_TCP_QUEUE_CAPACITY", Syntax::Number, Some("10000"), Known,
        "Opaque connections that may wait for an endpoint.";
    "OUTBOUND_TCP_FAILFAST_TIMEOUT", Syntax::Duration, Some("3s"), Known,
        "How long they wait.";
    "OUTBOUND_HTTP_QUEUE_CAPACITY", Syntax::Number, Some("10000"), Known,
        "Requests that may wait for an endpoint.";
    "OUTBOUND_HTTP_FAILFAST_TIMEOUT", Syntax::Duration, Some("3s"), Known,
        "How long they wait.";
    "OUTBOUND_MAX_IN_FLIGHT", Syntax::Number, Some("100000"), Known,
        "Requests that wait for response headers, to all destinations; further ones get 503.";
    "OUTBOUND_MAX_IN_FLIGHT_PER_DESTINATION", Syntax::Positive, Some("50000"), Ours,
        "Requests that wait for response headers from one destination, so that one that hangs leaves room for the others; \
         further ones get 503.";
    "OUTBOUND_MAX_IDLE_CONNS_PER_ENDPOINT", Syntax::Number, Some("10000"), Known,
        "Idle HTTP/1 connections kept to an endpoint.";
    "OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", Syntax::Duration, Some("3s"), Known,
        "How long they are kept.";
    "OUTBOUND_DISABLE_INFORMATIONAL_HEADERS", Syntax::Bool, None, Known,
        "Leaves `l5d-proxy-error` and its like out of answers made here. Unset: as `INGRESS_MODE`.";
    "OUTBOUND_METRICS_HOSTNAME_LABELS", Syntax::Bool, Some("false"), Injected,
        "Fills the label `hostname`.";
    "INGRESS_MODE", Syntax::Bool, Some("false"), Injected,
        "Routes by the name that the application gives, not by address.";
    "OUTBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", Syntax::Number, None, Known,
        "As the inbound variable of the same ending; both windows are needed.";
    "OUTBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", Syntax::Number, None, Known,
        "As before.";
    "OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", Syntax::Limit, Some(""), Injected,
        "As the inbound variable of the same ending; takes effect only together with the timeout.";
    "OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", Syntax::Limit, Some(""), Injected,
        "As before.";
    "OUTBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", Syntax::Bool, Some("false"), Known,
        "As the inbound variable of the same ending.";
    "OUTBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS", Syntax::Number, None, Known,
        "As before.";
    "OUTBOUND_SERVER_HTTP2_MAX_FRAME_SIZE", Syntax::Number, None, Known,
        "As before.";
    "OUTBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE", Syntax::Number, None, Known,
        "As before.";
    "OUTBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS", Syntax::Number, None, Known,
        "As before.";
    "OUTBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE", Syntax::Number, None, Known,
        "As before.";
    "INBOUND_PORTS_REQUIRE_IDENTITY", Syntax::Text, None, Ignored,
        "The policy controller enforces it.";
    "INBOUND_PORTS_REQUIRE_TLS", Syntax::Text, None, Ignored,
        "The policy controller enforces it.";
    "TRACE_PROTOCOL", Syntax::Text, None, Ignored,
        "There is one protocol.";
    "TRACE_ANNOTATIONS_PATH", Syntax::Text, None, Ignored,
        "Replaced by `TRACE_ATTRIBUTES_PATH`.";
    "DNS_CANONICALIZE_TIMEOUT", Syntax::Text, None, Ignored,
        "Names are not canonicalized.";
    "DESTINATION_GET_SUFFIXES", Syntax::Text, None, Ignored,
        "Every name may be looked up.";
}
}
