//! The sidecar: a process in front of a workload that terminates mTLS, finds out who is calling, checks the connection
//! and each request against discovered policy, forwards it, and records it in metrics.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the environment, read once, as one table |
//! | [`run`] | threads, sockets and the life cycle |
//! | `inbound` | a connection's life from accept to the application |
//! | `outbound` | the other way: discovery, mTLS, to other workloads |
//! | `http` | the HTTP client, bodies, the shape of requests |
//! | `transport` | sockets and bytes |
//! | `discovery` | what controllers say, as live snapshots |
//! | `telemetry` | spans and the access log |
//! | `admin` | metrics, readiness, what is enforced and why |
//! | `table` | tables for people |
//! | `drain`, `limit`, `activity` | what every connection shares |
//! | `balancer` | series of everything that balances |
//! | `fuzzing` | what the fuzz targets reach |
//! | `hosts` | series by names that clients choose, where operators want them |

pub mod config;
#[doc(hidden)]
pub mod fuzzing;

mod activity;
mod admin;
mod balancer;
mod discovery;
mod drain;
mod hosts;
mod http;
mod inbound;
mod limit;
mod logging;
mod outbound;
mod run;
mod table;
mod telemetry;
mod transport;

pub use inbound::failure::markdown as failures;
pub use run::{Error, main_from_env};
pub use table::table;
