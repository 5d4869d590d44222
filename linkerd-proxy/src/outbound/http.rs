//! HTTP from an application: one connection of it.

use super::{ConnectionError, connection::Connection, request};
use crate::{
    activity::Activity,
    drain::Phase,
    http::{
        http2::Serving,
        serve::{Limits, drive, http1},
    },
    transport::{Io, detect},
};
use std::sync::Arc;

/// Serves the application's HTTP in one version until its connection ends.
pub(super) async fn serve(
    connection: Arc<Connection>,
    mut io: Io,
    version: detect::Http,
) -> Result<(), ConnectionError> {
    let activity = Activity::new();
    if version == detect::Http::Http1 {
        // In HTTP/2 bytes without a request are no head that is owed: pings, windows and settings come at any time.
        io.watch(activity.clone());
    }
    let places = connection.worker.outbound.connections.clone();
    io.linger(connection.worker.drain.clone(), places);
    let requests = connection.clone();
    let active = activity.clone();
    let answer =
        move |request, interim| request::answer(requests.clone(), request, interim, active.begin());
    let settings = &connection.worker.outbound.settings;
    let limits = Limits {
        settings: settings.limits,
        activity: &activity,
        reached: &|limit| connection.worker.outbound.metrics.refused(limit),
    };
    let drain = connection.worker.drain.clone();
    let closing = connection.closing();
    match version {
        detect::Http::Http1 => {
            let served = http1(io, settings.max_head, answer);
            drive(served, limits, drain, Phase::Closing, closing).await
        }
        detect::Http::Http2 => {
            let served = Serving::new(io, &settings.http2, answer);
            // Apart from connections of HTTP/1, which need less room.
            Box::pin(drive(served, limits, drain, Phase::Draining, closing)).await
        }
    }
    .map_err(ConnectionError::Http)
}
