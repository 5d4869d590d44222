//! A client's certificate that expires while its connection lives: from then on the client is nobody, for everyone.

use crate::{
    authorization::{only, server},
    harness::{Mesh, eventually, identity, within},
    origin,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;

/// A connection whose client's certificate ends in a few seconds. There is time to use it once before.
async fn short_lived(mesh: &Mesh) -> SendRequest<Full<Bytes>> {
    let client = mesh.client_for(&identity("api"), Duration::from_secs(4));
    let io = TokioIo::new(mesh.connect_tls(&client).await);
    let (send, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    send
}

async fn ask(send: &mut SendRequest<Full<Bytes>>, path: &str) -> Response<Incoming> {
    let request = Request::get(format!("http://web{path}")).header("l5d-sent", "by the client");
    let request = request.body(Full::default()).unwrap();
    within("an answer", send.send_request(request))
        .await
        .unwrap()
}

#[tokio::test]
async fn an_identity_that_has_expired_is_told_to_nobody() {
    let variables = [("ACCESS_LOG", "json")];
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let _origin = origin::echo(mesh.origin()).await;
    let mut send = short_lived(&mesh).await;
    let mut said = async |path: &str| {
        let body = ask(&mut send, path).await.into_body();
        let body = body.collect().await.unwrap().to_bytes();
        String::from_utf8_lossy(&body).into_owned()
    };
    let before = said("/before").await;
    let id = format!("l5d-client-id: {}", identity("api"));
    assert!(
        before.contains(&id) && before.contains("l5d-sent"),
        "{before}"
    );
    let after = eventually("the end of the identity", async || {
        let said = said("/after").await;
        (!said.contains(&id)).then_some(said)
    })
    .await;
    assert!(!after.contains("l5d-"), "{after}");
    // Logs and metrics say what the application is told.
    said("/later").await;
    let line = eventually("a line of the access log", async || {
        let log = mesh.said();
        let line = log.lines().find(|line| line.contains("/later"));
        line.map(str::to_owned)
    })
    .await;
    assert!(line.contains(r#""client.id":"""#), "{line}");
    let nobody = mesh.metric("request_total", &[r#"client_id="""#]).await;
    assert!(nobody >= 2.0, "{nobody}");
    let unread = ask(&mut send, "/../x").await;
    assert!(!unread.headers().contains_key("l5d-proxy-error"));
}

#[tokio::test]
async fn an_identity_that_has_expired_is_let_in_nowhere_and_hears_no_reason() {
    let mesh = Mesh::start(&only(&identity("api"))).await;
    let _origin = origin::echo(mesh.origin()).await;
    let mut send = short_lived(&mesh).await;
    assert_eq!(ask(&mut send, "/").await.status(), 200);
    let refused = eventually("a denial", async || {
        let response = ask(&mut send, "/").await;
        (response.status() == 403).then_some(response)
    })
    .await;
    assert!(!refused.headers().contains_key("l5d-proxy-error"));
    let (_, denials) = mesh.get_admin("/denials").await.unwrap();
    assert!(!denials.contains(&identity("api")), "{denials}");
    let denied = ["client_id=\"\""];
    assert!(mesh.metric("inbound_http_authz_deny_total", &denied).await >= 1.0);
}
