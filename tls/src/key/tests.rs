//! What lies in the directory afterwards, and what is made of what lay there before.

use std::{os::unix::fs::MetadataExt as _, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;
use crate::{
    LocalIdentity,
    ca::Ca,
    testing::{PAY, WEB},
};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_new_key_is_stored_for_its_owner_only_and_used_again() {
    let dir = dir();
    let made = KeyMaterial::load_or_create(dir.path(), &WEB.to_uppercase()).unwrap();
    let mode = fs::metadata(dir.path().join("key.p8")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);

    let again = KeyMaterial::load_or_create(dir.path(), WEB).unwrap();
    assert_eq!(made.csr(), again.csr());
    assert_eq!(made.private_key(), again.private_key());
    Csr::parse(made.csr()).unwrap().names_only(WEB).unwrap();
}

#[test]
fn keys_in_memory_differ() {
    let (one, two) = (
        KeyMaterial::create(WEB).unwrap(),
        KeyMaterial::create(WEB).unwrap(),
    );
    assert_ne!(one.private_key(), two.private_key());
    Csr::parse(one.csr()).unwrap().names_only(WEB).unwrap();
}

#[test]
fn a_key_without_a_request_gets_one() {
    let dir = dir();
    let made = KeyMaterial::load_or_create(dir.path(), WEB).unwrap();
    fs::remove_file(dir.path().join("csr.der")).unwrap();
    // What a crash in the middle of writing leaves is no hindrance.
    fs::write(dir.path().join("csr.new"), "half").unwrap();
    let again = KeyMaterial::load_or_create(dir.path(), WEB).unwrap();
    assert_eq!(made.private_key(), again.private_key());
    Csr::parse(again.csr()).unwrap().names_only(WEB).unwrap();
}

#[test]
fn files_that_are_no_use_are_named_with_the_reason_and_left_alone() {
    let other = KeyMaterial::create(WEB).unwrap();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let big = vec![0; 70_000];
    for (file, bytes, name, reason) in [
        ("key.p8", b"".as_slice(), WEB, "empty"),
        ("key.p8", b"garbage", WEB, "not a P-256 private key"),
        (
            "key.p8",
            p384.serialized_der(),
            WEB,
            "not a P-256 private key",
        ),
        ("key.p8", &big, WEB, "70000 bytes"),
        ("csr.der", b"", WEB, "empty"),
        ("csr.der", b"garbage", WEB, "cannot read"),
        ("csr.der", other.csr(), WEB, "for another key"),
        ("", b"", PAY, "does not match requested identity"),
    ] {
        let dir = dir();
        KeyMaterial::load_or_create(dir.path(), WEB).unwrap();
        if !file.is_empty() {
            fs::write(dir.path().join(file), bytes).unwrap();
        }
        let error = KeyMaterial::load_or_create(dir.path(), name).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(reason) && text.contains("remove key.p8"),
            "{text}"
        );
        assert!(
            text.contains(if file.is_empty() { "csr.der" } else { file }),
            "{text}"
        );
        if !file.is_empty() {
            assert_eq!(fs::read(dir.path().join(file)).unwrap(), bytes);
        }
    }
}

#[test]
fn a_request_without_its_key_is_not_thrown_away_silently() {
    let dir = dir();
    KeyMaterial::load_or_create(dir.path(), WEB).unwrap();
    fs::remove_file(dir.path().join("key.p8")).unwrap();
    let text = KeyMaterial::load_or_create(dir.path(), WEB)
        .unwrap_err()
        .to_string();
    assert!(text.contains("no key.p8"), "{text}");
}

#[test]
fn a_missing_directory_and_a_bad_name_are_said() {
    let dir = dir();
    let missing = dir.path().join("missing");
    let text = KeyMaterial::load_or_create(&missing, WEB)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("write") && text.contains("missing/key.p8"),
        "{text}"
    );
    for name in ["", "spiffe://shop/web", "*.shop", "10.0.0.1"] {
        assert!(
            matches!(KeyMaterial::create(name), Err(KeyError::Name { .. })),
            "{name}"
        );
    }
}

/// Made for this test by the tools named, base64 of DER: key and request for [`WEB`].
const FOREIGN: [(&str, &str, &str); 2] = [
    (
        "Go's crypto/x509, as the peer's entrypoint uses it",
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgEo8BlMZ/15xYA7xaHR31SGjJ3C103oFCWND0Iu6xAq+\
         hRANCAAS5JUToszvrIP+KtS8nMUTmgD3+pJO6B6gskaGE0uXe1i1Ds6hngZ37JsvRzSXaNTUEhSC22gHLYtXI8cCGv+G9",
        "MIIBUDCB9wIBADBBMT8wPQYDVQQDEzZ3ZWIuc2hvcC5zZXJ2aWNlYWNjb3VudC5pZGVudGl0eS5saW5rZXJkLmNsdXN\
         0ZXIubG9jYWwwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAS5JUToszvrIP+KtS8nMUTmgD3+pJO6B6gskaGE0uXe1i\
         1Ds6hngZ37JsvRzSXaNTUEhSC22gHLYtXI8cCGv+G9oFQwUgYJKoZIhvcNAQkOMUUwQzBBBgNVHREEOjA4gjZ3ZWIuc\
         2hvcC5zZXJ2aWNlYWNjb3VudC5pZGVudGl0eS5saW5rZXJkLmNsdXN0ZXIubG9jYWwwCgYIKoZIzj0EAwIDSAAwRQIg\
         Dgu8JhfkJ8bVLO+CnHOdxNiSc8RQiuXS5LEjgdH9lgcCIQDT372VfxMKIvniT9CpJWAn6nnwq7Xo2odK1DQovdBlOA==",
    ),
    (
        "OpenSSL, asking for the usual usages",
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgWIs5C8rMOTvksDiISbjq0DlQNC/GHPOpBi8gKF/ctxi\
         hRANCAARXmKQLBF3/NzAA1v2Cl3jS5xTJZPsNOVB0YFalzbbSGA9PlZKb01NLDNGZQ5Rk0Zboq/qWUQIkud6vKob7zHGN",
        "MIIBmjCCAT8CAQAwUDE/MD0GA1UEAww2d2ViLnNob3Auc2VydmljZWFjY291bnQuaWRlbnRpdHkubGlua2VyZC5jbHV\
         zdGVyLmxvY2FsMQ0wCwYDVQQKDARTaG9wMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEV5ikCwRd/zcwANb9gpd40u\
         cUyWT7DTlQdGBWpc220hgPT5WSm9NTSwzRmUOUZNGW6Kv6llECJLneryqG+8xxjaCBjDCBiQYJKoZIhvcNAQkOMXwwe\
         jBBBgNVHREEOjA4gjZ3ZWIuc2hvcC5zZXJ2aWNlYWNjb3VudC5pZGVudGl0eS5saW5rZXJkLmNsdXN0ZXIubG9jYWww\
         CwYDVR0PBAQDAgeAMAkGA1UdEwQCMAAwHQYDVR0lBBYwFAYIKwYBBQUHAwEGCCsGAQUFBwMCMAoGCCqGSM49BAMCA0k\
         AMEYCIQDzHsWpwQ1vFzi+UQKiSKXDUgH/Hx3r/vs7Rf2VxydR5wIhAKvAdkDcJ2XRAZWRHN3OqyRPKRnJj8Mzuq8uSx\
         swwYF8",
    ),
];

#[test]
fn keys_and_requests_of_other_tools_are_used_and_certified() {
    let ca = Ca::create("root").unwrap();
    for (tool, key, csr) in FOREIGN {
        let dir = dir();
        let csr = STANDARD.decode(csr).unwrap();
        fs::write(dir.path().join("key.p8"), STANDARD.decode(key).unwrap()).unwrap();
        fs::write(dir.path().join("csr.der"), &csr).unwrap();
        let material = KeyMaterial::load_or_create(dir.path(), WEB).unwrap();
        assert_eq!(material.csr(), csr, "{tool}");
        let id = WEB.parse().unwrap();
        let web = LocalIdentity::new(id, WEB, material, ca.anchors().clone()).unwrap();
        crate::testing::certify(&ca, &web, Duration::from_secs(60));
        assert!(web.current().is_some(), "{tool}");
    }
}
