//! Filters as a request sees them.

use super::*;
use crate::server::*;
use std::cell::RefCell;

/// A port with one route of one rule that matches by the prefix `/old`, with these filters.
fn policy(filters: Vec<Filter>, matching: HttpMatch) -> Policy {
    Policy::compile(ServerPolicy {
        meta: Meta::default_named("s"),
        protocol: Protocol::Http1(HttpPolicy {
            routes: vec![HttpRoute {
                meta: Meta::default_named("r"),
                hosts: Vec::new(),
                authorizations: Vec::new(),
                rules: vec![HttpRule {
                    matches: vec![matching],
                    filters,
                }],
            }],
            rate_limit: None,
        }),
        authorizations: Vec::new(),
    })
    .unwrap()
}

fn by_prefix() -> HttpMatch {
    HttpMatch {
        path: Some(PathMatch::Prefix("/old".into())),
        ..HttpMatch::default()
    }
}

fn run(
    policy: &Policy,
    uri: &str,
    headers: &mut HeaderMap,
    roll: impl FnMut(u32) -> u32,
) -> Result<(), Stop> {
    let mut uri: Uri = uri.parse().unwrap();
    let matched = policy
        .route(&crate::RequestView {
            method: &Method::GET,
            authority: None,
            path: uri.path(),
            query: None,
            headers,
        })
        .unwrap();
    apply(policy, &matched, &Method::GET, &mut uri, headers, roll)
}

fn location(redirect: Redirect, uri: &str) -> Result<(u16, String), Stop> {
    let policy = policy(vec![Filter::Redirect(redirect)], by_prefix());
    match run(&policy, uri, &mut HeaderMap::new(), |_| 0) {
        Ok(()) => Ok((0, "not redirected".into())),
        Err(Stop::Redirect { status, location }) => {
            Ok((status.as_u16(), location.to_str().unwrap().to_owned()))
        }
        Err(other) => Err(other),
    }
}

fn to(redirect: Redirect, uri: &str) -> String {
    location(redirect, uri).unwrap().1
}

fn host(host: &str) -> Redirect {
    Redirect {
        host: Some(host.into()),
        ..Redirect::default()
    }
}

#[test]
fn redirects_keep_what_they_do_not_replace() {
    assert_eq!(
        to(host("b"), "http://a:8080/old/x?q=1"),
        "http://b:8080/old/x?q=1"
    );
    assert_eq!(to(host("b"), "http://a:80/old/x"), "http://b/old/x");
    let exact = Redirect {
        port: Some(81),
        ..host("b")
    };
    assert_eq!(to(exact, "http://a:8080/old"), "http://b:81/old");
    let port = Redirect {
        port: Some(80),
        ..Redirect::default()
    };
    assert_eq!(to(port, "http://a:8080/old"), "http://a/old");
    let scheme = Redirect {
        scheme: Some("https".into()),
        ..Redirect::default()
    };
    assert_eq!(to(scheme, "http://a/old"), "https://a/old");
    assert_eq!(
        to(host("[::1]"), "http://[::2]:8080/old"),
        "http://[::1]:8080/old"
    );
}

#[test]
fn redirects_replace_the_whole_path_or_the_prefix_that_matched() {
    let path = |path| Redirect {
        path: Some(path),
        ..Redirect::default()
    };
    let full = || path(PathModifier::Full("/new?z=2".into()));
    assert_eq!(to(full(), "http://a/old/x?q=1"), "http://a/new?z=2");
    for (prefix, wanted) in [
        ("/new", "/new/x?q=1"),
        ("/new/", "/new/x?q=1"),
        ("/", "/x?q=1"),
        ("", "/x?q=1"),
        ("new", "/new/x?q=1"),
    ] {
        let redirect = path(PathModifier::Prefix(prefix.into()));
        assert_eq!(
            to(redirect, "http://a/old/x?q=1"),
            format!("http://a{wanted}"),
            "{prefix}"
        );
    }
    assert_eq!(
        to(path(PathModifier::Prefix("/".into())), "http://a/old"),
        "http://a/"
    );
}

#[test]
fn a_prefix_that_matched_in_encoded_form_is_replaced_whole() {
    let redirect = Redirect {
        path: Some(PathModifier::Prefix("/new".into())),
        ..Redirect::default()
    };
    assert_eq!(to(redirect, "http://a/%6fld/%61%2Fb"), "http://a/new/a%2Fb");
}

#[test]
fn a_prefix_redirect_of_what_no_prefix_matched_fails() {
    let redirect = Filter::Redirect(Redirect {
        path: Some(PathModifier::Prefix("/new".into())),
        ..Redirect::default()
    });
    let exact = HttpMatch {
        path: Some(PathMatch::Exact("/old".into())),
        ..HttpMatch::default()
    };
    let policy = policy(vec![redirect], exact);
    let stop = run(&policy, "http://a/old", &mut HeaderMap::new(), |_| 0);
    assert_eq!(stop, Err(Stop::InvalidRedirect));
}

#[test]
fn redirects_have_status_301_unless_another_is_given() {
    assert_eq!(location(host("b"), "http://a/old").unwrap().0, 301);
    let status = Redirect {
        status: Some(StatusCode::PERMANENT_REDIRECT),
        ..host("b")
    };
    assert_eq!(location(status, "http://a/old").unwrap().0, 308);
}

#[test]
fn a_request_is_never_redirected_to_itself() {
    for (redirect, uri) in [
        (Redirect::default(), "http://a/old?q"),
        (host("A"), "http://a:80/old"),
        (host("a"), "http://A/old"),
        (
            Redirect {
                scheme: Some("http".into()),
                port: Some(80),
                ..host("a")
            },
            "http://a/old",
        ),
    ] {
        assert_eq!(
            to(redirect.clone(), uri),
            "not redirected",
            "{redirect:?} {uri}"
        );
    }
}

#[test]
fn the_host_header_stands_in_for_an_absent_authority() {
    let policy = policy(
        vec![Filter::Redirect(Redirect {
            scheme: Some("https".into()),
            ..Redirect::default()
        })],
        by_prefix(),
    );
    let mut headers = HeaderMap::new();
    assert_eq!(
        run(&policy, "/old/x", &mut headers, |_| 0),
        Err(Stop::InvalidRedirect)
    );
    headers.insert(HOST, HeaderValue::from_static("shop:8443"));
    let stop = run(&policy, "/old/x", &mut headers, |_| 0);
    let wanted = HeaderValue::from_static("https://shop:8443/old/x");
    assert!(matches!(stop, Err(Stop::Redirect { location, .. }) if location == wanted));
}

#[test]
fn a_redirect_that_would_be_no_uri_fails() {
    let path = PathModifier::Full("/x\r\nset-cookie: y".into());
    let redirect = Redirect {
        path: Some(path),
        ..host("b")
    };
    assert_eq!(
        location(redirect, "http://a/old"),
        Err(Stop::InvalidRedirect)
    );
}

#[test]
fn headers_are_added_then_set_then_removed_and_the_proxys_own_stay() {
    let pair = |name, value| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    let policy = policy(
        vec![Filter::RequestHeaders(HeaderModifier {
            add: vec![
                pair("added", "2"),
                pair("l5d-client-id", "forged"),
                pair("gone", "1"),
            ],
            set: vec![
                pair("replaced", "new"),
                pair("transfer-encoding", "chunked"),
            ],
            remove: vec![
                HeaderName::from_static("gone"),
                HeaderName::from_static("l5d-client-id"),
            ],
        })],
        by_prefix(),
    );
    let mut headers = HeaderMap::new();
    headers.append("added", HeaderValue::from_static("1"));
    headers.append("replaced", HeaderValue::from_static("old"));
    headers.append("replaced", HeaderValue::from_static("older"));
    headers.append("l5d-client-id", HeaderValue::from_static("web"));
    run(&policy, "/old", &mut headers, |_| 0).unwrap();
    let values = |name: &str| {
        let values = headers.get_all(name).iter();
        values
            .map(|value| value.to_str().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(values("added"), ["1", "2"]);
    assert_eq!(values("replaced"), ["new"]);
    assert_eq!(values("gone"), [""; 0]);
    assert_eq!(values("l5d-client-id"), ["web"]);
    assert_eq!(values("transfer-encoding"), [""; 0]);
}

#[test]
fn injected_failures_keep_their_status_and_text_and_come_at_their_rate() {
    let fails = |ratio, rolled: u32| {
        let policy = policy(
            vec![Filter::Failure(FailureInjector {
                status: 503,
                message: "on purpose".into(),
                ratio,
            })],
            by_prefix(),
        );
        let below = RefCell::new(None);
        let stop = run(&policy, "/old", &mut HeaderMap::new(), |n| {
            *below.borrow_mut() = Some(n);
            rolled
        });
        (stop, below.into_inner())
    };
    let failure = || {
        Err(Stop::Failure {
            status: 503,
            message: "on purpose".into(),
        })
    };
    assert_eq!(fails(None, 0), (failure(), None));
    assert_eq!(fails(Some((1, 4)), 0), (failure(), Some(4)));
    assert_eq!(fails(Some((1, 4)), 1), (Ok(()), Some(4)));
    assert_eq!(fails(Some((0, 1)), 0), (Ok(()), Some(1)));
}

#[test]
fn an_unknown_filter_fails_the_request_after_those_before_it() {
    let pair = (HeaderName::from_static("x"), HeaderValue::from_static("1"));
    let add = Filter::RequestHeaders(HeaderModifier {
        add: vec![pair],
        ..HeaderModifier::default()
    });
    let policy = policy(vec![add.clone(), Filter::Unknown, add], by_prefix());
    let mut headers = HeaderMap::new();
    assert_eq!(
        run(&policy, "/old", &mut headers, |_| 0),
        Err(Stop::UnknownFilter)
    );
    assert_eq!(headers.len(), 1);
}
