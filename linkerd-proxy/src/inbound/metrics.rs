//! The inbound families, and the handles that connections and routes resolve from them, once.

use super::labels::{self, ClientTls};
use crate::http::outcome::{ByOutcome, Ending, GrpcFailures, GrpcStatus, Outcome};
use crate::limit::Limit;
use crate::transport::{
    header::{SessionProtocol, TransportHeader},
    io::Meter,
};
use linkerd_metrics::{
    Collect, Counter, Family, Gauge, Handle, Histogram, Labels, Registry, Samples, describe,
};
use linkerd_policy::server::Meta;
use linkerd_tls::Id;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// The families of the inbound side.
#[derive(Clone, Debug)]
pub(crate) struct InboundMetrics {
    pub(super) http_authz_allow: Family<Counter>,
    pub(super) http_authz_deny: Family<Counter>,
    pub(super) route_not_found: Family<Counter>,
    pub(super) rate_limited: Family<Counter>,
    pub(super) tcp_authz_allow: Family<Counter>,
    pub(super) tcp_authz_deny: Family<Counter>,
    pub(super) tcp_authz_terminate: Family<Counter>,
    pub(super) denied: Family<Counter>,
    pub(super) http_errors: Family<Counter>,
    pub(super) tcp_errors: Family<Counter>,
    request: Family<Counter>,
    response: Family<Counter>,
    response_latency: Family<Histogram>,
    http: RouteFamilies,
    grpc: RouteFamilies,
    proxy_duration: Family<Histogram>,
    origin_duration: Family<Histogram>,
    tcp_open: Family<Counter>,
    tcp_open_connections: Family<Gauge>,
    tcp_read: Family<Counter>,
    tcp_write: Family<Counter>,
    tcp_close: Family<Counter>,
    detect_duration: Family<Histogram>,
    detect_results: Family<Counter>,
    pub(super) transport_header: Family<Counter>,
    pub(super) handshake_failures: Family<Counter>,
    pub(crate) accept_errors: Family<Counter>,
    detect_stalls: Family<Counter>,
    pub(super) handshake_duration: Handle<Histogram>,
    connections_refused: Family<Counter>,
    requests_refused: Family<Counter>,
}

/// What is open and waiting now, read when a page is made.
pub(crate) struct Occupancy {
    pub(crate) connections: Limit,
    pub(crate) requests: Limit,
}

impl Collect for Occupancy {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn collect(&self, samples: &mut Samples) {
        let mut push = |desc, value: usize| samples.push(desc, Labels::new(), value as f64);
        push(&describe::INBOUND_CONNECTIONS, self.connections.now());
        push(&describe::INBOUND_CONNECTIONS_LIMIT, self.connections.max());
        push(
            &describe::INBOUND_HTTP_REQUESTS_IN_FLIGHT,
            self.requests.now(),
        );
        push(
            &describe::INBOUND_HTTP_REQUESTS_IN_FLIGHT_LIMIT,
            self.requests.max(),
        );
    }
}

/// The newer families, which stand once for HTTP and once for gRPC policies.
#[derive(Clone, Debug)]
struct RouteFamilies {
    requests: Family<Counter>,
    statuses: Family<Counter>,
    request_duration: Family<Histogram>,
    response_duration: Family<Histogram>,
    request_frames: Family<Histogram>,
    response_frames: Family<Histogram>,
}

impl InboundMetrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        Self {
            http_authz_allow: registry.counters(&describe::INBOUND_HTTP_AUTHZ_ALLOW_TOTAL),
            http_authz_deny: registry.counters(&describe::INBOUND_HTTP_AUTHZ_DENY_TOTAL),
            route_not_found: registry.counters(&describe::INBOUND_HTTP_ROUTE_NOT_FOUND_TOTAL),
            rate_limited: registry.counters(&describe::INBOUND_HTTP_LOCAL_RATELIMIT_TOTAL),
            tcp_authz_allow: registry.counters(&describe::INBOUND_TCP_AUTHZ_ALLOW_TOTAL),
            tcp_authz_deny: registry.counters(&describe::INBOUND_TCP_AUTHZ_DENY_TOTAL),
            tcp_authz_terminate: registry.counters(&describe::INBOUND_TCP_AUTHZ_TERMINATE_TOTAL),
            denied: registry.counters(&describe::INBOUND_POLICY_DENIED_TOTAL),
            http_errors: registry.counters(&describe::INBOUND_HTTP_ERRORS_TOTAL),
            tcp_errors: registry.counters(&describe::INBOUND_TCP_ERRORS_TOTAL),
            request: registry.counters(&describe::REQUEST_TOTAL),
            response: registry.counters(&describe::RESPONSE_TOTAL),
            response_latency: registry.histograms(&describe::RESPONSE_LATENCY_MS),
            http: RouteFamilies {
                requests: registry.counters(&describe::INBOUND_HTTP_REQUESTS_TOTAL),
                statuses: registry.counters(&describe::INBOUND_HTTP_STATUSES_TOTAL),
                request_duration: registry
                    .histograms(&describe::INBOUND_HTTP_REQUEST_DURATION_SECONDS),
                response_duration: registry
                    .histograms(&describe::INBOUND_HTTP_RESPONSE_DURATION_SECONDS),
                request_frames: registry
                    .histograms(&describe::INBOUND_HTTP_REQUEST_FRAME_SIZE_BYTES),
                response_frames: registry
                    .histograms(&describe::INBOUND_HTTP_RESPONSE_FRAME_SIZE_BYTES),
            },
            grpc: RouteFamilies {
                requests: registry.counters(&describe::INBOUND_GRPC_REQUESTS_TOTAL),
                statuses: registry.counters(&describe::INBOUND_GRPC_STATUSES_TOTAL),
                request_duration: registry
                    .histograms(&describe::INBOUND_GRPC_REQUEST_DURATION_SECONDS),
                response_duration: registry
                    .histograms(&describe::INBOUND_GRPC_RESPONSE_DURATION_SECONDS),
                request_frames: registry
                    .histograms(&describe::INBOUND_GRPC_REQUEST_FRAME_SIZE_BYTES),
                response_frames: registry
                    .histograms(&describe::INBOUND_GRPC_RESPONSE_FRAME_SIZE_BYTES),
            },
            proxy_duration: registry.histograms(&describe::INBOUND_HTTP_PROXY_DURATION_SECONDS),
            origin_duration: registry.histograms(&describe::INBOUND_HTTP_ORIGIN_DURATION_SECONDS),
            tcp_open: registry.counters(&describe::TCP_OPEN_TOTAL),
            tcp_open_connections: registry.gauges(&describe::TCP_OPEN_CONNECTIONS),
            tcp_read: registry.counters(&describe::TCP_READ_BYTES_TOTAL),
            tcp_write: registry.counters(&describe::TCP_WRITE_BYTES_TOTAL),
            tcp_close: registry.counters(&describe::TCP_CLOSE_TOTAL),
            detect_duration: registry
                .histograms(&describe::INBOUND_TCP_DETECT_HTTP_DURATION_SECONDS),
            detect_results: registry.counters(&describe::INBOUND_TCP_DETECT_HTTP_RESULTS_TOTAL),
            transport_header: registry
                .counters(&describe::INBOUND_TCP_TRANSPORT_HEADER_CONNECTIONS_TOTAL),
            handshake_failures: registry.counters(&describe::INBOUND_TLS_HANDSHAKE_FAILURES_TOTAL),
            accept_errors: registry.counters(&describe::INBOUND_ACCEPT_ERRORS_TOTAL),
            detect_stalls: registry.counters(&describe::INBOUND_TCP_DETECT_STALLS_TOTAL),
            handshake_duration: registry
                .histograms(&describe::INBOUND_TLS_HANDSHAKE_DURATION_SECONDS)
                .get(&Labels::new()),
            connections_refused: registry.counters(&describe::INBOUND_CONNECTIONS_REFUSED_TOTAL),
            requests_refused: registry.counters(&describe::INBOUND_HTTP_REQUESTS_REFUSED_TOTAL),
        }
    }

    /// Counts a connection that ended because of a limit of connections.
    pub(super) fn connection_refused(&self, limit: &'static str) {
        self.connections_refused
            .get(&Labels::new().with("limit", limit))
            .inc();
    }

    /// Counts a request that was refused because of a limit.
    pub(super) fn request_refused(&self, limit: &'static str) {
        self.requests_refused
            .get(&Labels::new().with("limit", limit))
            .inc();
    }

    /// Counts a client that was silent until a detection gave up. `stage`: `tls`, `http`.
    pub(super) fn stalled(&self, stage: &'static str, server: &Meta, port: u16) {
        let labels = Labels::new()
            .with("stage", stage)
            .extend(&labels::server(server, port));
        self.detect_stalls.get(&labels).inc();
    }

    pub(super) fn handshake_failed(&self, reason: &'static str) {
        self.handshake_failures
            .get(&Labels::new().with("reason", reason))
            .inc();
    }

    pub(super) fn denied_because(
        &self,
        server: &Meta,
        port: u16,
        reason: &'static str,
    ) -> Handle<Counter> {
        let labels = Labels::new().with("reason", reason);
        self.denied
            .get(&labels.extend(&labels::server(server, port)))
    }

    /// Counts a connection that failed. Where it was going may not be known.
    pub(super) fn connection_failed(&self, error: &'static str, original: Option<SocketAddr>) {
        let target = original.map(labels::destination).unwrap_or_default();
        self.tcp_errors
            .get(&Labels::new().with("error", error).extend(&target))
            .inc();
    }

    /// Counts a request that failed in the proxy, given TGT and SRV.
    pub(super) fn request_failed(&self, error: &'static str, target: &Labels) {
        self.http_errors
            .get(&Labels::new().with("error", error).extend(target))
            .inc();
    }

    pub(super) fn direct_connection(&self, header: &TransportHeader, client: &Id) {
        let protocol = match header.protocol {
            Some(SessionProtocol::Http1) => "http/1",
            Some(SessionProtocol::Http2) => "http/2",
            None => "",
        };
        let labels = Labels::new()
            .with("session_protocol", protocol)
            .with("target_port", header.port)
            .with("target_name", header.name.as_deref().unwrap_or_default())
            .with("client_id", client);
        self.transport_header.get(&labels).inc();
    }

    /// The handles of the connections of one kind of client.
    pub(crate) fn transport(&self, source: &Labels) -> Transport {
        let labels = Labels::new()
            .with("direction", "inbound")
            .with("peer", "src")
            .extend(source);
        self.transport_of(labels)
    }

    /// The handles of connections to the application: one series for all ports.
    pub(super) fn origin_transport(&self) -> Transport {
        self.transport_of(
            Labels::new()
                .with("direction", "inbound")
                .with("peer", "dst")
                .with("tls", "no_identity")
                .with("no_tls_reason", "loopback"),
        )
    }

    /// The handles of connections with these labels.
    pub(crate) fn transport_of(&self, labels: Labels) -> Transport {
        Transport {
            opened: self.tcp_open.get(&labels),
            open: self.tcp_open_connections.get(&labels),
            meter: Meter {
                read: self.tcp_read.get(&labels),
                written: self.tcp_write.get(&labels),
                also: None,
            },
            clean: self.tcp_close.get(&labels.clone().with("errno", "")),
            close: self.tcp_close.clone(),
            labels,
        }
    }

    /// The detection families of a Server.
    pub(crate) fn detection(&self, server: &Labels) -> Detection {
        let result = |name: &str| {
            self.detect_results
                .get(&Labels::new().with("result", name).extend(server))
        };
        Detection {
            duration: self.detect_duration.get(server),
            http1: result("http/1"),
            http2: result("http/2"),
            not_http: result("not_http"),
            read_timeout: result("read_timeout"),
            error: result("error"),
        }
    }
}

/// Detection on the connections of a Server.
#[derive(Debug)]
pub(crate) struct Detection {
    pub(crate) duration: Handle<Histogram>,
    pub(crate) http1: Handle<Counter>,
    pub(crate) http2: Handle<Counter>,
    pub(crate) not_http: Handle<Counter>,
    pub(crate) read_timeout: Handle<Counter>,
    pub(crate) error: Handle<Counter>,
}

/// The `tcp_*` series of connections with the same labels.
#[derive(Debug)]
pub(crate) struct Transport {
    opened: Handle<Counter>,
    open: Handle<Gauge>,
    meter: Meter,
    clean: Handle<Counter>,
    close: Family<Counter>,
    labels: Labels,
}

/// An open connection in `tcp_open_connections`; closing is counted when it goes.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    transport: Arc<Transport>,
    errno: Option<&'static str>,
}

impl Transport {
    /// Counts bytes (written, read) elsewhere as well.
    pub(crate) fn also(mut self, counters: [Handle<Counter>; 2]) -> Self {
        self.meter.also = Some(counters);
        self
    }

    pub(crate) fn meter(&self) -> Meter {
        self.meter.clone()
    }

    pub(crate) fn open(self: &Arc<Self>) -> OpenConnection {
        self.opened.inc();
        self.open.inc();
        OpenConnection {
            transport: self.clone(),
            errno: None,
        }
    }
}

impl OpenConnection {
    /// Notes the error that ends the connection.
    pub(crate) fn broken(&mut self, error: &std::io::Error) {
        self.errno = Some(errno(error));
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let transport = &self.transport;
        transport.open.dec();
        match self.errno {
            None => transport.clean.inc(),
            Some(errno) => {
                transport
                    .close
                    .get(&transport.labels.clone().with("errno", errno))
                    .inc();
            }
        }
    }
}

/// The name of an error for `errno`: a closed set.
fn errno(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionReset => "ECONNRESET",
        ErrorKind::ConnectionAborted => "ECONNABORTED",
        ErrorKind::BrokenPipe => "EPIPE",
        ErrorKind::TimedOut => "ETIMEDOUT",
        ErrorKind::NotConnected => "ENOTCONN",
        ErrorKind::UnexpectedEof => "UNEXPECTED_EOF",
        _ => "OTHER",
    }
}

/// What requests of one route, permitted by one authorization, from one kind of client, are counted in.
#[derive(Debug)]
pub(crate) struct RouteHandles {
    pub(super) allowed: Handle<Counter>,
    /// `request_total`.
    pub(super) legacy_requests: Handle<Counter>,
    /// `inbound_{http,grpc}_requests_total`.
    pub(super) requests: Handle<Counter>,
    pub(super) request_frames: Handle<Histogram>,
    pub(super) response_frames: Handle<Histogram>,
    pub(super) request_duration: Handle<Histogram>,
    pub(super) response_duration: Handle<Histogram>,
    pub(super) proxy_duration: Handle<Histogram>,
    pub(super) origin_duration: Handle<Histogram>,
    statuses: ByOutcome<StatusHandles>,
    families: InboundMetrics,
    legacy: Labels,
    parent: Labels,
    is_grpc_policy: bool,
}

/// What a response with one outcome is counted in.
#[derive(Clone, Debug)]
struct StatusHandles {
    legacy_responses: Handle<Counter>,
    latency: Handle<Histogram>,
    statuses: Handle<Counter>,
}

/// What the labels of a route's requests are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RouteKey<'a> {
    pub(super) destination: SocketAddr,
    pub(super) tls: &'a ClientTls,
    pub(super) server: &'a Meta,
    pub(super) port: u16,
    pub(super) route: &'a Meta,
    pub(super) authorization: &'a Meta,
    pub(super) is_grpc_policy: bool,
    /// What the request asks for, where operators want it in the `request_total` and its like.
    pub(super) authority: Option<&'a str>,
}

impl RouteHandles {
    pub(super) fn resolve(metrics: &InboundMetrics, key: RouteKey<'_>) -> Self {
        let target = labels::destination(key.destination);
        let tls = key.tls.labels();
        let server = labels::server(key.server, key.port);
        let route = labels::route(key.route);
        let authorization = labels::authorization(key.authorization);
        let parent = labels::parent(key.server, key.port, key.route);
        let legacy = Labels::new()
            .with("direction", "inbound")
            .with_some("authority", key.authority)
            .extend(&target)
            .extend(&tls)
            .extend(&server)
            .extend(&route)
            .extend(&authorization);
        let allowed = target
            .extend(&server)
            .extend(&route)
            .extend(&authorization)
            .extend(&tls);
        let families = if key.is_grpc_policy {
            &metrics.grpc
        } else {
            &metrics.http
        };
        Self {
            allowed: metrics.http_authz_allow.get(&allowed),
            legacy_requests: metrics.request.get(&legacy),
            requests: families.requests.get(&parent),
            request_frames: families.request_frames.get(&parent),
            response_frames: families.response_frames.get(&parent),
            request_duration: families.request_duration.get(&parent),
            response_duration: families.response_duration.get(&parent),
            proxy_duration: metrics.proxy_duration.get(&parent),
            origin_duration: metrics.origin_duration.get(&parent),
            statuses: ByOutcome::default(),
            families: metrics.clone(),
            legacy,
            parent,
            is_grpc_policy: key.is_grpc_policy,
        }
    }

    /// Counts a request that the origin did not answer; `outcome` is the proxy's answer.
    pub(super) fn failed(&self, outcome: Outcome, elapsed: Duration) {
        if outcome.ending == Ending::Whole {
            let answered = Outcome::by_status(outcome.status);
            self.observe_latency(answered, elapsed.as_secs_f64() * 1000.0);
        }
        self.request_duration.observe(elapsed.as_secs_f64());
        self.ended(outcome);
    }

    /// Counts a response that stood still for longer than it may.
    pub(super) fn stalled(&self) {
        self.families.request_refused("body_idle_timeout");
    }

    /// Observes the latency of a response, in milliseconds.
    pub(super) fn observe_latency(&self, outcome: Outcome, milliseconds: f64) {
        self.with(outcome, |handles| handles.latency.observe(milliseconds));
    }

    /// Counts the end of a response.
    pub(super) fn ended(&self, outcome: Outcome) {
        self.with(outcome, |handles| {
            handles.legacy_responses.inc();
            handles.statuses.inc();
        });
    }

    fn with(&self, outcome: Outcome, count: impl FnOnce(&StatusHandles)) {
        self.statuses
            .with(outcome, |outcome| self.resolve_status(outcome), count);
    }

    fn resolve_status(&self, outcome: Outcome) -> StatusHandles {
        let status = outcome.status.as_str();
        let latency = self.legacy.clone().with("status_code", status);
        let response = match outcome.ending {
            Ending::Whole => latency.clone(),
            Ending::Broken(_) => self.legacy.clone(),
        };
        let response = outcome.end(response, outcome.is_success(GrpcFailures::INBOUND));
        let (families, value) = if self.is_grpc_policy {
            let code = outcome
                .grpc
                .map(GrpcStatus::code)
                .map(|code| code.to_string());
            (&self.families.grpc, code.unwrap_or_default())
        } else {
            (&self.families.http, status.to_owned())
        };
        let value = if outcome.ending == Ending::Whole {
            value
        } else {
            String::new()
        };
        StatusHandles {
            legacy_responses: self.families.response.get(&response),
            latency: self.families.response_latency.get(&latency),
            statuses: families
                .statuses
                .get(&self.parent.clone().with("status", value)),
        }
    }
}
