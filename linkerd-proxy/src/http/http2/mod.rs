//! HTTP/2 (RFC 9113), served and called with h2 itself: interim answers pass in both directions, and a stream that
//! breaks off is told apart from a whole one.
//!
//! | file | what |
//! |---|---|
//! | `server` | a client's connection: each request a task of its own |
//! | `client` | a connection to an origin, shared by all requests to it |
//! | `receive`, `send` | a stream's body, from the peer and to it, as flow control lets it |
//! | `pings` | whether the peer is still there, and how wide the way to it is |

mod client;
mod pings;
mod receive;
mod send;
mod server;

pub(crate) use self::{
    client::{Sender, connect},
    receive::Receive,
    send::Breaks,
    server::{Serving, Settings},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Removes the headers that HTTP/2 has no place for (RFC 9113 §8.2.2).
fn strip(headers: &mut HeaderMap, keeps_te: bool) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    for name in [
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    let is_trailers = |te: &HeaderValue| te.as_bytes().eq_ignore_ascii_case(b"trailers");
    if !keeps_te || headers.get(header::TE).is_some_and(|te| !is_trailers(te)) {
        headers.remove(header::TE);
    }
}

/// Says how long a body is that is known to its end and does not say so yet.
fn say_length(headers: &mut HeaderMap, length: Option<u64>) {
    if let Some(length) = length {
        headers
            .entry(header::CONTENT_LENGTH)
            .or_insert_with(|| HeaderValue::from(length));
    }
}
