//! A bound on how many of something exist at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counts up to a maximum. Clones share the count.
#[derive(Clone, Debug)]
pub(crate) struct Limit(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    max: usize,
    now: AtomicUsize,
}

/// One of those counted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Limit);

impl Limit {
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Counted {
            max,
            now: AtomicUsize::new(0),
        }))
    }

    /// The most there may be.
    pub(crate) fn max(&self) -> usize {
        self.0.max
    }

    /// How many there are now.
    pub(crate) fn now(&self) -> usize {
        self.0.now.load(Ordering::Relaxed)
    }

    /// A place, or none if all are taken.
    pub(crate) fn enter(&self) -> Option<Place> {
        let Counted { max, now } = &*self.0;
        if now.fetch_add(1, Ordering::Relaxed) < *max {
            return Some(Place(self.clone()));
        }
        now.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_holder_goes() {
        let limit = Limit::new(1);
        let place = limit.enter().unwrap();
        assert!(limit.enter().is_none());
        drop(place);
        assert!(limit.enter().is_some());
    }
}
