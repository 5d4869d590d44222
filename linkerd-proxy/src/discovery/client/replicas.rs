//! The replicas of a controller: the addresses that its name has, a connection to each, and the choice among them.
//!
//! A call goes to the less busy one of two that are drawn (power of two choices by calls under way; streams are few and
//! live long, so that latencies say little). One that cannot be connected to is left aside, for longer each time, and
//! costs calls nothing as long as there is another. One whose address leaves the name gets nothing new; what is under way
//! there ends there.
//!
//! Nothing is looked up or connected to before somebody calls, or while nobody does.

use super::{
    CONNECTION_WAIT, Shared, UNREACHABLE_PAUSE,
    connect::{ConnectError, connect},
};
use crate::{
    balancer::Series,
    config::{Address, value::loopback},
    discovery::{backoff::Pauses, dns},
};
use hyper::client::conn::http2::SendRequest;
use linkerd_metrics::{Gauge, Handle};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};
use tonic::body::Body;

/// Longest pause before a name is looked up again that leads nowhere: a control plane that begins anew has no addresses for
/// a while.
const NAMELESS_PAUSE: Duration = Duration::from_secs(5);

/// The replicas of one controller.
#[derive(Debug)]
pub(super) struct Replicas {
    set: watch::Sender<Vec<Arc<Replica>>>,
    series: Series,
    /// 1 while there is a connection to any of them.
    is_connected: Handle<Gauge>,
    /// Calls that wait, and calls that are under way.
    waiting: AtomicUsize,
    calls: AtomicUsize,
    /// There was none for as long as a call may wait.
    is_shut: AtomicBool,
    /// Somebody waits.
    wanted: Notify,
    /// The addresses may have changed.
    stale: Notify,
}

/// One of them.
#[derive(Debug)]
struct Replica {
    /// Where it is; several addresses of this host are tried in turn.
    at: Vec<SocketAddr>,
    connection: Mutex<Option<SendRequest<Body>>>,
    calls: AtomicUsize,
    /// It is to be connected to.
    wanted: Notify,
    is_gone: AtomicBool,
}

impl Replica {
    fn new(at: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            at,
            connection: Mutex::default(),
            calls: AtomicUsize::new(0),
            wanted: Notify::new(),
            is_gone: AtomicBool::new(false),
        })
    }

    fn connection(&self) -> Option<SendRequest<Body>> {
        let connection = lock(&self.connection);
        connection.clone().filter(|open| !open.is_closed())
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }
}

/// A call's place at a replica, until the call is over.
#[derive(Debug)]
pub(crate) struct Lease {
    all: Arc<Replicas>,
    replica: Arc<Replica>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.replica.calls.fetch_sub(1, Ordering::Relaxed);
        self.all.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of the calls that wait.
struct Waiting<'r>(&'r Replicas);

impl<'r> Waiting<'r> {
    fn enter(all: &'r Replicas) -> Self {
        all.waiting.fetch_add(1, Ordering::Relaxed);
        all.series.queue_length.inc();
        Self(all)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.series.queue_length.dec();
    }
}

impl Replicas {
    pub(super) fn new(series: Series, is_connected: Handle<Gauge>) -> Arc<Self> {
        series.gate_timeout.set(CONNECTION_WAIT.as_secs_f64());
        Arc::new(Self {
            set: watch::Sender::default(),
            series,
            is_connected,
            waiting: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            is_shut: AtomicBool::new(false),
            wanted: Notify::new(),
            stale: Notify::new(),
        })
    }

    /// Whether there is a connection now.
    pub(super) fn is_connected(&self) -> bool {
        let set = self.set.borrow();
        set.iter().any(|replica| replica.connection().is_some())
    }

    /// A connection for a call, once there is one.
    pub(super) async fn lease(self: &Arc<Self>) -> (SendRequest<Body>, Lease) {
        let mut changed = self.set.subscribe();
        if let Some(found) = self.pick() {
            return found;
        }
        let _waiting = Waiting::enter(self);
        loop {
            changed.borrow_and_update();
            if let Some(found) = self.pick() {
                return found;
            }
            self.wanted.notify_one();
            // The sender is ours.
            let _ = changed.changed().await;
        }
    }

    /// A call asked for an endpoint, and has waited since `since`.
    pub(super) fn asked(&self, since: Instant) {
        self.series.queue_requests.inc();
        let waited = since.elapsed().as_secs_f64();
        self.series.queue_latency.observe(waited);
    }

    /// There was no endpoint for as long as a call may wait.
    pub(super) fn shut(&self) {
        if !self.is_shut.swap(true, Ordering::Relaxed) {
            self.series.shut();
        }
    }

    /// The less busy one of two that are connected; those that are not are told that they are wanted.
    fn pick(self: &Arc<Self>) -> Option<(SendRequest<Body>, Lease)> {
        let set = self.set.borrow();
        let mut ready = Vec::with_capacity(set.len());
        for replica in set.iter() {
            match replica.connection() {
                Some(connection) => ready.push((replica, connection)),
                None => replica.wanted.notify_one(),
            }
        }
        let drawn = rand::seq::index::sample(&mut rand::rng(), ready.len(), ready.len().min(2));
        let drawn = drawn.iter().filter_map(|at| ready.get(at));
        let (replica, connection) =
            drawn.min_by_key(|(replica, _)| replica.calls.load(Ordering::Relaxed))?;
        replica.calls.fetch_add(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        let lease = Lease {
            all: self.clone(),
            replica: Arc::clone(replica),
        };
        // Nobody looked the name up while nobody called.
        self.wanted.notify_one();
        Some((connection.clone(), lease))
    }

    /// Whether anybody calls, or wants to.
    fn is_used(&self) -> bool {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        count(&self.waiting) + count(&self.calls) > 0
    }

    /// Waits until somebody calls.
    async fn used(&self) {
        while !self.is_used() {
            self.wanted.notified().await;
        }
    }

    /// Takes note of where the controller is. Gives the replicas that are new.
    fn put(&self, places: &[Vec<SocketAddr>]) -> Vec<Arc<Replica>> {
        let mut new = Vec::new();
        self.set.send_modify(|set| {
            set.retain(|replica| {
                let stays = places.contains(&replica.at);
                if !stays {
                    self.remove(replica);
                }
                stays
            });
            for at in places {
                if !set.iter().any(|replica| replica.at == *at) {
                    let replica = Replica::new(at.clone());
                    self.series.adds.inc();
                    self.series.size.inc();
                    self.series.pending.inc();
                    set.push(replica.clone());
                    new.push(replica);
                }
            }
        });
        self.say_connected();
        new
    }

    fn remove(&self, replica: &Replica) {
        replica.is_gone.store(true, Ordering::Relaxed);
        let state = match lock(&replica.connection).take() {
            Some(_) => &self.series.ready,
            None => &self.series.pending,
        };
        state.dec();
        self.series.size.dec();
        self.series.removes.inc();
        // It need not wait for its next attempt to find out.
        replica.wanted.notify_one();
    }

    /// A replica has a connection now, or none any more.
    fn connected(&self, replica: &Replica, connection: Option<SendRequest<Body>>) {
        self.set.send_modify(|_| {
            if replica.is_gone() {
                return;
            }
            let (to, from) = match &connection {
                Some(_) => (&self.series.ready, &self.series.pending),
                None => (&self.series.pending, &self.series.ready),
            };
            to.inc();
            from.dec();
            *lock(&replica.connection) = connection;
        });
        self.say_connected();
        if self.is_connected() && self.is_shut.swap(false, Ordering::Relaxed) {
            self.series.opened();
        }
    }

    fn say_connected(&self) {
        self.is_connected
            .set(if self.is_connected() { 1.0 } else { 0.0 });
    }
}

/// Keeps the replicas of a controller as its name has them, for ever.
pub(super) async fn follow(shared: Arc<Shared>) {
    let fixed = match &shared.endpoint.addr.addr {
        Address::Socket(addr) => vec![*addr],
        Address::Name(name, port) if name == "localhost." => loopback(*port).to_vec(),
        Address::Name(name, port) => {
            let (name, port) = (name.clone(), *port);
            return follow_name(shared, &name, port).await;
        }
    };
    shared.replicas.series.resets.inc();
    start(&shared, &[fixed]);
}

/// Looks a name up for as long as somebody calls: when what is known of it expires, and when nobody can be connected to.
async fn follow_name(shared: Arc<Shared>, name: &str, port: u16) {
    let replicas = &shared.replicas;
    let mut pauses = Pauses::new(shared.endpoint.backoff);
    let mut is_first = true;
    loop {
        replicas.used().await;
        let asked = tokio::time::Instant::now();
        let note = |kind, is_found| shared.metrics.resolution(kind, is_found);
        match shared.endpoint.resolver.lookup(name, port, note).await {
            Ok(dns::Places { addresses, ttl }) => {
                pauses.reset();
                if std::mem::take(&mut is_first) {
                    replicas.series.resets.inc();
                }
                let places: Vec<_> = addresses.into_iter().map(|addr| vec![addr]).collect();
                start(&shared, &places);
                tokio::select! {
                    () = tokio::time::sleep(ttl) => {}
                    () = replicas.stale.notified() => {
                        tokio::time::sleep_until(asked + UNREACHABLE_PAUSE).await;
                    }
                }
            }
            // Where it leads to is kept: a controller without a name is better than none.
            Err(source) => {
                let error = ConnectError::Dns {
                    name: name.to_owned(),
                    source,
                };
                shared.metrics.failure(error.reason());
                let pause = pauses.next(NAMELESS_PAUSE);
                shared.log(&error, pause);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Takes note of where a controller is, and begins to keep connections to what is new.
fn start(shared: &Arc<Shared>, places: &[Vec<SocketAddr>]) {
    for replica in shared.replicas.put(places) {
        if shared.replicas.is_used() {
            replica.wanted.notify_one();
        }
        let shared = shared.clone();
        tokio::spawn(async move { Box::pin(keep(&shared, &replica)).await });
    }
}

/// Keeps a connection to a replica while somebody calls, until it is no replica any more.
async fn keep(shared: &Shared, replica: &Replica) {
    let name = shared.endpoint.name;
    let mut pauses = Pauses::new(shared.endpoint.backoff);
    loop {
        replica.wanted.notified().await;
        if replica.is_gone() {
            return;
        }
        let pause = match connect(&shared.endpoint, &shared.identity, &replica.at).await {
            Ok((sender, connection)) => {
                let began = Instant::now();
                tracing::debug!(client = name, at = ?replica.at, "Connected");
                shared.replicas.connected(replica, Some(sender));
                let end = connection.await;
                tracing::debug!(client = name, at = ?replica.at, ?end, "Connection ended");
                if replica.is_gone() {
                    return;
                }
                shared.replicas.connected(replica, None);
                // A controller that drops connections as soon as they are made is not asked in a tight loop.
                if began.elapsed() >= UNREACHABLE_PAUSE {
                    pauses.reset();
                }
                if shared.replicas.is_used() {
                    replica.wanted.notify_one();
                }
                pauses.next(UNREACHABLE_PAUSE)
            }
            Err(error) => {
                shared.metrics.failure(error.reason());
                let is_missed = !shared.replicas.is_connected();
                let is_local = shared.endpoint.addr.addr.is_loopback();
                let cap = if is_missed && (error.is_cheap() || is_local) {
                    UNREACHABLE_PAUSE
                } else {
                    shared.endpoint.backoff.max
                };
                if is_missed {
                    shared.replicas.stale.notify_one();
                }
                let pause = pauses.next(cap);
                shared.log(&error, pause);
                replica.wanted.notify_one();
                pause
            }
        };
        if !replica.is_gone() {
            tokio::time::sleep(pause).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
