//! The certificates of a trial mesh: one authority, a workload with its key and CSR, a client, as files in one folder.

use crate::Failure;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use time::OffsetDateTime;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};

/// Identity of the workload whose sidecar is measured.
pub(crate) const WORKLOAD: &str = "web.bench.serviceaccount.identity.linkerd.cluster.local";
/// Identity of the load client.
pub(crate) const CLIENT: &str = "load.bench.serviceaccount.identity.linkerd.cluster.local";
/// How long certificates last: longer than any run.
pub(crate) const LIFETIME: time::Duration = time::Duration::days(1);

/// The folder and what is in it.
#[derive(Debug)]
pub(crate) struct Mesh {
    folder: PathBuf,
    /// PEM of the authority's certificate.
    pub(crate) anchors: String,
}

impl Mesh {
    /// Creates everything in an existing, empty folder.
    pub(crate) fn create(folder: &Path) -> Result<Self, Failure> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "root.linkerd.cluster.local");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_after = OffsetDateTime::now_utc() + LIFETIME * 2;
        let authority = params.self_signed(&key)?;
        let anchors = authority.pem();
        fs::write(folder.join("ca.pem"), &anchors)?;
        fs::write(folder.join("ca.key"), key.serialize_pem())?;
        let issuer = Issuer::new(params, key);
        for (file, name) in [("server", WORKLOAD), ("client", CLIENT)] {
            let key = KeyPair::generate()?;
            let certificate = leaf(name)?.signed_by(&key, &issuer)?;
            fs::write(folder.join(format!("{file}.pem")), certificate.pem())?;
            fs::write(folder.join(format!("{file}.key")), key.serialize_pem())?;
        }
        fs::write(folder.join("token"), "a token of the bench")?;
        Ok(Self {
            folder: folder.to_owned(),
            anchors,
        })
    }

    /// Path of one of its files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes what a proxy's entrypoint would: `key.p8` and `csr.der`.
    pub(crate) fn write_identity(folder: &Path, name: &str) -> Result<(), Failure> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let request = params.serialize_request(&key)?;
        fs::write(folder.join("key.p8"), key.serialize_der())?;
        fs::write(folder.join("csr.der"), request.der())?;
        Ok(())
    }
}

/// A workload's certificate, as the identity service issues it.
fn leaf(name: &str) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    usage(&mut params);
    Ok(params)
}

/// Sets what the identity service decides of a certificate: its life and what it is for.
pub(crate) fn usage(params: &mut CertificateParams) {
    params.not_before = OffsetDateTime::now_utc() - time::Duration::minutes(1);
    params.not_after = OffsetDateTime::now_utc() + LIFETIME;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
}

/// TLS of the load client: its certificate, and servers of this mesh only.
pub(crate) fn client_config(folder: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
    let chain = vec![CertificateDer::from_pem_file(folder.join("client.pem"))?];
    let key = PrivateKeyDer::from_pem_file(folder.join("client.key"))?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    Ok(Arc::new(config))
}
