//! What a control plane does beside its services: writes to the API server, asks what it may do there, and lints.

use crate::{
    Config, Role,
    grpc::Shared,
    kubernetes::{
        self, Clusters, Reported,
        access::{Access, Needs},
        clusters,
    },
    metrics::{ControllerMetrics, Shown, SliceMetrics, StatusMetrics},
    source::Snapshot,
};
use futures::future::OptionFuture;
use kube::Client;
use linkerd_metrics::Registry;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Between looks of the linter at an API server's objects.
const LINT_PAUSE: Duration = Duration::from_secs(10);

/// Runs `other` for as long as `main` runs.
pub(crate) async fn beside<T>(main: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
    let other = async {
        other.await;
        std::future::pending().await
    };
    tokio::select! {
        result = main => result,
        never = other => never,
    }
}

/// Writes what is to be written to an API server, until the process is to end.
pub(crate) fn writers(
    config: &Config,
    client: Option<Client>,
    reported: &Arc<Reported>,
    shared: &Shared,
    registry: &Registry,
) -> impl Future<Output = ()> + use<> {
    let statuses = statuses(config, client.clone(), reported, shared, registry);
    let slices = slices(config, client, shared, registry);
    async {
        tokio::join!(OptionFuture::from(statuses), OptionFuture::from(slices));
    }
}

/// Writes statuses, with the role policy on an API server, until the process is to end.
fn statuses(
    config: &Config,
    client: Option<Client>,
    reported: &Arc<Reported>,
    shared: &Shared,
    registry: &Registry,
) -> Option<impl Future<Output = ()> + Unpin + use<>> {
    client.filter(|_| config.has(Role::Policy)).map(|client| {
        let metrics = StatusMetrics::register(registry);
        Box::pin(kubernetes::write_statuses(
            config.statuses.clone(),
            config.cluster.control_plane_namespace.clone(),
            client,
            reported.clone(),
            shared.snapshots.clone(),
            metrics,
            shared.ending.clone(),
        ))
    })
}

/// Writes EndpointSlices of ExternalWorkloads, with the role destination on an API server, until the process is to end.
fn slices(
    config: &Config,
    client: Option<Client>,
    shared: &Shared,
    registry: &Registry,
) -> Option<impl Future<Output = ()> + Unpin + use<>> {
    client
        .filter(|_| config.has(Role::Destination))
        .map(|client| {
            Box::pin(kubernetes::write_slices(
                config.statuses.clone(),
                config.cluster.control_plane_namespace.clone(),
                client,
                shared.snapshots.clone(),
                SliceMetrics::register(registry),
                shared.ending.clone(),
            ))
        })
}

/// Other clusters, with the role destination on an API server where they are asked for, and what follows them.
pub(crate) fn clusters(
    config: &Config,
    client: &Client,
    metrics: &ControllerMetrics,
) -> (Clusters, impl Future<Output = ()> + use<>) {
    let asked = config.remote_clusters && config.has(Role::Destination);
    let (known, keep) = asked
        .then(|| {
            let (publish, known) = watch::channel(None);
            let cluster = config.cluster.clone();
            let keep = clusters::keep(client.clone(), cluster, metrics.clusters(), publish);
            (known, keep)
        })
        .unzip();
    let keep = async {
        OptionFuture::from(keep).await;
    };
    (known.unwrap_or_else(clusters::none), keep)
}

/// Asks the API server what this process may do.
pub(crate) async fn rights(config: &Config, client: Option<Client>, access: Access) {
    let needs = Needs {
        is_watching: config.has_index(),
        has_statuses: config.has(Role::Policy),
        has_slices: config.has(Role::Destination),
        has_tokens: config.has(Role::Identity),
        has_clusters: config.remote_clusters && config.has(Role::Destination),
        injects: config
            .injector
            .as_ref()
            .map(|injector| injector.certificates.makes),
        namespace: config.cluster.control_plane_namespace.clone(),
    };
    if let Some(client) = client {
        access.review(client, needs).await;
    }
}

/// Shows what the linter finds in an API server's objects, some time after they changed: it reads all of them.
pub(crate) async fn lint(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    metrics: Arc<ControllerMetrics>,
) {
    let mut shown = Shown::default();
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        let metrics = metrics.clone();
        let show = move || {
            metrics.show_lint(&snapshot, &mut shown);
            shown
        };
        match tokio::task::spawn_blocking(show).await {
            Ok(now) => shown = now,
            Err(_) => return,
        }
        tokio::time::sleep(LINT_PAUSE).await;
    }
}
