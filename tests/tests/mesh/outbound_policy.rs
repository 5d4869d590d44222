//! Policies that no manifest makes, and other control planes may send: each means something, and none breaks the sidecar.

use crate::{
    harness::{eventually, get, one_http1, one_http2, within},
    outbound::why,
    outbound_messages::{NOWHERE, SILENT, Says, Sides, add, message, to, to_catalog},
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linkerd_policy::{
    outbound::{
        Action, Distribution, GrpcPolicy, GrpcRoute, GrpcRule, HttpPolicy, HttpRoute, HttpRule,
        OutboundPolicy, Protocol, Queue, Ref, RouteBackend, StreamRoute,
    },
    proto,
};
use linkerd2_proxy_api::destination::{
    DestinationProfile, TlsIdentity,
    tls_identity::{DnsLikeIdentity, Strategy},
    update,
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

fn http_policy(backends: Distribution) -> HttpPolicy {
    let action = Action {
        backends,
        ..Action::default()
    };
    let rule = HttpRule {
        matches: Vec::new(),
        action,
    };
    HttpPolicy {
        routes: vec![HttpRoute {
            meta: Ref::default_named("route"),
            hosts: Vec::new(),
            rules: vec![rule],
        }],
        failure_accrual: None,
    }
}

impl Sides {
    /// The control plane says another policy; the sidecar has it.
    async fn says(&self, parent: &str, protocol: Protocol) {
        let name = parent.to_owned();
        let parent = Ref::default_named(parent);
        let policy = proto::outbound_to_api(&OutboundPolicy { parent, protocol });
        self.policies.send_replace(message(policy));
        eventually("the policy", async || {
            // Destinations in use are shown.
            let _used = self.client.connect(9000).await;
            let (_, page) = self.client.mesh.get_admin("/outbound").await?;
            page.contains(&format!("is default.{name} (")).then_some(())
        })
        .await;
    }
}

fn of_name(name: &str, path: &str, queue: Queue) -> RouteBackend {
    let mut backend = to(&Ref::default_named(name), path);
    backend.backend.queue = queue;
    backend
}

#[tokio::test]
async fn backends_without_any_weight_get_nothing_and_requests_are_told_so_in_every_protocol() {
    let sides = Sides::start().await;
    let client = &sides.client;
    let none = || {
        let backend = to_catalog(&Ref::default_named("catalog"));
        Distribution::RandomAvailable(vec![(backend.clone(), 0), (backend, 0)])
    };
    for (name, backends) in [("weightless", none()), ("empty", Distribution::Empty)] {
        sides
            .says(name, Protocol::Http1(http_policy(backends)))
            .await;
        let response = client.get(9000, "/").await;
        assert_eq!(response.status(), 503, "{name}");
        let text = "service unavailable: the route has no backend that takes requests";
        assert!(why(&response).ends_with(text), "{name}: {}", why(&response));
    }
    let grpc = GrpcPolicy {
        routes: vec![GrpcRoute {
            meta: Ref::default_named("route"),
            hosts: Vec::new(),
            rules: vec![GrpcRule {
                matches: Vec::new(),
                action: Action {
                    backends: none(),
                    ..Action::default()
                },
            }],
        }],
        failure_accrual: None,
    };
    sides.says("calls", Protocol::Grpc(grpc)).await;
    let call = Request::post("http://catalog.shop/shop.Catalog/List")
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap();
    let response = one_http2(client.connect(9000).await, call).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
    let stream = StreamRoute {
        meta: Ref::default_named("route"),
        snis: Vec::new(),
        backends: none(),
        refusal: None,
    };
    sides.says("bytes", Protocol::Opaque(vec![stream])).await;
    let mut stream = client.connect(9000).await;
    let _ = stream.write_all(b"hello").await;
    let mut answer = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
    // The sidecar lives, and does as it is told.
    let one = Distribution::FirstAvailable(vec![to_catalog(&Ref::default_named("catalog"))]);
    sides.says("good", Protocol::Http1(http_policy(one))).await;
    assert_eq!(client.status(9000).await, 200);
}

#[tokio::test]
async fn the_first_backend_is_taken_while_it_may_have_endpoints_and_then_the_next() {
    let sides = Sides::start().await;
    let client = &sides.client;
    let queue = Queue {
        capacity: 10,
        failfast_timeout: Duration::from_millis(300),
    };
    let backends = Distribution::FirstAvailable(vec![
        of_name("nowhere", NOWHERE, queue),
        of_name("catalog", "catalog.shop.svc.cluster.local:80", queue),
    ]);
    sides
        .says("two", Protocol::Http1(http_policy(backends)))
        .await;
    // One request finds out, in the time that policy allows. It is not sent elsewhere, since nothing retries it.
    let first = client.get(9000, "/").await;
    assert_eq!(first.status(), 504, "{}", why(&first));
    for _ in 0..20 {
        let response = client.get(9000, "/").await;
        assert_eq!(response.status(), 200, "{}", why(&response));
    }
    let requests = "outbound_http_route_backend_requests_total";
    let second = client
        .mesh
        .metric(requests, &[r#"backend_name="catalog""#])
        .await;
    assert!((second - 20.0).abs() < f64::EPSILON, "{second}");
}

#[tokio::test]
async fn what_policy_says_of_waiting_counts_unless_operators_say_otherwise() {
    let environment = [
        ("OUTBOUND_POLICY_LIMITS", "false"),
        ("OUTBOUND_HTTP_QUEUE_CAPACITY", "3"),
        ("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1s"),
        ("OUTBOUND_DETECT_TIMEOUT", "900ms"),
    ];
    for (variables, limit, capacity) in [(&environment[1..], 2.0, 1), (&environment, 1.0, 3)] {
        let sides = Sides::start_with(variables).await;
        let client = &sides.client;
        let queue = Queue {
            capacity: 1,
            failfast_timeout: Duration::from_secs(2),
        };
        let backends = Distribution::FirstAvailable(vec![of_name("nowhere", NOWHERE, queue)]);
        sides
            .says("waiting", Protocol::Http1(http_policy(backends)))
            .await;
        let stream = client.connect(9000).await;
        let first = tokio::spawn(one_http1(stream, get("/")));
        let length = "outbound_http_balancer_queue_length";
        eventually("one that waits", async || {
            (client.mesh.metric(length, &[]).await > 0.5).then_some(())
        })
        .await;
        let timeout = "outbound_http_balancer_queue_gate_timeout_seconds";
        let found = client
            .mesh
            .metric(timeout, &[r#"backend_name="nowhere""#])
            .await;
        assert!((found - limit).abs() < f64::EPSILON, "{found}");
        // As many as may wait do; the next is told.
        let mut others = Vec::new();
        for _ in 1..capacity {
            let stream = client.connect(9000).await;
            others.push(tokio::spawn(one_http1(stream, get("/"))));
        }
        eventually("all that may wait", async || {
            let length = client.mesh.metric(length, &[]).await;
            (length > f64::from(capacity) - 0.5).then_some(())
        })
        .await;
        let next = client.get(9000, "/").await;
        assert_eq!(next.status(), 503);
        let text = format!("{capacity} requests wait already");
        assert!(why(&next).ends_with(&text), "{}", why(&next));
        for waited in others.into_iter().chain([first]) {
            let waited = within("an answer", waited).await.unwrap().unwrap();
            assert_eq!(waited.status(), 504);
        }
    }
}

/// A policy that detects the protocol, and passes on what is not HTTP.
fn detecting(timeout: Duration) -> Protocol {
    let one = || Distribution::FirstAvailable(vec![to_catalog(&Ref::default_named("catalog"))]);
    Protocol::Detect {
        timeout,
        http1: http_policy(one()),
        http2: http_policy(one()),
        opaque: vec![StreamRoute {
            meta: Ref::default_named("bytes"),
            snis: Vec::new(),
            backends: one(),
            refusal: None,
        }],
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_after_the_time_that_policy_allows_for_detection() {
    // An hour by the environment, which does not count.
    let sides = Sides::start_with(&[("OUTBOUND_DETECT_TIMEOUT", "1h")]).await;
    let client = &sides.client;
    sides
        .says("detected", detecting(Duration::from_millis(100)))
        .await;
    let connection = client.connect(9000).await;
    let timeouts = "outbound_tcp_detect_http_results_total";
    eventually("the end of detection", async || {
        let label = [r#"result="read_timeout""#, r#"parent_name="detected""#];
        (client.mesh.metric(timeouts, &label).await > 0.5).then_some(())
    })
    .await;
    drop(connection);
}

#[tokio::test]
async fn a_name_of_which_the_control_plane_says_nothing_has_a_reason_of_its_own() {
    let sides = Sides::start().await;
    let client = &sides.client;
    let queue = Queue {
        capacity: 10,
        failfast_timeout: Duration::from_millis(300),
    };
    let backends = Distribution::FirstAvailable(vec![of_name("silent", SILENT, queue)]);
    sides
        .says("one", Protocol::Http1(http_policy(backends)))
        .await;
    for (status, says) in [(504, "service in fail-fast"), (503, "service unavailable")] {
        let response = client.get(9000, "/").await;
        let why = why(&response);
        assert_eq!(response.status(), status, "{why}");
        let text = format!("{says}: the control plane has named no endpoints yet");
        assert!(why.ends_with(&text), "{why}");
    }
    let unready = "outbound_http_balancer_unready_total";
    let unknown = client.mesh.metric(unready, &[r#"reason="unknown""#]).await;
    assert!((unknown - 2.0).abs() < f64::EPSILON, "{unknown}");
    let all = client.mesh.metric(unready, &[]).await;
    assert!((all - 2.0).abs() < f64::EPSILON, "{all}");
}

/// A connection for requests, and its end.
async fn http1(
    stream: TcpStream,
) -> (
    http1::SendRequest<Full<Bytes>>,
    JoinHandle<hyper::Result<()>>,
) {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection))
}

async fn http2(
    stream: TcpStream,
) -> (
    http2::SendRequest<Full<Bytes>>,
    JoinHandle<hyper::Result<()>>,
) {
    let (io, executor) = (TokioIo::new(stream), TokioExecutor::new());
    let (sender, connection) = http2::handshake(executor, io).await.unwrap();
    (sender, tokio::spawn(connection))
}

#[tokio::test]
async fn an_opaque_profile_means_bytes_whatever_policy_says() {
    let sides = Sides::start().await;
    let client = &sides.client;
    sides
        .says("detected", detecting(Duration::from_secs(10)))
        .await;
    assert_eq!(client.status(9000).await, 200);
    // Connections that have had a request, and will have one more when all has changed.
    let (mut kept, one) = http1(client.connect(9000).await).await;
    let (mut shared, both) = http2(client.connect(9000).await).await;
    assert_eq!(
        within("an answer", kept.send_request(get("/")))
            .await
            .unwrap()
            .status(),
        200
    );
    let asked = || {
        let request = Request::get("http://catalog.shop/");
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let answer = within("an answer", shared.send_request(asked())).await;
    assert_eq!(answer.unwrap().status(), 200);
    sides.profiles.send_replace(message(DestinationProfile {
        fully_qualified_name: "catalog.shop.svc.cluster.local".to_owned(),
        opaque_protocol: true,
        ..DestinationProfile::default()
    }));
    let opened = "outbound_tcp_route_open_total";
    eventually("a connection that is passed on as bytes", async || {
        // Whatever is under way when the change comes is answered.
        assert_eq!(client.status(9000).await, 200);
        (client.mesh.metric(opened, &[]).await > 0.5).then_some(())
    })
    .await;
    // Requests on what was made for requests go by what was known before, and are its last.
    let last = within("an answer", kept.send_request(get("/")))
        .await
        .unwrap();
    assert_eq!(last.status(), 200, "{}", why(&last));
    assert_eq!(last.headers()["connection"], "close");
    drop(last);
    within("the end of HTTP/1", one).await.unwrap().unwrap();
    let last = within("an answer", shared.send_request(asked())).await;
    assert_eq!(last.unwrap().status(), 200);
    within("GOAWAY", both).await.unwrap().unwrap();
    let requests = "outbound_http_route_request_duration_seconds_count";
    let before = client.mesh.metric(requests, &[]).await;
    // The application answers it as it is: bytes of HTTP are bytes.
    let response = one_http1(client.connect(9000).await, get("/"))
        .await
        .unwrap();
    assert_eq!(response.status(), 200, "{}", why(&response));
    let after = client.mesh.metric(requests, &[]).await;
    assert!(
        (after - before).abs() < f64::EPSILON,
        "not a request any more"
    );
    // And back.
    let plain = DestinationProfile {
        fully_qualified_name: "catalog.shop.svc.cluster.local".to_owned(),
        ..DestinationProfile::default()
    };
    sides.profiles.send_replace(Says::Message(Box::new(plain)));
    eventually("a request again", async || {
        assert_eq!(client.status(9000).await, 200);
        (client.mesh.metric(requests, &[]).await > after + 0.5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_used_as_it_is_described_costs_no_request_and_no_connection() {
    let sides = Sides::start().await;
    let client = &sides.client;
    sides
        .says("detected", detecting(Duration::from_secs(10)))
        .await;
    let mut update = add(&[client.at(10), client.at(20)]);
    let Some(update::Update::Add(set)) = update.update.as_mut() else {
        unreachable!()
    };
    // An identity that no certificate can have.
    let name = "web..shop".to_owned();
    set.addrs.last_mut().unwrap().tls_identity = Some(TlsIdentity {
        strategy: Some(Strategy::DnsLikeIdentity(DnsLikeIdentity {
            name: name.clone(),
        })),
        server_name: Some(DnsLikeIdentity { name }),
    });
    sides.endpoints.send_replace(message(update));
    let endpoints = "outbound_http_balancer_p2c_endpoints";
    eventually("both endpoints", async || {
        assert_eq!(client.status(9000).await, 200);
        (client.mesh.metric(endpoints, &[]).await > 1.5).then_some(())
    })
    .await;
    // Until it has been tried: as long as the other one looks better, it is not.
    let unusable = format!("{} connecting", client.at(20));
    eventually("a try of the other one", async || {
        for _ in 0..20 {
            let response = client.get(9000, "/").await;
            assert_eq!(response.status(), 200, "{}", why(&response));
        }
        let (_, page) = client.mesh.get_admin("/outbound").await?;
        page.contains(&unusable).then_some(())
    })
    .await;
    // Bytes: what the application makes of them is its answer.
    for _ in 0..20 {
        let mut stream = client.connect(9000).await;
        stream
            .write_all(b"\x00\x01bytes of no protocol")
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        within("the end", stream.read_to_end(&mut answer))
            .await
            .unwrap();
    }
    let closed = "outbound_tcp_route_close_total";
    let clean = client.mesh.metric(closed, &[r#"error="""#]).await;
    assert!((clean - 20.0).abs() < f64::EPSILON, "{clean}");
    let failed = client.mesh.metric(closed, &[]).await - clean;
    assert!(failed < 0.5, "{failed}");
}
