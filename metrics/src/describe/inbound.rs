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
    /// Requests that policy allowed, before filters and rate limit.
    INBOUND_HTTP_AUTHZ_ALLOW_TOTAL = Desc::counter(
        "inbound_http_authz_allow_total",
        "The number of inbound HTTP requests that were authorized.",
    ).legacy().labels(&[TGT, SRV, RT, AZ, TLS]);
    /// Requests that policy refused (403).
    INBOUND_HTTP_AUTHZ_DENY_TOTAL = Desc::counter(
        "inbound_http_authz_deny_total",
        "The number of inbound HTTP requests that were denied.",
    ).legacy().labels(&[TGT, SRV, RT, TLS]);
    /// Requests for which policy has no route (404).
    INBOUND_HTTP_ROUTE_NOT_FOUND_TOTAL = Desc::counter(
        "inbound_http_route_not_found_total",
        "The number of inbound HTTP requests that no route matched.",
    ).legacy().labels(&[TGT, SRV, TLS]);
    /// Requests over a rate limit (429). The `ratelimit_*` names are absent for a limit without metadata.
    INBOUND_HTTP_LOCAL_RATELIMIT_TOTAL = Desc::counter(
        "inbound_http_local_ratelimit_total",
        "The number of inbound HTTP requests that a local rate limit refused.",
    ).legacy().labels(&[
        TGT, SRV, &["ratelimit_group", "ratelimit_kind", "ratelimit_name", "ratelimit_scope"], TLS,
    ]);
    /// Connections that policy allowed and that were forwarded.
    INBOUND_TCP_AUTHZ_ALLOW_TOTAL = Desc::counter(
        "inbound_tcp_authz_allow_total",
        "The number of inbound TCP connections that were authorized.",
    ).legacy().labels(&[TGT, SRV, AZ, TLS]);
    /// Connections that policy refused.
    INBOUND_TCP_AUTHZ_DENY_TOTAL = Desc::counter(
        "inbound_tcp_authz_deny_total",
        "The number of inbound TCP connections that were denied.",
    ).legacy().labels(&[TGT, SRV, TLS]);
    /// Established connections closed because the policy changed; labels are the new policy's.
    INBOUND_TCP_AUTHZ_TERMINATE_TOTAL = Desc::counter(
        "inbound_tcp_authz_terminate_total",
        "The number of inbound TCP connections closed because a policy change no longer allows them.",
    ).legacy().labels(&[TGT, SRV, TLS]);
    /// Requests that failed in the proxy. `error`: `failfast`, `loadshed`, `i/o`, `tls detection timeout`,
    /// `gateway domain invalid`, `gateway loop`, `unexpected`.
    INBOUND_HTTP_ERRORS_TOTAL = Desc::counter(
        "inbound_http_errors_total",
        "The number of inbound HTTP requests that failed in the proxy.",
    ).legacy().labels(&[&["error"], TGT, SRV]);
    /// Connections that failed in the proxy; `error` as in [`INBOUND_HTTP_ERRORS_TOTAL`].
    INBOUND_TCP_ERRORS_TOTAL = Desc::counter(
        "inbound_tcp_errors_total",
        "The number of inbound TCP connections that failed in the proxy.",
    ).legacy().labels(&[&["error"], TGT]);
    /// Requests that passed policy and rate limit, on ports that are not `grpc` by policy.
    INBOUND_HTTP_REQUESTS_TOTAL = Desc::counter(
        "inbound_http_requests_total",
        "The number of inbound HTTP requests that passed policy.",
    ).peer().labels(&[PAR]);
    /// The same for ports that are `grpc` by policy.
    INBOUND_GRPC_REQUESTS_TOTAL = Desc::counter(
        "inbound_grpc_requests_total",
        "The number of inbound gRPC requests that passed policy.",
    ).peer().labels(&[PAR]);
    /// Counted when the response body ended; `status` is the HTTP code, empty on error.
    INBOUND_HTTP_STATUSES_TOTAL = Desc::counter(
        "inbound_http_statuses_total",
        "The number of inbound HTTP responses that ended, by status.",
    ).peer().labels(&[PAR, &["status"]]);
    /// The same for `grpc` ports; `status` is the gRPC code.
    INBOUND_GRPC_STATUSES_TOTAL = Desc::counter(
        "inbound_grpc_statuses_total",
        "The number of inbound gRPC responses that ended, by status.",
    ).peer().labels(&[PAR, &["status"]]);
    /// From the request to the end of its response.
    INBOUND_HTTP_REQUEST_DURATION_SECONDS = Desc::latency(
        "inbound_http_request_duration_seconds", REQUEST_SECONDS,
        "The time from an inbound HTTP request to the end of its response.",
    ).peer().labels(&[PAR]);
    /// The same for `grpc` ports.
    INBOUND_GRPC_REQUEST_DURATION_SECONDS = Desc::latency(
        "inbound_grpc_request_duration_seconds", REQUEST_SECONDS,
        "The time from an inbound gRPC request to the end of its response.",
    ).peer().labels(&[PAR]);
    /// From the end of the request body to the end of the response; 0 if that end is unknown.
    INBOUND_HTTP_RESPONSE_DURATION_SECONDS = Desc::latency(
        "inbound_http_response_duration_seconds", RESPONSE_SECONDS,
        "The time from the end of an inbound HTTP request's body to the end of its response.",
    ).peer().labels(&[PAR]);
    /// The same for `grpc` ports.
    INBOUND_GRPC_RESPONSE_DURATION_SECONDS = Desc::latency(
        "inbound_grpc_response_duration_seconds", RESPONSE_SECONDS,
        "The time from the end of an inbound gRPC request's body to the end of its response.",
    ).peer().labels(&[PAR]);
    /// The size of each data frame of a request.
    INBOUND_HTTP_REQUEST_FRAME_SIZE_BYTES = Desc::histogram(
        "inbound_http_request_frame_size_bytes", FRAME_BYTES,
        "The size of data frames of inbound HTTP requests.",
    ).unit(Unit::Bytes).peer().labels(&[PAR]);
    /// The same for `grpc` ports.
    INBOUND_GRPC_REQUEST_FRAME_SIZE_BYTES = Desc::histogram(
        "inbound_grpc_request_frame_size_bytes", FRAME_BYTES,
        "The size of data frames of inbound gRPC requests.",
    ).unit(Unit::Bytes).peer().labels(&[PAR]);
    /// The size of each data frame of a response.
    INBOUND_HTTP_RESPONSE_FRAME_SIZE_BYTES = Desc::histogram(
        "inbound_http_response_frame_size_bytes", FRAME_BYTES,
        "The size of data frames of inbound HTTP responses.",
    ).unit(Unit::Bytes).peer().labels(&[PAR]);
    /// The same for `grpc` ports.
    INBOUND_GRPC_RESPONSE_FRAME_SIZE_BYTES = Desc::histogram(
        "inbound_grpc_response_frame_size_bytes", FRAME_BYTES,
        "The size of data frames of inbound gRPC responses.",
    ).unit(Unit::Bytes).peer().labels(&[PAR]);
    /// The time from a request's headers to its response headers, less the time spent waiting for the origin.
    INBOUND_HTTP_PROXY_DURATION_SECONDS = Desc::histogram(
        "inbound_http_proxy_duration_seconds", PROXY_SECONDS,
        "The time an inbound request spent in the proxy until its response headers, without waiting for the origin.",
    ).unit(Unit::Seconds).labels(&[PAR]);
    /// The time from handing a request to the origin to the origin's response headers, connecting included.
    INBOUND_HTTP_ORIGIN_DURATION_SECONDS = Desc::latency(
        "inbound_http_origin_duration_seconds", ORIGIN_SECONDS,
        "The time an inbound request waited for the origin's response headers.",
    ).labels(&[PAR]);
    /// Each protocol detection, the admin port's too.
    INBOUND_TCP_DETECT_HTTP_DURATION_SECONDS = Desc::histogram(
        "inbound_tcp_detect_http_duration_seconds", DETECT_SECONDS,
        "The time it took to detect the protocol of inbound connections.",
    ).unit(Unit::Seconds).peer().labels(&[SRV]);
    /// `result`: `http/1`, `http/2`, `not_http`, `read_timeout`, `error`; all five are resolved together.
    INBOUND_TCP_DETECT_HTTP_RESULTS_TOTAL = Desc::counter(
        "inbound_tcp_detect_http_results_total",
        "The number of inbound connections by detected protocol.",
    ).peer().labels(&[&["result"], SRV]);
    /// Counted when the header is read, before authorization.
    INBOUND_TCP_TRANSPORT_HEADER_CONNECTIONS_TOTAL = Desc::counter(
        "inbound_tcp_transport_header_connections_total",
        "The number of direct connections with a transport header.",
    ).peer().labels(&[&["session_protocol", "target_port", "target_name", "client_id"]]);
}
