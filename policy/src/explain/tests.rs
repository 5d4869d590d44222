//! Explanations as a person reads them.

use super::*;
use crate::{
    decide::PeerId,
    server::{
        HttpMatch, HttpPolicy, HttpRoute, HttpRule, NetworkMatch, PathMatch, Protocol, ServerPolicy,
    },
};
use http::{HeaderMap, Method};

fn network(net: &str, except: &[&str]) -> NetworkMatch {
    NetworkMatch {
        net: net.parse().unwrap(),
        except: except.iter().map(|net| net.parse().unwrap()).collect(),
    }
}

fn policy() -> Policy {
    let identities = |exact: &[&str]| Authentication::Identities {
        exact: exact.iter().map(|name| (*name).to_owned()).collect(),
        suffixes: vec![vec!["ops".into(), "id".into()]],
    };
    let authorization = |name: &str, networks, authentication| Authorization {
        meta: Meta::resource("policy.linkerd.io", "authorizationpolicy", name),
        networks,
        authentication,
    };
    let server = ServerPolicy {
        meta: Meta::resource("policy.linkerd.io", "server", "payments"),
        protocol: Protocol::Http1(HttpPolicy {
            routes: vec![HttpRoute {
                meta: Meta::resource("policy.linkerd.io", "HTTPRoute", "refunds"),
                hosts: Vec::new(),
                authorizations: vec![authorization(
                    "refunders",
                    vec![network("0.0.0.0/0", &[])],
                    identities(&["web.shop.id"]),
                )],
                rules: vec![HttpRule {
                    matches: vec![HttpMatch {
                        path: Some(PathMatch::Prefix("/refunds".into())),
                        ..HttpMatch::default()
                    }],
                    filters: Vec::new(),
                }],
            }],
            rate_limit: None,
        }),
        authorizations: vec![authorization(
            "office",
            vec![network("10.0.0.0/8", &["10.9.0.0/16"])],
            Authentication::Unauthenticated,
        )],
    };
    Policy::compile(server.with_localhost()).unwrap()
}

fn explain(addr: &str, id: Option<&str>, path: &str) -> Explanation {
    let peer = Peer {
        addr: addr.parse().unwrap(),
        tls: id.map_or(PeerTls::None, |id| PeerTls::Terminated {
            identity: Some(PeerId::Dns(id)),
        }),
    };
    policy().explain_request(
        &peer,
        &RequestView {
            method: &Method::POST,
            authority: Some("payments:80"),
            path,
            query: None,
            headers: &HeaderMap::new(),
        },
    )
}

#[test]
fn a_denial_says_what_each_authorization_failed_on() {
    let explanation = explain("10.9.0.1", Some("evil.shop.id"), "/refunds/1");
    assert_eq!(
        explanation.to_string(),
        "DENIED: identity\n\
         \x20 client    10.9.0.1, tls mesh, evil.shop.id\n\
         \x20 request   POST payments:80/refunds/1\n\
         \x20 server    server payments (http1)\n\
         \x20 route     HTTPRoute refunds, rule 0\n\
         \x20 - authorizationpolicy refunders (of the route): identity: got evil.shop.id, wanted [web.shop.id, *.ops.id]\n\
         \x20 - authorizationpolicy office (of the server): network: 10.9.0.1 not in 10.0.0.0/8 except 10.9.0.0/16\n\
         \x20 - default localhost (of the server): network: 10.9.0.1 not in [127.0.0.1/32, ::1/128]\n"
    );
    assert_eq!(
        explanation.summary(),
        "denied: identity evil.shop.id not authorized (client 10.9.0.1, server payments, HTTPRoute refunds)"
    );
}

#[test]
fn an_explanation_is_json_with_names_and_reason() {
    let json = serde_json::to_value(explain("192.0.2.1", None, "/refunds")).unwrap();
    assert_eq!(json["decision"], "deny");
    assert_eq!(json["reason"], "no_tls");
    assert_eq!(json["route"]["name"]["name"], "refunds");
    assert_eq!(
        json["candidates"][0]["failed"],
        "tls: the client did not use mesh TLS"
    );
    let json = serde_json::to_value(explain("127.0.0.1", None, "/refunds")).unwrap();
    assert_eq!(json["decision"], "allow");
    assert_eq!(json["authorization"]["name"], "localhost");
    let json = serde_json::to_value(explain("127.0.0.1", None, "/other")).unwrap();
    assert_eq!(json["decision"], "no_route");
}

#[test]
fn text_from_a_client_cannot_break_a_line_or_fill_a_log() {
    let long = "x".repeat(100_000);
    let explanation = explain(
        "192.0.2.1",
        Some(&format!("a\r\nb\u{7f}é{long}")),
        &format!("/refunds/\n{long}"),
    );
    for text in [explanation.summary(), explanation.request.clone().unwrap()] {
        assert!(text.len() < 1000, "{}", text.len());
        assert!(
            text.chars().all(|c| c == ' ' || c.is_ascii_graphic()),
            "{text}"
        );
    }
    assert!(explanation.to_string().len() < 4000);
}

#[test]
fn a_client_is_told_its_own_identity_and_nothing_of_what_would_be_allowed() {
    let policy = policy();
    let peer = Peer {
        addr: [192, 0, 2, 1].into(),
        tls: PeerTls::Terminated {
            identity: Some(PeerId::Dns("evil.shop.id")),
        },
    };
    let denied = policy.authorize(&peer, 0).unwrap_err();
    assert_eq!(
        policy.denial(&peer, denied),
        "client identity not authorized: evil.shop.id"
    );
    let summary = explain("192.0.2.1", Some("evil.shop.id"), "/refunds").summary();
    assert!(
        !summary.contains("web.shop") && !summary.contains("refunders"),
        "{summary}"
    );
}

#[test]
fn long_lists_are_cut_and_counted() {
    let mut server = policy().server().clone();
    server.authorizations = vec![server.authorizations[0].clone(); 500];
    server.authorizations[0].networks = (0..50)
        .map(|n| network(&format!("10.{n}.0.0/16"), &[]))
        .collect();
    let peer = Peer {
        addr: [192, 0, 2, 1].into(),
        tls: PeerTls::None,
    };
    let mut opaque = server;
    opaque.protocol = Protocol::Opaque;
    let explanation = Policy::compile(opaque).unwrap().explain_connection(&peer);
    assert_eq!(explanation.candidates.len(), 100);
    assert_eq!(explanation.omitted, 400);
    let failed = explanation.candidates[0].failed.as_deref().unwrap();
    assert!(failed.ends_with("10.3.0.0/16 and 46 more]"), "{failed}");
}

#[test]
fn where_requests_are_not_looked_at_one_is_explained_by_its_connection() {
    let mut server = policy().server().clone();
    server.protocol = Protocol::Opaque;
    let policy = Policy::compile(server).unwrap();
    let explain = |addr: &str| {
        let peer = Peer {
            addr: addr.parse().unwrap(),
            tls: PeerTls::None,
        };
        let request = RequestView {
            method: &Method::GET,
            authority: None,
            path: "/refunds",
            query: None,
            headers: &HeaderMap::new(),
        };
        let explanation = policy.explain_request(&peer, &request);
        assert_eq!(
            explanation.request.as_deref(),
            Some("GET /refunds (not looked at: the port is opaque)")
        );
        (explanation.decision, explanation.reason)
    };
    assert_eq!(explain("10.1.2.3"), (Decision::Allow, None));
    assert_eq!(explain("10.9.2.3"), (Decision::Deny, Some("network")));
}
