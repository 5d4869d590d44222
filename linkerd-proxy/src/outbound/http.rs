//! HTTP from an application: one connection of it.

use super::{ConnectionError, connection::Connection, request};
use crate::{
    activity::Activity,
    drain::Phase,
    http::serve::{Limits, drive},
    transport::{Io, detect},
};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
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
    let service = service_fn(move |request| {
        let connection = requests.clone();
        let in_flight = active.begin();
        // On the heap while there is a request: hyper keeps room for one in each connection, and most are idle.
        async move { Box::pin(request::answer(connection, request, in_flight)).await }
    });
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
            let served = http1::Builder::new()
                .half_close(true)
                .max_header_size(settings.max_head)
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades();
            drive(served, limits, drain, Phase::Closing, closing).await
        }
        detect::Http::Http2 => {
            let served = settings
                .http2
                .server()
                .serve_connection(TokioIo::new(io), service);
            drive(served, limits, drain, Phase::Draining, closing).await
        }
    }
    .map_err(ConnectionError::Http)
}
