//! Two pods as a cluster has them: namespaces with a network between, the kernel's redirect on both sides of each, the
//! control plane elsewhere in the network. A tap on the network shows what really leaves a pod.

use crate::{
    harness::{Mesh, Pod, Sidecar, binary, eventually, get, identity, one_http1, within},
    interop,
    namespaces::{redirect, until_dropped},
    origin,
    outbound::App,
};
use http_body_util::BodyExt as _;
use linkerd_tests::namespaces::{inside, run};
use std::{
    io::{self, ErrorKind, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const fn v4(net: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, net, host))
}

const fn v6(net: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, net, 0, 0, 0, 0, host))
}

/// The pod `api`, whose application is the client.
pub(crate) const API: [IpAddr; 2] = [v4(1, 2), v6(1, 2)];
/// The pod `catalog`, whose application serves.
pub(crate) const CATALOG: [IpAddr; 2] = [v4(2, 2), v6(2, 2)];
/// A host that is not in the mesh. The control plane is on it, and it is the way between the pods.
pub(crate) const OUTSIDE: [IpAddr; 2] = [v4(1, 1), v6(1, 1)];
/// The Service of `catalog`, and one of the host outside: nobody has these addresses.
pub(crate) const SERVICE: [IpAddr; 2] = [v4(96, 10), v6(96, 10)];
const OUTSIDE_SERVICE: [IpAddr; 2] = [v4(96, 11), v6(96, 11)];

/// HTTP; bytes where the client ends first; bytes where the server does.
pub(crate) const WEB: u16 = 8080;
const CLIENT_ENDS: u16 = 7000;
const SERVER_ENDS: u16 = 7001;
/// gRPC.
const GRPC: u16 = 10_000;

/// What applications say, and what must never be seen between the pods.
const SECRET: &str = "the-application-said-this";

/// The namespaces.
#[derive(Clone)]
pub(crate) struct Names {
    pub(crate) api: String,
    catalog: String,
    pub(crate) network: String,
}

impl Names {
    fn each(&self) -> [&str; 3] {
        [&self.network, &self.api, &self.catalog]
    }

    fn set_up(&self) -> Result<(), String> {
        for name in self.each() {
            run(&format!("ip netns add {name}"))?;
            run(&format!("ip -n {name} link set lo up"))?;
            // Addresses of IPv6 are good at once; nobody else could have them.
            for whose in ["all", "default"] {
                let key = format!("net.ipv6.conf.{whose}.accept_dad=0");
                run(&format!("ip netns exec {name} sysctl -q -w {key}"))?;
            }
        }
        let network = &self.network;
        for (net, name) in [(1, &self.api), (2, &self.catalog)] {
            let eth = format!("eth{net}");
            run(&format!(
                "ip -n {network} link add {eth} type veth peer name eth0 netns {name}"
            ))?;
            for (name, device, host) in [(network, &*eth, 1), (name, "eth0", 2)] {
                let (v4, v6) = (v4(net, host), v6(net.into(), host.into()));
                run(&format!("ip -n {name} address add {v4}/24 dev {device}"))?;
                run(&format!(
                    "ip -n {name} address add {v6}/64 dev {device} nodad"
                ))?;
                run(&format!("ip -n {name} link set {device} up"))?;
            }
            for (family, via) in [("-4", v4(net, 1)), ("-6", v6(net.into(), 1))] {
                run(&format!(
                    "ip {family} -n {name} route add default via {via}"
                ))?;
            }
            redirect(name)?;
        }
        for key in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
            run(&format!("ip netns exec {network} sysctl -q -w net.{key}=1"))?;
        }
        Ok(())
    }
}

/// A TCP segment that crossed the network.
#[derive(Clone, Debug)]
struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    is_first: bool,
    bytes: Vec<u8>,
}

impl Segment {
    fn is_between(&self, one: &[IpAddr], other: &[IpAddr]) -> bool {
        let (from, to) = (self.from.ip(), self.to.ip());
        (one.contains(&from) && other.contains(&to)) || (one.contains(&to) && other.contains(&from))
    }

    fn says(&self, what: &str) -> bool {
        let bytes = &self.bytes;
        bytes
            .windows(what.len())
            .any(|window| window == what.as_bytes())
    }

    /// Reads an Ethernet frame.
    fn read(frame: &[u8]) -> Option<Self> {
        let (head, packet) = frame.split_at_checked(14)?;
        let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match head.get(12..14)? {
            [0x08, 0x00] if packet.get(9) == Some(&6) => {
                let long = u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?);
                let head = usize::from(packet.first()? & 0xf) * 4;
                let address = |at| {
                    let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                    Some(bytes.into())
                };
                (address(12)?, address(16)?, packet.get(head..long.into())?)
            }
            [0x86, 0xdd] if packet.get(6) == Some(&6) => {
                let long = u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?);
                let address = |at| {
                    let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                    Some(bytes.into())
                };
                let tcp = packet.get(40..40 + usize::from(long))?;
                (address(8)?, address(24)?, tcp)
            }
            _ => return None,
        };
        let port = |at| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        let offset = usize::from(tcp.get(12)? >> 4) * 4;
        Some(Self {
            from: SocketAddr::new(from, port(0)?),
            to: SocketAddr::new(to, port(2)?),
            // SYN without ACK.
            is_first: tcp.get(13)? & 0x12 == 0x02,
            bytes: tcp.get(offset..)?.to_vec(),
        })
    }
}

/// A tap on all links of the network.
struct Tap {
    seen: Arc<Mutex<Vec<Segment>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    fn open(network: &str) -> Self {
        let seen: Arc<Mutex<Vec<Segment>>> = Arc::default();
        let is_over = Arc::new(AtomicBool::new(false));
        let (push, end) = (Arc::clone(&seen), Arc::clone(&is_over));
        let (ready, is_ready) = mpsc::channel();
        let thread = inside(network, move || {
            /// Every protocol, as the kernel names it.
            const ALL: u16 = 3;
            let mut socket = socket2::Socket::new(
                socket2::Domain::PACKET,
                socket2::Type::RAW,
                Some(i32::from(ALL.to_be()).into()),
            )
            .unwrap();
            socket.set_recv_buffer_size(4 * 1024 * 1024).unwrap();
            let pause = Some(Duration::from_millis(50));
            socket.set_read_timeout(pause).unwrap();
            ready.send(()).unwrap();
            let mut frame = vec![0; 128 * 1024];
            while !end.load(Ordering::Relaxed) {
                match socket.read(&mut frame) {
                    Ok(size) => {
                        let segment = Segment::read(frame.split_at(size).0);
                        push.lock().unwrap().extend(segment);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("the tap: {error}"),
                }
            }
        });
        is_ready.recv().unwrap();
        Self {
            seen,
            is_over,
            thread: Some(thread),
        }
    }

    /// What was seen from a point on.
    fn since(&self, start: usize) -> Vec<Segment> {
        let seen = self.seen.lock().unwrap();
        seen.iter().skip(start).cloned().collect()
    }

    /// Waits for a segment, and with it for all that crossed before; gives how many these are.
    async fn reaches(&self, what: &str, is_it: impl Fn(&Segment) -> bool) -> usize {
        eventually(what, async || {
            let seen = self.seen.lock().unwrap();
            seen.iter().any(&is_it).then_some(seen.len())
        })
        .await
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

/// Everything, running.
pub(crate) struct Cluster {
    pub(crate) names: Names,
    pub(crate) mesh: Mesh,
    tap: Tap,
    heard: Heard,
    api: Option<Sidecar>,
    catalog: Option<Sidecar>,
    ends: Vec<mpsc::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

fn manifests(client: &str) -> String {
    let pod = |name: &str, labels: &str, [v4, v6]: [IpAddr; 2]| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {name}{labels}}}, annotations: {{config.linkerd.io/opaque-ports: '{CLIENT_ENDS},{SERVER_ENDS}'}}}}
spec: {{serviceAccountName: {name}, containers: [{{name: app, ports: [{{containerPort: {WEB}}}]}}]}}
status: {{phase: Running, podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: '{v6}'}}], conditions: [{{type: Ready, status: 'True'}}]}}
---
"
        )
    };
    let service = |name: &str, [v4, v6]: [IpAddr; 2]| {
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop, annotations: {{config.linkerd.io/opaque-ports: '{CLIENT_ENDS},{SERVER_ENDS}'}}}}
spec:
  clusterIP: {v4}
  clusterIPs: ['{v4}', '{v6}']
  selector: {{app: {name}}}
  ports: [{{port: {WEB}, name: web}}, {{port: {CLIENT_ENDS}, name: one}}, {{port: {SERVER_ENDS}, name: two}}, {{port: {GRPC}, name: grpc}}]
---
"
        )
    };
    let meshed = ", linkerd.io/control-plane-ns: linkerd";
    [
        pod(client, meshed, API),
        pod("catalog", meshed, CATALOG),
        pod("outside", "", OUTSIDE),
        service("catalog", SERVICE),
        service("outside", OUTSIDE_SERVICE),
    ]
    .concat()
}

/// The programs that are the sidecars of `api` and `catalog`.
pub(crate) type Programs = [PathBuf; 2];

impl Cluster {
    /// `None` where namespaces cannot be made.
    async fn start() -> Option<Self> {
        Self::start_with("api", "", &[]).await
    }

    /// The same with another account in place of `api`, more manifests, and more variables for its sidecar.
    pub(crate) async fn start_with(
        client: &str,
        policy: &str,
        variables: &[(&str, &str)],
    ) -> Option<Self> {
        Self::start_of([binary(), binary()], client, policy, variables).await
    }

    /// The same with other sidecars.
    pub(crate) async fn start_of(
        [of_api, of_catalog]: Programs,
        client: &str,
        policy: &str,
        variables: &[(&str, &str)],
    ) -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let id = format!(
            "l5d{}r{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let names = Names {
            api: format!("{id}a"),
            catalog: format!("{id}c"),
            network: format!("{id}n"),
        };
        if let Err(why) = names.set_up() {
            remove(&names);
            linkerd_tests::skipped(&format!("network namespaces: {why}"));
            return None;
        }
        let mut mesh = Mesh::without_proxy(&(manifests(client) + policy));
        let control = OUTSIDE[0];
        for address in [
            &mut mesh.config.policy_addr,
            &mut mesh.config.destination_addr,
            &mut mesh.config.identity_addr,
            &mut mesh.config.admin_addr,
        ] {
            address.set_ip(control);
        }
        // The host outside serves at the ports of the application, too.
        mesh.config.identity_addr.set_port(8091);
        let tap = Tap::open(&names.network);
        let mut cluster = Self {
            names: names.clone(),
            mesh,
            tap,
            heard: Heard::default(),
            api: None,
            catalog: None,
            ends: Vec::new(),
            threads: Vec::new(),
        };
        let config = cluster.mesh.config.clone();
        cluster.run(&names.network, async move |done| {
            linkerd_controller::run(config, until_dropped(done))
                .await
                .unwrap();
        });
        for (name, addresses) in [(&names.network, OUTSIDE), (&names.catalog, CATALOG)] {
            let heard = cluster.heard.clone();
            cluster.run(name, async move |done| {
                let mut served = Vec::new();
                for ip in addresses {
                    served.push(applications(ip, heard.clone()).await);
                }
                until_dropped(done).await;
            });
        }
        let pod = |program, namespace, account, host| Pod {
            program,
            namespace,
            account,
            host,
        };
        let api = pod(&of_api, &names.api, client, 6);
        cluster.api = Some(cluster.sidecar(&api, API, variables));
        let catalog = pod(&of_catalog, &names.catalog, "catalog", 7);
        cluster.catalog = Some(cluster.sidecar(&catalog, CATALOG, &[]));
        for ip in [API[0], CATALOG[0]] {
            cluster
                .from(&names.network, async move || {
                    eventually("readiness", async || {
                        (page(ip, "/ready").await?.0 == 200).then_some(())
                    })
                    .await;
                })
                .await;
        }
        Some(cluster)
    }

    /// Runs something in a namespace until the cluster goes.
    fn run(&mut self, name: &str, work: impl AsyncFnOnce(mpsc::Receiver<()>) + Send + 'static) {
        let (end, done) = mpsc::channel();
        self.ends.push(end);
        self.threads
            .push(inside(name, || runtime().block_on(work(done))));
    }

    /// Does something in a namespace, and waits for it.
    pub(crate) async fn from<T: Send + 'static>(
        &self,
        name: &str,
        work: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> T {
        let thread = inside(name, || runtime().block_on(work()));
        match tokio::task::spawn_blocking(|| thread.join()).await.unwrap() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn sidecar(&self, pod: &Pod<'_>, ips: [IpAddr; 2], variables: &[(&str, &str)]) -> Sidecar {
        let id = |account: &str| {
            format!("{account}.linkerd.serviceaccount.identity.linkerd.cluster.local")
        };
        let (destination, issuer) = (id("linkerd-destination"), id("linkerd-identity"));
        let inbound_ips = ips.map(|ip| ip.to_string()).join(",");
        let own = [
            ("INBOUND_LISTEN_ADDR", "[::]:4143"),
            ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140,[::1]:4140"),
            ("ADMIN_LISTEN_ADDR", "[::]:4191"),
            ("INBOUND_IPS", &*inbound_ips),
            ("POLICY_SVC_NAME", &destination),
            ("DESTINATION_SVC_NAME", &destination),
            ("IDENTITY_SVC_NAME", &issuer),
            ("DESTINATION_PROFILE_NETWORKS", "10.0.0.0/8,fd00::/8"),
        ];
        let variables = [&own, variables].concat();
        self.mesh.pod(pod, &variables)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop((self.api.take(), self.catalog.take()));
        self.ends.clear();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
        remove(&self.names);
    }
}

fn remove(names: &Names) {
    for name in names.each() {
        let _ = run(&format!("ip netns delete {name}"));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A page of the admin server of a pod.
pub(crate) async fn page(ip: IpAddr, path: &str) -> Option<(u16, String)> {
    let stream = TcpStream::connect(SocketAddr::new(ip, 4191)).await.ok()?;
    let response = one_http1(stream, get(path)).await.ok()?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

/// What servers heard after they had ended their own direction.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// The applications of a host: HTTP, and bytes.
async fn applications(ip: IpAddr, heard: Heard) -> (origin::Origin, [App; 2]) {
    let http = origin::switching(SocketAddr::new(ip, WEB)).await;
    let client_ends = bytes(SocketAddr::new(ip, CLIENT_ENDS), |mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        stream.write_all(b"heard: ").await?;
        stream.write_all(&all).await?;
        stream.shutdown().await
    });
    let server_ends = bytes(SocketAddr::new(ip, SERVER_ENDS), move |mut stream| {
        let heard = heard.clone();
        async move {
            stream.write_all(SECRET.as_bytes()).await?;
            stream.shutdown().await?;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await?;
            heard.lock().unwrap().push(all);
            Ok(())
        }
    });
    (http, [client_ends.await, server_ends.await])
}

async fn bytes<F: Future<Output = io::Result<()>> + Send + 'static>(
    address: SocketAddr,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> App {
    let listener = TcpListener::bind(address).await.unwrap();
    App(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    }))
}

/// What an application does with an address: it asks by HTTP, and speaks with both of the others. Gives the answer.
async fn talk(ip: IpAddr) -> String {
    let connect = async |port| TcpStream::connect(SocketAddr::new(ip, port)).await.unwrap();
    let path = format!("/{SECRET}");
    let response = one_http1(connect(WEB).await, get(&path)).await.unwrap();
    assert_eq!(response.status(), 200, "{ip}: {:?}", response.headers());
    let body = response.into_body().collect().await.unwrap().to_bytes();

    let mut stream = connect(CLIENT_ENDS).await;
    stream.write_all(SECRET.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    within(
        "an answer after our end",
        stream.read_to_string(&mut answer),
    )
    .await
    .unwrap();
    assert_eq!(answer, format!("heard: {SECRET}"), "{ip}");

    let mut stream = connect(SERVER_ENDS).await;
    let mut said = String::new();
    within("the server's end", stream.read_to_string(&mut said))
        .await
        .unwrap();
    assert_eq!(said, SECRET, "{ip}");
    let last = format!("{SECRET} to {ip}");
    stream.write_all(last.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    String::from_utf8_lossy(&body).into_owned()
}

#[tokio::test]
async fn what_goes_to_a_service_or_a_pod_crosses_the_network_as_mutual_tls_and_nothing_else_does() {
    if let Some(cluster) = Cluster::start().await {
        everything_crosses_as_it_should(&cluster).await;
    }
}

/// Everything that `api` says to a Service or a Pod arrives; between meshed Pods as mutual TLS, and only there.
pub(crate) async fn everything_crosses_as_it_should(cluster: &Cluster) {
    let start = cluster.tap.since(0).len();
    let meshed = [SERVICE, CATALOG].concat();
    let outside = [OUTSIDE, OUTSIDE_SERVICE].concat();
    for ip in meshed.iter().chain(&outside) {
        let ip = *ip;
        let said = cluster
            .from(&cluster.names.api, async move || talk(ip).await)
            .await;
        let is_meshed = meshed.contains(&ip);
        let client = format!("l5d-client-id: {}", identity("api"));
        assert_eq!(said.contains(&client), is_meshed, "{ip}: {said}");
        // It is heard after the server's own end, whoever carries it.
        let last = format!("{SECRET} to {ip}");
        eventually("what the client says last", async || {
            let heard = cluster.heard.lock().unwrap();
            heard
                .iter()
                .any(|all| *all == last.as_bytes())
                .then_some(())
        })
        .await;
    }
    // The tap is not blind: what is not for the mesh is read on the way.
    let [.., last] = OUTSIDE_SERVICE;
    let last = format!("{SECRET} to {last}");
    cluster
        .tap
        .reaches("the last word", |segment| segment.says(&last))
        .await;
    let seen = cluster.tap.since(start);
    let families = API.iter().zip(&CATALOG);
    for pair in families.map(|(api, catalog)| ([*api], [*catalog])) {
        let between: Vec<_> = seen
            .iter()
            .filter(|segment| segment.is_between(&pair.0, &pair.1))
            .collect();
        let connections = between.iter().filter(|segment| segment.is_first).count();
        assert!(connections > 0, "{pair:?}");
        for segment in &between {
            assert!(!segment.says(SECRET), "{segment:?}");
        }
        let mut begun = std::collections::BTreeSet::new();
        for segment in between.iter().filter(|segment| !segment.bytes.is_empty()) {
            if begun.insert((segment.from, segment.to)) {
                // A handshake of TLS, from each end.
                assert!(matches!(segment.bytes[..], [0x16, 0x03, ..]), "{segment:?}");
            }
        }
    }
    let ip = CATALOG[0];
    let metrics = cluster
        .from(&cluster.names.network, async move || {
            page(ip, "/metrics").await
        })
        .await;
    let client = format!("client_id=\"{}\"", identity("api"));
    let metrics = metrics.unwrap().1;
    let inbound: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("request_total{direction=\"inbound\""))
        .filter(|line| !line.contains("target_port=\"4191\""))
        .collect();
    assert!(!inbound.is_empty());
    for line in inbound {
        assert!(
            line.contains(&client) && line.contains("tls=\"true\""),
            "{line}"
        );
    }
}

#[tokio::test]
async fn without_its_sidecar_a_pod_sends_nothing() {
    let Some(mut cluster) = Cluster::start().await else {
        return;
    };
    let all = [SERVICE, CATALOG, OUTSIDE, OUTSIDE_SERVICE].concat();
    let api = cluster.names.api.clone();
    // It works, and a connection is open.
    cluster
        .from(&api, async move || drop(talk(SERVICE[0]).await))
        .await;
    let (open, opened) = tokio::sync::oneshot::channel();
    let (end, ended) = tokio::sync::oneshot::channel();
    cluster.run(&api, async move |_| {
        let address = SocketAddr::new(SERVICE[0], CLIENT_ENDS);
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(SECRET.as_bytes()).await.unwrap();
        open.send(()).unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        end.send(heard).unwrap();
    });
    within("a connection", opened).await.unwrap();
    // As by kill -9.
    drop(cluster.api.take());
    assert_eq!(within("its end", ended).await.unwrap(), b"");
    let start = cluster.tap.since(0).len();
    let refused = cluster.from(&api, async move || {
        let mut refused = Vec::new();
        for ip in all {
            let address = SocketAddr::new(ip, WEB);
            let error = TcpStream::connect(address).await.map(|_| ()).unwrap_err();
            refused.push((address, error.kind()));
        }
        refused
    });
    for (address, error) in refused.await {
        assert_eq!(error, ErrorKind::ConnectionRefused, "{address}");
    }
    // The network is asked after all this, so what left before was seen.
    let network = cluster.names.network.clone();
    let probe = SocketAddr::new(API[0], 4190);
    cluster
        .from(&network, async move || {
            drop(TcpStream::connect(probe).await)
        })
        .await;
    let is_probe = |segment: &Segment| segment.is_first && segment.to == probe;
    cluster.tap.reaches("the probe", is_probe).await;
    for segment in cluster.tap.since(start) {
        let is_ours = API.contains(&segment.from.ip());
        let is_news = segment.is_first || !segment.bytes.is_empty();
        assert!(!(is_ours && is_news), "{segment:?}");
    }
}

#[tokio::test]
async fn without_the_servers_sidecar_nobody_reaches_its_application() {
    let Some(mut cluster) = Cluster::start().await else {
        return;
    };
    let api = cluster.names.api.clone();
    cluster
        .from(&api, async move || drop(talk(SERVICE[0]).await))
        .await;
    drop(cluster.catalog.take());
    let answers = cluster.from(&api, async move || {
        let mut answers = Vec::new();
        for ip in [SERVICE, CATALOG].concat() {
            let stream = TcpStream::connect(SocketAddr::new(ip, WEB)).await.unwrap();
            let response = one_http1(stream, get("/")).await.unwrap();
            answers.push((ip, response.status().as_u16()));
        }
        answers
    });
    for (ip, status) in answers.await {
        assert!(matches!(status, 502..=504), "{ip}: {status}");
    }
    for ip in CATALOG {
        let error = cluster.from(&cluster.names.network, async move || {
            TcpStream::connect(SocketAddr::new(ip, WEB))
                .await
                .map(|_| ())
        });
        let kind = error.await.unwrap_err().kind();
        assert_eq!(kind, ErrorKind::ConnectionRefused, "{ip}");
    }
}

#[tokio::test]
async fn grpc_interoperates_between_two_redirected_pods() {
    if let Some(cluster) = Cluster::start().await {
        grpc_interoperates(&cluster).await;
    }
}

/// Every case of the official interop client, from `api` to the official server at `catalog`.
pub(crate) async fn grpc_interoperates(cluster: &Cluster) {
    let (Some(client), Some(server)) = (
        interop::program("grpc-interop-client"),
        interop::program("grpc-interop-server"),
    ) else {
        return;
    };
    let command = |namespace: &str, program: &std::path::Path| {
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", namespace])
            .arg(program)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    };
    let _server = command(&cluster.names.catalog, &server)
        .arg(format!("--port={GRPC}"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    cluster
        .from(&cluster.names.catalog, async move || {
            eventually("the interop server", async || {
                let address = (Ipv4Addr::LOCALHOST, GRPC);
                TcpStream::connect(address).await.ok().map(drop)
            })
            .await;
        })
        .await;
    for ip in [SERVICE, CATALOG].concat() {
        let address = SocketAddr::new(ip, GRPC);
        let cases = interop::CASES
            .map(|name| interop::case(command(&cluster.names.api, &client), name, address));
        let outcomes = futures::future::join_all(cases).await;
        let failed: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
        assert!(failed.is_empty(), "{address}: {}", failed.join("\n"));
    }
}
