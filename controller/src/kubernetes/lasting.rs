//! Watches of those who do not keep the index, that outlast what API servers forget: of Secrets, of the injector's namespaces.
//!
//! kube's watcher goes on from the version that it has seen, and lists anew where a watch says that this version is forgotten.
//! Where the request for a watch is refused for it (410), it would ask for the same version for ever: here it begins anew. And
//! its pauses grow to half a minute; who depends on these watches asks at once, so here they are shorter.

use futures::{Stream, StreamExt as _, stream};
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

/// The first pause after a failure; each is twice the one before.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(4);

/// The pause before everything is listed anew: an API server may forget whatever it lists.
const AGAIN: Duration = Duration::from_secs(1);

/// What happens to objects, for ever. After a failure, which is told, it goes on; whatever was missed is in a list then.
pub(crate) fn events<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || {
        let watched = watcher::watcher(api.clone(), config.clone());
        watched.backoff(Pauses::default()).boxed()
    };
    let first = begin();
    stream::unfold((first, begin), async |(mut events, begin)| {
        let event = events.next().await?;
        if event.as_ref().is_err_and(is_forgotten) {
            tokio::time::sleep(AGAIN).await;
            events = begin();
        }
        Some((event, (events, begin)))
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
