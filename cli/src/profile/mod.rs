//! `linkerd profile`: a ServiceProfile as a manifest: an example to fill in, or the routes of an OpenAPI document or of gRPC
//! services. What is printed has been read by the code that reads profiles in the cluster.
//!
//! | module | what |
//! |---|---|
//! | `open_api` | routes of an OpenAPI document |
//! | `proto` | routes of gRPC services |

mod open_api;
mod proto;

use crate::{
    cluster::{Cluster, Which},
    install::{self, Form, flags::read},
    outcome::{Failure, Outcome, show},
};
use linkerd_controller::token;
use linkerd_policy::manifest;
use serde_json::{Value, json};

/// An example. `SERVICE`, `NAMESPACE` and `DOMAIN` are put in.
const TEMPLATE: &str = include_str!("template.yaml");

#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// The Service.
    service: String,
    #[command(flatten)]
    from: From,
    /// Namespace of the Service; absent: that of the kubeconfig's context.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Domain of the cluster; absent: that of the control plane.
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// Ask no cluster: the domain is cluster.local, unless --cluster-domain says another.
    #[arg(long)]
    ignore_cluster: bool,
    #[command(flatten)]
    which: Which,
    /// Form of the manifest.
    #[arg(long, short, value_enum, default_value_t)]
    output: Form,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct From {
    /// An example of all that a profile can say.
    #[arg(long)]
    template: bool,
    /// A route for each operation of an OpenAPI document of version 2 or 3, YAML or JSON; - is standard input.
    #[arg(long, value_name = "FILE")]
    open_api: Option<String>,
    /// A route for each method of the gRPC services of a .proto file; - is standard input.
    #[arg(long, value_name = "FILE")]
    proto: Option<String>,
}

/// What a source can not be taken for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
struct Unusable {
    /// A field, or a line.
    place: String,
    reason: String,
}

impl Unusable {
    fn new(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            reason: reason.into(),
        }
    }
}

/// `linkerd profile`.
pub(crate) async fn run(flags: Flags) -> Result<Outcome, Failure> {
    let of = Place::of(&flags).await?;
    let named = |file: &str, error: Unusable| Failure::new(format!("{file}: {error}"));
    let routes = match (&flags.from.open_api, &flags.from.proto) {
        (Some(file), _) => open_api::routes(&read(file)?).map_err(|error| named(file, error))?,
        (None, Some(file)) => proto::routes(&read(file)?).map_err(|error| named(file, error))?,
        (None, None) => {
            let text = of.template();
            let profile: Value = serde_norway::from_str(&text)
                .map_err(|error| Failure::new(format!("the example cannot be read: {error}")))?;
            checked(&profile)?;
            return match flags.output {
                Form::Yaml => show(&text).map(|()| Outcome::Good),
                Form::Json => install::print(&[profile], flags.output),
            };
        }
    };
    let profile = of.profile(&routes);
    checked(&profile)?;
    install::print(&[profile], flags.output)
}

/// Whose profile it is.
#[derive(Debug)]
struct Place {
    service: String,
    namespace: String,
    domain: String,
}

impl Place {
    async fn of(flags: &Flags) -> Result<Self, Failure> {
        is_label("SERVICE", &flags.service)?;
        if let Some(namespace) = &flags.namespace {
            is_label("--namespace", namespace)?;
        }
        let (namespace, domain) = match (&flags.cluster_domain, flags.ignore_cluster) {
            (Some(domain), _) => (flags.which.default_namespace().await, domain.clone()),
            (None, true) => (
                flags.which.default_namespace().await,
                "cluster.local".to_owned(),
            ),
            (None, false) => {
                let cluster = Cluster::connect(&flags.which).await;
                let cluster = cluster.map_err(|failure| {
                    failure.hint("linkerd profile --ignore-cluster, if the cluster's domain is cluster.local, or --cluster-domain")
                })?;
                let settings = cluster.settings().await?;
                (cluster.default_namespace, settings.cluster_domain)
            }
        };
        Ok(Self {
            service: flags.service.clone(),
            namespace: flags.namespace.clone().unwrap_or(namespace),
            domain: domain.trim_end_matches('.').to_owned(),
        })
    }

    fn template(&self) -> String {
        TEMPLATE
            .replace("SERVICE", &self.service)
            .replace("NAMESPACE", &self.namespace)
            .replace("DOMAIN", &self.domain)
    }

    fn profile(&self, routes: &[Value]) -> Value {
        json!({
            "apiVersion": "linkerd.io/v1alpha2", "kind": "ServiceProfile",
            "metadata": {
                "name": format!("{}.{}.svc.{}", self.service, self.namespace, self.domain),
                "namespace": self.namespace,
            },
            "spec": {"routes": routes},
        })
    }
}

/// Names become part of a name in DNS.
fn is_label(what: &str, text: &str) -> Result<(), Failure> {
    if token::is_label(text) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{what}: {text:?} is no DNS label; write the name alone, of a-z, 0-9 and -, like web"
    )))
}

/// What the cluster would refuse is not printed.
fn checked(profile: &Value) -> Result<(), Failure> {
    manifest::from_value(profile.clone())
        .map(drop)
        .map_err(|error| Failure::new(format!("the cluster would not take the profile: {error}")))
}

/// An expression for exactly this text.
fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_can_be_read_and_says_all_that_a_profile_can() {
        let place = Place {
            service: "web".to_owned(),
            namespace: "shop".to_owned(),
            domain: "cluster.local".to_owned(),
        };
        let profile: Value = serde_norway::from_str(&place.template()).unwrap();
        checked(&profile).unwrap();
        let name = "web.shop.svc.cluster.local";
        assert_eq!(profile["metadata"]["name"], name);
        assert_eq!(profile["metadata"]["namespace"], "shop");
        let text = profile["spec"].to_string();
        for field in [
            "condition",
            "pathRegex",
            "method",
            "all",
            "any",
            "not",
            "responseClasses",
            "isFailure",
            "isRetryable",
            "timeout",
            "retryBudget",
            "dstOverrides",
        ] {
            assert!(text.contains(&format!("\"{field}\":")), "{field}");
        }
    }

    #[test]
    fn names_that_are_no_labels_are_refused() {
        for wrong in ["", "a.b", "Web", "-a", "a-", "a/b", &"a".repeat(64)] {
            assert!(is_label("SERVICE", wrong).is_err(), "{wrong}");
        }
        is_label("SERVICE", "web-2").unwrap();
    }

    #[test]
    fn what_is_quoted_means_itself() {
        let text = r"/a.b/(c)+$[d]{e}^|*?\";
        assert_eq!(quoted("/shop.v1.Orders/List"), r"/shop\.v1\.Orders/List");
        assert_eq!(quoted(text).len(), text.len() + 14);
    }
}
