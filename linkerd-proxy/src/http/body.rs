//! The two bodies: what goes to the origin, and what comes back.
//!
//! Each is one type from end to end. They count what passes; the response's also drives the HTTP/1 connection that it
//! comes from, so that no task stands between the origin's socket and the client's.

use super::{
    HttpError,
    client::Exchange,
    http2::{Breaks, Receive},
    outcome::{Break, Ending},
};
use crate::{
    activity::InFlight,
    inbound::record::Record,
    outbound::{
        limits::{Expired, Progress},
        record::Record as OutboundRecord,
        retry::replay::Replay,
    },
};
use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use linkerd_metrics::{Handle, Histogram};
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// When a request's body ended; shared by the body and by what measures from there.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    /// There was none.
    At(Instant),
    Later(Arc<EndsLater>),
}

/// The end of a body that is still awaited.
#[derive(Debug, Default)]
pub(crate) struct EndsLater {
    at: OnceLock<Instant>,
    /// It stood still for so long that it was given up.
    stalled: OnceLock<Duration>,
    waker: AtomicWaker,
}

impl Ended {
    /// Of a request without a body.
    pub(crate) fn at(at: Instant) -> Self {
        Self::At(at)
    }

    /// Of a body that is still to come.
    pub(crate) fn later() -> Self {
        Self::Later(Arc::default())
    }

    pub(crate) fn get(&self) -> Option<Instant> {
        match self {
            Self::At(at) => Some(*at),
            Self::Later(later) => later.at.get().copied(),
        }
    }

    /// Notes the end, and wakes who waits for it.
    pub(crate) fn end(&self) {
        if let Self::Later(later) = self {
            let _ = later.at.set(tokio::time::Instant::now().into_std());
            later.waker.wake();
        }
    }

    /// How long the body stood still, if it was given up for that.
    pub(crate) fn stalled(&self) -> Option<Duration> {
        match self {
            Self::At(_) => None,
            Self::Later(later) => later.stalled.get().copied(),
        }
    }

    fn stall(&self, limit: Duration) {
        if let Self::Later(later) = self {
            let _ = later.stalled.set(limit);
        }
    }

    pub(crate) fn wake_at_end(&self, waker: &Waker) {
        if let Self::Later(later) = self {
            later.waker.register(waker);
        }
    }
}

/// A request's body on its way to the origin.
#[derive(Debug)]
pub(crate) struct RequestBody {
    body: Source,
    /// Counts data frames.
    frames: Option<Handle<Histogram>>,
    ended: Option<Ended>,
    stall: Option<Stall>,
    progress: Option<Arc<Progress>>,
}

#[derive(Debug)]
enum Source {
    /// There is none, or it was sent before.
    Empty,
    /// As the client sends it.
    Client(Received),
    /// Kept in part, so that it can be sent again.
    Replay(Box<Replay<Received>>),
}

/// A body as a peer sends it, in either version.
#[derive(Debug)]
pub(crate) enum Received {
    Http1(Incoming),
    Http2(Receive),
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(HttpError::from),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(HttpError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
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
    Client(#[from] HttpError),
    #[error("the request's body stood still for {0:?}")]
    Stalled(Duration),
}

impl Breaks for BodyError {
    fn reason(&self) -> h2::Reason {
        match self {
            Self::Client(error) => error.reason(),
            Self::Stalled(_) => h2::Reason::INTERNAL_ERROR,
        }
    }
}

impl Stall {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    /// Completes, with the limit, when it is reached.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let limit = self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(limit)
    }
}

/// No body.
impl Default for RequestBody {
    fn default() -> Self {
        Self::empty()
    }
}

impl RequestBody {
    pub(crate) fn new(body: Received, frames: Option<Handle<Histogram>>, ended: Ended) -> Self {
        Self::of(Source::Client(body), frames, ended)
    }

    /// A body that can be sent again.
    pub(crate) fn replay(
        body: Replay<Received>,
        frames: Option<Handle<Histogram>>,
        ended: Ended,
    ) -> Self {
        Self::of(Source::Replay(Box::new(body)), frames, ended)
    }

    /// No body.
    pub(crate) fn empty() -> Self {
        Self {
            body: Source::Empty,
            frames: None,
            ended: None,
            stall: None,
            progress: None,
        }
    }

    fn of(body: Source, frames: Option<Handle<Histogram>>, ended: Ended) -> Self {
        Self {
            body,
            frames,
            ended: Some(ended),
            stall: None,
            progress: None,
        }
    }

    /// Notes each frame.
    pub(crate) fn noting(mut self, progress: Option<Arc<Progress>>) -> Self {
        self.progress = progress;
        self
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match &mut self.body {
            Source::Empty => Poll::Ready(None),
            Source::Client(body) => Pin::new(body).poll_frame(cx),
            Source::Replay(body) => Pin::new(body.as_mut()).poll_frame(cx),
        }
    }

    /// With a limit on how long it may stand still.
    pub(crate) fn stalling(mut self, limit: Option<Duration>) -> Self {
        self.stall = limit.map(Stall::new);
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
        let frame = match (self.poll_source(cx), &mut self.stall) {
            (Poll::Ready(frame), stall) => {
                if let Some(stall) = stall {
                    stall.timer = None;
                }
                frame
            }
            (Poll::Pending, Some(stall)) => {
                let limit = ready!(stall.poll(cx));
                if let Some(ended) = &self.ended {
                    ended.stall(limit);
                }
                return Poll::Ready(Some(Err(BodyError::Stalled(limit))));
            }
            (Poll::Pending, None) => return Poll::Pending,
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Some(frames) = &self.frames
        {
            frames.observe_bytes(data.len());
        }
        if let Some(progress) = &self.progress {
            progress.beat();
        }
        if (frame.is_none() || self.is_end_stream())
            && let Some(ended) = self.ended.take()
        {
            ended.end();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Source::Empty => true,
            Source::Client(body) => body.is_end_stream(),
            Source::Replay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Source::Empty => SizeHint::with_exact(0),
            Source::Client(body) => body.size_hint(),
            Source::Replay(body) => body.size_hint(),
        }
    }
}

/// A response's body on its way to the client.
#[derive(Debug)]
pub(crate) struct Body {
    content: Content,
    recorder: Recorder,
    stall: Option<Stall>,
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
    Http2(Receive),
    /// Frames that were looked at, and then the rest.
    Peeked(Box<Peeked>),
}

/// A body of which some frames were looked at.
#[derive(Debug)]
struct Peeked {
    /// What was read; an error is told when it is its turn.
    frames: std::collections::VecDeque<Result<Frame<Bytes>, HttpError>>,
    rest: Content,
}

/// Who is told what passes.
#[derive(Debug)]
enum Recorder {
    Nobody,
    Inbound(Record),
    Outbound(Box<OutboundRecord>),
}

/// Why a response's body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseError {
    #[error(transparent)]
    Origin(#[from] HttpError),
    #[error("timed out processing response stream: {0}")]
    Expired(#[from] Expired),
    #[error("the response's body stood still for {0:?}")]
    Stalled(Duration),
}

impl Breaks for ResponseError {
    fn reason(&self) -> h2::Reason {
        match self {
            Self::Origin(error) => error.reason(),
            Self::Expired(_) | Self::Stalled(_) => h2::Reason::INTERNAL_ERROR,
        }
    }
}

impl ResponseError {
    /// How the break is counted.
    pub(crate) fn ending(&self) -> Ending {
        Ending::Broken(match self {
            Self::Expired(expired) => Break::Timeout(expired.label()),
            Self::Origin(error) => {
                let reason = error.http2().and_then(h2::Error::reason);
                reason.map_or(Break::Unknown, Break::Reset)
            }
            Self::Stalled(_) => Break::Timeout("stalled"),
        })
    }
}

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Self {
            content,
            recorder: Recorder::Nobody,
            stall: None,
            _in_flight: None,
        }
    }
}

impl Body {
    pub(crate) fn empty() -> Self {
        Content::Empty.into()
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Content::Full(bytes).into()
    }

    pub(crate) fn http1(exchange: Box<Exchange>) -> Self {
        Content::Http1(exchange).into()
    }

    pub(crate) fn http2(body: Receive) -> Self {
        Content::Http2(body).into()
    }

    /// Reports frames and the end of the body to `record`.
    pub(crate) fn recorded(mut self, record: Record) -> Self {
        self.recorder = Recorder::Inbound(record);
        self.end_if_over()
    }

    /// Reports frames and the end of the body to `record`.
    pub(crate) fn recorded_outbound(mut self, record: Box<OutboundRecord>) -> Self {
        self.recorder = Recorder::Outbound(record);
        self.end_if_over()
    }

    /// With a limit on how long it may stand still.
    pub(crate) fn stalling(mut self, limit: Option<Duration>) -> Self {
        self.stall = limit
            .filter(|_| !self.content.is_end_stream())
            .map(Stall::new);
        self
    }

    pub(crate) fn holding(mut self, in_flight: InFlight) -> Self {
        self._in_flight = Some(in_flight);
        self
    }

    /// Looks at what comes first without taking it: gives the trailers if they come first, or right after one frame
    /// of data that is there at once. Frames of data without data are dropped. For bodies that nobody records yet.
    pub(crate) async fn peek_trailers(&mut self) -> Option<http::HeaderMap> {
        let mut frames = std::collections::VecDeque::new();
        let mut trailers = None;
        while frames.len() < 2 && !self.content.is_end_stream() {
            let is_first = frames.is_empty();
            let frame = std::future::poll_fn(|cx| match self.poll_content(cx) {
                Poll::Ready(frame) => Poll::Ready(Some(frame)),
                // Waiting for more than the first frame would hold a stream back.
                Poll::Pending if !is_first => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            })
            .await;
            match frame {
                Some(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                Some(Some(Ok(frame))) => {
                    trailers = frame.trailers_ref().cloned();
                    frames.push_back(Ok(frame));
                }
                Some(Some(Err(error))) => {
                    frames.push_back(Err(error));
                    break;
                }
                Some(None) | None => break,
            }
            if trailers.is_some() {
                break;
            }
        }
        if !frames.is_empty() {
            let rest = std::mem::replace(&mut self.content, Content::Empty);
            self.content = Content::Peeked(Box::new(Peeked { frames, rest }));
        }
        trailers
    }

    /// Reads and drops what is left, if it is short and there at once, so that its connection can be used again.
    pub(crate) fn discard(mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..4 {
            if self.content.is_end_stream() {
                break;
            }
            match self.poll_content(&mut cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
    }

    fn end_if_over(mut self) -> Self {
        if self.content.is_end_stream() {
            self.end(None);
        }
        self
    }

    fn end(&mut self, error: Option<&ResponseError>) {
        let ending = error.map_or(Ending::Whole, ResponseError::ending);
        match std::mem::replace(&mut self.recorder, Recorder::Nobody) {
            Recorder::Nobody => {}
            Recorder::Inbound(record) => record.end(ending),
            Recorder::Outbound(record) => record.end(ending),
        }
    }

    fn poll_content(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.content.poll(cx)
    }

    /// The error as the client gets it: gRPC clients get trailers that say what happened.
    fn told(&mut self, error: ResponseError) -> Result<Frame<Bytes>, ResponseError> {
        let trailers = match &self.recorder {
            Recorder::Outbound(record) => record.trailers(&error),
            Recorder::Nobody | Recorder::Inbound(_) => None,
        };
        if let (Recorder::Inbound(record), ResponseError::Stalled(_)) = (&self.recorder, &error) {
            record.stalled();
        }
        self.end(Some(&error));
        self.content = Content::Empty;
        match trailers {
            Some(trailers) => Ok(Frame::trailers(trailers)),
            None => Err(error),
        }
    }
}

impl Content {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                *self = Self::Empty;
                Poll::Ready(Some(Ok(frame)))
            }
            Self::Http1(exchange) => {
                let frame =
                    ready!(exchange.poll_frame(cx)).map(|frame| frame.map_err(HttpError::from));
                if frame.is_none() || exchange.is_end_stream() {
                    self.release();
                }
                Poll::Ready(frame)
            }
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(HttpError::from),
            Self::Peeked(peeked) => {
                if let Some(frame) = peeked.frames.pop_front() {
                    return Poll::Ready(Some(frame));
                }
                *self = std::mem::replace(&mut peeked.rest, Self::Empty);
                self.poll(cx)
            }
        }
    }

    /// Gives the origin's connection back as soon as the body has ended, not when the client is done with it.
    fn release(&mut self) {
        if let Self::Http1(exchange) = std::mem::replace(self, Self::Empty) {
            exchange.finish();
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Http1(exchange) => exchange.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Peeked(peeked) => peeked.frames.is_empty() && peeked.rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(exchange) => exchange.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Peeked(peeked) => {
                let seen: usize = peeked
                    .frames
                    .iter()
                    .filter_map(|frame| frame.as_ref().ok()?.data_ref())
                    .map(Bytes::len)
                    .sum();
                super::client::plus(peeked.rest.size_hint(), seen as u64)
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let frame = match self.poll_content(cx) {
            Poll::Ready(frame) => {
                if let Some(stall) = &mut self.stall {
                    stall.timer = None;
                }
                frame
            }
            Poll::Pending => {
                if let Some(stall) = &mut self.stall {
                    let limit = ready!(stall.poll(cx));
                    return Poll::Ready(Some(self.told(ResponseError::Stalled(limit))));
                }
                let Recorder::Outbound(record) = &mut self.recorder else {
                    return Poll::Pending;
                };
                let expired = ready!(record.poll_limits(cx));
                return Poll::Ready(Some(self.told(expired.into())));
            }
        };
        match frame {
            Some(Ok(frame)) => {
                match &mut self.recorder {
                    Recorder::Nobody => {}
                    Recorder::Inbound(record) => record.frame(&frame),
                    Recorder::Outbound(record) => record.frame(&frame),
                }
                if self.content.is_end_stream() {
                    self.end(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(self.told(error.into()))),
            None => {
                self.end(None);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
