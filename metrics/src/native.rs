//! Native (exponential) histogram buckets, schema 3: eight to each power of two, so every value is known to within 9 %
//! and percentiles need no guess. Observing is lock-free; memory comes two octaves at a time, when a value first
//! falls in them.

use std::f64::consts::FRAC_1_SQRT_2;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets to a power of two are `2^SCHEMA`.
pub(crate) const SCHEMA: i32 = 3;
const PER_OCTAVE: usize = 8;
const PER_CHUNK: usize = 2 * PER_OCTAVE;

/// Values up to 2^LOWEST count as zero: about 1 µs in seconds.
const LOWEST: i32 = -20;
/// Values above 2^(LOWEST + OCTAVES) count in the last bucket: about 1,100 years in seconds, 16 GiB in bytes.
const OCTAVES: usize = 54;
const CHUNKS: usize = OCTAVES * PER_OCTAVE / PER_CHUNK;

/// Upper bounds of the buckets in (0.5, 1), after the one that ends at 0.5 itself: 2^(k/8 - 1).
const STEPS: [f64; PER_OCTAVE] = [
    0.5,
    0.545_253_866_332_628_8,
    0.594_603_557_501_360_5,
    0.648_419_777_325_504_8,
    FRAC_1_SQRT_2,
    0.771_105_412_703_970_4,
    0.840_896_415_253_714_5,
    0.917_004_043_204_671_2,
];

type Chunk = Box<[AtomicU64; PER_CHUNK]>;

/// The native buckets of one series.
#[derive(Debug)]
pub(crate) struct Native {
    zero: AtomicU64,
    chunks: [OnceLock<Chunk>; CHUNKS],
}

impl Default for Native {
    fn default() -> Self {
        Self {
            zero: AtomicU64::new(0),
            chunks: [const { OnceLock::new() }; CHUNKS],
        }
    }
}

/// The non-empty buckets by index, ascending; bucket `i` holds what is in (2^((i-1)/8), 2^(i/8)].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct NativeSnapshot {
    pub(crate) zero: u64,
    pub(crate) buckets: Vec<(i32, u64)>,
}

/// The upper end of the zero bucket.
pub(crate) fn zero_threshold() -> f64 {
    2f64.powi(LOWEST)
}

impl Native {
    pub(crate) fn observe(&self, value: f64) {
        let Some(at) = position(value) else {
            self.zero.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let chunk = self.chunks.get(at / PER_CHUNK);
        let count = chunk
            .map(|chunk| chunk.get_or_init(Chunk::default))
            .and_then(|chunk| chunk.get(at % PER_CHUNK));
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> NativeSnapshot {
        let counts = self.chunks.iter().enumerate().flat_map(|(chunk, counts)| {
            let counts = counts.get().map_or(&[][..], |counts| counts.as_slice());
            let numbered = counts.iter().enumerate();
            numbered.map(move |(step, count)| (chunk * PER_CHUNK + step, count))
        });
        let buckets = counts
            .map(|(at, count)| (index(at), count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect();
        NativeSnapshot {
            zero: self.zero.load(Ordering::Relaxed),
            buckets,
        }
    }
}

/// Prometheus' index of the bucket at a position: position 0 is the bucket that begins at 2^LOWEST.
fn index(at: usize) -> i32 {
    let at = i32::try_from(at).unwrap_or(i32::MAX / 2);
    LOWEST * PER_OCTAVE as i32 + 1 + at
}

/// Where a value counts; `None` is the zero bucket. Reads the float's own exponent rather than taking a logarithm.
fn position(value: f64) -> Option<usize> {
    if value.is_nan() || value <= zero_threshold() {
        return None;
    }
    let last = OCTAVES * PER_OCTAVE - 1;
    if value.is_infinite() {
        return Some(last);
    }
    // value = fraction * 2^exponent with the fraction in [0.5, 1). Subnormal numbers are below the threshold.
    let bits = value.to_bits();
    let exponent = i64::try_from((bits >> 52) & 0x7ff).unwrap_or(0) - 1022;
    let fraction = f64::from_bits((bits & !(0x7ff << 52)) | (1022 << 52));
    let step = STEPS.partition_point(|bound| *bound < fraction) as i64;
    let at = (exponent - 1 - i64::from(LOWEST)) * PER_OCTAVE as i64 + step - 1;
    usize::try_from(at).ok().map(|at| at.min(last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bounds of a bucket as Prometheus defines them.
    fn bounds(index: i32) -> (f64, f64) {
        let bound = |i: i32| (f64::from(i) / 8.0).exp2();
        (bound(index - 1), bound(index))
    }

    #[test]
    fn powers_of_two_end_their_bucket() {
        for exponent in LOWEST + 1..LOWEST + OCTAVES as i32 {
            let native = Native::default();
            native.observe(2f64.powi(exponent));
            assert_eq!(native.snapshot().buckets, [(exponent * 8, 1)]);
        }
    }

    #[test]
    fn the_smallest_and_the_largest_values_have_a_place() {
        let native = Native::default();
        for value in [
            0.0,
            1e-9,
            zero_threshold(),
            f64::NAN,
            -1.0,
            f64::MIN_POSITIVE,
        ] {
            native.observe(value);
        }
        native.observe(f64::INFINITY);
        native.observe(f64::MAX);
        let last = (LOWEST + OCTAVES as i32) * 8;
        let expected = NativeSnapshot {
            zero: 6,
            buckets: vec![(last, 2)],
        };
        assert_eq!(native.snapshot(), expected);
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(value in 1e-6f64..1e10) {
            let native = Native::default();
            native.observe(value);
            let snapshot = native.snapshot();
            let (low, high) = bounds(snapshot.buckets[0].0);
            // The reference takes a logarithm, so it is exact only to rounding.
            prop_assert!(low * (1.0 - 1e-12) < value && value <= high * (1.0 + 1e-12), "{} {} {}", low, value, high);
            prop_assert_eq!(snapshot.buckets.len(), 1);
        }
    }
}
