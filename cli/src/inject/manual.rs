//! Where the sidecar of `--manual` comes from: the cluster's values, a file's, or the defaults.

use super::object::{self, Sidecar};
use crate::outcome::Failure;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use linkerd_controller::{inject::Values, kubernetes::Kubernetes};
use std::{fs, path::PathBuf, time::Duration};

/// How long the API server may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Native sidecars are on by default from this minor version of Kubernetes on.
const NATIVE_SIDECARS: u32 = 29;

#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// Asks no cluster: with --manual, the sidecar is made of the chart's defaults, or of --values.
    #[arg(long)]
    ignore_cluster: bool,
    /// The chart's values, YAML, for --manual; identityTrustAnchorsPEM has to be among them.
    #[arg(long, value_name = "FILE", requires = "manual")]
    values: Option<PathBuf>,
    /// Namespace of the control plane.
    #[arg(long, short = 'L', default_value = "linkerd", value_name = "NAMESPACE")]
    linkerd_namespace: String,
    /// Context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl Source {
    /// What a sidecar is made of.
    pub(super) async fn sidecar(&self) -> Result<Sidecar, Failure> {
        let (mut values, mut is_new) = (Values::default(), true);
        if !self.ignore_cluster {
            let asked = tokio::time::timeout(LIMIT, self.cluster()).await;
            let asked = asked.unwrap_or_else(|_| Err(format!("no answer in {LIMIT:?}")));
            (values, is_new) = asked.map_err(|error| {
                Failure::new(format!(
                    "the cluster's values cannot be read: {error}; --ignore-cluster --values FILE does without"
                ))
            })?;
        }
        if let Some(path) = &self.values {
            let named = |error: String| Failure::new(format!("{}: {error}", path.display()));
            let text = fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
            values = Values::from_yaml(&text).map_err(|error| named(error.to_string()))?;
        }
        Ok(Sidecar {
            mesh: object::mesh(&self.linkerd_namespace, is_new),
            values,
        })
    }

    /// The values of the cluster, and whether it has native sidecars.
    async fn cluster(&self) -> Result<(Values, bool), String> {
        let kubernetes = Kubernetes {
            context: self.context.clone(),
        };
        let client = kubernetes
            .client()
            .await
            .map_err(|error| error.to_string())?;
        let text = self.entry(&client, "linkerd-config", "values").await?;
        let mut values = Values::from_yaml(&text).map_err(|error| error.to_string())?;
        if values.identity_trust_anchors_pem.trim().is_empty() {
            let (map, key) = ("linkerd-identity-trust-roots", "ca-bundle.crt");
            values.identity_trust_anchors_pem = self.entry(&client, map, key).await?;
        }
        let version = client.apiserver_version().await;
        let version = version.map_err(|error| error.to_string())?;
        let digits = version
            .minor
            .trim_end_matches(|last: char| !last.is_ascii_digit());
        let minor = digits.parse().unwrap_or(NATIVE_SIDECARS);
        Ok((values, version.major != "1" || minor >= NATIVE_SIDECARS))
    }

    async fn entry(&self, client: &Client, map: &str, key: &str) -> Result<String, String> {
        let api = Api::<ConfigMap>::namespaced(client.clone(), &self.linkerd_namespace);
        let map = api.get(map).await.map_err(|error| error.to_string())?;
        let data = map.data.unwrap_or_default();
        data.get(key)
            .cloned()
            .ok_or_else(|| format!("the ConfigMap has no `{key}`"))
    }
}
