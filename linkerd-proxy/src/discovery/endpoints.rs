//! The endpoints of a name: `Destination.Get` as a live set. Used by balancers.
//!
//! An update that cannot be understood is refused and the last good set stays; when the control plane is away, what it
//! said last stays in use for as long as anybody balances over it.

use super::{
    client::ControlClient,
    outbound::Mtls,
    stream::{self, End, Listener},
};
use crate::config::StreamLimits;
use arc_swap::{ArcSwap, Guard};
use linkerd_metrics::{self as metrics, Counter};
use linkerd_policy::{
    outbound::Endpoint,
    proto::{self, InvalidMessage},
};
use linkerd2_proxy_api::destination::{GetDestination, Update, update};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};
use tonic::{Code, metadata::MetadataMap};

/// Most endpoints of one name; an update beyond them is refused.
const MAX_ENDPOINTS: usize = 100_000;

/// The endpoints of a name at one moment.
#[derive(Debug)]
pub(crate) struct EndpointSet {
    /// Grows with each change.
    pub(crate) version: u64,
    /// In the order of their addresses. One that did not change is the same one as before.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// The control plane has answered.
    pub(crate) known: bool,
    /// The name exists, as far as the control plane says.
    pub(crate) exists: bool,
    /// When it was received.
    pub(crate) received: SystemTime,
}

/// A name whose endpoints are watched, until this goes.
#[derive(Debug)]
pub(crate) struct EndpointWatch {
    state: Arc<State>,
    task: Option<AbortHandle>,
}

#[derive(Debug)]
struct State {
    path: String,
    current: ArcSwap<EndpointSet>,
    changed: watch::Sender<u64>,
    is_connected: AtomicBool,
    /// Whether traffic to this name must be mutual TLS, whatever destination it is a backend of.
    mtls: ArcSwap<Mtls>,
}

impl Drop for EndpointWatch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl State {
    fn new(path: &str) -> Arc<Self> {
        let nothing = EndpointSet {
            version: 0,
            endpoints: Vec::new(),
            known: false,
            exists: false,
            received: SystemTime::now(),
        };
        Arc::new(Self {
            path: path.to_owned(),
            current: ArcSwap::new(Arc::new(nothing)),
            changed: watch::channel(0).0,
            is_connected: AtomicBool::new(false),
            mtls: ArcSwap::default(),
        })
    }

    fn install(&self, endpoints: Vec<Arc<Endpoint>>, exists: bool) {
        let current = self.current.load();
        if current.known && current.exists == exists && same(&current.endpoints, &endpoints) {
            return;
        }
        let version = current.version.saturating_add(1);
        self.current.store(Arc::new(EndpointSet {
            version,
            endpoints,
            known: true,
            exists,
            received: SystemTime::now(),
        }));
        self.changed.send_replace(version);
    }
}

fn same(a: &[Arc<Endpoint>], b: &[Arc<Endpoint>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

impl EndpointWatch {
    /// Watches `name:port`, on the runtime of discovery.
    pub(super) fn start(
        path: &str,
        context: String,
        client: ControlClient,
        limits: StreamLimits,
        runtime: &Handle,
        refused: metrics::Handle<Counter>,
    ) -> Arc<Self> {
        let state = State::new(path);
        let request = GetDestination {
            scheme: String::new(),
            path: path.to_owned(),
            context_token: context,
        };
        const GET: &str = "/io.linkerd.proxy.destination.Destination/Get";
        let open = move |client| stream::open(client, GET, request.clone());
        let updates = Updates {
            state: state.clone(),
            known: BTreeMap::new(),
            is_fresh: false,
            refused,
        };
        let task = runtime.spawn(stream::follow(client, limits, open, updates));
        Arc::new(Self {
            state,
            task: Some(task.abort_handle()),
        })
    }

    /// Endpoints that do not change.
    #[cfg(test)]
    pub(crate) fn fixed(path: &str, endpoints: Vec<Endpoint>) -> Arc<Self> {
        let watch = Self {
            state: State::new(path),
            task: None,
        };
        watch.set(endpoints);
        Arc::new(watch)
    }

    /// Other endpoints, for tests.
    #[cfg(test)]
    pub(crate) fn set(&self, endpoints: Vec<Endpoint>) {
        let known = self.state.current.load();
        let endpoints = endpoints.into_iter().map(|endpoint| {
            let before = known.endpoints.iter().find(|known| ***known == endpoint);
            before.cloned().unwrap_or_else(|| Arc::new(endpoint))
        });
        self.state.install(endpoints.collect(), true);
        self.state.is_connected.store(true, Ordering::Relaxed);
    }

    /// `name:port`.
    pub(crate) fn path(&self) -> &str {
        &self.state.path
    }

    /// What is known now.
    pub(crate) fn current(&self) -> Guard<Arc<EndpointSet>> {
        self.state.current.load()
    }

    /// What the name wants of mutual TLS.
    pub(crate) fn mtls(&self) -> Guard<Arc<Mtls>> {
        self.state.mtls.load()
    }

    /// The version, as it changes.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.state.changed.subscribe()
    }

    /// The control plane tells of changes now.
    pub(crate) fn is_connected(&self) -> bool {
        self.state.is_connected.load(Ordering::Relaxed)
    }
}

/// What the streams of one name say.
struct Updates {
    state: Arc<State>,
    known: BTreeMap<SocketAddr, Arc<Endpoint>>,
    /// The stream has said nothing yet: what it adds first is all there is.
    is_fresh: bool,
    refused: metrics::Handle<Counter>,
}

impl Listener<Update> for Updates {
    fn opened(&mut self, metadata: &MetadataMap) {
        self.is_fresh = true;
        self.state.is_connected.store(true, Ordering::Relaxed);
        // In force before the first endpoint, and for as long as this is what was said last.
        self.state.mtls.store(Arc::new(Mtls::of_metadata(metadata)));
    }

    fn message(&mut self, update: Update) {
        match self.apply(update) {
            Ok(exists) => {
                let endpoints = self.known.values().cloned().collect();
                self.state.install(endpoints, exists);
            }
            Err(error) => {
                self.refused.inc();
                let path = &self.state.path;
                tracing::warn!(%path, %error, "Endpoint update refused: the last good one stays");
            }
        }
    }

    fn ended(&mut self, end: &End) -> bool {
        // Who says that there is no such name is not away.
        let is_answer = matches!(
            end.code(),
            Some(Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition)
        );
        self.state.is_connected.store(is_answer, Ordering::Relaxed);
        let path = &self.state.path;
        tracing::debug!(%path, reason = %end, "Endpoint stream ended");
        match end.code() {
            // There is no such name; it may come to be.
            Some(Code::NotFound) => {
                self.known.clear();
                self.state.install(Vec::new(), false);
                true
            }
            Some(Code::InvalidArgument | Code::FailedPrecondition) => {
                tracing::warn!(%path, reason = %end, "The control plane does not take this name");
                self.known.clear();
                self.state.install(Vec::new(), false);
                // What is refused now may be right after a change of the control plane's; asked again at leisure.
                true
            }
            _ => true,
        }
    }
}

impl Updates {
    /// Applies an update; a refused one changes nothing. Tells whether the name exists.
    fn apply(&mut self, update: Update) -> Result<bool, InvalidMessage> {
        match update.update {
            Some(update::Update::Add(set)) => {
                let labels = set.metric_labels;
                let added = set
                    .addrs
                    .into_iter()
                    .enumerate()
                    .map(|(at, addr)| {
                        proto::endpoint_from_api(addr, &labels)
                            .map_err(|error| within("add", at, error))
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                let before = if self.is_fresh { 0 } else { self.known.len() };
                if before + added.len() > MAX_ENDPOINTS {
                    return Err(InvalidMessage {
                        field: "add.addrs".into(),
                        reason: format!("more than {MAX_ENDPOINTS} endpoints of one name"),
                    });
                }
                let mut known = std::mem::take(&mut self.known);
                if std::mem::take(&mut self.is_fresh) {
                    // A stream that was opened again begins with everything.
                    let kept = added.iter().filter_map(|endpoint| {
                        Some((endpoint.address, known.remove(&endpoint.address)?))
                    });
                    let kept: BTreeMap<_, _> = kept.collect();
                    known = kept;
                }
                for endpoint in added {
                    let is_same = known
                        .get(&endpoint.address)
                        .is_some_and(|known| **known == endpoint);
                    if !is_same {
                        known.insert(endpoint.address, Arc::new(endpoint));
                    }
                }
                self.known = known;
                Ok(true)
            }
            Some(update::Update::Remove(set)) => {
                let gone = set
                    .addrs
                    .into_iter()
                    .enumerate()
                    .map(|(at, addr)| {
                        proto::socket_address(Some(addr))
                            .map_err(|error| within("remove", at, error))
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                for address in gone {
                    self.known.remove(&address);
                }
                Ok(true)
            }
            Some(update::Update::NoEndpoints(none)) => {
                self.known.clear();
                self.is_fresh = false;
                Ok(none.exists)
            }
            None => Err(InvalidMessage {
                field: "update".into(),
                reason: "missing, or of a kind this version does not know".into(),
            }),
        }
    }
}

fn within(what: &str, at: usize, error: InvalidMessage) -> InvalidMessage {
    InvalidMessage {
        field: format!("{what}.addrs[{at}].{}", error.field),
        reason: error.reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linkerd2_proxy_api::destination::{
        AddrSet, NoEndpoints, TlsIdentity, WeightedAddr, WeightedAddrSet,
    };

    fn addr(port: u16) -> WeightedAddr {
        WeightedAddr {
            addr: Some(proto::tcp_address(([127, 0, 0, 1], port).into())),
            weight: 10_000,
            ..WeightedAddr::default()
        }
    }

    fn add(addrs: Vec<WeightedAddr>) -> Update {
        Update {
            update: Some(update::Update::Add(WeightedAddrSet {
                addrs,
                ..WeightedAddrSet::default()
            })),
        }
    }

    fn updates() -> Updates {
        Updates {
            state: State::new("web:80"),
            known: BTreeMap::new(),
            is_fresh: true,
            refused: metrics::Registry::new(metrics::Options::default())
                .counters(&metrics::describe::OUTBOUND_DISCOVERY_UPDATES_REFUSED_TOTAL)
                .get(&metrics::Labels::new()),
        }
    }

    fn ports(updates: &Updates) -> Vec<u16> {
        let set = updates.state.current.load();
        set.endpoints.iter().map(|e| e.address.port()).collect()
    }

    #[test]
    fn a_bad_update_leaves_what_is_known() {
        let mut updates = updates();
        updates.message(add(vec![addr(1), addr(2)]));
        assert_eq!(ports(&updates), [1, 2]);
        let mut no_port = addr(3);
        no_port.addr.as_mut().unwrap().port = 70_000;
        for bad in [
            Update::default(),
            add(vec![addr(3), no_port]),
            add(vec![WeightedAddr::default()]),
            add(vec![WeightedAddr {
                tls_identity: Some(TlsIdentity::default()),
                ..addr(3)
            }]),
            Update {
                update: Some(update::Update::Remove(AddrSet {
                    addrs: vec![Default::default()],
                })),
            },
        ] {
            updates.message(bad);
            assert_eq!(ports(&updates), [1, 2]);
        }
    }

    #[test]
    fn a_stream_that_was_opened_again_begins_with_everything_and_keeps_what_is_the_same() {
        let mut updates = updates();
        updates.message(add(vec![addr(1), addr(2)]));
        let before = updates.state.current.load_full();
        updates.opened(&MetadataMap::new());
        updates.message(add(vec![addr(2), addr(3)]));
        assert_eq!(ports(&updates), [2, 3]);
        let after = updates.state.current.load_full();
        assert!(Arc::ptr_eq(&before.endpoints[1], &after.endpoints[0]));
        updates.message(add(vec![addr(4)]));
        assert_eq!(ports(&updates), [2, 3, 4]);
        let version = updates.state.current.load().version;
        updates.message(add(vec![addr(4)]));
        assert_eq!(
            updates.state.current.load().version,
            version,
            "nothing changed"
        );
        updates.message(Update {
            update: Some(update::Update::NoEndpoints(NoEndpoints { exists: true })),
        });
        assert!(ports(&updates).is_empty());
    }

    #[test]
    fn endpoints_stay_while_the_control_plane_is_away_and_go_when_the_name_does() {
        let mut updates = updates();
        updates.message(add(vec![addr(1)]));
        assert!(updates.ended(&End::Status(tonic::Status::unavailable("gone"))));
        assert_eq!(ports(&updates), [1]);
        assert!(!updates.state.is_connected.load(Ordering::Relaxed));
        updates.ended(&End::Status(tonic::Status::not_found("no such service")));
        assert!(ports(&updates).is_empty());
        assert!(!updates.state.current.load().exists);
    }
}
