//! EndpointSlices of ExternalWorkloads: one of two replicas writes them, and they follow Services and workloads.

use crate::{
    control_plane::ControlPlane,
    destination::{TOKEN, added, get, next, service, slice, sockets},
    policy::namespace,
    server::{ApiServer, path},
};
use linkerd_tests::eventually;
use linkerd2_proxy_api::destination::update;
use serde_json::{Value, json};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/linkerd/leases/linkerd-destination-endpoint-write";

fn workload(name: &str, ip: &str, port: u16) -> Value {
    json!({
        "apiVersion": "workload.linkerd.io/v1beta1", "kind": "ExternalWorkload",
        "metadata": {"name": name, "namespace": "shop", "labels": {
            "app": "web", "topology.kubernetes.io/zone": "z1",
        }},
        "spec": {
            "meshTLS": {"identity": format!("spiffe://root/{name}"), "serverName": name},
            "ports": [{"port": port, "name": "http"}], "workloadIPs": [{"ip": ip}],
        },
    })
}

/// Applies a workload, and says whether it is ready, as whoever runs it would.
async fn apply(api: &ApiServer, workload: &Value, ready: &str) {
    api.apply(workload).await;
    let mut status = workload.clone();
    status["status"] = json!({"conditions": [{"type": "Ready", "status": ready}]});
    api.set_status(&status).await;
}

/// Slices of ExternalWorkloads: name, family, ports, endpoints, in a line each.
async fn written(api: &ApiServer) -> Vec<String> {
    let selector = "labelSelector=endpointslice.kubernetes.io/managed-by%3Dlinkerd-external-workloads-controller";
    let list = api.get(&format!("{SLICES}?{selector}")).await.unwrap();
    let one = |slice: &Value| {
        let port = &slice["ports"][0];
        let endpoints = slice["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|endpoint| {
                let conditions = &endpoint["conditions"];
                let (ready, serving) = (&conditions["ready"], &conditions["serving"]);
                let is_odd = ready != serving || conditions["terminating"] != false;
                let odd = if is_odd { " odd" } else { "" };
                let reference = &endpoint["targetRef"];
                format!(
                    "{} {} {} {} ready={ready}{odd}",
                    reference["kind"],
                    reference["name"],
                    endpoint["addresses"][0],
                    endpoint["zone"]
                )
            });
        let endpoints: Vec<_> = endpoints.collect();
        format!(
            "{} {} {}={}: {}",
            slice["metadata"]["name"],
            slice["metadata"]["labels"]["kubernetes.io/service-name"],
            port["name"],
            port["port"],
            endpoints.join(", ")
        )
        .replace('"', "")
    };
    list["items"].as_array().unwrap().iter().map(one).collect()
}

async fn become_as(api: &ApiServer, wanted: &[&str]) {
    let mut last = Vec::new();
    eventually(&format!("{wanted:?}"), async || {
        last = written(api).await;
        (last == wanted).then_some(())
    })
    .await;
}

async fn holder(api: &ApiServer) -> Option<String> {
    let lease = api.get(LEASE).await?;
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

/// How many slices a replica has written.
async fn writes(plane: &ControlPlane) -> u32 {
    let (_, page) = plane.page("/metrics").await.unwrap();
    let line = r#"controller_endpoint_slice_writes_total{result="ok"} "#;
    let mut found = page.lines().filter_map(|text| text.strip_prefix(line));
    found.next().map_or(0, |count| count.parse().unwrap())
}

/// What is written is in the API server before the replica has its answer and counts.
async fn has_written_two(plane: &ControlPlane) {
    eventually("two writes", async || {
        (writes(plane).await >= 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn slices_of_external_workloads_follow_them_and_are_written_by_one_replica() {
    let Some(api) = ApiServer::start().await else {
        return;
    };
    for name in ["linkerd", "shop"] {
        api.apply(&namespace(name)).await;
    }
    let start = |name| ControlPlane::spawn_as(api.kubeconfig(), name, &["--lease-seconds=10"]);
    let mut first = start("first");
    eventually("the lease", async || {
        (holder(&api).await? == "first").then_some(())
    })
    .await;
    let second = start("second");
    let spec = json!({
        "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    });
    api.apply(&service("web", &spec)).await;
    // Somebody's own slice of the same Service.
    api.apply(&slice("web", "IPv4", &json!([]))).await;
    apply(&api, &workload("a", "192.0.2.1", 8080), "True").await;
    apply(&api, &workload("b", "192.0.2.2", 8080), "False").await;
    apply(&api, &workload("c", "192.0.2.3", 9090), "True").await;
    let all = [
        "linkerd-external-web-1 web http=8080: ExternalWorkload a 192.0.2.1 z1 ready=true, ExternalWorkload b 192.0.2.2 z1 ready=false",
        "linkerd-external-web-2 web http=9090: ExternalWorkload c 192.0.2.3 z1 ready=true",
    ];
    become_as(&api, &all).await;
    has_written_two(&first).await;
    assert_eq!(writes(&second).await, 0);
    let mut stream = get(&second, "web", TOKEN).await;
    let told = ["192.0.2.1:8080", "192.0.2.3:9090"];
    let mut endpoints = added(&mut stream).await;
    while endpoints.len() < told.len() {
        endpoints.extend(added(&mut stream).await);
    }
    assert_eq!(sockets(&endpoints), told);

    // Somebody spoils one: it is put right. The holder goes: the other one goes on.
    let mut spoilt = api
        .get(&format!("{SLICES}/linkerd-external-web-1"))
        .await
        .unwrap();
    spoilt["endpoints"] = json!([{"addresses": ["192.0.2.66"]}]);
    api.replace(&spoilt).await;
    become_as(&api, &all).await;
    first.terminate();
    api.delete(&workload("c", "192.0.2.3", 9090)).await;
    apply(&api, &workload("b", "192.0.2.2", 8080), "True").await;
    become_as(&api, &[
        "linkerd-external-web-1 web http=8080: ExternalWorkload a 192.0.2.1 z1 ready=true, ExternalWorkload b 192.0.2.2 z1 ready=true",
    ])
    .await;
    has_written_two(&second).await;
    eventually("that the stream follows", async || {
        match next(&mut stream).await.update? {
            update::Update::Remove(set) => set.addrs.iter().any(|a| a.port == 9090).then_some(()),
            _ => None,
        }
    })
    .await;
    api.delete(&service("web", &json!({}))).await;
    become_as(&api, &[]).await;
    let own = slice("web", "IPv4", &json!([]));
    assert!(
        api.get(&path(&own)).await.is_some(),
        "somebody else's stays"
    );
}
