//! One HTTP connection of a client, on either side: driven until it ends, is idle or slow beyond its limits, or the
//! proxy drains.

use super::{
    ConnectionLimits, HttpError,
    body::{Body, Received},
    http2::Serving,
    interim::Interim,
};
use crate::{
    activity::Activity,
    drain::{Drain, Phase},
    transport::{Io, interim::Interim as Waiting},
};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

/// A connection that can be asked to end after what is in flight.
pub(crate) trait Served: Future {
    /// A client without a request loses nothing when it is told to go; else it may be half-way through one.
    const IS_TOLD: bool;

    fn finish(self: Pin<&mut Self>);

    /// How it ended.
    fn ended(output: Self::Output) -> Result<(), HttpError>;
}

impl<S> Served for http1::UpgradeableConnection<TokioIo<Io>, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const IS_TOLD: bool = false;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }

    fn ended(output: Self::Output) -> Result<(), HttpError> {
        output.map_err(HttpError::from)
    }
}

impl<A, F> Served for Serving<A>
where
    A: Fn(Request<Received>, Interim) -> F + Unpin,
    F: Future<Output = Result<Response<Body>, h2::Error>> + Send + 'static,
{
    const IS_TOLD: bool = true;

    fn finish(self: Pin<&mut Self>) {
        self.get_mut().finish();
    }

    fn ended(output: Self::Output) -> Result<(), HttpError> {
        output
    }
}

/// A client's connection of HTTP/1, with `answer` for each of its requests.
pub(crate) fn http1<A, F>(mut io: Io, max_head: usize, answer: A) -> impl Served
where
    A: Fn(Request<Received>, Interim) -> F,
    F: Future<Output = Result<Response<Body>, h2::Error>>,
{
    let waiting = Arc::<Waiting>::default();
    io.interim(waiting.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        // On the heap while there is a request: hyper keeps room for one in each connection, and most are idle.
        Box::pin(answer(
            request.map(Received::Http1),
            Interim::Http1(waiting.clone()),
        ))
    });
    http1::Builder::new()
        .half_close(true)
        .max_header_size(max_head)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
}

/// The limits of a connection, and who is told when one is reached.
pub(crate) struct Limits<'l> {
    pub(crate) settings: ConnectionLimits,
    pub(crate) activity: &'l Activity,
    /// Takes `header_timeout` or `idle_timeout`.
    pub(crate) reached: &'l (dyn Fn(&'static str) + Send + Sync),
}

/// Drives a connection until it ends, is idle or slow beyond its limits, the proxy is in `phase`, or `closing`
/// completes.
///
/// HTTP/2 can be told to go at once, since GOAWAY loses nothing; HTTP/1 clients learn it from `Connection: close` on
/// their next answer, and only when the drain window is over are idle connections shut. A connection that comes in the
/// drain window is told once its first request is there: who has not heard of the end is answered.
pub(crate) async fn drive<S: Served>(
    served: S,
    limits: Limits<'_>,
    mut drain: Drain,
    phase: Phase,
    closing: impl Future<Output = ()>,
) -> Result<(), HttpError> {
    let mut served = pin!(served);
    let mut closing = pin!(closing);
    let mut ending = false;
    let left = || limits.settings.left(limits.activity);
    let idle = limits.settings.idle;
    let mut limit = pin!(tokio::time::sleep(left().min(idle)));
    let mut is_late = drain.phase() >= phase && phase < Phase::Closing;
    loop {
        let due = if is_late { Phase::Closing } else { phase };
        // Requests begin while the connection is polled.
        let served_on = poll_fn(|cx| match served.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if is_late && !limits.activity.owes_head() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        tokio::select! {
            result = served_on => match result {
                Some(result) => return S::ended(result),
                None => is_late = false,
            },
            () = drain.reached(due), if !ending => {
                ending = true;
                served.as_mut().finish();
            }
            () = &mut closing, if !ending => {
                ending = true;
                served.as_mut().finish();
            }
            () = &mut limit => {
                let left = left();
                if left.is_zero() {
                    let slow = limits.activity.owes_head();
                    (limits.reached)(if slow { "header_timeout" } else { "idle_timeout" });
                    if (slow && !S::IS_TOLD) || ending {
                        return Ok(());
                    }
                    ending = true;
                    served.as_mut().finish();
                }
                // After a polite end, give what is left the time of one head.
                let next = if left.is_zero() { limits.settings.head } else { left.min(idle) };
                limit.as_mut().reset(tokio::time::Instant::now() + next);
            }
        }
    }
}
