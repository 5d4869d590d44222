//! Where a rule's traffic goes: its backendRefs, or its parent.

use super::{Parent, ParentKind, QUEUE, Settings, bare, failure};
use crate::{
    index::{Index, routes},
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
        let group = each.group.as_deref().unwrap_or_default();
        let kind = each.kind.as_deref().unwrap_or("Service");
        let namespace = each
            .namespace
            .as_ref()
            .unwrap_or(&parent.metadata.namespace);
        let port = each.port.and_then(|port| u16::try_from(port).ok());
        let meta = |group: &str, kind: &str| Ref::Resource {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.clone(),
            name: each.name.clone(),
            port,
            section: String::new(),
        };
        let is_core = group.is_empty() || group.eq_ignore_ascii_case("core");
        if is_core && kind.eq_ignore_ascii_case("Service") {
            let meta = meta("core", "Service");
            let Some(port) = port else {
                return Err(Box::new((
                    meta,
                    format!("missing port for backend Service {}", each.name),
                )));
            };
            if self.service(namespace, &each.name).is_none() {
                return Err(Box::new((meta, format!("Service not found {}", each.name))));
            }
            return Ok(RouteBackend {
                backend: Backend {
                    meta,
                    dispatcher: Some(self.balance(namespace, &each.name, port, settings.load)),
                    queue: QUEUE,
                },
                filters: Vec::new(),
                refusal: None,
            });
        }
        if group == POLICY_GROUP && kind.eq_ignore_ascii_case("EgressNetwork") {
            let meta = meta(POLICY_GROUP, "EgressNetwork");
            return match (parent.kind, parent.address) {
                (ParentKind::Service(_), _) => Err(Box::new((
                    meta,
                    "EgressNetwork backends attach to EgressNetwork parents only".to_owned(),
                ))),
                (ParentKind::Egress(_), None) => Err(Box::new((
                    meta,
                    "EgressNetwork can be resolved from an ip:port combo only".to_owned(),
                ))),
                (ParentKind::Egress(egress), Some(address))
                    if egress.metadata.name == each.name
                        && egress.metadata.namespace == *namespace =>
                {
                    Ok(RouteBackend {
                        backend: Backend {
                            meta,
                            dispatcher: Some(Dispatcher::Forward(bare(address))),
                            queue: QUEUE,
                        },
                        filters: Vec::new(),
                        refusal: None,
                    })
                }
                (ParentKind::Egress(_), Some(_)) => Err(Box::new((
                    meta,
                    "Route with EgressNetwork backend needs to have the same EgressNetwork as a parent"
                        .to_owned(),
                ))),
            };
        }
        Err(Box::new((
            Ref::default_named("invalid"),
            format!("unsupported backend type {group} {kind}"),
        )))
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
