//! The admin server, and what metrics keep.

use super::{
    reader::Reader,
    value::{AtMost, Buckets},
};
use std::{net::SocketAddr, time::Duration};

/// The admin server.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens. `ADMIN_LISTEN_ADDR`.
    pub listen: SocketAddr,
    /// Where tap listens, if it is on. `CONTROL_LISTEN_ADDR`.
    pub tap_listen: SocketAddr,
    /// Who may read `/env.json`. `ADMIN_ENV_JSON`.
    pub env_json: Readers,
    /// Who may read `/policy`, `/policy/explain`, `/denials` and `/outbound`. `ADMIN_POLICY`.
    pub policy: Readers,
    /// Connections at one time. `ADMIN_MAX_CONNECTIONS`.
    pub max_connections: usize,
}

/// Who may read a page of the admin server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Clients on this host.
    Loopback,
    /// Whomever the policy of the admin port admits.
    Policy,
    /// Nobody.
    Off,
}

impl Readers {
    fn read(reader: &Reader<'_>, name: &str) -> Self {
        match reader.word(name) {
            Some("policy") => Self::Policy,
            Some("off") => Self::Off,
            _ => Self::Loopback,
        }
    }
}

impl Admin {
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let env_json = Readers::read(reader, "ADMIN_ENV_JSON");
        let policy = Readers::read(reader, "ADMIN_POLICY");
        let max_connections = reader.value::<AtMost>("ADMIN_MAX_CONNECTIONS").0;
        let listen = reader.optional("ADMIN_LISTEN_ADDR");
        let tap_listen = reader.optional("CONTROL_LISTEN_ADDR");
        Some(Self {
            listen: listen?,
            tap_listen: tap_listen?,
            env_json,
            policy,
            max_connections,
        })
    }
}

/// What metrics keep and offer. Field = variable `METRICS_<FIELD>`.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// How long an unused series stays.
    pub retain_idle: Duration,
    /// Buckets of latency histograms in milliseconds; `None` = each family's own.
    pub latency_buckets: Option<Vec<f64>>,
    /// Series of a family.
    pub max_series: usize,
    /// Whether native histograms are offered.
    pub native_histograms: bool,
}

impl Metrics {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let buckets: Option<Buckets> = reader.optional("METRICS_LATENCY_BUCKETS");
        Self {
            retain_idle: reader.value("METRICS_RETAIN_IDLE"),
            latency_buckets: buckets
                .map(|Buckets(bounds)| bounds)
                .filter(|bounds| !bounds.is_empty()),
            max_series: reader.value::<AtMost>("METRICS_MAX_SERIES").0,
            native_histograms: reader.value("METRICS_NATIVE_HISTOGRAMS"),
        }
    }
}
