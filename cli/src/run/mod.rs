//! `linkerd run DIR`: a whole mesh as processes of this host. No root, no iptables, nothing installed.
//!
//! ```text
//! manifests -> control plane -> a sidecar and an application for each workload -> ready -> traffic -> table -> stop
//! ```
//!
//! Everything that is kept is in the state directory: the CA, tokens, identities, logs, and `run.json`, which says
//! `linkerd check` where things are.

mod child;
mod observe;
mod traffic;

use crate::{
    fetch, identity,
    mesh::{self, Kind, Member, Mesh},
    outcome::{Failure, Outcome, Output, is_read, json, plain, show, table},
};
use child::Children;
pub(crate) use child::end_with_parent;
use linkerd_controller::authority::Authority;
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
    /// When the process began, in clock ticks since the host did: numbers of processes are used again.
    pub(crate) since: u64,
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
        traffic::check(&mesh, &members)?;
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
        let controller = self.start_controller().await?;
        for member in self.members.clone() {
            self.start_member(&member, controller)?;
        }
        self.ready(started).await?;
        self.write_running(controller)?;
        let introduction = self.introduction(controller);
        if flags.once {
            self.once(&introduction, flags.output).await
        } else {
            self.live(&introduction, flags.output).await
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
                let mut words = vec!["--name".to_owned(), member.name().to_owned()];
                if let Some(fails) = &member.program.fails {
                    words.extend(["--fails".to_owned(), fails.to_string()]);
                }
                (self.program.clone(), [own("http"), words, listen].concat())
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
        let file = self.state.join(member.name()).join("token");
        identity::write_token(&self.authority, &member.tls.subject, TOKEN, &file)
    }

    /// The environment of a workload's sidecar.
    fn sidecar(
        &self,
        member: &Member,
        controller: Controller,
        home: &Path,
    ) -> Vec<(String, String)> {
        let (ns, at, tls) = (&self.mesh.metadata.namespace, member.at, &member.tls);
        let inbound: Vec<_> = member
            .ports()
            .map(|port| format!("{}:{port}={}:{port}", at.workload, at.application))
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
        [
            ("INBOUND_LISTEN_ADDR", format!("{}:4143", at.workload)),
            // Its own addresses; it speaks from the first, so that others know it from the rest of the host.
            ("INBOUND_IPS", format!("{},{}", at.workload, at.application)),
            ("INBOUND_LISTENERS", inbound.join(",")),
            ("ADMIN_LISTEN_ADDR", member.admin().to_string()),
            ("OUTBOUND_LISTENERS", outbound.join(",")),
            // Until the control plane has said what holds, nothing does.
            ("INBOUND_DEFAULT_POLICY", "deny".into()),
            ("READY_REQUIRES_POLICY", "true".into()),
            ("POLICY_SVC_ADDR", controller.policy.to_string()),
            ("POLICY_WORKLOAD", member.token.clone()),
            ("DESTINATION_SVC_ADDR", controller.destination.to_string()),
            ("DESTINATION_CONTEXT", member.token.clone()),
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
                let missing = observe::waiting_for(&member).await;
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
        let pid = std::process::id();
        let running = Running {
            pid,
            since: began(pid).unwrap_or_default(),
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

    /// Where to look, for people.
    fn introduction(&self, controller: Controller) -> String {
        let title = self.mesh.steps.get(self.step.saturating_sub(1));
        let title = title.map_or("", |step| step.title.as_str());
        let sidecar = self.members.first().map_or(controller.admin, Member::admin);
        format!(
            "{}, step {}: {title}\n{} workloads, each with a sidecar\n\n  \
             why was it denied    curl http://{sidecar}/denials\n  \
             what is enforced     curl http://{sidecar}/policy\n  \
             what was retried     curl http://{sidecar}/retries\n  \
             where it goes        curl http://{sidecar}/outbound\n  \
             what is wrong        curl http://{}/status\n  \
             logs                 {}\n\n",
            self.mesh.metadata.name,
            self.step,
            self.members.len(),
            controller.admin,
            self.state.join("logs").display(),
        )
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

    async fn once(&mut self, introduction: &str, output: Output) -> Result<Outcome, Failure> {
        let rows = self.rows().await?;
        let sidecars = observe::sidecars(&self.members).await;
        let wrong: Vec<_> = rows.iter().filter(|row| !row.is_as_expected()).collect();
        let name = &self.mesh.metadata.name;
        if output == Output::Json {
            json(&value!({
                "mesh": name,
                "step": self.step,
                "as_expected": wrong.is_empty(),
                "traffic": rows,
                "sidecars": sidecars,
            }))?;
            return Ok(Outcome::when(wrong.is_empty()));
        }
        let mut page = format!("{introduction}{}", tables(&rows, &sidecars));
        for row in &wrong {
            let why = row.why.as_deref().map(plain).unwrap_or_default();
            page.push_str(&format!(
                "WRONG: {} -> {} {}: {why}\n",
                row.from, row.to, row.request
            ));
        }
        let good = rows.len() - wrong.len();
        page.push_str(&format!(
            "{good} of {} rows as {name} expects\n",
            rows.len()
        ));
        show(&page)?;
        Ok(Outcome::when(wrong.is_empty()))
    }

    /// Traffic for ever, and a table of it. Ends when nobody reads it, with a failure, or by being dropped.
    async fn live(&mut self, introduction: &str, output: Output) -> Result<Outcome, Failure> {
        // Clears the screen and goes to its first line.
        let clear = if std::io::stdout().is_terminal() {
            "\x1b[2J\x1b[H"
        } else {
            ""
        };
        let mut renewed = Instant::now();
        loop {
            let rows = self.rows().await?;
            let sidecars = observe::sidecars(&self.members).await;
            let read = if output == Output::Json {
                is_read(&format!(
                    "{}\n",
                    value!({ "traffic": rows, "sidecars": sidecars })
                ))?
            } else {
                let edit = self.directories.last().unwrap_or(&self.state).display();
                let tables = tables(&rows, &sidecars);
                is_read(&format!(
                    "{clear}{introduction}{tables}Edit a manifest in {edit} and watch. Ctrl-C ends it.\n"
                ))?
            };
            if !read {
                return Ok(Outcome::Good);
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
}

/// What came of the traffic, and what the sidecars counted.
fn tables(rows: &[Row], sidecars: &[observe::Sidecar]) -> String {
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    let head = [
        "", "FROM", "TO", "REQUEST", "VERDICT", "EXPECTED", "ANSWERS",
    ];
    format!(
        "{}\n{}\n",
        table(&head, &cells),
        observe::table_of(sidecars)
    )
}

/// The mesh that runs with a state directory, if one does.
pub(crate) fn running(state: &Path) -> Option<Running> {
    let text = fs::read_to_string(state.join("run.json")).ok()?;
    let running: Running = serde_json::from_str(&text).ok()?;
    // One that was killed leaves its file behind.
    (began(running.pid)? == running.since).then_some(running)
}

/// When a process began, if there is one of this number. Source: proc_pid_stat(5), `starttime`.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may have anything in it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}
