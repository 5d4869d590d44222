//! What applies to traffic to a Service, an EgressNetwork or an address.
//!
//! Source: control plane §3. A route applies if it names the parent; one of the parent's own namespace to all clients,
//! one of another namespace to clients of that namespace.

pub(crate) mod annotations;
mod backends;

use super::{
    Index, Routes, WorkloadRef,
    attach::{self, Attachment, Claims, Facts, RouteKind, Target},
    routes,
};
use crate::{
    outbound::{
        Action, Backend, Dispatcher, Distribution, Endpoint, GrpcPolicy, GrpcRoute, GrpcRule, Hint,
        HttpPolicy, HttpRoute, HttpRule, OutboundPolicy, Protocol, Queue, Ref, Refusal,
        RouteBackend, StreamRoute,
    },
    resource::{
        EgressNetwork, GATEWAY_GROUP, Metadata, POLICY_GROUP, RouteGroup, Service, StringMap,
        route::ParentRef, traffic,
    },
    server::{FailureInjector, Filter, PathMatch},
};
use annotations::{Requests, Settings};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Limit of HTTP detection.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundTarget {
    /// An address that an application dialled.
    Address(SocketAddr),
    /// A Service's port, by name.
    Service {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Port.
        port: u16,
    },
}

/// Whether traffic may leave in plaintext, and to whom it may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MtlsRequirement {
    /// `required` or `preferred`; absent = as proxies are configured.
    pub is_required: Option<bool>,
    /// Identities that servers may have; none = any.
    pub identities: Vec<String>,
}

/// A parent of routes.
#[derive(Clone, Copy)]
struct Parent<'a> {
    kind: ParentKind<'a>,
    metadata: &'a Metadata,
    port: u16,
    /// The address asked for, if one was.
    address: Option<SocketAddr>,
}

#[derive(Clone, Copy)]
enum ParentKind<'a> {
    Service(Option<&'a Service>),
    Egress(&'a EgressNetwork),
}

/// What a parentRef names, if it is a parent of outbound traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Named {
    /// A Service.
    Service,
    /// An EgressNetwork.
    EgressNetwork,
}

/// What a parentRef of a route of group `own` names. Without a group a Service is of the core group.
pub(crate) fn named(own: RouteGroup, parent: &ParentRef) -> Option<Named> {
    let group = parent.group.as_deref().unwrap_or_default();
    let is_core = group.is_empty() || group.eq_ignore_ascii_case("core");
    if is_core && parent.kind.as_deref() == Some("Service") {
        return Some(Named::Service);
    }
    let is_egress = parent.is(own, POLICY_GROUP, "EgressNetwork");
    is_egress.then_some(Named::EgressNetwork)
}

impl Parent<'_> {
    fn reference(&self) -> Ref {
        let (group, kind) = match self.kind {
            ParentKind::Service(_) => ("core", "Service"),
            ParentKind::Egress(_) => (POLICY_GROUP, "EgressNetwork"),
        };
        Ref::Resource {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            port: Some(self.port),
            section: String::new(),
        }
    }

    /// Whether a parentRef names it.
    fn is_named(&self, target: &Target<'_>) -> bool {
        let own = self.target();
        let is_ours = target.port.is_none() || target.port == own.port;
        is_ours
            && Target {
                port: own.port,
                ..*target
            } == own
    }

    /// What its annotations say.
    fn settings(&self) -> Settings {
        let own = &self.metadata.annotations;
        match self.kind {
            ParentKind::Service(_) => Settings::of_service(own),
            ParentKind::Egress(_) => Settings::of_egress_network(own),
        }
    }

    /// As what it is referred to, on its port.
    fn target(&self) -> Target<'_> {
        Target {
            kind: match self.kind {
                ParentKind::Service(_) => attach::ParentKind::Service,
                ParentKind::Egress(_) => attach::ParentKind::EgressNetwork,
            },
            namespace: &self.metadata.namespace,
            name: &self.metadata.name,
            port: Some(self.port),
        }
    }
}

/// The routes of a parent that count for clients of a namespace: those of the parent's own namespace, and of the
/// client's, that are accepted.
struct Attached<'a> {
    index: &'a Index,
    parent: &'a Parent<'a>,
    routes: Vec<(Routes<'a>, Claims<'a>)>,
}

impl<'a> Attached<'a> {
    fn new(index: &'a Index, client: &'a str, parent: &'a Parent<'a>) -> Self {
        let target = parent.target();
        let of = |namespace| {
            let part = index.part(namespace);
            part.routes_of(target.kind, target.namespace, target.name)
        };
        let own = of(&parent.metadata.namespace);
        let is_other = parent.metadata.namespace != client;
        let all = std::iter::once(own).chain(is_other.then(|| of(client)));
        let claims = |routes: Routes<'a>| {
            let claims = Claims::of(&routes, |target| parent.is_named(target));
            (routes, claims)
        };
        Self {
            index,
            parent,
            routes: all.map(claims).collect(),
        }
    }

    /// Whether a route counts.
    fn has(&self, route: Facts<'_>) -> bool {
        route.targets().any(|target| {
            if !self.parent.is_named(&target) {
                return false;
            }
            // Routes of the parent's namespace do not contend with those of clients'.
            let is_own = route.metadata.namespace == target.namespace;
            let contending = if is_own { 1 } else { 2 };
            let is_contested = self
                .routes
                .iter()
                .take(contending)
                .any(|(_, claims)| claims.has_before(route.kind, &target));
            self.index.attachment(route, &target, is_contested) == Attachment::Accepted
        })
    }

    fn http(&self) -> Vec<&'a crate::resource::HttpRoute> {
        let all = self
            .routes
            .iter()
            .flat_map(|(routes, _)| routes.http.iter().copied());
        let mut counting: Vec<_> = all
            .filter(|route| self.has(Facts::of_http(route)))
            .collect();
        routes::in_order(&mut counting);
        counting
    }

    fn grpc(&self) -> Vec<&'a crate::resource::GrpcRoute> {
        let all = self
            .routes
            .iter()
            .flat_map(|(routes, _)| routes.grpc.iter().copied());
        self.counting(all, Facts::of_grpc)
    }

    fn tls(&self) -> Vec<&'a crate::resource::TlsRoute> {
        let all = self
            .routes
            .iter()
            .flat_map(|(routes, _)| routes.tls.iter().copied());
        self.counting(all, |route| Facts::of_stream(RouteKind::Tls, route))
    }

    fn tcp(&self) -> Vec<&'a crate::resource::TcpRoute> {
        let all = self
            .routes
            .iter()
            .flat_map(|(routes, _)| routes.tcp.iter().copied());
        self.counting(all, |route| Facts::of_stream(RouteKind::Tcp, route))
    }

    /// Those of the Gateway API that count, the oldest first.
    fn counting<S>(
        &self,
        all: impl Iterator<Item = &'a crate::resource::Object<S>>,
        facts: impl Fn(&'a crate::resource::Object<S>) -> Facts<'a>,
    ) -> Vec<&'a crate::resource::Object<S>> {
        let mut counting: Vec<_> = all.filter(|route| self.has(facts(route))).collect();
        counting.sort_by(|a, b| a.metadata.age_key().cmp(&b.metadata.age_key()));
        counting
    }
}

impl Index {
    /// The policy of a destination, for clients of a namespace; `None` if nothing is known of it.
    pub fn outbound(&self, client: &str, target: &OutboundTarget) -> Option<OutboundPolicy> {
        match target {
            OutboundTarget::Service {
                namespace,
                name,
                port,
            } => {
                let absent = Metadata {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    ..Metadata::default()
                };
                let service = self.service(namespace, name);
                Some(self.parent_policy(
                    client,
                    &Parent {
                        kind: ParentKind::Service(service),
                        metadata: service.map_or(&absent, |service| &service.metadata),
                        port: *port,
                        address: None,
                    },
                ))
            }
            OutboundTarget::Address(address) => self.of_address(client, *address),
        }
    }

    /// The policy of a port of an EgressNetwork, whatever address is dialled.
    pub(crate) fn of_egress_network(
        &self,
        client: &str,
        egress: &EgressNetwork,
        port: u16,
    ) -> OutboundPolicy {
        self.parent_policy(
            client,
            &Parent {
                kind: ParentKind::Egress(egress),
                metadata: &egress.metadata,
                port,
                address: None,
            },
        )
    }

    fn of_address(&self, client: &str, address: SocketAddr) -> Option<OutboundPolicy> {
        if let Ok(Some(service)) = self.service_by_ip(address.ip()) {
            let parent = Parent {
                kind: ParentKind::Service(Some(service)),
                metadata: &service.metadata,
                port: address.port(),
                address: Some(address),
            };
            if service.port(address.port()).is_none() {
                return Some(undefined_port(parent.reference()));
            }
            return Some(self.parent_policy(client, &parent));
        }
        if let Some(egress) = self.egress_network(client, address.ip()) {
            let parent = Parent {
                kind: ParentKind::Egress(egress),
                metadata: &egress.metadata,
                port: address.port(),
                address: Some(address),
            };
            return Some(self.parent_policy(client, &parent));
        }
        let ip = address.ip().to_canonical();
        let networks = &self.cluster().cluster_networks;
        let is_inside = networks.iter().any(|net| net.contains(&ip));
        (!is_inside).then(|| fallback(address))
    }

    /// The EgressNetwork of an address: the client's own namespace's before the global one's; the smallest network,
    /// then the oldest.
    fn egress_network(&self, client: &str, ip: IpAddr) -> Option<&EgressNetwork> {
        let ip = ip.to_canonical();
        let own = self.part(client).egress_networks();
        let global = || self.part(&self.cluster().global_egress_namespace);
        let networks = if own.is_empty() {
            global().egress_networks()
        } else {
            own
        };
        let size = |network: &EgressNetwork| {
            if network.spec.networks.is_empty() {
                let networks = &self.cluster().cluster_networks;
                let is_outside = !networks.iter().any(|net| net.contains(&ip));
                return is_outside.then_some(0);
            }
            let containing = network.spec.networks.iter().filter(|network| {
                network.cidr.0.contains(&ip)
                    && !network.except.iter().any(|except| except.0.contains(&ip))
            });
            containing.map(|network| network.cidr.0.prefix_len()).max()
        };
        networks
            .values()
            .filter_map(|network| Some((size(network)?, network)))
            .min_by_key(|(size, network)| (std::cmp::Reverse(*size), network.metadata.age_key()))
            .map(|(_, network)| network)
    }

    /// Whether traffic to a Service may leave in plaintext: the Service's own annotations, else its namespace's.
    pub fn outbound_mtls(&self, namespace: &str, name: &str) -> MtlsRequirement {
        use super::annotations::{OUTBOUND_MTLS, OUTBOUND_SERVER_IDENTITIES};
        let part = self.part(namespace);
        let own = part.service(name).map(|s| &s.metadata.annotations);
        let inherited: &StringMap = part.annotations();
        let find = |key: &str| {
            let sources = own.into_iter().chain([inherited]);
            sources
                .filter_map(|annotations: &StringMap| annotations.get(key))
                .next()
        };
        MtlsRequirement {
            is_required: match find(OUTBOUND_MTLS).map(String::as_str) {
                None => None,
                Some("preferred") => Some(false),
                // A word that is not known is no leave to send plaintext; `linkerd policy lint` names it.
                Some(_) => Some(true),
            },
            identities: find(OUTBOUND_SERVER_IDENTITIES)
                .map(|list| list.split(','))
                .into_iter()
                .flatten()
                .map(str::trim)
                .filter(|identity| !identity.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }

    /// Whether traffic that goes to a workload by its address may leave in plaintext: what any Service that selects it
    /// wants, else what its namespace does. An identity that one of them expects will do.
    pub fn workload_outbound_mtls(&self, reference: &WorkloadRef) -> MtlsRequirement {
        let namespace = reference.namespace();
        let part = self.part(namespace);
        let Some(workload) = part.workload(reference) else {
            return MtlsRequirement::default();
        };
        let labels = &workload.metadata().labels;
        let selecting = part.services().values().filter(|service| {
            let selector = service.selector();
            selector.is_some_and(|selector| selector.matches(labels))
        });
        let mut all: Vec<_> = selecting
            .map(|service| self.outbound_mtls(namespace, &service.metadata.name))
            .collect();
        if all.is_empty() {
            // No Service has this name, so that its namespace alone counts.
            all.push(self.outbound_mtls(namespace, ""));
        }
        let mut identities: Vec<_> = all
            .iter()
            .flat_map(|mtls| mtls.identities.clone())
            .collect();
        identities.sort();
        identities.dedup();
        MtlsRequirement {
            is_required: all.iter().filter_map(|mtls| mtls.is_required).max(),
            identities,
        }
    }

    fn parent_policy(&self, client: &str, parent: &Parent<'_>) -> OutboundPolicy {
        let settings = parent.settings();
        let attached = Attached::new(self, client, parent);
        let http = || HttpPolicy {
            routes: self.outbound_http(&attached, &settings),
            failure_accrual: settings.accrual,
        };
        let grpc_routes = self.outbound_grpc(&attached, &settings);
        let has_grpc = !grpc_routes.is_empty();
        let grpc = |routes| {
            Protocol::Grpc(GrpcPolicy {
                routes: self.with_egress_grpc(parent, &settings, routes),
                failure_accrual: settings.accrual,
            })
        };
        let opaque = || self.outbound_opaque(&attached);
        let detect = |http: HttpPolicy| Protocol::Detect {
            timeout: DETECT_TIMEOUT,
            http1: http.clone(),
            http2: http,
            opaque: opaque(),
        };
        let protocol = match self.declared(parent) {
            Some(Declared::Http1) => Protocol::Http1(http()),
            Some(Declared::Http2) if has_grpc => grpc(grpc_routes),
            Some(Declared::Http2) => Protocol::Http2(http()),
            Some(Declared::Opaque) => Protocol::Opaque(opaque()),
            None if has_grpc => grpc(grpc_routes),
            None if !attached.http().is_empty() => detect(http()),
            None => {
                let tls = self.outbound_tls(&attached);
                let has_tcp = !attached.tcp().is_empty();
                match (tls.is_empty(), has_tcp) {
                    (false, _) => Protocol::Tls(tls),
                    (true, true) => Protocol::Opaque(opaque()),
                    (true, false) => detect(http()),
                }
            }
        };
        OutboundPolicy {
            parent: parent.reference(),
            protocol,
        }
    }

    /// The protocol that a port declares, by `appProtocol` or as opaque.
    fn declared(&self, parent: &Parent<'_>) -> Option<Declared> {
        let ports = match parent.kind {
            ParentKind::Service(service) => {
                let service = service?;
                let port = service.port(parent.port);
                if let Some(app) = port.and_then(|port| port.app_protocol.as_deref()) {
                    return Some(match app.to_ascii_lowercase().as_str() {
                        "http" => Declared::Http1,
                        "kubernetes.io/h2c" => Declared::Http2,
                        _ => Declared::Opaque,
                    });
                }
                self.service_opaque_ports(service)
            }
            ParentKind::Egress(egress) => {
                let key = super::annotations::OPAQUE_PORTS;
                match egress.metadata.annotations.get(key) {
                    Some(list) => crate::ports::PortSet::parse_with_names(list, |_| Vec::new()).0,
                    None => self.cluster().default_opaque_ports.clone(),
                }
            }
        };
        ports.contains(parent.port).then_some(Declared::Opaque)
    }

    fn outbound_http(&self, attached: &Attached<'_>, settings: &Settings) -> Vec<HttpRoute> {
        let parent = attached.parent;
        let mut out: Vec<HttpRoute> = attached
            .http()
            .into_iter()
            .filter_map(|route| {
                let own = Settings::of_route(&route.metadata.annotations, Requests::Http)?;
                let rules = routes::http_matches(&route.spec.rules).ok()?;
                let rules = rules
                    .into_iter()
                    .zip(&route.spec.rules)
                    .map(|(matches, spec)| {
                        let of_rule = spec.timeouts.as_ref().and_then(|t| t.request.as_deref());
                        HttpRule {
                            matches,
                            action: Action {
                                filters: backends::filters(&spec.filters, true),
                                backends: self.http_backends(
                                    parent,
                                    settings,
                                    &spec.backend_refs,
                                    true,
                                ),
                                timeouts: own.timeouts(of_rule, settings),
                                retry: own.retry(Requests::Http, settings),
                                allow_l5d_request_headers: self.cluster().allow_l5d_request_headers,
                            },
                        }
                    });
                Some(HttpRoute {
                    meta: route_ref(route.group.as_str(), "HTTPRoute", &route.metadata),
                    hosts: routes::hosts(&route.spec.hostnames),
                    rules: rules.collect(),
                })
            })
            .collect();
        match parent.kind {
            ParentKind::Service(_) if out.is_empty() => {
                let action = self.default_action(parent, settings, Requests::Http);
                out.push(default_http("http", action));
            }
            ParentKind::Service(_) => {}
            ParentKind::Egress(egress) => {
                let (name, filters) = egress_default(egress, "http", 403);
                let action = Action {
                    filters,
                    ..self.default_action(parent, settings, Requests::Http)
                };
                out.push(default_http(&name, action));
            }
        }
        out
    }

    fn default_action(
        &self,
        parent: &Parent<'_>,
        settings: &Settings,
        requests: Requests,
    ) -> Action {
        Action {
            filters: Vec::new(),
            backends: Distribution::FirstAvailable(vec![self.default_backend(parent, settings)]),
            timeouts: settings.timeouts(None, settings),
            retry: settings.retry(requests, settings),
            allow_l5d_request_headers: false,
        }
    }

    fn outbound_grpc(&self, attached: &Attached<'_>, settings: &Settings) -> Vec<GrpcRoute> {
        let parent = attached.parent;
        attached
            .grpc()
            .into_iter()
            .filter_map(|route| {
                let own = Settings::of_route(&route.metadata.annotations, Requests::Grpc)?;
                let rules = routes::grpc_matches(&route.spec.rules).ok()?;
                let rules = rules.into_iter().zip(&route.spec.rules);
                let rules = rules.map(|(matches, spec)| GrpcRule {
                    matches,
                    action: Action {
                        filters: backends::filters(&spec.filters, false),
                        backends: self.http_backends(parent, settings, &spec.backend_refs, false),
                        timeouts: own.timeouts(None, settings),
                        retry: own.retry(Requests::Grpc, settings),
                        allow_l5d_request_headers: self.cluster().allow_l5d_request_headers,
                    },
                });
                Some(GrpcRoute {
                    meta: route_ref(GATEWAY_GROUP, "GRPCRoute", &route.metadata),
                    hosts: routes::hosts(&route.spec.hostnames),
                    rules: rules.collect(),
                })
            })
            .collect()
    }

    fn with_egress_grpc(
        &self,
        parent: &Parent<'_>,
        settings: &Settings,
        mut routes: Vec<GrpcRoute>,
    ) -> Vec<GrpcRoute> {
        if let ParentKind::Egress(egress) = parent.kind {
            let (name, filters) = egress_default(egress, "grpc", 7);
            routes.push(GrpcRoute {
                meta: Ref::default_named(name),
                hosts: Vec::new(),
                rules: vec![GrpcRule {
                    matches: Vec::new(),
                    action: Action {
                        filters,
                        ..self.default_action(parent, settings, Requests::Grpc)
                    },
                }],
            });
        }
        routes
    }

    /// The one route of opaque connections: the oldest TCPRoute, or the default.
    fn outbound_opaque(&self, attached: &Attached<'_>) -> Vec<StreamRoute> {
        let parent = attached.parent;
        if let Some(route) = attached.tcp().first() {
            return vec![self.stream(parent, "TCPRoute", &route.metadata, &route.spec)];
        }
        vec![self.default_stream(parent, "tcp", "opaq")]
    }

    fn outbound_tls(&self, attached: &Attached<'_>) -> Vec<StreamRoute> {
        let parent = attached.parent;
        let routes = attached.tls().into_iter();
        let mut out: Vec<StreamRoute> = routes
            .map(|route| self.stream(parent, "TLSRoute", &route.metadata, &route.spec))
            .collect();
        if !out.is_empty() && matches!(parent.kind, ParentKind::Egress(_)) {
            out.push(self.default_stream(parent, "tls", "opaq"));
        }
        out
    }

    fn stream(
        &self,
        parent: &Parent<'_>,
        kind: &str,
        metadata: &Metadata,
        spec: &traffic::StreamRouteSpec,
    ) -> StreamRoute {
        let refs = spec.rules.first().map(|rule| rule.backend_refs.as_slice());
        StreamRoute {
            meta: route_ref(GATEWAY_GROUP, kind, metadata),
            snis: routes::hosts(&spec.hostnames),
            refusal: None,
            backends: self.stream_backends(parent, refs.unwrap_or_default()),
        }
    }

    fn default_stream(&self, parent: &Parent<'_>, protocol: &str, name: &str) -> StreamRoute {
        let settings = Settings::default();
        let (name, refusal) = match parent.kind {
            ParentKind::Service(_) => (name.to_owned(), None),
            ParentKind::Egress(egress) => match egress.spec.traffic_policy {
                traffic::TrafficPolicy::Allow => (format!("{protocol}-egress-allow"), None),
                traffic::TrafficPolicy::Deny => {
                    (format!("{protocol}-egress-deny"), Some(Refusal::Forbidden))
                }
            },
        };
        StreamRoute {
            meta: Ref::default_named(name),
            snis: Vec::new(),
            refusal,
            backends: Distribution::FirstAvailable(vec![self.default_backend(parent, &settings)]),
        }
    }
}

/// The protocol that a port declares.
enum Declared {
    Http1,
    Http2,
    Opaque,
}

/// The default route of an EgressNetwork: its name, and what it does with what no other route takes.
fn egress_default(egress: &EgressNetwork, protocol: &str, status: u16) -> (String, Vec<Filter>) {
    match egress.spec.traffic_policy {
        traffic::TrafficPolicy::Allow => (format!("{protocol}-egress-allow"), Vec::new()),
        traffic::TrafficPolicy::Deny => (
            format!("{protocol}-egress-deny"),
            vec![failure(status, "traffic not allowed")],
        ),
    }
}

fn failure(status: u16, message: impl Into<String>) -> Filter {
    Filter::Failure(FailureInjector {
        status,
        message: message.into(),
        ratio: None,
    })
}

fn route_ref(group: &str, kind: &str, metadata: &Metadata) -> Ref {
    Ref::Resource {
        group: group.to_owned(),
        kind: kind.to_owned(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        port: None,
        section: String::new(),
    }
}

fn default_http(name: &str, action: Action) -> HttpRoute {
    HttpRoute {
        meta: Ref::default_named(name),
        hosts: Vec::new(),
        rules: vec![HttpRule {
            matches: vec![crate::server::HttpMatch {
                path: Some(PathMatch::Prefix("/".to_owned())),
                ..crate::server::HttpMatch::default()
            }],
            action,
        }],
    }
}

/// A port that its Service does not declare: connections are closed.
fn undefined_port(parent: Ref) -> OutboundPolicy {
    OutboundPolicy {
        parent,
        protocol: Protocol::Opaque(vec![StreamRoute {
            meta: Ref::default_named("undefined-port"),
            snis: Vec::new(),
            refusal: Some(Refusal::Forbidden),
            backends: Distribution::Empty,
        }]),
    }
}

/// An address of which nothing is said: traffic goes there.
fn fallback(address: SocketAddr) -> OutboundPolicy {
    let meta = Ref::default_named("egress-fallback");
    let backend = RouteBackend {
        backend: Backend {
            meta: meta.clone(),
            dispatcher: Some(Dispatcher::Forward(bare(address))),
            queue: QUEUE,
        },
        filters: Vec::new(),
        refusal: None,
    };
    let backends = Distribution::FirstAvailable(vec![backend]);
    let action = Action {
        backends: backends.clone(),
        ..Action::default()
    };
    let http = HttpPolicy {
        routes: vec![default_http("egress-fallback", action)],
        failure_accrual: None,
    };
    OutboundPolicy {
        parent: meta.clone(),
        protocol: Protocol::Detect {
            timeout: DETECT_TIMEOUT,
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

/// An endpoint of which only the address is known.
fn bare(address: SocketAddr) -> Endpoint {
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

/// Bounds of waiting for an endpoint, as control planes send them.
const QUEUE: Queue = Queue {
    capacity: 100,
    failfast_timeout: Duration::from_secs(3),
};

#[cfg(test)]
mod tests;
