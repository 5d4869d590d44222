//! The trust anchors: from the environment, or from a file that is read again when it changes.
//!
//! With the file, anchors can be rotated while the mesh works: the new one is added, certificates move over to it, the old
//! one goes (`docs/trust.md`).

use crate::config::{self, Certificates};
use linkerd_metrics::{Counter, Family, Gauge, Handle, Labels, Registry, describe};
use linkerd_tls::{LocalIdentity, TrustAnchors, TrustError};
use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How often the file is read: it is small, and a change of it is not missed, however it was made.
const LOOK: Duration = Duration::from_secs(5);
/// A larger file is no bundle of anchors.
const MAX_FILE: u64 = 1024 * 1024;

/// Why there are no anchors.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnchorsError {
    #[error("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS: {0}")]
    Text(#[from] TrustError),
    #[error("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS_FILE={}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
}

/// The anchors to begin with.
pub(super) fn first(config: &config::Identity) -> Result<TrustAnchors, AnchorsError> {
    let text = config.trust_anchors.trim();
    if let Some(path) = &config.trust_anchors_file {
        match read(path) {
            Ok(anchors) => return Ok(anchors),
            Err(error) if text.is_empty() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "IDENTITY_TRUST_ANCHORS count until the file can be read");
            }
        }
    }
    match config.source {
        // They come with the certificates.
        Certificates::Spire(_) if text.is_empty() => Ok(TrustAnchors::none()),
        _ => Ok(TrustAnchors::from_pem(text)?),
    }
}

fn read(path: &Path) -> Result<TrustAnchors, AnchorsError> {
    let refused = |reason: String| AnchorsError::File {
        path: path.to_owned(),
        reason,
    };
    let text = || -> io::Result<String> {
        let length = std::fs::metadata(path)?.len();
        if length > MAX_FILE {
            let text = format!("it is {length} bytes long, more than {MAX_FILE}");
            return Err(io::Error::other(text));
        }
        std::fs::read_to_string(path)
    };
    let text = text().map_err(|error| refused(error.to_string()))?;
    TrustAnchors::from_pem(&text).map_err(|error| refused(error.to_string()))
}

/// The anchors in use: where they come from, and how they are shown.
pub(super) struct Trust {
    file: Option<PathBuf>,
    parts: Mutex<Parts>,
    expirations: Family<Gauge>,
    shown: Mutex<Vec<Handle<Gauge>>>,
    ok: Handle<Counter>,
    error: Handle<Counter>,
}

/// What is believed; a peer may lead to either.
struct Parts {
    /// Those of the environment or of the file.
    configured: TrustAnchors,
    /// Those that came with certificates.
    given: TrustAnchors,
}

impl Trust {
    pub(super) fn new(
        config: &config::Identity,
        configured: TrustAnchors,
        registry: &Registry,
    ) -> Self {
        let reads = registry.counters(&describe::CONTROL_IDENTITY_TRUST_ANCHOR_CHANGES_TOTAL);
        let result = |result| reads.get(&Labels::new().with("result", result));
        let trust = Self {
            file: config.trust_anchors_file.clone(),
            parts: Mutex::new(Parts {
                configured: configured.clone(),
                given: TrustAnchors::none(),
            }),
            expirations: registry
                .gauges(&describe::CONTROL_IDENTITY_TRUST_ANCHOR_EXPIRATION_TIMESTAMP_SECONDS),
            shown: Mutex::default(),
            ok: result("ok"),
            error: result("error"),
        };
        trust.show(&configured);
        trust
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What would be believed with these that come with a certificate.
    pub(super) fn with(&self, given: &TrustAnchors) -> TrustAnchors {
        self.parts().configured.and(given)
    }

    /// They came with a certificate that is in use now.
    pub(super) fn came(&self, given: TrustAnchors) {
        let changed = {
            let mut parts = self.parts();
            let is_same = parts.given.is_same(&given);
            parts.given = given;
            (!is_same).then(|| parts.configured.and(&parts.given))
        };
        if let Some(anchors) = changed {
            self.ok.inc();
            self.show(&anchors);
        }
    }

    /// Puts the anchors in use on the metrics, in place of those before.
    fn show(&self, anchors: &TrustAnchors) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gauge in shown.drain(..) {
            gauge.set(0.0);
        }
        for anchor in anchors.anchors() {
            let labels = Labels::new().with("anchor", &anchor.subject);
            let gauge = self.expirations.get(&labels);
            gauge.set(super::seconds(anchor.not_after));
            shown.push(gauge);
        }
    }

    /// Follows the file, if there is one.
    pub(super) async fn follow(&self, identity: &LocalIdentity) -> Infallible {
        let Some(file) = &self.file else {
            return std::future::pending().await;
        };
        let mut failure = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let path = file.clone();
            let read = tokio::task::spawn_blocking(move || read(&path)).await;
            let error = match read {
                Ok(Ok(anchors)) => {
                    self.take(anchors, identity);
                    String::new()
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            if !error.is_empty() && error != failure {
                self.error.inc();
                tracing::warn!(error, "The trust anchors cannot be read: those in use stay");
            }
            failure = error;
        }
    }

    fn take(&self, configured: TrustAnchors, identity: &LocalIdentity) {
        let anchors = {
            let mut parts = self.parts();
            if configured.is_same(&parts.configured) {
                return;
            }
            tracing::info!(
                before = names(&parts.configured),
                now = names(&configured),
                "The trust anchors changed"
            );
            parts.configured = configured;
            parts.configured.and(&parts.given)
        };
        self.ok.inc();
        self.show(&anchors);
        if let Err(error) = identity.trust(anchors) {
            tracing::warn!(%error, "Our certificate does not lead to the trust anchors; it stays until there is another one");
        }
    }
}

/// Subjects of anchors, for the log.
fn names(anchors: &TrustAnchors) -> String {
    let subjects = anchors.anchors().iter();
    let subjects: Vec<_> = subjects.map(|anchor| anchor.subject.as_str()).collect();
    subjects.join("; ")
}
