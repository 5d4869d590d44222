//! Texts: variables of the environment, headers, files of names.

use http::{HeaderMap, HeaderName, HeaderValue};
use linkerd_policy::ports::PortSet;
use linkerd_proxy::{config::Config, fuzzing};
use std::{collections::HashMap, time::Duration};

/// What the injector sets at the least.
const MINIMAL: [(&str, &str); 9] = [
    ("POLICY_SVC_ADDR", "localhost.:8090"),
    ("POLICY_WORKLOAD", r#"{"ns":"shop","pod":"web"}"#),
    ("INBOUND_DEFAULT_POLICY", "all-unauthenticated"),
    ("DESTINATION_SVC_ADDR", "127.0.0.1:8086"),
    ("IDENTITY_SVC_ADDR", "127.0.0.1:8080"),
    ("IDENTITY_DIR", "/tmp"),
    (
        "IDENTITY_TOKEN_FILE",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ),
    ("IDENTITY_TRUST_ANCHORS", "-----BEGIN CERTIFICATE-----"),
    (
        "IDENTITY_LOCAL_NAME",
        "web.shop.serviceaccount.identity.linkerd.cluster.local",
    ),
];

/// Lines of `NAME=value`, over what the injector sets.
pub fn variables(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut all: HashMap<&str, &str> = MINIMAL.into();
    all.extend(text.lines().filter_map(|line| line.split_once('=')));
    let get = |name: &str| {
        let short = name.strip_prefix("LINKERD2_PROXY_")?;
        all.get(short).map(|value| (*value).to_owned())
    };
    let config = Config::from_vars(get);
    if let Some(value) = all.get("INBOUND_DETECT_TIMEOUT")
        && let Ok(config) = &config
    {
        let read = config.inbound.detect_timeout;
        assert_eq!(Some(read), duration(value.trim()), "{value:?}");
    }
    // The lists that Kubernetes' annotations have, too.
    for value in all.values() {
        let (ports, errors) = PortSet::parse_with_names(value, |_| vec![4242]);
        for (low, high) in ports.ranges() {
            assert!(low >= 1 && low <= high);
            assert!(ports.contains(low) && ports.contains(high));
        }
        assert!(errors.len() <= value.len());
        fuzzing::names(&text, value);
    }
}

/// A duration, read literally.
fn duration(text: &str) -> Option<Duration> {
    if text.is_empty() {
        // As if it were not set.
        return Some(Duration::from_secs(10));
    }
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86_400),
        "" if number == 0 => Some(Duration::ZERO),
        _ => None,
    }
}

/// Lines of `name: value`: what clients and servers say of limits, retries and statuses.
pub fn headers(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(64) {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let name = HeaderName::from_bytes(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let given = headers.get("grpc-timeout").cloned();
    let asked = fuzzing::asked(&mut headers);
    let given = given.as_ref().and_then(|value| value.to_str().ok());
    assert_eq!(
        asked.grpc_timeout,
        given.and_then(grpc_timeout),
        "{given:?}"
    );
    if let Some(left) = asked.grpc_timeout {
        // What an endpoint is told is what is left, in whole units.
        let told = headers
            .get("grpc-timeout")
            .and_then(|value| value.to_str().ok());
        let told = told.and_then(grpc_timeout).unwrap_or_default();
        let rough = if left < Duration::from_secs(100_000) {
            1
        } else {
            1000
        };
        assert!(
            told <= left.max(Duration::from_millis(1)),
            "{told:?} of {left:?}"
        );
        let lost = left.saturating_sub(told);
        let is_near = lost < Duration::from_millis(rough) || left.as_secs() > 99_999_999;
        assert!(is_near, "{told:?} of {left:?}");
    }
    let is_status =
        |(low, high): &(u16, u16)| (100..600).contains(low) && low <= high && *high < 600;
    assert!(asked.statuses.iter().all(is_status), "{asked:?}");
    assert!(asked.codes.iter().all(|code| *code <= 16), "{asked:?}");
    assert!(
        asked
            .pause
            .is_none_or(|pause| pause <= Duration::from_millis(500)),
        "{asked:?}"
    );
    let text = String::from_utf8_lossy(input);
    let (message, header) = fuzzing::texts(&text);
    assert!(message.is_some_and(|message| message.to_str().is_ok()));
    assert!(header.is_some());
}

/// Up to eight digits and a unit, read literally; 0 says nothing.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_short = (1..=8).contains(&digits.len());
    if !is_short || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let nanos = match unit {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "S" => 1_000_000_000,
        "M" => 60_000_000_000,
        "H" => 3_600_000_000_000,
        _ => return None,
    };
    let number: u128 = digits.parse().ok()?;
    let all: u128 = number * nanos;
    let seconds = u64::try_from(all / 1_000_000_000).ok()?;
    let rest = u32::try_from(all % 1_000_000_000).ok()?;
    (all > 0).then(|| Duration::new(seconds, rest))
}
