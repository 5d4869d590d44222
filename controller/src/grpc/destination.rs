//! `io.linkerd.proxy.destination.Destination`: where a Service's endpoints are, and what is known of a destination.

use super::{
    Answers, Shared, watch_snapshots,
    weighted::{address, weighted},
};
use crate::source::Snapshot;
use linkerd_policy::index::{Endpoint, Index};
use linkerd2_proxy_api::{
    destination::{
        AddrSet, DestinationProfile, GetDestination, NoEndpoints, RetryBudget, Update,
        WeightedAddr, WeightedAddrSet, destination_server::Destination, update,
    },
    meta::{Metadata, Resource, metadata},
};
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};
use tonic::{Code, Request, Response, Status};

/// The port of a name without one.
const DEFAULT_PORT: u16 = 80;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Destinations(pub(crate) Shared);

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Service {
        namespace: String,
        name: String,
        port: u16,
    },
    Address(SocketAddr),
}

/// `host[:port]`: an IP address, or the name of a Service below the cluster's domain.
fn parse(path: &str, cluster_domain: &str) -> Option<Asked> {
    if let Ok(address) = path.parse::<SocketAddr>() {
        return Some(Asked::Address(address));
    }
    if let Ok(ip) = path.parse::<IpAddr>() {
        return Some(Asked::Address(SocketAddr::new(ip, DEFAULT_PORT)));
    }
    let (host, port) = match path.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
        None => (path, DEFAULT_PORT),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let suffix = format!(".svc.{}", cluster_domain.trim_end_matches('.'));
    let (name, namespace) = host.strip_suffix(&suffix)?.split_once('.')?;
    if name.is_empty() || namespace.is_empty() || namespace.contains('.') {
        return None;
    }
    Some(Asked::Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        port,
    })
}

impl Destinations {
    fn counted<T>(&self, method: &'static str, result: Result<T, Status>) -> Result<T, Status> {
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        self.0.metrics.called("destination", method, code);
        result
    }

    fn look_up(&self, path: &str) -> Result<(String, String, u16), Status> {
        let snapshot = self.0.snapshots.borrow();
        let invalid = || Status::invalid_argument(format!("Invalid authority: {path}"));
        match parse(path, &snapshot.index.cluster().cluster_domain).ok_or_else(invalid)? {
            Asked::Address(address) => Err(Status::invalid_argument(format!(
                "IP queries not supported by Get API: host={}",
                address.ip()
            ))),
            Asked::Service {
                namespace,
                name,
                port,
            } => {
                if snapshot.index.service(&namespace, &name).is_none() {
                    return Err(Status::not_found(format!(
                        "Service {name}.{namespace} not found"
                    )));
                }
                Ok((namespace, name, port))
            }
        }
    }
}

/// What one `Get` stream has told its client.
#[derive(Debug, Default)]
struct Told {
    endpoints: BTreeMap<SocketAddr, WeightedAddr>,
    begun: bool,
}

/// What changed of a Service's endpoints: additions first, then removals (control plane §4.2).
///
/// A Service without endpoints says so, once; otherwise its client could not tell it from a stream that is slow.
fn changes(
    endpoints: &[Endpoint],
    labels: HashMap<String, String>,
    told: &mut Told,
) -> Vec<Update> {
    let now: BTreeMap<SocketAddr, WeightedAddr> = endpoints
        .iter()
        .map(|endpoint| {
            (
                SocketAddr::new(endpoint.addr, endpoint.port),
                weighted(endpoint),
            )
        })
        .collect();
    let added: Vec<WeightedAddr> = now
        .iter()
        .filter(|(key, addr)| told.endpoints.get(key) != Some(addr))
        .map(|(_, addr)| addr.clone())
        .collect();
    let removed: Vec<_> = told
        .endpoints
        .keys()
        .filter(|key| !now.contains_key(key))
        .map(|key| address(key.ip(), key.port()))
        .collect();
    let is_first = !std::mem::replace(&mut told.begun, true);
    let mut updates = Vec::new();
    if now.is_empty() && (is_first || !removed.is_empty()) {
        updates.push(update::Update::NoEndpoints(NoEndpoints { exists: true }));
    } else {
        if !added.is_empty() {
            updates.push(update::Update::Add(WeightedAddrSet {
                addrs: added,
                metric_labels: labels,
            }));
        }
        if !removed.is_empty() {
            updates.push(update::Update::Remove(AddrSet { addrs: removed }));
        }
    }
    told.endpoints = now;
    updates
        .into_iter()
        .map(|update| Update {
            update: Some(update),
        })
        .collect()
}

/// The profile of what was asked for, now.
fn profile(index: &Index, asked: &Asked) -> Result<DestinationProfile, Status> {
    match asked {
        Asked::Service {
            namespace,
            name,
            port,
        } => Ok(service_profile(index, namespace, name, *port)),
        Asked::Address(at) => {
            let ambiguous =
                |error: &dyn std::fmt::Display| Status::failed_precondition(error.to_string());
            if let Some(service) = index
                .service_by_ip(at.ip())
                .map_err(|error| ambiguous(&error))?
            {
                let metadata = &service.metadata;
                return Ok(service_profile(
                    index,
                    &metadata.namespace,
                    &metadata.name,
                    at.port(),
                ));
            }
            let endpoint = index
                .workload_by_ip(at.ip(), at.port())
                .map_err(|error| ambiguous(&error))?;
            Ok(DestinationProfile {
                retry_budget: Some(default_budget()),
                opaque_protocol: endpoint.as_ref().is_some_and(|endpoint| endpoint.opaque),
                endpoint: Some(match &endpoint {
                    Some(endpoint) => weighted(endpoint),
                    None => WeightedAddr {
                        addr: Some(address(at.ip(), at.port())),
                        weight: 10_000,
                        ..WeightedAddr::default()
                    },
                }),
                ..DestinationProfile::default()
            })
        }
    }
}

fn service_profile(index: &Index, namespace: &str, name: &str, port: u16) -> DestinationProfile {
    let Some(service) = index.service(namespace, name) else {
        return DestinationProfile::default();
    };
    let resource = Resource {
        group: "core".into(),
        kind: "Service".into(),
        namespace: namespace.into(),
        name: name.into(),
        port: port.into(),
        ..Resource::default()
    };
    DestinationProfile {
        fully_qualified_name: format!("{name}.{namespace}.svc.{}", index.cluster().cluster_domain),
        opaque_protocol: index.service_opaque_ports(service).contains(port),
        retry_budget: Some(default_budget()),
        parent_ref: Some(Metadata {
            kind: Some(metadata::Kind::Resource(resource)),
        }),
        ..DestinationProfile::default()
    }
}

fn default_budget() -> RetryBudget {
    RetryBudget {
        retry_ratio: 0.2,
        min_retries_per_second: 10,
        ttl: Some(prost_types::Duration {
            seconds: 10,
            nanos: 0,
        }),
    }
}

#[tonic::async_trait]
impl Destination for Destinations {
    type GetStream = Answers<Update>;

    async fn get(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let found = self.look_up(&request.get_ref().path);
        let (namespace, name, port) = self.counted("Get", found)?;
        let compute = move |snapshot: &Snapshot, told: &mut Told| {
            // A Service that is gone has no endpoints; its stream remains.
            let endpoints = snapshot
                .index
                .endpoints(&namespace, &name, port)
                .unwrap_or_default();
            let labels = HashMap::from([
                ("namespace".to_owned(), namespace.clone()),
                ("service".to_owned(), name.clone()),
            ]);
            Some(changes(&endpoints, labels, told))
        };
        let stream = watch_snapshots(&self.0, ("destination", "Get"), Told::default(), compute);
        Ok(Response::new(stream))
    }

    type GetProfileStream = Answers<DestinationProfile>;

    async fn get_profile(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        let path = request.into_inner().path;
        let found = {
            let snapshot = self.0.snapshots.borrow();
            let domain = &snapshot.index.cluster().cluster_domain;
            let invalid = || {
                Status::invalid_argument(format!(
                    "invalid service {path:?}: not a name of the form <service>.<namespace>.svc.{domain}"
                ))
            };
            parse(&path, domain)
                .ok_or_else(invalid)
                .and_then(|asked| profile(&snapshot.index, &asked).map(|_| asked))
        };
        let asked = self.counted("GetProfile", found)?;
        let last: Option<DestinationProfile> = None;
        let compute = move |snapshot: &Snapshot, last: &mut Option<DestinationProfile>| {
            let now = profile(&snapshot.index, &asked).ok()?;
            if last.as_ref() == Some(&now) {
                return Some(Vec::new());
            }
            *last = Some(now.clone());
            Some(vec![now])
        };
        let stream = watch_snapshots(&self.0, ("destination", "GetProfile"), last, compute);
        Ok(Response::new(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_names_or_addresses() {
        let service = |port| {
            Some(Asked::Service {
                namespace: "shop".into(),
                name: "web".into(),
                port,
            })
        };
        for (path, want) in [
            ("web.shop.svc.cluster.local:8080", service(8080)),
            ("WEB.shop.svc.cluster.local.", service(80)),
            (
                "127.0.0.1:80",
                Some(Asked::Address(([127, 0, 0, 1], 80).into())),
            ),
            ("web.shop", None),
            ("web.shop.svc.cluster.local:0", None),
            ("web.shop.svc.cluster.local:70000", None),
            (".shop.svc.cluster.local", None),
            ("", None),
        ] {
            assert_eq!(parse(path, "cluster.local"), want, "{path}");
        }
    }
}
