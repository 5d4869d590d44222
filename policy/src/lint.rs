//! What is valid and yet cannot be what its author meant. `linkerd policy lint` and `linkerd check` show it.

use crate::resource::Key;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Probably a mistake.
    Warning,
    /// Has no effect at all, or cuts traffic.
    Error,
}

/// Something that cannot be what was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Closed name of the check, for scripts.
    pub check: &'static str,
    /// The object.
    pub object: Key,
    /// What is the matter.
    pub message: String,
    /// What to do.
    pub fix: String,
}
