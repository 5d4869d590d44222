//! Families of balancers: the same for HTTP, opaque and TLS traffic.

use super::labels::{BACKEND, PARENT};
use super::{Desc, Unit, families};

pub(super) const QUEUE: &[f64] = &[0.0005, 0.005, 0.05, 0.5, 1.0, 3.0];

/// The families that everything has that balances.
#[derive(Debug)]
pub struct Balancer {
    /// Endpoints by state.
    pub endpoints: &'static Desc,
    /// Endpoints.
    pub size: &'static Desc,
    /// Changes to them.
    pub updates: &'static Desc,
    /// Those that wait.
    pub queue_length: &'static Desc,
    /// Those that asked.
    pub queue_requests: &'static Desc,
    /// How long they waited.
    pub queue_latency: &'static Desc,
    /// Ends of failing fast.
    pub gate_open: &'static Desc,
    /// Beginnings of failing fast.
    pub gate_shut: &'static Desc,
    /// The last end.
    pub gate_open_time: &'static Desc,
    /// The last beginning.
    pub gate_shut_time: &'static Desc,
    /// The wait before it.
    pub gate_timeout: &'static Desc,
}

macro_rules! common {
    ($($name:ident: $endpoints:ident $size:ident $updates:ident $length:ident $requests:ident $latency:ident
        $open:ident $shut:ident $open_time:ident $shut_time:ident $timeout:ident;)*) => {$(
        /// Those of these families that everything has that balances.
        pub static $name: Balancer = Balancer {
            endpoints: &$endpoints,
            size: &$size,
            updates: &$updates,
            queue_length: &$length,
            queue_requests: &$requests,
            queue_latency: &$latency,
            gate_open: &$open,
            gate_shut: &$shut,
            gate_open_time: &$open_time,
            gate_shut_time: &$shut_time,
            gate_timeout: &$timeout,
        };
    )*};
}

common! {
    OUTBOUND_HTTP_BALANCER:
        OUTBOUND_HTTP_BALANCER_ENDPOINTS
        OUTBOUND_HTTP_BALANCER_P2C_ENDPOINTS
        OUTBOUND_HTTP_BALANCER_P2C_UPDATES_TOTAL
        OUTBOUND_HTTP_BALANCER_QUEUE_LENGTH
        OUTBOUND_HTTP_BALANCER_QUEUE_REQUESTS_TOTAL
        OUTBOUND_HTTP_BALANCER_QUEUE_LATENCY_SECONDS
        OUTBOUND_HTTP_BALANCER_QUEUE_GATE_OPEN_TOTAL
        OUTBOUND_HTTP_BALANCER_QUEUE_GATE_SHUT_TOTAL
        OUTBOUND_HTTP_BALANCER_QUEUE_GATE_OPEN_TIME_SECONDS
        OUTBOUND_HTTP_BALANCER_QUEUE_GATE_SHUT_TIME_SECONDS
        OUTBOUND_HTTP_BALANCER_QUEUE_GATE_TIMEOUT_SECONDS;
    OUTBOUND_TCP_BALANCER:
        OUTBOUND_TCP_BALANCER_ENDPOINTS
        OUTBOUND_TCP_BALANCER_P2C_ENDPOINTS
        OUTBOUND_TCP_BALANCER_P2C_UPDATES_TOTAL
        OUTBOUND_TCP_BALANCER_QUEUE_LENGTH
        OUTBOUND_TCP_BALANCER_QUEUE_REQUESTS_TOTAL
        OUTBOUND_TCP_BALANCER_QUEUE_LATENCY_SECONDS
        OUTBOUND_TCP_BALANCER_QUEUE_GATE_OPEN_TOTAL
        OUTBOUND_TCP_BALANCER_QUEUE_GATE_SHUT_TOTAL
        OUTBOUND_TCP_BALANCER_QUEUE_GATE_OPEN_TIME_SECONDS
        OUTBOUND_TCP_BALANCER_QUEUE_GATE_SHUT_TIME_SECONDS
        OUTBOUND_TCP_BALANCER_QUEUE_GATE_TIMEOUT_SECONDS;
    OUTBOUND_TLS_BALANCER:
        OUTBOUND_TLS_BALANCER_ENDPOINTS
        OUTBOUND_TLS_BALANCER_P2C_ENDPOINTS
        OUTBOUND_TLS_BALANCER_P2C_UPDATES_TOTAL
        OUTBOUND_TLS_BALANCER_QUEUE_LENGTH
        OUTBOUND_TLS_BALANCER_QUEUE_REQUESTS_TOTAL
        OUTBOUND_TLS_BALANCER_QUEUE_LATENCY_SECONDS
        OUTBOUND_TLS_BALANCER_QUEUE_GATE_OPEN_TOTAL
        OUTBOUND_TLS_BALANCER_QUEUE_GATE_SHUT_TOTAL
        OUTBOUND_TLS_BALANCER_QUEUE_GATE_OPEN_TIME_SECONDS
        OUTBOUND_TLS_BALANCER_QUEUE_GATE_SHUT_TIME_SECONDS
        OUTBOUND_TLS_BALANCER_QUEUE_GATE_TIMEOUT_SECONDS;
}

families! {
    BALANCER_TABLE:
    /// The number of endpoints of the balancer by state.
    /// `endpoint_state`: `ready`; `pending`: not connected to, or left out by its circuit breaker.
    OUTBOUND_HTTP_BALANCER_ENDPOINTS =
        Desc::gauge("outbound_http_balancer_endpoints").peer().labels(&[&["endpoint_state"], PARENT, BACKEND]);
    /// The number of endpoints of the balancer.
    OUTBOUND_HTTP_BALANCER_P2C_ENDPOINTS =
        Desc::gauge("outbound_http_balancer_p2c_endpoints").peer().labels(&[PARENT, BACKEND]);
    /// The number of changes to the endpoints of the balancer.
    /// `op`: `Reset`, `Add`, `Remove`.
    OUTBOUND_HTTP_BALANCER_P2C_UPDATES_TOTAL =
        Desc::counter("outbound_http_balancer_p2c_updates_total").peer().labels(&[&["op"], PARENT, BACKEND]);
    /// The number of requests that wait for an endpoint.
    OUTBOUND_HTTP_BALANCER_QUEUE_LENGTH =
        Desc::gauge("outbound_http_balancer_queue_length").peer().labels(&[PARENT, BACKEND]);
    /// The number of requests that asked for an endpoint.
    /// Those that were shed at once are not among them.
    OUTBOUND_HTTP_BALANCER_QUEUE_REQUESTS_TOTAL =
        Desc::counter("outbound_http_balancer_queue_requests_total").peer().labels(&[PARENT, BACKEND]);
    /// The time requests waited for an endpoint.
    OUTBOUND_HTTP_BALANCER_QUEUE_LATENCY_SECONDS =
        Desc::histogram("outbound_http_balancer_queue_latency_seconds", QUEUE).unit(Unit::Seconds).peer().labels(&[PARENT, BACKEND]);
    /// The number of times the balancer left failfast.
    OUTBOUND_HTTP_BALANCER_QUEUE_GATE_OPEN_TOTAL =
        Desc::counter("outbound_http_balancer_queue_gate_open_total").peer().labels(&[PARENT, BACKEND]);
    /// The number of times the balancer went into failfast.
    OUTBOUND_HTTP_BALANCER_QUEUE_GATE_SHUT_TOTAL =
        Desc::counter("outbound_http_balancer_queue_gate_shut_total").peer().labels(&[PARENT, BACKEND]);
    /// Time when the balancer last left failfast, in seconds since 1970.
    /// 0 if never.
    OUTBOUND_HTTP_BALANCER_QUEUE_GATE_OPEN_TIME_SECONDS =
        Desc::gauge("outbound_http_balancer_queue_gate_open_time_seconds").unit(Unit::Seconds).peer().labels(&[PARENT, BACKEND]);
    /// Time when the balancer last went into failfast, in seconds since 1970.
    /// 0 if never.
    OUTBOUND_HTTP_BALANCER_QUEUE_GATE_SHUT_TIME_SECONDS =
        Desc::gauge("outbound_http_balancer_queue_gate_shut_time_seconds").unit(Unit::Seconds).peer().labels(&[PARENT, BACKEND]);
    /// How long there may be no endpoint before the balancer goes into failfast.
    OUTBOUND_HTTP_BALANCER_QUEUE_GATE_TIMEOUT_SECONDS =
        Desc::gauge("outbound_http_balancer_queue_gate_timeout_seconds").unit(Unit::Seconds).peer().labels(&[PARENT, BACKEND]);
    /// The number of times a circuit breaker left an endpoint out.
    /// `reason`: `consecutive_failures`, `success_rate`, `failed_probe`.
    OUTBOUND_HTTP_BALANCER_EJECTIONS_TOTAL =
        Desc::counter("outbound_http_balancer_ejections_total").labels(&[&["reason"], PARENT, BACKEND]);
    /// The number of endpoints that circuit breakers leave out now.
    OUTBOUND_HTTP_BALANCER_EJECTED_ENDPOINTS =
        Desc::gauge("outbound_http_balancer_ejected_endpoints").labels(&[PARENT, BACKEND]);
    /// The number of requests that got no endpoint.
    /// `reason`: `no_endpoints`, `ejected`, `connect`, `queue_full`, `control_plane`, `unknown`.
    OUTBOUND_HTTP_BALANCER_UNREADY_TOTAL =
        Desc::counter("outbound_http_balancer_unready_total").labels(&[&["reason"], PARENT, BACKEND]);
    /// The number of requests by the zone of the endpoint that was chosen.
    /// `zone_locality`: `local`, `remote`, `unknown`.
    OUTBOUND_HTTP_BALANCER_PICKS_TOTAL =
        Desc::counter("outbound_http_balancer_picks_total").labels(&[&["zone_locality"], PARENT, BACKEND]);
    /// The number of endpoints of the balancer by state.
    /// `endpoint_state`: `ready`; `pending`: not connected to, or left out by its circuit breaker.
    OUTBOUND_TCP_BALANCER_ENDPOINTS =
        Desc::gauge("outbound_tcp_balancer_endpoints").peer().labels(&[&["endpoint_state"], PARENT, BACKEND, &["logical", "concrete"]]);
    /// The number of endpoints of the balancer.
    OUTBOUND_TCP_BALANCER_P2C_ENDPOINTS =
        Desc::gauge("outbound_tcp_balancer_p2c_endpoints").peer().labels(&[PARENT, BACKEND, &["logical", "concrete"]]);
    /// The number of changes to the endpoints of the balancer.
    /// `op`: `Reset`, `Add`, `Remove`.
    OUTBOUND_TCP_BALANCER_P2C_UPDATES_TOTAL =
        Desc::counter("outbound_tcp_balancer_p2c_updates_total").peer().labels(&[&["op"], PARENT, BACKEND, &["logical", "concrete"]]);
    /// The number of requests that wait for an endpoint.
    OUTBOUND_TCP_BALANCER_QUEUE_LENGTH =
        Desc::gauge("outbound_tcp_balancer_queue_length").peer().labels(&[PARENT, BACKEND, &["logical", "concrete"]]);
    /// The number of requests that asked for an endpoint.
    /// Those that were shed at once are not among them.
    OUTBOUND_TCP_BALANCER_QUEUE_REQUESTS_TOTAL =
        Desc::counter("outbound_tcp_balancer_queue_requests_total").peer().labels(&[PARENT, BACKEND, &["logical", "concrete"]]);
    /// The time requests waited for an endpoint.
    OUTBOUND_TCP_BALANCER_QUEUE_LATENCY_SECONDS =
        Desc::histogram("outbound_tcp_balancer_queue_latency_seconds", QUEUE).unit(Unit::Seconds).peer().labels(&[PARENT, BACKEND, &["logical", "concrete"]]);
    /// The number of times the balancer left failfast.
    OUTBOUND_TCP_BALANCER_QUEUE_GATE_OPEN_TOTAL =
        Desc::counter("outbound_tcp_balancer_queue_gate_open_total").peer().labels(&[PARENT, BACKEND, &["logical", "concrete"]]);
    /// The number of times the balancer went into failfast.
    OUTBOUND_TCP_BALANCER_QUEUE_GATE_SHUT_TOTAL =
        Desc::counter("outbound_tcp_balancer_queue_gate_shut_total").peer().labels(&[PARENT, BACKEND, &["logical", "concrete"]]);
    /// Time when the balancer last left failfast, in seconds since 1970.
    /// 0 if never.
    OUTBOUND_TCP_BALANCER_QUEUE_GATE_OPEN_TIME_SECONDS =
        Desc::gauge("outbound_tcp_balancer_queue_gate_open_time_seconds").unit(Unit::Seconds).peer().labels(&[PARENT, BACKEND, &["logical", "concrete"]]);
    /// Time when the balancer last went into failfast, in seconds since 1970.
    /// 0 if never.
    OUTBOUND_TCP_BALANCER_QUEUE_GATE_SHUT_TIME_SECONDS =
        Desc::gauge("outbound_tcp_balancer_queue_gate_shut_time_seconds").unit(Unit::Seconds).peer().labels(&[PARENT, BACKEND, &["logical", "concrete"]]);
    /// How long there may be no endpoint before the balancer goes into failfast.
    OUTBOUND_TCP_BALANCER_QUEUE_GATE_TIMEOUT_SECONDS =
        Desc::gauge("outbound_tcp_balancer_queue_gate_timeout_seconds").unit(Unit::Seconds).peer().labels(&[PARENT, BACKEND, &["logical", "concrete"]]);
    /// The number of times a circuit breaker left an endpoint out.
    /// `reason`: `consecutive_failures`, `success_rate`, `failed_probe`.
    OUTBOUND_TCP_BALANCER_EJECTIONS_TOTAL =
        Desc::counter("outbound_tcp_balancer_ejections_total").labels(&[&["reason"], PARENT, BACKEND, &["logical", "concrete"]]);
    /// The number of endpoints that circuit breakers leave out now.
    OUTBOUND_TCP_BALANCER_EJECTED_ENDPOINTS =
        Desc::gauge("outbound_tcp_balancer_ejected_endpoints").labels(&[PARENT, BACKEND, &["logical", "concrete"]]);
    /// The number of requests that got no endpoint.
    /// `reason`: `no_endpoints`, `ejected`, `connect`, `queue_full`, `control_plane`, `unknown`.
    OUTBOUND_TCP_BALANCER_UNREADY_TOTAL =
        Desc::counter("outbound_tcp_balancer_unready_total").labels(&[&["reason"], PARENT, BACKEND, &["logical", "concrete"]]);
    /// The number of requests by the zone of the endpoint that was chosen.
    /// `zone_locality`: `local`, `remote`, `unknown`.
    OUTBOUND_TCP_BALANCER_PICKS_TOTAL =
        Desc::counter("outbound_tcp_balancer_picks_total").labels(&[&["zone_locality"], PARENT, BACKEND, &["logical", "concrete"]]);
    /// The number of endpoints of the balancer by state.
    /// `endpoint_state`: `ready`; `pending`: not connected to, or left out by its circuit breaker.
    OUTBOUND_TLS_BALANCER_ENDPOINTS =
        Desc::gauge("outbound_tls_balancer_endpoints").peer().labels(&[&["endpoint_state"], &["concrete"]]);
    /// The number of endpoints of the balancer.
    OUTBOUND_TLS_BALANCER_P2C_ENDPOINTS =
        Desc::gauge("outbound_tls_balancer_p2c_endpoints").peer().labels(&[&["concrete"]]);
    /// The number of changes to the endpoints of the balancer.
    /// `op`: `Reset`, `Add`, `Remove`.
    OUTBOUND_TLS_BALANCER_P2C_UPDATES_TOTAL =
        Desc::counter("outbound_tls_balancer_p2c_updates_total").peer().labels(&[&["op"], &["concrete"]]);
    /// The number of requests that wait for an endpoint.
    OUTBOUND_TLS_BALANCER_QUEUE_LENGTH =
        Desc::gauge("outbound_tls_balancer_queue_length").peer().labels(&[&["concrete"]]);
    /// The number of requests that asked for an endpoint.
    /// Those that were shed at once are not among them.
    OUTBOUND_TLS_BALANCER_QUEUE_REQUESTS_TOTAL =
        Desc::counter("outbound_tls_balancer_queue_requests_total").peer().labels(&[&["concrete"]]);
    /// The time requests waited for an endpoint.
    OUTBOUND_TLS_BALANCER_QUEUE_LATENCY_SECONDS =
        Desc::histogram("outbound_tls_balancer_queue_latency_seconds", QUEUE).unit(Unit::Seconds).peer().labels(&[&["concrete"]]);
    /// The number of times the balancer left failfast.
    OUTBOUND_TLS_BALANCER_QUEUE_GATE_OPEN_TOTAL =
        Desc::counter("outbound_tls_balancer_queue_gate_open_total").peer().labels(&[&["concrete"]]);
    /// The number of times the balancer went into failfast.
    OUTBOUND_TLS_BALANCER_QUEUE_GATE_SHUT_TOTAL =
        Desc::counter("outbound_tls_balancer_queue_gate_shut_total").peer().labels(&[&["concrete"]]);
    /// Time when the balancer last left failfast, in seconds since 1970.
    /// 0 if never.
    OUTBOUND_TLS_BALANCER_QUEUE_GATE_OPEN_TIME_SECONDS =
        Desc::gauge("outbound_tls_balancer_queue_gate_open_time_seconds").unit(Unit::Seconds).peer().labels(&[&["concrete"]]);
    /// Time when the balancer last went into failfast, in seconds since 1970.
    /// 0 if never.
    OUTBOUND_TLS_BALANCER_QUEUE_GATE_SHUT_TIME_SECONDS =
        Desc::gauge("outbound_tls_balancer_queue_gate_shut_time_seconds").unit(Unit::Seconds).peer().labels(&[&["concrete"]]);
    /// How long there may be no endpoint before the balancer goes into failfast.
    OUTBOUND_TLS_BALANCER_QUEUE_GATE_TIMEOUT_SECONDS =
        Desc::gauge("outbound_tls_balancer_queue_gate_timeout_seconds").unit(Unit::Seconds).peer().labels(&[&["concrete"]]);
    /// The number of times a circuit breaker left an endpoint out.
    /// `reason`: `consecutive_failures`, `success_rate`, `failed_probe`.
    OUTBOUND_TLS_BALANCER_EJECTIONS_TOTAL =
        Desc::counter("outbound_tls_balancer_ejections_total").labels(&[&["reason"], &["concrete"]]);
    /// The number of endpoints that circuit breakers leave out now.
    OUTBOUND_TLS_BALANCER_EJECTED_ENDPOINTS =
        Desc::gauge("outbound_tls_balancer_ejected_endpoints").labels(&[&["concrete"]]);
    /// The number of requests that got no endpoint.
    /// `reason`: `no_endpoints`, `ejected`, `connect`, `queue_full`, `control_plane`, `unknown`.
    OUTBOUND_TLS_BALANCER_UNREADY_TOTAL =
        Desc::counter("outbound_tls_balancer_unready_total").labels(&[&["reason"], &["concrete"]]);
    /// The number of requests by the zone of the endpoint that was chosen.
    /// `zone_locality`: `local`, `remote`, `unknown`.
    OUTBOUND_TLS_BALANCER_PICKS_TOTAL =
        Desc::counter("outbound_tls_balancer_picks_total").labels(&[&["zone_locality"], &["concrete"]]);
}
