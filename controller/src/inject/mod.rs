//! Adds the sidecar to Pods. Pure: an object in, a JSON patch and the reason out.
//!
//! Called by the webhook (`injector`) and by `linkerd inject --manual`.
//!
//! | module | what |
//! |---|---|
//! | [`values`] | the chart's values that matter here |
//! | [`annotations`] | what a Pod or namespace may say: one table |
//! | [`decide`] | whether, and if not, why |
//! | `pod` | a Pod as far as it is looked at |
//! | `container`, `env` | what is added |
//! | [`patch`] | RFC 6902 |

pub mod annotations;
pub mod decide;
pub mod patch;
pub mod values;

mod container;
#[cfg(test)]
mod docs;
mod env;
mod names;
mod pod;
mod read;

pub use annotations::{Annotations, INJECT, OPAQUE_PORTS};
pub use decide::{At, Skip};
pub use patch::Operation;
pub use values::Values;

use aws_lc_rs::digest;
use env::Facts;
use linkerd_policy::ports::PortSet;
use patch::Patch;
use pod::Pod;
use serde_json::Value;
use std::fmt::Write as _;

/// Longest value of a label.
const MAX_LABEL: usize = 63;

/// Kinds of owners that a sidecar says it belongs to.
const OWNERS: [&str; 7] = [
    "deployment",
    "replicaset",
    "replicationcontroller",
    "statefulset",
    "daemonset",
    "job",
    "cronjob",
];

/// What is the same for every Pod of a cluster, besides values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// Namespace of the control plane.
    pub namespace: String,
    /// Who injects, for the annotation `linkerd.io/created-by`: name and version.
    pub created_by: String,
    /// Init containers may go on: Kubernetes 1.29 and later.
    pub has_native_sidecars: bool,
}

/// What a Pod is in and part of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// The namespace's annotations.
    pub annotations: Annotations,
    /// What it belongs to in the end: the Deployment, not its ReplicaSet.
    pub owner: Option<Owner>,
}

/// What a Pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Kind, in any case.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Where injection was asked for, or why there is none.
    pub injected: Result<At, Skip>,
    /// What is to be done to the object; without injection, only the annotation of opaque ports.
    pub patch: Vec<Operation>,
    /// What was asked for and cannot be had.
    pub warnings: Vec<String>,
}

/// What is to be done to a Pod, or to a template of Pods.
pub fn pod(mesh: &Mesh, values: &Values, object: &Value, place: &Place) -> Verdict {
    let pod = Pod(object);
    let has_tokens = values.identity.service_account_token_projection;
    let at = match decide::decide(&place.annotations, &pod, has_tokens) {
        Ok(at) => at,
        Err(skip) => {
            let ports = pod.declared(&values.proxy.opaque_ports);
            return Verdict {
                injected: Err(skip),
                patch: opaque_ports(object, place, &ports),
                warnings: Vec::new(),
            };
        }
    };
    let inherited = inherited(&pod, place, at, values);
    let mut annotations = pod.annotations();
    annotations.extend(inherited.iter().cloned());
    let (values, mut warnings) = values_of(mesh, values, place, &annotations);
    if pod.has_udp() {
        warnings
            .push("UDP ports are declared: their traffic does not go through the sidecar".into());
    }
    let mut patch = Patch::of(object.clone());
    for (key, value) in inherited {
        patch.set("/metadata/annotations", &key, value.into());
    }
    describe(&mut patch, mesh, &values, place, &mut warnings);
    let facts = Facts {
        mesh,
        values: &values,
        pod,
        warnings: &mut warnings,
    };
    add(&mut patch, container::proxy(facts), &values);
    Verdict {
        injected: Ok(at),
        patch: patch.end(),
        warnings,
    }
}

/// What is to be done to a Service: the annotation of opaque ports.
pub fn service(values: &Values, object: &Value, place: &Place) -> Vec<Operation> {
    let (defaults, _) = Pod(&Value::Null).resolved(&values.proxy.opaque_ports);
    let ports = object.pointer("/spec/ports").and_then(Value::as_array);
    let ports = ports.into_iter().flatten().filter_map(|port| {
        let target = port.get("targetPort").filter(|target| !target.is_null());
        let number = target.or_else(|| port.get("port"))?.as_u64()?;
        let number = u16::try_from(number).ok()?;
        let port = u16::try_from(port.get("port")?.as_u64()?).ok()?;
        defaults.contains(number).then_some(port)
    });
    opaque_ports(object, place, &ports.collect())
}

/// Gives an object the annotation of opaque ports, unless it has it: the namespace's, else its own among the defaults.
fn opaque_ports(object: &Value, place: &Place, own: &PortSet) -> Vec<Operation> {
    let mut patch = Patch::of(object.clone());
    if !Pod(object).annotations().contains_key(OPAQUE_PORTS) {
        let own = (!own.is_empty()).then(|| listed(own));
        if let Some(ports) = place.annotations.get(OPAQUE_PORTS).cloned().or(own) {
            patch.set("/metadata/annotations", OPAQUE_PORTS, ports.into());
        }
    }
    patch.end()
}

/// Ports one by one, as others than us read them: defaults have few.
fn listed(ports: &PortSet) -> String {
    let all: Vec<_> = ports
        .ranges()
        .flat_map(|(low, high)| low..=high)
        .map(|port| port.to_string())
        .collect();
    all.join(",")
}

/// Annotations that the Pod has from its namespace, or from the defaults.
fn inherited(pod: &Pod<'_>, place: &Place, at: At, values: &Values) -> Vec<(String, String)> {
    let own = pod.annotations();
    let of_namespace = place.annotations.iter().filter(|(key, _)| {
        let is_wanted = (*key == INJECT && at == At::Namespace) || annotations::is_inherited(key);
        is_wanted && !own.contains_key(*key)
    });
    let mut all: Vec<_> = of_namespace
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let is_said = |annotations: &Annotations| annotations.contains_key(OPAQUE_PORTS);
    let ports = pod.declared(&values.proxy.opaque_ports);
    if !is_said(&own) && !is_said(&place.annotations) && !ports.is_empty() {
        all.push((OPAQUE_PORTS.to_owned(), listed(&ports)));
    }
    all
}

/// The values for one Pod.
fn values_of(
    mesh: &Mesh,
    values: &Values,
    place: &Place,
    annotations: &Annotations,
) -> (Values, Vec<String>) {
    let mut values = values.clone();
    // Merged, where the Pod has a list of its own.
    if let Some(Ok(list)) = place
        .annotations
        .get(annotations::ADDITIONAL_ENV)
        .map(|text| annotations::env(text))
    {
        annotations::merge_env(&mut values.proxy.additional_env, list);
    }
    let (mut values, mut warnings) = annotations::overridden(&values, annotations);
    if values.proxy.native_sidecar && !mesh.has_native_sidecars {
        values.proxy.native_sidecar = false;
        if annotations.contains_key("config.linkerd.io/proxy-enable-native-sidecar") {
            warnings
                .push("native sidecars need Kubernetes 1.29: the sidecar is a container".into());
        }
    }
    (values, warnings)
}

/// Labels and annotations that say what was done.
fn describe(
    patch: &mut Patch,
    mesh: &Mesh,
    values: &Values,
    place: &Place,
    warnings: &mut Vec<String>,
) {
    let labels = "/metadata/labels";
    patch.set(
        labels,
        names::CONTROL_PLANE_NS,
        mesh.namespace.as_str().into(),
    );
    patch.set(labels, names::WORKLOAD_NS, place.namespace.as_str().into());
    if let Some(owner) = &place.owner {
        let kind = owner.kind.to_lowercase();
        if owner.name.len() > MAX_LABEL {
            warnings.push(format!(
                "no label linkerd.io/proxy-{kind}: the name is longer than {MAX_LABEL}"
            ));
        } else if OWNERS.contains(&kind.as_str()) {
            let key = format!("linkerd.io/proxy-{kind}");
            patch.set(labels, &key, owner.name.as_str().into());
        }
    }
    let annotations = "/metadata/annotations";
    let version = match values.proxy.image.version.as_str() {
        "" => values.version(),
        version => version,
    };
    patch.set(
        annotations,
        names::CREATED_BY,
        mesh.created_by.as_str().into(),
    );
    patch.set(annotations, names::PROXY_VERSION, version.into());
    let anchors = values.identity_trust_anchors_pem.as_bytes();
    patch.set(annotations, names::TRUST_ROOT, sha256(anchors).into());
}

fn sha256(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Adds containers and volumes.
fn add(patch: &mut Patch, proxy: Value, values: &Values) {
    for volume in container::volumes(values) {
        patch.insert("/spec/volumes", None, volume);
    }
    let first = container::has_init(values).then(|| container::init(values));
    let first =
        first.or_else(|| container::has_validator(values).then(|| container::validator(values)));
    let (init, all) = ("/spec/initContainers", "/spec/containers");
    if values.proxy.native_sidecar {
        // Later init containers are in the mesh.
        let place = usize::from(first.is_some());
        if let Some(first) = first {
            patch.insert(init, Some(0), first);
        }
        patch.insert(init, Some(place), proxy);
    } else {
        if let Some(first) = first {
            patch.insert(init, None, first);
        }
        // Whoever is first is waited for by those that follow.
        patch.insert(all, values.proxy.awaits.then_some(0), proxy);
    }
    if values.proxy.enable_debug_sidecar {
        patch.insert(all, None, container::debug(values));
    }
}

#[cfg(test)]
mod tests;
