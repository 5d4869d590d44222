//! Interim answers (1xx) of an application on their way to an HTTP/1 client: bytes that go out between two answers.
//!
//! The HTTP server has no place for them, so they are handed to the connection beneath it. There they are written when the
//! server flushes, which is when nothing of an earlier answer is left to write; the answer itself waits until they have
//! gone ([`Interim::sent`]).

use super::Io;
use bytes::{Buf as _, BytesMut};
use futures::task::AtomicWaker;
use http::{HeaderMap, StatusCode};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::io::AsyncWrite as _;

/// The most that waits to be written, in bytes; what an application says beyond it is left out.
const MAX_WAITING: usize = 64 * 1024;

/// What waits to be written on one connection.
#[derive(Debug, Default)]
pub(crate) struct Interim {
    bytes: Mutex<BytesMut>,
    is_waiting: AtomicBool,
    sent: AtomicWaker,
}

impl Interim {
    /// Adds an interim answer. Headers are as the client is to see them.
    pub(crate) fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let reason = status.canonical_reason().unwrap_or_default();
        let mut head =
            BytesMut::from(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
        for (name, value) in headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() + head.len() > MAX_WAITING {
            tracing::debug!(%status, "An interim answer is left out: the client does not read those before it");
            return;
        }
        bytes.extend_from_slice(&head);
        self.is_waiting.store(true, Ordering::Release);
    }

    /// Completes when everything has been written.
    pub(crate) async fn sent(&self) {
        if !self.is_waiting.load(Ordering::Acquire) {
            return;
        }
        poll_fn(|cx| {
            self.sent.register(cx.waker());
            if self.is_waiting.load(Ordering::Acquire) {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Writes what waits.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<()>> {
        if !self.is_waiting.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => bytes.advance(n),
            }
        }
        self.is_waiting.store(false, Ordering::Release);
        self.sent.wake();
        Poll::Ready(Ok(()))
    }
}
