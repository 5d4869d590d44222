//! The control plane: its objects, its Pods, who writes statuses.

use super::{Category, Check, Found, networks};
use crate::{
    cluster::{
        Cluster, asking,
        version::{self, OURS},
        workload::{is_ready, is_up, text},
    },
    outcome::Failure,
};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Deployments of the control plane.
pub(super) const COMPONENTS: [&str; 3] = [
    "linkerd-destination",
    "linkerd-identity",
    "linkerd-proxy-injector",
];
/// Applies an installation again.
const UPGRADE: &str = "linkerd upgrade | kubectl apply -f -";

/// Whether there is an installation whose Pods run. The first check says whether there is one at all.
pub(super) async fn existence(cluster: &Cluster) -> Result<Category, Failure> {
    let namespace = &cluster.namespace;
    let mut checks = Vec::new();
    let config = cluster.config_map("linkerd-config").await;
    checks.push(Check::new(
        "'linkerd-config' config map exists",
        match &config {
            Err(failure) => Found::error(failure.to_string(), format!("kubectl -n {namespace} auth can-i get configmaps")),
            Ok(None) => Found::error(
                format!("there is no control plane in the namespace {namespace}"),
                "linkerd install --crds | kubectl apply --server-side -f - && linkerd install | kubectl apply -f -; -L names another namespace",
            ),
            Ok(Some(map)) => match linkerd_controller::inject::Values::from_yaml(text(map, "/data/values")) {
                Ok(_) => Found::Good,
                Err(error) => Found::error(format!("its values cannot be read: {error}"), UPGRADE),
            },
        },
    ));
    let list = format!("/api/v1/namespaces/{namespace}/pods");
    let query =
        crate::fetch::query(&[("labelSelector", Some("linkerd.io/control-plane-component"))]);
    let pods = cluster.list(&list, &query).await?;
    let mut missing = Vec::new();
    for name in COMPONENTS {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
        match cluster.get(&path).await? {
            None => missing.push(format!("the Deployment {name} is missing")),
            Some(deployment) => {
                let count = |at: &str| {
                    deployment
                        .pointer(at)
                        .and_then(Value::as_u64)
                        .unwrap_or_default()
                };
                let (wanted, ready) = (count("/spec/replicas"), count("/status/readyReplicas"));
                if ready < wanted {
                    missing.push(format!(
                        "the Deployment {name} has {ready} of {wanted} Pods ready"
                    ));
                }
            }
        }
    }
    let hint = format!(
        "kubectl -n {namespace} get deployments,replicasets,pods; kubectl -n {namespace} get events"
    );
    checks.push(Check::new(
        "control plane replica sets are ready",
        Found::if_none(&missing, |text| Found::not_yet(text, hint)),
    ));
    checks.push(unschedulable(&pods, namespace));
    let mut up = pods.iter().filter(|pod| is_up(pod) && !is_ready(pod));
    let first = up.next().map(|pod| text(pod, "/metadata/name"));
    let unready: Vec<String> = pods
        .iter()
        .filter(|pod| is_up(pod) && !is_ready(pod))
        .map(why_unready)
        .collect();
    let hint = format!(
        "kubectl -n {namespace} describe pods; kubectl -n {namespace} logs {} --all-containers",
        first.unwrap_or_default()
    );
    checks.push(Check::new(
        "control plane pods are ready",
        Found::if_none(&unready, |text| Found::not_yet(text, hint)),
    ));
    if let Ok(Some(map)) = config {
        checks.extend(networks::checks(cluster, text(&map, "/data/values")).await);
    }
    Ok(Category {
        name: "linkerd-existence",
        checks,
    })
}

/// Whether the control plane is of the same version as this program, which renders its charts.
pub(super) async fn version(cluster: &Cluster, expected: &str) -> Result<Category, Failure> {
    let what = "control plane and cli versions match";
    let theirs = version::of_control_plane(cluster).await?;
    let theirs = theirs.as_deref().unwrap_or("unknown");
    let said = if expected == OURS {
        format!("the control plane is of version {theirs}, and this program of {OURS}")
    } else {
        format!("the control plane is of version {theirs}, and {expected} is expected")
    };
    let found = if theirs == expected {
        Found::Good
    } else {
        Found::warning(
            said,
            format!(
                "{UPGRADE} brings the control plane to {OURS}; or take the linkerd of {theirs}"
            ),
        )
    };
    Ok(Category {
        name: "control-plane-version",
        checks: vec![Check::new(what, found)],
    })
}

/// The Pod, and the container that holds it up.
pub(super) fn why_unready(pod: &Value) -> String {
    let name = text(pod, "/metadata/name");
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let statuses = lists
        .iter()
        .filter_map(|at| pod.pointer(at)?.as_array())
        .flatten();
    let mut unready = statuses.filter(|status| {
        status.get("ready") == Some(&false.into())
            && status.pointer("/state/terminated/exitCode") != Some(&0.into())
    });
    let Some(status) = unready.next() else {
        return format!("the Pod {name} is not ready");
    };
    let container = text(status, "/name");
    match text(status, "/state/waiting/reason") {
        "" => format!("the Pod {name} is not ready: its container {container} is not"),
        reason => format!("the Pod {name} is not ready: its container {container}: {reason}"),
    }
}

fn unschedulable(pods: &[Value], namespace: &str) -> Check {
    let mut waiting = Vec::new();
    for pod in pods {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        for condition in conditions.into_iter().flatten() {
            if text(condition, "/reason") == "Unschedulable" {
                waiting.push(format!(
                    "{}: {}",
                    text(pod, "/metadata/name"),
                    text(condition, "/message")
                ));
            }
        }
    }
    let hint = format!("kubectl -n {namespace} describe pods");
    Check::new(
        "no unschedulable pods",
        Found::if_none(&waiting, |text| Found::not_yet(text, hint)),
    )
}

/// Whether every object of an installation is there.
pub(super) async fn config(cluster: &Cluster) -> Result<Category, Failure> {
    let namespace = &cluster.namespace;
    let mut checks = vec![namespace_metadata(cluster).await?];
    let roles: Vec<String> = ["destination", "identity", "proxy-injector"]
        .map(|name| format!("linkerd-{namespace}-{name}"))
        .to_vec();
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let own = |names: &[&str]| {
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>()
    };
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    for (kind, path, names) in [
        (
            "ClusterRoles",
            format!("{rbac}/clusterroles"),
            roles.clone(),
        ),
        (
            "ClusterRoleBindings",
            format!("{rbac}/clusterrolebindings"),
            roles,
        ),
        ("ServiceAccounts", accounts, own(&COMPONENTS)),
        (
            "MutatingWebhookConfigurations",
            format!("{admission}/mutatingwebhookconfigurations"),
            own(&["linkerd-proxy-injector-webhook-config"]),
        ),
        (
            "ValidatingWebhookConfigurations",
            format!("{admission}/validatingwebhookconfigurations"),
            own(&[
                "linkerd-policy-validator-webhook-config",
                "linkerd-sp-validator-webhook-config",
            ]),
        ),
    ] {
        let what = format!("control plane {kind} exist");
        let mut missing = Vec::new();
        for name in names {
            if cluster.get(&format!("{path}/{name}")).await?.is_none() {
                missing.push(format!("{name} is missing"));
            }
        }
        checks.push(Check::new(
            what,
            Found::if_none(&missing, |text| Found::error(text, UPGRADE)),
        ));
    }
    checks.push(definitions(cluster).await);
    Ok(Category {
        name: "linkerd-config",
        checks,
    })
}

/// Whether the definitions of the mesh's kinds are there.
pub(super) async fn definitions(cluster: &Cluster) -> Check {
    Check::new(
        "control plane CustomResourceDefinitions exist",
        match cluster.has_definitions().await {
            Ok(()) => Found::Good,
            Err(failure) => {
                let said = failure.to_string();
                let what = said.lines().next().unwrap_or_default();
                Found::error(
                    what,
                    "linkerd install --crds | kubectl apply --server-side -f -",
                )
            }
        },
    )
}

/// The labels without which webhooks would be asked about the control plane itself.
async fn namespace_metadata(cluster: &Cluster) -> Result<Check, Failure> {
    let what = "control plane Namespace exists and is labelled";
    let name = &cluster.namespace;
    let Some(namespace) = cluster.get(&format!("/api/v1/namespaces/{name}")).await? else {
        return Ok(Check::error(
            what,
            format!("there is no namespace {name}"),
            format!("kubectl create namespace {name}"),
        ));
    };
    let labels = [
        ("linkerd.io/is-control-plane", "true"),
        ("config.linkerd.io/admission-webhooks", "disabled"),
        ("linkerd.io/control-plane-ns", name.as_str()),
    ];
    let wrong: Vec<String> = labels
        .iter()
        .filter(|(key, value)| {
            namespace
                .pointer("/metadata/labels")
                .and_then(|labels| labels.get(key))
                != Some(&(*value).into())
        })
        .map(|(key, value)| format!("the label {key}={value} is missing"))
        .collect();
    let set: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let hint = format!(
        "kubectl label namespace {name} --overwrite {}",
        set.join(" ")
    );
    Ok(Check::new(
        what,
        Found::if_none(&wrong, |text| Found::warning(text, hint)),
    ))
}

/// Whether some replica of the policy controller writes statuses.
pub(super) async fn policy(cluster: &Cluster) -> Result<Category, Failure> {
    let namespace = &cluster.namespace;
    let name = "policy-controller-write";
    let what = "a policy controller holds the lease for statuses";
    let hint = format!(
        "kubectl -n {namespace} logs deploy/linkerd-destination -c destination; kubectl -n {namespace} get lease {name} -o yaml"
    );
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}");
    let found = match cluster.ask(&path).await {
        Ok(lease) => held(&lease, OffsetDateTime::now_utc())
            .map_or_else(|why| Found::warning(why, hint), |()| Found::Good),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            Found::warning(format!("there is no Lease {name}"), hint)
        }
        Err(error) => return Err(asking(name, &error)),
    };
    Ok(Category {
        name: "linkerd-policy",
        checks: vec![Check::new(what, found)],
    })
}

fn held(lease: &Value, now: OffsetDateTime) -> Result<(), String> {
    let holder = text(lease, "/spec/holderIdentity");
    if holder.is_empty() {
        return Err("nobody holds it: statuses of routes are not written".to_owned());
    }
    let renewed = OffsetDateTime::parse(text(lease, "/spec/renewTime"), &Rfc3339);
    let renewed = renewed.map_err(|_| format!("{holder} holds it and never renewed it"))?;
    let lasts = lease
        .pointer("/spec/leaseDurationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or_default();
    let over = now - renewed - time::Duration::seconds(lasts);
    if over.is_positive() {
        return Err(format!(
            "{holder} let it run out {} s ago: statuses of routes are not written",
            over.whole_seconds()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_lease_counts_while_it_is_held_and_renewed() {
        let now = OffsetDateTime::parse("2026-01-01T00:01:00Z", &Rfc3339).unwrap();
        let lease = |holder: &str, renewed: &str| json!({"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 30}});
        assert_eq!(
            held(&lease("a", "2026-01-01T00:00:40.000000Z"), now),
            Ok(())
        );
        let over = held(&lease("a", "2026-01-01T00:00:20.000000Z"), now);
        assert!(over.unwrap_err().contains("10 s ago"));
        assert!(held(&lease("", "2026-01-01T00:00:40.000000Z"), now).is_err());
        assert!(held(&json!({}), now).is_err());
    }

    #[test]
    fn the_container_that_holds_a_pod_up_is_named() {
        let pod = json!({
            "metadata": {"name": "a"},
            "status": {
                "initContainerStatuses": [{"name": "init", "ready": false, "state": {"terminated": {"exitCode": 0}}}],
                "containerStatuses": [
                    {"name": "good", "ready": true},
                    {"name": "bad", "ready": false, "state": {"waiting": {"reason": "ImagePullBackOff"}}},
                ],
            },
        });
        assert_eq!(
            why_unready(&pod),
            "the Pod a is not ready: its container bad: ImagePullBackOff"
        );
    }
}
