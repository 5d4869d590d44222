//! The network between the workloads of one host.
//!
//! On a real network a sidecar sees clients' addresses. On one host every connection to a loopback address comes from
//! 127.0.0.1, unless the client binds another address; and 127.0.0.1 is what policy lets in everywhere, since it means
//! the workload itself. So a workload's address is held here, and what arrives is carried to its sidecar from the
//! client's own address, or from [`HOST`] for clients that did not choose one. Bytes pass unchanged: mTLS is between
//! the sidecars.

use crate::{mesh::Member, outcome::Failure};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// What clients of this host have as address if they choose none.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(127, 42, 0, 1);

/// Carries connections until it is dropped.
#[derive(Debug)]
pub(super) struct Wire(Vec<tokio::task::JoinHandle<()>>);

impl Wire {
    /// Holds the ports of a workload's address: those of the application, the proxy's and the admin server's.
    pub(super) async fn lay(members: &[Member]) -> Result<Self, Failure> {
        let mut wire = Self(Vec::new());
        for member in members {
            for port in member.ports().chain([4143, 4191]) {
                let address = SocketAddr::from((member.at.workload, port));
                let listener = TcpListener::bind(address).await.map_err(|error| {
                    Failure::new(format!(
                        "cannot listen on {address} for {}: {error}",
                        member.name()
                    ))
                    .hint("stop what runs there (another `linkerd run`?); ss -ltnp shows it")
                })?;
                let sidecar = SocketAddr::from((member.at.sidecar, port));
                wire.0.push(tokio::spawn(accept(listener, sidecar)));
            }
        }
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn accept(listener: TcpListener, sidecar: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => drop(tokio::spawn(carry(stream, client, sidecar))),
            // Out of descriptors: wait for some to be free.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn carry(mut stream: TcpStream, client: SocketAddr, sidecar: SocketAddr) {
    // Either side may end at any time; the other one then sees the end.
    let Ok(mut far) = dial(client, sidecar).await else {
        return;
    };
    drop(tokio::io::copy_bidirectional(&mut stream, &mut far).await);
}

async fn dial(client: SocketAddr, sidecar: SocketAddr) -> std::io::Result<TcpStream> {
    let from = match client.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => IpAddr::V4(HOST),
        ip => ip,
    };
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = socket.connect(sidecar).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_client_keeps_its_address_and_is_never_taken_for_the_workload_itself() {
        let sidecar = TcpListener::bind("127.42.253.9:0").await.unwrap();
        let wire = TcpListener::bind("127.42.252.9:0").await.unwrap();
        let address = wire.local_addr().unwrap();
        let task = tokio::spawn(accept(wire, sidecar.local_addr().unwrap()));
        for (from, seen) in [
            ("127.0.0.1", HOST),
            ("127.42.200.5", Ipv4Addr::new(127, 42, 200, 5)),
        ] {
            let socket = TcpSocket::new_v4().unwrap();
            socket
                .bind(SocketAddr::new(from.parse().unwrap(), 0))
                .unwrap();
            let mut client = socket.connect(address).await.unwrap();
            let (mut stream, peer) = sidecar.accept().await.unwrap();
            assert_eq!(peer.ip(), IpAddr::V4(seen));
            client.write_all(b"hello").await.unwrap();
            client.shutdown().await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "hello");
        }
        task.abort();
    }
}
