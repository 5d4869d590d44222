//! What is known of names and addresses.

use super::{TOKEN, asked, client, cluster, next, pod, service, sockets, status};
use crate::{control_plane::ControlPlane, policy::namespace};
use linkerd_tests::{eventually, within};
use linkerd2_proxy_api::destination::{DestinationProfile, protocol_hint::Protocol};
use serde_json::json;
use tonic::{Status, Streaming};

/// The next profile for which there is an answer.
async fn profile(
    plane: &ControlPlane,
    path: &str,
    what: &str,
    ask: impl Fn(&DestinationProfile) -> bool,
) -> DestinationProfile {
    let mut client = client(plane).await;
    let asking = async || -> Result<Streaming<DestinationProfile>, Status> {
        Ok(client.get_profile(asked(path, TOKEN)).await?.into_inner())
    };
    let mut asking = asking;
    let mut stream = eventually(what, async || asking().await.ok()).await;
    within(what, async {
        loop {
            let profile = next(&mut stream).await;
            if ask(&profile) {
                return profile;
            }
        }
    })
    .await
}

#[tokio::test]
async fn profiles_are_those_of_who_has_the_name_or_the_address() {
    let Some((server, plane)) = cluster().await else {
        return;
    };
    server.apply(&pod("a")).await;
    server
        .set_status(&status("a", &["10.42.2.1"], "False"))
        .await;
    let web = json!({"selector": {"app": "a"}, "clusterIP": "10.96.7.7", "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    let mut web = service("web", &web);
    web["metadata"]["annotations"] = json!({"config.linkerd.io/opaque-ports": "http"});
    server.apply(&web).await;
    let name = "web.shop.svc.cluster.local";

    let found = profile(&plane, &format!("{name}:80"), "the Service", |p| {
        !p.fully_qualified_name.is_empty()
    })
    .await;
    assert_eq!(
        (found.fully_qualified_name.as_str(), found.opaque_protocol),
        (name, true)
    );
    assert!(found.parent_ref.is_some() && found.profile_ref.is_none());
    let by_address = profile(&plane, "10.96.7.7:80", "its address", |p| {
        !p.fully_qualified_name.is_empty()
    })
    .await;
    assert_eq!(by_address, found);
    let undeclared = profile(&plane, &format!("{name}:81"), "another port", |_| true).await;
    assert_eq!(undeclared, DestinationProfile::default());

    // A Pod that runs has a profile, ready or not; its proxy's ports take no transport header.
    let known = |p: &DestinationProfile| {
        p.endpoint
            .as_ref()
            .is_some_and(|e| e.metric_labels.contains_key("pod"))
    };
    let endpoint = profile(&plane, "10.42.2.1:8080", "the Pod", known)
        .await
        .endpoint
        .unwrap();
    assert_eq!(endpoint.metric_labels["namespace"], "shop");
    assert_eq!(sockets(&[endpoint]), ["10.42.2.1:8080"]);
    let opaque = profile(&plane, "10.42.2.1:6000", "an opaque port", known).await;
    let hint = opaque.endpoint.unwrap().protocol_hint.unwrap();
    assert!(opaque.opaque_protocol && matches!(hint.protocol, Some(Protocol::Opaque(_))));
    assert_eq!(hint.opaque_transport.unwrap().inbound_port, 5143);
    let mapped = profile(&plane, "192.0.2.7:18080", "the node's port", known).await;
    assert!(mapped.endpoint.unwrap().metric_labels["pod"] == "a");
    let unknown = profile(&plane, "10.42.2.9:8080", "nobody", |_| true)
        .await
        .endpoint
        .unwrap();
    assert!(unknown.tls_identity.is_none() && unknown.metric_labels.is_empty());
}

#[tokio::test]
async fn the_profile_of_the_clients_own_namespace_wins_over_the_services() {
    let Some((server, plane)) = cluster().await else {
        return;
    };
    let of = |namespace: &str, route: &str| {
        json!({
            "apiVersion": "linkerd.io/v1alpha2", "kind": "ServiceProfile",
            "metadata": {"name": "far.away.svc.cluster.local", "namespace": namespace},
            "spec": {
                "routes": [{"name": route, "condition": {"pathRegex": "/.*"}}],
                "dstOverrides": [{"authority": "other.away.svc.cluster.local", "weight": "500m"}],
            },
        })
    };
    server.apply(&namespace("away")).await;
    let mut far = service("far", &json!({"ports": [{"port": 80}]}));
    far["metadata"]["namespace"] = json!("away");
    for object in [far, of("away", "theirs"), of("shop", "ours")] {
        server.apply(&object).await;
    }
    let named = |route: &'static str| {
        move |p: &DestinationProfile| {
            p.routes
                .first()
                .is_some_and(|r| r.metrics_labels.get("route").map(String::as_str) == Some(route))
        }
    };
    let path = "far.away.svc.cluster.local:80";
    let ours = profile(&plane, path, "the client's profile", named("ours")).await;
    assert_eq!(
        ours.dst_overrides[0].authority,
        "other.away.svc.cluster.local:80"
    );
    assert_eq!(ours.dst_overrides[0].weight, 5000);
    assert!(ours.profile_ref.is_some());
    server.delete(&of("shop", "ours")).await;
    profile(&plane, path, "the Service's profile", named("theirs")).await;
}
