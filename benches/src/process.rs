//! Child processes of the harness: started, watched from `/proc`, and ended with it.

use crate::Failure;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

/// Unit of the CPU times in `/proc/PID/stat`, fixed by Linux for user space (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// A child that is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Process {
    /// Starts a command whose standard output is read by [`Self::line`]; its standard error goes to `log`.
    pub(crate) fn start(command: Command, log: &Path) -> Result<Self, Failure> {
        Self::spawn(command, log, Stdio::piped(), File::create(log)?)
    }

    /// Starts a command that says nothing to us: both its outputs go to `log`.
    pub(crate) fn start_logged(command: Command, log: &Path) -> Result<Self, Failure> {
        let file = File::create(log)?;
        Self::spawn(command, log, file.try_clone()?.into(), file)
    }

    fn spawn(
        mut command: Command,
        log: &Path,
        output: Stdio,
        errors: File,
    ) -> Result<Self, Failure> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", shown(&command)))?;
        let output = child.stdout.take().map(BufReader::new);
        Ok(Self {
            child,
            output,
            log: log.to_owned(),
        })
    }

    /// The next line of its standard output; an error with the end of its log when there is none.
    pub(crate) fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        let read = match &mut self.output {
            Some(output) => output.read_line(&mut line)?,
            None => 0,
        };
        if read == 0 {
            return Err(format!("a process ended early: {}", self.last_words()).into());
        }
        Ok(line)
    }

    /// All that is left of its standard output.
    pub(crate) fn rest(&mut self) -> Result<String, Failure> {
        let mut text = String::new();
        if let Some(output) = &mut self.output {
            std::io::Read::read_to_string(output, &mut text)?;
        }
        Ok(text)
    }

    /// Fails, with the end of its log, if it has ended.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("ended with {status}: {}", self.last_words()).into()),
        }
    }

    /// The end of what it wrote to its standard error.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time it has used, user and system, of all its threads, those that have ended too.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The second field is a name in parentheses that may hold anything; utime and stime are the 14th and 15th.
        let ticks = stat
            .rsplit_once(')')
            .and_then(|(_, fields)| {
                let mut times = fields.split_whitespace().skip(11);
                let user: u32 = times.next()?.parse().ok()?;
                let system: u32 = times.next()?.parse().ok()?;
                user.checked_add(system)
            })
            .ok_or("a line of /proc/PID/stat without CPU times")?;
        Ok(TICK * ticks)
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> Result<u64, Failure> {
        resident(self.pid())
    }
}

/// Resident memory of a process in KiB.
pub(crate) fn resident(pid: u32) -> Result<u64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.split_whitespace().next())
        .ok_or("the process has ended")?;
    Ok(value.parse()?)
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; both calls then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end; an error with what it wrote if it fails.
pub(crate) fn run(command: &[&str]) -> Result<(), Failure> {
    let [program, arguments @ ..] = command else {
        return Ok(());
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{}` failed: {}", command.join(" "), words.trim()).into())
}

/// Where an executable is on the PATH (and where the system's servers are kept).
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn shown(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
