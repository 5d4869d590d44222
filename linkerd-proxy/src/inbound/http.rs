//! One HTTP connection, and one request's life in it.
//!
//! [`request`] is that life. It is a sequence like the connection's, since most of it transforms or decides and any
//! step may end it with a [`Failure`]; what wraps a response (its record) is in the body.
//!
//! | step | takes -> gives | may end the request with |
//! |---|---|---|
//! | limit in flight | – | 503 |
//! | unwrap `l5d-orig-proto`, protect headers, set client identity | request | – |
//! | name: one authority, a clean target | request | 400 |
//! | authorize: route, then authorization, by the version in force | request -> `Permitted` | 400, 404, 403 |
//! | filters | `Permitted` | redirect, injected failure |
//! | rate limit | `Permitted` | 429 |
//! | origin | `Permitted` -> response | 502, 504 |
//! | record | response | – |

use super::{
    authorize::Permitted,
    connection::{Connection, ConnectionError},
    failure::{Asked, Failure},
    record::Record,
};
use crate::{
    activity::{Activity, InFlight},
    drain::Phase,
    http::{
        body::{Body, Ended, RequestBody},
        client::{self, Answer},
        request::{self as shape, Form},
        serve::{Limits, drive},
    },
    telemetry::trace::{Described, Traced},
    transport::{Io, detect, relay::relay},
};
use http::{HeaderValue, Request, Response, StatusCode, Version, header, uri::Authority};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use linkerd_metrics::{Handle, Histogram};
use std::{
    convert::Infallible,
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

/// Serves HTTP in one version until the connection ends.
pub(super) async fn serve(
    connection: Arc<Connection>,
    mut io: Io,
    version: detect::Http,
) -> Result<(), ConnectionError> {
    let transport = connection.view().transport().clone();
    io.meter(transport.meter());
    let _open = transport.open();
    let activity = Activity::new();
    if version == detect::Http::Http1 {
        // In HTTP/2 bytes without a request are no head that is owed: pings, windows and settings come at any time.
        io.watch(activity.clone());
    }
    let places = connection.worker.inbound.connections.clone();
    io.linger(connection.worker.drain.clone(), places);
    let requests = connection.clone();
    let active = activity.clone();
    let service = service_fn(move |request| {
        let connection = requests.clone();
        let in_flight = active.begin();
        // On the heap while there is a request: hyper keeps room for one in each connection, and most are idle.
        async move { Ok::<_, Infallible>(Box::pin(answer(connection, request, in_flight)).await) }
    });
    let settings = &connection.worker.inbound.settings;
    let limits = Limits {
        settings: settings.limits,
        activity: &activity,
        reached: &|limit| connection.worker.inbound.metrics.connection_refused(limit),
    };
    let drain = connection.worker.drain.clone();
    match version {
        detect::Http::Http1 => {
            let served = http1::Builder::new()
                .half_close(true)
                .max_header_size(settings.http1_max_head)
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades();
            drive(served, limits, drain, Phase::Closing, pending()).await
        }
        detect::Http::Http2 => {
            let served = settings
                .http2
                .server()
                .serve_connection(TokioIo::new(io), service);
            drive(served, limits, drain, Phase::Draining, pending()).await
        }
    }
    .map_err(ConnectionError::Http)
}

/// A request's life, with failures turned into answers.
pub(super) async fn answer(
    connection: Arc<Connection>,
    mut request: Request<Incoming>,
    in_flight: InFlight,
) -> Response<Body> {
    let arrived = Instant::now();
    let wire = request.version();
    let inbound = &connection.worker.inbound;
    let identity = connection.tls.identity();
    let line = inbound.access_log.as_ref().map(|log| {
        log.line(
            &request,
            connection.client,
            identity.map(|id| id.as_str()),
            arrived,
        )
    });
    let form = shape::unwrap(&mut request);
    let asked = Asked {
        client: connection.client,
        server: connection.destination.original,
        meshed: connection.tls.identity().is_some(),
        grpc: form.grpc,
        version: wire,
    };
    let carried = form.carried;
    let mut timing = Timing {
        arrived,
        waited: Duration::ZERO,
    };
    let mut response = match self::request(&connection, request, form, &mut timing).await {
        Ok(response) => response,
        Err(failure) => connection.failed(&failure, &asked),
    };
    if let Some(line) = line {
        line.end(&response, timing.waited);
    }
    if let Some(version) = carried {
        unwrap_response(&mut response, version);
    }
    *response.version_mut() = wire;
    if wire < Version::HTTP_2 && connection.worker.drain.phase() > Phase::Serving {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| body.holding(in_flight))
}

/// When a request came, and how long the application took with it.
struct Timing {
    arrived: Instant,
    waited: Duration,
}

/// A request's life.
async fn request(
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
    form: Form,
    timing: &mut Timing,
) -> Result<Response<Body>, Failure> {
    let _waiting = connection.worker.inbound.requests.enter().ok_or_else(|| {
        connection
            .worker
            .inbound
            .metrics
            .request_refused("in_flight");
        Failure::Overloaded
    })?;
    shape::protect(request.headers_mut(), connection.tls.identity());
    let authority = shape::name(&mut request)?;
    let tracer = connection.worker.inbound.tracer.as_ref();
    let traced = tracer.and_then(|tracer| tracer.traced(request.headers()));
    let span = traced.zip(tracer).map(|(mut traced, tracer)| {
        let described = described(&request, authority.as_ref());
        let server = Some(connection.destination.original);
        (tracer.server(&mut traced, &described, server), traced)
    });
    let mut permitted = connection.authorize(request, form, authority)?;
    if permitted.filter()? {
        shape::identify(permitted.headers_mut(), connection.tls.identity());
    }
    permitted.limit(connection)?;
    let (span, traced) = span.unzip();
    let response = forward(connection, permitted, traced, timing).await?;
    if let Some(span) = span.flatten() {
        span.end(response.status());
    }
    Ok(response)
}

/// What spans say of a request.
fn described<'r, B>(request: &'r Request<B>, authority: Option<&'r Authority>) -> Described<'r> {
    Described {
        method: request.method(),
        uri: request.uri(),
        authority: authority.map(Authority::as_str),
        headers: request.headers(),
    }
}

/// The request with its body counted and bounded in its pauses, and when it will have ended.
fn watched(
    request: Request<Incoming>,
    frames: Handle<Histogram>,
    arrived: Instant,
    stall: Option<Duration>,
) -> (Request<RequestBody>, Ended) {
    let ended = if request.body().is_end_stream() {
        Ended::at(arrived)
    } else {
        Ended::later()
    };
    let request =
        request.map(|body| RequestBody::new(body, Some(frames), ended.clone()).stalling(stall));
    (request, ended)
}

/// Sends a permitted request to the origin and records what comes of it.
async fn forward(
    connection: &Arc<Connection>,
    permitted: Permitted<Incoming>,
    traced: Option<Traced>,
    timing: &mut Timing,
) -> Result<Response<Body>, Failure> {
    let arrived = timing.arrived;
    let handles = permitted.handles.clone();
    let form = permitted.form.clone();
    let authority = permitted.authority.clone();
    let mut request = permitted.into_request();
    let tracer = connection.worker.inbound.tracer.as_ref();
    let span = traced.zip(tracer).and_then(|(traced, tracer)| {
        let mut headers = std::mem::take(request.headers_mut());
        let described = Described {
            headers: &headers.clone(),
            ..described(&request, authority.as_ref())
        };
        let server = Some(connection.destination.origin);
        let span = tracer.client(&traced, &mut headers, &described, server);
        *request.headers_mut() = headers;
        span
    });
    let upgrade = shape::upgrades(&request).then(|| hyper::upgrade::on(&mut request));
    shape::strip_hop_by_hop(request.headers_mut(), upgrade.is_some());
    let is_http2 = form.carried.is_some() || request.version() == Version::HTTP_2;
    shape::retarget(&mut request, &form, authority.as_ref());
    handles.requests.inc();
    handles.legacy_requests.inc();
    let stall = connection.worker.inbound.settings.body_idle;
    let (request, ended) = watched(request, handles.request_frames.clone(), arrived, stall);
    let request = request.map(|body| body.over_http2(is_http2));

    let origin = connection.worker.origin(connection.destination.origin)?;
    let sent = Instant::now();
    let answer = origin.send(request).await;
    let answered = Instant::now();
    let waited = answered.saturating_duration_since(sent);
    timing.waited = waited;
    handles.origin_duration.observe(waited.as_secs_f64());
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let failure = Failure::from(error);
            let row = failure.row();
            let (status, code) = if form.grpc {
                (StatusCode::OK, Some(row.grpc))
            } else {
                (row.http, None)
            };
            handles.failed(status, code, arrived.elapsed());
            return Err(failure);
        }
    };
    let (mut response, tunnel) = match answer {
        Answer::Response(response) => (response, None),
        Answer::Upgrade(response, origin) => (response, Some(origin)),
    };
    if let (Some(upgrade), Some(tunnel)) = (upgrade, tunnel) {
        tokio::spawn(tunnel_bytes(connection.clone(), upgrade, tunnel));
    } else {
        shape::strip_hop_by_hop(response.headers_mut(), false);
        shape::distrust(response.headers_mut());
    }
    if let Some(span) = span {
        span.end(response.status());
    }
    let record = Record::new(
        handles.clone(),
        arrived,
        ended,
        response.status(),
        form.grpc,
        response.headers(),
    );
    let in_proxy = answered
        .saturating_duration_since(arrived)
        .saturating_sub(waited);
    handles.proxy_duration.observe(in_proxy.as_secs_f64());
    Ok(response.map(|body| body.recorded(record)))
}

/// Carries bytes both ways after the origin switched protocols.
async fn tunnel_bytes(
    connection: Arc<Connection>,
    client: OnUpgrade,
    origin: Box<client::Connection>,
) {
    let (client, origin) = tokio::join!(client, origin.into_io());
    let result = match (client, origin) {
        (Ok(client), Ok(mut origin)) => {
            let mut drain = connection.worker.drain.clone();
            let mut client = TokioIo::new(client);
            tokio::select! {
                result = relay(&mut client, &mut origin) => result.map_err(|error| error.to_string()),
                () = drain.cut() => Ok(()),
            }
        }
        (Err(error), _) => Err(error.to_string()),
        (_, Err(error)) => Err(error.to_string()),
    };
    if let Err(error) = result {
        tracing::debug!(client = %connection.client, %error, "An upgraded connection broke off");
    }
}

/// Gives the answer the shape of HTTP/1 carried in HTTP/2.
fn unwrap_response(response: &mut Response<Body>, asked: Version) {
    let version = if response.version() == Version::HTTP_10 || asked == Version::HTTP_10 {
        "HTTP/1.0"
    } else {
        "HTTP/1.1"
    };
    let headers = response.headers_mut();
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::CONNECTION);
    headers.insert(shape::ORIG_PROTO, HeaderValue::from_static(version));
}

impl Connection {
    /// Counts a failure and answers it.
    fn failed(&self, failure: &Failure, asked: &Asked) -> Response<Body> {
        let row = failure.row();
        if let Some(error) = row.error {
            let target = self.view().target_labels();
            self.worker.inbound.metrics.request_failed(error, &target);
        }
        tracing::debug!(client = %self.client, port = self.destination.port(), ?failure, "Request failed");
        failure.answer(asked)
    }
}
