//! Label groups of outbound series. The order is that of the table in `linkerd_metrics::describe`.

use crate::http::client::Dial;
use linkerd_metrics::Labels;
use linkerd_policy::outbound::{Endpoint, Ref};
use std::net::SocketAddr;

/// `parent_*`: what the traffic is for.
pub(super) fn parent(parent: &Ref) -> Labels {
    reference("parent", parent)
}

/// `backend_*`: where a rule sends it.
pub(super) fn backend(backend: &Ref) -> Labels {
    reference("backend", backend)
}

fn reference(prefix: &str, of: &Ref) -> Labels {
    let port = of.port().map(|port| port.to_string()).unwrap_or_default();
    Labels::new()
        .with(format!("{prefix}_group"), of.group())
        .with(format!("{prefix}_kind"), of.kind())
        .with(format!("{prefix}_namespace"), of.namespace())
        .with(format!("{prefix}_name"), of.name())
        .with(format!("{prefix}_port"), port)
        .with(format!("{prefix}_section_name"), of.section())
}

/// `route_*`.
pub(super) fn route(route: &Ref) -> Labels {
    Labels::new()
        .with("route_group", route.group())
        .with("route_kind", route.kind())
        .with("route_namespace", route.namespace())
        .with("route_name", route.name())
}

/// Where the application was going: `target_*`.
pub(super) fn target(address: SocketAddr) -> Labels {
    Labels::new()
        .with("target_addr", address)
        .with("target_ip", address.ip())
        .with("target_port", address.port())
}

/// Connections of the application to this proxy.
pub(super) fn source(original: Option<SocketAddr>) -> Labels {
    Labels::new()
        .with("direction", "outbound")
        .with("peer", "src")
        .extend(&original.map(target).unwrap_or_default())
        .with("tls", "no_identity")
        .with("no_tls_reason", "loopback")
}

/// A way to somewhere.
pub(super) fn stack(protocol: &str, name: &str) -> Labels {
    Labels::new()
        .with("direction", "outbound")
        .with("protocol", protocol)
        .with("name", name)
}

/// An endpoint: of requests, and with `peer` of connections. `authority` is the balanced name, port 80 left out.
pub(super) fn endpoint(
    peer: Option<&'static str>,
    authority: Option<&str>,
    endpoint: &Endpoint,
    dial: &Dial,
    is_local: bool,
) -> Labels {
    let authority = authority.map(|name| name.strip_suffix(":80").unwrap_or(name));
    let labels = Labels::new()
        .with("direction", "outbound")
        .with_some("peer", peer)
        .with_some("authority", authority)
        .extend(&target(endpoint.address));
    let labels = match &dial.mesh {
        Some(mesh) => labels.with("tls", "true").with("server_id", &mesh.identity),
        None if is_local => labels
            .with("tls", "no_identity")
            .with("no_tls_reason", "loopback"),
        None => labels
            .with("tls", "no_identity")
            .with("no_tls_reason", "not_provided_by_service_discovery"),
    };
    endpoint.labels.iter().fold(labels, |labels, (key, value)| {
        labels.with(format!("dst_{key}"), value)
    })
}
