//! Whether a control plane could be installed: is there one, and may whoever asks create what the charts have?

use super::{Category, Check, Found, clocks};
use crate::{cluster::Cluster, outcome::Failure};
use http::Request;
use serde_json::{Value, json};

/// What the charts have: words, group, resource, whether it is in the namespace.
const CREATED: [(&str, &str, &str, bool); 15] = [
    ("Namespaces", "", "namespaces", false),
    (
        "ClusterRoles",
        "rbac.authorization.k8s.io",
        "clusterroles",
        false,
    ),
    (
        "ClusterRoleBindings",
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        false,
    ),
    (
        "CustomResourceDefinitions",
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        false,
    ),
    (
        "MutatingWebhookConfigurations",
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        false,
    ),
    (
        "ValidatingWebhookConfigurations",
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        false,
    ),
    ("ServiceAccounts", "", "serviceaccounts", true),
    ("Services", "", "services", true),
    ("Deployments", "apps", "deployments", true),
    ("Jobs", "batch", "jobs", true),
    ("ConfigMaps", "", "configmaps", true),
    ("Secrets", "", "secrets", true),
    ("Roles", "rbac.authorization.k8s.io", "roles", true),
    (
        "RoleBindings",
        "rbac.authorization.k8s.io",
        "rolebindings",
        true,
    ),
    ("Leases", "coordination.k8s.io", "leases", true),
];

pub(super) async fn category(cluster: &Cluster) -> Result<Category, Failure> {
    let namespace = &cluster.namespace;
    let mut checks = vec![Check::new(
        "control plane is not installed yet",
        match cluster.config_map("linkerd-config").await {
            Ok(None) => Found::Good,
            Ok(Some(_)) => Found::error(
                format!("the namespace {namespace} has the ConfigMap linkerd-config"),
                "linkerd upgrade | kubectl apply -f - changes what is there; -L names another namespace",
            ),
            Err(failure) => Found::error(failure.to_string(), "kubectl auth can-i get configmaps"),
        },
    )];
    for (kind, group, resource, is_namespaced) in CREATED {
        let what = format!("can create {kind}");
        let (verdict, reason) = may(cluster, group, resource, is_namespaced).await?;
        let full = if group.is_empty() {
            resource.to_owned()
        } else {
            format!("{resource}.{group}")
        };
        let place = if is_namespaced {
            format!(" -n {namespace}")
        } else {
            String::new()
        };
        let found = if verdict {
            Found::Good
        } else {
            let why = if reason.is_empty() {
                "you may not".to_owned()
            } else {
                reason
            };
            Found::error(
                why,
                format!(
                    "kubectl auth can-i create {full}{place}; somebody with the right must install, or give it to you"
                ),
            )
        };
        checks.push(Check::new(what, found));
    }
    checks.push(clocks::check(cluster).await);
    Ok(Category {
        name: "pre-kubernetes-setup",
        checks,
    })
}

/// Whether whoever asks may create it, and what the API server says about that.
async fn may(
    cluster: &Cluster,
    group: &str,
    resource: &str,
    is_namespaced: bool,
) -> Result<(bool, String), Failure> {
    let namespace = if is_namespaced {
        cluster.namespace.as_str()
    } else {
        ""
    };
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "namespace": namespace, "verb": "create", "group": group, "resource": resource,
        }},
    });
    let request = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header("content-type", "application/json")
        .body(review.to_string().into_bytes())
        .map_err(|error| Failure::new(error.to_string()))?;
    let answer: Value = cluster
        .client
        .request(request)
        .await
        .map_err(|error| crate::cluster::asking("SelfSubjectAccessReview", &error))?;
    let is_allowed = answer.pointer("/status/allowed") == Some(&true.into());
    let reason = answer.pointer("/status/reason").and_then(Value::as_str);
    Ok((is_allowed, reason.unwrap_or_default().to_owned()))
}
