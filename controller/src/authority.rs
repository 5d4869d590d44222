//! What signs: the CA of certificates and the key of tokens, kept in a state directory.
//!
//! Made on first use: a root (`ca.crt`, `ca.key`), an issuer under it (`issuer.crt`, `issuer.key`) and a token key
//! (`token.key`, `token.pub`). The directory has mode 0700, private files 0600; a private key that others can read is
//! refused. A user brings an own issuer by putting `issuer.crt`, `issuer.key` and `ca.crt` there.

use linkerd_tls::ca::{Ca, CaError};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// Lifetime of an issuer that we make.
const ISSUER_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The CA and the token key.
#[derive(Debug)]
pub struct Authority {
    ca: Ca,
    token_key: String,
    token_public: String,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others can read a private key.
    #[error("{}: mode {mode:03o} lets others read a private key; run chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Half of a pair is missing.
    #[error("{} is missing while its counterpart is there; restore it, or move both away to have new ones made", .0.display())]
    Half(PathBuf),
    /// The CA cannot be used.
    #[error("the CA in {}: {source}", path.display())]
    Ca {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: CaError,
    },
    /// A key cannot be made.
    #[error("the token key: {0}")]
    Key(#[from] rcgen::Error),
}

impl Authority {
    /// Opens the authority in a directory, and makes what is missing.
    ///
    /// # Errors
    /// [`AuthorityError`]; nothing is written over.
    pub fn open(directory: &Path) -> Result<Self, AuthorityError> {
        if !directory.is_dir() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(at(directory))?;
        }
        let _one_at_a_time = locked(directory)?;
        let ca = open_ca(directory)?;
        let (token_key, token_public) = open_token_key(directory)?;
        Ok(Self {
            ca,
            token_key,
            token_public,
        })
    }

    /// What signs certificates.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// The trust anchors, PEM: what proxies are given.
    pub fn trust_anchors(&self) -> &str {
        self.ca.anchors_pem()
    }

    /// The private key of tokens, PEM (PKCS#8).
    pub(crate) fn token_key(&self) -> &str {
        &self.token_key
    }

    /// The public key of tokens, PEM.
    pub(crate) fn token_public(&self) -> &str {
        &self.token_public
    }
}

/// Two processes may open a directory for the first time at once: one makes what is missing, the other waits for it.
/// Held until the value is dropped.
fn locked(directory: &Path) -> Result<fs::File, AuthorityError> {
    let path = directory.join("lock");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(at(&path))?;
    file.lock().map_err(at(&path))?;
    Ok(file)
}

fn open_ca(directory: &Path) -> Result<Ca, AuthorityError> {
    let path = |name: &str| directory.join(name);
    let (certificate, key, anchors) = (path("issuer.crt"), path("issuer.key"), path("ca.crt"));
    let broken = |source| AuthorityError::Ca {
        path: directory.to_owned(),
        source,
    };
    if is_pair(&certificate, &key)? {
        let (certificate, key) = (read(&certificate)?, read_private(&key)?);
        return Ca::load_with_anchors(&certificate, &key, &read(&anchors)?).map_err(broken);
    }
    if is_pair(&anchors, &path("ca.key"))? {
        let root = Ca::load(&read(&anchors)?, &read_private(&path("ca.key"))?).map_err(broken)?;
        return new_issuer(directory, &root);
    }
    let root = Ca::create("root.linkerd.cluster.local").map_err(broken)?;
    let pem = root.to_pem();
    write(&path("ca.key"), &pem.key, 0o600)?;
    write(&anchors, &pem.certificates, 0o644)?;
    new_issuer(directory, &root)
}

fn new_issuer(directory: &Path, root: &Ca) -> Result<Ca, AuthorityError> {
    let issuer = root
        .create_issuer("identity.linkerd.cluster.local", ISSUER_LIFETIME)
        .map_err(|source| AuthorityError::Ca {
            path: directory.to_owned(),
            source,
        })?;
    let pem = issuer.to_pem();
    write(&directory.join("issuer.key"), &pem.key, 0o600)?;
    write(&directory.join("issuer.crt"), &pem.certificates, 0o644)?;
    Ok(issuer)
}

fn open_token_key(directory: &Path) -> Result<(String, String), AuthorityError> {
    let (private, public) = (directory.join("token.key"), directory.join("token.pub"));
    if !is_pair(&private, &public)? {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        write(&private, &key.serialize_pem(), 0o600)?;
        write(&public, &key.public_key_pem(), 0o644)?;
    }
    let text = read_private(&private)?;
    // The public half is the private one's, whatever lies beside it.
    let key = KeyPair::from_pem(&text)?;
    debug_assert!(!key.der_bytes().is_empty());
    Ok((text, key.public_key_pem()))
}

/// Both are there, or none.
fn is_pair(one: &Path, other: &Path) -> Result<bool, AuthorityError> {
    match (one.exists(), other.exists()) {
        (true, true) => Ok(true),
        (false, false) => Ok(false),
        (true, false) if one.ends_with("ca.crt") => Ok(false),
        (true, false) => Err(AuthorityError::Half(other.to_owned())),
        (false, true) => Err(AuthorityError::Half(one.to_owned())),
    }
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    fs::read_to_string(path).map_err(at(path))
}

fn read_private(path: &Path) -> Result<String, AuthorityError> {
    let mode = fs::metadata(path).map_err(at(path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(AuthorityError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    read(path)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(at(path))
}

fn at(path: &Path) -> impl Fn(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::Io {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn it_is_made_once_and_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state");
        let first = Authority::open(&directory).unwrap();
        let again = Authority::open(&directory).unwrap();
        assert_eq!(first.trust_anchors(), again.trust_anchors());
        assert_eq!(first.token_public(), again.token_public());
        for (name, mode) in [
            ("ca.key", 0o600),
            ("issuer.key", 0o600),
            ("token.key", 0o600),
            ("ca.crt", 0o644),
        ] {
            assert_eq!(
                fs::metadata(directory.join(name)).unwrap().mode() & 0o777,
                mode,
                "{name}"
            );
        }
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_private_key_that_others_can_read_is_refused_with_the_fix() {
        let folder = tempfile::tempdir().unwrap();
        Authority::open(folder.path()).unwrap();
        let key = folder.path().join("issuer.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Authority::open(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("chmod 600") && error.contains("issuer.key"),
            "{error}"
        );
    }
}
