//! The test command and the CI that calls it.

use crate::{checks, dockerfile, tools};
use std::{env, process::Command};

fn cargo(words: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let path = env::var_os("PATH").unwrap_or_default();
    let more = [
        tools::cache().join("bin"),
        "/usr/sbin".into(),
        "/sbin".into(),
    ];
    let paths = env::split_paths(&path).chain(more);
    if let Ok(path) = env::join_paths(paths) {
        cargo.env("PATH", path);
    }
    cargo.current_dir(tools::root()).args(words);
    cargo
}

/// Every test. Further words go to `cargo test`.
pub(crate) fn test(words: &[String]) -> Result<(), String> {
    // Both have to wait for registries, at different times.
    let tools = std::thread::spawn(tools::prepare);
    // End-to-end tests run the real binaries, next to the test's own.
    let built = tools::run(&mut cargo(&["build", "--locked", "--workspace", "--bins"]));
    tools
        .join()
        .map_err(|_| "the tools could not be prepared".to_owned())??;
    built?;
    tools::run(cargo(&["test", "--locked", "--workspace"]).args(words))
}

/// Everything but the tests.
pub(crate) fn check(_: &[String]) -> Result<(), String> {
    tools::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    let clippy = [
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--all-features",
    ];
    tools::run(cargo(&clippy).args(["--", "-D", "warnings"]))?;
    let doc = [
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ];
    tools::run(cargo(&doc).env(
        "RUSTDOCFLAGS",
        "-D warnings -A rustdoc::private_intra_doc_links",
    ))?;
    checks::structure()?;
    checks::sleeps()?;
    deny()
}

/// What `.ci/run` runs.
pub(crate) fn ci(_: &[String]) -> Result<(), String> {
    // Tests mostly wait. Where this fails, the check of the dependencies tries again and says why.
    let deny = std::thread::spawn(tools::prepare_deny);
    test(&[])?;
    let _ = deny.join();
    // With the profile of the tests: a release build of its own would take longer than all the rest.
    dockerfile::check(&["dev".to_owned()])?;
    check(&[])
}

/// Measures: the words are those of `bench`.
pub(crate) fn bench(words: &[String]) -> Result<(), String> {
    tools::run(&mut cargo(&[
        "build",
        "--locked",
        "--release",
        "--workspace",
        "--bins",
    ]))?;
    let run = [
        "run",
        "--locked",
        "--release",
        "-p",
        "linkerd-benches",
        "--bin",
        "bench",
        "--",
    ];
    let usual = ["inbound".to_owned()];
    let words = if words.is_empty() { &usual } else { words };
    tools::run(cargo(&run).args(words))
}

/// Writes generated pages anew: their tests do it when they are asked to.
pub(crate) fn docs(_: &[String]) -> Result<(), String> {
    tools::run(cargo(&["test", "--locked", "--workspace", "docs_"]).env("UPDATE_DOCS", "1"))
}

/// Licences, sources, duplicates and known vulnerabilities of the dependencies.
fn deny() -> Result<(), String> {
    tools::prepare_deny()?;
    let mut words = vec!["deny", "--offline", "check", "bans", "licenses", "sources"];
    if tools::advisories()? {
        words.push("advisories");
    } else {
        println!(
            "NOT CHECKED: known vulnerabilities of dependencies; no copy of the advisory database is here"
        );
    }
    tools::run(&mut cargo(&words))
}
