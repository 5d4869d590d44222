//! What people read: help, findings, explanations, certificates. `UPDATE_SNAPSHOTS=1` writes the files anew.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends there"
)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn linkerd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_linkerd"))
        .current_dir(root())
        .args(arguments)
        .output()
        .unwrap()
}

/// Compares what a command prints and its exit code with the file `name`.
#[track_caller]
fn shows(name: &str, arguments: &[&str]) {
    let output = linkerd(arguments);
    let part = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (part(&output.stdout), part(&output.stderr));
    let code = output.status.code().unwrap();
    let seen = format!("exit code {code}\n{out}{err}");
    let file = root().join("cli/tests/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&file, &seen).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(seen == kept, "{name}: now it is\n{seen}");
}

#[test]
fn help_says_what_there_is() {
    shows("help.txt", &["--help"]);
    shows("help-run.txt", &["run", "--help"]);
    shows("help-policy.txt", &["policy", "--help"]);
    shows("help-explain.txt", &["policy", "explain", "--help"]);
    shows("help-lint.txt", &["policy", "lint", "--help"]);
    shows("help-identity.txt", &["identity", "--help"]);
    shows("help-token.txt", &["identity", "token", "--help"]);
    shows("help-check.txt", &["check", "--help"]);
    shows("help-stat-retries.txt", &["stat", "retries", "--help"]);
    shows("help-diagnostics.txt", &["diagnostics", "--help"]);
    shows("help-install.txt", &["install", "--help"]);
    shows("help-inject.txt", &["inject", "--help"]);
    shows("help-uninject.txt", &["uninject", "--help"]);
    shows("help-profile.txt", &["profile", "--help"]);
    shows("help-version.txt", &["version", "--help"]);
}

#[test]
fn lint_names_file_document_field_and_fix() {
    shows("lint-broken.txt", &["policy", "lint", "cli/tests/broken"]);
    shows("lint-shop.txt", &["policy", "lint", "examples/shop"]);
    shows("lint-nothing.txt", &["policy", "lint", "nowhere"]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let shop = [
        "policy",
        "explain",
        "examples/shop",
        "--workload",
        "shop/catalog",
        "--port",
        "8080",
    ];
    let explained = [shop.as_slice(), &["--client", WEB, "--path", "/items"]].concat();
    let as_json = [explained.as_slice(), &["-o", "json"]].concat();
    let lint = ["policy", "lint", "cli/tests/broken"].as_slice();
    let lint_json = ["policy", "lint", "cli/tests/broken", "-o", "json"].as_slice();
    let completion = ["completion", "bash"].as_slice();
    for arguments in [explained.as_slice(), &as_json, lint, lint_json, completion] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_linkerd"));
        command.current_dir(root()).args(arguments).stdout(writer);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // What was found still counts.
        let found = linkerd(arguments).status.code();
        assert_eq!((output.status.code(), &*said), (found, ""), "{arguments:?}");
    }
}

#[test]
fn lint_can_be_read_by_a_script() {
    let output = linkerd(&["policy", "lint", "cli/tests/broken", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let page: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(page["problems"][0]["field"], "spec.podSelecter");
    assert_eq!(page["findings"][0]["file"], "cli/tests/broken/policy.yaml");
}

const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

#[test]
fn an_explanation_names_the_rule_and_the_clause() {
    let ask = |more: &[&'static str]| {
        let head = ["policy", "explain", "examples/shop", "--workload"];
        [head.as_slice(), more].concat()
    };
    let stock = [
        "shop/catalog",
        "--port",
        "8080",
        "--client",
        WEB,
        "--method",
        "PUT",
        "--path",
        "/stock/1",
    ];
    shows("explain-denied.txt", &ask(&stock));
    shows(
        "explain-denied.json",
        &ask(&[&stock[..], &["-o", "json"]].concat()),
    );
    let products = [
        "shop/catalog",
        "--port",
        "8080",
        "--client",
        WEB,
        "--path",
        "/products?page=2",
    ];
    shows("explain-allowed.txt", &ask(&products));
    let nothing = [
        "shop/catalog",
        "--port",
        "8080",
        "--client",
        WEB,
        "--path",
        "/admin",
    ];
    shows("explain-no-route.txt", &ask(&nothing));
    shows(
        "explain-connection.txt",
        &ask(&["shop/db", "--port", "6380", "--ip", "10.1.2.3"]),
    );
    let blocked = [
        "shop/web",
        "--port",
        "8080",
        "--ip",
        "127.42.200.66",
        "--path",
        "/",
    ];
    shows("explain-network.txt", &ask(&blocked));
    shows("explain-unknown.txt", &ask(&["shop/wib", "--port", "80"]));
    let first = ["shop/db", "--port", "6380", "--step", "1"];
    shows("explain-step-1.txt", &ask(&first));
}

#[test]
fn a_certificate_is_shown_with_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = rcgen::CertificateParams::new(vec![WEB.to_owned()]).unwrap();
    request.distinguished_name = rcgen::DistinguishedName::new();
    request
        .distinguished_name
        .push(rcgen::DnType::CommonName, WEB);
    request.serial_number = Some(4711_u64.into());
    request.not_before = rcgen::date_time_ymd(2020, 1, 1);
    request.not_after = rcgen::date_time_ymd(2020, 1, 2);
    request.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = request.self_signed(&key).unwrap();
    let (pem, der) = (folder.path().join("web.crt"), folder.path().join("web.der"));
    fs::write(&pem, certificate.pem()).unwrap();
    fs::write(&der, certificate.der()).unwrap();
    shows(
        "inspect.txt",
        &["identity", "inspect", pem.to_str().unwrap()],
    );
    shows(
        "inspect.txt",
        &["identity", "inspect", der.to_str().unwrap()],
    );
    shows(
        "inspect.json",
        &["identity", "inspect", pem.to_str().unwrap(), "-o", "json"],
    );
    shows("inspect-nothing.txt", &["identity", "inspect", "README.md"]);
}

#[test]
fn a_token_is_signed_by_the_ca_of_its_directory_and_kept_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (state, file) = (state.to_str().unwrap(), folder.path().join("token"));
    let token = [
        "identity",
        "token",
        "--workload",
        "shop/web",
        "--state-dir",
        state,
    ];
    let early = linkerd(&token);
    assert!(String::from_utf8_lossy(&early.stderr).contains("identity create-ca --state-dir"));
    assert!(
        linkerd(&["identity", "create-ca", "--state-dir", state])
            .status
            .success()
    );
    let written = [&token[..], &["--file", file.to_str().unwrap()]].concat();
    assert!(linkerd(&written).status.success());
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let authority = linkerd_controller::authority::Authority::open(Path::new(state)).unwrap();
    let subject =
        linkerd_controller::token::verify(&authority, &fs::read_to_string(&file).unwrap());
    assert_eq!(
        subject.unwrap().to_string(),
        "system:externalworkload:shop:web"
    );
    let bad = linkerd(&[
        "identity",
        "token",
        "--workload",
        "shop",
        "--state-dir",
        state,
    ]);
    assert_eq!(bad.status.code(), Some(2));
}

#[test]
fn every_shell_gets_a_completion_script() {
    for (shell, text) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef linkerd"),
        ("fish", "complete -c linkerd"),
    ] {
        let output = linkerd(&["completion", shell]);
        assert!(
            String::from_utf8(output.stdout).unwrap().contains(text),
            "{shell}"
        );
    }
}

#[test]
fn what_opens_a_workload_of_a_directory_is_listed_and_what_is_no_workload_is_said() {
    let authz = |target| ["authz", "-n", "shop", target, "-f", "examples/shop"];
    shows("authz-shop.txt", &authz("po/catalog"));
    shows("authz-unknown.txt", &authz("po/nobody"));
    let explain = ["policy", "explain", "examples/shop", "--port", "8080"];
    shows("explain-no-workload.txt", &explain);
}

/// Names and contents of a directory's files.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries
        .filter(|entry| entry.path().is_file())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn check_of_a_directory_writes_nothing_and_what_it_says_to_paste_mends_the_issuer() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let place = state.to_str().unwrap();
    let make = ["identity", "create-ca", "--state-dir", place];
    assert!(linkerd(&make).status.success());
    // Made on first use by others; not by who only looks.
    for name in ["token.key", "token.pub", "lock"] {
        fs::remove_file(state.join(name)).unwrap();
    }
    let check = || {
        let before = files(&state);
        let output = linkerd(&["check", "examples/shop", "-o", "json", "--state-dir", place]);
        assert!(files(&state) == before, "{:?}", files(&state));
        let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        checks[1].clone()
    };
    assert_eq!(check()["ok"], true);
    // As an issuer is whose certificate is not the one that belongs to its key.
    fs::copy(state.join("ca.crt"), state.join("issuer.crt")).unwrap();
    let broken = check();
    assert_eq!(broken["ok"], false, "{broken}");
    let hint = broken["hint"].as_str().unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_linkerd")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    let pasted = shell.args(["-c", hint]).env("PATH", path).output().unwrap();
    assert!(pasted.status.success(), "{hint}");
    assert_eq!(check()["ok"], true);
    // The former key stays where only its owner reads.
    assert!(state.join("former/issuer.key").is_file());
}

#[test]
fn check_says_what_to_do_when_nothing_runs() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("none");
    let output = linkerd(&[
        "check",
        "examples/shop",
        "-o",
        "json",
        "--state-dir",
        state.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(checks[0]["ok"], true);
    assert_eq!(checks[2]["hint"], "linkerd run examples/shop");
}

#[test]
fn traffic_that_cannot_be_is_named_before_anything_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let shop = support::shop(folder.path());
    let mesh = fs::read_to_string(shop.join("mesh.yaml")).unwrap();
    for (wrong, says) in [
        (
            "from: wbe",
            "traffic[0].from: wbe is neither a workload nor an address",
        ),
        (
            "to: nothing:80",
            "traffic[0].to: nothing:80 is no port of a workload's Service",
        ),
    ] {
        let state = folder.path().join("state");
        let (field, _) = wrong.split_once(": ").unwrap();
        let traffic = mesh.find("\ntraffic:").unwrap();
        let at = traffic + mesh[traffic..].find(&format!("{field}: ")).unwrap();
        let end = at + mesh[at..].find([',', '}', '\n']).unwrap();
        let text = format!("{}{wrong}{}", &mesh[..at], &mesh[end..]);
        fs::write(shop.join("mesh.yaml"), text).unwrap();
        let (directory, kept) = (shop.to_str().unwrap(), state.to_str().unwrap());
        let output = linkerd(&["run", directory, "--state-dir", kept, "--once"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(says), "{error}");
        assert!(!state.exists(), "nothing was begun");
    }
}

#[test]
fn inject_changes_the_lines_that_it_has_to_and_says_what_it_skips() {
    let file = "cli/tests/inject/web.yaml";
    shows("inject.txt", &["inject", "--opaque-ports=3306", file]);
    let manual = ["inject", "--manual", "--ignore-cluster", file];
    shows("inject-manual.txt", &manual);
    shows("uninject.txt", &["uninject", file]);
}
