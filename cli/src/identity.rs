//! `linkerd identity`: workload tokens, certificates in plain words, a CA.

use crate::outcome::{self, Failure, Outcome, Output, json, plain};
use linkerd_controller::{
    authority::Authority,
    token::{self, Subject},
};
use serde::Serialize;
use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    pem::Pem,
    prelude::FromDer as _,
};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) pods: crate::cluster::identity::PodFlags,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Sign a token that a workload shows to get its certificate.
    Token(Token),
    /// Say what a certificate is: whose, by whom, until when, and what is wrong with it.
    Inspect(Inspect),
    /// Make a CA and a token key in a directory, where they are missing.
    CreateCa {
        /// The directory.
        #[arg(long, default_value = ".linkerd")]
        state_dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Token {
    /// The state directory of the controller.
    #[arg(long, default_value = ".linkerd")]
    state_dir: PathBuf,
    /// The ExternalWorkload, as namespace/name.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        required_unless_present = "service_account"
    )]
    workload: Option<String>,
    /// The service account, as namespace/name.
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "workload")]
    service_account: Option<String>,
    /// How long it is valid, in seconds.
    #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    lifetime_seconds: u64,
    /// Where it is written, with mode 0600; absent: standard output.
    #[arg(long)]
    file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// PEM with one certificate or several, or DER.
    file: PathBuf,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// `linkerd identity`.
pub(crate) fn run(command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Token(flags) => issue(&flags),
        Command::Inspect(flags) => inspect(&flags, SystemTime::now()),
        Command::CreateCa { state_dir } => {
            let authority = open(&state_dir)?;
            let until = date(authority.ca().not_after());
            outcome::show(&format!(
                "{}: the issuer is valid until {until}\n  proxies trust {}\n",
                state_dir.display(),
                state_dir.join("ca.crt").display()
            ))?;
            Ok(Outcome::Good)
        }
    }
}

/// Opens the CA and token key of a directory, and makes what is missing.
pub(crate) fn open(state: &Path) -> Result<Authority, Failure> {
    Authority::open(state).map_err(|error| Failure::new(error.to_string()))
}

fn issue(flags: &Token) -> Result<Outcome, Failure> {
    if !flags.state_dir.join("token.key").exists() {
        let state = flags.state_dir.display();
        return Err(Failure::new(format!("{state} has no token key"))
            .hint(format!("linkerd identity create-ca --state-dir {state}")));
    }
    let (kind, text) = match (&flags.workload, &flags.service_account) {
        (Some(workload), _) => ("externalworkload", workload),
        (None, Some(account)) => ("serviceaccount", account),
        (None, None) => return Err(Failure::usage("--workload or --service-account is needed")),
    };
    let subject = text
        .split_once('/')
        .and_then(|(ns, name)| format!("system:{kind}:{ns}:{name}").parse().ok())
        .ok_or_else(|| {
            Failure::usage(format!("{text:?} is no NAMESPACE/NAME of two DNS labels"))
                .hint("shop/web")
        })?;
    let authority = open(&flags.state_dir)?;
    let lifetime = Duration::from_secs(flags.lifetime_seconds);
    match &flags.file {
        None => outcome::show(&(signed(&authority, &subject, lifetime)? + "\n"))?,
        Some(file) => write_token(&authority, &subject, lifetime, file)?,
    }
    Ok(Outcome::Good)
}

fn signed(authority: &Authority, subject: &Subject, lifetime: Duration) -> Result<String, Failure> {
    token::issue(authority, subject, lifetime)
        .map_err(|error| Failure::new(format!("the token cannot be signed: {error}")))
}

/// Signs a token into a file that only its owner can read, in place of what was there.
pub(crate) fn write_token(
    authority: &Authority,
    subject: &Subject,
    lifetime: Duration,
    file: &Path,
) -> Result<(), Failure> {
    let token = signed(authority, subject, lifetime)?;
    let beside = file.with_extension("new");
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut new = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        new.write_all(token.as_bytes())?;
        fs::rename(&beside, file)
    };
    write().map_err(|error| Failure::new(format!("{}: {error}", file.display())))
}

/// A certificate in plain words.
#[derive(Debug, Serialize)]
pub(crate) struct Certificate {
    identities: Vec<String>,
    subject: String,
    issuer: String,
    serial: String,
    is_ca: bool,
    not_before: String,
    not_after: String,
    /// What is wrong with it as a workload's certificate, or as a CA's.
    pub(crate) problems: Vec<String>,
}

fn inspect(flags: &Inspect, now: SystemTime) -> Result<Outcome, Failure> {
    let file = &flags.file;
    let bytes =
        fs::read(file).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let certificates = read(&bytes, now).map_err(|what| {
        Failure::new(format!("{}: {what}", file.display()))
            .hint("a file that begins with -----BEGIN CERTIFICATE-----")
    })?;
    match flags.output {
        Output::Json => json(&certificates)?,
        Output::Text => {
            let mut text = String::new();
            for (number, certificate) in certificates.iter().enumerate() {
                text.push_str(&certificate.describe(number + 1, certificates.len(), now));
            }
            outcome::show(&text)?;
        }
    }
    Ok(Outcome::when(
        certificates
            .iter()
            .all(|certificate| certificate.problems.is_empty()),
    ))
}

fn read(bytes: &[u8], now: SystemTime) -> Result<Vec<Certificate>, String> {
    let mut found = Vec::new();
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        for pem in Pem::iter_from_buffer(bytes) {
            let pem = pem.map_err(|error| format!("the PEM cannot be read: {error}"))?;
            if pem.label != "CERTIFICATE" {
                return Err(format!(
                    "holds a {}, not a certificate",
                    plain(&pem.label.to_lowercase())
                ));
            }
            found.push(one(&pem.contents, now)?);
        }
    } else {
        found.push(one(bytes, now)?);
    }
    if found.is_empty() {
        return Err("holds no certificate".into());
    }
    Ok(found)
}

pub(crate) fn one(der: &[u8], now: SystemTime) -> Result<Certificate, String> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|_| "holds no certificate: it is neither PEM nor DER of one".to_owned())?;
    let mut identities = Vec::new();
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) | GeneralName::URI(name) => identities.push(plain(name)),
                _ => {}
            }
        }
    }
    let validity = certificate.validity();
    let (not_before, not_after) = (
        validity.not_before.to_datetime(),
        validity.not_after.to_datetime(),
    );
    let mut read = Certificate {
        identities,
        subject: plain(&certificate.subject().to_string()),
        issuer: plain(&certificate.issuer().to_string()),
        serial: certificate.raw_serial_as_string(),
        is_ca: certificate.is_ca(),
        not_before: show(not_before),
        not_after: show(not_after),
        problems: Vec::new(),
    };
    read.problems = problems(&certificate, &read, OffsetDateTime::from(now));
    Ok(read)
}

fn problems(
    certificate: &X509Certificate<'_>,
    read: &Certificate,
    now: OffsetDateTime,
) -> Vec<String> {
    let validity = certificate.validity();
    let mut problems = Vec::new();
    if validity.not_after.to_datetime() <= now {
        problems.push(format!(
            "expired on {}: have it issued again",
            read.not_after
        ));
    }
    if validity.not_before.to_datetime() > now {
        problems.push(format!(
            "not valid before {}: is this host's clock right?",
            read.not_before
        ));
    }
    if read.is_ca {
        return problems;
    }
    if read.identities.is_empty() {
        problems.push("names no identity: it has no DNS name and no URI in subjectAltName".into());
    }
    for extension in certificate.extensions() {
        if let ParsedExtension::ExtendedKeyUsage(usage) = extension.parsed_extension() {
            if !usage.server_auth && !usage.any {
                problems
                    .push("may not be used by servers: extendedKeyUsage lacks serverAuth".into());
            }
            if !usage.client_auth && !usage.any {
                problems
                    .push("may not be used by clients: extendedKeyUsage lacks clientAuth".into());
            }
        }
    }
    problems
}

impl Certificate {
    pub(crate) fn describe(&self, number: usize, of: usize, now: SystemTime) -> String {
        let kind = if self.is_ca { "CA" } else { "workload" };
        let mut text = if of > 1 {
            format!("certificate {number} of {of} ({kind})\n")
        } else {
            format!("certificate ({kind})\n")
        };
        for identity in &self.identities {
            text.push_str(&format!("  identity  {identity}\n"));
        }
        if self.identities.is_empty() || !self.subject.is_empty() {
            text.push_str(&format!("  subject   {}\n", self.subject));
        }
        text.push_str(&format!(
            "  issuer    {}\n  serial    {}\n",
            self.issuer, self.serial
        ));
        text.push_str(&format!(
            "  valid     {} to {}{}\n",
            self.not_before,
            self.not_after,
            self.left(now)
        ));
        for problem in &self.problems {
            text.push_str(&format!("  PROBLEM   {problem}\n"));
        }
        text
    }

    fn left(&self, now: SystemTime) -> String {
        let Ok(end) = OffsetDateTime::parse(&self.not_after, &Rfc3339) else {
            return String::new();
        };
        let left = end - OffsetDateTime::from(now);
        match left.whole_hours() {
            ..=0 => String::new(),
            hours @ 1..=48 => format!(" ({hours} h left)"),
            hours => format!(" ({} days left)", hours / 24),
        }
    }
}

fn show(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// A time as RFC 3339.
pub(crate) fn date(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let at = i64::try_from(seconds)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    at.map_or_else(|| "?".to_owned(), show)
}
