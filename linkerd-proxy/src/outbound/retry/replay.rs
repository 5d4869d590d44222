//! A request's body that can be sent again: kept while it is sent, up to a limit, trailers included.

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
    source: Source<B>,
    shared: Arc<Mutex<Buffer>>,
}

#[derive(Debug)]
enum Source<B> {
    /// From the client; what passes is kept.
    First(B),
    /// From what was kept: the next frame.
    Again(usize),
}

/// What was kept, for attempts to come.
#[derive(Clone, Debug)]
pub(crate) struct Kept(Arc<Mutex<Buffer>>);

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
    pub(crate) fn new(body: B, max: usize) -> (Self, Kept) {
        let shared = Arc::new(Mutex::new(Buffer {
            frames: Vec::new(),
            trailers: None,
            bytes: 0,
            max,
            is_too_large: false,
            is_whole: body.is_end_stream(),
        }));
        let first = Self {
            source: Source::First(body),
            shared: shared.clone(),
        };
        (first, Kept(shared))
    }
}

impl Kept {
    /// Whether the body can be sent again.
    pub(crate) fn replayable(&self) -> Result<(), NotReplayable> {
        let buffer = lock(&self.0);
        if buffer.is_too_large {
            return Err(NotReplayable::TooLarge);
        }
        if !buffer.is_whole {
            return Err(NotReplayable::NotFinished);
        }
        Ok(())
    }

    /// The body once more.
    pub(crate) fn replay<B>(&self) -> Result<Replay<B>, NotReplayable> {
        self.replayable()?;
        Ok(Replay {
            source: Source::Again(0),
            shared: self.0.clone(),
        })
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

    fn is_end(&self, at: usize) -> bool {
        at >= self.frames.len() + usize::from(self.trailers.is_some())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Self { source, shared } = &mut *self;
        match source {
            Source::First(body) => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                lock(shared).keep(frame.as_ref(), body.is_end_stream());
                Poll::Ready(frame)
            }
            Source::Again(at) => {
                let frame = lock(shared).frame(*at);
                *at += 1;
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::First(body) => body.is_end_stream(),
            Source::Again(at) => lock(&self.shared).is_end(*at),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::First(body) => body.size_hint(),
            Source::Again(at) => {
                let buffer = lock(&self.shared);
                let left = buffer.frames.iter().skip(*at).map(Bytes::len);
                SizeHint::with_exact(left.sum::<usize>() as u64)
            }
        }
    }
}

fn lock(buffer: &Mutex<Buffer>) -> MutexGuard<'_, Buffer> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
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
            let again: Replay<http_body_util::Empty<Bytes>> = kept.replay().unwrap();
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
            lock(&kept.0).frames.is_empty(),
            "memory is given back at once"
        );
    }

    #[tokio::test]
    async fn a_body_that_was_given_up_half_way_is_not_sent_again() {
        let (mut first, kept) = Replay::new(body(&["one", "two"], false), 100);
        first.frame().await.unwrap().unwrap();
        drop(first);
        assert_eq!(kept.replayable(), Err(NotReplayable::NotFinished));
    }
}
