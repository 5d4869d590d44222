//! Failures that policy injects on the way out: all requests of a rule, a share of them, those of one backend, calls.

use crate::{
    harness::{eventually, one_http2},
    outbound::why,
    outbound_messages::{Sides, message, to_catalog},
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use linkerd_policy::{
    outbound::{
        Action, Distribution, GrpcPolicy, GrpcRoute, GrpcRule, HttpPolicy, HttpRoute, HttpRule,
        OutboundPolicy, Protocol, Ref,
    },
    proto,
    server::{FailureInjector, Filter, HttpMatch, PathMatch},
};

fn failure(status: u16, message: &str, ratio: Option<(u32, u32)>) -> Filter {
    Filter::Failure(FailureInjector {
        status,
        message: message.into(),
        ratio,
    })
}

fn action(filters: Vec<Filter>, of_backend: Vec<Filter>) -> Action {
    let mut backend = to_catalog(&Ref::default_named("catalog"));
    backend.filters = of_backend;
    Action {
        filters,
        backends: Distribution::FirstAvailable(vec![backend]),
        ..Action::default()
    }
}

/// A rule for a path.
fn rule(path: &str, action: Action) -> HttpRule {
    HttpRule {
        matches: vec![HttpMatch {
            path: Some(PathMatch::Prefix(path.into())),
            ..HttpMatch::default()
        }],
        action,
    }
}

fn http(rules: Vec<HttpRule>) -> Protocol {
    let route = HttpRoute {
        meta: Ref::default_named("route"),
        hosts: Vec::new(),
        rules,
    };
    Protocol::Http1(HttpPolicy {
        routes: vec![route],
        failure_accrual: None,
    })
}

fn grpc(action: Action) -> Protocol {
    let route = GrpcRoute {
        meta: Ref::default_named("route"),
        hosts: Vec::new(),
        rules: vec![GrpcRule {
            matches: Vec::new(),
            action,
        }],
    };
    Protocol::Grpc(GrpcPolicy {
        routes: vec![route],
        failure_accrual: None,
    })
}

impl Sides {
    /// The control plane says another policy.
    fn say(&self, protocol: Protocol) {
        let parent = Ref::default_named("injected");
        let policy = proto::outbound_to_api(&OutboundPolicy { parent, protocol });
        self.policies.send_replace(message(policy));
    }
}

#[tokio::test]
async fn an_injected_failure_has_its_status_and_text_and_its_share_of_the_requests() {
    let sides = Sides::start().await;
    let client = &sides.client;
    let quarter = failure(503, "one of four", Some((1, 4)));
    sides.say(http(vec![
        rule("/", action(Vec::new(), Vec::new())),
        rule(
            "/all",
            action(vec![failure(418, "a teapot", None)], Vec::new()),
        ),
        rule("/some", action(vec![quarter], Vec::new())),
        rule(
            "/none",
            action(vec![failure(500, "never", Some((0, 4)))], Vec::new()),
        ),
        rule(
            "/backend",
            action(Vec::new(), vec![failure(507, "of the backend", None)]),
        ),
    ]));
    let teapot = eventually("the policy", async || {
        let response = client.get(9000, "/all").await;
        (response.status() == 418).then_some(response)
    })
    .await;
    assert!(why(&teapot).ends_with("a teapot"), "{}", why(&teapot));
    let backend = client.get(9000, "/backend").await;
    assert_eq!(backend.status(), 507);
    assert!(
        why(&backend).ends_with("of the backend"),
        "{}",
        why(&backend)
    );
    // What a rule injects is counted as what it is: 418 blames the client, 507 does not.
    let fate = async |fate: &str| {
        let label = format!("fate=\"{fate}\"");
        let name = "outbound_route_request_fates_total";
        client.mesh.metric(name, &[&label]).await
    };
    assert!(fate("success").await >= 1.0);
    assert!(fate("failed").await >= 1.0);
    assert_eq!(client.get(9000, "/").await.status(), 200);
    for _ in 0..20 {
        assert_eq!(client.get(9000, "/none").await.status(), 200);
    }
    let mut failed = 0u32;
    for _ in 0..1000 {
        let response = client.get(9000, "/some").await;
        match response.status().as_u16() {
            200 => {}
            503 => failed += 1,
            other => panic!("{other}"),
        }
    }
    let chi = (f64::from(failed) - 250.0).powi(2) * (1.0 / 250.0 + 1.0 / 750.0);
    // One degree of freedom: above this once in a million.
    assert!(chi < 24.0, "{failed} of 1000");
    // As gRPC, by HTTP's policy.
    let call = Request::post("http://catalog.shop/all")
        .header("content-type", "application/grpc")
        .body(Full::<Bytes>::default())
        .unwrap();
    sides.say(Protocol::Http2(HttpPolicy {
        routes: vec![HttpRoute {
            meta: Ref::default_named("route"),
            hosts: Vec::new(),
            rules: vec![rule(
                "/",
                action(vec![failure(418, "a teapot", None)], Vec::new()),
            )],
        }],
        failure_accrual: None,
    }));
    let code = eventually("HTTP/2", async || {
        let response = one_http2(client.connect(9000).await, call.clone())
            .await
            .ok()?;
        response.headers().get("grpc-status").cloned()
    })
    .await;
    assert_eq!(code, "9");
}

#[tokio::test]
async fn a_call_is_failed_with_the_code_that_policy_says() {
    let sides = Sides::start().await;
    let client = &sides.client;
    sides.say(grpc(action(vec![failure(8, "too much", None)], Vec::new())));
    let call = Request::post("http://catalog.shop/shop.Catalog/List")
        .header("content-type", "application/grpc")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = eventually("the policy", async || {
        let response = one_http2(client.connect(9000).await, call.clone())
            .await
            .ok()?;
        response
            .headers()
            .contains_key("grpc-status")
            .then_some(response)
    })
    .await;
    assert_eq!(response.headers()["grpc-status"], "8");
    assert!(why(&response).ends_with("too much"), "{}", why(&response));
    let failed = [r#"grpc_status="RESOURCE_EXHAUSTED""#];
    let count = client
        .mesh
        .metric("outbound_grpc_route_request_statuses_total", &failed)
        .await;
    assert!(count > 0.5, "{count}");
}
