//! PINGs (RFC 9113 §6.7): whether the peer is still there, and how wide the way to it is.
//!
//! Streams note what comes in a [`Beat`] with a store or two; the connection's task looks at it and does the rest.

use crate::http::HttpError;
use h2::{Ping, PingPong};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};

/// What a connection's streams tell of it.
#[derive(Debug)]
pub(super) struct Beat {
    epoch: Instant,
    /// Milliseconds after `epoch` at which something came last.
    last: AtomicU64,
    /// Bytes of data since the last sample.
    bytes: AtomicUsize,
}

impl Beat {
    /// A head came.
    pub(super) fn head(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Data came.
    pub(super) fn data(&self, bytes: usize) {
        self.head();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.epoch + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

/// How a connection is watched.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settings {
    /// A PING after this long without anything, and how long its answer may take.
    pub(super) keep_alive: Option<(Duration, Duration)>,
    /// Also while there are no streams.
    pub(super) while_idle: bool,
    /// The windows follow the traffic, from [`FIRST_WINDOW`].
    pub(super) is_adaptive: bool,
}

/// The PINGs of one connection, in its task.
#[derive(Debug)]
pub(super) struct Pings {
    pings: PingPong,
    beat: Arc<Beat>,
    sent: Option<Instant>,
    keep_alive: Option<KeepAlive>,
    width: Option<Width>,
}

#[derive(Debug)]
struct KeepAlive {
    interval: Duration,
    timeout: Duration,
    while_idle: bool,
    timer: Pin<Box<Sleep>>,
    /// The timer is that of an answer.
    is_awaited: bool,
}

impl Pings {
    /// Nothing, if nothing is to be watched.
    pub(super) fn new(
        settings: Settings,
        pings: impl FnOnce() -> Option<PingPong>,
    ) -> Option<Self> {
        if settings.keep_alive.is_none() && !settings.is_adaptive {
            return None;
        }
        Some(Self {
            pings: pings()?,
            beat: Arc::new(Beat {
                epoch: Instant::now(),
                last: AtomicU64::new(0),
                bytes: AtomicUsize::new(0),
            }),
            sent: None,
            keep_alive: settings.keep_alive.map(|(interval, timeout)| KeepAlive {
                interval,
                timeout,
                while_idle: settings.while_idle,
                timer: Box::pin(sleep(interval)),
                is_awaited: false,
            }),
            width: settings.is_adaptive.then(Width::new),
        })
    }

    pub(super) fn beat(&self) -> &Arc<Beat> {
        &self.beat
    }

    /// Looks after the peer; `widen` sets the connection's windows, in bytes.
    ///
    /// # Errors
    /// The peer does not answer.
    pub(super) fn watch(
        &mut self,
        cx: &mut Context<'_>,
        widen: impl FnOnce(u32) -> Result<(), h2::Error>,
    ) -> Result<(), HttpError> {
        if let Some(window) = self.answered(cx) {
            // Refused while the last one is not acknowledged: the next sample says it again.
            let _ = widen(window);
        }
        self.measure(cx);
        if self.is_silent(cx) {
            return Err(HttpError::Silent);
        }
        Ok(())
    }

    fn ping(&mut self, now: Instant) {
        if self.sent.is_none() && self.pings.send_ping(Ping::opaque()).is_ok() {
            self.sent = Some(now);
        }
    }

    /// Notes the answer to a PING. Gives the window that the way to the peer has room for, if it is another.
    fn answered(&mut self, cx: &mut Context<'_>) -> Option<u32> {
        let sent = self.sent?;
        if !matches!(self.pings.poll_pong(cx), Poll::Ready(Ok(_))) {
            return None;
        }
        let now = Instant::now();
        self.sent = None;
        self.beat.head();
        if let Some(keep_alive) = &mut self.keep_alive {
            keep_alive.is_awaited = false;
            keep_alive.timer.as_mut().reset(now + keep_alive.interval);
        }
        let bytes = self.beat.bytes.swap(0, Ordering::Relaxed);
        self.width.as_mut()?.sample(bytes, now - sent, now)
    }

    /// Begins a sample when data has come.
    fn measure(&mut self, cx: &mut Context<'_>) {
        let Some(width) = &self.width else {
            return;
        };
        if self.sent.is_some() || self.beat.bytes.load(Ordering::Relaxed) == 0 {
            return;
        }
        let now = Instant::now();
        if now < width.next {
            // What came in between belongs to no sample.
            self.beat.bytes.store(0, Ordering::Relaxed);
            return;
        }
        self.ping(now);
        // h2 notes who waits for the answer when it is asked.
        let _ = self.pings.poll_pong(cx);
    }

    /// Whether the peer has not answered in time; asks it when nothing has come for long.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        // Every stream holds one more.
        let is_idle = Arc::strong_count(&self.beat) == 1;
        while let Some(keep_alive) = &mut self.keep_alive {
            if keep_alive.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            if keep_alive.is_awaited {
                return true;
            }
            let now = Instant::now();
            let due = self.beat.last() + keep_alive.interval;
            if due > now {
                keep_alive.timer.as_mut().reset(due);
            } else if is_idle && !keep_alive.while_idle {
                keep_alive.timer.as_mut().reset(now + keep_alive.interval);
            } else {
                keep_alive.is_awaited = true;
                keep_alive.timer.as_mut().reset(now + keep_alive.timeout);
                self.ping(now);
                let _ = self.pings.poll_pong(cx);
            }
        }
        false
    }
}

/// The window that a peer has before it hears of another, in bytes (RFC 9113 §6.9.2): where those that follow the traffic
/// begin.
pub(super) const FIRST_WINDOW: u32 = 65_535;

/// The largest window, in bytes.
const MAX_WINDOW: u32 = 16 * 1024 * 1024;
/// The longest pause between two samples.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// How much is on its way to us at one time: the bandwidth-delay product. A window of less holds the sender back, one of
/// far more is memory for nothing.
#[derive(Debug)]
struct Width {
    window: u32,
    /// Bytes a second, the most that was seen.
    fastest: f64,
    /// Seconds, smoothed.
    round_trip: f64,
    pause: Duration,
    /// Samples in a row that changed nothing.
    steady: u32,
    next: Instant,
}

impl Width {
    fn new() -> Self {
        Self {
            window: FIRST_WINDOW,
            fastest: 0.0,
            round_trip: 0.0,
            pause: Duration::from_millis(100),
            steady: 0,
            next: Instant::now(),
        }
    }

    /// `bytes` came while a PING was on its way there and back. The window doubles what came, if that nearly filled it
    /// and came faster than ever.
    #[expect(clippy::cast_precision_loss, reason = "a rate is no exact figure")]
    fn sample(&mut self, bytes: usize, round_trip: Duration, now: Instant) -> Option<u32> {
        let seconds = round_trip.as_secs_f64();
        self.round_trip = match self.round_trip {
            0.0 => seconds,
            smoothed => smoothed + (seconds - smoothed) / 8.0,
        };
        // A round trip and a half: what came before the PING arrived is part of it.
        let speed = bytes as f64 / (self.round_trip * 1.5).max(f64::EPSILON);
        let is_filled = bytes >= self.window as usize / 3 * 2;
        let grows = self.window < MAX_WINDOW && speed >= self.fastest && is_filled;
        self.fastest = self.fastest.max(speed);
        if grows {
            let doubled = u32::try_from(bytes.saturating_mul(2)).unwrap_or(MAX_WINDOW);
            self.window = doubled.clamp(self.window, MAX_WINDOW);
            self.pause /= 2;
            self.steady = 0;
        } else {
            self.steady += 1;
            if self.steady == 2 {
                self.pause = (self.pause * 4).min(MAX_PAUSE);
                self.steady = 0;
            }
        }
        self.next = now + self.pause;
        grows.then_some(self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_window_grows_with_what_fills_it_and_no_further() {
        let mut width = Width::new();
        let now = Instant::now();
        let round_trip = Duration::from_millis(10);
        assert_eq!(width.sample(1_000, round_trip, now), None, "hardly used");
        assert_eq!(width.sample(60_000, round_trip, now), Some(120_000));
        assert_eq!(width.sample(60_000, round_trip, now), None, "half of it");
        assert_eq!(width.sample(110_000, round_trip, now), Some(220_000));
        let huge = 200 * 1024 * 1024;
        assert_eq!(width.sample(huge, round_trip, now), Some(MAX_WINDOW));
        assert_eq!(width.sample(huge * 2, round_trip, now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn samples_grow_rare_while_nothing_changes() {
        let mut width = Width::new();
        let now = Instant::now();
        for _ in 0..20 {
            width.sample(10, Duration::from_millis(10), now);
        }
        assert_eq!(width.next, now + MAX_PAUSE);
    }
}
