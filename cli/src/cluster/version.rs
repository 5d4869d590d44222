//! `linkerd version`: of this program, of the control plane, of sidecars.

use super::{
    Cluster, Which,
    workload::{is_up, sidecar, text},
};
use crate::outcome::{Failure, Outcome, plain, show};
use serde_json::Value;
use std::collections::BTreeMap;

/// What is printed where nothing can be said.
const UNAVAILABLE: &str = "unavailable";

#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Only the version of this program; no cluster is asked.
    #[arg(long, conflicts_with = "proxy")]
    client: bool,
    /// The versions alone, one a line.
    #[arg(long)]
    short: bool,
    /// And the versions of sidecars, with how many Pods have each.
    #[arg(long)]
    proxy: bool,
    /// Namespace of the Pods of --proxy; absent: all.
    #[arg(long, short)]
    namespace: Option<String>,
    #[command(flatten)]
    which: Which,
}

/// The version of this program.
pub(crate) const OURS: &str = env!("CARGO_PKG_VERSION");

/// `linkerd version`. A cluster that does not say leaves its lines `unavailable`, and why is said on standard error: what
/// this program is can be asked anywhere.
pub(crate) async fn run(flags: Flags) -> Result<Outcome, Failure> {
    let mut seen = Seen {
        is_short: flags.short,
        text: String::new(),
    };
    seen.one("Client", OURS);
    if !flags.client {
        match Cluster::connect(&flags.which).await {
            Ok(cluster) => ask(&cluster, &flags, &mut seen).await,
            Err(failure) => {
                eprintln!("linkerd: {failure}");
                seen.one("Server", UNAVAILABLE);
                if flags.proxy {
                    seen.proxies(&BTreeMap::new());
                }
            }
        }
    }
    show(&seen.text)?;
    Ok(Outcome::Good)
}

async fn ask(cluster: &Cluster, flags: &Flags, seen: &mut Seen) {
    let said = |failure: Failure| eprintln!("linkerd: {failure}");
    let version = match of_control_plane(cluster).await {
        Ok(Some(version)) => version,
        Ok(None) => {
            said(
                Failure::new(format!(
                    "there is no control plane in the namespace {}",
                    cluster.namespace
                ))
                .hint("linkerd check; -L names another namespace"),
            );
            UNAVAILABLE.to_owned()
        }
        Err(failure) => {
            said(failure);
            UNAVAILABLE.to_owned()
        }
    };
    seen.one("Server", &version);
    if flags.proxy {
        let counted = of_sidecars(cluster, flags.namespace.as_deref()).await;
        seen.proxies(&counted.unwrap_or_else(|failure| {
            said(failure);
            BTreeMap::new()
        }));
    }
}

/// The version that a control plane's Deployment says; `None` if there is no such Deployment.
pub(crate) async fn of_control_plane(cluster: &Cluster) -> Result<Option<String>, Failure> {
    let path = format!(
        "/apis/apps/v1/namespaces/{}/deployments/linkerd-destination",
        cluster.namespace
    );
    let deployment = cluster.get(&path).await?;
    Ok(deployment.map(|deployment| {
        let labels = deployment.pointer("/metadata/labels");
        let version = labels.and_then(|labels| labels.get("app.kubernetes.io/version")?.as_str());
        version.unwrap_or("unknown").to_owned()
    }))
}

/// How many Pods of this control plane have a sidecar of each version.
async fn of_sidecars(
    cluster: &Cluster,
    namespace: Option<&str>,
) -> Result<BTreeMap<String, usize>, Failure> {
    let list = match namespace {
        Some(name) => format!("/api/v1/namespaces/{name}/pods"),
        None => "/api/v1/pods".to_owned(),
    };
    let selector = format!("linkerd.io/control-plane-ns={}", cluster.namespace);
    let query = crate::fetch::query(&[("labelSelector", Some(&selector))]);
    let mut counted = BTreeMap::new();
    for pod in cluster.list(&list, &query).await? {
        if let Some(version) = of_pod(&pod).filter(|_| is_up(&pod)) {
            *counted.entry(version).or_default() += 1;
        }
    }
    Ok(counted)
}

/// The version of a Pod's sidecar, if it has one: what injected it says so, or else the tag of the image.
fn of_pod(pod: &Value) -> Option<String> {
    let sidecar = sidecar(pod)?;
    let annotations = pod.pointer("/metadata/annotations");
    let said = annotations.and_then(|all| all.get("linkerd.io/proxy-version")?.as_str());
    // A port of a registry is no tag, and a digest comes after it.
    let image = text(sidecar, "/image");
    let name = image.split('@').next().unwrap_or_default();
    let tag = name
        .rsplit('/')
        .next()
        .and_then(|last| last.split_once(':'));
    let version = said
        .or_else(|| tag.map(|(_, tag)| tag))
        .unwrap_or("unknown");
    Some(version.to_owned())
}

/// What is printed.
struct Seen {
    is_short: bool,
    text: String,
}

impl Seen {
    fn one(&mut self, of: &str, version: &str) {
        let version = plain(version);
        self.text += &if self.is_short {
            format!("{version}\n")
        } else {
            format!("{of} version: {version}\n")
        };
    }

    fn proxies(&mut self, counted: &BTreeMap<String, usize>) {
        if counted.is_empty() {
            self.text += &if self.is_short {
                format!("{UNAVAILABLE}\n")
            } else {
                format!("Proxy versions: {UNAVAILABLE}\n")
            };
            return;
        }
        if !self.is_short {
            self.text.push_str("Proxy versions:\n");
        }
        for (version, pods) in counted {
            let version = plain(version);
            self.text += &if self.is_short {
                format!("{version}\n")
            } else {
                format!("\t{version} ({pods} pods)\n")
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_version_of_a_sidecar_is_what_injected_it_or_the_tag_of_its_image() {
        let pod = |annotations: Value, container: &str, image: &str| {
            json!({
                "metadata": {"annotations": annotations},
                "spec": {"initContainers": [{"name": container, "image": image}]},
            })
        };
        let said = json!({"linkerd.io/proxy-version": "v2"});
        for (annotations, container, image, version) in [
            (said.clone(), "linkerd-proxy", "proxy:v1", Some("v2")),
            (json!({}), "linkerd-proxy", "proxy:v1", Some("v1")),
            (
                Value::Null,
                "linkerd-proxy",
                "mirror:5000/proxy:v3@sha256:00",
                Some("v3"),
            ),
            (
                json!({}),
                "linkerd-proxy",
                "mirror:5000/proxy",
                Some("unknown"),
            ),
            (said, "app", "proxy:v1", None),
        ] {
            let found = of_pod(&pod(annotations, container, image));
            assert_eq!(found.as_deref(), version, "{image}");
        }
    }

    #[test]
    fn short_is_the_versions_alone() {
        let print = |is_short| {
            let mut seen = Seen {
                is_short,
                text: String::new(),
            };
            seen.one("Client", "1");
            seen.one("Server", UNAVAILABLE);
            seen.proxies(&BTreeMap::from([
                ("2".to_owned(), 3),
                ("v\u{1b}".to_owned(), 1),
            ]));
            seen.proxies(&BTreeMap::new());
            seen.text
        };
        assert_eq!(
            print(false),
            "Client version: 1\nServer version: unavailable\nProxy versions:\n\t2 (3 pods)\n\tv\u{fffd} (1 pods)\n\
             Proxy versions: unavailable\n"
        );
        assert_eq!(print(true), "1\nunavailable\n2\nv\u{fffd}\nunavailable\n");
    }
}
