//! Sends spans to the collector: OTLP over gRPC, in batches.

use super::{
    otlp::{ExportRequest, ExportResponse, KeyValue, Resource, ResourceSpans, ScopeSpans, Span},
    trace::Tracer,
};
use crate::{
    config::{Config, Tracing},
    discovery::client::ControlClient,
};
use linkerd_metrics::{Counter, Handle, Labels, Registry, describe};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::mpsc;
use tonic::{Request, client::Grpc};
use tonic_prost::ProstCodec;

/// Spans of one message.
const BATCH: usize = 1000;
/// How long spans wait for others.
const PAUSE: Duration = Duration::from_secs(10);
/// How long the collector may take for a batch.
const LIMIT: Duration = Duration::from_secs(10);
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The families of span export.
#[derive(Debug)]
struct Counts {
    requests: Handle<Counter>,
    spans: Handle<Counter>,
    failures: Handle<Counter>,
}

/// Begins to export. Spans are sent as long as the proxy lives.
pub(crate) fn start(
    config: &Config,
    tracing: &Tracing,
    client: ControlClient,
    registry: &Registry,
) -> Tracer {
    let count = |desc| registry.counters(desc).get(&Labels::new());
    let counts = Counts {
        requests: count(&describe::OPENTELEMETRY_SPAN_EXPORT_REQUESTS),
        spans: count(&describe::OPENTELEMETRY_SPAN_EXPORTS),
        failures: count(&describe::OPENTELEMETRY_SPAN_EXPORT_FAILURES_TOTAL),
    };
    count(&describe::OPENTELEMETRY_SPAN_EXPORT_STREAMS).inc();
    let (tracer, buffer) = Tracer::new(count(&describe::OPENTELEMETRY_SPANS_DROPPED_TOTAL));
    let resource = Resource {
        attributes: attributes(config, tracing),
    };
    tokio::spawn(run(buffer, resource, client, counts));
    tracer
}

async fn run(
    mut buffer: mpsc::Receiver<Span>,
    resource: Resource,
    client: ControlClient,
    counts: Counts,
) {
    let mut trouble = false;
    while let Some(batch) = batch(&mut buffer).await {
        let spans = batch.len() as u64;
        counts.requests.inc();
        match tokio::time::timeout(LIMIT, send(&client, &resource, batch)).await {
            Ok(Ok(rejected)) => {
                counts.spans.add(spans.saturating_sub(rejected));
                if std::mem::take(&mut trouble) {
                    tracing::info!("The trace collector takes spans again");
                }
            }
            failed => {
                counts.failures.inc();
                let why = match failed {
                    Ok(Err(status)) => status.to_string(),
                    _ => format!("no answer within {LIMIT:?}"),
                };
                if !std::mem::replace(&mut trouble, true) {
                    tracing::warn!(%why, spans, "Spans were not exported; they are dropped");
                }
            }
        }
    }
}

/// The next spans: as many as fit, or as have come when the pause since the first is over.
async fn batch(buffer: &mut mpsc::Receiver<Span>) -> Option<Vec<Span>> {
    let mut spans = vec![buffer.recv().await?];
    let until = tokio::time::Instant::now() + PAUSE;
    while spans.len() < BATCH {
        match tokio::time::timeout_at(until, buffer.recv()).await {
            Ok(Some(span)) => spans.push(span),
            Ok(None) | Err(_) => break,
        }
    }
    Some(spans)
}

/// Sends a batch; gives how many spans the collector did not take.
async fn send(
    client: &ControlClient,
    resource: &Resource,
    spans: Vec<Span>,
) -> Result<u64, tonic::Status> {
    let message = ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![ScopeSpans { spans }],
        }],
    };
    let mut grpc = Grpc::with_origin(client.clone(), client.origin());
    grpc.ready()
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<ExportRequest, ExportResponse>::default();
    let path = http::uri::PathAndQuery::from_static(EXPORT);
    let response = grpc.unary(Request::new(message), path, codec).await?;
    let rejected = response.into_inner().partial_success;
    Ok(rejected.map_or(0, |partial| {
        u64::try_from(partial.rejected_spans).unwrap_or(0)
    }))
}

/// What all spans are of. Later sources replace earlier ones.
fn attributes(config: &Config, tracing: &Tracing) -> Vec<KeyValue> {
    let mut strings = BTreeMap::new();
    let variable = |name: &str| config.environment.get(name).cloned();
    if let Some(host) = variable("HOSTNAME") {
        strings.insert("host.name".to_owned(), host);
    }
    if let Some(name) = &tracing.service_name {
        strings.insert("service.name".to_owned(), name.clone());
    }
    if let Some(path) = &tracing.attributes_path {
        match std::fs::read_to_string(path) {
            Ok(text) => strings.extend(pairs(&text, &['\n'])),
            Err(error) => {
                tracing::warn!(%path, %error, "The file of trace attributes cannot be read");
            }
        }
    }
    if let Some(text) = &tracing.extra_attributes {
        strings.extend(pairs(text, &['\n']));
    }
    if let Some(text) = variable("OTEL_RESOURCE_ATTRIBUTES") {
        // The specification separates by commas; lines are what others read.
        strings.extend(pairs(&text, &['\n', ',']));
    }
    let mut all = vec![KeyValue::int("process.pid", i64::from(std::process::id()))];
    let started = SystemTime::now().duration_since(UNIX_EPOCH);
    if let Ok(millis) = started.map(|since| since.as_millis()) {
        all.push(KeyValue::int(
            "process.start_timestamp",
            i64::try_from(millis).unwrap_or(0),
        ));
    }
    all.extend(
        strings
            .into_iter()
            .map(|(key, value)| KeyValue::string(key, value)),
    );
    all
}

/// `key=value` pairs, with double quotes around a value taken off.
fn pairs(text: &str, separators: &[char]) -> BTreeMap<String, String> {
    text.split(separators)
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| {
            let value = value.trim().trim_matches('"');
            (key.trim().to_owned(), value.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_from_lines_and_from_lists() {
        let lines = pairs("app=\"web\"\n\nversion=\"v1\"\nbroken\n", &['\n']);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines["app"], "web");
        let list = pairs("team=shop,zone=a", &['\n', ',']);
        assert_eq!((&*list["team"], &*list["zone"]), ("shop", "a"));
    }
}
