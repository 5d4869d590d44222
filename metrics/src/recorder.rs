//! Counters and gauges: what a [`crate::Handle`] points to. Every operation is lock-free.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::describe::Kind;
use crate::family::Handle;
use crate::histogram::Snapshot;

/// A kind of series: [`Counter`], [`Gauge`] or [`crate::Histogram`].
pub trait Recorder: private::Sealed + fmt::Debug + Send + Sync + 'static {
    /// What all series of a family share.
    #[doc(hidden)]
    type Shape: Clone + fmt::Debug + Send + Sync;
    #[doc(hidden)]
    fn new(shape: &Self::Shape) -> Self;
    #[doc(hidden)]
    fn value(&self) -> Value;
    #[doc(hidden)]
    fn fits(kind: &Kind) -> bool;
}

pub(crate) mod private {
    pub trait Sealed {}
}

/// The state of one series when a page is made.
#[doc(hidden)]
#[derive(Debug)]
pub enum Value {
    Count(u64),
    Number(f64),
    Histogram(Snapshot),
}

/// A value that only grows, until the series is evicted.
///
/// With one worker thread it is one word. With several it has a cache line for each, so that workers never contend.
#[derive(Debug)]
pub struct Counter {
    value: AtomicU64,
    shards: Box<[Shard]>,
}

/// One thread's part of a counter, alone on its cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: usize = NEXT_THREAD.fetch_add(1, Ordering::Relaxed);
}

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.cell().fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        let own = self.value.load(Ordering::Relaxed);
        self.shards.iter().fold(own, |sum, shard| {
            sum.wrapping_add(shard.0.load(Ordering::Relaxed))
        })
    }

    fn cell(&self) -> &AtomicU64 {
        if self.shards.is_empty() {
            return &self.value;
        }
        let thread = THREAD.try_with(|thread| *thread).unwrap_or(0);
        let shard = thread.checked_rem(self.shards.len()).unwrap_or(0);
        self.shards.get(shard).map_or(&self.value, |shard| &shard.0)
    }
}

impl private::Sealed for Counter {}

impl Recorder for Counter {
    /// The number of worker threads.
    type Shape = usize;

    fn new(workers: &usize) -> Self {
        let shards = if *workers > 1 { *workers } else { 0 };
        Self {
            value: AtomicU64::new(0),
            shards: (0..shards).map(|_| Shard::default()).collect(),
        }
    }

    fn value(&self) -> Value {
        Value::Count(self.get())
    }

    fn fits(kind: &Kind) -> bool {
        matches!(kind, Kind::Counter)
    }
}

/// A value that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Sets the value to a point in time, in seconds since 1970; earlier is 0.
    pub fn set_time(&self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.set(since.as_secs_f64());
    }

    /// Adds `delta`, which may be negative.
    pub fn add(&self, delta: f64) {
        add_float(&self.0, delta);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1.0);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.add(-1.0);
    }

    /// The value now.
    #[must_use]
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

impl private::Sealed for Gauge {}

impl Recorder for Gauge {
    type Shape = ();

    fn new((): &()) -> Self {
        Self::default()
    }

    fn value(&self) -> Value {
        Value::Number(self.get())
    }

    fn fits(kind: &Kind) -> bool {
        matches!(kind, Kind::Gauge)
    }
}

impl Handle<Gauge> {
    /// Adds one now, and takes it away when the guard is dropped: for what is open or in flight.
    #[must_use]
    pub fn hold(&self) -> Held {
        self.inc();
        Held(self.clone())
    }
}

/// One unit of a gauge, given back when dropped.
#[derive(Debug)]
pub struct Held(Handle<Gauge>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.deref().dec();
    }
}

/// Adds to a float kept as bits. Lock-free; with one worker it never repeats.
pub(crate) fn add_float(bits: &AtomicU64, delta: f64) {
    let add = |old: u64| Some((f64::from_bits(old) + delta).to_bits());
    let _ = bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
}
