//! `linkerd namespace-metadata`: gives a namespace labels and annotations. The Job of the chart runs it after an installation
//! by Helm, since charts do not own namespaces.

use crate::outcome::{Failure, Outcome, show};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Map, Value, json};

#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// The namespace.
    #[arg(long, short)]
    namespace: String,
    /// A label; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// An annotation; may be repeated.
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = pair)]
    annotations: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is wanted".to_owned()),
    }
}

/// Adds what is given, and takes nothing away. Needs the right to patch this namespace, and no other.
pub(crate) async fn run(flags: Flags) -> Result<Outcome, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::new(format!("the namespace {}: {error}", flags.namespace))
    };
    let config = Config::infer().await.map_err(|error| failed(&error))?;
    let client = Client::try_from(config).map_err(|error| failed(&error))?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Namespace"));
    let map = |pairs: &[(String, String)]| -> Map<String, Value> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| (key.clone(), value.as_str().into()))
            .collect()
    };
    let change = json!({"metadata": {
        "labels": map(&flags.labels), "annotations": map(&flags.annotations),
    }});
    Api::<DynamicObject>::all_with(client, &resource)
        .patch_metadata(
            &flags.namespace,
            &PatchParams::default(),
            &Patch::Merge(&change),
        )
        .await
        .map_err(|error| failed(&error))?;
    show(&format!(
        "the namespace {} has its labels and annotations\n",
        flags.namespace
    ))?;
    Ok(Outcome::Good)
}
