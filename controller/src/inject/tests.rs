use super::*;
use serde_json::json;

fn mesh() -> Mesh {
    Mesh {
        namespace: "linkerd".into(),
        created_by: "linkerd/proxy-injector test".into(),
        has_native_sidecars: true,
    }
}

fn place(annotations: &[(&str, &str)]) -> Place {
    Place {
        namespace: "shop".into(),
        annotations: map(annotations),
        owner: Some(Owner {
            kind: "Deployment".into(),
            name: "web".into(),
        }),
    }
}

fn map(entries: &[(&str, &str)]) -> Annotations {
    let entries = entries.iter();
    entries
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect()
}

fn web(annotations: &[(&str, &str)]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "annotations": map(annotations)},
        "spec": {
            "containers": [{"name": "app", "image": "app", "ports": [
                {"containerPort": 8080, "name": "http"}, {"containerPort": 3306},
                {"containerPort": 53, "protocol": "UDP"},
            ]}],
            "initContainers": [{"name": "migrate", "image": "app"}],
        },
    })
}

const ASKED: (&str, &str) = (INJECT, "enabled");

/// What an object becomes, by somebody else's implementation of RFC 6902.
fn applied(object: &Value, patch: &[Operation]) -> Value {
    let patch: json_patch::Patch =
        serde_json::from_value(serde_json::to_value(patch).unwrap()).unwrap();
    let mut object = object.clone();
    json_patch::patch(&mut object, &patch).unwrap();
    object
}

/// A Pod in a namespace that asks for nothing, with default values.
fn injected(object: &Value) -> (Value, Vec<String>) {
    injected_with(&Values::default(), object, &place(&[]))
}

fn injected_with(values: &Values, object: &Value, place: &Place) -> (Value, Vec<String>) {
    let verdict = pod(&mesh(), values, object, place);
    verdict.injected.unwrap();
    (applied(object, &verdict.patch), verdict.warnings)
}

fn proxy(object: &Value) -> &Value {
    let pod = Pod(object);
    let mut all = pod.init_containers().iter().chain(pod.containers());
    all.find(|container| container["name"] == names::PROXY)
        .unwrap()
}

fn names_of(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(pod::name).collect()
}

fn variable<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    let env = proxy(object)["env"].as_array().unwrap();
    let found = env.iter().find(|variable| variable["name"] == name)?;
    found["value"].as_str()
}

fn setting<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    variable(object, &format!("LINKERD2_PROXY_{name}"))
}

#[test]
fn who_is_asked_for_is_decided_as_the_table_says() {
    let decided = |namespace: Option<&str>, workload: Option<&str>| {
        let entry = |says: Option<&str>| says.map(|says| (INJECT.to_owned(), says.to_owned()));
        let place = Place {
            annotations: entry(namespace).into_iter().collect(),
            ..place(&[])
        };
        let annotations: Annotations = entry(workload).into_iter().collect();
        let mut object = web(&[]);
        object["metadata"]["annotations"] = json!(annotations);
        pod(&mesh(), &Values::default(), &object, &place).injected
    };
    for (namespace, workload, wanted) in [
        (Some("enabled"), None, Ok(At::Namespace)),
        (Some("ingress"), None, Ok(At::Namespace)),
        (Some("enabled"), Some("enabled"), Ok(At::Workload)),
        (Some("enabled"), Some("ingress"), Ok(At::Workload)),
        (Some("enabled"), Some("disabled"), Err(Skip::Declined)),
        (None, Some("enabled"), Ok(At::Workload)),
        (Some("disabled"), Some("ingress"), Ok(At::Workload)),
        (None, None, Err(Skip::NotAsked)),
        (Some("disabled"), None, Err(Skip::NotAsked)),
        (None, Some("disabled"), Err(Skip::Declined)),
        (None, Some("yes"), Err(Skip::InvalidAtWorkload)),
        (Some("yes"), Some("enabled"), Err(Skip::InvalidAtNamespace)),
    ] {
        assert_eq!(
            decided(namespace, workload),
            wanted,
            "{namespace:?} {workload:?}"
        );
    }
}

#[test]
fn a_pod_that_a_sidecar_would_break_is_left_alone_and_told_why() {
    let with = |pointer: &str, value: Value| {
        let mut object = web(&[ASKED]);
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key] = value;
        object
    };
    let container = |name: &str, image: &str| json!([{"name": name, "image": image}]);
    for (object, wanted) in [
        (with("/spec/hostNetwork", json!(true)), Skip::HostNetwork),
        (
            with("/spec/containers", container("linkerd-proxy", "x")),
            Skip::SidecarExists,
        ),
        (
            with("/spec/containers", container("istio-proxy", "x")),
            Skip::SidecarExists,
        ),
        (
            with("/spec/initContainers", container("linkerd-init", "x")),
            Skip::SidecarExists,
        ),
        (
            with(
                "/spec/containers",
                container("x", "registry:5000/a/linkerd/proxy:v1"),
            ),
            Skip::SidecarExists,
        ),
        (
            with(
                "/spec/containers",
                container("x", "linkerd/proxy@sha256:00"),
            ),
            Skip::SidecarExists,
        ),
        (
            with("/spec/nodeSelector", json!({"kubernetes.io/os": "windows"})),
            Skip::NotLinux,
        ),
        (with("/spec/os", json!({"name": "windows"})), Skip::NotLinux),
        (with("/spec/containers", json!([])), Skip::NotUnderstood),
        (with("/spec/containers", json!("two")), Skip::NotUnderstood),
        (
            with("/spec/initContainers", json!([{"image": "x"}])),
            Skip::NotUnderstood,
        ),
        (
            with("/spec/volumes", json!([{"name": names::TOKEN}])),
            Skip::NotUnderstood,
        ),
        (with("/spec/volumes", json!({})), Skip::NotUnderstood),
        (with("/metadata/labels", json!("none")), Skip::NotUnderstood),
        (with("/spec", json!(null)), Skip::NotUnderstood),
    ] {
        let verdict = pod(&mesh(), &Values::default(), &object, &place(&[]));
        assert_eq!(verdict.injected, Err(wanted), "{object}");
        let left = applied(&object, &verdict.patch);
        assert_eq!(left["spec"], object["spec"]);
    }
    let object = with("/spec/automountServiceAccountToken", json!(false));
    let mut values = Values::default();
    injected_with(&values, &object, &place(&[]));
    values.identity.service_account_token_projection = false;
    let verdict = pod(&mesh(), &values, &object, &place(&[]));
    assert_eq!(verdict.injected, Err(Skip::NoToken));
}

#[test]
fn nobody_gets_two_sidecars() {
    let (once, _) = injected(&web(&[ASKED]));
    let verdict = pod(&mesh(), &Values::default(), &once, &place(&[ASKED]));
    assert_eq!(verdict.injected, Err(Skip::SidecarExists));
    assert_eq!(verdict.patch, []);
}

#[test]
fn a_native_sidecar_is_there_before_other_init_containers() {
    let (object, warnings) = injected(&web(&[ASKED]));
    assert_eq!(
        names_of(&object["spec"]["initContainers"]),
        ["linkerd-init", "linkerd-proxy", "migrate"]
    );
    assert_eq!(names_of(&object["spec"]["containers"]), ["app"]);
    let sidecar = proxy(&object);
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(sidecar["startupProbe"]["failureThreshold"], 120);
    assert!(sidecar.get("lifecycle").is_none());
    assert_eq!(
        names_of(&object["spec"]["volumes"]),
        [
            "linkerd-proxy-init-xtables-lock",
            "linkerd-identity-end-entity",
            "linkerd-identity-token",
        ]
    );
    assert!(
        warnings.iter().any(|warning| warning.contains("UDP")),
        "{warnings:?}"
    );
    let metadata = &object["metadata"];
    assert_eq!(
        metadata["labels"],
        json!({
            "linkerd.io/control-plane-ns": "linkerd", "linkerd.io/workload-ns": "shop", "linkerd.io/proxy-deployment": "web",
        })
    );
    let annotations = &metadata["annotations"];
    assert_eq!(
        annotations["linkerd.io/created-by"],
        "linkerd/proxy-injector test"
    );
    assert_eq!(annotations["config.linkerd.io/opaque-ports"], "3306");
    let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(annotations["linkerd.io/trust-root-sha256"], of_nothing);
}

#[test]
fn a_sidecar_that_is_a_container_is_first_and_awaited_or_last() {
    let native = ("config.linkerd.io/proxy-enable-native-sidecar", "false");
    let wait = (
        "config.alpha.linkerd.io/proxy-wait-before-exit-seconds",
        "7",
    );
    let (object, _) = injected(&web(&[ASKED, native, wait]));
    assert_eq!(
        names_of(&object["spec"]["initContainers"]),
        ["migrate", "linkerd-init"]
    );
    assert_eq!(
        names_of(&object["spec"]["containers"]),
        ["linkerd-proxy", "app"]
    );
    let lifecycle = &proxy(&object)["lifecycle"];
    let command = json!([
        "/usr/lib/linkerd/linkerd-await",
        "--timeout=2m",
        "--port=4191"
    ]);
    assert_eq!(lifecycle["postStart"]["exec"]["command"], command);
    assert_eq!(
        lifecycle["preStop"]["exec"]["command"],
        json!(["/bin/sleep", "7"])
    );
    let (object, _) = injected(&web(&[
        ASKED,
        native,
        ("config.linkerd.io/proxy-await", "disabled"),
    ]));
    assert_eq!(
        names_of(&object["spec"]["containers"]),
        ["app", "linkerd-proxy"]
    );

    let old = Mesh {
        has_native_sidecars: false,
        ..mesh()
    };
    let object = web(&[ASKED]);
    let verdict = pod(&old, &Values::default(), &object, &place(&[]));
    let object = applied(&object, &verdict.patch);
    assert_eq!(
        names_of(&object["spec"]["containers"]),
        ["linkerd-proxy", "app"]
    );
}

#[test]
fn the_init_containers_arguments_are_those_of_the_contract() {
    let (object, _) = injected(&web(&[
        ASKED,
        ("config.linkerd.io/skip-inbound-ports", "9000,1-3"),
        ("config.linkerd.io/skip-subnets", "10.1.0.0/16"),
        ("config.linkerd.io/proxy-gid", "2102"),
    ]));
    let init = &object["spec"]["initContainers"][0];
    let args: Vec<_> = init["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| arg.as_str().unwrap())
        .collect();
    assert_eq!(
        args.join(" "),
        "--firewall-bin-path iptables-nft --firewall-save-bin-path iptables-nft-save --ipv6=false \
         --incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102 --proxy-gid 2102 \
         --inbound-ports-to-ignore 4190,4191,1-3,9000 --outbound-ports-to-ignore 4567,4568 --subnets-to-ignore 10.1.0.0/16"
    );
    let security = &init["securityContext"];
    assert_eq!(
        security["capabilities"]["add"],
        json!(["NET_ADMIN", "NET_RAW"])
    );
    assert_eq!(
        (&security["runAsUser"], &security["runAsNonRoot"]),
        (&json!(65534), &json!(true))
    );
}

#[test]
fn the_environment_has_every_variable_of_the_contract_in_its_order() {
    let (object, _) = injected(&web(&[ASKED]));
    let env = proxy(&object)["env"].as_array().unwrap();
    let names: Vec<_> = env.iter().map(pod::name).collect();
    let mut wanted: Vec<String> = [
        "_pod_name",
        "_pod_ns",
        "_pod_uid",
        "_pod_ip",
        "_pod_nodeName",
        "_pod_containerName",
    ]
    .map(str::to_owned)
    .into();
    let ours = |names: &str| {
        names
            .split_whitespace()
            .map(|name| format!("LINKERD2_PROXY_{name}"))
            .collect::<Vec<_>>()
    };
    wanted.extend(ours(
        "CORES CORES_MIN SHUTDOWN_ENDPOINT_ENABLED LOG LOG_FORMAT DESTINATION_SVC_ADDR DESTINATION_PROFILE_NETWORKS \
         POLICY_CLUSTER_NETWORKS POLICY_SVC_ADDR POLICY_WORKLOAD INBOUND_DEFAULT_POLICY CONTROL_STREAM_INITIAL_TIMEOUT \
         CONTROL_STREAM_IDLE_TIMEOUT CONTROL_STREAM_LIFETIME INBOUND_CONNECT_TIMEOUT OUTBOUND_CONNECT_TIMEOUT \
         OUTBOUND_DISCOVERY_IDLE_TIMEOUT INBOUND_DISCOVERY_IDLE_TIMEOUT CONTROL_LISTEN_ADDR ADMIN_LISTEN_ADDR \
         OUTBOUND_LISTEN_ADDR OUTBOUND_LISTEN_ADDRS INBOUND_LISTEN_ADDR INBOUND_IPS INBOUND_PORTS \
         DESTINATION_PROFILE_SUFFIXES INBOUND_ACCEPT_KEEPALIVE OUTBOUND_CONNECT_KEEPALIVE INBOUND_ACCEPT_USER_TIMEOUT \
         OUTBOUND_CONNECT_USER_TIMEOUT OUTBOUND_METRICS_HOSTNAME_LABELS INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL \
         INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL \
         OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION DESTINATION_CONTEXT",
    ));
    wanted.extend(["_pod_sa", "_l5d_ns", "_l5d_trustdomain"].map(str::to_owned));
    wanted.extend(ours(
        "IDENTITY_DIR IDENTITY_TRUST_ANCHORS IDENTITY_TOKEN_FILE IDENTITY_SVC_ADDR IDENTITY_LOCAL_NAME IDENTITY_SVC_NAME \
         DESTINATION_SVC_NAME POLICY_SVC_NAME",
    ));
    assert_eq!(names, wanted);
    for (name, value) in [
        (
            "DESTINATION_SVC_ADDR",
            "linkerd-dst-headless.linkerd.svc.cluster.local.:8086",
        ),
        (
            "POLICY_SVC_ADDR",
            "linkerd-policy.linkerd.svc.cluster.local.:8090",
        ),
        (
            "IDENTITY_SVC_ADDR",
            "linkerd-identity-headless.linkerd.svc.cluster.local.:8080",
        ),
        (
            "IDENTITY_LOCAL_NAME",
            "$(_pod_sa).$(_pod_ns).serviceaccount.identity.linkerd.cluster.local",
        ),
        (
            "POLICY_SVC_NAME",
            "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local",
        ),
        (
            "POLICY_WORKLOAD",
            r#"{"ns":"$(_pod_ns)", "pod":"$(_pod_name)"}"#,
        ),
        (
            "LOG",
            "warn,linkerd=info,hickory=error,[{headers}]=off,[{request}]=off",
        ),
        ("INBOUND_PORTS", "3306,8080"),
        ("INBOUND_CONNECT_TIMEOUT", "100ms"),
        ("OUTBOUND_CONNECT_TIMEOUT", "1000ms"),
        ("INBOUND_LISTEN_ADDR", "0.0.0.0:4143"),
        ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140"),
        ("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", "3306"),
        (
            "IDENTITY_TOKEN_FILE",
            "/var/run/secrets/tokens/linkerd-identity-token",
        ),
    ] {
        assert_eq!(setting(&object, name), Some(value), "{name}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_annotation_does_what_its_row_says() {
    for (key, value, name, wanted) in [
        (
            "inbound-port",
            "5143",
            "INBOUND_LISTEN_ADDR",
            "0.0.0.0:5143",
        ),
        (
            "outbound-port",
            "5140",
            "OUTBOUND_LISTEN_ADDR",
            "127.0.0.1:5140",
        ),
        (
            "control-port",
            "5190",
            "CONTROL_LISTEN_ADDR",
            "0.0.0.0:5190",
        ),
        ("admin-port", "5191", "ADMIN_LISTEN_ADDR", "0.0.0.0:5191"),
        (
            "opaque-ports",
            "http,1-3",
            "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION",
            "1-3,8080",
        ),
        (
            "pod-inbound-ports",
            "9000",
            "INBOUND_PORTS",
            "3306,8080,9000",
        ),
        ("proxy-cpu-request", "1500m", "CORES_MIN", "2"),
        ("proxy-cpu-limit", "2500m", "CORES_MAX", "3"),
        ("proxy-cpu-ratio-limit", "0.5", "CORES_MAX_RATIO", "0.5"),
        (
            "proxy-log-level",
            "debug",
            "LOG",
            "debug,[{headers}]=off,[{request}]=off",
        ),
        (
            "proxy-log-http-headers",
            "insecure",
            "LOG",
            "warn,linkerd=info,hickory=error",
        ),
        ("proxy-log-format", "json", "LOG_FORMAT", "json"),
        (
            "proxy-admin-shutdown",
            "enabled",
            "SHUTDOWN_ENDPOINT_ENABLED",
            "true",
        ),
        (
            "proxy-require-identity-inbound-ports",
            "8080",
            "INBOUND_PORTS_REQUIRE_IDENTITY",
            "8080",
        ),
        (
            "default-inbound-policy",
            "deny",
            "INBOUND_DEFAULT_POLICY",
            "deny",
        ),
        (
            "enable-external-profiles",
            "true",
            "DESTINATION_PROFILE_SUFFIXES",
            ".",
        ),
        (
            "proxy-metrics-hostname-labels",
            "true",
            "OUTBOUND_METRICS_HOSTNAME_LABELS",
            "true",
        ),
        (
            "proxy-outbound-connect-timeout",
            "2s",
            "OUTBOUND_CONNECT_TIMEOUT",
            "2000ms",
        ),
        (
            "proxy-inbound-connect-timeout",
            "1m",
            "INBOUND_CONNECT_TIMEOUT",
            "60000ms",
        ),
        (
            "proxy-outbound-discovery-cache-unused-timeout",
            "1m",
            "OUTBOUND_DISCOVERY_IDLE_TIMEOUT",
            "60s",
        ),
        (
            "proxy-inbound-discovery-cache-unused-timeout",
            "1m",
            "INBOUND_DISCOVERY_IDLE_TIMEOUT",
            "60s",
        ),
        (
            "proxy-disable-outbound-protocol-detect-timeout",
            "true",
            "OUTBOUND_DETECT_TIMEOUT",
            "365d",
        ),
        (
            "proxy-disable-inbound-protocol-detect-timeout",
            "true",
            "INBOUND_DETECT_TIMEOUT",
            "365d",
        ),
        (
            "enable-gateway",
            "true",
            "INBOUND_GATEWAY_SUFFIXES",
            "svc.cluster.local.",
        ),
        ("access-log", "json", "ACCESS_LOG", "json"),
        (
            "shutdown-grace-period",
            "1m",
            "SHUTDOWN_GRACE_PERIOD",
            "60000ms",
        ),
        (
            "outbound-listeners",
            "127.0.0.1:1=a:80",
            "OUTBOUND_LISTENERS",
            "127.0.0.1:1=a:80",
        ),
        (
            "proxy-mode",
            "explicit",
            "INBOUND_LISTENERS",
            "INBOUND_IPS:3306=127.0.0.1:3306,INBOUND_IPS:8080=127.0.0.1:8080",
        ),
    ] {
        let key = format!("config.linkerd.io/{key}");
        let (object, _) = injected(&web(&[ASKED, (&key, value)]));
        assert_eq!(setting(&object, name), Some(wanted), "{key}");
    }
    let (object, _) = injected(&web(&[(INJECT, "ingress")]));
    assert_eq!(setting(&object, "INGRESS_MODE"), Some("true"));
}

#[test]
fn annotations_of_images_users_and_resources_reach_the_containers() {
    let (object, _) = injected(&web(&[
        ASKED,
        ("config.linkerd.io/proxy-image", "mirror/mesh"),
        ("config.linkerd.io/proxy-version", "v9"),
        ("config.linkerd.io/image-pull-policy", "Always"),
        ("config.linkerd.io/proxy-uid", "3000"),
        ("config.linkerd.io/proxy-gid", "3001"),
        ("config.linkerd.io/proxy-cpu-request", "100m"),
        ("config.linkerd.io/proxy-memory-limit", "250Mi"),
        ("config.linkerd.io/proxy-ephemeral-storage-request", "1Gi"),
        ("config.linkerd.io/enable-debug-sidecar", "true"),
        ("config.linkerd.io/debug-image-version", "v3"),
        ("config.linkerd.io/close-wait-timeout", "90s"),
    ]));
    let (sidecar, init) = (proxy(&object), &object["spec"]["initContainers"][0]);
    for container in [sidecar, init] {
        assert_eq!(container["image"], "mirror/mesh:v9");
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(
            container["resources"],
            json!({"requests": {"cpu": "100m", "ephemeral-storage": "1Gi"}, "limits": {"memory": "250Mi"}})
        );
    }
    let security = &sidecar["securityContext"];
    assert_eq!(
        (&security["runAsUser"], &security["runAsGroup"]),
        (&json!(3000), &json!(3001))
    );
    assert_eq!(
        object["spec"]["containers"][1]["image"],
        "cr.l5d.io/linkerd/debug:v3"
    );
    let args = init["args"].as_array().unwrap();
    assert!(args.contains(&json!("--timeout-close-wait-secs")) && args.contains(&json!("90")));
}

#[test]
fn an_annotation_that_cannot_be_read_is_a_warning_and_the_default_stays() {
    for annotation in annotations::ANNOTATIONS {
        // Any text is good for these, or for nobody but the sidecar to judge.
        if matches!(annotation.takes, "text" | "log filter") {
            continue;
        }
        let (object, warnings) = injected(&web(&[ASKED, (annotation.key, "-not;good-")]));
        let (other, _) = injected(&web(&[ASKED]));
        assert!(
            !warnings
                .iter()
                .filter(|warning| !warning.contains("UDP"))
                .collect::<Vec<_>>()
                .is_empty(),
            "{}",
            annotation.key
        );
        if annotation.key != OPAQUE_PORTS {
            assert_eq!(object["spec"], other["spec"], "{}", annotation.key);
        }
    }
}

#[test]
fn a_namespaces_annotations_are_inherited_and_the_pods_own_win() {
    let namespace = place(&[
        ASKED,
        ("config.linkerd.io/proxy-log-level", "debug"),
        ("config.linkerd.io/proxy-version", "namespace"),
        ("config.linkerd.io/enable-gateway", "true"),
        (
            "config.beta.linkerd.io/proxy-enable-native-sidecar",
            "false",
        ),
        ("resource.opentelemetry.io/team", "shop"),
        (
            "config.linkerd.io/proxy-additional-env",
            r#"[{"name":"A","value":"1"},{"name":"B","value":"1"}]"#,
        ),
        ("else.where/key", "not ours"),
    ]);
    let own = [
        ("config.linkerd.io/proxy-version", "own"),
        (
            "config.linkerd.io/proxy-additional-env",
            r#"[{"name":"B","value":"2"}]"#,
        ),
    ];
    let (object, _) = injected_with(&Values::default(), &web(&own), &namespace);
    let annotations = object["metadata"]["annotations"].as_object().unwrap();
    assert_eq!(annotations[INJECT], "enabled");
    assert_eq!(annotations["config.linkerd.io/proxy-log-level"], "debug");
    assert_eq!(annotations["config.linkerd.io/proxy-version"], "own");
    assert_eq!(annotations["resource.opentelemetry.io/team"], "shop");
    for key in [
        "config.linkerd.io/enable-gateway",
        "config.beta.linkerd.io/proxy-enable-native-sidecar",
        "else.where/key",
    ] {
        assert!(!annotations.contains_key(key), "{key}");
    }
    assert_eq!(proxy(&object)["image"], "cr.l5d.io/linkerd/proxy:own");
    assert_eq!(
        (variable(&object, "A"), variable(&object, "B")),
        (Some("1"), Some("2"))
    );
    assert_eq!(setting(&object, "INBOUND_GATEWAY_SUFFIXES"), None);
}

#[test]
fn pods_and_services_without_a_sidecar_still_say_which_ports_are_opaque() {
    let values = Values::default();
    let of = |object: &Value, place: &Place| {
        let verdict = pod(&mesh(), &values, object, place);
        applied(object, &verdict.patch)["metadata"]["annotations"][OPAQUE_PORTS].clone()
    };
    assert_eq!(of(&web(&[]), &place(&[])), "3306");
    assert_eq!(of(&web(&[]), &place(&[(OPAQUE_PORTS, "1-2")])), "1-2");
    assert_eq!(
        of(
            &web(&[(OPAQUE_PORTS, "7")]),
            &place(&[(OPAQUE_PORTS, "1-2")])
        ),
        "7"
    );
    let annotated = |ports: Value, annotations: &[(&str, &str)]| {
        let object = json!({"metadata": {"name": "db"}, "spec": {"ports": ports}});
        let patch = service(&values, &object, &place(annotations));
        applied(&object, &patch)["metadata"]["annotations"][OPAQUE_PORTS].clone()
    };
    assert_eq!(
        annotated(
            json!([{"port": 80, "targetPort": 3306}, {"port": 5432}]),
            &[]
        ),
        "80,5432"
    );
    assert_eq!(
        annotated(
            json!([{"port": 3306, "targetPort": 80}, {"port": 25, "targetPort": "smtp"}]),
            &[]
        ),
        Value::Null
    );
    assert_eq!(
        annotated(json!([{"port": 80}]), &[(OPAQUE_PORTS, "80")]),
        "80"
    );
}

#[test]
fn explicit_mode_needs_no_capability() {
    let (object, _) = injected(&web(&[ASKED, ("config.linkerd.io/proxy-mode", "explicit")]));
    assert_eq!(
        names_of(&object["spec"]["initContainers"]),
        ["linkerd-proxy", "migrate"]
    );
    assert_eq!(
        proxy(&object)["securityContext"]["capabilities"],
        json!({"drop": ["ALL"]})
    );
    assert!(!object.to_string().contains("NET_ADMIN"));
}

#[test]
fn a_cni_plugins_rules_are_checked_by_an_init_container() {
    let values = Values {
        cni_enabled: true,
        ..Values::default()
    };
    let (object, _) = injected_with(&values, &web(&[ASKED]), &place(&[]));
    let validator = &object["spec"]["initContainers"][0];
    assert_eq!(validator["name"], "linkerd-network-validator");
    let args = validator["args"].as_array().unwrap();
    assert!(args.contains(&json!("1.1.1.1:20001")) && args.contains(&json!("0.0.0.0:4140")));
    assert!(!object.to_string().contains("NET_ADMIN"));
}

#[test]
fn the_control_planes_own_pods_reach_their_part_on_loopback_and_read_anchors_from_the_config_map() {
    let mut object = web(&[ASKED]);
    object["metadata"]["labels"] = json!({names::COMPONENT: "destination"});
    let (object, _) = injected(&object);
    assert_eq!(
        setting(&object, "DESTINATION_SVC_ADDR"),
        Some("localhost.:8086")
    );
    assert_eq!(setting(&object, "POLICY_SVC_ADDR"), Some("localhost.:8090"));
    assert_eq!(setting(&object, "IDENTITY_TRUST_ANCHORS"), None);
}

#[test]
fn values_are_the_charts_and_say_which_of_them_is_wrong() {
    let values = Values::from_yaml(
        "proxy:\n  opaquePorts: 25\n  uid: 7\n  await: false\n  ports: {inbound: 1234}\n  runtime: {workers: {maximum: null}}\n\
         identityTrustAnchorsPEM: pem\ndisableIPv6: false\nsomebodyElses: [1]\npodAnnotations: null\n",
    );
    let values = values.unwrap();
    assert_eq!(
        (
            &*values.proxy.opaque_ports,
            values.proxy.uid,
            values.proxy.awaits
        ),
        ("25", 7, false)
    );
    assert_eq!(
        (values.proxy.ports.inbound, values.proxy.ports.admin),
        (1234, 4191)
    );
    assert_eq!(values.identity_trust_anchors_pem, "pem");
    assert!(!values.disable_ipv6);
    let error = Values::from_yaml("proxy: {uid: nobody}").unwrap_err();
    assert_eq!(error.field, "proxy.uid");
    assert_eq!(Values::from_yaml("").unwrap(), Values::default());
    // What is written can be read.
    let text = serde_norway::to_string(&values).unwrap();
    assert_eq!(Values::from_yaml(&text).unwrap(), values);
}

#[test]
fn ipv6_has_listeners_and_rules_where_it_is_on() {
    let values = Values {
        disable_ipv6: false,
        ..Values::default()
    };
    let (object, _) = injected_with(&values, &web(&[ASKED]), &place(&[]));
    assert_eq!(
        setting(&object, "OUTBOUND_LISTEN_ADDRS"),
        Some("127.0.0.1:4140,[::1]:4140")
    );
    assert_eq!(setting(&object, "INBOUND_LISTEN_ADDR"), Some("[::]:4143"));
    assert!(!object.to_string().contains("--ipv6=false"));
}

#[test]
fn a_patch_makes_what_it_puts_things_into() {
    let object =
        json!({"metadata": {"annotations": null}, "spec": {"containers": [{"name": "app"}]}});
    let verdict = pod(&mesh(), &Values::default(), &object, &place(&[ASKED]));
    let done = applied(&object, &verdict.patch);
    assert_eq!(done["metadata"]["annotations"][INJECT], "enabled");
    let bare = json!({"spec": {"containers": [{"name": "app"}]}});
    let verdict = pod(&mesh(), &Values::default(), &bare, &place(&[ASKED]));
    assert_eq!(
        applied(&bare, &verdict.patch)["metadata"]["labels"]["linkerd.io/workload-ns"],
        "shop"
    );
}
