//! A control plane that may not do what it is for says what is missing, and is not ready before it can serve.

use crate::{control_plane::ControlPlane, policy::namespace, server::ApiServer};
use linkerd_tests::eventually;
use serde_json::{Value, json};
use std::{fs, path::PathBuf};
use tempfile::TempDir;

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

/// Lets the account `linkerd/controller` do this.
async fn allow(api: &ApiServer, rules: &[Value]) {
    let metadata = json!({"name": "controller"});
    let version = "rbac.authorization.k8s.io/v1";
    let role =
        json!({"apiVersion": version, "kind": "ClusterRole", "metadata": metadata, "rules": rules});
    let binding = json!({
        "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "controller"},
        "subjects": [{"kind": "ServiceAccount", "name": "controller", "namespace": "linkerd"}],
    });
    for object in [role, binding] {
        api.apply(&object).await;
    }
}

/// A kubeconfig of that account.
async fn account(api: &ApiServer, folder: &TempDir) -> PathBuf {
    api.apply(&namespace("linkerd")).await;
    api.apply(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "controller", "namespace": "linkerd"},
    }))
    .await;
    let audience = "https://kubernetes.default.svc.cluster.local";
    let token = api.token("linkerd", "controller", audience).await;
    let text = fs::read_to_string(api.kubeconfig()).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({"token": token});
    let path = folder.path().join("kubeconfig");
    fs::write(&path, config.to_string()).unwrap();
    path
}

async fn waits_for(plane: &ControlPlane, wanted: &str) {
    let mut last = None;
    eventually(wanted, async || {
        last = plane.page("/ready").await;
        let (status, text) = last.as_ref()?;
        (*status == 503 && text.contains(wanted)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_missing_right_is_named_and_waited_for_and_so_is_a_webhooks_certificate() {
    let Some(api) = ApiServer::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = account(&api, &folder).await;
    let read = ["list", "watch"];
    let others = [
        rule(&[""], &["namespaces", "nodes", "pods", "services"], &read),
        rule(&["apps"], &["replicasets"], &read),
        rule(&["batch"], &["jobs"], &read),
        rule(&["discovery.k8s.io"], &["endpointslices"], &read),
        rule(&["linkerd.io", "workload.linkerd.io"], &["*"], &read),
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
    ];
    let of_policy = [
        "serverauthorizations",
        "authorizationpolicies",
        "meshtlsauthentications",
        "networkauthentications",
        "httproutes",
        "httplocalratelimitpolicies",
        "egressnetworks",
    ];
    let policy = rule(&["policy.linkerd.io"], &of_policy, &read);
    let unwatched = rule(&["policy.linkerd.io"], &["servers"], &["list"]);
    let mut rules = others.to_vec();
    rules.extend([policy, unwatched]);
    allow(&api, &rules).await;
    let plane = ControlPlane::spawn_with(kubeconfig, &["--webhook-certificates"]);
    waits_for(
        &plane,
        "the right to watch servers.policy.linkerd.io of the API server",
    )
    .await;
    let log = plane.log();
    for right in [
        "watch servers.policy.linkerd.io",
        "patch httproutes/status.policy.linkerd.io",
        "create, update, delete endpointslices.discovery.k8s.io",
        "get, update leases.coordination.k8s.io policy-controller-write in linkerd",
    ] {
        assert!(log.contains(right), "{right}: {log}");
    }
    assert!(!log.contains("list servers"), "{log}");

    rules.push(rule(&["policy.linkerd.io"], &["servers"], &["watch"]));
    allow(&api, &rules).await;
    waits_for(&plane, "the certificates of the validating webhooks").await;
    rules.push(rule(
        &[""],
        &["secrets"],
        &["get", "list", "watch", "create", "update"],
    ));
    let webhooks = ["validatingwebhookconfigurations"];
    let keep = ["get", "list", "watch", "patch"];
    rules.push(rule(&["admissionregistration.k8s.io"], &webhooks, &keep));
    allow(&api, &rules).await;
    eventually("readiness", async || {
        let (status, _) = plane.page("/ready").await?;
        (status == 200).then_some(())
    })
    .await;
}
