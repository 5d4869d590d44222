//! Probe routes: what the node's kubelet asks is allowed whatever the policy of the port.
//!
//! They are a layer of their own: they come from the workload's own declaration of its probes, they stay when routes
//! are attached to the port, and only `config.linkerd.io/probe-authorization: disabled` takes them away.

use super::{Workload, annotations, authorizations::plain, workload::Settings};
use crate::{
    resource::{
        PortRef,
        workload::{Container, Probe, is_tcp},
    },
    server::{
        Authentication, Authorization, GrpcMatch, GrpcRoute, GrpcRule, HttpMatch, HttpRoute,
        HttpRule, Meta, PathMatch,
    },
};
use http::Method;
use std::collections::BTreeSet;

/// The proxy's admin port, if the workload's manifest names no other.
const ADMIN_PORT: u16 = 4191;
/// Name of the admin port where the proxy's container declares it.
const ADMIN_PORT_NAME: &str = "linkerd-admin";
/// Probe paths of the proxy's own admin server.
const ADMIN_PATHS: [&str; 2] = ["/live", "/ready"];
/// Service and method of gRPC health checks.
const HEALTH_SERVICE: &str = "grpc.health.v1.Health";
const HEALTH_METHOD: &str = "Check";

/// What is probed on one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probes {
    /// Paths of HTTP probes, without queries.
    pub(crate) paths: BTreeSet<String>,
    /// Whether there is a gRPC health check.
    pub(crate) grpc: bool,
    /// Whether there is an HTTP probe inside the application's own TLS, which no proxy can tell from other traffic.
    pub(crate) https: bool,
    /// Whether there is a probe that only connects.
    pub(crate) tcp: bool,
}

impl Probes {
    /// Probes of one port as the workload declares them.
    pub(crate) fn declared(workload: &Workload, port: u16) -> Self {
        let mut probes = Self::default();
        if is_admin(workload, port) {
            let paths = ADMIN_PATHS.iter().map(|&p| p.to_owned());
            probes.paths.extend(paths);
        }
        if let Workload::Pod(pod) = workload {
            for container in pod.containers() {
                let all = [
                    &container.liveness_probe,
                    &container.readiness_probe,
                    &container.startup_probe,
                ];
                for probe in all.into_iter().flatten() {
                    probes.add(container, probe, port);
                }
            }
        }
        probes
    }

    fn add(&mut self, container: &Container, probe: &Probe, port: u16) {
        if let Some(get) = &probe.http_get
            && is_port(container, &get.port, port)
        {
            if get
                .scheme
                .as_deref()
                .is_some_and(|s| s.eq_ignore_ascii_case("https"))
            {
                self.https = true;
            } else {
                self.paths.insert(path(get.path.as_deref()));
            }
        }
        self.grpc |= probe.grpc.as_ref().is_some_and(|g| g.port == port);
        let socket = probe.tcp_socket.as_ref();
        self.tcp |= socket.is_some_and(|t| is_port(container, &t.port, port));
    }

    /// The probe route of an HTTP port.
    fn http_route(&self, authorization: Authorization) -> Option<HttpRoute> {
        let get = |path: &String| (Method::GET, path.clone());
        let check = format!("/{HEALTH_SERVICE}/{HEALTH_METHOD}");
        let check = self.grpc.then_some((Method::POST, check));
        let matches: Vec<HttpMatch> = self
            .paths
            .iter()
            .map(get)
            .chain(check)
            .map(|(method, path)| HttpMatch {
                path: Some(PathMatch::Exact(path)),
                method: Some(method),
                ..HttpMatch::default()
            })
            .collect();
        (!matches.is_empty()).then(|| HttpRoute {
            meta: authorization.meta.clone(),
            hosts: Vec::new(),
            authorizations: vec![authorization],
            rules: vec![HttpRule {
                matches,
                filters: Vec::new(),
            }],
        })
    }

    /// The probe route of a gRPC port.
    fn grpc_route(&self, authorization: Authorization) -> Option<GrpcRoute> {
        self.grpc.then(|| GrpcRoute {
            meta: authorization.meta.clone(),
            hosts: Vec::new(),
            authorizations: vec![authorization],
            rules: vec![GrpcRule {
                matches: vec![GrpcMatch {
                    service: HEALTH_SERVICE.to_owned(),
                    method: HEALTH_METHOD.to_owned(),
                    headers: Vec::new(),
                }],
                filters: Vec::new(),
            }],
        })
    }
}

/// Path without its query, with a leading `/`.
fn path(path: Option<&str>) -> String {
    let path = path.unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default();
    match path.strip_prefix('/') {
        Some(_) => path.to_owned(),
        None => format!("/{path}"),
    }
}

/// Named ports are those of the probe's own container.
fn is_port(container: &Container, wanted: &PortRef, port: u16) -> bool {
    match wanted {
        PortRef::Number(number) => *number == port,
        PortRef::Name(name) => container.ports.iter().any(|p| {
            p.container_port == port
                && is_tcp(p.protocol.as_deref())
                && p.name.as_deref() == Some(name)
        }),
    }
}

fn is_admin(workload: &Workload, port: u16) -> bool {
    let named = workload.ports_named(ADMIN_PORT_NAME);
    match named.as_slice() {
        [] => port == ADMIN_PORT,
        ports => ports.contains(&port),
    }
}

/// Whether probes are authorized at all for this workload.
pub(crate) fn enabled(settings: Settings<'_>) -> bool {
    settings
        .annotation(annotations::PROBE_AUTHORIZATION)
        .is_none_or(|v| !v.trim().eq_ignore_ascii_case("disabled"))
}

fn authorization(settings: Settings<'_>) -> Option<Authorization> {
    let networks = &settings.cluster.probe_networks;
    (!networks.is_empty() && enabled(settings)).then(|| Authorization {
        meta: Meta::default_named("probe"),
        networks: plain(networks),
        authentication: Authentication::Unauthenticated,
    })
}

/// The probe route of an HTTP port, if probes are declared there.
pub(super) fn http_route(settings: Settings<'_>, port: u16) -> Option<HttpRoute> {
    let authorization = authorization(settings)?;
    Probes::declared(settings.workload, port).http_route(authorization)
}

/// The probe route of a gRPC port, if probes are declared there.
pub(super) fn grpc_route(settings: Settings<'_>, port: u16) -> Option<GrpcRoute> {
    let authorization = authorization(settings)?;
    Probes::declared(settings.workload, port).grpc_route(authorization)
}
