//! `linkerd uninstall`: what there is to delete, as manifests without anything but names.

use super::{Form, Which, counted, print};
use crate::{
    cluster::{Cluster, asking},
    outcome::{Failure, Outcome},
};
use kube::api::ListParams;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What an installation has outside of its namespace.
const KINDS: [(&str, &str, &str); 5] = [
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
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Even if there are Pods with a sidecar.
    #[arg(long, short)]
    force: bool,
    #[command(flatten)]
    which: Which,
    /// Form of the manifests.
    #[arg(long, short, value_enum, default_value_t)]
    output: Form,
}

/// Prints everything that is to be deleted: linkerd uninstall | kubectl delete -f -
pub(crate) async fn run(flags: Flags) -> Result<Outcome, Failure> {
    let cluster = Cluster::connect(&flags.which).await?;
    let namespace = &cluster.namespace;
    let of_ours = ListParams::default().labels(&format!("linkerd.io/control-plane-ns={namespace}"));
    if !flags.force {
        refuse_while_meshed(&cluster, &of_ours).await?;
    }
    let mut objects = Vec::new();
    for (group, version, kind) in KINDS {
        let api = cluster.all(group, version, kind);
        let found = api
            .list_metadata(&of_ours)
            .await
            .map_err(|error| asking(kind, &error))?;
        objects.extend(found.items.into_iter().filter_map(|object| {
            Some(named(
                &format!("{group}/{version}"),
                kind,
                &object.metadata.name?,
            ))
        }));
    }
    let api = cluster.all("", "v1", "Namespace");
    let own = ListParams::default().labels(&format!(
        "linkerd.io/is-control-plane=true,linkerd.io/control-plane-ns={namespace}"
    ));
    let found = api
        .list_metadata(&own)
        .await
        .map_err(|error| asking("Namespace", &error))?;
    // With it goes all that is in it.
    if found
        .items
        .iter()
        .any(|object| object.metadata.name.as_ref() == Some(namespace))
    {
        objects.push(named("v1", "Namespace", namespace));
    }
    if objects.is_empty() {
        return Err(Failure::new(format!(
            "there is no installation in the namespace {namespace}"
        ))
        .hint("-L with another namespace"));
    }
    print(&objects, flags.output)
}

async fn refuse_while_meshed(cluster: &Cluster, of_ours: &ListParams) -> Result<(), Failure> {
    let pods = cluster.all("", "v1", "Pod");
    let pods = pods
        .list_metadata(of_ours)
        .await
        .map_err(|error| asking("Pods", &error))?;
    let mut meshed = BTreeMap::<String, usize>::new();
    for namespace in pods
        .items
        .into_iter()
        .filter_map(|pod| pod.metadata.namespace)
        .filter(|namespace| *namespace != cluster.namespace)
    {
        *meshed.entry(namespace).or_default() += 1;
    }
    if meshed.is_empty() {
        return Ok(());
    }
    let (count, places) = counted(&meshed);
    Err(Failure::new(format!(
        "{count} Pods have a sidecar still, in {places}: they would have no controllers"
    ))
    .hint("uninject them and restart them, or --force"))
}

fn named(version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}})
}
