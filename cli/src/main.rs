//! The `linkerd` command: runs a mesh on this host, explains and checks policy, issues and inspects identities.
//!
//! | module | what |
//! |---|---|
//! | `run` | `linkerd run`: a whole mesh as processes of this host |
//! | `mesh` | the file `mesh.yaml` that says what to run and what to expect |
//! | `policy` | `linkerd policy explain`, `linkerd policy lint` |
//! | `inject` | `linkerd inject`, `linkerd uninject` |
//! | `identity` | `linkerd identity token`, `inspect`, `create-ca` |
//! | `cluster` | what asks a Kubernetes cluster: `linkerd check`, `authz`, `identity` of Pods, the cluster's `diagnostics` |
//! | `install` | `linkerd install`, `upgrade`, `prune`, `uninstall` |
//! | `profile` | `linkerd profile`: a ServiceProfile as a manifest |
//! | `workload` | the small programs that examples consist of |
//! | `fetch` | GET from admin servers |
//! | `outcome` | failures as a person would want them, tables, JSON |

mod cluster;
mod diagnostics;
mod fetch;
mod identity;
mod inject;
mod install;
mod mesh;
mod outcome;
mod policy;
mod profile;
mod run;
mod stat;
mod workload;

use clap::{CommandFactory as _, Parser, Subcommand};
use outcome::{Failure, Outcome};
use std::process::ExitCode;

/// As in `linkerd-proxy`, whose part this binary plays in `linkerd run`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs, explains and checks a service mesh: sidecars that authenticate and authorize every connection.
#[derive(Debug, Parser)]
#[command(name = "linkerd", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a mesh on this host: a control plane, and workloads with a sidecar each. Needs no root.
    Run(run::Flags),
    /// Explain and check policy.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Show the certificates of Pods' sidecars; issue and inspect what proves who a workload is.
    Identity(Box<identity::Flags>),
    /// Check a mesh: of the cluster, or the one that `linkerd run DIRECTORY` runs. Exit code 1 for errors.
    Check(Box<cluster::check::Flags>),
    /// Say which authorizations open the ports and routes of a workload.
    Authz(Box<cluster::authz::Flags>),
    /// Numbers of running sidecars.
    #[command(subcommand)]
    Stat(stat::Command),
    /// What running sidecars and the control plane hold, and whether it is right.
    #[command(subcommand, visible_alias = "dg")]
    Diagnostics(Box<diagnostics::Command>),
    /// Print the manifests of the control plane: linkerd install | kubectl apply -f -
    Install(Box<install::Install>),
    /// Print the manifests of a control plane that is installed, as they should be now.
    Upgrade(Box<install::Upgrade>),
    /// Print what an earlier version has left behind: linkerd prune | kubectl delete -f -
    Prune(install::prune::Flags),
    /// Print what there is to delete: linkerd uninstall | kubectl delete -f -
    Uninstall(install::uninstall::Flags),
    /// Ask for sidecars in manifests, or add them by hand.
    Inject(Box<inject::Flags>),
    /// Take out of manifests what `inject` added.
    Uninject(inject::UninjectFlags),
    /// Print a ServiceProfile: an example, or the routes of an OpenAPI document or of gRPC services.
    Profile(profile::Flags),
    /// Print the version of this program, of the control plane and of sidecars.
    Version(cluster::version::Flags),
    /// Print a completion script, for example: source <(linkerd completion bash)
    Completion {
        /// The shell.
        #[arg(value_parser = ["bash", "zsh", "fish"])]
        shell: String,
    },
    /// The control plane.
    #[command(hide = true)]
    Controller(Box<linkerd_controller::Flags>),
    /// A sidecar; the environment says everything.
    #[command(hide = true)]
    Proxy,
    /// Labels and annotations of a namespace, for the chart's Job.
    #[command(hide = true)]
    NamespaceMetadata(install::namespace::Flags),
    /// The programs of the examples.
    #[command(hide = true, subcommand)]
    Workload(workload::Command),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    run::end_with_parent();
    let result = match command {
        // These two own their process: logs, runtime, signals, exit code.
        Command::Proxy => return linkerd_proxy::main_from_env(),
        Command::Controller(flags) => {
            return linkerd_controller::main(linkerd_controller::Config::from(*flags));
        }
        Command::Run(flags) => block_on(run::run(flags)),
        Command::Policy(policy::Command::Explain(flags)) => block_on(policy::explain(*flags)),
        Command::Policy(policy::Command::Lint(flags)) => policy::lint(&flags),
        Command::Identity(flags) => match flags.command {
            Some(command) => identity::run(command),
            None => block_on(cluster::identity::run(flags.pods)),
        },
        Command::Check(flags) => block_on(cluster::check::run(*flags)),
        Command::Authz(flags) => block_on(cluster::authz::run(*flags)),
        Command::Stat(command) => block_on(stat::run(command)),
        Command::Diagnostics(command) => block_on(diagnostics::run(*command)),
        Command::Install(flags) => block_on(install::install(*flags)),
        Command::Upgrade(flags) => block_on(install::upgrade(*flags)),
        Command::Prune(flags) => block_on(install::prune::run(flags)),
        Command::Uninstall(flags) => block_on(install::uninstall::run(flags)),
        Command::NamespaceMetadata(flags) => block_on(install::namespace::run(flags)),
        Command::Inject(flags) => block_on(inject::inject(*flags)),
        Command::Uninject(flags) => inject::uninject(&flags),
        Command::Workload(command) => block_on(workload::run(command)),
        Command::Profile(flags) => block_on(profile::run(flags)),
        Command::Version(flags) => block_on(cluster::version::run(flags)),
        Command::Completion { shell } => complete(&shell),
    };
    match result {
        Ok(outcome) => outcome.code(),
        Err(failure) => {
            eprintln!("linkerd: {failure}");
            failure.code()
        }
    }
}

fn complete(shell: &str) -> Result<Outcome, Failure> {
    let shell = shell
        .parse::<clap_complete::Shell>()
        .map_err(Failure::usage)?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "linkerd", &mut script);
    outcome::show(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Good)
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_declared_once_and_every_command_has_help() {
        Cli::command().debug_assert();
    }
}
