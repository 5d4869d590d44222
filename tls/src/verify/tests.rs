//! Real certificates of every bad kind, shown in real handshakes, to our server by a client and to our client by a server.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    SanType,
};
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    Accept, KeyMaterial, LocalIdentity, accept,
    ca::Ca,
    connect,
    testing::{Authority, Clock, PAY, Shown, WEB, dns, now, uri},
};

const SPIFFE: &str = "spiffe://shop.example/ns/Shop/sa/web";
const SECOND: Duration = Duration::from_secs(1);

/// What becomes of a certificate.
#[derive(Clone, Copy, Debug)]
enum Is {
    /// Accepted on both sides, as this identity.
    Good(&'static str),
    /// Refused on both sides.
    Bad(&'static str),
    /// Refused as a client's (first) or as a server's (second); the other side accepts it.
    OneSided(Option<&'static str>, Option<&'static str>),
}

/// ecdsa-with-SHA256, and ecdsa-with-SHA224 which nobody should accept.
const SHA256_OID: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

fn cases(root: &Authority) -> Vec<(&'static str, Shown, Is)> {
    let parts = [
        roots,
        chains,
        keys,
        dates_and_usages,
        good_names,
        several_names,
        bad_names,
        forgeries,
    ];
    parts.iter().flat_map(|part| part(root)).collect()
}

fn roots(root: &Authority) -> Vec<(&'static str, Shown, Is)> {
    let stranger = Authority::root("stranger");
    let namesake = Authority::root("root");
    let issuer = root.below("issuer", |_| {});
    let mut long = root.leaf(|_| {});
    for _ in 0..7 {
        long = long.with(&issuer);
    }
    vec![
        ("directly below the root", root.leaf(|_| {}), Is::Good(WEB)),
        (
            "below an issuer",
            issuer.leaf(|_| {}).with(&issuer),
            Is::Good(WEB),
        ),
        (
            "below an issuer that is not sent",
            issuer.leaf(|_| {}),
            Is::Bad("unknown_issuer"),
        ),
        (
            "another root",
            stranger.leaf(|_| {}),
            Is::Bad("unknown_issuer"),
        ),
        (
            "another root, sent along",
            stranger.leaf(|_| {}).with(&stranger),
            Is::Bad("unknown_issuer"),
        ),
        (
            "another root of the same name",
            namesake.leaf(|_| {}),
            Is::Bad("bad_signature"),
        ),
        (
            "more intermediates than any mesh has",
            long,
            Is::Bad("chain_too_long"),
        ),
    ]
}

fn chains(root: &Authority) -> Vec<(&'static str, Shown, Is)> {
    let expired = root.below("expired issuer", |params| {
        params.not_after = (now() - SECOND).into();
    });
    let narrow = root.below("narrow issuer", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let below_narrow = narrow.below("below narrow", |_| {});
    let constrained = root.below("constrained issuer", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("other.example".to_owned())],
            excluded_subtrees: vec![],
        });
    });
    let workload = root.below("a workload", |params| {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![dns(PAY)];
    });
    vec![
        (
            "below an expired issuer",
            expired.leaf(|_| {}).with(&expired),
            Is::Bad("expired"),
        ),
        (
            "below too deep an issuer",
            below_narrow.leaf(|_| {}).with(&below_narrow).with(&narrow),
            Is::Bad("chain_too_long"),
        ),
        (
            "outside its issuer's names",
            constrained.leaf(|_| {}).with(&constrained),
            Is::Bad("name_constraint"),
        ),
        (
            "signed by a workload",
            workload.leaf(|_| {}).with(&workload),
            Is::Bad("issuer_not_ca"),
        ),
    ]
}

fn keys(root: &Authority) -> Vec<(&'static str, Shown, Is)> {
    vec![
        (
            "Ed25519 key",
            root.leaf_with(&PKCS_ED25519, |_| {}),
            Is::Good(WEB),
        ),
        (
            "P-384 key",
            root.leaf_with(&PKCS_ECDSA_P384_SHA384, |_| {}),
            Is::Good(WEB),
        ),
        (
            "a CA",
            root.leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            Is::Bad("ca_as_leaf"),
        ),
        (
            "no CA, but may sign certificates",
            root.leaf(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            Is::Bad("ca_as_leaf"),
        ),
    ]
}

fn dates_and_usages(root: &Authority) -> Vec<(&'static str, Shown, Is)> {
    let used = |usage: ExtendedKeyUsagePurpose| {
        root.leaf(|params| params.extended_key_usages = vec![usage])
    };
    vec![
        (
            "expired by one second",
            root.leaf(|params| params.not_after = (now() - SECOND).into()),
            Is::Bad("expired"),
        ),
        (
            "not valid for one more second",
            root.leaf(|params| params.not_before = (now() + SECOND).into()),
            Is::Bad("not_yet_valid"),
        ),
        (
            "no extended key usage",
            root.leaf(|params| params.extended_key_usages.clear()),
            Is::Good(WEB),
        ),
        (
            "for servers only",
            used(ExtendedKeyUsagePurpose::ServerAuth),
            Is::OneSided(Some("wrong_usage"), None),
        ),
        (
            "for clients only",
            used(ExtendedKeyUsagePurpose::ClientAuth),
            Is::OneSided(None, Some("wrong_usage")),
        ),
        (
            "for code signing",
            used(ExtendedKeyUsagePurpose::CodeSigning),
            Is::Bad("wrong_usage"),
        ),
    ]
}

fn good_names(root: &Authority) -> Vec<(&'static str, Shown, Is)> {
    let named = |names: Vec<SanType>| root.leaf(|params| params.subject_alt_names = names);
    let ip = || SanType::IpAddress(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)));
    let mail = || SanType::Rfc822Name("web@shop.example".try_into().unwrap());
    let upper = "WEB.Shop.serviceaccount.identity.linkerd.CLUSTER.local";
    vec![
        (
            "upper-case DNS name",
            named(vec![dns(upper)]),
            Is::Good(WEB),
        ),
        ("SPIFFE URI", named(vec![uri(SPIFFE)]), Is::Good(SPIFFE)),
        (
            "DNS name beside address and mail address",
            named(vec![ip(), mail(), dns(WEB)]),
            Is::Good(WEB),
        ),
        (
            "the same DNS name twice",
            named(vec![dns(WEB), dns(WEB)]),
            Is::Good(WEB),
        ),
    ]
}

fn several_names(root: &Authority) -> Vec<(&'static str, Shown, Is)> {
    let named = |names: Vec<SanType>| root.leaf(|params| params.subject_alt_names = names);
    vec![
        (
            "two DNS names",
            named(vec![dns(WEB), dns(PAY)]),
            Is::Bad("several_identities"),
        ),
        (
            "DNS name and SPIFFE URI",
            named(vec![dns(WEB), uri(SPIFFE)]),
            Is::Bad("several_identities"),
        ),
        (
            "two SPIFFE URIs",
            named(vec![
                uri(SPIFFE),
                uri("spiffe://shop.example/ns/shop/sa/pay"),
            ]),
            Is::Bad("several_uri_sans"),
        ),
        (
            "the same SPIFFE URI twice",
            named(vec![uri(SPIFFE), uri(SPIFFE)]),
            Is::Bad("several_uri_sans"),
        ),
        (
            "SPIFFE URI and another",
            named(vec![uri(SPIFFE), uri("https://shop.example/")]),
            Is::Bad("several_uri_sans"),
        ),
        (
            "wildcard beside a name",
            named(vec![dns(WEB), dns("*.shop")]),
            Is::Bad("wildcard_san"),
        ),
    ]
}

fn bad_names(root: &Authority) -> Vec<(&'static str, Shown, Is)> {
    let named = |names: Vec<SanType>| root.leaf(|params| params.subject_alt_names = names);
    let ip = || SanType::IpAddress(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)));
    let mail = || SanType::Rfc822Name("web@shop.example".try_into().unwrap());
    vec![
        ("no name at all", named(vec![]), Is::Bad("no_san")),
        (
            "common name only",
            root.leaf(|params| {
                params.subject_alt_names.clear();
                params
                    .distinguished_name
                    .push(rcgen::DnType::CommonName, WEB);
            }),
            Is::Bad("common_name_only"),
        ),
        ("address only", named(vec![ip()]), Is::Bad("no_san")),
        ("mail address only", named(vec![mail()]), Is::Bad("no_san")),
        (
            "URI that is no SPIFFE ID",
            named(vec![uri("https://shop.example/web")]),
            Is::Bad("invalid_san"),
        ),
        (
            "wildcard",
            named(vec![dns(
                "*.shop.serviceaccount.identity.linkerd.cluster.local",
            )]),
            Is::Bad("wildcard_san"),
        ),
        (
            "wildcard inside a label",
            named(vec![dns("w*b.shop")]),
            Is::Bad("wildcard_san"),
        ),
        (
            "address as DNS name",
            named(vec![dns("10.1.2.3")]),
            Is::Bad("invalid_san"),
        ),
        (
            "trailing dot",
            named(vec![dns("web.shop.")]),
            Is::Bad("invalid_san"),
        ),
        (
            "empty DNS name",
            named(vec![dns("")]),
            Is::Bad("invalid_san"),
        ),
        (
            "NUL in the name",
            named(vec![dns("web.shop\0.evil")]),
            Is::Bad("invalid_san"),
        ),
    ]
}

fn forgeries(root: &Authority) -> Vec<(&'static str, Shown, Is)> {
    vec![
        (
            "one bit of the signature changed",
            root.leaf(|_| {})
                .forged(|der| *der.last_mut().unwrap() ^= 1),
            Is::Bad("bad_signature"),
        ),
        (
            "one letter of the name changed",
            root.leaf(|_| {}).forged(|der| {
                let at = der.windows(4).position(|w| w == b"web.").unwrap();
                der[at] = b'p';
            }),
            Is::Bad("bad_signature"),
        ),
        (
            "signed with a weak hash",
            root.leaf(|_| {}).forged(|der| {
                while let Some(at) = der.windows(8).position(|w| w == SHA256_OID) {
                    der[at + 7] = 1;
                }
            }),
            Is::Bad("signature_algorithm"),
        ),
        (
            "bytes after its end",
            root.leaf(|_| {}).forged(|der| der.push(0)),
            Is::Bad("bad_encoding"),
        ),
        (
            "cut short",
            root.leaf(|_| {}).forged(|der| der.truncate(100)),
            Is::Bad("bad_encoding"),
        ),
        (
            "not a certificate",
            root.leaf(|_| {}).forged(|der| *der = b"hello".to_vec()),
            Is::Bad("bad_encoding"),
        ),
    ]
}

/// An identity of ours which trusts `root`, with its own certificate from a CA that peers of these tests do not check.
fn us(root: &Authority) -> Arc<LocalIdentity> {
    let ours = Ca::create("ours").unwrap();
    let both = format!("{}{}", ours.anchors_pem(), root.pem);
    let local = LocalIdentity::with_clock(
        PAY.parse().unwrap(),
        PAY,
        KeyMaterial::create(PAY).unwrap(),
        crate::TrustAnchors::from_pem(&both).unwrap(),
        Clock::at(now()),
    )
    .unwrap();
    crate::testing::certify(&ours, &local, Duration::from_secs(60));
    local
}

async fn shown_by_client(us: &LocalIdentity, shown: &Shown) -> Result<String, &'static str> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let client = async move {
        let name = ServerName::try_from(PAY).unwrap();
        let connector = TlsConnector::from(Arc::new(shown.client()));
        if let Ok(mut io) = connector.connect(name, far).await {
            let _ = io.read(&mut [0; 1]).await;
        }
    };
    let server = async move {
        let current = us.current().unwrap();
        accept(&current, Accept::Redirected, near, Duration::from_secs(5))
            .await
            .map(|accepted| accepted.client.unwrap().to_string())
            .map_err(|error| error.reason())
    };
    tokio::join!(server, client).0
}

async fn shown_by_server(
    us: &LocalIdentity,
    shown: &Shown,
    expected: &str,
) -> Result<String, &'static str> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = async move {
        let _ = TlsAcceptor::from(Arc::new(shown.server()))
            .accept(far)
            .await;
    };
    let expected = expected.parse().unwrap();
    let config = us.client_config();
    let client = connect(&config, near, WEB, &expected, None);
    let (client, ()) = tokio::join!(client, server);
    client
        .map(|_| expected.to_string())
        .map_err(|error| error.reason())
}

#[tokio::test]
async fn every_bad_certificate_is_refused_by_its_own_name_and_every_good_one_gives_one_identity() {
    let root = Authority::root("root");
    let us = us(&root);
    let cases = cases(&root);
    assert!(cases.len() >= 20);
    for (name, shown, is) in cases {
        let (client, server, id) = match is {
            Is::Good(id) => (None, None, id),
            Is::Bad(reason) => (Some(reason), Some(reason), WEB),
            Is::OneSided(client, server) => (client, server, WEB),
        };
        let want = |reason: Option<&'static str>| reason.map_or_else(|| Ok(id.to_owned()), Err);
        assert_eq!(
            shown_by_client(&us, &shown).await,
            want(client),
            "client's: {name}"
        );
        assert_eq!(
            shown_by_server(&us, &shown, id).await,
            want(server),
            "server's: {name}"
        );
    }
}

#[tokio::test]
async fn a_chain_from_an_rsa_root_is_accepted() {
    let root = Authority::root_with("rsa root", &PKCS_RSA_SHA256);
    let us = us(&root);
    let shown = root.leaf(|_| {});
    assert_eq!(shown_by_client(&us, &shown).await, Ok(WEB.to_owned()));
}

#[tokio::test]
async fn a_server_that_is_someone_else_is_refused_however_alike_its_name_is() {
    let root = Authority::root("root");
    let us = us(&root);
    for (shown, expected) in [
        (vec![dns(PAY)], WEB),
        // The SNI asked for is WEB in every case: it has no part in the decision.
        (
            vec![dns(WEB)],
            "shop.serviceaccount.identity.linkerd.cluster.local",
        ),
        (
            vec![dns(WEB)],
            "web.shop.serviceaccount.identity.linkerd.cluster.local.evil.example",
        ),
        (
            vec![dns(
                "evil.web.shop.serviceaccount.identity.linkerd.cluster.local",
            )],
            WEB,
        ),
        (vec![uri(SPIFFE)], "spiffe://other.example/ns/Shop/sa/web"),
        (vec![uri(SPIFFE)], "spiffe://shop.example/ns/shop/sa/web"),
        (vec![uri(SPIFFE)], "spiffe://shop.example/ns/Shop/sa"),
        (vec![uri(SPIFFE)], "spiffe://shop.example/ns/Shop/sa/web/x"),
    ] {
        let shown = root.leaf(|params| params.subject_alt_names = shown);
        assert_eq!(
            shown_by_server(&us, &shown, expected).await,
            Err("wrong_identity"),
            "{expected}"
        );
    }
}

#[test]
fn an_expired_certificate_is_explained_with_both_clocks() {
    let root = Authority::root("root");
    let shown = root.leaf(|params| params.not_after = (now() - SECOND).into());
    let error = super::verify(
        &root.anchors(),
        &shown.chain[0],
        &[],
        super::unix_time(now()),
        super::Usage::Client,
    )
    .unwrap_err();
    let text = error.to_string();
    assert_eq!(text.matches("T").count(), 2, "{text}");
    assert!(text.contains("the clock here says"), "{text}");
}

#[tokio::test]
async fn a_maze_of_issuers_is_refused_before_all_its_paths_are_tried() {
    let root = Authority::root("root");
    let us = us(&root);
    // Every issuer may be every other's, by name; eight of them have over 100,000 orders.
    let mut shown = root.leaf(|_| {});
    for _ in 0..6 {
        shown = shown.with(&Authority::root("root").below("root", |_| {}));
    }
    assert_eq!(shown_by_client(&us, &shown).await, Err("chain_too_long"));

    // The most that is tried: pairs, none of which leads to the root that they name.
    let forger = Authority::root("root");
    let (c1, c2) = (forger.below("c", |_| {}), forger.below("c", |_| {}));
    let (b1, b2) = (c1.below("b", |_| {}), c2.below("b", |_| {}));
    let (a1, a2) = (b1.below("a", |_| {}), b2.below("a", |_| {}));
    let mut shown = a1.leaf(|_| {});
    for issuer in [&a1, &a2, &b1, &b2, &c1, &c2] {
        shown = shown.with(issuer);
    }
    assert_eq!(shown_by_client(&us, &shown).await, Err("bad_signature"));
}

#[tokio::test]
async fn an_issuer_signed_by_the_old_root_and_by_the_new_is_accepted_by_both_sides_of_a_rotation() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let by_old = old.below_with("issuer", key, |_| {});
    let key = KeyPair::from_pem(&by_old.issuer.key().serialize_pem()).unwrap();
    let by_new = new.below_with("issuer", key, |_| {});
    let shown = by_new.leaf(|_| {}).with(&by_old).with(&by_new).with(&old);
    for root in [&old, &new] {
        assert_eq!(shown_by_client(&us(root), &shown).await, Ok(WEB.to_owned()));
    }
}
