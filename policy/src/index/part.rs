//! What answers are made of: the objects of a namespace, read one by one or kind by kind, and each reading noted.

use super::{
    Scope, Workload, WorkloadRef,
    attach::ParentKind,
    parents::{Routes, parent_key},
    reads::Recorder,
    table::{Annotations, Revisions, Table},
};
use crate::resource::{
    AuthorizationPolicy, EgressNetwork, EndpointSlice, HttpLocalRateLimitPolicy, IntermediateKind,
    MeshTlsAuthentication, NetworkAuthentication, Server, ServerAuthorization, Service,
    ServiceProfile, TrafficSplit,
};
use std::{collections::BTreeMap, sync::Arc};

/// A kind of objects, as they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Annotations of the namespace itself.
    Annotations,
    Pods,
    ExternalWorkloads,
    Services,
    /// By Service.
    Slices,
    ReplicaSets,
    Jobs,
    Servers,
    /// By what they are about, as the next two.
    ServerAuthorizations,
    AuthorizationPolicies,
    RateLimits,
    MeshTls,
    Networks,
    HttpRoutes,
    GrpcRoutes,
    TlsRoutes,
    TcpRoutes,
    /// Of all kinds, by what they are attached to.
    RouteParents,
    EgressNetworks,
    Profiles,
    Splits,
}

/// Something that can be read of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// All objects of a kind.
    Whole(Kind),
    /// One of them, or those about one thing.
    One(Kind, String),
    /// Whether any Server carries bytes.
    HasOpaque,
    /// Which Server keeps a port.
    Keeper(WorkloadRef, u16),
}

impl Place {
    /// The kind of objects that decides of it; of a port's keeper the workload does too, which is read as well.
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Whole(kind) | Self::One(kind, _) => *kind,
            Self::HasOpaque | Self::Keeper(..) => Kind::Servers,
        }
    }
}

impl Scope {
    /// The state that all objects of a kind are in; 0 if there are none.
    pub(super) fn whole(&self, kind: Kind) -> u64 {
        self.revisions(kind).whole()
    }

    /// The state that a place is in; 0 if nothing is there.
    pub(super) fn revision_at(&self, place: &Place) -> u64 {
        match place {
            Place::Whole(kind) => self.whole(*kind),
            Place::One(kind, name) => self.revisions(*kind).one(name),
            Place::HasOpaque => u64::from(self.servers.has_opaque()),
            Place::Keeper(workload, port) => {
                let workload = self.workload(workload);
                let keeper = workload.and_then(|workload| self.servers.keeper(workload, *port));
                keeper.map_or(0, |keeper| self.servers.one(&keeper.metadata.name))
            }
        }
    }

    fn revisions(&self, kind: Kind) -> &dyn Revisions {
        match kind {
            Kind::Annotations => &self.annotations,
            Kind::Pods => &self.pods,
            Kind::ExternalWorkloads => &self.external_workloads,
            Kind::Services => &self.services,
            Kind::Slices => &self.slices,
            Kind::ReplicaSets => &self.replica_sets,
            Kind::Jobs => &self.jobs,
            Kind::Servers => &self.servers,
            Kind::ServerAuthorizations => &self.server_authorizations,
            Kind::AuthorizationPolicies => &self.authorization_policies,
            Kind::RateLimits => &self.rate_limits,
            Kind::MeshTls => &self.mesh_tls,
            Kind::Networks => &self.networks,
            Kind::HttpRoutes => &self.http_routes,
            Kind::GrpcRoutes => &self.grpc_routes,
            Kind::TlsRoutes => &self.tls_routes,
            Kind::TcpRoutes => &self.tcp_routes,
            Kind::RouteParents => &self.route_parents,
            Kind::EgressNetworks => &self.egress_networks,
            Kind::Profiles => &self.profiles,
            Kind::Splits => &self.splits,
        }
    }

    /// To be read without notes.
    pub(crate) const fn part(&self) -> Part<'_> {
        Part {
            scope: self,
            notes: None,
        }
    }
}

/// The objects of a namespace. One that is not there has none.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    scope: &'a Scope,
    notes: Option<Notes<'a>>,
}

/// Where readings are noted, and the namespace's number there.
#[derive(Clone, Copy)]
pub(super) struct Notes<'a> {
    pub(super) recorder: &'a Recorder,
    pub(super) namespace: usize,
}

impl<'a> Part<'a> {
    pub(super) const fn noting(scope: &'a Scope, notes: Notes<'a>) -> Self {
        Self {
            scope,
            notes: Some(notes),
        }
    }

    fn note(self, place: impl FnOnce() -> Place) {
        if let Some(Notes {
            recorder,
            namespace,
        }) = self.notes
        {
            let place = place();
            let revision = self.scope.revision_at(&place);
            let whole = self.scope.whole(place.kind());
            recorder.place(namespace, place, (revision, whole));
        }
    }

    fn all(self, kind: Kind) {
        self.note(|| Place::Whole(kind));
    }

    fn one(self, kind: Kind, name: &str) {
        self.note(|| Place::One(kind, name.to_owned()));
    }

    pub(crate) fn annotations(self) -> &'a Annotations {
        self.all(Kind::Annotations);
        &self.scope.annotations
    }

    pub(crate) fn workload(self, workload: &WorkloadRef) -> Option<&'a Workload> {
        let kind = match workload {
            WorkloadRef::Pod { .. } => Kind::Pods,
            WorkloadRef::ExternalWorkload { .. } => Kind::ExternalWorkloads,
        };
        self.one(kind, workload.name());
        self.scope.workload(workload)
    }

    pub(crate) fn pods(self) -> &'a Table<String, Workload> {
        self.all(Kind::Pods);
        &self.scope.pods
    }

    pub(crate) fn external_workloads(self) -> &'a Table<String, Workload> {
        self.all(Kind::ExternalWorkloads);
        &self.scope.external_workloads
    }

    pub(crate) fn service(self, name: &str) -> Option<&'a Service> {
        self.one(Kind::Services, name);
        self.scope.services.get(name)
    }

    pub(crate) fn services(self) -> &'a Table<String, Service> {
        self.all(Kind::Services);
        &self.scope.services
    }

    /// The slices of a Service, if it has any.
    pub(crate) fn slices(self, service: &str) -> Option<&'a BTreeMap<String, Arc<EndpointSlice>>> {
        self.one(Kind::Slices, service);
        self.scope.slices.get(service)
    }

    /// What controls a ReplicaSet or Job, if that is known; `Some(None)`: nothing does.
    pub(crate) fn owner(
        self,
        kind: IntermediateKind,
        name: &str,
    ) -> Option<&'a Option<(String, String)>> {
        let noted = match kind {
            IntermediateKind::ReplicaSet => Kind::ReplicaSets,
            IntermediateKind::Job => Kind::Jobs,
        };
        self.one(noted, name);
        self.scope.intermediates(kind).get(name)
    }

    pub(crate) fn server(self, name: &str) -> Option<&'a Server> {
        self.one(Kind::Servers, name);
        self.scope.servers.get(name)
    }

    /// The Server that keeps a port of a workload.
    pub(crate) fn keeper(self, workload: &Workload, port: u16) -> Option<&'a Server> {
        self.note(|| Place::Keeper(workload.reference(), port));
        self.scope.servers.keeper(workload, port)
    }

    /// Whether any Server carries bytes.
    pub(crate) fn has_opaque_server(self) -> bool {
        self.note(|| Place::HasOpaque);
        self.scope.servers.has_opaque()
    }

    /// Those about any of these targets, by name.
    pub(crate) fn server_authorizations(
        self,
        targets: &[&str],
    ) -> impl Iterator<Item = &'a ServerAuthorization> + use<'a> {
        let kind = Kind::ServerAuthorizations;
        targets.iter().for_each(|target| self.one(kind, target));
        self.scope.server_authorizations.about(targets)
    }

    /// Those about any of these targets, by name.
    pub(crate) fn authorization_policies(
        self,
        targets: &[&str],
    ) -> impl Iterator<Item = &'a AuthorizationPolicy> + use<'a> {
        let kind = Kind::AuthorizationPolicies;
        targets.iter().for_each(|target| self.one(kind, target));
        self.scope.authorization_policies.about(targets)
    }

    /// Those about a target, by name.
    pub(crate) fn rate_limits(
        self,
        target: &str,
    ) -> impl Iterator<Item = &'a HttpLocalRateLimitPolicy> + use<'a> {
        self.one(Kind::RateLimits, target);
        self.scope.rate_limits.about(&[target])
    }

    pub(crate) fn mesh_tls(self, name: &str) -> Option<&'a MeshTlsAuthentication> {
        self.one(Kind::MeshTls, name);
        self.scope.mesh_tls.get(name)
    }

    pub(crate) fn network(self, name: &str) -> Option<&'a NetworkAuthentication> {
        self.one(Kind::Networks, name);
        self.scope.networks.get(name)
    }

    /// Routes that name a parent.
    pub(crate) fn routes_of(self, kind: ParentKind, namespace: &str, name: &str) -> Routes<'a> {
        let parent = parent_key(kind, namespace, name);
        self.one(Kind::RouteParents, &parent);
        self.scope.routes_of(&parent)
    }

    pub(crate) fn egress_network(self, name: &str) -> Option<&'a EgressNetwork> {
        self.one(Kind::EgressNetworks, name);
        self.scope.egress_networks.get(name)
    }

    pub(crate) fn egress_networks(self) -> &'a Table<String, EgressNetwork> {
        self.all(Kind::EgressNetworks);
        &self.scope.egress_networks
    }

    pub(crate) fn profile(self, name: &str) -> Option<&'a ServiceProfile> {
        self.one(Kind::Profiles, name);
        self.scope.profiles.get(name)
    }

    pub(crate) fn splits(self) -> &'a Table<String, TrafficSplit> {
        self.all(Kind::Splits);
        &self.scope.splits
    }
}
