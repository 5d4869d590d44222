//! What a Pod is in and part of: its namespace's annotations, from a watch, and its owner's owner, from the API server.

use super::review::Asked;
use crate::{
    inject::{Annotations, Owner, Place},
    kubernetes::lasting,
};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::{
    api::{apps::v1::ReplicaSet, batch::v1::Job, core::v1::Namespace},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How long a namespace, which may have been made a moment ago, and an owner are waited for. API servers wait for 10 s.
const LIMIT: Duration = Duration::from_secs(4);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// Owners that are remembered; of more, all are asked for again.
const MAX_OWNERS: usize = 4096;

type Meta = PartialObjectMeta<Namespace>;

/// What a Pod belongs to in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl From<OwnerReference> for Owned {
    fn from(reference: OwnerReference) -> Self {
        Self {
            version: reference.api_version,
            kind: reference.kind,
            name: reference.name,
            uid: reference.uid,
        }
    }
}

/// What is known of namespaces and owners.
pub(super) struct Places {
    client: Client,
    namespaces: Store<Meta>,
    /// By the uid of who is asked for: who it belongs to.
    owners: Mutex<HashMap<String, Option<Owned>>>,
}

impl Places {
    /// With what keeps it up to date, for ever.
    pub(super) fn new(client: Client) -> (Self, impl Future<Output = ()>) {
        let writer = reflector::store::Writer::<Meta>::default();
        let places = Self {
            namespaces: writer.as_reader(),
            client: client.clone(),
            owners: Mutex::default(),
        };
        let api = Api::<Meta>::all(client);
        let events = lasting::events(api, watcher::Config::default())
            .map_ok(|event| event.modify(|object| object.metadata.managed_fields = None))
            .reflect(writer);
        let watch = events.for_each(async |event| {
            if let Err(error) = event {
                tracing::warn!(%error, "Namespaces are not watched for now: what is known of them stays");
            }
        });
        (places, watch)
    }

    /// What an object is in and part of.
    ///
    /// # Errors
    /// If its namespace is not known in time.
    pub(super) async fn of(
        &self,
        asked: &Asked<'_>,
        owner: Option<&Owned>,
    ) -> Result<Place, String> {
        Ok(Place {
            namespace: asked.namespace.to_owned(),
            annotations: self.annotations(asked.namespace).await?,
            owner: owner.map(|owner| Owner {
                kind: owner.kind.clone(),
                name: owner.name.clone(),
            }),
        })
    }

    async fn annotations(&self, namespace: &str) -> Result<Annotations, String> {
        let key = ObjectRef::<Meta>::new(namespace);
        let look = async {
            let mut every = tokio::time::interval(LOOK);
            loop {
                every.tick().await;
                if let Some(object) = self.namespaces.get(&key) {
                    return object.annotations().clone();
                }
            }
        };
        tokio::time::timeout(LIMIT, look)
            .await
            .map_err(|_| format!("nothing is known of the namespace `{namespace}` after {LIMIT:?}"))
    }

    /// What a Pod belongs to: its controller, or that one's controller. `None` for a Pod of its own.
    pub(super) async fn owner(&self, asked: &Asked<'_>) -> Option<Owned> {
        let references = asked.object.pointer("/metadata/ownerReferences")?;
        let references = references.as_array()?.iter();
        let mut of = references.filter(|reference| reference["controller"] == Value::Bool(true));
        let owner: OwnerReference = serde_json::from_value(of.next()?.clone()).ok()?;
        let owner = Owned::from(owner);
        match self.parent(asked.namespace, &owner).await {
            Ok(parent) => Some(parent.unwrap_or(owner)),
            Err(error) => {
                tracing::warn!(
                    namespace = asked.namespace,
                    kind = owner.kind,
                    name = owner.name,
                    error,
                    "An owner's owner is not known: the Pod says that it belongs to the nearer one"
                );
                Some(owner)
            }
        }
    }

    fn remembered(&self, uid: &str) -> Option<Option<Owned>> {
        let known = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(uid).cloned()
    }

    async fn parent(&self, namespace: &str, owner: &Owned) -> Result<Option<Owned>, String> {
        if let Some(parent) = self.remembered(&owner.uid) {
            return Ok(parent);
        }
        let client = self.client.clone();
        let ask = async {
            let metadata = match owner.kind.as_str() {
                "ReplicaSet" => {
                    let api = Api::<ReplicaSet>::namespaced(client, namespace);
                    api.get_metadata(&owner.name).await?.metadata
                }
                "Job" => {
                    let api = Api::<Job>::namespaced(client, namespace);
                    api.get_metadata(&owner.name).await?.metadata
                }
                _ => return Ok(None),
            };
            let references = metadata.owner_references.unwrap_or_default();
            let mut controllers = references
                .into_iter()
                .filter(|reference| reference.controller == Some(true));
            Ok::<_, kube::Error>(controllers.next().map(Owned::from))
        };
        let parent = tokio::time::timeout(LIMIT, ask)
            .await
            .map_err(|_| format!("no answer in {LIMIT:?}"))?
            .map_err(|error| error.to_string())?;
        let mut known = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_OWNERS {
            known.clear();
        }
        known.insert(owner.uid.clone(), parent.clone());
        Ok(parent)
    }
}
