//! The workload's private key and certificate signing request, in memory or in a directory.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{Id, InvalidId, ca::csr::Csr};

/// PKCS#8 DER of the private key, mode 0600.
const KEY_FILE: &str = "key.p8";
/// PKCS#10 DER of the signing request.
const CSR_FILE: &str = "csr.der";
/// Larger files are not ours.
const MAX_FILE: u64 = 64 * 1024;

/// A P-256 private key (PKCS#8) and the request for a certificate for it. The same pair serves all renewals.
#[derive(Clone)]
pub struct KeyMaterial {
    key: Arc<PrivatePkcs8KeyDer<'static>>,
    csr: Arc<[u8]>,
}

/// Why there is no usable key material.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The name to certify is no DNS name (the identity service certifies only those).
    #[error("cannot make a key for the name {name:?}: {reason}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: InvalidId,
    },
    /// Key generation or encoding failed.
    #[error("cannot make a key and signing request: {0}")]
    Create(#[from] rcgen::Error),
    /// A file could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// "read", "write", ...
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An existing file is no use.
    #[error("{} is not usable: {reason}; correct it, or remove key.p8 and csr.der to have both made anew", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl KeyMaterial {
    /// Makes a new key and signing request for `name` in memory.
    ///
    /// # Errors
    /// [`KeyError::Name`] when `name` is no DNS name.
    pub fn create(name: &str) -> Result<Self, KeyError> {
        let name = checked(name)?;
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let csr = request(&pair, &name)?;
        Ok(Self::of(&pair, csr))
    }

    /// Uses `key.p8` and `csr.der` of `dir`, after checking that they parse, belong together and name `name`; makes what
    /// is missing. The key file is created with mode 0600.
    ///
    /// # Errors
    /// [`KeyError`] that names the file and what to do. An existing file is never overwritten.
    pub fn load_or_create(dir: &Path, name: &str) -> Result<Self, KeyError> {
        let name = checked(name)?;
        let key_path = dir.join(KEY_FILE);
        let csr_path = dir.join(CSR_FILE);
        let (key, csr) = (read(&key_path)?, read(&csr_path)?);
        let pair = match (&key, &csr) {
            (Some(key), _) => existing_key(&key_path, key)?,
            (None, Some(_)) => {
                return Err(unusable(
                    csr_path,
                    "there is no key.p8 beside it".to_owned(),
                ));
            }
            (None, None) => {
                let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                write(&key_path, pair.serialized_der(), 0o600)?;
                pair
            }
        };
        let csr = match csr {
            Some(csr) => {
                check_csr(&csr, &pair, &name).map_err(|reason| unusable(csr_path, reason))?;
                csr
            }
            None => {
                let csr = request(&pair, &name)?;
                write(&csr_path, &csr, 0o644)?;
                csr
            }
        };
        Ok(Self::of(&pair, csr))
    }

    /// The signing request, DER (PKCS#10): what goes to the identity service.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// A copy of the private key for the TLS library.
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }

    fn of(pair: &KeyPair, csr: Vec<u8>) -> Self {
        Self {
            key: Arc::new(PrivatePkcs8KeyDer::from(pair.serialize_der())),
            csr: csr.into(),
        }
    }
}

fn checked(name: &str) -> Result<String, KeyError> {
    match Id::dns(name) {
        Ok(id) => Ok(id.as_str().to_owned()),
        Err(reason) => Err(KeyError::Name {
            name: crate::error::shown(name),
            reason,
        }),
    }
}

/// A request with the name as common name and as the one DNS name, which is what the identity service wants.
fn request(pair: &KeyPair, name: &str) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
    Ok(params.serialize_request(pair)?.der().to_vec())
}

fn existing_key(path: &Path, der: &[u8]) -> Result<KeyPair, KeyError> {
    if der.is_empty() {
        return Err(unusable(path.to_owned(), "it is empty".to_owned()));
    }
    let der = PrivatePkcs8KeyDer::from(der);
    let pair =
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(|_| {
            unusable(
                path.to_owned(),
                "it is not a P-256 private key in PKCS#8 DER".to_owned(),
            )
        })?;
    let mode = fs::metadata(path)
        .map_err(|source| file("read", path, source))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        let mode = format!("{:04o}", mode & 0o7777);
        tracing::warn!(path = %path.display(), %mode, "others than the owner may use this private key; set its mode to 0600");
    }
    Ok(pair)
}

fn check_csr(der: &[u8], pair: &KeyPair, name: &str) -> Result<(), String> {
    if der.is_empty() {
        return Err("it is empty".to_owned());
    }
    let csr = Csr::parse(der).map_err(|error| error.to_string())?;
    csr.names_only(name).map_err(|error| error.to_string())?;
    if csr.public_key() == pair.public_key_raw() {
        Ok(())
    } else {
        Err("it is for another key than key.p8".to_owned())
    }
}

/// A file's bytes, or nothing when there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, KeyError> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(file("read", path, source)),
    };
    if length > MAX_FILE {
        return Err(unusable(
            path.to_owned(),
            format!("it is {length} bytes long"),
        ));
    }
    fs::read(path)
        .map(Some)
        .map_err(|source| file("read", path, source))
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyError> {
    let fresh = path.with_extension("new");
    // What a crash left behind: it may have other modes than ours, so it is not written into.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file("remove", &fresh, error));
        }
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&fresh)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|source| file("write", path, source))
}

fn file(doing: &'static str, path: &Path, source: io::Error) -> KeyError {
    KeyError::File {
        doing,
        path: path.to_owned(),
        source,
    }
}

fn unusable(path: PathBuf, reason: String) -> KeyError {
    KeyError::Unusable { path, reason }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyMaterial").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
