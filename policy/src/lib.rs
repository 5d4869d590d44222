//! What is allowed: resource types, index, compiled decision, explanation. Pure: no I/O, no async, no clock.

pub mod server;
