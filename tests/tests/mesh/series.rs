//! What strangers can do to the metrics, and what the numbers say about whose time it was.

use crate::{
    authorization::server,
    harness::{Mesh, eventually, get, within},
    origin,
};
use http_body_util::BodyExt as _;
use linkerd_tls::Id;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// Connects by TLS for somebody else, and is gone.
async fn stranger(mesh: &Mesh, name: &str) {
    let client = mesh.client("api");
    let server: Id = name.parse().unwrap();
    let stream = mesh.connect_from(5, mesh.web()).await;
    let config = client.client_config();
    let refused = linkerd_tls::connect(&config, stream, name, &server, None);
    let refused = within("the end", refused).await;
    assert!(refused.is_err(), "the application speaks no TLS");
}

/// The lines of a family that name a server that a client asked for.
async fn asked_for(mesh: &Mesh, family: &str) -> Vec<String> {
    let (_, page) = mesh.get_admin("/metrics").await.unwrap();
    let begin = format!("{family}{{");
    let lines = page.lines().filter(|line| {
        line.starts_with(&begin)
            && line.contains(r#"tls="opaque""#)
            && line.contains("peer=\"src\"")
    });
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn names_that_strangers_choose_neither_fill_the_page_nor_go_uncounted() {
    let variables = [("METRICS_MAX_SERIES", "40")];
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let _origin = origin::scripted(mesh.origin(), b"", b"", b"").await;
    for n in 0..100 {
        stranger(&mesh, &format!("host-{n}.example")).await;
    }
    eventually("each of them, counted", async || {
        let count = mesh
            .metric("tcp_open_total", &[r#"peer="src""#, r#"tls="opaque""#])
            .await;
        ((count - 100.0).abs() < f64::EPSILON).then_some(())
    })
    .await;
    let lines = asked_for(&mesh, "tcp_open_total").await;
    assert!(lines.len() <= 40, "{lines:#?}");
}

#[tokio::test]
async fn waiting_for_the_application_is_not_time_in_the_proxy() {
    let mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let listener = TcpListener::bind(mesh.origin()).await.unwrap();
    let wait = Duration::from_secs(1);
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Takes its time, whatever comes.
        let mut head = Vec::new();
        let _ = tokio::time::timeout(wait, stream.read_to_end(&mut head)).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        stream
    });
    let response = mesh.send_plain(5, get("/")).await;
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
    let sum = async |family: &str| {
        let web = [r#"parent_name="web-http""#];
        assert!((mesh.metric(&format!("{family}_count"), &web).await - 1.0).abs() < f64::EPSILON);
        mesh.metric(&format!("{family}_sum"), &web).await
    };
    let waited = sum("inbound_http_origin_duration_seconds").await;
    assert!(waited >= wait.as_secs_f64(), "{waited}");
    let own = sum("inbound_http_proxy_duration_seconds").await;
    assert!(own < wait.as_secs_f64(), "{own} of {waited}");
    drop(application.await);
}
