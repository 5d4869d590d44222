//! Families of the control plane: what its sources, index and services expose.

use super::{Desc, Unit, families};

families! {
    CONTROLLER_TABLE:
    /// Resources in the index.
    CONTROLLER_RESOURCES = Desc::gauge(
        "controller_resources", "The number of resources in the index, by kind.",
    ).fixed(&[&["kind"]]);
    /// Documents of a file that cannot be used now; 0 when all are good. The last good version of each stays.
    CONTROLLER_MANIFEST_ERRORS = Desc::gauge(
        "controller_manifest_errors", "The number of documents of a manifest file that cannot be used.",
    ).labels(&[&["file"]]);
    /// `result`: `ok`, `error`.
    CONTROLLER_MANIFEST_LOADS_TOTAL = Desc::counter(
        "controller_manifest_loads_total", "The number of times that the manifest directory was read.",
    ).fixed(&[&["result"]]);
    /// Findings of the policy linter; `reason` is the linter's closed set.
    CONTROLLER_LINT_FINDINGS = Desc::gauge(
        "controller_lint_findings", "The number of findings of the policy linter, by reason.",
    ).fixed(&[&["reason"]]);
    /// When the index last changed.
    CONTROLLER_INDEX_CHANGED_TIMESTAMP_SECONDS = Desc::gauge(
        "controller_index_changed_timestamp_seconds", "Time when the index last changed, in seconds since 1970.",
    ).unit(Unit::Seconds);
    /// Streams open now.
    CONTROLLER_STREAMS = Desc::gauge(
        "controller_streams", "The number of open streams, by service and method.",
    ).fixed(&[&["service", "method"]]);
    /// Calls answered; `grpc_status` is the number.
    CONTROLLER_CALLS_TOTAL = Desc::counter(
        "controller_calls_total", "The number of calls answered, by service, method and gRPC status.",
    ).fixed(&[&["service", "method", "grpc_status"]]);
    /// `result`: `ok`, `error`.
    CONTROLLER_CERTIFICATES_TOTAL = Desc::counter(
        "controller_certificates_total", "The number of certificates asked for.",
    ).fixed(&[&["result", "reason"]]);
    /// When the issuer's certificate ends.
    CONTROLLER_ISSUER_EXPIRATION_TIMESTAMP_SECONDS = Desc::gauge(
        "controller_issuer_expiration_timestamp_seconds",
        "Time when the certificate of the issuer will expire, in seconds since 1970.",
    ).unit(Unit::Seconds);
}
