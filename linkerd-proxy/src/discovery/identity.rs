//! This workload's certificates, in use and renewed in time: the identity service's answers, or what a SPIRE agent says
//! (`spire`); and the anchors (`anchors`).
//!
//! `run` makes the identity with [`local`] and spawns [`maintain`] on the admin runtime.

mod anchors;
mod spire;

use self::anchors::{AnchorsError, Trust};
use super::client::ControlClient;
use crate::config::{self, Certificates};
use arc_swap::ArcSwap;
use linkerd_metrics::{Counter, Family, Gauge, Handle, Labels, Registry, describe};
use linkerd_tls::{
    KeyError, KeyMaterial, LocalIdentity,
    refresh::{self, Certified, Observer, RefreshError, Schedule},
};
use linkerd2_proxy_api::identity::{CertifyRequest, identity_client::IdentityClient};
use std::{
    convert::Infallible,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How often the log says that there is no certificate yet.
const WAITING_LOG_INTERVAL: Duration = Duration::from_secs(15);

/// Pause between two log lines about the same failure.
const LOG_INTERVAL: Duration = Duration::from_secs(15);

/// Why there can be no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(transparent)]
    Anchors(#[from] AnchorsError),
    #[error("LINKERD2_PROXY_IDENTITY_DIR={}: {source}", dir.display())]
    Key { dir: PathBuf, source: KeyError },
    #[error("LINKERD2_PROXY_IDENTITY_{variable}: {reason}")]
    Name {
        variable: &'static str,
        reason: String,
    },
}

/// This workload's identity, without a certificate as yet; reads or creates its key.
pub(crate) fn local(config: &config::Identity) -> Result<Arc<LocalIdentity>, IdentityError> {
    let (id, name) = (config.id.clone(), &config.server_name);
    let anchors = anchors::first(config)?;
    let (identity, variable) = match &config.source {
        Certificates::Service(service) => {
            let key = match &service.dir {
                Some(dir) => KeyMaterial::load_or_create(dir, name),
                None => KeyMaterial::create(name),
            };
            let key = key.map_err(|source| IdentityError::Key {
                dir: service.dir.clone().unwrap_or_default(),
                source,
            })?;
            (LocalIdentity::new(id, name, key, anchors), "LOCAL_NAME")
        }
        Certificates::Spire(_) => (LocalIdentity::without_key(id, name, anchors), "SERVER_NAME"),
    };
    identity.map_err(|error| IdentityError::Name {
        variable,
        reason: error.to_string(),
    })
}

/// Gets certificates and renews them, and follows the file of anchors, for as long as the proxy lives. `client` reaches the
/// identity service, where certificates come from it.
pub(crate) async fn maintain(
    identity: Arc<LocalIdentity>,
    config: config::Identity,
    client: Option<ControlClient>,
    registry: &Registry,
) -> Infallible {
    let trust = Trust::new(&config, identity.anchors(), registry);
    let watcher = Watcher::new(&identity, registry);
    let certified = async {
        match (&config.source, client) {
            (Certificates::Service(service), Some(client)) => {
                from_service(identity.clone(), service, client, watcher).await
            }
            (Certificates::Spire(spire), _) => {
                spire::follow(&identity, spire, &trust, &watcher).await
            }
            // No client is made only for SPIRE.
            (Certificates::Service(_), None) => std::future::pending().await,
        }
    };
    tokio::select! {
        never = certified => never,
        never = say_waiting(&identity) => never,
        never = trust.follow(&identity) => never,
    }
}

/// Certificates from the identity service.
async fn from_service(
    identity: Arc<LocalIdentity>,
    config: &config::Service,
    client: ControlClient,
    observer: Watcher,
) -> Infallible {
    let schedule = Schedule {
        min_refresh: config.min_refresh,
        max_refresh: config.max_refresh,
        call_timeout: config.certify_timeout,
        ..Schedule::default()
    };
    let csr = identity.csr().to_vec();
    let name = identity.id().as_str().to_owned();
    let why = observer.why.clone();
    let origin = client.origin();
    let api = IdentityClient::with_origin(client, origin);
    let certify = async || -> Result<Certified, CertifyError> {
        let call = certify(api.clone(), config, &name, &csr);
        let answer = call.await;
        why.store(Arc::new(
            answer.as_ref().err().map_or("", CertifyError::reason),
        ));
        answer
    };
    refresh::maintain(identity, schedule, certify, observer).await
}

/// One attempt.
async fn certify(
    mut api: IdentityClient<ControlClient>,
    config: &config::Service,
    name: &str,
    csr: &[u8],
) -> Result<Certified, CertifyError> {
    let path = &config.token_file;
    // Tokens are rotated: what was read at the last attempt may have expired.
    let token = tokio::fs::read(path)
        .await
        .map_err(|source| CertifyError::Token {
            path: path.clone(),
            source,
        })?;
    if token.trim_ascii().is_empty() {
        return Err(CertifyError::EmptyToken(path.clone()));
    }
    let answer = api
        .certify(CertifyRequest {
            identity: name.to_owned(),
            token,
            certificate_signing_request: csr.to_vec(),
        })
        .await?
        .into_inner();
    let until = answer.valid_until.ok_or(CertifyError::NoExpiry)?;
    let valid_until = u64::try_from(until.seconds)
        .ok()
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or(CertifyError::BadExpiry(until.seconds))?;
    Ok(Certified {
        leaf: answer.leaf_certificate,
        intermediates: answer.intermediate_certificates,
        valid_until,
    })
}

/// Why an attempt gave no certificate.
#[derive(Debug, thiserror::Error)]
enum CertifyError {
    #[error("the token file {} cannot be read: {source}", path.display())]
    Token {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the token file {} is empty", .0.display())]
    EmptyToken(PathBuf),
    #[error("{:?}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("the answer has no valid_until")]
    NoExpiry,
    #[error("the answer's valid_until is {0} seconds from 1970")]
    BadExpiry(i64),
}

impl From<tonic::Status> for CertifyError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl CertifyError {
    /// The `reason` label of `control_identity_cert_refresh_errors_total`.
    fn reason(&self) -> &'static str {
        match self {
            Self::Token { .. } | Self::EmptyToken(_) => "token",
            Self::Status(status) => match status.code() {
                tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => "call",
                _ => "refused",
            },
            Self::NoExpiry | Self::BadExpiry(_) => "invalid",
        }
    }
}

/// While there is no certificate nothing is served: says so now and then.
async fn say_waiting(identity: &LocalIdentity) -> Infallible {
    let mut ticks = tokio::time::interval(WAITING_LOG_INTERVAL);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = identity.certified() => std::future::pending().await,
            _ = ticks.tick() => tracing::warn!(id = %identity.id(), "Waiting for a certificate"),
        }
    }
}

/// Puts what happens on metrics and into the log.
struct Watcher {
    id: String,
    expiration: Handle<Gauge>,
    refreshed: Handle<Gauge>,
    failed_at: Handle<Gauge>,
    ok: Handle<Counter>,
    error: Handle<Counter>,
    errors: Family<Counter>,
    /// The reason that was last logged, and when.
    logged: Mutex<Option<(&'static str, Instant)>>,
    /// Why the attempt at hand failed, where the observer is not told.
    why: Arc<ArcSwap<&'static str>>,
}

impl Watcher {
    fn new(identity: &LocalIdentity, registry: &Registry) -> Self {
        let none = Labels::new();
        let results = registry.counters(&describe::CONTROL_IDENTITY_CERT_REFRESHES_TOTAL);
        let gauge = |desc| registry.gauges(desc).get(&none);
        Self {
            id: identity.id().to_string(),
            expiration: gauge(&describe::CONTROL_IDENTITY_CERT_EXPIRATION_TIMESTAMP_SECONDS),
            refreshed: gauge(&describe::CONTROL_IDENTITY_CERT_REFRESH_TIMESTAMP_SECONDS),
            failed_at: gauge(&describe::CONTROL_IDENTITY_CERT_REFRESH_ERROR_TIMESTAMP_SECONDS),
            ok: results.get(&none.clone().with("result", "ok")),
            error: results.get(&none.clone().with("result", "error")),
            errors: registry.counters(&describe::CONTROL_IDENTITY_CERT_REFRESH_ERRORS_TOTAL),
            logged: Mutex::default(),
            why: Arc::default(),
        }
    }

    /// Whether a failure is news: attempts follow one another by the second.
    fn may_log(&self, reason: &'static str) -> bool {
        let now = Instant::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = logged
            .is_some_and(|(last, at)| last == reason && now.duration_since(at) < LOG_INTERVAL);
        if !is_known {
            *logged = Some((reason, now));
        }
        !is_known
    }
}

impl Observer for Watcher {
    fn certified(&self, not_after: SystemTime) {
        self.expiration.set(seconds(not_after));
        self.refreshed.set(seconds(SystemTime::now()));
        self.ok.inc();
        tracing::info!(id = %self.id, expires = %Utc(not_after), "Certified identity");
    }

    fn failed(&self, error: &RefreshError) {
        let reason = match error {
            RefreshError::Call(_) => *self.why.load_full(),
            RefreshError::Timeout(_) => "call",
            _ => "invalid",
        };
        self.unable(reason, error);
    }

    fn expired(&self, not_after: SystemTime) {
        tracing::error!(
            id = %self.id,
            expired = %Utc(not_after),
            "The certificate has expired: peers refuse new connections until there is a new one"
        );
    }
}

impl Watcher {
    /// An attempt failed, for a reason out of a closed set.
    fn unable(&self, reason: &'static str, error: &dyn fmt::Display) {
        self.failed_at.set(seconds(SystemTime::now()));
        self.error.inc();
        self.errors.get(&Labels::new().with("reason", reason)).inc();
        if self.may_log(reason) {
            tracing::warn!(id = %self.id, reason, %error, "Failed to obtain identity; retrying");
        } else {
            tracing::debug!(id = %self.id, reason, %error, "Failed to obtain identity; retrying");
        }
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// A time in the log: RFC 3339, UTC.
struct Utc(SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = &time::format_description::well_known::Rfc3339;
        let text = time::OffsetDateTime::from(self.0).format(format);
        f.write_str(&text.map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests;
