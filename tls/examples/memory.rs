//! What one established mTLS server connection holds in memory, measured: the growth of resident memory over thousands of
//! connections, idle and after traffic in full records. Prints KiB for each.
//!
//! `cargo run -p linkerd-tls --example memory`; only the server's side is kept, the client's is dropped at once. Sockets,
//! tasks and HTTP are not in it.

use std::{
    error::Error,
    io::{self, Read, Write as _},
    sync::Arc,
    time::Duration,
};

use linkerd_tls::{KeyMaterial, LocalIdentity, ca::Ca};
use rustls::{ClientConnection, ServerConnection};

type Failure = Box<dyn Error>;

const NAME: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";
const WARM: usize = 500;
const COUNTED: usize = 4000;
/// The largest record.
const RECORD: usize = 16 * 1024;

fn main() -> Result<(), Failure> {
    let ca = Ca::create("root")?;
    let identity = LocalIdentity::new(
        NAME.parse()?,
        NAME,
        KeyMaterial::create(NAME)?,
        ca.anchors().clone(),
    )?;
    let hour = Duration::from_secs(3600);
    let issued = ca.issue(identity.csr(), NAME, hour, Duration::ZERO)?;
    identity.install(issued.leaf_der, issued.chain, issued.not_after)?;

    // All are kept to the end, so that none is made of another's memory.
    let mut kept = Vec::with_capacity(2 * (WARM + COUNTED));
    for (what, traffic) in [("after the handshake", 0), ("after 64 KiB each way", 4)] {
        for _ in 0..WARM {
            kept.push(established(&identity, traffic)?);
        }
        let before = resident_kib()?;
        for _ in 0..COUNTED {
            kept.push(established(&identity, traffic)?);
        }
        let grown = resident_kib()?.saturating_sub(before);
        let each = f64::from(u32::try_from(grown)?) / f64::from(u32::try_from(COUNTED)?);
        println!("{what}: {each:.1} KiB for each connection");
    }
    println!(
        "of that, {} bytes are the connection's own fields",
        size_of::<ServerConnection>()
    );
    Ok(())
}

/// The server's side of a connection over which `records` full records went each way.
fn established(identity: &LocalIdentity, records: usize) -> Result<ServerConnection, Failure> {
    let current = identity.current().ok_or("not certified")?;
    let mut server = ServerConnection::new(Arc::clone(current.server_config()))?;
    let config = current.client_config().for_server(identity.id());
    let mut client = ClientConnection::new(config, NAME.try_into()?)?;
    let mut sink = vec![0; RECORD];
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() {
        carry(&mut client, &mut server)?;
    }
    for _ in 0..records {
        client.writer().write_all(&sink)?;
        carry(&mut client, &mut server)?;
        server.reader().read_exact(&mut sink)?;
        server.writer().write_all(&sink)?;
        carry(&mut client, &mut server)?;
        client.reader().read_exact(&mut sink)?;
    }
    // As tokio-rustls does before it waits; it gives back what the last records needed.
    let nothing = server.read_tls(&mut Nothing);
    debug_assert!(nothing.is_err());
    Ok(server)
}

/// A socket with nothing to read.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Carries what both have to say to the other.
fn carry(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), Failure> {
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire)?;
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        server.read_tls(&mut rest)?;
        server.process_new_packets()?;
    }
    let mut wire = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut wire)?;
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        client.read_tls(&mut rest)?;
        client.process_new_packets()?;
    }
    Ok(())
}

fn resident_kib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS")?;
    let kib = line.trim().trim_end_matches("kB").trim();
    Ok(kib.parse()?)
}
