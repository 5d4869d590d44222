//! Matches that no request ever reaches, because others come before them and take the same requests.
//!
//! The order is that of `compile::routes`, on both sides.

use crate::{
    resource::Key,
    server::{GrpcMatch, HttpMatch, PathMatch},
};
use std::{collections::HashMap, fmt::Debug};

/// A route whose matches are compared with those of others.
pub(super) struct Candidate<'a, M> {
    /// The route.
    pub(super) key: Key,
    /// Hosts it serves; none = all.
    pub(super) hosts: &'a [String],
    /// Matches of each rule.
    pub(super) rules: Vec<Vec<M>>,
}

/// A match that takes no request.
pub(super) struct Dead {
    /// Its route, rule and place there.
    pub(super) at: (usize, usize, usize),
    /// The route that takes what it matches.
    pub(super) winner: usize,
    /// The prefix that takes what its regular expression covers; else the winner matches the very same requests.
    pub(super) prefix: Option<String>,
}

/// What is compared of a match.
pub(super) trait Compared {
    /// The same for two matches that match the same requests.
    fn text(&self) -> String;

    /// The prefix that it matches, if it is one that counts as such.
    fn prefix(&self) -> Option<&str> {
        None
    }

    /// What every path begins with that its regular expression covers, if it has one.
    fn literal(&self) -> Option<String> {
        None
    }

    /// Whether all it asks for beside the path is asked for by `other` too.
    fn asks_no_more_than(&self, _other: &Self) -> bool {
        false
    }
}

fn sorted(list: impl Iterator<Item = impl Debug>) -> Vec<String> {
    let mut texts: Vec<String> = list.map(|each| format!("{each:?}")).collect();
    texts.sort();
    texts
}

impl Compared for HttpMatch {
    fn text(&self) -> String {
        let Self {
            path,
            headers,
            query,
            method,
        } = self;
        let (headers, query) = (sorted(headers.iter()), sorted(query.iter()));
        format!("{path:?} {method:?} {headers:?} {query:?}")
    }

    fn prefix(&self) -> Option<&str> {
        match &self.path {
            Some(PathMatch::Prefix(prefix)) => {
                let prefix = prefix.trim_end_matches('/');
                (!prefix.is_empty()).then_some(prefix)
            }
            _ => None,
        }
    }

    fn literal(&self) -> Option<String> {
        match &self.path {
            Some(PathMatch::Regex(pattern)) => Some(literal_start(pattern)),
            _ => None,
        }
    }

    fn asks_no_more_than(&self, other: &Self) -> bool {
        (self.method.is_none() || self.method == other.method)
            && self.headers.iter().all(|h| other.headers.contains(h))
            && self.query.iter().all(|q| other.query.contains(q))
    }
}

impl Compared for GrpcMatch {
    fn text(&self) -> String {
        let headers = sorted(self.headers.iter());
        format!("{} {} {headers:?}", self.service, self.method)
    }
}

/// The text that everything begins with that an expression covers; none if it has alternatives at the top.
fn literal_start(pattern: &str) -> String {
    let pattern = pattern.trim_start_matches('^');
    let group = pattern.find('(').unwrap_or(pattern.len());
    let has_alternatives = match pattern.find('|') {
        // An alternative within the only group, which ends the expression or is followed by more, changes nothing
        // before it; anything else is not looked into.
        Some(at) => at < group || pattern.matches('(').count() > 1 || after_group(pattern, at),
        None => false,
    };
    if has_alternatives {
        return String::new();
    }
    let special = |c: char| r"\.+*?()|[]{}^$".contains(c);
    let end = pattern.find(special).unwrap_or(pattern.len());
    let mut literal = pattern.get(..end).unwrap_or_default().to_owned();
    let follows = pattern.get(end..).and_then(|rest| rest.chars().next());
    if follows.is_some_and(|c| "*?{+".contains(c)) {
        literal.pop();
    }
    literal
}

fn after_group(pattern: &str, at: usize) -> bool {
    let close = pattern.find(')').unwrap_or(0);
    at > close || pattern.get(close..).is_some_and(|rest| rest.contains('|'))
}

/// The matches of routes, in their order, that take nothing.
pub(super) fn dead<M: Compared>(routes: &[Candidate<'_, M>]) -> Vec<Dead> {
    let mut same: HashMap<String, usize> = HashMap::new();
    let mut out = Vec::new();
    let prefixes = prefixes(routes);
    each(routes, |route, at, hosts, matched| {
        let text = matched.text();
        let keys: Vec<String> = hosts.iter().map(|host| format!("{host} {text}")).collect();
        let winners: Vec<usize> = keys.iter().filter_map(|k| same.get(k)).copied().collect();
        if winners.len() == hosts.len()
            && let Some(&winner) = winners.first()
        {
            out.push(Dead {
                at,
                winner,
                prefix: None,
            });
        } else if let Some((winner, prefix)) = by_prefix(&prefixes, hosts, matched) {
            out.push(Dead {
                at,
                winner,
                prefix: Some(prefix),
            });
        }
        for key in keys {
            same.entry(key).or_insert(route);
        }
    });
    out
}

/// Calls with every match: its route, its place, the route's hosts.
fn each<'a, M>(
    routes: &'a [Candidate<'_, M>],
    mut call: impl FnMut(usize, (usize, usize, usize), &[&'a str], &'a M),
) {
    for (r, route) in routes.iter().enumerate() {
        let hosts: Vec<&str> = match route.hosts {
            [] => vec![""],
            hosts => hosts.iter().map(String::as_str).collect(),
        };
        for (i, rule) in route.rules.iter().enumerate() {
            for (j, matched) in rule.iter().enumerate() {
                call(r, (r, i, j), &hosts, matched);
            }
        }
    }
}

type Prefixes<'a, M> = HashMap<(&'a str, &'a str), Vec<(usize, &'a M)>>;

/// Matches of prefixes by host and prefix. They come before regular expressions wherever they stand.
fn prefixes<'a, M: Compared>(routes: &'a [Candidate<'_, M>]) -> Prefixes<'a, M> {
    let mut out: Prefixes<'a, M> = HashMap::new();
    each(routes, |route, _, hosts, matched| {
        if let Some(prefix) = matched.prefix() {
            for host in hosts {
                let list = out.entry((*host, prefix)).or_default();
                list.push((route, matched));
            }
        }
    });
    out
}

/// The prefix, for each of the hosts, that takes all that a regular expression covers.
fn by_prefix<M: Compared>(
    prefixes: &Prefixes<'_, M>,
    hosts: &[&str],
    matched: &M,
) -> Option<(usize, String)> {
    let literal = matched.literal()?;
    let ends = literal.match_indices('/');
    let starts: Vec<&str> = ends.filter_map(|(at, _)| literal.get(..at)).collect();
    let of_host = |host: &&str| {
        starts.iter().find_map(|start| {
            let mut list = prefixes.get(&(*host, *start))?.iter();
            let found = list.find(|(_, each)| each.asks_no_more_than(matched));
            found.map(|(route, _)| (*route, (*start).to_owned()))
        })
    };
    let found: Vec<_> = hosts.iter().filter_map(of_host).collect();
    let all = found.len() == hosts.len();
    found.into_iter().next().filter(|_| all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_expression_begins_with_is_never_more_than_all_it_covers_begins_with() {
        for (pattern, literal) in [
            ("/api/v[0-9]+/.*", "/api/v"),
            ("^/api/.*", "/api/"),
            ("/api/?", "/api"),
            ("/apis*", "/api"),
            ("/a/(b|c)/d", "/a/"),
            ("/a/(b)|/c", ""),
            ("/a|/b", ""),
            ("/a/(b(c|d))", ""),
            ("(?i)/a/b", ""),
            ("/plain", "/plain"),
        ] {
            assert_eq!(literal_start(pattern), literal, "{pattern}");
        }
    }
}
