//! The registry: all families of a process, and the pages made of them. One is made in `run` and passed down; there is
//! no global.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::collect::{Collect, Samples};
use crate::describe::{self, Desc, Idle, Kind, Unit};
use crate::family::{AnyFamily, Family};
use crate::format::{Exposition, Format};
use crate::histogram::{Histogram, ShapeInner};
use crate::labels::Labels;
use crate::recorder::{Counter, Gauge, Recorder, Value};
use crate::{format, protobuf, text};

/// What an operator may choose about metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How long a series without a handle stays (`METRICS_RETAIN_IDLE`, 10 minutes).
    pub retain_idle: Duration,
    /// How many series a family may have before labels that clients choose become `other` (2,000). At most a quarter
    /// more come on top.
    pub max_series_per_family: usize,
    /// Keeps native histograms beside the classic buckets, for scrapers that ask for the protobuf format (off).
    pub native_histograms: bool,
    /// Upper bounds of the classic buckets of latency histograms, in milliseconds, instead of those in the table
    /// (empty: the table's). Used in ascending order; at most 64, and none that is not a number above 0.
    pub latency_buckets: Vec<f64>,
    /// Threads that record; more than one gives counters a cache line for each (1).
    pub workers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retain_idle: Duration::from_secs(600),
            max_series_per_family: 2_000,
            native_histograms: false,
            latency_buckets: Vec::new(),
            workers: 1,
        }
    }
}

/// All families of a process. A clone is the same registry.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    options: Options,
    families: Mutex<BTreeMap<&'static str, Arc<dyn AnyFamily>>>,
    collectors: Mutex<Vec<Arc<dyn Collect>>>,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self(Arc::new(Inner {
            options,
            families: Mutex::default(),
            collectors: Mutex::default(),
        }))
    }

    /// The options it was made with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// The family of counters of this description; the same one each time.
    #[must_use]
    pub fn counters(&self, desc: &'static Desc) -> Family<Counter> {
        self.family(desc, || self.0.options.workers)
    }

    /// The family of gauges of this description; the same one each time.
    #[must_use]
    pub fn gauges(&self, desc: &'static Desc) -> Family<Gauge> {
        self.family(desc, || ())
    }

    /// The family of histograms of this description; the same one each time.
    #[must_use]
    pub fn histograms(&self, desc: &'static Desc) -> Family<Histogram> {
        self.family(desc, || {
            Arc::new(ShapeInner {
                bounds: self.bounds(desc),
                unit: desc.unit,
                native: self.0.options.native_histograms,
            })
        })
    }

    /// Adds something to ask for values when a page is made.
    pub fn collector(&self, collector: Box<dyn Collect>) {
        lock(&self.0.collectors).push(collector.into());
    }

    /// Makes a page. Series that are due are evicted afterwards.
    #[must_use]
    pub fn encode(&self, format: Format) -> Vec<u8> {
        let mut page = Vec::new();
        // Writing to a vector does not fail.
        let _ = self.encode_to(format, &mut page);
        page
    }

    /// Makes a page, compressed as it is made: the page itself, which can be large, is never held as a whole.
    #[must_use]
    pub fn encode_gzip(&self, format: Format) -> Vec<u8> {
        let mut compressor = format::gzip_writer();
        let _ = self.encode_to(format, &mut compressor);
        compressor.finish().unwrap_or_default()
    }

    /// Writes a page. Series that are due are evicted afterwards.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn encode_to(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        let mut page: Box<dyn Exposition> = match format {
            Format::Text => Box::new(text::Page::classic()),
            Format::OpenMetrics => Box::new(text::Page::openmetrics()),
            Format::Protobuf => Box::new(protobuf::Page::default()),
        };
        let now = Instant::now();
        for part in self.parts().values() {
            page.family(part.desc);
            if let Some(family) = &part.family {
                let mut written = Ok(());
                family.visit(&mut |labels, created, value| {
                    let age = now.saturating_duration_since(created);
                    page.series(labels, Some(age), value);
                    if page.pending() >= FLUSH_BYTES && written.is_ok() {
                        written = page.flush(out);
                    }
                });
                written?;
            }
            for (labels, value) in &part.samples {
                page.series(labels, None, Value::Number(*value));
            }
            page.end_family();
            page.flush(out)?;
        }
        page.finish();
        page.flush(out)?;
        self.expire(now);
        Ok(())
    }

    /// Evicts series that nobody holds and that have been idle for [`Options::retain_idle`]. Every page does so too; a
    /// process that nobody scrapes calls it from a timer.
    pub fn expire(&self, now: Instant) {
        for family in self.families() {
            family.expire(now, self.0.options.retain_idle);
        }
    }

    fn family<M: Recorder>(
        &self,
        desc: &'static Desc,
        shape: impl FnOnce() -> M::Shape,
    ) -> Family<M> {
        debug_assert!(
            M::fits(&desc.kind),
            "{} is a {}",
            desc.name,
            desc.kind.as_str()
        );
        let mut families = lock(&self.0.families);
        let known = families
            .get(desc.name)
            .map(|family| Arc::clone(family).into_any());
        if let Some(family) = known.and_then(Family::from_any) {
            return family;
        }
        let family = Family::new(desc, shape(), self.0.options.max_series_per_family);
        families.insert(desc.name, family.erase());
        family
    }

    fn bounds(&self, desc: &Desc) -> Box<[f64]> {
        let chosen = &self.0.options.latency_buckets;
        match desc.kind {
            Kind::Histogram { latency: true, .. } if !chosen.is_empty() => {
                chosen_bounds(chosen, desc.unit)
            }
            Kind::Histogram { buckets, .. } => buckets.into(),
            Kind::Counter | Kind::Gauge => Box::default(),
        }
    }

    fn families(&self) -> Vec<Arc<dyn AnyFamily>> {
        lock(&self.0.families).values().cloned().collect()
    }

    /// What is to be shown, in the order of the table.
    fn parts(&self) -> BTreeMap<(usize, &'static str), Part> {
        let mut samples = Samples::default();
        let collectors = lock(&self.0.collectors).clone();
        for collector in &collectors {
            collector.collect(&mut samples);
        }
        let families = self.families();
        for family in &families {
            own_samples(family.as_ref(), &mut samples);
        }
        let mut parts = BTreeMap::new();
        for family in families {
            let desc = family.desc();
            part(&mut parts, desc).family = Some(family);
        }
        for (desc, labels, value) in samples.0 {
            part(&mut parts, desc).samples.push((labels, value));
        }
        parts
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

/// The most classic buckets of a histogram: each is a series in the scraper's memory.
const MAX_BUCKETS: usize = 64;

/// Bounds that an operator chose, in the unit of the family.
fn chosen_bounds(milliseconds: &[f64], unit: Unit) -> Box<[f64]> {
    let usable = milliseconds
        .iter()
        .copied()
        .filter(|bound| bound.is_finite() && *bound > 0.0);
    let mut bounds: Vec<f64> = match unit {
        Unit::Milliseconds => usable.collect(),
        Unit::None | Unit::Seconds | Unit::Bytes => usable.map(|ms| ms / 1000.0).collect(),
    };
    bounds.sort_by(f64::total_cmp);
    bounds.dedup();
    bounds.truncate(MAX_BUCKETS);
    bounds.into()
}

/// How much of a page is held before it goes to the writer.
const FLUSH_BYTES: usize = 16 * 1024;

/// One family of a page.
struct Part {
    desc: &'static Desc,
    family: Option<Arc<dyn AnyFamily>>,
    samples: Vec<(Labels, f64)>,
}

fn part<'a>(
    parts: &'a mut BTreeMap<(usize, &'static str), Part>,
    desc: &'static Desc,
) -> &'a mut Part {
    parts
        .entry((describe::position(desc), desc.name))
        .or_insert_with(|| Part {
            desc,
            family: None,
            samples: Vec::new(),
        })
}

/// What the registry says about a family whose series can grow in number.
fn own_samples(family: &dyn AnyFamily, samples: &mut Samples) {
    let counts = family.counts();
    let desc = family.desc();
    let unused = counts.series == 0 && counts.dropped == 0 && counts.evicted == 0;
    if desc.idle == Idle::Keep || unused {
        return;
    }
    let labels = Labels::new().with("family", desc.name);
    samples.push(
        &describe::METRICS_SERIES,
        labels.clone(),
        counts.series as f64,
    );
    samples.push(
        &describe::METRICS_SERIES_DROPPED_TOTAL,
        labels.clone(),
        counts.dropped as f64,
    );
    samples.push(
        &describe::METRICS_SERIES_EVICTED_TOTAL,
        labels,
        counts.evicted as f64,
    );
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
