//! Certificates that the user brings: files that are read again when they change, and kept when they are of no use.

use super::{Keys, Pair, Served};
use std::{convert::Infallible, fs, io, sync::Arc, time::Duration};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The files of a listener.
pub(crate) struct Files {
    pairs: Vec<Pair>,
    texts: Vec<[Vec<u8>; 2]>,
    keys: Arc<Keys>,
}

impl Files {
    /// Reads them for the first time. They are served from the first places of `keys`.
    ///
    /// # Errors
    /// If one cannot be read or used; says which.
    pub(crate) fn open(pairs: Vec<Pair>, keys: Arc<Keys>) -> io::Result<Self> {
        let mut texts = Vec::new();
        for (place, pair) in pairs.iter().enumerate() {
            let text = read(pair)?;
            keys.serve(place, served(pair, &text)?);
            texts.push(text);
        }
        Ok(Self { pairs, texts, keys })
    }

    /// Follows the files for ever.
    pub(crate) async fn keep(mut self) -> Infallible {
        let mut failure = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let error = self.look().err().map(|error| error.to_string());
            let error = error.unwrap_or_default();
            if !error.is_empty() && error != failure {
                tracing::warn!(
                    error,
                    "A webhook's certificate cannot be read again: the one in use stays"
                );
            }
            failure = error;
        }
    }

    fn look(&mut self) -> io::Result<()> {
        for (place, (pair, known)) in self.pairs.iter().zip(&mut self.texts).enumerate() {
            let text = read(pair)?;
            if text != *known {
                self.keys.serve(place, served(pair, &text)?);
                *known = text;
                tracing::info!(certificate = %pair.certificate.display(), "The webhook has a new certificate");
            }
        }
        Ok(())
    }
}

fn read(pair: &Pair) -> io::Result<[Vec<u8>; 2]> {
    let read = |path: &std::path::Path| {
        fs::read(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    Ok([read(&pair.certificate)?, read(&pair.key)?])
}

fn served(pair: &Pair, [certificate, key]: &[Vec<u8>; 2]) -> io::Result<Served> {
    Served::read(certificate, key).map_err(|error| {
        let (certificate, key) = (pair.certificate.display(), pair.key.display());
        io::Error::other(format!("{certificate} with {key}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::{super::made, *};
    use std::time::SystemTime;

    #[test]
    fn new_files_are_served_and_bad_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let pair = Pair {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
        };
        let write = || {
            let hour = Duration::from_secs(3600);
            let made = made::make(&["web".to_owned()], SystemTime::now(), hour, "").unwrap();
            fs::write(&pair.certificate, &made.certificate).unwrap();
            fs::write(&pair.key, &made.key).unwrap();
        };
        let missing = Files::open(vec![pair.clone()], Keys::new(1)).err().unwrap();
        assert!(missing.to_string().contains("tls.crt"), "{missing}");
        write();
        let mut files = Files::open(vec![pair.clone()], Keys::new(1)).unwrap();
        let served = |files: &Files| files.keys.served(0).unwrap().certificate().to_vec();
        let first = served(&files);
        let key = fs::read(&pair.key).unwrap();
        write();
        // Half of a pair, as while it is being written.
        let new_key = fs::read(&pair.key).unwrap();
        fs::write(&pair.key, key).unwrap();
        assert!(files.look().is_err());
        assert_eq!(served(&files), first);
        fs::write(&pair.key, new_key).unwrap();
        files.look().unwrap();
        assert_ne!(served(&files), first);
    }
}
