//! Which endpoints a stream watches, for `endpoints_*`: those of every Service that they come from.

use super::{
    endpoints::{Found, Now},
    origins::Origin,
    path::Place,
};
use crate::metrics::{About, Subscriber, Subscribers};
use linkerd_policy::index::Index;

/// What one `Get` stream watches.
#[derive(Debug, Default)]
pub(super) struct Watched(Vec<(Origin, Subscriber)>);

impl Watched {
    /// The client is to have this now.
    pub(super) fn show(
        &mut self,
        subscribers: &Subscribers,
        index: &Index,
        place: &Place,
        now: &Now,
    ) {
        self.0
            .retain(|(origin, _)| now.parts.iter().any(|part| part.origin == *origin));
        for part in &now.parts {
            let known = self.0.iter().position(|(known, _)| *known == part.origin);
            let at = known.or_else(|| {
                let subscriber = subscriber(subscribers, index, place, &part.origin)?;
                self.0.push((part.origin.clone(), subscriber));
                Some(self.0.len() - 1)
            });
            let list = match &part.found {
                Found::List(list) => Some(list.clone()),
                Found::NotYet | Found::Nothing => None,
            };
            if let Some((_, subscriber)) = at.and_then(|at| self.0.get(at)) {
                subscriber.shows(&list);
            }
        }
    }
}

/// Somebody watches the endpoints of a port that the Service declares: any other may be asked for.
fn subscriber(
    subscribers: &Subscribers,
    index: &Index,
    place: &Place,
    origin: &Origin,
) -> Option<Subscriber> {
    let asked = &origin.service;
    let of_cluster = match &origin.cluster {
        None => index,
        Some(cluster) => index.remote(cluster)?.index()?,
    };
    let service = of_cluster.service(&asked.namespace, &asked.name)?;
    service.port(asked.port)?;
    let is_local = origin.cluster.is_none()
        && service.spec.internal_traffic_policy.as_deref() == Some("Local");
    let node = place.client(index, false).node.filter(|_| is_local);
    Some(subscribers.endpoints(About {
        cluster: origin.cluster.as_deref(),
        namespace: &asked.namespace,
        service: &asked.name,
        port: asked.port,
        instance: asked.instance.as_deref(),
        node,
    }))
}
