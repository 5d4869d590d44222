//! Certificates of webhooks that we make. Pure: the clock is passed in.
//!
//! Each has an authority of its own, whose key is thrown away: who gets hold of a webhook's Secret can pose as that webhook
//! until its certificate ends, and as nobody else. The bundle keeps the authority of the certificate before, so that API
//! servers believe both while the new one comes into use.

use super::{Served, names};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// For machines whose clocks are behind.
const SKEW: Duration = Duration::from_secs(60 * 60);
const END: &str = "-----END CERTIFICATE-----";

/// What is kept in a Secret, PEM.
pub(crate) struct Made {
    /// `tls.crt`.
    pub(crate) certificate: String,
    /// `tls.key`.
    pub(crate) key: String,
    /// `ca.crt`: its authority, then the one before.
    pub(crate) authorities: String,
}

/// Makes a certificate for `names`. `former` is the bundle that is in use, or empty.
pub(crate) fn make(
    names: &[String],
    now: SystemTime,
    lifetime: Duration,
    former: &str,
) -> Result<Made, rcgen::Error> {
    let name = names.first().map_or("webhook", String::as_str);
    let mut params = CertificateParams::default();
    dates(&mut params, now, lifetime);
    params.distinguished_name = common_name(&format!("the authority of {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut authorities = params.self_signed(&key)?.pem();
    authorities.extend(
        former
            .split_inclusive(END)
            .find(|block| block.contains(END))
            .map(|block| format!("{}\n", block.trim_start())),
    );
    let authority = Issuer::new(params, key);

    let mut params = CertificateParams::new(names)?;
    dates(&mut params, now, lifetime);
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(Made {
        certificate: params.signed_by(&key, &authority)?.pem(),
        key: key.serialize_pem(),
        authorities,
    })
}

fn dates(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    params.not_before = now.checked_sub(SKEW).unwrap_or(UNIX_EPOCH).into();
    params.not_after = now.checked_add(lifetime).unwrap_or(now).into();
}

/// A subject in X.509 has at most 64 characters.
fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    let name: String = name.chars().take(64).collect();
    subject.push(DnType::CommonName, name);
    subject
}

/// A certificate that can be used.
#[derive(Debug)]
pub(crate) struct Usable {
    pub(crate) served: Served,
    /// What an API server must believe, PEM.
    pub(crate) authorities: String,
    pub(crate) not_after: SystemTime,
}

/// What is in a Secret.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held<'a> {
    pub(crate) certificate: &'a [u8],
    pub(crate) key: &'a [u8],
    /// Empty where a certificate signed itself.
    pub(crate) authorities: &'a [u8],
}

impl Held<'_> {
    /// Whether an API server that calls `name` will believe it now.
    ///
    /// # Errors
    /// What is wrong, by its key in the Secret.
    pub(crate) fn judge(&self, name: &str, now: SystemTime) -> Result<Usable, String> {
        let served = Served::read(self.certificate, self.key)
            .map_err(|error| format!("tls.crt with tls.key: {error}"))?;
        let own = CertificateDer::from(served.certificate());
        let (_, parsed) = X509Certificate::from_der(&own)
            .map_err(|error| format!("tls.crt: no certificate: {error}"))?;
        let names = names(&own);
        if !names.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(format!("tls.crt: it is not for {name} but for {names:?}"));
        }
        let time = |seconds: i64| {
            UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
        };
        let validity = parsed.validity();
        let not_after = time(validity.not_after.timestamp());
        if now < time(validity.not_before.timestamp()) || now >= not_after {
            let (from, to) = (validity.not_before, validity.not_after);
            return Err(format!("tls.crt: it is valid from {from} to {to}"));
        }
        let bundle = if self.authorities.is_empty() {
            self.certificate
        } else {
            self.authorities
        };
        // Chains have one link here, or what is between is in tls.crt.
        let between = CertificateDer::pem_slice_iter(self.certificate).skip(1);
        let is_signed = between
            .chain(CertificateDer::pem_slice_iter(bundle))
            .filter_map(Result::ok)
            .any(|issuer| {
                X509Certificate::from_der(&issuer).is_ok_and(|(_, issuer)| {
                    parsed.verify_signature(Some(issuer.public_key())).is_ok()
                })
            });
        if !is_signed {
            return Err("ca.crt: tls.crt is signed by none of its certificates".to_owned());
        }
        let authorities =
            String::from_utf8(bundle.to_vec()).map_err(|_| "ca.crt: it is not PEM".to_owned())?;
        Ok(Usable {
            served,
            authorities,
            not_after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NAME: &str = "linkerd-proxy-injector.linkerd.svc";

    fn made(former: &str) -> Made {
        make(&[NAME.to_owned()], SystemTime::now(), HOUR, former).unwrap()
    }

    fn held(made: &Made) -> Held<'_> {
        Held {
            certificate: made.certificate.as_bytes(),
            key: made.key.as_bytes(),
            authorities: made.authorities.as_bytes(),
        }
    }

    #[test]
    fn what_is_made_is_usable_for_its_lifetime_and_under_its_name() {
        let (made, now) = (made(""), SystemTime::now());
        let usable = held(&made).judge(NAME, now).unwrap();
        assert_eq!(usable.authorities, made.authorities);
        let left = usable.not_after.duration_since(now).unwrap();
        assert!(left <= HOUR && left + Duration::from_secs(2) > HOUR);
        let refused = |held: Held<'_>, name, now| held.judge(name, now).unwrap_err();
        let told = refused(held(&made), NAME, now + HOUR);
        assert!(told.contains("valid from"), "{told}");
        let told = refused(held(&made), "other.linkerd.svc", now);
        assert!(told.contains(NAME), "{told}");
    }

    #[test]
    fn what_does_not_belong_together_is_not_usable() {
        let (one, two, now) = (made(""), made(""), SystemTime::now());
        for (what, wrong) in [
            (
                "tls.key",
                Held {
                    key: two.key.as_bytes(),
                    ..held(&one)
                },
            ),
            (
                "ca.crt",
                Held {
                    authorities: two.authorities.as_bytes(),
                    ..held(&one)
                },
            ),
            // It did not sign itself.
            (
                "ca.crt",
                Held {
                    authorities: b"",
                    ..held(&one)
                },
            ),
            ("tls.crt", Held::default()),
        ] {
            let told = wrong.judge(NAME, now).unwrap_err();
            assert!(told.contains(what), "{told}");
        }
    }

    #[test]
    fn the_bundle_keeps_the_authority_before_and_no_more() {
        let one = made("");
        let two = made(&one.authorities);
        assert!(two.authorities.ends_with(&one.authorities));
        let three = made(&two.authorities);
        assert_eq!(three.authorities.matches(END).count(), 2);
        let before = Held {
            authorities: three.authorities.as_bytes(),
            ..held(&two)
        };
        before.judge(NAME, SystemTime::now()).unwrap();
    }
}
