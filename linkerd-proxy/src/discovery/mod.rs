//! What the control plane says, as live values: each file turns a stream or a call into something to load.
//!
//! | file | asks | gives |
//! |---|---|---|
//! | `client` | – | reconnecting gRPC connections to the replicas of a controller |
//! | `dns` | name servers | where the name of a controller leads |
//! | `policy` | `InboundServerPolicies.WatchPort` | [`policy::PolicyStore`]: a snapshot for each port |
//! | `outbound` | `OutboundPolicies.Watch`, `Destination.GetProfile` | [`outbound::OutboundStore`]: what applies to each destination |
//! | `endpoints` | `Destination.Get` | [`endpoints::EndpointWatch`]: the endpoints of a name |
//! | `stream` | – | following a stream, within limits, for ever |
//! | `identity` | `Identity.Certify` | certificates for [`linkerd_tls::LocalIdentity`] |
//!
//! All of it runs on the admin thread's runtime; workers only load what is there.

pub(crate) mod backoff;
pub(crate) mod client;
pub(crate) mod dns;
pub(crate) mod endpoints;
pub(crate) mod identity;
pub(crate) mod metrics;
pub(crate) mod outbound;
pub(crate) mod policy;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
