//! Reads manifests: YAML with any number of documents, or JSON, `List` objects included.
//!
//! The controller's directory source and the CLI call this. It does what an API server and the admission webhook do
//! for a cluster: defaults, `oneOf`, enums, limits, and the rules of admission. One bad document is one error; the
//! others are good. The input is not trusted: size, nesting and alias expansion are bounded by [`Limits`].

mod check;
mod check_route;
mod check_traffic;
mod complain;
mod kinds;
mod split;
mod tree;

pub use self::kinds::KINDS;
pub(crate) use complain::nearest;

use crate::resource::{Key, Resource};
use serde_json::Value;
use std::fmt;

/// Longest name an object can have; what is longer is not repeated.
const LONGEST_NAME: usize = 253;

/// Bounds of what [`parse_within`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a text.
    pub bytes: usize,
    /// Documents in a text, items of lists included.
    pub documents: usize,
    /// Values in one document after aliases are expanded.
    pub values: usize,
    /// Bytes of strings in one document after aliases are expanded.
    pub string_bytes: usize,
    /// Levels of nesting.
    pub depth: usize,
}

impl Default for Limits {
    /// A few times what an API server would store in one object (1.5 MiB), and a large directory's worth of text.
    fn default() -> Self {
        Self {
            bytes: 16 << 20,
            documents: 100_000,
            values: 1_000_000,
            string_bytes: 16 << 20,
            depth: 64,
        }
    }
}

/// One object of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Which document of the text it is, from 0. Items of one list share it.
    pub index: usize,
    /// The object.
    pub resource: Resource,
}

/// A document, or an item of a list, that is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// Which document of the text it is, from 0.
    pub document: usize,
    /// Line of the text where the document starts, from 1.
    pub line: usize,
    /// Its kind, if that could be read.
    pub kind: Option<Box<str>>,
    /// Its namespace, if that could be read.
    pub namespace: Option<Box<str>>,
    /// Its name, if that could be read.
    pub name: Option<Box<str>>,
    /// Path of the field, for example `spec.rules[0].matches[1].path.value`; empty for the document as a whole.
    pub field: String,
    /// What is wrong with which value, and what to write instead.
    pub reason: String,
    /// It was understood, and breaks a rule that every admission of the mesh has. Otherwise it is not understood, or goes
    /// beyond what is done here; objects that others read too may do that.
    pub is_rule: bool,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.document + 1;
        write!(f, "document {number} (line {})", self.line)?;
        if let Some(kind) = &self.kind {
            write!(f, ", {kind}")?;
        }
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) if !namespace.is_empty() => {
                write!(f, " {namespace}/{name}")?;
            }
            (_, Some(name)) => write!(f, " {name}")?,
            _ => {}
        }
        match self.field.as_str() {
            "" => write!(f, ": {}", self.reason),
            field => write!(f, ": {field}: {}", self.reason),
        }
    }
}

/// A field, what is wrong with it, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    field: String,
    reason: String,
    /// As [`ManifestError::is_rule`].
    is_rule: bool,
}

impl Problem {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
            is_rule: false,
        }
    }
}

/// Reads every document of a text, within the default [`Limits`].
pub fn parse(text: &str) -> Vec<Result<Document, ManifestError>> {
    parse_within(text, &Limits::default())
}

/// Reads every document of a text.
pub fn parse_within(text: &str, limits: &Limits) -> Vec<Result<Document, ManifestError>> {
    let mut out = Vec::new();
    if text.len() > limits.bytes {
        let reason = format!(
            "{} bytes are more than the limit of {}; split the file",
            text.len(),
            limits.bytes
        );
        out.push(Err(error(0, 1, &Value::Null, Problem::new("", reason))));
        return out;
    }
    for (index, chunk) in split::documents(text).enumerate() {
        if out.len() >= limits.documents {
            let reason = format!(
                "the text has more than {} objects; split the file",
                limits.documents
            );
            out.push(Err(error(
                index,
                chunk.line,
                &Value::Null,
                Problem::new("", reason),
            )));
            break;
        }
        match tree::read(chunk.text, chunk.line, limits) {
            Ok(Value::Null) => {}
            Ok(value) => document(index, chunk.line, value, limits, &mut out),
            Err(problem) => {
                let head = split::head(chunk.text);
                out.push(Err(error(index, chunk.line, &head, problem)));
            }
        }
    }
    out
}

/// One document: an object, or a list of objects.
fn document(
    index: usize,
    line: usize,
    mut value: Value,
    limits: &Limits,
    out: &mut Vec<Result<Document, ManifestError>>,
) {
    let is_list = value
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    let items = value.get_mut("items").map(Value::take);
    let (true, Some(Value::Array(items))) = (is_list, items) else {
        out.push(object(index, line, "", value));
        return;
    };
    for (i, item) in items.into_iter().enumerate() {
        if out.len() >= limits.documents {
            let reason = format!("more than {} objects; split the list", limits.documents);
            let problem = Problem::new(format!("items[{i}]"), reason);
            out.push(Err(error(index, line, &Value::Null, problem)));
            return;
        }
        out.push(object(index, line, &format!("items[{i}]."), item));
    }
}

fn object(
    index: usize,
    line: usize,
    prefix: &str,
    value: Value,
) -> Result<Document, ManifestError> {
    let head = head(&value);
    kinds::read(value)
        .map(|resource| Document { index, resource })
        .map_err(|problem| {
            let field = format!("{prefix}{}", problem.field);
            error(index, line, &head, Problem { field, ..problem })
        })
}

/// Reads one object that is already a tree of values, for example from an API server. The bounds are those of whoever
/// made the tree.
pub fn from_value(value: Value) -> Result<Resource, ManifestError> {
    object(0, 1, "", value).map(|d| d.resource)
}

/// What an error says about the object: its kind, namespace and name.
fn head(value: &Value) -> Value {
    let text = |pointer| value.pointer(pointer).cloned().unwrap_or_default();
    serde_json::json!({
        "kind": text("/kind"),
        "namespace": text("/metadata/namespace"),
        "name": text("/metadata/name"),
    })
}

fn error(document: usize, line: usize, head: &Value, problem: Problem) -> ManifestError {
    let text = |field| {
        let value = head.get(field).and_then(Value::as_str);
        value.filter(|v| v.len() <= LONGEST_NAME).map(Box::from)
    };
    ManifestError {
        document,
        line,
        kind: text("kind"),
        namespace: text("namespace"),
        name: text("name"),
        field: problem.field,
        reason: problem.reason,
        is_rule: problem.is_rule,
    }
}

impl ManifestError {
    /// Whether the error is about the object `key`, for a source that keeps the last good version of it.
    pub fn is_about(&self, key: &Key) -> bool {
        let namespace = self.namespace.as_deref().unwrap_or("default");
        self.kind.as_deref() == Some(key.kind.as_str())
            && self.name.as_deref() == Some(key.name.as_str())
            && (key.namespace.is_empty() || namespace == key.namespace)
    }
}

/// Seconds of a Go duration such as `1h2m3.5s`.
pub fn go_duration_seconds(text: &str) -> Option<f64> {
    check_route::go_duration(text)
}

/// The ends of a range of statuses, of which one may be absent.
pub(crate) fn status_bounds(range: crate::resource::traffic::StatusRange) -> (u16, u16) {
    check_traffic::bounds(range)
}

#[cfg(test)]
mod tests;
