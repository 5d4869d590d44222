//! `io.linkerd.proxy.destination.Destination`: where a Service's endpoints are, and what is known of a destination.

use super::{
    Answers, Begin, Shared,
    endpoints::{Endpoints, Told, changes},
    hints::Hints,
    path::{self, Asked, InvalidPath, Place, parse},
    profile::profile,
    requirement::{annotate, of_workload},
    watch_snapshots,
};
use crate::metrics::{About, Name, Overflow, ProfileSubscriber, Subscriber};
use linkerd_policy::{
    index::{Index, MtlsRequirement},
    resource::Service,
};
use linkerd2_proxy_api::destination::{
    DestinationProfile, GetDestination, Update, destination_server::Destination,
};
use std::{collections::HashMap, sync::Arc};
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Destinations {
    pub(crate) shared: Shared,
    pub(crate) hints: Arc<Hints>,
    pub(crate) endpoints: Arc<Endpoints>,
}

impl Destinations {
    /// What is counted when a client of this profile is slow. Names that only a client knows are not told apart.
    fn overflow(&self, asked: &Asked) -> Overflow {
        let snapshot = self.shared.snapshots.borrow();
        let index = &snapshot.index;
        match asked {
            Asked::Service(asked) if asked.instance.is_none() => {
                let service = index.service(&asked.namespace, &asked.name);
                match service.and_then(|service| service.port(asked.port)) {
                    Some(port) => Overflow::Profile(full_name(index, asked), port.port),
                    None => Overflow::Profile(String::new(), 0),
                }
            }
            Asked::Service(_) | Asked::Address(_) => Overflow::EndpointProfile,
        }
    }

    /// Shows that somebody watches the endpoints of a port that the Service declares: any other may be asked for.
    fn subscriber(&self, asked: &path::Service, place: &Place) -> Option<Subscriber> {
        let snapshot = self.shared.snapshots.borrow();
        let index = &snapshot.index;
        let service = index.service(&asked.namespace, &asked.name)?;
        service.port(asked.port)?;
        let is_local = service.spec.internal_traffic_policy.as_deref() == Some("Local");
        let node = place.client(index, false).node.filter(|_| is_local);
        let about = About {
            namespace: &asked.namespace,
            service: &asked.name,
            port: asked.port,
            instance: asked.instance.as_deref(),
            node,
        };
        Some(self.shared.metrics.subscribers.endpoints(about))
    }

    /// Shows that somebody watches the profile of a Service that there is.
    fn profile_subscriber(&self, asked: &Asked) -> Option<ProfileSubscriber> {
        let Asked::Service(asked) = asked else {
            return None;
        };
        let snapshot = self.shared.snapshots.borrow();
        let index = &snapshot.index;
        index.service(&asked.namespace, &asked.name)?;
        let full_name = full_name(index, asked);
        let subscribers = &self.shared.metrics.subscribers;
        Some(subscribers.profile(&asked.namespace, &asked.name, &full_name))
    }

    /// The Service that a `Get` is about.
    fn look_up(&self, path: &str) -> Result<path::Service, Status> {
        let snapshot = self.shared.snapshots.borrow();
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
                    Some(service) => match remote(service, path) {
                        Some(status) => Err(status),
                        None => Ok(asked),
                    },
                }
            }
        }
    }
}

/// Why the endpoints of a Service that stands for one of another cluster cannot be told. No other clusters are known
/// here, and a Service's own endpoints are not what is meant.
fn remote(service: &Service, path: &str) -> Option<Status> {
    const CLUSTER: &str = "multicluster.linkerd.io/remote-discovery";
    const SERVICE: &str = "multicluster.linkerd.io/remote-service";
    let labels = &service.metadata.labels;
    let cluster = labels.get(CLUSTER).filter(|name| !name.is_empty())?;
    Some(if labels.contains_key(SERVICE) {
        Status::not_found(format!("Remote cluster not found: {cluster}"))
    } else {
        let path = path::shown(path);
        let text = format!("Remote discovery service missing remote service name {path}");
        Status::failed_precondition(text)
    })
}

/// Labels of all endpoints of a Service, and those of the Service that it mirrors.
fn labels(index: &Index, asked: &path::Service) -> HashMap<String, String> {
    const CLUSTER: &str = "mirror.linkerd.io/cluster-name";
    const REMOTE: &str = "mirror.linkerd.io/remote-svc-fq-name";
    let mut labels = HashMap::from([
        ("namespace".to_owned(), asked.namespace.clone()),
        ("service".to_owned(), asked.name.clone()),
    ]);
    let service = index.service(&asked.namespace, &asked.name);
    let Some(metadata) = service.map(|service| &service.metadata) else {
        return labels;
    };
    let remote = metadata.annotations.get(REMOTE);
    if let Some((cluster, remote)) = metadata.labels.get(CLUSTER).zip(remote) {
        let mut parts = remote.split('.').map(str::to_owned);
        labels.insert("target_cluster".to_owned(), cluster.clone());
        let (name, namespace) = (parts.next(), parts.next());
        labels.insert("target_service".to_owned(), name.unwrap_or_default());
        let namespace = namespace.unwrap_or_default();
        labels.insert("target_service_namespace".to_owned(), namespace);
    }
    labels
}

/// The full name of a Service.
fn full_name(index: &Index, asked: &path::Service) -> String {
    let domain = index.cluster().cluster_domain.trim_end_matches('.');
    format!("{}.{}.svc.{domain}", asked.name, asked.namespace)
}

#[tonic::async_trait]
impl Destination for Destinations {
    type GetStream = Answers<Update>;

    async fn get(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        const NAME: Name = ("destination", "Get");
        let call = self.shared.metrics.begin(NAME);
        let found = self.look_up(&request.get_ref().path).and_then(|asked| {
            let place = self
                .shared
                .streams
                .begin(NAME, asked.to_string(), &request)?;
            Ok((asked, place))
        });
        let ((asked, stream), call) = self.shared.metrics.answered(call, found)?;
        let place = Place::of_token(&request.get_ref().context_token);
        let begin = Begin {
            call,
            place: stream,
            overflow: Overflow::Endpoints(full_name(&self.shared.snapshots.borrow().index, &asked)),
        };
        let Self {
            hints, endpoints, ..
        } = self.clone();
        let (namespace, name) = (asked.namespace.clone(), asked.name.clone());
        let required = move |index: &Index| index.outbound_mtls(&namespace, &name);
        let said = required(&self.shared.snapshots.borrow().index);
        let announced = said.clone();
        let subscriber = self.subscriber(&asked, &place);
        let compute = move |index: &Index, told: &mut Told| {
            if required(index) != said {
                return None;
            }
            let found = endpoints.of(index, &asked, &place, &hints);
            if let Some(subscriber) = &subscriber {
                subscriber.shows(&found);
            }
            let labels = labels(index, &asked);
            Some(changes(found, place.zone(index), labels, &hints, told))
        };
        let stream = watch_snapshots(&self.shared, begin, Told::default(), compute);
        let mut response = Response::new(stream);
        annotate(response.metadata_mut(), &announced);
        Ok(response)
    }

    type GetProfileStream = Answers<DestinationProfile>;

    async fn get_profile(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        const NAME: Name = ("destination", "GetProfile");
        let call = self.shared.metrics.begin(NAME);
        let place = Place::of_token(&request.get_ref().context_token);
        let found = {
            let snapshot = self.shared.snapshots.borrow();
            let domain = &snapshot.index.cluster().cluster_domain;
            parse(&request.get_ref().path, domain)
                .map_err(|error| Status::invalid_argument(error.to_string()))
                .and_then(|asked| profile(self, &snapshot.index, &asked, &place).map(|_| asked))
        };
        let found = found.and_then(|asked| {
            let stream = self
                .shared
                .streams
                .begin(NAME, asked.to_string(), &request)?;
            Ok((asked, stream))
        });
        let ((asked, stream), call) = self.shared.metrics.answered(call, found)?;
        let begin = Begin {
            call,
            place: stream,
            overflow: self.overflow(&asked),
        };
        let destinations = self.clone();
        let last: Option<DestinationProfile> = None;
        let required = {
            let asked = asked.clone();
            move |index: &Index| match &asked {
                Asked::Address(address) => of_workload(index, *address),
                Asked::Service(_) => MtlsRequirement::default(),
            }
        };
        let said = required(&self.shared.snapshots.borrow().index);
        let announced = said.clone();
        let subscriber = self.profile_subscriber(&asked);
        let compute = move |index: &Index, last: &mut Option<DestinationProfile>| {
            if required(index) != said {
                return None;
            }
            // What cannot be answered any more ends the stream: asked again, the client is told why.
            let now = profile(&destinations, index, &asked, &place).ok()?;
            if last.as_ref() == Some(&now) {
                return Some(Vec::new());
            }
            *last = Some(now.clone());
            if let Some(subscriber) = &subscriber {
                subscriber.sends();
            }
            Some(vec![now])
        };
        let stream = watch_snapshots(&self.shared, begin, last, compute);
        let mut response = Response::new(stream);
        annotate(response.metadata_mut(), &announced);
        Ok(response)
    }
}
