//! Tells owners what became of their Pods: Events that `kubectl describe` shows. A thousand Pods of one Deployment are
//! told of once in a while, and an API server that is slow never holds up an answer.

use super::place::Owned;
use crate::metrics::ControllerMetrics;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Events that wait to be told; of more, none is kept.
const QUEUE: usize = 256;
/// The same is said of the same owner only so often.
const AGAIN: Duration = Duration::from_secs(5 * 60);
/// Owners that are remembered; of more, all are told again.
const MAX_OWNERS: usize = 4096;
/// Pause between two events: five in a second at most.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an API server may take.
const LIMIT: Duration = Duration::from_secs(5);

struct Told {
    owner: Owned,
    namespace: String,
    reason: &'static str,
    message: String,
}

/// Where events go.
pub(super) struct Events {
    queue: mpsc::Sender<Told>,
    recent: Mutex<HashMap<(String, &'static str, String), Instant>>,
    metrics: Arc<ControllerMetrics>,
}

impl Events {
    /// With what tells the API server of them, for ever.
    pub(super) fn new(
        client: Client,
        metrics: Arc<ControllerMetrics>,
    ) -> (Self, impl Future<Output = ()>) {
        let (queue, mut told) = mpsc::channel(QUEUE);
        let events = Self {
            queue,
            recent: Mutex::default(),
            metrics: metrics.clone(),
        };
        let tell = async move {
            while let Some(told) = told.recv().await {
                if let Err(error) = post(&client, told).await {
                    metrics.injector.events_lost.inc();
                    tracing::debug!(error, "An event was not told");
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        (events, tell)
    }

    pub(super) fn tell(
        &self,
        owner: Owned,
        namespace: &str,
        reason: &'static str,
        message: String,
    ) {
        if !self.is_news(&owner, reason, &message, Instant::now()) {
            return;
        }
        let told = Told {
            owner,
            namespace: namespace.to_owned(),
            reason,
            message,
        };
        if self.queue.try_send(told).is_err() {
            self.metrics.injector.events_lost.inc();
        }
    }

    fn is_news(&self, owner: &Owned, reason: &'static str, message: &str, now: Instant) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (owner.uid.clone(), reason, message.to_owned());
        let last = recent.get(&key);
        if last.is_some_and(|last| now.saturating_duration_since(*last) < AGAIN) {
            return false;
        }
        if recent.len() >= MAX_OWNERS {
            recent.clear();
        }
        recent.insert(key, now);
        true
    }
}

async fn post(client: &Client, told: Told) -> Result<(), String> {
    let now = Time(Timestamp::now());
    let event = Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", told.owner.name)),
            namespace: Some(told.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(told.owner.version),
            kind: Some(told.owner.kind),
            name: Some(told.owner.name),
            namespace: Some(told.namespace.clone()),
            uid: Some(told.owner.uid),
            ..ObjectReference::default()
        },
        type_: Some("Normal".to_owned()),
        reason: Some(told.reason.to_owned()),
        message: Some(told.message),
        source: Some(EventSource {
            component: Some("linkerd-proxy-injector".to_owned()),
            ..EventSource::default()
        }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    };
    let api = Api::<Event>::namespaced(client.clone(), &told.namespace);
    let params = PostParams::default();
    match tokio::time::timeout(LIMIT, api.create(&params, &event)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {LIMIT:?}")),
    }
}
