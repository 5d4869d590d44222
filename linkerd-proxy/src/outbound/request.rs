//! One request's life on the outbound side.
//!
//! [`answer`] is that life. Steps that may end it give a [`Failure`]; what wraps a response (its record) is in the body.
//!
//! | step | may end the request with |
//! |---|---|
//! | limits in flight: of the proxy, of the destination | 503 |
//! | name: one authority, a clean target | 400 |
//! | destination: the connection's, or by name in ingress mode | 504 |
//! | route: the rule that takes it | 404 |
//! | limits and retries, of the rule and of `l5d-*` headers | – |
//! | attempt: filters, backend, endpoint, mutual TLS, connection, response | redirect, 5xx |
//! | retry: a condition, a body that can be sent again, the budget | – |
//! | record | – |

use super::{
    attempt::{self, Attempted, Sent},
    connection::Connection,
    failure::{Asked, Failure},
    limits::{Expired, Limits},
    metrics::RouteHandles,
    plan::{How, HttpPlan, Plan},
    record::{Record, Whole},
    retry::{self, End, Reason, Suppressed, Unrouted},
    route::{Named, Rule},
    upload::Upload,
};
use crate::{
    activity::InFlight,
    drain::Phase,
    http::{
        body::{Body, Received},
        client::switches,
        interim::Interim,
        outcome::{Break, Ending, GrpcStatus, Outcome},
        request::{self as shape, Form},
    },
    telemetry::trace::{Described, OpenSpan, Traced},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, uri::Authority};
use linkerd_policy::{RequestView, decide::Matched, filters::Stop, outbound::Ref};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A failure, and how far the request had come.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// Where it failed, for texts.
    place: Place,
}

#[derive(Debug, Default)]
struct Place {
    rule: Option<Arc<Rule>>,
    backend: Option<Ref>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(rule) = &self.rule else {
            return Ok(());
        };
        f.write_str(&rule.place)?;
        match &self.backend {
            Some(backend) => write!(f, ": backend {backend}: {backend}"),
            None => Ok(()),
        }
    }
}

impl<F: Into<Failure>> From<F> for Failed {
    fn from(failure: F) -> Self {
        Self {
            failure: failure.into(),
            place: Place::default(),
        }
    }
}

/// Bytes of a body that are kept where no policy retries: an endpoint that goes away or refuses a stream did not begin
/// to work on the request, which may then be sent again as it is.
const SAFE_BYTES: usize = 64 * 1024;

/// How long a gRPC response is held back at most to see how it ends: where policy retries what ends badly, and where its
/// head says that this is all.
const PATIENCE: Duration = Duration::from_millis(20);

/// A request's life, with failures turned into answers.
///
/// # Errors
/// A stream that the endpoint reset before it answered: over HTTP/2 the application's is reset alike, so that it can tell
/// why.
pub(super) async fn answer(
    connection: Arc<Connection>,
    request: Request<Received>,
    interim: Interim,
    in_flight: InFlight,
) -> Result<Response<Body>, h2::Error> {
    let arrived = Instant::now();
    let wire = request.version();
    let is_connect = request.method() == Method::CONNECT;
    let form = form(&request);
    let outbound = &connection.worker.outbound;
    let asked = Asked::new(&form, wire, &outbound.settings);
    let mut span = None;
    let answered = self::request(&connection, request, &interim, form, arrived, &mut span).await;
    interim.sent().await;
    let mut response = match answered {
        Ok(response) => {
            if let Some(span) = span {
                span.end(response.status());
            }
            response
        }
        Err(Failed { failure, place }) => {
            let row = failure.row();
            let status = if asked.grpc { StatusCode::OK } else { row.http };
            OpenSpan::failed(span, row.name, Some(status));
            if let Some(error) = row.error {
                outbound.metrics.request_failed(error);
            }
            tracing::debug!(destination = %connection.lookup.target(), %place, ?failure, "Request failed");
            if asked.close_on_error && failure.is_connection_ending() {
                connection.close();
            }
            if let Some(reason) = failure.reset().filter(|_| wire == Version::HTTP_2) {
                return Err(reason.into());
            }
            failure.answer(&asked, &place.to_string())
        }
    };
    *response.version_mut() = wire;
    // What switches protocols is no longer for HTTP to close.
    let is_http = !switches(is_connect, response.status());
    let is_told = connection.worker.drain.phase() > Phase::Serving || connection.is_ending();
    if is_http && wire < Version::HTTP_2 && is_told {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| body.holding(in_flight)))
}

fn form(request: &Request<Received>) -> Form {
    let is_http2 = request.version() == Version::HTTP_2;
    let kind = request.headers().get(header::CONTENT_TYPE);
    Form {
        carried: None,
        absolute: !is_http2 && request.uri().scheme().is_some(),
        grpc: is_http2 && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")),
    }
}

/// A request's life.
async fn request(
    connection: &Arc<Connection>,
    mut request: Request<Received>,
    interim: &Interim,
    form: Form,
    arrived: Instant,
    span: &mut Option<OpenSpan>,
) -> Result<Response<Body>, Failed> {
    let outbound = &connection.worker.outbound;
    let arriving = outbound.retries.arriving();
    let Some(_waiting) = outbound.requests.enter() else {
        outbound.metrics.refused("in_flight");
        arriving.ends(Unrouted::Shed);
        return Err(Failure::Overloaded.into());
    };
    let found = match find(connection, &mut request, span).await {
        Ok(found) => found,
        Err(failure) => {
            arriving.ends(failure.unrouted());
            return Err(failure.into());
        }
    };
    arriving.routed();
    let Found {
        plan,
        rule,
        matched,
        authority,
        required,
        traced,
    } = found;
    let named = rule.named(authority.as_ref());
    let retries = named.as_ref().map_or(&rule.retries, |named| &named.retries);
    let _with_destination = plan
        .enter(outbound)
        .inspect_err(|_| retries.begin().finish(End::Shed))?;
    let mut timeouts = rule.timeouts;
    let mut retry = rule.retry.clone();
    retry::headers::take(
        request.headers_mut(),
        rule.allow_headers,
        &mut timeouts,
        &mut retry,
    );
    let client_timeout = form
        .grpc
        .then(|| retry::headers::grpc_timeout(request.headers()))
        .flatten();
    let profile_timeout = rule.profile.as_ref().and_then(|profile| profile.timeout);
    let mut exchange = Exchange {
        connection,
        interim: interim.of(&request),
        limits: Limits::new(&timeouts, arrived)
            .with_profile(profile_timeout, arrived)
            .with_client(client_timeout, arrived, rule.allow_headers),
        sent: Sent::new(&mut request, form, authority, required, traced),
        plan,
        rule,
        matched,
        named,
        retry,
    };
    let max_body = exchange
        .retry
        .as_ref()
        .map_or(SAFE_BYTES, |retry| retry.max_request_bytes);
    let (head, body) = request.into_parts();
    let mut upload = Upload::new(head, body, max_body);
    exchange.run(&mut upload, arrived).await
}

/// What a request is for, and what it says of itself.
struct Found {
    plan: Arc<Plan>,
    rule: Arc<Rule>,
    matched: Option<Matched>,
    authority: Option<Authority>,
    required: Option<String>,
    traced: Option<Traced>,
}

/// Finds the route of a request.
async fn find(
    connection: &Arc<Connection>,
    request: &mut Request<Received>,
    span: &mut Option<OpenSpan>,
) -> Result<Found, Failure> {
    request.headers_mut().remove(shape::ORIG_PROTO);
    let required = request
        .headers_mut()
        .remove("l5d-require-id")
        .map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    let authority = shape::name(request)?;
    let tracer = connection.worker.outbound.tracer.as_ref();
    let mut traced = tracer.and_then(|tracer| tracer.traced(request.headers()));
    *span = traced.as_mut().zip(tracer).and_then(|(traced, tracer)| {
        let described = Described {
            method: request.method(),
            uri: request.uri(),
            authority: authority.as_ref().map(Authority::as_str),
            headers: request.headers(),
        };
        tracer.server(traced, &described, connection.lookup.target().address())
    });
    let plan = connection.destination(request).await?;
    let (rule, matched) = route(&plan, request, authority.as_ref())?;
    Ok(Found {
        plan,
        rule,
        matched,
        authority,
        required,
        traced,
    })
}

/// The rule that takes a request.
fn route(
    plan: &Plan,
    request: &Request<Received>,
    authority: Option<&Authority>,
) -> Result<(Arc<Rule>, Option<Matched>), Failure> {
    let http: &HttpPlan = match (&plan.how, request.version()) {
        (How::Detect(_, _, http2, _), Version::HTTP_2) => http2,
        (How::Detect(_, http1, _, _), _) => http1,
        (How::Http1(http) | How::Http2(http), _) => http,
        (How::Invalid, _) => return Err(Failure::InvalidPolicy),
        (How::Opaque(_) | How::Tls(_), _) => return Err(Failure::NotHttp),
    };
    let view = RequestView {
        method: request.method(),
        authority: authority.map(Authority::as_str),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
    };
    let (rule, matched) = http.find(&view).ok_or(Failure::NoRoute)?;
    Ok((rule.clone(), matched))
}

/// A request on its way, with all its attempts.
pub(super) struct Exchange<'c> {
    pub(super) connection: &'c Arc<Connection>,
    pub(super) interim: Option<&'c Interim>,
    pub(super) plan: Arc<Plan>,
    pub(super) rule: Arc<Rule>,
    pub(super) matched: Option<Matched>,
    pub(super) sent: Sent,
    pub(super) limits: Limits,
    /// What the request is counted in by its name, where operators want that.
    named: Option<Arc<Named>>,
    retry: Option<retry::Params>,
}

/// What came of an attempt, before it is decided whether another follows.
enum Verdict {
    /// It is the answer.
    Final,
    /// Another attempt might do better.
    Retry(Reason, Option<Duration>),
}

impl Exchange<'_> {
    /// Attempts until one is the answer.
    async fn run(
        &mut self,
        upload: &mut Upload,
        arrived: Instant,
    ) -> Result<Response<Body>, Failed> {
        let retries = self.named.as_ref().map(|named| &named.retries);
        let mut journal = retries.unwrap_or(&self.rule.retries).begin();
        let profile = self.rule.profile.clone();
        if let Some(profile) = &profile {
            profile.handles.requests.inc();
        }
        let mut avoid = None;
        let mut attempts = 0u16;
        // Time that earlier attempts, and the pauses after them, took: the proxy's own is what is left.
        let mut waited = Duration::ZERO;
        loop {
            let began = Instant::now();
            let may_follow = self.may_follow(attempts);
            self.limits.head = self
                .retry
                .as_ref()
                .filter(|_| may_follow)
                .and_then(|retry| retry.timeout);
            journal.attempt();
            if let Some(profile) = &profile {
                profile.handles.attempts.inc();
            }
            let attempted = self.attempt(upload, avoid, attempts > 0).await;
            attempts = attempts.saturating_add(1);
            match attempted {
                Ok(mut attempted) => {
                    let judging = Instant::now();
                    let verdict = self.judge(&mut attempted).await;
                    attempted.waited += judging.elapsed();
                    if let Verdict::Retry(reason, hint) = verdict {
                        match self.retry(attempts, reason, upload, hint) {
                            Ok(pause) => {
                                avoid = Some(attempted.remote_address());
                                attempted.discard();
                                journal.retried(reason);
                                tokio::time::sleep(pause).await;
                                waited += began.elapsed();
                                continue;
                            }
                            Err(why) => journal.suppressed(why),
                        }
                    } else if attempts == 1 {
                        self.rule.budget.deposit(Instant::now());
                    }
                    if self.sent.form.grpc && attempted.lacks_its_end() {
                        let end = attempted.end_with_head();
                        let _ = tokio::time::timeout(PATIENCE, end).await;
                    }
                    attempted.waited += waited;
                    return Ok(self.respond(attempted, journal, arrived));
                }
                Err(attempt::Failed {
                    failure,
                    backend,
                    endpoint,
                    is_unprocessed,
                }) => {
                    if let Some(profile) = profile.as_ref().filter(|_| endpoint.is_none()) {
                        profile.handles.attempted(self.outcome(&failure), false);
                    }
                    if let Some(reason) = self.reason(&failure, is_unprocessed) {
                        match self.retry(attempts, reason, upload, None) {
                            Ok(pause) => {
                                avoid = endpoint;
                                journal.retried(reason);
                                tokio::time::sleep(pause).await;
                                waited += began.elapsed();
                                continue;
                            }
                            Err(why) => journal.suppressed(why),
                        }
                    }
                    let end = self.end(&failure);
                    journal.finish(end);
                    return Err(self.over(failure, backend, arrived));
                }
            }
        }
    }

    /// What a failure that is the answer makes of the request.
    fn end(&self, failure: &Failure) -> End {
        match failure {
            Failure::Expired(_) => End::TimedOut,
            Failure::NoBackend(_) | Failure::Unready(super::balance::Unready::Shed(_)) => End::Shed,
            Failure::Stopped(_) if self.rule.is_success(self.outcome(failure)) => End::Success,
            _ => End::Error,
        }
    }

    fn may_follow(&self, attempts: u16) -> bool {
        self.retry
            .as_ref()
            .is_some_and(|retry| attempts < retry.max_retries)
    }

    /// Whether a response calls for another attempt.
    async fn judge(&self, attempted: &mut Attempted) -> Verdict {
        let Some(retry) = &self.retry else {
            return Verdict::Final;
        };
        if attempted.is_tunnel() {
            return Verdict::Final;
        }
        let hint = retry
            .respects_hints()
            .then(|| super::record::retry_after(attempted.response.headers()))
            .flatten();
        let status = attempted.response.status();
        if let Some(profile) = &self.rule.profile {
            if !profile.is_retryable {
                return Verdict::Final;
            }
            if !self.rule.is_success(Outcome::by_status(status)) {
                return Verdict::Retry(Reason::status(status), hint);
            }
            return match self.grpc_status(attempted).await {
                Some(code)
                    if !self
                        .rule
                        .is_success(attempted.attempt.outcome(Ending::Whole)) =>
                {
                    Verdict::Retry(Reason::Grpc(code), hint)
                }
                _ => Verdict::Final,
            };
        }
        if retry.is_status(status) {
            return Verdict::Retry(Reason::status(status), hint);
        }
        if retry.conditions.grpc.is_empty() {
            return Verdict::Final;
        }
        match self.grpc_status(attempted).await {
            Some(code) if retry.is_grpc(code) => Verdict::Retry(Reason::Grpc(code), hint),
            _ => Verdict::Final,
        }
    }

    /// The gRPC status of a response, if it can be had shortly: a stream that begins and then says nothing for a while is
    /// passed on, since its client may have to say something first.
    async fn grpc_status(&self, attempted: &mut Attempted) -> Option<u16> {
        if !self.sent.form.grpc {
            return None;
        }
        let status = tokio::time::timeout(PATIENCE, attempted.grpc_status());
        status.await.ok().flatten()
    }

    /// Why a failed attempt calls for another.
    fn reason(&self, failure: &Failure, is_unprocessed: bool) -> Option<Reason> {
        if is_unprocessed {
            return Some(Reason::Refused);
        }
        let retry = self.retry.as_ref()?;
        match failure {
            Failure::Expired(Expired::Head(_)) => Some(Reason::Timeout),
            Failure::Unready(super::balance::Unready::FailFast(_)) => Some(Reason::FailFast),
            Failure::Endpoint(..) if self.rule.profile.is_some() => {
                let profile = self.rule.profile.as_ref()?;
                let is_failure = !self.rule.is_success(self.outcome(failure));
                (profile.is_retryable && is_failure).then_some(Reason::Connection)
            }
            Failure::Endpoint(..) => {
                let row = failure.row();
                let is_grpc = self.sent.form.grpc && retry.is_grpc(row.grpc);
                (is_grpc || retry.is_status(row.http)).then_some(Reason::Connection)
            }
            _ => None,
        }
    }

    /// Whether another attempt follows the one that ended for `reason`, and after which pause.
    fn retry(
        &self,
        attempts: u16,
        reason: Reason,
        upload: &Upload,
        hint: Option<Duration>,
    ) -> Result<Duration, Suppressed> {
        let result = self.may_retry(attempts, reason, upload, hint);
        if let Some(profile) = &self.rule.profile
            && profile.is_retryable
        {
            let is_out_of_budget = result == Err(Suppressed::Budget);
            profile.handles.retryable(is_out_of_budget);
        }
        result
    }

    fn may_retry(
        &self,
        attempts: u16,
        reason: Reason,
        upload: &Upload,
        hint: Option<Duration>,
    ) -> Result<Duration, Suppressed> {
        // What the endpoint did not begin to work on may be sent again without being asked to, a few times.
        const SAFE: u16 = 2;
        let limit = match &self.retry {
            Some(_) if self.rule.profile.is_some() => u16::MAX,
            Some(retry) => retry.max_retries,
            None if reason == Reason::Refused => SAFE,
            None => 0,
        };
        let limit = if reason == Reason::Refused {
            limit.max(SAFE)
        } else {
            limit
        };
        if attempts > limit {
            return Err(Suppressed::Limit);
        }
        upload.can_be_sent_again(reason == Reason::Refused)?;
        let now = Instant::now();
        let pause = self
            .retry
            .as_ref()
            .map_or(Duration::ZERO, |retry| retry.pause(attempts, hint));
        if self.limits.left(now).is_some_and(|left| left <= pause) {
            return Err(Suppressed::Deadline);
        }
        // An answer is worth more than none: without a backend that might do better it is kept.
        if self.rule.choice.choose(now, attempt::roll).is_none() {
            return Err(Suppressed::Shed);
        }
        if !self.rule.budget.withdraw(now) {
            return Err(Suppressed::Budget);
        }
        Ok(pause)
    }

    /// The answer of the last attempt, recorded.
    fn respond(
        &self,
        attempted: Attempted,
        journal: retry::Journal,
        arrived: Instant,
    ) -> Response<Body> {
        let whole = Whole::new(self.rule.clone(), self.named.clone(), arrived, journal);
        let in_proxy = arrived.elapsed().saturating_sub(attempted.waited);
        self.handles()
            .proxy_duration
            .observe(in_proxy.as_secs_f64());
        let is_informational = self.connection.worker.outbound.settings.informational;
        let watch = self.limits.clone().watch(attempted.ended.clone());
        let Attempted {
            response, attempt, ..
        } = attempted;
        let record = Record::new(attempt, whole, watch, is_informational);
        response.map(|body| body.recorded_outbound(record))
    }

    /// What the request is counted in for its route.
    pub(super) fn handles(&self) -> &RouteHandles {
        self.rule.handles(self.named.as_deref())
    }

    /// How a request ends that fails so.
    fn outcome(&self, failure: &Failure) -> Outcome {
        let row = failure.row();
        let grpc = self.sent.form.grpc.then_some(GrpcStatus::Code(row.grpc));
        let status = if self.sent.form.grpc {
            StatusCode::OK
        } else {
            row.http
        };
        let ending = match failure {
            Failure::Stopped(Stop::Redirect { .. } | Stop::Failure { .. }) => Ending::Whole,
            Failure::Endpoint(..) => match failure.reset().filter(|_| !self.sent.is_http1()) {
                Some(reason) => Ending::Broken(Break::Reset(reason)),
                None => Ending::Whole,
            },
            Failure::Expired(expired) => Ending::Broken(Break::Timeout(expired.label())),
            Failure::Unready(super::balance::Unready::FailFast(_)) => {
                Ending::Broken(Break::Refused("FAIL_FAST"))
            }
            Failure::NoBackend(_) | Failure::Unready(_) => {
                Ending::Broken(Break::Refused("LOAD_SHED"))
            }
            _ => Ending::Broken(Break::Unknown),
        };
        Outcome {
            status,
            grpc,
            ending,
        }
    }

    /// A request that ends with a failure, counted for its route.
    fn over(&self, failure: Failure, backend: Option<Ref>, arrived: Instant) -> Failed {
        let outcome = self.outcome(&failure);
        let handles = self.handles();
        handles.duration.observe(arrived.elapsed().as_secs_f64());
        handles.ended(outcome);
        if let Some(profile) = &self.rule.profile {
            profile
                .handles
                .ended(outcome, self.rule.is_success(outcome));
        }
        Failed {
            failure,
            place: Place {
                rule: Some(self.rule.clone()),
                backend,
            },
        }
    }
}
