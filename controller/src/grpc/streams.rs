//! Open streams: who has one, about what, and which version it was last sent. Shown on the admin server's `/status`.

use crate::listen::Client;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};
use tonic::{Request, Status};

/// What `/status` shows of an open stream.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Connected {
    /// `policy` or `destination`.
    pub(crate) service: &'static str,
    /// The method.
    pub(crate) method: &'static str,
    /// Workload and port, or destination.
    pub(crate) about: String,
    /// Address of the client.
    pub(crate) client: String,
    /// Its identity, where it showed one.
    pub(crate) identity: Option<String>,
    /// Version of the manifests whose answer it was last sent.
    pub(crate) sent_version: u64,
    /// Version of the manifests that what it was sent is still right for.
    pub(crate) current_version: u64,
    /// Messages sent.
    pub(crate) messages: u64,
    /// When it began, in seconds since 1970.
    pub(crate) since: u64,
}

/// All open streams, and how many there may be.
#[derive(Debug)]
pub(crate) struct Streams {
    limit: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    streams: BTreeMap<u64, Connected>,
}

impl Streams {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            open: Mutex::default(),
        })
    }

    /// Takes a place for a stream.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when there are as many as may be.
    pub(crate) fn begin<T>(
        self: &Arc<Self>,
        (service, method): (&'static str, &'static str),
        about: String,
        request: &Request<T>,
    ) -> Result<Place, Status> {
        let client = request.extensions().get::<Client>();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut open = self.lock();
        if open.streams.len() >= self.limit {
            let text = format!(
                "{} streams are open, and no more may be (--max-streams)",
                self.limit
            );
            return Err(Status::resource_exhausted(text));
        }
        let number = open.next;
        open.next += 1;
        let stream = Connected {
            service,
            method,
            about,
            client: client
                .map(|client| client.addr.to_string())
                .unwrap_or_default(),
            identity: client.and_then(|client| client.identity.as_ref().map(ToString::to_string)),
            sent_version: 0,
            current_version: 0,
            messages: 0,
            since: since.unwrap_or_default().as_secs(),
        };
        open.streams.insert(number, stream);
        drop(open);
        Ok(Place {
            streams: self.clone(),
            number,
        })
    }

    /// How many streams there are, and the first of them.
    pub(crate) fn list(&self, most: usize) -> (usize, Vec<Connected>) {
        let open = self.lock();
        let streams = open.streams.values().take(most).cloned().collect();
        (open.streams.len(), streams)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open stream's place; given up when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    streams: Arc<Streams>,
    number: u64,
}

impl Place {
    /// The client has what version `version` says, after `messages` more.
    pub(crate) fn told(&self, version: u64, messages: u64) {
        if let Some(stream) = self.streams.lock().streams.get_mut(&self.number) {
            stream.current_version = version;
            stream.messages += messages;
            if messages > 0 {
                stream.sent_version = version;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.lock().streams.remove(&self.number);
    }
}
