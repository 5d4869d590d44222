//! The access log: a line for each request that the inbound side answers, on stderr.
//!
//! Lines are written by a thread of their own. Where whoever reads them is slower than requests come, lines are
//! dropped and counted, and requests go on.

use crate::config::AccessLog as Format;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, header};
use linkerd_metrics::{Counter, Handle};
use serde::Serialize;
use std::{
    io::Write,
    net::SocketAddr,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant, SystemTime},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Lines that wait to be written.
const BUFFER: usize = 4096;

/// Writes lines. A clone is another writer of the same log.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    format: Format,
    lines: SyncSender<String>,
    dropped: Handle<Counter>,
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct Line {
    log: AccessLog,
    at: SystemTime,
    arrived: Instant,
    client: SocketAddr,
    client_id: String,
    method: Method,
    uri: Uri,
    version: Version,
    /// Only for JSON.
    headers: Option<Box<FromHeaders>>,
}

#[derive(Debug)]
struct FromHeaders {
    host: String,
    user_agent: String,
    trace_id: String,
    request_bytes: String,
}

/// A line in JSON. The keys are in the order of the alphabet.
#[derive(Serialize)]
struct Json<'l> {
    #[serde(rename = "client.addr")]
    client_addr: String,
    #[serde(rename = "client.id")]
    client_id: &'l str,
    host: &'l str,
    method: &'l str,
    processing_ns: String,
    request_bytes: &'l str,
    response_bytes: String,
    status: u16,
    timestamp: String,
    total_ns: String,
    trace_id: &'l str,
    uri: String,
    user_agent: &'l str,
    version: String,
}

impl AccessLog {
    /// Begins a log on stderr.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub(crate) fn start(format: Format, dropped: Handle<Counter>) -> std::io::Result<Self> {
        let (lines, receiver) = sync_channel(BUFFER);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write(&receiver))?;
        Ok(Self {
            format,
            lines,
            dropped,
        })
    }

    /// Notes a request.
    pub(crate) fn line<B>(
        &self,
        request: &Request<B>,
        client: SocketAddr,
        client_id: Option<&str>,
        arrived: Instant,
    ) -> Line {
        let headers = request.headers();
        let of_headers = || {
            let authority = request.uri().authority().map(|name| name.to_string());
            Box::new(FromHeaders {
                host: authority.unwrap_or_else(|| text(headers, "host")),
                user_agent: text(headers, "user-agent"),
                trace_id: ["x-b3-traceid", "x-request-id", "x-amzn-trace-id"]
                    .iter()
                    .map(|name| text(headers, name))
                    .find(|id| !id.is_empty())
                    .unwrap_or_default(),
                request_bytes: text(headers, "content-length"),
            })
        };
        Line {
            log: self.clone(),
            at: SystemTime::now(),
            arrived,
            client,
            client_id: client_id.unwrap_or_default().to_owned(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: (self.format == Format::Json).then(of_headers),
        }
    }
}

impl Line {
    /// Writes the line. `waited` is the time that the application took.
    pub(crate) fn end<B>(self, response: &Response<B>, waited: Duration) {
        let total = self.arrived.elapsed();
        let line = match &self.headers {
            None => self.apache(response.status()),
            Some(headers) => self.json(headers, response, total, waited),
        };
        if self.log.lines.try_send(line).is_err() {
            self.log.dropped.inc();
        }
    }

    fn timestamp(&self) -> String {
        OffsetDateTime::from(self.at)
            .format(&Rfc3339)
            .unwrap_or_default()
    }

    fn apache(&self, status: StatusCode) -> String {
        let id = match self.client_id.as_str() {
            "" => "-",
            id => id,
        };
        format!(
            "{} {id} - [{}] \"{} {} {:?}\" {}",
            self.client,
            self.timestamp(),
            self.method,
            self.uri,
            self.version,
            status.as_u16()
        )
    }

    fn json<B>(
        &self,
        headers: &FromHeaders,
        response: &Response<B>,
        total: Duration,
        waited: Duration,
    ) -> String {
        let line = Json {
            client_addr: self.client.to_string(),
            client_id: &self.client_id,
            host: &headers.host,
            method: self.method.as_str(),
            processing_ns: total.saturating_sub(waited).as_nanos().to_string(),
            request_bytes: &headers.request_bytes,
            response_bytes: text(response.headers(), header::CONTENT_LENGTH.as_str()),
            status: response.status().as_u16(),
            timestamp: self.timestamp(),
            total_ns: total.as_nanos().to_string(),
            trace_id: &headers.trace_id,
            uri: self.uri.to_string(),
            user_agent: &headers.user_agent,
            version: format!("{:?}", self.version),
        };
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// A header's value, as far as it is text.
fn text(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

fn write(lines: &Receiver<String>) {
    let mut stderr = std::io::stderr();
    while let Ok(line) = lines.recv() {
        // Nobody can be told that nobody reads.
        let _ = writeln!(stderr, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linkerd_metrics::{Labels, Registry, describe};

    fn log(format: Format) -> (AccessLog, Receiver<String>) {
        let registry = Registry::new(linkerd_metrics::Options::default());
        let (lines, receiver) = sync_channel(1);
        let dropped = registry
            .counters(&describe::ACCESS_LOG_LINES_DROPPED_TOTAL)
            .get(&Labels::new());
        let log = AccessLog {
            format,
            lines,
            dropped,
        };
        (log, receiver)
    }

    fn request() -> Request<()> {
        Request::builder()
            .uri("/a?b=c")
            .header("host", "web")
            .header("user-agent", "curl \"x\"")
            .header("x-request-id", "7")
            .header("content-length", "3")
            .body(())
            .unwrap()
    }

    #[test]
    fn lines_have_the_form_that_tools_read() {
        let client = ([10, 0, 0, 1], 4242).into();
        let response = Response::builder().status(404).body(()).unwrap();
        let (log, lines) = log(Format::Apache);
        log.line(&request(), client, None, Instant::now())
            .end(&response, Duration::ZERO);
        let line = lines.recv().unwrap();
        assert!(line.starts_with("10.0.0.1:4242 - - ["), "{line}");
        assert!(line.ends_with("Z] \"GET /a?b=c HTTP/1.1\" 404"), "{line}");

        let (log, lines) = self::log(Format::Json);
        log.line(&request(), client, Some("web.shop"), Instant::now())
            .end(&response, Duration::ZERO);
        let line: serde_json::Value = serde_json::from_str(&lines.recv().unwrap()).unwrap();
        assert_eq!(line["status"], 404);
        assert_eq!(line["client.id"], "web.shop");
        assert_eq!(line["user_agent"], "curl \"x\"");
        assert_eq!(line["trace_id"], "7");
        assert_eq!(line["request_bytes"], "3");
        assert_eq!(line["response_bytes"], "");
        assert_eq!(line["version"], "HTTP/1.1");
    }

    #[test]
    fn a_slow_reader_costs_lines_and_not_requests() {
        let (log, lines) = log(Format::Apache);
        let client = ([10, 0, 0, 1], 4242).into();
        let response = Response::new(());
        for _ in 0..3 {
            log.line(&request(), client, None, Instant::now())
                .end(&response, Duration::ZERO);
        }
        assert_eq!(log.dropped.get(), 2);
        drop(lines);
    }
}
