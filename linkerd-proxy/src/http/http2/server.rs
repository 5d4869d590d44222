//! A client's HTTP/2 connection, and the task of each request on it.

use super::{
    first_windows,
    pings::{Beat, Pings, Settings as PingSettings},
    receive::Receive,
    say_length,
    send::Sending,
    strip,
};
use crate::{
    http::{
        HttpError,
        body::{Body, Received},
        interim::{Heads, Interim},
    },
    transport::Io,
};
use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Connection, Handshake, SendResponse},
};
use http::{HeaderValue, Request, Response, header};
use http_body::Body as _;
use pin_project_lite::pin_project;
use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

/// Settings of an HTTP/2 server.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Bytes.
    pub(crate) stream_window: u32,
    /// Bytes.
    pub(crate) connection_window: u32,
    /// Both windows follow the traffic instead.
    pub(crate) adaptive: bool,
    pub(crate) max_streams: Option<u32>,
    /// Bytes.
    pub(crate) max_frame: Option<u32>,
    /// Bytes.
    pub(crate) max_header_list: u32,
    /// Streams that the client has reset and nobody has looked at.
    pub(crate) max_pending_resets: usize,
    /// Streams reset for the client's errors, before the connection ends.
    pub(crate) max_local_resets: usize,
    /// Bytes of a stream.
    pub(crate) max_send_buffer: usize,
    /// A PING after this long without anything, and how long its answer may take.
    pub(crate) keep_alive: Option<(Duration, Duration)>,
}

impl Settings {
    fn builder(&self) -> h2::server::Builder {
        let set = (self.stream_window, self.connection_window);
        let windows = first_windows(self.adaptive, set);
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(windows.0)
            .initial_connection_window_size(windows.1)
            .max_header_list_size(self.max_header_list)
            .max_pending_accept_reset_streams(self.max_pending_resets)
            .max_local_error_reset_streams(Some(self.max_local_resets))
            .max_send_buffer_size(self.max_send_buffer);
        if let Some(streams) = self.max_streams {
            builder.max_concurrent_streams(streams);
        }
        if let Some(bytes) = self.max_frame {
            builder.max_frame_size(bytes);
        }
        builder
    }

    fn pings(&self) -> PingSettings {
        PingSettings {
            keep_alive: self.keep_alive,
            // A client that is gone is noticed whether or not it was asking for something.
            while_idle: true,
            is_adaptive: self.adaptive,
        }
    }
}

/// A client's connection, until it ends. `answer` gives each request's answer, which runs in a task of its own.
#[derive(Debug)]
pub(crate) struct Serving<A> {
    state: State,
    answer: A,
    watch: PingSettings,
    /// Once it is open.
    pings: Option<Pings>,
    /// It was asked to end before it had begun.
    is_ending: bool,
}

#[derive(Debug)]
enum State {
    Beginning(Handshake<Io, Bytes>),
    Open(Connection<Io, Bytes>),
}

impl<A> Serving<A> {
    pub(crate) fn new(io: Io, settings: &Settings, answer: A) -> Self {
        Self {
            state: State::Beginning(settings.builder().handshake(io)),
            answer,
            watch: settings.pings(),
            pings: None,
            is_ending: false,
        }
    }

    /// Tells the client to go (GOAWAY), and ends after what is in flight.
    pub(crate) fn finish(&mut self) {
        match &mut self.state {
            State::Beginning(_) => self.is_ending = true,
            State::Open(connection) => connection.graceful_shutdown(),
        }
    }

    /// The preface, and what is watched from then on.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let State::Beginning(handshake) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        let mut connection = ready!(Pin::new(handshake).poll(cx))?;
        self.pings = Pings::new(self.watch, || connection.ping_pong());
        if self.is_ending {
            connection.graceful_shutdown();
        }
        self.state = State::Open(connection);
        Poll::Ready(Ok(()))
    }
}

impl<A, F> Future for Serving<A>
where
    A: Fn(Request<Received>, Interim) -> F + Unpin,
    F: Future<Output = Result<Response<Body>, h2::Error>> + Send + 'static,
{
    type Output = Result<(), HttpError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = &mut *self;
        ready!(me.poll_begin(cx))?;
        let State::Open(connection) = &mut me.state else {
            return Poll::Pending;
        };
        loop {
            if let Some(pings) = &mut me.pings {
                pings.watch(cx, |bytes| {
                    connection.set_target_window_size(bytes);
                    connection.set_initial_window_size(bytes)
                })?;
            }
            let Some(accepted) = ready!(connection.poll_accept(cx)) else {
                return Poll::Ready(Ok(()));
            };
            let (request, respond) = accepted?;
            let beat = me.pings.as_ref().map(Pings::beat);
            let heads = Arc::new(Heads::default());
            let request = received(request, beat);
            let answer = (me.answer)(request, Interim::Http2(heads.clone()));
            tokio::spawn(Stream {
                respond,
                heads,
                state: StreamState::Answering { answer },
            });
        }
    }
}

fn received(request: Request<RecvStream>, beat: Option<&Arc<Beat>>) -> Request<Received> {
    if let Some(beat) = beat {
        beat.head();
    }
    let (head, stream) = request.into_parts();
    let body = Receive::new(stream, &head.headers, beat.cloned());
    Request::from_parts(head, Received::Http2(body))
}

pin_project! {
    /// One request, until its response has been sent.
    struct Stream<F> {
        respond: SendResponse<Bytes>,
        heads: Arc<Heads>,
        #[pin]
        state: StreamState<F>,
    }
}

pin_project! {
    #[project = StreamStateProjection]
    enum StreamState<F> {
        Answering { #[pin] answer: F },
        Sending { sending: Sending<Body> },
    }
}

impl<F> Future for Stream<F>
where
    F: Future<Output = Result<Response<Body>, h2::Error>>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut me = self.as_mut().project();
            let answer = match me.state.as_mut().project() {
                StreamStateProjection::Answering { answer } => answer,
                StreamStateProjection::Sending { sending } => {
                    if let Err(error) = ready!(Pin::new(sending).poll(cx)) {
                        tracing::debug!(%error, "A response was not sent to its end");
                    }
                    return Poll::Ready(());
                }
            };
            let answer = answer.poll(cx);
            // Interim answers come while the answer is waited for, in this task, and go before it.
            me.heads.send(me.respond);
            match answer {
                Poll::Ready(Ok(response)) => match respond(me.respond, response) {
                    Some(sending) => me.state.set(StreamState::Sending { sending }),
                    None => return Poll::Ready(()),
                },
                Poll::Ready(Err(error)) => {
                    let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
                    me.respond.send_reset(reason);
                    return Poll::Ready(());
                }
                // A client that is gone, or does not want the answer any more, is not worked for.
                Poll::Pending => return me.respond.poll_reset(cx).map(drop),
            }
        }
    }
}

/// Sends the head of a response; the body, if there is one, is still to be sent.
fn respond(respond: &mut SendResponse<Bytes>, response: Response<Body>) -> Option<Sending<Body>> {
    let (head, body) = response.into_parts();
    let mut head = Response::from_parts(head, ());
    let headers = head.headers_mut();
    strip(headers, false);
    headers.entry(header::DATE).or_insert_with(date);
    let has_ended = body.is_end_stream();
    if !has_ended {
        say_length(headers, body.size_hint().exact());
    }
    match respond.send_response(head, has_ended) {
        Ok(stream) => (!has_ended).then(|| Sending::new(body, stream)),
        Err(error) => {
            tracing::debug!(%error, "A response cannot be sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
            None
        }
    }
}

/// Now, as `Date` has it (RFC 9110 §6.6.1): whoever passes on a response without one says when it came. Written once a
/// second on each thread.
fn date() -> HeaderValue {
    thread_local! {
        static DATE: RefCell<(u64, HeaderValue)> =
            const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    let now = SystemTime::now();
    let second = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(written, value)| {
        if *written != second {
            let text = httpdate::fmt_http_date(now);
            if let Ok(text) = HeaderValue::try_from(text) {
                (*written, *value) = (second, text);
            }
        }
        value.clone()
    })
}
