//! What a command ends with: good, not good, or a failure with a hint; and tables.

pub(crate) use linkerd_proxy::table;
use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
}

/// A command that did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As it should be: exit code 0.
    Good,
    /// Something is not as it should be, and was said: exit code 1.
    Bad,
}

impl Outcome {
    pub(crate) fn when(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }

    pub(crate) fn code(self) -> ExitCode {
        match self {
            Self::Good => ExitCode::SUCCESS,
            Self::Bad => ExitCode::FAILURE,
        }
    }
}

/// A command that could not do its work. Exit code 1, or 2 if it was asked for wrongly.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: None,
            code: 1,
        }
    }

    /// The command was called wrongly.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self {
            code: 2,
            ..Self::new(what)
        }
    }

    /// With what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Said of what is at `place`.
    pub(crate) fn within(mut self, place: &str) -> Self {
        self.what = format!("{place}.{}", self.what);
        self
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  try: {hint}"),
            None => Ok(()),
        }
    }
}

/// What is about to be printed, without what a terminal would act on: clients choose some of it.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Prints to standard output, as everything here does. Whoever read it may have gone away, as `head` does: then nobody
/// wants the rest, and what the command found is what it ends with.
pub(crate) fn show(text: &str) -> Result<(), Failure> {
    is_read(text).map(drop)
}

/// As [`show`], and says whether somebody still reads it: what prints for ever ends there.
pub(crate) fn is_read(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match printed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(format!("standard output: {error}"))),
    }
}

/// Prints a value as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value);
    show(&(text.map_err(|error| Failure::new(error.to_string()))? + "\n"))
}
