//! The charts on a real API server, by the real Helm: installed, upgraded, rolled back, uninstalled, and nothing is left. There
//! is no kubelet: the test plays it, and runs the containers of Deployments and Jobs as processes with the arguments that the
//! chart gives them and with the rights of their ServiceAccounts.

use crate::{helm::kubelet::Container, server::ApiServer};
use linkerd_tests::eventually;
use linkerd_tls::ca::{Ca, CaPem};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Output,
};

mod kubelet;
mod privilege;
mod sidecar;
mod walk;

pub(crate) use sidecar::rendered;

const NAMESPACE: &str = "linkerd";

/// Helm with an API server.
struct Helm<'a> {
    program: PathBuf,
    server: &'a ApiServer,
}

impl<'a> Helm<'a> {
    fn find(server: &'a ApiServer) -> Option<Self> {
        let program = crate::server::find("helm");
        if program.is_none() {
            linkerd_tests::skipped(
                "charts on an API server: helm is missing: run cargo xtask tools",
            );
        }
        Some(Self {
            program: program?,
            server,
        })
    }

    async fn run(&self, words: &[&str]) -> Output {
        let home = self.server.kubeconfig();
        let home = home.parent().unwrap().join("helm");
        let mut command = tokio::process::Command::new(&self.program);
        command
            .current_dir(charts())
            .env("KUBECONFIG", self.server.kubeconfig())
            .env("HELM_CACHE_HOME", &home)
            .env("HELM_CONFIG_HOME", &home)
            .env("HELM_DATA_HOME", &home)
            .args(["--namespace", NAMESPACE])
            .args(words)
            .kill_on_drop(true);
        linkerd_tests::within("Helm", command.output())
            .await
            .unwrap()
    }

    async fn good(&self, words: &[&str]) {
        let output = self.run(words).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "helm {words:?}: {text}");
    }

    /// As [`Helm::good`], while the Job of a hook is run.
    async fn with_hook(&self, words: &[&str]) {
        tokio::join!(
            self.good(words),
            kubelet::run_job(self.server, "linkerd-namespace-metadata")
        );
    }
}

fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

/// Every object that the API server has, by its path, but for what comes and goes by itself.
async fn everything(server: &ApiServer) -> BTreeSet<String> {
    let mut groups = vec!["/api/v1".to_owned()];
    let all = server.get("/apis").await.unwrap();
    for group in all["groups"].as_array().unwrap() {
        let version = group["preferredVersion"]["groupVersion"].as_str().unwrap();
        groups.push(format!("/apis/{version}"));
    }
    let mut objects = BTreeSet::new();
    for group in groups {
        // A group whose definitions are being deleted.
        let Some(resources) = server.get(&group).await else {
            continue;
        };
        for resource in resources["resources"].as_array().unwrap() {
            let name = resource["name"].as_str().unwrap();
            let verbs = resource["verbs"].as_array().unwrap();
            if !verbs.contains(&"list".into()) || ["events", "componentstatuses"].contains(&name) {
                continue;
            }
            let Some(list) = server.get(&format!("{group}/{name}")).await else {
                continue;
            };
            for item in list["items"].as_array().unwrap() {
                let metadata = &item["metadata"];
                // Kubernetes puts these into every namespace, in its own time.
                if metadata["name"] == "kube-root-ca.crt" || metadata["name"] == "default" {
                    continue;
                }
                objects.insert(format!(
                    "{group}/{name} {} {}",
                    metadata["namespace"], metadata["name"]
                ));
            }
        }
    }
    objects
}

async fn nothing_is_left(server: &ApiServer, before: &BTreeSet<String>) {
    eventually("that nothing is left", async || {
        let left: BTreeSet<String> = everything(server)
            .await
            .difference(before)
            .cloned()
            .collect();
        // Read where the test fails.
        eprintln!("left: {left:?}");
        left.is_empty().then_some(())
    })
    .await;
}

async fn object(server: &ApiServer, kind: &str, name: &str) -> Option<Value> {
    let (group, kind) = match kind {
        "deployments" => ("apis/apps/v1", kind),
        _ => ("api/v1", kind),
    };
    server
        .get(&format!("/{group}/namespaces/{NAMESPACE}/{kind}/{name}"))
        .await
}

/// What the control plane makes for itself, once it is there.
async fn made(server: &ApiServer) -> Value {
    let secret = |name: &'static str, key: &'static str| async move {
        eventually(name, async || {
            let secret = object(server, "secrets", name).await?;
            secret["data"][key].as_str().map(str::to_owned)
        })
        .await
    };
    let configuration = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/linkerd-policy-validator-webhook-config";
    let bundle = eventually("the caBundle", async || {
        let configuration = server.get(configuration).await?;
        let bundle = &configuration["webhooks"][0]["clientConfig"]["caBundle"];
        bundle.as_str().map(str::to_owned)
    })
    .await;
    let anchors = eventually("the trust anchors", async || {
        let roots = object(server, "configmaps", "linkerd-identity-trust-roots").await?;
        roots["data"]["ca-bundle.crt"].as_str().map(str::to_owned)
    })
    .await;
    json!({
        "policy-validator": secret("linkerd-policy-validator-k8s-tls", "tls.crt").await,
        "sp-validator": secret("linkerd-sp-validator-k8s-tls", "tls.crt").await,
        "proxy-injector": secret("linkerd-proxy-injector-k8s-tls", "tls.crt").await,
        "bundle": bundle,
        "issuer": secret("linkerd-identity-issuer", "crt.pem").await,
        "anchors": anchors,
    })
}

/// Every container of the control plane, running.
async fn components(server: &ApiServer) -> Vec<Container> {
    let mut running = Vec::new();
    for (deployment, container) in [
        ("linkerd-identity", "identity"),
        ("linkerd-destination", "destination"),
        ("linkerd-proxy-injector", "proxy-injector"),
    ] {
        let container = Container::start(server, deployment, container).await;
        container.is_ready().await;
        running.push(container);
    }
    running
}

#[tokio::test]
async fn what_helm_installs_runs_with_the_rights_it_has_keeps_its_certificates_and_leaves_nothing()
{
    let Some(server) = ApiServer::bare().await else {
        return;
    };
    let Some(helm) = Helm::find(&server) else {
        return;
    };
    let before = everything(&server).await;
    helm.good(&[
        "install",
        "linkerd-crds",
        "linkerd-crds",
        "--create-namespace",
    ])
    .await;
    server.defined().await;
    helm.with_hook(&["install", "linkerd-control-plane", "linkerd-control-plane"])
        .await;
    let namespace = server.get("/api/v1/namespaces/linkerd").await.unwrap();
    assert_eq!(
        namespace["metadata"]["labels"]["config.linkerd.io/admission-webhooks"],
        "disabled"
    );
    assert_eq!(
        namespace["metadata"]["labels"]["linkerd.io/is-control-plane"],
        "true"
    );
    assert_eq!(
        namespace["metadata"]["annotations"]["linkerd.io/inject"],
        "disabled"
    );

    let components = components(&server).await;
    privilege::is_least(&server).await;
    let first = made(&server).await;

    helm.with_hook(&[
        "upgrade",
        "linkerd-control-plane",
        "linkerd-control-plane",
        "--set",
        "controllerReplicas=2",
    ])
    .await;
    let replicas = async || {
        object(&server, "deployments", "linkerd-destination")
            .await
            .unwrap()["spec"]["replicas"]
            .clone()
    };
    assert_eq!(replicas().await, 2);
    assert_eq!(made(&server).await, first, "kept across an upgrade");
    helm.good(&["rollback", "linkerd-control-plane", "1"]).await;
    assert_eq!(replicas().await, 1);
    assert_eq!(made(&server).await, first, "kept across a rollback");
    for component in &components {
        component.asked_for_nothing_that_it_may_not();
    }
    drop(components);

    for release in ["linkerd-control-plane", "linkerd-crds"] {
        helm.good(&["uninstall", release]).await;
    }
    // The namespace was not the charts'.
    server
        .delete(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
        .await;
    nothing_is_left(&server, &before).await;
}

/// The real `linkerd` with an API server.
async fn linkerd(server: &ApiServer, words: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(linkerd_tests::binary("linkerd"));
    command
        .args(words)
        .env("KUBECONFIG", server.kubeconfig())
        .kill_on_drop(true);
    linkerd_tests::within("linkerd", command.output())
        .await
        .unwrap()
}

/// What it prints, as objects.
async fn printed(server: &ApiServer, words: &[&str]) -> Vec<Value> {
    let output = linkerd(server, words).await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {text}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn refused(server: &ApiServer, words: &[&str]) -> String {
    let output = linkerd(server, words).await;
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    assert!(output.stdout.is_empty(), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Of two authorities that sign for themselves, where all sidecars believe the first one.
async fn an_issuer_that_sidecars_do_not_believe_is_refused(
    server: &ApiServer,
    [old, new]: [&CaPem; 2],
) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let upgrade = |ca: &CaPem| {
        [
            "upgrade".to_owned(),
            "-o=json".to_owned(),
            format!(
                "--identity-trust-anchors-file={}",
                file("ca.crt", &ca.anchors)
            ),
            format!(
                "--identity-issuer-certificate-file={}",
                file("issuer.crt", &ca.certificates)
            ),
            format!("--identity-issuer-key-file={}", file("issuer.key", &ca.key)),
        ]
    };
    let words = upgrade(old);
    printed(server, &words.each_ref().map(String::as_str)).await;
    let words = upgrade(new);
    let mut words = words.each_ref().map(String::as_str).to_vec();
    let text = refused(server, &words).await;
    let wanted = "1 Pods have a sidecar that does not believe the new issuer (identity.issuer.tls), in default";
    assert!(text.contains(wanted), "{text}");
    words.push("--force");
    printed(server, &words).await;
}

#[tokio::test]
async fn what_the_cli_prints_can_be_applied_upgraded_with_its_values_and_deleted_without_a_rest() {
    let Some(server) = ApiServer::bare().await else {
        return;
    };
    let before = everything(&server).await;
    definitions_come_first(&server).await;
    let api_server = an_api_server_at(16443);
    server.apply(&api_server).await;
    let installed = printed(
        &server,
        &["install", "-o", "json", "--set", "controllerReplicas=2"],
    )
    .await;
    for object in &installed {
        server.apply(object).await;
    }
    passes_its_sidecar_at(&installed, "443,6443,16443");
    let text = refused(&server, &["install"]).await;
    assert!(text.contains("there is an installation"), "{text}");

    let upgraded = printed(
        &server,
        &["upgrade", "-o", "json", "--set", "proxy.logLevel=debug"],
    )
    .await;
    let destination = upgraded.iter().find(|object| {
        object["metadata"]["name"] == "linkerd-destination" && object["kind"] == "Deployment"
    });
    assert_eq!(
        destination.unwrap()["spec"]["replicas"],
        2,
        "as it was installed"
    );
    for object in &upgraded {
        server.apply(object).await;
    }
    passes_its_sidecar_at(&upgraded, "443,6443,16443");
    let config = object(&server, "configmaps", "linkerd-config")
        .await
        .unwrap();
    let values = config["data"]["values"].as_str().unwrap();
    assert!(values.contains("logLevel: debug"), "{values}");
    what_an_earlier_version_left_behind_is_pruned(&server).await;

    let [old, new] = ["old", "new"].map(|name| Ca::create(name).unwrap().to_pem());
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "labels": {"linkerd.io/control-plane-ns": "linkerd"}},
        "spec": {"containers": [
            {"name": "app", "image": "app"},
            {"name": "linkerd-proxy", "image": "proxy", "env": [{
                "name": "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "value": old.anchors,
            }]},
        ]},
    });
    server.apply(&pod).await;
    an_issuer_that_sidecars_do_not_believe_is_refused(&server, [&old, &new]).await;
    let text = refused(&server, &["uninstall"]).await;
    assert!(
        text.contains("1 Pods have a sidecar still, in default"),
        "{text}"
    );
    server.delete(&pod).await;
    for object in printed(&server, &["uninstall", "-o", "json"]).await {
        server.delete(&object).await;
    }
    server.delete(&api_server).await;
    nothing_is_left(&server, &before).await;
    let text = refused(&server, &["uninstall"]).await;
    assert!(text.contains("there is no installation"), "{text}");
}

/// Without the definitions nothing is printed, and without an installation none is upgraded.
async fn definitions_come_first(server: &ApiServer) {
    let text = refused(server, &["install"]).await;
    assert!(
        text.contains("does not know servers.policy.linkerd.io"),
        "{text}"
    );
    assert!(
        text.contains("linkerd install --crds | kubectl apply"),
        "{text}"
    );
    for object in printed(server, &["install", "--crds", "-o", "json"]).await {
        server.apply(&object).await;
    }
    server.defined().await;
    let text = refused(server, &["upgrade"]).await;
    assert!(
        text.contains("there is no installation in the namespace linkerd"),
        "{text}"
    );
}

/// Where a cluster's API server says that it is.
fn an_api_server_at(port: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes-of-this-test", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

/// The ports of others that the control plane's own init containers leave alone.
#[track_caller]
fn passes_its_sidecar_at(objects: &[Value], ports: &str) {
    let deployments = objects
        .iter()
        .filter(|object| object["kind"] == "Deployment");
    let mut count = 0;
    for deployment in deployments {
        let containers = &deployment["spec"]["template"]["spec"]["initContainers"];
        let args = containers[0]["args"].as_array().unwrap();
        assert!(args.contains(&ports.into()), "{args:?}");
        count += 1;
    }
    assert_eq!(count, 3);
}

/// Objects that say they are the control plane's and that it does not have any more, and no others.
async fn what_an_earlier_version_left_behind_is_pruned(server: &ApiServer) {
    assert_eq!(
        printed(server, &["prune", "-o", "json"]).await,
        Vec::<Value>::new()
    );
    let object = |api: &str, kind: &str, namespace: &str, plane: &str| {
        json!({
            "apiVersion": api, "kind": kind,
            "metadata": {
                "name": "linkerd-heartbeat", "namespace": namespace,
                "labels": {"linkerd.io/control-plane-ns": plane},
            },
        })
    };
    let rbac = "rbac.authorization.k8s.io/v1";
    let mut cluster_role = object(rbac, "ClusterRole", "", "linkerd");
    cluster_role["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("namespace");
    let mut job = object("batch/v1", "CronJob", "linkerd", "linkerd");
    job["spec"] = json!({
        "schedule": "0 0 * * *",
        "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}],
        }}}},
    });
    let left = [
        job,
        object("v1", "ConfigMap", "linkerd", "linkerd"),
        cluster_role,
        // What the control plane reads elsewhere has a Role there.
        object(rbac, "Role", "kube-system", "linkerd"),
    ];
    let mut made = object("v1", "Secret", "linkerd", "linkerd");
    made["metadata"]["annotations"] = json!({"linkerd.io/created-by": "linkerd/controller"});
    let mut owned = object("v1", "ConfigMap", "default", "linkerd");
    let owner = format!("/apis/{rbac}/clusterroles/cluster-admin");
    let owner = server.get(&owner).await.unwrap();
    owned["metadata"]["ownerReferences"] = json!([{
        "apiVersion": rbac, "kind": "ClusterRole", "name": "cluster-admin", "uid": owner["metadata"]["uid"],
    }]);
    let others = [
        made,
        owned,
        object("v1", "ConfigMap", "kube-system", "other"),
    ];
    for object in left.iter().chain(&others) {
        server.apply(object).await;
    }
    let printed_now = printed(server, &["prune", "-o", "json"]).await;
    let names = |objects: &[Value]| -> Vec<String> {
        let name = |object: &Value| {
            let (kind, metadata) = (&object["kind"], &object["metadata"]);
            format!("{kind} {} {}", metadata["namespace"], metadata["name"])
        };
        objects.iter().map(name).collect()
    };
    assert_eq!(names(&printed_now), names(&left));
    for object in &printed_now {
        server.delete(object).await;
    }
    assert_eq!(
        printed(server, &["prune", "-o", "json"]).await,
        Vec::<Value>::new()
    );
    for object in &others {
        server.delete(object).await;
    }
}

#[tokio::test]
async fn without_an_init_container_that_sets_rules_every_pod_is_let_into_a_restricted_namespace() {
    let Some(server) = ApiServer::start().await else {
        return;
    };
    for (values, is_restricted) in [
        ("cniEnabled=true", true),
        ("proxy.mode=explicit", true),
        ("cniEnabled=false", false),
    ] {
        let objects = printed(
            &server,
            &["install", "--ignore-cluster", "-o", "json", "--set", values],
        )
        .await;
        let mut seen = 0;
        for object in objects {
            if object["kind"] == "Namespace" {
                let level =
                    object["metadata"]["labels"]["pod-security.kubernetes.io/enforce"].clone();
                assert_eq!(level == "restricted", is_restricted, "{values}");
                let mut restricted = object.clone();
                restricted["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] =
                    "restricted".into();
                server.apply(&restricted).await;
            }
            if object["kind"] == "ServiceAccount" {
                server.apply(&object).await;
            }
            let Some(template) = object
                .pointer("/spec/template")
                .filter(|_| object["kind"] == "Deployment")
            else {
                continue;
            };
            seen += 1;
            let mut pod = template.clone();
            pod["apiVersion"] = "v1".into();
            pod["kind"] = "Pod".into();
            pod["metadata"]["name"] = object["metadata"]["name"].clone();
            pod["metadata"]["namespace"] = NAMESPACE.into();
            let applied = server.try_apply(&pod).await;
            match applied {
                Ok(_) => {
                    assert!(is_restricted, "{values}");
                    server.delete(&pod).await;
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        !is_restricted && text.contains("NET_ADMIN"),
                        "{values}: {text}"
                    );
                    // Nothing but the capabilities of the init container is in the way.
                    for other in [
                        "runAsNonRoot",
                        "seccompProfile",
                        "allowPrivilegeEscalation",
                        "container \"linkerd-proxy\"",
                    ] {
                        assert!(!text.contains(other), "{text}");
                    }
                }
            }
        }
        assert_eq!(seen, 3);
    }
}
