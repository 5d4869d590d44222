//! The protobuf format: `io.prometheus.client.MetricFamily` messages (client_model `metrics.proto`), each after its
//! length. Only the fields that we fill are written down. The one format that carries native histograms.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::describe::{Desc, Kind, Style};
use crate::format::Exposition;
use crate::histogram::Snapshot;
use crate::labels::Labels;
use crate::native::{NativeSnapshot, SCHEMA, zero_threshold};
use crate::recorder::Value;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) help: Option<String>,
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    pub(crate) r#type: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    pub(crate) unit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub(crate) label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub(crate) gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub(crate) counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    pub(crate) histogram: Option<HistogramMessage>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct LabelPair {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) value: Option<String>,
}

/// `Gauge` and `Counter`: they agree in the fields that both have.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Number {
    #[prost(double, optional, tag = "1")]
    pub(crate) value: Option<f64>,
    /// Counters only.
    #[prost(message, optional, tag = "3")]
    pub(crate) created: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HistogramMessage {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(crate) sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    pub(crate) schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub(crate) zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub(crate) zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "13")]
    pub(crate) positive_delta: Vec<i64>,
    #[prost(message, optional, tag = "15")]
    pub(crate) created: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(crate) upper_bound: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    pub(crate) offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) length: Option<u32>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

/// A page in the protobuf format.
#[derive(Debug, Default)]
pub(crate) struct Page {
    bytes: Vec<u8>,
    kind: Option<Kind>,
    family: MetricFamily,
}

impl Exposition for Page {
    fn family(&mut self, desc: &'static Desc) {
        let unit =
            Some(desc.unit.as_str()).filter(|unit| desc.style == Style::Modern && !unit.is_empty());
        let r#type = match desc.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram { .. } => MetricType::Histogram,
        };
        self.kind = Some(desc.kind);
        self.family = MetricFamily {
            name: Some(desc.name.to_owned()),
            help: Some(desc.help.to_owned()),
            r#type: Some(r#type.into()),
            metric: Vec::new(),
            unit: unit.map(str::to_owned),
        };
    }

    fn series(&mut self, labels: &Labels, age: Option<Duration>, value: Value) {
        let created = age.and_then(timestamp);
        let number = |value, created| Number {
            value: Some(value),
            created,
        };
        let mut metric = Metric {
            label: labels.iter().map(pair).collect(),
            ..Metric::default()
        };
        let counter = self.kind == Some(Kind::Counter);
        match value {
            Value::Count(count) => metric.counter = Some(number(count as f64, created)),
            Value::Number(value) if counter => metric.counter = Some(number(value, created)),
            Value::Number(value) => metric.gauge = Some(number(value, None)),
            Value::Histogram(snapshot) => metric.histogram = Some(histogram(&snapshot, created)),
        }
        self.family.metric.push(metric);
    }

    fn end_family(&mut self) {
        let family = std::mem::take(&mut self.family);
        if !family.metric.is_empty() {
            self.bytes.extend(family.encode_length_delimited_to_vec());
        }
    }

    fn finish(&mut self) {}

    fn pending(&self) -> usize {
        self.bytes.len()
    }

    fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }
}

fn pair((name, value): (&str, std::borrow::Cow<'_, str>)) -> LabelPair {
    LabelPair {
        name: Some(name.to_owned()),
        value: Some(value.into_owned()),
    }
}

fn timestamp(age: Duration) -> Option<Timestamp> {
    let created = SystemTime::now().checked_sub(age)?;
    let since = created.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp {
        seconds: since.as_secs().try_into().ok()?,
        nanos: since.subsec_nanos().try_into().ok()?,
    })
}

fn histogram(snapshot: &Snapshot, created: Option<Timestamp>) -> HistogramMessage {
    let classic = snapshot.cumulative().map(|(bound, count)| Bucket {
        cumulative_count: Some(count),
        upper_bound: Some(bound),
    });
    let mut message = HistogramMessage {
        sample_count: Some(snapshot.count()),
        sample_sum: Some(snapshot.sum),
        bucket: classic.collect(),
        created,
        ..HistogramMessage::default()
    };
    if let Some(native) = &snapshot.native {
        add_native(&mut message, native);
    }
    message
}

/// Native buckets are runs of neighbours (spans), and each count is told as the difference to the one before.
fn add_native(message: &mut HistogramMessage, native: &NativeSnapshot) {
    message.schema = Some(SCHEMA);
    message.zero_threshold = Some(zero_threshold());
    message.zero_count = Some(native.zero);
    // The classic buckets and the native ones are counted one after the other; a page made in between must still add
    // up, or the scraper refuses it.
    let buckets = native.buckets.iter().map(|(_, count)| *count).sum::<u64>();
    message.sample_count = Some(buckets + native.zero);
    let mut next = 0;
    let mut before = 0i64;
    for (index, count) in &native.buckets {
        match message.positive_span.last_mut() {
            Some(span) if *index == next => span.length = span.length.map(|n| n + 1),
            _ => message.positive_span.push(BucketSpan {
                offset: Some(index - next),
                length: Some(1),
            }),
        }
        next = index + 1;
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        message.positive_delta.push(count - before);
        before = count;
    }
    if message.positive_span.is_empty() {
        // An empty span is how a native histogram without observations is told from a classic one.
        message.positive_span.push(BucketSpan {
            offset: Some(0),
            length: Some(0),
        });
    }
}
