//! Whether what is made of everything has to be made anew, told at a glance.

use super::{Index, part::Kind};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// What statuses are made of.
const STATUSES: &[Kind] = &[
    Kind::Services,
    Kind::Servers,
    Kind::RateLimits,
    Kind::HttpRoutes,
    Kind::GrpcRoutes,
    Kind::TlsRoutes,
    Kind::TcpRoutes,
    Kind::EgressNetworks,
];

/// What groups of ExternalWorkloads are made of.
const EXTERNAL_GROUPS: &[Kind] = &[Kind::Services, Kind::ExternalWorkloads];

impl Index {
    /// The same for as long as nothing changes that [`statuses`](Self::statuses) are made of.
    pub fn state_of_statuses(&self) -> u64 {
        self.state_of(STATUSES)
    }

    /// The same for as long as nothing changes that [`external_groups`](Self::external_groups) are made of.
    pub fn state_of_external_groups(&self) -> u64 {
        self.state_of(EXTERNAL_GROUPS)
    }

    fn state_of(&self, kinds: &[Kind]) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (namespace, scope) in self.scopes() {
            namespace.hash(&mut hasher);
            kinds
                .iter()
                .for_each(|kind| scope.whole(*kind).hash(&mut hasher));
        }
        hasher.finish()
    }
}
