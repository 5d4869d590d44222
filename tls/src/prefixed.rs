//! A stream that gives some bytes again which were read from it before.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An I/O stream that reads `prefix` first and then the stream itself. Writes go straight through.
///
/// The prefix's memory is given back as soon as the last byte of it is read.
#[derive(Debug)]
pub struct Prefixed<IO> {
    prefix: BytesMut,
    io: IO,
}

impl<IO> Prefixed<IO> {
    /// Puts `prefix` (for example what [`crate::sniff()`] read) before what `io` has still to give.
    pub fn new(prefix: BytesMut, io: IO) -> Self {
        Self { prefix, io }
    }

    /// The bytes not read again yet.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The stream below.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The stream below, to be changed. Reading from it while the prefix is not empty changes the order of bytes.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// The bytes not read again yet, and the stream.
    pub fn into_parts(self) -> (BytesMut, IO) {
        (self.prefix, self.io)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prefixed<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.prefix.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let n = this.prefix.len().min(buf.remaining());
        buf.put_slice(this.prefix.get(..n).unwrap_or_default());
        this.prefix.advance(n);
        if this.prefix.is_empty() {
            this.prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prefixed<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn the_prefix_is_read_first_in_any_pieces_and_then_the_stream() {
        for size in [1, 2, 3, 5, 100] {
            let (near, mut far) = tokio::io::duplex(64);
            far.write_all(b" and the stream").await.unwrap();
            far.shutdown().await.unwrap();
            let mut io = Prefixed::new(BytesMut::from("the prefix"), near);
            let mut read = Vec::new();
            let mut piece = vec![0; size];
            loop {
                let n = io.read(&mut piece).await.unwrap();
                if n == 0 {
                    break;
                }
                read.extend_from_slice(&piece[..n]);
            }
            assert_eq!(read, b"the prefix and the stream");
            assert_eq!(io.prefix.capacity(), 0, "its memory is given back");
        }
    }

    #[tokio::test]
    async fn writes_pass_while_the_prefix_waits() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut io = Prefixed::new(BytesMut::from("prefix"), near);
        io.write_all(b"answer").await.unwrap();
        let mut got = [0; 6];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"answer");
        assert_eq!(io.prefix(), b"prefix");
    }
}
