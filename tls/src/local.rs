//! What this process is: its name and key, and the certificate and anchors of the moment, each swapped whole.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{
    ServerConfig, SignatureAlgorithm,
    client::Resumption,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
    time_provider::{DefaultTimeProvider, TimeProvider},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    CertificateError, Id, InvalidId, KeyMaterial, TRANSPORT_ALPN, TrustAnchors,
    provider::{SIGNATURES, VERSIONS, provider},
    trust::time_of,
    verify::{Usage, VerifyClient, VerifyServer, must_be, verify},
};

/// Why an identity could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The server name is no DNS name.
    #[error("the server name {name:?} is not usable: {reason}")]
    ServerName {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: InvalidId,
    },
    /// The TLS library refuses the key or the configuration.
    #[error("the TLS library refuses the configuration: {0}")]
    Tls(#[from] rustls::Error),
}

/// This process's identity.
///
/// Made once; [`Self::install`] gives it a certificate, now and at each renewal, and [`Self::trust`] other anchors.
/// Connections made before go on with what they were made with.
pub struct LocalIdentity {
    id: Id,
    server_name: Id,
    /// Absent where keys come with certificates.
    own: Option<OwnKey>,
    clock: Arc<dyn TimeProvider>,
    trust: ArcSwap<Trust>,
    current: ArcSwapOption<Credentials>,
    /// Held by who changes one of the two above by what the other is.
    changing: Mutex<()>,
    version: watch::Sender<u64>,
}

/// The key that all certificates are for.
struct OwnKey {
    material: KeyMaterial,
    signing: Arc<dyn SigningKey>,
}

/// Whom we believe, and how we connect before we are certified.
struct Trust {
    anchors: TrustAnchors,
    uncertified: Arc<ClientConfig>,
}

/// A certificate as it was given, so that it can be judged again by other anchors.
#[derive(Clone)]
struct Given {
    leaf: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    valid_until: SystemTime,
}

impl LocalIdentity {
    /// An identity without a certificate yet: it can talk to the control plane, and not serve.
    ///
    /// `server_name` is the name peers ask for (SNI) when they want us; for identities certified by the identity service
    /// it is the id itself.
    ///
    /// # Errors
    /// [`IdentityError`] when the server name or the key is of no use.
    pub fn new(
        id: Id,
        server_name: &str,
        key: KeyMaterial,
        anchors: TrustAnchors,
    ) -> Result<Arc<Self>, IdentityError> {
        Self::with_clock(id, server_name, key, anchors, Arc::new(DefaultTimeProvider))
    }

    /// As [`Self::new`], with another clock than the system's for all checks of dates.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_clock(
        id: Id,
        server_name: &str,
        key: KeyMaterial,
        anchors: TrustAnchors,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Arc<Self>, IdentityError> {
        let signing = provider()
            .key_provider
            .load_private_key(key.private_key())?;
        let own = OwnKey {
            material: key,
            signing,
        };
        Self::of(id, server_name, Some(own), anchors, clock)
    }

    /// An identity whose certificates come with their keys ([`Self::install_with_key`]), as from SPIFFE's Workload API. It
    /// has no signing request. `anchors` may be [`TrustAnchors::none`] until then: it believes nobody.
    ///
    /// # Errors
    /// [`IdentityError`] when the server name is of no use.
    pub fn without_key(
        id: Id,
        server_name: &str,
        anchors: TrustAnchors,
    ) -> Result<Arc<Self>, IdentityError> {
        Self::of(
            id,
            server_name,
            None,
            anchors,
            Arc::new(DefaultTimeProvider),
        )
    }

    fn of(
        id: Id,
        server_name: &str,
        own: Option<OwnKey>,
        anchors: TrustAnchors,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Arc<Self>, IdentityError> {
        let server_name = Id::dns(server_name).map_err(|reason| IdentityError::ServerName {
            name: crate::error::shown(server_name),
            reason,
        })?;
        let uncertified = ClientConfig::new(&id, anchors.clone(), None, &clock)?;
        Ok(Arc::new(Self {
            id,
            server_name,
            own,
            clock,
            trust: ArcSwap::from_pointee(Trust {
                anchors,
                uncertified: Arc::new(uncertified),
            }),
            current: ArcSwapOption::empty(),
            changing: Mutex::new(()),
            version: watch::Sender::new(0),
        }))
    }

    /// Who we are.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// The name peers ask for when they want us, lower-cased.
    pub fn server_name(&self) -> &str {
        self.server_name.as_str()
    }

    /// Whether a ClientHello that asks for `sni` is for us. Case does not matter.
    pub fn is_own_name(&self, sni: &str) -> bool {
        self.server_name.as_str().eq_ignore_ascii_case(sni)
    }

    /// The certificate signing request, DER (PKCS#10); empty for an identity without a key of its own.
    pub fn csr(&self) -> &[u8] {
        self.own.as_ref().map_or(&[], |own| own.material.csr())
    }

    /// The roots that peers must lead to, now.
    pub fn anchors(&self) -> TrustAnchors {
        self.trust.load().anchors.clone()
    }

    /// Takes a new certificate into use for new connections, after checking that peers will accept it: the chain
    /// verifies against the anchors now (server usage), it names us and nothing else, it is for our key, and `valid_until`
    /// is in the future.
    ///
    /// # Errors
    /// [`CertificateError`]; what was in use before stays in use.
    pub fn install(
        &self,
        leaf: Vec<u8>,
        intermediates: Vec<Vec<u8>>,
        valid_until: SystemTime,
    ) -> Result<(), CertificateError> {
        let own = self.own.as_ref().ok_or(CertificateError::WrongKey)?;
        let given = given(leaf, intermediates, own.signing.clone(), valid_until);
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let credentials = self.judge(given, &self.anchors())?;
        self.take(credentials);
        Ok(())
    }

    /// As [`Self::install`], with the certificate's own key (PKCS#8 DER) and with the anchors that it leads to, which are
    /// taken into use with it. It is valid until its own end.
    ///
    /// # Errors
    /// [`CertificateError`]; what was in use before stays in use, the anchors too.
    pub fn install_with_key(
        &self,
        leaf: Vec<u8>,
        intermediates: Vec<Vec<u8>>,
        key: Vec<u8>,
        anchors: TrustAnchors,
    ) -> Result<(), CertificateError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let loaded = provider().key_provider.load_private_key(key);
        let key = loaded.map_err(|_| CertificateError::WrongKey)?;
        if key.choose_scheme(&SIGNATURES.supported_schemes()).is_none()
            || key.algorithm() == SignatureAlgorithm::RSA
        {
            let text = "its key is neither ECDSA nor Ed25519, so peers would refuse it";
            return Err(CertificateError::Chain(text.to_owned()));
        }
        let given = given(leaf, intermediates, key, far_future());
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let credentials = self.judge(given, &anchors)?;
        let trust = self.trusting(anchors)?;
        self.trust.store(Arc::new(trust));
        self.take(credentials);
        Ok(())
    }

    /// Believes other anchors from now on, for new connections.
    ///
    /// # Errors
    /// Why our own certificate does not lead to them, where it does not: peers with the same anchors will refuse it, so a
    /// new one is needed ([`Credentials::is_trusted`]). The anchors are in use nevertheless.
    pub fn trust(&self, anchors: TrustAnchors) -> Result<(), CertificateError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let trust = self.trusting(anchors.clone())?;
        self.trust.store(Arc::new(trust));
        let Some(current) = self.current() else {
            self.version.send_modify(|version| *version += 1);
            return Ok(());
        };
        match self.judge(current.given.clone(), &anchors) {
            Ok(credentials) => {
                self.take(credentials);
                Ok(())
            }
            Err(error) => {
                // Clients are judged by the new anchors all the same.
                let old = current.given.clone();
                self.take(self.credentials(old, &anchors, current.not_after, false)?);
                Err(error)
            }
        }
    }

    fn trusting(&self, anchors: TrustAnchors) -> Result<Trust, CertificateError> {
        let uncertified = ClientConfig::new(&self.id, anchors.clone(), None, &self.clock);
        let uncertified =
            uncertified.map_err(|error| CertificateError::Chain(error.to_string()))?;
        Ok(Trust {
            anchors,
            uncertified: Arc::new(uncertified),
        })
    }

    /// Whether peers that believe `anchors` will accept what was given.
    fn judge(
        &self,
        mut given: Given,
        anchors: &TrustAnchors,
    ) -> Result<Credentials, CertificateError> {
        let now = self.now();
        if given.valid_until <= now {
            return Err(CertificateError::Expired {
                now: crate::verify::unix_time(now),
                not_after: crate::verify::unix_time(given.valid_until),
            });
        }
        let chain = given.shown(anchors);
        let (leaf, intermediates) = (&given.leaf, chain.get(1..).unwrap_or_default());
        let now = crate::verify::unix_time(now);
        let found = verify(anchors, leaf, intermediates, now, Usage::Server)?;
        must_be(&self.id, found)?;
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|error| CertificateError::Encoding(error.to_string()))?;
        let public_key = given.key.public_key();
        if public_key.is_none_or(|key| parsed.public_key().raw != key.as_ref()) {
            return Err(CertificateError::WrongKey);
        }
        let leaf_not_after = time_of(parsed.validity().not_after.timestamp());
        given.valid_until = leaf_not_after.min(given.valid_until);
        let not_after = given.valid_until;
        self.credentials(given, anchors, not_after, true)
    }

    fn credentials(
        &self,
        given: Given,
        anchors: &TrustAnchors,
        not_after: SystemTime,
        trusted: bool,
    ) -> Result<Credentials, CertificateError> {
        Credentials::new(self, given, anchors, not_after, trusted)
            .map_err(|error| CertificateError::Chain(error.to_string()))
    }

    fn take(&self, credentials: Credentials) {
        self.current.store(Some(Arc::new(credentials)));
        self.version.send_modify(|version| *version += 1);
    }

    /// What is in use now; `None` before the first certificate. Cheap; to be asked for each connection.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.current.load_full()
    }

    /// Whether these are in use still: no newer certificate has taken their place. Cheap; to be asked for each request.
    pub fn is_current(&self, credentials: &Credentials) -> bool {
        let current = self.current.load();
        current
            .as_deref()
            .is_some_and(|current| std::ptr::eq(current, credentials))
    }

    /// Waits for the first certificate and gives what is in use then.
    pub async fn certified(&self) -> Arc<Credentials> {
        let mut version = self.version.subscribe();
        loop {
            if let Some(current) = self.current() {
                return current;
            }
            // The sender lives in `self`, so this cannot fail.
            if version.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Counts certificates installed and changes of the anchors; for those who want to know of each.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// For connections to the control plane before we are certified: shows no certificate; the server's is verified as
    /// ever.
    pub fn anchors_client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.trust.load().uncertified)
    }

    /// The best there is for connections to the control plane: with our certificate once there is one, without before.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        match self.current() {
            Some(current) => Arc::clone(current.client_config()),
            None => self.anchors_client_config(),
        }
    }

    /// Wall-clock time as this identity sees it.
    pub fn now(&self) -> SystemTime {
        let since_1970 = self
            .clock
            .current_time()
            .map_or(Duration::ZERO, |now| Duration::from_secs(now.as_secs()));
        UNIX_EPOCH + since_1970
    }
}

fn given(
    leaf: Vec<u8>,
    intermediates: Vec<Vec<u8>>,
    key: Arc<dyn SigningKey>,
    valid_until: SystemTime,
) -> Given {
    Given {
        leaf: leaf.into(),
        intermediates: intermediates.into_iter().map(Into::into).collect(),
        key,
        valid_until,
    }
}

/// Later than the end of any certificate.
fn far_future() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u32::MAX.into()).saturating_mul(100)
}

impl Given {
    /// What peers are sent: they have the anchors, so sending those only costs bytes in every handshake.
    fn shown(&self, anchors: &TrustAnchors) -> Vec<CertificateDer<'static>> {
        let above = self.intermediates.iter();
        let above = above.filter(|certificate| !anchors.contains(certificate));
        std::iter::once(&self.leaf).chain(above).cloned().collect()
    }
}

/// A certificate in use, and the configurations made with it.
pub struct Credentials {
    id: Id,
    given: Given,
    chain_len: usize,
    not_after: SystemTime,
    installed: SystemTime,
    trusted: bool,
    server: Arc<ServerConfig>,
    direct: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Credentials {
    fn new(
        local: &LocalIdentity,
        given: Given,
        anchors: &TrustAnchors,
        not_after: SystemTime,
        trusted: bool,
    ) -> Result<Self, rustls::Error> {
        let chain = given.shown(anchors);
        let chain_len = chain.len();
        let key = Arc::new(CertifiedKey::new(chain, Arc::clone(&given.key)));
        let server = server_config(local, anchors, &key, false)?;
        let mut direct = server_config(local, anchors, &key, true)?;
        direct.alpn_protocols = vec![TRANSPORT_ALPN.to_vec()];
        Ok(Self {
            id: local.id.clone(),
            given,
            chain_len,
            not_after,
            installed: local.now(),
            trusted,
            server: Arc::new(server),
            direct: Arc::new(direct),
            client: Arc::new(ClientConfig::new(
                &local.id,
                anchors.clone(),
                Some(key),
                &local.clock,
            )?),
        })
    }

    /// Whether this certificate leads to the anchors that are in use with it. It did when it was given; anchors change.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Whose certificate this is.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// How many certificates peers are sent: the leaf and its issuers without the anchor.
    pub fn chain_len(&self) -> usize {
        self.chain_len
    }

    /// When it expires: the earlier of the certificate's own end and what the identity service said.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When it was taken into use.
    pub fn installed(&self) -> SystemTime {
        self.installed
    }

    /// For redirected connections: client certificate optional, no ALPN.
    pub fn server_config(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    /// For connections to the proxy's own port: client certificate and ALPN [`TRANSPORT_ALPN`] required.
    pub fn direct_config(&self) -> &Arc<ServerConfig> {
        &self.direct
    }

    /// For connections to peers, showing this certificate.
    pub fn client_config(&self) -> &Arc<ClientConfig> {
        &self.client
    }
}

fn server_config(
    local: &LocalIdentity,
    anchors: &TrustAnchors,
    key: &Arc<CertifiedKey>,
    client_required: bool,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::clone(&local.clock))
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(VerifyClient::new(anchors.clone(), client_required))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    // No resumption: every handshake verifies the client's certificate with today's anchors and dates.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// How to connect as a client: with or without a certificate, always verifying the server.
pub struct ClientConfig {
    anchors: TrustAnchors,
    base: rustls::ClientConfig,
}

impl ClientConfig {
    fn new(
        id: &Id,
        anchors: TrustAnchors,
        key: Option<Arc<CertifiedKey>>,
        clock: &Arc<dyn TimeProvider>,
    ) -> Result<Self, rustls::Error> {
        let builder = rustls::ClientConfig::builder_with_details(provider(), Arc::clone(clock))
            .with_protocol_versions(VERSIONS)?
            .dangerous()
            // Replaced for each connection; until then, only we ourselves would do.
            .with_custom_certificate_verifier(VerifyServer::new(anchors.clone(), id.clone()));
        let mut base = match key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        base.resumption = Resumption::disabled();
        base.enable_early_data = false;
        Ok(Self { anchors, base })
    }

    /// The TLS library's configuration for connections to `expected` and no one else, without ALPN; for callers that
    /// do not use [`crate::connect()`].
    pub fn for_server(&self, expected: &Id) -> Arc<rustls::ClientConfig> {
        self.expecting(expected, None)
    }

    /// The configuration for one connection: to this server, with this protocol. A copy costs a few reference counts.
    pub(crate) fn expecting(
        &self,
        expected: &Id,
        alpn: Option<&[u8]>,
    ) -> Arc<rustls::ClientConfig> {
        let mut config = self.base.clone();
        config
            .dangerous()
            .set_certificate_verifier(VerifyServer::new(self.anchors.clone(), expected.clone()));
        config.alpn_protocols = alpn.into_iter().map(<[u8]>::to_vec).collect();
        Arc::new(config)
    }
}

impl fmt::Debug for LocalIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalIdentity")
            .field("id", &self.id)
            .field("server_name", &self.server_name)
            .field("anchors", &self.anchors())
            .field("current", &self.current())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .field("installed", &self.installed)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("anchors", &self.anchors)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
