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

use super::request as shape;
use http::{HeaderMap, HeaderValue, header};

/// Removes the headers that HTTP/2 has no place for (RFC 9113 §8.2.2); filters may have added some.
fn strip(headers: &mut HeaderMap, keeps_te: bool) {
    shape::strip_hop_by_hop(headers, false);
    headers.remove(header::TRANSFER_ENCODING);
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

/// The windows of a stream and of a connection that a peer is told of at first: as they are set, or, where they follow the
/// traffic, those that it has before it hears of others.
const fn first_windows(is_adaptive: bool, set: (u32, u32)) -> (u32, u32) {
    if is_adaptive {
        (pings::FIRST_WINDOW, pings::FIRST_WINDOW)
    } else {
        set
    }
}
