//! One accepted connection of an application, shared by its requests.

use super::{
    ConnectionError, Worker,
    failure::Failure,
    plan::{How, Plan},
};
use crate::{
    discovery::outbound::{Lookup, Source, Target},
    http::body::Received,
    transport::{Io, detect},
};
use arc_swap::ArcSwap;
use bytes::BytesMut;
use http::{Request, uri::Authority};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// The header by which a client names the destination of a request, in ingress mode.
const OVERRIDE: &str = "l5d-dst-override";

/// A connection, and where it goes.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) worker: Arc<Worker>,
    pub(super) lookup: Arc<Lookup>,
    plan: ArcSwap<Plan>,
    /// When its own wait for the destination was over: the requests that come with it do not wait as long once more.
    waited: Instant,
    close: Notify,
    is_ending: AtomicBool,
}

impl Connection {
    pub(super) fn new(worker: Arc<Worker>, lookup: Arc<Lookup>) -> Arc<Self> {
        let plan = worker.outbound.plan(&lookup);
        Arc::new(Self {
            worker,
            lookup,
            plan: ArcSwap::new(plan),
            waited: Instant::now(),
            close: Notify::new(),
            is_ending: AtomicBool::new(false),
        })
    }

    /// The destination as it is known at this moment.
    pub(super) fn plan(&self) -> Arc<Plan> {
        let plan = self.plan.load();
        if Arc::ptr_eq(&plan.known, &self.lookup.current()) {
            return Arc::clone(&plan);
        }
        let plan = self.worker.outbound.plan(&self.lookup);
        self.plan.store(plan.clone());
        plan
    }

    /// The same for a request on it. Where the destination has become one for bytes, requests that come all the same are
    /// answered by the version before, and the connection ends: the next one is passed on as bytes.
    fn plan_of_request(&self) -> Arc<Plan> {
        let before = self.plan.load_full();
        if Arc::ptr_eq(&before.known, &self.lookup.current()) {
            return before;
        }
        let next = self.worker.outbound.plan(&self.lookup);
        if before.outlasts(&next) {
            self.close();
            return before;
        }
        self.plan.store(next.clone());
        next
    }

    /// Where a request goes: where the connection does, or in ingress mode where the request says.
    pub(super) async fn destination(
        &self,
        request: &mut Request<Received>,
    ) -> Result<Arc<Plan>, Failure> {
        if !self.worker.outbound.settings.ingress_mode {
            let plan = self.plan_of_request();
            if plan.is_known() {
                return Ok(plan);
            }
            return self.known(&self.lookup).await;
        }
        let Some(name) = request.headers_mut().remove(OVERRIDE) else {
            return self.known(&self.lookup).await;
        };
        // What is no name at all is as if it were not there.
        let Ok(name) = Authority::try_from(name.as_bytes()) else {
            return self.known(&self.lookup).await;
        };
        let host = name.host().trim_start_matches('[').trim_end_matches(']');
        if host.parse::<std::net::IpAddr>().is_ok() || name.as_str().contains('@') {
            return Err(Failure::BadRequest(
                "l5d-dst-override is not a valid host:port",
            ));
        }
        let target = Target::Name(format!(
            "{}:{}",
            name.host().to_ascii_lowercase(),
            name.port_u16().unwrap_or(80)
        ));
        self.known(&self.worker.outbound.store.lookup(&target))
            .await
    }

    /// A destination, once something is known of it; within the configured time.
    async fn known(&self, lookup: &Arc<Lookup>) -> Result<Arc<Plan>, Failure> {
        let outbound = &self.worker.outbound;
        // There may be room by now for one that there was none for when the connection came.
        let again = (!lookup.is_watched()).then(|| outbound.store.lookup(lookup.target()));
        let lookup = again.as_ref().unwrap_or(lookup);
        let limit = outbound.settings.discovery_wait;
        let has_waited = Arc::ptr_eq(lookup, &self.lookup) && self.waited.elapsed() < limit;
        let limit = if has_waited { Duration::ZERO } else { limit };
        if !lookup.ready(limit).await {
            return Err(Failure::Unknown(lookup.target().to_string()));
        }
        Ok(outbound.plan(lookup))
    }

    /// Finds out whether HTTP is spoken. `None`: it is not.
    pub(super) async fn detect(
        &self,
        io: &mut Io,
        plan: &Plan,
        limit: Duration,
    ) -> Result<Option<detect::Http>, ConnectionError> {
        let started = Instant::now();
        let mut read = BytesMut::new();
        let detected = tokio::time::timeout(limit, detect::http(io, &mut read)).await;
        io.replay(read);
        let counts = &plan.detection;
        let (count, result) = match detected {
            Ok(Ok(detect::Detected::Http(version))) => {
                let count = match version {
                    detect::Http::Http1 => &counts.http1,
                    detect::Http::Http2 => &counts.http2,
                };
                (count, Ok(Some(version)))
            }
            Ok(Ok(detect::Detected::NotHttp)) => (&counts.not_http, Ok(None)),
            Ok(Ok(detect::Detected::Eof)) => {
                let error = "socket closed before protocol detection";
                let error = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, error);
                (&counts.error, Err(error.into()))
            }
            Ok(Err(error)) => (&counts.error, Err(error.into())),
            Err(_) => (&counts.read_timeout, Ok(None)),
        };
        count.inc();
        counts.duration.observe(started.elapsed().as_secs_f64());
        result
    }

    /// Reads how the application begins, whatever it is: a connection that is closed for it is then closed in good
    /// order, not reset over bytes that nobody read.
    pub(super) async fn beginning(io: &mut Io, limit: Duration) -> std::io::Result<()> {
        let mut read = BytesMut::new();
        let begun = tokio::time::timeout(limit, detect::http(io, &mut read)).await;
        io.replay(read);
        begun.unwrap_or(Ok(detect::Detected::NotHttp)).map(drop)
    }

    /// Ends the application's connection after what is in flight.
    pub(super) fn close(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        self.close.notify_one();
    }

    /// Whether the application is to be told so.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    /// Completes when the connection is to end.
    pub(super) async fn closing(&self) {
        self.close.notified().await;
    }
}

impl Plan {
    /// Whether requests may still go by this version, though the next one passes connections on as bytes: not where the
    /// next one forbids them, or wants more of the servers.
    fn outlasts(&self, next: &Self) -> bool {
        let How::Opaque(streams) = &next.how else {
            return false;
        };
        let is_of_requests = matches!(self.how, How::Detect(..) | How::Http1(_) | How::Http2(_));
        let is_let_through = streams
            .find(None)
            .is_some_and(|rule| rule.refusal.is_none());
        let wants = |plan: &Self| (plan.known.mtls.clone(), plan.known.workload_mtls.clone());
        self.is_known() && is_of_requests && is_let_through && wants(self) == wants(next)
    }

    /// Whether the control plane, or the configured fallback, has said what the destination is.
    pub(super) fn is_known(&self) -> bool {
        !matches!(self.known.source, Source::Unknown)
    }

    /// Whether it is what the control plane said.
    pub(super) fn is_of_controller(&self) -> bool {
        self.known.source == Source::Controller
    }
}
