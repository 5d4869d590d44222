//! What is retried, how often, at which price, and what is told about it.
//!
//! `request` asks: a condition ([`Params`]), a body that can be sent again ([`replay`]), the [`Budget`]. One
//! [`Journal`] goes with each request of an application and counts what became of it, whatever it took.

mod budget;
pub(crate) mod headers;
mod metrics;
mod numbers;
pub(crate) mod replay;

pub(crate) use self::{
    budget::Budget,
    metrics::{Journal, RetryFamilies, RouteRetries, Unrouted},
    numbers::RouteNumbers,
};

use http::StatusCode;
use linkerd_policy::outbound::{Backoff, Retry, RetryConditions};
use std::time::Duration;

/// How a request may be retried.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Params {
    pub(crate) max_retries: u16,
    /// Bytes of the request's body that are kept.
    pub(crate) max_request_bytes: usize,
    pub(crate) conditions: RetryConditions,
    /// Limit of an attempt that may be retried, until the head of its response.
    pub(crate) timeout: Option<Duration>,
    pub(crate) backoff: Option<Backoff>,
}

impl Params {
    pub(crate) fn of_policy(retry: &Retry) -> Self {
        Self {
            max_retries: retry.max_retries,
            max_request_bytes: usize::try_from(retry.max_request_bytes).unwrap_or(usize::MAX),
            conditions: retry.conditions.clone(),
            timeout: retry.timeout,
            backoff: retry.backoff,
        }
    }

    /// Service profiles know neither conditions nor a limit: what their classes call a failure is retried as long as
    /// the budget lasts.
    pub(crate) fn of_profile() -> Self {
        Self {
            max_retries: u16::MAX,
            max_request_bytes: 64 * 1024,
            conditions: RetryConditions::default(),
            timeout: None,
            backoff: None,
        }
    }

    pub(crate) fn is_status(&self, status: StatusCode) -> bool {
        let status = status.as_u16();
        let mut ranges = self.conditions.statuses.iter();
        ranges.any(|range| range.contains(&status))
    }

    pub(crate) fn is_grpc(&self, code: u16) -> bool {
        self.conditions.grpc.contains(&code)
    }

    /// Whether a response's `retry-after` counts.
    pub(crate) fn respects_hints(&self) -> bool {
        self.backoff
            .is_some_and(|backoff| backoff.respect_retry_after)
    }

    /// The pause after `attempts`, with jitter. `hint`: what the response asked for.
    pub(crate) fn pause(&self, attempts: u16, hint: Option<Duration>) -> Duration {
        let Some(backoff) = self.backoff else {
            return Duration::ZERO;
        };
        let factor = 2u32
            .checked_pow(u32::from(attempts.saturating_sub(1)))
            .unwrap_or(u32::MAX);
        let base = match hint {
            Some(hint) => hint.clamp(backoff.min, backoff.max),
            None => backoff.min.saturating_mul(factor).min(backoff.max),
        };
        let roll: f64 = rand::random();
        let jitter = base.as_secs_f64() * f64::from(backoff.jitter) * roll;
        base + Duration::try_from_secs_f64(jitter).unwrap_or_default()
    }
}

/// Why a request is retried: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The status of the response: 429, or another of its hundred.
    Status(u16),
    Grpc(u16),
    /// The limit of an attempt.
    Timeout,
    /// No endpoint was ready.
    FailFast,
    /// The endpoint did not begin to work on it.
    Refused,
    /// The endpoint could not be connected to, or broke off.
    Connection,
}

impl Reason {
    pub(super) const LABELS: [&str; 15] = [
        "429",
        "4xx",
        "5xx",
        "503",
        "504",
        "other_status",
        "cancelled",
        "deadline_exceeded",
        "resource_exhausted",
        "internal",
        "unavailable",
        "timeout",
        "failfast",
        "refused",
        "connection",
    ];

    pub(crate) fn status(status: StatusCode) -> Self {
        Self::Status(status.as_u16())
    }

    /// The value of `reason`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Status(429) => "429",
            Self::Status(503) => "503",
            Self::Status(504) => "504",
            Self::Status(400..=499) => "4xx",
            Self::Status(500..=599) => "5xx",
            Self::Status(_) | Self::Grpc(_) => match self {
                Self::Grpc(1) => "cancelled",
                Self::Grpc(4) => "deadline_exceeded",
                Self::Grpc(8) => "resource_exhausted",
                Self::Grpc(13) => "internal",
                Self::Grpc(14) => "unavailable",
                _ => "other_status",
            },
            Self::Timeout => "timeout",
            Self::FailFast => "failfast",
            Self::Refused => "refused",
            Self::Connection => "connection",
        }
    }
}

/// Why a request is not retried although its result calls for it: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suppressed {
    Limit,
    Budget,
    BodyTooLarge,
    /// The response came before the body was read to its end.
    BodyNotFinished,
    /// No backend might do better.
    Shed,
    /// There is no time left.
    Deadline,
}

impl Suppressed {
    pub(super) const LABELS: [&str; 6] = [
        "limit",
        "budget",
        "body_too_large",
        "body_not_finished",
        "shed",
        "deadline",
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Budget => "budget",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyNotFinished => "body_not_finished",
            Self::Shed => "shed",
            Self::Deadline => "deadline",
        }
    }
}

/// How a request of an application ended, as far as its last attempt tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a response that is what the application hoped for.
    Success,
    /// With a response that is not.
    Failure,
    /// Without a response.
    Error,
    TimedOut,
    Shed,
    /// The application went away.
    Abandoned,
}
