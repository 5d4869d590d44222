//! What measurements need of the machine: namespaces of their own that end with them, a CPU, descriptors.

use crate::{
    Failure,
    process::{find, run},
};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{sched_getaffinity, sched_setaffinity},
};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

/// Runs this command again within namespaces that end with it.
pub(crate) fn again() -> Result<(), Failure> {
    let status = Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "--mount",
            "--pid",
        ])
        .args(["--fork", "--kill-child", "--mount-proc", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--inside")
        .status()
        .map_err(|error| {
            format!("setpriv (util-linux) cannot be started: {error}; try --mode explicit")
        })?;
    if status.success() {
        return Ok(());
    }
    Err(format!("the harness in its own namespaces ended with {status}").into())
}

/// Makes the namespaces usable, once this command runs in them. Gives a folder that everybody may read.
pub(crate) fn settle() -> Result<&'static Path, Failure> {
    // Namespaces are named in /run; this one is ours alone and goes with us.
    run(&["mount", "-t", "tmpfs", "bench", "/run"])?;
    run(&["ip", "link", "set", "lo", "up"])?;
    let folder = Path::new("/run/bench");
    fs::create_dir(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// Moves the harness, and so what it starts, off the CPU that proxies are to have. Whether that could be done.
pub(crate) fn leave_first_cpu() -> bool {
    let Ok(allowed) = sched_getaffinity(None) else {
        return false;
    };
    let mut others = allowed;
    others.unset(0);
    allowed.is_set(0)
        && others.count() > 0
        && find("taskset").is_some()
        && sched_setaffinity(None, &others).is_ok()
}

/// Idle connections need descriptors, here and in every process we start.
pub(crate) fn allow_descriptors() -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(())
}
