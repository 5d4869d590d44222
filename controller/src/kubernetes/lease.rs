//! Which of several replicas writes: who holds a Lease. One is for statuses, another for EndpointSlices.
//!
//! The holder renews three times within the Lease's duration, and stops writing a margin before it would run out, by its
//! own clock: from before it asked. Others wait until the Lease has stood still for its duration, by their clocks, so that
//! clocks need not agree. A Lease that is lost is tried for again; the process goes on, since all else that it does needs
//! no Lease. Source: control plane §2.11, `coordination.k8s.io/v1`.

use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// A Lease. Its name is one that control planes of this kind have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(super) name: &'static str,
    /// Who changes it, by name.
    manager: &'static str,
    /// What its holder writes.
    what: &'static str,
}

/// Who writes statuses.
pub(crate) const STATUSES: Kind = Kind {
    name: "policy-controller-write",
    manager: "policy-controller",
    what: "statuses",
};

/// Who writes EndpointSlices of ExternalWorkloads.
pub(crate) const SLICES: Kind = Kind {
    name: "linkerd-destination-endpoint-write",
    manager: "linkerd-destination",
    what: "EndpointSlices of ExternalWorkloads",
};

/// How the Lease is held.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// The name of this replica: no other may have it.
    pub claimant: String,
    /// How long the Lease holds without being renewed.
    pub duration: Duration,
    /// The Deployment that owns the Lease.
    pub deployment: String,
}

/// Until when this replica may write; `None`: it may not.
pub(crate) type Held = Option<Instant>;

/// Tries for the Lease, and renews it, until `ending`; then lets go of it.
pub(crate) async fn hold(
    lease: Kind,
    settings: Leadership,
    namespace: String,
    client: Client,
    tell: watch::Sender<Held>,
    mut ending: watch::Receiver<bool>,
) {
    let mut candidate = Candidate {
        lease,
        leases: Api::namespaced(client.clone(), &namespace),
        deployments: Api::namespaced(client, &namespace),
        namespace,
        settings,
        seen: None,
        failure: String::new(),
    };
    loop {
        // A try is not given up half way: what it wrote is to be known when it comes to letting go.
        let rest = candidate.once(&tell).await;
        tokio::select! {
            () = sleep(rest) => {}
            () = async { drop(ending.wait_for(|ending| *ending).await) } => {
                if tell.send_replace(None).is_some() {
                    candidate.release().await;
                }
                return;
            }
        }
    }
}

struct Candidate {
    lease: Kind,
    leases: Api<Lease>,
    deployments: Api<Deployment>,
    namespace: String,
    settings: Leadership,
    /// The resource version that somebody else's Lease was last seen with, and since when.
    seen: Option<(String, Instant)>,
    /// What was last complained about.
    failure: String,
}

/// What came of a try.
enum Tried {
    /// It is ours.
    Held,
    /// Somebody else has it, or was faster.
    Theirs(String),
}

impl Candidate {
    /// One try; the time until the next.
    async fn once(&mut self, tell: &watch::Sender<Held>) -> Duration {
        let (duration, began) = (self.settings.duration, Instant::now());
        let pause = duration / 3;
        let tried = timeout(pause, self.try_for()).await;
        let tried = tried.unwrap_or_else(|_| Err(format!("no answer in {pause:?}")));
        match tried {
            Ok(Tried::Held) => {
                self.failure.clear();
                // What is begun must have ended when another may begin.
                let until = Some(began + duration * 5 / 6);
                if tell.send_replace(until).is_none() {
                    tracing::info!(
                        claimant = self.settings.claimant,
                        lease = self.lease.name,
                        "Writes {}",
                        self.lease.what
                    );
                }
            }
            Ok(Tried::Theirs(holder)) => {
                self.failure.clear();
                if tell.send_replace(None).is_some() {
                    tracing::warn!(
                        holder,
                        lease = self.lease.name,
                        "Writes {} no longer: the Lease is lost",
                        self.lease.what
                    );
                }
            }
            // What was held runs out by itself.
            Err(error) => self.failed(error),
        }
        pause.saturating_sub(began.elapsed())
    }

    fn failed(&mut self, failure: String) {
        if self.failure != failure {
            tracing::warn!(
                lease = self.lease.name,
                namespace = self.namespace,
                error = failure,
                "Cannot try for the Lease"
            );
            self.failure = failure;
        }
    }

    async fn try_for(&mut self) -> Result<Tried, String> {
        let found = self.leases.get_opt(self.lease.name).await;
        let Some(mut lease) = found.map_err(|error| error.to_string())? else {
            let lease = self.new_lease().await?;
            let created = self.leases.create(&self.params(), &lease).await;
            return self.won(created);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let is_ours = holder == self.settings.claimant;
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if !is_ours && !holder.is_empty() {
            let lasts = spec.lease_duration_seconds.unwrap_or_default();
            let lasts = Duration::from_secs(lasts.max(1).unsigned_abs().into());
            let since = match &self.seen {
                Some((seen, since)) if *seen == version => *since,
                _ => Instant::now(),
            };
            self.seen = Some((version, since));
            if since.elapsed() < lasts {
                return Ok(Tried::Theirs(holder));
            }
        }
        let transitions = spec.lease_transitions.unwrap_or_default();
        let acquired = serde_json::to_value(&spec.acquire_time).unwrap_or_default();
        let claim = if is_ours {
            self.claim(transitions, &acquired)
        } else {
            self.claim(transitions.saturating_add(1), &now())
        };
        lease.spec = Some(parsed(claim)?);
        let replaced = self
            .leases
            .replace(self.lease.name, &self.params(), &lease)
            .await;
        self.won(replaced)
    }

    fn won(&mut self, written: Result<Lease, kube::Error>) -> Result<Tried, String> {
        match written {
            Ok(_) => {
                self.seen = None;
                Ok(Tried::Held)
            }
            // Somebody was faster; who, the next look tells.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Tried::Theirs(String::new())),
            Err(error) => Err(error.to_string()),
        }
    }

    fn claim(&self, transitions: i32, acquired: &Value) -> Value {
        json!({
            "holderIdentity": self.settings.claimant,
            "leaseDurationSeconds": self.settings.duration.as_secs(),
            "acquireTime": acquired,
            "renewTime": now(),
            "leaseTransitions": transitions,
        })
    }

    async fn new_lease(&self) -> Result<Lease, String> {
        let mut metadata = json!({
            "name": self.lease.name, "namespace": self.namespace,
            "labels": {
                "linkerd.io/control-plane-component": "destination",
                "linkerd.io/control-plane-ns": self.namespace,
            },
        });
        let name = &self.settings.deployment;
        // The Lease goes with the Deployment, where there is one that may be read.
        if let Ok(Some(owner)) = self.deployments.get_opt(name).await
            && let (Some(uid), Value::Object(metadata)) = (owner.metadata.uid, &mut metadata)
        {
            let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": uid, "controller": true}]);
            metadata.insert("ownerReferences".to_owned(), owner);
        }
        parsed(json!({"metadata": metadata, "spec": self.claim(0, &now())}))
    }

    /// Lets go of the Lease, so that nobody need wait until it runs out.
    async fn release(&self) {
        let Ok(mut lease) = self.leases.get(self.lease.name).await else {
            return;
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() == Some(&self.settings.claimant) {
            spec.holder_identity = None;
            let _ = self
                .leases
                .replace(self.lease.name, &self.params(), &lease)
                .await;
        }
    }

    fn params(&self) -> PostParams {
        PostParams {
            field_manager: Some(self.lease.manager.to_owned()),
            ..PostParams::default()
        }
    }
}

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// As `MicroTime` has it.
fn now() -> Value {
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
    );
    let now = time::OffsetDateTime::from(SystemTime::now());
    now.format(&format).map(Value::from).unwrap_or_default()
}
