//! Which route takes a request or a connection on the outbound side.
