//! When an HTTP connection was last in use: what its limits on slow and idle clients are measured by.
//!
//! A request costs a few relaxed stores; no timer is re-armed for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// When a connection was last in use, for its limits.
#[derive(Debug)]
pub(crate) struct Activity {
    epoch: Instant,
    in_flight: AtomicUsize,
    /// Milliseconds after `epoch` at which the last request ended.
    quiet_since: AtomicU64,
    /// Milliseconds after `epoch`, plus one, at which bytes came that are no request yet; 0 = none.
    head_since: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            in_flight: AtomicUsize::new(0),
            quiet_since: AtomicU64::new(0),
            // A connection owes a head from its first moment.
            head_since: AtomicU64::new(1),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Bytes came.
    pub(crate) fn read(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0
            && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since
                .store(self.now().saturating_add(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.head_since.store(0, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Bytes came and no request yet.
    pub(crate) fn owes_head(&self) -> bool {
        self.head_since.load(Ordering::Relaxed) > 0
    }

    /// How long until a limit is reached, as things stand; zero when one is.
    pub(crate) fn left(&self, head: Duration, idle: Duration) -> Duration {
        let now = self.now();
        let remaining = |limit: Duration, since: u64| {
            limit.saturating_sub(Duration::from_millis(now.saturating_sub(since)))
        };
        match self.head_since.load(Ordering::Relaxed) {
            _ if self.in_flight.load(Ordering::Relaxed) > 0 => head.min(idle),
            0 => remaining(idle, self.quiet_since.load(Ordering::Relaxed)),
            since => remaining(head, since - 1),
        }
    }
}

/// A request that is not answered to its end yet.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.quiet_since.store(self.0.now(), Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When bytes last passed, in whole seconds of its life: what a limit on silence is measured by.
#[derive(Debug)]
pub(crate) struct Pulse {
    epoch: Instant,
    last: AtomicU64,
}

impl Pulse {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            last: AtomicU64::new(0),
        })
    }

    /// Bytes passed.
    pub(crate) fn beat(&self) {
        self.last
            .store(self.epoch.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// Completes when nothing has passed for `limit`; never without a limit.
    pub(crate) async fn silent(&self, limit: Option<Duration>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        loop {
            let last = Duration::from_secs(self.last.load(Ordering::Relaxed));
            let left = (last + limit).saturating_sub(self.epoch.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}
