//! Structure: which crate may use which, and what tests may not do.

use crate::tools;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Crates of the workspace by folder.
const CRATES: [(&str, &str); 7] = [
    ("policy", "linkerd-policy"),
    ("metrics", "linkerd-metrics"),
    ("tls", "linkerd-tls"),
    ("linkerd-proxy", "linkerd-proxy"),
    ("controller", "linkerd-controller"),
    ("charts", "linkerd-charts"),
    ("cli", "linkerd-cli"),
];

/// What the pure crate must never pull in directly.
const IMPURE: [&str; 4] = ["tokio", "hyper", "tonic", "kube"];

/// Compares the edges between crates with the list in `docs/architecture.md`, and looks at what `policy` uses.
pub(crate) fn structure() -> Result<(), String> {
    let mut found = BTreeSet::new();
    for (folder, name) in CRATES {
        let manifest = read(&tools::root().join(folder).join("Cargo.toml"))?;
        let uses = dependencies(&manifest);
        for other in CRATES
            .iter()
            .map(|(_, other)| *other)
            .filter(|other| *other != name)
        {
            if uses.contains(other) {
                found.insert(format!("{name} -> {other}"));
            }
        }
        if folder == "policy"
            && let Some(impure) = IMPURE.iter().find(|impure| uses.contains(**impure))
        {
            return Err(format!("policy is pure and must not depend on {impure}"));
        }
    }
    let page = read(&tools::root().join("docs/architecture.md"))?;
    let listed: BTreeSet<String> = page
        .lines()
        .skip_while(|line| *line != "<!-- edges -->")
        .take_while(|line| *line != "<!-- /edges -->")
        .filter(|line| line.contains(" -> "))
        .map(|line| line.trim().to_owned())
        .collect();
    if listed == found {
        return Ok(());
    }
    let new: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    Err(format!(
        "docs/architecture.md lists other edges: not listed {new:?}, not found {gone:?}"
    ))
}

/// The names under `[dependencies]`.
fn dependencies(manifest: &str) -> BTreeSet<&str> {
    manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Tests wait for what they need; they do not sleep.
pub(crate) fn sleeps() -> Result<(), String> {
    let mut found = Vec::new();
    for file in rust_files(&tools::root())? {
        let path = file.to_string_lossy().into_owned();
        let is_test = path.contains("/tests/") || path.ends_with("/tests.rs");
        if !is_test {
            continue;
        }
        for (number, line) in read(&file)?.lines().enumerate() {
            if line.contains("time::sleep(") || line.contains("thread::sleep(") {
                found.push(format!("{path}:{}", number + 1));
            }
        }
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(format!("tests that sleep: {}", found.join(", ")))
    }
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
