//! What Helm makes of the charts, and `linkerd install` as well: kept files, compared object by object. `UPDATE_DOCS=1`
//! writes the files anew.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends there"
)]

use linkerd_charts::{Chart, Release, Values, render};
use serde::Deserialize as _;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Files with values, and what is made with them.
const SETS: [(&str, &[&str]); 7] = [
    ("default", &[]),
    ("ha", &["linkerd-control-plane/values-ha.yaml"]),
    ("external-ca", &["tests/values/external-ca.yaml"]),
    ("own-certificates", &["tests/values/own-certificates.yaml"]),
    ("cni", &["tests/values/cni.yaml"]),
    ("explicit", &["tests/values/explicit.yaml"]),
    ("everything", &["tests/values/everything.yaml"]),
];

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Helm, if it is there; said loudly if it is not.
fn helm() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::home_dir().map(|home| home.join(".cache/linkerd-workspace/bin"));
    let all = std::env::split_paths(&paths).chain(cache);
    let found = all
        .map(|folder| folder.join("helm"))
        .find(|path| path.is_file());
    if found.is_none() {
        let is_failure = std::env::var_os("REQUIRE_TOOLS").is_some();
        assert!(!is_failure, "REQUIRE_TOOLS is set, and helm is missing");
        eprintln!("SKIPPED: what Helm makes of the charts: helm is missing: run cargo xtask tools");
    }
    found
}

fn values(files: &[&str]) -> Values {
    let mut values = Values::default();
    for file in files {
        let text = fs::read_to_string(here().join(file)).unwrap();
        values.add_yaml(file, &text).unwrap();
    }
    values
}

fn documents(text: &str) -> Vec<Value> {
    let all = serde_norway::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap());
    all.filter(|value| !value.is_null()).collect()
}

/// Objects by kind and name. The values in `linkerd-config` are text that is YAML: compared as such.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for mut object in objects {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        if let Some(values) = object.pointer_mut("/data/values") {
            *values = serde_norway::from_str(values.as_str().unwrap()).unwrap();
        }
        assert!(all.insert(name.clone(), object).is_none(), "{name} twice");
    }
    all
}

#[track_caller]
fn are_equal(what: &str, left: Vec<Value>, right: Vec<Value>) {
    let (left, right) = (by_name(left), by_name(right));
    let names = |of: &BTreeMap<String, Value>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&left), names(&right), "{what}");
    for (name, left) in &left {
        assert_eq!(left, &right[name], "{what}: {name}");
    }
}

fn ours(chart: Chart, files: &[&str], service: &str) -> Vec<Value> {
    let release = Release {
        name: chart.name(),
        namespace: "linkerd",
        service,
    };
    let values = values(files).over_defaults(chart).unwrap();
    render(chart, &release, &values).unwrap()
}

fn helms(helm: &Path, chart: Chart, files: &[&str]) -> Vec<Value> {
    let mut command = Command::new(helm);
    command
        .current_dir(here())
        .args(["template", chart.name(), chart.name(), "-n", "linkerd"]);
    for file in files {
        command.args(["-f", file]);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    documents(&String::from_utf8(output.stdout).unwrap())
}

fn golden(name: &str, objects: &[Value]) -> Vec<Value> {
    let file = here().join("tests/golden").join(format!("{name}.yaml"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let documents = objects
            .iter()
            .map(|object| serde_norway::to_string(object).unwrap());
        let text: String = documents.map(|text| format!("---\n{text}")).collect();
        fs::write(&file, text).unwrap();
    }
    documents(&fs::read_to_string(&file).unwrap_or_default())
}

#[test]
fn docs_helm_and_we_render_the_same_objects_for_every_set_of_values() {
    let helm = helm();
    for (name, files) in SETS {
        let ours = ours(Chart::ControlPlane, files, "Helm");
        let kept = golden(name, &ours);
        are_equal(name, ours, kept.clone());
        if let Some(helm) = &helm {
            are_equal(
                &format!("{name}, by Helm"),
                helms(helm, Chart::ControlPlane, files),
                kept,
            );
        }
    }
    if let Some(helm) = &helm {
        are_equal(
            "crds",
            ours(Chart::Crds, &[], "Helm"),
            helms(helm, Chart::Crds, &[]),
        );
    }
}

#[test]
fn what_the_cli_prints_has_the_namespace_in_place_of_the_job_and_is_the_same_otherwise() {
    let helm = by_name(ours(Chart::ControlPlane, &[], "Helm"));
    let cli = by_name(ours(Chart::ControlPlane, &[], "CLI"));
    let only = |one: &BTreeMap<String, Value>, other: &BTreeMap<String, Value>| {
        let names = one.keys().filter(|name| !other.contains_key(*name));
        names.cloned().collect::<Vec<_>>()
    };
    assert_eq!(only(&cli, &helm), ["\"Namespace\" \"linkerd\""]);
    for name in only(&helm, &cli) {
        assert!(name.ends_with("\"linkerd-namespace-metadata\""), "{name}");
    }
    for (name, object) in &cli {
        if let Some(other) = helm.get(name) {
            assert_eq!(object, other, "{name}");
        }
    }
}

#[test]
fn helm_lint_finds_nothing() {
    let Some(helm) = helm() else { return };
    for chart in Chart::ALL {
        for (name, files) in SETS {
            if chart == Chart::Crds && !files.is_empty() {
                continue;
            }
            let mut command = Command::new(&helm);
            command
                .current_dir(here())
                .args(["lint", "--strict", chart.name()]);
            for file in files {
                command.args(["-f", file]);
            }
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && !text.contains("WARNING"),
                "{name}: {text}"
            );
        }
    }
}

#[test]
fn helm_refuses_what_we_refuse() {
    let helm = helm();
    for (set, expected) in [
        ("contollerReplicas=3", "contollerReplicas"),
        ("proxy.uid=x", "uid"),
        (
            "identityTrustAnchorsPEM=x",
            "identity.issuer.tls.crtPEM is wanted",
        ),
        ("identity.issuer.tls.crtPEM=x", "keyPEM is wanted"),
        (
            "identity.externalCA=true",
            "identity.issuer.tls.crtPEM is wanted",
        ),
        (
            "proxyInjector.injectCaFrom=a/b",
            "injectCaFromSecret need a certificate",
        ),
        ("enablePSP=true", "enablePSP"),
    ] {
        let mut values = Values::default();
        values.add_set(set, false).unwrap();
        let release = Release {
            name: "r",
            namespace: "linkerd",
            service: "Helm",
        };
        let refused = match values.over_defaults(Chart::ControlPlane) {
            Err(error) => error.to_string(),
            Ok(values) => render(Chart::ControlPlane, &release, &values)
                .unwrap_err()
                .to_string(),
        };
        assert!(refused.contains(expected), "{set}: {refused}");
        let Some(helm) = &helm else { continue };
        let mut command = Command::new(helm);
        command
            .current_dir(here())
            .args(["template", "r", "linkerd-control-plane", "--set", set]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{set}");
        assert!(
            text.contains(expected.split('.').next_back().unwrap()),
            "{set}: {text}"
        );
    }
}
