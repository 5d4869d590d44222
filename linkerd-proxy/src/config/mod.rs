//! The configuration: the environment, read once, as one typed [`Config`].
//!
//! Called by `main` (through [`Config::from_env`]) and by tests (through [`Config::from_vars`]). Every bad variable
//! is reported in one message; `main` prints it and exits with [`EXIT_CODE`]. Nothing reads the environment later.
//! The table of all variables is in [`vars`]; `docs/configuration.md` is made from it.

mod admin;
mod control;
mod docs;
mod identity;
mod inbound;
mod outbound;
mod process;
mod reader;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod value;
pub mod vars;

pub use self::{
    admin::{Admin, Metrics, Readers},
    control::{Backoff, Control, ControlAddr, Policy, StreamLimits, Tracing},
    docs::reference,
    identity::{Certificates, Identity, Service, Spire},
    inbound::{Http2Server, Inbound, PathNormalization},
    outbound::{Outbound, OutboundHttp2Server},
    process::{AccessLog, LogFormat, Logging, Shutdown, Workers},
    reader::{ConfigError, ConfigErrors},
    value::{Address, Listener, PortSet, Suffixes},
};

use reader::Reader;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    sync::Arc,
};
use vars::{Origin, VARS};

/// Begins every variable's name.
pub const PREFIX: &str = "LINKERD2_PROXY_";
/// Exit code for a bad configuration (`EX_USAGE`).
pub const EXIT_CODE: i32 = 64;

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Logs and the access log.
    pub logging: Logging,
    /// Threads.
    pub workers: Workers,
    /// End of the process.
    pub shutdown: Shutdown,
    /// Traffic to the application.
    pub inbound: Inbound,
    /// Traffic from the application.
    pub outbound: Outbound,
    /// Inbound policy and its discovery.
    pub policy: Policy,
    /// Controllers and the limits of their streams.
    pub control: Control,
    /// This workload's identity.
    pub identity: Identity,
    /// The admin server.
    pub admin: Admin,
    /// What is kept in and offered by metrics.
    pub metrics: Metrics,
    /// The whole environment, for `/env.json`; empty when read by [`Config::from_vars`].
    pub environment: Arc<BTreeMap<String, String>>,
    /// What is odd but does no harm, to be logged once logging works.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Every bad variable.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Self::from_environment(std::env::vars_os())
    }

    /// Reads an environment; warns of unknown names, refuses our names with values that are not Unicode.
    ///
    /// # Errors
    /// Every bad variable.
    pub fn from_environment(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigErrors> {
        let mut environment = BTreeMap::new();
        let mut errors = Vec::new();
        let mut unknown = Vec::new();
        for (name, value) in vars {
            let Ok(name) = name.into_string() else {
                continue;
            };
            let ours = name.strip_prefix(PREFIX);
            if let Some(short) = ours
                && vars::find(short).is_none()
            {
                unknown.push(unknown_name(short));
            }
            match value.into_string() {
                Ok(value) => {
                    environment.insert(name, value);
                }
                Err(_) if ours.is_some() => errors.push(ConfigError {
                    name,
                    value: None,
                    problem: "is not Unicode".into(),
                    right: "UTF-8 text".into(),
                }),
                Err(_) => {}
            }
        }
        let mut config = match Self::from_vars(|name| environment.get(name).cloned()) {
            Ok(config) if errors.is_empty() => config,
            Ok(_) => return Err(ConfigErrors(errors)),
            Err(ConfigErrors(more)) => {
                // A variable that is not Unicode looks unset as well; one line about it is enough.
                let named: BTreeSet<_> = errors.iter().map(|error| error.name.clone()).collect();
                errors.extend(
                    more.into_iter()
                        .filter(|error| !named.contains(&error.name)),
                );
                return Err(ConfigErrors(errors));
            }
        };
        unknown.sort();
        config.warnings.extend(unknown);
        config.environment = Arc::new(environment);
        Ok(config)
    }

    /// Reads variables by whole name.
    ///
    /// # Errors
    /// Every bad variable.
    pub fn from_vars(vars: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        Self::parse(&vars).0
    }

    /// The configuration, and the names that were read (for the test that the table names no others).
    fn parse(
        vars: &dyn Fn(&str) -> Option<String>,
    ) -> (Result<Self, ConfigErrors>, BTreeSet<&'static str>) {
        let reader = Reader::new(vars);
        let config = Self::read(&reader);
        let (errors, warnings, read) = reader.finish();
        let config = match config {
            Some(config) if errors.is_empty() => Ok(Self { warnings, ..config }),
            _ => Err(ConfigErrors(errors)),
        };
        (config, read)
    }

    /// Reads every section before giving up, so that every error is found. `None` only after an error was recorded.
    fn read(reader: &Reader<'_>) -> Option<Self> {
        let logging = Logging::read(reader);
        let workers = Workers::read(reader);
        let shutdown = Shutdown::read(reader);
        let inbound = Inbound::read(reader);
        let outbound = Outbound::read(reader);
        let policy = Policy::read(reader);
        let control = Control::read(reader);
        let identity = Identity::read(reader);
        let admin = Admin::read(reader);
        let metrics = Metrics::read(reader);
        Some(Self {
            logging,
            workers,
            shutdown,
            inbound: inbound?,
            outbound: outbound?,
            policy: policy?,
            control: control?,
            identity: identity?,
            admin: admin?,
            metrics,
            environment: Arc::default(),
            warnings: Vec::new(),
        })
    }
}

/// A warning about a name that starts like ours and is none, with the nearest name that is.
fn unknown_name(short: &str) -> String {
    let nearest = VARS
        .iter()
        .filter(|var| var.origin != Origin::Ignored)
        .map(|var| (distance(short, var.name), var.name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 5);
    match nearest {
        Some((_, name)) => {
            format!("{PREFIX}{short} is unknown and ignored; did you mean {PREFIX}{name}?")
        }
        None => format!("{PREFIX}{short} is unknown and ignored"),
    }
}

/// Edit distance (Levenshtein) of two names.
fn distance(a: &str, b: &str) -> usize {
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        let mut row = vec![left];
        for (y, above) in b.bytes().zip(previous.iter().skip(1)) {
            let cost = corner + usize::from(x != y);
            left = cost.min(left + 1).min(above + 1);
            corner = *above;
            row.push(left);
        }
        previous = row;
    }
    previous.last().copied().unwrap_or(0)
}
