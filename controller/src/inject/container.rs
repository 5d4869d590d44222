//! Containers and volumes of a sidecar.

use super::{
    env::{self, Facts},
    names,
    pod::Pod,
    values::{Amount, Image, Mode, Resources, Values},
};
use serde_json::{Map, Value, json};

/// The sidecar.
pub(super) fn proxy(facts: Facts<'_>) -> Value {
    let (values, pod) = (facts.values, facts.pod);
    let proxy = &values.proxy;
    let admin = proxy.ports.admin;
    let get = |path: &str| json!({"path": path, "port": admin});
    let (live, ready) = (proxy.liveness_probe, proxy.readiness_probe);
    let mut container = json!({
        "name": names::PROXY,
        "image": image(&proxy.image, None, values),
        "imagePullPolicy": pull_policy(&proxy.image, values),
        "ports": [
            {"containerPort": proxy.ports.inbound, "name": "linkerd-proxy"},
            {"containerPort": admin, "name": "linkerd-admin"},
        ],
        "livenessProbe": {
            "httpGet": get("/live"),
            "initialDelaySeconds": live.initial_delay_seconds, "timeoutSeconds": live.timeout_seconds,
        },
        "readinessProbe": {
            "httpGet": get("/ready"),
            "initialDelaySeconds": ready.initial_delay_seconds, "timeoutSeconds": ready.timeout_seconds,
        },
        "securityContext": security(values, pod),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts(values),
    });
    let resources = resources(&proxy.resources);
    if proxy.native_sidecar {
        put(&mut container, "restartPolicy", "Always".into());
        if proxy.awaits {
            let probe = proxy.startup_probe;
            put(
                &mut container,
                "startupProbe",
                json!({
                    "httpGet": get("/ready"),
                    "initialDelaySeconds": probe.initial_delay_seconds,
                    "periodSeconds": probe.period_seconds,
                    "failureThreshold": probe.failure_threshold,
                }),
            );
        }
    } else {
        let mut lifecycle = Map::new();
        if proxy.awaits {
            let command = json!([
                "/usr/lib/linkerd/linkerd-await",
                "--timeout=2m",
                format!("--port={admin}")
            ]);
            lifecycle.insert("postStart".into(), json!({"exec": {"command": command}}));
        }
        if proxy.wait_before_exit_seconds > 0 {
            let command = json!(["/bin/sleep", proxy.wait_before_exit_seconds.to_string()]);
            lifecycle.insert("preStop".into(), json!({"exec": {"command": command}}));
        }
        if !lifecycle.is_empty() {
            put(&mut container, "lifecycle", lifecycle.into());
        }
    }
    if let Some(resources) = resources {
        put(&mut container, "resources", resources);
    }
    put(&mut container, "env", env::env(facts).into());
    container
}

/// What sets the kernel's rules.
pub(super) fn init(values: &Values) -> Value {
    let init = &values.proxy_init;
    let mut container = json!({
        "name": names::INIT,
        "image": image(&init.image, Some(&values.proxy.image), values),
        "imagePullPolicy": pull_policy(&values.proxy.image, values),
        "command": ["/usr/lib/linkerd/linkerd2-proxy-init"],
        "args": init_args(values),
        "securityContext": init_security(values),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": names::XTABLES, "mountPath": "/run"}],
    });
    let own = resources(&init.resources);
    if let Some(resources) = own.or_else(|| resources(&values.proxy.resources)) {
        put(&mut container, "resources", resources);
    }
    container
}

fn init_args(values: &Values) -> Vec<String> {
    let (init, proxy) = (&values.proxy_init, &values.proxy);
    let mut args: Vec<String> = Vec::new();
    let mut add = |flag: &str, value: &str| {
        if !value.is_empty() {
            args.extend([format!("--{flag}"), value.to_owned()]);
        }
    };
    let mode = match init.iptables_mode.as_str() {
        "plain" => "iptables",
        "legacy" => "iptables-legacy",
        _ => "iptables-nft",
    };
    add("firewall-bin-path", mode);
    add("firewall-save-bin-path", &format!("{mode}-save"));
    let of = |port: u16| port.to_string();
    let some = |id: i64| {
        if id > 0 {
            id.to_string()
        } else {
            String::new()
        }
    };
    let joined = |first: &str, rest: &str| match rest {
        "" => first.to_owned(),
        rest => format!("{first},{rest}"),
    };
    if values.disable_ipv6 {
        args.push("--ipv6=false".to_owned());
    }
    let mut add = |flag: &str, value: &str| {
        if !value.is_empty() {
            args.extend([format!("--{flag}"), value.to_owned()]);
        }
    };
    add("incoming-proxy-port", &of(proxy.ports.inbound));
    add("outgoing-proxy-port", &of(proxy.ports.outbound));
    add("proxy-uid", &proxy.uid.to_string());
    add("proxy-gid", &some(proxy.gid));
    let own = format!("{},{}", proxy.ports.control, proxy.ports.admin);
    add(
        "inbound-ports-to-ignore",
        &joined(&own, &init.ignore_inbound_ports),
    );
    add("outbound-ports-to-ignore", &init.ignore_outbound_ports);
    add("subnets-to-ignore", &init.skip_subnets);
    if init.close_wait_timeout_secs > 0 {
        add(
            "timeout-close-wait-secs",
            &init.close_wait_timeout_secs.to_string(),
        );
    }
    add("log-level", &init.log_level);
    add("log-format", &init.log_format);
    args
}

fn init_security(values: &Values) -> Value {
    let init = &values.proxy_init;
    let mut security = json!({
        "allowPrivilegeEscalation": init.privileged || init.close_wait_timeout_secs > 0,
        "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]},
        "privileged": init.privileged || init.close_wait_timeout_secs > 0,
        "runAsUser": init.run_as_user,
        "runAsGroup": init.run_as_group,
        "runAsNonRoot": !init.run_as_root,
        "readOnlyRootFilesystem": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if init.run_as_root {
        put(&mut security, "runAsUser", 0.into());
        put(&mut security, "runAsGroup", 0.into());
    }
    security
}

/// What checks that a CNI plugin has set the rules.
pub(super) fn validator(values: &Values) -> Value {
    let validator = &values.network_validator;
    let port = values.proxy.ports.outbound;
    let or = |text: &str, default: String| {
        if text.is_empty() {
            default
        } else {
            text.to_owned()
        }
    };
    let (nobody, any) = if values.disable_ipv6 {
        ("1.1.1.1:20001", format!("0.0.0.0:{port}"))
    } else {
        ("[fd00::1]:20001", format!("[::]:{port}"))
    };
    let mut container = json!({
        "name": names::VALIDATOR,
        "image": image(&values.proxy.image, None, values),
        "imagePullPolicy": pull_policy(&values.proxy.image, values),
        "command": ["/usr/lib/linkerd/linkerd2-network-validator"],
        "args": [
            "--log-format", validator.log_format, "--log-level", validator.log_level,
            "--connect-addr", or(&validator.connect_addr, nobody.to_owned()),
            "--listen-addr", or(&validator.listen_addr, any),
            "--timeout", validator.timeout,
        ],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsGroup": 65534, "runAsNonRoot": true, "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if let Some(resources) = resources(&values.proxy.resources) {
        put(&mut container, "resources", resources);
    }
    container
}

/// Tools to look at the network.
pub(super) fn debug(values: &Values) -> Value {
    let image = &values.debug_container.image;
    let exec = json!({"exec": {"command": ["true"]}});
    json!({
        "name": names::DEBUG,
        "image": self::image(image, None, values),
        "imagePullPolicy": pull_policy(image, values),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "livenessProbe": exec,
        "readinessProbe": exec,
    })
}

/// Volumes, each with a name of its own.
pub(super) fn volumes(values: &Values) -> Vec<Value> {
    let mut volumes = Vec::new();
    if has_init(values) {
        volumes.push(json!({"name": names::XTABLES, "emptyDir": {}}));
    }
    if has_podinfo(values) {
        let item = |path: &str| json!({"path": path, "fieldRef": {"fieldPath": format!("metadata.{path}")}});
        let items = [item("labels"), item("annotations")];
        volumes.push(json!({"name": names::PODINFO, "downwardAPI": {"items": items}}));
    }
    volumes.push(json!({"name": names::END_ENTITY, "emptyDir": {"medium": "Memory"}}));
    if values.identity.service_account_token_projection {
        let token = json!({"serviceAccountToken": {
            "path": names::TOKEN, "expirationSeconds": 86400, "audience": "identity.l5d.io",
        }});
        volumes.push(json!({"name": names::TOKEN, "projected": {"sources": [token]}}));
    }
    volumes
}

/// Whether an init container sets the kernel's rules.
pub(super) fn has_init(values: &Values) -> bool {
    values.proxy.mode == Mode::Redirect && !values.cni_enabled
}

/// Whether an init container checks those of a CNI plugin.
pub(super) fn has_validator(values: &Values) -> bool {
    values.proxy.mode == Mode::Redirect && values.cni_enabled
}

fn has_podinfo(values: &Values) -> bool {
    let tracing = &values.proxy.tracing;
    tracing.enabled && !tracing.collector.endpoint.is_empty()
}

fn mounts(values: &Values) -> Vec<Value> {
    let mut mounts = Vec::new();
    if has_podinfo(values) {
        mounts.push(json!({"name": names::PODINFO, "mountPath": names::PODINFO_PATH}));
    }
    mounts.push(json!({"name": names::END_ENTITY, "mountPath": names::END_ENTITY_PATH}));
    if values.identity.service_account_token_projection {
        mounts.push(json!({"name": names::TOKEN, "mountPath": names::TOKEN_PATH}));
    }
    mounts
}

fn security(values: &Values, pod: Pod<'_>) -> Value {
    let proxy = &values.proxy;
    let mut security = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "runAsUser": proxy.uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if proxy.gid >= 0 {
        put(&mut security, "runAsGroup", proxy.gid.into());
    }
    // What the Pod's policy has the application drop, it has everybody drop.
    let first = pod.containers().first();
    let capabilities = first.and_then(|first| first.pointer("/securityContext/capabilities"));
    if let Some(capabilities) = capabilities.filter(|capabilities| capabilities.is_object()) {
        put(&mut security, "capabilities", capabilities.clone());
    } else if proxy.mode == Mode::Explicit {
        // Made for places where this is demanded.
        put(&mut security, "capabilities", json!({"drop": ["ALL"]}));
    }
    security
}

/// An image with its version; `or` is taken where it has no name.
fn image(image: &Image, or: Option<&Image>, values: &Values) -> String {
    let image = match or {
        Some(or) if image.name.is_empty() => or,
        _ => image,
    };
    let version = match image.version.as_str() {
        "" => values.version(),
        version => version,
    };
    format!("{}:{version}", image.name)
}

fn pull_policy<'a>(image: &'a Image, values: &'a Values) -> &'a str {
    match image.pull_policy.as_str() {
        "" => &values.image_pull_policy,
        policy => policy,
    }
}

fn resources(resources: &Resources) -> Option<Value> {
    let all = [
        ("cpu", &resources.cpu),
        ("memory", &resources.memory),
        ("ephemeral-storage", &resources.ephemeral_storage),
    ];
    let of = |what: fn(&Amount) -> &String| -> Map<String, Value> {
        let some = all.iter().filter(|(_, amount)| !what(amount).is_empty());
        some.map(|(name, amount)| ((*name).to_owned(), what(amount).as_str().into()))
            .collect()
    };
    let (requests, limits) = (of(|amount| &amount.request), of(|amount| &amount.limit));
    let mut both = Map::new();
    for (name, amounts) in [("limits", limits), ("requests", requests)] {
        if !amounts.is_empty() {
            both.insert(name.to_owned(), amounts.into());
        }
    }
    (!both.is_empty()).then(|| both.into())
}

/// Puts a field into an object.
pub(super) fn put(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(key.to_owned(), value);
    }
}
