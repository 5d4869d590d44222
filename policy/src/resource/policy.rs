//! The kinds of policy.linkerd.io other than routes. An unknown field is an error: a misspelt one would quietly mean
//! something else than its author intended.

use super::{Cidr, LabelSelector, Object, POLICY_GROUP, PortRef, values};
use serde::Deserialize;

/// policy.linkerd.io Server: names one port of some workloads.
pub type Server = Object<ServerSpec>;
/// policy.linkerd.io ServerAuthorization: who may use some Servers.
pub type ServerAuthorization = Object<ServerAuthorizationSpec>;
/// policy.linkerd.io AuthorizationPolicy: what a client must satisfy to use one object.
pub type AuthorizationPolicy = Object<AuthorizationPolicySpec>;
/// policy.linkerd.io MeshTLSAuthentication: identities.
pub type MeshTlsAuthentication = Object<MeshTlsAuthenticationSpec>;
/// policy.linkerd.io NetworkAuthentication: client networks.
pub type NetworkAuthentication = Object<NetworkAuthenticationSpec>;
/// policy.linkerd.io HTTPLocalRateLimitPolicy: request limits of a Server.
pub type HttpLocalRateLimitPolicy = Object<HttpLocalRateLimitPolicySpec>;

/// What a Server specifies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerSpec {
    /// Pods; exclusive with the next one.
    pub pod_selector: Option<LabelSelector>,
    /// External workloads.
    pub external_workload_selector: Option<LabelSelector>,
    /// The port, by number or by a container's name for it.
    pub port: PortRef,
    /// Protocol of the port.
    #[serde(default, deserialize_with = "values::or_default")]
    pub proxy_protocol: ProxyProtocol,
    /// Default policy of the port, beside what authorizations allow; `deny` if absent.
    pub access_policy: Option<String>,
}

impl Default for PortRef {
    fn default() -> Self {
        Self::Number(1)
    }
}

/// The workloads a Server selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadSelector<'a> {
    /// Pods by labels.
    Pods(&'a LabelSelector),
    /// External workloads by labels.
    ExternalWorkloads(&'a LabelSelector),
}

impl ServerSpec {
    /// The workloads selected; `None` cannot happen for what the loader let through.
    pub fn selector(&self) -> Option<WorkloadSelector<'_>> {
        match (&self.pod_selector, &self.external_workload_selector) {
            (Some(pods), _) => Some(WorkloadSelector::Pods(pods)),
            (None, Some(external)) => Some(WorkloadSelector::ExternalWorkloads(external)),
            (None, None) => None,
        }
    }
}

/// The protocol of a port, as a Server states it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ProxyProtocol {
    /// Detected.
    #[default]
    #[serde(rename = "unknown")]
    Unknown,
    /// HTTP/1.
    #[serde(rename = "HTTP/1")]
    Http1,
    /// HTTP/2.
    #[serde(rename = "HTTP/2")]
    Http2,
    /// gRPC.
    #[serde(rename = "gRPC")]
    Grpc,
    /// Bytes.
    #[serde(rename = "opaque")]
    Opaque,
    /// The application's own TLS.
    #[serde(rename = "TLS")]
    Tls,
}

impl ProxyProtocol {
    /// As written in manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Http1 => "HTTP/1",
            Self::Http2 => "HTTP/2",
            Self::Grpc => "gRPC",
            Self::Opaque => "opaque",
            Self::Tls => "TLS",
        }
    }
}

/// What a ServerAuthorization specifies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerAuthorizationSpec {
    /// The Servers.
    pub server: ServerRef,
    /// The clients.
    pub client: Client,
}

/// Servers by name or by labels, exactly one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRef {
    /// By name.
    pub name: Option<String>,
    /// By labels of the Server.
    pub selector: Option<LabelSelector>,
}

/// Clients of a ServerAuthorization.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Their networks; absent or none = the cluster networks.
    pub networks: Option<Vec<Network>>,
    /// Clients need not show anything.
    #[serde(default, deserialize_with = "values::or_default")]
    pub unauthenticated: bool,
    /// Clients need mesh TLS.
    #[serde(rename = "meshTLS")]
    pub mesh_tls: Option<MeshTls>,
}

/// Mesh TLS clients of a ServerAuthorization.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshTls {
    /// TLS is enough; no identity needed.
    #[serde(
        default,
        rename = "unauthenticatedTLS",
        deserialize_with = "values::or_default"
    )]
    pub unauthenticated_tls: bool,
    /// Identities, `*` and `*.suffix` allowed.
    #[serde(default, deserialize_with = "values::or_default")]
    pub identities: Vec<String>,
    /// Service accounts.
    #[serde(default, deserialize_with = "values::or_default")]
    pub service_accounts: Vec<ServiceAccountRef>,
}

/// A service account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountRef {
    /// Name.
    pub name: String,
    /// Namespace; that of the referring object if absent.
    pub namespace: Option<String>,
}

/// A network without its exceptions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The network.
    pub cidr: Cidr,
    /// Parts of it that do not count.
    #[serde(default, deserialize_with = "values::or_default")]
    pub except: Vec<Cidr>,
}

/// What an AuthorizationPolicy specifies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// What it protects: a Server, an HTTPRoute, a GRPCRoute, or its own Namespace.
    pub target_ref: LocalRef,
    /// What a client must satisfy, all of them; none = everyone.
    pub required_authentication_refs: Vec<NamespacedRef>,
}

/// A reference to an object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalRef {
    /// API group; absent, empty or `core` = the core group.
    #[serde(default, deserialize_with = "values::or_default")]
    pub group: String,
    /// Kind, compared without case.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// A reference to an object of this or another namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespacedRef {
    /// API group; absent, empty or `core` = the core group.
    #[serde(default, deserialize_with = "values::or_default")]
    pub group: String,
    /// Kind, compared without case.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; that of the referring object if absent.
    pub namespace: Option<String>,
}

fn same_kind(group: &str, kind: &str, of: (&str, &str)) -> bool {
    let group = if group.eq_ignore_ascii_case("core") {
        ""
    } else {
        group
    };
    group.eq_ignore_ascii_case(of.0) && kind.eq_ignore_ascii_case(of.1)
}

/// `kind.group` as messages write it.
fn canonical(group: &str, kind: &str) -> String {
    match group {
        "" => kind.to_owned(),
        group if group.eq_ignore_ascii_case("core") => kind.to_owned(),
        group => format!("{kind}.{group}"),
    }
}

impl LocalRef {
    /// Whether it refers to this kind; the core group is `""`. Neither group nor kind minds case.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        same_kind(&self.group, &self.kind, (group, kind))
    }

    /// Whether it refers to a Server.
    pub fn is_server(&self) -> bool {
        self.is(POLICY_GROUP, "Server")
    }

    /// `kind.group`.
    pub fn canonical(&self) -> String {
        canonical(&self.group, &self.kind)
    }
}

impl NamespacedRef {
    /// Whether it refers to this kind; the core group is `""`. Neither group nor kind minds case.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        same_kind(&self.group, &self.kind, (group, kind))
    }

    /// `kind.group`.
    pub fn canonical(&self) -> String {
        canonical(&self.group, &self.kind)
    }

    /// The namespace it refers into, from an object of `own`.
    pub fn namespace<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().unwrap_or(own)
    }
}

/// What a MeshTLSAuthentication specifies: exactly one of the two lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshTlsAuthenticationSpec {
    /// Identities, `*` and `*.suffix` allowed, and SPIFFE ids.
    pub identities: Option<Vec<String>>,
    /// ServiceAccounts and Namespaces.
    pub identity_refs: Option<Vec<NamespacedRef>>,
}

/// What a NetworkAuthentication specifies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkAuthenticationSpec {
    /// Client networks.
    pub networks: Vec<Network>,
}

/// What an HTTPLocalRateLimitPolicy specifies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpLocalRateLimitPolicySpec {
    /// The Server.
    pub target_ref: LocalRef,
    /// All clients together.
    pub total: Option<Limit>,
    /// Each identity.
    pub identity: Option<Limit>,
    /// Some identities, in place of `identity`.
    #[serde(default, deserialize_with = "values::or_default")]
    pub overrides: Vec<Override>,
}

/// A limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limit {
    /// Requests per second, above 0.
    pub requests_per_second: i64,
}

/// A limit of some identities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Override {
    /// Requests per second, above 0.
    pub requests_per_second: i64,
    /// Their ServiceAccounts.
    pub client_refs: Vec<NamespacedRef>,
}
