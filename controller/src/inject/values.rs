//! The values of the chart that a sidecar depends on, under the chart's names. Others are not looked at, and what is
//! absent has the chart's default.
//!
//! Numbers may be written where text is wanted: `--set proxy.opaquePorts=25` makes a number of it.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// The version that images have where nothing says another.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Values of the control plane's chart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Values {
    /// Domain of Service names.
    #[serde(deserialize_with = "text")]
    pub cluster_domain: String,
    /// Networks of the cluster, comma-separated.
    #[serde(deserialize_with = "text")]
    pub cluster_networks: String,
    /// The trust anchors, PEM.
    #[serde(rename = "identityTrustAnchorsPEM", deserialize_with = "text")]
    pub identity_trust_anchors_pem: String,
    /// Trust domain of identities; empty: the cluster's domain.
    #[serde(deserialize_with = "text")]
    pub identity_trust_domain: String,
    /// Of identity.
    pub identity: Identity,
    /// No listener and no rule for IPv6.
    #[serde(rename = "disableIPv6")]
    pub disable_ipv6: bool,
    /// A CNI plugin writes the rules, in place of an init container.
    pub cni_enabled: bool,
    /// Of images that say nothing themselves.
    #[serde(deserialize_with = "text")]
    pub image_pull_policy: String,
    /// The version of images that say nothing themselves; empty: that of this program.
    #[serde(deserialize_with = "text")]
    pub linkerd_version: String,
    /// Of the sidecar.
    pub proxy: Proxy,
    /// Of the init container.
    pub proxy_init: ProxyInit,
    /// Of the container that checks what a CNI plugin did.
    pub network_validator: NetworkValidator,
    /// Of the debug container.
    pub debug_container: DebugContainer,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".into(),
            cluster_networks: "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8"
                .into(),
            identity_trust_anchors_pem: String::new(),
            identity_trust_domain: String::new(),
            identity: Identity::default(),
            disable_ipv6: true,
            cni_enabled: false,
            image_pull_policy: "IfNotPresent".into(),
            linkerd_version: String::new(),
            proxy: Proxy::default(),
            proxy_init: ProxyInit::default(),
            network_validator: NetworkValidator::default(),
            debug_container: DebugContainer::default(),
        }
    }
}

/// Why values cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value `{field}` cannot be used: {reason}")]
pub struct InvalidValues {
    /// Which, as `--set` would name it; `.` for all of them.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

impl Values {
    /// Reads YAML, or JSON.
    ///
    /// # Errors
    /// [`InvalidValues`], naming the field.
    pub fn from_yaml(text: &str) -> Result<Self, InvalidValues> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let unread = |reason: String| InvalidValues {
            field: ".".to_owned(),
            reason,
        };
        let mut values: Value =
            serde_norway::from_str(text).map_err(|error| unread(error.to_string()))?;
        without_nulls(&mut values);
        serde_path_to_error::deserialize(values).map_err(|error| InvalidValues {
            field: error.path().to_string(),
            reason: error.inner().to_string(),
        })
    }

    /// The trust domain of identities.
    pub fn trust_domain(&self) -> &str {
        match self.identity_trust_domain.as_str() {
            "" => &self.cluster_domain,
            domain => domain,
        }
    }

    /// The version of images that say nothing themselves.
    pub fn version(&self) -> &str {
        match self.linkerd_version.as_str() {
            "" => VERSION,
            version => version,
        }
    }
}

/// `identity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// The sidecar has a token of its own, with the audience of the identity service.
    pub service_account_token_projection: bool,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            service_account_token_projection: true,
        }
    }
}

/// How traffic comes to the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The kernel redirects it: rules of an init container, or of a CNI plugin.
    #[default]
    Redirect,
    /// Applications and clients name the sidecar's listeners; nobody needs a capability.
    Explicit,
}

/// `proxy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "the chart's")]
pub struct Proxy {
    pub image: Image,
    pub ports: Ports,
    pub resources: Resources,
    pub runtime: Runtime,
    pub control: Control,
    pub inbound: Side,
    pub outbound: Side,
    pub metrics: Metrics,
    pub tracing: Tracing,
    pub mode: Mode,
    #[serde(deserialize_with = "text")]
    pub inbound_listeners: String,
    #[serde(deserialize_with = "text")]
    pub outbound_listeners: String,
    #[serde(deserialize_with = "text")]
    pub log_level: String,
    #[serde(deserialize_with = "text")]
    pub log_format: String,
    #[serde(rename = "logHTTPHeaders", deserialize_with = "text")]
    pub log_http_headers: String,
    pub uid: i64,
    pub gid: i64,
    #[serde(rename = "await")]
    pub awaits: bool,
    pub native_sidecar: bool,
    #[serde(deserialize_with = "text")]
    pub opaque_ports: String,
    #[serde(deserialize_with = "text")]
    pub default_inbound_policy: String,
    #[serde(deserialize_with = "text")]
    pub require_identity_on_inbound_ports: String,
    #[serde(rename = "requireTLSOnInboundPorts", deserialize_with = "text")]
    pub require_tls_on_inbound_ports: String,
    #[serde(deserialize_with = "text")]
    pub pod_inbound_ports: String,
    pub enable_external_profiles: bool,
    pub enable_shutdown_endpoint: bool,
    pub is_gateway: bool,
    pub is_ingress: bool,
    #[serde(deserialize_with = "text")]
    pub outbound_connect_timeout: String,
    #[serde(deserialize_with = "text")]
    pub inbound_connect_timeout: String,
    #[serde(deserialize_with = "text")]
    pub outbound_discovery_cache_unused_timeout: String,
    #[serde(deserialize_with = "text")]
    pub inbound_discovery_cache_unused_timeout: String,
    pub disable_outbound_protocol_detect_timeout: bool,
    pub disable_inbound_protocol_detect_timeout: bool,
    #[serde(deserialize_with = "text")]
    pub access_log: String,
    #[serde(deserialize_with = "text")]
    pub shutdown_grace_period: String,
    pub wait_before_exit_seconds: u64,
    pub enable_debug_sidecar: bool,
    pub additional_env: Vec<Value>,
    pub experimental_env: Vec<Value>,
    pub startup_probe: StartupProbe,
    pub liveness_probe: Probe,
    pub readiness_probe: Probe,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            image: Image::named("cr.l5d.io/linkerd/proxy"),
            ports: Ports::default(),
            resources: Resources::default(),
            runtime: Runtime::default(),
            control: Control::default(),
            inbound: Side::default(),
            outbound: Side::default(),
            metrics: Metrics::default(),
            tracing: Tracing::default(),
            mode: Mode::default(),
            inbound_listeners: String::new(),
            outbound_listeners: String::new(),
            log_level: "warn,linkerd=info,hickory=error".into(),
            log_format: "plain".into(),
            log_http_headers: "off".into(),
            uid: 2102,
            gid: -1,
            awaits: true,
            native_sidecar: true,
            opaque_ports: "25,587,3306,4444,5432,6379,9300,11211".into(),
            default_inbound_policy: "all-unauthenticated".into(),
            require_identity_on_inbound_ports: String::new(),
            require_tls_on_inbound_ports: String::new(),
            pod_inbound_ports: String::new(),
            enable_external_profiles: false,
            enable_shutdown_endpoint: false,
            is_gateway: false,
            is_ingress: false,
            outbound_connect_timeout: "1000ms".into(),
            inbound_connect_timeout: "100ms".into(),
            outbound_discovery_cache_unused_timeout: "5s".into(),
            inbound_discovery_cache_unused_timeout: "90s".into(),
            disable_outbound_protocol_detect_timeout: false,
            disable_inbound_protocol_detect_timeout: false,
            access_log: String::new(),
            shutdown_grace_period: String::new(),
            wait_before_exit_seconds: 0,
            enable_debug_sidecar: false,
            additional_env: Vec::new(),
            experimental_env: Vec::new(),
            startup_probe: StartupProbe::default(),
            liveness_probe: Probe {
                initial_delay_seconds: 10,
                timeout_seconds: 1,
            },
            readiness_probe: Probe {
                initial_delay_seconds: 2,
                timeout_seconds: 1,
            },
        }
    }
}

/// An image: name, version, when it is pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// Empty: `linkerdVersion`.
    #[serde(deserialize_with = "text")]
    pub version: String,
    /// Empty: `imagePullPolicy`.
    #[serde(deserialize_with = "text")]
    pub pull_policy: String,
}

impl Image {
    fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// `proxy.ports`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ports {
    pub admin: u16,
    pub control: u16,
    pub inbound: u16,
    pub outbound: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            admin: 4191,
            control: 4190,
            inbound: 4143,
            outbound: 4140,
        }
    }
}

/// `proxy.resources`: quantities, empty where nothing is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    pub cpu: Amount,
    pub memory: Amount,
    #[serde(rename = "ephemeral-storage")]
    pub ephemeral_storage: Amount,
}

/// What is requested, and the limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Amount {
    #[serde(deserialize_with = "text")]
    pub request: String,
    #[serde(deserialize_with = "text")]
    pub limit: String,
}

/// `proxy.runtime`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Runtime {
    pub workers: Workers,
}

/// `proxy.runtime.workers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Workers {
    pub minimum: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum: Option<u32>,
    #[serde(rename = "maximumCPURatio", skip_serializing_if = "Option::is_none")]
    pub maximum_cpu_ratio: Option<f64>,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            minimum: 1,
            maximum: None,
            maximum_cpu_ratio: None,
        }
    }
}

/// `proxy.control`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Control {
    pub streams: Streams,
}

/// `proxy.control.streams`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Streams {
    #[serde(deserialize_with = "text")]
    pub initial_timeout: String,
    #[serde(deserialize_with = "text")]
    pub idle_timeout: String,
    #[serde(deserialize_with = "text")]
    pub lifetime: String,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            initial_timeout: "3s".into(),
            idle_timeout: "5m".into(),
            lifetime: "1h".into(),
        }
    }
}

/// `proxy.inbound`, `proxy.outbound`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Side {
    pub server: SideServer,
}

/// `proxy.inbound.server`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SideServer {
    pub http2: KeepAlive,
}

/// `proxy.inbound.server.http2`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeepAlive {
    #[serde(deserialize_with = "text")]
    pub keep_alive_interval: String,
    #[serde(deserialize_with = "text")]
    pub keep_alive_timeout: String,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            keep_alive_interval: "10s".into(),
            keep_alive_timeout: "3s".into(),
        }
    }
}

/// `proxy.metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metrics {
    pub hostname_labels: bool,
}

/// `proxy.tracing`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    #[serde(alias = "enable")]
    pub enabled: bool,
    #[serde(deserialize_with = "text")]
    pub trace_service_name: String,
    #[serde(deserialize_with = "text")]
    pub protocol: String,
    pub collector: Collector,
    /// Further attributes of spans.
    pub labels: Map<String, Value>,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            enabled: false,
            trace_service_name: "linkerd-proxy".into(),
            protocol: "opentelemetry".into(),
            collector: Collector::default(),
            labels: Map::new(),
        }
    }
}

/// `proxy.tracing.collector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Collector {
    #[serde(deserialize_with = "text")]
    pub endpoint: String,
    pub mesh_identity: MeshIdentity,
}

/// Who a collector in the mesh is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshIdentity {
    #[serde(deserialize_with = "text")]
    pub service_account_name: String,
    #[serde(deserialize_with = "text")]
    pub namespace: String,
}

/// A probe's delays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    pub initial_delay_seconds: u32,
    pub timeout_seconds: u32,
}

/// `proxy.startupProbe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartupProbe {
    pub initial_delay_seconds: u32,
    pub period_seconds: u32,
    pub failure_threshold: u32,
}

impl Default for StartupProbe {
    fn default() -> Self {
        Self {
            initial_delay_seconds: 0,
            period_seconds: 1,
            failure_threshold: 120,
        }
    }
}

/// `proxyInit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyInit {
    /// Empty name: the sidecar's image.
    pub image: Image,
    #[serde(deserialize_with = "text")]
    pub iptables_mode: String,
    #[serde(deserialize_with = "text")]
    pub ignore_inbound_ports: String,
    #[serde(deserialize_with = "text")]
    pub ignore_outbound_ports: String,
    #[serde(deserialize_with = "text")]
    pub skip_subnets: String,
    #[serde(rename = "kubeAPIServerPorts", deserialize_with = "text")]
    pub kube_api_server_ports: String,
    #[serde(deserialize_with = "text")]
    pub log_level: String,
    #[serde(deserialize_with = "text")]
    pub log_format: String,
    pub close_wait_timeout_secs: u64,
    pub privileged: bool,
    pub run_as_root: bool,
    pub run_as_user: i64,
    pub run_as_group: i64,
    /// Empty quantities: the sidecar's resources.
    pub resources: Resources,
}

impl Default for ProxyInit {
    fn default() -> Self {
        Self {
            image: Image::default(),
            iptables_mode: "nft".into(),
            ignore_inbound_ports: "4567,4568".into(),
            ignore_outbound_ports: "4567,4568".into(),
            skip_subnets: String::new(),
            kube_api_server_ports: "443,6443".into(),
            log_level: String::new(),
            log_format: String::new(),
            close_wait_timeout_secs: 0,
            privileged: false,
            run_as_root: false,
            run_as_user: 65534,
            run_as_group: 65534,
            resources: Resources::default(),
        }
    }
}

/// `networkValidator`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkValidator {
    /// Empty: one that nobody has, of the family in use.
    #[serde(deserialize_with = "text")]
    pub connect_addr: String,
    /// Empty: the outbound port of the sidecar.
    #[serde(deserialize_with = "text")]
    pub listen_addr: String,
    #[serde(deserialize_with = "text")]
    pub timeout: String,
    #[serde(deserialize_with = "text")]
    pub log_level: String,
    #[serde(deserialize_with = "text")]
    pub log_format: String,
}

impl Default for NetworkValidator {
    fn default() -> Self {
        Self {
            connect_addr: String::new(),
            listen_addr: String::new(),
            timeout: "10s".into(),
            log_level: "debug".into(),
            log_format: "plain".into(),
        }
    }
}

/// `debugContainer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DebugContainer {
    pub image: Image,
}

impl Default for DebugContainer {
    fn default() -> Self {
        Self {
            image: Image::named("cr.l5d.io/linkerd/debug"),
        }
    }
}

/// Takes away what is null, as Helm does: the default stands.
fn without_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(without_nulls);
    }
}

/// Text, where a number or nothing may stand as well.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        _ => Err(serde::de::Error::custom("text is wanted here")),
    }
}
