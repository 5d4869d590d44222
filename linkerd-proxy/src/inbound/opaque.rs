//! Connections that are not HTTP: authorized as a whole, then relayed until an end closes or the policy changes.

use super::connection::{Connection, ConnectionError};
use crate::{
    activity::Pulse,
    transport::{Io, relay::relay},
};
use std::sync::Arc;

/// Authorizes a connection and relays its bytes.
pub(super) async fn serve(connection: Arc<Connection>, mut io: Io) -> Result<(), ConnectionError> {
    let mut changes = connection.policy.changed();
    let view = connection.view();
    if let Err(reason) = connection.authorize_connection(&view) {
        let explain = || {
            let peer = view.peer(connection.client);
            view.policy().explain_connection(&peer).summary()
        };
        connection.deny_connection(&view, reason, explain);
        return Err(ConnectionError::Denied);
    }
    let worker = &connection.worker;
    let origin = worker
        .origin(connection.destination.origin)
        .map_err(|failure| ConnectionError::Origin(Box::new(failure)))?;
    let (mut origin, _origin_open) = origin
        .connect()
        .await
        .map_err(|error| ConnectionError::Origin(Box::new(error.into())))?;
    let transport = view.transport().clone();
    drop(view);
    io.meter(transport.meter());
    let mut open = transport.open();
    let mut drain = worker.drain.clone();

    let pulse = Pulse::new();
    let silence = worker.inbound.settings.tcp_idle;
    if silence.is_some() {
        io.pulse(pulse.clone());
        origin.pulse(pulse.clone());
    }
    let mut bytes = std::pin::pin!(relay(&mut io, &mut origin));
    loop {
        tokio::select! {
            result = &mut bytes => {
                if let Err(error) = &result {
                    open.broken(error.io());
                }
                return Ok(result?);
            }
            changed = changes.changed() => {
                if !connection.still_allowed() {
                    return Err(ConnectionError::Terminated);
                }
                if changed.is_err() {
                    // The store is gone, and with it the proxy.
                    return Ok(());
                }
            }
            () = drain.cut() => return Ok(()),
            () = pulse.silent(silence) => {
                worker.inbound.metrics.connection_refused("idle_timeout");
                return Ok(());
            }
        }
    }
}
