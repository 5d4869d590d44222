//! Everything that is resolved for one version of what is known of a destination: routes, backends, metric handles.
//!
//! Made when a version is first used and shared by all connections and workers. Balancers, and budgets of retries,
//! outlive it: a new version takes over those that it names as well.

use super::{
    Outbound, Settings,
    backend::{Backend, Choice, Kind, RouteBackend},
    balance::{self, Balancer, BalancerMetrics},
    failure::Failure,
    labels,
    metrics::{BackendHandles, Detection, ProfileHandles, RouteHandles, StreamHandles},
    retry::{Budget, Params, RouteRetries},
    route::{Named, ProfileRule, Rule},
};
use crate::{
    discovery::outbound::{Known, Lookup, Source, Target},
    hosts::Hosts,
    limit::{Limit, Place},
};
use linkerd_metrics::{Counter, Handle, Labels};
use linkerd_policy::{
    RequestView,
    decide::Matched,
    outbound::{
        Backend as BackendPolicy, Dispatcher, Distribution, FailureAccrual, HttpPolicy, Load,
        Protocol, Queue, Ref, Refusal, RouteBackend as RouteBackendPolicy, StreamRoute, Timeouts,
        profile::{self, Profile},
        router::{HttpRouter, ProfileRouter, SniRouter},
    },
};
use std::{sync::Arc, time::Duration};

/// A destination, resolved.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) known: Arc<Known>,
    /// Keeps what is known up to date while the plan is in use.
    lookup: Arc<Lookup>,
    pub(super) parent: Ref,
    pub(super) how: How,
    pub(super) detection: Detection,
    /// Of applications, to be counted.
    pub(super) connections: Handle<Counter>,
    /// Requests that wait for an answer, over all versions of the destination.
    in_flight: Limit,
}

/// How connections are handled.
#[derive(Debug)]
pub(super) enum How {
    /// Find out whether HTTP is spoken, within this time.
    Detect(Duration, Arc<HttpPlan>, Arc<HttpPlan>, StreamPlan),
    Http1(Arc<HttpPlan>),
    Http2(Arc<HttpPlan>),
    Opaque(StreamPlan),
    Tls(StreamPlan),
    /// What the control plane says cannot be used.
    Invalid,
}

impl How {
    /// The value of `protocol` in `outbound_tcp_protocol_connections_total`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Detect(..) => "detect",
            Self::Http1(_) => "http/1",
            Self::Http2(_) => "http/2",
            Self::Opaque(_) | Self::Invalid => "opaq",
            Self::Tls(_) => "tls",
        }
    }
}

/// Routes of requests.
#[derive(Debug)]
pub(super) struct HttpPlan {
    router: Router,
    /// In the order of routes, then of their rules.
    rules: Vec<Arc<Rule>>,
    /// Index of each route's first rule.
    offsets: Vec<usize>,
}

#[derive(Debug)]
enum Router {
    Policy(Box<HttpRouter>),
    /// Its rules are the profile's routes, and one for requests that none takes.
    Profile(Arc<ProfileRouter>),
}

impl HttpPlan {
    /// The rule that takes a request, and what of it matched.
    pub(super) fn find(&self, request: &RequestView<'_>) -> Option<(&Arc<Rule>, Option<Matched>)> {
        match &self.router {
            Router::Policy(router) => {
                let matched = router.find(request)?;
                let route = usize::try_from(matched.route).ok()?;
                let rule = usize::try_from(matched.rule).ok()?;
                let rule = self.rules.get(self.offsets.get(route)? + rule)?;
                Some((rule, Some(matched)))
            }
            Router::Profile(router) => {
                let rule = match router.find(request.method, request.path) {
                    Some(route) => self.rules.get(route)?,
                    None => self.rules.last()?,
                };
                Some((rule, None))
            }
        }
    }
}

/// Routes of opaque or TLS connections.
#[derive(Debug)]
pub(super) struct StreamPlan {
    sni: SniRouter,
    rules: Vec<StreamRule>,
}

/// One route of connections.
#[derive(Debug)]
pub(super) struct StreamRule {
    pub(super) refusal: Option<Refusal>,
    pub(super) choice: Choice,
    pub(super) handles: StreamHandles,
    /// The same by server name, where operators want it.
    pub(super) hosts: Option<Hosts<StreamHandles>>,
    pub(super) place: Box<str>,
}

impl StreamPlan {
    /// The route that takes a connection.
    pub(super) fn find(&self, sni: Option<&str>) -> Option<&StreamRule> {
        self.rules.get(self.sni.find(sni)?)
    }
}

impl Plan {
    /// A place among the requests to this destination that wait for an answer, so that one that does not answer leaves
    /// room for the others.
    pub(super) fn enter(&self, outbound: &Outbound) -> Result<Place, Failure> {
        self.in_flight.enter().ok_or_else(|| {
            outbound.metrics.refused("destination_in_flight");
            Failure::DestinationOverloaded(self.lookup.target().to_string().into())
        })
    }

    /// The routes of what is not HTTP, if there may be such connections.
    pub(super) fn streams(&self) -> Option<&StreamPlan> {
        match &self.how {
            How::Detect(_, _, _, streams) | How::Opaque(streams) | How::Tls(streams) => {
                Some(streams)
            }
            How::Http1(_) | How::Http2(_) | How::Invalid => None,
        }
    }

    /// Resolves what is known.
    pub(super) fn new(
        outbound: &Outbound,
        lookup: Arc<Lookup>,
        known: Arc<Known>,
        earlier: Option<&Self>,
    ) -> Self {
        let mut parent = known.policy.parent.clone();
        let build = |parent: &Ref| {
            let build = Build {
                outbound,
                settings: &outbound.settings,
                target: lookup.target(),
                parent: parent.clone(),
                logical: logical(lookup.target(), known.profile.as_deref()),
            };
            build.how(&known)
        };
        if let Some(profile) = known
            .profile
            .as_deref()
            .and_then(|profile| profile_parent(lookup.target(), profile))
            && rules_http(known.profile.as_deref())
        {
            parent = profile;
        }
        let how = build(&parent).unwrap_or_else(|error| {
            tracing::warn!(destination = %lookup.target(), %error, "The destination's policy cannot be used");
            How::Invalid
        });
        Self {
            detection: outbound.metrics.detection(&parent),
            connections: outbound.metrics.connections(how.label(), &parent),
            parent,
            how,
            lookup,
            known,
            in_flight: earlier.map_or_else(
                || Limit::new(outbound.settings.destination_in_flight),
                |earlier| earlier.in_flight.clone(),
            ),
        }
    }
}

/// Whether the profile, not the policy, rules HTTP.
fn rules_http(profile: Option<&Profile>) -> bool {
    profile.is_some_and(|profile| {
        profile.name.is_some() && !(profile.routes.is_empty() && profile.targets.is_empty())
    })
}

/// The service that a profile is of, as parents and backends are named.
fn service(name: &str, port: Option<u16>) -> Ref {
    let mut labels = name.split('.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(service), Some(namespace), Some("svc")) => Ref::Resource {
            group: "core".to_owned(),
            kind: "Service".to_owned(),
            namespace: namespace.to_owned(),
            name: service.to_owned(),
            port,
            section: String::new(),
        },
        _ => Ref::default_named("unknown"),
    }
}

fn profile_parent(target: &Target, profile: &Profile) -> Option<Ref> {
    let name = profile.name.as_deref()?;
    Some(service(name, target.port()))
}

/// What errors call the destination.
fn logical(target: &Target, profile: Option<&Profile>) -> String {
    match profile.and_then(|profile| profile.name.as_deref()) {
        Some(name) => match target.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        },
        None => target.to_string(),
    }
}

/// What resolving needs to know.
struct Build<'b> {
    outbound: &'b Outbound,
    settings: &'b Settings,
    target: &'b Target,
    parent: Ref,
    logical: String,
}

type BuildError = linkerd_policy::CompileError;

impl Build<'_> {
    fn how(&self, known: &Known) -> Result<How, BuildError> {
        let profile = known.profile.as_deref();
        if let Some(profile) = profile.filter(|profile| profile.is_opaque) {
            let streams = match &known.policy.protocol {
                Protocol::Opaque(routes) | Protocol::Detect { opaque: routes, .. } => {
                    routes.as_slice()
                }
                _ => &[],
            };
            return Ok(How::Opaque(self.opaque(streams, Some(profile))));
        }
        if matches!(known.source, Source::Invalid(_)) {
            return Ok(How::Invalid);
        }
        let by_profile = profile.filter(|_| rules_http(profile));
        let http = |policy: &HttpPolicy| match by_profile {
            Some(profile) => Ok(Arc::new(self.by_profile(profile))),
            None => self.http(policy),
        };
        Ok(match &known.policy.protocol {
            Protocol::Detect {
                timeout,
                http1,
                http2,
                opaque,
            } => {
                let timeout = if self.settings.use_policy_limits {
                    *timeout
                } else {
                    self.settings.detect_timeout
                };
                let first = http(http1)?;
                // Both versions nearly always have the same routes, of which there may be many.
                let second = match by_profile.is_some() || http1 == http2 {
                    true => first.clone(),
                    false => http(http2)?,
                };
                How::Detect(timeout, first, second, self.opaque(opaque, profile))
            }
            Protocol::Http1(policy) => How::Http1(http(policy)?),
            Protocol::Http2(policy) => How::Http2(http(policy)?),
            Protocol::Grpc(policy) => {
                let router = HttpRouter::grpc(policy)?;
                How::Http2(Arc::new(self.routed(router, true)))
            }
            Protocol::Opaque(routes) => How::Opaque(self.opaque(routes, profile)),
            Protocol::Tls(routes) => How::Tls(self.streams(routes, true)),
        })
    }

    fn http(&self, policy: &HttpPolicy) -> Result<Arc<HttpPlan>, BuildError> {
        Ok(Arc::new(self.routed(HttpRouter::http(policy)?, false)))
    }

    fn routed(&self, router: HttpRouter, is_grpc: bool) -> HttpPlan {
        let mut rules = Vec::new();
        let mut offsets = Vec::new();
        let accrual = router.failure_accrual().copied();
        for (route, _, meta, action) in router.rules() {
            while offsets.len() <= route {
                offsets.push(rules.len());
            }
            let choice = self.choice(&action.backends, meta, is_grpc, accrual);
            let budget = self.budget(None, meta);
            let retries = self.retries(is_grpc, meta);
            rules.push(Arc::new(Rule {
                filters: action.filters.clone(),
                choice,
                timeouts: action.timeouts,
                retry: action.retry.as_ref().map(Params::of_policy),
                allow_headers: action.allow_l5d_request_headers,
                handles: RouteHandles::resolve(
                    &self.outbound.metrics,
                    is_grpc,
                    &self.parent,
                    meta,
                    "",
                ),
                hosts: self.hosts(is_grpc, meta, &retries),
                retries,
                budget,
                profile: None,
                grpc_failures: self.settings.grpc_failures,
                place: format!("logical service {}: route {meta}", self.logical).into(),
            }));
        }
        HttpPlan {
            router: Router::Policy(Box::new(router)),
            rules,
            offsets,
        }
    }

    fn labels(&self, route: &Ref) -> Labels {
        labels::parent(&self.parent).extend(&labels::route(route))
    }

    fn budget(&self, settings: Option<profile::Budget>, route: &Ref) -> Arc<Budget> {
        let key = format!("{}|{route}|{settings:?}", self.parent);
        let families = &self.outbound.retries;
        self.outbound
            .budget(key, || families.budget(settings, self.labels(route)))
    }

    fn retries(&self, is_grpc: bool, route: &Ref) -> RouteRetries {
        let labels = self.labels(route);
        RouteRetries::resolve(&self.outbound.retries, is_grpc, labels)
    }

    /// What requests of a route are counted in by the name that they ask for, where operators want that.
    fn hosts(&self, is_grpc: bool, route: &Ref, retries: &RouteRetries) -> Option<Hosts<Named>> {
        let retain = self.settings.hostname_labels?;
        let (metrics, families) = (self.outbound.metrics.clone(), self.outbound.retries.clone());
        let (parent, labels) = (self.parent.clone(), self.labels(route));
        let (route, retries) = (route.clone(), retries.clone());
        Some(Hosts::new(retain, move |name| Named {
            handles: RouteHandles::resolve(&metrics, is_grpc, &parent, &route, name),
            retries: retries.of_host(&families, is_grpc, labels.clone(), name),
        }))
    }

    /// The rules of a service profile: one for each route, and one for requests that none takes.
    fn by_profile(&self, profile: &Profile) -> HttpPlan {
        let router = Arc::new(ProfileRouter::new(profile));
        for warning in router.warnings() {
            tracing::warn!(destination = %self.target, "{warning}");
        }
        let route = Ref::default_named("profile");
        let budget = self.budget(profile.budget, &route);
        let rule = |at: Option<usize>| {
            let routed = at.and_then(|at| profile.routes.get(at));
            let labels = routed.map(|route| &route.labels).into_iter().flatten();
            let retries = self.retries(false, &route);
            let is_retryable =
                profile.budget.is_some() && routed.is_some_and(|route| route.is_retryable);
            Arc::new(Rule {
                filters: Vec::new(),
                choice: self.targets(profile, &route),
                timeouts: Timeouts::default(),
                retry: is_retryable.then(Params::of_profile),
                allow_headers: false,
                handles: RouteHandles::resolve(
                    &self.outbound.metrics,
                    false,
                    &self.parent,
                    &route,
                    "",
                ),
                hosts: self.hosts(false, &route, &retries),
                retries,
                budget: budget.clone(),
                profile: Some(Arc::new(ProfileRule {
                    router: router.clone(),
                    route: at,
                    handles: ProfileHandles::resolve(&self.outbound.metrics, &self.logical, labels),
                    timeout: routed.and_then(|route| route.timeout),
                    is_retryable,
                })),
                grpc_failures: self.settings.grpc_failures,
                place: format!("logical service {}", self.logical).into(),
            })
        };
        let routes = 0..profile.routes.len();
        HttpPlan {
            rules: routes.map(Some).chain([None]).map(rule).collect(),
            router: Router::Profile(router),
            offsets: Vec::new(),
        }
    }

    /// Where a profile sends traffic: shared out among its targets, else to what it is of.
    fn targets(&self, profile: &Profile, route: &Ref) -> Choice {
        let backend = |authority: &str| {
            let (name, port) = match authority.rsplit_once(':') {
                Some((name, port)) => (name, port.parse().ok()),
                None => (authority, None),
            };
            let policy = RouteBackendPolicy {
                backend: BackendPolicy {
                    meta: service(name, port),
                    dispatcher: Some(Dispatcher::Balance {
                        path: authority.to_owned(),
                        load: Load::default(),
                    }),
                    queue: self.queue(),
                },
                filters: Vec::new(),
                refusal: None,
            };
            Arc::new(self.backend(&policy, route, Protocols::HTTP, None))
        };
        if profile.targets.is_empty() {
            return Choice::First(vec![backend(&self.logical)]);
        }
        Choice::random(
            profile
                .targets
                .iter()
                .map(|(authority, weight)| (backend(authority), *weight))
                .collect(),
        )
    }

    /// Routes of opaque connections. A profile may split them, and takes them where policy has no route.
    fn opaque(&self, routes: &[StreamRoute], profile: Option<&Profile>) -> StreamPlan {
        let named = profile.filter(|profile| profile.name.is_some());
        let route = Ref::default_named("opaq");
        let choice = match named {
            Some(profile) if !profile.targets.is_empty() || routes.is_empty() => {
                self.targets(profile, &route)
            }
            _ => return self.streams(routes, false),
        };
        StreamPlan {
            sni: SniRouter::any(),
            rules: vec![self.stream(&route, None, choice, false)],
        }
    }

    fn streams(&self, routes: &[StreamRoute], is_tls: bool) -> StreamPlan {
        let kind = if is_tls {
            Protocols::TLS
        } else {
            Protocols::OPAQUE
        };
        let rule = |route: &StreamRoute| {
            let choice = self.distributed(&route.backends, &route.meta, kind, None);
            self.stream(&route.meta, route.refusal.clone(), choice, is_tls)
        };
        StreamPlan {
            sni: SniRouter::new(routes),
            rules: routes.iter().map(rule).collect(),
        }
    }

    fn stream(
        &self,
        route: &Ref,
        refusal: Option<Refusal>,
        choice: Choice,
        is_tls: bool,
    ) -> StreamRule {
        let address = match self.target {
            Target::Addr(address) => Some(*address),
            Target::Name(_) => None,
        };
        let (metrics, port) = (self.outbound.metrics.clone(), self.target.port());
        let (parent, named) = (self.parent.clone(), route.clone());
        let counted = move |name: &str| {
            let place = (address, port);
            metrics.stream_route(is_tls.then_some(name), &parent, &named, place)
        };
        StreamRule {
            refusal,
            choice,
            handles: counted(""),
            hosts: self
                .settings
                .hostname_labels
                .filter(|_| is_tls)
                .map(|retain| Hosts::new(retain, counted)),
            place: format!("logical service {}: route {route}", self.logical).into(),
        }
    }

    fn choice(
        &self,
        backends: &Distribution,
        route: &Ref,
        is_grpc: bool,
        accrual: Option<FailureAccrual>,
    ) -> Choice {
        let kind = if is_grpc {
            Protocols::GRPC
        } else {
            Protocols::HTTP
        };
        self.distributed(backends, route, kind, accrual)
    }

    fn distributed(
        &self,
        backends: &Distribution,
        route: &Ref,
        kind: Protocols,
        accrual: Option<FailureAccrual>,
    ) -> Choice {
        let backend =
            |backend: &RouteBackendPolicy| Arc::new(self.backend(backend, route, kind, accrual));
        match backends {
            Distribution::Empty => Choice::Empty,
            Distribution::FirstAvailable(all) => Choice::First(all.iter().map(backend).collect()),
            Distribution::RandomAvailable(all) => {
                let weighed = all.iter().filter(|(_, weight)| *weight > 0);
                Choice::random(
                    weighed
                        .map(|(each, weight)| (backend(each), *weight))
                        .collect(),
                )
            }
        }
    }

    fn queue(&self) -> Queue {
        Queue {
            capacity: u32::try_from(self.settings.http_queue.0).unwrap_or(u32::MAX),
            failfast_timeout: self.settings.http_queue.1,
        }
    }

    fn backend(
        &self,
        policy: &RouteBackendPolicy,
        route: &Ref,
        kind: Protocols,
        accrual: Option<FailureAccrual>,
    ) -> RouteBackend {
        let meta = &policy.backend.meta;
        RouteBackend {
            backend: self.shared(&policy.backend, kind, accrual),
            filters: policy.filters.clone(),
            refusal: policy.refusal.clone(),
            handles: BackendHandles::resolve(
                &self.outbound.metrics,
                kind.is_grpc,
                &self.parent,
                route,
                meta,
            ),
        }
    }

    /// A backend as all rules of the destination share it, with the state of its endpoints.
    fn shared(
        &self,
        policy: &BackendPolicy,
        kind: Protocols,
        accrual: Option<FailureAccrual>,
    ) -> Arc<Backend> {
        let (path, load) = match &policy.dispatcher {
            None => {
                return Arc::new(Backend {
                    meta: policy.meta.clone(),
                    kind: Kind::Missing,
                    authority: None,
                    _stack: None,
                });
            }
            Some(Dispatcher::Forward(endpoint)) => {
                return Arc::new(Backend {
                    meta: policy.meta.clone(),
                    kind: Kind::Forward(Arc::new(endpoint.clone())),
                    authority: None,
                    _stack: None,
                });
            }
            Some(Dispatcher::Balance { path, load }) => (path, *load),
        };
        let queue = match (self.settings.use_policy_limits, kind.is_http) {
            (true, _) => policy.queue,
            (false, true) => self.queue(),
            (false, false) => Queue {
                capacity: u32::try_from(self.settings.tcp_queue.0).unwrap_or(u32::MAX),
                failfast_timeout: self.settings.tcp_queue.1,
            },
        };
        let key = format!(
            "{}|{:?}|{:?}|{path}|{load:?}|{accrual:?}|{queue:?}",
            kind.family, self.parent, policy.meta
        );
        self.outbound.backend(key, || {
            let settings = balance::Settings {
                load,
                accrual,
                queue,
                connect_backoff: self.settings.connect_backoff,
            };
            let metrics = self.balancer_metrics(kind, &policy.meta, path);
            Backend {
                meta: policy.meta.clone(),
                kind: Kind::Balance(Balancer::new(
                    self.outbound.store.endpoints(path),
                    settings,
                    metrics,
                )),
                authority: Some(path.as_str().into()),
                _stack: Some(self.outbound.metrics.stack(kind.stack(), "balance")),
            }
        })
    }

    /// The labels of balancer families differ by protocol.
    fn balancer_metrics(&self, kind: Protocols, backend: &Ref, path: &str) -> Arc<BalancerMetrics> {
        let of_route = labels::parent(&self.parent).extend(&labels::backend(backend));
        let labels = match kind.family {
            "http" => of_route,
            "tls" => Labels::new().with("concrete", path),
            _ => of_route
                .with("logical", &self.logical)
                .with("concrete", path),
        };
        Arc::new(BalancerMetrics::resolve(
            &self.outbound.balancers,
            kind.family,
            labels,
        ))
    }
}

/// Which families a backend is counted in.
#[derive(Clone, Copy, Debug)]
struct Protocols {
    family: &'static str,
    is_http: bool,
    is_grpc: bool,
}

impl Protocols {
    /// The value of `protocol` in `stack_*`.
    fn stack(self) -> &'static str {
        match self.family {
            "tcp" => "opaq",
            family => family,
        }
    }

    const HTTP: Self = Self {
        family: "http",
        is_http: true,
        is_grpc: false,
    };
    const GRPC: Self = Self {
        is_grpc: true,
        ..Self::HTTP
    };
    const OPAQUE: Self = Self {
        family: "tcp",
        is_http: false,
        is_grpc: false,
    };
    const TLS: Self = Self {
        family: "tls",
        ..Self::OPAQUE
    };
}
