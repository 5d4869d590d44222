//! Values by suffix of dotted names: `a.b` is that of `x.a.b` and of `y.x.a.b`, not of `a.b` itself.
//!
//! Used for suffixes of DNS identities and of hosts. A flat table: for each length that a suffix has, if the name has
//! a dot there, what follows is looked up. That is at most one look-up a label of the name, however many suffixes
//! there are, and in practice one or two; a trie of labels would hash every label.

use std::collections::HashMap;

/// Values by name suffix.
#[derive(Debug)]
pub(crate) struct SuffixTable<V> {
    /// Lengths that occur, shortest first.
    lengths: Vec<usize>,
    by_suffix: HashMap<Box<str>, V>,
}

impl<V> Default for SuffixTable<V> {
    fn default() -> Self {
        Self {
            lengths: Vec::new(),
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
        if let Err(at) = self.lengths.binary_search(&suffix.len()) {
            self.lengths.insert(at, suffix.len());
        }
        self.by_suffix.entry(suffix.into()).or_default()
    }

    /// Shows the value of every suffix that `name` is below, the shortest suffix first.
    pub(crate) fn walk<'t>(&'t self, name: &str, mut found: impl FnMut(&'t V)) {
        for length in &self.lengths {
            let Some(dot) = name.len().checked_sub(length + 1) else {
                return;
            };
            if name.as_bytes().get(dot) == Some(&b'.')
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
