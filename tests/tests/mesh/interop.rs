//! gRPC as its authors test it: the official interop client and server, each behind a sidecar of ours.

use crate::{
    harness::{LIMIT, Mesh, eventually, identity},
    outbound::route,
};
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tokio::net::TcpStream;

/// Every case of the suite that needs no cloud's credentials and no balancer of the client's own.
pub(crate) const CASES: [&str; 16] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
];

/// A program of the suite. `None` where it was not built, which is said loudly, and an error in CI.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let variable = |wanted: &str| {
        let mut all = std::env::vars();
        all.find_map(|(name, value)| (name == wanted).then_some(value))
    };
    let cached = variable("HOME").unwrap_or_default() + "/.cache/linkerd-workspace/bin";
    let path = variable("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([cached.into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        linkerd_tests::skipped(&format!(
            "gRPC interop: {name} is missing: run cargo xtask tools"
        ));
    }
    found
}

/// The suite's server, until this goes. It listens on every address of its host, so its port is its own.
struct Server {
    process: Child,
    port: u16,
    _claim: UdpSocket,
}

impl Server {
    async fn start(program: &PathBuf) -> Self {
        // Below the range that the kernel gives out; a UDP socket keeps other tests off.
        for port in 21_000.. {
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) else {
                continue;
            };
            let mut process = Command::new(program)
                .arg(format!("--port={port}"))
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let is_up = eventually("the interop server", async || {
                if process.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                let address = (Ipv4Addr::LOCALHOST, port);
                TcpStream::connect(address).await.ok().map(|_| true)
            })
            .await;
            if is_up {
                return Self {
                    process,
                    port,
                    _claim: claim,
                };
            }
        }
        panic!("no port for the interop server");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a case against an address: what it said if it failed.
pub(crate) async fn case(
    mut client: tokio::process::Command,
    case: &str,
    server: SocketAddr,
) -> Result<(), String> {
    client
        .args([
            format!("--test_case={case}"),
            format!("--server_host={}", server.ip()),
            format!("--server_port={}", server.port()),
            "--soak_iterations=5".to_owned(),
        ])
        .env_remove("HTTP_PROXY")
        .env("GRPC_GO_LOG_SEVERITY_LEVEL", "warning")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, client.output())
        .await
        .map_err(|_| format!("{case}: not within {LIMIT:?}"))?
        .unwrap();
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{case}: {}", String::from_utf8_lossy(&said)))
}

/// Every case through a pair of sidecars, where the Service has these annotations and routes.
async fn interoperates(annotations: &str, routes: &str) {
    let (Some(client), Some(server)) = (
        program("grpc-interop-client"),
        program("grpc-interop-server"),
    ) else {
        return;
    };
    let server = Server::start(&server).await;
    let policy = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: catalog, namespace: shop, annotations: {{{annotations}}}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}
---
{routes}"
    );
    let mut web = Mesh::without_proxy(&policy);
    web.start_controller();
    let application = SocketAddr::new(web.ip(3), server.port);
    let listener = format!("{}={application}", web.web());
    web.spawn_proxy(&[("INBOUND_LISTENERS", &listener)]);
    web.ready().await;
    let listener = format!("{}:9000=catalog.shop.svc.cluster.local:80", web.ip(6));
    let _api = web
        .peer("api", 6, &[("OUTBOUND_LISTENERS", &listener)])
        .await;
    let address = SocketAddr::new(web.ip(6), 9000);
    let cases = CASES.map(|name| case(tokio::process::Command::new(&client), name, address));
    let failed: Vec<String> = futures::future::join_all(cases)
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let from = format!("client_id=\"{}\"", identity("api"));
    let labels = [r#"direction="inbound""#, r#"tls="true""#, &from];
    let requests = web.metric("request_total", &labels).await;
    assert!(requests >= 20.0, "{requests} by mutual TLS");
}

#[tokio::test]
async fn grpc_interoperates_through_two_sidecars() {
    interoperates("", "").await;
}

#[tokio::test]
async fn grpc_interoperates_where_routes_retry_and_limit_it() {
    let rules = "  rules: [{matches: [{method: {service: grpc.testing.TestService}}]}, {backendRefs: [{name: catalog, port: 80}]}]";
    // What the suite's own failures carry is not of these codes: a retry would be a second message.
    let annotations = "retry.linkerd.io/grpc: unavailable, retry.linkerd.io/limit: '2', timeout.linkerd.io/request: 20s, timeout.linkerd.io/idle: 20s";
    interoperates(annotations, &route("GRPCRoute", rules)).await;
}
