//! A real sidecar of one of the Pods: when does it decide as was applied?

use super::{Controller, PATIENCE, cluster::Cluster};
use crate::{Failure, process::Process};
use linkerd_tests::say_yes;
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};

/// Where its clients connect, where its application is, and where clients come from: not from 127.0.0.1, which is always let
/// in.
const LISTEN: [u8; 4] = [127, 84, 0, 2];
const APPLICATION: [u8; 4] = [127, 84, 0, 3];
const CLIENT: [u8; 4] = [127, 84, 0, 9];
/// Between two requests: the sidecar is to decide, and not to be the load.
const PAUSE: Duration = Duration::from_micros(200);

/// The sidecar of the Pod `p-0`, with an application that says yes.
pub(super) struct Sidecar {
    process: Process,
    application: JoinHandle<()>,
    clients: SocketAddr,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.application.abort();
    }
}

impl Sidecar {
    /// Starts it and waits until it decides.
    pub(super) async fn start(
        program: &Path,
        controller: &Controller,
        cluster: &Cluster,
        folder: &Path,
    ) -> Result<Self, Failure> {
        let (clients, origin) = ((LISTEN, 8080).into(), (APPLICATION, 8080).into());
        let listener = TcpListener::bind::<SocketAddr>(origin).await?;
        let application = tokio::spawn(say_yes(listener));
        let folder = folder.join("sidecar");
        fs::create_dir(&folder)?;
        fs::write(folder.join("token"), cluster.token().await)?;
        let mut command = Command::new(program);
        let own = |port: u16| SocketAddr::from((LISTEN, port)).to_string();
        for (name, value) in [
            ("IDENTITY_DIR", folder.display().to_string()),
            (
                "IDENTITY_TOKEN_FILE",
                folder.join("token").display().to_string(),
            ),
            ("IDENTITY_TRUST_ANCHORS", controller.trust_anchors()?),
            ("IDENTITY_LOCAL_NAME", cluster.identity()),
            ("IDENTITY_SVC_ADDR", controller.identity.to_string()),
            ("POLICY_SVC_ADDR", controller.policy.to_string()),
            ("POLICY_WORKLOAD", cluster.workload(0)),
            ("DESTINATION_SVC_ADDR", controller.destination.to_string()),
            ("INBOUND_PORTS", "8080".to_owned()),
            ("INBOUND_LISTEN_ADDR", own(4143)),
            ("INBOUND_LISTENERS", format!("{clients}={origin}")),
            ("OUTBOUND_LISTEN_ADDRS", own(4140)),
            ("ADMIN_LISTEN_ADDR", own(4191)),
        ] {
            command.env(format!("LINKERD2_PROXY_{name}"), value);
        }
        let process = Process::start_logged(command, &folder.join("log"))?;
        let sidecar = Self {
            process,
            application,
            clients,
        };
        sidecar.decides(cluster.is_open()).await?;
        Ok(sidecar)
    }

    /// Asks until a request is let in, or is not.
    pub(super) async fn decides(&self, is_open: bool) -> Result<(), Failure> {
        let wanted = if is_open {
            b"HTTP/1.1 200"
        } else {
            b"HTTP/1.1 403"
        };
        let began = Instant::now();
        let mut connection = None;
        let mut last = String::new();
        while began.elapsed() < PATIENCE {
            match self.ask(&mut connection).await {
                Ok(head) if head.starts_with(wanted) => return Ok(()),
                Ok(head) => last = String::from_utf8_lossy(&head).into_owned(),
                Err(error) => (connection, last) = (None, error.to_string()),
            }
            tokio::time::sleep(PAUSE).await;
        }
        let words = self.process.last_words();
        Err(format!("the sidecar does not decide as applied: {last}; {words}").into())
    }

    /// The head of an answer to one more request.
    async fn ask(&self, connection: &mut Option<TcpStream>) -> Result<Vec<u8>, Failure> {
        if connection.is_none() {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((CLIENT, 0)))?;
            *connection = Some(socket.connect(self.clients).await?);
        }
        let stream = connection.as_mut().ok_or("no connection")?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: p\r\n\r\n")
            .await?;
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await?;
        if read == 0 {
            return Err("closed".into());
        }
        answer.truncate(read);
        Ok(answer)
    }
}
