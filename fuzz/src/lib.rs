//! What is fuzzed: everything that reads what somebody else wrote.
//!
//! Each target is a function here, so that it compiles with all the rest, and runs in three ways: by `cargo fuzz`, which
//! looks for new ways through the code (`cargo xtask fuzz`; the programs in `fuzz_targets/`); by a test, over the kept
//! corpus and seeded mutations of it, with any toolchain; and as a program over files, to see a finding again.
//!
//! A target fails by a panic: the code's own, or of an assertion about what came out. `corpus/TARGET/` is what is begun
//! with. What was found once is put there, and stays found.

#![forbid(unsafe_code)]

mod bytes;
mod identity;
mod messages;
mod objects;
mod routes;
mod text;

pub mod mutate;

pub use self::{
    bytes::{client_hello, detection, dns_answer, transport_header},
    identity::{NAME, certificate, csr},
    messages::{destination, inbound_policy, outbound_policy},
    objects::objects,
    routes::{path, routes},
    text::{headers, variables},
};

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of its program, and of its folder in the corpus.
    pub name: &'static str,
    /// Looks at an input.
    pub run: fn(&[u8]),
    /// How many mutations a test run looks at: those of slow targets are fewer.
    pub rounds: u32,
}

const fn target(name: &'static str, run: fn(&[u8]), rounds: u32) -> Target {
    Target { name, run, rounds }
}

/// All of them.
pub const TARGETS: [Target; 14] = [
    target("detection", detection, 4000),
    target("client_hello", client_hello, 4000),
    target("transport_header", transport_header, 4000),
    target("dns_answer", dns_answer, 4000),
    target("routes", routes, 1000),
    target("path", path, 4000),
    target("inbound_policy", inbound_policy, 1000),
    target("outbound_policy", outbound_policy, 1000),
    target("destination", destination, 2000),
    target("certificate", certificate, 2000),
    target("csr", csr, 300),
    target("variables", variables, 500),
    target("headers", headers, 4000),
    target("objects", objects, 300),
];

/// The kept inputs of a target, by file.
#[must_use]
pub fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    let read = files
        .into_iter()
        .filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?)));
    read.collect()
}

/// A target's program without a fuzzer: looks at the files that are named.
#[must_use]
pub fn replay(run: fn(&[u8])) -> ExitCode {
    let mut files = std::env::args_os().skip(1).peekable();
    if files.peek().is_none() {
        eprintln!("give files to look at; `cargo xtask fuzz` looks for new ones");
        return ExitCode::from(2);
    }
    for file in files {
        let path = PathBuf::from(file);
        match std::fs::read(&path) {
            Ok(bytes) => run(&bytes),
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// The program of a target.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$name(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::process::ExitCode {
            $crate::replay($crate::$name)
        }
    };
}
