//! Connections that are kept: past the certificate they were made with, and past the endpoints that they lead to; and
//! responses that are not held back.

use crate::{
    authorization::only,
    harness::{Mesh, eventually, get, identity, one_http2, within},
    origin,
    outbound::{Client, pod, service},
    outbound_bodies::app,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpStream, sync::Mutex};

/// The sum of a family's series with these labels, on a sidecar's page.
async fn series(admin: SocketAddr, name: &str, labels: &[&str]) -> f64 {
    let (_, page) = linkerd_tests::page(admin, "/metrics").await.unwrap();
    let of_name = page
        .lines()
        .filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    of_name
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[tokio::test]
async fn calls_go_on_past_the_certificate_that_their_connection_was_made_with() {
    let mut mesh = Mesh::without_proxy(&only(&identity("api")));
    mesh.config.issuance_lifetime = Duration::from_secs(3);
    mesh.config.clock_skew = Duration::from_secs(1);
    mesh.start_controller();
    let refresh = ("IDENTITY_MIN_REFRESH", "1s");
    mesh.spawn_proxy(&[refresh]);
    mesh.ready().await;
    let _origin = origin::echo(mesh.origin()).await;
    let listener = SocketAddr::new(mesh.ip(6), 9000);
    let listeners = format!("{listener}=web.shop.svc.cluster.local:80");
    let variables = [refresh, ("OUTBOUND_LISTENERS", &*listeners)];
    let _api = mesh.peer("api", 6, &variables).await;
    let admin = SocketAddr::new(mesh.ip(6), 4191);

    let stream = TcpStream::connect(listener).await.unwrap();
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    // A certificate is valid for four seconds and renewed before: after three renewals the first one is long gone.
    let renewed = "control_identity_cert_refreshes_total";
    while series(admin, renewed, &[r#"result="ok""#]).await < 4.0 {
        let response = within("an answer", send.send_request(get("/")))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
        send.ready().await.unwrap();
    }
    let outbound = [r#"direction="outbound""#, r#"peer="dst""#];
    let opened = series(admin, "tcp_open_total", &outbound).await;
    assert!(
        (2.0..10.0).contains(&opened),
        "one for each certificate: {opened}"
    );
}

#[tokio::test]
async fn a_stream_that_begins_and_waits_for_its_client_is_not_held_back_for_its_status() {
    let client = Client::start("retry.linkerd.io/grpc: unavailable", 1, "", &[]).await;
    let (say, said) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
    let said = Arc::new(Mutex::new(Some(said)));
    let _app = app(client.at(10), move |_| {
        let said = said.clone();
        async move {
            let mut said = said.lock().await.take().unwrap();
            let frames = futures::stream::poll_fn(move |cx| {
                said.poll_recv(cx).map(|next| {
                    next.map(|text| {
                        Ok::<_, Infallible>(Frame::data(Bytes::from_static(text.as_bytes())))
                    })
                })
            });
            let mut response = Response::new(StreamBody::new(frames).boxed());
            let kind = "application/grpc".parse().unwrap();
            response.headers_mut().insert("content-type", kind);
            response
        }
    })
    .await;
    let call = Request::post("http://catalog.shop/shop.Catalog/Chat")
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap();
    let response = within("the head", one_http2(client.connect(9000).await, call)).await;
    // The application says something only once its client has seen that it listens.
    say.send("hello").unwrap();
    drop(say);
    let body = response.unwrap().into_body().collect();
    let body = within("the body", body).await.unwrap().to_bytes();
    assert_eq!(body, "hello");
}

#[tokio::test]
async fn connections_to_endpoints_that_are_none_any_more_are_closed_by_all_workers() {
    let variables = [("CORES", "2"), ("CORES_MIN", "2"), ("CORES_MAX", "2")];
    let client = Client::start("", 2, "", &variables).await;
    let answer = |_| async { Response::new(Full::from("here").boxed()) };
    let _apps = (
        app(client.at(10), answer).await,
        app(client.at(11), answer).await,
    );
    // Connections over HTTP/2 from as many clients that both workers have some to both endpoints.
    let open = || async {
        let request = Request::get("http://catalog.shop/")
            .body(Full::default())
            .unwrap();
        let response = one_http2(client.connect(9000).await, request)
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    };
    for _ in 0..40 {
        open().await;
    }
    let admin = client.mesh.admin();
    let gone = format!("target_addr=\"{}\"", client.at(10));
    let labels = [r#"direction="outbound""#, r#"peer="dst""#, &*gone];
    let count = async || series(admin, "tcp_open_connections", &labels).await;
    assert!(count().await > 0.0, "the endpoint is in use");
    let mut text = service("catalog", "");
    text.push_str(&pod("catalog-1", "catalog", client.mesh.ip(11)));
    client.mesh.write("catalog.yaml", &text);
    eventually(
        "connections to the endpoint that went are closed",
        async || (count().await == 0.0).then_some(()),
    )
    .await;
    open().await;
}
