//! The end of a connection that we end: what the client still sends is read for a moment.
//!
//! A socket that is closed while bytes of its client wait unread is reset, and a reset takes back what was answered and
//! not read yet: the answer to a request that was refused half-way, or the last ones before GOAWAY (RFC 9112 §9.6).

use crate::{drain::Drain, limit::Limit};
use socket2::SockRef;
use std::{net::Shutdown, time::Duration};
use tokio::{net::TcpStream, runtime::Handle};

/// How long a client has to hear of the end and to close.
const LINGER: Duration = Duration::from_secs(2);

/// What a connection needs for its end.
#[derive(Debug)]
pub(super) struct Linger {
    /// The proxy's own end waits for it.
    pub(super) drain: Drain,
    /// It counts as a connection still, and is closed at once where there is no place for it.
    pub(super) places: Limit,
}

/// Says on a second handle of the socket that no more comes, and reads on there until the client closes too, for a
/// bounded time. The first handle may be closed at once.
pub(super) fn linger(stream: &TcpStream, linger: Linger) {
    let Linger { mut drain, places } = linger;
    let (Ok(runtime), Some(place)) = (Handle::try_current(), places.enter()) else {
        return;
    };
    let socket = SockRef::from(stream);
    // An error means that there is no connection any more.
    if socket.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let Ok(socket) = socket.try_clone() else {
        return;
    };
    let Ok(stream) = TcpStream::from_std(socket.into()) else {
        return;
    };
    runtime.spawn(async move {
        let _place = place;
        tokio::select! {
            () = discard(&stream) => {}
            () = tokio::time::sleep(LINGER) => {}
            () = drain.cut() => {}
        }
    });
}

async fn discard(stream: &TcpStream) {
    let mut bytes = [0; 4096];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
