//! What the API server has as the statuses of objects. Kept by the keeper, read by who writes statuses.

use linkerd_policy::resource::Key;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Statuses of all objects that have one.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    state: Mutex<State>,
    touched: Notify,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Found>,
    touched: BTreeSet<Key>,
}

/// An object's status as it is, and what it takes to change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// With version.
    pub(crate) api_version: Arc<str>,
    /// A change that is made without knowing the newest one is refused.
    pub(crate) resource_version: Box<str>,
    pub(crate) status: Arc<Value>,
}

/// Kinds whose statuses are ours to write, and what their collections are called.
pub(crate) const PLURALS: [(&str, &str); 6] = [
    ("HTTPRoute", "httproutes"),
    ("GRPCRoute", "grpcroutes"),
    ("TLSRoute", "tlsroutes"),
    ("TCPRoute", "tcproutes"),
    ("HTTPLocalRateLimitPolicy", "httplocalratelimitpolicies"),
    ("EgressNetwork", "egressnetworks"),
];

impl Reported {
    /// Takes note of an object that is there.
    pub(crate) fn seen(&self, key: &Key, object: &Value) {
        if !PLURALS.iter().any(|(kind, _)| *kind == key.kind) {
            return;
        }
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let status = object.get("status").cloned().unwrap_or(Value::Null);
        let mut state = self.state();
        let before = state.objects.get(key);
        let status = match before {
            Some(before) if *before.status == status => before.status.clone(),
            _ => Arc::new(status),
        };
        let found = Found {
            api_version: text("/apiVersion").unwrap_or_default().into(),
            resource_version: text("/metadata/resourceVersion").unwrap_or_default().into(),
            status,
        };
        if before != Some(&found) {
            state.objects.insert(key.clone(), found);
            state.touched.insert(key.clone());
            drop(state);
            self.touched.notify_one();
        }
    }

    /// Takes note of an object that is gone.
    pub(crate) fn gone(&self, key: &Key) {
        self.state().objects.remove(key);
    }

    /// The status of an object.
    pub(crate) fn of(&self, key: &Key) -> Option<Found> {
        self.state().objects.get(key).cloned()
    }

    /// Waits until an object has changed, and gives all that have since the last time.
    pub(crate) async fn touched(&self) -> BTreeSet<Key> {
        loop {
            let touched = std::mem::take(&mut self.state().touched);
            if !touched.is_empty() {
                return touched;
            }
            self.touched.notified().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
