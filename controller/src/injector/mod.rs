//! The mutating webhook: API servers ask it about Pods and Services that are being created, and it answers with patches.
//!
//! What a Pod is in and part of is known from a watch of namespaces and from its owners; what is decided of it is
//! [`crate::inject`]'s.
//!
//! | module | what |
//! |---|---|
//! | `review` | AdmissionReview, `v1` and `v1beta1`, in and out. Pure |
//! | `settings` | values and trust anchors, from files that may change |
//! | `place` | namespaces, and owners of Pods |

mod place;
mod review;
mod settings;

use crate::{
    certificates::{Keys, Source},
    events::{About, Events, Tone},
    inject::{self, At, Mesh, Skip, annotations::ANNOTATIONS},
    metrics::ControllerMetrics,
    web::{self, Page, as_json, text},
};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use kube::Client;
use linkerd_metrics::Labels;
use place::{Owned, Places};
use review::{Answer, Asked};
use serde_json::Value;
use settings::{Current, Settings};
use std::{
    io,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{net::TcpListener, sync::OnceCell};
use tokio_rustls::TlsAcceptor;

/// Largest review that is read.
const MAX_BODY: usize = 10 * 1024 * 1024;
/// How long a review may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Native sidecars are on by default from this minor version of Kubernetes on.
const NATIVE_SIDECARS: u32 = 29;

/// How the webhook is served.
#[derive(Clone, Debug)]
pub struct Injector {
    /// Where.
    pub address: std::net::SocketAddr,
    /// Where its certificates come from.
    pub certificates: Source,
    /// The chart's values, YAML; read again when they change.
    pub values: PathBuf,
    /// Trust anchors, PEM, in place of the values'; read again when they change.
    pub trust_anchors: Option<PathBuf>,
}

struct Webhook {
    client: Client,
    /// Namespace of the control plane.
    namespace: String,
    settings: Arc<Settings>,
    places: Places,
    events: Events,
    metrics: Arc<ControllerMetrics>,
    has_native_sidecars: OnceCell<bool>,
}

/// Whether Pods can be injected, for those who ask whether this process is ready.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<OnceLock<(Arc<Settings>, Arc<Keys>)>>);

impl Readiness {
    /// What is waited for.
    pub(crate) fn lacks(&self) -> Option<&'static str> {
        let Some((settings, keys)) = self.0.get() else {
            return Some("the injector's values");
        };
        if !keys.is_served() {
            return Some("the certificate of the injector's webhook");
        }
        (!settings.has_anchors()).then_some("the trust anchors that sidecars get")
    }

    fn set(&self, settings: &Arc<Settings>, keys: Arc<Keys>) {
        // There is one injector in a process.
        let _ = self.0.set((settings.clone(), keys));
    }
}

/// Serves for ever.
///
/// # Errors
/// If the values cannot be read.
pub(crate) async fn serve(
    injector: Injector,
    listener: TcpListener,
    (tls, keys, readiness): (TlsAcceptor, Arc<Keys>, Readiness),
    client: Client,
    namespace: String,
    metrics: Arc<ControllerMetrics>,
) -> io::Result<()> {
    let settings = Arc::new(Settings::open(injector.values, injector.trust_anchors)?);
    readiness.set(&settings, keys);
    let (places, watch) = Places::new(client.clone());
    let lost = metrics.events_lost.clone();
    let (events, tell) = Events::new(client.clone(), "linkerd-proxy-injector", lost);
    let webhook = Arc::new(Webhook {
        client,
        namespace,
        settings,
        places,
        events,
        metrics,
        has_native_sidecars: OnceCell::new(),
    });
    let answer = move |request| {
        let webhook = webhook.clone();
        async move { webhook.page(request).await }
    };
    tokio::join!(web::serve(listener, Some(tls), answer), watch, tell);
    Ok(())
}

impl Webhook {
    async fn page(&self, request: Request<Incoming>) -> Page {
        if request.method() != Method::POST {
            return text(StatusCode::NOT_FOUND, "reviews are POSTed to /\n");
        }
        let body = Limited::new(request.into_body(), MAX_BODY).collect();
        let body = match tokio::time::timeout(PATIENCE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => {
                let why = format!("the review cannot be read, {MAX_BODY} bytes at most: {error}\n");
                return text(StatusCode::PAYLOAD_TOO_LARGE, &why);
            }
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the review did not arrive\n"),
        };
        let review: Value = match serde_json::from_slice(&body) {
            Ok(review) => review,
            Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        };
        let answer = match review::asked(&review) {
            Some(asked) => self.answer(&asked).await,
            None => Err("the review has no request with an object".to_owned()),
        };
        if let Err(error) = &answer {
            tracing::warn!(%error, "Nothing can be said about an object");
        }
        as_json(&review::answered(&review, answer))
    }

    /// What is to be done to an object.
    async fn answer(&self, asked: &Asked<'_>) -> Result<Answer, String> {
        match asked.kind {
            "Pod" => self.pod(asked).await,
            "Service" => self.service(asked).await,
            // Whoever sends more than is registered gets it back as it is.
            _ => Ok(Answer::default()),
        }
    }

    async fn service(&self, asked: &Asked<'_>) -> Result<Answer, String> {
        let current = self.settings.current();
        let place = self.places.of(asked, None).await?;
        let patch = inject::service(&current.values, asked.object, &place);
        let labels = labels("service", asked, None, &place.annotations);
        self.metrics.injector.asked.get(&labels).inc();
        let labels = labels
            .with("skip", patch.is_empty())
            .with("skip_reason", "");
        self.metrics.injector.answered.get(&labels).inc();
        Ok(Answer {
            patch,
            warnings: Vec::new(),
        })
    }

    async fn pod(&self, asked: &Asked<'_>) -> Result<Answer, String> {
        let current = self.settings.current();
        let owner = self.places.owner(asked).await;
        let place = self.places.of(asked, owner.as_ref()).await?;
        let mesh = self.mesh().await?;
        let verdict = inject::pod(&mesh, &current.values, asked.object, &place);
        if verdict.injected.is_ok() {
            has_anchors(&current)?;
        }
        let kind = owner.as_ref().map_or("pod", |owner| owner.kind.as_str());
        let at = verdict.injected.ok();
        let labels = labels(&kind.to_lowercase(), asked, at, &place.annotations);
        self.metrics.injector.asked.get(&labels).inc();
        let is_skipped = verdict.injected.is_err() && verdict.patch.is_empty();
        let reason = verdict.injected.err().map_or("", Skip::key);
        let labels = labels.with("skip", is_skipped).with("skip_reason", reason);
        self.metrics.injector.answered.get(&labels).inc();
        self.tell(owner, asked, &verdict.injected);
        tracing::debug!(
            namespace = asked.namespace, pod = %asked.name(), reason, patch = verdict.patch.len(),
            warnings = ?verdict.warnings, "A Pod is created"
        );
        Ok(Answer {
            patch: verdict.patch,
            warnings: verdict.warnings,
        })
    }

    fn tell(&self, owner: Option<Owned>, asked: &Asked<'_>, injected: &Result<At, Skip>) {
        let Some(owner) = owner else { return };
        let (reason, message) = match injected {
            Ok(_) => ("Injected", "The sidecar was added".to_owned()),
            // Most of a cluster never asked.
            Err(Skip::NotAsked) => return,
            Err(skip) => ("InjectionSkipped", format!("No sidecar was added: {skip}")),
        };
        let about = About {
            version: owner.version,
            kind: owner.kind,
            namespace: asked.namespace.to_owned(),
            name: owner.name,
            uid: Some(owner.uid),
        };
        self.events.tell(about, Tone::Normal, reason, message);
    }

    async fn mesh(&self) -> Result<Mesh, String> {
        let asked = self.has_native_sidecars.get_or_try_init(async || {
            let version = self.client.apiserver_version().await?;
            let minor = version
                .minor
                .trim_end_matches(|last: char| !last.is_ascii_digit());
            let minor: u32 = minor.parse().unwrap_or(NATIVE_SIDECARS);
            Ok::<_, kube::Error>(version.major != "1" || minor >= NATIVE_SIDECARS)
        });
        let has_native_sidecars = *asked
            .await
            .map_err(|error| format!("the API server does not say its version: {error}"))?;
        Ok(Mesh {
            namespace: self.namespace.clone(),
            created_by: concat!("linkerd/proxy-injector ", env!("CARGO_PKG_VERSION")).to_owned(),
            has_native_sidecars,
        })
    }
}

/// A sidecar without anchors would never be ready.
fn has_anchors(current: &Current) -> Result<(), String> {
    if current.values.identity_trust_anchors_pem.trim().is_empty() {
        return Err(
            "there are no trust anchors yet: identityTrustAnchorsPEM is empty, and so is --injector-trust-anchors"
                .to_owned(),
        );
    }
    Ok(())
}

/// Where each annotation is, not what it says: users could say anything.
fn labels(
    kind: &str,
    asked: &Asked<'_>,
    at: Option<At>,
    of_namespace: &inject::Annotations,
) -> Labels {
    let at = at.map_or("", At::key);
    let own = asked.annotations();
    let mut labels = Labels::new()
        .with("owner_kind", kind)
        .with("namespace", asked.namespace)
        .with("annotation_at", at);
    for annotation in ANNOTATIONS {
        let at = if own.contains_key(annotation.key) {
            At::Workload
        } else if annotation.is_inherited && of_namespace.contains_key(annotation.key) {
            At::Namespace
        } else {
            continue;
        };
        labels = labels.with(format!("config_{}", annotation.label()), at.key());
    }
    labels
}
