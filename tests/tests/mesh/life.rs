//! Start, change, faults and the end, while requests are going through.

use crate::{
    authorization::{authorize, only, server},
    harness::{Mesh, binary, eventually, get, identity, within},
    origin,
};
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

/// A keep-alive client's connection.
async fn keep_alive(mesh: &Mesh, host: u8) -> SendRequest<Full<Bytes>> {
    let stream = mesh.connect_from(host, mesh.web()).await;
    let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

/// Asks again and again over one connection until `stop`, or until the server asks it to go. Gives every status.
async fn hammer(
    mut send: SendRequest<Full<Bytes>>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU32>,
) -> Vec<u16> {
    let mut statuses = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let response = within("an answer", send.send_request(get("/")))
            .await
            .unwrap();
        statuses.push(response.status().as_u16());
        count.fetch_add(1, Ordering::Relaxed);
        let closing = response
            .headers()
            .get("connection")
            .is_some_and(|value| value == "close");
        response.into_body().collect().await.unwrap();
        if closing {
            break;
        }
        send.ready().await.unwrap();
    }
    statuses
}

struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU32>,
    clients: Vec<tokio::task::JoinHandle<Vec<u16>>>,
}

impl Load {
    async fn start(mesh: &Mesh, clients: u8) -> Self {
        let mut connections = Vec::new();
        for _ in 0..clients {
            connections.push(keep_alive(mesh, 5).await);
        }
        Self::over(connections)
    }

    fn over(connections: Vec<SendRequest<Full<Bytes>>>) -> Self {
        let (stop, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU32::new(0)),
        );
        let clients = connections.into_iter().map(|send| {
            let asking = hammer(send, stop.clone(), count.clone());
            tokio::spawn(asking)
        });
        Self {
            clients: clients.collect(),
            stop,
            count,
        }
    }

    /// Waits until so many more requests were answered.
    async fn more(&self, requests: u32) {
        let target = self.count.load(Ordering::Relaxed) + requests;
        eventually("more answers", async || {
            (self.count.load(Ordering::Relaxed) >= target).then_some(())
        })
        .await;
    }

    async fn end(self) -> Vec<u16> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for client in self.clients {
            all.extend(client.await.unwrap());
        }
        all
    }
}

#[tokio::test]
async fn sigterm_under_load_loses_nothing_and_ends_with_0() {
    let policy = server("accessPolicy: all-unauthenticated");
    let mut mesh = Mesh::start_with(
        &policy,
        &[
            ("SHUTDOWN_DRAIN_WINDOW", "1s"),
            ("SHUTDOWN_GRACE_PERIOD", "20s"),
        ],
    )
    .await;
    let _origin = origin::echo(mesh.origin()).await;
    let load = Load::start(&mesh, 8).await;
    load.more(200).await;
    mesh.terminate();
    // Clients are asked to go by `Connection: close`, so all of them end by themselves.
    let mut statuses = Vec::new();
    for client in load.clients {
        statuses.extend(within("the client's end", client).await.unwrap());
    }
    assert!(
        statuses.len() >= 200 && statuses.iter().all(|status| *status == 200),
        "{statuses:?}"
    );
    assert!(mesh.exit().await.success());
}

#[tokio::test]
async fn a_policy_change_under_load_gives_answers_of_the_old_or_the_new_version_only() {
    let mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let _origin = origin::echo(mesh.origin()).await;
    let load = Load::start(&mesh, 4).await;
    for policy in ["deny", "all-unauthenticated", "deny"] {
        load.more(100).await;
        mesh.write("policy.yaml", &server(&format!("accessPolicy: {policy}")));
        let want = if policy == "deny" { 403 } else { 200 };
        eventually(policy, async || {
            (mesh.send_plain(6, get("/")).await.status() == want).then_some(())
        })
        .await;
    }
    let statuses = load.end().await;
    let count = |want| statuses.iter().filter(|status| **status == want).count();
    // Connections stay: the same clients saw both.
    assert!(
        count(200) > 0 && count(403) > 0 && count(200) + count(403) == statuses.len(),
        "{statuses:?}"
    );
}

/// A policy of one version: its routes mark requests with the version, and only the route of the version's parity is
/// open. An answer by one version's routes and another's authorizations would be 200 with a mark of the wrong parity.
fn marked(version: u32) -> String {
    let route = |name: &str| {
        format!(
            "---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: policy.linkerd.io, kind: Server, name: web-http}}]
  rules:
  - matches: [{{path: {{type: Exact, value: /{name}}}}}]
    filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-version, value: '{version}'}}]}}}}]
"
        )
    };
    let everyone = "NetworkAuthentication {networks: [{cidr: 0.0.0.0/0}]}";
    server("proxyProtocol: unknown")
        + &route("even")
        + &route("odd")
        + &authorize("clients", "HTTPRoute", parity(version), everyone)
}

fn parity(version: u32) -> &'static str {
    if version.is_multiple_of(2) {
        "even"
    } else {
        "odd"
    }
}

/// The version that an answer was given by, if the application answered.
async fn version_of(response: Response<Incoming>, path: &str) -> Option<u32> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    if status == 403 {
        return None;
    }
    assert_eq!(status, 200, "{path}");
    let text = String::from_utf8_lossy(&body).into_owned();
    let mark = text
        .lines()
        .find_map(|line| line.strip_prefix("x-version: "));
    let version = mark.unwrap().parse().unwrap();
    assert_eq!(
        parity(version),
        path,
        "routes and authorizations of two versions"
    );
    Some(version)
}

#[tokio::test]
async fn every_answer_under_changing_policy_is_explained_by_one_version_and_none_goes_back() {
    const VERSIONS: u32 = 40;
    let mesh = Mesh::start(&marked(0)).await;
    let _origin = origin::echo(mesh.origin()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut send = keep_alive(&mesh, 5).await;
        let stop = stop.clone();
        clients.push(tokio::spawn(async move {
            let (mut last, mut answered) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                for path in ["even", "odd"] {
                    let request = get(&format!("/{path}"));
                    let response = within("an answer", send.send_request(request))
                        .await
                        .unwrap();
                    if let Some(version) = version_of(response, path).await {
                        assert!(version >= last, "{version} after {last}");
                        last = version;
                        answered += 1;
                    }
                    send.ready().await.unwrap();
                }
            }
            answered
        }));
    }
    for version in 1..VERSIONS {
        mesh.write("policy.yaml", &marked(version));
        let path = parity(version);
        eventually("the version in force", async || {
            let response = mesh.send_plain(6, get(&format!("/{path}"))).await;
            (version_of(response, path).await? == version).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn the_controllers_end_and_return_under_load_fail_nothing() {
    let mut mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let _origin = origin::echo(mesh.origin()).await;
    let load = Load::start(&mesh, 4).await;
    load.more(100).await;
    mesh.stop_controller();
    load.more(200).await;
    assert_eq!(
        mesh.get_admin("/ready").await.unwrap().0,
        200,
        "ready while the controller is away"
    );
    mesh.write("policy.yaml", &server("accessPolicy: deny"));
    mesh.start_controller();
    // What changed meanwhile takes effect.
    eventually("the new policy", async || {
        (mesh.send_plain(6, get("/")).await.status() == 403).then_some(())
    })
    .await;
    let statuses = load.end().await;
    assert!(
        statuses.iter().all(|status| matches!(status, 200 | 403)),
        "{statuses:?}"
    );
}

#[tokio::test]
async fn certificates_are_renewed_under_load_and_connections_live_on() {
    let mut mesh = Mesh::without_proxy(&only(&identity("api")));
    mesh.config.issuance_lifetime = std::time::Duration::from_secs(3);
    mesh.config.clock_skew = std::time::Duration::from_secs(1);
    mesh.start_controller();
    mesh.spawn_proxy(&[("IDENTITY_MIN_REFRESH", "1s")]);
    mesh.ready().await;
    let _origin = origin::echo(mesh.origin()).await;
    let client = mesh.client("api");
    // Connections that were made with the first certificate, all in use all the time.
    let mut old = Vec::new();
    for _ in 0..8 {
        let io = TokioIo::new(mesh.connect_tls(&client).await);
        let handshake = hyper::client::conn::http1::handshake(io).await;
        let (send, connection) = handshake.unwrap();
        tokio::spawn(connection);
        old.push(send);
    }
    let load = Load::over(old);
    let renewed = async || {
        mesh.metric("control_identity_cert_refreshes_total", &[r#"result="ok""#])
            .await
    };
    // And new ones, several at a time.
    let mut new = 0;
    while renewed().await < 4.0 || new < 20 {
        let asking = (0..4).map(|_| mesh.send(&client, get("/")));
        for response in futures::future::join_all(asking).await {
            assert_eq!(response.status(), 200);
            new += 1;
        }
    }
    load.more(100).await;
    assert!(load.clients.iter().all(|client| !client.is_finished()));
    let statuses = load.end().await;
    assert!(statuses.iter().all(|status| *status == 200));
}

#[tokio::test]
async fn without_a_controller_the_default_applies_after_a_bounded_wait() {
    let mut mesh = Mesh::without_proxy("");
    // Identity is there and policy is not: another address that nobody listens on.
    mesh.start_controller();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    mesh.spawn_proxy(&[("POLICY_SVC_ADDR", &nobody), ("POLICY_WAIT_TIMEOUT", "1s")]);
    mesh.ready().await;
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(mesh.send(&mesh.client("api"), get("/")).await.status(), 200);
    assert_eq!(mesh.send_plain(5, get("/")).await.status(), 200);
    let default = mesh
        .metric(
            "inbound_policy_info",
            &[r#"port="8080""#, r#"source="default""#],
        )
        .await;
    assert!((default - 1.0).abs() < f64::EPSILON);
}

#[test]
fn every_malformed_variable_is_reported_at_once_and_the_exit_code_is_64() {
    let output = Command::new(binary())
        .env_clear()
        .env("LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "nowhere")
        .env("LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT", "10")
        .env("LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED", "yes")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr);
    for expected in [
        "LINKERD2_PROXY_INBOUND_LISTEN_ADDR",
        "nowhere",
        "LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT",
        "LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED",
        "LINKERD2_PROXY_POLICY_WORKLOAD",
    ] {
        assert!(text.contains(expected), "{expected} is not in: {text}");
    }
}
