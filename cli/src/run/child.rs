//! Processes that `linkerd run` starts, and only those: each with a log, ended with SIGTERM and, after a while, killed.

use crate::outcome::{Failure, plain};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::{Child, Command};

/// How long a process may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lines of a log that are shown when a process ended by itself.
const SHOWN: usize = 12;

/// Tells a process of this program who started it.
const PARENT: &str = "LINKERD_RUN_PID";

/// In a process that `linkerd run` started: end when it ends, even if it was killed and could not end anything.
pub(crate) fn end_with_parent() {
    let Some(parent) = std::env::var_os(PARENT) else {
        return;
    };
    let is_there = || {
        let id = rustix::process::getppid().map(|id| id.as_raw_nonzero().to_string());
        id.is_some_and(|id| parent == *id)
    };
    if rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).is_ok() && !is_there() {
        // It ended before that was set.
        std::process::exit(1);
    }
}

/// The processes, in the order in which they were started.
#[derive(Debug)]
pub(super) struct Children {
    logs: PathBuf,
    started: Vec<(String, Child)>,
}

impl Children {
    /// None yet. Logs go to a directory, which is made.
    pub(super) fn new(logs: PathBuf) -> Result<Self, Failure> {
        fs::create_dir_all(&logs)
            .map_err(|error| Failure::new(format!("{}: {error}", logs.display())))?;
        Ok(Self {
            logs,
            started: Vec::new(),
        })
    }

    /// Starts a process with these variables and PATH, and no others.
    pub(super) fn start(
        &mut self,
        name: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Result<(), Failure> {
        let log = self.log(name);
        let failed = |error: std::io::Error| {
            Failure::new(format!(
                "{name} cannot be started: {}: {error}",
                program.display()
            ))
        };
        let file = fs::File::create(&log).map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env(PARENT, std::process::id().to_string())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(failed)?)
            .stderr(file)
            // Ctrl-C at a terminal goes to the whole group: we end our processes ourselves, in order.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(failed)?;
        self.started.push((name.to_owned(), child));
        Ok(())
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs
            .join(format!("{}.log", name.replace([' ', '/'], "-")))
    }

    /// Says which process has ended by itself, if one has, with the end of its log.
    pub(super) fn ended(&mut self) -> Result<(), Failure> {
        let logs = self.logs.clone();
        for (name, child) in &mut self.started {
            if let Ok(Some(status)) = child.try_wait() {
                let log = logs.join(format!("{}.log", name.replace([' ', '/'], "-")));
                let text = fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                let tail = lines
                    .get(lines.len().saturating_sub(SHOWN)..)
                    .unwrap_or_default();
                let tail: String = tail
                    .iter()
                    .map(|line| format!("\n  | {}", plain(line)))
                    .collect();
                return Err(Failure::new(format!(
                    "{name} ended ({status}); {} says{tail}",
                    log.display()
                )));
            }
        }
        Ok(())
    }

    /// Ends every process, the last one first.
    pub(super) async fn stop(&mut self) {
        let signalled = |child: &Child, signal| {
            let pid = child
                .id()
                .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            // All that it started in its turn: each of ours leads a group. They may have ended already.
            let _ = pid.map(|pid| kill_process_group(pid, signal));
        };
        for (_, child) in self.started.iter().rev() {
            signalled(child, Signal::TERM);
        }
        let started: Vec<_> = self.started.drain(..).rev().collect();
        let ends = started.into_iter().map(|(name, mut child)| async move {
            let group = child
                .id()
                .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
                eprintln!("linkerd: {name} did not end within {PATIENCE:?} and was killed");
            }
            // Who led the group may be gone before the others.
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
            drop(child.kill().await);
        });
        futures::future::join_all(ends).await;
    }
}
