//! Series by the name that a client asks for, where operators want them (`OUTBOUND_METRICS_HOSTNAME_LABELS`,
//! `INBOUND_METRICS_AUTHORITY_LABELS`).
//!
//! Names come from clients, so that there are only so many of them at once; the others are counted without.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Names of one route at once.
const MAX_HOSTS: usize = 256;

/// The longest name there is (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;

/// What is counted for each name.
pub(crate) struct Hosts<T> {
    seen: Mutex<HashMap<Box<str>, Seen<T>>>,
    make: Box<dyn Fn(&str) -> T + Send + Sync>,
    /// How long a name is kept without use.
    retain: Duration,
}

struct Seen<T> {
    counted: Arc<T>,
    used: Instant,
}

impl<T> fmt::Debug for Hosts<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosts").finish_non_exhaustive()
    }
}

impl<T> Hosts<T> {
    pub(crate) fn new(retain: Duration, make: impl Fn(&str) -> T + Send + Sync + 'static) -> Self {
        Self {
            seen: Mutex::default(),
            make: Box::new(make),
            retain,
        }
    }

    /// What is counted for a name; `None` where there are too many, or it cannot be one.
    pub(crate) fn of(&self, name: &str) -> Option<Arc<T>> {
        if name.is_empty() || name.len() > MAX_NAME {
            return None;
        }
        let now = Instant::now();
        let name = name.to_ascii_lowercase();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = seen.get_mut(name.as_str()) {
            host.used = now;
            return Some(host.counted.clone());
        }
        if seen.len() >= MAX_HOSTS {
            seen.retain(|_, host| now.duration_since(host.used) < self.retain);
            if seen.len() >= MAX_HOSTS {
                return None;
            }
        }
        let counted = Arc::new((self.make)(&name));
        let host = Seen {
            counted: counted.clone(),
            used: now,
        };
        seen.insert(name.into(), host);
        Some(counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_can_make_only_so_many_names_and_idle_ones_make_room() {
        let kept = Hosts::new(Duration::from_secs(600), str::to_owned);
        let first = kept.of("Web.shop").unwrap();
        assert_eq!(*first, "web.shop");
        assert!(Arc::ptr_eq(&first, &kept.of("web.shop").unwrap()));
        for n in 1..MAX_HOSTS {
            assert!(kept.of(&format!("h{n}")).is_some());
        }
        assert!(kept.of("one.more").is_none());
        assert!(
            kept.of("web.shop").is_some(),
            "known ones are still counted"
        );
        assert!(kept.of(&"x".repeat(254)).is_none());

        let let_go = Hosts::new(Duration::ZERO, str::to_owned);
        for n in 0..=MAX_HOSTS {
            assert!(let_go.of(&format!("h{n}")).is_some());
        }
    }
}
