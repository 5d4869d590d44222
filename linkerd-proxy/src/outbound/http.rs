//! HTTP from the application: each request to an endpoint of its destination.

use super::{ConnectionError, Worker, far_labels};
use crate::{
    activity::{Activity, InFlight},
    discovery::destination::{Destination, Endpoint},
    drain::Phase,
    http::{
        body::{Body, RequestBody},
        client::{Answer, ClientError},
        request as shape,
    },
    transport::{Io, detect, relay::relay},
};
use http::{HeaderValue, Request, Response, StatusCode, Version, header, uri::Authority};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use linkerd_metrics::Labels;
use std::{convert::Infallible, pin::pin, sync::Arc};

/// Serves the application's HTTP until its connection ends.
pub(super) async fn serve(
    worker: &Arc<Worker>,
    destination: Arc<Destination>,
    mut io: Io,
    version: detect::Http,
) -> Result<(), ConnectionError> {
    let activity = Activity::new();
    io.watch(activity.clone());
    let service = {
        let (worker, activity) = (worker.clone(), activity.clone());
        service_fn(move |request| {
            let (worker, destination) = (worker.clone(), destination.clone());
            let in_flight = activity.begin();
            async move { Ok::<_, Infallible>(answer(worker, destination, request, in_flight).await) }
        })
    };
    let settings = &worker.outbound.settings;
    let mut drain = worker.drain.clone();
    match version {
        detect::Http::Http1 => {
            let mut served = pin!(
                http1::Builder::new()
                    .half_close(true)
                    .max_header_size(settings.max_head)
                    .serve_connection(TokioIo::new(io), service)
                    .with_upgrades()
            );
            tokio::select! {
                result = &mut served => return result.map_err(ConnectionError::Http),
                () = drain.reached(Phase::Closing) => served.as_mut().graceful_shutdown(),
            }
            served.await.map_err(ConnectionError::Http)
        }
        detect::Http::Http2 => {
            let mut served = pin!(
                settings
                    .http2
                    .server()
                    .serve_connection(TokioIo::new(io), service)
            );
            tokio::select! {
                result = &mut served => return result.map_err(ConnectionError::Http),
                () = drain.reached(Phase::Closing) => served.as_mut().graceful_shutdown(),
            }
            served.await.map_err(ConnectionError::Http)
        }
    }
}

/// Why an outbound request was not answered by an endpoint.
#[derive(Debug)]
enum Failure {
    BadRequest(&'static str),
    NoEndpoints(String),
    Client(ClientError),
}

impl From<shape::BadRequest> for Failure {
    fn from(shape::BadRequest(what): shape::BadRequest) -> Self {
        Self::BadRequest(what)
    }
}

impl Failure {
    fn answer(&self) -> Response<Body> {
        let (status, text) = match self {
            Self::BadRequest(what) => (StatusCode::BAD_REQUEST, format!("bad request: {what}")),
            Self::NoEndpoints(name) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{name} has no endpoints"),
            ),
            Self::Client(error @ ClientError::ConnectTimeout(_)) => {
                (StatusCode::GATEWAY_TIMEOUT, error.to_string())
            }
            Self::Client(error) => (StatusCode::BAD_GATEWAY, error.to_string()),
        };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        if let Ok(text) = HeaderValue::from_str(&text) {
            response.headers_mut().insert("l5d-proxy-error", text);
        }
        response
    }
}

async fn answer(
    worker: Arc<Worker>,
    destination: Arc<Destination>,
    request: Request<Incoming>,
    in_flight: InFlight,
) -> Response<Body> {
    let wire = request.version();
    let mut response = match send(&worker, &destination, request).await {
        Ok(response) => response,
        Err(failure) => {
            tracing::debug!(destination = destination.name(), ?failure, "Request failed");
            let labels = Labels::new().with("error", "unexpected");
            worker.outbound.metrics.http_errors.get(&labels).inc();
            failure.answer()
        }
    };
    *response.version_mut() = wire;
    if wire < Version::HTTP_2 && worker.drain.phase() > Phase::Serving {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| body.holding(in_flight))
}

/// A request's life: named, stripped, sent to an endpoint in the version that it speaks.
async fn send(
    worker: &Arc<Worker>,
    destination: &Destination,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    shape::protect(request.headers_mut(), None);
    let form = shape::Form {
        absolute: request.uri().scheme().is_some(),
        ..shape::Form::default()
    };
    let authority = match shape::name(&mut request)? {
        Some(authority) => Some(authority),
        None => destination.name().parse::<Authority>().ok(),
    };
    let upgrade = shape::upgrades(&request).then(|| hyper::upgrade::on(&mut request));
    shape::strip_hop_by_hop(request.headers_mut(), upgrade.is_some());
    let endpoints = worker.pick(destination);
    let Some(endpoint) = endpoints.first() else {
        return Err(Failure::NoEndpoints(destination.name().to_owned()));
    };
    let carry = endpoint.is_h2 && endpoint.tls.is_some() && upgrade.is_none();
    let version = request.version();
    if carry && version < Version::HTTP_2 {
        wrap(&mut request, &form);
    }
    shape::retarget(&mut request, &form, authority.as_ref());
    let request = request.map(|body| RequestBody::new(body, None, None));
    count(worker, endpoint, None);
    let answer = worker
        .client(endpoint, false)
        .send(request)
        .await
        .map_err(Failure::Client)?;
    let response = match answer {
        Answer::Response(mut response) => {
            shape::strip_hop_by_hop(response.headers_mut(), false);
            response.headers_mut().remove(shape::ORIG_PROTO);
            response
        }
        Answer::Upgrade(response, far) => {
            if let Some(upgrade) = upgrade {
                tokio::spawn(tunnel(worker.clone(), upgrade, far));
            }
            response
        }
    };
    count(worker, endpoint, Some(response.status()));
    Ok(response)
}

/// Puts an HTTP/1 request into HTTP/2, with a note of what it was.
fn wrap(request: &mut Request<Incoming>, form: &shape::Form) {
    let note = match (request.version(), form.absolute) {
        (Version::HTTP_10, false) => "HTTP/1.0",
        (Version::HTTP_10, true) => "HTTP/1.0; absolute-form",
        (_, false) => "HTTP/1.1",
        (_, true) => "HTTP/1.1; absolute-form",
    };
    request.headers_mut().remove(header::TRANSFER_ENCODING);
    request.headers_mut().remove(header::HOST);
    request
        .headers_mut()
        .insert(shape::ORIG_PROTO, HeaderValue::from_static(note));
    *request.version_mut() = Version::HTTP_2;
}

fn count(worker: &Worker, endpoint: &Endpoint, status: Option<StatusCode>) {
    let metrics = &worker.outbound.metrics;
    let labels = far_labels(&worker.client(endpoint, false).dial, endpoint, None);
    match status {
        None => metrics.requests.get(&labels).inc(),
        Some(status) => {
            let class = if status.is_server_error() {
                "failure"
            } else {
                "success"
            };
            let labels = labels
                .with("status_code", status.as_str())
                .with("classification", class);
            metrics.responses.get(&labels).inc();
        }
    }
}

async fn tunnel(worker: Arc<Worker>, near: OnUpgrade, far: Box<crate::http::client::Connection>) {
    if let (Ok(near), Ok(mut far)) = tokio::join!(near, far.into_io()) {
        let mut drain = worker.drain.clone();
        let mut near = TokioIo::new(near);
        tokio::select! {
            result = relay(&mut near, &mut far) => drop(result),
            () = drain.cut() => {}
        }
    }
}
