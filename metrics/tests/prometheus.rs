//! A real Prometheus (Debian package `prometheus`) scrapes pages over HTTP, and PromQL answers what was counted.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;
use std::{fs, thread};

use linkerd_metrics::{Format, Labels, Registry, accepts_gzip, describe};

/// How long Prometheus may take to start and scrape. Only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn promql_gives_the_number_of_requests_sent() {
    if common::missing("prometheus") {
        return;
    }
    let registry = busy_registry(false);
    let prometheus = Prometheus::scraping(&registry, "classic", &[]);
    assert_eq!(prometheus.format, Format::OpenMetrics);
    assert_eq!(prometheus.query("up"), 1.0);
    assert_eq!(
        prometheus.query(r#"sum(request_total{direction="inbound"})"#),
        1234.0
    );
    assert_eq!(
        prometheus.query(r#"sum(response_latency_ms_bucket{le="5000",direction="inbound"})"#),
        1234.0
    );
    // Two series of each of the three legacy latencies, and the busy one: integer bounds in OpenMetrics too.
    let legacy = r#"count({__name__=~".+_ms_bucket",le="50000"})"#;
    assert_eq!(prometheus.query(legacy), 7.0);
}

#[test]
fn native_histograms_say_five_seconds_for_replies_of_five_seconds() {
    if common::missing("prometheus") {
        return;
    }
    let registry = busy_registry(true);
    let native = ["--enable-feature=native-histograms"];
    let prometheus = Prometheus::scraping(&registry, "native", &native);
    assert_eq!(prometheus.format, Format::Protobuf);
    assert_eq!(prometheus.query("up"), 1.0);
    assert_eq!(
        prometheus.query(r#"request_total{direction="inbound"}"#),
        1234.0
    );
    let latency = r#"response_latency_ms{direction="inbound"}"#;
    assert_eq!(
        prometheus.query(&format!("histogram_count({latency})")),
        1234.0
    );
    let p95 = prometheus.query(&format!("histogram_quantile(0.95, {latency})"));
    assert!((4_600.0..5_400.0).contains(&p95), "{p95}");
}

/// Every family with awkward labels, and 1,234 requests of five seconds.
fn busy_registry(native: bool) -> Registry {
    let registry = common::registry_with_every_family(native);
    let labels = Labels::new()
        .with("direction", "inbound")
        .with("srv_name", "web");
    let requests = registry.counters(&describe::REQUEST_TOTAL).get(&labels);
    let latencies = registry
        .histograms(&describe::RESPONSE_LATENCY_MS)
        .get(&labels);
    for _ in 0..1_234 {
        requests.inc();
        latencies.observe_duration(Duration::from_secs(5));
    }
    registry
}

/// A running Prometheus that has scraped at least twice.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    directory: PathBuf,
    /// What it asked for.
    format: Format,
}

impl Prometheus {
    fn scraping(registry: &Registry, name: &str, arguments: &[&str]) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("prometheus-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs: [{{job_name: proxy, static_configs: [{{targets: ['{}']}}]}}]\n",
            listener.local_addr().unwrap()
        );
        let config_file = directory.join("prometheus.yml");
        fs::write(&config_file, config).unwrap();
        let (scraped, scrapes) = mpsc::channel();
        let registry = registry.clone();
        thread::spawn(move || serve(&listener, &registry, &scraped));
        let address = free_address();
        let log = fs::File::create(directory.join("log")).unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config_file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut prometheus = Self {
            process,
            address,
            directory,
            format: Format::Text,
        };
        prometheus.format = third_scrape(&scrapes, &prometheus.directory);
        prometheus
    }

    /// The value of an expression that gives one series.
    fn query(&self, expression: &str) -> f64 {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let query: String = expression
            .bytes()
            .map(|byte| format!("%{byte:02x}"))
            .collect();
        write!(stream, "GET /api/v1/query?query={query} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let value = answer
            .split_once("\"value\":[")
            .and_then(|(_, rest)| rest.split('"').nth(1));
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("{expression}: {answer}"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // What is already gone needs no ending.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Scrapes are one after the other, so what the first two brought is stored when the third begins.
fn third_scrape(scrapes: &Receiver<Format>, directory: &Path) -> Format {
    let next = || {
        scrapes.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
            panic!("Prometheus does not scrape:\n{log}")
        })
    };
    let _ = (next(), next());
    next()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Answers scrapes, one a connection, as the admin server does.
fn serve(listener: &TcpListener, registry: &Registry, scraped: &Sender<Format>) {
    for stream in listener.incoming().flatten() {
        let Some(format) = answer(stream, registry) else {
            continue;
        };
        if scraped.send(format).is_err() {
            return;
        }
    }
}

fn answer(mut stream: TcpStream, registry: &Registry) -> Option<Format> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let (mut accept, mut encoding) = (None, None);
    loop {
        let line = lines.next()?.ok()?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ") {
            match name.to_ascii_lowercase().as_str() {
                "accept" => accept = Some(value.to_owned()),
                "accept-encoding" => encoding = Some(value.to_owned()),
                _ => {}
            }
        }
    }
    let format = Format::negotiate(accept.as_deref());
    let (page, coding) = if accepts_gzip(encoding.as_deref()) {
        (registry.encode_gzip(format), "content-encoding: gzip\r\n")
    } else {
        (registry.encode(format), "")
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {}\r\n{coding}content-length: {}\r\nconnection: close\r\n\r\n",
        format.content_type(),
        page.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&page).ok()?;
    Some(format)
}
