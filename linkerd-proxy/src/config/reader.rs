//! Reads variables and collects what is wrong with them, so that all of it is reported at once.
//!
//! Called by the sections of [`super::Config`]. A section asks for names of the table in [`super::vars`]; defaults
//! are texts of that table and go through the same parsers, so that the documentation cannot differ from the code.

use super::{
    PREFIX,
    value::{Syntax, Value},
    vars::{self, Var},
};
use std::{cell::RefCell, collections::BTreeSet, fmt};

/// Longest part of a bad value that is repeated in a message, in characters.
const MAX_SHOWN: usize = 80;

/// What is wrong with one variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The variable's whole name.
    pub name: String,
    /// Its value, shortened; absent if the variable is not set.
    pub value: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub right: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(value) = &self.value {
            write!(f, "={value:?}")?;
        }
        write!(f, " {}: give {}", self.problem, self.right)
    }
}

/// Every problem of an environment, in the order in which it was found; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    fn text(&self) -> String {
        let lines: Vec<_> = self.0.iter().map(|error| format!("\n  {error}")).collect();
        match self.0.len() {
            1 => format!("1 variable is wrong:{}", lines.concat()),
            n => format!("{n} variables are wrong:{}", lines.concat()),
        }
    }
}

/// Source of variables, by whole name.
type Source<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads variables by their names without prefix.
pub(super) struct Reader<'a> {
    source: Source<'a>,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<String>>,
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: Source<'a>) -> Self {
        Self {
            source,
            errors: RefCell::default(),
            warnings: RefCell::default(),
            read: RefCell::default(),
        }
    }

    /// The text of a variable, if it is set.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.var(name);
        (self.source)(&format!("{PREFIX}{name}"))
    }

    /// The value, if the variable is set; a bad one is recorded.
    pub(super) fn optional<T: Value>(&self, name: &str) -> Option<T> {
        let var = self.var(name);
        debug_assert!(
            var.is_none_or(|var| T::accepts(var.syntax)),
            "{name} is read as another type than its table row says"
        );
        match self.text(name) {
            Some(text) => match T::parse(&text) {
                Ok(value) => Some(value),
                Err(problem) => {
                    let syntax = var.map_or(Syntax::Text, |var| var.syntax);
                    self.error(name, Some(&text), problem, syntax.right());
                    None
                }
            },
            None => var
                .and_then(|var| var.default)
                .and_then(|default| T::parse(default).ok()),
        }
    }

    /// The value, or the table's default; after an error any value, since it is not used.
    pub(super) fn value<T: Value + Default>(&self, name: &str) -> T {
        self.optional(name).unwrap_or_default()
    }

    /// The value of a variable that must be set.
    pub(super) fn required<T: Value>(&self, name: &str) -> Option<T> {
        if self.text(name).is_none() {
            let right = self
                .var(name)
                .map_or_else(String::new, |var| match var.syntax {
                    // That it is text says nothing; what it is for does.
                    Syntax::Text => {
                        let doc = var.doc.split(['\n', ';']).next().unwrap_or_default();
                        let doc = doc
                            .split(". ")
                            .next()
                            .unwrap_or_default()
                            .trim_end_matches('.');
                        format!("text: {}", doc.trim_end().to_lowercase())
                    }
                    syntax => syntax.right(),
                });
            self.error(name, None, "is not set".into(), right);
        }
        self.optional(name)
    }

    /// The value of a variable whose bad values are only warned of.
    pub(super) fn lenient<T: Value>(&self, name: &str, valid: impl Fn(&T) -> bool) -> Option<T> {
        let text = self.text(name)?;
        match T::parse(&text) {
            Ok(value) if valid(&value) => Some(value),
            _ => {
                let right = self
                    .var(name)
                    .map_or(Syntax::Text, |var| var.syntax)
                    .right();
                self.warn(format!(
                    "{PREFIX}{name}={:?} is ignored: give {right}",
                    shorten(&text)
                ));
                None
            }
        }
    }

    /// The value, which must be one of the words of the table.
    pub(super) fn word(&self, name: &str) -> Option<&'static str> {
        let var = self.var(name)?;
        let Syntax::Word(words) = var.syntax else {
            return None;
        };
        let text = self.text(name).or_else(|| var.default.map(str::to_owned))?;
        let found = words.iter().find(|word| **word == text).copied();
        if found.is_none() {
            self.error(name, Some(&text), "is not known".into(), var.syntax.right());
        }
        found
    }

    /// Records that a value is wrong.
    pub(super) fn error(&self, name: &str, value: Option<&str>, problem: String, right: String) {
        let error = ConfigError {
            name: format!("{PREFIX}{name}"),
            value: value.map(shorten),
            problem,
            right,
        };
        // Some variables are read by two sections.
        let mut errors = self.errors.borrow_mut();
        if !errors.contains(&error) {
            errors.push(error);
        }
    }

    /// Records that something is odd but does no harm.
    pub(super) fn warn(&self, text: String) {
        self.warnings.borrow_mut().push(text);
    }

    /// Ends the reading.
    pub(super) fn finish(self) -> (Vec<ConfigError>, Vec<String>, BTreeSet<&'static str>) {
        (
            self.errors.into_inner(),
            self.warnings.into_inner(),
            self.read.into_inner(),
        )
    }

    /// The table's row, which is marked as read.
    fn var(&self, name: &str) -> Option<&'static Var> {
        let var = vars::find(name);
        debug_assert!(var.is_some(), "{name} is not in the table of variables");
        if let Some(var) = var {
            self.read.borrow_mut().insert(var.name);
        }
        var
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_SHOWN {
        return text.to_owned();
    }
    let start: String = text.chars().take(MAX_SHOWN).collect();
    format!("{start}...")
}
