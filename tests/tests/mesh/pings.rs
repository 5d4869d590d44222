//! What PINGs of HTTP/2 find out: clients that are gone, and how much may be on its way.

use crate::{
    authorization::server,
    frames::{self, ACK, PING, frame},
    harness::{Mesh, within},
    origin,
};
use bytes::Bytes;
use http::Request;
use std::future::poll_fn;
use tokio::net::TcpStream;

/// A client of HTTP/2 that says who it is and then no more than its test has it say.
async fn client(mesh: &Mesh) -> TcpStream {
    let mut stream = mesh.connect_from(5, mesh.web()).await;
    frames::begin(&mut stream).await.unwrap();
    stream
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_gone_and_one_that_does_stays() {
    let variables = [
        ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "100ms"),
        ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "1s"),
    ];
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let mut gone = client(&mesh).await;
    let mut here = client(&mesh).await;
    let ends = async {
        let mut asked = 0;
        while let Ok((kind, ..)) = within("the end", frames::next(&mut gone)).await {
            asked += usize::from(kind == PING);
        }
        assert_eq!(asked, 1, "who does not answer is not asked again");
    };
    // For longer than an answer may take.
    let stays = async {
        for _ in 0..20 {
            let ping = loop {
                let frame = within("a PING", frames::next(&mut here)).await;
                if let (PING, 0, _, content) = frame.expect("an open connection") {
                    break content;
                }
            };
            frame(&mut here, PING, ACK, 0, &ping).await.unwrap();
        }
    };
    tokio::join!(ends, stays);
}

#[tokio::test]
async fn windows_that_follow_the_traffic_grow_with_it() {
    let variables = [("INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", "true")];
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let _origin = origin::echo(mesh.origin()).await;
    let stream = mesh.connect_from(5, mesh.web()).await;
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::post("http://web/").body(()).unwrap();
    let (_response, mut body) = send.send_request(request, false).unwrap();
    // Until more may be on its way than the first window lets pass.
    body.reserve_capacity(1024 * 1024);
    while body.capacity() <= 65_535 {
        let room = poll_fn(|cx| body.poll_capacity(cx));
        let room = within("room", room).await.expect("an open stream").unwrap();
        if room <= 65_535 {
            body.send_data(Bytes::from(vec![b'x'; room]), false)
                .unwrap();
            body.reserve_capacity(1024 * 1024);
        }
    }
    connection.abort();
}
