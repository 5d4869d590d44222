//! The chart's values, and the trust anchors: files that are looked at for each review. What cannot be used has no
//! effect, and what was good before stays.

use crate::inject::Values;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Largest file that is read.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What is in force.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) values: Values,
}

/// Follows the files.
#[derive(Debug)]
pub(crate) struct Settings {
    values: PathBuf,
    anchors: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    texts: [String; 2],
    current: Arc<Current>,
    /// What was last complained of.
    failure: String,
}

impl Settings {
    /// Reads the values for the first time. Anchors may come later.
    ///
    /// # Errors
    /// If the values cannot be read or used; says which and why.
    pub(crate) fn open(values: PathBuf, anchors: Option<PathBuf>) -> io::Result<Self> {
        let texts = [read(&values)?, String::new()];
        let current = made(&values, &texts)?;
        let state = State {
            texts,
            current: Arc::new(current),
            failure: String::new(),
        };
        Ok(Self {
            values,
            anchors,
            state: Mutex::new(state),
        })
    }

    /// What is in force now.
    pub(crate) fn current(&self) -> Arc<Current> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = self.look(&mut state).err().map(|error| error.to_string());
        let failure = failure.unwrap_or_default();
        if !failure.is_empty() && failure != state.failure {
            tracing::warn!(
                error = failure,
                "The injector's files cannot be read again: what is in use stays"
            );
        }
        state.failure = failure;
        state.current.clone()
    }

    /// Whether sidecars would get trust anchors, or none are to be had from a file.
    pub(crate) fn has_anchors(&self) -> bool {
        let current = self.current();
        self.anchors.is_none() || !current.values.identity_trust_anchors_pem.trim().is_empty()
    }

    fn look(&self, state: &mut State) -> io::Result<()> {
        let anchors = match &self.anchors {
            Some(path) => read(path)?,
            None => String::new(),
        };
        let texts = [read(&self.values)?, anchors];
        if texts == state.texts {
            return Ok(());
        }
        state.current = Arc::new(made(&self.values, &texts)?);
        state.texts = texts;
        tracing::info!("The injector has new values");
        Ok(())
    }
}

fn made(path: &Path, [values, anchors]: &[String; 2]) -> io::Result<Current> {
    let values = Values::from_yaml(values);
    let mut values =
        values.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    if !anchors.trim().is_empty() {
        anchors.clone_into(&mut values.identity_trust_anchors_pem);
    }
    Ok(Current { values })
}

fn read(path: &Path) -> io::Result<String> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if fs::metadata(path).map_err(named)?.len() > MAX_FILE {
        return Err(named(io::Error::other(format!(
            "larger than {MAX_FILE} bytes"
        ))));
    }
    fs::read_to_string(path).map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_values_are_in_force_at_once_and_bad_ones_never() {
        let folder = tempfile::tempdir().unwrap();
        let (values, anchors) = (folder.path().join("values"), folder.path().join("anchors"));
        assert!(
            Settings::open(values.clone(), None)
                .unwrap_err()
                .to_string()
                .contains("values")
        );
        fs::write(&values, "proxy: {uid: 1}").unwrap();
        let settings = Settings::open(values.clone(), Some(anchors.clone())).unwrap();
        let uid = || settings.current().values.proxy.uid;
        assert_eq!(uid(), 1);
        // Anchors that are not there yet keep nothing back, and take nothing away later.
        assert!(!settings.has_anchors());
        fs::write(&anchors, "\n").unwrap();
        assert!(!settings.has_anchors());
        fs::write(&anchors, "pem").unwrap();
        assert!(settings.has_anchors());
        fs::write(&values, "proxy: {uid: 2}").unwrap();
        assert_eq!(uid(), 2);
        assert_eq!(settings.current().values.identity_trust_anchors_pem, "pem");
        fs::write(&values, "proxy: {uid: two}").unwrap();
        assert_eq!(uid(), 2);
        fs::remove_file(&anchors).unwrap();
        assert_eq!(settings.current().values.identity_trust_anchors_pem, "pem");
    }
}
