//! What is said of single requests to who asks for it: spans, and the access log. Metrics are elsewhere.

pub(crate) mod access_log;
pub(crate) mod context;
pub(crate) mod export;
pub(crate) mod otlp;
pub(crate) mod trace;
