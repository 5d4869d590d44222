//! Families: the series of one [`Desc`], found by label set. Bounded in number, and evicted when idle.

use std::any::Any;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::{Bound, Deref};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::describe::labels::{has_client_value, source};
use crate::describe::{Desc, Idle, Source};
use crate::labels::Labels;
use crate::recorder::{Counter, Recorder, Value};

/// The series of one metric family. A clone is the same family.
pub struct Family<M: Recorder>(Arc<Series<M>>);

/// One series. Resolve it once, keep it, and record through it: that takes no lock and formats nothing. While a
/// handle lives its series is not evicted.
pub struct Handle<M>(Arc<M>);

impl<M: Recorder> Family<M> {
    pub(crate) fn new(desc: &'static Desc, shape: M::Shape, limit: usize) -> Self {
        Self(Arc::new(Series {
            desc,
            shape,
            limit,
            epoch: Instant::now(),
            slots: Mutex::default(),
            dropped: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }))
    }

    /// The series with these labels, made if need be.
    ///
    /// A full family gives a series in which labels that clients choose say `other`; if there are too many of those as
    /// well, one in which all labels but those of a fixed set do. Takes a lock: not for the path of a request.
    #[must_use]
    pub fn get(&self, labels: &Labels) -> Handle<M> {
        Handle(self.0.get(labels))
    }

    pub(crate) fn from_any(family: Arc<dyn Any + Send + Sync>) -> Option<Self> {
        family.downcast().ok().map(Self)
    }

    pub(crate) fn erase(&self) -> Arc<dyn AnyFamily> {
        Arc::clone(&self.0) as Arc<dyn AnyFamily>
    }
}

impl Family<Counter> {
    /// Shows each series and its count, in the order of labels: for pages. Takes a lock, though not while `show` runs.
    pub fn each(&self, mut show: impl FnMut(&Labels, u64)) {
        self.0.visit(&mut |labels, _, value| {
            if let Value::Count(count) = value {
                show(labels, count);
            }
        });
    }

    /// How many series were evicted since the start, and their counts with them.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.0.counts().evicted
    }
}

impl<M: Recorder> Clone for Family<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Recorder> fmt::Debug for Family<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Family").field(&self.0.desc.name).finish()
    }
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Deref for Handle<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M: fmt::Debug> fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the registry does with a family, whatever its recorders are.
pub(crate) trait AnyFamily: Send + Sync {
    fn desc(&self) -> &'static Desc;
    fn counts(&self) -> Counts;
    /// Removes series that nobody holds and that were idle for `retain`.
    fn expire(&self, now: Instant, retain: Duration);
    /// Shows each series, in the order of labels. Never holds the lock while `show` runs.
    fn visit(&self, show: &mut dyn FnMut(&Labels, Created, Value));
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// When a series was made.
pub(crate) type Created = Instant;

/// How many series a family has and had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) series: usize,
    pub(crate) dropped: u64,
    pub(crate) evicted: u64,
}

struct Series<M: Recorder> {
    desc: &'static Desc,
    shape: M::Shape,
    limit: usize,
    epoch: Instant,
    slots: Mutex<Slots<M>>,
    dropped: AtomicU64,
    evicted: AtomicU64,
}

struct Slots<M> {
    /// Sorted, so that pages are stable and a chosen label value cannot make look-ups slow.
    by_labels: BTreeMap<Labels, Slot<M>>,
    /// How many carry a value that a client made up.
    client_chosen: usize,
}

impl<M> Default for Slots<M> {
    fn default() -> Self {
        Self {
            by_labels: BTreeMap::new(),
            client_chosen: 0,
        }
    }
}

struct Slot<M> {
    recorder: Arc<M>,
    /// Milliseconds after the family's epoch.
    created: u64,
    /// When a sweep first found that nobody holds it; the same scale.
    idle_since: Option<u64>,
}

/// How a label set fits into a family.
enum Room {
    Yes,
    /// Values that clients choose must go.
    WithoutClientValues,
    /// All values that are not of a fixed set must go.
    OnlyFixed,
    /// All values must go.
    None,
}

impl<M: Recorder> Series<M> {
    fn slots(&self) -> MutexGuard<'_, Slots<M>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, labels: &Labels) -> Arc<M> {
        let mut slots = self.slots();
        if let Some(slot) = slots.by_labels.get_mut(labels) {
            slot.idle_since = None;
            return Arc::clone(&slot.recorder);
        }
        let labels = labels.clone().without_duplicates();
        debug_assert!(
            labels.iter().all(|(key, _)| self.desc.allows(key)),
            "{}: a label of {labels:?} is not in describe.rs",
            self.desc.name,
        );
        if matches!(self.room(&slots, &labels), Room::Yes) {
            return self.slot(&mut slots, labels);
        }
        self.dropped.fetch_add(1, Ordering::Relaxed);
        let hidden = labels.hiding(|key| matches!(source(key), Source::Client | Source::Identity));
        if matches!(
            self.room(&slots, &hidden),
            Room::Yes | Room::WithoutClientValues
        ) {
            return self.slot(&mut slots, hidden);
        }
        let fixed = labels.hiding(|key| source(key) != Source::Fixed);
        if matches!(self.room(&slots, &fixed), Room::None) {
            return self.slot(&mut slots, labels.hiding(|_| true));
        }
        self.slot(&mut slots, fixed)
    }

    /// Client-chosen values may fill a quarter of a family, so that a stranger cannot take the room of real series.
    /// Series that say `other` have an eighth on top, those of fixed labels another, and the rest ends in one series.
    fn room(&self, slots: &Slots<M>, labels: &Labels) -> Room {
        let known = slots.by_labels.contains_key(labels);
        let (len, limit) = (slots.by_labels.len(), self.limit);
        let strangers = has_client_value(labels) && slots.client_chosen >= limit / 4;
        if known || (len < limit && !strangers) {
            Room::Yes
        } else if len < limit.saturating_add(limit / 8) {
            Room::WithoutClientValues
        } else if len < limit.saturating_add(limit / 4) {
            Room::OnlyFixed
        } else {
            Room::None
        }
    }

    fn slot(&self, slots: &mut Slots<M>, labels: Labels) -> Arc<M> {
        let chosen = has_client_value(&labels);
        match slots.by_labels.entry(labels) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().idle_since = None;
                Arc::clone(&entry.get().recorder)
            }
            Entry::Vacant(entry) => {
                slots.client_chosen += usize::from(chosen);
                let slot = entry.insert(Slot {
                    recorder: Arc::new(M::new(&self.shape)),
                    created: self.millis(Instant::now()),
                    idle_since: None,
                });
                Arc::clone(&slot.recorder)
            }
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl<M: Recorder> AnyFamily for Series<M> {
    fn desc(&self) -> &'static Desc {
        self.desc
    }

    fn counts(&self) -> Counts {
        Counts {
            series: self.slots().by_labels.len(),
            dropped: self.dropped.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }

    fn expire(&self, now: Instant, retain: Duration) {
        if self.desc.idle == Idle::Keep {
            return;
        }
        let now = self.millis(now);
        let retain = u64::try_from(retain.as_millis()).unwrap_or(u64::MAX);
        let mut slots = self.slots();
        let Slots {
            by_labels,
            client_chosen,
        } = &mut *slots;
        by_labels.retain(|labels, slot| {
            // One reference is the family's own; no other can appear while the lock is held.
            if Arc::strong_count(&slot.recorder) > 1 {
                slot.idle_since = None;
                return true;
            }
            let since = *slot.idle_since.get_or_insert(now);
            let keep = now.saturating_sub(since) < retain;
            if !keep {
                self.evicted.fetch_add(1, Ordering::Relaxed);
                *client_chosen =
                    client_chosen.saturating_sub(usize::from(has_client_value(labels)));
            }
            keep
        });
    }

    fn visit(&self, show: &mut dyn FnMut(&Labels, Created, Value)) {
        /// Series copied under one lock.
        const BATCH: usize = 256;
        let mut after: Option<Labels> = None;
        loop {
            let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let batch: Vec<(Labels, u64, Arc<M>)> = self
                .slots()
                .by_labels
                .range((from, Bound::Unbounded))
                .take(BATCH)
                .map(|(labels, slot)| (labels.clone(), slot.created, Arc::clone(&slot.recorder)))
                .collect();
            let Some((last, _, _)) = batch.last() else {
                return;
            };
            after = Some(last.clone());
            for (labels, created, recorder) in &batch {
                let created = self.epoch + Duration::from_millis(*created);
                show(labels, created, recorder.value());
            }
        }
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
