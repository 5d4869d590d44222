//! Where a named destination's endpoints are: `Destination.Get` and `Destination.GetProfile` as live snapshots.
//!
//! Used by `outbound`. An update that cannot be understood is refused and the last good one stays; when the controller
//! is gone, what it said last stays in use for as long as the proxy lives.

use super::{backoff::Pauses, client::ControlClient};
use arc_swap::{ArcSwap, Guard};
use linkerd_tls::Id;
use linkerd2_proxy_api::{
    destination::{
        GetDestination, TlsIdentity, WeightedAddr, destination_client::DestinationClient,
        protocol_hint, tls_identity::Strategy, update::Update,
    },
    net::{IpAddress, TcpAddress, ip_address::Ip},
};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle};

/// Most endpoints of one destination that are kept; an update beyond them is refused.
const MAX_ENDPOINTS: usize = 100_000;

/// One endpoint of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// Who must answer, and the name to ask for; absent = plaintext.
    pub(crate) tls: Option<(Id, Arc<str>)>,
    /// It speaks HTTP/2 to mesh peers, HTTP/1 carried inside.
    pub(crate) is_h2: bool,
    /// Opaque bytes go to its proxy's own port.
    pub(crate) direct_port: Option<u16>,
    /// Relative share of traffic; the API's 10,000 is 1.
    pub(crate) weight: u32,
}

/// What is known of a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// In the order of their addresses.
    pub(crate) endpoints: Vec<Endpoint>,
    /// The destination's profile says that its bytes are opaque.
    pub(crate) is_opaque: bool,
}

/// A destination that is watched.
#[derive(Debug)]
pub(crate) struct Destination {
    name: String,
    current: ArcSwap<Endpoints>,
    /// Answers so far of (Get, GetProfile).
    answered: watch::Sender<(u64, u64)>,
}

/// The tasks that watch a destination; they end when this goes.
#[derive(Debug)]
pub(crate) struct Watching([JoinHandle<()>; 2]);

impl Drop for Watching {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// An update that is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidUpdate {
    #[error("{field}: {problem}")]
    Field { field: String, problem: String },
    #[error("more than {MAX_ENDPOINTS} endpoints")]
    TooMany,
}

impl Destination {
    /// Watches `name:port`. Must be called within the runtime that discovery runs on.
    pub(crate) fn watch(
        name: String,
        context: String,
        client: ControlClient,
    ) -> (Arc<Self>, Watching) {
        let destination = Arc::new(Self {
            name: name.clone(),
            current: ArcSwap::default(),
            answered: watch::channel((0, 0)).0,
        });
        let request = GetDestination {
            scheme: String::new(),
            path: name,
            context_token: context,
        };
        let endpoints = tokio::spawn(watch_endpoints(
            destination.clone(),
            client.clone(),
            request.clone(),
        ));
        let profile = tokio::spawn(watch_profile(destination.clone(), client, request));
        (destination, Watching([endpoints, profile]))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What is known now.
    pub(crate) fn current(&self) -> Guard<Arc<Endpoints>> {
        self.current.load()
    }

    /// Waits until the destination is known, at most `limit`. Tells whether it is.
    pub(crate) async fn ready(&self, limit: Duration) -> bool {
        let mut answered = self.answered.subscribe();
        let known = answered.wait_for(|(endpoints, profile)| *endpoints > 0 && *profile > 0);
        tokio::time::timeout(limit, known)
            .await
            .is_ok_and(|known| known.is_ok())
    }

    fn update(&self, change: impl FnOnce(&mut Endpoints)) {
        let mut next = Endpoints::clone(&self.current.load());
        change(&mut next);
        self.current.store(Arc::new(next));
    }
}

async fn watch_endpoints(
    destination: Arc<Destination>,
    client: ControlClient,
    request: GetDestination,
) {
    let mut pauses = Pauses::new(client.backoff());
    loop {
        let mut service = DestinationClient::with_origin(client.clone(), client.origin());
        match service.get(request.clone()).await {
            Ok(response) => {
                let mut stream = response.into_inner();
                let mut known = BTreeMap::new();
                let result = loop {
                    match stream.message().await {
                        Ok(Some(update)) => {
                            pauses.reset();
                            if let Err(error) = apply(&mut known, update.update) {
                                tracing::warn!(destination = destination.name(), %error, "Endpoint update refused");
                                continue;
                            }
                            let endpoints = known.values().cloned().collect();
                            destination.update(|now| now.endpoints = endpoints);
                            destination
                                .answered
                                .send_modify(|(endpoints, _)| *endpoints += 1);
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                };
                tracing::debug!(destination = destination.name(), status = ?result, "Endpoint stream ended");
            }
            Err(status) => {
                tracing::debug!(destination = destination.name(), %status, "No endpoint stream");
                if matches!(
                    status.code(),
                    tonic::Code::InvalidArgument | tonic::Code::NotFound
                ) {
                    destination
                        .answered
                        .send_modify(|(endpoints, _)| *endpoints += 1);
                }
            }
        }
        tokio::time::sleep(pauses.next(client.backoff().max)).await;
    }
}

async fn watch_profile(
    destination: Arc<Destination>,
    client: ControlClient,
    request: GetDestination,
) {
    let mut pauses = Pauses::new(client.backoff());
    loop {
        let mut service = DestinationClient::with_origin(client.clone(), client.origin());
        match service.get_profile(request.clone()).await {
            Ok(response) => {
                let mut stream = response.into_inner();
                while let Ok(Some(profile)) = stream.message().await {
                    pauses.reset();
                    destination.update(|now| now.is_opaque = profile.opaque_protocol);
                    destination
                        .answered
                        .send_modify(|(_, profile)| *profile += 1);
                }
            }
            Err(status) => {
                tracing::debug!(destination = destination.name(), %status, "No profile stream");
                destination
                    .answered
                    .send_modify(|(_, profile)| *profile += 1);
            }
        }
        tokio::time::sleep(pauses.next(client.backoff().max)).await;
    }
}

/// Applies an update to what is known; a refused one changes nothing.
fn apply(
    known: &mut BTreeMap<SocketAddr, Endpoint>,
    update: Option<Update>,
) -> Result<(), InvalidUpdate> {
    match update {
        Some(Update::Add(set)) => {
            let added = set
                .addrs
                .into_iter()
                .enumerate()
                .map(|(i, addr)| endpoint(addr, &format!("add.addrs[{i}]")))
                .collect::<Result<Vec<_>, _>>()?;
            if known.len() + added.len() > MAX_ENDPOINTS {
                return Err(InvalidUpdate::TooMany);
            }
            known.extend(
                added
                    .into_iter()
                    .map(|endpoint| (endpoint.address, endpoint)),
            );
        }
        Some(Update::Remove(set)) => {
            let gone = set
                .addrs
                .into_iter()
                .enumerate()
                .map(|(i, addr)| address(Some(addr), &format!("remove.addrs[{i}]")))
                .collect::<Result<Vec<_>, _>>()?;
            for address in gone {
                known.remove(&address);
            }
        }
        Some(Update::NoEndpoints(_)) => known.clear(),
        None => {
            return Err(InvalidUpdate::Field {
                field: "update".into(),
                problem: "is missing".into(),
            });
        }
    }
    Ok(())
}

fn endpoint(addr: WeightedAddr, field: &str) -> Result<Endpoint, InvalidUpdate> {
    let hint = addr.protocol_hint.unwrap_or_default();
    let direct_port = match hint.opaque_transport {
        None => None,
        Some(transport) => Some(port(
            transport.inbound_port,
            &format!("{field}.protocol_hint.opaque_transport"),
        )?),
    };
    Ok(Endpoint {
        address: address(addr.addr, &format!("{field}.addr"))?,
        tls: addr
            .tls_identity
            .map(|tls| identity(tls, field))
            .transpose()?,
        is_h2: matches!(hint.protocol, Some(protocol_hint::Protocol::H2(_))),
        direct_port,
        weight: addr.weight,
    })
}

fn identity(tls: TlsIdentity, field: &str) -> Result<(Id, Arc<str>), InvalidUpdate> {
    let field = || format!("{field}.tls_identity");
    let missing = |problem: &str| InvalidUpdate::Field {
        field: field(),
        problem: problem.into(),
    };
    let name = match tls.strategy {
        Some(Strategy::DnsLikeIdentity(dns)) => dns.name,
        Some(Strategy::UriLikeIdentity(uri)) => uri.uri,
        None => return Err(missing("has no strategy")),
    };
    let id: Id = name.parse().map_err(|error| InvalidUpdate::Field {
        field: field(),
        problem: format!("{name:?}: {error}"),
    })?;
    let server_name = match (tls.server_name, &id) {
        (Some(server_name), _) => server_name.name,
        (None, Id::Dns(name)) => name.to_string(),
        (None, Id::Uri(_)) => return Err(missing("has a URI and no server_name")),
    };
    Ok((id, server_name.into()))
}

fn address(address: Option<TcpAddress>, field: &str) -> Result<SocketAddr, InvalidUpdate> {
    let missing = || InvalidUpdate::Field {
        field: field.into(),
        problem: "has no address".into(),
    };
    let address = address.ok_or_else(missing)?;
    let ip = match address.ip {
        Some(IpAddress {
            ip: Some(Ip::Ipv4(bits)),
        }) => Ipv4Addr::from(bits).into(),
        Some(IpAddress {
            ip: Some(Ip::Ipv6(bits)),
        }) => Ipv6Addr::from((u128::from(bits.first) << 64) | u128::from(bits.last)).into(),
        _ => return Err(missing()),
    };
    Ok(SocketAddr::new(ip, port(address.port, field)?))
}

fn port(port: u32, field: &str) -> Result<u16, InvalidUpdate> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| InvalidUpdate::Field {
            field: field.into(),
            problem: format!("port {port} is not in 1..=65535"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use linkerd2_proxy_api::destination::{AddrSet, WeightedAddrSet};

    fn addr(port: u32) -> WeightedAddr {
        WeightedAddr {
            addr: Some(TcpAddress {
                ip: Some(IpAddress {
                    ip: Some(Ip::Ipv4(0x7f00_0001)),
                }),
                port,
            }),
            weight: 10_000,
            ..Default::default()
        }
    }

    #[test]
    fn a_bad_update_leaves_what_is_known() {
        let mut known = BTreeMap::new();
        let add = |addrs| {
            Some(Update::Add(WeightedAddrSet {
                addrs,
                ..Default::default()
            }))
        };
        apply(&mut known, add(vec![addr(1), addr(2)])).unwrap();
        assert_eq!(known.len(), 2);
        for bad in [
            None,
            add(vec![addr(3), addr(0)]),
            add(vec![addr(3), addr(70_000)]),
            add(vec![WeightedAddr::default()]),
            add(vec![WeightedAddr {
                tls_identity: Some(TlsIdentity::default()),
                ..addr(3)
            }]),
            Some(Update::Remove(AddrSet {
                addrs: vec![TcpAddress::default()],
            })),
        ] {
            apply(&mut known, bad).unwrap_err();
            assert_eq!(known.len(), 2);
        }
        let remove = AddrSet {
            addrs: addr(1).addr.into_iter().collect(),
        };
        apply(&mut known, Some(Update::Remove(remove))).unwrap();
        assert_eq!(known.len(), 1);
    }
}
