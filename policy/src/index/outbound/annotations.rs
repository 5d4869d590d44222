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

/// Annotations that belong together, of which one cannot be read.
pub(crate) struct Unreadable {
    /// What they are called together; on a parent none of them counts.
    pub(crate) what: &'static str,
    /// The annotations that are to blame, with their values.
    pub(crate) blamed: Vec<(String, String)>,
    /// What would be right.
    pub(crate) fix: &'static str,
}

/// What a parent's annotations say that cannot be read, and so counts for nothing.
pub(crate) fn unreadable(annotations: &StringMap) -> Vec<Unreadable> {
    type Reads = fn(&StringMap) -> bool;
    let found: [(&str, Reads, &str); 4] = [
        (
            "retry.linkerd.io/*",
            |all| retry(all).is_ok(),
            "`http`: `5xx`, `gateway-error`, statuses and ranges; `grpc`: names of codes; both between commas without \
             blanks; `limit`: a number; `timeout`: a whole number with its unit",
        ),
        (
            "timeout.linkerd.io/*",
            |all| timeouts(all).is_ok(),
            "write whole numbers with their units: ms, s, m, h or d",
        ),
        (
            "balancer.linkerd.io/failure-accrual*",
            |all| accrual(all).is_ok(),
            "`failure-accrual`: `consecutive` or `unified`; numbers; penalties are whole numbers with their units, the \
             shortest not above the longest",
        ),
        (
            "balancer.alpha.linkerd.io/load-biaser-*",
            |all| load(all).is_ok(),
            "write whole numbers with their units: ms, s, m, h or d",
        ),
    ];
    let bad = found
        .into_iter()
        .filter(|(_, reads, _)| !reads(annotations));
    bad.map(|(what, reads, fix)| {
        // Settings of a mode are read only beside it.
        let is_mode = |key: &str| key == MODE || key == PENALIZE;
        let fails_alone = |key: &&String| {
            let alone = annotations
                .iter()
                .filter(|(other, _)| other == key || is_mode(other));
            !reads(&alone.map(|(k, v)| (k.clone(), v.clone())).collect())
        };
        let mut blamed: Vec<_> = annotations.keys().filter(fails_alone).collect();
        if blamed.iter().any(|key| is_mode(key)) {
            blamed.retain(|key| is_mode(key));
        }
        let values = blamed.into_iter().filter_map(|key| {
            let value = annotations.get(key)?;
            Some((key.clone(), value.clone()))
        });
        Unreadable {
            what,
            blamed: values.collect(),
            fix,
        }
    })
    .collect()
}

/// Turns circuit breakers on.
const MODE: &str = "balancer.linkerd.io/failure-accrual";
/// Turns penalties of failures on.
const PENALIZE: &str = "balancer.alpha.linkerd.io/penalize-failures";

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
    let Some(mode) = annotations.get(MODE) else {
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
    if !annotations.get(PENALIZE).is_some_and(|text| is_true(text)) {
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

/// Whether a switch says yes; anything that is not known is no.
pub(crate) fn is_true(text: &str) -> bool {
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
