//! The tests a compiled policy is made of: addresses, identities, hosts, paths, header and query values.
//!
//! Called by [`crate::compile`]; nothing here knows of servers, routes or authorizations.

pub(crate) mod host;
pub(crate) mod identity;
pub(crate) mod networks;
pub mod path;
pub(crate) mod suffixes;
pub(crate) mod value;

pub use value::check_regex;
