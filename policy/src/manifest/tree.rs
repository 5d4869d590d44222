//! Reads one document to a tree of values, within bounds: a text may be hostile, and a few bytes of YAML aliases can
//! stand for gigabytes.

use super::{Limits, Problem};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{cell::Cell, fmt};

/// Reads one document; `line` is where it starts in its file.
pub(super) fn read(text: &str, line: usize, limits: &Limits) -> Result<Value, Problem> {
    let budget = Budget {
        values: Cell::new(limits.values),
        string_bytes: Cell::new(limits.string_bytes),
    };
    let root = Tree {
        budget: &budget,
        depth: limits.depth,
    };
    if text.trim_start().starts_with('{') {
        let mut json = serde_json::Deserializer::from_str(text);
        let value = root.deserialize(&mut json);
        if let Ok(value) = value
            && json.end().is_ok()
        {
            return Ok(value);
        }
        // Not JSON; YAML has a notation with braces too.
        budget.values.set(limits.values);
        budget.string_bytes.set(limits.string_bytes);
    }
    nesting(text, limits.depth)?;
    root.deserialize(serde_norway::Deserializer::from_str(text))
        .map_err(|error| Problem::new("", syntax(&error, line)))
}

/// The YAML reader's time grows with the square of open brackets, so they are counted before it starts. Brackets in
/// strings and comments count too, if they are never closed.
fn nesting(text: &str, depth: usize) -> Result<(), Problem> {
    let mut open: usize = 0;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > depth * 16 {
            let reason = "more brackets are opened than closed; close them, or write the document in block style";
            return Err(Problem::new("", reason));
        }
    }
    Ok(())
}

fn syntax(error: &serde_norway::Error, start: usize) -> String {
    let whole = error.to_string();
    if whole.contains("repetition limit") {
        return "its aliases expand too far; write the values out".to_owned();
    }
    match error.location() {
        // The text of the error ends with a place inside the document; a person looks at the file.
        Some(place) => {
            let text = whole.split(" at line ").next().unwrap_or(&whole);
            // The deserializer repeats the path, which for deep nesting is long and says nothing.
            let deep = text.ends_with(TOO_DEEP);
            let text = if deep { TOO_DEEP } else { text };
            let line = start + place.line().saturating_sub(1);
            format!("line {line}, column {}: {text}", place.column())
        }
        None => whole,
    }
}

const TOO_DEEP: &str = "the document is nested too deeply; flatten it";

/// What is left to be read.
struct Budget {
    values: Cell<usize>,
    string_bytes: Cell<usize>,
}

impl Budget {
    fn value<E: Error>(&self) -> Result<(), E> {
        spend(&self.values, 1).ok_or_else(|| {
            E::custom("the document has too many values after its aliases are expanded; split it")
        })
    }

    fn string<E: Error>(&self, text: &str) -> Result<(), E> {
        spend(&self.string_bytes, text.len()).ok_or_else(|| {
            E::custom("the document is too large after its aliases are expanded; split it")
        })
    }
}

fn spend(left: &Cell<usize>, amount: usize) -> Option<()> {
    left.set(left.get().checked_sub(amount)?);
    Some(())
}

/// Builds a value and counts what it builds.
#[derive(Clone, Copy)]
struct Tree<'a> {
    budget: &'a Budget,
    depth: usize,
}

impl Tree<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        let depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| E::custom(TOO_DEEP))?;
        Ok(Self { depth, ..self })
    }

    fn scalar<E: Error>(self, value: impl Into<Value>) -> Result<Value, E> {
        self.budget.value()?;
        Ok(value.into())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without YAML tags")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.scalar(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.scalar(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.scalar(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value)
            .ok_or_else(|| E::custom("infinity and NaN have no place in a manifest"))?;
        self.scalar(number)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.budget.string(value)?;
        self.scalar(value)
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.scalar(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.scalar(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.budget.value()?;
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.budget.value()?;
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.budget.string(&key)?;
            let value = entries.next_value_seed(inner)?;
            if key == "<<" {
                return Err(A::Error::custom(
                    "merge keys (`<<`) are not read; write the fields out",
                ));
            }
            let shown = crate::resource::values::short(&key);
            if map.insert(key, value).is_some() {
                return Err(A::Error::custom(format!(
                    "`{shown}` is given twice; remove one of them"
                )));
            }
        }
        Ok(Value::Object(map))
    }
}
