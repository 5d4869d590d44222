//! `linkerd prune`: what an earlier version has left behind, as manifests without anything but names.

use super::{Chart, Form, Values, Which, control_plane, invalid, print, rendered, stored};
use crate::{
    cluster::{Cluster, asking},
    outcome::{Failure, Outcome},
};
use kube::{
    ResourceExt as _,
    api::ListParams,
    core::{DynamicObject, PartialObjectMeta},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What installations consist of, or have consisted of, in the order in which it may go.
const KINDS: [(&str, &str, &str); 26] = [
    (
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
    ),
    ("apiregistration.k8s.io", "v1", "APIService"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "DaemonSet"),
    ("apps", "v1", "StatefulSet"),
    ("batch", "v1", "CronJob"),
    ("batch", "v1", "Job"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("", "v1", "Service"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "Secret"),
    ("coordination.k8s.io", "v1", "Lease"),
    ("policy.linkerd.io", "v1beta3", "Server"),
    ("policy.linkerd.io", "v1beta3", "HTTPRoute"),
    ("policy.linkerd.io", "v1beta1", "ServerAuthorization"),
    ("policy.linkerd.io", "v1alpha1", "AuthorizationPolicy"),
    ("policy.linkerd.io", "v1alpha1", "MeshTLSAuthentication"),
    ("policy.linkerd.io", "v1alpha1", "NetworkAuthentication"),
    ("linkerd.io", "v1alpha2", "ServiceProfile"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
    ("rbac.authorization.k8s.io", "v1", "Role"),
    ("", "v1", "ServiceAccount"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
];

/// Says of an object that the control plane has made it while it ran.
const CREATED_BY: (&str, &str) = ("linkerd.io/created-by", "linkerd/controller");
/// Says of an object that it is to stay.
const KEPT: (&str, &str) = ("helm.sh/resource-policy", "keep");

#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    which: Which,
    /// Form of the manifests.
    #[arg(long, short, value_enum, default_value_t)]
    output: Form,
}

/// Group, kind, namespace and name.
type Key = [String; 4];

/// Prints what the installation would not have if it were made now: linkerd prune | kubectl delete -f -
pub(crate) async fn run(flags: Flags) -> Result<Outcome, Failure> {
    let cluster = Cluster::connect(&flags.which).await?;
    let namespace = flags.which.namespace();
    let mut values = Values::default();
    values
        .add_yaml(
            "the values of the installation",
            &stored(&cluster, namespace).await?,
        )
        .map_err(invalid)?;
    let mut wanted: BTreeSet<Key> = BTreeSet::new();
    for objects in [
        control_plane(namespace, &values)?,
        rendered(Chart::Crds, namespace, &Values::default())?,
    ] {
        wanted.extend(objects.iter().map(key));
    }
    let mut extra = Vec::new();
    for (group, version, kind) in KINDS {
        for found in labelled(&cluster, (group, version, kind)).await? {
            let object = named((group, version, kind), &found);
            if !stays(&found) && !wanted.contains(&key(&object)) {
                extra.push(object);
            }
        }
    }
    if extra.is_empty() {
        eprintln!("There is nothing that the installation does not have.");
    }
    print(&extra, flags.output)
}

/// Objects of a kind that say they are the control plane's; none of a kind that is not served.
async fn labelled(
    cluster: &Cluster,
    (group, version, kind): (&str, &str, &str),
) -> Result<Vec<PartialObjectMeta<DynamicObject>>, Failure> {
    let of_ours = format!("linkerd.io/control-plane-ns={}", cluster.namespace);
    let list = ListParams::default().labels(&of_ours);
    match cluster.all(group, version, kind).list_metadata(&list).await {
        Ok(found) => Ok(found.items),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(asking(kind, &error)),
    }
}

/// Whether an object is not an installation's own: what has an owner goes with that, what the control plane has made is in
/// use, and some are to be kept.
fn stays(found: &PartialObjectMeta<DynamicObject>) -> bool {
    let says = |(name, value): (&str, &str)| {
        let annotation = found.annotations().get(name);
        annotation.is_some_and(|annotation| annotation == value)
    };
    !found.owner_references().is_empty() || says(CREATED_BY) || says(KEPT)
}

fn key(object: &Value) -> Key {
    let text = |path: &str| {
        let text = object.pointer(path).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let version = text("/apiVersion");
    // Whichever version: it is the same object.
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let place = text("/metadata/namespace");
    [
        group.to_owned(),
        text("/kind"),
        place,
        text("/metadata/name"),
    ]
}

fn named(
    (group, version, kind): (&str, &str, &str),
    found: &PartialObjectMeta<DynamicObject>,
) -> Value {
    let version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    let mut object = json!({
        "apiVersion": version, "kind": kind, "metadata": {"name": found.name_any()},
    });
    if let (Some(namespace), Some(metadata)) = (
        found.namespace(),
        object.get_mut("metadata").and_then(Value::as_object_mut),
    ) {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    object
}
