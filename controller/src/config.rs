//! What the control plane is told: flags named like the peer's, and ours for the directory.

use crate::{
    admission::Admission,
    authority::{IssuerFiles, Sources},
    certificates::{Pair, Source},
    grpc::hints::{Hints, Http2Params, TransportMode},
    injector::Injector,
    kubernetes::{Kubernetes, Statuses, lease::Leadership},
};
use ipnet::IpNet;
use linkerd_policy::{DefaultPolicy, index::Cluster, ports::PortSet};
use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

/// Configuration of the control plane.
#[derive(Clone, Debug)]
pub struct Config {
    /// What this process does; it listens and asks an API server for nothing else.
    pub roles: BTreeSet<Role>,
    /// Directory of manifests, read recursively and watched. Not looked at where there is an API server.
    pub manifests: PathBuf,
    /// The API server that objects come from, in place of a directory.
    pub kubernetes: Option<Kubernetes>,
    /// More directories over it; an object in a later one replaces one of the same name in an earlier one.
    pub overlays: Vec<PathBuf>,
    /// Where the CA and the token key are kept.
    pub state_dir: PathBuf,
    /// Where policy is served.
    pub policy_addr: SocketAddr,
    /// Where destinations are served.
    pub destination_addr: SocketAddr,
    /// Where certificates are issued.
    pub identity_addr: SocketAddr,
    /// Health, metrics, status.
    pub admin_addr: SocketAddr,
    /// A sidecar in front speaks mutual TLS, so that the APIs are served in plaintext on every address.
    pub behind_sidecar: bool,
    /// Names and defaults of the mesh.
    pub cluster: Cluster,
    /// Lifetime of issued certificates.
    pub issuance_lifetime: Duration,
    /// How far clocks may differ.
    pub clock_skew: Duration,
    /// Certificates that one identity may ask for in a minute.
    pub certify_per_minute: u32,
    /// How often the directory is looked at, besides when it is said to have changed.
    pub rescan: Duration,
    /// An issuer that the user brings, in place of the one in `state_dir`.
    pub issuer: Option<IssuerFiles>,
    /// The issuer is in a Secret of the API server, made there if need be, in place of all files.
    pub bootstrap_issuer: bool,
    /// Public keys of who signs workload tokens, in place of the key in `state_dir`.
    pub token_keys: Option<PathBuf>,
    /// Most streams that are open at once.
    pub max_streams: usize,
    /// Endpoints of other clusters are given out, with the role destination on an API server.
    pub remote_clusters: bool,
    /// How meshed endpoints are spoken to.
    pub hints: Hints,
    /// The validating webhook, if it is served.
    pub admission: Option<Admission>,
    /// The mutating webhook that adds sidecars, if it is served.
    pub injector: Option<Injector>,
    /// Lifetime of the certificates that are made for webhooks.
    pub webhook_certificate_lifetime: Duration,
    /// How statuses are written, with the role policy on an API server.
    pub statuses: Statuses,
}

impl Config {
    /// Whether this process does this.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether this process needs to know the objects of the mesh.
    pub fn has_index(&self) -> bool {
        // Identity on an API server knows who asks from the token's review alone.
        self.has(Role::Policy) || self.has(Role::Destination) || self.kubernetes.is_none()
    }

    /// Where the CA and the token key are.
    pub fn authority(&self) -> Sources {
        Sources {
            directory: self.state_dir.clone(),
            issuer: self.issuer.clone(),
            token_keys: self.token_keys.clone(),
            are_tokens_reviewed: self.kubernetes.is_some(),
        }
    }
}

/// Parameters of HTTP/2 between proxies where nobody says: PINGs, also without streams.
const MESHED_HTTP2: &str =
    r#"{"keep_alive":{"interval":{"seconds":10},"timeout":{"seconds":3},"while_idle":true}}"#;

/// The flags of `linkerd-controller` and of `linkerd controller`.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "linkerd-controller", max_term_width = 120,
    group = clap::ArgGroup::new("webhook_keys").args(["admission_cert", "webhook_certificates"]).multiple(true),
    group = clap::ArgGroup::new("injector_keys").args(["injector_cert", "webhook_certificates"]).multiple(true),
)]
pub struct Flags {
    /// Directory of Kubernetes-shaped manifests (*.yaml, *.yml, *.json), read recursively and watched.
    #[arg(
        long,
        required_unless_present = "kubernetes",
        conflicts_with = "kubernetes"
    )]
    pub manifests: Option<PathBuf>,
    /// Objects come from the Kubernetes API server, as kubectl finds it or as the Pod's own account may see it; tokens
    /// are reviewed by it.
    #[arg(long)]
    pub kubernetes: bool,
    /// Context of the kubeconfig.
    #[arg(
        long,
        value_name = "NAME",
        requires = "kubernetes",
        conflicts_with = "manifests"
    )]
    pub context: Option<String>,
    /// What this process does. Each role opens only its own addresses, and needs only its own rights.
    #[arg(
        long,
        value_delimiter = ',',
        value_enum,
        default_value = "policy,destination,identity"
    )]
    pub roles: Vec<Role>,
    /// A directory whose objects replace those of the same name in earlier ones; may be repeated.
    #[arg(long = "overlay")]
    pub overlays: Vec<PathBuf>,
    /// Where the CA and the token key are kept; made on first use.
    #[arg(long, default_value = ".linkerd")]
    pub state_dir: PathBuf,
    /// Certificate of an issuer of your own, PEM, with what is between it and the anchors.
    #[arg(long, value_name = "FILE", requires_all = ["issuer_key", "trust_anchors"])]
    pub issuer_cert: Option<PathBuf>,
    /// Its private key, PEM; not readable by all.
    #[arg(long, value_name = "FILE", requires = "issuer_cert")]
    pub issuer_key: Option<PathBuf>,
    /// The trust anchors that it leads to, PEM. The three are read again when they change.
    #[arg(long, value_name = "FILE", requires = "issuer_cert")]
    pub trust_anchors: Option<PathBuf>,
    /// Reads the issuer from the Secret linkerd-identity-issuer and the trust anchors from the ConfigMap
    /// linkerd-identity-trust-roots, in place of files, and makes both once where there are none.
    #[arg(long, requires = "kubernetes", conflicts_with = "manifests")]
    pub bootstrap_issuer: bool,
    /// Public keys (ECDSA P-256, PEM) of who signs workload tokens in your place.
    #[arg(long, value_name = "FILE")]
    pub token_keys: Option<PathBuf>,
    /// Address of the policy API. On other addresses than loopback ones, mutual TLS is spoken.
    #[arg(long, default_value = "127.0.0.1:8090")]
    pub policy_addr: SocketAddr,
    /// Address of the destination API.
    #[arg(long, default_value = "127.0.0.1:8086")]
    pub destination_addr: SocketAddr,
    /// Address of the identity API.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub identity_addr: SocketAddr,
    /// Address of health, metrics and status.
    #[arg(long, default_value = "127.0.0.1:9990")]
    pub admin_addr: SocketAddr,
    /// The APIs are spoken in plaintext on every address: a sidecar in front speaks mutual TLS.
    #[arg(long)]
    pub behind_sidecar: bool,
    /// The policy of ports that no Server selects.
    #[arg(long, default_value = "all-unauthenticated")]
    pub default_policy: DefaultPolicy,
    /// Networks of the cluster-* policies.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8,127.0.0.0/8"
    )]
    pub cluster_networks: Vec<IpNet>,
    /// Lets clients set timeouts and retries by l5d-* request headers, on routes.
    #[arg(long)]
    pub allow_l5d_request_headers: bool,
    /// Namespace whose EgressNetworks are for all clients.
    #[arg(long, default_value = "linkerd-egress")]
    pub global_egress_network_namespace: String,
    /// Networks that probes come from.
    #[arg(long, value_delimiter = ',', default_value = "0.0.0.0/0,::/0")]
    pub probe_networks: Vec<IpNet>,
    /// Ports without protocol detection where a workload says nothing else: numbers and ranges.
    #[arg(long, default_value = "25,587,3306,4444,5432,6379,9300,11211")]
    pub default_opaque_ports: PortSet,
    /// Trust domain of identities.
    #[arg(long, default_value = "cluster.local")]
    pub identity_trust_domain: String,
    /// Domain of Service names.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Namespace in identities.
    #[arg(long, default_value = "linkerd")]
    pub control_plane_namespace: String,
    /// Seconds that certificates are valid.
    #[arg(long, default_value_t = 86_400)]
    pub identity_issuance_lifetime_seconds: u64,
    /// The same as a Go duration, such as 24h0m0s; in its place.
    #[arg(long, value_name = "DURATION", value_parser = go_duration)]
    pub identity_issuance_lifetime: Option<Duration>,
    /// Seconds that clocks may differ.
    #[arg(long, default_value_t = 20)]
    pub identity_clock_skew_seconds: u64,
    /// The same as a Go duration, such as 20s; in its place.
    #[arg(long, value_name = "DURATION", value_parser = go_duration)]
    pub identity_clock_skew_allowance: Option<Duration>,
    /// Certificates that one identity may ask for in a minute.
    #[arg(long, default_value_t = 60)]
    pub certify_per_minute: u32,
    /// IPv6 addresses of endpoints are given out, and preferred.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_ipv6: bool,
    /// Proxies speak HTTP/2 to one another.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_h2_upgrade: bool,
    /// Which meshed endpoints are reached by their proxy's port and a transport header: opaque ones, or all.
    #[arg(long, value_enum, default_value_t = TransportMode::Transparent)]
    pub outbound_transport_mode: TransportMode,
    /// Parameters of HTTP/2 between proxies, as JSON of the API's Http2ClientParams. `{}`: those of each proxy. By default
    /// PINGs find connections to proxies that are gone without a word.
    #[arg(long, value_name = "JSON", default_value = MESHED_HTTP2)]
    pub meshed_http2_client_params: Option<Http2Params>,
    /// Endpoints of the client's zone have ten times the weight.
    #[arg(long)]
    pub ext_endpoint_zone_weights: bool,
    /// Endpoints of other clusters are given out for Services that stand for theirs (role destination). Secrets of the control plane's
    /// namespace, which it must be allowed to list, say where these clusters are.
    #[arg(long, requires = "kubernetes", conflicts_with = "manifests")]
    pub remote_clusters: bool,
    /// Most streams that are open at once.
    #[arg(long, default_value_t = 20_000)]
    pub max_streams: usize,
    /// Address of the validating webhook (role policy). It needs --admission-cert and --admission-key, or --webhook-certificates.
    #[arg(long, value_name = "ADDR", requires = "webhook_keys")]
    pub admission_addr: Option<SocketAddr>,
    /// Its certificate, PEM, read again when it changes; may be repeated, each with its key, where each webhook
    /// has its own.
    #[arg(long, value_name = "FILE", requires = "admission_addr")]
    pub admission_cert: Vec<PathBuf>,
    /// The certificate's private key, PEM; without one it is looked for in the certificate's file.
    #[arg(long, value_name = "FILE", requires_all = ["admission_addr", "admission_cert"])]
    pub admission_key: Vec<PathBuf>,
    /// Address of the mutating webhook that adds sidecars (role injector). It needs --injector-cert and --injector-key, or
    /// --webhook-certificates.
    #[arg(
        long,
        value_name = "ADDR",
        requires = "injector_keys",
        requires_all = ["kubernetes", "injector_values"],
        conflicts_with = "manifests"
    )]
    pub injector_addr: Option<SocketAddr>,
    /// Its certificate, PEM, read again when it changes.
    #[arg(long, value_name = "FILE", requires_all = ["injector_addr", "injector_key"])]
    pub injector_cert: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[arg(long, value_name = "FILE", requires = "injector_cert")]
    pub injector_key: Option<PathBuf>,
    /// The chart's values, YAML, read again when they change: what sidecars are made of.
    #[arg(long, value_name = "FILE", requires = "injector_addr")]
    pub injector_values: Option<PathBuf>,
    /// Trust anchors that sidecars get, PEM, in place of the value identityTrustAnchorsPEM; read again when they change.
    #[arg(long, value_name = "FILE", requires = "injector_addr")]
    pub injector_trust_anchors: Option<PathBuf>,
    /// Makes the certificates of webhooks for which none is brought, keeps them in Secrets and in the caBundle of their
    /// configurations, and makes new ones when two thirds of their life are over.
    #[arg(long, requires = "kubernetes", conflicts_with = "manifests")]
    pub webhook_certificates: bool,
    /// Seconds that the certificates made for webhooks are valid.
    #[arg(long, default_value_t = 365 * 86_400, value_parser = clap::value_parser!(u64).range(10..=10 * 365 * 86_400))]
    pub webhook_certificate_lifetime_seconds: u64,
    /// What becomes of a Server that overlaps with an older one.
    #[arg(long, value_enum, default_value_t = Overlap::Refuse)]
    pub server_overlap: Overlap,
    /// Who this replica is among those that may write statuses; a random name if nothing says it.
    #[arg(long, value_name = "NAME", env = "HOSTNAME", hide_env_values = true)]
    pub hostname: Option<String>,
    /// Seconds that the right to write statuses holds when it is not renewed, which it is three times within them.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(3..=3600))]
    pub lease_seconds: u64,
    /// The Deployment of the policy controller, which owns the lease.
    #[arg(long, value_name = "NAME", default_value = "linkerd-destination")]
    pub policy_deployment_name: String,
    /// Milliseconds that the API server may take to write a status.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub patch_timeout_ms: u64,
    /// Seconds between looks at the manifests, besides when they are said to have changed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub rescan_seconds: u64,
}

/// Something that a control plane does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// The policy API, the validating webhook, and statuses of objects.
    Policy,
    /// The destination API.
    Destination,
    /// The identity API.
    Identity,
    /// The mutating webhook that adds sidecars to Pods.
    Injector,
}

/// What the webhook does about a Server that overlaps with an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Overlap {
    /// It is not admitted.
    Refuse,
    /// It is, with a warning; the older one keeps the port.
    Warn,
}

impl From<Flags> for Config {
    fn from(flags: Flags) -> Self {
        Self {
            roles: flags.roles.into_iter().collect(),
            manifests: flags.manifests.unwrap_or_default(),
            kubernetes: flags.kubernetes.then_some(Kubernetes {
                context: flags.context,
            }),
            overlays: flags.overlays,
            state_dir: flags.state_dir,
            policy_addr: flags.policy_addr,
            destination_addr: flags.destination_addr,
            identity_addr: flags.identity_addr,
            admin_addr: flags.admin_addr,
            behind_sidecar: flags.behind_sidecar,
            cluster: Cluster {
                control_plane_namespace: flags.control_plane_namespace,
                trust_domain: flags.identity_trust_domain,
                cluster_domain: flags.cluster_domain,
                cluster_networks: flags.cluster_networks,
                allow_l5d_request_headers: flags.allow_l5d_request_headers,
                global_egress_namespace: flags.global_egress_network_namespace,
                probe_networks: flags.probe_networks,
                default_policy: flags.default_policy,
                default_opaque_ports: flags.default_opaque_ports,
            },
            issuance_lifetime: flags
                .identity_issuance_lifetime
                .unwrap_or_else(|| Duration::from_secs(flags.identity_issuance_lifetime_seconds))
                .max(Duration::from_secs(10)),
            clock_skew: flags
                .identity_clock_skew_allowance
                .unwrap_or_else(|| Duration::from_secs(flags.identity_clock_skew_seconds)),
            certify_per_minute: flags.certify_per_minute.max(1),
            admission: flags.admission_addr.map(|address| Admission {
                address,
                certificates: Source {
                    files: pairs(flags.admission_cert, flags.admission_key),
                    makes: flags.webhook_certificates,
                },
                refuses_overlap: flags.server_overlap == Overlap::Refuse,
            }),
            // The flags need one another.
            injector: flags
                .injector_addr
                .zip(flags.injector_values)
                .map(|(address, values)| Injector {
                    address,
                    certificates: Source {
                        files: pairs(
                            flags.injector_cert.into_iter().collect(),
                            flags.injector_key.into_iter().collect(),
                        ),
                        makes: flags.webhook_certificates,
                    },
                    values,
                    trust_anchors: flags.injector_trust_anchors,
                }),
            webhook_certificate_lifetime: Duration::from_secs(
                flags.webhook_certificate_lifetime_seconds,
            ),
            statuses: statuses(
                flags.hostname,
                flags.lease_seconds,
                flags.policy_deployment_name,
                flags.patch_timeout_ms,
            ),
            rescan: Duration::from_secs(flags.rescan_seconds.max(1)),
            issuer: issuer(flags.issuer_cert, flags.issuer_key, flags.trust_anchors),
            bootstrap_issuer: flags.bootstrap_issuer,
            token_keys: flags.token_keys,
            max_streams: flags.max_streams,
            remote_clusters: flags.remote_clusters,
            hints: Hints {
                has_ipv6: flags.enable_ipv6,
                has_http2: flags.enable_h2_upgrade,
                has_transport_header: flags.outbound_transport_mode
                    == TransportMode::TransportHeader,
                has_zone_weights: flags.ext_endpoint_zone_weights,
                http2: flags.meshed_http2_client_params,
            },
        }
    }
}

/// How statuses are written, and by whom.
fn statuses(
    hostname: Option<String>,
    lease_seconds: u64,
    deployment: String,
    patch_timeout_ms: u64,
) -> Statuses {
    Statuses {
        leadership: Leadership {
            claimant: hostname
                .filter(|name| !name.is_empty())
                .unwrap_or_else(nobody),
            duration: Duration::from_secs(lease_seconds),
            deployment,
        },
        patience: Duration::from_millis(patch_timeout_ms),
    }
}

/// The files of an issuer that is brought. The flags need one another.
fn issuer(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    anchors: Option<PathBuf>,
) -> Option<IssuerFiles> {
    Some(IssuerFiles {
        certificate: certificate?,
        key: key?,
        anchors: anchors?,
    })
}

/// Certificates and their keys, in the order given; a certificate without one has it in its own file.
fn pairs(certificates: Vec<PathBuf>, keys: Vec<PathBuf>) -> Vec<Pair> {
    let mut keys = keys.into_iter();
    let pair = |certificate: PathBuf| Pair {
        key: keys.next().unwrap_or_else(|| certificate.clone()),
        certificate,
    };
    certificates.into_iter().map(pair).collect()
}

/// A name that nobody else has: two replicas of one name would both take the lease for theirs.
fn nobody() -> String {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    format!("linkerd-controller-{:016x}", hasher.finish())
}

/// A duration as Go writes it, and so the chart's values.
fn go_duration(text: &str) -> Result<Duration, String> {
    linkerd_policy::manifest::go_duration_seconds(text)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "a duration such as 24h0m0s is wanted".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    /// What is wrong with flags, if anything is.
    fn refused(flags: &[&str]) -> Option<String> {
        let flags = Flags::try_parse_from([&["controller"], flags].concat());
        flags.err().map(|error| error.to_string())
    }

    #[test]
    fn what_an_api_server_is_needed_for_is_refused_without_one_and_not_left_out() {
        for flag in [
            "--context=test",
            "--bootstrap-issuer",
            "--remote-clusters",
            "--webhook-certificates",
        ] {
            assert_eq!(refused(&["--kubernetes", flag]), None);
            let alone = refused(&[flag]).unwrap();
            assert!(alone.contains("--kubernetes"), "{alone}");
            let text = refused(&["--manifests=m", flag]).unwrap();
            let name = flag.split('=').next().unwrap();
            assert!(
                text.contains(name) && text.contains("--manifests"),
                "{text}"
            );
        }
        let injector = [
            "--injector-addr=127.0.0.1:8443",
            "--injector-cert=c",
            "--injector-key=k",
            "--injector-values=v",
        ];
        assert_eq!(refused(&[&["--kubernetes"], &injector[..]].concat()), None);
        let text = refused(&[&["--manifests=m"], &injector[..]].concat()).unwrap();
        assert!(text.contains("--manifests"), "{text}");
    }
}
