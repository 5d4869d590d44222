//! A control plane in miniature for the tests of this crate: the API's services over real sockets, with answers that a
//! test sets, changes and takes away.

use super::{
    client::{ControlClient, Endpoint},
    dns::Resolver,
};
use crate::{
    config::{Address, Backoff, ControlAddr},
    discovery::metrics::ClientMetrics,
};
use linkerd_metrics::{Format, Options, Registry};
use linkerd_policy::{
    proto,
    server::{
        Authentication, Authorization, HttpPolicy, Meta, NetworkMatch, Protocol, RateLimit,
        ServerPolicy,
    },
};
use linkerd_tls::{Accept, Id, KeyMaterial, LocalIdentity, Prefixed, Sniffed, ca::Ca};
use linkerd2_proxy_api::{
    identity::{
        CertifyRequest, CertifyResponse,
        identity_server::{Identity, IdentityServer},
    },
    inbound::{
        PortSpec, Server,
        inbound_server_policies_server::{InboundServerPolicies, InboundServerPoliciesServer},
    },
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};
use tokio::sync::{oneshot, watch};
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{Code, Request, Response, Status};

/// Longest wait for anything: a hung test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const NAME: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
pub(crate) const CONTROLLER: &str = "policy.linkerd.serviceaccount.identity.linkerd.cluster.local";

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("not within the patience of a test")
}

/// What the controller says about a port.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    Nothing,
    Policy(Box<Server>),
    Error(Code),
}

impl Say {
    pub(crate) fn policy(policy: &ServerPolicy) -> Self {
        Self::Policy(Box::new(proto::server_to_api(policy)))
    }
}

/// Answers and what was asked; outlives restarts of the server.
#[derive(Debug)]
pub(crate) struct Answers {
    ports: Mutex<BTreeMap<u32, watch::Sender<Say>>>,
    /// Streams opened so far, and open now, for each port.
    streams: watch::Sender<BTreeMap<u32, (usize, usize)>>,
    pub(crate) workloads: Mutex<Vec<String>>,
    pub(crate) ca: Ca,
    pub(crate) tokens: Mutex<Vec<Vec<u8>>>,
    /// Says no to Certify.
    pub(crate) refuse: watch::Sender<Option<Code>>,
    pub(crate) lifetime: Mutex<Duration>,
}

impl Answers {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            ports: Mutex::default(),
            streams: watch::Sender::default(),
            workloads: Mutex::default(),
            ca: Ca::create("root.linkerd.cluster.local").unwrap(),
            tokens: Mutex::default(),
            refuse: watch::Sender::default(),
            lifetime: Mutex::new(Duration::from_secs(3600)),
        })
    }

    fn port(&self, port: u32) -> watch::Sender<Say> {
        let mut ports = self.ports.lock().unwrap();
        let sender = ports
            .entry(port)
            .or_insert_with(|| watch::Sender::new(Say::Nothing));
        sender.clone()
    }

    pub(crate) fn say(&self, port: u16, say: Say) {
        self.port(port.into()).send_replace(say);
    }

    /// Streams of a port that are open now.
    pub(crate) fn open(&self, port: u16) -> usize {
        let streams = self.streams.borrow();
        streams.get(&port.into()).copied().unwrap_or_default().1
    }

    /// Waits until the streams of a port, (opened, open now), are as wanted.
    pub(crate) async fn streams(&self, port: u16, wanted: impl Fn(usize, usize) -> bool) {
        let mut streams = self.streams.subscribe();
        let wanted = streams.wait_for(|streams| {
            let (opened, open) = streams.get(&port.into()).copied().unwrap_or_default();
            wanted(opened, open)
        });
        soon(wanted).await.unwrap();
    }
}

struct Api(Arc<Answers>);

struct Counted(Arc<Answers>, u32);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0
            .streams
            .send_modify(|streams| streams.entry(self.1).or_default().1 -= 1);
    }
}

#[tonic::async_trait]
impl InboundServerPolicies for Api {
    async fn get_port(&self, _: Request<PortSpec>) -> Result<Response<Server>, Status> {
        Err(Status::unimplemented("the proxy never asks"))
    }

    type WatchPortStream = Pin<Box<dyn Stream<Item = Result<Server, Status>> + Send>>;

    async fn watch_port(
        &self,
        request: Request<PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        let PortSpec { workload, port } = request.into_inner();
        self.0.workloads.lock().unwrap().push(workload);
        self.0.streams.send_modify(|streams| {
            let (opened, open) = streams.entry(port).or_default();
            (*opened, *open) = (*opened + 1, *open + 1);
        });
        let counted = Counted(self.0.clone(), port);
        let said = WatchStream::new(self.0.port(port).subscribe());
        if let Say::Error(code) = *self.0.port(port).borrow() {
            return Err(Status::new(code, "as told"));
        }
        Ok(Response::new(Box::pin(said.filter_map(move |say| {
            let _ = &counted;
            match say {
                Say::Nothing => None,
                Say::Policy(server) => Some(Ok(*server)),
                Say::Error(code) => Some(Err(Status::new(code, "as told"))),
            }
        }))))
    }
}

#[tonic::async_trait]
impl Identity for Api {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        self.0.tokens.lock().unwrap().push(request.token);
        if let Some(code) = *self.0.refuse.borrow() {
            return Err(Status::new(code, "as told"));
        }
        let lifetime = *self.0.lifetime.lock().unwrap();
        let issued = self
            .0
            .ca
            .issue(
                &request.certificate_signing_request,
                &request.identity,
                lifetime,
                Duration::from_secs(10),
            )
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(CertifyResponse {
            leaf_certificate: issued.leaf_der,
            intermediate_certificates: issued.chain,
            valid_until: Some(issued.not_after.into()),
        }))
    }
}

/// A running controller; dropped, it is gone at once, with every connection.
pub(crate) struct Controller {
    pub(crate) addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Controller {
    pub(crate) fn start(answers: &Arc<Answers>) -> Self {
        Self::start_at(answers, (std::net::Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn start_at(answers: &Arc<Answers>, addr: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(addr).unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let answers = answers.clone();
        let (stop, stopped) = oneshot::channel();
        // A runtime of its own, so that a test can take it away without mercy.
        let thread = thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                let server = tonic::transport::Server::builder()
                    .add_service(InboundServerPoliciesServer::new(Api(answers.clone())))
                    .add_service(IdentityServer::new(Api(answers)));
                tokio::spawn(server.serve_with_incoming(incoming));
                let _ = stopped.await;
            });
        });
        Self {
            addr,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.stop.take();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// An address at which nobody listens, and which nobody else gets meanwhile.
pub(crate) struct Nobody(
    pub(crate) SocketAddr,
    #[expect(dead_code, reason = "holds the address")] tokio::net::TcpSocket,
);

impl Nobody {
    pub(crate) fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket
            .bind((std::net::Ipv4Addr::LOCALHOST, 0).into())
            .unwrap();
        Self(socket.local_addr().unwrap(), socket)
    }
}

/// The clients that a TLS front has seen.
pub(crate) type Seen = Arc<Mutex<Vec<Option<Id>>>>;

/// Terminates mesh TLS as `identity` and passes the bytes on to `plain`.
pub(crate) async fn tls_front(
    identity: Arc<LocalIdentity>,
    plain: SocketAddr,
) -> (SocketAddr, Seen) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, seen) = (listener.local_addr().unwrap(), Seen::default());
    let clients = seen.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (identity, clients) = (identity.clone(), clients.clone());
            tokio::spawn(async move {
                let mut read = bytes::BytesMut::new();
                let sniffed = linkerd_tls::sniff(&mut stream, &mut read).await.unwrap();
                assert!(matches!(sniffed, Sniffed::Tls { .. }));
                let io = Prefixed::new(read, stream);
                let credentials = identity.current().unwrap();
                let accepted = linkerd_tls::accept(&credentials, Accept::Redirected, io, PATIENCE);
                if let Ok(mut accepted) = accepted.await {
                    clients.lock().unwrap().push(accepted.client);
                    let mut origin = tokio::net::TcpStream::connect(plain).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut accepted.io, &mut origin).await;
                }
            });
        }
    });
    (addr, seen)
}

/// A clock that a test sets forward.
#[derive(Debug, Default)]
pub(crate) struct Clock(pub(crate) std::sync::atomic::AtomicU64);

impl linkerd_tls::TimeProvider for Clock {
    fn current_time(&self) -> Option<tokio_rustls::rustls::pki_types::UnixTime> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let ahead = Duration::from_secs(self.0.load(std::sync::atomic::Ordering::SeqCst));
        Some(tokio_rustls::rustls::pki_types::UnixTime::since_unix_epoch(
            now + ahead,
        ))
    }
}

pub(crate) fn identity(ca: &Ca, name: &str) -> Arc<LocalIdentity> {
    identity_at(ca, name, Arc::default())
}

pub(crate) fn identity_at(ca: &Ca, name: &str, clock: Arc<Clock>) -> Arc<LocalIdentity> {
    let key = KeyMaterial::create(name).unwrap();
    LocalIdentity::with_clock(
        name.parse().unwrap(),
        name,
        key,
        ca.anchors().clone(),
        clock,
    )
    .unwrap()
}

pub(crate) fn certify(identity: &LocalIdentity, ca: &Ca, lifetime: Duration) {
    let name = identity.id().as_str();
    let issued = ca
        .issue(identity.csr(), name, lifetime, Duration::from_secs(10))
        .unwrap();
    identity
        .install(issued.leaf_der, issued.chain, issued.not_after)
        .unwrap();
}

pub(crate) fn client(
    addr: SocketAddr,
    expected: Option<&str>,
    identity: &Arc<LocalIdentity>,
    registry: &Registry,
) -> ControlClient {
    let expected = expected.map(|name| name.parse::<Id>().unwrap());
    let resolver = Resolver::new((None, None));
    client_of(
        Address::Socket(addr),
        expected,
        resolver,
        identity,
        registry,
    )
}

/// A client of a controller that may be a name.
pub(crate) fn client_of(
    addr: Address,
    expected: Option<Id>,
    resolver: Resolver,
    identity: &Arc<LocalIdentity>,
    registry: &Registry,
) -> ControlClient {
    let endpoint = Endpoint {
        name: "policy",
        addr: ControlAddr {
            addr,
            identity: expected,
        },
        resolver,
        connect_timeout: PATIENCE,
        backoff: Backoff {
            min: Duration::from_millis(5),
            max: Duration::from_millis(20),
            jitter: 0.1,
        },
    };
    let metrics = ClientMetrics::new(registry, &endpoint);
    ControlClient::new(endpoint, identity.clone(), Arc::new(metrics))
}

pub(crate) fn registry() -> Registry {
    Registry::new(Options::default())
}

/// The metrics page, as text.
pub(crate) fn page(registry: &Registry) -> String {
    String::from_utf8(registry.encode(Format::negotiate(None))).unwrap()
}

/// A Server that lets these identities in.
pub(crate) fn server(name: &str, identities: &[&str]) -> ServerPolicy {
    ServerPolicy {
        meta: Meta::resource("policy.linkerd.io", "server", name),
        protocol: Protocol::Detect {
            timeout: Duration::from_secs(10),
            http: HttpPolicy::default(),
        },
        authorizations: vec![Authorization {
            meta: Meta::resource("policy.linkerd.io", "authorizationpolicy", "clients"),
            networks: vec![NetworkMatch {
                net: "0.0.0.0/0".parse().unwrap(),
                except: Vec::new(),
            }],
            authentication: Authentication::Identities {
                exact: identities.iter().map(ToString::to_string).collect(),
                suffixes: Vec::new(),
            },
        }],
    }
}

pub(crate) fn limited(mut server: ServerPolicy, total: u32) -> ServerPolicy {
    if let Protocol::Detect { http, .. } = &mut server.protocol {
        http.rate_limit = Some(RateLimit {
            meta: None,
            total: Some(total),
            identity: None,
            overrides: Vec::new(),
        });
    }
    server
}

/// An address at which nobody listens yet.
pub(crate) fn free_addr() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
