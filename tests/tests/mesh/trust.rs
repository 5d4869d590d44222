//! Trust anchors that are rotated while two sidecars talk: the walk of docs/trust.md.

use crate::{
    authorization::{authorize, server},
    harness::{Mesh, Sidecar, eventually, get, identity, one_http1, within},
    origin,
};
use linkerd_controller::authority::IssuerFiles;
use linkerd_tls::{
    Id, KeyMaterial, LocalIdentity, TrustAnchors,
    ca::{Ca, CaPem},
};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpStream, task::JoinHandle};

/// Files that are swapped all at once, as a kubelet does it with those of a Secret or ConfigMap: each is a link into
/// `..data`, which is a link to the version of the moment.
pub(crate) struct Volume {
    folder: tempfile::TempDir,
    versions: u32,
}

impl Volume {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            folder,
            versions: 0,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&mut self, files: &[(&str, &str)]) {
        self.versions += 1;
        let version = format!("..{}", self.versions);
        fs::create_dir(self.path(&version)).unwrap();
        for (name, text) in files {
            let path = self.path(&version).join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        symlink(&version, self.path("..new")).unwrap();
        fs::rename(self.path("..new"), self.path("..data")).unwrap();
        for (name, _) in files {
            if !self.path(name).exists() {
                symlink(Path::new("..data").join(name), self.path(name)).unwrap();
            }
        }
    }
}

/// Connections that `api` makes to `web`, one after another, each with a handshake of its own between the sidecars.
pub(crate) struct Traffic {
    good: Arc<AtomicU64>,
    task: JoinHandle<String>,
}

impl Traffic {
    pub(crate) fn start(listener: SocketAddr) -> Self {
        let good = Arc::new(AtomicU64::new(0));
        let counted = good.clone();
        let task = tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_millis(20));
            loop {
                every.tick().await;
                let stream = TcpStream::connect(listener).await.unwrap();
                match one_http1(stream, get("/")).await {
                    Ok(response) if response.status() == 200 => {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(response) => return format!("{response:?}"),
                    Err(error) => return error.to_string(),
                }
            }
        });
        Self { good, task }
    }

    /// Waits for so many good requests from now on.
    pub(crate) async fn go_on(&mut self, requests: u64) {
        let until = self.good.load(Ordering::Relaxed) + requests;
        let done = within("requests", async {
            tokio::select! {
                failure = &mut self.task => Err(failure.unwrap()),
                () = eventually("requests", async || {
                    (self.good.load(Ordering::Relaxed) >= until).then_some(())
                }) => Ok(()),
            }
        });
        if let Err(failure) = done.await {
            panic!("a request failed: {failure}");
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A metric of an admin server: the sum of the series whose labels contain `label`.
pub(crate) async fn metric(admin: SocketAddr, name: &str, label: &str) -> f64 {
    let Some((_, page)) = linkerd_tests::page(admin, "/metrics").await else {
        return 0.0;
    };
    let lines = page.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
    });
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

struct World {
    mesh: Mesh,
    _api: Sidecar,
    admins: [SocketAddr; 2],
    listener: SocketAddr,
    bundle: Volume,
    issuer: Volume,
}

/// A root, and what it signs with.
fn authority(name: &str, days: u64) -> CaPem {
    let root = Ca::create(name).unwrap();
    let lifetime = Duration::from_secs(days * 86_400);
    root.create_issuer("issuer", lifetime).unwrap().to_pem()
}

async fn start(old: &CaPem) -> World {
    let clients = format!(
        "MeshTLSAuthentication {{identities: ['{}']}}",
        identity("api")
    );
    let policy = server("proxyProtocol: unknown")
        + &authorize("clients", "Server", "web-http", &clients)
        + "---
apiVersion: v1
kind: Service
metadata: {name: bytes, namespace: shop, annotations: {config.linkerd.io/opaque-ports: '80,8080'}}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
";
    let (mut bundle, mut issuer) = (Volume::new(), Volume::new());
    bundle.write(&[("ca-bundle.crt", &old.anchors)]);
    issuer.write(&[("crt.pem", &old.certificates), ("key.pem", &old.key)]);
    let mut mesh = Mesh::without_proxy(&policy);
    mesh.config.issuer = Some(IssuerFiles {
        certificate: issuer.path("crt.pem"),
        key: issuer.path("key.pem"),
        anchors: bundle.path("ca-bundle.crt"),
    });
    mesh.config.issuance_lifetime = Duration::from_secs(6);
    mesh.config.clock_skew = Duration::from_secs(1);
    mesh.config.rescan = Duration::from_millis(200);
    mesh.start_controller();
    let file = bundle.path("ca-bundle.crt").display().to_string();
    let anchors = [
        ("IDENTITY_TRUST_ANCHORS_FILE", &*file),
        ("IDENTITY_TRUST_ANCHORS", ""),
    ];
    mesh.spawn_proxy(&anchors);
    mesh.ready().await;
    let listener = SocketAddr::new(mesh.ip(6), 9000);
    let target = format!("{listener}=bytes.shop.svc.cluster.local:80");
    let variables = [&anchors[..], &[("OUTBOUND_LISTENERS", &*target)]].concat();
    let api = mesh.peer("api", 6, &variables).await;
    World {
        admins: [mesh.admin(), SocketAddr::new(mesh.ip(6), 4191)],
        mesh,
        _api: api,
        listener,
        bundle,
        issuer,
    }
}

impl World {
    /// Waits until the control plane and both sidecars have the anchors that were written last.
    async fn anchors_are(&self, changes: f64, subjects: &[(&str, bool)]) {
        let controller = (
            self.mesh.config.admin_addr,
            "controller_trust_anchor_expiration_timestamp_seconds",
        );
        let proxies = "control_identity_trust_anchor_expiration_timestamp_seconds";
        let all = self.admins.map(|admin| (admin, proxies));
        for (admin, name) in all.into_iter().chain([controller]) {
            for (subject, is_in_use) in subjects {
                eventually("the anchors", async || {
                    let label = format!("anchor=\"CN={subject}\"");
                    let expiry = metric(admin, name, &label).await;
                    ((expiry > 0.0) == *is_in_use).then_some(())
                })
                .await;
            }
        }
        let counted = "control_identity_trust_anchor_changes_total";
        for admin in self.admins {
            let ok = metric(admin, counted, "result=\"ok\"").await;
            assert!((ok - changes).abs() < f64::EPSILON, "{ok}");
        }
    }

    /// Waits until each sidecar has been certified twice more: the first of the two may have been on its way.
    async fn recertified(&self) {
        let name = "control_identity_cert_refreshes_total";
        for admin in self.admins {
            let before = metric(admin, name, "result=\"ok\"").await;
            eventually("certificates", async || {
                let now = metric(admin, name, "result=\"ok\"").await;
                (now >= before + 2.0).then_some(())
            })
            .await;
        }
    }

    /// Whether `web` serves a client that was certified by `ca` and believes `anchors`.
    async fn serves(&self, ca: &CaPem, anchors: &str) -> bool {
        let ca = Ca::load_with_anchors(&ca.certificates, &ca.key, &ca.anchors).unwrap();
        let id = identity("api");
        let key = KeyMaterial::create(&id).unwrap();
        let hour = Duration::from_secs(3600);
        let issued = ca.issue(key.csr(), &id, hour, hour).unwrap();
        let own = ca.anchors().clone();
        let client = LocalIdentity::new(id.parse().unwrap(), &id, key, own).unwrap();
        client
            .install(issued.leaf_der, issued.chain, issued.not_after)
            .unwrap();
        // It may believe others than those that its own certificate leads to.
        let _ = client.trust(TrustAnchors::from_pem(anchors).unwrap());
        let stream = self.mesh.connect_from(5, self.mesh.web()).await;
        let web: Id = identity("web").parse().unwrap();
        let config = client.client_config();
        let connected = linkerd_tls::connect(&config, stream, web.as_str(), &web, None).await;
        let answer = match connected {
            Ok(stream) => one_http1(stream, get("/"))
                .await
                .map(|response| response.status().as_u16())
                .map_err(|error| format!("{error:?}")),
            Err(error) => Err(error.to_string()),
        };
        // Shown where a test fails.
        eprintln!("{answer:?}");
        answer == Ok(200)
    }
}

#[tokio::test]
async fn trust_anchors_are_rotated_under_traffic_without_a_failed_request() {
    let (old, new) = (authority("old", 300), authority("new", 200));
    let mut world = start(&old).await;
    let _origin = origin::echo(world.mesh.origin()).await;
    let mut traffic = Traffic::start(world.listener);
    traffic.go_on(20).await;
    assert!(world.serves(&old, &old.anchors).await);
    assert!(
        !world.serves(&new, &old.anchors).await,
        "not in the bundle yet"
    );

    // 1. The new anchor is added.
    let both = format!("{}{}", old.anchors, new.anchors);
    world.bundle.write(&[("ca-bundle.crt", &both)]);
    world
        .anchors_are(1.0, &[("old", true), ("new", true)])
        .await;
    traffic.go_on(20).await;
    assert!(
        world.serves(&new, &old.anchors).await,
        "web is certified by the old issuer"
    );

    // 2. A new issuer below it.
    let keys = [("crt.pem", &*new.certificates), ("key.pem", &*new.key)];
    world.issuer.write(&keys);
    eventually("the new issuer", async || {
        let name = "controller_issuer_expiration_timestamp_seconds";
        let ends = metric(world.mesh.config.admin_addr, name, "").await;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let left = metric(world.mesh.config.admin_addr, "issuer_cert_ttl_seconds", "").await;
        let is_same = (ends - now.as_secs_f64() - left).abs() < 60.0;
        (ends < now.as_secs_f64() + 250.0 * 86_400.0 && is_same).then_some(())
    })
    .await;
    world.recertified().await;
    traffic.go_on(20).await;
    assert!(
        world.serves(&old, &new.anchors).await,
        "web is certified by the new issuer"
    );

    // 3. The old anchor goes.
    world.bundle.write(&[("ca-bundle.crt", &new.anchors)]);
    world
        .anchors_are(2.0, &[("old", false), ("new", true)])
        .await;
    world.recertified().await;
    traffic.go_on(20).await;
    assert!(world.serves(&new, &new.anchors).await);
    assert!(
        !world.serves(&old, &new.anchors).await,
        "the old authority is nobody"
    );
}

#[tokio::test]
async fn anchors_that_are_of_no_use_change_nothing_and_are_told_of() {
    let old = authority("old", 300);
    let mut world = start(&old).await;
    let _origin = origin::echo(world.mesh.origin()).await;
    let mut traffic = Traffic::start(world.listener);
    world.bundle.write(&[("ca-bundle.crt", "garbage")]);
    for admin in world.admins {
        eventually("the refusal", async || {
            let name = "control_identity_trust_anchor_changes_total";
            (metric(admin, name, "result=\"error\"").await > 0.0).then_some(())
        })
        .await;
    }
    let said = world.mesh.said();
    assert!(said.contains("IDENTITY_TRUST_ANCHORS_FILE"), "{said}");
    world.recertified().await;
    traffic.go_on(20).await;
}
