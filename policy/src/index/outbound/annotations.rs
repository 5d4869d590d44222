//! Retries, timeouts and load balancing, as annotations of parents and routes say. Source: control plane §3.5, §3.6.
//!
//! A bad value on a parent switches off what it belongs to; on a route it takes the route away.

use crate::{
    manifest::go_duration_seconds,
    outbound::{
        Backoff, FailureAccrual, Load, Penalty, Retry, RetryConditions, SuccessRate, Timeouts,
    },
    resource::StringMap,
};
use std::{ops::RangeInclusive, time::Duration};

/// What the annotations of an object say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    /// Present if any annotation of retries is.
    pub(super) retry: Option<Retry>,
    has_retry: bool,
    /// Present if any annotation of timeouts is.
    pub(super) timeouts: Option<Timeouts>,
    pub(super) accrual: Option<FailureAccrual>,
    pub(super) load: Load,
}

/// A value that cannot be used.
struct Bad;

impl Settings {
    pub(super) fn of_parent(annotations: &StringMap) -> Self {
        let retry = retry(annotations).unwrap_or_default();
        Self {
            has_retry: retry.is_some(),
            retry: retry.flatten(),
            timeouts: timeouts(annotations).unwrap_or_default(),
            accrual: accrual(annotations).unwrap_or_default(),
            load: load(annotations).unwrap_or_default(),
        }
    }

    /// `None`: a value cannot be used.
    pub(super) fn of_route(annotations: &StringMap) -> Option<Self> {
        let retry = retry(annotations).ok()?;
        Some(Self {
            has_retry: retry.is_some(),
            retry: retry.flatten(),
            timeouts: timeouts(annotations).ok()?,
            accrual: None,
            load: Load::default(),
        })
    }

    /// A route's retries: its own if it says anything of them, else its parent's.
    pub(super) fn retry(&self, parent: &Self) -> Option<Retry> {
        if self.has_retry {
            return self.retry.clone();
        }
        parent.retry.clone()
    }
}

/// What a parent's annotations say that cannot be read, and so counts for nothing: which, and what would be right.
pub(crate) fn unreadable(
    annotations: &StringMap,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    let found = [
        (
            retry(annotations).is_err(),
            "retry.linkerd.io/*",
            "`http`: `5xx`, `gateway-error`, statuses and ranges; `grpc`: names of codes; both between commas without \
             blanks; `limit`: a number; `timeout`: a whole number with its unit",
        ),
        (
            timeouts(annotations).is_err(),
            "timeout.linkerd.io/*",
            "write whole numbers with their units: ms, s, m, h or d",
        ),
        (
            accrual(annotations).is_err(),
            "balancer.linkerd.io/failure-accrual*",
            "`failure-accrual`: `consecutive` or `unified`; numbers; penalties are whole numbers with their units, the \
             shortest not above the longest",
        ),
        (
            load(annotations).is_err(),
            "balancer.alpha.linkerd.io/load-biaser-*",
            "write whole numbers with their units: ms, s, m, h or d",
        ),
    ];
    let bad = found.into_iter().filter(|(is_bad, ..)| *is_bad);
    bad.map(|(_, what, fix)| (what, fix))
}

/// `Some(None)`: something is said, and there are no retries.
fn retry(annotations: &StringMap) -> Result<Option<Option<Retry>>, Bad> {
    let get = |key: &str| annotations.get(&format!("retry.linkerd.io/{key}"));
    let (http, grpc, limit, timeout) = (get("http"), get("grpc"), get("limit"), get("timeout"));
    if [http, grpc, limit, timeout].iter().all(Option::is_none) {
        return Ok(None);
    }
    let limit: Option<u16> = match limit {
        Some(text) => Some(text.parse().map_err(|_| Bad)?),
        None => None,
    };
    let conditions = RetryConditions {
        statuses: match http {
            Some(text) => text
                .split(',')
                .map(status)
                .collect::<Option<_>>()
                .ok_or(Bad)?,
            None => Vec::new(),
        },
        grpc: match grpc {
            Some(text) => text
                .split(',')
                .map(code)
                .collect::<Option<_>>()
                .ok_or(Bad)?,
            None => Vec::new(),
        },
    };
    Ok(Some(Some(Retry {
        max_retries: limit.filter(|limit| *limit > 0).unwrap_or(1),
        max_request_bytes: 64 * 1024,
        conditions,
        timeout: match timeout {
            Some(text) => simple(text)?,
            None => None,
        },
        backoff: Some(Backoff {
            min: Duration::from_millis(25),
            max: Duration::from_millis(250),
            jitter: 1.0,
            respect_retry_after: false,
        }),
    })))
}

fn status(text: &str) -> Option<RangeInclusive<u16>> {
    let one = |text: &str| {
        let status: u16 = text.parse().ok()?;
        (100..=599).contains(&status).then_some(status)
    };
    match text {
        "5xx" => Some(500..=599),
        "gateway-error" => Some(502..=504),
        text => match text.split_once('-') {
            None => one(text).map(|status| status..=status),
            Some((start, end)) => {
                let range = one(start)?..=one(end)?;
                (!range.is_empty()).then_some(range)
            }
        },
    }
}

fn code(text: &str) -> Option<u16> {
    Some(match text {
        "cancelled" => 1,
        "deadline-exceeded" => 4,
        "resource-exhausted" => 8,
        "internal" => 13,
        "unavailable" => 14,
        _ => return None,
    })
}

fn timeouts(annotations: &StringMap) -> Result<Option<Timeouts>, Bad> {
    let get = |key: &str| annotations.get(&format!("timeout.linkerd.io/{key}"));
    let (request, response, idle) = (get("request"), get("response"), get("idle"));
    if [request, response, idle].iter().all(Option::is_none) {
        return Ok(None);
    }
    let limit = |text: Option<&String>| text.map_or(Ok(None), |text| simple(text));
    Ok(Some(Timeouts {
        request: limit(request)?,
        response: limit(response)?,
        idle: limit(idle)?,
    }))
}

fn accrual(annotations: &StringMap) -> Result<Option<FailureAccrual>, Bad> {
    let Some(mode) = annotations.get("balancer.linkerd.io/failure-accrual") else {
        return Ok(None);
    };
    let get = |key: &str| {
        let key = format!("balancer.linkerd.io/failure-accrual-consecutive-{key}");
        annotations.get(&key)
    };
    let alpha = |key: &str| {
        let key = format!("balancer.alpha.linkerd.io/failure-accrual-{key}");
        annotations.get(&key)
    };
    let parsed = |text: Option<&String>, default: f64| match text {
        Some(text) => text.parse::<f64>().map_err(|_| Bad),
        None => Ok(default),
    };
    let limit = |text: Option<&String>, default| match text {
        Some(text) => simple(text).map(|limit| limit.unwrap_or_default()),
        None => Ok(Duration::from_secs(default)),
    };
    let min = limit(get("min-penalty"), 1)?;
    let max = limit(get("max-penalty"), 60)?;
    let jitter = parsed(get("jitter-ratio"), 0.5)?;
    if min > max || max.is_zero() || !(0.0..=100.0).contains(&jitter) {
        return Err(Bad);
    }
    let max_failures: u32 = match get("max-failures") {
        Some(text) => text.parse().map_err(|_| Bad)?,
        None => 7,
    };
    let success_rate = match mode.as_str() {
        "consecutive" => None,
        "unified" => {
            let threshold = parsed(alpha("success-rate-threshold"), 0.8)?;
            let window = limit(alpha("success-rate-window"), 10)?;
            let min_requests = parsed(alpha("success-rate-min-requests"), 5.0)?;
            if !(0.0..=1.0).contains(&threshold) || !(0.0..=1e6).contains(&min_requests) {
                return Err(Bad);
            }
            if threshold > 0.0 && window < Duration::from_millis(10) {
                return Err(Bad);
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be within range"
            )]
            let min_requests = min_requests as u32;
            (threshold > 0.0).then_some(SuccessRate {
                threshold,
                window,
                min_requests,
            })
        }
        _ => return Err(Bad),
    };
    let respect_retry_after =
        mode == "unified" && alpha("honor-retry-after").is_some_and(|text| is_true(text));
    #[expect(clippy::cast_possible_truncation, reason = "a ratio of 0 to 100")]
    let jitter = jitter as f32;
    Ok(Some(FailureAccrual {
        max_consecutive_failures: max_failures,
        success_rate,
        backoff: Backoff {
            min,
            max,
            jitter,
            respect_retry_after,
        },
        min_ready_endpoints: 0,
    }))
}

fn load(annotations: &StringMap) -> Result<Load, Bad> {
    let get = |key: &str| annotations.get(&format!("balancer.alpha.linkerd.io/{key}"));
    if !get("penalize-failures").is_some_and(|text| is_true(text)) {
        return Ok(Load::default());
    }
    let limit = |text: Option<&String>, default| match text {
        Some(text) => simple(text).map(|limit| limit.unwrap_or_default()),
        None => Ok(Duration::from_secs(default)),
    };
    Ok(Load {
        penalty: Some(Penalty {
            penalty: limit(get("load-biaser-penalty"), 5)?,
            decay: Duration::from_secs(10),
            max_retry_after: limit(get("load-biaser-max-retry-after"), 300)?,
        }),
        ..Load::default()
    })
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// A whole number with `ms`, `s`, `m`, `h` or `d`, or `0`, which is none.
fn simple(text: &str) -> Result<Option<Duration>, Bad> {
    let text = text.trim();
    if text == "0" {
        return Ok(None);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or(Bad)?;
    let number: u64 = number.parse().map_err(|_| Bad)?;
    let scale = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(Bad),
    };
    let millis = number.checked_mul(scale).ok_or(Bad)?;
    Ok((millis > 0).then(|| Duration::from_millis(millis)))
}

/// A Go duration; zero is none.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    let seconds = go_duration_seconds(text).filter(|seconds| *seconds > 0.0)?;
    Duration::try_from_secs_f64(seconds).ok()
}
