//! What becomes of a request, told to everyone who counts: an attempt's endpoint, backend and balancer, and once for
//! all attempts its route.
//!
//! A record travels with the response's body and ends with it. Handles were resolved when the route was.

use super::{
    backend::{Remote, RouteBackend},
    balance::{Class, Picked},
    limits::{Expired, Watch},
    retry::{End, Journal},
    route::{Named, ProfileRule, Rule},
};
use crate::http::{
    body::{Ended, ResponseError},
    outcome::{Break, Ending, GrpcStatus, Outcome, grpc_message, grpc_status},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Frame;
use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

/// The record of a response on its way to the application.
#[derive(Debug)]
pub(crate) struct Record {
    attempt: Attempt,
    whole: Option<Whole>,
    watch: Option<Box<Watch>>,
    /// gRPC applications are told of a break by trailers, and why if operators let them know.
    is_informational: bool,
}

impl Record {
    pub(super) fn new(
        attempt: Attempt,
        whole: Whole,
        watch: Option<Box<Watch>>,
        is_informational: bool,
    ) -> Box<Self> {
        Box::new(Self {
            attempt,
            whole: Some(whole),
            watch,
            is_informational,
        })
    }

    /// A frame of the response passed.
    pub(crate) fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(watch) = &self.watch {
            watch.beat();
        }
        let first = self.attempt.frame(frame);
        if let (Some(now), Some(whole)) = (first, &mut self.whole) {
            whole.first_frame(self.attempt.outcome(Ending::Whole), now);
        }
    }

    /// Ready when the rest of the response takes too long.
    pub(crate) fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        match &mut self.watch {
            Some(watch) => watch.poll(cx),
            None => Poll::Pending,
        }
    }

    /// The trailers that tell a gRPC application of a break.
    pub(crate) fn trailers(&self, error: &ResponseError) -> Option<HeaderMap> {
        if !self.attempt.is_grpc {
            return None;
        }
        let code = match error {
            ResponseError::Expired(_) | ResponseError::Stalled(_) => 4,
            ResponseError::Origin(_) => 14,
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(code));
        if self.is_informational
            && let Some(text) = grpc_message(&error.to_string())
        {
            trailers.insert("grpc-message", text);
        }
        Some(trailers)
    }

    /// The response has ended.
    pub(crate) fn end(mut self: Box<Self>, ending: Ending) {
        self.finish(ending);
    }

    fn finish(&mut self, ending: Ending) {
        let now = Instant::now();
        self.attempt.finish(ending, now);
        if let Some(whole) = self.whole.take() {
            whole.finish(self.attempt.outcome(ending), now);
        }
    }
}

impl Drop for Record {
    /// The application went away before the end.
    fn drop(&mut self) {
        if self.whole.is_some() {
            self.finish(Ending::Broken(Break::Unknown));
        }
    }
}

/// One attempt: sent to one endpoint.
#[derive(Debug)]
pub(super) struct Attempt {
    remote: Arc<Remote>,
    backend: Arc<RouteBackend>,
    picked: Option<Picked>,
    /// Counts attempts as well, where a service profile routes.
    profile: Option<Arc<ProfileRule>>,
    sent: Instant,
    request_ended: Ended,
    status: StatusCode,
    is_grpc: bool,
    is_retry: bool,
    grpc_status: Option<u16>,
    begun: bool,
    done: bool,
}

impl Attempt {
    /// Begins when the request is sent.
    pub(super) fn new(
        remote: Arc<Remote>,
        backend: Arc<RouteBackend>,
        picked: Option<Picked>,
        profile: Option<Arc<ProfileRule>>,
        request_ended: Ended,
        is_grpc: bool,
        is_retry: bool,
    ) -> Self {
        remote.handles.requests.inc();
        backend.handles.requests.inc();
        Self {
            remote,
            backend,
            picked,
            profile,
            sent: Instant::now(),
            request_ended,
            status: StatusCode::OK,
            is_grpc,
            is_retry,
            grpc_status: None,
            begun: false,
            done: false,
        }
    }

    /// The head of the response is there.
    pub(super) fn responded(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status;
        self.grpc_status = self.is_grpc.then(|| grpc_status(headers)).flatten();
        self.penalise(headers);
    }

    /// A failure makes the endpoint less attractive, however fast it came. `headers`: the head, or the trailers, that say
    /// that it is one.
    fn penalise(&mut self, headers: &HeaderMap) {
        let is_overload =
            matches!(self.status.as_u16(), 429 | 503) || matches!(self.grpc_status, Some(8 | 14));
        let is_failure =
            self.status.is_server_error() || matches!(self.grpc_status, Some(2 | 4 | 13 | 15));
        if let Some(picked) = &mut self.picked
            && (is_overload || is_failure)
            && !picked.is_penalised()
        {
            let hint = is_overload.then(|| retry_after(headers)).flatten();
            picked.penalise(hint, Instant::now());
        }
    }

    pub(super) fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// Trailers that were looked at before they passed.
    pub(super) fn trailed(&mut self, trailers: &HeaderMap) {
        if self.is_grpc {
            self.grpc_status = grpc_status(trailers).or(self.grpc_status);
            self.penalise(trailers);
        }
    }

    /// A frame passed; gives the time if it was the first of data.
    fn frame(&mut self, frame: &Frame<Bytes>) -> Option<Instant> {
        if let Some(data) = frame.data_ref() {
            self.backend.handles.frames.observe_bytes(data.len());
            return self.first_frame(Instant::now());
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.trailed(trailers);
        }
        None
    }

    /// The latency of an endpoint runs to the first frame of its response, or to its end if it has none.
    fn first_frame(&mut self, now: Instant) -> Option<Instant> {
        if std::mem::replace(&mut self.begun, true) {
            return None;
        }
        let milliseconds = now.saturating_duration_since(self.sent).as_secs_f64() * 1000.0;
        let outcome = Outcome::by_status(self.status);
        self.remote.handles.observe_latency(outcome, milliseconds);
        if let Some(picked) = &mut self.picked {
            picked.first_data(now);
        }
        Some(now)
    }

    pub(super) fn outcome(&self, ending: Ending) -> Outcome {
        Outcome {
            status: self.status,
            grpc: self.is_grpc.then(|| {
                self.grpc_status
                    .map_or(GrpcStatus::Missing, GrpcStatus::Code)
            }),
            ending,
        }
    }

    /// Another attempt follows, or there was no response: what came is not passed on.
    pub(super) fn ended(mut self, ending: Ending) {
        self.finish(ending, Instant::now());
    }

    /// The endpoint did not answer; `status` is the proxy's answer in its name.
    pub(super) fn failed(mut self, status: StatusCode, grpc: u16) {
        self.status = if self.is_grpc { StatusCode::OK } else { status };
        self.grpc_status = self.is_grpc.then_some(grpc);
        self.finish(Ending::Whole, Instant::now());
    }

    fn finish(&mut self, ending: Ending, now: Instant) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let outcome = self.outcome(ending);
        // Breaking off is a failure too, which no head told of.
        if self.class(outcome) == Class::Failure
            && let Some(picked) = self.picked.as_mut().filter(|picked| !picked.is_penalised())
        {
            picked.penalise(None, now);
        }
        self.first_frame(now);
        self.remote.handles.ended(outcome);
        let is_success = outcome.is_success(self.remote.grpc_failures);
        self.backend
            .handles
            .ended(outcome, self.is_retry, is_success);
        if let Some(profile) = &self.profile {
            let is_success = profile.is_success(outcome, self.remote.grpc_failures);
            profile.handles.attempted(outcome, is_success);
        }
        let since = self.request_ended.get().unwrap_or(now).max(self.sent);
        self.backend
            .handles
            .duration
            .observe(now.saturating_duration_since(since).as_secs_f64());
        if let Some(picked) = self.picked.take() {
            picked.ended(self.class(outcome), now);
        }
    }

    /// What the attempt says of its endpoint, for the breaker. An application that goes away says nothing.
    fn class(&self, outcome: Outcome) -> Class {
        let is_limited = outcome.status == StatusCode::TOO_MANY_REQUESTS
            || outcome.grpc == Some(GrpcStatus::Code(8));
        match outcome.ending {
            Ending::Broken(Break::Unknown) => Class::Neutral,
            Ending::Whole if is_limited => Class::RateLimited,
            Ending::Whole if outcome.is_success(self.remote.grpc_failures) => Class::Success,
            Ending::Whole | Ending::Broken(_) => Class::Failure,
        }
    }
}

impl Drop for Attempt {
    /// Given up: the application went away while the response was awaited.
    fn drop(&mut self) {
        if !self.done {
            self.finish(Ending::Broken(Break::Unknown), Instant::now());
        }
    }
}

/// `retry-after` (seconds or a date, RFC 9110 §10.2.3) or `grpc-retry-pushback-ms`.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(pushback) = text("grpc-retry-pushback-ms") {
        return pushback.trim().parse().ok().map(Duration::from_millis);
    }
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = time::PrimitiveDateTime::parse(value, format)
        .ok()?
        .assume_utc();
    SystemTime::from(at).duration_since(SystemTime::now()).ok()
}

/// One request of the application, whatever it took.
#[derive(Debug)]
pub(super) struct Whole {
    rule: Arc<Rule>,
    named: Option<Arc<Named>>,
    arrived: Instant,
    journal: Journal,
}

impl Whole {
    pub(super) fn new(
        rule: Arc<Rule>,
        named: Option<Arc<Named>>,
        arrived: Instant,
        journal: Journal,
    ) -> Self {
        Self {
            rule,
            named,
            arrived,
            journal,
        }
    }

    fn first_frame(&mut self, outcome: Outcome, now: Instant) {
        if let Some(profile) = &self.rule.profile {
            let elapsed = now.saturating_duration_since(self.arrived);
            let outcome = Outcome::by_status(outcome.status);
            profile
                .handles
                .observe_latency(outcome, elapsed.as_secs_f64() * 1000.0);
        }
    }

    /// The request is over.
    pub(super) fn finish(self, outcome: Outcome, now: Instant) {
        let elapsed = now.saturating_duration_since(self.arrived);
        let handles = self.rule.handles(self.named.as_deref());
        handles.duration.observe(elapsed.as_secs_f64());
        handles.ended(outcome);
        let is_success = self.rule.is_success(outcome);
        if let Some(profile) = &self.rule.profile {
            profile.handles.ended(outcome, is_success);
        }
        self.journal.finish(match outcome.ending {
            Ending::Broken(Break::Timeout(_)) => End::TimedOut,
            Ending::Broken(Break::Unknown) => End::Abandoned,
            _ if is_success => End::Success,
            _ => End::Failure,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_to_wait_are_read_in_every_form() {
        let hint = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            retry_after(&headers)
        };
        assert_eq!(hint("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(
            hint("grpc-retry-pushback-ms", "250"),
            Some(Duration::from_millis(250))
        );
        assert!(hint("retry-after", "Fri, 31 Dec 2100 23:59:59 GMT").is_some());
        assert_eq!(hint("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), None);
        assert_eq!(hint("retry-after", "soon"), None);
        assert_eq!(hint("grpc-retry-pushback-ms", "-1"), None);
    }
}
