//! The yardstick: a reverse proxy of hyper 1, hyper-util's pooled client and rustls, with none of a mesh's functions.
//!
//! `bench inbound` puts it where a sidecar would be. What a sidecar costs beyond it is the cost of its own functions.
//! One current-thread runtime; a request goes to the origin in its own HTTP version unless `--to-http1` is given.

use clap::Parser;
use http::{
    Request, Response, Uri, Version,
    uri::{Authority, Scheme},
};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{error::Error, net::SocketAddr, path::PathBuf, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        server::WebPkiClientVerifier,
        version::TLS13,
    },
};

type Failure = Box<dyn Error + Send + Sync>;

/// First byte of a TLS record that carries a handshake message (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// A bare reverse proxy to compare sidecars with.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address to accept on.
    #[arg(long)]
    listen: SocketAddr,
    /// Address of the application.
    #[arg(long)]
    origin: SocketAddr,
    /// PEM file of the server's certificate chain: connections that begin with a TLS handshake are terminated.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of the key of `--tls-cert`.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// PEM file of the certificates that sign clients: client certificates are then asked for and verified.
    #[arg(long, requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Carries HTTP/2 requests to the origin as HTTP/1.1.
    #[arg(long)]
    to_http1: bool,
    /// Folder with `ca.pem`, `client.pem` and `client.key`: one connection of HTTP/2 in mutual TLS carries all requests
    /// to the origin, as a client's sidecar does it.
    #[arg(long, requires = "origin_name")]
    origin_tls: Option<PathBuf>,
    /// The name that the origin must prove with `--origin-tls`.
    #[arg(long)]
    origin_name: Option<String>,
}

/// The pooled clients and where they connect to.
#[derive(Clone)]
struct Origin {
    authority: Authority,
    http1: Client<HttpConnector, Incoming>,
    http2: Client<HttpConnector, Incoming>,
    to_http1: bool,
    meshed: Option<Arc<Meshed>>,
}

/// The one connection to another proxy.
struct Meshed {
    address: SocketAddr,
    tls: TlsConnector,
    name: ServerName<'static>,
    connection: Mutex<Option<SendRequest<Incoming>>>,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let tls = acceptor(&arguments)?;
    let origin = Origin::new(&arguments)?;
    let listener = TcpListener::bind(arguments.listen).await?;
    loop {
        // Accepting fails when descriptors run out; the connections that are open go on.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let (tls, origin) = (tls.clone(), origin.clone());
        tokio::spawn(async move {
            // A connection's failure is the client's to notice: this process logs nothing.
            let _ = connection(stream, tls, origin).await;
        });
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    origin: Origin,
) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    if let Some(tls) = tls {
        let mut first = [0];
        stream.peek(&mut first).await?;
        if first == [TLS_HANDSHAKE] {
            return serve(tls.accept(stream).await?, origin).await;
        }
    }
    serve(stream, origin).await
}

async fn serve<IO>(io: IO, origin: Origin) -> Result<(), Failure>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    auto::Builder::new(TokioExecutor::new())
        .serve_connection(
            TokioIo::new(io),
            service_fn(|request| origin.clone().send(request)),
        )
        .await
}

impl Origin {
    fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        Ok(Self {
            authority: arguments.origin.to_string().parse()?,
            http1: builder.build(connector.clone()),
            http2: builder.http2_only(true).build(connector),
            to_http1: arguments.to_http1,
            meshed: Meshed::new(arguments)?.map(Arc::new),
        })
    }

    async fn send(self, request: Request<Incoming>) -> Result<Response<Incoming>, Failure> {
        match &self.meshed {
            Some(meshed) => meshed.send(request, &self.authority).await,
            None => self.send_plain(request).await,
        }
    }

    fn send_plain(
        &self,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> + use<> {
        let client = if request.version() == Version::HTTP_2 && !self.to_http1 {
            &self.http2
        } else {
            *request.version_mut() = Version::HTTP_11;
            &self.http1
        };
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        let response = Uri::from_parts(parts).map(|uri| {
            *request.uri_mut() = uri;
            client.request(request)
        });
        async move { Ok(response?.await?) }
    }
}

impl Meshed {
    fn new(arguments: &Arguments) -> Result<Option<Self>, Failure> {
        let (Some(folder), Some(name)) = (&arguments.origin_tls, &arguments.origin_name) else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
        let chain = vec![CertificateDer::from_pem_file(folder.join("client.pem"))?];
        let key = PrivateKeyDer::from_pem_file(folder.join("client.key"))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Some(Self {
            address: arguments.origin,
            tls: TlsConnector::from(Arc::new(config)),
            name: ServerName::try_from(name.clone())?,
            connection: Mutex::new(None),
        }))
    }

    async fn send(
        &self,
        mut request: Request<Incoming>,
        authority: &Authority,
    ) -> Result<Response<Incoming>, Failure> {
        let version = request.version();
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(authority.clone());
        *request.uri_mut() = Uri::from_parts(parts)?;
        *request.version_mut() = Version::HTTP_2;
        let mut response = self.connection().await?.send_request(request).await?;
        *response.version_mut() = version;
        Ok(response)
    }

    async fn connection(&self) -> Result<SendRequest<Incoming>, Failure> {
        let mut kept = self.connection.lock().await;
        if let Some(send) = kept.as_ref().filter(|send| !send.is_closed()) {
            return Ok(send.clone());
        }
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(self.tls.connect(self.name.clone(), stream).await?);
        let (send, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        *kept = Some(send.clone());
        Ok(send)
    }
}

fn acceptor(arguments: &Arguments) -> Result<Option<TlsAcceptor>, Failure> {
    let (Some(certificate), Some(key)) = (&arguments.tls_cert, &arguments.tls_key) else {
        return Ok(None);
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13])?;
    let builder = match &arguments.tls_client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(ca)? {
                roots.add(certificate?)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}
