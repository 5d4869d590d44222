//! `linkerd check`: before there is a control plane, with each thing wrong, and with all right.

use super::{Cli, shows};
use crate::{
    control_plane::ControlPlane,
    policy::{pod, running},
    server::{ApiServer, path},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use linkerd_tests::eventually;
use serde_json::{Value, json};
use std::fs;

/// A kubeconfig of somebody who may do nothing, and one that leads nowhere.
async fn others(api: &ApiServer) -> (Cli, Cli) {
    let folder = api.kubeconfig().parent().unwrap().to_owned();
    let text = fs::read_to_string(api.kubeconfig()).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let token = api
        .token(
            "default",
            "default",
            "https://kubernetes.default.svc.cluster.local",
        )
        .await;
    config["users"][0]["user"] = json!({"token": token});
    let powerless = folder.join("powerless");
    fs::write(&powerless, config.to_string()).unwrap();
    config["clusters"][0]["cluster"]["server"] =
        format!("https://127.0.0.1:{}", crate::free_port()).into();
    let astray = folder.join("astray");
    fs::write(&astray, config.to_string()).unwrap();
    (Cli(powerless), Cli(astray))
}

/// Before there is a control plane: what is missing, and whether it could be installed.
pub(super) async fn before(api: &ApiServer, cli: &Cli) {
    shows("check-pre.txt", &cli.good("check --pre").await);
    skewed(api, cli).await;
    let (powerless, astray) = others(api).await;
    let said = powerless.check("--pre").await;
    said.names(
        1,
        "× can create Deployments",
        "",
        "kubectl auth can-i create deployments.apps -n linkerd",
    );
    assert!(
        said.out.contains("Status check results are ×"),
        "{}",
        said.out
    );
    let said = astray.check("").await;
    said.names(
        1,
        "× can query the Kubernetes API",
        "cannot be asked",
        "kubectl cluster-info",
    );
    let said = cli.check("-o json").await;
    let page: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, &page["success"]), (1, &false.into()));
    assert_eq!(page["categories"][2]["checks"][0]["result"], "error");
    let said = cli.check("-o short").await;
    said.names(
        1,
        "× 'linkerd-config' config map exists",
        "no control plane",
        "linkerd install | kubectl apply -f -",
    );
}

const PODS: &str = "/api/v1/namespaces/linkerd/pods";

const INJECTOR: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/linkerd-proxy-injector-webhook-config";

/// Says of the control plane's Pods whether they are ready, and waits until their Deployments say so too.
async fn kubelet(api: &ApiServer, is_ready: bool) {
    let pods = eventually("the Pods of three Deployments", async || {
        let list = api.get(PODS).await?;
        let pods = list["items"].as_array()?.clone();
        (pods.len() == 3).then_some(pods)
    })
    .await;
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let mut status = running(name, "127.77.5.9");
        status["metadata"]["namespace"] = "linkerd".into();
        status["status"]["conditions"][0]["status"] =
            if is_ready { "True" } else { "False" }.into();
        api.set_status(&status).await;
    }
    eventually("the Deployments' counts", async || {
        let list = api
            .get("/apis/apps/v1/namespaces/linkerd/deployments")
            .await?;
        let mut all = list["items"].as_array()?.iter();
        let wanted = u64::from(is_ready);
        all.all(|one| one["status"]["readyReplicas"].as_u64().unwrap_or_default() == wanted)
            .then_some(())
    })
    .await;
}

/// The injector's certificate, brought by somebody.
pub(super) async fn bring_injectors_certificate(api: &ApiServer) {
    let name = "linkerd-proxy-injector.linkerd.svc".to_owned();
    let certified = rcgen::generate_simple_self_signed([name]).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "linkerd-proxy-injector-k8s-tls", "namespace": "linkerd"},
        "stringData": {"tls.crt": certified.cert.pem(), "tls.key": certified.signing_key.serialize_pem()},
    });
    api.apply(&secret).await;
    set_bundle(api, &certified.cert.pem()).await;
}

async fn set_bundle(api: &ApiServer, bundle: &str) {
    let mut found = api.get(INJECTOR).await.unwrap();
    found["webhooks"][0]["clientConfig"]["caBundle"] = STANDARD.encode(bundle).into();
    api.merge(INJECTOR, &json!({"webhooks": found["webhooks"]}))
        .await;
}

/// Each category with something wrong, which is then right again.
pub(super) async fn broken(api: &ApiServer, cli: &Cli) {
    kubelet(api, false).await;
    let said = cli.check("-o short").await;
    said.names(
        1,
        "× control plane replica sets are ready",
        "linkerd-identity has 0 of 1",
        "kubectl -n linkerd get deployments",
    );
    said.names(
        1,
        "× control plane pods are ready",
        "is not ready",
        "kubectl -n linkerd describe pods",
    );
    // What may still come is waited for.
    let (said, ()) = tokio::join!(cli.run("check --wait 30s -o short"), kubelet(api, true));
    said.shows_no("control plane pods are ready");

    let definition = linkerd_policy::crd::definitions()
        .into_iter()
        .find(|definition| definition["metadata"]["name"] == "egressnetworks.policy.linkerd.io")
        .unwrap();
    api.delete(&definition).await;
    eventually("that the definition is gone", async || {
        api.get(&path(&definition)).await.is_none().then_some(())
    })
    .await;
    for words in ["", "--crds"] {
        let said = cli.check(words).await;
        said.names(
            1,
            "× control plane CustomResourceDefinitions exist",
            "egressnetworks",
            "linkerd install --crds | kubectl apply",
        );
    }
    api.apply(&definition).await;
    let crds = eventually("that the definition counts", async || {
        let said = cli.check("--crds").await;
        (said.code == 0).then_some(said.out)
    })
    .await;
    assert!(!crds.contains("linkerd-config"), "{crds}");

    let label = |value: Value| json!({"metadata": {"labels": {"config.linkerd.io/admission-webhooks": value}}});
    api.merge("/api/v1/namespaces/linkerd", &label(Value::Null))
        .await;
    let said = cli.check("").await;
    said.names(
        0,
        "‼ control plane Namespace exists and is labelled",
        "admission-webhooks=disabled",
        "kubectl label namespace linkerd",
    );
    assert!(
        said.out.ends_with("Status check results are √\n"),
        "{}",
        said.out
    );
    api.merge("/api/v1/namespaces/linkerd", &label("disabled".into()))
        .await;

    let other =
        rcgen::generate_simple_self_signed(["linkerd-proxy-injector.linkerd.svc".to_owned()])
            .unwrap();
    set_bundle(api, &other.cert.pem()).await;
    let said = cli.check("").await;
    said.names(
        1,
        "× proxy-injector webhook has valid cert",
        "does not vouch",
        "linkerd identity inspect proxy-injector.crt",
    );
    bring_injectors_certificate(api).await;
    issuer(api, cli).await;
    versions_and_networks(api, cli).await;
}

/// A control plane of another version, and networks that the mesh was not told of.
async fn versions_and_networks(api: &ApiServer, cli: &Cli) {
    let deployment = "/apis/apps/v1/namespaces/linkerd/deployments/linkerd-destination";
    let version =
        |version: &str| json!({"metadata": {"labels": {"app.kubernetes.io/version": version}}});
    api.merge(deployment, &version("0.0.1")).await;
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "far"},
        "spec": {"podCIDR": "11.1.0.0/24", "podCIDRs": ["11.1.0.0/24"]},
    });
    api.apply(&node).await;
    let said = cli.check("").await;
    said.names(
        0,
        "‼ control plane and cli versions match",
        "is of version 0.0.1",
        "linkerd upgrade | kubectl apply -f -",
    );
    let said = cli.check("--expected-version 0.0.1 -o short").await;
    said.shows_no("versions match");
    said.names(
        0,
        "‼ cluster networks contains all node podCIDRs",
        "the node far has 11.1.0.0/24",
        "linkerd upgrade --set-string 'clusterNetworks=",
    );
    api.delete(&node).await;
    api.merge(deployment, &version(env!("CARGO_PKG_VERSION")))
        .await;
}

/// A node whose clock is ahead.
async fn skewed(api: &ApiServer, cli: &Cli) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "ahead"}});
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "ahead", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "ahead", "renewTime": "2100-01-01T00:00:00.000000Z"},
    });
    for object in [&node, &lease] {
        api.apply(object).await;
    }
    // Nodes have conditions once their kubelet has reported.
    let status = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "ahead"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    api.set_status(&status).await;
    let said = cli.check("--pre").await;
    said.names(
        0,
        "‼ no clock skew detected",
        "the node ahead says that it was last heard of at 2100-01-01",
        "timedatectl status",
    );
    for object in [&lease, &node] {
        api.delete(object).await;
    }
}

/// An issuer that is over, and none of the anchors'.
async fn issuer(api: &ApiServer, cli: &Cli) {
    let secret = "/api/v1/namespaces/linkerd/secrets/linkerd-identity-issuer";
    let good = api.get(secret).await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let data = json!({"crt.pem": STANDARD.encode(params.self_signed(&key).unwrap().pem()), "key.pem": STANDARD.encode(key.serialize_pem())});
    api.merge(secret, &json!({"data": data})).await;
    let said = cli.check("").await;
    said.names(
        1,
        "× issuer cert is within its validity period",
        "expired 2020-01-01",
        "docs/trust.md",
    );
    said.names(
        1,
        "× issuer cert is issued by the trust anchor",
        "",
        "linkerd identity inspect issuer.crt",
    );
    api.merge(secret, &json!({"data": good["data"]})).await;
}

/// A Pod with a sidecar, as far as it is looked at.
fn meshed(name: &str, anchors: &str, version: &str) -> Value {
    let mut object = pod(name);
    object["metadata"]["annotations"] = json!({"linkerd.io/proxy-version": version});
    object["spec"]["serviceAccountName"] = "web".into();
    object["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({
            "name": "linkerd-proxy", "image": "proxy",
            "env": [{"name": "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "value": anchors}],
        }));
    object
}

/// Sidecars of applications: as they should be, and not.
pub(super) async fn data_plane(api: &ApiServer, cli: &Cli, plane: &ControlPlane) {
    let anchors = plane.trust_anchors();
    let version = env!("CARGO_PKG_VERSION");
    api.apply(&meshed("fine", &anchors, version)).await;
    api.set_status(&running("fine", "127.77.5.8")).await;
    let shop = "--proxy -n shop";
    eventually("that all is well", async || {
        let said = cli.check("--proxy -n shop -o short").await;
        // Read where the test fails.
        eprintln!("{}", said.out);
        (said.out == "Status check results are √\n").then_some(())
    })
    .await;
    shows("check-cluster.txt", &cli.check(shop).await.out);

    let mut late = pod("late");
    late["metadata"]["annotations"] = json!({"linkerd.io/inject": "enabled"});
    late["spec"]["serviceAccountName"] = "web".into();
    late["metadata"]["labels"]["config.linkerd.io/proxy-log-level"] = "debug".into();
    for object in [late, meshed("old", "other anchors", "0.0.1")] {
        api.apply(&object).await;
    }
    let said = cli.check(shop).await;
    said.names(
        1,
        "× data plane proxies are ready",
        "shop/old",
        "kubectl -n shop logs old -c linkerd-proxy",
    );
    said.names(
        1,
        "‼ pods that ask for a proxy have one",
        "shop/late",
        "kubectl -n shop rollout restart deploy",
    );
    said.names(
        1,
        "‼ data plane pod labels are configured correctly",
        "shop/late: config.linkerd.io/proxy-log-level is among its labels",
        "linkerd inject",
    );
    said.names(
        1,
        "‼ data plane is up-to-date",
        "shop/old has 0.0.1",
        "kubectl -n shop rollout restart deploy",
    );
    said.names(
        1,
        "‼ data plane proxies certificate match CA",
        "shop/old",
        "kubectl -n shop rollout restart deploy",
    );
    let mut db = meshed("db", &anchors, version);
    db["metadata"]["annotations"]["config.linkerd.io/opaque-ports"] = "6380".into();
    db["metadata"]["labels"]["app"] = "db".into();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"selector": {"app": "db"}, "ports": [{"port": 6380}]},
    });
    for object in [db, service] {
        api.apply(&object).await;
    }
    let said = cli.check(shop).await;
    said.names(
        1,
        "‼ opaque ports are properly annotated",
        "port 6380 of the Pod shop/db is opaque, and port 6380 of the Service shop/db before it is not",
        "kubectl annotate service",
    );
    let said = cli.check("--proxy -n none").await;
    said.names(
        1,
        "× data plane namespace exists",
        "none",
        "kubectl get namespaces",
    );
}

/// Somebody who may see some of it: the rest is still looked at.
pub(super) async fn with_less(api: &ApiServer) {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "view"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
    });
    api.apply(&binding).await;
    let (viewer, _) = others(api).await;
    let said = eventually("that the binding counts", async || {
        let said = viewer.check("--proxy -n shop").await;
        said.out
            .contains("√ 'linkerd-config' config map exists")
            .then_some(said)
    })
    .await;
    let what = "× what is there can be looked at";
    said.names(1, what, "forbidden", "kubectl auth can-i --list");
    // Whoever may do everything may ask as somebody who may not.
    let words = "--proxy -n shop --as system:serviceaccount:default:default --as-group system:serviceaccounts";
    assert_eq!(Cli(api.kubeconfig()).check(words).await.out, said.out);
    assert!(
        said.out.contains("√ data plane namespace exists"),
        "{}",
        said.out
    );
}
