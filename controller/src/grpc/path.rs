//! What clients of the destination service ask for and who they are: paths and context tokens (control plane §4.1, §4.2).

use linkerd_policy::index::{Client, Index, WorkloadRef};
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};

/// The port of a name without one.
const DEFAULT_PORT: u16 = 80;
/// Label of a workload's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Longest context token that is read, in bytes.
const MAX_TOKEN: usize = 4096;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A Service's port.
    Service(Service),
    /// An address.
    Address(SocketAddr),
}

/// A Service's port, or one endpoint of it by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) namespace: String,
    pub(super) name: String,
    /// `web-0` of `web-0.web.shop.svc`.
    pub(super) instance: Option<String>,
    pub(super) port: u16,
}

/// Why a path names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidPath {
    /// It is no `host[:port]`.
    #[error("invalid authority: {path:?}: {cause:?}")]
    Authority { path: String, cause: &'static str },
    /// The host is not a Service's name.
    #[error("invalid service {host:?}: {cause:?}")]
    Service { host: String, cause: String },
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(instance) = &self.instance {
            write!(f, "{instance}.")?;
        }
        write!(f, "{}.{} port {}", self.name, self.namespace, self.port)
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// `host[:port]`: an IP address, or the name of a Service below the cluster's domain.
pub(super) fn parse(path: &str, cluster_domain: &str) -> Result<Asked, InvalidPath> {
    if let Ok(address) = path.parse::<SocketAddr>() {
        return Ok(Asked::Address(address));
    }
    let bare = path
        .strip_prefix('[')
        .and_then(|path| path.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(path).parse::<IpAddr>() {
        return Ok(Asked::Address(SocketAddr::new(ip, DEFAULT_PORT)));
    }
    let refused = |cause| InvalidPath::Authority {
        path: shown(path),
        cause,
    };
    let (host, port) = match path.rsplit_once(':') {
        Some((host, port)) => {
            let port = port.parse().ok().filter(|port| *port != 0);
            (
                host,
                port.ok_or_else(|| refused("port: a number from 1 to 65535 is needed"))?,
            )
        }
        None => (path, DEFAULT_PORT),
    };
    if host.is_empty() || host.contains([':', '/', '[', ']', '@']) {
        return Err(refused("not of the form host:port"));
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let domain = cluster_domain.trim_end_matches('.');
    let service = name
        .strip_suffix(&format!(".svc.{domain}"))
        .map(|name| name.split('.').collect::<Vec<_>>());
    let (instance, name, namespace) = match service.as_deref() {
        Some([name, namespace]) => (None, *name, *namespace),
        Some([instance, name, namespace]) => (Some(*instance), *name, *namespace),
        _ => (None, "", ""),
    };
    if name.is_empty() || namespace.is_empty() || instance.is_some_and(str::is_empty) {
        return Err(InvalidPath::Service {
            host: shown(host),
            cause: format!("not of the form <service>.<namespace>.svc.{domain}"),
        });
    }
    Ok(Asked::Service(Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        instance: instance.map(str::to_owned),
        port,
    }))
}

/// Text of a client's, cut to what a message can bear.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(256).collect()
}

/// Where a client is, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) node: Option<String>,
    namespace: String,
    workload: Option<WorkloadRef>,
}

impl Place {
    /// Reads a context token: JSON `{"ns","nodeName","pod"}`, with `external_workload` in place of `pod` outside
    /// Kubernetes, or the older `ns:<ns>`. One that cannot be read is as good as none.
    pub(super) fn of_token(token: &str) -> Self {
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            ns: String,
            #[serde(default, rename = "nodeName")]
            node: String,
            pod: Option<String>,
            external_workload: Option<String>,
        }
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Self::default();
        }
        if let Some(namespace) = token.strip_prefix("ns:") {
            return Self {
                namespace: namespace.to_owned(),
                ..Self::default()
            };
        }
        let token: Token = match serde_json::from_str(token) {
            Ok(token) => token,
            Err(error) => {
                tracing::debug!(%error, token = shown(token), "A context token is of no use");
                return Self::default();
            }
        };
        let ns = token.ns;
        let namespace = ns.clone();
        let workload = match (token.pod, token.external_workload) {
            (Some(pod), None) => Some(WorkloadRef::Pod { ns, pod }),
            (None, Some(name)) => Some(WorkloadRef::ExternalWorkload { ns, name }),
            _ => None,
        };
        Self {
            node: Some(token.node).filter(|node| !node.is_empty()),
            namespace,
            workload,
        }
    }

    /// Its namespace, or empty.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The zone it is in now: its node's, or what the label of its workload says.
    pub(super) fn zone<'a>(&self, index: &'a Index) -> Option<&'a str> {
        let of_node = self.node.as_deref().and_then(|node| index.node_zone(node));
        let of_workload = || {
            let workload = index.workload(self.workload.as_ref()?)?;
            let zone = workload.metadata().labels.get(ZONE_LABEL)?;
            Some(zone.as_str()).filter(|zone| !zone.is_empty())
        };
        of_node.or_else(of_workload)
    }

    /// Where it is, for the choice of endpoints.
    pub(super) fn client<'a>(&'a self, index: &'a Index, has_ipv6: bool) -> Client<'a> {
        Client {
            node: self.node.as_deref(),
            zone: self.zone(index),
            has_ipv6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_names_or_addresses() {
        let service = |instance: Option<&str>, port| {
            Some(Asked::Service(Service {
                namespace: "shop".into(),
                name: "web".into(),
                instance: instance.map(str::to_owned),
                port,
            }))
        };
        for (path, want) in [
            ("web.shop.svc.cluster.local:8080", service(None, 8080)),
            ("WEB.shop.svc.cluster.local.", service(None, 80)),
            (
                "web-0.web.shop.svc.cluster.local:81",
                service(Some("web-0"), 81),
            ),
            (
                "127.0.0.1:80",
                Some(Asked::Address(([127, 0, 0, 1], 80).into())),
            ),
            ("[::1]", Some(Asked::Address("[::1]:80".parse().unwrap()))),
            ("web.shop", None),
            ("web.shop.svc.cluster.local:0", None),
            ("web.shop.svc.cluster.local:70000", None),
            ("a.b.web.shop.svc.cluster.local", None),
            (".web.shop.svc.cluster.local", None),
            ("web..svc.cluster.local", None),
            (".shop.svc.cluster.local", None),
            ("http://web.shop.svc.cluster.local", None),
            ("", None),
        ] {
            assert_eq!(parse(path, "cluster.local").ok(), want, "{path}");
        }
    }

    #[test]
    fn refusals_say_which_part_is_wrong() {
        let text = |path| parse(path, "cluster.local").unwrap_err().to_string();
        assert_eq!(
            text("web:x"),
            r#"invalid authority: "web:x": "port: a number from 1 to 65535 is needed""#
        );
        assert_eq!(
            text("example.com:80"),
            r#"invalid service "example.com": "not of the form <service>.<namespace>.svc.cluster.local""#
        );
    }

    #[test]
    fn context_tokens_that_cannot_be_read_are_as_good_as_none() {
        let none = Place::default();
        for token in ["", "{", "[]", "null", r#"{"ns":1}"#] {
            assert_eq!(Place::of_token(token), none, "{token}");
        }
        let place = Place::of_token(r#"{"ns":"shop","nodeName":"n1","pod":"web-0"}"#);
        assert_eq!(place.node.as_deref(), Some("n1"));
        assert_eq!(place.workload, Some("shop:web-0".parse().unwrap()));
    }
}
