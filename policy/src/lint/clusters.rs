//! Services that stand for those of other clusters: can these be found?

use super::{Lint, Report, Severity, key, listed};
use crate::resource::{Discovery, Service};

pub(super) fn check(lint: Lint<'_>, report: &mut Report) {
    for service in lint.scope.services.values() {
        of_service(lint, service, report);
    }
}

fn of_service(lint: Lint<'_>, service: &Service, report: &mut Report) {
    let mut add = |message: String, fix: &str| {
        let object = key("", "Service", &service.metadata);
        report.add(Severity::Error, "cluster-unknown", object, message, fix);
    };
    let remote = match service.discovery() {
        Ok(Discovery::Own) => return,
        Ok(Discovery::Remote(remote)) => vec![remote],
        Ok(Discovery::Federated {
            remote, invalid, ..
        }) => {
            if !invalid.is_empty() {
                add(
                    format!(
                        "{} in multicluster.linkerd.io/remote-discovery names no Service of another cluster",
                        listed(invalid)
                    ),
                    "write SERVICE@CLUSTER, separated by commas",
                );
            }
            remote
        }
        Err(_) => {
            return add(
                "stands for a Service of another cluster and does not say which".to_owned(),
                "name it with the label multicluster.linkerd.io/remote-service",
            );
        }
    };
    let unknown = remote
        .iter()
        .filter(|remote| lint.index.remote(remote.cluster).is_none());
    let unknown = listed(unknown.map(|remote| remote.cluster));
    if !unknown.is_empty() {
        add(
            format!(
                "stands for a Service of the cluster {unknown}, which is not known: nothing is sent there"
            ),
            "run the control plane with --kubernetes and --remote-clusters (in the chart destinationController.remoteClusters), and link the cluster",
        );
    }
}
