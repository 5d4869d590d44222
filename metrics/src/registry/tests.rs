//! What a registry promises: bounds, eviction, pages that read back.

use std::collections::BTreeMap;
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::protobuf::MetricFamily;

mod page;

use page::{Page, read};

const RETAIN: Duration = Duration::from_secs(600);

fn registry(max_series_per_family: usize) -> Registry {
    Registry::new(Options {
        retain_idle: RETAIN,
        max_series_per_family,
        ..Options::default()
    })
}

fn client(id: impl fmt::Display) -> Labels {
    Labels::new()
        .with("target_port", 80)
        .with("tls", "true")
        .with("client_id", id)
}

fn stranger(sni: impl fmt::Display) -> Labels {
    Labels::new()
        .with("target_port", 80)
        .with("tls", "opaque")
        .with("sni", sni)
}

fn text(registry: &Registry) -> Page {
    read(&String::from_utf8(registry.encode(Format::Text)).unwrap())
}

fn sum(page: &Page, name: &str) -> f64 {
    page.samples
        .iter()
        .filter(|((sample, _), _)| sample == name)
        .map(|(_, value)| value)
        .sum()
}

fn own(page: &Page, name: &str) -> f64 {
    let labels = vec![("family".to_owned(), "request_total".to_owned())];
    page.samples[&(name.to_owned(), labels)]
}

#[test]
fn idle_series_vanish_and_held_ones_stay() {
    let registry = registry(100);
    let family = registry.counters(&describe::REQUEST_TOTAL);
    let held = family.get(&client("held"));
    held.inc();
    family.get(&client("idle")).inc();
    let start = Instant::now();
    registry.expire(start);
    registry.expire(start + RETAIN - Duration::from_secs(1));
    assert_eq!(sum(&text(&registry), "request_total"), 2.0);
    registry.expire(start + RETAIN);
    let page = text(&registry);
    assert_eq!(sum(&page, "request_total"), 1.0);
    assert_eq!(own(&page, "metrics_series_evicted_total"), 1.0);
    drop(held);
    registry.expire(start + 2 * RETAIN);
    registry.expire(start + 3 * RETAIN);
    assert_eq!(sum(&text(&registry), "request_total"), 0.0);
}

#[test]
fn a_series_that_is_used_again_in_time_keeps_its_count() {
    let registry = registry(100);
    let family = registry.counters(&describe::REQUEST_TOTAL);
    let start = Instant::now();
    family.get(&client("a")).inc();
    registry.expire(start);
    family.get(&client("a")).inc();
    registry.expire(start + RETAIN);
    assert_eq!(family.get(&client("a")).get(), 2);
}

#[test]
fn series_fixed_by_code_are_kept_without_a_handle() {
    let registry = registry(100);
    let labels = Labels::new().with("version", "1");
    registry
        .gauges(&describe::PROXY_BUILD_INFO)
        .get(&labels)
        .set(1.0);
    registry.expire(Instant::now());
    registry.expire(Instant::now() + 10 * RETAIN);
    assert_eq!(sum(&text(&registry), "proxy_build_info"), 1.0);
}

#[test]
fn a_hundred_thousand_clients_cannot_grow_a_family_and_none_is_left_uncounted() {
    let registry = registry(400);
    let family = registry.counters(&describe::REQUEST_TOTAL);
    for n in 0..100_000 {
        family.get(&client(n)).inc();
    }
    let page = text(&registry);
    assert_eq!(sum(&page, "request_total"), 100_000.0);
    assert_eq!(own(&page, "metrics_series"), 401.0);
    assert_eq!(own(&page, "metrics_series_dropped_total"), 99_600.0);
    assert_eq!(family.get(&client("other")).get(), 99_600);
}

#[test]
fn server_names_that_strangers_choose_leave_room_for_real_clients() {
    let registry = registry(400);
    let family = registry.counters(&describe::REQUEST_TOTAL);
    for n in 0..10_000 {
        family.get(&stranger(n)).inc();
    }
    for n in 0..290 {
        family.get(&client(n)).inc();
    }
    assert_eq!(family.get(&client(289)).get(), 1);
    assert_eq!(family.get(&client("other")).get(), 0);
    assert_eq!(family.get(&stranger("other")).get(), 9_900);
}

#[test]
fn ports_and_addresses_cannot_grow_a_family_either() {
    let registry = registry(400);
    let family = registry.counters(&describe::REQUEST_TOTAL);
    for n in 0..10_000 {
        let labels = Labels::new()
            .with("direction", "inbound")
            .with("target_port", n)
            .with("client_id", n);
        family.get(&labels).inc();
    }
    let page = text(&registry);
    assert_eq!(sum(&page, "request_total"), 10_000.0);
    assert!(own(&page, "metrics_series") <= 500.0);
    let rest = Labels::new()
        .with("direction", "inbound")
        .with("target_port", "other")
        .with("client_id", "other");
    assert!(family.get(&rest).get() > 9_000);
}

#[test]
fn room_comes_back_when_idle_series_go() {
    let registry = registry(4);
    let family = registry.counters(&describe::REQUEST_TOTAL);
    for n in 0..100 {
        family.get(&stranger(n)).inc();
    }
    let start = Instant::now();
    registry.expire(start);
    registry.expire(start + RETAIN);
    family.get(&stranger("new")).inc();
    assert_eq!(family.get(&stranger("new")).get(), 1);
    assert_eq!(family.get(&stranger("other")).get(), 0);
}

#[test]
fn threads_that_count_at_once_lose_nothing_with_any_number_of_workers() {
    const EACH: u64 = 20_000;
    for workers in [1, 2, 4] {
        let registry = Registry::new(Options {
            workers,
            native_histograms: true,
            ..Options::default()
        });
        let counter = registry
            .counters(&describe::REQUEST_TOTAL)
            .get(&Labels::new());
        let gauge = registry
            .gauges(&describe::TCP_OPEN_CONNECTIONS)
            .get(&Labels::new());
        let histogram = registry
            .histograms(&describe::RESPONSE_LATENCY_MS)
            .get(&Labels::new());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..EACH {
                        counter.inc();
                        let _open = gauge.hold();
                        histogram.observe(n as f64);
                    }
                });
            }
        });
        assert_eq!(counter.get(), 4 * EACH);
        assert_eq!(gauge.get(), 0.0);
        assert_eq!(histogram.count(), 4 * EACH);
        assert_eq!(histogram.sum(), 4.0 * (EACH * (EACH - 1) / 2) as f64);
    }
}

#[test]
fn a_family_asked_for_twice_is_the_same() {
    let registry = Registry::default();
    registry
        .counters(&describe::REQUEST_TOTAL)
        .get(&Labels::new())
        .inc();
    registry
        .counters(&describe::REQUEST_TOTAL)
        .get(&Labels::new())
        .inc();
    assert_eq!(sum(&text(&registry), "request_total"), 2.0);
}

#[test]
fn legacy_and_newer_families_print_as_dashboards_expect() {
    let registry = Registry::default();
    let labels = Labels::new().with("direction", "inbound");
    registry
        .counters(&describe::REQUEST_TOTAL)
        .get(&labels)
        .add(3);
    registry
        .histograms(&describe::RESPONSE_LATENCY_MS)
        .get(&labels)
        .observe(1.5);
    let parent = Labels::new().with("parent_name", "web");
    registry
        .histograms(&describe::INBOUND_HTTP_RESPONSE_DURATION_SECONDS)
        .get(&parent)
        .observe(0.25);
    registry
        .counters(&describe::OPENTELEMETRY_SPAN_EXPORTS)
        .get(&Labels::new())
        .inc();
    let classic = String::from_utf8(registry.encode(Format::Text)).unwrap();
    let openmetrics = String::from_utf8(registry.encode(Format::OpenMetrics)).unwrap();
    for (page, lines) in [
        (
            &classic,
            [
                "# TYPE request_total counter",
                "# TYPE opentelemetry_span_exports counter",
            ],
        ),
        (
            &openmetrics,
            [
                "# TYPE request counter",
                "# TYPE opentelemetry_span_exports unknown",
            ],
        ),
    ] {
        let both = [
            r#"request_total{direction="inbound"} 3"#,
            "# TYPE response_latency_ms histogram",
            r#"response_latency_ms_bucket{direction="inbound",le="1"} 0"#,
            r#"response_latency_ms_bucket{direction="inbound",le="50000"} 1"#,
            r#"response_latency_ms_bucket{direction="inbound",le="+Inf"} 1"#,
            r#"response_latency_ms_sum{direction="inbound"} 1.5"#,
            r#"inbound_http_response_duration_seconds_bucket{parent_name="web",le="0.05"} 0"#,
            r#"inbound_http_response_duration_seconds_bucket{parent_name="web",le="10.0"} 1"#,
            r#"inbound_http_response_duration_seconds_count{parent_name="web"} 1"#,
            "opentelemetry_span_exports 1",
        ];
        for line in lines.into_iter().chain(both) {
            assert!(
                page.lines().any(|found| found == line),
                "no `{line}` in\n{page}"
            );
        }
    }
    assert!(openmetrics.contains("# UNIT inbound_http_response_duration_seconds seconds\n"));
    assert!(openmetrics.ends_with("\n# EOF\n"));
    assert!(!classic.contains("# UNIT") && !classic.contains("# EOF"));
}

#[test]
fn chosen_latency_buckets_replace_those_of_latencies_only() {
    let registry = Registry::new(Options {
        latency_buckets: vec![5500.0, 70.0, f64::NAN, 0.0, 70.0],
        ..Options::default()
    });
    let bounds = |desc: &'static Desc| {
        registry.histograms(desc).get(&Labels::new()).observe(1.0);
        let page = text(&registry);
        let mut bounds: Vec<String> = page
            .samples
            .keys()
            .filter(|(name, _)| *name == format!("{}_bucket", desc.name))
            .map(|(_, labels)| labels[0].1.clone())
            .collect();
        bounds.sort();
        bounds
    };
    assert_eq!(
        bounds(&describe::RESPONSE_LATENCY_MS),
        ["+Inf", "5500", "70"]
    );
    assert_eq!(
        bounds(&describe::INBOUND_HTTP_REQUEST_DURATION_SECONDS),
        ["+Inf", "0.07", "5.5"]
    );
    assert_eq!(
        bounds(&describe::INBOUND_HTTP_REQUEST_FRAME_SIZE_BYTES),
        ["+Inf", "1024.0", "10240.0", "128.0"]
    );
}

#[test]
fn a_family_without_series_is_not_on_any_page() {
    let registry = Registry::default();
    let _family = registry.counters(&describe::REQUEST_TOTAL);
    assert_eq!(registry.encode(Format::Text), b"");
    assert_eq!(registry.encode(Format::OpenMetrics), b"# EOF\n");
    assert_eq!(registry.encode(Format::Protobuf), b"");
}

#[test]
fn a_large_page_is_the_same_compressed() {
    let registry = registry(2_000);
    for n in 0..1_000 {
        registry
            .counters(&describe::REQUEST_TOTAL)
            .get(&client(n))
            .inc();
    }
    let plain = registry.encode(Format::OpenMetrics);
    let mut unpacked = Vec::new();
    let packed = registry.encode_gzip(Format::OpenMetrics);
    io::Read::read_to_end(
        &mut flate2::read::GzDecoder::new(packed.as_slice()),
        &mut unpacked,
    )
    .unwrap();
    assert!(unpacked == plain);
    assert!(packed.len() * 10 < plain.len());
}

fn protobuf(registry: &Registry) -> BTreeMap<String, MetricFamily> {
    let page = registry.encode(Format::Protobuf);
    let mut rest = page.as_slice();
    let mut families = BTreeMap::new();
    while !rest.is_empty() {
        let family = MetricFamily::decode_length_delimited(&mut rest).unwrap();
        families.insert(family.name.clone().unwrap(), family);
    }
    families
}

#[test]
fn native_histograms_are_given_only_where_they_are_on() {
    for native_histograms in [false, true] {
        let registry = Registry::new(Options {
            native_histograms,
            ..Options::default()
        });
        let histogram = registry
            .histograms(&describe::RESPONSE_LATENCY_MS)
            .get(&client("a\"b"));
        for value in [0.0, 1.0, 1.0, 1.05, 4.0] {
            histogram.observe(value);
        }
        let families = protobuf(&registry);
        let metric = &families["response_latency_ms"].metric[0];
        assert_eq!(metric.label[2].value.as_deref(), Some("a\"b"));
        let message = metric.histogram.as_ref().unwrap();
        assert_eq!(
            (message.sample_count, message.sample_sum),
            (Some(5), Some(7.05))
        );
        assert_eq!(message.bucket.len(), 26);
        assert_eq!(message.bucket[0].cumulative_count, Some(3));
        assert_eq!(message.schema, native_histograms.then_some(3));
        assert_eq!(message.zero_count, native_histograms.then_some(1));
        let spans: Vec<_> = message
            .positive_span
            .iter()
            .map(|span| (span.offset, span.length))
            .collect();
        // 1.0 ends bucket 0, 1.05 is in bucket 1, 4.0 ends bucket 16: 14 buckets between.
        let expected = [(Some(0), Some(2)), (Some(14), Some(1))];
        assert_eq!(
            spans,
            if native_histograms {
                &expected[..]
            } else {
                &[]
            }
        );
        assert_eq!(
            message.positive_delta,
            if native_histograms {
                vec![2, -1, 0]
            } else {
                vec![]
            }
        );
    }
}

#[test]
fn a_native_histogram_without_observations_is_still_marked_as_one() {
    let registry = Registry::new(Options {
        native_histograms: true,
        ..Options::default()
    });
    let _handle = registry
        .histograms(&describe::RESPONSE_LATENCY_MS)
        .get(&Labels::new());
    let families = protobuf(&registry);
    let message = families["response_latency_ms"].metric[0]
        .histogram
        .as_ref()
        .unwrap();
    assert_eq!(message.positive_span[0].length, Some(0));
    assert_eq!(message.sample_count, Some(0));
}

#[test]
fn counters_in_protobuf_say_when_they_began() {
    let registry = Registry::default();
    let before = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    registry
        .counters(&describe::REQUEST_TOTAL)
        .get(&Labels::new())
        .inc();
    registry.collector(Box::new(crate::process::Process::new()));
    let families = protobuf(&registry);
    let counter = families["request_total"].metric[0]
        .counter
        .as_ref()
        .unwrap();
    assert!(
        counter
            .created
            .unwrap()
            .seconds
            .abs_diff(before.try_into().unwrap())
            < 60
    );
    assert!(
        families["process_threads"].metric[0]
            .gauge
            .as_ref()
            .unwrap()
            .value
            > Some(0.0)
    );
    assert!(
        families["process_cpu_seconds_total"].metric[0]
            .counter
            .is_some()
    );
}

#[test]
fn an_idle_series_is_small() {
    assert!(size_of::<Counter>() <= 24, "{}", size_of::<Counter>());
    assert!(size_of::<Gauge>() <= 8);
    assert!(size_of::<Histogram>() <= 56, "{}", size_of::<Histogram>());
}

proptest! {
    #[test]
    fn any_page_reads_back(series in vec((vec(any::<String>(), 3), any::<u32>()), 0..20)) {
        let registry = Registry::default();
        let family = registry.counters(&describe::REQUEST_TOTAL);
        let mut expected: BTreeMap<_, f64> = BTreeMap::new();
        for (values, count) in &series {
            let names = ["target_addr", "client_id", "authority"];
            let pairs = names.iter().zip(values);
            let labels = pairs.fold(Labels::new(), |labels, (name, value)| labels.with(name, value));
            family.get(&labels).add(u64::from(*count));
            let pairs = names.iter().zip(values);
            let key: Vec<_> = pairs.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            *expected.entry(("request_total".to_owned(), key)).or_default() += f64::from(*count);
        }
        for format in [Format::Text, Format::OpenMetrics] {
            let mut page = read(&String::from_utf8(registry.encode(format)).unwrap());
            page.samples.retain(|(name, _), _| name == "request_total");
            prop_assert_eq!(&page.samples, &expected);
        }
    }

    #[test]
    fn counters_and_buckets_only_grow_from_page_to_page(rounds in vec(vec((0u8..4, 0f64..20.0), 0..20), 1..6)) {
        let registry = Registry::default();
        let counters = registry.counters(&describe::REQUEST_TOTAL);
        let histograms = registry.histograms(&describe::INBOUND_HTTP_REQUEST_DURATION_SECONDS);
        let mut before = Page::default();
        for round in rounds {
            for (n, value) in round {
                counters.get(&client(n)).inc();
                histograms.get(&Labels::new().with("route_name", n)).observe(value);
            }
            let page = text(&registry);
            for (series, value) in &before.samples {
                prop_assert!(page.samples[series] >= *value, "{series:?} went back");
            }
            page.check_histograms();
            before = page;
        }
    }
}
