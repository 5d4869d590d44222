//! Who is authorized: ServerAuthorizations and AuthorizationPolicies with the authentications they name.

use super::{Index, Part, table::Target};
use crate::{
    resource::{
        AuthorizationPolicy, HttpLocalRateLimitPolicy, POLICY_GROUP, Server, ServerAuthorization,
        policy::{MeshTlsAuthenticationSpec, NamespacedRef, Network, ServiceAccountRef},
    },
    server::{Authentication, Authorization, Meta, NetworkMatch},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Where those are that name no Server.
const ANY_SERVER: &str = "";

/// Where those are that are about a Server.
pub(super) fn about_server(name: &str) -> String {
    format!("server/{name}")
}

/// Where those are that are about a namespace as a whole.
fn about_namespace(name: &str) -> String {
    format!("namespace/{name}")
}

/// Where those are that are about a route, or anything else: group, kind and name, whichever case they are in.
fn about_route(group: &str, kind: &str, name: &str) -> String {
    format!("{group}/{kind}/{name}").to_ascii_lowercase()
}

impl Target for ServerAuthorization {
    fn target(&self) -> String {
        let name = self.spec.server.name.as_deref();
        name.map_or_else(|| ANY_SERVER.to_owned(), about_server)
    }
}

impl Target for AuthorizationPolicy {
    fn target(&self) -> String {
        let to = &self.spec.target_ref;
        if to.is_server() {
            about_server(&to.name)
        } else if to.is("", "Namespace") {
            about_namespace(&to.name)
        } else {
            about_route(&to.group, &to.kind, &to.name)
        }
    }
}

impl Target for HttpLocalRateLimitPolicy {
    fn target(&self) -> String {
        let to = &self.spec.target_ref;
        if to.is_server() {
            about_server(&to.name)
        } else {
            about_route(&to.group, &to.kind, &to.name)
        }
    }
}

/// Why an authorization is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LeftOut<'a> {
    /// A ServerAuthorization that names neither `unauthenticated` nor `meshTLS`.
    NoClients,
    /// A ServerAuthorization whose `meshTLS` is empty.
    NoIdentities,
    /// An AuthorizationPolicy that needs something which is not there.
    Missing(&'a NamespacedRef),
}

impl Index {
    /// Authorizations of a Server, ServerAuthorizations first, each kind by name.
    pub(super) fn server_authorizations(
        &self,
        namespace: &str,
        part: Part<'_>,
        server: &Server,
    ) -> Vec<Authorization> {
        let about = about_server(&server.metadata.name);
        let by_server = part
            .server_authorizations(&[&about, ANY_SERVER])
            .filter(|a| names_server(a, server))
            .filter_map(|a| self.server_authorization(namespace, a).ok());
        let by_policy = part
            .authorization_policies(&[&about, &about_namespace(namespace)])
            .filter_map(|p| self.authorization_policy(namespace, p).ok());
        by_server.chain(by_policy).collect()
    }

    /// Authorizations of a route, by name.
    pub(super) fn route_authorizations(
        &self,
        namespace: &str,
        part: Part<'_>,
        (group, kind, name): (&str, &str, &str),
    ) -> Vec<Authorization> {
        part.authorization_policies(&[&about_route(group, kind, name)])
            .filter_map(|p| self.authorization_policy(namespace, p).ok())
            .collect()
    }

    /// What a ServerAuthorization authorizes.
    pub(crate) fn server_authorization(
        &self,
        namespace: &str,
        authorization: &ServerAuthorization,
    ) -> Result<Authorization, LeftOut<'static>> {
        let client = &authorization.spec.client;
        let authentication = match &client.mesh_tls {
            _ if client.unauthenticated => Authentication::Unauthenticated,
            None => return Err(LeftOut::NoClients),
            Some(tls) if tls.unauthenticated_tls => Authentication::TlsUnauthenticated,
            Some(tls) if tls.identities.is_empty() && tls.service_accounts.is_empty() => {
                return Err(LeftOut::NoIdentities);
            }
            Some(tls) => {
                let account = |a: &ServiceAccountRef| {
                    let ns = a.namespace.as_deref().unwrap_or(namespace);
                    self.cluster().service_account_identity(ns, &a.name)
                };
                let accounts = tls.service_accounts.iter().map(account);
                identities(tls.identities.iter().cloned().chain(accounts))
            }
        };
        let networks = match &client.networks {
            Some(networks) if !networks.is_empty() => network_matches(networks),
            _ => plain(&self.cluster().cluster_networks),
        };
        Ok(Authorization {
            meta: Meta::resource(
                POLICY_GROUP,
                "serverauthorization",
                &authorization.metadata.name,
            ),
            networks,
            authentication,
        })
    }

    /// What an AuthorizationPolicy authorizes: all that it requires, together. If something it requires is missing,
    /// the whole policy is left out, since what is left of it could authorize more than was meant.
    pub(crate) fn authorization_policy<'a>(
        &self,
        namespace: &str,
        policy: &'a AuthorizationPolicy,
    ) -> Result<Authorization, LeftOut<'a>> {
        let mut authentication = Authentication::Unauthenticated;
        let mut networks = everywhere();
        for required in &policy.spec.required_authentication_refs {
            let ns = required.namespace(namespace);
            let missing = || LeftOut::Missing(required);
            let part = self.part(ns);
            if required.is(POLICY_GROUP, "MeshTLSAuthentication") {
                let found = part.mesh_tls(&required.name);
                let spec = &found.ok_or_else(missing)?.spec;
                authentication = self.mesh_tls(ns, spec);
            } else if required.is(POLICY_GROUP, "NetworkAuthentication") {
                let found = part.network(&required.name);
                networks = network_matches(&found.ok_or_else(missing)?.spec.networks);
            } else if required.is("", "ServiceAccount") {
                let account = self.cluster().service_account_identity(ns, &required.name);
                authentication = identities([account]);
            } else {
                return Err(missing());
            }
        }
        Ok(Authorization {
            meta: Meta::resource(POLICY_GROUP, "authorizationpolicy", &policy.metadata.name),
            networks,
            authentication,
        })
    }

    fn mesh_tls(&self, namespace: &str, spec: &MeshTlsAuthenticationSpec) -> Authentication {
        let refs = spec.identity_refs.iter().flatten().map(|to| {
            if to.is("", "Namespace") {
                format!("*.{}", self.cluster().namespace_identity_suffix(&to.name))
            } else {
                let ns = to.namespace(namespace);
                self.cluster().service_account_identity(ns, &to.name)
            }
        });
        identities(spec.identities.iter().flatten().cloned().chain(refs))
    }
}

/// Whether a ServerAuthorization is about a Server of its namespace.
pub(crate) fn names_server(authorization: &ServerAuthorization, server: &Server) -> bool {
    let to = &authorization.spec.server;
    match (&to.name, &to.selector) {
        (Some(name), _) => *name == server.metadata.name,
        (None, Some(selector)) => selector.matches(&server.metadata.labels),
        (None, None) => true,
    }
}

/// Whether an AuthorizationPolicy is about a Server of its namespace, by itself or through the namespace.
pub(crate) fn targets_server(policy: &AuthorizationPolicy, namespace: &str, server: &str) -> bool {
    let to = &policy.spec.target_ref;
    (to.is_server() && to.name == server) || (to.is("", "Namespace") && to.name == namespace)
}

/// `*` is any identity, `*.a.b` a suffix, everything else an exact identity.
fn identities(all: impl IntoIterator<Item = String>) -> Authentication {
    let (mut exact, mut suffixes) = (Vec::new(), Vec::new());
    for identity in all {
        if identity == "*" {
            suffixes.push(Vec::new());
        } else if let Some(suffix) = identity.strip_prefix("*.") {
            suffixes.push(suffix.split('.').map(str::to_owned).collect());
        } else {
            exact.push(identity);
        }
    }
    Authentication::Identities { exact, suffixes }
}

fn network_matches(networks: &[Network]) -> Vec<NetworkMatch> {
    let one = |n: &Network| NetworkMatch {
        net: n.cidr.0,
        except: n.except.iter().map(|e| e.0).collect(),
    };
    networks.iter().map(one).collect()
}

/// Networks without exceptions.
pub(super) fn plain(networks: &[IpNet]) -> Vec<NetworkMatch> {
    let one = |&net: &IpNet| NetworkMatch {
        net,
        except: Vec::new(),
    };
    networks.iter().map(one).collect()
}

fn everywhere() -> Vec<NetworkMatch> {
    plain(&[IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())])
}
