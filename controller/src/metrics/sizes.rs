//! How much the index has: computed when a page is made.

use crate::source::Snapshot;
use linkerd_metrics::{Collect, Desc, Labels, Samples, describe};
use linkerd_policy::index::Sizes;
use std::sync::Arc;
use tokio::sync::watch;

/// `inbound_index_*` and `outbound_index_*`.
pub(crate) struct IndexSizes(pub(crate) watch::Receiver<Arc<Snapshot>>);

/// A family by namespace, and what of a namespace's sizes it shows.
type Shown = (&'static Desc, fn(&Sizes) -> usize);

/// Families by namespace.
const BY_NAMESPACE: [Shown; 10] = [
    (
        &describe::INBOUND_INDEX_MESHTLS_AUTHENTICATION_INDEX_SIZE,
        |sizes| sizes.mesh_tls_authentications,
    ),
    (
        &describe::INBOUND_INDEX_NETWORK_AUTHENTICATION_INDEX_SIZE,
        |sizes| sizes.network_authentications,
    ),
    (&describe::INBOUND_INDEX_POD_INDEX_SIZE, |sizes| sizes.pods),
    (
        &describe::INBOUND_INDEX_EXTERNAL_WORKLOAD_INDEX_SIZE,
        |sizes| sizes.external_workloads,
    ),
    (&describe::INBOUND_INDEX_SERVER_INDEX_SIZE, |sizes| {
        sizes.servers
    }),
    (
        &describe::INBOUND_INDEX_SERVER_AUTHORIZATION_INDEX_SIZE,
        |sizes| sizes.server_authorizations,
    ),
    (
        &describe::INBOUND_INDEX_AUTHORIZATION_POLICY_INDEX_SIZE,
        |sizes| sizes.authorization_policies,
    ),
    (&describe::INBOUND_INDEX_HTTP_ROUTE_INDEX_SIZE, |sizes| {
        sizes.http_routes
    }),
    (
        &describe::OUTBOUND_INDEX_SERVICE_ROUTE_INDEX_SIZE,
        |sizes| sizes.routed_parents,
    ),
    (
        &describe::OUTBOUND_INDEX_SERVICE_PORT_ROUTE_INDEX_SIZE,
        |sizes| sizes.routed_ports,
    ),
];

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
impl Collect for IndexSizes {
    fn collect(&self, samples: &mut Samples) {
        let snapshot = self.0.borrow().clone();
        let (mut addresses, mut parents) = (0, 0);
        for (namespace, sizes) in snapshot.index.sizes() {
            addresses += sizes.service_addresses;
            parents += sizes.parents;
            let labels = Labels::new().with("namespace", namespace);
            for (desc, size) in BY_NAMESPACE {
                samples.push(desc, labels.clone(), size(&sizes) as f64);
            }
        }
        for (desc, size) in [
            (&describe::OUTBOUND_INDEX_SERVICE_INDEX_SIZE, addresses),
            (&describe::OUTBOUND_INDEX_SERVICE_INFO_INDEX_SIZE, parents),
        ] {
            samples.push(desc, Labels::new(), size as f64);
        }
    }
}
