//! ServiceProfiles and TrafficSplits.

use super::{
    outbound::{http, service},
    *,
};

fn profile(name: &str, spec: &str) -> String {
    object("linkerd.io/v1alpha2", "ServiceProfile", name, spec)
}

const NAME: &str = "web.shop.svc.cluster.local";
const ROUTE: &str = "{name: a, condition: {pathRegex: /a, method: GET}}";

fn split(name: &str, service: &str, backends: &str) -> String {
    let spec = format!("{{service: {service}, backends: [{backends}]}}");
    object("split.smi-spec.io/v1alpha2", "TrafficSplit", name, &spec)
}

#[test]
fn profiles_and_splits_that_fit_have_no_findings() {
    let retried = ROUTE.replace("{name", "{isRetryable: true, name");
    let budget = "retryBudget: {retryRatio: 0.2, minRetriesPerSecond: 10, ttl: 10s}";
    let fits = profile(NAME, &format!("{{routes: [{retried}], {budget}}}"));
    assert_eq!(index(&[WEB, &service("{}"), &fits]).lint(), []);
    let fits = split(
        "s",
        "web",
        "{service: web, weight: 900m}, {service: web, weight: 0}",
    );
    assert_eq!(index(&[WEB, &service("{}"), &fits]).lint(), []);
}

#[test]
fn a_profile_is_of_a_service_and_says_something() {
    let check = "profile-without-service";
    let web = service("{}");
    let routes = format!("{{routes: [{ROUTE}]}}");
    finds(
        check,
        &[WEB, &web, &profile("wbe.shop.svc.cluster.local", &routes)],
        "Service shop/wbe does not exist",
    );
    finds(
        check,
        &[WEB, &web, &profile("web.shop.svc.other.test", &routes)],
        "is not the name of a Service of this cluster",
    );
    finds(
        check,
        &[WEB, &web, &profile("web.shop", &routes)],
        "is not the name of a Service",
    );
    silent(check, &[WEB, &web, &profile(NAME, &routes)]);
    let empty = profile(
        NAME,
        "{retryBudget: {retryRatio: 0.2, minRetriesPerSecond: 10, ttl: 10s}}",
    );
    finds(
        "profile-without-effect",
        &[WEB, &web, &empty],
        "has neither routes nor dstOverrides",
    );
    silent(
        "profile-without-effect",
        &[WEB, &web, &profile(NAME, &routes)],
    );
}

#[test]
fn retries_of_a_profile_and_its_budget_belong_together() {
    let check = "profile-retries";
    let web = service("{}");
    let with = |retryable: bool, budget: &str| {
        profile(
            NAME,
            &format!(
                "{{routes: [{{name: a, condition: {{method: GET}}, isRetryable: {retryable}}}]{budget}}}"
            ),
        )
    };
    let budget = ", retryBudget: {retryRatio: 0.2, minRetriesPerSecond: 10, ttl: 10s}";
    finds(
        check,
        &[WEB, &web, &with(true, "")],
        "20% of requests and 10 a second",
    );
    finds(
        check,
        &[WEB, &web, &with(false, budget)],
        "no route has isRetryable",
    );
    let none = ", retryBudget: {retryRatio: 0, minRetriesPerSecond: 0, ttl: 10s}";
    finds(
        check,
        &[WEB, &web, &with(true, none)],
        "nothing is retried in spite of isRetryable",
    );
    silent(check, &[WEB, &web, &with(true, budget)]);
    silent(check, &[WEB, &web, &with(false, "")]);
}

#[test]
fn of_the_routes_of_a_profile_those_that_never_match_are_named() {
    let check = "route-never-matches";
    let web = service("{}");
    let with = |first: &str| {
        profile(
            NAME,
            &format!("{{routes: [{{name: first, condition: {first}}}, {ROUTE}]}}"),
        )
    };
    for all in [
        "{pathRegex: .*}",
        "{method: GET}",
        "{pathRegex: /a, method: GET}",
        "{pathRegex: /.*, method: GET}",
    ] {
        finds(
            check,
            &[WEB, &web, &with(all)],
            "spec.routes[1] (a) never matches: first comes before it",
        );
    }
    for other in [
        "{method: POST}",
        "{pathRegex: /b}",
        "{all: [{method: GET}, {pathRegex: /b}]}",
        "{not: {method: GET}}",
    ] {
        silent(check, &[WEB, &web, &with(other)]);
    }
}

#[test]
fn a_profile_or_split_that_rules_in_place_of_routes_is_named() {
    let check = "route-hidden";
    let web = service("{retry.linkerd.io/http: 5xx}");
    let profile = profile(NAME, &format!("{{routes: [{ROUTE}]}}"));
    let split = split("s", "web", "{service: web, weight: 1}");
    let route = http("r", "{}");
    let message = "HTTPRoute r: has no effect on port 80 of Service shop/web: a ServiceProfile or TrafficSplit";
    finds(check, &[WEB, &web, &profile, &route], message);
    finds(check, &[WEB, &web, &split, &route], message);
    silent(check, &[WEB, &web, &route]);
    let check = "annotation-ignored";
    finds(
        check,
        &[WEB, &web, &profile],
        "annotations retry.linkerd.io/http have no effect: a ServiceProfile",
    );
    silent(check, &[WEB, &service("{}"), &profile]);
}

#[test]
fn splits_lead_from_and_to_services_that_exist() {
    let web = service("{}");
    let found =
        |check: &str, split: &str, message: &str| finds(check, &[WEB, &web, split], message);
    found(
        "split-without-service",
        &split("s", "wbe", "{service: web, weight: 1}"),
        "namespace shop has no Service wbe",
    );
    found(
        "split-without-service",
        &split(
            "s",
            "web.other.svc.cluster.local",
            "{service: web, weight: 1}",
        ),
        "namespace shop has no Service web.other",
    );
    let right = split(
        "s",
        "web.shop.svc.cluster.local",
        "{service: web, weight: 1}",
    );
    let none = split(
        "s",
        "web",
        "{service: gone, weight: 1}, {service: web, weight: 1}",
    );
    found("split-without-backend", &none, "spec.backends[0] is gone");
    found(
        "split-without-weight",
        &split("s", "web", "{service: web, weight: 0}"),
        "traffic goes to Service shop/web",
    );
    let second = split("t", "web", "{service: web, weight: 1}");
    finds(
        "split-overlap",
        &[WEB, &web, &right, &second],
        "TrafficSplit t: has no effect: TrafficSplit s comes first",
    );
    for check in [
        "split-without-service",
        "split-without-backend",
        "split-without-weight",
        "split-overlap",
    ] {
        silent(check, &[WEB, &web, &right]);
    }
    let overrides = |authority: &str, weight: &str| {
        profile(
            NAME,
            &format!("{{dstOverrides: [{{authority: '{authority}', weight: {weight}}}]}}"),
        )
    };
    let to_web = overrides("web.shop.svc.cluster.local.:80", "'1'");
    silent("split-without-backend", &[WEB, &web, &to_web]);
    found(
        "split-without-backend",
        &overrides("gone.shop.svc.cluster.local:80", "'1'"),
        "spec.dstOverrides[0] is gone.shop",
    );
    found(
        "split-without-weight",
        &overrides("web.shop.svc.cluster.local:80", "'0'"),
        "all weights of dstOverrides are 0",
    );
    finds(
        "split-overlap",
        &[WEB, &web, &right, &to_web],
        "TrafficSplit s: has no effect beside dstOverrides",
    );
}
