//! Messages: what is valid survives both ways, what is not is refused by name and without harm.

use super::*;
use crate::{
    Policy, generate,
    server::{Authentication, Authorization, HttpRoute, HttpRule},
};
use inbound::{
    Authn, Authz, Network, ProxyProtocol,
    authn::{Permit, PermitMeshTls, PermitUnauthenticated, permit_mesh_tls::Clients},
    proxy_protocol::{Detect, Grpc, Http1},
};
use linkerd2_proxy_api::{
    grpc_route, http_route, http_types,
    net::{IPv6, IpAddress, IpNetwork, ip_address::Ip},
};
use proptest::{collection::vec, option, prelude::*};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_policy_survives_the_way_to_the_api_and_back(server in generate::server_policy()) {
        let message = server_to_api(&server);
        prop_assert_eq!(server_from_api(message).unwrap(), server);
    }

    #[test]
    fn what_is_taken_also_compiles(message in hostile()) {
        if let Ok(server) = server_from_api(message) {
            prop_assert!(Policy::compile(server.with_localhost()).is_ok());
        }
    }

    #[test]
    fn what_is_refused_names_a_field(message in hostile()) {
        if let Err(error) = server_from_api(message) {
            prop_assert!(error.field.starts_with("protocol") || error.field.starts_with("authorizations") || error.field == "labels", "{}", error);
            prop_assert!(!error.reason.is_empty() && error.to_string().len() < 1000);
        }
    }
}

/// Messages that mix right and wrong values in every place.
fn hostile() -> impl Strategy<Value = inbound::Server> {
    let labels = proptest::collection::hash_map("(name|kind|group)", "\\PC{0,6}", 0..3);
    (option::of(kind()), vec(authz(), 0..3), labels).prop_map(
        |(kind, authorizations, mut labels)| {
            // Mostly valid here, so that the rest is reached.
            labels.entry("name".into()).or_default();
            inbound::Server {
                protocol: Some(ProxyProtocol { kind }),
                server_ips: Vec::new(),
                authorizations,
                labels,
            }
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    let duration = (-2i64..3, -5i32..1_000_000_005)
        .prop_map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
    let grpc = vec(
        (vec(authz(), 0..2), option::of(("\\PC{0,3}", "\\PC{0,3}"))),
        0..2,
    )
    .prop_map(|routes| {
        let routes = routes
            .into_iter()
            .map(|(authorizations, rpc)| inbound::GrpcRoute {
                metadata: Some(default_meta()),
                authorizations,
                rules: vec![inbound::grpc_route::Rule {
                    matches: vec![grpc_route::GrpcRouteMatch {
                        rpc: rpc
                            .map(|(service, method)| grpc_route::GrpcRpcMatch { service, method }),
                        headers: Vec::new(),
                    }],
                    filters: Vec::new(),
                }],
                hosts: Vec::new(),
            });
        Kind::Grpc(Grpc {
            routes: routes.collect(),
        })
    });
    prop_oneof![
        (option::of(duration), vec(route(), 0..3)).prop_map(|(timeout, http_routes)| Kind::Detect(
            Detect {
                timeout,
                http_routes,
                http_local_rate_limit: None,
            }
        )),
        vec(route(), 0..3).prop_map(|routes| Kind::Http1(Http1 {
            routes,
            local_rate_limit: None
        })),
        grpc,
    ]
}

fn route() -> impl Strategy<Value = inbound::HttpRoute> {
    let path = option::of(prop_oneof![
        "\\PC{0,6}".prop_map(http_route::path_match::Kind::Regex),
        "[(){}*+?|\\[\\]a0-9,]{0,8}".prop_map(http_route::path_match::Kind::Regex),
        "\\PC{0,6}".prop_map(http_route::path_match::Kind::Prefix),
    ])
    .prop_map(|kind| http_route::PathMatch { kind });
    let header = ("\\PC{0,3}", option::of(vec(any::<u8>(), 0..3))).prop_map(|(name, value)| {
        http_route::HeaderMatch {
            name,
            value: value.map(http_route::header_match::Value::Exact),
        }
    });
    let method = option::of(prop_oneof![
        (-1i32..11).prop_map(http_types::http_method::Type::Registered),
        "\\PC{0,4}".prop_map(http_types::http_method::Type::Unregistered),
    ])
    .prop_map(|r#type| http_types::HttpMethod { r#type });
    let matching = (option::of(path), vec(header, 0..2), option::of(method)).prop_map(
        |(path, headers, method)| http_route::HttpRouteMatch {
            path,
            headers,
            method,
            query_params: Vec::new(),
        },
    );
    let injector = (0u32..70_000, 0u32..2, 0u32..2).prop_map(|(status, numerator, denominator)| {
        inbound::http_route::filter::Kind::FailureInjector(http_route::HttpFailureInjector {
            status,
            message: String::new(),
            ratio: Some(http_route::Ratio {
                numerator,
                denominator,
            }),
        })
    });
    let redirect = ("\\PC{0,4}", 0u32..70_000, 0u32..1000).prop_map(|(host, port, status)| {
        inbound::http_route::filter::Kind::Redirect(http_route::RequestRedirect {
            host,
            port,
            status,
            ..Default::default()
        })
    });
    let filter = option::of(prop_oneof![injector, redirect])
        .prop_map(|kind| inbound::http_route::Filter { kind });
    let host = option::of("\\PC{0,6}").prop_map(|host| http_route::HostMatch {
        r#match: host.map(http_route::host_match::Match::Exact),
    });
    (
        vec(matching, 0..2),
        vec(filter, 0..2),
        vec(host, 0..2),
        vec(authz(), 0..2),
    )
        .prop_map(
            |(matches, filters, hosts, authorizations)| inbound::HttpRoute {
                metadata: Some(default_meta()),
                hosts,
                authorizations,
                rules: vec![inbound::http_route::Rule { matches, filters }],
            },
        )
}

fn authz() -> impl Strategy<Value = Authz> {
    let ip = option::of(prop_oneof![
        any::<u32>().prop_map(Ip::Ipv4),
        any::<(u64, u64)>().prop_map(|(first, last)| Ip::Ipv6(IPv6 { first, last })),
    ]);
    let net = (ip, 0u32..300).prop_map(|(ip, prefix_len)| IpNetwork {
        ip: Some(IpAddress { ip }),
        prefix_len: prefix_len % 140,
    });
    let network =
        (option::of(net.clone()), vec(net, 0..2)).prop_map(|(net, except)| Network { net, except });
    let permit = option::of(prop_oneof![
        Just(Permit::Unauthenticated(PermitUnauthenticated {})),
        Just(Permit::MeshTls(PermitMeshTls { clients: None })),
        Just(Permit::MeshTls(PermitMeshTls {
            clients: Some(Clients::Unauthenticated(PermitUnauthenticated {}))
        })),
    ]);
    (vec(network, 0..3), option::of(permit)).prop_map(|(networks, permit)| Authz {
        networks,
        authentication: permit.map(|permit| Authn { permit }),
        labels: HashMap::new(),
        metadata: Some(default_meta()),
    })
}

fn default_meta() -> meta::Metadata {
    meta::Metadata {
        kind: Some(meta::metadata::Kind::Default("d".into())),
    }
}

/// A valid message to break in one place.
fn valid() -> inbound::Server {
    let authorization = Authorization {
        meta: Meta::resource("policy.linkerd.io", "authorizationpolicy", "a"),
        networks: vec![crate::server::NetworkMatch {
            net: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.1.0.0/16".parse().unwrap()],
        }],
        authentication: Authentication::Identities {
            exact: vec!["a.ns".into()],
            suffixes: Vec::new(),
        },
    };
    let route = HttpRoute {
        meta: Meta::resource("policy.linkerd.io", "HTTPRoute", "r"),
        hosts: Vec::new(),
        authorizations: vec![authorization.clone()],
        rules: vec![HttpRule::default(); 2],
    };
    server_to_api(&ServerPolicy {
        meta: Meta::resource("policy.linkerd.io", "server", "s"),
        protocol: Protocol::Detect {
            timeout: Duration::from_secs(10),
            http: HttpPolicy {
                routes: vec![route.clone(), route],
                rate_limit: None,
            },
        },
        authorizations: vec![authorization],
    })
}

fn detect(server: &mut inbound::Server) -> &mut Detect {
    match &mut server.protocol {
        Some(ProxyProtocol {
            kind: Some(Kind::Detect(detect)),
        }) => detect,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut inbound::Server), field: &str, said: &str) {
    let mut server = valid();
    assert!(server_from_api(server.clone()).is_ok());
    change(&mut server);
    let error = server_from_api(server).unwrap_err();
    assert_eq!(error.field, field, "{error}");
    assert!(error.reason.contains(said), "{error}");
}

#[test]
fn each_bad_value_of_a_server_is_refused_by_the_name_of_its_field() {
    refused(|server| server.protocol = None, "protocol", "missing");
    refused(
        |server| server.protocol = Some(ProxyProtocol { kind: None }),
        "protocol",
        "missing",
    );
    refused(|server| server.labels.clear(), "labels", "`name`");
    refused(
        |server| detect(server).timeout = None,
        "protocol.detect.timeout",
        "missing",
    );
    for (seconds, nanos) in [
        (0, 0),
        (-1, 0),
        (1, -1),
        (1, 1_000_000_000),
        (i64::MIN, i32::MIN),
    ] {
        let timeout = prost_types::Duration { seconds, nanos };
        refused(
            |server| detect(server).timeout = Some(timeout),
            "protocol.detect.timeout",
            "10s is usual",
        );
    }
    refused(
        |server| {
            detect(server).http_local_rate_limit = Some(inbound::HttpLocalRateLimit {
                overrides: vec![inbound::http_local_rate_limit::Override::default()],
                ..Default::default()
            });
        },
        "protocol.detect.http_local_rate_limit.overrides[0].clients",
        "missing",
    );
}

#[test]
fn each_bad_value_of_an_authorization_is_refused_by_the_name_of_its_field() {
    let authz = |change: fn(&mut Authz), field: &str, said: &str| {
        refused(
            |server| change(&mut server.authorizations[0]),
            &format!("authorizations[0].{field}"),
            said,
        );
        let on_route = format!("protocol.detect.http_routes[1].authorizations[0].{field}");
        refused(
            |server| change(&mut detect(server).http_routes[1].authorizations[0]),
            &on_route,
            said,
        );
    };
    authz(|authz| authz.networks.clear(), "networks", "0.0.0.0/0");
    authz(
        |authz| authz.networks[0].net = None,
        "networks[0].net",
        "missing",
    );
    authz(
        |authz| authz.networks[0].net.as_mut().unwrap().ip = None,
        "networks[0].net.ip",
        "missing",
    );
    authz(
        |authz| authz.networks[0].net.as_mut().unwrap().prefix_len = 33,
        "networks[0].net.prefix_len",
        "33",
    );
    authz(
        |authz| authz.networks[0].except[0].prefix_len = u32::MAX,
        "networks[0].except[0].prefix_len",
        "0 to 32",
    );
    authz(
        |authz| authz.authentication = None,
        "authentication",
        "missing",
    );
    authz(
        |authz| authz.authentication = Some(Authn { permit: None }),
        "authentication.permit",
        "missing",
    );
    authz(
        |authz| {
            authz.authentication = Some(Authn {
                permit: Some(Permit::MeshTls(PermitMeshTls { clients: None })),
            })
        },
        "authentication.meshTLS.clients",
        "missing",
    );
    authz(
        |authz| authz.metadata = Some(meta::Metadata { kind: None }),
        "metadata",
        "missing",
    );
    authz(
        |authz| {
            authz.metadata = None;
            authz.labels.clear();
        },
        "labels",
        "`name`",
    );
}

#[test]
fn each_bad_value_of_a_route_is_refused_by_the_name_of_its_field() {
    let at = "protocol.detect.http_routes[1].rules[1]";
    let matching = |change: fn(&mut http_route::HttpRouteMatch), field: &str, said: &str| {
        let edit = |server: &mut inbound::Server| {
            let mut matching = http_route::HttpRouteMatch::default();
            change(&mut matching);
            detect(server).http_routes[1].rules[1].matches = vec![Default::default(), matching];
        };
        refused(edit, &format!("{at}.matches[1].{field}"), said);
    };
    use http_route::{header_match, path_match, query_param_match};
    matching(
        |m| m.path = Some(http_route::PathMatch { kind: None }),
        "path",
        "missing",
    );
    let regex = |m: &mut http_route::HttpRouteMatch| {
        m.path = Some(http_route::PathMatch {
            kind: Some(path_match::Kind::Regex("a)|(b".into())),
        });
    };
    matching(regex, "path.regex", "`a)|(b`");
    let bomb = |m: &mut http_route::HttpRouteMatch| {
        m.path = Some(http_route::PathMatch {
            kind: Some(path_match::Kind::Regex("((\\w{50}){50}){50}".into())),
        });
    };
    matching(bomb, "path.regex", "when compiled");
    let header = |m: &mut http_route::HttpRouteMatch| {
        m.headers = vec![http_route::HeaderMatch {
            name: "a b".into(),
            value: Some(header_match::Value::Exact(Vec::new())),
        }]
    };
    matching(header, "headers[0].name", "`a b`");
    let header = |m: &mut http_route::HttpRouteMatch| {
        m.headers = vec![http_route::HeaderMatch {
            name: "a".into(),
            value: None,
        }]
    };
    matching(header, "headers[0].value", "missing");
    let header = |m: &mut http_route::HttpRouteMatch| {
        m.headers = vec![http_route::HeaderMatch {
            name: "a".into(),
            value: Some(header_match::Value::Regex("(".into())),
        }]
    };
    matching(header, "headers[0].regex", "`(`");
    let query = |m: &mut http_route::HttpRouteMatch| {
        m.query_params = vec![http_route::QueryParamMatch {
            name: "a".into(),
            value: Some(query_param_match::Value::Regex("[".into())),
        }]
    };
    matching(query, "query_params[0].regex", "`[`");
    let method = |m: &mut http_route::HttpRouteMatch| {
        m.method = Some(http_types::HttpMethod {
            r#type: Some(http_types::http_method::Type::Registered(99)),
        })
    };
    matching(method, "method", "99");
    let method = |m: &mut http_route::HttpRouteMatch| {
        m.method = Some(http_types::HttpMethod {
            r#type: Some(http_types::http_method::Type::Unregistered("G T".into())),
        })
    };
    matching(method, "method", "`G T`");
    refused(
        |server| detect(server).http_routes[1].metadata = None,
        "protocol.detect.http_routes[1].metadata",
        "missing",
    );
    refused(
        |server| {
            detect(server).http_routes[0].hosts = vec![http_route::HostMatch { r#match: None }]
        },
        "protocol.detect.http_routes[0].hosts[0].match",
        "missing",
    );
}

/// The last route with this filter alone.
#[track_caller]
fn filter(kind: inbound::http_route::filter::Kind, field: &str, said: &str) {
    let edit = |server: &mut inbound::Server| {
        detect(server).http_routes[1].rules[1].filters =
            vec![inbound::http_route::Filter { kind: Some(kind) }];
    };
    refused(
        edit,
        &format!("protocol.detect.http_routes[1].rules[1].filters[0].{field}"),
        said,
    );
}

#[test]
fn each_bad_value_of_a_failure_or_header_filter_is_refused_by_the_name_of_its_field() {
    use inbound::http_route::filter::Kind as Filter;
    let failure = |status, ratio| {
        Filter::FailureInjector(http_route::HttpFailureInjector {
            status,
            message: String::new(),
            ratio,
        })
    };
    filter(failure(100, None), "failure_injector.status", "100");
    filter(failure(70_000, None), "failure_injector.status", "70000");
    let nothing = http_route::Ratio {
        numerator: 1,
        denominator: 0,
    };
    filter(
        failure(500, Some(nothing)),
        "failure_injector.ratio.denominator",
        "leave the ratio out",
    );
    let header = |name: &str, value: &[u8]| {
        Some(http_types::Headers {
            headers: vec![http_types::headers::Header {
                name: name.into(),
                value: value.into(),
            }],
        })
    };
    let modifier = http_route::RequestHeaderModifier {
        set: header("a", b"x\r\ny"),
        ..Default::default()
    };
    filter(
        Filter::RequestHeaderModifier(modifier),
        "request_header_modifier.set.headers[0].value",
        "control",
    );
    let modifier = http_route::RequestHeaderModifier {
        remove: vec!["a".into(), "é".into()],
        ..Default::default()
    };
    filter(
        Filter::RequestHeaderModifier(modifier),
        "request_header_modifier.remove[1]",
        "header name",
    );
}

#[test]
fn each_bad_value_of_a_redirect_is_refused_by_the_name_of_its_field() {
    use inbound::http_route::filter::Kind as Filter;
    let redirect = Filter::Redirect;
    let none = http_route::RequestRedirect::default;
    filter(
        redirect(http_route::RequestRedirect {
            port: 65_536,
            ..none()
        }),
        "redirect.port",
        "65536",
    );
    filter(
        redirect(http_route::RequestRedirect {
            status: 200,
            ..none()
        }),
        "redirect.status",
        "300 to 399",
    );
    for host in ["a b", "a:80", "a/b", "u@a", "\r\n"] {
        filter(
            redirect(http_route::RequestRedirect {
                host: host.into(),
                ..none()
            }),
            "redirect.host",
            "without port",
        );
    }
    let scheme = Some(http_types::Scheme {
        r#type: Some(http_types::scheme::Type::Unregistered("java script".into())),
    });
    filter(
        redirect(http_route::RequestRedirect { scheme, ..none() }),
        "redirect.scheme",
        "`java script`",
    );
    let path = Some(http_route::PathModifier { replace: None });
    filter(
        redirect(http_route::RequestRedirect { path, ..none() }),
        "redirect.path",
        "missing",
    );
}

#[test]
fn a_grpc_match_without_rpc_is_refused_and_a_filter_without_kind_is_kept_to_fail_requests() {
    let server = |matches, filters| inbound::Server {
        protocol: Some(ProxyProtocol {
            kind: Some(Kind::Grpc(Grpc {
                routes: vec![inbound::GrpcRoute {
                    metadata: Some(default_meta()),
                    rules: vec![inbound::grpc_route::Rule { matches, filters }],
                    ..Default::default()
                }],
            })),
        }),
        ..valid()
    };
    let error = server_from_api(server(
        vec![grpc_route::GrpcRouteMatch::default()],
        Vec::new(),
    ))
    .unwrap_err();
    assert_eq!(
        error.field,
        "protocol.grpc.routes[0].rules[0].matches[0].rpc"
    );
    let bad = inbound::grpc_route::filter::Kind::FailureInjector(grpc_route::GrpcFailureInjector {
        code: 17,
        ..Default::default()
    });
    let error = server_from_api(server(
        Vec::new(),
        vec![inbound::grpc_route::Filter { kind: Some(bad) }],
    ))
    .unwrap_err();
    assert_eq!(
        error.field,
        "protocol.grpc.routes[0].rules[0].filters[0].failure_injector.code"
    );
    let policy = server_from_api(server(
        Vec::new(),
        vec![inbound::grpc_route::Filter { kind: None }],
    ))
    .unwrap();
    let Protocol::Grpc { routes } = policy.protocol else {
        panic!()
    };
    assert_eq!(routes[0].rules[0].filters, [crate::server::Filter::Unknown]);
}

#[test]
fn labels_name_servers_and_authorizations_as_older_controllers_send_them() {
    let named = |labels: &[(&str, &str)], kind: &str| {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        labels_meta(&Field::Root.name("labels"), &labels, kind)
    };
    let group = "policy.linkerd.io";
    for (labels, wanted) in [
        (&[("name", "s")][..], Meta::resource(group, "server", "s")),
        (
            &[("name", "default:all-authenticated")],
            Meta::default_named("all-authenticated"),
        ),
        (&[("name", "k:x:y")], Meta::resource(group, "k", "x:y")),
        (
            &[("name", "s"), ("kind", "server"), ("group", "g")],
            Meta::resource("g", "server", "s"),
        ),
        (
            &[("name", "s"), ("kind", "server")],
            Meta::resource(group, "server", "s"),
        ),
        (
            &[("name", "deny"), ("kind", "default"), ("group", "")],
            Meta::default_named("deny"),
        ),
    ] {
        assert_eq!(named(labels, "server"), Ok(wanted), "{labels:?}");
    }
    assert_eq!(
        named(&[("name", "a")], "serverauthorization"),
        Ok(Meta::resource(group, "serverauthorization", "a"))
    );
    assert!(named(&[("kind", "server")], "server").is_err());
}

#[test]
fn a_hundred_thousand_authorizations_are_taken_in_linear_space() {
    let mut server = valid();
    let one = server.authorizations[0].clone();
    server.authorizations = (0..100_000u32)
        .map(|n| {
            let mut authz = one.clone();
            authz.networks[0].net.as_mut().unwrap().ip = Some(IpAddress {
                ip: Some(Ip::Ipv4(n << 8)),
            });
            authz.networks[0].net.as_mut().unwrap().prefix_len = 24;
            if let Some(Permit::MeshTls(PermitMeshTls {
                clients: Some(Clients::Identities(clients)),
            })) = &mut authz.authentication.as_mut().unwrap().permit
            {
                clients.identities = (0..3)
                    .map(|id| inbound::Identity {
                        name: format!("id{}.ns", n + id),
                    })
                    .collect();
            }
            authz
        })
        .collect();
    let mut server = server_from_api(server).unwrap().with_localhost();
    // Bytes: on a port with routes no connection is allowed as one.
    server.protocol = Protocol::Opaque;
    let policy = Policy::compile(server).unwrap();
    let ask = |addr: u32, id: &str| {
        policy.connection(&crate::Peer {
            addr: std::net::Ipv4Addr::from(addr).into(),
            tls: crate::PeerTls::Terminated {
                identity: Some(crate::PeerId::Dns(id)),
            },
        })
    };
    assert_eq!(ask(0x0001_0005, "id256.ns").unwrap().authorization, 256);
    assert!(ask(0x0001_0005, "id255.ns").is_err());
    assert!(ask(0x0001_0005, "id0.ns").is_err());
}
