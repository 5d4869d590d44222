//! A part is never taken for all: bodies whose streams are reset without an error, where more would follow.

use crate::{
    frames::{self, Act},
    harness::within,
    outbound::{App, Client, status},
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::convert::Infallible;
use tokio::{net::TcpListener, sync::mpsc};

#[tokio::test]
async fn a_response_that_is_cut_short_without_an_error_reaches_the_client_as_broken() {
    let client = Client::start("", 1, "", &[]).await;
    let _app = frames::serve(client.at(10), |_| Act::Cut(frames::NO_ERROR)).await;
    let io = TokioIo::new(client.connect(9000).await);
    let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://catalog.shop/")
        .body(Full::<Bytes>::default())
        .unwrap();
    // It may break before the head was passed on.
    if let Ok(response) = within("an answer", send.send_request(request)).await {
        let body = within("the body", response.into_body().collect()).await;
        assert!(body.is_err(), "{body:?}");
    }
    let reset = [r#"error="RESET""#];
    let name = "outbound_http_route_backend_response_statuses_total";
    let broken = client.mesh.metric(name, &reset).await;
    assert!((broken - 1.0).abs() < f64::EPSILON, "{broken}");
}

#[tokio::test]
async fn a_request_that_is_cut_short_without_an_error_reaches_the_application_as_broken() {
    let client = Client::start("", 1, "", &[]).await;
    let listener = TcpListener::bind(client.at(10)).await.unwrap();
    let (told, mut heard) = mpsc::unbounded_channel();
    let _app = App(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let told = told.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let told = told.clone();
                    async move {
                        let whole = request.into_body().collect().await;
                        let _ = told.send(whole.map(|body| body.to_bytes()).map_err(drop));
                        Ok::<_, Infallible>(status(200))
                    }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }));
    let mut io = client.connect(9000).await;
    frames::cut_request(&mut io).await.unwrap();
    // A second, whole one, so that something is heard even if the first never came so far.
    let whole = client.connect(9000).await;
    let answered = crate::harness::one_http1(
        whole,
        Request::post("/")
            .header("host", "catalog.shop")
            .body(Full::from("whole"))
            .unwrap(),
    );
    assert_eq!(within("an answer", answered).await.unwrap().status(), 200);
    loop {
        match within("a request", heard.recv()).await.unwrap() {
            Err(()) => {}
            Ok(body) if body == "whole" => break,
            Ok(part) => panic!("{part:?} was taken for a whole body"),
        }
    }
}
