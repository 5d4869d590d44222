//! What the tests against other programs share.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::process::{Command, Stdio};

use linkerd_metrics::describe::{self, Kind};
use linkerd_metrics::{Labels, Options, Registry};

/// True if a program is not installed; says so aloud, and fails where the environment has `REQUIRE_TOOLS=1`.
pub(crate) fn missing(program: &str) -> bool {
    let mut version = Command::new(program);
    version
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if version.status().is_ok() {
        return false;
    }
    let required = std::env::var("REQUIRE_TOOLS").is_ok_and(|value| value == "1");
    assert!(!required, "{program} is not installed and REQUIRE_TOOLS=1");
    eprintln!("SKIPPED: {program} is not installed (Debian package prometheus)");
    true
}

/// A registry in which every family of the table has two series, one of them with awkward label values.
pub(crate) fn registry_with_every_family(native_histograms: bool) -> Registry {
    let registry = Registry::new(Options {
        native_histograms,
        ..Options::default()
    });
    for desc in describe::all() {
        for value in ["x", "a\"b\\c\nd é"] {
            let names = desc.label_names().map(|name| name.replace('*', "app"));
            let labels = names.fold(Labels::new(), |labels, name| labels.with(name, value));
            match desc.kind {
                Kind::Counter => registry.counters(desc).get(&labels).add(7),
                Kind::Gauge => registry.gauges(desc).get(&labels).set(1.5),
                Kind::Histogram { .. } => {
                    let histogram = registry.histograms(desc).get(&labels);
                    for value in [0.0, 0.3, 5.0, 1e9] {
                        histogram.observe(value);
                    }
                }
            }
        }
    }
    registry
}
