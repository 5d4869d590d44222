//! `bench changes`: what a change of an object costs a control plane's index, by number of Pods: how many of the answers that
//! proxies have open must be made anew, and the time for the change, for finding that out, and for those answers.
//!
//! The index alone, without an API server and without sockets. The numbers of answers are exact and the same on any machine.

use crate::{Failure, report::median};
use clap::Args;
use linkerd_policy::{
    index::{Cluster, Index, Reads, WorkloadRef},
    manifest,
    resource::Resource,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{fs, hint::black_box, path::PathBuf, time::Instant};

const NAMESPACE: &str = "bench";
/// Pods of a Service.
const MEMBERS: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Numbers of Pods; each is a run.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
    pods: Vec<usize>,
    /// Most proxies; one for each Pod if that is less.
    #[arg(long, default_value_t = 1000)]
    proxies: usize,
    /// How often each change is made.
    #[arg(long, default_value_t = 20)]
    changes: usize,
    /// Also writes the result to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is changed: a name, and an object that says something else each time.
type Change = (&'static str, fn(usize) -> Value);

const CHANGES: [Change; 5] = [
    ("a Server of one Pod", |count| {
        server("one", &json!({"pod": "p-0"}), 8080, count)
    }),
    ("a Server of all Pods", |count| {
        server("all", &json!({"tier": "bench"}), 9090, count)
    }),
    ("an authorization of the first", authorization),
    ("a Pod", |count| pod(1, count)),
    ("a slice", |count| slice(0, count)),
];

/// What was measured of a change: medians.
#[derive(Debug, Serialize)]
struct Row {
    pods: usize,
    /// Answers that proxies have open.
    open: usize,
    change: &'static str,
    /// Of these, how many are made anew.
    anew: usize,
    apply_us: f64,
    look_us: f64,
    anew_us: f64,
}

/// An answer that a proxy has open.
struct Open {
    ask: Ask,
    reads: Reads,
}

enum Ask {
    Port(WorkloadRef, u16),
    Service(String),
}

impl Open {
    fn new(index: &Index, ask: Ask) -> Self {
        let reads = answer(index, &ask);
        Self { ask, reads }
    }
}

/// Makes an answer, and says what it is made of.
fn answer(index: &Index, ask: &Ask) -> Reads {
    let index = index.recording();
    match ask {
        Ask::Port(workload, port) => drop(black_box(index.inbound(workload, *port))),
        Ask::Service(name) => drop(black_box(index.endpoints(NAMESPACE, name, 80))),
    }
    index.into_reads()
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut rows = Vec::new();
    println!(
        "{:>6} {:>6}  {:<30} {:>6} {:>9} {:>9} {:>9}",
        "Pods", "open", "change", "anew", "apply us", "look us", "anew us"
    );
    for pods in &arguments.pods {
        for row in measure(arguments, *pods)? {
            println!(
                "{:>6} {:>6}  {:<30} {:>6} {:>9.1} {:>9.1} {:>9.1}",
                row.pods, row.open, row.change, row.anew, row.apply_us, row.look_us, row.anew_us
            );
            rows.push(row);
        }
    }
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_vec_pretty(&rows)?)?;
    }
    Ok(())
}

fn measure(arguments: &Arguments, pods: usize) -> Result<Vec<Row>, Failure> {
    let mut index = filled(pods)?;
    let proxies = arguments.proxies.min(pods);
    let asks = (0..proxies).flat_map(|number| {
        let workload = || WorkloadRef::Pod {
            ns: NAMESPACE.to_owned(),
            pod: format!("p-{number}"),
        };
        let service = format!("s-{}", number / MEMBERS);
        [
            Ask::Port(workload(), 8080),
            Ask::Port(workload(), 9090),
            Ask::Service(service),
        ]
    });
    let mut open: Vec<Open> = asks.map(|ask| Open::new(&index, ask)).collect();
    let mut rows = Vec::new();
    for (change, object) in CHANGES {
        let (mut apply, mut look, mut make) = (Vec::new(), Vec::new(), Vec::new());
        let mut anew = 0;
        for count in 0..arguments.changes {
            let resource = read(object(count))?;
            // Whoever serves holds the version before.
            let before = index.clone();
            let began = Instant::now();
            index.apply(resource);
            drop(before);
            apply.push(microseconds(began));
            let began = Instant::now();
            let others = open
                .iter_mut()
                .filter(|open| !index.is_current(&open.reads));
            let others: Vec<&mut Open> = others.collect();
            look.push(microseconds(began));
            anew = others.len();
            let began = Instant::now();
            for open in others {
                open.reads = answer(&index, &open.ask);
            }
            make.push(microseconds(began));
        }
        let of = |values| median(values).unwrap_or_default();
        rows.push(Row {
            pods,
            open: open.len(),
            change,
            anew,
            apply_us: of(apply),
            look_us: of(look),
            anew_us: of(make),
        });
    }
    Ok(rows)
}

/// An index as `bench plane` fills an API server, with what is changed in it.
fn filled(pods: usize) -> Result<Index, Failure> {
    let mut index = Index::new(Cluster::default());
    let services = pods.div_ceil(MEMBERS);
    let pods = (0..pods).map(|number| pod(number, 0));
    let services = (0..services).flat_map(|number| [service(number), slice(number, 0)]);
    for object in pods.chain(services) {
        index.apply(read(object)?);
    }
    for (_, object) in CHANGES {
        index.apply(read(object(1))?);
    }
    Ok(index)
}

fn read(object: Value) -> Result<Resource, Failure> {
    manifest::from_value(object).map_err(|error| error.to_string().into())
}

fn pod(number: usize, count: usize) -> Value {
    let ip = format!(
        "10.{}.{}.{}",
        number / 62_500,
        number / 250 % 250,
        1 + number % 250
    );
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("p-{number}"), "namespace": NAMESPACE,
            "labels": {
                "tier": "bench", "pod": format!("p-{number}"), "count": count.to_string(),
                "linkerd.io/control-plane-ns": "linkerd",
            },
        },
        "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 8080, "name": "http"}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

fn service(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s-{number}"), "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// The slice of a Service, of whose endpoints the first comes and goes.
fn slice(service: usize, count: usize) -> Value {
    let members = (0..MEMBERS).map(|member| {
        let pod = service * MEMBERS + member;
        json!({
            "addresses": [format!("10.0.{}.{}", pod / 250 % 250, 1 + pod % 250)],
            "conditions": {"ready": member > 0 || count.is_multiple_of(2)},
            "targetRef": {"kind": "Pod", "name": format!("p-{pod}"), "namespace": NAMESPACE},
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("s-{service}-1"), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": format!("s-{service}")},
        },
        "endpoints": members.collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

fn server(name: &str, labels: &Value, port: u16, count: usize) -> Value {
    let protocol = if count.is_multiple_of(2) {
        "HTTP/1"
    } else {
        "HTTP/2"
    };
    json!({
        "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"podSelector": {"matchLabels": labels}, "port": port, "proxyProtocol": protocol},
    })
}

fn authorization(count: usize) -> Value {
    json!({
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "one", "namespace": NAMESPACE},
        "spec": {
            "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "one"},
            "requiredAuthenticationRefs": [{"kind": "ServiceAccount", "name": format!("a-{count}")}],
        },
    })
}

fn microseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
