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
use std::{ops::RangeInclusive, str::FromStr, time::Duration};

/// What is routed: retries of the two are said in annotations of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requests {
    Http,
    Grpc,
}

/// What the annotations of an object say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    http_retry: Option<Retry>,
    grpc_retry: Option<Retry>,
    /// With zeros for what is said to have no limit.
    timeouts: Timeouts,
    pub(super) accrual: Option<FailureAccrual>,
    pub(super) load: Load,
}

/// A value that cannot be used.
struct Bad;

impl Settings {
    pub(super) fn of_service(annotations: &StringMap) -> Self {
        Self {
            load: load(annotations).unwrap_or_default(),
            ..Self::of_egress_network(annotations)
        }
    }

    /// What is sent to an EgressNetwork is not balanced, and its routes' Services have no penalties of its.
    pub(super) fn of_egress_network(annotations: &StringMap) -> Self {
        Self {
            http_retry: retry(annotations, Requests::Http).unwrap_or_default(),
            grpc_retry: retry(annotations, Requests::Grpc).unwrap_or_default(),
            timeouts: timeouts(annotations).unwrap_or_default(),
            accrual: accrual(annotations).unwrap_or_default(),
            load: Load::default(),
        }
    }

    /// `None`: a value cannot be used.
    pub(super) fn of_route(annotations: &StringMap, requests: Requests) -> Option<Self> {
        let retry = retry(annotations, requests).ok()?;
        let (http_retry, grpc_retry) = match requests {
            Requests::Http => (retry, None),
            Requests::Grpc => (None, retry),
        };
        Some(Self {
            http_retry,
            grpc_retry,
            timeouts: timeouts(annotations).ok()?,
            ..Self::default()
        })
    }

    /// What is retried: what a route says of it, else what its parent does.
    pub(super) fn retry(&self, requests: Requests, parent: &Self) -> Option<Retry> {
        let of = |settings: &Self| match requests {
            Requests::Http => settings.http_retry.clone(),
            Requests::Grpc => settings.grpc_retry.clone(),
        };
        of(self).or_else(|| of(parent))
    }

    /// Limits: those that a route's annotations and its rule (`of_rule`, a Go duration) say, else those of its parent.
    pub(super) fn timeouts(&self, of_rule: Option<&str>, parent: &Self) -> Timeouts {
        let mut said = self.timeouts;
        said.request = said.request.or_else(|| of_rule.and_then(go_duration));
        if said == Timeouts::default() {
            said = parent.timeouts;
        }
        let limit = |said: Option<Duration>| said.filter(|limit| !limit.is_zero());
        Timeouts {
            request: limit(said.request),
            response: limit(said.response),
            idle: limit(said.idle),
        }
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

/// What annotations say that cannot be read, and so counts for nothing. `route`: what the route that has them is for; else a
/// parent has them.
pub(crate) fn unreadable(annotations: &StringMap, route: Option<Requests>) -> Vec<Unreadable> {
    type Reads = fn(&StringMap) -> bool;
    let retries: Reads = match route {
        Some(Requests::Http) => |all| retry(all, Requests::Http).is_ok(),
        Some(Requests::Grpc) => |all| retry(all, Requests::Grpc).is_ok(),
        None => |all| {
            [Requests::Http, Requests::Grpc]
                .iter()
                .all(|each| retry(all, *each).is_ok())
        },
    };
    let found: [(&str, Reads, &str); 4] = [
        (
            "retry.linkerd.io/*",
            retries,
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
pub(crate) const PENALIZE: &str = "balancer.alpha.linkerd.io/penalize-failures";
/// Lets a response's `retry-after` say how long an endpoint is left out.
const HONOR: &str = "balancer.alpha.linkerd.io/failure-accrual-honor-retry-after";

/// What would be right in place of a value that cannot be read on a route.
pub(crate) fn fix_on_route(key: &str, value: &str, requests: Requests) -> Option<&'static str> {
    let (is_read, fix) = match (key, requests) {
        ("retry.linkerd.io/http", Requests::Http) => (
            statuses(value).is_ok(),
            "`5xx`, `gateway-error`, statuses and ranges, separated by commas without spaces",
        ),
        ("retry.linkerd.io/grpc", Requests::Grpc) => (
            codes(value).is_ok(),
            "cancelled, deadline-exceeded, internal, resource-exhausted, unavailable, separated by commas without spaces",
        ),
        ("retry.linkerd.io/limit", _) => (value.parse::<u16>().is_ok(), "a number up to 65535"),
        (
            "retry.linkerd.io/timeout"
            | "timeout.linkerd.io/request"
            | "timeout.linkerd.io/response"
            | "timeout.linkerd.io/idle",
            _,
        ) => (
            duration(value).is_ok(),
            "a whole number with its unit: ms, s, m, h or d",
        ),
        _ => return None,
    };
    (!is_read).then_some(fix)
}

/// Retries, if anything is said of them; what is 0 is as good as absent.
fn retry(annotations: &StringMap, requests: Requests) -> Result<Option<Retry>, Bad> {
    let get = |key: &str| annotations.get(&format!("retry.linkerd.io/{key}"));
    let limit: Option<u16> = match get("limit") {
        Some(text) => Some(text.parse().map_err(|_| Bad)?),
        None => None,
    };
    let limit = limit.filter(|limit| *limit > 0);
    let timeout = get("timeout").map(|text| duration(text)).transpose()?;
    let timeout = timeout.filter(|timeout| !timeout.is_zero());
    let conditions = match requests {
        Requests::Http => get("http").map(|text| statuses(text)),
        Requests::Grpc => get("grpc").map(|text| codes(text)),
    };
    let conditions = conditions.transpose()?;
    if limit.is_none() && timeout.is_none() && conditions.is_none() {
        return Ok(None);
    }
    Ok(Some(Retry {
        max_retries: limit.unwrap_or(1),
        max_request_bytes: 64 * 1024,
        conditions: conditions.unwrap_or_default(),
        timeout,
        backoff: Some(Backoff {
            min: Duration::from_millis(25),
            max: Duration::from_millis(250),
            jitter: 1.0,
            respect_retry_after: false,
        }),
    }))
}

fn statuses(list: &str) -> Result<RetryConditions, Bad> {
    let statuses: Option<_> = list.split(',').map(status).collect();
    Ok(RetryConditions {
        statuses: statuses.ok_or(Bad)?,
        grpc: Vec::new(),
    })
}

fn status(text: &str) -> Option<RangeInclusive<u16>> {
    let one = |text: &str| {
        let status: u16 = text.parse().ok()?;
        (100..=599).contains(&status).then_some(status)
    };
    match text.to_ascii_lowercase().as_str() {
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

fn codes(list: &str) -> Result<RetryConditions, Bad> {
    let codes: Option<_> = list.split(',').map(code).collect();
    Ok(RetryConditions {
        statuses: Vec::new(),
        grpc: codes.ok_or(Bad)?,
    })
}

fn code(text: &str) -> Option<u16> {
    Some(match text.to_ascii_lowercase().as_str() {
        "cancelled" => 1,
        "deadline-exceeded" => 4,
        "resource-exhausted" => 8,
        "internal" => 13,
        "unavailable" => 14,
        _ => return None,
    })
}

fn timeouts(annotations: &StringMap) -> Result<Timeouts, Bad> {
    let get = |key: &str| {
        let said = annotations.get(&format!("timeout.linkerd.io/{key}"));
        said.map(|text| duration(text)).transpose()
    };
    Ok(Timeouts {
        request: get("request")?,
        response: get("response")?,
        idle: get("idle")?,
    })
}

fn accrual(annotations: &StringMap) -> Result<Option<FailureAccrual>, Bad> {
    let Some(mode) = annotations.get(MODE) else {
        return Ok(None);
    };
    let get = |key: &str| {
        let key = format!("balancer.linkerd.io/failure-accrual-consecutive-{key}");
        annotations.get(&key)
    };
    let min = duration_or(get("min-penalty"), 1)?;
    let max = duration_or(get("max-penalty"), 60)?;
    let jitter: f32 = parsed_or(get("jitter-ratio"), 0.5)?;
    if min > max || max.is_zero() || !(0.0..=100.0).contains(&jitter) {
        return Err(Bad);
    }
    let max_consecutive_failures = parsed_or(get("max-failures"), 7)?;
    let (success_rate, respect_retry_after) = match mode.as_str() {
        "consecutive" => (None, false),
        "unified" => (
            Some(success_rate(annotations)?),
            annotations.get(HONOR).is_some_and(|text| is_true(text)),
        ),
        _ => return Err(Bad),
    };
    Ok(Some(FailureAccrual {
        max_consecutive_failures,
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

/// With a threshold of 0 nothing trips by its rate; clients are told all the same, since it is another mode.
fn success_rate(annotations: &StringMap) -> Result<SuccessRate, Bad> {
    let get = |key: &str| {
        let key = format!("balancer.alpha.linkerd.io/failure-accrual-success-rate-{key}");
        annotations.get(&key)
    };
    let threshold: f64 = parsed_or(get("threshold"), 0.8)?;
    let window = duration_or(get("window"), 10)?;
    let min_requests: u32 = parsed_or(get("min-requests"), 5)?;
    if !(0.0..=1.0).contains(&threshold) || window.is_zero() {
        return Err(Bad);
    }
    let is_off = threshold == 0.0;
    if !is_off && (window < Duration::from_millis(10) || min_requests > 1_000_000) {
        return Err(Bad);
    }
    Ok(SuccessRate {
        threshold,
        window,
        min_requests,
    })
}

fn load(annotations: &StringMap) -> Result<Load, Bad> {
    if !annotations.get(PENALIZE).is_some_and(|text| is_true(text)) {
        return Ok(Load::default());
    }
    let get = |key: &str| annotations.get(&format!("balancer.alpha.linkerd.io/load-biaser-{key}"));
    let penalty = duration_or(get("penalty"), 5)?;
    // Proxies count it in milliseconds, in 32 bits.
    u32::try_from(penalty.as_millis()).map_err(|_| Bad)?;
    Ok(Load {
        penalty: Some(Penalty {
            penalty,
            decay: Duration::from_secs(10),
            max_retry_after: duration_or(get("max-retry-after"), 300)?,
        }),
        ..Load::default()
    })
}

/// Words of a switch.
const NO: [&str; 6] = ["0", "f", "F", "false", "FALSE", "False"];
const YES: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];

/// Whether a switch says yes; anything that is not known is no.
pub(crate) fn is_true(text: &str) -> bool {
    YES.contains(&text.trim())
}

/// Whether a switch says anything that is known.
pub(crate) fn is_switch(text: &str) -> bool {
    is_true(text) || NO.contains(&text.trim())
}

fn parsed_or<T: FromStr>(text: Option<&String>, default: T) -> Result<T, Bad> {
    text.map_or(Ok(default), |text| text.trim().parse().map_err(|_| Bad))
}

fn duration_or(text: Option<&String>, seconds: u64) -> Result<Duration, Bad> {
    match text {
        Some(text) => duration(text),
        None => Ok(Duration::from_secs(seconds)),
    }
}

/// A whole number with `ms`, `s`, `m`, `h` or `d`; zero needs none.
fn duration(text: &str) -> Result<Duration, Bad> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or(Bad)?;
    let number: u64 = number.parse().map_err(|_| Bad)?;
    let scale = match unit {
        "" if number == 0 => 1,
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(Bad),
    };
    let millis = number.checked_mul(scale).ok_or(Bad)?;
    Ok(Duration::from_millis(millis))
}

/// A Go duration that is not negative.
fn go_duration(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(go_duration_seconds(text)?).ok()
}
