//! Hostile signing requests, what is signed, and issuers that users bring.

use std::net::{IpAddr, Ipv4Addr};

use rcgen::string::Ia5String;
use rcgen::{CustomExtension, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SigningKey};
use x509_parser::extensions::GeneralName;

use super::*;
use crate::{
    Id, identity_of,
    testing::{Authority, PAY, WEB, dns, now, uri},
};

const HOUR: Duration = Duration::from_secs(3600);
const SKEW: Duration = Duration::from_secs(20);

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// A request that is right but for what `edit` does to it.
fn csr(edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    csr_of(&key(), edit)
}

fn csr_of(key: &impl SigningKey, edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, WEB);
    params.subject_alt_names = vec![dns(WEB)];
    edit(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

fn issue(ca: &Ca, csr: &[u8], identity: &str) -> Result<Issued, IssueError> {
    ca.issue_at(csr, identity, HOUR, SKEW, now())
}

fn extension(oid: &[u64], content: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(oid, content.to_vec())
}

fn ia5(text: &str) -> Ia5String {
    text.try_into().unwrap()
}

/// Requests that ask for more or for other than the name, with what the client is told.
fn greedy() -> Vec<(&'static str, Vec<u8>, String)> {
    let mismatch = format!("CSR name does not match requested identity: csr={PAY}; req={WEB}");
    let one = "CSR must have exactly one DNSName".to_owned();
    let only = |oid: &str| format!("CSR must ask for a DNSName only: it asks for extension {oid}");
    let san = |names: Vec<SanType>| csr(|params| params.subject_alt_names = names);
    let ip = SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let other = SanType::OtherName((
        vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3],
        "root".to_owned().into(),
    ));
    // A second subjectAltName extension with another DNS name, `pay`.
    let second_san = extension(&[2, 5, 29, 17], b"\x30\x05\x82\x03pay");
    let ca = extension(&[2, 5, 29, 19], b"\x30\x03\x01\x01\xff");
    let custom = |extension| csr(|params| params.custom_extensions = vec![extension]);
    vec![
        ("no DNS name", san(vec![]), one.clone()),
        ("two DNS names", san(vec![dns(WEB), dns(PAY)]), one.clone()),
        ("a second list of names", custom(second_san), one),
        ("another name", san(vec![dns(PAY)]), mismatch),
        (
            "another common name",
            csr(|params| params.distinguished_name.push(DnType::CommonName, PAY)),
            format!("invalid CommonName: {PAY}"),
        ),
        (
            "a second common name",
            csr(|params| {
                let again = DnType::CustomDnType(vec![2, 5, 4, 3]);
                params.distinguished_name.push(again, "admin");
            }),
            "invalid CommonName: admin".to_owned(),
        ),
        (
            "mail address",
            san(vec![dns(WEB), SanType::Rfc822Name(ia5("a@shop"))]),
            "cannot validate email addresses".to_owned(),
        ),
        (
            "IP address",
            san(vec![dns(WEB), ip]),
            "cannot validate IP addresses".to_owned(),
        ),
        (
            "URI",
            san(vec![dns(WEB), uri("spiffe://shop.example/admin")]),
            "cannot validate URIs".to_owned(),
        ),
        (
            "another kind of name",
            san(vec![dns(WEB), other]),
            "cannot validate other names".to_owned(),
        ),
        ("CA:true", custom(ca), only("2.5.29.19")),
        (
            "may sign certificates",
            csr(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            only("2.5.29.15"),
        ),
        (
            "any usage",
            csr(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
            only("2.5.29.37"),
        ),
        (
            "an unknown extension",
            custom(extension(&[1, 2, 3, 4], b"\x05\x00")),
            only("1.2.3.4"),
        ),
        (
            "a common extension with nonsense in it",
            custom(extension(&[2, 5, 29, 15], b"\x30\x00")),
            only("2.5.29.15"),
        ),
    ]
}

#[test]
fn a_request_that_asks_for_more_than_its_name_gets_no_certificate() {
    let ca = Ca::create("root").unwrap();
    let requests = greedy();
    assert!(requests.len() >= 12);
    for (what, csr, told) in requests {
        let error = issue(&ca, &csr, WEB).unwrap_err();
        assert_eq!(error.to_string(), told, "{what}");
        assert_eq!(error.fault(), IssueFault::FailedPrecondition, "{what}");
    }
}

#[test]
fn a_request_that_is_not_signed_by_its_own_p256_key_gets_no_certificate() {
    let ca = Ca::create("root").unwrap();
    let good = csr(|_| {});
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    // Somebody else's public key in a request of ours.
    let (mine, theirs) = (key(), key());
    let mut stolen = csr_of(&mine, |_| {});
    let at = stolen
        .windows(65)
        .position(|window| window == mine.public_key_raw())
        .unwrap();
    stolen[at..at + 65].copy_from_slice(theirs.public_key_raw());
    let mut renamed = good.clone();
    let at = renamed.windows(4).rposition(|w| w == b"web.").unwrap();
    renamed[at] = b'x';
    let long = [good.clone(), vec![0; 20_000]].concat();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    for (csr, identity, told) in [
        (&forged, WEB, IssueError::Signature),
        (&stolen, WEB, IssueError::Signature),
        (&renamed, WEB, IssueError::Signature),
        (&csr_of(&p384, |_| {}), WEB, IssueError::KeyType),
        (&csr_of(&ed25519, |_| {}), WEB, IssueError::KeyType),
        (&vec![], WEB, IssueError::MissingCsr),
        (&good, "", IssueError::MissingIdentity),
    ] {
        let error = issue(&ca, csr, identity).unwrap_err();
        assert_eq!(error, told);
        assert_eq!(error.fault(), IssueFault::InvalidArgument);
    }
    for unreadable in [b"garbage".to_vec(), [good, vec![0]].concat(), long] {
        let error = issue(&ca, &unreadable, WEB).unwrap_err();
        assert!(matches!(error, IssueError::Unreadable(_)), "{error}");
    }
}

#[test]
fn names_that_are_no_identity_get_no_certificate_even_when_asked_for_in_good_form() {
    let ca = Ca::create("root").unwrap();
    let upper = WEB.to_uppercase();
    for name in ["*.shop", "10.0.0.1", "web.shop.", "a b", "", &upper] {
        let csr = csr(|params| {
            params.distinguished_name = DistinguishedName::new();
            params.subject_alt_names = vec![dns(name)];
        });
        assert!(issue(&ca, &csr, name).is_err(), "{name}");
    }
}

#[test]
fn no_bytes_make_the_reader_panic() {
    let ca = Ca::create("root").unwrap();
    let good = csr(|params| {
        params
            .subject_alt_names
            .push(uri("spiffe://shop.example/x"))
    });
    for at in 0..good.len() {
        for value in [0, 0x7f, 0x80, 0xff, good[at] ^ 1] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(issue(&ca, &bad, WEB).is_err());
        }
        assert!(issue(&ca, &good[..at], WEB).is_err());
    }
}

#[test]
fn a_certificate_has_the_verified_name_and_key_and_nothing_else_of_the_request() {
    let ca = Ca::create("root").unwrap();
    let key = key();
    let csr = csr_of(&key, |params| {
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:masters");
        params.distinguished_name.push(DnType::CountryName, "XX");
        params.key_usages = vec![KeyUsagePurpose::DataEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
        params.is_ca = IsCa::ExplicitNoCa;
    });
    let issued = issue(&ca, &csr, WEB).unwrap();
    let (_, cert) = X509Certificate::from_der(&issued.leaf_der).unwrap();
    assert_eq!(cert.subject().to_string(), format!("CN={WEB}"));
    assert_eq!(
        cert.public_key().subject_public_key.data.as_ref(),
        key.public_key_raw()
    );
    let names = cert.subject_alternative_name().unwrap().unwrap().value;
    assert_eq!(names.general_names, [GeneralName::DNSName(WEB)]);
    assert!(!cert.is_ca());
    let usage = cert.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment());
    assert_eq!(usage.flags.count_ones(), 2);
    let extended = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.email_protection);
    assert_eq!(
        time_of(cert.validity().not_before.timestamp()),
        now() - SKEW
    );
    assert_eq!(
        time_of(cert.validity().not_after.timestamp()),
        now() + HOUR + SKEW
    );
    assert_eq!(issued.not_after, now() + HOUR + SKEW);
    assert!(issued.chain.is_empty(), "the anchor is not sent");
    assert_eq!(
        identity_of(&issued.leaf_der.into()),
        Id::dns(WEB).map_err(|_| unreachable!())
    );
}

#[test]
fn a_request_without_a_common_name_is_good() {
    let ca = Ca::create("root").unwrap();
    let csr = csr(|params| params.distinguished_name = DistinguishedName::new());
    issue(&ca, &csr, WEB).unwrap();
}

#[test]
fn two_certificates_for_one_key_have_different_serial_numbers() {
    let ca = Ca::create("root").unwrap();
    let csr = csr(|_| {});
    let serial = |issued: Issued| {
        let (_, cert) = X509Certificate::from_der(&issued.leaf_der).unwrap();
        cert.raw_serial().to_vec()
    };
    let (one, two) = (
        issue(&ca, &csr, WEB).unwrap(),
        issue(&ca, &csr, WEB).unwrap(),
    );
    assert_ne!(serial(one), serial(two));
}

#[test]
fn no_certificate_lives_longer_than_its_issuer() {
    let root = Ca::create("root").unwrap();
    let issuer = root.create_issuer("issuer", 2 * HOUR).unwrap();
    for lifetime in [100 * HOUR, Duration::MAX] {
        let issued = issuer
            .issue_at(&csr(|_| {}), WEB, lifetime, SKEW, now())
            .unwrap();
        assert_eq!(issued.not_after, issuer.not_after());
        assert_eq!(issued.chain.len(), 1);
    }
}

#[test]
fn an_issuer_that_is_over_or_not_yet_valid_signs_nothing() {
    let root = Ca::create("root").unwrap();
    let issuer = root.create_issuer("issuer", 2 * HOUR).unwrap();
    for (when, reason) in [
        (now() + 3 * HOUR, "expired"),
        (now() - 3 * HOUR, "not_yet_valid"),
    ] {
        let error = issuer
            .issue_at(&csr(|_| {}), WEB, HOUR, SKEW, when)
            .unwrap_err();
        assert_eq!(error.fault(), IssueFault::Issuer);
        assert!(matches!(error, IssueError::Issuer(why) if why.reason() == reason));
    }
}

#[test]
fn what_is_stored_can_be_loaded_again_and_signs() {
    let root = Ca::create("root").unwrap();
    let issuer = root.create_issuer("issuer", 2 * HOUR).unwrap();
    for ca in [root, issuer] {
        let pem = ca.to_pem();
        for loaded in [
            Ca::load(&pem.certificates, &pem.key).unwrap(),
            Ca::load_with_anchors(&pem.certificates, &pem.key, &pem.anchors).unwrap(),
        ] {
            issue(&loaded, &csr(|_| {}), WEB).unwrap();
            assert_eq!(loaded.to_pem().certificates, pem.certificates);
        }
    }
}

#[test]
fn issuers_of_other_tools_are_taken_whatever_their_keys() {
    // As OpenSSL and step write EC keys (SEC1).
    let sec1 = "-----BEGIN EC PRIVATE KEY-----\n\
        MHcCAQEEINzMPQKQsTPhon4fUHDKH8+nnnX1kKJUml48J/y1I8bLoAoGCCqGSM49\n\
        AwEHoUQDQgAEbG0k+1R3byMH30dR+dm3X0B6JhHe9FvLYDOWFD+3MNmrdkPWTZXC\n\
        CMnbDxQx1yuS+cUox0NaukkUo34OViGguQ==\n\
        -----END EC PRIVATE KEY-----\n";
    let root = authority("root", HOUR, BasicConstraints::Unconstrained);
    let sec1_key = KeyPair::from_pem(sec1).unwrap();
    let mut brought = vec![(root.self_signed(&sec1_key).unwrap().pem(), sec1.to_owned())];
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        brought.push((root.self_signed(&key).unwrap().pem(), key.serialize_pem()));
    }
    for (certificate, key) in brought {
        let ca = Ca::load(&certificate, &key).unwrap();
        issue(&ca, &csr(|_| {}), WEB).unwrap();
    }
}

#[test]
fn an_issuer_that_does_not_fit_is_refused_with_what_is_wrong() {
    let root = Ca::create("root").unwrap();
    let issuer = root.create_issuer("issuer", HOUR).unwrap();
    let other = Ca::create("root").unwrap().to_pem();
    let (root, issuer) = (root.to_pem(), issuer.to_pem());
    let alone = issuer
        .certificates
        .split_inclusive("-----END CERTIFICATE-----\n")
        .next()
        .unwrap();
    let authority = Authority::root("root");
    let over = authority.below("over", |params| params.not_after = (now() - SKEW).into());
    let over_key = over.issuer.key().serialize_pem();
    let leaf = authority.below("leaf", |params| params.is_ca = IsCa::ExplicitNoCa);
    let leaf_key = leaf.issuer.key().serialize_pem();
    for (certificates, key, anchors, told) in [
        (
            "",
            issuer.key.as_str(),
            root.anchors.as_str(),
            "no certificate found",
        ),
        (
            "garbage",
            &issuer.key,
            &root.anchors,
            "no certificate found",
        ),
        (alone, "garbage", &root.anchors, "private key is not usable"),
        (
            alone,
            &root.key,
            &root.anchors,
            "does not belong to its certificate",
        ),
        (alone, &issuer.key, "", "trust anchors are not usable"),
        (
            alone,
            &issuer.key,
            &other.anchors,
            "does not verify against the trust anchors",
        ),
        (&over.pem, &over_key, &authority.pem, "expired"),
        (
            &leaf.pem,
            &leaf_key,
            &authority.pem,
            "no certificate authority",
        ),
    ] {
        let text = Ca::load_with_anchors(certificates, key, anchors)
            .unwrap_err()
            .to_string();
        assert!(text.contains(told), "{text}");
    }
    let text = Ca::load(alone, &issuer.key).unwrap_err().to_string();
    assert!(text.contains("give the trust anchors"), "{text}");
    assert!(Ca::load_with_anchors(alone, &issuer.key, &root.anchors).is_ok());
}
