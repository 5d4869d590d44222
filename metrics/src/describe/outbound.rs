//! Families of the outbound side that are in use so far; attempts and connections are in `traffic`.

use super::labels::{PARENT, TGT};
use super::{Desc, Unit, families};

families! {
    OUTBOUND_TABLE:
    /// The number of outbound HTTP requests that failed in the proxy.
    /// `error`: `failfast`, `loadshed`, `identity required`, `i/o`, `response timeout`, `unexpected`.
    OUTBOUND_HTTP_ERRORS_TOTAL = Desc::counter("outbound_http_errors_total").legacy().fixed(&[&["error"]]);
    /// The number of outbound TCP connections that failed in the proxy.
    /// `error` as in `outbound_http_errors_total`.
    OUTBOUND_TCP_ERRORS_TOTAL = Desc::counter("outbound_tcp_errors_total").legacy().labels(&[TGT, &["error"]]);
    /// The number of outbound connections by protocol.
    /// `protocol`: `http/1`, `http/2`, `detect`, `opaq`, `tls`.
    OUTBOUND_TCP_PROTOCOL_CONNECTIONS_TOTAL =
        Desc::counter("outbound_tcp_protocol_connections_total").peer().labels(&[&["protocol"], PARENT]);
    /// The time it took to detect the protocol of outbound connections.
    OUTBOUND_TCP_DETECT_HTTP_DURATION_SECONDS =
        Desc::histogram("outbound_tcp_detect_http_duration_seconds", &[0.001, 0.1])
            .unit(Unit::Seconds)
            .peer()
            .labels(&[PARENT]);
    /// The number of outbound connections by detected protocol.
    /// `result`: `http/1`, `http/2`, `not_http`, `read_timeout`, `error`; all five appear together.
    OUTBOUND_TCP_DETECT_HTTP_RESULTS_TOTAL =
        Desc::counter("outbound_tcp_detect_http_results_total").peer().labels(&[&["result"], PARENT]);
    /// The number of TLS handshakes to endpoints that failed.
    /// `reason` as in `inbound_tls_handshake_failures_total`.
    OUTBOUND_TLS_HANDSHAKE_FAILURES_TOTAL =
        Desc::counter("outbound_tls_handshake_failures_total").fixed(&[&["reason"]]);
}
