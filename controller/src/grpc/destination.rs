//! `io.linkerd.proxy.destination.Destination`: where a Service's endpoints are, and what is known of a destination.

use super::{
    Answers, Shared,
    path::{self, Asked, InvalidPath, Place, parse},
    watch_snapshots,
    weighted::{address, weighted},
};
use crate::source::Snapshot;
use linkerd_policy::{
    index::{Endpoint, Index, select},
    proto::profile_to_api,
};
use linkerd2_proxy_api::{
    destination::{
        AddrSet, DestinationProfile, GetDestination, NoEndpoints, RetryBudget, Update,
        WeightedAddr, WeightedAddrSet, destination_server::Destination, update,
    },
    meta::{Metadata, Resource, metadata},
};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};
use tonic::{Code, Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Destinations(pub(crate) Shared);

impl Destinations {
    fn counted<T>(&self, method: &'static str, result: Result<T, Status>) -> Result<T, Status> {
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        self.0.metrics.called("destination", method, code);
        result
    }

    /// The Service that a `Get` is about.
    fn look_up(&self, path: &str) -> Result<path::Service, Status> {
        let snapshot = self.0.snapshots.borrow();
        let invalid =
            || Status::invalid_argument(format!("Invalid authority: {}", path::shown(path)));
        match parse(path, &snapshot.index.cluster().cluster_domain) {
            Err(InvalidPath::Authority { .. } | InvalidPath::Service { .. }) => Err(invalid()),
            Ok(Asked::Address(address)) => Err(Status::invalid_argument(format!(
                "IP queries not supported by Get API: host={}",
                address.ip()
            ))),
            Ok(Asked::Service(asked)) => {
                match snapshot.index.service(&asked.namespace, &asked.name) {
                    None => Err(Status::not_found(format!(
                        "Service {}.{} not found",
                        asked.name, asked.namespace
                    ))),
                    Some(service) if service.is_external_name() => Err(invalid()),
                    Some(_) => Ok(asked),
                }
            }
        }
    }
}

/// The endpoints of a Service that a client at `place` should use; `None` if there is no Service.
fn endpoints(index: &Index, asked: &path::Service, place: &Place) -> Option<Vec<Arc<Endpoint>>> {
    let service = index.service(&asked.namespace, &asked.name)?;
    let all = index.endpoints(&asked.namespace, &asked.name, asked.port)?;
    let all: Vec<_> = all.into_iter().map(Arc::new).collect();
    let client = place.client(index);
    Some(select(service, &all, asked.instance.as_deref(), client))
}

/// What one `Get` stream has told its client.
#[derive(Debug, Default)]
struct Told {
    endpoints: BTreeMap<SocketAddr, WeightedAddr>,
    begun: bool,
}

/// What changed of a Service's endpoints: additions first, then removals (control plane §4.2).
///
/// Unlike the peer's, a Service that exists without endpoints says so; otherwise its client could not tell it from a
/// stream that is slow. `None` is a Service that is gone: all its endpoints are removed and the stream remains.
fn changes(
    endpoints: Option<&[Arc<Endpoint>]>,
    zone: Option<&str>,
    labels: HashMap<String, String>,
    told: &mut Told,
) -> Vec<Update> {
    let now: BTreeMap<SocketAddr, WeightedAddr> = endpoints
        .unwrap_or_default()
        .iter()
        .map(|endpoint| {
            (
                SocketAddr::new(endpoint.addr, endpoint.port),
                weighted(endpoint, zone),
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
    if endpoints.is_some() && now.is_empty() && (is_first || !removed.is_empty()) {
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
fn profile(index: &Index, asked: &Asked, place: &Place) -> Result<DestinationProfile, Status> {
    let at = match asked {
        Asked::Service(asked) if asked.instance.is_some() => {
            return instance_profile(index, asked, place);
        }
        Asked::Service(asked) => return Ok(service_profile(index, asked, place)),
        Asked::Address(at) => at,
    };
    let ambiguous = |error: &dyn std::fmt::Display| Status::failed_precondition(error.to_string());
    let service = index.service_by_ip(at.ip());
    if let Some(service) = service.map_err(|error| ambiguous(&error))? {
        let asked = path::Service {
            namespace: service.metadata.namespace.clone(),
            name: service.metadata.name.clone(),
            instance: None,
            port: at.port(),
        };
        return Ok(service_profile(index, &asked, place));
    }
    let endpoint = index.workload_by_ip(at.ip(), at.port());
    Ok(match endpoint.map_err(|error| ambiguous(&error))? {
        Some(endpoint) => endpoint_profile(index, &endpoint, place),
        None => DestinationProfile {
            retry_budget: Some(default_budget()),
            endpoint: Some(WeightedAddr {
                addr: Some(address(at.ip(), at.port())),
                weight: 10_000,
                ..WeightedAddr::default()
            }),
            ..DestinationProfile::default()
        },
    })
}

fn endpoint_profile(index: &Index, endpoint: &Endpoint, place: &Place) -> DestinationProfile {
    let mut addr = weighted(endpoint, place.zone(index));
    if let Some(workload) = &endpoint.workload {
        let namespace = workload.namespace().to_owned();
        addr.metric_labels.insert("namespace".into(), namespace);
    }
    DestinationProfile {
        retry_budget: Some(default_budget()),
        opaque_protocol: endpoint.opaque,
        endpoint: Some(addr),
        ..DestinationProfile::default()
    }
}

/// The endpoint of a name like `web-0.web.shop.svc`.
fn instance_profile(
    index: &Index,
    asked: &path::Service,
    place: &Place,
) -> Result<DestinationProfile, Status> {
    let found = endpoints(index, asked, place).unwrap_or_default();
    match found.first() {
        Some(endpoint) => Ok(endpoint_profile(index, endpoint, place)),
        None => Err(Status::not_found(format!("no endpoint {asked}"))),
    }
}

/// A Service's profile, as its ServiceProfile, its TrafficSplit and its annotations say; an empty one if the Service
/// does not exist or does not declare the port.
///
/// The peer fails a stream for an unknown Service with code Unknown. Here it stays open, so that a Service which
/// appears later is known at once and its clients need not ask again and again.
fn service_profile(index: &Index, asked: &path::Service, place: &Place) -> DestinationProfile {
    let Some(service) = index
        .service(&asked.namespace, &asked.name)
        .filter(|service| service.port(asked.port).is_some())
    else {
        return DestinationProfile::default();
    };
    let resource = Resource {
        group: "core".into(),
        kind: "Service".into(),
        namespace: asked.namespace.clone(),
        name: asked.name.clone(),
        port: asked.port.into(),
        ..Resource::default()
    };
    let profile = index.service_profile(place.namespace(), service, asked.port);
    DestinationProfile {
        parent_ref: Some(Metadata {
            kind: Some(metadata::Kind::Resource(resource)),
        }),
        ..profile_to_api(&profile)
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
        const NAME: (&str, &str) = ("destination", "Get");
        let found = self.look_up(&request.get_ref().path).and_then(|asked| {
            let place = self.0.streams.begin(NAME, asked.to_string(), &request)?;
            Ok((asked, place))
        });
        let (asked, stream) = self.counted(NAME.1, found)?;
        let place = Place::of_token(&request.get_ref().context_token);
        let compute = move |snapshot: &Snapshot, told: &mut Told| {
            let index = &snapshot.index;
            let endpoints = endpoints(index, &asked, &place);
            let labels = HashMap::from([
                ("namespace".to_owned(), asked.namespace.clone()),
                ("service".to_owned(), asked.name.clone()),
            ]);
            Some(changes(
                endpoints.as_deref(),
                place.zone(index),
                labels,
                told,
            ))
        };
        let stream = watch_snapshots(&self.0, NAME, stream, Told::default(), compute);
        Ok(Response::new(stream))
    }

    type GetProfileStream = Answers<DestinationProfile>;

    async fn get_profile(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        const NAME: (&str, &str) = ("destination", "GetProfile");
        let place = Place::of_token(&request.get_ref().context_token);
        let found = {
            let snapshot = self.0.snapshots.borrow();
            let domain = &snapshot.index.cluster().cluster_domain;
            parse(&request.get_ref().path, domain)
                .map_err(|error| Status::invalid_argument(error.to_string()))
                .and_then(|asked| profile(&snapshot.index, &asked, &place).map(|_| asked))
        };
        let found = found.and_then(|asked| {
            let stream = self.0.streams.begin(NAME, asked.to_string(), &request)?;
            Ok((asked, stream))
        });
        let (asked, stream) = self.counted(NAME.1, found)?;
        let last: Option<DestinationProfile> = None;
        let compute = move |snapshot: &Snapshot, last: &mut Option<DestinationProfile>| {
            // What cannot be answered any more ends the stream: asked again, the client is told why.
            let now = profile(&snapshot.index, &asked, &place).ok()?;
            if last.as_ref() == Some(&now) {
                return Some(Vec::new());
            }
            *last = Some(now.clone());
            Some(vec![now])
        };
        let stream = watch_snapshots(&self.0, NAME, stream, last, compute);
        Ok(Response::new(stream))
    }
}
