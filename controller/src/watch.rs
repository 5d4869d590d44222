//! Keeps the snapshot in step with the directories. Run by [`crate::run`].

use crate::{
    metrics::{ControllerMetrics, Shown},
    source::{Problem, Snapshot, Source, Stamp},
};
use notify::{
    Event, EventKind, Watcher as _,
    event::{AccessKind, AccessMode},
};
use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};

/// How long changes are gathered: editors write a file in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// Files that never stand still are read as they are after so many times [`SETTLE`].
const MAX_SETTLES: u32 = 40;
/// After so many pauses everything is read, even if the file system says that nothing changed.
const FULL_EVERY: u32 = 12;
/// Most problems that one reading puts into the log; `/status` has all of them.
const MAX_LOGGED: usize = 100;

/// What follows the files.
pub(crate) struct Watch {
    pub(crate) source: Source,
    pub(crate) directories: Vec<PathBuf>,
    /// How often to look, besides when told.
    pub(crate) rescan: Duration,
    pub(crate) publish: watch::Sender<Arc<Snapshot>>,
    pub(crate) report: Report,
}

impl Watch {
    /// Reads the directories when something in them changes, and from time to time in case that was missed.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        let touched = Arc::new(Notify::new());
        let tell = touched.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if is_change(&event) {
                tell.notify_one();
            }
        });
        let mut watcher = watcher.map_err(io::Error::other)?;
        let mut unwatched = self.directories.clone();
        let mut stamp = None;
        let mut pauses = 0_u32;
        loop {
            unwatched.retain(|directory| {
                let watched = watcher.watch(directory, notify::RecursiveMode::Recursive);
                // Said once, before anything was read.
                if let (Err(error), None) = (&watched, &stamp) {
                    tracing::warn!(directory = %directory.display(), %error, "Not watched; read every {:?} instead, until it can be", self.rescan);
                }
                watched.is_err()
            });
            let is_told = tokio::time::timeout(self.rescan, touched.notified())
                .await
                .is_ok();
            if !is_told {
                pauses = pauses.wrapping_add(1);
            }
            let is_full = is_told || pauses.is_multiple_of(FULL_EVERY);
            let now = Some(self.settled().await?);
            let (source, snapshot) = tokio::task::spawn_blocking({
                let has_changed = now != stamp;
                move || {
                    let snapshot = (is_full || has_changed).then(|| self.source.refresh());
                    (self.source, snapshot.flatten())
                }
            })
            .await
            .map_err(io::Error::other)?;
            (self.source, stamp) = (source, now);
            if let Some(snapshot) = snapshot {
                self.report.snapshot(&snapshot);
                self.publish.send_replace(Arc::new(snapshot));
            }
        }
    }
}

impl Watch {
    /// What the file system says, once it has said the same for [`SETTLE`]: a file that is being written is not read.
    async fn settled(&self) -> io::Result<Stamp> {
        let mut last = self.stamp().await?;
        for _ in 0..MAX_SETTLES {
            tokio::time::sleep(SETTLE).await;
            let now = self.stamp().await?;
            if now == last {
                break;
            }
            last = now;
        }
        Ok(last)
    }

    async fn stamp(&self) -> io::Result<Stamp> {
        let directories = self.directories.clone();
        tokio::task::spawn_blocking(move || Stamp::of(&directories))
            .await
            .map_err(io::Error::other)
    }
}

/// Whether an event can mean another content. Reading the directory causes events too, which must not lead to the next
/// reading.
fn is_change(event: &notify::Result<Event>) -> bool {
    match event.as_ref().map(|event| event.kind) {
        Ok(EventKind::Access(kind)) => kind == AccessKind::Close(AccessMode::Write),
        // A queue that ran over is an error, or an event that asks for a rescan.
        Ok(_) | Err(_) => true,
    }
}

/// What is said of each reading: metrics, and a line for each problem that is new.
pub(crate) struct Report {
    pub(crate) metrics: Arc<ControllerMetrics>,
    shown: Shown,
    shown_lint: Shown,
    known: BTreeSet<Problem>,
    is_directory: bool,
}

impl Report {
    pub(crate) fn new(metrics: Arc<ControllerMetrics>, is_directory: bool) -> Self {
        Self {
            metrics,
            is_directory,
            shown: Shown::default(),
            shown_lint: Shown::default(),
            known: BTreeSet::new(),
        }
    }

    pub(crate) fn snapshot(&mut self, snapshot: &Snapshot) {
        self.metrics.show(snapshot, &mut self.shown);
        if self.is_directory {
            self.metrics.show_lint(snapshot, &mut self.shown_lint);
        }
        self.said(snapshot);
        let now: BTreeSet<_> = snapshot.problems.iter().cloned().collect();
        for problem in now.difference(&self.known).take(MAX_LOGGED) {
            tracing::warn!("{problem}");
        }
        for problem in self.known.difference(&now).take(MAX_LOGGED) {
            tracing::info!(
                file = problem.file,
                document = problem.document,
                field = problem.field,
                "No longer wrong"
            );
        }
        self.known = now;
    }

    /// A line for each reading of a directory. Objects of an API server change all the time: only the first is news.
    fn said(&self, snapshot: &Snapshot) {
        let (version, problems) = (snapshot.version, snapshot.problems.len());
        let counts = snapshot.index.counts();
        let workloads = counts.pods + counts.external_workloads;
        let services = counts.services;
        if self.is_directory {
            tracing::info!(version, workloads, services, problems, "Manifests read");
        } else if version == 1 {
            tracing::info!(workloads, services, problems, "Objects listed");
        } else {
            tracing::debug!(version, workloads, services, problems, "Objects changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, DataChange, ModifyKind};

    #[test]
    fn reading_the_directory_does_not_lead_to_reading_it_again() {
        let event = |kind| Ok(Event::new(kind));
        for read in [
            AccessKind::Open(AccessMode::Any),
            AccessKind::Read,
            AccessKind::Close(AccessMode::Read),
        ] {
            assert!(!is_change(&event(EventKind::Access(read))), "{read:?}");
        }
        for change in [
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
            EventKind::Other,
        ] {
            assert!(is_change(&event(change)), "{change:?}");
        }
        assert!(is_change(&Err(notify::Error::generic("overflow"))));
    }
}
