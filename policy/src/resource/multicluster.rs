//! Where the endpoints of a Service are: in its own cluster, in another one, or in several. Source: control plane §4.6.
//!
//! What stands for Services of other clusters is made by the service mirror of Linkerd's multicluster extension, by labels
//! and annotations. The other Service has the same namespace.

use super::Service;

/// As a label: the cluster whose Service this one stands for. As an annotation: `service@cluster`, separated by commas.
const REMOTE_DISCOVERY: &str = "multicluster.linkerd.io/remote-discovery";
/// Label: the name of the Service there.
const REMOTE_SERVICE: &str = "multicluster.linkerd.io/remote-service";
/// Annotation: the Service of this cluster that is part of the federation.
const LOCAL_DISCOVERY: &str = "multicluster.linkerd.io/local-discovery";

/// Where endpoints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery<'a> {
    /// In the Service's own cluster.
    Own,
    /// In another cluster.
    Remote(RemoteService<'a>),
    /// In several clusters: a federated Service has the endpoints of all its members.
    Federated {
        /// The member in this cluster.
        local: Option<&'a str>,
        /// Members in other clusters.
        remote: Vec<RemoteService<'a>>,
        /// Entries that name none.
        invalid: Vec<&'a str>,
    },
}

/// A Service of another cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemoteService<'a> {
    /// The cluster, as its Secret's label `multicluster.linkerd.io/cluster-name` has it.
    pub cluster: &'a str,
    /// The Service's name.
    pub service: &'a str,
}

/// A Service names another cluster and no Service there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the label {REMOTE_SERVICE} is missing")]
pub struct MissingRemoteService;

impl Service {
    /// Where its endpoints are.
    ///
    /// # Errors
    /// If the label with the other Service's name is missing.
    pub fn discovery(&self) -> Result<Discovery<'_>, MissingRemoteService> {
        let (labels, annotations) = (&self.metadata.labels, &self.metadata.annotations);
        let local = annotations.get(LOCAL_DISCOVERY);
        let remote = annotations.get(REMOTE_DISCOVERY);
        if local.is_some() || remote.is_some() {
            let entries = remote.map_or("", String::as_str).split(',').map(str::trim);
            let entries = entries.filter(|entry| !entry.is_empty());
            let (mut remote, mut invalid) = (Vec::new(), Vec::new());
            for entry in entries {
                match member(entry) {
                    Some(member) if remote.contains(&member) => {}
                    Some(member) => remote.push(member),
                    None => invalid.push(entry),
                }
            }
            return Ok(Discovery::Federated {
                local: local.map(|name| name.trim()).filter(|n| !n.is_empty()),
                remote,
                invalid,
            });
        }
        let cluster = labels.get(REMOTE_DISCOVERY).filter(|name| !name.is_empty());
        let Some(cluster) = cluster else {
            return Ok(Discovery::Own);
        };
        let service = labels.get(REMOTE_SERVICE).filter(|name| !name.is_empty());
        let service = service.ok_or(MissingRemoteService)?;
        Ok(Discovery::Remote(RemoteService { cluster, service }))
    }
}

fn member(entry: &str) -> Option<RemoteService<'_>> {
    let (service, cluster) = entry.split_once('@')?;
    let is_name = |text: &str| !text.is_empty() && !text.contains('@');
    (is_name(service) && is_name(cluster)).then_some(RemoteService { cluster, service })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{manifest, resource::Resource};

    fn service(metadata: &str) -> Service {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, {metadata}}}\nspec: {{ports: [{{port: 80}}]}}"
        );
        let mut resource = manifest::parse(&text).remove(0).unwrap().resource;
        // As objects of a cluster are kept.
        resource.prune();
        let Resource::Service(service) = resource else {
            panic!("a Service")
        };
        service
    }

    #[test]
    fn labels_name_one_service_of_another_cluster() {
        assert_eq!(service("").discovery(), Ok(Discovery::Own));
        let west = service(
            "labels: {multicluster.linkerd.io/remote-discovery: west, multicluster.linkerd.io/remote-service: api}",
        );
        let wanted = RemoteService {
            cluster: "west",
            service: "api",
        };
        assert_eq!(west.discovery(), Ok(Discovery::Remote(wanted)));
        let nameless = service("labels: {multicluster.linkerd.io/remote-discovery: west}");
        assert_eq!(nameless.discovery(), Err(MissingRemoteService));
    }

    #[test]
    fn annotations_name_members_of_a_federation_and_what_names_none_is_told() {
        let web = service(
            "annotations: {multicluster.linkerd.io/local-discovery: web-here, \
             multicluster.linkerd.io/remote-discovery: 'web@west, web@east,web@west,web,@x,a@b@c'}",
        );
        let member = |cluster| RemoteService {
            cluster,
            service: "web",
        };
        let wanted = Discovery::Federated {
            local: Some("web-here"),
            remote: vec![member("west"), member("east")],
            invalid: vec!["web", "@x", "a@b@c"],
        };
        assert_eq!(web.discovery(), Ok(wanted));
        let alone = service("annotations: {multicluster.linkerd.io/local-discovery: web}");
        let wanted = Discovery::Federated {
            local: Some("web"),
            remote: Vec::new(),
            invalid: Vec::new(),
        };
        assert_eq!(alone.discovery(), Ok(wanted));
    }
}
