//! What an answer was made of, so that whoever streams it knows which changes cannot matter.
//!
//! [`Index::recording`] gives a copy that notes each place it is asked about. [`Index::is_current`] tells of another
//! index whether all these places are as they were: then every answer is too, and need not be computed again.

use super::{
    Index, NOTHING, Scope,
    addresses::Holders,
    part::{Kind, Place},
    remotes::OfRemote,
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Places that were read, and the states that they were in.
#[derive(Debug, Default)]
pub struct Reads {
    namespaces: Vec<OfNamespace>,
    addresses: BTreeMap<IpAddr, u64>,
    /// Zones of nodes.
    zones: BTreeMap<String, Option<String>>,
    /// Other clusters.
    remotes: BTreeMap<String, OfRemote>,
    has_everything: bool,
    /// What other answers were made of, of which this one is made.
    others: Vec<Arc<Self>>,
    /// The last index that was found to have everything as it was.
    current_in: AtomicU64,
}

/// What was read of a namespace.
#[derive(Debug)]
struct OfNamespace {
    name: String,
    /// The last state of it in which all places are as they were; 0 while it is not there.
    current_in: AtomicU64,
    kinds: Vec<OfKind>,
}

/// What was read of a kind of objects in a namespace.
#[derive(Debug)]
struct OfKind {
    kind: Kind,
    /// As that of the namespace: most changes are of other kinds.
    current_in: AtomicU64,
    places: HashMap<Place, u64>,
}

#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Reads>);

impl Recorder {
    fn with<T>(&self, note: impl FnOnce(&mut Reads) -> T) -> T {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The number under which places of a namespace are noted.
    pub(super) fn namespace(&self, name: &str, revision: u64) -> usize {
        self.with(|reads| {
            let known = reads.namespaces.iter().position(|known| known.name == name);
            known.unwrap_or_else(|| {
                reads.namespaces.push(OfNamespace {
                    name: name.to_owned(),
                    current_in: AtomicU64::new(revision),
                    kinds: Vec::new(),
                });
                reads.namespaces.len() - 1
            })
        })
    }

    /// `revisions`: of the place, and of its kind as a whole.
    pub(super) fn place(&self, namespace: usize, place: Place, revisions: (u64, u64)) {
        let (revision, whole) = revisions;
        self.with(|reads| {
            let Some(known) = reads.namespaces.get_mut(namespace) else {
                return;
            };
            let kind = place.kind();
            if let Some(of_kind) = known.kinds.iter_mut().find(|known| known.kind == kind) {
                of_kind.places.insert(place, revision);
            } else {
                known.kinds.push(OfKind {
                    kind,
                    current_in: AtomicU64::new(whole),
                    places: HashMap::from([(place, revision)]),
                });
            }
        });
    }

    pub(super) fn address(&self, ip: IpAddr, holders: Option<&Holders>) {
        let revision = holders.map_or(0, |holders| holders.revision);
        self.with(|reads| reads.addresses.insert(ip, revision));
    }

    pub(super) fn node(&self, name: &str, zone: Option<&str>) {
        let zone = zone.map(str::to_owned);
        self.with(|reads| reads.zones.insert(name.to_owned(), zone));
    }

    pub(super) fn remote(&self, cluster: &str, known: impl FnOnce() -> OfRemote) {
        self.with(|reads| {
            if !reads.remotes.contains_key(cluster) {
                reads.remotes.insert(cluster.to_owned(), known());
            }
        });
    }

    pub(super) fn read_there(&self, cluster: &str, there: &Arc<Reads>) {
        self.with(|reads| {
            if let Some(known) = reads.remotes.get_mut(cluster) {
                known.read(there);
            }
        });
    }

    pub(super) fn everything(&self) {
        self.with(|reads| reads.has_everything = true);
    }
}

impl Index {
    /// A copy that notes what it is asked about.
    pub fn recording(&self) -> Self {
        Self {
            recorder: Some(Arc::default()),
            ..self.clone()
        }
    }

    /// What a [recording](Self::recording) index was asked about; of others nothing is known.
    pub fn into_reads(self) -> Reads {
        match &self.recorder {
            Some(recorder) => Reads {
                current_in: AtomicU64::new(self.revision),
                ..recorder.with(std::mem::take)
            },
            None => Reads {
                has_everything: true,
                ..Reads::default()
            },
        }
    }

    /// Whether everything that was read is here as it was there. The configuration is taken to be the same.
    ///
    /// Asked again about an index that was found to be current, or about one that differs from it in other namespaces,
    /// it says so without looking at each place.
    pub fn is_current(&self, reads: &Reads) -> bool {
        if reads.has_everything {
            return false;
        }
        if reads.current_in.load(Ordering::Relaxed) == self.revision {
            return true;
        }
        let is_current = reads.namespaces.iter().all(|known| self.has_places(known))
            && reads.addresses.iter().all(|(ip, revision)| {
                let holders = self.addresses.get(*ip);
                holders.map_or(0, |holders| holders.revision) == *revision
            })
            && reads
                .zones
                .iter()
                .all(|(node, zone)| self.zones.get(node) == zone.as_ref())
            && reads
                .remotes
                .iter()
                .all(|(cluster, known)| self.has_remote(cluster, known))
            && reads.others.iter().all(|other| self.is_current(other));
        if is_current {
            reads.current_in.store(self.revision, Ordering::Relaxed);
        }
        is_current
    }

    fn has_places(&self, known: &OfNamespace) -> bool {
        let scope = self.namespaces.get(&known.name);
        let revision = scope.map_or(0, |scope| scope.revision);
        if known.current_in.load(Ordering::Relaxed) == revision {
            return true;
        }
        let scope = scope.map_or(&*NOTHING, |scope| scope);
        let is_current = known.kinds.iter().all(|known| scope.has_places(known));
        if is_current {
            known.current_in.store(revision, Ordering::Relaxed);
        }
        is_current
    }

    /// Notes what another answer was made of, which this one is made of too.
    pub fn also_read(&self, reads: &Arc<Reads>) {
        self.note(|recorder| {
            recorder.with(|own| {
                if !own.others.iter().any(|other| Arc::ptr_eq(other, reads)) {
                    own.others.push(reads.clone());
                }
            });
        });
    }

    pub(super) fn note(&self, note: impl FnOnce(&Recorder)) {
        if let Some(recorder) = &self.recorder {
            note(recorder);
        }
    }

    pub(super) fn holders(&self, ip: IpAddr) -> Option<&Holders> {
        let holders = self.addresses.get(ip);
        self.note(|recorder| recorder.address(ip, holders));
        holders
    }
}

impl Scope {
    fn has_places(&self, known: &OfKind) -> bool {
        let whole = self.whole(known.kind);
        if known.current_in.load(Ordering::Relaxed) == whole {
            return true;
        }
        let mut places = known.places.iter();
        let is_current = places.all(|(place, revision)| self.revision_at(place) == *revision);
        if is_current {
            known.current_in.store(whole, Ordering::Relaxed);
        }
        is_current
    }
}
