use super::*;
use std::{collections::HashMap, time::Duration};

/// What the injector sets at the least, with a token file that exists.
pub(crate) fn minimal() -> HashMap<String, String> {
    // Any file that is there and not empty.
    const TOKEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    [
        ("POLICY_SVC_ADDR", "localhost.:8090"),
        ("POLICY_WORKLOAD", r#"{"ns":"shop","pod":"web"}"#),
        ("INBOUND_DEFAULT_POLICY", "all-unauthenticated"),
        ("DESTINATION_SVC_ADDR", "127.0.0.1:8086"),
        (
            "IDENTITY_SVC_ADDR",
            "linkerd-identity.linkerd.svc.cluster.local.:8080",
        ),
        (
            "IDENTITY_SVC_NAME",
            "linkerd-identity.linkerd.serviceaccount.identity.linkerd.cluster.local",
        ),
        ("IDENTITY_DIR", "/tmp"),
        ("IDENTITY_TOKEN_FILE", TOKEN),
        ("IDENTITY_TRUST_ANCHORS", "-----BEGIN CERTIFICATE-----"),
        (
            "IDENTITY_LOCAL_NAME",
            "Web.shop.serviceaccount.identity.linkerd.cluster.local",
        ),
    ]
    .map(|(name, value)| (format!("{PREFIX}{name}"), value.to_owned()))
    .into()
}

fn with(changes: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let mut vars = minimal();
    for (name, value) in changes {
        vars.insert(format!("{PREFIX}{name}"), (*value).to_owned());
    }
    Config::from_vars(|name| vars.get(name).cloned())
}

fn without(name: &str) -> Result<Config, ConfigErrors> {
    let mut vars = minimal();
    vars.remove(&format!("{PREFIX}{name}")).unwrap();
    Config::from_vars(|name| vars.get(name).cloned())
}

/// The only error that a change makes.
fn error(changes: &[(&str, &str)]) -> String {
    let ConfigErrors(errors) = with(changes).unwrap_err();
    assert_eq!(errors.len(), 1, "{changes:?}: {errors:?}");
    errors[0].to_string()
}

#[test]
fn docs_configuration_md_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == reference(),
        "docs/configuration.md is out of step: UPDATE_DOCS=1 cargo test -p linkerd-proxy config::"
    );
}

#[test]
fn every_variable_of_the_table_is_read_and_every_default_is_valid() {
    let vars = minimal();
    let (config, read) = Config::parse(&|name| vars.get(name).cloned());
    config.unwrap();
    for var in VARS {
        let is_read = read.contains(var.name);
        assert_eq!(is_read, var.origin != Origin::Ignored, "{}", var.name);
    }
    let mut names: Vec<_> = VARS.iter().map(|var| var.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), VARS.len(), "a name is in the table twice");
    for name in vars::WITHOUT_EFFECT {
        assert!(vars::find(name).is_some(), "{name}");
    }
    // A default that cannot be parsed would silently read as nothing: set each one explicitly.
    for var in VARS.iter().filter(|var| var.default.is_some()) {
        let default = var.default.unwrap();
        if let Err(errors) = with(&[(var.name, default)]) {
            panic!("{}={default:?}: {errors}", var.name);
        }
    }
}

#[test]
fn the_injected_values_give_the_documented_configuration() {
    let config = with(&[
        ("INBOUND_LISTEN_ADDR", "[::]:4143"),
        ("ADMIN_LISTEN_ADDR", "0.0.0.0:4191"),
        ("INBOUND_IPS", "10.42.0.7,fd00::7"),
        ("INBOUND_PORTS", "8080,9090-9092, ,"),
        (
            "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION",
            "25,587,3306,4444,5432,6379,9300,11211",
        ),
        (
            "POLICY_CLUSTER_NETWORKS",
            "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8",
        ),
        ("CONTROL_STREAM_INITIAL_TIMEOUT", "3s"),
        ("CONTROL_STREAM_IDLE_TIMEOUT", "5m"),
        ("CONTROL_STREAM_LIFETIME", "1h"),
        ("INBOUND_CONNECT_TIMEOUT", "100ms"),
        ("INBOUND_DETECT_TIMEOUT", "365d"),
        ("INBOUND_ACCEPT_KEEPALIVE", "10000ms"),
        ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140,[::1]:4140"),
        ("DESTINATION_PROFILE_SUFFIXES", "svc.cluster.local."),
    ])
    .unwrap();
    assert_eq!(config.inbound.listen.to_string(), "[::]:4143");
    assert_eq!(config.inbound.ips.len(), 2);
    let ports: Vec<_> = config.inbound.ports.iter().collect();
    assert_eq!(
        ports,
        [4191, 8080, 9090, 9091, 9092],
        "the admin port is added"
    );
    assert!(config.inbound.opaque_ports.contains(5432));
    assert_eq!(config.policy.cluster_networks.len(), 5);
    assert_eq!(config.inbound.connect_timeout, Duration::from_millis(100));
    assert_eq!(
        config.inbound.detect_timeout,
        Duration::from_secs(365 * 86_400)
    );
    assert_eq!(
        config.inbound.accept_keepalive,
        Some(Duration::from_secs(10))
    );
    assert_eq!(config.outbound.listen.len(), 2);
    assert_eq!(
        config.control.stream_limits.lifetime,
        Some(Duration::from_secs(3600))
    );
    assert_eq!(
        config.policy.addr.limits(config.control.stream_limits),
        StreamLimits::default(),
        "limits do not apply to a controller on loopback"
    );
    let name = "web.shop.serviceaccount.identity.linkerd.cluster.local";
    assert_eq!(
        config.identity.id.as_str(),
        name,
        "identities are lower-cased"
    );
    assert_eq!(config.identity.server_name, name);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn every_bad_variable_is_reported_in_one_message_with_what_would_be_right() {
    let errors = with(&[
        ("INBOUND_CONNECT_TIMEOUT", "10"),
        ("INBOUND_MAX_CONNECTIONS", "0"),
        ("INBOUND_PORTS", "80,70000"),
        ("INBOUND_DEFAULT_POLICY", "allow"),
        ("ADMIN_LISTEN_ADDR", "localhost:4191"),
        ("METRICS_NATIVE_HISTOGRAMS", "yes"),
        ("IDENTITY_TOKEN_FILE", "/nonexistent/token"),
    ])
    .unwrap_err()
    .to_string();
    assert!(errors.starts_with("7 variables are wrong:\n"), "{errors}");
    for line in [
        r#"LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT="10" has no unit: give a whole number directly followed by ms, s, m, h or d"#,
        r#"LINKERD2_PROXY_INBOUND_MAX_CONNECTIONS="0" would refuse everything: give a whole number above 0"#,
        r#"LINKERD2_PROXY_INBOUND_PORTS="80,70000" holds "70000", which is no port: give ports"#,
        r#"LINKERD2_PROXY_INBOUND_DEFAULT_POLICY="allow" is no default policy: give all-unauthenticated"#,
        r#"LINKERD2_PROXY_ADMIN_LISTEN_ADDR="localhost:4191" is no IP address with a port: give"#,
        r#"LINKERD2_PROXY_METRICS_NATIVE_HISTOGRAMS="yes" is neither true nor false: give"#,
        r#"LINKERD2_PROXY_IDENTITY_TOKEN_FILE="/nonexistent/token" cannot be read (No such file"#,
    ] {
        assert!(errors.contains(line), "{line} is not in {errors}");
    }
}

#[test]
fn values_have_the_syntax_of_the_specification() {
    for good in ["0", "10s", " 5m ", "250ms", "2h", "1d"] {
        with(&[("INBOUND_CONNECT_TIMEOUT", good)]).unwrap();
    }
    for bad in [
        "",
        "1",
        "1.5s",
        "1 s",
        "s",
        "-1s",
        "1w",
        "99999999999999999999s",
    ] {
        assert!(
            with(&[("INBOUND_CONNECT_TIMEOUT", bad)]).is_err(),
            "{bad:?}"
        );
    }
    assert_eq!(
        with(&[("CONTROL_STREAM_LIFETIME", "")])
            .unwrap()
            .control
            .stream_limits
            .lifetime,
        None
    );
    for bad in ["TRUE", "1", "", " true"] {
        assert!(with(&[("INGRESS_MODE", bad)]).is_err(), "{bad:?}");
    }
    for good in ["", " ", "80, 443 ,8000-8010,", "80-80"] {
        with(&[("INBOUND_PORTS", good)]).unwrap();
    }
    for bad in ["8010-8000", "65536", "http", "1-", "80;81"] {
        assert!(with(&[("INBOUND_PORTS", bad)]).is_err(), "{bad:?}");
    }
    for bad in ["", "10.0.0.1, 10.0.0.2", "10.0.0.1,", "10.0.0.0/8"] {
        assert!(with(&[("INBOUND_IPS", bad)]).is_err(), "{bad:?}");
    }
    for bad in ["a.b.", "*.b", "a..b", "", "-a.b", "spiffe://root/web"] {
        assert!(with(&[("IDENTITY_LOCAL_NAME", bad)]).is_err(), "{bad:?}");
    }
    for bad in [
        "127.0.0.1:4140,[::1]:4140,10.0.0.1:4140",
        "127.0.0.1:4140, [::1]:4140",
        "",
    ] {
        assert!(with(&[("OUTBOUND_LISTEN_ADDRS", bad)]).is_err(), "{bad:?}");
    }
    for bad in ["5,1", "0,1", "1,1", "x"] {
        assert!(
            with(&[("METRICS_LATENCY_BUCKETS", bad)]).is_err(),
            "{bad:?}"
        );
    }
}

#[test]
fn suffixes_match_whole_labels_without_case() {
    let config = with(&[(
        "INBOUND_GATEWAY_SUFFIXES",
        "Svc.cluster.local., example.com",
    )])
    .unwrap();
    let suffixes = config.inbound.gateway_suffixes;
    for name in ["a.svc.cluster.local", "a.SVC.cluster.local.", "example.com"] {
        assert!(suffixes.matches(name), "{name}");
    }
    for name in ["badexample.com", "cluster.local", "com"] {
        assert!(!suffixes.matches(name), "{name}");
    }
    let every = with(&[("INBOUND_GATEWAY_SUFFIXES", ".")]).unwrap();
    assert!(every.inbound.gateway_suffixes.matches("anything.at.all"));
    assert!(
        every.inbound.ports.contains(4143),
        "a gateway's own port has a policy too"
    );
}

#[test]
fn addresses_and_names_of_controllers_belong_together() {
    let remote = (
        "POLICY_SVC_ADDR",
        "linkerd-policy.linkerd.svc.cluster.local.:8090",
    );
    assert!(
        error(&[remote]).contains(
            "LINKERD2_PROXY_POLICY_SVC_NAME is not set, but POLICY_SVC_ADDR is no loopback"
        )
    );
    let named = with(&[remote, ("POLICY_SVC_NAME", "policy.linkerd.example")]).unwrap();
    assert_eq!(
        named.policy.addr.identity.unwrap().as_str(),
        "policy.linkerd.example"
    );
    assert!(
        error(&[("TRACE_COLLECTOR_SVC_NAME", "a.b")])
            .contains("is not set, but TRACE_COLLECTOR_SVC_NAME is")
    );
    assert!(
        without("DESTINATION_SVC_ADDR")
            .unwrap_err()
            .to_string()
            .contains("LINKERD2_PROXY_DESTINATION_SVC_ADDR is not set")
    );
    let unset = without("POLICY_WORKLOAD").unwrap_err().to_string();
    let wanted = "POLICY_WORKLOAD is not set: give text: this workload's name for the controller";
    assert!(unset.contains(wanted), "{unset}");
    for not_loopback in ["localhost:8090", "linkerd-policy:8090"] {
        assert!(
            with(&[("POLICY_SVC_ADDR", not_loopback)]).is_err(),
            "{not_loopback}"
        );
    }
}

#[test]
fn combinations_that_cannot_work_are_refused() {
    assert!(
        error(&[
            ("CONTROL_STREAM_INITIAL_TIMEOUT", "10m"),
            ("CONTROL_STREAM_LIFETIME", "1m")
        ])
        .contains("is longer than CONTROL_STREAM_LIFETIME")
    );
    assert!(
        error(&[("INBOUND_DEFAULT_POLICY", "cluster-authenticated")])
            .contains("POLICY_CLUSTER_NETWORKS has no network")
    );
    with(&[("INBOUND_DEFAULT_POLICY", "audit")]).unwrap();
    assert!(error(&[("INBOUND_CONNECT_EXP_BACKOFF_MIN", "1s")]).contains("BACKOFF_MAX is not set"));
    assert!(
        error(&[
            ("OUTBOUND_CONNECT_EXP_BACKOFF_MIN", "2s"),
            ("OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "1s")
        ])
        .contains("does not fit")
    );
    assert!(error(&[("IDENTITY_DISABLED", "1")]).contains("without identity"));
    assert!(
        error(&[("IDENTITY_MIN_REFRESH", "2d")]).contains("is longer than IDENTITY_MAX_REFRESH")
    );
    assert!(
        error(&[("INBOUND_METRICS_AUTHORITY_LABELS", "safe")]).contains("give unsafe, or nothing")
    );
    assert!(
        error(&[("INBOUND_LISTENERS", "127.0.0.1:1=app:80")])
            .contains("must be an address of the application")
    );
    assert!(error(&[("INBOUND_SERVER_HTTP2_MAX_FRAME_SIZE", "100")]).contains("16384 to 16777215"));
}

#[test]
fn explicit_listeners_and_their_ports_policies() {
    let config = with(&[
        (
            "INBOUND_LISTENERS",
            "127.0.0.1:18080=127.0.0.1:8080, [::1]:18081=[::1]:8081",
        ),
        (
            "OUTBOUND_LISTENERS",
            "127.0.0.1:19000=catalog.shop.svc.cluster.local:8080",
        ),
    ])
    .unwrap();
    assert_eq!(config.inbound.listeners.len(), 2);
    assert!(config.inbound.ports.contains(8080) && config.inbound.ports.contains(8081));
    let listener = &config.outbound.listeners[0];
    assert_eq!(
        listener.destination.to_string(),
        "catalog.shop.svc.cluster.local:8080"
    );
    for bad in [
        "127.0.0.1:1",
        "x=127.0.0.1:2",
        "127.0.0.1:1=127.0.0.1",
        "127.0.0.1:1=127.0.0.1:2,127.0.0.1:1=127.0.0.1:3",
        "INBOUND_IPS:0=127.0.0.1:2",
        "INBOUND_IPS:a=127.0.0.1:2",
        "INBOUND_IPS:1=127.0.0.1:2,INBOUND_IPS:1=127.0.0.1:3",
    ] {
        let of = ("INBOUND_IPS", "10.42.0.7");
        assert!(with(&[of, ("INBOUND_LISTENERS", bad)]).is_err(), "{bad:?}");
    }
}

#[test]
fn explicit_listeners_are_at_each_of_a_workloads_addresses() {
    let own = ("INBOUND_LISTENERS", "INBOUND_IPS:8080=127.0.0.1:8081");
    let config = with(&[("INBOUND_IPS", "10.42.0.7,fd00::7"), own]).unwrap();
    let listen: Vec<_> = config
        .inbound
        .listeners
        .iter()
        .map(|(at, _)| at.to_string())
        .collect();
    assert_eq!(listen, ["10.42.0.7:8080", "[fd00::7]:8080"]);
    assert!(config.inbound.ports.contains(8081));
    let error = with(&[own]).unwrap_err().to_string();
    assert!(
        error.contains("INBOUND_IPS:8080") && error.contains("INBOUND_IPS has none"),
        "{error}"
    );
}

#[test]
fn worker_threads_follow_the_cpu_limits() {
    let threads = |vars: &[(&str, &str)], cpus| {
        with(vars)
            .unwrap()
            .workers
            .threads(std::num::NonZeroUsize::new(cpus).unwrap())
    };
    assert_eq!(threads(&[], 8), 1);
    assert_eq!(threads(&[("CORES", "2")], 8), 2);
    assert_eq!(threads(&[("CORES", "2"), ("CORES_MIN", "3")], 8), 3);
    assert_eq!(threads(&[("CORES_MAX", "16")], 8), 8);
    assert_eq!(threads(&[("CORES_MAX_RATIO", "0.5")], 8), 4);
    assert_eq!(threads(&[("CORES_MAX_RATIO", "0.01")], 8), 1);
    let lenient = with(&[("CORES", "0"), ("CORES_MAX_RATIO", "1.5")]).unwrap();
    assert_eq!(
        lenient.warnings.len(),
        2,
        "bad values are warned of: {:?}",
        lenient.warnings
    );
}

#[test]
fn unknown_names_are_warned_of_with_the_name_that_was_meant() {
    let vars = minimal().into_iter().chain(
        [
            ("LINKERD2_PROXY_INBOUND_DEFALT_POLICY", "deny"),
            ("LINKERD2_PROXY_COMPLETELY_ELSE_XYZZY", "1"),
            ("LINKERD2_PROXY_TRACE_PROTOCOL", "opentelemetry"),
            ("HOME", "/root"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let config =
        Config::from_environment(vars.map(|(name, value)| (name.into(), value.into()))).unwrap();
    assert_eq!(
        config.warnings,
        [
            "LINKERD2_PROXY_COMPLETELY_ELSE_XYZZY is unknown and ignored",
            "LINKERD2_PROXY_INBOUND_DEFALT_POLICY is unknown and ignored; did you mean LINKERD2_PROXY_INBOUND_DEFAULT_POLICY?",
        ]
    );
    assert_eq!(config.environment["HOME"], "/root");
}

#[test]
fn a_value_that_is_not_unicode_is_refused_by_name() {
    use std::os::unix::ffi::OsStringExt;
    let name = "LINKERD2_PROXY_POLICY_WORKLOAD";
    let vars = minimal().into_iter().map(|(key, value)| {
        let value = if key == name {
            OsString::from_vec(vec![0xff])
        } else {
            value.into()
        };
        (key.into(), value)
    });
    let errors = Config::from_environment(vars).unwrap_err();
    assert_eq!(
        errors.to_string(),
        format!("1 variable is wrong:\n  {name} is not Unicode: give UTF-8 text")
    );
}

proptest::proptest! {
    /// No text in any variable makes anything worse than an error.
    #[test]
    fn no_value_can_crash_the_reader(at in 0..VARS.len(), text in "\\PC{0,40}|[0-9a-z:.,=\\[\\]/ -]{0,40}") {
        let _ = with(&[(VARS[at].name, &text)]);
    }
}

#[test]
fn a_key_needs_no_directory() {
    let config = without("IDENTITY_DIR").unwrap();
    let Certificates::Service(service) = config.identity.source else {
        panic!("a service");
    };
    assert_eq!(service.dir, None);
}

#[test]
fn certificates_may_come_from_spire_which_needs_no_identity_service() {
    let service = [
        "IDENTITY_DIR",
        "IDENTITY_TOKEN_FILE",
        "IDENTITY_LOCAL_NAME",
        "IDENTITY_SVC_ADDR",
        "IDENTITY_SVC_NAME",
        "IDENTITY_TRUST_ANCHORS",
    ];
    let spire = |id: &'static str, socket: &'static str| {
        let mut vars = minimal();
        for name in service {
            vars.remove(&format!("{PREFIX}{name}"));
        }
        for (name, value) in [
            ("IDENTITY_SERVER_ID", id),
            ("IDENTITY_SERVER_NAME", "web.example"),
            ("IDENTITY_SPIRE_WORKLOAD_API_ADDRESS", socket),
        ] {
            vars.insert(format!("{PREFIX}{name}"), value.to_owned());
        }
        Config::from_vars(|name| vars.get(name).cloned())
    };
    const ID: &str = "spiffe://example/web";
    for socket in [
        "/run/agent.sock",
        "unix:/run/agent.sock",
        "unix:///run/agent.sock",
    ] {
        let config = spire(ID, socket).unwrap();
        assert_eq!(
            (config.identity.id.as_str(), &*config.identity.server_name),
            (ID, "web.example")
        );
        let Certificates::Spire(spire) = &config.identity.source else {
            panic!("not from SPIRE");
        };
        assert_eq!(spire.socket.to_str(), Some("/run/agent.sock"));
        assert_eq!(spire.backoff.max, Duration::from_secs(1));
    }
    for (id, socket, told) in [
        (
            ID,
            "run/agent.sock",
            "IDENTITY_SPIRE_WORKLOAD_API_ADDRESS=\"run/agent.sock\" is not the path",
        ),
        (ID, "tcp://127.0.0.1:1", "is not the path of a socket"),
        (
            "web.example",
            "/run/agent.sock",
            "IDENTITY_SERVER_ID=\"web.example\" is a DNS name",
        ),
    ] {
        let error = spire(id, socket).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    assert!(error(&[("IDENTITY_SPIRE_SOCKET", "/run/agent.sock")]).contains("IDENTITY_LOCAL_NAME"));
}
