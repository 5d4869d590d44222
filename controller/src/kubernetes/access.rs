//! What this process may do, asked of the API server when it starts: a right that is missing is named in the log and on
//! `/ready`, and not guessed from what does not happen.
//!
//! Source: `authorization.k8s.io/v1` SelfSubjectAccessReview, which everybody may create.

use super::{lease, reported::PLURALS, watch::served};
use crate::certificates::Webhook;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, Client, api::PostParams};
use linkerd_policy::{manifest::KINDS, resource::discovery::DISCOVERY_GROUP};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Rights that are asked about at the same time.
const AT_ONCE: usize = 8;
/// Between two times that what is missing is asked about.
const AGAIN: Duration = Duration::from_secs(5);

/// What a process does, and so which rights it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// It knows the objects of the mesh.
    pub(crate) is_watching: bool,
    /// It writes statuses.
    pub(crate) has_statuses: bool,
    /// It writes EndpointSlices.
    pub(crate) has_slices: bool,
    /// It reads Secrets of other clusters.
    pub(crate) has_clusters: bool,
    /// It judges tokens.
    pub(crate) has_tokens: bool,
    /// It injects sidecars; whether it makes its webhook's certificate.
    pub(crate) injects: Option<bool>,
    /// The control plane's namespace.
    pub(crate) namespace: String,
}

/// A right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// What may be done.
    pub verb: &'static str,
    /// To what, with the subresource: `httproutes/status`.
    pub resource: String,
    /// Its group.
    pub group: &'static str,
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only to the one of this name.
    pub name: Option<&'static str>,
    /// Without it nothing can be served.
    is_needed: bool,
}

/// Everything that an injector does at an API server, beside what everybody may. `makes_certificate`: of its webhook.
pub fn of_injector(namespace: &str, makes_certificate: bool) -> Vec<Right> {
    let anywhere = [
        ("", "namespaces", &["list", "watch"][..], true),
        // Whom a Pod belongs to in the end.
        ("apps", "replicasets", &["get"], false),
        ("batch", "jobs", &["get"], false),
        ("", "events", &["create"], false),
    ];
    let rights = |(group, resource, verbs, is_needed): (_, &str, &[&'static str], _)| {
        let one = |verb: &&'static str| Right {
            verb,
            resource: resource.to_owned(),
            group,
            namespace: None,
            name: None,
            is_needed,
        };
        verbs.iter().map(one).collect::<Vec<_>>()
    };
    let mut all: Vec<Right> = anywhere.into_iter().flat_map(rights).collect();
    if makes_certificate {
        let webhook = Webhook::INJECTOR;
        let configuration = (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations",
            &["get", "list", "watch", "patch"][..],
            false,
        );
        all.extend(rights(configuration).into_iter().map(|right| Right {
            name: Some(webhook.configuration),
            ..right
        }));
        let secret = (
            "",
            "secrets",
            &["get", "list", "watch", "update"][..],
            false,
        );
        all.extend(rights(secret).into_iter().map(|right| Right {
            name: Some(webhook.secret),
            namespace: Some(namespace.to_owned()),
            ..right
        }));
    }
    all
}

/// Rights that are missing, as far as is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access(Arc<Mutex<Option<String>>>);

impl Access {
    /// What this process cannot serve without, and may not.
    pub(crate) fn lacks(&self) -> Option<String> {
        let missing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = missing.as_ref()?;
        Some(format!("the right to {missing} of the API server"))
    }

    fn set(&self, missing: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    /// Asks until nothing is missing any more.
    pub(crate) async fn review(self, client: Client, needs: Needs) {
        let mut rights = loop {
            match needs.rights(&client).await {
                Ok(rights) => break rights,
                // Whoever lists and watches says that the API server is away.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        };
        let mut said = String::new();
        loop {
            let answers = answers(&client, rights).await;
            let denied = |right: &&Answered| right.1 == Some(false);
            let denied: Vec<&Right> = answers.iter().filter(denied).map(|(r, _)| r).collect();
            let needed = denied.iter().copied().filter(|right| right.is_needed);
            self.set(Some(text(needed)).filter(|text| !text.is_empty()));
            let all = text(denied.into_iter());
            if all != said && !all.is_empty() {
                tracing::error!(
                    missing = all,
                    "The API server does not let this process do what it is for: give its account these rights"
                );
            }
            said = all;
            rights = answers.into_iter().map(|(right, _)| right).collect();
            if rights.is_empty() {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// A right and whether there is it, as far as the API server says.
type Answered = (Right, Option<bool>);

/// Asks about rights; those that there are are left out of the answer.
async fn answers(client: &Client, rights: Vec<Right>) -> Vec<Answered> {
    let reviews = rights.into_iter().map(|right| async {
        let allowed = right.is_given(client).await.ok();
        (right, allowed)
    });
    let answers = stream::iter(reviews).buffered(AT_ONCE);
    let missing = answers.filter(|(_, allowed)| std::future::ready(*allowed != Some(true)));
    missing.collect().await
}

/// `list, watch servers.policy.linkerd.io; patch httproutes/status.policy.linkerd.io`.
fn text<'a>(rights: impl Iterator<Item = &'a Right>) -> String {
    let mut verbs = BTreeMap::<String, Vec<&str>>::new();
    for right in rights {
        verbs.entry(right.object()).or_default().push(right.verb);
    }
    let each = verbs.iter();
    let each: Vec<_> = each
        .map(|(object, verbs)| format!("{} {object}", verbs.join(", ")))
        .collect();
    each.join("; ")
}

impl Right {
    async fn is_given(&self, client: &Client) -> Result<bool, kube::Error> {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (self.resource.as_str(), None),
        };
        let attributes = ResourceAttributes {
            group: Some(self.group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource,
            verb: Some(self.verb.to_owned()),
            namespace: self.namespace.clone(),
            name: self.name.map(str::to_owned),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let api = Api::<SelfSubjectAccessReview>::all(client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// As `kubectl auth can-i` and messages of API servers name it.
    fn object(&self) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        let name = self.name.map(|name| format!(" {name}"));
        let place = self.namespace.as_ref().map(|place| format!(" in {place}"));
        format!(
            "{}{dot}{}{}{}",
            self.resource,
            self.group,
            name.unwrap_or_default(),
            place.unwrap_or_default()
        )
    }
}

impl Needs {
    /// The rights that are needed, as far as the API server serves the kinds.
    async fn rights(&self, client: &Client) -> Result<Vec<Right>, kube::Error> {
        let mut rights = Vec::new();
        for (kind, (group, name, _)) in KINDS.iter().enumerate() {
            if !self.is_watching {
                break;
            }
            let Some(resource) = served(client, kind).await? else {
                continue;
            };
            let right = |verb, resource: String, is_needed| Right {
                verb,
                resource,
                group,
                namespace: None,
                name: None,
                is_needed,
            };
            for verb in ["list", "watch"] {
                rights.push(right(verb, resource.plural.clone(), true));
            }
            let has_status = PLURALS.iter().any(|(kind, _)| kind == name);
            if self.has_statuses && has_status {
                let status = format!("{}/status", resource.plural);
                rights.push(right("patch", status, false));
            }
            if self.has_slices && *group == DISCOVERY_GROUP {
                for verb in ["create", "update", "delete"] {
                    rights.push(right(verb, resource.plural.clone(), false));
                }
            }
        }
        rights.extend(self.leases());
        rights.extend(self.secrets());
        if self.has_tokens {
            rights.push(Right {
                verb: "create",
                resource: "tokenreviews".to_owned(),
                group: "authentication.k8s.io",
                namespace: None,
                name: None,
                is_needed: true,
            });
            rights.push(Right {
                verb: "create",
                resource: "events".to_owned(),
                group: "",
                namespace: None,
                name: None,
                is_needed: false,
            });
        }
        if let Some(makes_certificate) = self.injects {
            rights.extend(of_injector(&self.namespace, makes_certificate));
        }
        Ok(rights)
    }

    /// Without them Services of this cluster are served all the same.
    fn secrets(&self) -> Vec<Right> {
        let verbs = ["list", "watch"];
        let verbs = verbs.into_iter().filter(|_| self.has_clusters);
        let rights = verbs.map(|verb| Right {
            verb,
            resource: "secrets".to_owned(),
            group: "",
            namespace: Some(self.namespace.clone()),
            name: None,
            is_needed: false,
        });
        rights.collect()
    }

    fn leases(&self) -> Vec<Right> {
        let held = [
            (self.has_statuses, lease::STATUSES),
            (self.has_slices, lease::SLICES),
        ];
        let held = held.into_iter().filter(|(is_held, _)| *is_held);
        let rights = held.flat_map(|(_, lease)| {
            ["get", "update"].map(|verb| Right {
                verb,
                resource: "leases".to_owned(),
                group: "coordination.k8s.io",
                namespace: Some(self.namespace.clone()),
                name: Some(lease.name),
                is_needed: false,
            })
        });
        rights.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_by_object() {
        let right = |verb, resource: &str, group| Right {
            verb,
            resource: resource.to_owned(),
            group,
            namespace: None,
            name: None,
            is_needed: true,
        };
        let rights = [
            right("list", "servers", "policy.linkerd.io"),
            right("watch", "servers", "policy.linkerd.io"),
            right("list", "pods", ""),
            Right {
                namespace: Some("linkerd".to_owned()),
                name: Some("one"),
                ..right("update", "leases", "coordination.k8s.io")
            },
        ];
        let wanted = "update leases.coordination.k8s.io one in linkerd; list pods; list, watch servers.policy.linkerd.io";
        assert_eq!(text(rights.iter()), wanted);
    }
}
