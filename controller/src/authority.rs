//! What signs: the CA of certificates and the key of tokens, kept in a state directory.
//!
//! Made on first use: a root (`ca.crt`, `ca.key`), an issuer under it (`issuer.crt`, `issuer.key`) and a token key
//! (`token.key`, `token.pub`). The directory has mode 0700, private files 0600; a private key that others can read is
//! refused. A user brings an own issuer by putting `issuer.crt`, `issuer.key` and `ca.crt` there, or by naming files
//! ([`Sources`]); then nothing is made in their place. Where an API server reviews tokens there is no token key; where it
//! keeps the issuer there are no files (`crate::kubernetes::issuer`).

use jsonwebtoken::DecodingKey;
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

/// Where the authority's files are.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Directory of what is made on first use.
    pub directory: PathBuf,
    /// An issuer that the user brings.
    pub issuer: Option<IssuerFiles>,
    /// Public keys, PEM, of who signs workload tokens, in place of the key in the directory.
    pub token_keys: Option<PathBuf>,
    /// An API server says whom tokens speak for: no key is needed, and none is made.
    pub are_tokens_reviewed: bool,
}

/// An issuer that the user brings.
#[derive(Clone, Debug)]
pub struct IssuerFiles {
    /// Its certificate and what is between it and the anchors, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The trust anchors, PEM.
    pub anchors: PathBuf,
}

/// The CA and the token key.
pub struct Authority {
    ca: Ca,
    /// PEM; absent when the user brought public keys only.
    token_key: Option<String>,
    token_public: String,
    decoding: Vec<DecodingKey>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
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
    /// A file with token keys has none that can be used.
    #[error("{}: no public key of ECDSA P-256 in PEM (-----BEGIN PUBLIC KEY-----): {reason}", path.display())]
    TokenKeys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Authority {
    /// Opens the authority in a directory, and makes what is missing.
    ///
    /// # Errors
    /// [`AuthorityError`]; nothing is written over.
    pub fn open(directory: &Path) -> Result<Self, AuthorityError> {
        Self::open_with(&Sources {
            directory: directory.to_owned(),
            ..Sources::default()
        })
    }

    /// Opens the authority of these files, and makes in its directory what is missing and not brought.
    ///
    /// # Errors
    /// [`AuthorityError`]; nothing is written over.
    pub fn open_with(sources: &Sources) -> Result<Self, AuthorityError> {
        let directory = &sources.directory;
        let makes_key = sources.token_keys.is_none() && !sources.are_tokens_reviewed;
        let makes = sources.issuer.is_none() || makes_key;
        if makes && !directory.is_dir() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(at(directory))?;
        }
        let _one_at_a_time = makes.then(|| locked(directory)).transpose()?;
        if sources.issuer.is_none() {
            make_ca(directory)?;
        }
        if makes_key {
            make_token_key(directory)?;
        }
        Self::reopen(sources)
    }

    /// Reads the files as they are now; makes nothing.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub(crate) fn reopen(sources: &Sources) -> Result<Self, AuthorityError> {
        let directory = &sources.directory;
        let ca = match &sources.issuer {
            None => load_ca(&IssuerFiles::in_directory(directory), Readers::Owner)?,
            // A volume of a Secret is there for one Pod, and readable by all in it unless the Pod says otherwise.
            Some(files) if sources.are_tokens_reviewed => load_ca(files, Readers::Pod)?,
            // Mounted secrets belong to a group.
            Some(files) => load_ca(files, Readers::Group)?,
        };
        if sources.are_tokens_reviewed {
            return Ok(Self::of(ca));
        }
        if let Some(path) = &sources.token_keys {
            let token_public = read(path)?;
            return Ok(Self {
                ca,
                token_key: None,
                decoding: decoding_keys(path, &token_public)?,
                token_public,
            });
        }
        let path = directory.join("token.key");
        let text = read_private(&path, Readers::Owner)?;
        // The public half is the private one's, whatever lies beside it.
        let key = KeyPair::from_pem(&text)?;
        debug_assert!(!key.der_bytes().is_empty());
        let token_public = key.public_key_pem();
        Ok(Self {
            ca,
            token_key: Some(text),
            decoding: decoding_keys(&path, &token_public)?,
            token_public,
        })
    }

    /// An authority that only signs certificates: an API server judges tokens.
    pub(crate) fn of(ca: Ca) -> Self {
        Self {
            ca,
            token_key: None,
            token_public: String::new(),
            decoding: Vec::new(),
        }
    }

    /// Whether both sign with the same issuer, below the same anchors, and take the same tokens.
    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.changed(other) == (false, false)
    }

    /// Whether the anchors differ from another's, and whether the issuer or the tokens do.
    pub(crate) fn changed(&self, other: &Self) -> (bool, bool) {
        let (ours, theirs) = (self.ca.to_pem(), other.ca.to_pem());
        let issuer = (ours.certificates, &self.token_public);
        (
            ours.anchors != theirs.anchors,
            issuer != (theirs.certificates, &other.token_public),
        )
    }

    /// What signs certificates.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// The trust anchors, PEM: what proxies are given.
    pub fn trust_anchors(&self) -> &str {
        self.ca.anchors_pem()
    }

    /// The private key of tokens, PEM (PKCS#8); absent when the user brought public keys only.
    pub(crate) fn token_key(&self) -> Option<&str> {
        self.token_key.as_deref()
    }

    /// The keys that tokens are verified with.
    pub(crate) fn decoding_keys(&self) -> &[DecodingKey] {
        &self.decoding
    }
}

impl IssuerFiles {
    fn in_directory(directory: &Path) -> Self {
        Self {
            certificate: directory.join("issuer.crt"),
            key: directory.join("issuer.key"),
            anchors: directory.join("ca.crt"),
        }
    }
}

/// Every public key of a PEM file.
fn decoding_keys(path: &Path, pem: &str) -> Result<Vec<DecodingKey>, AuthorityError> {
    const END: &str = "-----END PUBLIC KEY-----";
    let refused = |reason: String| AuthorityError::TokenKeys {
        path: path.to_owned(),
        reason,
    };
    let keys: Result<Vec<_>, _> = pem
        .split_inclusive(END)
        .filter(|block| block.contains("-----BEGIN"))
        .map(|block| DecodingKey::from_ec_pem(block.trim().as_bytes()))
        .collect();
    let keys = keys.map_err(|error| refused(error.to_string()))?;
    if keys.is_empty() {
        return Err(refused("none found".into()));
    }
    Ok(keys)
}

fn load_ca(files: &IssuerFiles, readers: Readers) -> Result<Ca, AuthorityError> {
    let (certificate, key) = (
        read(&files.certificate)?,
        read_private(&files.key, readers)?,
    );
    Ca::load_with_anchors(&certificate, &key, &read(&files.anchors)?).map_err(|source| {
        AuthorityError::Ca {
            path: files.certificate.clone(),
            source,
        }
    })
}

/// Two processes may open a directory for the first time at once: one makes what is missing, the other waits for it.
/// Held until the value is dropped.
fn locked(directory: &Path) -> Result<fs::File, AuthorityError> {
    let path = directory.join("lock");
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let file = file.map_err(at(&path))?;
    file.lock().map_err(at(&path))?;
    Ok(file)
}

/// Makes the root and the issuer, as far as they are missing.
fn make_ca(directory: &Path) -> Result<(), AuthorityError> {
    let path = |name: &str| directory.join(name);
    let files = IssuerFiles::in_directory(directory);
    if is_pair(&files.certificate, &files.key)? {
        return Ok(());
    }
    let broken = |source| AuthorityError::Ca {
        path: directory.to_owned(),
        source,
    };
    let key = path("ca.key");
    if is_pair(&files.anchors, &key)? {
        let root = Ca::load(&read(&files.anchors)?, &read_private(&key, Readers::Owner)?);
        return new_issuer(&files, &root.map_err(broken)?);
    }
    let root = Ca::create("root.linkerd.cluster.local").map_err(broken)?;
    let pem = root.to_pem();
    write(&key, &pem.key, 0o600)?;
    write(&files.anchors, &pem.certificates, 0o644)?;
    new_issuer(&files, &root)
}

fn new_issuer(files: &IssuerFiles, root: &Ca) -> Result<(), AuthorityError> {
    let issuer = root
        .create_issuer("identity.linkerd.cluster.local", ISSUER_LIFETIME)
        .map_err(|source| AuthorityError::Ca {
            path: files.certificate.clone(),
            source,
        })?;
    let pem = issuer.to_pem();
    write(&files.key, &pem.key, 0o600)?;
    write(&files.certificate, &pem.certificates, 0o644)
}

fn make_token_key(directory: &Path) -> Result<(), AuthorityError> {
    let (private, public) = (directory.join("token.key"), directory.join("token.pub"));
    if !is_pair(&private, &public)? {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        write(&private, &key.serialize_pem(), 0o600)?;
        write(&public, &key.public_key_pem(), 0o644)?;
    }
    Ok(())
}

/// Who may be able to read a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readers {
    Owner,
    Group,
    Pod,
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

fn read_private(path: &Path, readers: Readers) -> Result<String, AuthorityError> {
    let mode = fs::metadata(path).map_err(at(path))?.mode() & 0o777;
    let refused = match readers {
        Readers::Owner => 0o077,
        Readers::Group => 0o037,
        Readers::Pod => 0o033,
    };
    if mode & refused != 0 {
        return Err(AuthorityError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    read(path)
}

/// Writes a new file whole or not at all: a key that was cut short by a crash would be refused ever after.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let draft = path.with_extension(format!("new.{}", std::process::id()));
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(&draft);
    let result = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // Unlike a rename, a link does not replace what is there.
        fs::hard_link(&draft, path)
    });
    let _ = fs::remove_file(&draft);
    result.map_err(at(path))
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
        assert!(first.is_same(&again));
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

    #[test]
    fn an_issuer_that_the_user_brings_is_used_and_nothing_is_made_in_its_place() {
        let theirs = tempfile::tempdir().unwrap();
        let brought = Authority::open(theirs.path()).unwrap();
        let own = tempfile::tempdir().unwrap();
        let sources = Sources {
            directory: own.path().join("state"),
            issuer: Some(IssuerFiles::in_directory(theirs.path())),
            token_keys: Some(theirs.path().join("token.pub")),
            are_tokens_reviewed: false,
        };
        let authority = Authority::open_with(&sources).unwrap();
        assert!(authority.is_same(&brought));
        assert!(!sources.directory.exists());

        let key = theirs.path().join("issuer.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        Authority::open_with(&sources).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o604)).unwrap();
        let error = Authority::open_with(&sources).unwrap_err().to_string();
        assert!(error.contains("mode 604"), "{error}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

        fs::write(theirs.path().join("token.pub"), "not a key").unwrap();
        let error = Authority::open_with(&sources).unwrap_err().to_string();
        assert!(
            error.contains("token.pub") && error.contains("PUBLIC KEY"),
            "{error}"
        );
    }
}
