//! Network namespaces: command lines that make them, and work that is done in them.
#![expect(clippy::unwrap_used, reason = "what fails here is the test")]

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{fs::File, os::fd::AsFd as _, process::Command, thread};

/// Runs a command line as root.
///
/// # Errors
/// What it said when it failed, or why it did not start.
pub fn run(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let path = std::env::vars().find(|(name, _)| name == "PATH");
    let path = format!("{}:/usr/sbin:/sbin", path.unwrap_or_default().1);
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .env("PATH", path)
        .output()
        .map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{line}: {said}"))
}

/// Runs something on a thread inside a namespace.
///
/// # Panics
/// The thread does, where there is no such namespace.
pub fn inside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let path = format!("/var/run/netns/{name}");
    thread::spawn(move || {
        let namespace = File::open(path).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    })
}
