//! Watches that outlast API servers and what they forget.
//!
//! kube's watcher goes on from the version that it has seen, and lists anew where a watch says that this version is forgotten.
//! Where the request for a watch is refused for it (410), it would ask for the same version for ever: here it begins anew. And
//! its pauses grow to half a minute; here they are shorter. Nor does it say that a watch has begun, so that after a failure nobody
//! would know whether it is over: here no failure for a while means that.

use futures::{Stream, StreamExt as _, future, stream, stream::BoxStream};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, time::Duration};
use tokio::time::{sleep, timeout};

/// The first pause after a failure; each is twice the one before.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(4);

/// The pause before everything is listed anew: an API server may forget whatever it lists.
const AGAIN: Duration = Duration::from_secs(1);

/// After a failure, how long without another one means that it is over: longer than the longest pause and the longest attempt to
/// [connect](super::CONNECT).
const QUIET: Duration = Duration::from_secs(12);

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum Told<K> {
    /// Something has happened to objects.
    Event(Event<K>),
    /// They are not watched at the moment.
    Failed(watcher::Error),
    /// They are watched again; nothing has been missed.
    Resumed,
}

/// What happens to objects, for ever, and whether they are watched. After a failure it goes on; whatever was missed is told then.
pub(crate) fn told<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Told<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || {
        let watched = watcher::watcher(api.clone(), config.clone());
        watched.backoff(Pauses::default()).boxed()
    };
    lasting(begin)
}

/// As [`told`], for who need not know when a failure is over.
pub(crate) fn events<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    told(api, config).filter_map(|told| {
        future::ready(match told {
            Told::Event(event) => Some(Ok(event)),
            Told::Failed(error) => Some(Err(error)),
            Told::Resumed => None,
        })
    })
}

/// `begin` begins a watch that tells everything anew.
fn lasting<K: Send>(
    begin: impl Fn() -> BoxStream<'static, watcher::Result<Event<K>>> + Send,
) -> impl Stream<Item = Told<K>> + Send {
    let first = begin();
    stream::unfold((first, begin, false), async |(mut events, begin, fails)| {
        let next = if fails {
            let Ok(next) = timeout(QUIET, events.next()).await else {
                return Some((Told::Resumed, (events, begin, false)));
            };
            next
        } else {
            events.next().await
        };
        Some(match next? {
            Ok(event) => (Told::Event(event), (events, begin, false)),
            Err(error) => {
                if is_forgotten(&error) {
                    sleep(AGAIN).await;
                    events = begin();
                }
                (Told::Failed(error), (events, begin, true))
            }
        })
    })
}

/// Whether an API server refused a watch because it has forgotten the version that it is to begin from.
fn is_forgotten(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// Pauses between one failure and the next.
#[derive(Debug)]
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_over_when_something_happens_or_nothing_fails_for_a_while() {
        let fails = || Err(watcher::Error::NoResourceVersion);
        let begin = move || {
            let all = [
                Ok(Event::<()>::Init),
                fails(),
                fails(),
                Ok(Event::InitDone),
                fails(),
            ];
            stream::iter(all).chain(stream::pending()).boxed()
        };
        let mut told = std::pin::pin!(lasting(begin));
        for wanted in ["Event", "Failed", "Failed", "Event", "Failed", "Resumed"] {
            let next = told.next().await.unwrap();
            assert!(
                format!("{next:?}").starts_with(wanted),
                "{next:?}, not {wanted}"
            );
        }
        let nothing = timeout(4 * QUIET, told.next()).await;
        assert!(nothing.is_err(), "{nothing:?}: said once");
    }

    #[test]
    fn pauses_grow_to_the_longest_and_begin_anew() {
        let mut pauses = Pauses::default();
        let seen: Vec<_> = pauses
            .by_ref()
            .take(6)
            .map(|pause| pause.as_millis())
            .collect();
        assert_eq!(seen, [250, 500, 1000, 2000, 4000, 4000]);
        pauses.reset();
        assert_eq!(pauses.next(), Some(FIRST));
    }
}
