//! What the image holds, looked at and tried out: called by the check of the Dockerfile with the folder that becomes it.
//!
//! As root its programs run in that folder as they would in a container: of one user, in a network namespace, with nothing
//! of the machine's but the kernel.

use crate::tools;
use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

/// The programs of this workspace.
pub(crate) const BINARIES: [&str; 6] = [
    "linkerd-proxy",
    "linkerd-controller",
    "linkerd",
    "linkerd2-proxy-init",
    "linkerd2-network-validator",
    "linkerd-await",
];

/// Other files that may be there; libraries and the names of iptables beside.
const OTHERS: [&str; 5] = [
    "bin/sleep",
    "etc/passwd",
    "etc/group",
    "etc/nsswitch.conf",
    "etc/ssl/certs/ca-certificates.crt",
];

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Looks at the image in `folder`, whose entry point is `entry`, and tries it where it can be tried.
pub(crate) fn check(folder: &Path, entry: &str) -> Result<(), String> {
    let mut files = Vec::new();
    walk(folder, folder, &mut files)?;
    if let Some(odd) = files.iter().find(|file| !is_known(file)) {
        return Err(format!("the image holds {odd}, which nothing in it needs"));
    }
    for binary in BINARIES {
        let file = folder.join("usr/lib/linkerd").join(binary);
        let is_program = fs::metadata(&file)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if !is_program {
            return Err(format!("the image has no program {}", file.display()));
        }
    }
    let entry = entry.trim_start_matches('/');
    if !files.iter().any(|file| file == entry) {
        return Err(format!("ENTRYPOINT {entry} is not in the image"));
    }
    let mut can = Command::new("unshare");
    if !is_root() || tools::run(can.args(["--net", "true"])).is_err() {
        let what = "the image is not tried out: that needs root and a network namespace";
        if env::var_os("REQUIRE_TOOLS").is_some() {
            return Err(what.into());
        }
        eprintln!("SKIPPED: {what}");
        return Ok(());
    }
    try_out(folder)?;
    println!("image: {} files", files.len());
    Ok(())
}

/// All files below a folder, by their names in it.
fn walk(top: &Path, folder: &Path, files: &mut Vec<String>) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(top, &entry.path(), files)?;
        } else {
            let path: PathBuf = entry.path();
            let name = path.strip_prefix(top).unwrap_or(&path);
            files.push(name.display().to_string());
        }
    }
    Ok(())
}

fn is_known(file: &str) -> bool {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    match folder {
        "usr/lib/linkerd" => BINARIES.contains(&name),
        "usr/sbin" => ["xtables-", "iptables", "ip6tables"]
            .iter()
            .any(|own| name.starts_with(own)),
        _ if OTHERS.contains(&file) => true,
        _ => folder.trim_start_matches("usr/").starts_with("lib") && name.contains(".so"),
    }
}

/// Runs what a Pod runs. A container has `/dev/null` and, for the init container, a folder `/run`.
fn try_out(folder: &Path) -> Result<(), String> {
    let mut shell = Command::new("unshare");
    shell
        .args(["--net", "sh", "-euc", "eval \"$trial\""])
        .env("trial", TRIAL)
        .env("image", folder)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    tools::run(&mut shell)
}

/// `may` runs a program of the image as user 65534 with these capabilities and no others within its reach; the three of
/// every trial are for getting there, and the user has none of them.
const TRIAL: &str = r#"
may() {
    bounds="-all,+sys_chroot,+setuid,+setgid$1"
    shift
    setpriv --bounding-set="$bounds" chroot --userspec=65534:65534 --groups= "$image" "$@"
}
mkdir -p "$image/dev" "$image/run"
mknod -m 666 "$image/dev/null" c 1 3
chmod 777 "$image/run"
may '' /bin/sleep 0
may '' /usr/lib/linkerd/linkerd-proxy 2>&1 | grep -q 'Invalid configuration'
for program in linkerd linkerd-controller linkerd-await linkerd2-network-validator; do
    may '' /usr/lib/linkerd/$program --help >"$image/dev/null"
done
for machine in nft legacy; do
    name=iptables-$machine
    init="/usr/lib/linkerd/linkerd2-proxy-init --firewall-bin-path $name --firewall-save-bin-path $name-save"
    if may '' $init 2>"$image/dev/null"; then
        echo 'linkerd2-proxy-init has rights that its container was not given' >&2
        exit 1
    fi
    may ,+net_admin,+net_raw $init
    for family in iptables ip6tables; do
        may ,+net_admin,+net_raw /usr/sbin/$family-$machine-save -t nat | grep -q 'PROXY_INIT_OUTPUT.* 4140'
    done
    may ,+net_admin,+net_raw $init --undo
done
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_holds_programs_and_what_they_need_and_nothing_else() {
        for known in [
            "usr/lib/linkerd/linkerd-proxy",
            "usr/sbin/ip6tables-legacy-save",
            "usr/lib/x86_64-linux-gnu/xtables/libxt_owner.so",
            "lib/x86_64-linux-gnu/libc.so.6",
            "lib64/ld-linux-x86-64.so.2",
            "bin/sleep",
        ] {
            assert!(is_known(known), "{known}");
        }
        for odd in [
            "bin/sh",
            "usr/sbin/setcap",
            "usr/lib/linkerd/Cargo.toml",
            "lib/apt/methods",
            "etc/shadow",
            "src/main.rs",
        ] {
            assert!(!is_known(odd), "{odd}");
        }
    }
}
