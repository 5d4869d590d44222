//! Mutual TLS as a condition, over every kind of traffic: nothing that must not leaves, whoever says so.

use crate::{
    harness::{eventually, one_http2},
    origin,
    outbound::{App, Client, TLS_ROUTE, pod, service, why},
};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const REQUIRED: &str = "policy.linkerd.io/outbound-mtls: required";
const REFUSED: &str = "outbound_mtls_refused_total";

/// An application that takes connections, and counts them.
async fn counting(address: SocketAddr) -> (App, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let app = App(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let _ = stream.write_all(b"plaintext").await;
                let mut said = Vec::new();
                let _ = stream.read_to_end(&mut said).await;
            });
        }
    }));
    (app, taken)
}

async fn call(client: &Client, port: u16) -> Response<Incoming> {
    let request = Request::post("http://a.shop/shop.Any/Call")
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap();
    one_http2(client.connect(port).await, request)
        .await
        .unwrap()
}

/// What comes back on a connection that begins with bytes of this kind.
async fn bytes(stream: &mut TcpStream, begin: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(begin).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// Whether the server behind a port hears bytes: the application says something first.
async fn is_answered(client: &Client, port: u16) -> Option<()> {
    let mut stream = client.connect(port).await;
    stream
        .write_all(b"\x00\x01bytes of no protocol")
        .await
        .ok()?;
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).await.ok()?;
    (&answer == b"plaintext").then_some(())
}

/// A ClientHello that asks for `secure.example`.
fn hello() -> Vec<u8> {
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "secure.example".try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// Services outside the mesh for each kind of traffic, by the listeners of a [`Client`]: `catalog` (9000) by gRPC, `web`
/// (9001, in the mesh) detected, `other` (9002) by TLS.
fn kinds(annotations: &str, ip: std::net::IpAddr) -> String {
    "apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec:
  parentRefs: [{group: core, kind: Service, name: catalog}]
  rules: [{}]
---
"
    .to_owned()
        + TLS_ROUTE
        + &service("other", annotations)
        + &pod("other-0", "other", ip)
}

#[tokio::test]
async fn calls_bytes_and_tls_stay_here_where_mutual_tls_is_required_by_policy_or_by_default() {
    let default = [("OUTBOUND_MTLS", "required")];
    for (annotations, variables) in [(REQUIRED, &[][..]), ("", &default[..])] {
        let client = Client::start(annotations, 1, "", variables).await;
        let mesh = &client.mesh;
        mesh.write("kinds.yaml", &kinds(annotations, mesh.ip(11)));
        let (_catalog, of_catalog) = counting(client.at(10)).await;
        let (_other, of_other) = counting(client.at(11)).await;
        let refused = async |name: &str| {
            let parent = format!("parent_name=\"{name}\"");
            let labels = [r#"reason="plaintext""#, &*parent];
            mesh.metric(REFUSED, &labels).await
        };
        // gRPC, once the route is known: in its own terms.
        eventually("a call's refusal by its route", async || {
            let response = call(&client, 9000).await;
            assert_eq!(response.headers()["grpc-status"], "14", "{annotations}");
            let why = why(&response);
            assert!(
                why.contains("mutual TLS is required"),
                "{annotations}: {why}"
            );
            why.contains("GRPCRoute.shop.calls").then_some(())
        })
        .await;
        assert!(refused("catalog").await >= 1.0, "{annotations}");
        // TLS of the application's own.
        eventually("a refusal by the route of TLS", async || {
            let answer = bytes(&mut client.connect(9002).await, &hello()).await;
            assert!(answer.is_empty(), "{annotations}: {answer:?}");
            let closed = "outbound_tls_route_close_total";
            let unexpected = [r#"error="unexpected""#, r#"route_name="secure""#];
            (mesh.metric(closed, &unexpected).await >= 1.0).then_some(())
        })
        .await;
        assert!(refused("other").await >= 1.0, "{annotations}");
        assert_eq!(of_catalog.load(Ordering::Relaxed), 0, "{annotations}");
        assert_eq!(of_other.load(Ordering::Relaxed), 0, "{annotations}");
    }
}

#[tokio::test]
async fn the_default_holds_for_what_no_policy_speaks_of_and_yields_to_what_a_service_says() {
    let variables = [("OUTBOUND_MTLS", "required")];
    let preferred = "policy.linkerd.io/outbound-mtls: preferred";
    let client = Client::start(preferred, 1, "", &variables).await;
    let mesh = &client.mesh;
    mesh.write(
        "other.yaml",
        &(service("other", "") + &pod("other-0", "other", mesh.ip(11))),
    );
    let _catalog = origin::echo(client.at(10)).await;
    let _web = origin::echo(mesh.origin()).await;
    let (_other, of_other) = counting(client.at(11)).await;
    let (_address, of_address) = counting(client.at(40)).await;
    // In plaintext by its Service's word; by mutual TLS without one.
    assert_eq!(client.status(9000).await, 200);
    assert_eq!(client.status(9001).await, 200);
    // A Service that says nothing, as requests and as bytes; an address that nobody knows.
    for port in [9002, 9003] {
        eventually("a refusal", async || {
            let response = client.get(port, "/").await;
            assert_ne!(response.status(), 200, "{port}");
            why(&response)
                .contains("mutual TLS is required")
                .then_some(())
        })
        .await;
        let answer = bytes(
            &mut client.connect(port).await,
            b"\x00\x01bytes of no protocol",
        )
        .await;
        assert!(answer.is_empty(), "{port}: {answer:?}");
    }
    let closed = "outbound_tcp_route_close_total";
    let failed = mesh.metric(closed, &[r#"error="unexpected""#]).await;
    assert!(failed >= 2.0, "{failed}");
    assert_eq!(of_other.load(Ordering::Relaxed), 0);
    assert_eq!(of_address.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn only_the_expected_servers_get_calls_bytes_or_tls() {
    let client = Client::start("", 0, "", &[]).await;
    let mesh = &client.mesh;
    let (_web, taken) = counting(mesh.origin()).await;
    let expecting = "policy.linkerd.io/outbound-server-identities: someone.else";
    let web = |annotations: &str| {
        service("other", annotations)
            .replace("app: other", "app: web")
            .replace("8080", "http")
    };
    let identity = async || {
        let labels = [r#"reason="identity""#, r#"parent_name="other""#];
        mesh.metric(REFUSED, &labels).await
    };
    // `other` leads to the workload `web`, which is in the mesh, and not who is expected.
    mesh.write("other.yaml", &web(expecting));
    eventually("a call's refusal", async || {
        let response = call(&client, 9002).await;
        assert_eq!(taken.load(Ordering::Relaxed), 0);
        let is_it = why(&response).contains("policy wants someone.else");
        (is_it && response.headers()["grpc-status"] == "14").then_some(())
    })
    .await;
    let before = identity().await;
    assert!(before >= 1.0);
    let answer = bytes(
        &mut client.connect(9002).await,
        b"\x00\x01bytes of no protocol",
    )
    .await;
    assert!(answer.is_empty(), "{answer:?}");
    assert!(identity().await >= before + 1.0);
    let route = "apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {name: secure, namespace: shop}
spec:
  parentRefs: [{group: core, kind: Service, name: other}]
  rules: [{backendRefs: [{name: other, port: 80}]}]
";
    mesh.write("route.yaml", route);
    eventually("a refusal by the route of TLS", async || {
        let answer = bytes(&mut client.connect(9002).await, &hello()).await;
        assert!(answer.is_empty(), "{answer:?}");
        let closed = "outbound_tls_route_close_total";
        let unexpected = [r#"error="unexpected""#, r#"route_name="secure""#];
        (mesh.metric(closed, &unexpected).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(taken.load(Ordering::Relaxed), 0, "nobody was connected to");
    // Whoever is expected gets them: the application says something first.
    let own = format!(
        "policy.linkerd.io/outbound-server-identities: {}",
        crate::harness::identity("web")
    );
    mesh.write("route.yaml", "# None.\n");
    mesh.write("other.yaml", &web(&own));
    eventually("the expected server", async || {
        is_answered(&client, 9002).await
    })
    .await;
}

#[tokio::test]
async fn the_expected_servers_of_a_sidecar_hold_where_no_policy_names_any() {
    let variables = [("OUTBOUND_SERVER_IDENTITIES", "someone.else,spiffe://root/x")];
    let client = Client::start("", 1, "", &variables).await;
    let mesh = &client.mesh;
    let (_catalog, of_catalog) = counting(client.at(10)).await;
    let (_web, of_web) = counting(mesh.origin()).await;
    // Somebody else, as requests and as bytes; and who has no identity at all.
    for (port, reason, name, says) in [
        (
            9001,
            "identity",
            "web",
            "policy wants someone.else or spiffe://root/x",
        ),
        (9000, "plaintext", "catalog", "has no identity of the mesh"),
    ] {
        let response = client.get(port, "/").await;
        assert_eq!(response.status(), 502, "{name}");
        let why = why(&response);
        assert!(why.contains(says), "{why}");
        let answer = bytes(
            &mut client.connect(port).await,
            b"\x00\x01bytes of no protocol",
        )
        .await;
        assert!(answer.is_empty(), "{name}: {answer:?}");
        let (reason, name) = (
            format!("reason=\"{reason}\""),
            format!("parent_name=\"{name}\""),
        );
        let refused = mesh.metric(REFUSED, &[&*reason, &*name]).await;
        assert!(refused >= 2.0, "{reason} {name}: {refused}");
    }
    assert_eq!(of_catalog.load(Ordering::Relaxed), 0);
    assert_eq!(of_web.load(Ordering::Relaxed), 0, "nobody was connected to");
    // A Service that names its servers has those, and one that says so gets plaintext.
    let own = format!(
        "policy.linkerd.io/outbound-server-identities: {}",
        crate::harness::identity("web")
    );
    let other = service("other", &own)
        .replace("app: other", "app: web")
        .replace("8080", "http");
    mesh.write("other.yaml", &other);
    for port in [9002, 9000] {
        if port == 9000 {
            let preferred = service("catalog", "policy.linkerd.io/outbound-mtls: preferred");
            let catalog = pod("catalog-0", "catalog", mesh.ip(10));
            mesh.write("catalog.yaml", &(preferred + &catalog));
        }
        eventually("who may be spoken to", async || {
            is_answered(&client, port).await
        })
        .await;
    }
}
