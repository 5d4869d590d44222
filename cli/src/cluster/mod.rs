//! A Kubernetes cluster, as commands see it.
//!
//! | module | what |
//! |---|---|
//! | `check` | `linkerd check`: of a cluster, and of a directory that runs |
//! | `workload` | `KIND/NAME`, as kubectl has it, and its Pods |
//! | `forward` | a connection to a port of a Pod |
//! | `authz` | `linkerd authz` |
//! | `diagnostics`, `metrics` | what the control plane's APIs say; metrics |
//! | `obfuscate` | metrics without names |
//! | `identity` | the certificates that Pods' sidecars show |
//! | `version` | `linkerd version` |

pub(crate) mod authz;
pub(crate) mod check;
pub(crate) mod diagnostics;
pub(crate) mod forward;
pub(crate) mod identity;
pub(crate) mod metrics;
mod obfuscate;
pub(crate) mod version;
pub(crate) mod workload;

use crate::outcome::Failure;
use http::Request;
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    config::{KubeConfigOptions, Kubeconfig},
};
use linkerd_controller::kubernetes::list::{Listed, list};
use linkerd_policy::index;
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

/// How long a cluster may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Objects in one page of a list.
const PAGE: usize = 500;

/// Which cluster and namespace.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Which {
    /// Namespace of the control plane.
    #[arg(
        id = "control_plane_namespace",
        long = "linkerd-namespace",
        value_name = "NAMESPACE",
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
    /// Who asks, in place of who is in the kubeconfig, if that one may say so.
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
    /// Groups that the one of --as is in; may be repeated.
    #[arg(long = "as-group", value_name = "GROUP", requires = "user")]
    groups: Vec<String>,
}

impl Which {
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The namespace of the kubeconfig's context; `default` without a kubeconfig.
    pub(crate) async fn default_namespace(&self) -> String {
        let config = self.config().await;
        config.map_or_else(|_| "default".to_owned(), |config| config.default_namespace)
    }

    async fn config(&self) -> Result<Config, Failure> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config = match (&self.kubeconfig, &self.context) {
            (Some(file), _) => {
                let read = Kubeconfig::read_from(file).map_err(|error| cannot_ask(&error))?;
                Config::from_custom_kubeconfig(read, &options)
                    .await
                    .map_err(|error| cannot_ask(&error))?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options)
                .await
                .map_err(|error| cannot_ask(&error))?,
            (None, None) => Config::infer().await.map_err(|error| cannot_ask(&error))?,
        };
        if let Some(user) = &self.user {
            // And nothing of whom the kubeconfig names.
            config.auth_info.impersonate = Some(user.clone());
            config.auth_info.impersonate_groups = Some(self.groups.clone());
            config.auth_info.impersonate_uid = None;
            config.auth_info.impersonate_user_extra = None;
        }
        Ok(config)
    }
}

fn cannot_ask(error: &dyn std::error::Error) -> Failure {
    Failure::new(format!("the cluster cannot be asked: {}", chain(error)))
}

/// A cluster that answers.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// Of the control plane.
    pub(crate) namespace: String,
    /// That of the kubeconfig's context, where none is named.
    pub(crate) default_namespace: String,
    /// Major and minor of the API server.
    pub(crate) version: (u32, u32),
}

impl Cluster {
    pub(crate) async fn connect(which: &Which) -> Result<Self, Failure> {
        let config = which.config().await?;
        let default_namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| cannot_ask(&error))?;
        let asked = tokio::time::timeout(LIMIT, client.apiserver_version()).await;
        let version = match asked {
            Ok(Ok(version)) => version,
            Ok(Err(error)) => return Err(cannot_ask(&error)),
            Err(_) => {
                return Err(Failure::new(format!(
                    "the cluster did not answer in {LIMIT:?}"
                )));
            }
        };
        // Some say "29+".
        let number = |text: &str| text.trim_end_matches('+').parse().unwrap_or_default();
        Ok(Self {
            client,
            namespace: which.namespace.clone(),
            default_namespace,
            version: (number(&version.major), number(&version.minor)),
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

    /// An object by its path; `None` if there is none.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Value>, Failure> {
        match self.ask(path).await {
            Ok(value) => Ok(Some(value)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(asking(path, &error)),
        }
    }

    pub(crate) async fn ask(&self, path: &str) -> Result<Value, kube::Error> {
        let request = Request::get(path).body(Vec::new());
        let request = request.map_err(|error| {
            kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(error))
        })?;
        self.client.request(request).await
    }

    /// All objects of a list, page by page; none of a kind that is not served. `query`: a selector, encoded.
    pub(crate) async fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        let mut more = String::new();
        loop {
            let page = format!("{path}?limit={PAGE}&{query}{more}");
            let Some(mut list) = self.get(&page).await? else {
                return Ok(items);
            };
            if let Some(Value::Array(page)) = list.get_mut("items").map(Value::take) {
                items.extend(page);
            }
            match list.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(next) if !next.is_empty() => {
                    more = format!("&{}", crate::fetch::query(&[("continue", Some(next))]));
                }
                _ => return Ok(items),
            }
        }
    }

    /// The settings of the control plane that runs: those of its container's arguments.
    pub(crate) async fn settings(&self) -> Result<index::Cluster, Failure> {
        use clap::Parser as _;
        let path = format!(
            "/apis/apps/v1/namespaces/{}/deployments/linkerd-destination",
            self.namespace
        );
        let deployment = self.get(&path).await?.unwrap_or_default();
        let containers = deployment.pointer("/spec/template/spec/containers");
        let containers = containers.and_then(Value::as_array).into_iter().flatten();
        let parsed = containers
            .filter_map(|container| container.get("args")?.as_array())
            .filter_map(|args| {
                let words = args.iter().filter_map(Value::as_str);
                let flags =
                    linkerd_controller::Flags::try_parse_from(["linkerd"].into_iter().chain(words));
                Some(linkerd_controller::Config::from(flags.ok()?).cluster)
            })
            .next();
        Ok(parsed.unwrap_or_else(|| {
            eprintln!(
                "warning: the arguments of the Deployment linkerd-destination in {} cannot be read: the chart's defaults are assumed",
                self.namespace
            );
            index::Cluster {
                control_plane_namespace: self.namespace.clone(),
                ..index::Cluster::default()
            }
        }))
    }

    /// The objects that policy is made of, of all namespaces, without Pods. What is wrong with some is said.
    pub(crate) async fn policy(&self) -> Result<index::Index, Failure> {
        const OTHERS: [&str; 6] = [
            "Pod",
            "Node",
            "EndpointSlice",
            "ReplicaSet",
            "Job",
            "TrafficSplit",
        ];
        let settings = self.settings().await?;
        let listed = list(&self.client, settings, |kind| !OTHERS.contains(&kind)).await;
        let Listed { index, problems } = listed.map_err(|error| {
            Failure::new(chain(&error))
                .hint("kubectl auth can-i --list: what it names must be listed")
        })?;
        for problem in &problems {
            eprintln!("warning: {}", crate::outcome::plain(&problem.to_string()));
        }
        Ok(index)
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
    pub(crate) fn all(&self, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::all_with(self.client.clone(), &resource)
    }
}

pub(crate) fn asking(what: &str, error: &kube::Error) -> Failure {
    Failure::new(format!("{what} cannot be asked for: {}", chain(error)))
}

/// An error with what it comes from.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
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
pub(crate) fn text(secret: &Value, key: &str) -> Option<String> {
    if let Some(plain) = secret.get("stringData").and_then(|data| data.get(key)) {
        return plain.as_str().map(str::to_owned);
    }
    let data: k8s_openapi::ByteString =
        serde_json::from_value(secret.get("data")?.get(key)?.clone()).ok()?;
    String::from_utf8(data.0).ok()
}
