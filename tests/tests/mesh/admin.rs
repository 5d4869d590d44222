//! The admin server of the real binary: what each page says to a client on this host, and who else may have it.

use crate::{
    authorization::only,
    harness::{Mesh, eventually, get, identity, one_http1},
    origin,
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use tokio::net::{TcpSocket, TcpStream};

/// Asks the admin server from this host: status and text.
async fn ask(mesh: &Mesh, method: &str, path: &str, body: &'static str) -> (u16, String) {
    let stream = TcpStream::connect(mesh.admin()).await.unwrap();
    asked(stream, request(method, path, body)).await
}

fn request(method: &str, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", "admin");
    request.body(Full::new(body.into())).unwrap()
}

async fn asked(stream: TcpStream, request: Request<Full<Bytes>>) -> (u16, String) {
    let response = one_http1(stream, request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn pages_say_what_is_enforced_why_and_what_was_denied() {
    let mesh = Mesh::start(&only(&identity("api"))).await;
    let _origin = origin::echo(mesh.origin()).await;
    assert_eq!(mesh.send_plain(5, get("/secret")).await.status(), 403);

    let (status, page) = ask(&mesh, "GET", "/policy", "").await;
    assert_eq!(status, 200);
    assert!(page.contains("port 8080"), "{page}");
    assert!(page.contains("server web-http"), "{page}");
    assert!(page.contains("from controller"), "{page}");
    assert!(page.contains(&identity("api")), "{page}");

    let question = |client: &str| format!("/policy/explain?port=8080&client={client}&path=/secret");
    let (status, page) = ask(&mesh, "GET", &question(&identity("api")), "").await;
    assert_eq!(status, 200);
    assert!(
        page.contains("ALLOWED") && page.contains("clients"),
        "{page}"
    );
    let (_, page) = ask(&mesh, "GET", &question(&identity("evil")), "").await;
    assert!(
        page.contains("DENIED") && page.contains("clients"),
        "{page}"
    );
    let (status, page) = ask(&mesh, "GET", "/policy/explain", "").await;
    assert_eq!(status, 400);
    assert!(page.contains("usage: "), "{page}");

    let (status, page) = ask(&mesh, "GET", "/denials", "").await;
    assert_eq!(status, 200);
    assert!(
        page.contains("no_tls") && page.contains("web-http"),
        "{page}"
    );
    assert_eq!(ask(&mesh, "POST", "/policy", "").await.0, 405);
}

#[tokio::test]
async fn the_environment_is_shown_whole_or_by_name() {
    let mesh = Mesh::start(&only(&identity("api"))).await;
    let (status, all) = ask(&mesh, "GET", "/env.json", "").await;
    assert_eq!(status, 200);
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    let id = "LINKERD2_PROXY_IDENTITY_LOCAL_NAME";
    assert_eq!(all[id], identity("web"));
    let (_, some) = ask(&mesh, "GET", &format!("/env.json?{id}&NOT_SET"), "").await;
    let some: serde_json::Value = serde_json::from_str(&some).unwrap();
    let wanted = serde_json::json!({ id: identity("web"), "NOT_SET": null });
    assert_eq!(some, wanted);
    assert_eq!(ask(&mesh, "GET", "/env.json?A=B", "").await.0, 400);
    assert_eq!(ask(&mesh, "PUT", "/env.json", "").await.0, 405);
}

#[tokio::test]
async fn the_log_says_more_or_less_from_the_moment_it_is_told_to() {
    let mesh = Mesh::start(&only(&identity("api"))).await;
    let level = "/proxy-log-level";
    assert_eq!(ask(&mesh, "GET", level, "").await, (200, "info".into()));
    assert!(!mesh.said().contains("DEBUG"));
    let (status, why) = ask(&mesh, "PUT", level, "linkerd=loud").await;
    assert_eq!((status, why.is_empty()), (400, false));
    assert_eq!(ask(&mesh, "GET", level, "").await.1, "info");

    assert_eq!(ask(&mesh, "PUT", level, "warn,linkerd=debug").await.0, 204);
    let (_, filter) = ask(&mesh, "GET", level, "").await;
    assert!(filter.contains("linkerd=debug"), "{filter}");
    // Nothing listens behind the sidecar: a failure is said at debug.
    assert_eq!(mesh.send(&mesh.client("api"), get("/")).await.status(), 502);
    eventually("a line at debug", async || {
        mesh.said().contains("DEBUG").then_some(())
    })
    .await;

    assert_eq!(ask(&mesh, "PUT", level, "error").await.0, 204);
    let before = mesh.said().len();
    assert_eq!(
        mesh.send(&mesh.client("evil"), get("/")).await.status(),
        403
    );
    assert_eq!(mesh.said().len(), before, "{}", mesh.said());
    assert_eq!(ask(&mesh, "DELETE", level, "").await.0, 405);
}

#[tokio::test]
async fn the_proxy_is_shut_down_by_a_post_where_that_is_enabled() {
    let policy = only(&identity("api"));
    let closed = Mesh::start(&policy).await;
    let (status, why) = ask(&closed, "POST", "/shutdown", "").await;
    assert_eq!((status, &*why), (404, "shutdown endpoint is not enabled\n"));
    assert_eq!(closed.get_admin("/live").await.unwrap().0, 200);

    let variables = [
        ("SHUTDOWN_ENDPOINT_ENABLED", "true"),
        ("SHUTDOWN_DRAIN_WINDOW", "10ms"),
    ];
    let mut mesh = Mesh::start_with(&policy, &variables).await;
    assert_eq!(ask(&mesh, "GET", "/shutdown", "").await.0, 405);
    let answer = ask(&mesh, "POST", "/shutdown", "").await;
    assert_eq!(answer, (200, "shutdown\n".to_owned()));
    assert!(mesh.exit().await.success());
}

/// An address of this machine that is not loopback: who connects from it is another host to the admin server.
fn another_host() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Sends nothing: asks the kernel which address it would send from.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[tokio::test]
async fn another_host_gets_health_and_numbers_and_nothing_else() {
    let Some(ip) = another_host() else {
        return linkerd_tests::skipped("this machine has no address but loopback");
    };
    let free = std::net::TcpListener::bind((ip, 0)).unwrap();
    let admin = free.local_addr().unwrap();
    drop(free);
    let mut mesh = Mesh::without_proxy(&only(&identity("api")));
    mesh.start_controller();
    mesh.spawn_proxy(&[
        ("ADMIN_LISTEN_ADDR", &admin.to_string()),
        ("SHUTDOWN_ENDPOINT_ENABLED", "true"),
    ]);
    let from = async |ip: IpAddr, method: &str, path: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(ip, 0)).unwrap();
        let stream = socket.connect(admin).await.ok()?;
        Some(asked(stream, request(method, path, "")).await)
    };
    eventually("readiness", async || {
        let answer = from(ip, "GET", "/ready").await?;
        (answer.0 == 200).then_some(())
    })
    .await;
    for path in ["/live", "/ready", "/metrics", "/retries"] {
        let (status, _) = from(ip, "GET", path).await.unwrap();
        assert_eq!(status, 200, "{path}");
    }
    for (method, path) in [
        ("GET", "/policy"),
        ("GET", "/policy/explain?port=8080&client=a.b"),
        ("GET", "/denials"),
        ("GET", "/outbound"),
        ("GET", "/env.json"),
        ("GET", "/proxy-log-level"),
        ("PUT", "/proxy-log-level"),
        ("POST", "/shutdown"),
    ] {
        let answer = from(ip, method, path).await.unwrap();
        let refused = (
            403,
            "Requests are only permitted from localhost.".to_owned(),
        );
        assert_eq!(answer, refused, "{method} {path}");
    }
    // The same server, to a client on this host.
    let here = Ipv4Addr::LOCALHOST.into();
    for path in [
        "/policy",
        "/denials",
        "/outbound",
        "/env.json",
        "/proxy-log-level",
    ] {
        let (status, _) = from(here, "GET", path).await.unwrap();
        assert_eq!(status, 200, "{path}");
    }
}
