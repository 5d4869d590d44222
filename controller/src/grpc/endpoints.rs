//! Endpoints of Services, computed once for all streams that ask for them, and what changed since a stream was told.

use super::{
    hints::Hints,
    path::{self, Place},
    weighted::{address, weighted},
};
use linkerd_policy::index::{Endpoint, Index, Reads, select};
use linkerd2_proxy_api::destination::{AddrSet, NoEndpoints, Update, WeightedAddrSet, update};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Ports of Services that are remembered; beyond, they are forgotten and computed again.
const MAX_REMEMBERED: usize = 4096;

/// The endpoints of a port of a Service.
pub(super) type List = Arc<[Arc<Endpoint>]>;

/// Namespace, Service and port.
type Key = (String, String, u16);

/// What was computed last of each port that is asked for.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(Mutex<HashMap<Key, (Arc<Reads>, List)>>);

impl Endpoints {
    /// The endpoints that a client at `place` should use; `None` if there is no Service.
    pub(super) fn of(
        &self,
        index: &Index,
        asked: &path::Service,
        place: &Place,
        hints: &Hints,
    ) -> Option<List> {
        let service = index.service(&asked.namespace, &asked.name)?;
        let all = if service.port(asked.port).is_some() {
            self.remembered(index, asked)?
        } else {
            // Any port may be asked for: not to be remembered.
            shared(
                index.endpoints(&asked.namespace, &asked.name, asked.port)?,
                &[],
            )
        };
        let client = place.client(index, hints.has_ipv6);
        Some(select(service, &all, asked.instance.as_deref(), client))
    }

    fn remembered(&self, index: &Index, asked: &path::Service) -> Option<List> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (asked.namespace.clone(), asked.name.clone(), asked.port);
        if let Some((reads, list)) = known.get(&key).filter(|(reads, _)| index.is_current(reads)) {
            index.also_read(reads);
            return Some(list.clone());
        }
        let recording = index.recording();
        let now = recording.endpoints(&asked.namespace, &asked.name, asked.port)?;
        let reads = Arc::new(recording.into_reads());
        index.also_read(&reads);
        let before = known.get(&key).map(|(_, list)| list.clone());
        let mut list = shared(now, before.as_deref().unwrap_or_default());
        if let Some(before) = before.filter(|before| is_same(before, &list)) {
            list = before;
        }
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(key, (reads, list.clone()));
        Some(list)
    }
}

/// Endpoints that are as they were are the ones that there were: streams see at once that nothing changed.
fn shared(now: Vec<Endpoint>, before: &[Arc<Endpoint>]) -> List {
    let before: HashMap<_, _> = before.iter().map(|e| ((e.addr, e.port), e)).collect();
    let known = |e: &Endpoint| {
        before
            .get(&(e.addr, e.port))
            .filter(|known| ****known == *e)
    };
    now.into_iter()
        .map(|e| match known(&e) {
            Some(known) => Arc::clone(known),
            None => Arc::new(e),
        })
        .collect()
}

fn is_same(one: &[Arc<Endpoint>], other: &[Arc<Endpoint>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// What one `Get` stream has told its client.
#[derive(Debug, Default)]
pub(super) struct Told {
    endpoints: Option<List>,
    zone: Option<String>,
    begun: bool,
}

/// What changed of a Service's endpoints: additions first, then removals (control plane §4.2).
///
/// Unlike the peer's, a Service that exists without endpoints says so; otherwise its client could not tell it from a
/// stream that is slow. `None` is a Service that is gone: all its endpoints are removed and the stream remains.
pub(super) fn changes(
    now: Option<List>,
    zone: Option<&str>,
    labels: HashMap<String, String>,
    hints: &Hints,
    told: &mut Told,
) -> Vec<Update> {
    let exists = now.is_some();
    let now = now.unwrap_or_default();
    let before = told.endpoints.take().unwrap_or_default();
    let has_moved = told.zone.as_deref() != zone;
    let is_first = !std::mem::replace(&mut told.begun, true);
    let mut updates = Vec::new();
    if is_first || has_moved || !Arc::ptr_eq(&now, &before) {
        let (old, new) = (by_address(&before), by_address(&now));
        let is_known = |at: &SocketAddr, e: &Arc<Endpoint>| {
            let known = |old: &&Arc<Endpoint>| Arc::ptr_eq(old, e) || ***old == **e;
            !has_moved && old.get(at).is_some_and(known)
        };
        let added: Vec<_> = new
            .iter()
            .filter(|(at, e)| !is_known(at, e))
            .map(|(_, e)| weighted(e, zone, hints))
            .collect();
        let removed: Vec<_> = old
            .keys()
            .filter(|at| !new.contains_key(at))
            .map(|at| address(at.ip(), at.port()))
            .collect();
        if exists && new.is_empty() && (is_first || !removed.is_empty()) {
            updates.push(update::Update::NoEndpoints(NoEndpoints { exists: true }));
        } else {
            if !added.is_empty() {
                updates.push(update::Update::Add(WeightedAddrSet {
                    addrs: added,
                    metric_labels: labels,
                }));
            }
            if !removed.is_empty() {
                updates.push(update::Update::Remove(AddrSet { addrs: removed }));
            }
        }
    }
    told.endpoints = Some(now);
    told.zone = zone.map(str::to_owned);
    let updates = updates.into_iter().map(Some);
    updates.map(|update| Update { update }).collect()
}

fn by_address(list: &[Arc<Endpoint>]) -> BTreeMap<SocketAddr, &Arc<Endpoint>> {
    let at = |e: &Endpoint| SocketAddr::new(e.addr, e.port);
    list.iter().map(|e| (at(e), e)).collect()
}
