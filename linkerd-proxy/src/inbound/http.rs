//! One HTTP connection, and one request's life in it.
//!
//! [`answer`] is that life. It is a sequence like the connection's, since most of it transforms or decides and any
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
//! | origin | `Permitted` -> response | 502, 504, 408, the reset of an HTTP/2 application |
//! | record | response | – |

use super::{
    authorize::{Permitted, View},
    connection::{Connection, ConnectionError},
    failure::{Asked, Failure},
    record::Record,
    tunnel,
};
use crate::{
    activity::{Activity, InFlight},
    drain::Phase,
    http::{
        body::{Body, Ended, Received, RequestBody},
        client::{self, Answer},
        http2::Serving,
        interim::Interim,
        request::{self as shape, Form},
        serve::{Limits, drive, http1},
    },
    limit::Place,
    telemetry::trace::{Described, OpenSpan, Traced},
    transport::{Io, detect},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, uri::Authority};
use http_body::Body as _;
use linkerd_metrics::{Handle, Histogram};
use std::{
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
    io.meter(connection.view().transport().meter());
    connection.count_open();
    let activity = Activity::new();
    if version == detect::Http::Http1 {
        // In HTTP/2 bytes without a request are no head that is owed: pings, windows and settings come at any time.
        io.watch(activity.clone());
    }
    let places = connection.worker.inbound.connections.clone();
    io.linger(connection.worker.drain.clone(), places);
    let requests = connection.clone();
    let active = activity.clone();
    let answer = move |request, interim| answer(requests.clone(), request, interim, active.begin());
    let settings = &connection.worker.inbound.settings;
    let limits = Limits {
        settings: settings.limits,
        activity: &activity,
        reached: &|limit| connection.worker.inbound.metrics.connection_refused(limit),
    };
    let drain = connection.worker.drain.clone();
    match version {
        detect::Http::Http1 => {
            let served = http1(io, settings.http1_max_head, answer);
            drive(served, limits, drain, Phase::Closing, pending()).await
        }
        detect::Http::Http2 => {
            let served = Serving::new(io, &settings.http2, answer);
            // A client that keeps its connection for longer than its certificate lasts would end as nobody.
            let driven = drive(served, limits, drain, Phase::Draining, connection.parting());
            // Apart from connections of HTTP/1, which are many and need less room.
            Box::pin(driven).await
        }
    }
    .map_err(ConnectionError::Http)
}

/// A request's life, with failures turned into answers.
///
/// # Errors
/// A stream that an HTTP/2 application reset, or refused by going away, before it answered: the client's is reset alike,
/// so that it can tell why and whether it may ask again.
pub(super) async fn answer(
    connection: Arc<Connection>,
    mut request: Request<Received>,
    interim: Interim,
    in_flight: InFlight,
) -> Result<Response<Body>, h2::Error> {
    let arrived = Instant::now();
    let wire = request.version();
    let is_connect = request.method() == Method::CONNECT;
    let inbound = &connection.worker.inbound;
    let view = connection.view();
    let identity = view.identity();
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
        meshed: identity.is_some(),
        grpc: form.grpc,
        version: wire,
    };
    let carried = form.carried;
    let mut timing = Timing {
        arrived,
        waited: Duration::ZERO,
    };
    let mut spans = None;
    let result = match permit(&connection, &view, request, form, &mut spans) {
        Ok((permitted, _place)) => {
            let traced = spans.as_deref().map(|spans| &spans.traced);
            forward(&connection, permitted, &interim, traced, &mut timing).await
        }
        Err(failure) => Err(failure),
    };
    if let Some(spans) = spans {
        spans.end(&result, asked.grpc);
    }
    let mut response = match result {
        Ok(response) => response,
        Err(failure) => {
            connection.failed(&failure);
            if let Some(reason) = failure.reset().filter(|_| wire == Version::HTTP_2) {
                return Err(reason.into());
            }
            failure.answer(&asked)
        }
    };
    if let Some(line) = line {
        line.end(&response, timing.waited);
    }
    if let Some(version) = carried {
        unwrap_response(&mut response, version);
    }
    *response.version_mut() = wire;
    // What switches protocols is no longer for HTTP to close.
    let is_http = !client::switches(is_connect, response.status());
    let is_told = connection.worker.drain.phase() > Phase::Serving || connection.is_parting();
    if is_http && wire < Version::HTTP_2 && is_told {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| body.holding(in_flight)))
}

/// When a request came, and how long the application took with it.
struct Timing {
    arrived: Instant,
    waited: Duration,
}

/// A traced request's spans.
struct Spans {
    server: Option<OpenSpan>,
    traced: Traced,
}

impl Spans {
    fn end(self, result: &Result<Response<Body>, Failure>, is_grpc: bool) {
        match result {
            Ok(response) => {
                if let Some(span) = self.server {
                    span.end(response.status());
                }
            }
            Err(failure) => {
                let row = failure.row();
                let status = if is_grpc { StatusCode::OK } else { row.http };
                OpenSpan::failed(self.server, row.name, Some(status));
            }
        }
    }
}

/// A request's life until it is known whether it may go to the origin; with its place among those in flight. Nothing of
/// that is waited for, so that what waits need not hold what was given to this.
fn permit(
    connection: &Arc<Connection>,
    view: &Arc<View>,
    mut request: Request<Received>,
    form: Form,
    spans: &mut Option<Box<Spans>>,
) -> Result<(Permitted<Received>, Place), Failure> {
    let inbound = &connection.worker.inbound;
    let place = inbound.requests.enter().ok_or_else(|| {
        inbound.metrics.request_refused("in_flight");
        Failure::Overloaded
    })?;
    shape::protect(request.headers_mut(), view.identity());
    let authority = shape::name(&mut request)?;
    let tracer = inbound.tracer.as_ref();
    let traced = tracer.and_then(|tracer| tracer.traced(request.headers()));
    *spans = traced.zip(tracer).map(|(mut traced, tracer)| {
        let described = described(&request, authority.as_ref());
        let original = Some(connection.destination.original);
        let server = tracer.server(&mut traced, &described, original);
        Box::new(Spans { server, traced })
    });
    let mut permitted = connection.authorize(view, request, form, authority)?;
    if permitted.filter()? {
        shape::identify(permitted.headers_mut(), view.identity());
    }
    permitted.limit()?;
    Ok((permitted, place))
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
    request: Request<Received>,
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
    permitted: Permitted<Received>,
    interim: &Interim,
    traced: Option<&Traced>,
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
        let span = tracer.client(traced, &mut headers, &described, server);
        *request.headers_mut() = headers;
        span
    });
    let upgrade = shape::upgrades(&request).then(|| hyper::upgrade::on(&mut request));
    let is_switch = upgrade.is_some() && request.method() != Method::CONNECT;
    shape::strip_hop_by_hop(request.headers_mut(), is_switch);
    let is_http2 = form.is_over_http2(request.version());
    shape::retarget(&mut request, &form, authority.as_ref());
    let origin = connection.worker.origin(connection.destination.origin)?;
    handles.requests.inc();
    handles.legacy_requests.inc();
    let stall = connection.worker.inbound.settings.body_idle;
    let (mut request, ended) = watched(request, handles.request_frames.clone(), arrived, stall);
    let interim = interim.of(&request);

    let sent = Instant::now();
    let answer = origin.send(&mut request, interim).await;
    let answered = Instant::now();
    let waited = answered.saturating_duration_since(sent);
    timing.waited = waited;
    handles.origin_duration.observe(waited.as_secs_f64());
    if let Some(interim) = interim {
        interim.sent().await;
    }
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let failure = match ended.stalled() {
                Some(limit) => Failure::Stalled(limit),
                None => Failure::from(error),
            };
            let outcome = failure.outcome(form.grpc, is_http2);
            handles.failed(outcome, arrived.elapsed());
            OpenSpan::failed(span, failure.row().name, None);
            return Err(failure);
        }
    };
    let (mut response, tunnel) = match answer {
        Answer::Response(response) => (response, None),
        Answer::Upgrade(response, origin) => (response, Some(origin)),
    };
    let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    shape::strip_hop_by_hop(response.headers_mut(), is_switch);
    shape::distrust(response.headers_mut());
    if let (Some(upgrade), Some(tunnel)) = (upgrade, tunnel) {
        tokio::spawn(tunnel::carry(connection.clone(), upgrade, tunnel));
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
    Ok(response.map(|body| body.stalling(stall).recorded(record)))
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
    /// Counts a failure.
    fn failed(&self, failure: &Failure) {
        let row = failure.row();
        if let Failure::Stalled(_) = failure {
            let metrics = &self.worker.inbound.metrics;
            metrics.request_refused("body_idle_timeout");
        }
        if let Some(error) = row.error {
            let target = self.view().target_labels();
            self.worker.inbound.metrics.request_failed(error, &target);
        }
        tracing::debug!(client = %self.client, port = self.destination.port(), ?failure, "Request failed");
    }
}
