//! The sidecar's binary. It takes no arguments; the environment says everything.

use std::process::ExitCode;

fn main() -> ExitCode {
    linkerd_proxy::main_from_env()
}
