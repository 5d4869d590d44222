//! A connection's life on the outbound side, from the application to another workload.
//!
//! ```text
//! accept on a listener for a named destination -> what is known of it (waits for a first answer, bounded)
//!   -> opaque by profile: relay at once | else protocol, by detection
//!   -> HTTP: an endpoint for each request, mTLS, HTTP/1 carried in HTTP/2 | else one endpoint, mTLS, relay
//! ```
//!
//! One endpoint is used at a time: the first that can be connected to. Balancing, routing and retries have their place
//! between [`Worker::pick`] and the client.

mod http;

use crate::{
    discovery::destination::{Destination, Endpoint},
    drain::Drain,
    http::{
        Http2Settings,
        client::{self, Client, ClientError, Dial, Mesh},
    },
    inbound::metrics::Transport,
    transport::{Io, detect, header::TransportHeader, relay::relay},
};
use bytes::BytesMut;
use linkerd_metrics::{Counter, Family, Labels, Registry, describe};
use linkerd_tls::LocalIdentity;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// What the outbound side is told by configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) detect_timeout: Duration,
    /// How long a connection waits until its destination is known.
    pub(crate) discovery_wait: Duration,
    pub(crate) max_head: usize,
    pub(crate) http2: Http2Settings,
    pub(crate) client: Arc<client::Settings>,
}

/// The outbound side: what all workers share.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) settings: Settings,
    pub(crate) identity: Arc<LocalIdentity>,
    pub(crate) metrics: OutboundMetrics,
}

/// The outbound families.
#[derive(Clone, Debug)]
pub(crate) struct OutboundMetrics {
    pub(crate) tcp: crate::inbound::InboundMetrics,
    requests: Family<Counter>,
    responses: Family<Counter>,
    http_errors: Family<Counter>,
    tcp_errors: Family<Counter>,
}

impl OutboundMetrics {
    pub(crate) fn register(registry: &Registry, tcp: crate::inbound::InboundMetrics) -> Self {
        Self {
            tcp,
            requests: registry.counters(&describe::REQUEST_TOTAL),
            responses: registry.counters(&describe::RESPONSE_TOTAL),
            http_errors: registry.counters(&describe::OUTBOUND_HTTP_ERRORS_TOTAL),
            tcp_errors: registry.counters(&describe::OUTBOUND_TCP_ERRORS_TOTAL),
        }
    }
}

/// The outbound side on one thread.
#[derive(Debug)]
pub(crate) struct Worker {
    outbound: Arc<Outbound>,
    drain: Drain,
    clients: Mutex<HashMap<Dial, Arc<Client>>>,
    source: Arc<Transport>,
}

/// Why an outbound connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0} is not known yet")]
    Unknown(String),
    #[error("{0} has no endpoints")]
    NoEndpoints(String),
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Relay(#[from] crate::transport::relay::RelayError),
    #[error("HTTP: {0}")]
    Http(hyper::Error),
}

impl Worker {
    pub(crate) fn new(outbound: Arc<Outbound>, drain: Drain) -> Arc<Self> {
        let labels = Labels::new()
            .with("direction", "outbound")
            .with("peer", "src")
            .with("tls", "no_identity")
            .with("no_tls_reason", "loopback");
        let source = Arc::new(outbound.metrics.tcp.transport_of(labels));
        Arc::new(Self {
            outbound,
            drain,
            clients: Mutex::default(),
            source,
        })
    }

    /// Serves one accepted connection to its end, and counts how it failed if it did.
    pub(crate) async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        destination: Arc<Destination>,
    ) {
        if let Err(error) = Box::pin(self.serve(stream, &destination)).await {
            tracing::debug!(destination = destination.name(), %error, "Outbound connection failed");
            let label = match error {
                ConnectionError::Io(_) | ConnectionError::Relay(_) | ConnectionError::Client(_) => {
                    "i/o"
                }
                _ => "unexpected",
            };
            self.outbound
                .metrics
                .tcp_errors
                .get(&Labels::new().with("error", label))
                .inc();
        }
    }

    /// A connection's life.
    async fn serve(
        self: &Arc<Self>,
        stream: TcpStream,
        destination: &Arc<Destination>,
    ) -> Result<(), ConnectionError> {
        let is_known = destination
            .ready(self.outbound.settings.discovery_wait)
            .await;
        if !is_known {
            tracing::info!(
                destination = destination.name(),
                "The control plane has not answered in time"
            );
        }
        let mut io = Io::tcp(stream, BytesMut::new());
        io.meter(self.source.meter());
        let _open = self.source.open();
        let version = if destination.current().is_opaque {
            None
        } else {
            self.detect(&mut io).await?
        };
        match version {
            Some(version) => http::serve(self, destination.clone(), io, version).await,
            None => self.opaque(io, destination, is_known).await,
        }
    }

    async fn detect(&self, io: &mut Io) -> Result<Option<detect::Http>, ConnectionError> {
        let mut read = BytesMut::new();
        let limit = self.outbound.settings.detect_timeout;
        let detected = tokio::time::timeout(limit, detect::http(io, &mut read)).await;
        io.replay(read);
        match detected {
            Ok(Ok(detect::Detected::Http(version))) => Ok(Some(version)),
            Ok(Ok(detect::Detected::Eof)) => {
                Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
            }
            Ok(Ok(detect::Detected::NotHttp)) | Err(_) => Ok(None),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// Relays bytes to the first endpoint that can be connected to.
    async fn opaque(
        &self,
        mut io: Io,
        destination: &Destination,
        is_known: bool,
    ) -> Result<(), ConnectionError> {
        let endpoints = destination.current().clone();
        let mut last = None;
        for endpoint in &endpoints.endpoints {
            match self.client(endpoint, true).connect().await {
                Ok((mut far, _open)) => {
                    let mut drain = self.drain.clone();
                    return tokio::select! {
                        result = relay(&mut io, &mut far) => Ok(result?),
                        () = drain.cut() => Ok(()),
                    };
                }
                Err(error) => last = Some(error),
            }
        }
        Err(match last {
            Some(error) => error.into(),
            None if !is_known => ConnectionError::Unknown(destination.name().to_owned()),
            None => ConnectionError::NoEndpoints(destination.name().to_owned()),
        })
    }

    /// The client of an endpoint, shared by everything that this worker sends there.
    fn client(&self, endpoint: &Endpoint, opaque: bool) -> Arc<Client> {
        let direct = if opaque { endpoint.direct_port } else { None };
        let address = match (direct, &endpoint.tls) {
            (Some(port), Some(_)) => SocketAddr::new(endpoint.address.ip(), port),
            _ => endpoint.address,
        };
        let mesh = endpoint.tls.as_ref().map(|(identity, server_name)| Mesh {
            server_name: server_name.clone(),
            identity: identity.clone(),
            direct_to: direct.map(|_| TransportHeader {
                port: endpoint.address.port(),
                name: None,
                protocol: None,
            }),
        });
        let dial = Dial { address, mesh };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.entry(dial.clone()).or_insert_with(|| {
            let labels = far_labels(&dial, endpoint, Some("dst"));
            Arc::new(Client::new(
                dial,
                self.outbound.settings.client.clone(),
                self.outbound.identity.clone(),
                Arc::new(self.outbound.metrics.tcp.transport_of(labels)),
            ))
        });
        client.clone()
    }

    /// Endpoints in the order in which they are tried.
    fn pick(&self, destination: &Destination) -> Vec<Endpoint> {
        destination.current().endpoints.clone()
    }

    /// Lets go of clients without connections. Runs for the worker's life.
    pub(crate) async fn tidy(self: Arc<Self>) {
        let mut drain = self.drain.clone();
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = every.tick() => {
                    let now = Instant::now();
                    let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
                    clients.retain(|_, client| client.expire(now) || Arc::strong_count(client) > 1);
                }
                () = drain.reached(crate::drain::Phase::Closing) => return,
            }
        }
    }
}

/// The labels of an endpoint: of requests, and with `peer` of connections.
fn far_labels(dial: &Dial, endpoint: &Endpoint, peer: Option<&'static str>) -> Labels {
    let labels = Labels::new()
        .with("direction", "outbound")
        .with_some("peer", peer)
        .with("target_addr", endpoint.address)
        .with("target_ip", endpoint.address.ip())
        .with("target_port", endpoint.address.port());
    match &dial.mesh {
        Some(mesh) => labels.with("tls", "true").with("server_id", &mesh.identity),
        None => labels
            .with("tls", "no_identity")
            .with("no_tls_reason", "not_provided_by_service_discovery"),
    }
}
