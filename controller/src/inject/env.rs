//! The environment of a sidecar, in the order of the contract: what is referred to comes first.

use super::{
    Mesh, names,
    pod::Pod,
    read,
    values::{Mode, Values},
};
use linkerd_policy::ports::PortSet;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A timeout so long that there is none.
const NEVER: &str = "365d";

/// What the environment is made of.
pub(super) struct Facts<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) values: &'a Values,
    pub(super) pod: Pod<'a>,
    pub(super) warnings: &'a mut Vec<String>,
}

#[derive(Default)]
struct Env(Vec<Value>);

impl Env {
    fn field(&mut self, name: &str, path: &str) {
        self.0
            .push(json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    }

    fn plain(&mut self, name: &str, value: &str) {
        self.0.push(json!({"name": name, "value": value}));
    }

    fn set(&mut self, name: &str, value: impl ToString) {
        self.plain(&format!("LINKERD2_PROXY_{name}"), &value.to_string());
    }

    /// Only if there is something to say.
    fn some(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.set(name, value);
        }
    }
}

/// The variables of the sidecar.
pub(super) fn env(mut facts: Facts<'_>) -> Vec<Value> {
    let mut env = Env::default();
    own(&mut env);
    process(&mut env, &mut facts);
    controllers(&mut env, &facts);
    timeouts(&mut env, facts.values);
    listeners(&mut env, &mut facts);
    connections(&mut env, facts.values);
    tracing(&mut env, &facts);
    let keep_alive = [
        ("INBOUND", &facts.values.proxy.inbound),
        ("OUTBOUND", &facts.values.proxy.outbound),
    ];
    for (side, of) in keep_alive {
        let http2 = &of.server.http2;
        env.some(
            &format!("{side}_SERVER_HTTP2_KEEP_ALIVE_INTERVAL"),
            &http2.keep_alive_interval,
        );
        env.some(
            &format!("{side}_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT"),
            &http2.keep_alive_timeout,
        );
    }
    let (opaque, unknown) = facts.pod.resolved(&facts.values.proxy.opaque_ports);
    facts.warnings.extend(unknown);
    env.some(
        "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION",
        &opaque.to_string(),
    );
    env.set(
        "DESTINATION_CONTEXT",
        r#"{"ns":"$(_pod_ns)", "nodeName":"$(_pod_nodeName)", "pod":"$(_pod_name)"}"#,
    );
    identity(&mut env, &facts);
    let proxy = &facts.values.proxy;
    env.some("ACCESS_LOG", &proxy.access_log);
    if let Ok(period) = read::duration(&proxy.shutdown_grace_period) {
        env.set("SHUTDOWN_GRACE_PERIOD", format!("{}ms", period.as_millis()));
    }
    super::annotations::merge_env(&mut env.0, proxy.additional_env.clone());
    super::annotations::merge_env(&mut env.0, proxy.experimental_env.clone());
    env.0
}

/// What later variables refer to.
fn own(env: &mut Env) {
    env.field("_pod_name", "metadata.name");
    env.field("_pod_ns", "metadata.namespace");
    env.field("_pod_uid", "metadata.uid");
    env.field("_pod_ip", "status.podIP");
    env.field("_pod_nodeName", "spec.nodeName");
    env.plain("_pod_containerName", names::PROXY);
}

fn process(env: &mut Env, facts: &mut Facts<'_>) {
    let proxy = &facts.values.proxy;
    let workers = &proxy.runtime.workers;
    env.set("CORES", workers.minimum.max(1));
    env.set("CORES_MIN", workers.minimum.max(1));
    if let Some(maximum) = workers.maximum {
        env.set("CORES_MAX", maximum);
    }
    if let Some(ratio) = workers.maximum_cpu_ratio {
        env.set("CORES_MAX_RATIO", ratio);
    }
    env.some(
        "INBOUND_PORTS_REQUIRE_IDENTITY",
        &proxy.require_identity_on_inbound_ports,
    );
    env.some(
        "INBOUND_PORTS_REQUIRE_TLS",
        &proxy.require_tls_on_inbound_ports,
    );
    env.set("SHUTDOWN_ENDPOINT_ENABLED", proxy.enable_shutdown_endpoint);
    let headers = match proxy.log_http_headers.as_str() {
        "insecure" => "",
        _ => ",[{headers}]=off,[{request}]=off",
    };
    env.set("LOG", format!("{}{headers}", proxy.log_level));
    env.set("LOG_FORMAT", &proxy.log_format);
}

fn controllers(env: &mut Env, facts: &Facts<'_>) {
    let networks = &facts.values.cluster_networks;
    env.set(
        "DESTINATION_SVC_ADDR",
        address(facts, "destination", "linkerd-dst-headless", 8086),
    );
    env.set("DESTINATION_PROFILE_NETWORKS", networks);
    env.set("POLICY_CLUSTER_NETWORKS", networks);
    env.set(
        "POLICY_SVC_ADDR",
        address(facts, "destination", "linkerd-policy", 8090),
    );
    env.set(
        "POLICY_WORKLOAD",
        r#"{"ns":"$(_pod_ns)", "pod":"$(_pod_name)"}"#,
    );
    env.set(
        "INBOUND_DEFAULT_POLICY",
        &facts.values.proxy.default_inbound_policy,
    );
    let streams = &facts.values.proxy.control.streams;
    env.some("CONTROL_STREAM_INITIAL_TIMEOUT", &streams.initial_timeout);
    env.some("CONTROL_STREAM_IDLE_TIMEOUT", &streams.idle_timeout);
    env.some("CONTROL_STREAM_LIFETIME", &streams.lifetime);
}

/// Where a controller is, seen from this Pod.
fn address(facts: &Facts<'_>, component: &str, service: &str, port: u16) -> String {
    if component_of(facts) == component {
        return format!("localhost.:{port}");
    }
    let (namespace, domain) = (&facts.mesh.namespace, &facts.values.cluster_domain);
    format!("{service}.{namespace}.svc.{domain}.:{port}")
}

/// Which part of the control plane the Pod is; empty for all others.
fn component_of(facts: &Facts<'_>) -> String {
    let mut labels = facts.pod.labels();
    labels.remove(names::COMPONENT).unwrap_or_default()
}

fn timeouts(env: &mut Env, values: &Values) {
    let proxy = &values.proxy;
    let millis = |text: &str| Some(format!("{}ms", read::duration(text).ok()?.as_millis()));
    let seconds = |text: &str| Some(format!("{}s", read::duration(text).ok()?.as_secs()));
    for (name, value) in [
        (
            "INBOUND_CONNECT_TIMEOUT",
            millis(&proxy.inbound_connect_timeout),
        ),
        (
            "OUTBOUND_CONNECT_TIMEOUT",
            millis(&proxy.outbound_connect_timeout),
        ),
        (
            "OUTBOUND_DISCOVERY_IDLE_TIMEOUT",
            seconds(&proxy.outbound_discovery_cache_unused_timeout),
        ),
        (
            "INBOUND_DISCOVERY_IDLE_TIMEOUT",
            seconds(&proxy.inbound_discovery_cache_unused_timeout),
        ),
    ] {
        env.some(name, &value.unwrap_or_default());
    }
    if proxy.disable_outbound_protocol_detect_timeout {
        env.set("OUTBOUND_DETECT_TIMEOUT", NEVER);
    }
    if proxy.disable_inbound_protocol_detect_timeout {
        env.set("INBOUND_DETECT_TIMEOUT", NEVER);
    }
}

fn listeners(env: &mut Env, facts: &mut Facts<'_>) {
    let values = facts.values;
    let proxy = &values.proxy;
    let ports = proxy.ports;
    let any = if values.disable_ipv6 {
        "0.0.0.0"
    } else {
        "[::]"
    };
    env.set("CONTROL_LISTEN_ADDR", format!("{any}:{}", ports.control));
    env.set("ADMIN_LISTEN_ADDR", format!("{any}:{}", ports.admin));
    let own = format!("127.0.0.1:{}", ports.outbound);
    env.set("OUTBOUND_LISTEN_ADDR", &own);
    let both = format!("{own},[::1]:{}", ports.outbound);
    env.set(
        "OUTBOUND_LISTEN_ADDRS",
        if values.disable_ipv6 { &own } else { &both },
    );
    env.set("INBOUND_LISTEN_ADDR", format!("{any}:{}", ports.inbound));
    env.field("LINKERD2_PROXY_INBOUND_IPS", "status.podIPs");
    env.set("INBOUND_PORTS", inbound_ports(facts));
    if proxy.is_gateway {
        env.set(
            "INBOUND_GATEWAY_SUFFIXES",
            format!("svc.{}.", values.cluster_domain),
        );
    }
    if proxy.is_ingress {
        env.set("INGRESS_MODE", true);
    }
    let suffixes = format!("svc.{}.", values.cluster_domain);
    env.set(
        "DESTINATION_PROFILE_SUFFIXES",
        if proxy.enable_external_profiles {
            "."
        } else {
            &suffixes
        },
    );
    let inbound = match (proxy.inbound_listeners.as_str(), proxy.mode) {
        ("", Mode::Explicit) => explicit(facts),
        (listeners, _) => listeners.to_owned(),
    };
    env.some("INBOUND_LISTENERS", &inbound);
    env.some("OUTBOUND_LISTENERS", &proxy.outbound_listeners);
}

/// Ports whose policy the sidecar knows from the start.
fn inbound_ports(facts: &mut Facts<'_>) -> String {
    let mut all: BTreeSet<u16> = facts.pod.ports().map(|(port, _)| port).collect();
    let more: PortSet = facts
        .values
        .proxy
        .pod_inbound_ports
        .parse()
        .unwrap_or_default();
    let mut more = more.ranges().flat_map(|(low, high)| low..=high);
    // A range may be long; each port is a stream of the controller's.
    all.extend(more.by_ref().take(MAX_PORTS));
    if more.next().is_some() {
        facts.warnings.push(format!(
            "only the first {MAX_PORTS} of pod-inbound-ports are taken"
        ));
    }
    let all: Vec<_> = all.iter().map(u16::to_string).collect();
    all.join(",")
}

/// Most ports that an annotation may have watched from the start.
const MAX_PORTS: usize = 256;

/// The sidecar listens on the Pod's addresses, the application on loopback.
fn explicit(facts: &Facts<'_>) -> String {
    let ports: BTreeSet<u16> = facts.pod.ports().map(|(port, _)| port).collect();
    let listeners = ports
        .iter()
        .map(|port| format!("INBOUND_IPS:{port}=127.0.0.1:{port}"));
    listeners.collect::<Vec<_>>().join(",")
}

fn connections(env: &mut Env, values: &Values) {
    env.set("INBOUND_ACCEPT_KEEPALIVE", "10000ms");
    env.set("OUTBOUND_CONNECT_KEEPALIVE", "10000ms");
    env.set("INBOUND_ACCEPT_USER_TIMEOUT", "30s");
    env.set("OUTBOUND_CONNECT_USER_TIMEOUT", "30s");
    env.set(
        "OUTBOUND_METRICS_HOSTNAME_LABELS",
        values.proxy.metrics.hostname_labels,
    );
}

fn tracing(env: &mut Env, facts: &Facts<'_>) {
    let tracing = &facts.values.proxy.tracing;
    if !tracing.enabled || tracing.collector.endpoint.is_empty() {
        return;
    }
    env.set(
        "TRACE_ATTRIBUTES_PATH",
        format!("{}/labels", names::PODINFO_PATH),
    );
    env.set(
        "TRACE_ANNOTATIONS_PATH",
        format!("{}/annotations", names::PODINFO_PATH),
    );
    env.some("TRACE_PROTOCOL", &tracing.protocol);
    env.some("TRACE_SERVICE_NAME", &tracing.trace_service_name);
    env.set("TRACE_COLLECTOR_SVC_ADDR", &tracing.collector.endpoint);
    let MeshIdentity {
        service_account_name,
        namespace,
    } = &tracing.collector.mesh_identity;
    if !service_account_name.is_empty() {
        env.set(
            "TRACE_COLLECTOR_SVC_NAME",
            account(facts, service_account_name, namespace),
        );
    }
    let mut attributes = vec![
        "k8s.pod.ip=$(_pod_ip)".to_owned(),
        "k8s.pod.uid=$(_pod_uid)".to_owned(),
        "k8s.container.name=$(_pod_containerName)".to_owned(),
    ];
    for (key, value) in &tracing.labels {
        attributes.extend(value.as_str().map(|value| format!("{key}={value}")));
    }
    env.set("TRACE_EXTRA_ATTRIBUTES", attributes.join("\n"));
}

use super::values::MeshIdentity;

fn identity(env: &mut Env, facts: &Facts<'_>) {
    let Facts { mesh, values, .. } = facts;
    env.field("_pod_sa", "spec.serviceAccountName");
    env.plain("_l5d_ns", &mesh.namespace);
    env.plain("_l5d_trustdomain", values.trust_domain());
    env.set("IDENTITY_DIR", names::END_ENTITY_PATH);
    if component_of(facts).is_empty() {
        env.set("IDENTITY_TRUST_ANCHORS", &values.identity_trust_anchors_pem);
    } else {
        // Pods of the control plane see its namespace, and new anchors when they start again.
        env.0.push(json!({
            "name": "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS",
            "valueFrom": {"configMapKeyRef": {"name": "linkerd-identity-trust-roots", "key": "ca-bundle.crt"}},
        }));
    }
    let token = if values.identity.service_account_token_projection {
        format!("{}/{}", names::TOKEN_PATH, names::TOKEN)
    } else {
        names::ACCOUNT_TOKEN.to_owned()
    };
    env.set("IDENTITY_TOKEN_FILE", token);
    env.set(
        "IDENTITY_SVC_ADDR",
        address(facts, "identity", "linkerd-identity-headless", 8080),
    );
    env.set(
        "IDENTITY_LOCAL_NAME",
        account(facts, "$(_pod_sa)", "$(_pod_ns)"),
    );
    let controller = |name| account(facts, name, &mesh.namespace);
    env.set("IDENTITY_SVC_NAME", controller("linkerd-identity"));
    env.set("DESTINATION_SVC_NAME", controller("linkerd-destination"));
    env.set("POLICY_SVC_NAME", controller("linkerd-destination"));
}

/// The identity of a ServiceAccount.
fn account(facts: &Facts<'_>, name: &str, namespace: &str) -> String {
    let (mesh, domain) = (&facts.mesh.namespace, facts.values.trust_domain());
    format!("{name}.{namespace}.serviceaccount.identity.{mesh}.{domain}")
}
