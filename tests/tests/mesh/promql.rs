//! Each PromQL of the pages, asked of a real Prometheus: it can be read, and gives what the traffic implies.

use crate::{
    harness::{eventually, within},
    metrics::{Prometheus, Sample},
    outbound::{Client, app, pod, service, status, text},
};
use http::Request;
use hyper::body::Incoming;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// A query of a page: the question beside it (none at those that are written without), and the query.
struct Query {
    page: &'static str,
    question: String,
    promql: String,
}

const PAGES: [&str; 3] = [
    "docs/retries.md",
    "docs/traffic.md",
    "examples/shop/README.md",
];

/// All queries of the pages: of their tables, and of their indented lines.
fn queries() -> Vec<Query> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut queries = Vec::new();
    for page in PAGES {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        let mut is_table = false;
        for line in text.lines() {
            is_table = line.starts_with('|') && (is_table || line.contains("| PromQL |"));
            let cell = line.split('`').nth(1).filter(|_| is_table);
            let promql = cell.or_else(|| line.strip_prefix("    sum"));
            let Some(promql) = promql else { continue };
            queries.push(Query {
                page,
                question: line
                    .split('|')
                    .nth(1)
                    .map(str::trim)
                    .filter(|_| is_table)
                    .unwrap_or_default()
                    .to_owned(),
                // In a table, the bar of an expression is escaped.
                promql: match cell {
                    Some(cell) => cell.replace(r"\|", "|"),
                    None => format!("sum{promql}"),
                },
            });
        }
    }
    queries
}

/// A second's share of an hour.
const fn rate(count: f64) -> f64 {
    count / 3600.0
}

/// What is in a number's place where only that there is one is known.
const SOME: f64 = -1.0;

/// What the answer to a question is: labels by value, and the number.
type Answer = Vec<(&'static [&'static str], f64)>;

/// Of 41 requests, 24 ended well at once, 12 by their second attempt, four did not by their third, and before all that was
/// one that ended well. `hits`: attempts at each backend.
fn answer(query: &Query, hits: [f64; 2]) -> Option<Answer> {
    let attempts = hits[0] + hits[1];
    Some(match &*query.question {
        "How many retries a second?" => vec![(&[], rate(20.0))],
        "What share of the traffic?" | "What share of the traffic are they?" => {
            vec![(&[], 20.0 / 60.0)]
        }
        "What share of requests needs any?" => vec![(&[], 16.0 / 40.0)],
        "Where, and why?" => vec![(&["503", "catalog-versions"], rate(20.0))],
        "Do they help?" => vec![(&[], 12.0 / 16.0)],
        "Did they help?" => vec![
            (&["gave_up", "catalog-versions"], rate(4.0)),
            (&["recovered", "catalog-versions"], rate(12.0)),
        ],
        "What becomes of requests in the end?" => vec![
            (&["limit", "catalog-versions"], rate(4.0)),
            (&["recovered", "catalog-versions"], rate(12.0)),
            (&["success", "catalog-versions"], rate(24.0)),
        ],
        "How many attempts does a request take?" => {
            vec![(&["catalog-versions"], 60.0 / 40.0)]
        }
        "What do they cost in time?" => vec![(&["catalog-versions"], SOME)],
        "What do endpoints bear, and how do they answer?" => vec![
            (&["catalog", "failure", "false"], SOME),
            (&["catalog", "failure", "true"], SOME),
            (&["catalog", "success", "false"], SOME),
            (&["catalog", "success", "true"], SOME),
            (&["other", "failure", "false"], SOME),
            (&["other", "failure", "true"], SOME),
            (&["other", "success", "false"], SOME),
            (&["other", "success", "true"], SOME),
        ],
        "What do the endpoints bear?" => vec![
            (&["catalog", "false"], SOME),
            (&["catalog", "true"], SOME),
            (&["other", "false"], SOME),
            (&["other", "true"], SOME),
        ],
        "How much is left?" => vec![(&["catalog-versions"], SOME)],
        "Which were not made, and why?" => vec![(&["limit", "catalog-versions"], 4.0)],
        "Who gets what share?" => vec![(&["catalog"], rate(hits[0])), (&["other"], rate(hits[1]))],
        "How many requests end well?" => vec![(&["catalog"], 36.0 / 40.0)],
        "How long do they take?" => vec![(&["catalog"], SOME)],
        "How long of that in the sidecar itself?" => vec![(&[], SOME)],
        "Which endpoints are left?" => vec![
            (&["catalog", "pending"], 0.0),
            (&["catalog", "ready"], 1.0),
            (&["other", "pending"], 0.0),
            (&["other", "ready"], 1.0),
        ],
        "Who gets no endpoint, and why?"
        | "What is left out by breakers?"
        | "What was refused for mutual TLS?" => vec![],
        "Does anything leave in plaintext?" => vec![(&["no_identity"], rate(attempts))],
        "Does it stay in its zone?" => vec![
            (&["local"], 0.0),
            (&["remote"], 0.0),
            (&["unknown"], rate(attempts)),
        ],
        "" if query.promql.contains("budget") => vec![],
        "" if query.promql.contains("gave_up") => vec![(&["catalog-versions"], 4.0 / 40.0)],
        _ => return None,
    })
}

/// Whether what was found is what was wanted. Rates are extrapolated to the ends of what was seen.
fn check(query: &Query, mut found: Vec<Sample>, mut wanted: Answer) {
    let about = |found: &[Sample]| {
        format!(
            "{}: {}\n{} gives {found:?}",
            query.page, query.question, query.promql
        )
    };
    found.sort_by(|a, b| a.0.values().cmp(b.0.values()));
    wanted.sort_by_key(|(labels, _)| *labels);
    assert_eq!(
        found.len(),
        wanted.len(),
        "{}, not {wanted:?}",
        about(&found)
    );
    for ((labels, value), (names, number)) in found.iter().zip(&wanted) {
        assert!(
            labels.values().eq(names.iter()),
            "{}, not {wanted:?}",
            about(&found)
        );
        let is_it = if *number < 0.0 {
            *value > 0.0
        } else {
            (value - number).abs() <= number * 0.1
        };
        assert!(is_it, "{}, not {wanted:?}", about(&found));
    }
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: catalog-versions
  namespace: shop
  annotations: {retry.linkerd.io/http: '503', retry.linkerd.io/limit: '2'}
spec:
  parentRefs: [{group: core, kind: Service, name: catalog}]
  rules: [{backendRefs: [{name: catalog, port: 80}, {name: other, port: 80}]}]
---
";

#[tokio::test]
async fn every_query_of_the_pages_gives_what_the_traffic_implies() {
    let policy = ROUTE.to_owned() + &service("other", "");
    let budget = [("OUTBOUND_RETRY_BUDGET_MIN_PER_SECOND", "1000")];
    let client = Client::start("", 1, &policy, &budget).await;
    let mesh = &client.mesh;
    mesh.write("other.yaml", &pod("other-0", "other", mesh.ip(11)));
    // Attempts so far of one request, whichever backend has them.
    let attempts = Arc::new(AtomicUsize::new(0));
    let hits: Arc<[AtomicUsize; 2]> = Arc::default();
    let answering = |at: usize| {
        let (attempts, hits) = (attempts.clone(), hits.clone());
        move |request: Request<Incoming>| {
            hits[at].fetch_add(1, Ordering::Relaxed);
            let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
            match request.uri().path() {
                "/never" => status(503),
                "/second" if is_first => status(503),
                _ => status(200),
            }
        }
    };
    let _apps = (
        app(client.at(10), answering(0)).await,
        app(client.at(11), answering(1)).await,
    );
    let ask = async |path: &str, want: u16| {
        attempts.store(0, Ordering::Relaxed);
        let response = client.get(9000, path).await;
        assert_eq!(response.status(), want, "{path}");
        text(response).await;
    };
    // Both backends have been used, so that each has its series: how often each is does not matter.
    eventually("both endpoints", async || {
        ask("/", 200).await;
        hits.iter()
            .all(|hits| hits.load(Ordering::Relaxed) > 0)
            .then_some(())
    })
    .await;
    let Some(prometheus) = Prometheus::start(mesh, Duration::from_millis(100)) else {
        return;
    };
    let value = async |promql: &str| {
        let answer = prometheus.query(promql).await?.unwrap();
        Some(answer.first()?.1)
    };
    let requests = "sum(outbound_route_request_fates_total)";
    let before = eventually("a first scrape", async || value(requests).await).await;
    let before_hits = [0, 1].map(|at| hits[at].load(Ordering::Relaxed));
    for (path, want, count) in [("/", 200, 24), ("/second", 200, 12), ("/never", 503, 4)] {
        for _ in 0..count {
            ask(path, want).await;
        }
    }
    // Scraped often enough that what is extrapolated is little.
    let scrapes = "min(count_over_time(outbound_route_request_fates_total[1h]))";
    eventually("the requests, scraped", async || {
        let seen = value(requests).await? - before;
        (seen > 39.5 && value(scrapes).await? > 30.0).then_some(())
    })
    .await;
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let hits = [0, 1].map(|at| (hits[at].load(Ordering::Relaxed) - before_hits[at]) as f64);
    let queries = queries();
    assert!(queries.len() > 25, "{} queries", queries.len());
    for query in &queries {
        let wanted = answer(query, hits);
        let wanted = wanted.unwrap_or_else(|| panic!("{}: {}", query.page, query.question));
        let asked = within("an answer", prometheus.query(&query.promql)).await;
        asked
            .unwrap()
            .unwrap_or_else(|error| panic!("{}: {error}", query.promql));
        // Whatever time the traffic took, all of it is in the last hour.
        let of_an_hour = query.promql.replace("[1m]", "[1h]").replace("[5m]", "[1h]");
        let found = within("an answer", prometheus.query(&of_an_hour)).await;
        check(query, found.unwrap().unwrap(), wanted);
    }
}
