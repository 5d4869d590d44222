//! The issuer in a Secret and the trust anchors in a ConfigMap, read from the API server, and made once where there are none.
//!
//! For clusters to which nobody brings a CA. What is made is a root that signs certificates itself: there is no revocation
//! that would make an issuer below it safer, and its key is in the Secret, from which an issuer for later can be signed. What
//! is in the two objects is never written over; who changes it changes what is in use. Empty ones that say that they are ours,
//! as a chart renders them, are filled.

use super::webhooks::{CREATED_BY, LOOK, MANAGER, PAUSE, changes, is_conflict, is_ours};
use crate::authority::Authority;
use futures::{StreamExt as _, stream};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use linkerd_tls::ca::{Ca, CaError};
use std::time::Duration;

/// The Secret: `crt.pem` and `key.pem`, or `tls.crt` and `tls.key`.
const SECRET: &str = "linkerd-identity-issuer";
/// The ConfigMap: `ca-bundle.crt`.
const CONFIG_MAP: &str = "linkerd-identity-trust-roots";
const BUNDLE: &str = "ca-bundle.crt";
/// What a Secret may call its certificate and its key.
const NAMES: [(&str, &str); 2] = [("crt.pem", "key.pem"), ("tls.crt", "tls.key")];
/// The pause before an API server that did not answer is asked again, while there is no issuer.
const AGAIN: Duration = Duration::from_secs(2);

/// Why there is no issuer, or no new one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptError {
    #[error("{what}: {source}")]
    Api {
        what: &'static str,
        source: Box<kube::Error>,
    },
    #[error("Secret {SECRET} has neither crt.pem and key.pem nor tls.crt and tls.key")]
    Keys,
    #[error("ConfigMap {CONFIG_MAP} has no {BUNDLE}")]
    Bundle,
    #[error(
        "ConfigMap {CONFIG_MAP} is missing while Secret {SECRET} is there: make it, with the anchors in {BUNDLE}"
    )]
    NoAnchors,
    #[error(
        "Secret {SECRET} is missing while ConfigMap {CONFIG_MAP} is there: make it, with an issuer below those anchors in crt.pem and key.pem, or delete the ConfigMap to have both made"
    )]
    NoIssuer,
    #[error("Secret {SECRET} with ConfigMap {CONFIG_MAP}: {0}")]
    Ca(#[from] CaError),
}

/// The two objects.
pub(crate) struct Kept {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
}

impl Kept {
    pub(crate) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
        }
    }

    /// Tells what is there, each time that it may have changed, for ever.
    pub(crate) async fn follow(self, mut tell: impl FnMut(Result<Authority, KeptError>)) {
        let secret = changes(self.secrets.clone(), SECRET);
        let anchors = changes(self.config_maps.clone(), CONFIG_MAP);
        let mut changes = stream::select(secret.boxed(), anchors.boxed());
        let mut has_any = false;
        loop {
            let read = self.look().await;
            has_any |= read.is_ok();
            tell(read);
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                _ = changes.next() => {}
                () = tokio::time::sleep(if has_any { LOOK } else { AGAIN }) => {}
            }
        }
    }

    /// What is there; made where there is nothing.
    async fn look(&self) -> Result<Authority, KeptError> {
        // Once for each of the two that may be made.
        for _ in 0..3 {
            let secret = self.secrets.get_opt(SECRET).await;
            let secret = secret.map_err(api("Secret linkerd-identity-issuer"))?;
            let anchors = self.config_maps.get_opt(CONFIG_MAP).await;
            let anchors = anchors.map_err(api("ConfigMap linkerd-identity-trust-roots"))?;
            // What a chart renders empty, and says is ours, is filled.
            let issuer = secret.as_ref().map(issuer);
            let has_issuer = matches!(issuer, Some(Ok(_)));
            let has_bundle = anchors.as_ref().is_some_and(|map| bundle(map).is_some());
            match (secret, anchors) {
                (Some(secret), Some(anchors)) if has_issuer && has_bundle => {
                    return read(&secret, &anchors);
                }
                // The anchor is the root in the Secret.
                (Some(secret), anchors) if has_issuer && is_ours(&secret.metadata) => {
                    self.make_anchors(&secret, anchors).await?;
                }
                (Some(_), None) if has_issuer => return Err(KeptError::NoAnchors),
                (Some(_), _) if has_issuer => return Err(KeptError::Bundle),
                (Some(secret), _) if !is_ours(&secret.metadata) => return Err(KeptError::Keys),
                (_, Some(_)) if has_bundle => return Err(KeptError::NoIssuer),
                (secret, _) => self.make_secret(secret).await?,
            }
        }
        Err(KeptError::NoAnchors)
    }

    /// `former`: an empty one.
    async fn make_secret(&self, former: Option<Secret>) -> Result<(), KeptError> {
        let root = Ca::create("root.linkerd.cluster.local")?.to_pem();
        let data = [("crt.pem", root.certificates), ("key.pem", root.key)];
        let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
        let secret = former.clone().unwrap_or_else(|| Secret {
            metadata: ours(SECRET),
            type_: Some("linkerd.io/tls".to_owned()),
            ..Secret::default()
        });
        let secret = Secret {
            data: Some(data.into()),
            ..secret
        };
        let made = match former {
            None => self.secrets.create(&posted(), &secret).await,
            // With its resourceVersion: only if nobody was faster.
            Some(_) => self.secrets.replace(SECRET, &posted(), &secret).await,
        };
        match made {
            Ok(_) => {
                tracing::info!(secret = SECRET, "An issuer was made: there was none");
                Ok(())
            }
            Err(error) if is_conflict(&error) => Ok(()),
            Err(error) => Err(api("Secret linkerd-identity-issuer")(error)),
        }
    }

    /// `former`: an empty one.
    async fn make_anchors(
        &self,
        secret: &Secret,
        former: Option<ConfigMap>,
    ) -> Result<(), KeptError> {
        let (certificate, _) = issuer(secret)?;
        let is_new = former.is_none();
        let anchors = former.unwrap_or_else(|| ConfigMap {
            metadata: ours(CONFIG_MAP),
            ..ConfigMap::default()
        });
        if !is_new && !is_ours(&anchors.metadata) {
            return Err(KeptError::Bundle);
        }
        let anchors = ConfigMap {
            data: Some([(BUNDLE.to_owned(), certificate)].into()),
            ..anchors
        };
        let (maps, parameters) = (&self.config_maps, posted());
        let made = if is_new {
            maps.create(&parameters, &anchors).await
        } else {
            maps.replace(CONFIG_MAP, &parameters, &anchors).await
        };
        match made {
            Err(error) if !is_conflict(&error) => {
                Err(api("ConfigMap linkerd-identity-trust-roots")(error))
            }
            _ => Ok(()),
        }
    }
}

/// The authority of the two objects.
fn read(secret: &Secret, anchors: &ConfigMap) -> Result<Authority, KeptError> {
    let (certificate, key) = issuer(secret)?;
    let bundle = bundle(anchors).ok_or(KeptError::Bundle)?;
    let ca = Ca::load_with_anchors(&certificate, &key, bundle)?;
    Ok(Authority::of(ca))
}

fn bundle(anchors: &ConfigMap) -> Option<&String> {
    anchors.data.as_ref()?.get(BUNDLE)
}

/// Certificate and key of a Secret.
fn issuer(secret: &Secret) -> Result<(String, String), KeptError> {
    let data = secret.data.as_ref().ok_or(KeptError::Keys)?;
    let text = |name: &str| {
        let bytes = data.get(name)?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    NAMES
        .iter()
        .find_map(|(certificate, key)| text(certificate).zip(text(key)))
        .ok_or(KeptError::Keys)
}

fn ours(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        annotations: Some([(CREATED_BY.0.to_owned(), CREATED_BY.1.to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn posted() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

fn api(what: &'static str) -> impl FnOnce(kube::Error) -> KeptError {
    move |source| KeptError::Api {
        what,
        source: Box::new(source),
    }
}
