//! The four services. They stream what the current snapshot says and know nothing of files.
//!
//! A stream holds one value: when a client is slow, it gets the newest one next, so no client grows the controller.

mod changes;
pub(crate) mod destination;
mod endpoints;
pub(crate) mod hints;
pub(crate) mod identity;
mod origins;
pub(crate) mod outbound;
mod path;
pub(crate) mod policy;
mod profile;
mod requirement;
pub(crate) mod streams;
mod watched;
mod weighted;

use crate::{
    metrics::{Call, ControllerMetrics, Overflow},
    source::Snapshot,
};
use futures::Stream;
use linkerd_policy::index::{Index, Reads};
use std::{pin::Pin, sync::Arc};
use streams::{Place, Streams};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    watch,
};
use tonic::Status;

/// What all services share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) metrics: Arc<ControllerMetrics>,
    /// True when the process is to end.
    pub(crate) ending: watch::Receiver<bool>,
    /// Every open stream.
    pub(crate) streams: Arc<Streams>,
}

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Messages that wait for a client; an update has two at most.
const WAITING: usize = 2;

/// A stream that is about to begin.
pub(crate) struct Begin {
    pub(crate) call: Call,
    pub(crate) place: Place,
    /// What is counted when the client is slow.
    pub(crate) overflow: Overflow,
}

/// Streams what `compute` makes of each snapshot, when it differs from what was sent last. `None` ends the stream.
///
/// An answer is made anew only when something that it was made of has changed, and not before the client has taken the
/// last one: a slow client gets the newest state next, and never those in between.
pub(crate) fn watch_snapshots<S, T>(
    shared: &Shared,
    begin: Begin,
    mut state: S,
    compute: impl Fn(&Index, &mut S) -> Option<Vec<T>> + Send + 'static,
) -> Answers<T>
where
    S: Send + 'static,
    T: Send + 'static,
{
    let (send, receive) = mpsc::channel(WAITING);
    let Shared {
        mut snapshots,
        metrics,
        mut ending,
        ..
    } = shared.clone();
    tokio::spawn(async move {
        let Begin {
            call,
            place,
            overflow,
        } = begin;
        let name = call.name;
        let _stream = metrics.stream(name.0, name.1);
        let mut reads: Option<Reads> = None;
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let is_same = |reads: &Reads| snapshot.index.is_current(reads);
            if !reads.as_ref().is_some_and(is_same) {
                let index = snapshot.index.recording();
                let Some(messages) = compute(&index, &mut state) else {
                    return;
                };
                let read = index.into_reads();
                let (mut sent, mut has_waited) = (0, false);
                for message in messages {
                    let waits = match send.try_send(Ok(message)) {
                        Ok(()) => None,
                        Err(TrySendError::Full(message)) => Some(message),
                        Err(TrySendError::Closed(_)) => return,
                    };
                    if let Some(message) = waits {
                        has_waited = true;
                        if send.send(message).await.is_err() {
                            return;
                        }
                    }
                    sent += 1;
                    call.sends();
                }
                if has_waited && !snapshots.borrow().index.is_current(&read) {
                    metrics.overflowed(&overflow);
                }
                metrics.updated(name, sent > 0);
                reads = Some(read);
                place.told(snapshot.version, sent);
            } else {
                place.told(snapshot.version, 0);
            }
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                _ = ending.wait_for(|ending| *ending) => return,
                () = send.closed() => return,
            }
        }
    });
    Box::pin(tokio_stream::wrappers::ReceiverStream::new(receive))
}
