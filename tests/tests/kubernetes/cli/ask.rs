//! What the command shows and explains: policy, what the control plane says, certificates.

use super::{Cli, shows};
use crate::{control_plane::ControlPlane, policy::server, server::ApiServer, sidecar::Sidecar};
use linkerd_tests::eventually;
use serde_json::{Value, json};

/// A Server with a route for one tenant, and who may.
pub(super) async fn policy(api: &ApiServer) {
    let meta = |name: &str| json!({"name": name, "namespace": "shop"});
    let parent = json!([{"group": "policy.linkerd.io", "kind": "Server", "name": "web"}]);
    let matches = json!([{"headers": [{"name": "x-tenant", "value": "shop"}]}]);
    for object in [
        server("web", &json!({})),
        json!({
            "apiVersion": "policy.linkerd.io/v1beta3", "kind": "HTTPRoute", "metadata": meta("tenant"),
            "spec": {"parentRefs": parent, "rules": [{"matches": matches}]},
        }),
        json!({
            "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "AuthorizationPolicy", "metadata": meta("tenants"),
            "spec": {
                "targetRef": {"group": "policy.linkerd.io", "kind": "HTTPRoute", "name": "tenant"},
                "requiredAuthenticationRefs": [{"kind": "ServiceAccount", "name": "batch"}],
            },
        }),
        json!({
            "apiVersion": "policy.linkerd.io/v1beta1", "kind": "ServerAuthorization", "metadata": meta("metrics"),
            "spec": {"server": {"name": "web"}, "client": {"meshTLS": {"serviceAccounts": [{"name": "prometheus"}]}}},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("store"),
            "spec": {
                "replicas": 0, "selector": {"matchLabels": {"app": "web", "part": "store"}},
                "template": {
                    "metadata": {"labels": {"app": "web", "part": "store"}},
                    "spec": {"containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080, "name": "http"}]}]},
                },
            },
        }),
    ] {
        api.apply(&object).await;
    }
}

/// What explains decisions says the same of the cluster's objects, of a template, and where the controller is asked.
pub(super) async fn explained(cli: &Cli, plane: &ControlPlane) {
    let table = cli.good("authz -n shop po/web").await;
    shows("authz.txt", &table);
    assert_eq!(cli.good("authz -n shop deploy/store").await, table);
    let live = format!(
        "policy explain --admin {} --workload shop/web --port 8080",
        plane.admin
    );
    let batch = "batch.shop.serviceaccount.identity.linkerd.cluster.local";
    let header = "--header x-tenant:shop";
    for (question, client, header, code, wanted) in [
        (
            "po/web -n shop",
            "sa/batch",
            header,
            0,
            "ALLOWED by authorizationpolicy tenants",
        ),
        ("po/web -n shop", "sa/other", header, 1, "DENIED"),
        ("po/web -n shop", "sa/default/batch", header, 1, "DENIED"),
        ("po/web -n shop", "sa/batch", "", 1, "NO ROUTE"),
        (
            "deploy/store -n shop",
            "sa/batch",
            header,
            0,
            "ALLOWED by authorizationpolicy tenants",
        ),
        ("deploy/store -n shop", "sa/batch", "", 1, "NO ROUTE"),
        (
            "",
            batch,
            header,
            0,
            "ALLOWED by authorizationpolicy tenants",
        ),
        ("", batch, "", 1, "NO ROUTE"),
    ] {
        let asked = match question {
            "" => live.clone(),
            target => format!("policy explain {target}"),
        };
        let said = cli
            .run(&format!("{asked} --path /items --from {client} {header}"))
            .await;
        assert!(
            said.code == code && said.out.starts_with(wanted),
            "{asked} {client} {header}: {}{}",
            said.out,
            said.err
        );
    }
    let said = cli.run("policy explain po/nobody -n shop").await;
    assert!(
        said.code == 1 && said.err.contains("kubectl -n shop get pods"),
        "{}",
        said.err
    );
}

/// What the APIs of the control plane say, and metrics.
pub(super) async fn asked(cli: &Cli, plane: &ControlPlane, sidecar: &Sidecar) {
    let (policy, destination) = (plane.policy, plane.destination);
    let port = format!("diagnostics policy po/web 8080 -n shop --addr {policy}");
    let port = cli.good(&port).await;
    assert!(
        port.contains("tenants") && port.contains("x-tenant"),
        "{port}"
    );
    for (name, words) in [
        (
            "policy",
            format!("policy po/web 8080 -n shop --addr {policy}"),
        ),
        (
            "outbound",
            format!("policy svc/batch 80 -n shop --addr {policy}"),
        ),
        (
            "profile",
            format!("profile batch.shop.svc.cluster.local:80 --addr {destination}"),
        ),
    ] {
        let page = cli.good(&format!("diagnostics {words} -o json")).await;
        shows(&format!("diagnostics-{name}.json"), &page);
    }
    let nobody = format!("diagnostics policy po/nobody 8080 -n shop --addr {policy}");
    let said = cli.run(&nobody).await;
    assert!(
        said.code == 1 && said.err.contains("NotFound"),
        "{}",
        said.err
    );
    let authority = "batch.shop.svc.cluster.local:80";
    let endpoints = format!("diagnostics endpoints {authority} --addr {destination}");
    let table = eventually("the endpoint", async || {
        let table = cli.good(&endpoints).await;
        table.contains("10.42.0.7").then_some(table)
    })
    .await;
    shows("diagnostics-endpoints.txt", &table);
    let page = cli.good(&format!("{endpoints} -o json")).await;
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page[0]["labels"]["pod"], "batch", "{page}");
    assert_eq!(page[0]["ip"], "10.42.0.7", "{page}");
    assert!(page[0]["http2"]["keep_alive"].is_object(), "{page}");
    let obfuscated = format!(
        "diagnostics proxy-metrics --obfuscate --addr {}",
        sidecar.admin()
    );
    let page = cli.good(&obfuscated).await;
    assert!(page.contains("control_identity_cert_expiration"), "{page}");
    for name in ["linkerd-policy", "serviceaccount.identity"] {
        assert!(!page.contains(name), "{name}: {page}");
    }
    for (words, wanted) in [
        (
            format!("policy svc/batch 80 -n shop --addr {policy}"),
            authority,
        ),
        (
            format!("profile {authority} --addr {destination}"),
            "batch.shop.svc.cluster.local",
        ),
        (
            format!("controller-metrics --addr {}", plane.admin),
            "controller_",
        ),
        (
            format!("proxy-metrics --addr {}", sidecar.admin()),
            "control_identity_cert_expiration",
        ),
    ] {
        let text = cli.good(&format!("diagnostics {words}")).await;
        assert!(text.contains(wanted), "{words}: {text}");
    }
}

/// The certificate of a Pod's sidecar, at the Pod's own address.
pub(super) async fn identities(cli: &Cli, sidecar: &Sidecar) {
    let shown = cli.good("identity -n shop web").await;
    let own = "web.shop.serviceaccount.identity.linkerd.cluster.local";
    assert!(
        shown.starts_with("POD web\n") && shown.contains(own),
        "{shown}"
    );
    let page = cli.good("identity -n shop -l app=web -o json").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page[0]["pod"], "web");
    // Another Pod's sidecar is not taken for its own.
    let batch = format!("identity -n shop batch --addr {}", sidecar.admin());
    let said = cli.run(&batch).await;
    assert!(
        said.code == 1 && said.out.contains("PROBLEM"),
        "{}{}",
        said.out,
        said.err
    );
}

/// The versions of what there is, after sidecars of two versions were added.
pub(super) async fn versions(api: &ApiServer, cli: &Cli) {
    let ours = env!("CARGO_PKG_VERSION");
    let both = format!("Client version: {ours}\nServer version: {ours}\n");
    assert_eq!(cli.good("version").await, both);
    let of_shop = format!("{both}Proxy versions:\n\t0.0.1 (1 pods)\n\t{ours} (2 pods)\n");
    assert_eq!(cli.good("version --proxy -n shop").await, of_shop);
    // And three of the control plane itself.
    let of_all = format!("{both}Proxy versions:\n\t0.0.1 (1 pods)\n\t{ours} (5 pods)\n");
    assert_eq!(cli.good("version --proxy").await, of_all);
    let short = format!("{ours}\n{ours}\n0.0.1\n{ours}\n");
    assert_eq!(cli.good("version --proxy -n shop --short").await, short);
    let said = cli.run("version -L elsewhere").await;
    let none = format!("Client version: {ours}\nServer version: unavailable\n");
    assert_eq!((said.code, said.out), (0, none.clone()));
    assert!(said.err.contains("namespace elsewhere"), "{}", said.err);
    let nowhere = Cli(api.kubeconfig().with_file_name("nowhere"));
    let said = nowhere.run("version").await;
    assert_eq!((said.code, said.out), (0, none));
    assert!(said.err.contains("cannot be asked"), "{}", said.err);
    assert_eq!(
        nowhere.good("version --client --short").await,
        format!("{ours}\n")
    );
}
