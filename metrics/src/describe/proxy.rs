//! Families of ours about the proxy itself: the policy in force, denials by reason, limits, TLS, readiness and
//! shutdown, and the metrics page.

use super::labels::SRV;
use super::{Desc, Kind, Unit, families};

const HANDSHAKE: Kind = Kind::Histogram {
    buckets: &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0],
    latency: false,
};

families! {
    PROXY_TABLE:
    /// The number of inbound connections and requests that policy denied, by what came closest to allowing them.
    /// `reason`: `no_authorizations` (there is none), `not_http`, `no_route`, or what the authorization that came
    /// closest failed on: `network`, `no_tls`, `tls_passthrough`, `no_identity`, `identity`.
    INBOUND_POLICY_DENIED_TOTAL = Desc::counter("inbound_policy_denied_total").labels(&[&["reason"], SRV]);
    /// The version of the policy in force on a port, counted by this proxy.
    /// It grows with each change.
    INBOUND_POLICY_VERSION = Desc::gauge("inbound_policy_version").labels(&[&["port"]]);
    /// Time when the policy in force on a port was received, in seconds since 1970.
    /// Its age is `time()` less this.
    INBOUND_POLICY_RECEIVED_TIMESTAMP_SECONDS =
        Desc::gauge("inbound_policy_received_timestamp_seconds").unit(Unit::Seconds).labels(&[&["port"]]);
    /// 1 for the policy in force on a port, with where it came from.
    /// 0 for one that was in force before.
    INBOUND_POLICY_INFO = Desc::gauge("inbound_policy_info").labels(&[&["port", "source"], SRV, &["protocol"]]);
    /// The number of policy updates put in force on a port.
    INBOUND_POLICY_UPDATES_TOTAL = Desc::counter("inbound_policy_updates_total").labels(&[&["port"]]);
    /// The number of policy updates that were refused, leaving the last good version in force.
    /// `reason`: `invalid` (a field cannot be used), `compile` (the whole cannot), `too_large`.
    INBOUND_POLICY_UPDATES_REFUSED_TOTAL =
        Desc::counter("inbound_policy_updates_refused_total").labels(&[&["port", "reason"]]);
    /// The number of declared ports that have no usable policy from the controller yet.
    INBOUND_POLICY_PORTS_WAITING = Desc::gauge("inbound_policy_ports_waiting");
    /// The number of inbound connections that are open.
    INBOUND_CONNECTIONS = Desc::gauge("inbound_connections");
    /// The number of inbound connections that may be open at once.
    INBOUND_CONNECTIONS_LIMIT = Desc::gauge("inbound_connections_limit");
    /// The number of inbound connections that were closed because a limit was reached.
    /// `limit`: `connections` (too many at once), `header_timeout`, `idle_timeout`.
    INBOUND_CONNECTIONS_REFUSED_TOTAL = Desc::counter("inbound_connections_refused_total").fixed(&[&["limit"]]);
    /// The number of times that accepting an inbound connection failed.
    /// `reason`: `files` (no descriptor left), `memory`, `aborted`, `other`.
    INBOUND_ACCEPT_ERRORS_TOTAL = Desc::counter("inbound_accept_errors_total").fixed(&[&["reason"]]);
    /// The number of inbound requests that wait for the head of a response.
    INBOUND_HTTP_REQUESTS_IN_FLIGHT = Desc::gauge("inbound_http_requests_in_flight");
    /// The number of inbound requests that may wait for the head of a response at once.
    INBOUND_HTTP_REQUESTS_IN_FLIGHT_LIMIT = Desc::gauge("inbound_http_requests_in_flight_limit");
    /// The number of inbound requests that were refused because a limit was reached.
    /// `limit`: `in_flight` (too many at once), `body_idle_timeout` (a body stood still, of the request or the response).
    INBOUND_HTTP_REQUESTS_REFUSED_TOTAL = Desc::counter("inbound_http_requests_refused_total").fixed(&[&["limit"]]);
    /// The time that successful TLS handshakes with clients took.
    INBOUND_TLS_HANDSHAKE_DURATION_SECONDS =
        Desc::new("inbound_tls_handshake_duration_seconds", HANDSHAKE).unit(Unit::Seconds);
    /// The number of TLS handshakes with clients that failed, by reason.
    /// `reason`: `handshake_timeout`, `io`, `closed`, `refused_by_peer`, `tls_version`, `incompatible`, `no_alpn`,
    /// `wrong_alpn`, `no_certificate`, `invalid_message`, `server_name`; or what is wrong with a certificate:
    /// `unknown_issuer`, `bad_signature`, `expired`, `not_yet_valid`, `wrong_usage`, `ca_as_leaf`, `issuer_not_ca`,
    /// `signature_algorithm`, `name_constraint`, `chain_too_long`, `bad_encoding`, `invalid_chain`, `no_san`,
    /// `common_name_only`, `several_uri_sans`, `several_identities`, `wildcard_san`, `invalid_san`, `wrong_identity`,
    /// `wrong_key`.
    INBOUND_TLS_HANDSHAKE_FAILURES_TOTAL =
        Desc::counter("inbound_tls_handshake_failures_total").fixed(&[&["reason"]]);
    /// The number of inbound connections that were silent until detection gave up.
    /// `stage`: `tls`, `http`.
    INBOUND_TCP_DETECT_STALLS_TOTAL = Desc::counter("inbound_tcp_detect_stalls_total").labels(&[&["stage"], SRV]);
    /// 1 while the proxy is ready for traffic, else 0.
    /// What `/ready` answers.
    PROXY_READY = Desc::gauge("proxy_ready");
    /// 1 for the phase of its life that the proxy is in, 0 for the others.
    /// `phase`: `starting`, `ready`, `draining`, `stopped`.
    PROXY_PHASE = Desc::gauge("proxy_phase").fixed(&[&["phase"]]);
    /// Time when the proxy was told to stop, in seconds since 1970, 0 before.
    PROXY_DRAIN_STARTED_TIMESTAMP_SECONDS = Desc::gauge("proxy_drain_started_timestamp_seconds").unit(Unit::Seconds);
    /// The number of inbound connections that were still open when the grace period ended, and were cut.
    PROXY_DRAIN_CONNECTIONS_CUT_TOTAL = Desc::counter("proxy_drain_connections_cut_total");
    /// The number of log lines that were left out because the same line was written shortly before.
    /// `reason`: `denied`, `audit`.
    PROXY_LOG_LINES_SUPPRESSED_TOTAL = Desc::counter("proxy_log_lines_suppressed_total").fixed(&[&["reason"]]);
    /// The number of series of a metric family whose labels come from traffic or policy.
    /// Made by the registry.
    METRICS_SERIES = Desc::gauge("metrics_series").fixed(&[&["family"]]);
    /// The number of times that a series was folded into one with the value `other` because its family was full.
    /// Made by the registry.
    METRICS_SERIES_DROPPED_TOTAL = Desc::counter("metrics_series_dropped_total").fixed(&[&["family"]]);
    /// The number of series that were removed because nothing used them.
    /// Made by the registry.
    METRICS_SERIES_EVICTED_TOTAL = Desc::counter("metrics_series_evicted_total").fixed(&[&["family"]]);
}
