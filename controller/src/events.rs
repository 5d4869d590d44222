//! Events: what `kubectl describe` shows of an object. The same is said of an object once in a while only, and an API server
//! that is slow never holds up an answer.

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use linkerd_metrics::{Counter, Handle};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Events that wait to be told; of more, none is kept.
const QUEUE: usize = 256;
/// The same is said of the same object only so often.
const AGAIN: Duration = Duration::from_secs(5 * 60);
/// What was said that is remembered; of more, all is said again.
const MAX_RECENT: usize = 4096;
/// Pause between two events: five in a second at most.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an API server may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct About {
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Which of those that had the name; `kubectl describe` wants it.
    pub(crate) uid: Option<String>,
}

/// How an event is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Normal,
    Warning,
}

struct Told {
    about: About,
    tone: Tone,
    reason: &'static str,
    message: String,
}

/// Where events go.
pub(crate) struct Events {
    queue: mpsc::Sender<Told>,
    recent: Mutex<HashMap<(About, &'static str, String), Instant>>,
    lost: Handle<Counter>,
}

impl Events {
    /// With what tells the API server of them, for ever.
    pub(crate) fn new(
        client: Client,
        component: &'static str,
        lost: Handle<Counter>,
    ) -> (Self, impl Future<Output = ()>) {
        let (queue, mut told) = mpsc::channel(QUEUE);
        let events = Self {
            queue,
            recent: Mutex::default(),
            lost: lost.clone(),
        };
        let tell = async move {
            while let Some(told) = told.recv().await {
                if let Err(error) = post(&client, component, told).await {
                    lost.inc();
                    tracing::debug!(error, "An event was not told");
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        (events, tell)
    }

    pub(crate) fn tell(&self, about: About, tone: Tone, reason: &'static str, message: String) {
        if !self.is_news(&about, reason, &message, Instant::now()) {
            return;
        }
        let told = Told {
            about,
            tone,
            reason,
            message,
        };
        if self.queue.try_send(told).is_err() {
            self.lost.inc();
        }
    }

    fn is_news(&self, about: &About, reason: &'static str, message: &str, now: Instant) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (about.clone(), reason, message.to_owned());
        let last = recent.get(&key);
        if last.is_some_and(|last| now.saturating_duration_since(*last) < AGAIN) {
            return false;
        }
        if recent.len() >= MAX_RECENT {
            recent.clear();
        }
        recent.insert(key, now);
        true
    }
}

async fn post(client: &Client, component: &str, told: Told) -> Result<(), String> {
    let now = Time(Timestamp::now());
    let about = told.about;
    let namespace = about.namespace;
    let event = Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", about.name)),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(about.version),
            kind: Some(about.kind),
            name: Some(about.name),
            namespace: Some(namespace.clone()),
            uid: about.uid,
            ..ObjectReference::default()
        },
        type_: Some(format!("{:?}", told.tone)),
        reason: Some(told.reason.to_owned()),
        message: Some(told.message),
        source: Some(EventSource {
            component: Some(component.to_owned()),
            ..EventSource::default()
        }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    };
    let api = Api::<Event>::namespaced(client.clone(), &namespace);
    let params = PostParams::default();
    match tokio::time::timeout(LIMIT, api.create(&params, &event)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {LIMIT:?}")),
    }
}
