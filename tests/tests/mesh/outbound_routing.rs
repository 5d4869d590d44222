//! Which rule takes a request, over real sockets: each kind of match with what it takes and what it leaves, each pair of
//! matches of which one comes first, and each filter.

use crate::{
    harness::{eventually, one_http1, one_http2},
    origin,
    outbound::{Client, app, pod, service, status, text, why},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

/// `METHOD host target`, and a header for each further line.
fn request(asked: &str, is_http2: bool) -> Request<Full<Bytes>> {
    let mut lines = asked.split(" | ");
    let words: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let [method, host, target] = words.as_slice() else {
        panic!("{asked}");
    };
    let request = Request::builder().method(*method);
    let mut request = if is_http2 {
        request.uri(format!("http://{host}{target}"))
    } else {
        request.uri(*target).header("host", *host)
    };
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    request.body(Full::default()).unwrap()
}

/// What a request is answered over both versions of HTTP, which is the same.
async fn ask(client: &Client, port: u16, asked: &str) -> Response<Incoming> {
    let stream = client.connect(port).await;
    let first = one_http1(stream, request(asked, false)).await.unwrap();
    let stream = client.connect(port).await;
    let second = one_http2(stream, request(asked, true)).await.unwrap();
    assert_eq!(first.status(), second.status(), "{asked}");
    let location = |response: &Response<Incoming>| response.headers().get("location").cloned();
    assert_eq!(location(&first), location(&second), "{asked}");
    first
}

/// The rule that took a request, as its filter told the application. `None`: no route.
async fn taken_by(client: &Client, port: u16, asked: &str) -> Option<String> {
    let response = ask(client, port, asked).await;
    if response.status() == StatusCode::NOT_FOUND {
        assert!(
            why(&response).ends_with("no route"),
            "{asked}: {}",
            why(&response)
        );
        return None;
    }
    assert_eq!(response.status(), 200, "{asked}: {}", why(&response));
    let said = text(response).await;
    let name = said.lines().find_map(|line| line.strip_prefix("x-rule: "));
    Some(name.unwrap_or_else(|| panic!("{said}")).to_owned())
}

/// A rule that says its name to the application.
fn rule(name: &str, matches: &str) -> String {
    format!(
        "  - matches: [{matches}]
    filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-rule, value: {name}}}]}}}}]
"
    )
}

fn named_route(kind: &str, name: &str, service: &str, hosts: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: core, kind: Service, name: {service}}}]
  hostnames: [{hosts}]
  rules:
{rules}---
"
    )
}

/// A match, what it takes and what it leaves.
type Kind = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const HTTP_KINDS: [Kind; 12] = [
    (
        "{path: {type: Exact, value: /c0/a}}",
        &["GET k /c0/a", "GET k /c0/a?q=1", "POST k /c0/a"],
        &["GET k /c0/a/", "GET k /c0/ab", "GET k /c0/A", "GET k /c0"],
    ),
    (
        "{path: {type: PathPrefix, value: /c1/a/}}",
        &["GET k /c1/a", "GET k /c1/a/", "GET k /c1/a/b?q=1"],
        &["GET k /c1/ab", "GET k /c1", "GET k /x/c1/a"],
    ),
    (
        "{path: {type: RegularExpression, value: '/c2/[a-z]+'}}",
        &["GET k /c2/abc", "GET k /c2/abc?q=1"],
        &["GET k /c2/abc/d", "GET k /c2/1", "GET k /x/c2/abc"],
    ),
    (
        "{path: {value: /c3}, headers: [{name: X-Beta, value: 'on'}]}",
        &[
            "GET k /c3 | x-beta: on",
            "GET k /c3 | x-beta: off | x-beta: on",
        ],
        &[
            "GET k /c3",
            "GET k /c3 | x-beta: ON",
            "GET k /c3 | x-beta: on, off",
        ],
    ),
    (
        "{path: {value: /c4}, headers: [{name: x-beta, type: RegularExpression, value: 'v[0-9]+'}]}",
        &["GET k /c4 | x-beta: v12"],
        &[
            "GET k /c4",
            "GET k /c4 | x-beta: v",
            "GET k /c4 | x-beta: av1",
            "GET k /c4 | x-beta: v1b",
        ],
    ),
    (
        "{path: {value: /c5}, headers: [{name: x-one, value: '1'}, {name: x-two, value: '2'}]}",
        &["GET k /c5 | x-two: 2 | x-one: 1"],
        &["GET k /c5 | x-one: 1", "GET k /c5 | x-one: 2 | x-two: 1"],
    ),
    (
        "{path: {value: /c6}, queryParams: [{name: a, value: '1 2'}]}",
        &["GET k /c6?a=1%202", "GET k /c6?b=3&a=1+2"],
        &[
            "GET k /c6",
            "GET k /c6?a=12",
            "GET k /c6?A=1%202",
            "GET k /c6?b=1%202",
        ],
    ),
    (
        "{path: {value: /c7}, queryParams: [{name: a, type: RegularExpression, value: '[0-9]+'}]}",
        &["GET k /c7?a=42"],
        &["GET k /c7?a=4x", "GET k /c7?a="],
    ),
    (
        "{path: {value: /c8}, method: POST}",
        &["POST k /c8"],
        &["GET k /c8", "PUT k /c8", "PURGE k /c8"],
    ),
    (
        "{path: {value: /c9/a}}, {path: {value: /c9/b}, method: PUT}",
        &["GET k /c9/a", "PUT k /c9/b"],
        &["GET k /c9/b", "PUT k /c9"],
    ),
    (
        "{path: {type: Exact, value: /c10}, method: GET, headers: [{name: x, value: y}], queryParams: [{name: p, value: q}]}",
        &["GET k /c10?p=q | x: y"],
        &[
            "GET k /c10?p=q",
            "GET k /c10 | x: y",
            "POST k /c10?p=q | x: y",
            "GET k /c10/?p=q | x: y",
        ],
    ),
    (
        "{path: {type: RegularExpression, value: '/c11/(a|b)/.*'}}",
        &["GET k /c11/a/", "GET k /c11/b/c/d"],
        &["GET k /c11/c/d", "GET k /c11/a"],
    ),
];

#[tokio::test]
async fn each_kind_of_match_takes_what_it_names_and_leaves_everything_else() {
    let rules: String = HTTP_KINDS
        .iter()
        .enumerate()
        .map(|(at, (matches, ..))| rule(&format!("c{at}"), matches))
        .collect();
    let client = Client::start(
        "",
        1,
        &named_route("HTTPRoute", "kinds", "catalog", "k", &rules),
        &[],
    )
    .await;
    let _origin = origin::echo(client.at(10)).await;
    for (at, (matches, takes, leaves)) in HTTP_KINDS.iter().enumerate() {
        for asked in *takes {
            let taken = taken_by(&client, 9000, asked).await;
            assert_eq!(taken, Some(format!("c{at}")), "{matches} takes {asked}");
        }
        for asked in *leaves {
            let taken = taken_by(&client, 9000, asked).await;
            assert_eq!(taken, None, "{matches} leaves {asked}");
        }
    }
}

/// Two matches that both take the request: the first of them gets it, in whatever order they are listed.
const HTTP_PAIRS: [(&str, &str, &str); 17] = [
    // Paths.
    (
        "{path: {type: Exact, value: /a/b}}",
        "{path: {value: /a/b}}",
        "/a/b",
    ),
    (
        "{path: {type: Exact, value: /a/b}}",
        "{path: {type: RegularExpression, value: '/a/.*'}}",
        "/a/b",
    ),
    ("{path: {value: /a/b}}", "{path: {value: /a}}", "/a/b"),
    (
        "{path: {value: /a}}",
        "{path: {type: RegularExpression, value: '/a/.*'}}",
        "/a/b",
    ),
    (
        "{path: {type: RegularExpression, value: '/a.*'}}",
        "{path: {value: /}}",
        "/a/b",
    ),
    // A path comes before all else.
    (
        "{path: {type: Exact, value: /a}}",
        "{path: {value: /a}, method: GET}",
        "/a",
    ),
    (
        "{path: {value: /a}}",
        "{method: GET, headers: [{name: x, value: y}], queryParams: [{name: p, value: q}]}",
        "/a?p=q",
    ),
    (
        "{path: {value: /a/b}}",
        "{path: {value: /a}, headers: [{name: x, value: y}]}",
        "/a/b",
    ),
    // Then a method.
    ("{method: GET}", "{}", "/"),
    (
        "{method: GET}",
        "{headers: [{name: x, value: y}, {name: z, value: z}]}",
        "/",
    ),
    (
        "{method: GET}",
        "{queryParams: [{name: p, value: q}]}",
        "/?p=q",
    ),
    // Then headers, by their number.
    ("{headers: [{name: x, value: y}]}", "{}", "/"),
    (
        "{headers: [{name: x, value: y}, {name: z, value: z}]}",
        "{headers: [{name: x, value: y}]}",
        "/",
    ),
    (
        "{headers: [{name: x, value: y}]}",
        "{queryParams: [{name: p, value: q}, {name: r, value: s}]}",
        "/?p=q&r=s",
    ),
    // Then query parameters, by their number.
    ("{queryParams: [{name: p, value: q}]}", "{}", "/?p=q"),
    (
        "{queryParams: [{name: p, value: q}, {name: r, value: s}]}",
        "{queryParams: [{name: p, value: q}]}",
        "/?p=q&r=s",
    ),
    (
        "{method: GET, queryParams: [{name: p, value: q}]}",
        "{method: GET}",
        "/?p=q",
    ),
];

#[tokio::test]
async fn of_two_matches_the_more_specific_one_comes_first_whatever_the_order() {
    let mut routes = String::new();
    for (at, (first, second, _)) in HTTP_PAIRS.iter().enumerate() {
        let (first, second) = (rule("first", first), rule("second", second));
        for (order, rules) in [("a", [&first, &second]), ("b", [&second, &first])] {
            let rules = rules.map(String::as_str).concat();
            let name = format!("{order}{at}");
            routes += &named_route("HTTPRoute", &name, "catalog", &name, &rules);
        }
    }
    // What is equal goes to the one listed first.
    let equal = rule("first", "{method: GET}") + &rule("second", "{method: GET}");
    routes += &named_route("HTTPRoute", "equal", "catalog", "equal", &equal);
    let client = Client::start("", 1, &routes, &[]).await;
    let _origin = origin::echo(client.at(10)).await;
    for (at, (first, second, target)) in HTTP_PAIRS.iter().enumerate() {
        for order in ["a", "b"] {
            let asked = format!("GET {order}{at} {target} | x: y | z: z");
            let taken = taken_by(&client, 9000, &asked).await;
            assert_eq!(
                taken.as_deref(),
                Some("first"),
                "{first} before {second}, listed {order}"
            );
        }
    }
    let taken = taken_by(&client, 9000, "GET equal /").await;
    assert_eq!(taken.as_deref(), Some("first"));
}

#[tokio::test]
async fn a_host_comes_before_every_path_and_the_more_exact_host_before_the_other() {
    let any = "{path: {value: /}}";
    let exact = "{path: {type: Exact, value: /a}, method: GET}";
    let routes = [
        // A name that sorts first, and is older by that: it has no host.
        ("a-none", "", rule("none", exact)),
        ("b-wide", "'*.example'", rule("wide", exact)),
        ("c-near", "'*.web.example'", rule("near", exact)),
        ("d-exact", "a.web.example", rule("exact", any)),
        ("e-two", "one.other, two.other", rule("two", any)),
    ];
    let routes: String = routes
        .iter()
        .map(|(name, hosts, rules)| named_route("HTTPRoute", name, "catalog", hosts, rules))
        .collect();
    let client = Client::start("", 1, &routes, &[]).await;
    let _origin = origin::echo(client.at(10)).await;
    for (host, taken) in [
        ("a.web.example", "exact"),
        ("A.Web.Example", "exact"),
        ("a.web.example:80", "exact"),
        ("a.web.example.", "exact"),
        ("b.web.example", "near"),
        ("a.b.web.example", "near"),
        ("web.example", "wide"),
        ("a.b.example", "wide"),
        ("example", "none"),
        ("one.other", "two"),
        ("two.other", "two"),
        ("three.other", "none"),
    ] {
        let asked = format!("GET {host} /a");
        assert_eq!(
            taken_by(&client, 9000, &asked).await.as_deref(),
            Some(taken),
            "{host}"
        );
    }
    assert_eq!(taken_by(&client, 9000, "GET three.other /b").await, None);
}

/// The rule that took a gRPC call; `None`: no route.
async fn called(client: &Client, asked: &str) -> Option<String> {
    let mut call = request(&format!("POST {asked}"), true);
    let kind = "application/grpc".parse().unwrap();
    call.headers_mut().insert("content-type", kind);
    let response = one_http2(client.connect(9000).await, call).await.unwrap();
    assert_eq!(response.status(), 200);
    if let Some(status) = response.headers().get("grpc-status") {
        assert_eq!(status, "5", "{asked}: {}", why(&response));
        return None;
    }
    let said = text(response).await;
    let name = said.lines().find_map(|line| line.strip_prefix("x-rule: "));
    Some(name.unwrap_or_else(|| panic!("{said}")).to_owned())
}

const GRPC_KINDS: [Kind; 4] = [
    (
        "{method: {service: shop.Catalog, method: List}}",
        &["k /shop.Catalog/List"],
        &[
            "k /shop.Catalog/Lists",
            "k /shop.catalog/List",
            "k /Catalog/List",
            "k /shop.Catalog",
            "k /shop.Catalog/List/x",
        ],
    ),
    (
        "{method: {service: shop.Orders}}",
        &["k /shop.Orders/List", "k /shop.Orders/Anything"],
        &["k /shop.Order/List"],
    ),
    (
        "{method: {method: Ping}}",
        &["k /shop.Other/Ping", "k /x/Ping"],
        &["k /shop.Other/ping"],
    ),
    (
        "{method: {service: shop.Beta}, headers: [{name: x-beta, type: RegularExpression, value: 'v[0-9]'}, {name: x-one, value: '1'}]}",
        &["k /shop.Beta/List | x-beta: v1 | x-one: 1"],
        &[
            "k /shop.Beta/List | x-beta: v1",
            "k /shop.Beta/List | x-beta: v10 | x-one: 1",
        ],
    ),
];

const GRPC_PAIRS: [(&str, &str, &str); 6] = [
    (
        "{method: {service: a.B, method: C}}",
        "{method: {service: a.B}}",
        "/a.B/C",
    ),
    (
        "{method: {service: a.B, method: C}}",
        "{method: {method: C}}",
        "/a.B/C",
    ),
    (
        "{method: {service: a.B}}",
        "{method: {method: LongerThanThat}}",
        "/a.B/LongerThanThat",
    ),
    (
        "{method: {service: a.B}}",
        "{headers: [{name: x, value: y}]}",
        "/a.B/C",
    ),
    (
        "{method: {method: C}}",
        "{headers: [{name: x, value: y}, {name: z, value: z}]}",
        "/a.B/C",
    ),
    (
        "{method: {method: C}, headers: [{name: x, value: y}]}",
        "{method: {method: C}}",
        "/a.B/C",
    ),
];

#[tokio::test]
async fn grpc_calls_go_by_service_method_and_headers_the_more_specific_first() {
    let kinds = GRPC_KINDS.iter().enumerate();
    let rules: String = kinds
        .map(|(at, (matches, ..))| rule(&format!("c{at}"), matches))
        .collect();
    let mut routes = named_route("GRPCRoute", "kinds", "catalog", "k", &rules);
    for (at, (first, second, _)) in GRPC_PAIRS.iter().enumerate() {
        let (first, second) = (rule("first", first), rule("second", second));
        for (order, rules) in [("a", [&first, &second]), ("b", [&second, &first])] {
            let rules = rules.map(String::as_str).concat();
            let name = format!("{order}{at}");
            routes += &named_route("GRPCRoute", &name, "catalog", &name, &rules);
        }
    }
    let client = Client::start("", 1, &routes, &[]).await;
    let _origin = origin::echo(client.at(10)).await;
    for (at, (matches, takes, leaves)) in GRPC_KINDS.iter().enumerate() {
        for asked in *takes {
            let taken = called(&client, asked).await;
            assert_eq!(taken, Some(format!("c{at}")), "{matches} takes {asked}");
        }
        for asked in *leaves {
            assert_eq!(
                called(&client, asked).await,
                None,
                "{matches} leaves {asked}"
            );
        }
    }
    for (at, (first, second, path)) in GRPC_PAIRS.iter().enumerate() {
        for order in ["a", "b"] {
            let asked = format!("{order}{at} {path} | x: y | z: z");
            let taken = called(&client, &asked).await;
            assert_eq!(
                taken.as_deref(),
                Some("first"),
                "{first} before {second}, listed {order}"
            );
        }
    }
}

/// Filters of a rule: what is asked, the status, and lines that the application or the client sees (`>`: the request as
/// the application gets it, `<`: the response's headers), or does not see (`!`).
type Filtered = (&'static str, &'static str, u16, &'static [&'static str]);

const FILTERS: [Filtered; 9] = [
    (
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: new}], add: [{name: x-add, value: more}], remove: [x-gone]}}",
        "x-set: old | x-add: one | x-gone: 1",
        200,
        &[
            "> x-set: new",
            "!> x-set: old",
            "> x-add: one",
            "> x-add: more",
            "!> x-gone",
        ],
    ),
    (
        "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: content-type, value: text/x}], add: [{name: x-add, value: a}, {name: x-add, value: b}, {name: x-gone, value: c}]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-gone]}}",
        "",
        200,
        &[
            "< content-type: text/x",
            "< x-add: a",
            "< x-add: b",
            "!< x-gone",
        ],
    ),
    (
        "{type: RequestRedirect, requestRedirect: {scheme: https, hostname: new.example, port: 8443, path: {type: ReplaceFullPath, replaceFullPath: /else}, statusCode: 307}}",
        "",
        307,
        &["< location: https://new.example:8443/else"],
    ),
    (
        "{type: RequestRedirect, requestRedirect: {scheme: https}}",
        "",
        302,
        &["< location: https://catalog/f3/a?q=1"],
    ),
    (
        "{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 308}}",
        "",
        308,
        &["< location: http://catalog/new/a?q=1"],
    ),
    (
        "{type: RequestRedirect, requestRedirect: {port: 80, hostname: new.example, statusCode: 303}}",
        "",
        303,
        &["< location: http://new.example/f5/a?q=1"],
    ),
    (
        "{type: URLRewrite, urlRewrite: {hostname: other}}",
        "",
        500,
        &[],
    ),
    (
        "{type: RequestMirror, requestMirror: {backendRef: {name: catalog, port: 80}}}",
        "",
        500,
        &[],
    ),
    // In order: the second sees what the first did.
    (
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-one, value: '1'}]}}, {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-one, value: '2'}]}}",
        "x-one: 0",
        200,
        &["> x-one: 1", "> x-one: 2", "!> x-one: 0"],
    ),
];

/// Looks for a line among headers.
fn check_line(line: &str, sent: &str, answered: &str, filter: &str) {
    let (seen, wanted) = match line.strip_prefix('!') {
        Some(line) => (line, false),
        None => (line, true),
    };
    let (side, text) = seen.split_at(2);
    let headers = if side == "> " { sent } else { answered };
    let found = headers.lines().any(|header| header.starts_with(text));
    assert_eq!(found, wanted, "{filter}: {line} in\n{headers}");
}

#[tokio::test]
async fn each_filter_does_what_it_says_to_the_request_or_its_answer() {
    let rules: String = FILTERS
        .iter()
        .enumerate()
        .map(|(at, (filters, ..))| {
            format!("  - matches: [{{path: {{value: /f{at}}}}}]\n    filters: [{filters}]\n")
        })
        .collect();
    // Of a backend as well: only requests that go there are changed.
    let backend = "  - matches: [{path: {value: /backend}}]
    backendRefs:
    - name: catalog
      port: 80
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: 'yes'}]}}]
";
    let routes = named_route("HTTPRoute", "filters", "catalog", "", &(rules + backend));
    let client = Client::start("", 1, &routes, &[]).await;
    let _origin = origin::echo(client.at(10)).await;
    for (at, (filter, headers, status, lines)) in FILTERS.iter().enumerate() {
        let headers = if headers.is_empty() {
            String::new()
        } else {
            format!(" | {headers}")
        };
        let asked = format!("GET catalog /f{at}/a?q=1{headers}");
        let response = ask(&client, 9000, &asked).await;
        assert_eq!(response.status(), *status, "{filter}: {}", why(&response));
        let answered: Vec<String> = response
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        let sent = text(response).await;
        for line in *lines {
            check_line(line, &sent, &answered.join("\n"), filter);
        }
    }
    let sent = text(ask(&client, 9000, "GET catalog /backend").await).await;
    assert!(sent.contains("x-backend: yes"), "{sent}");
}

#[tokio::test]
async fn requests_are_shared_out_by_weight_and_a_backend_that_does_not_exist_fails_its_share() {
    let refs = "  - backendRefs:
    - {name: catalog, port: 80, weight: 5}
    - {name: other, port: 80, weight: 3}
    - {name: nowhere, port: 80, weight: 2}
    - {name: idle, port: 80, weight: 0}
";
    let policy = named_route("HTTPRoute", "split", "catalog", "", refs)
        + &service("other", "")
        + &service("idle", "");
    let client = Client::start("", 1, &policy, &[]).await;
    let pods =
        pod("other-0", "other", client.mesh.ip(30)) + &pod("idle-0", "idle", client.mesh.ip(31));
    client.mesh.write("other.yaml", &pods);
    let _catalog = app(client.at(10), |_| status(201)).await;
    let _other = app(client.at(30), |_| status(202)).await;
    let _idle = app(client.at(31), |_| status(203)).await;
    eventually("all backends", async || {
        (client.status(9000).await == 202).then_some(())
    })
    .await;
    let mut counts = [0u32; 4];
    for _ in 0..1000 {
        let at = match client.status(9000).await {
            201 => 0,
            202 => 1,
            500 => 2,
            _ => 3,
        };
        counts[at] += 1;
    }
    assert_eq!(counts[3], 0, "{counts:?}");
    let chi: f64 = [500.0, 300.0, 200.0]
        .iter()
        .zip(counts)
        .map(|(want, got)| (f64::from(got) - want).powi(2) / want)
        .sum();
    // Two degrees of freedom: above this once in a million.
    assert!(chi < 27.6, "{counts:?}: {chi}");
}
