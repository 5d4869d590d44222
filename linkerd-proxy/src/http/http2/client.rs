//! A connection to an origin over HTTP/2, shared by all requests to it.

use super::{
    first_windows,
    pings::{Beat, Pings, Settings as PingSettings},
    receive::Receive,
    say_length,
    send::Sending,
    strip,
};
use crate::{
    http::{HttpError, body::RequestBody, interim::Interim},
    inbound::metrics::OpenConnection,
    transport::Io,
};
use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use http::{Method, Request, Response};
use http_body::Body as _;
use linkerd_policy::outbound::Http2Params;
use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

/// Bytes, where the endpoint names no window: what one that asks for parameters of its own gets.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 5 * 1024 * 1024;
/// Bytes of headers in one message.
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// Bytes that wait to be sent on one stream.
const MAX_SEND_BUFFER: usize = 1024 * 1024;
/// Streams there may be before the server has said how many: what RFC 9113 §6.5.2 asks it to allow at least.
const FIRST_STREAMS: usize = 100;

/// Opens a connection; `open` lives as long as it does.
pub(crate) async fn connect(
    io: Io,
    params: &Http2Params,
    open: OpenConnection,
) -> Result<Sender, HttpError> {
    let (requests, mut connection) = builder(params).handshake::<_, Bytes>(io).await?;
    let pings = PingSettings {
        keep_alive: params.keep_alive,
        while_idle: params.keep_alive_while_idle,
        is_adaptive: params.adaptive,
    };
    let pings = Pings::new(pings, || connection.ping_pong());
    let beat = pings
        .as_ref()
        .map_or_else(Weak::new, |pings| Arc::downgrade(pings.beat()));
    tokio::spawn(Driver {
        connection,
        pings,
        _open: open,
    });
    Ok(Sender { requests, beat })
}

fn builder(params: &Http2Params) -> h2::client::Builder {
    let set = (
        params.stream_window.unwrap_or(STREAM_WINDOW),
        params.connection_window.unwrap_or(CONNECTION_WINDOW),
    );
    let windows = first_windows(params.adaptive, set);
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(FIRST_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_window_size(windows.0)
        .initial_connection_window_size(windows.1)
        .max_send_buffer_size(
            params
                .max_send_buf_size
                .map_or(MAX_SEND_BUFFER, |n| n as usize),
        );
    if let Some(bytes) = params.max_frame_size {
        builder.max_frame_size(bytes);
    }
    if let Some(resets) = params.max_concurrent_reset_streams {
        builder.max_concurrent_reset_streams(resets as usize);
    }
    builder
}

/// The task of a connection: it ends when the peer goes, does not answer, or nobody has a use for it.
struct Driver {
    connection: Connection<Io, Bytes>,
    pings: Option<Pings>,
    _open: OpenConnection,
}

impl Driver {
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        let connection = &mut self.connection;
        if let Some(pings) = &mut self.pings {
            pings.watch(cx, |bytes| {
                connection.set_target_window_size(bytes);
                connection.set_initial_window_size(bytes)
            })?;
        }
        Pin::new(connection).poll(cx).map_err(HttpError::from)
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_connection(cx).map(|result| {
            if let Err(error) = result {
                tracing::debug!(%error, "An HTTP/2 connection ended");
            }
        })
    }
}

/// Opens streams on a connection.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    requests: SendRequest<Bytes>,
    /// Streams hold it: without one the connection is idle.
    beat: Weak<Beat>,
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) error: h2::Error,
    /// The connection takes no requests: nothing was sent, and the request is where it was.
    pub(crate) is_unsent: bool,
}

impl Sender {
    /// Whether the connection takes requests. Asked of a sender that has opened no stream, and so waits for none.
    pub(crate) fn is_open(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !matches!(self.requests.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Sends a request and returns when the head of its response is there; what the request's body has not sent by then
    /// goes on in a task of its own. Interim answers go to `interim`.
    pub(crate) async fn send(
        mut self,
        request: &mut Request<RequestBody>,
        interim: Option<&Interim>,
    ) -> Result<Response<Receive>, Unanswered> {
        let beat = self.beat.upgrade();
        let ready = poll_fn(|cx| self.requests.poll_ready(cx)).await;
        ready.map_err(|error| Unanswered {
            error,
            is_unsent: true,
        })?;
        let mut exchange = self.begin(request, interim).map_err(Unanswered::sent)?;
        let response = poll_fn(|cx| exchange.poll_head(cx)).await;
        let response = response.map_err(Unanswered::sent)?;
        if let Some(upload) = exchange.upload.take() {
            let beat = beat.clone();
            tokio::spawn(async move {
                let _beat = beat;
                if let Err(error) = upload.await {
                    tracing::debug!(%error, "A request was not sent to its end");
                }
            });
        }
        let (head, stream) = response.into_parts();
        if let Some(beat) = &beat {
            beat.head();
        }
        let body = Receive::new(stream, &head.headers, beat);
        Ok(Response::from_parts(head, body))
    }

    fn begin<'i>(
        &mut self,
        request: &mut Request<RequestBody>,
        interim: Option<&'i Interim>,
    ) -> Result<Exchange<'i>, h2::Error> {
        let (head, body) = mem::take(request).into_parts();
        let mut head = Request::from_parts(head, ());
        let has_ended = body.is_end_stream();
        let length = body.size_hint().exact();
        let says_none = !matches!(*head.method(), Method::POST | Method::PUT | Method::PATCH);
        let headers = head.headers_mut();
        strip(headers, true);
        say_length(headers, length.filter(|n| *n > 0 || !says_none));
        let (response, stream) = self.requests.send_request(head, has_ended)?;
        Ok(Exchange {
            response,
            upload: (!has_ended).then(|| Box::new(Sending::new(body, stream))),
            interim,
        })
    }
}

impl Unanswered {
    fn sent(error: h2::Error) -> Self {
        Self {
            error,
            is_unsent: false,
        }
    }
}

/// A request on its way, until the head of its response. Dropped before that, the stream is reset.
struct Exchange<'i> {
    response: ResponseFuture,
    upload: Option<Box<Sending<RequestBody>>>,
    interim: Option<&'i Interim>,
}

impl Exchange<'_> {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<h2::RecvStream>, h2::Error>> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(sent) = Pin::new(upload).poll(cx)
        {
            if let Err(error) = sent {
                // Why the stream ended is what the response says.
                tracing::debug!(%error, "A request was not sent to its end");
            }
            self.upload = None;
        }
        while let Poll::Ready(Some(Ok(answer))) = self.response.poll_informational(cx) {
            if let Some(interim) = self.interim {
                interim.push(answer.status(), answer.headers());
            }
        }
        Pin::new(&mut self.response).poll(cx)
    }
}
