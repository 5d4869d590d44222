//! A real mesh in one process and its children: our controller fed by a directory, the real `linkerd-proxy` binary, an
//! origin and clients with certificates of the mesh. All of it on loopback addresses of its own, so tests run side by
//! side. Everything started is stopped by pid when a test ends.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use linkerd_controller::{
    Config, Flags,
    authority::Authority,
    token::{self, Subject},
};
use linkerd_tls::{Id, KeyMaterial, LocalIdentity, TrustAnchors};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::oneshot,
};

pub(crate) use linkerd_tests::{LIMIT, eventually, get, one_http1, one_http2, within};

/// The identity of a service account of the namespace `shop`.
pub(crate) fn identity(account: &str) -> String {
    format!("{account}.shop.serviceaccount.identity.linkerd.cluster.local")
}

/// A loopback network of this test's own, 127.x.y.0/24, and what keeps it from tests of other processes.
fn network() -> ([u8; 3], UdpSocket) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = u8::try_from(std::process::id() % 200).unwrap() + 20;
    loop {
        let network = [127, process, NEXT.fetch_add(1, Ordering::Relaxed)];
        let [a, b, c] = network;
        if let Ok(claim) = UdpSocket::bind((Ipv4Addr::new(a, b, c, 254), 1024)) {
            return (network, claim);
        }
    }
}

/// The control plane, the workload `web` behind its sidecar, and where its application belongs.
pub(crate) struct Mesh {
    folder: tempfile::TempDir,
    network: [u8; 3],
    _claim: UdpSocket,
    pub(crate) config: Config,
    controller: Option<(oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
    proxy: Option<Child>,
}

impl Mesh {
    /// Starts everything with these manifests beside the workload, and waits until the sidecar is ready.
    pub(crate) async fn start(policy: &str) -> Self {
        Self::start_with(policy, &[]).await
    }

    /// As [`Self::start`], with more variables for the sidecar.
    pub(crate) async fn start_with(policy: &str, variables: &[(&str, &str)]) -> Self {
        let mut mesh = Self::without_proxy(policy);
        mesh.start_controller();
        mesh.spawn_proxy(variables);
        mesh.ready().await;
        mesh
    }

    /// Folders and addresses, and nothing running.
    pub(crate) fn without_proxy(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("manifests")).unwrap();
        let flags: Flags = clap::Parser::parse_from([
            Path::new("controller"),
            Path::new("--manifests"),
            &folder.path().join("manifests"),
            Path::new("--state-dir"),
            &folder.path().join("state"),
        ]);
        // Ports on an address of this test's own: free ones that are asked for and let go could be given out twice.
        let (network, claim) = network();
        let [a, b, c] = network;
        let own = |port| SocketAddr::new(Ipv4Addr::new(a, b, c, 1).into(), port);
        let config = Config {
            policy_addr: own(8090),
            destination_addr: own(8086),
            identity_addr: own(8080),
            admin_addr: own(9990),
            certify_per_minute: 1000,
            ..flags.into()
        };
        let mesh = Self {
            folder,
            network,
            _claim: claim,
            config,
            controller: None,
            proxy: None,
        };
        let ip = mesh.ip(2);
        let id = identity("web");
        mesh.write(
            "workload.yaml",
            &format!(
                "apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {{name: web, namespace: shop, labels: {{app: web}}}}
spec:
  meshTLS: {{identity: {id}, serverName: {id}}}
  ports: [{{port: 8080, name: http}}]
  workloadIPs: [{{ip: {ip}}}]
status: {{conditions: [{{type: Ready, status: 'True'}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}
"
            ),
        );
        mesh.write("policy.yaml", policy);
        mesh
    }

    /// Writes a manifest.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let folder = self.folder.path().join("manifests");
        // In one step, as editors do it: a reader never sees half a file.
        fs::write(folder.join(".next"), text).unwrap();
        fs::rename(folder.join(".next"), folder.join(name)).unwrap();
    }

    /// An address in this test's network.
    pub(crate) fn ip(&self, host: u8) -> IpAddr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, host).into()
    }

    /// Where clients reach the workload: its sidecar.
    pub(crate) fn web(&self) -> SocketAddr {
        SocketAddr::new(self.ip(2), 8080)
    }

    /// Where mesh peers dial the sidecar directly.
    pub(crate) fn direct(&self) -> SocketAddr {
        SocketAddr::new(self.ip(2), 4143)
    }

    /// Where the application listens.
    pub(crate) fn origin(&self) -> SocketAddr {
        SocketAddr::new(self.ip(3), 8080)
    }

    /// The sidecar's admin server.
    pub(crate) fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.ip(2), 4191)
    }

    pub(crate) fn start_controller(&mut self) {
        let (stop, stopped) = oneshot::channel::<()>();
        let config = self.config.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let shutdown = async { drop(stopped.await) };
            runtime
                .block_on(linkerd_controller::run(config, shutdown))
                .unwrap();
        });
        self.controller = Some((stop, thread));
    }

    pub(crate) fn stop_controller(&mut self) {
        if let Some((stop, thread)) = self.controller.take() {
            drop(stop);
            thread.join().unwrap();
        }
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority::open(&self.config.state_dir).unwrap()
    }

    /// Starts the sidecar of `web`.
    pub(crate) fn spawn_proxy(&mut self, variables: &[(&str, &str)]) {
        let command = Command::new(binary());
        self.spawn(command, variables);
    }

    /// Starts it in a network namespace, as the user that redirection leaves alone. Without explicit listeners.
    pub(crate) fn spawn_proxy_in(&mut self, namespace: &str, variables: &[(&str, &str)]) {
        let variables = [variables, &[("INBOUND_LISTENERS", "")]].concat();
        self.spawn(in_namespace(namespace, &binary()), &variables);
    }

    pub(crate) fn kill_proxy(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
    }

    fn spawn(&mut self, command: Command, variables: &[(&str, &str)]) {
        self.proxy = Some(self.launch(command, "web", 2, variables));
    }

    /// Starts the sidecar of another workload, on a host of its own, and waits until it is ready.
    pub(crate) async fn peer(
        &self,
        account: &str,
        host: u8,
        variables: &[(&str, &str)],
    ) -> Sidecar {
        let own = |port| SocketAddr::new(self.ip(host), port);
        let workload = format!(r#"{{"ns":"shop","external_workload":"{account}"}}"#);
        let (direct, outbound) = (own(4143).to_string(), own(4140).to_string());
        let (admin, id) = (own(4191), identity(account));
        let admin_address = admin.to_string();
        let own = [
            ("IDENTITY_LOCAL_NAME", &*id),
            ("POLICY_WORKLOAD", &*workload),
            ("INBOUND_LISTEN_ADDR", &*direct),
            ("INBOUND_LISTENERS", ""),
            ("OUTBOUND_LISTEN_ADDRS", &*outbound),
            ("ADMIN_LISTEN_ADDR", &*admin_address),
        ];
        let variables = [&own, variables].concat();
        let command = Command::new(binary());
        let sidecar = Sidecar(self.launch(command, account, host, &variables));
        eventually("readiness", async || {
            let (status, _) = linkerd_tests::page(admin, "/ready").await?;
            (status == 200).then_some(())
        })
        .await;
        sidecar
    }

    /// Starts the sidecar of a pod in its network namespace, as the user that redirection leaves alone. Where it listens
    /// is for the variables to say.
    pub(crate) fn pod(&self, pod: &Pod<'_>, variables: &[(&str, &str)]) -> Sidecar {
        let Pod { account, host, .. } = *pod;
        let workload = format!(r#"{{"ns":"shop","pod":"{account}"}}"#);
        let id = identity(account);
        let own = [
            ("IDENTITY_LOCAL_NAME", &*id),
            ("POLICY_WORKLOAD", &*workload),
            ("INBOUND_LISTENERS", ""),
        ];
        let variables = [&own, variables].concat();
        // Ours makes its key; others find what an entrypoint made for them.
        if pod.program != binary() {
            let keys = self.keys(host);
            KeyMaterial::load_or_create(&keys, &id).unwrap();
            for file in ["key.p8", "csr.der"] {
                std::os::unix::fs::chown(keys.join(file), Some(2102), Some(2102)).unwrap();
            }
        }
        let command = in_namespace(pod.namespace, pod.program);
        Sidecar(self.launch(command, account, host, &variables))
    }

    fn launch(
        &self,
        mut command: Command,
        account: &str,
        host: u8,
        variables: &[(&str, &str)],
    ) -> Child {
        // The controller makes the state directory; whoever comes first does.
        let authority = loop {
            if let Ok(authority) = Authority::open(&self.config.state_dir) {
                break authority;
            }
            std::thread::yield_now();
        };
        let subject = Subject::ServiceAccount {
            namespace: "shop".into(),
            name: account.into(),
        };
        let token = token::issue(&authority, &subject, Duration::from_secs(3600)).unwrap();
        let token_file = self.folder.path().join(format!("token-{host}"));
        fs::write(&token_file, token).unwrap();
        let keys = self.keys(host);
        for path in [self.folder.path(), &keys, &token_file] {
            // A sidecar of another user reads the token and writes its key.
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let text = |address: SocketAddr| address.to_string();
        for (name, value) in [
            ("LOG", "info".to_owned()),
            ("IDENTITY_DIR", keys.display().to_string()),
            ("IDENTITY_TOKEN_FILE", token_file.display().to_string()),
            (
                "IDENTITY_TRUST_ANCHORS",
                authority.trust_anchors().to_owned(),
            ),
            ("IDENTITY_LOCAL_NAME", identity("web")),
            ("IDENTITY_SVC_ADDR", text(self.config.identity_addr)),
            ("POLICY_SVC_ADDR", text(self.config.policy_addr)),
            (
                "POLICY_WORKLOAD",
                r#"{"ns":"shop","external_workload":"web"}"#.to_owned(),
            ),
            ("DESTINATION_SVC_ADDR", text(self.config.destination_addr)),
            ("INBOUND_DEFAULT_POLICY", "all-unauthenticated".to_owned()),
            ("INBOUND_LISTEN_ADDR", text(self.direct())),
            (
                "INBOUND_LISTENERS",
                format!("{}={}", self.web(), self.origin()),
            ),
            (
                "OUTBOUND_LISTEN_ADDRS",
                text(SocketAddr::new(self.ip(2), 4140)),
            ),
            ("ADMIN_LISTEN_ADDR", text(self.admin())),
        ] {
            command.env(format!("LINKERD2_PROXY_{name}"), value);
        }
        for (name, value) in variables {
            command.env(format!("LINKERD2_PROXY_{name}"), value);
        }
        let mut log = fs::OpenOptions::new();
        // A sidecar that is started again begins a new log; two write the same.
        let log = log.create(true).append(true).open(self.log()).unwrap();
        if account == "web" {
            log.set_len(0).unwrap();
        }
        let error = log.try_clone().unwrap();
        let child = command
            .stdout(log)
            .stderr(error)
            .stdin(Stdio::null())
            .spawn();
        child.unwrap_or_else(|error| panic!("{}: {error}", binary().display()))
    }

    /// Where the sidecar of a host has its key.
    pub(crate) fn keys(&self, host: u8) -> PathBuf {
        let keys = self.folder.path().join(format!("keys-{host}"));
        fs::create_dir_all(&keys).unwrap();
        keys
    }

    /// What the sidecar has written so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("proxy.log")
    }

    /// Waits until the sidecar says that it is ready.
    pub(crate) async fn ready(&self) {
        eventually("readiness", async || {
            let answer = self.get_admin("/ready").await?;
            (answer.0 == 200).then_some(())
        })
        .await;
    }

    /// A page of the admin server: status and text. `None` while nobody listens.
    pub(crate) async fn get_admin(&self, path: &str) -> Option<(u16, String)> {
        linkerd_tests::page(self.admin(), path).await
    }

    /// The sum of the series of a metric whose labels contain all of `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, page) = self
            .get_admin("/metrics")
            .await
            .expect("the admin server answers");
        page.lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
                    && labels.iter().all(|label| line.contains(label))
            })
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// A client of the mesh.
    pub(crate) fn client(&self, account: &str) -> Arc<LocalIdentity> {
        self.client_as(&identity(account))
    }

    /// A client of the mesh with a certificate for this DNS identity.
    pub(crate) fn client_as(&self, id: &str) -> Arc<LocalIdentity> {
        self.client_for(id, Duration::from_secs(86_400))
    }

    /// A client of the mesh whose certificate ends after a time, in whole seconds.
    pub(crate) fn client_for(&self, id: &str, lifetime: Duration) -> Arc<LocalIdentity> {
        let authority = self.authority();
        let key = KeyMaterial::create(id).unwrap();
        let issued = authority
            .ca()
            .issue(key.csr(), id, lifetime, Duration::from_secs(10))
            .unwrap();
        let anchors = TrustAnchors::from_pem(authority.trust_anchors()).unwrap();
        let client = LocalIdentity::new(id.parse().unwrap(), id, key, anchors).unwrap();
        client
            .install(issued.leaf_der, issued.chain, issued.not_after)
            .unwrap();
        client
    }

    /// Connects as a client of the mesh.
    pub(crate) async fn connect_tls(
        &self,
        client: &LocalIdentity,
    ) -> linkerd_tls::ClientStream<TcpStream> {
        self.connect_tls_to(self.web(), client, None).await.unwrap()
    }

    /// Connects as a client of the mesh to an address, with an ALPN protocol.
    pub(crate) async fn connect_tls_to(
        &self,
        address: SocketAddr,
        client: &LocalIdentity,
        alpn: Option<&[u8]>,
    ) -> Result<linkerd_tls::ClientStream<TcpStream>, linkerd_tls::HandshakeError> {
        let stream = self.connect_from(4, address).await;
        let server: Id = identity("web").parse().unwrap();
        linkerd_tls::connect(
            &client.client_config(),
            stream,
            server.as_str(),
            &server,
            alpn,
        )
        .await
    }

    /// Connects in plaintext from a host of this test's network.
    pub(crate) async fn connect_from(&self, host: u8, address: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(self.ip(host), 0)).unwrap();
        socket.connect(address).await.unwrap()
    }

    /// One request as a client of the mesh, over HTTP/1.
    pub(crate) async fn send(
        &self,
        client: &LocalIdentity,
        request: Request<Full<Bytes>>,
    ) -> Response<Incoming> {
        let stream = self.connect_tls(client).await;
        one_http1(stream, request).await.unwrap()
    }

    /// One request in plaintext from a host of this test's network.
    pub(crate) async fn send_plain(
        &self,
        host: u8,
        request: Request<Full<Bytes>>,
    ) -> Response<Incoming> {
        let stream = self.connect_from(host, self.web()).await;
        one_http1(stream, request).await.unwrap()
    }

    /// What the sidecar has in memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        memory(self.proxy.as_ref().unwrap())
    }

    /// Tells the sidecar to end.
    pub(crate) fn terminate(&self) {
        let proxy = self.proxy.as_ref().unwrap();
        signal(proxy, rustix::process::Signal::TERM);
    }

    /// Waits for the sidecar's end.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let mut proxy = self.proxy.take().unwrap();
        eventually("the sidecar's end", async || proxy.try_wait().unwrap()).await
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
        if let Some((stop, thread)) = self.controller.take() {
            drop(stop);
            let _ = thread.join();
        }
        if std::thread::panicking() {
            eprintln!(
                "the sidecar's log:\n{}",
                fs::read_to_string(self.log()).unwrap_or_default()
            );
        }
    }
}

/// A pod whose sidecar is to be started.
pub(crate) struct Pod<'a> {
    pub(crate) program: &'a Path,
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a str,
    pub(crate) host: u8,
}

/// The sidecar of another workload, until this goes.
pub(crate) struct Sidecar(Child);

impl Sidecar {
    /// Stops it where it is: its connections stay open, and nobody says anything on them.
    pub(crate) fn freeze(&self) {
        signal(&self.0, rustix::process::Signal::STOP);
    }

    /// Tells it to end, and waits until it has.
    pub(crate) async fn end(mut self) {
        signal(&self.0, rustix::process::Signal::TERM);
        eventually("the sidecar's end", async || self.0.try_wait().unwrap()).await;
    }

    /// What it has in memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        memory(&self.0)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a signal to a process of this test.
pub(crate) fn signal(process: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(process.id()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn memory(process: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

/// The sidecar in a network namespace, as user 2102.
fn in_namespace(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args([
        "netns",
        "exec",
        namespace,
        "setpriv",
        "--reuid=2102",
        "--regid=2102",
        "--clear-groups",
    ]);
    command.arg(program);
    command
}

/// The sidecar's binary.
pub(crate) fn binary() -> PathBuf {
    linkerd_tests::binary("linkerd-proxy")
}
