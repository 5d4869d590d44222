//! One kind of object: found, listed, watched, and tried again.

use super::{Told, What, lasting};
use futures::StreamExt as _;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::PartialObjectMeta,
    discovery,
    runtime::watcher::{self, Event},
};
use linkerd_metrics::{Handle, Histogram};
use linkerd_policy::manifest::KINDS;
use serde_json::Value;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a kind that is not served, or whose group cannot be asked for, is left alone.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a kind that may not be listed is left alone.
const ALLOWED: Duration = Duration::from_secs(60);
/// Objects in one page of a list.
pub(super) const PAGE: u32 = 500;

/// Follows one kind.
pub(super) struct Watcher {
    /// Index into [`KINDS`].
    pub(super) kind: usize,
    pub(super) client: Client,
    pub(super) tell: mpsc::Sender<Told>,
    /// How long changes are on their way here; of some kinds it is not counted.
    pub(super) lag: Option<Handle<Histogram>>,
    /// What may not be listed is as good as not served.
    pub(super) may_be_forbidden: bool,
}

/// Nobody listens any more.
struct Deaf;

impl Watcher {
    /// Runs until nobody listens.
    pub(super) async fn run(self) {
        loop {
            let ended = match served(&self.client, self.kind).await {
                Ok(Some(resource)) => self.watch(&resource).await,
                Ok(None) => self.tell(What::Absent).await,
                Err(error) => self.tell(What::Failed(error.to_string().into())).await,
            };
            if ended.is_err() {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn tell(&self, what: What) -> Result<(), Deaf> {
        let told = Told {
            kind: self.kind,
            what,
        };
        self.tell.send(told).await.map_err(|_| Deaf)
    }

    /// Lists and watches until the kind is served no longer.
    async fn watch(&self, resource: &ApiResource) -> Result<(), Deaf> {
        let config = watcher::Config {
            page_size: Some(PAGE),
            ..watcher::Config::default()
        };
        let client = self.client.clone();
        let lag = self.lag.as_ref();
        // Of some kinds nothing but the metadata matters, and the rest can be large.
        let mut told = if METADATA_ONLY.contains(&resource.kind.as_str()) {
            let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, resource);
            let told = lasting::told(api, config);
            told.map(|told| what(told, lag, |object| of_metadata(object, resource)))
                .boxed()
        } else {
            let api = Api::<DynamicObject>::all_with(client, resource);
            let told = lasting::told(api, config);
            told.map(|told| what(told, lag, |object| value(object, resource)))
                .boxed()
        };
        while let Some(told) = told.next().await {
            let error = match told {
                Ok(what) => {
                    self.tell(what).await?;
                    continue;
                }
                Err(error) => error,
            };
            if self.may_be_forbidden && is_forbidden(&error) {
                tracing::debug!(kind = resource.kind, %error, "Done without");
                self.tell(What::Absent).await?;
                tokio::time::sleep(ALLOWED).await;
                return Ok(());
            }
            self.tell(What::Failed(error.to_string().into())).await?;
            if is_gone(&error) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The newest version of a kind that both sides know. `kind`: index into [`KINDS`].
pub(super) async fn served(
    client: &Client,
    kind: usize,
) -> Result<Option<ApiResource>, kube::Error> {
    let Some((group, kind, versions)) = KINDS.get(kind) else {
        return Ok(None);
    };
    let served = match discovery::group(client, group).await {
        Ok(served) => served,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let newest_first = versions.iter().rev();
    let found = newest_first.flat_map(|version| served.versioned_resources(version));
    let mut resources = found.map(|(resource, _)| resource);
    Ok(resources.find(|resource| resource.kind == *kind))
}

/// Kinds of which only the metadata is asked for.
pub(super) const METADATA_ONLY: &[&str] = &["Namespace", "Node", "ReplicaSet", "Job"];

/// What is told, or why nothing is.
fn what<K: kube::ResourceExt>(
    told: lasting::Told<K>,
    lag: Option<&Handle<Histogram>>,
    value: impl FnOnce(K) -> Value,
) -> Result<What, watcher::Error> {
    match told {
        lasting::Told::Event(event) => Ok(map(event, lag, value)),
        lasting::Told::Failed(error) => Err(error),
        lasting::Told::Resumed => Ok(What::Resumed),
    }
}

/// What is told of an event.
fn map<K: kube::ResourceExt>(
    event: Event<K>,
    lag: Option<&Handle<Histogram>>,
    value: impl FnOnce(K) -> Value,
) -> What {
    if let (Event::Apply(object), Some(lag)) = (&event, lag)
        && let Some(age) = age(object.managed_fields())
    {
        lag.observe_duration(age);
    }
    match event {
        Event::Init => What::Listing,
        Event::InitApply(object) | Event::Apply(object) => What::Object(Box::new(value(object))),
        Event::InitDone => What::Listed,
        Event::Delete(object) => What::Gone {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        },
    }
}

/// How long ago an object was changed last, as far as the API server says.
fn age(fields: &[ManagedFieldsEntry]) -> Option<Duration> {
    let times = fields.iter().filter_map(|entry| entry.time.as_ref());
    let last = times.map(|time| time.0).max()?;
    let age = Timestamp::now().duration_since(last);
    // Clocks differ.
    Some(age.try_into().unwrap_or_default())
}

/// As [`value`], of an object of which only the metadata is known.
pub(super) fn of_metadata(
    mut object: PartialObjectMeta<DynamicObject>,
    resource: &ApiResource,
) -> Value {
    object.metadata.managed_fields = None;
    let mut fields = serde_json::Map::new();
    let metadata = serde_json::to_value(object.metadata).unwrap_or_default();
    fields.insert("metadata".to_owned(), metadata);
    with_type(Value::Object(fields), resource)
}

/// What is told of an object: all but what the API server keeps for itself.
pub(super) fn value(mut object: DynamicObject, resource: &ApiResource) -> Value {
    object.metadata.managed_fields = None;
    with_type(serde_json::to_value(object).unwrap_or_default(), resource)
}

fn with_type(mut value: Value, resource: &ApiResource) -> Value {
    if let Value::Object(fields) = &mut value {
        // Items of lists come without.
        fields.insert(
            "apiVersion".to_owned(),
            resource.api_version.as_str().into(),
        );
        fields.insert("kind".to_owned(), resource.kind.as_str().into());
    }
    value
}

/// Whether the API server says that it does not serve the kind any more.
fn is_gone(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    matches!(error, InitialListFailed(error) | WatchStartFailed(error) if is_absent(error))
}

/// Whether the API server says that we may not list or watch something.
pub(super) const fn is_forbidden(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status)) => status.code == 403,
        _ => false,
    }
}

/// Whether the API server says that it does not know what was asked for.
pub(super) fn is_absent(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 404,
        kube::Error::Discovery(_) => true,
        _ => false,
    }
}
