//! The server's side of a handshake. Called by the proxy's inbound side after [`crate::sniff()`] saw our own name, and by
//! the control plane's servers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Credentials, HandshakeError, Id, TRANSPORT_ALPN, trust::time_of, verify::identity_of};

/// The stream that [`accept()`] makes.
pub type ServerStream<IO> = tokio_rustls::server::TlsStream<IO>;

/// Bytes that may wait encrypted in one connection's memory for a slow reader before writes stop.
const WRITE_BUFFER: usize = 64 * 1024;

/// Which kind of connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// To a port of the workload, redirected to us: a client certificate is optional, ALPN offers are ignored.
    Redirected,
    /// To the proxy's own port: a client certificate and ALPN [`TRANSPORT_ALPN`] are required.
    Direct,
}

/// An established connection.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The decrypted stream.
    pub io: ServerStream<IO>,
    /// The client's identity; `None` when it sent no certificate. A certificate that was sent has been verified.
    pub client: Option<Id>,
    /// When the client's certificate expires: a connection that lives longer speaks for a workload that may not.
    pub client_not_after: Option<SystemTime>,
    /// The protocol agreed on; always `None` on redirected connections.
    pub alpn: Option<Vec<u8>>,
}

/// Terminates TLS on `io`, for at most `timeout`.
///
/// Everything a client sends in a handshake is bounded: one message by 64 KiB, its certificate chain by 6 intermediates, at most 2 of one name.
///
/// # Errors
/// [`HandshakeError`]; where the peer can still be told, it gets the TLS alert that says why.
pub async fn accept<IO>(
    credentials: &Credentials,
    mode: Accept,
    io: IO,
    timeout: Duration,
) -> Result<Accepted<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let config = match mode {
        Accept::Redirected => credentials.server_config(),
        Accept::Direct => credentials.direct_config(),
    };
    let handshake = TlsAcceptor::from(Arc::clone(config)).accept_with(io, |connection| {
        connection.set_buffer_limit(Some(WRITE_BUFFER));
    });
    let io = tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| HandshakeError::Timeout(timeout))?
        .map_err(HandshakeError::from_io)?;

    let (_, connection) = io.get_ref();
    let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    let client = leaf
        .map(identity_of)
        .transpose()
        .map_err(HandshakeError::Certificate)?;
    let client_not_after = leaf.and_then(not_after);
    // A client that offers no ALPN at all passes rustls; the peer closes such connections after the handshake too.
    if mode == Accept::Direct && alpn.as_deref() != Some(TRANSPORT_ALPN) {
        return Err(HandshakeError::NoAlpn);
    }
    Ok(Accepted {
        io,
        client,
        client_not_after,
        alpn,
    })
}

pub(crate) fn not_after(leaf: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    Some(time_of(parsed.validity().not_after.timestamp()))
}

#[cfg(test)]
mod tests;
