//! Which clusters there are: what Secrets say now, what they last said that can be used, and what has come of it.

use super::{
    Ended, Known, Latest, client,
    secret::{Description, Refusal},
    watch_cluster,
};
use crate::{
    kubernetes::{keep::problem, watch::is_forbidden},
    source::{Problem, Snapshot},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, ResourceExt as _, runtime::watcher};
use linkerd_policy::index::{Cluster, Remote};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Secrets, and the clusters that they describe.
pub(super) struct Store {
    own: Cluster,
    latest: Arc<Latest>,
    /// By name.
    secrets: BTreeMap<String, Held>,
    /// While a list is told: what it has named so far.
    listing: Option<BTreeSet<String>>,
    /// Secrets have been listed once, or may not be.
    is_known: bool,
    failure: Option<String>,
    /// By the name of the cluster.
    linked: BTreeMap<String, Linked>,
    watches: u64,
}

/// A Secret.
#[derive(Default)]
struct Held {
    /// What it last said that can be used.
    good: Option<(Description, Client)>,
    /// What is wrong with what it says now.
    problem: Option<Refusal>,
}

/// A cluster that is watched.
struct Linked {
    /// The name of the Secret.
    secret: String,
    description: Description,
    remote: Remote,
    /// The number of its watch.
    watch: u64,
    /// That watch has listed everything.
    is_listed: bool,
    problems: Vec<Problem>,
    _watch: Ended,
}

impl Store {
    pub(super) fn new(own: Cluster, latest: Arc<Latest>) -> Self {
        Self {
            own,
            latest,
            secrets: BTreeMap::new(),
            listing: None,
            is_known: false,
            failure: None,
            linked: BTreeMap::new(),
            watches: 0,
        }
    }

    /// A whole list begins.
    pub(super) fn listing(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// The whole list has been told.
    pub(super) fn listed(&mut self) {
        self.is_known = true;
        self.failure = None;
        if let Some(listed) = self.listing.take() {
            self.secrets.retain(|name, _| listed.contains(name));
        }
    }

    /// A Secret is there, or has changed. What cannot be used leaves its last good version in force.
    pub(super) async fn secret(&mut self, secret: &Secret) {
        self.failure = None;
        let name = secret.name_any();
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        let held = self.secrets.entry(name).or_default();
        let read = Description::read(secret);
        if let (Ok(now), Some((before, _))) = (&read, &held.good)
            && now == before
        {
            held.problem = None;
            return;
        }
        let made = match read {
            Ok(description) => client(&description).await.map(|c| (description, c)),
            Err(refusal) => Err(refusal),
        };
        match made {
            Ok(good) => (held.good, held.problem) = (Some(good), None),
            Err(refusal) => held.problem = Some(refusal),
        }
    }

    /// A Secret is gone.
    pub(super) fn gone(&mut self, secret: &Secret) {
        let name = secret.name_any();
        if let Some(listing) = &mut self.listing {
            listing.remove(&name);
        }
        self.secrets.remove(&name);
    }

    /// Secrets are not listed or watched at the moment. Tells whether that is news. Where they may not be, there are none.
    pub(super) fn failed(&mut self, error: &watcher::Error) -> bool {
        let reason = error.to_string();
        let is_new = self.failure.as_ref() != Some(&reason);
        if is_new {
            tracing::warn!(%reason, "Secrets of other clusters are not watched for now: what is known of them stays");
        }
        self.failure = Some(reason);
        let was_known = self.is_known;
        self.is_known |= is_forbidden(error);
        is_new || was_known != self.is_known
    }

    /// Secrets are watched again. Tells whether that is news.
    pub(super) fn resumed(&mut self) -> bool {
        self.failure.take().is_some()
    }

    /// Watches the clusters that are described, and no others.
    pub(super) fn reconcile(&mut self) {
        let mut wanted = BTreeMap::new();
        for (name, held) in &self.secrets {
            let Some((description, client)) = &held.good else {
                continue;
            };
            let cluster = description.name.as_str();
            let linked = self.linked.get(cluster);
            // Of two about one cluster, that which is in use stays so.
            let is_in_use = linked.is_some_and(|linked| linked.secret == *name);
            if is_in_use || !wanted.contains_key(cluster) {
                wanted.insert(cluster, (name, description, client));
            }
        }
        self.linked.retain(|cluster, _| {
            let is_wanted = wanted.contains_key(cluster.as_str());
            if !is_wanted {
                tracing::info!(cluster, "No longer linked");
            }
            is_wanted
        });
        for (cluster, (secret, description, client)) in wanted {
            let known = self.linked.get(cluster);
            if known.is_some_and(|known| known.description == *description) {
                continue;
            }
            self.watches += 1;
            let of_cluster = Cluster {
                trust_domain: description.trust_domain.clone(),
                cluster_domain: description.cluster_domain.clone(),
                ..self.own.clone()
            };
            let latest = self.latest.clone();
            tracing::info!(cluster, secret, "Linked");
            // What was known stays until the new watch has listed everything.
            let linked = Linked {
                secret: secret.clone(),
                description: description.clone(),
                remote: known.map(|known| known.remote.clone()).unwrap_or_default(),
                watch: self.watches,
                is_listed: false,
                problems: known
                    .map(|known| known.problems.clone())
                    .unwrap_or_default(),
                _watch: watch_cluster(client.clone(), of_cluster, self.watches, latest),
            };
            self.linked.insert(cluster.to_owned(), linked);
        }
    }

    /// Takes in what watches have seen, by their numbers. Tells whether that is news.
    pub(super) fn take(&mut self, mut snapshots: BTreeMap<u64, Snapshot>) -> bool {
        let mut has_changed = false;
        for (cluster, linked) in &mut self.linked {
            let Some(snapshot) = snapshots.remove(&linked.watch) else {
                continue;
            };
            // Another configuration may mean other names: nothing that was made of the old state is still right.
            if !std::mem::replace(&mut linked.is_listed, true) {
                linked.remote = Remote::default();
            }
            linked.remote = linked.remote.with(snapshot.index);
            let file = format!("cluster {cluster}");
            let problems = snapshot.problems.into_iter();
            let problems = problems.map(|problem| Problem {
                file: file.clone(),
                ..problem
            });
            linked.problems = problems.collect();
            has_changed = true;
        }
        has_changed
    }

    /// What is known; `None` before it is known which clusters there are.
    pub(super) fn known(&self) -> Option<Known> {
        if !self.is_known {
            return None;
        }
        let linked = self.linked.iter();
        let remotes = linked.map(|(cluster, linked)| (cluster.clone(), linked.remote.clone()));
        let of_clusters = self.linked.values().flat_map(|linked| &linked.problems);
        let failure = self.failure.as_deref();
        let failure = failure.map(|reason| problem("Secret".to_owned(), "", reason, true));
        Some(Known {
            remotes: Arc::new(remotes.collect()),
            problems: failure
                .into_iter()
                .chain(self.of_secrets())
                .chain(of_clusters.cloned())
                .collect(),
        })
    }

    /// What is wrong with Secrets.
    fn of_secrets(&self) -> impl Iterator<Item = Problem> + '_ {
        self.secrets.iter().filter_map(|(name, held)| {
            let namespace = &self.own.control_plane_namespace;
            let object = format!("Secret {namespace}/{name}");
            if let Some(refusal) = &held.problem {
                let is_kept = held.good.is_some();
                return Some(problem(object, &refusal.field, &refusal.reason, is_kept));
            }
            let (description, _) = held.good.as_ref()?;
            let used = &self.linked.get(&description.name)?.secret;
            let text = format!("{used} is about this cluster too, and is used: remove one of them");
            (used != name).then(|| problem(object, "metadata.labels", &text, false))
        })
    }
}
