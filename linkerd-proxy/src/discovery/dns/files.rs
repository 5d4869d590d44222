//! What the system's files say of names: `resolv.conf` and `hosts`.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

/// Name servers that are asked, at most, as elsewhere.
const MAX_SERVERS: usize = 3;
/// How long one is waited for, at most: names that are looked up in vain hold up what asks.
const MAX_TIMEOUT: u64 = 5;
const MAX_ATTEMPTS: u64 = 5;
const MAX_DOTS: u64 = 15;

/// Whom to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) servers: Vec<IpAddr>,
    search: Vec<String>,
    dots: usize,
    pub(crate) timeout: Duration,
    pub(crate) attempts: usize,
}

impl Settings {
    /// Reads `resolv.conf`; what is not understood is left out.
    pub(crate) fn parse(text: &str) -> Self {
        let mut settings = Self {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(2),
            attempts: 2,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
                    settings.servers.extend(server);
                }
                Some("search" | "domain") => {
                    settings.search = words.map(|word| word.trim_matches('.').into()).collect();
                }
                Some("options") => words.for_each(|word| settings.option(word)),
                _ => {}
            }
        }
        settings.servers.truncate(MAX_SERVERS);
        if settings.servers.is_empty() {
            settings.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        settings
    }

    fn option(&mut self, word: &str) {
        let Some((name, value)) = word.split_once(':') else {
            return;
        };
        let Ok(value) = value.parse::<u64>() else {
            return;
        };
        let count = |max: u64| usize::try_from(value.min(max)).unwrap_or(1);
        match name {
            "ndots" => self.dots = count(MAX_DOTS),
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, MAX_TIMEOUT)),
            "attempts" => self.attempts = count(MAX_ATTEMPTS).max(1),
            _ => {}
        }
    }

    /// The names that may be meant by one, in the order in which they are asked for.
    pub(crate) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(whole) = name.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let suffixes = self.search.iter().filter(|suffix| !suffix.is_empty());
        let mut all: Vec<String> = suffixes.map(|suffix| format!("{name}.{suffix}")).collect();
        let first = if dots >= self.dots { 0 } else { all.len() };
        all.insert(first, name.to_owned());
        all
    }
}

/// The addresses that `hosts` has for a name.
pub(crate) fn hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else {
            continue;
        };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_resolv_conf_says_is_used_and_what_it_leaves_out_is_as_elsewhere() {
        let text = "# made by the kubelet\nsearch shop.svc.cluster.local svc.cluster.local.\nnameserver 10.96.0.10 ; first\nnameserver nonsense\nnameserver fd00::a\noptions ndots:5 timeout:1 attempts:9 rotate ndots:x\n";
        let settings = Settings::parse(text);
        let servers: Vec<String> = settings.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.96.0.10", "fd00::a"]);
        assert_eq!(settings.timeout, Duration::from_secs(1));
        assert_eq!(settings.attempts, 5, "within bounds");
        assert_eq!(
            settings.candidates("policy.linkerd"),
            [
                "policy.linkerd.shop.svc.cluster.local",
                "policy.linkerd.svc.cluster.local",
                "policy.linkerd"
            ]
        );
        assert_eq!(settings.candidates("policy.linkerd."), ["policy.linkerd"]);
        assert_eq!(settings.candidates("a.b.c.d.e.f")[0], "a.b.c.d.e.f");
        let empty = Settings::parse("");
        assert_eq!(empty.servers, [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(empty.candidates("policy"), ["policy"]);
    }

    #[test]
    fn hosts_has_addresses_for_names_in_any_case() {
        let text = "127.0.0.1 localhost\n10.1.2.3 Policy.linkerd policy # ours\nfe80::zz broken\n10.1.2.4 policy\n10.1.2.3 policy\n";
        let found = |name| -> Vec<String> {
            let all = hosts(text, name);
            all.iter().map(ToString::to_string).collect()
        };
        assert_eq!(found("policy.linkerd."), ["10.1.2.3"]);
        assert_eq!(found("POLICY"), ["10.1.2.3", "10.1.2.4"]);
        assert!(found("broken").is_empty());
        assert!(found("ours").is_empty());
    }
}
