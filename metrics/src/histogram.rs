//! Histograms with classic buckets and, where switched on, native (exponential) ones beside them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::describe::{Kind, Unit};
use crate::native::{Native, NativeSnapshot};
use crate::recorder::{Recorder, Value, add_float, private};

/// A distribution of values. Memory for buckets is taken at the first observation.
#[derive(Debug)]
pub struct Histogram {
    shape: Shape,
    sum: AtomicU64,
    /// One count per bound and one for what is above all; not cumulative. Not padded: 26 buckets of a cache line each
    /// would be 1.6 KiB a series.
    counts: OnceLock<Box<[AtomicU64]>>,
    native: OnceLock<Box<Native>>,
}

/// What the series of a family share: bounds, unit, and whether native buckets are kept.
pub(crate) type Shape = Arc<ShapeInner>;

#[doc(hidden)]
#[derive(Debug)]
pub struct ShapeInner {
    pub(crate) bounds: Box<[f64]>,
    pub(crate) unit: Unit,
    pub(crate) native: bool,
}

/// A histogram's state when a page is made. `counts` has one entry more than `shape.bounds`, or is empty.
#[doc(hidden)]
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) shape: Shape,
    pub(crate) counts: Vec<u64>,
    pub(crate) sum: f64,
    pub(crate) native: Option<NativeSnapshot>,
}

impl Snapshot {
    /// The number of observations: by construction what the `+Inf` bucket says.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The bounds with cumulative counts, `+Inf` last.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.shape.bounds.iter().copied();
        let counts = self.counts.iter().copied().chain(std::iter::repeat(0));
        bounds
            .chain(std::iter::once(f64::INFINITY))
            .zip(counts)
            .scan(0, |sum, (bound, count)| {
                *sum += count;
                Some((bound, *sum))
            })
    }
}

impl Histogram {
    /// Records a value in the unit of the family (seconds, milliseconds, bytes). What is not a number, or negative,
    /// counts as 0.
    pub fn observe(&self, value: f64) {
        let value = if value > 0.0 { value } else { 0.0 };
        let at = self.shape.bounds.partition_point(|bound| *bound < value);
        let counts = self.counts.get_or_init(|| {
            let buckets = self.shape.bounds.len() + 1;
            (0..buckets).map(|_| AtomicU64::new(0)).collect()
        });
        if let Some(count) = counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        add_float(&self.sum, value);
        if self.shape.native {
            self.native.get_or_init(Box::default).observe(value);
        }
    }

    /// Records a duration in the unit of the family.
    pub fn observe_duration(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.observe(match self.shape.unit {
            Unit::Milliseconds => seconds * 1e3,
            Unit::None | Unit::Seconds | Unit::Bytes => seconds,
        });
    }

    /// Records a number of bytes.
    pub fn observe_bytes(&self, bytes: usize) {
        self.observe(bytes as f64);
    }

    /// The number of values recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        let counts = self.counts.get().map_or(&[][..], |counts| counts);
        counts.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// The sum of the values recorded.
    #[must_use]
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Ordering::Relaxed))
    }
}

impl private::Sealed for Histogram {}

impl Recorder for Histogram {
    type Shape = Shape;

    fn new(shape: &Shape) -> Self {
        Self {
            shape: Arc::clone(shape),
            sum: AtomicU64::new(0),
            counts: OnceLock::new(),
            native: OnceLock::new(),
        }
    }

    fn value(&self) -> Value {
        let counts = self.counts.get().map_or(&[][..], |counts| counts);
        let native = self.native.get().map(|native| native.snapshot());
        Value::Histogram(Snapshot {
            shape: Arc::clone(&self.shape),
            counts: counts.iter().map(|n| n.load(Ordering::Relaxed)).collect(),
            sum: self.sum(),
            native: self.shape.native.then(|| native.unwrap_or_default()),
        })
    }

    fn fits(kind: &Kind) -> bool {
        matches!(kind, Kind::Histogram { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(bounds: &[f64], unit: Unit) -> Histogram {
        let bounds = bounds.into();
        Histogram::new(&Arc::new(ShapeInner {
            bounds,
            unit,
            native: false,
        }))
    }

    fn snapshot(histogram: &Histogram) -> Snapshot {
        match histogram.value() {
            Value::Histogram(snapshot) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_value_on_a_bound_belongs_to_the_bucket_that_ends_there() {
        let histogram = histogram(&[1.0, 2.0], Unit::Bytes);
        for value in [0.5, 1.0, 1.1, 2.0, 3.0, f64::NAN, -7.0] {
            histogram.observe(value);
        }
        let counts: Vec<_> = snapshot(&histogram).cumulative().collect();
        assert_eq!(counts, [(1.0, 4), (2.0, 6), (f64::INFINITY, 7)]);
        assert_eq!((histogram.count(), histogram.sum()), (7, 7.6));
    }

    #[test]
    fn durations_are_in_the_unit_of_the_family() {
        let (ms, seconds) = (
            histogram(&[1.0], Unit::Milliseconds),
            histogram(&[1.0], Unit::Seconds),
        );
        let duration = Duration::from_millis(1500);
        ms.observe_duration(duration);
        seconds.observe_duration(duration);
        assert_eq!((ms.sum(), seconds.sum()), (1500.0, 1.5));
    }

    #[test]
    fn a_series_without_observations_has_all_buckets_and_no_memory_for_them() {
        let histogram = histogram(&[1.0, 2.0], Unit::Seconds);
        assert!(histogram.counts.get().is_none());
        let counts: Vec<_> = snapshot(&histogram)
            .cumulative()
            .map(|(_, count)| count)
            .collect();
        assert_eq!(counts, [0, 0, 0]);
    }
}
