//! A body that goes out over HTTP/2.

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

/// With which reason a stream is reset whose body breaks off.
pub(crate) trait Breaks {
    fn reason(&self) -> Reason;
}

/// Why a body was not sent to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotSent {
    #[error("the stream broke off: {0}")]
    Stream(#[from] h2::Error),
    #[error("the stream was reset: {0}")]
    Reset(Reason),
    #[error("the stream is closed")]
    Closed,
    #[error("the body broke off")]
    Body,
}

/// Sends a body on a stream, frame by frame, as the peer's windows let it. Completes at its end.
#[derive(Debug)]
pub(super) struct Sending<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Taken from the body while there was no room for it; and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl<B> Sending<B> {
    pub(super) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            waiting: None,
        }
    }
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Breaks,
{
    /// Sends what waits. A frame is asked for before there is room for it: room that is held for a body which says
    /// nothing would be missing to other streams.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, NotSent>> {
        if self.waiting.is_none() {
            return Poll::Ready(Ok(false));
        }
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(room) => drop(room?),
                None => return Poll::Ready(Err(NotSent::Closed)),
            }
        }
        let Some((bytes, is_last)) = self.waiting.take() else {
            return Poll::Ready(Ok(false));
        };
        self.stream.send_data(bytes, is_last)?;
        Poll::Ready(Ok(is_last))
    }

    /// Takes the body's next step. Tells whether it was the last.
    fn step(&mut self, frame: Option<Result<Frame<Bytes>, B::Error>>) -> Result<bool, NotSent> {
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.stream.send_reset(error.reason());
                return Err(NotSent::Body);
            }
            None => {
                self.stream.send_data(Bytes::new(), true)?;
                return Ok(true);
            }
        };
        match frame.into_data() {
            Ok(bytes) if bytes.is_empty() => {
                // Takes no room. Nothing is said by it either, unless it is the end.
                let is_last = self.body.is_end_stream();
                if is_last {
                    self.stream.send_data(bytes, true)?;
                }
                Ok(is_last)
            }
            Ok(bytes) => {
                // h2 asks for the rest once it has the bytes.
                self.stream.reserve_capacity(1);
                self.waiting = Some((bytes, self.body.is_end_stream()));
                Ok(false)
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => {
                    self.stream.reserve_capacity(0);
                    self.stream.send_trailers(trailers)?;
                    Ok(true)
                }
                // No kind of frame that HTTP/2 has.
                Err(_) => Ok(false),
            },
        }
    }
}

impl<B> Future for Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Breaks,
{
    type Output = Result<(), NotSent>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), NotSent>> {
        loop {
            // Whoever waits for the body or for room also hears of a reset.
            if let Poll::Ready(reason) = self.stream.poll_reset(cx)? {
                return Poll::Ready(Err(NotSent::Reset(reason)));
            }
            if ready!(self.poll_waiting(cx))? {
                return Poll::Ready(Ok(()));
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            if self.step(frame)? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
