//! A real API server for one test or measurement: etcd, kube-apiserver and kube-controller-manager on loopback, with a CA of their own
//! and nothing kept afterwards. There is no kubelet; tests say what a Pod's status is.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    missing_debug_implementations,
    reason = "what uses it ends where it cannot go on"
)]

use crate::{eventually, free_port};
use http::Request;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use serde_json::{Value, json};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// The token of the administrator: good for one server, on loopback.
const ADMIN: &str = "the-administrator-of-this-test";

/// Programs that are built by `cargo xtask tools`.
const PROGRAMS: [&str; 3] = ["etcd", "kube-apiserver", "kube-controller-manager"];

/// Only controllers that make sense without nodes.
const CONTROLLERS: &str = "serviceaccount-controller,root-ca-certificate-publisher-controller,namespace-controller,\
                           garbage-collector-controller,endpointslice-controller,deployment-controller,\
                           replicaset-controller,clusterrole-aggregation-controller";

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The API server and what it needs.
pub struct ApiServer {
    folder: TempDir,
    port: u16,
    etcd_port: u16,
    pub client: Client,
    server: Option<Process>,
    _manager: Option<Process>,
    etcd: Option<Process>,
}

impl ApiServer {
    /// Starts one that knows the mesh's kinds; `None`, said loudly, where its programs are not there.
    pub async fn start() -> Option<Self> {
        let server = Self::bare().await?;
        for definition in linkerd_policy::crd::definitions() {
            server.apply(&definition).await;
        }
        server.defined().await;
        Some(server)
    }

    /// Starts one that knows nothing of the mesh.
    pub async fn bare() -> Option<Self> {
        for program in PROGRAMS {
            if find(program).is_none() {
                let what =
                    format!("a real API server: {program} is missing: run cargo xtask tools");
                crate::skipped(&what);
                return None;
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let (port, etcd_port) = (free_port(), free_port());
        let ca = write_keys(folder.path());
        fs::write(
            folder.path().join("tokens.csv"),
            format!("{ADMIN},admin,admin,system:masters\n"),
        )
        .unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": folder.path().join("ca.crt"),
            }}],
            "users": [{"name": "admin", "user": {"token": ADMIN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        });
        let path = folder.path().join("kubeconfig");
        fs::write(&path, kubeconfig.to_string()).unwrap();
        drop(ca);
        let config = Kubeconfig::read_from(&path).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(config, &options).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        let etcd = start_etcd(folder.path(), etcd_port);
        let mut server = Self {
            folder,
            port,
            etcd_port,
            client,
            server: None,
            _manager: None,
            etcd: Some(etcd),
        };
        server.start_server().await;
        server.start_manager().await;
        Some(server)
    }

    /// The key that tokens of ServiceAccounts are signed with, PEM.
    pub fn accounts_key(&self) -> String {
        fs::read_to_string(self.folder.path().join("accounts.key")).unwrap()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn spawn(&self, program: &str, words: &[String]) -> Process {
        start(self.folder.path(), program, words)
    }

    /// Starts the API server, or starts it again after [`ApiServer::kill`]: what it knew is in etcd.
    pub async fn start_server(&mut self) {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let words = [
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            // Never contacted: there is no other server.
            "--advertise-address=192.0.2.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--cert-dir={}", self.folder.path().display()),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            // Services have an address of the first, and of the second where they ask for it.
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!(
                "--service-account-signing-key-file={}",
                file("accounts.key")
            ),
            "--profiling=false".to_owned(),
            "--shutdown-delay-duration=0s".to_owned(),
        ];
        self.server = Some(self.spawn("kube-apiserver", &words));
        eventually("the API server", async || {
            let ready = Request::get("/readyz").body(Vec::new()).unwrap();
            self.client.request_text(ready).await.ok()
        })
        .await;
    }

    /// Ends etcd without a goodbye and starts it again with what it had.
    pub fn restart_etcd(&mut self) {
        self.etcd = None;
        self.etcd = Some(start_etcd(self.folder.path(), self.etcd_port));
    }

    /// Ends the API server without a goodbye.
    pub fn kill(&mut self) {
        self.server = None;
    }

    async fn start_manager(&mut self) {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let words = [
            format!("--kubeconfig={}", file("kubeconfig")),
            "--bind-address=127.0.0.1".to_owned(),
            "--secure-port=0".to_owned(),
            "--leader-elect=false".to_owned(),
            format!(
                "--service-account-private-key-file={}",
                file("accounts.key")
            ),
            format!("--root-ca-file={}", file("ca.crt")),
            format!("--controllers={CONTROLLERS}"),
        ];
        self._manager = Some(self.spawn("kube-controller-manager", &words));
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        eventually("the default ServiceAccount", async || {
            self.get(account).await
        })
        .await;
    }

    /// Waits until the mesh's kinds are served.
    pub async fn defined(&self) {
        for definition in linkerd_policy::crd::definitions() {
            let spec = &definition["spec"];
            let version = spec["versions"].as_array().unwrap().last().unwrap();
            let list = format!(
                "/apis/{}/{}/{}",
                text(&spec["group"]),
                text(&version["name"]),
                text(&spec["names"]["plural"])
            );
            eventually(&list, async || self.get(&list).await).await;
        }
    }

    /// What the API server warns of when an object is applied.
    pub async fn warnings(&self, object: &Value) -> Vec<String> {
        let request = apply_request(&path(object), object);
        let request = request.map(kube::client::Body::from);
        let response = self.client.send(request).await.unwrap();
        assert!(response.status().is_success(), "{}", response.status());
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        warnings.collect()
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        let request = Request::get(path).body(Vec::new()).unwrap();
        self.client.request(request).await.ok()
    }

    /// Applies an object as `kubectl apply --server-side` does.
    pub async fn apply(&self, object: &Value) -> Value {
        self.try_apply(object).await.unwrap()
    }

    pub async fn try_apply(&self, object: &Value) -> Result<Value, kube::Error> {
        self.patch(&path(object), object).await
    }

    /// Changes fields of an object; `null` takes one away.
    pub async fn merge(&self, path: &str, change: &Value) {
        let request = Request::patch(path).header("content-type", "application/merge-patch+json");
        let request = request.body(change.to_string().into_bytes()).unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    /// Says what a Pod's status is, as its kubelet would.
    pub async fn set_status(&self, object: &Value) {
        let path = format!("{}/status", path(object));
        self.patch(&path, object).await.unwrap();
    }

    /// Replaces an object that has not changed since it was read.
    pub async fn replace(&self, object: &Value) {
        self.put(&path(object), object).await;
    }

    /// Replaces the status of an object, as a controller would.
    pub async fn replace_status(&self, object: &Value) {
        self.put(&format!("{}/status", path(object)), object).await;
    }

    async fn put(&self, path: &str, object: &Value) {
        let request = Request::put(path).header("content-type", "application/json");
        let request = request.body(object.to_string().into_bytes()).unwrap();
        let _: Value = self.client.request(request).await.unwrap();
    }

    async fn patch(&self, path: &str, object: &Value) -> Result<Value, kube::Error> {
        self.client.request(apply_request(path, object)).await
    }

    /// Deletes an object at once.
    pub async fn delete(&self, object: &Value) {
        let request = Request::delete(format!("{}?gracePeriodSeconds=0", path(object)));
        let request = request.body(Vec::new()).unwrap();
        self.client.request_text(request).await.unwrap();
    }

    /// A token of a ServiceAccount, for an audience.
    pub async fn token(&self, namespace: &str, account: &str, audience: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience]},
        });
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(body.to_string().into_bytes()).unwrap();
        let answer: Value = self.client.request(request).await.unwrap();
        text(&answer["status"]["token"]).to_owned()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn apply_request(path: &str, object: &Value) -> Request<Vec<u8>> {
    Request::patch(format!("{path}?fieldManager=test&force=true"))
        .header("content-type", "application/apply-patch+yaml")
        .body(object.to_string().into_bytes())
        .unwrap()
}

/// Where an object is.
pub fn path(object: &Value) -> String {
    let version = text(&object["apiVersion"]);
    let base = if version.contains('/') { "apis" } else { "api" };
    let kind = text(&object["kind"]).to_lowercase();
    let plural = match kind.as_str() {
        kind if kind.ends_with("policy") => format!("{}ies", kind.trim_end_matches('y')),
        kind => format!("{kind}s"),
    };
    let name = text(&object["metadata"]["name"]);
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{base}/{version}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("/{base}/{version}/{plural}/{name}"),
    }
}

pub fn find(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::home_dir().map(|home| home.join(".cache/linkerd-workspace/bin"));
    let mut all = std::env::split_paths(&paths).chain(cache);
    all.find_map(|folder| Some(folder.join(program)).filter(|path| path.is_file()))
}

fn start(folder: &Path, program: &str, words: &[String]) -> Process {
    let log = fs::File::create(folder.join(format!("{program}.log"))).unwrap();
    let child = Command::new(find(program).unwrap())
        .args(words)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    Process(child.unwrap())
}

fn start_etcd(folder: &Path, port: u16) -> Process {
    let (client, peer) = (
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{}", free_port()),
    );
    let words = [
        "--name=test".to_owned(),
        format!("--data-dir={}", folder.join("etcd").display()),
        // The data is thrown away.
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=test={peer}"),
    ];
    start(folder, "etcd", &words)
}

/// A CA, the server's certificate, and the key of service accounts.
fn write_keys(folder: &Path) -> Issuer<'static, KeyPair> {
    let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test");
    let key = KeyPair::generate().unwrap();
    write("ca.crt", params.self_signed(&key).unwrap().pem());
    let ca = Issuer::new(params, key);
    let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    write("server.crt", params.signed_by(&key, &ca).unwrap().pem());
    write("server.key", key.serialize_pem());
    let accounts = KeyPair::generate().unwrap();
    write("accounts.key", accounts.serialize_pem());
    write("accounts.pub", accounts.public_key_pem());
    ca
}
