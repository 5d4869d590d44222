//! Timeouts and retries that clients ask for, where a rule lets them. Source: `allow_l5d_request_headers`.

use super::Params;
use http::{HeaderMap, HeaderValue};
use linkerd_policy::outbound::{Backoff, RetryConditions, Timeouts};
use std::{ops::RangeInclusive, time::Duration};

/// Takes the headers out of a request and applies them over what policy says. Where they are not allowed they are
/// left alone. Values that cannot be read are dropped.
pub(crate) fn take(
    headers: &mut HeaderMap,
    is_allowed: bool,
    timeouts: &mut Timeouts,
    retry: &mut Option<Params>,
) {
    if !is_allowed {
        return;
    }
    let mut text = |name: &str| {
        let value = headers.remove(name)?;
        value.to_str().ok().map(|text| text.trim().to_owned())
    };
    let http = text("l5d-retry-http").and_then(|text| statuses(&text));
    let grpc = text("l5d-retry-grpc").and_then(|text| codes(&text));
    let limit = text("l5d-retry-limit").and_then(|text| text.parse().ok());
    let retry_timeout = text("l5d-retry-timeout").and_then(|text| duration(&text));
    let short = text("l5d-timeout").and_then(|text| duration(&text));
    let request = text("l5d-request-timeout").and_then(|text| duration(&text));
    let response = text("l5d-response-timeout").and_then(|text| duration(&text));
    if let Some(limit) = request.or(short) {
        timeouts.request = Some(limit);
    }
    if let Some(limit) = response {
        timeouts.response = Some(limit);
    }
    if retry.is_none() && (http.is_some() || grpc.is_some()) {
        *retry = Some(Params {
            max_retries: 1,
            max_request_bytes: 64 * 1024,
            conditions: RetryConditions::default(),
            timeout: None,
            backoff: Some(Backoff {
                min: Duration::from_millis(25),
                max: Duration::from_millis(250),
                jitter: 1.0,
                respect_retry_after: false,
            }),
        });
    }
    let Some(retry) = retry else {
        return;
    };
    if let Some(statuses) = http {
        retry.conditions.statuses = statuses;
    }
    if let Some(codes) = grpc {
        retry.conditions.grpc = codes;
    }
    if let Some(limit) = limit {
        retry.max_retries = limit;
    }
    if let Some(limit) = retry_timeout {
        retry.timeout = Some(limit);
    }
}

/// `503,500-504,5xx,gateway-error`. One item that cannot be read spoils the list.
pub(crate) fn statuses(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let status = |text: &str| {
        let is_status = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        let status: u16 = is_status.then(|| text.parse().ok()).flatten()?;
        (100..600).contains(&status).then_some(status)
    };
    text.split(',')
        .map(|item| match item {
            "5xx" => Some(500..=599),
            "gateway-error" => Some(502..=504),
            item => match item.split_once('-') {
                None => status(item).map(|status| status..=status),
                Some((start, end)) => {
                    let range = status(start)?..=status(end)?;
                    (!range.is_empty()).then_some(range)
                }
            },
        })
        .collect()
}

/// `cancelled,deadline-exceeded,internal,resource-exhausted,unavailable`.
pub(crate) fn codes(text: &str) -> Option<Vec<u16>> {
    text.split(',')
        .map(|item| {
            Some(match item {
                "cancelled" => 1,
                "deadline-exceeded" => 4,
                "resource-exhausted" => 8,
                "internal" => 13,
                "unavailable" => 14,
                _ => return None,
            })
        })
        .collect()
}

/// What a gRPC client gives the whole call, by `grpc-timeout`: up to eight digits and `H`, `M`, `S`, `m`, `u` or `n`.
/// Source: the gRPC protocol over HTTP/2. A value that cannot be read, or zero, says nothing.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = is_number.then(|| number.parse().ok()).flatten()?;
    let limit = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    (limit > Duration::ZERO).then_some(limit)
}

/// Tells the endpoint of another attempt what is left of the call's time.
pub(crate) fn set_grpc_timeout(headers: &mut HeaderMap, left: Duration) {
    let milliseconds = left.as_millis().max(1);
    let text = if milliseconds < 100_000_000 {
        format!("{milliseconds}m")
    } else {
        format!("{}S", left.as_secs().min(99_999_999))
    };
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// A whole number with `ms`, `s`, `m`, `h` or `d`. Zero is no limit.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    }?;
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn what_is_not_allowed_is_passed_on_and_changes_nothing() {
        let mut map = headers(&[("l5d-retry-http", "5xx"), ("l5d-timeout", "1s")]);
        let (mut timeouts, mut retry) = (Timeouts::default(), None);
        take(&mut map, false, &mut timeouts, &mut retry);
        assert_eq!(map.len(), 2);
        assert!(retry.is_none());
        take(&mut map, true, &mut timeouts, &mut retry);
        assert!(map.is_empty());
        assert_eq!(timeouts.request, Some(Duration::from_secs(1)));
        let retry = retry.unwrap();
        assert_eq!(
            (retry.max_retries, retry.conditions.statuses),
            (1, vec![500..=599])
        );
    }

    #[test]
    fn the_longer_name_wins_and_bad_values_are_dropped() {
        let mut map = headers(&[
            ("l5d-timeout", "1s"),
            ("l5d-request-timeout", "200ms"),
            ("l5d-response-timeout", "soon"),
            ("l5d-retry-grpc", "unavailable,nonsense"),
            ("l5d-retry-limit", "-1"),
        ]);
        let (mut timeouts, mut retry) = (Timeouts::default(), None);
        take(&mut map, true, &mut timeouts, &mut retry);
        assert!(map.is_empty());
        assert_eq!(timeouts.request, Some(Duration::from_millis(200)));
        assert_eq!((timeouts.response, retry.is_none()), (None, true));
    }

    #[test]
    fn what_a_grpc_client_waits_is_read_in_every_unit_and_told_anew() {
        let read = |text: &'static str| grpc_timeout(&headers(&[("grpc-timeout", text)]));
        for (text, limit) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("99999999S", Duration::from_secs(99_999_999)),
            ("250m", Duration::from_millis(250)),
            ("250u", Duration::from_micros(250)),
            ("250n", Duration::from_nanos(250)),
        ] {
            assert_eq!(read(text), Some(limit), "{text}");
        }
        for bad in ["", "S", "1", "0S", "-1S", "1s", "100000000S", "1 S", "é"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        for limit in [0, 1, 250, 99_999_999, 100_000_000, u64::MAX] {
            let limit = Duration::from_millis(limit);
            let mut map = headers(&[("grpc-timeout", "1S")]);
            set_grpc_timeout(&mut map, limit);
            let told = grpc_timeout(&map).unwrap();
            assert!(
                told <= limit.max(Duration::from_millis(1)),
                "{limit:?}: {told:?}"
            );
        }
    }

    #[test]
    fn conditions_are_read_in_every_form() {
        assert_eq!(
            statuses("503,500-504,5xx,gateway-error"),
            Some(vec![503..=503, 500..=504, 500..=599, 502..=504])
        );
        for bad in ["", "5xy", "99", "504-500", "600", "503, 504", "+50"] {
            assert_eq!(statuses(bad), None, "{bad}");
        }
        assert_eq!(codes("cancelled,unavailable"), Some(vec![1, 14]));
        assert_eq!(codes("ok"), None);
    }
}
