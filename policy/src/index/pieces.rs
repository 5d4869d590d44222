//! A sorted map in pieces. A copy shares them, and a change of the copy makes one of them anew: what that costs does not grow
//! with what there is.

use std::{borrow::Borrow, sync::Arc};

/// Most entries of a piece.
const MOST: usize = 64;

type Piece<K, V> = Vec<(K, Arc<V>)>;

/// Values by key.
#[derive(Debug)]
pub(super) struct Pieces<K, V> {
    /// Sorted, none of them empty; all keys of one come before those of the next.
    pieces: Vec<Arc<Piece<K, V>>>,
}

/// Where a key is: which piece, and where in it, or where it would be.
struct At {
    piece: usize,
    entry: Result<usize, usize>,
}

impl<K, V> Default for Pieces<K, V> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<K, V> Clone for Pieces<K, V> {
    fn clone(&self) -> Self {
        Self {
            pieces: self.pieces.clone(),
        }
    }
}

impl<K, V> Pieces<K, V> {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let entries = self.pieces.iter().flat_map(|piece| piece.iter());
        entries.map(|(key, value)| (key, &**value))
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

impl<K: Ord + Clone, V> Pieces<K, V> {
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let At { piece, entry } = self.find(key);
        let (_, value) = self.pieces.get(piece)?.get(entry.ok()?)?;
        Some(value)
    }

    /// Adds a value, or replaces the one of that key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let At { piece: at, entry } = self.find(&key);
        let new = (key, Arc::new(value));
        let Some(piece) = self.pieces.get_mut(at).map(Arc::make_mut) else {
            return self.pieces.push(Arc::new(vec![new]));
        };
        match entry {
            Ok(entry) => {
                if let Some(old) = piece.get_mut(entry) {
                    *old = new;
                }
            }
            Err(entry) => piece.insert(entry, new),
        }
        if piece.len() > MOST {
            let rest = piece.split_off(MOST / 2);
            self.pieces.insert(at + 1, Arc::new(rest));
        }
    }

    /// Takes a value away. Tells whether it was there.
    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let At { piece: at, entry } = self.find(key);
        let Ok(entry) = entry else {
            return false;
        };
        if let Some(piece) = self.pieces.get_mut(at).map(Arc::make_mut) {
            piece.remove(entry);
            if piece.is_empty() {
                self.pieces.remove(at);
            }
        }
        true
    }

    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> At
    where
        K: Borrow<Q>,
    {
        let begins_before = |piece: &Arc<Piece<K, V>>| {
            let first = piece.first();
            first.is_some_and(|(first, _)| first.borrow() <= key)
        };
        let piece = self.pieces.partition_point(begins_before).saturating_sub(1);
        let entries = self.pieces.get(piece).map_or(&[][..], |piece| piece);
        At {
            piece,
            entry: entries.binary_search_by(|(own, _)| own.borrow().cmp(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn same(pieces: &Pieces<u16, u32>, map: &BTreeMap<u16, u32>) -> bool {
        let is_whole = pieces
            .pieces
            .iter()
            .all(|piece| (1..=MOST).contains(&piece.len()));
        is_whole && pieces.iter().eq(map) && pieces.len() == map.len()
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map_and_copies_stay_as_they_were(
            changes in prop::collection::vec((0_u16..400, 0_u8..3), 0..1200),
        ) {
            let (mut pieces, mut map) = (Pieces::default(), BTreeMap::new());
            let mut kept = (pieces.clone(), map.clone());
            for (number, (key, what)) in (0_u32..).zip(changes) {
                if number % 100 == 50 {
                    prop_assert!(same(&kept.0, &kept.1));
                    kept = (pieces.clone(), map.clone());
                }
                if what == 0 {
                    prop_assert_eq!(pieces.remove(&key), map.remove(&key).is_some());
                } else {
                    pieces.insert(key, number);
                    map.insert(key, number);
                }
                prop_assert_eq!(pieces.get(&key), map.get(&key));
            }
            prop_assert!(same(&pieces, &map) && same(&kept.0, &kept.1));
            prop_assert_eq!(pieces.is_empty(), map.is_empty());
        }
    }

    #[test]
    fn a_change_of_a_copy_makes_one_piece_anew() {
        let mut pieces = Pieces::default();
        (0_u16..10_000).for_each(|key| pieces.insert(key, u32::from(key)));
        let mut copy = pieces.clone();
        copy.insert(5_000, 7);
        let pairs = pieces.pieces.iter().zip(&copy.pieces);
        let others = pairs.filter(|(one, other)| !Arc::ptr_eq(one, other));
        assert_eq!((others.count(), pieces.get(&5_000)), (1, Some(&5_000)));
    }
}
