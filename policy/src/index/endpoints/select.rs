//! Which endpoints of a Service a client should use. Source: control plane §4.3, §4.6.

use super::{Endpoint, WorkloadRef};
use crate::resource::Service;
use std::{collections::BTreeSet, sync::Arc};

/// Where a client is, and what it can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<'a> {
    /// Its node, if known.
    pub node: Option<&'a str>,
    /// Its zone, if known.
    pub zone: Option<&'a str>,
    /// Whether IPv6 addresses are of use.
    pub has_ipv6: bool,
}

/// Of a Service's endpoints those for a client, and of them only the one called `instance`, if one is asked for. Where
/// that is all of them, it is the same list.
pub fn select(
    service: &Service,
    all: &Arc<[Arc<Endpoint>]>,
    instance: Option<&str>,
    client: Client<'_>,
) -> Arc<[Arc<Endpoint>]> {
    let mut found = called(all, instance);
    if service.spec.internal_traffic_policy.as_deref() == Some("Local") {
        found.retain(|e| e.node.is_some() && e.node.as_deref() == client.node);
    } else {
        by_hints(&mut found, client.zone);
    }
    of_family(all, found, client.has_ipv6)
}

/// As [`select`], of a Service of another cluster: its nodes and zones are not the client's.
pub fn select_remote(
    all: &Arc<[Arc<Endpoint>]>,
    instance: Option<&str>,
    has_ipv6: bool,
) -> Arc<[Arc<Endpoint>]> {
    of_family(all, called(all, instance), has_ipv6)
}

/// Those of a name, if one is asked for.
fn called(all: &[Arc<Endpoint>], instance: Option<&str>) -> Vec<Arc<Endpoint>> {
    let is_called = |e: &&Arc<Endpoint>| instance.is_none() || e.hostname.as_deref() == instance;
    all.iter().filter(is_called).cloned().collect()
}

/// Those that a client can reach. Where that is all of them, it is the same list.
fn of_family(
    all: &Arc<[Arc<Endpoint>]>,
    mut found: Vec<Arc<Endpoint>>,
    has_ipv6: bool,
) -> Arc<[Arc<Endpoint>]> {
    by_family(&mut found, has_ipv6);
    if found.len() == all.len() {
        return all.clone();
    }
    found.into()
}

/// Hints count only where every endpoint has some, and where they leave something: else a zone could be left without.
fn by_hints(found: &mut Vec<Arc<Endpoint>>, zone: Option<&str>) {
    let Some(zone) = zone else {
        return;
    };
    let is_for_us = |e: &Arc<Endpoint>| e.hints.iter().any(|hint| hint == zone);
    let have_all = found.iter().all(|e| !e.hints.is_empty());
    if have_all && found.iter().any(is_for_us) {
        found.retain(is_for_us);
    }
}

/// Of a workload with addresses of both families one is used: IPv6, where clients have that.
fn by_family(found: &mut Vec<Arc<Endpoint>>, has_ipv6: bool) {
    if !has_ipv6 {
        found.retain(|e| e.addr.is_ipv4());
        return;
    }
    let has_both: BTreeSet<WorkloadRef> = found
        .iter()
        .filter(|e| e.addr.is_ipv6())
        .filter_map(|e| e.workload.clone())
        .collect();
    let other = |e: &Endpoint| e.workload.as_ref().is_some_and(|w| has_both.contains(w));
    found.retain(|e| e.addr.is_ipv6() || !other(e));
}
