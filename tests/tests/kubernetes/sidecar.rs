//! The real sidecar of a Pod, under a control plane whose objects are in an API server.

use crate::{
    control_plane::ControlPlane,
    policy::{server, shop},
    server::ApiServer,
};
use http::StatusCode;
pub(crate) use linkerd_tests::say_yes;
use linkerd_tests::{eventually, get, one_http1, page};
use serde_json::json;
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};

/// The sidecar of the Pod `web`, in front of an application that says yes; both end with the test.
pub(crate) struct Sidecar {
    process: Child,
    place: u8,
    _folder: TempDir,
    application: tokio::task::JoinHandle<()>,
}

/// Where its clients connect, where its application is, and its admin server: of each test its own place.
fn clients(place: u8) -> SocketAddr {
    SocketAddr::from(([127, 77, place, 2], 8080))
}

fn application(place: u8) -> SocketAddr {
    SocketAddr::from(([127, 77, place, 3], 8080))
}

fn admin(place: u8) -> SocketAddr {
    SocketAddr::from(([127, 77, place, 2], 4191))
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.application.abort();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Sidecar {
    pub(crate) async fn start(server: &ApiServer, plane: &ControlPlane, place: u8) -> Self {
        Self::start_with(server, plane, place, &[]).await
    }

    /// As [`Sidecar::start`], with more variables.
    pub(crate) async fn start_with(
        server: &ApiServer,
        plane: &ControlPlane,
        place: u8,
        more: &[(&str, String)],
    ) -> Self {
        let listener = TcpListener::bind(application(place)).await;
        let application = tokio::spawn(say_yes(listener.unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let token = server.token("shop", "web", "identity.l5d.io").await;
        fs::write(folder.path().join("token"), token).unwrap();
        let process = spawn(folder.path(), plane, place, more);
        let sidecar = Self {
            process,
            place,
            _folder: folder,
            application,
        };
        eventually("the sidecar's readiness", async || {
            let (status, _) = page(sidecar.admin(), "/ready").await?;
            (status == 200).then_some(())
        })
        .await;
        sidecar
    }

    /// Its admin server.
    pub(crate) fn admin(&self) -> SocketAddr {
        admin(self.place)
    }

    /// Waits until it answers so.
    pub(crate) async fn becomes(&self, wanted: u16) {
        eventually(&format!("{wanted}"), async || {
            (self.status().await == wanted).then_some(())
        })
        .await;
    }

    async fn status(&self) -> StatusCode {
        // Not from 127.0.0.1, which is always let in.
        let socket = TcpSocket::new_v4().unwrap();
        let own = SocketAddr::from(([127, 77, self.place, 9], 0));
        socket.bind(own).unwrap();
        let stream = socket.connect(clients(self.place)).await.unwrap();
        one_http1(stream, get("/")).await.unwrap().status()
    }
}

fn spawn(folder: &Path, plane: &ControlPlane, place: u8, more: &[(&str, String)]) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap();
    let identity = "web.shop.serviceaccount.identity.linkerd.cluster.local";
    let mut command = Command::new(linkerd_tests::binary("linkerd-proxy"));
    let (clients, application) = (clients(place), application(place));
    let own = |port: u16| format!("127.77.{place}.2:{port}");
    for (name, value) in [
        ("IDENTITY_DIR", folder.display().to_string()),
        (
            "IDENTITY_TOKEN_FILE",
            folder.join("token").display().to_string(),
        ),
        ("IDENTITY_TRUST_ANCHORS", plane.trust_anchors()),
        ("IDENTITY_LOCAL_NAME", identity.to_owned()),
        ("IDENTITY_SVC_ADDR", plane.identity.to_string()),
        ("POLICY_SVC_ADDR", plane.policy.to_string()),
        ("POLICY_WORKLOAD", r#"{"ns":"shop","pod":"web"}"#.to_owned()),
        ("DESTINATION_SVC_ADDR", plane.destination.to_string()),
        ("INBOUND_DEFAULT_POLICY", "deny".to_owned()),
        ("INBOUND_PORTS", "8080".to_owned()),
        ("INBOUND_LISTEN_ADDR", own(4143)),
        ("INBOUND_LISTENERS", format!("{clients}={application}")),
        ("OUTBOUND_LISTEN_ADDRS", own(4140)),
        ("ADMIN_LISTEN_ADDR", own(4191)),
    ]
    .into_iter()
    .chain(more.iter().cloned())
    {
        command.env(format!("LINKERD2_PROXY_{name}"), value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(log).spawn().unwrap()
}

#[tokio::test]
async fn a_pods_sidecar_is_certified_by_its_account_and_enforces_what_is_applied() {
    let Some((api, plane)) = shop().await else {
        return;
    };
    let sidecar = Sidecar::start(&api, &plane, 3).await;
    sidecar.becomes(200).await;
    let access = |policy: &str| server("web", &json!({"accessPolicy": policy, "podSelector": {}}));
    api.apply(&access("deny")).await;
    sidecar.becomes(403).await;
    api.apply(&access("all-unauthenticated")).await;
    sidecar.becomes(200).await;
    api.apply(&access("all-authenticated")).await;
    sidecar.becomes(403).await;
    api.delete(&access("deny")).await;
    sidecar.becomes(200).await;
    let (_, metrics) = page(sidecar.admin(), "/metrics").await.unwrap();
    assert!(metrics.contains(r#"srv_name="web""#), "{metrics}");
}
