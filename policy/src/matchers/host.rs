//! Hosts of requests: which routes serve one, the most specific first.

use super::{identity::lower, suffixes::SuffixTable};
use crate::server::HostMatch;
use std::{borrow::Cow, collections::HashMap};

/// Values by host pattern.
#[derive(Debug)]
pub(crate) struct HostTable<V> {
    none: Option<V>,
    /// Of `*`, a suffix without labels.
    any: Option<V>,
    exact: HashMap<Box<str>, V>,
    suffixes: SuffixTable<V>,
}

impl<V> Default for HostTable<V> {
    fn default() -> Self {
        Self {
            none: None,
            any: None,
            exact: HashMap::new(),
            suffixes: SuffixTable::default(),
        }
    }
}

impl<V: Default> HostTable<V> {
    /// The value of a pattern; `None` is that of routes that name no host.
    pub(crate) fn entry(&mut self, pattern: Option<&HostMatch>) -> &mut V {
        match pattern {
            None => self.none.get_or_insert_default(),
            Some(HostMatch::Exact(host)) => self.exact.entry(normal(host).into()).or_default(),
            Some(HostMatch::Suffix(labels)) if labels.is_empty() => {
                self.any.get_or_insert_default()
            }
            Some(HostMatch::Suffix(labels)) => {
                let reading: Vec<&str> = labels.iter().rev().map(String::as_str).collect();
                let text = reading.join(".").to_ascii_lowercase();
                self.suffixes.entry(text.trim_end_matches('.'))
            }
        }
    }
}

impl<V> HostTable<V> {
    /// The first answer among the patterns that take `authority`: the exact host, then suffixes from the longest,
    /// then what serves every host.
    pub(crate) fn find<'t, T>(
        &'t self,
        authority: Option<&str>,
        mut answer: impl FnMut(&'t V) -> Option<T>,
    ) -> Option<T> {
        // Without patterns the host need not be read at all.
        if self.has_patterns()
            && let Some(host) = authority.map(normal).filter(|host| !host.is_empty())
        {
            if let Some(found) = self.exact.get(host.as_ref()).and_then(&mut answer) {
                return Some(found);
            }
            let mut suffixes = Vec::new();
            self.suffixes.walk(&host, |value| suffixes.push(value));
            if let Some(found) = suffixes.into_iter().rev().find_map(&mut answer) {
                return Some(found);
            }
            if let Some(found) = self.any.as_ref().and_then(&mut answer) {
                return Some(found);
            }
        }
        self.none.as_ref().and_then(answer)
    }

    fn has_patterns(&self) -> bool {
        self.any.is_some() || !self.exact.is_empty() || !self.suffixes.is_empty()
    }

    /// Every value, to finish them after the last entry.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.none
            .iter_mut()
            .chain(self.any.iter_mut())
            .chain(self.exact.values_mut())
            .chain(self.suffixes.values_mut())
    }
}

/// A host for comparison: without user information, port and trailing dot, in lower case.
pub(crate) fn normal(authority: &str) -> Cow<'_, str> {
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let host = match host.find(']') {
        // An IPv6 literal: its own colons are not the port's.
        Some(close) if host.starts_with('[') => host.get(..=close).unwrap_or(host),
        _ => host.rsplit_once(':').map_or(host, |(host, _)| host),
    };
    lower(host.strip_suffix('.').unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_case_port_and_trailing_dot() {
        for authority in [
            "a.example",
            "A.Example",
            "a.example.",
            "A.EXAMPLE.:8080",
            "a.example:80",
            "u:p@a.example",
        ] {
            assert_eq!(normal(authority), "a.example", "{authority}");
        }
        assert_eq!(normal("[::1]:80"), "[::1]");
        assert_eq!(normal("[::1]"), "[::1]");
        assert_eq!(normal(""), "");
    }

    #[test]
    fn exact_hosts_come_before_long_suffixes_before_short_ones_before_all() {
        let mut table = HostTable::<Vec<&str>>::default();
        let suffix =
            |text: &str| HostMatch::Suffix(text.split('.').rev().map(str::to_owned).collect());
        table.entry(None).push("none");
        table.entry(Some(&HostMatch::Suffix(Vec::new()))).push("*");
        table.entry(Some(&suffix("example"))).push("*.example");
        table
            .entry(Some(&suffix("Shop.example")))
            .push("*.shop.example");
        table
            .entry(Some(&HostMatch::Exact("Web.shop.example".into())))
            .push("web");
        let all = |host: &str| {
            let mut all = Vec::new();
            table.find(Some(host), |names| -> Option<()> {
                all.extend(names.iter().copied());
                None
            });
            all
        };
        assert_eq!(
            all("web.SHOP.example:80"),
            ["web", "*.shop.example", "*.example", "*", "none"]
        );
        assert_eq!(all("shop.example."), ["*.example", "*", "none"]);
        assert_eq!(all("example"), ["*", "none"]);
        assert_eq!(all(""), ["none"]);
    }
}
