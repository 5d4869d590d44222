//! Metrics as Prometheus sees them: the numbers are those of the requests that were sent.

use crate::{
    authorization::server,
    harness::{Mesh, eventually, get, one_http1},
    origin,
};
use http_body_util::BodyExt as _;
use std::{collections::BTreeMap, net::SocketAddr, process::Stdio, time::Duration};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    process::{Child, Command},
};

/// How many requests are sent.
const SENT: u32 = 25;

async fn used() -> (Mesh, origin::Origin) {
    let mesh = Mesh::start(&server("accessPolicy: all-unauthenticated")).await;
    let origin = origin::echo(mesh.origin()).await;
    for _ in 0..SENT {
        let response = mesh.send_plain(5, get("/")).await;
        assert_eq!(response.status(), 200);
        drop(response.into_body().collect().await);
    }
    (mesh, origin)
}

/// Whether a tool that does not start may be left out: loudly, and never where tools are required.
fn skip(tool: &str, error: &std::io::Error) {
    linkerd_tests::skipped(&format!("{tool} does not run: {error}"));
}

#[tokio::test]
async fn as_many_requests_are_counted_as_were_sent() {
    let (mesh, _origin) = used().await;
    let labels = [r#"direction="inbound""#, r#"srv_name="web-http""#];
    let requests = mesh.metric("request_total", &labels).await;
    assert!(
        (requests - f64::from(SENT)).abs() < f64::EPSILON,
        "{requests}"
    );
    // An answer is counted when its last byte has gone.
    let classified = [
        &labels[..],
        &[r#"classification="success""#, r#"status_code="200""#],
    ]
    .concat();
    eventually("as many answers", async || {
        let answers = mesh.metric("response_total", &classified).await;
        ((answers - f64::from(SENT)).abs() < f64::EPSILON).then_some(())
    })
    .await;
}

#[tokio::test]
async fn promtool_can_read_the_metrics() {
    let (mesh, _origin) = used().await;
    let (_, page) = mesh.get_admin("/metrics").await.unwrap();
    let mut command = Command::new("promtool");
    command
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return skip("promtool", &error),
    };
    let mut input = child.stdin.take().unwrap();
    input.write_all(page.as_bytes()).await.unwrap();
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    // 1: cannot be read. 3: a style that it would not choose, which some of the contract's names have, and nothing else.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    for remark in said.lines().filter(|line| !line.is_empty()) {
        let (name, style) = remark.split_once(' ').unwrap();
        let is_known = match style {
            "metric names should not contain abbreviated units" => {
                name.ends_with("response_latency_ms")
            }
            "counter metrics should have \"_total\" suffix" => {
                name.ends_with("_queue_overflow") || name.starts_with("opentelemetry_span_")
            }
            _ => false,
        };
        assert!(is_known, "{remark}");
    }
}

/// A Prometheus that scrapes one sidecar. Ends with the test.
pub(crate) struct Prometheus {
    address: SocketAddr,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// `None` where there is no such program.
    pub(crate) fn start(mesh: &Mesh, every: Duration) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let every = every.as_millis();
        let config = format!(
            "global: {{scrape_interval: {every}ms, scrape_timeout: {every}ms}}
scrape_configs: [{{job_name: sidecar, static_configs: [{{targets: ['{}']}}]}}]
",
            mesh.admin()
        );
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let address = SocketAddr::new(mesh.ip(9), 9090);
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let spawned = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        match spawned {
            Ok(process) => Some(Self {
                address,
                _process: process,
                _folder: folder,
            }),
            Err(error) => {
                skip("prometheus", &error);
                None
            }
        }
    }

    /// What it answers to a query: labels and values, or why it refuses. `None` while nobody listens.
    pub(crate) async fn query(&self, promql: &str) -> Option<Result<Vec<Sample>, String>> {
        let encoded: String = promql.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let stream = TcpStream::connect(self.address).await.ok()?;
        let request = get(&format!("/api/v1/query?query={encoded}"));
        let response = one_http1(stream, request).await.ok()?;
        let body = response.into_body().collect().await.ok()?;
        let json: serde_json::Value = serde_json::from_slice(&body.to_bytes()).ok()?;
        if json.get("status")? != "success" {
            return Some(Err(json.to_string()));
        }
        let result = json.pointer("/data/result")?.as_array()?;
        Some(Ok(result.iter().filter_map(sample).collect()))
    }
}

/// The labels of a result, and its value.
pub(crate) type Sample = (BTreeMap<String, String>, f64);

fn sample(json: &serde_json::Value) -> Option<Sample> {
    let labels = serde_json::from_value(json.get("metric")?.clone()).ok()?;
    Some((labels, json.pointer("/value/1")?.as_str()?.parse().ok()?))
}

#[tokio::test]
async fn prometheus_scrapes_the_sidecar_and_counts_the_requests_that_were_sent() {
    let (mesh, _origin) = used().await;
    let Some(prometheus) = Prometheus::start(&mesh, Duration::from_millis(500)) else {
        return;
    };
    let query = r#"sum(request_total{direction="inbound",srv_name="web-http"})"#;
    let value = eventually("an answer of Prometheus", async || {
        let answer = prometheus.query(query).await?.unwrap();
        Some(answer.first()?.1)
    })
    .await;
    assert!((value - f64::from(SENT)).abs() < f64::EPSILON, "{value}");
}
