//! Reading a ClientHello without taking part in the handshake: is it TLS, and whom does it ask for?
//!
//! Called by the inbound side for every connection to a port that is not opaque by policy.

use std::io;

use bytes::{Buf, BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::Id;

/// The most that is read of a connection before it is told whether it is TLS, in bytes.
///
/// It holds a ClientHello of 16 KiB (the largest that one record can carry) in up to 64 records. Today's are
/// 200 to 2,000 bytes; post-quantum ones are the long ones.
pub const MAX_SNIFF: usize = MAX_HELLO + MAX_RECORDS * RECORD_HEADER;

/// The longest ClientHello message, with its 4-byte header.
const MAX_HELLO: usize = 16 * 1024;
/// The most records that one ClientHello may be cut into.
const MAX_RECORDS: usize = 64;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Room for a usual ClientHello in one read.
const FIRST_READ: usize = 2048;

/// What a connection's first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole ClientHello may still come of it.
    NeedMore,
    /// No ClientHello can come of it.
    NotTls,
    /// A whole ClientHello.
    Tls {
        /// The one host name it asks for, lower-cased; `None` when it asks for none, or for something that is no DNS name.
        sni: Option<Box<str>>,
    },
}

/// What [`sniff()`] found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// TLS.
    Tls {
        /// As in [`Parsed::Tls`].
        sni: Option<Box<str>>,
    },
    /// Not TLS.
    NotTls,
    /// The peer closed its side before it could be told; what it sent is in the buffer.
    Eof,
}

/// Reads from `io` into `buf` until the verdict is certain. All bytes stay in `buf`, none are taken away; at most
/// [`MAX_SNIFF`] are read. What `buf` held before counts as read first.
///
/// The verdict depends on the bytes and not on how they arrive in pieces. The caller sets the deadline; nothing is lost
/// when the future is dropped.
///
/// # Errors
/// What reading from `io` gives.
pub async fn sniff<IO>(io: &mut IO, buf: &mut BytesMut) -> io::Result<Sniffed>
where
    IO: AsyncRead + Unpin,
{
    loop {
        match client_hello(buf) {
            Parsed::Tls { sni } => return Ok(Sniffed::Tls { sni }),
            Parsed::NotTls => return Ok(Sniffed::NotTls),
            Parsed::NeedMore => {}
        }
        // `client_hello` is never undecided at MAX_SNIFF bytes, so there is room.
        let room = MAX_SNIFF.saturating_sub(buf.len());
        if buf.capacity() == buf.len() {
            buf.reserve(FIRST_READ.min(room));
        }
        let spare = buf.capacity().saturating_sub(buf.len());
        let read = io
            .read_buf(&mut (&mut *buf).limit(room.min(spare.max(1))))
            .await?;
        if read == 0 {
            return Ok(Sniffed::Eof);
        }
    }
}

/// Judges a connection's first bytes, as many as there are.
///
/// TLS is: records of type handshake and version 3.1 or 3.3, which together carry a ClientHello of version 3.3 that is
/// well formed to its end, with its extensions; at most 16 KiB in at most 64 records. It may be cut over records anywhere.
/// A name is only what stands alone in one `server_name` extension and is a DNS name.
///
/// Once it is not `NeedMore`, more bytes change nothing.
pub fn client_hello(bytes: &[u8]) -> Parsed {
    match message(bytes) {
        Ok(message) => match hello(&message) {
            Ok(sni) => Parsed::Tls { sni },
            Err(_) => Parsed::NotTls,
        },
        Err(Stop::NeedMore) => Parsed::NeedMore,
        Err(Stop::NotTls) => Parsed::NotTls,
    }
}

enum Stop {
    NeedMore,
    NotTls,
}

/// The whole first handshake message, put together from the records' contents.
///
/// Walks the records' headers only; their contents are copied once, when the message is complete.
fn message(bytes: &[u8]) -> Result<Vec<u8>, Stop> {
    let mut contents: Vec<&[u8]> = Vec::new();
    let mut have = 0;
    let mut rest = bytes;
    for _ in 0..MAX_RECORDS {
        let (content, complete) = record(&mut rest)?;
        have += content.len();
        contents.push(content);
        if let Some(length) = message_length(&contents)?
            && have >= length
        {
            let mut whole = contents.concat();
            whole.truncate(length);
            return Ok(whole);
        }
        if !complete {
            return Err(Stop::NeedMore);
        }
    }
    Err(Stop::NotTls)
}

/// The next record's content as far as it is there, and whether that is all of it.
fn record<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], bool), Stop> {
    check(rest, 0, |kind| kind == HANDSHAKE)?;
    check(rest, 1, |major| major == 3)?;
    check(rest, 2, |minor| minor == 1 || minor == 3)?;
    let (Some(&high), Some(&low)) = (rest.get(3), rest.get(4)) else {
        return Err(Stop::NeedMore);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // RFC 8446 §5.1: no empty handshake records, none longer than 2^14.
    if length == 0 || length > 1 << 14 {
        return Err(Stop::NotTls);
    }
    let content = rest.get(RECORD_HEADER..).unwrap_or_default();
    match content.get(..length) {
        Some(whole) => {
            *rest = content.get(length..).unwrap_or_default();
            Ok((whole, true))
        }
        None => Ok((content, false)),
    }
}

fn check(bytes: &[u8], at: usize, good: impl Fn(u8) -> bool) -> Result<(), Stop> {
    match bytes.get(at) {
        None => Err(Stop::NeedMore),
        Some(&byte) if good(byte) => Ok(()),
        Some(_) => Err(Stop::NotTls),
    }
}

/// The length of the first handshake message with its header, once that header is there.
fn message_length(contents: &[&[u8]]) -> Result<Option<usize>, Stop> {
    let mut header = contents.iter().flat_map(|content| content.iter().copied());
    match header.next() {
        None => return Ok(None),
        Some(CLIENT_HELLO) => {}
        Some(_) => return Err(Stop::NotTls),
    }
    let (Some(a), Some(b), Some(c)) = (header.next(), header.next(), header.next()) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, a, b, c]) as usize + HANDSHAKE_HEADER;
    if length > MAX_HELLO {
        return Err(Stop::NotTls);
    }
    Ok(Some(length))
}

/// The message's content against its rules.
struct Malformed;

/// A ClientHello (RFC 8446 §4.1.2), to its last byte; gives the name it asks for.
fn hello(message: &[u8]) -> Result<Option<Box<str>>, Malformed> {
    let mut body = message.get(HANDSHAKE_HEADER..).ok_or(Malformed)?;
    if take(&mut body, 2)? != [3, 3] {
        return Err(Malformed);
    }
    take(&mut body, 32)?; // random
    if vector8(&mut body)?.len() > 32 {
        return Err(Malformed); // session id
    }
    let suites = vector16(&mut body)?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err(Malformed);
    }
    if vector8(&mut body)?.is_empty() {
        return Err(Malformed); // compression methods
    }
    if body.is_empty() {
        return Ok(None); // no extensions: TLS 1.2 or older
    }
    let mut extensions = vector16(&mut body)?;
    if !body.is_empty() {
        return Err(Malformed);
    }
    let mut names = None;
    while !extensions.is_empty() {
        let kind = number16(&mut extensions)?;
        let content = vector16(&mut extensions)?;
        if kind == SERVER_NAME && names.replace(content).is_some() {
            return Err(Malformed); // twice: whom does it want?
        }
    }
    names.map_or(Ok(None), server_name)
}

/// The `server_name` extension (RFC 6066 §3): a list that must hold exactly one host name.
fn server_name(mut content: &[u8]) -> Result<Option<Box<str>>, Malformed> {
    let mut list = vector16(&mut content)?;
    if !content.is_empty() || list.is_empty() {
        return Err(Malformed);
    }
    let kind = take(&mut list, 1)?;
    let name = vector16(&mut list)?;
    if kind != [HOST_NAME] || !list.is_empty() {
        return Err(Malformed);
    }
    let name = std::str::from_utf8(name)
        .ok()
        .and_then(|name| Id::dns(name).ok());
    Ok(name.map(|name| name.as_str().into()))
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8], Malformed> {
    let taken = bytes.get(..n).ok_or(Malformed)?;
    bytes.advance(n);
    Ok(taken)
}

fn number16(bytes: &mut &[u8]) -> Result<u16, Malformed> {
    match take(bytes, 2)? {
        &[high, low] => Ok(u16::from_be_bytes([high, low])),
        _ => Err(Malformed),
    }
}

fn vector8<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = take(bytes, 1)?.first().copied().ok_or(Malformed)?;
    take(bytes, usize::from(length))
}

fn vector16<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = number16(bytes)?;
    take(bytes, usize::from(length))
}

#[cfg(test)]
mod tests;
