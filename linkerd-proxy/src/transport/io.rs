//! A connection's bytes: plain or decrypted, with what detection already read in front, counted as they pass.

use super::{
    interim::Interim,
    linger::{Linger, linger},
};
use crate::{
    activity::{Activity, Pulse},
    drain::Drain,
    limit::Limit,
};
use bytes::BytesMut;
use linkerd_metrics::{Counter, Handle};
use linkerd_tls::{ClientStream, Prefixed, ServerStream};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A connection, whichever way its bytes come.
#[derive(Debug)]
pub(crate) struct Io {
    stream: Stream,
    /// Read by detection, to be read again before anything else.
    replay: BytesMut,
    meter: Option<Meter>,
    watch: Option<Arc<Activity>>,
    pulse: Option<Arc<Pulse>>,
    /// Written before a flush.
    interim: Option<Arc<Interim>>,
    /// Present while the end of this is the end of a connection that the client has not ended.
    linger: Option<Box<Linger>>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    /// TLS that we terminated. Boxed: a session is some kilobytes.
    Server(Box<ServerStream<Prefixed<TcpStream>>>),
    /// TLS that we originated.
    Client(Box<ClientStream<TcpStream>>),
}

/// Where a connection's bytes are counted, as the application's bytes, before encryption.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub(crate) read: Handle<Counter>,
    pub(crate) written: Handle<Counter>,
    /// A second count of what is written and read.
    pub(crate) also: Option<[Handle<Counter>; 2]>,
}

impl Io {
    pub(crate) fn tcp(stream: TcpStream, replay: BytesMut) -> Self {
        Self {
            stream: Stream::Tcp(stream),
            replay,
            meter: None,
            watch: None,
            pulse: None,
            interim: None,
            linger: None,
        }
    }

    pub(crate) fn terminated(stream: ServerStream<Prefixed<TcpStream>>) -> Self {
        Self {
            stream: Stream::Server(Box::new(stream)),
            replay: BytesMut::new(),
            meter: None,
            watch: None,
            pulse: None,
            interim: None,
            linger: None,
        }
    }

    pub(crate) fn originated(stream: ClientStream<TcpStream>) -> Self {
        Self {
            stream: Stream::Client(Box::new(stream)),
            replay: BytesMut::new(),
            meter: None,
            watch: None,
            pulse: None,
            interim: None,
            linger: None,
        }
    }

    /// Puts bytes that detection took back in front: of what an earlier look took and this one has not come to, too.
    pub(crate) fn replay(&mut self, mut bytes: BytesMut) {
        bytes.extend_from_slice(&self.replay);
        self.replay = bytes;
    }

    /// Counts from here on; bytes waiting to be replayed are counted when they are read.
    pub(crate) fn meter(&mut self, meter: Meter) {
        self.meter = Some(meter);
    }

    /// Tells `activity` when bytes come.
    pub(crate) fn watch(&mut self, activity: Arc<Activity>) {
        self.watch = Some(activity);
    }

    /// Tells `pulse` when bytes come.
    pub(crate) fn pulse(&mut self, pulse: Arc<Pulse>) {
        self.pulse = Some(pulse);
    }

    /// Writes interim answers whenever this is flushed.
    pub(crate) fn interim(&mut self, interim: Arc<Interim>) {
        self.interim = Some(interim);
    }

    /// Gives the client a moment to hear of the end when this is dropped. The proxy's own end waits for that; it takes
    /// one of `places`, and is left out where there is none.
    pub(crate) fn linger(&mut self, drain: Drain, places: Limit) {
        self.linger = Some(Box::new(Linger { drain, places }));
    }

    fn poll_read_stream(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.replay.is_empty() {
            let n = self.replay.len().min(buf.remaining());
            buf.put_slice(&self.replay.split_to(n));
            if self.replay.is_empty() {
                // Idle connections keep no detection buffer.
                self.replay = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Stream::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Stream::Server(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
            Stream::Client(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
        }
    }

    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Some(meter), Poll::Ready(Ok(n))) = (&self.meter, &result) {
            meter.written.add(*n as u64);
            if let Some([written, _]) = &meter.also {
                written.add(*n as u64);
            }
        }
        result
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        let Some(end) = self.linger.take() else {
            return;
        };
        let stream = match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Server(stream) => stream.get_ref().0.get_ref(),
            Stream::Client(stream) => stream.get_ref().0,
        };
        linger(stream, *end);
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let is_room = buf.remaining() > 0;
        let result = self.poll_read_stream(cx, buf);
        let n = buf.filled().len() - before;
        if matches!(&result, Poll::Ready(read) if read.is_err() || (n == 0 && is_room)) {
            // The client has ended its side, so nothing more of it can be unread.
            self.linger = None;
        }
        if n > 0 {
            if let Some(meter) = &self.meter {
                meter.read.add(n as u64);
                if let Some([_, read]) = &meter.also {
                    read.add(n as u64);
                }
            }
            if let Some(activity) = &self.watch {
                activity.read();
            }
            if let Some(pulse) = &self.pulse {
                pulse.beat();
            }
        }
        result
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Tcp(io) => Pin::new(io).poll_write(cx, bytes),
            Stream::Server(io) => Pin::new(io.as_mut()).poll_write(cx, bytes),
            Stream::Client(io) => Pin::new(io.as_mut()).poll_write(cx, bytes),
        };
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bytes),
            Stream::Server(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, bytes),
            Stream::Client(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, bytes),
        };
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(io) => io.is_write_vectored(),
            Stream::Server(io) => io.is_write_vectored(),
            Stream::Client(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(interim) = self.interim.take() {
            let written = interim.poll_write(cx, &mut self);
            self.interim = Some(interim);
            ready!(written)?;
        }
        match &mut self.stream {
            Stream::Tcp(io) => Pin::new(io).poll_flush(cx),
            Stream::Server(io) => Pin::new(io.as_mut()).poll_flush(cx),
            Stream::Client(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Stream::Server(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
            Stream::Client(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// Two looks at the first bytes, as for TLS and then for HTTP, of which each takes as much as it likes.
    #[tokio::test]
    async fn looking_at_first_bytes_takes_none_of_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (first, second) in [(0, 0), (5, 3), (3, 5), (5, 5), (10, 1), (10, 10)] {
            let address = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"0123456789").await.unwrap();
            client.shutdown().await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut io = Io::tcp(stream, BytesMut::new());
            for count in [first, second] {
                let mut seen = BytesMut::zeroed(count);
                io.read_exact(&mut seen).await.unwrap();
                io.replay(seen);
            }
            let mut all = String::new();
            io.read_to_string(&mut all).await.unwrap();
            assert_eq!(all, "0123456789", "{first} and {second}");
        }
    }
}
