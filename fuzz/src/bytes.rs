//! The first bytes of connections, cut in any way, and datagrams.

use bytes::BytesMut;
use linkerd_proxy::fuzzing;
use linkerd_tls::{MAX_SNIFF, Parsed, Sniffed};
use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};
use tokio::io::{AsyncRead, ReadBuf};

/// A connection on which bytes arrive in pieces, and which then ends.
struct Pieces<'b> {
    bytes: &'b [u8],
    /// The lengths of the pieces, taken from here again and again.
    cuts: &'b [u8],
    at: usize,
}

impl<'b> Pieces<'b> {
    /// The first bytes of an input say how the others are cut.
    fn of(input: &'b [u8]) -> Self {
        let (cuts, bytes) = input.split_at(input.len().min(4));
        Self { bytes, cuts, at: 0 }
    }

    /// In one piece.
    fn whole(&self) -> Self {
        Self { cuts: &[], ..*self }
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = match self.cuts {
            [] => self.bytes.len(),
            cuts => {
                let cut = cuts.get(self.at % cuts.len()).copied().unwrap_or_default();
                usize::from(cut) + 1
            }
        };
        let length = length.min(self.bytes.len()).min(buffer.remaining());
        let (piece, rest) = self.bytes.split_at(length);
        buffer.put_slice(piece);
        self.bytes = rest;
        self.at += 1;
        Poll::Ready(Ok(()))
    }
}

/// What becomes of something that never waits.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Protocol detection: the verdict depends on the bytes and not on how they are cut, and loses none.
pub fn detection(input: &[u8]) {
    let mut cut = Pieces::of(input);
    let bytes = cut.bytes;
    let mut whole = cut.whole();
    let (mut one, mut other) = (BytesMut::new(), BytesMut::new());
    let of_cut = now(fuzzing::detect(&mut cut, &mut one));
    let of_whole = now(fuzzing::detect(&mut whole, &mut other));
    assert_eq!(of_cut, of_whole, "cut by {:?}", cut.cuts);
    assert_eq!([&one, cut.bytes].concat(), bytes, "bytes are lost");
}

/// The ClientHello: as for [`detection`]; and a verdict stands, whatever follows.
pub fn client_hello(input: &[u8]) {
    let mut cut = Pieces::of(input);
    let bytes = cut.bytes;
    let mut whole = cut.whole();
    let (mut one, mut other) = (BytesMut::new(), BytesMut::new());
    let of_cut = now(linkerd_tls::sniff(&mut cut, &mut one));
    let of_whole = now(linkerd_tls::sniff(&mut whole, &mut other));
    let (Some(Ok(of_cut)), Some(Ok(of_whole))) = (of_cut, of_whole) else {
        assert!(bytes.is_empty(), "a connection in memory does not fail");
        return;
    };
    assert_eq!(of_cut, of_whole);
    assert!(one.len() <= MAX_SNIFF);
    assert_eq!([&one, cut.bytes].concat(), bytes, "bytes are lost");
    let whole = linkerd_tls::client_hello(bytes);
    let matches = match (&of_whole, &whole) {
        (Sniffed::Tls { sni: one }, Parsed::Tls { sni: other }) => one == other,
        (Sniffed::NotTls, Parsed::NotTls) | (Sniffed::Eof, Parsed::NeedMore) => true,
        _ => false,
    };
    assert!(matches, "{of_whole:?} is not {whole:?}");
    for end in 0..bytes.len().min(64) {
        let early = linkerd_tls::client_hello(bytes.get(..end).unwrap_or_default());
        assert!(early == Parsed::NeedMore || early == whole, "at {end}");
    }
}

/// The transport header: the same however it is cut; what can be read is written and read as the same.
pub fn transport_header(input: &[u8]) {
    let mut cut = Pieces::of(input);
    let mut whole = cut.whole();
    let (mut one, mut other) = (BytesMut::new(), BytesMut::new());
    let of_cut = now(fuzzing::transport_header(&mut cut, &mut one));
    let of_whole = now(fuzzing::transport_header(&mut whole, &mut other));
    assert_eq!(of_cut, of_whole);
    assert_eq!([&one, cut.bytes].concat(), [&other, whole.bytes].concat());
    if let Some(Ok(header)) = of_whole {
        let again = fuzzing::transport_header_again(&header);
        assert_eq!(again, Ok(header));
    }
}

/// The answer of a name server.
pub fn dns_answer(input: &[u8]) {
    fuzzing::dns_answer(input);
}
