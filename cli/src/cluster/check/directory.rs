//! `linkerd check DIR`: is the mesh that `linkerd run DIR` runs as it should be? Each failure comes with something to
//! paste. Nothing is written: files are read as they are.

use super::print::Form;
use crate::{
    fetch, identity, mesh,
    outcome::{Failure, Outcome, json, plain, show},
    run::{self, Running},
};
use linkerd_controller::source;
use linkerd_tls::ca::Ca;
use serde::Serialize;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// An issuer that ends sooner than this is warned of.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// A check.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Check {
    fn new(what: impl Into<String>, result: Result<(), (String, String)>) -> Self {
        let (problem, hint) = result.err().unzip();
        Self {
            what: what.into(),
            ok: problem.is_none(),
            problem,
            hint,
        }
    }
}

pub(super) async fn run(
    directory: &Path,
    state: Option<&PathBuf>,
    form: Form,
) -> Result<Outcome, Failure> {
    let state = state
        .cloned()
        .unwrap_or_else(|| run::state_directory(directory));
    let running = run::running(&state);
    let directories = mesh::manifests(directory, running.as_ref().map(|running| running.step))?;
    let mut checks = vec![
        manifests(directory, &directories),
        issuer(directory, &state),
    ];
    match &running {
        None => checks.push(Check::new(
            "the mesh runs",
            Err((
                format!("nothing runs with {}", state.display()),
                format!("linkerd run {}", directory.display()),
            )),
        )),
        Some(running) => live(running, &state, &mut checks).await,
    }
    match form {
        Form::Json => json(&checks)?,
        Form::Table | Form::Short => {
            let mut text = String::new();
            let is_shown = |check: &&Check| form == Form::Table || !check.ok;
            for check in checks.iter().filter(is_shown) {
                let ok = if check.ok { "ok  " } else { "FAIL" };
                text.push_str(&format!("{ok} {}\n", check.what));
                if let Some(problem) = &check.problem {
                    for line in problem.lines() {
                        text.push_str(&format!("       {}\n", plain(line)));
                    }
                }
                if let Some(hint) = &check.hint {
                    text.push_str(&format!("       try: {hint}\n"));
                }
            }
            show(&text)?;
        }
    }
    Ok(Outcome::when(checks.iter().all(|check| check.ok)))
}

/// Problems with manifests that are shown.
const SHOWN: usize = 20;

fn manifests(directory: &Path, directories: &[PathBuf]) -> Check {
    let problems = source::read(directories).problems;
    Check::new(
        "the manifests can be read",
        match problems.as_slice() {
            [] => Ok(()),
            all => {
                let shown = all.iter().take(SHOWN).map(|problem| format!("\n{problem}"));
                let shown: String = shown.collect();
                let more = match all.len().saturating_sub(SHOWN) {
                    0 => String::new(),
                    more => format!("\nand {more} more"),
                };
                Err((
                    format!("{} problems:{shown}{more}", all.len()),
                    format!("linkerd policy lint {}", directory.display()),
                ))
            }
        },
    )
}

fn issuer(directory: &Path, state: &Path) -> Check {
    let what = "the issuer's certificate is valid for 30 more days";
    if !state.join("issuer.crt").exists() {
        let hint = format!("linkerd run {}", directory.display());
        return Check::new(
            what,
            Err((format!("{} has no issuer.crt", state.display()), hint)),
        );
    }
    let read = |name: &str| {
        let file = state.join(name);
        fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
    };
    let read = || Ok((read("issuer.crt")?, read("issuer.key")?, read("ca.crt")?));
    let ca = read().and_then(|(certificate, key, anchors)| {
        let ca = Ca::load_with_anchors(&certificate, &key, &anchors);
        ca.map_err(|error| format!("{}: {error}", state.join("issuer.crt").display()))
    });
    // The root stays: it signs the new issuer. The former one's key stays where only its owner can read it.
    let hint = format!(
        "mkdir -p -m 700 {0}/former && mv {0}/issuer.crt {0}/issuer.key {0}/former && linkerd identity create-ca --state-dir {0}",
        state.display()
    );
    let ca = match ca {
        Ok(ca) => ca,
        Err(problem) => return Check::new(what, Err((problem, hint))),
    };
    let until = ca.not_after();
    let left = until.duration_since(SystemTime::now()).unwrap_or_default();
    let result = if left > SOON {
        Ok(())
    } else {
        Err((format!("it ends {}", identity::date(until)), hint))
    };
    Check::new(what, result)
}

async fn live(running: &Running, state: &Path, checks: &mut Vec<Check>) {
    checks.push(controller(running.controller, state).await);
    for (name, admin) in &running.sidecars {
        let log = format!(
            "tail {}",
            state
                .join("logs")
                .join(format!("{name}-sidecar.log"))
                .display()
        );
        let ready = match fetch::get(*admin, "/ready", "*/*").await {
            Ok(page) if page.status.is_success() => Ok(()),
            Ok(page) => {
                let why = page
                    .headers
                    .get("l5d-proxy-error")
                    .and_then(|why| why.to_str().ok());
                Err((why.unwrap_or("it is not ready").to_owned(), log.clone()))
            }
            Err(failure) => Err((failure.to_string(), log.clone())),
        };
        checks.push(Check::new(format!("{name}: the sidecar is ready"), ready));
        let certified = match fetch::get(*admin, "/metrics", "text/plain").await {
            Ok(page) => certificate(&page.body),
            Err(failure) => Err(failure.to_string()),
        };
        checks.push(Check::new(
            format!("{name}: its certificate is valid"),
            certified.map_err(|problem| (problem, log.clone())),
        ));
        let connected = match fetch::get(*admin, "/policy", "application/json").await {
            Ok(page)
                if page.body.contains("\"controller_connected\":true")
                    || page.body.contains("\"controller_connected\": true") =>
            {
                Ok(())
            }
            Ok(_) => Err((
                "it is not connected; the last good policy stays in force".to_owned(),
                log,
            )),
            Err(failure) => Err((failure.to_string(), log)),
        };
        checks.push(Check::new(
            format!("{name}: it gets policy from the control plane"),
            connected,
        ));
    }
}

fn certificate(metrics: &str) -> Result<(), String> {
    let until = fetch::sum(
        metrics,
        "control_identity_cert_expiration_timestamp_seconds",
    );
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    if until <= 0.0 {
        return Err("it has none".into());
    }
    if until <= now {
        return Err(format!("it expired {:.0} s ago", now - until));
    }
    Ok(())
}

async fn controller(admin: SocketAddr, state: &Path) -> Check {
    let log = format!("tail {}", state.join("logs/controller.log").display());
    let result = match fetch::get(admin, "/status", "application/json").await {
        Err(failure) => Err((failure.to_string(), log)),
        Ok(page) => match serde_json::from_str::<serde_json::Value>(&page.body) {
            Ok(status)
                if status
                    .get("problems")
                    .is_some_and(|list| list.as_array().is_some_and(Vec::is_empty)) =>
            {
                Ok(())
            }
            Ok(_) => Err((
                "it holds on to the last good version of some manifests".to_owned(),
                format!("curl -s http://{admin}/status"),
            )),
            Err(error) => Err((format!("/status cannot be read: {error}"), log)),
        },
    };
    Check::new("the control plane answers and uses every manifest", result)
}
