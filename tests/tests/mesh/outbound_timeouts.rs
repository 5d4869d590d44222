//! Limits of time as policy sets them: each at the head of a response and in its body, over both versions of HTTP, what
//! the application is told and what is counted; and what passes two sidecars after its protocol was switched.

use crate::{
    harness::{eventually, get, one_http1, one_http2, within},
    outbound::{App, Client, why},
    outbound_bodies::app,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use std::{convert::Infallible, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_stream::{StreamExt as _, wrappers::IntervalStream};

/// How far an application comes with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// It says nothing.
    Nothing,
    /// The head, and a first piece of the body.
    First,
    /// A piece of the body now and then, in steps of the first limit's half, and its end after five.
    Steps,
}

/// The application `catalog`: the path says how far it comes.
async fn stalling(address: SocketAddr) -> App {
    app(address, |request: Request<Incoming>| {
        let until = match request.uri().path() {
            "/nothing" => Until::Nothing,
            "/first" => Until::First,
            _ => Until::Steps,
        };
        async move {
            if until == Until::Nothing {
                std::future::pending::<()>().await;
            }
            let every = tokio::time::interval(Duration::from_millis(100));
            let pieces = IntervalStream::new(every)
                .map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"piece"))));
            let body = if until == Until::First {
                let rest = tokio_stream::pending();
                StreamBody::new(pieces.take(1).chain(rest)).boxed()
            } else {
                StreamBody::new(pieces.take(5)).boxed()
            };
            Response::new(body)
        }
    })
    .await
}

/// What became of a request: its status and why, or that its body broke off.
async fn outcome(client: &Client, path: &str, is_http2: bool) -> Result<String, u16> {
    let stream = client.connect(9000).await;
    let response = if is_http2 {
        let request = Request::get(format!("http://catalog{path}"));
        let request = request.body(Full::default()).unwrap();
        one_http2(stream, request).await.unwrap()
    } else {
        one_http1(stream, get(path)).await.unwrap()
    };
    let status = response.status().as_u16();
    if status != 200 {
        return Ok(format!("{status} {}", why(&response)));
    }
    let body = within("the body's end", response.into_body().collect()).await;
    body.map(|body| format!("{} bytes", body.to_bytes().len()))
        .map_err(|_| status)
}

/// A limit, its name in texts, its name in metrics, whether it counts all of the time or what passes in silence.
const LIMITS: [(&str, &str, &str, bool); 3] = [
    ("request", "request timeout", "REQUEST_TIMEOUT", true),
    (
        "response",
        "response stream timeout",
        "RESPONSE_STREAM_TIMEOUT",
        true,
    ),
    ("idle", "idle timeout", "IDLE_TIMEOUT", false),
];

#[tokio::test]
async fn each_limit_ends_what_takes_longer_at_the_head_and_in_the_body_and_is_told_from_the_others()
{
    for (limit, text, label, is_total) in LIMITS {
        let annotation = format!("timeout.linkerd.io/{limit}: 250ms");
        let client = Client::start(&annotation, 1, "", &[]).await;
        let _app = stalling(client.at(10)).await;
        for is_http2 in [false, true] {
            let told = outcome(&client, "/nothing", is_http2).await.unwrap();
            assert!(told.starts_with("504 "), "{limit}: {told}");
            assert!(told.ends_with(&format!("{text}: 250ms")), "{limit}: {told}");
            assert_eq!(
                outcome(&client, "/first", is_http2).await,
                Err(200),
                "{limit}"
            );
            // Half a second in all, and never as long in silence.
            let steps = outcome(&client, "/steps", is_http2).await;
            let whole = Ok("25 bytes".to_owned());
            assert_eq!(steps, if is_total { Err(200) } else { whole }, "{limit}");
        }
        let name = "outbound_http_route_request_statuses_total";
        let error = format!("error=\"{label}\"");
        let wanted = if is_total { 6.0 } else { 4.0 };
        eventually("the count", async || {
            let found = client.mesh.metric(name, &[&error]).await;
            ((found - wanted).abs() < f64::EPSILON).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_timeout_is_called_one_in_the_older_series_too() {
    let client = Client::start("timeout.linkerd.io/request: 250ms", 1, "", &[]).await;
    let _app = stalling(client.at(10)).await;
    let told = outcome(&client, "/nothing", false).await.unwrap();
    assert!(told.starts_with("504 "), "{told}");
    assert_eq!(outcome(&client, "/first", false).await, Err(200));
    for (name, labels) in [
        (
            "response_total",
            [r#"error="timeout""#, r#"direction="outbound""#],
        ),
        // At the head: what passed already is nothing that this can be said of.
        (
            "outbound_http_errors_total",
            [r#"error="response timeout""#, ""],
        ),
    ] {
        let wanted = if name == "response_total" { 2.0 } else { 1.0 };
        eventually(name, async || {
            let found = client.mesh.metric(name, &labels).await;
            ((found - wanted).abs() < f64::EPSILON).then_some(())
        })
        .await;
        let all = client.mesh.metric(name, &[labels[1]]).await;
        assert!((all - wanted).abs() < f64::EPSILON, "{name}: {all}");
    }
}

#[tokio::test]
async fn a_profile_limits_all_attempts_until_the_head_of_an_answer() {
    let profile = "apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: catalog.shop.svc.cluster.local, namespace: shop}
spec:
  routes:
  - {name: nothing, condition: {pathRegex: /nothing}, timeout: 250ms, isRetryable: true}
  - {name: steps, condition: {pathRegex: /steps}, timeout: 250ms}
---
";
    let client = Client::start("", 1, profile, &[]).await;
    let _app = stalling(client.at(10)).await;
    for is_http2 in [false, true] {
        let told = outcome(&client, "/nothing", is_http2).await.unwrap();
        assert!(told.starts_with("504 "), "{told}");
        assert!(
            told.ends_with("HTTP response timeout after 250ms"),
            "{told}"
        );
        // The body may take its time.
        let steps = outcome(&client, "/steps", is_http2).await;
        assert_eq!(steps, Ok("25 bytes".to_owned()));
    }
    let errors = "outbound_http_errors_total";
    let counted = client
        .mesh
        .metric(errors, &[r#"error="response timeout""#])
        .await;
    assert!((counted - 2.0).abs() < f64::EPSILON, "{counted}");
    let nothing = [r#"rt_route="nothing""#];
    let requests = client.mesh.metric("route_request_total", &nothing).await;
    assert!((requests - 2.0).abs() < f64::EPSILON, "{requests}");
    let failed = [nothing[0], r#"classification="failure""#];
    let responses = client.mesh.metric("route_response_total", &failed).await;
    assert!((responses - 2.0).abs() < f64::EPSILON, "{responses}");
}

/// An application that switches protocols and then sends back what it reads, until the client's end.
async fn switching(address: SocketAddr) -> App {
    let listener = TcpListener::bind(address).await.unwrap();
    App(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(switch(stream));
        }
    }))
}

async fn switch(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let is_asked = head.contains("upgrade: websocket") && head.contains("sec-websocket-key: abc");
    let status = if is_asked {
        "101 Switching Protocols"
    } else {
        "400 Bad Request"
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: xyz\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

#[tokio::test]
async fn a_websocket_passes_with_its_headers_and_carries_bytes_both_ways_meshed_or_not() {
    let client = Client::start("", 1, "", &[]).await;
    let _plain = switching(client.at(10)).await;
    let _meshed = switching(client.mesh.origin()).await;
    for port in [9000, 9001] {
        let mut stream = client.connect(port).await;
        stream
            .write_all(b"GET /chat HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: abc\r\nsec-websocket-version: 13\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let read = within("the switch", stream.read_buf(&mut answer)).await;
            assert_ne!(read.unwrap(), 0, "port {port}");
        }
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(answer.starts_with("http/1.1 101"), "port {port}: {answer}");
        for header in [
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-accept: xyz",
        ] {
            assert!(answer.contains(header), "port {port}: {answer}");
        }
        // More than any buffer on the way, while what comes back is read.
        let (mut read, mut write) = stream.into_split();
        let sent: Vec<u8> = (0..4_000_000u32).map(|at| (at % 251) as u8).collect();
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let reading = async {
            let mut seen = Vec::new();
            read.read_to_end(&mut seen).await.unwrap();
            seen
        };
        let ((), seen) = within("both ways", async { tokio::join!(writing, reading) }).await;
        assert!(seen == sent, "port {port}: {} bytes", seen.len());
    }
    let meshed = [r#"direction="outbound""#, r#"peer="dst""#, r#"tls="true""#];
    let read = client.mesh.metric("tcp_read_bytes_total", &meshed).await;
    assert!(read >= 4_000_000.0, "{read} by mutual TLS");
}
