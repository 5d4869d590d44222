//! Medians, and the table and JSON made of them.

use crate::{
    scenario::{Idle, Load, SCENARIOS, Sample},
    sidecar::Mode,
};
use serde::Serialize;
use std::fmt;

/// All that a run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) mode: Mode,
    /// Whether proxies had the first CPU for themselves, and all else the others.
    pub(crate) pinned: bool,
    pub(crate) load: Load,
    pub(crate) rounds: usize,
    /// Name of the proxy that is measured, and of the one it is measured against.
    pub(crate) proxy: String,
    pub(crate) vs: Option<String>,
    /// Peers that did not take part, and why.
    pub(crate) missing: Vec<String>,
    /// What went wrong on the way.
    pub(crate) failures: Vec<String>,
    pub(crate) rows: Vec<Row>,
    pub(crate) processes: Vec<ProcessRow>,
    pub(crate) samples: Vec<Sample>,
}

/// Where it ran.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    /// Seconds since 1970.
    pub(crate) time: u64,
}

/// One proxy in one scenario: medians over the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) scenario: &'static str,
    pub(crate) subject: String,
    pub(crate) requests_per_second: f64,
    pub(crate) cpu_micros: f64,
    /// Smallest and largest of the rounds.
    pub(crate) cpu_micros_range: (f64, f64),
    pub(crate) cpu_share: f64,
    /// Median of the rounds' ratios of CPU by request to the first named; absent where it did not run.
    pub(crate) to_yardstick: Option<f64>,
    pub(crate) to_vs: Option<f64>,
    /// To the proxy that is measured; where numbers of authorizations are compared, to the one with one.
    pub(crate) to_proxy: Option<f64>,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Most of all rounds, in KiB.
    pub(crate) resident: u64,
    pub(crate) errors: u64,
}

/// Start and memory of one proxy.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessRow {
    pub(crate) subject: String,
    /// Milliseconds from start to ready, median.
    pub(crate) startup: f64,
    /// KiB when ready, before any load.
    pub(crate) resident_idle: u64,
    /// KiB, the most under any load.
    pub(crate) resident_load: u64,
    pub(crate) idle: Option<Idle>,
}

/// What is added to the proxy's name where its policy has one authorization, of one identity.
pub(crate) const ONE_IDENTITY: &str = ", 1 authorization";
/// Name of the yardstick among the subjects.
pub(crate) const YARDSTICK: &str = "yardstick";

/// The middle one, or the mean of the middle two; absent for none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(*values.get(low)?, *values.get(high)?))
}

/// Rows of all scenarios, in the order in which the subjects ran.
pub(crate) fn rows(samples: &[Sample], proxy: &str, vs: Option<&str>) -> Vec<Row> {
    let mut rows = Vec::new();
    for scenario in SCENARIOS {
        let of_scenario = || {
            samples
                .iter()
                .filter(|sample| sample.scenario == scenario.name)
        };
        let mut subjects: Vec<&str> = Vec::new();
        for sample in of_scenario() {
            if !subjects.contains(&&*sample.subject) {
                subjects.push(&sample.subject);
            }
        }
        for subject in subjects {
            let own: Vec<_> = of_scenario()
                .filter(|sample| sample.subject == subject)
                .collect();
            let middle = |value: fn(&Sample) -> f64| {
                median(own.iter().map(|sample| value(sample))).unwrap_or_default()
            };
            let ratio = |to: &str| {
                median(own.iter().filter_map(|sample| {
                    let other = of_scenario()
                        .find(|other| other.subject == to && other.round == sample.round)?;
                    Some(sample.cpu_micros / other.cpu_micros)
                }))
            };
            let cpu = || own.iter().map(|sample| sample.cpu_micros);
            rows.push(Row {
                scenario: scenario.name,
                subject: subject.to_owned(),
                requests_per_second: middle(|sample| sample.requests_per_second),
                cpu_micros: middle(|sample| sample.cpu_micros),
                cpu_micros_range: (
                    cpu().fold(f64::INFINITY, f64::min),
                    cpu().fold(0.0, f64::max),
                ),
                cpu_share: middle(|sample| sample.cpu_share),
                to_yardstick: ratio(YARDSTICK),
                to_vs: vs.and_then(ratio),
                to_proxy: ratio(proxy).or_else(|| ratio(&format!("{proxy}{ONE_IDENTITY}"))),
                p50: middle(|sample| sample.outcome.latency.p50),
                p99: middle(|sample| sample.outcome.latency.p99),
                p999: middle(|sample| sample.outcome.latency.p999),
                resident: own
                    .iter()
                    .map(|sample| sample.resident)
                    .max()
                    .unwrap_or_default(),
                errors: own.iter().map(|sample| sample.outcome.errors).sum(),
            });
        }
    }
    rows
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, load, .. } = self;
        writeln!(
            f,
            "{} CPUs, Linux {}; {:?} mode; {}; {} rounds of {} s, {} connections. Medians; ratios are medians of each round's.",
            machine.cpus,
            machine.kernel,
            self.mode,
            if self.pinned {
                "each proxy on the first CPU, all else on the others"
            } else {
                "all on all CPUs"
            },
            self.rounds,
            load.seconds,
            load.connections
        )?;
        for missing in &self.missing {
            writeln!(f, "MISSING: {missing}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        self.scenarios(f)?;
        self.processes(f)
    }
}

impl Report {
    fn scenarios(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for scenario in SCENARIOS {
            let rows: Vec<_> = self
                .rows
                .iter()
                .filter(|row| row.scenario == scenario.name)
                .collect();
            if rows.is_empty() {
                continue;
            }
            let rate = if scenario.is_rate() {
                format!(" ({}/s)", self.load.rate)
            } else {
                String::new()
            };
            writeln!(f, "\n{}{rate}", scenario.title)?;
            writeln!(
                f,
                "  {:<34}{:>9}{:>9}{:>7}{:>13}{:>8}{:>10}{:>9}{:>9}{:>9}{:>8}{:>8}",
                "proxy",
                "req/s",
                "CPU us",
                "core",
                "x yardstick",
                "x vs",
                "x proxy",
                "p50 us",
                "p99 us",
                "p99.9",
                "RSS MB",
                "errors"
            )?;
            for row in rows {
                writeln!(
                    f,
                    "  {:<34}{:>9.0}{:>9.1}{:>6.0}%{:>13}{:>8}{:>10}{:>9}{:>9}{:>9}{:>8.1}{:>8}",
                    row.subject,
                    row.requests_per_second,
                    row.cpu_micros,
                    row.cpu_share * 100.0,
                    shown(row.to_yardstick),
                    shown(row.to_vs),
                    shown(row.to_proxy),
                    micros(row.p50),
                    micros(row.p99),
                    micros(row.p999),
                    megabytes(row.resident),
                    row.errors,
                )?;
            }
        }
        Ok(())
    }

    fn processes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n  {:<34}{:>12}{:>13}{:>13}{:>22}{:>16}{:>14}",
            "proxy",
            "ready ms",
            "RSS idle MB",
            "RSS load MB",
            "RSS idle connections",
            "KiB/connection",
            "RSS closed"
        )?;
        for row in &self.processes {
            let (open, each, closed) = match &row.idle {
                None => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
                Some(idle) => (
                    format!("{:.1} ({})", megabytes(idle.open), idle.connections),
                    format!("{:.1}", idle.kib_each()),
                    format!("{:.1}", megabytes(idle.closed)),
                ),
            };
            writeln!(
                f,
                "  {:<34}{:>12.1}{:>13.1}{:>13.1}{:>22}{:>16}{:>14}",
                row.subject,
                row.startup,
                megabytes(row.resident_idle),
                megabytes(row.resident_load),
                open,
                each,
                closed,
            )?;
        }
        Ok(())
    }
}

impl Idle {
    #[expect(
        clippy::cast_precision_loss,
        reason = "KiB of memory are far below 2^52"
    )]
    fn kib_each(&self) -> f64 {
        self.open.saturating_sub(self.before) as f64 / self.connections.max(1) as f64
    }
}

/// Latencies are known where our own client sent the load.
fn micros(value: f64) -> String {
    if value > 0.0 {
        format!("{value:.0}")
    } else {
        "-".to_owned()
    }
}

fn shown(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "KiB of memory are far below 2^52"
)]
fn megabytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
