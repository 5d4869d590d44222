//! Client certificates that are no good: each is refused in the handshake, and the metric says why.

use crate::{
    authorization::only,
    harness::{Mesh, eventually, identity, within},
    origin,
};
use linkerd_tls::ca::CaPem;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

/// What a good certificate authority of the mesh would sign for `api`.
fn good() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![dns(&identity("api"))];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2090, 1, 1);
    params
}

/// A change of the good certificate, and the reason that the metric gives for it.
type Case = (&'static str, fn(&mut CertificateParams));

const BAD: [Case; 8] = [
    ("expired", |params| {
        params.not_after = date_time_ymd(2021, 1, 1);
    }),
    ("not_yet_valid", |params| {
        params.not_before = date_time_ymd(2089, 1, 1);
    }),
    ("wrong_usage", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }),
    ("no_san", |params| params.subject_alt_names.clear()),
    ("several_uri_sans", |params| {
        params.subject_alt_names = vec![uri("spiffe://a/b"), uri("spiffe://a/c")];
    }),
    ("several_identities", |params| {
        params.subject_alt_names.push(dns(&identity("admin")));
    }),
    ("wildcard_san", |params| {
        params.subject_alt_names =
            vec![dns("*.shop.serviceaccount.identity.linkerd.cluster.local")];
    }),
    ("ca_as_leaf", |params| {
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }),
];

/// Asks over TLS with the certificate; gives the bytes of the answer, if there were any.
async fn ask(mesh: &Mesh, issuer: &CaPem, anchors: &str, params: &CertificateParams) -> Vec<u8> {
    let signing = KeyPair::from_pem(&issuer.key).unwrap();
    let signer = Issuer::from_ca_cert_pem(&issuer.certificates, signing).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut chain = vec![params.signed_by(&key, &signer).unwrap().into()];
    for above in CertificateDer::pem_slice_iter(issuer.certificates.as_bytes()) {
        chain.push(above.unwrap());
    }
    let mut roots = RootCertStore::empty();
    for anchor in CertificateDer::pem_slice_iter(anchors.as_bytes()) {
        roots.add(anchor.unwrap()).unwrap();
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let stream = mesh.connect_from(5, mesh.web()).await;
    let name = ServerName::try_from(identity("web")).unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let mut stream = match within("the handshake", connecting).await {
        Ok(stream) => stream,
        Err(error) => {
            eprintln!("the handshake: {error}");
            return Vec::new();
        }
    };
    // In TLS 1.3 a client learns of a refusal only when it reads.
    let request = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    if let Err(error) = within("the end", stream.read_to_end(&mut answer)).await {
        eprintln!("the answer: {error}");
    }
    answer
}

#[tokio::test]
async fn each_bad_certificate_is_refused_and_counted_by_its_reason() {
    let mesh = Mesh::start(&only(&identity("api"))).await;
    let _origin = origin::echo(mesh.origin()).await;
    let pem = mesh.authority().ca().to_pem();
    let answer = ask(&mesh, &pem, &pem.anchors, &good()).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "the good one: {}",
        String::from_utf8_lossy(&answer)
    );
    for (reason, spoil) in BAD {
        let mut params = good();
        spoil(&mut params);
        let answer = ask(&mesh, &pem, &pem.anchors, &params).await;
        assert!(answer.is_empty(), "{reason}: no byte of an answer");
        counted(&mesh, reason).await;
    }
    // Same name, same everything: signed by somebody else.
    let stranger = linkerd_tls::ca::Ca::create("stranger").unwrap().to_pem();
    let answer = ask(&mesh, &stranger, &pem.anchors, &good()).await;
    assert!(answer.is_empty(), "unknown issuer: no byte of an answer");
    counted(&mesh, "unknown_issuer").await;
}

/// Waits until the metric has counted one handshake that failed for this reason.
async fn counted(mesh: &Mesh, reason: &str) {
    let label = format!(r#"reason="{reason}""#);
    eventually(reason, async || {
        let count = mesh
            .metric("inbound_tls_handshake_failures_total", &[&label])
            .await;
        (count > 0.0).then_some(())
    })
    .await;
}
