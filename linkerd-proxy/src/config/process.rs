//! The process: logs, threads, end.

use super::reader::Reader;
use std::{num::NonZeroUsize, time::Duration};

/// What is logged, and how. Source: `LOG`, `LOG_FORMAT`, `ACCESS_LOG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// Filter text; a bad directive in it is skipped by [`crate::logging`], which says so.
    pub filter: String,
    /// Form of a line.
    pub format: LogFormat,
    /// Form of the access log; absent = off.
    pub access_log: Option<AccessLog>,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Plain,
    /// An object a line.
    Json,
}

/// Form of an access log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Like Apache's common log format.
    Apache,
    /// An object a line.
    Json,
}

impl Logging {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let access_log = reader.optional::<String>("ACCESS_LOG");
        let access_log = match access_log.as_deref() {
            None => None,
            Some(word) if word.eq_ignore_ascii_case("apache") => Some(AccessLog::Apache),
            Some(word) if word.eq_ignore_ascii_case("json") => Some(AccessLog::Json),
            Some(word) => {
                reader.warn(format!(
                    "LINKERD2_PROXY_ACCESS_LOG={word:?} is unknown, so there is no access log: give apache or json"
                ));
                None
            }
        };
        let format = match reader.value::<String>("LOG_FORMAT") {
            word if word.eq_ignore_ascii_case("json") => LogFormat::Json,
            _ => LogFormat::Plain,
        };
        Self {
            filter: reader.value("LOG"),
            format,
            access_log,
        }
    }
}

/// Worker threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workers {
    /// Least number.
    min: usize,
    /// Largest number.
    max: Option<usize>,
    /// Share of the CPUs, where there is no largest number.
    ratio: Option<f64>,
}

impl Workers {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let number = |name| reader.lenient(name, |cores: &usize| *cores > 0);
        let cores = number("CORES");
        Self {
            min: number("CORES_MIN").or(cores).unwrap_or(1),
            max: number("CORES_MAX"),
            ratio: reader.lenient("CORES_MAX_RATIO", |ratio: &f64| {
                *ratio > 0.0 && *ratio <= 1.0
            }),
        }
    }

    /// How many worker threads to start with this many CPUs; at least one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a ratio of at most 1 of a number of CPUs fits"
    )]
    pub fn threads(&self, available: NonZeroUsize) -> usize {
        let share = |ratio: f64| (available.get() as f64 * ratio).round() as usize;
        let max = self
            .max
            .or_else(|| self.ratio.map(share))
            .unwrap_or(1)
            .max(1);
        max.max(self.min).min(available.get())
    }
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Longest drain. `SHUTDOWN_GRACE_PERIOD`.
    pub grace: Duration,
    /// How long connections are still accepted; at most `grace`. `SHUTDOWN_DRAIN_WINDOW`.
    pub drain_window: Duration,
    /// Whether `POST /shutdown` works. `SHUTDOWN_ENDPOINT_ENABLED`.
    pub endpoint: bool,
}

impl Shutdown {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let grace = reader.value("SHUTDOWN_GRACE_PERIOD");
        let window: Duration = reader.value("SHUTDOWN_DRAIN_WINDOW");
        Self {
            grace,
            drain_window: window.min(grace),
            endpoint: reader.value("SHUTDOWN_ENDPOINT_ENABLED"),
        }
    }
}
