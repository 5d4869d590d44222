//! Families of the inbound side, as the peer names them (`inbound_*`), and the time split that it does not have.

use super::labels::{AZ, PAR, RT, SRV, TGT, TLS};
use super::{Desc, Unit, families};

const REQUEST_SECONDS: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];
const RESPONSE_SECONDS: &[f64] = &[0.05, 0.5, 1.0, 10.0];
const FRAME_BYTES: &[f64] = &[128.0, 1024.0, 10240.0];
const DETECT_SECONDS: &[f64] = &[0.001, 0.1];

/// From 50 µs, for the proxy's own part of a request, to a second.
const PROXY_SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0,
];
/// From a millisecond to ten minutes: slow replies (reports, language models) must not share one bucket.
const ORIGIN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 180.0,
    600.0,
];

families! {
    INBOUND_TABLE:
    /// The number of inbound HTTP requests that were authorized.
    /// Counted before filters and rate limit.
    INBOUND_HTTP_AUTHZ_ALLOW_TOTAL =
        Desc::counter("inbound_http_authz_allow_total").legacy().labels(&[TGT, SRV, RT, AZ, TLS]);
    /// The number of inbound HTTP requests that were denied.
    /// The answer was 403.
    INBOUND_HTTP_AUTHZ_DENY_TOTAL =
        Desc::counter("inbound_http_authz_deny_total").legacy().labels(&[TGT, SRV, RT, TLS]);
    /// The number of inbound HTTP requests that no route matched.
    /// The answer was 404.
    INBOUND_HTTP_ROUTE_NOT_FOUND_TOTAL =
        Desc::counter("inbound_http_route_not_found_total").legacy().labels(&[TGT, SRV, TLS]);
    /// The number of inbound HTTP requests that a local rate limit refused.
    /// The answer was 429. The names of a limit are absent for one without metadata.
    INBOUND_HTTP_LOCAL_RATELIMIT_TOTAL = Desc::counter("inbound_http_local_ratelimit_total").legacy().labels(&[
        TGT, SRV, &["ratelimit_group", "ratelimit_kind", "ratelimit_name", "ratelimit_scope"], TLS,
    ]);
    /// The number of inbound TCP connections that were authorized.
    /// Counted when a connection is forwarded.
    INBOUND_TCP_AUTHZ_ALLOW_TOTAL =
        Desc::counter("inbound_tcp_authz_allow_total").legacy().labels(&[TGT, SRV, AZ, TLS]);
    /// The number of inbound TCP connections that were denied.
    INBOUND_TCP_AUTHZ_DENY_TOTAL = Desc::counter("inbound_tcp_authz_deny_total").legacy().labels(&[TGT, SRV, TLS]);
    /// The number of inbound TCP connections closed because a policy change no longer allows them.
    /// Labels are those of the new policy.
    INBOUND_TCP_AUTHZ_TERMINATE_TOTAL =
        Desc::counter("inbound_tcp_authz_terminate_total").legacy().labels(&[TGT, SRV, TLS]);
    /// The number of inbound HTTP requests that failed in the proxy.
    /// `error`: `bad request`, `loadshed`, `unexpected`. What policy or the origin ends is counted elsewhere.
    INBOUND_HTTP_ERRORS_TOTAL = Desc::counter("inbound_http_errors_total").legacy().labels(&[&["error"], TGT, SRV]);
    /// The number of inbound TCP connections that failed in the proxy.
    /// `error`: `i/o`, `tls detection timeout`, `gateway domain invalid`, `unexpected`.
    INBOUND_TCP_ERRORS_TOTAL = Desc::counter("inbound_tcp_errors_total").legacy().labels(&[&["error"], TGT]);
    /// The number of inbound HTTP requests that passed policy.
    /// After the rate limit, on ports that are not `grpc` by policy.
    INBOUND_HTTP_REQUESTS_TOTAL = Desc::counter("inbound_http_requests_total").peer().labels(&[PAR]);
    /// The number of inbound gRPC requests that passed policy.
    /// After the rate limit, on ports that are `grpc` by policy.
    INBOUND_GRPC_REQUESTS_TOTAL = Desc::counter("inbound_grpc_requests_total").peer().labels(&[PAR]);
    /// The number of inbound HTTP responses that ended, by status.
    /// `status` is the HTTP code, empty on error.
    INBOUND_HTTP_STATUSES_TOTAL = Desc::counter("inbound_http_statuses_total").peer().labels(&[PAR, &["status"]]);
    /// The number of inbound gRPC responses that ended, by status.
    /// `status` is the gRPC code, empty on error.
    INBOUND_GRPC_STATUSES_TOTAL = Desc::counter("inbound_grpc_statuses_total").peer().labels(&[PAR, &["status"]]);
    /// The time from an inbound HTTP request to the end of its response.
    INBOUND_HTTP_REQUEST_DURATION_SECONDS =
        Desc::latency("inbound_http_request_duration_seconds", REQUEST_SECONDS).peer().labels(&[PAR]);
    /// The time from an inbound gRPC request to the end of its response.
    INBOUND_GRPC_REQUEST_DURATION_SECONDS =
        Desc::latency("inbound_grpc_request_duration_seconds", REQUEST_SECONDS).peer().labels(&[PAR]);
    /// The time from the end of an inbound HTTP request's body to the end of its response.
    /// 0 if the end of the request is unknown.
    INBOUND_HTTP_RESPONSE_DURATION_SECONDS =
        Desc::latency("inbound_http_response_duration_seconds", RESPONSE_SECONDS).peer().labels(&[PAR]);
    /// The time from the end of an inbound gRPC request's body to the end of its response.
    /// 0 if the end of the request is unknown.
    INBOUND_GRPC_RESPONSE_DURATION_SECONDS =
        Desc::latency("inbound_grpc_response_duration_seconds", RESPONSE_SECONDS).peer().labels(&[PAR]);
    /// The size of data frames of inbound HTTP requests.
    INBOUND_HTTP_REQUEST_FRAME_SIZE_BYTES =
        Desc::histogram("inbound_http_request_frame_size_bytes", FRAME_BYTES)
            .unit(Unit::Bytes)
            .peer()
            .labels(&[PAR]);
    /// The size of data frames of inbound gRPC requests.
    INBOUND_GRPC_REQUEST_FRAME_SIZE_BYTES =
        Desc::histogram("inbound_grpc_request_frame_size_bytes", FRAME_BYTES)
            .unit(Unit::Bytes)
            .peer()
            .labels(&[PAR]);
    /// The size of data frames of inbound HTTP responses.
    INBOUND_HTTP_RESPONSE_FRAME_SIZE_BYTES =
        Desc::histogram("inbound_http_response_frame_size_bytes", FRAME_BYTES)
            .unit(Unit::Bytes)
            .peer()
            .labels(&[PAR]);
    /// The size of data frames of inbound gRPC responses.
    INBOUND_GRPC_RESPONSE_FRAME_SIZE_BYTES =
        Desc::histogram("inbound_grpc_response_frame_size_bytes", FRAME_BYTES)
            .unit(Unit::Bytes)
            .peer()
            .labels(&[PAR]);
    /// The time an inbound request spent in the proxy until its response headers, without waiting for the origin.
    INBOUND_HTTP_PROXY_DURATION_SECONDS =
        Desc::histogram("inbound_http_proxy_duration_seconds", PROXY_SECONDS)
            .unit(Unit::Seconds)
            .labels(&[PAR]);
    /// The time an inbound request waited for the origin's response headers.
    /// Connecting is included.
    INBOUND_HTTP_ORIGIN_DURATION_SECONDS =
        Desc::latency("inbound_http_origin_duration_seconds", ORIGIN_SECONDS).labels(&[PAR]);
    /// The time it took to detect the protocol of inbound connections.
    /// The admin port's too.
    INBOUND_TCP_DETECT_HTTP_DURATION_SECONDS =
        Desc::histogram("inbound_tcp_detect_http_duration_seconds", DETECT_SECONDS)
            .unit(Unit::Seconds)
            .peer()
            .labels(&[SRV]);
    /// The number of inbound connections by detected protocol.
    /// `result`: `http/1`, `http/2`, `not_http`, `read_timeout`, `error`; all five appear together.
    INBOUND_TCP_DETECT_HTTP_RESULTS_TOTAL =
        Desc::counter("inbound_tcp_detect_http_results_total").peer().labels(&[&["result"], SRV]);
    /// The number of direct connections with a transport header.
    /// Counted when the header is read, before authorization.
    INBOUND_TCP_TRANSPORT_HEADER_CONNECTIONS_TOTAL =
        Desc::counter("inbound_tcp_transport_header_connections_total")
            .peer()
            .labels(&[&["session_protocol", "target_port", "target_name", "client_id"]]);
}
