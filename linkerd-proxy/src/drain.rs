//! The proxy's life cycle, as every connection sees it.
//!
//! `Serving`, then on SIGTERM, SIGINT or `POST /shutdown` `Draining`: for the configured window connections are still
//! accepted, and every answer asks the client to go elsewhere (`Connection: close`, GOAWAY). Then `Closing`: listeners
//! are shut, what is in flight finishes. After the grace period whatever is left is cut.

use std::{convert::Infallible, time::Duration};
use tokio::sync::{mpsc, watch};

/// Where the proxy is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    Draining,
    Closing,
    /// The grace period is over: what is left is cut.
    Cut,
}

/// Moves the phase on. There is one, in `run`.
#[derive(Debug)]
pub(crate) struct Shutdown {
    phase: watch::Sender<Phase>,
    /// Ends when nobody holds the proxy's life up any more.
    held: mpsc::Receiver<Infallible>,
}

/// Watches the phase, and holds the end up until it is dropped; each connection has one.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    phase: watch::Receiver<Phase>,
    _hold: Option<mpsc::Sender<Infallible>>,
}

/// A proxy's life, from its beginning.
pub(crate) fn channel() -> (Shutdown, Drain) {
    let (send, receive) = watch::channel(Phase::Serving);
    let (hold, held) = mpsc::channel(1);
    (
        Shutdown { phase: send, held },
        Drain {
            phase: receive,
            _hold: Some(hold),
        },
    )
}

impl Shutdown {
    /// Goes on to a later phase; never back.
    pub(crate) fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }

    /// Waits until no connection is left, at most `limit`. Tells whether all were gone.
    pub(crate) async fn finished(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.held.recv()).await.is_ok()
    }
}

impl Drain {
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// One that only watches: the end does not wait for it.
    pub(crate) fn observer(&self) -> Self {
        Self {
            phase: self.phase.clone(),
            _hold: None,
        }
    }

    /// Completes when the proxy is in `phase` or later, or its life is over.
    pub(crate) async fn reached(&mut self, phase: Phase) {
        // An error means that the sender is gone: then it is over too.
        let _ = self.phase.wait_for(|now| *now >= phase).await;
    }

    /// Completes when what is left is to be cut.
    pub(crate) async fn cut(&mut self) {
        self.reached(Phase::Cut).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_connections_and_not_for_observers() {
        let (mut shutdown, drain) = channel();
        let observer = drain.observer();
        assert!(!shutdown.finished(Duration::from_secs(60)).await);
        drop(drain);
        assert!(shutdown.finished(Duration::from_secs(60)).await);
        shutdown.advance(Phase::Closing);
        shutdown.advance(Phase::Draining);
        assert_eq!(observer.phase(), Phase::Closing);
    }
}
