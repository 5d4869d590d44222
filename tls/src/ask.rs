//! For people who look: which certificate a server shows, and whether a bundle vouches for one.

use std::{io, sync::Arc, time::SystemTime};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, DnsName, ServerName, UnixTime, pem::PemObject as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use webpki::{EndEntityCert, KeyUsage};

use crate::{
    provider::{SIGNATURES, VERSIONS, provider},
    verify::unix_time,
};

/// Believes every server: for who looks at what it shows, or at what we say to it.
#[derive(Debug)]
pub(crate) struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

/// The certificates that a server shows who asks for `name`, the leaf first. **Nothing is verified**: it is to be shown to
/// a person. The caller sets the deadline.
///
/// # Errors
/// If the name is none, or the handshake fails.
pub async fn presented<IO>(io: IO, name: &str) -> io::Result<Vec<CertificateDer<'static>>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let name = DnsName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let io = connector.connect(ServerName::DnsName(name), io).await?;
    let shown = io.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(shown.iter().map(|der| der.clone().into_owned()).collect())
}

/// Whether a workload's certificate leads to anchors, now and for a server.
///
/// # Errors
/// [`CertificateError`](crate::CertificateError).
pub fn leads_to(
    anchors: &crate::TrustAnchors,
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), crate::CertificateError> {
    let usage = crate::verify::Usage::Server;
    crate::verify::verify_chain(anchors, leaf, between, unix_time(now), usage)
}

/// Whether one of the authorities of a bundle vouches for a server's certificate under a name, as an API server asks it of
/// a webhook. Both are PEM; the first certificate is the server's, the others lead to the authority.
///
/// # Errors
/// What is wrong, for people.
pub fn vouches(
    bundle: &str,
    certificates: &str,
    name: &str,
    now: SystemTime,
) -> Result<(), String> {
    let read = |what: &str, pem: &str| {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        match all {
            Ok(all) if all.is_empty() => Err(format!("{what} has no certificate")),
            Ok(all) => Ok(all),
            Err(error) => Err(format!("{what} cannot be read: {error}")),
        }
    };
    let bundle = read("the bundle", bundle)?;
    let chain = read("the certificate", certificates)?;
    let anchors: Vec<_> = bundle
        .iter()
        .filter_map(|der| webpki::anchor_from_trusted_cert(der).ok())
        .collect();
    let (leaf, between) = chain.split_first().ok_or("there is no certificate")?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| error.to_string())?;
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        between,
        unix_time(now),
        KeyUsage::server_auth(),
        None,
        None,
    )
    .map_err(|error| error.to_string())?;
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    leaf.verify_is_valid_for_subject_name(&name)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    fn authority() -> (String, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, Issuer::new(params, key))
    }

    #[test]
    fn a_bundle_vouches_for_what_one_of_its_authorities_signed_under_its_name_and_in_its_time() {
        let ((one, signer), (other, _)) = (authority(), authority());
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["web.shop.svc".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &signer).unwrap().pem();
        let now = SystemTime::now();
        let ask = |bundle: &str, name: &str| vouches(bundle, &certificate, name, now);
        assert_eq!(ask(&format!("{other}{one}"), "web.shop.svc"), Ok(()));
        assert!(ask(&one, "api.shop.svc").is_err());
        assert!(ask(&other, "web.shop.svc").is_err());
        assert!(ask("", "web.shop.svc").unwrap_err().contains("the bundle"));
        let long_ago = SystemTime::UNIX_EPOCH;
        assert!(vouches(&one, &certificate, "web.shop.svc", long_ago).is_err());
    }
}
