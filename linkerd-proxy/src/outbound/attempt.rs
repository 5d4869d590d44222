//! One attempt: a backend, an endpoint, a connection, and the head of a response.

use super::{
    Worker,
    backend::{Carried, Kind, Remote, RouteBackend},
    balance::{Balancer, Picked},
    failure::Failure,
    record::Attempt,
    request::Exchange,
    retry,
    upload::Upload,
};
use crate::{
    http::{
        body::{Body, Ended, RequestBody},
        client::{self, Answer, Ready},
        outcome::{Break, Ending},
        request::{self as shape, Form},
    },
    telemetry::trace::{Described, OpenSpan, Traced},
    transport::relay::relay,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, uri::Authority};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use linkerd_policy::{
    decide::Matched,
    filters,
    outbound::{Hint, Ref},
};
use std::{
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// What is the same for all attempts of a request.
pub(super) struct Sent {
    pub(super) form: Form,
    authority: Option<Authority>,
    /// The identity that the server must have, by `l5d-require-id`.
    required: Option<String>,
    upgrade: std::sync::Mutex<Option<OnUpgrade>>,
    is_upgrade: bool,
    is_http1: bool,
    traced: Option<Traced>,
}

impl Sent {
    pub(super) fn new<B>(
        request: &mut Request<B>,
        form: Form,
        authority: Option<Authority>,
        required: Option<String>,
        traced: Option<Traced>,
    ) -> Self {
        let is_upgrade = shape::upgrades(request);
        let upgrade = is_upgrade.then(|| hyper::upgrade::on(&mut *request));
        let is_switch = is_upgrade && request.method() != Method::CONNECT;
        shape::strip_hop_by_hop(request.headers_mut(), is_switch);
        Self {
            form,
            authority,
            required,
            upgrade: std::sync::Mutex::new(upgrade),
            is_upgrade,
            is_http1: request.version() < Version::HTTP_2,
            traced,
        }
    }

    /// The application asked over HTTP/1.
    pub(super) fn is_http1(&self) -> bool {
        self.is_http1
    }
}

/// A response, and what is still to be told of it.
pub(super) struct Attempted {
    pub(super) response: Response<Body>,
    pub(super) attempt: Attempt,
    pub(super) ended: Ended,
    /// Time spent on waiting: for an endpoint, a connection, the response.
    pub(super) waited: Duration,
    is_tunnel: bool,
}

impl Attempted {
    /// The connection is no longer HTTP.
    pub(super) fn is_tunnel(&self) -> bool {
        self.is_tunnel
    }

    pub(super) fn remote_address(&self) -> SocketAddr {
        self.attempt.remote().address
    }

    /// The gRPC status: from the head, or from trailers that come at once.
    pub(super) async fn grpc_status(&mut self) -> Option<u16> {
        let of_head = crate::http::outcome::grpc_status(self.response.headers());
        if of_head.is_some() {
            return of_head;
        }
        let trailers = self.response.body_mut().peek_trailers().await?;
        self.attempt.trailed(&trailers);
        crate::http::outcome::grpc_status(&trailers)
    }

    /// Whether a gRPC response says that there is nothing but its head (Trailers-Only, gRPC over HTTP/2), and has not
    /// ended with it.
    pub(super) fn lacks_its_end(&self) -> bool {
        crate::http::outcome::grpc_status(self.response.headers()).is_some()
            && !http_body::Body::is_end_stream(self.response.body())
    }

    /// Waits for the end of such a response, so that the application is told with the head: clients take a head that
    /// does not end the stream for the beginning of a message.
    pub(super) async fn end_with_head(&mut self) {
        self.response.body_mut().peek_trailers().await;
    }

    /// Another attempt takes its place.
    pub(super) fn discard(self) {
        self.response.into_body().discard();
        self.attempt.ended(Ending::Whole);
    }
}

/// An attempt without a response.
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) backend: Option<Ref>,
    pub(super) endpoint: Option<SocketAddr>,
    /// The endpoint did not begin to work on it.
    pub(super) is_unprocessed: bool,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            backend: None,
            endpoint: None,
            is_unprocessed: false,
        }
    }
}

/// A random number below `n`.
pub(super) fn roll(n: u64) -> u64 {
    match n {
        0 => 0,
        n => rand::random_range(0..n),
    }
}

/// An endpoint with a connection to it.
struct Reached {
    remote: Arc<Remote>,
    picked: Option<Picked>,
    ready: Ready,
    /// HTTP/1 goes inside HTTP/2.
    is_carried: bool,
}

impl Exchange<'_> {
    /// One attempt at the request, at another endpoint than `avoid` if there is one.
    pub(super) async fn attempt(
        &self,
        upload: &mut Upload,
        avoid: Option<SocketAddr>,
        is_retry: bool,
    ) -> Result<Attempted, Failed> {
        let started = Instant::now();
        let Some((mut request, ended)) = upload.take(&self.limits, &self.handles().request_frames)
        else {
            return Err(Failure::BadRequest("its body cannot be sent again").into());
        };
        self.filter(&self.rule.filters, &mut request)?;
        let backend = self
            .rule
            .choice
            .choose(started, roll)
            .ok_or_else(|| Failure::NoBackend(self.rule.choice.why_none()))?;
        let in_backend = |failure: Failure| Failed {
            backend: Some(backend.backend.meta.clone()),
            ..Failed::from(failure)
        };
        self.filter(&backend.filters, &mut request)
            .map_err(in_backend)?;
        let before = Instant::now();
        let reached = {
            let reach = pin!(self.reach(backend, request.version(), avoid));
            self.limits.race(&Ended::later(), reach).await
        };
        let reached = reached
            .map_err(|expired| in_backend(Failure::Expired(expired)))?
            .map_err(in_backend)?;
        self.shape(&mut request, &reached.remote, reached.is_carried, backend);
        if is_retry && let Some(left) = self.limits.client_waits(Instant::now()) {
            retry::headers::set_grpc_timeout(request.headers_mut(), left);
        }
        let ended = match ended {
            Ended::At(_) => Ended::at(Instant::now()),
            later @ Ended::Later(_) => later,
        };
        let span = self.span(&mut request, reached.remote.address);
        let sent = self.send(reached, backend, request, ended, is_retry).await;
        let mut attempted = match sent {
            Ok(attempted) => attempted,
            Err(failed) => {
                OpenSpan::failed(span, failed.failure.row().name, None);
                return Err(failed);
            }
        };
        if let Some(span) = span {
            span.end(attempted.response.status());
        }
        attempted.waited = before.elapsed();
        filters::apply_response(&backend.filters, attempted.response.headers_mut());
        filters::apply_response(&self.rule.filters, attempted.response.headers_mut());
        Ok(attempted)
    }

    /// Begins the span of this attempt, and names it in the request.
    fn span(&self, request: &mut Request<RequestBody>, address: SocketAddr) -> Option<OpenSpan> {
        let tracer = self.connection.worker.outbound.tracer.as_ref()?;
        let traced = self.sent.traced.as_ref()?;
        let mut headers = std::mem::take(request.headers_mut());
        let described = Described {
            method: request.method(),
            uri: request.uri(),
            authority: self.sent.authority.as_ref().map(Authority::as_str),
            headers: &headers.clone(),
        };
        let span = tracer.client(traced, &mut headers, &described, Some(address));
        *request.headers_mut() = headers;
        span
    }

    fn filter(
        &self,
        filters: &[linkerd_policy::server::Filter],
        request: &mut Request<RequestBody>,
    ) -> Result<(), Failure> {
        if filters.is_empty() {
            return Ok(());
        }
        // Only a redirect of a path prefix looks at what matched.
        let matched = self.matched.unwrap_or(Matched {
            route: 0,
            rule: 0,
            prefix: None,
        });
        let mut uri = request.uri().clone();
        let roll = |n: u32| u32::try_from(roll(u64::from(n))).unwrap_or(0);
        filters::apply_request(filters, &matched, &mut uri, request.headers_mut(), roll)
            .map_err(Failure::Stopped)?;
        *request.uri_mut() = uri;
        Ok(())
    }

    /// An endpoint of the backend that can be connected to. Nothing is sent before there is one, so one that cannot be
    /// connected to costs a balanced request nothing but time.
    async fn reach(
        &self,
        backend: &RouteBackend,
        version: Version,
        avoid: Option<SocketAddr>,
    ) -> Result<Reached, Failure> {
        let worker = &self.connection.worker;
        let balancer = match &backend.backend.kind {
            Kind::Missing => {
                return Err(Failure::NoDispatcher(Box::new(
                    backend.backend.meta.clone(),
                )));
            }
            Kind::Forward(endpoint) => {
                let carried = self.carried(version, endpoint, worker);
                let remote = worker.remote(endpoint, None, carried.1)?;
                self.check(None, &remote)?;
                return match remote.client.ready(carried.0).await {
                    Ok(ready) => Ok(Reached {
                        remote,
                        picked: None,
                        ready,
                        is_carried: self.is_carried(carried.1),
                    }),
                    Err(error) => Err(worker.not_reached(&remote, error)),
                };
            }
            Kind::Balance(balancer) => balancer,
        };
        let authority = backend.backend.authority.as_deref();
        let deadline = balancer.deadline();
        loop {
            let picked = balancer.pick(avoid, deadline).await;
            let picked = picked.map_err(Failure::Unready)?;
            let (version, kind) = self.carried(version, &picked.endpoint, worker);
            let remote = match worker.remote(&picked.endpoint, authority, kind) {
                Ok(remote) => remote,
                // One that cannot be used as discovery describes it is like one that cannot be connected to.
                Err(error) => {
                    picked.connect_failed(&error.to_string());
                    tracing::debug!(%error, "Trying another endpoint");
                    continue;
                }
            };
            self.check(Some(balancer), &remote)?;
            match remote.client.ready(version).await {
                Ok(ready) => {
                    return Ok(Reached {
                        is_carried: self.is_carried(kind),
                        remote,
                        picked: Some(picked),
                        ready,
                    });
                }
                Err(error) => {
                    picked.connect_failed(&error.to_string());
                    let failure = worker.not_reached(&remote, error);
                    if Instant::now() >= deadline {
                        return Err(Failure::Unready(balancer.give_up()));
                    }
                    tracing::debug!(endpoint = %remote.address, %failure, "Trying another endpoint");
                }
            }
        }
    }

    /// The version in which the request goes to an endpoint, and what its connection carries.
    fn carried(
        &self,
        version: Version,
        endpoint: &linkerd_policy::outbound::Endpoint,
        worker: &Worker,
    ) -> (Version, Carried) {
        let settings = &worker.outbound.settings;
        let is_local = settings.local_ips.contains(&endpoint.address.ip());
        if self.sent.is_upgrade {
            return (Version::HTTP_11, Carried::Http1);
        }
        if version == Version::HTTP_2 {
            return (version, Carried::Http2);
        }
        if endpoint.hint == Hint::Http2 && Remote::carries_http1(endpoint, is_local) {
            return (Version::HTTP_2, Carried::Http2);
        }
        (version, Carried::Http1)
    }

    /// Policy on who may answer.
    fn check(&self, balancer: Option<&Balancer>, remote: &Remote) -> Result<(), Failure> {
        self.connection.worker.check(&self.plan, balancer, remote)?;
        match (&self.sent.required, remote.identity()) {
            (Some(required), found) if Some(required.as_str()) != found => {
                Err(Failure::RequiredId {
                    required: required.clone(),
                    found: found.unwrap_or("none").to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Gives the request the form in which the endpoint takes it.
    fn shape(
        &self,
        request: &mut Request<RequestBody>,
        remote: &Remote,
        is_carried: bool,
        backend: &RouteBackend,
    ) {
        const CANONICAL: &str = "l5d-dst-canonical";
        let mut authority = self.sent.authority.clone();
        if self.rule.profile.is_some()
            && let Some(name) = backend.backend.authority.as_deref()
            && let Ok(value) = HeaderValue::from_str(name)
        {
            request.headers_mut().insert(CANONICAL, value);
        }
        let mut form = self.sent.form.clone();
        if let Some(overriding) = &remote.authority_override {
            authority = Some(overriding.clone());
            request.headers_mut().remove(header::HOST);
            request.headers_mut().remove(CANONICAL);
            // Whatever form it came in: the name is another.
            if let Ok(path) = request
                .uri()
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .parse()
            {
                *request.uri_mut() = path;
            }
        }
        if is_carried {
            carry(request, &form);
        } else if self.sent.is_upgrade && request.version() == Version::HTTP_2 {
            *request.version_mut() = Version::HTTP_11;
            form.absolute = false;
        }
        let authority = authority.or_else(|| self.connection.lookup.target().authority());
        shape::retarget(request, &form, authority.as_ref());
    }

    /// Sends the request and waits for the head of its response.
    async fn send(
        &self,
        reached: Reached,
        backend: &Arc<RouteBackend>,
        mut request: Request<RequestBody>,
        ended: Ended,
        is_retry: bool,
    ) -> Result<Attempted, Failed> {
        let Reached {
            remote,
            picked,
            ready,
            ..
        } = reached;
        let address = remote.address;
        let is_grpc = self.sent.form.grpc;
        let mut attempt = Attempt::new(
            remote.clone(),
            backend.clone(),
            picked,
            self.rule.profile.clone(),
            ended.clone(),
            is_grpc,
            is_retry,
        );
        let failed = |failure: Failure, is_unprocessed| Failed {
            failure,
            backend: Some(backend.backend.meta.clone()),
            endpoint: Some(address),
            is_unprocessed,
        };
        let delivery = pin!(remote.client.deliver(ready, &mut request, self.interim));
        let answered = self.limits.race(&ended, delivery).await;
        let answer = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let is_unprocessed = error.is_unprocessed();
                let failure = Failure::Endpoint(address, error);
                match failure.reset().filter(|_| !self.sent.is_http1) {
                    Some(reason) => attempt.ended(Ending::Broken(Break::Reset(reason))),
                    None => {
                        let row = failure.row();
                        attempt.failed(row.http, row.grpc);
                    }
                }
                return Err(failed(failure, is_unprocessed));
            }
            Err(expired) => {
                attempt.ended(Ending::Broken(Break::Timeout(expired.label())));
                return Err(failed(Failure::Expired(expired), false));
            }
        };
        let (mut response, tunnel) = match answer {
            Answer::Response(response) => (response, None),
            Answer::Upgrade(response, far) => (response, Some(far)),
        };
        attempt.responded(response.status(), response.headers());
        let is_tunnel = tunnel.is_some();
        let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        shape::strip_hop_by_hop(response.headers_mut(), is_switch);
        if let Some(far) = tunnel {
            self.tunnel(far);
        }
        self.connection
            .worker
            .outbound
            .distrust(&remote, response.headers_mut());
        Ok(Attempted {
            response,
            attempt,
            ended,
            waited: Duration::ZERO,
            is_tunnel,
        })
    }

    /// Carries bytes both ways after the endpoint switched protocols.
    fn tunnel(&self, far: Box<client::Connection>) {
        let near = self
            .sent
            .upgrade
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        let Some(near) = near else {
            return;
        };
        let mut drain = self.connection.worker.drain.clone();
        tokio::spawn(async move {
            let (Ok(near), Ok(mut far)) = tokio::join!(near, far.into_io()) else {
                return;
            };
            let mut near = TokioIo::new(near);
            tokio::select! {
                result = relay(&mut near, &mut far) => drop(result),
                () = drain.cut() => {}
            }
        });
    }

    fn is_carried(&self, carried: Carried) -> bool {
        carried == Carried::Http2 && self.sent.is_http1
    }
}

/// Puts an HTTP/1 request into HTTP/2, with a note of what it was.
///
/// `Host` stays: some servers' proxies open a connection for each request that comes out of HTTP/2 without one.
fn carry(request: &mut Request<RequestBody>, form: &Form) {
    let note = match (request.version(), form.absolute) {
        (Version::HTTP_10, false) => "HTTP/1.0",
        (Version::HTTP_10, true) => "HTTP/1.0; absolute-form",
        (_, false) => "HTTP/1.1",
        (_, true) => "HTTP/1.1; absolute-form",
    };
    let headers = request.headers_mut();
    headers.remove(header::TRANSFER_ENCODING);
    headers.insert(shape::ORIG_PROTO, HeaderValue::from_static(note));
    *request.version_mut() = Version::HTTP_2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carried_request_keeps_its_host() {
        let request = Request::get("/").header(header::HOST, "web.shop");
        let mut request = request
            .header(header::TRANSFER_ENCODING, "chunked")
            .body(RequestBody::empty())
            .unwrap();
        let form = shape::unwrap(&mut request);
        carry(&mut request, &form);
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.headers()[header::HOST], "web.shop");
        assert_eq!(request.headers()[shape::ORIG_PROTO], "HTTP/1.1");
        assert!(!request.headers().contains_key(header::TRANSFER_ENCODING));
    }
}
