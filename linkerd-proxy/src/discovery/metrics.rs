//! Metrics of the clients of controllers. Families are described in `linkerd_metrics::describe`.

use super::client::Endpoint;
use crate::balancer;
use linkerd_metrics::{Counter, Family, Gauge, Handle, Histogram, Labels, Registry, describe};
use std::time::Instant;

/// Families of control clients; one set for the process.
#[derive(Debug)]
struct ControlMetrics {
    requests: Family<Counter>,
    responses: Family<Counter>,
    latencies: Family<Histogram>,
    resolutions: Family<Counter>,
    connected: Family<Gauge>,
    failures: Family<Counter>,
}

/// The families of a client's balancer.
fn balancer(client: &str) -> &'static describe::Balancer {
    match client {
        "policy" => &describe::control_policy::BALANCER,
        "identity" => &describe::control_identity::BALANCER,
        "opentelemetry" => &describe::opentelemetry::BALANCER,
        _ => &describe::control_destination::BALANCER,
    }
}

impl ControlMetrics {
    fn register(registry: &Registry) -> Self {
        Self {
            requests: registry.counters(&describe::CONTROL_REQUEST_TOTAL),
            responses: registry.counters(&describe::CONTROL_RESPONSE_TOTAL),
            latencies: registry.histograms(&describe::CONTROL_RESPONSE_LATENCY_MS),
            resolutions: registry.counters(&describe::CONTROL_DNS_RESOLUTIONS_TOTAL),
            connected: registry.gauges(&describe::CONTROL_CLIENT_CONNECTED),
            failures: registry.counters(&describe::CONTROL_CLIENT_FAILURES_TOTAL),
        }
    }

    /// The series of the client of one controller.
    fn client(
        self,
        Endpoint { name, addr, .. }: &Endpoint,
        balancer: balancer::Families,
    ) -> ClientMetrics {
        let labels = Labels::new().with("addr", &addr.addr);
        let labels = match &addr.identity {
            Some(id) => labels.with("tls", "true").with("server_id", id),
            None => labels
                .with("tls", "no_identity")
                .with("no_tls_reason", "loopback"),
        };
        let client = Labels::new().with("client", name);
        let connected = self.connected.get(&client);
        connected.set(0.0);
        ClientMetrics {
            requests: self.requests.get(&labels),
            connected,
            client,
            labels,
            balancer,
            addr: Labels::new().with("addr", &addr.addr),
            families: self,
        }
    }
}

/// The series of one client.
#[derive(Debug)]
pub(crate) struct ClientMetrics {
    requests: Handle<Counter>,
    connected: Handle<Gauge>,
    client: Labels,
    labels: Labels,
    families: ControlMetrics,
    balancer: balancer::Families,
    addr: Labels,
}

impl ClientMetrics {
    /// The series of the client of one controller.
    pub(crate) fn new(registry: &Registry, endpoint: &Endpoint) -> Self {
        let balancer = balancer::Families::register(registry, balancer(endpoint.name));
        ControlMetrics::register(registry).client(endpoint, balancer)
    }

    /// The series of its balancer, and of whether there is a connection.
    pub(super) fn balancer(&self) -> (balancer::Series, Handle<Gauge>) {
        (self.balancer.series(&self.addr), self.connected.clone())
    }

    pub(crate) fn request(&self) {
        self.requests.inc();
    }

    /// `reason`: `dns`, `connect`, `tls`, `status`, `timeout` or `invalid`.
    pub(crate) fn failure(&self, reason: &'static str) {
        let labels = self.client.clone().with("reason", reason);
        self.families.failures.get(&labels).inc();
    }

    /// `kind`: `SRV` or `A/AAAA`.
    pub(crate) fn resolution(&self, kind: &'static str, is_found: bool) {
        let result = if is_found { "ok" } else { "not_found" };
        let labels = self.client.clone();
        let labels = labels.with("record_type", kind).with("result", result);
        self.families.resolutions.get(&labels).inc();
    }

    /// The first frame of a response's body, or its end.
    pub(crate) fn first_byte(&self, status: http::StatusCode, started: Instant) {
        let labels = self.labels.clone().with("status_code", status.as_u16());
        let latency = self.families.latencies.get(&labels);
        latency.observe(started.elapsed().as_secs_f64() * 1000.0);
    }

    /// The end of a response.
    pub(crate) fn response(&self, end: &ResponseEnd) {
        let labels = self.labels.clone();
        let labels = match *end {
            ResponseEnd::Grpc { http, code } => labels
                .with("status_code", http.as_u16())
                .with("classification", classify(http, code))
                .with("grpc_status", code)
                .with("error", ""),
            ResponseEnd::Failed(error) => labels
                .with("classification", "failure")
                .with("grpc_status", "")
                .with("error", error),
        };
        self.families.responses.get(&labels).inc();
    }
}

/// How a response ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ResponseEnd {
    /// With a gRPC status; 2 where there was none.
    Grpc {
        /// HTTP status.
        http: http::StatusCode,
        /// gRPC code.
        code: i32,
    },
    /// Without one.
    Failed(&'static str),
}

/// The classification of a gRPC response: these codes are the server's failure, not the caller's.
fn classify(http: http::StatusCode, code: i32) -> &'static str {
    if http.is_server_error() || matches!(code, 2 | 4 | 7 | 13 | 14 | 15) {
        "failure"
    } else {
        "success"
    }
}
