//! What the policy in force says about a connection or a request, and the proof of it.
//!
//! [`Permitted`] is made here and nowhere else, and the origin takes nothing but a `Permitted`: a path to the
//! application that skips authorization does not compile.

use super::{
    connection::{Connection, Destination},
    failure::Failure,
    labels::{self, ClientTls},
    metrics::{Detection, InboundMetrics, RouteHandles, RouteKey, Transport},
};
use crate::{
    admin::denials::Denial, discovery::policy::Snapshot, hosts::Hosts, http::request::Form,
};
use arc_swap::ArcSwap;
use http::{Request, uri::Authority};
use linkerd_metrics::{Counter, Handle, Labels, Registry, describe};
use linkerd_policy::{
    Authorized, Denied, DenyReason, Matched, Peer, PeerId, PeerTls, Policy, RequestView,
    filters::{self, Stop},
    server::{Meta, Protocol},
};
use linkerd_tls::Id;
use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long an unused view is kept for the next connection of its kind.
const VIEW_IDLE: Duration = Duration::from_secs(60);
/// Seconds between two log lines about what the `audit` policy let through.
const AUDIT_LOG_INTERVAL: u64 = 60;
/// Log lines about it in such an interval.
const AUDIT_LOG_LINES: u64 = 100;

/// One version of a port's policy with the metric handles of one kind of client, resolved as they are needed.
#[derive(Debug)]
pub(crate) struct View {
    snapshot: Arc<Snapshot>,
    metrics: InboundMetrics,
    destination: SocketAddr,
    tls: ClientTls,
    made: Instant,
    transport: OnceLock<Arc<Transport>>,
    detection: OnceLock<Detection>,
    not_found: OnceLock<Handle<Counter>>,
    routes: Routes,
    /// The handles of requests that were denied, by route and reason.
    denied: ArcSwap<Vec<(u32, DenyReason, DeniedHandles)>>,
    /// Those of `routes` by the name that a request asks for, where operators want it.
    hosts: Option<Hosts<Routes>>,
    /// What the `audit` policy let through.
    audited: Audited,
}

/// What the `audit` policy let through of one kind of client, and the second of the view's life at which that is said
/// again.
#[derive(Debug, Default)]
struct Audited {
    count: AtomicU64,
    due: AtomicU64,
}

impl Audited {
    /// Counts one more at this second. Gives the count where it is to be said.
    fn count(&self, now: u64) -> Option<u64> {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let due = self.due.load(Ordering::Relaxed);
        let next = now + AUDIT_LOG_INTERVAL;
        let order = Ordering::Relaxed;
        let is_mine = now >= due && self.due.compare_exchange(due, next, order, order).is_ok();
        is_mine.then_some(count)
    }
}

/// How many lines about what the `audit` policy let through may be written in a minute, for all clients together: a
/// client chooses what it shows, and so how many kinds of clients there are.
#[derive(Debug)]
pub(crate) struct AuditLog {
    begun: Instant,
    minute: AtomicU64,
    lines: AtomicU64,
    suppressed: Handle<Counter>,
}

impl AuditLog {
    pub(crate) fn new(registry: &Registry) -> Self {
        let reason = Labels::new().with("reason", "audit");
        Self {
            begun: Instant::now(),
            minute: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            suppressed: registry
                .counters(&describe::PROXY_LOG_LINES_SUPPRESSED_TOTAL)
                .get(&reason),
        }
    }

    fn has_room(&self) -> bool {
        let minute = self.begun.elapsed().as_secs() / AUDIT_LOG_INTERVAL;
        if self.minute.swap(minute, Ordering::Relaxed) != minute {
            self.lines.store(0, Ordering::Relaxed);
        }
        self.lines.fetch_add(1, Ordering::Relaxed) < AUDIT_LOG_LINES
    }
}

/// What a denied request is counted in.
#[derive(Clone, Debug)]
struct DeniedHandles {
    requests: Handle<Counter>,
    reasons: Handle<Counter>,
}

/// The handles of requests by route and authorization, for one name or for all.
#[derive(Debug, Default)]
struct Routes {
    authority: Option<Box<str>>,
    known: ArcSwap<Vec<(u32, u32, Arc<RouteHandles>)>>,
}

impl View {
    /// `authority_labels`: how long a name that clients ask for is told apart without use, if at all.
    pub(super) fn new(
        metrics: &InboundMetrics,
        destination: Destination,
        tls: &ClientTls,
        snapshot: Arc<Snapshot>,
        authority_labels: Option<Duration>,
    ) -> Self {
        Self {
            snapshot,
            metrics: metrics.clone(),
            destination: destination.original,
            tls: tls.clone(),
            made: Instant::now(),
            transport: OnceLock::new(),
            detection: OnceLock::new(),
            not_found: OnceLock::new(),
            routes: Routes::default(),
            denied: ArcSwap::default(),
            hosts: authority_labels.map(|retain| {
                Hosts::new(retain, |name| Routes {
                    authority: Some(name.into()),
                    ..Routes::default()
                })
            }),
            audited: Audited::default(),
        }
    }

    pub(super) fn is_of(&self, snapshot: &Arc<Snapshot>) -> bool {
        Arc::ptr_eq(&self.snapshot, snapshot)
    }

    pub(super) fn is_recent(&self) -> bool {
        self.made.elapsed() < VIEW_IDLE
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.snapshot.policy
    }

    /// Who the client is.
    pub(super) fn identity(&self) -> Option<&Id> {
        self.tls.identity()
    }

    /// The client as policy sees it.
    pub(super) fn peer(&self, client: SocketAddr) -> Peer<'_> {
        let tls = match &self.tls {
            ClientTls::None(_) => PeerTls::None,
            ClientTls::Passthrough(_) => PeerTls::Passthrough,
            ClientTls::Terminated(id) => PeerTls::Terminated {
                identity: id.as_ref().map(|id| match id {
                    Id::Dns(name) => PeerId::Dns(name),
                    Id::Uri(uri) => PeerId::Uri(uri),
                }),
            },
        };
        Peer {
            addr: client.ip(),
            tls,
        }
    }

    fn port(&self) -> u16 {
        self.destination.port()
    }

    fn server(&self) -> &Meta {
        &self.policy().server().meta
    }

    /// TGT SRV.
    pub(super) fn target_labels(&self) -> Labels {
        labels::destination(self.destination).extend(&labels::server(self.server(), self.port()))
    }

    /// The `tcp_*` series of the client's side.
    pub(super) fn transport(&self) -> &Arc<Transport> {
        self.transport.get_or_init(|| {
            let source = labels::destination(self.destination)
                .extend(&self.tls.labels())
                .extend(&labels::server(self.server(), self.port()));
            Arc::new(self.metrics.transport(&source))
        })
    }

    fn no_route(&self) {
        self.not_found
            .get_or_init(|| {
                let labels = self.target_labels().extend(&self.tls.labels());
                self.metrics.route_not_found.get(&labels)
            })
            .inc();
    }

    pub(super) fn detection(&self) -> &Detection {
        self.detection.get_or_init(|| {
            self.metrics
                .detection(&labels::server(self.server(), self.port()))
        })
    }

    /// Counts a request to this route that was denied.
    fn count_denied(&self, route: u32, meta: &Meta, reason: DenyReason) {
        let known = self.denied.load();
        let found = known
            .iter()
            .find(|(r, why, _)| (*r, *why) == (route, reason));
        let handles = found.map(|(_, _, handles)| handles.clone());
        let handles = handles.unwrap_or_else(|| {
            let labels = self.target_labels().extend(&labels::route(meta));
            let handles = DeniedHandles {
                requests: self
                    .metrics
                    .http_authz_deny
                    .get(&labels.extend(&self.tls.labels())),
                reasons: self
                    .metrics
                    .denied_because(self.server(), self.port(), reason.as_str()),
            };
            self.denied.rcu(|known| {
                let mut known = Vec::clone(known);
                known.push((route, reason, handles.clone()));
                known
            });
            handles
        });
        handles.requests.inc();
        handles.reasons.inc();
    }

    /// The handles of requests that one authorization permits on one route.
    fn handles(
        &self,
        matched: &Matched,
        authorized: Authorized,
        authority: Option<&Authority>,
    ) -> Arc<RouteHandles> {
        let hosts = self.hosts.as_ref().zip(authority);
        match hosts.and_then(|(hosts, authority)| hosts.of(authority.as_str())) {
            Some(routes) => self.handles_of(&routes, matched, authorized),
            None => self.handles_of(&self.routes, matched, authorized),
        }
    }

    fn handles_of(
        &self,
        routes: &Routes,
        matched: &Matched,
        authorized: Authorized,
    ) -> Arc<RouteHandles> {
        let (route, authorization) = (matched.route, authorized.authorization);
        let known = routes.known.load();
        let found = known
            .iter()
            .find(|(r, a, _)| (*r, *a) == (route, authorization));
        if let Some((_, _, handles)) = found {
            return handles.clone();
        }
        let fallback = Meta::default_named("default");
        let handles = Arc::new(RouteHandles::resolve(
            &self.metrics,
            RouteKey {
                destination: self.destination,
                tls: &self.tls,
                server: self.server(),
                port: self.port(),
                route: self
                    .policy()
                    .route_meta(route as usize)
                    .unwrap_or(&fallback),
                authorization: self.policy().authorization_meta(authorized),
                is_grpc_policy: matches!(self.policy().server().protocol, Protocol::Grpc { .. }),
                authority: routes.authority.as_deref(),
            },
        ));
        routes.known.rcu(|known| {
            let mut known = Vec::clone(known);
            known.push((route, authorization, handles.clone()));
            known
        });
        handles
    }
}

/// A request that the policy in force allows, and what goes with it.
#[derive(Debug)]
pub(crate) struct Permitted<B> {
    request: Request<B>,
    pub(super) form: Form,
    pub(super) authority: Option<Authority>,
    pub(super) handles: Arc<RouteHandles>,
    view: Arc<View>,
    matched: Matched,
}

impl<B> Permitted<B> {
    /// Takes the request, for the origin.
    pub(super) fn into_request(self) -> Request<B> {
        self.request
    }

    pub(super) fn headers_mut(&mut self) -> &mut http::HeaderMap {
        self.request.headers_mut()
    }

    /// Applies the filters of the matched rule. Tells whether there were any.
    pub(super) fn filter(&mut self) -> Result<bool, Failure> {
        let policy = self.view.policy();
        if policy.filters(&self.matched).is_empty() {
            return Ok(false);
        }
        let method = self.request.method().clone();
        let mut uri = std::mem::take(self.request.uri_mut());
        let headers = self.request.headers_mut();
        let roll = |below| rand::random_range(0..below);
        let result = filters::apply(policy, &self.matched, &method, &mut uri, headers, roll);
        *self.request.uri_mut() = uri;
        result.map_err(|stop| match stop {
            Stop::Redirect { status, location } => Failure::Redirect { status, location },
            Stop::Failure { status, message } => Failure::Injected { status, message },
            Stop::InvalidRedirect => Failure::InvalidRedirect,
            Stop::UnknownFilter => Failure::UnknownFilter,
        })?;
        Ok(true)
    }

    /// Takes a token of the port's rate limit.
    pub(super) fn limit(&self) -> Result<(), Failure> {
        let Some(limiter) = &self.view.snapshot.limiter else {
            return Ok(());
        };
        let identity = self.view.identity().map(Id::as_str);
        limiter.check(identity, Instant::now()).map_err(|limited| {
            let meta = self
                .view
                .policy()
                .rate_limit()
                .and_then(|limit| limit.meta.clone());
            let mut labels = self.view.target_labels();
            if let Some(meta) = meta {
                labels = labels
                    .with("ratelimit_group", meta.group())
                    .with("ratelimit_kind", meta.kind())
                    .with("ratelimit_name", meta.name());
            }
            let labels = labels
                .with("ratelimit_scope", limited.scope.label())
                .extend(&self.view.tls.labels());
            self.view.metrics.rate_limited.get(&labels).inc();
            Failure::RateLimited(limited)
        })
    }
}

impl Connection {
    /// Matches a request to a route and authorizes it, by the version and for the client in `view`.
    pub(super) fn authorize<B>(
        &self,
        view: &Arc<View>,
        request: Request<B>,
        form: Form,
        authority: Option<Authority>,
    ) -> Result<Permitted<B>, Failure> {
        let policy = view.policy();
        if self.worker.inbound.settings.reject_suspicious_paths
            && policy.has_path_policy()
            && let Some(what) = linkerd_policy::suspicious_path(request.uri().path())
        {
            return Err(Failure::SuspiciousPath(what));
        }
        let original;
        let named = match &authority {
            Some(authority) => authority.as_str(),
            None => {
                original = self.destination.original.to_string();
                &original
            }
        };
        let asked = RequestView {
            method: request.method(),
            authority: Some(named),
            path: request.uri().path(),
            query: request.uri().query(),
            headers: request.headers(),
        };
        let Some(matched) = policy.route(&asked) else {
            let is_http = !matches!(policy.server().protocol, Protocol::Opaque | Protocol::Tls);
            view.no_route();
            return Err(if is_http {
                Failure::NoRoute
            } else {
                Failure::NotHttp
            });
        };
        match policy.authorize(&view.peer(self.client), matched.route as usize) {
            Ok(authorized) => {
                let handles = view.handles(&matched, authorized, authority.as_ref());
                handles.allowed.inc();
                if policy.authorization_meta(authorized).is_audit() {
                    self.audit(view, Some(&matched));
                }
                Ok(Permitted {
                    request,
                    form,
                    authority,
                    handles,
                    view: view.clone(),
                    matched,
                })
            }
            Err(denied) => Err(self.deny_request(view, &matched, denied, &asked)),
        }
    }

    fn deny_request(
        &self,
        view: &View,
        matched: &Matched,
        denied: Denied,
        asked: &RequestView<'_>,
    ) -> Failure {
        let fallback = Meta::default_named("default");
        let route = view
            .policy()
            .route_meta(matched.route as usize)
            .unwrap_or(&fallback);
        view.count_denied(matched.route, route, denied.reason);
        self.denial(view, denied.reason.as_str(), Some(route), || {
            let peer = view.peer(self.client);
            view.policy().explain_request(&peer, asked).summary()
        });
        // A client of the mesh is told what it showed and the reason, and nothing of what would be taken.
        Failure::Denied(match view.identity() {
            Some(_) => view.policy().denial(&view.peer(self.client), denied),
            None => denied.reason.as_str().to_owned(),
        })
    }

    /// Records a denial with its explanation, which is worked out once for each distinct denial.
    fn denial(
        &self,
        view: &View,
        reason: &'static str,
        route: Option<&Meta>,
        explain: impl FnOnce() -> String,
    ) {
        let denial = Denial {
            port: view.port(),
            server: view.server(),
            route,
            client: self.client,
            identity: view.identity().map(Id::as_str),
            reason,
        };
        self.worker.inbound.denials.record(denial, explain);
    }

    /// Says that the `audit` policy let something through, at most once a minute for one kind of client, and
    /// [`AUDIT_LOG_LINES`] times for all.
    fn audit(&self, view: &View, matched: Option<&Matched>) {
        let log = &self.worker.inbound.audit;
        let due = view.audited.count(view.made.elapsed().as_secs());
        let Some(allowed) = due.filter(|_| log.has_room()) else {
            log.suppressed.inc();
            return;
        };
        let route = matched.and_then(|matched| view.policy().route_meta(matched.route as usize));
        tracing::info!(
            server.name = view.server().name(),
            server.port = view.port(),
            route.name = route.map(Meta::name),
            client.addr = %self.client,
            client.id = view.identity().map(Id::as_str),
            authz.name = "audit",
            count = allowed,
            "Request allowed"
        );
    }

    /// Authorizes the whole connection, for what is not HTTP.
    pub(super) fn authorize_connection(&self, view: &View) -> Result<(), &'static str> {
        let policy = view.policy();
        match policy.connection(&view.peer(self.client)) {
            Ok(authorized) => {
                let meta = policy.authorization_meta(authorized);
                let labels = view
                    .target_labels()
                    .extend(&labels::authorization(meta))
                    .extend(&view.tls.labels());
                view.metrics.tcp_authz_allow.get(&labels).inc();
                if meta.is_audit() {
                    self.audit(view, None);
                }
                Ok(())
            }
            Err(denied) => Err(denied.reason.as_str()),
        }
    }

    /// Whether the version in force still allows a connection that an earlier one allowed.
    pub(super) fn still_allowed(&self) -> bool {
        let view = self.view();
        if view.policy().connection(&view.peer(self.client)).is_ok() {
            return true;
        }
        let labels = view.target_labels().extend(&view.tls.labels());
        view.metrics.tcp_authz_terminate.get(&labels).inc();
        tracing::info!(
            client.addr = %self.client, server = %view.server(), port = view.port(),
            "Connection terminated due to policy change"
        );
        false
    }

    /// Counts and records a connection that is refused.
    pub(super) fn deny_connection(
        &self,
        view: &View,
        reason: &'static str,
        why: impl FnOnce() -> String,
    ) {
        let labels = view.target_labels().extend(&view.tls.labels());
        view.metrics.tcp_authz_deny.get(&labels).inc();
        let metrics = &view.metrics;
        metrics
            .denied_because(view.server(), view.port(), reason)
            .inc();
        self.denial(view, reason, None, why);
    }
}
