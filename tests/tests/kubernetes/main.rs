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
mod cli;
mod clusters;
mod control_plane;
mod destination;
mod faults;
mod forwarding;
mod gateway;
mod helm;
mod identity;
mod injected;
mod injection;
mod node;
mod peer;
mod policy;
mod rights;
mod schema;
mod sidecar;
mod slices;
mod statuses;
mod upgrade;

pub(crate) use linkerd_tests::{api_server as server, free_port};
