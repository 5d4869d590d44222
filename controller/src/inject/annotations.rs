//! Every annotation that says something about a sidecar: one table, from which values, inheritance, metrics and the
//! page `docs/injection.md` come.

use super::{
    read,
    values::{Mode, Values},
};
use linkerd_policy::DefaultPolicy;
use serde_json::Value;
use std::collections::BTreeMap;

/// Asks for a sidecar.
pub const INJECT: &str = "linkerd.io/inject";
/// Ports whose protocol is not looked at.
pub const OPAQUE_PORTS: &str = "config.linkerd.io/opaque-ports";
/// Environment variables, merged by name.
pub(super) const ADDITIONAL_ENV: &str = "config.linkerd.io/proxy-additional-env";
/// Attributes of traces have any name behind this.
pub(super) const TRACE_ATTRIBUTE: &str = "resource.opentelemetry.io/";

/// Annotations, of a Pod or a namespace.
pub type Annotations = BTreeMap<String, String>;

/// One annotation.
#[derive(Debug)]
pub struct Annotation {
    /// Its whole key.
    pub key: &'static str,
    /// What it takes, for people.
    pub takes: &'static str,
    /// What it does, for people.
    pub effect: &'static str,
    /// Whether Pods have it from their namespace.
    pub is_inherited: bool,
    apply: Apply,
}

type Apply = fn(&mut Values, &str) -> Result<(), String>;

impl Annotation {
    /// Its name in labels of metrics.
    pub fn label(&self) -> String {
        let name = self.key.split_once('/').map_or(self.key, |(_, name)| name);
        name.replace('-', "_")
    }
}

const fn row(
    key: &'static str,
    takes: &'static str,
    effect: &'static str,
    apply: Apply,
) -> Annotation {
    Annotation {
        key,
        takes,
        effect,
        is_inherited: true,
        apply,
    }
}

impl Annotation {
    const fn not_inherited(mut self) -> Self {
        self.is_inherited = false;
        self
    }
}

/// Says which value an annotation sets, and how it is read.
macro_rules! set {
    ($read:expr => $($field:tt).+) => {
        |values, text| {
            values.$($field).+ = ($read)(text)?;
            Ok(())
        }
    };
}

fn some(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}

fn any(text: &str) -> Result<String, String> {
    Ok(text.trim().to_owned())
}

fn duration(text: &str) -> Result<String, String> {
    read::duration(text).map(|_| text.trim().to_owned())
}

fn pull(text: &str) -> Result<String, String> {
    read::one_of(text, &["Always", "IfNotPresent", "Never"])
}

fn ratio(text: &str) -> Result<Option<f64>, String> {
    match text.trim().parse::<f64>() {
        Ok(ratio) if ratio > 0.0 && ratio < 1.0 => Ok(Some(ratio)),
        _ => Err("a share above 0 and below 1 is wanted".to_owned()),
    }
}

fn listeners(text: &str) -> Result<String, String> {
    for item in text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let parts = item.split_once('=');
        if parts.is_none_or(|(listen, to)| listen.is_empty() || to.is_empty()) {
            return Err(format!("`{item}` is no listener; write listen=destination"));
        }
    }
    Ok(text.trim().to_owned())
}

fn native(values: &mut Values, text: &str) -> Result<(), String> {
    values.proxy.native_sidecar = read::boolean(text)?;
    Ok(())
}

/// A duration as whole seconds, rounded up.
fn seconds(text: &str) -> Result<u64, String> {
    let duration = read::duration(text)?;
    Ok(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}

const PORT: &str = "port";
const PORTS: &str = "ports and ranges, `25,3000-3100`";
const QUANTITY: &str = "quantity";
const DURATION: &str = "duration";
const BOOL: &str = "`true`, `false`";
const SWITCH: &str = "`enabled`, `disabled`";

/// The annotations, in the order of the page.
#[rustfmt::skip]
pub static ANNOTATIONS: &[Annotation] = &[
    row("config.linkerd.io/proxy-image", "text", "image of the sidecar and of the init container, without a version", set!(some => proxy.image.name)),
    row("config.linkerd.io/proxy-version", "text", "its version", set!(some => proxy.image.version)),
    row("config.linkerd.io/image-pull-policy", "`Always`, `IfNotPresent`, `Never`", "when images are pulled", |values, text| {
        values.image_pull_policy = pull(text)?;
        values.proxy.image.pull_policy = values.image_pull_policy.clone();
        values.proxy_init.image.pull_policy = values.image_pull_policy.clone();
        Ok(())
    }),
    row("config.linkerd.io/inbound-port", PORT, "where traffic to the Pod arrives", set!(read::port => proxy.ports.inbound)),
    row("config.linkerd.io/outbound-port", PORT, "where traffic of the application arrives", set!(read::port => proxy.ports.outbound)),
    row("config.linkerd.io/control-port", PORT, "the tap listener", set!(read::port => proxy.ports.control)),
    row("config.linkerd.io/admin-port", PORT, "probes, metrics and diagnostics", set!(read::port => proxy.ports.admin)),
    row("config.linkerd.io/skip-inbound-ports", PORTS, "ports of the Pod whose traffic does not go through the sidecar", set!(read::ports => proxy_init.ignore_inbound_ports)),
    row("config.linkerd.io/skip-outbound-ports", PORTS, "ports of others whose traffic does not go through the sidecar", set!(read::ports => proxy_init.ignore_outbound_ports)),
    row("config.linkerd.io/skip-subnets", "networks, `10.0.0.0/8,fd00::/8`", "clients whose traffic does not go through the sidecar", set!(read::networks => proxy_init.skip_subnets)),
    row(OPAQUE_PORTS, "ports, ranges, names of container ports", "ports whose protocol is not looked at", set!(any => proxy.opaque_ports)),
    row("config.linkerd.io/pod-inbound-ports", PORTS, "ports that the sidecar knows from the start, besides those that containers declare", set!(read::ports => proxy.pod_inbound_ports)),
    row("config.linkerd.io/proxy-cpu-request", QUANTITY, "CPU that is requested; rounded up, the least number of workers", |values, text| {
        values.proxy.resources.cpu.request = read::quantity(text)?;
        values.proxy.runtime.workers.minimum = read::cores(text).unwrap_or(1);
        Ok(())
    }),
    row("config.linkerd.io/proxy-cpu-limit", QUANTITY, "limit of CPU; rounded up, the largest number of workers", |values, text| {
        values.proxy.resources.cpu.limit = read::quantity(text)?;
        values.proxy.runtime.workers.maximum = read::cores(text);
        Ok(())
    }),
    row("config.linkerd.io/proxy-cpu-ratio-limit", "share, above 0 and below 1", "share of the node's CPUs that workers may take", set!(ratio => proxy.runtime.workers.maximum_cpu_ratio)).not_inherited(),
    row("config.linkerd.io/proxy-memory-request", QUANTITY, "memory that is requested", set!(read::quantity => proxy.resources.memory.request)),
    row("config.linkerd.io/proxy-memory-limit", QUANTITY, "limit of memory", set!(read::quantity => proxy.resources.memory.limit)),
    row("config.linkerd.io/proxy-ephemeral-storage-request", QUANTITY, "disk that is requested", set!(read::quantity => proxy.resources.ephemeral_storage.request)),
    row("config.linkerd.io/proxy-ephemeral-storage-limit", QUANTITY, "limit of disk", set!(read::quantity => proxy.resources.ephemeral_storage.limit)),
    row("config.linkerd.io/proxy-uid", "number", "user of the sidecar, whose own traffic is not redirected", set!(read::id => proxy.uid)),
    row("config.linkerd.io/proxy-gid", "number", "group of the sidecar", set!(read::id => proxy.gid)),
    row("config.linkerd.io/proxy-log-level", "log filter", "what the sidecar logs", set!(some => proxy.log_level)),
    row("config.linkerd.io/proxy-log-format", "`plain`, `json`", "how", set!(|text| read::one_of(text, &["plain", "json"]) => proxy.log_format)),
    row("config.linkerd.io/proxy-log-http-headers", "`off`, `insecure`", "whether headers are logged, at the level that has them", set!(|text| read::one_of(text, &["off", "insecure"]) => proxy.log_http_headers)),
    row("config.linkerd.io/proxy-admin-shutdown", SWITCH, "whether the application may end the sidecar: `POST /shutdown`", set!(read::enabled => proxy.enable_shutdown_endpoint)),
    row("config.linkerd.io/proxy-require-identity-inbound-ports", PORTS, "ports that need mutual TLS where no Server says anything", set!(read::ports => proxy.require_identity_on_inbound_ports)),
    row("config.linkerd.io/default-inbound-policy", "`all-unauthenticated`, `all-authenticated`, `cluster-unauthenticated`, `cluster-authenticated`, `deny`, `audit`", "policy of ports that no Server selects", |values, text| {
        text.trim().parse::<DefaultPolicy>().map_err(|error| error.to_string())?;
        values.proxy.default_inbound_policy = text.trim().to_owned();
        Ok(())
    }),
    row("config.linkerd.io/enable-external-profiles", BOOL, "profiles of names outside the cluster", set!(read::boolean => proxy.enable_external_profiles)),
    row("config.linkerd.io/proxy-metrics-hostname-labels", BOOL, "names of destinations in metrics", set!(read::boolean => proxy.metrics.hostname_labels)),
    row("config.linkerd.io/proxy-outbound-connect-timeout", DURATION, "connecting to others", set!(duration => proxy.outbound_connect_timeout)),
    row("config.linkerd.io/proxy-inbound-connect-timeout", DURATION, "connecting to the application", set!(duration => proxy.inbound_connect_timeout)),
    row("config.linkerd.io/proxy-outbound-discovery-cache-unused-timeout", DURATION, "how long a destination is kept unused", set!(duration => proxy.outbound_discovery_cache_unused_timeout)),
    row("config.linkerd.io/proxy-inbound-discovery-cache-unused-timeout", DURATION, "how long the policy of an undeclared port is kept unused", set!(duration => proxy.inbound_discovery_cache_unused_timeout)),
    row("config.linkerd.io/proxy-disable-outbound-protocol-detect-timeout", BOOL, "the client may take any time before it speaks", set!(read::boolean => proxy.disable_outbound_protocol_detect_timeout)),
    row("config.linkerd.io/proxy-disable-inbound-protocol-detect-timeout", BOOL, "the same for traffic to the Pod", set!(read::boolean => proxy.disable_inbound_protocol_detect_timeout)),
    row("config.linkerd.io/enable-gateway", BOOL, "the Pod is a gateway of other clusters", set!(read::boolean => proxy.is_gateway)).not_inherited(),
    row("config.linkerd.io/enable-debug-sidecar", BOOL, "a container with tools to look at the network", set!(read::boolean => proxy.enable_debug_sidecar)),
    row("config.linkerd.io/debug-image", "text", "its image", set!(some => debug_container.image.name)).not_inherited(),
    row("config.linkerd.io/debug-image-version", "text", "its image's version", set!(some => debug_container.image.version)).not_inherited(),
    row("config.linkerd.io/debug-image-pull-policy", "`Always`, `IfNotPresent`, `Never`", "when it is pulled", set!(pull => debug_container.image.pull_policy)).not_inherited(),
    row("config.linkerd.io/close-wait-timeout", DURATION, "how long the kernel keeps connections in CLOSE_WAIT; needs `proxyInit.runAsRoot`", set!(seconds => proxy_init.close_wait_timeout_secs)).not_inherited(),
    row("config.alpha.linkerd.io/proxy-enable-native-sidecar", BOOL, "older name of the next but one", native),
    row("config.beta.linkerd.io/proxy-enable-native-sidecar", BOOL, "older name of the next", native).not_inherited(),
    row("config.linkerd.io/proxy-enable-native-sidecar", BOOL, "the sidecar is an init container that goes on (Kubernetes 1.29): it is there before the other init containers, and ends after the application", native),
    row("config.linkerd.io/proxy-await", SWITCH, "the application starts when the sidecar is ready", set!(read::enabled => proxy.awaits)),
    row("config.linkerd.io/access-log", "`apache`, `json`", "a line for each inbound request", set!(|text| read::one_of(text, &["apache", "json"]) => proxy.access_log)),
    row("config.linkerd.io/shutdown-grace-period", DURATION, "longest drain", set!(duration => proxy.shutdown_grace_period)),
    row(ADDITIONAL_ENV, "JSON list of EnvVar", "variables of the sidecar, merged by name: the chart's, the namespace's, the Pod's", |values, text| {
        merge_env(&mut values.proxy.additional_env, env(text)?);
        Ok(())
    }),
    row("config.alpha.linkerd.io/proxy-wait-before-exit-seconds", "number", "pause before the sidecar is told to end; without effect on native ones, which end last", |values, text| {
        values.proxy.wait_before_exit_seconds = text.trim().parse().map_err(|_| "whole seconds are wanted".to_owned())?;
        Ok(())
    }),
    row("config.linkerd.io/proxy-mode", "`redirect`, `explicit`", "how traffic comes to the sidecar, see [explicit mode](#explicit-mode)", |values, text| {
        values.proxy.mode = match text.trim() {
            "redirect" => Mode::Redirect,
            "explicit" => Mode::Explicit,
            _ => return Err("known are redirect, explicit".to_owned()),
        };
        Ok(())
    }),
    row("config.linkerd.io/inbound-listeners", "list of `listen=destination`", "explicit listeners for clients; in explicit mode, those of declared ports by default", set!(listeners => proxy.inbound_listeners)).not_inherited(),
    row("config.linkerd.io/outbound-listeners", "list of `listen=destination`", "explicit listeners for the application", set!(listeners => proxy.outbound_listeners)).not_inherited(),
];

/// Whether Pods have an annotation of this key from their namespace.
pub(super) fn is_inherited(key: &str) -> bool {
    key.starts_with(TRACE_ATTRIBUTE)
        || ANNOTATIONS
            .iter()
            .any(|annotation| annotation.key == key && annotation.is_inherited)
}

/// Values for a Pod with these annotations. What cannot be used is told, and the value stays as it was.
pub(super) fn overridden(values: &Values, annotations: &Annotations) -> (Values, Vec<String>) {
    let mut values = values.clone();
    let mut warnings = Vec::new();
    for annotation in ANNOTATIONS {
        let Some(text) = annotations.get(annotation.key) else {
            continue;
        };
        if let Err(reason) = (annotation.apply)(&mut values, text) {
            let text: String = text.chars().take(64).collect();
            warnings.push(format!(
                "annotation {}: `{text}` has no effect: {reason}",
                annotation.key
            ));
        }
    }
    values.proxy.is_ingress |= annotations.get(INJECT).is_some_and(|how| how == "ingress");
    (values, warnings)
}

/// A list of EnvVar.
pub(super) fn env(text: &str) -> Result<Vec<Value>, String> {
    let wrong = || {
        r#"a JSON list of variables is wanted, for example [{"name": "A", "value": "b"}]"#
            .to_owned()
    };
    let list: Vec<Value> = serde_json::from_str(text).map_err(|_| wrong())?;
    let is_named = |variable: &Value| variable.get("name").is_some_and(Value::is_string);
    if list.iter().all(is_named) {
        Ok(list)
    } else {
        Err(wrong())
    }
}

/// Puts variables over those of the same names.
pub(super) fn merge_env(into: &mut Vec<Value>, over: Vec<Value>) {
    for variable in over {
        let name = variable.get("name").cloned();
        match into.iter_mut().find(|old| old.get("name") == name.as_ref()) {
            Some(old) => *old = variable,
            None => into.push(variable),
        }
    }
}
