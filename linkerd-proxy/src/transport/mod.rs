//! Sockets and bytes, below any protocol: listeners, original destination, detection, relays.

pub(crate) mod detect;
pub(crate) mod header;
pub(crate) mod interim;
pub(crate) mod io;
mod linger;
pub(crate) mod listen;
pub(crate) mod relay;

pub(crate) use self::{io::Io, listen::SocketOptions};
