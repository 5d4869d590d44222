//! A Pod as far as the injector looks at it.

use super::{annotations::Annotations, names};
use linkerd_policy::ports::PortSet;
use serde_json::Value;

/// Images of sidecars, whatever registry they come from.
const SIDECAR_IMAGES: [&str; 4] = [
    "linkerd/proxy",
    "linkerd-io/proxy",
    "istio-release/proxyv2",
    "istio/proxyv2",
];

/// A Pod, or a template of Pods: `metadata` and `spec`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'a>(pub(super) &'a Value);

impl<'a> Pod<'a> {
    fn at(&self, pointer: &str) -> Option<&'a Value> {
        self.0.pointer(pointer).filter(|value| !value.is_null())
    }

    fn list(&self, pointer: &str) -> &'a [Value] {
        let list = self.at(pointer).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    pub(super) fn annotations(&self) -> Annotations {
        texts(self.at("/metadata/annotations"))
    }

    pub(super) fn labels(&self) -> Annotations {
        texts(self.at("/metadata/labels"))
    }

    pub(super) fn containers(&self) -> &'a [Value] {
        self.list("/spec/containers")
    }

    pub(super) fn init_containers(&self) -> &'a [Value] {
        self.list("/spec/initContainers")
    }

    pub(super) fn volumes(&self) -> &'a [Value] {
        self.list("/spec/volumes")
    }

    fn all_containers(&self) -> impl Iterator<Item = &'a Value> {
        self.containers().iter().chain(self.init_containers())
    }

    pub(super) fn is_on_host_network(&self) -> bool {
        self.at("/spec/hostNetwork") == Some(&Value::Bool(true))
    }

    pub(super) fn has_sidecar(&self) -> bool {
        self.all_containers().any(|container| {
            matches!(
                name(container),
                names::PROXY | names::INIT | names::VALIDATOR | "istio-proxy" | "istio-init"
            ) || is_sidecar_image(container["image"].as_str().unwrap_or_default())
        })
    }

    pub(super) fn is_for_linux(&self) -> bool {
        let by_selector = self.at("/spec/nodeSelector/kubernetes.io~1os");
        let by_name = self.at("/spec/os/name");
        let mut said = [by_selector, by_name].into_iter().flatten();
        said.all(|os| os == "linux")
    }

    /// Whether it is as Pods are, and nothing of it has a name that the sidecar needs.
    pub(super) fn is_understood(&self) -> bool {
        let is_list = |pointer, may_be_absent| match self.at(pointer) {
            None => may_be_absent,
            Some(Value::Array(items)) => items.iter().all(|item| !name(item).is_empty()),
            Some(_) => false,
        };
        let is_map = |pointer| self.at(pointer).is_none_or(Value::is_object);
        self.at("/spec").is_some_and(Value::is_object)
            && is_map("/metadata")
            && is_map("/metadata/annotations")
            && is_map("/metadata/labels")
            && is_list("/spec/containers", false)
            && !self.containers().is_empty()
            && is_list("/spec/initContainers", true)
            && is_list("/spec/volumes", true)
            && !self
                .all_containers()
                .any(|container| name(container) == names::DEBUG)
            && !self
                .volumes()
                .iter()
                .any(|volume| names::VOLUMES.contains(&name(volume)))
    }

    /// Whether its account's token is neither mounted nor anywhere else.
    pub(super) fn has_no_token(&self) -> bool {
        self.at("/spec/automountServiceAccountToken") == Some(&Value::Bool(false))
    }

    /// Ports that containers declare for TCP.
    pub(super) fn ports(&self) -> impl Iterator<Item = (u16, &'a str)> {
        // Of init containers, those that go on serve as well.
        let going_on = |container: &&Value| container["restartPolicy"] == "Always";
        let containers = self.containers().iter();
        let containers = containers.chain(self.init_containers().iter().filter(going_on));
        let ports =
            containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
        let ports = ports.filter(|port| port["protocol"].as_str().unwrap_or("TCP") == "TCP");
        ports.filter_map(|port| {
            let number = u16::try_from(port["containerPort"].as_u64()?).ok()?;
            Some((number, port["name"].as_str().unwrap_or_default()))
        })
    }

    /// Whether a container declares a port for UDP, which nobody redirects.
    pub(super) fn has_udp(&self) -> bool {
        let ports = self.containers().iter();
        let mut ports =
            ports.flat_map(|container| container["ports"].as_array().into_iter().flatten());
        ports.any(|port| port["protocol"] == "UDP")
    }

    /// The ports of a list that may have names.
    pub(super) fn resolved(&self, list: &str) -> (PortSet, Vec<String>) {
        let (set, errors) = PortSet::parse_with_names(list, |wanted| {
            let ports = self.ports().filter(|(_, name)| *name == wanted);
            ports.map(|(port, _)| port).collect()
        });
        (
            set,
            errors.into_iter().map(|error| error.to_string()).collect(),
        )
    }

    /// Those of the ports of a list that containers declare.
    pub(super) fn declared(&self, list: &str) -> PortSet {
        let (set, _) = self.resolved(list);
        self.ports()
            .map(|(port, _)| port)
            .filter(|port| set.contains(*port))
            .collect()
    }
}

/// What a thing in a list is called.
pub(super) fn name(item: &Value) -> &str {
    item["name"].as_str().unwrap_or_default()
}

/// A map of text; what is no text is left out.
pub(super) fn texts(map: Option<&Value>) -> Annotations {
    let map = map.and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn is_sidecar_image(image: &str) -> bool {
    let image = image.split('@').next().unwrap_or_default();
    let (path, last) = image.rsplit_once('/').unwrap_or(("", image));
    let last = last.split(':').next().unwrap_or_default();
    let folder = path.rsplit('/').next().unwrap_or_default();
    SIDECAR_IMAGES
        .iter()
        .filter_map(|known| known.split_once('/'))
        .any(|known| known == (folder, last))
}
