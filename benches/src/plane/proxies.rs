//! Simulated proxies: what a sidecar asks of the control plane, and no traffic.

use super::{Controller, PATIENCE, cluster::NAMESPACE};
use crate::Failure;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use linkerd2_proxy_api::{
    destination::{GetDestination, destination_client::DestinationClient},
    inbound::{PortSpec, inbound_server_policies_client::InboundServerPoliciesClient},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::JoinSet};
use tonic::{Streaming, transport::Channel};

/// Proxies that connect at a time.
const AT_ONCE: usize = 32;

/// What a stream is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// The policy of the proxy's ports.
    Policy,
    /// The Service that all proxies watch.
    Endpoints,
    /// A Service of its own.
    Own,
}

#[derive(Debug, Default)]
struct Counts {
    policy: AtomicUsize,
    endpoints: AtomicUsize,
    own: AtomicUsize,
    news: Notify,
}

impl Counts {
    const fn of(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Policy => &self.policy,
            Kind::Endpoints => &self.endpoints,
            Kind::Own => &self.own,
        }
    }

    fn tell(&self, kind: Kind) {
        self.of(kind).fetch_add(1, Ordering::Release);
        self.news.notify_one();
    }
}

pub(super) struct Proxies {
    counts: Arc<Counts>,
    count: usize,
    /// They end with this.
    _streams: JoinSet<()>,
}

impl Proxies {
    /// Connects so many, and waits until each stream has said something.
    pub(super) async fn connect(
        controller: &Controller,
        count: usize,
        services: usize,
    ) -> Result<Self, Failure> {
        let counts = Arc::new(Counts::default());
        let mut streams = JoinSet::new();
        let all = (0..count).map(|number| Opened::open(controller, number, services));
        let all: Vec<Opened> = stream::iter(all)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        for opened in all {
            let Opened { ports, endpoints } = opened;
            for port in ports {
                streams.spawn(follow(port, Kind::Policy, counts.clone()));
            }
            for (kind, stream) in [Kind::Endpoints, Kind::Own].into_iter().zip(endpoints) {
                streams.spawn(follow(stream, kind, counts.clone()));
            }
        }
        let proxies = Self {
            counts,
            count,
            _streams: streams,
        };
        proxies.wait(Kind::Policy, 2 * count).await?;
        proxies.wait(Kind::Endpoints, count).await?;
        proxies.wait(Kind::Own, count).await?;
        Ok(proxies)
    }

    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// How many messages came so far.
    pub(super) fn told(&self, kind: Kind) -> usize {
        self.counts.of(kind).load(Ordering::Acquire)
    }

    /// Waits until so many messages have come.
    pub(super) async fn wait(&self, kind: Kind, count: usize) -> Result<(), Failure> {
        let came = async {
            while self.told(kind) < count {
                self.counts.news.notified().await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, came).await;
        came.map_err(|_| format!("{kind:?}: {} of {count} messages came", self.told(kind)).into())
    }
}

/// The streams of a proxy.
struct Opened {
    ports: [Streaming<linkerd2_proxy_api::inbound::Server>; 2],
    endpoints: [Streaming<linkerd2_proxy_api::destination::Update>; 2],
}

impl Opened {
    async fn open(
        controller: &Controller,
        number: usize,
        services: usize,
    ) -> Result<Self, Failure> {
        let mut policy = InboundServerPoliciesClient::new(channel(controller.policy).await?);
        let mut port = async |port: u32| {
            let workload = format!(r#"{{"ns":"{NAMESPACE}","pod":"p-{number}"}}"#);
            let answer = policy.watch_port(PortSpec { workload, port }).await?;
            Ok::<_, Failure>(answer.into_inner())
        };
        let ports = [port(8080).await?, port(9090).await?];
        let mut destination = DestinationClient::new(channel(controller.destination).await?);
        let mut service = async |service: usize| {
            let answer = destination.get(GetDestination {
                scheme: "k8s".to_owned(),
                path: format!("s-{service}.{NAMESPACE}.svc.cluster.local:80"),
                context_token: format!(r#"{{"ns":"{NAMESPACE}","nodeName":"node"}}"#),
            });
            Ok::<_, Failure>(answer.await?.into_inner())
        };
        let own = number.checked_rem(services).unwrap_or_default();
        let endpoints = [service(0).await?, service(own).await?];
        Ok(Self { ports, endpoints })
    }
}

/// The controller listens some time after it has started.
async fn channel(address: SocketAddr) -> Result<Channel, Failure> {
    let endpoint = Channel::from_shared(format!("http://{address}"))?;
    let began = Instant::now();
    loop {
        match endpoint.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn follow<T>(mut stream: Streaming<T>, kind: Kind, counts: Arc<Counts>) {
    while let Some(Ok(_)) = stream.next().await {
        counts.tell(kind);
    }
}
