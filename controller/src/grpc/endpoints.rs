//! Endpoints of Services, computed once for all streams that ask for them.

use super::{
    hints::Hints,
    origins::{NoOrigin, Origin, origins},
    path::{self, Place},
};
use linkerd_policy::index::{Endpoint, Index, Reads, select, select_remote};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Ports of Services that are remembered; beyond, they are forgotten and computed again.
const MAX_REMEMBERED: usize = 4096;

/// The endpoints of a port of a Service.
pub(super) type List = Arc<[Arc<Endpoint>]>;

/// Cluster (empty: this one), namespace, Service and port.
type Key = (String, String, String, u16);

/// What was computed last of each port that is asked for.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(Mutex<HashMap<Key, (Arc<Reads>, List)>>);

/// What the endpoints of a Service are.
#[derive(Debug)]
pub(super) struct Now {
    /// There is such a Service.
    pub(super) exists: bool,
    /// By where they come from.
    pub(super) parts: Vec<Part>,
}

/// Endpoints of one origin.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) origin: Origin,
    pub(super) found: Found,
}

/// What is known of an origin.
#[derive(Debug)]
pub(super) enum Found {
    /// Its cluster has not been listed yet: nothing can be said.
    NotYet,
    /// No such Service.
    Nothing,
    /// Its endpoints.
    List(List),
}

impl Now {
    /// All endpoints.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.parts.iter().flat_map(|part| part.found.list())
    }
}

impl Found {
    pub(super) fn list(&self) -> &[Arc<Endpoint>] {
        match self {
            Self::List(list) => list,
            Self::NotYet | Self::Nothing => &[],
        }
    }
}

impl Endpoints {
    /// The endpoints that a client at `place` should use.
    ///
    /// # Errors
    /// As [`origins`].
    pub(super) fn of(
        &self,
        index: &Index,
        asked: &path::Service,
        place: &Place,
        hints: &Hints,
    ) -> Result<Now, NoOrigin> {
        let exists = index.service(&asked.namespace, &asked.name).is_some();
        let parts = origins(index, asked)?.into_iter().map(|origin| {
            let found = match &origin.cluster {
                None => self.here(index, &origin.service, place, hints),
                Some(cluster) => self.there(index, cluster, &origin.service, hints),
            };
            Part { origin, found }
        });
        let parts = parts.collect();
        Ok(Now { exists, parts })
    }

    /// Of a Service of this cluster.
    fn here(&self, index: &Index, asked: &path::Service, place: &Place, hints: &Hints) -> Found {
        let (reads, list) = self.made(index, "", asked);
        index.also_read(&reads);
        let service = index.service(&asked.namespace, &asked.name);
        let Some((service, all)) = service.zip(list) else {
            return Found::Nothing;
        };
        let client = place.client(index, hints.has_ipv6);
        Found::List(select(service, &all, asked.instance.as_deref(), client))
    }

    /// Of a Service of another cluster, where its zones and nodes are not those of the client.
    fn there(&self, index: &Index, cluster: &str, asked: &path::Service, hints: &Hints) -> Found {
        let remote = index.remote(cluster);
        let Some(remote) = remote.and_then(|remote| remote.index()) else {
            return Found::NotYet;
        };
        let (reads, list) = self.made(remote, cluster, asked);
        index.also_read_there(cluster, &reads);
        let instance = asked.instance.as_deref();
        match list {
            Some(all) => Found::List(select_remote(&all, instance, hints.has_ipv6)),
            None => Found::Nothing,
        }
    }

    /// All endpoints of a port, and what they were made of; `None` if there is no such Service.
    fn made(
        &self,
        index: &Index,
        cluster: &str,
        asked: &path::Service,
    ) -> (Arc<Reads>, Option<List>) {
        let path::Service {
            namespace,
            name,
            port,
            ..
        } = asked;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (cluster.to_owned(), namespace.clone(), name.clone(), *port);
        if let Some((reads, list)) = known.get(&key).filter(|(reads, _)| index.is_current(reads)) {
            return (reads.clone(), Some(list.clone()));
        }
        let recording = index.recording();
        let now = recording.endpoints(namespace, name, *port);
        let service = recording.service(namespace, name);
        let is_declared = service.is_some_and(|service| service.port(*port).is_some());
        let reads = Arc::new(recording.into_reads());
        let Some(now) = now else {
            known.remove(&key);
            return (reads, None);
        };
        let before = known.get(&key).map(|(_, list)| list.clone());
        let mut list = shared(now, before.as_deref().unwrap_or_default());
        if let Some(before) = before.filter(|before| is_same(before, &list)) {
            list = before;
        }
        // Any port may be asked for: only those that the Service declares are remembered.
        if is_declared {
            if known.len() >= MAX_REMEMBERED {
                known.clear();
            }
            known.insert(key, (reads.clone(), list.clone()));
        }
        (reads, Some(list))
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
