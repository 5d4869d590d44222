//! Copies bytes both ways between two connections, with half-close.
//!
//! A direction owns no buffer while it waits: bytes are read into one buffer of the worker and written from it at
//! once; only what the other side does not take is kept. So an idle relay costs no memory and a busy one reads as much
//! as the socket has.

use bytes::{Buf, BytesMut};
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Size of the worker's read buffer, in bytes.
const READ: usize = 64 * 1024;

thread_local! {
    /// Workers are single-threaded and a read never waits while it holds the buffer, so one serves all relays.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// Which side a relay failed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error("client: {0}")]
    Client(io::Error),
    #[error("origin: {0}")]
    Origin(io::Error),
}

impl RelayError {
    /// The error itself.
    pub(crate) fn io(&self) -> &io::Error {
        match self {
            Self::Client(error) | Self::Origin(error) => error,
        }
    }
}

/// One direction of a relay.
#[derive(Debug, Default)]
struct Direction {
    /// Read and not yet written.
    kept: BytesMut,
    ended: bool,
    done: bool,
}

/// An error of the reading or the writing side of one direction.
enum Side {
    Read(io::Error),
    Write(io::Error),
}

/// Copies until both directions have ended, each ending passed on as the other side's end of stream.
pub(crate) async fn relay<A, B>(client: &mut A, origin: &mut B) -> Result<(), RelayError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut upward = Direction::default();
    let mut downward = Direction::default();
    poll_fn(|cx| {
        let up = upward.poll(cx, client, origin).map_err(|side| match side {
            Side::Read(error) => RelayError::Client(error),
            Side::Write(error) => RelayError::Origin(error),
        })?;
        let down = downward
            .poll(cx, origin, client)
            .map_err(|side| match side {
                Side::Read(error) => RelayError::Origin(error),
                Side::Write(error) => RelayError::Client(error),
            })?;
        if up.is_ready() && down.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), Side>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.done {
            while !self.kept.is_empty() {
                let n =
                    ready!(Pin::new(&mut *to).poll_write(cx, &self.kept)).map_err(Side::Write)?;
                if n == 0 {
                    return Poll::Ready(Err(Side::Write(io::ErrorKind::WriteZero.into())));
                }
                self.kept.advance(n);
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Side::Write)?;
                self.done = true;
                break;
            }
            // A large remainder is given back before waiting for more.
            self.kept = BytesMut::new();
            let read = BUFFER.with_borrow_mut(|buffer| {
                let mut read = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut read)).map_err(Side::Read)?;
                self.pass(cx, to, read.filled())
            });
            match read {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    // TLS holds records back until it is flushed.
                    let _ = Pin::new(&mut *to).poll_flush(cx).map_err(Side::Write)?;
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what can be written now and keeps the rest.
    fn pass<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        mut bytes: &[u8],
    ) -> Poll<Result<(), Side>> {
        if bytes.is_empty() {
            self.ended = true;
        }
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Side::Write(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(n)) => bytes = bytes.get(n..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Side::Write(error))),
                Poll::Pending => {
                    self.kept.extend_from_slice(bytes);
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_half_close_leaves_the_other_direction_open() {
        let (mut client, mut front) = tokio::io::duplex(64);
        let (mut back, mut origin) = tokio::io::duplex(64);
        let relay = tokio::spawn(async move { relay(&mut front, &mut back).await });

        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        origin.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");

        let answer = "a longer answer than any buffer on the way ".repeat(100);
        let writer = async {
            origin.write_all(answer.as_bytes()).await.unwrap();
            origin.shutdown().await.unwrap();
        };
        let mut seen = String::new();
        let (_, read) = tokio::join!(writer, client.read_to_string(&mut seen));
        read.unwrap();
        assert_eq!(seen, answer);
        relay.await.unwrap().unwrap();
    }
}
