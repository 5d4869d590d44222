//! Rows `outbound_api_failure_accrual`, and what routes inherit: annotations of Services, EgressNetworks and routes, as clients with
//! an open stream are told of them.

use super::*;
use api::{FailureAccrual, failure_accrual, proxy_protocol};
use std::{collections::HashMap, time::Duration};

const MODE: &str = "balancer.linkerd.io/failure-accrual";
const CONSECUTIVE: &str = "balancer.linkerd.io/failure-accrual-consecutive-";
const RATE: &str = "balancer.alpha.linkerd.io/failure-accrual-success-rate-";
const HONOR: &str = "balancer.alpha.linkerd.io/failure-accrual-honor-retry-after";
const PENALIZE: &str = "balancer.alpha.linkerd.io/penalize-failures";
const BIAS: &str = "balancer.alpha.linkerd.io/load-biaser-";

/// What a penalty is told as where nothing more is said.
const PENALTY: &str = "~5s,10s,300s";

fn time(limit: Option<impl TryInto<Duration>>) -> Duration {
    limit.unwrap().try_into().ok().unwrap()
}

/// What breaks circuits, as the message has it: the mode is more than what it comes to.
fn breaker(accrual: Option<FailureAccrual>) -> String {
    use failure_accrual::Kind;
    let Some(accrual) = accrual else {
        return "none".to_owned();
    };
    assert_eq!(accrual.ejection, None);
    let (mode, backoff) = match accrual.kind.unwrap() {
        Kind::ConsecutiveFailures(own) => {
            (format!("consecutive {}", own.max_failures), own.backoff)
        }
        Kind::Unified(own) => {
            let (failures, rate) = (own.max_consecutive_failures, own.success_rate_threshold);
            let (window, least) = (time(own.decay), own.min_requests);
            let mode = format!("unified {failures}, {rate} of {window:?} from {least}");
            (mode, own.backoff)
        }
    };
    let backoff = backoff.unwrap();
    let (min, max) = (time(backoff.min_backoff), time(backoff.max_backoff));
    let hint = if backoff.respect_retry_after_hint {
        " or as told"
    } else {
        ""
    };
    format!("{mode}; {min:?}..{max:?} {}{hint}", backoff.jitter_ratio)
}

/// The breakers of a policy for HTTP: both versions have the same.
fn breakers(message: &api::OutboundPolicy) -> String {
    let kind = message.protocol.as_ref().unwrap().kind.as_ref().unwrap();
    let detect = match kind {
        proxy_protocol::Kind::Detect(detect) => Some(detect),
        _ => None,
    };
    let detect = detect.expect("a port whose protocol is detected");
    let http1 = breaker(detect.http1.as_ref().unwrap().failure_accrual);
    let http2 = breaker(detect.http2.as_ref().unwrap().failure_accrual);
    assert_eq!(http1, http2);
    http1
}

/// Annotations, what breaks circuits, how load is estimated.
type Row = (Vec<(String, &'static str)>, &'static str, &'static str);

#[expect(clippy::too_many_lines, reason = "a table")]
fn rows() -> Vec<Row> {
    const CONSECUTIVE_7: &str = "consecutive 7; 1s..60s 0.5";
    const UNIFIED: &str = "unified 7, 0.8 of 10s from 5; 1s..60s 0.5";
    const HINTED: &str = "unified 7, 0.8 of 10s from 5; 1s..60s 0.5 or as told";
    let with = |mode: &'static str, rest: &[(&str, &str, &'static str)]| {
        let rest = rest
            .iter()
            .map(|(prefix, key, value)| (format!("{prefix}{key}"), *value));
        let mode = Some((MODE.to_owned(), mode)).filter(|(_, mode)| !mode.is_empty());
        mode.into_iter().chain(rest).collect::<Vec<_>>()
    };
    let consecutive = |rest: &[(&str, &str, &'static str)]| with("consecutive", rest);
    let unified = |rest: &[(&str, &str, &'static str)]| with("unified", rest);
    let c = CONSECUTIVE;
    let all = [
        (c, "max-failures", "8"),
        (c, "min-penalty", "2s"),
        (c, "max-penalty", "2m"),
        (c, "jitter-ratio", "1.5"),
    ];
    let rate = [
        (RATE, "threshold", "0.9"),
        (RATE, "window", "30s"),
        (RATE, "min-requests", "100"),
    ];
    vec![
        (vec![], "none", ""),
        (consecutive(&[]), CONSECUTIVE_7, ""),
        (consecutive(&all), "consecutive 8; 2s..120s 1.5", ""),
        (
            consecutive(&[(c, "max-failures", " 8 ")]),
            "consecutive 8; 1s..60s 0.5",
            "",
        ),
        (
            consecutive(&[(c, "jitter-ratio", "1")]),
            "consecutive 7; 1s..60s 1",
            "",
        ),
        (
            consecutive(&[(c, "min-penalty", "0")]),
            "consecutive 7; 0ns..60s 0.5",
            "",
        ),
        (
            consecutive(&[(c, "max-failures", "0")]),
            "consecutive 0; 1s..60s 0.5",
            "",
        ),
        // What cannot be read, or cannot be, switches breakers off.
        (consecutive(&[(c, "max-failures", "-1")]), "none", ""),
        (consecutive(&[(c, "min-penalty", "90s")]), "none", ""),
        (consecutive(&[(c, "min-penalty", "1.5s")]), "none", ""),
        (
            consecutive(&[(c, "min-penalty", "0"), (c, "max-penalty", "0")]),
            "none",
            "",
        ),
        (consecutive(&[(c, "jitter-ratio", "101")]), "none", ""),
        (with("sometimes", &all), "none", ""),
        (unified(&[]), UNIFIED, ""),
        (
            unified(&[&all[..], &rate].concat()),
            "unified 8, 0.9 of 30s from 100; 2s..120s 1.5",
            "",
        ),
        (
            unified(&[(RATE, "threshold", "0"), (RATE, "window", "5ms")]),
            "unified 7, 0 of 5ms from 5; 1s..60s 0.5",
            "",
        ),
        (unified(&[(RATE, "window", "5ms")]), "none", ""),
        (
            unified(&[(RATE, "threshold", "0"), (RATE, "window", "0")]),
            "none",
            "",
        ),
        (unified(&[(RATE, "threshold", "1.1")]), "none", ""),
        (unified(&[(RATE, "min-requests", "5.5")]), "none", ""),
        (unified(&[(RATE, "min-requests", "1000001")]), "none", ""),
        // What only the other mode has is of no effect.
        (consecutive(&rate), CONSECUTIVE_7, ""),
        (consecutive(&[(HONOR, "", "true")]), CONSECUTIVE_7, ""),
        (with("", &[(HONOR, "", "true")]), "none", ""),
        (unified(&[(HONOR, "", "true")]), HINTED, ""),
        (unified(&[(HONOR, "", "T")]), HINTED, ""),
        (unified(&[(HONOR, "", "yes")]), UNIFIED, ""),
        // Load.
        (with("", &[(PENALIZE, "", "true")]), "none", PENALTY),
        (with("", &[(PENALIZE, "", " 1 ")]), "none", PENALTY),
        (with("", &[(PENALIZE, "", "false")]), "none", ""),
        (with("", &[(PENALIZE, "", "yes")]), "none", ""),
        (
            unified(&[(PENALIZE, "", "true"), (HONOR, "", "true")]),
            HINTED,
            PENALTY,
        ),
        (
            with(
                "",
                &[
                    (PENALIZE, "", "true"),
                    (BIAS, "penalty", "2s"),
                    (BIAS, "max-retry-after", "1m"),
                ],
            ),
            "none",
            "~2s,10s,60s",
        ),
        (
            with("", &[(PENALIZE, "", "true"), (BIAS, "penalty", "50d")]),
            "none",
            "",
        ),
        (
            with("", &[(PENALIZE, "", "true"), (BIAS, "penalty", "0")]),
            "none",
            "~0ns,10s,300s",
        ),
        (with("", &[(BIAS, "penalty", "2s")]), "none", ""),
    ]
}

/// Writes annotations in place of those that an object has, at once.
pub(super) async fn annotate(api: &ApiServer, object: &Value, mut annotations: Value) {
    let found = api.get(&path(object)).await.unwrap();
    let before = found["metadata"]["annotations"].as_object();
    for name in before.into_iter().flatten().map(|(name, _)| name) {
        if annotations.get(name).is_none() {
            annotations[name] = Value::Null;
        }
    }
    let change = json!({"metadata": {"annotations": annotations}});
    api.merge(&path(object), &change).await;
}

pub(super) fn egress_network() -> Value {
    let spec = json!({"trafficPolicy": "Allow"});
    object("policy.linkerd.io/v1alpha1", "EgressNetwork", "out", &spec)
}

pub(super) fn to_out() -> Value {
    parent("policy.linkerd.io", "EgressNetwork", "out", Some(443))
}

pub(super) fn outside() -> Target {
    address([203, 0, 113, 7], 443)
}

#[tokio::test]
async fn circuit_breakers_and_estimates_of_load_are_what_annotations_say() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    let web = service("web", json!([]));
    let mut to_web = client.watch("shop", 80).await;
    api.apply(&egress_network()).await;
    // What an EgressNetwork's routes send to a Service is balanced.
    let back = backends(json!([{"name": "back", "port": 80}]));
    api.apply(&route("HTTPRoute", "r", &to_out(), back)).await;
    let mut to_outside = client.try_watch("shop", outside()).await.unwrap();
    for (number, (annotations, breaks, load)) in rows().into_iter().enumerate() {
        let mut all = json!(annotations.into_iter().collect::<HashMap<_, _>>());
        // With a limit of its own each row is another policy, which clients are told.
        let limit = format!("{}s", number + 1);
        all["timeout.linkerd.io/request"] = limit.clone().into();
        annotate(&api, &web, all.clone()).await;
        annotate(&api, &egress_network(), all.clone()).await;
        let end = if breaks == "none" { "" } else { "; breaker" };
        let own = format!("detect http: web:80{load} within {limit}{end}");
        // There it is never penalized.
        let egress = "http-egress-allow: 203.0.113.7:443";
        let other = format!("detect r: back:80*1 within {limit}; {egress} within {limit}{end}");
        for (stream, said) in [(&mut to_web, own), (&mut to_outside, other)] {
            let message = stream.until(&said, |told| told == said).await;
            assert_eq!(breakers(&message), breaks, "{all}");
        }
    }
}

#[tokio::test]
async fn penalties_are_those_of_the_parent_for_requests_and_of_nobody_for_connections() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    let web = service("web", json!([]));
    let back = service("back", json!([]));
    let mut stream = client.watch("shop", 80).await;
    stream.becomes("detect http: web:80").await;
    let penalizes = json!({PENALIZE: "true"});
    for (kind, speaks) in parents::KINDS {
        let rules = backends(json!([{"name": "back", "port": 80}]));
        let object = route(kind, "r", &to_web(), rules);
        api.apply(&object).await;
        stream.becomes(&format!("{speaks} r: back:80*1")).await;
        // Those of the backend itself do not count. What is said next comes after it.
        annotate(&api, &back, penalizes.clone()).await;
        let of_parent = if matches!(speaks, "detect" | "grpc") {
            PENALTY
        } else {
            ""
        };
        annotate(&api, &web, penalizes.clone()).await;
        if !of_parent.is_empty() {
            let told = stream.next().await;
            assert_eq!(told, format!("{speaks} r: back:80{of_parent}*1"));
        }
        api.delete(&object).await;
        let own = format!("detect http: web:80{PENALTY}");
        assert_eq!(stream.next().await, own, "{kind}");
        annotate(&api, &web, json!({})).await;
        stream.becomes("detect http: web:80").await;
        annotate(&api, &back, json!({})).await;
    }
    // Nor on a port that carries bytes.
    let opaque = json!({PENALIZE: "true", "config.linkerd.io/opaque-ports": "80"});
    annotate(&api, &web, opaque).await;
    stream.becomes("opaque opaq: web:80").await;
}

/// Annotations of a parent, of a route, and of them both together: what a route's requests are told.
fn inherited() -> [(Value, Value, &'static str, &'static str); 8] {
    let retry = |key: &str| format!("retry.linkerd.io/{key}");
    let timeout = |key: &str| format!("timeout.linkerd.io/{key}");
    let all = json!({
        retry("http"): "5xx,429", retry("grpc"): "internal,unavailable", retry("limit"): "3",
        retry("timeout"): "2s",
        timeout("request"): "9s", timeout("response"): "8s", timeout("idle"): "7s",
    });
    let limits = "within 9s response 8s idle 7s";
    let leak = |text: String| -> &'static str { text.leak() };
    let both = |rest: &str| {
        let http = format!("{limits} retried {rest}");
        leak(http)
    };
    [
        (
            json!({}),
            all.clone(),
            both("3x 500-599,429-429 or 2s"),
            both("3x 13,14 or 2s"),
        ),
        (
            all.clone(),
            json!({}),
            both("3x 500-599,429-429 or 2s"),
            both("3x 13,14 or 2s"),
        ),
        // Whoever says something of one of the two says all of it.
        (
            all.clone(),
            json!({retry("limit"): "5"}),
            leak(format!("{limits} retried 5x ")),
            leak(format!("{limits} retried 5x ")),
        ),
        (
            all.clone(),
            json!({timeout("idle"): "1s"}),
            "idle 1s retried 3x 500-599,429-429 or 2s",
            "idle 1s retried 3x 13,14 or 2s",
        ),
        (
            all.clone(),
            json!({timeout("request"): "0"}),
            "retried 3x 500-599,429-429 or 2s",
            "retried 3x 13,14 or 2s",
        ),
        // What is 0 is as good as absent, and what is for the others says nothing.
        (
            all.clone(),
            json!({retry("limit"): "0", retry("timeout"): "0"}),
            both("3x 500-599,429-429 or 2s"),
            both("3x 13,14 or 2s"),
        ),
        (
            all,
            json!({retry("http"): "gateway-error,400-404"}),
            leak(format!("{limits} retried 1x 502-504,400-404")),
            both("3x 13,14 or 2s"),
        ),
        (
            json!({retry("http"): "500", timeout("request"): "soon"}),
            json!({retry("grpc"): "Cancelled"}),
            "retried 1x 500-500",
            "retried 1x 1",
        ),
    ]
}

#[tokio::test]
async fn retries_and_limits_are_those_of_a_route_else_of_its_parent() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    let web = service("web", json!([]));
    api.apply(&egress_network()).await;
    let out = json!([{"group": "policy.linkerd.io", "kind": "EgressNetwork", "name": "out", "port": 443}]);
    let address = "203.0.113.7:443";
    for (parent, own, target, leads_to, rest) in [
        (to_web(), &web, None, "web:80", ""),
        (to_out(), &egress_network(), Some(outside()), address, "*1"),
    ] {
        let rules = if rest.is_empty() {
            json!([{}])
        } else {
            backends(out.clone())
        };
        let mut stream = match target {
            Some(target) => client.try_watch("shop", target).await.unwrap(),
            None => client.watch("shop", 80).await,
        };
        for (number, (of_parent, of_route, http, grpc)) in inherited().into_iter().enumerate() {
            annotate(&api, own, of_parent).await;
            for (kind, speaks) in parents::KINDS.into_iter().take(3) {
                let name = format!("r-{number}");
                let object = route(kind, &name, &parent, rules.clone());
                api.apply(&with(object.clone(), "annotations", of_route.clone()))
                    .await;
                let told = if speaks == "grpc" { grpc } else { http };
                let wanted = format!("{speaks} {name}: {leads_to}{rest} {told}");
                stream.becomes_first(wanted.trim()).await;
                api.delete(&object).await;
            }
        }
    }
}

#[tokio::test]
async fn a_limit_of_a_rule_counts_where_its_routes_annotations_name_none() {
    let Some((api, _plane, mut client)) = start().await else {
        return;
    };
    let web = service("web", json!([]));
    let mut stream = client.watch("shop", 80).await;
    let request = "timeout.linkerd.io/request";
    let response = "timeout.linkerd.io/response";
    for (number, (of_parent, of_route, of_rule, wanted)) in [
        (json!({}), json!({}), "7s", " within 7s"),
        (json!({}), json!({}), "1m30s", " within 90s"),
        (json!({}), json!({request: "5s"}), "7s", " within 5s"),
        (json!({}), json!({request: "0"}), "7s", ""),
        (
            json!({}),
            json!({response: "5s"}),
            "7s",
            " within 7s response 5s",
        ),
        // It is the route's own, and so puts aside what its parent says.
        (
            json!({request: "3s", response: "2s"}),
            json!({}),
            "7s",
            " within 7s",
        ),
        (json!({request: "3s", response: "2s"}), json!({}), "0s", ""),
    ]
    .into_iter()
    .enumerate()
    {
        annotate(&api, &web, of_parent).await;
        for kind in ["policy HTTPRoute", "HTTPRoute"] {
            let name = format!("r-{number}");
            let rules = json!([{"timeouts": {"request": of_rule, "backendRequest": "0s"}}]);
            let object = route(kind, &name, &to_web(), rules);
            api.apply(&with(object.clone(), "annotations", of_route.clone()))
                .await;
            let wanted = format!("detect {name}: web:80{wanted}");
            stream.becomes(&wanted).await;
            api.delete(&object).await;
        }
    }
}
