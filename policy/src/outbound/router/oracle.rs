//! The routers against the rules read literally: every match of every rule is tried, and the best one is kept.

use super::*;
use crate::{
    outbound::{GrpcRoute, GrpcRule, HttpRoute, HttpRule},
    server::{GrpcMatch, HeaderMatch, HttpMatch, PathMatch, QueryMatch, ValueMatch},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// How good a match is: host, path, method, number of headers, number of query parameters. Greater is better.
type Rank = ((u8, usize), (u8, usize), bool, usize, usize);

fn host_rank(hosts: &[HostMatch], host: &str) -> Option<(u8, usize)> {
    let ranks = hosts.iter().filter_map(|pattern| match pattern {
        HostMatch::Exact(exact) => (exact == host).then_some((2, exact.len())),
        HostMatch::Suffix(labels) => {
            let labels: Vec<&str> = labels.iter().rev().map(String::as_str).collect();
            let suffix = format!(".{}", labels.join("."));
            host.ends_with(&suffix).then_some((1, suffix.len()))
        }
    });
    if hosts.is_empty() {
        Some((0, 0))
    } else {
        ranks.max()
    }
}

fn is_value(wanted: &ValueMatch, got: &str) -> bool {
    match wanted {
        ValueMatch::Exact(exact) => exact == got.as_bytes(),
        // The only expression that is generated.
        ValueMatch::Regex(_) => got.len() == 1 && got.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

fn path_rank(wanted: Option<&PathMatch>, path: &str) -> Option<(u8, usize)> {
    let segments = |path: &str| -> Vec<String> {
        let segments = path.split('/').filter(|segment| !segment.is_empty());
        segments.map(str::to_owned).collect()
    };
    match wanted {
        None => Some((0, 0)),
        Some(PathMatch::Exact(exact)) => (exact == path).then_some((3, 0)),
        Some(PathMatch::Prefix(prefix)) => {
            let (prefix, path) = (segments(prefix), segments(path));
            let long = prefix.join("/").len();
            path.starts_with(&prefix)
                .then_some((if prefix.is_empty() { 0 } else { 2 }, long))
        }
        // The only expression that is generated: `/a/.+`.
        Some(PathMatch::Regex(_)) => (path.len() > 3 && path.starts_with("/a/")).then_some((1, 0)),
    }
}

fn headers_fit(wanted: &[HeaderMatch], asked: &Asked) -> bool {
    wanted.iter().all(|header| {
        let mut values = asked.headers.iter();
        values.any(|(name, value)| header.name == *name && is_value(&header.value, value))
    })
}

fn http_rank(wanted: &HttpMatch, asked: &Asked) -> Option<((u8, usize), bool, usize, usize)> {
    let path = path_rank(wanted.path.as_ref(), asked.path)?;
    let is_method = wanted.method.as_ref().is_none_or(|m| *m == asked.method);
    let is_query = wanted.query.iter().all(|wanted| {
        let mut pairs = asked.query.iter();
        pairs.any(|(name, value)| wanted.name == *name && is_value(&wanted.value, value))
    });
    (is_method && is_query && headers_fit(&wanted.headers, asked)).then_some((
        path,
        wanted.method.is_some(),
        wanted.headers.len(),
        wanted.query.len(),
    ))
}

fn grpc_rank(wanted: &GrpcMatch, asked: &Asked) -> Option<((u8, usize), bool, usize, usize)> {
    let parts: Vec<&str> = asked.path.split('/').collect();
    let ["", service, method] = parts.as_slice() else {
        return None;
    };
    let takes = asked.method == Method::POST
        && !service.is_empty()
        && !method.is_empty()
        && (wanted.service.is_empty() || wanted.service == *service)
        && (wanted.method.is_empty() || wanted.method == *method)
        && headers_fit(&wanted.headers, asked);
    // A service, then a method; a rule without matches is below all.
    let path = (
        1 + u8::from(!wanted.service.is_empty()),
        usize::from(!wanted.method.is_empty()),
    );
    takes.then_some((path, false, wanted.headers.len(), 0))
}

/// Matches of each rule of each route, with the route's hosts.
type Listed<'r, M> = Vec<(&'r [HostMatch], Vec<&'r [M]>)>;

fn best<M>(
    routes: &Listed<'_, M>,
    asked: &Asked,
    rank: impl Fn(&M, &Asked) -> Option<((u8, usize), bool, usize, usize)>,
) -> Option<(u32, u32)> {
    let mut best: Option<(Rank, (u32, u32))> = None;
    for ((hosts, rules), route) in routes.iter().zip(0..) {
        let Some(host) = host_rank(hosts, asked.host) else {
            continue;
        };
        for (matches, rule) in rules.iter().zip(0..) {
            let own = matches.iter().filter_map(|wanted| rank(wanted, asked));
            let everything = matches.is_empty().then_some(((0, 0), false, 0, 0));
            for (path, method, headers, query) in own.chain(everything) {
                let rank = (host, path, method, headers, query);
                if best.is_none_or(|(before, _)| rank > before) {
                    best = Some((rank, (route, rule)));
                }
            }
        }
    }
    best.map(|(_, at)| at)
}

/// A request, as a list of everything.
#[derive(Clone, Debug)]
struct Asked {
    method: Method,
    host: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

fn pairs() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    vec(
        (select(vec!["x", "y"]), select(vec!["1", "2", "12", "z"])),
        0..4,
    )
}

fn asked() -> impl Strategy<Value = Asked> {
    (
        select(vec![Method::GET, Method::POST]),
        select(vec!["a.example", "b.a.example", "example", "other"]),
        select(vec![
            "/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/s.S/M", "/s.S/N", "/t/M",
        ]),
        pairs(),
        pairs(),
    )
        .prop_map(|(method, host, path, headers, query)| Asked {
            method,
            host,
            path,
            headers,
            query,
        })
}

fn hosts() -> impl Strategy<Value = Vec<HostMatch>> {
    let suffix = |labels: &[&str]| {
        HostMatch::Suffix(labels.iter().rev().map(|label| (*label).into()).collect())
    };
    let all = vec![
        HostMatch::Exact("a.example".into()),
        HostMatch::Exact("other".into()),
        suffix(&["example"]),
        suffix(&["a", "example"]),
    ];
    prop_oneof![Just(Vec::new()), vec(select(all), 1..3)]
}

fn values() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        select(vec!["1", "2", "z"]).prop_map(|text| ValueMatch::Exact(text.into())),
        Just(ValueMatch::Regex("[0-9]".into())),
    ]
}

fn header_matches() -> impl Strategy<Value = Vec<HeaderMatch>> {
    let header = (select(vec!["x", "y"]), values()).prop_map(|(name, value)| HeaderMatch {
        name: HeaderName::from_static(name),
        value,
    });
    vec(header, 0..3)
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        select(vec!["/", "/a", "/a/b"]).prop_map(|path| PathMatch::Exact(path.into())),
        select(vec!["/", "/a", "/a/", "/a/b"]).prop_map(|path| PathMatch::Prefix(path.into())),
        Just(PathMatch::Regex("/a/.+".into())),
    ];
    let query = (select(vec!["x", "y"]), values()).prop_map(|(name, value)| QueryMatch {
        name: name.into(),
        value,
    });
    let method = select(vec![Method::GET, Method::POST]);
    (
        option::of(path),
        header_matches(),
        vec(query, 0..3),
        option::of(method),
    )
        .prop_map(|(path, headers, query, method)| HttpMatch {
            path,
            headers,
            query,
            method,
        })
}

fn grpc_match() -> impl Strategy<Value = GrpcMatch> {
    (
        select(vec!["", "s.S", "t"]),
        select(vec!["", "M", "N"]),
        header_matches(),
    )
        .prop_map(|(service, method, headers)| GrpcMatch {
            service: service.into(),
            method: method.into(),
            headers,
        })
}

fn found(router: &HttpRouter, asked: &Asked) -> Option<(u32, u32)> {
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        headers.append(*name, HeaderValue::from_static(value));
    }
    let query: Vec<String> = asked
        .query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let matched = router.find(&RequestView {
        method: &asked.method,
        authority: Some(asked.host),
        path: asked.path,
        query: Some(&query.join("&")),
        headers: &headers,
    });
    matched.map(|matched| (matched.route, matched.rule))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn http_routes_are_found_as_the_rules_say(
        routes in vec((hosts(), vec(vec(http_match(), 0..3), 1..3)), 0..5), asked in asked(),
    ) {
        let policy = HttpPolicy {
            routes: routes.iter().map(|(hosts, rules)| HttpRoute {
                meta: Ref::default_named("route"),
                hosts: hosts.clone(),
                rules: rules.iter().map(|matches| HttpRule {
                    matches: matches.clone(),
                    action: Action::default(),
                }).collect(),
            }).collect(),
            failure_accrual: None,
        };
        let router = HttpRouter::http(&policy).unwrap();
        let listed = routes.iter().map(|(hosts, rules)| {
            (hosts.as_slice(), rules.iter().map(Vec::as_slice).collect())
        }).collect();
        prop_assert_eq!(found(&router, &asked), best(&listed, &asked, http_rank));
    }

    #[test]
    fn grpc_routes_are_found_as_the_rules_say(
        routes in vec((hosts(), vec(vec(grpc_match(), 0..3), 1..3)), 0..5), asked in asked(),
    ) {
        let policy = GrpcPolicy {
            routes: routes.iter().map(|(hosts, rules)| GrpcRoute {
                meta: Ref::default_named("route"),
                hosts: hosts.clone(),
                rules: rules.iter().map(|matches| GrpcRule {
                    matches: matches.clone(),
                    action: Action::default(),
                }).collect(),
            }).collect(),
            failure_accrual: None,
        };
        let router = HttpRouter::grpc(&policy).unwrap();
        let listed = routes.iter().map(|(hosts, rules)| {
            (hosts.as_slice(), rules.iter().map(Vec::as_slice).collect())
        }).collect();
        prop_assert_eq!(found(&router, &asked), best(&listed, &asked, grpc_rank));
    }
}
