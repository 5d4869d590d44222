//! The policies that exist without a resource: what governs a port that no Server selects.

use crate::server::{Authentication, Authorization, Meta, NetworkMatch, Protocol, ServerPolicy};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{fmt, str::FromStr};

/// A default policy, by the names of `LINKERD2_PROXY_INBOUND_DEFAULT_POLICY` and of the annotation
/// `config.linkerd.io/default-inbound-policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DefaultPolicy {
    /// Everybody.
    AllUnauthenticated,
    /// Everybody with a mesh identity.
    AllAuthenticated,
    /// Everybody in the cluster's networks.
    ClusterUnauthenticated,
    /// Everybody with a mesh identity in the cluster's networks.
    ClusterAuthenticated,
    /// Nobody.
    Deny,
    /// Everybody, recorded as what would be denied.
    Audit,
}

/// A name that is no default policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{value}` is not a default policy; use all-unauthenticated, all-authenticated, cluster-unauthenticated, \
     cluster-authenticated, deny or audit"
)]
pub struct InvalidDefaultPolicy {
    value: String,
}

impl DefaultPolicy {
    /// Every default policy.
    pub const ALL: [Self; 6] = [
        Self::AllUnauthenticated,
        Self::AllAuthenticated,
        Self::ClusterUnauthenticated,
        Self::ClusterAuthenticated,
        Self::Deny,
        Self::Audit,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllUnauthenticated => "all-unauthenticated",
            Self::AllAuthenticated => "all-authenticated",
            Self::ClusterUnauthenticated => "cluster-unauthenticated",
            Self::ClusterAuthenticated => "cluster-authenticated",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }

    /// Whether it cannot be enforced without knowing the cluster's networks.
    pub const fn needs_cluster_networks(self) -> bool {
        matches!(
            self,
            Self::ClusterUnauthenticated | Self::ClusterAuthenticated
        )
    }

    /// Its authorization; `deny` has none.
    pub fn authorization(self, cluster_networks: &[IpNet]) -> Option<Authorization> {
        let everywhere = || vec![Ipv4Net::default().into(), Ipv6Net::default().into()];
        let any_identity = || Authentication::Identities {
            exact: Vec::new(),
            suffixes: vec![Vec::new()],
        };
        let (networks, authentication) = match self {
            Self::AllUnauthenticated | Self::Audit => {
                (everywhere(), Authentication::Unauthenticated)
            }
            Self::AllAuthenticated => (everywhere(), any_identity()),
            Self::ClusterUnauthenticated => {
                (cluster_networks.to_vec(), Authentication::Unauthenticated)
            }
            Self::ClusterAuthenticated => (cluster_networks.to_vec(), any_identity()),
            Self::Deny => return None,
        };
        Some(Authorization {
            meta: Meta::default_named(self.as_str()),
            networks: networks.into_iter().map(network).collect(),
            authentication,
        })
    }

    /// The policy of a port that nothing but this governs.
    pub fn server_policy(self, cluster_networks: &[IpNet], protocol: Protocol) -> ServerPolicy {
        ServerPolicy {
            meta: Meta::default_named(self.as_str()),
            protocol,
            authorizations: self.authorization(cluster_networks).into_iter().collect(),
        }
    }
}

fn network(net: IpNet) -> NetworkMatch {
    NetworkMatch {
        net,
        except: Vec::new(),
    }
}

impl FromStr for DefaultPolicy {
    type Err = InvalidDefaultPolicy;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.as_str() == value)
            .ok_or_else(|| InvalidDefaultPolicy {
                value: value.chars().take(80).collect(),
            })
    }
}

impl fmt::Display for DefaultPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ServerPolicy {
    /// Adds, as the last authorization, what every Server of the API has: `localhost`, which allows 127.0.0.1 and ::1
    /// without authentication.
    #[must_use]
    pub fn with_localhost(mut self) -> Self {
        self.authorizations.push(Authorization {
            meta: Meta::default_named("localhost"),
            networks: vec![
                network(std::net::IpAddr::from([127, 0, 0, 1]).into()),
                network(IpNet::from(std::net::IpAddr::from(
                    std::net::Ipv6Addr::LOCALHOST,
                ))),
            ],
            authentication: Authentication::Unauthenticated,
        });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Policy,
        decide::{DenyReason, Peer, PeerId, PeerTls},
        server::HttpPolicy,
    };
    use std::time::Duration;

    fn verdict(default: DefaultPolicy, addr: &str, tls: PeerTls<'_>) -> Result<String, DenyReason> {
        let protocol = Protocol::Detect {
            timeout: Duration::from_secs(10),
            http: HttpPolicy::default(),
        };
        let cluster = ["10.0.0.0/8".parse().unwrap()];
        let policy = Policy::compile(default.server_policy(&cluster, protocol)).unwrap();
        let peer = Peer {
            addr: addr.parse().unwrap(),
            tls,
        };
        assert_eq!(policy.connection(&peer), policy.authorize(&peer, 0));
        policy
            .connection(&peer)
            .map(|found| policy.authorization_meta(found).name().to_owned())
            .map_err(|denied| denied.reason)
    }

    #[test]
    fn each_default_policy_admits_whom_its_name_says() {
        let dns = PeerTls::Terminated {
            identity: Some(PeerId::Dns("a.ns.id")),
        };
        let spiffe = PeerTls::Terminated {
            identity: Some(PeerId::Uri("spiffe://root/a")),
        };
        let no_certificate = PeerTls::Terminated { identity: None };
        let (inside, outside) = ("10.1.2.3", "192.0.2.1");
        use DefaultPolicy::*;
        use DenyReason as Deny_;
        let ok = |policy: DefaultPolicy| Ok(policy.to_string());
        for (policy, addr, tls, wanted) in [
            (
                AllUnauthenticated,
                outside,
                PeerTls::None,
                ok(AllUnauthenticated),
            ),
            (AllAuthenticated, outside, PeerTls::None, Err(Deny_::NoTls)),
            (
                AllAuthenticated,
                outside,
                PeerTls::Passthrough,
                Err(Deny_::TlsPassthrough),
            ),
            (
                AllAuthenticated,
                outside,
                no_certificate,
                Err(Deny_::NoIdentity),
            ),
            (AllAuthenticated, outside, dns, ok(AllAuthenticated)),
            (AllAuthenticated, "::1", spiffe, ok(AllAuthenticated)),
            (
                ClusterUnauthenticated,
                inside,
                PeerTls::None,
                ok(ClusterUnauthenticated),
            ),
            (ClusterUnauthenticated, outside, dns, Err(Deny_::Network)),
            (ClusterAuthenticated, inside, dns, ok(ClusterAuthenticated)),
            (
                ClusterAuthenticated,
                inside,
                PeerTls::None,
                Err(Deny_::NoTls),
            ),
            (ClusterAuthenticated, outside, dns, Err(Deny_::Network)),
            (Deny, inside, dns, Err(Deny_::NoAuthorizations)),
            (Audit, outside, PeerTls::None, ok(Audit)),
        ] {
            assert_eq!(
                verdict(policy, addr, tls),
                wanted,
                "{policy} {addr} {tls:?}"
            );
        }
    }

    #[test]
    fn names_are_read_as_written_and_others_are_refused_with_the_list() {
        for policy in DefaultPolicy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        let error = "Deny".parse::<DefaultPolicy>().unwrap_err().to_string();
        assert!(
            error.contains("`Deny`") && error.contains("deny or audit"),
            "{error}"
        );
    }
}
