//! Endpoints that cannot be connected to, and many requests that would like to.

use crate::{
    harness::{eventually, get, one_http1, within},
    outbound::{Client, app, status},
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A host that takes no connection and refuses none: the queue of its listener is full.
struct Silent {
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Silent {
    async fn at(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(0).unwrap();
        let mut queued = Vec::new();
        let brief = std::time::Duration::from_millis(200);
        // The first that is not answered finds the queue full.
        while let Ok(stream) = tokio::time::timeout(brief, TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        Self {
            _listener: listener,
            _queued: queued,
        }
    }
}

#[tokio::test]
async fn requests_that_wait_for_the_same_connection_share_its_fate() {
    let client = Client::start("", 1, "", &[]).await;
    let _silent = Silent::at(client.at(10)).await;
    let io = TokioIo::new(client.connect(9000).await);
    let (send, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), io)
            .await
            .unwrap();
    tokio::spawn(connection);
    let asking = (0..60).map(|_| {
        let mut send = send.clone();
        async move {
            let request = Request::get("http://catalog.shop/")
                .body(Full::default())
                .unwrap();
            send.send_request(request).await.unwrap().status()
        }
    });
    // One second each, in turn, would be a minute.
    for status in within("all answers", futures::future::join_all(asking)).await {
        assert!(matches!(status.as_u16(), 503 | 504), "{status}");
    }
}

#[tokio::test]
async fn many_that_are_refused_at_once_are_one_failure_and_the_endpoint_is_soon_tried_again() {
    let client = Client::start("", 1, "", &[]).await;
    // Were each of them one more failure in a row, the endpoint would be left alone for a minute.
    let asking = (0..60).map(|_| async {
        let stream = client.connect(9000).await;
        one_http1(stream, get("/")).await.unwrap().status()
    });
    let listen = async {
        let name = "outbound_http_balancer_endpoints";
        let pending = [r#"endpoint_state="pending""#];
        eventually("a refusal", async || {
            (client.mesh.metric(name, &pending).await > 0.5).then_some(())
        })
        .await;
        app(client.at(10), |_| status(200)).await
    };
    let (_statuses, _app) = tokio::join!(futures::future::join_all(asking), listen);
    eventually("the endpoint", async || {
        (client.status(9000).await == 200).then_some(())
    })
    .await;
}
