//! The OpenMetrics page against that of the `prometheus-client` crate, given the same values: an oracle that somebody
//! else wrote. Legacy families are left out, since it cannot print them (integer `le` labels).

use std::collections::BTreeSet;

use linkerd_metrics::{Format, Labels, Registry, describe};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry as Reference, Unit};

type LabelList = Vec<(&'static str, &'static str)>;

const LABELS: [(&str, &str); 2] = [("parent_name", "web\"\\\n"), ("route_name", "default")];

#[test]
fn newer_families_are_printed_as_the_reference_library_prints_them() {
    let ours = Registry::default();
    let mut reference = Reference::default();
    counter(&ours, &mut reference);
    histogram(&ours, &mut reference);
    gauge(&ours, &mut reference);
    let ours = String::from_utf8(ours.encode(Format::OpenMetrics)).unwrap();
    let mut theirs = String::new();
    encode(&mut theirs, &reference).unwrap();
    assert_eq!(samples_and_heads(&ours), samples_and_heads(&theirs));
    assert!(ours.ends_with("# EOF\n") && theirs.ends_with("# EOF\n"));
}

/// The lines that carry meaning. Help texts differ by a dot that the library adds, it writes `le` before other labels,
/// and what our registry says about itself has no counterpart.
fn samples_and_heads(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter(|line| !line.starts_with("# HELP") && !line.contains("metrics_series"))
        .map(le_last)
        .collect()
}

fn le_last(line: &str) -> String {
    let moved = line.split_once("{le=").and_then(|(name, rest)| {
        let (bound, rest) = rest.split_once(',')?;
        let (labels, value) = rest.rsplit_once('}')?;
        Some(format!("{name}{{{labels},le={bound}}}{value}"))
    });
    moved.unwrap_or_else(|| line.to_owned())
}

fn labels() -> Labels {
    let labels = LABELS.iter();
    labels.fold(Labels::new(), |labels, (name, value)| {
        labels.with(name, value)
    })
}

fn counter(ours: &Registry, reference: &mut Reference) {
    let desc = &describe::INBOUND_HTTP_REQUESTS_TOTAL;
    ours.counters(desc).get(&labels()).add(42);
    let family = Family::<LabelList, Counter>::default();
    family.get_or_create(&LABELS.to_vec()).inc_by(42);
    reference.register("inbound_http_requests", desc.help, family);
}

fn histogram(ours: &Registry, reference: &mut Reference) {
    let desc = &describe::INBOUND_HTTP_REQUEST_DURATION_SECONDS;
    let buckets = || Histogram::new([0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0]);
    let family = Family::<LabelList, Histogram>::new_with_constructor(buckets);
    let histogram = ours.histograms(desc).get(&labels());
    for value in [0.0, 0.03125, 0.25, 1.0, 9.5, 11.0] {
        histogram.observe(value);
        family.get_or_create(&LABELS.to_vec()).observe(value);
    }
    let name = "inbound_http_request_duration";
    reference.register_with_unit(name, desc.help, Unit::Seconds, family);
}

fn gauge(ours: &Registry, reference: &mut Reference) {
    let desc = &describe::PROCESS_RESIDENT_MEMORY_BYTES;
    ours.gauges(desc).get(&Labels::new()).set(123_456_789.0);
    let gauge = Gauge::<i64>::default();
    gauge.set(123_456_789);
    reference.register_with_unit("process_resident_memory", desc.help, Unit::Bytes, gauge);
}
