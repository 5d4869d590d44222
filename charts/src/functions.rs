//! The functions that templates may use: those of Helm and of its library of which the charts have need, and no others, so
//! that Helm and `linkerd install` make the same of a template.

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use gotmpl::{FuncMap, Result, Template, TemplateError, Value, ValueFunc};
use serde_json::Value as Json;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

/// Stands before the words of `fail` and `required`.
pub(crate) const REFUSED: &str = "the chart refuses: ";

type Function = fn(&[Value]) -> Result<Value>;

const ALL: [(&str, Function); 20] = [
    ("b64enc", b64enc),
    ("contains", contains),
    ("default", default),
    ("dict", dict),
    ("fail", fail),
    ("indent", |args| Ok(indented(args, ""))),
    ("int", int),
    ("join", join),
    ("list", |args| Ok(Value::List(args.into()))),
    ("nindent", |args| Ok(indented(args, "\n"))),
    ("omit", omit),
    ("quote", |args| {
        let quoted: Vec<_> = args.iter().map(|arg| quoted(&text(arg))).collect();
        Ok(string(quoted.join(" ")))
    }),
    ("replace", replace),
    ("required", required),
    ("sha256sum", sha256sum),
    ("splitList", split_list),
    ("toJson", |args| Ok(string(to_json(last(args)).to_string()))),
    ("toYaml", to_yaml),
    ("trim", |args| {
        Ok(string(text(last(args)).trim().to_owned()))
    }),
    ("trimSuffix", trim_suffix),
];

/// Every function; `include` looks for templates in `templates`.
pub(crate) fn all(templates: &Arc<OnceLock<Template>>) -> FuncMap {
    let mut all = FuncMap::new();
    for (name, function) in ALL {
        all.insert(name.to_owned(), Arc::new(function));
    }
    // The templates hold this function: it must not hold them.
    let templates = Arc::downgrade(templates);
    let include: ValueFunc = Arc::new(move |args| {
        let templates = templates.upgrade();
        let templates = templates.as_ref().and_then(|templates| templates.get());
        let templates = templates.ok_or_else(|| wrong("include: no templates"))?;
        let made = templates.execute_template_to_string(&text(first(args)), last(args))?;
        Ok(string(made))
    });
    all.insert("include".to_owned(), include);
    all
}

/// A value for templates.
pub(crate) fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => string(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(fields) => {
            let fields = fields.iter();
            Value::Map(Arc::new(
                fields
                    .map(|(name, value)| (name.as_str().into(), from_json(value)))
                    .collect(),
            ))
        }
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Nil | Value::Function(_) => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(number) => (*number).into(),
        Value::Uint(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => text.to_string().into(),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(fields) => {
            let fields = fields.iter();
            fields
                .map(|(name, value)| (name.to_string(), to_json(value)))
                .collect()
        }
    }
}

fn string(text: String) -> Value {
    Value::String(text.into())
}

fn wrong(reason: &str) -> TemplateError {
    TemplateError::Exec(reason.to_owned())
}

/// Text of a value; nothing has none.
fn text(value: &Value) -> String {
    match value {
        Value::Nil => String::new(),
        other => other.to_string(),
    }
}

fn first(args: &[Value]) -> &Value {
    args.first().unwrap_or(&Value::Nil)
}

/// What a pipeline hands on.
fn last(args: &[Value]) -> &Value {
    args.last().unwrap_or(&Value::Nil)
}

fn second(args: &[Value]) -> &Value {
    args.get(1).unwrap_or(&Value::Nil)
}

fn b64enc(args: &[Value]) -> Result<Value> {
    Ok(string(STANDARD.encode(text(last(args)))))
}

fn contains(args: &[Value]) -> Result<Value> {
    Ok(Value::Bool(text(last(args)).contains(&text(first(args)))))
}

fn default(args: &[Value]) -> Result<Value> {
    let given = second(args);
    Ok(if given.is_truthy() {
        given
    } else {
        first(args)
    }
    .clone())
}

fn dict(args: &[Value]) -> Result<Value> {
    let mut fields = BTreeMap::new();
    for pair in args.chunks(2) {
        fields.insert(text(first(pair)).into(), second(pair).clone());
    }
    Ok(Value::Map(Arc::new(fields)))
}

fn fail(args: &[Value]) -> Result<Value> {
    Err(wrong(&format!("{REFUSED}{}", text(first(args)))))
}

fn required(args: &[Value]) -> Result<Value> {
    match second(args) {
        Value::Nil => fail(args),
        Value::String(text) if text.is_empty() => fail(args),
        given => Ok(given.clone()),
    }
}

fn int(args: &[Value]) -> Result<Value> {
    let value = match last(args) {
        Value::Float(number) => number.to_string(),
        other => text(other),
    };
    let whole = value.split('.').next().unwrap_or_default();
    Ok(Value::Int(whole.parse().unwrap_or_default()))
}

fn join(args: &[Value]) -> Result<Value> {
    let Value::List(items) = last(args) else {
        return Err(wrong("join: a list is wanted"));
    };
    let items: Vec<_> = items.iter().map(text).collect();
    Ok(string(items.join(&text(first(args)))))
}

fn indented(args: &[Value], before: &str) -> Value {
    let width = usize::try_from(first(args).as_int().unwrap_or_default()).unwrap_or_default();
    let (pad, text) = (" ".repeat(width), text(last(args)));
    let lines: Vec<_> = text
        .split('\n')
        .map(|line| format!("{pad}{line}"))
        .collect();
    string(format!("{before}{}", lines.join("\n")))
}

fn omit(args: &[Value]) -> Result<Value> {
    let Value::Map(fields) = first(args) else {
        return Err(wrong("omit: a map is wanted"));
    };
    let mut fields = fields.as_ref().clone();
    for name in args.iter().skip(1) {
        fields.remove(text(name).as_str());
    }
    Ok(Value::Map(Arc::new(fields)))
}

fn replace(args: &[Value]) -> Result<Value> {
    Ok(string(
        text(last(args)).replace(&text(first(args)), &text(second(args))),
    ))
}

fn sha256sum(args: &[Value]) -> Result<Value> {
    let digest = digest::digest(&digest::SHA256, text(last(args)).as_bytes());
    let mut hex = String::new();
    for byte in digest.as_ref() {
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(string(hex))
}

fn split_list(args: &[Value]) -> Result<Value> {
    let (at, text) = (text(first(args)), text(last(args)));
    Ok(Value::List(
        text.split(&at)
            .map(|part| string(part.to_owned()))
            .collect(),
    ))
}

fn to_yaml(args: &[Value]) -> Result<Value> {
    let yaml = serde_norway::to_string(&to_json(last(args)));
    let yaml = yaml.map_err(|error| wrong(&format!("toYaml: {error}")))?;
    Ok(string(yaml.trim_end_matches('\n').to_owned()))
}

fn trim_suffix(args: &[Value]) -> Result<Value> {
    let (suffix, text) = (text(first(args)), text(last(args)));
    Ok(string(
        text.strip_suffix(&suffix).unwrap_or(&text).to_owned(),
    ))
}

/// As Go quotes text: what is written so is YAML and JSON.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
