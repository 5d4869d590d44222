//! Limits of time: of a request with all its attempts, of an attempt's response, of its head, and of silence.
//!
//! Nothing is armed for a request without limits. Until the head of the response is there they are raced with it
//! ([`Limits::race`]); afterwards the response's body watches them ([`Watch`]).

use crate::http::body::Ended;
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// A limit that was reached, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Expired {
    /// Of the request, all attempts together.
    Request(Duration),
    /// Of an attempt's response, from the end of its request.
    Response(Duration),
    /// Of an attempt that may be retried, until the head of its response.
    Head(Duration),
    /// Of silence.
    Idle(Duration),
    /// Of all attempts until the head of a response, by a service profile.
    Profile(Duration),
}

impl Expired {
    /// The value of `error` in route families.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Request(_) => "REQUEST_TIMEOUT",
            Self::Response(_) => "RESPONSE_STREAM_TIMEOUT",
            Self::Head(_) => "RESPONSE_HEADERS_TIMEOUT",
            Self::Idle(_) => "IDLE_TIMEOUT",
            Self::Profile(_) => "REQUEST_TIMEOUT",
        }
    }
}

impl fmt::Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(limit) => write!(f, "request timeout: {limit:?}"),
            Self::Response(limit) => write!(f, "response stream timeout: {limit:?}"),
            Self::Head(limit) => write!(f, "response header timeout: {limit:?}"),
            Self::Idle(limit) => write!(f, "idle timeout: {limit:?}"),
            Self::Profile(limit) => write!(f, "HTTP response timeout after {limit:?}"),
        }
    }
}

/// When the last frame passed in either direction.
#[derive(Debug)]
pub(crate) struct Progress {
    epoch: Instant,
    /// Milliseconds after `epoch`.
    last: AtomicU64,
}

impl Progress {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: now(),
            last: AtomicU64::new(0),
        })
    }

    /// A frame passed.
    pub(crate) fn beat(&self) {
        let now = u64::try_from(now().saturating_duration_since(self.epoch).as_millis())
            .unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    fn until(&self, limit: Duration) -> Option<Instant> {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.epoch.checked_add(last)?.checked_add(limit)
    }
}

/// By the clock of the timers, which tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The limits of one attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// When the whole request must be over, and the limit that says so.
    pub(super) request: Option<(Instant, Duration)>,
    pub(super) response: Option<Duration>,
    pub(super) head: Option<Duration>,
    /// When the head of a response must be there, whatever it takes, and the limit that says so.
    pub(super) profile: Option<(Instant, Duration)>,
    /// When a gRPC client stops waiting. It says so itself then, so that this only ends attempts that would come
    /// too late, and is a limit of its own where a rule lets clients set limits.
    pub(super) client: Option<Instant>,
    pub(super) idle: Option<(Duration, Arc<Progress>)>,
}

impl Limits {
    /// The limits of a request that arrived at `arrived`. `head` is set for each attempt.
    pub(super) fn new(timeouts: &linkerd_policy::outbound::Timeouts, arrived: Instant) -> Self {
        let deadline = |limit| Some((arrived.checked_add(limit)?, limit));
        Self {
            request: timeouts.request.and_then(deadline),
            response: timeouts.response,
            head: None,
            profile: None,
            client: None,
            idle: timeouts.idle.map(|limit| (limit, Progress::new())),
        }
    }

    /// With the limit of a service profile's route.
    pub(super) fn with_profile(mut self, limit: Option<Duration>, arrived: Instant) -> Self {
        self.profile = limit.and_then(|limit| Some((arrived.checked_add(limit)?, limit)));
        self
    }

    /// With the time that a gRPC client waits, as a limit if it `is_allowed` to set one.
    pub(super) fn with_client(
        mut self,
        limit: Option<Duration>,
        arrived: Instant,
        is_allowed: bool,
    ) -> Self {
        let deadline = limit.and_then(|limit| Some((arrived.checked_add(limit)?, limit)));
        self.client = deadline.map(|(at, _)| at);
        if is_allowed {
            let both = [self.request, deadline].into_iter().flatten();
            self.request = both.min_by_key(|(at, _)| *at);
        }
        self
    }

    /// What is left of the time that a gRPC client waits.
    pub(super) fn client_waits(&self, now: Instant) -> Option<Duration> {
        Some(self.client?.saturating_duration_since(now))
    }

    fn is_none(&self) -> bool {
        self.request.is_none()
            && self.profile.is_none()
            && self.response.is_none()
            && self.head.is_none()
            && self.idle.is_none()
    }

    /// Where frames of the request are noted.
    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.idle.as_ref().map(|(_, progress)| progress.clone())
    }

    /// The first limit that will be reached as things stand, given when the request's body ended.
    fn next(&self, ended: Option<Instant>, is_head_awaited: bool) -> Option<(Instant, Expired)> {
        let after = |limit: Duration| ended?.checked_add(limit);
        let head = self.head.filter(|_| is_head_awaited);
        let profile = self.profile.filter(|_| is_head_awaited);
        let all = [
            profile.map(|(at, limit)| (at, Expired::Profile(limit))),
            self.request
                .map(|(at, limit)| (at, Expired::Request(limit))),
            self.response
                .and_then(|limit| Some((after(limit)?, Expired::Response(limit)))),
            head.and_then(|limit| Some((after(limit)?, Expired::Head(limit)))),
            self.idle.as_ref().and_then(|(limit, progress)| {
                Some((progress.until(*limit)?, Expired::Idle(*limit)))
            }),
        ];
        all.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// What `attempt` gives, unless a limit is reached first. Pinned by the caller: as a value it would be kept twice.
    pub(super) async fn race<F: Future>(
        &self,
        ended: &Ended,
        mut attempt: Pin<&mut F>,
    ) -> Result<F::Output, Expired> {
        if self.is_none() {
            return Ok(attempt.await);
        }
        let mut watch = Watch::new(self.clone(), ended.clone());
        watch.is_head_awaited = true;
        poll_fn(|cx| {
            if let Poll::Ready(output) = attempt.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            watch.poll(cx).map(Err)
        })
        .await
    }

    /// A watch for the rest of the response, if there is anything to watch.
    pub(super) fn watch(self, ended: Ended) -> Option<Box<Watch>> {
        let is_needed = self.request.is_some() || self.response.is_some() || self.idle.is_some();
        is_needed.then(|| Box::new(Watch::new(self, ended)))
    }

    /// The time left for more attempts.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let ends = [self.request, self.profile].into_iter().flatten();
        let at = ends.map(|(at, _)| at).chain(self.client).min()?;
        Some(at.saturating_duration_since(now))
    }
}

/// Limits being watched. A timer is moved only when it fires too early, not for each frame.
#[derive(Debug)]
pub(crate) struct Watch {
    limits: Limits,
    ended: Ended,
    is_head_awaited: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    fn new(limits: Limits, ended: Ended) -> Self {
        Self {
            limits,
            ended,
            is_head_awaited: false,
            timer: None,
        }
    }

    /// A frame of the response passed.
    pub(crate) fn beat(&self) {
        if let Some((_, progress)) = &self.limits.idle {
            progress.beat();
        }
    }

    /// Ready when a limit is reached. To be polled whenever what it limits is pending.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            let ended = self.ended.get();
            if ended.is_none() && (self.limits.response.is_some() || self.limits.head.is_some()) {
                self.ended.wake_at_end(cx.waker());
            }
            let Some((at, expired)) = self
                .limits
                .next(ended.or_else(|| self.ended.get()), self.is_head_awaited)
            else {
                return Poll::Pending;
            };
            if at <= now() {
                return Poll::Ready(expired);
            }
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
            if timer.deadline() != at.into() {
                timer.as_mut().reset(at.into());
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linkerd_policy::outbound::Timeouts;
    use std::{future::pending, pin::pin};

    #[tokio::test(start_paused = true)]
    async fn a_response_is_limited_from_the_end_of_its_request() {
        let limits = Limits::new(
            &Timeouts {
                response: Some(Duration::from_millis(50)),
                ..Timeouts::default()
            },
            now(),
        );
        let ended = Ended::later();
        let raced = {
            let ended = ended.clone();
            tokio::spawn(async move { limits.race(&ended, pin!(pending::<()>())).await })
        };
        tokio::task::yield_now().await;
        assert!(!raced.is_finished());
        ended.end();
        let expired = raced.await.unwrap().unwrap_err();
        assert_eq!(expired, Expired::Response(Duration::from_millis(50)));
        assert_eq!(expired.to_string(), "response stream timeout: 50ms");
    }

    #[tokio::test]
    async fn the_first_limit_counts() {
        let arrived = Instant::now();
        let mut limits = Limits::new(
            &Timeouts {
                request: Some(Duration::from_millis(20)),
                response: Some(Duration::from_millis(500)),
                idle: Some(Duration::from_millis(10)),
            },
            arrived,
        );
        limits.head = Some(Duration::from_millis(5));
        let ended = Ended::at(arrived);
        let expired = limits.race(&ended, pin!(pending::<()>())).await;
        assert_eq!(expired, Err(Expired::Head(Duration::from_millis(5))));
        limits.head = None;
        let expired = limits.race(&ended, pin!(pending::<()>())).await;
        assert_eq!(expired, Err(Expired::Idle(Duration::from_millis(10))));
        limits.idle = None;
        let expired = limits.race(&ended, pin!(pending::<()>())).await;
        assert_eq!(expired, Err(Expired::Request(Duration::from_millis(20))));
        assert_eq!(limits.left(Instant::now()), Some(Duration::ZERO));
    }

    #[test]
    fn a_client_that_stops_waiting_ends_retries_and_is_a_limit_only_where_it_may_set_one() {
        let arrived = Instant::now();
        let second = Duration::from_secs(1);
        let policy = Timeouts {
            request: Some(2 * second),
            ..Timeouts::default()
        };
        let limits = |is_allowed, waits| {
            Limits::new(&policy, arrived).with_client(Some(waits), arrived, is_allowed)
        };
        let bound = limits(false, second);
        assert_eq!(bound.left(arrived), Some(second));
        assert_eq!(bound.request.unwrap().1, 2 * second);
        assert_eq!(limits(true, second).request.unwrap().1, second);
        assert_eq!(limits(true, 3 * second).request.unwrap().1, 2 * second);
        assert_eq!(limits(true, 3 * second).left(arrived), Some(2 * second));
    }
}
