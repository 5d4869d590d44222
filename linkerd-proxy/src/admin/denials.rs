//! What was denied lately: each distinct denial once, with a count.
//!
//! `inbound` and `admin` feed it on every denial; `GET /denials` shows it. A distinct denial (port, client, reason,
//! route) is logged when it first happens and then at most once per `DENIAL_LOG_INTERVAL`, with the count since: never
//! a line a request. It holds [`MAX`] denials; the one seen longest ago gives way.

use linkerd_metrics::{Counter, Handle, Labels, Registry, describe};
use linkerd_policy::server::Meta;
use serde::Serialize;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// Distinct denials that are kept.
pub(crate) const MAX: usize = 512;
/// Longest text about a denial, in characters.
const MAX_WHY: usize = 512;
/// Log lines about denials an interval, however many distinct ones there are.
const MAX_LINES: usize = 100;

/// A denial, as it happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denial<'a> {
    /// Port of the original destination.
    pub(crate) port: u16,
    /// The Server, or default policy, that denied.
    pub(crate) server: &'a Meta,
    /// The route; absent for connections.
    pub(crate) route: Option<&'a Meta>,
    pub(crate) client: SocketAddr,
    /// The client's identity, if it proved one.
    pub(crate) identity: Option<&'a str>,
    /// Of the policy crate's closed set (`DenyReason::as_str`).
    pub(crate) reason: &'static str,
}

/// The recent denials. Shared by all workers; a denial takes a short lock.
#[derive(Debug)]
pub(crate) struct Denials {
    interval: Duration,
    kept: Mutex<Kept>,
    suppressed: Handle<Counter>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Key, Entry>,
    /// Lines written since `since`.
    lines: usize,
    since: Option<Instant>,
}

/// What makes a denial another one. Clients are told apart by identity, or else by address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    port: u16,
    client: Client,
    reason: &'static str,
    route: Option<Meta>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Client {
    Identity(Box<str>),
    Address(IpAddr),
}

#[derive(Debug)]
struct Entry {
    server: Meta,
    last_client: SocketAddr,
    why: Arc<str>,
    count: u64,
    first: SystemTime,
    last: SystemTime,
    last_seen: Instant,
    logged: Option<Instant>,
    /// Denials since the last log line.
    unlogged: u64,
}

/// A distinct denial, for `GET /denials`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Record {
    pub(crate) port: u16,
    pub(crate) server: String,
    pub(crate) route: Option<String>,
    /// The identity, or the address of a client without one.
    pub(crate) client: String,
    /// Where the last one came from.
    pub(crate) address: SocketAddr,
    pub(crate) reason: &'static str,
    pub(crate) why: String,
    pub(crate) count: u64,
    pub(crate) first_seen: String,
    pub(crate) last_seen: String,
}

impl Denials {
    /// Nothing denied yet. `interval` is `DENIAL_LOG_INTERVAL`.
    pub(crate) fn new(interval: Duration, registry: &Registry) -> Self {
        Self {
            interval,
            kept: Mutex::default(),
            suppressed: registry
                .counters(&describe::PROXY_LOG_LINES_SUPPRESSED_TOTAL)
                .get(&Labels::new().with("reason", "denied")),
        }
    }

    /// Counts a denial. `why` says in a line what came closest and failed on what; it is asked only for what is not
    /// known yet, and its text is given back.
    pub(crate) fn record(&self, denial: Denial<'_>, why: impl FnOnce() -> String) -> Arc<str> {
        self.record_at(denial, why, Instant::now(), SystemTime::now())
    }

    fn record_at(
        &self,
        denial: Denial<'_>,
        why: impl FnOnce() -> String,
        now: Instant,
        wall: SystemTime,
    ) -> Arc<str> {
        let key = Key {
            port: denial.port,
            client: match denial.identity {
                Some(identity) => Client::Identity(identity.into()),
                None => Client::Address(denial.client.ip()),
            },
            reason: denial.reason,
            route: denial.route.cloned(),
        };
        // Explaining takes longer than counting: not under the lock.
        let known = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = kept.entries.get(&key);
            entry
                .filter(|entry| entry.server == *denial.server)
                .map(|entry| entry.why.clone())
        };
        let why = known.unwrap_or_else(|| bounded(&why()));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let line = kept.count(key, denial, &why, now, wall, self.interval);
        drop(kept);
        match line {
            Some(count) => log(denial, &why, count),
            None => self.suppressed.inc(),
        }
        why
    }

    /// What is kept, the latest first.
    pub(crate) fn records(&self) -> Vec<Record> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries: Vec<_> = kept.entries.iter().collect();
        entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.last_seen));
        entries
            .into_iter()
            .map(|(key, entry)| Record {
                port: key.port,
                server: entry.server.to_string(),
                route: key.route.as_ref().map(ToString::to_string),
                client: match &key.client {
                    Client::Identity(identity) => identity.to_string(),
                    Client::Address(ip) => ip.to_string(),
                },
                address: entry.last_client,
                reason: key.reason,
                why: entry.why.to_string(),
                count: entry.count,
                first_seen: super::utc(entry.first),
                last_seen: super::utc(entry.last),
            })
            .collect()
    }
}

impl Kept {
    /// Counts, and tells how many denials a log line is to speak of, if one is due.
    fn count(
        &mut self,
        key: Key,
        denial: Denial<'_>,
        why: &Arc<str>,
        now: Instant,
        wall: SystemTime,
        interval: Duration,
    ) -> Option<u64> {
        if self.entries.len() >= MAX && !self.entries.contains_key(&key) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_seen);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&oldest);
            }
        }
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            server: denial.server.clone(),
            last_client: denial.client,
            why: why.clone(),
            count: 0,
            first: wall,
            last: wall,
            last_seen: now,
            logged: None,
            unlogged: 0,
        });
        entry.server = denial.server.clone();
        entry.why = why.clone();
        entry.last_client = denial.client;
        entry.count += 1;
        entry.unlogged += 1;
        entry.last = wall;
        entry.last_seen = now;
        let due =
            |since: Option<Instant>| since.is_none_or(|at| now.duration_since(at) >= interval);
        if !due(entry.logged) {
            return None;
        }
        // Whoever can choose addresses could make each denial a distinct one.
        if due(self.since) {
            self.since = Some(now);
            self.lines = 0;
        }
        if self.lines >= MAX_LINES {
            return None;
        }
        self.lines += 1;
        entry.logged = Some(now);
        Some(std::mem::take(&mut entry.unlogged))
    }
}

/// The line that tools look for: `Connection denied` or `Request denied`.
fn log(denial: Denial<'_>, why: &str, count: u64) {
    let Denial {
        port,
        server,
        route,
        client,
        identity,
        reason,
    } = denial;
    let tls = identity.unwrap_or("none");
    match route {
        None => tracing::info!(
            port, server.group = server.group(), server.kind = server.kind(), server.name = server.name(),
            client.addr = %client, client.id = ?tls, reason, count, ?why, "Connection denied"
        ),
        Some(route) => tracing::info!(
            port, server.group = server.group(), server.kind = server.kind(), server.name = server.name(),
            route.group = route.group(), route.kind = route.kind(), route.name = route.name(),
            client.addr = %client, client.id = ?tls, reason, count, ?why, "Request denied"
        ),
    }
}

fn bounded(why: &str) -> Arc<str> {
    match why.char_indices().nth(MAX_WHY) {
        Some((end, _)) => why.get(..end).unwrap_or_default().into(),
        None => why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linkerd_metrics::Options;

    fn denials(interval: Duration) -> Denials {
        Denials::new(interval, &Registry::new(Options::default()))
    }

    fn server() -> Meta {
        Meta::resource("policy.linkerd.io", "server", "web")
    }

    fn denial<'a>(server: &'a Meta, client: &str, identity: Option<&'a str>) -> Denial<'a> {
        Denial {
            port: 8080,
            server,
            route: None,
            client: client.parse().unwrap(),
            identity,
            reason: "identity",
        }
    }

    #[test]
    fn the_same_denial_is_kept_once_with_a_count_and_explained_once() {
        let (denials, server) = (denials(Duration::from_secs(60)), server());
        for port in 1..=3 {
            let client = format!("10.0.0.{port}:40000");
            let why = denials.record(denial(&server, &client, Some("a.ns")), || {
                assert_eq!(port, 1, "explained again");
                "identity: got a.ns".into()
            });
            assert_eq!(&*why, "identity: got a.ns");
        }
        denials.record(denial(&server, "10.0.0.9:1", None), || "no tls".into());
        let records = denials.records();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].client, "10.0.0.9");
        assert_eq!((records[1].count, &*records[1].client), (3, "a.ns"));
        assert_eq!(records[1].address.to_string(), "10.0.0.3:40000");
    }

    #[test]
    fn a_line_is_due_once_an_interval_and_says_how_many_there_were() {
        let (server, interval) = (server(), Duration::from_secs(60));
        let mut kept = Kept::default();
        let (start, wall) = (Instant::now(), SystemTime::now());
        let mut at = |seconds| {
            let denial = denial(&server, "10.0.0.1:1", None);
            let key = Key {
                port: 1,
                client: Client::Address(denial.client.ip()),
                reason: "network",
                route: None,
            };
            kept.count(
                key,
                denial,
                &"why".into(),
                start + Duration::from_secs(seconds),
                wall,
                interval,
            )
        };
        assert_eq!(at(0), Some(1));
        assert_eq!(at(1), None);
        assert_eq!(at(59), None);
        assert_eq!(at(60), Some(3));
        assert_eq!(at(61), None);
    }

    #[test]
    fn many_distinct_denials_use_bounded_memory_and_a_bounded_log() {
        let (server, interval) = (server(), Duration::from_secs(60));
        let mut kept = Kept::default();
        let now = Instant::now();
        let lines = (0..5_000_u32)
            .filter(|n| {
                let denial = denial(&server, "10.0.0.1:1", None);
                let ip = IpAddr::from(n.to_be_bytes());
                let key = Key {
                    port: 1,
                    client: Client::Address(ip),
                    reason: "network",
                    route: None,
                };
                kept.count(key, denial, &"why".into(), now, SystemTime::now(), interval)
                    .is_some()
            })
            .count();
        assert_eq!(kept.entries.len(), MAX);
        assert_eq!(lines, MAX_LINES);
    }
}
