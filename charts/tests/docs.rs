//! What is made of other files is in step with them. `UPDATE_DOCS=1` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use linkerd_charts::{Chart, docs};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn folder(chart: Chart) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(chart.name())
}

#[track_caller]
fn is_kept(file: &Path, text: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(file, text).unwrap();
    }
    let kept = fs::read_to_string(file).unwrap_or_default();
    assert!(
        kept == text,
        "{} is not in step: run cargo xtask docs",
        file.display()
    );
}

#[test]
fn docs_values_and_readme_are_in_step_with_the_schemas() {
    for chart in Chart::ALL {
        is_kept(
            &folder(chart).join("values.yaml"),
            &docs::values_yaml(chart),
        );
        is_kept(&folder(chart).join("README.md"), &docs::readme(chart));
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/helm.md");
    is_kept(&page, &docs::page());
}

#[test]
fn docs_definitions_of_the_chart_are_those_of_the_code() {
    let templates = folder(Chart::Crds).join("templates");
    let mut files = Vec::new();
    for mut definition in linkerd_policy::crd::definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
        definition.as_object_mut().unwrap().remove("metadata");
        // Nothing in a schema may be taken for a template.
        let text = serde_norway::to_string(&definition).unwrap();
        assert!(!text.contains("{{"), "{name}");
        let text = format!(
            "# Made from policy/src/crd.rs: cargo xtask docs\nmetadata:\n  name: {name}\n  \
             {{{{- include \"linkerd.crd.metadata\" . | nindent 2 }}}}\n{text}"
        );
        let file = format!("{name}.yaml");
        is_kept(&templates.join(&file), &text);
        files.push(file);
    }
    let mut there: Vec<_> = fs::read_dir(&templates)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|file| file.ends_with(".yaml"))
        .collect();
    there.sort();
    files.sort();
    assert_eq!(there, files);
}
