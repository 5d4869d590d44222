//! Endpoints from and to the API. Source: `io.linkerd.proxy.destination.WeightedAddr`.

use super::{Field, InvalidMessage, quoted, timeout, to_api::duration};
use crate::outbound::{Endpoint, EndpointIdentity, EndpointTls, Hint, Http2Params};
use linkerd2_proxy_api::{
    destination::{
        AuthorityOverride, Http2ClientParams, ProtocolHint, TlsIdentity, WeightedAddr,
        http2_client_params::{FlowControl, Internals, KeepAlive},
        protocol_hint::{self, OpaqueTransport},
        tls_identity::{DnsLikeIdentity, Strategy, UriLikeIdentity},
    },
    net::{IPv6, IpAddress, TcpAddress, ip_address::Ip},
};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Converts an endpoint; `set` are the labels of the set it came in, which its own replace.
///
/// # Errors
/// Names the field that cannot be used.
pub fn endpoint_from_api(
    addr: WeightedAddr,
    set: &HashMap<String, String>,
) -> Result<Endpoint, InvalidMessage> {
    endpoint(&Field::Root, addr, set)
}

/// Converts an address.
///
/// # Errors
/// If it has no IP or a port that is none.
pub fn socket_address(address: Option<TcpAddress>) -> Result<SocketAddr, InvalidMessage> {
    self::address(&Field::Root, address)
}

pub(super) fn endpoint(
    field: &Field<'_>,
    addr: WeightedAddr,
    set: &HashMap<String, String>,
) -> Result<Endpoint, InvalidMessage> {
    use protocol_hint::Protocol;
    let hint = addr.protocol_hint.unwrap_or_default();
    let opaque_transport = match hint.opaque_transport {
        None => None,
        Some(transport) => {
            let field = field.name("protocol_hint");
            let field = field.name("opaque_transport");
            Some(port(&field.name("inbound_port"), transport.inbound_port)?)
        }
    };
    let authority_override = match addr.authority_override {
        None => None,
        Some(AuthorityOverride { authority_override }) if authority_override.is_empty() => None,
        Some(AuthorityOverride { authority_override }) => {
            let field = field.name("authority_override");
            if authority_override.parse::<http::uri::Authority>().is_err() {
                let reason = format!("{} is not a name with a port", quoted(&authority_override));
                return Err(field.invalid(reason));
            }
            Some(authority_override)
        }
    };
    Ok(Endpoint {
        address: address(&field.name("addr"), addr.addr)?,
        tls: addr
            .tls_identity
            .map(|tls| identity(&field.name("tls_identity"), tls))
            .transpose()?,
        hint: match hint.protocol {
            None => Hint::Unknown,
            Some(Protocol::H2(_)) => Hint::Http2,
            Some(Protocol::Opaque(_)) => Hint::Opaque,
        },
        opaque_transport,
        // Absent, as some control planes leave it, is as usual.
        weight: if addr.weight == 0 {
            10_000
        } else {
            addr.weight
        },
        labels: set
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .chain(addr.metric_labels)
            .collect(),
        authority_override,
        http2: addr
            .http2
            .map(|params| http2(&field.name("http2"), params))
            .transpose()?,
    })
}

fn identity(field: &Field<'_>, tls: TlsIdentity) -> Result<EndpointTls, InvalidMessage> {
    let server_name = tls.server_name.map(|name| name.name);
    Ok(match field.name("strategy").needed(tls.strategy)? {
        Strategy::DnsLikeIdentity(DnsLikeIdentity { name }) => EndpointTls {
            server_name: server_name.unwrap_or_else(|| name.clone()),
            identity: EndpointIdentity::Dns(name),
        },
        Strategy::UriLikeIdentity(UriLikeIdentity { uri }) => EndpointTls {
            server_name: field.name("server_name").needed(server_name)?,
            identity: EndpointIdentity::Uri(uri),
        },
    })
}

fn http2(field: &Field<'_>, params: Http2ClientParams) -> Result<Http2Params, InvalidMessage> {
    let some = |value: u32| (value != 0).then_some(value);
    let flow = params.flow_control.unwrap_or_default();
    let internals = params.internals.unwrap_or_default();
    let (keep_alive, keep_alive_while_idle) = match params.keep_alive {
        None => (None, false),
        Some(KeepAlive {
            interval,
            timeout: limit,
            while_idle,
        }) => {
            let field = field.name("keep_alive");
            let interval = timeout(&field.name("interval"), interval)?;
            let limit = timeout(&field.name("timeout"), limit)?;
            (Some((interval, limit)), while_idle)
        }
    };
    let max_frame_size = some(internals.max_frame_size);
    if let Some(size) = max_frame_size
        && !(16_384..=16_777_215).contains(&size)
    {
        let reason = format!("{size} is not within 16384 to 16777215");
        return Err(field
            .name("internals")
            .name("max_frame_size")
            .invalid(reason));
    }
    Ok(Http2Params {
        stream_window: some(flow.initial_stream_window_size),
        connection_window: some(flow.initial_connection_window_size),
        adaptive: flow.adaptive_flow_control,
        keep_alive,
        keep_alive_while_idle,
        max_concurrent_reset_streams: some(internals.max_concurrent_reset_streams),
        max_frame_size,
        max_send_buf_size: some(internals.max_send_buf_size),
    })
}

fn address(field: &Field<'_>, address: Option<TcpAddress>) -> Result<SocketAddr, InvalidMessage> {
    let address = field.needed(address)?;
    let ip: IpAddr = match field.name("ip").needed(address.ip.and_then(|ip| ip.ip))? {
        Ip::Ipv4(bits) => Ipv4Addr::from(bits).into(),
        Ip::Ipv6(bits) => {
            Ipv6Addr::from((u128::from(bits.first) << 64) | u128::from(bits.last)).into()
        }
    };
    Ok(SocketAddr::new(
        ip,
        port(&field.name("port"), address.port)?,
    ))
}

fn port(field: &Field<'_>, port: u32) -> Result<u16, InvalidMessage> {
    match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(field.invalid(format!("{port} is not a port; send 1 to 65535"))),
    }
}

/// Checks that a text is `name:port`.
pub(super) fn authority(field: &Field<'_>, text: &str) -> Result<(), InvalidMessage> {
    let is_authority = text
        .parse::<http::uri::Authority>()
        .is_ok_and(|authority| authority.port_u16().is_some() && !authority.host().is_empty());
    if is_authority && !text.contains('@') {
        return Ok(());
    }
    Err(field.invalid(format!("{} is not name:port", quoted(text))))
}

/// Converts an endpoint to the API's message, with all its labels.
pub fn endpoint_to_api(endpoint: &Endpoint) -> WeightedAddr {
    let hint = match endpoint.hint {
        Hint::Unknown => None,
        Hint::Http2 => Some(protocol_hint::Protocol::H2(protocol_hint::H2 {})),
        Hint::Opaque => Some(protocol_hint::Protocol::Opaque(protocol_hint::Opaque {})),
    };
    let transport = endpoint.opaque_transport.map(|port| OpaqueTransport {
        inbound_port: port.into(),
    });
    WeightedAddr {
        addr: Some(tcp_address(endpoint.address)),
        weight: endpoint.weight,
        metric_labels: endpoint.labels.clone().into_iter().collect(),
        tls_identity: endpoint.tls.as_ref().map(|tls| TlsIdentity {
            strategy: Some(match &tls.identity {
                EndpointIdentity::Dns(name) => {
                    Strategy::DnsLikeIdentity(DnsLikeIdentity { name: name.clone() })
                }
                EndpointIdentity::Uri(uri) => {
                    Strategy::UriLikeIdentity(UriLikeIdentity { uri: uri.clone() })
                }
            }),
            server_name: Some(DnsLikeIdentity {
                name: tls.server_name.clone(),
            }),
        }),
        protocol_hint: (hint.is_some() || transport.is_some()).then_some(ProtocolHint {
            protocol: hint,
            opaque_transport: transport,
        }),
        authority_override: endpoint
            .authority_override
            .clone()
            .map(|authority_override| AuthorityOverride { authority_override }),
        http2: endpoint.http2.map(http2_to_api),
        resource_ref: None,
    }
}

fn http2_to_api(params: Http2Params) -> Http2ClientParams {
    Http2ClientParams {
        flow_control: Some(FlowControl {
            initial_connection_window_size: params.connection_window.unwrap_or(0),
            initial_stream_window_size: params.stream_window.unwrap_or(0),
            adaptive_flow_control: params.adaptive,
        }),
        keep_alive: params.keep_alive.map(|(interval, timeout)| KeepAlive {
            interval: Some(duration(interval)),
            timeout: Some(duration(timeout)),
            while_idle: params.keep_alive_while_idle,
        }),
        internals: Some(Internals {
            max_concurrent_reset_streams: params.max_concurrent_reset_streams.unwrap_or(0),
            max_frame_size: params.max_frame_size.unwrap_or(0),
            max_send_buf_size: params.max_send_buf_size.unwrap_or(0),
        }),
    }
}

/// Converts an address to the API's message.
pub fn tcp_address(address: SocketAddr) -> TcpAddress {
    let ip = match address.ip() {
        IpAddr::V4(ip) => Ip::Ipv4(ip.into()),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
            let last = bits as u64;
            Ip::Ipv6(IPv6 {
                first: u64::try_from(bits >> 64).unwrap_or(0),
                last,
            })
        }
    };
    TcpAddress {
        ip: Some(IpAddress { ip: Some(ip) }),
        port: address.port().into(),
    }
}
