//! `linkerd check`: is the mesh of a cluster as it should be, or could it be installed? And with a directory: is the mesh
//! that `linkerd run` runs as it should be? Each failure comes with something to paste. Nothing is written.
//!
//! | module | what |
//! |---|---|
//! | `print` | tables, the short form, JSON |
//! | `pre` | what an installation needs |
//! | `clocks` | whether this host, the API server and the nodes agree on the time |
//! | `networks` | whether the cluster's networks are those that the mesh was told |
//! | `core` | the control plane: objects, Pods, Lease |
//! | `trust` | the issuer, the trust anchors, webhooks' certificates |
//! | `data_plane` | sidecars of applications, and Pods that should have one |
//! | `ha` | several replicas, where there are to be several |
//! | `misplaced` | labels that count only as annotations, and the other way |
//! | `opaque` | whether Services and Pods say the same of opaque ports |
//! | `directory` | a mesh of this host |

mod clocks;
mod core;
mod data_plane;
mod directory;
mod ha;
mod misplaced;
mod networks;
mod opaque;
mod pre;
mod print;
mod trust;

use super::{Cluster, Which, version::OURS};
use crate::outcome::{Failure, Outcome};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// How often what may still come is looked at again.
const AGAIN: Duration = Duration::from_secs(1);
/// The oldest API server that the charts say they are for.
const MIN_VERSION: (u32, u32) = (1, 29);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Flags {
    /// The directory that `linkerd run` was given, to check that mesh and no cluster.
    directory: Option<PathBuf>,
    /// The state directory. Absent: DIRECTORY/.linkerd.
    #[arg(long, requires = "directory")]
    state_dir: Option<PathBuf>,
    /// Whether a control plane could be installed.
    #[arg(long, conflicts_with_all = ["directory", "proxy"])]
    pre: bool,
    /// Whether the definitions of the mesh's kinds are there, and nothing of the control plane.
    #[arg(long, conflicts_with_all = ["directory", "proxy", "pre"])]
    crds: bool,
    /// The version that the control plane is to have; absent: this program's.
    #[arg(long, value_name = "VERSION", conflicts_with = "directory")]
    expected_version: Option<String>,
    /// The sidecars of applications too, of a namespace or of all.
    #[arg(long, conflicts_with = "directory")]
    proxy: bool,
    /// Namespace of the sidecars; absent: all.
    #[arg(long, short, requires = "proxy")]
    namespace: Option<String>,
    /// How long is waited for what may still become ready, like 30s, 5m or 0s.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = time, conflicts_with = "directory")]
    wait: Duration,
    #[command(flatten)]
    which: Which,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: print::Form,
}

fn time(text: &str) -> Result<Duration, String> {
    linkerd_policy::manifest::go_duration_seconds(text)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "a time is wanted, like 30s, 5m or 0s".to_owned())
}

/// What to do where something may not be looked at.
const MAY_NOT: &str = "kubectl auth can-i --list; somebody with the right must look";

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Good,
    /// It works, and may not go on working.
    Warning(Problem),
    /// It does not work. `may_pass`: it may by itself become right.
    Error {
        problem: Problem,
        may_pass: bool,
    },
}

/// What is wrong, and what to do: a command, where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    what: String,
    hint: String,
}

/// A check with what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    what: String,
    found: Found,
}

impl Check {
    fn new(what: impl Into<String>, found: Found) -> Self {
        Self {
            what: what.into(),
            found,
        }
    }

    fn good(what: impl Into<String>) -> Self {
        Self::new(what, Found::Good)
    }

    fn error(what: impl Into<String>, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(what, Found::error(problem, hint))
    }

    /// What whoever asks may not look at: the rest can be looked at all the same.
    fn unseen(what: impl Into<String>, why: &Failure) -> Self {
        Self::new(what, Found::warning(why.to_string(), MAY_NOT))
    }
}

impl Found {
    fn warning(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Warning(Problem {
            what: what.into(),
            hint: hint.into(),
        })
    }

    fn error(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Error {
            problem: Problem {
                what: what.into(),
                hint: hint.into(),
            },
            may_pass: false,
        }
    }

    /// As [`Found::error`], of what may only not be there yet.
    fn not_yet(what: impl Into<String>, hint: impl Into<String>) -> Self {
        match Self::error(what, hint) {
            Self::Error { problem, .. } => Self::Error {
                problem,
                may_pass: true,
            },
            other => other,
        }
    }

    /// Good if nothing is listed.
    fn if_none(list: &[String], of: impl FnOnce(String) -> Self) -> Self {
        if list.is_empty() {
            return Self::Good;
        }
        let shown = list.iter().take(SHOWN).map(String::as_str);
        let mut text = shown.collect::<Vec<_>>().join("\n");
        if let Some(more @ 1..) = list.len().checked_sub(SHOWN) {
            text.push_str(&format!("\nand {more} more"));
        }
        of(text)
    }
}

/// Objects that are named in one problem.
const SHOWN: usize = 10;

/// Checks that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Category {
    name: &'static str,
    checks: Vec<Check>,
}

/// `linkerd check`.
pub(crate) async fn run(flags: Flags) -> Result<Outcome, Failure> {
    if let Some(directory) = &flags.directory {
        return directory::run(directory, flags.state_dir.as_ref(), flags.output).await;
    }
    let until = Instant::now() + flags.wait;
    loop {
        let categories = all(&flags).await;
        let errors = categories.iter().flat_map(|category| &category.checks);
        let mut errors = errors.filter_map(|check| match &check.found {
            Found::Error { may_pass, .. } => Some(*may_pass),
            _ => None,
        });
        let first = errors.next();
        let may_pass = first == Some(true) && errors.all(|may_pass| may_pass);
        if !may_pass || Instant::now() >= until {
            print::print(&categories, flags.output)?;
            return Ok(Outcome::when(first.is_none()));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Everything that is asked for, until something is missing that the rest needs.
async fn all(flags: &Flags) -> Vec<Category> {
    let client = "can query the Kubernetes API";
    let cluster = match Cluster::connect(&flags.which).await {
        Ok(cluster) => cluster,
        Err(failure) => {
            let hint = "kubectl cluster-info; --kubeconfig and --context name another cluster";
            return vec![Category {
                name: "kubernetes-api",
                checks: vec![Check::error(client, failure.to_string(), hint)],
            }];
        }
    };
    let mut categories = vec![
        Category {
            name: "kubernetes-api",
            checks: vec![Check::good(client)],
        },
        version(&cluster),
    ];
    if flags.pre {
        categories.push(seen("pre-kubernetes-setup", pre::category(&cluster).await));
        return categories;
    }
    if flags.crds {
        categories.push(Category {
            name: "linkerd-crd",
            checks: vec![core::definitions(&cluster).await],
        });
        return categories;
    }
    let existence = seen("linkerd-existence", core::existence(&cluster).await);
    let is_installed = existence
        .checks
        .first()
        .is_some_and(|check| check.found == Found::Good);
    categories.push(existence);
    if !is_installed {
        return categories;
    }
    let expected = flags.expected_version.as_deref().unwrap_or(OURS);
    let mut add = |name, result| categories.push(seen(name, result));
    add("linkerd-config", core::config(&cluster).await);
    add("linkerd-identity", trust::identity(&cluster).await);
    let webhooks = "linkerd-webhooks-and-apisvc-tls";
    add(webhooks, trust::webhooks(&cluster).await);
    add("linkerd-policy", core::policy(&cluster).await);
    add(
        "control-plane-version",
        core::version(&cluster, expected).await,
    );
    match ha::category(&cluster).await {
        Ok(found) => categories.extend(found),
        Err(failure) => categories.push(seen("linkerd-ha-checks", Err(failure))),
    }
    if flags.proxy {
        let namespace = flags.namespace.as_deref();
        match data_plane::categories(&cluster, namespace).await {
            Ok(found) => categories.extend(found),
            Err(failure) => categories.push(seen("linkerd-data-plane", Err(failure))),
        }
    }
    categories
}

/// A category, or why it cannot be looked at; the others can be.
fn seen(name: &'static str, result: Result<Category, Failure>) -> Category {
    result.unwrap_or_else(|failure| Category {
        name,
        checks: vec![Check::error(
            "what is there can be looked at",
            failure.to_string(),
            MAY_NOT,
        )],
    })
}

fn version(cluster: &Cluster) -> Category {
    let (major, minor) = cluster.version;
    let what = "is running the minimum Kubernetes API version";
    let check = if cluster.version < MIN_VERSION {
        let (least, of) = MIN_VERSION;
        Check::error(
            what,
            format!("it is {major}.{minor}; {least}.{of} is needed"),
            "kubectl version",
        )
    } else {
        Check::good(what)
    };
    Category {
        name: "kubernetes-version",
        checks: vec![check],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_other_flags_have_them() {
        assert_eq!(time("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("0s"), Ok(Duration::ZERO));
        assert!(time("5").is_err() && time("soon").is_err());
    }

    #[test]
    fn a_long_list_is_shown_in_part() {
        let names: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        let Found::Warning(problem) = Found::if_none(&names, |text| Found::warning(text, ""))
        else {
            unreachable!()
        };
        assert!(
            problem.what.ends_with("\n9\nand 2 more"),
            "{}",
            problem.what
        );
    }
}
