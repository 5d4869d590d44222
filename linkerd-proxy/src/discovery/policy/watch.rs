//! The stream of one port: opened again and again, each message checked, converted, compiled and put in force.

use super::{
    PolicyStore,
    port::{PortPolicy, Source},
};
use crate::discovery::backoff::Pauses;
use linkerd_metrics::{Gauge, Handle, Labels};
use linkerd_policy::proto;
use linkerd2_proxy_api::inbound::{PortSpec, Server};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;
use tonic::{Code, Status};

/// Longest pause before a stream is opened again while the controller answers: it costs the controller a frame, and
/// everybody behind this proxy waits for it.
const STREAM_PAUSE: Duration = Duration::from_secs(2);
/// Pause between two log lines about the same trouble of a port.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// Why a stream is over.
#[derive(Debug)]
enum End {
    /// Nobody uses the port any more.
    Evicted,
    /// The controller ended it, or said why not.
    Status(Status),
    /// A limit of ours: no first message, silence, or age.
    Limit(&'static str),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evicted => f.write_str("not used any more"),
            Self::Status(status) => write!(f, "{:?}: {}", status.code(), status.message()),
            Self::Limit(limit) => f.write_str(limit),
        }
    }
}

/// Keeps a port's policy up to date until nobody uses the port.
pub(super) async fn keep(store: PolicyStore, port: Arc<PortPolicy>) {
    let mut keeper = Keeper {
        pauses: Pauses::new(store.0.client.backoff()),
        published: None,
        last_log: None,
        is_live: false,
        store,
        port,
    };
    keeper.publish();
    loop {
        let end = keeper.stream().await;
        keeper.is_live = false;
        if matches!(end, End::Evicted) {
            return;
        }
        keeper.ended(&end);
        let cap = match &end {
            // The controller asks for less, or sends what is too large again and again.
            End::Status(status)
                if matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange) =>
            {
                Duration::MAX
            }
            _ => STREAM_PAUSE,
        };
        tokio::time::sleep(keeper.pauses.next(cap)).await;
    }
}

struct Keeper {
    store: PolicyStore,
    port: Arc<PortPolicy>,
    pauses: Pauses,
    /// The series that say what is in force; dropped when it is not, and kept till then, since idle series go.
    published: Option<[Handle<Gauge>; 3]>,
    last_log: Option<Instant>,
    /// Whether a stream has answered since it was opened.
    is_live: bool,
}

impl Keeper {
    /// One stream, from its opening to its end.
    async fn stream(&mut self) -> End {
        let client = self.store.0.client.clone();
        let connected = Box::pin(client.connected());
        let Some(client) = self.until_evicted(connected).await else {
            return End::Evicted;
        };
        let settings = &self.store.0.settings;
        let limits = settings.limits;
        let spec = PortSpec {
            workload: settings.workload.clone(),
            port: self.port.number().into(),
        };
        let opened = Instant::now();
        const WATCH_PORT: &str = "/io.linkerd.proxy.inbound.InboundServerPolicies/WatchPort";
        let messages = crate::discovery::stream::open(client, WATCH_PORT, spec);
        let first = deadline(opened, limits.initial);
        let opening = async {
            match tokio::time::timeout_at(first, messages).await {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => Err(End::Status(status)),
                Err(_) => Err(End::Limit("no answer in time")),
            }
        };
        let mut updates = match self.until_evicted(Box::pin(opening)).await {
            Some(Ok(updates)) => updates,
            Some(Err(end)) => return end,
            None => return End::Evicted,
        };
        let oldest = deadline(opened, limits.lifetime);
        let mut until = first.min(oldest);
        loop {
            let next = tokio::time::timeout_at(until, updates.message());
            let Some(next) = self.until_evicted(Box::pin(next)).await else {
                return End::Evicted;
            };
            match next {
                Ok(Ok(Some(server))) => self.update(server),
                Ok(Ok(None)) => return End::Status(Status::unavailable("the stream ended")),
                Ok(Err(status)) => return End::Status(status),
                Err(_) if until == oldest => return End::Limit("the stream is old"),
                Err(_) if !self.is_live => return End::Limit("no first message in time"),
                Err(_) => return End::Limit("the stream was silent"),
            }
            self.is_live = true;
            until = deadline(Instant::now(), limits.idle).min(oldest);
        }
    }

    /// Waits for something, unless the port goes out of use meanwhile.
    ///
    /// A policy that the controller gave is kept while the controller is away, used or not: the last good version
    /// stays in force.
    async fn until_evicted<F: Future + Unpin>(&self, mut wanted: F) -> Option<F::Output> {
        if self.port.is_listed() {
            return Some(wanted.await);
        }
        let limit = self.store.0.settings.idle_timeout;
        let mut ticks = tokio::time::interval((limit / 4).max(Duration::from_millis(50)));
        loop {
            tokio::select! {
                output = &mut wanted => return Some(output),
                _ = ticks.tick() => {}
            }
            let is_live = self.is_live && self.store.is_connected();
            let may_go = is_live || self.port.current().source == Source::Default;
            if self.port.idle() >= limit && may_go && self.store.evict(&self.port) {
                return None;
            }
        }
    }

    /// Puts a message in force, or refuses it.
    fn update(&mut self, server: Server) {
        self.pauses.reset();
        let server = match proto::server_from_api(server) {
            Ok(server) => server.with_localhost(),
            Err(error) => return self.refuse("invalid", error.to_string()),
        };
        match self.port.install(server, Source::Controller) {
            Ok(None) => {
                self.store.waiting();
            }
            Ok(Some(version)) => {
                let labels = self.labels();
                self.store.0.metrics.updates.get(&labels).inc();
                self.publish();
                self.store.waiting();
                let current = self.port.current();
                let server = current.policy.server();
                for warning in current.policy.warnings() {
                    tracing::warn!(port = self.port.number(), server = %server.meta, "{warning}");
                }
                tracing::debug!(
                    port = self.port.number(),
                    version,
                    server = %server.meta,
                    "Policy in force"
                );
            }
            Err(error) => self.refuse("compile", error.to_string()),
        }
    }

    /// Notes that an update cannot be used; the last good version stays, or nothing is allowed if there is none.
    fn refuse(&mut self, reason: &'static str, why: String) {
        let labels = self.labels().with("reason", reason);
        self.store.0.metrics.refused.get(&labels).inc();
        self.store.0.client.metrics().failure("invalid");
        self.port.refuse(why.clone());
        let source = self.port.current().source;
        if source == Source::Default
            && let Err(error) = self
                .port
                .install(self.store.0.settings.invalid(), Source::Invalid)
        {
            tracing::error!(port = self.port.number(), %error, "Nothing could be put in force");
        }
        self.publish();
        self.store.waiting();
        let in_force = match source {
            Source::Controller => "the last good version stays in force",
            Source::Default | Source::Invalid => {
                "nothing is allowed on the port until there is a usable one"
            }
        };
        if self.may_log() {
            tracing::warn!(port = self.port.number(), reason = %why, "Policy refused: {in_force}");
        }
    }

    /// Notes that a stream is over.
    fn ended(&mut self, end: &End) {
        match end {
            End::Status(status) if status.code() == Code::OutOfRange => {
                let labels = self.labels().with("reason", "too_large");
                self.store.0.metrics.refused.get(&labels).inc();
                self.port.refuse(status.message().to_owned());
                self.store.0.client.metrics().failure("invalid");
            }
            End::Status(_) => self.store.0.client.metrics().failure("status"),
            End::Limit(_) => self.store.0.client.metrics().failure("timeout"),
            End::Evicted => {}
        }
        // A port's stream ends and is opened again in the course of things; only what is not repaired is news.
        let is_news = matches!(end, End::Status(status) if status.code() != Code::Unavailable)
            || !self.port.is_answered();
        if is_news && self.may_log() {
            tracing::warn!(
                port = self.port.number(),
                reason = %end,
                in_force = self.port.current().source.as_str(),
                "Policy watch ended; retrying"
            );
        } else {
            tracing::debug!(port = self.port.number(), reason = %end, "Policy watch ended; retrying");
        }
    }

    fn may_log(&mut self) -> bool {
        let now = Instant::now();
        let may = self
            .last_log
            .is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL);
        if may {
            self.last_log = Some(now);
        }
        may
    }

    fn labels(&self) -> Labels {
        Labels::new().with("port", self.port.number())
    }

    /// Puts what is in force on the metrics page.
    fn publish(&mut self) {
        let metrics = &self.store.0.metrics;
        let current = self.port.current();
        let labels = self.labels();
        let version = metrics.version.get(&labels);
        version.set(current.version as f64);
        let received = metrics.received.get(&labels);
        received.set(seconds(current.received));
        let server = current.policy.server();
        let info = metrics.info.get(
            &labels
                .with("source", current.source.as_str())
                .with("srv_group", server.meta.group())
                .with("srv_kind", server.meta.kind())
                .with("srv_name", server.meta.name())
                .with("srv_port", self.port.number())
                .with("protocol", server.protocol.name()),
        );
        let published = [info.clone(), version, received];
        if let Some([before, ..]) = self.published.replace(published) {
            before.set(0.0);
        }
        info.set(1.0);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some([published, ..]) = &self.published {
            published.set(0.0);
        }
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn deadline(from: Instant, limit: Option<Duration>) -> Instant {
    // Thirty years stand for ever.
    let limit = limit.unwrap_or(Duration::from_secs(30 * 365 * 86_400));
    from.checked_add(limit).unwrap_or(from)
}
