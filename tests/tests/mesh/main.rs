//! The whole system on real sockets with real TLS: manifests in a directory, our controller, the real sidecar.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here is the test"
)]

mod authorization;
mod harness;
mod http;
mod life;
mod namespaces;
mod opaque;
mod origin;
