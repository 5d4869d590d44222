//! Handshakes as clients of other makes do them, well and badly.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use rustls::{
    AlertDescription, HandshakeKind,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs::kx_group},
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    LocalIdentity, Prefixed, Sniffed,
    ca::Ca,
    connect,
    provider::{VERSIONS, provider},
    sniff,
    testing::{Clock, PAY, WEB, certified, certified_at, certify, credulous_client, now},
};

const SOON: Duration = Duration::from_secs(5);

fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(64 * 1024)
}

async fn serve(
    us: &LocalIdentity,
    mode: Accept,
    io: DuplexStream,
) -> Result<Accepted<DuplexStream>, HandshakeError> {
    accept(&us.current().unwrap(), mode, io, SOON).await
}

/// A client of another make: gives its stream, or the error it saw during or right after the handshake.
async fn dial(config: rustls::ClientConfig, io: DuplexStream) -> Result<ClientIo, rustls::Error> {
    let name = ServerName::try_from(PAY).unwrap();
    let tls = |error: std::io::Error| match error.get_ref().and_then(|e| e.downcast_ref()) {
        Some(error) => rustls::Error::clone(error),
        None => rustls::Error::General(error.to_string()),
    };
    let mut io = TlsConnector::from(Arc::new(config))
        .connect(name, io)
        .await
        .map_err(tls)?;
    // In TLS 1.3 the client is done before the server has judged its certificate.
    match io.read(&mut [0; 1]).await {
        Ok(_) => Ok(io),
        Err(error) => Err(tls(error)),
    }
}

type ClientIo = tokio_rustls::client::TlsStream<DuplexStream>;

/// Ends the connection cleanly after a good handshake, so that `dial` is done too.
async fn finish(
    accepted: Result<Accepted<DuplexStream>, HandshakeError>,
) -> Result<Accepted<DuplexStream>, HandshakeError> {
    let mut accepted = accepted?;
    accepted.io.shutdown().await.map_err(HandshakeError::Io)?;
    Ok(accepted)
}

async fn meet(
    us: &LocalIdentity,
    mode: Accept,
    client: rustls::ClientConfig,
) -> (
    Result<Accepted<DuplexStream>, HandshakeError>,
    Result<ClientIo, rustls::Error>,
) {
    let (near, far) = pipe();
    tokio::join!(
        async { finish(serve(us, mode, near).await).await },
        dial(client, far)
    )
}

fn anonymous() -> rustls::ClientConfig {
    credulous_client(provider(), VERSIONS, None)
}

#[tokio::test]
async fn peers_of_one_mesh_know_each_other() {
    let ca = Ca::create("root").unwrap();
    let (web, pay) = (certified(&ca, WEB), certified(&ca, PAY));
    let (near, far) = pipe();
    let config = web.client_config();
    let (accepted, client) = tokio::join!(
        serve(&pay, Accept::Redirected, near),
        connect(&config, far, PAY, pay.id(), None)
    );
    let (mut accepted, mut client) = (accepted.unwrap(), client.unwrap());
    assert_eq!(accepted.client.as_ref(), Some(web.id()));
    assert_eq!(
        accepted.client_not_after,
        Some(web.current().unwrap().not_after())
    );
    assert_eq!(accepted.alpn, None);

    client.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    accepted.io.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_accepted_without_an_identity() {
    let ca = Ca::create("root").unwrap();
    let pay = certified(&ca, PAY);
    let (near, far) = pipe();
    let config = certified(&ca, WEB).anchors_client_config();
    let (accepted, client) = tokio::join!(
        serve(&pay, Accept::Redirected, near),
        connect(&config, far, PAY, pay.id(), None)
    );
    assert_eq!(accepted.unwrap().client, None);
    client.unwrap();
}

#[tokio::test]
async fn a_direct_connection_needs_its_protocol_and_a_certificate() {
    let ca = Ca::create("root").unwrap();
    let (web, pay) = (certified(&ca, WEB), certified(&ca, PAY));
    let other = b"h2".as_slice();
    for (config, alpn, want) in [
        (web.client_config(), Some(TRANSPORT_ALPN), Ok(())),
        (web.client_config(), None, Err("no_alpn")),
        (web.client_config(), Some(other), Err("wrong_alpn")),
        (
            web.anchors_client_config(),
            Some(TRANSPORT_ALPN),
            Err("no_certificate"),
        ),
    ] {
        let (near, far) = pipe();
        let (accepted, _client) = tokio::join!(
            serve(&pay, Accept::Direct, near),
            connect(&config, far, PAY, pay.id(), alpn)
        );
        let got = accepted.map(|accepted| assert_eq!(accepted.alpn.as_deref(), alpn));
        assert_eq!(got.map_err(|error| error.reason()), want, "{alpn:?}");
    }
}

#[tokio::test]
async fn a_client_of_a_direct_connection_learns_that_its_protocol_is_wrong() {
    let ca = Ca::create("root").unwrap();
    let mut client = anonymous();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let (_, seen) = meet(&certified(&ca, PAY), Accept::Direct, client).await;
    assert_eq!(
        seen.unwrap_err(),
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
    );
}

#[tokio::test]
async fn alpn_offers_on_redirected_connections_are_ignored() {
    let ca = Ca::create("root").unwrap();
    let mut client = anonymous();
    client.alpn_protocols = vec![b"bogus".to_vec(), b"h2".to_vec()];
    let (accepted, seen) = meet(&certified(&ca, PAY), Accept::Redirected, client).await;
    assert_eq!(accepted.unwrap().alpn, None);
    seen.unwrap();
}

#[tokio::test]
async fn a_client_without_tls_1_3_is_refused_with_the_right_alert() {
    let ca = Ca::create("root").unwrap();
    // The usual provider: ours has no TLS 1.2 suites to offer.
    let usual = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = credulous_client(usual, &[&rustls::version::TLS12], None);
    let (accepted, seen) = meet(&certified(&ca, PAY), Accept::Redirected, client).await;
    assert_eq!(accepted.unwrap_err().reason(), "tls_version");
    assert_eq!(
        seen.unwrap_err(),
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
    );
}

#[tokio::test]
async fn a_client_whose_certificate_expired_is_told_so() {
    let ca = Ca::create("root").unwrap();
    let clock = Clock::at(now());
    let (web, pay) = (
        certified_at(&ca, WEB, &clock),
        certified_at(&ca, PAY, &clock),
    );
    certify(&ca, &web, Duration::from_secs(1));
    clock.set(now() + Duration::from_secs(3));
    let (near, far) = pipe();
    let config = web.client_config();
    let (accepted, client) = tokio::join!(
        serve(&pay, Accept::Redirected, near),
        connect(&config, far, PAY, pay.id(), None)
    );
    assert_eq!(accepted.unwrap_err().reason(), "expired");
    let told = client.unwrap().read(&mut [0; 1]).await.unwrap_err();
    let told = HandshakeError::from_io(told);
    assert!(
        matches!(
            told,
            HandshakeError::Refused(AlertDescription::CertificateExpired)
        ),
        "{told}"
    );
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let ca = Ca::create("root").unwrap();
    let pay = certified(&ca, PAY);
    // A client that would.
    let mut client = anonymous();
    client.resumption = Resumption::in_memory_sessions(16);
    for _ in 0..2 {
        let (accepted, seen) = meet(&pay, Accept::Redirected, client.clone()).await;
        accepted.unwrap();
        let seen = seen.unwrap();
        let connection = seen.get_ref().1;
        assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(connection.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn key_exchange_is_post_quantum_where_the_client_can_and_classic_where_not() {
    let ca = Ca::create("root").unwrap();
    let pay = certified(&ca, PAY);
    for groups in [
        provider().kx_groups.clone(),
        vec![kx_group::X25519],
        vec![kx_group::SECP256R1],
        vec![kx_group::SECP384R1],
        // Offers the classic one first; a retry by the server is not worth a round trip.
        vec![kx_group::X25519, kx_group::X25519MLKEM768],
    ] {
        let first = groups[0].name();
        let only = Arc::new(CryptoProvider {
            kx_groups: groups,
            ..(*provider()).clone()
        });
        let client = credulous_client(only, VERSIONS, None);
        let (accepted, seen) = meet(&pay, Accept::Redirected, client).await;
        accepted.unwrap();
        let seen = seen.unwrap();
        let group = seen.get_ref().1.negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), first);
    }
    assert_eq!(
        provider().kx_groups[0].name(),
        rustls::NamedGroup::X25519MLKEM768
    );
}

#[tokio::test]
async fn what_is_not_a_handshake_is_refused_by_name() {
    let ca = Ca::create("root").unwrap();
    let pay = certified(&ca, PAY);
    for (bytes, reason) in [
        (b"GET / HTTP/1.1\r\n\r\n".as_slice(), "invalid_message"),
        (&[0; 64], "invalid_message"),
        (&[22, 3, 1, 0, 4, 1, 0, 0, 0], "invalid_message"),
        // A ClientHello that says it is 16 MiB long.
        (&[22, 3, 1, 0, 4, 1, 255, 255, 255], "invalid_message"),
        // close_notify before anything else.
        (&[21, 3, 3, 0, 2, 1, 0], "closed"),
        // A fatal alert before anything else.
        (&[21, 3, 3, 0, 2, 2, 40], "refused_by_peer"),
        (&[22, 3, 1, 0, 200, 1], "closed"),
        (&[], "closed"),
    ] {
        let (near, mut far) = pipe();
        far.write_all(bytes).await.unwrap();
        drop(far);
        let error = serve(&pay, Accept::Redirected, near).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{bytes:?}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_dropped_when_the_time_is_up() {
    let ca = Ca::create("root").unwrap();
    let pay = certified(&ca, PAY);
    let (near, _far) = pipe();
    let began = tokio::time::Instant::now();
    let error = serve(&pay, Accept::Redirected, near).await.unwrap_err();
    assert_eq!(error.reason(), "handshake_timeout");
    assert_eq!(began.elapsed(), SOON);
}

/// A stream through which a ClientHello goes in pieces: cut over records at `cut`, one record to a write.
async fn fragmenting(mut client: DuplexStream, mut server: DuplexStream, cut: usize) {
    let mut header = [0; 5];
    client.read_exact(&mut header).await.unwrap();
    let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    client.read_exact(&mut hello).await.unwrap();
    for piece in [&hello[..cut], &hello[cut..]] {
        let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
        server
            .write_all(&[22, 3, 1, length[0], length[1]])
            .await
            .unwrap();
        server.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

#[tokio::test]
async fn a_client_hello_cut_over_records_is_sniffed_and_terminated() {
    let ca = Ca::create("root").unwrap();
    let (web, pay) = (certified(&ca, WEB), certified(&ca, PAY));
    // The name stands at different places; a post-quantum hello is over 1,200 bytes long.
    for cut in [1, 5, 6, 43, 100, 1000] {
        let (client_io, from_client) = pipe();
        let (to_server, mut server_io) = pipe();
        let between = tokio::spawn(fragmenting(from_client, to_server, cut));
        let server = async {
            let mut read = BytesMut::new();
            let sniffed = sniff(&mut server_io, &mut read).await.unwrap();
            let Sniffed::Tls { sni: Some(sni) } = sniffed else {
                panic!("{sniffed:?}");
            };
            assert!(pay.is_own_name(&sni));
            let io = Prefixed::new(read, server_io);
            let current = pay.current().unwrap();
            accept(&current, Accept::Redirected, io, SOON)
                .await
                .unwrap()
                .client
        };
        let config = web.client_config();
        let upper = PAY.to_uppercase();
        let client = connect(&config, client_io, &upper, pay.id(), None);
        let (seen, client) = tokio::join!(server, client);
        assert_eq!(seen.as_ref(), Some(web.id()), "cut at {cut}");
        drop(client);
        between.abort();
    }
}
