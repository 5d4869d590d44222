//! One workload as the harness sets it up: a place on the network, an application, and a proxy in front of it.

use crate::{
    Failure,
    mesh::{Mesh, WORKLOAD},
    peers::{Kind, Subject},
    process::{Process, find, run},
};
use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// User of every proxy: the one that the redirect lets through.
pub(crate) const PROXY_UID: u32 = 2102;
/// How long anything may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How clients reach a workload's proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// A network namespace for each workload, whose iptables redirect traffic to the proxy. Needs root.
    Redirected,
    /// Loopback only: the proxy listens where clients connect. Needs nothing, and no other mesh proxy can do it.
    Explicit,
}

/// Where workloads are put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) mode: Mode,
    /// Every proxy runs on the first CPU alone; the harness, and with it all else that it starts, on the others.
    pub(crate) pinned: bool,
}

/// A workload's addresses.
#[derive(Debug)]
pub(crate) struct Pod {
    namespace: Option<String>,
    pinned: bool,
    /// Where clients connect to.
    pub(crate) address: SocketAddr,
    /// Where the proxy listens for them; the same in explicit mode.
    pub(crate) listen: SocketAddr,
    /// The application, as the proxy reaches it.
    pub(crate) origin: SocketAddr,
    /// The application's own address to listen on.
    origin_listen: SocketAddr,
    /// Inbound listener of a mesh proxy: of redirected traffic, or unused.
    pub(crate) mesh_listen: SocketAddr,
    /// Outbound listener of a mesh proxy, unused.
    pub(crate) outbound: SocketAddr,
    /// Admin server of a mesh proxy.
    pub(crate) admin: SocketAddr,
    /// Its control plane.
    pub(crate) control: SocketAddr,
}

/// A running workload.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) subject: Subject,
    pub(crate) pod: Pod,
    pub(crate) proxy: Process,
    folder: PathBuf,
    /// Held so that they live as long as the proxy.
    _origin: Process,
    _control: Option<Process>,
    /// From the process's start until it was ready; one for each start.
    pub(crate) startups: Vec<Duration>,
}

impl Pod {
    /// The `number`th workload.
    fn new(place: Place, number: u8) -> Result<Self, Failure> {
        let pod = match place.mode {
            Mode::Redirected => Self::namespace(number)?,
            Mode::Explicit => Self::explicit()?,
        };
        Ok(Self {
            pinned: place.pinned,
            ..pod
        })
    }

    fn explicit() -> Result<Self, Failure> {
        // All are held until all are known, so that no port is given twice.
        let mut held = Vec::new();
        let mut free = || -> Result<SocketAddr, Failure> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = listener.local_addr()?;
            held.push(listener);
            Ok(address)
        };
        let (address, origin) = (free()?, free()?);
        Ok(Self {
            namespace: None,
            pinned: false,
            address,
            listen: address,
            origin,
            origin_listen: origin,
            mesh_listen: free()?,
            outbound: free()?,
            admin: free()?,
            control: free()?,
        })
    }

    /// A namespace with one link to ours, and the rules that the mesh's init container installs (control-plane spec
    /// §7), for the inbound side.
    fn namespace(number: u8) -> Result<Self, Failure> {
        const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let name = format!("pod{number}");
        let ours = format!("10.83.{number}.1/24");
        let theirs = Ipv4Addr::new(10, 83, number, 2);
        let link = format!("veth{number}");
        let within = ["ip", "netns", "exec", &name];
        let outside = |command: &str| run(&command.split(' ').collect::<Vec<_>>());
        let inside =
            |command: &str| run(&[&within[..], &command.split(' ').collect::<Vec<_>>()].concat());
        outside(&format!("ip netns add {name}"))?;
        outside(&format!(
            "ip link add {link} type veth peer name eth0 netns {name}"
        ))?;
        outside(&format!("ip addr add {ours} dev {link}"))?;
        outside(&format!("ip link set {link} up"))?;
        inside("ip link set lo up")?;
        inside(&format!("ip addr add {theirs}/24 dev eth0"))?;
        inside("ip link set eth0 up")?;
        inside("iptables -t nat -N PROXY_INIT_REDIRECT")?;
        inside(
            "iptables -t nat -A PROXY_INIT_REDIRECT -p tcp --match multiport --dports 4190,4191 -j RETURN",
        )?;
        inside("iptables -t nat -A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-port 4143")?;
        inside("iptables -t nat -A PREROUTING -j PROXY_INIT_REDIRECT")?;
        inside("iptables -t nat -N PROXY_INIT_OUTPUT")?;
        inside(&format!(
            "iptables -t nat -A PROXY_INIT_OUTPUT -m owner --uid-owner {PROXY_UID} -j RETURN"
        ))?;
        inside("iptables -t nat -A PROXY_INIT_OUTPUT -o lo -j RETURN")?;
        inside("iptables -t nat -A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-port 4140")?;
        inside("iptables -t nat -A OUTPUT -j PROXY_INIT_OUTPUT")?;
        Ok(Self {
            namespace: Some(name),
            pinned: false,
            address: SocketAddr::new(theirs.into(), 8080),
            listen: SocketAddr::new(ANY, 4143),
            origin: SocketAddr::new(HERE, 8080),
            origin_listen: SocketAddr::new(ANY, 8080),
            mesh_listen: SocketAddr::new(ANY, 4143),
            outbound: SocketAddr::new(HERE, 4140),
            admin: SocketAddr::new(theirs.into(), 4191),
            control: SocketAddr::new(HERE, 8086),
        })
    }

    /// Address the admin server is to listen on.
    pub(crate) fn admin_listen(&self) -> SocketAddr {
        match self.namespace {
            Some(_) => SocketAddr::new(self.mesh_listen.ip(), self.admin.port()),
            None => self.admin,
        }
    }

    /// Whether traffic is redirected to the proxy.
    pub(crate) fn redirected(&self) -> bool {
        self.namespace.is_some()
    }

    /// A command within the workload, that dies with the harness; `as_proxy`: as the user that is not redirected.
    fn command(&self, program: &OsStr, as_proxy: bool) -> Command {
        let mut words: Vec<&OsStr> = Vec::new();
        if let Some(name) = &self.namespace {
            words.extend(["ip", "netns", "exec", name].map(OsStr::new));
        }
        let uid = PROXY_UID.to_string();
        if find("setpriv").is_some() {
            words.extend(["setpriv", "--pdeathsig", "KILL"].map(OsStr::new));
            if as_proxy && self.namespace.is_some() {
                let user = ["--reuid", &uid, "--regid", &uid, "--clear-groups"];
                words.extend(user.map(OsStr::new));
            }
        }
        if as_proxy && self.pinned {
            words.extend(["taskset", "-c", "0"].map(OsStr::new));
        }
        words.push(program);
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or(program));
        command.args(words);
        command
    }
}

impl Sidecar {
    /// Sets up the `number`th workload and waits until it serves.
    pub(crate) fn start(
        subject: Subject,
        place: Place,
        number: u8,
        mesh: &Mesh,
    ) -> Result<Self, Failure> {
        let pod = Pod::new(place, number)?;
        let folder = mesh.file(&format!("pod{number}"));
        fs::create_dir(&folder)?;
        Mesh::write_identity(&folder, WORKLOAD)?;
        if pod.redirected() {
            chown_all(&folder)?;
        }
        let bench = std::env::current_exe()?;
        let mut command = pod.command(bench.as_os_str(), false);
        command.args(["origin", "--listen", &pod.origin_listen.to_string()]);
        let origin = serving(command, &folder.join("origin.log"))?;
        let control = match subject.kind {
            Kind::Linkerd(_) => {
                let mut command = pod.command(bench.as_os_str(), false);
                command.args(["control", "--listen", &pod.control.to_string()]);
                if let Some(identities) = subject.identities {
                    command.args(["--identities", &identities.to_string()]);
                }
                command.args(["--admin-port", &pod.admin.port().to_string()]);
                command.arg("--mesh").arg(mesh.folder());
                Some(serving(command, &folder.join("control.log"))?)
            }
            _ => None,
        };
        let (proxy, startup) = start_proxy(&subject, &pod, &folder, mesh)?;
        Ok(Self {
            subject,
            pod,
            proxy,
            folder,
            _origin: origin,
            _control: control,
            startups: vec![startup],
        })
    }

    /// Replaces the proxy's process by a new one.
    pub(crate) fn restart(&mut self, mesh: &Mesh) -> Result<(), Failure> {
        // The old one must be gone before the new one can listen; starting a child that ends at once in its place
        // makes the drop happen here.
        let nothing = Process::start(Command::new("true"), &self.folder.join("nothing.log"))?;
        drop(std::mem::replace(&mut self.proxy, nothing));
        let (proxy, startup) = start_proxy(&self.subject, &self.pod, &self.folder, mesh)?;
        self.proxy = proxy;
        self.startups.push(startup);
        Ok(())
    }
}

fn start_proxy(
    subject: &Subject,
    pod: &Pod,
    folder: &Path,
    mesh: &Mesh,
) -> Result<(Process, Duration), Failure> {
    let invocation = subject.kind.invocation(pod, folder, mesh)?;
    let mut command = pod.command(invocation.program.as_os_str(), true);
    command
        .args(invocation.arguments)
        .envs(invocation.environment);
    let started = Instant::now();
    let mut proxy = Process::start_logged(command, &folder.join("proxy.log"))?;
    let (address, path) = match subject.kind {
        Kind::Linkerd(_) => (pod.admin, "/ready"),
        _ => (pod.address, "/1"),
    };
    while !answers(address, path) {
        proxy
            .check()
            .map_err(|failure| format!("{}: {failure}", subject.name))?;
        if started.elapsed() > START_LIMIT {
            let words = proxy.last_words();
            return Err(format!(
                "{} is not ready after {START_LIMIT:?}: {words}",
                subject.name
            )
            .into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let startup = started.elapsed();
    if subject.identities.is_none() && !answers(pod.address, "/1") {
        let words = proxy.last_words();
        return Err(format!("{} is ready but does not answer: {words}", subject.name).into());
    }
    Ok((proxy, startup))
}

/// Starts one of our own servers, which says when it listens.
fn serving(command: Command, log: &Path) -> Result<Process, Failure> {
    let mut process = Process::start(command, log)?;
    process.line()?;
    Ok(process)
}

/// Whether `GET path` is answered with 200.
fn answers(address: SocketAddr, path: &str) -> bool {
    const LIMIT: Duration = Duration::from_secs(2);
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status.starts_with(b"HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

/// Gives a folder and its files to the proxy's user.
fn chown_all(folder: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(folder)? {
        chown(entry?.path(), Some(PROXY_UID), Some(PROXY_UID))?;
    }
    chown(folder, Some(PROXY_UID), Some(PROXY_UID))?;
    Ok(())
}
