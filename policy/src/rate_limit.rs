//! Local rate limits of a port: for everybody together, for each identity, and for named identities.
//!
//! A limit is a token bucket that holds one second's requests and refills evenly, kept as one number: the time at
//! which it will be full again (the "theoretical arrival time" of the generic cell rate algorithm, ITU-T I.371). Taking
//! a token is one compare-and-swap, nobody waits.
//!
//! The total limit is looked at first, so that it names the refusal, but its token is taken last: a request that is
//! refused for its identity costs the others nothing.

use crate::{
    matchers::identity::normal,
    server::{RateLimit, RateLimitOverride},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Units of time in a second: sixteenths of a nanosecond. A count of 64 bits lasts 36 years.
const SECOND: u64 = 16_000_000_000;
/// How many identities have a bucket of their own unless the caller says otherwise.
pub const MAX_IDENTITIES: usize = 10_000;

/// The limits of one port.
#[derive(Debug)]
pub struct RateLimiter {
    /// Time is counted from the first request.
    epoch: Arc<OnceLock<Instant>>,
    total: Option<Bucket>,
    identity: Option<PerIdentity>,
    overrides: Vec<Bucket>,
    override_of: HashMap<Box<str>, usize>,
}

/// A request above a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Which limit.
    pub scope: Scope,
    /// That limit.
    pub requests_per_second: u32,
}

/// Which limit refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// That of all clients together.
    Total,
    /// That of each identity.
    Identity,
    /// That of named identities.
    Override,
}

impl Scope {
    /// As a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Identity => "identity",
            Self::Override => "override",
        }
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} limit of {} requests per second",
            self.scope.label(),
            self.requests_per_second
        )
    }
}

impl RateLimiter {
    /// Full buckets for these limits; a limit of 0 is none.
    pub fn new(limit: &RateLimit) -> Self {
        Self::with_max_identities(limit, MAX_IDENTITIES)
    }

    /// [`RateLimiter::new`], with a bucket of their own for at most so many identities at a time; further ones share
    /// one until others have been quiet for a second.
    pub fn with_max_identities(limit: &RateLimit, max_identities: usize) -> Self {
        let overrides = limit.overrides.iter();
        Self {
            epoch: Arc::default(),
            total: limit.total.and_then(Bucket::new),
            identity: limit.identity.and_then(Rate::new).map(|rate| PerIdentity {
                rate,
                table: Arc::new(Table::new(max_identities)),
            }),
            overrides: overrides
                .clone()
                .map(|limit| Bucket::unlimited_if_zero(limit.requests_per_second))
                .collect(),
            override_of: override_index(&limit.overrides),
        }
    }

    /// Limits of a new version of a policy that take over how full the old one's buckets are: an update is no way to
    /// get a second burst.
    ///
    /// A bucket holds one second's requests at any rate, so a bucket that was half empty is half empty at the new
    /// rate. An override takes over from the one that had the first of its identities that had any.
    pub fn succeed(old: &Self, limit: &RateLimit) -> Self {
        let max_identities = old
            .identity
            .as_ref()
            .map_or(MAX_IDENTITIES, |identity| identity.table.max);
        let mut new = Self::with_max_identities(limit, max_identities);
        new.epoch = Arc::clone(&old.epoch);
        if let (Some(new), Some(old)) = (&mut new.total, &old.total) {
            // Shared, so that requests which still use the old version count.
            new.full_at = Arc::clone(&old.full_at);
        }
        if let (Some(new), Some(old)) = (&mut new.identity, &old.identity) {
            new.table = Arc::clone(&old.table);
        }
        for (bucket, limit) in new.overrides.iter_mut().zip(&limit.overrides) {
            let before = limit.identities.iter().find_map(|identity| {
                let at = old.override_of.get(normal(identity).as_ref())?;
                old.overrides.get(*at)
            });
            if let Some(before) = before {
                let full_at = before.full_at.load(Ordering::Relaxed);
                bucket.full_at = Arc::new(AtomicU64::new(full_at));
            }
        }
        new
    }

    /// Counts a request, if it is within every limit that applies to it.
    ///
    /// Clients without identity share one bucket. `now` should not go backwards; if it does a little, that little is
    /// lost.
    ///
    /// # Errors
    /// [`Limited`], the first limit it is above, in the order total, override, identity. No bucket loses a token then.
    pub fn check(&self, identity: Option<&str>, now: Instant) -> Result<(), Limited> {
        let epoch = *self.epoch.get_or_init(|| now);
        let now = units(now.saturating_duration_since(epoch));
        if let Some(total) = &self.total
            && !total.has_token(now)
        {
            return Err(total.refusal(Scope::Total));
        }
        let name = identity.map(normal);
        let named = name
            .as_ref()
            .and_then(|name| self.override_of.get(name.as_ref()))
            .and_then(|at| self.overrides.get(*at));
        let (bucket, scope) = match (named, &self.identity) {
            (Some(bucket), _) => (Some(bucket.clone()), Scope::Override),
            (None, Some(identity)) => {
                let full_at = identity.table.bucket(name.as_deref(), now);
                let bucket = Bucket {
                    rate: identity.rate,
                    full_at,
                };
                (Some(bucket), Scope::Identity)
            }
            (None, None) => (None, Scope::Identity),
        };
        if let Some(bucket) = &bucket
            && !bucket.take(now)
        {
            return Err(bucket.refusal(scope));
        }
        if let Some(total) = &self.total
            && !total.take(now)
        {
            // Another request got the last token since the first look.
            if let Some(bucket) = &bucket {
                bucket.give_back();
            }
            return Err(total.refusal(Scope::Total));
        }
        Ok(())
    }

    /// How many identities have a bucket of their own now.
    pub fn identities(&self) -> usize {
        self.identity
            .as_ref()
            .map_or(0, |identity| identity.table.len())
    }
}

fn override_index(overrides: &[RateLimitOverride]) -> HashMap<Box<str>, usize> {
    let mut index = HashMap::new();
    for (at, limit) in overrides.iter().enumerate() {
        for identity in &limit.identities {
            // The first override that names an identity has it.
            index.entry(normal(identity).into()).or_insert(at);
        }
    }
    index
}

fn units(elapsed: std::time::Duration) -> u64 {
    u64::try_from(elapsed.as_nanos().saturating_mul(16)).unwrap_or(u64::MAX)
}

/// Requests per second.
#[derive(Clone, Copy, Debug)]
struct Rate {
    requests_per_second: u32,
    /// Time one token takes to come back; 0 = no limit.
    token: u64,
}

impl Rate {
    /// `None` for 0, which means no limit.
    fn new(requests_per_second: u32) -> Option<Self> {
        Some(Self {
            requests_per_second,
            token: SECOND.checked_div(requests_per_second.into())?,
        })
    }
}

/// A bucket of one second's tokens.
#[derive(Clone, Debug)]
struct Bucket {
    rate: Rate,
    /// When it will be full, in units since the epoch.
    full_at: Arc<AtomicU64>,
}

impl Bucket {
    fn new(requests_per_second: u32) -> Option<Self> {
        Some(Self {
            rate: Rate::new(requests_per_second)?,
            full_at: Arc::default(),
        })
    }

    fn unlimited_if_zero(requests_per_second: u32) -> Self {
        Self::new(requests_per_second).unwrap_or_else(|| Self {
            rate: Rate {
                requests_per_second,
                token: 0,
            },
            full_at: Arc::default(),
        })
    }

    /// When the bucket would be full after taking a token now, if there is one.
    fn after_taking(&self, full_at: u64, now: u64) -> Option<u64> {
        let after = full_at.max(now).saturating_add(self.rate.token);
        // `token` is rounded down, so that a full bucket always holds all its tokens.
        (after <= now.saturating_add(SECOND)).then_some(after)
    }

    fn has_token(&self, now: u64) -> bool {
        self.after_taking(self.full_at.load(Ordering::Relaxed), now)
            .is_some()
    }

    fn take(&self, now: u64) -> bool {
        if self.rate.token == 0 {
            return true;
        }
        self.full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                self.after_taking(full_at, now)
            })
            .is_ok()
    }

    fn give_back(&self) {
        let _ = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                Some(full_at.saturating_sub(self.rate.token))
            });
    }

    fn refusal(&self, scope: Scope) -> Limited {
        Limited {
            scope,
            requests_per_second: self.rate.requests_per_second,
        }
    }
}

#[derive(Debug)]
struct PerIdentity {
    rate: Rate,
    table: Arc<Table>,
}

/// Buckets by identity: at most `max`, and one for whoever comes when that many are in use.
#[derive(Debug)]
struct Table {
    max: usize,
    without: Arc<AtomicU64>,
    overflow: Arc<AtomicU64>,
    /// When the table was last searched for buckets that are full again.
    swept: AtomicU64,
    named: RwLock<HashMap<Box<str>, Arc<AtomicU64>>>,
}

impl Table {
    fn new(max: usize) -> Self {
        Self {
            max,
            without: Arc::default(),
            overflow: Arc::default(),
            swept: AtomicU64::new(0),
            named: RwLock::default(),
        }
    }

    fn len(&self) -> usize {
        // What is in the map is right whatever happened to a thread that held the lock.
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        named.len()
    }

    /// The bucket of a client, by when it will be full.
    fn bucket(&self, identity: Option<&str>, now: u64) -> Arc<AtomicU64> {
        let Some(identity) = identity else {
            return Arc::clone(&self.without);
        };
        {
            let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(bucket) = named.get(identity) {
                return Arc::clone(bucket);
            }
            if named.len() >= self.max && !self.may_sweep(now) {
                return Arc::clone(&self.overflow);
            }
        }
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        if named.len() >= self.max && !named.contains_key(identity) {
            self.swept.store(now, Ordering::Relaxed);
            // A bucket that is full again is like one that was never used, unless a request holds it right now.
            named.retain(|_, bucket| {
                Arc::strong_count(bucket) > 1 || bucket.load(Ordering::Relaxed) > now
            });
            if named.len() >= self.max {
                return Arc::clone(&self.overflow);
            }
        }
        Arc::clone(named.entry(identity.into()).or_default())
    }

    /// A full table is searched at most once a second: buckets need that long to be full again.
    fn may_sweep(&self, now: u64) -> bool {
        now >= self.swept.load(Ordering::Relaxed).saturating_add(SECOND)
    }
}

#[cfg(test)]
mod tests;
