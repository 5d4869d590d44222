//! Client identities: which entries of lists of identities and suffixes name one.
//!
//! DNS-like identities are compared without case and may match suffixes; URIs (SPIFFE) are compared byte for byte
//! as a whole, and of the suffixes only the empty one, which stands for "any identity", takes them.

use super::suffixes::SuffixTable;
use crate::decide::PeerId;
use std::{borrow::Cow, collections::HashMap};

/// Values by identity.
#[derive(Debug)]
pub(crate) struct IdentityTable<V> {
    /// Of the empty suffix.
    any: Option<V>,
    dns: HashMap<Box<str>, V>,
    uri: HashMap<Box<str>, V>,
    suffixes: SuffixTable<V>,
}

impl<V> Default for IdentityTable<V> {
    fn default() -> Self {
        Self {
            any: None,
            dns: HashMap::new(),
            uri: HashMap::new(),
            suffixes: SuffixTable::default(),
        }
    }
}

impl<V> IdentityTable<V> {
    /// The value of an identity as a policy writes it.
    pub(crate) fn exact(&mut self, identity: &str) -> &mut V
    where
        V: Default,
    {
        let (map, name) = if is_uri(identity) {
            (&mut self.uri, Cow::Borrowed(identity))
        } else {
            (&mut self.dns, lower(identity))
        };
        map.entry(name.into()).or_default()
    }

    /// The value of a suffix, given as parts in reading order.
    pub(crate) fn suffix(&mut self, parts: &[String]) -> &mut V
    where
        V: Default,
    {
        if parts.is_empty() {
            return self.any.get_or_insert_default();
        }
        // Parts may hold dots themselves; what counts is the text they make.
        self.suffixes.entry(&parts.join(".").to_ascii_lowercase())
    }

    /// Shows the value of every entry that names `identity`.
    pub(crate) fn walk<'t>(&'t self, identity: PeerId<'_>, mut found: impl FnMut(&'t V)) {
        if let Some(value) = &self.any {
            found(value);
        }
        match identity {
            PeerId::Uri(uri) => {
                if let Some(value) = self.uri.get(uri) {
                    found(value);
                }
            }
            PeerId::Dns(name) => {
                let name = lower(name);
                if let Some(value) = self.dns.get(name.as_ref()) {
                    found(value);
                }
                self.suffixes.walk(&name, found);
            }
        }
    }

    /// Turns every value into another.
    pub(crate) fn map<W>(self, mut change: impl FnMut(V) -> W) -> IdentityTable<W> {
        IdentityTable {
            any: self.any.map(&mut change),
            dns: each(self.dns, &mut change),
            uri: each(self.uri, &mut change),
            suffixes: self.suffixes.map(change),
        }
    }
}

fn each<V, W>(map: HashMap<Box<str>, V>, mut change: impl FnMut(V) -> W) -> HashMap<Box<str>, W> {
    map.into_iter()
        .map(|(name, value)| (name, change(value)))
        .collect()
}

/// Whether an identity in a policy is a URI rather than a DNS-like name.
pub(crate) fn is_uri(identity: &str) -> bool {
    identity.contains("://")
}

/// The form in which an identity of a policy or a peer is compared.
pub(crate) fn normal(identity: &str) -> Cow<'_, str> {
    if is_uri(identity) {
        Cow::Borrowed(identity)
    } else {
        lower(identity)
    }
}

/// Lower case, without an allocation if it is already.
pub(crate) fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(exact: &[&str], suffixes: &[&[&str]]) -> IdentityTable<Vec<String>> {
        let mut table = IdentityTable::<Vec<String>>::default();
        for name in exact {
            table.exact(name).push((*name).to_owned());
        }
        for parts in suffixes {
            let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            table.suffix(&parts).push(format!("*.{}", parts.join(".")));
        }
        table
    }

    fn found(table: &IdentityTable<Vec<String>>, identity: PeerId<'_>) -> Vec<String> {
        let mut all = Vec::new();
        table.walk(identity, |names| all.extend(names.iter().cloned()));
        all
    }

    #[test]
    fn dns_identities_are_compared_without_case_and_uris_byte_for_byte() {
        let table = table(&["Web.Shop.ID", "spiffe://Root/ns/a"], &[]);
        assert_eq!(found(&table, PeerId::Dns("web.shop.id")), ["Web.Shop.ID"]);
        assert_eq!(found(&table, PeerId::Dns("WEB.shop.id")), ["Web.Shop.ID"]);
        assert_eq!(
            found(&table, PeerId::Uri("spiffe://Root/ns/a")),
            ["spiffe://Root/ns/a"]
        );
        assert_eq!(found(&table, PeerId::Uri("spiffe://root/ns/a")), [""; 0]);
    }

    #[test]
    fn a_uri_matches_the_empty_suffix_and_no_other() {
        let table = table(&[], &[&[], &["example", "org"]]);
        assert_eq!(found(&table, PeerId::Uri("spiffe://x.example.org")), ["*."]);
        assert_eq!(
            found(&table, PeerId::Dns("x.example.org")),
            ["*.", "*.example.org"]
        );
        assert_eq!(found(&table, PeerId::Dns("example.org")), ["*."]);
    }

    #[test]
    fn a_name_that_merely_ends_in_the_same_letters_is_not_below_a_suffix() {
        let table = table(&[], &[&["shop.cluster", "local"]]);
        assert_eq!(
            found(&table, PeerId::Dns("a.shop.cluster.local")),
            ["*.shop.cluster.local"]
        );
        assert_eq!(
            found(&table, PeerId::Dns("a.bookshop.cluster.local")),
            [""; 0]
        );
    }
}
