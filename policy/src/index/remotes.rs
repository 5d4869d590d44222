//! Other clusters, whose Services those of this one may stand for.
//!
//! Each has an index of its own, with its own domains: an endpoint there is described by what is true there. What an answer
//! was made of there is noted with what it was made of here.

use super::{Index, Reads, store::revision};
use std::{collections::BTreeMap, sync::Arc};

/// Clusters by name.
pub type Remotes = BTreeMap<String, Remote>;

/// What is known of another cluster.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Of all clusters that ever were no two have the same: one of another configuration is another one.
    number: u64,
    index: Option<Index>,
}

impl Default for Remote {
    fn default() -> Self {
        Self {
            number: revision(),
            index: None,
        }
    }
}

impl Remote {
    /// The same cluster with the objects that it has now.
    #[must_use]
    pub fn with(&self, index: Index) -> Self {
        Self {
            number: self.number,
            index: Some(index),
        }
    }

    /// Its objects; `None` as long as they have not been listed.
    pub const fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// Which cluster it is, and whether it has been listed.
    const fn state(&self) -> State {
        (self.number, self.index.is_some())
    }
}

/// See [`Remote::state`]; zero and false where there is none.
type State = (u64, bool);

/// What was read of another cluster.
#[derive(Debug)]
pub(super) struct OfRemote {
    state: State,
    reads: Vec<Arc<Reads>>,
}

impl Index {
    /// These are the other clusters from now on.
    pub fn set_remotes(&mut self, remotes: Arc<Remotes>) {
        self.revision = revision();
        self.remotes = remotes;
    }

    /// Another cluster, if it is known.
    pub fn remote(&self, cluster: &str) -> Option<&Remote> {
        let found = self.remotes.get(cluster);
        self.note(|recorder| {
            let state = found.map_or((0, false), Remote::state);
            recorder.remote(cluster, || OfRemote {
                state,
                reads: Vec::new(),
            });
        });
        found
    }

    /// Notes what was read of another cluster's index, which [`Self::remote`] gave.
    pub fn also_read_there(&self, cluster: &str, reads: &Arc<Reads>) {
        self.note(|recorder| recorder.read_there(cluster, reads));
    }

    /// Whether what was read of another cluster is as it was.
    pub(super) fn has_remote(&self, cluster: &str, known: &OfRemote) -> bool {
        let remote = self.remotes.get(cluster);
        remote.map_or((0, false), Remote::state) == known.state
            && known.reads.iter().all(|reads| {
                let index = remote.and_then(Remote::index);
                index.is_some_and(|index| index.is_current(reads))
            })
    }
}

impl OfRemote {
    pub(super) fn read(&mut self, reads: &Arc<Reads>) {
        if !self.reads.iter().any(|known| Arc::ptr_eq(known, reads)) {
            self.reads.push(reads.clone());
        }
    }
}
