//! What applies to a destination: `OutboundPolicies.Watch` and `Destination.GetProfile` as one live value.
//!
//! A lookup is shared by all connections and workers and lives as long as one of them uses it (and what was resolved
//! from it, which outlives connections a little). When the control plane is away, what it said last stays in force for
//! all that time. What it has not spoken of in time is `Unknown`: requests are answered so, not left to hang.

use super::{
    client::ControlClient,
    endpoints::EndpointWatch,
    stream::{self, End, Listener},
};
use crate::config::{Config, StreamLimits, Suffixes};
use arc_swap::{ArcSwap, Guard};
use ipnet::IpNet;
use linkerd_metrics::{Counter, Gauge, Handle, Labels, Registry, describe};
use linkerd_policy::{
    outbound::{
        Action, Backend, Dispatcher, Distribution, Endpoint, Hint, HttpPolicy, HttpRoute, HttpRule,
        Load, OutboundPolicy, Protocol, Queue, Ref, RouteBackend, StreamRoute, profile::Profile,
    },
    proto,
};
use linkerd2_proxy_api::{
    destination::{DestinationProfile, GetDestination},
    outbound::{self as api, TrafficSpec, traffic_spec},
};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};
use tokio::{runtime, sync::watch, task::AbortHandle};
use tonic::{Code, metadata::MetadataMap};

/// How often a name that only DNS knows is resolved again.
const DNS_INTERVAL: Duration = Duration::from_secs(30);
/// Metadata of streams: what the control plane says of mutual TLS, beyond the API.
const MTLS: &str = "l5d-outbound-mtls";
const SERVER_IDS: &str = "l5d-outbound-server-ids";

/// Where traffic goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// An address, from before a connection was redirected or by an explicit listener.
    Addr(SocketAddr),
    /// `host:port`.
    Name(String),
}

impl Target {
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Addr(addr) => Some(addr.port()),
            Self::Name(name) => name.rsplit_once(':')?.1.parse().ok(),
        }
    }

    /// The host, without port.
    fn host(&self) -> Option<&str> {
        match self {
            Self::Addr(_) => None,
            Self::Name(name) => Some(
                name.rsplit_once(':')
                    .map_or(name.as_str(), |(host, _)| host),
            ),
        }
    }

    /// The address, if it is one.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Addr(address) => Some(*address),
            Self::Name(_) => None,
        }
    }

    /// As the authority of requests that name none.
    pub(crate) fn authority(&self) -> Option<http::uri::Authority> {
        self.to_string().parse().ok()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Whether traffic may leave in plaintext, and to whom it may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mtls {
    /// Absent: as configured.
    pub(crate) is_required: Option<bool>,
    /// Identities that servers may have; empty = any that discovery names.
    pub(crate) identities: Vec<String>,
}

/// Why policy on mutual TLS keeps traffic from an endpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MtlsRefused {
    #[error("has no identity of the mesh")]
    Plaintext,
    #[error("is {found}, and policy wants {wanted}")]
    Identity { found: String, wanted: String },
}

impl MtlsRefused {
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Identity { .. } => "identity",
        }
    }
}

impl Mtls {
    /// What a stream of the control plane's says in its metadata.
    pub(super) fn of_metadata(metadata: &MetadataMap) -> Self {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        let identities = text(SERVER_IDS).unwrap_or_default().split(',');
        Self {
            is_required: match text(MTLS) {
                Some("required") => Some(true),
                Some("preferred") => Some(false),
                _ => None,
            },
            identities: identities
                .map(str::trim)
                .filter(|identity| !identity.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }

    /// Whether an endpoint of this identity may be spoken to, where several have a say: the destination and the backend.
    /// `required` anywhere counts; identities are expected by each for itself; `default` is what counts where nobody says
    /// anything. Who says `preferred` wants plaintext, if there is nothing better, whoever is expected by default.
    pub(crate) fn check_all(
        said: [&Self; 3],
        default: &Self,
        identity: Option<&str>,
    ) -> Result<(), MtlsRefused> {
        let is_required = said.iter().filter_map(|mtls| mtls.is_required).max();
        if is_required.or(default.is_required) == Some(true) && identity.is_none() {
            return Err(MtlsRefused::Plaintext);
        }
        let names_servers = said.iter().any(|mtls| !mtls.identities.is_empty());
        let may_be_plaintext = is_required == Some(false) && identity.is_none();
        if !names_servers && !may_be_plaintext {
            return default.check_identity(identity);
        }
        said.iter()
            .try_for_each(|mtls| mtls.check_identity(identity))
    }

    fn check_identity(&self, identity: Option<&str>) -> Result<(), MtlsRefused> {
        let Some(found) = identity else {
            // Who expects an identity expects TLS.
            return if self.identities.is_empty() {
                Ok(())
            } else {
                Err(MtlsRefused::Plaintext)
            };
        };
        let is_expected = |wanted: &String| wanted.eq_ignore_ascii_case(found);
        if self.identities.is_empty() || self.identities.iter().any(is_expected) {
            return Ok(());
        }
        Err(MtlsRefused::Identity {
            found: found.to_owned(),
            wanted: self.identities.join(" or "),
        })
    }
}

/// Where what is known comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody has said anything yet.
    Unknown,
    /// The control plane.
    Controller,
    /// The control plane knows of no policy: what is usual then.
    Fallback,
    /// The control plane refuses the question, or sends what cannot be used and sent nothing better before.
    Invalid(String),
}

impl Source {
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Controller => "controller",
            Self::Fallback => "fallback",
            Self::Invalid(_) => "invalid",
        }
    }
}

/// What is known of a destination, as a whole.
#[derive(Debug)]
pub(crate) struct Known {
    /// Grows with each change.
    pub(crate) version: u64,
    pub(crate) received: SystemTime,
    pub(crate) policy: Arc<OutboundPolicy>,
    pub(crate) profile: Option<Arc<Profile>>,
    pub(crate) mtls: Mtls,
    /// The same, of the workload that the destination's address is of.
    pub(crate) workload_mtls: Mtls,
    pub(crate) source: Source,
}

/// A destination that is watched, until this goes.
#[derive(Debug)]
pub(crate) struct Lookup {
    state: Arc<State>,
    tasks: Mutex<Vec<AbortHandle>>,
    gauge: Handle<Gauge>,
    /// There was room for it; one that is not watched will never be known.
    is_watched: bool,
}

impl Drop for Lookup {
    fn drop(&mut self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        self.gauge.dec();
    }
}

#[derive(Debug)]
struct State {
    target: Target,
    current: ArcSwap<Known>,
    changed: watch::Sender<u64>,
    parts: Mutex<Parts>,
    detect_timeout: Duration,
    forwards: bool,
    refused: Handle<Counter>,
}

/// What has been said, by whom.
#[derive(Debug, Default)]
struct Parts {
    policy: Option<Answer>,
    /// `Some(None)`: there is no profile.
    profile: Option<Option<Arc<Profile>>>,
    mtls: Mtls,
    /// Of the workload that has the address.
    workload_mtls: Mtls,
    /// Of a name that only DNS knows.
    resolved: Option<SocketAddr>,
    dns: Dns,
}

/// Whether DNS is asked for what the control plane does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Dns {
    #[default]
    Unused,
    /// It has not answered yet: what becomes of requests is not known before.
    Awaited,
    Answered,
}

/// What the policy controller said.
#[derive(Clone, Debug)]
enum Answer {
    Policy(Arc<OutboundPolicy>),
    /// It knows nothing of the destination.
    None,
    /// It cannot be used.
    Invalid(String),
}

impl Lookup {
    pub(crate) fn target(&self) -> &Target {
        &self.state.target
    }

    /// What is known now.
    pub(crate) fn current(&self) -> Guard<Arc<Known>> {
        self.state.current.load()
    }

    /// Whether there was room for it (`OUTBOUND_MAX_DESTINATIONS`). If not, it is to be looked up anew.
    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched
    }

    /// Waits until something is known, at most `limit`. Tells whether it is.
    pub(crate) async fn ready(&self, limit: Duration) -> bool {
        if self.current().source != Source::Unknown {
            return true;
        }
        // Nobody will ever say anything of one that is not watched.
        let limit = if self.is_watched {
            limit
        } else {
            Duration::ZERO
        };
        let mut changed = self.state.changed.subscribe();
        let known = changed.wait_for(|version| *version > 0);
        let known = tokio::time::timeout(limit, known).await;
        if known.is_ok_and(|known| known.is_ok()) {
            return true;
        }
        let can_forward = self.state.forwards && matches!(self.state.target, Target::Addr(_));
        if can_forward {
            tracing::warn!(target = %self.state.target, "Nothing is known of the destination in time: forwarding without policy");
            self.state.update(|parts| {
                parts.policy.get_or_insert(Answer::None);
                parts.profile.get_or_insert(None);
            });
        }
        can_forward
    }
}

impl State {
    /// Changes what has been said, and puts it in force once there is enough.
    fn update(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = lock(&self.parts);
        change(&mut parts);
        let (Some(answer), Some(profile)) = (&parts.policy, &parts.profile) else {
            return;
        };
        if matches!(answer, Answer::None) && parts.dns == Dns::Awaited {
            // Nothing new is in force, but there is something to ask DNS for.
            self.changed.send_modify(|_| {});
            return;
        }
        let (policy, source) = match answer {
            Answer::Policy(policy) => (policy.clone(), Source::Controller),
            Answer::None => {
                let policy = self.fallback(profile.as_deref(), &parts);
                (Arc::new(policy), Source::Fallback)
            }
            Answer::Invalid(why) => (
                Arc::new(self.fallback(profile.as_deref(), &parts)),
                Source::Invalid(why.clone()),
            ),
        };
        let current = self.current.load();
        if current.source == source
            && current.policy == policy
            && current.profile == *profile
            && current.mtls == parts.mtls
            && current.workload_mtls == parts.workload_mtls
        {
            return;
        }
        let version = current.version.saturating_add(1);
        self.current.store(Arc::new(Known {
            version,
            received: SystemTime::now(),
            policy,
            profile: profile.clone(),
            mtls: parts.mtls.clone(),
            workload_mtls: parts.workload_mtls.clone(),
            source,
        }));
        self.changed.send_replace(version);
    }

    /// What applies where the policy controller knows nothing: forwarding, to what a profile or DNS says, or to where
    /// the connection was going.
    fn fallback(&self, profile: Option<&Profile>, parts: &Parts) -> OutboundPolicy {
        let forward = |name: &str, endpoint: Endpoint| {
            let backend = self.backend(name, Some(Dispatcher::Forward(endpoint)));
            self.detect(name, Distribution::FirstAvailable(vec![backend]))
        };
        if let Some(endpoint) = profile.and_then(|profile| profile.endpoint.as_ref()) {
            return forward("endpoint", endpoint.clone());
        }
        if let (Some(name), Some(port)) = (
            profile.and_then(|profile| profile.name.as_ref()),
            self.target.port(),
        ) {
            let path = format!("{name}:{port}");
            let load = Load::default();
            let backend = self.backend("profile", Some(Dispatcher::Balance { path, load }));
            return self.detect("profile", Distribution::FirstAvailable(vec![backend]));
        }
        let address = match (&self.target, parts.resolved) {
            (Target::Addr(address), _) => *address,
            (Target::Name(_), Some(address)) => address,
            (Target::Name(_), None) if parts.dns == Dns::Answered => {
                let backend = self.backend("unresolved-name", None);
                return self.detect(
                    "unresolved-name",
                    Distribution::FirstAvailable(vec![backend]),
                );
            }
            (Target::Name(_), None) => return self.detect("fallback", Distribution::Empty),
        };
        forward("fallback", plain(address))
    }

    fn backend(&self, name: &str, dispatcher: Option<Dispatcher>) -> RouteBackend {
        RouteBackend {
            backend: Backend {
                meta: Ref::default_named(name),
                dispatcher,
                queue: Queue {
                    capacity: 100,
                    failfast_timeout: Duration::from_secs(3),
                },
            },
            filters: Vec::new(),
            refusal: None,
        }
    }

    fn detect(&self, name: &str, backends: Distribution) -> OutboundPolicy {
        let meta = Ref::default_named(name);
        let routes = match &backends {
            Distribution::Empty => Vec::new(),
            _ => vec![HttpRoute {
                meta: meta.clone(),
                hosts: Vec::new(),
                rules: vec![HttpRule {
                    matches: Vec::new(),
                    action: Action {
                        backends: backends.clone(),
                        ..Action::default()
                    },
                }],
            }],
        };
        let http = HttpPolicy {
            routes,
            failure_accrual: None,
        };
        OutboundPolicy {
            parent: meta.clone(),
            protocol: Protocol::Detect {
                timeout: self.detect_timeout,
                http1: http.clone(),
                http2: http,
                opaque: vec![StreamRoute {
                    meta,
                    snis: Vec::new(),
                    refusal: None,
                    backends,
                }],
            },
        }
    }
}

/// An address of which nothing is known.
fn plain(address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        tls: None,
        hint: Hint::Unknown,
        opaque_transport: None,
        weight: 10_000,
        labels: BTreeMap::new(),
        authority_override: None,
        http2: None,
    }
}

/// What lookups need to know.
#[derive(Debug)]
pub(crate) struct Settings {
    workload: String,
    context: String,
    limits: StreamLimits,
    profile_networks: Vec<IpNet>,
    profile_suffixes: Suffixes,
    detect_timeout: Duration,
    /// What is not known in time is forwarded to where it was going.
    forwards: bool,
    /// Names that the control plane does not know are resolved by DNS. Not where clients choose the names.
    dns_fallback: bool,
    max: usize,
}

impl Settings {
    pub(crate) fn new(config: &Config) -> Self {
        let outbound = &config.outbound;
        let is_local = config.control.destination.addr.is_loopback();
        Self {
            workload: config.policy.workload.clone(),
            context: config.control.destination_context.clone(),
            limits: if is_local {
                StreamLimits::default()
            } else {
                config.control.stream_limits
            },
            profile_networks: outbound.profile_networks.clone(),
            profile_suffixes: outbound.profile_suffixes.clone(),
            detect_timeout: outbound.detect_timeout,
            forwards: outbound.discovery_forwards,
            dns_fallback: !outbound.ingress_mode,
            max: outbound.max_destinations,
        }
    }

    fn has_profile(&self, target: &Target) -> bool {
        match target {
            Target::Addr(addr) => self
                .profile_networks
                .iter()
                .any(|net| net.contains(&addr.ip())),
            Target::Name(_) => target
                .host()
                .is_some_and(|host| self.profile_suffixes.matches(host)),
        }
    }
}

/// All lookups. A clone is the same store.
#[derive(Clone, Debug)]
pub(crate) struct OutboundStore(Arc<Store>);

#[derive(Debug)]
struct Store {
    settings: Settings,
    policy: ControlClient,
    destination: ControlClient,
    runtime: runtime::Handle,
    lookups: Mutex<HashMap<Target, Weak<Lookup>>>,
    endpoints: Mutex<HashMap<String, Weak<EndpointWatch>>>,
    gauge: Handle<Gauge>,
    started: Handle<Counter>,
    refused: Handle<Counter>,
    too_many: Handle<Counter>,
    /// When it was last said that there are too many.
    warned: Mutex<Option<Instant>>,
}

/// How often it is said that there are too many destinations: each one is counted.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

impl Store {
    fn warn_of(&self, target: &Target) {
        let mut warned = lock(&self.warned);
        if warned.is_some_and(|at| at.elapsed() < WARNING_INTERVAL) {
            return;
        }
        *warned = Some(Instant::now());
        tracing::warn!(%target, limit = self.settings.max, "Too many destinations at one time (OUTBOUND_MAX_DESTINATIONS): this one is not looked up; said once a minute, counted in outbound_refused_total");
    }
}

impl OutboundStore {
    pub(crate) fn new(
        settings: Settings,
        policy: ControlClient,
        destination: ControlClient,
        registry: &Registry,
        runtime: runtime::Handle,
    ) -> Self {
        let none = Labels::new();
        Self(Arc::new(Store {
            settings,
            policy,
            destination,
            runtime,
            lookups: Mutex::default(),
            endpoints: Mutex::default(),
            gauge: registry.gauges(&describe::OUTBOUND_DESTINATIONS).get(&none),
            started: registry
                .counters(&describe::OUTBOUND_DISCOVERY_LOOKUPS_TOTAL)
                .get(&none),
            refused: registry
                .counters(&describe::OUTBOUND_DISCOVERY_UPDATES_REFUSED_TOTAL)
                .get(&none),
            too_many: registry
                .counters(&describe::OUTBOUND_REFUSED_TOTAL)
                .get(&Labels::new().with("limit", "destinations")),
            warned: Mutex::default(),
        }))
    }

    /// What is known of a destination: watched from now on, or already.
    pub(crate) fn lookup(&self, target: &Target) -> Arc<Lookup> {
        let mut lookups = lock(&self.0.lookups);
        if let Some(lookup) = lookups.get(target).and_then(Weak::upgrade) {
            return lookup;
        }
        lookups.retain(|_, lookup| lookup.strong_count() > 0);
        let is_watched = lookups.len() < self.0.settings.max;
        let lookup = self.start(target, is_watched);
        if is_watched {
            lookups.insert(target.clone(), Arc::downgrade(&lookup));
        } else {
            self.0.too_many.inc();
            self.0.warn_of(target);
        }
        lookup
    }

    /// The endpoints of `name:port`.
    pub(crate) fn endpoints(&self, path: &str) -> Arc<EndpointWatch> {
        let mut endpoints = lock(&self.0.endpoints);
        if let Some(watch) = endpoints.get(path).and_then(Weak::upgrade) {
            return watch;
        }
        endpoints.retain(|_, watch| watch.strong_count() > 0);
        let settings = &self.0.settings;
        let watch = EndpointWatch::start(
            path,
            settings.context.clone(),
            self.0.destination.clone(),
            settings.limits,
            &self.0.runtime,
            self.0.refused.clone(),
        );
        endpoints.insert(path.to_owned(), Arc::downgrade(&watch));
        watch
    }

    /// Whether the control plane can be asked at this moment.
    pub(crate) fn is_connected(&self) -> bool {
        self.0.policy.is_connected() && self.0.destination.is_connected()
    }

    /// Every destination that is watched now, for the admin server.
    pub(crate) fn lookups(&self) -> Vec<Arc<Lookup>> {
        let lookups = lock(&self.0.lookups);
        let mut all: Vec<_> = lookups.values().filter_map(Weak::upgrade).collect();
        all.sort_by_key(|lookup| lookup.target().to_string());
        all
    }

    /// Every set of endpoints that is watched now.
    pub(crate) fn watches(&self) -> Vec<Arc<EndpointWatch>> {
        let endpoints = lock(&self.0.endpoints);
        let mut all: Vec<_> = endpoints.values().filter_map(Weak::upgrade).collect();
        all.sort_by(|a, b| a.path().cmp(b.path()));
        all
    }

    fn start(&self, target: &Target, is_watched: bool) -> Arc<Lookup> {
        let store = &self.0;
        let settings = &store.settings;
        let has_profile = settings.has_profile(target);
        let has_dns = matches!(target, Target::Name(_)) && settings.dns_fallback && !has_profile;
        let state = State {
            target: target.clone(),
            current: ArcSwap::new(Arc::new(Known {
                version: 0,
                received: SystemTime::now(),
                policy: Arc::new(OutboundPolicy {
                    parent: Ref::default_named("unknown"),
                    protocol: Protocol::Detect {
                        timeout: settings.detect_timeout,
                        http1: HttpPolicy::default(),
                        http2: HttpPolicy::default(),
                        opaque: Vec::new(),
                    },
                }),
                profile: None,
                mtls: Mtls::default(),
                workload_mtls: Mtls::default(),
                source: Source::Unknown,
            })),
            changed: watch::channel(0).0,
            parts: Mutex::new(Parts {
                profile: (!has_profile).then_some(None),
                dns: if has_dns { Dns::Awaited } else { Dns::Unused },
                ..Parts::default()
            }),
            detect_timeout: settings.detect_timeout,
            forwards: settings.forwards,
            refused: store.refused.clone(),
        };
        let state = Arc::new(state);
        store.gauge.inc();
        let lookup = Arc::new(Lookup {
            state: state.clone(),
            tasks: Mutex::default(),
            gauge: store.gauge.clone(),
            is_watched,
        });
        if !is_watched {
            return lookup;
        }
        store.started.inc();
        let mut tasks = vec![self.watch_policy(state.clone())];
        if has_profile {
            tasks.push(self.watch_profile(state.clone()));
        }
        if has_dns {
            let resolving = store.runtime.spawn(resolve(state));
            tasks.push(resolving.abort_handle());
        }
        *lock(&lookup.tasks) = tasks;
        lookup
    }

    fn watch_policy(&self, state: Arc<State>) -> AbortHandle {
        let settings = &self.0.settings;
        let spec = TrafficSpec {
            source_workload: settings.workload.clone(),
            target: Some(match &state.target {
                Target::Addr(addr) => traffic_spec::Target::Addr(proto::tcp_address(*addr)),
                Target::Name(name) => traffic_spec::Target::Authority(name.clone()),
            }),
        };
        const WATCH: &str = "/io.linkerd.proxy.outbound.OutboundPolicies/Watch";
        let open = move |client| stream::open(client, WATCH, spec.clone());
        let follow = stream::follow(
            self.0.policy.clone(),
            settings.limits,
            open,
            Policies(state),
        );
        self.0.runtime.spawn(follow).abort_handle()
    }

    fn watch_profile(&self, state: Arc<State>) -> AbortHandle {
        let settings = &self.0.settings;
        let request = GetDestination {
            scheme: String::new(),
            path: state.target.to_string(),
            context_token: settings.context.clone(),
        };
        const GET_PROFILE: &str = "/io.linkerd.proxy.destination.Destination/GetProfile";
        let open = move |client| stream::open(client, GET_PROFILE, request.clone());
        let follow = stream::follow(
            self.0.destination.clone(),
            settings.limits,
            open,
            Profiles(state),
        );
        self.0.runtime.spawn(follow).abort_handle()
    }
}

/// What the streams of policy say.
struct Policies(Arc<State>);

impl Listener<api::OutboundPolicy> for Policies {
    fn opened(&mut self, metadata: &MetadataMap) {
        let mtls = Mtls::of_metadata(metadata);
        self.0.update(|parts| parts.mtls = mtls);
    }

    fn message(&mut self, message: api::OutboundPolicy) {
        match proto::outbound_from_api(message) {
            Ok(policy) => self
                .0
                .update(|parts| parts.policy = Some(Answer::Policy(Arc::new(policy)))),
            Err(error) => {
                self.0.refused.inc();
                let target = &self.0.target;
                tracing::warn!(%target, %error, "Outbound policy refused: the last good version stays");
                self.0.update(|parts| {
                    if !matches!(parts.policy, Some(Answer::Policy(_))) {
                        parts.policy = Some(Answer::Invalid(error.to_string()));
                    }
                });
            }
        }
    }

    fn ended(&mut self, end: &End) -> bool {
        let target = &self.0.target;
        match end.code() {
            Some(Code::NotFound) => {
                // Nothing is said of the destination, but perhaps of the workload that has its address.
                let mtls = end.metadata().map(Mtls::of_metadata);
                self.0.update(|parts| {
                    parts.policy = Some(Answer::None);
                    parts.mtls = mtls.unwrap_or_default();
                });
            }
            Some(Code::Unimplemented) => {
                tracing::warn!(%target, "The policy controller does not know outbound policies");
                self.0.update(|parts| parts.policy = Some(Answer::None));
            }
            Some(Code::InvalidArgument | Code::FailedPrecondition) => {
                tracing::warn!(%target, reason = %end, "The policy controller refuses the destination");
                let why = end.to_string();
                self.0.update(|parts| {
                    if !matches!(parts.policy, Some(Answer::Policy(_))) {
                        parts.policy = Some(Answer::Invalid(why));
                    }
                });
            }
            _ => tracing::debug!(%target, reason = %end, "Policy stream ended"),
        }
        true
    }
}

/// What the streams of profiles say.
struct Profiles(Arc<State>);

impl Listener<DestinationProfile> for Profiles {
    fn opened(&mut self, metadata: &MetadataMap) {
        let mtls = Mtls::of_metadata(metadata);
        self.0.update(|parts| parts.workload_mtls = mtls);
    }

    fn message(&mut self, message: DestinationProfile) {
        let (profile, warnings) = proto::profile_from_api(message);
        for warning in warnings {
            let target = &self.0.target;
            tracing::warn!(%target, %warning, "A part of the service profile is left out");
        }
        self.0
            .update(|parts| parts.profile = Some(Some(Arc::new(profile))));
    }

    fn ended(&mut self, end: &End) -> bool {
        let target = &self.0.target;
        tracing::debug!(%target, reason = %end, "Profile stream ended");
        if let Some(
            Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::Unimplemented,
        ) = end.code()
        {
            self.0.update(|parts| {
                parts.profile.get_or_insert(None);
            })
        }
        true
    }
}

/// Keeps the address of a name that only DNS knows.
async fn resolve(state: Arc<State>) {
    let mut changed = state.changed.subscribe();
    loop {
        let is_needed = |state: &State| {
            let parts = lock(&state.parts);
            matches!(parts.policy, Some(Answer::None))
        };
        if is_needed(&state) {
            let name = state.target.to_string();
            let found = match tokio::net::lookup_host(&name).await {
                Ok(mut addresses) => addresses.next(),
                Err(error) => {
                    tracing::warn!(%name, %error, "Neither the control plane nor DNS knows the name");
                    None
                }
            };
            state.update(|parts| {
                parts.dns = Dns::Answered;
                parts.resolved = found.or(parts.resolved);
            });
            tokio::time::sleep(DNS_INTERVAL).await;
        } else if changed.changed().await.is_err() {
            return;
        }
    }
}

/// A lock whose holders cannot panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
