//! Where requests and connections go: backends, how one is chosen, and one worker's way to an endpoint.

use super::{
    Worker,
    balance::{Balancer, Why},
    labels,
    metrics::{BackendHandles, EndpointHandles, Stack},
};
use crate::{
    http::{
        client::{Client, Dial, Mesh},
        outcome::GrpcFailures,
    },
    transport::header::{SessionProtocol, TransportHeader},
};
use http::uri::Authority;
use linkerd_policy::{
    outbound::{Endpoint, EndpointIdentity, Hint, Ref, Refusal},
    server::Filter,
};
use linkerd_tls::Id;
use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Instant,
};

/// A Service, an EgressNetwork or a single address, and how its endpoints are found. Shared by all rules that use it.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) meta: Ref,
    pub(super) kind: Kind,
    /// The balanced name, as the `authority` of endpoint metrics.
    pub(super) authority: Option<Arc<str>>,
    /// Counts it while it balances.
    pub(super) _stack: Option<Stack>,
}

/// How the endpoints of a backend are found.
#[derive(Debug)]
pub(super) enum Kind {
    /// The backend does not exist.
    Missing,
    /// One endpoint: no balancing, no breaker.
    Forward(Arc<Endpoint>),
    Balance(Arc<Balancer>),
}

impl Backend {
    /// Whether a request sent there now has an endpoint, or may hope for one.
    fn is_available(&self, now: Instant) -> bool {
        match &self.kind {
            Kind::Missing | Kind::Forward(_) => true,
            Kind::Balance(balancer) => balancer.is_available(now),
        }
    }
}

/// A backend as one rule uses it.
#[derive(Debug)]
pub(super) struct RouteBackend {
    pub(super) backend: Arc<Backend>,
    pub(super) filters: Vec<Filter>,
    pub(super) refusal: Option<Refusal>,
    pub(super) handles: BackendHandles,
}

/// How a rule chooses among its backends.
#[derive(Debug)]
pub(super) enum Choice {
    Empty,
    First(Vec<Arc<RouteBackend>>),
    /// With weights, and their sum.
    Random(Vec<(Arc<RouteBackend>, u32)>, u64),
}

impl Choice {
    pub(super) fn random(backends: Vec<(Arc<RouteBackend>, u32)>) -> Self {
        let total = backends.iter().map(|(_, weight)| u64::from(*weight)).sum();
        match total {
            0 => Self::Empty,
            _ => Self::Random(backends, total),
        }
    }

    /// Why there is none that is available: what is to be said of the first. Counted as a request that got no endpoint.
    pub(super) fn why_none(&self) -> Option<Why> {
        let first = match self {
            Self::Empty => None,
            Self::First(backends) => backends.first(),
            Self::Random(backends, _) => backends.first().map(|(backend, _)| backend),
        };
        match &first?.backend.kind {
            Kind::Balance(balancer) => Some(balancer.refused()),
            Kind::Missing | Kind::Forward(_) => None,
        }
    }

    /// A backend that is available; `None` if none is. `roll(n)` gives a random number below `n`.
    pub(super) fn choose(
        &self,
        now: Instant,
        mut roll: impl FnMut(u64) -> u64,
    ) -> Option<&Arc<RouteBackend>> {
        match self {
            Self::Empty => None,
            Self::First(backends) => backends
                .iter()
                .find(|backend| backend.backend.is_available(now)),
            Self::Random(backends, total) => {
                let all = backends.iter().map(|(backend, weight)| (backend, *weight));
                let drawn = draw(all.clone(), roll(*total))?;
                if drawn.backend.is_available(now) {
                    return Some(drawn);
                }
                let available = all.filter(|(backend, _)| backend.backend.is_available(now));
                let total: u64 = available.clone().map(|(_, weight)| u64::from(weight)).sum();
                if total == 0 {
                    return None;
                }
                draw(available, roll(total))
            }
        }
    }
}

fn draw<'b>(
    backends: impl Iterator<Item = (&'b Arc<RouteBackend>, u32)>,
    mut at: u64,
) -> Option<&'b Arc<RouteBackend>> {
    for (backend, weight) in backends {
        match at.checked_sub(u64::from(weight)) {
            None => return Some(backend),
            Some(rest) => at = rest,
        }
    }
    None
}

/// What a connection to an endpoint carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Carried {
    Http1,
    Http2,
    Opaque,
}

impl Carried {
    /// The value of `protocol` in `stack_*`.
    fn stack(self) -> &'static str {
        match self {
            Self::Http1 | Self::Http2 => "http",
            Self::Opaque => "opaq",
        }
    }
}

/// One worker's way to an endpoint: its connections, and what is counted there.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) address: SocketAddr,
    /// What discovery says of it. Other workers have ways to it as well, which must not keep each other alive.
    endpoint: Weak<Endpoint>,
    pub(super) client: Arc<Client>,
    pub(super) handles: EndpointHandles,
    pub(super) grpc_failures: GrpcFailures,
    /// The endpoint is this workload itself.
    pub(super) is_local: bool,
    /// Requests are sent with this authority.
    pub(super) authority_override: Option<Authority>,
    _stack: Stack,
}

/// An endpoint that cannot be used as discovery describes it.
#[derive(Debug, thiserror::Error)]
#[error("endpoint {0}: {1}")]
pub(super) struct Unusable(SocketAddr, String);

impl Unusable {
    pub(super) fn address(&self) -> SocketAddr {
        self.0
    }
}

impl Remote {
    pub(super) fn new(
        worker: &Worker,
        endpoint: &Arc<Endpoint>,
        authority: Option<&str>,
        carried: Carried,
    ) -> Result<Self, Unusable> {
        let settings = &worker.outbound.settings;
        let is_local = settings.local_ips.contains(&endpoint.address.ip());
        let overriding = endpoint
            .authority_override
            .as_deref()
            .filter(|_| !is_local)
            .map(|name| {
                name.parse::<Authority>()
                    .map_err(|error| Unusable(endpoint.address, format!("{name:?}: {error}")))
            })
            .transpose()?;
        let dial = dial(endpoint, overriding.as_ref(), is_local, carried)?;
        let labels = labels::endpoint(None, authority, endpoint, &dial, is_local);
        let handles =
            EndpointHandles::resolve(&worker.outbound.metrics, labels, settings.grpc_failures);
        let client = worker.client(dial, endpoint, authority, is_local);
        Ok(Self {
            address: endpoint.address,
            endpoint: Arc::downgrade(endpoint),
            client,
            handles,
            grpc_failures: settings.grpc_failures,
            is_local,
            authority_override: overriding,
            _stack: worker.outbound.metrics.stack(
                carried.stack(),
                if authority.is_some() {
                    "endpoint"
                } else {
                    "forward"
                },
            ),
        })
    }

    /// Whether it still is an endpoint of anything.
    pub(super) fn is_known(&self) -> bool {
        self.endpoint.strong_count() > 0
    }

    /// Whether HTTP/1 goes to this endpoint inside HTTP/2.
    pub(super) fn carries_http1(endpoint: &Endpoint, is_local: bool) -> bool {
        !is_local && endpoint.hint == Hint::Http2
    }

    /// Who answers there; `None` in plaintext.
    pub(super) fn identity(&self) -> Option<&str> {
        let mesh = self.client.dial.mesh.as_ref()?;
        Some(mesh.identity.as_str())
    }
}

/// Where connections to an endpoint lead. A transport header is sent where the endpoint's proxy takes one.
fn dial(
    endpoint: &Endpoint,
    overriding: Option<&Authority>,
    is_local: bool,
    carried: Carried,
) -> Result<Dial, Unusable> {
    let address = endpoint.address;
    let Some(tls) = endpoint.tls.as_ref().filter(|_| !is_local) else {
        return Ok(Dial {
            address,
            mesh: None,
        });
    };
    let (EndpointIdentity::Dns(name) | EndpointIdentity::Uri(name)) = &tls.identity;
    let identity: Id = name
        .parse()
        .map_err(|error| Unusable(address, format!("identity {name:?}: {error}")))?;
    let protocol = match carried {
        _ if endpoint.hint == Hint::Opaque => None,
        Carried::Http1 => Some(SessionProtocol::Http1),
        Carried::Http2 => Some(SessionProtocol::Http2),
        Carried::Opaque => None,
    };
    let gateway = overriding.and_then(|name| Some((name.host(), name.port_u16()?)));
    let (address, direct_to) = match (gateway, endpoint.opaque_transport) {
        (Some((name, port)), _) => {
            let header = TransportHeader {
                port,
                name: Some(name.to_owned()),
                protocol,
            };
            (address, Some(header))
        }
        (None, Some(port)) => {
            let header = TransportHeader {
                port: address.port(),
                name: None,
                protocol,
            };
            (SocketAddr::new(address.ip(), port), Some(header))
        }
        (None, None) => (address, None),
    };
    Ok(Dial {
        address,
        mesh: Some(Mesh {
            server_name: tls.server_name.as_str().into(),
            identity,
            direct_to,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use linkerd_policy::outbound::EndpointTls;
    use std::collections::BTreeMap;

    fn endpoint() -> Endpoint {
        let identity = "web.shop.serviceaccount.identity.linkerd.cluster.local";
        Endpoint {
            address: ([10, 0, 0, 1], 8080).into(),
            tls: Some(EndpointTls {
                identity: EndpointIdentity::Dns(identity.into()),
                server_name: identity.into(),
            }),
            hint: Hint::Unknown,
            opaque_transport: None,
            weight: 10_000,
            labels: BTreeMap::new(),
            authority_override: None,
            http2: None,
        }
    }

    #[test]
    fn a_transport_header_says_what_is_carried_and_where_to() {
        let mut endpoint = endpoint();
        let plain = dial(&endpoint, None, false, Carried::Http1).unwrap();
        assert_eq!(plain.address.port(), 8080);
        assert!(plain.mesh.unwrap().direct_to.is_none());

        endpoint.opaque_transport = Some(4143);
        for (carried, protocol) in [
            (Carried::Http1, Some(SessionProtocol::Http1)),
            (Carried::Http2, Some(SessionProtocol::Http2)),
            (Carried::Opaque, None),
        ] {
            let direct = dial(&endpoint, None, false, carried).unwrap();
            assert_eq!(direct.address.port(), 4143);
            let header = direct.mesh.unwrap().direct_to.unwrap();
            assert_eq!((header.port, header.protocol), (8080, protocol));
        }
        endpoint.hint = Hint::Opaque;
        let opaque = dial(&endpoint, None, false, Carried::Http1).unwrap();
        assert_eq!(opaque.mesh.unwrap().direct_to.unwrap().protocol, None);

        let gateway: Authority = "web.shop.svc.east.local:80".parse().unwrap();
        let through = dial(&endpoint, Some(&gateway), false, Carried::Opaque).unwrap();
        assert_eq!(through.address.port(), 8080);
        let header = through.mesh.unwrap().direct_to.unwrap();
        assert_eq!(header.name.as_deref(), Some("web.shop.svc.east.local"));
        assert_eq!(header.port, 80);
    }

    #[test]
    fn a_workload_speaks_to_itself_in_plaintext() {
        let endpoint = endpoint();
        let local = dial(&endpoint, None, true, Carried::Http2).unwrap();
        assert!(local.mesh.is_none());
        assert!(!Remote::carries_http1(&endpoint, true));
    }
}
