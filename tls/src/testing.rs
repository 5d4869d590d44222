//! What several test modules share: a root, certificates of every kind, certified identities, a clock to be set.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SignatureAlgorithm,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use crate::{
    KeyMaterial, LocalIdentity, TimeProvider, TrustAnchors,
    ask::Credulous,
    ca::Ca,
    provider::{VERSIONS, provider},
};

pub(crate) const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
pub(crate) const PAY: &str = "pay.shop.serviceaccount.identity.linkerd.cluster.local";

/// The time at which all tests of a run take place, in whole seconds, as certificates have them.
pub(crate) fn now() -> SystemTime {
    static NOW: LazyLock<u64> = LazyLock::new(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    });
    UNIX_EPOCH + Duration::from_secs(*NOW)
}

/// A clock that a test sets.
#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn at(time: SystemTime) -> Arc<Self> {
        let clock = Arc::new(Self(AtomicU64::new(0)));
        clock.set(time);
        clock
    }

    pub(crate) fn set(&self, time: SystemTime) {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.load(Ordering::SeqCst);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// A certified identity with the clock given.
pub(crate) fn certified_at(ca: &Ca, name: &str, clock: &Arc<Clock>) -> Arc<LocalIdentity> {
    let identity = uncertified_at(ca, name, clock);
    certify(ca, &identity, Duration::from_secs(3600));
    identity
}

pub(crate) fn uncertified_at(ca: &Ca, name: &str, clock: &Arc<Clock>) -> Arc<LocalIdentity> {
    LocalIdentity::with_clock(
        name.parse().unwrap(),
        name,
        KeyMaterial::create(name).unwrap(),
        ca.anchors().clone(),
        Arc::clone(clock) as Arc<dyn TimeProvider>,
    )
    .unwrap()
}

pub(crate) fn certified(ca: &Ca, name: &str) -> Arc<LocalIdentity> {
    certified_at(ca, name, &Clock::at(now()))
}

pub(crate) fn certify(ca: &Ca, identity: &LocalIdentity, lifetime: Duration) {
    let issued = ca
        .issue_at(
            identity.csr(),
            identity.id().as_str(),
            lifetime,
            Duration::ZERO,
            identity.now(),
        )
        .unwrap();
    identity
        .install(issued.leaf_der, issued.chain, issued.not_after)
        .unwrap();
}

/// A certificate authority with nothing checked, for certificates that a good one would not sign.
pub(crate) struct Authority {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, &PKCS_ECDSA_P256_SHA256)
    }

    pub(crate) fn root_with(name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = authority_params(name);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.into(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn below(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        self.below_with(name, key, edit)
    }

    pub(crate) fn below_with(
        &self,
        name: &str,
        key: KeyPair,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = authority_params(name);
        edit(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.into(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn anchors(&self) -> TrustAnchors {
        TrustAnchors::from_pem(&self.pem).unwrap()
    }

    /// A workload's certificate, right but for what `edit` does to it.
    pub(crate) fn leaf(&self, edit: impl FnOnce(&mut CertificateParams)) -> Shown {
        self.leaf_with(&PKCS_ECDSA_P256_SHA256, edit)
    }

    pub(crate) fn leaf_with(
        &self,
        algorithm: &'static SignatureAlgorithm,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Shown {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = leaf_params();
        edit(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Shown {
            chain: vec![certificate.into()],
            key: key.serialize_der(),
        }
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now() - Duration::from_secs(3600)).into();
    params.not_after = (now() + Duration::from_secs(3600)).into();
    params
}

pub(crate) fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![dns(WEB)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = (now() - Duration::from_secs(600)).into();
    params.not_after = (now() + Duration::from_secs(600)).into();
    params
}

pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub(crate) fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// What a peer shows in a handshake, whether it may or not.
pub(crate) struct Shown {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Shown {
    pub(crate) fn with(mut self, intermediate: &Authority) -> Self {
        self.chain.push(intermediate.der.clone());
        self
    }

    /// Changes the leaf's bytes.
    pub(crate) fn forged(mut self, edit: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut der = self.chain[0].to_vec();
        edit(&mut der);
        self.chain[0] = der.into();
        self
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let key = provider().key_provider.load_private_key(key).unwrap();
        Arc::new(CertifiedKey::new(self.chain.clone(), key))
    }

    /// A client that shows this and believes every server.
    pub(crate) fn client(&self) -> rustls::ClientConfig {
        credulous_client(provider(), VERSIONS, Some(self.certified_key()))
    }

    /// A server that shows this and asks its clients for nothing.
    pub(crate) fn server(&self) -> rustls::ServerConfig {
        rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified_key())))
    }
}

pub(crate) fn credulous_client(
    provider: Arc<rustls::crypto::CryptoProvider>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    key: Option<Arc<CertifiedKey>>,
) -> rustls::ClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    }
}
