//! What an identity takes for its own, and what a renewal does to connections.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    Accept, accept,
    ca::{Ca, Issued},
    connect,
    testing::{Clock, PAY, WEB, certified, certify, now, uncertified_at},
};

const HOUR: Duration = Duration::from_secs(3600);

fn issued(ca: &Ca, csr: &[u8], name: &str) -> Issued {
    ca.issue_at(csr, name, HOUR, Duration::ZERO, now()).unwrap()
}

fn reason(result: Result<(), CertificateError>) -> &'static str {
    result.unwrap_err().reason()
}

#[test]
fn only_a_certificate_that_peers_would_accept_as_ours_is_taken() {
    let (ca, other) = (Ca::create("root").unwrap(), Ca::create("root").unwrap());
    let web = uncertified_at(&ca, WEB, &Clock::at(now()));
    let twin = uncertified_at(&ca, WEB, &Clock::at(now()));
    let pay = uncertified_at(&ca, PAY, &Clock::at(now()));
    let install =
        |issued: Issued, valid_until| web.install(issued.leaf_der, issued.chain, valid_until);

    let stranger = issued(&other, web.csr(), WEB);
    assert_eq!(reason(install(stranger, now() + HOUR)), "bad_signature");
    let pays = issued(&ca, pay.csr(), PAY);
    assert_eq!(reason(install(pays, now() + HOUR)), "wrong_identity");
    let twins = issued(&ca, twin.csr(), WEB);
    assert_eq!(reason(install(twins, now() + HOUR)), "wrong_key");
    let over = issued(&ca, web.csr(), WEB);
    assert_eq!(reason(install(over, now())), "expired");
    let nothing = web.install(Vec::new(), Vec::new(), now() + HOUR);
    assert_eq!(reason(nothing), "bad_encoding");
    assert!(web.current().is_none());

    let good = issued(&ca, web.csr(), WEB);
    install(good.clone(), good.not_after).unwrap();
    assert_eq!(web.current().unwrap().not_after(), now() + HOUR);
}

#[test]
fn what_is_refused_leaves_the_old_certificate_in_use() {
    let ca = Ca::create("root").unwrap();
    let web = certified(&ca, WEB);
    let before = web.current().unwrap();
    let garbage = web.install(vec![1, 2, 3], vec![], now() + HOUR);
    assert_eq!(reason(garbage), "bad_encoding");
    assert!(Arc::ptr_eq(&before, &web.current().unwrap()));
}

#[test]
fn the_service_may_shorten_a_certificates_use_and_not_lengthen_it() {
    let ca = Ca::create("root").unwrap();
    let web = uncertified_at(&ca, WEB, &Clock::at(now()));
    for (valid_until, ends) in [
        (now() + HOUR / 2, now() + HOUR / 2),
        (now() + HOUR * 2, now() + HOUR),
    ] {
        let issued = issued(&ca, web.csr(), WEB);
        web.install(issued.leaf_der, issued.chain, valid_until)
            .unwrap();
        assert_eq!(web.current().unwrap().not_after(), ends);
    }
}

#[test]
fn own_names_are_known_whatever_their_case() {
    let ca = Ca::create("root").unwrap();
    let web = certified(&ca, WEB);
    assert!(web.is_own_name(&WEB.to_uppercase()));
    assert!(!web.is_own_name(PAY));
    assert!(!web.is_own_name(&format!("x{WEB}")));
}

#[tokio::test]
async fn a_renewal_leaves_connections_alone_and_new_ones_show_the_new_certificate() {
    let ca = Ca::create("root").unwrap();
    let (web, pay) = (certified(&ca, WEB), certified(&ca, PAY));
    let open = async || {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let current = pay.current().unwrap();
        let config = web.client_config();
        let (accepted, client) = tokio::join!(
            accept(&current, Accept::Redirected, near, HOUR),
            connect(&config, far, PAY, pay.id(), None)
        );
        (accepted.unwrap().io, client.unwrap())
    };
    let shown = |client: &crate::ClientStream<_>| -> CertificateDer<'static> {
        client.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let (mut server, mut client) = open().await;
    let version = *pay.changes().borrow();
    certify(&ca, &pay, HOUR);
    assert_eq!(*pay.changes().borrow(), version + 1);

    let (_, later) = open().await;
    assert_ne!(shown(&client), shown(&later));
    client.write_all(b"still here").await.unwrap();
    let mut got = [0; 10];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"still here");
}

#[tokio::test]
async fn who_waits_for_the_first_certificate_gets_it() {
    let ca = Ca::create("root").unwrap();
    let web = uncertified_at(&ca, WEB, &Clock::at(now()));
    let waiting = tokio::spawn({
        let web = Arc::clone(&web);
        async move { web.certified().await.id().clone() }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    certify(&ca, &web, HOUR);
    assert_eq!(waiting.await.unwrap(), *web.id());
}

#[test]
fn intermediates_are_sent_and_anchors_are_not() {
    let root = Ca::create("root").unwrap();
    let issuer = root.create_issuer("issuer", HOUR * 2).unwrap();
    let web = uncertified_at(&root, WEB, &Clock::at(now()));
    let mut issued = issued(&issuer, web.csr(), WEB);
    assert_eq!(issued.chain.len(), 1);
    // Some services send the root along.
    let pem = root.anchors_pem();
    let root_der =
        <CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(pem.as_bytes())
            .unwrap();
    issued.chain.push(root_der.to_vec());
    web.install(issued.leaf_der, issued.chain, issued.not_after)
        .unwrap();
    assert_eq!(web.current().unwrap().chain_len(), 2);
}

#[test]
fn a_server_name_that_cannot_be_asked_for_is_refused_with_the_reason() {
    let ca = Ca::create("root").unwrap();
    let new = |name: &str| {
        let key = KeyMaterial::create(WEB).unwrap();
        LocalIdentity::new(WEB.parse().unwrap(), name, key, ca.anchors().clone())
    };
    let text = new("10.0.0.1").unwrap_err().to_string();
    assert!(
        text.contains("10.0.0.1") && text.contains("not a DNS name"),
        "{text}"
    );
    // A SPIFFE identity is asked for by a DNS name of its own.
    assert!(new("web.shop").is_ok());
}

#[test]
fn secrets_are_not_in_debug_texts() {
    let ca = Ca::create("root").unwrap();
    let web = certified(&ca, WEB);
    let text = format!("{web:?} {:?} {ca:?} {:?}", web.current(), ca.to_pem());
    assert!(!text.contains("PRIVATE KEY"), "{text}");
}

#[test]
fn what_is_shared_between_threads_can_be() {
    fn shared<T: Send + Sync>() {}
    shared::<LocalIdentity>();
    shared::<Credentials>();
    shared::<ClientConfig>();
    shared::<Ca>();
    shared::<crate::HandshakeError>();
}
