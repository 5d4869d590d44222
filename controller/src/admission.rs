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
    resource::{GATEWAY_GROUP, POLICY_GROUP, Resource},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};
use tokio::{net::TcpListener, sync::watch, time::Duration};
use tokio_rustls::TlsAcceptor;

/// Largest review that is read: the old and the new version of the largest object, and more.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// How long a review may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
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

/// Serves for ever.
pub(crate) async fn serve(
    refuses_overlap: bool,
    listener: TcpListener,
    tls: TlsAcceptor,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let answer = move |request| {
        let snapshots = snapshots.clone();
        async move { page(request, &snapshots, refuses_overlap).await }
    };
    web::serve(listener, Some(tls), answer).await;
}

async fn page(
    request: Request<Incoming>,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
    refuses_overlap: bool,
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
    let snapshot = snapshots.borrow().clone();
    let answer = tokio::task::spawn_blocking(move || {
        answer(&review, &snapshot.index, refuses_overlap, SystemTime::now())
    });
    match answer.await {
        Ok(answer) => as_json(&answer),
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
        Some(object) if object.is_object() => judge(object.clone(), index, refuses_overlap, now),
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

fn judge(mut object: Value, index: &Index, refuses_overlap: bool, now: SystemTime) -> Verdict {
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
    let key = resource.key();
    let mut index = index.clone();
    index.apply(resource);
    let findings = index.lint_of(&key);
    let overlap = findings
        .iter()
        .find(|finding| finding.check == "server-overlap");
    if let (Some(overlap), true) = (overlap, refuses_overlap) {
        return Verdict::refused(said(overlap));
    }
    let worth = findings
        .iter()
        .filter(|finding| finding.severity < Severity::Info);
    Verdict {
        refused: None,
        warnings: worth.take(MAX_WARNINGS).map(said).collect(),
    }
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
