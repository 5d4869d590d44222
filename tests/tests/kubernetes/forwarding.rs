//! What a kubelet serves for `kubectl port-forward`: ports of its Pods, by a WebSocket that the API server passes on to it.
//! Of the protocol `v4.channel.k8s.io` each message begins with the number of a channel; a port has two, for bytes and for what
//! went wrong, and each begins with a message that names the port.

#![expect(clippy::result_large_err, reason = "the type is that of the handshake")]

use crate::server::ApiServer;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Error, Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

/// What it speaks.
const PROTOCOL: &str = "v4.channel.k8s.io";

/// Where ports of Pods are, by `NAMESPACE/NAME` and number.
type Ports = Arc<Mutex<BTreeMap<(String, u16), SocketAddr>>>;

/// A kubelet; ends with the test.
pub(crate) struct Kubelet {
    node: String,
    ports: Ports,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Kubelet {
    /// Serves for a node, and tells the API server where.
    pub(crate) async fn start(api: &ApiServer, node: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let ports = Ports::default();
        let server = tokio::spawn(serve(listener, ports.clone()));
        let metadata = json!({"name": node});
        api.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}))
            .await;
        api.set_status(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": metadata,
            "status": {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            },
        }))
        .await;
        Self {
            node: node.to_owned(),
            ports,
            server,
        }
    }

    /// Takes a Pod that has no node yet, some of whose ports are at addresses of this host.
    pub(crate) async fn take(
        &self,
        api: &ApiServer,
        (namespace, name): (&str, &str),
        ports: &[(u16, SocketAddr)],
    ) {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.node},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request.body(binding.to_string().into_bytes()).unwrap();
        api.client.request_text(request).await.unwrap();
        let mut known = self.ports.lock().unwrap();
        for (port, to) in ports {
            known.insert((format!("{namespace}/{name}"), *port), *to);
        }
    }
}

async fn serve(listener: TcpListener, ports: Ports) {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into());
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, ports) = (acceptor.clone(), ports.clone());
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await.unwrap();
            let mut asked = None;
            let socket = accept_hdr_async(stream, |request: &Request, response: Response| {
                asked = Some(read(request)?);
                Ok(chosen(response))
            });
            let socket = socket.await.unwrap();
            let (pod, port) = asked.unwrap();
            let to = ports.lock().unwrap().get(&(pod.clone(), port)).copied();
            // The client may go first.
            let _ = forward(socket, &pod, port, to).await;
        });
    }
}

/// Pod and port of a request `/portForward/NAMESPACE/NAME?port=PORT`.
fn read(request: &Request) -> Result<(String, u16), ErrorResponse> {
    let offered = request.headers().get(SEC_WEBSOCKET_PROTOCOL);
    let offered = offered.and_then(|names| names.to_str().ok());
    let offered = offered.unwrap_or_default();
    let pod = request.uri().path().strip_prefix("/portForward/");
    let query = request.uri().query().unwrap_or_default();
    let port = query
        .strip_prefix("port=")
        .and_then(|port| port.parse().ok());
    if let (Some(pod), Some(port)) = (pod, port)
        && offered.split(", ").any(|name| name == PROTOCOL)
    {
        return Ok((pod.to_owned(), port));
    }
    let mut refused = ErrorResponse::new(Some(format!("{} {offered}", request.uri())));
    *refused.status_mut() = StatusCode::BAD_REQUEST;
    Err(refused)
}

fn chosen(mut response: Response) -> Response {
    let protocol = HeaderValue::from_static(PROTOCOL);
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    response
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut all = vec![channel];
    all.extend(bytes);
    Message::binary(all)
}

async fn forward<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: WebSocketStream<S>,
    pod: &str,
    port: u16,
    to: Option<SocketAddr>,
) -> Result<(), Error> {
    for channel in [0, 1] {
        socket.send(message(channel, &port.to_le_bytes())).await?;
    }
    let connected = match to {
        Some(to) => TcpStream::connect(to).await,
        None => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
    };
    let (mut from_pod, mut to_pod) = match connected {
        Ok(stream) => stream.into_split(),
        Err(error) => {
            let why = format!("an error occurred forwarding {port} of {pod}: {error}");
            socket.send(message(1, why.as_bytes())).await?;
            return socket.close(None).await;
        }
    };
    let (mut sink, mut source) = socket.split();
    let out = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match from_pod.read(&mut buffer).await? {
                0 => return sink.close().await,
                length => sink.send(message(0, &buffer[..length])).await?,
            }
        }
    };
    let into = async {
        while let Some(message) = source.next().await {
            if let Message::Binary(bytes) = message? {
                let bytes: Bytes = bytes;
                assert_eq!(bytes[0], 0, "the channel of bytes");
                to_pod.write_all(&bytes[1..]).await?;
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = out => ended,
        ended = into => ended,
    }
}
