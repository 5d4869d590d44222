//! Values by suffix of dotted names: `a.b` is that of `x.a.b` and of `y.x.a.b`, not of `a.b` itself.
//!
//! Used for suffixes of DNS identities and of hosts. A flat table: at each dot of a name, from the right, what
//! follows is looked up if there is a suffix of that length at all. That is at most one look-up a label, however
//! many suffixes there are, and in practice one or two; a trie of labels would hash every label.

use std::collections::HashMap;

/// Lengths that are told apart; longer suffixes share the last.
const LENGTHS: usize = 256;

/// Values by name suffix.
#[derive(Debug)]
pub(crate) struct SuffixTable<V> {
    /// Which lengths occur.
    lengths: Box<[bool; LENGTHS]>,
    longest: usize,
    by_suffix: HashMap<Box<str>, V>,
}

impl<V> Default for SuffixTable<V> {
    fn default() -> Self {
        Self {
            lengths: Box::new([false; LENGTHS]),
            longest: 0,
            by_suffix: HashMap::new(),
        }
    }
}

impl<V> SuffixTable<V> {
    /// The value of a suffix, without its leading dot.
    pub(crate) fn entry(&mut self, suffix: &str) -> &mut V
    where
        V: Default,
    {
        if let Some(length) = self.lengths.get_mut(suffix.len().min(LENGTHS - 1)) {
            *length = true;
        }
        self.longest = self.longest.max(suffix.len());
        self.by_suffix.entry(suffix.into()).or_default()
    }

    /// Shows the value of every suffix that `name` is below, the shortest suffix first.
    pub(crate) fn walk<'t>(&'t self, name: &str, mut found: impl FnMut(&'t V)) {
        if self.by_suffix.is_empty() {
            return;
        }
        for (dot, _) in name.rmatch_indices('.') {
            let length = name.len() - dot - 1;
            if length > self.longest {
                return;
            }
            if self.lengths.get(length.min(LENGTHS - 1)) == Some(&true)
                && let Some(suffix) = name.get(dot + 1..)
                && let Some(value) = self.by_suffix.get(suffix)
            {
                found(value);
            }
        }
    }

    /// Whether it holds no suffix.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_suffix.is_empty()
    }

    /// Every value.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.by_suffix.values_mut()
    }

    /// Turns every value into another.
    pub(crate) fn map<W>(self, mut change: impl FnMut(V) -> W) -> SuffixTable<W> {
        let values = self.by_suffix.into_iter();
        SuffixTable {
            lengths: self.lengths,
            longest: self.longest,
            by_suffix: values
                .map(|(suffix, value)| (suffix, change(value)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(suffixes: &[String]) -> SuffixTable<Vec<String>> {
        let mut table = SuffixTable::<Vec<String>>::default();
        for suffix in suffixes {
            table.entry(suffix).push(suffix.clone());
        }
        table
    }

    fn found(table: &SuffixTable<Vec<String>>, name: &str) -> Vec<String> {
        let mut all = Vec::new();
        table.walk(name, |suffixes| all.extend(suffixes.iter().cloned()));
        all
    }

    #[test]
    fn a_name_is_below_each_of_its_suffixes_and_not_below_itself() {
        let table = table(&["b", "a.b", "x.a.b", "c"].map(str::to_owned));
        assert_eq!(found(&table, "x.a.b"), ["b", "a.b"]);
        assert_eq!(found(&table, "b"), [""; 0]);
        assert_eq!(found(&table, "xa.b"), ["b"]);
        assert_eq!(found(&table, ""), [""; 0]);
    }

    #[test]
    fn suffixes_longer_than_the_lengths_told_apart_are_found_too() {
        let long = "a".repeat(300);
        let longer = format!("b.{long}");
        let table = table(&[long.clone(), longer.clone()]);
        assert_eq!(found(&table, &format!("x.{longer}")), [long, longer]);
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_comparing_every_suffix(
            mut suffixes in proptest::collection::vec("[ab.]{0,4}", 0..6), name in "[ab.]{0,8}",
        ) {
            suffixes.sort_by_key(String::len);
            suffixes.dedup();
            let mut seen = std::collections::HashSet::new();
            suffixes.retain(|suffix| seen.insert(suffix.clone()));
            let wanted: Vec<String> =
                suffixes.iter().filter(|suffix| name.ends_with(&format!(".{suffix}"))).cloned().collect();
            prop_assert_eq!(found(&table(&suffixes), &name), wanted);
        }
    }
}
