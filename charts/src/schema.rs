//! The schema of values: the part of JSON Schema that the charts' schemas use. Unknown keys are refused with what was meant.

use serde_json::{Map, Value};

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which, as `--set` would name it; empty for all of them.
    pub field: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// The defaults that a schema says.
pub fn defaults(schema: &Value) -> Value {
    if let Some(default) = schema.get("default") {
        return default.clone();
    }
    let fields = properties(schema).map(|(name, schema)| (name.clone(), defaults(schema)));
    Value::Object(fields.collect())
}

/// The fields that a schema knows, in its order.
pub fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let fields = schema.get("properties").and_then(Value::as_object);
    fields.into_iter().flatten()
}

/// What is wrong with a value, all of it.
pub fn problems(schema: &Value, value: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    check(schema, value, &mut String::new(), &mut problems);
    problems
}

fn check(schema: &Value, value: &Value, at: &mut String, problems: &mut Vec<Problem>) {
    let mut wrong = |reason: String| {
        problems.push(Problem {
            field: at.clone(),
            reason,
        });
    };
    if let Some(wanted) = mismatch(schema, value) {
        return wrong(format!("is {}, and {wanted} is wanted", shown(value)));
    }
    if let Some(known) = schema.get("enum").and_then(Value::as_array)
        && !known.contains(value)
    {
        let known: Vec<_> = known.iter().map(shown).collect();
        return wrong(format!("is {}; known: {}", shown(value), known.join(", ")));
    }
    for (limit, is_low, word) in [("minimum", true, "at least"), ("maximum", false, "at most")] {
        if let (Some(limit), Some(number)) = (schema.get(limit), value.as_f64())
            && let Some(bound) = limit.as_f64()
            && (if is_low {
                number < bound
            } else {
                number > bound
            })
        {
            return wrong(format!("is {value}; {word} {limit} is wanted"));
        }
    }
    match value {
        Value::Object(fields) => object(schema, fields, at, problems),
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else {
                return;
            };
            for (index, item) in items.iter().enumerate() {
                let end = at.len();
                at.push_str(&format!("[{index}]"));
                check(schema, item, at, problems);
                at.truncate(end);
            }
        }
        _ => {}
    }
}

fn object(
    schema: &Value,
    fields: &Map<String, Value>,
    at: &mut String,
    problems: &mut Vec<Problem>,
) {
    let known = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties");
    for (name, value) in fields {
        let end = at.len();
        if end > 0 {
            at.push('.');
        }
        at.push_str(&name.replace('.', "\\."));
        match (known.and_then(|known| known.get(name)), others) {
            (Some(schema), _) => check(schema, value, at, problems),
            (None, Some(Value::Bool(false))) => problems.push(Problem {
                field: at.clone(),
                reason: unknown(name, known),
            }),
            (None, Some(schema)) => check(schema, value, at, problems),
            (None, None) => {}
        }
        at.truncate(end);
    }
}

fn unknown(name: &str, known: Option<&Map<String, Value>>) -> String {
    let names = known.into_iter().flat_map(Map::keys);
    let near = names
        .map(|known| (distance(name, known), known))
        .filter(|(distance, known)| *distance <= known.len().min(name.len()) / 3)
        .min();
    match near {
        Some((_, near)) => format!("is not known; is {near} meant?"),
        None => "is not known".to_owned(),
    }
}

/// Edits from one name to another, regardless of case.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (at, left) in one.chars().enumerate() {
        let mut corner = at;
        let mut before = at + 1;
        let mut next = vec![before];
        for (right, above) in other.chars().zip(row.iter().skip(1)) {
            let best = (corner + usize::from(left != right))
                .min(above + 1)
                .min(before + 1);
            corner = *above;
            before = best;
            next.push(best);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// The types that are wanted, if the value has another.
fn mismatch(schema: &Value, value: &Value) -> Option<String> {
    let wanted = schema.get("type")?;
    let wanted: Vec<&str> = match wanted {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let fits = wanted.iter().any(|wanted| match *wanted {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => false,
    });
    let article = |wanted: &&str| match *wanted {
        "string" => "text (--set-string)",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "array" => "a list",
        "null" => "null",
        _ => "a map",
    };
    (!fits).then(|| wanted.iter().map(article).collect::<Vec<_>>().join(" or "))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "a map".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Chart;
    use serde_json::json;

    fn said(value: &Value) -> Vec<String> {
        let schema: Value = serde_json::from_str(Chart::ControlPlane.file("values.schema.json"))
            .expect("the schema");
        let problems = problems(&schema, value).into_iter();
        problems
            .map(|problem| format!("{} {}", problem.field, problem.reason))
            .collect()
    }

    #[test]
    fn what_is_wrong_is_said_by_field_with_what_would_be_right() {
        assert_eq!(said(&json!({"proxy": {"uid": 7}})), Vec::<String>::new());
        for (value, expected) in [
            (
                json!({"contollerReplicas": 3}),
                "contollerReplicas is not known; is controllerReplicas meant?",
            ),
            (json!({"proxy": {"zzz": 3}}), "proxy.zzz is not known"),
            (
                json!({"controllerReplicas": "3"}),
                "controllerReplicas is \"3\", and a whole number is wanted",
            ),
            (
                json!({"controllerReplicas": 0}),
                "controllerReplicas is 0; at least 1 is wanted",
            ),
            (
                json!({"webhookFailurePolicy": "fail"}),
                "webhookFailurePolicy is \"fail\"; known: \"Ignore\", \"Fail\"",
            ),
            (
                json!({"nodeSelector": {"a.b/c": true}}),
                "nodeSelector.a\\.b/c is true, and text (--set-string) is wanted",
            ),
            (
                json!({"tolerations": [7]}),
                "tolerations[0] is 7, and a map is wanted",
            ),
        ] {
            assert_eq!(said(&value), [expected]);
        }
    }
}
