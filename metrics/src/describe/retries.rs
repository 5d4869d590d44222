//! Families of retries: the peer's, by protocol, and ours, one for all.

use super::labels::{BACKEND, PARENT, ROUTE};
use super::{Desc, families};

const HOSTNAME: &[&str] = &["hostname"];

families! {
    RETRIES_TABLE:
    /// The number of retries that were sent.
    OUTBOUND_HTTP_ROUTE_RETRY_REQUESTS_TOTAL =
        Desc::counter("outbound_http_route_retry_requests_total").peer().labels(&[PARENT, ROUTE, HOSTNAME]);
    /// The number of retries after which none was called for.
    OUTBOUND_HTTP_ROUTE_RETRY_SUCCESSES_TOTAL =
        Desc::counter("outbound_http_route_retry_successes_total").peer().labels(&[PARENT, ROUTE, HOSTNAME]);
    /// The number of requests that used up their attempts.
    OUTBOUND_HTTP_ROUTE_RETRY_LIMIT_EXCEEDED_TOTAL =
        Desc::counter("outbound_http_route_retry_limit_exceeded_total").peer().labels(&[PARENT, ROUTE, HOSTNAME]);
    /// The number of retries that were not sent because no backend was available.
    OUTBOUND_HTTP_ROUTE_RETRY_OVERFLOW_TOTAL =
        Desc::counter("outbound_http_route_retry_overflow_total").peer().labels(&[PARENT, ROUTE, HOSTNAME]);
    /// The number of retries that were sent.
    OUTBOUND_GRPC_ROUTE_RETRY_REQUESTS_TOTAL =
        Desc::counter("outbound_grpc_route_retry_requests_total").peer().labels(&[PARENT, ROUTE, HOSTNAME]);
    /// The number of retries after which none was called for.
    OUTBOUND_GRPC_ROUTE_RETRY_SUCCESSES_TOTAL =
        Desc::counter("outbound_grpc_route_retry_successes_total").peer().labels(&[PARENT, ROUTE, HOSTNAME]);
    /// The number of requests that used up their attempts.
    OUTBOUND_GRPC_ROUTE_RETRY_LIMIT_EXCEEDED_TOTAL =
        Desc::counter("outbound_grpc_route_retry_limit_exceeded_total").peer().labels(&[PARENT, ROUTE, HOSTNAME]);
    /// The number of retries that were not sent because no backend was available.
    OUTBOUND_GRPC_ROUTE_RETRY_OVERFLOW_TOTAL =
        Desc::counter("outbound_grpc_route_retry_overflow_total").peer().labels(&[PARENT, ROUTE, HOSTNAME]);
    /// The number of requests of applications by what became of them, whatever it took.
    /// `fate`: `success` at once; `recovered` by a retry; `failed`, not retryable; `failed_after_retries`; `budget`,
    /// `limit`: failed, and no retry was left; `body`: failed, and the body could not be sent again; `timeout`; `shed`;
    /// `abandoned` by the application. With the name `unrouted` for parent and route, of requests that came to no route:
    /// `bad_request`, `undiscovered`, `no_route`, `invalid_policy`, `not_http`, `shed`, `abandoned`.
    OUTBOUND_ROUTE_REQUEST_FATES_TOTAL =
        Desc::counter("outbound_route_request_fates_total").labels(&[PARENT, ROUTE, &["fate"]]);
    /// How many attempts requests of applications took.
    OUTBOUND_ROUTE_REQUEST_ATTEMPTS =
        Desc::histogram("outbound_route_request_attempts", &[1.0, 2.0, 3.0, 4.0, 5.0, 10.0]).labels(&[PARENT, ROUTE]);
    /// The number of requests of applications that were retried at least once.
    /// `outcome`: `recovered`, `gave_up`.
    OUTBOUND_ROUTE_RETRIED_REQUESTS_TOTAL =
        Desc::counter("outbound_route_retried_requests_total").labels(&[PARENT, ROUTE, &["outcome"]]);
    /// The number of retries by what called for them.
    /// `reason`: a status (`429`, `503`, `504`, `4xx`, `5xx`, `other_status`), a gRPC code by name, `timeout`,
    /// `failfast`, `refused`, `connection`.
    OUTBOUND_ROUTE_RETRIES_TOTAL = Desc::counter("outbound_route_retries_total").labels(&[PARENT, ROUTE, &["reason"]]);
    /// The number of retries that were called for and not sent.
    /// `reason`: `limit`, `budget`, `body_too_large`, `body_not_finished`, `shed`, `deadline`.
    OUTBOUND_ROUTE_RETRIES_SUPPRESSED_TOTAL =
        Desc::counter("outbound_route_retries_suppressed_total").labels(&[PARENT, ROUTE, &["reason"]]);
    /// The time that retries added: from the first result that called for one to the end.
    OUTBOUND_ROUTE_RETRY_LATENCY_SECONDS =
        Desc::latency("outbound_route_retry_latency_seconds", &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0])
            .labels(&[PARENT, ROUTE]);
    /// The number of retries that the budget of a route has left.
    OUTBOUND_ROUTE_RETRY_BUDGET_REMAINING = Desc::gauge("outbound_route_retry_budget_remaining").labels(&[PARENT, ROUTE]);
    /// The number of attempts at a backend, first ones and retries apart.
    /// `retry`: `false`, `true`; `classification`: `success`, `failure`.
    OUTBOUND_ROUTE_BACKEND_ATTEMPTS_TOTAL =
        Desc::counter("outbound_route_backend_attempts_total")
            .labels(&[PARENT, ROUTE, BACKEND, &["retry", "classification"]]);
}
