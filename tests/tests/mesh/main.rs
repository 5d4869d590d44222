//! The whole system on real sockets with real TLS: manifests in a directory, our controller, the real sidecar.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here is the test"
)]

mod admin;
mod answers;
mod authorization;
mod certificates;
mod contract;
mod contract_inbound;
mod contract_pages;
mod cut;
mod drain;
mod expiry;
mod failures;
mod frames;
mod harness;
mod hostile;
mod http;
mod ingress;
mod interim;
mod interop;
mod life;
mod messages;
mod metrics;
mod namespaces;
mod opaque;
mod origin;
mod outbound;
mod outbound_away;
mod outbound_bodies;
mod outbound_breakers;
mod outbound_closed;
mod outbound_conditions;
mod outbound_connecting;
mod outbound_egress;
mod outbound_injection;
mod outbound_kept;
mod outbound_limits;
mod outbound_messages;
mod outbound_policy;
mod outbound_protocols;
mod outbound_required;
mod outbound_retries;
mod outbound_routing;
mod outbound_telemetry;
mod outbound_timeouts;
mod outbound_unready;
mod peer;
mod pings;
mod promql;
mod redirected;
mod resets;
mod series;
mod slow;
mod smuggling;
mod spire;
mod trust;
mod upgrades;
mod variables;
mod whole;
