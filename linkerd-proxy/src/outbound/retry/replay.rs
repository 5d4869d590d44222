//! A request's body that can be sent again: kept while it is sent, up to a limit, trailers included.
//!
//! The client's body is shared by all attempts, and the last one reads it: an attempt that ended half-way leaves the rest
//! to the next one, which sends what was kept and goes on from there.

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

/// A body on its way, for the first time or again.
#[derive(Debug)]
pub(crate) struct Replay<B> {
    shared: Arc<Mutex<Shared<B>>>,
    /// Which attempt this is.
    attempt: u32,
    /// The next of what was kept.
    at: usize,
}

/// What was kept, for attempts to come.
#[derive(Debug)]
pub(crate) struct Kept<B>(Arc<Mutex<Shared<B>>>);

#[derive(Debug)]
struct Shared<B> {
    source: B,
    buffer: Buffer,
    /// The attempt that reads the source. One before it, which may live on for a moment, reads nothing more.
    attempt: u32,
    /// That attempt has sent all that was kept.
    is_caught_up: bool,
    /// No attempt will follow.
    is_last: bool,
}

/// Pieces that are kept one by one; more of them are put together, so that small ones do not take more memory than what
/// they say.
const MAX_PIECES: usize = 256;

#[derive(Debug)]
struct Buffer {
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    max: usize,
    is_too_large: bool,
    is_whole: bool,
}

/// Why a body cannot be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotReplayable {
    /// It is larger than may be kept.
    TooLarge,
    /// The client has not sent all of it yet.
    NotFinished,
}

impl<B: Body<Data = Bytes>> Replay<B> {
    /// Keeps at most `max` bytes of `body`. A body that grows beyond them is passed on, and nothing of it kept.
    pub(crate) fn new(body: B, max: usize) -> (Self, Kept<B>) {
        let buffer = Buffer {
            frames: Vec::new(),
            trailers: None,
            bytes: 0,
            max,
            is_too_large: false,
            is_whole: body.is_end_stream(),
        };
        let shared = Arc::new(Mutex::new(Shared {
            source: body,
            buffer,
            attempt: 0,
            is_caught_up: true,
            is_last: false,
        }));
        let first = Self {
            shared: shared.clone(),
            attempt: 0,
            at: 0,
        };
        (first, Kept(shared))
    }
}

impl<B> Kept<B> {
    /// Whether the whole body can be sent again.
    pub(crate) fn replayable(&self) -> Result<(), NotReplayable> {
        self.resumable()?;
        if !lock(&self.0).buffer.is_whole {
            return Err(NotReplayable::NotFinished);
        }
        Ok(())
    }

    /// Whether the body can be sent again as far as it has come, and then go on.
    pub(crate) fn resumable(&self) -> Result<(), NotReplayable> {
        if lock(&self.0).buffer.is_too_large {
            return Err(NotReplayable::TooLarge);
        }
        Ok(())
    }

    /// The body once more. What is sending it now stops.
    pub(crate) fn replay(&self) -> Result<Replay<B>, NotReplayable> {
        self.resumable()?;
        let mut shared = lock(&self.0);
        shared.attempt = shared.attempt.wrapping_add(1);
        shared.is_caught_up = false;
        Ok(Replay {
            attempt: shared.attempt,
            at: 0,
            shared: self.0.clone(),
        })
    }
}

impl<B> Drop for Kept<B> {
    /// No attempt will follow: what was kept for one is given back, and nothing more is.
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.is_last = true;
        if shared.is_caught_up {
            shared.buffer.give_up();
        }
    }
}

impl Buffer {
    fn keep<E>(&mut self, frame: Option<&Result<Frame<Bytes>, E>>, is_end: bool) {
        match frame {
            None => self.is_whole = true,
            Some(Err(_)) => self.give_up(),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.bytes = self.bytes.saturating_add(data.len());
                    if self.bytes > self.max {
                        self.give_up();
                    } else if !self.is_too_large && !data.is_empty() {
                        self.frames.push(data.clone());
                        if self.frames.len() >= MAX_PIECES {
                            self.frames = vec![self.frames.concat().into()];
                        }
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                    self.is_whole = true;
                }
                self.is_whole |= is_end;
            }
        }
    }

    fn give_up(&mut self) {
        self.is_too_large = true;
        self.frames = Vec::new();
        self.trailers = None;
    }

    fn frame(&self, at: usize) -> Option<Frame<Bytes>> {
        match self.frames.get(at) {
            Some(data) => Some(Frame::data(data.clone())),
            None if at == self.frames.len() => self.trailers.clone().map(Frame::trailers),
            None => None,
        }
    }

    /// How much there is to be sent again: frames and trailers.
    fn len(&self) -> usize {
        self.frames.len() + usize::from(self.trailers.is_some())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let mut shared = lock(&this.shared);
        let Shared {
            source,
            buffer,
            attempt,
            is_caught_up,
            is_last,
        } = &mut *shared;
        if *attempt != this.attempt {
            // Its stream was refused: nobody waits for more of it.
            return Poll::Pending;
        }
        if let Some(frame) = buffer.frame(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        if buffer.is_whole {
            return Poll::Ready(None);
        }
        *is_caught_up = true;
        if *is_last {
            buffer.give_up();
        }
        let frame = ready!(Pin::new(&mut *source).poll_frame(cx));
        buffer.keep(frame.as_ref(), source.is_end_stream());
        this.at = buffer.len();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        let is_whole = shared.buffer.is_whole || shared.source.is_end_stream();
        shared.attempt == self.attempt && is_whole && self.at >= shared.buffer.len()
    }

    fn size_hint(&self) -> SizeHint {
        let shared = lock(&self.shared);
        let kept = shared.buffer.frames.iter().skip(self.at).map(Bytes::len);
        let kept = kept.sum::<usize>() as u64;
        if shared.buffer.is_whole {
            return SizeHint::with_exact(kept);
        }
        let rest = shared.source.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint.set_lower(rest.lower().saturating_add(kept));
        hint
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, stream};
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;

    type Frames = Vec<Result<Frame<Bytes>, Infallible>>;

    fn body(
        parts: &[&'static str],
        trailers: bool,
    ) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let data = parts
            .iter()
            .map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))));
        let mut frames: Frames = data.collect();
        if trailers {
            let mut map = HeaderMap::new();
            map.insert("checksum", "7".parse().unwrap());
            frames.push(Ok(Frame::trailers(map)));
        }
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn what_was_sent_is_sent_again_with_its_trailers() {
        let (first, kept) = Replay::new(body(&["one", "two"], true), 6);
        assert_eq!(kept.replayable(), Err(NotReplayable::NotFinished));
        let sent = first.collect().await.unwrap();
        assert_eq!(sent.trailers().unwrap()["checksum"], "7");
        assert_eq!(sent.to_bytes(), "onetwo");
        for _ in 0..2 {
            let again = kept.replay().unwrap();
            assert_eq!(again.size_hint().exact(), Some(6));
            let again = again.collect().await.unwrap();
            assert_eq!(again.trailers().unwrap()["checksum"], "7");
            assert_eq!(again.to_bytes(), "onetwo");
        }
    }

    #[tokio::test]
    async fn a_body_that_grows_too_large_is_passed_on_and_not_kept() {
        let (first, kept) = Replay::new(body(&["one", "two", "three"], false), 6);
        assert_eq!(first.collect().await.unwrap().to_bytes(), "onetwothree");
        assert_eq!(kept.replayable(), Err(NotReplayable::TooLarge));
        assert!(
            lock(&kept.0).buffer.frames.is_empty(),
            "memory is given back at once"
        );
    }

    #[tokio::test]
    async fn nothing_is_kept_once_no_attempt_can_follow() {
        let (mut first, kept) = Replay::new(body(&["one", "two", "three"], true), 100);
        first.frame().await.unwrap().unwrap();
        let shared = kept.0.clone();
        assert_eq!(lock(&shared).buffer.frames.len(), 1);
        drop(kept);
        assert!(lock(&shared).buffer.frames.is_empty(), "given back at once");
        let rest = first.collect().await.unwrap();
        assert_eq!(rest.trailers().unwrap()["checksum"], "7");
        assert_eq!(rest.to_bytes(), "twothree");
        assert!(lock(&shared).buffer.frames.is_empty());

        // One that has to send again what was kept does so first.
        let (mut first, kept) = Replay::new(body(&["one", "two", "three"], true), 100);
        first.frame().await.unwrap().unwrap();
        first.frame().await.unwrap().unwrap();
        let second = kept.replay().unwrap();
        drop(kept);
        let sent = second.collect().await.unwrap();
        assert_eq!(sent.trailers().unwrap()["checksum"], "7");
        assert_eq!(sent.to_bytes(), "onetwothree");
    }

    #[tokio::test]
    async fn many_small_pieces_are_put_together() {
        let parts = vec!["x"; 3 * MAX_PIECES];
        let (first, kept) = Replay::new(body(&parts, false), 64 * 1024);
        first.collect().await.unwrap();
        let pieces = lock(&kept.0).buffer.frames.len();
        assert!(pieces < MAX_PIECES, "{pieces} pieces");
        let again = kept.replay().unwrap().collect().await.unwrap();
        assert_eq!(again.to_bytes().len(), parts.len());
    }

    #[tokio::test]
    async fn a_body_that_was_given_up_half_way_goes_on_from_there() {
        let (mut first, kept) = Replay::new(body(&["one", "two", "three"], true), 100);
        first.frame().await.unwrap().unwrap();
        assert_eq!(kept.replayable(), Err(NotReplayable::NotFinished));
        let mut second = kept.replay().unwrap();
        assert_eq!(
            first.frame().now_or_never().map(drop),
            None,
            "it is the next one's"
        );
        second.frame().await.unwrap().unwrap();
        second.frame().await.unwrap().unwrap();
        let third = kept.replay().unwrap().collect().await.unwrap();
        assert_eq!(third.trailers().unwrap()["checksum"], "7");
        assert_eq!(third.to_bytes(), "onetwothree");
        assert_eq!(kept.replayable(), Ok(()));
    }
}
