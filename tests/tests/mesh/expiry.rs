//! A client's certificate that expires while its connection lives: the client is asked to come again before, and if it does
//! not, it is nobody from then on, for everyone.

use crate::{
    authorization::{only, server},
    harness::{Mesh, eventually, identity, one_http1, within},
    origin,
};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linkerd_tls::{ClientStream, LocalIdentity};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How long the certificates of these clients last, beside what is allowed for other clocks.
const LIFE: Duration = Duration::from_secs(1);

/// Connections whose certificate ends soon, each with a request that has begun.
struct ShortLived<'m> {
    mesh: &'m Mesh,
    client: Arc<LocalIdentity>,
    begun: HashMap<&'static str, ClientStream<TcpStream>>,
}

/// Requests may take longer than the certificate lasts.
const PATIENT: (&str, &str) = ("INBOUND_HTTP_HEADER_READ_TIMEOUT", "60s");

impl<'m> ShortLived<'m> {
    async fn open(mesh: &'m Mesh, paths: &[&'static str]) -> Self {
        let client = mesh.client_for(&identity("api"), LIFE);
        let mut begun = HashMap::new();
        for path in paths {
            let mut stream = mesh.connect_tls(&client).await;
            let line = format!("GET {path} HTTP/1.1\r\n");
            stream.write_all(line.as_bytes()).await.unwrap();
            begun.insert(*path, stream);
        }
        Self {
            mesh,
            client,
            begun,
        }
    }

    /// Waits until the certificate makes no new connections.
    async fn expire(&self) {
        eventually("the certificate's end", async || {
            let address = self.mesh.web();
            let connecting = self.mesh.connect_tls_to(address, &self.client, None);
            let stream = Box::pin(connecting).await;
            let Ok(stream) = stream else {
                return Some(());
            };
            let answer = Box::pin(one_http1(stream, request()));
            let answer = within("an answer", answer).await;
            answer.is_err().then_some(())
        })
        .await;
    }

    /// Ends a request, and gives what comes.
    async fn end(&mut self, path: &'static str) -> String {
        let mut stream = self.begun.remove(path).expect("it has begun");
        let rest = b"host: web\r\nl5d-sent: by the client\r\n\r\n";
        stream.write_all(rest).await.unwrap();
        let mut answer = String::new();
        stream.shutdown().await.unwrap();
        within("an answer", stream.read_to_string(&mut answer))
            .await
            .unwrap();
        answer
    }
}

fn request() -> Request<Full<Bytes>> {
    let request = Request::get("http://web/").header(header::HOST, "web");
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn an_identity_that_has_expired_is_told_to_nobody() {
    let variables = [("ACCESS_LOG", "json"), PATIENT];
    let policy = server("accessPolicy: all-unauthenticated");
    let mesh = Mesh::start_with(&policy, &variables).await;
    let _origin = origin::echo(mesh.origin()).await;
    let paths = ["/before", "/after", "/later", "/../x"];
    let mut clients = ShortLived::open(&mesh, &paths).await;
    let before = clients.end("/before").await;
    let id = format!("l5d-client-id: {}", identity("api"));
    assert!(
        before.contains(&id) && before.contains("l5d-sent"),
        "{before}"
    );
    clients.expire().await;
    let after = clients.end("/after").await;
    assert!(after.contains("GET /after"), "{after}");
    assert!(!after.contains("l5d-"), "{after}");
    // Logs and metrics say what the application is told.
    clients.end("/later").await;
    let line = eventually("a line of the access log", async || {
        let log = mesh.said();
        let line = log.lines().find(|line| line.contains("/later"));
        line.map(str::to_owned)
    })
    .await;
    assert!(line.contains(r#""client.id":"""#), "{line}");
    let nobody = mesh.metric("request_total", &[r#"client_id="""#]).await;
    assert!(nobody >= 2.0, "{nobody}");
    let unread = clients.end("/../x").await;
    assert!(!unread.contains("l5d-proxy-error"), "{unread}");
}

#[tokio::test]
async fn an_identity_that_has_expired_is_let_in_nowhere_and_hears_no_reason() {
    let mesh = Mesh::start_with(&only(&identity("api")), &[PATIENT]).await;
    let _origin = origin::echo(mesh.origin()).await;
    let mut clients = ShortLived::open(&mesh, &["/before", "/after"]).await;
    let before = clients.end("/before").await;
    assert!(before.starts_with("HTTP/1.1 200"), "{before}");
    clients.expire().await;
    let refused = clients.end("/after").await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert!(!refused.contains("l5d-proxy-error"), "{refused}");
    let (_, denials) = mesh.get_admin("/denials").await.unwrap();
    assert!(!denials.contains(&identity("api")), "{denials}");
    let denied = ["client_id=\"\""];
    assert!(mesh.metric("inbound_http_authz_deny_total", &denied).await >= 1.0);
}

/// A client that keeps its connection, as proxies do that know of a newer certificate only when they connect: it is told
/// to go before its identity ends, and nothing is refused.
#[tokio::test]
async fn an_http2_client_is_asked_to_come_again_before_its_identity_ends() {
    let mesh = Mesh::start(&only(&identity("api"))).await;
    let _origin = origin::echo(mesh.origin()).await;
    let mut connections = 0;
    let connect = async |life: Duration| {
        let client = mesh.client_for(&identity("api"), life);
        let io = TokioIo::new(mesh.connect_tls(&client).await);
        let (send, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        send
    };
    let mut send: SendRequest<Full<Bytes>> = connect(LIFE).await;
    eventually("the third connection", async || {
        match within("an answer", send.send_request(request())).await {
            Ok(response) => assert_eq!(response.status(), 200),
            // The connection takes no more requests: nothing was sent.
            Err(error) => {
                assert!(error.is_canceled(), "{error:?}");
                connections += 1;
                send = connect(LIFE).await;
            }
        }
        (connections == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_http1_client_is_asked_to_come_again_before_its_identity_ends() {
    let mesh = Mesh::start(&only(&identity("api"))).await;
    let _origin = origin::echo(mesh.origin()).await;
    let client = mesh.client_for(&identity("api"), LIFE);
    let io = TokioIo::new(mesh.connect_tls(&client).await);
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    eventually("the last answer", async || {
        let response = within("an answer", send.send_request(request())).await;
        let response = response.unwrap();
        assert_eq!(response.status(), 200);
        let is_last = response.headers().contains_key(header::CONNECTION);
        response.into_body().collect().await.unwrap();
        is_last.then_some(())
    })
    .await;
    within("the end", connection).await.unwrap().unwrap();
}
