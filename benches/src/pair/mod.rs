//! `bench pair`: a client's sidecar and a server's, mutual TLS between them, under our control plane.
//!
//! What is measured is the CPU time of each sidecar per request; what is compared: our pair, a pair of bare proxies
//! (the yardstick), any other sidecar given with `--vs`, and both mixtures of ours and that one, in turns. Where there is
//! root, iptables redirects traffic to sidecars; without it, ours listens where clients connect.

mod mesh;
mod network;
mod report;
mod sides;

use crate::{
    Failure, inside,
    load::Outcome,
    process::{Process, find},
    scenario::counted_all,
    sidecar::Mode,
};
use clap::Args;
use mesh::{IDLE_DESTINATIONS, MANY_ENDPOINTS, MANY_ROUTES, MESHED, PLAIN, RAW};
use network::Network;
use rustix::process::getuid;
use serde::Serialize;
use sides::{Around, Pair};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The sidecar; `yardstick` is taken from beside it.
    #[arg(long, default_value = "target/release/linkerd-proxy")]
    proxy: PathBuf,
    /// Another sidecar with the same environment: as a pair, and mixed with the first.
    #[arg(long)]
    vs: Option<PathBuf>,
    /// How traffic comes to sidecars; redirected where there is root and iptables.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
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
    /// Only scenarios whose name begins so; may be repeated.
    #[arg(long)]
    scenario: Vec<String>,
    /// Also writes every sample to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The harness is in its own namespaces already.
    #[arg(long, hide = true)]
    inside: bool,
}

/// A kind of load.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    service: u8,
    path: &'static str,
    shape: Shape,
    http2: bool,
    /// The server has a sidecar; otherwise only the client's does anything.
    is_pair: bool,
}

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A closed loop on each connection.
    Closed,
    /// Four connections with sixteen closed loops each.
    Multiplexed,
    /// At `--rate`.
    Rate,
    /// A connection for each request.
    Fresh,
    /// gRPC calls, a closed loop on each connection.
    Grpc,
    /// Opaque: 1 MiB for each request.
    Raw,
}

const BASE: Scenario = Scenario {
    name: "h1 100 B",
    service: MESHED,
    path: "/100",
    shape: Shape::Closed,
    http2: false,
    is_pair: true,
};
const CLIENT_ONLY: Scenario = Scenario {
    service: PLAIN,
    is_pair: false,
    ..BASE
};

const SCENARIOS: &[Scenario] = &[
    BASE,
    Scenario {
        name: "h1 10 KiB",
        path: "/10240",
        ..BASE
    },
    Scenario {
        name: "h2 100 B",
        http2: true,
        ..BASE
    },
    Scenario {
        name: "h2 100 B, 4 x 16 streams",
        http2: true,
        shape: Shape::Multiplexed,
        ..BASE
    },
    Scenario {
        name: "gRPC 100 B",
        http2: true,
        shape: Shape::Grpc,
        ..BASE
    },
    Scenario {
        name: "h1 100 B, new connections",
        shape: Shape::Fresh,
        ..BASE
    },
    Scenario {
        name: "h1 100 B, fixed rate",
        shape: Shape::Rate,
        ..BASE
    },
    Scenario {
        name: "opaque, each 1 MiB",
        service: RAW,
        shape: Shape::Raw,
        ..BASE
    },
    Scenario {
        name: "client only, 1 endpoint",
        ..CLIENT_ONLY
    },
    Scenario {
        name: "client only, 1,000 endpoints",
        service: MANY_ENDPOINTS,
        ..CLIENT_ONLY
    },
    Scenario {
        name: "client only, 1,000 routes",
        service: MANY_ROUTES,
        ..CLIENT_ONLY
    },
];

/// One round of one scenario with one pair; or past every proxy, with none.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    scenario: &'static str,
    pair: String,
    requests_per_second: f64,
    /// CPU microseconds per request of the client's sidecar and of the server's.
    client_micros: f64,
    server_micros: f64,
    p50: f64,
    p99: f64,
    p999: f64,
}

/// Memory of a client's sidecar, in KiB.
#[derive(Clone, Debug, Serialize)]
struct Memory {
    pair: String,
    /// Ready, with one destination used once.
    idle: u64,
    /// More for each further destination that was used once; where every address can be called.
    per_destination: Option<f64>,
    /// More for each endpoint of one destination that was used once.
    per_endpoint: f64,
    /// After all load, of both.
    after: (u64, u64),
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let can_redirect = getuid().is_root() && find("iptables").is_some();
    let mode = match arguments.mode {
        Some(mode) => mode,
        None if can_redirect => Mode::Redirected,
        None => Mode::Explicit,
    };
    if mode == Mode::Explicit {
        if arguments.vs.is_some() {
            return Err(
                "--vs: only redirected traffic reaches it; that needs root and iptables".into(),
            );
        }
        let folder = tempfile::tempdir()?;
        return compare(arguments, mode, folder.path());
    }
    if !arguments.inside {
        return inside::again();
    }
    compare(arguments, mode, inside::settle()?)
}

fn compare(arguments: &Arguments, mode: Mode, folder: &Path) -> Result<(), Failure> {
    inside::allow_descriptors()?;
    let network = Network::new(mode)?;
    let manifests = folder.join("manifests");
    fs::create_dir(&manifests)?;
    fs::write(manifests.join("mesh.yaml"), mesh::manifests(network))?;
    let config = mesh::start_controller(folder, &manifests)?;
    let around = Around {
        folder,
        config: &config,
        mode,
        network,
    };
    let _origins = sides::origins(&around)?;
    let pairs = pairs(arguments, &around)?;
    let log = folder.join("load.log");
    let mut memory = Vec::new();
    let sidecars = pairs
        .iter()
        .filter(|pair| pair.yardstick_to_http1().is_none());
    for pair in sidecars {
        eprintln!("memory: {}", pair.name);
        memory.push(remember(pair, network, &log)?);
    }
    let mut samples = Vec::new();
    for round in 0..arguments.rounds {
        for scenario in SCENARIOS
            .iter()
            .filter(|scenario| scenario.is_asked(arguments))
        {
            for pair in pairs.iter().map(Some).chain([None]) {
                if !scenario.takes(pair) {
                    continue;
                }
                let name = pair.map_or("direct", |pair| pair.name.as_str());
                eprintln!("round {}: {}: {name}", round + 1, scenario.name);
                samples.push(measure(arguments, scenario, pair, network, &log)?);
            }
        }
    }
    for (memory, pair) in memory.iter_mut().zip(&pairs) {
        memory.after = (pair.client.resident()?, pair.server.resident()?);
    }
    report::print(&samples, &memory);
    if let Some(file) = &arguments.json {
        let all = serde_json::json!({ "samples": samples, "memory": memory });
        fs::write(file, serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}

/// Everything that is compared; the yardsticks last.
fn pairs(arguments: &Arguments, around: &Around<'_>) -> Result<Vec<Pair>, Failure> {
    let own = arguments.proxy.as_path();
    let mut pairs = vec![Pair::start(around, "pair", 0, own, own)?];
    if let Some(other) = arguments.vs.as_deref() {
        pairs.push(Pair::start(around, "vs pair", 1, other, other)?);
        pairs.push(Pair::start(around, "to vs", 2, own, other)?);
        pairs.push(Pair::start(around, "from vs", 3, other, own)?);
    }
    // What was HTTP/1 at the client is HTTP/1 again at the application.
    pairs.push(Pair::yardstick(arguments, around, 8, true)?);
    pairs.push(Pair::yardstick(arguments, around, 9, false)?);
    Ok(pairs)
}

impl Scenario {
    fn is_asked(&self, arguments: &Arguments) -> bool {
        let mut asked = arguments.scenario.iter();
        arguments.scenario.is_empty() || asked.any(|prefix| self.name.starts_with(prefix))
    }

    /// Whether a pair, or nothing between client and server, can take part.
    fn takes(&self, pair: Option<&Pair>) -> bool {
        match pair.map(Pair::yardstick_to_http1) {
            Some(Some(to_http1)) => {
                self.is_pair && self.shape != Shape::Raw && to_http1 != self.http2
            }
            Some(None) => true,
            None => self.is_pair,
        }
    }

    fn address(&self, pair: Option<&Pair>, network: Network) -> SocketAddr {
        match pair {
            Some(pair) => pair.address(self.service),
            None if self.shape == Shape::Raw => network.at(0, 3, 8083),
            None => network.at(0, 3, 8080),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 requests")]
fn measure(
    arguments: &Arguments,
    scenario: &Scenario,
    pair: Option<&Pair>,
    network: Network,
    log: &Path,
) -> Result<Sample, Failure> {
    let mut command = match pair {
        Some(pair) => pair.load()?,
        None => std::process::Command::new(std::env::current_exe()?),
    };
    command.args([
        "load",
        "--address",
        &scenario.address(pair, network).to_string(),
    ]);
    command.args(["--path", scenario.path]);
    let (connections, streams) = match scenario.shape {
        Shape::Multiplexed => (4, 16),
        Shape::Raw => (8, 1),
        _ => (arguments.connections, 1),
    };
    command.args(["--connections", &connections.to_string()]);
    command.args(["--streams", &streams.to_string()]);
    command.args(["--seconds", &arguments.seconds.to_string()]);
    if scenario.http2 {
        command.arg("--http2");
    }
    match scenario.shape {
        Shape::Rate => drop(command.args(["--rate", &arguments.rate.to_string()])),
        Shape::Fresh => drop(command.arg("--fresh")),
        Shape::Grpc => drop(command.arg("--grpc")),
        Shape::Raw => drop(command.args(["--raw", "1048576"])),
        Shape::Closed | Shape::Multiplexed => {}
    }
    let processes: Vec<&Process> =
        pair.map_or_else(Vec::new, |pair| vec![&pair.client, &pair.server]);
    let (outcome, cpu) = counted_all(command, &processes, log)?;
    let Outcome {
        requests,
        errors,
        seconds,
        latency,
        first_error,
    } = outcome;
    let name = pair.map_or("direct", |pair| pair.name.as_str());
    if requests == 0 || errors > 0 {
        let why = first_error.unwrap_or_default();
        let words = pair.map(Pair::last_words).unwrap_or_default();
        return Err(format!("{}, {name}: {errors} errors: {why}\n{words}", scenario.name).into());
    }
    let each = |at: usize| {
        let cpu = cpu.get(at).copied().unwrap_or_default();
        cpu.as_secs_f64() * 1e6 / requests as f64
    };
    Ok(Sample {
        scenario: scenario.name,
        pair: name.to_owned(),
        requests_per_second: requests as f64 / seconds,
        client_micros: each(0),
        server_micros: if scenario.is_pair { each(1) } else { 0.0 },
        p50: latency.p50,
        p99: latency.p99,
        p999: latency.p999,
    })
}

/// What destinations and endpoints cost a client's sidecar that has just started.
#[expect(clippy::cast_precision_loss, reason = "KiB of one process")]
fn remember(pair: &Pair, network: Network, log: &Path) -> Result<Memory, Failure> {
    let once = |address: SocketAddr, addresses: u16| -> Result<u64, Failure> {
        let mut command = pair.load()?;
        command.args([
            "load",
            "--idle",
            "--seconds",
            "0.5",
            "--warmup",
            "0",
            "--path",
            "/100",
        ]);
        command.args(["--address", &address.to_string()]);
        command.args(["--addresses", &addresses.to_string()]);
        command.args(["--connections", &addresses.to_string()]);
        let (outcome, _) = counted_all(command, &[], log)?;
        if outcome.errors > 0 {
            let why = outcome.first_error.unwrap_or_default();
            return Err(format!("{}: {why}\n{}", pair.name, pair.last_words()).into());
        }
        pair.client.resident()
    };
    let idle = once(pair.address(PLAIN), 1)?;
    let mut known = idle;
    let mut per_destination = None;
    if pair.is_redirected() {
        known = once(
            SocketAddr::new(network.idle_services().into(), 80),
            IDLE_DESTINATIONS,
        )?;
        per_destination = Some(known.saturating_sub(idle) as f64 / f64::from(IDLE_DESTINATIONS));
    }
    let many = once(pair.address(MANY_ENDPOINTS), 1)?;
    Ok(Memory {
        pair: pair.name.clone(),
        idle,
        per_destination,
        per_endpoint: many.saturating_sub(known) as f64 / 1000.0,
        after: (0, 0),
    })
}
