//! Tries the Dockerfile without an engine: the steps of its build stage run in a folder made of what git has, and the folder
//! that the final stage copies is looked at and tried out ([`image`]).
//!
//! The image builds with `--release`, which takes many minutes on a small machine. CI asks for `dev`: the same steps with
//! that profile, in the target folder that the tests have filled, so that only the workspace's own crates are built anew.

use crate::{image, tools};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

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
    for binary in image::BINARIES {
        let _ = fs::remove_file(made.join(binary));
    }
    run(build, &folder, &made, profile)?;
    let copied = finish(last)?;
    image::check(&inside(&folder, &copied.folder), &copied.entry)?;
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

/// Runs the build stage below `folder`; cargo's programs come to be in `made`.
fn run(stage: &[Step], folder: &Path, made: &Path, profile: &str) -> Result<(), String> {
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
            // What it installs, this machine has of `cargo xtask test`.
            "RUN" if step.rest.starts_with("apt-get ") => println!("not run here: {}", step.rest),
            "RUN" => {
                let own = inside(folder, "/src/image").display().to_string();
                let words = step
                    .rest
                    .replace("--release", &format!("--profile {profile}"))
                    .replace("target/release", &made.display().to_string())
                    .replace("/src/image", &own);
                let mut shell = Command::new("sh");
                shell.current_dir(here).args(["-c", &words]);
                if !image::is_root() {
                    shell.env("SETCAP", "echo SKIPPED, for want of root: setcap");
                }
                let target = made.parent().unwrap_or(made);
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
    Ok(())
}

/// What the final stage says.
#[derive(Debug)]
struct Final {
    /// The folder of the build stage that is the image.
    folder: String,
    entry: String,
}

/// What the final stage may do: take one folder, and name who runs which of its programs.
fn finish(stage: &[Step]) -> Result<Final, String> {
    let (mut folder, mut user, mut entry) = (None, None, None);
    for step in stage {
        let rest = step.rest.as_str();
        match step.name.as_str() {
            "FROM" if rest == "scratch" => {}
            "FROM" => return Err(format!("FROM {rest}: the image is made from scratch")),
            "ENV" => {}
            "USER" => user = Some(rest),
            "ENTRYPOINT" => entry = Some(rest.trim_matches(['[', ']', '"'])),
            "COPY" if folder.is_none() => {
                folder = rest
                    .strip_prefix("--from=build ")
                    .and_then(|rest| rest.strip_suffix("/ /"));
                if folder.is_none() {
                    return Err(format!(
                        "COPY {rest}: only a folder of the build stage, to /"
                    ));
                }
            }
            other => {
                return Err(format!(
                    "the final stage has {other} {rest}: it copies once"
                ));
            }
        }
    }
    let number = user.and_then(|user| user.parse::<u32>().ok());
    if number.is_none_or(|user| user == 0) {
        return Err(format!(
            "USER is {user:?}; give a number that is not 0, so that Kubernetes can tell it is not root"
        ));
    }
    let missing = |what: &str| format!("the final stage has no {what}");
    Ok(Final {
        folder: folder.ok_or_else(|| missing("COPY"))?.to_owned(),
        entry: entry.ok_or_else(|| missing("ENTRYPOINT"))?.to_owned(),
    })
}

fn inside(folder: &Path, path: &str) -> PathBuf {
    folder.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_more_than_one_folder_or_with_a_root_user_is_refused() {
        let last = |text: &str| finish(stages(text).last().unwrap()).unwrap_err();
        assert!(last("FROM debian").contains("from scratch"));
        assert!(last("FROM scratch\nCOPY . .").contains("only a folder"));
        assert!(last("FROM scratch\nCOPY --from=build /src/image/ /x").contains("only a folder"));
        let copy = "FROM scratch\nCOPY --from=build /src/image/ /";
        assert!(last(&format!("{copy}\nCOPY --from=build /x/ /")).contains("copies once"));
        assert!(last(&format!("{copy}\nRUN apt-get install gcc")).contains("copies once"));
        assert!(last(&format!("{copy}\nUSER root")).contains("not 0"));
        assert!(last(&format!("{copy}\nUSER 0")).contains("not 0"));
        assert!(last(&format!("{copy}\nUSER 2102")).contains("ENTRYPOINT"));
    }
}
