//! The application behind the proxies: answers `GET /N` with N bytes, as fast as it can.

use crate::Failure;
use bytes::Bytes;
use clap::Args;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{convert::Infallible, future::ready, net::SocketAddr};
use tokio::net::TcpListener;

/// Largest body it serves, in bytes.
const LARGEST: usize = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Address to accept on.
    #[arg(long)]
    listen: SocketAddr,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let bytes = Bytes::from(vec![b'x'; LARGEST]);
    let listener = TcpListener::bind(arguments.listen).await?;
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
                    service_fn(|request| ready(Ok::<_, Infallible>(answer(&request, &bytes)))),
                )
                .await;
        });
    }
}

fn answer(request: &Request<Incoming>, bytes: &Bytes) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    match path.trim_start_matches('/').parse::<usize>() {
        Ok(length) if length <= bytes.len() => Response::new(Full::new(bytes.slice(..length))),
        _ => {
            let mut response = Response::new(Full::from("the path is /N, with N up to 1048576\n"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}
