//! When this proxy is ready for traffic.

use super::State;
use crate::drain::Phase;

/// Why the proxy is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotReady {
    /// There was no certificate yet.
    NotCertified,
    /// The certificate has expired: peers refuse connections.
    Expired,
    /// Listed ports wait for their policy.
    WaitingForPolicy,
    /// No connection is accepted any more.
    Closing,
}

impl NotReady {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NotCertified => "no certificate yet",
            Self::Expired => "the certificate has expired",
            Self::WaitingForPolicy => "waiting for the policy of a listed port",
            Self::Closing => "shutting down",
        }
    }
}

/// Whether the proxy is ready: certified now, and with a policy, or the default after the configured wait, on each
/// listed port. It stays ready while it drains, as long as it still accepts connections: who is sent here until the
/// rest of the world has learnt of the end is served.
pub(super) fn ready(state: &State) -> Result<(), NotReady> {
    if state.phase() >= Phase::Closing {
        return Err(NotReady::Closing);
    }
    let Some(credentials) = state.identity.current() else {
        return Err(NotReady::NotCertified);
    };
    if credentials.not_after() <= state.identity.now() {
        return Err(NotReady::Expired);
    }
    let policy = &state.config.policy;
    let is_waiting = state.policies.ports().iter().any(|port| {
        let is_missing = port.is_listed() && !port.has_policy();
        is_missing && (policy.ready_requires_policy || port.age() < policy.wait_timeout)
    });
    if is_waiting {
        return Err(NotReady::WaitingForPolicy);
    }
    Ok(())
}
