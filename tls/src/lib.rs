//! Workload identity: keys, signing requests, certificates, trust, mutual TLS on both sides, and the reading of
//! ClientHellos.
//!
//! Used by the sidecar (`linkerd-proxy`), by the control plane (`controller`, mostly [`ca`]) and by tests. It speaks no
//! gRPC: who fetches a certificate hands a closure to [`refresh::maintain`].
//!
//! | file | holds |
//! |---|---|
//! | `id` | [`Id`]: a DNS name or SPIFFE URI, and how a certificate is read as exactly one of them |
//! | `trust` | [`TrustAnchors`] |
//! | `key` | [`KeyMaterial`]: the workload's key and signing request |
//! | `local` | [`LocalIdentity`], [`Credentials`]: what we are, swapped whole at each renewal |
//! | `provider`, `verify` | the algorithms we speak; the checks on a peer's certificate |
//! | `sniff` | [`client_hello`], [`sniff()`], [`Prefixed`] |
//! | `accept`, `connect` | handshakes |
//! | `refresh` | when to renew |
//! | `ask` | what a server shows, for people who look: [`presented`], [`vouches`] |
//! | `ca` | a small certificate authority |
//!
//! What we speak: TLS 1.3 only, by aws-lc-rs, set on each configuration and never as the process default. Groups:
//! X25519MLKEM768 (post-quantum hybrid) first, then X25519, secp256r1, secp384r1. No early data. **No resumption**, in
//! either direction: the server sends no tickets and keeps no sessions, so every handshake verifies the peer's
//! certificate against the anchors as they are now.
//!
//! What one established server connection holds: 8.5 KiB, idle as after traffic, of which 4 KiB are the record buffer.
//! `cargo run -p linkerd-tls --example memory` measures it. Records are sent at their full 16 KiB: smaller ones
//! (`max_fragment_size`) cost more CPU and save nothing at rest, since buffers go back after each record; and no tickets
//! means no session store.

#![deny(missing_docs)]

mod accept;
mod ask;
pub mod ca;
mod connect;
mod error;
mod id;
mod key;
mod local;
mod prefixed;
mod provider;
pub mod refresh;
mod sniff;
mod trust;
mod verify;

pub use self::{
    accept::{Accept, Accepted, ServerStream, accept},
    ask::{leads_to, presented, vouches},
    connect::{ClientStream, connect},
    error::{CertificateError, HandshakeError},
    id::{Id, InvalidId},
    key::{KeyError, KeyMaterial},
    local::{ClientConfig, Credentials, IdentityError, LocalIdentity},
    prefixed::Prefixed,
    provider::algorithm_names,
    sniff::{MAX_SNIFF, Parsed, Sniffed, client_hello, sniff},
    trust::{Anchor, TrustAnchors, TrustError, split_der},
    verify::identity_of,
};

/// The protocol that mesh peers must agree on for direct connections to the proxy's own port.
pub const TRANSPORT_ALPN: &[u8] = b"transport.l5d.io/v1";

/// A source of wall-clock time: the system's, or a test's.
pub use rustls::time_provider::TimeProvider;

#[cfg(test)]
mod testing;
