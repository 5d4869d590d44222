//! What the command reaches through the API server: ports of Pods, which a kubelet forwards.

use super::{Cli, shows};
use crate::{
    control_plane::ControlPlane, forwarding::Kubelet, policy::running, server::ApiServer,
    sidecar::Sidecar,
};
use linkerd_tests::eventually;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// The name of the control plane's Pod of a component.
async fn component(api: &ApiServer, component: &str) -> String {
    let selector = format!("linkerd.io/control-plane-component%3D{component}");
    let path = format!("/api/v1/namespaces/linkerd/pods?labelSelector={selector}");
    let list = api.get(&path).await.unwrap();
    list["items"][0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Which rights a port needs that is forwarded.
async fn rights(api: &ApiServer, cli: &Cli) {
    let version = "rbac.authorization.k8s.io/v1";
    let metadata = json!({"name": "forwards", "namespace": "shop"});
    let role = |verbs: &[&str]| {
        json!({
            "apiVersion": version, "kind": "Role", "metadata": metadata,
            "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": verbs},
            ],
        })
    };
    let binding = json!({
        "apiVersion": version, "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "forwards"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody"}],
    });
    let words = "diagnostics proxy-metrics -n shop po/web --as somebody";
    api.apply(&binding).await;
    for (verbs, code) in [(&["create"][..], 1), (&["get"], 1), (&["get", "create"], 0)] {
        api.apply(&role(verbs)).await;
        eventually(&format!("{verbs:?}: exit code {code}"), async || {
            let said = cli.run(words).await;
            let is_told = said
                .out
                .contains("auth can-i get pods/portforward, and create");
            (said.code == code && is_told == (code == 1)).then_some(())
        })
        .await;
    }
}

/// Everything that is shown of a sidecar and asked of the control plane, without an address by which it could be reached.
pub(super) async fn shown(api: &ApiServer, cli: &Cli, plane: &ControlPlane, sidecar: &Sidecar) {
    let said = cli.run("diagnostics proxy-metrics -n shop po/web").await;
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.out.contains("cannot be forwarded"), "{}", said.out);

    let kubelet = Kubelet::start(api, "n2").await;
    let admin = [(4191, sidecar.admin())];
    kubelet.take(api, ("shop", "web"), &admin).await;
    let destination = component(api, "destination").await;
    let ports = [
        (8086, plane.destination),
        (8090, plane.policy),
        (9990, plane.admin),
    ];
    kubelet.take(api, ("linkerd", &destination), &ports).await;
    // Somebody else is at what is the Pod's address in the cluster.
    let elsewhere: SocketAddr = "127.77.5.250:4191".parse().unwrap();
    let elsewhere = TcpListener::bind(elsewhere).await.unwrap();
    tokio::spawn(crate::sidecar::say_yes(elsewhere));
    api.set_status(&running("web", "127.77.5.250")).await;

    let page = cli.good("diagnostics proxy-metrics -n shop po/web").await;
    assert!(
        page.starts_with("#\n# POD web CONTAINER linkerd-proxy (1 of 1)\n"),
        "{page}"
    );
    assert!(
        page.contains("\ncontrol_identity_cert_expiration"),
        "{page}"
    );
    let shown = cli.good("identity -n shop web -o json").await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert!(shown[0]["problem"].is_null(), "{shown}");
    let leaf = &shown[0]["certificates"][0];
    assert!(
        leaf.to_string()
            .contains("web.shop.serviceaccount.identity.linkerd.cluster.local"),
        "{leaf}"
    );
    rights(api, cli).await;
    for (name, words) in [
        ("policy", "policy po/web 8080 -n shop"),
        ("outbound", "policy svc/batch 80 -n shop"),
        ("profile", "profile batch.shop.svc.cluster.local:80"),
    ] {
        let page = cli.good(&format!("diagnostics {words} -o json")).await;
        shows(&format!("diagnostics-{name}.json"), &page);
    }
    let authority = "batch.shop.svc.cluster.local:80";
    let table = cli
        .good(&format!("diagnostics endpoints {authority}"))
        .await;
    shows("diagnostics-endpoints.txt", &table);

    // The two others have no node: what can be had is shown.
    let said = cli.run("diagnostics controller-metrics").await;
    assert_eq!(said.code, 1, "{}", said.err);
    let heading = format!("# POD {destination} CONTAINER destination ");
    assert!(said.out.contains(&heading), "{}", said.out);
    assert!(said.out.contains("\ncontroller_"), "{}", said.out);
    assert_eq!(said.out.matches("# ERROR ").count(), 2, "{}", said.out);

    // What the kubelet says is passed on.
    kubelet.take(api, ("shop", "forgotten"), &[]).await;
    let said = cli
        .run("diagnostics proxy-metrics -n shop po/forgotten")
        .await;
    let why = "an error occurred forwarding 4191 of shop/forgotten: connection refused";
    assert!(said.code == 1 && said.out.contains(why), "{}", said.out);
    let said = cli.run("identity -n shop forgotten").await;
    assert!(said.code == 1 && said.out.contains(why), "{}", said.out);
}
