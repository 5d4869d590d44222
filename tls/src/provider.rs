//! The algorithms we speak. One provider, made once, set on every configuration explicitly: the process default is not
//! touched, so a library that installs another one changes nothing here.

use std::sync::{Arc, LazyLock};

use rustls::{
    SignatureScheme, SupportedProtocolVersion,
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
};
use webpki::aws_lc_rs as algorithms;

/// TLS 1.3 and nothing else.
pub(crate) static VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Signatures we accept: by a peer, ECDSA and Ed25519; in its chain, RSA PKCS#1 too (anchors of companies are often RSA).
pub(crate) static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        algorithms::ECDSA_P256_SHA256,
        algorithms::ECDSA_P256_SHA384,
        algorithms::ECDSA_P256_SHA512,
        algorithms::ECDSA_P384_SHA256,
        algorithms::ECDSA_P384_SHA384,
        algorithms::ECDSA_P384_SHA512,
        algorithms::ECDSA_P521_SHA256,
        algorithms::ECDSA_P521_SHA384,
        algorithms::ECDSA_P521_SHA512,
        algorithms::ED25519,
        algorithms::RSA_PKCS1_2048_8192_SHA256,
        algorithms::RSA_PKCS1_2048_8192_SHA384,
        algorithms::RSA_PKCS1_2048_8192_SHA512,
    ],
    mapping: &[
        (
            SignatureScheme::ECDSA_NISTP256_SHA256,
            &[algorithms::ECDSA_P256_SHA256],
        ),
        (
            SignatureScheme::ECDSA_NISTP384_SHA384,
            &[algorithms::ECDSA_P384_SHA384],
        ),
        (
            SignatureScheme::ECDSA_NISTP521_SHA512,
            &[algorithms::ECDSA_P521_SHA512],
        ),
        (SignatureScheme::ED25519, &[algorithms::ED25519]),
    ],
};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        signature_verification_algorithms: SIGNATURES,
        ..aws_lc_rs::default_provider()
    })
});

/// The one provider.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// What this build speaks, for the metric `rustls_info`: names of cipher suites and of key exchange groups, in order of
/// preference.
pub fn algorithm_names() -> (Vec<String>, Vec<String>) {
    (
        PROVIDER
            .cipher_suites
            .iter()
            .map(|suite| format!("{:?}", suite.suite()))
            .collect(),
        PROVIDER
            .kx_groups
            .iter()
            .map(|group| format!("{:?}", group.name()))
            .collect(),
    )
}
