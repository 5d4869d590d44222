use super::*;
use crate::{
    admin::{
        connection::{Client, Tls},
        denials::Denials,
        pages::{self, Answer},
    },
    config::{PREFIX, tests::minimal},
    discovery::{
        policy::Settings,
        testing::{
            Answers, Controller, NAME, Nobody, Say, certify, client, identity, registry, server,
            soon,
        },
    },
    drain::{self, Phase, Shutdown},
};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use linkerd_tls::ca::Ca;
use serde_json::Value;
use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
};

const LOCAL: &str = "127.0.0.1:50000";
const REMOTE: &str = "192.0.2.7:50000";

struct World {
    state: State,
    stopped: mpsc::Receiver<()>,
    shutdown: Shutdown,
    ca: Ca,
    _nobody: Option<Nobody>,
}

/// An admin server with these variables, whose controller is at `controller`.
fn world(controller: SocketAddr, vars: &[(&str, &str)]) -> World {
    let mut environment = minimal();
    for (name, value) in vars {
        environment.insert(format!("{PREFIX}{name}"), (*value).to_owned());
    }
    let environment = environment
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()));
    let config = Arc::new(Config::from_environment(environment).unwrap());
    let ca = Ca::create("root.linkerd.cluster.local").unwrap();
    let (registry, identity) = (registry(), identity(&ca, NAME));
    let client = client(controller, None, &identity, &registry);
    let policies = PolicyStore::new(
        Settings::new(&config),
        client.clone(),
        &registry,
        runtime::Handle::current(),
    );
    let store = crate::discovery::outbound::OutboundStore::new(
        crate::discovery::outbound::Settings::new(&config),
        client.clone(),
        client,
        &registry,
        runtime::Handle::current(),
    );
    let tcp = crate::inbound::InboundMetrics::register(&registry);
    let outbound = crate::run::outbound_side(&config, store, None, &identity, (tcp, &registry));
    let denials = Arc::new(Denials::new(config.policy.denial_log_interval, &registry));
    let (stop, stopped) = mpsc::channel(1);
    let (shutdown, drain) = drain::channel();
    let log = Level::detached("warn,linkerd=info");
    let shared = (outbound, denials);
    let state = State::new(&config, registry, identity, policies, shared, log, stop)
        .ending_with(drain.observer());
    World {
        state,
        stopped,
        shutdown,
        ca,
        _nobody: None,
    }
}

/// One without a controller.
fn alone(vars: &[(&str, &str)]) -> World {
    let nobody = Nobody::new();
    let world = world(nobody.0, vars);
    World {
        _nobody: Some(nobody),
        ..world
    }
}

async fn ask(
    world: &World,
    from: &str,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    let client = Client {
        addr: from.parse().unwrap(),
        tls: Tls::None,
    };
    pages::answer(&world.state, &client, request).await
}

async fn get(world: &World, from: &str, path: &str) -> (u16, String) {
    read(ask(world, from, Method::GET, path, &[], "").await).await
}

async fn get_json(world: &World, path: &str) -> (u16, Value) {
    let answer = ask(
        world,
        LOCAL,
        Method::GET,
        path,
        &[("accept", "application/json")],
        "",
    )
    .await;
    let (status, body) = read(answer).await;
    (status, serde_json::from_str(&body).unwrap())
}

async fn read(answer: Answer) -> (u16, String) {
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

const READY: (u16, &str) = (200, "ready\n");
const NOT_READY: (u16, &str) = (503, "not ready\n");

async fn readiness(world: &World) -> (u16, String) {
    get(world, REMOTE, "/ready").await
}

fn is(answer: &(u16, String), wanted: (u16, &str)) -> bool {
    (answer.0, &*answer.1) == wanted
}

#[tokio::test]
async fn probes_answer_whatever_the_policy_is() {
    for policy in ["deny", "all-authenticated", "all-unauthenticated"] {
        let world = alone(&[
            ("INBOUND_DEFAULT_POLICY", policy),
            ("POLICY_WAIT_TIMEOUT", "0"),
        ]);
        assert!(
            is(&get(&world, REMOTE, "/live").await, (200, "live\n")),
            "{policy}"
        );
        let early = ask(&world, REMOTE, Method::GET, "/ready", &[], "").await;
        assert!(!early.headers().contains_key("content-type"));
        assert_eq!(early.headers()["l5d-proxy-error"], "no certificate yet");
        assert!(is(&read(early).await, NOT_READY));
        certify(&world.state.identity, &world.ca, Duration::from_secs(60));
        assert!(is(&readiness(&world).await, READY), "{policy}");
    }
}

#[tokio::test]
async fn ready_waits_for_the_policy_of_listed_ports_unless_the_wait_is_over() {
    let (answers, vars) = (
        Answers::new(),
        [("INBOUND_PORTS", "8080"), ("POLICY_WAIT_TIMEOUT", "1h")],
    );
    let controller = Controller::start(&answers);
    let world = world(controller.addr, &vars);
    certify(&world.state.identity, &world.ca, Duration::from_secs(60));
    assert!(is(&readiness(&world).await, NOT_READY));
    for port in [8080, 4191] {
        assert!(is(&readiness(&world).await, NOT_READY));
        answers.say(port, Say::policy(&server("web", &["a.b"])));
        assert!(
            world
                .state
                .policies
                .port(port)
                .ready(Duration::from_secs(20))
                .await
        );
    }
    assert!(is(&readiness(&world).await, READY));
    let over = alone(&[("INBOUND_PORTS", "8080"), ("POLICY_WAIT_TIMEOUT", "0")]);
    certify(&over.state.identity, &over.ca, Duration::from_secs(60));
    assert!(is(&readiness(&over).await, READY), "the default applies");
    let strict = alone(&[
        ("POLICY_WAIT_TIMEOUT", "0"),
        ("READY_REQUIRES_POLICY", "true"),
    ]);
    certify(&strict.state.identity, &strict.ca, Duration::from_secs(60));
    assert!(is(&readiness(&strict).await, NOT_READY));
}

#[tokio::test]
async fn an_expired_certificate_is_not_ready() {
    let world = alone(&[("POLICY_WAIT_TIMEOUT", "0")]);
    let (identity, lifetime) = (&world.state.identity, Duration::from_secs(60));
    // Issued so that it ends in a second or two.
    let then = SystemTime::now() - Duration::from_secs(58);
    let issued = world
        .ca
        .issue_at(identity.csr(), NAME, lifetime, Duration::ZERO, then)
        .unwrap();
    identity
        .install(issued.leaf_der, issued.chain, issued.not_after)
        .unwrap();
    assert!(is(&readiness(&world).await, READY));
    soon(async {
        while is(&readiness(&world).await, READY) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    certify(identity, &world.ca, lifetime);
    assert!(is(&readiness(&world).await, READY), "and a new one is");
}

#[tokio::test]
async fn ready_as_long_as_connections_are_accepted_in_a_drain() {
    let world = alone(&[("POLICY_WAIT_TIMEOUT", "0")]);
    certify(&world.state.identity, &world.ca, Duration::from_secs(60));
    world.shutdown.advance(Phase::Draining);
    assert!(is(&readiness(&world).await, READY));
    world.shutdown.advance(Phase::Closing);
    assert!(is(&readiness(&world).await, NOT_READY));
    assert_eq!(get(&world, LOCAL, "/metrics").await.0, 200);
}

#[tokio::test]
async fn metrics_are_negotiated_and_compressed_when_asked() {
    let world = alone(&[]);
    let plain = ask(&world, REMOTE, Method::GET, "/metrics", &[], "").await;
    assert!(
        plain.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain")
    );
    let (_, text) = read(plain).await;
    assert!(text.contains("# TYPE proxy_ready gauge"), "{text}");
    let headers = [
        ("accept", "application/openmetrics-text;version=1.0.0"),
        ("accept-encoding", "br, gzip"),
    ];
    let packed = ask(&world, REMOTE, Method::GET, "/metrics", &headers, "").await;
    assert!(
        packed.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    let body = packed.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body[..2], [0x1f, 0x8b]);
}

#[tokio::test]
async fn the_log_filter_is_read_and_changed_from_this_host_only() {
    let world = alone(&[]);
    let path = "/proxy-log-level";
    assert_eq!(get(&world, REMOTE, path).await.0, 403);
    let (status, filter) = get(&world, LOCAL, path).await;
    assert_eq!(status, 200);
    assert!(filter.contains("linkerd=info"), "{filter}");
    let put = |body: &'static str| ask(&world, LOCAL, Method::PUT, path, &[], body);
    assert_eq!(put("debug").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(get(&world, LOCAL, path).await.1, "debug");
    let (status, why) = read(put("linkerd=loud").await).await;
    assert_eq!(status, 400);
    assert!(!why.is_empty());
    assert_eq!(
        get(&world, LOCAL, path).await.1,
        "debug",
        "a bad filter changes nothing"
    );
    assert_eq!(put("").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(get(&world, LOCAL, path).await.1, "warn");
    let other = ask(&world, LOCAL, Method::POST, path, &[], "").await;
    assert_eq!(other.status(), StatusCode::METHOD_NOT_ALLOWED);
    let allowed: Vec<_> = other.headers().get_all("allow").iter().collect();
    assert_eq!(allowed, ["GET", "PUT"]);
    let mut off = alone(&[]);
    off.state.log = Level::off();
    assert_eq!(get(&off, LOCAL, path).await.0, 404);
}

#[tokio::test]
async fn shutdown_is_for_this_host_and_where_enabled() {
    let mut world = alone(&[("SHUTDOWN_ENDPOINT_ENABLED", "true")]);
    assert_eq!(
        ask(&world, REMOTE, Method::POST, "/shutdown", &[], "")
            .await
            .status(),
        403
    );
    assert_eq!(
        ask(&world, LOCAL, Method::GET, "/shutdown", &[], "")
            .await
            .status(),
        405
    );
    assert!(world.stopped.try_recv().is_err());
    let answer = ask(&world, LOCAL, Method::POST, "/shutdown", &[], "").await;
    assert!(is(&read(answer).await, (200, "shutdown\n")));
    assert!(world.stopped.try_recv().is_ok());
    let mut off = alone(&[]);
    let answer = ask(&off, LOCAL, Method::POST, "/shutdown", &[], "").await;
    assert!(is(
        &read(answer).await,
        (404, "shutdown endpoint is not enabled\n")
    ));
    assert!(off.stopped.try_recv().is_err());
}

#[tokio::test]
async fn the_environment_is_for_this_host_unless_configured_otherwise() {
    let world = alone(&[]);
    let (status, all) = get_json(&world, "/env.json").await;
    assert_eq!(
        (status, &all["LINKERD2_PROXY_POLICY_SVC_ADDR"]),
        (200, &"localhost.:8090".into())
    );
    let (_, some) = get_json(&world, "/env.json?LINKERD2_PROXY_POLICY_SVC_ADDR&NO_SUCH").await;
    assert_eq!(
        some,
        serde_json::json!({ "LINKERD2_PROXY_POLICY_SVC_ADDR": "localhost.:8090", "NO_SUCH": null })
    );
    let (status, error) = get_json(&world, "/env.json?A=1").await;
    assert_eq!((status, &error["status"]), (400, &400.into()));
    let html = ask(
        &world,
        LOCAL,
        Method::GET,
        "/env.json",
        &[("accept", "text/html")],
        "",
    )
    .await;
    assert!(is(&read(html).await, (406, "application/json")));
    assert_eq!(
        ask(&world, LOCAL, Method::POST, "/env.json", &[], "")
            .await
            .status(),
        405
    );
    for (readers, local, remote) in [
        ("loopback", 200, 403),
        ("policy", 200, 200),
        ("off", 404, 404),
    ] {
        let world = alone(&[("ADMIN_ENV_JSON", readers), ("ADMIN_POLICY", readers)]);
        for path in ["/env.json", "/policy", "/denials"] {
            assert_eq!(get(&world, LOCAL, path).await.0, local, "{path} {readers}");
            assert_eq!(
                get(&world, REMOTE, path).await.0,
                remote,
                "{path} {readers}"
            );
        }
        let explain = "/policy/explain?port=4191";
        assert_eq!(get(&world, LOCAL, explain).await.0, local);
        assert_eq!(get(&world, REMOTE, explain).await.0, remote);
    }
}

#[tokio::test]
async fn pages_obey_the_policy_of_the_admin_port_and_denials_are_kept() {
    let world = alone(&[("INBOUND_DEFAULT_POLICY", "all-authenticated")]);
    assert!(is(&get(&world, REMOTE, "/metrics").await, (403, "")));
    let denials = world.state.denials.records();
    assert_eq!(
        (denials[0].port, denials[0].count, denials[0].reason),
        (4191, 1, "no_tls")
    );
    let request = Request::builder()
        .uri("/metrics")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let id = Some("prometheus.viz".parse().unwrap());
    let meshed = Client {
        addr: REMOTE.parse().unwrap(),
        tls: Tls::Mesh(id),
    };
    let (status, text) = read(pages::answer(&world.state, &meshed, request).await).await;
    assert_eq!(status, 200);
    let denied = text
        .lines()
        .find(|line| line.starts_with("inbound_http_authz_deny_total{"))
        .unwrap();
    assert!(
        denied.contains("target_port=\"4191\"") && denied.ends_with(" 1"),
        "{denied}"
    );
    assert_eq!(
        get(&alone(&[]), REMOTE, "/nothing").await,
        (404, String::new())
    );
}

#[tokio::test]
async fn policy_shows_what_is_in_force_and_explain_says_why() {
    let answers = Answers::new();
    let controller = Controller::start(&answers);
    answers.say(8080, Say::policy(&server("web", &["a.b"])));
    let world = world(controller.addr, &[("INBOUND_PORTS", "8080")]);
    assert!(
        world
            .state
            .policies
            .port(8080)
            .ready(Duration::from_secs(20))
            .await
    );
    let (_, page) = get_json(&world, "/policy").await;
    let port = &page["ports"][1];
    assert_eq!(port["port"], 8080);
    assert_eq!(
        (&port["source"], &port["version"]),
        (&"controller".into(), &2.into())
    );
    assert_eq!(port["server"], "server web");
    assert_eq!(port["authorizations"][0]["clients"], "a.b");
    assert_eq!(
        page["ports"][0]["source"], "default",
        "the admin port still waits"
    );
    let (_, text) = get(&world, LOCAL, "/policy").await;
    assert!(
        text.contains("port 8080 (detect): server web, version 2 from controller"),
        "{text}"
    );
    assert!(
        text.contains("  allow a.b from 0.0.0.0/0 (authorizationpolicy clients)"),
        "{text}"
    );
    for (question, decision) in [
        ("client=a.b", "allow"),
        (
            "client=c.d&method=POST&path=/x%3Fy=1&header=x-user:ann&host=web",
            "deny",
        ),
        ("ip=127.0.0.1", "allow"),
        ("tls=none", "deny"),
    ] {
        let (status, page) =
            get_json(&world, &format!("/policy/explain?port=8080&{question}")).await;
        assert_eq!(status, 200, "{question}: {page}");
        assert_eq!(
            page["explanation"]["decision"], decision,
            "{question}: {page}"
        );
    }
    let (_, text) = get(&world, LOCAL, "/policy/explain?port=8080&client=c.d").await;
    assert!(
        text.starts_with("port 8080, version 2 from controller\n") && text.contains("c.d"),
        "{text}"
    );
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_answered_with_what_would() {
    let world = alone(&[]);
    for (question, why) in [
        ("", "port is missing"),
        ("port=x", "port=\"x\" is not a port from 1 to 65535"),
        ("port=4191&ip=here", "is not an IP address"),
        ("port=4191&path=x", "is not a path, which starts with /"),
        ("port=4191&header=x", "is not a header, like x-user:ann"),
        ("port=4191&verb=GET", "verb is not a part of a question"),
        (
            "port=4191&client=a.b&tls=none",
            "only mesh TLS shows who a client is",
        ),
        ("port=4191&client=*.b", "is not a DNS name"),
        ("port=4191&client=%ff", "client is not UTF-8"),
    ] {
        let (status, text) = get(&world, LOCAL, &format!("/policy/explain?{question}")).await;
        assert_eq!(status, 400, "{question}");
        assert!(
            text.contains(why) && text.contains("usage: "),
            "{question}: {text}"
        );
    }
    let before = world.state.policies.ports().len();
    let (status, text) = get(&world, LOCAL, "/policy/explain?port=9999").await;
    assert_eq!(status, 404);
    assert!(text.contains("known ports: 4191"), "{text}");
    assert_eq!(
        world.state.policies.ports().len(),
        before,
        "asking watches nothing"
    );
}

/// Serves the world's state on a socket.
async fn serving(world: World) -> (SocketAddr, Arc<LocalIdentity>, Ca) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let identity = world.state.identity.clone();
    tokio::spawn(serve(listener, world.state));
    (addr, identity, world.ca)
}

async fn exchange(
    mut io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    bytes: &[u8],
) -> String {
    io.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = soon(io.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

const LIVE: &[u8] = b"GET /live HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn http_is_served_in_plaintext_and_over_mesh_tls_and_nothing_else_is() {
    let (addr, local, ca) = serving(alone(&[])).await;
    let connect = || async { TcpStream::connect(addr).await.unwrap() };
    let answer = exchange(connect().await, LIVE).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("live\n"),
        "{answer}"
    );
    assert_eq!(exchange(connect().await, b"SSH-2.0-x\r\n").await, "");
    assert_eq!(
        exchange(connect().await, b"").await,
        "",
        "silence has a limit"
    );
    assert_eq!(
        exchange(connect().await, b"GET /li").await,
        "",
        "and so has half a request"
    );

    let theirs = identity(
        &ca,
        "prometheus.viz.serviceaccount.identity.linkerd.cluster.local",
    );
    certify(&theirs, &ca, Duration::from_secs(60));
    let config = theirs.client_config();
    let tls = |sni: &'static str| {
        let (config, io) = (config.clone(), connect());
        async move { linkerd_tls::connect(&config, io.await, sni, &NAME.parse().unwrap(), None).await }
    };
    assert!(soon(tls(NAME)).await.is_err(), "not certified yet");
    certify(&local, &ca, Duration::from_secs(60));
    let answer = exchange(soon(tls(NAME)).await.unwrap(), LIVE).await;
    assert!(answer.ends_with("live\n"), "{answer}");
    assert!(soon(tls("somebody.else")).await.is_err());
}

#[tokio::test]
async fn http2_is_served() {
    let (addr, ..) = serving(alone(&[])).await;
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .uri(format!("http://{addr}/metrics"))
        .body(Full::new(Bytes::new()))
        .unwrap();
    let answer = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), 200);
}
