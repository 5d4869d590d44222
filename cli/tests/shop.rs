//! The README's first command, and every step of `examples/shop`, over the real processes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends there"
)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

/// The example has addresses of its own: one at a time.
static SHOP: Mutex<()> = Mutex::new(());

fn linkerd(arguments: &[&str], state: &Path) -> Command {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_linkerd"));
    command
        .current_dir(root)
        .args(arguments)
        .arg("--state-dir")
        .arg(state);
    command
}

/// What a command prints, without what is another time something else: counts, times, how versions share requests, the last
/// denial; and with columns that do not depend on them.
fn stable(text: &str) -> String {
    let mut out = String::new();
    let mut is_table = false;
    for line in text.lines() {
        let mut tokens: Vec<String> = Vec::new();
        is_table |= line.starts_with("WORKLOAD");
        let is_row = line.starts_with("ok  ") && line.contains(" x ");
        for token in line.split_whitespace() {
            if is_row && token.starts_with('(') {
                break;
            }
            let (number, rest) = token
                .find([',', '%'])
                .map_or((token, ""), |at| token.split_at(at));
            let is_status = tokens
                .last()
                .is_some_and(|last| last == "HTTP" || last == "gRPC");
            let is_number = number.parse::<f64>().is_ok() && !is_status;
            tokens.push(if is_number {
                format!("N{rest}")
            } else {
                token.to_owned()
            });
            if is_table && token.starts_with("http://") {
                break;
            }
        }
        out.push_str(&tokens.join(" "));
        out.push('\n');
    }
    out
}

/// Compares with a file; `UPDATE_SNAPSHOTS=1` writes it anew.
#[track_caller]
fn shows(name: &str, text: &str) {
    let seen = stable(text);
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/snapshots")
        .join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, &seen).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(seen == kept, "{name}: now it is\n{seen}");
}

#[test]
fn every_step_of_the_shop_does_what_its_page_says() {
    let _one = SHOP.lock().unwrap_or_else(PoisonError::into_inner);
    let state = tempfile::tempdir().unwrap();
    for step in ["1", "2", "3", "4", "5"] {
        let output = linkerd(
            &["run", "examples/shop", "--once", "--step", step],
            state.path(),
        )
        .output()
        .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "step {step}\n{text}{errors}");
        assert!(text.contains("21 of 21 rows"), "{text}");
        let retries = text.lines().find(|line| line.starts_with("web  "));
        let retries = retries.and_then(|line| line.split_whitespace().nth(3));
        // Nine charges of which none failed, though each third attempt does.
        assert_eq!(retries, Some("4"), "{text}");
        if step == "5" {
            let (_, result) = text.split_once("    FROM").unwrap();
            shows("run-once.txt", &format!("FROM{result}"));
        }
    }
}

fn interrupt(run: &Child) {
    let id = Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap();
    kill_process(id, Signal::INT).unwrap();
}

#[test]
fn a_manifest_that_is_edited_decides_at_once_and_a_broken_one_changes_nothing() {
    let _one = SHOP.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let shop = support::shop(folder.path());
    let state = folder.path().join("state");
    let mut run = linkerd(&["run", shop.to_str().unwrap(), "-o", "json"], &state)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pages = BufReader::new(run.stdout.take().unwrap()).lines();
    let mut debug_page = |wanted: &str| {
        // A page every other second; an edit shows in the first or second one after it.
        let verdicts: Vec<_> = pages
            .by_ref()
            .take(5)
            .map(|page| {
                let page: serde_json::Value = serde_json::from_str(&page.unwrap()).unwrap();
                let rows = page["traffic"].as_array().unwrap();
                let row = rows.iter().find(|row| row["to"] == "web:9000").unwrap();
                row["verdict"].as_str().unwrap().to_owned()
            })
            .take_while(|verdict| verdict != wanted)
            .collect();
        assert!(verdicts.len() < 5, "never {wanted}");
    };
    debug_page("denied");
    let namespace = shop.join("steps/5-least-privilege/namespace.yaml");
    let text = std::fs::read_to_string(&namespace).unwrap();
    std::fs::write(
        &namespace,
        text.replace("policy: deny", "policy: all-authenticated"),
    )
    .unwrap();
    debug_page("allowed");
    std::fs::write(
        &namespace,
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: [shop\n",
    )
    .unwrap();
    debug_page("allowed");
    let check = linkerd(&["check", shop.to_str().unwrap()], &state)
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(1));
    let text = String::from_utf8_lossy(&check.stdout);
    assert!(
        ["namespace.yaml", "(document 0)", "linkerd policy lint"]
            .iter()
            .all(|part| text.contains(part)),
        "{text}"
    );
    interrupt(&run);
    pages.for_each(drop);
    assert!(run.wait().unwrap().success());
}

#[test]
fn what_is_not_as_declared_is_said_and_fails() {
    let _one = SHOP.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let shop = support::shop(folder.path());
    let file = shop.join("mesh.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let wrong = text.replacen(
        "grpc: shop.Payments/Charge, times: 9, expect: allowed",
        "grpc: shop.Payments/Charge, times: 9, expect: denied",
        1,
    );
    assert_ne!(text, wrong);
    std::fs::write(&file, wrong).unwrap();
    let arguments = ["run", shop.to_str().unwrap(), "--once", "-o", "json"];
    let output = linkerd(&arguments, &folder.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let page: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(page["as_expected"], false);
    let rows = page["traffic"].as_array().unwrap();
    let wrong: Vec<_> = rows
        .iter()
        .filter(|row| row["verdict"] != row["expected"])
        .collect();
    assert_eq!(wrong.len(), 1);
    assert_eq!(wrong[0]["request"], "shop.Payments/Charge x9");
}

#[test]
fn a_running_mesh_can_be_checked_and_asked_and_ctrl_c_leaves_nothing_behind() {
    let _one = SHOP.lock().unwrap_or_else(PoisonError::into_inner);
    let state = tempfile::tempdir().unwrap();
    let mut run = linkerd(&["run", "examples/shop"], state.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains("Ctrl-C ends it")),
        "it ended early"
    );

    let check = linkerd(&["check", "examples/shop"], state.path())
        .output()
        .unwrap();
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
    shows("check-shop.txt", &String::from_utf8_lossy(&check.stdout));
    for (name, words) in [
        ("stat-retries.txt", "stat retries 127.42.0.2:4191"),
        (
            "diagnostics-outbound.txt",
            "diagnostics outbound 127.42.0.2:4191",
        ),
        (
            "diagnostics-compared.txt",
            "diagnostics endpoints examples/shop --admin 127.42.0.2:4191",
        ),
    ] {
        let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut command = Command::new(env!("CARGO_BIN_EXE_linkerd"));
        let words = words.split_whitespace();
        let output = command.current_dir(root).args(words).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {errors}");
        shows(name, &String::from_utf8_lossy(&output.stdout));
    }
    let again = linkerd(&["run", "examples/shop", "--once"], state.path())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("already running"));
    let ask = Command::new(env!("CARGO_BIN_EXE_linkerd"))
        .args([
            "policy",
            "explain",
            "--admin",
            "127.42.0.3:4191",
            "--port",
            "8080",
            "--path",
            "/products",
        ])
        .args([
            "--client",
            "batch.shop.serviceaccount.identity.linkerd.cluster.local",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ask.stdout);
    assert!(
        text.starts_with("ALLOWED by authorizationpolicy catalog-readers"),
        "{text}"
    );

    interrupt(&run);
    // Read on, so that it can write to its end.
    lines.for_each(drop);
    assert!(run.wait().unwrap().success());
    for address in ["127.42.0.2:8080", "127.42.0.2:4191", "127.42.1.2:8080"] {
        assert!(
            TcpStream::connect(address).is_err(),
            "{address} still listens"
        );
    }
    assert!(!state.path().join("run.json").exists());
}
