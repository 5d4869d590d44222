//! A response of a controller, whose first frame and end are counted.

use super::replicas::Lease;
use crate::discovery::metrics::{ClientMetrics, ResponseEnd};
use bytes::Bytes;
use http_body::Frame;
use hyper::body::Incoming;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

/// A response's body, whose first frame and end are counted.
#[derive(Debug)]
pub(crate) struct WatchedBody {
    body: Incoming,
    recorder: Option<Recorder>,
    /// The call counts as one of its replica's until this goes.
    _lease: Lease,
}

impl WatchedBody {
    /// A response to a call that began at `started`.
    pub(super) fn of(
        response: http::Response<Incoming>,
        lease: Lease,
        metrics: Arc<ClientMetrics>,
        started: Instant,
    ) -> http::Response<Self> {
        let recorder = Recorder {
            grpc_status: grpc_status(response.headers()),
            status: response.status(),
            is_first: true,
            metrics,
            started,
        };
        response.map(|body| Self {
            body,
            recorder: Some(recorder),
            _lease: lease,
        })
    }
}

#[derive(Debug)]
struct Recorder {
    metrics: Arc<ClientMetrics>,
    status: http::StatusCode,
    /// From the headers, for answers without a body.
    grpc_status: Option<i32>,
    started: Instant,
    is_first: bool,
}

impl Recorder {
    fn end(self, code: Option<i32>) {
        self.metrics.response(&ResponseEnd::Grpc {
            http: self.status,
            code: code.or(self.grpc_status).unwrap_or(2),
        });
    }
}

fn grpc_status(headers: &http::HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(recorder) = &mut self.recorder
            && std::mem::take(&mut recorder.is_first)
        {
            recorder
                .metrics
                .first_byte(recorder.status, recorder.started);
        }
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref()
                    && let Some(recorder) = self.recorder.take()
                {
                    recorder.end(grpc_status(trailers));
                }
            }
            Some(Err(_)) => {
                if let Some(recorder) = self.recorder.take() {
                    let end = ResponseEnd::Failed("unclassified");
                    recorder.metrics.response(&end);
                }
            }
            None => {
                if let Some(recorder) = self.recorder.take() {
                    recorder.end(None);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            // An answer whose whole content was its headers ends here too; else we gave the stream up (1 = cancelled).
            let code = recorder.grpc_status.unwrap_or(1);
            recorder.end(Some(code));
        }
    }
}
