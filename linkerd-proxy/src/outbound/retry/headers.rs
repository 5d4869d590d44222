//! Timeouts and retries that clients ask for, where a rule lets them. Source: `allow_l5d_request_headers`.

use super::Params;
use http::HeaderMap;
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
