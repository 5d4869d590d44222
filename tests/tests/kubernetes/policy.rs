//! Objects of an API server become policy and identity.

use crate::{control_plane::ControlPlane, server::ApiServer};
use linkerd_tests::eventually;
use linkerd2_proxy_api::{inbound::Server, meta::metadata};
use serde_json::{Value, json};

pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub(crate) fn account(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": "shop"},
    })
}

pub(crate) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop",
            "labels": {"app": name, "linkerd.io/control-plane-ns": "linkerd"},
        },
        "spec": {
            "serviceAccountName": name,
            "containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080, "name": "http"}]}],
        },
    })
}

pub(crate) fn running(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

pub(crate) fn server(name: &str, rest: &Value) -> Value {
    let mut spec = json!({
        "podSelector": {"matchLabels": {"app": "web"}},
        "port": "http", "proxyProtocol": "HTTP/1",
    });
    for (key, value) in rest.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

/// The name of a Server, `default:…` for a default policy, and its authorizations.
pub(crate) fn names(server: &Server) -> (String, Vec<String>) {
    let labels = &server.labels;
    let authorizations = server.authorizations.iter().map(|authorization| {
        match authorization
            .metadata
            .as_ref()
            .and_then(|meta| meta.kind.as_ref())
        {
            Some(metadata::Kind::Resource(resource)) => resource.name.clone(),
            Some(metadata::Kind::Default(name)) => format!("default:{name}"),
            None => String::new(),
        }
    });
    let name = labels.get("name").cloned().unwrap_or_default();
    (name, authorizations.collect())
}

/// A shop with one Pod, known to a control plane.
pub(crate) async fn shop() -> Option<(ApiServer, ControlPlane)> {
    let server = ApiServer::start().await?;
    for object in [namespace("shop"), account("web"), pod("web")] {
        server.apply(&object).await;
    }
    server.set_status(&running("web", "10.42.0.3")).await;
    let plane = ControlPlane::start(&server).await;
    Some((server, plane))
}

#[tokio::test]
async fn objects_take_effect_on_open_streams_and_go_with_the_objects() {
    let Some((server, plane)) = shop().await else {
        return;
    };
    let mut stream = plane.watch("shop", "web", 8080).await;
    let named = |wanted: &'static str| {
        move |server: &Server| (names(server).0 == wanted).then(|| names(server).1)
    };
    stream
        .until("the default policy", named("all-unauthenticated"))
        .await;

    let object = self::server("web", &json!({}));
    server.apply(&object).await;
    let allowed = stream.until("the Server", named("web")).await;
    assert_eq!(allowed, Vec::<String>::new());

    let authorization = json!({
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "web-clients", "namespace": "shop"},
        "spec": {
            "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "web"},
            "requiredAuthenticationRefs": [{"kind": "ServiceAccount", "name": "batch"}],
        },
    });
    server.apply(&authorization).await;
    let has = |server: &Server| (names(server).1 == ["web-clients"]).then_some(());
    stream.until("the authorization", has).await;

    server.delete(&authorization).await;
    stream
        .until("no authorization", |server| {
            names(server).1.is_empty().then_some(())
        })
        .await;
    server.delete(&object).await;
    stream
        .until("the default policy again", named("all-unauthenticated"))
        .await;
    let (_, page) = plane.page("/metrics").await.unwrap();
    let lag = page
        .lines()
        .find_map(|line| line.strip_prefix("servers_informer_lag_seconds_count "));
    assert_ne!(lag.unwrap(), "0", "changes are dated");
}

#[tokio::test]
async fn what_cannot_be_read_is_reported_by_object_and_field_and_hurts_nothing_else() {
    let Some((server, plane)) = shop().await else {
        return;
    };
    let mut stream = plane.watch("shop", "web", 8080).await;
    server.apply(&self::server("web", &json!({}))).await;
    let is_web = |server: &Server| (names(server).0 == "web").then_some(());
    stream.until("the Server", is_web).await;
    // The schema takes any protocol; only admission knows better.
    let bad = self::server("web", &json!({"proxyProtocol": "SPDY"}));
    server.apply(&bad).await;
    let reported = eventually("the problem", async || {
        let (_, page) = plane.page("/status").await?;
        let status: Value = serde_json::from_str(&page).ok()?;
        status["problems"].as_array()?.first().cloned()
    })
    .await;
    assert_eq!(reported["object"], "Server shop/web");
    assert_eq!(reported["field"], "spec.proxyProtocol");
    assert_eq!(reported["kept"], true);
    // What the schema can say, the API server refuses itself.
    let refused = server
        .try_apply(&self::server("no-port", &json!({"port": null})))
        .await;
    assert!(refused.unwrap_err().to_string().contains("port"));

    server
        .apply(&self::server(
            "web",
            &json!({"accessPolicy": "all-authenticated"}),
        ))
        .await;
    let is_mended = |server: &Server| (!server.authorizations.is_empty()).then_some(());
    stream.until("the mended version", is_mended).await;
    assert!(
        plane.log().contains("Server shop/web: spec.proxyProtocol"),
        "{}",
        plane.log()
    );
}

#[tokio::test]
async fn an_api_server_that_goes_and_comes_back_takes_nothing_away_and_its_news_apply() {
    let Some((mut server, plane)) = shop().await else {
        return;
    };
    server.apply(&self::server("web", &json!({}))).await;
    let is_web = |server: &Server| (names(server).0 == "web").then_some(());
    plane
        .watch("shop", "web", 8080)
        .await
        .until("the Server", is_web)
        .await;
    server.kill();
    eventually("that it is noticed", async || {
        plane.log().contains("Not watched for now").then_some(())
    })
    .await;
    // New streams are answered from what is known.
    let mut stream = plane.watch("shop", "web", 8080).await;
    stream.until("the Server", is_web).await;
    server.start_server().await;
    server
        .apply(&self::server(
            "web",
            &json!({"accessPolicy": "all-authenticated"}),
        ))
        .await;
    let is_new = |server: &Server| (!server.authorizations.is_empty()).then_some(());
    stream.until("the new version", is_new).await;
}

#[tokio::test]
async fn a_control_plane_waits_for_its_api_server_and_is_not_ready_before() {
    let Some(mut server) = ApiServer::start().await else {
        return;
    };
    server.kill();
    let plane = ControlPlane::spawn(&server);
    let (ready, _) = eventually("the admin server", async || plane.page("/ready").await).await;
    assert_eq!(ready, 503);
    let (live, _) = plane.page("/live").await.unwrap();
    assert_eq!(live, 200);
    server.start_server().await;
    eventually("readiness", async || {
        let (ready, _) = plane.page("/ready").await?;
        (ready == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_when_it_is_applied_and_what_cannot_be_meant_is_warned_of() {
    let Some((api, plane)) = shop().await else {
        return;
    };
    api.apply(&plane.webhook()).await;
    let bad = server("web", &json!({"proxyProtocol": "SPDY"}));
    // It takes a moment until the API server asks.
    let refused = eventually("a refusal", async || api.try_apply(&bad).await.err()).await;
    assert!(
        refused.to_string().contains("spec.proxyProtocol"),
        "{refused}"
    );
    let nobody = server(
        "nobody",
        &json!({"podSelector": {"matchLabels": {"app": "gone"}}}),
    );
    let warned = api.warnings(&nobody).await;
    assert!(
        warned
            .iter()
            .any(|text| text.contains("server-without-workload")),
        "{warned:?}"
    );

    assert_eq!(
        api.warnings(&server("web", &json!({"accessPolicy": "audit"})))
            .await,
        [""; 0]
    );
    let mut stream = plane.watch("shop", "web", 8080).await;
    let is_web = |server: &Server| (names(server).0 == "web").then_some(());
    stream.until("the Server", is_web).await;
    let second = api
        .try_apply(&server("web-too", &json!({})))
        .await
        .unwrap_err();
    assert!(
        second.to_string().contains("Server web selects"),
        "{second}"
    );
}
