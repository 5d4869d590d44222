//! The transport header: what a mesh peer writes before opaque or gateway traffic on a direct connection.
//!
//! 23 bytes of preface, a big-endian length, and a protobuf message
//! `{ port: int32 = 1, name: string = 2, session_protocol: SessionProtocol = 3 }`.

use bytes::{Buf, BufMut, BytesMut};
use prost::Message;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Also the ALPN protocol of direct connections, followed by an empty line.
const PREFACE: &[u8] = b"transport.l5d.io/v1\r\n\r\n";
/// Longest message accepted, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// The decoded header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TransportHeader {
    /// Port the bytes are for.
    pub(crate) port: u16,
    /// Name of the final destination; set for a gateway.
    pub(crate) name: Option<String>,
    /// What is spoken inside.
    pub(crate) protocol: Option<SessionProtocol>,
}

/// What is spoken behind the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SessionProtocol {
    Http1,
    Http2,
}

/// Why a header is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("reading the transport header: {0}")]
    Io(#[from] io::Error),
    #[error("the connection does not begin with the transport header's preface")]
    Preface,
    #[error("the transport header's length {0} is over {MAX_MESSAGE}")]
    Length(usize),
    #[error("the transport header is not a valid message: {0}")]
    Message(#[from] prost::DecodeError),
    #[error("the transport header's port {0} is not in 1..=65535")]
    Port(i32),
}

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(int32, tag = "1")]
    port: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, optional, tag = "3")]
    session_protocol: Option<WireProtocol>,
}

#[derive(Clone, PartialEq, Message)]
struct WireProtocol {
    #[prost(message, optional, tag = "1")]
    http1: Option<Empty>,
    #[prost(message, optional, tag = "2")]
    http2: Option<Empty>,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// Reads a header; what follows it stays in `buffer`. Memory is bounded by the longest message.
pub(crate) async fn read<R: AsyncRead + Unpin>(
    io: &mut R,
    buffer: &mut BytesMut,
) -> Result<TransportHeader, HeaderError> {
    fill(io, buffer, PREFACE.len() + 4).await?;
    if !buffer.starts_with(PREFACE) {
        return Err(HeaderError::Preface);
    }
    buffer.advance(PREFACE.len());
    let length = buffer.get_u32() as usize;
    if length > MAX_MESSAGE {
        return Err(HeaderError::Length(length));
    }
    fill(io, buffer, length).await?;
    decode(&buffer.split_to(length))
}

/// Decodes the message of a header.
pub(crate) fn decode(message: &[u8]) -> Result<TransportHeader, HeaderError> {
    let wire = Wire::decode(message)?;
    let port = u16::try_from(wire.port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or(HeaderError::Port(wire.port))?;
    let protocol = wire.session_protocol.and_then(|protocol| {
        if protocol.http2.is_some() {
            Some(SessionProtocol::Http2)
        } else {
            protocol.http1.map(|_| SessionProtocol::Http1)
        }
    });
    let name = (!wire.name.is_empty()).then_some(wire.name);
    Ok(TransportHeader {
        port,
        name,
        protocol,
    })
}

/// Appends an encoded header, as a client of a direct connection sends it.
pub(crate) fn encode(header: &TransportHeader, out: &mut BytesMut) {
    let session_protocol = header.protocol.map(|protocol| WireProtocol {
        http1: (protocol == SessionProtocol::Http1).then_some(Empty {}),
        http2: (protocol == SessionProtocol::Http2).then_some(Empty {}),
    });
    let wire = Wire {
        port: i32::from(header.port),
        name: header.name.clone().unwrap_or_default(),
        session_protocol,
    };
    let message = wire.encode_to_vec();
    out.put_slice(PREFACE);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(&message);
}

/// Reads until `buffer` holds `wanted` bytes.
async fn fill<R: AsyncRead + Unpin>(
    io: &mut R,
    buffer: &mut BytesMut,
    wanted: usize,
) -> io::Result<()> {
    while buffer.len() < wanted {
        if io.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_header_survives_the_wire_and_leaves_what_follows() {
        for protocol in [
            None,
            Some(SessionProtocol::Http1),
            Some(SessionProtocol::Http2),
        ] {
            let header = TransportHeader {
                port: 4242,
                name: Some("web.shop".into()),
                protocol,
            };
            let mut wire = BytesMut::new();
            encode(&header, &mut wire);
            wire.put_slice(b"rest");
            let mut buffer = BytesMut::new();
            let mut io = tokio_test_io(&wire);
            assert_eq!(read(&mut io, &mut buffer).await.unwrap(), header);
            let mut rest = buffer.to_vec();
            io.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"rest");
        }
    }

    #[tokio::test]
    async fn hostile_headers_are_refused_by_name() {
        let mut oversize = BytesMut::from(PREFACE);
        oversize.put_u32(u32::MAX);
        let mut zero = BytesMut::new();
        encode(
            &TransportHeader {
                port: 0,
                name: None,
                protocol: None,
            },
            &mut zero,
        );
        for (wire, want) in [
            (
                BytesMut::from(&b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"[..]),
                "preface",
            ),
            (oversize, "length"),
            (zero, "port 0"),
            (BytesMut::from(&PREFACE[..9]), "eof"),
        ] {
            let error = read(&mut tokio_test_io(&wire), &mut BytesMut::new())
                .await
                .unwrap_err();
            let text = error.to_string().to_lowercase() + &format!("{error:?}").to_lowercase();
            assert!(text.contains(want), "{text} should name {want}");
        }
    }

    /// A reader that hands out one byte at a time: the worst cut.
    fn tokio_test_io(bytes: &[u8]) -> impl AsyncRead + Unpin + use<> {
        struct OneByOne(io::Cursor<Vec<u8>>);
        impl AsyncRead for OneByOne {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                out: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                let mut byte = [0];
                if io::Read::read(&mut self.0, &mut byte)? == 1 {
                    out.put_slice(&byte);
                }
                std::task::Poll::Ready(Ok(()))
            }
        }
        OneByOne(io::Cursor::new(bytes.to_vec()))
    }
}
