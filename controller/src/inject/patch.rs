//! A JSON patch (RFC 6902) that is written down while it is applied, so that both say the same.

use serde::Serialize;
use serde_json::{Map, Value};

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operation {
    /// `add` or `replace`.
    pub op: &'static str,
    /// A JSON pointer (RFC 6901).
    pub path: String,
    /// What is put there.
    pub value: Value,
}

/// An object, and what was done to it.
#[derive(Debug)]
pub(super) struct Patch {
    pub(super) object: Value,
    operations: Vec<Operation>,
}

impl Patch {
    pub(super) fn of(object: Value) -> Self {
        Self {
            object,
            operations: Vec::new(),
        }
    }

    pub(super) fn end(self) -> Vec<Operation> {
        self.operations
    }

    /// Puts an entry into a map, which is made where there is none. Nothing is done if it is there already.
    pub(super) fn set(&mut self, map: &str, key: &str, value: Value) {
        self.make(map, Value::Object(Map::new()));
        let Some(Value::Object(fields)) = self.object.pointer_mut(map) else {
            return;
        };
        let old = fields.insert(key.to_owned(), value.clone());
        if old.as_ref() != Some(&value) {
            let op = if old.is_some() { "replace" } else { "add" };
            self.note(op, format!("{map}/{}", escaped(key)), value);
        }
    }

    /// Puts an item into a list, which is made where there is none, before the item at `place`; `None`: last.
    pub(super) fn insert(&mut self, list: &str, place: Option<usize>, value: Value) {
        self.make(list, Value::Array(Vec::new()));
        let Some(Value::Array(items)) = self.object.pointer_mut(list) else {
            return;
        };
        match place.filter(|place| *place < items.len()) {
            Some(place) => {
                items.insert(place, value.clone());
                self.note("add", format!("{list}/{place}"), value);
            }
            None => {
                items.push(value.clone());
                self.note("add", format!("{list}/-"), value);
            }
        }
    }

    /// Makes a map or list where there is none, and what it is in.
    fn make(&mut self, pointer: &str, empty: Value) {
        let there = self.object.pointer(pointer);
        if there.is_some_and(|value| !value.is_null()) {
            return;
        }
        let is_null = there.is_some();
        let Some((parent, key)) = pointer.rsplit_once('/') else {
            return;
        };
        if !parent.is_empty() {
            self.make(parent, Value::Object(Map::new()));
        }
        if let Some(Value::Object(fields)) = self.object.pointer_mut(parent) {
            fields.insert(key.to_owned(), empty.clone());
            let op = if is_null { "replace" } else { "add" };
            self.note(op, pointer.to_owned(), empty);
        }
    }

    fn note(&mut self, op: &'static str, path: String, value: Value) {
        self.operations.push(Operation { op, path, value });
    }
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
