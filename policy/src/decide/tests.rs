//! Decisions against a reading of the rules that goes through every list, and their cost.

use super::*;
use crate::{
    compile::authorizations::AuthorizationTable,
    explain::Decision,
    generate,
    server::{
        Authentication, HeaderMatch, HostMatch, HttpMatch, HttpPolicy, HttpRoute, HttpRule,
        NetworkMatch, QueryMatch, ValueMatch,
    },
};
use ipnet::IpNet;
use proptest::prelude::*;
use regex::bytes::Regex;

/// The rules as the specification words them, list by list.
mod naive {
    use super::*;

    pub(super) fn takes(authorization: &Authorization, peer: &Peer<'_>) -> bool {
        let addr = peer.addr.to_canonical();
        let network = authorization.networks.iter().any(|network| {
            network.net.contains(&addr) && !network.except.iter().any(|net| net.contains(&addr))
        });
        network
            && match (&authorization.authentication, peer.tls) {
                (Authentication::Unauthenticated, _)
                | (Authentication::TlsUnauthenticated, PeerTls::Terminated { .. }) => true,
                (
                    Authentication::Identities { exact, suffixes },
                    PeerTls::Terminated { identity: Some(id) },
                ) => {
                    exact.iter().any(|name| same(name, id))
                        || suffixes.iter().any(|parts| below(parts, id))
                }
                _ => false,
            }
    }

    fn same(name: &str, id: PeerId<'_>) -> bool {
        match id {
            PeerId::Dns(dns) => !name.contains("://") && name.eq_ignore_ascii_case(dns),
            PeerId::Uri(uri) => name == uri,
        }
    }

    fn below(parts: &[String], id: PeerId<'_>) -> bool {
        parts.is_empty()
            || match id {
                PeerId::Dns(dns) => dns
                    .to_lowercase()
                    .ends_with(&format!(".{}", parts.join(".").to_lowercase())),
                PeerId::Uri(_) => false,
            }
    }

    pub(super) fn first<'a>(
        lists: impl IntoIterator<Item = &'a Authorization>,
        peer: &Peer<'_>,
    ) -> Option<&'a Authorization> {
        lists
            .into_iter()
            .find(|authorization| takes(authorization, peer))
    }

    /// Rank of a host pattern for a request, greater is better; `None` = does not take it.
    fn host(hosts: &[HostMatch], authority: Option<&str>) -> Option<(u8, usize)> {
        if hosts.is_empty() {
            return Some((0, 0));
        }
        let host = authority?
            .split(':')
            .next()?
            .trim_end_matches('.')
            .to_lowercase();
        hosts
            .iter()
            .filter_map(|pattern| match pattern {
                HostMatch::Exact(exact) => {
                    let exact = exact.to_lowercase();
                    let exact = exact.trim_end_matches('.');
                    (exact == host && !host.is_empty()).then_some((2, exact.len()))
                }
                HostMatch::Suffix(labels) => {
                    let reading: Vec<_> = labels.iter().rev().cloned().collect();
                    let suffix = format!(".{}", reading.join(".").to_lowercase());
                    let takes = if labels.is_empty() {
                        !host.is_empty()
                    } else {
                        host.ends_with(&suffix)
                    };
                    takes.then_some((1, suffix.len()))
                }
            })
            .max()
    }

    fn value(wanted: &ValueMatch, got: &[u8]) -> bool {
        match wanted {
            ValueMatch::Exact(exact) => exact == got,
            ValueMatch::Regex(pattern) => Regex::new(&format!("^(?:{pattern})$"))
                .unwrap()
                .is_match(got),
        }
    }

    fn header(wanted: &HeaderMatch, req: &RequestView<'_>) -> bool {
        let values: Vec<_> = req.headers.get_all(&wanted.name).iter().collect();
        !values.is_empty()
            && values
                .iter()
                .all(|got| value(&wanted.value, got.as_bytes()))
    }

    fn query(wanted: &QueryMatch, req: &RequestView<'_>) -> bool {
        let text = req.query.unwrap_or_default().replace('+', " ");
        let values: Vec<Vec<u8>> = text
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .filter(|(name, _)| {
                percent_encoding::percent_decode_str(name).collect::<Vec<_>>()
                    == wanted.name.as_bytes()
            })
            .map(|(_, value)| percent_encoding::percent_decode_str(value).collect())
            .collect();
        !values.is_empty() && values.iter().all(|got| value(&wanted.value, got))
    }

    fn path(wanted: Option<&PathMatch>, path: &str) -> Option<(u8, usize)> {
        match wanted {
            None => Some((0, 0)),
            Some(PathMatch::Exact(exact)) => (exact == path).then_some((3, 0)),
            Some(PathMatch::Regex(pattern)) => {
                value(&ValueMatch::Regex(pattern.clone()), path.as_bytes()).then_some((1, 0))
            }
            Some(PathMatch::Prefix(prefix)) => {
                let prefix = prefix.trim_end_matches('/');
                let whole = path.strip_prefix(prefix)?;
                if !whole.is_empty() && !whole.starts_with('/') {
                    return None;
                }
                Some(if prefix.is_empty() {
                    (0, 0)
                } else {
                    (2, prefix.len())
                })
            }
        }
    }

    type Rank = ((u8, usize), (u8, usize), bool, usize, usize);

    fn http(matching: &HttpMatch, host: (u8, usize), req: &RequestView<'_>) -> Option<Rank> {
        let path = path(matching.path.as_ref(), req.path)?;
        let rest = matching
            .method
            .as_ref()
            .is_none_or(|method| method == req.method)
            && matching.headers.iter().all(|wanted| header(wanted, req))
            && matching.query.iter().all(|wanted| query(wanted, req));
        rest.then_some((
            host,
            path,
            matching.method.is_some(),
            matching.headers.len(),
            matching.query.len(),
        ))
    }

    fn grpc(
        matching: &crate::server::GrpcMatch,
        host: (u8, usize),
        req: &RequestView<'_>,
    ) -> Option<Rank> {
        let segments: Vec<_> = req.path.split('/').collect();
        let ["", service, method] = segments.as_slice() else {
            return None;
        };
        let takes = req.method == Method::POST
            && !service.is_empty()
            && !method.is_empty()
            && (matching.service.is_empty() || matching.service == *service)
            && (matching.method.is_empty() || matching.method == *method)
            && matching.headers.iter().all(|wanted| header(wanted, req));
        // One above a rule without matches.
        let path = (
            1 + u8::from(!matching.service.is_empty()),
            usize::from(!matching.method.is_empty()),
        );
        takes.then_some((host, path, false, matching.headers.len(), 0))
    }

    /// The best match over all routes, the first of equals.
    pub(super) fn route(server: &ServerPolicy, req: &RequestView<'_>) -> Option<(u32, u32)> {
        let mut best: Option<(Rank, (u32, u32))> = None;
        let mut offer = |rank: Option<Rank>, route: usize, rule: usize| {
            let at = (u32::try_from(route).unwrap(), u32::try_from(rule).unwrap());
            if let Some(rank) = rank
                && best.is_none_or(|(before, _)| rank > before)
            {
                best = Some((rank, at));
            }
        };
        let nothing = |host| (host, (0, 0), false, 0, 0);
        match &server.protocol {
            Protocol::Grpc { routes } => {
                if routes.is_empty() {
                    return Some((0, 0));
                }
                for (at, route) in routes.iter().enumerate() {
                    let Some(host) = host(&route.hosts, req.authority) else {
                        continue;
                    };
                    for (rule_at, rule) in route.rules.iter().enumerate() {
                        if rule.matches.is_empty() {
                            offer(Some(nothing(host)), at, rule_at);
                        }
                        for matching in &rule.matches {
                            offer(grpc(matching, host, req), at, rule_at);
                        }
                    }
                }
            }
            protocol => {
                let routes = &protocol.http()?.routes;
                if routes.is_empty() {
                    return Some((0, 0));
                }
                for (at, route) in routes.iter().enumerate() {
                    let Some(host) = host(&route.hosts, req.authority) else {
                        continue;
                    };
                    for (rule_at, rule) in route.rules.iter().enumerate() {
                        if rule.matches.is_empty() {
                            offer(Some(nothing(host)), at, rule_at);
                        }
                        for matching in &rule.matches {
                            offer(http(matching, host, req), at, rule_at);
                        }
                    }
                }
            }
        }
        best.map(|(_, at)| at)
    }
}

fn named(policy: &Policy, verdict: Verdict) -> Option<&Authorization> {
    verdict
        .ok()
        .map(|found| policy.authorization(found).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn decision_explanation_and_the_rules_list_by_list_agree(
        server in generate::server_policy(), peer in generate::peer(), request in generate::request(),
    ) {
        let policy = Policy::compile(server.clone()).unwrap();
        let (peer, req) = (peer.peer(), request.view());

        let verdict = policy.connection(&peer);
        let http_only = match &server.protocol {
            Protocol::Http1(_) | Protocol::Http2(_) | Protocol::Grpc { .. } => true,
            Protocol::Detect { http, .. } => {
                http.rate_limit.is_some()
                    || http.routes.iter().any(|route| matches!(route.meta, Meta::Resource { .. }))
            }
            Protocol::Opaque | Protocol::Tls => false,
        };
        let wanted = if http_only { None } else { naive::first(&server.authorizations, &peer) };
        let found = named(&policy, verdict);
        prop_assert_eq!(found.map(std::ptr::from_ref), find_in(&policy, wanted, &server).map(std::ptr::from_ref));
        check_explanation(&policy.explain_connection(&peer), &policy, verdict)?;

        let matched = policy.route(&req);
        let decoded = req.path.replace("%61", "a").replace("%73", "s");
        let wanted = naive::route(&server, &RequestView { path: &decoded, ..req });
        prop_assert_eq!(matched.map(|matched| (matched.route, matched.rule)), wanted);
        let explanation = policy.explain_request(&peer, &req);
        if let Protocol::Opaque | Protocol::Tls = server.protocol {
            // Nobody looks at requests there: what becomes of one is what becomes of its connection.
            check_explanation(&explanation, &policy, verdict)?;
            return Ok(());
        }
        let Some(matched) = matched else {
            prop_assert_eq!(explanation.decision, Decision::NoRoute);
            return Ok(());
        };
        let route = usize::try_from(matched.route).unwrap();
        let verdict = policy.authorize(&peer, route);
        let own = server.route_authorizations(route).unwrap_or_default();
        let wanted = naive::first(own.iter().chain(&server.authorizations), &peer);
        prop_assert_eq!(
            named(&policy, verdict).map(std::ptr::from_ref),
            find_in(&policy, wanted, &server).map(std::ptr::from_ref)
        );
        check_explanation(&explanation, &policy, verdict)?;
    }

    #[test]
    fn a_table_without_room_still_decides_right(
        list in proptest::collection::vec(generate::authorization(), 0..8), peer in generate::peer(), budget in 0usize..8,
    ) {
        let table = AuthorizationTable::with_budget(&list, budget);
        let peer = peer.peer();
        let wanted = list.iter().position(|authorization| naive::takes(authorization, &peer));
        let found = table.decide(&peer, &mut || ()).ok().map(|found| usize::try_from(found.authorization).unwrap());
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn no_path_makes_the_matcher_panic(path in "\\PC*", query in "\\PC*", host in "\\PC*", server in generate::server_policy()) {
        let policy = Policy::compile(server).unwrap();
        let headers = HeaderMap::new();
        let req = RequestView {
            method: &Method::GET, authority: Some(&host), path: &path, query: Some(&query), headers: &headers,
        };
        let _ = policy.route(&req);
        let _ = crate::suspicious_path(&path);
    }
}

/// The same authorization in the policy's own copy of what it was made from.
fn find_in<'p>(
    policy: &'p Policy,
    wanted: Option<&Authorization>,
    server: &ServerPolicy,
) -> Option<&'p Authorization> {
    let wanted = wanted?;
    let lists = |server: &'_ ServerPolicy| -> Vec<*const Authorization> {
        let routes = (0..).map_while(|at| server.route_authorizations(at));
        std::iter::once(server.authorizations.as_slice())
            .chain(routes)
            .flatten()
            .map(std::ptr::from_ref)
            .collect()
    };
    let at = lists(server)
        .into_iter()
        .position(|at| std::ptr::eq(at, wanted))
        .unwrap();
    policy.authorization(Authorized {
        authorization: u32::try_from(at).unwrap(),
    })
}

fn check_explanation(
    explanation: &crate::Explanation,
    policy: &Policy,
    verdict: Verdict,
) -> Result<(), TestCaseError> {
    match verdict {
        Ok(authorized) => {
            prop_assert_eq!(explanation.decision, Decision::Allow);
            let meta = policy.authorization_meta(authorized);
            prop_assert_eq!(
                &explanation.authorization.as_ref().unwrap().name,
                meta.name()
            );
            let first = explanation
                .candidates
                .iter()
                .find(|candidate| candidate.failed.is_none());
            prop_assert_eq!(&first.unwrap().authorization.name, meta.name());
            prop_assert_eq!(explanation.audit, meta.is_audit());
        }
        Err(denied) => {
            prop_assert_eq!(explanation.decision, Decision::Deny);
            prop_assert_eq!(explanation.reason, Some(denied.reason.as_str()));
            prop_assert!(
                explanation
                    .candidates
                    .iter()
                    .all(|candidate| candidate.failed.is_some())
            );
            if let Some(closest) = denied.closest {
                prop_assert!(policy.authorization(closest).is_some());
            }
        }
    }
    Ok(())
}

fn everywhere() -> Vec<NetworkMatch> {
    ["0.0.0.0/0", "::/0"]
        .map(|net| NetworkMatch {
            net: net.parse().unwrap(),
            except: Vec::new(),
        })
        .into()
}

fn identity(name: String) -> Authentication {
    Authentication::Identities {
        exact: vec![name],
        suffixes: Vec::new(),
    }
}

fn suffix(name: String) -> Authentication {
    Authentication::Identities {
        exact: Vec::new(),
        suffixes: vec![vec![name, "ns".into()]],
    }
}

/// A policy with these authorizations, on the server or on its only route.
fn policy_of(authorizations: Vec<Authorization>, on_route: bool) -> Policy {
    let (own, server) = if on_route {
        (authorizations, Vec::new())
    } else {
        (Vec::new(), authorizations)
    };
    Policy::compile(ServerPolicy {
        meta: Meta::default_named("s"),
        protocol: Protocol::Http1(HttpPolicy {
            routes: vec![HttpRoute {
                meta: Meta::default_named("r"),
                hosts: Vec::new(),
                authorizations: own,
                rules: vec![HttpRule::default()],
            }],
            rate_limit: None,
        }),
        authorizations: server,
    })
    .unwrap()
}

fn steps(policy: &Policy, peer: &Peer<'_>) -> (u32, Verdict) {
    let mut steps = 0;
    let verdict = policy.authorize_counting(peer, 0, &mut || steps += 1);
    (steps, verdict)
}

#[test]
fn steps_of_a_decision_are_bounded_by_address_bits_and_not_by_10_000_authorizations() {
    type Make = fn(u32) -> (Vec<NetworkMatch>, Authentication);
    let cases: [(&str, Make, u32); 5] = [
        (
            "other identities, one network",
            |n| (everywhere(), identity(format!("id{n}.ns"))),
            8,
        ),
        (
            "one identity, other networks",
            |n| (host(n), identity("id0.ns".into())),
            80,
        ),
        (
            "identities and networks",
            |n| (host(n), identity(format!("id{n}.ns"))),
            80,
        ),
        ("suffixes", |n| (everywhere(), suffix(format!("s{n}"))), 8),
        (
            "nets with exceptions, nobody special",
            |n| (around(n), Authentication::Unauthenticated),
            80,
        ),
    ];
    for (case, make, bound) in cases {
        for on_route in [false, true] {
            for count in [1, 100, 10_000] {
                let list = (0..count).map(|n| {
                    let (networks, authentication) = make(n);
                    Authorization {
                        meta: Meta::default_named(format!("a{n}")),
                        networks,
                        authentication,
                    }
                });
                let policy = policy_of(list.collect(), on_route);
                let last = count - 1;
                let name = format!("id{last}.ns");
                let below = format!("x.s{last}.ns");
                for (id, addr) in [
                    (Some(name.as_str()), 0x0a00_0000 + last),
                    (Some("id0.ns"), 0x0a00_0000 + last),
                    (Some(below.as_str()), 1),
                    (Some("nobody.else"), 0x0a00_0000),
                    (None, 2),
                ] {
                    let peer = Peer {
                        addr: std::net::Ipv4Addr::from(addr).into(),
                        tls: PeerTls::Terminated {
                            identity: id.map(PeerId::Dns),
                        },
                    };
                    let (taken, verdict) = steps(&policy, &peer);
                    assert!(
                        taken <= bound,
                        "{case}, {count}, {id:?}: {taken} steps, {verdict:?}"
                    );
                }
            }
        }
    }

    fn host(n: u32) -> Vec<NetworkMatch> {
        vec![NetworkMatch {
            net: IpNet::from(IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n))),
            except: Vec::new(),
        }]
    }

    fn around(n: u32) -> Vec<NetworkMatch> {
        let hole = std::net::Ipv4Addr::from(0x0a00_0000 + n);
        vec![NetworkMatch {
            net: "10.0.0.0/8".parse().unwrap(),
            except: vec![IpNet::from(IpAddr::from(hole))],
        }]
    }
}

#[test]
fn the_reason_is_how_far_the_best_authorization_got() {
    let authorization = |name: &str, networks: Vec<NetworkMatch>, authentication| Authorization {
        meta: Meta::default_named(name),
        networks,
        authentication,
    };
    let here = || {
        vec![NetworkMatch {
            net: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.9.0.0/16".parse().unwrap()],
        }]
    };
    let mut server = policy_of(
        vec![
            authorization("wanted", here(), identity("web.shop".into())),
            authorization("other", here(), identity("db.shop".into())),
        ],
        true,
    )
    .server()
    .clone()
    .with_localhost();
    server.meta = Meta::default_named("s");
    let policy = Policy::compile(server).unwrap();
    let ask = |addr: &str, tls| {
        let peer = Peer {
            addr: addr.parse().unwrap(),
            tls,
        };
        let denied = policy.authorize(&peer, 0).unwrap_err();
        let closest = denied
            .closest
            .map(|found| policy.authorization_meta(found).name().to_owned());
        (denied.reason.as_str(), closest)
    };
    let id = |name| PeerTls::Terminated {
        identity: Some(PeerId::Dns(name)),
    };
    let wanted = || Some("wanted".to_owned());
    assert_eq!(ask("10.1.1.1", id("evil.shop")), ("identity", wanted()));
    assert_eq!(
        ask("10.1.1.1", PeerTls::Terminated { identity: None }),
        ("no_identity", wanted())
    );
    assert_eq!(ask("10.1.1.1", PeerTls::None), ("no_tls", wanted()));
    assert_eq!(
        ask("10.1.1.1", PeerTls::Passthrough),
        ("tls_passthrough", wanted())
    );
    assert_eq!(ask("10.9.1.1", id("web.shop")), ("network", None));
    assert_eq!(ask("192.0.2.1", PeerTls::None), ("network", None));
    let nothing = policy_of(Vec::new(), false);
    let peer = Peer {
        addr: [127, 0, 0, 1].into(),
        tls: PeerTls::None,
    };
    assert_eq!(
        nothing.authorize(&peer, 0).unwrap_err().reason,
        DenyReason::NoAuthorizations
    );
    assert_eq!(
        nothing.authorize(&peer, 9).unwrap_err().reason,
        DenyReason::NoRoute
    );
    assert_eq!(
        nothing.connection(&peer).unwrap_err().reason,
        DenyReason::NotHttp
    );
}
