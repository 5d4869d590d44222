//! What of an object of a cluster is not worth its memory: everything that no answer is made of. And what holds of objects of a
//! cluster that does not of files.

use super::{Metadata, Resource, workload::Container};

/// What annotations that are read have in their names; also those of the mesh's extensions.
const READ: &str = "linkerd.io/";
/// Environment of a proxy that is read.
const PROXY_ENV: &str = "LINKERD2_PROXY_";

impl Resource {
    /// Drops what nothing here reads: annotations of others (`kubectl apply` keeps the whole object in one), the
    /// environment of containers, labels that nothing selects by. An ExternalWorkload of which nobody has said that it is ready is
    /// not: in a cluster somebody says so.
    pub fn prune(&mut self) {
        match self {
            Self::Namespace(r) | Self::Node(r) => prune(&mut r.metadata),
            Self::Pod(r) => {
                prune(&mut r.metadata);
                let spec = &mut r.spec;
                let containers = spec.containers.iter_mut().chain(&mut spec.init_containers);
                containers.for_each(prune_container);
                spec.containers.shrink_to_fit();
                spec.init_containers.shrink_to_fit();
                let is_ready = |c: &super::workload::Condition| c.kind == "Ready";
                r.status.conditions.retain(is_ready);
                r.status.conditions.shrink_to_fit();
            }
            Self::Service(r) => prune(&mut r.metadata),
            Self::ExternalWorkload(r) => drop(r.conditions.get_or_insert_default()),
            Self::EndpointSlice(r) => {
                prune(&mut r.metadata);
                let is_read = |key: &String, _: &mut String| key.contains("kubernetes.io/");
                r.metadata.labels.retain(is_read);
                r.endpoints.shrink_to_fit();
            }
            _ => {}
        }
    }
}

fn prune(metadata: &mut Metadata) {
    metadata.annotations.retain(|key, _| key.contains(READ));
}

fn prune_container(container: &mut Container) {
    let is_proxy = container.name == "linkerd-proxy";
    let is_read = |name: &str| is_proxy && name.starts_with(PROXY_ENV);
    container.env.retain(|variable| is_read(&variable.name));
    container.env.retain(|v| v.name.ends_with("_LISTEN_ADDR"));
    container.env.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use crate::{manifest, resource::Resource};

    const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {kubectl.kubernetes.io/last-applied-configuration: x, config.linkerd.io/opaque-ports: '80'}
  labels: {app: web}
spec:
  containers:
  - {name: app, env: [{name: LINKERD2_PROXY_LISTEN_ADDR, value: x}, {name: SECRET, value: x}]}
  - {name: linkerd-proxy, env: [{name: LINKERD2_PROXY_INBOUND_LISTEN_ADDR, value: '0.0.0.0:4143'}, {name: LINKERD2_PROXY_LOG, value: x}]}
status: {conditions: [{type: Ready, status: 'True'}, {type: PodScheduled, status: 'True'}]}
";

    #[test]
    fn what_nothing_reads_is_not_kept_and_the_rest_is() {
        let mut resource = manifest::parse(POD).remove(0).unwrap().resource;
        resource.prune();
        let Resource::Pod(pod) = resource else {
            panic!("a Pod")
        };
        let keys: Vec<_> = pod.metadata.annotations.keys().collect();
        assert_eq!(keys, ["config.linkerd.io/opaque-ports"]);
        assert_eq!(pod.metadata.labels.len(), 1);
        assert_eq!(pod.spec.containers[0].env, []);
        assert_eq!(pod.spec.containers[1].env.len(), 1);
        assert!(pod.is_ready() && pod.status.conditions.len() == 1);
    }
}
