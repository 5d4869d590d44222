//! A client of a controller: reconnecting gRPC connections to its replicas.
//!
//! Used by `policy`, `identity` and `destination`, and for spans. Loopback controllers are spoken to in plaintext, others
//! by mesh TLS with the expected identity: without a client certificate before the first certification, with it
//! afterwards. While somebody wants a connection it is retried without end; a controller that cannot be reached is tried
//! about once a second, so that callers go on at most that long after it is back.
//!
//! | file | what |
//! |---|---|
//! | `replicas` | the addresses that the name has, a connection to each, the choice among them |
//! | `connect` | one connection |
//! | `watched` | a response, counted |
//!
//! A [`ControlClient`] is the transport of the generated clients; it must be made within a runtime, where its tasks run.

mod connect;
mod replicas;
mod watched;

use self::{connect::ConnectError, replicas::Replicas, watched::WatchedBody};
use super::{
    dns::Resolver,
    metrics::{ClientMetrics, ResponseEnd},
};
use crate::config::{Backoff, ControlAddr};
use linkerd_tls::LocalIdentity;
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tonic::body::Body;

/// Longest pause between two TCP connects: a SYN costs next to nothing, and the controller is missed.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(1);
/// How long a call waits for a connection; streams are not called before there is one.
const CONNECTION_WAIT: Duration = Duration::from_secs(30);
/// Pause between two log lines about the same trouble.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// How a controller is reached.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// `identity`, `policy` or `destination`, as metrics and logs call it.
    pub(crate) name: &'static str,
    pub(crate) addr: ControlAddr,
    /// TCP and TLS together.
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) resolver: Resolver,
}

/// A client; a clone is another user of the same connections.
#[derive(Clone, Debug)]
pub(crate) struct ControlClient {
    shared: Arc<Shared>,
    /// Since when the next call waits.
    since: Option<Instant>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    origin: http::Uri,
    identity: Arc<LocalIdentity>,
    metrics: Arc<ClientMetrics>,
    replicas: Arc<Replicas>,
    /// The failure that was last logged, and when.
    logged: Mutex<Option<(&'static str, Instant)>>,
}

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no connection to the {0} controller within {CONNECTION_WAIT:?}")]
    NotConnected(&'static str),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

impl ControlClient {
    /// A client whose connections are made when the first is wanted. Must be called within a runtime.
    pub(crate) fn new(
        endpoint: Endpoint,
        identity: Arc<LocalIdentity>,
        metrics: Arc<ClientMetrics>,
    ) -> Self {
        let origin = http::Uri::builder()
            .scheme("http")
            .authority(endpoint.addr.addr.to_string())
            .path_and_query("/")
            .build()
            .unwrap_or_default();
        let (series, connected) = metrics.balancer();
        let shared = Arc::new(Shared {
            endpoint,
            origin,
            identity,
            metrics,
            replicas: Replicas::new(series, connected),
            logged: Mutex::default(),
        });
        tokio::spawn(replicas::follow(shared.clone()));
        Self {
            shared,
            since: None,
        }
    }

    /// What requests' URIs begin with: the generated clients need it.
    pub(crate) fn origin(&self) -> http::Uri {
        self.shared.origin.clone()
    }

    /// Pauses between attempts on this controller.
    pub(crate) fn backoff(&self) -> Backoff {
        self.shared.endpoint.backoff
    }

    pub(crate) fn metrics(&self) -> &ClientMetrics {
        &self.shared.metrics
    }

    /// Whether there is a connection now.
    pub(crate) fn is_connected(&self) -> bool {
        self.shared.replicas.is_connected()
    }

    /// Waits until there is a connection; gives a client for one call, which counts as waiting since now.
    pub(crate) async fn connected(&self) -> Self {
        let since = Instant::now();
        let replicas = &self.shared.replicas;
        let lease = tokio::time::timeout(CONNECTION_WAIT, replicas.lease()).await;
        if lease.is_err() {
            replicas.shut();
            drop(replicas.lease().await);
        }
        Self {
            shared: self.shared.clone(),
            since: Some(since),
        }
    }
}

impl Shared {
    /// Logs a failure, unless the same kind was logged a moment ago: a controller that is away would fill the log.
    fn log(&self, error: &ConnectError, pause: Duration) {
        let (now, reason) = (Instant::now(), error.reason());
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = logged
            .is_some_and(|(last, at)| last == reason && now.duration_since(at) < LOG_INTERVAL);
        if is_known {
            return;
        }
        *logged = Some((reason, now));
        drop(logged);
        tracing::warn!(client = self.endpoint.name, %error, retry = ?pause, "No connection to the controller; retrying");
    }
}

impl tower::Service<http::Request<Body>> for ControlClient {
    type Response = http::Response<WatchedBody>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, CallError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let started = Instant::now();
        let since = self.since.take().unwrap_or(started);
        let shared = self.shared.clone();
        Box::pin(async move {
            let metrics = shared.metrics.clone();
            metrics.request();
            let lease = tokio::time::timeout(CONNECTION_WAIT, shared.replicas.lease()).await;
            shared.replicas.asked(since);
            let Ok((mut connection, lease)) = lease else {
                shared.replicas.shut();
                metrics.response(&ResponseEnd::Failed("timeout"));
                return Err(CallError::NotConnected(shared.endpoint.name));
            };
            let response = connection.send_request(request).await.inspect_err(|_| {
                metrics.response(&ResponseEnd::Failed("unclassified"));
            })?;
            Ok(WatchedBody::of(response, lease, metrics, started))
        })
    }
}

#[cfg(test)]
mod tests;
