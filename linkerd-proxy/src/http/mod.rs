//! What both sides need of HTTP: bodies, the client, and the shape of requests.

pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod outcome;
pub(crate) mod request;
pub(crate) mod serve;

use crate::activity::Activity;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::time::Duration;

/// Settings of an HTTP/2 server.
#[derive(Clone, Debug)]
pub(crate) struct Http2Settings {
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    pub(crate) adaptive: bool,
    pub(crate) max_streams: Option<u32>,
    pub(crate) max_frame: Option<u32>,
    pub(crate) max_header_list: u32,
    pub(crate) max_pending_resets: usize,
    pub(crate) max_local_resets: usize,
    pub(crate) max_send_buffer: usize,
    pub(crate) keep_alive: Option<(Duration, Duration)>,
}

impl Http2Settings {
    /// An HTTP/2 server with these settings.
    pub(crate) fn server(&self) -> http2::Builder<TokioExecutor> {
        let mut server = http2::Builder::new(TokioExecutor::new());
        server
            .timer(TokioTimer::new())
            .initial_stream_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_concurrent_streams(self.max_streams)
            .max_frame_size(self.max_frame)
            .max_header_list_size(self.max_header_list)
            .max_pending_accept_reset_streams(self.max_pending_resets)
            .max_local_error_reset_streams(self.max_local_resets)
            .max_send_buf_size(self.max_send_buffer);
        if self.adaptive {
            server.adaptive_window(true);
        }
        if let Some((interval, timeout)) = self.keep_alive {
            server
                .keep_alive_interval(interval)
                .keep_alive_timeout(timeout);
        }
        server
    }
}

/// Limits of a client's HTTP connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// How long the head of a request may take.
    pub(crate) head: Duration,
    /// How long a connection is kept without a request.
    pub(crate) idle: Duration,
}

impl ConnectionLimits {
    /// How long until one of the limits is reached.
    pub(crate) fn left(&self, activity: &Activity) -> Duration {
        activity.left(self.head, self.idle)
    }
}
