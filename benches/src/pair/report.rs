//! What `bench pair` prints.

use super::{Memory, SCENARIOS, Sample};
use crate::report::median;

/// Medians over the rounds, and the ratio of both sidecars' CPU time to that of the yardstick.
pub(super) fn print(samples: &[Sample], memory: &[Memory]) {
    println!(
        "{:<30} {:<10} {:>9} {:>10} {:>10} {:>12} {:>9} {:>9} {:>10}",
        "scenario",
        "proxies",
        "req/s",
        "client us",
        "server us",
        "x yardstick",
        "p50 us",
        "p99 us",
        "p99.9 us"
    );
    for scenario in SCENARIOS {
        let of = |pair: &str, value: fn(&Sample) -> f64| {
            let some = samples
                .iter()
                .filter(|sample| sample.scenario == scenario.name && sample.pair == pair);
            median(some.map(value))
        };
        let cpu = |sample: &Sample| sample.client_micros + sample.server_micros;
        let yardstick = of("yardstick", cpu);
        let mut seen = Vec::new();
        for sample in samples
            .iter()
            .filter(|sample| sample.scenario == scenario.name)
        {
            let pair = sample.pair.as_str();
            if seen.contains(&pair) {
                continue;
            }
            seen.push(pair);
            let ratio = of(pair, cpu).zip(yardstick).filter(|_| pair != "direct");
            let shown = |value: fn(&Sample) -> f64| of(pair, value).unwrap_or_default();
            println!(
                "{:<30} {:<10} {:>9.0} {:>10.1} {:>10.1} {:>12} {:>9.0} {:>9.0} {:>10.0}",
                scenario.name,
                pair,
                shown(|sample| sample.requests_per_second),
                shown(|sample| sample.client_micros),
                shown(|sample| sample.server_micros),
                ratio.map_or_else(String::new, |(own, bare)| format!("{:.2}", own / bare)),
                shown(|sample| sample.p50),
                shown(|sample| sample.p99),
                shown(|sample| sample.p999),
            );
        }
    }
    println!(
        "\n{:<10} {:>10} {:>20} {:>17} {:>26}",
        "proxies",
        "KiB idle",
        "KiB per destination",
        "KiB per endpoint",
        "KiB after, client, server"
    );
    for memory in memory {
        let destination = memory.per_destination;
        println!(
            "{:<10} {:>10} {:>20} {:>17.2} {:>14} {:>11}",
            memory.pair,
            memory.idle,
            destination.map_or_else(|| "-".to_owned(), |each| format!("{each:.1}")),
            memory.per_endpoint,
            memory.after.0,
            memory.after.1,
        );
    }
}
