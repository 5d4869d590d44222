//! What the fuzz targets (`fuzz/`) reach of the inside. For nobody else, and not kept stable.

use crate::{
    discovery::dns,
    http::outcome,
    outbound,
    transport::{detect, header},
};
use bytes::BytesMut;
use http::HeaderMap;
use std::time::Duration;
use tokio::io::AsyncRead;

/// What protocol detection says of a connection.
pub async fn detect<R: AsyncRead + Unpin>(
    io: &mut R,
    buffer: &mut BytesMut,
) -> Result<String, String> {
    let detected = detect::http(io, buffer).await;
    detected
        .map(|detected| format!("{detected:?}"))
        .map_err(|error| error.to_string())
}

/// The transport header of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Header(header::TransportHeader);

/// Reads a transport header.
pub async fn transport_header<R: AsyncRead + Unpin>(
    io: &mut R,
    buffer: &mut BytesMut,
) -> Result<Header, String> {
    let read = header::read(io, buffer).await;
    read.map(Header).map_err(|error| error.to_string())
}

/// Writes a transport header and reads it.
pub fn transport_header_again(header: &Header) -> Result<Header, String> {
    /// The preface and the length.
    const BEFORE: usize = 27;
    let mut written = BytesMut::new();
    header::encode(&header.0, &mut written);
    let message = written.get(BEFORE..).unwrap_or_default();
    let read = header::decode(message);
    read.map(Header).map_err(|error| error.to_string())
}

/// Reads the answer of a name server as one to each kind of question.
pub fn dns_answer(message: &[u8]) {
    use dns::message::{Kind, Name, Question};
    let id = message
        .get(..2)
        .and_then(|id| id.try_into().ok())
        .map_or(0, u16::from_be_bytes);
    let Some(name) = Name::parse("policy.linkerd") else {
        return;
    };
    for kind in [Kind::A, Kind::Aaaa, Kind::Srv] {
        let name = name.clone();
        let question = Question { id, name, kind };
        if let Some(answer) = question.answer(message) {
            answer.addresses(&question.name);
            for service in answer.services(&question.name).0 {
                answer.glue(&service.target);
            }
        }
    }
}

/// The system's files of names, and where a name may be.
pub fn names(text: &str, name: &str) -> Vec<String> {
    dns::files::hosts(text, name);
    dns::files::Settings::parse(text).candidates(name)
}

/// What clients ask for by headers.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// By `grpc-timeout`.
    pub grpc_timeout: Option<Duration>,
    /// By `grpc-status`.
    pub grpc_status: Option<u16>,
    /// By `retry-after` and `grpc-retry-pushback-ms`.
    pub retry_after: Option<Duration>,
    /// Limits of the request and of its response.
    pub limits: (Option<Duration>, Option<Duration>),
    /// Statuses that are retried, by range.
    pub statuses: Vec<(u16, u16)>,
    /// gRPC codes that are.
    pub codes: Vec<u16>,
    /// The pause before the first retry.
    pub pause: Option<Duration>,
}

/// Reads those headers, where they are allowed.
pub fn asked(headers: &mut HeaderMap) -> Asked {
    let mut timeouts = linkerd_policy::outbound::Timeouts::default();
    let mut retry = None;
    let grpc_timeout = outbound::retry::headers::grpc_timeout(headers);
    let retry_after = outbound::record::retry_after(headers);
    outbound::retry::headers::take(headers, true, &mut timeouts, &mut retry);
    if let Some(left) = grpc_timeout {
        outbound::retry::headers::set_grpc_timeout(headers, left);
    }
    let pause = retry.as_ref().map(|retry| retry.pause(1, retry_after));
    let conditions = retry.map(|retry| retry.conditions).unwrap_or_default();
    Asked {
        grpc_timeout,
        grpc_status: outcome::grpc_status(headers),
        retry_after,
        limits: (timeouts.request, timeouts.response),
        pause,
        statuses: conditions
            .statuses
            .iter()
            .map(|range| (*range.start(), *range.end()))
            .collect(),
        codes: conditions.grpc,
    }
}

/// A text as `grpc-message`, and as another header.
pub fn texts(text: &str) -> (Option<http::HeaderValue>, Option<http::HeaderValue>) {
    (outcome::grpc_message(text), outcome::header_text(text))
}
