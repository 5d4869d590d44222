//! ServiceProfiles that the command prints: the webhook takes them, and a client of the Service is told by them what the
//! documents said that they were made of.

use super::Cli;
use crate::{
    admit::{configuration, is_called},
    control_plane::ControlPlane,
    destination::{TOKEN, next, service},
    policy::shop,
    server::ApiServer,
};
use http::{Method, StatusCode};
use linkerd_policy::{
    outbound::{profile::Profile, router::ProfileRouter},
    proto::profile_from_api,
};
use linkerd_tests::eventually;
use linkerd2_proxy_api::destination::{GetDestination, destination_client::DestinationClient};
use serde_json::{Value, json};
use std::{fs, time::Duration};

const OPEN_API: &str = r#"
openapi: 3.0.3
info: {title: Orders, version: "1"}
servers: [{url: "https://orders.example/v1"}]
paths:
  /orders/{id}:
    get:
      x-linkerd-retryable: true
      x-linkerd-timeout: 250ms
      responses: {"200": {description: ok}, "501": {description: no}, default: {description: else}}
    delete: {responses: {"204": {description: gone}}}
  /orders/open.json:
    get: {responses: {"200": {description: ok}}}
"#;

const PROTO: &str = r#"
syntax = "proto3";
package shop.v1;
service Orders {
  // What there is.
  rpc List (Query) returns (stream Order);
  rpc Get (Query) returns (Order) { option idempotency_level = NO_SIDE_EFFECTS; }
}
message Query { string id = 1; }
message Order { string id = 1; }
"#;

/// The profile of `web` that clients are told, once it has these routes.
async fn told(plane: &ControlPlane, routes: &[&str]) -> Profile {
    let address = format!("http://{}", plane.destination);
    let mut client = DestinationClient::connect(address).await.unwrap();
    let asked = || GetDestination {
        path: "web.shop.svc.cluster.local:80".to_owned(),
        context_token: TOKEN.to_owned(),
        ..GetDestination::default()
    };
    let stream = eventually("a profile", async || client.get_profile(asked()).await.ok());
    let mut stream = stream.await.into_inner();
    loop {
        let (profile, invalid) = profile_from_api(next(&mut stream).await);
        assert!(invalid.is_empty(), "{invalid:?}");
        let names = profile
            .routes
            .iter()
            .map(|route| route.labels["route"].as_str());
        if names.eq(routes.iter().copied()) {
            return profile;
        }
    }
}

/// The route of a request, by its name.
fn route<'a>(profile: &'a Profile, method: Method, path: &str) -> Option<&'a str> {
    let router = ProfileRouter::new(profile);
    assert!(router.warnings().is_empty(), "{:?}", router.warnings());
    let at = router.find(&method, path)?;
    Some(&profile.routes[at].labels["route"])
}

/// What the command prints for a document.
async fn printed(cli: &Cli, kind: &str, file: &str) -> Value {
    let said = cli
        .run(&format!("profile {kind} {file} web -n shop -o json"))
        .await;
    assert_eq!(said.code, 0, "{}", said.err);
    serde_json::from_str(&said.out).unwrap()
}

#[tokio::test]
async fn profiles_that_are_printed_are_admitted_and_mean_what_they_were_made_of() {
    let Some((api, plane)) = shop().await else {
        return;
    };
    api.apply(&configuration(&plane, "Fail")).await;
    is_called(&api).await;
    api.apply(&service(
        "web",
        &json!({"ports": [{"name": "http", "port": 80}]}),
    ))
    .await;
    let cli = Cli(api.kubeconfig());
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file.display().to_string()
    };

    let document = write("orders.yaml", OPEN_API);
    let profile = printed(&cli, "--open-api", &document).await;
    api.apply(&profile).await;
    let [open, delete, get] = [
        "GET /v1/orders/open.json",
        "DELETE /v1/orders/{id}",
        "GET /v1/orders/{id}",
    ];
    let known = told(&plane, &[open, delete, get]).await;
    for (method, path, wanted) in [
        (Method::GET, "/v1/orders/open.json", Some(open)),
        (Method::GET, "/v1/orders/openXjson", Some(get)),
        (Method::GET, "/v1/orders/7", Some(get)),
        (Method::DELETE, "/v1/orders/7", Some(delete)),
        (Method::POST, "/v1/orders/7", None),
        (Method::GET, "/orders/7", None),
        (Method::GET, "/v1/orders/7/lines", None),
    ] {
        assert_eq!(route(&known, method, path), wanted, "{path}");
    }
    let is_failure = |status: u16| {
        let status = StatusCode::from_u16(status).unwrap();
        ProfileRouter::new(&known).is_failure(2, status)
    };
    let failures = [200, 404, 501].map(is_failure);
    assert_eq!(failures, [Some(false), None, Some(true)]);
    let retried = known
        .routes
        .iter()
        .map(|route| (route.is_retryable, route.timeout));
    let limit = Some(Duration::from_millis(250));
    assert_eq!(
        retried.collect::<Vec<_>>(),
        [(false, None), (false, None), (true, limit)]
    );

    let document = write("orders.proto", PROTO);
    api.apply(&printed(&cli, "--proto", &document).await).await;
    let known = told(&plane, &["List", "Get"]).await;
    for (method, path, wanted) in [
        (Method::POST, "/shop.v1.Orders/List", Some("List")),
        (Method::POST, "/shop.v1.Orders/Get", Some("Get")),
        (Method::GET, "/shop.v1.Orders/Get", None),
        (Method::POST, "/shopXv1.Orders/Get", None),
        (Method::POST, "/shop.v1.Carts/Get", None),
    ] {
        assert_eq!(route(&known, method, path), wanted, "{path}");
    }
    example(&api, &cli).await;
}

/// The example is taken as it is, and what is wrong is said by its field, with nothing that could be applied.
async fn example(api: &ApiServer, cli: &Cli) {
    let text = cli
        .good("profile --template --ignore-cluster web -n shop")
        .await;
    assert!(text.starts_with("# "), "{text}");
    api.apply(&serde_norway::from_str(&text).unwrap()).await;
    for (words, code, wanted) in [
        ("web", 2, "--template"),
        (
            "--template web.shop",
            2,
            "SERVICE: \"web.shop\" is no DNS label",
        ),
        (
            "--template web -n Shop",
            2,
            "--namespace: \"Shop\" is no DNS label",
        ),
        ("--open-api /nowhere web", 1, "/nowhere: "),
    ] {
        let said = cli.run(&format!("profile --ignore-cluster {words}")).await;
        assert_eq!((said.code, said.out.as_str()), (code, ""), "{words}");
        assert!(said.err.contains(wanted), "{words}: {}", said.err);
    }
}
