//! What is made from a chart's schema: `values.yaml`, and the README with a table of values. Tests compare;
//! `UPDATE_DOCS=1` writes them anew.

use crate::{Chart, schema};
use serde_json::Value;
use std::fmt::Write as _;

/// Widest line of a comment.
const WIDTH: usize = 110;

/// `values.yaml`.
pub fn values_yaml(chart: Chart) -> String {
    let mut text = format!(
        "# Values of {}. Made from values.schema.json: cargo xtask docs\n",
        chart.name()
    );
    let schema = read(chart);
    for (name, schema) in schema::properties(&schema) {
        text.push('\n');
        field(&mut text, name, schema, 0);
    }
    text
}

fn field(text: &mut String, name: &str, schema: &Value, depth: usize) {
    let pad = "  ".repeat(depth);
    comment(text, schema, &pad);
    if schema.get("properties").is_some() {
        let _ = writeln!(text, "{pad}{name}:");
        for (name, schema) in schema::properties(schema) {
            field(text, name, schema, depth + 1);
        }
        return;
    }
    let _ = writeln!(text, "{pad}{name}: {}", scalar(&schema::defaults(schema)));
}

fn comment(text: &mut String, schema: &Value, pad: &str) {
    let mut line = format!("{pad}#");
    for word in described(schema).split_whitespace() {
        if line.len() + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = format!("{pad}#");
        }
        line.push(' ');
        line.push_str(word);
    }
    if line.len() > pad.len() + 1 {
        text.push_str(&line);
        text.push('\n');
    }
}

fn described(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// A value in a line of YAML.
fn scalar(value: &Value) -> String {
    let Value::String(text) = value else {
        return value.to_string();
    };
    let is_word = |c: char| c.is_ascii_alphanumeric() || "./_-".contains(c);
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(is_word)
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_lowercase().as_str());
    if is_plain {
        text.clone()
    } else {
        value.to_string()
    }
}

/// `docs/helm.md`: the values of both charts.
pub fn page() -> String {
    let mut text = "# Values of the charts\n\n<!-- Made from charts/*/values.schema.json: cargo xtask docs -->\n\n\
                    [How they are installed](kubernetes.md). Values have the names of those of Linkerd's charts where they mean the \
                    same.\n"
        .to_owned();
    for chart in Chart::ALL {
        let _ = write!(text, "\n## {}\n\n", chart.name());
        table(&mut text, chart);
    }
    text
}

fn table(text: &mut String, chart: Chart) {
    text.push_str("| Value | Default | Meaning |\n|---|---|---|\n");
    for (name, schema) in schema::properties(&read(chart)) {
        row(text, name, schema, "");
    }
}

/// The README.
pub fn readme(chart: Chart) -> String {
    let metadata = chart.metadata();
    let said = |name: &str| {
        metadata
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let introduction = match chart {
        Chart::Crds => {
            "Upgrades change the definitions, and an uninstallation takes them away with every object of their kinds; \
             `--set keep=true` keeps them then. The kinds of the Gateway API are not among them: they are read where their \
             own definitions are installed.\n\n    helm install linkerd-crds charts/linkerd-crds -n linkerd --create-namespace\n"
        }
        Chart::ControlPlane => {
            "To be installed after `linkerd-crds`. Without anchors and issuer of your own the control plane makes them once, \
             and keeps them across upgrades. [How, step by step](../../docs/kubernetes.md).\n\n    helm install linkerd-control-plane charts/linkerd-control-plane -n linkerd\n\n\
             With several replicas on several nodes, and requests and limits:\n\n    helm install linkerd-control-plane charts/linkerd-control-plane -n linkerd -f charts/linkerd-control-plane/values-ha.yaml\n\n\
             Values have the names of those of Linkerd's chart of this name where they mean the same. What is not known is refused.\n"
        }
    };
    let mut text = format!(
        "# {}\n\n<!-- Made from values.schema.json: cargo xtask docs -->\n\n{}\n\n{introduction}\nKubernetes {}.\n\n## Values\n\n",
        chart.name(),
        said("description"),
        said("kubeVersion").trim_end_matches("-0"),
    );
    table(&mut text, chart);
    text
}

fn row(text: &mut String, name: &str, schema: &Value, about: &str) {
    let described = described(schema);
    if schema.get("properties").is_some() {
        for (inner, schema) in schema::properties(schema) {
            row(text, &format!("{name}.{inner}"), schema, &described);
        }
        return;
    }
    let mut meaning = described;
    if !about.is_empty() {
        meaning = format!("{meaning} ({})", about.trim_end_matches('.')).replace("  ", " ");
    }
    if let Some(known) = schema.get("enum").and_then(Value::as_array) {
        let known: Vec<_> = known.iter().map(|value| format!("`{value}`")).collect();
        let _ = write!(meaning, " One of {}.", known.join(", "));
    }
    let default = schema::defaults(schema);
    let _ = writeln!(
        text,
        "| `{name}` | `{default}` | {} |",
        meaning.replace('|', "\\|").trim()
    );
}

fn read(chart: Chart) -> Value {
    serde_json::from_str(chart.file("values.schema.json")).unwrap_or_default()
}
