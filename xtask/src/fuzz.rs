//! Looks for inputs that break what reads them: the targets of `fuzz/`, by libFuzzer. Built without optimization, which is
//! there sooner and checks more; `--release` looks at more inputs in the same time.

use crate::tools;
use std::{env, fs, path::PathBuf, process::Command};

/// `--seconds N` for each target (15), `--release`, and the targets' names; none are all of them.
pub(crate) fn fuzz(words: &[String]) -> Result<(), String> {
    let mut seconds = "15".to_owned();
    let mut wanted = Vec::new();
    let mut profile = "--dev";
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--seconds" {
            let number = words.next().filter(|word| word.parse::<u32>().is_ok());
            seconds.clone_from(number.ok_or("--seconds needs a number")?);
        } else if word == "--release" {
            profile = "--release";
        } else {
            wanted.push(word.as_str());
        }
    }
    is_there()?;
    let targets = targets()?;
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !targets.iter().any(|t| t == *name))
    {
        return Err(format!(
            "there is no target {unknown}; there are {}",
            targets.join(", ")
        ));
    }
    let mut failed = Vec::new();
    for target in &targets {
        if (wanted.is_empty() || wanted.contains(&target.as_str()))
            && !run(target, &seconds, profile)?
        {
            failed.push(target.as_str());
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} found what breaks it: mend that, and keep the input in fuzz/corpus",
        failed.join(", ")
    ))
}

/// libFuzzer needs a compiler that takes unstable options.
fn is_there() -> Result<(), String> {
    let missing = |what: &str, how: &str| {
        format!("NOTHING WAS FUZZED: {what} is not here; get it by `{how}`")
    };
    let asks = |words: &[&str]| {
        let asked = Command::new("rustup")
            .args(["run", "nightly", "cargo"])
            .args(words)
            .output();
        asked.is_ok_and(|output| output.status.success())
    };
    if !asks(&["--version"]) {
        return Err(missing(
            "the nightly toolchain",
            "rustup toolchain install nightly",
        ));
    }
    if !asks(&["fuzz", "--version"]) {
        return Err(missing("cargo-fuzz", "cargo install --locked cargo-fuzz"));
    }
    Ok(())
}

fn targets() -> Result<Vec<String>, String> {
    let folder = tools::root().join("fuzz/fuzz_targets");
    let entries =
        fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let files = entries.flatten().map(|entry| entry.path());
    let mut names: Vec<String> = files
        .filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Whether nothing was found. What is new in the corpus stays beside the build; what is kept is read, and not written to.
fn run(target: &str, seconds: &str, profile: &str) -> Result<bool, String> {
    let root = tools::root();
    let build = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let found = build.join("fuzz-corpus").join(target);
    fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
    let mut fuzz = Command::new("rustup");
    fuzz.current_dir(&root)
        .args(["run", "nightly", "cargo", "fuzz", "run"])
        .args(["--fuzz-dir", "fuzz", profile, "--features", "targets"])
        .arg("--target-dir")
        .arg(build.join("fuzz"))
        .arg(target)
        .arg(&found)
        .arg(root.join("fuzz/corpus").join(target))
        .args(["--", "-max_len=16384", "-timeout=10"])
        .arg(format!("-max_total_time={seconds}"));
    let status = fuzz
        .status()
        .map_err(|error| format!("{fuzz:?}: {error}"))?;
    Ok(status.success())
}
