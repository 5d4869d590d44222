//! Direct connections: mesh peers dial the proxy's own port to carry opaque traffic, and say in a transport header
//! where it goes.
//!
//! The policy of the port that the header names is the one that applies. Opaque bytes for a port with HTTP policy are
//! looked at first: what is HTTP goes through the routes like any other request.

use super::{
    Admitted, Worker,
    connection::{Connection, ConnectionError, Destination},
    labels::ClientTls,
};
use crate::{
    limit::Place,
    transport::{
        Io, detect,
        header::{self, SessionProtocol, TransportHeader},
    },
};
use bytes::BytesMut;
use linkerd_policy::server::Protocol;
use linkerd_tls::{Accept, Sniffed};
use std::{net::SocketAddr, sync::Arc, time::Instant};
use tokio::net::TcpStream;

/// A connection to the proxy's own port, until its requests or bytes begin.
pub(super) async fn admit(
    worker: &Arc<Worker>,
    mut stream: TcpStream,
    client: SocketAddr,
    dialled: Destination,
    place: Place,
) -> Result<Admitted, ConnectionError> {
    let inbound = &worker.inbound;
    let deadline = Instant::now() + inbound.settings.detect_timeout;
    let mut read = BytesMut::new();
    let sniffed =
        tokio::time::timeout_at(deadline.into(), linkerd_tls::sniff(&mut stream, &mut read))
            .await
            .map_err(|_| ConnectionError::TlsDetectionTimeout)??;
    match sniffed {
        Sniffed::Tls { sni: Some(sni) }
            if sni.eq_ignore_ascii_case(inbound.identity.server_name()) => {}
        _ => return Err(ConnectionError::DirectWithoutIdentity),
    }
    let accepted = worker.handshake(stream, read, Accept::Direct).await?;
    let identity = accepted
        .client
        .ok_or(ConnectionError::DirectWithoutIdentity)?;
    let mut io = Io::terminated(accepted.io);
    let mut rest = BytesMut::new();
    let header = tokio::time::timeout_at(deadline.into(), header::read(&mut io, &mut rest))
        .await
        .map_err(|_| ConnectionError::HeaderTimeout)??;
    io.replay(rest);
    inbound.metrics.direct_connection(&header, &identity);
    if let Some(name) = header.name {
        return Err(ConnectionError::GatewayDomain(name));
    }

    let original = SocketAddr::new(dialled.original.ip(), header.port);
    let destination = worker.reaching(original);
    let policy = inbound.policies.port(header.port);
    policy.ready(inbound.settings.policy_wait).await;
    let snapshot = policy.current().clone();
    let tls = ClientTls::Terminated(Some(identity));
    let connection = Connection::new(worker.clone(), client, tls, destination, policy, place)
        .until(accepted.client_not_after);
    let is_detected = matches!(snapshot.policy.server().protocol, Protocol::Detect { .. });
    let version = match header {
        TransportHeader {
            protocol: Some(SessionProtocol::Http1),
            ..
        } => Some(detect::Http::Http1),
        TransportHeader {
            protocol: Some(SessionProtocol::Http2),
            ..
        } => Some(detect::Http::Http2),
        _ if is_detected && snapshot.policy.server().has_http_policy() => {
            connection.detect(&mut io, &snapshot, deadline).await?
        }
        _ => None,
    };
    Ok(Admitted(connection, io, version))
}
