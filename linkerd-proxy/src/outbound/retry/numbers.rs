//! What became of the requests of each route, for people: `/retries`.
//!
//! Read from the series themselves, so that it is what the page of metrics says: a route that is idle stays for as long
//! as its series do, and routes for whose series there was no room are one row together.

use super::{
    Reason, Suppressed,
    metrics::{FATES, RetryFamilies, UNROUTED, Unrouted},
};
use linkerd_metrics::Labels;
use serde::Serialize;
use std::{borrow::Cow, collections::BTreeMap};

/// What the value of a label is that there was no room for.
const OTHER: &str = "other";

/// What became of the requests of one route, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RouteNumbers {
    pub(crate) parent: String,
    pub(crate) route: String,
    /// Requests of applications.
    pub(crate) requests: u64,
    /// Attempts after the first.
    pub(crate) retries: u64,
    /// Requests that a retry helped.
    pub(crate) recovered: u64,
    /// Requests that no retry helped.
    pub(crate) gave_up: u64,
    /// Retries that the budget has left.
    pub(crate) budget: Option<u64>,
    pub(crate) reasons: Vec<(&'static str, u64)>,
    pub(crate) suppressed: Vec<(&'static str, u64)>,
    pub(crate) fates: Vec<(&'static str, u64)>,
}

impl RouteNumbers {
    fn new(parent: String, route: String) -> Self {
        let zeros = |names: &[&'static str]| names.iter().map(|name| (*name, 0)).collect();
        Self {
            parent,
            route,
            requests: 0,
            retries: 0,
            recovered: 0,
            gave_up: 0,
            budget: None,
            reasons: zeros(&Reason::LABELS),
            suppressed: zeros(&Suppressed::LABELS),
            fates: zeros(&FATES),
        }
    }

    /// What became of the requests of the whole proxy. Budgets belong to routes, and are not added up.
    pub(crate) fn sum(routes: &[Self]) -> Self {
        let total = |number: fn(&Self) -> u64| routes.iter().map(number).sum();
        let counts = |list: fn(&Self) -> &[(&'static str, u64)]| {
            let mut sums = BTreeMap::new();
            for (name, count) in routes.iter().flat_map(list) {
                *sums.entry(*name).or_insert(0) += count;
            }
            sums.into_iter().collect()
        };
        Self {
            parent: "all".to_owned(),
            route: String::new(),
            requests: total(|route| route.requests),
            retries: total(|route| route.retries),
            recovered: total(|route| route.recovered),
            gave_up: total(|route| route.gave_up),
            budget: None,
            reasons: counts(|route| &route.reasons),
            suppressed: counts(|route| &route.suppressed),
            fates: counts(|route| &route.fates),
        }
    }

    /// Retries among all attempts.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(crate) fn share(&self) -> f64 {
        match self.requests + self.retries {
            0 => 0.0,
            all => self.retries as f64 / all as f64,
        }
    }
}

/// Rows by parent and route.
#[derive(Default)]
struct Rows(BTreeMap<(String, String), RouteNumbers>);

impl Rows {
    /// The row that a series belongs to.
    fn of(&mut self, labels: &Labels) -> &mut RouteNumbers {
        let names = (named(labels, "parent"), named(labels, "route"));
        let new = || RouteNumbers::new(names.0.clone(), names.1.clone());
        self.0.entry(names.clone()).or_insert_with(new)
    }
}

/// The value of a label.
fn value<'l>(labels: &'l Labels, name: &str) -> Cow<'l, str> {
    let found = labels.iter().find(|(key, _)| *key == name);
    found.map_or(Cow::Borrowed(""), |(_, value)| value)
}

/// `Service.shop.web:80`, `default.http`; `other` where there was no room for the name.
fn named(labels: &Labels, prefix: &str) -> String {
    let part = |name: &str| value(labels, &format!("{prefix}_{name}"));
    let (kind, namespace, name, port) =
        (part("kind"), part("namespace"), part("name"), part("port"));
    if [&kind, &namespace, &name]
        .iter()
        .all(|part| **part == OTHER)
    {
        return OTHER.to_owned();
    }
    let mut text = kind.into_owned();
    for (separator, part) in [(".", namespace), (".", name), (":", port)] {
        if !part.is_empty() {
            text.push_str(separator);
            text.push_str(&part);
        }
    }
    text
}

/// Adds to the count of a value of a closed set, or to that of those for which there was no room.
fn add(counts: &mut Vec<(&'static str, u64)>, name: &str, count: u64) {
    match counts.iter_mut().find(|(known, _)| *known == name) {
        Some((_, sum)) => *sum += count,
        None => counts.push((OTHER, count)),
    }
}

impl RetryFamilies {
    /// What became of the requests of every route that there are series of.
    pub(crate) fn numbers(&self) -> Vec<RouteNumbers> {
        let mut rows = Rows::default();
        self.fates.each(|labels, count| {
            let row = rows.of(labels);
            row.requests += count;
            let fate = value(labels, "fate");
            let unrouted = Unrouted::LABELS.into_iter().find(|known| *known == fate);
            if let Some(fate) = unrouted.filter(|fate| !FATES.contains(fate)) {
                row.fates.push((fate, count));
            } else {
                add(&mut row.fates, &fate, count);
            }
        });
        self.retries.each(|labels, count| {
            let row = rows.of(labels);
            row.retries += count;
            add(&mut row.reasons, &value(labels, "reason"), count);
        });
        self.suppressed.each(|labels, count| {
            let row = rows.of(labels);
            add(&mut row.suppressed, &value(labels, "reason"), count);
        });
        self.retried.each(|labels, count| {
            let row = rows.of(labels);
            match &*value(labels, "outcome") {
                "recovered" => row.recovered += count,
                _ => row.gave_up += count,
            }
        });
        for (labels, left) in self.budgets_left() {
            let names = (named(&labels, "parent"), named(&labels, "route"));
            if let Some(row) = rows.0.get_mut(&names) {
                row.budget = Some(left);
            }
        }
        // Most proxies have no such requests, and their series are there all the same.
        let nowhere = format!("default.{UNROUTED}");
        let shown = |row: &RouteNumbers| row.parent != nowhere || row.requests > 0;
        rows.0.into_values().filter(shown).collect()
    }

    /// How many routes were idle for so long that their series are gone, and their numbers with them.
    pub(crate) fn forgotten(&self) -> u64 {
        let of_a_route = u64::try_from(FATES.len()).unwrap_or(1);
        self.fates.evicted().div_ceil(of_a_route)
    }
}
