//! `io.linkerd.proxy.destination.Destination`: where a Service's endpoints are, and what is known of a destination.

use super::{
    Answers, Begin, Shared,
    changes::{Told, changes},
    endpoints::Endpoints,
    hints::Hints,
    origins::{full_name, origins},
    path::{self, Asked, InvalidPath, Place, parse},
    profile::profile,
    requirement::{annotate, of_workload},
    watch_snapshots,
    watched::Watched,
};
use crate::metrics::{Name, Overflow, ProfileSubscriber};
use linkerd_policy::index::{Index, MtlsRequirement};
use linkerd2_proxy_api::destination::{
    DestinationProfile, GetDestination, Update, destination_server::Destination,
};
use std::sync::Arc;
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
                    Some(_) => match origins(&snapshot.index, &asked) {
                        Ok(_) => Ok(asked),
                        Err(error) => Err(error.status(path)),
                    },
                }
            }
        }
    }
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
        let metrics = self.shared.metrics.clone();
        let compute = move |index: &Index, (told, watched): &mut (Told, Watched)| {
            if required(index) != said {
                return None;
            }
            // What cannot be answered any more ends the stream: asked again, the client is told why.
            let now = endpoints.of(index, &asked, &place, &hints).ok()?;
            watched.show(&metrics.subscribers, index, &place, &now);
            Some(changes(index, now, place.zone(index), &hints, told))
        };
        let stream = watch_snapshots(&self.shared, begin, Default::default(), compute);
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
