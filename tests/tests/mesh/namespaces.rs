//! The sidecar as a pod has it: a network namespace of its own, the kernel's redirect, user 2102.

use crate::{
    authorization::only,
    harness::{Mesh, eventually, get, identity, one_http1, within},
    origin,
};
use http_body_util::BodyExt as _;
use linkerd_tests::namespaces::{inside, run};
use std::{
    net::{IpAddr, SocketAddr},
    sync::mpsc,
    thread,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

const POD: [&str; 2] = ["10.77.0.2", "fd00:77::2"];
const CLIENT: [&str; 2] = ["10.77.0.1", "fd00:77::1"];

/// Has the kernel redirect a pod's traffic, of both families, as its init container does.
pub(crate) fn redirect(pod: &str) -> Result<(), String> {
    redirect_but(pod, "4190,4191")
}

/// The same but for these ports of the pod.
pub(crate) fn redirect_but(pod: &str, ports: &str) -> Result<(), String> {
    let program = linkerd_tests::binary("linkerd2-proxy-init");
    let program = program.display();
    run(&format!(
        "ip netns exec {pod} {program} --inbound-ports-to-ignore {ports} -w"
    ))
}

/// Two hosts joined by a cable: a pod whose inbound traffic the kernel redirects, and a client.
struct Hosts {
    pod: String,
    client: String,
}

impl Hosts {
    /// `None` where namespaces cannot be made.
    fn make() -> Option<Self> {
        let id = std::process::id();
        let hosts = Self {
            pod: format!("l5d{id}p"),
            client: format!("l5d{id}c"),
        };
        let made = hosts.set_up();
        if let Err(why) = made {
            linkerd_tests::skipped(&format!("network namespaces: {why}"));
            return None;
        }
        Some(hosts)
    }

    fn set_up(&self) -> Result<(), String> {
        let Self { pod, client } = self;
        for name in [pod, client] {
            run(&format!("ip netns add {name}"))?;
            run(&format!("ip -n {name} link set lo up"))?;
        }
        run(&format!(
            "ip -n {pod} link add eth0 type veth peer name eth0 netns {client}"
        ))?;
        for (name, addresses) in [(pod, POD), (client, CLIENT)] {
            let [v4, v6] = addresses;
            run(&format!("ip -n {name} address add {v4}/24 dev eth0"))?;
            run(&format!("ip -n {name} address add {v6}/64 dev eth0 nodad"))?;
            run(&format!("ip -n {name} link set eth0 up"))?;
        }
        redirect(pod)
    }

    /// Runs a future on a thread inside a namespace.
    fn within<T: Send + 'static>(
        &self,
        name: &str,
        future: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        inside(name, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(future())
        })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in [&self.pod, &self.client] {
            let _ = run(&format!("ip netns delete {name}"));
        }
    }
}

/// Waits in a namespace until a channel's other end is dropped.
pub(crate) async fn until_dropped(done: mpsc::Receiver<()>) {
    let mut every = tokio::time::interval(std::time::Duration::from_millis(20));
    while !matches!(done.try_recv(), Err(mpsc::TryRecvError::Disconnected)) {
        every.tick().await;
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn a_redirected_connection_is_judged_by_the_port_that_the_client_dialled() {
    let Some(hosts) = Hosts::make() else { return };
    let mesh = Mesh::without_proxy(&only(&identity("api")));
    let config = mesh.config.clone();
    let (controller_done, done) = mpsc::channel::<()>();
    let controller = hosts.within(&hosts.pod, async move || {
        linkerd_controller::run(config, until_dropped(done))
            .await
            .unwrap();
    });
    let (origin_done, done) = mpsc::channel::<()>();
    let application = hosts.within(&hosts.pod, async move || {
        let _v4 = origin::echo(SocketAddr::new(POD[0].parse().unwrap(), 8080)).await;
        let _v6 = origin::echo(SocketAddr::new(POD[1].parse().unwrap(), 8080)).await;
        until_dropped(done).await;
    });
    let mut mesh = mesh;
    mesh.spawn_proxy_in(
        &hosts.pod,
        &[
            ("INBOUND_LISTEN_ADDR", "[::]:4143"),
            ("ADMIN_LISTEN_ADDR", "[::]:4191"),
            ("INBOUND_IPS", &POD.join(",")),
            ("INBOUND_PORTS", "8080"),
        ],
    );
    let client = mesh.client("api");
    let checked = hosts.within(&hosts.client, async move || {
        let admin = SocketAddr::new(POD[0].parse().unwrap(), 4191);
        let page = async |path: &str| {
            let stream = TcpStream::connect(admin).await.ok()?;
            let response = one_http1(stream, get(path)).await.ok()?;
            let status = response.status();
            let body = response.into_body().collect().await.ok()?.to_bytes();
            Some((status, String::from_utf8_lossy(&body).into_owned()))
        };
        eventually("readiness", async || {
            (page("/ready").await?.0 == 200).then_some(())
        })
        .await;
        for ip in POD {
            let ip: IpAddr = ip.parse().unwrap();
            let web = SocketAddr::new(ip, 8080);
            let plain = TcpStream::connect(web).await.unwrap();
            assert_eq!(
                one_http1(plain, get("/")).await.unwrap().status(),
                403,
                "{web} in plaintext"
            );
            let stream = TcpStream::connect(web).await.unwrap();
            let server: linkerd_tls::Id = identity("web").parse().unwrap();
            let config = client.client_config();
            let tls = linkerd_tls::connect(&config, stream, server.as_str(), &server, None)
                .await
                .unwrap();
            assert_eq!(
                one_http1(tls, get("/")).await.unwrap().status(),
                200,
                "{web} by mesh TLS"
            );
            // The proxy's own port without TLS: no loop, no answer.
            let mut own = TcpStream::connect(SocketAddr::new(ip, 4143)).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut own, b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")
                .await
                .unwrap();
            let mut seen = Vec::new();
            let _ = within("the end", own.read_to_end(&mut seen)).await;
            assert!(seen.is_empty());
        }
        page("/metrics").await.unwrap().1
    });
    let metrics = checked.join();
    drop((controller_done, origin_done));
    mesh.kill_proxy();
    let (controller, application) = (controller.join(), application.join());
    let metrics = metrics.unwrap();
    for address in ["10.77.0.2:8080", "[fd00:77::2]:8080"] {
        let line = metrics.lines().find(|line| {
            line.starts_with("request_total{")
                && line.contains(&format!("target_addr=\"{address}\""))
        });
        assert!(
            line.is_some_and(|line| line.ends_with(" 1")),
            "{address}: {line:?}"
        );
    }
    controller.unwrap();
    application.unwrap();
}
