//! Authorizations from the API.

use super::{Field, InvalidServer, labels_meta, metadata};
use crate::server::{Authentication, Authorization, NetworkMatch};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use linkerd2_proxy_api::{
    inbound::{
        Authn, Authz, Network,
        authn::{Permit, permit_mesh_tls::Clients},
    },
    net::{IpNetwork, ip_address::Ip},
};
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) fn from_api(
    parent: &Field<'_>,
    name: &'static str,
    list: Vec<Authz>,
) -> Result<Vec<Authorization>, InvalidServer> {
    list.into_iter()
        .enumerate()
        .map(|(at, authz)| authorization(&parent.item(name, at), authz))
        .collect()
}

fn authorization(field: &Field<'_>, authz: Authz) -> Result<Authorization, InvalidServer> {
    let meta = match authz.metadata {
        Some(meta) => metadata(&field.name("metadata"), Some(meta))?,
        None => labels_meta(&field.name("labels"), &authz.labels, "serverauthorization")?,
    };
    if authz.networks.is_empty() {
        return Err(field.name("networks").invalid(
            "empty: nobody could ever match; send 0.0.0.0/0 and ::/0 for clients from anywhere",
        ));
    }
    let networks = authz.networks.into_iter().enumerate();
    let networks =
        networks.map(|(at, network)| network_match(&field.item("networks", at), network));
    Ok(Authorization {
        meta,
        networks: networks.collect::<Result<_, _>>()?,
        authentication: authentication(&field.name("authentication"), authz.authentication)?,
    })
}

fn network_match(field: &Field<'_>, network: Network) -> Result<NetworkMatch, InvalidServer> {
    let net = field.name("net");
    let except = network.except.into_iter().enumerate();
    Ok(NetworkMatch {
        net: ip_net(&net, net.needed(network.net)?)?,
        except: except
            .map(|(at, net)| ip_net(&field.item("except", at), net))
            .collect::<Result<_, _>>()?,
    })
}

fn ip_net(field: &Field<'_>, net: IpNetwork) -> Result<IpNet, InvalidServer> {
    let ip = field.name("ip").needed(net.ip.and_then(|ip| ip.ip))?;
    let length = u8::try_from(net.prefix_len).ok();
    let (parsed, longest) = match ip {
        Ip::Ipv4(bits) => {
            let net = length.and_then(|length| Ipv4Net::new(Ipv4Addr::from(bits), length).ok());
            (net.map(IpNet::V4), 32)
        }
        Ip::Ipv6(parts) => {
            let bits = (u128::from(parts.first) << 64) | u128::from(parts.last);
            let net = length.and_then(|length| Ipv6Net::new(Ipv6Addr::from(bits), length).ok());
            (net.map(IpNet::V6), 128)
        }
    };
    parsed.ok_or_else(|| {
        field.name("prefix_len").invalid(format!(
            "{} is longer than the address; send 0 to {longest}",
            net.prefix_len
        ))
    })
}

fn authentication(
    field: &Field<'_>,
    authentication: Option<Authn>,
) -> Result<Authentication, InvalidServer> {
    let authentication = field.needed(authentication)?;
    let tls = match field.name("permit").needed(authentication.permit)? {
        Permit::Unauthenticated(_) => return Ok(Authentication::Unauthenticated),
        Permit::MeshTls(tls) => tls,
    };
    let field = field.name("meshTLS");
    Ok(match field.name("clients").needed(tls.clients)? {
        Clients::Unauthenticated(_) => Authentication::TlsUnauthenticated,
        Clients::Identities(clients) => Authentication::Identities {
            exact: clients.identities.into_iter().map(|id| id.name).collect(),
            suffixes: clients
                .suffixes
                .into_iter()
                .map(|suffix| suffix.parts)
                .collect(),
        },
    })
}
