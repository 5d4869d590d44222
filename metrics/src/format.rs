//! Content negotiation: which exposition format a scraper asked for, and whether compressed.

use std::io::{self, Write};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::describe::Desc;
use crate::labels::Labels;
use crate::recorder::Value;

/// An exposition format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The classic text format, version 0.0.4.
    #[default]
    Text,
    /// OpenMetrics text, version 1.0.0.
    OpenMetrics,
    /// Length-delimited `io.prometheus.client.MetricFamily` messages: the only format with native histograms.
    Protobuf,
}

impl Format {
    /// The format for an `accept` header (RFC 9110 §12.5.1): the supported one of highest quality, the first of
    /// several. Without a header, or where none fits, the classic text: a scrape is never refused.
    #[must_use]
    pub fn negotiate(accept: Option<&str>) -> Self {
        let mut best: Option<(Self, f32)> = None;
        for range in accept.unwrap_or_default().split(',') {
            let Some((format, quality)) = acceptable(range) else {
                continue;
            };
            if quality > best.map_or(0.0, |(_, quality)| quality) {
                best = Some((format, quality));
            }
        }
        best.map_or(Self::Text, |(format, _)| format)
    }

    /// The `content-type` of a page.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// The format a media range stands for and its quality, if we have it.
fn acceptable(range: &str) -> Option<(Format, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let media_type = parts.next()?.to_ascii_lowercase();
    let mut quality = 1.0;
    let (mut version, mut proto, mut encoding) = (None, None, None);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => quality = value.parse().ok().filter(|q| (0.0..=1.0).contains(q))?,
            "version" => version = Some(value),
            "proto" => proto = Some(value),
            "encoding" => encoding = Some(value),
            _ => {}
        }
    }
    let format = match media_type.as_str() {
        "text/plain" if version.is_none_or(|v| v == "0.0.4") => Format::Text,
        "text/*" | "*/*" => Format::Text,
        // 0.0.1 was the draft of 1.0.0; scrapers that ask for it read both.
        "application/openmetrics-text" if version.is_none_or(|v| v == "1.0.0" || v == "0.0.1") => {
            Format::OpenMetrics
        }
        "application/vnd.google.protobuf"
            if proto == Some("io.prometheus.client.MetricFamily")
                && encoding == Some("delimited") =>
        {
            Format::Protobuf
        }
        _ => return None,
    };
    Some((format, quality))
}

/// True if an `accept-encoding` header allows gzip.
#[must_use]
pub fn accepts_gzip(accept_encoding: Option<&str>) -> bool {
    accept_encoding
        .unwrap_or_default()
        .split(',')
        .any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let refused = parts
                .filter_map(|part| part.split_once('='))
                .any(|(key, value)| key.trim() == "q" && value.trim().parse() == Ok(0.0f32));
            name.eq_ignore_ascii_case("gzip") && !refused
        })
}

/// Compresses what is in memory already; for a page, [`crate::Registry::encode_gzip`] holds less.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = gzip_writer();
    // Writing to a vector does not fail.
    let _ = compressor.write_all(bytes);
    compressor.finish().unwrap_or_default()
}

/// Fast rather than small: pages repeat themselves so much that the level hardly matters.
pub(crate) fn gzip_writer() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::fast())
}

/// A page being made.
pub(crate) trait Exposition {
    /// Begins a family. A family without series leaves nothing on the page.
    fn family(&mut self, desc: &'static Desc);
    /// Adds a series of the family. `age` is the time since it was made, if known.
    fn series(&mut self, labels: &Labels, age: Option<Duration>, value: Value);
    fn end_family(&mut self);
    fn finish(&mut self);
    /// Bytes that wait for [`Exposition::flush`].
    fn pending(&self) -> usize;
    /// Moves what is ready to the writer.
    fn flush(&mut self, out: &mut dyn Write) -> io::Result<()>;
}

#[cfg(test)]
mod tests;
