//! Templates become manifests, as Helm would make them.

use crate::{Chart, functions};
use gotmpl::{MissingKey, Template, TemplateError};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

/// What is installed, where, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// `CLI`, or `Helm`.
    pub service: &'a str,
}

/// Why a chart cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A template says that values do not go together.
    #[error("{0}")]
    Refused(String),
    /// A template is wrong, which tests exclude.
    #[error("{file}: {reason}")]
    Template {
        /// Which.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// It is no YAML, which tests exclude.
    #[error("{file}: what it makes cannot be read: {reason}")]
    Yaml {
        /// Which.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

/// Kinds in the order in which they are applied: what others are in, or refer to, comes first. All others come after these.
const ORDER: [&str; 11] = [
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "Deployment",
];

/// The objects of a chart, in the order in which they are applied. `values` are complete: [`crate::Values::over_defaults`].
///
/// # Errors
/// [`RenderError`]
pub fn render(
    chart: Chart,
    release: &Release<'_>,
    values: &Value,
) -> Result<Vec<Value>, RenderError> {
    let metadata = chart.metadata();
    let field = |name: &str| metadata.get(name).cloned().unwrap_or_default();
    let context = json!({
        "Values": values,
        "Release": {
            "Name": release.name, "Namespace": release.namespace, "Service": release.service,
        },
        "Chart": {
            "Name": field("name"), "Version": field("version"), "AppVersion": field("appVersion"),
        },
    });
    let context = functions::from_json(&context);
    let templates = chart.templates();
    let (helpers, files): (Vec<_>, Vec<_>) = templates
        .into_iter()
        .partition(|(file, _)| file.ends_with(".tpl"));
    // Functions know the templates that are parsed with them.
    let all = Arc::new(OnceLock::new());
    let mut template = Template::new(chart.name())
        .missing_key(MissingKey::Error)
        .funcs(functions::all(&all));
    for (file, text) in helpers {
        let parsed = template.parse(text);
        template = parsed.map_err(|error| failed(file, &error))?;
    }
    let template = all.get_or_init(|| template);
    let mut objects = Vec::new();
    for (file, text) in files {
        let parsed = template.clone().parse(text);
        let text = parsed
            .and_then(|template| template.execute_to_string(&context))
            .map_err(|error| failed(file, &error))?;
        objects.extend(documents(file, &text)?);
    }
    objects.sort_by_key(|object| {
        let kind = object.get("kind").and_then(Value::as_str);
        ORDER
            .iter()
            .position(|known| Some(*known) == kind)
            .unwrap_or(ORDER.len())
    });
    Ok(objects)
}

fn documents(file: &str, text: &str) -> Result<Vec<Value>, RenderError> {
    let mut objects = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let value: Value =
            serde::Deserialize::deserialize(document).map_err(|error: serde_norway::Error| {
                RenderError::Yaml {
                    file: file.to_owned(),
                    reason: error.to_string(),
                }
            })?;
        if !value.is_null() {
            objects.push(value);
        }
    }
    Ok(objects)
}

fn failed(file: &str, error: &TemplateError) -> RenderError {
    let text = error.to_string();
    match text.split_once(functions::REFUSED) {
        Some((_, reason)) => RenderError::Refused(reason.to_owned()),
        None => RenderError::Template {
            file: file.to_owned(),
            reason: text,
        },
    }
}
