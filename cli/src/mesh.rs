//! The file `mesh.yaml` of a directory: which manifests, which programs, which traffic, and what should come of it.
//!
//! `run` does what it says; `policy` and `check` find the manifests by it. A directory without such a file is one of
//! plain manifests.

use crate::outcome::{Failure, plain};
use linkerd_controller::{source, token::Subject};
use linkerd_policy::index::{Cluster, Index, Workload, WorkloadRef};
use serde::Deserialize;
use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Name of the file.
const FILE: &str = "mesh.yaml";
/// Its first field.
const API: &str = "run.linkerd.io/v1";

/// What the file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Mesh {
    api_version: String,
    kind: String,
    pub(crate) metadata: Metadata,
    /// Directory of manifests, beside the file.
    manifests: PathBuf,
    /// Directories over it, each over the ones before.
    #[serde(default)]
    pub(crate) steps: Vec<Step>,
    pub(crate) workloads: Vec<Program>,
    #[serde(default)]
    pub(crate) traffic: Vec<Traffic>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    /// The namespace of the workloads.
    pub(crate) namespace: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// What it does, in a few words.
    pub(crate) title: String,
    /// Its directory, beside the file.
    overlay: PathBuf,
}

/// A workload's process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    /// Name of the Pod or ExternalWorkload.
    pub(crate) name: String,
    pub(crate) program: Kind,
    /// The user's own program and its arguments, with `program: command`. `{ip}` stands for the address to listen on.
    #[serde(default)]
    pub(crate) command: Vec<String>,
    /// Services that it calls, as `service:port`, besides those in `traffic`.
    #[serde(default)]
    pub(crate) calls: Vec<Place>,
    /// With `program: http`: some calls that it fails, to see what others make of it.
    pub(crate) fails: Option<Fails>,
}

/// Calls that a program answers with UNAVAILABLE (HTTP 503).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fails {
    /// Of which path.
    pub(crate) path: String,
    /// Every third one, if it is 3.
    pub(crate) every: NonZeroU32,
}

impl fmt::Display for Fails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.path, self.every)
    }
}

impl FromStr for Fails {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('=')
            .and_then(|(path, every)| {
                Some(Self {
                    path: path.to_owned(),
                    every: every.parse().ok()?,
                })
            })
            .ok_or_else(|| format!("{text:?} is not PATH=NUMBER, like /shop.Payments/Charge=3"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The built-in HTTP and gRPC service.
    Http,
    /// The built-in database.
    Lines,
    /// It only calls.
    Client,
    /// A program of the user's.
    Command,
}

/// Calls of one kind, and what should come of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Traffic {
    pub(crate) from: Caller,
    pub(crate) to: Place,
    /// `GET /path`.
    pub(crate) http: Option<String>,
    /// `package.Service/Method`.
    pub(crate) grpc: Option<String>,
    /// A line for the database.
    pub(crate) line: Option<String>,
    #[serde(default = "once")]
    pub(crate) times: u32,
    /// One for every step, or the same for all.
    expect: Expect,
}

const fn once() -> u32 {
    1
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Expect {
    Always(Verdict),
    Steps(Vec<Verdict>),
}

/// What becomes of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// The application answered.
    Allowed,
    /// 403, gRPC status 7, or closed without a byte.
    Denied,
    /// 404, or gRPC status 5 or 12: no route takes it, or the application knows no such thing.
    NoRoute,
    /// Some were answered with 429, or gRPC status 8.
    Limited,
    /// Anything else.
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::NoRoute => "no route",
            Self::Limited => "limited",
            Self::Failed => "failed",
        })
    }
}

/// Who calls: a workload, through its sidecar; or an address, from outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Workload(String),
    Outside(IpAddr),
}

impl<'de> Deserialize<'de> for Caller {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.parse() {
            Ok(address) => Self::Outside(address),
            Err(_) => Self::Workload(text),
        })
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name) => f.write_str(name),
            Self::Outside(address) => write!(f, "{address}"),
        }
    }
}

/// A port of a service: `catalog:8080`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.rsplit_once(':')
            .and_then(|(name, port)| {
                Some((
                    name.to_owned(),
                    port.parse().ok().filter(|port| *port != 0)?,
                ))
            })
            .map(|(name, port)| Self { name, port })
            .ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "{text:?} is no place; write service:port, like catalog:8080"
                ))
            })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

impl Traffic {
    /// What should come of it in a step, counted from 1.
    pub(crate) fn expected(&self, step: usize) -> Option<Verdict> {
        match &self.expect {
            Expect::Always(verdict) => Some(*verdict),
            Expect::Steps(steps) => steps.get(step.checked_sub(1)?).copied(),
        }
    }

    /// What is asked for, for people.
    pub(crate) fn request(&self) -> String {
        let what = self
            .http
            .as_deref()
            .or(self.grpc.as_deref())
            .or(self.line.as_deref());
        let times = if self.times > 1 {
            format!(" x{}", self.times)
        } else {
            String::new()
        };
        format!("{}{times}", what.unwrap_or_default())
    }
}

/// Where the parts of a workload are: the sidecar has the workload's address, which others dial; the application and its
/// way out have addresses beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// What the Pod or ExternalWorkload says. The sidecar listens there, and speaks from there.
    pub(crate) workload: Ipv4Addr,
    pub(crate) application: Ipv4Addr,
    /// Where the sidecar takes what the application sends.
    pub(crate) outbound: Ipv4Addr,
}

impl Addresses {
    /// Of `127.a.b.c`, where 4 divides b: the others are at b + 1 and b + 2.
    fn of(workload: IpAddr) -> Option<Self> {
        let IpAddr::V4(address) = workload else {
            return None;
        };
        let [127, a, b, c] = address.octets() else {
            return None;
        };
        // 127.0.0.x is where everything else on a host is.
        if b % 4 != 0 || (a, b) == (0, 0) {
            return None;
        }
        let beside = |n| Ipv4Addr::new(127, a, b + n, c);
        Some(Self {
            workload: address,
            application: beside(1),
            outbound: beside(2),
        })
    }
}

/// A workload that is run.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) program: Program,
    pub(crate) at: Addresses,
    /// TCP ports that its manifest declares.
    declared: Vec<u16>,
    /// What its sidecar calls itself to the control plane: a token as the API has it.
    pub(crate) token: String,
    /// What its sidecar proves with.
    pub(crate) tls: Tls,
    /// Its sidecar's outbound listeners, in the order of their ports.
    pub(crate) calls: Vec<Place>,
}

/// Who a workload is.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// Whom its token for certificates speaks for.
    pub(crate) subject: Subject,
    pub(crate) identity: String,
    pub(crate) server_name: String,
}

impl Tls {
    /// A Pod has the identity of its service account, an ExternalWorkload the one it names.
    fn of(workload: &Workload, cluster: &Cluster) -> Self {
        let namespace = workload.metadata().namespace.clone();
        match workload {
            Workload::Pod(pod) => {
                let account = pod.service_account();
                let identity = cluster.service_account_identity(&namespace, account);
                let name = account.to_owned();
                Self {
                    subject: Subject::ServiceAccount { namespace, name },
                    server_name: identity.clone(),
                    identity,
                }
            }
            Workload::ExternalWorkload(external) => {
                let name = external.metadata.name.clone();
                let tls = external.spec.mesh_tls.clone();
                Self {
                    subject: Subject::ExternalWorkload { namespace, name },
                    identity: tls.identity,
                    server_name: tls.server_name,
                }
            }
        }
    }
}

/// First port of a sidecar's outbound listeners.
const FIRST_OUTBOUND: u16 = 10_000;

impl Member {
    pub(crate) fn name(&self) -> &str {
        &self.program.name
    }

    /// Ports of the application.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        let ports = self.declared.iter().copied();
        ports.filter(|port| !matches!(*port, 4143 | 4191))
    }

    /// Where the application dials a service.
    pub(crate) fn way_to(&self, place: &Place) -> Option<SocketAddr> {
        let index = self.calls.iter().position(|call| call == place)?;
        let port = FIRST_OUTBOUND.checked_add(u16::try_from(index).ok()?)?;
        Some((self.at.outbound, port).into())
    }

    /// The sidecar's admin server.
    pub(crate) fn admin(&self) -> SocketAddr {
        (self.at.workload, 4191).into()
    }
}

/// The directories of manifests that `directory` means, for a step counted from 1 (the last if absent).
pub(crate) fn manifests(directory: &Path, step: Option<usize>) -> Result<Vec<PathBuf>, Failure> {
    if !directory.is_dir() {
        return Err(
            Failure::usage(format!("{} is not a directory", directory.display()))
                .hint("give a directory of manifests, like examples/shop"),
        );
    }
    if directory.join(FILE).exists() {
        return Mesh::read(directory)?.directories(directory, step);
    }
    match step {
        None => Ok(vec![directory.to_owned()]),
        Some(_) => Err(Failure::usage(format!(
            "--step: {} has no {FILE} that names steps",
            directory.display()
        ))),
    }
}

/// Names and defaults of the mesh: those of a control plane that is told nothing else, so that the answers are the same.
pub(crate) fn cluster() -> Cluster {
    use clap::Parser as _;
    linkerd_controller::Flags::try_parse_from(["linkerd", "--manifests", "."])
        .map(|flags| linkerd_controller::Config::from(flags).cluster)
        .unwrap_or_default()
}

/// The index of the good objects of some directories. What is wrong with the others is said on standard error.
pub(crate) fn index(directories: &[PathBuf]) -> Index {
    let loaded = source::read(directories);
    for problem in &loaded.problems {
        eprintln!("warning: {}", plain(&problem.to_string()));
    }
    let resources = loaded.objects.into_values().map(|(_, resource)| resource);
    Index::from_resources(cluster(), resources)
}

impl Mesh {
    /// Reads the file of a directory.
    pub(crate) fn read(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join(FILE);
        let text = fs::read_to_string(&path).map_err(|error| {
            Failure::new(format!("{}: {error}", path.display()))
                .hint("linkerd run examples/shop; its mesh.yaml shows what the file says")
        })?;
        Self::parse(&text).map_err(|what| Failure::new(format!("{}: {what}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let reader = serde_norway::Deserializer::from_str(text);
        let mesh: Self = serde_path_to_error::deserialize(reader).map_err(|error| {
            let path = error.path().to_string();
            format!("{path}: {}", error.into_inner())
        })?;
        if mesh.api_version != API || mesh.kind != "Mesh" {
            return Err(format!(
                "apiVersion, kind: {}, {} is not known; write apiVersion: {API} and kind: Mesh",
                mesh.api_version, mesh.kind
            ));
        }
        for (i, traffic) in mesh.traffic.iter().enumerate() {
            let asked = [&traffic.http, &traffic.grpc, &traffic.line];
            if asked.iter().filter(|asked| asked.is_some()).count() != 1 {
                return Err(format!(
                    "traffic[{i}]: exactly one of http, grpc and line says what is asked"
                ));
            }
            if let Expect::Steps(steps) = &traffic.expect
                && steps.len() != mesh.steps.len().max(1)
            {
                return Err(format!(
                    "traffic[{i}].expect: {} verdicts for {} steps; write one for each, or a single one",
                    steps.len(),
                    mesh.steps.len().max(1)
                ));
            }
        }
        for (i, program) in mesh.workloads.iter().enumerate() {
            if (program.program == Kind::Command) == program.command.is_empty() {
                return Err(format!(
                    "workloads[{i}].command: goes with program: command, as a list like [python3, server.py]"
                ));
            }
            if program.fails.is_some() && program.program != Kind::Http {
                return Err(format!("workloads[{i}].fails: goes with program: http"));
            }
        }
        Ok(mesh)
    }

    /// The step that is meant, counted from 1; without steps there is one.
    pub(crate) fn step(&self, step: Option<usize>) -> Result<usize, Failure> {
        let last = self.steps.len().max(1);
        match step {
            None => Ok(last),
            Some(step) if (1..=last).contains(&step) => Ok(step),
            Some(step) => Err(Failure::usage(format!(
                "--step {step}: {} has the steps 1 to {last}",
                self.metadata.name
            ))),
        }
    }

    /// The directories of manifests of a step.
    pub(crate) fn directories(
        &self,
        directory: &Path,
        step: Option<usize>,
    ) -> Result<Vec<PathBuf>, Failure> {
        let step = self.step(step)?;
        let overlays = self.steps.iter().take(step).map(|step| &step.overlay);
        let all = std::iter::once(&self.manifests).chain(overlays);
        Ok(all.map(|part| directory.join(part)).collect())
    }

    /// The workloads that are run, as the manifests describe them.
    pub(crate) fn members(&self, index: &Index) -> Result<Vec<Member>, Failure> {
        self.workloads
            .iter()
            .map(|program| self.member(program, index))
            .collect()
    }

    fn member(&self, program: &Program, index: &Index) -> Result<Member, Failure> {
        let (ns, name) = (&self.metadata.namespace, &program.name);
        let (workload, token) = described(index, ns, name).ok_or_else(|| {
            Failure::new(format!(
                "workloads: {name}: no manifest describes a Pod or an ExternalWorkload {ns}/{name}"
            ))
        })?;
        let at = place(workload)?;
        let caller = Caller::Workload(name.clone());
        let mut calls = program.calls.clone();
        calls.extend(
            self.traffic
                .iter()
                .filter(|t| t.from == caller)
                .map(|t| t.to.clone()),
        );
        calls.sort();
        calls.dedup();
        for call in &calls {
            let service = index.service(ns, &call.name);
            if !service
                .is_some_and(|service| service.spec.ports.iter().any(|port| port.port == call.port))
            {
                return Err(Failure::new(format!(
                    "{name} calls {call}, but no manifest has a Service {ns}/{} with port {}",
                    call.name, call.port
                )));
            }
        }
        Ok(Member {
            program: program.clone(),
            at,
            declared: workload.declared_ports().iter().map(|p| p.0).collect(),
            token,
            tls: Tls::of(workload, index.cluster()),
            calls,
        })
    }
}

/// The Pod of this name, or else the ExternalWorkload, and the token it is known by to the control plane.
fn described<'a>(index: &'a Index, ns: &str, name: &str) -> Option<(&'a Workload, String)> {
    let (ns, name) = (ns.to_owned(), name.to_owned());
    let token = |kind: &str| serde_json::json!({ "ns": ns, kind: name }).to_string();
    let pod = (
        token("pod"),
        WorkloadRef::Pod {
            ns: ns.clone(),
            pod: name.clone(),
        },
    );
    let external = (
        token("external_workload"),
        WorkloadRef::ExternalWorkload { ns, name },
    );
    [pod, external]
        .into_iter()
        .find_map(|(token, reference)| Some((index.workload(&reference)?, token)))
}

/// Where a workload is run: its first address has to be one of this host that has others beside it.
fn place(workload: &Workload) -> Result<Addresses, Failure> {
    let ip = workload.addresses().first().copied();
    ip.and_then(Addresses::of).ok_or_else(|| {
        let (kind, field) = match workload {
            Workload::Pod(_) => ("Pod", "status.podIP"),
            Workload::ExternalWorkload(_) => ("ExternalWorkload", "spec.workloadIPs[0].ip"),
        };
        let meta = workload.metadata();
        Failure::new(format!(
            "{kind} {}/{}: {field}: {} cannot be used on one host",
            meta.namespace,
            meta.name,
            ip.map_or_else(|| "(none)".to_owned(), |ip| ip.to_string())
        ))
        .hint(
            "an address 127.A.B.C with B divisible by 4, but not 127.0.0.C; for example 127.42.0.2",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: run.linkerd.io/v1\nkind: Mesh\nmetadata: {name: a, namespace: a}\nmanifests: m\n";

    #[track_caller]
    fn refused(rest: &str, text: &str) {
        let error = Mesh::parse(&format!("{HEAD}{rest}")).unwrap_err();
        assert!(error.contains(text), "{error}");
    }

    #[test]
    fn what_is_wrong_with_a_mesh_file_is_said_with_the_field_and_the_fix() {
        refused("workloads: []\ntrafic: []\n", "trafic");
        refused(
            "workloads: [{name: a, program: htp}]\n",
            "workloads[0].program",
        );
        refused(
            "workloads: [{name: a, program: command}]\n",
            "workloads[0].command: goes with",
        );
        refused(
            "workloads: []\ntraffic: [{from: a, to: b, http: GET /, expect: allowed}]\n",
            "service:port",
        );
        refused(
            "workloads: []\ntraffic: [{from: a, to: 'b:1', expect: allowed}]\n",
            "traffic[0]: exactly one of",
        );
        refused(
            "workloads: []\ntraffic: [{from: a, to: 'b:1', line: x, expect: [allowed, denied]}]\n",
            "2 verdicts for 1 steps",
        );
    }

    #[test]
    fn questions_are_answered_with_the_settings_of_the_control_plane() {
        let networks = cluster().cluster_networks;
        assert!(networks.contains(&"127.0.0.0/8".parse().unwrap()));
    }

    #[test]
    fn the_parts_of_a_workload_have_addresses_of_their_own() {
        let at = Addresses::of("127.42.0.2".parse().unwrap()).unwrap();
        assert_eq!(at.outbound, Ipv4Addr::new(127, 42, 2, 2));
        for other in ["127.0.0.1", "127.42.1.2", "10.0.0.4", "::1"] {
            assert!(Addresses::of(other.parse().unwrap()).is_none(), "{other}");
        }
    }
}
