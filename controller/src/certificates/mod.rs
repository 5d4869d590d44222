//! What webhooks are served with: certificates that the user brings as files, or that the control plane makes.
//!
//! An API server believes a webhook by the `caBundle` of its configuration. Whoever brings a certificate writes it there;
//! with `--webhook-certificates` the control plane keeps certificate and `caBundle` itself
//! (`crate::kubernetes::webhooks`). New certificates are served without a restart in both cases.
//!
//! | module | what |
//! |---|---|
//! | `files` | files that are read again when they change |
//! | `made` | certificates that we make, and what is thought of those that are there |

pub(crate) mod files;
pub(crate) mod made;

use crate::{
    kubernetes::webhooks::{Keeper, Settings},
    metrics::ControllerMetrics,
};
use arc_swap::ArcSwapOption;
use futures::future::{BoxFuture, FutureExt as _, join_all};
use kube::Client;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::{CryptoProvider, aws_lc_rs},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
        version::TLS13,
    },
};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer as _, X509Certificate},
};

/// A webhook of the mesh: what an API server knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// The Service that the API server calls.
    pub service: &'static str,
    /// The Secret of its certificate, in the control plane's namespace: `tls.crt`, `tls.key`, `ca.crt`.
    pub secret: &'static str,
    /// The configuration that has its `caBundle`.
    pub configuration: &'static str,
    /// Whether it changes objects, or only judges them.
    pub is_mutating: bool,
}

/// The webhooks of the mesh.
impl Webhook {
    /// Judges policy.
    pub const POLICY_VALIDATOR: Self = Self {
        service: "linkerd-policy-validator",
        secret: "linkerd-policy-validator-k8s-tls",
        configuration: "linkerd-policy-validator-webhook-config",
        is_mutating: false,
    };
    /// Judges ServiceProfiles.
    pub const PROFILE_VALIDATOR: Self = Self {
        service: "linkerd-sp-validator",
        secret: "linkerd-sp-validator-k8s-tls",
        configuration: "linkerd-sp-validator-webhook-config",
        is_mutating: false,
    };
    /// Adds sidecars to Pods.
    pub const INJECTOR: Self = Self {
        service: "linkerd-proxy-injector",
        secret: "linkerd-proxy-injector-k8s-tls",
        configuration: "linkerd-proxy-injector-webhook-config",
        is_mutating: true,
    };

    /// The names that API servers may call it by; the first is the one that they use.
    pub(crate) fn names(&self, namespace: &str, cluster_domain: &str) -> Vec<String> {
        let short = format!("{}.{namespace}.svc", self.service);
        let long = format!("{short}.{cluster_domain}");
        vec![short, long]
    }
}

/// Where a listener's certificates come from. Where there are several, the name that a client asks for decides, and the
/// first one where none fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The user brings these, PEM; they are read again when they change.
    pub files: Vec<Pair>,
    /// The control plane makes them for webhooks for which none is brought, and keeps them in Secrets.
    pub makes: bool,
}

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, and what is between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How the control plane makes certificates.
pub(crate) struct Making {
    /// Where Secrets are.
    pub(crate) client: Option<Client>,
    /// The control plane's namespace.
    pub(crate) namespace: String,
    pub(crate) cluster_domain: String,
    pub(crate) lifetime: Duration,
}

/// What a listener accepts connections with, its certificates, and what keeps these as they should be: to be polled for as
/// long as the listener serves.
///
/// # Errors
/// If files cannot be used, or there is no API server to keep Secrets in.
pub(crate) fn open(
    source: &Source,
    webhooks: &[Webhook],
    making: &Making,
    metrics: &Arc<ControllerMetrics>,
) -> io::Result<(TlsAcceptor, Arc<Keys>, BoxFuture<'static, ()>)> {
    let brought = source.files.len();
    let keys = Keys::new(brought.saturating_add(webhooks.len()));
    let files = files::Files::open(source.files.clone(), keys.clone())?;
    let acceptor = keys.acceptor();
    keys.wants(brought);
    if !source.makes {
        let keep = files.keep().map(|never| match never {});
        return Ok((acceptor, keys, keep.boxed()));
    }
    let client = making.client.as_ref().ok_or_else(|| {
        io::Error::other("--webhook-certificates keeps them in Secrets: add --kubernetes")
    })?;
    let lacking = webhooks.iter().filter(|webhook| {
        let names = webhook.names(&making.namespace, &making.cluster_domain);
        !names.first().is_some_and(|name| keys.has(name))
    });
    let keepers = lacking.enumerate().map(|(index, webhook)| {
        let settings = Settings {
            webhook: *webhook,
            namespace: making.namespace.clone(),
            cluster_domain: making.cluster_domain.clone(),
            lifetime: making.lifetime,
        };
        let place = brought.saturating_add(index);
        Keeper::new(client, settings, keys.clone(), place, metrics.clone()).run()
    });
    let keepers: Vec<_> = keepers.collect();
    keys.wants(brought.saturating_add(keepers.len()));
    let served = keys.clone();
    let keep = async move {
        tokio::join!(files.keep(), join_all(keepers));
    };
    Ok((acceptor, served, keep.boxed()))
}

/// A certificate that is served.
#[derive(Debug)]
pub(crate) struct Served {
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl Served {
    /// Reads what is to be served, PEM.
    pub(crate) fn read(certificate: &[u8], key: &[u8]) -> io::Result<Self> {
        static PROVIDER: OnceLock<CryptoProvider> = OnceLock::new();
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let chain = chain.map_err(io::Error::other)?;
        let names = chain.first().map(names).unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(io::Error::other)?;
        let provider = PROVIDER.get_or_init(aws_lc_rs::default_provider);
        let key = CertifiedKey::from_der(chain, key, provider).map_err(io::Error::other)?;
        Ok(Self {
            names,
            key: Arc::new(key),
        })
    }

    fn is_for(&self, name: &str) -> bool {
        let mut names = self.names.iter();
        names.any(|own| own.eq_ignore_ascii_case(name))
    }

    /// The certificate itself, DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        self.key.cert.first().map_or(&[], AsRef::as_ref)
    }
}

/// The DNS names of a certificate.
pub(crate) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for extension in parsed.extensions() {
        if let ParsedExtension::SubjectAlternativeName(found) = extension.parsed_extension() {
            names.extend(found.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            }));
        }
    }
    names
}

/// What a listener serves at the moment: a place for each certificate, empty until there is one.
#[derive(Debug)]
pub(crate) struct Keys {
    places: Box<[ArcSwapOption<Served>]>,
    /// How many of the first places are to be filled before every name is served.
    wanted: AtomicUsize,
}

impl Keys {
    pub(crate) fn new(places: usize) -> Arc<Self> {
        let empty = std::iter::repeat_with(ArcSwapOption::empty);
        Arc::new(Self {
            places: empty.take(places).collect(),
            wanted: AtomicUsize::new(places),
        })
    }

    /// So many certificates are to be there before every name is served.
    fn wants(&self, places: usize) {
        self.wanted.store(places, Ordering::Relaxed);
    }

    /// Serves another certificate from now on.
    pub(crate) fn serve(&self, place: usize, served: Served) {
        if let Some(place) = self.places.get(place) {
            place.store(Some(Arc::new(served)));
        }
    }

    /// What is served in a place.
    pub(crate) fn served(&self, place: usize) -> Option<Arc<Served>> {
        self.places.get(place)?.load_full()
    }

    /// What connections are accepted with. Those that come before there is a certificate fail. API servers speak TLS 1.3
    /// since Kubernetes 1.13, and nobody else is expected.
    pub(crate) fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        let config = ServerConfig::builder_with_protocol_versions(&[&TLS13])
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        TlsAcceptor::from(Arc::new(config))
    }

    /// Whether there is every certificate.
    pub(crate) fn is_served(&self) -> bool {
        let mut wanted = self.places.iter().take(self.wanted.load(Ordering::Relaxed));
        wanted.all(|place| place.load().is_some())
    }

    /// Whether there is a certificate for this name.
    fn has(&self, name: &str) -> bool {
        let mut served = self.places.iter().filter_map(ArcSwapOption::load_full);
        served.any(|served| served.is_for(name))
    }

    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let mut first = None;
        for served in self.places.iter().filter_map(ArcSwapOption::load_full) {
            if name.is_some_and(|name| served.is_for(name)) {
                return Some(served.key.clone());
            }
            first.get_or_insert_with(|| served.key.clone());
        }
        first
    }
}

impl ResolvesServerCert for Keys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn served(name: &str) -> Served {
        let names = [name.to_owned()];
        let made = made::make(&names, SystemTime::now(), Duration::from_secs(60), "").unwrap();
        Served::read(made.certificate.as_bytes(), made.key.as_bytes()).unwrap()
    }

    #[test]
    fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
        let keys = Keys::new(2);
        assert!(keys.choose(Some("one")).is_none() && !keys.is_served());
        keys.serve(1, served("two"));
        assert!(!keys.is_served(), "one is missing");
        let chosen = |name| keys.choose(name).unwrap().cert[0].to_vec();
        let two = keys.served(1).unwrap().certificate().to_vec();
        assert_eq!(chosen(Some("one")), two, "the only one");
        keys.serve(0, served("one"));
        assert!(keys.is_served());
        let one = keys.served(0).unwrap().certificate().to_vec();
        assert_eq!(chosen(Some("ONE")), one);
        assert_eq!(chosen(Some("two")), two);
        assert_eq!(chosen(Some("three")), one);
        assert_eq!(chosen(None), one);
    }
}
