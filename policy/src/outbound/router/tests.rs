use super::*;
use crate::outbound::{
    HttpRoute, HttpRule,
    profile::{ProfileRoute, ResponseClass},
};
use crate::server::{HeaderMatch, HttpMatch, PathMatch, QueryMatch, ValueMatch};
use http::HeaderMap;
use std::collections::BTreeMap;

fn route(name: &str, hosts: &[HostMatch], matches: Vec<HttpMatch>) -> HttpRoute {
    HttpRoute {
        meta: Ref::default_named(name),
        hosts: hosts.to_vec(),
        rules: vec![HttpRule {
            matches,
            action: Action::default(),
        }],
    }
}

fn path(path: PathMatch) -> HttpMatch {
    HttpMatch {
        path: Some(path),
        ..HttpMatch::default()
    }
}

fn find<'r>(
    router: &'r HttpRouter,
    method: Method,
    authority: &str,
    path: &str,
) -> Option<&'r str> {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    let headers: HeaderMap = [("x-beta".parse().unwrap(), "1".parse().unwrap())]
        .into_iter()
        .collect();
    let matched = router.find(&RequestView {
        method: &method,
        authority: Some(authority),
        path,
        query,
        headers: &headers,
    })?;
    router.route(matched).map(Ref::name)
}

/// Each pair in Gateway API precedence, in both list orders: the one named first wins.
#[test]
fn the_more_specific_route_wins_whatever_the_order() {
    let header = HttpMatch {
        headers: vec![HeaderMatch {
            name: "x-beta".parse().unwrap(),
            value: ValueMatch::Exact(b"1".to_vec()),
        }],
        ..HttpMatch::default()
    };
    let query = HttpMatch {
        query: vec![QueryMatch {
            name: "a".into(),
            value: ValueMatch::Exact(b"1".to_vec()),
        }],
        ..HttpMatch::default()
    };
    let method = HttpMatch {
        method: Some(Method::GET),
        ..HttpMatch::default()
    };
    let exact = || path(PathMatch::Exact("/a/b".into()));
    let prefix = |text: &str| path(PathMatch::Prefix(text.into()));
    let regex = || path(PathMatch::Regex("/a/.*".into()));
    let host = |text: &str| vec![HostMatch::Exact(text.into())];
    let suffix = vec![HostMatch::Suffix(vec!["example".into()])];
    let pairs = [
        (vec![], exact(), vec![], prefix("/a/b")),
        (vec![], exact(), vec![], regex()),
        (vec![], prefix("/a/b"), vec![], prefix("/a")),
        (vec![], prefix("/a"), vec![], regex()),
        (vec![], regex(), vec![], prefix("/")),
        (vec![], method, vec![], header.clone()),
        (vec![], header, vec![], query.clone()),
        (vec![], query, vec![], HttpMatch::default()),
        (host("web.example"), prefix("/"), vec![], exact()),
        (host("web.example"), prefix("/"), suffix.clone(), exact()),
        (suffix, prefix("/"), vec![], exact()),
    ];
    for (better_hosts, better, worse_hosts, worse) in pairs {
        let better = route("better", &better_hosts, vec![better]);
        let worse = route("worse", &worse_hosts, vec![worse]);
        for routes in [
            vec![better.clone(), worse.clone()],
            vec![worse.clone(), better.clone()],
        ] {
            let router = HttpRouter::http(&HttpPolicy {
                routes,
                failure_accrual: None,
            })
            .unwrap();
            let found = find(&router, Method::GET, "web.example:80", "/a/b?a=1");
            assert_eq!(found, Some("better"), "{better:?} over {worse:?}");
        }
    }
}

#[test]
fn without_routes_nothing_is_taken() {
    let router = HttpRouter::http(&HttpPolicy::default()).unwrap();
    assert_eq!(find(&router, Method::GET, "web", "/"), None);
}

#[test]
fn server_names_are_found_by_the_longest_pattern_and_with_case() {
    let stream = |snis: &[HostMatch]| StreamRoute {
        meta: Ref::default_named("tls"),
        snis: snis.to_vec(),
        refusal: None,
        backends: crate::outbound::Distribution::Empty,
    };
    let suffix = |text: &str| HostMatch::Suffix(text.split('.').rev().map(Into::into).collect());
    let router = SniRouter::new(&[
        stream(&[suffix("example.com")]),
        stream(&[HostMatch::Exact("a.example.com".into())]),
        stream(&[suffix("b.example.com")]),
        stream(&[]),
    ]);
    for (name, want) in [
        (Some("a.example.com"), 1),
        (Some("x.b.example.com"), 2),
        (Some("x.a.example.com"), 0),
        (Some("b.example.com"), 0),
        (Some("example.com"), 3),
        (Some("A.example.com"), 0),
        (None, 3),
    ] {
        assert_eq!(router.find(name), Some(want), "{name:?}");
    }
    assert_eq!(SniRouter::new(&[]).find(Some("a")), None);
    assert_eq!(SniRouter::any().find(None), Some(0));
}

#[test]
fn a_profile_takes_the_first_route_that_matches_and_leaves_out_broken_ones() {
    let profile_route = |condition| ProfileRoute {
        condition,
        classes: vec![ResponseClass {
            condition: ResponseCondition::Status(500..=503),
            is_failure: false,
        }],
        labels: BTreeMap::new(),
        is_retryable: false,
        timeout: None,
    };
    let profile = Profile {
        routes: vec![
            profile_route(Condition::Path("(".into())),
            profile_route(Condition::All(vec![
                Condition::Path(" /books/\\d+ ".into()),
                Condition::Not(Box::new(Condition::Method(Method::DELETE))),
            ])),
            profile_route(Condition::Any(vec![Condition::Path("/books/.*".into())])),
        ],
        ..Profile::default()
    };
    let router = ProfileRouter::new(&profile);
    assert_eq!(router.warnings().len(), 1);
    assert_eq!(router.find(&Method::GET, "/books/7"), Some(1));
    assert_eq!(router.find(&Method::DELETE, "/books/7"), Some(2));
    assert_eq!(router.find(&Method::GET, "/books"), None);
    let status = |code| StatusCode::from_u16(code).unwrap();
    assert_eq!(router.is_failure(1, status(503)), Some(false));
    assert_eq!(router.is_failure(1, status(504)), None);
}
