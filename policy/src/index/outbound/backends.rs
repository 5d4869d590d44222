//! Where a rule's traffic goes: its backendRefs, or its parent.

use super::{Parent, ParentKind, QUEUE, Settings, bare, failure};
use crate::{
    index::{
        Index,
        attach::{Resolved, Unresolved},
        routes,
    },
    outbound::{Backend, Dispatcher, Distribution, Load, Ref, Refusal, RouteBackend},
    resource::{POLICY_GROUP, route as api},
    server::Filter,
};

/// Filters of a rule or backend. One that is not implemented fails requests: leaving it out could let through what was
/// meant to be changed.
pub(super) fn filters(list: &[api::RouteFilter], is_http: bool) -> Vec<Filter> {
    let one = |filter: &api::RouteFilter| {
        let unsupported = || {
            failure(
                if is_http { 500 } else { 13 },
                format!("unsupported filter type {}", filter.kind),
            )
        };
        match filter.kind.as_str() {
            "RequestHeaderModifier" => {
                let modifier = filter.request_header_modifier.as_ref()?;
                let modifier = routes::header_modifier("filters", modifier);
                Some(modifier.map_or_else(|_| unsupported(), Filter::RequestHeaders))
            }
            "ResponseHeaderModifier" if is_http => {
                let modifier = filter.response_header_modifier.as_ref()?;
                let modifier = routes::header_modifier("filters", modifier);
                Some(modifier.map_or_else(|_| unsupported(), Filter::ResponseHeaders))
            }
            "RequestRedirect" if is_http => {
                let redirect = filter.request_redirect.as_ref()?;
                Some(Filter::Redirect(routes::redirect(redirect)))
            }
            _ => Some(unsupported()),
        }
    };
    list.iter()
        .map(|filter| {
            one(filter)
                .unwrap_or_else(|| failure(500, format!("filter {} says nothing", filter.kind)))
        })
        .collect()
}

impl Index {
    /// The parent itself as a backend.
    pub(super) fn default_backend(&self, parent: &Parent<'_>, settings: &Settings) -> RouteBackend {
        let dispatcher = match (parent.kind, parent.address) {
            (ParentKind::Service(_), _) => {
                let (namespace, name) = (&parent.metadata.namespace, &parent.metadata.name);
                self.balance(namespace, name, parent.port, settings.load)
            }
            (ParentKind::Egress(_), Some(address)) => Dispatcher::Forward(bare(address)),
            (ParentKind::Egress(_), None) => {
                return missing(
                    parent.reference(),
                    500,
                    "EgressNetwork can be resolved from an ip:port combo only",
                );
            }
        };
        RouteBackend {
            backend: Backend {
                meta: parent.reference(),
                dispatcher: Some(dispatcher),
                queue: QUEUE,
            },
            filters: Vec::new(),
            refusal: None,
        }
    }

    fn balance(&self, namespace: &str, name: &str, port: u16, load: Load) -> Dispatcher {
        let domain = self.cluster().cluster_domain.trim_end_matches('.');
        Dispatcher::Balance {
            path: format!("{name}.{namespace}.svc.{domain}:{port}"),
            load,
        }
    }

    pub(super) fn http_backends(
        &self,
        parent: &Parent<'_>,
        settings: &Settings,
        refs: &[api::BackendRef],
        is_http: bool,
    ) -> Distribution {
        if refs.is_empty() {
            return Distribution::FirstAvailable(vec![self.default_backend(parent, settings)]);
        }
        let status = if is_http { 500 } else { 13 };
        let weighed = refs.iter().map(|each| {
            let mut backend = match self.backend(parent, each, settings) {
                Ok(backend) => backend,
                Err(wrong) => missing(wrong.0, status, wrong.1),
            };
            backend.filters.extend(filters(&each.filters, is_http));
            (backend, each.weight.unwrap_or(1))
        });
        distribution(weighed.collect())
    }

    pub(super) fn stream_backends(
        &self,
        parent: &Parent<'_>,
        refs: &[api::BackendRef],
    ) -> Distribution {
        // Connections are not failed by their answers: plain load estimation.
        let settings = Settings::default();
        if refs.is_empty() {
            return Distribution::FirstAvailable(vec![self.default_backend(parent, &settings)]);
        }
        let weighed = refs.iter().map(|each| {
            let backend = match self.backend(parent, each, &settings) {
                Ok(backend) => backend,
                Err(wrong) => RouteBackend {
                    filters: Vec::new(),
                    refusal: Some(Refusal::Invalid(wrong.1)),
                    ..missing(wrong.0, 500, String::new())
                },
            };
            (backend, each.weight.unwrap_or(1))
        });
        distribution(weighed.collect())
    }

    /// A backend, or what it is called and why it cannot be used (boxed: both are large, and it is rare).
    fn backend(
        &self,
        parent: &Parent<'_>,
        each: &api::BackendRef,
        settings: &Settings,
    ) -> Result<RouteBackend, Box<(Ref, String)>> {
        let target = parent.target();
        let port = each.port.and_then(|port| u16::try_from(port).ok());
        let meta = |group: &str, kind: &str| Ref::Resource {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: each
                .namespace
                .as_deref()
                .unwrap_or(target.namespace)
                .to_owned(),
            name: each.name.clone(),
            port,
            section: String::new(),
        };
        let usable = |meta, dispatcher| RouteBackend {
            backend: Backend {
                meta,
                dispatcher: Some(dispatcher),
                queue: QUEUE,
            },
            filters: Vec::new(),
            refusal: None,
        };
        let service = || meta("core", "Service");
        let egress = || meta(POLICY_GROUP, "EgressNetwork");
        let by_name = "EgressNetwork can be resolved from an ip:port combo only";
        match (self.resolve(&target, each), parent.address) {
            (Ok(Resolved::Service { namespace, port }), _) => {
                let dispatcher = self.balance(namespace, &each.name, port, settings.load);
                Ok(usable(service(), dispatcher))
            }
            (Ok(Resolved::Parent), Some(address)) => {
                Ok(usable(egress(), Dispatcher::Forward(bare(address))))
            }
            (
                Ok(Resolved::Parent)
                | Err(Unresolved::NoEgressNetwork | Unresolved::OtherEgressNetwork),
                None,
            ) => Err(Box::new((egress(), by_name.to_owned()))),
            (Err(wrong), _) => {
                let meta = match wrong {
                    Unresolved::NoPort | Unresolved::NoService => service(),
                    Unresolved::Kind => Ref::default_named("invalid"),
                    Unresolved::NoEgressNetwork
                    | Unresolved::OtherEgressNetwork
                    | Unresolved::NotEgress => egress(),
                };
                Err(Box::new((meta, wrong.message(each))))
            }
        }
    }
}

/// A backend that cannot be used: requests are told so.
fn missing(meta: Ref, status: u16, message: impl Into<String>) -> RouteBackend {
    RouteBackend {
        backend: Backend {
            meta,
            dispatcher: None,
            queue: QUEUE,
        },
        filters: vec![failure(status, message)],
        refusal: None,
    }
}

/// Weights of which none counts send traffic nowhere.
fn distribution(weighed: Vec<(RouteBackend, u32)>) -> Distribution {
    if weighed.iter().all(|(_, weight)| *weight == 0) {
        return Distribution::Empty;
    }
    Distribution::RandomAvailable(weighed)
}
