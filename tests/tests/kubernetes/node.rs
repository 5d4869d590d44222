//! A node: Pods of an API server, run as a kubelet runs them. Each has a network namespace with its addresses, its init
//! containers are run there in order, with the arguments and the environment that they were given, its sidecar goes on.

use linkerd_tests::{
    eventually,
    namespaces::{inside, run},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use tempfile::TempDir;

/// Where the control plane is, seen from Pods.
pub(crate) const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
/// Its names, which a cluster's DNS would know.
const NAMES: [&str; 3] = [
    "linkerd-dst-headless",
    "linkerd-policy",
    "linkerd-identity-headless",
];

/// Networks that this process has made.
static NETWORKS: AtomicUsize = AtomicUsize::new(0);

/// Which addresses Pods have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    V4,
    Both,
}

/// The network between Pods, and to the control plane.
pub(crate) struct Network {
    id: String,
    families: Families,
    /// A plugin sets the kernel's rules of each namespace that is made.
    pub(crate) has_plugin: bool,
    pods: u8,
}

impl Drop for Network {
    fn drop(&mut self) {
        for number in 0..=self.pods {
            let name = self.namespace(number);
            let _ = run(&format!("ip netns delete {name}"));
            let _ = fs::remove_dir_all(format!("/etc/netns/{name}"));
        }
    }
}

impl Network {
    /// `None`, said aloud, where there can be none.
    pub(crate) fn make(families: Families) -> Option<Self> {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            id: format!("l5dk{}x{number}", std::process::id()),
            families,
            has_plugin: false,
            pods: 0,
        };
        if let Err(why) = network.set_up() {
            linkerd_tests::skipped(&format!("network namespaces: {why}"));
            return None;
        }
        Some(network)
    }

    /// The namespace of a Pod; 0: of the network, where nothing is meshed.
    pub(crate) fn namespace(&self, number: u8) -> String {
        format!("{}n{number}", self.id)
    }

    fn set_up(&self) -> Result<(), String> {
        let name = self.namespace(0);
        run(&format!("ip netns add {name}"))?;
        run(&format!("ip -n {name} link set lo up"))?;
        run(&format!("ip -n {name} address add {CONTROL}/32 dev lo"))?;
        for key in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
            run(&format!("ip netns exec {name} sysctl -q -w net.{key}=1"))?;
        }
        Ok(())
    }

    /// A namespace for one more Pod: its number and its addresses.
    fn join(&mut self) -> (u8, Vec<IpAddr>) {
        self.pods += 1;
        let (number, network) = (self.pods, self.namespace(0));
        let name = self.namespace(number);
        let (own, gateway) = ([10, 42, number, 2].into(), Ipv4Addr::new(10, 42, number, 1));
        let device = format!("eth{number}");
        for line in [
            format!("ip netns add {name}"),
            format!("ip -n {name} link set lo up"),
            format!("ip -n {network} link add {device} type veth peer name eth0 netns {name}"),
            format!("ip -n {network} address add {gateway}/24 dev {device}"),
            format!("ip -n {network} link set {device} up"),
            format!("ip -n {name} address add {own}/24 dev eth0"),
            format!("ip -n {name} link set eth0 up"),
            format!("ip -n {name} route add default via {gateway}"),
        ] {
            run(&line).unwrap();
        }
        let mut ips = vec![IpAddr::V4(own)];
        if self.families == Families::Both {
            let address = |host| Ipv6Addr::new(0xfd00, 0x42, number.into(), 0, 0, 0, 0, host);
            let (own, gateway) = (address(2), address(1));
            // They are good at once; nobody else could have them.
            for line in [
                format!("ip -n {network} address add {gateway}/64 dev {device} nodad"),
                format!("ip -n {name} address add {own}/64 dev eth0 nodad"),
                format!("ip -6 -n {name} route add default via {gateway}"),
            ] {
                run(&line).unwrap();
            }
            ips.push(IpAddr::V6(own));
        }
        if self.has_plugin {
            let program = linkerd_tests::binary("linkerd2-proxy-init");
            let program = program.display();
            run(&format!(
                "ip netns exec {name} {program} --ipv6=false --inbound-ports-to-ignore 4190,4191"
            ))
            .unwrap();
        }
        let folder = format!("/etc/netns/{name}");
        fs::create_dir_all(&folder).unwrap();
        // As they are, and as absolute names.
        let names = NAMES.map(|name| {
            let name = format!("{name}.linkerd.svc.cluster.local");
            format!("{CONTROL} {name} {name}.\n")
        });
        let hosts = format!("127.0.0.1 localhost\n{}", names.concat());
        fs::write(format!("{folder}/hosts"), hosts).unwrap();
        (number, ips)
    }

    /// Takes connections to `at`, outside of all Pods, to where this test is.
    pub(crate) fn lead_out(&self, at: SocketAddr, to: SocketAddr) {
        let listener = listen(&self.namespace(0), at);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(to) = tokio::net::TcpStream::connect(to).await {
                        relay(from, to).await;
                    }
                });
            }
        });
    }

    /// Takes connections to `at`, where this test is, to the same address outside of all Pods.
    pub(crate) async fn lead_in(&self, at: SocketAddr) {
        let listener = tokio::net::TcpListener::bind(at).await.unwrap();
        let namespace = self.namespace(0);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let namespace = namespace.clone();
                tokio::spawn(async move {
                    let connect = move || {
                        inside(&namespace, move || TcpStream::connect(at))
                            .join()
                            .unwrap()
                    };
                    if let Ok(Ok(to)) = tokio::task::spawn_blocking(connect).await {
                        to.set_nonblocking(true).unwrap();
                        relay(from, tokio::net::TcpStream::from_std(to).unwrap()).await;
                    }
                });
            }
        });
    }

    /// Takes connections to `at`, outside of all Pods, to whichever of `to` takes them, as a Service of a cluster does.
    pub(crate) fn balance(&self, at: SocketAddr, to: Arc<Mutex<Vec<SocketAddr>>>) {
        let namespace = self.namespace(0);
        let listener = listen(&namespace, at);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let (namespace, to) = (namespace.clone(), to.clone());
                tokio::spawn(async move {
                    let mut to = to.lock().unwrap().clone();
                    // Those who come get another one each.
                    let first = usize::from(from.peer_addr().unwrap().port()) % to.len().max(1);
                    to.rotate_left(first);
                    let connect = move || {
                        let connect = move || to.iter().find_map(|to| TcpStream::connect(to).ok());
                        inside(&namespace, connect).join().unwrap()
                    };
                    if let Ok(Some(to)) = tokio::task::spawn_blocking(connect).await {
                        to.set_nonblocking(true).unwrap();
                        relay(from, tokio::net::TcpStream::from_std(to).unwrap()).await;
                    }
                });
            }
        });
    }

    /// A program outside of all Pods.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(0)])
            .arg(program);
        command
    }

    /// The status of a GET from a Pod, or from outside of all (0).
    pub(crate) async fn get(&self, from: u8, to: SocketAddr) -> Option<u16> {
        Some(self.page(from, to, "/").await?.0)
    }

    /// A GET from a Pod: status and body.
    pub(crate) async fn page(&self, from: u8, to: SocketAddr, path: &str) -> Option<(u16, String)> {
        let (namespace, path) = (self.namespace(from), path.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            inside(&namespace, move || {
                let limit = linkerd_tests::LIMIT;
                let mut stream = TcpStream::connect_timeout(&to, limit).ok()?;
                stream.set_read_timeout(Some(limit)).ok()?;
                let request =
                    format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).ok()?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).ok()?;
                let status = answer.get(9..12)?.parse().ok()?;
                Some((status, answer))
            })
            .join()
            .unwrap()
        });
        asked.await.unwrap()
    }
}

async fn relay(mut one: tokio::net::TcpStream, mut other: tokio::net::TcpStream) {
    let _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
}

/// A listener in a namespace.
pub(crate) fn listen(namespace: &str, address: SocketAddr) -> tokio::net::TcpListener {
    let listener = inside(namespace, move || TcpListener::bind(address).unwrap())
        .join()
        .unwrap();
    listener.set_nonblocking(true).unwrap();
    tokio::net::TcpListener::from_std(listener).unwrap()
}

/// A Pod that runs; ends with the test.
pub(crate) struct Running {
    pub(crate) number: u8,
    pub(crate) ips: Vec<IpAddr>,
    sidecar: Child,
    folder: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.sidecar.kill();
        let _ = self.sidecar.wait();
        if thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            eprintln!(
                "the sidecar of {:?}:\n{}",
                self.ips,
                log.unwrap_or_default()
            );
        }
    }
}

impl Running {
    /// Runs a Pod's init containers; the one that goes on is its sidecar, which is waited for. `token`: its account's,
    /// for the mesh.
    pub(crate) async fn start(network: &mut Network, mut pod: Value, token: &str) -> Self {
        let (number, ips) = network.join();
        pod["status"]["podIP"] = json!(ips[0]);
        pod["status"]["podIPs"] = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let namespace = network.namespace(number);
        let folder = tempfile::tempdir().unwrap();
        let mut sidecar = None;
        for container in pod["spec"]["initContainers"].as_array().unwrap() {
            if container["restartPolicy"] == "Always" {
                let mut command = in_namespace(&namespace);
                mount(folder.path(), token);
                command.args(["setpriv", "--reuid=2102", "--regid=2102", "--clear-groups"]);
                command.arg(linkerd_tests::binary("linkerd-proxy"));
                command.envs(environment(container, &pod, folder.path()));
                let log = File::create(folder.path().join("log")).unwrap();
                let command = command
                    .stdin(Stdio::null())
                    .stdout(log.try_clone().unwrap())
                    .stderr(log);
                sidecar = Some(command.spawn().unwrap());
            } else {
                run_init(&namespace, container).unwrap();
            }
        }
        let running = Self {
            number,
            ips,
            sidecar: sidecar.unwrap(),
            folder,
        };
        eventually("the sidecar's startup probe", async || {
            let (status, _) = running.admin(network, "/ready").await?;
            (status == 200).then_some(())
        })
        .await;
        running
    }

    /// What the first init container says of a Pod that does not start.
    pub(crate) fn fails(network: &mut Network, pod: &Value) -> String {
        let (number, _) = network.join();
        let first = &pod["spec"]["initContainers"][0];
        run_init(&network.namespace(number), first).unwrap_err()
    }

    /// A page of the sidecar's admin server, as probes see it.
    pub(crate) async fn admin(&self, network: &Network, path: &str) -> Option<(u16, String)> {
        let admin = SocketAddr::new(self.ips[0], 4191);
        network.page(0, admin, path).await
    }

    /// What its sidecar logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

fn in_namespace(namespace: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]);
    command
}

/// Runs an init container to its end. An error is its program with what it said.
fn run_init(namespace: &str, container: &Value) -> Result<(), String> {
    let program = container["command"][0].as_str().unwrap();
    let program = Path::new(program).file_name().unwrap().to_str().unwrap();
    let words = container["args"].as_array().unwrap().iter();
    let output = in_namespace(namespace)
        .arg(linkerd_tests::binary(program))
        .args(words.map(|word| word.as_str().unwrap()))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    output
        .status
        .success()
        .then_some(())
        .ok_or_else(|| format!("{program}: {errors}"))
}

/// Volumes: a token, and memory that the sidecar may write.
fn mount(folder: &Path, token: &str) {
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    for name in ["end-entity", "tokens"] {
        fs::create_dir(folder.join(name)).unwrap();
        fs::set_permissions(folder.join(name), Permissions::from_mode(0o777)).unwrap();
    }
    let file = folder.join("tokens/linkerd-identity-token");
    fs::write(&file, token).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
}

/// The variables of a container: fields of its Pod, those that were before put in, mounted folders as they are here.
fn environment(container: &Value, pod: &Value, folder: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for variable in container["env"].as_array().unwrap() {
        let mut value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("status.podIPs") => {
                let ips = pod["status"]["podIPs"].as_array().unwrap().iter();
                let ips: Vec<_> = ips.map(|ip| ip["ip"].as_str().unwrap()).collect();
                ips.join(",")
            }
            Some(path) => {
                let field = pod.pointer(&format!("/{}", path.replace('.', "/")));
                field.and_then(Value::as_str).unwrap().to_owned()
            }
            None => variable["value"].as_str().unwrap_or_default().to_owned(),
        };
        for (name, known) in &all {
            value = value.replace(&format!("$({name})"), known);
        }
        for (path, name) in [
            ("/var/run/linkerd/identity/end-entity", "end-entity"),
            ("/var/run/secrets/tokens", "tokens"),
        ] {
            value = value.replace(path, &folder.join(name).display().to_string());
        }
        all.insert(variable["name"].as_str().unwrap().to_owned(), value);
    }
    all
}
