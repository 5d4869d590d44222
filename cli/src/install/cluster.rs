//! What is looked at in the cluster before manifests are printed.

use crate::outcome::Failure;
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

/// How long a cluster may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Which cluster and namespace.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Namespace of the control plane.
    #[arg(
        long = "linkerd-namespace",
        short = 'L',
        default_value = "linkerd",
        env = "LINKERD_NAMESPACE"
    )]
    namespace: String,
    /// The kubeconfig, in place of that of KUBECONFIG or ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl Which {
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// A cluster that answers.
pub(crate) struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: String,
}

impl Cluster {
    pub(crate) async fn connect(which: &Which) -> Result<Self, Failure> {
        let cannot = |error: &dyn std::error::Error| {
            Failure::new(format!("the cluster cannot be asked: {}", chain(error)))
        };
        let options = KubeConfigOptions {
            context: which.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match (&which.kubeconfig, &which.context) {
            (Some(file), _) => {
                let read = Kubeconfig::read_from(file).map_err(|error| cannot(&error))?;
                Config::from_custom_kubeconfig(read, &options)
                    .await
                    .map_err(|error| cannot(&error))?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options)
                .await
                .map_err(|error| cannot(&error))?,
            (None, None) => Config::infer().await.map_err(|error| cannot(&error))?,
        };
        let client = Client::try_from(config).map_err(|error| cannot(&error))?;
        let asked = tokio::time::timeout(LIMIT, client.apiserver_version()).await;
        match asked {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(cannot(&error)),
            Err(_) => {
                return Err(Failure::new(format!(
                    "the cluster did not answer in {LIMIT:?}"
                )));
            }
        }
        Ok(Self {
            client,
            namespace: which.namespace.clone(),
        })
    }

    /// Every definition that the chart has is in the cluster.
    pub(crate) async fn has_definitions(&self) -> Result<(), Failure> {
        let api = self.all("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let mut missing = Vec::new();
        for definition in linkerd_policy::crd::definitions() {
            let name = definition
                .pointer("/metadata/name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if api
                .get_opt(name)
                .await
                .map_err(|error| asking(name, &error))?
                .is_none()
            {
                missing.push(name.to_owned());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(
            Failure::new(format!("the cluster does not know {}", missing.join(", ")))
                .hint("linkerd install --crds | kubectl apply --server-side -f -"),
        )
    }

    pub(crate) async fn config_map(&self, name: &str) -> Result<Option<Value>, Failure> {
        self.own("ConfigMap", name).await
    }

    pub(crate) async fn secret(&self, name: &str) -> Result<Option<Value>, Failure> {
        self.own("Secret", name).await
    }

    /// An object of the control plane's namespace.
    async fn own(&self, kind: &str, name: &str) -> Result<Option<Value>, Failure> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind));
        let api =
            Api::<DynamicObject>::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let found = api
            .get_opt(name)
            .await
            .map_err(|error| asking(name, &error))?;
        Ok(found.and_then(|object| serde_json::to_value(object).ok()))
    }

    /// All objects of a kind.
    pub(super) fn all(&self, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::all_with(self.client.clone(), &resource)
    }
}

pub(super) fn asking(what: &str, error: &kube::Error) -> Failure {
    Failure::new(format!("{what} cannot be asked for: {}", chain(error)))
}

/// An error with what it comes from.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        let said = source.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        at = source.source();
    }
    text
}

/// A key of a Secret, as it is in a cluster or in manifests.
pub(super) fn text(secret: &Value, key: &str) -> Option<String> {
    if let Some(plain) = secret.get("stringData").and_then(|data| data.get(key)) {
        return plain.as_str().map(str::to_owned);
    }
    let data: k8s_openapi::ByteString =
        serde_json::from_value(secret.get("data")?.get(key)?.clone()).ok()?;
    String::from_utf8(data.0).ok()
}
