//! Scrapers get the format they ask for.

use std::io::Read as _;

use flate2::read::GzDecoder;

use super::*;

const PROTOBUF: &str =
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

#[test]
fn without_a_wish_the_page_is_classic_text() {
    for accept in [
        None,
        Some(""),
        Some("*/*"),
        Some("text/html"),
        Some(",;q=,="),
        Some("text/plain;q=x"),
    ] {
        assert_eq!(Format::negotiate(accept), Format::Text, "{accept:?}");
    }
}

#[test]
fn prometheus_gets_what_its_versions_ask_for() {
    let openmetrics = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
        text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let prometheus3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
        text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let native = format!(
        "{PROTOBUF},application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"
    );
    assert_eq!(Format::negotiate(Some(openmetrics)), Format::OpenMetrics);
    assert_eq!(Format::negotiate(Some(prometheus3)), Format::OpenMetrics);
    assert_eq!(Format::negotiate(Some(&native)), Format::Protobuf);
}

#[test]
fn quality_decides_and_the_first_of_equals_wins() {
    let accept = |text: &str| Format::negotiate(Some(text));
    assert_eq!(
        accept("application/openmetrics-text; q=0.2, text/plain; q=0.9"),
        Format::Text
    );
    assert_eq!(
        accept("text/plain, application/openmetrics-text"),
        Format::Text
    );
    assert_eq!(
        accept("application/openmetrics-text, text/plain"),
        Format::OpenMetrics
    );
    assert_eq!(
        accept("Application/OpenMetrics-Text; Version=\"1.0.0\""),
        Format::OpenMetrics
    );
    assert_eq!(accept("application/openmetrics-text;q=0"), Format::Text);
    assert_eq!(
        accept("application/openmetrics-text;version=2.0.0"),
        Format::Text
    );
    assert_eq!(accept("application/vnd.google.protobuf"), Format::Text);
}

#[test]
fn gzip_is_used_only_where_it_is_accepted() {
    for accepted in ["gzip", "deflate, GZIP;q=0.5", "gzip;q=1.0, identity"] {
        assert!(accepts_gzip(Some(accepted)), "{accepted}");
    }
    for refused in ["", "identity", "gzip;q=0", "gzip; q=0.0", "br"] {
        assert!(!accepts_gzip(Some(refused)), "{refused}");
    }
    assert!(!accepts_gzip(None));
}

#[test]
fn gzip_gives_the_same_bytes_back() {
    let mut plain = Vec::new();
    GzDecoder::new(gzip(b"page").as_slice())
        .read_to_end(&mut plain)
        .unwrap();
    assert_eq!(plain, b"page");
}
