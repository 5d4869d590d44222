//! Trust anchors: the roots that a peer's certificate must lead to.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::{CertificateDer, TrustAnchor, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A text longer than this is no bundle of anchors (a certificate is about 1 KiB of PEM).
const MAX_PEM: usize = 1024 * 1024;

/// One anchor, for showing and for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The certificate's subject, as text.
    pub subject: String,
    /// When it stops being valid. The TLS verifier does not look at an anchor's dates (RFC 5280 §6.1.1 d); operators do.
    pub not_after: SystemTime,
}

/// One or more roots. Cheap to clone.
#[derive(Clone)]
pub struct TrustAnchors {
    shared: Arc<Shared>,
}

struct Shared {
    roots: Vec<TrustAnchor<'static>>,
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<Anchor>,
}

/// Why a text holds no usable anchors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The text is larger than 1 MiB.
    #[error("the trust anchors are {0} bytes long; give at most 1 MiB of PEM")]
    TooLong(usize),
    /// Nothing between BEGIN CERTIFICATE and END CERTIFICATE.
    #[error(
        "no certificate found; give one or more PEM blocks that start with -----BEGIN CERTIFICATE-----"
    )]
    Empty,
    /// One of several certificates in DER is no use.
    #[error("the bundle has a certificate that is no usable trust anchor: {0}")]
    Der(String),
    /// Certificates were found, none of them usable.
    #[error("none of the {count} certificates is a usable trust anchor; the first one: {first}")]
    NoneUsable {
        /// How many blocks were found.
        count: usize,
        /// What was wrong with the first.
        first: String,
    },
}

impl TrustAnchors {
    /// Reads one certificate or a bundle.
    ///
    /// A bad certificate among good ones is left out with a warning that names its index (from 0), so that one bad paste
    /// does not take the mesh down.
    ///
    /// # Errors
    /// [`TrustError`] when no usable anchor is left.
    pub fn from_pem(pem: &str) -> Result<Self, TrustError> {
        if pem.len() > MAX_PEM {
            return Err(TrustError::TooLong(pem.len()));
        }
        let mut count = 0;
        let mut first_bad = None;
        let mut shared = Shared::empty();
        for (index, block) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
            count += 1;
            let read = block
                .map_err(|error| error.to_string())
                .and_then(|der| shared.add(der));
            if let Err(reason) = read {
                tracing::warn!(index, %reason, "trust anchor left out");
                first_bad.get_or_insert(reason);
            }
        }
        match (shared.roots.is_empty(), first_bad) {
            (false, _) => Ok(Self {
                shared: Arc::new(shared),
            }),
            (true, Some(first)) => Err(TrustError::NoneUsable { count, first }),
            (true, None) => Err(TrustError::Empty),
        }
    }

    /// No anchors: who has these believes nobody.
    pub fn none() -> Self {
        Self {
            shared: Arc::new(Shared::empty()),
        }
    }

    /// Reads certificates in DER, one after another, as SPIFFE's Workload API gives them. A bad one is an error here: who
    /// speaks that API makes no bad pastes.
    ///
    /// # Errors
    /// [`TrustError`] when one is of no use, or there is none.
    pub fn from_der(der: &[u8]) -> Result<Self, TrustError> {
        if der.len() > MAX_PEM {
            return Err(TrustError::TooLong(der.len()));
        }
        let mut shared = Shared::empty();
        for certificate in split_der(der)? {
            shared.add(certificate).map_err(TrustError::Der)?;
        }
        if shared.roots.is_empty() {
            return Err(TrustError::Empty);
        }
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// These anchors and those of another bundle.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let (one, two) = (&self.shared, &other.shared);
        let mut shared = Shared {
            roots: one.roots.clone(),
            certificates: one.certificates.clone(),
            anchors: one.anchors.clone(),
        };
        for ((root, certificate), anchor) in
            two.roots.iter().zip(&two.certificates).zip(&two.anchors)
        {
            if !self.contains(certificate) {
                shared.roots.push(root.clone());
                shared.certificates.push(certificate.clone());
                shared.anchors.push(anchor.clone());
            }
        }
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Whether both are the same certificates, in whatever order.
    pub fn is_same(&self, other: &Self) -> bool {
        let within = |one: &Self, other: &Self| {
            let mut certificates = one.shared.certificates.iter();
            certificates.all(|certificate| other.contains(certificate))
        };
        within(self, other) && within(other, self)
    }

    /// The anchors, in the order given.
    pub fn anchors(&self) -> &[Anchor] {
        &self.shared.anchors
    }

    /// The first moment at which one of the anchors expires.
    pub fn earliest_expiry(&self) -> Option<SystemTime> {
        self.shared
            .anchors
            .iter()
            .map(|anchor| anchor.not_after)
            .min()
    }

    pub(crate) fn roots(&self) -> &[TrustAnchor<'static>] {
        &self.shared.roots
    }

    pub(crate) fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.shared
            .certificates
            .iter()
            .any(|anchor| anchor.as_ref() == certificate.as_ref())
    }
}

/// Cuts DER certificates that follow one another apart.
///
/// # Errors
/// [`TrustError::Der`].
pub fn split_der(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der)
            .map_err(|error| TrustError::Der(format!("not an X.509 certificate: {error}")))?;
        let (one, _) = der.split_at(der.len().saturating_sub(rest.len()));
        certificates.push(CertificateDer::from(one.to_vec()));
        der = rest;
    }
    Ok(certificates)
}

impl Shared {
    const fn empty() -> Self {
        Self {
            roots: Vec::new(),
            certificates: Vec::new(),
            anchors: Vec::new(),
        }
    }

    fn add(&mut self, der: CertificateDer<'static>) -> Result<(), String> {
        let root = webpki::anchor_from_trusted_cert(&der)
            .map_err(|error| format!("not a usable certificate: {error}"))?
            .to_owned();
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|error| format!("not an X.509 certificate: {error}"))?;
        if !parsed.is_ca() {
            return Err(
                "not a certificate authority (its basic constraints do not say CA)".to_owned(),
            );
        }
        self.anchors.push(Anchor {
            subject: parsed.subject().to_string(),
            not_after: time_of(parsed.validity().not_after.timestamp()),
        });
        self.roots.push(root);
        self.certificates.push(der);
        Ok(())
    }
}

/// Seconds since 1970 as a time; what lies before becomes 1970.
pub(crate) fn time_of(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

impl fmt::Debug for TrustAnchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.shared.anchors).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Authority, WEB, dns, now};

    #[test]
    fn a_bundle_is_read_whole_and_bad_ones_are_left_out() {
        let (one, two) = (Authority::root("one"), Authority::root("two"));
        let sooner = now() + Duration::from_secs(60);
        let three = one.below("three", |params| params.not_after = sooner.into());
        let leaf = one.below(WEB, |params| {
            params.is_ca = rcgen::IsCa::ExplicitNoCa;
            params.subject_alt_names = vec![dns(WEB)];
        });
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let bundle = format!(
            "{}{broken}# a remark\n{}{}{}",
            one.pem, leaf.pem, two.pem, three.pem
        );
        let anchors = TrustAnchors::from_pem(&bundle).unwrap();
        let subjects: Vec<_> = anchors
            .anchors()
            .iter()
            .map(|anchor| &*anchor.subject)
            .collect();
        assert_eq!(subjects, ["CN=one", "CN=two", "CN=three"]);
        assert_eq!(anchors.earliest_expiry(), Some(sooner));
    }

    #[test]
    fn bundles_are_joined_and_compared_by_their_certificates() {
        let (one, two) = (Authority::root("one"), Authority::root("two"));
        let read = |pem: &str| TrustAnchors::from_pem(pem).unwrap();
        let (first, second) = (read(&one.pem), read(&two.pem));
        let both = read(&format!("{}{}", two.pem, one.pem));
        assert!(first.and(&second).is_same(&both));
        assert!(both.and(&first).is_same(&both));
        assert!(!both.is_same(&first) && !first.is_same(&both));
        assert!(!TrustAnchors::none().is_same(&first));
        let der: Vec<u8> = [&first, &second]
            .iter()
            .flat_map(|anchors| anchors.shared.certificates[0].to_vec())
            .collect();
        assert!(TrustAnchors::from_der(&der).unwrap().is_same(&both));
        assert!(TrustAnchors::from_der(&der[..der.len() - 1]).is_err());
        assert_eq!(TrustAnchors::from_der(&[]).err(), Some(TrustError::Empty));
    }

    #[test]
    fn a_text_without_any_good_anchor_is_refused_with_the_reason() {
        let long = "x".repeat(MAX_PEM + 1);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let half = Authority::root("one").pem.replace("-----END", "");
        for (text, told) in [
            ("", "no certificate found"),
            ("hello", "no certificate found"),
            (&long, "at most 1 MiB"),
            (broken, "none of the 1 certificates"),
            (&half, "certificate"),
        ] {
            let error = TrustAnchors::from_pem(text).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
