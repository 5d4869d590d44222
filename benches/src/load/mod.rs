//! The load client: many connections on one thread, in a closed loop or at a fixed rate.
//!
//! In a closed loop each of `connections * streams` requesters sends its next request when it has the response to the
//! last. At a fixed rate requests have intended times, and latency counts from those, so that a stall of the proxy is
//! seen by all requests that should have been sent meanwhile and not only by the one that met it.

mod connection;
pub(crate) mod histogram;

use crate::Failure;
use clap::Args;
use connection::{Connection, Endpoint, Http1, Http2, Raw};
use futures::future::join_all;
use histogram::{Histogram, Quantiles};
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, mpsc},
    task::LocalSet,
};

#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Address to connect to.
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// Path of every request.
    #[arg(long, default_value = "/100")]
    pub(crate) path: String,
    /// Speaks HTTP/2 with prior knowledge instead of HTTP/1.1.
    #[arg(long)]
    pub(crate) http2: bool,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: usize,
    /// Requests at a time on each HTTP/2 connection.
    #[arg(long, default_value_t = 1)]
    pub(crate) streams: usize,
    /// Seconds of load.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Seconds of load before that, on the same connections, that count for nothing.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) warmup: f64,
    /// Requests per second of all connections together; without it, as many as there are answers.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Sends one request on each connection as it is opened, and then only holds them.
    #[arg(long, conflicts_with = "rate")]
    pub(crate) idle: bool,
    /// Opens a connection for each request, and closes it after the response.
    #[arg(long, conflicts_with_all = ["http2", "idle"])]
    pub(crate) fresh: bool,
    /// Sends gRPC calls, whose answers end with trailers, instead of GET.
    #[arg(long, requires = "http2")]
    pub(crate) grpc: bool,
    /// Speaks to the raw server of `bench origin` instead of HTTP: each request is for so many bytes.
    #[arg(long, conflicts_with_all = ["http2", "fresh"])]
    pub(crate) raw: Option<u64>,
    /// Spreads connections over so many addresses: `address` and those after it.
    #[arg(long, default_value_t = 1)]
    pub(crate) addresses: u16,
    /// Folder with `ca.pem`, `client.pem` and `client.key`: connects with mTLS.
    #[arg(long, requires = "server_name")]
    pub(crate) tls: Option<PathBuf>,
    /// Identity the server must prove.
    #[arg(long)]
    pub(crate) server_name: Option<String>,
}

/// What a run of load gave; `bench load` prints it as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Requests answered with 200 and their whole body.
    pub(crate) requests: u64,
    /// Requests that failed, and connections that could not be made.
    pub(crate) errors: u64,
    /// What the first of those failed on.
    pub(crate) first_error: Option<String>,
    pub(crate) seconds: f64,
    /// Microseconds; from the intended time where there is a rate.
    pub(crate) latency: Quantiles,
}

/// Line on standard output when the warm-up is over and counting begins.
pub(crate) const COUNTING: &str = "counting";

/// What all requesters of a run write to.
struct Tally {
    /// Requests intended earlier are not counted.
    from: Instant,
    latency: Histogram,
    requests: u64,
    errors: u64,
    first_error: Option<String>,
}

/// When requests are to be sent.
enum Schedule {
    /// One after the other, until this time.
    Closed(Instant),
    /// At the times that come from here.
    Open(Mutex<mpsc::UnboundedReceiver<Instant>>),
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let outcome = LocalSet::new().run_until(drive(&arguments)).await?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

async fn drive(arguments: &Arguments) -> Result<Outcome, Failure> {
    let endpoints: Result<Vec<_>, _> = (0..arguments.addresses.max(1))
        .map(|number| Endpoint::new(arguments, number).map(Rc::new))
        .collect();
    let endpoints = endpoints?;
    let tally = Rc::new(RefCell::new(Tally::new()));
    let connections = open(arguments, &endpoints, &tally).await;
    let start = Instant::now();
    let from = start + Duration::from_secs_f64(arguments.warmup);
    let end = from + Duration::from_secs_f64(arguments.seconds);
    tokio::task::spawn_local(async move {
        tokio::time::sleep_until(from.into()).await;
        println!("{COUNTING}");
    });
    if arguments.idle {
        tokio::time::sleep_until(end.into()).await;
        drop(connections);
    } else {
        tally.borrow_mut().from = from;
        let schedule = Rc::new(match arguments.rate {
            None => Schedule::Closed(end),
            Some(rate) => Schedule::Open(Mutex::new(pace(start, rate, end))),
        });
        let requesters = connections
            .into_iter()
            .flat_map(|connection| connection.requesters(arguments.streams))
            .map(|connection| {
                tokio::task::spawn_local(request(connection, schedule.clone(), tally.clone()))
            });
        for requester in join_all(requesters).await {
            requester?;
        }
    }
    let spent = from.elapsed();
    let tally = tally.borrow();
    Ok(Outcome {
        requests: tally.requests,
        errors: tally.errors,
        first_error: tally.first_error.clone(),
        seconds: spent.as_secs_f64(),
        latency: tally.latency.quantiles(),
    })
}

/// Opens the connections, a few at a time so that no accept queue overflows. Those that are to be idle have their one
/// request here, so that the proxy never has more than a few in flight and only the idle connections remain.
async fn open(
    arguments: &Arguments,
    endpoints: &[Rc<Endpoint>],
    tally: &RefCell<Tally>,
) -> Vec<Connection> {
    const AT_A_TIME: usize = 64;
    let mut connections = Vec::with_capacity(arguments.connections);
    let mut endpoints = endpoints.iter().cycle();
    while connections.len() < arguments.connections {
        let count = AT_A_TIME.min(arguments.connections - connections.len());
        let opened = join_all(endpoints.by_ref().take(count).map(|endpoint| async {
            let mut connection = if arguments.http2 {
                Connection::Http2(Http2::open(endpoint).await?)
            } else if let Some(bytes) = arguments.raw {
                Connection::Raw(Raw::open(endpoint, bytes).await?)
            } else if arguments.fresh {
                Connection::Fresh(endpoint.clone())
            } else {
                Connection::Http1(Http1::open(endpoint).await?)
            };
            if arguments.idle {
                let sent = Instant::now();
                connection.exchange().await?;
                tally.borrow_mut().answered(sent);
            }
            Ok::<_, Failure>(connection)
        }))
        .await;
        for connection in opened {
            match connection {
                Ok(connection) => connections.push(connection),
                Err(failure) => {
                    tally.borrow_mut().failed(&failure);
                    return connections;
                }
            }
        }
    }
    connections
}

/// Sends requests on one connection (or one stream at a time of it) as the schedule says.
async fn request(mut connection: Connection, schedule: Rc<Schedule>, tally: Rc<RefCell<Tally>>) {
    loop {
        let intended = match &*schedule {
            Schedule::Closed(end) => {
                let now = Instant::now();
                if now >= *end {
                    return;
                }
                now
            }
            Schedule::Open(times) => match times.lock().await.recv().await {
                Some(intended) => intended,
                None => return,
            },
        };
        match connection.exchange().await {
            Ok(()) => tally.borrow_mut().answered(intended),
            Err(failure) => {
                tally.borrow_mut().failed(&failure);
                return;
            }
        }
    }
}

/// Gives out the intended times of a rate, each when it has come.
///
/// A thread of its own: the runtime's timers are precise to a millisecond only, a sleeping thread to some 60
/// microseconds.
fn pace(start: Instant, rate: f64, end: Instant) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let gap = Duration::from_secs_f64(1.0 / rate.max(1.0));
        let mut intended = start;
        while intended < end {
            thread::sleep(intended.saturating_duration_since(Instant::now()));
            if sender.send(intended).is_err() {
                return;
            }
            intended += gap;
        }
    });
    receiver
}

impl Tally {
    fn new() -> Self {
        Self {
            from: Instant::now(),
            latency: Histogram::new(),
            requests: 0,
            errors: 0,
            first_error: None,
        }
    }

    fn answered(&mut self, intended: Instant) {
        if intended >= self.from {
            self.requests += 1;
            self.latency.record(intended.elapsed());
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| failure.to_string());
    }
}
