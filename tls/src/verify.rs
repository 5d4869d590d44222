//! The checks on a certificate: its chain to the anchors, its usage, and the one identity in it.
//!
//! Used by both verifiers that rustls calls, and by `LocalIdentity::install` for our own certificate.

use std::{sync::Arc, time::UNIX_EPOCH};

use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
};

use crate::{CertificateError, Id, InvalidId, TrustAnchors, error::shown, provider::SIGNATURES};

/// A mesh's chain is a leaf and one or two issuers. A bound on what a stranger can make us check.
const MAX_INTERMEDIATES: usize = 6;
/// An issuer that is being moved to another root is sent twice, signed by the old one and by the new one. More of one name
/// would let a stranger make the verifier try all their orders.
const MAX_NAMESAKES: usize = 2;
/// More names than this and nobody reads on; one is allowed.
const MAX_NAMES: usize = 64;

/// Which side of a handshake a certificate is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Usage {
    Server,
    Client,
}

/// Verifies chain, dates, usage and signature algorithms, and gives the one identity of the leaf.
pub(crate) fn verify(
    anchors: &TrustAnchors,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: Usage,
) -> Result<Id, CertificateError> {
    verify_chain(anchors, leaf, intermediates, now, usage)?;
    identity_of(leaf)
}

pub(crate) fn verify_chain(
    anchors: &TrustAnchors,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: Usage,
) -> Result<(), CertificateError> {
    if intermediates.len() > MAX_INTERMEDIATES || many_namesakes(intermediates) {
        return Err(CertificateError::ChainTooLong);
    }
    let (name, usage) = match usage {
        Usage::Server => ("server", KeyUsage::server_auth()),
        Usage::Client => ("client", KeyUsage::client_auth()),
    };
    EndEntityCert::try_from(leaf)
        .and_then(|leaf| {
            leaf.verify_for_usage(
                SIGNATURES.all,
                anchors.roots(),
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map(drop)
        })
        .map_err(|error| from_webpki(error, name))
}

/// Whether more than [`MAX_NAMESAKES`] have one subject. What cannot be read has none; the verifier will say so.
fn many_namesakes(intermediates: &[CertificateDer<'_>]) -> bool {
    if intermediates.len() <= MAX_NAMESAKES {
        return false;
    }
    let read: Vec<_> = intermediates
        .iter()
        .filter_map(|der| EndEntityCert::try_from(der).ok())
        .collect();
    read.iter().any(|one| {
        let namesakes = read.iter().filter(|other| other.subject() == one.subject());
        namesakes.count() > MAX_NAMESAKES
    })
}

fn from_webpki(error: webpki::Error, usage: &'static str) -> CertificateError {
    use webpki::Error as E;
    match error {
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::CertExpired { time, not_after } => CertificateError::Expired {
            now: time,
            not_after,
        },
        E::CertNotValidYet { time, not_before } => CertificateError::NotYetValid {
            now: time,
            not_before,
        },
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => {
            CertificateError::WrongUsage(usage)
        }
        E::CaUsedAsEndEntity => CertificateError::CaAsLeaf,
        E::EndEntityUsedAsCa => CertificateError::IssuerNotCa,
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | E::SignatureAlgorithmMismatch => CertificateError::SignatureAlgorithm,
        E::NameConstraintViolation => CertificateError::NameConstraint,
        E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded
        | E::MaximumNameConstraintComparisonsExceeded
        | E::PathLenConstraintViolated => CertificateError::ChainTooLong,
        E::BadDer
        | E::BadDerTime
        | E::TrailingData(_)
        | E::UnsupportedCertVersion
        | E::MalformedExtensions
        | E::ExtensionValueInvalid
        | E::InvalidSerialNumber => CertificateError::Encoding(error.to_string()),
        other => CertificateError::Chain(shown(&other.to_string())),
    }
}

/// The one identity that a certificate names. Does not verify anything else about it.
///
/// An identity is a DNS subject alternative name or a SPIFFE URI: never the common name, never a wildcard, never an
/// address or mail address (which are ignored). There must be exactly one: more than one URI must be refused (SPIFFE
/// X509-SVID §2), and several DNS names, or a DNS name beside a URI, are refused too, because a policy that allows one of
/// them cannot know of the others. The same DNS name twice counts once. DNS names are lower-cased.
///
/// # Errors
/// [`CertificateError`] that says what there is instead.
pub fn identity_of(leaf: &CertificateDer<'_>) -> Result<Id, CertificateError> {
    let (rest, parsed) = X509Certificate::from_der(leaf)
        .map_err(|error| CertificateError::Encoding(shown(&error.to_string())))?;
    if !rest.is_empty() {
        return Err(CertificateError::Encoding("bytes after its end".to_owned()));
    }
    let mut dns = Vec::new();
    let mut uris = Vec::new();
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            // SPIFFE X509-SVID §4.3: what may sign certificates is no workload, whatever the basic constraints say.
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                return Err(CertificateError::CaAsLeaf);
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in names.general_names.iter().take(MAX_NAMES) {
                    match name {
                        GeneralName::DNSName(name) => dns.push(*name),
                        GeneralName::URI(uri) => uris.push(*uri),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if uris.len() > 1 {
        return Err(CertificateError::SeveralUris(uris.len()));
    }
    if let Some(name) = dns.iter().chain(&uris).find(|name| name.contains('*')) {
        return Err(CertificateError::WildcardSan(shown(name)));
    }
    let dns = dns
        .into_iter()
        .map(|name| Id::dns(name).map_err(|reason| invalid(name, reason)));
    let uris = uris
        .into_iter()
        .map(|uri| Id::uri(uri).map_err(|reason| invalid(uri, reason)));
    let mut ids = uris.chain(dns).collect::<Result<Vec<_>, _>>()?;
    ids.dedup();
    match (ids.len(), ids.pop()) {
        (1, Some(id)) => Ok(id),
        (0, _) | (_, None) => Err(no_name(&parsed)),
        (count, _) => Err(CertificateError::SeveralIdentities(count)),
    }
}

fn invalid(name: &str, reason: InvalidId) -> CertificateError {
    CertificateError::InvalidSan {
        name: shown(name),
        reason,
    }
}

fn no_name(parsed: &X509Certificate<'_>) -> CertificateError {
    match parsed.subject().iter_common_name().next() {
        Some(name) => CertificateError::CommonNameOnly(shown(name.as_str().unwrap_or("not text"))),
        None => CertificateError::NoSan,
    }
}

/// Seconds since 1970, by the clock given.
pub(crate) fn unix_time(time: std::time::SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Checks what clients of ours show: nothing, or a certificate that is right in every way.
#[derive(Debug)]
pub(crate) struct VerifyClient {
    anchors: TrustAnchors,
    /// Direct connections are for mesh peers only.
    mandatory: bool,
}

impl VerifyClient {
    pub(crate) fn new(anchors: TrustAnchors, mandatory: bool) -> Arc<Self> {
        Arc::new(Self { anchors, mandatory })
    }
}

impl ClientCertVerifier for VerifyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// None: clients of the mesh have one certificate, and strangers need not learn our anchors' names.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        verify(&self.anchors, end_entity, intermediates, now, Usage::Client)
            .map(|_| ClientCertVerified::assertion())
            .map_err(CertificateError::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

/// Checks that a server is the one workload we want to talk to: by chain, and by its identity, whatever name we asked
/// for in the SNI.
#[derive(Debug)]
pub(crate) struct VerifyServer {
    anchors: TrustAnchors,
    expected: Id,
}

impl VerifyServer {
    pub(crate) fn new(anchors: TrustAnchors, expected: Id) -> Arc<Self> {
        Arc::new(Self { anchors, expected })
    }
}

impl ServerCertVerifier for VerifyServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify(&self.anchors, end_entity, intermediates, now, Usage::Server)
            .and_then(|found| must_be(&self.expected, found))
            .map(|()| ServerCertVerified::assertion())
            .map_err(CertificateError::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

/// Whole names are compared, nothing less.
pub(crate) fn must_be(expected: &Id, found: Id) -> Result<(), CertificateError> {
    if *expected == found {
        Ok(())
    } else {
        Err(CertificateError::WrongIdentity {
            expected: expected.clone(),
            found,
        })
    }
}

/// Never reached: no configuration of ours offers TLS 1.2.
fn tls12() -> rustls::Error {
    rustls::PeerIncompatible::Tls12NotOfferedOrEnabled.into()
}

#[cfg(test)]
mod tests;
