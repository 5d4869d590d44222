//! The authority of the moment, and what keeps it in step with where it comes from: files, or objects of an API server.
//!
//! A new issuer and new trust anchors are taken into use while everything runs, as long as the issuer leads to the anchors.
//! So the anchors can be rotated: first the new one is added to the bundle, then an issuer below it comes, then the old one
//! goes (`docs/trust.md`). What is of no use is said once, and the old stays.

use crate::{
    authority::{Authority, Sources},
    events::Tone,
    kubernetes::issuer::Kept,
    metrics::{ControllerMetrics, Shown},
    notices::Notices,
};
use arc_swap::ArcSwapOption;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// The authority of the moment; none before the first.
#[derive(Debug)]
pub(crate) struct Signing {
    current: ArcSwapOption<Authority>,
    changes: watch::Sender<()>,
}

impl Default for Signing {
    fn default() -> Self {
        Self {
            current: ArcSwapOption::empty(),
            changes: watch::Sender::new(()),
        }
    }
}

impl Signing {
    /// What signs now.
    pub(crate) fn load(&self) -> Option<Arc<Authority>> {
        self.current.load_full()
    }

    /// What signs from now on.
    pub(crate) fn store(&self, authority: Authority) {
        self.current.store(Some(Arc::new(authority)));
        self.changes.send_replace(());
    }

    /// Waits for the first.
    pub(crate) async fn loaded(&self) -> Arc<Authority> {
        let mut changes = self.changes();
        loop {
            if let Some(authority) = self.load() {
                return authority;
            }
            // The sender lives in `self`, so this cannot fail.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells of each change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// Where the authority comes from.
pub(crate) enum Origin {
    /// Files, which are looked at so often.
    Files(Sources, Duration),
    /// Objects of an API server.
    Kept(Box<Kept>),
}

/// The authority, and what keeps it.
pub(crate) struct Issuer {
    pub(crate) signing: Arc<Signing>,
    pub(crate) origin: Origin,
    pub(crate) notices: Notices,
}

impl Issuer {
    /// Follows where the authority comes from, for ever.
    pub(crate) async fn keep(self, metrics: &ControllerMetrics) {
        let mut watch = IssuerWatch {
            notices: self.notices,
            ..IssuerWatch::default()
        };
        if let Some(authority) = self.signing.load() {
            metrics.issuer(authority.ca(), &mut watch.shown);
        }
        match self.origin {
            Origin::Files(sources, pause) => loop {
                tokio::time::sleep(pause).await;
                watch.take(&self.signing, Authority::reopen(&sources), metrics);
            },
            Origin::Kept(kept) => {
                kept.follow(|read| watch.take(&self.signing, read, metrics))
                    .await;
            }
        }
    }
}

/// Judges what was read, and says what became of it.
#[derive(Default)]
pub(crate) struct IssuerWatch {
    failure: String,
    shown: Shown,
    notices: Notices,
}

impl IssuerWatch {
    /// Takes what was read into use, if it is of use: the issuer leads to the anchors now.
    pub(crate) fn take<E: std::fmt::Display>(
        &mut self,
        signing: &Signing,
        read: Result<Authority, E>,
        metrics: &ControllerMetrics,
    ) {
        let old = signing.load();
        match read {
            Ok(new) => {
                self.failure.clear();
                let changed = old.map(|old| new.changed(&old));
                if changed == Some((false, false)) {
                    return;
                }
                metrics.issuer(new.ca(), &mut self.shown);
                signing.store(new);
                match changed {
                    None => tracing::info!("There is an issuer"),
                    Some((true, false)) => {
                        tracing::info!("TrustAnchorsUpdated: the issuer in use leads to them");
                    }
                    Some((is_trust, _)) => {
                        tracing::info!(
                            is_trust,
                            "IssuerUpdated: a new issuer or token key is in use"
                        );
                        let message = "a new issuer is in use".to_owned();
                        self.notices.issuer(Tone::Normal, "IssuerUpdated", message);
                    }
                }
            }
            Err(error) => self.failed(&error.to_string(), old.is_some()),
        }
    }

    fn failed(&mut self, failure: &str, is_there: bool) {
        if self.failure == failure {
            return;
        }
        failure.clone_into(&mut self.failure);
        if is_there {
            tracing::warn!(
                error = failure,
                "IssuerUpdateSkipped: the issuer in use stays"
            );
            let message = format!("the issuer in use stays: {failure}");
            self.notices
                .issuer(Tone::Warning, "IssuerUpdateSkipped", message);
        } else {
            tracing::warn!(error = failure, "There is no issuer yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linkerd_metrics::{Options, Registry};

    #[test]
    fn an_issuer_that_is_of_no_use_never_replaces_the_one_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources {
            directory: folder.path().to_owned(),
            ..Sources::default()
        };
        let metrics = ControllerMetrics::register(&Registry::new(Options::default()));
        let signing = Signing::default();
        signing.store(Authority::open(folder.path()).unwrap());
        let first = signing.load().unwrap();
        let mut watch = IssuerWatch::default();
        let path = |name: &str| folder.path().join(name);
        let certificate = std::fs::read(path("issuer.crt")).unwrap();
        let other = tempfile::tempdir().unwrap();
        Authority::open(other.path()).unwrap();

        for (name, with) in [
            ("issuer.crt", Vec::new()),
            // It does not fit the key.
            (
                "issuer.crt",
                std::fs::read(other.path().join("issuer.crt")).unwrap(),
            ),
            (
                "ca.crt",
                std::fs::read(other.path().join("ca.crt")).unwrap(),
            ),
        ] {
            let before = std::fs::read(path(name)).unwrap();
            std::fs::write(path(name), with).unwrap();
            watch.take(&signing, Authority::reopen(&sources), &metrics);
            assert!(Arc::ptr_eq(&first, &signing.load().unwrap()), "{name}");
            assert!(!watch.failure.is_empty(), "{name}");
            std::fs::write(path(name), before).unwrap();
        }
        std::fs::remove_file(path("issuer.crt")).unwrap();
        watch.take(&signing, Authority::reopen(&sources), &metrics);
        assert!(Arc::ptr_eq(&first, &signing.load().unwrap()));
        std::fs::write(path("issuer.crt"), certificate).unwrap();
        watch.take(&signing, Authority::reopen(&sources), &metrics);
        assert!(watch.failure.is_empty() && Arc::ptr_eq(&first, &signing.load().unwrap()));
    }

    #[test]
    fn anchors_may_change_as_long_as_the_issuer_leads_to_them() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sources = Sources {
            directory: ours.path().to_owned(),
            ..Sources::default()
        };
        let metrics = ControllerMetrics::register(&Registry::new(Options::default()));
        let signing = Signing::default();
        signing.store(Authority::open(ours.path()).unwrap());
        Authority::open(theirs.path()).unwrap();
        let mut watch = IssuerWatch::default();
        let read = |folder: &tempfile::TempDir, name: &str| {
            std::fs::read_to_string(folder.path().join(name)).unwrap()
        };
        let (old, new) = (read(&ours, "ca.crt"), read(&theirs, "ca.crt"));
        let mut step = |name: &str, text: &str, anchors: &str| {
            std::fs::write(ours.path().join(name), text).unwrap();
            watch.take(&signing, Authority::reopen(&sources), &metrics);
            assert_eq!(signing.load().unwrap().trust_anchors(), anchors, "{name}");
        };
        let both = format!("{old}{new}");
        step("ca.crt", &both, &both);
        // Only the new one, under which there is no issuer yet.
        step("ca.crt", &new, &both);
        step("ca.crt", &both, &both);
        step("issuer.crt", &read(&theirs, "issuer.crt"), &both);
        step("issuer.key", &read(&theirs, "issuer.key"), &both);
        step("ca.crt", &new, &new);
        let theirs = Authority::open(theirs.path()).unwrap().ca().to_pem();
        let now = signing.load().unwrap().ca().to_pem();
        assert_eq!(now.certificates, theirs.certificates);
    }
}
