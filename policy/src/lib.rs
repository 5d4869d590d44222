//! What is allowed: resource types, index, compiled decision, explanation. Pure: no I/O, no async, no clock.

pub mod compile;
pub mod crd;
pub mod decide;
pub mod default_policy;
pub mod explain;
pub mod filters;
#[cfg(test)]
mod generate;
pub mod index;
mod json;
pub mod lint;
pub mod manifest;
pub mod matchers;
pub mod outbound;
pub mod ports;
#[cfg(feature = "proto")]
pub mod proto;
pub mod rate_limit;
pub mod resource;
pub mod server;

pub use compile::CompileError;
pub use decide::{
    Authorized, Denied, DenyReason, Matched, Peer, PeerId, PeerTls, Policy, RequestView, Verdict,
};
pub use default_policy::DefaultPolicy;
pub use explain::Explanation;
pub use matchers::path::suspicious_path;
pub use rate_limit::{Limited, RateLimiter, Scope};
pub use server::*;
