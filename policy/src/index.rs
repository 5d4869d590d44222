//! From resources to one policy per (workload, port), and to the endpoints of Services.
//!
//! Pure: resources go in by [`Index::apply`] and [`Index::delete`], answers come out. Nothing is cached, so an answer is
//! always that of the resources as they stand; who keeps one may ask what it was [made of](Reads), and whether that is
//! still so. The namespace is the first step of every lookup; the only way from one namespace into another is an
//! authentication that a policy refers to by name.

mod addresses;
pub(crate) mod attach;
pub(crate) mod authorizations;
mod authz;
mod endpoints;
mod external;
pub(crate) mod inbound;
mod outbound;
mod parents;
mod part;
mod pieces;
pub(crate) mod probes;
mod profile;
mod reads;
mod remotes;
pub(crate) mod routes;
pub(crate) mod servers;
mod sizes;
mod state;
pub(crate) mod status;
mod store;
mod table;
pub(crate) mod workload;

pub use authz::Authorized;
pub(crate) use endpoints::target_port;
pub use endpoints::{AmbiguousAddress, Client, Endpoint, EndpointIdentity, select, select_remote};
pub use external::{ExternalEndpoint, ExternalGroup, ExternalPort};
pub use outbound::{MtlsRequirement, OutboundTarget};
pub(crate) use outbound::{Named, annotations as outbound_annotations, named};
pub use reads::Reads;
pub use remotes::{Remote, Remotes};
pub use sizes::{Counts, Sizes};
pub use status::{Condition, ObjectStatus, ParentStatus, Status};
pub use workload::{InvalidWorkload, Workload, WorkloadRef};

use crate::{
    default_policy::DefaultPolicy,
    ports::PortSet,
    resource::{
        AuthorizationPolicy, EgressNetwork, EndpointSlice, GrpcRoute, HttpLocalRateLimitPolicy,
        HttpRoute, IntermediateKind, MeshTlsAuthentication, NetworkAuthentication, Resource,
        RouteGroup, ServerAuthorization, Service, ServiceProfile, TcpRoute, TlsRoute, TrafficSplit,
    },
};
use addresses::Addresses;
use ipnet::IpNet;
use parents::RouteId;
pub(crate) use parents::Routes;
use part::Notes;
pub(crate) use part::Part;
use reads::Recorder;
use servers::Servers;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};
use store::revision;
pub(crate) use table::Table;
use table::{Annotations, Targeting};

/// Keys of the annotations that the index reads, on a workload or on its namespace.
pub mod annotations {
    /// Default policy of the workload.
    pub const DEFAULT_INBOUND_POLICY: &str = "config.linkerd.io/default-inbound-policy";
    /// Ports without protocol detection: numbers, ranges and container port names.
    pub const OPAQUE_PORTS: &str = "config.linkerd.io/opaque-ports";
    /// Ports whose default policy asks for an identity.
    pub const REQUIRE_IDENTITY: &str = "config.linkerd.io/proxy-require-identity-inbound-ports";
    /// Whether traffic to a Service may leave in plaintext: `required` or `preferred`. Service or Namespace.
    pub const OUTBOUND_MTLS: &str = "policy.linkerd.io/outbound-mtls";
    /// Identities that the servers of a Service may have, separated by commas. Service or Namespace.
    pub const OUTBOUND_SERVER_IDENTITIES: &str = "policy.linkerd.io/outbound-server-identities";
    /// Ports that do not pass the proxy.
    pub const SKIP_INBOUND_PORTS: &str = "config.linkerd.io/skip-inbound-ports";
    /// `disabled` takes away the probe routes.
    pub const PROBE_AUTHORIZATION: &str = "config.linkerd.io/probe-authorization";
}

/// What holds for a whole control plane.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Namespace of the control plane, part of every identity.
    pub control_plane_namespace: String,
    /// Trust domain, part of every identity.
    pub trust_domain: String,
    /// Domain of Service names.
    pub cluster_domain: String,
    /// Networks of the `cluster-*` default policies.
    pub cluster_networks: Vec<IpNet>,
    /// Where probes come from; none = no probe routes.
    pub probe_networks: Vec<IpNet>,
    /// Clients may set timeouts and retries by `l5d-*` headers.
    pub allow_l5d_request_headers: bool,
    /// Namespace of EgressNetworks that are for all clients.
    pub global_egress_namespace: String,
    /// Default policy of workloads that name none.
    pub default_policy: DefaultPolicy,
    /// Ports that are opaque where a workload declares them and says nothing else.
    pub default_opaque_ports: PortSet,
}

impl Default for Cluster {
    /// The defaults of the control plane's chart.
    fn default() -> Self {
        let nets = |list: &[&str]| list.iter().filter_map(|n| n.parse().ok()).collect();
        Self {
            control_plane_namespace: "linkerd".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_networks: nets(&[
                "10.0.0.0/8",
                "100.64.0.0/10",
                "172.16.0.0/12",
                "192.168.0.0/16",
                "fd00::/8",
            ]),
            probe_networks: nets(&["0.0.0.0/0", "::/0"]),
            allow_l5d_request_headers: false,
            global_egress_namespace: "linkerd-egress".to_owned(),
            default_policy: DefaultPolicy::AllUnauthenticated,
            default_opaque_ports: [25, 587, 3306, 4444, 5432, 6379, 9300, 11211]
                .into_iter()
                .collect(),
        }
    }
}

impl Cluster {
    /// The identity of a service account: `<sa>.<ns>.serviceaccount.identity.<cp-ns>.<trust domain>`.
    pub fn service_account_identity(&self, namespace: &str, account: &str) -> String {
        format!("{account}.{}", self.namespace_identity_suffix(namespace))
    }

    /// What the identities of a namespace end with, without a leading dot.
    pub fn namespace_identity_suffix(&self, namespace: &str) -> String {
        format!(
            "{namespace}.serviceaccount.identity.{}.{}",
            self.control_plane_namespace, self.trust_domain
        )
    }
}

/// The resources of one namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// Of all scopes that ever were no two have the same.
    pub(crate) revision: u64,
    pub(crate) annotations: Annotations,
    pub(crate) pods: Table<String, Workload>,
    pub(crate) external_workloads: Table<String, Workload>,
    pub(crate) services: Table<String, Service>,
    /// By Service and name.
    pub(crate) slices: Table<String, BTreeMap<String, Arc<EndpointSlice>>>,
    /// What controls a ReplicaSet: kind and name, where anything does.
    pub(crate) replica_sets: Table<String, Option<(String, String)>>,
    /// The same of Jobs.
    pub(crate) jobs: Table<String, Option<(String, String)>>,
    pub(crate) servers: Servers,
    pub(crate) server_authorizations: Targeting<ServerAuthorization>,
    pub(crate) authorization_policies: Targeting<AuthorizationPolicy>,
    pub(crate) mesh_tls: Table<String, MeshTlsAuthentication>,
    pub(crate) networks: Table<String, NetworkAuthentication>,
    pub(crate) http_routes: Table<(RouteGroup, String), HttpRoute>,
    pub(crate) grpc_routes: Table<String, GrpcRoute>,
    pub(crate) rate_limits: Targeting<HttpLocalRateLimitPolicy>,
    pub(crate) tcp_routes: Table<String, TcpRoute>,
    pub(crate) tls_routes: Table<String, TlsRoute>,
    /// Routes by what they are attached to.
    route_parents: Table<String, BTreeSet<RouteId>>,
    pub(crate) egress_networks: Table<String, EgressNetwork>,
    pub(crate) profiles: Table<String, ServiceProfile>,
    pub(crate) splits: Table<String, TrafficSplit>,
}

impl Scope {
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.pods.values().chain(self.external_workloads.values())
    }

    pub(crate) const fn intermediates(
        &self,
        kind: IntermediateKind,
    ) -> &Table<String, Option<(String, String)>> {
        match kind {
            IntermediateKind::ReplicaSet => &self.replica_sets,
            IntermediateKind::Job => &self.jobs,
        }
    }
}

/// All resources of a control plane. A clone costs little: what does not change is shared.
#[derive(Clone, Debug)]
pub struct Index {
    cluster: Arc<Cluster>,
    /// Of all indices that ever were no two with the same are about different things.
    revision: u64,
    namespaces: Arc<BTreeMap<String, Arc<Scope>>>,
    /// The zone of each node that is in one.
    zones: Arc<BTreeMap<String, String>>,
    addresses: Arc<Addresses>,
    remotes: Arc<Remotes>,
    recorder: Option<Arc<Recorder>>,
}

/// What a namespace has of which nothing is known.
static NOTHING: LazyLock<Scope> = LazyLock::new(Scope::default);

impl Index {
    /// An index without resources.
    pub fn new(cluster: Cluster) -> Self {
        Self {
            cluster: Arc::new(cluster),
            revision: revision(),
            namespaces: Arc::default(),
            zones: Arc::default(),
            addresses: Arc::default(),
            remotes: Arc::default(),
            recorder: None,
        }
    }

    /// An index of these resources; of two with one key, the later counts.
    pub fn from_resources(cluster: Cluster, resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut index = Self::new(cluster);
        resources.into_iter().for_each(|r| index.apply(r));
        index
    }

    /// What holds for the whole control plane.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Every workload, by namespace and name.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.scopes().flat_map(|(_, scope)| scope.workloads())
    }

    /// A workload.
    pub fn workload(&self, workload: &WorkloadRef) -> Option<&Workload> {
        self.part(workload.namespace()).workload(workload)
    }

    /// Every Service, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        let scopes = self.scopes();
        scopes.flat_map(|(_, scope)| scope.services.values())
    }

    /// A Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.part(namespace).service(name)
    }

    /// The zone of a node, if it is known.
    pub fn node_zone(&self, node: &str) -> Option<&str> {
        let zone = self.zones.get(node).map(String::as_str);
        self.note(|recorder| recorder.node(node, zone));
        zone
    }

    pub(crate) fn scopes(&self) -> impl Iterator<Item = (&str, &Scope)> {
        self.note(Recorder::everything);
        self.namespaces
            .iter()
            .map(|(name, s)| (name.as_str(), &**s))
    }

    /// All of a namespace, for who looks at everything.
    pub(crate) fn scope(&self, namespace: &str) -> Option<&Scope> {
        self.note(Recorder::everything);
        self.namespaces.get(namespace).map(Arc::as_ref)
    }

    /// The objects of a namespace, of which each reading is noted.
    pub(crate) fn part(&self, namespace: &str) -> Part<'_> {
        let scope = self.namespaces.get(namespace).map(Arc::as_ref);
        let Some(recorder) = &self.recorder else {
            return scope.unwrap_or(&NOTHING).part();
        };
        let revision = scope.map_or(0, |scope| scope.revision);
        let notes = Notes {
            recorder,
            namespace: recorder.namespace(namespace, revision),
        };
        Part::noting(scope.unwrap_or(&NOTHING), notes)
    }
}

impl Scope {
    fn is_empty(&self) -> bool {
        self.annotations.is_empty()
            && self.workloads().next().is_none()
            && self.services.is_empty()
            && self.slices.is_empty()
            && self.replica_sets.is_empty()
            && self.jobs.is_empty()
            && self.servers.is_empty()
            && self.server_authorizations.is_empty()
            && self.authorization_policies.is_empty()
            && self.mesh_tls.is_empty()
            && self.networks.is_empty()
            && self.http_routes.is_empty()
            && self.grpc_routes.is_empty()
            && self.rate_limits.is_empty()
            && self.tcp_routes.is_empty()
            && self.tls_routes.is_empty()
            && self.egress_networks.is_empty()
            && self.profiles.is_empty()
            && self.splits.is_empty()
    }

    pub(crate) fn workload(&self, workload: &WorkloadRef) -> Option<&Workload> {
        match workload {
            WorkloadRef::Pod { pod, .. } => self.pods.get(pod),
            WorkloadRef::ExternalWorkload { name, .. } => self.external_workloads.get(name),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
