//! Workload tokens: what a workload shows to get its certificate where there is no TokenReview.
//!
//! A token is a JWT signed with ES256 by the authority's token key. Its audience is `identity.l5d.io`, its issuer
//! `linkerd`; its subject is `system:serviceaccount:<namespace>:<service account>`, as Kubernetes writes it, or
//! `system:externalworkload:<namespace>:<name>` for an ExternalWorkload, whose identity its manifest gives
//! (`spec.meshTLS.identity`, a DNS name).

use crate::authority::Authority;
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation, decode, encode, errors::ErrorKind};
use linkerd_policy::index::{Index, Workload, WorkloadRef};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The audience of tokens for the identity service.
pub const AUDIENCE: &str = "identity.l5d.io";
/// Who issues them.
pub const ISSUER: &str = "linkerd";
/// How far clocks may differ, in seconds.
const LEEWAY: u64 = 20;
/// Longest token that is looked at, in bytes.
pub(crate) const MAX_TOKEN: usize = 16 * 1024;

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An ExternalWorkload.
    ExternalWorkload {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    iat: u64,
    exp: u64,
}

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is not signed by us, expired, or for somebody else.
    #[error("authentication token could not be authenticated")]
    NotAuthenticated(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The API server says what is wrong with it: it expired, is for another audience, or its account is gone.
    #[error("{0}")]
    Refused(String),
    /// The API server could not say.
    #[error("the token could not be reviewed: {0}")]
    NotReviewed(String),
    /// Its subject has another form.
    #[error("Username must be in form system:TYPE:NS:SA: {0}")]
    Subject(String),
    /// A part of its subject is no DNS label.
    #[error("Not a label: {0}")]
    Label(String),
    /// It speaks for an ExternalWorkload that no manifest describes.
    #[error("no manifest describes the ExternalWorkload {0}")]
    UnknownWorkload(String),
    /// It speaks for an ExternalWorkload whose identity is a SPIFFE ID: signing requests have DNS names only.
    #[error(
        "the identity of the ExternalWorkload {workload} is {identity}: certificates for SPIFFE IDs come from a SPIRE agent"
    )]
    Spiffe {
        /// Namespace and name.
        workload: String,
        /// Its identity.
        identity: String,
    },
}

/// A token that speaks for nobody, and why; clients are not told.
pub(crate) fn not_authenticated(why: &str) -> TokenError {
    TokenError::NotAuthenticated(why.into())
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAccount { namespace, name } => {
                write!(f, "system:serviceaccount:{namespace}:{name}")
            }
            Self::ExternalWorkload { namespace, name } => {
                write!(f, "system:externalworkload:{namespace}:{name}")
            }
        }
    }
}

impl std::str::FromStr for Subject {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.split(':').collect();
        let ["system", kind, namespace, name] = parts.as_slice() else {
            return Err(TokenError::Subject(text.to_owned()));
        };
        if let Some(bad) = [namespace, name].into_iter().find(|part| !is_label(part)) {
            return Err(TokenError::Label((*bad).to_owned()));
        }
        let (namespace, name) = ((*namespace).to_owned(), (*name).to_owned());
        match *kind {
            "serviceaccount" => Ok(Self::ServiceAccount { namespace, name }),
            "externalworkload" => Ok(Self::ExternalWorkload { namespace, name }),
            _ => Err(TokenError::Subject(text.to_owned())),
        }
    }
}

/// Whether a text is a DNS-1123 label, as names of namespaces and accounts are.
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Signs a token for `subject`.
///
/// # Errors
/// If the authority's key cannot sign.
pub fn issue(
    authority: &Authority,
    subject: &Subject,
    lifetime: Duration,
) -> Result<String, jsonwebtoken::errors::Error> {
    issue_for(authority, subject, AUDIENCE, lifetime)
}

fn issue_for(
    authority: &Authority,
    subject: &Subject,
    audience: &str,
    lifetime: Duration,
) -> Result<String, jsonwebtoken::errors::Error> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let claims = Claims {
        iss: ISSUER.into(),
        aud: audience.into(),
        sub: subject.to_string(),
        iat: now,
        exp: now.saturating_add(lifetime.as_secs()),
    };
    let Some(key) = authority.token_key() else {
        return Err(ErrorKind::InvalidKeyFormat.into());
    };
    let key = EncodingKey::from_ec_pem(key.as_bytes())?;
    encode(&Header::new(Algorithm::ES256), &claims, &key)
}

/// Whom a token speaks for.
///
/// # Errors
/// [`TokenError`]; never says more than that it is not authentic.
pub fn verify(authority: &Authority, token: &str) -> Result<Subject, TokenError> {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[ISSUER]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    validation.leeway = LEEWAY;
    let token = token.trim();
    if token.len() > MAX_TOKEN {
        return Err(not_authenticated("the token is too long"));
    }
    let mut refused = ErrorKind::InvalidToken.into();
    for key in authority.decoding_keys() {
        match decode::<Claims>(token, key, &validation) {
            Ok(token) => return token.claims.sub.parse(),
            Err(error) => refused = error,
        }
    }
    Err(TokenError::NotAuthenticated(refused.into()))
}

/// The identity that a subject has in the mesh.
///
/// # Errors
/// [`TokenError::UnknownWorkload`].
pub fn identity(subject: &Subject, index: &Index) -> Result<String, TokenError> {
    match subject {
        Subject::ServiceAccount { namespace, name } => {
            Ok(index.cluster().service_account_identity(namespace, name))
        }
        Subject::ExternalWorkload { namespace, name } => {
            let workload = WorkloadRef::ExternalWorkload {
                ns: namespace.clone(),
                name: name.clone(),
            };
            match index.workload(&workload) {
                Some(Workload::ExternalWorkload(workload)) => {
                    let identity = workload.spec.mesh_tls.identity.clone();
                    if identity.contains("://") {
                        return Err(TokenError::Spiffe {
                            workload: format!("{namespace}/{name}"),
                            identity,
                        });
                    }
                    Ok(identity)
                }
                _ => Err(TokenError::UnknownWorkload(format!("{namespace}/{name}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_that_are_ours_fresh_and_for_us_are_accepted() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, theirs) = (
            Authority::open(ours.path()).unwrap(),
            Authority::open(theirs.path()).unwrap(),
        );
        let subject = Subject::ServiceAccount {
            namespace: "shop".into(),
            name: "web".into(),
        };
        let hour = Duration::from_secs(3600);
        let good = issue(&ours, &subject, hour).unwrap();
        assert_eq!(verify(&ours, &good).unwrap(), subject);
        assert_eq!(
            verify(&ours, &format!("{good}\n")).unwrap(),
            subject,
            "files end with newlines"
        );

        let (head, tail) = good.split_at(good.len() - 8);
        let mut flipped = tail.to_owned();
        flipped.replace_range(0..1, if tail.starts_with('A') { "B" } else { "A" });
        for (what, bad) in [
            ("another key", issue(&theirs, &subject, hour).unwrap()),
            (
                "another audience",
                issue_for(&ours, &subject, "kubernetes", hour).unwrap(),
            ),
            ("a changed signature", format!("{head}{flipped}")),
            (
                "no signature",
                good.rsplit_once('.').unwrap().0.to_owned() + ".",
            ),
            ("garbage", "garbage".to_owned()),
            ("nothing", String::new()),
        ] {
            let error = verify(&ours, &bad).unwrap_err().to_string();
            assert_eq!(
                error, "authentication token could not be authenticated",
                "{what}"
            );
        }
    }

    #[test]
    fn an_expired_token_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path()).unwrap();
        let key = EncodingKey::from_ec_pem(authority.token_key().unwrap().as_bytes()).unwrap();
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: "system:serviceaccount:shop:web".into(),
            iat: 1_000,
            exp: 2_000,
        };
        let old = encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap();
        assert!(verify(&authority, &old).is_err());
    }

    #[test]
    fn subjects_have_one_form() {
        for bad in [
            "",
            "web",
            "system:serviceaccount:shop",
            "system:node:a:b",
            "system:serviceaccount:Shop:web",
        ] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }
}
