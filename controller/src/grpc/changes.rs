//! What changed of a Service's endpoints since a stream was told (control plane §4.2).

use super::{
    endpoints::{Found, Now},
    hints::Hints,
    origins::Origin,
    weighted::{address, weighted},
};
use linkerd_policy::index::{Endpoint, Index};
use linkerd2_proxy_api::destination::{AddrSet, NoEndpoints, Update, WeightedAddrSet, update};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

/// What one `Get` stream has told its client.
#[derive(Debug, Default)]
pub(super) struct Told {
    now: Option<Now>,
    zone: Option<String>,
    /// It has said where endpoints are, or that there are none.
    begun: bool,
}

/// An endpoint and where it comes from.
type Known<'a> = (&'a Origin, &'a Arc<Endpoint>);

/// What changed of a Service's endpoints: additions first, then removals. `now.exists` is false for a Service that is gone:
/// all its endpoints are removed and the stream remains.
///
/// Unlike the peer's, a Service that exists without endpoints says so; otherwise its client could not tell it from a stream that
/// is slow. Nothing is said of an origin of which nothing is known yet.
pub(super) fn changes(
    index: &Index,
    now: Now,
    zone: Option<&str>,
    hints: &Hints,
    told: &mut Told,
) -> Vec<Update> {
    let is_whole = now.parts.iter().all(|p| !matches!(p.found, Found::NotYet));
    let has_moved = told.zone.as_deref() != zone;
    let before = told.now.take();
    let is_same = !has_moved && before.as_ref().is_some_and(|b| b.is_same(&now));
    let mut updates = Vec::new();
    if !is_same || (is_whole && !told.begun) {
        let old = before.as_ref().map(by_address).unwrap_or_default();
        let new = by_address(&now);
        let is_first = !told.begun;
        let removed: Vec<_> = old
            .keys()
            .filter(|at| !new.contains_key(at))
            .map(|at| address(at.ip(), at.port()))
            .collect();
        if now.exists && is_whole && new.is_empty() && (is_first || !removed.is_empty()) {
            updates.push(update::Update::NoEndpoints(NoEndpoints { exists: true }));
        } else {
            let is_known = |at: &SocketAddr, (origin, e): &Known<'_>| {
                let known = |old: &&Known<'_>| old.0 == *origin && is_one(old.1, e);
                !has_moved && old.get(at).filter(known).is_some()
            };
            for part in &now.parts {
                let of_part = new.iter().filter(|(_, e)| std::ptr::eq(e.0, &part.origin));
                let added = of_part.filter(|(at, e)| !is_known(at, e));
                let added = added.map(|(_, e)| weighted(e.1, zone, hints));
                let addrs: Vec<_> = added.collect();
                if !addrs.is_empty() {
                    updates.push(update::Update::Add(WeightedAddrSet {
                        addrs,
                        metric_labels: part.origin.labels(index),
                    }));
                }
            }
            if !removed.is_empty() {
                updates.push(update::Update::Remove(AddrSet { addrs: removed }));
            }
        }
        told.begun |= is_whole || !new.is_empty();
    }
    told.now = Some(now);
    told.zone = zone.map(str::to_owned);
    let updates = updates.into_iter().map(Some);
    updates.map(|update| Update { update }).collect()
}

fn is_one(one: &Arc<Endpoint>, other: &Arc<Endpoint>) -> bool {
    Arc::ptr_eq(one, other) || **one == **other
}

/// Endpoints by address. Of two that have the same the first is taken: an address leads to one place.
fn by_address(now: &Now) -> BTreeMap<SocketAddr, Known<'_>> {
    let mut all = BTreeMap::new();
    for part in &now.parts {
        for e in part.found.list() {
            let at = SocketAddr::new(e.addr, e.port);
            all.entry(at).or_insert((&part.origin, e));
        }
    }
    all
}

impl Now {
    /// Whether it is known at a glance that both say the same.
    fn is_same(&self, other: &Self) -> bool {
        let mut pairs = self.parts.iter().zip(&other.parts);
        self.exists == other.exists
            && self.parts.len() == other.parts.len()
            && pairs.all(|(one, other)| {
                one.origin == other.origin
                    && match (&one.found, &other.found) {
                        (Found::List(one), Found::List(other)) => Arc::ptr_eq(one, other),
                        (Found::Nothing, Found::Nothing) | (Found::NotYet, Found::NotYet) => true,
                        _ => false,
                    }
            })
    }
}
