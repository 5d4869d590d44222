//! The client's side of a handshake. Called by the proxy's outbound side and for connections to the control plane.

use std::sync::Arc;

use rustls_pki_types::{DnsName, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::{ClientConfig, HandshakeError, Id};

/// The stream that [`connect()`] makes.
pub type ClientStream<IO> = tokio_rustls::client::TlsStream<IO>;

/// Originates TLS on `io`.
///
/// The server must show a certificate that leads to our anchors and names `expected`; `server_name` is only what is
/// asked for in the SNI, and has no part in the decision. The check is made inside the handshake, so a server that is
/// someone else gets neither our certificate nor a byte of data. The caller sets the deadline.
///
/// # Errors
/// [`HandshakeError`].
pub async fn connect<IO>(
    config: &Arc<ClientConfig>,
    io: IO,
    server_name: &str,
    expected: &Id,
    alpn: Option<&[u8]>,
) -> Result<ClientStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let name = DnsName::try_from(server_name)
        .map_err(|_| HandshakeError::ServerName(crate::error::shown(server_name)))?
        .to_owned();
    let config = config.expecting(expected, alpn);
    let io = TlsConnector::from(config)
        .connect(ServerName::DnsName(name), io)
        .await
        .map_err(HandshakeError::from_io)?;
    // A server that ignores ALPN would read our first bytes as another protocol.
    if alpn.is_some() && io.get_ref().1.alpn_protocol() != alpn {
        return Err(HandshakeError::WrongAlpn);
    }
    Ok(io)
}
