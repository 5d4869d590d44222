//! Who is authorized: ServerAuthorizations and AuthorizationPolicies with the authentications they name.

use super::{Index, Scope};
use crate::{
    resource::{
        AuthorizationPolicy, POLICY_GROUP, Server, ServerAuthorization,
        policy::{MeshTlsAuthenticationSpec, NamespacedRef, Network, ServiceAccountRef},
    },
    server::{Authentication, Authorization, Meta, NetworkMatch},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::HashMap;

/// Authorizations by what they target: group, kind and name of a route in lower case.
pub(super) struct ByRoute(HashMap<[String; 3], Vec<Authorization>>);

impl ByRoute {
    /// Takes the authorizations of a route out.
    pub(super) fn take(&mut self, group: &str, kind: &str, name: &str) -> Vec<Authorization> {
        let key = route_key(group, kind, name);
        self.0.remove(&key).unwrap_or_default()
    }
}

fn route_key(group: &str, kind: &str, name: &str) -> [String; 3] {
    [group, kind, name].map(str::to_ascii_lowercase)
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
        scope: &Scope,
        server: &Server,
    ) -> Vec<Authorization> {
        let by_server = scope
            .server_authorizations
            .values()
            .filter(|a| names_server(a, server))
            .filter_map(|a| self.server_authorization(namespace, a).ok());
        let by_policy = scope
            .authorization_policies
            .values()
            .filter(|p| targets_server(p, namespace, &server.metadata.name))
            .filter_map(|p| self.authorization_policy(namespace, p).ok());
        by_server.chain(by_policy).collect()
    }

    /// Authorizations of all routes of a namespace, those of each route by name.
    pub(super) fn route_authorizations(&self, namespace: &str, scope: &Scope) -> ByRoute {
        let mut by_route = ByRoute(HashMap::new());
        for policy in scope.authorization_policies.values() {
            let to = &policy.spec.target_ref;
            if to.is_server() || to.is("", "Namespace") {
                continue;
            }
            if let Ok(authorization) = self.authorization_policy(namespace, policy) {
                let key = route_key(&to.group, &to.kind, &to.name);
                by_route.0.entry(key).or_default().push(authorization);
            }
        }
        by_route
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
            Some(networks) => network_matches(networks),
            None => plain(&self.cluster().cluster_networks),
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
            let scope = self.scope(ns);
            if required.is(POLICY_GROUP, "MeshTLSAuthentication") {
                let found = scope.and_then(|s| s.mesh_tls.get(&required.name));
                let spec = &found.ok_or_else(missing)?.spec;
                authentication = self.mesh_tls(ns, spec);
            } else if required.is(POLICY_GROUP, "NetworkAuthentication") {
                let found = scope.and_then(|s| s.networks.get(&required.name));
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
