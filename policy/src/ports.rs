//! Sets of ports, as annotations write them: `25,587,3000-3100`. Used by the index, by the controller's destination
//! service and by configuration.

use std::{fmt, str::FromStr};

/// A set of TCP ports 1..=65535, kept as sorted ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet {
    ranges: Vec<(u16, u16)>,
}

/// A port list that cannot be read; the text names the item and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{item}` is not a port list item: {reason}; write ports and ranges, for example `25,3000-3100`"
)]
pub struct InvalidPorts {
    /// The item that was refused.
    pub item: String,
    /// Why.
    pub reason: &'static str,
}

impl PortSet {
    /// The empty set.
    pub const fn empty() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Whether the set has no port.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `port` is in the set; logarithmic in the number of ranges.
    pub fn contains(&self, port: u16) -> bool {
        let after = self.ranges.partition_point(|&(low, _)| low <= port);
        after
            .checked_sub(1)
            .and_then(|i| self.ranges.get(i))
            .is_some_and(|&(_, high)| port <= high)
    }

    /// Adds one port; 0 is no port and is left out.
    pub fn insert(&mut self, port: u16) {
        self.insert_range(port, port);
    }

    /// Adds `low..=high`; 0 is no port and is left out.
    pub fn insert_range(&mut self, low: u16, high: u16) {
        let low = low.max(1);
        if high < low {
            return;
        }
        // Those that it touches become one with it; a list that somebody wrote may have thousands of others.
        let start = self
            .ranges
            .partition_point(|&(_, end)| end.saturating_add(1) < low);
        let end = self
            .ranges
            .partition_point(|&(begin, _)| begin <= high.saturating_add(1));
        let touched = self.ranges.get(start..end).unwrap_or_default();
        let low = touched.first().map_or(low, |&(begin, _)| begin.min(low));
        let high = touched.last().map_or(high, |&(_, end)| end.max(high));
        self.ranges.splice(start..end.max(start), [(low, high)]);
    }

    /// The ranges, ascending, both ends included.
    pub fn ranges(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.ranges.iter().copied()
    }

    /// Reads a list whose items may also be names, which `resolve` turns into ports (a name may stand for several).
    /// Items that cannot be read are returned and the others count: one typing error must not turn the rest off.
    pub fn parse_with_names(
        list: &str,
        mut resolve: impl FnMut(&str) -> Vec<u16>,
    ) -> (Self, Vec<InvalidPorts>) {
        let mut set = Self::empty();
        let mut errors = Vec::new();
        for item in list.split(',').map(str::trim).filter(|i| !i.is_empty()) {
            match parse_item(item) {
                Ok((low, high)) => set.insert_range(low, high),
                Err(error) if item.bytes().any(|b| b.is_ascii_alphabetic()) => {
                    let ports = resolve(item);
                    if ports.is_empty() {
                        errors.push(InvalidPorts {
                            reason: "no container declares a TCP port of this name",
                            ..error
                        });
                    }
                    ports.into_iter().for_each(|p| set.insert(p));
                }
                Err(error) => errors.push(error),
            }
        }
        (set, errors)
    }
}

fn parse_item(item: &str) -> Result<(u16, u16), InvalidPorts> {
    let refuse = |reason| InvalidPorts {
        item: item.chars().take(64).collect(),
        reason,
    };
    let number = |text: &str| -> Result<u16, InvalidPorts> {
        match text.trim().parse::<u16>() {
            Ok(0) => Err(refuse("port 0 does not exist")),
            Ok(port) => Ok(port),
            Err(_) => Err(refuse("not a number between 1 and 65535")),
        }
    };
    match item.split_once('-') {
        None => number(item).map(|port| (port, port)),
        Some((low, high)) => {
            let (low, high) = (number(low)?, number(high)?);
            if high < low {
                return Err(refuse("the range ends before it starts"));
            }
            Ok((low, high))
        }
    }
}

impl FromStr for PortSet {
    type Err = InvalidPorts;

    /// Numbers and ranges only; empty items are allowed, the first bad one is the error.
    fn from_str(list: &str) -> Result<Self, InvalidPorts> {
        let mut set = Self::empty();
        for item in list.split(',').map(str::trim).filter(|i| !i.is_empty()) {
            let (low, high) = parse_item(item)?;
            set.insert_range(low, high);
        }
        Ok(set)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (low, high)) in self.ranges().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if low == high {
                write!(f, "{comma}{low}")?;
            } else {
                write!(f, "{comma}{low}-{high}")?;
            }
        }
        Ok(())
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::empty();
        ports.into_iter().for_each(|p| set.insert(p));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_numbers_and_ranges_and_prints_them_merged() {
        let set: PortSet = " 25, 587 ,3000-3100,3101,".parse().unwrap();
        assert_eq!(set.to_string(), "25,587,3000-3101");
        assert!(set.contains(3050) && set.contains(25));
        assert!(!set.contains(26) && !set.contains(0) && !set.contains(3102));
    }

    #[test]
    fn a_bad_item_is_named_with_its_reason() {
        for (list, item) in [
            ("25,0", "0"),
            ("70000", "70000"),
            ("9-3", "9-3"),
            ("x", "x"),
        ] {
            let error = list.parse::<PortSet>().unwrap_err();
            assert_eq!(error.item, item);
            assert!(error.to_string().contains("for example"));
        }
    }

    #[test]
    fn names_are_resolved_and_a_bad_item_leaves_the_others_in_force() {
        let (set, errors) = PortSet::parse_with_names("25,mysql,nope,99999", |name| match name {
            "mysql" => vec![3306, 3307],
            _ => vec![],
        });
        assert_eq!(set.to_string(), "25,3306-3307");
        assert_eq!(errors.len(), 2);
    }

    proptest! {
        #[test]
        fn contains_exactly_what_was_put_in(ranges in proptest::collection::vec((1u16..300, 0u16..40), 0..12), port in 0u16..400) {
            let mut set = PortSet::empty();
            for &(low, length) in &ranges {
                set.insert_range(low, low + length);
            }
            let expected = ranges.iter().any(|&(low, length)| (low..=low + length).contains(&port));
            prop_assert_eq!(set.contains(port), expected);
            prop_assert_eq!(set.to_string().parse::<PortSet>().unwrap(), set);
        }
    }
}
