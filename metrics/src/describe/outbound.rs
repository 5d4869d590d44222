//! Families of the outbound side that are in use so far; attempts and connections are in `traffic`.

use super::labels::{PARENT, TGT};
use super::{Desc, Unit, families};

families! {
    OUTBOUND_TABLE:
    /// Requests that failed in the proxy. `error`: `failfast`, `loadshed`, `identity required`, `i/o`,
    /// `response timeout`, `unexpected`.
    OUTBOUND_HTTP_ERRORS_TOTAL = Desc::counter(
        "outbound_http_errors_total",
        "The number of outbound HTTP requests that failed in the proxy.",
    ).legacy().fixed(&[&["error"]]);
    /// Connections that failed in the proxy; `error` as in [`OUTBOUND_HTTP_ERRORS_TOTAL`].
    OUTBOUND_TCP_ERRORS_TOTAL = Desc::counter(
        "outbound_tcp_errors_total",
        "The number of outbound TCP connections that failed in the proxy.",
    ).legacy().labels(&[TGT, &["error"]]);
    /// `protocol`: `http/1`, `http/2`, `detect`, `opaq`, `tls`.
    OUTBOUND_TCP_PROTOCOL_CONNECTIONS_TOTAL = Desc::counter(
        "outbound_tcp_protocol_connections_total",
        "The number of outbound connections by protocol.",
    ).peer().labels(&[&["protocol"], PARENT]);
    /// Each protocol detection.
    OUTBOUND_TCP_DETECT_HTTP_DURATION_SECONDS = Desc::histogram(
        "outbound_tcp_detect_http_duration_seconds", &[0.001, 0.1],
        "The time it took to detect the protocol of outbound connections.",
    ).unit(Unit::Seconds).peer().labels(&[PARENT]);
    /// `result`: `http/1`, `http/2`, `not_http`, `read_timeout`, `error`; all five are resolved together.
    OUTBOUND_TCP_DETECT_HTTP_RESULTS_TOTAL = Desc::counter(
        "outbound_tcp_detect_http_results_total",
        "The number of outbound connections by detected protocol.",
    ).peer().labels(&[&["result"], PARENT]);
    /// `reason` is [`super::INBOUND_TLS_HANDSHAKE_FAILURES_TOTAL`]'s set.
    OUTBOUND_TLS_HANDSHAKE_FAILURES_TOTAL = Desc::counter(
        "outbound_tls_handshake_failures_total",
        "The number of TLS handshakes to endpoints that failed.",
    ).fixed(&[&["reason"]]);
}
