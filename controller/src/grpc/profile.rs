//! What `GetProfile` answers (control plane §4.5).

use super::{
    destination::Destinations,
    hints::Hints,
    path::{self, Asked, Place},
    weighted::{address, weighted},
};
use linkerd_policy::{
    index::{Endpoint, Index, WorkloadRef},
    proto::profile_to_api,
};
use linkerd2_proxy_api::{
    destination::{DestinationProfile, RetryBudget, WeightedAddr},
    meta::{Metadata, Resource, metadata},
};
use tonic::Status;

/// The profile of what was asked for, now.
pub(super) fn profile(
    destinations: &Destinations,
    index: &Index,
    asked: &Asked,
    place: &Place,
) -> Result<DestinationProfile, Status> {
    let hints = &destinations.hints;
    let at = match asked {
        Asked::Service(asked) if asked.instance.is_some() => {
            return instance_profile(destinations, index, asked, place);
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
        Some(endpoint) => endpoint_profile(hints, index, &endpoint, place),
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

fn endpoint_profile(
    hints: &Hints,
    index: &Index,
    endpoint: &Endpoint,
    place: &Place,
) -> DestinationProfile {
    let mut addr = weighted(endpoint, place.zone(index), hints);
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
    destinations: &Destinations,
    index: &Index,
    asked: &path::Service,
    place: &Place,
) -> Result<DestinationProfile, Status> {
    let hints = &destinations.hints;
    let found = destinations.endpoints.of(index, asked, place, hints);
    let found = found.map_err(|error| error.status(&asked.to_string()))?;
    if let Some(endpoint) = found.all().next() {
        return Ok(endpoint_profile(hints, index, endpoint, place));
    }
    // A Pod that is not ready yet is no endpoint, and has a profile all the same.
    let pod = asked.instance.as_ref().map(|pod| WorkloadRef::Pod {
        ns: asked.namespace.clone(),
        pod: pod.clone(),
    });
    match pod.and_then(|pod| index.instance(&asked.name, &pod, asked.port)) {
        Some(endpoint) => Ok(endpoint_profile(hints, index, &endpoint, place)),
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
    let in_force = index.profile_in_force(place.namespace(), service);
    DestinationProfile {
        profile_ref: in_force.map(|profile| Metadata {
            kind: Some(metadata::Kind::Resource(Resource {
                group: "linkerd.io".into(),
                kind: "ServiceProfile".into(),
                namespace: profile.metadata.namespace.clone(),
                name: profile.metadata.name.clone(),
                ..Resource::default()
            })),
        }),
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
