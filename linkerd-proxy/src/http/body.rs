//! The two bodies: what goes to the origin, and what comes back.
//!
//! Each is one type from end to end. They count what passes; the response's also drives the HTTP/1 connection that it
//! comes from, so that no task stands between the origin's socket and the client's.

use super::client::Exchange;
use crate::{activity::InFlight, inbound::record::Record};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use linkerd_metrics::{Handle, Histogram};
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// When a request's body ended; shared by the body and the response's record.
pub(crate) type Ended = Arc<OnceLock<Instant>>;

/// A request's body on its way to the origin.
#[derive(Debug)]
pub(crate) struct RequestBody {
    body: Incoming,
    /// Counts data frames; the inbound side's.
    frames: Option<Handle<Histogram>>,
    ended: Option<Ended>,
    stall: Option<Stall>,
}

/// The limit of a body that stands still. Armed while a frame is awaited only.
#[derive(Debug)]
struct Stall {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Why a request's body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Client(#[from] hyper::Error),
    #[error("the request's body stood still for {0:?}")]
    Stalled(Duration),
}

impl Stall {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let limit = self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(BodyError::Stalled(limit))
    }
}

impl RequestBody {
    /// `ended` is absent for a request without body.
    pub(crate) fn new(
        body: Incoming,
        frames: Option<Handle<Histogram>>,
        ended: Option<Ended>,
    ) -> Self {
        Self {
            body,
            frames,
            ended,
            stall: None,
        }
    }
}

impl RequestBody {
    /// With a limit on how long it may stand still.
    pub(crate) fn stalling(mut self, limit: Option<Duration>) -> Self {
        self.stall = limit.map(|limit| Stall { limit, timer: None });
        self
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match (Pin::new(&mut self.body).poll_frame(cx), &mut self.stall) {
            (Poll::Ready(frame), stall) => {
                if let Some(stall) = stall {
                    stall.timer = None;
                }
                frame
            }
            (Poll::Pending, Some(stall)) => return stall.poll(cx).map(|error| Some(Err(error))),
            (Poll::Pending, None) => return Poll::Pending,
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Some(frames) = &self.frames
        {
            frames.observe_bytes(data.len());
        }
        if (frame.is_none() || self.body.is_end_stream())
            && let Some(ended) = self.ended.take()
        {
            let _ = ended.set(Instant::now());
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body on its way to the client.
#[derive(Debug)]
pub(crate) struct Body {
    content: Content,
    record: Option<Record>,
    /// Held until the body is gone: then the connection may count as idle.
    _in_flight: Option<InFlight>,
}

#[derive(Debug)]
enum Content {
    Empty,
    /// A short body that came with its head.
    Full(Bytes),
    /// From an HTTP/1 origin, whose connection is driven from here.
    Http1(Box<Exchange>),
    /// From an HTTP/2 origin, whose connection has a task of its own.
    Http2(Incoming),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self {
            content: Content::Empty,
            record: None,
            _in_flight: None,
        }
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self {
            content: Content::Full(bytes),
            record: None,
            _in_flight: None,
        }
    }

    pub(crate) fn http1(exchange: Box<Exchange>) -> Self {
        Self {
            content: Content::Http1(exchange),
            record: None,
            _in_flight: None,
        }
    }

    pub(crate) fn http2(body: Incoming) -> Self {
        Self {
            content: Content::Http2(body),
            record: None,
            _in_flight: None,
        }
    }

    /// Reports frames and the end of the body to `record`.
    pub(crate) fn recorded(mut self, record: Record) -> Self {
        self.record = Some(record);
        if self.is_end_stream() {
            self.end(None);
        }
        self
    }

    pub(crate) fn holding(mut self, in_flight: InFlight) -> Self {
        self._in_flight = Some(in_flight);
        self
    }

    fn end(&mut self, error: Option<&hyper::Error>) {
        if let Some(record) = self.record.take() {
            record.end(error);
        }
    }

    fn poll_content(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.content {
            Content::Empty => Poll::Ready(None),
            Content::Full(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                self.content = Content::Empty;
                Poll::Ready(Some(Ok(frame)))
            }
            Content::Http1(exchange) => {
                let frame = ready!(exchange.poll_frame(cx));
                if exchange.is_end_stream() {
                    self.release();
                }
                Poll::Ready(frame)
            }
            Content::Http2(body) => Pin::new(body).poll_frame(cx),
        }
    }

    /// Gives the origin's connection back as soon as the body has ended, not when the client is done with it.
    fn release(&mut self) {
        if let Content::Http1(exchange) = std::mem::replace(&mut self.content, Content::Empty) {
            exchange.finish();
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(self.poll_content(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(record) = &mut self.record {
                    record.frame(frame);
                }
                if self.is_end_stream() {
                    self.end(None);
                }
            }
            Some(Err(error)) => self.end(Some(error)),
            None => {
                self.release();
                self.end(None);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_empty(),
            Content::Http1(exchange) => exchange.is_end_stream(),
            Content::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Http1(exchange) => exchange.size_hint(),
            Content::Http2(body) => body.size_hint(),
        }
    }
}
