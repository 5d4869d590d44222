//! Families of outbound routes and their backends, and of outbound connections.

use super::labels::{BACKEND, PARENT, ROUTE};
use super::{Desc, Unit, families};

const HOSTNAME: &[&str] = &["hostname"];
const HTTP_STATUS: &[&str] = &["http_status", "error"];
const GRPC_STATUS: &[&str] = &["grpc_status", "error"];
const ERROR: &[&str] = &["error"];
const DURATION: &[f64] = &[0.05, 0.5, 1.0, 10.0];
const BACKEND_DURATION: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];
const FRAMES: &[f64] = &[128.0, 1024.0, 10240.0];

families! {
    ROUTES_TABLE:
    /// The time between request initialization and response completion.
    /// One observation for each request of a client, however many attempts it took.
    OUTBOUND_HTTP_ROUTE_REQUEST_DURATION_SECONDS =
        Desc::latency("outbound_http_route_request_duration_seconds", DURATION).peer().labels(&[PARENT, ROUTE, HOSTNAME]);
    /// Completed request-response streams.
    OUTBOUND_HTTP_ROUTE_REQUEST_STATUSES_TOTAL =
        Desc::counter("outbound_http_route_request_statuses_total")
            .peer()
            .labels(&[PARENT, ROUTE, HOSTNAME, HTTP_STATUS]);
    /// The size of request data frames.
    OUTBOUND_HTTP_ROUTE_REQUEST_FRAME_SIZE_BYTES =
        Desc::histogram("outbound_http_route_request_frame_size_bytes", FRAMES)
            .unit(Unit::Bytes)
            .peer()
            .labels(&[PARENT, ROUTE, HOSTNAME]);
    /// The number of requests sent to a backend, one for each attempt.
    OUTBOUND_HTTP_ROUTE_BACKEND_REQUESTS_TOTAL =
        Desc::counter("outbound_http_route_backend_requests_total").peer().labels(&[PARENT, ROUTE, BACKEND]);
    /// The time between a request being sent in full and its response's end.
    OUTBOUND_HTTP_ROUTE_BACKEND_RESPONSE_DURATION_SECONDS =
        Desc::latency("outbound_http_route_backend_response_duration_seconds", BACKEND_DURATION)
            .peer()
            .labels(&[PARENT, ROUTE, BACKEND]);
    /// Completed responses of a backend.
    OUTBOUND_HTTP_ROUTE_BACKEND_RESPONSE_STATUSES_TOTAL =
        Desc::counter("outbound_http_route_backend_response_statuses_total")
            .peer()
            .labels(&[PARENT, ROUTE, BACKEND, HTTP_STATUS]);
    /// The size of response data frames.
    OUTBOUND_HTTP_ROUTE_BACKEND_RESPONSE_FRAME_SIZE_BYTES =
        Desc::histogram("outbound_http_route_backend_response_frame_size_bytes", FRAMES)
            .unit(Unit::Bytes)
            .peer()
            .labels(&[PARENT, ROUTE, BACKEND]);
    /// The time between request initialization and response completion.
    /// One observation for each request of a client, however many attempts it took.
    OUTBOUND_GRPC_ROUTE_REQUEST_DURATION_SECONDS =
        Desc::latency("outbound_grpc_route_request_duration_seconds", DURATION).peer().labels(&[PARENT, ROUTE, HOSTNAME]);
    /// Completed request-response streams.
    OUTBOUND_GRPC_ROUTE_REQUEST_STATUSES_TOTAL =
        Desc::counter("outbound_grpc_route_request_statuses_total")
            .peer()
            .labels(&[PARENT, ROUTE, HOSTNAME, GRPC_STATUS]);
    /// The size of request data frames.
    OUTBOUND_GRPC_ROUTE_REQUEST_FRAME_SIZE_BYTES =
        Desc::histogram("outbound_grpc_route_request_frame_size_bytes", FRAMES)
            .unit(Unit::Bytes)
            .peer()
            .labels(&[PARENT, ROUTE, HOSTNAME]);
    /// The number of requests sent to a backend, one for each attempt.
    OUTBOUND_GRPC_ROUTE_BACKEND_REQUESTS_TOTAL =
        Desc::counter("outbound_grpc_route_backend_requests_total").peer().labels(&[PARENT, ROUTE, BACKEND]);
    /// The time between a request being sent in full and its response's end.
    OUTBOUND_GRPC_ROUTE_BACKEND_RESPONSE_DURATION_SECONDS =
        Desc::latency("outbound_grpc_route_backend_response_duration_seconds", BACKEND_DURATION)
            .peer()
            .labels(&[PARENT, ROUTE, BACKEND]);
    /// Completed responses of a backend.
    OUTBOUND_GRPC_ROUTE_BACKEND_RESPONSE_STATUSES_TOTAL =
        Desc::counter("outbound_grpc_route_backend_response_statuses_total")
            .peer()
            .labels(&[PARENT, ROUTE, BACKEND, GRPC_STATUS]);
    /// The size of response data frames.
    OUTBOUND_GRPC_ROUTE_BACKEND_RESPONSE_FRAME_SIZE_BYTES =
        Desc::histogram("outbound_grpc_route_backend_response_frame_size_bytes", FRAMES)
            .unit(Unit::Bytes)
            .peer()
            .labels(&[PARENT, ROUTE, BACKEND]);
    /// The number of opaque connections that a route took.
    OUTBOUND_TCP_ROUTE_OPEN_TOTAL =
        Desc::counter("outbound_tcp_route_open_total").peer().labels(&[PARENT, ROUTE, &["target_ip", "target_port"]]);
    /// The number of opaque connections of a route that ended.
    /// `error`: empty, `forbidden`, `invalid_backend`, `invalid_policy`, `unexpected`; all five appear together.
    OUTBOUND_TCP_ROUTE_CLOSE_TOTAL =
        Desc::counter("outbound_tcp_route_close_total")
            .peer()
            .labels(&[PARENT, ROUTE, &["target_ip", "target_port"], ERROR]);
    /// The number of TLS connections that a route took.
    OUTBOUND_TLS_ROUTE_OPEN_TOTAL =
        Desc::counter("outbound_tls_route_open_total").peer().labels(&[PARENT, ROUTE, HOSTNAME]);
    /// The number of TLS connections of a route that ended.
    /// `error` as in `outbound_tcp_route_close_total`.
    OUTBOUND_TLS_ROUTE_CLOSE_TOTAL =
        Desc::counter("outbound_tls_route_close_total").peer().labels(&[PARENT, ROUTE, HOSTNAME, ERROR]);
    /// The number of bytes that crossed zones, or did not.
    /// `op`: `Send`, `Recv`; `zone_locality`: `Unknown`, `Local`, `Remote`.
    OUTBOUND_TCP_TRANSFER_COST_BYTES_TOTAL =
        Desc::counter("outbound_tcp_transfer_cost_bytes_total").unit(Unit::Bytes).peer().fixed(&[&["op", "zone_locality"]]);
    /// The number of requests and connections that were not sent because policy requires mutual TLS.
    /// `reason`: `plaintext`: the endpoint has no identity; `identity`: another one than policy expects.
    OUTBOUND_MTLS_REFUSED_TOTAL =
        Desc::counter("outbound_mtls_refused_total").labels(&[PARENT, &["reason"]]);
    /// The time requests spent in the proxy itself.
    /// Without waiting for an endpoint, for its response, and between attempts.
    OUTBOUND_HTTP_PROXY_DURATION_SECONDS =
        Desc::latency("outbound_http_proxy_duration_seconds", &[0.0001, 0.001, 0.01, 0.1, 1.0]).labels(&[PARENT]);
    /// The number of requests and connections that were refused because of a limit.
    /// `limit`: `in_flight`, `destination_in_flight`, `connections`, `destinations`.
    OUTBOUND_REFUSED_TOTAL = Desc::counter("outbound_refused_total").fixed(&[&["limit"]]);
    /// The number of requests that wait for the head of a response.
    OUTBOUND_HTTP_REQUESTS_IN_FLIGHT = Desc::gauge("outbound_http_requests_in_flight");
    /// The most there may be.
    OUTBOUND_HTTP_REQUESTS_IN_FLIGHT_LIMIT = Desc::gauge("outbound_http_requests_in_flight_limit");
}
