//! Keeping a certificate fresh. The proxy runs [`maintain`] for as long as it lives, apart from its workers.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{CertificateError, LocalIdentity};

/// How often at least a sleeping task looks at the clock on the wall: monotonic time stands still while a machine sleeps.
const LOOK: Duration = Duration::from_secs(60);

/// What the identity service gave.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate, DER.
    pub leaf: Vec<u8>,
    /// Its issuers, nearest first, DER.
    pub intermediates: Vec<Vec<u8>>,
    /// Until when it may be used.
    pub valid_until: SystemTime,
}

/// When to renew, and how patient to be.
///
/// A certificate is renewed when 70 % of its remaining validity has passed, not sooner than `min_refresh` and not later
/// than `max_refresh` after the last time. Where `min_refresh` would reach into the last tenth of the validity, the 70 %
/// count. A failed attempt is repeated soon, with random and growing pauses: at most `retry_max` while the certificate is
/// good, at most `urgent_retry_max` once it has expired or while there is none yet. A certificate that other anchors no
/// longer vouch for is renewed at once.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// `LINKERD2_PROXY_IDENTITY_MIN_REFRESH`; 10 s.
    pub min_refresh: Duration,
    /// `LINKERD2_PROXY_IDENTITY_MAX_REFRESH`; 24 h.
    pub max_refresh: Duration,
    /// The longest first pause after a failure; 200 ms.
    pub retry_min: Duration,
    /// The longest pause between attempts while the certificate in use is good; 10 s.
    pub retry_max: Duration,
    /// The longest pause between attempts with no good certificate; 1 s.
    pub urgent_retry_max: Duration,
    /// The deadline of one call; 10 s. Half of the remaining validity if that is less, but never under a second.
    pub call_timeout: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            min_refresh: Duration::from_secs(10),
            max_refresh: Duration::from_secs(24 * 60 * 60),
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(10),
            urgent_retry_max: Duration::from_secs(1),
            call_timeout: Duration::from_secs(10),
        }
    }
}

impl Schedule {
    /// How long to rest with a certificate that is valid for `remaining` from now.
    pub fn after_success(&self, remaining: Duration) -> Duration {
        let fraction = remaining.mul_f64(0.7);
        let usual = fraction.max(self.min_refresh).min(self.max_refresh);
        if usual > remaining.mul_f64(0.9) {
            fraction
        } else {
            usual
        }
    }

    /// How long to rest after the `failures`-th failure in a row (from 1), with a certificate that is valid for
    /// `remaining` from now (nothing: none, or expired). `random` is in 0..1.
    fn after_failure(&self, failures: u32, remaining: Duration, random: f64) -> Duration {
        let cap = if remaining.is_zero() {
            self.urgent_retry_max
        } else {
            // Several attempts must fit before expiry.
            self.retry_max.min((remaining / 4).max(self.retry_min))
        };
        let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
        let pause = self.retry_min.saturating_mul(factor).min(cap);
        pause.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }

    fn deadline(&self, remaining: Duration) -> Duration {
        if remaining.is_zero() {
            self.call_timeout
        } else {
            self.call_timeout
                .min((remaining / 2).max(Duration::from_secs(1)))
        }
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// The call failed: the service is away, or refused.
    #[error("the identity service gave no certificate: {0}")]
    Call(String),
    /// No answer in time.
    #[error("no answer from the identity service within {0:?}")]
    Timeout(Duration),
    /// The answer is of no use.
    #[error("the identity service's certificate is not usable: {0}")]
    Unusable(#[from] CertificateError),
}

impl RefreshError {
    /// A label for metrics, out of a closed set: `call`, `timeout` or a [`CertificateError::reason`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Call(_) => "call",
            Self::Timeout(_) => "timeout",
            Self::Unusable(error) => error.reason(),
        }
    }
}

/// Told of what happens; for metrics and logs. All methods do nothing unless written.
pub trait Observer {
    /// A certificate is in use from now on, until `not_after`.
    fn certified(&self, not_after: SystemTime) {
        let _ = not_after;
    }

    /// An attempt failed; it will be repeated.
    fn failed(&self, error: &RefreshError) {
        let _ = error;
    }

    /// The certificate in use expired at `not_after` and there is no new one. Said once for each certificate. It stays in
    /// use: connections live on, and peers will refuse new ones.
    fn expired(&self, not_after: SystemTime) {
        let _ = not_after;
    }
}

impl Observer for () {}

/// Certifies `identity` now and renews it for ever.
///
/// Pauses are measured by monotonic time, so a clock that is set forth or back neither delays a renewal nor causes a
/// storm of them; only a certificate that the clock on the wall calls expired (after a machine slept) is renewed early.
/// `certify` makes one attempt; it is dropped at its deadline. (It is no `AsyncFnMut`, because futures that hold one cannot
/// be spawned; an `async ||` closure that borrows what it uses will do.)
pub async fn maintain<C, F, E, O>(
    identity: Arc<LocalIdentity>,
    schedule: Schedule,
    mut certify: C,
    observer: O,
) -> Infallible
where
    C: FnMut() -> F,
    F: Future<Output = Result<Certified, E>>,
    E: fmt::Display,
    O: Observer,
{
    let mut validity = Validity::default();
    let mut failures = 0_u32;
    loop {
        let deadline = schedule.deadline(validity.remaining());
        let attempt = match tokio::time::timeout(deadline, certify()).await {
            Err(_) => Err(RefreshError::Timeout(deadline)),
            Ok(Err(error)) => Err(RefreshError::Call(error.to_string())),
            Ok(Ok(certified)) => take(&identity, certified),
        };
        match attempt {
            Ok(not_after) => {
                failures = 0;
                validity = Validity::until(not_after, &identity);
                observer.certified(not_after);
                validity
                    .rest(schedule.after_success(validity.remaining()), &identity)
                    .await;
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                observer.failed(&error);
                if let Some(not_after) = validity.newly_expired() {
                    observer.expired(not_after);
                }
                let pause = schedule.after_failure(failures, validity.remaining(), rand::random());
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn take(identity: &LocalIdentity, certified: Certified) -> Result<SystemTime, RefreshError> {
    identity.install(
        certified.leaf,
        certified.intermediates,
        certified.valid_until,
    )?;
    Ok(identity
        .current()
        .map_or(certified.valid_until, |current| current.not_after()))
}

/// The certificate in use, measured once by the clock on the wall and from then on by monotonic time.
#[derive(Debug, Default)]
struct Validity {
    ends: Option<(Instant, SystemTime)>,
    told: bool,
}

impl Validity {
    fn until(not_after: SystemTime, identity: &LocalIdentity) -> Self {
        let remaining = not_after
            .duration_since(identity.now())
            .unwrap_or_default()
            // Instants cannot hold every time a certificate can name.
            .min(Duration::from_secs(100 * 365 * 24 * 60 * 60));
        Self {
            ends: Some((Instant::now() + remaining, not_after)),
            told: false,
        }
    }

    fn remaining(&self) -> Duration {
        self.ends.map_or(Duration::ZERO, |(end, _)| {
            end.saturating_duration_since(Instant::now())
        })
    }

    fn newly_expired(&mut self) -> Option<SystemTime> {
        let (_, not_after) = self.ends?;
        if self.told || !self.remaining().is_zero() {
            return None;
        }
        self.told = true;
        Some(not_after)
    }

    /// Sleeps, at most until the clock on the wall says that the certificate is over, or until the anchors have changed and
    /// the certificate does not lead to them.
    async fn rest(&self, pause: Duration, identity: &LocalIdentity) {
        let until = Instant::now() + pause;
        let mut changes = identity.changes();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let current = identity.current();
            if left.is_zero() || current.is_some_and(|current| !current.is_trusted()) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK)) => {}
                _ = changes.changed() => {}
            }
            if self
                .ends
                .is_some_and(|(_, not_after)| identity.now() >= not_after)
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
