//! The labels: what each means, where its values come from, and the groups in which families carry them.

/// Where the values of a label come from: decides what is given up first when a family is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The code or the configuration: a small set.
    Fixed,
    /// Policy, discovery or the network: addresses, names of resources, authenticated identities.
    Mesh,
    /// An authenticated peer's identity.
    Identity,
    /// Whoever connects, without any proof.
    Client,
}

/// One label.
#[derive(Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Where its values come from.
    pub source: Source,
}

const fn fixed(name: &'static str, help: &'static str) -> Label {
    let source = Source::Fixed;
    Label { name, help, source }
}

const fn mesh(name: &'static str, help: &'static str) -> Label {
    let source = Source::Mesh;
    Label { name, help, source }
}

const fn identity(name: &'static str, help: &'static str) -> Label {
    let source = Source::Identity;
    Label { name, help, source }
}

const fn client(name: &'static str, help: &'static str) -> Label {
    let source = Source::Client;
    Label { name, help, source }
}

/// All labels.
pub static LABELS: &[Label] = &[
    fixed("direction", "`inbound` or `outbound`"),
    fixed(
        "peer",
        "`src`: the side that connected to the proxy; `dst`: the side the proxy connected to",
    ),
    client(
        "authority",
        "host and port the request was sent to; on inbound series only where an operator asks for it",
    ),
    mesh("target_addr", "original destination, `ip:port`"),
    mesh("target_ip", "its address"),
    mesh("target_port", "its port"),
    fixed(
        "tls",
        "`true`: mesh TLS ended here; `opaque`: TLS passed through; `no_identity`: no TLS of ours; `disabled`",
    ),
    identity(
        "client_id",
        "identity of the client, empty if it sent no certificate; only with `tls=\"true\"`",
    ),
    client(
        "sni",
        "server name the client asked for; only with `tls=\"opaque\"`",
    ),
    fixed(
        "no_tls_reason",
        "`no_tls_from_remote`, `port_skipped`, `loopback`, `not_provided_by_service_discovery`; only with `tls=\"no_identity\"`",
    ),
    mesh("server_id", "identity of the server"),
    mesh("srv_group", "API group of the Server, empty for a default"),
    mesh("srv_kind", "`server` or `default`"),
    mesh("srv_name", "name of the Server or of the default policy"),
    mesh("srv_port", "port the Server is for"),
    mesh("route_group", "API group of the route, empty for a default"),
    mesh("route_kind", "`HTTPRoute`, `GRPCRoute` or `default`"),
    mesh("route_namespace", "its namespace; outbound only"),
    mesh("route_name", "name of the route, `default` or `probe`"),
    mesh(
        "backend_group",
        "API group of the backend, empty for a default",
    ),
    mesh(
        "backend_kind",
        "its kind: `Service`, `EgressNetwork`, `default`",
    ),
    mesh("backend_namespace", "its namespace"),
    mesh("backend_name", "its name"),
    mesh("backend_port", "its port"),
    mesh("backend_section_name", "its section"),
    client(
        "hostname",
        "host that the request or connection was for; empty unless asked for; in `endpoints_*` an instance of the Service",
    ),
    fixed("http_status", "HTTP status; empty on error"),
    fixed(
        "op",
        "what was done: `Send`, `Recv`; `Reset`, `Add`, `Remove`",
    ),
    fixed(
        "zone_locality",
        "whether the endpoint is in this workload's zone, as far as discovery says",
    ),
    fixed("endpoint_state", "`ready` or `pending`"),
    fixed("fate", "what became of a request; a closed set"),
    fixed("outcome", "`recovered` or `gave_up`"),
    fixed("retry", "`true` for attempts after the first"),
    fixed("skipped", "why a retry was not made: `no_budget`"),
    mesh("logical", "name that the application used"),
    mesh("concrete", "name that is balanced over"),
    mesh(
        "authz_group",
        "API group of the authorization, empty for a default",
    ),
    mesh(
        "authz_kind",
        "`authorizationpolicy`, `serverauthorization` or `default`",
    ),
    mesh("authz_name", "name of the authorization"),
    mesh("parent_group", "API group of what the route belongs to"),
    mesh("parent_kind", "its kind: `server`, `Service`, `default`"),
    mesh("parent_namespace", "its namespace"),
    mesh("parent_name", "its name"),
    mesh("parent_port", "its port"),
    mesh("parent_section_name", "its section"),
    mesh("ratelimit_group", "API group of the rate limit"),
    mesh("ratelimit_kind", "`HTTPLocalRateLimitPolicy`"),
    mesh("ratelimit_name", "name of the rate limit"),
    fixed(
        "ratelimit_scope",
        "`total` or `identity`; overrides count as `identity`",
    ),
    fixed(
        "status_code",
        "HTTP status; absent if the request failed without one",
    ),
    fixed(
        "status",
        "HTTP status; for gRPC families the gRPC code; empty on error",
    ),
    fixed("grpc_status", "gRPC code, empty for other traffic"),
    fixed("classification", "`success` or `failure`"),
    fixed(
        "error",
        "what failed, empty for nothing; the values stand with the failures in the docs",
    ),
    fixed(
        "errno",
        "operating system error the connection ended with, empty for a clean end",
    ),
    client("dst", "name and port of the service profile"),
    mesh("rt_*", "labels of the profile's route"),
    fixed(
        "owner_kind",
        "kind of what a Pod belongs to, in small letters",
    ),
    mesh("namespace", "namespace of the object"),
    fixed(
        "annotation_at",
        "where injection was asked for: `workload`, `namespace`, empty",
    ),
    fixed(
        "config_*",
        "where the annotation `config.linkerd.io/*` is: `workload`, `namespace`",
    ),
    fixed(
        "skip",
        "whether nothing was done to the object: `true`, `false`",
    ),
    fixed(
        "skip_reason",
        "why there is no sidecar; a closed set, empty where there is one",
    ),
    mesh("dst_*", "labels of the endpoint, from discovery"),
    fixed("protocol", "protocol by policy or detection"),
    fixed(
        "name",
        "name of the part of the proxy; in `service_subscribers` of a Service",
    ),
    fixed("result", "how it ended"),
    fixed("reason", "why; a closed set"),
    fixed("session_protocol", "`http/1`, `http/2` or empty"),
    client("target_name", "name in the transport header, empty if none"),
    mesh("addr", "address of the control plane service"),
    fixed(
        "source",
        "`default`: configuration; `controller`: the controller; `invalid`: refused, and nothing good came before",
    ),
    fixed("limit", "which limit; a closed set"),
    fixed("stage", "`tls` or `http`: what was being detected"),
    fixed("phase", "`starting`, `ready`, `draining` or `stopped`"),
    fixed("family", "name of a metric family"),
    mesh("port", "port the policy is for"),
    fixed("anchor", "subject of the trust anchor"),
    fixed("client", "part of the proxy that asked"),
    fixed("record_type", "`A/AAAA` or `SRV`"),
    fixed("date", "when it was built"),
    fixed("git_sha", "commit it was built from"),
    fixed(
        "profile",
        "build profile; in `profile_*` full name of a Service",
    ),
    fixed("vendor", "who built it"),
    fixed("version", "its version"),
    fixed(
        "tls_suites",
        "cipher suites in use, each followed by a comma",
    ),
    fixed(
        "tls_kx_groups",
        "key exchange groups in use, each followed by a comma",
    ),
    fixed("tls_rand", "source of random numbers"),
    fixed("tls_key_provider", "who loads keys"),
    fixed("tls_fips", "`true` if the provider runs in FIPS mode"),
    fixed("kind", "kind of resource"),
    mesh("file", "file of the manifest directory"),
    fixed(
        "service",
        "gRPC service; in `endpoint_updates_queue_overflow` a Service by its full name, in `endpoints_*` by its name",
    ),
    mesh(
        "fqn",
        "full name of a Service; empty for one that is not known",
    ),
    fixed("sent", "`true` or `false`"),
    fixed("method", "gRPC method"),
    fixed("grpc_service", "gRPC service, by its full name"),
    fixed("grpc_method", "gRPC method"),
    fixed("grpc_type", "`unary` or `server_stream`"),
    fixed("grpc_code", "gRPC code, by its name"),
    fixed("cluster", "cluster of the endpoints: `local`"),
    mesh(
        "nodename",
        "node of the client, where only endpoints of its own node are for it; empty otherwise",
    ),
];

/// The label of this name.
#[must_use]
pub fn label(name: &str) -> Option<&'static Label> {
    LABELS
        .iter()
        .find(|label| match label.name.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => label.name == name,
        })
}

/// Where the values of a label come from. What is not in the table is taken for the worst.
pub(crate) fn source(name: &str) -> Source {
    label(name).map_or(Source::Client, |label| label.source)
}

/// True if a series carries a value that whoever connects made up.
pub(crate) fn has_client_value(labels: &crate::Labels) -> bool {
    labels
        .iter()
        .any(|(key, value)| source(key) == Source::Client && !value.is_empty())
}

/// Original destination.
pub(super) const TGT: &[&str] = &["target_addr", "target_ip", "target_port"];
/// TLS of a client's connection.
pub(super) const TLS: &[&str] = &["tls", "client_id", "sni", "no_tls_reason"];
/// Server policy.
pub(super) const SRV: &[&str] = &["srv_group", "srv_kind", "srv_name", "srv_port"];
/// Route.
pub(super) const RT: &[&str] = &["route_group", "route_kind", "route_name"];
/// Authorization.
pub(super) const AZ: &[&str] = &["authz_group", "authz_kind", "authz_name"];
/// Inbound parent and route.
pub(super) const PAR: &[&str] = &[
    "parent_group",
    "parent_kind",
    "parent_name",
    "parent_port",
    "route_group",
    "route_kind",
    "route_name",
];
/// Outbound parent.
pub(super) const PARENT: &[&str] = &[
    "parent_group",
    "parent_kind",
    "parent_namespace",
    "parent_name",
    "parent_port",
    "parent_section_name",
];
/// Outbound route.
pub(super) const ROUTE: &[&str] = &["route_group", "route_kind", "route_namespace", "route_name"];
/// Outbound backend.
pub(super) const BACKEND: &[&str] = &[
    "backend_group",
    "backend_kind",
    "backend_namespace",
    "backend_name",
    "backend_port",
    "backend_section_name",
];
/// Outbound endpoint, after direction and authority.
pub(super) const ENDPOINT: &[&str] = &["server_id", "dst_*"];
