//! `bench plane`: what the control plane costs on a real API server, and how soon it says what was applied.
//!
//! One API server (etcd, kube-apiserver and kube-controller-manager, built by `cargo xtask tools`) is filled step by step.
//! At each size the controller starts anew and serves simulated proxies: connections that watch their Pod's policy and two
//! Services' endpoints, as sidecars do, and count what they are told. One Pod has a real sidecar, which is asked what it decides.

mod cluster;
mod decision;
mod proxies;

use crate::{Failure, inside, process::Process, report::median};
use clap::Args;
use cluster::Cluster;
use decision::Sidecar;
use proxies::{Kind, Proxies};
use serde::Serialize;
use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The control plane.
    #[arg(long, default_value = "target/release/linkerd-controller")]
    controller: PathBuf,
    /// The sidecar of one of the Pods.
    #[arg(long, default_value = "target/release/linkerd-proxy")]
    proxy: PathBuf,
    /// Numbers of Pods, in ascending order; each is a run.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
    pods: Vec<usize>,
    /// Most Services; a tenth of the Pods if that is less.
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Most proxies; one for each Pod if that is less.
    #[arg(long, default_value_t = 1000)]
    proxies: usize,
    /// Changes of each kind that are timed.
    #[arg(long, default_value_t = 50)]
    changes: usize,
    /// Also writes the result to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What was measured at one size.
#[derive(Debug, Serialize)]
struct Row {
    pods: usize,
    services: usize,
    proxies: usize,
    /// From the process's start to its first answer, and its CPU time until then, in milliseconds.
    start_ms: f64,
    start_cpu_ms: f64,
    /// Resident memory before there are proxies, and with all of them, in KiB.
    resident: u64,
    resident_served: u64,
    /// CPU time for all proxies' first answers, in milliseconds.
    connect_cpu_ms: f64,
    /// From before a Server is applied until the proxy it is about has been told, in milliseconds.
    told_p50_ms: f64,
    told_p99_ms: f64,
    /// The same until a real sidecar decides by it.
    decision_p50_ms: f64,
    decision_p99_ms: f64,
    /// The same until the API server has answered, for which nobody but it can do anything.
    applied_p50_ms: f64,
    /// A Server that is about every Pod: until the last proxy has it, and the controller's CPU time by proxy that is told.
    policy: FanOut,
    /// An endpoint of a Service that every proxy watches.
    endpoints: FanOut,
}

#[derive(Debug, Serialize)]
struct FanOut {
    last_p50_ms: f64,
    cpu_us_by_stream: f64,
}

#[derive(Debug, Serialize)]
struct Report(Vec<Row>);

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    inside::allow_descriptors()?;
    let mut cluster = Cluster::start(arguments.services).await?;
    let mut rows = Vec::new();
    for pods in &arguments.pods {
        let began = Instant::now();
        cluster.grow(*pods).await?;
        eprintln!("{pods} Pods after {:.1?}", began.elapsed());
        rows.push(measure(&arguments, &cluster, *pods).await?);
    }
    let report = Report(rows);
    println!("{report}");
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

/// The controller under test.
struct Controller {
    process: Process,
    policy: SocketAddr,
    destination: SocketAddr,
    identity: SocketAddr,
    /// Where its CA is.
    state: PathBuf,
}

impl Controller {
    fn start(program: &Path, kubeconfig: &Path, folder: &Path) -> Result<Self, Failure> {
        let at = || SocketAddr::from((Ipv4Addr::LOCALHOST, linkerd_tests::free_port()));
        let (policy, destination, identity) = (at(), at(), at());
        let state = folder.join("state");
        let mut command = Command::new(program);
        command
            .arg("--kubernetes")
            .arg(format!("--policy-addr={policy}"))
            .arg(format!("--destination-addr={destination}"))
            .arg(format!("--identity-addr={identity}"))
            .arg(format!("--admin-addr={}", at()))
            .arg(format!("--state-dir={}", state.display()))
            .env("KUBECONFIG", kubeconfig)
            .env("HOSTNAME", "bench");
        let process = Process::start_logged(command, &folder.join("controller.log"))?;
        Ok(Self {
            process,
            policy,
            destination,
            identity,
            state,
        })
    }

    /// PEM.
    fn trust_anchors(&self) -> Result<String, Failure> {
        Ok(fs::read_to_string(self.state.join("ca.crt"))?)
    }

    fn cpu_ms(&self) -> Result<f64, Failure> {
        Ok(self.process.cpu()?.as_secs_f64() * 1e3)
    }
}

async fn measure(arguments: &Arguments, cluster: &Cluster, pods: usize) -> Result<Row, Failure> {
    let folder = tempfile::tempdir()?;
    let began = Instant::now();
    let kubeconfig = cluster.kubeconfig();
    let controller = Controller::start(&arguments.controller, &kubeconfig, folder.path())?;
    let count = arguments.proxies.min(pods);
    let first = Proxies::connect(&controller, 1, cluster.services()).await;
    let first = first.map_err(|failure| {
        format!(
            "{failure}; the controller: {}",
            controller.process.last_words()
        )
    })?;
    let (start, start_cpu_ms) = (began.elapsed(), controller.cpu_ms()?);
    let resident = controller.process.resident()?;
    drop(first);
    let proxies = Proxies::connect(&controller, count, cluster.services()).await?;
    let connect_cpu_ms = controller.cpu_ms()? - start_cpu_ms;
    let resident_served = controller.process.resident()?;
    let times = Times::measure(arguments, cluster, &controller, &proxies, folder.path()).await?;
    let policy = fan_out(
        arguments.changes,
        &controller,
        &proxies,
        Kind::Policy,
        || cluster.change_all(),
    );
    let policy = policy.await?;
    let endpoints = fan_out(
        arguments.changes,
        &controller,
        &proxies,
        Kind::Endpoints,
        || cluster.change_endpoint(),
    );
    Ok(Row {
        pods,
        services: cluster.services(),
        proxies: count,
        start_ms: start.as_secs_f64() * 1e3,
        start_cpu_ms,
        resident,
        resident_served,
        connect_cpu_ms,
        told_p50_ms: quantile(&times.told, 50),
        told_p99_ms: quantile(&times.told, 99),
        decision_p50_ms: quantile(&times.decided, 50),
        decision_p99_ms: quantile(&times.decided, 99),
        applied_p50_ms: quantile(&times.applied, 50),
        policy,
        endpoints: endpoints.await?,
    })
}

/// How long after it is begun to be applied a Server is in force, in milliseconds, each time.
#[derive(Default)]
struct Times {
    /// The API server has answered.
    applied: Vec<f64>,
    /// The proxy that it is about has been told.
    told: Vec<f64>,
    /// That Pod's sidecar decides so.
    decided: Vec<f64>,
}

impl Times {
    async fn measure(
        arguments: &Arguments,
        cluster: &Cluster,
        controller: &Controller,
        proxies: &Proxies,
        folder: &Path,
    ) -> Result<Self, Failure> {
        let mut times = Self::default();
        let sidecar = Sidecar::start(&arguments.proxy, controller, cluster, folder).await?;
        for _ in 0..arguments.changes {
            let told = proxies.told(Kind::Policy);
            let began = Instant::now();
            cluster.change_one().await?;
            times.applied.push(milliseconds(began));
            let is_told = async {
                proxies.wait(Kind::Policy, told + 1).await?;
                Ok::<_, Failure>(milliseconds(began))
            };
            let is_decided = async {
                sidecar.decides(cluster.is_open()).await?;
                Ok::<_, Failure>(milliseconds(began))
            };
            let (told, decided) = tokio::try_join!(is_told, is_decided)?;
            times.told.push(told);
            times.decided.push(decided);
        }
        Ok(times)
    }
}

/// Changes something that every proxy is told of, several times.
async fn fan_out<F: Future<Output = Result<(), Failure>>>(
    times: usize,
    controller: &Controller,
    proxies: &Proxies,
    kind: Kind,
    mut change: impl FnMut() -> F,
) -> Result<FanOut, Failure> {
    let cpu = controller.cpu_ms()?;
    let mut last = Vec::new();
    let mut told = 0;
    for _ in 0..times {
        let before = proxies.told(kind);
        let began = Instant::now();
        change().await?;
        proxies.wait(kind, before + proxies.count()).await?;
        last.push(milliseconds(began));
        told += proxies.count();
    }
    let cpu = controller.cpu_ms()? - cpu;
    Ok(FanOut {
        last_p50_ms: median(last).unwrap_or_default(),
        cpu_us_by_stream: cpu * 1e3 / u32::try_from(told).map_or(f64::NAN, f64::from),
    })
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The smallest value that so many of a hundred do not exceed.
fn quantile(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(rank).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>6} {:>8} {:>7} | {:>8} {:>7} {:>7} {:>8} | {:>8} {:>8} {:>7} {:>7} {:>7} | {:>9} {:>9} | {:>9} {:>9}",
            "Pods",
            "Services",
            "proxies",
            "start ms",
            "CPU ms",
            "RSS MB",
            "served MB",
            "apply ms",
            "told p50",
            "p99 ms",
            "decided",
            "p99 ms",
            "policy ms",
            "us/stream",
            "endpts ms",
            "us/stream"
        )?;
        let megabytes = |kib: u64| u32::try_from(kib).map_or(f64::NAN, f64::from) * 1.024e-3;
        for row in &self.0 {
            writeln!(
                f,
                "{:>6} {:>8} {:>7} | {:>8.0} {:>7.0} {:>7.1} {:>9.1} | {:>8.1} {:>8.1} {:>7.1} {:>7.1} {:>7.1} | {:>9.1} {:>9.1} | {:>9.1} {:>9.1}",
                row.pods,
                row.services,
                row.proxies,
                row.start_ms,
                row.start_cpu_ms,
                megabytes(row.resident),
                megabytes(row.resident_served),
                row.applied_p50_ms,
                row.told_p50_ms,
                row.told_p99_ms,
                row.decision_p50_ms,
                row.decision_p99_ms,
                row.policy.last_p50_ms,
                row.policy.cpu_us_by_stream,
                row.endpoints.last_p50_ms,
                row.endpoints.cpu_us_by_stream,
            )?;
        }
        Ok(())
    }
}

/// Longest that anything is waited for: an API server that is being filled is slow.
const PATIENCE: Duration = Duration::from_secs(120);
