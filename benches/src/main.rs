//! `bench`: the load harness and its parts.
//!
//! `bench inbound` compares whole sidecars; it runs this same binary as origin, control plane and load client. `bench
//! decide` measures the policy decision alone.

mod changes;
mod control;
mod decide;
mod inbound;
mod inside;
mod load;
mod mesh;
mod origin;
mod pair;
mod peers;
mod plane;
mod process;
mod report;
mod scenario;
mod sidecar;

use clap::{Parser, Subcommand};
use std::{error::Error, process::ExitCode};

/// Whatever ends a run; a person reads its text.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Measures sidecars against their peers.
#[derive(Debug, Parser)]
#[command(name = "bench", max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts proxies in front of an application, drives them in turns and compares them.
    Inbound(inbound::Arguments),
    /// Measures a client's and a server's sidecar together: HTTP/1 and HTTP/2, a thousand endpoints, a thousand routes.
    Pair(pair::Arguments),
    /// Measures the policy decision alone, at 1, 100 and 10,000 authorizations.
    Decide(decide::Arguments),
    /// Counts the answers that a change of an object makes anew in a control plane, by number of Pods.
    Changes(changes::Arguments),
    /// Measures the control plane on a real API server: from apply to decision, memory and CPU time by Pods and proxies.
    Plane(plane::Arguments),
    /// Sends load to one address and prints what came of it as JSON.
    Load(load::Arguments),
    /// Serves `/N` with N bytes, HTTP/1 and HTTP/2.
    Origin(origin::Arguments),
    /// Serves the policy, identity and destination APIs to one proxy.
    Control(control::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Inbound(arguments) => inbound::run(&arguments),
        Command::Pair(arguments) => pair::run(&arguments),
        Command::Decide(arguments) => decide::run(&arguments),
        Command::Changes(arguments) => changes::run(&arguments),
        Command::Plane(arguments) => on_one_thread(plane::run(arguments)),
        Command::Load(arguments) => on_one_thread(load::run(arguments)),
        Command::Origin(arguments) => on_one_thread(origin::run(arguments)),
        Command::Control(arguments) => on_one_thread(control::run(arguments)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn on_one_thread(task: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(task)
}
