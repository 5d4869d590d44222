//! All objects of an API server, as one index: what is good, what is wrong, and the last good version of each.

use super::{Clusters, FILE, Needed, Reported, Told, What, clusters::Known};
use crate::source::{Problem, Snapshot};
use linkerd_policy::{
    index::{Cluster, Index},
    manifest::{self, KINDS},
    resource::Key,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// How long things must be quiet before a snapshot is published.
const SETTLE: Duration = Duration::from_millis(5);
/// How long a snapshot is held back at most while things are not quiet.
const MAX_SETTLE: Duration = Duration::from_millis(100);

/// Keeps the index.
#[derive(Debug)]
pub(crate) struct Keeper {
    index: Index,
    kinds: Vec<Kind>,
    problems: BTreeMap<Key, Problem>,
    /// What is known of other clusters; `None`: not even which there are.
    others: Option<Arc<Known>>,
    reported: Arc<Reported>,
    version: u64,
}

/// One of [`KINDS`].
#[derive(Debug, Default)]
struct Kind {
    /// It has been listed once, or is known not to be served.
    is_known: bool,
    /// Objects that are there, by namespace and name.
    objects: BTreeSet<(String, String)>,
    /// While a list is told: what it has named so far.
    listing: Option<BTreeSet<(String, String)>>,
    failure: Option<Arc<str>>,
}

impl Keeper {
    pub(crate) fn new(
        cluster: Cluster,
        reported: Arc<Reported>,
        needed: fn(&str) -> Needed,
    ) -> Self {
        let kind = |name: &str| Kind {
            is_known: needed(name) == Needed::No,
            ..Kind::default()
        };
        Self {
            index: Index::new(cluster),
            kinds: KINDS.iter().map(|(_, name, _)| kind(name)).collect(),
            problems: BTreeMap::new(),
            others: None,
            reported,
            version: 0,
        }
    }

    /// Listens until nobody tells anything any more. Publishes nothing before every kind has been listed once, and it is known
    /// which other clusters there are: half an index would open ports whose Servers are not in it yet.
    pub(crate) async fn run(
        mut self,
        mut told: mpsc::Receiver<Told>,
        mut clusters: Clusters,
        mut publish: impl FnMut(Snapshot),
    ) {
        clusters.mark_changed();
        while let Some(mut has_changed) = self.next(&mut told, &mut clusters).await {
            let began = Instant::now();
            loop {
                let until = (Instant::now() + SETTLE).min(began + MAX_SETTLE);
                match timeout_at(until, self.next(&mut told, &mut clusters)).await {
                    Ok(Some(next)) => has_changed |= next,
                    Ok(None) | Err(_) => break,
                }
                if began.elapsed() >= MAX_SETTLE {
                    break;
                }
            }
            let is_known = self.kinds.iter().all(|kind| kind.is_known) && self.others.is_some();
            if has_changed && is_known {
                publish(self.snapshot());
            }
        }
    }

    /// Takes in the next thing that is told. Tells whether a snapshot would say something else.
    async fn next(
        &mut self,
        told: &mut mpsc::Receiver<Told>,
        clusters: &mut Clusters,
    ) -> Option<bool> {
        // Whoever follows other clusters may have ended, or there may be none to follow.
        let changed = async {
            if clusters.changed().await.is_err() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            told = told.recv() => Some(self.hear(told?)),
            () = changed => {
                let others = clusters.borrow_and_update().clone();
                if let Some(others) = &others {
                    self.index.set_remotes(others.remotes.clone());
                }
                self.others = others;
                Some(self.others.is_some())
            }
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        self.version += 1;
        let failures = self.kinds.iter().zip(KINDS).filter_map(|(kind, names)| {
            let reason = kind.failure.as_ref()?;
            Some(problem(names.1.to_owned(), "", reason, true))
        });
        Snapshot {
            version: self.version,
            index: self.index.clone(),
            problems: self
                .problems
                .values()
                .cloned()
                .chain(failures)
                .chain(self.others.iter().flat_map(|known| known.problems.clone()))
                .collect(),
        }
    }

    /// Takes in what a watcher tells. Tells whether a snapshot would say something else.
    fn hear(&mut self, told: Told) -> bool {
        let (Some(kind), Some((group, name, _))) =
            (self.kinds.get_mut(told.kind), KINDS.get(told.kind))
        else {
            return false;
        };
        let key = |(namespace, object): (String, String)| Key {
            group: (*group).to_owned(),
            kind: (*name).to_owned(),
            namespace,
            name: object,
        };
        match told.what {
            What::Absent => {
                let was_known = std::mem::replace(&mut kind.is_known, true);
                !was_known | kind.failure.take().is_some()
            }
            What::Listing => {
                kind.listing = Some(BTreeSet::new());
                false
            }
            What::Object(value) => self.object(told.kind, *value),
            What::Gone { namespace, name } => {
                let object = (namespace, name);
                if let Some(listing) = &mut kind.listing {
                    listing.remove(&object);
                }
                kind.objects.remove(&object);
                self.gone(&key(object));
                true
            }
            What::Listed => {
                kind.is_known = true;
                let listed = kind.listing.take().unwrap_or_default();
                let before = std::mem::replace(&mut kind.objects, listed);
                let gone: Vec<Key> = before.difference(&kind.objects).cloned().map(key).collect();
                kind.failure = None;
                gone.iter().for_each(|key| self.gone(key));
                true
            }
            What::Resumed => kind.failure.take().is_some() && kind.is_known,
            What::Failed(reason) => {
                if kind.failure.as_ref() == Some(&reason) {
                    return false;
                }
                tracing::warn!(kind = name, %reason, "Not watched for now: what is known of it stays");
                kind.failure = Some(reason);
                kind.is_known
            }
        }
    }

    fn object(&mut self, at: usize, value: Value) -> bool {
        let text = |pointer| {
            let text = value.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let object = (text("/metadata/namespace"), text("/metadata/name"));
        let (Some(kind), Some((group, name, _))) = (self.kinds.get_mut(at), KINDS.get(at)) else {
            return false;
        };
        let key = Key {
            group: (*group).to_owned(),
            kind: (*name).to_owned(),
            namespace: object.0.clone(),
            name: object.1.clone(),
        };
        self.reported.seen(&key, &value);
        let read = manifest::from_value(value);
        if let Some(listing) = &mut kind.listing {
            listing.insert(object.clone());
        }
        let is_new = kind.objects.insert(object);
        // A watch that is alive tells that the failure is over.
        kind.failure = None;
        match read {
            Ok(mut resource) => {
                resource.prune();
                let was_wrong = self.problems.remove(&key).is_some();
                if !was_wrong && self.index.has(&resource) {
                    return false;
                }
                self.index.apply(resource);
            }
            Err(error) => {
                let problem = problem(key.to_string(), &error.field, &error.reason, !is_new);
                self.problems.insert(key, problem);
            }
        }
        true
    }

    fn gone(&mut self, key: &Key) {
        self.index.delete(key);
        self.problems.remove(key);
        self.reported.gone(key);
    }
}

/// Something that is wrong with an object of the API server; `kept`: its last good version stays.
pub(super) fn problem(object: String, field: &str, reason: &str, kept: bool) -> Problem {
    Problem {
        file: FILE.to_owned(),
        document: None,
        line: None,
        object: Some(object),
        field: field.to_owned(),
        reason: reason.to_owned(),
        kept,
    }
}

#[cfg(test)]
mod tests;
