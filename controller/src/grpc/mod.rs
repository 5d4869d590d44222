//! The four services. They stream what the current snapshot says and know nothing of files.
//!
//! A stream holds one value: when a client is slow, it gets the newest one next, so no client grows the controller.

pub(crate) mod destination;
pub(crate) mod identity;
pub(crate) mod outbound;
mod path;
pub(crate) mod policy;
pub(crate) mod streams;
mod weighted;

use crate::{metrics::ControllerMetrics, source::Snapshot};
use futures::Stream;
use std::{pin::Pin, sync::Arc};
use streams::{Place, Streams};
use tokio::sync::{mpsc, watch};
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

/// Streams what `compute` makes of each snapshot, when it differs from what was sent last. `None` ends the stream.
pub(crate) fn watch_snapshots<S, T>(
    shared: &Shared,
    name: (&'static str, &'static str),
    place: Place,
    mut state: S,
    compute: impl Fn(&Snapshot, &mut S) -> Option<Vec<T>> + Send + 'static,
) -> Answers<T>
where
    S: Send + 'static,
    T: Send + 'static,
{
    let (send, receive) = mpsc::channel(1);
    let Shared {
        mut snapshots,
        metrics,
        mut ending,
        ..
    } = shared.clone();
    tokio::spawn(async move {
        let _stream = metrics.stream(name.0, name.1);
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let Some(messages) = compute(&snapshot, &mut state) else {
                return;
            };
            let mut sent = 0;
            for message in messages {
                if send.send(Ok(message)).await.is_err() {
                    return;
                }
                sent += 1;
            }
            place.told(snapshot.version, sent);
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                _ = ending.wait_for(|ending| *ending) => return,
                () = send.closed() => return,
            }
        }
    });
    Box::pin(tokio_stream::wrappers::ReceiverStream::new(receive))
}
