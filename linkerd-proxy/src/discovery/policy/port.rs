//! One port's policy: what is in force, and what became of the last update.

use arc_swap::{ArcSwap, Guard};
use linkerd_policy::{
    Policy,
    rate_limit::RateLimiter,
    server::{Protocol, ServerPolicy},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::watch;

/// Holders of a port that nobody uses: the store's map, and the task that watches it.
pub(super) const HOLDERS_UNUSED: usize = 2;

/// Where a policy came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The configuration: the controller has not answered yet.
    Default,
    /// The controller.
    Controller,
    /// Nowhere: what the controller sent cannot be used, and nothing is allowed.
    Invalid,
}

impl Source {
    /// Its name in metrics and on the admin server.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Controller => "controller",
            Self::Invalid => "invalid",
        }
    }
}

/// One version of a port's policy. Requests and connections are decided by one whole snapshot.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Grows by one with each change of the port.
    pub(crate) version: u64,
    pub(crate) policy: Policy,
    pub(crate) source: Source,
    pub(crate) received: SystemTime,
    /// The port's rate limiter; its levels carry over to the next version.
    pub(crate) limiter: Option<RateLimiter>,
}

/// An update that was not put in force.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) at: SystemTime,
    /// Field, value and what is wrong.
    pub(crate) why: String,
    /// How many there were in all.
    pub(crate) count: u64,
}

/// A port's policy; whoever holds one keeps the port watched.
#[derive(Debug)]
pub(crate) struct PortPolicy {
    number: u16,
    is_listed: bool,
    current: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
    /// Whether the controller has answered.
    answered: watch::Sender<bool>,
    refused: ArcSwap<Option<Refused>>,
    created: Instant,
    /// Milliseconds after `created` at which somebody was last seen using it.
    last_used: AtomicU64,
}

impl PortPolicy {
    pub(super) fn new(number: u16, is_listed: bool, first: ServerPolicy, source: Source) -> Self {
        let snapshot = Snapshot {
            version: 1,
            policy: compile_own(first),
            source,
            received: SystemTime::now(),
            limiter: None,
        };
        Self {
            number,
            is_listed,
            current: ArcSwap::from_pointee(snapshot),
            version: watch::Sender::new(1),
            answered: watch::Sender::new(source == Source::Invalid),
            refused: ArcSwap::default(),
            created: Instant::now(),
            last_used: AtomicU64::new(0),
        }
    }

    /// The port.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// What is in force now.
    pub(crate) fn current(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Tells of every new version.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits for the controller's first answer, but only while the port is younger than `limit`: a controller that is
    /// away delays connections once, not each of them. Tells whether there is an answer; else the default is in force.
    pub(crate) async fn ready(&self, limit: Duration) -> bool {
        if self.is_answered() {
            return true;
        }
        let left = limit.saturating_sub(self.created.elapsed());
        if left.is_zero() {
            return false;
        }
        let mut answered = self.answered.subscribe();
        matches!(
            tokio::time::timeout(left, answered.wait_for(|answered| *answered)).await,
            Ok(Ok(_))
        )
    }

    /// Whether the controller has answered.
    pub(crate) fn is_answered(&self) -> bool {
        *self.answered.borrow()
    }

    /// Whether there is a policy of the controller in force: an answer that cannot be used is none.
    pub(crate) fn has_policy(&self) -> bool {
        self.is_answered() && self.current.load().source != Source::Invalid
    }

    /// Whether it is watched for good.
    pub(crate) fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// How long the port has been known.
    pub(crate) fn age(&self) -> Duration {
        self.created.elapsed()
    }

    /// The last update that was not put in force, since the last one that was.
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused.load().as_ref().clone()
    }

    pub(super) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    pub(super) fn holders(self: &Arc<Self>) -> usize {
        Arc::strong_count(self)
    }

    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        self.holders() <= HOLDERS_UNUSED
    }

    /// Whether only the task that watches it holds it, once it is not in the store's map any more.
    pub(super) fn is_abandoned(self: &Arc<Self>) -> bool {
        self.holders() < HOLDERS_UNUSED
    }

    /// Notes whether it is in use, and tells for how long it has not been.
    pub(super) fn idle(self: &Arc<Self>) -> Duration {
        let now = self.created.elapsed();
        if !self.is_unused() {
            let ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            self.last_used.store(ms, Ordering::Relaxed);
        }
        now.saturating_sub(Duration::from_millis(self.last_used()))
    }

    /// Puts a policy in force, if it differs from what is. Tells the new version.
    pub(super) fn install(
        &self,
        server: ServerPolicy,
        source: Source,
    ) -> Result<Option<u64>, linkerd_policy::CompileError> {
        let old = self.current.load_full();
        if source == Source::Controller {
            self.refused.store(Arc::default());
        }
        let installed = if old.source == source && *old.policy.server() == server {
            None
        } else {
            let policy = Policy::compile(server)?;
            let limiter = policy.rate_limit().map(|limit| match &old.limiter {
                Some(before) => RateLimiter::succeed(before, limit),
                None => RateLimiter::new(limit),
            });
            let version = old.version + 1;
            self.current.store(Arc::new(Snapshot {
                version,
                policy,
                source,
                received: SystemTime::now(),
                limiter,
            }));
            self.version.send_replace(version);
            Some(version)
        };
        self.answered
            .send_if_modified(|answered| !std::mem::replace(answered, true));
        Ok(installed)
    }

    /// Notes that an update was not put in force.
    pub(super) fn refuse(&self, why: String) {
        let count = self.refused().map_or(1, |refused| refused.count + 1);
        self.refused.store(Arc::new(Some(Refused {
            at: SystemTime::now(),
            why,
            count,
        })));
    }
}

/// Compiles a policy of our own making: it has no patterns, so that it always compiles. Should it not, nothing is
/// allowed.
fn compile_own(server: ServerPolicy) -> Policy {
    let nothing = ServerPolicy {
        meta: server.meta.clone(),
        protocol: Protocol::Opaque,
        authorizations: Vec::new(),
    };
    #[expect(
        clippy::expect_used,
        reason = "a policy without routes and authorizations has nothing to refuse"
    )]
    Policy::compile(server)
        .or_else(|_| Policy::compile(nothing))
        .expect("an empty policy compiles")
}
