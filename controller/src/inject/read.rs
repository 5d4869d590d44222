//! What annotations say, read: each reader names what is wrong and what would be right.

use ipnet::IpNet;
use linkerd_policy::{manifest::go_duration_seconds, ports::PortSet};
use std::{net::IpAddr, time::Duration};

type Read<T> = Result<T, String>;

/// A TCP port.
pub(super) fn port(text: &str) -> Read<u16> {
    match text.trim().parse() {
        Ok(0) | Err(_) => Err("a port is wanted, 1 to 65535".to_owned()),
        Ok(port) => Ok(port),
    }
}

/// Ports and ranges; written as they were given.
pub(super) fn ports(text: &str) -> Read<String> {
    let set: PortSet = text
        .parse()
        .map_err(|error: linkerd_policy::ports::InvalidPorts| error.to_string())?;
    Ok(set.to_string())
}

/// A Go duration; zero is one.
pub(super) fn duration(text: &str) -> Read<Duration> {
    let seconds = go_duration_seconds(text.trim()).filter(|seconds| *seconds >= 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "a duration is wanted, for example 500ms, 10s or 1m30s".to_owned())
}

/// What Go takes for a boolean.
pub(super) fn boolean(text: &str) -> Read<bool> {
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("true or false is wanted".to_owned()),
    }
}

/// `enabled` or `disabled`; a boolean is understood too.
pub(super) fn enabled(text: &str) -> Read<bool> {
    match text.trim() {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        other => boolean(other).map_err(|_| "enabled or disabled is wanted".to_owned()),
    }
}

/// One of several words.
pub(super) fn one_of(text: &str, known: &[&str]) -> Read<String> {
    let text = text.trim();
    if known.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("known are {}", known.join(", ")))
}

/// A user or group.
pub(super) fn id(text: &str) -> Read<i64> {
    match text.trim().parse::<i64>() {
        Ok(id) if (0..=i64::from(u32::MAX)).contains(&id) => Ok(id),
        _ => Err("a number of a user or group is wanted".to_owned()),
    }
}

/// Networks, comma-separated; a bare address is one.
pub(super) fn networks(text: &str) -> Read<String> {
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    let networks = items.map(|item| {
        let bare = || item.parse::<IpAddr>().map(IpNet::from);
        item.parse::<IpNet>()
            .or_else(|_| bare())
            .map(|network| network.to_string())
            .map_err(|_| format!("`{item}` is no network; write for example 10.0.0.0/8,fd00::/8"))
    });
    Ok(networks.collect::<Read<Vec<_>>>()?.join(","))
}

/// A quantity of Kubernetes, as it was written.
pub(super) fn quantity(text: &str) -> Read<String> {
    amount(text).map(|_| text.trim().to_owned())
}

/// A quantity of Kubernetes, as a number.
pub(super) fn amount(text: &str) -> Read<f64> {
    let text = text.trim();
    let wrong = || "a quantity is wanted, for example 100m, 2 or 64Mi".to_owned();
    let end = text
        .bytes()
        .position(|byte| byte.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end).ok_or_else(wrong)?;
    let exponent = unit
        .strip_prefix(['e', 'E'])
        .and_then(|exponent| exponent.parse::<i32>().ok());
    let scale = match (unit, exponent) {
        (_, Some(exponent)) => 10_f64.powi(exponent),
        ("", _) => 1.0,
        ("n", _) => 1e-9,
        ("u", _) => 1e-6,
        ("m", _) => 1e-3,
        ("k", _) => 1e3,
        ("M", _) => 1e6,
        ("G", _) => 1e9,
        ("T", _) => 1e12,
        ("P", _) => 1e15,
        ("E", _) => 1e18,
        ("Ki", _) => f64::from(1 << 10),
        ("Mi", _) => f64::from(1 << 20),
        ("Gi", _) => f64::from(1 << 30),
        ("Ti", _) => 2_f64.powi(40),
        ("Pi", _) => 2_f64.powi(50),
        ("Ei", _) => 2_f64.powi(60),
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let amount = number * scale;
    if amount.is_finite() && amount >= 0.0 {
        Ok(amount)
    } else {
        Err(wrong())
    }
}

/// Whole cores that a quantity of CPU needs, at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped first"
)]
pub(super) fn cores(text: &str) -> Option<u32> {
    let amount = amount(text).ok()?;
    Some(amount.ceil().clamp(1.0, 1024.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, wanted) in [
            ("100m", 0.1),
            ("2", 2.0),
            ("1.5", 1.5),
            ("64Mi", 67_108_864.0),
            ("1e3", 1000.0),
            ("1E3", 1000.0),
            ("1E", 1e18),
        ] {
            assert!(
                (amount(text).unwrap() - wanted).abs() < wanted * 1e-9,
                "{text}"
            );
        }
        for text in ["", "m", "1x", "-1", "1 Mi", "NaN", "inf"] {
            assert!(amount(text).is_err(), "{text}");
        }
        assert_eq!(cores("100m"), Some(1));
        assert_eq!(cores("2500m"), Some(3));
    }

    #[test]
    fn networks_may_be_bare_addresses() {
        assert_eq!(
            networks("10.0.0.0/8, 10.1.2.3,fd00::/8").unwrap(),
            "10.0.0.0/8,10.1.2.3/32,fd00::/8"
        );
        assert!(networks("10.0.0.0/8,x").unwrap_err().contains("`x`"));
    }
}
