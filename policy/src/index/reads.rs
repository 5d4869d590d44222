//! What an answer was made of, so that whoever streams it knows which changes cannot matter.
//!
//! [`Index::recording`] gives a copy that notes each place it is asked about. [`Index::is_current`] tells of another
//! index whether all these places are as they were: then every answer is too, and need not be computed again.

use super::{Index, Scope, addresses::Holders};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Places that were read, and their revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Namespaces; `None` for one that was not there.
    namespaces: BTreeMap<String, Option<u64>>,
    addresses: BTreeMap<IpAddr, Option<u64>>,
    has_nodes: bool,
    nodes: u64,
    has_everything: bool,
}

#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Reads>);

impl Recorder {
    fn with(&self, note: impl FnOnce(&mut Reads)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn namespace(&self, name: &str, scope: Option<&Scope>) {
        self.with(|reads| {
            if !reads.namespaces.contains_key(name) {
                let revision = scope.map(|scope| scope.revision);
                reads.namespaces.insert(name.to_owned(), revision);
            }
        });
    }

    pub(super) fn address(&self, ip: IpAddr, holders: Option<&Holders>) {
        self.with(|reads| {
            let revision = holders.map(|holders| holders.revision);
            reads.addresses.insert(ip, revision);
        });
    }

    pub(super) fn nodes(&self) {
        self.with(|reads| reads.has_nodes = true);
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

    /// What a [recording](Self::recording) index was asked about so far; of others nothing is known.
    pub fn reads(&self) -> Reads {
        let Some(recorder) = &self.recorder else {
            return Reads {
                has_everything: true,
                ..Reads::default()
            };
        };
        let reads = recorder.0.lock().unwrap_or_else(PoisonError::into_inner);
        Reads {
            nodes: self.nodes.revision,
            ..reads.clone()
        }
    }

    /// Whether everything that was read is here as it was there. The configuration is taken to be the same.
    pub fn is_current(&self, reads: &Reads) -> bool {
        !reads.has_everything
            && (!reads.has_nodes || reads.nodes == self.nodes.revision)
            && reads.namespaces.iter().all(|(name, revision)| {
                self.namespaces.get(name).map(|scope| scope.revision) == *revision
            })
            && reads.addresses.iter().all(|(ip, revision)| {
                self.addresses.get(*ip).map(|holders| holders.revision) == *revision
            })
    }

    /// Notes what another answer was made of, which this one is made of too.
    pub fn also_read(&self, reads: &Reads) {
        let also = |own: &mut Reads| {
            for (name, revision) in &reads.namespaces {
                own.namespaces.entry(name.clone()).or_insert(*revision);
            }
            own.addresses.extend(&reads.addresses);
            own.has_nodes |= reads.has_nodes;
            own.has_everything |= reads.has_everything;
        };
        self.note(|recorder| recorder.with(also));
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
