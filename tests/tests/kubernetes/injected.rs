//! What other ways of injection make runs, too: by hand with the values of a cluster, without any rule of the kernel, and with
//! both families of addresses.

use crate::{
    injection::{Given, cluster, deployment, of_chart, pod_of, run, service, unasked},
    node::{self, Families, Network, Running},
    policy::{namespace, server},
    server::ApiServer,
    sidecar::say_yes,
};
use linkerd_tests::eventually;
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// What Pods of a network get of each other.
struct Shop<'a> {
    api: &'a ApiServer,
    network: &'a Network,
    web: Running,
    client: Running,
}

impl<'a> Shop<'a> {
    /// Runs the Pods `web`, whose application listens at an address, and `api`, which calls it.
    async fn open(api: &'a ApiServer, network: &'a mut Network, listens: IpAddr) -> Self {
        let web = run(api, network, "web").await;
        let at = SocketAddr::new(listens, 8080);
        let listener = node::listen(&network.namespace(web.number), at);
        tokio::spawn(say_yes(listener));
        let client = run(api, network, "api").await;
        Self {
            api,
            network,
            web,
            client,
        }
    }

    /// The Pod's own addresses.
    fn plain(&self) -> Vec<SocketAddr> {
        let ips = self.web.ips.iter();
        ips.map(|ip| SocketAddr::new(*ip, 8080)).collect()
    }

    async fn is(&self, from: u8, to: SocketAddr, wanted: u16) {
        eventually(&format!("{wanted} of {to} for {from}"), async || {
            (self.network.get(from, to).await? == wanted).then_some(())
        })
        .await;
    }

    /// The client is let in at `meshed`, by its identity, and whoever is not meshed at `plain`, until policy says who may.
    async fn policy_lets_in_whom_it_names(&self, meshed: &[SocketAddr], plain: &[SocketAddr]) {
        for to in meshed {
            self.is(self.client.number, *to, 200).await;
        }
        for to in plain {
            self.is(0, *to, 200).await;
        }
        let (_, metrics) = self.web.admin(self.network, "/metrics").await.unwrap();
        let is_mutual = |line: &str| {
            line.starts_with("request_total{")
                && line.contains(r#"direction="inbound""#)
                && line.contains(
                    r#"client_id="api.shop.serviceaccount.identity.linkerd.cluster.local""#,
                )
        };
        let requests = metrics.lines().filter(|line| is_mutual(line));
        let requests: usize = requests
            .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
            .sum();
        assert!(requests >= meshed.len(), "{metrics}");
        self.api.apply(&server("web", &json!({}))).await;
        let allowed = json!({
            "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "web-clients", "namespace": "shop"},
            "spec": {
                "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "web"},
                "requiredAuthenticationRefs": [{"kind": "ServiceAccount", "name": "api"}],
            },
        });
        self.api.apply(&allowed).await;
        for to in plain {
            self.is(0, *to, 403).await;
        }
        for to in meshed {
            self.is(self.client.number, *to, 200).await;
        }
    }
}

fn parsed(addresses: &Value) -> Vec<IpAddr> {
    let all = addresses.as_array().unwrap().iter();
    all.map(|ip| ip.as_str().unwrap().parse().unwrap())
        .collect()
}

#[tokio::test]
async fn pods_that_were_injected_by_hand_with_a_clusters_values_run_as_if_the_webhook_had_been_asked()
 {
    let Some(network) = &mut Network::make(Families::V4) else {
        return;
    };
    let Some((api, plane)) = unasked(Some(network), &Given::default()).await else {
        return;
    };
    let map = |name: &str, key: &str, text: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "linkerd"},
            "data": {key: text},
        })
    };
    let values = "proxy: {logFormat: json, logLevel: 'warn,linkerd=info'}\n";
    for object in [
        namespace("linkerd"),
        map("linkerd-config", "values", values),
        map(
            "linkerd-identity-trust-roots",
            "ca-bundle.crt",
            &plane.trust_anchors(),
        ),
    ] {
        api.apply(&object).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    let text = ["web", "api"].map(|name| {
        let object = serde_norway::to_string(&deployment(name, &json!({})));
        object.unwrap()
    });
    fs::write(&file, text.join("---\n")).unwrap();
    let mut command = tokio::process::Command::new(linkerd_tests::binary("linkerd"));
    command
        .args(["inject", "--manual"])
        .arg(&file)
        .env("KUBECONFIG", api.kubeconfig())
        .kill_on_drop(true);
    let output = linkerd_tests::within("linkerd", command.output())
        .await
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("deployment \"web\" injected"), "{errors}");
    for document in serde_norway::Deserializer::from_slice(&output.stdout) {
        api.apply(&Value::deserialize(document).unwrap()).await;
    }
    let service = api.apply(&service("web", 80, 8080)).await;
    let ips = parsed(&service["spec"]["clusterIPs"]);
    let shop = Shop::open(&api, network, Ipv4Addr::UNSPECIFIED.into()).await;
    let line = shop.web.log();
    let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert!(line.is_object(), "{line}");
    let plain = [SocketAddr::new(shop.web.ips[0], 8080)];
    shop.policy_lets_in_whom_it_names(&[SocketAddr::new(ips[0], 80)], &plain)
        .await;
}

/// From now on the API server takes no container in the shop that asks for more.
async fn are_restricted(api: &ApiServer) {
    let label =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    api.merge("/api/v1/namespaces/shop", &label).await;
}

/// What the Pod security level `restricted` wants of a container.
fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 1000,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    })
}

#[tokio::test]
async fn where_nobody_may_set_rules_pods_are_in_the_mesh_by_explicit_listeners() {
    let Some(network) = &mut Network::make(Families::Both) else {
        return;
    };
    let Some((api, _plane)) = cluster(Some(network), &Given::default()).await else {
        return;
    };
    are_restricted(&api).await;
    let listener = "127.0.0.1:19000=web.shop.svc.cluster.local:80";
    for name in ["web", "api"] {
        let mut object = restricted_deployment(name);
        let template = &mut object["spec"]["template"];
        template["metadata"]["annotations"] = json!({
            "config.linkerd.io/proxy-mode": "explicit",
            "config.linkerd.io/outbound-listeners": listener,
        });
        api.apply(&object).await;
    }
    api.apply(&service("web", 80, 8080)).await;
    let shop = Shop::open(&api, network, Ipv4Addr::LOCALHOST.into()).await;
    let at: SocketAddr = "127.0.0.1:19000".parse().unwrap();
    shop.policy_lets_in_whom_it_names(&[at], &shop.plain())
        .await;
}

/// Applies the Deployments and a Service `web` of both families, and gives the Service's addresses.
async fn of_both_families(api: &ApiServer) -> Vec<IpAddr> {
    for name in ["web", "api"] {
        api.apply(&deployment(name, &json!({}))).await;
    }
    let mut service = service("web", 80, 8080);
    service["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
    let service = api.apply(&service).await;
    parsed(&service["spec"]["clusterIPs"])
}

#[tokio::test]
async fn pods_with_addresses_of_both_families_are_in_the_mesh_by_each() {
    let Some(network) = &mut Network::make(Families::Both) else {
        return;
    };
    let given = Given {
        values: "disableIPv6: false\nproxy: {logLevel: 'warn,linkerd=info'}\n",
        flags: of_chart("disableIPv6=false"),
        ..Given::default()
    };
    let Some((api, _plane)) = cluster(Some(network), &given).await else {
        return;
    };
    let ips = of_both_families(&api).await;
    assert!(ips[0].is_ipv4() && ips[1].is_ipv6(), "{ips:?}");
    let shop = Shop::open(&api, network, Ipv6Addr::UNSPECIFIED.into()).await;
    let meshed: Vec<_> = ips.iter().map(|ip| SocketAddr::new(*ip, 80)).collect();
    shop.policy_lets_in_whom_it_names(&meshed, &shop.plain())
        .await;
}

#[tokio::test]
async fn while_ipv6_is_off_nobody_is_sent_to_addresses_on_which_no_sidecar_listens() {
    let Some(network) = &mut Network::make(Families::Both) else {
        return;
    };
    let Some((api, _plane)) = cluster(Some(network), &Given::default()).await else {
        return;
    };
    let ips = of_both_families(&api).await;
    let shop = Shop::open(&api, network, Ipv6Addr::UNSPECIFIED.into()).await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
    eventually("endpoints of both families", async || {
        let list = api.get(slices).await?;
        let slices = list["items"].as_array()?.iter();
        let of = |family: &str| {
            let mut of = slices
                .clone()
                .filter(|slice| slice["addressType"] == family);
            of.any(|slice| {
                slice["endpoints"]
                    .as_array()
                    .is_some_and(|all| !all.is_empty())
            })
        };
        (of("IPv4") && of("IPv6")).then_some(())
    })
    .await;
    let plain = [SocketAddr::new(shop.web.ips[0], 8080)];
    shop.policy_lets_in_whom_it_names(&[SocketAddr::new(ips[0], 80)], &plain)
        .await;
}

#[tokio::test]
async fn where_a_plugin_sets_the_rules_pods_check_them_and_need_no_right_to_set_any() {
    let Some(network) = &mut Network::make(Families::V4) else {
        return;
    };
    network.has_plugin = true;
    let given = Given {
        values: "cniEnabled: true\nproxy: {logLevel: 'warn,linkerd=info'}\n",
        ..Given::default()
    };
    let Some((api, _plane)) = cluster(Some(network), &given).await else {
        return;
    };
    are_restricted(&api).await;
    for name in ["web", "api"] {
        api.apply(&restricted_deployment(name)).await;
    }
    let service = api.apply(&service("web", 80, 8080)).await;
    let ips = parsed(&service["spec"]["clusterIPs"]);
    let shop = Shop::open(&api, network, Ipv4Addr::UNSPECIFIED.into()).await;
    let plain = [SocketAddr::new(shop.web.ips[0], 8080)];
    shop.policy_lets_in_whom_it_names(&[SocketAddr::new(ips[0], 80)], &plain)
        .await;
    // Where the plugin did not come, the Pod does not start: it would be out of the mesh.
    network.has_plugin = false;
    api.apply(&restricted_deployment("agent")).await;
    let pod = pod_of(&api, "agent").await;
    let failed = Running::fails(network, &pod);
    assert!(
        failed.starts_with("linkerd2-network-validator: "),
        "{failed}"
    );
}

fn restricted_deployment(name: &str) -> Value {
    let mut object = deployment(name, &json!({}));
    let containers = &mut object["spec"]["template"]["spec"]["containers"];
    containers[0]["securityContext"] = restricted();
    object
}
