//! The processes of a pair: a sidecar for the client, one for the server.

use super::{
    Arguments,
    mesh::SERVICES,
    network::{Network, Users},
};
use crate::{
    Failure,
    mesh::Mesh,
    peers::INJECTED,
    process::{Process, find},
    sidecar::Mode,
};
use linkerd_controller::{
    Config,
    authority::Authority,
    token::{self, Subject},
};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::chown,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// First port of the listeners of a client's sidecar without redirection: one for each service.
const FIRST_LISTENER: u16 = 9000;

/// A client's and a server's proxy.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) client: Process,
    pub(super) server: Process,
    number: u8,
    kind: Kind,
    network: Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sidecars(Mode),
    /// Whether it carries requests to the application as HTTP/1.1.
    Yardstick {
        to_http1: bool,
    },
}

/// What sidecars need beside themselves.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) folder: &'a Path,
    pub(super) config: &'a Config,
    pub(super) mode: Mode,
    pub(super) network: Network,
}

impl Pair {
    /// Two sidecars, by the paths of their programs.
    pub(super) fn start(
        around: &Around<'_>,
        name: &str,
        number: u8,
        client: &Path,
        server: &Path,
    ) -> Result<Self, Failure> {
        if around.mode == Mode::Redirected {
            around.network.redirect(number)?;
        }
        let users = Users::of(number);
        Ok(Self {
            name: name.to_owned(),
            client: sidecar(around, client, "client", (number, 4), users.client)?,
            server: sidecar(around, server, "server", (number, 2), users.server)?,
            number,
            kind: Kind::Sidecars(around.mode),
            network: around.network,
        })
    }

    /// Two bare proxies with the same TLS, and nothing else.
    pub(super) fn yardstick(
        arguments: &Arguments,
        around: &Around<'_>,
        number: u8,
        to_http1: bool,
    ) -> Result<Self, Failure> {
        let (folder, network) = (around.folder, around.network);
        let folder = folder.join(format!("{number}-yardstick"));
        fs::create_dir(&folder)?;
        let mesh = Mesh::create(&folder)?;
        let program = arguments.proxy.with_file_name("yardstick");
        let (accepts, calls) = (network.at(number, 2, 4143), network.at(number, 4, 4140));
        let mut server = Command::new(&program);
        server.args(["--listen", &accepts.to_string()]);
        server.args(["--origin", &network.at(0, 3, 8080).to_string()]);
        server.arg("--tls-cert").arg(mesh.file("server.pem"));
        server.arg("--tls-key").arg(mesh.file("server.key"));
        server.arg("--tls-client-ca").arg(mesh.file("ca.pem"));
        if to_http1 {
            server.arg("--to-http1");
        }
        let mut client = Command::new(&program);
        client.args(["--listen", &calls.to_string()]);
        client.args(["--origin", &accepts.to_string()]);
        client.arg("--origin-tls").arg(mesh.folder());
        client.args(["--origin-name", crate::mesh::WORKLOAD]);
        let server = Process::start_logged(server, &folder.join("server.log"))?;
        let client = Process::start_logged(client, &folder.join("client.log"))?;
        within("the yardstick", || answers(calls, "/1").then_some(()))
            .map_err(|error| format!("{error}: {}", client.last_words()))?;
        Ok(Self {
            name: "yardstick".to_owned(),
            client,
            server,
            number,
            kind: Kind::Yardstick { to_http1 },
            network,
        })
    }

    /// Absent for sidecars.
    pub(super) fn yardstick_to_http1(&self) -> Option<bool> {
        match self.kind {
            Kind::Yardstick { to_http1 } => Some(to_http1),
            Kind::Sidecars(_) => None,
        }
    }

    /// Whether any address may be called, for the redirect finds the sidecar.
    pub(super) fn is_redirected(&self) -> bool {
        self.kind == Kind::Sidecars(Mode::Redirected)
    }

    /// The ends of both logs.
    pub(super) fn last_words(&self) -> String {
        let (client, server) = (self.client.last_words(), self.server.last_words());
        format!("client: {client}\nserver: {server}")
    }

    /// Where the load connects to for a service.
    pub(super) fn address(&self, service: u8) -> SocketAddr {
        match self.kind {
            Kind::Sidecars(Mode::Redirected) => {
                SocketAddr::new(self.network.service_ip(service).into(), 80)
            }
            Kind::Sidecars(Mode::Explicit) => {
                self.network.at(0, 4, FIRST_LISTENER + u16::from(service))
            }
            Kind::Yardstick { .. } => self.network.at(self.number, 4, 4140),
        }
    }

    /// A command of this harness, as the user whose traffic goes to this pair.
    pub(super) fn load(&self) -> Result<Command, Failure> {
        let bench = std::env::current_exe()?;
        Ok(match self.kind {
            Kind::Sidecars(Mode::Redirected) => as_user(&bench, Users::of(self.number).load),
            _ => Command::new(bench),
        })
    }
}

/// A command that ends with the harness, as a user of its own.
fn as_user(program: &Path, user: u32) -> Command {
    let user = user.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--reuid", &user, "--regid", &user]);
    command.arg("--clear-groups").arg(program);
    command
}

/// One sidecar, ready.
fn sidecar(
    around: &Around<'_>,
    program: &Path,
    name: &str,
    (pair, host): (u8, u8),
    user: u32,
) -> Result<Process, Failure> {
    let is_redirected = around.mode == Mode::Redirected;
    let folder = around.folder.join(format!("{pair}-{name}"));
    fs::create_dir(&folder)?;
    let identity = format!("{name}.bench.serviceaccount.identity.linkerd.cluster.local");
    Mesh::write_identity(&folder, &identity)?;
    let authority = within("the authority", || {
        Authority::open(&around.config.state_dir).ok()
    })?;
    let subject = Subject::ServiceAccount {
        namespace: "bench".into(),
        name: name.into(),
    };
    let token = token::issue(&authority, &subject, Duration::from_secs(3600))?;
    fs::write(folder.join("token"), token)?;
    let mut command = if is_redirected {
        for entry in fs::read_dir(&folder)? {
            chown(entry?.path(), Some(user), Some(user))?;
        }
        chown(&folder, Some(user), Some(user))?;
        as_user(&program.canonicalize()?, user)
    } else {
        Command::new(program)
    };
    command.env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let own = environment(around, &folder, &authority, name, (pair, host));
    let injected = INJECTED.map(|(name, value)| (name, value.to_owned()));
    for (name, value) in injected.into_iter().chain(own) {
        command.env(format!("LINKERD2_PROXY_{name}"), value);
    }
    let mut process = Process::start_logged(command, &folder.join("log"))?;
    let admin = around.network.at(pair, host, 4191);
    within("a sidecar", || answers(admin, "/ready").then_some(()))
        .map_err(|error| format!("{}: {error}: {}", program.display(), process.last_words()))?;
    process.check()?;
    Ok(process)
}

/// What is a sidecar's own in its environment.
fn environment(
    around: &Around<'_>,
    folder: &Path,
    authority: &Authority,
    name: &str,
    (pair, host): (u8, u8),
) -> Vec<(&'static str, String)> {
    const NETWORKS: &str = "127.0.0.0/8,10.0.0.0/8";
    let network = around.network;
    let identity = format!("{name}.bench.serviceaccount.identity.linkerd.cluster.local");
    let workload = format!(r#"{{"ns":"bench","external_workload":"{name}"}}"#);
    let outbound = network.at(pair, host, 4140).to_string();
    let mut own = vec![
        ("IDENTITY_DIR", folder.display().to_string()),
        (
            "IDENTITY_TOKEN_FILE",
            folder.join("token").display().to_string(),
        ),
        (
            "IDENTITY_TRUST_ANCHORS",
            authority.trust_anchors().to_owned(),
        ),
        ("IDENTITY_LOCAL_NAME", identity),
        ("IDENTITY_SVC_ADDR", around.config.identity_addr.to_string()),
        ("POLICY_SVC_ADDR", around.config.policy_addr.to_string()),
        ("POLICY_WORKLOAD", workload.clone()),
        ("POLICY_CLUSTER_NETWORKS", NETWORKS.to_owned()),
        (
            "DESTINATION_SVC_ADDR",
            around.config.destination_addr.to_string(),
        ),
        ("DESTINATION_CONTEXT", workload),
        ("DESTINATION_PROFILE_NETWORKS", NETWORKS.to_owned()),
        // Long enough that what is measured is not evicted meanwhile.
        ("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "1h".to_owned()),
        ("CONTROL_STREAM_INITIAL_TIMEOUT", "3s".to_owned()),
        ("INBOUND_IPS", network.ip(0, host).to_string()),
        ("INBOUND_PORTS", "8081,8082".to_owned()),
        (
            "INBOUND_LISTEN_ADDR",
            network.at(pair, host, 4143).to_string(),
        ),
        ("OUTBOUND_LISTEN_ADDR", outbound.clone()),
        ("OUTBOUND_LISTEN_ADDRS", outbound),
        (
            "ADMIN_LISTEN_ADDR",
            network.at(pair, host, 4191).to_string(),
        ),
    ];
    if around.mode == Mode::Explicit {
        if name == "server" {
            let ports = [(8081, 8080), (8082, 8083)];
            let listeners = ports.map(|(port, origin)| {
                format!("{}={}", network.at(0, 2, port), network.at(0, 3, origin))
            });
            own.push(("INBOUND_LISTENERS", listeners.join(",")));
        } else {
            let listeners = (FIRST_LISTENER + 1..).zip(SERVICES).map(|(port, service)| {
                format!(
                    "{}={service}.bench.svc.cluster.local:80",
                    network.at(0, 4, port)
                )
            });
            own.push((
                "OUTBOUND_LISTENERS",
                listeners.collect::<Vec<_>>().join(","),
            ));
        }
    }
    own
}

/// The application, on every address of this host: what the thousand endpoints are; and, where connections are
/// redirected, at the server's own ports.
pub(super) fn origins(around: &Around<'_>) -> Result<Vec<Process>, Failure> {
    let any = Ipv4Addr::UNSPECIFIED;
    let mut places = vec![(any, 8080, 8083)];
    if around.mode == Mode::Redirected {
        places.push((around.network.ip(0, 2), 8081, 8082));
    }
    let start = |(ip, http, raw): (Ipv4Addr, u16, u16)| {
        let bench = std::env::current_exe()?;
        let mut command = if find("setpriv").is_some() {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]).arg(bench);
            command
        } else {
            Command::new(bench)
        };
        command.args(["origin", "--listen", &format!("{ip}:{http}")]);
        command.args(["--raw", &format!("{ip}:{raw}")]);
        let log = around.folder.join(format!("origin-{http}.log"));
        let mut process = Process::start(command, &log)?;
        process.line()?;
        Ok(process)
    };
    places.into_iter().map(start).collect()
}

/// Whether `GET path` is answered with 200.
fn answers(address: SocketAddr, path: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
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
