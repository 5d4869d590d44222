//! The programs that take rules. The kernel has two machines for them, and each family has its own programs; which of
//! them works is found out by asking for the rules that there are.

use crate::{
    flags::Flags,
    rules::{self, Family},
};
use std::{
    ffi::OsStr,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Programs, best first; the wanted one comes before them.
const PROGRAMS: [&str; 3] = ["iptables-nft", "iptables", "iptables-legacy"];

/// Why rules are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No program works.
    #[error(
        "no program can set rules for {family:?}: {reasons}; is the package iptables there, and has the container NET_ADMIN and NET_RAW?"
    )]
    NoProgram {
        /// For which family.
        family: Family,
        /// What each said.
        reasons: String,
    },
    /// A program refused, and nothing was changed.
    #[error("{program} has refused, and nothing was changed: {reason}")]
    Refused {
        /// Which.
        program: String,
        /// What it said.
        reason: String,
    },
    /// Rules are there after they were taken away.
    #[error("{program} still has rules of ours")]
    Left {
        /// Which.
        program: String,
    },
}

/// A program that works, and what is there.
#[derive(Debug)]
pub struct Firewall {
    restore: PathBuf,
    save: PathBuf,
    waits: bool,
    present: String,
}

impl Firewall {
    /// The wanted program, or the next one that works.
    ///
    /// # Errors
    /// [`Error::NoProgram`].
    pub fn find(flags: &Flags, family: Family) -> Result<Self, Error> {
        let mut reasons = Vec::new();
        for program in candidates(flags) {
            let wanted = program == flags.firewall_bin_path;
            match Self::open(flags, &program, family) {
                Ok(firewall) => {
                    if !wanted {
                        tracing::warn!(
                            wanted = %flags.firewall_bin_path.display(), taken = %program.display(),
                            reason = reasons.join("; "), "Another program is taken"
                        );
                    }
                    return Ok(firewall);
                }
                Err(reason) => reasons.push(reason),
            }
        }
        Err(Error::NoProgram {
            family,
            reasons: reasons.join("; "),
        })
    }

    /// Every program that works.
    pub fn all(flags: &Flags, family: Family) -> Vec<Self> {
        let all = candidates(flags).into_iter();
        all.filter_map(|program| Self::open(flags, &program, family).ok())
            .collect()
    }

    fn open(flags: &Flags, program: &Path, family: Family) -> Result<Self, String> {
        let save = match &flags.firewall_save_bin_path {
            Some(save) if program == flags.firewall_bin_path => save.clone(),
            _ => with(program, "-save"),
        };
        let mut firewall = Self {
            restore: of(family, &with(program, "-restore")),
            save: of(family, &save),
            waits: flags.use_wait_flag,
            present: String::new(),
        };
        firewall.look()?;
        Ok(firewall)
    }

    fn look(&mut self) -> Result<(), String> {
        let output = command(&self.save).args(["-t", "nat"]).output();
        self.present = said(&self.save, output)?;
        Ok(())
    }

    /// The rules of the table, as the program tells them.
    pub fn present(&self) -> &str {
        &self.present
    }

    /// What sets the rules.
    pub fn restore(&self) -> &Path {
        &self.restore
    }

    /// Makes the rules of `flags` be there, and no older ones of ours.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn install(&self, flags: &Flags, family: Family) -> Result<(), Error> {
        self.give(&rules::install(flags, family, &self.present))
    }

    /// Takes our rules away. Gives whether there were any.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Left`].
    pub fn undo(&mut self) -> Result<bool, Error> {
        let program = self.restore.display().to_string();
        let refused = |reason| Error::Refused {
            program: program.clone(),
            reason,
        };
        // Two programs may be one machine: another may have taken the rules away since.
        self.look().map_err(refused)?;
        let Some(text) = rules::undo(&self.present) else {
            return Ok(false);
        };
        self.give(&text)?;
        self.look().map_err(refused)?;
        if rules::is_clean(&self.present) {
            Ok(true)
        } else {
            Err(Error::Left { program })
        }
    }

    fn give(&self, text: &str) -> Result<(), Error> {
        tracing::debug!(program = %self.restore.display(), rules = text, "Setting rules");
        let mut command = command(&self.restore);
        command.arg("--noflush");
        if self.waits {
            command.arg("--wait");
        }
        let given = command.stdin(Stdio::piped()).spawn().and_then(|mut child| {
            if let Some(mut stdin) = child.stdin.take() {
                // Who refuses early does not read to the end, and says why.
                let _ = stdin.write_all(text.as_bytes());
            }
            child.wait_with_output()
        });
        said(&self.restore, given)
            .map(drop)
            .map_err(|reason| Error::Refused {
                program: self.restore.display().to_string(),
                reason,
            })
    }
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn said(program: &Path, output: io::Result<Output>) -> Result<String, String> {
    let name = program.display();
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}: {}", output.status, why.trim()))
}

fn candidates(flags: &Flags) -> Vec<PathBuf> {
    let wanted = flags.firewall_bin_path.clone();
    let others = PROGRAMS.iter().map(PathBuf::from);
    let others = others.filter(|program| *program != wanted);
    std::iter::once(wanted.clone()).chain(others).collect()
}

fn with(program: &Path, what: &str) -> PathBuf {
    let mut name = program.as_os_str().to_owned();
    name.push(what);
    name.into()
}

/// The program of a family: `ip6tables-nft` beside `iptables-nft`.
fn of(family: Family, program: &Path) -> PathBuf {
    let name = program.file_name().and_then(OsStr::to_str);
    match (family, name.and_then(|name| name.strip_prefix("iptables"))) {
        (Family::V6, Some(rest)) => program.with_file_name(format!("ip6tables{rest}")),
        _ => program.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_programs_of_its_own() {
        let nft = Path::new("/sbin/iptables-nft-save");
        assert_eq!(of(Family::V6, nft), Path::new("/sbin/ip6tables-nft-save"));
        assert_eq!(of(Family::V4, nft), nft);
        assert_eq!(of(Family::V6, Path::new("fake")), Path::new("fake"));
    }
}
