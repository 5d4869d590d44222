//! `linkerd inject` and `linkerd uninject`: manifests in, manifests out.
//!
//! Asking for a sidecar is one annotation, so the text of a manifest is changed by that line and nothing else: comments,
//! order and quoting stay. Only what cannot be said by inserting lines (the whole sidecar of `--manual`, flow style) is
//! written anew, document by document.
//!
//! | module | what |
//! |---|---|
//! | `input` | files, folders, standard input; documents of a stream |
//! | `object` | what is to be done to an object |
//! | `edit` | the same, done to its text |
//! | `manual` | where values come from for `--manual` |

mod edit;
mod input;
mod manual;
mod object;

use crate::outcome::{Failure, Outcome};
use input::Document;
use object::{Change, Did};
use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::PathBuf,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Manifests: files, folders, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Adds the sidecar itself, instead of the annotation that asks the injector for it.
    #[arg(long)]
    manual: bool,
    /// The sidecar takes requests of an ingress controller by their names.
    #[arg(long)]
    ingress: bool,
    /// Adds a container with tools to look at the network.
    #[arg(long)]
    enable_debug_sidecar: bool,
    /// The sidecar is an init container that goes on; --native-sidecar=false: a container.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    native_sidecar: Option<bool>,
    /// Ports whose protocol is not looked at, of workloads and Services: numbers and ranges.
    #[arg(long, value_name = "PORTS")]
    opaque_ports: Option<String>,
    /// Ports of the Pod whose traffic does not go through the sidecar.
    #[arg(long, value_name = "PORTS")]
    skip_inbound_ports: Option<String>,
    /// Ports of others whose traffic does not go through the sidecar.
    #[arg(long, value_name = "PORTS")]
    skip_outbound_ports: Option<String>,
    /// How long the kernel keeps connections in CLOSE_WAIT: 90s.
    #[arg(long, value_name = "DURATION")]
    close_wait_timeout: Option<String>,
    #[command(flatten)]
    source: manual::Source,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UninjectFlags {
    /// Manifests: files, folders, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Flags {
    /// What the flags ask for, as annotations.
    fn annotations(&self) -> BTreeMap<&'static str, String> {
        let how = if self.ingress { "ingress" } else { "enabled" };
        let mut all = BTreeMap::from([("linkerd.io/inject", how.to_owned())]);
        let given = [
            ("config.linkerd.io/opaque-ports", &self.opaque_ports),
            (
                "config.linkerd.io/skip-inbound-ports",
                &self.skip_inbound_ports,
            ),
            (
                "config.linkerd.io/skip-outbound-ports",
                &self.skip_outbound_ports,
            ),
            (
                "config.linkerd.io/close-wait-timeout",
                &self.close_wait_timeout,
            ),
        ];
        for (key, value) in given {
            all.extend(value.clone().map(|value| (key, value)));
        }
        if self.enable_debug_sidecar {
            all.insert("config.linkerd.io/enable-debug-sidecar", "true".to_owned());
        }
        if let Some(native) = self.native_sidecar {
            let key = "config.linkerd.io/proxy-enable-native-sidecar";
            all.insert(key, native.to_string());
        }
        all
    }
}

/// `linkerd inject`.
pub(crate) async fn inject(flags: Flags) -> Result<Outcome, Failure> {
    let sidecar = if flags.manual {
        Some(Box::new(flags.source.sidecar().await?))
    } else {
        None
    };
    let change = Change::Inject {
        annotations: flags.annotations(),
        sidecar,
    };
    run(&flags.files, &change)
}

/// `linkerd uninject`.
pub(crate) fn uninject(flags: &UninjectFlags) -> Result<Outcome, Failure> {
    run(&flags.files, &Change::Uninject)
}

fn run(files: &[PathBuf], change: &Change) -> Result<Outcome, Failure> {
    let mut report = Vec::new();
    let mut output = String::new();
    for text in input::read(files)? {
        input::separate(&mut output);
        for document in input::documents(&text.text) {
            match document {
                Document::Between(between) => output.push_str(between),
                Document::Text(body) => {
                    let (changed, did) = changed(body, change)
                        .map_err(|why| Failure::new(format!("{}: {why}", text.name)))?;
                    output.push_str(&changed);
                    report.extend(did);
                }
            }
        }
    }
    match io::stdout().write_all(output.as_bytes()) {
        // Whoever reads has had enough, as `head` has.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::new(format!("cannot write: {error}")));
        }
        _ => {}
    }
    eprint!("{}", told(&report));
    Ok(Outcome::Good)
}

/// A document with its change, and what was done to its objects.
fn changed(text: &str, change: &Change) -> Result<(String, Vec<Did>), String> {
    let before: serde_norway::Value =
        serde_norway::from_str(text).map_err(|error| error.to_string())?;
    if before.is_null() {
        return Ok((text.to_owned(), Vec::new()));
    }
    let mut after = before.clone();
    let mut notes = Vec::new();
    let did = object::change(&mut after, change, &mut notes);
    if after == before {
        return Ok((text.to_owned(), did));
    }
    if text.trim_start().starts_with('{') {
        let json = serde_json::to_string_pretty(&after).map_err(|error| error.to_string())?;
        return Ok((format!("{json}\n"), did));
    }
    let edited = edit::edited(text, &notes);
    let is_right = |text: &String| {
        serde_norway::from_str(text).is_ok_and(|read: serde_norway::Value| read == after)
    };
    match edited.filter(is_right) {
        Some(edited) => Ok((edited, did)),
        None => Ok((
            serde_norway::to_string(&after).map_err(|error| error.to_string())?,
            did,
        )),
    }
}

/// What is said on standard error: a line for each object, then each reason with whom it is about.
fn told(report: &[Did]) -> String {
    let mut text = String::from("\n");
    let mut warnings: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for did in report {
        let Did {
            kind, name, what, ..
        } = did;
        text.push_str(&format!("{kind} \"{name}\" {what}\n"));
        for warning in &did.warnings {
            let about = warnings.entry(warning).or_default();
            about.push(format!("{kind}/{name}"));
        }
    }
    if !warnings.is_empty() {
        text.push('\n');
    }
    for (warning, about) in warnings {
        text.push_str(&format!("‼ {warning}: {}\n", about.join(", ")));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
