//! `bench pair`: a client's sidecar and a server's, mutual TLS between them, under our control plane.
//!
//! Everything is on loopback addresses of its own and by explicit listeners: no root, no namespaces. What is measured
//! is the CPU time of each sidecar per request; what is compared: HTTP/1 and HTTP/2, one endpoint and a thousand, one
//! route and a thousand, in turns.

use crate::{Failure, load::Outcome, process::Process, report::median, scenario::counted_all};
use clap::Args;
use linkerd_controller::{
    Config, Flags,
    authority::Authority,
    token::{self, Subject},
};
use serde::Serialize;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The sidecar.
    #[arg(long, default_value = "target/release/linkerd-proxy")]
    proxy: PathBuf,
    /// Rounds; each takes every scenario once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load in one round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Connections of the load.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests per second of the fixed-rate scenario.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Also writes every sample to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A kind of load: by which listener of the client's sidecar it goes, and how.
struct Scenario {
    name: &'static str,
    port: u16,
    path: &'static str,
    http2: bool,
    streams: usize,
    is_rate: bool,
    /// The server has a sidecar.
    is_pair: bool,
}

/// Listeners of the client's sidecar.
const MESHED: u16 = 9000;
const PLAIN: u16 = 9001;
const THOUSAND_ENDPOINTS: u16 = 9002;
const THOUSAND_ROUTES: u16 = 9003;
/// Past every proxy.
const DIRECT: u16 = 0;

const BASE: Scenario = Scenario {
    name: "pair h1 100 B",
    port: MESHED,
    path: "/100",
    http2: false,
    streams: 1,
    is_rate: false,
    is_pair: true,
};

const SCENARIOS: &[Scenario] = &[
    BASE,
    Scenario {
        name: "pair h1 10 KiB",
        path: "/10240",
        ..BASE
    },
    Scenario {
        name: "pair h2 100 B",
        http2: true,
        ..BASE
    },
    Scenario {
        name: "pair h2 100 B, 16 streams",
        http2: true,
        streams: 16,
        ..BASE
    },
    Scenario {
        name: "pair h1 100 B, fixed rate",
        is_rate: true,
        ..BASE
    },
    Scenario {
        name: "client only, 1 endpoint",
        port: PLAIN,
        is_pair: false,
        ..BASE
    },
    Scenario {
        name: "client only, 1,000 endpoints",
        port: THOUSAND_ENDPOINTS,
        is_pair: false,
        ..BASE
    },
    Scenario {
        name: "client only, 1,000 routes",
        port: THOUSAND_ROUTES,
        is_pair: false,
        ..BASE
    },
    Scenario {
        name: "direct h1 100 B",
        port: DIRECT,
        is_pair: false,
        ..BASE
    },
];

/// One round of one scenario.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    scenario: &'static str,
    requests_per_second: f64,
    /// CPU microseconds per request of the client's sidecar and of the server's.
    client_micros: f64,
    server_micros: f64,
    p50: f64,
    p99: f64,
    p999: f64,
}

/// An address of the bench's own network.
fn ip(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 83, 0, host)
}

fn at(host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(ip(host).into(), port)
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests)?;
    fs::write(manifests.join("mesh.yaml"), mesh())?;
    let config = start_controller(folder.path(), &manifests)?;
    let _origin = origin(folder.path())?;
    let server = sidecar(
        arguments,
        folder.path(),
        &config,
        "server",
        2,
        &[(
            "INBOUND_LISTENERS",
            format!("{}={}", at(2, 8081), at(3, 8080)),
        )],
    )?;
    let listeners = [
        (MESHED, "server"),
        (PLAIN, "plain"),
        (THOUSAND_ENDPOINTS, "many"),
        (THOUSAND_ROUTES, "routed"),
    ]
    .map(|(port, name)| format!("{}={name}.bench.svc.cluster.local:80", at(4, port)));
    let client = sidecar(
        arguments,
        folder.path(),
        &config,
        "client",
        4,
        &[("OUTBOUND_LISTENERS", listeners.join(","))],
    )?;
    let before = (client.resident()?, server.resident()?);
    let mut samples = Vec::new();
    for round in 0..arguments.rounds {
        for scenario in SCENARIOS {
            eprintln!("round {}: {}", round + 1, scenario.name);
            samples.push(measure(
                arguments,
                scenario,
                &client,
                &server,
                folder.path(),
            )?);
        }
    }
    report(&samples, before, (client.resident()?, server.resident()?));
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string_pretty(&samples)?)?;
    }
    Ok(())
}

/// A meshed server, a plain one, one at a thousand addresses, one behind a thousand routes.
fn mesh() -> String {
    let workload = |name: &str, host: u8| {
        let id = format!("{name}.bench.serviceaccount.identity.linkerd.cluster.local");
        format!(
            "apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {{name: {name}, namespace: bench, labels: {{app: {name}}}}}
spec:
  meshTLS: {{identity: {id}, serverName: {id}}}
  ports: [{{port: 8081, name: http}}]
  workloadIPs: [{{ip: {}}}]
status: {{conditions: [{{type: Ready, status: 'True'}}]}}
---
",
            ip(host)
        )
    };
    let service = |name: &str, app: &str, port: u16| {
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: bench}}
spec: {{selector: {{app: {app}}}, ports: [{{port: 80, targetPort: {port}}}]}}
---
"
        )
    };
    let pod = |name: &str, app: &str, ip: Ipv4Addr| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: bench, labels: {{app: {app}}}}}
spec: {{containers: [{{name: app, ports: [{{containerPort: 8080}}]}}]}}
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}
---
"
        )
    };
    let mut text = workload("server", 2) + &workload("client", 4);
    text += &(service("server", "server", 8081) + &service("plain", "plain", 8080));
    text += &(service("many", "many", 8080) + &service("routed", "plain", 8080));
    text += &pod("plain", "plain", ip(3));
    for number in 0..1000u16 {
        let [high, low] = number.to_be_bytes();
        let name = format!("many-{number}");
        text += &pod(&name, "many", Ipv4Addr::new(127, 84, high, low + 1));
        text += &format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: route-{number}, namespace: bench}}
spec:
  parentRefs: [{{group: core, kind: Service, name: routed}}]
  rules: [{{matches: [{{path: {{type: Exact, value: /{}}}}}]}}]
---
",
            // The one that is asked for stands in the middle.
            if number == 500 {
                "100".to_owned()
            } else {
                format!("route/{number}")
            }
        );
    }
    text
}

fn start_controller(folder: &Path, manifests: &Path) -> Result<Config, Failure> {
    let flags: Flags = clap::Parser::parse_from([
        Path::new("controller"),
        Path::new("--manifests"),
        manifests,
        Path::new("--state-dir"),
        &folder.join("state"),
    ]);
    let config = Config {
        policy_addr: at(1, 8090),
        destination_addr: at(1, 8086),
        identity_addr: at(1, 8080),
        admin_addr: at(1, 9990),
        ..flags.into()
    };
    let own = config.clone();
    std::thread::Builder::new()
        .name("controller".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let ended = runtime.map(|runtime| {
                runtime.block_on(linkerd_controller::run(own, std::future::pending()))
            });
            eprintln!("The control plane ended: {ended:?}");
        })?;
    Ok(config)
}

/// The application, on every address of this host at its port: what the thousand endpoints are.
fn origin(folder: &Path) -> Result<Process, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["origin", "--listen", "0.0.0.0:8080"]);
    let mut process = Process::start(command, &folder.join("origin.log"))?;
    process.line()?;
    Ok(process)
}

fn sidecar(
    arguments: &Arguments,
    folder: &Path,
    config: &Config,
    name: &str,
    host: u8,
    more: &[(&str, String)],
) -> Result<Process, Failure> {
    let authority = within("the authority", || Authority::open(&config.state_dir).ok())?;
    let subject = Subject::ServiceAccount {
        namespace: "bench".into(),
        name: name.into(),
    };
    let token = token::issue(&authority, &subject, Duration::from_secs(3600))?;
    let token_file = folder.join(format!("{name}.token"));
    fs::write(&token_file, token)?;
    let keys = folder.join(name);
    fs::create_dir_all(&keys)?;
    let identity = format!("{name}.bench.serviceaccount.identity.linkerd.cluster.local");
    let mut command = Command::new(&arguments.proxy);
    command.env_clear();
    let workload = format!(r#"{{"ns":"bench","external_workload":"{name}"}}"#);
    let admin = at(host, 4191);
    let own = [
        ("LOG", "warn".to_owned()),
        ("IDENTITY_DIR", keys.display().to_string()),
        ("IDENTITY_TOKEN_FILE", token_file.display().to_string()),
        (
            "IDENTITY_TRUST_ANCHORS",
            authority.trust_anchors().to_owned(),
        ),
        ("IDENTITY_LOCAL_NAME", identity),
        ("IDENTITY_SVC_ADDR", config.identity_addr.to_string()),
        ("POLICY_SVC_ADDR", config.policy_addr.to_string()),
        ("POLICY_WORKLOAD", workload.clone()),
        ("DESTINATION_SVC_ADDR", config.destination_addr.to_string()),
        ("DESTINATION_CONTEXT", workload),
        ("INBOUND_LISTEN_ADDR", at(host, 4143).to_string()),
        ("OUTBOUND_LISTEN_ADDR", at(host, 4140).to_string()),
        ("ADMIN_LISTEN_ADDR", admin.to_string()),
    ];
    for (name, value) in own.iter().chain(more) {
        command.env(format!("LINKERD2_PROXY_{name}"), value);
    }
    let mut process = Process::start_logged(command, &folder.join(format!("{name}.log")))?;
    within("a sidecar", || is_ready(admin).then_some(()))
        .map_err(|error| format!("{error}: {}", process.last_words()))?;
    process.check()?;
    Ok(process)
}

fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&admin, Duration::from_millis(200))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn within<T>(what: &str, ask: impl Fn() -> Option<T>) -> Result<T, Failure> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = ask() {
            return Ok(found);
        }
        if Instant::now() > until {
            return Err(format!("{what} did not start").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 requests")]
fn measure(
    arguments: &Arguments,
    scenario: &Scenario,
    client: &Process,
    server: &Process,
    folder: &Path,
) -> Result<Sample, Failure> {
    let address = match scenario.port {
        DIRECT => at(3, 8080),
        port => at(4, port),
    };
    let mut command = Command::new(std::env::current_exe()?);
    let connections = if scenario.streams > 1 {
        4
    } else {
        arguments.connections
    };
    command.args([
        "load",
        "--address",
        &address.to_string(),
        "--path",
        scenario.path,
    ]);
    command.args(["--connections", &connections.to_string()]);
    command.args(["--streams", &scenario.streams.to_string()]);
    command.args(["--seconds", &arguments.seconds.to_string()]);
    if scenario.http2 {
        command.arg("--http2");
    }
    if scenario.is_rate {
        command.args(["--rate", &arguments.rate.to_string()]);
    }
    let log = folder.join("load.log");
    let (outcome, cpu) = counted_all(command, &[client, server], &log)?;
    let Outcome {
        requests,
        errors,
        seconds,
        latency,
        first_error,
    } = outcome;
    if requests == 0 || errors > 0 {
        let why = first_error.unwrap_or_default();
        return Err(format!("{}: {errors} errors: {why}", scenario.name).into());
    }
    let each = |at: usize| {
        let cpu = cpu.get(at).copied().unwrap_or_default();
        cpu.as_secs_f64() * 1e6 / requests as f64
    };
    Ok(Sample {
        scenario: scenario.name,
        requests_per_second: requests as f64 / seconds,
        client_micros: each(0),
        server_micros: if scenario.is_pair { each(1) } else { 0.0 },
        p50: latency.p50,
        p99: latency.p99,
        p999: latency.p999,
    })
}

fn report(samples: &[Sample], before: (u64, u64), after: (u64, u64)) {
    println!(
        "{:<32} {:>10} {:>16} {:>16} {:>9} {:>9} {:>9}",
        "scenario", "req/s", "client us/req", "server us/req", "p50 us", "p99 us", "p99.9 us"
    );
    for scenario in SCENARIOS {
        let of = |value: fn(&Sample) -> f64| {
            let values = samples
                .iter()
                .filter(|sample| sample.scenario == scenario.name);
            median(values.map(value)).unwrap_or_default()
        };
        println!(
            "{:<32} {:>10.0} {:>16.1} {:>16.1} {:>9.0} {:>9.0} {:>9.0}",
            scenario.name,
            of(|sample| sample.requests_per_second),
            of(|sample| sample.client_micros),
            of(|sample| sample.server_micros),
            of(|sample| sample.p50),
            of(|sample| sample.p99),
            of(|sample| sample.p999),
        );
    }
    println!(
        "resident KiB: client {} idle, {} after load; server {} idle, {} after load",
        before.0, after.0, before.1, after.1
    );
}
