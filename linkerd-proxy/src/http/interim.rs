//! Interim answers (1xx, RFC 9110 §15.2) on their way to whoever asked, in either version.

use super::request as shape;
use crate::transport::interim::Interim as Bytes;
use ::bytes::Bytes as Data;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// Where the interim answers to a request go.
#[derive(Clone, Debug)]
pub(crate) enum Interim {
    /// To the connection, whose requests follow one another.
    Http1(Arc<Bytes>),
    /// To the stream.
    Http2(Arc<Heads>),
}

/// Interim answers that wait until the stream's task takes them, which is where they come from as well.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    waiting: Mutex<Waiting>,
    is_waiting: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    heads: Vec<Response<()>>,
    /// Bytes of all that were ever taken for this stream.
    bytes: usize,
}

/// The most that an application may say before its answer over HTTP/2, in bytes: no window holds back what waits for a
/// client that does not read it.
const MAX_BYTES: usize = 64 * 1024;

impl Interim {
    /// For requests that may have interim answers: HTTP/1.0 knows none.
    pub(crate) fn of<'i, B>(&'i self, request: &Request<B>) -> Option<&'i Self> {
        (request.version() >= Version::HTTP_11).then_some(self)
    }

    /// Passes an interim answer on. 101 is none of them; 100 is between HTTP/1 neighbours, each of which sends its own.
    pub(crate) fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let is_http1 = matches!(self, Self::Http1(_));
        if status == StatusCode::SWITCHING_PROTOCOLS || (is_http1 && status == StatusCode::CONTINUE)
        {
            return;
        }
        let headers = shaped(headers);
        match self {
            Self::Http1(bytes) => bytes.push(status, &headers),
            Self::Http2(heads) => heads.push(status, headers),
        }
    }

    /// Completes when the answer itself may follow.
    pub(crate) async fn sent(&self) {
        match self {
            Self::Http1(bytes) => bytes.sent().await,
            // They go to the same stream, in their order.
            Self::Http2(_) => {}
        }
    }
}

/// The headers as whoever asked is to see them.
fn shaped(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    shape::strip_hop_by_hop(&mut headers, false);
    shape::distrust(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRANSFER_ENCODING);
    headers
}

impl Heads {
    fn push(&self, status: StatusCode, headers: HeaderMap) {
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 32)
            .sum();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = waiting.bytes + bytes + 42;
        if bytes > MAX_BYTES {
            tracing::debug!(%status, "An interim answer is left out: there were too many before it");
            return;
        }
        waiting.bytes = bytes;
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers;
        waiting.heads.push(head);
        self.is_waiting.store(true, Ordering::Release);
    }

    /// Sends what waits.
    pub(super) fn send(&self, respond: &mut SendResponse<Data>) {
        if !self.is_waiting.swap(false, Ordering::Acquire) {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for head in waiting.heads.drain(..) {
            if let Err(error) = respond.send_informational(head) {
                tracing::debug!(%error, "An interim answer cannot be sent");
            }
        }
    }
}
