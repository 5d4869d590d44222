//! What can go wrong with a certificate and with a handshake, each with a label for metrics.

use std::{io, sync::Arc, time::Duration};

use rustls::{AlertDescription, PeerIncompatible, pki_types::UnixTime};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Id, InvalidId};

/// How much of a text that a peer chose goes into a message.
const MAX_SHOWN: usize = 300;

/// Why a certificate was refused: a peer's, or one that the identity service gave us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Its chain leads to no trust anchor of ours. The peer belongs to another mesh, or anchors were rotated on one side.
    #[error("the certificate is signed by none of the trust anchors")]
    UnknownIssuer,
    /// A signature in the chain is wrong: forged, or an issuer has an anchor's name and another key.
    #[error("a signature in the certificate's chain does not match its issuer's key")]
    BadSignature,
    /// A certificate of the chain is over. Renewal failed at the peer, or one of the clocks is wrong.
    #[error("the certificate expired at {}; the clock here says {}", show_time(.not_after), show_time(.now))]
    Expired {
        /// This machine's time.
        now: UnixTime,
        /// The last moment at which it was valid.
        not_after: UnixTime,
    },
    /// A certificate of the chain is not valid yet: one of the clocks is wrong.
    #[error("the certificate is valid from {}; the clock here says {}", show_time(.not_before), show_time(.now))]
    NotYetValid {
        /// This machine's time.
        now: UnixTime,
        /// The first moment at which it is valid.
        not_before: UnixTime,
    },
    /// Its extended key usage does not cover the side of the handshake it was shown on.
    #[error("the certificate's extended key usage does not allow it as a {0} certificate")]
    WrongUsage(&'static str),
    /// A certificate authority's own certificate (or one that may sign others) shown as a workload's.
    #[error("the certificate is a certificate authority's, not a workload's")]
    CaAsLeaf,
    /// Signed by a certificate that may not sign.
    #[error("the certificate is signed by one that is no certificate authority")]
    IssuerNotCa,
    /// Signed with an algorithm that is not accepted (see `provider`).
    #[error(
        "the certificate is signed with an algorithm that is not accepted; use ECDSA, Ed25519 or, in a chain, RSA PKCS#1 with SHA-2"
    )]
    SignatureAlgorithm,
    /// Outside what a certificate authority above it is allowed to name.
    #[error("the certificate's name is outside its issuer's name constraints")]
    NameConstraint,
    /// More intermediate certificates than a mesh has, or more work to check them than is granted.
    #[error("the certificate's chain is too long, or has too many issuers of one name")]
    ChainTooLong,
    /// Not DER, or not X.509 v3.
    #[error("the certificate cannot be read: {0}")]
    Encoding(String),
    /// Anything else the verifier says about the chain.
    #[error("the certificate's chain is not valid: {0}")]
    Chain(String),
    /// No DNS or URI among the subject alternative names, and no common name either.
    #[error("the certificate has no subject alternative name that is a DNS name or a SPIFFE URI")]
    NoSan,
    /// A common name only: it is never an identity.
    #[error(
        "the certificate has only a common name ({0}); an identity is a DNS or URI subject alternative name"
    )]
    CommonNameOnly(String),
    /// SPIFFE X509-SVID §2: more than one URI must be refused.
    #[error("the certificate has {0} URI subject alternative names; exactly one is allowed")]
    SeveralUris(usize),
    /// Several names, none of which is more the holder's than the others.
    #[error("the certificate names {0} identities; exactly one is allowed")]
    SeveralIdentities(usize),
    /// A wildcard is no workload.
    #[error("the certificate's name {0} is a wildcard; an identity names one workload")]
    WildcardSan(String),
    /// A DNS or URI name that cannot be an identity.
    #[error("the certificate's name {name} is no identity: {reason}")]
    InvalidSan {
        /// The name as it stands there, cut to a bounded length.
        name: String,
        /// What is wrong with it.
        reason: InvalidId,
    },
    /// A good certificate of someone else than we wanted to talk to (or than we are).
    #[error("the certificate is {found}'s; expected {expected}")]
    WrongIdentity {
        /// Whom we wanted.
        expected: Id,
        /// Whose it is.
        found: Id,
    },
    /// A certificate for us with a key that is not ours.
    #[error("the certificate's public key is not the one of this workload's private key")]
    WrongKey,
}

impl CertificateError {
    /// A label for metrics and logs, out of a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadSignature => "bad_signature",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::WrongUsage(_) => "wrong_usage",
            Self::CaAsLeaf => "ca_as_leaf",
            Self::IssuerNotCa => "issuer_not_ca",
            Self::SignatureAlgorithm => "signature_algorithm",
            Self::NameConstraint => "name_constraint",
            Self::ChainTooLong => "chain_too_long",
            Self::Encoding(_) => "bad_encoding",
            Self::Chain(_) => "invalid_chain",
            Self::NoSan => "no_san",
            Self::CommonNameOnly(_) => "common_name_only",
            Self::SeveralUris(_) => "several_uri_sans",
            Self::SeveralIdentities(_) => "several_identities",
            Self::WildcardSan(_) => "wildcard_san",
            Self::InvalidSan { .. } => "invalid_san",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::WrongKey => "wrong_key",
        }
    }

    /// What the verifier gives to rustls: its own variant where it has one, so that the alert that the peer gets says
    /// what is wrong (`certificate_expired`, `unknown_ca`, ...); ours inside `Other` else.
    pub(crate) fn into_rustls(self) -> rustls::Error {
        use rustls::CertificateError as Theirs;
        let theirs = match self {
            Self::UnknownIssuer => Theirs::UnknownIssuer,
            Self::BadSignature => Theirs::BadSignature,
            Self::Expired { now, not_after } => Theirs::ExpiredContext {
                time: now,
                not_after,
            },
            Self::NotYetValid { now, not_before } => Theirs::NotValidYetContext {
                time: now,
                not_before,
            },
            ours => Theirs::Other(rustls::OtherError(Arc::new(ours))),
        };
        theirs.into()
    }

    fn from_rustls(error: &rustls::CertificateError) -> Self {
        use rustls::CertificateError as Theirs;
        match error {
            Theirs::UnknownIssuer => Self::UnknownIssuer,
            Theirs::BadSignature => Self::BadSignature,
            Theirs::ExpiredContext { time, not_after } => Self::Expired {
                now: *time,
                not_after: *not_after,
            },
            Theirs::NotValidYetContext { time, not_before } => Self::NotYetValid {
                now: *time,
                not_before: *not_before,
            },
            Theirs::BadEncoding => Self::Encoding("not DER".to_owned()),
            Theirs::Other(rustls::OtherError(inner)) => match inner.downcast_ref::<Self>() {
                Some(ours) => ours.clone(),
                None => Self::Chain(shown(&inner.to_string())),
            },
            other => Self::Chain(shown(&other.to_string())),
        }
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Not done within the time given.
    #[error("TLS handshake not done within {0:?}")]
    Timeout(Duration),
    /// The connection broke.
    #[error("connection lost during the TLS handshake: {0}")]
    Io(#[source] io::Error),
    /// The peer closed the connection in the middle, or said goodbye before it was there.
    #[error("the peer closed the connection during the TLS handshake")]
    Closed,
    /// The peer's certificate was refused by us.
    #[error("peer's certificate refused: {0}")]
    Certificate(#[source] CertificateError),
    /// Our certificate, or what we offered, was refused by the peer.
    #[error("the peer refused the TLS handshake with alert {0:?}")]
    Refused(AlertDescription),
    /// The peer speaks no TLS 1.3.
    #[error("the peer does not speak TLS 1.3")]
    Version,
    /// No cipher suite, group or signature in common.
    #[error("nothing in common with the peer: {0}")]
    Incompatible(String),
    /// A direct connection without the protocol that is required there.
    #[error(
        "the peer did not ask for ALPN {}, which direct connections need",
        String::from_utf8_lossy(crate::TRANSPORT_ALPN)
    )]
    NoAlpn,
    /// Only other protocols than ours were offered or chosen.
    #[error("no application protocol in common with the peer")]
    WrongAlpn,
    /// A direct connection without a client certificate.
    #[error("the peer sent no certificate, which direct connections need")]
    NoCertificate,
    /// Not TLS, or TLS against its rules.
    #[error("not a valid TLS handshake: {0}")]
    Invalid(String),
    /// The name to ask the server for (SNI) is no DNS name.
    #[error("{0:?} cannot be asked for as a server name: it must be a DNS name")]
    ServerName(String),
}

impl HandshakeError {
    /// A label for metrics and logs, out of a closed set; for certificates, [`CertificateError::reason`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "handshake_timeout",
            Self::Io(_) => "io",
            Self::Closed => "closed",
            Self::Certificate(error) => error.reason(),
            Self::Refused(_) => "refused_by_peer",
            Self::Version => "tls_version",
            Self::Incompatible(_) => "incompatible",
            Self::NoAlpn => "no_alpn",
            Self::WrongAlpn => "wrong_alpn",
            Self::NoCertificate => "no_certificate",
            Self::Invalid(_) => "invalid_message",
            Self::ServerName(_) => "server_name",
        }
    }

    /// Reads the error that tokio-rustls gives: an I/O error, with rustls's own inside where TLS was the matter.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(tls) => Self::from_rustls(tls),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Io(error),
        }
    }

    pub(crate) fn from_rustls(error: &rustls::Error) -> Self {
        use rustls::Error as Tls;
        match error {
            Tls::InvalidCertificate(certificate) => {
                Self::Certificate(CertificateError::from_rustls(certificate))
            }
            Tls::NoCertificatesPresented => Self::NoCertificate,
            Tls::NoApplicationProtocol => Self::WrongAlpn,
            Tls::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::WrongAlpn,
            Tls::AlertReceived(AlertDescription::ProtocolVersion) => Self::Version,
            Tls::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => {
                Self::Closed
            }
            Tls::AlertReceived(alert) => Self::Refused(*alert),
            Tls::PeerIncompatible(why) => match why {
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => Self::Version,
                why => Self::Incompatible(format!("{why:?}")),
            },
            other => Self::Invalid(shown(&other.to_string())),
        }
    }
}

/// A text of a peer's, made safe to log: bounded, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(MAX_SHOWN)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        out.push('…');
    }
    out
}

fn show_time(time: &UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{} s after 1970", time.as_secs()))
}
