//! The application behind the proxies: answers `GET /N` with N bytes, as fast as it can.

use crate::Failure;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{convert::Infallible, future::ready, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// Largest body it serves, in bytes.
const LARGEST: usize = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Address to accept on.
    #[arg(long)]
    listen: SocketAddr,
    /// Address of the raw server: it answers each number (eight bytes, the highest first) with so many bytes.
    #[arg(long)]
    raw: Option<SocketAddr>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let bytes = Bytes::from(vec![b'x'; LARGEST]);
    let listener = TcpListener::bind(arguments.listen).await?;
    if let Some(address) = arguments.raw {
        tokio::spawn(serve_raw(TcpListener::bind(address).await?, bytes.clone()));
    }
    println!("listening on {}", arguments.listen);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        stream.set_nodelay(true)?;
        let bytes = bytes.clone();
        tokio::spawn(async move {
            // What a client does to its connection is its own affair.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(
                    TokioIo::new(stream),
                    service_fn(|request| serve(request, bytes.clone())),
                )
                .await;
        });
    }
}

async fn serve_raw(listener: TcpListener, bytes: Bytes) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let bytes = bytes.clone();
        tokio::spawn(async move {
            while let Ok(mut missing) = stream.read_u64().await {
                while missing > 0 {
                    let length = usize::try_from(missing).map_or(LARGEST, |m| m.min(LARGEST));
                    let part = bytes.get(..length).unwrap_or(&bytes);
                    if stream.write_all(part).await.is_err() {
                        return;
                    }
                    missing -= part.len() as u64;
                }
            }
        });
    }
}

type Answer = Response<Either<Full<Bytes>, Grpc>>;
type Grpc = http_body_util::combinators::WithTrailers<
    Full<Bytes>,
    std::future::Ready<Option<Result<HeaderMap, Infallible>>>,
>;

/// Reads a call to its end before it answers: a server that does not resets each stream, which is another thing to
/// measure.
async fn serve(mut request: Request<Incoming>, bytes: Bytes) -> Result<Answer, Infallible> {
    let body = request.body_mut();
    while !body.is_end_stream() && matches!(body.frame().await, Some(Ok(_))) {}
    Ok(answer(&request, &bytes))
}

fn answer(request: &Request<Incoming>, bytes: &Bytes) -> Answer {
    let path = request.uri().path();
    match path.trim_start_matches('/').parse::<usize>() {
        Ok(length) if length <= bytes.len() => {
            let body = Full::new(bytes.slice(..length));
            let kind = request.headers().get(CONTENT_TYPE);
            if kind.is_none_or(|kind| kind != "application/grpc") {
                return Response::new(Either::Left(body));
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let body = body.with_trailers(ready(Some(Ok(trailers))));
            let mut response = Response::new(Either::Right(body));
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        _ => {
            let mut response = Response::new(Either::Left(Full::from(
                "the path is /N, with N up to 1048576\n",
            )));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}
