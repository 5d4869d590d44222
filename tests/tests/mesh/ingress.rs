//! Ingresses: NGINX, HAProxy and Envoy as they are, in a pod whose traffic the kernel redirects, with the very
//! configuration and policy of `docs/ingress.md`.

use crate::{
    harness::{eventually, get, identity, one_http1, within},
    namespaces::{redirect, redirect_but},
    redirected::{API as INGRESS, CATALOG, Cluster, OUTSIDE, SERVICE, WEB, page},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Where clients reach the ingress.
const PORT: u16 = 80;

/// The page, as it is when the test runs.
fn page_text() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ingress.md");
    fs::read_to_string(page).unwrap()
}

/// The blocks of the page that are fenced as this, one after the other.
fn blocks(fence: &str) -> Vec<String> {
    let open = format!("```{fence}\n");
    let blocks: Vec<String> = page_text()
        .split(&*open)
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0.to_owned())
        .collect();
    assert!(!blocks.is_empty(), "docs/ingress.md has no {open}");
    blocks
}

/// What the page says instead of a line in ingress mode.
fn override_of(title: &str) -> [String; 2] {
    let text = page_text();
    let row = text
        .lines()
        .find(|line| line.starts_with(&format!("| {title} | `")));
    let mut quoted = row.unwrap().split('`').skip(1).step_by(2);
    [(); 2].map(|()| quoted.next().unwrap().to_owned())
}

/// A program that takes requests in.
struct Kind {
    title: &'static str,
    fence: &'static str,
    program: &'static str,
    /// Whether a machine may do without.
    is_optional: bool,
}

const KINDS: [Kind; 3] = [
    Kind {
        title: "NGINX",
        fence: "nginx",
        program: "nginx",
        is_optional: false,
    },
    Kind {
        title: "HAProxy",
        fence: "haproxy",
        program: "haproxy",
        is_optional: false,
    },
    Kind {
        title: "Envoy",
        fence: "json",
        program: "envoy",
        is_optional: true,
    },
];

impl Kind {
    fn find(&self) -> Option<PathBuf> {
        let path = std::env::vars().find(|(name, _)| name == "PATH");
        let path = format!("{}:/usr/sbin:/sbin", path.unwrap_or_default().1);
        let found = std::env::split_paths(&path)
            .map(|folder| folder.join(self.program))
            .find(|file| file.is_file());
        if found.is_none() {
            let what = format!("{} as an ingress", self.title);
            if self.is_optional {
                eprintln!("SKIPPED: {what}");
            } else {
                linkerd_tests::skipped(&what);
            }
        }
        found
    }

    /// Writes its configuration, and gives its command line.
    fn words(&self, folder: &Path, by_name: bool) -> Vec<String> {
        let mut text = blocks(self.fence).concat();
        if by_name {
            let [line, other] = override_of(self.title);
            assert_eq!(text.matches(&*line).count(), 1, "{line}");
            text = text.replace(&*line, &other);
        }
        let file = folder.join(format!("{}.json", self.program));
        fs::write(&file, &text).unwrap();
        let file = file.display().to_string();
        let text = match self.program {
            "nginx" => {
                let own = folder.display();
                let main = folder.join("nginx.conf");
                // One worker, so that its connections can be counted.
                let around = format!(
                    "daemon off; worker_processes 1; pid {own}/pid; error_log stderr; events {{}}
http {{ access_log off; include {file}; }}"
                );
                fs::write(&main, around).unwrap();
                format!("-c {}", main.display())
            }
            "haproxy" => format!("-db -f {file}"),
            _ => format!("-c {file} --concurrency 1 --disable-hot-restart -l warning"),
        };
        text.split(' ').map(str::to_owned).collect()
    }
}

/// An ingress that runs in its pod. Ends with the test.
struct Ingress(Child);

impl Drop for Ingress {
    fn drop(&mut self) {
        // It ends its workers.
        if let Ok(pid) = i32::try_from(self.0.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// The pods, and what the ingress' resolver knows.
struct Pods {
    cluster: Cluster,
    folder: tempfile::TempDir,
    hosts: PathBuf,
}

impl Pods {
    /// `catalog`: what the ingress takes for the address of the Service.
    async fn start(catalog: IpAddr, variables: &[(&str, &str)]) -> Option<Self> {
        let policy = blocks("yaml policy").join("---\n");
        let cluster = Cluster::start_with("ingress", &policy, variables).await?;
        redirect_but(&cluster.names.api, "4190,4191,80").unwrap();
        // `ip netns exec` puts what is here in the place of what is in /etc.
        let hosts = Path::new("/etc/netns").join(&cluster.names.api);
        fs::create_dir_all(&hosts).unwrap();
        let names = format!("127.0.0.1 localhost\n{catalog} catalog.shop.svc.cluster.local\n");
        fs::write(hosts.join("hosts"), names).unwrap();
        fs::write(hosts.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        Some(Self {
            cluster,
            folder: tempfile::tempdir().unwrap(),
            hosts,
        })
    }

    /// Runs an ingress in its pod until it listens.
    async fn run(&self, kind: &Kind, by_name: bool) -> Option<Ingress> {
        let program = kind.find()?;
        let log = fs::File::create(self.log()).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.cluster.names.api])
            .arg(program)
            .args(kind.words(self.folder.path(), by_name))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let mut ingress = Ingress(child.unwrap());
        eventually(kind.title, async || {
            let ended = ingress.0.try_wait().unwrap();
            let said = || fs::read_to_string(self.log()).unwrap_or_default();
            assert!(ended.is_none(), "{}: {ended:?}: {}", kind.title, said());
            let address = SocketAddr::new(INGRESS[0], PORT);
            let connect = async move || TcpStream::connect(address).await.is_ok();
            self.outside(connect).await.then_some(())
        })
        .await;
        Some(ingress)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    async fn outside<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> T {
        self.cluster.from(&self.cluster.names.network, work).await
    }

    /// Asks the ingress from outside: status, head and body.
    async fn ask(&self, ip: IpAddr, headers: &'static [(&str, &str)]) -> (u16, String) {
        self.outside(async move || {
            let stream = TcpStream::connect(SocketAddr::new(ip, PORT)).await.unwrap();
            read(one_http1(stream, asking(headers)).await.unwrap()).await
        })
        .await
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = fs::read_to_string(self.log()).unwrap_or_default();
            eprintln!("the ingress' log:\n{said}");
        }
        let _ = fs::remove_dir_all(&self.hosts);
    }
}

fn asking(headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = get("/hello");
    for (name, value) in headers {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

async fn read(response: Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let why = response.headers().get("l5d-proxy-error").cloned();
    let bytes = within("a body", response.into_body().collect()).await;
    let body = bytes.unwrap().to_bytes();
    let mut text = String::from_utf8_lossy(&body).into_owned();
    if let Some(why) = why {
        text.push_str(why.to_str().unwrap());
    }
    (status, text)
}

/// What a client that means ill says of itself, and where it would like to go.
const LIES: &[(&str, &str)] = &[
    ("x-forwarded-for", "203.0.113.9"),
    ("l5d-client-id", "admin"),
    ("l5d-dst-override", "outside.shop.svc.cluster.local:8080"),
];

/// The application has these lines and not those.
#[track_caller]
fn says(kind: &Kind, text: &str, lines: &[&str], never: &[&str]) {
    let title = kind.title;
    for line in lines {
        assert!(
            text.lines().any(|own| own == *line),
            "{title}: {line}: {text}"
        );
    }
    for word in never {
        assert!(!text.contains(word), "{title}: {word}: {text}");
    }
}

/// Speaks a WebSocket's first bytes through the ingress.
async fn upgrade() -> Vec<u8> {
    let address = SocketAddr::new(INGRESS[0], PORT);
    let stream = TcpStream::connect(address).await.unwrap();
    let request = asking(&[
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]);
    let response = one_http1(stream, request).await.unwrap();
    assert_eq!(response.status(), 101, "{:?}", response.headers());
    let upgraded = within("the switch", hyper::upgrade::on(response)).await;
    let mut socket = TokioIo::new(upgraded.unwrap());
    socket.write_all(b"a frame").await.unwrap();
    let mut heard = vec![0; 7];
    within("the echo", socket.read_exact(&mut heard))
        .await
        .unwrap();
    heard
}

/// The sum of a metric of the ingress' sidecar.
async fn metric(pods: &Pods, name: &'static str, labels: &'static [&str]) -> f64 {
    let text = pods
        .outside(async move || page(INGRESS[0], "/metrics").await)
        .await;
    let (_, text) = text.unwrap();
    let lines = text.lines().filter(|line| {
        line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
    });
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[tokio::test]
async fn an_ingress_keeps_the_clients_address_and_its_own_identity_and_nobody_else_is_let_in() {
    let Some(pods) = Pods::start(SERVICE[0], &[]).await else {
        return;
    };
    let id = format!("l5d-client-id: {}", identity("ingress"));
    for kind in &KINDS {
        let Some(_ingress) = pods.run(kind, false).await else {
            continue;
        };
        let before = opened(&pods).await;
        for ip in [INGRESS[0], INGRESS[0], INGRESS[0], INGRESS[1]] {
            let client = OUTSIDE[usize::from(ip.is_ipv6())];
            let (status, text) = pods.ask(ip, LIES).await;
            assert_eq!(status, 200, "{}: {text}", kind.title);
            let client = format!("x-forwarded-for: {client}");
            let never = ["203.0.113.9", "admin", "l5d-dst-override"];
            says(kind, &text, &["host: web", &id, &client], &never);
        }
        let connections = opened(&pods).await - before;
        assert!(
            (1.0..4.0).contains(&connections),
            "{}: {connections} connections for four requests",
            kind.title
        );
        assert_eq!(pods.outside(upgrade).await, b"a frame", "{}", kind.title);
    }
    refuses_others(&pods).await;
    through_the_sidecar(&pods).await;
}

/// How many connections the ingress opened to its sidecar.
async fn opened(pods: &Pods) -> f64 {
    let labels = &[r#"direction="outbound""#, r#"peer="src""#];
    metric(pods, "tcp_open_total", labels).await
}

/// The application's sidecar lets nobody in but the ingress.
async fn refuses_others(pods: &Pods) {
    let client = pods.cluster.mesh.client("other");
    let (status, text) = pods
        .outside(async move || {
            let address = SocketAddr::new(CATALOG[0], WEB);
            let stream = TcpStream::connect(address).await.unwrap();
            let server: linkerd_tls::Id = identity("catalog").parse().unwrap();
            let config = client.client_config();
            let tls = linkerd_tls::connect(&config, stream, server.as_str(), &server, None).await;
            read(one_http1(tls.unwrap(), get("/")).await.unwrap()).await
        })
        .await;
    assert_eq!(status, 403, "{text}");
    assert!(text.contains("unauthorized"), "{text}");
    assert!(text.contains(&identity("other")), "{text}");
    let (status, text) = pods
        .outside(async || {
            let address = SocketAddr::new(CATALOG[0], WEB);
            let stream = TcpStream::connect(address).await.unwrap();
            read(one_http1(stream, get("/")).await.unwrap()).await
        })
        .await;
    assert_eq!(status, 403, "{text}");
    assert!(!text.contains("unauthorized"), "{text}");
}

/// Without `skip-inbound-ports`, networks are admitted, and addresses are lost.
async fn through_the_sidecar(pods: &Pods) {
    redirect(&pods.cluster.names.api).unwrap();
    for kind in &KINDS {
        let Some(_ingress) = pods.run(kind, false).await else {
            continue;
        };
        // The sidecar takes connections before the ingress listens.
        let (status, text) = eventually(kind.title, async || {
            let answer = pods.ask(INGRESS[0], LIES).await;
            (answer.0 != 502).then_some(answer)
        })
        .await;
        assert_eq!(status, 200, "{}: {text}", kind.title);
        let own = format!("x-forwarded-for: {}", INGRESS[0]);
        says(kind, &text, &[&own], &[&OUTSIDE[0].to_string()]);
        let (status, text) = pods.ask(INGRESS[1], &[]).await;
        assert_eq!(status, 403, "{}: {text}", kind.title);
    }
}

#[tokio::test]
async fn in_ingress_mode_the_ingress_chooses_the_service_by_name_and_its_clients_do_not() {
    // It dials what is not in the mesh, and is in the mesh by the name alone.
    let mode = [("INGRESS_MODE", "true")];
    let Some(pods) = Pods::start(OUTSIDE[0], &mode).await else {
        return;
    };
    let id = format!("l5d-client-id: {}", identity("ingress"));
    let client = format!("x-forwarded-for: {}", OUTSIDE[0]);
    for kind in &KINDS {
        let Some(ingress) = pods.run(kind, true).await else {
            continue;
        };
        for headers in [LIES, &[]] {
            let (status, text) = pods.ask(INGRESS[0], headers).await;
            assert_eq!(status, 200, "{}: {text}", kind.title);
            let never = ["203.0.113.9", "admin", "l5d-dst-override"];
            says(kind, &text, &[&id, &client], &never);
        }
        drop(ingress);
        // Where it names nothing, it is what it dials, and still not what its client says.
        let Some(_ingress) = pods.run(kind, false).await else {
            continue;
        };
        let lie = &[("l5d-dst-override", "catalog.shop.svc.cluster.local:8080")];
        let (status, text) = pods.ask(INGRESS[0], lie).await;
        assert_eq!(status, 200, "{}: {text}", kind.title);
        says(kind, &text, &[&client], &[&id]);
    }
}
