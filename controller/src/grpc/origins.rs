//! Where the endpoints of a Service come from: one Service of this cluster or another, or several (control plane §4.6).

use super::path;
use linkerd_policy::{
    index::Index,
    resource::{Discovery, MissingRemoteService},
};
use std::collections::HashMap;
use tonic::Status;

/// A Service that endpoints of a stream come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The other cluster that it is in; `None`: it is in this one.
    pub(super) cluster: Option<String>,
    /// Which one, and which of its ports.
    pub(super) service: path::Service,
}

/// Why a Service's endpoints come from nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoOrigin {
    /// It does not say which Service of the other cluster it stands for.
    Nameless(MissingRemoteService),
    /// The other cluster is not known.
    Unknown(String),
}

impl NoOrigin {
    /// What a client is told that asked for `path`.
    pub(super) fn status(&self, path: &str) -> Status {
        match self {
            Self::Nameless(_) => Status::failed_precondition(format!(
                "Remote discovery service missing remote service name {}",
                path::shown(path)
            )),
            Self::Unknown(cluster) => {
                Status::not_found(format!("Remote cluster not found: {cluster}"))
            }
        }
    }
}

/// Where the endpoints of a Service come from now. A federated Service has those of its members in clusters that are known:
/// one that is not must not take the others away.
///
/// # Errors
/// If it stands for a Service that cannot be found.
pub(super) fn origins(index: &Index, asked: &path::Service) -> Result<Vec<Origin>, NoOrigin> {
    let origin = |cluster: Option<&str>, name: &str| Origin {
        cluster: cluster.map(str::to_owned),
        service: path::Service {
            name: name.to_owned(),
            ..asked.clone()
        },
    };
    let Some(service) = index.service(&asked.namespace, &asked.name) else {
        return Ok(vec![origin(None, &asked.name)]);
    };
    Ok(match service.discovery().map_err(NoOrigin::Nameless)? {
        Discovery::Own => vec![origin(None, &asked.name)],
        Discovery::Remote(remote) => {
            if index.remote(remote.cluster).is_none() {
                return Err(NoOrigin::Unknown(remote.cluster.to_owned()));
            }
            vec![origin(Some(remote.cluster), remote.service)]
        }
        Discovery::Federated { local, remote, .. } => {
            let known = remote
                .into_iter()
                .filter(|member| index.remote(member.cluster).is_some());
            let remote = known.map(|member| origin(Some(member.cluster), member.service));
            let local = local.map(|name| origin(None, name));
            local.into_iter().chain(remote).collect()
        }
    })
}

impl Origin {
    /// Labels of all its endpoints, with those of the Service that it mirrors, or of the cluster that it is in.
    pub(super) fn labels(&self, index: &Index) -> HashMap<String, String> {
        const CLUSTER: &str = "mirror.linkerd.io/cluster-name";
        const REMOTE: &str = "mirror.linkerd.io/remote-svc-fq-name";
        let path::Service {
            namespace, name, ..
        } = &self.service;
        let mut labels = HashMap::from([
            ("namespace".to_owned(), namespace.clone()),
            ("service".to_owned(), name.clone()),
        ]);
        let mut target = |cluster: &str, name: &str, namespace: &str| {
            for (key, value) in [
                ("target_cluster", cluster),
                ("target_service", name),
                ("target_service_namespace", namespace),
            ] {
                labels.insert(key.to_owned(), value.to_owned());
            }
        };
        if let Some(cluster) = &self.cluster {
            target(cluster, name, namespace);
            return labels;
        }
        let service = index.service(namespace, name);
        let Some(metadata) = service.map(|service| &service.metadata) else {
            return labels;
        };
        let remote = metadata.annotations.get(REMOTE);
        if let Some((cluster, remote)) = metadata.labels.get(CLUSTER).zip(remote) {
            let mut parts = remote.split('.');
            let (name, namespace) = (parts.next(), parts.next());
            target(
                cluster,
                name.unwrap_or_default(),
                namespace.unwrap_or_default(),
            );
        }
        labels
    }
}

/// The full name of a Service.
pub(super) fn full_name(index: &Index, asked: &path::Service) -> String {
    let domain = index.cluster().cluster_domain.trim_end_matches('.');
    format!("{}.{}.svc.{domain}", asked.name, asked.namespace)
}
