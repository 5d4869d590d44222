//! The syntax of values in environment variables: one [`Value`] implementation a type.
//!
//! Called by [`super::reader`] only. Each parser says what is wrong; what would be right comes from [`Syntax`].

use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// A value's type and unit, as the table of variables and the documentation name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// Free text.
    Text,
    /// A whole number with its unit.
    Duration,
    /// The same, or empty for no limit.
    Limit,
    /// `true` or `false`.
    Bool,
    /// Whole number.
    Number,
    /// Whole number above 0: a limit of 0 would refuse everything.
    Positive,
    /// Decimal number.
    Float,
    /// Ports and port ranges.
    Ports,
    /// `ip:port`.
    Socket,
    /// One or two `ip:port`.
    Sockets,
    /// `ip:port` or `name:port`.
    Address,
    /// IP addresses.
    Ips,
    /// Networks.
    Networks,
    /// DNS suffixes.
    Suffixes,
    /// DNS name or URI.
    Identity,
    /// Several of them.
    Identities,
    /// DNS name.
    Name,
    /// Name of a default policy.
    DefaultPolicy,
    /// `listen=destination` pairs.
    Listeners,
    OwnListeners,
    /// Ascending numbers.
    Buckets,
    /// gRPC status codes.
    GrpcCodes,
    /// One of a few words.
    Word(&'static [&'static str]),
}

impl Syntax {
    /// What would be right, for error messages and the documentation.
    pub fn right(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Duration => {
                "a whole number directly followed by ms, s, m, h or d, like 500ms or 10s".into()
            }
            Self::Limit => {
                "a whole number directly followed by ms, s, m, h or d, like 5m; empty for no limit"
                    .into()
            }
            Self::Bool => "true or false".into(),
            Self::Number => "a whole number, like 100".into(),
            Self::Positive => "a whole number above 0, like 100".into(),
            Self::Float => "a decimal number, like 0.1".into(),
            Self::Ports => {
                "ports and ranges of ports between commas, like 80,8000-8100 (1 to 65535)".into()
            }
            Self::Socket => "an IP address and port, like 0.0.0.0:4143 or [::]:4143".into(),
            Self::Sockets => {
                "one or two IP addresses with port, like 127.0.0.1:4140,[::1]:4140".into()
            }
            Self::Address => {
                "an address and port, like 10.0.0.1:8090 or linkerd-policy.linkerd.svc.cluster.local.:8090".into()
            }
            Self::Ips => "IP addresses between commas without blanks, like 10.0.0.1,fd00::1".into(),
            Self::Networks => "networks between commas, like 10.0.0.0/8,fd00::/8".into(),
            Self::Suffixes => {
                "DNS suffixes between commas, like svc.cluster.local. (a single dot means every name)"
                    .into()
            }
            Self::Identity => {
                "a DNS name without a dot at its end, like web.shop.serviceaccount.identity.linkerd.cluster.local, or a URI, like spiffe://root/web"
                    .into()
            }
            Self::Identities => {
                "identities between commas, like api.shop.serviceaccount.identity.linkerd.cluster.local,spiffe://root/api"
                    .into()
            }
            Self::Name => "a DNS name, like web.shop.svc.cluster.local".into(),
            Self::DefaultPolicy => "all-unauthenticated, all-authenticated, cluster-unauthenticated, cluster-authenticated, deny or audit".into(),
            Self::Listeners => {
                "listen=destination pairs between commas, like 127.0.0.1:19000=catalog.shop.svc.cluster.local:8080".into()
            }
            Self::OwnListeners => {
                "listen=destination pairs between commas, like 127.0.0.1:18080=127.0.0.1:8080 or INBOUND_IPS:8080=127.0.0.1:8080".into()
            }
            Self::Buckets => "ascending numbers between commas, like 1,5,10,50,100".into(),
            Self::GrpcCodes => "gRPC status codes between commas, like 2,4,13,14 (0 to 16)".into(),
            Self::Word(words) => format!("one of: {}", words.join(", ")),
        }
    }

    /// A short name for the documentation's table.
    pub fn label(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Duration => "duration".into(),
            Self::Limit => "duration or empty".into(),
            Self::Bool => "bool".into(),
            Self::Number => "number".into(),
            Self::Positive => "number above 0".into(),
            Self::Float => "decimal".into(),
            Self::Ports => "port set".into(),
            Self::Socket => "socket address".into(),
            Self::Sockets => "1-2 socket addresses".into(),
            Self::Address => "address".into(),
            Self::Ips => "IP set".into(),
            Self::Networks => "networks".into(),
            Self::Suffixes => "DNS suffixes".into(),
            Self::Identity => "identity".into(),
            Self::Identities => "identities".into(),
            Self::Name => "DNS name".into(),
            Self::DefaultPolicy => "default policy".into(),
            Self::Listeners | Self::OwnListeners => "listeners".into(),
            Self::Buckets => "buckets".into(),
            Self::GrpcCodes => "codes".into(),
            Self::Word(words) => words
                .iter()
                .map(|word| format!("`{word}`"))
                .collect::<Vec<_>>()
                .join(" or "),
        }
    }
}

/// A type that a variable's text can be parsed into.
pub(super) trait Value: Sized {
    /// Whether the table's syntax for the variable gives this type.
    fn accepts(syntax: Syntax) -> bool;
    /// Parses; the error says what is wrong, without repeating the value.
    fn parse(text: &str) -> Result<Self, String>;
}

macro_rules! accepts {
    ($($pattern:pat_param)|+) => {
        fn accepts(syntax: Syntax) -> bool {
            matches!(syntax, $($pattern)|+)
        }
    };
}

impl Value for String {
    accepts!(Syntax::Text | Syntax::Word(_));
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Value for Duration {
    accepts!(Syntax::Duration | Syntax::Limit);
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty".into());
        }
        if text == "0" {
            return Ok(Self::ZERO);
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err("does not start with a whole number".into());
        }
        let number: u64 = number.parse().map_err(|_| "is too large".to_owned())?;
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            "d" => 24 * 60 * 60 * 1000,
            "" => return Err("has no unit".into()),
            other => return Err(format!("has the unknown unit {other:?}")),
        };
        number
            .checked_mul(unit_ms)
            .map(Self::from_millis)
            .ok_or_else(|| "is too large".to_owned())
    }
}

/// A duration, or no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Option<Duration>);

impl Value for Limit {
    accepts!(Syntax::Limit);
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        Duration::parse(text).map(|duration| Self(Some(duration)))
    }
}

impl Value for bool {
    accepts!(Syntax::Bool);
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is neither true nor false".into()),
        }
    }
}

macro_rules! number {
    ($($t:ty),+) => {$(
        impl Value for $t {
            accepts!(Syntax::Number);
            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| {
                    format!("is not a whole number from 0 to {}", <$t>::MAX)
                })
            }
        }
    )+};
}
number!(u32, u64, usize);

/// How many of something there may be: one at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AtMost(pub(super) usize);

impl Value for AtMost {
    accepts!(Syntax::Positive);
    fn parse(text: &str) -> Result<Self, String> {
        match usize::parse(text)? {
            0 => Err("would refuse everything".into()),
            max => Ok(Self(max)),
        }
    }
}

impl Value for f64 {
    accepts!(Syntax::Float);
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<Self>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err("is not a decimal number".into()),
        }
    }
}

/// A set of ports, kept as ranges so that `1-65535` costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// Whether the port is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.0
            .iter()
            .any(|&(low, high)| (low..=high).contains(&port))
    }

    /// Adds a port.
    pub(super) fn insert(&mut self, port: u16) {
        if !self.contains(port) {
            self.0.push((port, port));
        }
    }

    /// Every port, ascending and once.
    pub fn iter(&self) -> impl Iterator<Item = u16> + use<> {
        let ports: BTreeSet<u16> = self.0.iter().flat_map(|&(low, high)| low..=high).collect();
        ports.into_iter()
    }

    /// Whether there is no port in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        Self(ports.into_iter().map(|port| (port, port)).collect())
    }
}

impl Value for PortSet {
    accepts!(Syntax::Ports);
    fn parse(text: &str) -> Result<Self, String> {
        let port = |text: &str| {
            text.trim()
                .parse::<u16>()
                .map_err(|_| format!("holds {text:?}, which is no port"))
        };
        items(text)
            .map(|item| match item.split_once('-') {
                None => port(item).map(|port| (port, port)),
                Some((low, high)) => {
                    let (low, high) = (port(low)?, port(high)?);
                    if high < low {
                        return Err(format!(
                            "holds the range {item}, whose end is before its start"
                        ));
                    }
                    Ok((low, high))
                }
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Value for SocketAddr {
    accepts!(Syntax::Socket);
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| "is no IP address with a port".into())
    }
}

/// One or two listen addresses, the second one for the other IP family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sockets(pub(super) Vec<SocketAddr>);

impl Value for Sockets {
    accepts!(Syntax::Sockets);
    fn parse(text: &str) -> Result<Self, String> {
        let addrs = text
            .split(',')
            .map(|item| {
                item.parse()
                    .map_err(|_| format!("holds {item:?}, which is no IP address with a port"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if addrs.len() > 2 {
            return Err(format!("holds {} addresses", addrs.len()));
        }
        Ok(Self(addrs))
    }
}

/// Where something listens: an address, or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IP address and port.
    Socket(SocketAddr),
    /// DNS name, lower-cased, and port.
    Name(String, u16),
}

impl Address {
    /// Whether traffic to it stays on this host: loopback IPs, and exactly the name `localhost.`.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Socket(addr) => addr.ip().is_loopback(),
            Self::Name(name, _) => name == "localhost.",
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Socket(addr) => addr.port(),
            Self::Name(_, port) => *port,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(addr) => addr.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl Value for Address {
    accepts!(Syntax::Address);
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return match addr.port() {
                0 => Err("has the port 0".into()),
                _ => Ok(Self::Socket(addr)),
            };
        }
        let Some((name, port)) = text.rsplit_once(':') else {
            return Err("has no port".into());
        };
        let port: u16 = port
            .parse()
            .map_err(|_| format!("has the port {port:?}, which is none"))?;
        if port == 0 {
            return Err("has the port 0".into());
        }
        dns_name(name)?;
        Ok(Self::Name(name.to_ascii_lowercase(), port))
    }
}

/// IP addresses without blanks between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ips(pub(super) BTreeSet<IpAddr>);

impl Value for Ips {
    accepts!(Syntax::Ips);
    fn parse(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(|item| {
                item.parse()
                    .map_err(|_| format!("holds {item:?}, which is no IP address"))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Networks(pub(super) Vec<IpNet>);

impl Value for Networks {
    accepts!(Syntax::Networks);
    fn parse(text: &str) -> Result<Self, String> {
        items(text)
            .map(|item| {
                item.parse::<IpNet>()
                    .or_else(|_| item.parse::<IpAddr>().map(IpNet::from))
                    .map_err(|_| format!("holds {item:?}, which is no network"))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// DNS suffixes; names are compared label by label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suffixes(Vec<String>);

impl Suffixes {
    /// Whether a DNS name lies under one of them. Case and a final dot do not matter.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.0.iter().any(|suffix| {
            let suffix = suffix.trim_end_matches('.');
            suffix.is_empty()
                || name
                    .strip_suffix(suffix)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }

    /// Whether nothing can match.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Value for Suffixes {
    accepts!(Syntax::Suffixes);
    fn parse(text: &str) -> Result<Self, String> {
        items(text)
            .map(|item| {
                if item != "." {
                    dns_name(item).map_err(|e| format!("holds {item:?}, which {e}"))?;
                }
                Ok(item.to_ascii_lowercase())
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// gRPC status codes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GrpcCodes(pub(super) Vec<u8>);

impl Value for GrpcCodes {
    accepts!(Syntax::GrpcCodes);
    fn parse(text: &str) -> Result<Self, String> {
        items(text)
            .map(|item| match item.parse() {
                Ok(code @ 0..=16) => Ok(code),
                _ => Err(format!("holds {item:?}, which is no gRPC status code")),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Value for linkerd_tls::Id {
    accepts!(Syntax::Identity | Syntax::Name);
    fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return text.parse().map_err(|_| "is no URI".to_owned());
        }
        if text.ends_with('.') {
            return Err("ends with a dot".into());
        }
        dns_name(text)?;
        text.parse().map_err(|_| "is no DNS name".to_owned())
    }
}

/// Identities of servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identities(pub(super) Vec<linkerd_tls::Id>);

impl Value for Identities {
    accepts!(Syntax::Identities);
    fn parse(text: &str) -> Result<Self, String> {
        items(text)
            .map(|item| {
                <linkerd_tls::Id as Value>::parse(item)
                    .map_err(|why| format!("holds {item:?}, which {why}"))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A DNS name, lower-cased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DnsName(pub(super) String);

impl Value for DnsName {
    accepts!(Syntax::Name);
    fn parse(text: &str) -> Result<Self, String> {
        dns_name(text)?;
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl Value for linkerd_policy::default_policy::DefaultPolicy {
    accepts!(Syntax::DefaultPolicy);
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "is no default policy".to_owned())
    }
}

/// A listener that somebody configured, in place of redirected traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address listened on.
    pub listen: SocketAddr,
    /// Where accepted connections go.
    pub destination: Address,
}

/// Explicit listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listeners(pub(super) Vec<Listener>);

impl Value for Listeners {
    accepts!(Syntax::Listeners);
    fn parse(text: &str) -> Result<Self, String> {
        let listeners = pairs(text, SocketAddr::parse, |listen| listen.port() != 0)?;
        let listeners = listeners.into_iter().map(|(listen, destination)| Listener {
            listen,
            destination,
        });
        Ok(Self(listeners.collect()))
    }
}

/// Where an inbound listener listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Socket(SocketAddr),
    /// This port of each of this workload's addresses, which are known when it runs.
    Own(u16),
}

impl Place {
    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("INBOUND_IPS:") {
            None => SocketAddr::parse(text).map(Self::Socket),
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => Ok(Self::Own(port)),
                _ => Err(format!("has no port but {port:?}")),
            },
        }
    }
}

/// Explicit inbound listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnListeners(pub(super) Vec<(Place, Address)>);

impl Value for OwnListeners {
    accepts!(Syntax::OwnListeners);
    fn parse(text: &str) -> Result<Self, String> {
        let is_one = |place: &Place| !matches!(place, Place::Socket(addr) if addr.port() == 0);
        pairs(text, Place::parse, is_one).map(Self)
    }
}

/// Pairs `listen=destination`. Where `is_one`, there is one listener at most.
fn pairs<T: Clone + Ord>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    is_one: impl Fn(&T) -> bool,
) -> Result<Vec<(T, Address)>, String> {
    let mut seen = BTreeSet::new();
    items(text)
        .map(|item| {
            let Some((listen, destination)) = item.split_once('=') else {
                return Err(format!("holds {item:?}, which has no ="));
            };
            let place = parse(listen.trim())
                .map_err(|e| format!("holds {item:?}, whose listen address {e}"))?;
            let destination = Address::parse(destination.trim())
                .map_err(|e| format!("holds {item:?}, whose destination {e}"))?;
            if is_one(&place) && !seen.insert(place.clone()) {
                return Err(format!("listens on {} twice", listen.trim()));
            }
            Ok((place, destination))
        })
        .collect()
}

/// Upper bounds of histogram buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Buckets(pub(super) Vec<f64>);

impl Value for Buckets {
    accepts!(Syntax::Buckets);
    fn parse(text: &str) -> Result<Self, String> {
        let bounds = items(text)
            .map(|item| f64::parse(item).map_err(|_| format!("holds {item:?}, which is no number")))
            .collect::<Result<Vec<_>, _>>()?;
        if bounds.len() > 64 {
            return Err(format!("holds {} buckets, more than 64", bounds.len()));
        }
        if bounds.iter().any(|bound| *bound <= 0.0)
            || bounds
                .windows(2)
                .any(|pair| matches!(pair, [a, b] if a >= b))
        {
            return Err("is not positive and ascending".into());
        }
        Ok(Self(bounds))
    }
}

/// The loopback addresses of a port, for the name `localhost.`.
pub(crate) fn loopback(port: u16) -> [SocketAddr; 2] {
    [
        (IpAddr::V4(Ipv4Addr::LOCALHOST), port).into(),
        (IpAddr::V6(Ipv6Addr::LOCALHOST), port).into(),
    ]
}

/// Items of a comma list that ignores blanks and empty items.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Checks a DNS name (RFC 1035 lengths; underscores are allowed).
fn dns_name(name: &str) -> Result<(), String> {
    let stem = name.strip_suffix('.').unwrap_or(name);
    if stem.is_empty() {
        return Err("has no name".into());
    }
    if stem.len() > 253 {
        return Err("has a name of more than 253 characters".into());
    }
    for label in stem.split('.') {
        let fine = (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-');
        if !fine {
            return Err(format!(
                "has the label {label:?}, which is not allowed in a DNS name"
            ));
        }
    }
    Ok(())
}
