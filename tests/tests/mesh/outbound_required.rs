//! Mutual TLS that somebody else than the destination requires: a backend of it, or the workload that has its address.

use crate::{
    harness::{eventually, get, one_http1},
    outbound::{Client, counted, pod, route, service, why},
};
use std::sync::atomic::Ordering;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const REQUIRED: &str = "policy.linkerd.io/outbound-mtls: required";

async fn refused(client: &Client, port: u16) {
    eventually("a refusal", async || {
        let response = client.get(port, "/").await;
        (response.status() == 502 && why(&response).contains("mutual TLS is required"))
            .then_some(())
    })
    .await;
}

/// The Service `other`, outside the mesh, with its one Pod.
fn other(client: &Client, annotations: &str) -> String {
    service("other", annotations) + &pod("other-0", "other", client.mesh.ip(11))
}

#[tokio::test]
async fn what_a_backend_requires_holds_whoever_it_is_a_backend_of() {
    let split = "apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {name: all, namespace: shop}
spec: {service: catalog, backends: [{service: other, weight: 1}]}
---
";
    let profile = "apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: catalog.shop.svc.cluster.local, namespace: shop}
spec:
  dstOverrides: [{authority: 'other.shop.svc.cluster.local:80', weight: 1}]
---
";
    let routed = route(
        "HTTPRoute",
        "  rules: [{backendRefs: [{name: other, port: 80}]}]",
    );
    for (policy, variables) in [
        (routed.as_str(), &[][..]),
        (split, &[("DESTINATION_PROFILE_SUFFIXES", ".")][..]),
        (profile, &[("DESTINATION_PROFILE_SUFFIXES", ".")][..]),
    ] {
        let client = Client::start("", 0, policy, variables).await;
        let (_app, calls) = counted(client.at(11), 200).await;
        client.mesh.write("other.yaml", &other(&client, REQUIRED));
        refused(&client, 9000).await;
        let refusals = client
            .mesh
            .metric(
                "outbound_mtls_refused_total",
                &[r#"reason="plaintext""#, r#"parent_name="catalog""#],
            )
            .await;
        assert!(refusals >= 1.0, "{policy}");
        assert_eq!(calls.load(Ordering::Relaxed), 0, "not a byte: {policy}");

        // It is the Service's to say, at any time.
        client.mesh.write("other.yaml", &other(&client, ""));
        eventually("no requirement", async || {
            (client.status(9000).await == 200).then_some(())
        })
        .await;
        client.mesh.write("other.yaml", &other(&client, REQUIRED));
        refused(&client, 9000).await;
        let before = calls.load(Ordering::Relaxed);
        assert_eq!(client.status(9000).await, 502);
        assert_eq!(calls.load(Ordering::Relaxed), before, "{policy}");
    }
}

#[tokio::test]
async fn a_byte_stream_is_held_to_what_its_backend_requires() {
    let opaque = "config.linkerd.io/opaque-ports: '80'";
    let routed = route(
        "TCPRoute",
        "  rules: [{backendRefs: [{name: other, port: 80}]}]",
    )
    .replace(
        "gateway.networking.k8s.io/v1\n",
        "gateway.networking.k8s.io/v1alpha2\n",
    );
    let client = Client::start(opaque, 0, &routed, &[]).await;
    client.mesh.write("other.yaml", &other(&client, REQUIRED));
    let listener = TcpListener::bind(client.at(11)).await.unwrap();
    let labels = [r#"reason="plaintext""#, r#"parent_name="catalog""#];
    eventually("a refusal", async || {
        let mut stream = client.connect(9000).await;
        let _ = stream.write_all(b"\x00hello").await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
        let refused = client.mesh.metric("outbound_mtls_refused_total", &labels);
        (refused.await >= 1.0).then_some(())
    })
    .await;
    drop(listener);
}

#[tokio::test]
async fn a_workload_dialled_by_its_address_is_held_to_what_its_services_require() {
    // With profiles of addresses and without: who says so differs.
    for variables in [
        &[][..],
        &[("DESTINATION_PROFILE_NETWORKS", "127.0.0.0/8")][..],
    ] {
        for networks in [None, Some("127.0.0.0/8")] {
            let client = Client::start_with("", 0, "", variables, |config| {
                if let Some(networks) = networks {
                    config.cluster.cluster_networks = vec![networks.parse().unwrap()];
                }
            })
            .await;
            let (_app, calls) = counted(client.at(40), 200).await;
            let workload = |annotations| {
                service("direct", annotations) + &pod("direct-0", "direct", client.mesh.ip(40))
            };
            client.mesh.write("direct.yaml", &workload(REQUIRED));
            refused(&client, 9003).await;
            let before = calls.load(Ordering::Relaxed);
            let response = one_http1(client.connect(9003).await, get("/"))
                .await
                .unwrap();
            assert_eq!(response.status(), 502);
            assert_eq!(calls.load(Ordering::Relaxed), before);
            client.mesh.write("direct.yaml", &workload(""));
            eventually("no requirement", async || {
                (client.status(9003).await == 200).then_some(())
            })
            .await;
        }
    }
}
