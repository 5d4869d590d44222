//! Random policies, peers and requests for property tests. Names, addresses and paths come from small sets, so that
//! what is generated meets often.

use crate::{
    decide::{Peer, PeerId, PeerTls, RequestView},
    server::*,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{collection::vec, option, prelude::*, sample::select};
use std::{net::IpAddr, time::Duration};

fn text(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(of).prop_map(str::to_owned)
}

/// A few names of every kind, among them such as labels have no other meaning for.
pub(crate) fn meta() -> impl Strategy<Value = Meta> {
    prop_oneof![
        "[a-z:]{0,8}".prop_map(Meta::default_named),
        Just(Meta::default_named("audit")),
        ("[a-z.]{1,8}", "[a-zA-Z]{1,8}", "[a-z:-]{0,8}")
            .prop_map(|(group, kind, name)| Meta::resource(group, kind, name)),
    ]
}

pub(crate) fn net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        4 => (0u32..16, 26u8..=32).prop_map(|(low, len)| {
            IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::from(0x0a00_0000 + low), len))
        }),
        2 => (0u128..16, 122u8..=128)
            .prop_map(|(low, len)| IpNet::V6(Ipv6Net::new_assert(low.into(), len))),
        1 => Just(IpNet::V4(Ipv4Net::default())),
        1 => Just(IpNet::V6(Ipv6Net::default())),
    ]
}

fn network() -> impl Strategy<Value = NetworkMatch> {
    (net(), vec(net(), 0..3)).prop_map(|(net, except)| NetworkMatch { net, except })
}

const IDENTITIES: &[&str] = &[
    "a.x",
    "A.x",
    "b.x",
    "a.b.x",
    "x",
    "c.y",
    "spiffe://r/a",
    "spiffe://R/a",
    "spiffe://r/x",
];

pub(crate) fn authentication() -> impl Strategy<Value = Authentication> {
    prop_oneof![
        1 => Just(Authentication::Unauthenticated),
        1 => Just(Authentication::TlsUnauthenticated),
        4 => (vec(text(IDENTITIES), 0..4), vec(vec(text(&["a", "B", "b", "x", "b.x", "y"]), 0..3), 0..3))
            .prop_map(|(exact, suffixes)| Authentication::Identities { exact, suffixes }),
    ]
}

pub(crate) fn authorization() -> impl Strategy<Value = Authorization> {
    (meta(), vec(network(), 1..4), authentication()).prop_map(|(meta, networks, authentication)| {
        Authorization {
            meta,
            networks,
            authentication,
        }
    })
}

fn host() -> impl Strategy<Value = HostMatch> {
    prop_oneof![
        text(&["a.x", "A.X", "b.x", "a.b.x", "x", "a.x."]).prop_map(HostMatch::Exact),
        vec(text(&["x", "X", "b", "a"]), 0..3).prop_map(HostMatch::Suffix),
    ]
}

fn path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        text(&["/", "/a", "/a/b", "/a/", "/b"]).prop_map(PathMatch::Exact),
        text(&["/", "/a", "/a/", "/a/b", "/b//", ""]).prop_map(PathMatch::Prefix),
        text(&["/a", "/a.*", "/.|/b", "/a/b?", ".*"]).prop_map(PathMatch::Regex),
    ]
}

fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        text(&["1", "2", "", "1, 2"]).prop_map(|text| ValueMatch::Exact(text.into())),
        text(&["1|2", "1", ".+", ""]).prop_map(ValueMatch::Regex),
    ]
}

fn header() -> impl Strategy<Value = HeaderMatch> {
    (select(&["h", "i"][..]), value()).prop_map(|(name, value)| HeaderMatch {
        name: HeaderName::from_static(name),
        value,
    })
}

fn query() -> impl Strategy<Value = QueryMatch> {
    (text(&["q", "r s"]), value()).prop_map(|(name, value)| QueryMatch { name, value })
}

fn method() -> impl Strategy<Value = Method> {
    select(vec![
        Method::GET,
        Method::POST,
        Method::from_bytes(b"BREW").unwrap(),
    ])
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    (
        option::of(path()),
        vec(header(), 0..2),
        vec(query(), 0..2),
        option::of(method()),
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
        text(&["", "s", "t"]),
        text(&["", "m", "n"]),
        vec(header(), 0..2),
    )
        .prop_map(|(service, method, headers)| GrpcMatch {
            service,
            method,
            headers,
        })
}

fn failure(status: std::ops::Range<u16>) -> impl Strategy<Value = Filter> {
    (status, ".{0,8}", option::of((0u32..5, 1u32..5))).prop_map(|(status, message, ratio)| {
        Filter::Failure(FailureInjector {
            status,
            message,
            ratio,
        })
    })
}

fn modifier() -> impl Strategy<Value = Filter> {
    let name = || select(&["h", "i", "l5d-client-id"][..]).prop_map(HeaderName::from_static);
    let value =
        || vec(b' '..=b'~', 0..4).prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap());
    let pairs = move || vec((name(), value()), 0..2);
    (pairs(), pairs(), vec(name(), 0..2))
        .prop_map(|(add, set, remove)| Filter::RequestHeaders(HeaderModifier { add, set, remove }))
}

fn redirect() -> impl Strategy<Value = Filter> {
    let path = prop_oneof![
        "[a-z/?]{0,6}".prop_map(PathModifier::Full),
        "[a-z/]{0,6}".prop_map(PathModifier::Prefix),
    ];
    (
        option::of(text(&["http", "https", "ws"])),
        option::of(text(&["a.x", "A.x", "[::1]", "10.0.0.1"])),
        option::of(path),
        option::of(1u16..),
        option::of(select(vec![
            StatusCode::FOUND,
            StatusCode::PERMANENT_REDIRECT,
        ])),
    )
        .prop_map(|(scheme, host, path, port, status)| {
            Filter::Redirect(Redirect {
                scheme,
                host,
                path,
                port,
                status,
            })
        })
}

fn http_rule() -> impl Strategy<Value = HttpRule> {
    let filter = prop_oneof![
        failure(200..600),
        modifier(),
        redirect(),
        Just(Filter::Unknown)
    ];
    (vec(http_match(), 0..3), vec(filter, 0..3))
        .prop_map(|(matches, filters)| HttpRule { matches, filters })
}

fn grpc_rule() -> impl Strategy<Value = GrpcRule> {
    let filter = prop_oneof![failure(0..17), modifier(), Just(Filter::Unknown)];
    (vec(grpc_match(), 0..3), vec(filter, 0..2))
        .prop_map(|(matches, filters)| GrpcRule { matches, filters })
}

fn http_route() -> impl Strategy<Value = HttpRoute> {
    (
        meta(),
        vec(host(), 0..3),
        vec(authorization(), 0..3),
        vec(http_rule(), 0..3),
    )
        .prop_map(|(meta, hosts, authorizations, rules)| HttpRoute {
            meta,
            hosts,
            authorizations,
            rules,
        })
}

fn grpc_route() -> impl Strategy<Value = GrpcRoute> {
    (
        meta(),
        vec(host(), 0..3),
        vec(authorization(), 0..3),
        vec(grpc_rule(), 0..3),
    )
        .prop_map(|(meta, hosts, authorizations, rules)| GrpcRoute {
            meta,
            hosts,
            authorizations,
            rules,
        })
}

fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let limit = (any::<u32>(), vec(text(IDENTITIES), 0..3)).prop_map(|(rps, identities)| {
        RateLimitOverride {
            requests_per_second: rps,
            identities,
        }
    });
    (
        option::of(meta()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        vec(limit, 0..3),
    )
        .prop_map(|(meta, total, identity, overrides)| RateLimit {
            meta,
            total,
            identity,
            overrides,
        })
}

fn http_policy() -> impl Strategy<Value = HttpPolicy> {
    (vec(http_route(), 0..4), option::of(rate_limit()))
        .prop_map(|(routes, rate_limit)| HttpPolicy { routes, rate_limit })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        4 => (1u64..1_000_000_000_000, http_policy()).prop_map(|(nanos, http)| Protocol::Detect {
            timeout: Duration::from_nanos(nanos),
            http,
        }),
        2 => http_policy().prop_map(Protocol::Http1),
        2 => http_policy().prop_map(Protocol::Http2),
        3 => vec(grpc_route(), 0..4).prop_map(|routes| Protocol::Grpc { routes }),
        1 => Just(Protocol::Opaque),
        1 => Just(Protocol::Tls),
    ]
}

/// Any policy that is valid.
pub(crate) fn server_policy() -> impl Strategy<Value = ServerPolicy> {
    (meta(), protocol(), vec(authorization(), 0..6)).prop_map(|(meta, protocol, authorizations)| {
        ServerPolicy {
            meta,
            protocol,
            authorizations,
        }
    })
}

/// A peer, with its identity owned.
#[derive(Clone, Debug)]
pub(crate) struct SomePeer {
    addr: IpAddr,
    tls: u8,
    identity: String,
}

impl SomePeer {
    pub(crate) fn peer(&self) -> Peer<'_> {
        let identity = match self.identity.as_str() {
            "" => None,
            uri if uri.contains("://") => Some(PeerId::Uri(uri)),
            dns => Some(PeerId::Dns(dns)),
        };
        Peer {
            addr: self.addr,
            tls: match self.tls {
                0 => PeerTls::None,
                1 => PeerTls::Passthrough,
                _ => PeerTls::Terminated { identity },
            },
        }
    }
}

pub(crate) fn peer() -> impl Strategy<Value = SomePeer> {
    let addr = prop_oneof![
        (0u32..20).prop_map(|low| std::net::Ipv4Addr::from(0x0a00_0000 + low).into()),
        (0u128..20).prop_map(|low| std::net::Ipv6Addr::from(low).into()),
        (0u32..20).prop_map(|low| {
            std::net::Ipv4Addr::from(0x0a00_0000 + low)
                .to_ipv6_mapped()
                .into()
        }),
    ];
    let identity = prop_oneof![
        4 => text(IDENTITIES),
        1 => Just(String::new()),
        1 => text(&["a.B.x", ".x", "z.b.x", "xx"]),
    ];
    (addr, 0u8..5, identity).prop_map(|(addr, tls, identity)| SomePeer {
        addr,
        tls,
        identity,
    })
}

/// A request, with its parts owned.
#[derive(Clone, Debug)]
pub(crate) struct SomeRequest {
    method: Method,
    authority: Option<String>,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl SomeRequest {
    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            authority: self.authority.as_deref(),
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        }
    }
}

pub(crate) fn request() -> impl Strategy<Value = SomeRequest> {
    let headers = vec(
        (select(&["h", "i"][..]), select(&["1", "2", "", "1, 2"][..])),
        0..4,
    );
    (
        method(),
        option::of(text(&[
            "a.x", "A.x:80", "b.x.", "a.b.x", "x", "", "z.a.b.x",
        ])),
        text(&[
            "/", "/a", "/a/b", "/%61/b", "/%73/m", "/a/", "/b", "/ab", "/s/m", "/s/n", "/t/m",
            "/s/m/", "/s/m/n", "*", "",
        ]),
        option::of(text(&[
            "q=1",
            "q=1&q=2",
            "r+s=2&q=1",
            "r%20s=1%2C+2",
            "",
            "q",
        ])),
        headers,
    )
        .prop_map(|(method, authority, path, query, pairs)| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, HeaderValue::from_static(value));
            }
            SomeRequest {
                method,
                authority,
                path,
                query,
                headers,
            }
        })
}
