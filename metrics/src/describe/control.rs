//! Families of the workload's identity and of the clients of the control plane.

use super::{Desc, Unit, families};

const CONTROL: &[&str] = &["addr", "tls", "server_id", "no_tls_reason"];
const RESPONSE: &[&str] = &["status_code", "classification", "grpc_status", "error"];

families! {
    CONTROL_TABLE:
    /// Time when this proxy's current mTLS identity certificate will expire, in seconds since 1970.
    /// 0 before the first.
    CONTROL_IDENTITY_CERT_EXPIRATION_TIMESTAMP_SECONDS =
        Desc::gauge("control_identity_cert_expiration_timestamp_seconds").unit(Unit::Seconds).peer();
    /// Time when this proxy's mTLS identity certificate was last refreshed, in seconds since 1970.
    /// 0 before the first.
    CONTROL_IDENTITY_CERT_REFRESH_TIMESTAMP_SECONDS =
        Desc::gauge("control_identity_cert_refresh_timestamp_seconds").unit(Unit::Seconds).peer();
    /// The number of times this proxy's mTLS identity certificate was refreshed, or could not be.
    /// `result`: `ok`, or `error`, which counts failed calls and unusable answers alike.
    CONTROL_IDENTITY_CERT_REFRESHES_TOTAL =
        Desc::counter("control_identity_cert_refreshes_total").peer().fixed(&[&["result"]]);
    /// Time when a refresh of this proxy's mTLS identity certificate last failed, in seconds since 1970.
    /// 0 if none has.
    CONTROL_IDENTITY_CERT_REFRESH_ERROR_TIMESTAMP_SECONDS =
        Desc::gauge("control_identity_cert_refresh_error_timestamp_seconds").unit(Unit::Seconds);
    /// The number of failed refreshes of this proxy's mTLS identity certificate by reason.
    /// `reason`: `token` (its file), `call` (no answer), `refused`, `invalid` (what came cannot be used); with SPIRE `socket` (no
    /// connection), `call`, `refused`, `no_svid` (none for our ID), `bundle` (its anchors), `invalid`.
    CONTROL_IDENTITY_CERT_REFRESH_ERRORS_TOTAL =
        Desc::counter("control_identity_cert_refresh_errors_total").fixed(&[&["reason"]]);
    /// Time when a trust anchor of this proxy will expire, in seconds since 1970.
    CONTROL_IDENTITY_TRUST_ANCHOR_EXPIRATION_TIMESTAMP_SECONDS =
        Desc::gauge("control_identity_trust_anchor_expiration_timestamp_seconds")
            .unit(Unit::Seconds)
            .fixed(&[&["anchor"]]);
    /// The number of times that the trust anchors changed while this proxy ran.
    /// By `IDENTITY_TRUST_ANCHORS_FILE` or by SPIRE; `result`: `ok`, or `error` for a file that could not be used, after which those
    /// in use stayed.
    CONTROL_IDENTITY_TRUST_ANCHOR_CHANGES_TOTAL =
        Desc::counter("control_identity_trust_anchor_changes_total").fixed(&[&["result"]]);
    /// Total count of requests to the control plane.
    /// Streams count when they open.
    CONTROL_REQUEST_TOTAL = Desc::counter("control_request_total").legacy().labels(&[CONTROL]);
    /// Total count of responses of the control plane.
    /// Streams count at their end.
    CONTROL_RESPONSE_TOTAL = Desc::counter("control_response_total").legacy().labels(&[CONTROL, RESPONSE]);
    /// Elapsed times between a call to the control plane and the first message of its answer.
    CONTROL_RESPONSE_LATENCY_MS =
        Desc::new("control_response_latency_ms", super::traffic::LATENCY)
            .unit(Unit::Milliseconds)
            .legacy()
            .labels(&[CONTROL, &["status_code"]]);
    /// The number of DNS resolutions of control plane addresses.
    /// `client`: `identity`, `policy`, `destination`; `record_type`: `A/AAAA`, `SRV`; `result`: `ok`, `not_found`.
    CONTROL_DNS_RESOLUTIONS_TOTAL =
        Desc::counter("control_dns_resolutions_total").peer().fixed(&[&["client", "record_type", "result"]]);
    /// 1 while the proxy has a connection to this control plane service, else 0.
    /// `client`: `identity`, `policy`, `destination`.
    CONTROL_CLIENT_CONNECTED = Desc::gauge("control_client_connected").fixed(&[&["client"]]);
    /// The number of failed calls and broken streams of control plane clients by reason.
    /// `client`: `identity`, `policy`, `destination`; `reason`: `dns`, `connect`, `tls`, `status`, `timeout`,
    /// `invalid`.
    CONTROL_CLIENT_FAILURES_TOTAL = Desc::counter("control_client_failures_total").fixed(&[&["client", "reason"]]);
}
