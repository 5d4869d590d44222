//! Latencies in buckets of fixed relative width, from a nanosecond to minutes.

use serde::Serialize;
use std::time::Duration;

/// Buckets for each power of two: values are kept to within 1/128, below one percent.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts of durations.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    largest: u64,
}

/// What a histogram says, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, serde::Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; index(u64::MAX) + 1],
            total: 0,
            largest: 0,
        }
    }

    pub(crate) fn record(&mut self, value: Duration) {
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(index(nanos)) {
            *count += 1;
        }
        self.total += 1;
        self.largest = self.largest.max(nanos);
    }

    /// The value that `share` (0 to 1) of the recorded ones do not exceed.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among fewer than 2^52 values"
    )]
    fn quantile(&self, share: f64) -> f64 {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(index).min(self.largest) as f64 / 1e3;
            }
        }
        0.0
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "minutes in nanoseconds are below 2^52"
    )]
    pub(crate) fn quantiles(&self) -> Quantiles {
        Quantiles {
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            max: self.largest as f64 / 1e3,
        }
    }
}

/// The bucket of a value: exact below `2 * STEPS`, then `STEPS` buckets for each power of two.
fn index(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(STEP_BITS + 1);
    let bucket = u64::from(shift) * STEPS + (value >> shift);
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// The largest value of a bucket.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index / STEPS).saturating_sub(1);
    let base = index - shift * STEPS;
    ((base + 1) << shift).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_is_kept_to_within_one_percent() {
        for value in (0..2_000_u64).chain((11..40).flat_map(|bits| {
            let power = 1_u64 << bits;
            [power - 1, power, power + power / 3]
        })) {
            let upper = upper(index(value));
            assert!(upper >= value, "{value} > {upper}");
            assert!((upper - value) * 100 <= value, "{value} kept as {upper}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_recorded_values() {
        let mut histogram = Histogram::new();
        for micros in 1..=1_000 {
            histogram.record(Duration::from_micros(micros));
        }
        let quantiles = histogram.quantiles();
        for (got, wanted) in [
            (quantiles.p50, 500.0),
            (quantiles.p90, 900.0),
            (quantiles.p99, 990.0),
            (quantiles.p999, 999.0),
            (quantiles.max, 1_000.0),
        ] {
            assert!((got - wanted).abs() <= wanted * 0.01, "{got} for {wanted}");
        }
    }
}
