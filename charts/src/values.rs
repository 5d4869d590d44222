//! Values of a chart: its defaults, files over them, and `--set` over those, as Helm has it.

use crate::{
    Chart,
    schema::{self, Problem},
};
use serde_json::{Map, Value};

/// Most items that a list may be made to have by naming one: `a[1023]=x`.
const MAX_INDEX: usize = 1023;

/// Why values cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValues {
    /// It is no YAML, or no map.
    #[error("{origin}: {reason}")]
    Unreadable {
        /// Where it is from.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// The schema refuses them.
    #[error("values of {}: {}", .chart, .problems.iter().map(|problem| format!("{} {}", problem.field, problem.reason)).collect::<Vec<_>>().join("; "))]
    Refused {
        /// Whose schema.
        chart: &'static str,
        /// What is wrong.
        problems: Vec<Problem>,
    },
}

/// Values, without the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(Map<String, Value>);

impl Values {
    /// These on top of the chart's defaults, checked.
    ///
    /// # Errors
    /// [`InvalidValues::Refused`]
    pub fn over_defaults(&self, chart: Chart) -> Result<Value, InvalidValues> {
        let schema = serde_json::from_str(chart.file("values.schema.json")).unwrap_or_default();
        let mut all = schema::defaults(&schema);
        merge(&mut all, Value::Object(self.0.clone()));
        let problems = schema::problems(&schema, &all);
        if problems.is_empty() {
            Ok(all)
        } else {
            Err(InvalidValues::Refused {
                chart: chart.name(),
                problems,
            })
        }
    }

    /// Those of a file over these; `origin` names it.
    ///
    /// # Errors
    /// [`InvalidValues::Unreadable`]
    pub fn add_yaml(&mut self, origin: &str, text: &str) -> Result<(), InvalidValues> {
        let unreadable = |reason: String| InvalidValues::Unreadable {
            origin: origin.to_owned(),
            reason,
        };
        let value: Value =
            serde_norway::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        match value {
            Value::Null => Ok(()),
            Value::Object(fields) => {
                let mut all = Value::Object(std::mem::take(&mut self.0));
                merge(&mut all, Value::Object(fields));
                if let Value::Object(fields) = all {
                    self.0 = fields;
                }
                Ok(())
            }
            _ => Err(unreadable("a map of values is wanted".to_owned())),
        }
    }

    /// One value by its path.
    ///
    /// # Errors
    /// [`InvalidValues::Unreadable`]
    pub fn set(&mut self, path: &str, value: Value) -> Result<(), InvalidValues> {
        let path = parse_path(path)?;
        let mut all = Value::Object(std::mem::take(&mut self.0));
        put(&mut all, &path, value);
        if let Value::Object(fields) = all {
            self.0 = fields;
        }
        Ok(())
    }

    /// What `--set` says: `a.b=1,c={x,y},d[0]=z`; with `as_text` all of it is text, as with `--set-string`.
    ///
    /// # Errors
    /// [`InvalidValues::Unreadable`]
    pub fn add_set(&mut self, text: &str, as_text: bool) -> Result<(), InvalidValues> {
        for pair in split(text, ',') {
            let (path, value) = pair
                .split_once('=')
                .ok_or_else(|| bad(&pair, "key=value is wanted"))?;
            let list = value
                .strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'));
            let value = match list {
                Some("") => Value::Array(Vec::new()),
                Some(items) => split(items, ',')
                    .iter()
                    .map(|item| typed(item, as_text))
                    .collect(),
                None => typed(value, as_text),
            };
            self.set(path, value)?;
        }
        Ok(())
    }

    /// What these are.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// Puts one over the other: maps field by field, all else whole. Null takes a field away, which has its default then.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                match base.get_mut(&name) {
                    Some(_) if value.is_null() => {}
                    Some(field) => merge(field, value),
                    None => {
                        base.insert(name, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}

fn bad(text: &str, reason: &str) -> InvalidValues {
    InvalidValues::Unreadable {
        origin: format!("--set {text}"),
        reason: reason.to_owned(),
    }
}

#[derive(Debug, PartialEq)]
enum Step {
    Field(String),
    Item(usize),
}

fn parse_path(text: &str) -> Result<Vec<Step>, InvalidValues> {
    let mut steps = Vec::new();
    for part in split(text, '.') {
        let (name, items) = match part.split_once('[') {
            Some((name, items)) => (name.to_owned(), Some(items.to_owned())),
            None => (part, None),
        };
        if name.is_empty() {
            return Err(bad(text, "a name is missing"));
        }
        steps.push(Step::Field(name));
        let Some(items) = items else { continue };
        let Some(items) = items.strip_suffix(']') else {
            return Err(bad(text, "`]` is missing"));
        };
        for item in items.split("][") {
            match item.parse() {
                Ok(index) if index <= MAX_INDEX => steps.push(Step::Item(index)),
                _ => {
                    return Err(bad(
                        text,
                        &format!("[{item}]: a number up to {MAX_INDEX} is wanted"),
                    ));
                }
            }
        }
    }
    Ok(steps)
}

fn put(at: &mut Value, path: &[Step], value: Value) {
    let Some((step, rest)) = path.split_first() else {
        *at = value;
        return;
    };
    match step {
        Step::Field(name) => {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            if let Value::Object(fields) = at {
                put(
                    fields.entry(name.clone()).or_insert(Value::Null),
                    rest,
                    value,
                );
            }
        }
        Step::Item(index) => {
            if !at.is_array() {
                *at = Value::Array(Vec::new());
            }
            if let Value::Array(items) = at {
                if items.len() <= *index {
                    items.resize(index + 1, Value::Null);
                }
                if let Some(item) = items.get_mut(*index) {
                    put(item, rest, value);
                }
            }
        }
    }
}

/// Splits outside of braces; a backslash keeps what follows.
fn split(text: &str, at: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut depth, mut escaped) = (0_u32, false);
    for c in text.chars() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
            // What is split again later keeps it.
            if at == '.' {
                continue;
            }
        } else if c == at && depth == 0 {
            parts.push(String::new());
            continue;
        } else if c == '{' {
            depth += 1;
        } else if c == '}' {
            depth = depth.saturating_sub(1);
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

fn typed(text: &str, as_text: bool) -> Value {
    let plain = unescaped(text);
    if as_text {
        return plain.into();
    }
    match text {
        "true" => true.into(),
        "false" => false.into(),
        "null" => Value::Null,
        "0" => 0.into(),
        // `010` and `+1` are text, as for Helm.
        _ if text.starts_with('0') => plain.into(),
        _ => match text.parse::<i64>() {
            Ok(number) if !text.starts_with('+') => number.into(),
            _ => plain.into(),
        },
    }
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut escaped = false;
    for c in text.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            escaped = false;
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn set_is_read_as_helm_reads_it() {
        for (text, expected) in [
            ("a=1", json!({"a": 1})),
            ("a.b=true,c=null", json!({"a": {"b": true}, "c": null})),
            (
                r"nodeSelector.a\.b/c=d",
                json!({"nodeSelector": {"a.b/c": "d"}}),
            ),
            (r"a=x\,y", json!({"a": "x,y"})),
            ("a={x,1}", json!({"a": ["x", 1]})),
            ("a[1].b=c", json!({"a": [null, {"b": "c"}]})),
            ("a=010,b=1.5", json!({"a": "010", "b": "1.5"})),
            ("a=b=c", json!({"a": "b=c"})),
            ("a=", json!({"a": ""})),
        ] {
            let mut values = Values::default();
            values.add_set(text, false).expect(text);
            assert_eq!(Value::Object(values.0), expected, "{text}");
        }
        let mut values = Values::default();
        values.add_set("a=1", true).expect("text");
        assert_eq!(values.fields()["a"], "1");
        for bad in ["a", ".b=1", "a[x]=1", "a[9999]=1", "a[1=2"] {
            assert!(Values::default().add_set(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn later_values_win_field_by_field_and_null_means_the_default() {
        let mut values = Values::default();
        values
            .add_yaml("a", "proxy: {uid: 7, gid: 8}\ncontrollerReplicas: 2")
            .expect("a");
        values
            .add_yaml("b", "proxy: {uid: 9}\ncontrollerReplicas: null")
            .expect("b");
        let all = values.over_defaults(Chart::ControlPlane).expect("values");
        assert_eq!(all["proxy"]["uid"], 9);
        assert_eq!(all["proxy"]["gid"], 8);
        assert_eq!(all["proxy"]["ports"]["inbound"], 4143);
    }
}
