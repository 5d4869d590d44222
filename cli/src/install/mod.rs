//! `linkerd install`, `upgrade`, `prune`, `uninstall`: what a cluster is to have, or to have no longer, as manifests. The charts are
//! in this binary and are rendered as Helm renders them.
//!
//! | module | what |
//! |---|---|
//! | `api_ports` | which ports the API server has |
//! | `flags` | which values flags stand for |
//! | `trust` | whether sidecars that run will believe the issuer |
//! | `prune` | what an earlier version has left behind |
//! | `uninstall` | what there is to delete |
//! | `namespace` | labels and annotations of the namespace, in a Job of the chart |

mod api_ports;
pub(crate) mod flags;
pub(crate) mod namespace;
pub(crate) mod prune;
mod trust;
pub(crate) mod uninstall;

use crate::{
    cluster::{self, Cluster, Which},
    outcome::{Failure, Outcome, show},
};
use flags::ValueFlags;
use linkerd_charts::{Chart, InvalidValues, Release, RenderError, Values, render};
use linkerd_tls::ca::Ca;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::SystemTime};

/// The Secret with the values that an installation was made with, for `linkerd upgrade`.
const OVERRIDES: &str = "linkerd-config-overrides";

#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    /// The definitions of the mesh's kinds, to be applied before the rest:
    /// linkerd install --crds | kubectl apply --server-side -f -
    #[arg(long)]
    crds: bool,
    /// Look at no cluster, neither whether the definitions are there nor whether an installation is.
    #[arg(long)]
    ignore_cluster: bool,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    values: ValueFlags,
    /// Form of the manifests.
    #[arg(long, short, value_enum, default_value_t)]
    output: Form,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Upgrade {
    /// The definitions of the mesh's kinds, to be applied before the rest.
    #[arg(long)]
    crds: bool,
    /// The manifests of the installation, in place of the cluster; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    from_manifests: Option<String>,
    /// Even if sidecars that run would not believe the issuer.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    values: ValueFlags,
    /// Form of the manifests.
    #[arg(long, short, value_enum, default_value_t)]
    output: Form,
}

/// How manifests are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    #[default]
    Yaml,
    Json,
}

/// `linkerd install`.
pub(crate) async fn install(flags: Install) -> Result<Outcome, Failure> {
    let namespace = flags.which.namespace();
    if flags.crds {
        let objects = rendered(Chart::Crds, namespace, &Values::default())?;
        return print(&objects, flags.output);
    }
    let mut values = flags.values.read()?;
    let mut objects = control_plane(namespace, &values)?;
    if !flags.ignore_cluster {
        let cluster = Cluster::connect(&flags.which).await.map_err(|failure| {
            failure.hint("linkerd install --ignore-cluster looks at no cluster")
        })?;
        cluster.has_definitions().await?;
        if cluster.config_map("linkerd-config").await?.is_some() {
            return Err(Failure::new(format!(
                "there is an installation in the namespace {namespace} already: the ConfigMap linkerd-config"
            ))
            .hint("linkerd upgrade | kubectl apply -f - changes it; linkerd uninstall | kubectl delete -f - takes it away"));
        }
        if api_ports::add(&cluster, &mut values).await? {
            objects = control_plane(namespace, &values)?;
        }
    }
    print(&objects, flags.output)
}

/// `linkerd upgrade`.
pub(crate) async fn upgrade(flags: Upgrade) -> Result<Outcome, Failure> {
    let namespace = flags.which.namespace();
    if flags.crds {
        let objects = rendered(Chart::Crds, namespace, &Values::default())?;
        return print(&objects, flags.output);
    }
    let mut values = Values::default();
    let (cluster, stored) = match &flags.from_manifests {
        Some(file) => (None, overrides_in(&flags::read(file)?, file)?),
        None => {
            let cluster = Cluster::connect(&flags.which).await?;
            let stored = stored(&cluster, namespace).await?;
            (Some(cluster), stored)
        }
    };
    values
        .add_yaml(&format!("Secret {OVERRIDES}"), &stored)
        .map_err(invalid)?;
    flags.values.read_over(&mut values)?;
    let objects = control_plane(namespace, &values)?;
    if let Some(cluster) = cluster.filter(|_| !flags.force) {
        trust::refuse_unbelieved(&cluster, &values).await?;
    }
    print(&objects, flags.output)
}

/// The values of the installation that a cluster has.
async fn stored(cluster: &Cluster, namespace: &str) -> Result<String, Failure> {
    cluster.has_definitions().await?;
    if let Some(secret) = cluster.secret(OVERRIDES).await? {
        return cluster::text(&secret, OVERRIDES).ok_or_else(|| {
            Failure::new(format!("the Secret {OVERRIDES} has no key {OVERRIDES}"))
                .hint("linkerd install --ignore-cluster with all of the installation's values")
        });
    }
    Err(match cluster.config_map("linkerd-config").await? {
        Some(_) => Failure::new(format!(
            "the installation in the namespace {namespace} was not made by linkerd install: there is no Secret {OVERRIDES}"
        ))
        .hint("helm upgrade, if Helm made it"),
        None => Failure::new(format!("there is no installation in the namespace {namespace}"))
            .hint("linkerd install | kubectl apply -f -, or -L with another namespace"),
    })
}

/// The same from manifests, as `linkerd install` and `kubectl get -o yaml` write them.
fn overrides_in(text: &str, file: &str) -> Result<String, Failure> {
    let is_it = |object: &Value| {
        object.get("kind") == Some(&"Secret".into())
            && object.pointer("/metadata/name") == Some(&OVERRIDES.into())
    };
    for document in serde_norway::Deserializer::from_str(text) {
        let object: Value = serde::Deserialize::deserialize(document)
            .map_err(|error: serde_norway::Error| Failure::new(format!("{file}: {error}")))?;
        let items = object.get("items").and_then(Value::as_array);
        let mut all = items.into_iter().flatten().chain([&object]);
        if let Some(secret) = all.find(|object| is_it(object)) {
            let found = cluster::text(secret, OVERRIDES);
            return found.ok_or_else(|| {
                Failure::new(format!(
                    "{file}: the Secret {OVERRIDES} has no key {OVERRIDES}"
                ))
            });
        }
    }
    Err(
        Failure::new(format!("{file}: there is no Secret {OVERRIDES} in it"))
            .hint("the whole output of linkerd install is wanted"),
    )
}

/// An issuer that is among the values can sign, and leads to the anchors that are.
fn check_issuer(values: &Value) -> Result<(), Failure> {
    let text = |path: &str| {
        values
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let certificate = text("/identity/issuer/tls/crtPEM");
    let (key, anchors) = (
        text("/identity/issuer/tls/keyPEM"),
        text("/identityTrustAnchorsPEM"),
    );
    // What is missing the chart says; what somebody else keeps is not ours to see.
    if [certificate, key, anchors].contains(&"") {
        return Ok(());
    }
    let failed = |error: &dyn std::error::Error| {
        Failure::new(format!(
            "the issuer (identity.issuer.tls) cannot be used: {error}"
        ))
        .hint("linkerd identity inspect FILE says what a certificate is")
    };
    let ca = Ca::load_with_anchors(certificate, key, anchors).map_err(|error| failed(&error))?;
    ca.verify_now(SystemTime::now())
        .map_err(|error| failed(&error))
}

/// The objects of the control plane, with the Secret that keeps what they were made with.
fn control_plane(namespace: &str, values: &Values) -> Result<Vec<Value>, Failure> {
    let mut objects = rendered(Chart::ControlPlane, namespace, values)?;
    let text = serde_norway::to_string(values.fields())
        .map_err(|error| Failure::new(format!("the values cannot be written: {error}")))?;
    objects.push(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": OVERRIDES, "namespace": namespace,
            "labels": {
                "linkerd.io/control-plane-component": "controller",
                "linkerd.io/control-plane-ns": namespace,
            },
        },
        "stringData": {OVERRIDES: text},
    }));
    Ok(objects)
}

fn rendered(chart: Chart, namespace: &str, values: &Values) -> Result<Vec<Value>, Failure> {
    let values = values.over_defaults(chart).map_err(invalid)?;
    check_issuer(&values)?;
    let release = Release {
        name: chart.name(),
        namespace,
        service: "CLI",
    };
    render(chart, &release, &values).map_err(|error| match error {
        RenderError::Refused(reason) => Failure::usage(reason),
        other => Failure::new(other.to_string()),
    })
}

fn invalid(error: InvalidValues) -> Failure {
    Failure::usage(error.to_string())
        .hint("the values are listed in charts/linkerd-control-plane/README.md")
}

/// How many Pods there are, and the first of their namespaces.
fn counted<N: AsRef<str>>(pods: &BTreeMap<N, usize>) -> (usize, String) {
    /// Most namespaces that are named.
    const NAMED: usize = 5;
    let names: Vec<&str> = pods.keys().take(NAMED).map(AsRef::as_ref).collect();
    let more = if pods.len() > NAMED { ", ..." } else { "" };
    (pods.values().sum(), names.join(", ") + more)
}

pub(crate) fn print(objects: &[Value], form: Form) -> Result<Outcome, Failure> {
    let mut text = String::new();
    for object in objects {
        match form {
            Form::Yaml => {
                let document = serde_norway::to_string(object).map_err(|error| {
                    Failure::new(format!("a manifest cannot be written: {error}"))
                })?;
                text.push_str("---\n");
                text.push_str(&document);
            }
            Form::Json => {
                text.push_str(&object.to_string());
                text.push('\n');
            }
        }
    }
    show(&text)?;
    Ok(Outcome::Good)
}
