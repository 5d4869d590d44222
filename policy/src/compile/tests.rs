//! Route precedence by example, and what compiling refuses and remarks on.

use crate::{
    decide::{Policy, RequestView},
    server::*,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

fn exact(path: &str) -> HttpMatch {
    HttpMatch {
        path: Some(PathMatch::Exact(path.into())),
        ..HttpMatch::default()
    }
}

fn prefix(path: &str) -> HttpMatch {
    HttpMatch {
        path: Some(PathMatch::Prefix(path.into())),
        ..HttpMatch::default()
    }
}

fn regex(pattern: &str) -> HttpMatch {
    HttpMatch {
        path: Some(PathMatch::Regex(pattern.into())),
        ..HttpMatch::default()
    }
}

fn with(
    mut matching: HttpMatch,
    method: Option<Method>,
    headers: usize,
    query: usize,
) -> HttpMatch {
    matching.method = method;
    matching.headers = (0..headers)
        .map(|_| HeaderMatch {
            name: HeaderName::from_static("h"),
            value: ValueMatch::Exact(b"1".into()),
        })
        .collect();
    matching.query = (0..query)
        .map(|_| QueryMatch {
            name: "q".into(),
            value: ValueMatch::Exact(b"1".into()),
        })
        .collect();
    matching
}

fn route(name: &str, hosts: Vec<HostMatch>, matches: Vec<HttpMatch>) -> HttpRoute {
    HttpRoute {
        meta: Meta::resource("gateway.networking.k8s.io", "HTTPRoute", name),
        hosts,
        authorizations: Vec::new(),
        rules: vec![HttpRule {
            matches,
            filters: Vec::new(),
        }],
    }
}

fn server(routes: Vec<HttpRoute>) -> ServerPolicy {
    ServerPolicy {
        meta: Meta::resource("policy.linkerd.io", "server", "s"),
        protocol: Protocol::Http1(HttpPolicy {
            routes,
            rate_limit: None,
        }),
        authorizations: Vec::new(),
    }
}

fn grpc(matches: Vec<Vec<(&str, &str)>>) -> ServerPolicy {
    let routes = matches
        .into_iter()
        .enumerate()
        .map(|(at, matches)| GrpcRoute {
            meta: Meta::resource("gateway.networking.k8s.io", "GRPCRoute", at.to_string()),
            hosts: Vec::new(),
            authorizations: Vec::new(),
            rules: vec![GrpcRule {
                matches: matches
                    .into_iter()
                    .map(|(service, method)| GrpcMatch {
                        service: service.into(),
                        method: method.into(),
                        headers: Vec::new(),
                    })
                    .collect(),
                filters: Vec::new(),
            }],
        });
    ServerPolicy {
        protocol: Protocol::Grpc {
            routes: routes.collect(),
        },
        ..server(Vec::new())
    }
}

fn chosen(policy: &Policy, method: &Method, host: &str, path: &str) -> Option<String> {
    let mut headers = HeaderMap::new();
    headers.insert("h", HeaderValue::from_static("1"));
    let matched = policy.route(&RequestView {
        method,
        authority: Some(host),
        path,
        query: Some("q=1"),
        headers: &headers,
    })?;
    let route = usize::try_from(matched.route).unwrap();
    Some(policy.route_meta(route).unwrap().name().to_owned())
}

/// Puts the better route last, so that list order cannot be what decides.
fn assert_order(better_first: Vec<(&str, Vec<HostMatch>, HttpMatch)>, path: &str) {
    for cut in 0..better_first.len() {
        let rest = better_first.iter().skip(cut).rev();
        let routes =
            rest.map(|(name, hosts, matching)| route(name, hosts.clone(), vec![matching.clone()]));
        let policy = Policy::compile(server(routes.collect())).unwrap();
        let wanted = better_first[cut].0;
        assert_eq!(
            chosen(&policy, &Method::GET, "web.shop.example", path).as_deref(),
            Some(wanted)
        );
    }
}

#[test]
fn the_more_specific_path_wins_whatever_the_list_order() {
    let get = || Some(Method::GET);
    assert_order(
        vec![
            ("exact", vec![], exact("/a/b")),
            (
                "long prefix, method",
                vec![],
                with(prefix("/a/b"), get(), 0, 0),
            ),
            (
                "long prefix, headers",
                vec![],
                with(prefix("/a/b"), None, 2, 0),
            ),
            (
                "long prefix, header, query",
                vec![],
                with(prefix("/a/b"), None, 1, 1),
            ),
            (
                "long prefix, header",
                vec![],
                with(prefix("/a/b"), None, 1, 0),
            ),
            (
                "long prefix, query",
                vec![],
                with(prefix("/a/b"), None, 0, 1),
            ),
            ("long prefix", vec![], prefix("/a/b/")),
            ("short prefix", vec![], with(prefix("/a"), get(), 2, 1)),
            (
                "long regex",
                vec![],
                with(regex("/a/b|/other/that/is/long"), get(), 0, 0),
            ),
            ("regex", vec![], regex(".*")),
            ("everything, method", vec![], with(prefix("/"), get(), 0, 0)),
            ("everything", vec![], HttpMatch::default()),
        ],
        "/a/b",
    );
}

#[test]
fn the_more_specific_host_wins_before_any_path() {
    let suffix = |labels: &[&str]| {
        vec![HostMatch::Suffix(
            labels.iter().map(|label| (*label).into()).collect(),
        )]
    };
    assert_order(
        vec![
            (
                "exact",
                vec![HostMatch::Exact("WEB.shop.example.".into())],
                HttpMatch::default(),
            ),
            (
                "long suffix",
                suffix(&["example", "shop"]),
                HttpMatch::default(),
            ),
            ("short suffix", suffix(&["example"]), prefix("/a")),
            ("any host", suffix(&[]), exact("/a/b")),
            (
                "no host",
                vec![],
                with(exact("/a/b"), Some(Method::GET), 2, 2),
            ),
        ],
        "/a/b",
    );
}

#[test]
fn a_host_whose_rules_do_not_take_the_request_leaves_it_to_less_specific_ones() {
    let routes = vec![
        route(
            "host",
            vec![HostMatch::Exact("web".into())],
            vec![exact("/only")],
        ),
        route("any", vec![], vec![prefix("/")]),
    ];
    let policy = Policy::compile(server(routes)).unwrap();
    assert_eq!(
        chosen(&policy, &Method::GET, "web", "/only").as_deref(),
        Some("host")
    );
    assert_eq!(
        chosen(&policy, &Method::GET, "web", "/else").as_deref(),
        Some("any")
    );
}

#[test]
fn an_encoded_letter_does_not_lead_past_a_route() {
    let routes = vec![
        route("everything", vec![], vec![prefix("/")]),
        route(
            "admin",
            vec![],
            vec![exact("/admin"), prefix("/%61dmin/"), regex("/adm.n2")],
        ),
    ];
    let policy = Policy::compile(server(routes)).unwrap();
    for path in ["/admin", "/%61dmin", "/%61%64min/users", "/adm%69n2"] {
        assert_eq!(
            chosen(&policy, &Method::GET, "h", path).as_deref(),
            Some("admin"),
            "{path}"
        );
    }
}

#[test]
fn equal_matches_go_to_the_first_in_the_list() {
    let routes = vec![
        route("first", vec![], vec![prefix("/b"), prefix("/a/")]),
        route("second", vec![], vec![prefix("/a")]),
    ];
    let policy = Policy::compile(server(routes)).unwrap();
    assert_eq!(
        chosen(&policy, &Method::GET, "h", "/a/x").as_deref(),
        Some("first")
    );
}

#[test]
fn a_port_without_routes_has_one_default_route_and_one_with_routes_has_no_other() {
    let policy = Policy::compile(server(Vec::new())).unwrap();
    assert_eq!(policy.routes(), 1);
    assert_eq!(
        chosen(&policy, &Method::GET, "h", "/x").as_deref(),
        Some("default")
    );
    let policy = Policy::compile(server(vec![route("a", vec![], vec![exact("/a")])])).unwrap();
    assert_eq!(chosen(&policy, &Method::GET, "h", "/x"), None);
    for protocol in [Protocol::Opaque, Protocol::Tls] {
        let policy = Policy::compile(ServerPolicy {
            protocol,
            ..server(Vec::new())
        })
        .unwrap();
        assert_eq!(policy.routes(), 0);
        assert_eq!(chosen(&policy, &Method::GET, "h", "/"), None);
    }
}

#[test]
fn grpc_routes_prefer_service_and_method_and_take_only_whole_names() {
    let policy = Policy::compile(grpc(vec![
        vec![],
        vec![("", "")],
        vec![("", "Get")],
        vec![("shop.Cart", "")],
        vec![("shop.Cart", "Get")],
    ]))
    .unwrap();
    let ask = |method: &Method, path: &str| chosen(&policy, method, "h", path).unwrap();
    assert_eq!(ask(&Method::POST, "/shop.Cart/Get"), "4");
    assert_eq!(ask(&Method::POST, "/shop.Cart/Put"), "3");
    assert_eq!(ask(&Method::POST, "/other/Get"), "2");
    assert_eq!(ask(&Method::POST, "/other/Put"), "1");
    // Neither the method nor the form of a gRPC request: only the rule without matches takes them.
    for (method, path) in [
        (Method::GET, "/shop.Cart/Get"),
        (Method::POST, "/shop.Cart/Get/more"),
        (Method::POST, "/shop.Cart/"),
        (Method::POST, "shop.Cart/Get"),
        (Method::POST, "//Get"),
    ] {
        assert_eq!(ask(&method, path), "0", "{method} {path}");
    }
    let closed = Policy::compile(grpc(vec![vec![("shop.Cart", "Get")]])).unwrap();
    assert_eq!(chosen(&closed, &Method::POST, "h", "shop.Cart/Get"), None);
}

#[test]
fn ports_whose_routes_look_at_paths_are_known() {
    let looks = |server| Policy::compile(server).unwrap().has_path_policy();
    for matching in [exact("/"), prefix("/a"), regex(".*")] {
        assert!(looks(server(vec![route(
            "r",
            vec![],
            vec![HttpMatch::default(), matching]
        )])));
    }
    for matching in [
        HttpMatch::default(),
        prefix("/"),
        prefix(""),
        with(prefix("/"), Some(Method::GET), 1, 1),
    ] {
        assert!(!looks(server(vec![route("r", vec![], vec![matching])])));
    }
    assert!(!looks(server(Vec::new())));
    assert!(looks(grpc(vec![vec![("s", "")]])));
    assert!(!looks(grpc(vec![vec![]])));
}

#[test]
fn what_cannot_be_compiled_is_named_by_route_and_field() {
    let refused = |matching: HttpMatch| {
        let routes = vec![
            route("good", vec![], vec![]),
            route("bad", vec![], vec![HttpMatch::default(), matching]),
        ];
        Policy::compile(server(routes)).unwrap_err().to_string()
    };
    let error = refused(regex("("));
    assert!(
        error.starts_with(
            "protocol.http1.routes[1].rules[0].matches[1].path.regex: HTTPRoute bad: `(`"
        ),
        "{error}"
    );
    let mut matching = with(HttpMatch::default(), None, 2, 0);
    matching.headers[1].value = ValueMatch::Regex("\\w{1000}{1000}".into());
    let error = refused(matching);
    assert!(
        error.starts_with(
            "protocol.http1.routes[1].rules[0].matches[1].headers[1].regex: HTTPRoute bad"
        ),
        "{error}"
    );
    assert!(error.contains("smaller repetitions"), "{error}");
    let mut matching = with(HttpMatch::default(), None, 0, 1);
    matching.query[0].value = ValueMatch::Regex("[".into());
    let error = refused(matching);
    assert!(
        error.starts_with("protocol.http1.routes[1].rules[0].matches[1].query_params[0].regex"),
        "{error}"
    );

    let mut bad = route("ratio", vec![], vec![]);
    bad.rules[0].filters = vec![Filter::Failure(FailureInjector {
        status: 500,
        message: String::new(),
        ratio: Some((1, 0)),
    })];
    let error = Policy::compile(server(vec![bad])).unwrap_err().to_string();
    assert!(error.starts_with("protocol.http1.routes[0].rules[0].filters[0].failure_injector.ratio.denominator: HTTPRoute ratio"), "{error}");
}

#[test]
fn too_many_expressions_or_combinations_are_refused() {
    let many = (0..=crate::matchers::value::MAX_REGEXES)
        .map(|_| regex("a"))
        .collect();
    let error = Policy::compile(server(vec![route("r", vec![], many)])).unwrap_err();
    assert!(error.reason.contains("1024 small ones"), "{error}");

    let hosts = (0..2048)
        .map(|at| HostMatch::Exact(format!("h{at}")))
        .collect();
    let matches = (0..1024).map(|at| exact(&format!("/{at}"))).collect();
    let error = Policy::compile(server(vec![route("r", hosts, matches)])).unwrap_err();
    assert!(error.reason.contains("matches times hosts"), "{error}");
}

#[test]
fn headers_the_proxy_keeps_to_itself_are_remarked_on() {
    let mut bad = route("forger", vec![], vec![]);
    let value = HeaderValue::from_static("x");
    bad.rules[0].filters = vec![Filter::RequestHeaders(HeaderModifier {
        add: vec![(HeaderName::from_static("x-fine"), value.clone())],
        set: vec![(HeaderName::from_static("l5d-client-id"), value)],
        remove: vec![http::header::CONTENT_LENGTH],
    })];
    let policy = Policy::compile(server(vec![bad])).unwrap();
    let [first, second] = policy.warnings() else {
        panic!("{:?}", policy.warnings())
    };
    assert!(
        first.contains("HTTPRoute forger: `l5d-client-id`"),
        "{first}"
    );
    assert!(second.contains("`content-length`"), "{second}");
}
