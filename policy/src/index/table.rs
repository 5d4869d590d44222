//! Objects of one kind in a namespace, each with a number for the state that it is in.
//!
//! The numbers tell what has changed between two versions of an index, so that what was made of the rest stays.

use super::{pieces::Pieces, store::revision};
use crate::resource::{RouteGroup, StringMap};
use std::{borrow::Borrow, collections::BTreeSet};

/// Objects by name. A copy shares them.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    entries: Pieces<K, Entry<V>>,
    revision: u64,
}

#[derive(Debug)]
struct Entry<V> {
    /// Of all entries that ever were no two have the same.
    revision: u64,
    value: V,
}

/// What can be asked of a table of any kind.
pub(super) trait Revisions {
    /// Of the table as a whole; 0 if it is empty.
    fn whole(&self) -> u64;
    /// Of one object; 0 if it is not there.
    fn one(&self, name: &str) -> u64;
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            entries: Pieces::default(),
            revision: 0,
        }
    }
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            revision: self.revision,
        }
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    /// Adds an object, or replaces the one of that name.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.revision = revision();
        let entry = Entry {
            revision: self.revision,
            value,
        };
        self.entries.insert(key, entry);
    }

    /// Takes an object away.
    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if self.entries.remove(key) {
            self.revision = revision();
        }
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The state that an object is in; 0 if it is not there.
    pub(super) fn revision_of<Q: Ord + ?Sized>(&self, key: &Q) -> u64
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map_or(0, |entry| entry.revision)
    }
}

impl<K, V> Table<K, V> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The state that the table is in as a whole; 0 if it is empty.
    pub(super) fn whole(&self) -> u64 {
        if self.is_empty() { 0 } else { self.revision }
    }
}

impl<V> Revisions for Table<String, V> {
    fn whole(&self) -> u64 {
        Self::whole(self)
    }

    fn one(&self, name: &str) -> u64 {
        self.revision_of(name)
    }
}

/// Those of both groups are only read together.
impl<V> Revisions for Table<(RouteGroup, String), V> {
    fn whole(&self) -> u64 {
        Self::whole(self)
    }

    fn one(&self, _: &str) -> u64 {
        Self::whole(self)
    }
}

/// Annotations of a namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Annotations {
    map: StringMap,
    revision: u64,
}

impl Annotations {
    pub(super) fn set(&mut self, map: StringMap) {
        if self.map != map {
            self.map = map;
            self.revision = revision();
        }
    }
}

impl std::ops::Deref for Annotations {
    type Target = StringMap;

    fn deref(&self) -> &StringMap {
        &self.map
    }
}

impl Revisions for Annotations {
    fn whole(&self) -> u64 {
        if self.map.is_empty() {
            0
        } else {
            self.revision
        }
    }

    fn one(&self, _: &str) -> u64 {
        self.whole()
    }
}

/// Objects by name, and by what they are about.
#[derive(Clone, Debug)]
pub(crate) struct Targeting<V> {
    objects: Table<String, V>,
    /// Names of the objects about each target.
    targets: Table<String, BTreeSet<String>>,
}

/// What an object is about.
pub(crate) trait Target {
    /// One string for each target.
    fn target(&self) -> String;
}

impl<V> Default for Targeting<V> {
    fn default() -> Self {
        Self {
            objects: Table::default(),
            targets: Table::default(),
        }
    }
}

impl<V: Target> Targeting<V> {
    pub(crate) fn insert(&mut self, name: String, value: V) {
        self.remove(&name);
        let target = value.target();
        let mut names = self.targets.get(&target).cloned().unwrap_or_default();
        names.insert(name.clone());
        self.targets.insert(target, names);
        self.objects.insert(name, value);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let Some(value) = self.objects.get(name) else {
            return;
        };
        let target = value.target();
        self.objects.remove(name);
        let mut names = self.targets.get(&target).cloned().unwrap_or_default();
        names.remove(name);
        if names.is_empty() {
            self.targets.remove(&target);
        } else {
            self.targets.insert(target, names);
        }
    }

    /// Those about any of these targets, by name.
    pub(crate) fn about<'a>(
        &'a self,
        targets: &[&str],
    ) -> impl Iterator<Item = &'a V> + use<'a, V> {
        let names = targets
            .iter()
            .filter_map(|target| self.targets.get(*target));
        let names: BTreeSet<&String> = names.flatten().collect();
        names.into_iter().filter_map(|name| self.objects.get(name))
    }
}

impl<V> Targeting<V> {
    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        self.objects.get(name)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.objects.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

impl<V> Revisions for Targeting<V> {
    fn whole(&self) -> u64 {
        self.objects.whole()
    }

    /// Of what is about one target.
    fn one(&self, target: &str) -> u64 {
        self.targets.revision_of(target)
    }
}
