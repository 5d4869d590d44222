//! The admin server: probes, metrics, and what this proxy enforces and why.
//!
//! `run` calls [`serve`] on the admin thread. A connection is plain HTTP/1 or HTTP/2, or mesh TLS for our own name. A
//! request is judged by the inbound policy of the admin port, as the spec says; `/live` and `/ready` are a layer below
//! that, so that no policy, and no absence of one, keeps a probe out. What tells of more than health and numbers is
//! for clients on this host, unless configured otherwise; `docs/configuration.md` says which switch opens what.
//!
//! | file | what |
//! |---|---|
//! | `connection` | accept, TLS, HTTP version |
//! | `pages` | a request: policy, then the page |
//! | `enforced` | `/policy`, `/policy/explain` |
//! | `outbound` | `/outbound`, `/retries` |
//! | `ready` | when this proxy is ready |
//! | `denials` | what was denied lately |

mod connection;
pub(crate) mod denials;
mod enforced;
mod outbound;
mod pages;
mod ready;
#[cfg(test)]
mod tests;

pub(crate) use self::connection::serve;

use crate::{
    config::Config,
    discovery::policy::PolicyStore,
    drain::{Drain, Phase},
    logging::Level,
    outbound::Outbound,
};
use linkerd_metrics::Registry;
use linkerd_tls::LocalIdentity;
use std::{sync::Arc, time::SystemTime};
use tokio::sync::mpsc;

/// What the admin server shows and changes.
#[derive(Debug)]
pub(crate) struct State {
    config: Arc<Config>,
    registry: Registry,
    identity: Arc<LocalIdentity>,
    policies: PolicyStore,
    outbound: Arc<Outbound>,
    denials: Arc<denials::Denials>,
    log: Level,
    /// Takes the wish of `POST /shutdown`.
    stop: mpsc::Sender<()>,
    drain: Option<Drain>,
    metrics: pages::PageMetrics,
}

impl State {
    pub(crate) fn new(
        config: &Arc<Config>,
        registry: Registry,
        identity: Arc<LocalIdentity>,
        policies: PolicyStore,
        (outbound, denials): (Arc<Outbound>, Arc<denials::Denials>),
        log: Level,
        stop: mpsc::Sender<()>,
    ) -> Self {
        Self {
            metrics: pages::PageMetrics::register(&registry),
            config: config.clone(),
            drain: None,
            registry,
            identity,
            policies,
            outbound,
            denials,
            log,
            stop,
        }
    }

    /// Tells readiness how far the process's end is. To be an observer: nothing waits for this server.
    pub(crate) fn ending_with(mut self, drain: Drain) -> Self {
        self.drain = Some(drain);
        self
    }

    fn phase(&self) -> Phase {
        self.drain.as_ref().map_or(Phase::Serving, Drain::phase)
    }
}

/// A time for people and scripts: RFC 3339, UTC, seconds.
fn utc(at: SystemTime) -> String {
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};
    let at = OffsetDateTime::from(at);
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_default()
}
