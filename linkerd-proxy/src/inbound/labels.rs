//! Turns what the inbound side knows into metric labels: the only file that does.
//!
//! The short names are the specification's: TGT is the original destination, TLS what is known of the client's, SRV
//! the Server, RT the route, AZ the authorization, PAR the newer families' parent and route.

use linkerd_metrics::Labels;
use linkerd_policy::server::Meta;
use linkerd_tls::Id;
use std::{net::SocketAddr, sync::Arc};

/// What is known of the TLS between client and proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClientTls {
    /// Terminated here, with the identity that the client showed.
    Terminated(Option<Id>),
    /// For somebody else: passed on as it came.
    Passthrough(Arc<str>),
    /// None, for this reason.
    None(NoTls),
}

/// Why a connection has no mesh TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NoTls {
    /// The client did not begin with a ClientHello for a name.
    NotFromClient,
    /// The port's policy says not to look.
    PortSkipped,
}

impl NoTls {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotFromClient => "no_tls_from_remote",
            Self::PortSkipped => "port_skipped",
        }
    }
}

impl ClientTls {
    pub(crate) fn identity(&self) -> Option<&Id> {
        match self {
            Self::Terminated(id) => id.as_ref(),
            _ => None,
        }
    }

    /// TLS.
    pub(crate) fn labels(&self) -> Labels {
        match self {
            Self::Terminated(id) => Labels::new()
                .with("tls", "true")
                .with("client_id", id.as_ref().map_or("", Id::as_str)),
            Self::Passthrough(sni) => Labels::new().with("tls", "opaque").with("sni", &**sni),
            Self::None(reason) => Labels::new()
                .with("tls", "no_identity")
                .with("no_tls_reason", reason.as_str()),
        }
    }
}

/// TGT.
pub(crate) fn destination(address: SocketAddr) -> Labels {
    Labels::new()
        .with("target_addr", address.to_string())
        .with("target_ip", address.ip().to_string())
        .with("target_port", address.port().to_string())
}

/// SRV.
pub(crate) fn server(meta: &Meta, port: u16) -> Labels {
    Labels::new()
        .with("srv_group", meta.group())
        .with("srv_kind", meta.kind())
        .with("srv_name", meta.name())
        .with("srv_port", port.to_string())
}

/// RT.
pub(crate) fn route(meta: &Meta) -> Labels {
    Labels::new()
        .with("route_group", meta.group())
        .with("route_kind", meta.kind())
        .with("route_name", meta.name())
}

/// AZ.
pub(crate) fn authorization(meta: &Meta) -> Labels {
    Labels::new()
        .with("authz_group", meta.group())
        .with("authz_kind", meta.kind())
        .with("authz_name", meta.name())
}

/// PAR.
pub(crate) fn parent(server: &Meta, port: u16, of: &Meta) -> Labels {
    Labels::new()
        .with("parent_group", server.group())
        .with("parent_kind", server.kind())
        .with("parent_name", server.name())
        .with("parent_port", port.to_string())
        .extend(&route(of))
}
