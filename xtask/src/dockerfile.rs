//! Tries the Dockerfile without an engine: the steps of its build stage run in a folder made of what git has, and what the
//! final stage copies must have come out of them.
//!
//! The image builds with `--release`, which takes many minutes on a small machine. CI asks for `dev`: the same steps with
//! that profile, in the target folder that the tests have filled, so that only the workspace's own crates are built anew.

use crate::tools;
use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// What the image may be made of: nothing but these.
const BINARIES: [&str; 6] = [
    "linkerd-proxy",
    "linkerd-controller",
    "linkerd",
    "linkerd2-proxy-init",
    "linkerd2-network-validator",
    "linkerd-await",
];

/// One instruction, with the words after it.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    name: String,
    rest: String,
}

/// The word after the task's name is the profile; `release` if there is none.
pub(crate) fn check(words: &[String]) -> Result<(), String> {
    let text = fs::read_to_string(tools::root().join("Dockerfile"))
        .map_err(|error| format!("Dockerfile: {error}"))?;
    let stages = stages(&text);
    let [build, last] = stages.as_slice() else {
        return Err(format!(
            "Dockerfile: {} stages; a build and a final one are wanted",
            stages.len()
        ));
    };
    let profile = words.first().map_or("release", String::as_str);
    let folder = tools::cache().join("dockerfile");
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => tools::root().join(folder),
        None => tools::root().join("target"),
    };
    clean(&folder)?;
    // What is copied must come out of the steps, not have been there before.
    let made = target.join(if profile == "dev" { "debug" } else { profile });
    for binary in BINARIES {
        let _ = fs::remove_file(made.join(binary));
    }
    let workdir = run(build, &folder, &target, profile)?;
    finish(last, &workdir, &made)?;
    fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// Instructions by stage; lines that end in a backslash go on.
fn stages(text: &str) -> Vec<Vec<Step>> {
    let mut stages: Vec<Vec<Step>> = Vec::new();
    for line in text.replace("\\\n", " ").lines() {
        let line = line.trim();
        let Some((name, rest)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        if name.starts_with('#') {
            continue;
        }
        let step = Step {
            name: name.to_ascii_uppercase(),
            rest: rest.trim().to_owned(),
        };
        if step.name == "FROM" {
            stages.push(Vec::new());
        }
        if let Some(stage) = stages.last_mut() {
            stage.push(step);
        }
    }
    stages
}

/// Makes the folder empty.
fn clean(folder: &Path) -> Result<(), String> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// Runs the build stage below `folder`. Gives the stage's last folder, as the Dockerfile names it.
fn run(stage: &[Step], folder: &Path, target: &Path, profile: &str) -> Result<String, String> {
    let mut workdir = String::from("/");
    for step in stage {
        let here = inside(folder, &workdir);
        match step.name.as_str() {
            "FROM" => {}
            "WORKDIR" => {
                workdir.clone_from(&step.rest);
                let here = inside(folder, &workdir);
                fs::create_dir_all(&here).map_err(|error| format!("WORKDIR: {error}"))?;
            }
            "COPY" if step.rest == ". ." => {
                // What a clone would have, with what is not committed yet.
                let copy = "git ls-files -z --cached --others --exclude-standard \
                            | tar --null --ignore-failed-read -cf - -T - | tar -xf - -C \"$0\"";
                let mut shell = Command::new("sh");
                shell
                    .current_dir(tools::root())
                    .args(["-c", copy])
                    .arg(here);
                tools::run(&mut shell)?;
            }
            "RUN" => {
                let words = if profile == "release" {
                    step.rest.clone()
                } else {
                    step.rest
                        .replace("--release", &format!("--profile {profile}"))
                };
                let mut shell = Command::new("sh");
                shell.current_dir(here).args(["-c", &words]);
                tools::run(shell.env("CARGO_TARGET_DIR", target))?;
            }
            other => {
                return Err(format!(
                    "the build stage has {other} {}: say here what it does",
                    step.rest
                ));
            }
        }
    }
    Ok(workdir)
}

/// What the final stage may do: copy binaries that the build made, and name who runs which.
fn finish(stage: &[Step], workdir: &str, made: &Path) -> Result<(), String> {
    let mut copied = Vec::new();
    let mut user = None;
    let mut entry = None;
    for step in stage {
        match step.name.as_str() {
            "FROM" | "ENV" => {}
            "USER" => user = Some(step.rest.as_str()),
            "ENTRYPOINT" => entry = Some(step.rest.trim_matches(['[', ']', '"'])),
            "COPY" => copied.extend(copies(&step.rest, workdir, made)?),
            other => {
                return Err(format!(
                    "the final stage has {other} {}: it only copies",
                    step.rest
                ));
            }
        }
    }
    if user
        .and_then(|user| user.parse::<u32>().ok())
        .is_none_or(|user| user == 0)
    {
        return Err(format!(
            "USER is {user:?}; give a number that is not 0, so that Kubernetes can tell it is not root"
        ));
    }
    if BINARIES.iter().any(|binary| {
        !copied
            .iter()
            .any(|path| path.ends_with(&format!("/{binary}")))
    }) {
        return Err(format!(
            "the image has {copied:?}; it should have {BINARIES:?}"
        ));
    }
    if entry.is_none_or(|entry| !copied.iter().any(|path| path == entry)) {
        return Err(format!("ENTRYPOINT {entry:?} is none of {copied:?}"));
    }
    println!(
        "image: {}, user {}",
        copied.join(" "),
        user.unwrap_or_default()
    );
    Ok(())
}

/// The paths in the image that one COPY makes; each must be a program that the build made.
fn copies(rest: &str, workdir: &str, made: &Path) -> Result<Vec<String>, String> {
    let mut words: Vec<&str> = rest.split_whitespace().collect();
    let Some(to) = words.pop() else {
        return Err("COPY without words".into());
    };
    if words.first() != Some(&"--from=build") {
        return Err(format!("COPY {rest}: only from the build stage"));
    }
    let mut copied = Vec::new();
    for from in words.iter().skip(1) {
        let name = from
            .strip_prefix(&format!("{workdir}/target/release/"))
            .filter(|name| BINARIES.contains(name))
            .ok_or_else(|| format!("COPY {from}: not one of the binaries {BINARIES:?}"))?;
        let file = made.join(name);
        let is_program = fs::metadata(&file)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if !is_program {
            return Err(format!(
                "COPY {from}: the build did not make {}",
                file.display()
            ));
        }
        copied.push(format!("{}/{name}", to.trim_end_matches('/')));
    }
    Ok(copied)
}

fn inside(folder: &Path, path: &str) -> PathBuf {
    folder.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_with_more_than_the_binaries_or_a_root_user_is_refused() {
        let last = |text: &str| {
            let stages = stages(text);
            finish(stages.last().unwrap(), "/src", Path::new("/nowhere")).unwrap_err()
        };
        assert!(
            last("FROM x\nCOPY --from=build /src/Cargo.toml /x/")
                .contains("not one of the binaries")
        );
        assert!(last("FROM x\nCOPY . .").contains("only from the build stage"));
        assert!(last("FROM x\nUSER root").contains("not 0"));
        assert!(last("FROM x\nUSER 0").contains("not 0"));
        assert!(last("FROM x\nUSER 2102").contains("it should have"));
        assert!(last("FROM x\nRUN apt-get install gcc").contains("only copies"));
    }
}
