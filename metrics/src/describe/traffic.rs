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
    /// Inbound requests (`direction` TGT TLS SRV RT AZ) and outbound attempts (`direction` ENDPOINT): counted when
    /// the body is first polled, at once if it is empty.
    REQUEST_TOTAL = Desc::counter(
        "request_total", "Total count of HTTP requests.",
    ).legacy().labels(&[AUTHORITY, TGT, TLS, SRV, RT, AZ, ENDPOINT]);
    /// Labels of [`REQUEST_TOTAL`] and those of the response: counted when it ended or was dropped.
    RESPONSE_TOTAL = Desc::counter(
        "response_total", "Total count of HTTP responses.",
    ).legacy().labels(&[AUTHORITY, TGT, TLS, SRV, RT, AZ, ENDPOINT, RESPONSE]);
    /// Labels of [`REQUEST_TOTAL`] and `status_code`: from the request to the first body frame or the end.
    RESPONSE_LATENCY_MS = Desc::new(
        "response_latency_ms", LATENCY,
        "Elapsed times between a request's headers being received and its response's first body frame.",
    ).unit(Unit::Milliseconds).legacy().labels(&[AUTHORITY, TGT, TLS, SRV, RT, AZ, ENDPOINT, &["status_code"]]);
    /// Requests by route of a service profile.
    ROUTE_REQUEST_TOTAL = Desc::counter(
        "route_request_total", "Total count of HTTP requests by route of a service profile.",
    ).legacy().labels(&[DIRECTION, PROFILE]);
    /// Responses by route of a service profile.
    ROUTE_RESPONSE_TOTAL = Desc::counter(
        "route_response_total", "Total count of HTTP responses by route of a service profile.",
    ).legacy().labels(&[DIRECTION, PROFILE, RESPONSE]);
    /// Latencies by route of a service profile.
    ROUTE_RESPONSE_LATENCY_MS = Desc::new(
        "route_response_latency_ms", LATENCY,
        "Elapsed times between a request's headers being received and its response's first body frame, by route.",
    ).unit(Unit::Milliseconds).legacy().labels(&[DIRECTION, PROFILE, &["status_code"]]);
    /// Connections opened, after detection. The application's side of inbound has only `direction`, `peer`, `tls`,
    /// `no_tls_reason`.
    TCP_OPEN_TOTAL = Desc::counter(
        "tcp_open_total", "Total count of opened connections.",
    ).legacy().labels(&[SIDE, TGT, TLS, SRV, ENDPOINT]);
    /// Connections open now.
    TCP_OPEN_CONNECTIONS = Desc::gauge(
        "tcp_open_connections", "Number of currently-open connections.",
    ).legacy().labels(&[SIDE, TGT, TLS, SRV, ENDPOINT]);
    /// Plaintext bytes read from the peer.
    TCP_READ_BYTES_TOTAL = Desc::counter(
        "tcp_read_bytes_total", "Total count of bytes read from peers.",
    ).legacy().labels(&[SIDE, TGT, TLS, SRV, ENDPOINT]);
    /// Plaintext bytes written to the peer.
    TCP_WRITE_BYTES_TOTAL = Desc::counter(
        "tcp_write_bytes_total", "Total count of bytes written to peers.",
    ).legacy().labels(&[SIDE, TGT, TLS, SRV, ENDPOINT]);
    /// Connections closed; `errno` is empty for a clean end.
    TCP_CLOSE_TOTAL = Desc::counter(
        "tcp_close_total", "Total count of closed connections.",
    ).legacy().labels(&[SIDE, TGT, TLS, SRV, ENDPOINT, &["errno"]]);
    /// Targets for which an HTTP stack was made.
    STACK_CREATE_TOTAL = Desc::counter(
        "stack_create_total", "Total number of services created.",
    ).legacy().fixed(&[STACK]);
    /// Targets whose HTTP stack is gone.
    STACK_DROP_TOTAL = Desc::counter(
        "stack_drop_total", "Total number of services dropped.",
    ).legacy().fixed(&[STACK]);
}
