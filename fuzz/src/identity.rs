//! Certificates and signing requests.

use linkerd_tls::{Id, ca::Ca};
use rustls_pki_types::CertificateDer;
use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

/// Whom the requests of the corpus are for.
pub const NAME: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

/// A certificate has one identity or none; it is one that can be written down and read.
pub fn certificate(input: &[u8]) {
    let Ok(id) = linkerd_tls::identity_of(&CertificateDer::from(input)) else {
        return;
    };
    assert_eq!(id.as_str().parse::<Id>().as_ref(), Ok(&id));
    assert!(!id.as_str().contains(['*', ' ', '\0']), "{id}");
}

/// A signing request: whoever gets a certificate for it gets one for the name that was verified.
pub fn csr(input: &[u8]) {
    static AUTHORITY: LazyLock<Option<Ca>> =
        LazyLock::new(|| Ca::create("root.linkerd.cluster.local").ok());
    let Some(authority) = AUTHORITY.as_ref() else {
        return;
    };
    let now = SystemTime::now();
    let Ok(checked) = authority.check(input, NAME, now) else {
        return;
    };
    let (hour, skew) = (Duration::from_secs(3600), Duration::from_secs(10));
    let issued = authority.sign_checked(&checked, hour, skew, now);
    let Ok(issued) = issued else {
        return;
    };
    let id = linkerd_tls::identity_of(&CertificateDer::from(issued.leaf_der));
    assert_eq!(id.as_ref().map(Id::as_str).ok(), Some(NAME));
}
