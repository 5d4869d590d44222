//! Annotations of traffic, and what they come to.

use super::{
    outbound::{http, service},
    *,
};

fn annotated(route: &str, annotations: &str) -> String {
    route.replacen(
        "namespace: shop}",
        &format!("namespace: shop, annotations: {annotations}}}"),
        1,
    )
}

#[test]
fn annotations_of_traffic_that_say_nothing_are_named() {
    let check = "annotation-invalid";
    for (annotations, message) in [
        (
            "{policy.linkerd.io/outbound-mtls: requird}",
            "taken for `required`",
        ),
        (
            "{policy.linkerd.io/outbound-mtl: required}",
            "policy.linkerd.io/outbound-mtl is not known",
        ),
        (
            "{policy.linkerd.io/outbound-server-identities: ' , '}",
            "names nobody, and so every identity is taken",
        ),
        (
            "{retry.linkerd.io/http: 5xy, retry.linkerd.io/limit: '2'}",
            "annotations retry.linkerd.io/* are ignored, and only what no endpoint has begun is sent again: retry.linkerd.io/http: `5xy` cannot be read",
        ),
        (
            "{timeout.linkerd.io/request: 2 s, timeout.linkerd.io/idle: 1s}",
            "annotations timeout.linkerd.io/* are ignored, and no timeout applies: timeout.linkerd.io/request: `2 s`",
        ),
        (
            "{balancer.linkerd.io/failure-accrual: consecutiv, balancer.linkerd.io/failure-accrual-consecutive-max-failures: '3'}",
            "failure-accrual* are ignored, and there is no circuit breaker: balancer.linkerd.io/failure-accrual: `consecutiv` cannot",
        ),
        (
            "{balancer.linkerd.io/failure-accrual: consecutive, balancer.linkerd.io/failure-accrual-consecutive-max-failures: many}",
            "max-failures: `many` cannot be read",
        ),
        (
            "{balancer.linkerd.io/failure-accrual: consecutive, balancer.linkerd.io/failure-accrual-consecutive-min-penalty: 40s, balancer.linkerd.io/failure-accrual-consecutive-max-penalty: 30s}",
            "they contradict each other",
        ),
        (
            "{balancer.alpha.linkerd.io/penalize-failures: 'yes'}",
            "`yes` is not known, and is taken for `false`",
        ),
        (
            "{retry.linkerd.io/htp: 5xx}",
            "retry.linkerd.io/htp is not known",
        ),
    ] {
        finds(check, &[WEB, &service(annotations)], message);
    }
    let right = "{policy.linkerd.io/outbound-mtls: preferred, retry.linkerd.io/http: '5xx,429', timeout.linkerd.io/idle: 1m, balancer.linkerd.io/failure-accrual: unified, balancer.alpha.linkerd.io/penalize-failures: 'true', viz.linkerd.io/http: x, policy.linkerd.io/other: x}";
    assert_eq!(index(&[WEB, &service(right)]).lint(), []);
}

#[test]
fn an_annotation_that_is_misspelt_gets_the_one_that_was_meant() {
    for (name, meant) in [
        (
            "retry.linkerd.io/htpp",
            "did you mean retry.linkerd.io/http?",
        ),
        (
            "retries.linkerd.io/limit",
            "did you mean retry.linkerd.io/limit?",
        ),
        (
            "timeout.linkerd.io/reqest",
            "did you mean timeout.linkerd.io/request?",
        ),
        (
            "balancer.linkerd.io/failure-accrual-success-rate-threshold",
            "did you mean balancer.alpha.linkerd.io/failure-accrual-success-rate-threshold?",
        ),
        (
            "retry.linkerd.io/backoff",
            "there are retry.linkerd.io/{http, grpc, limit, timeout}",
        ),
    ] {
        let findings = index(&[WEB, &service(&format!("{{{name}: '1'}}"))]).lint();
        let fix = |f: &&Finding| f.check == "annotation-invalid";
        assert_eq!(findings.iter().find(fix).unwrap().fix, meant, "{name}");
    }
}

#[test]
fn annotations_that_have_no_effect_where_they_stand_are_named() {
    let check = "annotation-ignored";
    let web = service("{}");
    let route = |annotations: &str| annotated(&http("r", "{}"), annotations);
    for (annotations, message) in [
        (
            "{balancer.linkerd.io/failure-accrual: unified}",
            "they count on a Service or EgressNetwork",
        ),
        (
            "{policy.linkerd.io/outbound-mtls: required}",
            "has no effect on HTTPRoutes",
        ),
    ] {
        finds(check, &[WEB, &web, &route(annotations)], message);
    }
    let tcp = route("{retry.linkerd.io/http: 5xx}")
        .replace("HTTPRoute", "TCPRoute")
        .replace("io/v1\n", "io/v1alpha2\n");
    finds(
        check,
        &[WEB, &web, &tcp],
        "a TCPRoute has connections, not requests",
    );
    let inbound = annotated(&attached("r", ""), "{timeout.linkerd.io/request: 1s}");
    finds(
        check,
        &[&server("web", ""), &inbound],
        "the route is attached to a Server",
    );
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {retry.linkerd.io/http: 5xx}}";
    finds(
        check,
        &[namespace],
        "Namespace shop: annotation retry.linkerd.io/http has no effect",
    );
    for (annotations, needs) in [
        (
            "{balancer.linkerd.io/failure-accrual-consecutive-max-failures: '3'}",
            "consecutive or unified",
        ),
        (
            "{balancer.linkerd.io/failure-accrual: consecutive, balancer.alpha.linkerd.io/failure-accrual-success-rate-window: 5s}",
            "has no effect without balancer.linkerd.io/failure-accrual: unified",
        ),
        (
            "{balancer.alpha.linkerd.io/load-biaser-penalty: 5s}",
            "penalize-failures",
        ),
    ] {
        finds(check, &[WEB, &service(annotations)], needs);
    }
    silent(check, &[WEB, &web, &route("{retry.linkerd.io/http: 5xx}")]);
}

#[test]
fn retries_of_nothing_are_named() {
    let check = "retry-without-effect";
    let web = service("{}");
    let grpc = http("r", "{}").replace("HTTPRoute", "GRPCRoute");
    let http = http("r", "{}");
    for (route, annotations, message) in [
        (
            &http,
            "{retry.linkerd.io/limit: '2'}",
            "limit stands alone: no answer is retried",
        ),
        (
            &http,
            "{retry.linkerd.io/limit: '0', retry.linkerd.io/http: 5xx}",
            "retries are limited to 1",
        ),
        (
            &http,
            "{retry.linkerd.io/grpc: unavailable}",
            "is for gRPC calls",
        ),
        (
            &grpc,
            "{retry.linkerd.io/http: 5xx}",
            "failed gRPC calls have status 200",
        ),
    ] {
        finds(check, &[WEB, &web, &annotated(route, annotations)], message);
    }
    finds(
        check,
        &[WEB, &service("{retry.linkerd.io/limit: '2'}")],
        "Service web: annotation",
    );
    for (route, annotations) in [
        (
            &http,
            "{retry.linkerd.io/limit: '2', retry.linkerd.io/http: 5xx}",
        ),
        (&http, "{retry.linkerd.io/timeout: 1s}"),
        (
            &grpc,
            "{retry.linkerd.io/limit: '2', retry.linkerd.io/grpc: unavailable}",
        ),
    ] {
        silent(check, &[WEB, &web, &annotated(route, annotations)]);
    }
}

#[test]
fn limits_that_are_never_reached_are_named() {
    let check = "timeout-never-reached";
    let long = "{retry.linkerd.io/http: 5xx, retry.linkerd.io/timeout: 3s, timeout.linkerd.io/request: 2500ms}";
    let message =
        "retry.linkerd.io/timeout of 3s is not shorter than the request's limit of 2500ms";
    finds(
        check,
        &[WEB, &service(long)],
        &format!("Service web: {message}"),
    );
    let route = annotated(&http("r", "{}"), long);
    finds(
        check,
        &[WEB, &service("{}"), &route],
        &format!("HTTPRoute r: {message}"),
    );
    // What is in force counts, whoever says it.
    let retried = service("{retry.linkerd.io/http: 5xx, retry.linkerd.io/timeout: 3s}");
    let limited = http("r", "{timeouts: {request: 1s}}");
    finds(
        check,
        &[WEB, &retried, &limited],
        "HTTPRoute r: retry.linkerd.io/timeout of 3s",
    );
    finds(
        check,
        &[
            WEB,
            &service("{timeout.linkerd.io/response: 2s, timeout.linkerd.io/request: 2s}"),
        ],
        "timeout.linkerd.io/response of 2s",
    );
    silent(
        check,
        &[WEB, &retried, &http("r", "{timeouts: {request: 4s}}")],
    );
}

#[test]
fn mutual_tls_that_no_endpoint_can_give_is_named() {
    let check = "mtls-refuses-endpoint";
    let vm = |annotations: &str| service(annotations).replace("app: web", "app: vm");
    let asked = "{policy.linkerd.io/outbound-server-identities: 'spiffe://root.test/other'}";
    finds(
        check,
        &[VM, &vm(asked)],
        "no endpoint may get anything: all is refused with 502: port 80 of vm (spiffe://root.test/vm)",
    );
    silent(
        check,
        &[
            VM,
            &vm("{policy.linkerd.io/outbound-server-identities: 'spiffe://root.test/vm'}"),
        ],
    );
    silent(
        check,
        &[VM, &vm("{policy.linkerd.io/outbound-mtls: required}")],
    );
    let plain = format!("{WEB}status: {{podIP: 10.1.0.9, podIPs: [{{ip: 10.1.0.9}}]}}\n");
    let required = "{policy.linkerd.io/outbound-mtls: required}";
    finds(check, &[&plain, &service(required)], "(no identity)");
    silent(
        check,
        &[
            &plain,
            &service("{policy.linkerd.io/outbound-mtls: preferred}"),
        ],
    );
}

#[test]
fn opaque_ports_of_a_service_are_its_own() {
    let with = |list: &str| service(&format!("{{config.linkerd.io/opaque-ports: '{list}'}}"));
    finds(
        "annotation-invalid",
        &[WEB, &with("80,http")],
        "`http` is neither a number, a range nor the name of a port of this Service",
    );
    finds(
        "annotation-ignored",
        &[WEB, &with("8080")],
        "`8080` names no port of this Service",
    );
    assert_eq!(index(&[WEB, &with("80")]).lint(), []);
}
