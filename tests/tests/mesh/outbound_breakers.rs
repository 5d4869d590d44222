//! Circuit breakers as an application behind its sidecar sees them: what trips them, that exactly one request probes,
//! and that they close again.

use crate::{
    harness::{eventually, get, one_http1, one_http2, within},
    outbound::{App, Client, app, counted, route, status, why},
    outbound_bodies::app as slow_app,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use std::sync::{
    Arc,
    atomic::{AtomicU16, AtomicUsize, Ordering},
};
use tokio::sync::watch;

const OUT: &str = "outbound_http_balancer_ejected_endpoints";
const EJECTIONS: &str = "outbound_http_balancer_ejections_total";

/// Annotations of a breaker; `more` without its prefix.
fn breaker(mode: &str, more: &[(&str, &str)]) -> String {
    let prefix = "balancer.linkerd.io/failure-accrual";
    let more = more
        .iter()
        .map(|(key, value)| match key.strip_prefix("alpha-") {
            Some(key) => format!(", balancer.alpha.linkerd.io/failure-accrual-{key}: '{value}'"),
            None => format!(", {prefix}-consecutive-{key}: '{value}'"),
        });
    format!("{prefix}: {mode}{}", more.collect::<String>())
}

/// Trips after three failures in a row, and probes after a moment.
fn three_in_a_row() -> String {
    let more = [
        ("max-failures", "3"),
        ("min-penalty", "300ms"),
        ("max-penalty", "300ms"),
        ("jitter-ratio", "0"),
    ];
    breaker("consecutive", &more)
}

async fn assert_metric(client: &Client, name: &str, labels: &[&str], want: f64) {
    let got = client.mesh.metric(name, labels).await;
    assert!(
        (got - want).abs() < f64::EPSILON,
        "{name}{labels:?}: {got}, not {want}"
    );
}

#[tokio::test]
async fn one_request_probes_while_the_others_wait_and_all_pass_when_it_went_well() {
    let client = Client::start(&three_in_a_row(), 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let (tell, told) = watch::channel(false);
    // Three failures, then answers when the test says so.
    let _app = slow_app(client.at(10), move |_| {
        let call = counted.fetch_add(1, Ordering::Relaxed);
        let mut told = told.clone();
        async move {
            let mut response = Response::new(Empty::new().boxed());
            if call < 3 {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            } else {
                let _ = told.wait_for(|told| *told).await;
            }
            response
        }
    })
    .await;
    for _ in 0..3 {
        assert_eq!(client.status(9000).await, 500);
    }
    assert_metric(&client, OUT, &[], 1.0).await;
    let asking: Vec<_> = (0..10)
        .map(|_| {
            let stream = tokio::net::TcpStream::connect(client.listener(9000));
            tokio::spawn(async move {
                one_http1(stream.await.unwrap(), get("/"))
                    .await
                    .unwrap()
                    .status()
            })
        })
        .collect();
    let waiting = "outbound_http_balancer_queue_length";
    eventually("the probe, and nine that wait", async || {
        let nine = client.mesh.metric(waiting, &[]).await;
        (calls.load(Ordering::Relaxed) == 4 && nine > 8.5).then_some(())
    })
    .await;
    assert_metric(&client, waiting, &[], 9.0).await;
    assert_eq!(calls.load(Ordering::Relaxed), 4, "one probe");
    tell.send(true).unwrap();
    for answer in asking {
        assert_eq!(within("an answer", answer).await.unwrap(), 200);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 13);
    assert_metric(&client, OUT, &[], 0.0).await;
}

#[tokio::test]
async fn a_probe_that_fails_shuts_the_endpoint_out_again() {
    let client = Client::start(&three_in_a_row(), 1, "", &[]).await;
    let code = Arc::new(AtomicU16::new(500));
    let calls = Arc::new(AtomicUsize::new(0));
    let (says, counted) = (code.clone(), calls.clone());
    let _app = app(client.at(10), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        status(says.load(Ordering::Relaxed))
    })
    .await;
    for _ in 0..3 {
        assert_eq!(client.status(9000).await, 500);
    }
    // Each of these waits for its turn and is a probe.
    for probes in 1..=2 {
        assert_eq!(client.status(9000).await, 500);
        assert_metric(&client, OUT, &[], 1.0).await;
        let failed = [r#"reason="failed_probe""#];
        assert_metric(&client, EJECTIONS, &failed, f64::from(probes)).await;
    }
    assert_eq!(calls.load(Ordering::Relaxed), 5);
    code.store(200, Ordering::Relaxed);
    assert_eq!(client.status(9000).await, 200);
    assert_metric(&client, OUT, &[], 0.0).await;
    // Two failures are no three in a row, whatever was before.
    code.store(500, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(client.status(9000).await, 500);
    }
    code.store(200, Ordering::Relaxed);
    assert_eq!(client.status(9000).await, 200);
    assert_metric(&client, OUT, &[], 0.0).await;
}

#[tokio::test]
async fn an_endpoint_whose_share_of_successes_falls_is_shut_out() {
    let more = [
        ("max-failures", "0"),
        ("min-penalty", "10s"),
        ("max-penalty", "10s"),
        ("alpha-success-rate-threshold", "0.7"),
        ("alpha-success-rate-min-requests", "10"),
    ];
    let client = Client::start(&breaker("unified", &more), 1, "", &[]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    // Two of three are good: no run of failures, but too few successes.
    let _app = app(client.at(10), move |_| {
        let is_bad = counted.fetch_add(1, Ordering::Relaxed) % 3 == 2;
        status(if is_bad { 500 } else { 200 })
    })
    .await;
    for _ in 0..9 {
        client.status(9000).await;
        assert_metric(&client, OUT, &[], 0.0).await;
    }
    assert_eq!(
        client.status(9000).await,
        200,
        "the tenth, with seven good ones"
    );
    while calls.load(Ordering::Relaxed) < 12 {
        client.status(9000).await;
    }
    assert_metric(&client, EJECTIONS, &[r#"reason="success_rate""#], 1.0).await;
    assert_metric(&client, OUT, &[], 1.0).await;
}

#[tokio::test]
async fn when_all_are_shut_out_a_request_is_told_so_in_bounded_time() {
    let more = [
        ("max-failures", "1"),
        ("min-penalty", "1m"),
        ("max-penalty", "1m"),
    ];
    let variables = [
        ("OUTBOUND_POLICY_LIMITS", "false"),
        ("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "200ms"),
    ];
    let client = Client::start(&breaker("consecutive", &more), 2, "", &variables).await;
    let _one = app(client.at(10), |_| status(500)).await;
    let _two = app(client.at(11), |_| status(500)).await;
    for _ in 0..2 {
        assert_eq!(client.status(9000).await, 500);
    }
    assert_metric(&client, OUT, &[], 2.0).await;
    let text = "circuit breakers leave out all of 2 endpoints";
    for want in [504, 503] {
        let response = client.get(9000, "/").await;
        assert_eq!(response.status(), want);
        assert!(why(&response).contains(text), "{}", why(&response));
    }
}

/// Answers each call with the code that was said last.
async fn coded(client: &Client) -> (App, Arc<AtomicU16>) {
    let code = Arc::new(AtomicU16::new(0));
    let says = code.clone();
    let app = app(client.at(10), move |_| {
        let mut response = Response::new(Full::default());
        let headers = response.headers_mut();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        headers.insert("grpc-status", says.load(Ordering::Relaxed).into());
        response
    })
    .await;
    (app, code)
}

/// A call that is answered with this code.
async fn call(client: &Client, code: &AtomicU16, number: u16) {
    code.store(number, Ordering::Relaxed);
    let request = Request::post("http://catalog.shop/shop.Catalog/List")
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap();
    let response = one_http2(client.connect(9000).await, request)
        .await
        .unwrap();
    assert_eq!(
        response.headers()["grpc-status"],
        number.to_string().as_str()
    );
}

#[tokio::test]
async fn calls_count_by_their_codes_and_by_those_that_operators_choose() {
    const OWN: [u16; 11] = [1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 16];
    const FAILURES: [u16; 5] = [2, 4, 13, 14, 15];
    let chosen = [("OUTBOUND_FAILURE_GRPC_CODES", "2,4,7,13,14,15")];
    for (variables, failures, own) in [
        (&[][..], &FAILURES[..], &OWN[..]),
        // As the peer has it: a call that is denied counts as well.
        (&chosen[..], &[7, 14][..], &[5][..]),
    ] {
        let policy = route("GRPCRoute", "  rules: [{}]");
        let client = Client::start(&three_in_a_row(), 1, &policy, variables).await;
        let (_app, code) = coded(&client).await;
        // The application's own answers, however often: not found, exhausted, and the like.
        for number in own {
            for _ in 0..3 {
                call(&client, &code, *number).await;
            }
            assert_metric(&client, OUT, &[], 0.0).await;
        }
        // Failures of the endpoint.
        for number in failures {
            for _ in 0..3 {
                call(&client, &code, *number).await;
            }
            assert_metric(&client, OUT, &[], 1.0).await;
            // A probe that goes well.
            call(&client, &code, 0).await;
            assert_metric(&client, OUT, &[], 0.0).await;
        }
        // The same in the older series.
        let failed = [r#"direction="outbound""#, r#"classification="failure""#];
        let counted = 3 * u32::try_from(failures.len()).unwrap();
        eventually("as many failures", async || {
            let found = client.mesh.metric("response_total", &failed).await;
            ((found - f64::from(counted)).abs() < f64::EPSILON).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_is_avoided_for_a_while_where_failures_are_penalised() {
    let annotations = "balancer.alpha.linkerd.io/penalize-failures: 'true', balancer.alpha.linkerd.io/load-biaser-penalty: 1000s";
    let client = Client::start(annotations, 2, "", &[]).await;
    // Faster than the other by far, and no breaker leaves it out.
    let (_bad, failed) = counted(client.at(10), 503).await;
    let _good = app(client.at(11), |_| status(200)).await;
    let mut answers = 0;
    eventually("a failure", async || {
        answers += u32::from(client.status(9000).await == 503);
        (answers > 0).then_some(())
    })
    .await;
    for _ in 0..100 {
        assert_eq!(client.status(9000).await, 200);
    }
    assert_eq!(failed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_endpoint_that_says_for_how_long_is_left_out_for_as_long() {
    let more = [
        ("max-failures", "1"),
        ("min-penalty", "1m"),
        ("max-penalty", "10m"),
        ("jitter-ratio", "0"),
        ("alpha-honor-retry-after", "true"),
        ("alpha-success-rate-threshold", "0"),
    ];
    for (hint, wanted) in [(Some("400"), 400.0), (None, 60.0)] {
        let variables = [
            ("OUTBOUND_POLICY_LIMITS", "false"),
            ("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "200ms"),
        ];
        let client = Client::start(&breaker("unified", &more), 1, "", &variables).await;
        let _app = app(client.at(10), move |_| {
            let mut response = status(503);
            if let Some(seconds) = hint {
                let seconds = seconds.parse().unwrap();
                response.headers_mut().insert("retry-after", seconds);
            }
            response
        })
        .await;
        assert_eq!(client.status(9000).await, 503);
        assert_metric(&client, OUT, &[], 1.0).await;
        let said = client.mesh.said();
        let line = said.lines().find(|line| line.contains("Endpoint left out"));
        let pause = line.unwrap().split("pause=").nth(1).unwrap();
        let seconds: f64 = pause.split('s').next().unwrap().parse().unwrap();
        assert!((seconds - wanted).abs() < 1.0, "{wanted}: {pause}");
    }
}
