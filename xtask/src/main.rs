//! The project's runner: `cargo xtask help` lists what it does. It needs nothing but Rust, so that a bare machine has it.

mod checks;
mod ci;
mod dockerfile;
mod fuzz;
mod image;
mod tools;

use std::process::ExitCode;

/// The code of a task; it gets the words after the task's name.
type Task = fn(&[String]) -> Result<(), String>;

/// What can be asked for: the name, what it does, and the code.
const TASKS: [(&str, &str, Task); 9] = [
    (
        "test",
        "installs what tests need where it can, and runs every test",
        ci::test,
    ),
    (
        "ci",
        "test, then formatting, lints, docs and structure: what .ci/run runs",
        ci::ci,
    ),
    (
        "check",
        "formatting, lints, docs and structure, without the tests",
        ci::check,
    ),
    (
        "bench",
        "builds for release and measures: `bench inbound`, or what the words say (benches/README.md)",
        ci::bench,
    ),
    ("docs", "writes the generated pages of docs/ anew", ci::docs),
    (
        "tools",
        "builds the Go tools of tools/ into the cache, and gets Envoy",
        |_| tools::build_all(),
    ),
    (
        "dockerfile",
        "runs the Dockerfile's build in a clean folder, without an engine, and looks at what the image would hold",
        dockerfile::check,
    ),
    (
        "fuzz",
        "looks for inputs that break what reads them: `fuzz [--seconds N] [TARGET...]`, with nightly and cargo-fuzz",
        fuzz::fuzz,
    ),
    (
        "structure",
        "the edges between crates, against docs/architecture.md",
        |_| checks::structure(),
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = match arguments.split_first() {
        Some((name, rest)) => (name.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    let Some((_, _, task)) = TASKS.iter().find(|(task, ..)| *task == name) else {
        for (task, what, _) in TASKS {
            println!("cargo xtask {task:<10} {what}");
        }
        return if name == "help" {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(2)
        };
    };
    match task(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {name}: {error}");
            ExitCode::FAILURE
        }
    }
}
