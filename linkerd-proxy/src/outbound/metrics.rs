//! The outbound families, and the handles that routes, backends and endpoints resolve from them, once.

use super::labels;
use crate::{
    http::outcome::{Break, ByOutcome, Ending, GrpcFailures, GrpcStatus, Outcome},
    inbound::InboundMetrics,
    limit::Limit,
};
use linkerd_metrics::{
    Collect, Counter, Family, Handle, Histogram, Labels, Registry, Samples, describe,
};
use linkerd_policy::outbound::Ref;
use std::{net::SocketAddr, sync::Arc};

/// The families of the outbound side. Cloned for each owner of handles; a clone is a few reference counts.
#[derive(Clone, Debug)]
pub(crate) struct OutboundMetrics {
    /// The `tcp_*` families, which both sides share.
    pub(crate) tcp: InboundMetrics,
    families: Arc<Families>,
}

#[derive(Debug)]
struct Families {
    request: Family<Counter>,
    response: Family<Counter>,
    response_latency: Family<Histogram>,
    route_request: Family<Counter>,
    route_response: Family<Counter>,
    route_latency: Family<Histogram>,
    route_actual_request: Family<Counter>,
    route_actual_response: Family<Counter>,
    route_retryable: Family<Counter>,
    http_errors: Family<Counter>,
    tcp_errors: Family<Counter>,
    protocols: Family<Counter>,
    detect_duration: Family<Histogram>,
    detect_results: Family<Counter>,
    handshake_failures: Family<Counter>,
    mtls_refused: Family<Counter>,
    refused: Family<Counter>,
    transfer: Family<Counter>,
    proxy_duration: Family<Histogram>,
    attempts: Family<Counter>,
    http: RouteFamilies,
    grpc: RouteFamilies,
    tcp_open: Family<Counter>,
    tcp_close: Family<Counter>,
    tls_open: Family<Counter>,
    tls_close: Family<Counter>,
    created: Family<Counter>,
    dropped: Family<Counter>,
}

/// The families that stand once for HTTP and once for gRPC policies.
#[derive(Debug)]
struct RouteFamilies {
    request_duration: Family<Histogram>,
    statuses: Family<Counter>,
    request_frames: Family<Histogram>,
    backend_requests: Family<Counter>,
    backend_duration: Family<Histogram>,
    backend_statuses: Family<Counter>,
    backend_frames: Family<Histogram>,
}

impl OutboundMetrics {
    pub(crate) fn register(registry: &Registry, tcp: InboundMetrics) -> Self {
        let families = Families {
            request: registry.counters(&describe::REQUEST_TOTAL),
            response: registry.counters(&describe::RESPONSE_TOTAL),
            response_latency: registry.histograms(&describe::RESPONSE_LATENCY_MS),
            route_request: registry.counters(&describe::ROUTE_REQUEST_TOTAL),
            route_response: registry.counters(&describe::ROUTE_RESPONSE_TOTAL),
            route_latency: registry.histograms(&describe::ROUTE_RESPONSE_LATENCY_MS),
            route_actual_request: registry.counters(&describe::ROUTE_ACTUAL_REQUEST_TOTAL),
            route_actual_response: registry.counters(&describe::ROUTE_ACTUAL_RESPONSE_TOTAL),
            route_retryable: registry.counters(&describe::ROUTE_RETRYABLE_TOTAL),
            http_errors: registry.counters(&describe::OUTBOUND_HTTP_ERRORS_TOTAL),
            tcp_errors: registry.counters(&describe::OUTBOUND_TCP_ERRORS_TOTAL),
            protocols: registry.counters(&describe::OUTBOUND_TCP_PROTOCOL_CONNECTIONS_TOTAL),
            detect_duration: registry
                .histograms(&describe::OUTBOUND_TCP_DETECT_HTTP_DURATION_SECONDS),
            detect_results: registry.counters(&describe::OUTBOUND_TCP_DETECT_HTTP_RESULTS_TOTAL),
            handshake_failures: registry.counters(&describe::OUTBOUND_TLS_HANDSHAKE_FAILURES_TOTAL),
            mtls_refused: registry.counters(&describe::OUTBOUND_MTLS_REFUSED_TOTAL),
            refused: registry.counters(&describe::OUTBOUND_REFUSED_TOTAL),
            transfer: registry.counters(&describe::OUTBOUND_TCP_TRANSFER_COST_BYTES_TOTAL),
            proxy_duration: registry.histograms(&describe::OUTBOUND_HTTP_PROXY_DURATION_SECONDS),
            attempts: registry.counters(&describe::OUTBOUND_ROUTE_BACKEND_ATTEMPTS_TOTAL),
            http: RouteFamilies {
                request_duration: registry
                    .histograms(&describe::OUTBOUND_HTTP_ROUTE_REQUEST_DURATION_SECONDS),
                statuses: registry.counters(&describe::OUTBOUND_HTTP_ROUTE_REQUEST_STATUSES_TOTAL),
                request_frames: registry
                    .histograms(&describe::OUTBOUND_HTTP_ROUTE_REQUEST_FRAME_SIZE_BYTES),
                backend_requests: registry
                    .counters(&describe::OUTBOUND_HTTP_ROUTE_BACKEND_REQUESTS_TOTAL),
                backend_duration: registry
                    .histograms(&describe::OUTBOUND_HTTP_ROUTE_BACKEND_RESPONSE_DURATION_SECONDS),
                backend_statuses: registry
                    .counters(&describe::OUTBOUND_HTTP_ROUTE_BACKEND_RESPONSE_STATUSES_TOTAL),
                backend_frames: registry
                    .histograms(&describe::OUTBOUND_HTTP_ROUTE_BACKEND_RESPONSE_FRAME_SIZE_BYTES),
            },
            grpc: RouteFamilies {
                request_duration: registry
                    .histograms(&describe::OUTBOUND_GRPC_ROUTE_REQUEST_DURATION_SECONDS),
                statuses: registry.counters(&describe::OUTBOUND_GRPC_ROUTE_REQUEST_STATUSES_TOTAL),
                request_frames: registry
                    .histograms(&describe::OUTBOUND_GRPC_ROUTE_REQUEST_FRAME_SIZE_BYTES),
                backend_requests: registry
                    .counters(&describe::OUTBOUND_GRPC_ROUTE_BACKEND_REQUESTS_TOTAL),
                backend_duration: registry
                    .histograms(&describe::OUTBOUND_GRPC_ROUTE_BACKEND_RESPONSE_DURATION_SECONDS),
                backend_statuses: registry
                    .counters(&describe::OUTBOUND_GRPC_ROUTE_BACKEND_RESPONSE_STATUSES_TOTAL),
                backend_frames: registry
                    .histograms(&describe::OUTBOUND_GRPC_ROUTE_BACKEND_RESPONSE_FRAME_SIZE_BYTES),
            },
            tcp_open: registry.counters(&describe::OUTBOUND_TCP_ROUTE_OPEN_TOTAL),
            tcp_close: registry.counters(&describe::OUTBOUND_TCP_ROUTE_CLOSE_TOTAL),
            tls_open: registry.counters(&describe::OUTBOUND_TLS_ROUTE_OPEN_TOTAL),
            tls_close: registry.counters(&describe::OUTBOUND_TLS_ROUTE_CLOSE_TOTAL),
            created: registry.counters(&describe::STACK_CREATE_TOTAL),
            dropped: registry.counters(&describe::STACK_DROP_TOTAL),
        };
        for (protocol, name) in STACKS {
            let labels = labels::stack(protocol, name);
            drop(families.created.get(&labels));
            drop(families.dropped.get(&labels));
        }
        Self {
            tcp,
            families: Arc::new(families),
        }
    }

    /// Counts a way to somewhere, until it is let go of.
    pub(super) fn stack(&self, protocol: &'static str, name: &'static str) -> Stack {
        let labels = labels::stack(protocol, name);
        self.families.created.get(&labels).inc();
        Stack(self.families.dropped.get(&labels))
    }

    /// Counts a request that failed in the proxy.
    pub(super) fn request_failed(&self, error: &'static str) {
        let labels = Labels::new().with("error", error);
        self.families.http_errors.get(&labels).inc();
    }

    /// Counts a connection that failed in the proxy.
    pub(super) fn connection_failed(&self, error: &'static str, original: Option<SocketAddr>) {
        let target = original.map(labels::target).unwrap_or_default();
        let labels = target.with("error", error);
        self.families.tcp_errors.get(&labels).inc();
    }

    /// Connections of applications by the protocol that their policy names.
    pub(super) fn connections(&self, protocol: &'static str, parent: &Ref) -> Handle<Counter> {
        let labels = Labels::new().with("protocol", protocol);
        let labels = labels.extend(&labels::parent(parent));
        self.families.protocols.get(&labels)
    }

    /// Counts a handshake with an endpoint that failed.
    pub(super) fn handshake_failed(&self, reason: &'static str) {
        let labels = Labels::new().with("reason", reason);
        self.families.handshake_failures.get(&labels).inc();
    }

    /// Counts what policy kept from leaving without the mutual TLS that it requires.
    pub(super) fn mtls_refused(&self, parent: &Ref, reason: &'static str) {
        let labels = labels::parent(parent).with("reason", reason);
        self.families.mtls_refused.get(&labels).inc();
    }

    /// Counts what was refused because of a limit.
    pub(super) fn refused(&self, limit: &'static str) {
        let labels = Labels::new().with("limit", limit);
        self.families.refused.get(&labels).inc();
    }

    /// The detection families of a destination.
    pub(super) fn detection(&self, parent: &Ref) -> Detection {
        let parent = labels::parent(parent);
        let result = |name: &str| {
            let labels = Labels::new().with("result", name).extend(&parent);
            self.families.detect_results.get(&labels)
        };
        Detection {
            duration: self.families.detect_duration.get(&parent),
            http1: result("http/1"),
            http2: result("http/2"),
            not_http: result("not_http"),
            read_timeout: result("read_timeout"),
            error: result("error"),
        }
    }

    /// What is counted for a route of connections. `name`: of TLS the server name, empty unless operators want it.
    pub(super) fn stream_route(
        &self,
        name: Option<&str>,
        parent: &Ref,
        route: &Ref,
        (original, port): (Option<SocketAddr>, Option<u16>),
    ) -> StreamHandles {
        let labels = labels::parent(parent).extend(&labels::route(route));
        let (open, close, labels) = if let Some(name) = name {
            let labels = labels.with("hostname", name);
            (&self.families.tls_open, &self.families.tls_close, labels)
        } else {
            let ip = original.map(|original| original.ip().to_string());
            let labels = labels.with("target_ip", ip.unwrap_or_default()).with(
                "target_port",
                port.map(|port| port.to_string()).unwrap_or_default(),
            );
            (&self.families.tcp_open, &self.families.tcp_close, labels)
        };
        let closed = |error: &str| close.get(&labels.clone().with("error", error));
        StreamHandles {
            opened: open.get(&labels),
            clean: closed(""),
            forbidden: closed("forbidden"),
            invalid_backend: closed("invalid_backend"),
            invalid_policy: closed("invalid_policy"),
            unexpected: closed("unexpected"),
        }
    }

    /// Bytes to and from endpoints of a zone locality: (sent, received).
    pub(super) fn transfer(&self, locality: &'static str) -> [Handle<Counter>; 2] {
        ["Send", "Recv"].map(|op| {
            let labels = Labels::new().with("op", op).with("zone_locality", locality);
            self.families.transfer.get(&labels)
        })
    }
}

/// What is counted in `stack_create_total` and `stack_drop_total`, there from the start.
/// The ways of TLS are those of bytes: they count there.
const STACKS: [(&str, &str); 9] = [
    ("http", "forward"),
    ("http", "endpoint"),
    ("http", "balance"),
    ("opaq", "forward"),
    ("opaq", "endpoint"),
    ("opaq", "balance"),
    ("tls", "forward"),
    ("tls", "endpoint"),
    ("tls", "balance"),
];

/// A way to somewhere, counted when it is made and when it goes.
#[derive(Debug)]
pub(super) struct Stack(Handle<Counter>);

impl Drop for Stack {
    fn drop(&mut self) {
        self.0.inc();
    }
}

/// Requests that wait for an answer now, read when a page is made.
#[derive(Debug)]
pub(crate) struct Occupancy(pub(crate) Limit);

impl Collect for Occupancy {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn collect(&self, samples: &mut Samples) {
        let mut push = |desc, value: usize| samples.push(desc, Labels::new(), value as f64);
        push(&describe::OUTBOUND_HTTP_REQUESTS_IN_FLIGHT, self.0.now());
        push(
            &describe::OUTBOUND_HTTP_REQUESTS_IN_FLIGHT_LIMIT,
            self.0.max(),
        );
    }
}

/// Detection on connections to a destination.
#[derive(Debug)]
pub(super) struct Detection {
    pub(super) duration: Handle<Histogram>,
    pub(super) http1: Handle<Counter>,
    pub(super) http2: Handle<Counter>,
    pub(super) not_http: Handle<Counter>,
    pub(super) read_timeout: Handle<Counter>,
    pub(super) error: Handle<Counter>,
}

/// What is counted for a route of opaque or TLS connections.
#[derive(Debug)]
pub(super) struct StreamHandles {
    pub(super) opened: Handle<Counter>,
    pub(super) clean: Handle<Counter>,
    pub(super) forbidden: Handle<Counter>,
    pub(super) invalid_backend: Handle<Counter>,
    pub(super) invalid_policy: Handle<Counter>,
    pub(super) unexpected: Handle<Counter>,
}

/// What requests of one route are counted in.
#[derive(Debug)]
pub(super) struct RouteHandles {
    pub(super) duration: Handle<Histogram>,
    pub(super) request_frames: Handle<Histogram>,
    pub(super) proxy_duration: Handle<Histogram>,
    statuses: ByOutcome<Handle<Counter>>,
    metrics: OutboundMetrics,
    labels: Labels,
    is_grpc: bool,
}

impl RouteHandles {
    pub(super) fn resolve(
        metrics: &OutboundMetrics,
        is_grpc: bool,
        parent: &Ref,
        route: &Ref,
        hostname: &str,
    ) -> Self {
        let families = metrics.routes(is_grpc);
        let of_parent = labels::parent(parent);
        let labels = of_parent
            .clone()
            .extend(&labels::route(route))
            .with("hostname", hostname);
        Self {
            duration: families.request_duration.get(&labels),
            request_frames: families.request_frames.get(&labels),
            proxy_duration: metrics.families.proxy_duration.get(&of_parent),
            statuses: ByOutcome::default(),
            metrics: metrics.clone(),
            labels,
            is_grpc,
        }
    }

    /// Counts the end of a client's request.
    pub(super) fn ended(&self, outcome: Outcome) {
        let family = &self.metrics.routes(self.is_grpc).statuses;
        let resolve = |outcome| family.get(&status(&self.labels, outcome, self.is_grpc));
        self.statuses.with(outcome, resolve, |count| count.inc());
    }
}

/// What attempts of one route at one backend are counted in.
#[derive(Debug)]
pub(super) struct BackendHandles {
    pub(super) requests: Handle<Counter>,
    pub(super) duration: Handle<Histogram>,
    pub(super) frames: Handle<Histogram>,
    /// First attempts and retries, each by success.
    attempts: [[Handle<Counter>; 2]; 2],
    statuses: ByOutcome<Handle<Counter>>,
    metrics: OutboundMetrics,
    labels: Labels,
    is_grpc: bool,
}

impl BackendHandles {
    pub(super) fn resolve(
        metrics: &OutboundMetrics,
        is_grpc: bool,
        parent: &Ref,
        route: &Ref,
        backend: &Ref,
    ) -> Self {
        let families = metrics.routes(is_grpc);
        let labels = labels::parent(parent)
            .extend(&labels::route(route))
            .extend(&labels::backend(backend));
        Self {
            requests: families.backend_requests.get(&labels),
            duration: families.backend_duration.get(&labels),
            frames: families.backend_frames.get(&labels),
            attempts: ["false", "true"].map(|retry| {
                ["failure", "success"].map(|class| {
                    let labels = labels.clone().with("retry", retry);
                    let labels = labels.with("classification", class);
                    metrics.families.attempts.get(&labels)
                })
            }),
            statuses: ByOutcome::default(),
            metrics: metrics.clone(),
            labels,
            is_grpc,
        }
    }

    /// Counts the end of an attempt.
    pub(super) fn ended(&self, outcome: Outcome, is_retry: bool, is_success: bool) {
        let family = &self.metrics.routes(self.is_grpc).backend_statuses;
        let resolve = |outcome| family.get(&status(&self.labels, outcome, self.is_grpc));
        self.statuses.with(outcome, resolve, |count| count.inc());
        let [first, retry] = &self.attempts;
        let [failure, success] = if is_retry { retry } else { first };
        if is_success {
            success.inc();
        } else {
            failure.inc();
        }
    }
}

impl OutboundMetrics {
    fn routes(&self, is_grpc: bool) -> &RouteFamilies {
        if is_grpc {
            &self.families.grpc
        } else {
            &self.families.http
        }
    }
}

/// `http_status` or `grpc_status`, and `error`, after the labels of a route.
fn status(labels: &Labels, outcome: Outcome, is_grpc: bool) -> Labels {
    let error = match outcome.ending {
        Ending::Whole => "",
        Ending::Broken(Break::Timeout(which) | Break::Refused(which)) => which,
        Ending::Broken(Break::Unknown) => "UNKNOWN",
        Ending::Broken(Break::Reset(reason)) => match reason {
            h2::Reason::CANCEL => "CANCEL",
            h2::Reason::REFUSED_STREAM => "REFUSED",
            h2::Reason::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
            _ => "RESET",
        },
    };
    let labels = labels.clone();
    let is_whole = outcome.ending == Ending::Whole;
    let labels = match (is_grpc, is_whole) {
        (true, true) => {
            let code = outcome.grpc.map_or(2, GrpcStatus::code);
            labels.with("grpc_status", grpc_name(code))
        }
        (true, false) => labels.with("grpc_status", ""),
        (false, true) => labels.with("http_status", outcome.status.as_str()),
        (false, false) => labels.with("http_status", ""),
    };
    labels.with("error", error)
}

/// The name of a gRPC code, as the peer's series have it.
fn grpc_name(code: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(code)).copied().unwrap_or("UNKNOWN")
}

/// What attempts at one endpoint are counted in: the legacy families.
#[derive(Debug)]
pub(super) struct EndpointHandles {
    pub(super) requests: Handle<Counter>,
    failures: GrpcFailures,
    responses: ByOutcome<Handle<Counter>>,
    latency: ByOutcome<Handle<Histogram>>,
    metrics: OutboundMetrics,
    labels: Labels,
}

impl EndpointHandles {
    pub(super) fn resolve(
        metrics: &OutboundMetrics,
        labels: Labels,
        failures: GrpcFailures,
    ) -> Self {
        Self {
            requests: metrics.families.request.get(&labels),
            failures,
            responses: ByOutcome::default(),
            latency: ByOutcome::default(),
            metrics: metrics.clone(),
            labels,
        }
    }

    /// Observes the time to the first frame of a response, in milliseconds.
    pub(super) fn observe_latency(&self, outcome: Outcome, milliseconds: f64) {
        let resolve = |outcome| self.metrics.families.latency(&self.labels, outcome);
        self.latency
            .with(outcome, resolve, |latency| latency.observe(milliseconds));
    }

    /// Counts the end of a response.
    pub(super) fn ended(&self, outcome: Outcome) {
        let family = &self.metrics.families.response;
        let resolve = |outcome| {
            family.get(&response(
                &self.labels,
                outcome,
                outcome.is_success(self.failures),
            ))
        };
        self.responses.with(outcome, resolve, |count| count.inc());
    }
}

impl Families {
    fn latency(&self, labels: &Labels, outcome: Outcome) -> Handle<Histogram> {
        let status = outcome.status.as_str();
        self.response_latency
            .get(&labels.clone().with("status_code", status))
    }
}

/// The labels of `response_total` and its like.
fn response(labels: &Labels, outcome: Outcome, is_success: bool) -> Labels {
    let is_whole = outcome.ending == Ending::Whole;
    let status = is_whole.then_some(outcome.status.as_str());
    let labels = labels.clone().with_some("status_code", status);
    outcome.end(labels, is_success)
}

/// What requests of a route of a service profile are counted in.
#[derive(Debug)]
pub(super) struct ProfileHandles {
    pub(super) requests: Handle<Counter>,
    responses: ByOutcome<[Handle<Counter>; 2]>,
    /// Attempts, and how they ended.
    pub(super) attempts: Handle<Counter>,
    attempted: ByOutcome<[Handle<Counter>; 2]>,
    retryable: Handle<Counter>,
    no_budget: Handle<Counter>,
    latency: ByOutcome<Handle<Histogram>>,
    metrics: OutboundMetrics,
    labels: Labels,
}

impl ProfileHandles {
    /// `labels` are the `rt_*` labels of the route, `dst` the profile's name and port.
    pub(super) fn resolve<'l>(
        metrics: &OutboundMetrics,
        dst: &str,
        labels: impl IntoIterator<Item = (&'l String, &'l String)>,
    ) -> Self {
        let labels = labels.into_iter().fold(
            Labels::new().with("direction", "outbound").with("dst", dst),
            |labels, (key, value)| labels.with(format!("rt_{key}"), value),
        );
        Self {
            requests: metrics.families.route_request.get(&labels),
            responses: ByOutcome::default(),
            attempts: metrics.families.route_actual_request.get(&labels),
            attempted: ByOutcome::default(),
            retryable: metrics.families.route_retryable.get(&labels),
            no_budget: metrics
                .families
                .route_retryable
                .get(&labels.clone().with("skipped", "no_budget")),
            latency: ByOutcome::default(),
            metrics: metrics.clone(),
            labels,
        }
    }

    pub(super) fn observe_latency(&self, outcome: Outcome, milliseconds: f64) {
        let family = &self.metrics.families.route_latency;
        let resolve = |outcome: Outcome| {
            let status = outcome.status.as_str();
            family.get(&self.labels.clone().with("status_code", status))
        };
        self.latency
            .with(outcome, resolve, |latency| latency.observe(milliseconds));
    }

    /// Counts the end of a response, which the profile may class otherwise than its status does.
    pub(super) fn ended(&self, outcome: Outcome, is_success: bool) {
        let family = &self.metrics.families.route_response;
        self.count(family, &self.responses, outcome, is_success);
    }

    /// Counts the end of an attempt.
    pub(super) fn attempted(&self, outcome: Outcome, is_success: bool) {
        let family = &self.metrics.families.route_actual_response;
        self.count(family, &self.attempted, outcome, is_success);
    }

    /// Counts a failure that may be retried, whether or not it is.
    pub(super) fn retryable(&self, is_out_of_budget: bool) {
        self.retryable.inc();
        if is_out_of_budget {
            self.no_budget.inc();
        }
    }

    fn count(
        &self,
        family: &Family<Counter>,
        counts: &ByOutcome<[Handle<Counter>; 2]>,
        outcome: Outcome,
        is_success: bool,
    ) {
        let resolve = |outcome| {
            [false, true].map(|success| family.get(&response(&self.labels, outcome, success)))
        };
        counts.with(outcome, resolve, |[failure, success]| {
            if is_success {
                success.inc();
            } else {
                failure.inc();
            }
        });
    }
}
