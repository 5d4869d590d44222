//! Spans of requests that belong to a sampled trace: one at the front, one for each attempt behind.
//!
//! The proxy never begins a trace. With a collector configured, each hop is named in the headers that the context came
//! in, also where nothing is sampled, so that a trace has no gap if someone further on decides otherwise.

use super::{
    context::{self, Context, SpanId},
    otlp::{KeyValue, Span, SpanKind, Status},
};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use linkerd_metrics::{Counter, Handle};
use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::mpsc;

/// Spans that wait for the exporter; more are dropped and counted.
pub(crate) const BUFFER: usize = 2048;
/// Longest attribute value in bytes: a path is as long as a client likes.
const MAX_VALUE: usize = 1024;

/// Takes spans. A clone is another user of the same buffer.
#[derive(Clone, Debug)]
pub(crate) struct Tracer {
    spans: mpsc::Sender<Span>,
    dropped: Handle<Counter>,
    direction: &'static str,
}

/// The trace that a request belongs to, and the span that is its last hop.
#[derive(Clone, Debug)]
pub(crate) struct Traced {
    context: Context,
    parent: SpanId,
}

/// A span that has begun. It is sent when its response begins, or when it is known that there will be none.
#[derive(Debug)]
pub(crate) struct OpenSpan {
    /// Until it is sent.
    span: Option<Box<Span>>,
    tracer: Tracer,
}

/// `error.type` where nobody waits for an answer any more.
const CANCELLED: &str = "cancelled";

impl Tracer {
    /// Gives the tracer and what it fills.
    pub(crate) fn new(dropped: Handle<Counter>) -> (Self, mpsc::Receiver<Span>) {
        let (spans, buffer) = mpsc::channel(BUFFER);
        let tracer = Self {
            spans,
            dropped,
            direction: "",
        };
        (tracer, buffer)
    }

    /// For one side of the proxy.
    pub(crate) fn of(&self, direction: &'static str) -> Self {
        Self {
            direction,
            ..self.clone()
        }
    }

    /// The trace of a request that comes in.
    pub(crate) fn traced(&self, headers: &HeaderMap) -> Option<Traced> {
        let context = context::extract(headers)?;
        Some(Traced {
            parent: context.parent,
            context,
        })
    }

    /// Begins the span at the front: what comes after belongs to it.
    pub(crate) fn server(
        &self,
        traced: &mut Traced,
        request: &Described<'_>,
        server: Option<SocketAddr>,
    ) -> Option<OpenSpan> {
        let id = random();
        let parent = std::mem::replace(&mut traced.parent, id);
        self.open(traced, SpanKind::Server, id, parent, request, server)
    }

    /// Begins the span of an attempt, and names it in the request that is sent.
    pub(crate) fn client(
        &self,
        traced: &Traced,
        headers: &mut HeaderMap,
        request: &Described<'_>,
        server: Option<SocketAddr>,
    ) -> Option<OpenSpan> {
        let id = random();
        context::inject(headers, &traced.context, traced.parent, id);
        self.open(traced, SpanKind::Client, id, traced.parent, request, server)
    }

    fn open(
        &self,
        traced: &Traced,
        kind: SpanKind,
        id: SpanId,
        parent: SpanId,
        request: &Described<'_>,
        server: Option<SocketAddr>,
    ) -> Option<OpenSpan> {
        if !traced.context.is_sampled {
            return None;
        }
        let mut attributes = vec![KeyValue::string("direction", self.direction)];
        request.attributes(&mut attributes);
        if let Some(server) = server {
            attributes.push(KeyValue::string("server.address", server.ip().to_string()));
            attributes.push(KeyValue::int("server.port", i64::from(server.port())));
        }
        let span = Span {
            trace_id: traced.context.trace.to_vec(),
            span_id: id.to_vec(),
            parent_span_id: parent.to_vec(),
            name: cut(request.uri.path()),
            kind: kind.into(),
            start_time_unix_nano: now(),
            end_time_unix_nano: 0,
            attributes,
            status: None,
        };
        Some(OpenSpan {
            span: Some(Box::new(span)),
            tracer: self.clone(),
        })
    }
}

impl OpenSpan {
    /// The response has begun.
    pub(crate) fn end(mut self, status: StatusCode) {
        self.send(Some(status), None);
    }

    /// There is no response of what the request was sent to: `error` says why, in words of the proxy's own; `status` is
    /// what is answered in its place, if anything is.
    pub(crate) fn failed(span: Option<Self>, error: &'static str, status: Option<StatusCode>) {
        if let Some(mut span) = span {
            span.send(status, Some(error));
        }
    }

    fn send(&mut self, status: Option<StatusCode>, error: Option<&'static str>) {
        let Some(mut span) = self.span.take() else {
            return;
        };
        span.end_time_unix_nano = now();
        if let Some(status) = status {
            let code = i64::from(status.as_u16());
            let attribute = KeyValue::int("http.response.status_code", code);
            span.attributes.push(attribute);
        }
        if let Some(error) = error {
            span.attributes.push(KeyValue::string("error.type", error));
            span.status = Some(Status::ERROR);
        }
        if self.tracer.spans.try_send(*span).is_err() {
            self.tracer.dropped.inc();
        }
    }
}

impl Drop for OpenSpan {
    /// Who had asked went away.
    fn drop(&mut self) {
        self.send(None, Some(CANCELLED));
    }
}

/// What spans say of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Described<'r> {
    pub(crate) method: &'r Method,
    pub(crate) uri: &'r Uri,
    pub(crate) authority: Option<&'r str>,
    pub(crate) headers: &'r HeaderMap,
}

impl Described<'_> {
    fn attributes(&self, to: &mut Vec<KeyValue>) {
        let scheme = self.uri.scheme_str().unwrap_or("http");
        let path = self.uri.path();
        let mut string = |key: &str, value: &str| to.push(KeyValue::string(key, cut(value)));
        string("http.request.method", self.method.as_str());
        string("url.scheme", scheme);
        string("url.path", path);
        let mut full = format!(
            "{scheme}://{}{path}",
            redacted(self.authority.unwrap_or_default())
        );
        if let Some(query) = self.uri.query() {
            string("url.query", query);
            full.push('?');
            full.push_str(query);
        }
        string("url.full", &full);
        string("network.transport", "tcp");
        let headers = [
            ("user_agent.original", header::USER_AGENT.as_str()),
            ("http.request.header.content-length", "content-length"),
            ("http.request.header.content-type", "content-type"),
            ("http.request.header.l5d-orig-proto", "l5d-orig-proto"),
        ];
        for (key, name) in headers {
            if let Some(value) = self.headers.get(name).and_then(|value| value.to_str().ok()) {
                string(key, value);
            }
        }
    }
}

/// An authority without the user information that it should not have.
fn redacted(authority: &str) -> &str {
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}

fn cut(value: &str) -> String {
    if value.len() <= MAX_VALUE {
        return value.to_owned();
    }
    let end = (0..=MAX_VALUE)
        .rev()
        .find(|at| value.is_char_boundary(*at))
        .unwrap_or(0);
    value.get(..end).unwrap_or_default().to_owned()
}

fn random() -> SpanId {
    rand::random_range(1..=u64::MAX).to_be_bytes()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}
