//! What load is sent, by which client, and what is read off the proxy meanwhile.

use crate::{
    Failure,
    load::{COUNTING, Outcome},
    mesh::{Mesh, WORKLOAD},
    peers::Subject,
    process::{self, Process},
    sidecar::Sidecar,
};
use serde::Serialize;
use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// What `--scenario` and the JSON call it.
    pub(crate) name: &'static str,
    /// What the table calls it.
    pub(crate) title: &'static str,
    pub(crate) http2: bool,
    pub(crate) tls: bool,
    path: &'static str,
    shape: Shape,
    /// Which policies take part.
    policies: Policies,
}

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A closed loop on each of `--connections`.
    Closed,
    /// Four connections with sixteen closed loops each.
    Multiplexed,
    /// At `--rate`.
    Rate,
}

/// Which subjects a scenario compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policies {
    /// All proxies with one authorization, which allows everyone.
    One,
    /// One proxy with different numbers of authorizations, each of an identity.
    Many,
}

const BASE: Scenario = Scenario {
    name: "h1-100",
    title: "HTTP/1, 100 B",
    http2: false,
    tls: false,
    path: "/100",
    shape: Shape::Closed,
    policies: Policies::One,
};

/// All of them, in the order of the report.
pub(crate) const SCENARIOS: &[Scenario] = &[
    BASE,
    Scenario {
        name: "h1-10k",
        title: "HTTP/1, 10 KiB",
        path: "/10240",
        ..BASE
    },
    Scenario {
        name: "h2-100",
        title: "HTTP/2, 100 B",
        http2: true,
        ..BASE
    },
    Scenario {
        name: "h2-100-mux",
        title: "HTTP/2, 100 B, 4 connections x 16 streams",
        http2: true,
        shape: Shape::Multiplexed,
        ..BASE
    },
    Scenario {
        name: "mtls-h1-100",
        title: "mTLS, HTTP/1, 100 B",
        tls: true,
        ..BASE
    },
    Scenario {
        name: "mtls-h2-100",
        title: "mTLS, HTTP/2, 100 B",
        tls: true,
        http2: true,
        ..BASE
    },
    Scenario {
        name: "rate-h1-100",
        title: "HTTP/1, 100 B, at a fixed rate; latency from the intended time",
        shape: Shape::Rate,
        ..BASE
    },
    Scenario {
        name: "authorizations",
        title: "mTLS, HTTP/1, 100 B, by number of authorizations",
        tls: true,
        policies: Policies::Many,
        ..BASE
    },
];

/// The load a scenario is run with.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    /// Requests per second of the fixed-rate scenario.
    pub(crate) rate: f64,
    /// Whether `wrk` and `h2load` are used where they can be.
    pub(crate) system_clients: bool,
}

/// What one run of one scenario against one proxy gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) scenario: &'static str,
    pub(crate) subject: String,
    pub(crate) round: usize,
    pub(crate) requests_per_second: f64,
    /// CPU time of the proxy's process by request, in microseconds.
    pub(crate) cpu_micros: f64,
    /// Share of one core that the proxy used.
    pub(crate) cpu_share: f64,
    /// Most resident memory seen meanwhile, in KiB.
    pub(crate) resident: u64,
    /// Which client sent the load.
    pub(crate) client: &'static str,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

impl Scenario {
    /// Whether a subject takes part.
    pub(crate) fn takes(&self, subject: &Subject) -> bool {
        let by_identities = self.policies == Policies::Many;
        by_identities == subject.identities.is_some() && subject.kind.speaks(self.http2, self.tls)
    }

    /// Whether it is at `--rate`.
    pub(crate) fn is_rate(&self) -> bool {
        self.shape == Shape::Rate
    }

    /// Sends the load to one proxy.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 requests")]
    pub(crate) fn run(
        &self,
        sidecar: &Sidecar,
        load: &Load,
        mesh: &Mesh,
        round: usize,
    ) -> Result<Sample, Failure> {
        let system = load.system_clients && !self.tls && self.shape == Shape::Closed;
        let client = match (system, self.http2) {
            (false, _) => "bench",
            (true, false) => "wrk",
            (true, true) => "h2load",
        };
        let log = mesh.file("load.log");
        let (measured, resident) = with_resident(sidecar.proxy.pid(), || {
            if system {
                self.system_client(client, sidecar, load, &log)
            } else {
                counted(self.client(sidecar, load, mesh)?, &sidecar.proxy, &log)
            }
        });
        let (outcome, cpu) = measured?;
        if outcome.requests == 0 {
            let reason = outcome.first_error.unwrap_or_default();
            return Err(format!("no request succeeded: {reason}").into());
        }
        Ok(Sample {
            scenario: self.name,
            subject: sidecar.subject.name.clone(),
            round,
            requests_per_second: outcome.requests as f64 / outcome.seconds,
            cpu_micros: cpu.as_secs_f64() * 1e6 / outcome.requests as f64,
            cpu_share: cpu.as_secs_f64() / outcome.seconds,
            resident,
            client,
            outcome,
        })
    }

    /// Our own load client.
    fn client(&self, sidecar: &Sidecar, load: &Load, mesh: &Mesh) -> Result<Command, Failure> {
        let mut command = bench_load(sidecar)?;
        let (connections, streams) = match self.shape {
            Shape::Closed | Shape::Rate => (load.connections, 1),
            Shape::Multiplexed => (4, 16),
        };
        command.args(["--path", self.path]);
        command.args(["--connections", &connections.to_string()]);
        command.args(["--streams", &streams.to_string()]);
        command.args(["--seconds", &load.seconds.to_string()]);
        if self.shape == Shape::Rate {
            command.args(["--rate", &load.rate.to_string()]);
        }
        if self.http2 {
            command.arg("--http2");
        }
        if self.tls {
            command.arg("--tls").arg(mesh.folder());
            command.args(["--server-name", WORKLOAD]);
        }
        Ok(command)
    }

    /// `wrk` or `h2load`, whose whole run counts, connecting included.
    fn system_client(
        &self,
        client: &str,
        sidecar: &Sidecar,
        load: &Load,
        log: &std::path::Path,
    ) -> Result<(Outcome, Duration), Failure> {
        let address = format!("http://{}{}", sidecar.pod.address, self.path);
        let (connections, seconds) = (
            load.connections.to_string(),
            load.seconds.ceil().to_string(),
        );
        let mut command = Command::new(client);
        if self.http2 {
            command.args(["-t1", "-m1", "-c", &connections, "-D", &seconds, &address]);
        } else {
            command.args(["-t1", "-c", &connections, "-d", &seconds, &address]);
        }
        let before = sidecar.proxy.cpu()?;
        let text = Process::start(command, log)?.rest()?;
        let cpu = sidecar.proxy.cpu()?.saturating_sub(before);
        let requests = requests_of(&text)
            .ok_or_else(|| format!("the output of {client} was not understood: {text}"))?;
        let outcome = Outcome {
            requests,
            seconds: load.seconds.ceil(),
            ..Outcome::default()
        };
        Ok((outcome, cpu))
    }
}

/// Requests answered, from the output of `wrk` ("12 requests in 2.00s") or `h2load` ("..., 12 succeeded, ...").
fn requests_of(text: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let line = line.trim();
        let number = match line.split_once(" requests in ") {
            Some((number, _)) => number,
            None => line
                .strip_prefix("requests: ")?
                .split(", ")
                .find_map(|part| part.strip_suffix(" succeeded"))?,
        };
        number.parse().ok()
    })
}

/// Runs our load client; CPU time is read when it begins to count and when it has ended.
fn counted(
    command: Command,
    proxy: &Process,
    log: &std::path::Path,
) -> Result<(Outcome, Duration), Failure> {
    let (outcome, cpu) = counted_all(command, &[proxy], log)?;
    Ok((outcome, cpu.first().copied().unwrap_or_default()))
}

/// The same, with the CPU time of several processes.
pub(crate) fn counted_all(
    command: Command,
    processes: &[&Process],
    log: &std::path::Path,
) -> Result<(Outcome, Vec<Duration>), Failure> {
    let mut client = Process::start(command, log)?;
    while client.line()?.trim() != COUNTING {}
    let cpu = || -> Result<Vec<Duration>, Failure> {
        processes.iter().map(|process| process.cpu()).collect()
    };
    let before = cpu()?;
    let outcome = serde_json::from_str(&client.line()?)?;
    let after = cpu()?.into_iter().zip(before);
    let used = after.map(|(after, before)| after.saturating_sub(before));
    Ok((outcome, used.collect()))
}

/// Memory of a proxy with many connections that do nothing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) subject: String,
    /// Connections that were open.
    pub(crate) connections: u64,
    /// KiB before the first, after a fresh start.
    pub(crate) before: u64,
    /// KiB while all were open.
    pub(crate) open: u64,
    /// KiB some seconds after all were closed.
    pub(crate) closed: u64,
}

/// Opens `connections` HTTP/1 connections with one request each and holds them.
pub(crate) fn idle(sidecar: &Sidecar, connections: usize, mesh: &Mesh) -> Result<Idle, Failure> {
    let before = sidecar.proxy.resident()?;
    let mut command = bench_load(sidecar)?;
    command.args(["--idle", "--seconds", "2", "--path", "/100"]);
    command.args(["--connections", &connections.to_string()]);
    let (outcome, open) = with_resident(sidecar.proxy.pid(), || {
        counted(command, &sidecar.proxy, &mesh.file("load.log"))
    });
    let (outcome, _) = outcome?;
    if outcome.errors > 0 {
        let reason = outcome.first_error.unwrap_or_default();
        return Err(format!(
            "{} of {connections} connections were held: {reason}",
            outcome.requests
        )
        .into());
    }
    thread::sleep(Duration::from_secs(2));
    Ok(Idle {
        subject: sidecar.subject.name.clone(),
        connections: outcome.requests,
        before,
        open,
        closed: sidecar.proxy.resident()?,
    })
}

fn bench_load(sidecar: &Sidecar) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["load", "--address", &sidecar.pod.address.to_string()]);
    Ok(command)
}

/// Does something, and gives the most resident memory that a process had meanwhile.
fn with_resident<T>(pid: u32, work: impl FnOnce() -> T) -> (T, u64) {
    const EVERY: Duration = Duration::from_millis(50);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(process::resident(pid).unwrap_or_default());
                thread::sleep(EVERY);
            }
            most
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, watch.join().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_from_the_output_of_wrk_and_of_h2load() {
        let wrk = "  Thread Stats\n  52310 requests in 2.00s, 9.1MB read\nRequests/sec: 26155\n";
        let h2load =
            "requests: 700 total, 690 started, 680 done, 670 succeeded, 10 failed, 0 errored\n";
        assert_eq!(requests_of(wrk), Some(52_310));
        assert_eq!(requests_of(h2load), Some(670));
        assert_eq!(
            requests_of("unable to connect to 127.0.0.1:1 Connection refused\n"),
            None
        );
    }
}
