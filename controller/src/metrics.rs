//! The control plane's own metrics. Families are described in `linkerd_metrics::describe`.
//!
//! | module | what |
//! |---|---|
//! | `calls` | `grpc_server_*`: calls of the gRPC services |
//! | `sizes` | how much the index has |
//! | `subscribers` | who watches what of the destination service |

mod calls;
mod sizes;
mod subscribers;

pub(crate) use calls::{Call, Name};
pub(crate) use sizes::IndexSizes;
pub(crate) use subscribers::{About, ProfileSubscriber, Subscriber, Subscribers};

use crate::source::Snapshot;
use linkerd_metrics::{Counter, Family, Gauge, Handle, Histogram, Labels, Registry, describe};
use linkerd_tls::ca::Ca;
use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

/// Every family of the control plane.
#[derive(Debug)]
pub(crate) struct ControllerMetrics {
    resources: Family<Gauge>,
    manifest_errors: Family<Gauge>,
    loads: Family<Counter>,
    lint: Family<Gauge>,
    changed: Handle<Gauge>,
    streams: Family<Gauge>,
    updates: Family<Counter>,
    endpoint_overflow: Family<Counter>,
    profile_overflow: Family<Counter>,
    endpoint_profile_overflow: Family<Counter>,
    calls: Family<Counter>,
    begun: calls::Calls,
    pub(crate) subscribers: Subscribers,
    certificates: Family<Counter>,
    webhook_expiry: Family<Gauge>,
    webhook_failures: Family<Counter>,
    issuer_expiry: Handle<Gauge>,
    issuer_left: Handle<Gauge>,
    anchors: Family<Gauge>,
    pub(crate) injector: InjectorMetrics,
    pub(crate) events_lost: Handle<Counter>,
    pub(crate) lag: LagMetrics,
    clusters: Family<Gauge>,
}

/// Families of the injector.
#[derive(Debug)]
pub(crate) struct InjectorMetrics {
    pub(crate) asked: Family<Counter>,
    pub(crate) answered: Family<Counter>,
}

/// Gauges that stand for one snapshot; dropping them takes their series away in time.
#[derive(Debug, Default)]
pub(crate) struct Shown(Vec<Handle<Gauge>>);

/// What a stream is about, for the count of states that its client was spared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// Not counted.
    None,
    /// Endpoints of a Service, by its name.
    Endpoints(String),
    /// The profile of a Service, by its name and port.
    Profile(String, u16),
    /// The profile of an address or instance.
    EndpointProfile,
}

impl ControllerMetrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        let none = Labels::new();
        Self {
            resources: registry.gauges(&describe::CONTROLLER_RESOURCES),
            manifest_errors: registry.gauges(&describe::CONTROLLER_MANIFEST_ERRORS),
            loads: registry.counters(&describe::CONTROLLER_MANIFEST_LOADS_TOTAL),
            lint: registry.gauges(&describe::CONTROLLER_LINT_FINDINGS),
            changed: registry
                .gauges(&describe::CONTROLLER_INDEX_CHANGED_TIMESTAMP_SECONDS)
                .get(&none),
            streams: registry.gauges(&describe::CONTROLLER_STREAMS),
            updates: registry.counters(&describe::CONTROLLER_STREAM_UPDATES_TOTAL),
            endpoint_overflow: registry.counters(&describe::ENDPOINT_UPDATES_QUEUE_OVERFLOW),
            profile_overflow: registry.counters(&describe::PROFILE_UPDATES_QUEUE_OVERFLOW),
            endpoint_profile_overflow: registry
                .counters(&describe::ENDPOINT_PROFILE_UPDATES_QUEUE_OVERFLOW),
            calls: registry.counters(&describe::CONTROLLER_CALLS_TOTAL),
            begun: calls::Calls::register(registry),
            subscribers: Subscribers::register(registry),
            certificates: registry.counters(&describe::CONTROLLER_CERTIFICATES_TOTAL),
            webhook_expiry: registry
                .gauges(&describe::CONTROLLER_WEBHOOK_CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS),
            webhook_failures: registry
                .counters(&describe::CONTROLLER_WEBHOOK_CERTIFICATE_FAILURES_TOTAL),
            anchors: registry
                .gauges(&describe::CONTROLLER_TRUST_ANCHOR_EXPIRATION_TIMESTAMP_SECONDS),
            issuer_expiry: registry
                .gauges(&describe::CONTROLLER_ISSUER_EXPIRATION_TIMESTAMP_SECONDS)
                .get(&none),
            issuer_left: registry
                .gauges(&describe::ISSUER_CERT_TTL_SECONDS)
                .get(&none),
            injector: InjectorMetrics {
                asked: registry.counters(&describe::PROXY_INJECT_ADMISSION_REQUESTS_TOTAL),
                answered: registry.counters(&describe::PROXY_INJECT_ADMISSION_RESPONSES_TOTAL),
            },
            events_lost: registry
                .counters(&describe::CONTROLLER_EVENTS_LOST_TOTAL)
                .get(&none),
            lag: LagMetrics::register(registry),
            clusters: registry.gauges(&describe::CLUSTER_STORE_SIZE),
        }
    }

    /// Where is shown how many other clusters there are; from then on it is.
    pub(crate) fn clusters(&self) -> Handle<Gauge> {
        self.clusters.get(&Labels::new())
    }

    /// Shows a new snapshot in place of the one before.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(crate) fn show(&self, snapshot: &Snapshot, shown: &mut Shown) {
        let result = if snapshot.problems.is_empty() {
            "ok"
        } else {
            "error"
        };
        self.loads.get(&Labels::new().with("result", result)).inc();
        self.changed.set_time(SystemTime::now());
        for gauge in shown.0.drain(..) {
            gauge.set(0.0);
        }
        let mut set = |family: &Family<Gauge>, key: &str, counts: HashMap<String, usize>| {
            for (value, count) in counts {
                let gauge = family.get(&Labels::new().with(key, value));
                gauge.set(count as f64);
                shown.0.push(gauge);
            }
        };
        let counts = snapshot.index.counts();
        let mut kinds = HashMap::from([("Service".to_owned(), counts.services)]);
        for (kind, count) in [
            ("Pod", counts.pods),
            ("ExternalWorkload", counts.external_workloads),
        ] {
            if count > 0 {
                kinds.insert(kind.to_owned(), count);
            }
        }
        set(&self.resources, "kind", kinds);
        let mut files: HashMap<String, usize> = HashMap::new();
        for problem in &snapshot.problems {
            *files.entry(problem.file.clone()).or_default() += 1;
        }
        set(&self.manifest_errors, "file", files);
    }

    /// Shows what the linter finds. It reads everything, so an API server's objects are not read for each change.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(crate) fn show_lint(&self, snapshot: &Snapshot, shown: &mut Shown) {
        for gauge in shown.0.drain(..) {
            gauge.set(0.0);
        }
        let mut findings: HashMap<String, usize> = HashMap::new();
        for finding in snapshot.index.lint() {
            *findings.entry(finding.check.to_owned()).or_default() += 1;
        }
        for (reason, count) in findings {
            let gauge = self.lint.get(&Labels::new().with("reason", reason));
            gauge.set(count as f64);
            shown.0.push(gauge);
        }
    }

    /// A call begins.
    pub(crate) fn begin(&self, name: Name) -> Call {
        self.begun.begin(name)
    }

    /// Counts the answer to a call, which ends with it if it is a failure.
    pub(crate) fn answered<T>(
        &self,
        call: Call,
        result: Result<T, tonic::Status>,
    ) -> Result<(T, Call), tonic::Status> {
        let code = result
            .as_ref()
            .err()
            .map_or(tonic::Code::Ok, tonic::Status::code);
        let labels = Labels::new()
            .with("service", call.name.0)
            .with("method", call.name.1)
            .with("grpc_status", code as i32);
        self.calls.get(&labels).inc();
        match result {
            Ok(answer) => Ok((answer, call)),
            Err(status) => {
                call.fails(code);
                Err(status)
            }
        }
    }

    /// An open stream, until the value is dropped.
    pub(crate) fn stream(
        &self,
        service: &'static str,
        method: &'static str,
    ) -> linkerd_metrics::Held {
        self.streams
            .get(
                &Labels::new()
                    .with("service", service)
                    .with("method", method),
            )
            .hold()
    }

    /// An answer was made anew for an open stream.
    pub(crate) fn updated(&self, (service, method): (&'static str, &'static str), sent: bool) {
        let labels = Labels::new()
            .with("service", service)
            .with("method", method)
            .with("sent", if sent { "true" } else { "false" });
        self.updates.get(&labels).inc();
    }

    /// A slow client was spared older states.
    pub(crate) fn overflowed(&self, what: &Overflow) {
        match what {
            Overflow::None => {}
            Overflow::Endpoints(service) => {
                let labels = Labels::new().with("service", service);
                self.endpoint_overflow.get(&labels).inc();
            }
            Overflow::Profile(name, port) => {
                let labels = Labels::new().with("fqn", name).with("port", *port);
                self.profile_overflow.get(&labels).inc();
            }
            Overflow::EndpointProfile => {
                self.endpoint_profile_overflow.get(&Labels::new()).inc();
            }
        }
    }

    /// Counts an answer about a certificate; `reason` is empty for a certificate.
    pub(crate) fn certified(&self, reason: &'static str) {
        let result = if reason.is_empty() { "ok" } else { "error" };
        self.certificates
            .get(&Labels::new().with("result", result).with("reason", reason))
            .inc();
    }

    /// When the certificate of a webhook ends.
    pub(crate) fn webhook_expires(&self, service: &'static str, at: SystemTime) {
        self.webhook_expiry
            .get(&Labels::new().with("service", service))
            .set_time(at);
    }

    /// Counts a look at a webhook's certificate that could not put it right.
    pub(crate) fn webhook_failed(&self, service: &'static str) {
        self.webhook_failures
            .get(&Labels::new().with("service", service))
            .inc();
    }

    /// Brings up to date what depends on the time at which it is looked at.
    pub(crate) fn at(&self, now: SystemTime) {
        let until = self.issuer_expiry.get();
        // There is no issuer in processes that sign nothing.
        if until > 0.0 {
            let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.issuer_left.set(until - now.as_secs_f64());
        }
    }

    /// Shows an issuer and its anchors in place of those before.
    pub(crate) fn issuer(&self, ca: &Ca, shown: &mut Shown) {
        self.issuer_expiry.set_time(ca.not_after());
        for gauge in shown.0.drain(..) {
            gauge.set(0.0);
        }
        for anchor in ca.anchors().anchors() {
            let gauge = self
                .anchors
                .get(&Labels::new().with("anchor", &anchor.subject));
            gauge.set_time(anchor.not_after);
            shown.0.push(gauge);
        }
    }
}

/// How long changes of objects are on their way here, by kind.
#[derive(Debug)]
pub(crate) struct LagMetrics([(&'static str, Family<Histogram>); 6]);

impl LagMetrics {
    fn register(registry: &Registry) -> Self {
        Self(
            [
                ("Service", &describe::SERVICES_INFORMER_LAG_SECONDS),
                (
                    "EndpointSlice",
                    &describe::ENDPOINTSLICES_INFORMER_LAG_SECONDS,
                ),
                ("Pod", &describe::PODS_INFORMER_LAG_SECONDS),
                (
                    "ExternalWorkload",
                    &describe::EXTERNALWORKLOAD_INFORMER_LAG_SECONDS,
                ),
                ("Server", &describe::SERVERS_INFORMER_LAG_SECONDS),
                (
                    "ServiceProfile",
                    &describe::SERVICEPROFILES_INFORMER_LAG_SECONDS,
                ),
            ]
            .map(|(kind, desc)| (kind, registry.histograms(desc))),
        )
    }

    /// Where changes of a kind are counted, if they are; from then on they are shown.
    pub(crate) fn of(&self, kind: &str) -> Option<Handle<Histogram>> {
        let found = self.0.iter().find(|(name, _)| *name == kind);
        found.map(|(_, lag)| lag.get(&Labels::new()))
    }
}

/// What becomes of statuses that are to be written.
#[derive(Debug)]
pub(crate) struct StatusMetrics {
    pub(crate) is_holder: Handle<Gauge>,
    pub(crate) patches: Handle<Counter>,
    pub(crate) api_errors: Handle<Counter>,
    pub(crate) timeouts: Handle<Counter>,
    pub(crate) duration: Handle<Histogram>,
    pub(crate) enqueues: Handle<Counter>,
    pub(crate) dequeues: Handle<Counter>,
    pub(crate) drops: Handle<Counter>,
    pub(crate) overflows: Handle<Counter>,
}

impl StatusMetrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        let none = Labels::new();
        let counter = |desc| registry.counters(desc).get(&none);
        Self {
            is_holder: registry
                .gauges(&describe::CONTROLLER_STATUS_LEASE_HELD)
                .get(&none),
            patches: counter(&describe::RESOURCE_STATUS_PATCHES_TOTAL),
            api_errors: counter(&describe::RESOURCE_STATUS_PATCH_API_ERRORS_TOTAL),
            timeouts: counter(&describe::RESOURCE_STATUS_PATCH_TIMEOUTS_TOTAL),
            duration: registry
                .histograms(&describe::RESOURCE_STATUS_PATCH_DURATION_SECONDS)
                .get(&none),
            enqueues: counter(&describe::RESOURCE_STATUS_PATCH_ENQUEUES_TOTAL),
            dequeues: counter(&describe::RESOURCE_STATUS_PATCH_DEQUEUES_TOTAL),
            drops: counter(&describe::RESOURCE_STATUS_PATCH_DROPS_TOTAL),
            overflows: counter(&describe::RESOURCE_STATUS_PATCH_ENQUEUE_OVERFLOWS_TOTAL),
        }
    }
}

/// What becomes of EndpointSlices that are to be written.
#[derive(Debug)]
pub(crate) struct SliceMetrics {
    pub(crate) is_holder: Handle<Gauge>,
    writes: Family<Counter>,
}

impl SliceMetrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        Self {
            is_holder: registry
                .gauges(&describe::CONTROLLER_ENDPOINT_SLICE_LEASE_HELD)
                .get(&Labels::new()),
            writes: registry.counters(&describe::CONTROLLER_ENDPOINT_SLICE_WRITES_TOTAL),
        }
    }

    /// A change was tried.
    pub(crate) fn wrote(&self, is_ok: bool) {
        let result = if is_ok { "ok" } else { "error" };
        self.writes.get(&Labels::new().with("result", result)).inc();
    }
}
