//! Names of workloads. Read from configuration, from discovery and (through `verify`) from certificates.

use std::{fmt, str::FromStr, sync::Arc};

/// The longest DNS name (RFC 1035 §2.3.4).
const MAX_DNS: usize = 253;
/// The longest label of a DNS name (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;
/// The longest SPIFFE ID (SPIFFE-ID §2.3).
const MAX_URI: usize = 2048;
/// The longest trust domain name of a SPIFFE ID (SPIFFE-ID §2.1).
const MAX_TRUST_DOMAIN: usize = 255;

/// One workload's name: what a certificate says its holder is.
///
/// Two ids are equal only if their whole texts are: there is no suffix, wildcard or prefix matching here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id {
    /// A DNS name, lower-cased, without wildcards and without a trailing dot; for Kubernetes workloads
    /// `<serviceaccount>.<namespace>.serviceaccount.identity.<control plane namespace>.<trust domain>`.
    Dns(Arc<str>),
    /// A SPIFFE ID, `spiffe://<trust domain>/<path>`, case as it came (SPIFFE IDs are lower-case in the trust domain,
    /// and case-sensitive in the path).
    Uri(Arc<str>),
}

/// Why a text is no [`Id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// Nothing there.
    #[error("an identity must not be empty")]
    Empty,
    /// Longer than 253 bytes (DNS) or 2048 bytes (URI).
    #[error("the identity is too long: at most 253 bytes for a DNS name, 2048 for a SPIFFE URI")]
    TooLong,
    /// `*` somewhere in it.
    #[error("an identity names one workload: wildcards are not allowed")]
    Wildcard,
    /// Not a host name (RFC 1123 labels, with underscores allowed), or one that looks like an IP address.
    #[error(
        "not a DNS name: use labels of letters, digits, '-' and '_' joined by single dots, with no dot at the end, and not an IP address"
    )]
    NotDns,
    /// A URI that is no SPIFFE ID.
    #[error(
        "not a SPIFFE ID: use spiffe://<lower-case trust domain>/<path>, with no port, query, fragment, '.' or '..'"
    )]
    NotSpiffe,
}

impl Id {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Dns(name) | Self::Uri(name) => name,
        }
    }

    /// Reads a DNS name; upper case becomes lower case.
    ///
    /// # Errors
    /// [`InvalidId`] when it is no host name.
    pub fn dns(name: &str) -> Result<Self, InvalidId> {
        if name.is_empty() {
            return Err(InvalidId::Empty);
        }
        if name.len() > MAX_DNS {
            return Err(InvalidId::TooLong);
        }
        if name.contains('*') {
            return Err(InvalidId::Wildcard);
        }
        if !name.split('.').all(is_label) {
            return Err(InvalidId::NotDns);
        }
        // RFC 1123 §2.1: a name whose last label is a number is an address in disguise.
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidId::NotDns);
        }
        Ok(Self::Dns(name.to_ascii_lowercase().into()))
    }

    /// Reads a SPIFFE ID (SPIFFE-ID §2).
    ///
    /// # Errors
    /// [`InvalidId`] when it is not one.
    pub fn uri(uri: &str) -> Result<Self, InvalidId> {
        if uri.is_empty() {
            return Err(InvalidId::Empty);
        }
        if uri.len() > MAX_URI {
            return Err(InvalidId::TooLong);
        }
        if uri.contains('*') {
            return Err(InvalidId::Wildcard);
        }
        let rest = uri.strip_prefix("spiffe://").ok_or(InvalidId::NotSpiffe)?;
        let (domain, path) = rest.split_once('/').ok_or(InvalidId::NotSpiffe)?;
        let domain_ok = !domain.is_empty()
            && domain.len() <= MAX_TRUST_DOMAIN
            && domain
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
        let segment_ok = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if domain_ok && path.split('/').all(segment_ok) {
            Ok(Self::Uri(uri.into()))
        } else {
            Err(InvalidId::NotSpiffe)
        }
    }
}

/// A label of letters, digits, hyphens (inside) and underscores (which Kubernetes does not make, but DNS servers do).
fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= MAX_LABEL
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl FromStr for Id {
    type Err = InvalidId;

    /// A text with `://` in it is a URI, anything else a DNS name.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.contains("://") {
            Self::uri(text)
        } else {
            Self::dns(text)
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names_are_lower_cased_and_compare_whole() {
        let id: Id = "Web.Shop.serviceaccount.identity.linkerd.Cluster.Local"
            .parse()
            .unwrap();
        assert_eq!(
            id.as_str(),
            "web.shop.serviceaccount.identity.linkerd.cluster.local"
        );
        assert_ne!(
            id,
            "shop.serviceaccount.identity.linkerd.cluster.local"
                .parse()
                .unwrap()
        );
    }

    #[test]
    fn what_names_no_single_workload_is_refused_with_a_reason() {
        let long = "a".repeat(64);
        let longer = "a.".repeat(127) + "a";
        for (text, why) in [
            ("", InvalidId::Empty),
            ("*.shop", InvalidId::Wildcard),
            ("w*b.shop", InvalidId::Wildcard),
            ("web..shop", InvalidId::NotDns),
            (".web", InvalidId::NotDns),
            ("web.", InvalidId::NotDns),
            ("-web.shop", InvalidId::NotDns),
            ("web-.shop", InvalidId::NotDns),
            ("web shop", InvalidId::NotDns),
            ("web\0.shop", InvalidId::NotDns),
            ("wéb.shop", InvalidId::NotDns),
            ("10.1.2.3", InvalidId::NotDns),
            ("::1", InvalidId::NotDns),
            ("me@shop", InvalidId::NotDns),
            (&long, InvalidId::NotDns),
            (&longer, InvalidId::TooLong),
            ("http://shop/web", InvalidId::NotSpiffe),
            ("spiffe://", InvalidId::NotSpiffe),
            ("spiffe://shop", InvalidId::NotSpiffe),
            ("spiffe://shop/", InvalidId::NotSpiffe),
            ("spiffe://Shop/web", InvalidId::NotSpiffe),
            ("SPIFFE://shop/web", InvalidId::NotSpiffe),
            ("spiffe://shop:1/web", InvalidId::NotSpiffe),
            ("spiffe://me@shop/web", InvalidId::NotSpiffe),
            ("spiffe://shop/a/../web", InvalidId::NotSpiffe),
            ("spiffe://shop//web", InvalidId::NotSpiffe),
            ("spiffe://shop/web?x=1", InvalidId::NotSpiffe),
            ("spiffe://shop/web#x", InvalidId::NotSpiffe),
            ("spiffe://shop/w%65b", InvalidId::NotSpiffe),
            ("spiffe://shop/*", InvalidId::Wildcard),
        ] {
            assert_eq!(text.parse::<Id>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn a_spiffe_id_keeps_the_case_of_its_path() {
        let id: Id = "spiffe://shop.example/ns/Shop/sa/web".parse().unwrap();
        assert!(matches!(&id, Id::Uri(uri) if &**uri == "spiffe://shop.example/ns/Shop/sa/web"));
    }
}
