//! Keeps the certificates of webhooks: in Secrets, in their configurations' `caBundle`, and in use.
//!
//! The Secret is the truth. Whoever finds none makes one; of several that do so at once the API server takes one, and the
//! others use it. It is made anew when two thirds of its life are over. A Secret that somebody else made is used and never
//! written over. API servers are told of an authority before a certificate of it is served.

use super::lasting;
use crate::{
    certificates::{
        Keys, Webhook,
        made::{self, Held, Usable},
    },
    metrics::ControllerMetrics,
};
use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    runtime::watcher::{self, Event},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Who we are to the API server.
pub(super) const MANAGER: &str = "linkerd-controller";
/// Says that we made an object, and may make it anew.
pub(super) const CREATED_BY: (&str, &str) = ("linkerd.io/created-by", "linkerd/controller");
/// Shortest time between two looks: changes come in bursts, ours among them.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
/// Longest time between two looks, should no change be told.
pub(super) const LOOK: Duration = Duration::from_secs(30);
/// Time for API servers to learn a new authority before a certificate of it is served. They watch their configurations.
const LEARN: Duration = Duration::from_secs(5);

/// What is kept.
pub(crate) struct Settings {
    pub(crate) webhook: Webhook,
    /// The control plane's.
    pub(crate) namespace: String,
    pub(crate) cluster_domain: String,
    /// How long certificates live.
    pub(crate) lifetime: Duration,
}

/// Why a step failed; it is tried again.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("{what}: {source}")]
    Api {
        what: String,
        source: Box<kube::Error>,
    },
    #[error(
        "Secret {secret}: {reason}; it was not made by this control plane: correct it, or delete it to have one made"
    )]
    Foreign { secret: String, reason: String },
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("Secret {0}: what was made for it cannot be used: {1}")]
    Unusable(String, String),
}

/// Keeps one webhook's certificate for ever; it is served from `place` of `keys`.
pub(crate) struct Keeper {
    settings: Settings,
    names: Vec<String>,
    secrets: Api<Secret>,
    configurations: Api<DynamicObject>,
    keys: Arc<Keys>,
    place: usize,
    metrics: Arc<ControllerMetrics>,
    /// The certificate that is to be served next, and since when API servers know its authority.
    next: Option<(Vec<u8>, Instant)>,
}

impl Keeper {
    pub(crate) fn new(
        client: &Client,
        settings: Settings,
        keys: Arc<Keys>,
        place: usize,
        metrics: Arc<ControllerMetrics>,
    ) -> Self {
        let Settings {
            webhook,
            namespace,
            cluster_domain,
            ..
        } = &settings;
        let resource = if webhook.is_mutating {
            ApiResource::erase::<MutatingWebhookConfiguration>(&())
        } else {
            ApiResource::erase::<ValidatingWebhookConfiguration>(&())
        };
        Self {
            names: webhook.names(namespace, cluster_domain),
            secrets: Api::namespaced(client.clone(), namespace),
            configurations: Api::all_with(client.clone(), &resource),
            settings,
            keys,
            place,
            metrics,
            next: None,
        }
    }

    pub(crate) async fn run(mut self) -> Infallible {
        let webhook = self.settings.webhook;
        let secret = changes(self.secrets.clone(), webhook.secret);
        let configuration = changes(self.configurations.clone(), webhook.configuration);
        let mut changes = stream::select(secret.boxed(), configuration.boxed());
        let mut failure = String::new();
        loop {
            let rest = match self.step().await {
                Ok(rest) => {
                    failure.clear();
                    rest.min(LOOK)
                }
                Err(error) => {
                    self.metrics.webhook_failed(webhook.service);
                    let error = error.to_string();
                    if error != failure {
                        tracing::warn!(
                            webhook = webhook.service,
                            error,
                            "The webhook's certificate is not as it should be; what is served stays"
                        );
                    }
                    failure = error;
                    LOOK
                }
            };
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                _ = changes.next() => {}
                () = tokio::time::sleep(rest.saturating_sub(PAUSE)) => {}
            }
        }
    }

    /// One look at how things are, and what follows; gives when to look again at the latest.
    async fn step(&mut self) -> Result<Duration, StepError> {
        let name = self.settings.webhook.secret;
        let found = self.secrets.get_opt(name).await;
        let found = found.map_err(api(format!("Secret {name}")))?;
        let now = SystemTime::now();
        let Some(secret) = found else {
            self.make(None, "").await?;
            return Ok(Duration::ZERO);
        };
        let is_ours = is_ours(&secret.metadata);
        let judged = {
            let name = self.names.first().map_or("", String::as_str);
            held(&secret).judge(name, now)
        };
        let usable = match judged {
            Ok(usable) => usable,
            Err(reason) if is_ours => {
                tracing::warn!(
                    secret = name,
                    reason,
                    "The webhook's certificate is replaced"
                );
                self.make(Some(&secret), "").await?;
                return Ok(Duration::ZERO);
            }
            Err(reason) => {
                let secret = name.to_owned();
                return Err(StepError::Foreign { secret, reason });
            }
        };
        let left = usable.not_after.duration_since(now).unwrap_or_default();
        let due = left.saturating_sub(self.settings.lifetime / 3);
        if is_ours && due.is_zero() {
            self.make(Some(&secret), &usable.authorities).await?;
            return Ok(Duration::ZERO);
        }
        self.metrics
            .webhook_expires(self.settings.webhook.service, usable.not_after);
        let told = self.tell(&usable.authorities).await;
        let wait = self.take(usable, told.is_ok());
        told?;
        Ok(wait.unwrap_or(due))
    }

    /// Makes a Secret, or another one in place of this one. One that somebody else made meanwhile is as good.
    async fn make(&self, former: Option<&Secret>, authorities: &str) -> Result<(), StepError> {
        let Settings {
            webhook, lifetime, ..
        } = &self.settings;
        let made = made::make(&self.names, SystemTime::now(), *lifetime, authorities)?;
        let data = [
            ("tls.crt", &made.certificate),
            ("tls.key", &made.key),
            ("ca.crt", &made.authorities),
        ];
        let data: BTreeMap<_, _> = data
            .map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes())))
            .into();
        let new = Secret {
            metadata: ObjectMeta {
                name: Some(webhook.secret.to_owned()),
                annotations: Some([(CREATED_BY.0.to_owned(), CREATED_BY.1.to_owned())].into()),
                labels: Some(
                    [(
                        "linkerd.io/control-plane-ns".to_owned(),
                        self.settings.namespace.clone(),
                    )]
                    .into(),
                ),
                ..ObjectMeta::default()
            },
            data: Some(data),
            type_: Some("kubernetes.io/tls".to_owned()),
            ..Secret::default()
        };
        // A Secret that we could not use ourselves would be made again and again.
        let name = self.names.first().map_or("", String::as_str);
        if let Err(reason) = held(&new).judge(name, SystemTime::now()) {
            return Err(StepError::Unusable(webhook.secret.to_owned(), reason));
        }
        let parameters = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let result = match former {
            None => self.secrets.create(&parameters, &new).await,
            Some(former) => {
                let mut replaced = former.clone();
                replaced.metadata.managed_fields = None;
                replaced.data = new.data;
                // With its resourceVersion: only if nobody was faster.
                let replace = self.secrets.replace(webhook.secret, &parameters, &replaced);
                replace.await
            }
        };
        match result {
            Ok(_) => {
                tracing::info!(
                    secret = webhook.secret,
                    "A certificate was made for the webhook"
                );
                Ok(())
            }
            Err(error) if is_conflict(&error) => Ok(()),
            Err(error) => Err(api(format!("Secret {}", webhook.secret))(error)),
        }
    }

    /// Writes the authorities into the webhook's configuration, where they are not there yet.
    async fn tell(&self, authorities: &str) -> Result<(), StepError> {
        let name = self.settings.webhook.configuration;
        let failed = || api(format!("webhook configuration {name}"));
        let found = self.configurations.get_opt(name).await.map_err(failed())?;
        let Some(configuration) = found else {
            tracing::debug!(name, "The webhook's configuration is not there yet");
            return Ok(());
        };
        let bundle = ByteString(authorities.as_bytes().to_vec());
        let bundle = serde_json::to_value(bundle).unwrap_or_default();
        let Some(change) = bundle_change(&configuration, &bundle) else {
            return Ok(());
        };
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Strategic(&change);
        match self.configurations.patch(name, &parameters, &patch).await {
            Ok(_) => {
                tracing::info!(name, "The webhook's caBundle was written");
                Ok(())
            }
            // Somebody changed it meanwhile: we shall be told, and look again.
            Err(error) if is_conflict(&error) => Ok(()),
            Err(error) => Err(failed()(error)),
        }
    }

    /// Serves what is in the Secret, once API servers have had time to learn of it; gives how long that is.
    fn take(&mut self, usable: Usable, is_told: bool) -> Option<Duration> {
        let new = usable.served.certificate().to_vec();
        let current = self.keys.served(self.place);
        if current
            .as_ref()
            .is_some_and(|current| current.certificate() == new)
        {
            self.next = None;
            return None;
        }
        // Where nothing is served there is nothing to lose.
        if current.is_some() {
            if !is_told {
                return Some(LEARN);
            }
            let since = match &self.next {
                Some((next, since)) if *next == new => *since,
                _ => {
                    let now = Instant::now();
                    self.next = Some((new, now));
                    now
                }
            };
            let left = LEARN.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Some(left);
            }
        }
        tracing::info!(
            webhook = self.settings.webhook.service,
            "The webhook has a new certificate"
        );
        self.keys.serve(self.place, usable.served);
        self.next = None;
        None
    }
}

/// Says each time that an object of this name changes.
pub(super) fn changes<K>(api: Api<K>, name: &str) -> impl Stream<Item = ()> + Send + use<K>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    lasting::events(api, config).filter_map(|event| {
        if let Err(error) = &event {
            tracing::debug!(%error, "A watch failed");
        }
        // Objects of a list are told before its end.
        let is_news = !matches!(event, Err(_) | Ok(Event::Init | Event::InitApply(_)));
        std::future::ready(is_news.then_some(()))
    })
}

/// What must change in a configuration for each of its webhooks to have this `caBundle`; nothing if they all have.
fn bundle_change(configuration: &DynamicObject, bundle: &Value) -> Option<Value> {
    let webhooks = configuration.data.get("webhooks")?.as_array()?;
    let lacking: Vec<_> = webhooks
        .iter()
        .filter(|webhook| webhook.pointer("/clientConfig/caBundle") != Some(bundle))
        .filter_map(|webhook| webhook.get("name"))
        .map(|name| json!({"name": name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    if lacking.is_empty() {
        return None;
    }
    let version = &configuration.metadata.resource_version;
    Some(json!({"metadata": {"resourceVersion": version}, "webhooks": lacking}))
}

fn held(secret: &Secret) -> Held<'_> {
    let text = |key| {
        let data = secret.data.as_ref()?;
        data.get(key).map(|bytes| bytes.0.as_slice())
    };
    Held {
        certificate: text("tls.crt").unwrap_or_default(),
        key: text("tls.key").unwrap_or_default(),
        authorities: text("ca.crt").unwrap_or_default(),
    }
}

pub(super) fn is_ours(metadata: &ObjectMeta) -> bool {
    let annotations = metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(CREATED_BY.0))
        .is_some_and(|by| by == CREATED_BY.1)
}

/// Whether somebody else was faster.
pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn api(what: String) -> impl FnOnce(kube::Error) -> StepError {
    move |source| StepError::Api {
        what,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_webhooks_without_the_bundle_are_written_to() {
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "c", "resourceVersion": "7"},
            "webhooks": [
                {"name": "a", "clientConfig": {"caBundle": "bmV3"}},
                {"name": "b", "clientConfig": {"caBundle": "b2xk"}},
                {"name": "c", "clientConfig": {}},
            ],
        });
        let configuration: DynamicObject = serde_json::from_value(configuration).unwrap();
        let change = bundle_change(&configuration, &"bmV3".into()).unwrap();
        let names = change["webhooks"].as_array().unwrap().iter();
        let names: Vec<_> = names.map(|webhook| webhook["name"].clone()).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(change["metadata"]["resourceVersion"], "7");
        let change = bundle_change(&configuration, &"other".into()).unwrap();
        assert_eq!(change["webhooks"].as_array().unwrap().len(), 3);
    }
}
