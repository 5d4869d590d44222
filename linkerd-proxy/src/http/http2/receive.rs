//! A body that comes over HTTP/2.

use super::pings::Beat;
use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// A body that comes over HTTP/2. It is whole only if the stream says that it is: one that is reset, with whatever
/// reason, before its end is an error (RFC 9113 §8.1 allows `NO_ERROR` after a whole response only).
#[derive(Debug)]
pub(crate) struct Receive {
    stream: RecvStream,
    /// What is left of what `content-length` says; h2 holds the peer to it.
    left: Option<u64>,
    has_ended: bool,
    beat: Option<Arc<Beat>>,
}

impl Receive {
    /// `headers` are those of the message that the body belongs to.
    pub(super) fn new(stream: RecvStream, headers: &HeaderMap, beat: Option<Arc<Beat>>) -> Self {
        Self {
            left: length(headers),
            has_ended: false,
            // Without a body nothing is left to be told.
            beat: beat.filter(|_| !stream.is_end_stream()),
            stream,
        }
    }

    fn data(&mut self, bytes: Bytes) -> Frame<Bytes> {
        // It is passed on right away; the next hop's own window holds the sender back.
        let _ = self.stream.flow_control().release_capacity(bytes.len());
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        if let Some(beat) = &self.beat {
            beat.data(bytes.len());
        }
        Frame::data(bytes)
    }
}

/// The length that a message says its body has.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

impl Body for Receive {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.has_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(bytes)) => return Poll::Ready(Some(Ok(self.data(bytes)))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.has_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(
            trailers
                .map(|trailers| trailers.map(Frame::trailers))
                .transpose(),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}
