//! The one table of metric families. The proxy and the controller name its entries to resolve families, the pages and
//! `docs/metrics.md` are printed in its order, and the tests compare what is exposed with it.
//!
//! Names, types, buckets and labels of families marked [`Origin::Peer`] are a contract with existing dashboards and
//! must not change; those marked [`Origin::Ours`] are additions.

mod balancer;
mod clients;
mod control;
mod controller;
mod discovery;
mod docs;
mod inbound;
pub(crate) mod labels;
mod outbound;
mod process;
mod proxy;
mod retries;
mod routes;
mod traffic;

pub use balancer::*;
pub use clients::*;
pub use control::*;
pub use controller::*;
pub use discovery::*;
pub use docs::markdown;
pub use inbound::*;
pub use labels::{LABELS, Label, Source, label};
pub use outbound::*;
pub use process::*;
pub use proxy::*;
pub use retries::*;
pub use routes::*;
pub use traffic::*;

/// One metric family.
#[derive(Debug)]
pub struct Desc {
    /// The name of its samples; for a histogram without `_bucket`, `_sum`, `_count`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What its values are measured in.
    pub unit: Unit,
    /// One sentence for the `HELP` line.
    pub help: &'static str,
    /// The labels in order, by group.
    pub labels: &'static [&'static [&'static str]],
    /// How numbers are printed.
    pub style: Style,
    /// Whose name it is.
    pub origin: Origin,
    /// What happens to series nobody uses.
    pub idle: Idle,
}

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram {
        /// Upper bounds of the classic buckets, in the unit of the family, without `+Inf`.
        buckets: &'static [f64],
        /// True if [`crate::Options::latency_buckets`] replaces the buckets.
        latency: bool,
    },
}

impl Kind {
    /// The word in a `TYPE` line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram { .. } => "histogram",
        }
    }
}

/// What values are measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    None,
    /// Seconds; points in time are seconds since 1970.
    Seconds,
    /// Milliseconds: legacy latencies only.
    Milliseconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// The word in a `UNIT` line, which is also how the name ends; empty for none.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Seconds => "seconds",
            Self::Milliseconds => "ms",
            Self::Bytes => "bytes",
        }
    }
}

/// How the numbers of a family are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Bucket bounds as integers (`le="1"`), no `UNIT` line.
    Legacy,
    /// Bucket bounds as floats (`le="1.0"`).
    Modern,
}

/// Whose name a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// linkerd2-proxy exposes it too.
    Peer,
    /// Ours only.
    Ours,
}

/// What happens to series that no handle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Evicted after [`crate::Options::retain_idle`].
    Evict,
    /// Kept as long as the process: their number is fixed by the code or the configuration.
    Keep,
}

impl Desc {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            unit: Unit::None,
            help: "",
            labels: &[],
            style: Style::Modern,
            origin: Origin::Ours,
            idle: Idle::Keep,
        }
    }

    const fn counter(name: &'static str) -> Self {
        Self::new(name, Kind::Counter)
    }

    const fn gauge(name: &'static str) -> Self {
        Self::new(name, Kind::Gauge)
    }

    const fn histogram(name: &'static str, buckets: &'static [f64]) -> Self {
        let latency = false;
        Self::new(name, Kind::Histogram { buckets, latency })
    }

    /// A histogram of times whose buckets the operator may replace.
    const fn latency(name: &'static str, buckets: &'static [f64]) -> Self {
        let latency = true;
        Self::new(name, Kind::Histogram { buckets, latency }).unit(Unit::Seconds)
    }

    const fn help(mut self, comment: &'static str) -> Self {
        self.help = comment.trim_ascii();
        self
    }

    const fn unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    /// Labels whose values are fixed by code or configuration: series are kept.
    const fn fixed(mut self, labels: &'static [&'static [&'static str]]) -> Self {
        self.labels = labels;
        self
    }

    /// Labels whose values come from traffic, policy or discovery: idle series are evicted.
    const fn labels(mut self, labels: &'static [&'static [&'static str]]) -> Self {
        self.labels = labels;
        self.idle = Idle::Evict;
        self
    }

    const fn peer(mut self) -> Self {
        self.origin = Origin::Peer;
        self
    }

    const fn legacy(mut self) -> Self {
        self.style = Style::Legacy;
        self.peer()
    }

    /// The label names, in order. `rt_*` stands for any name with that beginning.
    pub fn label_names(&self) -> impl Iterator<Item = &'static str> {
        self.labels.iter().flat_map(|group| group.iter().copied())
    }

    /// True if the table allows a label of this name.
    #[must_use]
    pub fn allows(&self, key: &str) -> bool {
        self.label_names().any(|name| match name.strip_suffix('*') {
            Some(beginning) => key.starts_with(beginning),
            None => name == key,
        })
    }
}

/// A family, and what its doc comment says beyond the first line.
type Entry = (&'static Desc, &'static str);

/// Makes the statics of a part of the table and the part itself, so that no family can be missing from the table.
/// The first line of a doc comment is the `HELP` text; the reference prints the others too.
macro_rules! families {
    ($table:ident: $(#[doc = $help:literal] $(#[doc = $more:literal])* $name:ident = $desc:expr;)*) => {
        $(
            #[doc = $help]
            #[doc = ""]
            $(#[doc = $more])*
            pub static $name: $crate::Desc = $desc.help($help);
        )*
        pub(in crate::describe) static $table: &[super::Entry] = &[$((&$name, concat!("", $($more),*))),*];
    };
}
use families;

/// The parts of the table, in the order of a page: the peer's legacy families, its newer ones, and ours.
static PARTS: [(&str, &[Entry]); 15] = [
    (
        "Inbound: authorization, errors, detection, HTTP and gRPC",
        INBOUND_TABLE,
    ),
    ("Traffic, both directions", TRAFFIC_TABLE),
    ("Outbound", OUTBOUND_TABLE),
    ("Outbound: routes, backends, connections", ROUTES_TABLE),
    ("Outbound: retries", RETRIES_TABLE),
    ("Outbound: balancers", BALANCER_TABLE),
    ("Outbound: discovery", DISCOVERY_TABLE),
    ("Identity and control plane clients", CONTROL_TABLE),
    (
        "Balancer of the destination client",
        control_destination::TABLE,
    ),
    ("Balancer of the policy client", control_policy::TABLE),
    ("Balancer of the identity client", control_identity::TABLE),
    ("Balancer of the span exporter", opentelemetry::TABLE),
    (
        "Proxy: policy in force, limits, TLS, life cycle",
        PROXY_TABLE,
    ),
    ("Process and build", PROCESS_TABLE),
    ("Control plane", CONTROLLER_TABLE),
];

/// All families, in the order of a page.
pub fn all() -> impl Iterator<Item = &'static Desc> {
    PARTS
        .iter()
        .flat_map(|(_, table)| table.iter().map(|(desc, _)| *desc))
}

/// Where a family stands in the table; families that are not in it (in tests) come last.
pub(crate) fn position(desc: &Desc) -> usize {
    all()
        .position(|listed| listed.name == desc.name)
        .unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
