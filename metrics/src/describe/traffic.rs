//! The peer's legacy traffic families, which both directions share, told apart by `direction`.

use super::labels::{AZ, ENDPOINT, RT, SRV, TGT, TLS};
use super::{Desc, Kind, Unit, families};

/// 1, 2, 3, 4, 5 and the same times 10, 100, 1000 and 10000.
const LATENCY_MS: &[f64] = &[
    1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0,
    1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 10000.0, 20000.0, 30000.0, 40000.0, 50000.0,
];

pub(super) const LATENCY: Kind = Kind::Histogram {
    buckets: LATENCY_MS,
    latency: true,
};

const DIRECTION: &[&str] = &["direction"];
const AUTHORITY: &[&str] = &["direction", "authority"];
const SIDE: &[&str] = &["direction", "peer", "authority"];
const RESPONSE: &[&str] = &["status_code", "classification", "grpc_status", "error"];
const STACK: &[&str] = &["direction", "protocol", "name"];
const PROFILE: &[&str] = &["dst", "rt_*"];

families! {
    TRAFFIC_TABLE:
    /// Total count of HTTP requests.
    /// Counted when the body is first polled, at once if it is empty. Inbound series have the labels up to
    /// `authz_name`; outbound ones, one for each attempt, those of the endpoint.
    REQUEST_TOTAL = Desc::counter("request_total").legacy().labels(&[AUTHORITY, TGT, TLS, SRV, RT, AZ, ENDPOINT]);
    /// Total count of HTTP responses.
    /// Counted when the response ended or was dropped. `error`: `timeout`, `h2(REASON)`, `unclassified`.
    RESPONSE_TOTAL =
        Desc::counter("response_total")
            .legacy()
            .labels(&[AUTHORITY, TGT, TLS, SRV, RT, AZ, ENDPOINT, RESPONSE]);
    /// Elapsed times between a request's headers being received and its response's first body frame.
    RESPONSE_LATENCY_MS =
        Desc::new("response_latency_ms", LATENCY)
            .unit(Unit::Milliseconds)
            .legacy()
            .labels(&[AUTHORITY, TGT, TLS, SRV, RT, AZ, ENDPOINT, &["status_code"]]);
    /// Total count of HTTP requests by route of a service profile.
    ROUTE_REQUEST_TOTAL = Desc::counter("route_request_total").legacy().labels(&[DIRECTION, PROFILE]);
    /// Total count of HTTP responses by route of a service profile.
    ROUTE_RESPONSE_TOTAL = Desc::counter("route_response_total").legacy().labels(&[DIRECTION, PROFILE, RESPONSE]);
    /// Elapsed times between a request's headers being received and its response's first body frame, by route.
    ROUTE_RESPONSE_LATENCY_MS =
        Desc::new("route_response_latency_ms", LATENCY)
            .unit(Unit::Milliseconds)
            .legacy()
            .labels(&[DIRECTION, PROFILE, &["status_code"]]);
    /// Total count of attempts at HTTP requests by route of a service profile.
    ROUTE_ACTUAL_REQUEST_TOTAL = Desc::counter("route_actual_request_total").legacy().labels(&[DIRECTION, PROFILE]);
    /// Total count of responses to attempts by route of a service profile.
    ROUTE_ACTUAL_RESPONSE_TOTAL =
        Desc::counter("route_actual_response_total").legacy().labels(&[DIRECTION, PROFILE, RESPONSE]);
    /// Total count of failed responses that may be retried, by route of a service profile.
    /// With `skipped="no_budget"`: those of them that were not, because there was no budget.
    ROUTE_RETRYABLE_TOTAL = Desc::counter("route_retryable_total").legacy().labels(&[DIRECTION, PROFILE, &["skipped"]]);
    /// Total count of opened connections.
    /// Counted after detection. The application's side of inbound has only `direction`, `peer`, `tls`,
    /// `no_tls_reason`.
    TCP_OPEN_TOTAL = Desc::counter("tcp_open_total").legacy().labels(&[SIDE, TGT, TLS, SRV, ENDPOINT]);
    /// Number of currently-open connections.
    TCP_OPEN_CONNECTIONS = Desc::gauge("tcp_open_connections").legacy().labels(&[SIDE, TGT, TLS, SRV, ENDPOINT]);
    /// Total count of bytes read from peers.
    /// Plaintext bytes.
    TCP_READ_BYTES_TOTAL = Desc::counter("tcp_read_bytes_total").legacy().labels(&[SIDE, TGT, TLS, SRV, ENDPOINT]);
    /// Total count of bytes written to peers.
    /// Plaintext bytes.
    TCP_WRITE_BYTES_TOTAL = Desc::counter("tcp_write_bytes_total").legacy().labels(&[SIDE, TGT, TLS, SRV, ENDPOINT]);
    /// Total count of closed connections.
    TCP_CLOSE_TOTAL = Desc::counter("tcp_close_total").legacy().labels(&[SIDE, TGT, TLS, SRV, ENDPOINT, &["errno"]]);
    /// Total number of services created.
    /// Ways to endpoints (`endpoint`, `forward`) and balancers of the outbound side.
    STACK_CREATE_TOTAL = Desc::counter("stack_create_total").legacy().fixed(&[STACK]);
    /// Total number of services dropped.
    /// As `stack_create_total`.
    STACK_DROP_TOTAL = Desc::counter("stack_drop_total").legacy().fixed(&[STACK]);
}
