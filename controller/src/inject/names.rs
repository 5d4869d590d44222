//! Names that things of a sidecar have in a Pod.

pub(super) const PROXY: &str = "linkerd-proxy";
pub(super) const INIT: &str = "linkerd-init";
pub(super) const VALIDATOR: &str = "linkerd-network-validator";
pub(super) const DEBUG: &str = "linkerd-debug";

pub(super) const END_ENTITY: &str = "linkerd-identity-end-entity";
pub(super) const TOKEN: &str = "linkerd-identity-token";
pub(super) const XTABLES: &str = "linkerd-proxy-init-xtables-lock";
pub(super) const PODINFO: &str = "linkerd-podinfo";
pub(super) const VOLUMES: [&str; 4] = [END_ENTITY, TOKEN, XTABLES, PODINFO];

pub(super) const END_ENTITY_PATH: &str = "/var/run/linkerd/identity/end-entity";
pub(super) const TOKEN_PATH: &str = "/var/run/secrets/tokens";
pub(super) const ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
pub(super) const PODINFO_PATH: &str = "/var/run/linkerd/podinfo";

pub(super) const CONTROL_PLANE_NS: &str = "linkerd.io/control-plane-ns";
pub(super) const WORKLOAD_NS: &str = "linkerd.io/workload-ns";
/// On Pods of the control plane: which part.
pub(super) const COMPONENT: &str = "linkerd.io/control-plane-component";
pub(super) const CREATED_BY: &str = "linkerd.io/created-by";
pub(super) const PROXY_VERSION: &str = "linkerd.io/proxy-version";
pub(super) const TRUST_ROOT: &str = "linkerd.io/trust-root-sha256";
