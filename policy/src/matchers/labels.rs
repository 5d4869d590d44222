//! A trie over the labels of dotted names, read from the right: `*.a.b` is found under `b`, then `a`.
//!
//! Used for DNS identity suffixes and for host suffixes. A look-up walks at most as many nodes as the longest
//! suffix has labels, whatever the number of suffixes.

use std::collections::HashMap;

/// Values by name suffix.
#[derive(Debug)]
pub(crate) struct LabelTrie<V> {
    nodes: Vec<Node<V>>,
}

#[derive(Debug)]
struct Node<V> {
    children: HashMap<Box<str>, usize>,
    value: Option<V>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self {
            children: HashMap::new(),
            value: None,
        }
    }
}

impl<V> Default for LabelTrie<V> {
    fn default() -> Self {
        Self { nodes: Vec::new() }
    }
}

impl<V> LabelTrie<V> {
    /// The value of the suffix whose labels, from the right, are `labels`; made if it is not there.
    pub(crate) fn entry<'a>(
        &mut self,
        labels: impl Iterator<Item = &'a str>,
    ) -> Option<&mut Option<V>> {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        for label in labels {
            let fresh = self.nodes.len();
            let node = self.nodes.get_mut(at)?;
            at = match node.children.get(label) {
                Some(next) => *next,
                None => {
                    node.children.insert(label.into(), fresh);
                    self.nodes.push(Node::default());
                    fresh
                }
            };
        }
        Some(&mut self.nodes.get_mut(at)?.value)
    }

    /// Shows every value whose suffix `name` is strictly below, the shortest suffix first.
    pub(crate) fn walk<'t>(&'t self, name: &str, mut found: impl FnMut(&'t V)) {
        let mut rest = name.rsplit('.');
        let mut at = 0;
        loop {
            let Some(node) = self.nodes.get(at) else {
                return;
            };
            // A further label is needed, so that `a.b` is not below the suffix `a.b`.
            let Some(label) = rest.next() else { return };
            if let Some(value) = &node.value {
                found(value);
            }
            match node.children.get(label) {
                Some(next) => at = *next,
                None => return,
            }
        }
    }

    /// Whether it holds no suffix.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Every value.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.nodes.iter_mut().filter_map(|node| node.value.as_mut())
    }

    /// Turns every value into another; the structure stays.
    pub(crate) fn map<W>(self, mut change: impl FnMut(V) -> W) -> LabelTrie<W> {
        LabelTrie {
            nodes: self
                .nodes
                .into_iter()
                .map(|node| Node {
                    children: node.children,
                    value: node.value.map(&mut change),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(suffixes: &[&str]) -> LabelTrie<String> {
        let mut trie = LabelTrie::default();
        for suffix in suffixes {
            *trie.entry(suffix.rsplit('.')).unwrap() = Some((*suffix).to_owned());
        }
        trie
    }

    fn found(trie: &LabelTrie<String>, name: &str) -> Vec<String> {
        let mut all = Vec::new();
        trie.walk(name, |suffix| all.push(suffix.clone()));
        all
    }

    #[test]
    fn a_name_is_below_each_of_its_suffixes_and_not_below_itself() {
        let trie = trie(&["b", "a.b", "x.a.b", "c"]);
        assert_eq!(found(&trie, "x.a.b"), ["b", "a.b"]);
        assert_eq!(found(&trie, "b"), [""; 0]);
        assert_eq!(found(&trie, "xa.b"), ["b"]);
        assert_eq!(found(&trie, ""), [""; 0]);
    }
}
