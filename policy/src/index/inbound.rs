//! The policy of one port of one workload.

use super::{Index, Part, Workload, WorkloadRef, authorizations::about_server, workload::Settings};
use crate::{
    default_policy::DefaultPolicy,
    resource::{
        HttpLocalRateLimitPolicy, POLICY_GROUP, ProxyProtocol, Server, WorkloadSelector, policy,
    },
    server::{self, HttpPolicy, Meta, Protocol, RateLimit, RateLimitOverride, ServerPolicy},
};
use std::time::Duration;

/// Limit of HTTP detection.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Index {
    /// What `port` of a workload enforces; `None` if the workload is not known.
    ///
    /// A port that no Server selects has the workload's default policy.
    pub fn inbound(&self, workload: &WorkloadRef, port: u16) -> Option<ServerPolicy> {
        let namespace = workload.namespace();
        let part = self.part(namespace);
        let settings = Settings {
            cluster: self.cluster(),
            part,
            workload: part.workload(workload)?,
        };
        Some(match part.keeper(settings.workload, port) {
            Some(server) => self.selected(namespace, settings, server, port),
            None => self.default_server(settings, port),
        })
    }

    /// A port that a Server selects.
    fn selected(
        &self,
        namespace: &str,
        settings: Settings<'_>,
        server: &Server,
        port: u16,
    ) -> ServerPolicy {
        let name = &server.metadata.name;
        let mut authorizations = self.server_authorizations(namespace, settings.part, server);
        if let Some(mode) = access_policy(server) {
            let networks = &self.cluster().cluster_networks;
            authorizations.extend(mode.authorization(networks));
        }
        let http = || HttpPolicy {
            routes: self.http_routes(namespace, settings, Some(server), port),
            rate_limit: self.rate_limit(namespace, settings.part, server),
        };
        let protocol = match server.spec.proxy_protocol {
            ProxyProtocol::Unknown => Protocol::Detect {
                timeout: DETECT_TIMEOUT,
                http: http(),
            },
            ProxyProtocol::Http1 => Protocol::Http1(http()),
            ProxyProtocol::Http2 => Protocol::Http2(http()),
            ProxyProtocol::Grpc => Protocol::Grpc {
                routes: self.grpc_routes(namespace, settings, server, port),
            },
            ProxyProtocol::Opaque => Protocol::Opaque,
            ProxyProtocol::Tls => Protocol::Tls,
        };
        ServerPolicy {
            meta: Meta::resource(POLICY_GROUP, "server", name),
            protocol,
            authorizations,
        }
    }

    /// A port that no Server selects.
    fn default_server(&self, settings: Settings<'_>, port: u16) -> ServerPolicy {
        let mut policy = settings.default_policy();
        if settings.requires_identity(port) {
            policy = match policy {
                DefaultPolicy::AllUnauthenticated => DefaultPolicy::AllAuthenticated,
                DefaultPolicy::ClusterUnauthenticated => DefaultPolicy::ClusterAuthenticated,
                other => other,
            };
        }
        let protocol = if settings.opaque_ports().contains(port) {
            Protocol::Opaque
        } else {
            Protocol::Detect {
                timeout: DETECT_TIMEOUT,
                http: HttpPolicy {
                    routes: self.http_routes("", settings, None, port),
                    rate_limit: None,
                },
            }
        };
        policy.server_policy(&self.cluster().cluster_networks, protocol)
    }

    /// The rate limit in force on a Server: of those that name it the oldest, then the first by name.
    fn rate_limit(&self, namespace: &str, part: Part<'_>, server: &Server) -> Option<RateLimit> {
        let limit = accepted_rate_limit(part, &server.metadata.name)?;
        let per_second = |l: policy::Limit| per_second(l.requests_per_second);
        Some(RateLimit {
            meta: Some(Meta::resource(
                POLICY_GROUP,
                "HTTPLocalRateLimitPolicy",
                &limit.metadata.name,
            )),
            total: limit.spec.total.map(per_second),
            identity: limit.spec.identity.map(per_second),
            overrides: limit
                .spec
                .overrides
                .iter()
                .map(|o| RateLimitOverride {
                    requests_per_second: self::per_second(o.requests_per_second),
                    identities: o
                        .client_refs
                        .iter()
                        .map(|c| {
                            let ns = c.namespace(namespace);
                            self.cluster().service_account_identity(ns, &c.name)
                        })
                        .collect(),
                })
                .collect(),
        })
    }
}

/// The loader lets nothing below 1 or above `u32::MAX` through.
fn per_second(value: i64) -> u32 {
    u32::try_from(value.max(1)).unwrap_or(u32::MAX)
}

/// Of the rate limits that name a Server, the one that is accepted.
pub(crate) fn accepted_rate_limit<'a>(
    part: Part<'a>,
    server: &str,
) -> Option<&'a HttpLocalRateLimitPolicy> {
    part.rate_limits(&about_server(server))
        .filter(|l| l.spec.target_ref.is_server() && l.spec.target_ref.name == server)
        .min_by_key(|l| l.metadata.age_key())
}

/// The mode of a Server's `accessPolicy`; `deny` authorizes nobody and is the default.
pub(crate) fn access_policy(server: &Server) -> Option<DefaultPolicy> {
    server.spec.access_policy.as_deref()?.parse().ok()
}

/// Whether a Server selects a workload, without regard to the port.
pub(crate) fn selects_workload(server: &Server, workload: &Workload) -> bool {
    let labels = &workload.metadata().labels;
    match (server.spec.selector(), workload) {
        (Some(WorkloadSelector::Pods(selector)), Workload::Pod(_))
        | (Some(WorkloadSelector::ExternalWorkloads(selector)), Workload::ExternalWorkload(_)) => {
            selector.matches(labels)
        }
        _ => false,
    }
}

/// Whether a Server selects a port of a workload.
pub(crate) fn selects_port(server: &Server, workload: &Workload, port: u16) -> bool {
    workload.is_port(&server.spec.port, port) && selects_workload(server, workload)
}

/// The default route of HTTP ports: every request, with the authorizations of the Server.
pub(super) fn default_http_route() -> server::HttpRoute {
    server::HttpRoute {
        meta: Meta::default_named("default"),
        hosts: Vec::new(),
        authorizations: Vec::new(),
        rules: vec![server::HttpRule {
            matches: vec![server::HttpMatch {
                path: Some(server::PathMatch::Prefix("/".to_owned())),
                ..server::HttpMatch::default()
            }],
            filters: Vec::new(),
        }],
    }
}
