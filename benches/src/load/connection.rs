//! Connections of the load client. HTTP/1 is written and read by hand, so that little of the machine's time goes to it.

use super::Arguments;
use crate::{Failure, mesh};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{
    HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{CONTENT_TYPE, TE},
};
use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

/// Room for a response's head and a body of the usual sizes.
const BUFFER: usize = 16 * 1024;
/// Flow-control windows of HTTP/2: large enough never to be waited for.
const WINDOW: u32 = 4 << 20;

/// A byte stream, with or without TLS.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where and how to connect, and what to ask.
pub(super) struct Endpoint {
    address: SocketAddr,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    request: Bytes,
    uri: Uri,
    grpc: bool,
}

/// One connection, or one of the requesters that share one.
pub(super) enum Connection {
    Http1(Http1),
    Http2(Http2),
    /// A new one for each request.
    Fresh(Rc<Endpoint>),
    Raw(Raw),
}

/// A connection to the raw server, which answers a number with so many bytes.
pub(super) struct Raw {
    io: Box<dyn Io>,
    bytes: u64,
    received: BytesMut,
}

/// An HTTP/1.1 connection.
pub(super) struct Http1 {
    io: Box<dyn Io>,
    request: Bytes,
    received: BytesMut,
}

/// A handle to an HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Http2 {
    send: SendRequest<Bytes>,
    uri: Uri,
    grpc: bool,
}

impl Endpoint {
    /// The `number`th address, from 0.
    pub(super) fn new(arguments: &Arguments, number: u16) -> Result<Self, Failure> {
        let Arguments { address, path, .. } = arguments;
        let address = &match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(
                IpAddr::V4((u32::from(ip) + u32::from(number)).into()),
                address.port(),
            ),
            IpAddr::V6(_) => *address,
        };
        let tls = match (&arguments.tls, &arguments.server_name) {
            (Some(folder), Some(name)) => Some((
                mesh::client_config(folder)?,
                ServerName::try_from(name.clone())?,
            )),
            _ => None,
        };
        let close = if arguments.fresh {
            "connection: close\r\n"
        } else {
            ""
        };
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: bench\r\n{close}\r\n");
        Ok(Self {
            address: *address,
            tls,
            request: Bytes::from(request),
            uri: format!("http://{address}{path}").parse()?,
            grpc: arguments.grpc,
        })
    }

    async fn connect(&self) -> Result<Box<dyn Io>, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some((config, name)) => {
                let connector = TlsConnector::from(config.clone());
                Box::new(connector.connect(name.clone(), stream).await?)
            }
        })
    }
}

impl Connection {
    /// As many as may have a request in flight at a time: `streams` for HTTP/2, one for HTTP/1.
    pub(super) fn requesters(self, streams: usize) -> Vec<Self> {
        match self {
            Self::Http1(_) | Self::Fresh(_) | Self::Raw(_) => vec![self],
            Self::Http2(handle) => vec![handle; streams].into_iter().map(Self::Http2).collect(),
        }
    }

    /// One request and its whole response, which must be 200.
    pub(super) async fn exchange(&mut self) -> Result<(), Failure> {
        match self {
            Self::Http1(connection) => connection.exchange().await,
            Self::Http2(connection) => connection.exchange().await,
            Self::Fresh(endpoint) => Http1::open(endpoint).await?.exchange().await,
            Self::Raw(connection) => connection.exchange().await,
        }
    }
}

impl Raw {
    pub(super) async fn open(endpoint: &Endpoint, bytes: u64) -> Result<Self, Failure> {
        Ok(Self {
            io: endpoint.connect().await?,
            bytes,
            received: BytesMut::with_capacity(16 * BUFFER),
        })
    }

    async fn exchange(&mut self) -> Result<(), Failure> {
        self.io.write_u64(self.bytes).await?;
        self.io.flush().await?;
        let mut missing = self.bytes;
        while missing > 0 {
            self.received.clear();
            let read = self.io.read_buf(&mut self.received).await?;
            if read == 0 {
                return Err("the connection was closed within an answer".into());
            }
            missing = missing.saturating_sub(read as u64);
        }
        Ok(())
    }
}

impl Http1 {
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Self, Failure> {
        Ok(Self {
            io: endpoint.connect().await?,
            request: endpoint.request.clone(),
            received: BytesMut::new(),
        })
    }

    async fn exchange(&mut self) -> Result<(), Failure> {
        self.io.write_all(&self.request).await?;
        self.io.flush().await?;
        let length = loop {
            if let Some(length) = response_length(&self.received)? {
                break length;
            }
            self.receive().await?;
        };
        while self.received.len() < length {
            self.receive().await?;
        }
        // One request at a time: nothing can follow its response.
        self.received.clear();
        Ok(())
    }

    async fn receive(&mut self) -> Result<(), Failure> {
        self.received.reserve(BUFFER);
        match self.io.read_buf(&mut self.received).await? {
            0 => Err("the connection was closed within a response".into()),
            _ => Ok(()),
        }
    }
}

/// Bytes of head and body together, once the head is complete.
fn response_length(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else {
        return Ok(None);
    };
    if response.code != Some(200) {
        let code = response.code.unwrap_or_default();
        return Err(format!("answered with {code}").into());
    }
    let body = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .ok_or("a response without content-length")?;
    Ok(Some(head + str::from_utf8(body.value)?.parse::<usize>()?))
}

impl Http2 {
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Self, Failure> {
        let io = endpoint.connect().await?;
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(io)
            .await?;
        // The requesters see the connection's failure themselves.
        tokio::spawn(connection);
        Ok(Self {
            send,
            uri: endpoint.uri.clone(),
            grpc: endpoint.grpc,
        })
    }

    async fn exchange(&mut self) -> Result<(), Failure> {
        let mut request = Request::new(());
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        let mut send = self.send.clone().ready().await?;
        if self.grpc {
            *request.method_mut() = Method::POST;
            let headers = request.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        let (response, mut body) = send.send_request(request, !self.grpc)?;
        if self.grpc {
            // An empty message in gRPC's framing.
            body.send_data(Bytes::from_static(&[0; 5]), true)?;
        }
        let response = response.await?;
        if response.status() != StatusCode::OK {
            return Err(format!("answered with {}", response.status()).into());
        }
        let in_head = response.headers().get("grpc-status").cloned();
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            let length = data?.len();
            body.flow_control().release_capacity(length)?;
        }
        if self.grpc {
            let trailers = body.trailers().await?.unwrap_or_default();
            let status = trailers.get("grpc-status").or(in_head.as_ref());
            if status.is_none_or(|status| status != "0") {
                return Err(format!("ended with gRPC status {status:?}").into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_complete_when_head_and_body_are() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        let head = whole.len() - 3;
        for split in 0..head {
            assert!(
                matches!(response_length(&whole[..split]), Ok(None)),
                "{split}"
            );
        }
        assert!(
            matches!(response_length(&whole[..head]), Ok(Some(length)) if length == whole.len())
        );
    }

    #[test]
    fn only_200_counts_as_an_answer() {
        let refused = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
        let failure = response_length(refused).expect_err("403 is a failure");
        assert_eq!(failure.to_string(), "answered with 403");
    }
}
