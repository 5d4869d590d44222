//! `linkerd run DIR`: a whole mesh as processes of this host. No root, no iptables, nothing installed.
//!
//! ```text
//! manifests -> control plane -> a sidecar and an application for each workload -> ready -> traffic -> table -> stop
//! ```
//!
//! Everything that is kept is in the state directory: the CA, tokens, identities, logs, and `run.json`, which says
//! `linkerd check` where things are.

mod child;
mod traffic;
mod wire;

use crate::{
    fetch, identity,
    mesh::{self, Kind, Member, Mesh},
    outcome::{Failure, Outcome, Output, json, plain, table},
};
use child::Children;
use linkerd_controller::{authority::Authority, token::Subject};
use serde::{Deserialize, Serialize};
use serde_json::json as value;
use std::{
    fs,
    io::IsTerminal as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};
use traffic::Row;
use wire::Wire;

/// How long the mesh may take until every sidecar is ready.
const START: Duration = Duration::from_secs(60);
/// Lifetime of tokens; they are signed anew long before.
const TOKEN: Duration = Duration::from_secs(86_400);
/// How often tokens are signed anew.
const RENEW: Duration = Duration::from_secs(3600);
/// How often the live table is printed.
const REFRESH: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Flags {
    /// A directory with a mesh.yaml, like examples/shop.
    directory: PathBuf,
    /// Run the traffic of mesh.yaml once, print what came of it, and exit with 1 if it is not what mesh.yaml expects.
    #[arg(long)]
    once: bool,
    /// The step of mesh.yaml, from 1; the last if absent.
    #[arg(long)]
    step: Option<usize>,
    /// Where the CA, identities and logs are kept. Absent: DIRECTORY/.linkerd.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Where the parts of a running mesh are, for `linkerd check`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) pid: u32,
    pub(crate) step: usize,
    pub(crate) controller: SocketAddr,
    pub(crate) sidecars: Vec<(String, SocketAddr)>,
}

/// The state directory that belongs to a directory.
pub(crate) fn state_directory(directory: &Path) -> PathBuf {
    directory.join(".linkerd")
}

/// `linkerd run`.
pub(crate) async fn run(flags: Flags) -> Result<Outcome, Failure> {
    let (Ok(mut int), Ok(mut term)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return Err(Failure::new("signals cannot be received"));
    };
    let mut running = Run::prepare(&flags)?;
    let result = tokio::select! {
        result = running.work(&flags) => result,
        _ = int.recv() => Ok(Outcome::when(!flags.once)),
        _ = term.recv() => Ok(Outcome::when(!flags.once)),
    };
    running.children.stop().await;
    drop(fs::remove_file(running.state.join("run.json")));
    result
}

/// A mesh that is being run.
struct Run {
    program: PathBuf,
    state: PathBuf,
    mesh: Mesh,
    step: usize,
    directories: Vec<PathBuf>,
    members: Vec<Member>,
    authority: Authority,
    children: Children,
}

/// Addresses of the control plane.
#[derive(Clone, Copy)]
struct Controller {
    policy: SocketAddr,
    destination: SocketAddr,
    identity: SocketAddr,
    admin: SocketAddr,
}

impl Controller {
    /// Ports that are free now.
    fn choose() -> Result<Self, Failure> {
        // All four are held until all are known, so that they differ.
        let held: Result<Vec<_>, _> = (0..4)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect();
        let addresses = held.and_then(|held| {
            held.iter()
                .map(TcpListener::local_addr)
                .collect::<Result<Vec<_>, _>>()
        });
        match addresses.as_deref() {
            Ok([policy, destination, identity, admin]) => Ok(Self {
                policy: *policy,
                destination: *destination,
                identity: *identity,
                admin: *admin,
            }),
            Ok(_) => Err(Failure::new("no free ports")),
            Err(error) => Err(Failure::new(format!("no free ports on 127.0.0.1: {error}"))),
        }
    }
}

impl Run {
    /// Reads everything and makes the state directory; starts nothing.
    fn prepare(flags: &Flags) -> Result<Self, Failure> {
        let mesh = Mesh::read(&flags.directory)?;
        let step = mesh.step(flags.step)?;
        let directories = mesh.directories(&flags.directory, Some(step))?;
        let members = mesh.members(&mesh::index(&directories))?;
        let state = flags
            .state_dir
            .clone()
            .unwrap_or_else(|| state_directory(&flags.directory));
        if let Some(other) = running(&state) {
            return Err(Failure::new(format!(
                "{} is already running (pid {})",
                mesh.metadata.name, other.pid
            ))
            .hint(format!("kill -INT {}", other.pid)));
        }
        let authority = identity::open(&state)?;
        let program = std::env::current_exe()
            .map_err(|error| Failure::new(format!("where is this program? {error}")))?;
        let children = Children::new(state.join("logs"))?;
        Ok(Self {
            program,
            state,
            mesh,
            step,
            directories,
            members,
            authority,
            children,
        })
    }

    async fn work(&mut self, flags: &Flags) -> Result<Outcome, Failure> {
        let started = Instant::now();
        let _wire = Wire::lay(&self.members).await?;
        let controller = self.start_controller().await?;
        for member in self.members.clone() {
            self.start_member(&member, controller)?;
        }
        self.ready(started).await?;
        self.write_running(controller)?;
        if flags.output == Output::Text {
            self.introduce(controller, started.elapsed());
        }
        if flags.once {
            self.once(flags.output).await
        } else {
            self.live(flags.output).await
        }
    }

    async fn start_controller(&mut self) -> Result<Controller, Failure> {
        let controller = Controller::choose()?;
        let mut arguments = vec!["controller".to_owned()];
        let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        for (number, directory) in self.directories.iter().enumerate() {
            let name = if number == 0 { "manifests" } else { "overlay" };
            flag(name, directory.display().to_string());
        }
        flag("state-dir", self.state.display().to_string());
        flag("policy-addr", controller.policy.to_string());
        flag("destination-addr", controller.destination.to_string());
        flag("identity-addr", controller.identity.to_string());
        flag("admin-addr", controller.admin.to_string());
        self.children
            .start("controller", &self.program, &arguments, &[])?;
        let begun = Instant::now();
        while fetch::get(controller.admin, "/ready", "*/*").await.is_err() {
            self.children.ended()?;
            if begun.elapsed() > START {
                return Err(Failure::new(format!(
                    "the control plane is not ready after {START:?}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(controller)
    }

    fn start_member(&mut self, member: &Member, controller: Controller) -> Result<(), Failure> {
        let home = self.state.join(member.name());
        fs::create_dir_all(&home)
            .map_err(|error| Failure::new(format!("{}: {error}", home.display())))?;
        self.sign(member)?;
        let environment = self.sidecar(member, controller, &home);
        self.children.start(
            &format!("{} sidecar", member.name()),
            &self.program,
            &["proxy".into()],
            &environment,
        )?;
        let listen: Vec<_> = member
            .ports()
            .flat_map(|port| {
                [
                    "--listen".to_owned(),
                    SocketAddr::from((member.at.application, port)).to_string(),
                ]
            })
            .collect();
        let own = |kind: &str| vec!["workload".to_owned(), kind.to_owned()];
        let (program, arguments) = match member.program.program {
            Kind::Client => return Ok(()),
            Kind::Http => {
                let name = ["--name".to_owned(), member.name().to_owned()];
                (
                    self.program.clone(),
                    [own("http"), name.into(), listen].concat(),
                )
            }
            Kind::Lines => (self.program.clone(), [own("lines"), listen].concat()),
            Kind::Command => {
                let ip = member.at.application.to_string();
                let mut words = member
                    .program
                    .command
                    .iter()
                    .map(|word| word.replace("{ip}", &ip));
                let program = words.next().unwrap_or_default();
                (program.into(), words.collect())
            }
        };
        let environment: Vec<_> = member
            .calls
            .iter()
            .filter_map(|place| Some((place, member.way_to(place)?)))
            .map(|(place, way)| {
                let name = place.name.to_uppercase().replace('-', "_");
                (format!("{name}_{}", place.port), way.to_string())
            })
            .collect();
        self.children
            .start(member.name(), &program, &arguments, &environment)
    }

    fn sign(&self, member: &Member) -> Result<(), Failure> {
        let subject = Subject::ExternalWorkload {
            namespace: self.mesh.metadata.namespace.clone(),
            name: member.name().to_owned(),
        };
        let file = self.state.join(member.name()).join("token");
        identity::write_token(&self.authority, &subject, TOKEN, &file)
    }

    /// The environment of a workload's sidecar.
    fn sidecar(
        &self,
        member: &Member,
        controller: Controller,
        home: &Path,
    ) -> Vec<(String, String)> {
        let (ns, name) = (&self.mesh.metadata.namespace, member.name());
        let (at, tls) = (member.at, &member.manifest.spec.mesh_tls);
        let inbound: Vec<_> = member
            .ports()
            .map(|port| format!("{}:{port}={}:{port}", at.sidecar, at.application))
            .collect();
        let outbound: Vec<_> = member
            .calls
            .iter()
            .filter_map(|place| {
                let way = member.way_to(place)?;
                Some(format!(
                    "{way}={}.{ns}.svc.cluster.local:{}",
                    place.name, place.port
                ))
            })
            .collect();
        let workload = value!({ "ns": ns, "external_workload": name }).to_string();
        [
            ("INBOUND_LISTEN_ADDR", format!("{}:4143", at.sidecar)),
            ("INBOUND_LISTENERS", inbound.join(",")),
            ("ADMIN_LISTEN_ADDR", member.admin().to_string()),
            ("OUTBOUND_LISTENERS", outbound.join(",")),
            // Until the control plane has said what holds, nothing does.
            ("INBOUND_DEFAULT_POLICY", "deny".into()),
            ("READY_REQUIRES_POLICY", "true".into()),
            ("POLICY_SVC_ADDR", controller.policy.to_string()),
            ("POLICY_WORKLOAD", workload.clone()),
            ("DESTINATION_SVC_ADDR", controller.destination.to_string()),
            ("DESTINATION_CONTEXT", workload),
            ("IDENTITY_SVC_ADDR", controller.identity.to_string()),
            ("IDENTITY_DIR", home.display().to_string()),
            (
                "IDENTITY_TOKEN_FILE",
                home.join("token").display().to_string(),
            ),
            (
                "IDENTITY_TRUST_ANCHORS",
                self.authority.trust_anchors().to_owned(),
            ),
            ("IDENTITY_SERVER_ID", tls.identity.clone()),
            ("IDENTITY_SERVER_NAME", tls.server_name.clone()),
            ("SHUTDOWN_DRAIN_WINDOW", "100ms".into()),
            ("SHUTDOWN_GRACE_PERIOD", "2s".into()),
            ("LOG", "warn,linkerd=info".into()),
        ]
        .map(|(name, value)| (format!("LINKERD2_PROXY_{name}"), value))
        .into()
    }

    /// Waits until every sidecar is ready and every application listens.
    async fn ready(&mut self, started: Instant) -> Result<(), Failure> {
        for member in self.members.clone() {
            loop {
                self.children.ended()?;
                let missing = waiting_for(&member).await;
                let Some(missing) = missing else { break };
                if started.elapsed() > START {
                    let log = self.children.log(&format!("{} sidecar", member.name()));
                    return Err(Failure::new(format!(
                        "{} is not ready after {START:?}: {missing}",
                        member.name()
                    ))
                    .hint(format!("tail {}", log.display())));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    fn write_running(&self, controller: Controller) -> Result<(), Failure> {
        let running = Running {
            pid: std::process::id(),
            step: self.step,
            controller: controller.admin,
            sidecars: self
                .members
                .iter()
                .map(|member| (member.name().to_owned(), member.admin()))
                .collect(),
        };
        let file = self.state.join("run.json");
        let text = serde_json::to_string_pretty(&running).unwrap_or_default();
        fs::write(&file, text).map_err(|error| Failure::new(format!("{}: {error}", file.display())))
    }

    fn introduce(&self, controller: Controller, took: Duration) {
        let name = &self.mesh.metadata.name;
        let title = self
            .mesh
            .steps
            .get(self.step - 1)
            .map_or("", |step| step.title.as_str());
        println!("{name}, step {}: {title}", self.step);
        println!(
            "{} workloads, each with a sidecar, ready after {:.1} s\n",
            self.members.len(),
            took.as_secs_f32()
        );
        println!(
            "  why was it denied    curl http://{}/denials",
            self.members.first().map_or(controller.admin, Member::admin)
        );
        println!(
            "  what is enforced     curl http://{}/policy",
            self.members.first().map_or(controller.admin, Member::admin)
        );
        println!(
            "  what is wrong        curl http://{}/status",
            controller.admin
        );
        println!(
            "  logs                 {}\n",
            self.state.join("logs").display()
        );
    }

    /// Every row of traffic, one after the other.
    async fn rows(&mut self) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        for traffic in &self.mesh.traffic {
            rows.push(
                traffic::send(&self.program, &self.mesh, &self.members, traffic, self.step).await?,
            );
        }
        self.children.ended()?;
        Ok(rows)
    }

    async fn once(&mut self, output: Output) -> Result<Outcome, Failure> {
        let rows = self.rows().await?;
        let sidecars = self.sidecars().await;
        let wrong = rows.iter().filter(|row| !row.is_as_expected()).count();
        match output {
            Output::Json => json(&value!({
                "mesh": self.mesh.metadata.name,
                "step": self.step,
                "as_expected": wrong == 0,
                "traffic": rows,
                "sidecars": sidecars,
            })),
            Output::Text => {
                let cells: Vec<_> = rows.iter().map(Row::cells).collect();
                let head = [
                    "", "FROM", "TO", "REQUEST", "VERDICT", "EXPECTED", "ANSWERS",
                ];
                println!("{}", table(&head, &cells));
                for row in rows.iter().filter(|row| !row.is_as_expected()) {
                    let why = row.why.as_deref().map(plain).unwrap_or_default();
                    println!("WRONG: {} -> {} {}: {why}", row.from, row.to, row.request);
                }
                println!("{}", sidecar_table(&sidecars));
                match wrong {
                    0 => println!(
                        "{} of {} rows as {} expects",
                        rows.len(),
                        rows.len(),
                        self.mesh.metadata.name
                    ),
                    n => println!("{n} of {} rows are not as expected", rows.len()),
                }
            }
        }
        Ok(Outcome::when(wrong == 0))
    }

    /// Traffic for ever, and a table of it. Ends with a failure, or with the future that runs it.
    async fn live(&mut self, output: Output) -> Result<Outcome, Failure> {
        let terminal = std::io::stdout().is_terminal();
        let mut renewed = Instant::now();
        loop {
            let rows = self.rows().await?;
            let sidecars = self.sidecars().await;
            if output == Output::Json {
                println!("{}", value!({ "traffic": rows, "sidecars": sidecars }));
            } else {
                if terminal {
                    // Clears the screen and goes to its first line.
                    print!("\x1b[2J\x1b[H");
                }
                let cells: Vec<_> = rows.iter().map(Row::cells).collect();
                println!(
                    "{}",
                    table(
                        &[
                            "", "FROM", "TO", "REQUEST", "VERDICT", "EXPECTED", "ANSWERS"
                        ],
                        &cells
                    )
                );
                println!("{}", sidecar_table(&sidecars));
                println!(
                    "Edit a manifest in {} and watch. Ctrl-C ends it.",
                    self.directories.last().unwrap_or(&self.state).display()
                );
            }
            if renewed.elapsed() > RENEW {
                renewed = Instant::now();
                for member in &self.members {
                    self.sign(member)?;
                }
            }
            tokio::time::sleep(REFRESH).await;
        }
    }

    /// What the sidecars have counted, from their own pages.
    async fn sidecars(&self) -> Vec<Sidecar> {
        let pages = self.members.iter().map(|member| async move {
            let admin = member.admin();
            let metrics = fetch::get(admin, "/metrics", "text/plain")
                .await
                .map(|page| page.body)
                .unwrap_or_default();
            let denials = fetch::get(admin, "/denials", "application/json").await;
            let count = |kind: &str| {
                let of = |protocol: &str| {
                    fetch::sum(&metrics, &format!("inbound_{protocol}_authz_{kind}_total"))
                };
                of("http") + of("tcp")
            };
            Sidecar {
                workload: member.name().to_owned(),
                admin,
                allowed: count("allow"),
                denied: count("deny"),
                last_denial: denials.ok().and_then(|page| last_denial(&page.body)),
            }
        });
        futures::future::join_all(pages).await
    }
}

/// What a sidecar has counted.
#[derive(Debug, Serialize)]
struct Sidecar {
    workload: String,
    admin: SocketAddr,
    allowed: f64,
    denied: f64,
    last_denial: Option<String>,
}

fn sidecar_table(sidecars: &[Sidecar]) -> String {
    let cells: Vec<_> = sidecars
        .iter()
        .map(|sidecar| {
            vec![
                sidecar.workload.clone(),
                sidecar.allowed.to_string(),
                sidecar.denied.to_string(),
                format!("http://{}", sidecar.admin),
                sidecar
                    .last_denial
                    .as_deref()
                    .map(plain)
                    .unwrap_or_default(),
            ]
        })
        .collect();
    table(
        &["WORKLOAD", "ALLOWED", "DENIED", "ADMIN", "LAST DENIAL"],
        &cells,
    )
}

/// The latest of a `/denials` page, in a line.
fn last_denial(page: &str) -> Option<String> {
    let page: serde_json::Value = serde_json::from_str(page).ok()?;
    let list = page
        .as_array()
        .or_else(|| page.get("denials")?.as_array())?;
    let latest = list
        .iter()
        .max_by_key(|denial| denial.get("last_seen").and_then(|at| at.as_str()))?;
    let text = |field: &str| latest.get(field).and_then(|value| value.as_str());
    Some(text("why")?.to_owned())
}

/// What a workload still waits for.
async fn waiting_for(member: &Member) -> Option<String> {
    match fetch::get(member.admin(), "/ready", "*/*").await {
        Ok(page) if page.status.is_success() => {}
        Ok(page) => {
            let why = page
                .headers
                .get("l5d-proxy-error")
                .and_then(|why| why.to_str().ok());
            return Some(why.map_or_else(|| page.body.trim().to_owned(), str::to_owned));
        }
        Err(failure) => return Some(failure.to_string()),
    }
    for port in member.ports() {
        let address = SocketAddr::from((member.at.application, port));
        if let Err(error) = tokio::net::TcpStream::connect(address).await {
            return Some(format!(
                "the application does not listen on {address}: {error}"
            ));
        }
    }
    None
}

/// The mesh that runs with a state directory, if one does.
pub(crate) fn running(state: &Path) -> Option<Running> {
    let text = fs::read_to_string(state.join("run.json")).ok()?;
    let running: Running = serde_json::from_str(&text).ok()?;
    // Left behind by a run that was killed.
    Path::new("/proc")
        .join(running.pid.to_string())
        .exists()
        .then_some(running)
}
