//! What becomes of a permitted request, counted in the families of its route.
//!
//! Handles are resolved once for a route and a kind of client and only incremented here.

use super::metrics::RouteHandles;
use crate::http::{
    body::Ended,
    outcome::{Break, Ending, GrpcStatus, Outcome, grpc_status},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use std::{sync::Arc, time::Instant};

/// The record of one request that an origin answers.
#[derive(Debug)]
pub(crate) struct Record {
    handles: Arc<RouteHandles>,
    arrived: Instant,
    request_ended: Ended,
    status: StatusCode,
    grpc: bool,
    grpc_status: Option<u16>,
    begun: bool,
    ended: bool,
}

impl Record {
    /// Begins when the head of the response is there.
    pub(crate) fn new(
        handles: Arc<RouteHandles>,
        arrived: Instant,
        request_ended: Ended,
        status: StatusCode,
        grpc: bool,
        headers: &HeaderMap,
    ) -> Self {
        let grpc_status = grpc.then(|| grpc_status(headers)).flatten();
        Self {
            handles,
            arrived,
            request_ended,
            status,
            grpc,
            grpc_status,
            begun: false,
            ended: false,
        }
    }

    /// A frame of the response passed.
    pub(crate) fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.handles.response_frames.observe(data.len() as f64);
            self.first_byte();
        } else if let Some(trailers) = frame.trailers_ref().filter(|_| self.grpc) {
            self.grpc_status = grpc_status(trailers).or(self.grpc_status);
        }
    }

    /// The peer's latency runs to the first frame of the response, or to its end if it has none.
    fn first_byte(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            let elapsed = self.arrived.elapsed();
            self.handles.observe_latency(
                Outcome::by_status(self.status),
                elapsed.as_secs_f64() * 1000.0,
            );
        }
    }

    /// The response stood still for longer than it may.
    pub(crate) fn stalled(&self) {
        self.handles.stalled();
    }

    /// The response has ended, or broke off with `error`.
    pub(crate) fn end(mut self, ending: Ending) {
        self.finish(ending);
    }

    fn finish(&mut self, ending: Ending) {
        self.ended = true;
        self.first_byte();
        let now = Instant::now();
        let since = |then: Instant| now.saturating_duration_since(then).as_secs_f64();
        self.handles.request_duration.observe(since(self.arrived));
        let request_ended = self.request_ended.get();
        self.handles
            .response_duration
            .observe(request_ended.map_or(0.0, since));
        let grpc = self.grpc.then(|| {
            self.grpc_status
                .map_or(GrpcStatus::Missing, GrpcStatus::Code)
        });
        self.handles.ended(Outcome {
            status: self.status,
            grpc,
            ending,
        });
    }
}

impl Drop for Record {
    /// The client went away before the end.
    fn drop(&mut self) {
        if !self.ended {
            self.finish(Ending::Broken(Break::Unknown));
        }
    }
}
