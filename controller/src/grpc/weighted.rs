//! Endpoints as the API's addresses.

use super::hints::Hints;
use linkerd_policy::index::{Endpoint, EndpointIdentity, WorkloadRef};
use linkerd2_proxy_api::{
    destination::{
        AuthorityOverride, ProtocolHint, TlsIdentity, WeightedAddr,
        protocol_hint::{H2, Opaque, OpaqueTransport, Protocol},
        tls_identity::{DnsLikeIdentity, Strategy, UriLikeIdentity},
    },
    net::{IPv6, IpAddress, TcpAddress, ip_address::Ip},
};
use std::net::IpAddr;

/// An endpoint's address.
pub(super) fn address(ip: IpAddr, port: u16) -> TcpAddress {
    let ip = match ip {
        IpAddr::V4(ip) => Ip::Ipv4(ip.into()),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            // The upper and the lower half.
            let first = u64::try_from(bits >> 64).unwrap_or_default();
            let last = u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
            Ip::Ipv6(IPv6 { first, last })
        }
    };
    TcpAddress {
        ip: Some(IpAddress { ip: Some(ip) }),
        port: port.into(),
    }
}

/// An endpoint with everything that a client in `zone` needs to reach it (control plane §4.4).
pub(super) fn weighted(endpoint: &Endpoint, zone: Option<&str>, hints: &Hints) -> WeightedAddr {
    let locality = match (zone, endpoint.zone.as_deref()) {
        (Some(ours), Some(theirs)) if ours == theirs => "local",
        (Some(_), Some(theirs)) if !theirs.is_empty() => "remote",
        _ => "unknown",
    };
    let mut metric_labels: std::collections::HashMap<String, String> = endpoint
        .labels
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect();
    metric_labels.insert("zone_locality".into(), locality.into());
    WeightedAddr {
        addr: Some(address(endpoint.addr, endpoint.port)),
        weight: if hints.has_zone_weights && locality == "local" {
            endpoint.weight.saturating_mul(10)
        } else {
            endpoint.weight
        },
        metric_labels,
        tls_identity: endpoint.identity.as_ref().map(|identity| TlsIdentity {
            server_name: endpoint
                .server_name
                .clone()
                .map(|name| DnsLikeIdentity { name }),
            strategy: Some(match identity {
                EndpointIdentity::Dns(name) => {
                    Strategy::DnsLikeIdentity(DnsLikeIdentity { name: name.clone() })
                }
                EndpointIdentity::Uri(uri) => {
                    Strategy::UriLikeIdentity(UriLikeIdentity { uri: uri.clone() })
                }
            }),
        }),
        protocol_hint: hint(endpoint, hints),
        http2: hints
            .http2
            .as_ref()
            .filter(|_| endpoint.meshed)
            .map(|params| params.0),
        authority_override: endpoint
            .authority_override
            .clone()
            .map(|name| AuthorityOverride {
                authority_override: name,
            }),
        ..WeightedAddr::default()
    }
}

/// How a meshed endpoint is spoken to. Workloads outside Kubernetes always take HTTP/2.
fn hint(endpoint: &Endpoint, hints: &Hints) -> Option<ProtocolHint> {
    let is_external = matches!(
        &endpoint.workload,
        Some(WorkloadRef::ExternalWorkload { .. })
    );
    let protocol = if endpoint.opaque {
        Some(Protocol::Opaque(Opaque {}))
    } else {
        let http2 = hints.has_http2 || is_external;
        http2.then_some(Protocol::H2(H2 {}))
    };
    let port = endpoint.inbound_port;
    let port = port.filter(|_| endpoint.opaque || hints.has_transport_header);
    let opaque_transport = port.map(|port| OpaqueTransport {
        inbound_port: port.into(),
    });
    let is_some = protocol.is_some() || opaque_transport.is_some();
    (endpoint.meshed && is_some).then_some(ProtocolHint {
        protocol,
        opaque_transport,
    })
}
