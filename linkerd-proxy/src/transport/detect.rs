//! Decides from a connection's first bytes whether it speaks HTTP, and which version.
//!
//! The verdict depends on the bytes alone, never on how the network cut them: while what was read could still become
//! HTTP, more is read. Called by `inbound` (and `outbound`) before a protocol is chosen; it consumes nothing.

use bytes::BytesMut;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// HTTP/2's connection preface (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method taken for HTTP/1. Registered methods have at most 17 characters (RFC 9110 §16.1).
const MAX_METHOD: usize = 24;
/// A request line that is still consistent after this many bytes is HTTP/1; the HTTP server then applies its limits.
const MAX_REQUEST_LINE: usize = 8192;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 preface.
    Http2,
}

/// What is known of some first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They could still become HTTP.
    NeedMore,
    /// They are HTTP.
    Http(Http),
    /// They can never become HTTP.
    NotHttp,
}

/// How detection on a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detected {
    Http(Http),
    /// Something else; also what was too short for HTTP when the peer closed its side.
    NotHttp,
    /// The peer closed its side without a byte.
    Eof,
}

/// Judges the first bytes of a connection.
pub(crate) fn verdict(bytes: &[u8]) -> Verdict {
    if bytes.is_empty() {
        return Verdict::NeedMore;
    }
    let seen = bytes.len().min(PREFACE.len());
    if bytes.get(..seen) == PREFACE.get(..seen) {
        return if seen == PREFACE.len() {
            Verdict::Http(Http::Http2)
        } else {
            Verdict::NeedMore
        };
    }
    http1(bytes)
}

/// `method SP request-target SP HTTP/1.`, with empty lines before it (RFC 9112 §2.2, §3).
fn http1(bytes: &[u8]) -> Verdict {
    let start = bytes
        .iter()
        .take_while(|b| matches!(b, b'\r' | b'\n'))
        .count();
    if start > 4 {
        return Verdict::NotHttp;
    }
    let line = bytes.get(start..).unwrap_or_default();
    let method = line.iter().take_while(|b| is_token(**b)).count();
    match line.get(method) {
        None if method <= MAX_METHOD => return Verdict::NeedMore,
        Some(b' ') if (1..=MAX_METHOD).contains(&method) => {}
        _ => return Verdict::NotHttp,
    }
    let rest = line.get(method + 1..).unwrap_or_default();
    let target = rest
        .iter()
        .take_while(|b| **b > b' ' && **b != 0x7f)
        .count();
    match rest.get(target) {
        None if line.len() > MAX_REQUEST_LINE => return Verdict::Http(Http::Http1),
        None => return Verdict::NeedMore,
        Some(b' ') if target > 0 => {}
        _ => return Verdict::NotHttp,
    }
    let version = rest.get(target + 1..).unwrap_or_default();
    let want = b"HTTP/1.";
    let seen = version.len().min(want.len());
    if version.get(..seen) != want.get(..seen) {
        return Verdict::NotHttp;
    }
    if seen == want.len() {
        Verdict::Http(Http::Http1)
    } else {
        Verdict::NeedMore
    }
}

/// `tchar` of RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Reads into `buffer` until the bytes in it decide. Nothing is consumed: `buffer` is to be replayed.
pub(crate) async fn http<R: AsyncRead + Unpin>(
    io: &mut R,
    buffer: &mut BytesMut,
) -> io::Result<Detected> {
    loop {
        match verdict(buffer) {
            Verdict::Http(version) => return Ok(Detected::Http(version)),
            Verdict::NotHttp => return Ok(Detected::NotHttp),
            Verdict::NeedMore => {}
        }
        buffer.reserve(1024);
        if io.read_buf(buffer).await? == 0 {
            // What it sent is passed on, as it is.
            return Ok(match buffer.is_empty() {
                true => Detected::Eof,
                false => Detected::NotHttp,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decides_by_content() {
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\r\n"[..], Verdict::Http(Http::Http1)),
            (b"GET ", Verdict::NeedMore),
            (b"G", Verdict::NeedMore),
            (b"\r\nGET / HTTP/1.0", Verdict::Http(Http::Http1)),
            (b"CONNECT a:1 HTTP/1.1", Verdict::Http(Http::Http1)),
            (PREFACE, Verdict::Http(Http::Http2)),
            (b"PRI * HTTP/2.0\r\n", Verdict::NeedMore),
            (b"PRI * HTTP/3.0\r\n", Verdict::NotHttp),
            (b"\x16\x03\x01", Verdict::NotHttp),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Verdict::NotHttp),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Verdict::NotHttp),
            (b"GET  / HTTP/1.1", Verdict::NotHttp),
            (b"*1\r\n$4\r\nPING\r\n", Verdict::NotHttp),
        ] {
            assert_eq!(verdict(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test]
    async fn a_few_bytes_and_the_end_are_bytes_and_not_an_error() {
        for (sent, detected) in [
            (&b""[..], Detected::Eof),
            (b"PING", Detected::NotHttp),
            (b"PRI * HT", Detected::NotHttp),
            (b"GET / HTTP/1.1", Detected::Http(Http::Http1)),
        ] {
            let (mut io, mut read) = (sent, BytesMut::new());
            assert_eq!(http(&mut io, &mut read).await.unwrap(), detected);
            assert_eq!(read, sent, "nothing is lost");
        }
    }

    proptest! {
        /// Once decided, more bytes never change the verdict: so no cut of the bytes can.
        #[test]
        fn the_verdict_is_the_same_for_every_cut(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..64),
                "[A-Z]{1,30}[ ]?[!-~]{0,20}[ ]?(HTTP/[0-9.]{0,4})?".prop_map(String::into_bytes),
                (0usize..24, "[ -~]{0,8}").prop_map(|(n, tail)| [&PREFACE[..n], tail.as_bytes()].concat()),
            ]
        ) {
            let mut decided = None;
            for end in 0..=bytes.len() {
                let now = verdict(&bytes[..end]);
                if let Some(before) = decided {
                    prop_assert_eq!(now, before);
                } else if now != Verdict::NeedMore {
                    decided = Some(now);
                }
            }
        }
    }
}
