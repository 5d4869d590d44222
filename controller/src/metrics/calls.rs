//! `grpc_server_*`: calls of the gRPC services, from their beginning to their end.

use linkerd_metrics::{Counter, Family, Handle, Histogram, Labels, Registry, describe};
use linkerd2_proxy_api::{
    destination::destination_server, identity::identity_server,
    inbound::inbound_server_policies_server, outbound::outbound_policies_server,
};
use std::time::Instant;
use tonic::Code;

/// Service and method, by the names that logs and pages have.
pub(crate) type Name = (&'static str, &'static str);

/// Families of calls.
#[derive(Debug)]
pub(crate) struct Calls {
    started: Family<Counter>,
    handled: Family<Counter>,
    received: Family<Counter>,
    sent: Family<Counter>,
    handling: Family<Histogram>,
}

impl Calls {
    pub(crate) fn register(registry: &Registry) -> Self {
        Self {
            started: registry.counters(&describe::GRPC_SERVER_STARTED_TOTAL),
            handled: registry.counters(&describe::GRPC_SERVER_HANDLED_TOTAL),
            received: registry.counters(&describe::GRPC_SERVER_MSG_RECEIVED_TOTAL),
            sent: registry.counters(&describe::GRPC_SERVER_MSG_SENT_TOTAL),
            handling: registry.histograms(&describe::GRPC_SERVER_HANDLING_SECONDS),
        }
    }

    /// A call begins. Of all methods here the client sends one message.
    pub(crate) fn begin(&self, name: Name) -> Call {
        let (service, kind) = described(name);
        let labels = Labels::new()
            .with("grpc_service", service)
            .with("grpc_method", name.1)
            .with("grpc_type", kind);
        self.started.get(&labels).inc();
        self.received.get(&labels).inc();
        Call {
            name,
            began: Instant::now(),
            code: Code::Ok,
            sent: self.sent.get(&labels),
            handling: self.handling.get(&labels),
            handled: self.handled.clone(),
            labels,
        }
    }
}

/// A call under way; it ends when it is dropped. A client that goes away is no failure.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: Name,
    began: Instant,
    code: Code,
    sent: Handle<Counter>,
    handling: Handle<Histogram>,
    handled: Family<Counter>,
    labels: Labels,
}

impl Call {
    /// The client is sent a message.
    pub(crate) fn sends(&self) {
        self.sent.inc();
    }

    /// It ends with a failure.
    pub(crate) fn fails(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.handling.observe_duration(self.began.elapsed());
        let labels = self.labels.clone().with("grpc_code", text(self.code));
        self.handled.get(&labels).inc();
    }
}

/// A service by its full name, and what kind of method it is.
fn described((service, method): Name) -> (&'static str, &'static str) {
    let service = match service {
        "policy" => inbound_server_policies_server::SERVICE_NAME,
        "outbound" => outbound_policies_server::SERVICE_NAME,
        "destination" => destination_server::SERVICE_NAME,
        _ => identity_server::SERVICE_NAME,
    };
    let is_stream = matches!(
        (service, method),
        (_, "WatchPort" | "Watch" | "GetProfile") | (destination_server::SERVICE_NAME, "Get")
    );
    (service, if is_stream { "server_stream" } else { "unary" })
}

fn text(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
