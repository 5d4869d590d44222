//! Families of balancers of the clients that the proxy has of its own: those of the control plane, and of the collector
//! of spans. The same for each, so that they are written down once.

use super::balancer::{Balancer, QUEUE};
use super::{Desc, Entry, Unit, families};

const ADDR: &[&str] = &["addr"];

macro_rules! balancers {
    ($($(#[$doc:meta])* $client:ident $prefix:literal;)*) => {$(
        $(#[$doc])*
        pub mod $client {
            use super::{ADDR, Balancer, Desc, QUEUE, Unit, families};

            families! {
                TABLE:
                /// The number of endpoints of the client by state.
                /// `endpoint_state`: `ready`: connected to; `pending`: not.
                ENDPOINTS =
                    Desc::gauge(concat!($prefix, "_balancer_endpoints")).peer().labels(&[&["endpoint_state"], ADDR]);
                /// The number of endpoints of the client.
                /// The addresses that its name has.
                P2C_ENDPOINTS = Desc::gauge(concat!($prefix, "_balancer_p2c_endpoints")).peer().labels(&[ADDR]);
                /// The number of changes to the endpoints of the client.
                /// `op`: `Reset`, `Add`, `Remove`.
                P2C_UPDATES_TOTAL =
                    Desc::counter(concat!($prefix, "_balancer_p2c_updates_total")).peer().labels(&[&["op"], ADDR]);
                /// The number of calls that wait for an endpoint.
                QUEUE_LENGTH = Desc::gauge(concat!($prefix, "_balancer_queue_length")).peer().labels(&[ADDR]);
                /// The number of calls that asked for an endpoint.
                QUEUE_REQUESTS_TOTAL =
                    Desc::counter(concat!($prefix, "_balancer_queue_requests_total")).peer().labels(&[ADDR]);
                /// The time calls waited for an endpoint.
                QUEUE_LATENCY_SECONDS =
                    Desc::histogram(concat!($prefix, "_balancer_queue_latency_seconds"), QUEUE)
                        .unit(Unit::Seconds)
                        .peer()
                        .labels(&[ADDR]);
                /// The number of times that there was an endpoint again.
                /// After one of `queue_gate_shut_total`.
                QUEUE_GATE_OPEN_TOTAL =
                    Desc::counter(concat!($prefix, "_balancer_queue_gate_open_total")).peer().labels(&[ADDR]);
                /// The number of times that there was no endpoint for as long as a call may wait.
                QUEUE_GATE_SHUT_TOTAL =
                    Desc::counter(concat!($prefix, "_balancer_queue_gate_shut_total")).peer().labels(&[ADDR]);
                /// Time when there was an endpoint again, in seconds since 1970.
                /// 0 if never.
                QUEUE_GATE_OPEN_TIME_SECONDS =
                    Desc::gauge(concat!($prefix, "_balancer_queue_gate_open_time_seconds"))
                        .unit(Unit::Seconds)
                        .peer()
                        .labels(&[ADDR]);
                /// Time when there had been no endpoint for too long, in seconds since 1970.
                /// 0 if never.
                QUEUE_GATE_SHUT_TIME_SECONDS =
                    Desc::gauge(concat!($prefix, "_balancer_queue_gate_shut_time_seconds"))
                        .unit(Unit::Seconds)
                        .peer()
                        .labels(&[ADDR]);
                /// How long a call may wait for an endpoint.
                QUEUE_GATE_TIMEOUT_SECONDS =
                    Desc::gauge(concat!($prefix, "_balancer_queue_gate_timeout_seconds"))
                        .unit(Unit::Seconds)
                        .peer()
                        .labels(&[ADDR]);
            }

            /// All of them.
            pub static BALANCER: Balancer = Balancer {
                endpoints: &ENDPOINTS,
                size: &P2C_ENDPOINTS,
                updates: &P2C_UPDATES_TOTAL,
                queue_length: &QUEUE_LENGTH,
                queue_requests: &QUEUE_REQUESTS_TOTAL,
                queue_latency: &QUEUE_LATENCY_SECONDS,
                gate_open: &QUEUE_GATE_OPEN_TOTAL,
                gate_shut: &QUEUE_GATE_SHUT_TOTAL,
                gate_open_time: &QUEUE_GATE_OPEN_TIME_SECONDS,
                gate_shut_time: &QUEUE_GATE_SHUT_TIME_SECONDS,
                gate_timeout: &QUEUE_GATE_TIMEOUT_SECONDS,
            };
        }
    )*};
}

balancers! {
    /// The client of the destination service.
    control_destination "control_destination";
    /// The client of the policy service.
    control_policy "control_policy";
    /// The client of the identity service.
    control_identity "control_identity";
    /// The client of the collector of spans.
    opentelemetry "opentelemetry";
}
