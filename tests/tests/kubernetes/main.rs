//! The control plane on a real Kubernetes API server. Servers are built by `cargo xtask tools`; without them the tests
//! say loudly that they are skipped.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what fails here is the test"
)]

mod admit;
mod api;
mod certificates;
mod control_plane;
mod destination;
mod gateway;
mod helm;
mod identity;
mod injection;
mod node;
mod policy;
mod server;
mod sidecar;
mod statuses;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    listener.local_addr().unwrap().port()
}
