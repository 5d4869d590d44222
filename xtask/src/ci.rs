//! The test command and the CI that calls it.

use crate::{checks, dockerfile, tools};
use std::{env, process::Command};

fn cargo(words: &[&str]) -> Command {
    let mut cargo = Command::new(tools::cargo());
    in_project(&mut cargo).args(words);
    cargo
}

/// Cargo with what others leave of the machine.
fn quiet_cargo(words: &[&str]) -> Command {
    let mut cargo = tools::quiet_cargo();
    in_project(&mut cargo).args(words);
    cargo
}

/// Lets a command find our tools, and runs it in the project's root.
fn in_project(command: &mut Command) -> &mut Command {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = [
        tools::cache().join("bin"),
        "/usr/sbin".into(),
        "/sbin".into(),
    ];
    let paths = env::split_paths(&path).chain(more);
    if let Ok(path) = env::join_paths(paths) {
        command.env("PATH", path);
    }
    command.current_dir(tools::root())
}

/// Every test. Further words go to `cargo test`.
pub(crate) fn test(words: &[String]) -> Result<(), String> {
    prepare()?;
    run_tests(words)
}

fn run_tests(words: &[String]) -> Result<(), String> {
    let mut tests = cargo(&["test", "--locked", "--workspace"]);
    if env::var_os("RUST_TEST_THREADS").is_none() {
        // Most of them wait most of the time: for leases, for clocks, for API servers that start.
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        tests.env("RUST_TEST_THREADS", (cores + 1).to_string());
    }
    tools::run(tests.args(words))
}

/// What tests need: the tools, the real binaries, which end-to-end tests run, and the tests' own.
fn prepare() -> Result<(), String> {
    // Both have to wait for registries, at different times.
    let tools = std::thread::spawn(tools::prepare);
    let built = tools::run(&mut cargo(&["build", "--locked", "--workspace", "--bins"]))
        .and_then(|()| tools::run(&mut cargo(&["test", "--locked", "--workspace", "--no-run"])));
    tools
        .join()
        .map_err(|_| "the tools could not be prepared".to_owned())??;
    built
}

/// Everything but the tests.
pub(crate) fn check(_: &[String]) -> Result<(), String> {
    quick_checks()?;
    lints(cargo)?;
    deny()
}

/// What takes no time.
fn quick_checks() -> Result<(), String> {
    tools::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    checks::structure()?;
    checks::sleeps()
}

/// Lints and docs, in a target folder of their own, so that they can be made beside the tests.
fn lints(cargo: fn(&[&str]) -> Command) -> Result<(), String> {
    let target = tools::cache().join("lints");
    let clippy = [
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ];
    tools::run(cargo(&clippy).env("CARGO_TARGET_DIR", &target))?;
    let doc = [
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ];
    let flags = "-D warnings -A rustdoc::private_intra_doc_links";
    tools::run(
        cargo(&doc)
            .env("CARGO_TARGET_DIR", &target)
            .env("RUSTDOCFLAGS", flags),
    )
}

/// What `.ci/run` runs. Tests mostly wait: what is not theirs is built beside them, with what they leave of the machine.
pub(crate) fn ci(_: &[String]) -> Result<(), String> {
    quick_checks()?;
    prepare()?;
    let beside = std::thread::spawn(|| {
        let linted = lints(quiet_cargo);
        // Where this fails, the check of the dependencies tries again and says why.
        let _ = tools::prepare_deny();
        linted
    });
    run_tests(&[])?;
    beside
        .join()
        .map_err(|_| "the lints could not be run".to_owned())??;
    // With the profile of the tests: a release build of its own would take longer than all the rest.
    dockerfile::check(&["dev".to_owned()])?;
    deny()
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
    // It asks of the crates of all targets, of which a build has fetched its own only.
    tools::run(&mut cargo(&["fetch", "--locked"]))?;
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
