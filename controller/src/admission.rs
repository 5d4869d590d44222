//! The validating webhook: what is wrong with an object is said when it is applied, not when it has no effect.
//!
//! Objects are read by the same code that reads them afterwards, so that what is admitted can be used. What is valid and
//! cannot be meant is a warning, which `kubectl` shows; Servers that overlap are refused if so configured. Objects of the
//! Gateway API are also for other implementations: what is not understood of them is only a warning, and so is what breaks
//! a rule of ours where none of their parents is ours.
//! Source: `admission.k8s.io/v1` AdmissionReview.

use crate::{
    certificates::{Keys, Source},
    source::Snapshot,
    web::{self, Page, as_json, text},
};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use linkerd_policy::{
    index::Index,
    lint::{Finding, Severity},
    manifest,
    resource::{GATEWAY_GROUP, POLICY_GROUP, Resource, policy::Server},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Duration, Instant, timeout_at},
};
use tokio_rustls::TlsAcceptor;

/// Largest review that is read: the old and the new version of the largest object, and more.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// How long a review may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long is waited for what was admitted to be known: then it was refused by somebody else, or is gone already.
const ON_ITS_WAY: Duration = Duration::from_millis(500);
/// The API server cuts what is longer, and shows only so many.
const MAX_WARNINGS: usize = 8;

/// How the webhook is served.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Where.
    pub address: std::net::SocketAddr,
    /// Where its certificates come from.
    pub certificates: Source,
    /// Servers that overlap with an older one are refused, not only warned about.
    pub refuses_overlap: bool,
}

/// Whether the webhook can be asked, for those who ask whether this process is ready.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<OnceLock<Arc<Keys>>>);

impl Readiness {
    /// What is waited for.
    pub(crate) fn lacks(&self) -> Option<&'static str> {
        let is_served = self.0.get().is_some_and(|keys| keys.is_served());
        (!is_served).then_some("the certificates of the validating webhooks")
    }

    pub(crate) fn set(&self, keys: Arc<Keys>) {
        // There is one such webhook in a process.
        let _ = self.0.set(keys);
    }
}

/// Servers that were admitted here and are not known yet: whoever applies two in a row is not to have the second one judged
/// without the first.
#[derive(Debug, Default)]
struct Admitted(Mutex<Vec<(Instant, Server)>>);

impl Admitted {
    /// Waits until those of the namespace are known, or have been waited for long enough.
    async fn are_known(&self, namespace: &str, snapshots: &mut watch::Receiver<Arc<Snapshot>>) {
        let patience = Instant::now() + ON_ITS_WAY;
        loop {
            let all_known = {
                let snapshot = snapshots.borrow_and_update();
                let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                list.retain(|(at, server)| {
                    at.elapsed() < ON_ITS_WAY && !snapshot.index.has_server(server)
                });
                !list
                    .iter()
                    .any(|(_, server)| server.metadata.namespace == namespace)
            };
            let changed = timeout_at(patience, snapshots.changed());
            if all_known || !matches!(changed.await, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn add(&self, server: Server) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.push((Instant::now(), server));
    }
}

/// The Server that a review is about.
fn server_of(review: &Value) -> Option<Server> {
    let object = review.pointer("/request/object")?;
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let is_ours = text("apiVersion")?.starts_with(POLICY_GROUP);
    if !is_ours || text("kind") != Some("Server") {
        return None;
    }
    match manifest::from_value(object.clone()) {
        Ok(Resource::Server(server)) => Some(server),
        _ => None,
    }
}

/// Whether what a review asks for is done, if it is admitted.
fn is_lasting(review: &Value, answer: &Value) -> bool {
    let is_dry = review.pointer("/request/dryRun") == Some(&true.into());
    !is_dry && answer.pointer("/response/allowed") == Some(&true.into())
}

/// Serves for ever.
pub(crate) async fn serve(
    refuses_overlap: bool,
    listener: TcpListener,
    tls: TlsAcceptor,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let admitted = Arc::new(Admitted::default());
    let answer = move |request| {
        let (snapshots, admitted) = (snapshots.clone(), admitted.clone());
        async move { page(request, snapshots, refuses_overlap, &admitted).await }
    };
    web::serve(listener, Some(tls), answer).await;
}

async fn page(
    request: Request<Incoming>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    refuses_overlap: bool,
    admitted: &Admitted,
) -> Page {
    if request.method() != Method::POST || request.uri().path() != "/" {
        return text(StatusCode::NOT_FOUND, "reviews are POSTed to /\n");
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let body = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the review did not arrive\n"),
    };
    let review: Value = match serde_json::from_slice(&body) {
        Ok(review) => review,
        Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    let server = server_of(&review);
    if let Some(server) = &server {
        let namespace = &server.metadata.namespace;
        admitted.are_known(namespace, &mut snapshots).await;
    }
    let snapshot = snapshots.borrow().clone();
    let answer = tokio::task::spawn_blocking(move || {
        let now = SystemTime::now();
        let answer = answer(&review, &snapshot.index, refuses_overlap, now);
        let server = server.filter(|_| is_lasting(&review, &answer));
        (answer, server)
    });
    match answer.await {
        Ok((answer, server)) => {
            server.into_iter().for_each(|server| admitted.add(server));
            as_json(&answer)
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

/// What is said about an object.
struct Verdict {
    /// Why it is refused, if it is.
    refused: Option<String>,
    warnings: Vec<String>,
}

impl Verdict {
    const fn refused(why: String) -> Self {
        Self {
            refused: Some(why),
            warnings: Vec::new(),
        }
    }
}

/// The answer to a review. Pure: what is judged by is the index.
pub fn answer(review: &Value, index: &Index, refuses_overlap: bool, now: SystemTime) -> Value {
    let request = review.get("request").unwrap_or(&Value::Null);
    let verdict = match request.get("object") {
        Some(object) if object.is_object() => {
            let (new, old) = (object.clone(), request.get("oldObject"));
            judge(new, old, index, refuses_overlap, now)
        }
        // Nothing is wrong with taking an object away.
        _ if request.get("operation") == Some(&"DELETE".into()) => Verdict {
            refused: None,
            warnings: Vec::new(),
        },
        _ => Verdict::refused("admission request missing 'object'".to_owned()),
    };
    let mut response = json!({
        "uid": request.get("uid").cloned().unwrap_or_default(),
        "allowed": verdict.refused.is_none(),
        "warnings": verdict.warnings,
    });
    if let (Some(message), Value::Object(response)) = (verdict.refused, &mut response) {
        let status = json!({"code": 400, "message": message, "reason": "Invalid"});
        response.insert("status".to_owned(), status);
    }
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    })
}

fn judge(
    mut object: Value,
    old: Option<&Value>,
    index: &Index,
    refuses_overlap: bool,
    now: SystemTime,
) -> Verdict {
    let version = object.get("apiVersion").and_then(Value::as_str);
    let version = version.unwrap_or_default().to_owned();
    // Others read it as well, so that more is said in it than we understand.
    let is_shared = version.starts_with(GATEWAY_GROUP);
    let is_ours = !is_shared || names_ours(&object);
    // It is as old as it will be, so that what it is compared with is older.
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        let created = metadata.get("creationTimestamp");
        if created.is_none_or(Value::is_null)
            && let Ok(now) = rfc3339(now)
        {
            metadata.insert("creationTimestamp".to_owned(), now.into());
        }
    }
    let resource = match manifest::from_value(object) {
        Ok(Resource::Other { key }) => {
            let (group, version) = version.split_once('/').unwrap_or(("core", &version));
            let kind = &key.kind;
            return Verdict::refused(format!(
                "unsupported resource type: {group}.{version}.{kind}"
            ));
        }
        Ok(resource) => resource,
        Err(error) => {
            let text = match error.field.as_str() {
                "" => error.reason,
                field => format!("{field}: {}", error.reason),
            };
            return if is_shared && !(error.is_rule && is_ours) {
                Verdict {
                    refused: None,
                    warnings: vec![format!("not used by this mesh: {text}")],
                }
            } else {
                Verdict::refused(text)
            };
        }
    };
    if let (Resource::Server(server), true) = (&resource, refuses_overlap)
        && let Some(other) = overlaps(server, old, index)
    {
        return Verdict::refused(format!(
            "server-overlap: Server {other} selects port {} of the same workloads, and only the older one of the two keeps \
             it; merge it with {other}, or make the selectors exclude each other",
            server.spec.port
        ));
    }
    let key = resource.key();
    let mut index = index.clone();
    index.apply(resource);
    let findings = index.lint_of(&key);
    let worth = findings
        .iter()
        .filter(|finding| finding.severity < Severity::Info);
    Verdict {
        refused: None,
        warnings: worth.take(MAX_WARNINGS).map(said).collect(),
    }
}

/// Another Server that a new one overlaps with, or that a change makes overlap. Where they did so before, the change is not
/// to blame: an object that is not admitted any more could not even be put right in steps, or let go of its finalizers.
fn overlaps(server: &Server, old: Option<&Value>, index: &Index) -> Option<String> {
    let old = old.filter(|old| old.is_object()).cloned();
    let before = match old.map(manifest::from_value) {
        Some(Ok(Resource::Server(old))) => index.overlapping(&old),
        _ => Vec::new(),
    };
    let others = index.overlapping(server).into_iter();
    others.into_iter().find(|other| !before.contains(other))
}

/// Whether a route of the Gateway API has a parent that is ours to judge.
fn names_ours(route: &Value) -> bool {
    let parents = route.pointer("/spec/parentRefs").and_then(Value::as_array);
    parents.into_iter().flatten().any(|parent| {
        let text = |name: &str| parent.get(name).and_then(Value::as_str);
        let kind = text("kind").unwrap_or_default();
        match text("group").unwrap_or_default() {
            "" | "core" => kind == "Service",
            POLICY_GROUP => matches!(kind, "Server" | "EgressNetwork"),
            _ => false,
        }
    })
}

fn said(finding: &Finding) -> String {
    format!("{}: {}; {}", finding.check, finding.message, finding.fix)
}

fn rfc3339(at: SystemTime) -> Result<String, time::error::Format> {
    time::OffsetDateTime::from(at).format(&time::format_description::well_known::Rfc3339)
}

#[cfg(test)]
mod tests;
