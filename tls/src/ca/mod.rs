//! A small certificate authority. The control plane's identity service signs with it; tests make their worlds with it.
//!
//! A certificate carries what was verified and nothing else of the request: the name and the key.

pub(crate) mod csr;

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use self::csr::Csr;
use crate::{
    CertificateError, TrustAnchors, TrustError,
    trust::time_of,
    verify::{Usage, unix_time, verify_chain},
};

/// How long a new certificate authority lives.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How far a new certificate authority's beginning lies back, for machines whose clocks are behind.
const CA_SKEW: Duration = Duration::from_secs(60 * 60);

/// Characters of base64 in a line of PEM (RFC 7468 §2).
const PEM_LINE: usize = 64;

/// An issuer with its private key, and the anchors it leads to.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
    /// The issuer's own certificate first, then what is above it.
    certificates: Vec<CertificateDer<'static>>,
    anchors: TrustAnchors,
    anchors_pem: String,
    /// The second, since 1970, in which the issuer was last found to lead to the anchors.
    verified: AtomicU64,
}

/// A signing request that asks for one name and nothing else, and is signed by its own key.
#[derive(Debug)]
pub struct Checked {
    csr: Csr,
    identity: String,
}

/// A certificate authority as text, for the caller to store. The key belongs into a file of mode 0600.
#[derive(Clone)]
pub struct CaPem {
    /// The issuer's certificate, then what is above it.
    pub certificates: String,
    /// The private key (PKCS#8).
    pub key: String,
    /// The trust anchors: what proxies are given.
    pub anchors: String,
}

impl fmt::Debug for CaPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaPem")
            .field("certificates", &self.certificates)
            .field("anchors", &self.anchors)
            .finish_non_exhaustive()
    }
}

/// A certificate that was signed.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, DER.
    pub leaf_der: Vec<u8>,
    /// Its issuers, DER, nearest first, without the anchor.
    pub chain: Vec<Vec<u8>>,
    /// When it ends.
    pub not_after: SystemTime,
}

/// Why a certificate authority cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// Making or reading keys or certificates failed.
    #[error("cannot make or read a certificate authority: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The certificate text is no PEM, or has no certificates in it.
    #[error("the issuer's certificate is not usable: {0}; give PEM, the issuer first")]
    Certificate(String),
    /// The key text is no use.
    #[error("the issuer's private key is not usable: {0}; give one PEM key (PKCS#8 or SEC1)")]
    Key(String),
    /// Key and certificate do not belong together.
    #[error(
        "the issuer's private key does not belong to its certificate (the first one in the file)"
    )]
    KeyMismatch,
    /// The first certificate may not sign others.
    #[error("the issuer's certificate (the first one in the file) is no certificate authority")]
    NotCa,
    /// No anchors were given, and the chain does not end in a self-signed certificate.
    #[error("the issuer's chain does not end in a root; give the trust anchors")]
    NoAnchor,
    /// The anchors cannot be read.
    #[error("the trust anchors are not usable: {0}")]
    Anchors(#[from] TrustError),
    /// The issuer does not lead to the anchors, now.
    #[error("the issuer does not verify against the trust anchors: {0}")]
    Untrusted(#[source] CertificateError),
}

/// Why no certificate was signed. The texts are those that clients of the identity service see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// No identity in the request.
    #[error("missing identity")]
    MissingIdentity,
    /// No signing request in the request.
    #[error("missing certificate signing request")]
    MissingCsr,
    /// The signing request is not DER PKCS#10, or too long.
    #[error("cannot read the certificate signing request: {0}")]
    Unreadable(String),
    /// The signing request is not signed by the key in it.
    #[error("the certificate signing request is not signed by its own key")]
    Signature,
    /// Another key than P-256.
    #[error("the certificate signing request's key must be ECDSA P-256")]
    KeyType,
    /// The issuer itself is not valid now.
    #[error("the issuer does not verify against the trust anchors: {0}")]
    Issuer(#[source] CertificateError),
    /// None or several DNS names.
    #[error("CSR must have exactly one DNSName")]
    DnsNames,
    /// Another name than asked for.
    #[error("CSR name does not match requested identity: csr={csr}; req={requested}")]
    OtherName {
        /// In the signing request.
        csr: String,
        /// In the call.
        requested: String,
    },
    /// Another common name.
    #[error("invalid CommonName: {0}")]
    CommonName(String),
    /// Names of other kinds.
    #[error("cannot validate {0}")]
    Kind(&'static str),
    /// The signing request asks for more than a name.
    #[error("CSR must ask for a DNSName only: it asks for extension {0}")]
    Extension(String),
    /// The name cannot be an identity.
    #[error("the requested identity is not usable: {0}")]
    Identity(String),
    /// Signing failed.
    #[error("cannot sign the certificate: {0}")]
    Sign(String),
}

/// Whose fault a refusal is; each is one gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssueFault {
    /// `INVALID_ARGUMENT`: the call makes no sense.
    InvalidArgument,
    /// `FAILED_PRECONDITION`: the signing request asks for what it may not have.
    FailedPrecondition,
    /// `UNKNOWN`: our issuer is not valid.
    Issuer,
    /// `INTERNAL`: signing failed.
    Internal,
}

impl IssueError {
    /// Whose fault it is.
    pub fn fault(&self) -> IssueFault {
        match self {
            Self::MissingIdentity
            | Self::MissingCsr
            | Self::Unreadable(_)
            | Self::Signature
            | Self::KeyType => IssueFault::InvalidArgument,
            Self::DnsNames
            | Self::OtherName { .. }
            | Self::CommonName(_)
            | Self::Kind(_)
            | Self::Extension(_)
            | Self::Identity(_) => IssueFault::FailedPrecondition,
            Self::Issuer(_) => IssueFault::Issuer,
            Self::Sign(_) => IssueFault::Internal,
        }
    }
}

impl Ca {
    /// Makes a new root (P-256, ten years) with this common name. It signs workloads' certificates itself.
    ///
    /// # Errors
    /// [`CaError::Crypto`] when key generation fails.
    pub fn create(name: &str) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = authority(name, CA_LIFETIME, BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?;
        let pem = certificate.pem();
        Self::of(
            vec![certificate.into()],
            key,
            TrustAnchors::from_pem(&pem)?,
            pem,
        )
    }

    /// Makes an issuer below this one, which leads to the same anchors.
    ///
    /// # Errors
    /// [`CaError::Crypto`] when key generation fails.
    pub fn create_issuer(&self, name: &str, lifetime: Duration) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = authority(name, lifetime, BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        let mut certificates = vec![params.signed_by(&key, &self.issuer)?.into()];
        certificates.extend(self.certificates.iter().cloned());
        Self::of(
            certificates,
            key,
            self.anchors.clone(),
            self.anchors_pem.clone(),
        )
    }

    /// Takes an issuer that a user brought: its certificate first, then what is above it up to and with the root, which
    /// is taken as the anchor.
    ///
    /// # Errors
    /// [`CaError`] that says what does not fit.
    pub fn load(certificates_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let certificates = read_certificates(certificates_pem)?;
        let root = certificates.last().ok_or(CaError::NoAnchor)?;
        let (_, parsed) = X509Certificate::from_der(root)
            .map_err(|error| CaError::Certificate(error.to_string()))?;
        if parsed.subject().as_raw() != parsed.issuer().as_raw() {
            return Err(CaError::NoAnchor);
        }
        Self::load_with_anchors(certificates_pem, key_pem, &to_pem_text(root))
    }

    /// Takes an issuer that a user brought, with its anchors.
    ///
    /// # Errors
    /// [`CaError`] that says what does not fit.
    pub fn load_with_anchors(
        certificates_pem: &str,
        key_pem: &str,
        anchors_pem: &str,
    ) -> Result<Self, CaError> {
        let certificates = read_certificates(certificates_pem)?;
        let key = KeyPair::from_pem(key_pem).map_err(|error| CaError::Key(error.to_string()))?;
        let anchors = TrustAnchors::from_pem(anchors_pem)?;
        let ca = Self::of(certificates, key, anchors, anchors_pem.to_owned())?;
        ca.verify_now(SystemTime::now())
            .map_err(CaError::Untrusted)?;
        Ok(ca)
    }

    fn of(
        certificates: Vec<CertificateDer<'static>>,
        key: KeyPair,
        anchors: TrustAnchors,
        anchors_pem: String,
    ) -> Result<Self, CaError> {
        let own = certificates
            .first()
            .ok_or_else(|| CaError::Certificate("none found".to_owned()))?;
        let (_, parsed) = X509Certificate::from_der(own)
            .map_err(|error| CaError::Certificate(error.to_string()))?;
        if !parsed.is_ca() {
            return Err(CaError::NotCa);
        }
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CaError::KeyMismatch);
        }
        let key_pem = key.serialize_pem();
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(own, key)?,
            key_pem,
            certificates,
            anchors,
            anchors_pem,
            verified: AtomicU64::new(0),
        })
    }

    /// As text, to be stored.
    pub fn to_pem(&self) -> CaPem {
        CaPem {
            certificates: self.certificates.iter().map(to_pem_text).collect(),
            key: self.key_pem.clone(),
            anchors: self.anchors_pem.clone(),
        }
    }

    /// The anchors that what is signed here leads to.
    pub fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    /// The anchors as text: what proxies are given as `LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS`.
    pub fn anchors_pem(&self) -> &str {
        &self.anchors_pem
    }

    /// The earliest end in the issuer's chain; nothing signed here lives longer.
    pub fn not_after(&self) -> SystemTime {
        self.validities()
            .map(|(_, not_after)| not_after)
            .min()
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Whether certificates signed now would be accepted now.
    ///
    /// # Errors
    /// What is wrong with the issuer or what is above it.
    pub fn verify_now(&self, now: SystemTime) -> Result<(), CertificateError> {
        // The TLS verifier does not look at an anchor's dates; an issuer that is its own anchor has dates nevertheless.
        for (not_before, not_after) in self.validities() {
            if now < not_before {
                return Err(CertificateError::NotYetValid {
                    now: unix_time(now),
                    not_before: unix_time(not_before),
                });
            }
            if now > not_after {
                return Err(CertificateError::Expired {
                    now: unix_time(now),
                    not_after: unix_time(not_after),
                });
            }
        }
        // A verifier judges leaves, so it gets one, which nobody else ever sees.
        let params = leaf("issuer-check.invalid", false, now, self.not_after());
        let certificate = params
            .and_then(|params| self.sign(&params, self.issuer.key()))
            .map_err(|error| CertificateError::Chain(error.to_string()))?;
        self.verify_leaf(certificate.der(), now)
    }

    /// Signs a certificate for `identity`, valid from `skew` ago for `lifetime` and `skew` more, and not longer than the
    /// issuer. The caller has checked that whoever asks is `identity`.
    ///
    /// # Errors
    /// [`IssueError`], with [`IssueError::fault`] for the status code.
    pub fn issue(
        &self,
        csr_der: &[u8],
        identity: &str,
        lifetime: Duration,
        skew: Duration,
    ) -> Result<Issued, IssueError> {
        self.issue_at(csr_der, identity, lifetime, skew, SystemTime::now())
    }

    /// As [`Self::issue`], at a given time.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_at(
        &self,
        csr_der: &[u8],
        identity: &str,
        lifetime: Duration,
        skew: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let checked = self.check(csr_der, identity, now)?;
        self.sign_checked(&checked, lifetime, skew, now)
    }

    /// Judges a signing request for `identity` before anybody knows who asks: what it says, whether our issuer could sign it,
    /// and that it asks for nothing else, in this order.
    ///
    /// # Errors
    /// [`IssueError`], with [`IssueError::fault`] for the status code.
    pub fn check(
        &self,
        csr_der: &[u8],
        identity: &str,
        now: SystemTime,
    ) -> Result<Checked, IssueError> {
        if identity.is_empty() {
            return Err(IssueError::MissingIdentity);
        }
        if csr_der.is_empty() {
            return Err(IssueError::MissingCsr);
        }
        let csr = Csr::parse(csr_der)?;
        self.verify_lately(now).map_err(IssueError::Issuer)?;
        csr.names_only(identity)?;
        let identity = identity.to_owned();
        Ok(Checked { csr, identity })
    }

    /// As [`Self::verify_now`], once a second: whoever asks without a token shall not cost us a signature each time.
    fn verify_lately(&self, now: SystemTime) -> Result<(), CertificateError> {
        let second = unix_time(now).as_secs();
        if self.verified.load(Ordering::Relaxed) != second {
            self.verify_now(now)?;
            self.verified.store(second, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Signs what was checked; dates as for [`Self::issue`].
    ///
    /// # Errors
    /// [`IssueError::Sign`].
    pub fn sign_checked(
        &self,
        checked: &Checked,
        lifetime: Duration,
        skew: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let Checked { csr, identity } = checked;
        let issuer_ends = self.not_after();
        let not_after = now
            .checked_add(lifetime.saturating_add(skew))
            .map_or(issuer_ends, |end| end.min(issuer_ends));
        let not_before = now.checked_sub(skew).unwrap_or(SystemTime::UNIX_EPOCH);
        let failed = |error: rcgen::Error| IssueError::Sign(error.to_string());
        let params =
            leaf(identity, csr.has_common_name(), not_before, not_after).map_err(failed)?;
        let certificate = self.sign(&params, &csr.key_info()?).map_err(failed)?;
        // What peers will check, before they do.
        self.verify_leaf(certificate.der(), now)
            .map_err(|error| IssueError::Sign(error.to_string()))?;
        Ok(Issued {
            leaf_der: certificate.der().to_vec(),
            chain: self.chain().map(|der| der.to_vec()).collect(),
            // Certificates have whole seconds; say the end that it has.
            not_after: crate::accept::not_after(certificate.der()).unwrap_or(not_after),
        })
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Certificate, rcgen::Error> {
        params.signed_by(key, &self.issuer)
    }

    fn verify_leaf(
        &self,
        leaf: &CertificateDer<'_>,
        now: SystemTime,
    ) -> Result<(), CertificateError> {
        let chain: Vec<_> = self.chain().cloned().collect();
        for usage in [Usage::Server, Usage::Client] {
            verify_chain(&self.anchors, leaf, &chain, unix_time(now), usage)?;
        }
        Ok(())
    }

    fn chain(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.certificates
            .iter()
            .filter(|certificate| !self.anchors.contains(certificate))
    }

    fn validities(&self) -> impl Iterator<Item = (SystemTime, SystemTime)> {
        self.certificates.iter().filter_map(|der| {
            let (_, parsed) = X509Certificate::from_der(der).ok()?;
            let validity = parsed.validity();
            Some((
                time_of(validity.not_before.timestamp()),
                time_of(validity.not_after.timestamp()),
            ))
        })
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("anchors", &self.anchors)
            .field("certificates", &self.certificates.len())
            .finish_non_exhaustive()
    }
}

fn authority(name: &str, lifetime: Duration, constraints: BasicConstraints) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - CA_SKEW).into();
    params.not_after = (now + lifetime.min(CA_LIFETIME)).into();
    params.serial_number = Some(serial());
    params
}

fn leaf(
    identity: &str,
    common_name: bool,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if common_name {
        params.distinguished_name.push(DnType::CommonName, identity);
    }
    params.subject_alt_names = vec![SanType::DnsName(identity.try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::from(not_before);
    params.not_after = OffsetDateTime::from(not_after);
    params.serial_number = Some(serial());
    Ok(params)
}

/// 126 random bits: unique without a counter that a restart would reset. Positive, and never zero (RFC 5280 §4.1.2.2).
fn serial() -> SerialNumber {
    let bits = (rand::random::<u128>() >> 2) | (1 << 125);
    SerialNumber::from_slice(&bits.to_be_bytes())
}

fn read_certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CaError::Certificate(error.to_string()))?;
    if certificates.is_empty() {
        return Err(CaError::Certificate("no certificate found".to_owned()));
    }
    Ok(certificates)
}

/// RFC 7468 §3.
fn to_pem_text(der: &CertificateDer<'static>) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(PEM_LINE).unwrap_or((rest, ""));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests;
