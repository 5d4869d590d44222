//! The control plane's binary.

use clap::Parser as _;
use linkerd_controller::{Config, Flags};
use std::process::ExitCode;

fn main() -> ExitCode {
    linkerd_controller::main(Config::from(Flags::parse()))
}
