//! What a request became when the application switched protocols (WebSocket, `CONNECT`): bytes both ways.
//!
//! HTTP has ended by then, the client's connection has not: it counts as open, takes its place among the connections
//! there may be, and may be as silent as any connection that is not HTTP.

use super::connection::Connection;
use crate::{
    activity::Pulse,
    http::client,
    transport::{Io, relay::relay},
};
use bytes::BytesMut;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use std::{io, sync::Arc};

/// Carries bytes both ways until an end closes. Holds the client's connection.
pub(super) async fn carry(
    connection: Arc<Connection>,
    client: OnUpgrade,
    origin: Box<client::Connection>,
) {
    if let Err(error) = ends(&connection, client, origin).await {
        tracing::debug!(client = %connection.client, %error, "An upgraded connection broke off");
    }
}

async fn ends(
    connection: &Connection,
    client: OnUpgrade,
    origin: Box<client::Connection>,
) -> io::Result<()> {
    let (client, origin) = tokio::join!(client, origin.into_io());
    let client = client.map_err(io::Error::other)?;
    let Ok(Parts { io, read_buf, .. }) = client.downcast::<TokioIo<Io>>() else {
        return Err(io::Error::other("not a connection of this proxy"));
    };
    let (mut client, mut origin) = (io.into_inner(), origin?);
    client.replay(BytesMut::from(read_buf));
    let pulse = Pulse::new();
    let silence = connection.worker.inbound.settings.tcp_idle;
    if silence.is_some() {
        client.pulse(pulse.clone());
        origin.pulse(pulse.clone());
    }
    let mut drain = connection.worker.drain.clone();
    tokio::select! {
        result = relay(&mut client, &mut origin) => result.map_err(io::Error::other),
        () = drain.cut() => Ok(()),
        () = pulse.silent(silence) => {
            connection.worker.inbound.metrics.connection_refused("idle_timeout");
            Ok(())
        }
    }
}
